//! What a program calls its threads: `threading.Thread(name=…)`.
//!
//! The kernel's name of a thread is another: up to 3.13 CPython does not set it, and from 3.14 on it has the first 15
//! bytes of what the thread was called when it began (not the main thread, and not when another thread renames it). So
//! the names are read where `threading` keeps them, in `_active`: `{ident: Thread}`, with `_name` and `_native_id` in
//! each.

use std::iter::successors;

use profiler_common::python::PythonProcess;
use rustc_hash::FxHashMap;

use super::{
    layout::InterpreterLayout,
    memory::ReadMemory,
    object::{ObjectLayout, Objects},
};

/// Interpreters of one process, threads of one interpreter, and characters of a name that are looked at.
const MOST_INTERPRETERS: usize = 16;
const MOST_THREADS: usize = 4096;
const MOST_CHARACTERS: u64 = 128;
/// Reads for one look at one process: some 20 ms. A thread takes less than 25.
const MOST_READS: u32 = 50_000;

/// Where a process's threads have their names.
#[derive(Clone, Copy, Debug)]
pub struct ThreadNames {
    pub objects: ObjectLayout,
    pub interpreter: InterpreterLayout,
    /// The address of `_PyRuntime` in the process.
    pub runtime: u64,
}

impl ThreadNames {
    /// The names of those threads that are `wanted`, by the number that the program itself knows for each; also those that
    /// nobody has chosen. Where two threads claim a number, neither has a name.
    pub fn read(
        &self,
        memory: &dyn ReadMemory,
        process: &PythonProcess,
        wanted: &dyn Fn(u32) -> bool,
    ) -> FxHashMap<u32, Box<str>> {
        let objects = Objects::new(memory, process, self.objects, MOST_READS);
        let mut names: FxHashMap<u32, Option<Box<str>>> = FxHashMap::default();
        for interpreter in self.interpreters(&objects) {
            let mut here: FxHashMap<u32, Option<Box<str>>> = FxHashMap::default();
            let active = self.active(&objects, interpreter);
            let mut attributes = FxHashMap::default();
            for thread in active.into_iter().flatten().take(MOST_THREADS) {
                if let Some((tid, name)) = named(&objects, thread, &mut attributes, wanted) {
                    here.entry(tid).and_modify(|name| *name = None).or_insert(Some(name));
                }
            }
            // The main interpreter comes first: in another one the same thread is its main thread, or a guest.
            for (tid, name) in here {
                names.entry(tid).or_insert(name);
            }
        }
        names.into_iter().filter_map(|(tid, name)| Some((tid, name?))).collect()
    }

    /// The main interpreter, and the others.
    fn interpreters(&self, objects: &Objects<'_>) -> Vec<u64> {
        let InterpreterLayout { head, next, .. } = self.interpreter;
        let pointer = |address: u64, offset: u32| objects.word(address, offset.into()).filter(|&at| at != 0);
        // `head` and `main` follow each other (`struct pyinterpreters`); `head` is the newest from 3.12 on.
        let mut found: Vec<u64> = pointer(self.runtime, head + 8).into_iter().collect();
        let first = pointer(self.runtime, head);
        for other in successors(first, |&at| pointer(at, next)).take(MOST_INTERPRETERS) {
            if !found.contains(&other) {
                found.push(other);
            }
        }
        found
    }

    /// The values of `threading._active`, if `threading` is imported.
    fn active(&self, objects: &Objects<'_>, interpreter: u64) -> Option<Vec<u64>> {
        let modules = objects.word(interpreter, self.interpreter.modules.into())?;
        let threading = objects.get(modules, "threading")?;
        let active = objects.get(objects.module_dict(threading)?, "_active")?;
        Some(objects.entries(active)?.into_iter().map(|entry| entry.value).collect())
    }
}

/// Those that somebody has chosen.
pub fn chosen(mut names: FxHashMap<u32, Box<str>>) -> FxHashMap<u32, Box<str>> {
    names.retain(|_, name| !is_made_up(name));
    names
}

/// What an attribute of a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attribute {
    Name,
    NativeId,
    Other,
}

impl Attribute {
    fn of(objects: &Objects<'_>, key: u64) -> Self {
        if objects.is_text(key, "_name") {
            Self::Name
        } else if objects.is_text(key, "_native_id") {
            Self::NativeId
        } else {
            Self::Other
        }
    }
}

/// The number and the name of a `threading.Thread`, if it is wanted. `known`: attributes by where their names are, which
/// threads have in common.
fn named(
    objects: &Objects<'_>,
    thread: u64,
    known: &mut FxHashMap<u64, Attribute>,
    wanted: &dyn Fn(u32) -> bool,
) -> Option<(u32, Box<str>)> {
    let (mut name, mut tid) = (None, None);
    for attribute in objects.attributes(thread)? {
        let key = known.entry(attribute.key);
        match key.or_insert_with(|| Attribute::of(objects, attribute.key)) {
            Attribute::Name if name.is_none() => name = Some(attribute.value),
            Attribute::NativeId if tid.is_none() => tid = Some(attribute.value),
            _ => {}
        }
        if let (Some(name), Some(tid)) = (name, tid) {
            // A thread that is about to start has None in place of its number.
            let tid = u32::try_from(objects.int(tid)?).ok().filter(|&tid| wanted(tid))?;
            let name = objects.text(name, MOST_CHARACTERS)?;
            return (!name.is_empty()).then_some((tid, name));
        }
    }
    None
}

/// What threading calls a thread that it has not made: `MainThread`, or `Dummy-3` when that first asks for its name. Nobody
/// has chosen it, and what the kernel calls the thread says more.
fn is_made_up(name: &str) -> bool {
    let number = name.strip_prefix("Dummy-");
    name == "MainThread" || number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::{
        super::{layout::Layout, memory::FakeMemory, version::Version},
        *,
    };

    const RUNTIME: u64 = 0x1000;
    const INTERPRETER: u64 = 0x2000;
    const ACTIVE: u64 = 0x3000;
    /// Types, one for each flag.
    const TYPES: u64 = 0x8000;
    const THREAD: u32 = 4;
    const LONG: u32 = 24;
    const UNICODE: u32 = 28;
    const DICT: u32 = 29;

    /// A 3.12, whose instances have their values apart and share their keys.
    struct Fake {
        memory: FakeMemory,
        next: u64,
    }

    impl Fake {
        fn new() -> Self {
            let mut fake = Self {
                memory: FakeMemory::default(),
                next: 0x10_0000,
            };
            for flag in [THREAD, LONG, UNICODE, DICT] {
                let mut words = [0; 111];
                words[21] = 1 << flag | 1 << 12;
                // ht_cached_keys
                words[110] = fake.keys(&["_target", "_name", "_native_id"].map(|name| (name, 0)));
                fake.put(TYPES + 0x1000 * u64::from(flag), &words);
            }
            fake.put(RUNTIME + 40, &[INTERPRETER, INTERPRETER, 0]);
            fake.put(INTERPRETER, &[0; 118]);
            fake
        }

        fn put(&mut self, address: u64, words: &[u64]) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.memory.put(address, bytes);
        }

        fn take(&mut self, words: usize) -> u64 {
            self.next += 8 * words as u64 + 64;
            self.next - 8 * words as u64 - 32
        }

        fn object(&mut self, flag: u32, words: &[u64]) -> u64 {
            let at = self.take(words.len() + 2);
            let kind = TYPES + 0x1000 * u64::from(flag);
            self.put(at, &[&[1, kind], words].concat());
            at
        }

        fn int(&mut self, value: u32) -> u64 {
            self.object(LONG, &[1 << 3, u64::from(value)])
        }

        fn text(&mut self, text: &str) -> u64 {
            // Compact, two bytes a character; or ASCII.
            let (state, header): (u64, &[u64]) = if text.is_ascii() { (0x64, &[]) } else { (0x28, &[0, 0]) };
            let mut data: Vec<u8> = match text.is_ascii() {
                true => text.bytes().collect(),
                false => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            };
            data.resize(data.len().next_multiple_of(8), 0);
            let words = data.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
            let words: Vec<u64> = [text.chars().count() as u64, 0, state]
                .into_iter()
                .chain(header.iter().copied())
                .chain(words)
                .collect();
            self.object(UNICODE, &words)
        }

        fn keys(&mut self, entries: &[(&str, u64)]) -> u64 {
            let entries: Vec<u64> = entries
                .iter()
                .flat_map(|&(key, value)| [self.text(key), value])
                .collect();
            // log2 of the size, of the index's bytes, and of the kind: entries of strings.
            let header = [1, 0x01_03_03, 0, entries.len() as u64 / 2, 0];
            let at = self.take(header.len() + entries.len());
            self.put(at, &[&header[..], &entries].concat());
            at
        }

        fn dict(&mut self, entries: &[(&str, u64)]) -> u64 {
            let keys = self.keys(entries);
            self.object(DICT, &[entries.len() as u64, 0, keys, 0])
        }

        fn thread(&mut self, name: &str, tid: Option<u32>) -> u64 {
            let name = self.text(name);
            let tid = match tid {
                Some(tid) => self.int(tid),
                None => self.object(THREAD, &[]),
            };
            let values = self.take(3);
            self.put(values, &[1, name, tid]);
            let at = self.take(3 + 3) + 24;
            self.put(at - 24, &[values - 1, 0, 0, 1, TYPES + 0x1000 * u64::from(THREAD)]);
            at
        }

        fn with(mut self, threads: &[(&str, Option<u32>)]) -> FakeMemory {
            let threads: Vec<(&str, u64)> = threads
                .iter()
                .map(|&(name, tid)| ("", self.thread(name, tid)))
                .collect();
            let keys = self.keys(&threads);
            let kind = TYPES + 0x1000 * u64::from(DICT);
            self.put(ACTIVE, &[1, kind, threads.len() as u64, 0, keys, 0]);
            let globals = self.dict(&[("Thread", 8), ("_active", ACTIVE)]);
            let module = self.object(THREAD, &[globals]);
            let modules = self.dict(&[("sys", 8), ("threading", module)]);
            self.put(INTERPRETER + 944, &[modules]);
            self.memory
        }
    }

    fn read(memory: &dyn ReadMemory, minor: u8) -> Vec<(u32, String)> {
        let version = Version::parse(&format!("3.{minor}.1")).expect("a version");
        let layout = Layout::of_series(version).expect("a layout");
        let names = ThreadNames {
            objects: ObjectLayout::of(version, false).expect("a layout"),
            interpreter: layout.interpreter,
            runtime: RUNTIME,
        };
        let all = names.read(memory, &layout.process, &|tid| tid != 99);
        let mut read: Vec<(u32, String)> = chosen(all).into_iter().map(|(tid, name)| (tid, name.into())).collect();
        read.sort_unstable();
        read
    }

    #[test]
    fn threads_have_the_names_that_the_program_gave_them() {
        let long = "x".repeat(200);
        let memory = Fake::new().with(&[
            ("QueueFeeder-1", Some(7)),
            ("поток-3", Some(8)),
            (&long, Some(9)),
            ("not wanted", Some(99)),
        ]);
        let cut = format!("{}…", &long[..MOST_CHARACTERS as usize]);
        let expected = [(7, "QueueFeeder-1"), (8, "поток-3"), (9, &cut)];
        assert_eq!(read(&memory, 12), expected.map(|(tid, name)| (tid, name.to_owned())));
    }

    #[test]
    fn a_thread_without_a_name_of_its_own_has_none() {
        let memory = Fake::new().with(&[
            ("about to start", None),
            ("Dummy-3", Some(7)),
            ("MainThread", Some(6)),
            ("", Some(8)),
            // gevent's greenlets are threads to threading, and all of one number.
            ("greenlet 1", Some(9)),
            ("greenlet 2", Some(9)),
            ("Dummy-x", Some(10)),
        ]);
        assert_eq!(read(&memory, 12), [(10, "Dummy-x".to_owned())]);
    }

    #[test]
    fn torn_memory_gives_no_name() {
        let mut memory = Fake::new().with(&[("a", Some(7))]);
        // Freed and used again for something that is no dict.
        memory.put(ACTIVE, [0xa5; 48]);
        assert_eq!(read(&memory, 12), []);
        assert_eq!(read(&FakeMemory::default(), 12), []);
    }

    /// Memory in which every word leads back to itself and every type is every type.
    struct Endless {
        word: u64,
        reads: Cell<usize>,
        bytes: Cell<usize>,
    }

    impl ReadMemory for Endless {
        fn read(&self, _address: u64, into: &mut [u8]) -> bool {
            self.reads.set(self.reads.get() + 1);
            self.bytes.set(self.bytes.get() + into.len());
            for chunk in into.chunks_mut(8) {
                chunk.copy_from_slice(&self.word.to_le_bytes()[..chunk.len()]);
            }
            true
        }
    }

    proptest! {
        #[test]
        fn memory_that_never_ends_is_given_up(
            word in prop_oneof![any::<u64>(), Just(u64::MAX), 0..1_u64 << 20, any::<u32>().prop_map(|word| u64::from(word) | 0x3100_1014)],
            minor in 8..13_u8,
        ) {
            let memory = Endless { word, reads: Cell::default(), bytes: Cell::default() };
            read(&memory, minor);
            prop_assert!(memory.reads.get() <= MOST_READS as usize);
            prop_assert!(memory.bytes.get() <= MOST_READS as usize * 4096);
        }

        #[test]
        fn any_tear_is_survived(at in 0..0x11_0000_u64, bytes in prop::collection::vec(any::<u8>(), 1..200)) {
            let mut memory = Fake::new().with(&[("a", Some(7)), ("b", Some(8))]);
            memory.put(at, bytes);
            prop_assert!(read(&memory, 12).len() <= 2);
        }
    }
}
