//! Growth mode: from page faults, mappings and pools to who made the processes grow.
//!
//! A page is owned by the site that first touched it, or, if it lies in a pool of pymalloc that was born later, by the
//! site of the pool's birth. It is owned until the process gives it back. No page has two owners, so what the sites
//! have can be added up, and the sum is what the process grew by, apart from
//!
//! - pages of files, and of shared memory: an estimate (`Growth::file_pages`), because one fault maps up to 16 of them;
//! - copies after a fork, which were resident before (`Growth::copies`);
//! - pages from before the recording that are given back: they are nobody's, so the process shrinks unseen;
//! - what the kernel does on its own: it swaps out, and joins small pages to huge ones (khugepaged).

mod address_space;
mod before;
mod copies;
mod files;
mod huge;
mod kernel_pages;
mod mappings;
mod pages;
#[cfg(test)]
mod tests;

use std::ops::Sub;

use rustc_hash::{FxHashMap, FxHashSet};

use self::address_space::AddressSpace;
pub use self::before::look as look_before;
pub use self::copies::Before;
use self::files::Claims;
pub use self::files::{FilePages, FileShare, Pot};
pub use self::huge::{HugeAdvice, PageProbe, PageSize, Thp};
pub use self::kernel_pages::KernelPages;
pub use self::mappings::{Mapping, in_memory, parse as parse_mappings};
use super::account::{Accounts, Amount};
use super::event::{Event, Mapped, SiteId, What};
use super::loan::{Loan, Moved, settle};
use super::pools::{PoolReader, PoolState, PoolTotals};

/// What a recording may keep, over all processes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Runs of neighbouring pages of one site; 24 bytes each, and up to 50 in a tree that grew in order.
    pub runs: usize,
    /// 32 bytes each, and up to 60.
    pub pools: usize,
    /// 24 bytes each, and up to 50.
    pub mappings: usize,
}

impl Default for Limits {
    /// Some 50 + 15 + 12 MiB at most.
    fn default() -> Self {
        Self {
            runs: 1 << 20,
            pools: 1 << 18,
            mappings: 1 << 18,
        }
    }
}

/// What was seen and is in no account, and why. All weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lost {
    /// Memory that came, or was there, and could not be remembered: `Limits::runs`.
    pub memory: Amount,
    /// Pools whose birth is counted, but not their memory: `Limits::runs` and `Limits::pools`.
    pub pools: u64,
    /// Mappings: `Limits::mappings`. Faults in them count as anonymous.
    pub mappings: u64,
}

impl Sub for Lost {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            memory: self.memory - before.memory,
            pools: self.pools.saturating_sub(before.pools),
            mappings: self.mappings.saturating_sub(before.mappings),
        }
    }
}

/// Faults that mean no growth. All weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Reads that brought the kernel's page of zeros.
    pub zero: u64,
    /// Of file pages.
    pub file: u64,
    /// Writes to pages shared since a fork.
    pub copied: u64,
    /// The same where it is not known what the page was before: copies, unless those who had it are gone.
    pub perhaps_copied: u64,
    /// Of pages that the kernel had taken away meanwhile. They count as gone and come again.
    pub again: u64,
    /// Neither of these: writes to pages that are there already, and refused accesses.
    pub other: u64,
    /// In processes of which nothing else was known.
    pub strangers: u64,
}

/// One process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// What came in the recording and is there, without file pages.
    pub live: Amount,
    /// Pages that were shared with another process since a fork and no longer are: memory, but no growth of this
    /// process's resident memory.
    pub copied: Amount,
    /// Faults of file pages, weighted.
    pub file_faults: u64,
}

/// What of a site lives and has a certain age.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aged {
    pub amount: Amount,
    /// When the oldest and the youngest of it came; exact to a second.
    pub oldest_ns: u64,
    pub youngest_ns: u64,
}

/// Neighbouring pages that came in the recording and are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    pub pid: u32,
    pub addresses: std::ops::Range<u64>,
    pub site: SiteId,
    /// Of these, and what they stand for.
    pub bytes: u64,
}

/// The address spaces of all processes in a recording.
pub struct Growth {
    spaces: FxHashMap<u32, AddressSpace>,
    common: Common,
}

/// What all address spaces have in common.
struct Common {
    limits: Limits,
    used: Used,
    thp: Thp,
    probe: Box<dyn PageProbe + Send>,
    start_ns: u64,
    lost: Lost,
    faults: Faults,
    pools: FxHashMap<SiteId, PoolTotals>,
    claims: Claims,
    /// Memory that is shared without a file, so far.
    unnamed: u64,
    /// Runs of populated pages that may still be looked at in this second, and when it began.
    walks: (u32, u64),
}

/// Runs that may be populated in a second: each costs some hundred nanoseconds.
const WALKS: u32 = 1 << 18;

impl Common {
    /// Whether there is time for one run more.
    fn may_walk(&mut self, time_ns: u64) -> bool {
        let (left, since) = &mut self.walks;
        if time_ns.saturating_sub(*since) >= 1_000_000_000 {
            (*left, *since) = (WALKS, time_ns);
        }
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }

    /// What is mapped at `start` and has no file, so nobody else's number. Children have the same mapping.
    fn unnamed(&mut self, start: u64, in_memory: bool) -> Mapped {
        self.unnamed += 1;
        Mapped {
            object: 1 << 63 | self.unnamed,
            base: start.wrapping_neg(),
            in_memory,
        }
    }

    /// Milliseconds since the recording began: 49 days fit.
    fn ms(&self, time_ns: u64) -> u32 {
        u32::try_from(time_ns.saturating_sub(self.start_ns) / 1_000_000).unwrap_or(u32::MAX)
    }

    fn ns(&self, time_ms: u32) -> u64 {
        self.start_ns.saturating_add(u64::from(time_ms) * 1_000_000)
    }
}

/// What is kept, against `Limits`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    runs: usize,
    pools: usize,
    mappings: usize,
}

impl Growth {
    /// `start_ns` is when the recording began, on the events' clock.
    pub fn new(limits: Limits, thp: Thp, start_ns: u64, probe: Box<dyn PageProbe + Send>) -> Self {
        Self {
            spaces: FxHashMap::default(),
            common: Common {
                limits,
                used: Used::default(),
                thp,
                probe,
                start_ns,
                lost: Lost::default(),
                faults: Faults::default(),
                pools: FxHashMap::default(),
                claims: Claims::default(),
                unnamed: 0,
                walks: (WALKS, 0),
            },
        }
    }

    /// A process that is there already, with what it has mapped ([`parse_mappings`]).
    pub fn adopt(&mut self, pid: u32, mappings: &[Mapping]) {
        self.spaces.entry(pid).or_insert_with(|| AddressSpace::new(pid, true));
        self.change(pid, |space, common| {
            for mapping in mappings {
                space.adopt(common, mapping);
            }
        });
    }

    /// What pages of a process that is there already were when we looked: runs in order.
    pub fn set_before(&mut self, pid: u32, runs: &[(u64, u64, Before)]) {
        self.change(pid, |space, common| {
            for &(first, pages, what) in runs {
                space.set_before(common, first, pages, what);
            }
        });
    }

    /// What happened. Calls of allocators (exact mode) are none of growth mode's business.
    pub fn take(&mut self, event: &Event, accounts: &mut Accounts) {
        let Event { pid, time_ns, what } = *event;
        match what {
            What::Allocated { .. }
            | What::Freed { .. }
            | What::Victim { .. }
            | What::MemoryError
            | What::RanOut { .. } => {}
            What::Fork { parent } => self.fork(parent, pid, time_ns, accounts),
            What::Exit => self.forget(pid, time_ns, accounts),
            What::Exec => {
                self.forget(pid, time_ns, accounts);
                self.spaces.insert(pid, AddressSpace::new(pid, false));
            }
            // Of a process that is not known there is nothing to release.
            What::Unmap { .. } | What::Advise { .. } if !self.spaces.contains_key(&pid) => {}
            _ => {
                let shared = self.is_shared(pid, &what);
                self.change(pid, |space, common| {
                    space.take(common, time_ns, &what, shared, accounts)
                });
            }
        }
    }

    /// Whether what is written to is a page that another process has as well since a fork: neither has copied it since.
    fn is_shared(&self, pid: u32, what: &What) -> bool {
        let &What::Fault {
            address,
            write: true,
            present: true,
            ..
        } = what
        else {
            return false;
        };
        self.spaces.get(&pid).is_some_and(|space| {
            space.partners().iter().any(|(partner, &since_ms)| {
                let partner = self.spaces.get(partner);
                partner.is_some_and(|partner| !partner.has_copied(address, since_ms))
                    && !space.has_copied(address, since_ms)
            })
        })
    }

    /// The child has the parent's mappings and none of its pages: what the child is resident with was the parent's
    /// growth.
    fn fork(&mut self, parent: u32, child: u32, time_ns: u64, accounts: &mut Accounts) {
        self.forget(child, time_ns, accounts);
        let Self { spaces, common } = self;
        let now_ms = common.ms(time_ns);
        let mut space = match spaces.get_mut(&parent) {
            Some(parent) => {
                common.used = common.used.without(parent.used());
                let child = parent.fork(child, now_ms);
                common.used = common.used.with(parent.used());
                child
            }
            None => AddressSpace::new(child, true),
        };
        let mappings = space.used().mappings;
        if common.used.mappings + mappings > common.limits.mappings {
            common.lost.mappings += mappings as u64;
            space.forget_mappings();
        }
        common.used = common.used.with(space.used());
        for (partner, since_ms) in space.partners() {
            if let Some(partner) = spaces.get_mut(partner) {
                partner.partners_mut().insert(child, *since_ms);
            }
        }
        spaces.insert(child, space);
    }

    /// The process's address space is gone, and all that is in it.
    fn forget(&mut self, pid: u32, time_ns: u64, accounts: &mut Accounts) {
        self.common.probe.forget(pid);
        if let Some(mut space) = self.spaces.remove(&pid) {
            self.common.used = self.common.used.without(space.used());
            for partner in space.partners().keys() {
                if let Some(partner) = self.spaces.get_mut(partner) {
                    partner.partners_mut().remove(&pid);
                }
            }
            space.release_all(&self.common, time_ns, accounts);
        }
    }

    fn change(&mut self, pid: u32, change: impl FnOnce(&mut AddressSpace, &mut Common)) {
        let Self { spaces, common } = self;
        let space = spaces.entry(pid).or_insert_with(|| {
            common.faults.strangers += 1;
            AddressSpace::new(pid, true)
        });
        // While a space changes, `used` is what all others have.
        common.used = common.used.without(space.used());
        change(space, common);
        common.used = common.used.with(space.used());
    }

    /// Looks into the pools that are still there. The pages of those that hold nothing are `free_pools`' from here on:
    /// a pseudo-site, for what the allocator keeps for later. To be called before anything is reported.
    ///
    /// Where births of pools were sampled, only the sampled ones are looked into, and stand for the others.
    pub fn finish(&mut self, now_ns: u64, free_pools: SiteId, reader: &mut dyn PoolReader, accounts: &mut Accounts) {
        let Self { spaces, common } = self;
        for (&pid, space) in spaces {
            let pools = space.pools();
            let addresses: Vec<_> = pools.iter().map(|&(address, _)| address).collect();
            let headers = reader.headers(pid, &addresses);
            common.used = common.used.without(space.used());
            for (index, (address, pool)) in pools.into_iter().enumerate() {
                let header = headers.get(index).copied().flatten();
                let state = header.map_or(PoolState::Unknown, |header| header.state(&pool));
                let weight = u64::from(pool.weight);
                let totals = common.pools.entry(pool.site).or_default();
                match state {
                    PoolState::Unknown => totals.unknown += weight,
                    PoolState::Holds { objects } => {
                        let objects = u64::from(objects) * weight;
                        totals.in_use += weight;
                        totals.objects += objects;
                        totals.object_bytes += objects * u64::from(pool.object_bytes);
                    }
                    PoolState::Free => {
                        totals.free += weight;
                        space.keep(common, address, &pool, free_pools, now_ns, accounts);
                    }
                }
            }
            common.used = common.used.with(space.used());
        }
    }

    /// What lives and came at least `age_ns` ago, by site.
    pub fn live_older_than(&self, now_ns: u64, age_ns: u64) -> FxHashMap<SiteId, Aged> {
        let mut sites: FxHashMap<SiteId, (Aged, Moved)> = FxHashMap::default();
        self.each_living(|site, born_ns, amount, moved| {
            if now_ns.saturating_sub(born_ns) < age_ns {
                return;
            }
            let fresh = Aged {
                amount: Amount::default(),
                oldest_ns: born_ns,
                youngest_ns: born_ns,
            };
            let (aged, of_others) = sites.entry(site).or_insert((fresh, Moved::default()));
            aged.amount += amount;
            of_others.add(moved);
            aged.oldest_ns = aged.oldest_ns.min(born_ns);
            aged.youngest_ns = aged.youngest_ns.max(born_ns);
        });
        settle(sites.values_mut().map(|(aged, moved)| (&mut aged.amount, *moved)));
        sites.into_iter().map(|(site, (aged, _))| (site, aged)).collect()
    }

    /// When what lives came, by site and slice of time; nothing of what came after `last_ns`. What was lent is the
    /// borrower's, since that was born.
    pub fn births(&self, last_ns: u64, slice: impl Fn(u64) -> u32) -> FxHashMap<(SiteId, u32), i64> {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut births: FxHashMap<(SiteId, u32), i64> = FxHashMap::default();
        self.each_living(|site, born_ns, amount, moved| {
            if born_ns <= last_ns {
                let sum = births.entry((site, slice(born_ns))).or_default();
                *sum = sum
                    .saturating_add(number(amount.bytes))
                    .saturating_add(number(moved.borrowed))
                    .saturating_sub(number(moved.lent));
            }
        });
        births
    }

    /// Whatever lives: whose it is, when it came, and what of it was lent or borrowed.
    fn each_living(&self, mut old: impl FnMut(SiteId, u64, Amount, Moved)) {
        for space in self.spaces.values() {
            for (_, run) in space.live_runs() {
                old(run.site, self.common.ns(run.born_ms), run.amount(), Moved::default());
            }
            for (address, pool) in space.pools().into_iter().filter(|(_, pool)| pool.lent != 0) {
                for (lender, loan) in space.loans(address, &pool) {
                    old(
                        lender.site,
                        self.common.ns(lender.born_ms),
                        Amount::default(),
                        loan.lent(),
                    );
                    old(
                        pool.site,
                        self.common.ns(pool.born_ms),
                        Amount::default(),
                        loan.borrowed(),
                    );
                }
            }
        }
    }

    /// All that lives, in no order of processes.
    pub fn live(&self) -> impl Iterator<Item = Live> {
        self.spaces.iter().flat_map(|(&pid, space)| {
            space.live_runs().map(move |(first, run)| Live {
                pid,
                addresses: first * pages::PAGE..(first + u64::from(run.pages)) * pages::PAGE,
                site: run.site,
                bytes: run.amount().bytes,
            })
        })
    }

    /// Whether pymalloc has a pool there.
    pub fn has_pool(&self, pid: u32, addresses: std::ops::Range<u64>) -> bool {
        self.spaces.get(&pid).is_some_and(|space| space.has_pool(addresses))
    }

    /// A process that has not ended.
    pub fn process(&self, pid: u32) -> Option<Process> {
        self.spaces.get(&pid).map(AddressSpace::totals)
    }

    /// Processes that have not ended, in no order.
    pub fn processes(&self) -> impl Iterator<Item = (u32, Process)> {
        self.spaces.iter().map(|(&pid, space)| (pid, space.totals()))
    }

    /// Apportions `grown_bytes`, by which the pages of a pot are measured to have grown in the process, to the sites that
    /// touched some. None if they have not grown, or nobody touched any.
    pub fn file_pages(&self, pid: u32, pot: Pot, grown_bytes: u64) -> Option<FilePages> {
        self.spaces.get(&pid)?.file_pages(&self.common, pot, grown_bytes)
    }

    /// Whose copies a process has of pages that it shared since a fork: those that were made from `since_ns` on.
    pub fn copies(&self, pid: u32, since_ns: u64) -> Vec<(SiteId, Amount)> {
        let since_ms = self.common.ms(since_ns);
        let space = self.spaces.get(&pid);
        space.map(|space| space.copies(since_ms)).unwrap_or_default()
    }

    /// A window is over. Sites get other numbers, here and in the accounts; what lives stays, and what is told by the window
    /// alone begins anew: births of pools, who touched files, and who did so first.
    pub fn cut(&mut self, number: &impl Fn(SiteId) -> SiteId, accounts: &mut Accounts) {
        let Self { spaces, common } = self;
        // Of two sites that become one neither lends to the other.
        let loans = |spaces: &FxHashMap<u32, AddressSpace>, each: &mut dyn FnMut(SiteId, SiteId, &Loan)| {
            spaces.values().for_each(|space| space.for_loans(&mut *each));
        };
        loans(spaces, &mut |from, to, loan| accounts.set_aside(from, to, loan));
        accounts.renumber(number);
        common.pools = FxHashMap::default();
        common.claims.forget();
        common.used = Used::default();
        for space in spaces.values_mut() {
            space.cut(number);
            common.used = common.used.with(space.used());
        }
        loans(spaces, &mut |from, to, loan| accounts.lend_again(from, to, loan));
    }

    /// The sites that memory, pools and copies have.
    pub fn sites(&self) -> FxHashSet<SiteId> {
        let mut sites = FxHashSet::default();
        self.spaces.values().for_each(|space| space.sites(&mut sites));
        sites
    }

    /// Keeps times within what is kept of them, 49 days: after 37, what is oldest counts as 12 days younger.
    pub fn rebase(&mut self, now_ns: u64) {
        const BY_MS: u32 = 1 << 30;
        if self.common.ms(now_ns) < 3 * BY_MS {
            return;
        }
        self.common.start_ns += u64::from(BY_MS) * 1_000_000;
        self.spaces.values_mut().for_each(|space| space.rebase(BY_MS));
    }

    /// By site, in no order.
    pub fn pools(&self) -> impl Iterator<Item = (SiteId, PoolTotals)> {
        self.common.pools.iter().map(|(&site, &totals)| (site, totals))
    }

    pub fn lost(&self) -> Lost {
        self.common.lost
    }

    pub fn faults(&self) -> Faults {
        self.common.faults
    }
}

impl Used {
    fn with(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            pools: self.pools + other.pools,
            mappings: self.mappings + other.mappings,
        }
    }

    fn without(self, other: Self) -> Self {
        Self {
            runs: self.runs.saturating_sub(other.runs),
            pools: self.pools.saturating_sub(other.pools),
            mappings: self.mappings.saturating_sub(other.mappings),
        }
    }
}
