//! Pages that are of a file, or of memory that processes share: who touched them, and who was first.

use std::cmp::Reverse;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::super::event::{Mapped, SiteId};
use super::mappings::Mappings;
use super::pages::{Birth, PAGE, Pages, Run};

/// The kernel maps up to 16 pages around a fault (`fault_around_bytes`, 64 KiB, in mm/memory.c), and of a file that lies in
/// large folios a folio at a time: 32 pages were seen on Linux 6.18, 512 is the largest (2 MiB).
const MOST_AROUND: f64 = 512.0;
/// Of a file: what one fault brings, at least where it is read.
const AROUND: u64 = 16 * PAGE;

/// What RSS counts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pot {
    File,
    /// Shared memory: tmpfs, memfd, System V, mappings that are shared without a file.
    Memory,
}

/// File pages of one process: not counted but apportioned, by the faults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilePages {
    /// Largest first.
    pub sites: Vec<FileShare>,
    /// How many pages one fault is taken for.
    pub factor: f64,
    /// The factor would have to be outside of what can be. So the sum is not what was measured.
    pub clamped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileShare {
    pub site: SiteId,
    /// What no other process had touched before.
    pub bytes: u64,
    /// What another one had: resident here as well, and there once.
    pub again: u64,
}

/// Which process was the first to touch which part of which file.
#[derive(Debug, Default)]
pub(super) struct Claims(FxHashMap<(u64, u64), u32>);

/// 32 bytes each, and up to as much again: 64 KiB each of 16 GiB of files. What is beyond counts for each process.
const MOST_CLAIMS: usize = 1 << 18;

impl Claims {
    fn claim(&mut self, pid: u32, mapped: &Mapped, address: u64) {
        let key = part(mapped, address);
        if self.0.len() < MOST_CLAIMS {
            self.0.entry(key).or_insert(pid);
        }
    }

    /// Nobody was first any more.
    pub fn forget(&mut self) {
        self.0 = FxHashMap::default();
    }

    fn is_anothers(&self, pid: u32, mapped: &Mapped, address: u64) -> bool {
        self.0.get(&part(mapped, address)).is_some_and(|&first| first != pid)
    }
}

fn part(mapped: &Mapped, address: u64) -> (u64, u64) {
    (mapped.object, address.wrapping_add(mapped.base) / AROUND)
}

/// Of one process.
#[derive(Debug, Default)]
pub(super) struct Files {
    touched: Pages,
}

impl Files {
    pub fn entries(&self) -> usize {
        self.touched.entries()
    }

    pub fn faults(&self) -> u64 {
        let faults = self.touched.iter().map(|(_, run)| run.amount().count);
        faults.fold(0, u64::saturating_add)
    }

    pub fn touch(&mut self, claims: &mut Claims, pid: u32, mapped: Option<&Mapped>, page: u64, run: Run) {
        self.touched.cut(page..page + 1, |_, _| {});
        self.touched.put(page, run, Birth::Now);
        if let Some(mapped) = mapped.filter(|mapped| mapped.object != 0) {
            claims.claim(pid, mapped, page * PAGE);
        }
    }

    pub fn release(&mut self, pages: Range<u64>) {
        self.touched.cut(pages, |_, _| {});
    }

    /// The first range's pages are the second one's now.
    pub fn take_out(&mut self, pages: Range<u64>) -> Vec<(u64, Run)> {
        let mut runs = Vec::new();
        self.touched.cut(pages, |first, run| runs.push((first, run)));
        runs
    }

    /// Changes when runs were born.
    pub fn rebase(&mut self, later: impl Fn(&mut u32)) {
        self.touched.change(|run| later(&mut run.born_ms));
    }

    /// What was touched so far does not count any more.
    pub fn forget(&mut self) {
        self.touched = Pages::default();
    }

    pub fn put_back(&mut self, first: u64, run: Run) {
        self.touched.put(first, run, Birth::Earlier);
    }

    /// Apportions what the process is measured to have got of a pot.
    pub fn apportion(
        &self,
        claims: &Claims,
        pid: u32,
        mappings: &Mappings,
        pot: Pot,
        grown_bytes: u64,
    ) -> Option<FilePages> {
        let mut sites: FxHashMap<SiteId, [u64; 2]> = FxHashMap::default();
        let mut faults = 0_u64;
        for (first, run) in self.touched.iter() {
            for page in first..first + u64::from(run.pages) {
                let address = page * PAGE;
                let mapped = mappings.find(address).map(|(_, area)| area.mapped).unwrap_or_default();
                if mapped.in_memory != (pot == Pot::Memory) {
                    continue;
                }
                let again = mapped.object != 0 && claims.is_anothers(pid, &mapped, address);
                let sum = &mut sites.entry(run.site).or_default()[usize::from(again)];
                *sum = sum.saturating_add(run.weight.into());
                faults = faults.saturating_add(run.weight.into());
            }
        }
        if faults == 0 || grown_bytes == 0 {
            return None;
        }
        let measured = grown_bytes as f64 / (faults as f64 * PAGE as f64);
        let factor = measured.clamp(1.0 / MOST_AROUND, MOST_AROUND);
        let bytes = |faults: u64| (faults as f64 * PAGE as f64 * factor).round() as u64;
        let mut sites: Vec<_> = sites
            .into_iter()
            .map(|(site, [once, again])| FileShare {
                site,
                bytes: bytes(once),
                again: bytes(again),
            })
            .collect();
        sites.sort_unstable_by_key(|share| (Reverse((share.bytes, share.again)), share.site));
        Some(FilePages {
            sites,
            factor,
            clamped: factor != measured,
        })
    }
}
