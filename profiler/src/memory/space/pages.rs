//! Which pages of one process came in the recording, and whose they are.
//!
//! A `BTreeMap` of runs. With 24 bytes per run and the tree's slack, a million runs that cannot be joined take up
//! 50 MiB (`a_million_lone_pages_fit` in `tests`); memory that is touched in order joins to a few.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::account::Amount;
use super::super::event::SiteId;

pub(super) const PAGE: u64 = 4096;
/// Pages of a huge page.
pub(super) const HUGE: u64 = 512;

/// Neighbours born within this time of each other become one run, whose age is that of its first page.
const SAME_TIME_MS: u32 = 1000;

/// Neighbouring pages of one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub site: SiteId,
    /// Since the recording began.
    pub born_ms: u32,
    /// How many such runs this one stands for. 0: the pages are the kernel's page of zeros, which costs nothing.
    pub weight: u32,
    pub pages: u16,
    /// Came as a huge page (or is what is left of one), not page by page.
    pub huge: bool,
}

impl Run {
    pub fn zero(pages: u16) -> Self {
        Self {
            site: 0,
            born_ms: 0,
            weight: 0,
            pages,
            huge: false,
        }
    }

    pub fn is_zero(&self) -> bool {
        self.weight == 0
    }

    /// What these pages stand for. Sums of parts are the whole's: each page of a huge page has its share of the huge
    /// page's variance, which is that of 512 pages at once, not of 512 draws.
    pub fn amount(&self) -> Amount {
        let pages = u64::from(self.pages);
        let one = Amount::sampled(PAGE, 1, self.weight);
        let together = if self.huge { HUGE as f64 } else { 1.0 };
        Amount {
            bytes: one.bytes.saturating_mul(pages),
            count: one.count.saturating_mul(pages),
            variance: one.variance * pages as f64 * together,
        }
    }

    fn joins(&self, other: &Self, within_ms: u32) -> bool {
        u32::from(self.pages) + u32::from(other.pages) <= u16::MAX.into()
            && self.weight == other.weight
            && match self.weight {
                0 => true,
                // A sampled page is one point, never two at once.
                1 => {
                    self.site == other.site
                        && self.huge == other.huge
                        && self.born_ms.abs_diff(other.born_ms) <= within_ms
                }
                _ => false,
            }
    }
}

/// When the pages that are put in were born.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Birth {
    /// Just now. So they are younger than their neighbours, and all of a joined run is at most `SAME_TIME_MS` younger
    /// than its first page.
    Now,
    /// Earlier: joins only what is exactly as old, or moving pages about would let a run's ages drift apart.
    Earlier,
}

/// Runs by the number of their first page; they do not overlap.
#[derive(Debug, Default)]
pub(super) struct Pages {
    runs: BTreeMap<u64, Run>,
}

impl Pages {
    /// How many runs there are, which is what they cost.
    pub fn entries(&self) -> usize {
        self.runs.len()
    }

    /// The run that holds `page`, and where it begins.
    pub fn get(&self, page: u64) -> Option<(u64, Run)> {
        let (&first, run) = self.runs.range(..=page).next_back()?;
        (page - first < run.pages.into()).then_some((first, *run))
    }

    /// Runs of which some page is in `range`, whole.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Run)> {
        let before = self.runs.range(..range.start).next_back();
        let before = before.filter(|&(&first, run)| range.start - first < run.pages.into());
        let inside = (range.start < range.end).then(|| self.runs.range(range));
        before
            .into_iter()
            .chain(inside.into_iter().flatten())
            .map(|(&first, run)| (first, *run))
    }

    /// Changes each run that is no zeros, but not its length.
    pub fn change(&mut self, mut change: impl FnMut(&mut Run)) {
        self.runs
            .values_mut()
            .filter(|run| !run.is_zero())
            .for_each(&mut change);
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, Run)> {
        self.runs.iter().map(|(&first, run)| (first, *run))
    }

    /// Puts in a run, where there is none so far.
    pub fn put(&mut self, first: u64, mut run: Run, birth: Birth) {
        let within_ms = match birth {
            Birth::Now => SAME_TIME_MS,
            Birth::Earlier => 0,
        };
        let end = first + u64::from(run.pages);
        if let Some(after) = self.runs.get(&end)
            && after.joins(&run, within_ms)
        {
            run.pages += after.pages;
            run.born_ms = run.born_ms.min(after.born_ms);
            self.runs.remove(&end);
        }
        if let Some((&at, before)) = self.runs.range_mut(..first).next_back()
            && at + u64::from(before.pages) == first
            && before.joins(&run, within_ms)
        {
            before.pages += run.pages;
            before.born_ms = before.born_ms.min(run.born_ms);
            return;
        }
        self.runs.insert(first, run);
    }

    /// Takes out the pages in `range`: calls `each` with each run of them, cut to the range.
    pub fn cut(&mut self, range: Range<u64>, mut each: impl FnMut(u64, Run)) {
        if range.start >= range.end {
            return;
        }
        self.split(range.start);
        self.split(range.end);
        for (first, run) in self.runs.extract_if(range, |_, _| true) {
            each(first, run);
        }
    }

    /// Makes a run that holds both `at` and the page before it two.
    fn split(&mut self, at: u64) {
        let Some((&first, run)) = self.runs.range_mut(..at).next_back() else {
            return;
        };
        // The distance fits if it is less than `pages`, which is 16 bits.
        let head = match u16::try_from(at - first) {
            Ok(head) if head < run.pages => head,
            _ => return,
        };
        let tail = Run {
            pages: run.pages - head,
            ..*run
        };
        run.pages = head;
        self.runs.insert(at, tail);
    }
}
