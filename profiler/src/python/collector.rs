//! What CPython's garbage collector says of itself: thresholds, and how often each generation was collected.
//!
//! Offsets up to 3.12 by DWARF of 3.8.18, 3.9.18, 3.10.13, 3.11.7 and 3.12.1; from 3.13 on the interpreter's own debug
//! offsets say where the collector is. Compared with `gc.get_stats()` of live 3.8, 3.14 and 3.15 (shared/field/objects.md §3),
//! and of all ten in tests/e2e/gc.rs. 3.14.0 to 3.14.4 collect in increments and have other fields: what is read there
//! does not add up, and is refused.

use super::{memory::ReadMemory, version::Version};

pub const GENERATIONS: usize = 3;

/// A moment of the main interpreter's collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collector {
    pub thresholds: [i32; GENERATIONS],
    pub stats: [Stats; GENERATIONS],
}

/// Of a generation, since the interpreter began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub collections: u64,
    /// Objects that were freed, and those in cycles that could not be.
    pub collected: u64,
    pub uncollectable: u64,
}

impl Stats {
    pub fn since(self, before: Self) -> Self {
        Self {
            collections: self.collections.saturating_sub(before.collections),
            collected: self.collected.saturating_sub(before.collected),
            uncollectable: self.uncollectable.saturating_sub(before.uncollectable),
        }
    }
}

/// Where a process has it.
#[derive(Clone, Copy, Debug)]
pub struct Whereabouts {
    pub version: Version,
    pub runtime: u64,
    /// The main interpreter's state.
    pub main: u64,
}

impl Whereabouts {
    /// `head`: where `interpreters.head` is in the runtime's state.
    pub fn new(memory: &dyn ReadMemory, version: Version, runtime: u64, head: u32) -> Self {
        // `interpreters.main` follows it.
        let at = runtime.wrapping_add(u64::from(head) + 8);
        Self {
            version,
            runtime,
            main: memory.read_u64(at).unwrap_or_default(),
        }
    }

    /// Where the list of the youngest generation begins: a `PyGC_Head` that is no object's, whose links lead to the first and
    /// to the last one.
    pub fn young(&self, memory: &dyn ReadMemory) -> Option<u64> {
        // Of a version whose collector is another one, that does not add up.
        self.read(memory)?;
        Some(generations(memory, self.version, self.runtime, self.main)?.1)
    }

    pub fn read(&self, memory: &dyn ReadMemory) -> Option<Collector> {
        read(memory, self.version, self.runtime, self.main)
    }
}

/// `struct gc_generation`: a list's head, `threshold`, `count`.
const GENERATION_BYTES: u64 = 24;
const THRESHOLD: u64 = 16;
/// No program sets more, and 0 turns it off.
const MOST_THRESHOLD: i32 = 1 << 30;

/// Where the collector's state is, and its generations.
fn generations(memory: &dyn ReadMemory, version: Version, runtime: u64, main: u64) -> Option<(u64, u64)> {
    let (3, minor) = version.series() else { return None };
    let gc = match minor {
        8 => runtime.checked_add(344)?,
        9 | 10 => main.checked_add(616)?,
        11 => main.checked_add(648)?,
        12 => main.checked_add(112)?,
        13..=15 => {
            // `_Py_DebugOffsets.interpreter_state.gc`.
            let at = if minor == 13 { 80 } else { 88 };
            let offset = memory.read_u64(runtime.checked_add(at)?)?;
            main.checked_add(offset.min(1 << 20))?
        }
        _ => return None,
    };
    // `generation0`, a pointer to the first of them.
    let pointer = match minor {
        ..=13 => 96,
        14 => 256,
        _ => 168,
    };
    let first = memory.read_u64(gc.checked_add(pointer)?)?;
    if first.abs_diff(gc) > 4096 {
        return None;
    }
    Some((gc, first))
}

/// Reads it. `main` is the main interpreter's state. None of a version that nobody has looked at, and where it cannot be read
/// or is no such thing.
pub fn read(memory: &dyn ReadMemory, version: Version, runtime: u64, main: u64) -> Option<Collector> {
    let (gc, first) = generations(memory, version, runtime, main)?;
    let (_, minor) = version.series();
    let mut collector = Collector::default();
    for (generation, threshold) in (0..).zip(&mut collector.thresholds) {
        let at = first.checked_add(generation * GENERATION_BYTES + THRESHOLD)?;
        *threshold = memory.read_u64(at)? as i32;
        if !(0..=MOST_THRESHOLD).contains(threshold) {
            return None;
        }
    }
    let stats = match minor {
        ..=13 => Place::Plain(gc.checked_add(128)?),
        14 => Place::Plain(gc.checked_add(120)?),
        _ => Place::Rings(memory.read_u64(gc.checked_add(104)?)?),
    };
    for (generation, stat) in (0..).zip(&mut collector.stats) {
        let at = match stats {
            Place::Plain(at) => at.checked_add(generation * 24)?,
            Place::Rings(at) => newest(memory, at, generation)?,
        };
        let word = |number: u64| memory.read_u64(at.checked_add(8 * number)?);
        *stat = Stats {
            collections: word(0)?,
            collected: word(1)?,
            uncollectable: word(2)?,
        };
        if stat.collections > 1 << 40 {
            return None;
        }
    }
    Some(collector)
}

#[derive(Clone, Copy)]
enum Place {
    /// `struct gc_generation_stats[3]`.
    Plain(u64),
    /// The last few collections of each (3.15).
    Rings(u64),
}

/// Where the newest entry of a generation has its sums: behind two times.
fn newest(memory: &dyn ReadMemory, rings: u64, generation: u64) -> Option<u64> {
    const ENTRY: u64 = 64;
    const SUMS: u64 = 16;
    let (start, index, entries) = match generation {
        0 => (0, 704, 11),
        1 => (712, 712 + 192, 3),
        _ => (912, 912 + 192, 3),
    };
    let mut at = [0; 1];
    if !memory.read(rings.checked_add(index)?, &mut at) || u64::from(at[0]) >= entries {
        return None;
    }
    rings.checked_add(start + u64::from(at[0]) * ENTRY + SUMS)
}

#[cfg(test)]
mod tests {
    use super::{super::memory::FakeMemory, *};

    const GC: u64 = 0x2_0000 + 112;

    /// A 3.12 whose collector has these thresholds.
    fn memory(thresholds: [i32; 3], collections: u64) -> FakeMemory {
        let mut memory = FakeMemory::default();
        let mut bytes = vec![0; 256];
        for (generation, threshold) in thresholds.iter().enumerate() {
            let at = 24 + generation * 24 + 16;
            bytes[at..at + 4].copy_from_slice(&threshold.to_le_bytes());
        }
        bytes[96..104].copy_from_slice(&(GC + 24).to_le_bytes());
        bytes[128..136].copy_from_slice(&collections.to_le_bytes());
        bytes[136..144].copy_from_slice(&77u64.to_le_bytes());
        memory.put(GC, bytes);
        memory
    }

    fn read_one(memory: &FakeMemory) -> Option<Collector> {
        read(memory, Version::parse("3.12.1")?, 0x1_0000, 0x2_0000)
    }

    #[test]
    fn thresholds_and_sums_are_read() {
        let collector = read_one(&memory([700, 10, 10], 5)).unwrap();
        assert_eq!(collector.thresholds, [700, 10, 10]);
        assert_eq!((collector.stats[0].collections, collector.stats[0].collected), (5, 77));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(read_one(&memory([-1, 10, 10], 5)), None);
        assert_eq!(read_one(&memory([700, 10, 10], u64::MAX)), None);
        assert_eq!(read_one(&FakeMemory::default()), None);
        let memory = memory([700, 10, 10], 5);
        assert_eq!(
            read(&memory, Version::parse("3.16.0").unwrap(), 0x1_0000, 0x2_0000),
            None
        );
    }
}
