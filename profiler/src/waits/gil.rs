//! Where a process's GIL is: a thread that waits for a futex in it waits for the GIL.

use profiler_common::python::GilFacts;

use crate::{
    process::pythons::PythonIn,
    python::{memory::ReadMemory, version::Version},
};

/// Where the main interpreter's GIL is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// So far into `_PyRuntime` (`ceval.gil`, 3.8 – 3.11).
    Runtime(u64),
    /// Where the pointer so far into the interpreter's state says (`ceval.gil`, 3.12 on).
    Interpreter(u64),
}

/// By `offsetof` in 3.8.18, 3.9.18, 3.10.13, 3.11.7, 3.12.1 and 3.13.0; 3.13.18, 3.14.10 and 3.15.2 by DWARF, and all of
/// them by live threads that waited (shared/field/objects.md §4). Later series are not known, and are not guessed.
fn place(version: Version) -> Option<Place> {
    Some(match version.series() {
        (3, 8) => Place::Runtime(1152),
        (3, 9 | 10) => Place::Runtime(352),
        (3, 11) => Place::Runtime(360),
        (3, 12) => Place::Interpreter(384),
        (3, 13..=15) => Place::Interpreter(16),
        _ => return None,
    })
}

/// Without a GIL there is one nevertheless, which is taken only while it is turned on (`PYTHON_GIL=1`, or an extension that
/// does not say that it can do without): `enabled` comes before all fields that other builds have (3.13.5, `offsetof`).
const ENABLED_BYTES: u64 = 8;

/// How far into the structure that the interpreter has the fields begin that all builds have.
fn fields(python: &PythonIn) -> u64 {
    match python.is_free_threaded() {
        true => ENABLED_BYTES,
        false => 0,
    }
}

/// Whether threads take this GIL now.
pub fn is_on(python: &PythonIn, memory: &dyn ReadMemory, gil: u64) -> bool {
    if !python.is_free_threaded() {
        return gil != 0;
    }
    let mut enabled = [0; 4];
    memory.read(gil.wrapping_sub(ENABLED_BYTES), &mut enabled) && enabled != [0; 4]
}

/// The address of the GIL of the main interpreter; `None` while there is no interpreter, and where its place is not known.
pub fn find(python: &PythonIn, memory: &dyn ReadMemory) -> Option<u64> {
    let runtime = python.binary.runtime.wrapping_add(python.bias);
    match place(python.binary.version)? {
        Place::Runtime(offset) => Some(runtime.wrapping_add(offset)),
        Place::Interpreter(offset) => {
            // `interpreters.main` follows `interpreters.head`.
            let main = u64::from(python.binary.layout.interpreter.head) + 8;
            let interpreter = memory.read_u64(runtime.wrapping_add(main)).filter(|&at| at != 0)?;
            let gil = memory
                .read_u64(interpreter.wrapping_add(offset))
                .filter(|&at| at != 0)?;
            Some(gil.wrapping_add(fields(python)))
        }
    }
}

/// What the kernel side needs to find the GIL of a thread's interpreter; `None` where its place is not known, and where there
/// need be none.
pub fn facts(python: &PythonIn) -> Option<GilFacts> {
    if python.is_free_threaded() {
        return None;
    }
    Some(match place(python.binary.version)? {
        Place::Runtime(offset) => GilFacts {
            address: python.binary.runtime.wrapping_add(python.bias).wrapping_add(offset),
            in_interpreter: 0,
        },
        Place::Interpreter(offset) => GilFacts {
            address: 0,
            in_interpreter: offset,
        },
    })
}

/// The address of the GIL that threads of an interpreter take; `None` where all interpreters have the main one's (up to
/// 3.11), or its place is not known.
pub fn of_interpreter(python: &PythonIn, memory: &dyn ReadMemory, interpreter: u64) -> Option<u64> {
    match place(python.binary.version)? {
        Place::Runtime(_) => None,
        Place::Interpreter(offset) => {
            let gil = memory
                .read_u64(interpreter.wrapping_add(offset))
                .filter(|&at| at != 0)?;
            Some(gil.wrapping_add(fields(python)))
        }
    }
}

/// Interpreters of a process that are looked at: lists in foreign memory can be circles.
const MOST_INTERPRETERS: usize = 256;

/// The GILs of all interpreters of a process, each once. One, where they cannot have their own.
pub fn all(python: &PythonIn, memory: &dyn ReadMemory) -> Vec<u64> {
    let mut found: Vec<u64> = find(python, memory).into_iter().collect();
    let layout = &python.binary.layout.interpreter;
    let runtime = python.binary.runtime.wrapping_add(python.bias);
    let word = |at: u64| memory.read_u64(at).filter(|&word| word != 0);
    let mut next = word(runtime.wrapping_add(layout.head.into()));
    for _ in 0..MOST_INTERPRETERS {
        let Some(interpreter) = next else { break };
        let gil = of_interpreter(python, memory, interpreter);
        found.extend(gil.filter(|gil| !found.contains(gil)));
        next = word(interpreter.wrapping_add(layout.next.into()));
    }
    found
}

/// Whether the place of its GIL is known for this version at all.
pub fn is_known(python: &PythonIn) -> bool {
    place(python.binary.version).is_some()
}

/// Whether who waits for it is told by the futex. On musl that lies on the waiting thread's own stack, and reading what it
/// belongs to takes more than a switch may ([`is_waited_for_on_musl`]).
pub fn waits_are_known(python: &PythonIn) -> bool {
    is_known(python) && !python.is_on_musl()
}

/// Whether who waits for this futex waits for a GIL, where the C library is musl: `pthread_cond_timedwait` has a list of
/// waiters, each a node on its own stack with a word to sleep on.
pub fn is_waited_for_on_musl(memory: &dyn ReadMemory, gil: u64, futex: u64) -> bool {
    /// `gil.cond` (3.8 – 3.15), `_c_head` in a `pthread_cond_t`, and `next` and `barrier` in a `struct waiter` (musl 1.2.3).
    const HEAD: u64 = 32 + 8;
    const NEXT: u64 = 8;
    const BARRIER: u64 = 20;
    /// Lists in foreign memory can be circles.
    const MOST: usize = 4096;
    let word = |at: u64| memory.read_u64(at).filter(|&word| word != 0);
    let list = std::iter::successors(word(gil.wrapping_add(HEAD)), |&node| word(node.wrapping_add(NEXT)));
    gil != 0 && list.take(MOST).any(|node| node.wrapping_add(BARRIER) == futex)
}
