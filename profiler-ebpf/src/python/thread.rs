//! From the running thread to its `PyThreadState` and its innermost frame.
//!
//! The state is found through thread-local storage, not through `_Py_tss_tstate` or `tstate_current`: those are empty
//! for a thread that has released the GIL, and a thread inside a system call or a C extension is just what a profile
//! must show. Checked on live processes of 3.8 – 3.15 (shared/field/cpython.md §3, cpython-new.md §2).

use core::ptr::read_volatile;

use profiler_common::{
    limits::MAX_THREAD_STATE_BYTES,
    python::{
        CHAIN_GAPS, ChainGap, GAP_FRAMELESS, GAP_IN_CHAIN, GAP_NOWHERE, GAP_READ, GAP_READ_CFRAME, GAP_REGISTER,
        LAYOUT_CFRAME, LAYOUT_GENERATION_IS_GLOBAL, LAYOUT_GENERATION_IS_VERSION, LAYOUT_GIL_HOLDER, LAYOUT_MUSL,
        PythonProcess, THREAD_BY_DYNAMIC_TLS, THREAD_BY_PTHREAD_KEY, THREAD_BY_STATIC_TLS,
    },
    record::{
        PYTHON_BAD_THREAD_STATE, PYTHON_COMPLETE, PYTHON_FRAMELESS, PYTHON_NO_THREAD_STATE, PYTHON_NOT_INITIALIZED,
        PYTHON_OTHER_INTERPRETER, PYTHON_TORN,
    },
    unwind::REGISTER_PC,
};

use crate::{
    memory::{ReadMemory, load},
    scratch::Scratch,
};

/// `offsetof(struct pthread, specific_1stblock)`, glibc 2.21 – 2.41 on x86-64: 32 pairs of (sequence, data).
const GLIBC_FIRST_BLOCK: u64 = 0x310;
/// `offsetof(struct pthread, specific)`: 32 pointers to further blocks of 32 keys each.
const GLIBC_SECOND_LEVEL: u64 = GLIBC_FIRST_BLOCK + 32 * 16;
const GLIBC_KEYS_PER_BLOCK: u64 = 32;
const GLIBC_KEYS: u64 = 1024;
/// `PTHREAD_KEYS_MAX` of musl, whose table has a pointer for each.
const MUSL_KEYS: u64 = 128;

/// Finds the innermost frame of the running thread, whose registers are in `scratch.unwind`, and leaves it in
/// `scratch.frame`. Returns `PYTHON_COMPLETE` if there is a chain to walk (it may be empty), or else the reason why not.
#[inline(always)]
pub fn find_frames<M: ReadMemory>(memory: &M, fs_base: u64, scratch: &mut Scratch) -> u32 {
    scratch.frame = 0;
    scratch.host = 0;
    scratch.host_state = 0;
    let mut holder = 0u64;
    let state = match thread_state(memory, fs_base, scratch, &mut holder) {
        Ok(state) => state,
        Err(reason) => return reason,
    };

    let mut found = state != 0 && read_state(memory, state, scratch);
    if state != 0 && !found {
        return PYTHON_TORN;
    }
    if found && owner(scratch) != fs_base {
        return PYTHON_BAD_THREAD_STATE;
    }
    // Up to 3.11 the key keeps the *first* state of a thread. A thread that runs in a sub-interpreter holds the one
    // GIL there is, so the GIL's owner is its current state.
    if holder != 0 && holder != state {
        let thread_id = u64::from(scratch.process.thread_id);
        if memory.read_u64(holder.wrapping_add(thread_id)) == Some(fs_base) {
            if found {
                enter_host(memory, scratch);
            }
            if !read_state(memory, holder, scratch) {
                return PYTHON_TORN;
            }
            found = true;
        }
    } else if found && is_in_sub_interpreter(scratch) {
        scratch.record.python_flags |= PYTHON_OTHER_INTERPRETER;
        scratch.host_state = first_of_main(memory, scratch);
    }
    if !found {
        return PYTHON_NO_THREAD_STATE;
    }

    scratch.generation = generation(memory, scratch);
    let gap = find_gap(scratch);
    if gap.place & GAP_FRAMELESS != 0 {
        scratch.record.python_flags = scratch.record.python_flags.wrapping_add(PYTHON_FRAMELESS);
    }
    let frame = match gap.place & GAP_REGISTER {
        GAP_IN_CHAIN => first_in_chain(memory, scratch),
        GAP_NOWHERE => Err(PYTHON_TORN),
        register => beside_chain(memory, scratch, register, gap),
    };
    match frame {
        Ok(frame) => scratch.frame = frame,
        Err(reason) => return reason,
    }
    PYTHON_COMPLETE
}

/// The innermost frame of the thread state that was read last, which is that of a host, is where to go on.
#[inline(always)]
fn enter_host<M: ReadMemory>(memory: &M, scratch: &mut Scratch) {
    match first_in_chain(memory, scratch) {
        Ok(frame) => scratch.host = frame,
        Err(_) => scratch.record.python_flags |= PYTHON_OTHER_INTERPRETER,
    }
}

/// Looks at one more thread state of the main interpreter, whether it is this thread's: then what it called lies above its
/// frames. `true` if there are more to look at.
///
/// Others may come and go meanwhile. That of this thread stays as it is while the thread stands still, and says whose it
/// is.
#[inline(always)]
pub fn seek_host<M: ReadMemory>(memory: &M, fs_base: u64, scratch: &mut Scratch) -> bool {
    /// `PyThreadState.next` (3.8 – 3.15).
    const NEXT: usize = 8;
    let state = scratch.host_state;
    scratch.host_state = 0;
    if state == 0 || !read_state(memory, state, scratch) {
        return false;
    }
    if owner(scratch) == fs_base {
        enter_host(memory, scratch);
        return false;
    }
    // SAFETY: `thread` is longer than `NEXT` and a word.
    scratch.host_state = unsafe { load::<u64>(scratch.thread.as_ptr(), NEXT) };
    true
}

/// The newest thread state of the main interpreter, or 0.
#[inline(always)]
fn first_of_main<M: ReadMemory>(memory: &M, scratch: &Scratch) -> u64 {
    let PythonProcess {
        runtime,
        runtime_main,
        interpreter_threads,
        ..
    } = scratch.process;
    match memory.read_u64(runtime[0].wrapping_add(runtime_main.into())) {
        Some(main) if main != 0 => memory
            .read_u64(main.wrapping_add(interpreter_threads.into()))
            .unwrap_or(0),
        _ => 0,
    }
}

/// The interpreter that the running thread is in; `None` if it has no state, or that is not its own.
#[inline(always)]
pub fn current_interpreter<M: ReadMemory>(memory: &M, fs_base: u64, scratch: &mut Scratch) -> Option<u64> {
    let mut holder = 0;
    let state = thread_state(memory, fs_base, scratch, &mut holder).ok()?;
    let is_own = state != 0 && read_state(memory, state, scratch) && owner(scratch) == fs_base;
    is_own.then(|| interpreter(scratch))
}

/// Whether the thread state that was read last is a sub-interpreter's: the main one is in `_PyRuntime` (3.12 on).
#[inline(always)]
fn is_in_sub_interpreter(scratch: &Scratch) -> bool {
    scratch.process.runtime_main != 0 && !is_in_main(scratch, interpreter(scratch))
}

/// The interpreter of the thread state that was read last.
#[inline(always)]
fn interpreter(scratch: &Scratch) -> u64 {
    let at = field(scratch.process.thread_interpreter);
    // SAFETY: `field` keeps `at` below MAX_THREAD_STATE_BYTES, and `thread` is twice as long and a word.
    unsafe { load::<u64>(scratch.thread.as_ptr(), at) }
}

#[inline(always)]
fn is_in_main(scratch: &Scratch, interpreter: u64) -> bool {
    let PythonProcess { runtime, .. } = scratch.process;
    runtime[0] <= interpreter && interpreter < runtime[1]
}

/// What changes when code objects of the interpreter come or go whose thread state was read last; 0 if there is no such
/// word.
#[inline(always)]
fn generation<M: ReadMemory>(memory: &M, scratch: &Scratch) -> u64 {
    let PythonProcess { generation, flags, .. } = scratch.process;
    if generation == 0 {
        return 0;
    }
    let mut address = generation;
    if flags & LAYOUT_GENERATION_IS_GLOBAL == 0 {
        let interpreter = interpreter(scratch);
        // Another interpreter can have come to lie where one was, and count as far.
        if !is_in_main(scratch, interpreter) {
            return 0;
        }
        address = address.wrapping_add(interpreter);
    }
    match memory.read_u64(address) {
        None => 0,
        Some(word) if flags & LAYOUT_GENERATION_IS_VERSION != 0 => word & 0xffff_ffff,
        Some(word) => word.wrapping_add(1),
    }
}

/// What the thread state that was read last calls its innermost frame.
#[inline(always)]
fn first_in_chain<M: ReadMemory>(memory: &M, scratch: &Scratch) -> Result<u64, u32> {
    let at = field(scratch.process.thread_frame);
    // SAFETY: `field` keeps `at` below MAX_THREAD_STATE_BYTES, and `thread` is twice as long and a word.
    let frame = unsafe { load::<u64>(scratch.thread.as_ptr(), at) };
    if scratch.process.flags & LAYOUT_CFRAME == 0 {
        return Ok(frame);
    }
    if frame == 0 {
        return Err(PYTHON_NO_THREAD_STATE);
    }
    memory
        .read_u64(frame.wrapping_add(u64::from(scratch.process.cframe_current)))
        .ok_or(PYTHON_TORN)
}

/// The innermost frame while the chain begins with something else.
#[inline(always)]
fn beside_chain<M: ReadMemory>(memory: &M, scratch: &Scratch, register: u8, gap: ChainGap) -> Result<u64, u32> {
    // SAFETY: reading a local. Volatile: see the crate's documentation.
    let register = usize::from(unsafe { read_volatile(&raw const register) } & GAP_REGISTER);
    // SAFETY: the mask keeps it below the number of slots (asserted below).
    let mut value = unsafe { *scratch.unwind.registers.as_ptr().add(register) };
    value = value.wrapping_add_signed(i64::from(gap.offset));
    if gap.place & GAP_READ != 0 {
        value = memory.read_u64(value).ok_or(PYTHON_TORN)?;
    }
    if gap.place & GAP_READ_CFRAME != 0 {
        let current = value.wrapping_add(u64::from(scratch.process.cframe_current));
        value = memory.read_u64(current).ok_or(PYTHON_TORN)?;
    }
    Ok(value)
}

const _: () = assert!(crate::unwind::REGISTER_SLOTS == GAP_REGISTER as usize + 1);

/// The gap that the sampled instruction lies in, or one that says that all is as usual.
#[inline(always)]
fn find_gap(scratch: &Scratch) -> ChainGap {
    let PythonProcess { eval_frame, .. } = scratch.process;
    let distance = scratch.unwind.registers[REGISTER_PC].wrapping_sub(eval_frame);
    let mut i = 0;
    while i < CHAIN_GAPS {
        // SAFETY: `i` is below the array's length.
        let gap = unsafe { *scratch.process.chain_gaps.as_ptr().add(i) };
        if gap.bytes == 0 {
            break;
        }
        if distance.wrapping_sub(i64::from(gap.start) as u64) < u64::from(gap.bytes) {
            return gap;
        }
        i += 1;
    }
    ChainGap {
        place: GAP_IN_CHAIN,
        ..ChainGap::NONE
    }
}

/// The thread state that thread-local storage names, 0 if none.
#[inline(always)]
fn thread_state<M: ReadMemory>(memory: &M, fs_base: u64, scratch: &mut Scratch, holder: &mut u64) -> Result<u64, u32> {
    let PythonProcess {
        thread_lookup,
        flags,
        tls_offset,
        key_address,
        gilstate_gap,
        ..
    } = scratch.process;
    match thread_lookup {
        THREAD_BY_PTHREAD_KEY => {
            if flags & LAYOUT_GIL_HOLDER != 0 {
                // 3.8 – 3.11: `gilstate.tstate_current` lies a few bytes before `gilstate.autoTSSkey`.
                *holder = memory
                    .read_u64(key_address.wrapping_sub(u64::from(gilstate_gap)))
                    .unwrap_or(0);
            }
            // `Py_tss_t { int _is_initialized; pthread_key_t _key; }`
            // Not in memory: nobody has touched it since the file was mapped.
            let key = memory.read_u64(key_address).unwrap_or(0);
            if key as u32 == 0 {
                return Err(PYTHON_NOT_INITIALIZED);
            }
            let key = key >> 32;
            let is_musl = flags & LAYOUT_MUSL != 0;
            if key >= if is_musl { MUSL_KEYS } else { GLIBC_KEYS } {
                return Err(PYTHON_NOT_INITIALIZED);
            }
            let slot = if !is_musl && key < GLIBC_KEYS_PER_BLOCK {
                fs_base.wrapping_add(GLIBC_FIRST_BLOCK + key * 16 + 8)
            } else {
                let (block, within) = if is_musl {
                    (tls_offset as i64 as u64, key * 8)
                } else {
                    let block = GLIBC_SECOND_LEVEL + key / GLIBC_KEYS_PER_BLOCK * 8;
                    (block, key % GLIBC_KEYS_PER_BLOCK * 16 + 8)
                };
                match memory.read_u64(fs_base.wrapping_add(block)) {
                    // glibc makes a block when the thread first sets one of its keys, musl when the first key is made.
                    Some(0) => return Ok(0),
                    Some(block) => block.wrapping_add(within),
                    None => return Err(PYTHON_TORN),
                }
            };
            memory.read_u64(slot).ok_or(PYTHON_TORN)
        }
        THREAD_BY_STATIC_TLS => memory
            .read_u64(fs_base.wrapping_add(tls_offset as i64 as u64))
            .ok_or(PYTHON_TORN),
        THREAD_BY_DYNAMIC_TLS => {
            // The GOT pair's first word is the module's number, filled in by ld.so; dtv[module] is its TLS block.
            let module = memory.read_u64(key_address).unwrap_or(0);
            if module == 0 {
                return Err(PYTHON_NOT_INITIALIZED);
            }
            let Some(dtv) = memory.read_u64(fs_base.wrapping_add(8)) else {
                return Err(PYTHON_TORN);
            };
            let Some(block) = memory.read_u64(dtv.wrapping_add(module.wrapping_mul(16))) else {
                return Err(PYTHON_TORN);
            };
            // -1: allocated when the thread first touches it, which it has not.
            if block == 0 || block == u64::MAX {
                return Ok(0);
            }
            memory
                .read_u64(block.wrapping_add(tls_offset as i64 as u64))
                .ok_or(PYTHON_TORN)
        }
        _ => Err(PYTHON_NOT_INITIALIZED),
    }
}

#[inline(always)]
fn read_state<M: ReadMemory>(memory: &M, state: u64, scratch: &mut Scratch) -> bool {
    // SAFETY: `thread` is longer than MAX_THREAD_STATE_BYTES.
    unsafe { memory.read(state, scratch.thread.as_mut_ptr().cast(), MAX_THREAD_STATE_BYTES as u32) }
}

/// The `pthread_t` in the state that was read last: on glibc the thread's fs base.
#[inline(always)]
fn owner(scratch: &Scratch) -> u64 {
    let at = field(scratch.process.thread_id);
    // SAFETY: `field` keeps `at` below MAX_THREAD_STATE_BYTES, and `thread` is twice as long and a word.
    unsafe { load::<u64>(scratch.thread.as_ptr(), at) }
}

/// A field offset, bounded for the verifier: layouts are checked in user space, but the verifier has not seen that.
#[inline(always)]
fn field(offset: u16) -> usize {
    // SAFETY: reading a local.
    let offset = unsafe { read_volatile(&raw const offset) };
    usize::from(offset & 0xff)
}

const _: () = assert!(0xff + 8 <= 2 * MAX_THREAD_STATE_BYTES + 8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory::fake::Memory, scratch::zeroed};

    const FS_BASE: u64 = 0x50_000;
    const RUNTIME: u64 = 0x10_000;
    const STATE: u64 = 0x20_000;
    const OTHER_STATE: u64 = 0x21_000;

    /// A process whose thread state is behind pthread key `key`; `frame` is its innermost frame.
    fn process(key: u32) -> (Memory, PythonProcess) {
        let mut memory = Memory::default();
        memory.map(RUNTIME, 4096);
        memory.map(STATE, 2 * 4096);
        memory.map(FS_BASE, 4096);
        memory.put(RUNTIME + 100, &1u32.to_le_bytes());
        memory.put(RUNTIME + 104, &key.to_le_bytes());
        put_state(&mut memory, STATE, FS_BASE, 0xf00);
        let process = PythonProcess {
            thread_lookup: THREAD_BY_PTHREAD_KEY,
            key_address: RUNTIME + 100,
            thread_frame: 72,
            thread_id: 152,
            ..PythonProcess::default()
        };
        (memory, process)
    }

    fn put_state(memory: &mut Memory, at: u64, owner: u64, frame: u64) {
        memory.put_u64(at + 152, owner);
        memory.put_u64(at + 72, frame);
    }

    fn find(memory: &Memory, process: PythonProcess) -> (u32, u64) {
        let (status, frame, _) = find_at(memory, process, &[]);
        (status, frame)
    }

    /// Status, frame and the number of frameless loops, with these registers.
    fn find_at(memory: &Memory, process: PythonProcess, registers: &[(usize, u64)]) -> (u32, u64, u32) {
        let mut scratch = zeroed();
        scratch.process = process;
        for (register, value) in registers {
            scratch.unwind.registers[*register] = *value;
        }
        let status = find_frames(memory, FS_BASE, &mut scratch);
        (status, scratch.frame, scratch.record.python_flags / PYTHON_FRAMELESS)
    }

    const RAX: usize = 10;
    const EVAL_FRAME: u64 = 0x7f00_0000_1000;

    /// A process of 3.12 with its own `_PyCFrame` at 0x60_000, which holds nonsense, the caller's at 0x60_100, and
    /// these gaps.
    fn with_gaps(gaps: &[ChainGap]) -> (Memory, PythonProcess) {
        let (mut memory, mut process) = process(3);
        memory.put_u64(FS_BASE + 0x310 + 3 * 16 + 8, STATE);
        memory.map(0x60_000, 4096);
        put_state(&mut memory, STATE, FS_BASE, 0x60_000);
        memory.put_u64(0x60_000 + 8, 0xbad);
        memory.put_u64(0x60_100 + 8, 0xf00);
        memory.put_u64(0x60_200, 0x60_100);
        process.flags = LAYOUT_CFRAME;
        process.cframe_current = 8;
        process.eval_frame = EVAL_FRAME;
        process.chain_gaps[..gaps.len()].copy_from_slice(gaps);
        (memory, process)
    }

    fn gap(start: i32, bytes: u8, place: u8, offset: i16) -> ChainGap {
        ChainGap {
            start,
            bytes,
            place,
            offset,
        }
    }

    #[test]
    fn a_sample_in_a_gap_takes_its_frames_from_where_the_gap_says() {
        let rax = RAX as u8;
        let (memory, process) = with_gaps(&[
            gap(0, 10, GAP_FRAMELESS | GAP_IN_CHAIN, 0),
            gap(10, 10, GAP_FRAMELESS | GAP_READ | rax, 8),
            gap(20, 10, GAP_FRAMELESS | rax, 0),
            gap(30, 10, GAP_FRAMELESS | GAP_READ | GAP_READ_CFRAME | rax, -0x100),
            gap(40, 10, GAP_FRAMELESS | GAP_NOWHERE, 0),
            gap(-50, 10, rax, 0),
        ]);
        let at = |pc: u64, rax: u64| {
            let registers = [(REGISTER_PC, EVAL_FRAME.wrapping_add(pc)), (RAX, rax)];
            find_at(&memory, process, &registers)
        };
        assert_eq!(
            at(9, 0),
            (PYTHON_COMPLETE, 0xbad, 1),
            "what the chain begins with is whole here"
        );
        assert_eq!(
            at(10, 0x60_100),
            (PYTHON_COMPLETE, 0xf00, 1),
            "the caller's `_PyCFrame` in a register"
        );
        assert_eq!(at(19, 0x7777_0000), (PYTHON_TORN, 0, 1), "cannot be read");
        assert_eq!(
            at(20, 0xf00),
            (PYTHON_COMPLETE, 0xf00, 1),
            "the caller's frame in a register"
        );
        assert_eq!(
            at(39, 0x60_300),
            (PYTHON_COMPLETE, 0xf00, 1),
            "the caller's `_PyCFrame` on the stack"
        );
        assert_eq!(
            at(40, 0xf00),
            (PYTHON_TORN, 0, 1),
            "nowhere: no frame is better than a wrong one"
        );
        assert_eq!(
            at(50u64.wrapping_neg(), 0xf00),
            (PYTHON_COMPLETE, 0xf00, 0),
            "a frame that is half in the chain"
        );
        assert_eq!(at(50, 0xf00), (PYTHON_COMPLETE, 0xbad, 0), "behind the last");
        assert_eq!(
            at(51u64.wrapping_neg(), 0xf00),
            (PYTHON_COMPLETE, 0xbad, 0),
            "before the first"
        );
    }

    #[test]
    fn gaps_that_are_not_in_use_hold_no_instruction() {
        let (memory, process) = with_gaps(&[]);
        let registers = [(REGISTER_PC, EVAL_FRAME), (RAX, 0xf00)];
        assert_eq!(find_at(&memory, process, &registers), (PYTHON_COMPLETE, 0xbad, 0));
    }

    #[test]
    fn a_key_of_the_first_block_is_found_beside_the_thread() {
        let (mut memory, process) = process(3);
        memory.put_u64(FS_BASE + 0x310 + 3 * 16 + 8, STATE);
        assert_eq!(find(&memory, process), (PYTHON_COMPLETE, 0xf00));
    }

    #[test]
    fn a_key_beyond_the_first_block_is_found_through_the_second_level() {
        let (mut memory, process) = process(32 + 5);
        assert_eq!(find(&memory, process), (PYTHON_NO_THREAD_STATE, 0), "no block yet");
        let block = FS_BASE + 0x800;
        memory.put_u64(FS_BASE + 0x310 + 32 * 16 + 8, block);
        memory.put_u64(block + 5 * 16 + 8, STATE);
        assert_eq!(find(&memory, process), (PYTHON_COMPLETE, 0xf00));
    }

    #[test]
    fn musl_has_a_table_of_values_for_each_thread() {
        // The first key there is has the number 0.
        let (mut memory, process) = process(0);
        // No closure: rustc 1.95 fails on one that copies `process` ("broken MIR").
        let mut first = process;
        (first.flags, first.tls_offset, first.key_address) = (LAYOUT_MUSL, 0x80, RUNTIME + 100);
        let mut other = first;
        other.key_address = RUNTIME + 200;
        assert_eq!(find(&memory, first).0, PYTHON_NO_THREAD_STATE, "nobody has made a key");
        let table = FS_BASE + 0xc8;
        memory.put_u64(FS_BASE + 0x80, table);
        memory.put_u64(table, STATE);
        assert_eq!(find(&memory, first), (PYTHON_COMPLETE, 0xf00));
        for (key, found) in [(127, PYTHON_COMPLETE), (128, PYTHON_NOT_INITIALIZED)] {
            memory.put(RUNTIME + 200, &1u32.to_le_bytes());
            memory.put(RUNTIME + 204, &u32::to_le_bytes(key));
            memory.put_u64(table + u64::from(key) * 8, STATE);
            assert_eq!(find(&memory, other).0, found);
        }
    }

    #[test]
    fn a_state_of_another_thread_is_not_taken() {
        let (mut memory, process) = process(3);
        memory.put_u64(FS_BASE + 0x310 + 3 * 16 + 8, STATE);
        put_state(&mut memory, STATE, FS_BASE + 64, 0xf00);
        assert_eq!(find(&memory, process).0, PYTHON_BAD_THREAD_STATE);
    }

    #[test]
    fn an_interpreter_without_a_key_is_not_initialized() {
        let (mut memory, process) = process(3);
        memory.put(RUNTIME + 100, &0u32.to_le_bytes());
        assert_eq!(find(&memory, process).0, PYTHON_NOT_INITIALIZED);
        // Its data was never touched, so it is not even in memory.
        let untouched = PythonProcess {
            key_address: 0x7777_0000,
            ..process
        };
        assert_eq!(find(&memory, untouched).0, PYTHON_NOT_INITIALIZED);
    }

    #[test]
    fn a_thread_in_a_sub_interpreter_is_found_as_the_owner_of_the_lock() {
        let (mut memory, process) = process(3);
        let process = PythonProcess {
            flags: LAYOUT_GIL_HOLDER,
            gilstate_gap: 24,
            ..process
        };
        memory.put_u64(FS_BASE + 0x310 + 3 * 16 + 8, STATE);
        memory.put_u64(RUNTIME + 100 - 24, OTHER_STATE);
        put_state(&mut memory, OTHER_STATE, FS_BASE, 0xbeef);
        assert_eq!(find(&memory, process), (PYTHON_COMPLETE, 0xbeef));
        // Another thread owns the lock: our own state it is.
        put_state(&mut memory, OTHER_STATE, FS_BASE + 64, 0xbeef);
        assert_eq!(find(&memory, process), (PYTHON_COMPLETE, 0xf00));
    }

    #[test]
    fn below_a_sub_interpreter_lie_the_frames_of_the_threads_first_state() {
        let (mut memory, process) = process(3);
        let process = PythonProcess {
            flags: LAYOUT_GIL_HOLDER,
            gilstate_gap: 24,
            ..process
        };
        memory.put_u64(FS_BASE + 0x310 + 3 * 16 + 8, STATE);
        memory.put_u64(RUNTIME + 100 - 24, OTHER_STATE);
        put_state(&mut memory, OTHER_STATE, FS_BASE, 0xbeef);
        let mut scratch = zeroed();
        scratch.process = process;
        assert_eq!(find_frames(&memory, FS_BASE, &mut scratch), PYTHON_COMPLETE);
        assert_eq!((scratch.frame, scratch.host, scratch.host_state), (0xbeef, 0xf00, 0));
        assert_eq!(scratch.record.python_flags, 0, "nothing is missing");
    }

    #[test]
    fn below_a_sub_interpreter_lie_the_frames_of_the_threads_state_in_the_main_one() {
        let (mut memory, mut process) = process(3);
        let (main, sub) = (RUNTIME + 0x200, 0x22_000);
        process.thread_interpreter = 16;
        process.runtime = [RUNTIME, RUNTIME + 0x1000];
        process.runtime_main = 0x180;
        process.interpreter_threads = 0x40;
        memory.put_u64(FS_BASE + 0x310 + 3 * 16 + 8, OTHER_STATE);
        put_state(&mut memory, OTHER_STATE, FS_BASE, 0xbeef);
        memory.put_u64(OTHER_STATE + 16, sub);
        memory.put_u64(RUNTIME + 0x180, main);
        // Another thread's state, and then ours.
        let others = 0x30_000;
        memory.map(others, 4096);
        memory.put_u64(main + 0x40, others);
        memory.put_u64(others + 8, STATE);
        put_state(&mut memory, others, FS_BASE + 64, 0xbad);
        memory.put_u64(STATE + 16, main);

        let find = |memory: &Memory| {
            let mut scratch = zeroed();
            scratch.process = process;
            assert_eq!(find_frames(memory, FS_BASE, &mut scratch), PYTHON_COMPLETE);
            let mut looked_at = 0;
            while seek_host(memory, FS_BASE, &mut scratch) {
                looked_at += 1;
                assert!(looked_at < 10, "no end");
            }
            (
                scratch.frame,
                scratch.host,
                scratch.record.python_flags & PYTHON_OTHER_INTERPRETER,
            )
        };
        assert_eq!(find(&memory), (0xbeef, 0xf00, PYTHON_OTHER_INTERPRETER));
        memory.put_u64(others + 8, 0);
        assert_eq!(find(&memory), (0xbeef, 0, PYTHON_OTHER_INTERPRETER), "it has none");
        memory.put_u64(others + 8, 0x7777_0000);
        assert_eq!(
            find(&memory),
            (0xbeef, 0, PYTHON_OTHER_INTERPRETER),
            "a state that has gone meanwhile"
        );
        memory.put_u64(OTHER_STATE + 16, main);
        assert_eq!(
            find(&memory),
            (0xbeef, 0, 0),
            "in the main interpreter nothing is looked for"
        );
    }

    #[test]
    fn the_generation_is_the_first_interpreters() {
        let (mut memory, mut process) = process(3);
        memory.put_u64(FS_BASE + 0x310 + 3 * 16 + 8, STATE);
        memory.put_u64(STATE + 16, RUNTIME + 0x200);
        memory.put_u64(RUNTIME + 0x200 + 0x40, 0x1_0000_0007);
        process.thread_interpreter = 16;
        process.generation = 0x40;
        process.runtime = [RUNTIME, RUNTIME + 0x1000];
        let generation = |memory: &Memory, process: PythonProcess| {
            let mut scratch = zeroed();
            scratch.process = process;
            assert_eq!(find_frames(memory, FS_BASE, &mut scratch), PYTHON_COMPLETE);
            scratch.generation
        };
        // None has gone so far is not the same as not known.
        assert_eq!(generation(&memory, process), 0x1_0000_0008);
        process.flags = LAYOUT_GENERATION_IS_VERSION;
        assert_eq!(generation(&memory, process), 7, "32 bits are the number");
        memory.put_u64(RUNTIME + 0x200 + 0x40, 0x1_0000_0000);
        assert_eq!(generation(&memory, process), 0, "all numbers are used up");
        process.flags = 0;
        process.runtime[1] = RUNTIME + 0x200;
        assert_eq!(generation(&memory, process), 0, "another interpreter");
        process.runtime[1] = RUNTIME + 0x1000;
        process.flags = LAYOUT_GENERATION_IS_GLOBAL;
        process.generation = RUNTIME + 0x240;
        assert_eq!(generation(&memory, process), 0x1_0000_0001, "of all interpreters");
        process.generation = 0;
        assert_eq!(generation(&memory, process), 0, "a version without one");
    }

    #[test]
    fn thread_local_variables_are_found_in_executables_and_in_libraries() {
        let (mut memory, process) = process(3);
        memory.put_u64(FS_BASE + 0x900 - 40, STATE);
        let fixed = PythonProcess {
            thread_lookup: THREAD_BY_STATIC_TLS,
            tls_offset: 0x900 - 40,
            ..process
        };
        assert_eq!(find(&memory, fixed), (PYTHON_COMPLETE, 0xf00));

        // dtv[2] is the block of module 2.
        let (dtv, block) = (FS_BASE + 0xa00, FS_BASE + 0xb00);
        memory.put_u64(RUNTIME + 200, 2);
        memory.put_u64(FS_BASE + 8, dtv);
        memory.put_u64(dtv + 2 * 16, u64::MAX);
        let dynamic = PythonProcess {
            thread_lookup: THREAD_BY_DYNAMIC_TLS,
            key_address: RUNTIME + 200,
            tls_offset: 0x28,
            ..process
        };
        assert_eq!(
            find(&memory, dynamic).0,
            PYTHON_NO_THREAD_STATE,
            "this thread has no block yet"
        );
        memory.put_u64(dtv + 2 * 16, block);
        memory.put_u64(block + 0x28, STATE);
        assert_eq!(find(&memory, dynamic), (PYTHON_COMPLETE, 0xf00));
    }
}
