//! The thread states of a process: which native thread each is of, in which interpreter.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    process::pythons::PythonIn,
    python::memory::ReadMemory,
    waits::{gil, threads},
};

/// Lists in foreign memory can be circles.
const MOST_INTERPRETERS: usize = 64;
const MOST_STATES: usize = 16 * 1024;
/// `PyThreadState.next` (3.8 – 3.15).
const NEXT: u64 = 8;
/// `PyThreadState.native_thread_id` follows `thread_id` (3.11 on).
const NATIVE_ID_AFTER_ID: u64 = 8;

/// A `PyThreadState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub address: u64,
    /// The thread's number as we know it, and inside its process's pid namespace.
    pub tid: u32,
    pub inside: u32,
    /// `PyThreadState.thread_id`: what the program knows the thread by (`threading.get_ident`), and on glibc its `%fs`.
    pub ident: u64,
    pub interpreter: u64,
    /// Where the GIL is that it must have to run; 0 if there is none, or that is not known.
    pub gil: u64,
}

/// Those of a process, the newest of each interpreter first.
pub fn list(python: &PythonIn, memory: &dyn ReadMemory, numbers: &Numbers) -> Vec<State> {
    let layout = &python.binary.layout;
    let word = |at: u64| memory.read_u64(at).filter(|&word| word != 0);
    let main_gil = gil::find(python, memory);
    let mut found = Vec::new();
    let mut seen = FxHashSet::default();
    for interpreter in interpreters(python, memory) {
        let gil = gil::of_interpreter(python, memory, interpreter)
            .or(main_gil)
            .filter(|&gil| gil::is_on(python, memory, gil))
            .unwrap_or(0);
        let mut next = word(interpreter.wrapping_add(layout.interpreter.threads.into()));
        while let Some(address) = next
            && found.len() < MOST_STATES
            && seen.insert(address)
        {
            let id = address.wrapping_add(layout.process.thread_id.into());
            if let Some(ident) = word(id)
                && let Some(inside) = number(python, memory, id, ident)
                && let Some(tid) = numbers.outside(inside)
            {
                found.push(State {
                    address,
                    tid,
                    inside,
                    ident,
                    interpreter,
                    gil,
                });
            }
            next = word(address.wrapping_add(NEXT));
        }
    }
    found
}

/// The main interpreter, and the others.
pub fn interpreters(python: &PythonIn, memory: &dyn ReadMemory) -> Vec<u64> {
    let layout = python.binary.layout.interpreter;
    let runtime = python.binary.runtime.wrapping_add(python.bias);
    let word = |at: u64, offset: u32| {
        memory
            .read_u64(at.wrapping_add(offset.into()))
            .filter(|&word| word != 0)
    };
    // `main` follows `head` (`struct pyinterpreters`); `head` is the newest from 3.12 on.
    let mut found: Vec<u64> = word(runtime, layout.head + 8).into_iter().collect();
    let mut next = word(runtime, layout.head);
    let mut visited = 0;
    while let Some(interpreter) = next
        && visited < MOST_INTERPRETERS
    {
        if !found.contains(&interpreter) {
            found.push(interpreter);
        }
        visited += 1;
        next = word(interpreter, layout.next);
    }
    found
}

/// The number that a thread has inside. A state is made by another thread, whose number it has at first.
fn number(python: &PythonIn, memory: &dyn ReadMemory, id: u64, ident: u64) -> Option<u32> {
    let number = match python.binary.version.series() >= (3, 11) {
        true => memory.read_u64(id.wrapping_add(NATIVE_ID_AFTER_ID))?,
        false => memory.read_u64(ident.wrapping_add(python.thread_number()))? & 0xffff_ffff,
    };
    u32::try_from(number).ok().filter(|&number| number != 0)
}

/// The numbers of a process's threads: ours, by those they have inside.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Empty where both are the same.
    outside: FxHashMap<u32, u32>,
}

impl Numbers {
    pub fn of(pid: u32, tids: &[u32]) -> Self {
        if threads::number_inside(pid, pid) == pid {
            return Self::default();
        }
        let pair = |&tid: &u32| (threads::number_inside(pid, tid), tid);
        Self {
            outside: tids.iter().map(pair).collect(),
        }
    }

    fn outside(&self, inside: u32) -> Option<u32> {
        match self.outside.is_empty() {
            true => Some(inside),
            false => self.outside.get(&inside).copied(),
        }
    }
}
