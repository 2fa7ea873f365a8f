//! Memory that becomes more, and memory that comes and goes.

use std::time::Duration;

use super::case::{Case, named, percent};
use crate::{
    humanize::{bytes, duration},
    why::{
        Finding, Kind, Severity,
        evidence::{Memory, Purpose},
    },
};

/// What a process changes by that only idles …
const LEAST_GROWTH: u64 = 2 << 20;
/// … and as part of what it has.
const LEAST_PART: f64 = 0.002;
/// In so many parts of the time it has to grow, to be called growing.
const STEADY: f64 = 0.6;
/// How soon a limit has to be reached to be called that bad.
const SOON: f64 = 10.0 * 60.0;
const THIS_HOUR: f64 = 3600.0;
const FEW_SAMPLES: u64 = 20;
/// Churn: so much more came than stayed.
const CAME_FOR_STAYED: u64 = 4;

pub fn find(case: &Case<'_>, found: &mut Vec<Finding>) {
    let Some(memory) = &case.process.memory else { return };
    found.extend(growth(case, memory));
    found.extend(churn(case, memory));
}

/// Of the steps in which it changed at all, those in which it grew; `None` if there are too few to say.
fn steadiness(memory: &Memory) -> Option<f64> {
    let steps = memory.steps.len();
    (steps >= 4).then(|| memory.steps.iter().filter(|step| **step > 0).count() as f64 / steps as f64)
}

fn growth(case: &Case<'_>, memory: &Memory) -> Option<Finding> {
    let grown = memory.rss_after.saturating_sub(memory.rss_before);
    if memory.started || grown < LEAST_GROWTH || (grown as f64) < LEAST_PART * memory.rss_before as f64 {
        return None;
    }
    let line = memory.lines.first()?;
    let share = (line.live_bytes as f64 / grown as f64).min(1.0);
    let a_second = grown as f64 / (case.length_ns.max(1) as f64 / 1e9);
    // What its cgroup can still have, or else the machine.
    let around = &case.process.around;
    let (left, whose) = match (around.memory_left, case.host.available_bytes) {
        (Some(cgroup), Some(host)) if cgroup <= host => (Some(cgroup), "its cgroup's limit"),
        (Some(cgroup), None) => (Some(cgroup), "its cgroup's limit"),
        (_, host) => (host, "all that the machine has left"),
    };
    let seconds = left.map(|left| left as f64 / a_second);
    let steady = steadiness(memory);
    // Ten seconds do not tell a leak from a cache that fills: how bad it is, the limit says.
    let worst = match (seconds, steady) {
        (_, Some(steady)) if steady < STEADY => Severity::Low,
        (Some(seconds), Some(_)) if seconds < SOON => Severity::Critical,
        (Some(seconds), _) if seconds < THIS_HOUR => Severity::High,
        _ => Severity::Medium,
    };
    let finding = case
        .with(
            Kind::Growth,
            case.thresholds.severity(share).unwrap_or(Severity::Low),
            share,
        )
        .no_worse_than(worst);
    let uncertain = line.uncertain_bytes * 2 > line.live_bytes;
    let limit = match seconds {
        Some(seconds) => format!(
            "; {whose} ({}) is reached in {} if it goes on so",
            bytes(left.unwrap_or(0)),
            duration(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))
        ),
        None => String::new(),
    };
    Some(
        finding
            .at(&line.place)
            .says(format!(
                "it grew by {} ({} a minute), {} of that by {}{}{limit}",
                bytes(grown),
                bytes((a_second * 60.0) as u64),
                percent(share),
                named(&line.place),
                if uncertain {
                    ", which may hold others' objects (?)"
                } else {
                    ""
                },
            ))
            .gains(format!("at most {} less growth", percent(share)))
            .give_or_take(line.error_bytes as f64 / grown as f64)
            .by("growth_bytes", grown as f64)
            .by("line_bytes", line.live_bytes as f64)
            .by("bytes_per_s", a_second)
            .by("seconds_to_limit", seconds.unwrap_or(f64::NAN))
            .by("steady", steady.unwrap_or(f64::NAN))
            .by("explained", memory.explained.unwrap_or(f64::NAN))
            .next(case.next("memory", "-d 5m --leaks")),
    )
}

fn churn(case: &Case<'_>, memory: &Memory) -> Option<Finding> {
    let uses = case.process.uses.iter().filter(|entry| entry.purpose == Purpose::Pages);
    let (ns, samples) = uses.clone().fold((0u64, 0), |(ns, samples), entry| {
        (ns.saturating_add(entry.ns), samples + entry.samples)
    });
    let most = uses.max_by_key(|entry| entry.ns)?;
    let came_and_went = memory.came_bytes > CAME_FOR_STAYED.saturating_mul(memory.live_bytes.max(1));
    if samples < FEW_SAMPLES || !came_and_went {
        return None;
    }
    let share = case.share(ns);
    let finding = case.finding(Kind::Churn, share)?;
    Some(
        finding
            .at(&most.place)
            .says(format!(
                "getting memory from the kernel and giving it back takes {} of the time: {} came, {} stayed; most of it at {}",
                percent(share),
                bytes(memory.came_bytes),
                bytes(memory.live_bytes),
                named(&most.place)
            ))
            .gains(format!("at most {} less time, with buffers that are used again", percent(share)))
            .give_or_take(case.sampling_error(samples))
            .by("cpu_s", ns as f64 / 1e9)
            .by("came_bytes", memory.came_bytes as f64)
            .by("live_bytes", memory.live_bytes as f64)
            .next(case.next("memory", "-d 30 --temporary")),
    )
}
