//! Exceptions, imports and garbage collections: what is rare enough for a record each.
//!
//! An exception is told where C code sets it, which `raise` does, too. How far it went is told by where CPython notes the
//! line for the traceback, once for each frame that it comes through: that is only counted, by thread, and told with the next
//! exception of the thread.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_attach_cookie, bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_probe_read_user_str},
    programs::ProbeContext,
};
use profiler_common::{
    group::Group,
    mark::{
        MARK_COLLECT, MARK_DRAWN, MARK_DRAWN_OF, MARK_IMPORT, MARK_NONE, MARK_RAISE, MARK_TAGGED, MARK_TEXT,
        MARK_TYPE_TEXT, MARK_UNWIND, Unwinding,
    },
    python::PROBE_STEPPED,
    stats::Counter,
};
use profiler_ebpf::{memory::ReadMemory as _, scratch::Scratch};

use crate::{
    context::{self, Context},
    maps::{UNWINDING, scratch},
    output,
    registers::register,
    sample,
    stats::{add_in, count_in},
    task::{self, Task},
    user_memory::UserMemory,
};

/// `PyTypeObject.tp_name`.
const TP_NAME: u64 = 24;
/// `PyASCIIObject.length`, `.state` (3.8 – 3.15).
const STRING_LENGTH: u64 = 16;
const STRING_STATE: u64 = 32;
/// Its `compact` and `ascii` bits.
const COMPACT_ASCII: u64 = 0x60;
/// The low bits of a frame's code object (3.14 on).
const TAG: u64 = 3;

/// A probe is hit.
#[inline(always)]
pub fn try_mark(ctx: &ProbeContext) -> Result<(), Counter> {
    // SAFETY: plain helper calls.
    let (started_ns, cookie) = unsafe { (bpf_ktime_get_ns(), bpf_get_attach_cookie(ctx.as_ptr())) };
    let Some(task) = task::current().filter(|&task| task::is_wanted_now(task, Group::Probes)) else {
        count_in(context::PROBES, Counter::OtherHits);
        return Ok(());
    };
    count_in(context::PROBES, Counter::EntryHits);
    if cookie as u32 & PROBE_STEPPED != 0 {
        count_in(context::PROBES, Counter::SteppedHits);
    }
    let seen = match cookie as u32 & 0x7f {
        MARK_UNWIND => {
            unwind(ctx, task, cookie);
            Ok(())
        }
        MARK_RAISE if is_replaced(ctx, cookie) => {
            count_in(context::PROBES, Counter::RaisesReplaced);
            Ok(())
        }
        MARK_RAISE if cookie & MARK_DRAWN != 0 && !is_drawn() => {
            count_in(context::PROBES, Counter::Raises);
            Ok(())
        }
        _ => context::in_uprobe(ctx, |context| tell(ctx, context, task, cookie)),
    };
    took(started_ns);
    seen
}

/// A function returns at whose beginning a probe was hit.
#[inline(always)]
pub fn try_return(ctx: &ProbeContext) -> Result<(), Counter> {
    // SAFETY: plain helper calls.
    let (started_ns, cookie) = unsafe { (bpf_ktime_get_ns(), bpf_get_attach_cookie(ctx.as_ptr())) };
    let Some(task) = task::current().filter(|&task| task::is_wanted_now(task, Group::Probes)) else {
        return Ok(());
    };
    count_in(context::PROBES, Counter::ReturnHits);
    let seen = context::in_uprobe(ctx, |context| tell(ctx, context, task, cookie));
    took(started_ns);
    seen
}

#[inline(always)]
fn took(started_ns: u64) {
    // SAFETY: a plain helper call.
    let took_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(started_ns);
    add_in(context::PROBES, Counter::RunTimeNs, took_ns);
}

/// Whether the thread has an exception set that nobody has looked at: C code puts another in its place.
#[inline(always)]
fn is_replaced(ctx: &ProbeContext, cookie: u64) -> bool {
    let state = register(ctx, (cookie >> 8 & 0xff) as u32);
    let set = UserMemory.read_u64(state.wrapping_add(cookie >> 32 & 0xffff));
    set.is_some_and(|set| set != 0)
}

#[inline(always)]
fn is_drawn() -> bool {
    // SAFETY: a plain helper call.
    let drawn = unsafe { bpf_get_prandom_u32() };
    drawn & (MARK_DRAWN_OF - 1) == 0
}

#[inline(always)]
fn unwind(ctx: &ProbeContext, task: Task, cookie: u64) {
    let Some(unwinding) = UNWINDING.get_ptr_mut(task.tid) else {
        return;
    };
    // The frame object, which from 3.11 on has a pointer to the frame.
    let object = register(ctx, (cookie >> 8 & 0xff) as u32);
    let frame = match cookie >> 32 & 0xffff {
        0 => object,
        offset => UserMemory.read_u64(object.wrapping_add(offset)).unwrap_or(0),
    };
    let code = UserMemory.read_u64(frame.wrapping_add(cookie >> 48)).unwrap_or(0);
    let code = if cookie & MARK_TAGGED != 0 { code & !TAG } else { code };
    // SAFETY: the pointer is to the value of this thread, which is here.
    unsafe {
        (*unwinding).frames += 1;
        (*unwinding).code = code;
    }
}

#[inline(always)]
fn tell(ctx: &ProbeContext, context: Context, task: Task, cookie: u64) -> Result<(), Counter> {
    let what = cookie as u32 & 0x7f;
    let comm = task::comm();
    sample::begin_mark(context, task, comm, what == MARK_RAISE || what == MARK_COLLECT)?;
    let working = scratch(context).ok_or(Counter::LostNoScratch)?;
    working.mark.event.what = what;
    working.mark.event.count = 0;
    working.mark.event.value = 0;
    working.mark.event.text[0] = 0;
    let second = register(ctx, (cookie >> 16 & 0xff) as u32);
    match what {
        MARK_RAISE => raise(working, task, second, cookie & MARK_DRAWN == 0),
        MARK_IMPORT => {
            import(working, second, cookie >> 32 & 0xffff);
            bound(ctx, working);
        }
        MARK_COLLECT => {
            working.mark.event.count = second as u32;
            bound(ctx, working);
        }
        _ => bound(ctx, working),
    }
    if output::send_mark(&working.mark) {
        Ok(())
    } else {
        Err(Counter::LostMarks)
    }
}

/// Where something begins or ends that takes time.
#[inline(always)]
fn bound(ctx: &ProbeContext, working: &mut Scratch) {
    working.mark.event.value = stack_pointer(ctx);
    working.mark.event.runtime_ns = task::runtime_ns();
}

#[inline(always)]
fn stack_pointer(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context is a `struct pt_regs`, whose twentieth word it is.
    unsafe { *ctx.as_ptr().cast::<u64>().add(19) }
}

#[inline(always)]
fn raise(working: &mut Scratch, task: Task, kind: u64, followed: bool) {
    count_in(context::PROBES, Counter::Raises);
    let event = &mut working.mark.event;
    event.count = MARK_NONE;
    match UNWINDING.get_ptr_mut(task.tid) {
        _ if !followed => {}
        // SAFETY: the pointer is to the value of this thread, which is here.
        Some(before) => unsafe {
            event.count = (*before).frames as u32;
            event.value = (*before).code;
            (*before).frames = 0;
            (*before).code = 0;
        },
        None => {
            let _ = UNWINDING.insert(task.tid, Unwinding::default(), 0);
        }
    }
    if let Some(name) = UserMemory.read_u64(kind.wrapping_add(TP_NAME)) {
        // SAFETY: there is room for as much; the helper checks the address.
        unsafe { bpf_probe_read_user_str(event.text.as_mut_ptr().cast(), MARK_TYPE_TEXT, name as *const _) };
    }
}

#[inline(always)]
fn import(working: &mut Scratch, string: u64, data: u64) {
    let event = &mut working.mark.event;
    let length = UserMemory.read_u64(string.wrapping_add(STRING_LENGTH)).unwrap_or(0);
    let state = UserMemory.read_u64(string.wrapping_add(STRING_STATE)).unwrap_or(0);
    event.count = length as u32;
    if state & COMPACT_ASCII != COMPACT_ASCII {
        return;
    }
    // What is there, up to the NUL at its end.
    // SAFETY: there is room for as much; the helper checks the address.
    unsafe {
        bpf_probe_read_user_str(
            event.text.as_mut_ptr().cast(),
            MARK_TEXT as u32,
            string.wrapping_add(data) as *const _,
        );
    }
}
