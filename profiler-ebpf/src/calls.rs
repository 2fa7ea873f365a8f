//! Calls of Python functions, counted one by one.
//!
//! Where a call can be seen depends on the version: on entry to the evaluation loop, where frames are cleared, where
//! generators stop (`python::calls` in user space says why, and finds the places). A probe's cookie says what it sees.
//! Calls are counted by code object in a map; of chosen functions each call is timed and told.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_attach_cookie, bpf_ktime_get_ns},
    programs::ProbeContext,
};
use profiler_common::{
    config::{FEATURE_TIME_CALLS, FEATURE_WATCH_CALLS},
    group::Group,
    python::{
        ALWAYS_BEGUN, BY_WATCHES, CALL_BEGIN, CALL_ENTRY, CALL_EXIT, CALL_INNER_EXIT, CALL_LOOP_ENTRY, CALL_YIELD,
        CALLS_RECURSIVE, CALLS_RESUMED, CALLS_UNLINKED, CallCount, CallFacts, CodeKey, FIRST_BEGUN, LAYOUT_ENTRY_FLAG,
        LAYOUT_TAGGED_EXECUTABLE, NOT_CHOSEN, PROBE_STEPPED, Start, StartKey, Toll,
    },
    record::{BeganRecord, CallRecord, RECORD_BEGAN, RECORD_CALL},
    stats::Counter,
};
use profiler_ebpf::memory::ReadMemory as _;

use crate::{
    atomic, context,
    maps::{BEGINNING, BEGUN, CALL_FACTS, CALLS, CHOSEN, EXPECTED, NOT_NUMBERED, PYTHONS, STARTS, TAKEN_UP},
    output,
    registers::register,
    sample,
    stats::{add_in, count, count_hit, count_in},
    task::{self, Task, config},
    toll::{self, Stop},
    user_memory::UserMemory,
};

/// `CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR` in `co_flags` (Include/cpython/code.h).
const GENERATOR_FLAGS: u32 = 0x20 | 0x80 | 0x200;
/// `FRAME_OWNED_BY_GENERATOR` (pycore_frame.h, 3.11 – 3.15).
const OWNED_BY_GENERATOR: u8 = 1;
/// The tag of an executable (3.14+).
const TAG: u64 = 3;

/// `rip` in `struct pt_regs`. In a probe's handler it is the probe's address (handle_swbp, kernel/events/uprobes.c).
const INSTRUCTION_POINTER: usize = 16;
/// `rsp` in `struct pt_regs`.
const STACK_POINTER: usize = 19;

/// A function that has never been seen to call itself is looked at in its first calls, and then every so many.
const LOOK_EVERY: u64 = 64;

/// What is read of a process for each call.
#[derive(Clone, Copy)]
pub struct Facts {
    pub instance: u32,
    frame_code: u64,
    pub frame_previous: u64,
    pub frame_instruction: u64,
    frame_owner: u64,
    frame_entry: u64,
    tagged: bool,
    code_first_line: u64,
    code_filename: u64,
    code_name: u64,
    string_hash: u64,
    has_loop_entries: bool,
    pub calls: CallFacts,
}

#[inline(always)]
pub fn facts(task: Task, address: u64, cookie: u64) -> Option<Facts> {
    let mut i = 0;
    while i < TRIES {
        if let Some(facts) = told(task.pid, false) {
            return Some(facts);
        }
        match begin_expected(task.pid, address, cookie) {
            BEGUN_NOW => i += 1,
            // Then only user space can know it.
            NOTHING_EXPECTED => return told(task.pid, true),
            _ => return None,
        }
    }
    count(Counter::LostCalls);
    None
}

/// User space can speak of another program again just after the kernel side has mended that.
const TRIES: u32 = 3;

/// What [`begin_expected`] comes to, or 0: the call is lost, and counted as that.
const BEGUN_NOW: u64 = 1;
const NOTHING_EXPECTED: u64 = 2;

/// What is said of the program that a process runs now. `believed`: of one that was not taken up, too. User space may speak of the one that it was before an exec, while the
/// kernel side has taken up this one already: what is counted for that one would be nobody's.
#[inline(always)]
fn told(pid: u32, believed: bool) -> Option<Facts> {
    // SAFETY: copied out at once, but for the process's, of which that is looked after below.
    let (process, calls, taken_up) = unsafe {
        let taken_up = TAKEN_UP.get(pid).copied().unwrap_or(0);
        (PYTHONS.get_ptr(pid)?, CALL_FACTS.get(pid).copied()?, taken_up)
    };
    // SAFETY: the pointer is to a map value. What user space replaces meanwhile stays there until that place is given to
    // another process, which has another number.
    let instance = || unsafe { (&raw const (*process).instance).read_volatile() };
    let before = instance();
    // SAFETY: as above.
    let process = unsafe { &*process };
    let facts = Facts {
        instance: before,
        frame_code: process.frame_code.into(),
        frame_previous: process.frame_previous.into(),
        frame_instruction: process.frame_instruction.into(),
        frame_owner: process.frame_owner.into(),
        frame_entry: process.frame_entry.into(),
        tagged: process.flags & LAYOUT_TAGGED_EXECUTABLE != 0,
        code_first_line: process.code_first_line.into(),
        code_filename: process.code_filename.into(),
        code_name: process.code_name.into(),
        // `Py_ssize_t length; Py_hash_t hash` (Include/cpython/unicodeobject.h, 3.8 – 3.15).
        string_hash: u64::from(process.unicode_length) + 8,
        has_loop_entries: process.flags & LAYOUT_ENTRY_FLAG != 0,
        calls,
    };
    let is_one = instance() == before;
    let is_of_now = match taken_up {
        0 => true,
        NOT_NUMBERED => believed,
        _ => before == taken_up && calls.instance == taken_up,
    };
    (is_one && is_of_now).then_some(facts)
}

/// The number of the program that a process runs now.
#[inline(always)]
fn instance(pid: u32) -> Option<u32> {
    // SAFETY: copied out at once.
    unsafe {
        match TAKEN_UP.get(pid).copied() {
            Some(instance) if instance != NOT_NUMBERED => Some(instance),
            _ => Some(PYTHONS.get(pid)?.instance),
        }
    }
}

/// A process has hit a probe that user space has not told of: if the CPython in the file is known, and it is not being told
/// of just now, it is counted from here on. The probe's own address tells where the process has the file. A
/// global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn begin_expected(pid: u32, address: u64, cookie: u64) -> u64 {
    let in_file = cookie >> 32;
    let file = (cookie >> 24) as u32 & 0xff;
    if in_file == 0 {
        return NOTHING_EXPECTED;
    }
    // SAFETY: the value is used at once.
    let Some(expected) = (unsafe { EXPECTED.get(file) }) else {
        return NOTHING_EXPECTED;
    };
    // The first of several threads does it.
    if BEGINNING.insert(pid, expected, u64::from(BPF_NOEXIST)).is_ok() {
        let is_told = begin_program(pid, address.wrapping_sub(in_file));
        let _ = BEGINNING.remove(pid);
        if is_told {
            return BEGUN_NOW;
        }
    }
    count(Counter::LostCalls);
    0
}

#[inline(always)]
fn begin_program(pid: u32, bias: u64) -> bool {
    let Some(beginning) = BEGINNING.get_ptr_mut(pid) else {
        return false;
    };
    // SAFETY: the pointer is to a map value, which nobody else writes.
    unsafe {
        let process = &raw mut (*beginning).process;
        let moved = [
            &raw mut (*process).key_address,
            &raw mut (*process).code_type,
            &raw mut (*process).eval_start[0],
            &raw mut (*process).eval_start[1],
            &raw mut (*process).eval_end[0],
            &raw mut (*process).eval_end[1],
            &raw mut (*process).eval_frame,
            &raw mut (*beginning).calls.cleanup_code,
        ];
        let mut i = 0;
        while i < moved.len() {
            if *moved[i] != 0 {
                *moved[i] = (*moved[i]).wrapping_add(bias);
            }
            i += 1;
        }
        let Some(instance) = number(pid) else {
            return false;
        };
        (*process).instance = instance;
        (*beginning).calls.instance = instance;
        PYTHONS.insert(pid, &(*beginning).process, 0).is_ok() && CALL_FACTS.insert(pid, &(*beginning).calls, 0).is_ok()
    }
}

/// The number of the program that a process runs: the one it has been given, or a new one, which user space is told before
/// anything is counted under it.
#[inline(always)]
fn number(pid: u32) -> Option<u32> {
    // SAFETY: copied out at once.
    if let Some(given) = unsafe { TAKEN_UP.get(pid) }
        .copied()
        .filter(|&given| given != NOT_NUMBERED)
    {
        return Some(given);
    }
    let begun = BEGUN.get_ptr_mut(0)?;
    // SAFETY: the pointer is to a map value.
    let instance = FIRST_BEGUN | unsafe { atomic::fetch_add(begun, 1) } as u32;
    let record = BeganRecord {
        kind: RECORD_BEGAN,
        pid,
        // SAFETY: a plain helper call.
        time_ns: unsafe { bpf_ktime_get_ns() },
        instance,
        reserved: 0,
    };
    let is_told = output::send_began(&record) && TAKEN_UP.insert(pid, instance, 0).is_ok();
    is_told.then_some(instance)
}

/// Which code lies at an address: what its name, its file's name and its first line make it.
///
/// Of the names it is their hashes, which CPython keeps in each string: those of names are there, since names are
/// interned. A string that has none is told by where it is.
#[inline(always)]
pub fn identity(facts: &Facts, code: u64) -> u32 {
    let name = string_identity(facts, code + facts.code_name);
    let file = string_identity(facts, code + facts.code_filename);
    let line = UserMemory.read_u64(code + facts.code_first_line).unwrap_or(0) as u32;
    // Odd constants: the golden ratio's and another (Knuth, TAOCP 6.4; MurmurHash3).
    let mixed = (name ^ u64::from(line) << 20)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(file.wrapping_mul(0xff51_afd7_ed55_8ccd));
    ((mixed ^ mixed >> 29) >> 16) as u32 | 1
}

#[inline(always)]
fn string_identity(facts: &Facts, field: u64) -> u64 {
    let Some(string) = UserMemory.read_u64(field) else {
        return 0;
    };
    match UserMemory.read_u64(string + facts.string_hash) {
        Some(hash) if hash != u64::MAX => hash,
        _ => string,
    }
}

/// A probe that sees calls.
#[inline(always)]
pub fn try_call(ctx: &ProbeContext) -> Result<(), Counter> {
    // SAFETY: plain helper calls.
    let (started_ns, cookie) = unsafe { (bpf_ktime_get_ns(), bpf_get_attach_cookie(ctx.as_ptr())) };
    let Some(task) = task::current().filter(|&task| task::is_wanted_now(task, Group::Probes)) else {
        count_in(context::PROBES, Counter::OtherHits);
        return Ok(());
    };
    count_hit(cookie);
    let seen = see(ctx, task, cookie, started_ns);
    let stop = if cookie as u32 & PROBE_STEPPED != 0 {
        Stop::Stepped
    } else {
        Stop::Emulated
    };
    end(task, stop, started_ns);
    seen
}

#[inline(always)]
fn see(ctx: &ProbeContext, task: Task, cookie: u64, started_ns: u64) -> Result<(), Counter> {
    let Some(facts) = facts(task, instruction_pointer(ctx), cookie) else {
        return Ok(());
    };
    if config::has(FEATURE_WATCH_CALLS) && facts.calls.watched == BY_WATCHES {
        return Ok(());
    }
    let event = cookie as u32 & 0x7f;
    let frame = register(ctx, (cookie >> 8 & 0xff) as u32);
    let code = code_of(&facts, frame).ok_or(Counter::LostCalls)?;
    if !is_call(&facts, event, (cookie >> 16) as u32 & 0xff, frame, code) {
        return Ok(());
    }
    let key = CodeKey::identified(code, facts.instance, identity(&facts, code));
    if event != CALL_BEGIN {
        count_call(ctx, task, &facts, event, key, frame)?;
    }
    // SAFETY: copied out at once.
    if config::has(FEATURE_TIME_CALLS) && unsafe { CHOSEN.get(key) }.copied() != Some(NOT_CHOSEN) {
        timed(ctx, task, &facts, event, frame, key, started_ns)?;
    }
    Ok(())
}

/// The evaluation loop returns that was entered with a frame (up to 3.11).
#[inline(always)]
pub fn try_return(ctx: &ProbeContext) -> Result<(), Counter> {
    // SAFETY: a plain helper call.
    let started_ns = unsafe { bpf_ktime_get_ns() };
    // Of a task that was not wanted no beginning is known.
    let Some(task) = task::current().filter(|&task| task::is_of_wanted_process(task, Group::Probes)) else {
        return Ok(());
    };
    count_in(context::PROBES, Counter::ReturnHits);
    let seen = see_return(ctx, task, started_ns);
    end(task, Stop::Return, started_ns);
    seen
}

#[inline(always)]
fn see_return(ctx: &ProbeContext, task: Task, started_ns: u64) -> Result<(), Counter> {
    // The return address has been taken off the stack.
    let place = stack_pointer(ctx).wrapping_sub(8);
    let Some(instance) = instance(task.pid) else {
        return Ok(());
    };
    let key = start_key(task, place);
    // SAFETY: copied out at once.
    if let Some(start) = unsafe { STARTS.get(key) }.copied() {
        let _ = STARTS.remove(key);
        tell(
            instance,
            started_ns,
            started_ns.wrapping_sub(start.time_ns),
            &start,
            toll::since(task, &start.paid),
        )?;
    }
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
        known: resumed(event)
            | if nested != 0 {
                CALLS_RECURSIVE
            } else if is_unlinked(facts, event, frame) {
                CALLS_UNLINKED
            } else {
                0
            },
    };
    if CALLS.insert(key, first, u64::from(BPF_NOEXIST)).is_err() {
        // Another thread, with a GIL of its own, has been first.
        return if count_known(facts, event, key, frame) {
            Ok(())
        } else {
            Err(Counter::LostCalls)
        };
    }
    let comm = task::comm();
    context::in_uprobe(ctx, |context| {
        // Not sent: user space reads it from the process, if it is still there.
        sample::send_code(context, task, comm, key);
        Ok(())
    })
}

/// Counts a call of a function that has been called before; `false` if it has not.
#[inline(always)]
fn count_known(facts: &Facts, event: u32, key: CodeKey, frame: u64) -> bool {
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
        if look {
            (*counted).known |= resumed(event);
        }
    }
    true
}

#[inline(always)]
fn resumed(event: u32) -> u64 {
    if event == CALL_YIELD { CALLS_RESUMED } else { 0 }
}

/// Counts a call that begins where bytecode is read, from the frame `caller`.
#[inline(always)]
pub fn count_watched(facts: &Facts, key: CodeKey, caller: u64) -> Result<(), Counter> {
    if let Some(counted) = CALLS.get_ptr_mut(key) {
        // SAFETY: as above.
        unsafe {
            atomic::add(&raw mut (*counted).calls, 1);
            let calls = (*counted).calls;
            let look = (*counted).known & CALLS_RECURSIVE != 0 || calls < LOOK_EVERY || calls % LOOK_EVERY == 0;
            if look && is_inside(facts, caller, key.address) {
                (*counted).known |= CALLS_RECURSIVE;
                atomic::add(&raw mut (*counted).nested, 1);
            }
        }
        return Ok(());
    }
    let nested = u64::from(is_inside(facts, caller, key.address));
    let first = CallCount {
        calls: 1,
        nested,
        known: nested * CALLS_RECURSIVE,
    };
    CALLS.insert(key, first, 0).map_err(|_| Counter::LostCalls)
}

/// Whether a generator that stops has no caller in its frame any more.
#[inline(always)]
fn is_unlinked(facts: &Facts, event: u32, frame: u64) -> bool {
    event == CALL_YIELD && UserMemory.read_u64(frame + facts.frame_previous) == Some(0)
}

/// Whether a call from the frame `caller` is from inside `code`.
#[inline(always)]
pub fn is_inside(facts: &Facts, caller: u64, code: u64) -> bool {
    caller != 0 && (code_of(facts, caller) == Some(code) || calls_itself(facts, caller, code))
}

#[inline(always)]
fn calls_itself(facts: &Facts, frame: u64, code: u64) -> bool {
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
    code: CodeKey,
    now_ns: u64,
) -> Result<(), Counter> {
    let (at, own) = (code.address, code.instance >> 32);
    match event {
        // It ends where the loop returns.
        CALL_ENTRY | CALL_LOOP_ENTRY => begin(facts, task, stack_pointer(ctx), frame, at, own, now_ns),
        CALL_BEGIN => begin(facts, task, frame, frame, at, own, now_ns),
        _ => {
            let key = start_key(task, frame);
            // SAFETY: copied out at once.
            match unsafe { STARTS.get(key) }.copied() {
                Some(start) if start.code == at => {
                    let _ = STARTS.remove(key);
                    let took_ns = now_ns.wrapping_sub(start.time_ns).max(1);
                    tell(facts.instance, now_ns, took_ns, &start, toll::since(task, &start.paid))
                }
                // It began before the probes came.
                _ => {
                    let unknown = Start {
                        time_ns: 0,
                        code: at,
                        caller: 0,
                        identities: own,
                        watched: 0,
                        paid: Toll::default(),
                    };
                    tell(facts.instance, now_ns, 0, &unknown, Toll::default())
                }
            }
        }
    }
}

#[inline(always)]
fn begin(facts: &Facts, task: Task, place: u64, frame: u64, code: u64, own: u64, time_ns: u64) -> Result<(), Counter> {
    let key = start_key(task, place);
    // When code is first run its beginning may be seen twice: the earlier one is the right one.
    // SAFETY: copied out at once.
    if unsafe { STARTS.get(key) }
        .is_some_and(|start| start.code == code && time_ns.wrapping_sub(start.time_ns) < 10_000)
    {
        return Ok(());
    }
    let caller = UserMemory.read_u64(frame + facts.frame_previous).unwrap_or(0);
    // The stop that is going on is not in it: half of its trap, and all that our program does from here on, is in the time
    // of the call, and so is half of the trap that ends it.
    begin_anew(facts, key, caller, code, own, time_ns, 0, toll::so_far(task))
}

/// `caller`: its frame, or 0.
#[inline(always)]
pub fn begin_anew(
    facts: &Facts,
    key: StartKey,
    caller: u64,
    code: u64,
    own: u64,
    time_ns: u64,
    watched: u64,
    paid: Toll,
) -> Result<(), Counter> {
    let caller = if caller == 0 { None } else { code_of(facts, caller) };
    let caller = caller.unwrap_or(0);
    let of_caller = if caller == 0 { 0 } else { identity(facts, caller) };
    let start = Start {
        time_ns,
        code,
        caller,
        identities: own | u64::from(of_caller) << 32,
        watched,
        paid,
    };
    STARTS.insert(key, start, 0).map_err(|_| Counter::LostTimes)
}

/// Whether the loop was entered with this frame, whose call was counted then (3.11).
#[inline(always)]
pub fn is_loop_entry(facts: &Facts, frame: u64) -> bool {
    facts.has_loop_entries && byte(frame + facts.frame_entry) != Some(0)
}

#[inline(always)]
pub fn tell(instance: u32, time_ns: u64, took_ns: u64, call: &Start, paid: Toll) -> Result<(), Counter> {
    let record = CallRecord {
        kind: RECORD_CALL,
        instance,
        time_ns,
        took_ns,
        code: call.code,
        caller: call.caller,
        identity: call.identities as u32,
        caller_identity: (call.identities >> 32) as u32,
        paid,
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
fn instruction_pointer(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context is a `struct pt_regs`.
    unsafe { *ctx.as_ptr().cast::<u64>().add(INSTRUCTION_POINTER) }
}

#[inline(always)]
fn stack_pointer(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context is a `struct pt_regs`.
    unsafe { *ctx.as_ptr().cast::<u64>().add(STACK_POINTER) }
}

/// A stop is over but for the way out.
#[inline(always)]
pub fn end(task: Task, stop: Stop, started_ns: u64) {
    // SAFETY: a plain helper call.
    let took_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(started_ns);
    add_in(context::PROBES, Counter::RunTimeNs, took_ns);
    if config::has(FEATURE_TIME_CALLS) {
        toll::pay(task, stop, took_ns);
    }
}
