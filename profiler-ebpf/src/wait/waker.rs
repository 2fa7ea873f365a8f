//! Who wakes a thread (`--wakers`): looked at in the waker's own context, at `sched_waking`.
//!
//! A wait is drawn when it is over, by its length. Its end is not far off when somebody wakes the thread, so the same
//! chance is drawn here, by the length until now, and kept: what is drawn here is drawn at the end as well, and a walk is
//! made of the waker's stack for those only. The rest of a wait, in which the thread waits for a CPU, is hardly ever what
//! makes the difference; a wait that it does make drawn has no waker.
//!
//! `current` is the waker only if it has made a system call: an interrupt (a timer, a device) wakes in the name of whoever
//! runs. In the middle of a call that cannot be told here, and user space looks for the entry of an interrupt in the
//! kernel's stack.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_get_prandom_u32, bpf_ktime_get_ns},
    macros::map,
    maps::Array,
    programs::BtfTracePointContext,
};
use profiler_common::{
    stats::Counter,
    wait::{
        NO_CALL, WAIT_READY, WAITS_WAKERS, WAKER_INTERRUPT, WAKER_KERNEL, WAKER_NONE, WAKER_TASK, Waker, WakerNote,
    },
};
use profiler_ebpf::wait::slot;

use super::{config::has, switch, threads};
use crate::{
    context::WAKER,
    ids,
    maps::scratch,
    sample,
    task::{self, config},
};

/// Index in `struct pt_regs`, counted in words, of the system call's number.
const CALL: usize = 15;

/// Kernel only: who has woken the thread of a slot, by the slot's number.
#[map]
static WAIT_WAKERS: Array<WakerNote> = Array::with_max_entries(1, 0);

/// `sched_waking(struct task_struct *p)`.
#[inline(always)]
pub fn try_waking(ctx: &BtfTracePointContext) -> Result<(), Counter> {
    let wakee: *const u8 = ctx.arg(0);
    let tid: u32 = switch::field(wakee, config::task_tid_offset());
    let Some((number, slot)) = threads::find(tid) else {
        return Ok(());
    };
    // SAFETY: the pointer is to a map value, which is never freed. The thread is away: nobody writes but who wakes it, and
    // the scheduler holds its lock.
    let slot = unsafe { &*slot };
    // It is about to go, or was on its way back.
    if slot.out_ns == 0 || slot.class == WAIT_READY {
        return Ok(());
    }
    let Some(note) = WAIT_WAKERS.get_ptr_mut(number) else {
        return Ok(());
    };
    // SAFETY: as above; the helpers are plain calls.
    let (note, now_ns, random) = unsafe { (&mut *note, bpf_ktime_get_ns(), bpf_get_prandom_u32()) };
    note.out_ns = slot.out_ns;
    note.random = random;
    note.waker.kind = WAKER_NONE;
    let control = switch::control();
    let length = now_ns.saturating_sub(slot.out_ns);
    if length < control.min_ns || !slot::is_drawn(length, control.target_ns, random) {
        return Ok(());
    }
    look(ctx, &mut note.waker)
}

/// The running task, as a waker.
#[inline(always)]
fn look(ctx: &BtfTracePointContext, waker: &mut Waker) -> Result<(), Counter> {
    let task = ids::current();
    *waker = Waker {
        kind: WAKER_TASK,
        pid: task.pid,
        tid: task.tid,
        comm: task::comm(),
        ..Waker::default()
    };
    // SAFETY: a plain helper call.
    if unsafe { bpf_get_current_pid_tgid() } as u32 == 0 {
        waker.kind = WAKER_INTERRUPT;
        return Ok(());
    }
    if task::is_of_the_kernel() {
        waker.kind = WAKER_KERNEL;
        return Ok(());
    }
    let working = scratch(WAKER).ok_or(Counter::LostNoScratch)?;
    let registers = &mut working.unwind.registers;
    if !task::user_registers(registers) {
        // It is about to end, which somebody has waited for.
        return Ok(());
    }
    if registers[CALL] as u32 == NO_CALL {
        waker.kind = WAKER_INTERRUPT;
        return Ok(());
    }
    if task.tid == 0 || task.pid == config::own_pid() {
        return Ok(());
    }
    sample::stack(Some(ctx.as_ptr()), WAKER, task, waker.comm)?;
    if sample::send_without_code(WAKER) {
        let header = &scratch(WAKER).ok_or(Counter::LostNoScratch)?.record.header;
        waker.stack = header.stack.hash;
        waker.instance = header.instance;
        waker.python = header.python;
    }
    Ok(())
}

/// The chance by which the wait of a slot that began at `out_ns` is drawn: what it was when the thread was woken.
#[inline(always)]
pub fn chance(number: u32, out_ns: u64) -> u32 {
    if has(WAITS_WAKERS)
        && let Some(note) = WAIT_WAKERS.get(number)
        && note.out_ns == out_ns
    {
        return note.random;
    }
    // SAFETY: a plain helper call.
    unsafe { bpf_get_prandom_u32() }
}

/// Who has ended the wait of a slot that began at `out_ns`.
#[inline(always)]
pub fn fill(number: u32, out_ns: u64, into: &mut Waker) {
    *into = Waker::default();
    if has(WAITS_WAKERS)
        && let Some(note) = WAIT_WAKERS.get(number)
        && note.out_ns == out_ns
    {
        *into = note.waker;
    }
}
