//! What the kernel side must know to walk one process's CPython stacks.
//!
//! User space finds it (from the interpreter's ELF file, its version and, from 3.13 on, `_Py_DebugOffsets`) and
//! writes it into the map `PYTHONS`, keyed by pid. A field's offset is counted from the start of its C struct.

/// The thread state is in the slot of the pthread key at [`PythonProcess::key_address`] (CPython 3.8 – 3.14).
pub const THREAD_BY_PTHREAD_KEY: u32 = 1;
/// The thread state is at `fsbase + tls_offset` (3.15, static executable: `mov %fs:off,%rax`).
pub const THREAD_BY_STATIC_TLS: u32 = 2;
/// The thread state is at `tls_offset` in the TLS block of the module whose number is at `key_address`
/// (3.15, shared library: `__tls_get_addr`).
pub const THREAD_BY_DYNAMIC_TLS: u32 = 3;

/// Frames are `PyFrameObject`s on the heap and the instruction is an `int` index (3.8 – 3.10).
pub const LAYOUT_HEAP_FRAMES: u32 = 1 << 0;
/// A frame says itself that it is the last of its native evaluation loop (`is_entry`, 3.11).
pub const LAYOUT_ENTRY_FLAG: u32 = 1 << 1;
/// The frame is reached through `tstate->cframe->current_frame` (3.11, 3.12).
pub const LAYOUT_CFRAME: u32 = 1 << 2;
/// The low two bits of `f_executable` are a tag (3.14+).
pub const LAYOUT_TAGGED_EXECUTABLE: u32 = 1 << 3;
/// `key_address - gilstate_gap` holds the thread state that owns the (only) GIL: needed to see the sub-interpreter a
/// thread is in, because before 3.12 the pthread key keeps the thread's first state.
pub const LAYOUT_GIL_HOLDER: u32 = 1 << 4;
/// The chain ends in a frame of the thread state's that looks like an entry frame but belongs to no evaluation loop
/// (`base_frame`, 3.15).
pub const LAYOUT_BASE_FRAME: u32 = 1 << 5;

/// [`PythonProcess::generation`] is the number of the next code object (3.12, 3.13), 32 bits wide and 0 when all are used
/// up; otherwise it counts those that are gone (3.14+).
pub const LAYOUT_GENERATION_IS_VERSION: u32 = 1 << 6;
/// [`PythonProcess::generation`] is an address, and all interpreters have one number (3.12).
pub const LAYOUT_GENERATION_IS_GLOBAL: u32 = 1 << 7;

/// The C library is musl: the pointer to a thread's values of pthread keys lies at [`PythonProcess::tls_offset`] from its
/// fs base, and not where glibc has them.
pub const LAYOUT_MUSL: u32 = 1 << 8;

/// Code of the evaluation loop at which the chain of frames does not begin with the loop's own frame, although the loop
/// is on the native stack: it has none yet, it has none any more, or it is about to put one into the chain and what the
/// chain begins with is not filled in. The sampled instruction tells, exactly, and what to do instead is said here.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainGap {
    /// Where it starts, counted from [`PythonProcess::eval_frame`].
    pub start: i32,
    /// How long it is; 0 for an entry that is not in use.
    pub bytes: u8,
    /// `GAP_…`: where the innermost frame is found.
    pub place: u8,
    /// Added to the register, before [`GAP_READ`].
    pub offset: i16,
}

impl ChainGap {
    /// An entry that is not in use.
    pub const NONE: Self = Self {
        start: 0,
        bytes: 0,
        place: 0,
        offset: 0,
    };
}

/// A register by its index in the kernel's `struct pt_regs`, counted in words.
pub const GAP_REGISTER: u8 = 0x1f;
/// In place of a register: where it always is, in the thread state.
pub const GAP_IN_CHAIN: u8 = 0x1f;
/// In place of a register: nowhere.
pub const GAP_NOWHERE: u8 = 0x1e;
/// Not the register (and offset) is the frame but the word there …
pub const GAP_READ: u8 = 0x20;
/// … or that word is a `_PyCFrame`, whose `current_frame` it is.
pub const GAP_READ_CFRAME: u8 = 0x40;
/// The innermost loop has no frame.
pub const GAP_FRAMELESS: u8 = 0x80;

/// Known builds have 3 to 10.
pub const CHAIN_GAPS: usize = 16;

/// Everything needed to walk the Python stacks of one process. One cache-friendly record: the sampling program
/// looks it up once per sample.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PythonProcess {
    /// Distinguishes this process from an earlier or later one with the same pid (exec included). Never 0.
    pub instance: u32,
    /// `THREAD_BY_…`.
    pub thread_lookup: u32,
    /// `LAYOUT_…` bits.
    pub flags: u32,
    /// Offset of the thread-local variable (`THREAD_BY_…_TLS`), or see [`LAYOUT_MUSL`].
    pub tls_offset: i32,
    /// Address of `autoTSSkey` (`Py_tss_t`: `int is_initialized; pthread_key_t key`), or of the GOT pair
    /// (module, offset) for `THREAD_BY_DYNAMIC_TLS`.
    pub key_address: u64,
    /// `PyCode_Type`: what a frame calls a code object must point to it.
    pub code_type: u64,
    /// Starts and ends of the evaluation loop's machine code (its hot and its cold part); empty where not known.
    pub eval_start: [u64; 2],
    pub eval_end: [u64; 2],
    /// `_PyEval_EvalFrameDefault`.
    pub eval_frame: u64,

    /// Distance from `gilstate.tstate_current` up to `autoTSSkey` (`LAYOUT_GIL_HOLDER`).
    pub gilstate_gap: u16,
    /// `PyThreadState.frame` (3.8 – 3.10), `.cframe` (3.11, 3.12), `.current_frame` (3.13+).
    pub thread_frame: u16,
    /// `PyThreadState.thread_id`, a `pthread_t`, which is the fs base (glibc, musl): the proof that a state is this thread's.
    pub thread_id: u16,
    /// `_PyCFrame.current_frame`.
    pub cframe_current: u16,

    /// Bytes to read of a frame.
    pub frame_bytes: u16,
    pub frame_previous: u16,
    pub frame_code: u16,
    /// `f_lasti` (i32), `prev_instr` or `instr_ptr` (u64).
    pub frame_instruction: u16,
    /// `owner` (u8) from 3.11 on.
    pub frame_owner: u16,
    /// `is_entry` (u8) on 3.11.
    pub frame_entry: u16,

    /// `PyObject.ob_type`.
    pub object_type: u16,
    pub code_first_line: u16,
    pub code_filename: u16,
    pub code_name: u16,
    /// `co_qualname`, or 0 where the version has none (before 3.11).
    pub code_qualname: u16,
    /// `co_lnotab` or `co_linetable`.
    pub code_line_table: u16,
    /// `_co_firsttraceable` (i32), or 0 where the version has none.
    pub code_first_traceable: u16,
    pub unicode_length: u16,
    pub unicode_state: u16,
    /// Where the characters of a compact ASCII string start.
    pub unicode_ascii_data: u16,
    /// Where the characters of any other compact string start.
    pub unicode_compact_data: u16,
    pub bytes_size: u16,
    pub bytes_data: u16,
    /// Bytes to read of a code object to have all of its fields.
    pub code_bytes: u16,
    /// A word in whose upper half is `co_version`, which no two code objects of an interpreter share (3.12+), or 0 where
    /// the version has none.
    pub code_version: u16,
    /// `PyThreadState.interp`.
    pub thread_interpreter: u16,
    /// Offset in `_PyRuntime` of the pointer to the main interpreter, and in an interpreter of that to its newest thread
    /// state; 0 where nothing is looked for there (before 3.12).
    pub runtime_main: u16,
    pub interpreter_threads: u16,
    /// A word that changes whenever a code object is made, or whenever one goes: in `PyInterpreterState`, or, with
    /// [`LAYOUT_GENERATION_IS_GLOBAL`], in memory. 0 if there is none, or none was found.
    pub generation: u64,
    /// `_PyRuntime`, start and end: the process's first interpreter is in it (3.12+), and is never freed.
    pub runtime: [u64; 2],

    /// In the order in which they are searched: those not in use come last.
    pub chain_gaps: [ChainGap; CHAIN_GAPS],
}

const _: () = assert!(size_of::<ChainGap>() == 8);
const _: () = assert!(size_of::<PythonProcess>() == 96 + 28 * 2 + CHAIN_GAPS * 8);

impl PythonProcess {
    /// By how much every object's header is longer than in other builds: 16 bytes without a GIL, else 0.
    #[inline(always)]
    pub const fn header_growth(&self) -> u64 {
        /// `offsetof(PyObject, ob_type)` (3.8 – 3.15).
        const USUAL: u16 = 8;
        self.object_type.saturating_sub(USUAL) as u64
    }

    /// Where `co_flags` lies: as far behind the type in all builds that have the same fields between them. Up to 3.10 those
    /// are five counts, from 3.11 on the size of the object and three pointers (3.8 – 3.15, 3.14 without a GIL).
    #[inline(always)]
    pub const fn code_flags(&self) -> u16 {
        let behind = if self.code_qualname == 0 { 28 } else { 40 };
        self.object_type + behind
    }
}

#[cfg(feature = "user")]
// SAFETY: `PythonProcess` is `repr(C)`, made of integers, and has no padding (its size is the sum of its fields,
// asserted above).
unsafe impl aya::Pod for PythonProcess {}

/// Key of the map of code objects already sent, and of those whose calls are counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeKey {
    pub address: u64,
    /// [`PythonProcess::instance`]; in the upper half what tells the code from others that come to lie at the address:
    /// where calls are counted, which function it is, and where code is sent, half of its fingerprint.
    pub instance: u64,
}

impl CodeKey {
    pub const fn identified(address: u64, instance: u32, identity: u32) -> Self {
        Self {
            address,
            instance: instance as u64 | (identity as u64) << 32,
        }
    }

    /// Without the identity.
    pub const fn anyone(self) -> Self {
        Self {
            address: self.address,
            instance: self.instance & 0xffff_ffff,
        }
    }
}

#[cfg(feature = "user")]
// SAFETY: two u64, no padding.
unsafe impl aya::Pod for CodeKey {}

/// Where a process's GIL is, which its version says (`GILS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GilFacts {
    /// Of the only one (before 3.12).
    pub address: u64,
    /// Or the offset of the pointer to it in an interpreter's state (3.12 on); 0 if there is only one.
    pub in_interpreter: u64,
}

#[cfg(feature = "user")]
// SAFETY: two u64, no padding.
unsafe impl aya::Pod for GilFacts {}

/// [`PoolFacts::arenas_register`]: the pointer to the usable arenas is a variable, whose address is known.
pub const ARENAS_STATIC: u32 = u32::MAX;

/// How to see, at the probe in `allocate_from_new_pool`, which pool a process's pymalloc is about to take.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolFacts {
    /// The register that holds the size class, by its index in the kernel's `struct pt_regs`, counted in words.
    pub class_register: u32,
    /// The register that holds the allocator's state, likewise (3.12+), or [`ARENAS_STATIC`].
    pub arenas_register: u32,
    /// Where the pointer to the usable arenas is: an address, or an offset in the allocator's state.
    pub arenas: u64,
    /// Bytes of a pool.
    pub pool_bytes: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<PoolFacts>() == 24);

#[cfg(feature = "user")]
// SAFETY: `PoolFacts` is `repr(C)`, made of integers, and has no padding (asserted above).
unsafe impl aya::Pod for PoolFacts {}

/// What is known of the `MemoryError`s of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryErrors {
    /// The class itself, not one derived from it.
    pub class: u64,
    /// When the last one was raised (`CLOCK_MONOTONIC`); 0 if none was.
    pub last_ns: u64,
}

const _: () = assert!(size_of::<MemoryErrors>() == 16);

#[cfg(feature = "user")]
// SAFETY: two u64, no padding.
unsafe impl aya::Pod for MemoryErrors {}

/// What an allocating function is given, as a probe's cookie says it: kind, and the registers of two arguments by their
/// index in the kernel's `struct pt_regs`, counted in words.
pub const fn allocation_cookie(kind: u32, first: u32, second: u32) -> u64 {
    (kind | first << 8 | second << 16) as u64
}

/// `malloc(size)`: the first register.
pub const ALLOCATION_MALLOC: u32 = 0;
/// `calloc(count, size)`.
pub const ALLOCATION_CALLOC: u32 = 1;
/// `realloc(block, size)`.
pub const ALLOCATION_REALLOC: u32 = 2;

/// In the lowest byte of a cookie, besides kind or event: the probe is on an instruction that the kernel does not emulate but
/// steps.
pub const PROBE_STEPPED: u32 = 0x80;

/// [`CallFacts::not_begun`]: every frame that ends has begun.
pub const ALWAYS_BEGUN: i32 = i32::MIN;

/// How calls are told in one process, besides what [`PythonProcess`] says of its frames.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallFacts {
    /// Frames of this code object are no calls (`_Py_InitCleanup`, 3.13+); 0 if there is none.
    pub cleanup_code: u64,
    /// `PyCodeObject.co_code_adaptive`: where the instructions begin (3.11+).
    pub code_adaptive: u32,
    /// A frame that ends at most so many bytes after its first instruction has not begun (3.11+), or [`ALWAYS_BEGUN`].
    pub not_begun: i32,
    /// `BY_…`.
    pub watched: u32,
    /// Of which program this is said ([`PythonProcess::instance`]): a process may have become another one since.
    pub instance: u32,
}

const _: () = assert!(size_of::<CallFacts>() == 24);

#[cfg(feature = "user")]
// SAFETY: `CallFacts` is `repr(C)`, made of integers, and has no padding (asserted above).
unsafe impl aya::Pod for CallFacts {}

/// [`CallFacts::watched`]: calls are counted by probes.
pub const BY_PROBES: u32 = 0;
/// Calls of chosen functions are counted where their bytecode is read, and no others.
pub const BY_WATCHES: u32 = 1;

/// Value of the map `EXPECTED`, by the number of a file ([`call_cookie`]): the CPython in it, for processes that user space
/// has not told of yet. Addresses are the file's: a process's are known when it hits a probe, whose own address tells.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpectedPython {
    pub process: PythonProcess,
    pub calls: CallFacts,
}

/// Instances that the kernel side has numbered begin here, those of user space end.
pub const FIRST_BEGUN: u32 = 1 << 31;

#[cfg(feature = "user")]
// SAFETY: `ExpectedPython` is `repr(C)`, made of two structures that are, whose sizes are multiples of eight bytes.
unsafe impl aya::Pod for ExpectedPython {}

/// What a probe on calls sees, as its cookie says it: event, the register of the frame by its index in the kernel's
/// `struct pt_regs`, counted in words, the offset of `co_flags` ([`CALL_LOOP_ENTRY`]), the number of the file, or 0, and the
/// probe's own address in it; 0 if that is beyond 4 GiB.
pub const fn call_cookie(event: u32, frame: u32, code_flags: u8, file: u8, address: u64) -> u64 {
    let address = if address >> 32 == 0 { address } else { 0 };
    (event | frame << 8 | (code_flags as u32) << 16 | (file as u32) << 24) as u64 | address << 32
}

/// A call, or the resumption of a generator.
pub const CALL_ENTRY: u32 = 0;
/// A call or a resumption, unless a generator is created (3.11).
pub const CALL_LOOP_ENTRY: u32 = 1;
/// The end of a call.
pub const CALL_EXIT: u32 = 2;
/// The end of a call, unless the loop was entered with its frame (3.11).
pub const CALL_INNER_EXIT: u32 = 3;
/// A generator stops: the end of a call.
pub const CALL_YIELD: u32 = 4;
/// A call or a resumption begins: not to be counted (3.11+).
pub const CALL_BEGIN: u32 = 5;

/// Key of the map `STARTS`: a call under way, by its frame, or by where the stack was when the loop was entered with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StartKey {
    pub place: u64,
    pub tid: u64,
}

#[cfg(feature = "user")]
// SAFETY: two u64, no padding.
unsafe impl aya::Pod for StartKey {}

/// Value of the map `STARTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub time_ns: u64,
    pub code: u64,
    pub caller: u64,
    /// Which code they are: the caller's in the upper half.
    pub identities: u64,
    /// Not 0: it was seen to begin, and counted, where its bytecode was read: the machine instruction after the one that
    /// read it.
    pub watched: u64,
    /// What its thread had paid then.
    pub paid: Toll,
}

#[cfg(feature = "user")]
// SAFETY: five u64 and a `Toll`, no padding.
unsafe impl aya::Pod for Start {}

/// What a thread has been stopped for by us.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Toll {
    /// Hits of probes on instructions that the kernel emulates, and on those that it steps.
    pub emulated: u32,
    pub stepped: u32,
    /// Hits of return probes.
    pub returns: u32,
    /// Hits of hardware breakpoints.
    pub watches: u32,
    /// That our programs took, as they measured themselves.
    pub program_ns: u64,
}

const _: () = assert!(size_of::<Toll>() == 24);

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, made of integers, no padding (asserted above).
unsafe impl aya::Pod for Toll {}

/// Key of the map `WATCHES`: a byte of a process's memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatchKey {
    pub address: u64,
    pub pid: u64,
}

#[cfg(feature = "user")]
// SAFETY: two u64, no padding.
unsafe impl aya::Pod for WatchKey {}

/// Value of the map `WATCHES`: what the evaluation loop does when it reads that byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The code object whose bytecode it is.
    pub code: u64,
    /// `WATCH_…`.
    pub kind: u64,
    /// What being stopped costs the thread, in nanoseconds: it is taken off the time of the call.
    pub trap_ns: u64,
}

#[cfg(feature = "user")]
// SAFETY: three u64, no padding.
unsafe impl aya::Pod for Watch {}

/// A call begins: its first instruction is fetched.
pub const WATCH_ENTRY: u64 = 0;
/// A call is about to return.
pub const WATCH_RETURN: u64 = 1;

/// Value of the map `CALLS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCount {
    pub calls: u64,
    /// Of those, calls while another call of the function was under way.
    pub nested: u64,
    /// `CALLS_…` bits.
    pub known: u64,
}

/// [`CallCount::known`]: a call of the function was seen inside another.
pub const CALLS_RECURSIVE: u64 = 1 << 0;
/// [`CallCount::known`]: of some calls it cannot be told whether they were inside another: where a generator stops, some
/// builds (Debian's 3.14.10) have unlinked its frame already.
pub const CALLS_UNLINKED: u64 = 1 << 1;
/// [`CallCount::known`]: it is a generator or a coroutine: each time it is resumed is a call (from 3.12 on).
pub const CALLS_RESUMED: u64 = 1 << 2;

#[cfg(feature = "user")]
// SAFETY: three u64, no padding.
unsafe impl aya::Pod for CallCount {}

/// Values of the map `CHOSEN`.
pub const NOT_CHOSEN: u32 = 0;
pub const IS_CHOSEN: u32 = 1;
