//! Memory of a process that was never there, for tests and for `cargo xtask fuzz`: a 3.12 with a few types, a module, and a
//! list of instances that it holds.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    account::{Account, Notes},
    adders,
    arenas::Arena,
    census,
    growth::Growth,
    questions,
    regions::Regions,
    snapshot::Snapshot,
    target::{Exported, Target},
};
use crate::python::{
    binary::PythonBinary,
    heap::{HeapLayout, NoHeapLayout},
    layout::Layout,
    memory::ReadMemory,
    object::ObjectLayout,
    thread_lookup::ThreadLookup,
    version::Version,
};

/// Data of the interpreter's file, and two pools; the bytes of one follow those of the other.
const IMAGE: u64 = 0x10_0000;
const IMAGE_BYTES: u64 = 0x4000;
const POOLS: u64 = 0x20_0000;
const POOL: u64 = 0x4000;
const BYTES: usize = (IMAGE_BYTES + 2 * POOL) as usize;

const TYPE: u64 = IMAGE;
const LIST: u64 = IMAGE + 0x400;
const DICT: u64 = IMAGE + 0x800;
const TEXT: u64 = IMAGE + 0xc00;
const MODULE: u64 = IMAGE + 0x1000;
const CLASS: u64 = IMAGE + 0x1400;
const NAMES: u64 = IMAGE + 0x2000;
const RUNTIME: u64 = IMAGE + 0x2800;
const INTERPRETER: u64 = IMAGE + 0x3000;

struct Made {
    bytes: Vec<u8>,
    /// Blocks of each pool that are taken.
    taken: [u64; 2],
}

/// Bytes of the blocks in each pool.
const BLOCK: [u64; 2] = [64, 192];

impl Made {
    fn put(&mut self, address: u64, words: &[u64]) {
        let at = place(address).unwrap_or(0);
        for (word, bytes) in words.iter().zip(self.bytes[at..].chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    fn put_text(&mut self, address: u64, text: &str) {
        let at = place(address).unwrap_or(0);
        self.bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
    }

    fn block(&mut self, pool: usize) -> u64 {
        self.taken[pool] += 1;
        POOLS + POOL * pool as u64 + 48 + BLOCK[pool] * (self.taken[pool] - 1)
    }

    fn kind(&mut self, at: u64, name: &str, basic: u64, flags: u64) {
        let name_at = NAMES + (at - IMAGE) / 16;
        self.put_text(name_at, name);
        let mut words = [0; 52];
        (words[0], words[1], words[3], words[4]) = (1, TYPE, name_at, basic);
        words[21] = flags | 1 << 12;
        self.put(at, &words);
    }

    fn text(&mut self, text: &str) -> u64 {
        let at = self.block(0);
        self.put(at, &[1, TEXT, text.len() as u64, 0, 0x64]);
        self.put_text(at + 40, text);
        at
    }

    fn dict(&mut self, entries: &[(&str, u64)]) -> u64 {
        let keys = self.block(1);
        let entries: Vec<u64> = entries
            .iter()
            .flat_map(|&(name, value)| [self.text(name), value])
            .collect();
        let number = entries.len() as u64 / 2;
        self.put(keys, &[1, 0x01_03_03, 0, 5 - number, number, 0]);
        self.put(keys + 40, &entries);
        let at = self.block(0);
        self.put(at, &[POOLS + 16, POOLS + 16, 1, DICT, number, 0, keys, 0]);
        at + 16
    }

    fn list(&mut self, items: &[u64]) -> u64 {
        let (at, buffer) = (self.block(0), self.block(1));
        let number = items.len() as u64;
        self.put(buffer, items);
        self.put(at, &[POOLS + 16, POOLS + 16, 1, LIST, number, buffer, number]);
        at + 16
    }

    /// An instance whose attributes are in a dict.
    fn instance(&mut self, dict: u64) -> u64 {
        let at = self.block(0);
        self.put(at, &[0, dict, POOLS + 16, POOLS + 16, 1, CLASS]);
        at + 32
    }
}

/// Three instances of `Foo` in the list `app.cache`, one of which has an attribute.
pub fn memory() -> Vec<u8> {
    const GC: u64 = 1 << 14;
    let mut made = Made {
        bytes: vec![0; BYTES],
        taken: [0; 2],
    };
    made.kind(TYPE, "type", 880, GC | 1 << 31);
    made.kind(LIST, "list", 40, GC | 1 << 25);
    made.kind(DICT, "dict", 48, GC | 1 << 29);
    made.kind(TEXT, "str", 56, 1 << 28);
    made.kind(MODULE, "module", 48, GC);
    made.put(MODULE + 288, &[16]);
    made.kind(CLASS, "Foo", 16, GC | 1 << 4);
    let name = made.text("Ada");
    let attributes = made.dict(&[("name", name)]);
    let items = [made.instance(attributes), made.instance(0), made.instance(0)];
    let cache = made.list(&items);
    let dict = made.dict(&[("cache", cache)]);
    let module = made.block(0);
    made.put(module, &[POOLS + 16, POOLS + 16, 1, MODULE, dict]);
    let modules = made.dict(&[("app", module + 16)]);
    made.put(RUNTIME + 40, &[INTERPRETER, INTERPRETER]);
    made.put(INTERPRETER + 944, &[modules]);
    for (pool, taken) in made.taken.into_iter().enumerate() {
        let size = BLOCK[pool];
        let header = [taken, 0, 0, 0, (size / 16 - 1) << 32, 48 + size * taken];
        made.put(POOLS + POOL * pool as u64, &header);
    }
    made.bytes
}

fn place(address: u64) -> Option<usize> {
    let within = |start: u64, bytes: u64| address.checked_sub(start).filter(|&at| at < bytes);
    let at = match within(IMAGE, IMAGE_BYTES) {
        Some(at) => at,
        None => IMAGE_BYTES + within(POOLS, 2 * POOL)?,
    };
    Some(at as usize)
}

/// Such memory.
struct Bytes<'a>(&'a [u8]);

impl ReadMemory for Bytes<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let Some(at) = place(address) else { return false };
        let Some(bytes) = self.0.get(at..).and_then(|rest| rest.get(..into.len())) else {
            return false;
        };
        into.copy_from_slice(bytes);
        true
    }
}

fn target() -> Result<Target, NoHeapLayout> {
    let version = Version::parse("3.12.1").ok_or(NoHeapLayout::Unknown)?;
    let layout = Layout::of_series(version).ok_or(NoHeapLayout::Unknown)?;
    let binary = PythonBinary {
        version,
        layout,
        position_independent: false,
        runtime: RUNTIME,
        runtime_bytes: 0x400,
        code_type: 0,
        thread_lookup: ThreadLookup::PthreadKey { key: 0 },
        musl: None,
        eval_loop: Vec::new(),
        eval_handlers: Vec::new(),
        no_eval_loop: None,
        eval_frame: 0,
        chain_gaps: Vec::new(),
        next_number: None,
    };
    Ok(Target {
        pid: 1,
        process: binary.process(0, 0),
        binary: Arc::new(binary),
        bias: 0,
        heap: HeapLayout::of(version, &[])?,
        objects: ObjectLayout::of(version, false).ok_or(NoHeapLayout::Unknown)?,
        tables: crate::python::allocator::table::Tables::default(),
        types: Exported {
            kind: TYPE,
            list: LIST,
            dict: DICT,
            module: MODULE,
            ..Exported::default()
        },
        block_header: 0,
        image: (1, 1),
    })
}

/// A census of such memory, and what can be asked of it.
pub fn census(bytes: &[u8]) -> Option<Account> {
    later(bytes, bytes)
}

/// The same of memory that has changed since its pools were copied.
fn later(copied: &[u8], bytes: &[u8]) -> Option<Account> {
    let target = target().ok()?;
    let maps = format!(
        "{IMAGE:x}-{:x} rw-p 00000000 00:01 1 /python\n{POOLS:x}-{:x} rw-p 00000000 00:00 0\n",
        IMAGE + IMAGE_BYTES,
        POOLS + 2 * POOL
    );
    let regions = Regions::parse(maps.as_bytes());
    let memory = Bytes(bytes);
    let arena = Arena {
        start: POOLS,
        end: POOLS + 2 * POOL,
    };
    let snapshot = Snapshot::read(&Bytes(copied), &[arena], POOL);
    let began = Instant::now();
    let bound = census::Bound::new(Duration::from_secs(2), Duration::from_secs(20));
    Some(census::over(
        &target,
        &memory,
        &regions,
        snapshot,
        Notes::default(),
        began,
        bound,
        |walk, notes| {
            let account = Account::new(walk, notes);
            if let Ok(growth) = Growth::between(&Account::default(), &account) {
                adders::at_least(walk, &growth, 0, 0);
            }
            questions::largest(walk, 5);
            let _ = questions::referrers(walk, "Foo", 5);
            account
        },
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(account: &Account, path: &str) -> (u64, u64) {
        let holder = account.holders.iter().find(|holder| holder.path.text() == path);
        holder.map_or((0, 0), |holder| (holder.sums.objects, holder.sums.whole))
    }

    #[test]
    fn each_object_hangs_on_the_name_that_holds_it() {
        let account = census(&memory()).unwrap();
        assert_eq!(account.kinds["Foo"].objects, 3);
        // A list of three, with room for as many; its head has 16 bytes.
        assert_eq!(held(&account, "app.cache: list"), (1, 16 + 40 + 24));
        assert_eq!(held(&account, "app.cache: list → Foo"), (3, 3 * (32 + 16)));
        assert_eq!(
            held(&account, "app.cache: list → Foo.__dict__ → dict"),
            (1, 64 + 32 + 8 + 5 * 16)
        );
        assert_eq!(held(&account, "app.cache: list → Foo.name → str"), (1, 40 + 4));
        assert_eq!(account.kinds["dict"].objects, 3);
    }

    /// `list.sort` takes the items away meanwhile, and sets the room to -1.
    #[test]
    fn a_list_that_is_being_sorted_has_no_buffer_of_gibibytes() {
        let mut memory = memory();
        let list = memory
            .chunks_exact(8)
            .position(|word| word == LIST.to_le_bytes())
            .unwrap();
        memory[8 * (list + 1)..8 * (list + 3)].fill(0);
        memory[8 * (list + 3)..8 * (list + 4)].fill(0xff);
        let account = census(&memory).unwrap();
        assert_eq!(held(&account, "app.cache: list"), (1, 16 + 40));
    }

    /// A long list's buffer is not in a pool, and moves when it grows: what was there is gone.
    #[test]
    fn the_items_of_a_list_that_has_moved_since_are_found() {
        const BUFFERS: [u64; 2] = [IMAGE + 0x3800, IMAGE + 0x3900];
        let mut copied = memory();
        let list = 8 * copied
            .chunks_exact(8)
            .position(|word| word == LIST.to_le_bytes())
            .unwrap();
        let word = |memory: &[u8], at: usize| u64::from_le_bytes(memory[at..at + 8].try_into().unwrap());
        let items = place(word(&copied, list + 16)).unwrap();
        let items = copied[items..items + 24].to_vec();
        copied[list + 16..list + 24].copy_from_slice(&BUFFERS[0].to_le_bytes());
        let mut now = copied.clone();
        now[list + 16..list + 24].copy_from_slice(&BUFFERS[1].to_le_bytes());
        let at = place(BUFFERS[1]).unwrap();
        now[at..at + 24].copy_from_slice(&items);
        let account = later(&copied, &now).unwrap();
        assert_eq!(held(&account, "app.cache: list → Foo").0, 3);
        assert_eq!(held(&later(&copied, &copied).unwrap(), "app.cache: list → Foo").0, 0);
    }

    #[test]
    fn what_became_more_is_the_difference_of_two() {
        let before = memory();
        let mut after = before.clone();
        // One instance of the list is none any more: its count of references is 0.
        let list = after
            .chunks_exact(8)
            .position(|word| word == CLASS.to_le_bytes())
            .unwrap();
        after[8 * (list - 1)..8 * list].fill(0);
        let (before, after) = (census(&after).unwrap(), census(&before).unwrap());
        let growth = Growth::between(&before, &after).unwrap();
        let more = growth.kinds.iter().find(|(name, _)| &**name == "Foo").unwrap();
        assert_eq!((more.1.objects, more.1.own), (1, 48));
        let back = Growth::between(&after, &before).unwrap();
        assert_eq!(back.total.objects, -growth.total.objects);
        assert!(Growth::between(&after, &after).unwrap().kinds.is_empty());
        // A half has everything less.
        let mut half = after.clone();
        half.notes.walk.is_cut = true;
        assert!(Growth::between(&before, &half).is_err() && Growth::between(&half, &after).is_err());
        half.notes.walk.is_cut = false;
        half.notes.is_spent = true;
        assert!(Growth::between(&before, &half).is_err());
    }

    proptest! {
        #[test]
        fn no_memory_panics_or_has_more_objects_than_fit(
            changes in prop::collection::vec((0..BYTES / 8, any::<u64>(), 0..64_u32), 0..40),
            pointers in prop::collection::vec((0..BYTES / 8, 0..BYTES / 16), 0..40),
        ) {
            let mut bytes = memory();
            for (word, value, shift) in changes {
                bytes[8 * word..8 * word + 8].copy_from_slice(&(value >> shift).to_le_bytes());
            }
            // Everything can point anywhere.
            for (word, to) in pointers {
                let to = if to < 0x400 { IMAGE + 16 * to as u64 } else { POOLS + 16 * (to as u64 - 0x400) };
                bytes[8 * word..8 * word + 8].copy_from_slice(&to.to_le_bytes());
            }
            let account = census(&bytes).unwrap();
            prop_assert!(account.total().objects <= BYTES as u64 / 16);
        }

        #[test]
        fn no_size_in_a_busy_place_panics(
            word in prop_oneof![Just(u64::MAX), Just(1 << 62), any::<u64>()],
            at in 0..200_usize,
        ) {
            let mut bytes = memory();
            let at = IMAGE_BYTES as usize / 8 + at;
            bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
            prop_assert!(census(&bytes).is_some());
        }
    }
}
