//! Big blocks: what is mapped, and how far the heap is extended, by whom.
//!
//! Address space, not memory: it becomes memory as it is touched. So nothing here is ever added to resident pages.

use std::{collections::BTreeMap, ops::Range};

use rustc_hash::FxHashMap;

use super::{
    account::Accounts,
    event::{Event, MapKind, SiteId, What},
};
use crate::recording::NO_SITE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Region {
    end: u64,
    site: SiteId,
    born_ns: u64,
    /// It is one block, as far as can be told.
    block: bool,
}

/// What a process has mapped in the recording, by its first address.
#[derive(Clone, Debug, Default)]
struct Space {
    regions: BTreeMap<u64, Region>,
    /// Where the heap ended when we last heard of it; 0 if we have not.
    heap_end: u64,
}

#[derive(Debug, Default)]
pub struct Regions {
    spaces: FxHashMap<u32, Space>,
    pub accounts: Accounts,
    /// Regions that are remembered of all processes.
    count: usize,
    /// Bytes that were mapped when there were too many.
    pub forgotten_bytes: u64,
}

/// 60 bytes each.
const MOST: usize = 1 << 18;

impl Regions {
    pub fn take(&mut self, event: &Event) {
        let Event { pid, time_ns, what } = *event;
        match what {
            What::Map {
                start,
                bytes,
                kind,
                reserved,
                site,
                ..
            } => {
                let range = start..start.saturating_add(bytes);
                self.unmap(pid, range.clone(), time_ns);
                if site != NO_SITE {
                    let block = kind == MapKind::Anonymous && !reserved && is_block(bytes);
                    self.map(pid, range, site, block, time_ns);
                }
            }
            What::Unmap { start, bytes } => self.unmap(pid, start..start.saturating_add(bytes), time_ns),
            What::Remap {
                old,
                old_bytes,
                new,
                new_bytes,
                site,
            } => {
                self.unmap(pid, old..old.saturating_add(old_bytes), time_ns);
                self.unmap(pid, new..new.saturating_add(new_bytes), time_ns);
                // Arenas are never moved.
                let block = is_block(new_bytes);
                self.map(pid, new..new.saturating_add(new_bytes), site, block, time_ns);
            }
            What::Break { end, site } => {
                let space = self.spaces.entry(pid).or_default();
                let before = std::mem::replace(&mut space.heap_end, end);
                if before != 0 && end > before {
                    self.map(pid, before..end, site, false, time_ns);
                } else if end < before {
                    self.unmap(pid, end..before, time_ns);
                }
            }
            What::Exec | What::Exit => self.forget(pid, time_ns),
            What::Fork { .. } => self.forget(pid, time_ns),
            What::Fault { .. }
            | What::Pool { .. }
            | What::Advise { .. }
            | What::Victim { .. }
            | What::MemoryError
            | What::RanOut { .. }
            | What::Born { .. }
            | What::Allocated { .. }
            | What::Freed { .. } => {}
        }
    }

    /// Blocks that have any of the addresses, and who mapped them.
    pub fn blocks(&self, pid: u32, addresses: &Range<u64>) -> impl Iterator<Item = (Range<u64>, SiteId)> {
        let regions = self.spaces.get(&pid).map(|space| &space.regions);
        let addresses = addresses.clone();
        let before = regions.and_then(|regions| regions.range(..addresses.start).next_back());
        let before = before.filter(|(_, region)| region.end > addresses.start);
        // The map has no patience with a range that ends before it begins.
        let inside = regions
            .filter(|_| addresses.start < addresses.end)
            .map(|regions| regions.range(addresses));
        before
            .into_iter()
            .chain(inside.into_iter().flatten())
            .filter(|(_, region)| region.block)
            .map(|(&start, region)| (start..region.end, region.site))
    }

    fn map(&mut self, pid: u32, range: Range<u64>, site: SiteId, block: bool, born_ns: u64) {
        let bytes = range.end.saturating_sub(range.start);
        if bytes == 0 {
            return;
        }
        if self.count >= MOST {
            self.forgotten_bytes = self.forgotten_bytes.saturating_add(bytes);
            return;
        }
        self.count += 1;
        self.accounts.born(site, bytes, 1, 1, born_ns);
        let region = Region {
            end: range.end,
            site,
            born_ns,
            block,
        };
        self.spaces.entry(pid).or_default().regions.insert(range.start, region);
    }

    /// Takes a range out; what is cut in two stays on both sides.
    fn unmap(&mut self, pid: u32, range: Range<u64>, now_ns: u64) {
        let Some(space) = self.spaces.get_mut(&pid) else { return };
        if range.start >= range.end {
            return;
        }
        let before = space.regions.range(..range.start).next_back();
        let first = before
            .filter(|(_, region)| region.end > range.start)
            .map_or(range.start, |(&start, _)| start);
        let touched: Vec<(u64, Region)> = space
            .regions
            .range(first..range.end)
            .map(|(&start, &region)| (start, region))
            .collect();
        for (start, region) in touched {
            space.regions.remove(&start);
            self.count -= 1;
            let Region {
                end,
                site,
                born_ns,
                block,
            } = region;
            let gone = end.min(range.end) - start.max(range.start);
            // A block that is cut counts as one as long as a part of it is there.
            let mut parts = 0;
            for (start, end) in [(start, range.start.min(end)), (range.end.max(start), end)] {
                if start < end {
                    parts += 1;
                    self.count += 1;
                    let part = Region {
                        end,
                        site,
                        born_ns,
                        block,
                    };
                    space.regions.insert(start, part);
                }
            }
            self.accounts
                .died(site, gone, u64::from(parts == 0), 1, born_ns, now_ns);
        }
    }

    fn forget(&mut self, pid: u32, now_ns: u64) {
        self.unmap(pid, 0..u64::MAX, now_ns);
        self.spaces.remove(&pid);
    }
}

/// Whether a mapping of this length may be one block: glibc maps those of 128 KiB or more by themselves (`M_MMAP_THRESHOLD`),
/// with a header, and arenas of pymalloc have just these two lengths (`ARENA_SIZE`, before and from 3.10 on). Of others, the
/// pools that are in them tell. glibc's own arenas are mapped without access.
fn is_block(bytes: u64) -> bool {
    const LEAST: u64 = 128 << 10;
    const ARENAS: [u64; 2] = [256 << 10, 1 << 20];
    bytes >= LEAST && !ARENAS.contains(&bytes)
}

#[cfg(test)]
mod tests {
    use super::super::event::Mapped;
    use super::*;

    fn event(time_ns: u64, what: What) -> Event {
        Event { pid: 7, time_ns, what }
    }

    fn map(start: u64, bytes: u64, site: SiteId) -> What {
        What::Map {
            start,
            bytes,
            kind: MapKind::Anonymous,
            mapped: Mapped::default(),
            populated: None,
            reserved: false,
            site,
        }
    }

    #[test]
    fn what_is_unmapped_in_the_middle_leaves_both_ends() {
        let mut regions = Regions::default();
        regions.take(&event(1, map(0x1000, 0x3000, 5)));
        regions.take(&event(
            2,
            What::Unmap {
                start: 0x2000,
                bytes: 0x1000,
            },
        ));
        let totals = regions.accounts.totals(5);
        assert_eq!((totals.live.bytes, totals.live.count), (0x2000, 1));
        regions.take(&event(3, map(0x1000, 0x3000, 6)));
        assert_eq!(regions.accounts.totals(5).live.bytes, 0);
        assert_eq!(regions.accounts.totals(6).live.bytes, 0x3000);
        regions.take(&event(4, What::Exit));
        assert_eq!((regions.accounts.live().bytes, regions.count), (0, 0));
    }

    #[test]
    fn a_large_block_has_a_mapping_of_its_own_and_an_arena_is_none() {
        let mut regions = Regions::default();
        regions.take(&event(1, map(0x10_0000, 200 << 10, 5)));
        regions.take(&event(2, map(0x1000_0000, 1 << 20, 6)));
        regions.take(&event(3, map(0x2000_0000, 64 << 10, 7)));
        let blocks: Vec<_> = regions.blocks(7, &(0x10_1000..0x3000_0000)).collect();
        assert_eq!(blocks, [(0x10_0000..0x10_0000 + (200 << 10), 5)]);
    }

    #[test]
    fn the_heap_grows_from_where_it_was_seen_to_end() {
        let mut regions = Regions::default();
        for (time, end) in [(1, 0x10_000), (2, 0x30_000), (3, 0x18_000)] {
            regions.take(&event(time, What::Break { end, site: 9 }));
        }
        let totals = regions.accounts.totals(9);
        assert_eq!((totals.allocated.bytes, totals.live.bytes), (0x20_000, 0x8_000));
    }
}
