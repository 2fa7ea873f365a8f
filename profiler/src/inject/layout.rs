//! Where everything lies in the one range of addresses that a target gets.
//!
//! | part | mapped | what is in it |
//! |---|---|---|
//! | code | `r-x`, private, of a memfd | the stubs ([`super::stub`]), the same bytes in every process |
//! | facts | `r-x`, as the code | what the stubs call, and how far apart samples are |
//! | control | `r--`, shared, of the same memfd | what the profiler writes: how long the stubs may go on, and lists of jobs |
//! | data | `rw-`, anonymous, wiped on fork | what the stubs write: counters and the blocks that were sampled |
//!
//! The stubs never need anything of `data` to call the allocator: a child that a fork makes has zeros there, and what it
//! finds then puts it to sleep.

/// Bytes of a page.
pub const PAGE: u64 = 4096;

pub const CODE: u64 = 0;
pub const FACTS: u64 = PAGE;
pub const CONTROL: u64 = 2 * PAGE;
pub const DATA: u64 = 3 * PAGE;

/// Of facts: the functions that were in the slots, then the distance between samples, then the table of logarithms.
pub const ORIGINAL_MALLOC: u64 = FACTS;
pub const ORIGINAL_CALLOC: u64 = FACTS + 8;
pub const ORIGINAL_REALLOC: u64 = FACTS + 16;
pub const ORIGINAL_FREE: u64 = FACTS + 24;
/// Mean distance between samples, times ln 2.
pub const SCALE: u64 = FACTS + 32;
pub const LOGARITHMS: u64 = FACTS + 64;
/// log2(1 + i / 256) for i in 0..=256, in units of 2^-31.
pub const LOGARITHM_STEPS: u64 = 256;

/// Of control: the slow path is taken so often at most; then the stubs go to sleep.
pub const ALLOWANCE: u64 = CONTROL;
/// Jobs that put the stubs in place, and those that take them away.
pub const INSTALL: u64 = CONTROL + 0x100;
pub const REMOVE: u64 = CONTROL + 0x800;

/// Of data: bytes to go until the next sample.
pub const COUNTDOWN: u64 = DATA;
/// The sum of all distances that were drawn: without what is left of the last, the bytes that were asked for.
pub const DRAWN: u64 = DATA + 8;
pub const RANDOM: u64 = DATA + 16;
pub const ARMED: u64 = DATA + 24;
/// How often the slow path was taken.
pub const SPENT: u64 = DATA + 32;
/// The stubs have gone to sleep.
pub const DORMANT: u64 = DATA + 40;
/// Samples that found no room in the table.
pub const UNREMEMBERED: u64 = DATA + 48;
pub const MALLOCS: u64 = DATA + 64;
pub const CALLOCS: u64 = DATA + 72;
pub const REALLOCS: u64 = DATA + 80;
pub const FREES: u64 = DATA + 88;
/// The name of the memfd, while it is made.
pub const NAME: u64 = DATA + 128;
/// Counters are in the first bytes of the data.
pub const COUNTERS_BYTES: usize = 96;

/// How many samples are remembered in each bucket, a byte each: what a free looks at.
pub const OCCUPANCY: u64 = DATA + PAGE;
pub const BUCKETS: u64 = 1 << 16;
pub const TABLE: u64 = OCCUPANCY + BUCKETS;
/// Four addresses each.
pub const BUCKET_BYTES: u64 = 32;
pub const DATA_BYTES: u64 = PAGE + BUCKETS + BUCKETS * BUCKET_BYTES;
pub const ALL: u64 = DATA + DATA_BYTES;

/// What lies in the memfd.
pub const FILE_BYTES: u64 = DATA;

/// Fibonacci hashing: the upper bits of the product are the bucket.
pub const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// One compare-and-swap: nothing is written where something else stands by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    pub address: u64,
    pub expected: u64,
    pub new: u64,
}

pub const JOB_BYTES: u64 = 24;
/// As many as fit into a register of outcomes and between the lists.
pub const MOST_JOBS: usize = 32;

/// Jobs as the stub reads them.
pub fn bytes_of(jobs: &[Job]) -> Vec<u8> {
    jobs.iter()
        .flat_map(|job| [job.address, job.expected, job.new])
        .flat_map(u64::to_le_bytes)
        .collect()
}

const _: () = assert!(INSTALL + MOST_JOBS as u64 * JOB_BYTES <= REMOVE);
const _: () = assert!(REMOVE + MOST_JOBS as u64 * JOB_BYTES <= DATA);
const _: () = assert!(LOGARITHMS + 4 * (LOGARITHM_STEPS + 1) <= CONTROL);
const _: () = assert!(DATA_BYTES.is_multiple_of(PAGE));
