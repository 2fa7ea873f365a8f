//! Where ways to objects begin: imported modules, and functions that run.

use profiler_common::python::LAYOUT_CFRAME;

use super::{heap::Heap, target::Target};
use crate::python::object::Objects;

/// Reads of the process's memory; most of it has been copied.
const READS: u32 = 1 << 24;
const MOST_NAME: u64 = 128;
const MOST_PATH: u64 = 512;
const MOST_MODULES: usize = 1 << 16;

/// How near to the program a module is: its own come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Own,
    Library,
    Standard,
}

/// Names and addresses of modules, those of the program itself first.
pub fn modules(target: &Target, heap: &Heap<'_>, interpreters: &[u64]) -> Vec<(Box<str>, u64)> {
    let objects = Objects::new(heap, &target.process, target.objects, READS);
    let mut found: Vec<(Whose, Box<str>, u64)> = Vec::new();
    for (number, &interpreter) in interpreters.iter().enumerate() {
        let modules = objects.word(interpreter, target.binary.layout.interpreter.modules.into());
        let entries = modules.and_then(|modules| objects.entries(modules)).unwrap_or_default();
        for entry in entries.into_iter().take(MOST_MODULES) {
            let Some(name) = objects.text(entry.key, MOST_NAME) else {
                continue;
            };
            let whose = whose(&objects, entry.value, &name);
            let name = match number {
                0 => name,
                number => format!("{name} (interpreter {number})").into(),
            };
            found.push((whose, name, entry.value));
        }
    }
    // A package before what is in it.
    found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    found.into_iter().map(|(_, name, module)| (name, module)).collect()
}

fn whose(objects: &Objects<'_>, module: u64, name: &str) -> Whose {
    if matches!(name, "__main__" | "__mp_main__") {
        return Whose::Own;
    }
    let dict = objects.module_dict(module);
    let file = dict.and_then(|dict| objects.get(dict, "__file__"));
    match file.and_then(|file| objects.text(file, MOST_PATH)) {
        Some(path) if path.contains("/site-packages/") || path.contains("/dist-packages/") => Whose::Library,
        Some(path) if path.contains("/lib/python3") => Whose::Standard,
        Some(_) => Whose::Own,
        None => Whose::Standard,
    }
}

/// Threads of an interpreter, frames of a thread and variables of a frame that are looked at: lists in foreign memory can
/// be circles.
const MOST_THREADS: usize = 16 << 10;
const MOST_FRAMES: usize = 4 << 10;
const MOST_LOCALS: u64 = 256;
const MOST_FOUND: usize = 1 << 20;
/// `PyThreadState.next` (3.8 – 3.15).
const NEXT_THREAD: u64 = 8;
/// `PyFrameObject.f_localsplus` and the tuples with the names of what is in it (3.8 – 3.10, shared/field/objects.md §5).
const LOCAL_NAMES: [u64; 3] = [72, 88, 80];

/// What the functions that run have in variables: function, name and object; of each thread, the outermost first.
pub fn frames(target: &Target, heap: &Heap<'_>, interpreters: &[u64]) -> Vec<(Box<str>, Box<str>, u64)> {
    let objects = Objects::new(heap, &target.process, target.objects, READS);
    let reader = Frames { target, heap, objects };
    let mut found = Vec::new();
    for state in reader.threads(interpreters) {
        let mut frames = reader.of(state);
        frames.reverse();
        for frame in frames {
            if found.len() < MOST_FOUND {
                reader.locals(frame, &mut found);
            }
        }
    }
    found
}

/// The code of the functions that run.
pub fn codes(target: &Target, heap: &Heap<'_>, interpreters: &[u64]) -> Vec<u64> {
    let objects = Objects::new(heap, &target.process, target.objects, READS);
    let reader = Frames { target, heap, objects };
    let threads = reader.threads(interpreters).into_iter();
    let frames = threads.flat_map(|state| reader.of(state));
    frames.filter_map(|frame| reader.code(frame)).take(MOST_FOUND).collect()
}

struct Frames<'f, 'h, 'a> {
    target: &'f Target,
    heap: &'f Heap<'h>,
    objects: Objects<'a>,
}

impl Frames<'_, '_, '_> {
    fn word(&self, address: u64, offset: u64) -> Option<u64> {
        let word = self.heap.word(address.wrapping_add(offset));
        word.filter(|&word| word != 0)
    }

    /// The states of all threads of these interpreters.
    fn threads(&self, interpreters: &[u64]) -> Vec<u64> {
        let first = u64::from(self.target.binary.layout.interpreter.threads);
        let of_one = |&interpreter: &u64| {
            let next = |&state: &u64| self.word(state, NEXT_THREAD);
            std::iter::successors(self.word(interpreter, first), next).take(MOST_THREADS)
        };
        interpreters.iter().flat_map(of_one).collect()
    }

    /// The frames of a thread, innermost first.
    fn of(&self, state: u64) -> Vec<u64> {
        let layout = &self.target.process;
        let mut frame = self.word(state, layout.thread_frame.into());
        if layout.flags & LAYOUT_CFRAME != 0 {
            frame = frame.and_then(|cframe| self.word(cframe, layout.cframe_current.into()));
        }
        let mut frames = Vec::new();
        while let Some(at) = frame
            && frames.len() < MOST_FRAMES
        {
            frames.push(at);
            frame = self.word(at, layout.frame_previous.into());
        }
        frames
    }

    fn code(&self, frame: u64) -> Option<u64> {
        let layout = &self.target.process;
        let code = self.word(frame, layout.frame_code.into())? & !3;
        // Frames of the interpreter's own have something else there.
        (self.word(code, layout.object_type.into())? == self.target.types.code).then_some(code)
    }

    fn locals(&self, frame: u64, found: &mut Vec<(Box<str>, Box<str>, u64)>) -> Option<()> {
        let layout = &self.target.process;
        let code = self.code(frame)?;
        let name = match layout.code_qualname {
            0 => layout.code_name,
            qualified => qualified,
        };
        let function = self.objects.text(self.word(code, name.into())?, MOST_NAME)?;
        let (first, names) = match self.target.heap.frame_locals {
            Some(first) => (first, self.names(code, &[self.target.heap.local_names])),
            // 3.10 has one word less before them.
            None => {
                let first = if self.target.binary.version.minor == 10 {
                    352
                } else {
                    360
                };
                (first, self.names(code, &LOCAL_NAMES))
            }
        };
        for (number, name) in (0..).zip(names) {
            let value = self.word(frame, first + 8 * number).unwrap_or(0) & !3;
            if value != 0
                && let Some(name) = self.objects.text(name, MOST_NAME)
            {
                found.push((function.clone(), name, value));
            }
        }
        Some(())
    }

    /// Strings, by address, of the tuples that a code object has there.
    fn names(&self, code: u64, tuples: &[u64]) -> Vec<u64> {
        const SIZE: u64 = 16;
        let mut names = Vec::new();
        for &at in tuples {
            let Some(tuple) = self.word(code, at) else { continue };
            let size = self.word(tuple, SIZE).unwrap_or(0).min(MOST_LOCALS);
            let items = tuple.wrapping_add(self.target.heap.tuple_items);
            self.heap.words(items, size, |_, name| names.push(name));
        }
        names
    }
}
