//! The model against one that has an entry per page and joins nothing.

use std::collections::HashMap;
use std::ops::Range;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Page {
    Zero,
    Owned { site: SiteId, weight: u32, huge: bool },
}

#[derive(Clone, Debug, Default)]
struct Space {
    pages: HashMap<u64, Page>,
    kinds: HashMap<u64, (MapKind, HugeAdvice, bool)>,
    pools: Vec<(Range<u64>, SiteId)>,
    heap_end: Option<u64>,
    executed: bool,
    forked: bool,
    copies: HashMap<u64, (u64, u32)>,
    files: HashMap<u64, u64>,
    partners: HashMap<u32, u32>,
}

#[derive(Debug, Default)]
struct Naive {
    spaces: HashMap<u32, Space>,
    allocated: HashMap<SiteId, u64>,
}

impl Naive {
    /// Whether another process has the page since a fork, and neither has copied it since.
    fn is_shared(&self, pid: u32, page: u64) -> bool {
        let copied_since = |pid: u32, since: u32| {
            let copy = self.spaces.get(&pid).and_then(|space| space.copies.get(&page));
            copy.is_some_and(|&(_, ms)| ms >= since)
        };
        let partners = self
            .spaces
            .get(&pid)
            .map(|space| space.partners.clone())
            .unwrap_or_default();
        partners
            .into_iter()
            .any(|(partner, since)| !copied_since(partner, since) && !copied_since(pid, since))
    }

    fn remove(&mut self, pid: u32) {
        self.spaces.remove(&pid);
        self.spaces.values_mut().for_each(|space| {
            space.partners.remove(&pid);
        });
    }

    fn fault(&mut self, pid: u32, thp: Thp, now_ms: u32, what: &What) {
        let What::Fault {
            address,
            write,
            present,
            weight,
            site,
        } = *what
        else {
            return;
        };
        let page = address / PAGE;
        let shared_now = self.is_shared(pid, page);
        let space = self.spaces.entry(pid).or_default();
        let there = space.pages.get(&page).copied();
        let owned = matches!(there, Some(Page::Owned { .. }));
        let kind = space.kinds.get(&page).map_or(MapKind::Anonymous, |kind| kind.0);
        let file = match kind {
            MapKind::Shared => true,
            MapKind::PrivateFile => !write,
            MapKind::Anonymous => false,
        };
        if !present && !owned && file {
            space.files.insert(page, weight.into());
            return;
        }
        if kind == MapKind::Shared || present && !write {
            return;
        }
        let known = space.kinds.get(&page).map(|kind| kind.2);
        let shared = known.unwrap_or(space.forked || !space.executed);
        if present && there != Some(Page::Zero) && shared && shared_now {
            space.copies.insert(page, (weight.into(), now_ms));
            return;
        }
        if present && (owned || there.is_none() && shared) {
            return;
        }
        if owned {
            space.pages.remove(&page);
        }
        let first = page / 512 * 512;
        let one_kind = space.kinds.get(&first).copied().filter(|kind| {
            kind.0 == MapKind::Anonymous
                && thp.allows(kind.1)
                && (first..first + 512).all(|page| space.kinds.get(&page) == Some(kind))
        });
        let empty = (first..first + 512).all(|page| !space.pages.contains_key(&page));
        let zeros = (first..first + 512).all(|page| space.pages.get(&page) == Some(&Page::Zero));
        let huge = one_kind.is_some() && (empty || zeros) && EveryThird::at(page * PAGE) != PageSize::Small;
        let range = if huge { first..first + 512 } else { page..page + 1 };
        if !write && !owned {
            if there.is_none() {
                space.pages.extend(range.map(|page| (page, Page::Zero)));
            }
            return;
        }
        *self.allocated.entry(site).or_default() += (range.end - range.start) * u64::from(weight);
        space
            .pages
            .extend(range.map(|page| (page, Page::Owned { site, weight, huge })));
    }

    fn release(&mut self, pid: u32, range: &Range<u64>) {
        let space = self.spaces.entry(pid).or_default();
        space.pages.retain(|page, _| !range.contains(page));
        space.copies.retain(|page, _| !range.contains(page));
        space.files.retain(|page, _| !range.contains(page));
        space
            .pools
            .retain(|(pool, _)| pool.end <= range.start || pool.start >= range.end || range.is_empty());
    }

    fn map(&mut self, pid: u32, range: Range<u64>, kind: Option<(MapKind, HugeAdvice, bool)>) {
        let space = self.spaces.entry(pid).or_default();
        for page in range {
            match kind {
                Some(kind) => space.kinds.insert(page, kind),
                None => space.kinds.remove(&page),
            };
        }
    }

    fn take(&mut self, pid: u32, thp: Thp, now_ms: u32, what: &What) {
        let pages = |start: u64, bytes: u64| start / PAGE..(start + bytes).div_ceil(PAGE);
        match *what {
            What::Fault { .. } => self.fault(pid, thp, now_ms, what),
            What::Map { start, bytes, kind, .. } => {
                self.release(pid, &pages(start, bytes));
                self.map(pid, pages(start, bytes), Some((kind, HugeAdvice::None, false)));
            }
            // Of a process that is not known there is nothing to release.
            What::Unmap { .. } | What::Advise { .. } if !self.spaces.contains_key(&pid) => {}
            What::Unmap { start, bytes } => {
                self.release(pid, &pages(start, bytes));
                self.map(pid, pages(start, bytes), None);
            }
            What::Advise {
                start,
                bytes,
                advice: 14 | 15,
                ..
            } => {
                let wanted = matches!(what, What::Advise { advice: 14, .. });
                let space = self.spaces.entry(pid).or_default();
                for page in pages(start, bytes) {
                    if let Some(kind) = space.kinds.get_mut(&page) {
                        kind.1 = if wanted {
                            HugeAdvice::Wanted
                        } else {
                            HugeAdvice::Refused
                        };
                    }
                }
            }
            What::Advise { start, bytes, .. } => self.release(pid, &pages(start, bytes)),
            What::Remap {
                old,
                old_bytes,
                new,
                new_bytes,
                ..
            } => {
                let (old, new) = (pages(old, old_bytes), pages(new, new_bytes));
                let space = self.spaces.entry(pid).or_default();
                let unknown = (MapKind::Anonymous, HugeAdvice::None, space.forked || !space.executed);
                let kind = space.kinds.get(&old.start).copied().unwrap_or(unknown);
                let kept = old.start..old.end.min(old.start + (new.end - new.start));
                let moved: Vec<_> = space.pages.extract_if(|page, _| kept.contains(page)).collect();
                let files: Vec<_> = space.files.extract_if(|page, _| kept.contains(page)).collect();
                self.release(pid, &old);
                self.map(pid, old.clone(), None);
                self.release(pid, &new);
                let space = self.spaces.entry(pid).or_default();
                let moved = moved.into_iter().map(|(page, is)| (page - old.start + new.start, is));
                space.pages.extend(moved);
                let files = files
                    .into_iter()
                    .map(|(page, weight)| (page - old.start + new.start, weight));
                space.files.extend(files);
                self.map(pid, new, Some(kind));
            }
            What::Break { end, .. } => {
                let end = end.div_ceil(PAGE);
                let was = self.spaces.entry(pid).or_default().heap_end.replace(end);
                match was {
                    Some(was) if was < end => {
                        self.map(pid, was..end, Some((MapKind::Anonymous, HugeAdvice::None, false)));
                    }
                    Some(was) => {
                        self.release(pid, &(end..was));
                        self.map(pid, end..was, None);
                    }
                    None => {}
                }
            }
            What::Pool {
                address, bytes, site, ..
            } => {
                let range = pages(address, bytes.into());
                let space = self.spaces.entry(pid).or_default();
                let before = space.pools.len();
                space
                    .pools
                    .retain(|(pool, _)| pool.end <= range.start || pool.start >= range.end);
                let used_again = space.pools.len() < before;
                space.pools.push((range.clone(), site));
                for page in range {
                    if let Some(Page::Owned {
                        site: owner, weight, ..
                    }) = space.pages.get_mut(&page)
                    {
                        if !used_again {
                            *self.allocated.entry(*owner).or_default() -= u64::from(*weight);
                        }
                        *self.allocated.entry(site).or_default() += u64::from(*weight);
                        *owner = site;
                    }
                }
            }
            What::Fork { parent } => {
                self.remove(pid);
                let parent_pid = parent;
                let child = match self.spaces.get_mut(&parent) {
                    Some(parent) => {
                        parent.forked = true;
                        parent.kinds.values_mut().for_each(|kind| kind.2 = true);
                        Space {
                            kinds: parent.kinds.clone(),
                            heap_end: parent.heap_end,
                            forked: true,
                            partners: {
                                let mut partners = parent.partners.clone();
                                partners.insert(parent_pid, now_ms);
                                parent.partners.insert(pid, now_ms);
                                partners
                            },
                            ..Space::default()
                        }
                    }
                    None => Space {
                        forked: true,
                        ..Space::default()
                    },
                };
                for (partner, since) in child.partners.clone() {
                    if let Some(partner) = self.spaces.get_mut(&partner) {
                        partner.partners.insert(pid, since);
                    }
                }
                self.spaces.insert(pid, child);
            }
            What::Exec => {
                self.remove(pid);
                let executed = Space {
                    executed: true,
                    ..Space::default()
                };
                self.spaces.insert(pid, executed);
            }
            What::Exit => self.remove(pid),
            What::Allocated { .. }
            | What::Freed { .. }
            | What::Victim { .. }
            | What::MemoryError
            | What::RanOut { .. }
            | What::Born { .. } => {}
        }
    }

    /// What each site has, by page.
    fn live(&self, pid: Option<u32>) -> HashMap<SiteId, Amount> {
        let mut live = HashMap::new();
        for (_, space) in self.spaces.iter().filter(|space| pid.is_none_or(|pid| pid == *space.0)) {
            for page in space.pages.values() {
                if let Page::Owned { site, weight, huge } = *page {
                    let mut amount = Amount::sampled(PAGE, 1, weight);
                    amount.variance *= if huge { 512.0 } else { 1.0 };
                    *live.entry(site).or_default() += amount;
                }
            }
        }
        live
    }
}

/// Few pages, so that events meet, near both ends of aligned 2 MiB.
fn page() -> impl Strategy<Value = u64> {
    let offset = prop_oneof![0..6_u64, 506..512_u64, Just(200)];
    (0..4_u64, offset).prop_map(|(region, offset)| BASE / PAGE + region * 512 + offset)
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 1..6_u64, 1 => 500..1100_u64, 1 => Just(512)]
}

fn address() -> impl Strategy<Value = u64> {
    (page(), 0..PAGE).prop_map(|(page, offset)| page * PAGE + offset)
}

fn what() -> impl Strategy<Value = What> {
    let site = || 0..4_u32;
    let kind = prop_oneof![
        3 => Just(MapKind::Anonymous),
        1 => Just(MapKind::PrivateFile),
        1 => Just(MapKind::Shared)
    ];
    let fault =
        (address(), any::<bool>(), 0..4_u8, 1..4_u32, site()).prop_map(|(address, write, present, weight, site)| {
            What::Fault {
                address,
                write,
                present: present == 0,
                weight,
                site,
            }
        });
    // Runs of pages in order, which join.
    let one = (address(), site()).prop_map(|(address, site)| What::Fault {
        address,
        write: true,
        present: false,
        weight: 1,
        site,
    });
    let map = (page(), length(), kind, site()).prop_map(|(page, pages, kind, site)| What::Map {
        start: page * PAGE,
        bytes: pages * PAGE,
        kind,
        mapped: Mapped::default(),
        populated: None,
        reserved: false,
        site,
    });
    let unmap = (page(), length()).prop_map(|(page, pages)| What::Unmap {
        start: page * PAGE,
        bytes: pages * PAGE,
    });
    let advice = prop_oneof![Just(4), Just(8), Just(14), Just(15)];
    let advise = (page(), length(), advice).prop_map(|(page, pages, advice)| What::Advise {
        start: page * PAGE,
        bytes: pages * PAGE,
        advice,
        site: 0,
    });
    let remap = (page(), length(), page(), length()).prop_map(|(old, old_pages, new, new_pages)| What::Remap {
        old: old * PAGE,
        old_bytes: old_pages * PAGE,
        new: new * PAGE,
        new_bytes: new_pages * PAGE,
        site: 0,
    });
    let end = (address(), site()).prop_map(|(end, site)| What::Break { end, site });
    let pool = (page(), prop_oneof![Just(4), Just(1)], site()).prop_map(|(page, pages, site)| What::Pool {
        address: page * PAGE,
        bytes: pages * PAGE as u32,
        object_bytes: 64,
        weight: 1,
        site,
    });
    let fork = (1..4_u32).prop_map(|parent| What::Fork { parent });
    prop_oneof![
        8 => fault,
        8 => one,
        2 => map,
        2 => unmap,
        3 => advise,
        2 => remap,
        1 => end,
        3 => pool,
        1 => fork,
        1 => prop_oneof![Just(What::Exec), Just(What::Exit)],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn the_model_agrees_with_a_map_of_pages(
        thp in prop_oneof![Just(Thp::Always), Just(Thp::Madvise), Just(Thp::Never)],
        mapped: bool,
        events in prop::collection::vec((1..4_u32, 0..600_000_000_u64, what()), 1..120),
    ) {
        let mut naive = Naive::default();
        let mut f = Fixture::new(Limits::default(), thp);
        let whole = What::Map { start: BASE, bytes: 2048 * PAGE, kind: MapKind::Anonymous, mapped: Mapped::default(), populated: None, reserved: false, site: 0 };
        let events = mapped
            .then(|| (1..4).map(|pid| (pid, 0, whole)))
            .into_iter()
            .flatten()
            .chain(events);
        for (pid, after_ns, what) in events {
            // A process that is not there gives nothing back.
            if matches!(what, What::Fork { parent } if parent == pid) {
                continue;
            }
            f.now_ns += after_ns;
            f.take(pid, what);
            naive.take(pid, thp, (f.now_ns / 1_000_000) as u32, &what);

            let live = naive.live(None);
            for site in 0..4 {
                let totals = f.accounts.totals(site);
                prop_assert_eq!(totals.live, live.get(&site).copied().unwrap_or_default(), "{:?}", what);
                prop_assert_eq!(totals.allocated.count, naive.allocated.get(&site).copied().unwrap_or(0));
                prop_assert!(totals.at_peak.bytes <= f.accounts.peak().0.bytes);
            }
        }
        let mut used = Used::default();
        for (&pid, space) in &f.growth.spaces {
            used = used.with(space.used());
            let totals = space.totals();
            let live = naive.live(Some(pid)).values().fold(Amount::default(), |sum, &amount| sum + amount);
            prop_assert_eq!(totals.live, live);
            prop_assert_eq!(totals.copied.count, naive.spaces.get(&pid).map_or(0, |space| space.copies.values().map(|copy| copy.0).sum()));
            prop_assert_eq!(totals.file_faults, naive.spaces.get(&pid).map_or(0, |space| space.files.values().sum()));
        }
        prop_assert_eq!(used, f.growth.common.used);
        let aged = f.growth.live_older_than(f.now_ns, 0);
        for (site, amount) in naive.live(None) {
            prop_assert_eq!(aged.get(&site).map(|aged| aged.amount), Some(amount));
        }
    }
}
