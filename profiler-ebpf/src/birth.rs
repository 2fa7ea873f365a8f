//! Births and deaths of objects, seen where the collector links them.
//!
//! A hardware watchpoint on the last link of the young generation's list stops the process once for each object that the
//! collector begins to track, whichever function it was that made it: compilers inline those, and data stays where it is.
//! The others watch the links of objects that are followed: such a link is cleared when its object is tracked no more.
//! `births` in user space opens and closes windows, and chooses who is followed.
//!
//! All of a process's objects are tracked under its GIL, so nothing here comes twice at a time but the counters that are of
//! all processes.

use aya_ebpf::{
    EbpfContext as _, bindings::bpf_perf_event_data, helpers::generated::bpf_ktime_get_ns, programs::PerfEventContext,
};
use profiler_common::{
    birth::{
        Birth, BirthControl, ENDED_DEAD, ENDED_NOT, ENDED_UNTRACKED, FOLLOWED, GC_HEAD_BYTES, LINK_FINALIZED,
        LINK_FLAGS, LINK_OFFSET, MAX_BIRTHS,
    },
    record::{MEMORY_BIRTH, MemoryEvent},
    stats::Counter,
};
use profiler_ebpf::memory::ReadMemory as _;

use crate::{
    atomic,
    context::PERF_EVENT,
    maps::{BIRTH_CONTROL, BIRTHS, scratch},
    sample,
    stats::count,
    task::{self, Task},
    user_memory::UserMemory,
};

/// Reads a field that user space, or another CPU, may write meanwhile.
macro_rules! get {
    ($control:ident.$($field:tt)+) => {
        // SAFETY: the pointer is to a map value.
        unsafe { (&raw const (*$control).$($field)+).read_volatile() }
    };
}

macro_rules! set {
    ($control:ident.$field:ident = $value:expr) => {
        // SAFETY: the pointer is to a map value.
        unsafe { (&raw mut (*$control).$field).write_volatile($value) }
    };
}

/// A watched word was written.
#[inline(always)]
pub fn try_hit(ctx: &PerfEventContext) -> Result<(), Counter> {
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    count(Counter::WatchHits);
    let Some(control) = BIRTH_CONTROL.get_ptr_mut(0) else {
        return Ok(());
    };
    // SAFETY: the pointer is to a map value.
    unsafe { atomic::add(&raw mut (*control).all_hits, 1) };
    let Some(task) = task::current() else { return Ok(()) };
    if task.pid != get!(control.pid) {
        // One that was forked from it.
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*control).other_hits, 1) };
        return Ok(());
    }
    // SAFETY: the context of this type of program is a `bpf_perf_event_data`.
    let address = unsafe { (*ctx.as_ptr().cast::<bpf_perf_event_data>()).addr };
    let seen = if address == get!(control.head) + LINK_OFFSET {
        birth(control, task, now_ns)
    } else {
        link(control, address);
        Ok(())
    };
    // SAFETY: as above; the helper is a plain call.
    unsafe {
        let took_ns = bpf_ktime_get_ns().wrapping_sub(now_ns);
        atomic::add(&raw mut (*control).program_ns, took_ns);
    }
    seen
}

#[inline(always)]
fn birth(control: *mut BirthControl, task: Task, now_ns: u64) -> Result<(), Counter> {
    let list = get!(control.head);
    let last = get!(control.last);
    let newest = UserMemory.read_u64(list + LINK_OFFSET).unwrap_or(0) & !LINK_FLAGS;
    set!(control.last = newest);
    if get!(control.is_open) == 0 {
        return Ok(());
    }
    let hits = get!(control.hits);
    set!(control.hits = hits + 1);
    if last == 0 || newest == list || newest == last || newest < 0x10000 {
        return Ok(());
    }
    let mut object = [0; 4];
    // SAFETY: four words are 32 bytes.
    if !unsafe { UserMemory.read(newest, object.as_mut_ptr().cast(), 32) } {
        return Ok(());
    }
    let [_, before, _, kind] = object;
    // The newest one was taken out of the list, and the one before it is the newest again.
    if before & !LINK_FLAGS != last {
        return Ok(());
    }
    let births = get!(control.births);
    set!(control.births = births + 1);
    let mut birth = Birth {
        head: newest,
        kind,
        place: 0,
        number: 0,
    };
    // What stops took is not the process's own time. More may be taken off than has gone by.
    let own_ns = (now_ns.wrapping_sub(get!(control.opened_ns)) as i64)
        .wrapping_sub((hits as i64).wrapping_mul(get!(control.hit_ns) as i64));
    let told = if own_ns < get!(control.length_ns) as i64 {
        tell(control, task, &mut birth)
    } else {
        Ok(())
    };
    if births < MAX_BIRTHS as u64
        && let Some(place) = BIRTHS.get_ptr_mut(births as u32)
    {
        // SAFETY: the pointer is to a map value. Field by field: `memcpy` is a loop over bytes in BPF.
        unsafe {
            (&raw mut (*place).head).write_volatile(birth.head);
            (&raw mut (*place).kind).write_volatile(birth.kind);
            (&raw mut (*place).place).write_volatile(birth.place);
            (&raw mut (*place).number).write_volatile(birth.number);
        }
    }
    told
}

/// Sends who made it, by a number.
#[inline(always)]
fn tell(control: *mut BirthControl, task: Task, birth: &mut Birth) -> Result<(), Counter> {
    let number = get!(control.numbered) + 1;
    set!(control.numbered = number);
    sample::take_memory_of_python(
        PERF_EVENT,
        task,
        task::comm(),
        MemoryEvent {
            what: MEMORY_BIRTH,
            address: birth.head,
            other: number,
            length: birth.kind,
            ..MemoryEvent::default()
        },
    )?;
    birth.number = number;
    birth.place = innermost();
    Ok(())
}

/// The innermost two frames of the stack in the working memory, hashed.
#[inline(always)]
fn innermost() -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let Some(working) = scratch(PERF_EVENT) else { return 0 };
    let frames = working.record.python_len;
    let mut hash = 0u64;
    let mut i = 0;
    while i < 2 {
        if i < frames {
            let frame = working.python_frame(i);
            // SAFETY: the pointer is to a frame in the working memory.
            let (code, at) = unsafe { ((*frame).code, (*frame).instruction) };
            hash = (hash.rotate_left(17) ^ code ^ at.rotate_left(32)).wrapping_mul(FACTOR);
        }
        i += 1;
    }
    hash
}

/// The link of an object that is followed was written: by a collection, because a neighbour goes, or because it goes itself.
#[inline(always)]
fn link(control: *mut BirthControl, address: u64) {
    let mut i = 0;
    while i < FOLLOWED {
        if get!(control.followed[i]) == address {
            // SAFETY: the pointer is to a map value, and `i` is below the array's length.
            unsafe {
                let hits = (&raw mut (*control).followed_hits).cast::<u64>().add(i);
                hits.write_volatile(hits.read_volatile() + 1);
            }
            let now = UserMemory.read_u64(address).unwrap_or(0);
            if now & !LINK_FINALIZED == 0 && get!(control.ended[i]) == ENDED_NOT {
                let count = UserMemory.read_u64(address - LINK_OFFSET + GC_HEAD_BYTES).unwrap_or(0);
                let ended = if count as u32 == 0 { ENDED_DEAD } else { ENDED_UNTRACKED };
                // SAFETY: as above.
                unsafe { (&raw mut (*control).ended).cast::<u64>().add(i).write_volatile(ended) };
            }
        }
        i += 1;
    }
}
