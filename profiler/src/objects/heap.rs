//! The memory of a process as far as objects are in it: what was copied, and beyond that the process itself.

use std::cell::{Cell, RefCell};

use rustc_hash::FxHashMap;

use super::snapshot::{GRANULE, Snapshot, u64_at};
use crate::python::memory::ReadMemory;

/// Read at a time of what is not in a pool.
const CHUNK: usize = 64 << 10;
/// Bytes of the process that are read beyond the pools, in all: what says that it has more is not believed.
const MOST_BYTES: u64 = 16 << 30;

/// What is not in a pool is read by pages, and kept: objects there are looked at in small pieces, some hundred thousand of
/// them, and each piece would be a system call.
const PAGE: u64 = 4096;
/// Pages that are kept (32 MiB).
const MOST_PAGES: usize = 8 << 10;

pub struct Heap<'a> {
    memory: &'a dyn ReadMemory,
    pub snapshot: Snapshot,
    /// What may still be read.
    left: Cell<u64>,
    buffer: RefCell<Vec<u8>>,
    pages: RefCell<Pages>,
}

/// Pages of the process, by number; `None` where there is nothing.
#[derive(Default)]
struct Pages {
    places: FxHashMap<u64, Option<u32>>,
    bytes: Vec<u8>,
}

impl<'a> Heap<'a> {
    pub fn new(memory: &'a dyn ReadMemory, snapshot: Snapshot) -> Self {
        Self {
            memory,
            snapshot,
            left: Cell::new(MOST_BYTES),
            buffer: RefCell::default(),
            pages: RefCell::default(),
        }
    }

    /// Fills `into` from an address, or does nothing that counts.
    pub fn read(&self, address: u64, into: &mut [u8]) -> bool {
        if let Some(bytes) = self.snapshot.from(address).and_then(|rest| rest.get(..into.len())) {
            into.copy_from_slice(bytes);
            return true;
        }
        let within = (address % PAGE) as usize;
        if within + into.len() <= PAGE as usize
            && let Some(is_there) = self.read_kept(address / PAGE, within, into)
        {
            return is_there;
        }
        self.spend(into.len() as u64) && self.memory.read(address, into)
    }

    /// Fills `into` from a page; `None` if it is not kept.
    fn read_kept(&self, page: u64, within: usize, into: &mut [u8]) -> Option<bool> {
        let mut pages = self.pages.borrow_mut();
        let place = match pages.places.get(&page) {
            Some(&place) => place,
            None if pages.places.len() >= MOST_PAGES => return None,
            None => {
                let start = pages.bytes.len();
                pages.bytes.resize(start + PAGE as usize, 0);
                let is_there = self.spend(PAGE) && self.memory.read(page * PAGE, &mut pages.bytes[start..]);
                let place = is_there.then_some((start / PAGE as usize) as u32);
                if !is_there {
                    pages.bytes.truncate(start);
                }
                pages.places.insert(page, place);
                place
            }
        };
        let Some(place) = place else { return Some(false) };
        let start = place as usize * PAGE as usize + within;
        let bytes = pages.bytes.get(start..start + into.len())?;
        into.copy_from_slice(bytes);
        Some(true)
    }

    pub fn word(&self, address: u64) -> Option<u64> {
        if let Some(rest) = self.snapshot.from(address) {
            return u64_at(rest, 0);
        }
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// Words as the process has them now, whatever was copied.
    pub fn now<const N: usize>(&self, address: u64) -> Option<[u64; N]> {
        let mut bytes = vec![0; 8 * N];
        (self.spend(bytes.len() as u64) && self.memory.read(address, &mut bytes)).then(|| {
            let words: [u64; N] = std::array::from_fn(|at| u64_at(&bytes, 8 * at).unwrap_or(0));
            words
        })
    }

    /// Calls back with each of so many records and its number. Returns how many could be read.
    pub fn records(&self, address: u64, bytes: usize, count: u64, mut record: impl FnMut(u64, &[u8])) -> u64 {
        if bytes == 0 || count == 0 {
            return 0;
        }
        let whole = usize::try_from(count).ok().and_then(|count| count.checked_mul(bytes));
        let Some(whole) = whole else { return 0 };
        if let Some(inside) = self.snapshot.from(address) {
            let inside = inside.get(..whole).unwrap_or_default();
            inside
                .chunks_exact(bytes)
                .zip(0..)
                .for_each(|(bytes, at)| record(at, bytes));
            return inside.len() as u64 / bytes as u64;
        }
        // Taken, as somebody may read records while they look at one.
        let mut buffer = self.buffer.take();
        let at_once = (CHUNK / bytes).max(1);
        let mut done = 0;
        while done < count {
            let now = at_once.min((count - done) as usize);
            buffer.resize(now * bytes, 0);
            let from = address.wrapping_add(done * bytes as u64);
            if !self.read(from, &mut buffer) {
                break;
            }
            for (number, bytes) in (done..).zip(buffer.chunks_exact(bytes)) {
                record(number, bytes);
            }
            done += now as u64;
        }
        self.buffer.replace(buffer);
        done
    }

    /// The same, of words.
    pub fn words(&self, address: u64, count: u64, mut word: impl FnMut(u64, u64)) -> u64 {
        self.records(address, 8, count, |at, bytes| word(at, u64_at(bytes, 0).unwrap_or(0)))
    }

    /// The bytes that an object in a pool has at most.
    pub fn room(&self, address: u64) -> Option<u64> {
        self.snapshot.block(address).map(|block| block.len() as u64)
    }

    fn spend(&self, bytes: u64) -> bool {
        let left = self.left.get().checked_sub(bytes.max(GRANULE));
        left.inspect(|&left| self.left.set(left)).is_some()
    }

    /// Whether all was read that was asked for.
    pub fn is_spent(&self) -> bool {
        self.left.get() < CHUNK as u64
    }
}

impl ReadMemory for Heap<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        Self::read(self, address, into)
    }
}
