//! What has been seen so far: processes, stacks and how often each was met.
//!
//! Side-band events and records arrive in order of time. Counting is cheap and by key; resolving (addresses to
//! functions) waits until the facts it needs would change: when a process ends or execs, when an address comes to hold
//! another code object, and at the end.
//!
//! What the kernel side must know about a process comes out as [`Fact`]s: the only arrow that points back.

mod asked;
mod lingering;
mod processes;
mod raw;
mod records;
mod windows;

use std::{
    collections::BTreeMap,
    ops::Range,
    path::PathBuf,
    time::{Duration, Instant},
};

use indexmap::{IndexMap, IndexSet};
use profiler_common::{
    mark::MarkEvent,
    python::{CodeKey, PythonProcess},
    record::{CallRecord, SampleHeader, StackKey},
    unwind::UnwindMapping,
    wait::{IoEvent, StallRecord},
};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use self::raw::RawStacks;
use crate::{
    cost,
    instruments::Needs,
    memory::event::{Event, SiteId},
    process::{
        files::{FileId, Files},
        offspring::Offspring,
        pythons::Used,
        table::{CodeAt, Process, Table},
        threads::ThreadId,
    },
    python::codes::CodeId,
    slices::Clock,
    tally::Tally,
    waits::account::Drawn,
    window::{Ledger, Window},
};

pub use crate::window::Sampled;

/// Something the kernel side must be told.
#[derive(Debug)]
pub enum Fact {
    /// How to walk this process.
    Python { pid: u32, facts: Box<PythonProcess> },
    /// It is gone, or no CPython any more.
    NotPython { pid: u32 },
    /// What it has mapped as code, in order of address.
    Mappings { pid: u32, mappings: Vec<UnwindMapping> },
    /// It is gone: not a target any more.
    Exited { pid: u32 },
}

/// A process that is a CPython no more.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub pid: u32,
    pub file: FileId,
    /// When it was forked or exec'ed, if that was in the recording.
    pub began_ns: Option<u64>,
    pub ended_ns: u64,
}

/// What a probe has told, and where that was ([`NO_SITE`] if it does not matter).
#[derive(Clone, Debug)]
pub struct Marked {
    pub header: SampleHeader,
    pub site: SiteId,
    pub event: Box<MarkEvent>,
}

/// Which processes a recording is about.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Every process.
    All,
    /// These processes, and their descendants if `children`.
    Pids { pids: FxHashSet<u32>, children: bool },
}

/// When to forget the raw stacks: a few minutes' of a varied machine, some 60,000 of 500 bytes each.
const MOST_STACK_BYTES: usize = 32 << 20;

/// What a cut comes to.
#[derive(Debug)]
pub struct Cut {
    pub window: Window,
    /// Files that no process has any more: their numbers become others'.
    pub files: Vec<FileId>,
    /// What the kernel side is not to take for known any more.
    pub forgotten: Forgotten,
}

/// What came in while raw stacks were being forgotten.
#[derive(Debug, Default)]
struct Kept {
    stacks: FxHashSet<StackKey>,
    codes: FxHashSet<CodeAt>,
}

/// What the kernel side must send anew.
#[derive(Debug, Default)]
pub struct Forgotten {
    pub stacks: Vec<StackKey>,
    pub codes: Vec<CodeKey>,
}

/// How much is known at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub processes: usize,
    pub files: usize,
    /// Numbers of files, free ones included.
    pub file_ids: usize,
    pub codes: usize,
    pub stacks: usize,
    pub stack_bytes: usize,
}

/// A stack (by its index), a thread's number, and who had it.
pub type SampleOf = (u32, u32, ThreadId);

/// The site of what has no stack.
pub const NO_SITE: SiteId = SiteId::MAX;
/// The site of a wait that is under way, of which nobody has looked where it is.
pub const UNDER_WAY: SiteId = SiteId::MAX - 1;

const NO_STACK: StackKey = StackKey { hash: [0; 2] };

/// A recording in progress.
#[derive(Debug)]
pub struct Recording {
    scope: Scope,
    /// Whose first thread has ended, and when.
    lingering: BTreeMap<u32, u64>,
    pub files: Files,
    table: Table,
    raw: RawStacks,
    pub ledger: Ledger,
    /// What the windows that are cut already counted.
    before: Tally,
    /// While raw stacks are being forgotten: what came in since the kernel side has forgotten them.
    kept: Option<Kept>,
    /// Pids that samples were taken of, in this window.
    sampled_pids: FxHashSet<u32>,
    /// Processes that samples were taken of, in all.
    sampled: usize,
    facts: Vec<Fact>,
    /// Stacks and threads by the numbers that the kernel side gave them (exact mode).
    numbered: FxHashMap<u32, (u32, SampleOf)>,
    /// Children of the targets, where they are not recorded.
    pub offspring: Option<Offspring>,
    /// Processes that are none of ours and have begun a program, or mapped code, if somebody asks for them.
    strangers: Option<FxHashSet<u32>>,
    /// Whether it is about calls.
    follows_calls: bool,
    /// Samples are told one by one, with their times, and not counted.
    keeps_times: bool,
    /// … and are counted as well: two instruments look at the clock.
    counts_ticks: bool,
    timed: Vec<(SampleHeader, SiteId)>,
    stalls: Vec<StallRecord>,
    io: Vec<(SiteId, IoEvent)>,
    /// Calls that have ended, for who asks for them.
    calls: Vec<CallRecord>,
    /// Code objects that became known, likewise: of which instance, where, and which.
    new_codes: Vec<(CodeKey, CodeId)>,
    /// Processes that were CPython, likewise.
    ended: Vec<Ended>,
    /// Samples count that were taken in this time (CLOCK_MONOTONIC).
    pub counted_ns: Range<u64>,
    /// By slices of time, if somebody wants to know when samples were.
    clock: Option<Clock>,
    /// Waits that were drawn, for who asks for them.
    waits: Vec<(Drawn, SampleHeader)>,
    /// Exceptions, imports and garbage collections, likewise.
    marks: Vec<Marked>,
    /// Whether it is about memory.
    follows_memory: bool,
    /// What happened to memory.
    memory_events: Vec<Event>,
    /// Whether the kernel side wants to know what is mapped: it unwinds native stacks.
    unwinds: bool,
    /// Processes whose mappings have changed since it was told.
    remapped: FxHashSet<u32>,
    /// Interpreters that are refused: the reason and the processes.
    refused: IndexMap<String, FxHashSet<u32>, FxBuildHasher>,
    /// CPythons that are not walked, because their processes have another one: the path, the processes, and whether it is
    /// known of one of them that it has run there.
    other_pythons: OtherPythons,
    /// Perf maps that are not believed, and why.
    refused_maps: IndexSet<String, FxBuildHasher>,
    started: Instant,
    /// When it was looked last which processes are gone whose end was not told.
    buried: Option<Instant>,
    /// Time spent on asking for names of threads.
    spent_on_names: Duration,
}

impl Recording {
    /// `unwinds`: whether the kernel side takes native stacks.
    pub fn new(scope: Scope, unwinds: bool) -> Self {
        Self {
            scope,
            lingering: BTreeMap::new(),
            unwinds,
            files: Files::default(),
            table: Table::default(),
            raw: RawStacks::default(),
            ledger: Ledger::default(),
            before: Tally::default(),
            kept: None,
            sampled_pids: FxHashSet::default(),
            sampled: 0,
            facts: Vec::new(),
            numbered: FxHashMap::default(),
            offspring: None,
            strangers: None,
            follows_calls: false,
            keeps_times: false,
            counts_ticks: true,
            timed: Vec::new(),
            stalls: Vec::new(),
            io: Vec::new(),
            calls: Vec::new(),
            new_codes: Vec::new(),
            ended: Vec::new(),
            counted_ns: 0..u64::MAX,
            clock: None,
            waits: Vec::new(),
            marks: Vec::new(),
            follows_memory: false,
            memory_events: Vec::new(),
            remapped: FxHashSet::default(),
            refused: IndexMap::default(),
            other_pythons: IndexMap::default(),
            refused_maps: IndexSet::default(),
            started: Instant::now(),
            buried: None,
            spent_on_names: Duration::ZERO,
        }
    }

    /// Keeps what these instruments want to know besides samples.
    pub fn following(mut self, needs: &Needs) -> Self {
        self.follows_memory = needs.memory || needs.blocks.is_some();
        self.follows_calls = needs.calls.is_some();
        self.keeps_times = needs.waits.is_some_and(|waits| waits.stalls);
        self.counts_ticks = needs.counts_ticks || !self.keeps_times;
        self.clock = needs.slices.then(|| Clock::new(cost::monotonic_ns()));
        self
    }

    /// From when on slices of time are counted (CLOCK_MONOTONIC), if they are.
    pub fn slices_from_ns(&self) -> Option<u64> {
        self.clock.as_ref().map(Clock::began_ns)
    }

    /// The recording begins now.
    pub fn begin(&mut self) {
        if let Some(clock) = &mut self.clock {
            *clock = Clock::new(cost::monotonic_ns());
        }
    }
}

/// Notes the CPythons of a process that are not walked: when it is gone, and when a window ends.
fn note_others(noted: &mut OtherPythons, files: &Files, process: &Process) {
    for other in process.other_pythons.iter().filter(|other| other.used != Used::No) {
        let path = files.get(other.python.file).path.clone();
        let (pids, used) = noted.entry(path).or_insert((FxHashSet::default(), other.used));
        pids.insert(process.pid);
        *used = (*used).max(other.used);
    }
}

/// By path.
type OtherPythons = IndexMap<PathBuf, (FxHashSet<u32>, Used), FxBuildHasher>;

#[cfg(test)]
mod tests;
