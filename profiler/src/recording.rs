//! What has been seen so far: processes, stacks and how often each was met.
//!
//! Side-band events and records arrive in order of time. Counting is cheap and by key; resolving (addresses to
//! functions) waits until the facts it needs would change: when a process ends or execs, when an address comes to hold
//! another code object, and at the end.
//!
//! What the kernel side must know about a process comes out as [`Fact`]s: the only arrow that points back.

mod lingering;
mod raw;

use std::{
    collections::BTreeMap,
    mem,
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use indexmap::{IndexMap, IndexSet};
use profiler_common::{
    mark::MarkEvent,
    python::{CodeKey, PythonProcess},
    record::{
        BlockRecord, CallRecord, MEMORY_SITE, MemoryEvent, PYTHON_BAD_THREAD_STATE, PYTHON_COMPLETE,
        PYTHON_NO_THREAD_STATE, PYTHON_NONE, PYTHON_NOT_INITIALIZED, PYTHON_TORN, PYTHON_TRUNCATED, PythonFrame,
        SampleHeader, StackKey,
    },
    unwind::UnwindMapping,
    wait::{IoEvent, StallRecord},
};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use self::raw::RawStacks;
use crate::{
    cost,
    decode::{RawCode, RawRecord, RawStack},
    instruments::Needs,
    memory::event::{self, Event, SiteId, What},
    process::{
        self, ancestry,
        files::{FileId, Files, PythonFile},
        maps,
        offspring::Offspring,
        pythons::{PythonIn, Used},
        sideband::{SidebandEvent, SidebandKind},
        table::{CodeAt, Process, Table},
        threads::ThreadId,
    },
    python::{
        code::{Code, Live},
        codes::CodeId,
        memory::ProcessMemory,
    },
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

    /// Takes in a process that exists already.
    pub fn adopt(&mut self, pid: u32) {
        if self.table.get(pid).is_none() && self.is_in_scope(pid) {
            self.table.adopt(&mut self.files, pid);
            self.remapped.insert(pid);
            self.tell_python(pid);
        }
    }

    /// Takes in a process that was none of ours. The kernel side is told by the engine.
    pub fn include(&mut self, pid: u32) {
        if let Scope::Pids { pids, .. } = &mut self.scope {
            pids.insert(pid);
        }
        self.adopt(pid);
    }

    /// Lets go of a process that is none of ours any more. The kernel side is told as if it had ended.
    pub fn exclude(&mut self, pid: u32) {
        self.apply_exit(cost::monotonic_ns(), pid);
    }

    /// From now on it is noted which processes that are none of ours have begun a program, or mapped code.
    pub fn note_strangers(&mut self) {
        self.strangers = Some(FxHashSet::default());
    }

    /// Those since the last time: any of them may have become a CPython.
    pub fn drain_strangers(&mut self) -> Vec<u32> {
        self.strangers
            .as_mut()
            .map(|pids| pids.drain().collect())
            .unwrap_or_default()
    }

    /// A machine that starts thousands of compilers is not to fill our memory.
    pub fn note_stranger(&mut self, pid: u32) {
        const MOST: usize = 16 << 10;
        if let Some(pids) = &mut self.strangers
            && pids.len() < MOST
        {
            pids.insert(pid);
        }
    }

    /// Looks at the files that a process is about to run, so that what there is to know of them is known when it does.
    /// Returns the CPython among them.
    pub fn expect(&mut self, paths: &[PathBuf]) -> Option<FileId> {
        let files: Vec<FileId> = paths.iter().filter_map(|path| self.files.foresee(path)).collect();
        files.into_iter().find(|&file| self.files.get(file).cpython().is_some())
    }

    /// Why the interpreter in one of these files, which a process is about to run, is refused, if it is.
    pub fn refusal_in(&mut self, paths: &[PathBuf]) -> Option<String> {
        let files: Vec<FileId> = paths.iter().filter_map(|path| self.files.foresee(path)).collect();
        files.into_iter().find_map(|file| {
            let file = self.files.get(file);
            match file.python() {
                PythonFile::Refused(refusal) => Some(format!("{}: {refusal}", file.path.display())),
                PythonFile::Asked | PythonFile::No | PythonFile::Yes(_) => None,
            }
        })
    }

    /// Takes in what was found in files meanwhile: of those that map one with a CPython the kernel side is told.
    pub fn take_inspected(&mut self) {
        for file in self.files.take_inspected() {
            for pid in self.table.look_again(&self.files, file) {
                self.tell_python(pid);
            }
        }
    }

    /// Whether it is not known yet what is in a file that a process has mapped as code.
    pub fn is_being_looked_at(&self, pid: u32) -> bool {
        self.files_of(pid)
            .any(|(_, file)| matches!(file.python(), PythonFile::Asked))
    }

    /// Takes in a side-band event.
    pub fn apply(&mut self, event: &SidebandEvent) {
        if let Some(offspring) = &mut self.offspring {
            offspring.note(event);
        }
        match &event.kind {
            // A thread.
            SidebandKind::Fork { parent_pid, pid, .. } if parent_pid == pid => {}
            SidebandKind::Fork { parent_pid, pid, .. } => {
                // Whoever had the number is gone.
                if let Some(ended_ns) = self.lingering.remove(pid) {
                    self.apply_exit(ended_ns, *pid);
                }
                self.apply_fork(event.time_ns, *parent_pid, *pid);
            }
            SidebandKind::Exec { pid, comm } => {
                self.lingering.remove(pid);
                if self.is_in_scope(*pid) {
                    self.note_process(event.time_ns, *pid, What::Exec);
                    let before = self.table.begin(*pid, comm.clone());
                    if let Some(process) = self.table.get_mut(*pid) {
                        process.began_ns = Some(event.time_ns);
                    }
                    self.remapped.insert(*pid);
                    if let Some(process) = &before
                        && process.python.is_some()
                    {
                        self.note_end(process, event.time_ns);
                        // Of calls, the kernel side has seen the exec, and may know what is there now.
                        if !self.follows_calls {
                            self.facts.push(Fact::NotPython { pid: *pid });
                        }
                    }
                    self.seal(before);
                } else {
                    self.note_stranger(*pid);
                }
            }
            SidebandKind::Comm { pid, tid, comm } => {
                if pid == tid
                    && let Some(process) = self.table.get_mut(*pid)
                {
                    process.comm.clone_from(comm);
                }
            }
            SidebandKind::Mmap { pid, map, .. } => {
                let Some(process) = self.table.get(*pid) else {
                    self.note_stranger(*pid);
                    return;
                };
                let before = process.python.as_ref().map(|python| python.facts);
                self.table.map(&mut self.files, *pid, map);
                self.remapped.insert(*pid);
                let python = self.table.get(*pid).and_then(|process| process.python.as_ref());
                if before.is_none() || python.map(|python| python.facts) != before {
                    self.tell_python(*pid);
                }
            }
            SidebandKind::Exit { pid, tid } if pid == tid => {
                if let Some(strangers) = &mut self.strangers {
                    strangers.remove(pid);
                }
                self.apply_end_of_first(event.time_ns, *pid);
            }
            SidebandKind::Exit { pid, tid } => {
                if let Some(process) = self.table.get_mut(*pid) {
                    process.threads.end(*tid);
                }
            }
            SidebandKind::Lost { records } => self.ledger.tally.lost_events += records,
        }
    }

    fn apply_fork(&mut self, time_ns: u64, parent_pid: u32, pid: u32) {
        if let Scope::Pids { pids, children: true } = &mut self.scope
            && pids.contains(&parent_pid)
        {
            pids.insert(pid);
        }
        if self.is_in_scope(pid) {
            self.note_process(time_ns, pid, What::Fork { parent: parent_pid });
            let before = self.table.fork(parent_pid, pid);
            if let Some(process) = self.table.get_mut(pid) {
                process.began_ns = Some(time_ns);
            }
            self.remapped.insert(pid);
            self.seal(before);
            self.tell_python(pid);
        } else if self.is_in_scope(parent_pid) {
            self.note_stranger(pid);
        }
    }

    /// For those who follow calls.
    fn note_end(&mut self, process: &Process, ended_ns: u64) {
        if let (true, Some(python)) = (self.follows_calls, &process.python) {
            self.ended.push(Ended {
                pid: process.pid,
                file: python.file,
                began_ns: process.began_ns,
                ended_ns,
            });
        }
    }

    /// For those who follow memory.
    fn note_process(&mut self, time_ns: u64, pid: u32, what: What) {
        if self.follows_memory {
            self.memory_events.push(Event { pid, time_ns, what });
        }
    }

    fn apply_exit(&mut self, time_ns: u64, pid: u32) {
        if let Some(process) = self.table.remove(pid) {
            self.note_process(time_ns, pid, What::Exit);
            self.remapped.remove(&pid);
            self.facts.push(Fact::Exited { pid });
            if process.python.is_some() {
                self.note_end(&process, time_ns);
                self.facts.push(Fact::NotPython { pid });
            }
            self.seal(Some(process));
        } else if self.is_in_scope(pid) {
            // Its fork was lost, and the kernel side knows it from then on all the same.
            self.facts.extend([Fact::Exited { pid }, Fact::NotPython { pid }]);
        }
        if let Scope::Pids { pids, .. } = &mut self.scope {
            pids.remove(&pid);
        }
    }

    /// Takes in a record of the kernel side.
    pub fn take(&mut self, record: RawRecord<'_>) {
        match record {
            RawRecord::Code(code) => self.take_code(&code),
            RawRecord::Stack(header, stack) => {
                // First: the stack is kept for as long as the process is.
                self.know(header.pid);
                self.take_stack(&header, stack);
                self.take_sample(&header);
            }
            RawRecord::Sample(header) => self.take_sample(&header),
            RawRecord::Definition(header, stack) => self.take_stack(&header, stack),
            RawRecord::Memory(header, event) => self.take_memory(&header, &event),
            RawRecord::Block(block) => self.take_block(&block),
            RawRecord::Call(call) => self.calls.push(call),
            RawRecord::Wait(header, event) => {
                let site = self.site_of(&header);
                let drawn = Drawn {
                    pid: header.pid,
                    tid: header.tid,
                    ended_ns: header.time_ns,
                    site,
                    gil: 0,
                    holder: None,
                    waker: None,
                    event: *event,
                };
                self.waits.push((drawn, header));
            }
            RawRecord::Stall(stall) => self.stalls.push(stall),
            RawRecord::Mark(header, event) => {
                let site = match header.stack {
                    NO_STACK => NO_SITE,
                    _ => self.site_of(&header),
                };
                self.marks.push(Marked { header, site, event });
            }
            RawRecord::Io(header, event) => {
                let site = self.site_of(&header);
                self.io.push((site, *event));
            }
            RawRecord::Began(began) => {
                self.table.rename(began.pid, began.instance);
                self.tell_python(began.pid);
            }
        }
    }

    /// Stacks as the kernel side sends them are kept so that it need not send them again. In a recording of hours most
    /// are never met again, and they would fill the memory: from time to time all are forgotten, on both sides. Their
    /// samples are resolved before, and stay.
    ///
    /// The same goes for code objects: a program that makes and drops them in a loop has new ones in each sample.
    ///
    /// Call this after everything that waited was taken in. Returns what the kernel side must forget.
    pub fn forget_stacks(&mut self) -> Forgotten {
        match self.kept.take() {
            // Those that the kernel side has numbered are referred to for good; there are no more than it has numbers.
            None if self.raw.bytes > MOST_STACK_BYTES && self.numbered.is_empty() => {
                self.kept = Some(Kept::default());
                Forgotten {
                    stacks: self.raw.stacks.values().map(|stack| stack.place).collect(),
                    codes: self
                        .table
                        .iter()
                        .flat_map(Process::code_keys)
                        .map(|(_, key)| key)
                        .collect(),
                }
            }
            None => Forgotten::default(),
            // Samples that referred to them were on their way when the kernel side forgot them, and have arrived.
            Some(kept) => {
                for process in self.table.iter_mut() {
                    self.ledger.seal(process, &self.raw.stacks);
                }
                self.raw.retain(|key, _| kept.stacks.contains(key));
                let frames = self.raw.stacks.values().flat_map(|stack| &*stack.python);
                let mut codes = kept.codes;
                codes.extend(frames.map(CodeAt::from));
                for process in self.table.iter_mut() {
                    process.keep_codes(&codes);
                }
                self.raw.ended = Vec::new();
                for process in self.table.iter_mut() {
                    process.stacks.retain(|key| self.raw.stacks.contains_key(key));
                    process.stacks.shrink_to_fit();
                }
                Forgotten::default()
            }
        }
    }

    /// What the kernel side must be told since the last call.
    pub fn drain_facts(&mut self) -> Vec<Fact> {
        let mut facts = mem::take(&mut self.facts);
        for pid in self.remapped.drain().filter(|_| self.unwinds) {
            if let Some(process) = self.table.get(pid) {
                let mappings = process.unwind_mappings();
                facts.push(Fact::Mappings { pid, mappings });
            }
        }
        facts
    }

    /// The CPython of a process, and its file.
    pub fn python(&self, pid: u32) -> Option<(&PythonIn, &process::files::File)> {
        let python = self.table.get(pid)?.python.as_ref()?;
        Some((python, self.files.get(python.file)))
    }

    /// When a process was forked or exec'ed (CLOCK_MONOTONIC), if that was in the recording.
    pub fn began_ns(&self, pid: u32) -> Option<u64> {
        self.table.get(pid)?.began_ns
    }

    /// Processes that were CPython and are no more, since the last time, for those who follow calls.
    pub fn drain_ended(&mut self) -> Vec<Ended> {
        mem::take(&mut self.ended)
    }

    /// The files that a process has mapped as code.
    pub fn files_of(&self, pid: u32) -> impl Iterator<Item = (FileId, &process::files::File)> {
        let process = self.table.get(pid);
        process
            .into_iter()
            .flat_map(Process::files)
            .map(|id| (id, self.files.get(id)))
    }

    /// The processes that are known now.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.table.iter().map(|process| process.pid)
    }

    /// Code objects of a process that are known, and where they are.
    pub fn codes_of(&self, pid: u32) -> impl Iterator<Item = (u64, CodeId)> {
        self.table.get(pid).into_iter().flat_map(Process::codes)
    }

    /// The process that is this instance now.
    pub fn pid_of(&self, instance: u64) -> Option<u32> {
        let instance = u32::try_from(instance).ok()?;
        let own = self.table.iter().find(|process| process.instance == instance);
        let process = own.or_else(|| self.table.iter().find(|process| process.is_instance(instance)))?;
        Some(process.pid)
    }

    /// What a process runs; empty if it is gone.
    pub fn command(&mut self, pid: u32) -> String {
        let process = self.table.get_mut(pid);
        process.map_or_else(String::new, |process| process.command())
    }

    /// A process's name; empty if it is gone.
    pub fn comm(&self, pid: u32) -> &str {
        self.table.get(pid).map_or("", |process| &process.comm)
    }

    /// Whether every process named by the user is gone.
    pub fn has_no_targets(&self) -> bool {
        matches!(&self.scope, Scope::Pids { pids, .. } if pids.is_empty())
    }

    /// Processes that samples were taken of.
    pub fn sampled_processes(&self) -> usize {
        self.sampled_pids.len()
    }

    /// Files that could not be opened.
    pub fn unopened(&self) -> Vec<PathBuf> {
        self.files.unopened().map(|file| file.path.clone()).collect()
    }

    /// Why the interpreter of a process is refused, if it is.
    pub fn refusal_of(&self, pid: u32) -> Option<&str> {
        let mut refused = self.refused.iter();
        refused.find_map(|(reason, pids)| pids.contains(&pid).then_some(&**reason))
    }

    /// What is held on to from one window to the next.
    pub fn held(&self) -> Held {
        Held {
            processes: self.table.iter().count(),
            files: self.files.iter().count(),
            file_ids: self.files.ids(),
            codes: self.ledger.codes.len(),
            stacks: self.raw.stacks.len(),
            stack_bytes: self.raw.bytes,
        }
    }

    /// Processes that samples were taken of, in all windows.
    pub fn sampled_in_all(&self) -> usize {
        self.sampled
    }

    /// Samples that were taken, in all windows.
    pub fn samples(&self) -> u64 {
        self.before.samples + self.ledger.tally.samples
    }

    /// What was counted, in all windows.
    pub fn tally(&self) -> Tally {
        let mut tally = self.before.clone();
        tally.add(&self.ledger.tally);
        tally
    }

    /// Ends a window: what was counted since the last cut. What nobody needs any more goes.
    ///
    /// Call this after everything that waited was taken in, and its facts were passed on. Sites of memory and code objects
    /// that are counted by have no cuts: who follows them holds on to their numbers.
    pub fn cut(&mut self) -> Cut {
        self.bury_the_lost();
        for process in self.table.iter_mut() {
            if !process.counts.is_empty() {
                // It may have changed, as a worker's title does after the fork.
                process.look_at_command_now_and_then();
            }
            process.look_at_other_pythons();
            self.ledger.seal(process, &self.raw.stacks);
            // They are tried again.
            process.unreadable_codes = FxHashSet::default();
        }
        // What was sampled was there then.
        self.forget_unmapped();
        for process in self.table.iter() {
            note_others(&mut self.other_pythons, &self.files, process);
        }
        self.stop_clock();
        let window = Window::new(self.ledger.cut(&mut self.table), &self.files);
        self.begin();
        self.before.add(&window.ledger.tally);
        let window = self.with_notes(window);
        for pids in self.refused.values_mut() {
            pids.retain(|&pid| self.table.get(pid).is_some());
        }
        self.refused.retain(|_, pids| !pids.is_empty());

        let forgotten = self.raw.cut(self.table.iter_mut());
        let codes = self.table.iter().flat_map(Process::codes).map(|(_, code)| code);
        self.ledger.codes.keep(codes);
        let pythons = self.table.iter().flat_map(|process| {
            let others = process.other_pythons.iter().map(|other| &other.python);
            process.python.iter().chain(others).map(|python| python.file)
        });
        let files = self.table.iter().flat_map(Process::files).chain(pythons);
        let gone = self.files.keep(&files.collect(), Instant::now());
        Cut {
            window,
            files: gone,
            forgotten,
        }
    }

    /// Ends the recording: resolves what is left.
    pub fn finish(&mut self) -> Window {
        let left: Vec<Process> = self.table.take_all().collect();
        for process in left {
            self.seal(Some(process));
        }
        self.before.add(&self.ledger.tally);
        self.stop_clock();
        let mut window = Window::new(mem::take(&mut self.ledger), &self.files);
        // Also of those that were not met: a CPython that was not seen may be among them.
        window.unopened = self.unopened();
        self.with_notes(window)
    }

    fn stop_clock(&mut self) {
        if let Some(clock) = &self.clock {
            self.ledger.times.elapsed_ns = clock.elapsed_ns();
        }
    }

    fn with_notes(&mut self, mut window: Window) -> Window {
        let refused = self.refused.iter();
        window.processes = mem::take(&mut self.sampled_pids).len();
        window.refused = refused.map(|(reason, pids)| (reason.clone(), pids.len())).collect();
        window.refused_maps = mem::take(&mut self.refused_maps).into_iter().collect();
        let others = mem::take(&mut self.other_pythons).into_iter();
        window.other_pythons = others
            .map(|(path, (pids, used))| (path, pids.into_iter().collect(), used))
            .collect();
        window
    }

    /// The side band tells of what is mapped, not of what is unmapped: who maps one file after the other seems to have them
    /// all. So who has mapped many is looked at, a few of them at a time.
    fn forget_unmapped(&mut self) {
        const MANY: u32 = 32;
        const MOST_AT_ONCE: usize = 16;
        let many = self.table.iter_mut().filter(|process| process.mapped >= MANY);
        for process in many.take(MOST_AT_ONCE) {
            let now = maps::read(process.pid).map(|maps| maps.entries).unwrap_or_default();
            if process.forget_unmapped(&now) {
                self.remapped.insert(process.pid);
            }
        }
    }

    /// The end of a process may be among events that were lost, or it was sampled once more after it: then it would stay
    /// for ever.
    fn bury_the_lost(&mut self) {
        /// Windows can be short, and a machine have thousands of processes.
        const EVERY: Duration = Duration::from_secs(5);
        if self.buried.is_some_and(|then| then.elapsed() < EVERY) {
            return;
        }
        self.buried = Some(Instant::now());
        let Ok(living) = ancestry::pids(Path::new("/proc")) else {
            return;
        };
        let living: FxHashSet<u32> = living.into_iter().collect();
        let gone: Vec<u32> = self.pids().filter(|pid| !living.contains(pid)).collect();
        let now_ns = cost::monotonic_ns();
        for pid in gone {
            self.apply_exit(now_ns, pid);
        }
    }

    fn is_in_scope(&self, pid: u32) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Pids { pids, .. } => pids.contains(&pid),
        }
    }

    /// Tells the kernel side how to walk a process, or notes why it is not told.
    fn tell_python(&mut self, pid: u32) {
        let Some(process) = self.table.get(pid) else { return };
        if let Some(python) = &process.python {
            self.facts.push(Fact::Python {
                pid,
                facts: Box::new(python.facts),
            });
        }
        for file in process.files() {
            let file = self.files.get(file);
            if let PythonFile::Refused(refusal) = file.python() {
                let reason = format!("{}: {refusal}", file.path.display());
                self.refused.entry(reason).or_default().insert(pid);
            }
        }
    }

    fn take_code(&mut self, raw: &RawCode<'_>) {
        let Some(process) = self.table.get_mut(raw.pid) else {
            return;
        };
        let Some(python) = process.python.clone() else { return };
        if !process.is_instance(raw.instance) {
            return; // Of the program that this process was before its exec.
        }
        let memory = ProcessMemory { pid: raw.pid };
        let live = Live {
            memory: &memory,
            process: &python.facts,
            fingerprint: raw.fingerprint,
        };
        let decoded = Code::from_record(raw.bytes, python.binary.format(), Some(live));
        let Ok((address, code)) = decoded else {
            self.ledger.tally.malformed += 1;
            return;
        };
        let code = self.ledger.codes.intern(code);
        let at = CodeAt {
            address,
            fingerprint: raw.fingerprint,
        };
        process.set_code(at, code);
        self.raw.insert_code(raw.pid, at);
        if let Some(kept) = &mut self.kept {
            kept.codes.insert(at);
        }
        if let (true, Some(identity)) = (self.follows_calls, raw.identity) {
            let key = CodeKey::identified(address, raw.instance, identity.get());
            self.new_codes.push((key, code));
        }
    }

    /// Reads a code object that the kernel side could not send, from the process that is this instance, if it lives.
    pub fn read_code(&mut self, key: CodeKey) -> Option<CodeId> {
        let pid = self.pid_of(key.anyone().instance)?;
        let process = self.table.get(pid)?;
        let python = process.python.as_ref()?;
        let memory = ProcessMemory { pid: process.pid };
        let code = Code::from_memory(&memory, key.address, &python.facts, python.binary.format()).ok()?;
        Some(self.ledger.codes.intern(code))
    }

    /// Asks programs what they call their threads, while they live: those of which a new one was met, and the others now
    /// and then. At most a hundredth of the time is spent on it. `last`: the recording ends, and all are asked.
    pub fn name_threads(&mut self, last: bool) {
        /// What may be spent before the first hundredth is earned, and on the last round.
        const ADVANCE: Duration = Duration::from_millis(20);
        const LAST_ROUND: Duration = Duration::from_millis(500);
        let began = Instant::now();
        let allowed = match last {
            true => LAST_ROUND,
            false => (self.started.elapsed() / 100 + ADVANCE).saturating_sub(self.spent_on_names),
        };
        let now_ns = cost::monotonic_ns();
        for process in self.table.iter_mut() {
            if began.elapsed() >= allowed {
                break;
            }
            if last {
                process.look_at_other_pythons();
            }
            if last && !process.counts.is_empty() {
                process.look_at_command(true);
            }
            if process.threads.is_due(if last { u64::MAX } else { now_ns }) {
                let knew_all = self.ledger.name_threads(process);
                process.threads.asked(now_ns, knew_all);
            }
        }
        self.spent_on_names += began.elapsed();
    }

    /// Calls that have ended since the last time, and code objects that became known.
    pub fn drain_calls(&mut self) -> (Vec<CallRecord>, Vec<(CodeKey, CodeId)>) {
        (mem::take(&mut self.calls), mem::take(&mut self.new_codes))
    }

    fn take_stack(&mut self, header: &SampleHeader, stack: RawStack) {
        self.read_missing_codes(header, &stack);
        if let Some(kept) = &mut self.kept {
            kept.stacks.insert(header.stack);
        }
        let is_new = !self.raw.stacks.contains_key(&header.stack);
        if is_new {
            match self.table.get_mut(header.pid) {
                Some(process) => {
                    if let Some(error) = process.look_for_perf_map(&stack.native) {
                        self.refused_maps.insert(error.to_string());
                    }
                    process.stacks.push(header.stack);
                }
                None => self.raw.ended.push(header.stack),
            }
        }
        let before = self.raw.insert(header.stack, stack);
        if before.is_some_and(|before| self.raw.stacks.get(&header.stack) != Some(&before)) {
            self.ledger.tally.collisions += 1;
        }
    }

    /// The kernel side copies a few code objects per sample. While the process lives we can read the others ourselves, as
    /// long as they are still the ones that were sampled.
    fn read_missing_codes(&mut self, header: &SampleHeader, stack: &RawStack) {
        let Some(process) = self.table.get_mut(header.pid) else {
            return;
        };
        let Some(python) = process.python.clone() else { return };
        let memory = ProcessMemory { pid: header.pid };
        for frame in &stack.python {
            let at = CodeAt::from(frame);
            if at.fingerprint == 0 || process.code(at).is_some() || process.unreadable_codes.contains(&at) {
                continue;
            }
            let live = Live {
                memory: &memory,
                process: &python.facts,
                fingerprint: at.fingerprint,
            };
            match live.code(at.address, python.binary.format()) {
                Ok(code) => process.set_code(at, self.ledger.codes.intern(code)),
                Err(_) => {
                    process.unreadable_codes.insert(at);
                }
            }
        }
    }

    fn count(&mut self, header: &SampleHeader) {
        if self.counted_ns.contains(&header.time_ns) {
            let key = self.admit(header);
            self.count_as(header, key);
        }
    }

    fn count_as(&mut self, header: &SampleHeader, key: Option<SampleOf>) {
        self.ledger.tally.ticks += 1;
        if let Some(key) = key
            && let Some(process) = self.table.get_mut(header.pid)
        {
            let counted = process.counts.entry(key).or_default();
            counted.count += 1;
            if let Some(clock) = &mut self.clock {
                clock.count(&mut counted.slices, header.time_ns);
                if clock.is_full() {
                    let waiting = self.table.iter_mut().flat_map(|process| process.counts.values_mut());
                    let lists = waiting.map(|counted| &mut counted.slices);
                    clock.shorten(lists.chain(self.ledger.times.iter_mut()));
                }
            }
        }
    }

    /// Counts a sample by how it went, and says under which key it is kept; none if it cannot be.
    fn admit(&mut self, header: &SampleHeader) -> Option<SampleOf> {
        self.know(header.pid);
        self.ledger.tally.samples += 1;
        self.ledger.tally.first_sample_ns.get_or_insert(header.time_ns);
        self.sampled_pids.insert(header.pid);
        let Some(stack) = self.raw.stacks.get_index_of(&header.stack) else {
            self.ledger.tally.lost_stacks += 1;
            return None;
        };
        self.raw.meet(stack);
        let process = self.table.get_mut(header.pid)?;
        self.sampled += usize::from(!mem::replace(&mut process.is_sampled, true));
        let ledger = &mut self.ledger;
        let raw = &self.raw.stacks[stack];
        let thread = process
            .threads
            .meet(header.tid, header.comm, |name| ledger.meet_thread(&header.comm, name));
        let tally = &mut ledger.tally;
        // Walked by what it was before its exec. Without Python frames that does no harm.
        if header.instance != 0 && !process.is_instance(header.instance) && !raw.python.is_empty() {
            tally.stale += 1;
            return None;
        }
        match tally.native.get_mut(raw.native_status as usize) {
            Some(samples) => *samples += 1,
            None => tally.malformed += 1,
        }
        match header.python {
            PYTHON_NONE if process.python.is_some() => tally.python_unrecognized += 1,
            PYTHON_NONE => {}
            PYTHON_COMPLETE if raw.python.is_empty() => tally.python_no_frames += 1,
            PYTHON_COMPLETE => tally.python_complete += 1,
            PYTHON_TRUNCATED => tally.python_truncated += 1,
            PYTHON_TORN => tally.python_torn += 1,
            PYTHON_BAD_THREAD_STATE => tally.python_bad_state += 1,
            PYTHON_NOT_INITIALIZED => tally.python_not_initialized += 1,
            PYTHON_NO_THREAD_STATE => tally.python_no_frames += 1,
            _ => tally.malformed += 1,
        }
        process.cgroup();
        process.look_at_command(false);
        Some((stack as u32, header.tid, thread))
    }

    /// Takes in a process that was there before us, in a recording of the whole machine that did not list it.
    fn know(&mut self, pid: u32) {
        if self.table.get(pid).is_none() {
            self.table.adopt(&mut self.files, pid);
            self.remapped.insert(pid);
            self.tell_python(pid);
        }
    }

    fn take_memory(&mut self, header: &SampleHeader, event: &MemoryEvent) {
        if event.what == MEMORY_SITE {
            if let Some(key) = self.admit(header) {
                self.numbered.insert(event.weight, (header.pid, key));
            }
            return;
        }
        let site = if header.stack == NO_STACK {
            self.know(header.pid);
            NO_SITE
        } else {
            match self.admit(header) {
                Some(key) => self.site(header.pid, key),
                None => NO_SITE,
            }
        };
        if let Some(what) = event::what(event, site) {
            self.memory_events.push(Event {
                pid: header.pid,
                time_ns: header.time_ns,
                what,
            });
        } else {
            self.ledger.tally.malformed += 1;
        }
    }

    fn take_block(&mut self, block: &BlockRecord) {
        // Its stack was lost, or there was no number for it.
        let numbered = self.numbered.get(&block.site).copied();
        let (pid, site) = match numbered {
            Some((pid, key)) => (pid, self.site(pid, key)),
            None => (0, NO_SITE),
        };
        let &BlockRecord {
            time_ns,
            born_ns,
            bytes,
            distance,
            ..
        } = block;
        let what = match born_ns {
            0 => What::Allocated { bytes, site },
            _ => What::Freed {
                bytes,
                site,
                born_ns,
                distance,
            },
        };
        self.memory_events.push(Event { pid, time_ns, what });
    }

    /// The number under which a stack of a thread is known until its process's facts change.
    fn site(&mut self, pid: u32, key: SampleOf) -> SiteId {
        let Some(process) = self.table.get_mut(pid) else {
            return NO_SITE;
        };
        let sites = &mut self.ledger.sites;
        *process.sites.entry(key).or_insert_with(|| {
            sites.push(None);
            // Each takes up memory: there are never four billion.
            sites.len() as SiteId - 1
        })
    }

    /// The site of a record that refers to a stack; [`NO_SITE`] if that was lost.
    pub fn site_of(&mut self, header: &SampleHeader) -> SiteId {
        match self.admit(header) {
            Some(key) => self.site(header.pid, key),
            None => NO_SITE,
        }
    }

    /// Whether a stack of this key has come, and was not forgotten since.
    pub fn knows(&self, stack: &StackKey) -> bool {
        self.raw.stacks.contains_key(stack)
    }

    /// Whether anything is known of a process.
    pub fn knows_process(&self, pid: u32) -> bool {
        self.table.get(pid).is_some()
    }

    /// Waits that were drawn since the last call, and the headers of their records.
    pub fn drain_waits(&mut self) -> Vec<(Drawn, SampleHeader)> {
        mem::take(&mut self.waits)
    }

    /// Samples since the last call, and where each was, if they are told one by one.
    pub fn drain_timed(&mut self) -> Vec<(SampleHeader, SiteId)> {
        mem::take(&mut self.timed)
    }

    /// What probes have told since the last call that is of these kinds (`MARK_…`), in order of time. Others are for who asks
    /// for them.
    pub fn drain_marks(&mut self, kinds: &[u32]) -> Vec<Marked> {
        let marks = mem::take(&mut self.marks).into_iter();
        let (asked, others) = marks.partition(|marked| kinds.contains(&marked.event.what));
        self.marks = others;
        asked
    }

    /// The Python frames of a stack, the innermost first, if it is known (still).
    pub fn frames(&self, stack: &StackKey) -> Option<&[PythonFrame]> {
        Some(&self.raw.stacks.get(stack)?.python)
    }

    /// Stalls of event loops since the last call. What happened in them was drained before, or is to be now.
    pub fn drain_stalls(&mut self) -> Vec<StallRecord> {
        mem::take(&mut self.stalls)
    }

    /// Calls that move data, and were drawn since the last call.
    pub fn drain_io(&mut self) -> Vec<(SiteId, IoEvent)> {
        mem::take(&mut self.io)
    }

    fn take_sample(&mut self, header: &SampleHeader) {
        if !self.keeps_times {
            return self.count(header);
        }
        // Admitted once, whoever wants it.
        let key = self.admit(header);
        let site = key.map_or(NO_SITE, |key| self.site(header.pid, key));
        self.timed.push((*header, site));
        if self.counts_ticks && self.counted_ns.contains(&header.time_ns) {
            self.count_as(header, key);
        }
    }

    /// What happened to memory since the last call, in order of time, process events included.
    pub fn drain_memory_events(&mut self) -> Vec<Event> {
        mem::take(&mut self.memory_events)
    }

    /// Resolves what was counted for a process that is gone.
    fn seal(&mut self, process: Option<Process>) {
        if let Some(mut process) = process {
            self.ledger.seal(&mut process, &self.raw.stacks);
            self.raw.ended.append(&mut process.stacks);
            note_others(&mut self.other_pythons, &self.files, &process);
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
mod tests {
    use std::io::{Read as _, Write as _};

    use profiler_common::record::NATIVE_COMPLETE;

    use super::*;
    use crate::resolve::Location;

    /// A sample of this very process, of one of many long stacks.
    fn header(stack: u64) -> SampleHeader {
        SampleHeader {
            kind: 0,
            cpu: 0,
            pid: std::process::id(),
            tid: std::process::id(),
            time_ns: stack,
            stack: StackKey { hash: [stack, 0] },
            comm: [0; 16],
            instance: 0,
            python: PYTHON_NONE,
        }
    }

    fn stack(number: u64) -> RawStack {
        RawStack {
            kernel: Box::default(),
            native: (0..4096).map(|frame| number << 32 | frame).collect(),
            native_status: NATIVE_COMPLETE,
            python: Box::default(),
            python_flags: 0,
            python_status: PYTHON_NONE,
            place: StackKey { hash: [number, 0] },
        }
    }

    fn counted(recording: &Recording) -> u64 {
        let resolved: u64 = recording.ledger.samples.values().sum();
        let waiting = recording.table.iter().flat_map(|process| process.counts.values());
        let waiting: u64 = waiting.map(|counted| counted.count).sum();
        resolved + waiting
    }

    #[test]
    fn raw_stacks_are_forgotten_when_there_are_too_many_and_their_samples_stay() {
        let mut recording = Recording::new(Scope::All, true);
        let mut stacks = 0;
        while recording.forget_stacks().stacks.is_empty() {
            assert!(recording.raw.bytes <= MOST_STACK_BYTES);
            recording.take(RawRecord::Stack(header(stacks), stack(stacks)));
            stacks += 1;
        }
        // What was on its way when the kernel side forgot: one stack by its key, and one that it sends again.
        recording.take(RawRecord::Sample(header(0)));
        recording.take(RawRecord::Stack(header(1), stack(1)));
        assert!(recording.forget_stacks().stacks.is_empty());
        assert!(recording.raw.bytes < MOST_STACK_BYTES / 100);

        recording.take(RawRecord::Sample(header(1)));
        assert_eq!(
            (recording.ledger.tally.lost_stacks, counted(&recording)),
            (0, stacks + 3)
        );
        recording.take(RawRecord::Sample(header(0)));
        assert_eq!(
            (recording.ledger.tally.lost_stacks, counted(&recording)),
            (1, stacks + 3)
        );
    }

    #[test]
    fn what_was_counted_is_in_the_slice_of_its_window_in_which_it_was() {
        let needs = Needs {
            slices: true,
            ..Needs::default()
        };
        let mut recording = Recording::new(Scope::All, true).following(&needs);
        let taken = |recording: &mut Recording, number, ms: u64| {
            let mut header = header(number);
            header.time_ns = recording.slices_from_ns().expect("a beginning") + ms * 1_000_000;
            recording.take(RawRecord::Stack(header, short(number)));
        };
        let told = |window: &Window| {
            let times = &window.ledger.times;
            times
                .doublings()
                .map(|doublings| times.told(doublings).collect::<Vec<_>>())
        };
        taken(&mut recording, 1, 0);
        taken(&mut recording, 2, 31);
        taken(&mut recording, 1, 35);
        let Cut { window: first, .. } = recording.cut();
        assert_eq!(told(&first), Some(vec![vec![(0, 1), (3, 1)], vec![(3, 1)]]));
        // The next one has an axis of its own.
        taken(&mut recording, 2, 4);
        let Cut { window: second, .. } = recording.cut();
        assert_eq!(told(&second), Some(vec![vec![(0, 1)]]));
        let Cut { window: empty, .. } = recording.cut();
        assert_eq!(told(&empty), None);
        // Who does not ask for times keeps none.
        let mut recording = Recording::new(Scope::All, true);
        recording.take(RawRecord::Stack(header(1), short(1)));
        assert_eq!(told(&recording.finish()), None);
    }

    /// What a window has of each stack: its frames' addresses, where no file holds them.
    fn anonymous(window: &Window) -> Vec<(Vec<u64>, u64)> {
        let locations: Vec<_> = window.ledger.resolved.locations().collect();
        let stacks: Vec<_> = window.ledger.resolved.stacks().collect();
        let address = |&location: &u32| match *locations[location as usize] {
            Location::Anonymous { address } => address,
            ref other => panic!("{other:?}"),
        };
        let samples = window.ledger.samples.iter();
        samples
            .map(|(sampled, &count)| (stacks[sampled.stack as usize].iter().map(address).collect(), count))
            .collect()
    }

    fn short(number: u64) -> RawStack {
        RawStack {
            native: Box::new([number]),
            ..stack(number)
        }
    }

    #[test]
    fn a_window_has_what_was_counted_since_the_last_cut_and_stacks_stay_known() {
        fn is_send<T: Send>(_: &T) {}
        let mut recording = Recording::new(Scope::All, true);
        recording.take(RawRecord::Stack(header(1), short(1)));
        recording.take(RawRecord::Sample(header(1)));
        recording.take(RawRecord::Stack(header(2), short(2)));
        let Cut { window: first, .. } = recording.cut();
        // The kernel side does not send a stack again because we write a file.
        recording.take(RawRecord::Sample(header(2)));
        let Cut { window: second, .. } = recording.cut();
        let Cut { window: empty, .. } = recording.cut();
        recording.take(RawRecord::Sample(header(1)));
        let last = recording.finish();

        is_send(&first);
        assert_eq!(anonymous(&first), [(vec![1], 2), (vec![2], 1)]);
        assert_eq!(anonymous(&second), [(vec![2], 1)]);
        assert_eq!(anonymous(&empty), []);
        assert_eq!(anonymous(&last), [(vec![1], 1)]);
        let tallies = [&first, &second, &empty, &last].map(|window| (window.ledger.tally.samples, window.processes));
        assert_eq!(tallies, [(3, 1), (1, 1), (0, 0), (1, 1)]);
        assert_eq!((recording.samples(), recording.tally().lost_stacks), (5, 0));
    }

    #[test]
    fn names_of_threads_and_processes_are_whole_in_each_window() {
        let mut recording = Recording::new(Scope::All, true);
        let named = |name: &[u8], stack| {
            let mut header = header(stack);
            header.comm[..name.len()].copy_from_slice(name);
            header
        };
        let names = |window: &Window| -> Vec<String> {
            let samples = window.ledger.samples.keys();
            samples
                .map(|sampled| window.ledger.thread_name(sampled.thread).to_owned())
                .collect()
        };
        let comm = process::comm::of(Path::new("/proc"), std::process::id());
        for (name, other) in [("first", "second"), ("second", "third"), ("first", "third")] {
            recording.take(RawRecord::Stack(named(name.as_bytes(), 1), short(1)));
            recording.take(RawRecord::Stack(named(other.as_bytes(), 1), short(1)));
            let Cut { window, .. } = recording.cut();
            assert_eq!(names(&window), [name, other]);
            let (sampled, _) = window.ledger.samples.first().expect("two samples");
            assert_eq!(window.ledger.name(sampled.comm), comm);
        }
    }

    #[test]
    fn a_file_and_its_number_go_with_the_last_process_that_had_it_and_the_window_keeps_it() {
        let mut recording = Recording::new(Scope::All, true);
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("cat");
        let pid = child.id();
        // Its answer says that it runs: before, it may have mapped nothing yet.
        child.stdin.as_mut().expect("a pipe").write_all(b"x").expect("it reads");
        child
            .stdout
            .as_mut()
            .expect("a pipe")
            .read_exact(&mut [0])
            .expect("it answers");
        recording.adopt(pid);
        let files: Vec<_> = recording
            .files_of(pid)
            .map(|(id, file)| (id, file.path.clone()))
            .collect();
        let mapped = &recording.table.get(pid).expect("it lives").unwind_mappings()[0];
        let start = mapped.start;
        let header = SampleHeader {
            pid,
            tid: pid,
            ..header(1)
        };
        recording.take(RawRecord::Stack(header, short(start)));
        child.kill().expect("it lives");
        child.wait().expect("it lived");
        recording.apply(&SidebandEvent {
            time_ns: 2,
            kind: SidebandKind::Exit { pid, tid: pid },
        });
        let Cut {
            window, files: gone, ..
        } = recording.cut();
        let mut expected: Vec<FileId> = files.iter().map(|(id, _)| *id).collect();
        expected.sort_unstable_by_key(|id| id.index());
        expected.dedup();
        assert_eq!(gone, expected);
        let Some(Location::Native { file, .. }) = window.ledger.resolved.locations().next() else {
            panic!("a location in a file");
        };
        let path = &files.iter().find(|(id, _)| id == file).expect("one of its files").1;
        let held = window.file(*file);
        assert_eq!(&held.path, path);
        assert!(held.opened.as_ref().is_some_and(|opened| opened.map().is_ok()));
        assert_eq!(recording.files.iter().count(), 0);
    }

    #[test]
    fn what_was_unmapped_since_is_named_in_its_window_and_let_go() {
        let mut recording = Recording::new(Scope::All, true);
        let own = std::process::id();
        let file = std::fs::File::open("/bin/true").expect("a small program");
        // SAFETY: nobody reads it, and a program that is replaced is another file.
        let map = unsafe { memmap2::MmapOptions::new().map_exec(&file) }.expect("room for it");
        recording.adopt(own);
        let address = map.as_ptr() as u64;
        recording.take(RawRecord::Stack(header(1), short(address)));
        recording.table.get_mut(own).expect("this process").mapped = 1000;
        drop(map);
        let Cut { window, files, .. } = recording.cut();
        let Some(&Location::Native { file, .. }) = window.ledger.resolved.locations().next() else {
            panic!("a location in a file");
        };
        let path = &window.file(file).path;
        assert!(path.ends_with("true"), "{}", path.display());
        assert_eq!(files, [file]);
    }
}
