//! One tick of the CPU clock.

use aya_ebpf::{EbpfContext as _, programs::PerfEventContext};
use profiler_common::{config::FEATURE_GIL, group::Group, stats::Counter};
use profiler_ebpf::python::gil;

use crate::{
    context::PERF_EVENT,
    maps::{GILS, scratch},
    sample,
    stats::count,
    task::{self, Task},
    user_memory::UserMemory,
};

/// Samples what this CPU runs. An error is the name under which the sample is lost.
#[inline(always)]
pub fn try_sample(ctx: &PerfEventContext) -> Result<(), Counter> {
    let Some(task) = task::current() else { return Ok(()) };
    count(Counter::Ticks);
    let comm = task::comm();
    if !task::is_wanted(task, comm, Group::Clock) {
        return Ok(());
    }
    if task::config::has(FEATURE_GIL) {
        has_gil(task, comm)?;
    }
    sample::take(Some(ctx.as_ptr()), PERF_EVENT, task, comm)
}

/// Whether the running thread has its GIL; else the name under which its sample is left out.
#[inline(always)]
fn has_gil(task: Task, comm: [u64; 2]) -> Result<(), Counter> {
    // SAFETY: copied out at once.
    let facts = unsafe { GILS.get(task.pid) }.copied().ok_or(Counter::NoGil)?;
    let working = scratch(PERF_EVENT).ok_or(Counter::LostNoScratch)?;
    sample::begin(working, task, comm, 0);
    sample::find_python(working, task);
    if working.record.header.instance == 0 {
        return Err(Counter::NoGil);
    }
    // What a thread of the kernel's own has for an fs base (io_uring's in the process) is left over from whoever made it.
    match !task::is_of_the_kernel() && gil::is_held(&UserMemory, task::fs_base(), working, &facts) {
        true => Ok(()),
        false => Err(Counter::GilNotHeld),
    }
}
