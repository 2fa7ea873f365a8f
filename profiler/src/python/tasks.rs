//! The tasks of asyncio, and the coroutines that they run, read from outside.
//!
//! Up to 3.13 `asyncio.tasks` has them in sets, from 3.14 on each thread state has a list, and `_asyncio` says in a section
//! of its own (`.AsyncioDebug`) where. Other offsets by DWARF and headers, compared with what live programs say of their
//! own tasks in 3.8.18 – 3.15.2, asyncio's and uvloop's (shared/field/objects.md §1).

mod running;

use std::collections::BTreeSet;

use self::running::RunningLoop;
pub use self::running::{RunningTask, thread_bytes_at};
use super::{object::Objects, value::Values, version::Version};

/// Lists in foreign memory can be circles, and programs have a hundred thousand tasks.
const MOST_TASKS: usize = 20_000;
const MOST_CHAIN: usize = 100;
const MOST_PARENTS: usize = 64;
/// How far futures are followed that are no tasks: `gather` in `shield` in `wait_for`.
const MOST_FUTURES: usize = 6;

/// `FutureObj` as far as it is the same in 3.8 – 3.15.
const LOOP: u64 = 16;
const CALLBACK: u64 = 24;
const CALLBACKS: u64 = 40;
/// The first field of a small object: what a weak reference, an iterator of a future or an `asend` is of.
const FIRST: u64 = 16;
/// `PyCFunctionObject.m_self`, `PyMethodObject.im_self`, `partialobject.args`.
const SECOND: u64 = 24;

/// Where a version has what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskLayout {
    state: u64,
    waiter: u64,
    coroutine: u64,
    name: u64,
    closure: u64,
    function_name: u64,
    generator: Generator,
    qualified_name: u64,
    running_loop: RunningLoop,
    /// From 3.14 on.
    lists: Option<AsyncioDebug>,
}

/// How a coroutine, or a generator, keeps its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generator {
    /// A frame object, with the top of its stack (3.8, 3.9) …
    StackTop,
    /// … or the depth of it (3.10).
    StackDepth,
    /// In itself.
    Inside { frame: u64, state: u64, minor: u8 },
}

/// What the section `.AsyncioDebug` says (`Modules/_asynciomodule.c`, 3.14 and 3.15: 13 words).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncioDebug {
    awaited_by: u64,
    awaited_by_is_set: u64,
    node: u64,
    interpreter_tasks: u64,
    running_task: u64,
    thread_tasks: u64,
}

impl AsyncioDebug {
    /// Reads the section's bytes; none if what it says cannot be.
    pub fn parse(section: &[u8]) -> Option<Self> {
        const WORDS: usize = 13;
        /// No field lies farther in, of whatever it is.
        const MOST: u64 = 1 << 20;
        let words: Vec<u64> = section
            .as_chunks()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .collect();
        let [
            _,
            _,
            awaited_by,
            _,
            awaited_by_is_set,
            _,
            node,
            _,
            interpreter_tasks,
            _,
            _,
            running_task,
            thread_tasks,
        ] = *words.first_chunk::<WORDS>()?;
        let debug = Self {
            awaited_by,
            awaited_by_is_set,
            node,
            interpreter_tasks,
            running_task,
            thread_tasks,
        };
        let all = [
            awaited_by,
            awaited_by_is_set,
            node,
            interpreter_tasks,
            running_task,
            thread_tasks,
        ];
        all.iter().all(|&offset| offset > 0 && offset < MOST).then_some(debug)
    }
}

impl TaskLayout {
    /// `debug`: what the section says, from 3.14 on. None of a version that nobody has looked at.
    pub fn of(version: Version, debug: Option<AsyncioDebug>) -> Option<Self> {
        let (3, minor) = version.series() else { return None };
        let (state, waiter, coroutine, name) = match minor {
            8 => (72, 104, 112, 120),
            9 => (80, 144, 152, 160),
            10 => (88, 152, 160, 168),
            11 | 12 => (88, 128, 136, 144),
            13 => (96, 112, 120, 128),
            14 | 15 => (104, 120, 128, 136),
            _ => return None,
        };
        Some(Self {
            state,
            waiter,
            coroutine,
            name,
            closure: if minor <= 9 { 48 } else { 72 },
            function_name: if minor <= 9 { 104 } else { 40 },
            generator: match minor {
                ..=9 => Generator::StackTop,
                10 => Generator::StackDepth,
                11 => Generator::Inside {
                    frame: 80,
                    state: 75,
                    minor,
                },
                _ => Generator::Inside {
                    frame: 72,
                    state: 67,
                    minor,
                },
            },
            qualified_name: running::qualified_name(minor),
            running_loop: RunningLoop::of(minor),
            lists: match minor {
                14.. => Some(debug?),
                _ => None,
            },
        })
    }
}

/// A thread state, as far as tasks are concerned.
#[derive(Clone, Copy, Debug)]
pub struct ThreadOfTasks {
    pub state: u64,
    pub interpreter: u64,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTask {
    pub address: u64,
    pub name: Option<String>,
    pub state: TaskState,
    /// The event loop.
    pub event_loop: u64,
    /// The thread state whose list it is in, from 3.14 on.
    pub thread: Option<u64>,
    /// Its coroutine's frame and those of what that awaits, outermost first; then what is awaited in the end.
    pub chain: Vec<CoroutineFrame>,
    pub awaited: Option<u64>,
    /// The tasks that await it.
    pub awaited_by: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    Running,
    /// It will run when the loop gets to it.
    Ready,
    Waiting,
    Done,
}

/// A frame of a coroutine, or of a generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoroutineFrame {
    pub address: u64,
    pub code: u64,
    /// As a thread's frame has it.
    pub instruction: u64,
}

/// Reads the tasks of one process.
pub struct TaskReader<'a> {
    pub objects: &'a Objects<'a>,
    pub values: &'a Values<'a>,
    pub layout: TaskLayout,
}

impl TaskReader<'_> {
    /// All tasks of these threads and the interpreters that they are in. `modules`: where an interpreter has them.
    pub fn all(&self, threads: &[ThreadOfTasks], modules: u64) -> Vec<RawTask> {
        let interpreters: BTreeSet<u64> = threads.iter().map(|thread| thread.interpreter).collect();
        let mut found: Vec<(u64, Option<u64>)> = Vec::new();
        let mut current: Vec<u64> = Vec::new();
        for interpreter in interpreters {
            if let Some(globals) = self.module(interpreter, modules, "asyncio.tasks") {
                let sets = ["_all_tasks", "_scheduled_tasks", "_eager_tasks"];
                for set in sets.iter().filter_map(|name| self.objects.get(globals, name)) {
                    found.extend(self.members(set).into_iter().map(|task| (task, None)));
                }
                let running = self.objects.get(globals, "_current_tasks");
                let running = running.and_then(|dict| self.objects.entries(dict)).unwrap_or_default();
                current.extend(running.into_iter().map(|entry| entry.value));
            }
            if let Some(lists) = self.layout.lists {
                let list = interpreter.wrapping_add(lists.interpreter_tasks);
                found.extend(self.list(list, lists.node).into_iter().map(|task| (task, None)));
            }
        }
        if let Some(lists) = self.layout.lists {
            for thread in threads {
                let list = thread.state.wrapping_add(lists.thread_tasks);
                let tasks = self.list(list, lists.node).into_iter();
                found.extend(tasks.map(|task| (task, Some(thread.state))));
                current.extend(self.word(thread.state, lists.running_task));
            }
        }
        // One that is in a list and in a set has its thread by the list.
        found.sort_by_key(|&(task, thread)| (task, thread.is_none()));
        found.dedup_by_key(|(task, _)| *task);
        found.truncate(MOST_TASKS);
        found
            .into_iter()
            .filter_map(|(address, thread)| self.task(address, thread, current.contains(&address)))
            .collect()
    }

    /// The globals of a module.
    fn module(&self, interpreter: u64, modules: u64, name: &str) -> Option<u64> {
        let modules = self.objects.word(interpreter, modules)?;
        self.objects.module_dict(self.objects.get(modules, name)?)
    }

    /// What is in a set, or in a `WeakSet` and alive.
    fn members(&self, set: u64) -> Vec<u64> {
        if self.kind(set).as_deref() == Some("set") {
            return self.values.members(set).unwrap_or_default();
        }
        let attributes = self.objects.attributes(set).unwrap_or_default();
        let data = attributes.iter().find(|entry| self.objects.is_text(entry.key, "data"));
        let references = data
            .and_then(|entry| self.values.members(entry.value))
            .unwrap_or_default();
        let alive = references
            .into_iter()
            .filter_map(|reference| self.field(reference, FIRST));
        alive
            .filter(|&object| self.kind(object).as_deref() != Some("NoneType"))
            .collect()
    }

    /// A circular list with its head in a thread's, or an interpreter's, state. Nodes move while it is read: then it is read
    /// again.
    fn list(&self, head: u64, node: u64) -> Vec<u64> {
        const ATTEMPTS: usize = 5;
        let mut longest = Vec::new();
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            let mut next = self.word(head, 0);
            while let Some(at) = next.filter(|&at| at != head)
                && found.len() < MOST_TASKS
            {
                found.push(at.wrapping_sub(node));
                next = self.word(at, 0);
            }
            if found.len() > longest.len() {
                longest = found;
            }
            if next == Some(head) {
                break;
            }
        }
        longest
    }

    /// One task; nothing if it is gone, or never was one. It is read again if it changed meanwhile.
    fn task(&self, address: u64, thread: Option<u64>, is_current: bool) -> Option<RawTask> {
        const ATTEMPTS: usize = 5;
        let plain = self.is_plain(address);
        let mut task = None;
        for _ in 0..ATTEMPTS {
            let before = self.fields(address, plain)?;
            let (chain, awaited, is_whole) = self.chain(before.coroutine);
            let state = match before {
                _ if is_current => TaskState::Running,
                Fields { is_done: true, .. } => TaskState::Done,
                Fields { waiter: Some(_), .. } => TaskState::Waiting,
                _ => TaskState::Ready,
            };
            task = Some(RawTask {
                address,
                name: self.task_name(before.name),
                state,
                event_loop: self.field(address, LOOP).filter(|_| !plain).unwrap_or(0),
                thread,
                chain,
                awaited: before.waiter.or(awaited),
                awaited_by: self.awaited_by(address, plain),
            });
            if is_whole && self.fields(address, plain).as_ref() == Some(&before) {
                break;
            }
        }
        task
    }

    /// Whether a task is asyncio's in Python (`_PyTask`), or inherits from that: its attributes are Python's.
    fn is_plain(&self, task: u64) -> bool {
        let attributes = self.objects.attributes(task).unwrap_or_default();
        attributes.iter().any(|entry| self.objects.is_text(entry.key, "_coro"))
    }

    fn fields(&self, task: u64, plain: bool) -> Option<Fields> {
        if plain {
            let attribute = |name: &str| {
                let attributes = self.objects.attributes(task)?;
                let found = attributes
                    .into_iter()
                    .find(|entry| self.objects.is_text(entry.key, name))?;
                Some(found.value).filter(|&value| self.kind(value).as_deref() != Some("NoneType"))
            };
            let state = attribute("_state").and_then(|state| self.objects.text(state, 20));
            return Some(Fields {
                is_done: state.is_some_and(|state| &*state != "PENDING"),
                waiter: attribute("_fut_waiter"),
                coroutine: attribute("_coro")?,
                name: attribute("_name")?,
            });
        }
        let TaskLayout {
            state,
            waiter,
            coroutine,
            name,
            ..
        } = self.layout;
        let state: [u8; 4] = self.objects.fixed(self.objects.behind(task, state)?)?;
        let state = i32::from_le_bytes(state);
        if !(0..=2).contains(&state) {
            return None;
        }
        Some(Fields {
            is_done: state != 0,
            waiter: self.field(task, waiter),
            coroutine: self.objects.field(task, coroutine)?,
            name: self.objects.field(task, name)?,
        })
    }

    /// A string, or, until somebody asks for it, a number (3.12 on).
    fn task_name(&self, name: u64) -> Option<String> {
        const MOST_CHARACTERS: u64 = 100;
        match self.objects.int(name) {
            Some(number) => Some(format!("Task-{number}")),
            None => self.objects.text(name, MOST_CHARACTERS).map(String::from),
        }
    }

    /// The frames of a coroutine and of what it awaits, and what is awaited in the end. Last, whether that can be: a chain
    /// that is read while the loop switches ends in anything.
    fn chain(&self, coroutine: u64) -> (Vec<CoroutineFrame>, Option<u64>, bool) {
        let mut frames = Vec::new();
        let mut next = Some(coroutine).filter(|&coroutine| coroutine != 0);
        while let Some(object) = next {
            if frames.len() >= MOST_CHAIN {
                return (frames, None, true);
            }
            let Some(kind) = self.kind(object) else {
                return (frames, None, false);
            };
            next = match &*kind {
                "coroutine" | "generator" | "async_generator" => {
                    let Some((frame, awaited)) = self.suspended(object) else {
                        return (frames, None, true);
                    };
                    frames.push(frame);
                    awaited
                }
                "async_generator_asend" | "async_generator_athrow" | "coroutine_wrapper" | "anext_awaitable" => {
                    self.field(object, FIRST)
                }
                "FutureIter" => return (frames, self.field(object, FIRST), true),
                // A bare `yield`: it goes on in the next round of the loop.
                "NoneType" => return (frames, None, true),
                _ => return (frames, Some(object), true),
            };
        }
        (frames, None, true)
    }

    /// The frame of a coroutine that has not ended, and what it awaits if it is suspended there.
    fn suspended(&self, generator: u64) -> Option<(CoroutineFrame, Option<u64>)> {
        /// `YIELD_FROM` (3.8 – 3.10).
        const YIELD_FROM: u8 = 72;
        /// `co_code`, and where a bytes object has its own.
        const CODE_BYTES: u64 = 48;
        const BYTES_DATA: u64 = 32;
        let process = self.objects.process();
        let opcode = |code: u64, at: i64| {
            let bytes = self.word(code, CODE_BYTES)?;
            let at = bytes.checked_add(BYTES_DATA)?.checked_add_signed(at)?;
            self.objects.fixed::<1>(at).map(|[byte]| byte)
        };
        let frame = match self.layout.generator {
            Generator::Inside { frame, .. } => self.objects.behind(generator, frame)?,
            _ => self
                .word(generator, FIRST)
                .filter(|&frame| self.kind(frame).as_deref() == Some("frame"))?,
        };
        let int = |offset: u64| self.objects.fixed(frame.checked_add(offset)?).map(i32::from_le_bytes);
        let code = self.objects.word(frame, process.frame_code.into())? & !3;
        let last = int(process.frame_instruction.into())?;
        let (instruction, awaited) = match self.layout.generator {
            Generator::StackTop => {
                let top = self.word(frame, 72);
                let awaits = last >= 0 && opcode(code, i64::from(last) + 2) == Some(YIELD_FROM);
                let awaited = top.filter(|_| awaits).and_then(|top| self.word(top.checked_sub(8)?, 0));
                (u64::from(last.cast_unsigned()), awaited)
            }
            Generator::StackDepth => {
                let depth = int(80)?;
                let awaits = depth > 0 && last >= 0 && opcode(code, 2 * (i64::from(last) + 1)) == Some(YIELD_FROM);
                let at = 8 * (i64::from(depth) - 1);
                let awaited = match awaits {
                    true => self
                        .word(frame, 64)
                        .and_then(|stack| self.word(stack.checked_add_signed(at)?, 0)),
                    false => None,
                };
                (u64::from(last.cast_unsigned()), awaited)
            }
            Generator::Inside { state, minor, .. } => {
                let instruction = self.objects.word(frame, process.frame_instruction.into())?;
                let [state]: [u8; 1] = self.objects.fixed(self.objects.behind(generator, state)?)?;
                let state = state.cast_signed();
                let has_ended = match minor {
                    15.. => state == 5,
                    _ => state > 0,
                };
                if has_ended {
                    return None;
                }
                (instruction, self.awaited_inside(frame, state, minor, instruction))
            }
        };
        let frame = CoroutineFrame {
            address: frame,
            code,
            instruction,
        };
        Some((frame, awaited.filter(|&object| object != 0)))
    }

    fn awaited_inside(&self, frame: u64, state: i8, minor: u8, instruction: u64) -> Option<u64> {
        /// `_PyInterpreterFrame.stacktop` (3.11 – 3.13) or `.stackpointer`, and `.localsplus` of the former.
        const STACK: u64 = 64;
        const VALUES: u64 = 72;
        match minor {
            // The argument of the RESUME that comes next says what it was suspended in: 2 is a `yield from`, 3 an await.
            11 | 12 => {
                let [argument]: [u8; 1] = self.objects.fixed(instruction.checked_add(3)?)?;
                if state != -1 || argument < 2 {
                    return None;
                }
            }
            13 | 14 if state != -1 => return None,
            15.. if !matches!(state, 2 | 3) => return None,
            _ => {}
        }
        match minor {
            ..=13 => {
                let top: [u8; 4] = self.objects.fixed(frame.checked_add(STACK)?)?;
                let top = i64::from(i32::from_le_bytes(top)) - 1;
                self.word(frame.checked_add(VALUES)?.checked_add_signed(8 * top)?, 0)
            }
            // From 3.15 on a NULL, with a tag, lies above it.
            _ => {
                let above = if minor >= 15 { 16 } else { 8 };
                let top = self.word(frame, STACK)?.checked_sub(above)?;
                self.word(top, 0).map(|object| object & !3)
            }
        }
    }

    /// The tasks that await a future, directly or by way of others: `gather`, `wait`, `shield`, a `TaskGroup`.
    fn awaited_by(&self, future: u64, plain: bool) -> Vec<u64> {
        let mut found = Vec::new();
        let mut open = vec![(future, 0)];
        let mut seen = vec![future];
        while let Some((future, distance)) = open.pop() {
            let plain = if distance == 0 {
                plain
            } else {
                self.is_plain_future(future)
            };
            let above = match self.layout.lists.filter(|_| !plain) {
                Some(lists) => self.awaited_by_list(future, &lists),
                None => self.called_back(future, plain),
            };
            for object in above {
                if seen.contains(&object) || found.len() >= MOST_PARENTS {
                    continue;
                }
                seen.push(object);
                if self.is_task(object) {
                    found.push(object);
                } else if distance < MOST_FUTURES && self.is_future(object) {
                    open.push((object, distance + 1));
                }
            }
        }
        found
    }

    /// What 3.14 and later keep for just this.
    fn awaited_by_list(&self, future: u64, lists: &AsyncioDebug) -> Vec<u64> {
        let Some(awaited_by) = self.word(future, lists.awaited_by) else {
            return Vec::new();
        };
        let is_set = future
            .checked_add(lists.awaited_by_is_set)
            .and_then(|at| self.objects.fixed::<1>(at))
            .is_some_and(|[flag]| flag != 0);
        match is_set {
            true => self.values.members(awaited_by).unwrap_or_default(),
            false => vec![awaited_by],
        }
    }

    /// Whom a future calls when it is done.
    fn called_back(&self, future: u64, plain: bool) -> Vec<u64> {
        let mut callbacks: Vec<u64> = Vec::new();
        let list = match plain {
            true => {
                let attributes = self.objects.attributes(future).unwrap_or_default();
                let found = attributes
                    .iter()
                    .find(|entry| self.objects.is_text(entry.key, "_callbacks"));
                found.map(|entry| entry.value)
            }
            false => {
                callbacks.extend(self.field(future, CALLBACK));
                self.field(future, CALLBACKS)
            }
        };
        let pairs = list.and_then(|list| self.values.list_items(list)).unwrap_or_default();
        callbacks.extend(
            pairs
                .iter()
                .filter_map(|&pair| self.values.items(pair)?.first().copied()),
        );
        callbacks.truncate(MOST_PARENTS);
        callbacks
            .into_iter()
            .flat_map(|callback| self.behind(callback))
            .collect()
    }

    /// The tasks and futures that a callback is of.
    fn behind(&self, callback: u64) -> Vec<u64> {
        let futures = |objects: Vec<u64>| objects.into_iter().filter(|&object| self.is_future(object)).collect();
        match self.kind(callback).as_deref() {
            Some("builtin_function_or_method") => futures(self.field(callback, SECOND).into_iter().collect()),
            Some("TaskStepMethWrapper" | "TaskWakeupMethWrapper") => self.field(callback, FIRST).into_iter().collect(),
            Some("partial") => {
                let arguments = self
                    .field(callback, SECOND)
                    .and_then(|arguments| self.values.items(arguments));
                futures(arguments.unwrap_or_default())
            }
            Some("method") => {
                let Some(owner) = self.field(callback, SECOND) else {
                    return Vec::new();
                };
                if self.is_future(owner) {
                    return vec![owner];
                }
                let attributes = self.objects.attributes(owner).unwrap_or_default();
                let found = attributes
                    .iter()
                    .find(|entry| self.objects.is_text(entry.key, "_parent_task"));
                futures(found.map(|entry| entry.value).into_iter().collect())
            }
            Some("function") => {
                let cells = self
                    .field(callback, self.layout.closure)
                    .and_then(|cells| self.values.items(cells));
                let cells = cells.unwrap_or_default().into_iter();
                futures(cells.filter_map(|cell| self.field(cell, FIRST)).collect())
            }
            _ => Vec::new(),
        }
    }

    fn is_future(&self, object: u64) -> bool {
        self.kinds(object)
            .iter()
            .any(|kind| matches!(&**kind, "Future" | "Task" | "_PyFuture" | "_PyTask"))
    }

    fn is_task(&self, object: u64) -> bool {
        self.kinds(object)
            .iter()
            .any(|kind| matches!(&**kind, "Task" | "_PyTask"))
    }

    fn is_plain_future(&self, future: u64) -> bool {
        let attributes = self.objects.attributes(future).unwrap_or_default();
        attributes
            .iter()
            .any(|entry| self.objects.is_text(entry.key, "_callbacks"))
    }

    /// The names of an object's class and of its bases.
    fn kinds(&self, object: u64) -> Vec<String> {
        self.values.bases(object)
    }

    fn kind(&self, object: u64) -> Option<String> {
        self.values.kind(object)
    }

    /// A word of an object that is not 0.
    fn field(&self, object: u64, offset: u64) -> Option<u64> {
        self.objects.field(object, offset).filter(|&word| word != 0)
    }

    /// A word that is not 0.
    fn word(&self, address: u64, offset: u64) -> Option<u64> {
        self.objects.word(address, offset).filter(|&word| word != 0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    is_done: bool,
    waiter: Option<u64>,
    coroutine: u64,
    name: u64,
}

/// The section of an ELF file in which `_asyncio` says where it keeps what.
pub fn section(elf: &[u8]) -> Option<AsyncioDebug> {
    use object::{Object as _, ObjectSection as _};
    let file = object::File::parse(elf).ok()?;
    AsyncioDebug::parse(file.section_by_name(".AsyncioDebug")?.data().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As 3.14.10 has it.
    const SECTION: [u64; 13] = [168, 136, 96, 108, 109, 128, 152, 11000, 10880, 1000, 864, 872, 880];

    #[test]
    fn the_section_says_where_tasks_are() {
        let bytes: Vec<u8> = SECTION.iter().flat_map(|word| word.to_le_bytes()).collect();
        let debug = AsyncioDebug::parse(&bytes).expect("a section");
        assert_eq!((debug.thread_tasks, debug.node, debug.running_task), (880, 152, 872));
        assert_eq!(AsyncioDebug::parse(&bytes[..96]), None);
        assert_eq!(AsyncioDebug::parse(&[0; 104]), None);
        let version = Version::parse("3.14.10").expect("a version");
        assert!(TaskLayout::of(version, Some(debug)).is_some());
        assert_eq!(TaskLayout::of(version, None), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            AsyncioDebug::parse(&bytes);
            section(&bytes);
        }
    }
}
