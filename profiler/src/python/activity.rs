//! What a thread does besides running its frames: collecting garbage, handling an exception.
//!
//! Offsets up to 3.12 by DWARF and headers of 3.8.18, 3.9.18, 3.10.13, 3.11.7 (and Debian's 3.11.2) and 3.12.1; from 3.13
//! on the interpreter's own debug offsets say where the collector is. All were compared with what live processes of these
//! and of 3.13.0, 3.13.18, 3.14.10 and 3.15.2 say of themselves (shared/field/objects.md §3, §7).

use profiler_common::python::PythonProcess;

use super::{memory::ReadMemory, version::Version};

/// Exceptions that are handled inside each other: a chain in foreign memory can be a circle.
const MOST_EXCEPTIONS: usize = 64;
const MOST_NAME_BYTES: usize = 96;

/// Where it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    collecting: Collecting,
    /// `PyThreadState.exc_info`.
    exc_info: u64,
    /// `_PyErr_StackItem.exc_value`, `.previous_item`.
    exc_value: u64,
    exc_previous: u64,
}

/// Where `collecting` (an `int`) of the garbage collector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Collecting {
    /// So far into `_PyRuntime` (3.8).
    Runtime(u64),
    /// So far into the interpreter's state.
    Interpreter(u64),
}

/// `PyTypeObject.tp_name`, behind the usual header.
const TP_NAME: u64 = 24;

impl Activity {
    /// `runtime` is the address of `_PyRuntime`. None of a version that nobody has looked at.
    pub fn of(version: Version, memory: &dyn ReadMemory, runtime: u64) -> Option<Self> {
        let (3, minor) = version.series() else { return None };
        // `struct _gc_runtime_state.collecting` lies at 200 up to 3.12.
        let collecting = match minor {
            8 => Collecting::Runtime(344 + 200),
            9 | 10 => Collecting::Interpreter(616 + 200),
            11 => Collecting::Interpreter(648 + 200),
            12 => Collecting::Interpreter(112 + 200),
            13..=15 => {
                // `_Py_DebugOffsets.interpreter_state.gc` and `.gc.collecting`.
                let (gc, collecting) = match minor {
                    13 => (80, 576),
                    14 => (88, 656),
                    _ => (88, 760),
                };
                let offset = |at: u64| {
                    memory
                        .read_u64(runtime.wrapping_add(at))
                        .filter(|&offset| offset < 1 << 20)
                };
                Collecting::Interpreter(offset(gc)? + offset(collecting)?)
            }
            _ => return None,
        };
        let (exc_info, exc_value, exc_previous) = match minor {
            8..=10 => (144, 8, 24),
            12 => (104, 0, 8),
            15 => (144, 0, 8),
            _ => (120, 0, 8),
        };
        Some(Self {
            collecting,
            exc_info,
            exc_value,
            exc_previous,
        })
    }

    /// Whether an interpreter collects garbage: whichever of its threads has the GIL does.
    pub fn is_collecting(&self, memory: &dyn ReadMemory, runtime: u64, interpreter: u64) -> bool {
        let address = match self.collecting {
            Collecting::Runtime(offset) => runtime.wrapping_add(offset),
            Collecting::Interpreter(offset) => interpreter.wrapping_add(offset),
        };
        let mut word = [0; 4];
        memory.read(address, &mut word) && i32::from_le_bytes(word) == 1
    }

    /// The type of the exception that a thread is handling: its `except` or `finally` block has not ended.
    pub fn handled(&self, memory: &dyn ReadMemory, process: &PythonProcess, state: u64) -> Option<String> {
        let object_type = process.object_type.into();
        let word = |at: u64, offset: u64| memory.read_u64(at.checked_add(offset)?).filter(|&word| word != 0);
        let mut item = word(state, self.exc_info)?;
        for _ in 0..MOST_EXCEPTIONS {
            if let Some(value) = word(item, self.exc_value)
                && let Some(name) = type_name(memory, process, word(value, object_type)?)
                && name != "NoneType"
            {
                return Some(name);
            }
            // A generator's own item is on top while it runs.
            item = word(item, self.exc_previous)?;
        }
        None
    }
}

/// `tp_name` without its module.
pub fn type_name(memory: &dyn ReadMemory, process: &PythonProcess, kind: u64) -> Option<String> {
    let name = memory.read_u64(kind.checked_add(TP_NAME + process.header_growth())?)?;
    let name = c_string(memory, name, MOST_NAME_BYTES)?;
    let name = name.rsplit('.').next().unwrap_or(&name);
    (!name.is_empty()).then(|| name.to_owned())
}

/// A C string, or its beginning. Read in pieces that end with their page: what lies behind it need not be there.
pub fn c_string(memory: &dyn ReadMemory, address: u64, most: usize) -> Option<String> {
    const PAGE_BYTES: u64 = 4096;
    const PIECE: usize = 64;
    let mut bytes = Vec::new();
    while bytes.len() < most {
        let at = address.checked_add(bytes.len() as u64)?;
        let room = (PAGE_BYTES - at % PAGE_BYTES) as usize;
        let piece = memory.read_vec(at, room.min(PIECE).min(most - bytes.len()))?;
        match piece.iter().position(|&byte| byte == 0) {
            Some(end) => {
                bytes.extend_from_slice(&piece[..end]);
                break;
            }
            None => bytes.extend_from_slice(&piece),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::memory::FakeMemory, *};

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn with_usual_headers() -> PythonProcess {
        PythonProcess {
            object_type: 8,
            ..PythonProcess::default()
        }
    }

    /// A state at 0x1000 of 3.12 with one exception after another: each is a type's address, or 0.
    fn handling(exceptions: &[(u64, u64)]) -> Option<String> {
        let mut memory = FakeMemory::default();
        memory.put(0x1000 + 104, words(&[0x2000]));
        for (at, (value, kind)) in exceptions.iter().enumerate() {
            let item = 0x2000 + 0x10 * at as u64;
            let next = if at + 1 < exceptions.len() { item + 0x10 } else { 0 };
            memory.put(item, words(&[*value, next]));
            memory.put(*value, words(&[1, *kind]));
        }
        for (kind, name) in [
            (0x5000, &b"KeyError\0"[..]),
            (0x6000, b"NoneType\0"),
            (0x7000, b"django.db.Error\0"),
        ] {
            memory.put(kind + 24, words(&[kind + 0x100]));
            memory.put(kind + 0x100, [name, &[1; 64]].concat());
        }
        let activity = Activity::of(Version::parse("3.12.1")?, &memory, 0)?;
        activity.handled(&memory, &with_usual_headers(), 0x1000)
    }

    #[test]
    fn the_exception_that_is_handled_is_the_innermost_there_is() {
        assert_eq!(handling(&[(0x3000, 0x5000)]).as_deref(), Some("KeyError"));
        assert_eq!(
            handling(&[(0x3000, 0x6000), (0x3100, 0x7000)]).as_deref(),
            Some("Error")
        );
        assert_eq!(handling(&[(0x3000, 0x6000)]), None);
        assert_eq!(handling(&[]), None);
    }

    #[test]
    fn a_circle_of_exceptions_ends() {
        let mut memory = FakeMemory::default();
        memory.put(0x1000 + 104, words(&[0x2000]));
        memory.put(0x2000, words(&[0, 0x2000]));
        let activity = Activity::of(Version::parse("3.12.1").unwrap(), &memory, 0).unwrap();
        assert_eq!(activity.handled(&memory, &with_usual_headers(), 0x1000), None);
    }

    #[test]
    fn later_versions_say_themselves_where_the_collector_is() {
        let mut memory = FakeMemory::default();
        let mut block = vec![0; 584];
        block[80..88].copy_from_slice(&7400_u64.to_le_bytes());
        block[576..584].copy_from_slice(&200_u64.to_le_bytes());
        memory.put(0x1_0000, block);
        memory.put(0x2_0000 + 7600, words(&[1]));
        let activity = Activity::of(Version::parse("3.13.0").unwrap(), &memory, 0x1_0000).unwrap();
        assert!(activity.is_collecting(&memory, 0x1_0000, 0x2_0000));
        assert!(!activity.is_collecting(&memory, 0x1_0000, 0x3_0000));
        assert_eq!(Activity::of(Version::parse("3.16.0").unwrap(), &memory, 0x1_0000), None);
    }

    #[test]
    fn a_string_may_end_with_its_page() {
        let mut memory = FakeMemory::default();
        memory.put(0x1ff8, *b"abcdefg\0");
        assert_eq!(c_string(&memory, 0x1ff8, 100).as_deref(), Some("abcdefg"));
        assert_eq!(c_string(&memory, 0x1ff8, 3).as_deref(), Some("abc"));
        memory.put(0x2ff8, *b"abcdefgh");
        assert_eq!(c_string(&memory, 0x2ff8, 100), None);
    }
}
