//! The arenas of a process: where pymalloc has its pools, found without symbols.
//!
//! The table of arenas is where some variable of CPython points: a static one (3.8 – 3.11), or one in the state of
//! pymalloc that an interpreter has or points at (3.12 on). Its entries are unmistakable, so the writable data of the file
//! is searched for a pointer to such a thing. Ten builds had one each, and it was what their symbols or offsets say
//! (shared/field/objects.md §2.2). An interpreter with a GIL of its own has a state of its own; it is as far into that
//! interpreter's as the main one's is into its own.

use rustc_hash::FxHashSet;

use super::{regions::Regions, target::Target};
use crate::python::memory::ReadMemory;

/// `struct arena_object` (3.8 – 3.15).
const ENTRY_BYTES: usize = 48;
/// `INITIAL_ARENA_OBJECTS`: no table is shorter.
const FEWEST: usize = 16;
/// A quarter of a million arenas would be 256 GiB of small objects.
const MOST: u64 = 1 << 18;
/// From the beginning of pymalloc's state to the table's address (3.12 – 3.15; `usedpools` lies before it).
const TABLE_IN_STATE: u64 = 512;
/// How far into an interpreter's state it is looked for; it lies at 3,960 to 10,904.
const SEARCHED_OF_INTERPRETER: usize = 64 << 10;
/// Data of a file that is searched; the largest has 2 MiB.
const MOST_DATA: u64 = 64 << 20;
/// Entries that are looked at while searching.
const MOST_PROBES: usize = 20_000;

/// Pools that were in use or are free; those beyond were never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arena {
    /// The first pool.
    pub start: u64,
    pub end: u64,
}

/// A table of arenas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Table {
    address: u64,
    entries: u64,
}

/// The tables of all interpreters of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables(Vec<Slot>);

/// Where a table's address and length stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    address: u64,
    entries: Entries,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entries {
    /// Near the address, in an order that differs.
    Near,
    /// In the next word (3.12 on).
    Next,
}

impl Tables {
    /// Searches for them.
    pub fn find(target: &Target, memory: &dyn ReadMemory, regions: &Regions) -> Option<Self> {
        let main = search(target, memory, regions)?;
        if target.binary.version.series() < (3, 12) {
            return Some(Self(vec![Slot {
                address: main,
                entries: Entries::Near,
            }]));
        }
        let slot = |state: u64| Slot {
            address: state.wrapping_add(TABLE_IN_STATE),
            entries: Entries::Next,
        };
        let state = main.wrapping_sub(TABLE_IN_STATE);
        let mut tables = vec![slot(state)];
        let interpreters = target.interpreters(memory);
        let (&first, others) = interpreters.split_first()?;
        if let Some(place) = place(target, memory, first, state) {
            for &other in others {
                let state = match place {
                    Place::Within(offset) => Some(other.wrapping_add(offset)),
                    Place::Pointed(offset) => memory.read_u64(other.wrapping_add(offset)),
                };
                if let Some(slot) = state.filter(|&at| at != 0).map(slot)
                    && !tables.contains(&slot)
                {
                    tables.push(slot);
                }
            }
        }
        Some(Self(tables))
    }

    /// The arenas there are now.
    pub fn arenas(&self, target: &Target, memory: &dyn ReadMemory) -> Vec<Arena> {
        let mut arenas = Vec::new();
        let mut seen = FxHashSet::default();
        for slot in &self.0 {
            let Some(table) = slot.table(memory) else { continue };
            let Some(bytes) = memory.read_vec(table.address, table.entries as usize * ENTRY_BYTES) else {
                continue;
            };
            for entry in bytes.chunks_exact(ENTRY_BYTES) {
                if let Some(Some(arena)) = arena(target, entry)
                    && seen.insert(arena.start)
                {
                    arenas.push(arena);
                }
            }
        }
        arenas.sort_unstable_by_key(|arena| arena.start);
        // Arenas do not overlap; what says so is none.
        let mut last = 0;
        arenas.retain(|arena| {
            let apart = arena.start >= last;
            if apart {
                last = arena.end;
            }
            apart
        });
        arenas
    }
}

impl Slot {
    fn table(&self, memory: &dyn ReadMemory) -> Option<Table> {
        let address = memory.read_u64(self.address).filter(|&at| at != 0)?;
        let entries = match self.entries {
            Entries::Next => memory.read_u64(self.address.wrapping_add(8))? & 0xffff_ffff,
            Entries::Near => {
                let around = memory.read_vec(self.address.wrapping_sub(24), 56)?;
                let words = around.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
                words.filter_map(length).max()?
            }
        };
        (entries >= FEWEST as u64 && entries <= MOST).then_some(Table { address, entries })
    }
}

/// Where an interpreter has the state of pymalloc.
#[derive(Clone, Copy)]
enum Place {
    Within(u64),
    Pointed(u64),
}

fn place(target: &Target, memory: &dyn ReadMemory, interpreter: u64, state: u64) -> Option<Place> {
    // 3.12 has it inside.
    if target.binary.version.series() == (3, 12) {
        return state.checked_sub(interpreter).map(Place::Within);
    }
    let bytes = memory.read_vec(interpreter, SEARCHED_OF_INTERPRETER)?;
    let at = bytes
        .as_chunks()
        .0
        .iter()
        .position(|word| u64::from_le_bytes(*word) == state)?;
    Some(Place::Pointed(8 * at as u64))
}

/// A length of a table as it stands beside its address: they double from 16 on.
fn length(word: u64) -> Option<u64> {
    let length = word & 0xffff_ffff;
    (length.is_power_of_two() && length >= FEWEST as u64 && length <= MOST).then_some(length)
}

/// What an entry says: `None` if it is none, `Some(None)` if it is not in use.
#[expect(clippy::option_option, reason = "no entry and a free one are different things")]
fn arena(target: &Target, entry: &[u8]) -> Option<Option<Arena>> {
    let word = |at: usize| {
        let bytes = entry.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map(|bytes| u64::from_le_bytes(*bytes))
    };
    let (address, pool_address, counts) = (word(0)?, word(8)?, word(16)?);
    if address == 0 {
        return Some(None);
    }
    let (free, total) = (counts & 0xffff_ffff, counts >> 32);
    let (pool, arena) = (target.heap.pool_bytes, target.heap.arena_bytes);
    let most = arena / pool;
    let end = address.checked_add(arena)?;
    if !address.is_multiple_of(4096)
        || address >> 47 != 0
        || !(most - 1..=most).contains(&total)
        || free > total
        || !(address..=end).contains(&pool_address)
        || !pool_address.is_multiple_of(pool) && pool_address != address
    {
        return None;
    }
    let start = address.next_multiple_of(pool);
    Some(Some(Arena {
        start,
        end: pool_address.max(start),
    }))
}

/// The address of the variable that points to the table.
fn search(target: &Target, memory: &dyn ReadMemory, regions: &Regions) -> Option<u64> {
    let mut found: Option<(u64, u64)> = None;
    let mut probes = 0;
    let mut searched = 0;
    for region in regions.data().filter(|region| region.image == Some(target.image)) {
        searched += region.range.end - region.range.start;
        if searched > MOST_DATA {
            break;
        }
        let bytes = memory.read_vec(region.range.start, (region.range.end - region.range.start) as usize);
        let bytes = bytes.unwrap_or_default();
        let words: Vec<u64> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .collect();
        for (at, &word) in words.iter().enumerate() {
            if word < 0x10000
                || !word.is_multiple_of(16)
                || word >> 47 != 0
                || found.is_some_and(|(_, table)| word >= table)
            {
                continue;
            }
            let around = &words[at.saturating_sub(3)..(at + 4).min(words.len())];
            if !around.iter().any(|&word| length(word).is_some()) || !regions.is_allocated(word) {
                continue;
            }
            probes += 1;
            if probes > MOST_PROBES {
                return found.map(|(slot, _)| slot);
            }
            // Others point into the same table; the lowest is its beginning.
            if is_table(target, memory, word) {
                found = Some((region.range.start + 8 * at as u64, word));
            }
        }
    }
    found.map(|(slot, _)| slot)
}

fn is_table(target: &Target, memory: &dyn ReadMemory, address: u64) -> bool {
    let Some(bytes) = memory.read_vec(address, FEWEST * ENTRY_BYTES) else {
        return false;
    };
    let mut used = 0;
    for entry in bytes.chunks_exact(ENTRY_BYTES) {
        match arena(target, entry) {
            None => return false,
            Some(None) => {}
            Some(Some(_)) => used += 1,
        }
    }
    used > 0
}
