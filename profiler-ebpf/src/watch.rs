//! Calls of chosen functions, seen where their bytecode is read.
//!
//! The evaluation loop reads a function's first code unit once in each call, and the unit of a `RETURN_…` when the call
//! is about to return. Hardware breakpoints on those bytes cost only the calls of that function, where probes on the
//! loop cost all calls. `python::bytecode` in user space finds the bytes.
//!
//! Not every access is a call. Others read bytecode (`dis`, `co_code`, tracing): they are not in the evaluation loop,
//! or the innermost frame is not at its first instruction. The loop itself looks at the unit once more, and may write it,
//! when it specializes it (`RESUME` to `RESUME_CHECK`, 3.13 on, and again whenever another thread wants the GIL):
//! [`is_specializing`]. Up to 3.10 it looks at the first one twice when another thread wants the GIL just then:
//! [`has_begun`]. One access remains that cannot be told from a call: from 3.13 on `RESUME` is read again when
//! tracing or monitoring was switched on or off since the function was last called.

use aya_ebpf::{
    EbpfContext as _, bindings::bpf_perf_event_data, helpers::generated::bpf_ktime_get_ns, programs::PerfEventContext,
};
use profiler_common::{
    group::Group,
    python::{
        BY_WATCHES, CodeKey, LAYOUT_CFRAME, LAYOUT_HEAP_FRAMES, PythonProcess, StartKey, Toll, WATCH_ENTRY, Watch,
        WatchKey,
    },
    record::PYTHON_COMPLETE,
    stats::Counter,
    unwind::REGISTER_PC,
};
use profiler_ebpf::{memory::ReadMemory as _, python::thread};

use crate::{
    calls::{self, Facts},
    context::PERF_EVENT,
    maps::{STARTS, WATCHES, scratch},
    sample,
    stats::count,
    task::{self, Task},
    toll::{self, Stop},
    user_memory::UserMemory,
};

/// Bytes of a code unit (3.8 – 3.15).
const UNIT_BYTES: u64 = 2;

/// Watched bytecode was read or written.
#[inline(always)]
pub fn try_hit(ctx: &PerfEventContext) -> Result<(), Counter> {
    // SAFETY: a plain helper call.
    let started_ns = unsafe { bpf_ktime_get_ns() };
    count(Counter::WatchHits);
    let Some(task) = task::current() else { return Ok(()) };
    // SAFETY: the context of this type of program is a `bpf_perf_event_data`.
    let address = unsafe { (*ctx.as_ptr().cast::<bpf_perf_event_data>()).addr };
    let seen = if task::is_wanted_now(task, Group::Probes) {
        see(task, address, started_ns)
    } else {
        Ok(())
    };
    calls::end(task, Stop::Watch, started_ns);
    seen
}

#[inline(always)]
fn see(task: Task, address: u64, started_ns: u64) -> Result<(), Counter> {
    let key = WatchKey {
        address,
        pid: task.pid.into(),
    };
    // SAFETY: copied out at once.
    let Some(watch) = unsafe { WATCHES.get(key) }.copied() else {
        return Ok(());
    };
    let Some(facts) = calls::facts(task, 0, 0).filter(|facts| facts.calls.watched == BY_WATCHES) else {
        return Ok(());
    };
    let innermost = innermost_frame(task)?;
    if innermost == 0 {
        return Ok(());
    }
    let is_own = calls::code_of(&facts, innermost) == Some(watch.code);
    if watch.kind != WATCH_ENTRY {
        if is_own {
            returns(task, &facts, innermost, watch, started_ns)?;
        }
    } else if is_own && is_at_first(&facts, innermost, address)? {
        let caller = UserMemory.read_u64(innermost + facts.frame_previous).unwrap_or(0);
        begins(task, &facts, innermost, caller, watch.code, started_ns)?;
    } else if let Some(frame) = frame_to_be(&facts, watch.code, innermost, address)? {
        begins(task, &facts, frame, innermost, watch.code, started_ns)?;
    }
    Ok(())
}

/// The innermost frame, if it is the evaluation loop that reads; or 0.
#[inline(always)]
fn innermost_frame(task: Task) -> Result<u64, Counter> {
    // Perf events use this memory one at a time.
    let scratch = scratch(PERF_EVENT).ok_or(Counter::LostNoScratch)?;
    scratch.record.header.instance = 0;
    sample::find_python(scratch, task);
    if scratch.record.header.instance == 0 || !task::user_registers(&mut scratch.unwind.registers) {
        return Ok(0);
    }
    let pc = scratch.unwind.registers[REGISTER_PC];
    let PythonProcess {
        eval_start, eval_end, ..
    } = scratch.process;
    let is_in = |index: usize| eval_start[index] <= pc && pc < eval_end[index];
    if !is_in(0) && !is_in(1) {
        return Ok(0);
    }
    scratch.record.python_flags = 0;
    if thread::find_frames(&UserMemory, task::fs_base(), scratch) != PYTHON_COMPLETE {
        return Err(Counter::LostCalls);
    }
    Ok(scratch.frame)
}

/// The new frame, if it is not in the chain yet: it is in some register, and the innermost one is its caller. Compilers
/// may fetch the first instruction before they put the frame into the chain (Debian's 3.13 and 3.14), and even before
/// they write who its caller is: until then what an earlier frame left in that place may be read (3.13.18).
#[inline(always)]
fn frame_to_be(facts: &Facts, code: u64, caller: u64, first: u64) -> Result<Option<u64>, Counter> {
    /// `r15` to `rdi`, in the order of `struct pt_regs`.
    const GENERAL: usize = 15;
    let scratch = scratch(PERF_EVENT).ok_or(Counter::LostNoScratch)?;
    let mut i = 0;
    while i < GENERAL {
        let frame = scratch.unwind.registers[i];
        if frame != caller
            && frame.is_multiple_of(8)
            && calls::code_of(facts, frame) == Some(code)
            && is_at_first(facts, frame, first) == Ok(true)
        {
            return Ok(Some(frame));
        }
        i += 1;
    }
    Ok(None)
}

/// Whether the frame has not begun to run the instruction at `first`, its first one, which is being read.
#[inline(always)]
fn is_at_first(facts: &Facts, frame: u64, first: u64) -> Result<bool, Counter> {
    let scratch = scratch(PERF_EVENT).ok_or(Counter::LostNoScratch)?;
    let at = UserMemory
        .read_u64(frame + facts.frame_instruction)
        .ok_or(Counter::LostCalls)?;
    Ok(if scratch.process.flags & LAYOUT_HEAP_FRAMES != 0 {
        // `f_lasti`, before or after it is set.
        matches!(at as u32 as i32, -1 | 0)
    } else if scratch.process.flags & LAYOUT_CFRAME != 0 {
        // `prev_instr`: one unit before (3.11, 3.12).
        at == first.wrapping_sub(UNIT_BYTES)
    } else {
        // `instr_ptr` is there before and while it runs.
        at == first && !is_specializing(scratch.unwind.registers[REGISTER_PC], first)
    })
}

/// Whether the machine instruction that ends at `pc` has an immediate operand and one in memory: `mov byte [register +
/// displacement], imm8` of what is at `address` now, or `cmp`, which asks whether it is to be written. What the compiler
/// makes of a dispatch, `movzx` or `mov` to a register, is not mistaken for them: where these have their opcode (C6 /0,
/// 80 /7), those have theirs, or a prefix.
#[inline(always)]
fn is_specializing(pc: u64, address: u64) -> bool {
    const MOV: (u8, u8) = (0xc6, 0);
    const CMP: (u8, u8) = (0x80, 7);
    /// `RESUME` and what it becomes have opcodes from here on (3.13 – 3.15): no displacement of a code unit.
    const RESUMES: u8 = 0x80;
    let (Some(code), Some(unit)) = (UserMemory.read_u64(pc.wrapping_sub(8)), UserMemory.read_u64(address)) else {
        return false;
    };
    let back = |bytes: u64| (code >> (64 - 8 * bytes)) as u8;
    // `reg` of ModRM belongs to the opcode; `mod` says how long the displacement is; with `rm` 4 a SIB byte follows.
    let has = |(opcode, reg): (u8, u8), bytes: u64, mode: u8, sib: bool| {
        let modrm = back(bytes - 1);
        back(bytes) == opcode && modrm >> 3 == mode << 3 | reg && (modrm & 7 == 4) == sib
    };
    let is = |opcode| {
        has(opcode, 3, 0, false) || has(opcode, 4, 1, false) || has(opcode, 4, 0, true) || has(opcode, 5, 1, true)
    };
    (back(1) == unit as u8 && is(MOV)) || (back(1) >= RESUMES && is(CMP))
}

#[inline(always)]
fn begins(task: Task, facts: &Facts, frame: u64, caller: u64, code: u64, started_ns: u64) -> Result<(), Counter> {
    let scratch = scratch(PERF_EVENT).ok_or(Counter::LostNoScratch)?;
    let pc = scratch.unwind.registers[REGISTER_PC];
    let at = calls::start_key(task, frame);
    if scratch.process.flags & LAYOUT_HEAP_FRAMES != 0 && has_begun(at, code, pc) {
        return Ok(());
    }
    let key = CodeKey::identified(code, facts.instance, calls::identity(facts, code));
    calls::count_watched(facts, key, caller)?;
    let paid = toll::so_far(task);
    // What we have done here is not the call's.
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    calls::begin_anew(
        facts,
        at,
        caller,
        code,
        key.instance >> 32,
        now_ns,
        pc.max(1),
        // Nor is this stop, which is taken off at the end: what is paid from now on begins with it.
        Toll {
            watches: paid.watches.wrapping_add(1),
            program_ns: paid.program_ns.wrapping_add(now_ns.wrapping_sub(started_ns)),
            ..paid
        },
    )
}

/// Whether the call has been seen to begin. Another thread may be let run as the first thing in a call: the loop then reads
/// its first instruction once before and once after that, in two places (`eval_breaker` in `_PyEval_EvalFrameDefault`,
/// 3.8 – 3.10). What is left of an earlier call in this frame, which an exception has ended, was read where this one is,
/// unless another thread was let run just then.
#[inline(always)]
fn has_begun(at: StartKey, code: u64, pc: u64) -> bool {
    let Some(start) = STARTS.get_ptr_mut(at) else {
        return false;
    };
    // SAFETY: the pointer is to a map value, which nobody but this thread writes.
    unsafe {
        let before = (*start).watched;
        let again = (*start).code == code && before != 0 && before != pc;
        if again {
            (*start).watched = pc;
        }
        again
    }
}

/// A call that ends by an exception does not come here: its beginning is overwritten by the next one's in this frame, or
/// forgotten.
#[inline(always)]
fn returns(task: Task, facts: &Facts, frame: u64, watch: Watch, now_ns: u64) -> Result<(), Counter> {
    let at = calls::start_key(task, frame);
    // SAFETY: copied out at once.
    let Some(start) = unsafe { STARTS.get(at) }
        .copied()
        .filter(|start| start.code == watch.code)
    else {
        // Up to 3.11 a probe has seen it begin, and has counted it then.
        return Ok(());
    };
    // A probe has seen it begin, and would have counted it when it ends.
    if start.watched == 0 {
        if calls::is_loop_entry(facts, frame) {
            return Ok(());
        }
        let key = CodeKey::identified(start.code, facts.instance, start.identities as u32);
        let caller = UserMemory.read_u64(frame + facts.frame_previous).unwrap_or(0);
        calls::count_watched(facts, key, caller)?;
    }
    let _ = STARTS.remove(at);
    // Between the two times lie the way out of one stop and into the other.
    let trap_ns = if start.watched != 0 {
        watch.trap_ns
    } else {
        watch.trap_ns / 2
    };
    let ended_ns = now_ns.saturating_sub(trap_ns).max(start.time_ns + 1);
    let took_ns = ended_ns - start.time_ns;
    calls::tell(
        facts.instance,
        ended_ns,
        took_ns,
        &start,
        toll::since(task, &start.paid),
    )
}
