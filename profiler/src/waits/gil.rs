//! Where a process's GIL is: a thread that waits for a futex in it waits for the GIL.

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

/// The address of the GIL of the main interpreter; `None` while there is no interpreter, and where its place is not known.
pub fn find(python: &PythonIn, memory: &dyn ReadMemory) -> Option<u64> {
    let runtime = python.binary.runtime.wrapping_add(python.bias);
    match place(python.binary.version)? {
        Place::Runtime(offset) => Some(runtime.wrapping_add(offset)),
        Place::Interpreter(offset) => {
            // `interpreters.main` follows `interpreters.head`.
            let main = u64::from(python.binary.layout.interpreter.head) + 8;
            let interpreter = memory.read_u64(runtime.wrapping_add(main)).filter(|&at| at != 0)?;
            memory.read_u64(interpreter.wrapping_add(offset)).filter(|&at| at != 0)
        }
    }
}

/// Whether the place of its GIL is known for this version at all.
pub fn is_known(python: &PythonIn) -> bool {
    place(python.binary.version).is_some()
}
