//! The task that a thread's event loop runs at this moment.
//!
//! From 3.14 on a thread's state says it. Before, `asyncio.tasks` has a dict of running tasks by loop, and which loop a
//! thread runs is in its state, or in the dict that this has. Positions by `offsetof` and DWARF, compared with what live
//! programs said, asyncio's and uvloop's (shared/field/objects.md §1.6).

use super::{TaskReader, ThreadOfTasks};
use crate::python::version::Version;

/// Where a thread's state says which loop it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunningLoop {
    /// The dict so far in has a holder of it (3.8 – 3.11) …
    Held { dict: u64 },
    /// … or the loop itself (3.12).
    InDict { dict: u64 },
    /// It lies behind all that is public of the state (3.13).
    Behind,
    /// The state has the task itself (3.14 on).
    NotNeeded,
}

impl RunningLoop {
    pub(super) fn of(minor: u8) -> Self {
        match minor {
            ..=10 => Self::Held { dict: 152 },
            11 => Self::Held { dict: 128 },
            12 => Self::InDict { dict: 112 },
            13 => Self::Behind,
            _ => Self::NotNeeded,
        }
    }
}

/// `gi_qualname`, which is `cr_qualname` of a coroutine.
pub(super) fn qualified_name(minor: u8) -> u64 {
    match minor {
        ..=9 => 56,
        10 => 48,
        11 => 40,
        _ => 32,
    }
}

/// Where `_Py_DebugOffsets` has the bytes of a thread's state, behind which 3.13 has the running loop.
pub fn thread_bytes_at(version: Version) -> Option<u64> {
    (version.series() == (3, 13)).then_some(152)
}

/// What a task is called, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RunningTask {
    /// `Task-7`, or what the program calls it.
    pub name: Option<String>,
    /// The function that it runs, as its class or module has it.
    pub coroutine: Option<String>,
}

impl TaskReader<'_> {
    /// The dict of running tasks of an interpreter, which stays where it is; not needed from 3.14 on. `modules`: where an
    /// interpreter has them.
    pub fn current_tasks(&self, interpreter: u64, modules: u64) -> Option<u64> {
        let globals = self.module(interpreter, modules, "asyncio.tasks")?;
        self.objects.get(globals, "_current_tasks")
    }

    /// The task that a thread runs; nothing if it runs none, or went on to another while it was read. `current_tasks`: the
    /// dict of its interpreter; `thread_bytes`: of its state ([`thread_bytes_at`]).
    pub fn running(
        &self,
        thread: ThreadOfTasks,
        current_tasks: Option<u64>,
        thread_bytes: Option<u64>,
    ) -> Option<RunningTask> {
        let task = self.running_task(thread, current_tasks, thread_bytes)?;
        if !self.is_task(task) {
            return None;
        }
        let plain = self.is_plain(task);
        let fields = self.fields(task, plain).filter(|fields| !fields.is_done)?;
        let found = RunningTask {
            name: self.task_name(fields.name),
            coroutine: self.coroutine_name(fields.coroutine),
        };
        let is_as_it_was = self.running_task(thread, current_tasks, thread_bytes) == Some(task)
            && self.fields(task, plain).as_ref() == Some(&fields);
        is_as_it_was.then_some(found)
    }

    fn running_task(
        &self,
        thread: ThreadOfTasks,
        current_tasks: Option<u64>,
        thread_bytes: Option<u64>,
    ) -> Option<u64> {
        if let Some(lists) = self.layout.lists {
            return self.word(thread.state, lists.running_task);
        }
        let event_loop = self.running_loop(thread.state, thread_bytes)?;
        let entries = self.objects.entries(current_tasks?)?;
        let running = entries.into_iter().find(|entry| entry.key == event_loop)?;
        Some(running.value)
    }

    fn running_loop(&self, state: u64, thread_bytes: Option<u64>) -> Option<u64> {
        let in_dict = |dict: u64| {
            let dict = self.word(state, dict)?;
            self.objects.get(dict, "__asyncio_running_event_loop__")
        };
        match self.layout.running_loop {
            // `_RunningLoopHolder.rl_loop`.
            RunningLoop::Held { dict } => self.field(in_dict(dict)?, super::FIRST),
            RunningLoop::InDict { dict } => in_dict(dict),
            RunningLoop::Behind => self.word(state, thread_bytes?),
            RunningLoop::NotNeeded => None,
        }
    }

    /// What a coroutine is called that is CPython's own kind.
    fn coroutine_name(&self, coroutine: u64) -> Option<String> {
        const MOST_CHARACTERS: u64 = 200;
        let kind = self.kind(coroutine)?;
        if !matches!(&*kind, "coroutine" | "generator") {
            return None;
        }
        let name = self.field(coroutine, self.layout.qualified_name)?;
        self.objects.text(name, MOST_CHARACTERS).map(String::from)
    }
}
