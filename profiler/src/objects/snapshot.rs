//! A copy of the pools of a process, in which every block that is in use can be told.
//!
//! The program goes on while it is copied. A pool says of itself whether it was copied whole: blocks that were ever used,
//! less those in its list of free ones, are as many as it says are in use. One that is torn is read again; what never
//! held still is counted.

use super::arenas::Arena;
use crate::python::memory::ReadMemory;

/// Everything in a pool is a multiple of this.
pub const GRANULE: u64 = 16;
/// `sizeof(struct pool_header)`, 3.8 – 3.15.
const HEADER: usize = 48;
/// `NB_SMALL_SIZE_CLASSES` (512 bytes in steps of 16).
const CLASSES: u32 = 32;
/// A pool of the smallest blocks has 1,021.
const WORDS: usize = 16;
/// How often a torn pool is read again, at once, which takes some microseconds. A program that does nothing but make
/// objects of one size changes the pool they are in all the time, but goes on to another one soon.
const TRIES: usize = 64;
/// Pools that a table is made for; where they lie farther apart, they are searched for.
const MOST_SPAN: u64 = 1 << 22;

/// A place in a pool: [`Snapshot::node`].
pub type Node = u32;

/// The pools.
#[derive(Debug)]
pub struct Snapshot {
    pool_bytes: u64,
    /// One pool after the other, in the order of `pools`.
    bytes: Vec<u8>,
    /// Their addresses, in order.
    pools: Vec<u64>,
    index: Index,
    pub tally: Tally,
}

/// What there was to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub arenas: u64,
    pub pools: u64,
    /// Of these, without a block in use.
    pub free_pools: u64,
    /// Were torn at first.
    pub reread: u64,
    /// Never held still.
    pub torn: u64,
    /// Could not be read.
    pub unreadable: u64,
    /// Bytes of blocks that are free, in pools that are not.
    pub free_bytes: u64,
}

/// Which pool an address is in.
#[derive(Debug)]
enum Index {
    /// By the pool's number less the first one's: its place and 1, or 0.
    Table {
        first: u64,
        places: Vec<u32>,
    },
    Search,
}

/// Blocks of a pool that are in use.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// Of each.
    pub bytes: u32,
    pub count: u32,
    free: u32,
    live: [u64; WORDS],
}

impl Snapshot {
    /// Copies them, arena by arena, which are in order and do not overlap.
    pub fn read(memory: &dyn ReadMemory, arenas: &[Arena], pool_bytes: u64) -> Self {
        let pools: Vec<u64> = arenas
            .iter()
            .flat_map(|arena| (arena.start..arena.end).step_by(pool_bytes as usize))
            .collect();
        // Zeroed by the system where it is written for the first time.
        let mut bytes = vec![0; pools.len() * pool_bytes as usize];
        let mut tally = Tally {
            arenas: arenas.len() as u64,
            pools: pools.len() as u64,
            ..Tally::default()
        };
        let mut rest = &mut bytes[..];
        for arena in arenas {
            let (copy, after) = rest.split_at_mut((arena.end - arena.start) as usize);
            rest = after;
            if !memory.read(arena.start, copy) {
                // It was given back, or is about to be.
                for (number, pool) in copy.chunks_exact_mut(pool_bytes as usize).enumerate() {
                    if !memory.read(arena.start + number as u64 * pool_bytes, pool) {
                        pool.fill(0);
                        tally.unreadable += 1;
                    }
                }
            }
            // At once: what was torn by then is soon whole.
            for (number, pool) in copy.chunks_exact_mut(pool_bytes as usize).enumerate() {
                settle(memory, arena.start + number as u64 * pool_bytes, pool, &mut tally);
            }
        }
        let index = Index::of(&pools, pool_bytes);
        Self {
            pool_bytes,
            bytes,
            pools,
            index,
            tally,
        }
    }

    /// How many nodes there can be.
    pub fn nodes(&self) -> usize {
        self.bytes.len() / GRANULE as usize
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The number of an address in a pool, if something can begin there.
    pub fn node(&self, address: u64) -> Option<Node> {
        if !address.is_multiple_of(GRANULE) {
            return None;
        }
        let place = self.place(address)?;
        let within = address & (self.pool_bytes - 1);
        Some((place as u64 * (self.pool_bytes / GRANULE) + within / GRANULE) as Node)
    }

    /// And back.
    pub fn address(&self, node: Node) -> u64 {
        let in_pool = self.pool_bytes / GRANULE;
        let pool = self
            .pools
            .get((u64::from(node) / in_pool) as usize)
            .copied()
            .unwrap_or(0);
        pool + u64::from(node) % in_pool * GRANULE
    }

    pub fn holds(&self, address: u64) -> bool {
        self.place(address).is_some()
    }

    /// From an address to the end of its pool.
    pub fn from(&self, address: u64) -> Option<&[u8]> {
        let place = self.place(address)?;
        let pool = place * self.pool_bytes as usize;
        let within = (address & (self.pool_bytes - 1)) as usize;
        self.bytes.get(pool + within..pool + self.pool_bytes as usize)
    }

    /// From an address to the end of its block, whether that is in use or not.
    pub fn block(&self, address: u64) -> Option<&[u8]> {
        let place = self.place(address)?;
        let pool = self.pool(place);
        let within = (address & (self.pool_bytes - 1)) as usize;
        let size = class_bytes(pool)? as usize;
        let block = within.checked_sub(HEADER)? / size;
        pool.get(within..(HEADER + (block + 1) * size).min(pool.len()))
    }

    /// All pools with blocks in use that held still.
    pub fn live(&self) -> impl Iterator<Item = (u64, &[u8], Blocks)> {
        self.pools.iter().enumerate().filter_map(|(place, &address)| {
            let pool = self.pool(place);
            let blocks = Blocks::of(address, pool)?;
            (blocks.count > 0).then_some((address, pool, blocks))
        })
    }

    fn pool(&self, place: usize) -> &[u8] {
        let start = place * self.pool_bytes as usize;
        self.bytes
            .get(start..start + self.pool_bytes as usize)
            .unwrap_or_default()
    }

    fn place(&self, address: u64) -> Option<usize> {
        match &self.index {
            Index::Table { first, places } => {
                let number = (address / self.pool_bytes).checked_sub(*first)?;
                let place = *places.get(usize::try_from(number).ok()?)?;
                (place as usize).checked_sub(1)
            }
            Index::Search => self.pools.binary_search(&(address & !(self.pool_bytes - 1))).ok(),
        }
    }
}

impl Index {
    fn of(pools: &[u64], pool_bytes: u64) -> Self {
        let (Some(first), Some(last)) = (pools.first(), pools.last()) else {
            return Self::Search;
        };
        let (first, last) = (first / pool_bytes, last / pool_bytes);
        if last - first >= MOST_SPAN {
            return Self::Search;
        }
        let mut places = vec![0; (last - first + 1) as usize];
        for (place, pool) in (1..).zip(pools) {
            places[(pool / pool_bytes - first) as usize] = place;
        }
        Self::Table { first, places }
    }
}

/// Reads a pool again until it is whole; one that never is counts as empty.
fn settle(memory: &dyn ReadMemory, address: u64, pool: &mut [u8], tally: &mut Tally) {
    for attempt in 0..=TRIES {
        if let Some(blocks) = Blocks::of(address, pool) {
            tally.free_pools += u64::from(blocks.count == 0);
            if blocks.count > 0 {
                tally.free_bytes += u64::from(blocks.free) * u64::from(blocks.bytes);
            }
            tally.reread += u64::from(attempt > 0);
            return;
        }
        if attempt == TRIES || !memory.read(address, pool) {
            break;
        }
    }
    tally.torn += 1;
    pool.fill(0);
}

/// The size of a pool's blocks.
fn class_bytes(pool: &[u8]) -> Option<u32> {
    let class = u32_at(pool, 36)?;
    (class < CLASSES).then(|| (class + 1) * GRANULE as u32)
}

impl Blocks {
    /// `None` if the pool is torn, or none.
    fn of(address: u64, pool: &[u8]) -> Option<Self> {
        let in_use = u32_at(pool, 0)?;
        let mut blocks = Self {
            bytes: GRANULE as u32,
            count: 0,
            free: 0,
            live: [0; WORDS],
        };
        if in_use == 0 {
            return Some(blocks);
        }
        let size = class_bytes(pool)? as usize;
        blocks.bytes = size as u32;
        let used = (u32_at(pool, 40)? as usize).min(pool.len());
        let number = used.checked_sub(HEADER)? / size;
        if number > 64 * WORDS {
            return None;
        }
        for (word, live) in blocks.live.iter_mut().enumerate() {
            *live = match number.saturating_sub(64 * word) {
                bits @ 0..64 => (1 << bits) - 1,
                _ => u64::MAX,
            };
        }
        let mut free = u64_at(pool, 8)?;
        while free != 0 {
            let within = free.checked_sub(address)?.checked_sub(HEADER as u64)? as usize;
            let block = within / size;
            let (word, bit) = (block / 64, 1_u64 << (block % 64));
            if !within.is_multiple_of(size) || block >= number || blocks.live[word] & bit == 0 {
                return None;
            }
            blocks.live[word] &= !bit;
            blocks.free += 1;
            free = u64_at(pool, HEADER + within)?;
        }
        blocks.count = number as u32 - blocks.free;
        (blocks.count == in_use).then_some(blocks)
    }

    /// How far into their pool those in use begin.
    pub fn offsets(&self) -> impl Iterator<Item = usize> {
        let size = self.bytes as usize;
        self.live.into_iter().enumerate().flat_map(move |(word, mut bits)| {
            std::iter::from_fn(move || {
                if bits == 0 {
                    return None;
                }
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                Some(HEADER + (64 * word + bit) * size)
            })
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    const POOL: u64 = 16 << 10;

    /// A pool of blocks of 32 bytes, of which these are free.
    fn pool(address: u64, used: usize, free: &[usize]) -> Vec<u8> {
        let mut pool = vec![0xaa; POOL as usize];
        let mut put = |at: usize, word: u64| pool[at..at + 8].copy_from_slice(&word.to_le_bytes());
        let block = |number: usize| address + (HEADER + 32 * number) as u64;
        put(0, (used - free.len()) as u64);
        put(8, free.first().map_or(0, |&first| block(first)));
        put(32, 1 << 32);
        put(40, (HEADER + 32 * used) as u64);
        for (at, &number) in free.iter().enumerate() {
            put(HEADER + 32 * number, free.get(at + 1).map_or(0, |&next| block(next)));
        }
        pool
    }

    /// Gives another answer each time.
    struct Moving {
        answers: Vec<Vec<u8>>,
        asked: Cell<usize>,
    }

    impl ReadMemory for Moving {
        fn read(&self, _address: u64, into: &mut [u8]) -> bool {
            let asked = self.asked.replace(self.asked.get() + 1);
            let answer = &self.answers[asked.min(self.answers.len() - 1)];
            into.copy_from_slice(&answer[..into.len()]);
            true
        }
    }

    fn read(answers: Vec<Vec<u8>>) -> Snapshot {
        let memory = Moving {
            answers,
            asked: Cell::default(),
        };
        let arena = Arena {
            start: 0x10_0000,
            end: 0x10_0000 + POOL,
        };
        Snapshot::read(&memory, &[arena], POOL)
    }

    #[test]
    fn blocks_that_are_not_in_the_list_of_free_ones_are_in_use() {
        let snapshot = read(vec![pool(0x10_0000, 100, &[99, 3, 64])]);
        let (address, _, blocks) = snapshot.live().next().unwrap();
        assert_eq!((address, blocks.count, blocks.bytes), (0x10_0000, 97, 32));
        let offsets: Vec<_> = blocks.offsets().collect();
        let expected = (0..99).filter(|number| ![3, 64].contains(number));
        assert_eq!(offsets, expected.map(|number| 48 + 32 * number).collect::<Vec<_>>());
        let node = snapshot.node(0x10_0000 + 48 + 32).unwrap();
        assert_eq!(snapshot.address(node), 0x10_0000 + 80);
        assert_eq!(snapshot.block(0x10_0000 + 48 + 48).unwrap().len(), 16);
        assert_eq!((snapshot.node(0x10_0008), snapshot.node(0x20_0000)), (None, None));
    }

    #[test]
    fn a_torn_pool_is_read_again_and_one_that_never_holds_still_is_counted() {
        let whole = pool(0x10_0000, 100, &[1]);
        let mut torn = whole.clone();
        torn[0] = 7;
        let snapshot = read(vec![torn.clone(), torn.clone(), whole]);
        assert_eq!((snapshot.tally.reread, snapshot.tally.torn), (1, 0));
        assert_eq!(snapshot.live().count(), 1);
        let snapshot = read(vec![torn]);
        assert_eq!((snapshot.tally.reread, snapshot.tally.torn), (0, 1));
        assert_eq!(snapshot.live().count(), 0);
    }

    proptest! {
        #[test]
        fn no_pool_panics_or_has_more_blocks_than_fit(
            changes in prop::collection::vec((0..200_usize, any::<u8>()), 0..12),
        ) {
            let mut bytes = pool(0x10_0000, 200, &[5, 7]);
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let snapshot = read(vec![bytes]);
            for (_, pool, blocks) in snapshot.live() {
                for offset in blocks.offsets() {
                    prop_assert!(offset + blocks.bytes as usize <= pool.len() + blocks.bytes as usize);
                }
            }
        }
    }
}
