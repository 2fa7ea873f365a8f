//! How long an event loop takes to come back and poll again (`--stalls`).
//!
//! A loop is whoever polls by `epoll`: asyncio, uvloop, gevent and all others do. Each poll is seen where it begins, which
//! is dear (at the beginning of every system call of the machine), because one that does not wait is seen nowhere else:
//! without it, a loop that always has something to do would look like one that never comes back. Where a poll ends is seen
//! for nothing: where the thread gets its CPU again (`switch`), and one that did not wait ends where it begins.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_ringbuf_output},
    macros::map,
    maps::Array,
    programs::RawTracePointContext,
};
use profiler_common::{
    record::RECORD_STALL,
    stats::Counter,
    wait::{LoopNote, StallRecord, WAITS_STALLS},
};
use profiler_ebpf::wait::class;

use super::{config::has, switch, threads};
use crate::{maps::EVENTS, stats::count};

/// Both: the event loops of threads, by the numbers of their slots. User space reads which have not come back.
#[map]
static WAIT_LOOPS: Array<LoopNote> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// `sys_enter(struct pt_regs *regs, long id)`.
#[inline(always)]
pub fn try_poll(ctx: &RawTracePointContext) -> Result<(), Counter> {
    if !class::is_loop(ctx.arg::<u64>(1) as u32) {
        return Ok(());
    }
    // SAFETY: a plain helper call.
    let tid = unsafe { bpf_get_current_pid_tgid() } as u32;
    let Some((number, slot)) = threads::find(tid) else {
        return Ok(());
    };
    let Some(note) = WAIT_LOOPS.get_ptr_mut(number) else {
        return Ok(());
    };
    // SAFETY: the pointers are to map values, which are never freed, and the thread is the running one: nobody else writes.
    // The helper is a plain call.
    let (note, slot, now_ns) = unsafe { (&mut *note, &*slot, bpf_ktime_get_ns()) };
    let back_ns = if note.tid == tid { note.back_ns } else { 0 };
    note.tid = tid;
    note.back_ns = now_ns;
    if back_ns == 0 || now_ns.wrapping_sub(back_ns) < switch::control().stall_ns {
        return Ok(());
    }
    count(Counter::Stalls);
    let mut record = StallRecord {
        kind: RECORD_STALL,
        pid: slot.shown_pid,
        tid: slot.shown_tid,
        reserved: 0,
        from_ns: back_ns,
        to_ns: now_ns,
    };
    // SAFETY: plain helper call; the record is valid for its size.
    let sent = unsafe {
        bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            (&raw mut record).cast(),
            size_of::<StallRecord>() as u64,
            u64::from(BPF_RB_NO_WAKEUP),
        )
    };
    if sent == 0 { Ok(()) } else { Err(Counter::LostStalls) }
}

/// A thread gets a CPU, and had left it in this call: if it was polling, it is back.
#[inline(always)]
pub fn resumed(number: u32, call: u32, now_ns: u64) {
    if has(WAITS_STALLS)
        && class::is_loop(call)
        && let Some(note) = WAIT_LOOPS.get_ptr_mut(number)
    {
        // SAFETY: the pointer is to a map value, which is never freed; its thread does not run yet.
        unsafe {
            if (*note).back_ns != 0 {
                (*note).back_ns = now_ns;
            }
        }
    }
}
