//! What can be said when a recording begins, so that nobody waits for its end to learn that nothing could come of it.

use std::{os::unix::ffi::OsStrExt as _, path::Path};

use anyhow::anyhow;

use super::unopened;
use crate::{
    closest::closest,
    config::{Config, MemorySource, Target},
    launch::Stopped,
    process::{ancestry, comm, who},
    recording::{Recording, Scope},
};

const PROC: &str = "/proc";
/// So many processes, or names, are told.
const MOST_TOLD: usize = 6;
/// So many children are looked at.
const MOST_CHILDREN: usize = 256;

/// What of the recording only a CPython has.
fn of_python_only(config: &Config) -> Option<&'static str> {
    match &config.memory {
        None if config.gil => Some("threads that have the GIL (--gil)"),
        None if config.exceptions.is_some() => Some("exceptions of Python"),
        None if config.imports.is_some() => Some("imports of Python modules"),
        None if config.gc.is_some() => Some("garbage collections of CPython"),
        None => config.calls.as_ref().map(|_| "calls of Python functions"),
        // With --native, the C library's allocator is followed in anything.
        Some(memory) if memory.exact.is_some() && !config.native_stacks => Some("allocations of CPython (--exact)"),
        Some(memory) if memory.sampled.is_some() => Some("allocations of CPython (--sampled)"),
        Some(memory) if memory.source == MemorySource::Pools => Some("pools of CPython (--source pools)"),
        Some(_) => None,
    }
}

/// Refuses targets none of which is a CPython that is understood, where that is needed. Not with `-s`: children may come.
pub(super) fn check(config: &Config, recording: &mut Recording, command: Option<&Stopped>) -> anyhow::Result<()> {
    let Some(what) = of_python_only(config).filter(|_| !config.subprocesses) else {
        return Ok(());
    };
    match (&config.target, command) {
        (Target::Pids(pids), _) if pids.iter().all(|&pid| recording.python(pid).is_none()) => {
            Err(anyhow!(refusal(recording, pids, what)))
        }
        // What else a command runs is seen when it does.
        (Target::Command(_), Some(command)) => match recording.refusal_in(command.code()) {
            Some(reason) => Err(anyhow!("there are no {what} to see: {reason}")),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn refusal(recording: &Recording, pids: &[u32], what: &str) -> String {
    let mut reasons: Vec<String> = pids
        .iter()
        .take(MOST_TOLD)
        .map(|&pid| {
            let process = who::process(Path::new(PROC), pid);
            match recording.refusal_of(pid) {
                Some(reason) => format!("process {process} runs {reason}"),
                None => format!("process {process} runs no CPython"),
            }
        })
        .collect();
    if pids.len() > MOST_TOLD {
        reasons.push(format!("and {} more", pids.len() - MOST_TOLD));
    }
    reasons.extend(unopened(&recording.unopened()));
    let below = pythons_below(pids);
    let remedy = match &below[..] {
        [] => String::new(),
        [child] => format!(
            "; its child {} does: use -p {child}, or add -s",
            who::process(Path::new(PROC), *child)
        ),
        [child, others @ ..] => format!(
            "; {} of its children do, such as {}: add -s",
            others.len() + 1,
            who::process(Path::new(PROC), *child)
        ),
    };
    format!("there are no {what} to see: {}{remedy}", reasons.join(", "))
}

/// Processes below these that are a CPython that is understood.
fn pythons_below(pids: &[u32]) -> Vec<u32> {
    let mut below = ancestry::descendants(Path::new(PROC), pids).unwrap_or_default();
    below.sort_unstable();
    below.truncate(MOST_CHILDREN);
    let mut look = Recording::new(Scope::All, false);
    below.retain(|&pid| {
        look.adopt(pid);
        look.python(pid).is_some()
    });
    below
}

/// No thread had the name that is asked for when recording began: one may still get it, so it is no refusal.
pub(super) struct UnmatchedName {
    wanted: String,
    /// What threads are called instead, to go on with.
    instead: String,
}

impl UnmatchedName {
    /// While it is so.
    pub fn at_the_beginning(&self) -> String {
        format!("no thread is called {} yet{}", self.wanted, self.instead)
    }

    /// When nothing came of it.
    pub fn at_the_end(&self) -> String {
        format!("no thread was called {} at the beginning{}", self.wanted, self.instead)
    }
}

/// `None` if a thread has the name, or none is asked for.
pub(super) fn unmatched_name(config: &Config, recording: &Recording) -> Option<UnmatchedName> {
    let wanted = comm::shown(config.comm.as_ref()?.as_bytes());
    let proc = Path::new(PROC);
    let (mut of_pythons, mut others) = (Vec::new(), Vec::new());
    for pid in recording.pids() {
        let names = match recording.python(pid) {
            Some(_) => &mut of_pythons,
            None => &mut others,
        };
        names.extend(who::threads(proc, pid));
    }
    if of_pythons.iter().chain(&others).any(|name| *name == wanted) {
        return None;
    }
    // A command has not begun yet.
    if matches!(config.target, Target::Command(_)) {
        return None;
    }
    let (whose, names) = match of_pythons.is_empty() {
        true => ("the threads that are there", others),
        false => ("those of running Pythons", of_pythons),
    };
    let (names, left_out) = closest(&wanted, names, MOST_TOLD);
    let more = match left_out {
        0 => String::new(),
        number => format!(" and {number} more"),
    };
    let instead = match &names[..] {
        [] => String::new(),
        names => format!("; {whose}: {}{more}", names.join(", ")),
    };
    Some(UnmatchedName { wanted, instead })
}
