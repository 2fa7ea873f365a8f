//! The native stack of the running thread, by the tables of `profiler_common::unwind`.
//!
//! Nothing here is guessed: a frame follows from its callee by a rule of the file's own unwind information, or, where
//! code has none (machine code made at run time), by the frame pointer. Where neither leads on, the stack ends with a
//! status that says why.

use core::ptr::{read_volatile, write_volatile};

use profiler_common::{
    limits::{ADDRESS_SLOTS, MAX_NATIVE_ADDRESSES, STACK_WINDOW_BYTES},
    record::{
        NATIVE_BAD_FRAME_POINTER, NATIVE_COMPLETE, NATIVE_NO_ROOM, NATIVE_NONE, NATIVE_NOT_ADVANCING, NATIVE_NOT_CODE,
        NATIVE_NOT_COVERED, NATIVE_REGISTER_LOST, NATIVE_TABLE_NOT_READY, NATIVE_TRUNCATED, NATIVE_UNREADABLE,
        NATIVE_UNSUPPORTED,
    },
    unwind::{
        CFA_DEREF_FP, CFA_DEREF_SP, CFA_END, CFA_FP, CFA_FRAME_POINTER, CFA_NONE, CFA_PLT, CFA_REGISTER, CFA_SIGNAL,
        CFA_SP, FILE_FRAME_POINTERS, FILE_NO_ROOM, FILE_TABLE, FP_AT_CFA, FP_AT_FP, FP_LOST, NO_FILE, PAGE_BITS,
        RA_IN_REGISTER, REGISTER_FP, REGISTER_PC, REGISTER_SP, REGISTERS, SHARD_ROWS, UCONTEXT_FP, UCONTEXT_PC,
        UCONTEXT_SP, UnwindFile, UnwindMapping, UnwindPage, UnwindProcess, UnwindRule, row_low, row_rule,
    },
};

use crate::{hash::mix, memory::ReadMemory, scratch::Scratch};

/// The tables, wherever they are kept.
pub trait UnwindTables {
    fn mapping(&self, index: u32) -> Option<&UnwindMapping>;
    fn file(&self, index: u32) -> Option<&UnwindFile>;
    fn page(&self, index: u32) -> Option<&UnwindPage>;
    /// The first of [`SHARD_ROWS`] rows.
    fn shard(&self, index: u32) -> Option<*const u32>;
    fn rule(&self, index: u32) -> Option<&UnwindRule>;
}

/// Slots for registers: a power of two, to make the index maskable.
pub const REGISTER_SLOTS: usize = 32;
const _: () = assert!(REGISTERS <= REGISTER_SLOTS);

/// Where the unwinder is.
#[repr(C)]
pub struct Unwind {
    /// The registers with which the thread left user space, as the kernel's `struct pt_regs` has them.
    pub registers: [u64; REGISTER_SLOTS],
    pub pc: u64,
    pub sp: u64,
    pub fp: u64,
    /// Where the process's mappings are.
    pub process: UnwindProcess,
    /// The mapping of the last address: the next one is usually in the same.
    pub mapping: UnwindMapping,
    /// `pc` is that of an instruction, and not one to return to.
    pub exact: u32,
    /// All of `registers` are this frame's.
    pub leaf: u32,
    /// The caller's `fp` could not be known.
    pub fp_lost: u32,
    /// State of the binary searches.
    pub low: u32,
    pub count: u32,
    pub reserved: u32,
    /// `window` holds the stack from here …
    pub window_start: u64,
    /// … for this many bytes.
    pub window_len: u64,
    pub window: [u64; STACK_WINDOW_BYTES / 8],
}

/// Prepares for [`step`]; `registers` and `process` are filled in.
#[inline(always)]
pub fn start(scratch: &mut Scratch) {
    let unwind = &mut scratch.unwind;
    unwind.pc = unwind.registers[REGISTER_PC];
    unwind.sp = unwind.registers[REGISTER_SP];
    unwind.fp = unwind.registers[REGISTER_FP];
    unwind.exact = 1;
    unwind.leaf = 1;
    unwind.fp_lost = 0;
    unwind.window_len = 0;
    unwind.mapping.start = 0;
    unwind.mapping.end = 0;
    scratch.record.native_len = 0;
    scratch.record.native_status = NATIVE_NONE;
}

/// Records one frame and goes to its caller. `true` if there may be one; otherwise `native_status` says why not.
#[inline(always)]
pub fn step<M: ReadMemory, T: UnwindTables>(memory: &M, tables: &T, scratch: &mut Scratch) -> bool {
    match try_step(memory, tables, scratch) {
        Ok(()) => true,
        Err(status) => {
            scratch.record.native_status = status;
            false
        }
    }
}

/// Records the sampled instruction alone.
#[inline(always)]
pub fn leaf(scratch: &mut Scratch, status: u32) {
    let _ = push(scratch, get(&scratch.unwind.pc));
    scratch.record.native_status = status;
}

#[inline(always)]
fn try_step<M: ReadMemory, T: UnwindTables>(memory: &M, tables: &T, scratch: &mut Scratch) -> Result<(), u32> {
    // A return address can be that of the next function, where the callee never returns.
    let address = get(&scratch.unwind.pc).wrapping_sub(u64::from(scratch.unwind.exact == 0));
    let mapping = &scratch.unwind.mapping;
    let known = address >= mapping.start && address < mapping.end;
    let known = known || find_mapping(tables, scratch, address);
    // What does not lie in code is no return address. The sampled instruction is what it is.
    if known || scratch.unwind.leaf != 0 {
        push(scratch, address)?;
    }
    if !known {
        return Err(NATIVE_NOT_CODE);
    }
    let rule = match find_rule(tables, scratch, address)? {
        Some(rule) => rule,
        None => return leave_generated(memory, scratch),
    };
    apply(memory, scratch, rule, address)
}

/// Adds an address to the record and its hash.
#[inline(always)]
fn push(scratch: &mut Scratch, address: u64) -> Result<(), u32> {
    let len = get(&scratch.record.native_len);
    if len >= MAX_NATIVE_ADDRESSES as u32 {
        return Err(NATIVE_TRUNCATED);
    }
    // The evaluation loop gives way to the Python frames it runs, so where in it a frame is does not matter: without
    // this nearly every sample of interpreted code would be a stack of its own.
    let mut address = address;
    if scratch.record.header.instance != 0 {
        let process = &scratch.process;
        if address >= process.eval_start[0] && address < process.eval_end[0] {
            address = process.eval_start[0];
        } else if address >= process.eval_start[1] && address < process.eval_end[1] {
            address = process.eval_start[1];
        }
    }
    let at = get(&scratch.record.kernel_len).wrapping_add(len) as usize & (ADDRESS_SLOTS - 1);
    // SAFETY: `at` is masked to less than ADDRESS_SLOTS, of which `words` has more.
    unsafe { scratch.record.words.as_mut_ptr().add(at).write(address) };
    scratch.record.native_len = len + 1;
    mix(&mut scratch.record.header.stack, address);
    Ok(())
}

/// More mappings than a process can have here: 2^16.
const MAX_SEARCH: u32 = 17;

/// Makes `mapping` the one that holds `address`.
#[inline(always)]
fn find_mapping<T: UnwindTables>(tables: &T, scratch: &mut Scratch, address: u64) -> bool {
    // A list of none is not told from its neighbour's by where it begins.
    if scratch.unwind.process.mappings == 0 {
        return false;
    }
    set(&mut scratch.unwind.low, scratch.unwind.process.first_mapping);
    set(&mut scratch.unwind.count, scratch.unwind.process.mappings);
    let mut i = 0;
    while i < MAX_SEARCH {
        let count = get(&scratch.unwind.count);
        if count <= 1 {
            break;
        }
        let half = count / 2;
        let middle = get(&scratch.unwind.low).wrapping_add(half);
        let Some(mapping) = tables.mapping(middle) else {
            return false;
        };
        if mapping.start <= address {
            set(&mut scratch.unwind.low, middle);
        }
        set(&mut scratch.unwind.count, count - half);
        i += 1;
    }
    let Some(mapping) = tables.mapping(get(&scratch.unwind.low)) else {
        return false;
    };
    if address < mapping.start || address >= mapping.end {
        return false;
    }
    scratch.unwind.mapping.start = mapping.start;
    scratch.unwind.mapping.end = mapping.end;
    scratch.unwind.mapping.to_file = mapping.to_file;
    scratch.unwind.mapping.file = mapping.file;
    true
}

/// The rule for an address in `mapping`; `None` for code that keeps frame pointers instead.
#[inline(always)]
fn find_rule<'t, T: UnwindTables>(
    tables: &'t T,
    scratch: &mut Scratch,
    address: u64,
) -> Result<Option<&'t UnwindRule>, u32> {
    let file = scratch.unwind.mapping.file;
    if file == NO_FILE {
        return Ok(None);
    }
    // More files than there are places for.
    let file = tables.file(file).ok_or(NATIVE_NO_ROOM)?;
    match file.state {
        FILE_TABLE => {}
        FILE_FRAME_POINTERS => return Ok(None),
        FILE_NO_ROOM => return Err(NATIVE_NO_ROOM),
        _ => return Err(NATIVE_TABLE_NOT_READY),
    }
    let in_file = address.wrapping_add(scratch.unwind.mapping.to_file);
    let at = in_file.wrapping_sub(file.base) >> PAGE_BITS;
    if at >= u64::from(file.pages) {
        return Err(NATIVE_NOT_COVERED);
    }
    let page = tables
        .page(file.first_page.wrapping_add(at as u32))
        .ok_or(NATIVE_NOT_COVERED)?;
    let rows = tables.shard(page.first / SHARD_ROWS as u32).ok_or(NATIVE_NOT_COVERED)?;
    let wanted = in_file as u16;

    set(&mut scratch.unwind.low, page.first);
    set(&mut scratch.unwind.count, page.rows);
    let mut i = 0;
    while i < MAX_SEARCH {
        let count = get(&scratch.unwind.count);
        if count <= 1 {
            break;
        }
        let half = count / 2;
        let middle = get(&scratch.unwind.low).wrapping_add(half);
        if row_low(row_at(rows, middle)) <= wanted {
            set(&mut scratch.unwind.low, middle);
        }
        set(&mut scratch.unwind.count, count - half);
        i += 1;
    }
    let rule = row_rule(row_at(rows, get(&scratch.unwind.low)));
    tables.rule(u32::from(rule)).map(Some).ok_or(NATIVE_NOT_COVERED)
}

#[inline(always)]
fn row_at(rows: *const u32, index: u32) -> u32 {
    // SAFETY: a local is valid for reads. Volatile: see the crate's documentation.
    let index = unsafe { read_volatile(&raw const index) } as usize & (SHARD_ROWS - 1);
    // SAFETY: `rows` points to SHARD_ROWS rows.
    unsafe { rows.add(index).read() }
}

/// Goes to the caller by a rule.
#[inline(always)]
fn apply<M: ReadMemory>(memory: &M, scratch: &mut Scratch, rule: &UnwindRule, address: u64) -> Result<(), u32> {
    let (sp, fp) = (get(&scratch.unwind.sp), get(&scratch.unwind.fp));
    let offset = i64::from(rule.cfa_offset) as u64;
    let extra = i64::from(rule.cfa_extra) as u64;
    let fp_needed = rule.cfa == CFA_FP || rule.cfa == CFA_DEREF_FP || rule.fp == FP_AT_FP;
    if fp_needed && scratch.unwind.fp_lost != 0 {
        return Err(NATIVE_REGISTER_LOST);
    }
    let cfa = match rule.cfa {
        CFA_SP => sp.wrapping_add(offset),
        CFA_FP => fp.wrapping_add(offset),
        CFA_DEREF_FP => read_stack(memory, scratch, fp.wrapping_add(offset))?.wrapping_add(extra),
        CFA_DEREF_SP => read_stack(memory, scratch, sp.wrapping_add(offset))?.wrapping_add(extra),
        CFA_REGISTER => {
            if scratch.unwind.leaf == 0 {
                return Err(NATIVE_REGISTER_LOST);
            }
            register(scratch, rule.register).wrapping_add(offset)
        }
        CFA_PLT => {
            let pushed = if address & 15 >= extra { 8 } else { 0 };
            sp.wrapping_add(offset).wrapping_add(pushed)
        }
        CFA_SIGNAL => {
            if scratch.unwind.exact == 0 {
                correct_trampoline(scratch);
            }
            return leave_signal(memory, scratch, sp.wrapping_add(offset));
        }
        CFA_END => return Err(NATIVE_COMPLETE),
        CFA_FRAME_POINTER => return follow_frame_pointer(memory, scratch),
        CFA_NONE => return Err(NATIVE_NOT_COVERED),
        _ => return Err(NATIVE_UNSUPPORTED),
    };
    if cfa <= sp {
        return Err(NATIVE_NOT_ADVANCING);
    }
    // The saved frame pointer lies below the return address: in this order one window serves both.
    let fp_offset = i64::from(rule.fp_offset) as u64;
    if rule.fp == FP_AT_CFA {
        scratch.unwind.fp = read_stack(memory, scratch, cfa.wrapping_add(fp_offset))?;
        scratch.unwind.fp_lost = 0;
    } else if rule.fp == FP_AT_FP {
        scratch.unwind.fp = read_stack(memory, scratch, fp.wrapping_add(fp_offset))?;
        scratch.unwind.fp_lost = 0;
    } else if rule.fp == FP_LOST {
        scratch.unwind.fp_lost = 1;
    }
    let pc = if rule.ra >= RA_IN_REGISTER {
        if scratch.unwind.leaf == 0 {
            return Err(NATIVE_REGISTER_LOST);
        }
        register(scratch, rule.ra - RA_IN_REGISTER)
    } else {
        read_stack(memory, scratch, cfa.wrapping_sub(8))?
    };
    return_to(scratch, pc, cfa)
}

/// `add $N, %rsp; ret`: the first three bytes, and the fifth.
const ADD_TO_SP: u64 = 0x00c4_8348;
const RET: u64 = 0xc3;

/// Goes to the caller of code that was generated at run time.
///
/// The trampolines of CPython's `-X perf` (3.12) keep no frame pointer. They say themselves what they have on the stack:
/// the instructions after the call take it off.
#[inline(always)]
fn leave_generated<M: ReadMemory>(memory: &M, scratch: &mut Scratch) -> Result<(), u32> {
    if scratch.unwind.exact == 0
        && let Some(code) = memory.read_u64(get(&scratch.unwind.pc))
        && code & 0x00ff_ffff == ADD_TO_SP
        && code >> 32 & 0xff == RET
        && code >> 24 & 0x80 == 0
    {
        let taken_off = code >> 24 & 0x7f;
        let cfa = get(&scratch.unwind.sp).wrapping_add(taken_off + 8);
        let pc = read_stack(memory, scratch, cfa.wrapping_sub(8))?;
        return return_to(scratch, pc, cfa);
    }
    follow_frame_pointer(memory, scratch)
}

/// Goes to the caller of code that keeps a frame pointer.
#[inline(always)]
fn follow_frame_pointer<M: ReadMemory>(memory: &M, scratch: &mut Scratch) -> Result<(), u32> {
    let (sp, fp) = (get(&scratch.unwind.sp), get(&scratch.unwind.fp));
    if scratch.unwind.fp_lost != 0 {
        return Err(NATIVE_REGISTER_LOST);
    }
    // The first function of a thread finds 0 in the register (System V ABI, 3.4.1).
    if fp == 0 {
        return Err(NATIVE_COMPLETE);
    }
    if fp < sp {
        return Err(NATIVE_BAD_FRAME_POINTER);
    }
    scratch.unwind.fp = read_stack(memory, scratch, fp).map_err(|_| NATIVE_BAD_FRAME_POINTER)?;
    let pc = read_stack(memory, scratch, fp.wrapping_add(8))?;
    return_to(scratch, pc, fp.wrapping_add(16))
}

/// A signal's handler returns to the first byte of the trampoline, which nobody has called: the byte before it, which
/// was recorded as the place of a call, belongs to something else.
#[inline(always)]
fn correct_trampoline(scratch: &mut Scratch) {
    let last = get(&scratch.record.native_len).wrapping_sub(1);
    let at = get(&scratch.record.kernel_len).wrapping_add(last) as usize & (ADDRESS_SLOTS - 1);
    // SAFETY: `at` is masked to less than ADDRESS_SLOTS, of which `words` has more.
    unsafe { *scratch.record.words.as_mut_ptr().add(at) += 1 };
}

/// Goes back to where a signal interrupted the thread. That may be on another stack.
#[inline(always)]
fn leave_signal<M: ReadMemory>(memory: &M, scratch: &mut Scratch, ucontext: u64) -> Result<(), u32> {
    let fp = read_stack(memory, scratch, ucontext.wrapping_add(UCONTEXT_FP))?;
    let sp = read_stack(memory, scratch, ucontext.wrapping_add(UCONTEXT_SP))?;
    let pc = read_stack(memory, scratch, ucontext.wrapping_add(UCONTEXT_PC))?;
    scratch.unwind.fp = fp;
    scratch.unwind.fp_lost = 0;
    return_to(scratch, pc, sp)?;
    scratch.unwind.exact = 1;
    Ok(())
}

#[inline(always)]
fn return_to(scratch: &mut Scratch, pc: u64, sp: u64) -> Result<(), u32> {
    // Zero is where programs without unwind information end the chain.
    if pc == 0 {
        return Err(NATIVE_COMPLETE);
    }
    scratch.unwind.pc = pc;
    scratch.unwind.sp = sp;
    scratch.unwind.exact = 0;
    scratch.unwind.leaf = 0;
    Ok(())
}

#[inline(always)]
fn register(scratch: &Scratch, index: u8) -> u64 {
    // SAFETY: a local is valid for reads. Volatile: see the crate's documentation.
    let index = unsafe { read_volatile(&raw const index) } as usize & (REGISTER_SLOTS - 1);
    // SAFETY: masked to less than the array's length.
    unsafe { *scratch.unwind.registers.as_ptr().add(index) }
}

/// Bytes up to the end of the page, at least one word.
const PAGE_BYTES: u64 = 4096;

/// A word of the stack.
///
/// A whole window is read upwards from the first word that is wanted: those of the callers follow. At the upper end of
/// a stack the window may not be readable although the word is, so what fails is tried up to the end of its page.
#[inline(always)]
fn read_stack<M: ReadMemory>(memory: &M, scratch: &mut Scratch, address: u64) -> Result<u64, u32> {
    if !address.is_multiple_of(8) {
        return Err(NATIVE_UNREADABLE);
    }
    let unwind = &mut scratch.unwind;
    let at = address.wrapping_sub(unwind.window_start);
    if at >= get(&unwind.window_len) {
        unwind.window_start = address;
        unwind.window_len = STACK_WINDOW_BYTES as u64;
        let into = unwind.window.as_mut_ptr().cast();
        // SAFETY: `window` has STACK_WINDOW_BYTES.
        if !unsafe { memory.read(address, into, STACK_WINDOW_BYTES as u32) } {
            let len = PAGE_BYTES - (address & (PAGE_BYTES - 1));
            set(&mut unwind.window_len, len);
            let len = get(&unwind.window_len);
            // SAFETY: `window` has STACK_WINDOW_BYTES.
            if len > STACK_WINDOW_BYTES as u64 || !unsafe { memory.read(address, into, len as u32) } {
                unwind.window_len = 0;
                return Err(NATIVE_UNREADABLE);
            }
        }
    }
    let at = address.wrapping_sub(get(&unwind.window_start)) as usize & (STACK_WINDOW_BYTES - 8);
    // SAFETY: masked to whole words inside the window.
    Ok(unsafe { unwind.window.as_ptr().add(at / 8).read() })
}

#[inline(always)]
fn get<T: Copy>(place: &T) -> T {
    // SAFETY: a reference is valid for reads. Volatile: see the crate's documentation.
    unsafe { read_volatile(place) }
}

#[inline(always)]
fn set<T: Copy>(place: &mut T, value: T) {
    // SAFETY: a reference is valid for writes. Volatile: see the crate's documentation.
    unsafe { write_volatile(place, value) }
}

#[cfg(test)]
mod tests;
