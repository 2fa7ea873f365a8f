//! What probes tell that are hit seldom enough for a record each: exceptions, imports, garbage collections.

use crate::record::SampleHeader;

/// An exception is raised.
pub const MARK_RAISE: u32 = 0;
/// A frame is left, or caught in, by the exception of its thread: counted, not told.
pub const MARK_UNWIND: u32 = 1;
/// A module is about to be imported that was not.
pub const MARK_IMPORT: u32 = 2;
/// It is imported, or was not found.
pub const MARK_IMPORTED: u32 = 3;
/// Garbage is about to be collected.
pub const MARK_COLLECT: u32 = 4;
/// It is collected.
pub const MARK_COLLECTED: u32 = 5;

/// What a probe finds, as its cookie says it: what it is, two registers by their index in the kernel's `struct pt_regs`,
/// counted in words, and two offsets, whose meaning depends on what it is.
///
/// The highest bit of the lowest byte is [`crate::python::PROBE_STEPPED`].
pub const fn mark_cookie(what: u32, first: u8, second: u8, offset: u16, other: u16) -> u64 {
    what as u64 | (first as u64) << 8 | (second as u64) << 16 | (offset as u64) << 32 | (other as u64) << 48
}

/// A bit of the byte beside the registers: the code object of a frame is tagged (3.14 on).
pub const MARK_TAGGED: u64 = 1 << 24;
/// Likewise: of exceptions one in [`MARK_DRAWN_OF`] is told, at random. How far they go is not seen.
pub const MARK_DRAWN: u64 = 1 << 25;
/// A power of two.
pub const MARK_DRAWN_OF: u32 = 16;

/// [`MarkEvent::count`] where nothing is known of an exception before: of a thread's first, and of those that were drawn.
pub const MARK_NONE: u32 = u32::MAX;

/// Bytes of a name that are kept.
pub const MARK_TEXT: usize = 104;
/// Of an exception's.
pub const MARK_TYPE_TEXT: u32 = 64;

/// What happened.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkEvent {
    /// `MARK_…`.
    pub what: u32,
    /// Of an exception, how many frames the one before it in its thread was seen in, or [`MARK_NONE`]; of an import, how
    /// many characters the module's name has; of a collection its generation.
    pub count: u32,
    /// Of an exception, the code of the last of those frames; otherwise where the thread's stack is, or what the function returns.
    pub value: u64,
    /// What the thread has been on a CPU so far, as the kernel accounts for it; not of exceptions.
    pub runtime_ns: u64,
    /// The type's name, ended by NUL, or the module's.
    pub text: [u8; MARK_TEXT],
}

impl Default for MarkEvent {
    fn default() -> Self {
        Self {
            what: 0,
            count: 0,
            value: 0,
            runtime_ns: 0,
            text: [0; MARK_TEXT],
        }
    }
}

/// Something happened, with where it did.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MarkRecord {
    /// With [`crate::record::RECORD_MARK`]; the stack is zero where it does not matter.
    pub header: SampleHeader,
    pub event: MarkEvent,
}

const _: () = assert!(size_of::<MarkEvent>() == 128);
const _: () = assert!(size_of::<MarkRecord>() == 64 + 128);

/// Value of the map `UNWINDING`, by thread: what became of its last exception.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unwinding {
    /// Frames that it was seen in.
    pub frames: u64,
    /// The last one's code object.
    pub code: u64,
}

#[cfg(feature = "user")]
// SAFETY: two u64, no padding.
unsafe impl aya::Pod for Unwinding {}
