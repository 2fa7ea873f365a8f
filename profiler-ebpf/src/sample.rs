//! One sample of the running task, whatever event it is taken at: a service for every program of this object.
//!
//! `take` is all of it. A program brings its event, for the kernel's stack, and the [`Context`] whose working memory it
//! may use.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use profiler_common::{
    limits::COMM_BYTES,
    python::{CodeKey, PythonProcess},
    record::{
        KnownStack, MemoryEvent, PYTHON_NONE, RECORD_DEFINITION, RECORD_MARK, RECORD_MEMORY, RECORD_SAMPLE,
        RECORD_STACK, SampleHeader, StackKey,
    },
    stats::Counter,
};
use profiler_ebpf::{hash::mix, scratch::Scratch};

use crate::{
    code,
    context::Context,
    maps::{PYTHONS, STACKS, scratch},
    native, output,
    stats::{add_in, count_in, raise_in},
    task::{Task, config},
    walk,
};

/// Samples `task`, which is the running one and wanted; `comm` is its name. An error is the name under which the sample
/// is lost.
///
/// `event`: the program's own context, or none where the thread comes straight from user space, and has no kernel stack.
#[inline(always)]
pub fn take(event: Option<*mut c_void>, context: Context, task: Task, comm: [u64; 2]) -> Result<(), Counter> {
    count_in(context, Counter::Samples);
    let started_ns = stack(event, context, task, comm)?;
    let sent = send(context);
    finish(context, started_ns);
    sent
}

/// Puts it into the working memory until the stack is there. On the program's own stack the verifier would know what is in it,
/// and check the walk anew for each kind of event: on 6.1, 700,000 instructions for the end of system calls, more than a minute
/// where the kernel is emulated, in place of 135,000 and 12 s.
#[inline(always)]
fn keep_event(context: Context, event: MemoryEvent) -> Result<(), Counter> {
    let working = scratch(context).ok_or(Counter::LostNoScratch)?;
    working.memory.event = event;
    Ok(())
}

/// Sends what happened to the memory of `task`, the running one, with its stack.
#[inline(always)]
pub fn take_memory(context: Context, task: Task, comm: [u64; 2], event: MemoryEvent) -> Result<(), Counter> {
    count_in(context, Counter::Samples);
    keep_event(context, event)?;
    let started_ns = stack(None, context, task, comm)?;
    define(context)?;
    let scratch = scratch(context).ok_or(Counter::LostNoScratch)?;
    let sent = send_memory(scratch);
    finish(context, started_ns);
    sent
}

/// The same, with no more of its stack than Python frames.
#[inline(always)]
pub fn take_memory_of_python(context: Context, task: Task, comm: [u64; 2], event: MemoryEvent) -> Result<(), Counter> {
    count_in(context, Counter::Samples);
    keep_event(context, event)?;
    // SAFETY: a plain helper call.
    let started_ns = unsafe { bpf_ktime_get_ns() };
    let working = scratch(context).ok_or(Counter::LostNoScratch)?;
    begin(working, task, comm, started_ns);
    find_python(working, task);
    native::none(context)?;
    python(context, walk::capture_of_user)?;
    name(context)?;
    define(context)?;
    let working = scratch(context).ok_or(Counter::LostNoScratch)?;
    let sent = send_memory(working);
    finish(context, started_ns);
    sent
}

/// Sees to it that user space has the stack of `task`, the running one: a record that refers to it follows, whose header is
/// in the working memory.
#[inline(always)]
pub fn take_definition(
    event: Option<*mut c_void>,
    context: Context,
    task: Task,
    comm: [u64; 2],
) -> Result<(), Counter> {
    count_in(context, Counter::Samples);
    let started_ns = stack(event, context, task, comm)?;
    let defined = define(context);
    finish(context, started_ns);
    defined
}

/// Names the Python stack in the working memory, and sees to it that user space has it, but not its code: that is read from
/// outside. `false` if it is not one.
#[inline(always)]
pub fn define_without_code(context: Context) -> bool {
    if name(context).is_err() {
        return false;
    }
    let Some(working) = scratch(context) else { return false };
    // SAFETY: the pointer is to the first frame in the working memory.
    if unsafe { (*working.python_frame(0)).fingerprint } == 0 {
        return false;
    }
    send_without_code(context)
}

/// Sees to it that user space has the stack in the working memory, which is named, but not its code.
#[inline(always)]
pub fn send_without_code(context: Context) -> bool {
    let Some(working) = scratch(context) else { return false };
    if working.known != 0 {
        return true;
    }
    working.record.header.kind = RECORD_DEFINITION;
    working.record.place = working.place;
    if !output::send_stack(working, false) {
        count_in(context, Counter::LostRingFull);
        return false;
    }
    count_in(context, Counter::StacksSent);
    let (place, fingerprint) = (working.place, working.fingerprint);
    let _ = STACKS.insert(place, KnownStack::new(place, fingerprint, working.generation), 0);
    true
}

/// Sends what happened to the memory of `task`, the running one; how it came to it matters to nobody.
#[inline(always)]
pub fn take_memory_without_stack(
    context: Context,
    task: Task,
    comm: [u64; 2],
    event: MemoryEvent,
) -> Result<(), Counter> {
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let scratch = scratch(context).ok_or(Counter::LostNoScratch)?;
    begin(scratch, task, comm, now_ns);
    scratch.record.header.stack = StackKey { hash: [0; 2] };
    scratch.memory.event = event;
    send_memory(scratch)
}

/// Begins what a probe has to tell of `task`, the running one, in the working memory: with its stack, which is sent if need
/// be, or without.
#[inline(always)]
pub fn begin_mark(context: Context, task: Task, comm: [u64; 2], with_stack: bool) -> Result<(), Counter> {
    if with_stack {
        stack(None, context, task, comm)?;
        define(context)?;
    } else {
        // SAFETY: a plain helper call.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        let scratch = scratch(context).ok_or(Counter::LostNoScratch)?;
        begin(scratch, task, comm, now_ns);
        scratch.record.header.stack = StackKey { hash: [0; 2] };
    }
    let scratch = scratch(context).ok_or(Counter::LostNoScratch)?;
    scratch.record.header.kind = RECORD_MARK;
    copy_header(&scratch.record.header, &mut scratch.mark.header);
    Ok(())
}

/// Sends something that refers to the stack in the working memory, and the stack if need be.
#[inline(always)]
pub fn send_defined(context: Context, event: MemoryEvent) -> Result<(), Counter> {
    count_in(context, Counter::Samples);
    define(context)?;
    let scratch = scratch(context).ok_or(Counter::LostNoScratch)?;
    scratch.memory.event = event;
    send_memory(scratch)
}

/// Sends one code object of the running task's process, if it was not sent. `true` if user space has it. `key`: what its
/// calls are counted under.
#[inline(always)]
pub fn send_code(context: Context, task: Task, comm: [u64; 2], key: CodeKey) -> bool {
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(working) = scratch(context) else { return false };
    begin(working, task, comm, now_ns);
    find_python(working, task);
    // Of this program, whatever user space has just said of another.
    working.process.instance = key.instance as u32;
    working.record.header.instance = key.instance as u32;
    working.identity = key.instance >> 32;
    working.addresses = 0;
    working.record.python_len = 1;
    let frame = working.python_frame(0);
    // SAFETY: the pointer is to the first frame in the working memory.
    unsafe {
        (*frame).code = key.address;
        (*frame).instruction = 0;
    }
    code::identify(context);
    code::send_missing(context)
}

/// Leaves the stack of `task` in the working memory, hashed; when it began.
#[inline(always)]
pub fn stack(event: Option<*mut c_void>, context: Context, task: Task, comm: [u64; 2]) -> Result<u64, Counter> {
    // SAFETY: a plain helper call.
    let started_ns = unsafe { bpf_ktime_get_ns() };
    let scratch = scratch(context).ok_or(Counter::LostNoScratch)?;
    begin(scratch, task, comm, started_ns);
    find_python(scratch, task);
    native::capture(event, context)?;
    python(context, walk::capture)?;
    name(context)?;
    Ok(started_ns)
}

#[inline(always)]
fn finish(context: Context, started_ns: u64) {
    // Of a program that was interrupted, with the interruption.
    // SAFETY: a plain helper call.
    let took_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(started_ns);
    add_in(context, Counter::RunTimeNs, took_ns);
    raise_in(context, Counter::LongestNs, took_ns);
}

/// Begins a record of this task in the working memory.
#[inline(always)]
pub fn begin(scratch: &mut Scratch, task: Task, comm: [u64; 2], time_ns: u64) {
    let header: &mut SampleHeader = &mut scratch.record.header;
    // SAFETY: a plain helper call.
    header.cpu = unsafe { bpf_get_smp_processor_id() };
    header.pid = task.pid;
    header.tid = task.tid;
    header.time_ns = time_ns;
    header.instance = 0;
    header.python = PYTHON_NONE;
    // SAFETY: two words are 16 bytes.
    header.comm = unsafe { core::mem::transmute::<[u64; 2], [u8; COMM_BYTES]>(comm) };
    header.stack = StackKey {
        hash: config::hash_seed(),
    };
    mix(&mut header.stack, u64::from(task.pid));
    scratch.record.python_len = 0;
    scratch.record.python_flags = 0;
    scratch.identity = 0;
    scratch.fingerprint = 0;
    scratch.generation = 0;
}

/// Looks up whether the process is known to be a CPython.
#[inline(always)]
pub fn find_python(scratch: &mut Scratch, task: Task) {
    // SAFETY: copied out at once.
    let Some(process) = (unsafe { PYTHONS.get(task.pid) }) else {
        return;
    };
    copy(process, &mut scratch.process);
    scratch.record.header.instance = scratch.process.instance;
}

/// The Python stack, if the process is known to be a CPython.
#[inline(always)]
fn python(context: Context, capture: impl FnOnce(Context)) -> Result<(), Counter> {
    if scratch(context).ok_or(Counter::LostNoScratch)?.record.header.instance == 0 {
        return Ok(());
    }
    capture(context);
    let scratch = scratch(context).ok_or(Counter::LostNoScratch)?;
    let status = u64::from(scratch.record.header.python) << 32 | u64::from(scratch.record.python_flags);
    mix(&mut scratch.record.header.stack, status);
    mix(&mut scratch.record.header.stack, u64::from(scratch.process.instance));
    Ok(())
}

/// Names the stack by what it is, and finds out whether user space has it.
///
/// Where the stack is (its addresses) does not say what it is: an address can come to hold another code object. So the
/// fingerprints of the code are part of the name. They need not be taken while the interpreter's generation is the same
/// as when they were taken last: since then no code object was made, or none has gone.
#[inline(always)]
fn name(context: Context) -> Result<(), Counter> {
    let working = scratch(context).ok_or(Counter::LostNoScratch)?;
    working.known = 0;
    let place = working.record.header.stack;
    working.place = place;
    let generation = working.generation;
    if working.record.header.instance == 0 || working.record.python_len == 0 {
        // SAFETY: the value is not kept.
        working.known = u32::from(unsafe { STACKS.get(place) }.is_some());
        return Ok(());
    }
    // SAFETY: copied out at once.
    let known = unsafe { STACKS.get(place) }.copied().filter(|known| known.is_of(place));
    let fingerprint = match known {
        Some(known) if generation != 0 && known.generation == generation => {
            working.known = 1;
            known.fingerprint
        }
        _ => {
            code::identify(context);
            let working = scratch(context).ok_or(Counter::LostNoScratch)?;
            let fingerprint = working.fingerprint;
            if let Some(known) = known {
                if known.fingerprint == fingerprint {
                    working.known = 1;
                    if generation != 0 {
                        let _ = STACKS.insert(place, KnownStack::new(place, fingerprint, generation), 0);
                    }
                } else {
                    count_in(context, Counter::CodesReplaced);
                }
            }
            fingerprint
        }
    };
    let working = scratch(context).ok_or(Counter::LostNoScratch)?;
    working.fingerprint = fingerprint;
    mix(&mut working.record.header.stack, fingerprint);
    Ok(())
}

/// Copies word by word: `memcpy` is a loop over bytes in BPF.
#[inline(always)]
fn copy(from: &PythonProcess, to: &mut PythonProcess) {
    const WORDS: usize = size_of::<PythonProcess>() / 8;
    let from = (&raw const *from).cast::<u64>();
    let to = (&raw mut *to).cast::<u64>();
    let mut i = 0;
    while i < WORDS {
        // SAFETY: both are `WORDS` words long and aligned (asserted below). Volatile: keeps LLVM from turning the loop
        // into a call of `memcpy`.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        i += 1;
    }
}

const _: () = assert!(size_of::<PythonProcess>() % 8 == 0 && align_of::<PythonProcess>() == 8);

#[inline(always)]
fn send(context: Context) -> Result<(), Counter> {
    let working = scratch(context).ok_or(Counter::LostNoScratch)?;
    if working.known != 0 {
        let header = &mut working.record.header;
        header.kind = RECORD_SAMPLE;
        return if output::send_sample(header) {
            Ok(())
        } else {
            Err(Counter::LostRingFull)
        };
    }
    send_whole(context, RECORD_STACK)
}

/// Sees to it that user space has the stack.
#[inline(always)]
fn define(context: Context) -> Result<(), Counter> {
    if scratch(context).ok_or(Counter::LostNoScratch)?.known != 0 {
        return Ok(());
    }
    send_whole(context, RECORD_DEFINITION)
}

#[inline(always)]
fn send_whole(context: Context, kind: u32) -> Result<(), Counter> {
    // Code objects first: when user space reads the stack, it has their names.
    let complete = code::send_missing(context);
    let scratch = scratch(context).ok_or(Counter::LostNoScratch)?;
    scratch.record.header.kind = kind;
    scratch.record.place = scratch.place;
    // The process may be gone soon, and what is missing with it.
    if !output::send_stack(scratch, !complete) {
        return Err(Counter::LostRingFull);
    }
    count_in(context, Counter::StacksSent);
    // Known only when nothing of it is missing: otherwise the next sample of this stack brings more of its code.
    if complete {
        // A failure means that it is sent once more.
        let (place, fingerprint) = (scratch.place, scratch.fingerprint);
        let _ = STACKS.insert(place, KnownStack::new(place, fingerprint, scratch.generation), 0);
    }
    Ok(())
}

#[inline(always)]
fn copy_header(from: &SampleHeader, to: &mut SampleHeader) {
    const WORDS: usize = size_of::<SampleHeader>() / 8;
    let from = (&raw const *from).cast::<u64>();
    let to = (&raw mut *to).cast::<u64>();
    let mut i = 0;
    while i < WORDS {
        // SAFETY: both are `WORDS` words long and aligned. Volatile: as in `copy`.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        i += 1;
    }
}

#[inline(always)]
fn send_memory(scratch: &mut Scratch) -> Result<(), Counter> {
    scratch.record.header.kind = RECORD_MEMORY;
    copy_header(&scratch.record.header, &mut scratch.memory.header);
    if output::send_memory(&scratch.memory) {
        Ok(())
    } else {
        Err(Counter::LostMemoryEvents)
    }
}
