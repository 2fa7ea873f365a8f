//! Memory in which nobody else's objects can lie: blocks with a mapping of their own, as the C library makes them from
//! 128 KiB on.
//!
//! Of all other memory, who touched a page first, or opened a pool, need not be whose objects are in it at the end. Blocks
//! of the heap are used again without a fault, objects go into any pool of their size that has room, and CPython hands
//! dicts, lists, tuples and floats on through lists of free ones: a line that makes twenty dicts and gives them back opens
//! the pools of all that another one keeps (93 % of the growth, measured on 3.11 and 3.12, and all of those pools stay in
//! use). So not even who alone opens pools of a size, and keeps them, is certain to own what is in them.

use rustc_hash::FxHashMap;

use super::{event::SiteId, regions::Regions, space::Growth};

/// Pages that a site touched in a mapping that is one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apart {
    pub pid: u32,
    /// Where the mapping begins: with the process, which one it is.
    pub mapping: u64,
    /// Who mapped it.
    pub mapper: SiteId,
    pub site: SiteId,
    pub bytes: u64,
}

pub fn apart(growth: &Growth, regions: &Regions) -> Vec<Apart> {
    let mut pools: FxHashMap<(u32, u64), bool> = FxHashMap::default();
    let mut all = Vec::new();
    for live in growth.live() {
        for (block, mapper) in regions.blocks(live.pid, &live.addresses) {
            let is_arena = *pools
                .entry((live.pid, block.start))
                .or_insert_with(|| growth.has_pool(live.pid, block.clone()));
            if is_arena {
                continue;
            }
            let within = live.addresses.end.min(block.end) - live.addresses.start.max(block.start);
            let share = within as f64 / (live.addresses.end - live.addresses.start) as f64;
            all.push(Apart {
                pid: live.pid,
                mapping: block.start,
                mapper,
                site: live.site,
                bytes: (live.bytes as f64 * share) as u64,
            });
        }
    }
    all
}
