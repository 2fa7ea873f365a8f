//! What was counted between two cuts, as a value: another thread can name it and write it while the recording goes on.
//!
//! A window has everything that names need, and nothing that changes: what lives on in the recording (processes, raw
//! stacks, code objects) stays there, and is shared where a window met it. A recording that is never cut is one window.

use std::{mem, path::PathBuf, sync::Arc};

use indexmap::{IndexMap, IndexSet};
use profiler_common::{limits::COMM_BYTES, record::StackKey};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use crate::{
    decode::RawStack,
    humanize,
    process::{
        comm,
        files::{File, FileId, Files},
        pythons::{PythonIn, Used},
        table::{Process, Table},
        threads::ThreadId,
    },
    python::{codes::Codes, memory::ProcessMemory, thread_names},
    recording::NO_SITE,
    resolve::{Location, Resolved},
    slices::{Slices, Times},
    tally::Tally,
};

/// Stacks as the kernel side has sent them.
pub type RawStacks = IndexMap<StackKey, RawStack, FxBuildHasher>;

/// A process's threads are known over all windows if they are no more than these.
const FEW_THREADS: usize = 256;

/// What was counted, of whom, and what its names need.
#[derive(Debug, Default)]
pub struct Window {
    pub ledger: Ledger,
    /// The files whose code was met.
    files: FxHashMap<FileId, Arc<File>>,
    none: File,
    /// Of those, the ones that could not be opened.
    pub unopened: Vec<PathBuf>,
    /// Processes that samples were taken of.
    pub processes: usize,
    /// Interpreters that are refused, and how many processes run each.
    pub refused: Vec<(String, usize)>,
    /// CPythons that are not walked, because their processes have another one: the path, the processes, and whether it is
    /// known of one of them that it has run there.
    pub other_pythons: Vec<(PathBuf, Vec<u32>, Used)>,
    /// Why generated code has no names.
    pub refused_maps: Vec<String>,
}

impl Window {
    /// Of what `ledger` has met.
    pub fn new(ledger: Ledger, known: &Files) -> Self {
        let mut files: FxHashMap<FileId, Arc<File>> = FxHashMap::default();
        for location in ledger.resolved.locations() {
            if let Location::Native { file, .. } = *location
                && !files.contains_key(&file)
                && let Some(shared) = known.share(file)
            {
                files.insert(file, shared);
            }
        }
        let unopened = files.values().filter(|file| file.opened.is_none());
        let mut unopened: Vec<PathBuf> = unopened.map(|file| file.path.clone()).collect();
        unopened.sort_unstable();
        Self {
            ledger,
            files,
            unopened,
            ..Self::default()
        }
    }

    /// The files that were met.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &Arc<File>)> {
        self.files.iter().map(|(&id, file)| (id, file))
    }

    /// Takes in a file of an earlier window.
    pub fn take_back_file(&mut self, file: &Arc<File>) -> FileId {
        let id = FileId::of_window(self.files.len() as u32);
        self.files.insert(id, Arc::clone(file));
        id
    }

    /// A file that was met; one of which nothing is known if it was not.
    pub fn file(&self, id: FileId) -> &File {
        self.files.get(&id).map_or(&self.none, |file| file)
    }

    /// Says which CPythons are not walked, because their processes have another one. `what`: what is missing of them.
    pub fn other_pythons(&self, what: &str) -> impl Iterator<Item = String> {
        self.other_pythons.iter().map(move |(path, pids, used)| {
            let whose = match pids[..] {
                [pid] => format!("process {pid} has"),
                _ => format!("{} processes have", humanize::count(pids.len() as u64)),
            };
            let if_used = if *used == Used::Yes { "" } else { "if it runs, " };
            format!("{whose} a second CPython, {}: {if_used}{what}", path.display())
        })
    }

    /// Interpreters that are refused, and how many processes run each.
    pub fn refused(&self) -> impl Iterator<Item = (&str, usize)> {
        self.refused.iter().map(|(reason, processes)| (&**reason, *processes))
    }
}

/// What resolving has produced: a stack of whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sampled {
    /// Index into the resolved stacks.
    pub stack: u32,
    pub pid: u32,
    pub tid: u32,
    /// To be looked up with [`Ledger::name`].
    pub comm: u32,
    /// What the process runs.
    pub command: u32,
    /// To be looked up with [`Ledger::thread_name`].
    pub thread: ThreadId,
    /// Empty if there is none.
    pub cgroup: u32,
    pub container: u32,
}

/// How often a stack of a thread was met, and when.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    pub count: u64,
    pub slices: Slices,
}

/// What has been met, and how often.
#[derive(Debug, Default)]
pub struct Ledger {
    pub codes: Codes,
    names: IndexSet<Box<str>, FxBuildHasher>,
    /// What threads are called, by [`ThreadId`].
    threads: Vec<ThreadName>,
    pub resolved: Resolved,
    pub samples: IndexMap<Sampled, u64, FxBuildHasher>,
    /// When those were, if somebody wants to know.
    pub times: Times,
    /// Stacks that got memory, by [`SiteId`](crate::memory::event::SiteId), once they are resolved.
    pub sites: Vec<Option<Sampled>>,
    pub tally: Tally,
}

/// What a thread is called; both to be looked up with [`Ledger::name`].
#[derive(Clone, Copy, Debug)]
struct ThreadName {
    kernel: u32,
    /// What the program calls it, if it does and that could be read.
    program: Option<u32>,
}

impl Ledger {
    /// A name by its index in [`Sampled`].
    pub fn name(&self, index: u32) -> &str {
        &self.names[index as usize]
    }

    /// What a thread is called: by its program, else by the kernel.
    pub fn thread_name(&self, thread: ThreadId) -> &str {
        let ThreadName { kernel, program } = self.threads[thread as usize];
        self.name(program.unwrap_or(kernel))
    }

    /// The number of a name, for [`Sampled`].
    pub fn take_back_name(&mut self, name: &str) -> u32 {
        intern(&mut self.names, name)
    }

    /// The number of a thread that was called this in an earlier window.
    pub fn take_back_thread(&mut self, name: &str) -> ThreadId {
        let kernel = self.take_back_name(name);
        self.threads.push(ThreadName { kernel, program: None });
        self.threads.len() as ThreadId - 1
    }

    /// The number of a thread that was not met before. `name`: what its program calls it, if that is known.
    pub fn meet_thread(&mut self, comm: &[u8; COMM_BYTES], name: Option<&str>) -> ThreadId {
        let kernel = intern(&mut self.names, &comm::shown(comm));
        let program = name.map(|name| intern(&mut self.names, name));
        self.threads.push(ThreadName { kernel, program });
        // Each takes up memory: there are never four billion.
        self.threads.len() as ThreadId - 1
    }

    /// Reads what a process calls its threads. Returns whether it knew all that were met.
    pub fn name_threads(&mut self, process: &mut Process) -> bool {
        let Some(source) = process.python.as_ref().and_then(PythonIn::thread_names) else {
            return false;
        };
        let threads = process.threads.inside(process.pid);
        let Some(python) = &process.python else { return false };
        let memory = ProcessMemory { pid: process.pid };
        let all = source.read(&memory, &python.facts, &|_| true);
        let knew_all = threads.keys().all(|tid| all.contains_key(tid));
        let names: Vec<(u32, Box<str>)> = thread_names::chosen(all)
            .into_iter()
            .map(|(tid, name)| (tid, comm::clean(&name).into()))
            .collect();
        for (tid, name) in names.iter().filter(|(tid, _)| threads.contains_key(tid)) {
            let name = intern(&mut self.names, name);
            for &thread in threads.get(tid).into_iter().flatten() {
                if let Some(thread) = self.threads.get_mut(thread as usize) {
                    thread.program = Some(name);
                }
            }
        }
        process.threads.foresee(names.into_iter());
        knew_all
    }

    /// Resolves what was counted for `process`, with what is known of it now.
    pub fn seal(&mut self, process: &mut Process, raw: &RawStacks) {
        let counts = mem::take(&mut process.counts);
        let sites = mem::take(&mut process.sites);
        if counts.is_empty() && sites.is_empty() {
            return;
        }
        let comm = intern(&mut self.names, &process.comm);
        let command = intern(&mut self.names, &process.command());
        let cgroup = process.cgroup();
        let container = cgroup
            .and_then(|cgroup| cgroup.container.as_deref())
            .unwrap_or_default();
        let container = intern(&mut self.names, container);
        let cgroup = intern(&mut self.names, cgroup.map_or("", |cgroup| &cgroup.path));
        self.tally.perf_maps_cut += u64::from(process.refresh_perf_map());
        let mut outcomes = FxHashMap::default();
        let mut others = 0;
        // In order, so that equal recordings give equal files.
        let mut counts: Vec<_> = (counts.into_iter())
            .map(|(key, counted)| (key, counted, NO_SITE))
            .collect();
        counts.extend(sites.into_iter().map(|(key, site)| (key, Counted::default(), site)));
        counts.sort_unstable_by_key(|&(key, _, site)| (key, site));
        for ((stack, tid, thread), Counted { count, slices }, site) in counts {
            let outcome = *outcomes
                .entry(stack)
                .or_insert_with(|| self.resolved.resolve(process, &self.codes, &raw[stack as usize]));
            if outcome.unknown_codes > 0 {
                self.tally.unknown_functions += count;
            }
            if outcome.not_interleaved {
                self.tally.not_interleaved += count;
                self.tally.compiled += if outcome.compiled { count } else { 0 };
            }
            if outcome.greenlet {
                self.tally.whole_after_all(&raw[stack as usize], count);
            }
            if outcome.unseen {
                self.tally.unseen(&raw[stack as usize], count);
            }
            others |= outcome.other_pythons;
            let sampled = Sampled {
                stack: outcome.stack,
                pid: process.pid,
                tid,
                comm,
                command,
                thread,
                cgroup,
                container,
            };
            if let Some(resolved) = self.sites.get_mut(site as usize) {
                *resolved = Some(sampled);
            } else {
                let sample = self.samples.entry(sampled);
                self.times.append(sample.index(), slices);
                *sample.or_default() += count;
            }
        }
        for (other, number) in process.other_pythons.iter_mut().zip(0..) {
            if others >> number & 1 != 0 {
                other.used = Used::Yes;
            }
        }
    }

    /// Takes out what was counted. What is counted from now on begins with nothing but what lives on: the code objects that
    /// processes have, and what their threads are called.
    pub fn cut(&mut self, table: &mut Table) -> Self {
        let mut before = mem::take(self);
        self.codes = mem::take(&mut before.codes);
        before.codes = self
            .codes
            .some(before.resolved.locations().filter_map(|location| match *location {
                Location::Python { code, .. } => Some(code),
                _ => None,
            }));
        let met: FxHashSet<ThreadId> = before.samples.keys().map(|sampled| sampled.thread).collect();
        for process in table.iter_mut() {
            // Of one with many (or one that renames its own for each request) those that slept are met anew.
            let few = process.threads.count() <= FEW_THREADS;
            process.threads.renumber(|thread| {
                let &ThreadName { kernel, program } = before.threads.get(thread as usize)?;
                (few || met.contains(&thread)).then(|| {
                    let mut again = |name| intern(&mut self.names, before.name(name));
                    self.threads.push(ThreadName {
                        kernel: again(kernel),
                        program: program.map(again),
                    });
                    self.threads.len() as ThreadId - 1
                })
            });
        }
        before
    }
}

fn intern(names: &mut IndexSet<Box<str>, FxBuildHasher>, name: &str) -> u32 {
    match names.get_index_of(name) {
        Some(index) => index as u32,
        None => names.insert_full(name.into()).0 as u32,
    }
}
