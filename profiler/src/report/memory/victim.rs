//! Processes that ended for want of memory, by the kernel or by themselves: which, against which limit, and what they had
//! just got.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

use super::{
    MemoryReport, ProcessMemory,
    group::{By, Groups, Ids, clean, group},
    layout::{clauses, paragraph, span},
};
use crate::humanize::bytes;

/// What there was no more of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Against {
    /// What a cgroup may have, the process's own or one above it.
    Cgroup { path: String, limit: u64 },
    /// The memory of the machine.
    Machine { total: u64 },
    /// The kernel did not end it: it did so itself.
    Itself {
        ended: ExitStatus,
        /// How long before it had a `MemoryError`.
        error_ago: Duration,
        /// What address space it might have, where that was bounded.
        address_space: Option<u64>,
    },
}

/// The end of a process for want of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Since the recording began.
    pub after: Duration,
    /// The most that it ever had resident, by the kernel's account; 0 if it did not say.
    pub peak: u64,
    /// `None` if process or cgroup were gone when it was looked at.
    pub against: Option<Against>,
}

/// Lines of each that are told beside the sentence, where a table of all processes follows.
const LINES: usize = 3;

/// A paragraph for each process, in the order in which they ended; nothing if none did.
pub fn text(report: &MemoryReport, width: usize) -> String {
    let mut ended: Vec<&ProcessMemory> = report.processes.iter().collect();
    ended.sort_by_key(|process| (process.victim.as_ref().map(|victim| victim.after), process.pid));
    let is_alone = report.processes.len() == 1;
    let mut text = String::new();
    for process in ended {
        let Some(sentence) = sentence(process) else { continue };
        text.push_str(&paragraph(&sentence, width));
        if !is_alone {
            text.push_str(&lines_of(report, process.pid, width));
        }
        text.push('\n');
    }
    text
}

/// What those had at their ends, where it was said before that they were ended.
pub fn lines(report: &MemoryReport, width: usize) -> Vec<String> {
    let ended = report.processes.iter().filter(|process| process.victim.is_some());
    ended
        .flat_map(|process| {
            let name = clean(&format!("{} ({})", process.command, process.pid));
            let lines = lines_of(report, process.pid, width);
            let head = match lines.is_empty() {
                true => format!("{name}: of what it had at its end nothing was seen to come"),
                false => format!("{name} had at its end, of what came since the recording began:"),
            };
            std::iter::once(head).chain(lines.lines().map(str::to_owned).collect::<Vec<_>>())
        })
        .collect()
}

/// The same for the summary, without lines of code.
pub fn sentences(report: &MemoryReport) -> impl Iterator<Item = String> {
    report.processes.iter().filter_map(sentence)
}

/// What is said of one; nothing of a process that was not ended.
pub fn sentence(process: &ProcessMemory) -> Option<String> {
    let victim = process.victim.as_ref()?;
    let name = clean(&format!("{} ({})", process.command, process.pid));
    let had = match victim.peak {
        0 => String::new(),
        peak => format!(", and it had {} at most", bytes(peak)),
    };
    let limit = match &victim.against {
        Some(Against::Itself {
            ended,
            error_ago,
            address_space,
        }) => {
            let limit = match address_space {
                Some(limit) => format!("its address space may be {} (RLIMIT_AS)", bytes(*limit)),
                None => "it has no limit of its own (RLIMIT_AS)".to_owned(),
            };
            return Some(format!(
                "{name} {} {} after a MemoryError, {} into the recording: {limit}{had}.",
                how(*ended),
                span(*error_ago),
                span(victim.after),
            ));
        }
        Some(Against::Cgroup { path, limit }) => {
            format!("its cgroup {} may have {}", clean(path), bytes(*limit))
        }
        Some(Against::Machine { total }) => format!("the machine has {}", bytes(*total)),
        None => "which limit it was is not known, as its cgroup was gone".to_owned(),
    };
    Some(format!(
        "{name} was ended by the kernel for want of memory after {}: {limit}{had}.",
        span(victim.after)
    ))
}

fn how(ended: ExitStatus) -> String {
    match (ended.code(), ended.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// What of a process's memory came in the recording and was there at its end, by line.
fn lines_of(report: &MemoryReport, pid: u32, width: usize) -> String {
    let Groups { rows, row_of } = group(report, By::Line, Ids::Kept);
    let value = report.shown.value();
    let mut sums = vec![0u64; rows.len()];
    for ((key, values), row) in report.profile.samples().zip(row_of) {
        let bytes = values.get(value).copied().unwrap_or(0);
        if let (true, Some(sum)) = (key.labels.pid == pid, sums.get_mut(row)) {
            *sum = sum.saturating_add(u64::try_from(bytes).unwrap_or(0));
        }
    }
    let mut ranked: Vec<(u64, String)> = sums
        .into_iter()
        .zip(&rows)
        .filter(|(sum, _)| *sum > 0)
        .map(|(sum, row)| (sum, row.place.full_name()))
        .collect();
    ranked.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    // A closing row for a single other is no shorter than that one.
    let shown = if ranked.len() == LINES + 1 { LINES + 1 } else { LINES };
    let others = ranked.get(shown..).unwrap_or_default();
    let rest = others.iter().fold(0u64, |sum, (bytes, _)| sum.saturating_add(*bytes));
    let count = others.len();
    let mut text = String::new();
    for (sum, name) in ranked.iter().take(shown) {
        text.push_str(&clauses("  ", &[format!("{:>9}  {name}", bytes(*sum))], width));
    }
    if count > 0 {
        text.push_str(&format!("  {:>9}  ({count} more)\n", bytes(rest)));
    }
    text
}
