//! `profiler dump`: what the threads of a process are doing, by one long look from outside.
//!
//! A *reading*: no eBPF, no events, no recording. Memory is read with `process_vm_readv`, the rest is what /proc says.
//!
//! ```text
//! options ─▶ process ─▶ thread (states, chain, frame, look ─▶ state, since, locals) ─▶ Snapshot ─▶ text | json
//!                         └────────────── over bounded memory ──────────────┘
//! ```
//!
//! | module | does |
//! |---|---|
//! | [`options`] | what was typed, as it is meant |
//! | [`process`] | may it be looked at; which CPython is in it |
//! | [`states`] | the interpreter's thread states, and which native thread each is of |
//! | [`chain`] | a thread's frames as addresses, by the walker that the kernel side has |
//! | [`place`], [`instant`] | how a thread that runs is read: from its own CPU, or at one instant |
//! | [`frame`] | the same with names and lines |
//! | [`look`], [`state`], [`descriptor`] | what /proc says of a thread; as it is told; what lies behind a descriptor |
//! | [`mapped`] | what it has mapped, and the files of that |
//! | [`core`] | a process that has died, by its core file |
//! | [`since`] | how long a thread waits, by the scheduler's clock |
//! | [`thread`] | all of it, of one moment |
//! | [`locals`] | local variables |
//! | [`native`], [`sampled`] | native frames; with which registers and stack a thread that runs left its CPU |
//! | [`tasks`] | asyncio's tasks |
//! | [`repeat`] | what has not changed between several looks |
//! | [`bounded`] | the end of everybody's patience |
//! | [`text`], [`json`] | how it is written |

pub mod bounded;
pub mod chain;
pub mod core;
pub mod descriptor;
pub mod frame;
pub mod instant;
pub mod json;
pub mod locals;
pub mod look;
pub mod mapped;
pub mod native;
pub mod options;
pub mod place;
pub mod process;
pub mod repeat;
pub mod sampled;
pub mod since;
pub mod state;
pub mod states;
pub mod tasks;
pub mod text;
pub mod thread;

use std::{
    io::{self, BufWriter, Write},
    mem,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

pub use self::options::Options;
use self::{
    bounded::Bounded,
    frame::{Codes, Frame},
    mapped::Mapped,
    options::Target,
    process::{Found, Search},
    since::Clocks,
    states::Numbers,
    tasks::{NoTasks, Tasks},
    thread::Thread,
};
use crate::{
    exit,
    process::{comm, command, files::Files, peers::Peers, table::is_greenlet_module},
    python::{
        memory::{Paged, ProcessMemory},
        version::Version,
    },
    rights, shown,
    symbolize::Symbolizer,
    truncated,
    waits::threads,
};

/// A process that was named runs no CPython that is known.
pub const NO_PYTHON: u8 = 3;

/// A process, as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub pid: u32,
    /// What it runs, in a few words.
    pub command: String,
    pub python: Option<Version>,
    /// Why there are no Python frames.
    pub without: Option<String>,
    /// By their numbers.
    pub threads: Vec<Thread>,
    /// `None` if they were not asked for.
    pub tasks: Option<Result<Tasks, NoTasks>>,
    /// It has loaded `greenlet`: frames of greenlets that are switched out are in no thread.
    pub has_greenlets: bool,
    /// It took too long, or too much: something is missing.
    pub is_cut: bool,
}

/// Looks, and writes; returns the program's exit status.
pub fn run(options: &Options) -> Result<u8> {
    truncated::survive().context("failed to prepare for files that shrink while they are read")?;
    rights::give_up().context("failed to give up capabilities")?;
    let mut looker = Looker::default();
    let mut found = looker.look(options)?;
    for look in 1..options.repeat.map_or(1, |repeat| repeat.times) {
        std::thread::sleep(options.repeat.map_or(Duration::ZERO, |repeat| repeat.interval));
        let next = looker.look(options)?;
        let before = mem::replace(&mut found, next);
        repeat::mark(&mut found.snapshots, &before.snapshots, look == 1);
    }
    for error in &found.errors {
        tell(&format!("error: {error:#}"));
    }
    if options.target == Target::All && found.snapshots.is_empty() {
        tell("no process of this machine is a CPython that can be read");
    }
    let status = match (&found.errors[..], found.lacks_python) {
        ([], false) => exit::SUCCESS,
        ([], true) => NO_PYTHON,
        _ => exit::FAILURE,
    };
    if found.snapshots.is_empty() && !found.errors.is_empty() {
        return Ok(status);
    }
    match write(options, &found.snapshots) {
        // A reader that leaves early has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(status),
        written => written.context("failed to write").map(|()| status),
    }
}

/// What one look came to.
#[derive(Default)]
struct Look {
    snapshots: Vec<Snapshot>,
    /// Of processes that were named and cannot be read.
    errors: Vec<anyhow::Error>,
    /// A process that was named runs no CPython that is known.
    lacks_python: bool,
}

fn write(options: &Options, snapshots: &[Snapshot]) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match options.json {
        true => json::write(options, snapshots, &mut out)?,
        false => text::write(options, snapshots, &mut out)?,
    }
    out.flush()
}

/// A line on standard error. Unlike `eprintln!` it does not panic when nobody reads.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{}", shown::lines(line));
}

fn add_locals(locals: Option<&locals::Reader<'_>>, frames: &mut [Frame]) {
    if let Some(locals) = locals {
        let mut texts = locals::Texts::default();
        for frame in frames {
            frame.locals = Some(locals.read(frame.link.frame.code, frame.link.address, &mut texts));
        }
    }
}

/// What is used for several processes: files that they share, the clocks of the CPUs.
#[derive(Default)]
struct Looker {
    files: Files,
    clocks: Clocks,
    symbolizer: Option<Symbolizer>,
    peers: Peers,
}

impl Looker {
    fn look(&mut self, options: &Options) -> Result<Look> {
        let mut look = Look::default();
        // They are of now.
        self.peers = Peers::default();
        match &options.target {
            Target::Processes { pids, subprocesses } => {
                for pid in process::family(pids, *subprocesses)? {
                    let is_named = pids.contains(&pid);
                    match self.process(options, pid, Search::Thorough) {
                        // What a process has started comes and goes, and need not be a Python.
                        Err(_) if !is_named => {}
                        Ok(snapshot) if snapshot.python.is_none() && !is_named => {}
                        Ok(snapshot) => {
                            look.lacks_python |= snapshot.python.is_none();
                            look.snapshots.push(snapshot);
                        }
                        Err(error) => look.errors.push(error),
                    }
                }
            }
            Target::All => {
                for pid in process::all()? {
                    if let Ok(snapshot) = self.process(options, pid, Search::Likely)
                        && (snapshot.python.is_some() || snapshot.without.is_some())
                    {
                        look.snapshots.push(snapshot);
                    }
                }
            }
            Target::Core { file, executable } => {
                look.snapshots.push(self.core(options, file, executable.as_deref())?);
            }
        }
        Ok(look)
    }

    fn process(&mut self, options: &Options, pid: u32, search: Search) -> Result<Snapshot> {
        process::check(pid)?;
        let found = process::find(&mut self.files, pid, search);
        if matches!(found, Found::Nothing) && search == Search::Likely {
            anyhow::bail!("process {pid} is no Python");
        }
        let live = ProcessMemory { pid };
        let memory = Bounded::new(&live, bounded::MOST_TIME, bounded::MOST_BYTES);
        let (python, without) = match found {
            Found::Python(python) => (Some(python), None),
            Found::Refused(why) => (None, Some(why)),
            // Of a reading, files are looked into at once.
            Found::Nothing | Found::Later => (None, None),
        };
        let pages = Paged::new(&live);
        let objects = Bounded::new(&pages, bounded::MOST_TIME, bounded::MOST_BYTES);
        let locals = python
            .as_deref()
            .zip(options.locals)
            .and_then(|(python, wanted)| locals::Reader::new(python, &objects, wanted));
        let detail = |frames: &mut [Frame]| {
            pages.forget();
            add_locals(locals.as_ref(), frames);
        };
        let mut tids = threads::list(pid);
        tids.sort_unstable();
        let numbers = Numbers::of(pid, &tids);
        let states = python
            .as_deref()
            .map(|python| states::list(python, &memory, &numbers))
            .unwrap_or_default();
        let process = thread::Process {
            pid,
            memory: &memory,
            python: python.as_deref(),
            tids: &tids,
            states: &states,
            until: Instant::now() + bounded::MOST_TIME,
            samples: options.native,
            detail: &detail,
        };
        let mut codes = Codes::default();
        let mut threads = thread::all(&process, &mut codes, &mut self.clocks);
        if options.native {
            let symbolizer = self.symbolizer.get_or_insert_with(native::symbolizer);
            native::add(
                &mut threads,
                pid,
                &mut self.files,
                python.as_deref(),
                &memory,
                symbolizer,
            );
        }
        if threads.is_empty() {
            anyhow::bail!("process {pid} has ended meanwhile");
        }
        state::name_peers(threads.iter_mut().map(|thread| &mut thread.state), pid, &mut self.peers);
        let tasks = python.as_deref().filter(|_| options.tasks).map(|python| {
            let mapped = Mapped::of_process(pid);
            tasks::all(python, &memory, &mut self.files, &mapped, &states, &mut codes)
        });
        let comm = comm::of(Path::new("/proc"), pid);
        Ok(Snapshot {
            pid,
            command: command::of(pid).map_or_else(|| comm.clone(), |command| command.with_name(&comm)),
            python: python.map(|python| python.binary.version),
            without,
            threads,
            tasks,
            has_greenlets: process::has_greenlets(pid),
            is_cut: memory.is_spent() || objects.is_spent(),
        })
    }

    /// A process that has died.
    fn core(&mut self, options: &Options, file: &Path, executable: Option<&Path>) -> Result<Snapshot> {
        let mut core = core::Core::open(file)?;
        core.open_files(executable)?;
        let python = core.python(&mut self.files, executable)?;
        let mapped = Mapped::of_core(&core, executable);
        let memory = Bounded::new(&core, bounded::MOST_TIME, bounded::MOST_BYTES);
        let locals = options
            .locals
            .and_then(|wanted| locals::Reader::new(&python, &memory, wanted));
        let detail = |frames: &mut [Frame]| add_locals(locals.as_ref(), frames);
        let states = states::list(&python, &memory, &Numbers::default());
        let process = thread::Process {
            pid: 0,
            memory: &memory,
            python: Some(&python),
            tids: &[],
            states: &states,
            until: Instant::now(),
            samples: false,
            detail: &detail,
        };
        let mut codes = Codes::default();
        let looks: Vec<(u32, look::Look)> = core.threads.iter().map(|thread| (thread.tid, thread.look)).collect();
        let mut threads = thread::frozen(&process, &mut codes, &looks);
        if let (Some(dead), Some(thread)) = (core.threads.first(), threads.first_mut()) {
            thread.died_of = Some(dead.signal).filter(|&signal| signal != 0);
        }
        if options.native {
            native::add_frozen(&mut threads, &core, &mapped, &mut self.files, Some(&python), &memory);
        }
        let tasks = options
            .tasks
            .then(|| tasks::all(&python, &memory, &mut self.files, &mapped, &states, &mut codes));
        Ok(Snapshot {
            pid: core.pid,
            command: core.command.clone(),
            python: Some(python.binary.version),
            without: None,
            threads,
            tasks,
            has_greenlets: mapped.entries.iter().any(is_greenlet_module),
            is_cut: memory.is_spent(),
        })
    }
}
