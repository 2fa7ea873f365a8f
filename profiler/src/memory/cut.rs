//! What a window of `memory` comes to: a value that the writer's thread gives names to.
//!
//! Allocated is what came in the window, in use what lives at its end of all that came in the recording.

use std::{mem, sync::Arc, time::Duration};

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    account::{Amount, Totals},
    event::SiteId,
    report::{Names, PAGE, process},
    sites::{LASTING, OTHERS, Returning, Sites, Whose},
    space::{Aged, Lost, Pot},
    watch::{FREE_POOLS, Known},
};
use crate::{
    name::Namer,
    profile::SampleKey,
    recording::NO_SITE,
    report::memory::{
        COPIES, Detail, MemoryKind, MemoryReport, PAGES_OF_FILES, ProcessMemory, SHARED_MEMORY, Shown, Source,
        add_variances, heap_profile,
    },
    window::Window,
};

/// Whose memory it is.
#[derive(Debug)]
enum Owner {
    /// Of this window alone.
    Own(SiteId),
    Site(Arc<Whose>),
    FreePools,
    Others,
    Lost,
}

#[derive(Debug)]
struct Row {
    owner: Owner,
    kind: MemoryKind,
    allocated: Amount,
    in_use: Amount,
}

#[derive(Debug, Default)]
pub struct MemoryCut {
    rows: Vec<Row>,
    processes: Vec<ProcessMemory>,
    shared_again: u64,
    older_than: Option<Duration>,
    pub lost: Lost,
}

impl MemoryCut {
    /// `aged`: of what lives only what is at least that old is in use.
    pub(super) fn new<'a>(
        mut totals: Vec<(SiteId, Totals)>,
        aged: Option<(Duration, FxHashMap<SiteId, Aged>)>,
        processes: impl Iterator<Item = (u32, &'a Known)>,
        lost: Lost,
        sites: &Sites,
    ) -> Self {
        let owner = |site: SiteId| match sites.get(site) {
            Some(whose) => Owner::Site(Arc::clone(whose)),
            None if site < LASTING => Owner::Own(site),
            None if site == FREE_POOLS => Owner::FreePools,
            None if site == OTHERS => Owner::Others,
            None => Owner::Lost,
        };
        let mut cut = Self {
            older_than: aged.as_ref().map(|(age, _)| *age),
            lost,
            ..Self::default()
        };
        // In order, so that equal recordings give equal files.
        totals.sort_unstable_by_key(|&(site, _)| site);
        for (site, totals) in totals {
            let in_use = match &aged {
                None => totals.live,
                Some((_, aged)) => aged.get(&site).map_or(Amount::default(), |aged| aged.amount),
            };
            let kind = match site {
                FREE_POOLS => MemoryKind::Free,
                _ => MemoryKind::Anonymous,
            };
            cut.add(owner(site), kind, totals.allocated, in_use);
        }
        for (pid, known) in processes {
            for (pot, share) in &known.files {
                let kind = match pot {
                    Pot::File => MemoryKind::File,
                    Pot::Memory => MemoryKind::Shared,
                };
                let amount = Amount {
                    bytes: share.bytes,
                    count: share.bytes / u64::from(PAGE),
                    variance: 0.0,
                };
                cut.add(owner(share.site), kind, amount, amount);
                cut.shared_again = cut.shared_again.saturating_add(share.again);
            }
            for &(site, amount) in &known.copies {
                cut.add(owner(site), MemoryKind::Copies, amount, amount);
            }
            // The profiler's own pages are not followed.
            if pid != std::process::id() {
                cut.processes.push(process(pid, known));
            }
        }
        cut
    }

    fn add(&mut self, owner: Owner, kind: MemoryKind, allocated: Amount, in_use: Amount) {
        if allocated.bytes > 0 || in_use.bytes > 0 {
            self.rows.push(Row {
                owner,
                kind,
                allocated,
                in_use,
            });
        }
    }

    /// Gives it names, with those that the window has met and those of earlier ones; and what is to be known of names that
    /// are missing.
    pub fn report(self, window: &mut Window, namer: &mut Namer, length: Duration) -> (MemoryReport, Vec<String>) {
        let shown = match self.older_than {
            Some(older_than) => Shown::Leaks { older_than },
            None => Shown::Live,
        };
        let own = mem::take(&mut window.ledger.sites);
        let mut returning = Returning::to(window);
        let mut sites = Vec::new();
        let rows: Vec<(SiteId, Row)> = self
            .rows
            .into_iter()
            .map(|row| {
                let site = match &row.owner {
                    Owner::Own(site) => {
                        sites.push(own.get(*site as usize).cloned().flatten());
                        sites.len() as SiteId - 1
                    }
                    Owner::Site(whose) => {
                        sites.push(Some(returning.put(whose)));
                        sites.len() as SiteId - 1
                    }
                    Owner::FreePools => FREE_POOLS,
                    Owner::Others => OTHERS,
                    Owner::Lost => NO_SITE,
                };
                (site, row)
            })
            .collect();
        window.ledger.sites = sites;
        let mut profile = heap_profile(shown, false, PAGE);
        let (stacks, warnings) = namer.name_stacks(window, &mut profile);
        let mut names = Names::new(window, stacks, &mut profile);
        let mut entries: IndexMap<SampleKey, Row, FxBuildHasher> = IndexMap::default();
        for (site, row) in rows {
            let key = match row.kind {
                MemoryKind::File => names.sorted_key(site, PAGES_OF_FILES),
                MemoryKind::Shared => names.sorted_key(site, SHARED_MEMORY),
                MemoryKind::Copies => names.sorted_key(site, COPIES),
                MemoryKind::Anonymous | MemoryKind::Free | MemoryKind::Blocks => names.key(site),
            };
            match entries.get_mut(&key) {
                Some(sum) => {
                    sum.allocated += row.allocated;
                    sum.in_use += row.in_use;
                }
                None => {
                    entries.insert(key, row);
                }
            }
        }
        let mut details = Vec::with_capacity(entries.len());
        for (key, row) in entries {
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let Row {
                kind,
                allocated,
                in_use,
                ..
            } = row;
            let values = [allocated.count, allocated.bytes, in_use.count, in_use.bytes];
            profile.add(key, &values.map(number));
            details.push(Detail {
                variance_alloc: allocated.variance,
                variance_inuse: in_use.variance,
                estimated: matches!(kind, MemoryKind::File | MemoryKind::Shared),
                kind,
                ..Detail::default()
            });
        }
        add_variances(&mut profile, &details);
        let report = MemoryReport {
            profile,
            details,
            shown,
            exact: false,
            source: Source::Pages,
            shared_again: self.shared_again,
            // Since the start, and no window's.
            perhaps_copied: 0,
            holders_told: false,
            kept: None,
            processes: self.processes,
            curve: None,
            length,
        };
        (report, warnings)
    }
}
