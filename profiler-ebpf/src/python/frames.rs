//! The chain of CPython frames, innermost first.

use core::ptr::{read_volatile, write_volatile};

use profiler_common::{
    limits::{MAX_FRAME_BYTES, MAX_PYTHON_FRAMES, WINDOW_BYTES},
    python::{LAYOUT_ENTRY_FLAG, LAYOUT_HEAP_FRAMES, LAYOUT_TAGGED_EXECUTABLE},
    record::{
        FRAME_ENTRY, FRAME_GENERATOR, INSTRUCTION_MASK, PYTHON_COMPLETE, PYTHON_LEADING_ENTRY, PYTHON_TORN,
        PYTHON_TRUNCATED, PythonFrame,
    },
};

use crate::{
    hash::{mix, mix_frame},
    memory::{ReadMemory, load},
    scratch::Scratch,
};

/// `owner` of a generator's frame (3.11 – 3.15: `FRAME_OWNED_BY_GENERATOR`).
const OWNER_GENERATOR: u8 = 1;
/// From this `owner` on a frame is not a function's but the entry frame of an evaluation loop (3.12 – 3.15:
/// `FRAME_OWNED_BY_CSTACK`, later `…_BY_INTERPRETER`). No owner of 3.11 is as large.
const OWNER_ENTRY: u8 = 3;

/// Mixed into the hash where an evaluation loop ends, which is not a frame of its own in the record.
const HASH_ENTRY: u64 = 0x656e_7472_7900;

const PAGE_BYTES: u64 = 4096;

/// Prepares for [`step`]; `scratch.frame` is the innermost frame.
#[inline(always)]
pub fn start(scratch: &mut Scratch) {
    scratch.record.python_len = 0;
    scratch.record.python_flags = 0;
    scratch.record.header.python = PYTHON_COMPLETE;
    scratch.window_start = 0;
    scratch.window_len = 0;
}

/// Visits one frame. `true` if there may be more; when there are not, `header.python` says why.
#[inline(always)]
pub fn step<M: ReadMemory>(memory: &M, scratch: &mut Scratch) -> bool {
    let frame = scratch.frame;
    if frame == 0 {
        return false;
    }
    if frame % 8 != 0 {
        scratch.record.header.python = PYTHON_TORN;
        return false;
    }
    let flags = scratch.process.flags;
    if !cover(memory, scratch, frame, flags & LAYOUT_HEAP_FRAMES != 0) {
        scratch.record.header.python = PYTHON_TORN;
        return false;
    }

    let at = get(&scratch.window_at) as usize & (WINDOW_BYTES - 8);
    // SAFETY: `at` is masked to WINDOW_BYTES and to whole words.
    let words = unsafe { scratch.window.as_ptr().add(at / 8) };
    let previous: u64 = field(words, scratch.process.frame_previous);
    let mut code: u64 = field(words, scratch.process.frame_code);
    let mut instruction;
    let mut entry = false;
    if flags & LAYOUT_HEAP_FRAMES != 0 {
        // `int f_lasti`: -1 before the first instruction, which the mask keeps apart from every real index.
        instruction = u64::from(field::<u32>(words, scratch.process.frame_instruction));
        instruction |= FRAME_ENTRY;
    } else {
        instruction = field::<u64>(words, scratch.process.frame_instruction) & INSTRUCTION_MASK;
        let owner: u8 = field(words, scratch.process.frame_owner);
        if flags & LAYOUT_ENTRY_FLAG != 0 {
            if field::<u8>(words, scratch.process.frame_entry) != 0 {
                instruction |= FRAME_ENTRY;
            }
        } else {
            entry = owner >= OWNER_ENTRY;
        }
        if owner == OWNER_GENERATOR {
            instruction |= FRAME_GENERATOR;
        }
        if flags & LAYOUT_TAGGED_EXECUTABLE != 0 {
            code &= !3;
        }
    }

    if entry {
        mark_entry(scratch);
    } else if !push(scratch, PythonFrame { code, instruction }) {
        scratch.record.header.python = PYTHON_TRUNCATED;
        return false;
    }
    scratch.frame = previous;
    previous != 0
}

/// Makes `window` hold the frame and sets `window_at`.
///
/// From 3.11 on the frames of a data-stack chunk are neighbours, callers below: reading up to [`WINDOW_BYTES`] that
/// *end* with the frame brings in its callers for the price of one read (100 ns for 2 KiB, 80 ns for 80 bytes). The
/// window never reaches below the page the frame starts on, so it cannot fault where the frame alone would not.
#[inline(always)]
fn cover<M: ReadMemory>(memory: &M, scratch: &mut Scratch, frame: u64, heap: bool) -> bool {
    let frame_bytes = u64::from(scratch.process.frame_bytes) & (MAX_FRAME_BYTES as u64 - 1);
    let at = frame.wrapping_sub(scratch.window_start);
    if at < WINDOW_BYTES as u64 && at + frame_bytes <= scratch.window_len {
        set(&mut scratch.window_at, at);
        return true;
    }

    let end = frame.wrapping_add(frame_bytes);
    let start = if heap {
        frame
    } else {
        let page = frame & !(PAGE_BYTES - 1);
        let lowest = end.saturating_sub(WINDOW_BYTES as u64);
        if lowest > page { lowest } else { page }
    };
    set(&mut scratch.window_len, end.wrapping_sub(start));
    let len = get(&scratch.window_len);
    if len > WINDOW_BYTES as u64 {
        return false;
    }
    // SAFETY: `window` is longer than WINDOW_BYTES.
    if !unsafe { memory.read(start, scratch.window.as_mut_ptr().cast(), len as u32) } {
        scratch.window_len = 0;
        return false;
    }
    scratch.window_start = start;
    set(&mut scratch.window_at, frame.wrapping_sub(start));
    true
}

/// A field of the frame at `words`, which lies in the first WINDOW_BYTES of the window.
#[inline(always)]
fn field<T: Copy>(words: *const u64, offset: u16) -> T {
    let offset = usize::from(offset) & (MAX_FRAME_BYTES - 1);
    // SAFETY: the window is a word longer than WINDOW_BYTES + MAX_FRAME_BYTES.
    unsafe { load(words, offset) }
}

#[inline(always)]
fn push(scratch: &mut Scratch, frame: PythonFrame) -> bool {
    let len = scratch.record.python_len;
    if len >= MAX_PYTHON_FRAMES as u32 {
        return false;
    }
    let at = get32(&scratch.record.python_len) as usize & (MAX_PYTHON_FRAMES - 1);
    // SAFETY: `at` is masked to the array's length.
    unsafe { scratch.record.python.as_mut_ptr().add(at).write(frame) };
    scratch.record.python_len = len + 1;
    mix_frame(&mut scratch.record.header.stack, frame);
    true
}

/// An evaluation loop ends here: the frame pushed last is its entry.
#[inline(always)]
fn mark_entry(scratch: &mut Scratch) {
    if scratch.record.python_len == 0 {
        scratch.record.python_flags |= PYTHON_LEADING_ENTRY;
    } else {
        let at = (get32(&scratch.record.python_len) as usize).wrapping_sub(1) & (MAX_PYTHON_FRAMES - 1);
        // SAFETY: `at` is masked to the array's length.
        unsafe { (*scratch.record.python.as_mut_ptr().add(at)).instruction |= FRAME_ENTRY };
    }
    mix(&mut scratch.record.header.stack, HASH_ENTRY);
}

/// Loads that LLVM cannot reason about: what the verifier sees next to the use is what bounds it.
#[inline(always)]
fn get(value: &u64) -> u64 {
    // SAFETY: a reference is valid for reads.
    unsafe { read_volatile(value) }
}

#[inline(always)]
fn get32(value: &u32) -> u32 {
    // SAFETY: a reference is valid for reads.
    unsafe { read_volatile(value) }
}

#[inline(always)]
fn set(slot: &mut u64, value: u64) {
    // SAFETY: a reference is valid for writes.
    unsafe { write_volatile(slot, value) }
}
