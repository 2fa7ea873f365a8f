//! Processes that end for want of memory: the kernel ends them, or they end themselves after a `MemoryError`.
//!
//! By the tracepoint at the end of every thread, and not by `mark_victim`, which has another argument from 6.8 on: of a
//! victim the kernel remembers the memory that it is to give back (`mark_oom_victim`, mm/oom_kill.c, 4.9 – 7.2), whichever
//! limit it was that was reached. The end of any other thread takes three reads, that of a process a look-up besides.
//!
//! Of `MemoryError`s most are only noted, with their time: a program may live with thousands of them.

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel},
    programs::ProbeContext,
};
use profiler_common::{
    group::Group,
    limits::MEMORY_ERROR_QUIET_NS,
    python::MemoryErrors,
    record::{MEMORY_ERROR, MEMORY_RAN_OUT, MEMORY_VICTIM, MemoryEvent},
    stats::Counter,
};

use crate::{
    context,
    maps::MEMORY_ERRORS,
    sample,
    task::{self, Task, config},
};

const PAGE_BYTES: u64 = 4096;
/// `signal_struct.rlim[RLIMIT_AS].rlim_cur`: each limit is two words.
const ADDRESS_SPACE: u32 = 9 * 16;

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
    let end = match word(config::signal_oom_offset()) {
        0 => ran_out(task).map(|end| MemoryEvent {
            other: word(config::signal_limits_offset() + ADDRESS_SPACE),
            ..end
        }),
        _ => Some(MemoryEvent {
            what: MEMORY_VICTIM,
            ..MemoryEvent::default()
        }),
    };
    let Some(end) = end else { return Ok(()) };
    let event = MemoryEvent {
        weight: 1,
        // In pages, and 0 until the last thread ends (`do_exit`).
        length: word(config::signal_peak_offset()).wrapping_mul(PAGE_BYTES),
        ..end
    };
    let comm = task::comm();
    let context = context::claim_call().ok_or(Counter::LostNoContext)?;
    let outcome = sample::take_memory_without_stack(context, task, comm, event);
    context::release(context);
    outcome
}

/// The end of a process that has had a `MemoryError`, by its first thread, which ends with what the process ends with.
#[inline(always)]
fn ran_out(task: Task) -> Option<MemoryEvent> {
    if task.pid != task.tid {
        return None;
    }
    // SAFETY: copied out at once.
    let MemoryErrors { last_ns, .. } = unsafe { MEMORY_ERRORS.get(task.pid) }.copied()?;
    // Who has its number next is another process.
    let _ = MEMORY_ERRORS.remove(task.pid);
    let code = task::exit_code();
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let error_ago = now_ns.saturating_sub(last_ns);
    if last_ns == 0 || code == 0 || error_ago > MEMORY_ERROR_QUIET_NS {
        return None;
    }
    Some(MemoryEvent {
        what: MEMORY_RAN_OUT,
        flags: code,
        old_length: error_ago,
        ..MemoryEvent::default()
    })
}

/// `PyErr_NoMemory()`: a `MemoryError` is about to be raised.
#[inline(always)]
pub fn try_no_memory(ctx: &ProbeContext) -> Result<(), Counter> {
    note(ctx, |_| true)
}

/// `MemoryError_new(type, …)`: of classes derived from it, as numpy's is. An interpreter that starts makes some of the class
/// itself, to have them when there is no memory.
#[inline(always)]
pub fn try_memory_error(ctx: &ProbeContext) -> Result<(), Counter> {
    let class = ctx.arg::<u64>(0).unwrap_or(0);
    note(ctx, |errors| errors.class != class)
}

#[inline(always)]
fn note(ctx: &ProbeContext, counts: impl FnOnce(&MemoryErrors) -> bool) -> Result<(), Counter> {
    let Some(task) = task::current() else { return Ok(()) };
    let Some(errors) = MEMORY_ERRORS.get_ptr_mut(task.pid) else {
        return Ok(());
    };
    // SAFETY: the pointer is to an entry of the map, whose memory stays the map's. Two threads that write at once write nearly
    // the same; the helper is a plain call.
    let is_news = unsafe {
        if !counts(&*errors) {
            return Ok(());
        }
        let (now_ns, last_ns) = (bpf_ktime_get_ns(), (*errors).last_ns);
        (*errors).last_ns = now_ns;
        last_ns == 0 || now_ns.saturating_sub(last_ns) > MEMORY_ERROR_QUIET_NS
    };
    if !is_news {
        return Ok(());
    }
    let event = MemoryEvent {
        what: MEMORY_ERROR,
        weight: 1,
        ..MemoryEvent::default()
    };
    let comm = task::comm();
    context::in_uprobe(ctx, |context| {
        sample::take_memory_without_stack(context, task, comm, event)
    })
}
