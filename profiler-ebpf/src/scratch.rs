//! Per-CPU working memory. A BPF program has 512 bytes of stack, so everything larger lives in a map value.

use core::ptr::read_volatile;

use profiler_common::{
    limits::{ADDRESS_SLOTS, MAX_FRAME_BYTES, MAX_PYTHON_FRAMES, MAX_THREAD_STATE_BYTES, WINDOW_BYTES},
    mark::MarkRecord,
    python::PythonProcess,
    record::{MemoryRecord, PYTHON_FRAME_WORDS, PythonFrame, StackKey, StackRecord},
};

use crate::unwind::Unwind;

/// One sample in the making.
///
/// It is never cleared or moved as a whole: in BPF that is a loop over bytes. Whoever starts a sample resets the
/// fields it reads later.
#[repr(C)]
pub struct Scratch {
    pub record: StackRecord,
    /// Copy of the process's facts, so that the walker's parts need not look them up again.
    pub process: PythonProcess,
    /// The native stack's walker.
    pub unwind: Unwind,
    /// What happened to memory, and where (with a copy of the record's header).
    pub memory: MemoryRecord,
    /// What a probe tells, likewise.
    pub mark: MarkRecord,
    /// Words of the record taken by addresses; Python frames follow.
    pub addresses: u32,
    /// Whether any code object of a new stack could not be sent.
    pub codes_missing: u32,
    /// Of the code object that is sent because it is called; 0 for those of stacks.
    pub identity: u64,
    /// The frame to visit next; 0 at the end of the chain.
    pub frame: u64,
    /// The innermost frame of the interpreter that called into a sub-interpreter, to go on with; 0 if there is none.
    pub host: u64,
    /// The thread state to look at next for such a frame; 0 if no more are.
    pub host_state: u64,
    /// `window` holds memory from here …
    pub window_start: u64,
    /// … for this many bytes.
    pub window_len: u64,
    /// Where in `window` the current frame starts. Kept in memory to be re-read: see the crate's documentation.
    pub window_at: u64,
    /// What the stack is known by without the fingerprints of its code.
    pub place: StackKey,
    /// What the fingerprints of its code come to together.
    pub fingerprint: u64,
    /// A word that changes when code objects of the thread's interpreter come or go; 0 if there is none.
    pub generation: u64,
    /// User space has the stack.
    pub known: u32,
    pub reserved: u32,
    /// Frames whose code objects were looked at.
    pub codes_checked: u32,
    /// Code objects sent (or tried) for it.
    pub codes_sent: u32,
    /// Frame memory. The slack makes `(at & mask) + field + 8` stay inside for every `at` and `field`.
    pub window: [u64; (WINDOW_BYTES + MAX_FRAME_BYTES) / 8 + 1],
    /// The thread state, with the same slack.
    pub thread: [u64; 2 * MAX_THREAD_STATE_BYTES / 8 + 1],
}

impl Scratch {
    /// Where Python frame `index` lies in the record. `index` and the number of addresses are bounded by masks the
    /// verifier can follow.
    #[inline(always)]
    pub fn python_frame(&mut self, index: u32) -> *mut PythonFrame {
        // SAFETY: a reference is valid for reads. Volatile: see the crate's documentation.
        let addresses = unsafe { read_volatile(&self.addresses) } as usize & (ADDRESS_SLOTS - 1);
        // SAFETY: a local is valid for reads.
        let index = unsafe { read_volatile(&raw const index) } as usize & (MAX_PYTHON_FRAMES - 1);
        // SAFETY: both are masked, and `words` has room for the most of both.
        unsafe {
            self.record
                .words
                .as_mut_ptr()
                .add(addresses + PYTHON_FRAME_WORDS * index)
                .cast()
        }
    }
}

// A per-CPU map value may have 32 KiB.
const _: () = assert!(size_of::<Scratch>() <= 32 * 1024);

/// Working memory as a new map value: all zeroes.
#[cfg(test)]
pub(crate) fn zeroed() -> Box<Scratch> {
    // SAFETY: `Scratch` is made of integers, for which zero is a value.
    unsafe { Box::<Scratch>::new_zeroed().assume_init() }
}
