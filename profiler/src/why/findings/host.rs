//! What the machine withholds: CPUs, its quota of them, pages.

use super::case::{Case, named, percent, time};
use crate::{
    humanize::{bytes, count},
    waits::cause::Cause,
    why::{
        Finding, Kind, Severity,
        evidence::{Busy, Process, Role},
    },
};

/// From this part of what was lost on, it is said what it was lost to.
const MOST_OF_IT: f64 = 0.5;
/// Programs that are named.
const MOST_NAMED: usize = 3;
/// And the least that they had, of a CPU.
const LEAST_NAMED: f64 = 0.05;
/// With fewer throttled periods the quota is not the reason.
const FEW_THROTTLED: f64 = 0.05;

pub fn find(case: &Case<'_>, found: &mut Vec<Finding>) {
    found.extend(without_cpu(case));
    found.extend(faults(case));
}

fn without_cpu(case: &Case<'_>) -> Option<Finding> {
    let process = case.process;
    let ready = process.waited_ns(Role::Ready);
    let share = case.share_of_all(ready);
    let around = &process.around;
    let throttled = match (around.throttled_periods, around.periods) {
        (Some(throttled), Some(periods)) if periods > 0 => throttled as f64 / periods as f64,
        _ => 0.0,
    };
    // What the kernel's queues were held back for, where it can be had (Linux 6.7).
    let held_back = process.waits.iter().filter(|wait| wait.cause == Cause::Throttled);
    let held_back: u64 = held_back.map(|wait| wait.ns).sum();
    let is_throttled = throttled >= FEW_THROTTLED || case.thresholds.severity(case.share_of_all(held_back)).is_some();
    if is_throttled && let Some(finding) = case.finding(Kind::Throttled, share) {
        let quota = around
            .quota
            .map_or(String::new(), |quota| format!(" of {quota:.1} CPUs"));
        let periods = match throttled > 0.0 {
            true => format!(" ({} of the periods)", percent(throttled)),
            false => String::new(),
        };
        return Some(
            finding
                .says(format!(
                    "its cgroup's quota{quota} is spent{periods}: its threads were ready and got no CPU for {} ({} of the \
                     time), {} of that for the quota at least",
                    time(ready),
                    percent(share),
                    time(held_back)
                ))
                .gains(format!("at most {} less time, with a higher cpu.max", percent(share)))
                .by("ready_s", ready as f64 / 1e9)
                .by("throttled_s", held_back as f64 / 1e9)
                .by("throttled_periods", throttled)
                .by("quota_cpus", around.quota.unwrap_or(0.0))
                .next(case.next("record", "-d 30 -o flame.svg")),
        );
    }
    let demand = Demand::of(case);
    let finding = case.finding(Kind::RunQueue, share)?;
    // What is mostly idle is late, and not slow.
    let finding = match case.of_length(process.at_work_ns()) < 1.0 {
        true => finding.no_worse_than(Severity::Medium),
        false => finding,
    };
    let cpus = process.usable_cpus(case.host);
    let finding = finding
        .by("ready_s", ready as f64 / 1e9)
        .by("runnable_threads", demand.own.runnable)
        .by("runnable_of_all_looked_at", demand.all.runnable)
        .by("cpus", cpus)
        .by("cpus_of_others", demand.others_cpus.unwrap_or(f64::NAN))
        .by("idle_cpus", case.host.idle_cpus.unwrap_or(f64::NAN))
        .by("stolen_cpus", case.host.stolen_cpus.unwrap_or(f64::NAN))
        .by("load_per_cpu", case.host.load_per_cpu.unwrap_or(0.0));
    let lost = format!("ready and without a CPU {} of the time", percent(share));
    let (own, all) = (demand.own.runnable, demand.all.runnable);
    Some(if demand.own.are_in_each_others_way(cpus) {
        Finding {
            kind: Kind::Oversubscribed,
            ..finding
        }
        .says(format!(
            "more threads than CPUs: {own:.1} can run at a time, for {cpus:.0} CPUs; they are {lost}"
        ))
        .gains(format!(
            "at most {} less waiting, with fewer threads or more CPUs",
            percent(share)
        ))
        .next(case.next("waits", "-d 10 --by thread"))
    } else if demand.all.are_in_each_others_way(cpus) {
        Finding {
            kind: Kind::Oversubscribed,
            ..finding
        }
        .says(format!(
            "more processes than CPUs: {all:.1} threads of those looked at can run at a time, for {cpus:.0} CPUs; its own are \
             {lost}"
        ))
        .gains(format!("at most {} less waiting, with fewer workers or more CPUs", percent(share)))
        .next("profiler waits -a -d 10 --by process".to_owned())
    } else {
        let (who, gain, next) = demand.who(case);
        finding
            .says(format!("{who}: its threads are {lost}"))
            .gains(format!("at most {} less time, {gain}", percent(share)))
            .by_text("others", busy(case, &|_| true).join(", "))
            .next(next)
    })
}

/// Threads that ran or could have run, on average.
struct Runnable {
    runnable: f64,
    /// Of these, those that had no CPU.
    ready: f64,
}

impl Runnable {
    /// Whether most of them would have no CPU either if there were nobody else.
    fn are_in_each_others_way(&self, cpus: f64) -> bool {
        self.runnable - cpus > MOST_OF_IT * self.ready
    }
}

/// Who wants CPUs.
struct Demand {
    own: Runnable,
    /// All that were looked at.
    all: Runnable,
    /// CPUs that other programs had.
    others_cpus: Option<f64>,
}

impl Demand {
    fn of(case: &Case<'_>) -> Self {
        let of = |processes: &mut dyn Iterator<Item = &Process>| {
            let (mut runnable, mut ready) = (0.0, 0.0);
            for process in processes {
                let waited = case.of_length(process.waited_ns(Role::Ready));
                runnable += case.of_length(process.cpu_ns()) + waited;
                ready += waited;
            }
            Runnable { runnable, ready }
        };
        let own = of(&mut std::iter::once(case.process));
        let used = own.runnable - own.ready;
        let host = case.host;
        Self {
            others_cpus: (host.idle_cpus)
                .map(|idle| (host.cpus as f64 - idle - host.stolen_cpus.unwrap_or(0.0) - used).max(0.0)),
            all: of(&mut case.all.iter()),
            own,
        }
    }

    /// Who has the CPUs, under what condition it would be better, and how to see more.
    fn who(&self, case: &Case<'_>) -> (String, &'static str, String) {
        let pid = case.process.pid;
        let look = "profiler record -a -d 30 -o all.svg".to_owned();
        let is_child = |ancestors: &[u32]| ancestors.contains(&pid);
        let children: f64 = (case.host.busy.iter())
            .filter(|busy| is_child(&busy.ancestors))
            .map(|busy| busy.cpus)
            .sum();
        let idle = case.host.idle_cpus.unwrap_or(0.0);
        let stolen = case.host.stolen_cpus.unwrap_or(0.0);
        let others = self.others_cpus.unwrap_or(0.0);
        // Its threads could have had those.
        if idle >= MOST_OF_IT * self.own.ready && idle > others {
            let (usable, all) = (case.process.usable_cpus(case.host), case.host.cpus);
            let why = match usable < all as f64 {
                true => format!("it may use {usable:.1} of {all} CPUs"),
                false => "a quota that cannot be seen from here may hold it back".to_owned(),
            };
            return (
                format!("{idle:.1} CPUs idle, and {why}"),
                "with more of them",
                case.next("waits", "-d 10 --by thread"),
            );
        }
        if stolen > others.max(children) {
            let who = format!("the machine is a virtual one, and its host has {stolen:.1} of its CPUs");
            return (who, "on a host that is less busy", look);
        }
        if children > MOST_OF_IT * others {
            let named = busy(case, &|busy| is_child(&busy.ancestors)).join(", ");
            let who = format!("its own children have {children:.1} CPUs ({named})");
            return (who, "with fewer of them", format!("profiler why -p {pid} -s"));
        }
        let named = busy(case, &|busy| !is_child(&busy.ancestors));
        let who = match named.is_empty() {
            true => "other programs have the CPUs".to_owned(),
            false => format!(
                "other programs have {others:.1} of {} CPUs ({})",
                case.host.cpus,
                named.join(", ")
            ),
        };
        (who, "on a machine that is less busy", look)
    }
}

/// Programs that had most, by what they are called: `rustc 0.91`.
fn busy(case: &Case<'_>, wanted: &dyn Fn(&Busy) -> bool) -> Vec<String> {
    let mut named: Vec<(&str, f64)> = Vec::new();
    let others = case.host.busy.iter().filter(|busy| busy.pid != case.process.pid);
    for busy in others.filter(|busy| wanted(busy)) {
        match named.iter_mut().find(|(name, _)| *name == busy.name) {
            Some((_, cpus)) => *cpus += busy.cpus,
            None => named.push((&busy.name, busy.cpus)),
        }
    }
    named.sort_by(|a, b| b.1.total_cmp(&a.1));
    let named = named.into_iter().filter(|(_, cpus)| *cpus >= LEAST_NAMED);
    named
        .take(MOST_NAMED)
        .map(|(name, cpus)| format!("{name} {cpus:.1}"))
        .collect()
}

fn faults(case: &Case<'_>) -> Option<Finding> {
    let waited = case.process.waited_ns(Role::Fault);
    let share = case.share(waited);
    let finding = case.finding(Kind::Faults, share)?;
    let around = &case.process.around;
    let waits = case.process.waits.iter().filter(|wait| wait.role == Role::Fault);
    let most = waits.max_by_key(|wait| wait.ns);
    let swapped = around.swapped_bytes.unwrap_or(0);
    let mut sentence = format!(
        "it waits for pages of memory {} of the time ({})",
        percent(share),
        time(waited)
    );
    if let Some(faults) = around.major_faults.filter(|faults| *faults > 0) {
        sentence.push_str(&format!(", {} had to be read from a disk", count(faults)));
    }
    if swapped > 0 {
        sentence.push_str(&format!("; {} of it is swapped out", bytes(swapped)));
    }
    if let Some(wait) = most {
        sentence.push_str(&format!(", most at {}", named(&wait.place)));
    }
    let finding = match most {
        Some(wait) => finding.at(&wait.place),
        None => finding,
    };
    Some(
        finding
            .says(sentence)
            .gains(format!("at most {} less time, with more memory", percent(share)))
            .by("waited_s", waited as f64 / 1e9)
            .by("major_faults", around.major_faults.unwrap_or(0) as f64)
            .by("swapped_bytes", swapped as f64)
            .next(case.next("waits", "-d 10")),
    )
}
