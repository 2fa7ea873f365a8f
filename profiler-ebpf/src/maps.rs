//! Every map: who writes, who reads, how big, why. Sizes that depend on the machine are set by user space at load.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use profiler_common::{
    birth::{Birth, BirthControl, MAX_BIRTHS},
    limits::CONTEXTS,
    mark::Unwinding,
    python::{
        CallCount, CallFacts, CodeKey, ExpectedPython, GilFacts, MemoryErrors, PoolFacts, PythonProcess, Start,
        StartKey, Toll, Watch, WatchKey,
    },
    record::{KnownStack, StackKey},
    stats::COUNTERS,
    unwind::{MAX_RULES, SHARD_ROWS, UnwindFile, UnwindMapping, UnwindPage, UnwindProcess, UnwindRule},
};
use profiler_ebpf::{known, scratch::Scratch, unwind::UnwindTables};

use crate::{
    alloc::{Block, BlockKey, Pending, SiteKey},
    code::CodeScratch,
    context::Context,
};

/// Kernel → user: samples, stacks, code objects. Resized at load to the number of CPUs.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(4 * 1024 * 1024, 0);

/// User → kernel: how to walk the CPython of a process. Preallocated: perf-event programs may use no other before 6.1.
#[map]
pub static PYTHONS: HashMap<u32, PythonProcess> = HashMap::with_max_entries(16 * 1024, 0);

/// Kernel only: code objects sent, by address and fingerprint. Losing an entry costs one more copy.
#[map]
pub static CODES: LruHashMap<CodeKey, u32> = LruHashMap::with_max_entries(64 * 1024, 0);

/// Kernel only: stacks sent, by the addresses they consist of. Losing an entry costs one more copy.
#[map]
pub static STACKS: LruHashMap<StackKey, KnownStack> = LruHashMap::with_max_entries(64 * 1024, 0);

/// Kernel → user: counters, read at the end. A row for each [`Context`], cut down at load as `SCRATCH` is.
#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(CONTEXTS * COUNTERS as u32, 0);

/// User (and `track_fork`) → kernel: the processes that were asked for, and by which groups of programs
/// ([`profiler_common::group`]).
#[map]
pub static TARGET_PIDS: HashMap<u32, u32> = HashMap::with_max_entries(32 * 1024, 0);

/// User → kernel: where the GIL of a process is (`record --gil`).
#[map]
pub static GILS: HashMap<u32, GilFacts> = HashMap::with_max_entries(16 * 1024, 0);

/// User → kernel: how to see the births of pymalloc's pools in a process.
#[map]
pub static POOL_FACTS: HashMap<u32, PoolFacts> = HashMap::with_max_entries(16 * 1024, 0);

/// User → kernel → kernel: the class `MemoryError` of a process, and when it last had one.
#[map]
pub static MEMORY_ERRORS: HashMap<u32, MemoryErrors> = HashMap::with_max_entries(16 * 1024, 0);

/// Kernel only: pools whose birth was told. What loses its place stays with its former owner when it is born again.
#[map]
pub static POOLS: Array<known::Bucket> = Array::with_max_entries(known::BUCKETS, 0);

/// User → kernel: how to tell the calls of a process.
#[map]
pub static CALL_FACTS: HashMap<u32, CallFacts> = HashMap::with_max_entries(16 * 1024, 0);

/// User → kernel: how to tell the calls of a process that runs the CPython in a file, by the file's number.
#[map]
pub static EXPECTED: HashMap<u32, ExpectedPython> = HashMap::with_max_entries(256, 0);

/// Kernel only: the same of a process, while it is being worked out where it has that file.
#[map]
pub static BEGINNING: HashMap<u32, ExpectedPython> = HashMap::with_max_entries(256, 0);

/// Kernel only: the number that the kernel side gave the program that a process runs since its exec, or [`NOT_NUMBERED`]. What
/// user space says of another one is late: it was true before the exec. An entry that had to make room costs a number, or
/// protection from that.
#[map]
pub static TAKEN_UP: LruHashMap<u32, u32> = LruHashMap::with_max_entries(16 * 1024, 0);

/// Value of [`TAKEN_UP`]: the process has exec'ed and was not seen since.
pub const NOT_NUMBERED: u32 = u32::MAX;

/// Kernel only: processes that began so far.
#[map]
pub static BEGUN: Array<u64> = Array::with_max_entries(1, 0);

/// Kernel → user: calls by code object.
#[map]
pub static CALLS: HashMap<CodeKey, CallCount> = HashMap::with_max_entries(64 * 1024, 0);

/// User → kernel: whether a code object's calls are timed. Until user space has said so, they are: the first calls of a
/// function would be missing otherwise.
#[map]
pub static CHOSEN: HashMap<CodeKey, u32> = HashMap::with_max_entries(64 * 1024, 0);

/// Kernel only: calls of those that are under way.
#[map]
pub static STARTS: LruHashMap<StartKey, Start> = LruHashMap::with_max_entries(64 * 1024, 0);

/// Kernel only: what each thread has been stopped for, by its number.
#[map]
pub static TOLLS: LruHashMap<u32, Toll> = LruHashMap::with_max_entries(16 * 1024, 0);

/// User → kernel: bytes of bytecode that are watched. A processor has four registers for them, and processes that were
/// forked from one have them at the same addresses.
#[map]
pub static WATCHES: HashMap<WatchKey, Watch> = HashMap::with_max_entries(4 * 1024, 0);

/// Kernel only: blocks that live (exact mode). Sized at load. Preallocated: 100 bytes each.
#[map]
pub static BLOCKS: HashMap<BlockKey, Block> = HashMap::with_max_entries(512 * 1024, 0);

/// Kernel only: stacks by their numbers (exact mode).
#[map]
pub static SITES: HashMap<SiteKey, u32> = HashMap::with_max_entries(32 * 1024, 0);

/// Kernel only: threads inside an allocating function (exact mode).
#[map]
pub static PENDING: LruHashMap<u32, Pending> = LruHashMap::with_max_entries(16 * 1024, 0);

/// Kernel → user: what became of the last exception of each thread, by its number. Read at the end.
#[map]
pub static UNWINDING: LruHashMap<u32, Unwinding> = LruHashMap::with_max_entries(16 * 1024, 0);

/// Both ways: which births and deaths of objects are looked at, and what has been seen.
#[map]
pub static BIRTH_CONTROL: Array<BirthControl> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Kernel → user: births of the window that runs, or of the last one.
#[map]
pub static BIRTHS: Array<Birth> = Array::with_max_entries(MAX_BIRTHS as u32, BPF_F_MMAPABLE);

/// User → kernel: the threads to sample.
#[map]
pub static TARGET_TIDS: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

/// User → kernel: where a process's mappings are. Preallocated, as `PYTHONS`.
#[map]
pub static PROCESSES: HashMap<u32, UnwindProcess> = HashMap::with_max_entries(16 * 1024, 0);

// The unwind tables. User space writes them through a memory map: a table is thousands of entries, and a system call for
// each would take longer than making the table. Sizes are set at load.

/// User → kernel: executable mappings, those of one process next to each other.
#[map]
static MAPPINGS: Array<UnwindMapping> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// User → kernel: files that are mapped as code.
#[map]
static UNWIND_FILES: Array<UnwindFile> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// User → kernel: 64 KiB of a file each.
#[map]
static UNWIND_PAGES: Array<UnwindPage> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// User → kernel: from which address on which rule holds.
#[map]
static UNWIND_ROWS: Array<[u32; SHARD_ROWS]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// User → kernel: how to find a caller.
#[map]
static UNWIND_RULES: Array<UnwindRule> = Array::with_max_entries(MAX_RULES as u32, BPF_F_MMAPABLE);

/// The maps above, as the unwinder wants them.
pub struct Tables;

impl UnwindTables for Tables {
    #[inline(always)]
    fn mapping(&self, index: u32) -> Option<&UnwindMapping> {
        MAPPINGS.get(index)
    }

    #[inline(always)]
    fn file(&self, index: u32) -> Option<&UnwindFile> {
        UNWIND_FILES.get(index)
    }

    #[inline(always)]
    fn page(&self, index: u32) -> Option<&UnwindPage> {
        UNWIND_PAGES.get(index)
    }

    #[inline(always)]
    fn shard(&self, index: u32) -> Option<*const u32> {
        Some(UNWIND_ROWS.get_ptr(index)?.cast())
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<&UnwindRule> {
        UNWIND_RULES.get(index)
    }
}

/// Kernel only: working memory by [`Context`]. Cut down to one entry at load where only the CPU clock is used.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(CONTEXTS, 0);

/// Kernel only: the same for code objects being copied.
#[map]
static CODE_SCRATCH: PerCpuArray<CodeScratch> = PerCpuArray::with_max_entries(CONTEXTS, 0);

/// The working memory of `context`.
///
/// Whoever calls this ends what was borrowed before: a reference must not be used after a call that makes its own (the
/// global functions `walk_some`, `identify_some` and `send_some` do). Holding one across such a call is not only unsound on
/// paper; LLVM dropped stores that only the callee read.
#[inline(always)]
pub fn scratch(context: Context) -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(context)?;
    // SAFETY: a per-CPU slot is used by one program at a time (see `context`).
    Some(unsafe { &mut *scratch })
}

#[inline(always)]
pub fn code_scratch(context: Context) -> Option<&'static mut CodeScratch> {
    let scratch = CODE_SCRATCH.get_ptr_mut(context)?;
    // SAFETY: as in `scratch`.
    Some(unsafe { &mut *scratch })
}
