//! Into the ring buffer.

use core::{mem::offset_of, ptr::read_volatile};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_ringbuf_output, bpf_ringbuf_query},
};
use profiler_common::{
    limits::MAX_CODE_BYTES,
    mark::MarkRecord,
    record::{
        BeganRecord, BlockRecord, CallRecord, CodeRecord, MemoryRecord, PYTHON_FRAME_WORDS, STACK_WORDS, SampleHeader,
        StackRecord,
    },
    stats::Counter,
};

use profiler_ebpf::scratch::Scratch;

use crate::maps::EVENTS;

/// User space looks every 50 ms. It is woken earlier only when this much is waiting: a wake-up per record would cost
/// more than the record.
const WAKE_AT_BYTES: u64 = 512 * 1024;

/// Sends a sample whose stack is known.
#[inline(always)]
pub fn send_sample(header: &SampleHeader) -> bool {
    send(
        (&raw const *header).cast_mut().cast(),
        size_of::<SampleHeader>() as u64,
        false,
    )
}

/// Sends a sample with its stack, cut after its last word. `urgent` if user space had better look at once.
#[inline(always)]
pub fn send_stack(scratch: &Scratch, urgent: bool) -> bool {
    // SAFETY: references are valid for reads. Volatile: see the documentation of the crate's library.
    let (addresses, frames) = unsafe {
        (
            read_volatile(&scratch.addresses),
            read_volatile(&scratch.record.python_len),
        )
    };
    let words = u64::from(addresses) + u64::from(frames) * PYTHON_FRAME_WORDS as u64;
    if words > STACK_WORDS as u64 {
        return false;
    }
    let record = (&raw const scratch.record).cast_mut().cast();
    send(record, offset_of!(StackRecord, words) as u64 + 8 * words, urgent)
}

/// Sends what happened to memory.
#[inline(always)]
pub fn send_memory(record: &MemoryRecord) -> bool {
    send(
        (&raw const *record).cast_mut().cast(),
        size_of::<MemoryRecord>() as u64,
        false,
    )
}

/// Sends what a probe has to tell.
#[inline(always)]
pub fn send_mark(record: &MarkRecord) -> bool {
    send(
        (&raw const *record).cast_mut().cast(),
        size_of::<MarkRecord>() as u64,
        false,
    )
}

/// Sends a block that came or went.
#[inline(always)]
pub fn send_block(record: &BlockRecord) -> bool {
    send(
        (&raw const *record).cast_mut().cast(),
        size_of::<BlockRecord>() as u64,
        false,
    )
}

/// Sends a call that has ended.
#[inline(always)]
pub fn send_call(record: &CallRecord) -> bool {
    send(
        (&raw const *record).cast_mut().cast(),
        size_of::<CallRecord>() as u64,
        false,
    )
}

/// Sends that a process's calls are counted.
#[inline(always)]
pub fn send_began(record: &BeganRecord) -> bool {
    send(
        (&raw const *record).cast_mut().cast(),
        size_of::<BeganRecord>() as u64,
        false,
    )
}

/// Sends a code object, cut after the `used` bytes of its body.
#[inline(always)]
pub fn send_code(record: &CodeRecord, used: u64) -> bool {
    // SAFETY: a local is valid for reads. Volatile: see the documentation of the crate's library.
    let used = unsafe { read_volatile(&raw const used) };
    if used > MAX_CODE_BYTES as u64 {
        return false;
    }
    send(
        (&raw const *record).cast_mut().cast(),
        offset_of!(CodeRecord, body) as u64 + used,
        false,
    )
}

/// Sends a record that begins with the header of a sample, which is copied there. Never with a wake-up, which could be one
/// from inside the scheduler: user space looks every 50 ms.
///
/// # Safety
///
/// The record is valid for reads and writes, and begins with a [`SampleHeader`].
#[inline(always)]
pub unsafe fn send_headed<T>(header: &SampleHeader, record: *mut T) -> Result<(), Counter> {
    const WORDS: usize = size_of::<SampleHeader>() / 8;
    let from = (&raw const *header).cast::<u64>();
    let to = record.cast::<u64>();
    let mut i = 0;
    while i < WORDS {
        // SAFETY: both are headers, aligned. Volatile: `memcpy` is a loop over bytes in BPF.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        i += 1;
    }
    // SAFETY: plain helper calls; the record is valid for its size.
    let sent = unsafe {
        let ring = (&raw const EVENTS).cast_mut().cast();
        bpf_ringbuf_output(ring, record.cast(), size_of::<T>() as u64, u64::from(BPF_RB_NO_WAKEUP))
    };
    if sent == 0 { Ok(()) } else { Err(Counter::LostRingFull) }
}

#[inline(always)]
fn send(record: *mut core::ffi::c_void, bytes: u64, urgent: bool) -> bool {
    let ring = (&raw const EVENTS).cast_mut().cast();
    // SAFETY: plain helper calls; the record is valid for `bytes` bytes, which the verifier checks.
    unsafe {
        let waiting = bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA));
        let flags = if urgent || waiting > WAKE_AT_BYTES {
            BPF_RB_FORCE_WAKEUP
        } else {
            BPF_RB_NO_WAKEUP
        };
        bpf_ringbuf_output(ring, record, bytes, u64::from(flags)) == 0
    }
}
