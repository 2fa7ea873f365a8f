//! What could not be looked at: not the same as not there.

use crate::why::{
    Finding, Kind, NotLooked,
    evidence::{Evidence, Python},
};

/// Told by a line of Python, or by a lock of CPython's.
const OF_LINES: [Kind; 9] = [
    Kind::Lock,
    Kind::GilHeldBlocked,
    Kind::Gil,
    Kind::BlockedLoop,
    Kind::StarvedLoop,
    Kind::Imports,
    Kind::Serialization,
    Kind::Exceptions,
    Kind::Gc,
];
/// Told by functions of the interpreter that are not exported.
const OF_SYMBOLS: [Kind; 2] = [Kind::Gc, Kind::Exceptions];

pub fn not_looked(evidence: &Evidence, findings: &[Finding]) -> Vec<NotLooked> {
    let mut found: Vec<NotLooked> = Vec::new();
    let mut add = |kinds: &[Kind], pid: u32, reason: String| {
        found.push(NotLooked {
            kinds: kinds.to_vec(),
            pid,
            reason,
        });
    };
    for process in &evidence.processes {
        match &process.python {
            Python::No => add(&OF_LINES, process.pid, "it runs no CPython".to_owned()),
            Python::Refused(reason) => add(&OF_LINES, process.pid, reason.clone()),
            Python::Known { gil, symbols, version } => {
                if !gil {
                    let reason = format!("who waits for the GIL of CPython {version} here is not known");
                    add(&[Kind::Gil, Kind::GilHeldBlocked], process.pid, reason);
                }
                if !symbols {
                    let reason = format!("CPython {version} here has no names of its own functions (stripped)");
                    add(&OF_SYMBOLS, process.pid, reason);
                }
            }
        }
        // What is asked inside of one transaction, or with a write-ahead log, shows in no call.
        let is_told = |finding: &Finding| {
            finding.kind == Kind::NPlusOne && (finding.pid == process.pid || finding.also.contains(&process.pid))
        };
        if let Some(name) = process.embedded
            && !findings.iter().any(is_told)
        {
            let reason = format!(
                "it has {name} loaded, whose questions need not show from outside; `profiler calls -p {} -d 5 --per VIEW` counts \
                 them",
                process.pid
            );
            add(&[Kind::NPlusOne], process.pid, reason);
        }
        if process.memory.is_none() {
            add(
                &[Kind::Growth, Kind::Churn],
                process.pid,
                "its memory could not be followed".to_owned(),
            );
        }
        if let Some(reason) = &process.around.missing {
            add(&[Kind::Throttled], process.pid, reason.clone());
        }
    }
    found
}
