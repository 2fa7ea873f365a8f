//! From what instruments measured to [`Evidence`]: every sample belongs to one process, one line and one role.

mod cpu;
mod growth;
mod waited;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

pub use self::waited::Waited;
use super::{
    evidence::{CallFamily, Database, Evidence, Process, Python, Thread},
    stacks::{self, Facts},
    surroundings::Surroundings,
};
use crate::{
    profile::{Profile, StackId},
    report::{label, memory::MemoryReport},
    wall::WallReport,
};

/// Lines of a process and kind that are kept: those with most. A line of a program that works through a library has as many
/// as it calls functions of that, and their sum is what it is told to take.
const MOST_LINES: usize = 4096;
/// Files that are looked at.
const MOST_FILES: usize = 64;

/// What the instruments of a session measured.
pub struct Measured<'a> {
    pub wall: &'a WallReport,
    /// Of the waits of `wall`, what has gone into its profile.
    pub waits: Waited,
    pub memory: Option<&'a MemoryReport>,
    pub surroundings: &'a Surroundings,
}

pub fn gather(measured: Measured<'_>) -> Evidence {
    let Measured {
        wall,
        waits,
        memory,
        surroundings,
    } = measured;
    let mut processes: IndexMap<u32, Process, FxBuildHasher> = IndexMap::default();
    for thread in &wall.waits.threads {
        let process = processes.entry(thread.pid).or_insert_with(|| Process {
            pid: thread.pid,
            ..Process::default()
        });
        if process.command.is_empty() {
            process.command = label::clean(thread.command.clone());
        }
        process.length_ns = process.length_ns.max(thread.elapsed_ns);
        process.threads.push(Thread {
            tid: thread.tid,
            name: label::clean(thread.name.clone()),
            elapsed_ns: thread.elapsed_ns,
            cpu_ns: thread.on_cpu_ns,
            ..Thread::default()
        });
    }
    for (pid, wait) in waits.waits {
        if let Some(process) = processes.get_mut(&pid) {
            process.waits.push(wait);
        }
    }
    for ((pid, tid), waited) in waits.by_thread {
        let thread = processes
            .get_mut(&pid)
            .and_then(|process| process.threads.iter_mut().find(|thread| thread.tid == tid));
        if let Some(thread) = thread {
            thread.waited_ns = waited.ns;
            thread.is_loop = waited.is_loop;
        }
    }
    for (pid, calls) in waits.calls {
        if let Some(process) = processes.get_mut(&pid) {
            process.calls.push(calls);
        }
    }
    for process in processes.values_mut() {
        process.calls_ns = waits.calls_ns;
    }
    for (pid, holder) in waits.holders {
        if let Some(process) = processes.get_mut(&pid) {
            process.holders.push(holder);
        }
    }
    for (pid, stall) in waits.stalls {
        if let Some(process) = processes.get_mut(&pid) {
            process.stalls.push(stall);
        }
    }
    for (pid, address, peer) in waits.peers {
        if let Some(process) = processes.get_mut(&pid) {
            process.peers.insert(address, peer);
        }
    }
    let tells_of_quotas = waits.tells_of_quotas;
    cpu::add(wall, &mut processes);
    if let Some(report) = memory {
        growth::add(report, &mut processes);
    }
    for process in processes.values_mut() {
        process.python = surroundings.python(process.pid);
        process.around = surroundings.around(process.pid);
        process.databases = databases(process, surroundings);
        process.embedded = surroundings.embedded(process.pid);
        if tells_of_quotas {
            // Waits say it themselves.
            process.around.missing = None;
        }
    }
    // What runs no Python is no affair of ours, unless it was asked for by its number.
    processes.retain(|pid, process| process.python != Python::No || surroundings.is_named(*pid));
    Evidence {
        length_ns: u64::try_from(wall.length().as_nanos()).unwrap_or(u64::MAX),
        processes: processes.into_values().collect(),
        host: surroundings.host.clone(),
    }
}

/// Files that the process has read which are SQLite's.
fn databases(process: &Process, surroundings: &Surroundings) -> Vec<Database> {
    let reads = process.calls.iter().filter(|calls| calls.family == CallFamily::Read);
    let mut paths: Vec<&str> = reads
        .map(|calls| &*calls.target)
        .filter(|path| path.starts_with('/'))
        .collect();
    paths.sort_unstable();
    paths.dedup();
    let databases = paths.into_iter().take(MOST_FILES);
    databases
        .filter_map(|path| surroundings.database(process.pid, path))
        .collect()
}

/// What is known of each stack, so that it is looked at once.
#[derive(Default)]
struct StackFacts(FxHashMap<StackId, Facts>);

impl StackFacts {
    fn of(&mut self, profile: &Profile, stack: StackId) -> Facts {
        *self.0.entry(stack).or_insert_with(|| stacks::facts(profile, stack))
    }
}

/// Processes of which something was measured.
pub fn pids(wall: &WallReport) -> FxHashSet<u32> {
    wall.waits.threads.iter().map(|thread| thread.pid).collect()
}
