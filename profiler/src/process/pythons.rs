//! The CPythons of a process: the one whose stacks are walked, and others beside it.
//!
//! A program can have several: it loads two `libpython`s for two plug-ins, or is a Python whose extension embeds another.
//! Only the one that was met first is walked; of the others it is known where their evaluation loops are, so that their
//! place in a stack can be marked.

use std::sync::Arc;

use profiler_common::python::{LAYOUT_MUSL, PythonProcess};

use super::{files::FileId, table::Mapping};
use crate::python::{
    binary::PythonBinary, c_library::Musl, memory::ReadMemory, object::ObjectLayout, thread_lookup::ThreadLookup,
    thread_names::ThreadNames,
};

/// Further ones that are told apart.
pub const MOST_OTHERS: usize = 8;

/// A CPython in a process.
#[derive(Clone, Debug)]
pub struct PythonIn {
    pub file: FileId,
    pub binary: Arc<PythonBinary>,
    /// What to add to an address in the file to have one in memory. Wraps around.
    pub bias: u64,
    /// What the kernel side was told, if it is the one that is walked.
    pub facts: PythonProcess,
}

impl PythonIn {
    pub fn new(file: FileId, binary: &Arc<PythonBinary>, bias: u64, instance: u32) -> Self {
        Self {
            file,
            binary: Arc::clone(binary),
            bias,
            facts: binary.process(bias, instance),
        }
    }

    /// The process has mapped musl's library: what its file expects does not matter then.
    pub fn use_musl(&mut self, musl: Musl) {
        ThreadLookup::use_musl(&mut self.facts, musl);
    }

    /// Where in a thread's own block of the C library its number lies.
    pub fn thread_number(&self) -> u64 {
        /// `offsetof(struct pthread, tid)`, glibc 2.31 – 2.41 on x86-64.
        const GLIBC: u64 = 0x2d0;
        match self.is_on_musl() {
            false => GLIBC,
            true => Musl::THREAD_NUMBER,
        }
    }

    /// Whether its objects and its threads are those of a build without a GIL (`--disable-gil`). It can run with one, too.
    pub fn is_free_threaded(&self) -> bool {
        self.binary.layout.free_threaded
    }

    /// Whether the process's C library is musl.
    pub fn is_on_musl(&self) -> bool {
        self.facts.flags & LAYOUT_MUSL != 0
    }

    /// Where its threads have the names that the program gives them, if that is known.
    pub fn thread_names(&self) -> Option<ThreadNames> {
        Some(ThreadNames {
            objects: ObjectLayout::of(self.binary.version, self.is_free_threaded())?,
            interpreter: self.binary.layout.interpreter,
            runtime: self.runtime(),
        })
    }

    /// Whether it is this copy of its file that is mapped there: `dlmopen` loads one twice.
    pub fn is_in(&self, mapping: &Mapping) -> bool {
        mapping.file == Some(self.file) && mapping.has_bias(self.bias)
    }

    /// Whether it has an interpreter: a library that is only linked in has none. `None` if that cannot be read.
    pub fn is_in_use(&self, memory: &dyn ReadMemory) -> Option<bool> {
        let head = u64::from(self.binary.layout.interpreter.head);
        let first = memory.read_u64(self.runtime().wrapping_add(head))?;
        Some(first != 0)
    }

    fn runtime(&self) -> u64 {
        self.binary.runtime.wrapping_add(self.bias)
    }
}

/// A CPython whose stacks are not walked, because the process has another.
#[derive(Clone, Debug)]
pub struct OtherPython {
    pub python: PythonIn,
    pub used: Used,
}

/// Whether a CPython has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Used {
    No,
    Unknown,
    Yes,
}

impl OtherPython {
    pub fn new(python: PythonIn) -> Self {
        Self {
            python,
            used: Used::Unknown,
        }
    }

    /// Finds out whether it is used, in the process's memory; it may be later.
    pub fn look(&mut self, memory: &dyn ReadMemory) {
        self.used = match (self.used, self.python.is_in_use(memory)) {
            (Used::Yes, _) | (_, Some(true)) => Used::Yes,
            (_, Some(false)) => Used::No,
            (used, None) => used,
        };
    }
}

/// What code is to the interpreters of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Nothing,
    /// Of the evaluation loop of the one that is walked.
    Loop,
    /// Of the loop of another one, by its number.
    OtherLoop(usize),
    /// A handler of a tail-calling loop, whose own frame follows.
    Handler,
}

impl Part {
    /// `eval_loop`: what the loop of this file is.
    pub(super) fn of(binary: &PythonBinary, address: u64, eval_loop: Self) -> Self {
        if binary.eval_loop.iter().any(|range| range.contains(&address)) {
            eval_loop
        } else if binary.eval_handlers.iter().any(|range| range.contains(&address)) {
            Self::Handler
        } else {
            Self::Nothing
        }
    }
}
