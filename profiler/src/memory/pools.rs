//! pymalloc's pools: pieces of 16 KiB (4 KiB before 3.10) that hold objects of one size.
//!
//! A pool that has become empty is kept and used again, for another size and by other code. Its pages do not fault
//! again, so the births of pools tell whose a page is now. What became of a pool at the end is read from its header.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::account::Amount;
use super::event::SiteId;

/// A pool whose birth was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub bytes: u32,
    pub object_bytes: u32,
    /// How many births this one stands for.
    pub weight: u32,
    pub site: SiteId,
    /// Since the recording began.
    pub born_ms: u32,
    /// If it stands for more than itself: those of its first pages that were there when it was born, and are lent to it
    /// ([`loan`](super::loan)), as bits.
    pub lent: u16,
}

/// The pools of one process, by address; they do not overlap.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pools: BTreeMap<u64, Pool>,
}

impl Pools {
    pub fn len(&self) -> usize {
        self.pools.len()
    }

    pub fn contains(&self, address: u64) -> bool {
        self.pools.contains_key(&address)
    }

    /// Returns whether there was a pool before: then its memory is used again.
    pub fn put(&mut self, address: u64, pool: Pool) -> bool {
        let was = self.overlapping(address..address.saturating_add(pool.bytes.into()));
        let used_again = !was.is_empty();
        for address in was {
            self.pools.remove(&address);
        }
        self.pools.insert(address, pool);
        used_again
    }

    /// The memory is gone, and with it the pools that have any of it.
    pub fn release(&mut self, range: Range<u64>) {
        for address in self.overlapping(range) {
            self.pools.remove(&address);
        }
    }

    pub fn clear(&mut self) {
        self.pools.clear();
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, Pool)> {
        self.pools.iter().map(|(&address, &pool)| (address, pool))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pool> {
        self.pools.values_mut()
    }

    /// Sets what is lent to a pool.
    pub fn lend(&mut self, address: u64, lent: u16) {
        if let Some(pool) = self.pools.get_mut(&address) {
            pool.lent = lent;
        }
    }

    /// Those that have any of the memory.
    pub fn within(&self, range: Range<u64>) -> Vec<(u64, Pool)> {
        let known = |address| Some((address, *self.pools.get(&address)?));
        self.overlapping(range).into_iter().filter_map(known).collect()
    }

    fn overlapping(&self, range: Range<u64>) -> Vec<u64> {
        if range.start >= range.end {
            return Vec::new();
        }
        let before = self.pools.range(..range.start).next_back();
        before
            .filter(|&(&address, pool)| address.saturating_add(pool.bytes.into()) > range.start)
            .into_iter()
            .chain(self.pools.range(range))
            .map(|(&address, _)| address)
            .collect()
    }
}

/// What the pools of one site come to. All but the births is known after [`finish`](super::space::Growth::finish).
///
/// Births are of all pools, those in memory from before the recording included, which `Accounts` does not count. So
/// they may exceed what the site allocated there, and must not be added to it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PoolTotals {
    /// `count` is the number of pools.
    pub born: Amount,
    /// Of those, how many were born at an address that is not known. They are in no other number here.
    pub without_address: u64,
    /// Pools that hold objects at the end, and are still those that were born here.
    pub in_use: u64,
    /// What these hold.
    pub objects: u64,
    pub object_bytes: u64,
    /// Pools that are empty at the end.
    pub free: u64,
    /// Pools that could not be read, or in which objects of another size are: their latest birth was not seen.
    pub unknown: u64,
}

/// What the header of a pool says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolHeader {
    /// Objects in use: `ref.count`, at 0.
    pub used: u32,
    /// `szidx`, at 36: objects have 16 × (`size_class` + 1) bytes.
    pub size_class: u32,
}

/// How a pool is at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PoolState {
    Free,
    Holds { objects: u32 },
    Unknown,
}

/// `sizeof(struct pool_header)`, rounded up to 16: the objects begin there (3.8 – 3.15, 64 bits).
const OVERHEAD: u32 = 48;
/// `ALIGNMENT` of obmalloc.c with 64 bits.
const ALIGNMENT: u32 = 16;
/// Of `struct pool_header`: up to and including `szidx`.
const HEADER: usize = 40;

impl PoolHeader {
    fn parse(bytes: &[u8; HEADER]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            used: word(0),
            size_class: word(36),
        }
    }

    /// Whether `pool` is what this is the header of. The memory may be anything by now.
    pub(super) fn state(self, pool: &Pool) -> PoolState {
        let fits = pool.bytes.saturating_sub(OVERHEAD) / pool.object_bytes.max(1);
        let object_bytes = self.size_class.checked_add(1).and_then(|n| n.checked_mul(ALIGNMENT));
        match self.used {
            // A pool that was given back keeps its size class.
            _ if object_bytes != Some(pool.object_bytes) => PoolState::Unknown,
            0 => PoolState::Free,
            objects if objects <= fits => PoolState::Holds { objects },
            _ => PoolState::Unknown,
        }
    }
}

/// Reads headers of pools. A trait, so that the model can be tested without a process.
pub trait PoolReader {
    /// One answer per address, in their order; None where nothing could be read.
    fn headers(&mut self, pid: u32, addresses: &[u64]) -> Vec<Option<PoolHeader>>;
}

/// Reads the headers from the live process, many per system call.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessPools;

/// `IOV_MAX` is 1024.
const BATCH: usize = 512;

impl PoolReader for ProcessPools {
    fn headers(&mut self, pid: u32, addresses: &[u64]) -> Vec<Option<PoolHeader>> {
        let mut headers = Vec::with_capacity(addresses.len());
        let mut bytes = vec![[0; HEADER]; BATCH];
        while headers.len() < addresses.len() {
            let rest = &addresses[headers.len()..];
            let batch = &rest[..rest.len().min(BATCH)];
            match read_batch(pid, batch, &mut bytes) {
                // The first one cannot be read.
                Ok(0) => headers.push(None),
                Ok(read) => headers.extend(bytes[..read].iter().map(PoolHeader::parse).map(Some)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EFAULT) => headers.push(None),
                // No such process, or no right to read it: asking for each address would say the same.
                Err(_) => headers.resize(addresses.len(), None),
            }
        }
        headers
    }
}

/// Returns how many of the first headers were read whole.
fn read_batch(pid: u32, addresses: &[u64], into: &mut [[u8; HEADER]]) -> io::Result<usize> {
    let remote: Vec<_> = addresses
        .iter()
        .take(into.len())
        .map(|&address| libc::iovec {
            iov_base: address as *mut libc::c_void,
            iov_len: HEADER,
        })
        .collect();
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: remote.len() * HEADER,
    };
    // SAFETY: `local` describes the first elements of `into`, which is valid for writes and borrowed for the call.
    // `remote` holds addresses in another process: the kernel checks them there and nothing here dereferences them.
    let read = unsafe {
        libc::process_vm_readv(
            pid as libc::pid_t,
            &local,
            1,
            remote.as_ptr(),
            remote.len() as libc::c_ulong,
            0,
        )
    };
    // -1 is the only negative value. What is read stops in front of the first element that is not there.
    usize::try_from(read).map_or_else(|_| Err(io::Error::last_os_error()), |read| Ok(read / HEADER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POOL: Pool = Pool {
        bytes: 16384,
        object_bytes: 64,
        weight: 1,
        site: 7,
        born_ms: 0,
        lent: 0,
    };

    fn header(used: u32, size_class: u32) -> PoolHeader {
        PoolHeader { used, size_class }
    }

    #[test]
    fn a_pool_is_free_when_it_holds_no_object() {
        assert_eq!(header(0, 3).state(&POOL), PoolState::Free);
        assert_eq!(header(1, 3).state(&POOL), PoolState::Holds { objects: 1 });
        assert_eq!(header(255, 3).state(&POOL), PoolState::Holds { objects: 255 });
    }

    #[test]
    fn what_cannot_be_the_header_of_the_pool_is_unknown() {
        // (16384 - 48) / 64 = 255.25
        assert_eq!(header(256, 3).state(&POOL), PoolState::Unknown);
        assert_eq!(header(5, 4).state(&POOL), PoolState::Unknown);
        assert_eq!(header(u32::MAX, u32::MAX).state(&POOL), PoolState::Unknown);
        let nothing = Pool {
            bytes: 0,
            object_bytes: 0,
            ..POOL
        };
        assert_eq!(header(1, 3).state(&nothing), PoolState::Unknown);
    }

    #[test]
    fn a_pool_takes_the_place_of_what_it_overlaps() {
        let mut pools = Pools::default();
        let small = Pool { bytes: 4096, ..POOL };
        assert!(!pools.put(0x4000, small));
        assert!(!pools.put(0x6000, small));
        assert!(pools.put(0x4000, POOL));
        assert_eq!(pools.iter().collect::<Vec<_>>(), [(0x4000, POOL)]);
        pools.release(0x7000..0x8000);
        assert_eq!(pools.len(), 0);
    }

    #[test]
    fn headers_are_read_past_those_that_are_not_there() {
        let mut pool = [0_u8; HEADER];
        pool[..4].copy_from_slice(&3_u32.to_le_bytes());
        pool[36..].copy_from_slice(&7_u32.to_le_bytes());
        let here = pool.as_ptr() as u64;
        // More than one batch, with holes.
        let addresses: Vec<_> = (0..BATCH as u64 * 2 + 10)
            .map(|n| if n % 100 == 50 { 0x10 } else { here })
            .collect();
        let headers = ProcessPools.headers(std::process::id(), &addresses);
        let expected: Vec<_> = addresses
            .iter()
            .map(|&address| (address == here).then_some(header(3, 7)))
            .collect();
        assert_eq!(headers, expected);
        assert_eq!(
            ProcessPools.headers(0x7fff_ffff, &addresses),
            vec![None; addresses.len()]
        );
    }

    proptest! {
        #[test]
        fn any_header_has_a_state(bytes: [u8; HEADER], bytes_of_pool: u32, object_bytes: u32) {
            PoolHeader::parse(&bytes).state(&Pool { bytes: bytes_of_pool, object_bytes, ..POOL });
        }
    }
}
