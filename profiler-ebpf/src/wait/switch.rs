//! One thread leaves a CPU and another one gets it: both accounts go on. Some 100 ns of each switch, with nothing read of
//! the threads' memory but, once in a while, by those that go to wait for the GIL: the scheduler holds its locks here.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_task_pt_regs},
    macros::map,
    maps::Array,
    programs::BtfTracePointContext,
};
use profiler_common::{
    stats::Counter,
    unwind::{REGISTER_CS, REGISTER_PC, REGISTER_SP},
    wait::{CALLS, NO_CALL, WAIT_GIL, WAITS_RUN_DELAY, WAITS_STATE_ARGUMENT, WaitControl},
};
use profiler_ebpf::wait::{
    class::{self, DEAD},
    slot::{self, Leaving, Outcome},
};

use super::{
    config::{has, setting},
    draw, holder, threads,
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
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let left = leave(ctx, prev, now_ns);
    enter(next, now_ns)?;
    left
}

/// What a system call waits for.
#[inline(always)]
pub fn entry(call: u32) -> u32 {
    WAIT_CALLS.get(call).copied().unwrap_or(0)
}

/// A field of a task. A typed pointer may be read at the offset of such a field, which is constant to the verifier.
#[inline(always)]
fn field<T: Copy>(task: *const u8, offset: u32) -> T {
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
fn leave(ctx: &BtfTracePointContext, prev: *const u8, now_ns: u64) -> Result<(), Counter> {
    let tid: u32 = field(prev, config::task_tid_offset());
    let Some((number, slot)) = threads::find(tid) else {
        return threads::meet(tid);
    };
    let preempted = ctx.arg::<u64>(0) & 0xff != 0;
    let task_state = match (preempted, has(WAITS_STATE_ARGUMENT)) {
        (true, _) => 0,
        (false, true) => ctx.arg::<u64>(3) as u32,
        (false, false) => field::<u32>(prev, setting!(task_state_offset)),
    };
    let mut leaving = Leaving {
        now_ns,
        run_delay_ns: run_delay(prev),
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
    // SAFETY: the pointer is to a map value, which is never freed. While the scheduler holds its lock, nobody else is here
    // with this thread; user space writes where the GIL is and nothing else.
    let slot = unsafe { &mut *slot };
    leaving.class = class::of_wait(task_state, leaving.call, call, leaving.arguments, slot.gil);
    if !slot::leave(slot, &leaving) {
        count(Counter::LostSwitches);
    }
    if leaving.class == WAIT_GIL {
        holder::note(slot, now_ns);
    }
    if task_state & DEAD != 0 {
        threads::end(number, &raw mut *slot, now_ns);
    }
    Ok(())
}

#[inline(always)]
fn enter(next: *const u8, now_ns: u64) -> Result<(), Counter> {
    let tid: u32 = field(next, config::task_tid_offset());
    let Some((number, slot)) = threads::find(tid) else {
        return Ok(());
    };
    let target_ns = WAIT_CONTROL.get(0).map_or(0, |control| control.target_ns) & 0xffff_ffff;
    // SAFETY: as in `leave`; the helper is a plain call.
    let outcome = unsafe { slot::enter(&mut *slot, now_ns, target_ns, || bpf_get_prandom_u32()) };
    if outcome == Outcome::Counted {
        return Ok(());
    }
    count(Counter::WaitsDrawn);
    draw::note(number);
    match outcome {
        Outcome::DrawnOver => Err(Counter::LostWaits),
        Outcome::Counted | Outcome::Drawn => Ok(()),
    }
}
