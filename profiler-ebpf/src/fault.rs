//! A page fault of a wanted task: memory that it has not touched before.
//!
//! By the tracepoints of the exception and not by perf's software event: they say whether the page was to be written and
//! whether it was there, and cost a third (a fault of 1,510 ns takes 1,800 with the perf event, Linux 6.18, measured).
//! They lie before the point where the kernel handles the fault, with interrupts still off.

use aya_ebpf::{
    helpers::generated::{bpf_get_prandom_u32, bpf_jiffies64},
    macros::map,
    maps::PerCpuArray,
    programs::RawTracePointContext,
};
use profiler_common::{
    group::Group,
    record::{MEMORY_FAULT, MemoryEvent},
    stats::Counter,
};
use profiler_ebpf::gate::Gate;

use crate::{
    context::PAGE_FAULT,
    sample,
    stats::{add, count},
    task::{self, config},
};

/// Kernel only: which faults to follow.
#[map]
static FAULT_GATE: PerCpuArray<Gate> = PerCpuArray::with_max_entries(1, 0);

/// Where addresses of user space end on x86-64 with five levels of page tables.
const USER_END: u64 = 1 << 56;

/// `page_fault_user(unsigned long address, struct pt_regs *regs, unsigned long error_code)` and its sister of faults
/// that the kernel runs into on behalf of the task (`read` into a new buffer).
#[inline(always)]
pub fn try_fault(ctx: &RawTracePointContext, in_kernel: bool) -> Result<(), Counter> {
    let Some(task) = task::current() else { return Ok(()) };
    if !task::is_of_wanted_process(task, Group::Faults) {
        return Ok(());
    }
    let address: u64 = ctx.arg(0);
    // A program may touch what is no memory of a program's: no page comes of it.
    if address >= USER_END || (in_kernel && task::page_faults_disabled()) {
        return Ok(());
    }
    let gate = FAULT_GATE.get_ptr_mut(0).ok_or(Counter::LostNoScratch)?;
    // SAFETY: the pointer is to this CPU's value, and nothing else on it comes here before we are done. The helpers are
    // plain calls.
    let weight = unsafe { (*gate).pass(bpf_jiffies64(), config::gate_stretch(), || bpf_get_prandom_u32()) };
    if weight == 0 {
        return Ok(());
    }
    let comm = task::comm();
    if !task::is_wanted(task, comm, Group::Faults) {
        return Ok(());
    }
    // SAFETY: as above.
    add(Counter::Faults, unsafe { (*gate).take_seen() }.into());
    count(Counter::FaultsTaken);
    let event = MemoryEvent {
        what: MEMORY_FAULT,
        weight,
        flags: ctx.arg::<u64>(2) as u32,
        address,
        ..MemoryEvent::default()
    };
    sample::take_memory(PAGE_FAULT, task, comm, event)
}
