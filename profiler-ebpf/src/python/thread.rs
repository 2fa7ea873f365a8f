//! From the running thread to its `PyThreadState` and its innermost frame.
//!
//! The state is found through thread-local storage, not through `_Py_tss_tstate` or `tstate_current`: those are empty
//! for a thread that has released the GIL, and a thread inside a system call or a C extension is just what a profile
//! must show. Checked on live processes of 3.8 – 3.15 (shared/field/cpython.md §3, cpython-new.md §2).

use core::ptr::read_volatile;

use profiler_common::{
    limits::MAX_THREAD_STATE_BYTES,
    python::{
        LAYOUT_CFRAME, LAYOUT_GIL_HOLDER, PythonProcess, THREAD_BY_DYNAMIC_TLS, THREAD_BY_PTHREAD_KEY,
        THREAD_BY_STATIC_TLS,
    },
    record::{PYTHON_BAD_THREAD_STATE, PYTHON_COMPLETE, PYTHON_NO_THREAD_STATE, PYTHON_NOT_INITIALIZED, PYTHON_TORN},
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

/// Finds the innermost frame of the running thread and leaves it in `scratch.frame`. Returns `PYTHON_COMPLETE` if
/// there is a chain to walk (it may be empty), or else the reason why not.
#[inline(always)]
pub fn find_frames<M: ReadMemory>(memory: &M, fs_base: u64, scratch: &mut Scratch) -> u32 {
    scratch.frame = 0;
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
            if !read_state(memory, holder, scratch) {
                return PYTHON_TORN;
            }
            found = true;
        }
    }
    if !found {
        return PYTHON_NO_THREAD_STATE;
    }

    let at = field(scratch.process.thread_frame);
    // SAFETY: `field` keeps `at` below MAX_THREAD_STATE_BYTES, and `thread` is twice as long and a word.
    let mut frame = unsafe { load::<u64>(scratch.thread.as_ptr(), at) };
    if scratch.process.flags & LAYOUT_CFRAME != 0 {
        if frame == 0 {
            return PYTHON_NO_THREAD_STATE;
        }
        match memory.read_u64(frame.wrapping_add(u64::from(scratch.process.cframe_current))) {
            Some(current) => frame = current,
            None => return PYTHON_TORN,
        }
    }
    scratch.frame = frame;
    PYTHON_COMPLETE
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
            let Some(key) = memory.read_u64(key_address) else {
                return Err(PYTHON_TORN);
            };
            if key as u32 == 0 {
                return Err(PYTHON_NOT_INITIALIZED);
            }
            let key = key >> 32;
            let slot = if key < GLIBC_KEYS_PER_BLOCK {
                fs_base.wrapping_add(GLIBC_FIRST_BLOCK + key * 16 + 8)
            } else if key < GLIBC_KEYS {
                let block = fs_base.wrapping_add(GLIBC_SECOND_LEVEL + key / GLIBC_KEYS_PER_BLOCK * 8);
                match memory.read_u64(block) {
                    // glibc makes a block when the thread first sets one of its keys.
                    Some(0) => return Ok(0),
                    Some(block) => block.wrapping_add(key % GLIBC_KEYS_PER_BLOCK * 16 + 8),
                    None => return Err(PYTHON_TORN),
                }
            } else {
                return Err(PYTHON_NOT_INITIALIZED);
            };
            memory.read_u64(slot).ok_or(PYTHON_TORN)
        }
        THREAD_BY_STATIC_TLS => memory
            .read_u64(fs_base.wrapping_add(tls_offset as i64 as u64))
            .ok_or(PYTHON_TORN),
        THREAD_BY_DYNAMIC_TLS => {
            // The GOT pair's first word is the module's number, filled in by ld.so; dtv[module] is its TLS block.
            let Some(module) = memory.read_u64(key_address) else {
                return Err(PYTHON_TORN);
            };
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
