//! The processes of a recording and what is known of each.

use std::{
    mem,
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use profiler_common::{
    python::{CodeKey, LAYOUT_ENTRY_FLAG, LAYOUT_HEAP_FRAMES},
    record::{PythonFrame, StackKey},
    unwind::{NO_FILE, UnwindMapping},
};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    memory::event::SiteId,
    process::{
        cgroup::Cgroup,
        comm,
        command::{self, Command},
        files::{FileId, Files, PythonFile},
        maps::{self, MapEntry, MapName},
        perf_map::{PerfMap, PerfMapError},
        pythons::{MOST_OTHERS, OtherPython, Part, PythonIn, Used},
        threads::Threads,
    },
    python::{binary::PythonBinary, c_library::Musl, codes::CodeId, memory::ProcessMemory},
    recording::SampleOf,
    unwind,
    window::Counted,
};

/// A code object in a process: where it is, and which of those that come to lie there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeAt {
    pub address: u64,
    /// As in [`PythonFrame`]; 0 is none.
    pub fingerprint: u64,
}

impl From<&PythonFrame> for CodeAt {
    fn from(frame: &PythonFrame) -> Self {
        Self {
            address: frame.code,
            fingerprint: frame.fingerprint,
        }
    }
}

/// One process, from its exec (or our first sight of it) to its next exec or its exit.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    /// Tells it apart from every other process of the recording, those with the same pid included. Never 0.
    pub instance: u32,
    /// Other numbers that the kernel side can know it by: its parent's until it is told better, and ours from before it
    /// told us its own ([`Table::rename`]). The last few; 0 is none.
    aliases: [u32; 3],
    /// When it was forked or exec'ed (CLOCK_MONOTONIC), if that was in the recording.
    pub began_ns: Option<u64>,
    /// Name of its main thread.
    pub comm: String,
    /// Where it was when it was first sampled, or where its parent was.
    cgroup: Option<Cgroup>,
    cgroup_is_own: bool,
    /// What it ran when it was first sampled, or what its parent did.
    command: Option<Command>,
    command_is_own: bool,
    /// When it was looked up first, and last.
    command_read: Option<(Instant, Instant)>,
    /// Executable mappings by address, none overlapping another.
    mappings: Vec<Mapping>,
    /// How many it has made since we looked which of them it still has: nobody tells us of those that go.
    pub mapped: u32,
    /// Names of the code it generates.
    perf_map: Option<PerfMap>,
    /// It is the one that was open in the parent at the fork.
    perf_map_is_inherited: bool,
    perf_map_is_cut: bool,
    /// Stacks that were met with generated code in them while there was no perf map.
    without_perf_map: u32,
    pub python: Option<PythonIn>,
    /// Further CPythons that it has mapped: their stacks are not walked.
    pub other_pythons: Vec<OtherPython>,
    /// The `greenlet` module (gevent, eventlet), if it has loaded it: below the first function of a greenlet a thread's
    /// native stack holds what belongs to others, or nobody.
    pub greenlets: Option<FileId>,
    /// Its C library, if that is musl.
    musl: Option<Musl>,
    /// Its code objects.
    codes: FxHashMap<CodeAt, CodeId>,
    /// Those that user space did not find there either.
    pub unreadable_codes: FxHashSet<CodeAt>,
    pub threads: Threads,
    /// Samples were taken of it.
    pub is_sampled: bool,
    /// Stacks that the kernel side has sent for it, and takes for known.
    pub stacks: Vec<StackKey>,
    /// What was counted since it was last resolved.
    pub counts: FxHashMap<SampleOf, Counted>,
    /// Who got memory since it was last resolved.
    pub sites: FxHashMap<SampleOf, SiteId>,
}

/// An executable mapping.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub range: Range<u64>,
    pub file: Option<FileId>,
    /// What to add to an address in memory to have one in the ELF file.
    to_file: u64,
    pub vdso: bool,
    /// It is of no ELF file: code in it was generated at run time.
    pub generated: bool,
}

impl Mapping {
    /// The virtual address in the ELF file of an address in memory.
    pub fn file_address(&self, address: u64) -> u64 {
        address.wrapping_add(self.to_file)
    }

    /// Whether the file lies there with this bias.
    pub(super) fn has_bias(&self, bias: u64) -> bool {
        self.to_file == bias.wrapping_neg()
    }
}

impl Process {
    fn new(pid: u32, instance: u32, comm: String) -> Self {
        Self {
            pid,
            instance,
            aliases: [0; 3],
            began_ns: None,
            comm,
            cgroup: None,
            cgroup_is_own: false,
            command: None,
            command_is_own: false,
            command_read: None,
            mappings: Vec::new(),
            mapped: 0,
            perf_map: None,
            perf_map_is_inherited: false,
            perf_map_is_cut: false,
            without_perf_map: 0,
            python: None,
            other_pythons: Vec::new(),
            greenlets: None,
            musl: None,
            codes: FxHashMap::default(),
            unreadable_codes: FxHashSet::default(),
            threads: Threads::default(),
            is_sampled: false,
            stacks: Vec::new(),
            counts: FxHashMap::default(),
            sites: FxHashMap::default(),
        }
    }

    /// Whether what the kernel side says is of this program: and not of the one that the process was before an exec.
    pub fn is_instance(&self, instance: u32) -> bool {
        instance == self.instance || instance != 0 && self.aliases.contains(&instance)
    }

    fn add_alias(&mut self, instance: u32) {
        self.aliases.rotate_right(1);
        self.aliases[0] = instance;
    }

    pub fn mapping(&self, address: u64) -> Option<&Mapping> {
        let after = self.mappings.partition_point(|mapping| mapping.range.start <= address);
        self.mappings[..after]
            .last()
            .filter(|mapping| mapping.range.contains(&address))
    }

    /// Its executable mappings, as the kernel side wants them.
    pub fn unwind_mappings(&self) -> Vec<UnwindMapping> {
        let mapping = |mapping: &Mapping| UnwindMapping {
            start: mapping.range.start,
            end: mapping.range.end,
            to_file: mapping.to_file,
            file: match mapping.file {
                Some(file) => unwind::file_index(file),
                None if mapping.vdso => unwind::VDSO,
                None => NO_FILE,
            },
            reserved: 0,
        };
        self.mappings.iter().map(mapping).collect()
    }

    /// Its cgroup, looked up when it is first asked for: when the process is sampled, so it lives or did until just now.
    pub fn cgroup(&mut self) -> Option<&Cgroup> {
        if !mem::replace(&mut self.cgroup_is_own, true)
            && let Some(cgroup) = Cgroup::of(self.pid)
        {
            self.cgroup = Some(cgroup);
        }
        self.cgroup.as_ref()
    }

    /// Looks up what it runs, when it is sampled for the first time, as the cgroup is; and `again` at the end: it may have
    /// changed since, as a worker's title does after the fork.
    pub fn look_at_command(&mut self, again: bool) {
        if (!mem::replace(&mut self.command_is_own, true) || again)
            && let Some(command) = command::of(self.pid)
        {
            let now = Instant::now();
            let first = self.command_read.map_or(now, |(first, _)| first);
            self.command_read = Some((first, now));
            self.command = Some(command);
        }
    }

    /// The same at the end of a window, of which there may be many: at each at first, and later once in ten seconds.
    pub fn look_at_command_now_and_then(&mut self) {
        const LONGEST: Duration = Duration::from_secs(10);
        let is_due = self.command_read.is_none_or(|(first, last)| {
            let known = last.duration_since(first) / 2;
            last.elapsed() >= known.min(LONGEST)
        });
        if is_due {
            self.look_at_command(true);
        }
    }

    /// What it runs, in a few words, and what it is called if that says more.
    pub fn command(&mut self) -> String {
        self.look_at_command(false);
        match &self.command {
            Some(command) => command.with_name(&self.comm),
            None => self.comm.clone(),
        }
    }

    /// Whether there can be a name for an address in its perf map only.
    pub fn is_generated(&self, address: u64) -> bool {
        self.mapping(address).is_none_or(|mapping| mapping.generated)
    }

    /// Opens its perf map when generated code is met in a new stack: while the process lives. Returns why a map is not
    /// believed.
    ///
    /// A program may begin to write it at any time, so a missing one is looked for again, after ever more stacks.
    pub fn look_for_perf_map(&mut self, native: &[u64]) -> Option<PerfMapError> {
        if self.perf_map.is_some() && !self.perf_map_is_inherited
            || !native.iter().any(|&address| self.is_generated(address))
        {
            return None;
        }
        self.without_perf_map = self.without_perf_map.saturating_add(1);
        if !self.without_perf_map.is_power_of_two() {
            return None;
        }
        match PerfMap::open(self.pid) {
            Ok(map) => {
                self.perf_map = Some(map);
                self.perf_map_is_inherited = false;
                None
            }
            Err(PerfMapError::None) => None,
            Err(error) => Some(error),
        }
    }

    /// Brings its perf map up to date. Returns whether this is the first time that names are missing because it is too
    /// large or cannot be read.
    pub fn refresh_perf_map(&mut self) -> bool {
        let Some(map) = &mut self.perf_map else { return false };
        let is_cut = map.refresh().is_err() || map.is_truncated();
        is_cut && !mem::replace(&mut self.perf_map_is_cut, true)
    }

    /// The name of generated code.
    pub fn generated_name(&self, address: u64) -> Option<&str> {
        self.perf_map.as_ref()?.find(address)
    }

    /// The files it has mapped as code.
    pub fn files(&self) -> impl Iterator<Item = FileId> {
        self.mappings.iter().filter_map(|mapping| mapping.file)
    }

    pub fn code(&self, at: CodeAt) -> Option<CodeId> {
        self.codes.get(&at).copied()
    }

    /// Code objects that are known, and where they are.
    pub fn codes(&self) -> impl Iterator<Item = (u64, CodeId)> {
        self.codes.iter().map(|(at, &code)| (at.address, code))
    }

    /// Its code objects, and what the kernel side has them under.
    pub fn code_keys(&self) -> impl Iterator<Item = (CodeAt, CodeKey)> {
        let key = |at: &CodeAt| CodeKey::identified(at.address, self.instance, (at.fingerprint >> 32) as u32);
        self.codes.keys().map(move |at| (*at, key(at)))
    }

    /// Forgets these code objects.
    pub fn let_go(&mut self, goes: impl Fn(&CodeAt) -> bool) {
        self.codes.retain(|at, _| !goes(at));
        self.unreadable_codes.clear();
        if self.codes.capacity() > 4 * self.codes.len().max(256) {
            self.codes.shrink_to_fit();
        }
    }

    /// Forgets all code objects but these.
    pub fn keep_codes(&mut self, kept: &FxHashSet<CodeAt>) {
        self.codes.retain(|at, _| kept.contains(at));
        self.codes.shrink_to_fit();
        self.unreadable_codes.clear();
    }

    pub fn set_code(&mut self, at: CodeAt, code: CodeId) {
        self.unreadable_codes.remove(&at);
        self.codes.insert(at, code);
    }

    /// Whether its CPython has an entry frame for each evaluation loop (3.12 on).
    pub fn marks_entry_frames(&self) -> bool {
        let by_frame = LAYOUT_HEAP_FRAMES | LAYOUT_ENTRY_FLAG;
        self.python
            .as_ref()
            .is_some_and(|python| python.facts.flags & by_frame == 0)
    }

    /// What code at an address in a file is to the interpreters of the process.
    pub fn part(&self, mapping: &Mapping, address: u64) -> Part {
        if let Some(python) = self.python.as_ref().filter(|python| python.is_in(mapping)) {
            return Part::of(&python.binary, address, Part::Loop);
        }
        let mut others = self.other_pythons.iter().zip(0..);
        match others.find(|(other, _)| other.python.is_in(mapping)) {
            Some((other, number)) => Part::of(&other.python.binary, address, Part::OtherLoop(number)),
            None => Part::Nothing,
        }
    }

    /// Forgets mappings that it does not have any more: `now` is what it has. Returns whether there were any.
    pub fn forget_unmapped(&mut self, now: &[MapEntry]) -> bool {
        self.mapped = 0;
        let before = self.mappings.len();
        let is_there = |range: &Range<u64>| {
            now.iter()
                .any(|entry| entry.executable && entry.start < range.end && range.start < entry.end)
        };
        // Of one that has just ended there is nothing to be read.
        if now.iter().any(|entry| entry.executable) {
            self.mappings.retain(|mapping| is_there(&mapping.range));
        }
        self.mappings.len() < before
    }

    /// Adds a mapping; what it covers of others is gone.
    fn map(&mut self, files: &mut Files, entry: &MapEntry) {
        if !entry.executable || entry.start >= entry.end {
            return;
        }
        let file = files.of_mapping(self.pid, entry);
        let bias = file.and_then(|id| files.get(id).headers.as_ref()?.load_bias(entry));
        if is_greenlet_module(entry) {
            self.greenlets = file;
        }
        let vdso = matches!(&entry.name, MapName::Special(name) if &**name == "[vdso]");
        let mapping = Mapping {
            range: entry.start..entry.end,
            file,
            // Without headers the offset in the file is the best there is.
            to_file: bias.map_or(entry.offset.wrapping_sub(entry.start), u64::wrapping_neg),
            vdso,
            generated: bias.is_none() && !vdso,
        };
        self.insert(mapping);
        self.mapped = self.mapped.saturating_add(1);
        if let Some(musl) = file.and_then(|id| files.get(id).musl()) {
            self.meet_musl(musl);
        }
        if let (Some(id), Some(bias)) = (file, bias)
            && let PythonFile::Yes(binary) = files.get(id).python()
        {
            self.meet_python(id, binary, bias);
        }
    }

    /// It is known now what is in a file. Returns whether it has that mapped.
    fn look_again(&mut self, files: &Files, id: FileId) -> bool {
        let of_it = |mapping: &&Mapping| mapping.file == Some(id);
        let biases: Vec<u64> = (self.mappings.iter().filter(of_it))
            .filter(|mapping| !mapping.generated)
            .map(|mapping| mapping.to_file.wrapping_neg())
            .collect();
        if let Some(musl) = files.get(id).musl()
            && !biases.is_empty()
        {
            self.meet_musl(musl);
        }
        if let PythonFile::Yes(binary) = files.get(id).python() {
            for &bias in &biases {
                self.meet_python(id, binary, bias);
            }
        }
        !biases.is_empty()
    }

    fn meet_python(&mut self, file: FileId, binary: &Arc<PythonBinary>, bias: u64) {
        let is_known = |python: &PythonIn| python.file == file && python.bias == bias;
        let mut known = self
            .python
            .iter()
            .chain(self.other_pythons.iter().map(|other| &other.python));
        if known.any(is_known) {
            return;
        }
        let mut python = PythonIn::new(file, binary, bias, self.instance);
        if let Some(musl) = self.musl {
            python.use_musl(musl);
        }
        if self.python.is_none() {
            self.python = Some(python);
        } else if self.other_pythons.len() < MOST_OTHERS {
            self.other_pythons.push(OtherPython::new(python));
        }
    }

    /// It is the program's loader as well, so that a program has it before it has a libpython. What was there before us is
    /// met by address.
    fn meet_musl(&mut self, musl: Musl) {
        self.musl = Some(musl);
        let others = self.other_pythons.iter_mut().map(|other| &mut other.python);
        for python in self.python.iter_mut().chain(others) {
            python.use_musl(musl);
        }
    }

    /// Of several CPythons that were there before us, which are met by address, the one to walk is one that runs.
    fn prefer_used_python(&mut self) {
        self.look_at_other_pythons();
        let memory = ProcessMemory { pid: self.pid };
        if let Some(python) = &mut self.python
            && let Some(other) = self.other_pythons.iter_mut().find(|other| other.used == Used::Yes)
            && python.is_in_use(&memory) == Some(false)
        {
            mem::swap(python, &mut other.python);
            other.used = Used::No;
        }
    }

    /// Finds out which of the CPythons that are not walked have run, while it lives.
    pub fn look_at_other_pythons(&mut self) {
        let memory = ProcessMemory { pid: self.pid };
        for other in &mut self.other_pythons {
            other.look(&memory);
        }
    }

    fn insert(&mut self, new: Mapping) {
        let Range { start, end } = new.range;
        let first = self.mappings.partition_point(|mapping| mapping.range.end <= start);
        let last = self.mappings.partition_point(|mapping| mapping.range.start < end);
        let mut kept = Vec::with_capacity(3);
        for old in &self.mappings[first..last] {
            if old.range.start < start {
                kept.push(Mapping {
                    range: old.range.start..start,
                    ..old.clone()
                });
            }
        }
        let last_old = self.mappings[first..last].last().cloned();
        kept.push(new);
        if let Some(old) = last_old
            && old.range.end > end
        {
            kept.push(Mapping {
                range: end..old.range.end,
                ..old
            });
        }
        self.mappings.splice(first..last, kept);
    }
}

/// `greenlet/_greenlet.cpython-312-x86_64-linux-gnu.so`; before greenlet 1.0 `greenlet.cpython-38-…so`.
pub fn is_greenlet_module(entry: &MapEntry) -> bool {
    let name = entry.path().and_then(|path| path.file_name()?.to_str());
    name.is_some_and(|name| name.starts_with("_greenlet.") || name.starts_with("greenlet."))
}

/// The processes that exist now, by pid.
#[derive(Debug, Default)]
pub struct Table {
    processes: FxHashMap<u32, Process>,
    last_instance: u32,
    /// Numbers are used again.
    wrapped: bool,
}

/// Those above are the kernel side's (`calls`).
const LAST_INSTANCE: u32 = (1 << 31) - 1;

impl Table {
    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&pid)
    }

    pub fn get_mut(&mut self, pid: u32) -> Option<&mut Process> {
        self.processes.get_mut(&pid)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.processes.values_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// A number that no process has. After two billion (three weeks of a thousand forks a second) they are used again.
    fn next_instance(&mut self) -> u32 {
        loop {
            self.wrapped |= self.last_instance >= LAST_INSTANCE;
            self.last_instance = self.last_instance % LAST_INSTANCE + 1;
            let next = self.last_instance;
            if !self.wrapped || !self.processes.values().any(|process| process.is_instance(next)) {
                return next;
            }
        }
    }

    /// Starts a process anew: after `exec`, or when it is seen for the first time. Returns what was there before.
    pub fn begin(&mut self, pid: u32, comm: String) -> Option<Process> {
        let instance = self.next_instance();
        let process = Process {
            // An exec does not change it.
            cgroup: self.processes.get(&pid).and_then(|before| before.cgroup.clone()),
            ..Process::new(pid, instance, comm)
        };
        self.processes.insert(pid, process)
    }

    /// A process that exists already: reads what /proc says of it.
    pub fn adopt(&mut self, files: &mut Files, pid: u32) -> Option<Process> {
        let before = self.begin(pid, comm::of(Path::new("/proc"), pid));
        // It may be gone by now, or be a kernel thread: then it has no mappings.
        let entries = maps::read(pid).map(|maps| maps.entries).unwrap_or_default();
        for entry in &entries {
            self.map(files, pid, entry);
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            process.prefer_used_python();
        }
        before
    }

    /// A new process, a copy of `parent`: it has the same mappings and the same code objects at the same addresses.
    pub fn fork(&mut self, parent: u32, pid: u32) -> Option<Process> {
        let instance = self.next_instance();
        let child = match self.processes.get(&parent) {
            Some(parent) => {
                let mut python = parent.python.clone();
                if let Some(python) = &mut python {
                    python.facts.instance = instance;
                }
                let perf_map = parent.perf_map.as_ref().and_then(|map| map.for_child().ok());
                let [last, before, _] = parent.aliases;
                Process {
                    aliases: [parent.instance, last, before],
                    cgroup: parent.cgroup.clone(),
                    command: parent.command.clone(),
                    perf_map_is_inherited: perf_map.is_some(),
                    perf_map,
                    mappings: parent.mappings.clone(),
                    python,
                    other_pythons: parent.other_pythons.clone(),
                    greenlets: parent.greenlets,
                    musl: parent.musl,
                    codes: parent.codes.clone(),
                    ..Process::new(pid, instance, parent.comm.clone())
                }
            }
            None => Process::new(pid, instance, String::new()),
        };
        self.processes.insert(pid, child)
    }

    /// The kernel side has given a process a number of its own.
    pub fn rename(&mut self, pid: u32, instance: u32) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.add_alias(process.instance);
            process.instance = instance;
            if let Some(python) = &mut process.python {
                python.facts.instance = instance;
            }
        }
    }

    pub fn map(&mut self, files: &mut Files, pid: u32, entry: &MapEntry) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.map(files, entry);
    }

    /// It is known now what is in a file. Returns the processes that have it mapped and had no CPython until now.
    pub fn look_again(&mut self, files: &Files, id: FileId) -> Vec<u32> {
        let mut pids = Vec::new();
        for process in self.processes.values_mut() {
            let had_python = process.python.is_some();
            if process.look_again(files, id) && !had_python {
                pids.push(process.pid);
            }
        }
        pids
    }

    pub fn remove(&mut self, pid: u32) -> Option<Process> {
        self.processes.remove(&pid)
    }

    /// Takes all processes out, for the end of the recording.
    pub fn take_all(&mut self) -> impl Iterator<Item = Process> {
        mem::take(&mut self.processes).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(range: Range<u64>) -> Mapping {
        Mapping {
            range,
            file: None,
            to_file: 0,
            vdso: false,
            generated: false,
        }
    }

    fn ranges(process: &Process) -> Vec<Range<u64>> {
        process.mappings.iter().map(|mapping| mapping.range.clone()).collect()
    }

    #[test]
    fn a_new_mapping_replaces_what_it_covers_and_nothing_else() {
        let mut process = Process::new(1, 1, String::new());
        process.insert(mapping(10..20));
        process.insert(mapping(30..40));
        process.insert(mapping(20..30));
        assert_eq!(ranges(&process), [10..20, 20..30, 30..40]);
        process.insert(mapping(15..35));
        assert_eq!(ranges(&process), [10..15, 15..35, 35..40]);
        process.insert(mapping(20..25));
        assert_eq!(ranges(&process), [10..15, 15..20, 20..25, 25..35, 35..40]);
        process.insert(mapping(0..100));
        assert_eq!(ranges(&process), std::iter::once(0..100).collect::<Vec<_>>());
        assert!(process.mapping(99).is_some());
        assert!(process.mapping(100).is_none());
    }

    #[test]
    fn what_a_process_has_unmapped_is_forgotten_once_somebody_looks() {
        let entry = |range: Range<u64>, executable| MapEntry {
            start: range.start,
            end: range.end,
            executable,
            offset: 0,
            device: (0, 0),
            inode: 0,
            name: MapName::Anonymous,
        };
        let mut process = Process::new(1, 1, String::new());
        for range in [10..20, 30..40, 50..60] {
            process.insert(mapping(range));
        }
        assert!(!process.forget_unmapped(&[]), "it has ended");
        assert!(process.forget_unmapped(&[entry(10..15, true), entry(30..40, false), entry(50..60, true)]));
        assert_eq!(ranges(&process), [10..20, 50..60]);
    }

    #[test]
    fn a_number_is_used_again_only_when_no_process_has_it() {
        let mut table = Table::default();
        for pid in 1..=3 {
            table.begin(pid, String::new());
        }
        table.last_instance = LAST_INSTANCE - 1;
        let number = |table: &Table, pid| table.get(pid).unwrap().instance;
        table.fork(2, 4);
        table.fork(2, 5);
        assert_eq!((number(&table, 4), number(&table, 5)), (LAST_INSTANCE, 4));
        table.remove(1);
        table.last_instance = LAST_INSTANCE;
        table.begin(6, String::new());
        table.begin(7, String::new());
        // 2 is what the kernel side may still know the children of the second by.
        assert_eq!((number(&table, 6), number(&table, 7)), (1, 5));
    }
}
