//! Counters of the kernel side: whatever is not a plain sample ends up under one of these names.

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident = $index:literal, $label:literal;)*) => {
        /// One slot of a row of the per-CPU array `STATS`. There is a row for each slot of working memory ([`crate::group`]):
        /// what any program can count is told apart by it, and what only one can is in the first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter { $($(#[doc = $doc])* $name = $index,)* }

        impl Counter {
            pub const ALL: &'static [Counter] = &[$(Counter::$name,)*];

            /// What the closing summary calls it.
            pub const fn label(self) -> &'static str {
                match self { $(Counter::$name => $label,)* }
            }
        }
    };
}

counters! {
    /// The clock ticked while something other than the idle task ran, before any filter.
    Ticks = 0, "clock ticks";
    /// A sample that passed the filters and should reach user space.
    Samples = 1, "samples";
    /// The ring buffer was full: the sample is lost.
    LostRingFull = 2, "samples lost: ring buffer full";
    /// The per-CPU scratch record was missing: cannot happen, counted all the same.
    LostNoScratch = 3, "samples lost: no scratch record";
    /// A stack was sent in full.
    StacksSent = 4, "stacks sent in full";
    /// A code object was sent.
    CodesSent = 5, "code objects sent";
    /// A code object could not be sent because the ring buffer was full; it is tried again.
    CodesRetried = 6, "code objects retried: ring buffer full";
    /// A code object could not be read; user space tries.
    CodesUnreadable = 7, "code objects not readable in the kernel";
    /// A stack was met again where a known one was, with other code at the same addresses.
    CodesReplaced = 8, "stacks of known addresses at which other code had come to lie";
    /// A fork of a target could not be followed because the table of targets was full.
    ForksNotFollowed = 9, "child processes not followed: table full";
    /// The kernel's stack could not be read.
    KernelStackFailed = 10, "kernel stacks not readable";
    /// Nanoseconds spent in the sampling program, as it measured itself.
    RunTimeNs = 11, "nanoseconds in the sampling program";
    /// A task outside the profiler's pid namespace was running.
    OutsideNamespace = 12, "clock ticks of processes outside the pid namespace";
    /// The longest that one sample took, in nanoseconds: the largest of the CPUs', not their sum.
    LongestNs = 13, "nanoseconds of the longest sample";
    /// A wanted task came to the instruction that is probed.
    Probes = 14, "samples at the probe";
    /// Too many programs were at work on the CPU at once.
    LostNoContext = 15, "samples lost: too many unfinished ones on one CPU";
    /// A page fault of a wanted task.
    Faults = 16, "page faults";
    /// A page fault that was followed, or sampled.
    FaultsTaken = 17, "page faults with a stack";
    /// pymalloc took a pool.
    PoolBirths = 18, "pools of pymalloc";
    /// … that was followed, or sampled.
    PoolBirthsTaken = 19, "pools of pymalloc with a stack";
    /// A system call that maps, unmaps or moves memory.
    Mappings = 20, "system calls that map or unmap memory";
    /// The ring buffer was full: what happened to memory is not known.
    LostMemoryEvents = 21, "memory events lost: ring buffer full";
    /// A pool's place in the table was taken by another's: when it is born again unfollowed, its former owner keeps it.
    LostPools = 22, "pools lost: their place in the table was taken";
    /// Calls of functions that allocate, as the probes see them; blocks given back likewise.
    Allocations = 23, "calls that allocate";
    Frees = 24, "calls that free";
    /// The table of live blocks was full.
    LostBlocks = 25, "blocks lost: table full";
    /// There was no number left for a stack, or no room for a thread.
    LostSites = 26, "blocks without a stack: table full";
    /// Hits of probes that count: on entry or anywhere else, and on return.
    EntryHits = 27, "hits of probes on entry";
    ReturnHits = 28, "hits of probes on return";
    /// Calls that are in no count: the table was full, or their code could not be read.
    LostCalls = 29, "calls lost";
    /// Calls of chosen functions whose time is not known: the table or the ring buffer was full.
    LostTimes = 30, "times of calls lost";
    /// Of the hits on entry, those of probes on an instruction that the kernel does not emulate: they cost ten times as much.
    SteppedHits = 31, "hits of probes on instructions that are stepped";
    /// Reads, and writes, of bytecode that is watched.
    WatchHits = 32, "hits of hardware breakpoints";
    /// Hits of probes in processes that nobody asked for, which run the same interpreter.
    OtherHits = 33, "hits of probes in other processes";
    /// A wait that was drawn.
    WaitsDrawn = 34, "waits drawn";
    /// … and had no stack: its thread went on elsewhere, or the next one was drawn first.
    LostWaits = 35, "waits without a stack";
    /// There was no slot for a thread.
    LostThreads = 36, "threads whose waits are not seen: table full";
    /// A thread left a CPU that it had not been seen to get. The kernel says when that was; its stack then is missing.
    LostSwitches = 37, "switches of threads seen afterwards only";
    /// A wanted thread ran, but had no GIL, and only those that have it are asked for.
    GilNotHeld = 38, "samples of threads that had not the GIL";
    /// The process is no CPython, or one whose GIL is not known.
    NoGil = 39, "samples of processes without a GIL";
    /// A call that moves data, or makes it safe, of a thread that is followed.
    IoCalls = 40, "I/O calls";
    /// … that was drawn.
    IoDrawn = 41, "I/O calls drawn";
    /// … and that had no stack.
    LostIo = 42, "I/O calls without a stack";
    /// There was no room for what lies behind a descriptor: it is told with others of its thread.
    CoarseIo = 43, "I/O calls told without their file: table full";
    /// An event loop did not poll for long.
    Stalls = 44, "stalls of event loops";
    /// … which could not be told.
    LostStalls = 45, "stalls lost: ring buffer full";
    /// An exception was raised.
    Raises = 46, "exceptions raised";
    /// … in place of one that C code had set just before: not counted once more.
    RaisesReplaced = 47, "exceptions in place of others";
    /// The ring buffer was full: an exception, an import or a collection is not known.
    LostMarks = 48, "exceptions, imports or collections lost: ring buffer full";
    /// A wait that was drawn, on a thread's last steps: it has left user space for good, and has no stack there any more.
    EndingWaits = 49, "waits of threads that were ending, without a stack";
}

pub const COUNTERS: usize = Counter::ALL.len();

const _: () = {
    let mut i = 0;
    while i < COUNTERS {
        assert!(Counter::ALL[i] as usize == i);
        i += 1;
    }
};
