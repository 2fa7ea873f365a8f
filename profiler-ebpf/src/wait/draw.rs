//! A wait that was drawn, told by its own thread as soon as that runs again: now its memory can be read.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_ktime_get_ns, bpf_probe_read_user},
    macros::map,
    maps::PerCpuArray,
    programs::RawTracePointContext,
};
use profiler_common::{
    limits::CONTEXTS,
    record::RECORD_WAIT,
    stats::Counter,
    unwind::{REGISTER_PC, REGISTER_SP},
    wait::{
        CALL_DESCRIPTOR, CALL_POLL, Descriptor, WAIT_DESCRIPTOR, WAIT_GIL, WAIT_READY, WAITS_RUN_DELAY, WaitEvent,
        WaitRecord, WaitSlot,
    },
};

use profiler_ebpf::wait::slot::Outcome;

use super::{
    config::{has, setting},
    descriptor, held,
    holder::{self, Holder},
    quota::{self, Quota},
    switch, threads, waker,
};
use crate::{
    context::{self, Context},
    maps::scratch,
    output, sample,
    task::{self, Task},
};

/// Kernel only: what is known of the thread that this CPU was given to: [`SEEN`] or the number of its slot, which has a wait
/// to tell of; above it, the thread's own number. That is asked again: where the tracepoint of a switch is not run, what was
/// noted of the thread before stands here still.
#[map]
static WAIT_NOTED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Kernel only: the record in the making.
#[map]
static WAIT_RECORDS: PerCpuArray<WaitRecord> = PerCpuArray::with_max_entries(CONTEXTS, 0);

/// Its coming was not told.
const UNSEEN: u32 = 0;
/// There is nothing to tell. No slot has this number.
pub const SEEN: u32 = u32::MAX;

/// This thread was seen to get this CPU.
#[inline(always)]
pub fn note(tid: u32, what: u32) {
    if let Some(noted) = WAIT_NOTED.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's value, and only the scheduler comes here.
        unsafe { *noted = u64::from(tid) << 32 | u64::from(what) };
    }
}

/// `sched_exit_tp(bool is_switch)` (6.16 – 7.2): at the end of the scheduler's work, with the thread it has chosen. What is to be
/// done about it, for [`try_resume`]: as good as always nothing, and then no function is called.
#[inline(always)]
pub fn noted(ctx: &RawTracePointContext) -> Option<u32> {
    let noted = WAIT_NOTED.get_ptr_mut(0)?;
    // SAFETY: a plain helper call, and as in `note`.
    let (tid, of) = unsafe { (bpf_get_current_pid_tgid() as u32, *noted) };
    // SAFETY: as in `note`. The next switch is to be told anew.
    unsafe { *noted = UNSEEN.into() };
    let seen = match (of >> 32) as u32 == tid {
        true => of as u32,
        false => UNSEEN,
    };
    let is_switch = ctx.arg::<u64>(0) & 0xff != 0;
    (seen != SEEN && (seen != UNSEEN || is_switch)).then_some(seen)
}

/// `seen`: from [`noted`].
#[inline(never)]
pub fn try_resume(ctx: &RawTracePointContext, seen: u32, context: Context) -> Result<(), Counter> {
    let (number, slot) = if seen != UNSEEN {
        (seen, threads::at(seen).ok_or(Counter::LostWaits)?)
    } else {
        // SAFETY: a plain helper call.
        let tid = unsafe { bpf_get_current_pid_tgid() } as u32;
        match threads::find(tid) {
            Some((number, slot)) if arrive(number, slot) => (number, slot),
            _ => return Ok(()),
        }
    };
    tell(ctx, context, number, slot)
}

/// Ends the wait of the running thread if nobody has seen that it is over. `true` if it is to be told of.
#[inline(always)]
fn arrive(number: u32, slot: *mut WaitSlot) -> bool {
    // SAFETY: the pointer is to a map value, which is never freed.
    if unsafe { (*slot).out_ns } == 0 {
        return false;
    }
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    switch::arrive(number, slot, now_ns) != Outcome::Counted
}

/// At the end of a system call, which is where a thread that has waited in one comes by.
#[inline(always)]
pub fn try_call(ctx: &RawTracePointContext) -> Result<(), Counter> {
    // SAFETY: a plain helper call.
    let tid = unsafe { bpf_get_current_pid_tgid() } as u32;
    let Some((number, slot)) = threads::find(tid) else {
        return Ok(());
    };
    // SAFETY: the pointer is to a map value, which is never freed.
    if !arrive(number, slot) && unsafe { (*slot).drawn_ns } == 0 {
        return Ok(());
    }
    context::in_call(|context| tell(ctx, context, number, slot))
}

#[inline(always)]
fn tell(ctx: &RawTracePointContext, context: Context, number: u32, slot: *mut WaitSlot) -> Result<(), Counter> {
    // SAFETY: the pointer is to a map value, which is never freed, and its thread is the running one: nobody else is here.
    let slot = unsafe { &mut *slot };
    // SAFETY: a plain helper call.
    if slot.tid != unsafe { bpf_get_current_pid_tgid() } as u32 {
        return Err(Counter::LostWaits);
    }
    let (length_ns, weight_ns) = (slot.drawn_ns, slot.drawn_weight_ns);
    slot.drawn_ns = 0;
    let working = scratch(context).ok_or(Counter::LostNoScratch)?;
    let registers = &mut working.unwind.registers;
    if !task::user_registers(registers) {
        return Err(Counter::EndingWaits);
    }
    // Elsewhere than where it left: what it does now is another call's. A new thread has not left from anywhere.
    let here = (registers[REGISTER_PC], registers[REGISTER_SP]);
    if slot.pc != 0 && here != (slot.pc, slot.sp) {
        return Err(Counter::LostWaits);
    }
    let task = Task {
        pid: slot.shown_pid,
        tid: slot.shown_tid,
    };
    let Holder { state, stack } = match slot.drawn_class {
        WAIT_GIL => holder::find(context, task, slot.gil).unwrap_or_default(),
        _ => Holder::default(),
    };
    let record = WAIT_RECORDS.get_ptr_mut(context).ok_or(Counter::LostNoScratch)?;
    // SAFETY: the pointer is to this CPU's value of this context, which is ours.
    let event: &mut WaitEvent = unsafe { &mut (*record).event };
    event.length_ns = length_ns;
    event.weight_ns = weight_ns;
    event.ready_ns = ready(slot);
    event.throttled_ns = throttled(slot).min(event.ready_ns);
    let class = slot.drawn_class;
    event.class = class;
    event.task_state = slot.drawn_state;
    event.call = slot.call;
    event.arguments = slot.arguments;
    waker::fill(number, slot.in_ns.wrapping_sub(length_ns), &mut event.waker);
    event.holder_stack = stack;
    event.holder_state = state;
    event.descriptor = Descriptor::default();
    event.name = [[0; 8]; 6];
    if let Some(number) = descriptor_of(event) {
        descriptor::look_up(number, &mut event.descriptor, &mut event.name);
    }
    sample::take_definition(Some(ctx.as_ptr()), context, task, task::comm())?;
    let flags = held::flags(slot, class, context);
    let record = WAIT_RECORDS.get_ptr_mut(context).ok_or(Counter::LostNoScratch)?;
    // SAFETY: as above.
    unsafe { (*record).event.flags = flags };
    send(context)
}

/// Of the wait, how long it only waited for a CPU: the kernel has counted that by now.
#[inline(always)]
fn ready(slot: &WaitSlot) -> u64 {
    if !has(WAITS_RUN_DELAY) {
        return 0;
    }
    let offset = setting!(run_delay_offset) as usize;
    // SAFETY: the helper returns the running task, and the offset is that of such a field by the kernel's own BTF.
    let now: u64 = unsafe { bpf_get_current_task_btf().cast::<u8>().add(offset).cast::<u64>().read() };
    now.wrapping_sub(slot.run_delay_ns)
}

/// Of the wait, how long the cgroup's quota was used up.
#[inline(always)]
fn throttled(slot: &WaitSlot) -> u64 {
    // SAFETY: the helper returns the running task.
    let now = quota::of(unsafe { bpf_get_current_task_btf() } as *const u8);
    quota::since(Quota::of_slot(slot), now)
}

/// The descriptor that is waited for, if it is one.
#[inline(always)]
fn descriptor_of(event: &WaitEvent) -> Option<u32> {
    if event.class == WAIT_READY {
        return None;
    }
    let entry = switch::entry(event.call);
    if entry & CALL_DESCRIPTOR != 0 {
        return Some(event.arguments[0] as u32);
    }
    if entry & CALL_POLL == 0 || event.class != WAIT_DESCRIPTOR {
        return None;
    }
    // `struct pollfd { int fd; … }`
    let mut number = 0u32;
    // SAFETY: the local is four bytes long; the helper checks the address.
    let read = unsafe { bpf_probe_read_user((&raw mut number).cast(), 4, event.arguments[0] as *const _) };
    (read == 0).then_some(number)
}

#[inline(always)]
fn send(context: Context) -> Result<(), Counter> {
    let working = scratch(context).ok_or(Counter::LostNoScratch)?;
    let record = WAIT_RECORDS.get_ptr_mut(context).ok_or(Counter::LostNoScratch)?;
    working.record.header.kind = RECORD_WAIT;
    // SAFETY: the pointer is to this CPU's value of this context, which is ours.
    unsafe { output::send_headed(&working.record.header, record) }
}
