//! Calls of Python functions, counted one by one.
//!
//! Where a call can be seen depends on the version: on entry to the evaluation loop, where frames are cleared, where
//! generators stop (`python::calls` in user space says why, and finds the places). A probe's cookie says what it sees.
//! Calls are counted by code object in a map; of chosen functions each call is timed and told.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_attach_cookie, bpf_ktime_get_ns},
    programs::ProbeContext,
};
use profiler_common::{
    config::FEATURE_TIME_CALLS,
    python::{
        ALWAYS_BEGUN, BY_PROBES_STILL, BY_WATCHES, CALL_BEGIN, CALL_ENTRY, CALL_EXIT, CALL_INNER_EXIT, CALL_LOOP_ENTRY,
        CALL_YIELD, CALLS_RECURSIVE, CALLS_UNLINKED, CallCount, CallFacts, CodeKey, LAYOUT_ENTRY_FLAG,
        LAYOUT_TAGGED_EXECUTABLE, NOT_CHOSEN, PythonProcess,
    },
    record::{CallRecord, RECORD_CALL},
    stats::Counter,
};
use profiler_ebpf::memory::ReadMemory as _;

use crate::{
    atomic, context,
    maps::{CALL_FACTS, CALLS, CHOSEN, PYTHONS, STARTS},
    output,
    registers::register,
    sample,
    stats::{add, count},
    task::{self, Task, config},
    user_memory::UserMemory,
};

/// A call under way: by its frame, or by where the stack was when the loop was entered with it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StartKey {
    pub place: u64,
    pub tid: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Start {
    pub time_ns: u64,
    pub code: u64,
    pub caller: u64,
    /// Not 0: it is counted already, where its bytecode was read or ([`COUNTED`]) when the loop was entered with it.
    pub watched: u64,
}

/// `CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR` in `co_flags` (Include/cpython/code.h).
const GENERATOR_FLAGS: u32 = 0x20 | 0x80 | 0x200;
/// `FRAME_OWNED_BY_GENERATOR` (pycore_frame.h, 3.11 – 3.15).
const OWNED_BY_GENERATOR: u8 = 1;
/// The tag of an executable (3.14+).
const TAG: u64 = 3;

/// `rsp` in `struct pt_regs`.
const STACK_POINTER: usize = 19;

/// A function that has never been seen to call itself is looked at in its first calls, and then every so many.
const LOOK_EVERY: u64 = 64;

/// What is read of a process for each call.
#[derive(Clone, Copy)]
pub struct Facts {
    pub instance: u32,
    frame_code: u64,
    frame_previous: u64,
    pub frame_instruction: u64,
    frame_owner: u64,
    frame_entry: u64,
    tagged: bool,
    has_loop_entries: bool,
    pub calls: CallFacts,
}

#[inline(always)]
pub fn facts(task: Task) -> Option<Facts> {
    // SAFETY: copied out at once.
    let process: &PythonProcess = unsafe { PYTHONS.get(task.pid) }?;
    let facts = Facts {
        instance: process.instance,
        frame_code: process.frame_code.into(),
        frame_previous: process.frame_previous.into(),
        frame_instruction: process.frame_instruction.into(),
        frame_owner: process.frame_owner.into(),
        frame_entry: process.frame_entry.into(),
        tagged: process.flags & LAYOUT_TAGGED_EXECUTABLE != 0,
        has_loop_entries: process.flags & LAYOUT_ENTRY_FLAG != 0,
        calls: CallFacts::default(),
    };
    // SAFETY: copied out at once.
    let calls = *unsafe { CALL_FACTS.get(task.pid) }?;
    Some(Facts { calls, ..facts })
}

/// A probe that sees calls.
#[inline(always)]
pub fn try_call(ctx: &ProbeContext) -> Result<(), Counter> {
    // SAFETY: plain helper calls.
    let (started_ns, cookie) = unsafe { (bpf_ktime_get_ns(), bpf_get_attach_cookie(ctx.as_ptr())) };
    let Some(task) = task::current().filter(|&task| task::is_of_wanted_process(task)) else {
        return Ok(());
    };
    count(Counter::EntryHits);
    let Some(facts) = facts(task) else { return Ok(()) };
    let event = cookie as u32 & 0xff;
    let frame = register(ctx, (cookie >> 8 & 0xff) as u32);
    let code = code_of(&facts, frame).ok_or(Counter::LostCalls)?;
    if !is_call(&facts, event, (cookie >> 16) as u32, frame, code) {
        return Ok(());
    }
    let key = CodeKey {
        address: code,
        instance: facts.instance.into(),
    };
    // SAFETY: copied out at once.
    let is_timed = config::has(FEATURE_TIME_CALLS) && unsafe { CHOSEN.get(key) }.copied() != Some(NOT_CHOSEN);
    let seen = if is_timed && is_end(event) {
        seen_begin(task, frame, code)
    } else {
        BY_NOBODY
    };
    // Counting changes hands between the two ends of some calls: whoever saw one begin counts it, and once.
    if facts.calls.watched == BY_WATCHES && seen != BY_PROBE {
        return Ok(());
    }
    if event != CALL_BEGIN && seen != BY_WATCH {
        count_call(ctx, task, &facts, event, key, frame)?;
    }
    if is_timed {
        timed(ctx, task, &facts, event, frame, code, started_ns)?;
    }
    spent(started_ns);
    Ok(())
}

/// The evaluation loop returns that was entered with a frame (up to 3.11).
#[inline(always)]
pub fn try_return(ctx: &ProbeContext) -> Result<(), Counter> {
    // SAFETY: a plain helper call.
    let started_ns = unsafe { bpf_ktime_get_ns() };
    let Some(task) = task::current().filter(|&task| task::is_of_wanted_process(task)) else {
        return Ok(());
    };
    count(Counter::ReturnHits);
    // The return address has been taken off the stack.
    let place = stack_pointer(ctx).wrapping_sub(8);
    // SAFETY: copied out at once.
    let Some(process) = (unsafe { PYTHONS.get(task.pid) }) else {
        return Ok(());
    };
    let instance = process.instance;
    let key = start_key(task, place);
    // SAFETY: copied out at once.
    if let Some(start) = unsafe { STARTS.get(key) }.copied() {
        let _ = STARTS.remove(key);
        tell(
            instance,
            started_ns,
            started_ns.wrapping_sub(start.time_ns),
            start.code,
            start.caller,
        )?;
    }
    spent(started_ns);
    Ok(())
}

/// Whether what the probe sees is a call.
#[inline(always)]
fn is_call(facts: &Facts, event: u32, code_flags: u32, frame: u64, code: u64) -> bool {
    match event {
        CALL_LOOP_ENTRY => {
            // The first entry of a generator's code makes the generator, which owns the frame from then on.
            let flags = UserMemory.read_u64(code + u64::from(code_flags)).unwrap_or(0) as u32;
            flags & GENERATOR_FLAGS == 0 || byte(frame + facts.frame_owner) == Some(OWNED_BY_GENERATOR)
        }
        CALL_EXIT => code != facts.calls.cleanup_code && has_begun(facts, frame, code),
        CALL_INNER_EXIT => byte(frame + facts.frame_entry) == Some(0) && has_begun(facts, frame, code),
        _ => true,
    }
}

/// A frame whose call failed because of its arguments is cleared, too.
#[inline(always)]
fn has_begun(facts: &Facts, frame: u64, code: u64) -> bool {
    if facts.calls.not_begun == ALWAYS_BEGUN {
        return true;
    }
    let first = code.wrapping_add(facts.calls.code_adaptive.into());
    match UserMemory.read_u64(frame + facts.frame_instruction) {
        Some(at) => at.wrapping_sub(first) as i64 > i64::from(facts.calls.not_begun),
        None => true,
    }
}

#[inline(always)]
fn count_call(
    ctx: &ProbeContext,
    task: Task,
    facts: &Facts,
    event: u32,
    key: CodeKey,
    frame: u64,
) -> Result<(), Counter> {
    if count_known(facts, event, key, frame) {
        return Ok(());
    }
    // Where ends are seen, the innermost call of a function comes first: if it calls itself, that shows it.
    let nested = u64::from(calls_itself(facts, frame, key.address));
    let first = CallCount {
        calls: 1,
        nested,
        known: if nested != 0 {
            CALLS_RECURSIVE
        } else if is_unlinked(facts, event, frame) {
            CALLS_UNLINKED
        } else {
            0
        },
    };
    CALLS.insert(key, first, 0).map_err(|_| Counter::LostCalls)?;
    let comm = task::comm();
    context::in_uprobe(ctx, |context| {
        // Not sent: user space reads it from the process, if it is still there.
        sample::send_code(context, task, comm, key.address);
        Ok(())
    })
}

/// Counts a call of a function that has been called before; `false` if it has not.
#[inline(always)]
pub fn count_known(facts: &Facts, event: u32, key: CodeKey, frame: u64) -> bool {
    let Some(counted) = CALLS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: the pointer is to a map value. Plain reads of what others add to: they may be one behind.
    unsafe {
        atomic::add(&raw mut (*counted).calls, 1);
        let calls = (*counted).calls;
        let look = (*counted).known & CALLS_RECURSIVE != 0 || calls < LOOK_EVERY || calls % LOOK_EVERY == 0;
        if look && calls_itself(facts, frame, key.address) {
            (*counted).known |= CALLS_RECURSIVE;
            atomic::add(&raw mut (*counted).nested, 1);
        } else if look && is_unlinked(facts, event, frame) {
            (*counted).known |= CALLS_UNLINKED;
        }
    }
    true
}

/// Whether a generator that stops has no caller in its frame any more.
#[inline(always)]
fn is_unlinked(facts: &Facts, event: u32, frame: u64) -> bool {
    event == CALL_YIELD && UserMemory.read_u64(frame + facts.frame_previous) == Some(0)
}

#[inline(always)]
pub fn calls_itself(facts: &Facts, frame: u64, code: u64) -> bool {
    let offsets = facts.frame_code | facts.frame_previous << 16 | u64::from(facts.tagged) << 32;
    is_on_chain(frame, code, offsets) != 0
}

/// How far down a function is looked for.
const MOST_FRAMES: u32 = 256;

/// Whether a frame of `code` is further down the chain than `frame`. A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_on_chain(frame: u64, code: u64, offsets: u64) -> u64 {
    let (frame_code, frame_previous, tagged) = (offsets & 0xffff, offsets >> 16 & 0xffff, offsets >> 32 != 0);
    let mut at = frame;
    let mut i = 0;
    while i < MOST_FRAMES {
        i += 1;
        at = match UserMemory.read_u64(at + frame_previous) {
            Some(previous) if previous != 0 => previous,
            _ => return 0,
        };
        let Some(found) = UserMemory.read_u64(at + frame_code) else {
            return 0;
        };
        if (if tagged { found & !TAG } else { found }) == code {
            return 1;
        }
    }
    0
}

/// A call of a chosen function begins or ends.
#[inline(always)]
fn timed(
    ctx: &ProbeContext,
    task: Task,
    facts: &Facts,
    event: u32,
    frame: u64,
    code: u64,
    now_ns: u64,
) -> Result<(), Counter> {
    match event {
        // It ends where the loop returns.
        CALL_ENTRY | CALL_LOOP_ENTRY => {
            if facts.calls.watched == BY_PROBES_STILL {
                begin_anew(facts, start_key(task, frame), frame, code, now_ns, COUNTED)?;
            }
            begin(facts, start_key(task, stack_pointer(ctx)), frame, code, now_ns)
        }
        CALL_BEGIN => begin(facts, start_key(task, frame), frame, code, now_ns),
        _ => match begun(task, frame, code) {
            Some(start) => end(facts, task, frame, start, now_ns),
            // It began before the probes came.
            None => tell(facts.instance, now_ns, 0, code, 0),
        },
    }
}

#[inline(always)]
fn is_end(event: u32) -> bool {
    matches!(event, CALL_EXIT | CALL_INNER_EXIT | CALL_YIELD)
}

/// [`Start::watched`].
const COUNTED: u64 = 2;

/// Whether the call in this frame, whose bytecode is read for the first time, was counted when the loop was entered.
/// Forgets it.
#[inline(always)]
pub fn was_counted(task: Task, frame: u64, code: u64) -> bool {
    let key = start_key(task, frame);
    // SAFETY: the value is not kept.
    let counted = unsafe { STARTS.get(key) }.is_some_and(|start| start.code == code && start.watched == COUNTED);
    if counted {
        let _ = STARTS.remove(key);
    }
    counted
}

const BY_NOBODY: u64 = 0;
const BY_PROBE: u64 = 1;
const BY_WATCH: u64 = 2;

/// By whom the call of `code` in this frame was seen to begin.
#[inline(always)]
fn seen_begin(task: Task, frame: u64, code: u64) -> u64 {
    // SAFETY: the value is not kept.
    match unsafe { STARTS.get(start_key(task, frame)) } {
        Some(start) if start.code != code => BY_NOBODY,
        Some(start) if start.watched != 0 => BY_WATCH,
        Some(_) => BY_PROBE,
        None => BY_NOBODY,
    }
}

/// The call of `code` in this frame that was seen to begin.
#[inline(always)]
pub fn begun(task: Task, frame: u64, code: u64) -> Option<Start> {
    // SAFETY: copied out at once.
    unsafe { STARTS.get(start_key(task, frame)) }
        .copied()
        .filter(|start| start.code == code)
}

/// It ends.
#[inline(always)]
pub fn end(facts: &Facts, task: Task, frame: u64, start: Start, now_ns: u64) -> Result<(), Counter> {
    let _ = STARTS.remove(start_key(task, frame));
    let took_ns = now_ns.wrapping_sub(start.time_ns).max(1);
    tell(facts.instance, now_ns, took_ns, start.code, start.caller)
}

/// Whether the loop was entered with this frame, whose call was counted then (3.11).
#[inline(always)]
pub fn is_loop_entry(facts: &Facts, frame: u64) -> bool {
    facts.has_loop_entries && byte(frame + facts.frame_entry) != Some(0)
}

#[inline(always)]
fn begin(facts: &Facts, key: StartKey, frame: u64, code: u64, time_ns: u64) -> Result<(), Counter> {
    // When code is first run its beginning may be seen twice: the earlier one is the right one.
    // SAFETY: copied out at once.
    if unsafe { STARTS.get(key) }
        .is_some_and(|start| start.code == code && time_ns.wrapping_sub(start.time_ns) < 10_000)
    {
        return Ok(());
    }
    begin_anew(facts, key, frame, code, time_ns, 0)
}

#[inline(always)]
pub fn begin_anew(
    facts: &Facts,
    key: StartKey,
    frame: u64,
    code: u64,
    time_ns: u64,
    watched: u64,
) -> Result<(), Counter> {
    let caller = UserMemory
        .read_u64(frame + facts.frame_previous)
        .filter(|&previous| previous != 0)
        .and_then(|previous| code_of(facts, previous))
        .unwrap_or(0);
    let start = Start {
        time_ns,
        code,
        caller,
        watched,
    };
    STARTS.insert(key, start, 0).map_err(|_| Counter::LostTimes)
}

#[inline(always)]
fn tell(instance: u32, time_ns: u64, took_ns: u64, code: u64, caller: u64) -> Result<(), Counter> {
    let record = CallRecord {
        kind: RECORD_CALL,
        instance,
        time_ns,
        took_ns,
        code,
        caller,
    };
    if output::send_call(&record) {
        Ok(())
    } else {
        Err(Counter::LostTimes)
    }
}

#[inline(always)]
pub fn start_key(task: Task, place: u64) -> StartKey {
    StartKey {
        place,
        tid: task.tid.into(),
    }
}

/// Whether this is a frame of `code` that returns to `caller`.
#[inline(always)]
pub fn is_called_by(facts: &Facts, frame: u64, caller: u64, code: u64) -> bool {
    UserMemory.read_u64(frame.wrapping_add(facts.frame_previous)) == Some(caller) && code_of(facts, frame) == Some(code)
}

#[inline(always)]
pub fn code_of(facts: &Facts, frame: u64) -> Option<u64> {
    let code = UserMemory.read_u64(frame + facts.frame_code)?;
    Some(if facts.tagged { code & !TAG } else { code })
}

#[inline(always)]
fn byte(address: u64) -> Option<u8> {
    // An aligned word holds it, and lies in the same page.
    let word = UserMemory.read_u64(address & !7)?;
    Some((word >> (8 * (address & 7))) as u8)
}

#[inline(always)]
fn stack_pointer(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context is a `struct pt_regs`.
    unsafe { *ctx.as_ptr().cast::<u64>().add(STACK_POINTER) }
}

#[inline(always)]
pub fn spent(started_ns: u64) {
    // SAFETY: a plain helper call.
    add(
        Counter::RunTimeNs,
        unsafe { bpf_ktime_get_ns() }.wrapping_sub(started_ns),
    );
}
