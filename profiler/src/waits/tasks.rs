//! Which task of asyncio an event loop runs that is away from polling: read from outside while it is, for nothing that is
//! left afterwards says it.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::{stuck, threads};
use crate::{
    foreign,
    process::{files::File, pythons::PythonIn},
    python::{
        memory::{ProcessMemory, ReadMemory as _},
        object::{ObjectLayout, Objects},
        tasks::{self, AsyncioDebug, RunningTask, TaskLayout, TaskReader, ThreadOfTasks},
        value::{Limits, Values},
    },
    recording::Recording,
    report::path,
};

/// Reads for one look, the first at a process among them, which goes through all of its modules.
const MOST_READS: u32 = 50_000;
/// What was looked for in vain is looked for again: asyncio may be imported late.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Threads, and interpreters, that are remembered.
const MOST_KNOWN: usize = 4096;
/// Nobody's thread state is longer (3.13: 312 bytes).
const MOST_THREAD_BYTES: u64 = 1 << 16;

/// What was found out of processes, by the number of the program that runs in each (`PythonProcess::instance`).
#[derive(Debug, Default)]
pub struct RunningTasks {
    threads: FxHashMap<(u32, u32), ThreadOfTasks>,
    layouts: FxHashMap<u32, Found<TaskLayout>>,
    /// The dict of running tasks of an interpreter.
    dicts: FxHashMap<(u32, u64), Found<u64>>,
}

/// Something that stays as it is once it is there.
#[derive(Debug)]
struct Found<T> {
    value: Option<T>,
    looked: Instant,
}

fn found<K: std::hash::Hash + Eq, T: Copy>(
    known: &mut FxHashMap<K, Found<T>>,
    key: K,
    find: impl FnOnce() -> Option<T>,
) -> Option<T> {
    if let Some(found) = known.get(&key)
        && (found.value.is_some() || found.looked.elapsed() < AGAIN_AFTER)
    {
        return found.value;
    }
    if known.len() >= MOST_KNOWN {
        known.clear();
    }
    let (value, looked) = (find(), Instant::now());
    known.insert(key, Found { value, looked });
    value
}

impl RunningTasks {
    /// The task that this thread runs; nothing if it runs none, and where that cannot be known.
    pub fn look(&mut self, recording: &Recording, pid: u32, tid: u32) -> Option<RunningTask> {
        let (python, file) = recording.python(pid)?;
        let (version, instance) = (python.binary.version, python.facts.instance);
        let layout = found(&mut self.layouts, instance, || {
            let debug = match version.minor {
                14.. => {
                    let mapped = recording.files_of(pid).map(|(_, file)| file);
                    Some(section(mapped.chain([file]))?)
                }
                _ => None,
            };
            TaskLayout::of(version, debug)
        })?;
        let memory = ProcessMemory { pid };
        let thread = self.thread(python, memory, pid, tid)?;
        let objects = Objects::new(
            &memory,
            &python.facts,
            ObjectLayout::of(version, python.is_free_threaded())?,
            MOST_READS,
        );
        let values = Values::new(&objects, version, Limits::SHORT, true);
        let reader = TaskReader {
            objects: &objects,
            values: &values,
            layout,
        };
        let dict = match version.minor {
            14.. => None,
            _ => found(&mut self.dicts, (instance, thread.interpreter), || {
                reader.current_tasks(thread.interpreter, python.binary.layout.interpreter.modules.into())
            }),
        };
        let runtime = python.binary.runtime.wrapping_add(python.bias);
        let thread_bytes = tasks::thread_bytes_at(version)
            .and_then(|at| memory.read_u64(runtime.wrapping_add(at)))
            .filter(|&bytes| bytes < MOST_THREAD_BYTES);
        reader.running(thread, dict, thread_bytes)
    }

    /// The state of a thread. It may have got another one since it was looked up: what is there says whose it is.
    fn thread(&mut self, python: &PythonIn, memory: ProcessMemory, pid: u32, tid: u32) -> Option<ThreadOfTasks> {
        let inside = threads::number_inside(pid, tid);
        let key = (python.facts.instance, tid);
        if let Some(&thread) = self.threads.get(&key)
            && stuck::tid_of(python, memory, thread.state) == Some(inside)
        {
            return Some(thread);
        }
        let states = stuck::thread_states(python, memory);
        let state = states.into_iter().find(|state| state.tid == inside)?;
        let thread = ThreadOfTasks {
            state: state.address,
            interpreter: state.interpreter,
        };
        if self.threads.len() >= MOST_KNOWN {
            self.threads.clear();
        }
        self.threads.insert(key, thread);
        Some(thread)
    }
}

/// What `_asyncio` says of itself, in a file of its own, or, where it is built in, in the interpreter's.
fn section<'a>(files: impl Iterator<Item = &'a File>) -> Option<AsyncioDebug> {
    let may_have_it = |file: &&File| {
        let name = file.path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with("_asyncio."))
            || path::is_interpreter(&file.path.to_string_lossy())
            || file.cpython().is_some()
    };
    files.filter(may_have_it).find_map(|file| {
        let map = file.opened.as_ref()?.map().ok()?;
        foreign::parsed(|| tasks::section(&map))?
    })
}
