//! Reports of `profiler memory`: who made a process grow, and what of it is still there.
//!
//! A [`MemoryReport`] is a [`Profile`] with the sample types of a heap ([`HEAP`]) and what a profile has no room for:
//! errors, ages, what the kernel says of the processes, and the curve. It does not say where the numbers come from, and
//! nothing here asks. Flame graphs, folded text, speedscope and pprof are written from [`MemoryReport::profile`] by the
//! writers of all profiles, with `View::value` set to [`Shown::value`].
//!
//! | module | makes |
//! |---|---|
//! | [`group`] | rows: which frame of a stack is responsible, and sums |
//! | [`table`] | the table as text, of lines that are `merged`; [`export`] as CSV and JSON |
//! | [`kept`] | the lines that keep objects, as watchpoints saw them |
//! | [`curve`] | sparklines, and their CSV and JSON |
//! | [`difference`] | what grew between two recordings |
//! | [`victim`] | what is said of processes that ended for want of memory |
//! | [`summary`] | the summary for standard error |

use std::time::Duration;

use super::layout;
use crate::profile::{Profile, ValueType};

pub mod curve;
pub mod difference;
pub mod export;
pub mod group;
pub mod kept;
mod merged;
pub mod summary;
pub mod table;
pub mod victim;

#[cfg(test)]
mod tests;

pub use self::kept::KeptLines;
pub use super::owner::Functions;
pub use summary::{lines, lines_of_window};
use victim::Victim;

/// Leaves of stacks of pages that are not just the process's own memory.
pub const PAGES_OF_FILES: &str = "[pages of files]";
pub const SHARED_MEMORY: &str = "[shared memory]";
pub const COPIES: &str = "[copies after a fork]";

const ALLOC_OBJECTS: ValueType = ValueType {
    kind: "alloc_objects",
    unit: "count",
};
const ALLOC_SPACE: ValueType = ValueType {
    kind: "alloc_space",
    unit: "bytes",
};
const INUSE_OBJECTS: ValueType = ValueType {
    kind: "inuse_objects",
    unit: "count",
};
const INUSE_SPACE: ValueType = ValueType {
    kind: "inuse_space",
    unit: "bytes",
};

/// The sample types of a heap profile, in the order that Go's runtime writes and pprof's users know.
pub const HEAP: [ValueType; 4] = [ALLOC_OBJECTS, ALLOC_SPACE, INUSE_OBJECTS, INUSE_SPACE];

/// An empty heap profile that opens at what `shown` is about.
///
/// Its period is the grain of the account, one byte or one `page`. The values are totals already, however they were
/// sampled: nobody is to multiply them by the period, and no reader of pprof does.
pub fn heap_profile(shown: Shown, exact: bool, page: u32) -> Profile {
    let space = ValueType {
        kind: "space",
        unit: "bytes",
    };
    let mut profile = Profile::new(HEAP.to_vec(), Some((space, if exact { 1 } else { page.into() })));
    profile.default_type = shown.value();
    profile
}

/// What recordings of what lives have besides: what was there when all together had most, and what came and went.
pub const PEAK_SPACE: ValueType = ValueType {
    kind: "peak_space",
    unit: "bytes",
};
pub const TEMPORARY_SPACE: ValueType = ValueType {
    kind: "temporary_space",
    unit: "bytes",
};

/// Puts a further value beside those of a heap, bytes and their variance for each sample.
pub fn add_space(profile: &mut Profile, value: ValueType, amounts: &[(u64, f64)]) {
    let bytes = amounts
        .iter()
        .map(|(bytes, _)| i64::try_from(*bytes).unwrap_or(i64::MAX));
    profile.add_value(value, bytes);
    profile.add_variances(value, amounts.iter().map(|(_, variance)| *variance));
}

/// Puts what is known of how exact bytes are beside them, where a file keeps it.
pub fn add_variances(profile: &mut Profile, details: &[Detail]) {
    profile.add_variances(INUSE_SPACE, details.iter().map(|detail| detail.variance_inuse));
    profile.add_variances(ALLOC_SPACE, details.iter().map(|detail| detail.variance_alloc));
}

#[derive(Debug)]
pub struct MemoryReport {
    /// Sample types are [`HEAP`], and how exact the bytes are; what "in use" means, [`Self::shown`] says.
    pub profile: Profile,
    /// One per sample of `profile`, in its order.
    pub details: Vec<Detail>,
    pub shown: Shown,
    /// Objects are allocations; otherwise they are pages.
    pub exact: bool,
    pub source: Source,
    /// Memory of files, and shared memory, that several of the processes are resident with: it is in the rows once.
    pub shared_again: u64,
    /// Written to in processes of which it was not looked at what they shared since a fork: copies, most likely.
    pub perhaps_copied: u64,
    /// Who holds what became more is told beside it.
    pub holders_told: bool,
    /// What watchpoints say of lines.
    pub kept: Option<KeptLines>,
    /// In any order; reports rank them by growth.
    pub processes: Vec<ProcessMemory>,
    pub curve: Option<Curve>,
    /// How long memory was watched.
    pub length: Duration,
}

/// Of what a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Pages, by who touched them first or opened the pool in which they are.
    Pages,
    /// pymalloc's pools, by who opened them.
    Pools,
    /// Address space, by who mapped it.
    Mapped,
    /// Blocks, by who asked for them.
    Blocks,
}

/// What "in use" means in a report, and which of its values is the one to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Came in the recording, and is there at the end.
    Live,
    /// As `Live`, and at least this old.
    Leaks { older_than: Duration },
    /// Was there when the recording's memory was at its highest.
    Peak,
    /// Came and went in the recording.
    Temporary,
    /// All that came; "in use" is what is there at the end.
    Allocated,
}

impl Shown {
    /// Index of the sample type that this is about: `View::value`, and pprof's default.
    pub fn value(self) -> usize {
        match self {
            Self::Allocated => 1,
            Self::Live | Self::Leaks { .. } | Self::Peak | Self::Temporary => 3,
        }
    }

    /// One word, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Leaks { .. } => "leaks",
            Self::Peak => "peak",
            Self::Temporary => "temporary",
            Self::Allocated => "allocated",
        }
    }

    /// For people: what the bytes "in use" are.
    fn in_use(self) -> &'static str {
        match self {
            Self::Live | Self::Leaks { .. } | Self::Allocated => "live",
            Self::Peak => "at peak",
            Self::Temporary => "temporary",
        }
    }
}

/// What is known of one sample beyond its values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detail {
    /// Ages at the end of the recording of what is in use.
    pub oldest: Option<Duration>,
    pub youngest: Option<Duration>,
    /// In bytes²; 0 if the number is exact.
    pub variance_inuse: f64,
    pub variance_alloc: f64,
    /// Its bytes are worked out rather than seen, such as pages of files that the kernel maps several at a time.
    pub estimated: bool,
    /// Of the bytes in use, those in memory that others may have filled.
    pub uncertain_bytes: u64,
    pub kind: MemoryKind,
}

/// What sort of memory it is, as far as a reader is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryKind {
    /// The process's own pages.
    #[default]
    Anonymous,
    /// Pages of mapped files.
    File,
    /// Memory shared with others.
    Shared,
    /// Copies of what the process shared since a fork: resident before and after.
    Copies,
    /// Free, but kept by the allocator.
    Free,
    /// Blocks that calls of an allocator gave.
    Blocks,
}

/// What the kernel says of a process.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessMemory {
    pub pid: u32,
    pub comm: String,
    /// What it runs, in a few words.
    pub command: String,
    /// When the recording began to watch it; nothing if it started later.
    pub before: Resident,
    /// At the end, or when it was last seen.
    pub after: Resident,
    /// How much of the change of RSS the account explains.
    pub explained: i64,
    /// Variance of `explained`, in bytes².
    pub explained_variance: f64,
    /// It started in the recording.
    pub started: bool,
    /// It ended in the recording.
    pub exited: bool,
    /// For want of memory.
    pub victim: Option<Victim>,
}

impl ProcessMemory {
    /// By how much RSS grew (or shrank).
    pub fn growth(&self) -> i64 {
        change(self.before.rss, self.after.rss)
    }

    /// The part of the growth that is explained; `None` where there is too little of it for a ratio to say anything.
    pub fn explained_share(&self) -> Option<f64> {
        /// A process that only idles changes by some pages.
        const LEAST: u64 = 1 << 20;
        let growth = self.growth();
        (growth.unsigned_abs() >= LEAST).then(|| self.explained as f64 / growth as f64)
    }
}

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    pub rss: u64,
    pub anonymous: u64,
    /// Of files.
    pub file: u64,
    /// Shared memory.
    pub shared: u64,
    /// What no other process has; 0 if not known.
    pub private: u64,
}

/// Memory over time. Lists may be shorter than `times`: what is missing was not measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Curve {
    /// Since the recording's start.
    pub times: Vec<Duration>,
    /// Bytes live of all sites, also of those not in `sites`.
    pub total: Vec<u64>,
    pub rss: Vec<Option<u64>>,
    /// Bytes live by the index of the profile's sample.
    pub sites: Vec<(usize, Vec<u64>)>,
}

/// What to say where nothing was seen to come, although perhaps it did.
pub fn nothing_came(report: &MemoryReport) -> String {
    /// What a process that only idles changes by.
    const LEAST: i64 = 1 << 20;
    let length = layout::span(report.length);
    let growths = report.processes.iter().map(|process| process.growth().max(0));
    let grown = growths.fold(0, i64::saturating_add);
    if grown < LEAST {
        return format!("Nothing grew: no new memory in {length}.");
    }
    let grown = crate::humanize::bytes(grown.unsigned_abs());
    if report.source == Source::Mapped {
        return format!("Nothing of 64 KiB or more was mapped in {length}, although RSS grew by {grown}.");
    }
    if report.exact {
        return format!("No allocation was seen in {length}, although RSS grew by {grown}: see the warnings.");
    }
    format!(
        "No page fault was seen in {length}, although RSS grew by {grown}: memory can be locked, or filled by the kernel \
         for direct I/O or a virtual machine; try --source mapped."
    )
}

fn change(before: u64, after: u64) -> i64 {
    let size = i64::try_from(before.abs_diff(after)).unwrap_or(i64::MAX);
    if after < before { -size } else { size }
}

/// Half the width of the interval that holds the true value with a probability of 95 %.
fn error(variance: f64) -> u64 {
    // NaN and negative numbers become 0.
    (1.96 * variance.max(0.0).sqrt()).round() as u64
}
