//! Pages that a process has for itself because it wrote to them after a fork. Its resident memory stays the same: what it
//! shared was resident, and so is the copy. But the machine has one page less.
//!
//! A write to a page that is there and may not be written is a fault, whether a copy is made or not: if all who shared it
//! have gone, or have copies of their own, the kernel only makes it writable (`wp_can_reuse_anon_folio`, mm/memory.c). So it
//! is followed who shares since which fork, and looked up in the beginning which pages others have as well.

use rustc_hash::FxHashMap;

use super::super::account::Amount;
use super::super::event::SiteId;
use super::pages::{Birth, Pages, Run};

/// What a page was when the process was first looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Another process has it as well.
    Shared,
    /// The kernel's page of zeros.
    Zeros,
    /// The process's alone.
    Own,
}

#[derive(Debug, Default)]
pub(super) struct Copies {
    copied: Pages,
    total: Amount,
    /// Sites stand for [`Before`].
    before: Pages,
}

impl Copies {
    pub fn entries(&self) -> usize {
        self.copied.entries() + self.before.entries()
    }

    pub fn total(&self) -> Amount {
        self.total
    }

    /// Runs of pages in order.
    pub fn set_before(&mut self, mut first: u64, mut pages: u64, what: Before) {
        while pages > 0 {
            let some = u16::try_from(pages).unwrap_or(u16::MAX);
            let run = Run {
                site: what as SiteId,
                born_ms: 0,
                weight: 1,
                pages: some,
                huge: false,
            };
            self.before.cut(first..first + u64::from(some), |_, _| {});
            self.before.put(first, run, Birth::Earlier);
            first += u64::from(some);
            pages -= u64::from(some);
        }
    }

    pub fn before(&self, page: u64) -> Option<Before> {
        let (_, run) = self.before.get(page)?;
        [Before::Shared, Before::Zeros, Before::Own]
            .into_iter()
            .find(|what| *what as SiteId == run.site)
    }

    /// When the page was copied.
    pub fn copied_ms(&self, page: u64) -> Option<u32> {
        self.copied.get(page).map(|(_, run)| run.born_ms)
    }

    pub fn put(&mut self, page: u64, run: Run) {
        self.take_away(page..page + 1);
        self.total += run.amount();
        // Only what is exactly as old is joined: whether it was before a fork or after decides.
        self.copied.put(page, run, Birth::Earlier);
    }

    /// The pages are gone.
    pub fn release(&mut self, pages: std::ops::Range<u64>) {
        self.take_away(pages.clone());
        self.before.cut(pages, |_, _| {});
    }

    fn take_away(&mut self, pages: std::ops::Range<u64>) {
        let total = &mut self.total;
        self.copied.cut(pages, |_, run| *total -= run.amount());
    }

    /// Changes each run of copies, but not its length.
    pub fn change(&mut self, change: impl FnMut(&mut Run)) {
        self.copied.change(change);
    }

    /// Copies that were made from then on.
    pub fn by_site(&self, since_ms: u32) -> Vec<(SiteId, Amount)> {
        let mut sites: FxHashMap<SiteId, Amount> = FxHashMap::default();
        for (_, run) in self.copied.iter().filter(|(_, run)| run.born_ms >= since_ms) {
            *sites.entry(run.site).or_default() += run.amount();
        }
        let mut sites: Vec<_> = sites.into_iter().collect();
        sites.sort_unstable_by_key(|&(site, amount)| (std::cmp::Reverse(amount.bytes), site));
        sites
    }
}
