//! A sample at an instruction: what programs on other events than the clock do, at its plainest.
//!
//! For the end-to-end test of sampling in programs that are interrupted, and for what is built on it; no user asks for
//! it (`record --probe` is hidden).

use aya_ebpf::programs::ProbeContext;
use profiler_common::{group::Group, stats::Counter};

use crate::{context, sample, stats::count, task};

/// Samples the task that came to the instruction. An error is the name under which the sample is lost.
#[inline(always)]
pub fn try_sample(ctx: &ProbeContext) -> Result<(), Counter> {
    let Some(task) = task::current() else { return Ok(()) };
    let comm = task::comm();
    if !task::is_wanted(task, comm, Group::Clock) {
        return Ok(());
    }
    count(Counter::Probes);
    context::in_uprobe(ctx, |context| sample::take(None, context, task, comm))
}
