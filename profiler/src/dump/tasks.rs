//! The tasks of asyncio as they are told: with names and lines, and who awaits whom.

use std::{ffi::OsStr, path::Path};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    chain::Link,
    frame::{Codes, Frame},
    mapped::Mapped,
    states::State,
};
use crate::{
    cost, foreign,
    process::{files::Files, maps::MapEntry, pythons::PythonIn},
    python::{
        memory::ReadMemory,
        object::{ObjectLayout, Objects},
        tasks::{self, AsyncioDebug, RawTask, TaskLayout, TaskReader, TaskState, ThreadOfTasks},
        value::{Limits, Values},
        variables::VariableLayout,
    },
    report::path,
};

/// Reads of objects for all tasks of a process. One takes some 100.
const MOST_READS: u32 = 3_000_000;
/// Cycles that are told.
const MOST_CYCLES: usize = 20;

/// The tasks of a process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tasks {
    pub tasks: Vec<Task>,
    /// Tasks that await each other in a circle, by their places in `tasks`: each awaits the next one, the last the first.
    pub cycles: Vec<Vec<usize>>,
}

/// A task.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub id: u64,
    pub name: Option<String>,
    pub state: TaskState,
    /// The thread whose loop it is in, if that is known.
    pub tid: Option<u32>,
    /// Its coroutine and what that awaits, innermost first.
    pub frames: Vec<Frame>,
    /// The type of what is awaited in the end.
    pub awaits: Option<String>,
    /// Of one that sleeps: how long it still does.
    pub left_ns: Option<u64>,
    /// Places of the tasks that await it.
    pub awaited_by: Vec<usize>,
}

/// Why there are none to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTasks {
    UnknownVersion,
    NoSection,
}

impl NoTasks {
    pub fn text(self) -> &'static str {
        match self {
            Self::UnknownVersion => "where this version keeps asyncio's tasks is not known",
            Self::NoSection => "its asyncio does not say where it keeps tasks (no section .AsyncioDebug)",
        }
    }
}

/// Reads the tasks of a process.
pub fn all(
    python: &PythonIn,
    memory: &dyn ReadMemory,
    files: &mut Files,
    mapped: &Mapped<'_>,
    states: &[State],
    codes: &mut Codes,
) -> Result<Tasks, NoTasks> {
    let version = python.binary.version;
    let debug = match version.minor {
        14.. => match debug_section(files, mapped) {
            Some(debug) => Some(debug),
            // `_asyncio` is a module of its own: where it is not loaded, there are none.
            None if is_unloaded(python, memory, states) => return Ok(Tasks::default()),
            None => return Err(NoTasks::NoSection),
        },
        _ => None,
    };
    let layout = TaskLayout::of(version, debug).ok_or(NoTasks::UnknownVersion)?;
    let object_layout = ObjectLayout::of(version, python.is_free_threaded()).ok_or(NoTasks::UnknownVersion)?;
    let objects = Objects::new(memory, &python.facts, object_layout, MOST_READS);
    let values = Values::new(&objects, version, Limits::SHORT, true);
    let reader = TaskReader {
        objects: &objects,
        values: &values,
        layout,
    };
    let threads: Vec<ThreadOfTasks> = states
        .iter()
        .map(|state| ThreadOfTasks {
            state: state.address,
            interpreter: state.interpreter,
        })
        .collect();
    let raw = reader.all(&threads, python.binary.layout.interpreter.modules.into());
    let runtime = python.binary.runtime.wrapping_add(python.bias);
    let teller = Teller {
        python,
        memory,
        objects: &objects,
        values: &values,
        variables: VariableLayout::of(version, memory, runtime),
        states,
        loops: loops(&objects, &raw, states),
    };
    let places: FxHashMap<u64, usize> = raw.iter().enumerate().map(|(at, task)| (task.address, at)).collect();
    let tasks: Vec<Task> = raw.iter().map(|task| teller.task(task, &places, codes)).collect();
    let cycles = cycles(&tasks);
    Ok(Tasks { tasks, cycles })
}

/// Whether the program has not imported asyncio.
fn is_unloaded(python: &PythonIn, memory: &dyn ReadMemory, states: &[State]) -> bool {
    let Some(layout) = ObjectLayout::of(python.binary.version, python.is_free_threaded()) else {
        return false;
    };
    let objects = Objects::new(memory, &python.facts, layout, 100_000);
    let modules = u64::from(python.binary.layout.interpreter.modules);
    let has_asyncio = |state: &State| {
        let modules = objects.word(state.interpreter, modules)?;
        objects.get(modules, "_asyncio")
    };
    states.iter().all(|state| has_asyncio(state).is_none())
}

/// What the section says in the file that has it: the module's, or, where that is built in, the interpreter's.
fn debug_section(files: &mut Files, mapped: &Mapped<'_>) -> Option<AsyncioDebug> {
    let is_module = |entry: &&MapEntry| {
        let name = entry.path().and_then(Path::file_name).map(OsStr::to_string_lossy);
        name.is_some_and(|name| name.starts_with("_asyncio."))
    };
    let is_interpreter = |entry: &&MapEntry| {
        let path = entry.path().map(Path::to_string_lossy);
        path.is_some_and(|path| path::is_interpreter(&path))
    };
    let code = || mapped.entries.iter().filter(|entry| entry.executable);
    // The program itself, whatever it is called, lies before all others.
    let candidates = code()
        .filter(is_module)
        .chain(code().filter(is_interpreter))
        .chain(code().next());
    for entry in candidates {
        let file = mapped.file(files, entry).map(|id| files.get(id));
        let map = file.and_then(|file| file.opened.as_ref()?.map().ok());
        if let Some(debug) = map.and_then(|map| foreign::parsed(|| tasks::section(&map))?) {
            return Some(debug);
        }
    }
    None
}

/// The threads of event loops, as asyncio's own say it (`_thread_id`); uvloop's do not.
fn loops(objects: &Objects<'_>, tasks: &[RawTask], states: &[State]) -> FxHashMap<u64, u32> {
    let known: FxHashSet<u64> = tasks.iter().map(|task| task.event_loop).filter(|&at| at != 0).collect();
    let thread = |event_loop: u64| {
        let attributes = objects.attributes(event_loop)?;
        let found = attributes
            .into_iter()
            .find(|entry| objects.is_text(entry.key, "_thread_id"))?;
        let ident = objects.int(found.value)?;
        states.iter().find(|state| state.ident == ident).map(|state| state.tid)
    };
    known
        .into_iter()
        .filter_map(|event_loop| Some((event_loop, thread(event_loop)?)))
        .collect()
}

struct Teller<'a> {
    python: &'a PythonIn,
    memory: &'a dyn ReadMemory,
    objects: &'a Objects<'a>,
    values: &'a Values<'a>,
    variables: Option<VariableLayout>,
    states: &'a [State],
    loops: FxHashMap<u64, u32>,
}

impl Teller<'_> {
    fn task(&self, raw: &RawTask, places: &FxHashMap<u64, usize>, codes: &mut Codes) -> Task {
        let frame = |frame: &tasks::CoroutineFrame| {
            let link = Link::beside(self.python, self.memory, frame.address, frame.code, frame.instruction);
            let mut told = codes.frame(self.python, self.memory, &link);
            // It has not begun: CPython says where its function does.
            told.line = told.line.or(Some(told.code.first_line()).filter(|&line| line > 0));
            told
        };
        let frames: Vec<Frame> = raw.chain.iter().rev().map(frame).collect();
        let of_list = raw
            .thread
            .and_then(|thread| self.states.iter().find(|state| state.address == thread));
        Task {
            id: raw.address,
            name: raw.name.clone(),
            state: raw.state,
            tid: of_list
                .map(|state| state.tid)
                .or_else(|| self.loops.get(&raw.event_loop).copied()),
            left_ns: match raw.state {
                TaskState::Waiting => frames.iter().find_map(|frame| self.sleep_left(frame)),
                _ => None,
            },
            frames,
            awaits: raw.awaited.and_then(|object| self.values.kind(object)),
            awaited_by: raw
                .awaited_by
                .iter()
                .filter_map(|parent| places.get(parent).copied())
                .collect(),
        }
    }

    /// How long `asyncio.sleep` still takes, by the handle of its timer. uvloop's handles say nothing.
    fn sleep_left(&self, frame: &Frame) -> Option<u64> {
        if &*frame.code.name != "sleep" || !frame.file().ends_with("/asyncio/tasks.py") {
            return None;
        }
        let (code, address) = (frame.link.frame.code, frame.link.address);
        let variables = self.variables?.read(self.objects, self.values, code, address)?;
        let handle = variables.into_iter().find(|variable| &*variable.name == "h")?;
        let when = self.values.number(self.values.slot(handle.value, "_when")?)?;
        let left = when - cost::monotonic_ns() as f64 / 1e9;
        (left.is_finite() && left < 1e9).then(|| (left.max(0.0) * 1e9) as u64)
    }
}

/// Tasks that wait for each other in a circle.
fn cycles(tasks: &[Task]) -> Vec<Vec<usize>> {
    // A task that is awaited by none is in no circle, and neither is one that awaits none; take those away, and again.
    let mut is_left = vec![true; tasks.len()];
    let mut awaits: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    for (at, task) in tasks.iter().enumerate() {
        if matches!(task.state, TaskState::Done) {
            is_left[at] = false;
        }
        for &parent in &task.awaited_by {
            awaits[parent].push(at);
        }
    }
    let has = |is_left: &[bool], of: &[usize]| of.iter().any(|&other| is_left[other]);
    loop {
        let gone: Vec<usize> = (0..tasks.len())
            .filter(|&at| is_left[at] && !(has(&is_left, &tasks[at].awaited_by) && has(&is_left, &awaits[at])))
            .collect();
        if gone.is_empty() {
            break;
        }
        gone.into_iter().for_each(|at| is_left[at] = false);
    }
    let mut found: Vec<Vec<usize>> = Vec::new();
    let mut is_told = vec![false; tasks.len()];
    for start in 0..tasks.len() {
        if !is_left[start] || is_told[start] || found.len() >= MOST_CYCLES {
            continue;
        }
        let mut path: Vec<usize> = Vec::new();
        let mut next = Some(start);
        while let Some(at) = next {
            if let Some(first) = path.iter().position(|&before| before == at) {
                found.push(path[first..].to_vec());
                break;
            }
            if is_told[at] {
                break;
            }
            is_told[at] = true;
            path.push(at);
            next = awaits[at].iter().copied().find(|&other| is_left[other]);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tasks by who awaits each.
    fn tasks(awaited_by: &[&[usize]]) -> Vec<Task> {
        let task = |(id, awaited_by): (usize, &&[usize])| Task {
            id: id as u64,
            name: None,
            state: TaskState::Waiting,
            tid: None,
            frames: Vec::new(),
            awaits: None,
            left_ns: None,
            awaited_by: awaited_by.to_vec(),
        };
        awaited_by.iter().enumerate().map(task).collect()
    }

    #[test]
    fn tasks_that_await_each_other_are_found_and_those_that_only_wait_for_them_are_not() {
        // 0 awaits 1, which awaits 2, which awaits 1; 3 awaits itself; 4 awaits 5.
        let found = cycles(&tasks(&[&[], &[0, 2], &[1], &[3], &[], &[4]]));
        assert_eq!(found, [vec![1, 2], vec![3]]);
        assert!(cycles(&tasks(&[&[], &[0], &[1, 0]])).is_empty());
    }

    #[test]
    fn a_task_that_is_done_holds_nobody_up() {
        let mut circle = tasks(&[&[1], &[0]]);
        circle[1].state = TaskState::Done;
        assert!(cycles(&circle).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_told_is_a_circle(edges in prop::collection::vec(prop::collection::vec(0..30_usize, 0..4), 30..31)) {
            let edges: Vec<&[usize]> = edges.iter().map(Vec::as_slice).collect();
            let tasks = tasks(&edges);
            for cycle in cycles(&tasks) {
                for (one, next) in cycle.iter().zip(cycle.iter().cycle().skip(1)) {
                    prop_assert!(tasks[*next].awaited_by.contains(one), "{cycle:?}");
                }
            }
        }
    }
}
