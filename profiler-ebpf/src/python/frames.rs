//! The chain of CPython frames, innermost first.

use core::ptr::{read_volatile, write_volatile};

use profiler_common::{
    limits::{MAX_FRAME_BYTES, MAX_PYTHON_FRAMES, WINDOW_BYTES},
    python::{LAYOUT_BASE_FRAME, LAYOUT_ENTRY_FLAG, LAYOUT_HEAP_FRAMES, LAYOUT_TAGGED_EXECUTABLE},
    record::{
        FRAME_ENTRY, FRAME_FRAMELESS, FRAME_GENERATOR, INSTRUCTION_MASK, PYTHON_COMPLETE, PYTHON_FRAMELESS,
        PYTHON_TORN, PYTHON_TRUNCATED, PythonFrame,
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
        return go_on_with_host(scratch);
    }
    if !frame.is_multiple_of(8) {
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
        if previous != 0 || flags & LAYOUT_BASE_FRAME == 0 {
            mark_entry(scratch);
        }
    } else if !push(
        scratch,
        PythonFrame {
            code,
            instruction,
            fingerprint: 0,
        },
    ) {
        scratch.record.header.python = PYTHON_TRUNCATED;
        return false;
    }
    scratch.frame = previous;
    previous != 0 || go_on_with_host(scratch)
}

/// Below the frames of a sub-interpreter lie those of the interpreter that called into it.
#[inline(always)]
fn go_on_with_host(scratch: &mut Scratch) -> bool {
    scratch.frame = scratch.host;
    scratch.host = 0;
    scratch.frame != 0
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
    let slot = scratch.python_frame(len);
    // SAFETY: the slot lies in the record.
    unsafe { slot.write(frame) };
    scratch.record.python_len = len + 1;
    mix_frame(&mut scratch.record.header.stack, frame);
    true
}

/// An evaluation loop ends here: the frame pushed last is its entry, or it has none.
///
/// The latter is common. From 3.12 on a loop takes its last frame out of the chain *before* it clears it, and clearing
/// can run finalizers: their loop's entry frame is followed by that of a loop without frames.
#[inline(always)]
fn mark_entry(scratch: &mut Scratch) {
    if scratch.record.python_len == 0 {
        scratch.record.python_flags = scratch.record.python_flags.wrapping_add(PYTHON_FRAMELESS);
    } else {
        let slot = scratch.python_frame(scratch.record.python_len.wrapping_sub(1));
        // SAFETY: the slot lies in the record and was written by `push`.
        unsafe {
            let instruction = (*slot).instruction;
            (*slot).instruction = if instruction & FRAME_ENTRY == 0 {
                instruction | FRAME_ENTRY
            } else if instruction < FRAMELESS_FULL {
                instruction + FRAME_FRAMELESS
            } else {
                instruction
            };
        }
    }
    mix(&mut scratch.record.header.stack, HASH_ENTRY);
}

/// From here on the number of loops does not fit.
const FRAMELESS_FULL: u64 = u64::MAX / FRAME_FRAMELESS * FRAME_FRAMELESS;

/// Loads that LLVM cannot reason about: what the verifier sees next to the use is what bounds it.
#[inline(always)]
fn get(value: &u64) -> u64 {
    // SAFETY: a reference is valid for reads.
    unsafe { read_volatile(value) }
}

#[inline(always)]
fn set(slot: &mut u64, value: u64) {
    // SAFETY: a reference is valid for writes.
    unsafe { write_volatile(slot, value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory::fake::Memory, scratch::zeroed};
    use profiler_common::python::{LAYOUT_CFRAME, PythonProcess};

    /// The shape of 3.12's frames: code 0, previous 8, instruction 56, owner 70.
    fn interpreter_frames() -> PythonProcess {
        PythonProcess {
            flags: LAYOUT_CFRAME,
            frame_bytes: 72,
            frame_code: 0,
            frame_previous: 8,
            frame_instruction: 56,
            frame_owner: 70,
            ..PythonProcess::default()
        }
    }

    /// The shape of 3.8's: back 24, code 32, lasti (i32) 104.
    fn heap_frames() -> PythonProcess {
        PythonProcess {
            flags: LAYOUT_HEAP_FRAMES,
            frame_bytes: 112,
            frame_previous: 24,
            frame_code: 32,
            frame_instruction: 104,
            ..PythonProcess::default()
        }
    }

    struct Walked {
        codes: Vec<u64>,
        flags: Vec<u64>,
        status: u32,
        leading: u32,
        hash: [u64; 2],
    }

    fn walk(memory: &Memory, process: PythonProcess, frame: u64) -> Walked {
        let mut scratch = zeroed();
        scratch.process = process;
        scratch.frame = frame;
        start(&mut scratch);
        while step(memory, &mut scratch) {}
        let frames: Vec<PythonFrame> =
            // SAFETY: the slots were written by the walk.
            (0..scratch.record.python_len).map(|index| unsafe { *scratch.python_frame(index) }).collect();
        Walked {
            codes: frames.iter().map(|frame| frame.code).collect(),
            flags: frames
                .iter()
                .map(|frame| frame.instruction & !INSTRUCTION_MASK)
                .collect(),
            status: scratch.record.header.python,
            leading: scratch.record.python_flags / PYTHON_FRAMELESS,
            hash: scratch.record.header.stack.hash,
        }
    }

    fn put_frame(memory: &mut Memory, at: u64, code: u64, previous: u64, owner: u8) {
        memory.put_u64(at, code);
        memory.put_u64(at + 8, previous);
        memory.put_u64(at + 56, code + 200);
        memory.put(at + 70, &[owner]);
    }

    #[test]
    fn neighbours_in_a_chunk_are_read_in_order_down_to_the_first() {
        let mut memory = Memory::default();
        memory.map(0x10_000, 3 * 4096);
        let address = |index: u64| 0x10_000 + index * 88;
        for index in 0..120 {
            let previous = if index == 0 { 0 } else { address(index - 1) };
            put_frame(&mut memory, address(index), 0x1000 + index, previous, 0);
        }
        let walked = walk(&memory, interpreter_frames(), address(119));
        assert_eq!(walked.status, PYTHON_COMPLETE);
        assert_eq!(
            walked.codes,
            (0..120).rev().map(|index| 0x1000 + index).collect::<Vec<_>>()
        );
    }

    #[test]
    fn an_entry_frame_is_not_shown_but_marks_the_frame_above_it() {
        let mut memory = Memory::default();
        memory.map(0x10_000, 4096);
        put_frame(&mut memory, 0x10_000, 1, 0, 3);
        put_frame(&mut memory, 0x10_100, 2, 0x10_000, 0);
        put_frame(&mut memory, 0x10_200, 3, 0x10_100, 1);
        let walked = walk(&memory, interpreter_frames(), 0x10_200);
        assert_eq!(walked.codes, [3, 2]);
        assert_eq!(walked.flags, [FRAME_GENERATOR, FRAME_ENTRY]);
        assert_eq!(walked.leading, 0);

        // With an entry frame at the very leaf, there is a loop that has no frame yet.
        put_frame(&mut memory, 0x10_300, 4, 0x10_200, 3);
        let leading = walk(&memory, interpreter_frames(), 0x10_300);
        assert_eq!(leading.leading, 1);
        assert_eq!(leading.codes, [3, 2]);
        assert_ne!(leading.hash, walked.hash, "the two stacks differ");
    }

    #[test]
    fn loops_whose_frames_are_out_of_the_chain_are_counted() {
        let mut memory = Memory::default();
        memory.map(0x10_000, 4096);
        // A finalizer (3), set off by a loop that has no frame left, in a loop that runs frame 1.
        put_frame(&mut memory, 0x10_000, 1, 0, 0);
        put_frame(&mut memory, 0x10_100, 0, 0x10_000, 3);
        put_frame(&mut memory, 0x10_200, 0, 0x10_100, 3);
        put_frame(&mut memory, 0x10_300, 3, 0x10_200, 0);
        let walked = walk(&memory, interpreter_frames(), 0x10_300);
        assert_eq!(walked.codes, [3, 1]);
        assert_eq!(walked.flags, [FRAME_ENTRY | FRAME_FRAMELESS, 0]);
        assert_eq!(walk(&memory, interpreter_frames(), 0x10_200).leading, 2);
    }

    #[test]
    fn a_hosts_frames_follow_those_of_its_sub_interpreter() {
        let mut memory = Memory::default();
        memory.map(0x10_000, 4096);
        put_frame(&mut memory, 0x10_000, 0, 0, 3);
        put_frame(&mut memory, 0x10_100, 1, 0x10_000, 0);
        put_frame(&mut memory, 0x10_200, 0, 0, 3);
        put_frame(&mut memory, 0x10_300, 2, 0x10_200, 0);
        for (innermost, codes) in [(0x10_300, vec![2, 1]), (0, vec![1])] {
            let mut scratch = zeroed();
            scratch.process = interpreter_frames();
            scratch.frame = innermost;
            scratch.host = 0x10_100;
            start(&mut scratch);
            while step(&memory, &mut scratch) {}
            let frames: Vec<(u64, u64)> = (0..scratch.record.python_len)
                // SAFETY: the slots were written by the walk.
                .map(|index| unsafe { *scratch.python_frame(index) })
                .map(|frame| (frame.code, frame.instruction & !INSTRUCTION_MASK))
                .collect();
            let expected: Vec<(u64, u64)> = codes.into_iter().map(|code| (code, FRAME_ENTRY)).collect();
            assert_eq!(frames, expected);
            assert_eq!(scratch.record.header.python, PYTHON_COMPLETE);
        }
    }

    #[test]
    fn a_frame_at_the_base_of_the_chain_is_no_loops() {
        let mut memory = Memory::default();
        memory.map(0x10_000, 4096);
        put_frame(&mut memory, 0x10_000, 0, 0, 3);
        put_frame(&mut memory, 0x10_100, 0, 0x10_000, 3);
        put_frame(&mut memory, 0x10_200, 1, 0x10_100, 0);
        let process = PythonProcess {
            flags: LAYOUT_BASE_FRAME,
            ..interpreter_frames()
        };
        let walked = walk(&memory, process, 0x10_200);
        assert_eq!((walked.codes, walked.flags), (vec![1], vec![FRAME_ENTRY]));
        assert_eq!(
            walk(&memory, process, 0x10_000).leading,
            0,
            "a thread that runs no Python"
        );
        assert_eq!(
            walk(&memory, interpreter_frames(), 0x10_000).leading,
            1,
            "none has it before 3.15"
        );
    }

    #[test]
    fn a_frame_that_cannot_be_read_cuts_the_stack_there() {
        let mut memory = Memory::default();
        memory.map(0x10_000, 4096);
        put_frame(&mut memory, 0x10_100, 2, 0x7777_0000, 0);
        let walked = walk(&memory, interpreter_frames(), 0x10_100);
        assert_eq!((walked.codes, walked.status), (vec![2], PYTHON_TORN));

        // Frames are aligned; what is not is no frame.
        put_frame(&mut memory, 0x10_100, 2, 0x10_203, 0);
        let walked = walk(&memory, interpreter_frames(), 0x10_100);
        assert_eq!((walked.codes, walked.status), (vec![2], PYTHON_TORN));
    }

    #[test]
    fn a_stack_that_is_too_deep_keeps_its_leaf_side_and_a_circle_ends() {
        let mut memory = Memory::default();
        memory.map(0x10_000, 4096);
        put_frame(&mut memory, 0x10_000, 1, 0x10_100, 0);
        put_frame(&mut memory, 0x10_100, 2, 0x10_000, 0);
        let walked = walk(&memory, interpreter_frames(), 0x10_100);
        assert_eq!(
            (walked.codes.len(), walked.status),
            (MAX_PYTHON_FRAMES, PYTHON_TRUNCATED)
        );
        assert_eq!(walked.codes[..3], [2, 1, 2]);
    }

    #[test]
    fn the_window_never_reaches_below_the_page_of_its_frame() {
        let mut memory = Memory::default();
        // Nothing is mapped below this page, and the frame is its first bytes.
        memory.map(0x20_000, 4096);
        put_frame(&mut memory, 0x20_000, 7, 0, 0);
        let walked = walk(&memory, interpreter_frames(), 0x20_000);
        assert_eq!((walked.codes, walked.status), (vec![7], PYTHON_COMPLETE));
    }

    #[test]
    fn heap_frames_keep_their_index_and_all_are_entries() {
        let mut memory = Memory::default();
        memory.map(0x10_000, 4096);
        memory.put_u64(0x10_000 + 32, 5);
        memory.put(0x10_000 + 104, &(-1i32).to_le_bytes());
        let mut scratch = zeroed();
        scratch.process = heap_frames();
        scratch.frame = 0x10_000;
        start(&mut scratch);
        while step(&memory, &mut scratch) {}
        assert_eq!(scratch.record.python_len, 1);
        // SAFETY: the slot was written by the walk.
        let PythonFrame { code, instruction, .. } = unsafe { *scratch.python_frame(0) };
        assert_eq!((code, instruction), (5, u64::from(u32::MAX) | FRAME_ENTRY));
    }

    #[test]
    fn tags_of_code_pointers_are_removed() {
        let mut memory = Memory::default();
        memory.map(0x10_000, 4096);
        put_frame(&mut memory, 0x10_000, 0x5001, 0, 0);
        let process = PythonProcess {
            flags: LAYOUT_CFRAME | LAYOUT_TAGGED_EXECUTABLE,
            ..interpreter_frames()
        };
        assert_eq!(walk(&memory, process, 0x10_000).codes, [0x5000]);
    }

    #[test]
    fn any_bytes_end_the_walk() {
        use proptest::prelude::*;
        proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 4096), process in 0..2, at in 0u64..4096)| {
            let mut memory = Memory::default();
            memory.map(0x10_000, 4096);
            memory.put(0x10_000, &bytes);
            let layout = if process == 0 { heap_frames() } else { interpreter_frames() };
            let walked = walk(&memory, layout, 0x10_000 + at);
            prop_assert!(walked.codes.len() <= MAX_PYTHON_FRAMES);
        });
    }
}
