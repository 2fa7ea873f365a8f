//! Records in the ring buffer, in the order in which the kernel side wrote them.

use crate::{
    limits::{COMM_BYTES, MAX_CODE_BYTES, MAX_KERNEL_ADDRESSES, MAX_NATIVE_ADDRESSES, MAX_PYTHON_FRAMES},
    python::Toll,
};

/// A sample whose stack was sent before: a [`SampleHeader`] alone.
pub const RECORD_SAMPLE: u32 = 1;
/// A sample with its stack: a [`StackRecord`], cut after its last Python frame.
pub const RECORD_STACK: u32 = 2;
/// A code object: a [`CodeRecord`], cut after its last byte.
pub const RECORD_CODE: u32 = 3;

/// A stack that no sample is counted for, to be referred to by records that follow: as [`RECORD_STACK`].
pub const RECORD_DEFINITION: u32 = 4;
/// What happened to memory: a [`MemoryRecord`].
pub const RECORD_MEMORY: u32 = 5;

/// A block came or went: a [`BlockRecord`].
pub const RECORD_BLOCK: u32 = 6;

/// A call of a chosen function has ended: a [`CallRecord`].
pub const RECORD_CALL: u32 = 7;

/// The calls of a process are counted from its first one on: a [`BeganRecord`].
pub const RECORD_BEGAN: u32 = 8;

/// A wait of a thread that was drawn: a [`crate::wait::WaitRecord`].
pub const RECORD_WAIT: u32 = 9;

/// A [`StallRecord`](crate::wait::StallRecord).
pub const RECORD_STALL: u32 = 10;

/// An [`IoRecord`](crate::wait::IoRecord).
pub const RECORD_IO: u32 = 11;

/// A [`MarkRecord`](crate::mark::MarkRecord).
pub const RECORD_MARK: u32 = 12;

/// The process is not (known to be) a CPython.
pub const PYTHON_NONE: u32 = 0;
/// The whole chain was read, down to the thread's first frame.
pub const PYTHON_COMPLETE: u32 = 1;
/// Deeper than [`MAX_PYTHON_FRAMES`]: the leaf side was kept.
pub const PYTHON_TRUNCATED: u32 = 2;
/// The interpreter has no thread key yet (it is starting) or any more (it is finalizing).
pub const PYTHON_NOT_INITIALIZED: u32 = 3;
/// This thread has never run Python.
pub const PYTHON_NO_THREAD_STATE: u32 = 4;
/// What was found where the thread state should be is not this thread's.
pub const PYTHON_BAD_THREAD_STATE: u32 = 5;
/// A frame could not be read: the chain is cut there.
pub const PYTHON_TORN: u32 = 6;
/// The thread has a state but no Python frame (between calls, or in an embedding program).
pub const PYTHON_NO_FRAME: u32 = 7;

/// No native stack: not asked for, or a kernel thread, which has none.
pub const NATIVE_NONE: u32 = 0;
/// It reaches the thread's first function.
pub const NATIVE_COMPLETE: u32 = 1;
/// Deeper than [`crate::limits::MAX_NATIVE_ADDRESSES`]: the leaf side was kept.
pub const NATIVE_TRUNCATED: u32 = 2;
/// The process's mappings were not known (yet).
pub const NATIVE_UNKNOWN_PROCESS: u32 = 3;
/// An address lies in no code that is known to be mapped.
pub const NATIVE_NOT_CODE: u32 = 4;
/// The file's unwind table was not ready yet.
pub const NATIVE_TABLE_NOT_READY: u32 = 5;
/// There was no room for the file's unwind table.
pub const NATIVE_NO_ROOM: u32 = 6;
/// The file's unwind information does not cover the address.
pub const NATIVE_NOT_COVERED: u32 = 7;
/// The unwind information at the address is of a kind we do not know.
pub const NATIVE_UNSUPPORTED: u32 = 8;
/// A rule needs a register that is not known any more at this depth.
pub const NATIVE_REGISTER_LOST: u32 = 9;
/// The stack's memory could not be read.
pub const NATIVE_UNREADABLE: u32 = 10;
/// What should be the caller's frame does not lie further up the stack.
pub const NATIVE_NOT_ADVANCING: u32 = 11;
/// Code without unwind information, and the frame pointer does not point into the stack.
pub const NATIVE_BAD_FRAME_POINTER: u32 = 12;
/// A 32-bit program.
pub const NATIVE_32_BIT: u32 = 13;
pub const NATIVE_STATUSES: usize = 14;

/// A 128-bit keyed hash over everything a stack consists of, its pid included.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StackKey {
    pub hash: [u64; 2],
}

#[cfg(feature = "user")]
// SAFETY: two u64, no padding.
unsafe impl aya::Pod for StackKey {}

/// Value of the map `STACKS`: what was sent of a stack.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownStack {
    /// What the fingerprints of its code came to.
    pub fingerprint: u64,
    /// The interpreter's generation when they were taken; 0 if it has none.
    pub generation: u64,
    /// Ties the words together: where entries make room for others, one can be read while it is written anew.
    check: u64,
}

impl KnownStack {
    #[inline]
    pub const fn new(place: StackKey, fingerprint: u64, generation: u64) -> Self {
        Self {
            fingerprint,
            generation,
            check: Self::check(place, fingerprint, generation),
        }
    }

    /// Whether this is what was kept of the stack at `place`.
    #[inline]
    pub const fn is_of(&self, place: StackKey) -> bool {
        self.check == Self::check(place, self.fingerprint, self.generation)
    }

    #[inline]
    const fn check(place: StackKey, fingerprint: u64, generation: u64) -> u64 {
        place.hash[0] ^ fingerprint ^ generation.rotate_left(32)
    }
}

#[cfg(feature = "user")]
// SAFETY: three u64, no padding.
unsafe impl aya::Pod for KnownStack {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SampleHeader {
    /// `RECORD_…`.
    pub kind: u32,
    pub cpu: u32,
    pub pid: u32,
    pub tid: u32,
    /// CLOCK_MONOTONIC.
    pub time_ns: u64,
    pub stack: StackKey,
    /// The thread's name, NUL padded.
    pub comm: [u8; COMM_BYTES],
    /// [`crate::python::PythonProcess::instance`], or 0 if the process is not known to be a CPython.
    pub instance: u32,
    /// `PYTHON_…`.
    pub python: u32,
}

const _: () = assert!(size_of::<SampleHeader>() == 64);

/// One Python frame as the kernel saw it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PythonFrame {
    /// Address of the code object.
    pub code: u64,
    /// `f_lasti` or the address of the instruction in the low 56 bits, `FRAME_…` bits above.
    pub instruction: u64,
    /// What tells the code object from others that come to lie at the same address; 0 if it could not be told.
    pub fingerprint: u64,
}

pub const INSTRUCTION_MASK: u64 = (1 << 56) - 1;
/// The last frame (root side) that its native evaluation loop ran: below it lies C. Every frame up to 3.10,
/// `is_entry` on 3.11, the frame above an entry frame from 3.12 on.
pub const FRAME_ENTRY: u64 = 1 << 56;
/// A generator's or coroutine's frame.
pub const FRAME_GENERATOR: u64 = 1 << 57;
/// The bits above count the loops between this frame, which is its loop's last, and the next one: their own frames are
/// out of the chain already (a finalizer that a loop's last frame sets off as it is cleared, 3.12 and later).
pub const FRAME_FRAMELESS_SHIFT: u32 = 58;
/// One such loop.
pub const FRAME_FRAMELESS: u64 = 1 << FRAME_FRAMELESS_SHIFT;

/// [`StackRecord::python_flags`]: the bits from here on count the loops above the first frame that have none, yet or any
/// more.
pub const PYTHON_FRAMELESS_SHIFT: u32 = 8;
/// One such loop.
pub const PYTHON_FRAMELESS: u32 = 1 << PYTHON_FRAMELESS_SHIFT;
/// [`StackRecord::python_flags`]: the thread is in a sub-interpreter, and frames of the interpreter that it came from, or
/// of others between, may be missing.
pub const PYTHON_OTHER_INTERPRETER: u32 = 1 << 1;

/// A sample with its stack.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StackRecord {
    pub header: SampleHeader,
    pub kernel_len: u32,
    pub native_len: u32,
    pub python_len: u32,
    /// `PYTHON_FRAMELESS`, `PYTHON_OTHER_INTERPRETER`.
    pub python_flags: u32,
    /// `NATIVE_…`: why the native stack ends where it does.
    pub native_status: u32,
    pub reserved: u32,
    /// What the kernel side knows the stack by: `header.stack` without the fingerprints of its code.
    pub place: StackKey,
    /// Without gaps, each leaf first: kernel addresses, native addresses, and Python frames of three words each (as
    /// [`PythonFrame`]). Cut after the last.
    pub words: [u64; STACK_WORDS],
}

/// Words of the largest stack.
pub const STACK_WORDS: usize = MAX_KERNEL_ADDRESSES + MAX_NATIVE_ADDRESSES + PYTHON_FRAME_WORDS * MAX_PYTHON_FRAMES;

/// Words of a [`PythonFrame`].
pub const PYTHON_FRAME_WORDS: usize = 3;

const _: () = assert!(size_of::<PythonFrame>() == 8 * PYTHON_FRAME_WORDS);
const _: () = assert!(size_of::<StackRecord>() == 64 + 40 + 8 * STACK_WORDS);

/// A page was touched that was not there, or not writable. `address`; `flags`: `FAULT_…`.
pub const MEMORY_FAULT: u32 = 1;
/// pymalloc is about to take a pool. `address`: the pool, or 0; `length`: bytes of its objects; `other`: bytes of the pool.
pub const MEMORY_POOL: u32 = 2;
/// mmap. `address`, `length`; `flags`: `MAP_…`; of a file `device`, `other`: its inode, and `old_length`: where in it.
pub const MEMORY_MAP: u32 = 3;
/// munmap. `address`, `length`.
pub const MEMORY_UNMAP: u32 = 4;
/// madvise. `address`, `length`; `flags`: the advice.
pub const MEMORY_ADVISE: u32 = 5;
/// mremap. `address`, `length`: what is mapped now; `other`: where it was; `old_length`: how long.
pub const MEMORY_REMAP: u32 = 6;
/// brk. `address`: where the heap ends now.
pub const MEMORY_BREAK: u32 = 7;
/// Block records that follow refer to this stack by a number: `weight`.
pub const MEMORY_SITE: u32 = 8;
/// The collector began to track an object. `address`: its GC head; `length`: its type; `other`: its number.
pub const MEMORY_BIRTH: u32 = 10;

/// The kernel ends the process for want of memory. `length`: the most that was resident, once its last thread ends; 0 before.
pub const MEMORY_VICTIM: u32 = 9;
/// The process's first thread ends, not with 0, after a `MemoryError`. `length`: as above; `flags`: what it ends with, as
/// `wait` tells it; `old_length`: how long ago that was, in nanoseconds; `other`: how much address space it might have.
pub const MEMORY_RAN_OUT: u32 = 11;
/// The process has a `MemoryError`, the first for [`crate::limits::MEMORY_ERROR_QUIET_NS`].
pub const MEMORY_ERROR: u32 = 12;

/// [`MEMORY_FAULT`]: the page was there already (the bits are x86's, arch/x86/include/asm/trap_pf.h).
pub const FAULT_PRESENT: u32 = 1 << 0;
/// [`MEMORY_FAULT`]: it was to be written.
pub const FAULT_WRITE: u32 = 1 << 1;

/// [`MEMORY_MAP`]: of no file.
pub const MAP_ANONYMOUS: u32 = 1 << 0;
/// [`MEMORY_MAP`]: shared with others.
pub const MAP_SHARED: u32 = 1 << 1;
/// [`MEMORY_MAP`]: all of it is there at once, without a fault (`MAP_POPULATE`, `MAP_LOCKED`).
pub const MAP_POPULATED: u32 = 1 << 2;
/// [`MEMORY_MAP`]: it may be written.
pub const MAP_WRITABLE: u32 = 1 << 3;
/// [`MEMORY_MAP`]: address space that nobody may touch so far (`PROT_NONE`).
pub const MAP_RESERVED: u32 = 1 << 4;
/// [`MEMORY_MAP`]: of a file that lies in memory only (tmpfs, `/dev/shm`, memfd).
pub const MAP_TMPFS: u32 = 1 << 5;

/// What happened to the memory of the thread's process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEvent {
    /// `MEMORY_…`.
    pub what: u32,
    /// How many of its kind it stands for.
    pub weight: u32,
    pub flags: u32,
    /// Of the file that is mapped, as the kernel numbers it: `major << 20 | minor`.
    pub device: u32,
    pub address: u64,
    pub length: u64,
    pub other: u64,
    pub old_length: u64,
}

/// Something that happened to memory. Its stack was sent before; a key of zeroes says that there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MemoryRecord {
    pub header: SampleHeader,
    pub event: MemoryEvent,
}

const _: () = assert!(size_of::<MemoryEvent>() == 48);
const _: () = assert!(size_of::<MemoryRecord>() == 64 + 48);

/// [`BlockRecord::site`] of a block for whose stack there was no number left.
pub const SITE_UNKNOWN: u32 = u32::MAX;

/// A block that an allocator gave, or was given back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockRecord {
    /// [`RECORD_BLOCK`].
    pub kind: u32,
    /// The number of the stack that allocated it.
    pub site: u32,
    /// CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// When it was allocated; 0 if it is now.
    pub born_ns: u64,
    pub bytes: u64,
    /// How many allocations its thread made while it lived, if it was the same thread that freed it.
    pub distance: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<BlockRecord>() == 40);

/// A call of a chosen function, from its beginning to its end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallRecord {
    /// [`RECORD_CALL`].
    pub kind: u32,
    /// [`crate::python::PythonProcess::instance`].
    pub instance: u32,
    /// CLOCK_MONOTONIC, at the end.
    pub time_ns: u64,
    /// 0 if its beginning was not seen.
    pub took_ns: u64,
    /// Address of the code object.
    pub code: u64,
    /// The caller's, or 0.
    pub caller: u64,
    /// Which code it is that lies there ([`crate::python::CodeKey`]).
    pub identity: u32,
    pub caller_identity: u32,
    /// What its thread was stopped for by us while it was under way: that is in `took_ns`.
    pub paid: Toll,
}

const _: () = assert!(size_of::<CallRecord>() == 72);

/// A process has hit the first probe in a file whose CPython is known, before user space had told of the process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BeganRecord {
    /// [`RECORD_BEGAN`].
    pub kind: u32,
    pub pid: u32,
    /// CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// What the kernel side knows it by from now on ([`crate::python::PythonProcess::instance`]).
    pub instance: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<BeganRecord>() == 24);

/// Indices into the strings of a [`CodeRecord`].
pub const STRING_FILENAME: usize = 0;
pub const STRING_NAME: usize = 1;
pub const STRING_QUALNAME: usize = 2;
pub const STRINGS: usize = 3;

/// [`RawString::kind`] of a qualified name that is the very object the name is, and so is not copied twice.
pub const SAME_AS_NAME: u32 = 0xff;

/// One string of a code object. Its bytes follow in [`CodeRecord::body`], as CPython keeps them: latin-1, UCS-2 or
/// UCS-4 by `kind`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct RawString {
    /// Bytes copied.
    pub bytes: u32,
    /// Bytes per character (1, 2, 4); 0 if the string could not be read or is absent; [`SAME_AS_NAME`].
    pub kind: u32,
    /// Characters the whole string has; more than `bytes / kind` if it was cut.
    pub characters: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CodeRecord {
    /// [`RECORD_CODE`].
    pub kind: u32,
    pub pid: u32,
    pub instance: u32,
    pub first_line: i32,
    /// Address of the code object.
    pub address: u64,
    /// What tells it from others at this address, as in [`PythonFrame`].
    pub fingerprint: u64,
    pub time_ns: u64,
    /// Address of the line table's first byte, for the part that was not copied.
    pub line_table_address: u64,
    /// Bytes the whole line table has.
    pub line_table_size: u32,
    /// Bytes of it that were copied: all or none.
    pub line_table_bytes: u32,
    pub first_traceable: i32,
    /// Under which calls of it are counted ([`crate::python::CodeKey`]); 0 if it was not sent because it was called.
    pub identity: u32,
    /// `co_flags`.
    pub flags: u32,
    pub reserved: u32,
    pub strings: [RawString; STRINGS],
    /// The strings' bytes in order, then the line table's. Cut after the last.
    pub body: [u8; MAX_CODE_BYTES],
}

const _: () = assert!(size_of::<CodeRecord>() == 16 + 32 + 24 + 16 * STRINGS + MAX_CODE_BYTES);
