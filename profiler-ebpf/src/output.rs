//! Into the ring buffer.

use core::{mem::offset_of, ptr::read_volatile};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_ringbuf_output, bpf_ringbuf_query},
};
use profiler_common::{
    limits::{MAX_CODE_BYTES, MAX_PYTHON_FRAMES},
    record::{CodeRecord, PythonFrame, SampleHeader, StackRecord},
};

use crate::maps::EVENTS;

/// User space looks every 50 ms. It is woken earlier only when this much is waiting: a wake-up per record would cost
/// more than the record.
const WAKE_AT_BYTES: u64 = 512 * 1024;

/// Sends a sample whose stack is known.
#[inline(always)]
pub fn send_sample(header: &SampleHeader) -> bool {
    send((&raw const *header).cast_mut().cast(), size_of::<SampleHeader>() as u64)
}

/// Sends a sample with its stack, cut after its last Python frame.
#[inline(always)]
pub fn send_stack(record: &StackRecord) -> bool {
    // SAFETY: a reference is valid for reads. Volatile: see the documentation of the crate's library.
    let frames = u64::from(unsafe { read_volatile(&record.python_len) });
    if frames > MAX_PYTHON_FRAMES as u64 {
        return false;
    }
    let bytes = offset_of!(StackRecord, python) as u64 + frames * size_of::<PythonFrame>() as u64;
    send((&raw const *record).cast_mut().cast(), bytes)
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
    )
}

#[inline(always)]
fn send(record: *mut core::ffi::c_void, bytes: u64) -> bool {
    let ring = (&raw const EVENTS).cast_mut().cast();
    // SAFETY: plain helper calls; the record is valid for `bytes` bytes, which the verifier checks.
    unsafe {
        let waiting = bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA));
        let flags = if waiting > WAKE_AT_BYTES {
            BPF_RB_FORCE_WAKEUP
        } else {
            BPF_RB_NO_WAKEUP
        };
        bpf_ringbuf_output(ring, record, bytes, u64::from(flags)) == 0
    }
}
