//! The closing summary: what was recorded, what was not, and what it cost. Always printed, and kept in files that have
//! room for it.

use std::time::Duration;

use profiler_common::stats::{COUNTERS, Counter};

use crate::{
    humanize::{bytes, count, duration, percent},
    recording::{Recording, Tally},
    session::StoppedBy,
};

/// What the recording cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub length: Duration,
    /// Our own CPU time while recording.
    pub cpu_time: Duration,
    /// The most we had resident while recording.
    pub resident_bytes: u64,
    /// Memory the kernel holds for maps and rings.
    pub map_bytes: u64,
    /// Time spent on names after the recording.
    pub naming_time: Duration,
    /// The most we had resident at all.
    pub peak_bytes: u64,
}

/// The summary's lines.
pub fn lines(
    recording: &Recording,
    counters: &[u64; COUNTERS],
    cost: &Cost,
    stopped_by: StoppedBy,
    warnings: &[String],
    unreadable_events: u64,
) -> Vec<String> {
    let tally = &recording.ledger.tally;
    let counter = |counter: Counter| counters[counter as usize];
    let mut lines = Vec::new();

    let reason = match stopped_by {
        StoppedBy::Duration | StoppedBy::Signal => "",
        StoppedBy::TargetsGone => "; the target has exited",
        StoppedBy::CommandEnded => "; the command has ended",
    };
    lines.push(format!(
        "{} in {} from {}{reason}",
        many(tally.samples, "sample"),
        duration(cost.length),
        many(recording.sampled_processes() as u64, "process"),
    ));
    if tally.samples == 0 {
        lines.push(no_samples(counter(Counter::Ticks)));
    }
    lines.extend(python_line(tally));
    lines.extend(missing_line(tally));
    lines.extend(lost_line(tally, &counter, unreadable_events));
    for (reason, processes) in recording.refused() {
        lines.push(format!(
            "not understood: {reason}; native stacks only ({})",
            many(processes as u64, "process")
        ));
    }
    lines.extend(warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.push(cost_line(counter(Counter::RunTimeNs), counter(Counter::Samples), cost));
    lines
}

fn no_samples(ticks: u64) -> String {
    if ticks == 0 {
        "nothing ran: CPU time is sampled, and a process that waits uses none".to_owned()
    } else {
        "none of what was asked for ran: CPU time is sampled, and a process that waits uses none".to_owned()
    }
}

/// How the Python stacks were read.
fn python_line(tally: &Tally) -> Option<String> {
    let with_frames = tally.python_complete + tally.python_truncated + tally.python_torn;
    if with_frames == 0 {
        return None;
    }
    let share = tally.python_complete as f64 / with_frames as f64;
    let mut line = format!(
        "{} with Python stacks, {} of them complete",
        count(with_frames),
        percent(share)
    );
    let parts = [
        (tally.python_truncated, "truncated at 512 frames"),
        (tally.python_torn, "cut where memory was not readable"),
        (tally.unknown_functions, "with unnamed functions"),
    ];
    for (number, what) in parts.into_iter().filter(|&(number, _)| number > 0) {
        line.push_str(&format!(", {} {what}", count(number)));
    }
    Some(line)
}

/// Samples of Python processes that show no Python frame, by reason.
fn missing_line(tally: &Tally) -> Option<String> {
    let parts = [
        (tally.python_no_frames, "of threads that run no Python"),
        (tally.python_not_initialized, "while an interpreter started or ended"),
        (tally.python_unrecognized, "before an interpreter was recognized"),
        (tally.python_bad_state, "with an unreadable thread state"),
    ];
    list("without Python stacks", &parts)
}

/// What was lost, by reason. Nothing is lost without being counted.
fn lost_line(tally: &Tally, counter: &impl Fn(Counter) -> u64, unreadable_events: u64) -> Option<String> {
    let parts = [
        (
            counter(Counter::LostRingFull),
            "samples because the ring buffer was full",
        ),
        (counter(Counter::LostNoScratch), "samples without working memory"),
        (tally.lost_stacks, "samples whose stack was lost"),
        (tally.stale, "samples of processes that were just gone"),
        (tally.malformed, "malformed records"),
        (tally.collisions, "stacks with colliding keys"),
        (tally.lost_events, "process events because the side band was full"),
        (unreadable_events, "unreadable process events"),
        (
            counter(Counter::ForksNotFollowed),
            "child processes not followed: table full",
        ),
        (counter(Counter::KernelStackFailed), "kernel stacks"),
    ];
    list("lost", &parts)
}

fn list(what: &str, parts: &[(u64, &str)]) -> Option<String> {
    let parts: Vec<String> = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, why)| format!("{} {why}", count(*number)))
        .collect();
    (!parts.is_empty()).then(|| format!("{what}: {}", parts.join(", ")))
}

fn cost_line(run_time_ns: u64, samples: u64, cost: &Cost) -> String {
    let seconds = cost.length.as_secs_f64().max(1e-9);
    let each_us = run_time_ns as f64 / 1e3 / samples.max(1) as f64;
    format!(
        "cost: {each_us:.1} µs per sample in the kernel ({} of a CPU), {} of a CPU in the profiler, \
         {} + {} of kernel maps while recording; naming took {} and at most {}",
        percent(run_time_ns as f64 / 1e9 / seconds),
        percent(cost.cpu_time.as_secs_f64() / seconds),
        bytes(cost.resident_bytes),
        bytes(cost.map_bytes),
        duration(cost.naming_time),
        bytes(cost.peak_bytes),
    )
}

/// `1 sample`, `2 samples`, `2 processes`.
fn many(number: u64, what: &str) -> String {
    let ending = match number {
        1 => "",
        _ if what.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {what}{ending}", count(number))
}
