//! Following children of the targets, and what targets become.

use aya_ebpf::{EbpfContext as _, programs::RawTracePointContext};
use aya_log_ebpf::debug;
use profiler_common::{
    config::FEATURE_FILTER_PID,
    group::Group,
    python::{BY_PROBES, CallFacts},
    stats::Counter,
};

use crate::{
    ids,
    maps::{CALL_FACTS, GILS, NOT_NUMBERED, PROCESSES, PYTHONS, TAKEN_UP, TARGET_PIDS},
    task::{self, Task, config},
};

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`: a child of a target is a target, from
/// its first instruction on.
#[inline(always)]
pub fn try_track_fork(ctx: &RawTracePointContext) -> Result<(), Counter> {
    // SAFETY: this tracepoint's arguments are two task pointers (include/trace/events/sched.h, 5.10 – 6.18).
    let (parent, child) = unsafe {
        let arguments = ctx.as_ptr().cast::<u64>();
        (*arguments, *arguments.add(1))
    };
    let (Some(Task { pid: parent, .. }), Some(Task { pid, tid })) = (ids::of(parent), ids::of(child)) else {
        return Err(Counter::ForksNotFollowed);
    };
    // A new thread, not a new process.
    if pid != tid {
        return Ok(());
    }
    if config::has(FEATURE_FILTER_PID) {
        // SAFETY: the value is copied out at once.
        let Some(groups) = unsafe { TARGET_PIDS.get(parent) }.copied() else {
            return Ok(());
        };
        debug!(ctx, "process {} follows its parent {} into the recording", pid, parent);
        TARGET_PIDS
            .insert(pid, groups, 0)
            .map_err(|_| Counter::ForksNotFollowed)?;
    }
    // What had that number before has ended.
    let _ = TAKEN_UP.remove(pid);
    // Until user space has seen it, the child is what its parent was: its first samples would have no Python stack.
    // SAFETY: values of maps, used at once.
    unsafe {
        if let Some(python) = PYTHONS.get(parent) {
            PYTHONS.insert(pid, python, 0).map_err(|_| Counter::ForksNotFollowed)?;
        }
        if let Some(calls) = CALL_FACTS.get(parent) {
            // Where bytecode is watched is told by process, and the child is not among them.
            let calls = CallFacts {
                watched: BY_PROBES,
                ..*calls
            };
            CALL_FACTS
                .insert(pid, calls, 0)
                .map_err(|_| Counter::ForksNotFollowed)?;
        }
        if let Some(gil) = GILS.get(parent) {
            GILS.insert(pid, gil, 0).map_err(|_| Counter::ForksNotFollowed)?;
        }
        if let Some(process) = PROCESSES.get(parent) {
            PROCESSES
                .insert(pid, process, 0)
                .map_err(|_| Counter::ForksNotFollowed)?;
        }
    }
    Ok(())
}

/// What a process was before its exec is no longer true, and user space will notice too late: the first calls of the new
/// program would be taken for the old one's.
#[inline(always)]
pub fn track_exec() {
    let task = ids::current();
    let pid = task.pid;
    // Not there, nearly always.
    if task::is_of_wanted_process(task, Group::Probes) {
        let _ = TAKEN_UP.insert(pid, NOT_NUMBERED, 0);
    }
    let _ = CALL_FACTS.remove(pid);
    let _ = PYTHONS.remove(pid);
}
