//! Processes that the kernel ends because there is no memory.
//!
//! By the tracepoint at the end of every thread, and not by `mark_victim`, which has another argument from 6.8 on: of a
//! victim the kernel remembers the memory that it is to give back (`mark_oom_victim`, mm/oom_kill.c, 4.9 – 7.2), whichever
//! limit it was that was reached. The end of any other thread takes three reads.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use profiler_common::{
    group::Group,
    record::{MEMORY_VICTIM, MemoryEvent},
    stats::Counter,
};

use crate::{
    context, sample,
    task::{self, config},
};

const PAGE_BYTES: u64 = 4096;

/// `sched_process_exit(struct task_struct *task, …)`, in the thread that ends.
#[inline(always)]
pub fn try_end() -> Result<(), Counter> {
    let Some(task) = task::current() else { return Ok(()) };
    if !task::is_of_wanted_process(task, Group::Calls) {
        return Ok(());
    }
    let signal = task::signal();
    let word = |offset: u32| {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel((signal + u64::from(offset)) as *const u64) }.unwrap_or(0)
    };
    if word(config::signal_oom_offset()) == 0 {
        return Ok(());
    }
    let event = MemoryEvent {
        what: MEMORY_VICTIM,
        weight: 1,
        // In pages, and 0 until the last thread ends (`do_exit`).
        length: word(config::signal_peak_offset()).wrapping_mul(PAGE_BYTES),
        ..MemoryEvent::default()
    };
    let comm = task::comm();
    let context = context::claim_call().ok_or(Counter::LostNoContext)?;
    let outcome = sample::take_memory_without_stack(context, task, comm, event);
    context::release(context);
    outcome
}
