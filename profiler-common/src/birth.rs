//! Births and deaths of objects, as hardware watchpoints see them (`memory --watchpoints`).
//!
//! One register watches the last link of the interpreter's young generation, which is written whenever the collector begins
//! to track an object. The others each watch the link of one such object, which is cleared when that goes.

/// Objects that can be followed at a time: a processor has four registers, and one is for births.
pub const FOLLOWED: usize = 3;

/// Births of one window that are kept.
pub const MAX_BIRTHS: usize = 2048;

/// What user space wants, and what the kernel side has seen: one, in memory that both write, each its own fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BirthControl {
    // Of user space.
    /// Whose objects; hits of others are counted, and no more.
    pub pid: u32,
    /// Births are told; a register may still stop the process while they are not.
    pub is_open: u32,
    /// Where the young generation's list begins: a `PyGC_Head` of no object.
    pub head: u64,
    pub opened_ns: u64,
    /// How long births have stacks, in time that the process has to itself.
    pub length_ns: u64,
    /// What a hit takes from it.
    pub hit_ns: u64,
    /// The addresses of the links of objects that are followed (`_gc_prev`); 0 is none.
    pub followed: [u64; FOLLOWED],

    // Of the kernel side. User space sets those of a window, and of an object, before it begins.
    /// The list's last link as it was last seen.
    pub last: u64,
    /// Hits in this window.
    pub hits: u64,
    /// Births in this window, also those that found no room.
    pub births: u64,
    /// Births that were numbered so far: a number of its own for each that has a stack.
    pub numbered: u64,
    /// What became of the objects: `ENDED_…`.
    pub ended: [u64; FOLLOWED],
    pub followed_hits: [u64; FOLLOWED],
    /// Hits of all registers, of whatever process, from the first on.
    pub all_hits: u64,
    pub other_hits: u64,
    /// Nanoseconds in the program.
    pub program_ns: u64,
}

const _: () = assert!(size_of::<BirthControl>() == 168);

/// [`BirthControl::ended`]: nothing so far.
pub const ENDED_NOT: u64 = 0;
/// It is no object any more.
pub const ENDED_DEAD: u64 = 1;
/// The collector tracks it no more, but it lives: a tuple or dict of numbers and strings.
pub const ENDED_UNTRACKED: u64 = 2;

/// An object that the collector began to track.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Birth {
    /// Where its GC head is; the object follows it.
    pub head: u64,
    /// Its type.
    pub kind: u64,
    /// The line that made it, more or less: its innermost frames' code and instructions, hashed. 0 if that is not known.
    pub place: u64,
    /// By which its stack is told (a memory event, `MEMORY_BIRTH`); 0 if it came when the window's time was over.
    pub number: u64,
}

const _: () = assert!(size_of::<Birth>() == 32);

/// From a GC head to its object.
pub const GC_HEAD_BYTES: u64 = 16;
/// From a GC head to its link to the one before (`_gc_prev`).
pub const LINK_OFFSET: u64 = 8;
/// Flags in that link.
pub const LINK_FLAGS: u64 = 3;
/// The one of them that stays when an object is tracked no more (`_PyGC_PREV_MASK_FINALIZED`).
pub const LINK_FINALIZED: u64 = 1;
