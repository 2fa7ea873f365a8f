//! One thread leaves a CPU and another one gets it: both accounts go on. Some 100 ns of each switch, with nothing read of
//! the threads' memory: the scheduler holds its locks here.
//!
//! Not every switch is told. On a Firecracker guest's 6.18.44 the tracepoint is never run when the thread that goes is one
//! of process 1's, or the idle one of the second CPU: ftrace misses the same ones. So the thread that comes looks itself
//! whether it was seen ([`draw::try_resume`], [`draw::try_call`]), and one that was not by the time it goes again is counted
//! by what the kernel says it ran (`slot::leave`).

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::generated::{bpf_ktime_get_ns, bpf_task_pt_regs},
    macros::map,
    maps::Array,
    programs::BtfTracePointContext,
};
use profiler_common::{
    stats::Counter,
    unwind::{REGISTER_CS, REGISTER_PC, REGISTER_SP},
    wait::{CALLS, NO_CALL, WAITS_LAZY, WAITS_RUN_DELAY, WAITS_STATE_ARGUMENT, WaitControl, WaitSlot},
};
use profiler_ebpf::wait::{
    class::{self, DEAD},
    slot::{self, Leaving, Outcome},
};

use super::{
    config::{has, setting},
    draw, poll,
    quota::{self, Quota},
    threads, waker,
};
use crate::{native::USER_CODE_64_BIT, stats::count, task::config};

/// User → kernel: what each system call waits for.
#[map]
static WAIT_CALLS: Array<u32> = Array::with_max_entries(CALLS, 0);

/// User → kernel: what changes while we run.
#[map]
static WAIT_CONTROL: Array<WaitControl> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Indices in `struct pt_regs`, counted in words, of the call's number and its first arguments.
const NUMBER: usize = 15;
const DI: usize = 14;
const SI: usize = 13;

/// `sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)`; the last one
/// from 5.18 on.
#[inline(always)]
pub fn try_switch(ctx: &BtfTracePointContext) -> Result<(), Counter> {
    let prev: *const u8 = ctx.arg(1);
    let next: *const u8 = ctx.arg(2);
    let leaves: u32 = field(prev, config::task_tid_offset());
    let enters: u32 = field(next, config::task_tid_offset());
    let (leaver, enterer) = (threads::find(leaves), threads::find(enters));
    // Most switches on a machine are others': not even the clock is read for them.
    if leaver.is_none() && enterer.is_none() && !has(WAITS_LAZY) {
        draw::note(enters, draw::SEEN);
        return Ok(());
    }
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let left = leave(ctx, prev, leaves, leaver, now_ns);
    enter(enters, enterer, now_ns)?;
    left
}

/// What a system call waits for.
#[inline(always)]
pub fn entry(call: u32) -> u32 {
    WAIT_CALLS.get(call).copied().unwrap_or(0)
}

/// What user space says just now.
#[inline(always)]
pub fn control() -> WaitControl {
    let control = WAIT_CONTROL.get(0).copied().unwrap_or_default();
    WaitControl {
        // What `slot::is_drawn` may be given.
        target_ns: control.target_ns & 0xffff_ffff,
        io_target: control.io_target & 0xffff_ffff,
        ..control
    }
}

/// A field of a task. A typed pointer may be read at the offset of such a field, which is constant to the verifier.
#[inline(always)]
pub fn field<T: Copy>(task: *const u8, offset: u32) -> T {
    // SAFETY: the kernel's own pointer, and the offset is of such a field by its own BTF; the verifier checks both.
    unsafe { task.add(offset as usize).cast::<T>().read() }
}

#[inline(always)]
fn run_delay(task: *const u8) -> u64 {
    match has(WAITS_RUN_DELAY) {
        true => field(task, setting!(run_delay_offset)),
        false => 0,
    }
}

#[inline(always)]
fn leave(
    ctx: &BtfTracePointContext,
    prev: *const u8,
    tid: u32,
    found: Option<(u32, *mut WaitSlot)>,
    now_ns: u64,
) -> Result<(), Counter> {
    let (number, slot) = match found {
        Some(found) => found,
        None if !has(WAITS_LAZY) => return Ok(()),
        None => {
            threads::meet(tid)?;
            match threads::find(tid) {
                Some(found) => found,
                None => return Ok(()),
            }
        }
    };
    let preempted = ctx.arg::<u64>(0) & 0xff != 0;
    let task_state = match (preempted, has(WAITS_STATE_ARGUMENT)) {
        (true, _) => 0,
        (false, true) => ctx.arg::<u64>(3) as u32,
        (false, false) => field::<u32>(prev, setting!(task_state_offset)),
    };
    // SAFETY: the pointer is to a map value, which is never freed. While the scheduler holds its lock, nobody else is here
    // with this thread; user space writes where the GIL is and nothing else.
    let slot = unsafe { &mut *slot };
    let quota = quota::of(prev);
    let run_delay_ns = run_delay(prev);
    let mut leaving = Leaving {
        now_ns,
        queue: quota.queue,
        group: quota.group,
        throttled_ns: quota.throttled_ns,
        // Another CPU's queue is to be asked, which takes as long as all the rest: only if there is something to it.
        held_back_ns: match slot.unsplit != 0 && run_delay_ns != slot.run_delay_ns {
            true => quota::since(Quota::of_slot(slot), quota),
            false => 0,
        },
        run_delay_ns,
        // Brought up to date before the next thread is chosen (`update_curr`, 5.10 – 7.2).
        ran_ns: field(prev, setting!(exec_runtime_offset)),
        task_state,
        call: NO_CALL,
        ..Leaving::default()
    };
    // SAFETY: the helper returns where the registers of a task are kept, as a typed pointer, which may be read at constant
    // offsets. Whoever has a slot is no thread of the kernel's own.
    let code = unsafe {
        let registers = bpf_task_pt_regs(prev.cast_mut().cast()) as *const u64;
        leaving.arguments = [registers.add(DI).read(), registers.add(SI).read()];
        leaving.pc = registers.add(REGISTER_PC).read();
        leaving.sp = registers.add(REGISTER_SP).read();
        // -1 outside of calls.
        leaving.call = registers.add(NUMBER).read() as u32;
        registers.add(REGISTER_CS).read()
    };
    // The numbers are others in 32-bit programs.
    let call = match code == USER_CODE_64_BIT {
        true => entry(leaving.call),
        false => 0,
    };
    leaving.class = class::of_wait(task_state, leaving.call, call, leaving.arguments, slot.gil);
    if !slot::leave(slot, &leaving) {
        count(Counter::LostSwitches);
    }
    if task_state & DEAD != 0 {
        threads::end(number, &raw mut *slot, now_ns);
    }
    Ok(())
}

#[inline(always)]
fn enter(tid: u32, found: Option<(u32, *mut WaitSlot)>, now_ns: u64) -> Result<(), Counter> {
    let Some((number, slot)) = found else {
        draw::note(tid, draw::SEEN);
        return Ok(());
    };
    let outcome = arrive(number, slot, now_ns);
    let what = if outcome == Outcome::Counted {
        draw::SEEN
    } else {
        number
    };
    draw::note(tid, what);
    match outcome {
        Outcome::DrawnOver => Err(Counter::LostWaits),
        Outcome::Counted | Outcome::Drawn => Ok(()),
    }
}

/// The thread of this slot has got a CPU.
#[inline(always)]
pub fn arrive(number: u32, slot: *mut WaitSlot, now_ns: u64) -> Outcome {
    // SAFETY: as in `leave`.
    let slot = unsafe { &mut *slot };
    let out_ns = slot.out_ns;
    poll::resumed(number, slot.call, now_ns);
    let outcome = slot::enter(slot, now_ns, control(), || waker::chance(number, out_ns));
    if outcome != Outcome::Counted {
        count(Counter::WaitsDrawn);
    }
    outcome
}
