//! Blocks, each (exact mode) or sampled, as the kernel side tells of them. Which block lies where, it keeps itself; here are the ages of
//! what lives, how large blocks are, and which come and go at once.

use rustc_hash::FxHashMap;

use super::{
    account::{Accounts, Amount},
    event::{Event, SiteId, What},
    space::Aged,
};
use crate::inject::weight;

const SECOND_NS: u64 = 1_000_000_000;

/// What lives of all sites, by the second of its birth: the grain of ages.
#[derive(Debug)]
pub struct Blocks {
    living: FxHashMap<(SiteId, u64), Amount>,
    /// What was freed before its thread had made `within` more allocations.
    short: FxHashMap<SiteId, Amount>,
    within: u32,
    /// Blocks are samples, one in so many bytes.
    bytes_per_sample: Option<u64>,
    /// Allocations by size: bucket n holds those of 2ⁿ to 2ⁿ⁺¹ - 1 bytes; of nothing in bucket 0.
    pub sizes: [u64; 64],
}

impl Blocks {
    pub fn new(within: u32) -> Self {
        Self {
            living: FxHashMap::default(),
            short: FxHashMap::default(),
            within,
            bytes_per_sample: None,
            sizes: [0; 64],
        }
    }

    /// Of blocks that are samples.
    pub fn sampled(bytes_per_sample: u64) -> Self {
        Self {
            bytes_per_sample: Some(bytes_per_sample),
            ..Self::new(0)
        }
    }

    pub fn is_sampled(&self) -> bool {
        self.bytes_per_sample.is_some()
    }

    /// What a block stands for.
    fn amount(&self, bytes: u64, born_ns: u64) -> Amount {
        match self.bytes_per_sample {
            Some(bytes_per_sample) => weight::amount(bytes, bytes_per_sample, born_ns),
            None => Amount::sampled(bytes, 1, 1),
        }
    }

    pub fn take(&mut self, event: &Event, accounts: &mut Accounts) {
        match event.what {
            What::Allocated { bytes, site } => {
                let amount = self.amount(bytes, event.time_ns);
                accounts.born_amount(site, amount, event.time_ns);
                let living = self.living.entry((site, event.time_ns / SECOND_NS)).or_default();
                *living += amount;
                self.sizes[bytes.max(1).ilog2() as usize] += amount.count;
            }
            What::Freed {
                bytes,
                site,
                born_ns,
                distance,
            } => {
                let amount = self.amount(bytes, born_ns);
                accounts.died_amount(site, amount, born_ns, event.time_ns);
                let key = (site, born_ns / SECOND_NS);
                if let Some(living) = self.living.get_mut(&key) {
                    *living -= amount;
                    if living.count == 0 {
                        self.living.remove(&key);
                    }
                }
                if distance < self.within {
                    *self.short.entry(site).or_default() += amount;
                }
            }
            _ => {}
        }
    }

    /// What was freed at once, by site.
    pub fn short(&self, site: SiteId) -> Amount {
        self.short.get(&site).copied().unwrap_or_default()
    }

    /// When what lives came, by site and slice of time; nothing of what came after `last_ns`.
    pub fn births(&self, last_ns: u64, slice: impl Fn(u64) -> u32) -> FxHashMap<(SiteId, u32), i64> {
        let mut births: FxHashMap<(SiteId, u32), i64> = FxHashMap::default();
        for (&(site, second), amount) in &self.living {
            let born_ns = second * SECOND_NS;
            if born_ns <= last_ns {
                *births.entry((site, slice(born_ns))).or_default() += i64::try_from(amount.bytes).unwrap_or(i64::MAX);
            }
        }
        births
    }

    /// What lives and came at least `age_ns` ago, by site.
    pub fn live_older_than(&self, now_ns: u64, age_ns: u64) -> FxHashMap<SiteId, Aged> {
        let mut sites: FxHashMap<SiteId, Aged> = FxHashMap::default();
        for (&(site, second), &amount) in &self.living {
            let born_ns = second * SECOND_NS;
            if now_ns.saturating_sub(born_ns) < age_ns {
                continue;
            }
            let aged = sites.entry(site).or_insert(Aged {
                amount: Amount::default(),
                oldest_ns: born_ns,
                youngest_ns: born_ns,
            });
            aged.amount += amount;
            aged.oldest_ns = aged.oldest_ns.min(born_ns);
            aged.youngest_ns = aged.youngest_ns.max(born_ns);
        }
        sites
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time_ns: u64, what: What) -> Event {
        Event { pid: 1, time_ns, what }
    }

    #[test]
    fn what_is_freed_at_once_is_short_lived_and_the_rest_has_its_age() {
        let (mut blocks, mut accounts) = (Blocks::new(1), Accounts::default());
        for (time_s, bytes) in [(1, 100), (2, 50), (5, 7)] {
            let what = What::Allocated { bytes, site: 3 };
            blocks.take(&event(time_s * SECOND_NS, what), &mut accounts);
        }
        let freed = |bytes, born_s, distance| What::Freed {
            bytes,
            site: 3,
            born_ns: born_s * SECOND_NS,
            distance,
        };
        blocks.take(&event(6 * SECOND_NS, freed(50, 2, 4)), &mut accounts);
        blocks.take(&event(6 * SECOND_NS, freed(7, 5, 0)), &mut accounts);
        assert_eq!(blocks.short(3).bytes, 7);
        assert_eq!(accounts.totals(3).live.bytes, 100);
        let aged = blocks.live_older_than(10 * SECOND_NS, 9 * SECOND_NS);
        assert_eq!((aged[&3].amount.bytes, aged[&3].amount.count), (100, 1));
        assert!(blocks.live_older_than(10 * SECOND_NS, 10 * SECOND_NS).is_empty());
        let in_two_seconds = |last_s| blocks.births(last_s * SECOND_NS, |ns| (ns / (2 * SECOND_NS)) as u32);
        assert_eq!(in_two_seconds(9), FxHashMap::from_iter([((3, 0), 100)]));
        assert!(in_two_seconds(0).is_empty());
        assert_eq!((blocks.sizes[6], blocks.sizes[5], blocks.sizes[2]), (1, 1, 1));
    }
}
