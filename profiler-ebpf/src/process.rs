//! Following children of the targets.

use aya_ebpf::{EbpfContext as _, programs::RawTracePointContext};
use aya_log_ebpf::debug;
use profiler_common::stats::Counter;

use crate::{ids, maps::TARGET_PIDS, task::Task};

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
    // SAFETY: the value is not kept.
    if unsafe { TARGET_PIDS.get(parent) }.is_none() {
        return Ok(());
    }
    debug!(ctx, "process {} follows its parent {} into the recording", pid, parent);
    TARGET_PIDS.insert(pid, 1, 0).map_err(|_| Counter::ForksNotFollowed)
}
