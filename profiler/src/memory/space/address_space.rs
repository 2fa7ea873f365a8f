//! One process: what a fault, a system call or a pool means for who has what.

use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::account::{Accounts, Amount};
use super::super::event::{MapKind, Mapped, Populated, SiteId, What};
use super::super::loan::Loan;
use super::super::pools::{Pool, Pools};
use super::copies::{Before, Copies};
use super::files::{FilePages, Files, Pot};
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
    pub const POPULATE_READ: i32 = 22;
    pub const POPULATE_WRITE: i32 = 23;
    pub const DONTNEED_LOCKED: i32 = 24;
    pub const GUARD_INSTALL: i32 = 102;
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
    copies: Copies,
    files: Files,
    /// Who has the same pages since a fork, and when that was.
    partners: FxHashMap<u32, u32>,
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
            copies: Copies::default(),
            files: Files::default(),
            partners: FxHashMap::default(),
        }
    }

    pub fn used(&self) -> Used {
        Used {
            runs: self.pages.entries() + self.copies.entries() + self.files.entries(),
            pools: self.pools.len(),
            mappings: self.mappings.len(),
        }
    }

    pub fn totals(&self) -> Process {
        Process {
            live: self.live,
            copied: self.copies.total(),
            file_faults: self.files.faults(),
        }
    }

    pub fn file_pages(&self, common: &Common, pot: Pot, grown_bytes: u64) -> Option<FilePages> {
        self.files
            .apportion(&common.claims, self.pid, &self.mappings, pot, grown_bytes)
    }

    /// Whose copies it has of pages that it shared since a fork.
    pub fn copies(&self, since_ms: u32) -> Vec<(SiteId, Amount)> {
        self.copies.by_site(since_ms)
    }

    /// Calls `each` with the lender, the borrower and what is lent.
    pub fn for_loans(&self, mut each: impl FnMut(SiteId, SiteId, &Loan)) {
        if self.borrowers == 0 {
            return;
        }
        for (address, pool) in self.pools.iter().filter(|(_, pool)| pool.lent != 0) {
            for (lender, loan) in self.loans(address, &pool) {
                each(lender.site, pool.site, &loan);
            }
        }
    }

    /// A window is over: sites get other numbers, and of files it is anew what is touched.
    pub fn cut(&mut self, number: &impl Fn(SiteId) -> SiteId) {
        self.pages.change(|run| run.site = number(run.site));
        self.pools.iter_mut().for_each(|pool| pool.site = number(pool.site));
        self.copies.change(|run| run.site = number(run.site));
        self.files.forget();
    }

    /// The sites that its memory has.
    pub fn sites(&self, sites: &mut FxHashSet<SiteId>) {
        sites.extend(self.live_runs().map(|(_, run)| run.site));
        sites.extend(self.pools.iter().map(|(_, pool)| pool.site));
        sites.extend(self.copies.by_site(0).into_iter().map(|(site, _)| site));
    }

    /// Time is counted from so much later on. What was before that began then.
    pub fn rebase(&mut self, by_ms: u32) {
        let later = |born_ms: &mut u32| *born_ms = born_ms.saturating_sub(by_ms);
        self.pages.change(|run| later(&mut run.born_ms));
        self.pools.iter_mut().for_each(|pool| later(&mut pool.born_ms));
        self.copies.change(|run| later(&mut run.born_ms));
        self.files.rebase(later);
        self.partners.values_mut().for_each(later);
    }

    /// What pages were in the beginning.
    pub fn set_before(&mut self, common: &Common, first: u64, pages: u64, what: Before) {
        if self.room(common) {
            self.copies.set_before(first, pages, what);
        }
    }

    /// Runs with the page that each begins at.
    pub fn live_runs(&self) -> impl Iterator<Item = (u64, Run)> {
        self.pages.iter().filter(|(_, run)| !run.is_zero())
    }

    pub fn has_pool(&self, addresses: Range<u64>) -> bool {
        !self.pools.within(addresses).is_empty()
    }

    pub fn pools(&self) -> Vec<(u64, Pool)> {
        self.pools.iter().collect()
    }

    pub fn adopt(&mut self, common: &mut Common, mapping: &Mapping) {
        let &Mapping {
            start,
            end,
            kind,
            mapped,
            advice,
            heap,
        } = mapping;
        let area = Area {
            end,
            kind,
            mapped,
            advice,
            // The process may have forked a minute ago, and a server of gigabytes then writes to all of it without
            // growing. Where it is not known what a page was (`Before`), to take one of zeros for a shared one is the lesser
            // mistake. Pages of files are few, and mostly written to for the first time.
            shared: kind == MapKind::Anonymous,
        };
        self.map(common, start, area);
        if heap {
            self.heap_end = Some(end);
        }
    }

    pub fn fork(&mut self, child: u32, now_ms: u32) -> Self {
        self.shared = true;
        self.mappings.share();
        let mut partners = self.partners.clone();
        self.partners.insert(child, now_ms);
        partners.insert(self.pid, now_ms);
        Self {
            mappings: self.mappings.clone(),
            heap_end: self.heap_end,
            partners,
            ..Self::new(child, true)
        }
    }

    /// Who has the same pages since a fork, and when that was.
    pub fn partners(&self) -> &FxHashMap<u32, u32> {
        &self.partners
    }

    pub fn partners_mut(&mut self) -> &mut FxHashMap<u32, u32> {
        &mut self.partners
    }

    /// Whether it has had a page of its own since then, where it shared one before.
    pub fn has_copied(&self, address: u64, since_ms: u32) -> bool {
        self.copies
            .copied_ms(address / PAGE)
            .is_some_and(|copied_ms| copied_ms >= since_ms)
    }

    /// What is not known to be mapped counts as anonymous.
    pub fn forget_mappings(&mut self) {
        self.mappings.clear();
    }

    /// Everything that happens within one address space.
    ///
    /// `shared`: of a write to a page that is there, whether another process has the same page since a fork.
    pub fn take(&mut self, common: &mut Common, time_ns: u64, what: &What, shared: bool, accounts: &mut Accounts) {
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
                self.fault(common, address, touch, shared, accounts);
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
            What::Map {
                start,
                bytes,
                kind,
                mapped,
                populated,
                site,
                ..
            } => {
                let range = whole_pages(start, bytes);
                self.release(common, pages(&range), time_ns, accounts);
                let mut area = Area::new(range.end, kind);
                area.mapped = match kind {
                    MapKind::Shared if mapped.object == 0 => common.unnamed(range.start, mapped.in_memory),
                    _ => mapped,
                };
                self.map(common, range.start, area);
                if let Some(how) = populated {
                    self.populate(common, range, how, site, time_ns, accounts);
                }
            }
            What::Unmap { start, bytes } => {
                let range = whole_pages(start, bytes);
                self.release(common, pages(&range), time_ns, accounts);
                self.mappings.cut(range.start, range.end, |_, _| {});
            }
            What::Advise {
                start,
                bytes,
                advice,
                site,
            } => {
                let range = whole_pages(start, bytes);
                match advice {
                    // The kernel frees what is given up with MADV_FREE when it needs memory, or never, and what is
                    // written there before makes it the process's again without a fault. But the process has said that
                    // it does not need it, which is what counts (`Resident::lazy_free` has how much is still there).
                    advice::DONTNEED
                    | advice::FREE
                    | advice::REMOVE
                    | advice::DONTNEED_LOCKED
                    | advice::GUARD_INSTALL => {
                        self.release(common, pages(&range), time_ns, accounts);
                    }
                    advice::HUGEPAGE => self.mappings.advise(range.start, range.end, HugeAdvice::Wanted),
                    advice::POPULATE_READ => {
                        self.populate(common, range, Populated::Read, site, time_ns, accounts);
                    }
                    advice::POPULATE_WRITE => {
                        self.populate(common, range, Populated::Written, site, time_ns, accounts);
                    }
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
            What::Fork { .. }
            | What::Exec
            | What::Exit
            | What::Victim { .. }
            | What::MemoryError
            | What::RanOut { .. }
            | What::Born { .. }
            | What::Allocated { .. }
            | What::Freed { .. } => {}
        }
    }

    fn fault(&mut self, common: &mut Common, address: u64, touch: Touch, shared_now: bool, accounts: &mut Accounts) {
        let Touch {
            write, present, weight, ..
        } = touch;
        let times = u64::from(weight);
        let page = address / PAGE;
        // The kernel grows a stack downwards, and mappings may have been missed: what is not known is anonymous.
        let (kind, shared, mapped) = match self.mappings.find(address) {
            Some((_, area)) => (area.kind, area.shared, Some(area.mapped)),
            None => (MapKind::Anonymous, self.shared, None),
        };
        let tracked = self.pages.get(page).map(|(_, run)| run);
        let owned = tracked.is_some_and(|run| !run.is_zero());
        match (kind, present, write) {
            // A file's pages, or those of memory that has no single owner. Also the first reading of a private mapping.
            (MapKind::Shared, false, _) | (MapKind::PrivateFile, false, false) if !owned => {
                common.faults.file += times;
                self.touch_file(common, page, touch, mapped.as_ref());
            }
            (MapKind::Shared, ..) | (_, true, false) => common.faults.other += times,
            (_, true, true) => match tracked {
                Some(run) if run.is_zero() => self.birth(common, page, touch, accounts),
                // After a fork it gets a copy of it, or its child has one: resident before and after.
                _ if shared && shared_now => self.copy(common, page, touch),
                Some(_) => common.faults.other += times,
                // A page of a file gives way to a copy, or one of zeros whose coming was not seen: sampled away, say.
                None if !shared => self.birth(common, page, touch, accounts),
                None => match self.copies.before(page) {
                    _ if self.copies.copied_ms(page).is_some() => common.faults.other += times,
                    Some(Before::Shared) => self.copy(common, page, touch),
                    Some(Before::Zeros) => self.birth(common, page, touch, accounts),
                    // Nobody shares it any more, so it only becomes writable.
                    Some(Before::Own) => common.faults.other += times,
                    None => common.faults.perhaps_copied += times,
                },
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

    fn run(&self, common: &Common, touch: Touch) -> Run {
        Run {
            site: touch.site,
            born_ms: common.ms(touch.time_ns),
            weight: touch.weight,
            pages: 1,
            huge: false,
        }
    }

    fn touch_file(&mut self, common: &mut Common, page: u64, touch: Touch, mapped: Option<&Mapped>) {
        let run = self.run(common, touch);
        if self.room(common) {
            self.files.touch(&mut common.claims, self.pid, mapped, page, run);
        } else {
            common.lost.memory += run.amount();
        }
    }

    fn copy(&mut self, common: &mut Common, page: u64, touch: Touch) {
        common.faults.copied += u64::from(touch.weight);
        let run = self.run(common, touch);
        if self.room(common) {
            self.copies.put(page, run);
        } else {
            common.lost.memory += run.amount();
        }
    }

    /// Pages came without a fault, in what was mapped in the recording. Of what was there before it is not known which
    /// pages there were: memory that is populated again does not come again. By runs, not by pages: asking for a terabyte
    /// again and again must not cost us more than it costs who asks.
    fn populate(
        &mut self,
        common: &mut Common,
        range: Range<u64>,
        how: Populated,
        site: SiteId,
        time_ns: u64,
        accounts: &mut Accounts,
    ) {
        /// A GiB; whoever maps more at once keeps it long enough for the growth to be seen otherwise.
        const MOST_PAGES: u64 = 1 << 18;
        let range = page(range.start)..page(range.end).min(page(range.start).saturating_add(MOST_PAGES));
        let mut at = range.start;
        while at < range.end {
            let Some((_, area)) = self.mappings.find(at * PAGE) else {
                return;
            };
            let end = page(area.end).min(range.end).min(at + u64::from(u16::MAX));
            if !common.may_walk(time_ns) {
                common.lost.memory += Amount::sampled((range.end - at) * PAGE, range.end - at, 1);
                return;
            }
            let touch = Touch {
                write: how == Populated::Written,
                present: false,
                weight: 1,
                site,
                time_ns,
            };
            match (area.kind, how) {
                _ if area.shared => at = end,
                (MapKind::Anonymous, _) | (MapKind::PrivateFile, Populated::Written) => {
                    at = self.populate_gap(common, at..end, touch, accounts);
                }
                (MapKind::Shared | MapKind::PrivateFile, _) => {
                    // One fault for what the kernel would map around one.
                    self.touch_file(common, at, touch, Some(&area.mapped));
                    at = end.min(at + 16);
                }
            }
        }
    }

    /// The first pages of the range that are not there come, up to the next that are. Returns where it goes on.
    fn populate_gap(&mut self, common: &mut Common, range: Range<u64>, touch: Touch, accounts: &mut Accounts) -> u64 {
        let next = self.pages.overlapping(range.clone()).next();
        let gap = match next {
            // Zeros stay what they are if they are only read.
            Some((first, run)) if first <= range.start && (!run.is_zero() || !touch.write) => {
                return (first + u64::from(run.pages)).min(range.end);
            }
            Some((first, run)) if first <= range.start => range.start..(first + u64::from(run.pages)).min(range.end),
            Some((first, _)) => range.start..first,
            None => range,
        };
        if !self.room(common) {
            let pages = gap.end - gap.start;
            common.lost.memory += Amount::sampled(pages * PAGE, pages, 1);
            return gap.end;
        }
        let pages = u16::try_from(gap.end - gap.start).unwrap_or(u16::MAX);
        self.pages.cut(gap.clone(), |_, _| {});
        if touch.write {
            let run = Run {
                pages,
                ..self.run(common, touch)
            };
            self.pages.put(gap.start, run, Birth::Now);
            self.live += run.amount();
            accounts.born_amount(touch.site, run.amount(), touch.time_ns);
        } else {
            self.pages.put(gap.start, Run::zero(pages), Birth::Now);
        }
        gap.end
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
        common.used.runs + self.used().runs < common.limits.runs
    }

    /// The pages are given back, and what pools were there.
    fn release(&mut self, common: &mut Common, pages: Range<u64>, time_ns: u64, accounts: &mut Accounts) {
        let range = addresses(&pages);
        self.return_loans(common, range.clone(), time_ns, accounts);
        self.pools.release(range);
        self.copies.release(pages.clone());
        self.files.release(pages.clone());
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
        if common.used.runs + self.used().runs > common.limits.runs
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
        self.copies = Copies::default();
        self.files = Files::default();
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
        // The same of the file lies there. (Anonymous memory is alike everywhere.)
        if area.mapped.object != 0 {
            area.mapped.base = area.mapped.base.wrapping_add(old.start).wrapping_sub(new.start);
        }
        self.return_loans(common, old.clone(), time_ns, accounts);
        let files = self.files.take_out(page(old.start)..page(old.start) + kept / PAGE);
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
        for (first, run) in files {
            self.files.put_back(first - page(old.start) + page(new.start), run);
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
