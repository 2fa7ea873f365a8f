//! Calls that move data, or make it safe (`--io`): all of them are counted, and some are told with their stack.
//!
//! Seen where system calls begin and end, those of every program of the machine: what this costs them is why it has to be
//! asked for. Sums are exact by thread, family and what lies behind the descriptor. Which call is told is drawn when it is
//! over: with a probability of its size by a target, where the size is what it took, in nanoseconds, and moved, in bytes,
//! so that long ones and large ones are all told, and of small ones so many that their sums are unbiased.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_get_prandom_u32, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
    programs::RawTracePointContext,
};
use profiler_common::{
    limits::CONTEXTS,
    record::RECORD_IO,
    stats::Counter,
    wait::{CALLS, Descriptor, IoEvent, IoKey, IoRecord, IoStart, IoTotal, WaitSlot},
};
use profiler_ebpf::wait::slot;

use super::{config::read, descriptor, switch, threads};
use crate::{
    context::{self, Context},
    maps::scratch,
    output, sample,
    stats::count,
    task::{self, Task},
};

/// User → kernel: the family of each system call (`IO_…`).
#[map]
static IO_CALLS: Array<u32> = Array::with_max_entries(CALLS, 0);

/// Kernel only: calls under way, by the numbers of their threads' slots.
#[map]
static IO_STARTS: Array<IoStart> = Array::with_max_entries(1, 0);

/// Kernel → user: sums.
#[map]
static IO_TOTALS: HashMap<IoKey, IoTotal> = HashMap::with_max_entries(64 * 1024, 0);

/// Kernel → user: the same for which there was no room, by thread and family alone.
#[map]
static IO_COARSE: HashMap<IoKey, IoTotal> = HashMap::with_max_entries(16 * 1024, 0);

/// Kernel only: the record in the making.
#[map]
static IO_RECORDS: PerCpuArray<IoRecord> = PerCpuArray::with_max_entries(CONTEXTS, 0);

/// What the shortest call counts as, in nanoseconds or bytes: as long as it takes to make one.
const LEAST_SIZE: u64 = 1 << 14;
/// What any call counts as at most.
const MOST_SIZE: u64 = 1 << 40;

/// Index in `struct pt_regs`, counted in words, of the first argument.
const DI: u32 = 14;

/// `sys_enter(struct pt_regs *regs, long id)`.
#[inline(always)]
pub fn try_begin(ctx: &RawTracePointContext) -> Result<(), Counter> {
    let Some(&family) = IO_CALLS.get(ctx.arg::<u64>(1) as u32) else {
        return Ok(());
    };
    if family == 0 {
        return Ok(());
    }
    // SAFETY: a plain helper call.
    let tid = unsafe { bpf_get_current_pid_tgid() } as u32;
    let Some((number, _)) = threads::find(tid) else {
        return Ok(());
    };
    let Some(start) = IO_STARTS.get_ptr_mut(number) else {
        return Ok(());
    };
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if now_ns >= switch::control().io_until_ns {
        return Ok(());
    }
    let descriptor: u64 = read(ctx.arg(0), 8 * DI).unwrap_or(u64::MAX);
    // SAFETY: the pointer is to a map value, which is never freed, and its thread is the running one.
    unsafe {
        *start = IoStart {
            began_ns: now_ns,
            family,
            number: descriptor as u32,
            tid,
            reserved: 0,
        };
    }
    Ok(())
}

/// `sys_exit(struct pt_regs *regs, long ret)`.
#[inline(always)]
pub fn try_end(ctx: &RawTracePointContext) -> Result<(), Counter> {
    // SAFETY: a plain helper call.
    let tid = unsafe { bpf_get_current_pid_tgid() } as u32;
    let Some((number, slot)) = threads::find(tid) else {
        return Ok(());
    };
    let Some(start) = IO_STARTS.get_ptr_mut(number) else {
        return Ok(());
    };
    // SAFETY: as in `try_begin`.
    let (start, slot) = unsafe { (&mut *start, &*slot) };
    let IoStart {
        began_ns,
        family,
        number,
        tid: began_by,
        ..
    } = *start;
    if began_ns == 0 || began_by != tid {
        return Ok(());
    }
    start.began_ns = 0;
    let control = switch::control();
    // It may be left from a time when these programs were in place before: that call has ended long since.
    if began_ns < control.io_from_ns {
        return Ok(());
    }
    count(Counter::IoCalls);
    // SAFETY: plain helper calls.
    let (now_ns, random) = unsafe { (bpf_ktime_get_ns(), bpf_get_prandom_u32()) };
    let result: i64 = ctx.arg(1);
    let length_ns = now_ns.saturating_sub(began_ns);
    let bytes = if moves(family) && result > 0 { result as u64 } else { 0 };
    let mut key = IoKey {
        pid: slot.shown_pid,
        tid: slot.shown_tid,
        family,
        number,
        ..IoKey::default()
    };
    if let Some((inode, device)) = descriptor::identity(number) {
        key.inode = inode;
        key.device = device;
    }
    let total = IoTotal {
        calls: 1,
        errors: u64::from(result < 0),
        bytes,
        ns: length_ns,
        longest_ns: length_ns,
    };
    add(&mut key, &total);
    let size = (LEAST_SIZE.wrapping_add(length_ns).wrapping_add(bytes)).min(MOST_SIZE);
    let target = control.io_target;
    if !slot::is_drawn(size, target, random) {
        return Ok(());
    }
    count(Counter::IoDrawn);
    let told = context::in_call(|context| {
        let record = IO_RECORDS.get_ptr_mut(context).ok_or(Counter::LostNoScratch)?;
        // SAFETY: the pointer is to this CPU's value of this context, which is ours.
        let event: &mut IoEvent = unsafe { &mut (*record).event };
        event.key = key;
        event.length_ns = length_ns;
        event.result = result;
        event.size = size;
        event.target = target;
        tell(ctx, context, slot, number, event)
    });
    told.map_err(|_| Counter::LostIo)
}

/// Whether what a call of this family returns is a number of bytes.
#[inline(always)]
fn moves(family: u32) -> bool {
    use profiler_common::wait::{IO_READ, IO_RECEIVE, IO_SEND, IO_WRITE};
    matches!(family, IO_READ | IO_WRITE | IO_SEND | IO_RECEIVE)
}

/// Adds it to what there is under the key, which becomes a coarser one where there is no room.
#[inline(always)]
fn add(key: &mut IoKey, one: &IoTotal) {
    if let Some(total) = IO_TOTALS.get_ptr_mut(&*key) {
        return sum(total, one);
    }
    if IO_TOTALS.insert(&*key, one, 0).is_ok() {
        return;
    }
    count(Counter::CoarseIo);
    (key.number, key.inode, key.device) = (0, 0, 0);
    match IO_COARSE.get_ptr_mut(&*key) {
        Some(total) => sum(total, one),
        // Where that has no room either, it is told as lost.
        None if IO_COARSE.insert(&*key, one, 0).is_err() => count(Counter::LostIo),
        None => {}
    }
}

#[inline(always)]
fn sum(total: *mut IoTotal, one: &IoTotal) {
    // SAFETY: the pointer is to a map value that is never removed, and the running thread's alone.
    let total = unsafe { &mut *total };
    total.calls = total.calls.wrapping_add(one.calls);
    total.errors = total.errors.wrapping_add(one.errors);
    total.bytes = total.bytes.wrapping_add(one.bytes);
    total.ns = total.ns.wrapping_add(one.ns);
    if one.longest_ns > total.longest_ns {
        total.longest_ns = one.longest_ns;
    }
}

#[inline(always)]
fn tell(
    ctx: &RawTracePointContext,
    context: Context,
    slot: &WaitSlot,
    number: u32,
    event: &mut IoEvent,
) -> Result<(), Counter> {
    event.descriptor = Descriptor::default();
    event.name = [[0; 8]; 6];
    descriptor::look_up(number, &mut event.descriptor, &mut event.name);
    let task = Task {
        pid: slot.shown_pid,
        tid: slot.shown_tid,
    };
    sample::take_definition(Some(ctx.as_ptr()), context, task, task::comm())?;
    let working = scratch(context).ok_or(Counter::LostNoScratch)?;
    let record = IO_RECORDS.get_ptr_mut(context).ok_or(Counter::LostNoScratch)?;
    working.record.header.kind = RECORD_IO;
    // SAFETY: the pointer is to this CPU's value of this context, which is ours.
    unsafe { output::send_headed(&working.record.header, record) }
}
