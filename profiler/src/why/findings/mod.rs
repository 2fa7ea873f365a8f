//! Findings: pure functions of what was measured.
//!
//! Each looks at one process (`Case`) and returns what it found there. A finding has its sentence, its evidence, what it
//! would bring at most, and the next command.

mod case;
mod collector;
mod cpu;
mod disk;
mod gil;
mod host;
mod idle;
mod locks;
mod looked;
mod loops;
mod memory;
mod peers;
mod sqlite;
mod stuck;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::case::Case;
pub use self::stuck::ALL_OF_IT;
use super::{
    Finding, Kind, ProcessSummary, Severity, Thresholds, WhyReport,
    evidence::{Evidence, Python},
};

/// All that is to be told.
pub fn report(evidence: &Evidence, thresholds: &Thresholds) -> WhyReport {
    let findings = all(evidence, thresholds);
    let not_looked = looked::not_looked(evidence, &findings);
    // In no process.
    let nowhere = |kind: &Kind| {
        let mut pids = evidence.processes.iter().map(|process| process.pid);
        pids.all(|pid| {
            let mut not_looked = not_looked.iter();
            not_looked.any(|not| not.kinds.contains(kind) && not.pid == pid)
        })
    };
    let not_seen = Kind::ALL
        .into_iter()
        .filter(|kind| *kind != Kind::Idle && !findings.iter().any(|finding| finding.kind == *kind))
        .filter(|kind| !nowhere(kind))
        .collect();
    let mut processes: Vec<ProcessSummary> = evidence
        .processes
        .iter()
        .map(|process| ProcessSummary {
            pid: process.pid,
            command: process.command.clone(),
            understood: matches!(process.python, Python::Known { .. }),
            threads: process.threads.len(),
            cpu_ns: process.cpu_ns(),
            at_work_ns: process.at_work_ns(),
            length_ns: process.length_ns,
            rss_bytes: process.memory.as_ref().map(|memory| memory.rss_after),
            growth_bytes: (process.memory.as_ref()).map(|memory| memory.rss_after as i64 - memory.rss_before as i64),
        })
        .collect();
    // Who does most is introduced first.
    processes.sort_by_key(|process| std::cmp::Reverse(process.at_work_ns));
    WhyReport {
        findings,
        not_seen,
        not_looked,
        processes,
        length: Duration::from_nanos(evidence.length_ns),
    }
}

/// The worst first.
pub fn all(evidence: &Evidence, thresholds: &Thresholds) -> Vec<Finding> {
    let mut findings = Vec::new();
    for process in &evidence.processes {
        // A process that ran no Python: its threads can be told, its lines cannot.
        let case = Case {
            process,
            all: &evidence.processes,
            host: &evidence.host,
            length_ns: evidence.length_ns,
            thresholds,
        };
        let mut found = of_process(&case);
        let says_why = |finding: &Finding| finding.severity <= Severity::Medium || finding.kind == Kind::Stuck;
        if !found.iter().any(says_why)
            && !matches!(process.python, Python::Refused(_))
            && let Some(idle) = idle::find(&case)
        {
            found.push(idle);
        }
        findings.append(&mut found);
    }
    let mut findings = merged(findings);
    findings.sort_by(|a, b| {
        (a.severity.cmp(&b.severity))
            // What explains comes before what it explains.
            .then_with(|| is_general(a.kind).cmp(&is_general(b.kind)))
            .then_with(|| b.share.total_cmp(&a.share))
            .then_with(|| (a.kind, a.pid).cmp(&(b.kind, b.pid)))
    });
    findings
}

/// Whether it says that time is spent, or not had, more than why.
fn is_general(kind: Kind) -> bool {
    matches!(kind, Kind::Cpu | Kind::RunQueue)
}

fn of_process(case: &Case<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    stuck::find(case, &mut found);
    gil::find(case, &mut found);
    loops::find(case, &mut found);
    locks::find(case, &mut found);
    peers::find(case, &mut found);
    sqlite::find(case, &mut found);
    disk::find(case, &mut found);
    host::find(case, &mut found);
    memory::find(case, &mut found);
    cpu::find(case, &mut found);
    found
}

/// Whether two processes have the same: equal workers, or any two to which the machine does it, if it is as bad for both.
fn is_same(one: &Finding, other: &Finding) -> bool {
    let of = |finding: &Finding| {
        let place = finding.place.as_ref();
        place.map(|place| (place.function.clone(), place.file.clone(), place.line))
    };
    let is_machines = matches!(one.kind, Kind::RunQueue | Kind::Oversubscribed)
        // What it says to type next names no process.
        && one.next == other.next
        && one.severity == other.severity;
    match one.kind {
        // A function has many lines, and each of these calls many others.
        Kind::Cpu => {
            let function = |finding| of(finding).map(|(function, file, _)| (function, file));
            one.command == other.command && function(one) == function(other)
        }
        _ => one.command == other.command && one.place == other.place || is_machines,
    }
}

/// Equal workers in which the same was found are told once: the one with most of it, and how many others.
fn merged(findings: Vec<Finding>) -> Vec<Finding> {
    let mut merged: Vec<Finding> = Vec::new();
    for finding in findings {
        let same = merged
            .iter_mut()
            .find(|known| known.pid != finding.pid && known.kind == finding.kind && is_same(known, &finding));
        match same {
            Some(known) if finding.share > known.share => {
                let mut also = std::mem::take(&mut known.also);
                also.push(known.pid);
                *known = Finding { also, ..finding };
            }
            Some(known) => known.also.push(finding.pid),
            None => merged.push(finding),
        }
    }
    merged
}
