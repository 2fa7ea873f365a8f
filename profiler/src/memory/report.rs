//! From the accounts of sites to what reports read.

use std::time::Duration;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    account::{Amount, Totals},
    apart::{Apart, apart},
    event::SiteId,
    pools::PoolTotals,
    sites::OTHERS,
    space::{Aged, Pot},
    watch::{FREE_POOLS, Known, Watch},
};
use crate::{
    births::lines::Kept,
    config::{MemorySource, Wanted},
    name,
    profile::{Frame, FrameKind, Labels, Profile, SampleKey, StackId, StringId},
    report::memory::{
        COPIES, Curve, Detail, Functions, KeptLines, MemoryKind, MemoryReport, PAGES_OF_FILES, PEAK_SPACE,
        ProcessMemory, Resident, SHARED_MEMORY, Shown, Source, TEMPORARY_SPACE, add_space, add_variances,
        group::{Place, lines_of},
        heap_profile,
    },
    slices,
    window::Window,
};

pub(super) const PAGE: u32 = 4096;

/// What is known of one line of the account.
#[derive(Default)]
struct Entry {
    allocated: Amount,
    in_use: Amount,
    /// What was there at the peak, and what came and went.
    at_peak: Amount,
    temporary: Amount,
    /// Of what lives: in which slice of time it came, and how much.
    births: Vec<(u32, u64)>,
    detail: Detail,
}

/// The report of `watch`, and what the user should know about missing names. `kept`: what watchpoints came to.
pub fn report(
    window: &Window,
    watch: &Watch,
    kept: Option<&Kept>,
    wanted: Wanted,
    source: MemorySource,
    length: Duration,
) -> (MemoryReport, Vec<String>) {
    let shown = match wanted {
        Wanted::Live => Shown::Live,
        Wanted::Leaks { older_than } => Shown::Leaks { older_than },
        Wanted::Peak => Shown::Peak,
        Wanted::Temporary => Shown::Temporary,
        Wanted::Allocated => Shown::Allocated,
    };
    let mut profile = heap_profile(shown, watch.blocks.is_some(), PAGE);
    let (stacks, warnings) = name::name_stacks(window, &mut profile);
    let mut names = Names::new(window, stacks, &mut profile);
    let kept = kept.map(|kept| {
        let keys: Vec<SampleKey> = kept.proofs.iter().map(|proof| names.key(proof.site)).collect();
        (kept, keys)
    });

    let age = match wanted {
        Wanted::Leaks { older_than } => u64::try_from(older_than.as_nanos()).unwrap_or(u64::MAX),
        Wanted::Live | Wanted::Peak | Wanted::Temporary | Wanted::Allocated => 0,
    };
    let aged = match &watch.blocks {
        Some(blocks) => blocks.live_older_than(watch.ended_ns, age),
        None => watch.growth().live_older_than(watch.ended_ns, age),
    };
    let exact = watch.blocks.is_some();
    let accounts = match source {
        MemorySource::Mapped => &watch.regions.accounts,
        MemorySource::Resident | MemorySource::Pools => &watch.accounts,
    };
    let mut totals: Vec<(SiteId, Totals)> = match source {
        MemorySource::Pools => watch
            .growth()
            .pools()
            .map(|(site, pools)| (site, of_pools(&pools)))
            .collect(),
        MemorySource::Resident | MemorySource::Mapped => accounts.all(),
    };
    // In order, so that equal recordings give equal reports.
    totals.sort_unstable_by_key(|&(site, _)| site);
    let mut entries: IndexMap<SampleKey, Entry, FxBuildHasher> = IndexMap::default();
    let mut entry_of: FxHashMap<SiteId, usize> = FxHashMap::default();
    // What sites have in use, and of that what lives at the end.
    let mut held: Vec<(SiteId, u64, u64)> = Vec::new();
    for (site, totals) in totals {
        let kind = match site {
            _ if exact => MemoryKind::Blocks,
            FREE_POOLS => MemoryKind::Free,
            _ => MemoryKind::Anonymous,
        };
        let entry = entries.entry(names.key(site));
        entry_of.insert(site, entry.index());
        let entry = entry.or_default();
        entry.detail.kind = kind;
        entry.allocated += totals.allocated;
        let aged = aged.get(&site);
        let in_use = match wanted {
            Wanted::Live | Wanted::Allocated => totals.live,
            Wanted::Leaks { .. } => aged.map_or(Amount::default(), |aged| aged.amount),
            Wanted::Peak => totals.at_peak,
            Wanted::Temporary => match &watch.blocks {
                Some(blocks) if !blocks.is_sampled() => blocks.short(site),
                Some(_) | None => totals.temporary,
            },
        };
        entry.in_use += in_use;
        entry.at_peak += totals.at_peak;
        entry.temporary += totals.temporary;
        if kind == MemoryKind::Anonymous {
            held.push((site, in_use.bytes, totals.live.bytes));
        }
        if let (Some(aged), Wanted::Live | Wanted::Allocated | Wanted::Leaks { .. }, true) =
            (aged, wanted, source == MemorySource::Resident)
        {
            add_ages(&mut entry.detail, aged, watch.started_ns(), watch.ended_ns);
        }
    }
    let with_files = source == MemorySource::Resident;
    for (_, known) in watch.processes().filter(|_| with_files) {
        let files = known.files.iter().map(|(pot, share)| {
            let (sort, kind) = match pot {
                Pot::File => (PAGES_OF_FILES, MemoryKind::File),
                Pot::Memory => (SHARED_MEMORY, MemoryKind::Shared),
            };
            let amount = Amount {
                bytes: share.bytes,
                count: share.bytes / u64::from(PAGE),
                variance: 0.0,
            };
            (share.site, amount, sort, kind)
        });
        let copies = known
            .copies
            .iter()
            .map(|&(site, amount)| (site, amount, COPIES, MemoryKind::Copies));
        for (site, amount, sort, kind) in files.chain(copies).filter(|(_, amount, ..)| amount.bytes > 0) {
            let entry = entries.entry(names.sorted_key(site, sort)).or_default();
            entry.detail.kind = kind;
            entry.detail.estimated = kind != MemoryKind::Copies;
            entry.allocated += amount;
            entry.at_peak += amount;
            if matches!(wanted, Wanted::Live | Wanted::Allocated | Wanted::Peak) {
                entry.in_use += amount;
            }
        }
    }
    let again = watch.processes().flat_map(|(_, known)| &known.files);
    let shared_again = again.map(|(_, share)| share.again).fold(0, u64::saturating_add);

    // Who only touched memory that is gone, or mapped it, did so for certain.
    if !exact && source != MemorySource::Mapped && matches!(wanted, Wanted::Live | Wanted::Leaks { .. } | Wanted::Peak)
    {
        let certain = match source {
            MemorySource::Resident => {
                let parts = apart(watch.growth(), &watch.regions);
                let sites = parts.iter().flat_map(|part| [part.mapper, part.site]);
                let stacks = sites.map(|site| (site, names.key(site).stack)).collect();
                certain(&parts, &stacks, &profile)
            }
            MemorySource::Pools | MemorySource::Mapped => FxHashMap::default(),
        };
        for (site, in_use, live) in held {
            let certain = certain.get(&site).map_or(0, |&certain| certain.min(live));
            // Of what was there at the peak, or is old, the same share is.
            let share = certain as f64 / live.max(1) as f64;
            if let Some((_, entry)) = entry_of.get(&site).and_then(|&at| entries.get_index_mut(at)) {
                entry.detail.uncertain_bytes += in_use - (in_use as f64 * share) as u64;
            }
        }
    }

    let kept = kept.map(|(kept, keys)| {
        let places = lines_of(&profile, &keys);
        let of = kept.proofs.iter().map(|proof| proof.site).zip(places);
        let of: FxHashMap<SiteId, Place> = of.collect();
        KeptLines {
            lines: kept.lines(|site| of.get(&site).cloned().unwrap_or_default()),
            kept: kept.clone(),
        }
    });

    let curve = curve(watch, &entry_of);
    // Pools and mappings have no ages.
    let ages = source == MemorySource::Resident && matches!(wanted, Wanted::Live | Wanted::Leaks { .. });
    if ages {
        let slice_ns = tell_births(watch, age, length, exact, &entry_of, &mut entries);
        profile.begin_timeline(slice_ns);
    }
    // What is in use is one of these already where it is asked for.
    let whole = source == MemorySource::Resident && matches!(wanted, Wanted::Live | Wanted::Allocated);
    let (mut at_peak, mut temporary) = (Vec::new(), Vec::new());
    let mut details = Vec::with_capacity(entries.len());
    for (key, entry) in entries {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let Entry {
            allocated,
            in_use,
            mut detail,
            births,
            ..
        } = entry;
        at_peak.push((entry.at_peak.bytes, entry.at_peak.variance));
        temporary.push((entry.temporary.bytes, entry.temporary.variance));
        detail.variance_alloc = allocated.variance;
        detail.variance_inuse = in_use.variance;
        profile.add_in(
            key,
            &[
                number(allocated.count),
                number(allocated.bytes),
                number(in_use.count),
                number(in_use.bytes),
            ],
            &births,
        );
        details.push(detail);
    }
    if whole {
        add_space(&mut profile, PEAK_SPACE, &at_peak);
        add_space(&mut profile, TEMPORARY_SPACE, &temporary);
    }
    add_variances(&mut profile, &details);
    let report = MemoryReport {
        profile,
        details,
        shown,
        // Objects of these are no pages.
        exact: exact || source != MemorySource::Resident,
        source: match source {
            _ if exact => Source::Blocks,
            MemorySource::Resident => Source::Pages,
            MemorySource::Pools => Source::Pools,
            MemorySource::Mapped => Source::Mapped,
        },
        shared_again,
        perhaps_copied: if with_files { watch.perhaps_copied() } else { 0 },
        holders_told: false,
        kept,
        // The profiler's own pages are not followed: as a row of the whole machine's it would be one that nothing explains.
        processes: watch
            .processes()
            .filter(|&(pid, _)| pid != std::process::id())
            .map(|(pid, known)| process(pid, known))
            .collect(),
        curve,
        length,
    };
    (report, warnings)
}

/// What of each site lies where nobody else's objects can: in blocks of their own, which the function that mapped them
/// also touched, and no other.
fn certain(parts: &[Apart], stacks: &FxHashMap<SiteId, StackId>, profile: &Profile) -> FxHashMap<SiteId, u64> {
    let mut functions = Functions::new(profile);
    let mut function = |site: &SiteId| functions.of(*stacks.get(site)?);
    let mut parts_of: FxHashMap<(u32, u64), Vec<&Apart>> = FxHashMap::default();
    for part in parts {
        parts_of.entry((part.pid, part.mapping)).or_default().push(part);
    }
    let mut certain: FxHashMap<SiteId, u64> = FxHashMap::default();
    for parts in parts_of.into_values() {
        let is_own = |part: &&Apart| {
            let by = function(&part.mapper);
            by.is_some() && function(&part.site) == by
        };
        if parts.iter().all(is_own) {
            for part in parts {
                *certain.entry(part.site).or_default() += part.bytes;
            }
        }
    }
    certain
}

/// Births of pools, and the objects that are in them at the end.
fn of_pools(pools: &PoolTotals) -> Totals {
    Totals {
        allocated: pools.born,
        live: Amount {
            bytes: pools.object_bytes,
            count: pools.objects,
            variance: 0.0,
        },
        ..Totals::default()
    }
}

/// Notes when what lives of each entry came; how long the slices are in which that is told.
fn tell_births(
    watch: &Watch,
    age: u64,
    length: Duration,
    exact: bool,
    entry_of: &FxHashMap<SiteId, usize>,
    entries: &mut IndexMap<SampleKey, Entry, FxBuildHasher>,
) -> i64 {
    /// Of blocks it is kept in which second they came.
    const SECONDS: u8 = 7;
    let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    let shortest = if exact { SECONDS } else { 0 };
    let doublings = (shortest..60).find(|&doublings| (length >> doublings) / slices::SHORTEST_NS < slices::MOST);
    let slice_ns = slices::length_of(doublings.unwrap_or(60));
    let started = watch.started_ns();
    let slice = |born_ns: u64| {
        let slice = born_ns.saturating_sub(started) / slice_ns.unsigned_abs().max(1);
        u32::try_from(slice).unwrap_or(u32::MAX)
    };
    let last_ns = watch.ended_ns.saturating_sub(age);
    let births = match &watch.blocks {
        Some(blocks) => blocks.births(last_ns, slice),
        None => watch.growth().births(last_ns, slice),
    };
    for ((site, slice), bytes) in births {
        let entry = entry_of.get(&site).and_then(|&at| entries.get_index_mut(at));
        // More may be lent than is left of what came then.
        if let (Some((_, entry)), Some(bytes)) = (entry, u64::try_from(bytes).ok().filter(|&bytes| bytes > 0)) {
            entry.births.push((slice, bytes));
        }
    }
    for entry in entries.values_mut() {
        entry.births.sort_unstable();
    }
    slice_ns
}

fn add_ages(detail: &mut Detail, aged: &Aged, started_ns: u64, now_ns: u64) {
    // Births are told to a second: nothing is older than the recording.
    let age = |born_ns: u64| Duration::from_nanos(now_ns.saturating_sub(born_ns.max(started_ns)));
    let (oldest, youngest) = (age(aged.oldest_ns), age(aged.youngest_ns));
    detail.oldest = Some(detail.oldest.map_or(oldest, |before| before.max(oldest)));
    detail.youngest = Some(detail.youngest.map_or(youngest, |before| before.min(youngest)));
}

/// What reports are told of a process.
pub(super) fn process(pid: u32, known: &Known) -> ProcessMemory {
    let resident = |resident: &super::rss::Resident| Resident {
        rss: resident.rss,
        anonymous: resident.anonymous,
        file: resident.file(),
        shared: resident.shared,
        private: resident.private,
    };
    let files = known
        .files
        .iter()
        .map(|(_, share)| share.bytes.saturating_add(share.again));
    let files = files.fold(0, u64::saturating_add);
    ProcessMemory {
        pid,
        comm: known.comm.clone(),
        command: match &known.command {
            Some(command) => command.with_name(&known.comm),
            None => known.comm.clone(),
        },
        before: resident(&known.before),
        after: resident(&known.after),
        explained: i64::try_from(known.live.bytes.saturating_add(files)).unwrap_or(i64::MAX),
        explained_variance: known.live.variance,
        started: known.started,
        exited: known.exited,
        victim: known.victim.clone(),
    }
}

/// The curve by the entries of the report.
fn curve(watch: &Watch, entry_of: &FxHashMap<SiteId, usize>) -> Option<Curve> {
    let snapshots: Vec<_> = watch.accounts.snapshots().collect();
    let since = |time_ns: u64| Duration::from_nanos(time_ns.saturating_sub(watch.started_ns()));
    let mut sites: IndexMap<usize, Vec<u64>, FxBuildHasher> = IndexMap::default();
    for (at, snapshot) in snapshots.iter().enumerate() {
        for (site, bytes) in &snapshot.sites {
            let Some(&entry) = entry_of.get(site) else { continue };
            let line = sites.entry(entry).or_insert_with(|| vec![0; snapshots.len()]);
            line[at] += bytes;
        }
    }
    (!snapshots.is_empty()).then(|| Curve {
        times: snapshots.iter().map(|snapshot| since(snapshot.time_ns)).collect(),
        total: snapshots.iter().map(|snapshot| snapshot.live_bytes).collect(),
        rss: snapshots
            .iter()
            .map(|snapshot| watch.rss_at(snapshot.time_ns))
            .collect(),
        sites: sites.into_iter().collect(),
    })
}

/// Sites as reports know them.
pub(super) struct Names<'a> {
    window: &'a Window,
    stacks: name::Stacks,
    profile: &'a mut Profile,
    markers: FxHashMap<&'static str, StackId>,
}

impl<'a> Names<'a> {
    pub fn new(window: &'a Window, stacks: name::Stacks, profile: &'a mut Profile) -> Self {
        Self {
            window,
            stacks,
            profile,
            markers: FxHashMap::default(),
        }
    }

    pub fn key(&mut self, site: SiteId) -> SampleKey {
        let ledger = &self.window.ledger;
        match ledger.sites.get(site as usize) {
            Some(Some(sampled)) => name::key(self.profile, ledger, &self.stacks, sampled),
            _ if site == FREE_POOLS => self.marked("[free pymalloc pools]"),
            _ if site == OTHERS => self.marked("[too many lines]"),
            _ => self.marked("[stack lost]"),
        }
    }

    /// Of pages that are not just the process's own: they are told apart by their leaf.
    pub fn sorted_key(&mut self, site: SiteId, sort: &str) -> SampleKey {
        let key = self.key(site);
        let mut frames = vec![self.marker(sort)];
        frames.extend_from_slice(self.profile.stack(key.stack));
        SampleKey {
            stack: self.profile.intern_stack(&frames),
            ..key
        }
    }

    /// What has no stack.
    fn marked(&mut self, text: &'static str) -> SampleKey {
        let stack = match self.markers.get(text) {
            Some(&stack) => stack,
            None => {
                let marker = self.marker(text);
                let stack = self.profile.intern_stack(&[marker]);
                self.markers.insert(text, stack);
                stack
            }
        };
        SampleKey {
            stack,
            labels: Labels {
                pid: 0,
                tid: 0,
                comm: Profile::EMPTY,
                command: Profile::EMPTY,
                thread: Profile::EMPTY,
                cgroup: Profile::EMPTY,
                container: Profile::EMPTY,
                task: Profile::EMPTY,
            },
        }
    }

    fn marker(&mut self, text: &str) -> crate::profile::FrameId {
        let function: StringId = self.profile.intern_string(text);
        self.profile.intern_frame(Frame {
            kind: FrameKind::Marker,
            function,
            file: Profile::EMPTY,
            line: 0,
            first_line: 0,
            mapping: None,
            address: 0,
            inlined: false,
        })
    }
}
