//! One tick of the CPU clock.

use aya_ebpf::{EbpfContext as _, programs::PerfEventContext};
use profiler_common::stats::Counter;

use crate::{context::PERF_EVENT, sample, stats::count, task};

/// Samples what this CPU runs. An error is the name under which the sample is lost.
#[inline(always)]
pub fn try_sample(ctx: &PerfEventContext) -> Result<(), Counter> {
    let Some(task) = task::current() else { return Ok(()) };
    count(Counter::Ticks);
    let comm = task::comm();
    if !task::is_wanted(task, comm) {
        return Ok(());
    }
    sample::take(Some(ctx.as_ptr()), PERF_EVENT, task, comm)
}
