//! One process: what a fault, a system call or a pool means for who has what.

use std::ops::Range;

use rustc_hash::FxHashMap;

use super::super::account::{Accounts, Amount};
use super::super::event::{MapKind, SiteId, What};
use super::super::loan::Loan;
use super::super::pools::{Pool, Pools};
use super::huge::{HugeAdvice, PageSize};
use super::mappings::{Area, Mapping, Mappings};
use super::pages::{Birth, HUGE, PAGE, Pages, Run};
use super::{Common, Process, Used};

/// See madvise(2).
mod advice {
    pub const DONTNEED: i32 = 4;
    pub const FREE: i32 = 8;
    pub const REMOVE: i32 = 9;
    pub const HUGEPAGE: i32 = 14;
    pub const NOHUGEPAGE: i32 = 15;
    pub const DONTNEED_LOCKED: i32 = 24;
}

/// A fault, without where.
#[derive(Clone, Copy, Debug)]
struct Touch {
    write: bool,
    present: bool,
    weight: u32,
    site: SiteId,
    time_ns: u64,
}

#[derive(Debug)]
pub(super) struct AddressSpace {
    pid: u32,
    mappings: Mappings,
    pages: Pages,
    pools: Pools,
    /// How many pools have pages that are another's.
    borrowers: usize,
    /// Where brk's heap ends, page-aligned; None as long as it was not seen.
    heap_end: Option<u64>,
    /// What `Area::shared` says, of addresses of which nothing else is known.
    shared: bool,
    live: Amount,
    copied: Amount,
    file_faults: FxHashMap<SiteId, u64>,
}

impl AddressSpace {
    pub fn new(pid: u32, shared: bool) -> Self {
        Self {
            pid,
            mappings: Mappings::default(),
            pages: Pages::default(),
            pools: Pools::default(),
            borrowers: 0,
            heap_end: None,
            shared,
            live: Amount::default(),
            copied: Amount::default(),
            file_faults: FxHashMap::default(),
        }
    }

    pub fn used(&self) -> Used {
        Used {
            runs: self.pages.entries(),
            pools: self.pools.len(),
            mappings: self.mappings.len(),
        }
    }

    pub fn totals(&self) -> Process {
        Process {
            live: self.live,
            copied: self.copied,
            file_faults: self.file_faults.values().fold(0, |sum, &n| sum.saturating_add(n)),
        }
    }

    pub fn file_faults(&self) -> impl Iterator<Item = (SiteId, u64)> {
        self.file_faults.iter().map(|(&site, &faults)| (site, faults))
    }

    pub fn live_runs(&self) -> impl Iterator<Item = Run> {
        self.pages.iter().map(|(_, run)| run).filter(|run| !run.is_zero())
    }

    pub fn pools(&self) -> Vec<(u64, Pool)> {
        self.pools.iter().collect()
    }

    pub fn adopt(&mut self, common: &mut Common, mapping: &Mapping) {
        let &Mapping {
            start,
            end,
            kind,
            advice,
            heap,
        } = mapping;
        let area = Area {
            end,
            kind,
            advice,
            // The process may have forked a minute ago, and a server of gigabytes then writes to all of it without
            // growing. To take a page of zeros from before the recording for a shared one is the lesser mistake. Pages
            // of files are few, and mostly written to for the first time.
            shared: kind == MapKind::Anonymous,
        };
        self.map(common, start, area);
        if heap {
            self.heap_end = Some(end);
        }
    }

    pub fn fork(&mut self, child: u32) -> Self {
        self.shared = true;
        self.mappings.share();
        Self {
            mappings: self.mappings.clone(),
            heap_end: self.heap_end,
            ..Self::new(child, true)
        }
    }

    /// What is not known to be mapped counts as anonymous.
    pub fn forget_mappings(&mut self) {
        self.mappings.clear();
    }

    /// Everything that happens within one address space.
    pub fn take(&mut self, common: &mut Common, time_ns: u64, what: &What, accounts: &mut Accounts) {
        match *what {
            What::Fault {
                address,
                write,
                present,
                weight,
                site,
            } => {
                let touch = Touch {
                    write,
                    present,
                    weight: weight.max(1),
                    site,
                    time_ns,
                };
                self.fault(common, address, touch, accounts);
            }
            What::Pool {
                address,
                bytes,
                object_bytes,
                weight,
                site,
            } => {
                if weight == 0 {
                    // It was born again, and by whom is not told: those that are followed stand for it.
                    let range = address..address.saturating_add(bytes.into());
                    self.return_loans(common, range.clone(), time_ns, accounts);
                    self.pools.release(range);
                    return;
                }
                let pool = Pool {
                    bytes,
                    object_bytes,
                    weight,
                    site,
                    born_ms: common.ms(time_ns),
                    lent: 0,
                };
                self.pool(common, address, pool, time_ns, accounts);
            }
            What::Map { start, bytes, kind, .. } => {
                let range = whole_pages(start, bytes);
                self.release(common, pages(&range), time_ns, accounts);
                self.map(common, range.start, Area::new(range.end, kind));
            }
            What::Unmap { start, bytes } => {
                let range = whole_pages(start, bytes);
                self.release(common, pages(&range), time_ns, accounts);
                self.mappings.cut(range.start, range.end, |_, _| {});
            }
            What::Advise { start, bytes, advice } => {
                let range = whole_pages(start, bytes);
                match advice {
                    // The kernel frees what is given up with MADV_FREE when it needs memory, or never, and what is
                    // written there before makes it the process's again without a fault. But the process has said that
                    // it does not need it, which is what counts (`Resident::lazy_free` has how much is still there).
                    advice::DONTNEED | advice::FREE | advice::REMOVE | advice::DONTNEED_LOCKED => {
                        self.release(common, pages(&range), time_ns, accounts);
                    }
                    advice::HUGEPAGE => self.mappings.advise(range.start, range.end, HugeAdvice::Wanted),
                    advice::NOHUGEPAGE => self.mappings.advise(range.start, range.end, HugeAdvice::Refused),
                    _ => {}
                }
            }
            What::Remap {
                old,
                old_bytes,
                new,
                new_bytes,
                ..
            } => self.remap(
                common,
                whole_pages(old, old_bytes),
                whole_pages(new, new_bytes),
                time_ns,
                accounts,
            ),
            What::Break { end, .. } => self.set_break(common, end, time_ns, accounts),
            // These concern whole address spaces, or none.
            What::Fork { .. } | What::Exec | What::Exit | What::Allocated { .. } | What::Freed { .. } => {}
        }
    }

    fn fault(&mut self, common: &mut Common, address: u64, touch: Touch, accounts: &mut Accounts) {
        let Touch {
            write,
            present,
            weight,
            site,
            ..
        } = touch;
        let times = u64::from(weight);
        let page = address / PAGE;
        // The kernel grows a stack downwards, and mappings may have been missed: what is not known is anonymous.
        let (kind, shared) = match self.mappings.find(address) {
            Some((_, area)) => (area.kind, area.shared),
            None => (MapKind::Anonymous, self.shared),
        };
        let tracked = self.pages.get(page).map(|(_, run)| run);
        let owned = tracked.is_some_and(|run| !run.is_zero());
        match (kind, present, write) {
            // A file's pages, or those of memory that has no single owner. Also the first reading of a private mapping.
            (MapKind::Shared, false, _) | (MapKind::PrivateFile, false, false) if !owned => {
                common.faults.file += times;
                let faults = self.file_faults.entry(site).or_default();
                *faults = faults.saturating_add(times);
            }
            (MapKind::Shared, ..) | (_, true, false) => common.faults.other += times,
            (_, true, true) => match tracked {
                Some(run) if run.is_zero() => self.birth(common, page, touch, accounts),
                // Its owner has it, or, after a fork, gets a copy of it: resident before and after.
                Some(_) => common.faults.other += times,
                // A page of a file gives way to a copy, or one of zeros whose coming was not seen: sampled away, say.
                None if !shared => self.birth(common, page, touch, accounts),
                None => {
                    common.faults.copied += times;
                    self.copied += Amount::sampled(PAGE, 1, weight);
                }
            },
            (_, false, _) if owned => {
                common.faults.again += times;
                // Swapped out and in, for example: a pool there is still one.
                self.give_back(common, page..page + 1, touch.time_ns, accounts);
                self.birth(common, page, touch, accounts);
            }
            (_, false, true) => self.birth(common, page, touch, accounts),
            (_, false, false) => {
                common.faults.zero += times;
                if tracked.is_none() {
                    self.zero(common, page);
                }
            }
        }
    }

    /// A page that was not there came; what was there of it are zeros.
    fn birth(&mut self, common: &mut Common, page: u64, touch: Touch, accounts: &mut Accounts) {
        let Touch {
            weight, site, time_ns, ..
        } = touch;
        let huge = self.brings_huge(common, page);
        let range = huge.clone().unwrap_or(page..page + 1);
        let run = Run {
            site,
            born_ms: common.ms(time_ns),
            weight,
            pages: if huge.is_some() { HUGE as u16 } else { 1 },
            huge: huge.is_some(),
        };
        let amount = run.amount();
        if !self.room(common) {
            common.lost.memory += amount;
            return;
        }
        self.pages.cut(range.clone(), |_, _| {});
        self.pages.put(range.start, run, Birth::Now);
        self.live += amount;
        accounts.born_amount(site, amount, time_ns);
    }

    /// Reading brings zeros, which cost nothing, but a write to them is a birth.
    fn zero(&mut self, common: &mut Common, page: u64) {
        if !self.room(common) {
            // The write will count as a copy. It is not known whether there will be one.
            return;
        }
        // Zeros come in 2 MiB as well (`use_zero_page`).
        match self.brings_huge(common, page) {
            Some(range) => self.pages.put(range.start, Run::zero(HUGE as u16), Birth::Now),
            None => self.pages.put(page, Run::zero(1), Birth::Now),
        }
    }

    /// The pages that a fault of `page` brought, if they are a huge page.
    ///
    /// The kernel takes one only where it has nothing yet, or a huge page of zeros (which 6.18 replaces by one, and
    /// older kernels split). If it is gone already there is nothing to see, and it is assumed to have been one: that is
    /// what mappings that may have them mostly get.
    fn brings_huge(&self, common: &mut Common, page: u64) -> Option<Range<u64>> {
        let range = self.mappings.huge_page(page, common.thp)?;
        let mut there = self.pages.overlapping(range.clone());
        let empty = match (there.next(), there.next()) {
            (None, _) => true,
            (Some((first, run)), None) => {
                run.is_zero() && first <= range.start && first + u64::from(run.pages) >= range.end
            }
            _ => false,
        };
        // Zeros may have been joined to a run that begins or ends elsewhere; two runs are small pages, or neighbours
        // that did not fit into one, which is a matter of 256 MiB of zeros.
        (empty && common.probe.size(self.pid, page * PAGE) != PageSize::Small).then_some(range)
    }

    fn room(&self, common: &Common) -> bool {
        common.used.runs + self.pages.entries() < common.limits.runs
    }

    /// The pages are given back, and what pools were there.
    fn release(&mut self, common: &mut Common, pages: Range<u64>, time_ns: u64, accounts: &mut Accounts) {
        let range = addresses(&pages);
        self.return_loans(common, range.clone(), time_ns, accounts);
        self.pools.release(range);
        self.give_back(common, pages, time_ns, accounts);
    }

    fn give_back(&mut self, common: &mut Common, pages: Range<u64>, time_ns: u64, accounts: &mut Accounts) {
        let after = pages.end;
        self.return_loans(common, addresses(&pages), time_ns, accounts);
        let live = &mut self.live;
        self.pages.cut(pages, |_, run| {
            *live -= run.amount();
            accounts.died_amount(run.site, run.amount(), common.ns(run.born_ms), time_ns);
        });
        // Cutting a run in two takes an entry more. Where there is none, the second half is given up, or a process that
        // gives back every other page could make the recording grow without bound.
        if common.used.runs + self.pages.entries() > common.limits.runs
            && let Some((first, run)) = self.pages.get(after)
        {
            let pages = first..first + u64::from(run.pages);
            self.return_loans(common, addresses(&pages), time_ns, accounts);
            let live = &mut self.live;
            self.pages.cut(pages, |_, run| {
                common.lost.memory += run.amount();
                *live -= run.amount();
                accounts.withdraw(run.site, run.amount());
            });
        }
    }

    pub fn release_all(&mut self, common: &Common, time_ns: u64, accounts: &mut Accounts) {
        self.return_loans(common, 0..u64::MAX, time_ns, accounts);
        self.pools.clear();
        self.mappings.clear();
        self.live = Amount::default();
        self.pages.cut(0..u64::MAX, |_, run| {
            accounts.died_amount(run.site, run.amount(), common.ns(run.born_ms), time_ns);
        });
    }

    fn map(&mut self, common: &mut Common, start: u64, area: Area) {
        if common.used.mappings + self.mappings.len() >= common.limits.mappings {
            // Better nothing than what was there before.
            common.lost.mappings += 1;
            self.mappings.cut(start, area.end, |_, _| {});
            return;
        }
        self.mappings.put(start, area);
    }

    fn remap(&mut self, common: &mut Common, old: Range<u64>, new: Range<u64>, time_ns: u64, accounts: &mut Accounts) {
        let kept = (old.end - old.start).min(new.end - new.start);
        let mut area = match self.mappings.find(old.start) {
            Some((_, area)) => area,
            None => Area {
                shared: self.shared,
                ..Area::new(old.end, MapKind::Anonymous)
            },
        };
        area.end = new.end;
        self.return_loans(common, old.clone(), time_ns, accounts);
        let mut moved = Vec::new();
        self.pages
            .cut(page(old.start)..page(old.start) + kept / PAGE, |first, run| {
                moved.push((first, run));
            });
        self.release(common, pages(&old), time_ns, accounts);
        self.mappings.cut(old.start, old.end, |_, _| {});
        self.release(common, pages(&new), time_ns, accounts);
        for (first, run) in moved {
            let first = first - page(old.start) + page(new.start);
            self.pages.put(first, run, Birth::Earlier);
        }
        self.map(common, new.start, area);
    }

    fn set_break(&mut self, common: &mut Common, end: u64, time_ns: u64, accounts: &mut Accounts) {
        let end = whole_pages(end, 0).end;
        match self.heap_end.replace(end) {
            Some(was) if end > was => self.map(common, was, Area::new(end, MapKind::Anonymous)),
            Some(was) => {
                self.release(common, page(end)..page(was), time_ns, accounts);
                self.mappings.cut(end, was, |_, _| {});
            }
            // What there is of the heap so far is not known to be mapped, which counts as anonymous anyway.
            None => {}
        }
    }

    /// A pool was born. Pages that are there already were touched for another one, or are the pool's own first page, if
    /// the birth is told by its end: they are the pool's from now on. Pages from before the recording stay nobody's.
    /// A pool that stands for others only borrows them.
    fn pool(&mut self, common: &mut Common, address: u64, pool: Pool, time_ns: u64, accounts: &mut Accounts) {
        let times = u64::from(pool.weight);
        let totals = common.pools.entry(pool.site).or_default();
        totals.born += Amount::sampled(pool.bytes.into(), 1, pool.weight);
        if address == 0 {
            totals.without_address += times;
            return;
        }
        let range = address..address.saturating_add(pool.bytes.into());
        self.return_loans(common, range.clone(), time_ns, accounts);
        let no_room = !self.pools.contains(address) && common.used.pools + self.pools.len() >= common.limits.pools;
        if no_room || !self.room(common) {
            common.lost.pools += times;
            self.pools.release(range);
            return;
        }
        let used_again = self.pools.put(address, pool);
        if pool.weight > 1 {
            let pool = Pool {
                lent: self.pages_there(address, pool.bytes),
                ..pool
            };
            self.lend(address, &pool, false, time_ns, accounts);
            return;
        }
        let now_ms = common.ms(time_ns);
        for (first, run) in self.take_out(address, pool.bytes) {
            let to = Run { site: pool.site, ..run };
            if run.is_zero() {
                self.pages.put(first, run, Birth::Earlier);
            } else if used_again {
                // The pool that was here has died.
                accounts.died_amount(run.site, run.amount(), common.ns(run.born_ms), time_ns);
                accounts.born_amount(pool.site, run.amount(), time_ns);
                let to = Run { born_ms: now_ms, ..to };
                self.pages.put(first, to, Birth::Now);
            } else {
                accounts.reassign(run.site, pool.site, run.amount(), common.ns(run.born_ms));
                self.pages.put(first, to, Birth::Earlier);
            }
        }
    }

    /// The pages of `pool`, which holds nothing, are `keeper`'s.
    pub fn keep(
        &mut self,
        common: &Common,
        address: u64,
        pool: &Pool,
        keeper: SiteId,
        now_ns: u64,
        accounts: &mut Accounts,
    ) {
        if pool.lent != 0 {
            // Those it stands for are as empty as this one.
            self.return_loans(common, address..address + 1, now_ns, accounts);
            let kept = Pool { site: keeper, ..*pool };
            self.pools.put(address, kept);
            self.lend(address, &kept, true, now_ns, accounts);
            return;
        }
        for (first, run) in self.take_out(address, pool.bytes) {
            let to = if run.is_zero() {
                run
            } else {
                accounts.kept(run.site, keeper, run.amount(), common.ns(run.born_ms), now_ns);
                Run { site: keeper, ..run }
            };
            self.pages.put(first, to, Birth::Earlier);
        }
    }

    /// Which of a pool's first pages came in the recording and are there, as bits.
    fn pages_there(&self, address: u64, bytes: u32) -> u16 {
        let range = pages(&whole_pages(address, bytes.into()));
        let there = |page| self.pages.get(page).is_some_and(|(_, run)| !run.is_zero());
        let bits = range.clone().take(16).filter(|&page| there(page));
        bits.fold(0, |bits, page| bits | 1 << (page - range.start))
    }

    /// Whose pages are lent to a pool, and which.
    pub fn loans(&self, address: u64, pool: &Pool) -> Vec<(Run, Loan)> {
        let mut loans: Vec<(Run, Loan)> = Vec::new();
        for bit in (0..16).filter(|bit| pool.lent >> bit & 1 == 1) {
            let Some((_, run)) = self.pages.get(page(address) + bit).filter(|(_, run)| !run.is_zero()) else {
                continue;
            };
            let pages = Run { pages: 1, ..run }.amount();
            match loans.iter_mut().find(|(lender, _)| lender.site == run.site) {
                Some((_, loan)) => loan.pages += pages,
                // Pages that it has already are only its own.
                None if run.site == pool.site => {}
                None => {
                    let weight = pool.weight;
                    loans.push((run, Loan { pages, weight }));
                }
            }
        }
        loans
    }

    fn lend(&mut self, address: u64, pool: &Pool, kept: bool, now_ns: u64, accounts: &mut Accounts) {
        self.pools.lend(address, pool.lent);
        self.borrowers += usize::from(pool.lent != 0);
        for (lender, loan) in self.loans(address, pool) {
            accounts.lend(lender.site, pool.site, &loan, kept, now_ns);
        }
    }

    /// What is lent to pools that have any of the memory is their lenders' again. To be called before any of their pages
    /// becomes another's.
    fn return_loans(&mut self, common: &Common, range: Range<u64>, now_ns: u64, accounts: &mut Accounts) {
        if self.borrowers == 0 {
            return;
        }
        for (address, pool) in self.pools.within(range) {
            if pool.lent == 0 {
                continue;
            }
            for (lender, loan) in self.loans(address, &pool) {
                accounts.give_back(lender.site, pool.site, &loan, common.ns(pool.born_ms), now_ns);
            }
            self.pools.lend(address, 0);
            self.borrowers -= 1;
        }
    }

    fn take_out(&mut self, address: u64, bytes: u32) -> Vec<(u64, Run)> {
        let mut runs = Vec::new();
        self.pages
            .cut(pages(&whole_pages(address, bytes.into())), |first, run| {
                runs.push((first, run))
            });
        runs
    }
}

/// The pages that have any of it, as addresses. What is beyond what can be mapped is cut off: with five levels of page
/// tables, user space has 2^56 bytes (x86-64, Documentation/arch/x86/x86_64/mm.rst).
fn whole_pages(start: u64, bytes: u64) -> Range<u64> {
    const LIMIT: u64 = 1 << 56;
    let end = start.min(LIMIT).saturating_add(bytes.min(LIMIT)).min(LIMIT);
    start.min(LIMIT) / PAGE * PAGE..end.next_multiple_of(PAGE)
}

fn addresses(pages: &Range<u64>) -> Range<u64> {
    pages.start.saturating_mul(PAGE)..pages.end.saturating_mul(PAGE)
}

fn page(address: u64) -> u64 {
    address / PAGE
}

fn pages(range: &Range<u64>) -> Range<u64> {
    page(range.start)..page(range.end)
}
