//! Sizes both halves must agree on.

/// Python frames kept of one stack, leaf side first; a deeper stack is marked truncated.
pub const MAX_PYTHON_FRAMES: usize = 512;

/// Thread states of the main interpreter that are looked at for the one that called into a sub-interpreter: 100 ns each.
pub const MAX_HOST_STATES: u32 = 64;

/// Kernel addresses kept of one stack. 127 is the kernel's own default bound (`kernel.perf_event_max_stack`).
pub const MAX_KERNEL_ADDRESSES: usize = 127;

/// Native addresses kept of one stack, leaf side first; a deeper stack is marked truncated. Up to CPython 3.10 a Python
/// call takes three native frames, so these are [`MAX_PYTHON_FRAMES`] of them.
pub const MAX_NATIVE_ADDRESSES: usize = 1536;

/// Room for both: a power of two, to make the index maskable.
pub const ADDRESS_SLOTS: usize = 2048;

/// Bytes of the native stack read at once. A read costs 77 ns whether it is of 8 bytes or of 80, and 100 ns of 2 KiB.
pub const STACK_WINDOW_BYTES: usize = 2048;

/// Code objects copied by one sample. A copy costs about 2.5 µs, so the first sample of a deep stack of unseen code
/// would otherwise spend a millisecond in an interrupt; what is left over comes with later samples, and user space is
/// woken to look for itself.
pub const MAX_CODES_PER_SAMPLE: u32 = 16;

/// Bytes kept of each string of a code object. A longer one is cut and marked; user space reads the rest.
pub const MAX_STRING_BYTES: usize = 512;

/// Bytes kept of a line table. A longer one is left out and read by user space.
pub const MAX_LINE_TABLE_BYTES: usize = 4096;

/// Payload of a code record: three strings and a line table.
pub const MAX_CODE_BYTES: usize = 3 * MAX_STRING_BYTES + MAX_LINE_TABLE_BYTES;

/// Bytes of frame memory read at once on CPython 3.11+, where the frames of a data-stack chunk are neighbours.
pub const WINDOW_BYTES: usize = 2048;

/// The most of one interpreter frame that any supported layout needs (`instr_ptr`, `owner`, … all lie below).
pub const MAX_FRAME_BYTES: usize = 128;

/// The most of a thread state that any supported layout needs.
pub const MAX_THREAD_STATE_BYTES: usize = 192;

/// The most of a code object that any supported layout needs.
pub const MAX_CODE_OBJECT_BYTES: usize = 256;

/// Programs that can be at work on one CPU at the same time: one of the CPU clock, one at a page fault, two at system
/// calls, four at uprobes, one at the end of a wait, one where a thread is woken.
pub const CONTEXTS: u32 = 10;

/// Frequent events (page faults) are followed one by one while they are rare, and sampled when they are not. In
/// each stretch of this length …
pub const GATE_STRETCH_NS: u64 = 4_000_000;
/// … so many are followed on each CPU whatever happens …
pub const GATE_FOLLOWED: u32 = 24;
/// … and what was not used up of that before, up to so many …
pub const GATE_SAVED: u32 = 2048;
/// … and of the others, after so many, only every second as many as before.
pub const GATE_STEP: u32 = 6;
/// One in so many is always sampled.
pub const GATE_MOST: u32 = 1 << 16;

/// Births of pools are followed by size class, in stretches so many times as long …
pub const BIRTHS_STRETCH: u64 = 16;
/// … and so many in each on each CPU, of all classes together …
pub const BIRTHS_FOLLOWED: u32 = 128;
/// … and of one class.
pub const BIRTHS_OF_CLASS: u32 = 64;
/// pymalloc has 32 from 3.7 on, one for each 16 bytes. More than that is no size.
pub const SIZE_CLASSES: u32 = 64;

/// Length of a thread's name, NUL included (`TASK_COMM_LEN`).
pub const COMM_BYTES: usize = 16;

const _: () = assert!(MAX_PYTHON_FRAMES.is_power_of_two() && ADDRESS_SLOTS.is_power_of_two());
const _: () = assert!(MAX_KERNEL_ADDRESSES + MAX_NATIVE_ADDRESSES <= ADDRESS_SLOTS);
const _: () = assert!(WINDOW_BYTES.is_power_of_two() && WINDOW_BYTES <= 4096);
const _: () = assert!(STACK_WINDOW_BYTES.is_power_of_two() && STACK_WINDOW_BYTES <= 4096);

/// Of the `MemoryError`s of a process only such are told that come so long after the last one: a program may live with
/// thousands of them. One that ends, not with 0, within that time of the last one is told to have ended for it.
pub const MEMORY_ERROR_QUIET_NS: u64 = 10_000_000_000;
