//! From what a window measured to what is shown: one refresh after the other.

mod lines;
mod names;
mod samples;

use std::{
    collections::VecDeque,
    mem,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use profiler_common::stats::{COUNTERS, Counter};
use rustc_hash::{FxHashMap, FxHashSet};

use self::{lines::Lines, names::Names, samples::Texts};
use super::{
    facts::{Facts, Machine, Reader},
    snapshot::{Cost, Looks, Process, Samples, Snapshot, Split, Thread, ThreadTime},
};
use crate::{
    cost,
    instruments::measured::Measured,
    name::Namer,
    report::waits::ThreadTime as Account,
    session::live::{Seen, Walked},
    summary::many,
    waits::cause::Cause,
    wall::Clocks,
};

/// What samples say is said of the last so long: they are few.
pub const SPAN: Duration = Duration::from_secs(10);
/// Growth is told over so long at most, and not of less than this.
const GROWTH_SPAN: Duration = Duration::from_secs(60);
const LEAST_GROWTH_SPAN: Duration = Duration::from_secs(5);
/// What a process runs may change, as a worker's title does after the fork; later that is rare, and reading it takes five
/// files.
const NAMED_FOR: Duration = Duration::from_secs(10);
const KNOWN_NAMED_FOR: Duration = Duration::from_secs(60);
/// So often it is read at the shorter interval.
const NEWLY_NAMED: u32 = 3;

const PROC: &str = "/proc";

/// A window, and what was looked at beside it.
pub struct Look {
    pub seen: Seen,
    pub gil: FxHashMap<u32, Looks>,
    /// Windows before it that nobody has had time for.
    pub left_out: u64,
}

pub struct Digest {
    period_ns: u64,
    /// Processes that are no Python are shown, too: they were named.
    shows_all: bool,
    namer: Namer,
    machine: Machine,
    facts: Reader,
    windows: VecDeque<Arc<Samples>>,
    texts: Texts,
    lines: Lines,
    known: FxHashMap<(u32, u64), Known>,
    /// When clocks were read.
    taken: Instant,
    cpu: Duration,
    run_time_ns: u64,
    lost: [u64; LOSSES.len()],
}

/// What is remembered of a process.
struct Known {
    name: String,
    place: String,
    user: String,
    named: Instant,
    times_named: u32,
    resident: VecDeque<(Instant, u64)>,
    gil: VecDeque<Looks>,
    /// CPU time by its clock, where there are no accounts.
    cpu: Duration,
}

impl Known {
    /// How long its name is believed.
    fn named_for(&self) -> Duration {
        match self.times_named <= NEWLY_NAMED {
            true => NAMED_FOR,
            false => KNOWN_NAMED_FOR,
        }
    }
}

/// What can be lost, and what is then missing.
const LOSSES: [(Counter, &str, &str); 3] = [
    (Counter::LostRingFull, "stack", "lost, the ring buffer was full"),
    (Counter::LostWaits, "wait", "without a stack"),
    (Counter::LostThreads, "thread", "not accounted for, there was no room"),
];

/// What a window has of processes, by pid.
#[derive(Default)]
struct Measures {
    accounts: Vec<Account>,
    switches: FxHashMap<u32, u64>,
    has_accounts: bool,
    samples: Samples,
}

impl Digest {
    pub fn new(period_ns: u64, shows_all: bool) -> Self {
        let mut machine = Machine::default();
        machine.look(Path::new(PROC));
        Self {
            period_ns,
            shows_all,
            namer: Namer::light(),
            machine,
            facts: Reader::default(),
            windows: VecDeque::new(),
            texts: Texts::default(),
            lines: Lines::default(),
            known: FxHashMap::default(),
            taken: Instant::now(),
            cpu: cost::cpu_time(),
            run_time_ns: 0,
            lost: [0; LOSSES.len()],
        }
    }

    /// What is known of processes before anything was measured: where growth begins.
    pub fn begin(&mut self, pids: impl Iterator<Item = u32>) {
        let now = Instant::now();
        for pid in pids {
            if let Some(facts) = self.facts.read(Path::new(PROC), pid) {
                self.know(pid, &facts, now);
            }
        }
    }

    pub fn take(&mut self, look: Look) -> Snapshot {
        let Look { seen, gil, left_out } = look;
        // What clocks say is of the time since they were read, whatever was left out in between.
        let since = self.taken.elapsed();
        self.taken = Instant::now();
        let Seen {
            mut window,
            measured,
            counters,
            not_unwound,
            length,
            ended,
            processes,
        } = seen;
        let mut notes = Vec::new();
        if left_out > 0 {
            notes.push(format!(
                "{} left out, naming took too long (-d 2s looks less often)",
                many(left_out, "screen")
            ));
        }
        let measures = self.measure(&mut window, measured, length, &mut notes);
        notes.extend(self.losses(&counters));
        if not_unwound > 0 {
            let files = many(not_unwound, "file");
            notes.push(format!(
                "no room for unwind tables of {files}: native frames are missing"
            ));
        }
        let Measures {
            accounts,
            switches,
            has_accounts,
            samples,
        } = measures;
        self.lines.add(&samples);
        self.windows.push_back(Arc::new(samples));
        while self.windows.len() > 1
            && self
                .windows
                .iter()
                .skip(1)
                .map(|window| window.length)
                .sum::<Duration>()
                >= SPAN
        {
            if let Some(old) = self.windows.pop_front() {
                self.lines.remove(&old);
            }
        }
        let mut by_process: FxHashMap<u32, Vec<Account>> = FxHashMap::default();
        for account in accounts {
            by_process.entry(account.pid).or_default().push(account);
        }
        let mut splits: FxHashMap<u32, Split> = FxHashMap::default();
        for (pid, split) in self.windows.iter().flat_map(|window| &window.splits) {
            splits.entry(*pid).or_default().add(split);
        }
        let windows: Vec<Arc<Samples>> = self.windows.iter().cloned().collect();
        let lines = mem::take(&mut self.lines);

        let mut rows = Vec::new();
        let mut living = FxHashSet::default();
        for (pid, walked) in processes {
            if walked == Walked::No && !self.shows_all {
                continue;
            }
            let Some(facts) = self.facts.read(Path::new(PROC), pid) else {
                continue;
            };
            let key = (pid, facts.stat.began_ticks());
            living.insert(key);
            let before = self.known.get(&key).map(|known| known.cpu);
            let known = self.know(pid, &facts, ended);
            if let Some(looks) = gil.get(&pid) {
                known.gil.push_back(*looks);
            }
            let accounts = by_process.remove(&pid).unwrap_or_default();
            let mut time = ThreadTime::default();
            let threads: Vec<Thread> = accounts
                .iter()
                .map(|account| {
                    let own = ThreadTime {
                        elapsed: account.elapsed_ns,
                        on_cpu: account.on_cpu_ns,
                        waiting: account.waiting_ns,
                    };
                    time.add(&own);
                    Thread {
                        tid: account.tid,
                        name: account.name.clone(),
                        time: own,
                        line: lines.of_thread(pid, account.tid),
                    }
                })
                .collect();
            let seconds = length.as_secs_f64().max(1e-9);
            let cpu_ns = match has_accounts {
                true => time.on_cpu as f64,
                false => facts
                    .stat
                    .cpu_time()
                    .saturating_sub(before.unwrap_or_default())
                    .div_f64(since.as_secs_f64().max(1e-9))
                    .mul_f64(seconds)
                    .as_nanos() as f64,
            };
            let waits_for_gil = time.waiting[Cause::Gil.index()];
            let has_gil = !known.gil.is_empty();
            rows.push(Process {
                pid,
                name: known.name.clone(),
                place: known.place.clone(),
                user: known.user.clone(),
                refused: match walked {
                    Walked::Refused(reason) => Some(reason),
                    Walked::No => Some("it runs no CPython".to_owned()),
                    Walked::Yes => None,
                },
                cpu_percent: 100.0 * cpu_ns / 1e9 / seconds,
                split: splits.remove(&pid).unwrap_or_default(),
                gil_held: held(&known.gil),
                gil_waited: (has_accounts && has_gil).then_some(100.0 * waits_for_gil as f64 / 1e9 / seconds),
                time,
                resident: facts.stat.resident_bytes(),
                growth: growth(&known.resident),
                threads: facts.stat.threads(),
                descriptors: facts.descriptors,
                switches: has_accounts.then(|| switches.get(&pid).copied().unwrap_or(0) as f64 / seconds),
                line: lines.of_process(pid),
                rows: threads,
            });
        }
        self.lines = lines;
        self.texts.tidy();
        self.known.retain(|key, _| living.contains(key));
        let living: FxHashSet<u32> = living.into_iter().map(|(pid, _)| pid).collect();
        self.facts.keep(|pid| living.contains(&pid));
        for known in self.known.values_mut() {
            while known.gil.len() > windows.len() {
                known.gil.pop_front();
            }
        }
        notes.extend(window.refused_maps.iter().take(3).cloned());
        Snapshot {
            length,
            host: self.machine.look(Path::new(PROC)),
            cost: self.cost(&counters, since),
            instruments: Vec::new(),
            notes,
            processes: rows,
            windows,
            period_ns: self.period_ns,
        }
    }

    /// Gives what was measured names.
    fn measure(
        &mut self,
        window: &mut crate::window::Window,
        measured: Measured,
        length: Duration,
        notes: &mut Vec<String>,
    ) -> Measures {
        let mut measures = Measures {
            samples: Samples {
                length,
                ..Samples::default()
            },
            ..Measures::default()
        };
        match measured {
            Measured::Wall { period_ns, waits } => {
                for ended in &waits.ended {
                    let count: u64 = ended.slot.sums.iter().map(|sum| sum.count).sum();
                    *measures.switches.entry(ended.slot.shown_pid).or_default() += count;
                }
                let (cpu, mut warned) = self.namer.name(window, period_ns);
                let (report, of_waits) = waits.report(window, &mut self.namer, length);
                warned.extend(of_waits);
                warned.dedup();
                notes.extend(warned.into_iter().take(3));
                let clocks = Clocks::new(&cpu, &report.threads, period_ns);
                let Self { texts, .. } = self;
                samples::take_cpu(
                    &cpu,
                    |labels| clocks.ns_per_sample(labels),
                    texts,
                    &mut measures.samples,
                );
                samples::take_waits(&report, &clocks, texts, &mut measures.samples);
                measures.has_accounts = true;
                measures.accounts = report.threads;
            }
            Measured::Samples { period_ns } => {
                let (cpu, warned) = self.namer.name(window, period_ns);
                notes.extend(warned.into_iter().take(3));
                samples::take_cpu(&cpu, |_| period_ns as f64, &mut self.texts, &mut measures.samples);
            }
            // It is not what was asked for.
            Measured::Memory(_) | Measured::Waits(_) | Measured::Several(_) => {}
        }
        measures
    }

    fn losses(&mut self, counters: &[u64; COUNTERS]) -> Vec<String> {
        let mut lines = Vec::new();
        for ((counter, what, how), before) in LOSSES.into_iter().zip(&mut self.lost) {
            let now = counters[counter as usize];
            let lost = now.saturating_sub(mem::replace(before, now));
            if lost > 0 {
                lines.push(format!("{} {how}", many(lost, what)));
            }
        }
        lines
    }

    fn cost(&mut self, counters: &[u64; COUNTERS], length: Duration) -> Cost {
        let percent = |ns: f64| 100.0 * ns / 1e9 / length.as_secs_f64().max(1e-9);
        let cpu = cost::cpu_time();
        let used = cpu.saturating_sub(mem::replace(&mut self.cpu, cpu));
        let run_time_ns = counters[Counter::RunTimeNs as usize];
        let ran = run_time_ns.saturating_sub(mem::replace(&mut self.run_time_ns, run_time_ns));
        Cost {
            user_percent: percent(used.as_nanos() as f64),
            kernel_percent: percent(ran as f64),
            resident: cost::resident_bytes().0,
        }
    }

    fn know(&mut self, pid: u32, facts: &Facts, now: Instant) -> &mut Known {
        let key = (pid, facts.stat.began_ticks());
        let is_old = |known: &Known| now.saturating_duration_since(known.named) >= known.named_for();
        let named = self.known.get(&key).is_none_or(is_old).then(|| Names::of(pid));
        let known = self.known.entry(key).or_insert_with(|| Known {
            name: String::new(),
            place: String::new(),
            user: String::new(),
            named: now,
            times_named: 0,
            resident: VecDeque::new(),
            gil: VecDeque::new(),
            cpu: Duration::ZERO,
        });
        if let Some(Names { name, place, user }) = named {
            (known.name, known.place, known.user, known.named) = (name, place, user, now);
            known.times_named = known.times_named.saturating_add(1);
        }
        known.cpu = facts.stat.cpu_time();
        known.resident.push_back((now, facts.stat.resident_bytes()));
        while known.resident.len() > 2
            && (known.resident.get(1)).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= GROWTH_SPAN)
        {
            known.resident.pop_front();
        }
        known
    }
}

/// Percent of the time, and its error.
fn held(looks: &VecDeque<Looks>) -> Option<(f64, f64)> {
    let mut all = Looks::default();
    looks.iter().for_each(|looks| all.join(looks));
    let (share, error) = all.share()?;
    Some((100.0 * share, 100.0 * error))
}

/// Bytes a minute.
fn growth(resident: &VecDeque<(Instant, u64)>) -> Option<(f64, Duration)> {
    let ((from, before), (to, now)) = (resident.front()?, resident.back()?);
    let span = to.saturating_duration_since(*from);
    (span >= LEAST_GROWTH_SPAN).then(|| ((*now as f64 - *before as f64) * 60.0 / span.as_secs_f64(), span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::live::COUNTED;

    #[test]
    fn what_is_told_of_the_kernel_sides_counters_is_read() {
        let told = LOSSES
            .map(|(counter, ..)| counter)
            .into_iter()
            .chain([Counter::RunTimeNs]);
        for counter in told {
            assert!(COUNTED.contains(&counter), "{counter:?}");
        }
    }
}
