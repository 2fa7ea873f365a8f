//! Names of programs, maps and globals, each written once. The kernel keeps 15 characters of a name.
//!
//! The eBPF side cannot use these in attributes (`#[map]` takes the name from the identifier), so a test of
//! `profiler` checks that every name here exists in the object.

pub const PROGRAM_SAMPLE_CPU: &str = "sample_cpu";
pub const PROGRAM_SAMPLE_PROBE: &str = "sample_probe";
pub const PROGRAM_TRACK_FORK: &str = "track_fork";
pub const PROGRAM_TRACK_EXEC: &str = "track_exec";

pub const PROGRAM_USER_FAULT: &str = "user_fault";
pub const PROGRAM_KERNEL_FAULT: &str = "kernel_fault";
pub const PROGRAM_CALL: &str = "after_call";
pub const PROGRAM_THREAD_END: &str = "thread_end";
pub const PROGRAM_POOL: &str = "pool_birth";
pub const PROGRAM_NO_MEMORY: &str = "no_memory";
pub const PROGRAM_MEMORY_ERROR: &str = "memory_error";
pub const PROGRAM_ALLOC_ENTRY: &str = "alloc_entry";
pub const PROGRAM_ALLOC_RETURN: &str = "alloc_return";
pub const PROGRAM_FREE: &str = "free_entry";
pub const PROGRAM_SAMPLED: &str = "sampled_birth";
pub const PROGRAM_NOTHING: &str = "nothing";

pub const PROGRAM_CALL_PROBE: &str = "call_probe";
pub const PROGRAM_CALL_RETURN: &str = "call_return";

pub const MAP_CALL_FACTS: &str = "CALL_FACTS";
pub const MAP_CALLS: &str = "CALLS";
pub const MAP_EXPECTED: &str = "EXPECTED";
pub const MAP_BEGINNING: &str = "BEGINNING";
pub const MAP_TAKEN_UP: &str = "TAKEN_UP";
pub const MAP_CHOSEN: &str = "CHOSEN";
pub const MAP_STARTS: &str = "STARTS";
pub const PROGRAM_WATCH: &str = "bytecode_read";
pub const MAP_WATCHES: &str = "WATCHES";
pub const MAP_BLOCKS: &str = "BLOCKS";
pub const MAP_SITES: &str = "SITES";
pub const MAP_PENDING: &str = "PENDING";

pub const MAP_GILS: &str = "GILS";
pub const MAP_POOL_FACTS: &str = "POOL_FACTS";
pub const MAP_POOLS: &str = "POOLS";
pub const MAP_MEMORY_ERRORS: &str = "MEMORY_ERRORS";
pub const MAP_EVENTS: &str = "EVENTS";
pub const MAP_PYTHONS: &str = "PYTHONS";
pub const MAP_CODES: &str = "CODES";
pub const MAP_STACKS: &str = "STACKS";
pub const MAP_STATS: &str = "STATS";
pub const MAP_TARGET_PIDS: &str = "TARGET_PIDS";
pub const MAP_TARGET_TIDS: &str = "TARGET_TIDS";
pub const MAP_PROCESSES: &str = "PROCESSES";
pub const MAP_MAPPINGS: &str = "MAPPINGS";
pub const MAP_UNWIND_FILES: &str = "UNWIND_FILES";
pub const MAP_UNWIND_PAGES: &str = "UNWIND_PAGES";
pub const MAP_UNWIND_ROWS: &str = "UNWIND_ROWS";
pub const MAP_UNWIND_RULES: &str = "UNWIND_RULES";
pub const MAP_SCRATCH: &str = "SCRATCH";
pub const MAP_CODE_SCRATCH: &str = "CODE_SCRATCH";

pub const PROGRAM_SWITCH: &str = "wait_switch";
pub const PROGRAM_WAIT_FORK: &str = "wait_fork";
pub const PROGRAM_WAIT_EXEC: &str = "wait_exec";
pub const PROGRAM_WAIT_RESUME: &str = "wait_resume";
pub const PROGRAM_WAIT_CALL: &str = "wait_call";
pub const PROGRAM_WAKING: &str = "wait_waking";
pub const MAP_WAIT_PLACES: &str = "WAIT_PLACES";
pub const MAP_WAIT_SLOTS: &str = "WAIT_SLOTS";
pub const MAP_WAIT_STATES: &str = "WAIT_STATES";
pub const MAP_WAIT_FREE: &str = "WAIT_FREE";
pub const MAP_WAIT_CALLS: &str = "WAIT_CALLS";
pub const MAP_WAIT_CONTROL: &str = "WAIT_CONTROL";
pub const MAP_WAIT_RECORDS: &str = "WAIT_RECORDS";
pub const MAP_WAIT_WAKERS: &str = "WAIT_WAKERS";
pub const PROGRAM_POLL: &str = "wait_poll";
pub const PROGRAM_IO_BEGIN: &str = "io_begin";
pub const PROGRAM_IO_END: &str = "io_end";
pub const MAP_WAIT_LOOPS: &str = "WAIT_LOOPS";
pub const MAP_IO_CALLS: &str = "IO_CALLS";
pub const MAP_IO_STARTS: &str = "IO_STARTS";
pub const MAP_IO_TOTALS: &str = "IO_TOTALS";
pub const MAP_IO_COARSE: &str = "IO_COARSE";

pub const PROGRAM_MARK: &str = "mark_probe";
pub const PROGRAM_MARK_RETURN: &str = "mark_return";
pub const MAP_UNWINDING: &str = "UNWINDING";

pub const PROGRAM_BIRTH: &str = "object_birth";
pub const MAP_BIRTH_CONTROL: &str = "BIRTH_CONTROL";
pub const MAP_BIRTHS: &str = "BIRTHS";

pub const GLOBAL_CONFIG: &str = "CONFIG";
pub const GLOBAL_WAIT_CONFIG: &str = "WAIT_CONFIG";

const fn fits(name: &str) -> bool {
    name.len() <= 15
}

const _: () = assert!(
    fits(PROGRAM_SAMPLE_CPU)
        && fits(PROGRAM_SAMPLE_PROBE)
        && fits(PROGRAM_TRACK_FORK)
        && fits(PROGRAM_TRACK_EXEC)
        && fits(PROGRAM_USER_FAULT)
        && fits(PROGRAM_KERNEL_FAULT)
        && fits(PROGRAM_CALL)
        && fits(PROGRAM_POOL)
        && fits(PROGRAM_NO_MEMORY)
        && fits(PROGRAM_MEMORY_ERROR)
        && fits(PROGRAM_ALLOC_ENTRY)
        && fits(PROGRAM_ALLOC_RETURN)
        && fits(PROGRAM_FREE)
        && fits(PROGRAM_NOTHING)
        && fits(PROGRAM_CALL_PROBE)
        && fits(PROGRAM_CALL_RETURN)
        && fits(MAP_CALL_FACTS)
        && fits(MAP_CALLS)
        && fits(MAP_EXPECTED)
        && fits(MAP_BEGINNING)
        && fits(MAP_TAKEN_UP)
        && fits(MAP_CHOSEN)
        && fits(MAP_STARTS)
        && fits(PROGRAM_WATCH)
        && fits(MAP_WATCHES)
        && fits(MAP_BLOCKS)
        && fits(MAP_SITES)
        && fits(MAP_PENDING)
        && fits(MAP_GILS)
        && fits(MAP_POOL_FACTS)
        && fits(MAP_POOLS)
        && fits(MAP_MEMORY_ERRORS)
        && fits(MAP_EVENTS)
        && fits(MAP_PYTHONS)
        && fits(MAP_CODES)
        && fits(MAP_STACKS)
        && fits(MAP_STATS)
        && fits(MAP_TARGET_PIDS)
        && fits(MAP_TARGET_TIDS)
        && fits(MAP_PROCESSES)
        && fits(MAP_MAPPINGS)
        && fits(MAP_UNWIND_FILES)
        && fits(MAP_UNWIND_PAGES)
        && fits(MAP_UNWIND_ROWS)
        && fits(MAP_UNWIND_RULES)
        && fits(MAP_SCRATCH)
        && fits(MAP_CODE_SCRATCH)
        && fits(PROGRAM_SWITCH)
        && fits(PROGRAM_WAIT_FORK)
        && fits(PROGRAM_WAIT_EXEC)
        && fits(PROGRAM_WAIT_RESUME)
        && fits(PROGRAM_WAIT_CALL)
        && fits(PROGRAM_WAKING)
        && fits(MAP_WAIT_PLACES)
        && fits(MAP_WAIT_SLOTS)
        && fits(MAP_WAIT_STATES)
        && fits(MAP_WAIT_FREE)
        && fits(MAP_WAIT_CALLS)
        && fits(MAP_WAIT_CONTROL)
        && fits(MAP_WAIT_RECORDS)
        && fits(MAP_WAIT_WAKERS)
        && fits(MAP_IO_COARSE)
        && fits(MAP_IO_TOTALS)
        && fits(MAP_IO_STARTS)
        && fits(MAP_IO_CALLS)
        && fits(MAP_WAIT_LOOPS)
        && fits(PROGRAM_IO_END)
        && fits(PROGRAM_IO_BEGIN)
        && fits(PROGRAM_POLL)
        && fits(PROGRAM_MARK)
        && fits(PROGRAM_MARK_RETURN)
        && fits(MAP_UNWINDING)
        && fits(PROGRAM_BIRTH)
        && fits(MAP_BIRTH_CONTROL)
        && fits(MAP_BIRTHS)
);
