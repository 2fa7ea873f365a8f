//! Which slot a thread has.
//!
//! By the low half of its number, checked against the slot's own: a look-up is two loads, and there are half a million
//! switches a second on a busy CPU. Threads whose numbers collide have a second place, and a third one is not followed,
//! which is counted. Slots are filled by user space for threads that exist when it begins, and here at forks; user space
//! reads those of threads that have ended and gives them back.

use core::ptr::read_volatile;

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_F_MMAPABLE,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, Queue},
    programs::RawTracePointContext,
};
use profiler_common::{
    config::FEATURE_FILTER_TID,
    group::Group,
    stats::Counter,
    wait::{
        MOST_SLOTS, PLACE_LEFT, PLACES, SLOT_ENDED, SLOT_LIVE, WAIT_CLASSES, WAIT_READY, WAITS_LAZY, WaitSlot, WaitSum,
        second_place,
    },
};

use super::config::{has, read};
use crate::{
    ids,
    task::{self, Task, config},
};

/// Both: slots by the low half of a thread's number; 0 is none, [`PLACE_LEFT`] one that is gone. Words of eight bytes: the
/// kernel keeps elements of arrays so far apart, whatever they are, and user space has them as one piece of memory.
#[map]
static WAIT_PLACES: Array<u64> = Array::with_max_entries(PLACES, BPF_F_MMAPABLE);

/// Both: the accounts of threads. Number 0 is nobody's.
#[map]
static WAIT_SLOTS: Array<WaitSlot> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Both: what slots are (`SLOT_…`), by their numbers, side by side: user space looks for those that are somebody's ten times a
/// second, and the slots themselves lie in as many pages. It is written after the slot.
#[map]
static WAIT_STATES: Array<[u8; MOST_SLOTS]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// User → kernel: slots that are free.
#[map]
static WAIT_FREE: Queue<u32> = Queue::with_max_entries(1, 0);

/// A slot by its number.
#[inline(always)]
pub fn at(number: u32) -> Option<*mut WaitSlot> {
    WAIT_SLOTS.get_ptr_mut(number)
}

/// The number of a thread's slot, and the slot.
#[inline(always)]
pub fn find(tid: u32) -> Option<(u32, *mut WaitSlot)> {
    let first = *WAIT_PLACES.get(tid & (PLACES - 1))? as u32;
    if first == 0 {
        return None;
    }
    if first != PLACE_LEFT
        && let Some(slot) = is_of(first, tid)
    {
        return Some((first, slot));
    }
    let second = *WAIT_PLACES.get(second_place(tid))? as u32;
    if second == 0 || second == PLACE_LEFT {
        return None;
    }
    is_of(second, tid).map(|slot| (second, slot))
}

#[inline(always)]
fn is_of(number: u32, tid: u32) -> Option<*mut WaitSlot> {
    let slot = at(number)?;
    // SAFETY: the pointer is to a map value, which is never freed.
    (unsafe { (*slot).tid } == tid).then_some(slot)
}

#[inline(always)]
fn tell_state(number: u32, state: u32) {
    if let Some(states) = WAIT_STATES.get_ptr_mut(0) {
        // SAFETY: a local is valid for reads. Volatile: see the crate's documentation.
        let at = unsafe { read_volatile(&raw const number) } as usize & (MOST_SLOTS - 1);
        // SAFETY: the pointer is to a map value, and the mask keeps `at` inside. Volatile: user space reads it.
        unsafe { states.cast::<u8>().add(at).write_volatile(state as u8) };
    }
}

/// Makes a slot for a thread of which nobody has one; it is on a CPU, or about to get its first one.
#[inline(always)]
fn insert(tid: u32, shown: Task, gil: u64, runs: bool) -> Result<(), Counter> {
    let (first, second) = (tid & (PLACES - 1), second_place(tid));
    let is_taken = |place: u32| {
        WAIT_PLACES
            .get(place)
            .is_none_or(|&slot| slot != 0 && slot != u64::from(PLACE_LEFT))
    };
    let place = match (is_taken(first), is_taken(second)) {
        (false, _) => first,
        (true, false) => second,
        (true, true) => return Err(Counter::LostThreads),
    };
    let Ok(Some(number)) = WAIT_FREE.pop() else {
        return Err(Counter::LostThreads);
    };
    let Some(slot) = at(number) else {
        return Err(Counter::LostThreads);
    };
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the pointer is to a map value, and nobody else has it: it was among the free ones. User space has cleared it.
    unsafe {
        (*slot).tid = tid;
        (*slot).shown_pid = shown.pid;
        (*slot).shown_tid = shown.tid;
        (*slot).first_ns = now_ns;
        (*slot).gil = gil;
        (*slot).class = WAIT_READY;
        (*slot).in_ns = if runs { now_ns } else { 0 };
        (*slot).out_ns = if runs { 0 } else { now_ns };
        (*slot).state = SLOT_LIVE;
    }
    tell_state(number, SLOT_LIVE);
    if let Some(place) = WAIT_PLACES.get_ptr_mut(place) {
        // SAFETY: as above.
        unsafe { *place = number.into() };
    }
    Ok(())
}

/// The thread of this slot is gone.
#[inline(always)]
pub fn end(number: u32, slot: *mut WaitSlot, now_ns: u64) {
    // SAFETY: the pointer is to a map value, which is never freed.
    let tid = unsafe { (*slot).tid };
    for place in [tid & (PLACES - 1), second_place(tid)] {
        if let Some(place) = WAIT_PLACES.get_ptr_mut(place) {
            // SAFETY: as above.
            unsafe {
                if *place == u64::from(number) {
                    *place = PLACE_LEFT.into();
                }
            }
        }
    }
    // SAFETY: as above.
    unsafe {
        (*slot).ended_ns = now_ns;
        (*slot).state = SLOT_ENDED;
    }
    tell_state(number, SLOT_ENDED);
}

/// The running task has no slot, and goes. Where it cannot be told beforehand who is wanted, it is given one now.
#[inline(always)]
pub fn meet(tid: u32) -> Result<(), Counter> {
    if tid == 0 {
        return Ok(());
    }
    let Some(task) = task::current() else { return Ok(()) };
    if !task::is_of_the_kernel() && task::is_wanted_now(task, Group::Waits) {
        return insert(tid, task, 0, true);
    }
    Ok(())
}

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`, for threads as well.
#[inline(always)]
pub fn try_fork(ctx: &RawTracePointContext) -> Result<(), Counter> {
    if has(WAITS_LAZY) || config::has(FEATURE_FILTER_TID) {
        return Ok(());
    }
    // SAFETY: this tracepoint's arguments are two task pointers (include/trace/events/sched.h, 5.10 – 6.18).
    let child = unsafe { *ctx.as_ptr().cast::<u64>().add(1) };
    let (Some(shown), Some(tid)) = (ids::of(child), read::<u32>(child, config::task_tid_offset())) else {
        return Err(Counter::LostThreads);
    };
    let flags: u32 = read(child, config::task_flags_offset()).unwrap_or(0);
    if !task::is_of_wanted_process(shown, Group::Waits)
        || shown.pid == config::own_pid()
        || flags & task::OF_THE_KERNEL != 0
    {
        return Ok(());
    }
    // SAFETY: a plain helper call.
    let parent = unsafe { bpf_get_current_pid_tgid() } as u32;
    // SAFETY: the pointer is to a map value, which is never freed.
    let gil = find(parent).map_or(0, |(_, slot)| unsafe { (*slot).gil });
    insert(tid, shown, gil, false)
}

/// `sched_process_exec(struct task_struct *task, pid_t old_pid, struct linux_binprm *binary)`, by the thread that execs. All
/// others of its process have ended, and if it was not the first it has that one's number now: the account of its old number
/// ends, and so does what is left of the first one's, which may still be on its last steps.
#[inline(always)]
pub fn try_exec(ctx: &RawTracePointContext) -> Result<(), Counter> {
    // SAFETY: these are this tracepoint's arguments (include/trace/events/sched.h, 5.10 – 7.2).
    let before = unsafe { *ctx.as_ptr().cast::<u64>().add(1) } as u32;
    // SAFETY: a plain helper call.
    let tid = unsafe { bpf_get_current_pid_tgid() } as u32;
    if before == tid {
        return Ok(());
    }
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some((number, slot)) = find(before) else {
        return Ok(());
    };
    // SAFETY: the pointer is to a map value, which is never freed, and its thread is here.
    unsafe {
        if (*slot).in_ns != 0 {
            (*slot).on_cpu_ns = (*slot).on_cpu_ns.wrapping_add(now_ns.wrapping_sub((*slot).in_ns));
            (*slot).in_ns = 0;
        }
    }
    end(number, slot, now_ns);
    if let Some((number, slot)) = find(tid) {
        end(number, slot, now_ns);
    }
    // Where user space named the threads that are wanted, this is another one.
    if config::has(FEATURE_FILTER_TID) {
        return Ok(());
    }
    insert(tid, ids::current(), 0, true)
}

const _: () = assert!(size_of::<WaitSum>() * WAIT_CLASSES < size_of::<WaitSlot>() && MOST_SLOTS.is_power_of_two());
