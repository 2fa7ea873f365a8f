//! Growth mode from its first process to its report: what the session drives.

use std::{fs, io, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    account::{Accounts, Amount},
    blocks::Blocks,
    event::{Event, SiteId, What},
    pools::ProcessPools,
    regions::Regions,
    rss::Resident,
    space::{FileShare, Growth, KernelPages, Limits, Lost, Pot, Thp, in_memory, look_before, parse_mappings},
};
use crate::{
    cost,
    process::command::{self, Command},
};

/// The site of pools that pymalloc keeps although they hold nothing.
pub const FREE_POOLS: SiteId = SiteId::MAX - 1;

/// What is known of one process besides its pages.
#[derive(Clone, Debug)]
pub struct Known {
    pub comm: String,
    /// What it runs.
    pub command: Option<Command>,
    /// When we began to look; nothing of a process that started later.
    pub before: Resident,
    /// The last time we looked.
    pub after: Resident,
    /// When that was.
    since_ns: u64,
    pub started: bool,
    pub exited: bool,
    /// What came in the recording and was there at its end, or when the process ended.
    pub live: Amount,
    /// Pages of files and of shared memory by site, worked out.
    pub files: Vec<(Pot, FileShare)>,
    /// Copies of what it shared since a fork, by site: no part of what it is resident with more.
    pub copies: Vec<(SiteId, Amount)>,
}

impl Known {
    /// What it has now, unless it has ended, whether we were told or not: the last that it had is kept.
    fn glance(&mut self, pid: u32) -> Option<Resident> {
        if self.exited {
            return None;
        }
        let now = Resident::glance(pid).ok().filter(|now| now.rss > 0)?;
        self.after = now;
        Some(now)
    }
}

/// A moment of the curve.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub time_ns: u64,
    /// Of all processes that were there; `None` if there was none.
    pub rss: Option<u64>,
}

pub struct Watch {
    growth: Growth,
    /// Address space: what was mapped, touched or not.
    pub regions: Regions,
    /// Exact mode.
    pub blocks: Option<Blocks>,
    pub accounts: Accounts,
    pub known: FxHashMap<u32, Known>,
    /// In the order in which processes came.
    order: Vec<u32>,
    pub moments: Vec<Moment>,
    every: Option<Duration>,
    /// Processes whose memory counts as there although they have ended: those that the recording is about. Otherwise
    /// nothing would be left to show of a command.
    lasting: FxHashSet<u32>,
    started_ns: u64,
    next_ns: u64,
    next_glance_ns: u64,
    pub ended_ns: u64,
    stopped: bool,
}

/// Resident memory is read this often, so that of a process that ends something is known.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// That of chosen processes more often: what a command had when it ended is known no better than by the last look, and
/// one that takes less than a second would have had nothing. A glance takes 45 µs.
const GLANCE_EVERY: Duration = Duration::from_millis(100);

impl Watch {
    /// `blocks`: for exact mode.
    pub fn new(now_ns: u64, every: Option<Duration>, lasting: Vec<u32>, blocks: Option<Blocks>) -> Self {
        let limits = Limits::default();
        Self {
            growth: Growth::new(limits, Thp::read(), now_ns, Box::new(KernelPages::open())),
            regions: Regions::default(),
            blocks,
            accounts: Accounts::default(),
            known: FxHashMap::default(),
            order: Vec::new(),
            moments: Vec::new(),
            every,
            lasting: lasting.into_iter().collect(),
            started_ns: now_ns,
            next_ns: now_ns,
            next_glance_ns: now_ns,
            ended_ns: now_ns,
            stopped: false,
        }
    }

    /// When the recording began.
    pub fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// A process that is there already.
    pub fn adopt(&mut self, pid: u32, comm: &str) {
        if self.known.contains_key(&pid) {
            return;
        }
        // `smaps` says which mappings may have huge pages, and counts page tables for it (9 ms per GiB): for chosen
        // processes. Old kernels and ended processes have `maps` at most.
        let told = if self.is_chosen(pid) { "smaps" } else { "maps" };
        let mappings = fs::read(format!("/proc/{pid}/{told}"))
            .or_else(|_| fs::read(format!("/proc/{pid}/maps")))
            .map(|text| {
                let mounts = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
                parse_mappings(&text, &in_memory(&mounts))
            })
            .unwrap_or_default();
        let before = self.resident(pid).unwrap_or_default();
        self.begin(pid, comm.to_owned(), command::of(pid), before, false);
        self.growth.adopt(pid, &mappings);
        if self.is_chosen(pid) && self.blocks.is_none() {
            self.growth.set_before(pid, &look_before(pid, &mappings));
        }
        if let Some(known) = self.known.get_mut(&pid) {
            known.since_ns = cost::monotonic_ns();
        }
    }

    /// Whether the recording is about this process, and not about all.
    fn is_chosen(&self, pid: u32) -> bool {
        self.lasting.contains(&pid)
    }

    /// What a process has: exactly, if it is chosen; otherwise as its counters say, which costs next to nothing.
    fn resident(&self, pid: u32) -> io::Result<Resident> {
        if self.is_chosen(pid) {
            Resident::read(pid)
        } else {
            Resident::glance(pid)
        }
    }

    fn begin(&mut self, pid: u32, comm: String, command: Option<Command>, before: Resident, started: bool) {
        let known = Known {
            comm,
            command,
            before,
            after: before,
            since_ns: 0,
            started,
            exited: false,
            live: Amount::default(),
            files: Vec::new(),
            copies: Vec::new(),
        };
        if self.known.insert(pid, known).is_none() {
            self.order.push(pid);
        }
    }

    /// What happened, in order of time. `comm`: the name of a process.
    pub fn take(&mut self, events: &[Event], comm: impl Fn(u32) -> String) {
        for event in events {
            if self.stopped && event.time_ns > self.ended_ns {
                continue;
            }
            match event.what {
                What::Allocated { .. } | What::Freed { .. } => {
                    if let Some(blocks) = &mut self.blocks {
                        blocks.take(event, &mut self.accounts);
                    }
                    continue;
                }
                What::Fork { parent } => {
                    // Its memory is a copy of its parent's: resident, and nothing that it has allocated.
                    let before = Resident::glance(event.pid)
                        .or_else(|_| Resident::glance(parent))
                        .unwrap_or_default();
                    let command = self.known.get(&parent).and_then(|parent| parent.command.clone());
                    self.begin(event.pid, comm(event.pid), command, before, true);
                }
                What::Exec => {
                    let command = command::of(event.pid);
                    self.begin(event.pid, comm(event.pid), command, Resident::default(), true);
                }
                What::Exit => {
                    self.end(event.pid);
                    if self.lasting.contains(&event.pid) {
                        continue;
                    }
                }
                _ if self.is_before(event) => continue,
                _ if !self.known.contains_key(&event.pid) => self.adopt(event.pid, &comm(event.pid)),
                _ => {}
            }
            self.growth.take(event, &mut self.accounts);
            self.regions.take(event);
        }
    }

    /// Whether it happened before we looked at what the process had: then that includes it.
    fn is_before(&self, event: &Event) -> bool {
        self.known
            .get(&event.pid)
            .is_some_and(|known| event.time_ns < known.since_ns)
    }

    fn end(&mut self, pid: u32) {
        self.measure(pid);
        let stays = self.lasting.contains(&pid);
        if let Some(known) = self.known.get_mut(&pid) {
            known.exited = true;
            if !stays {
                known.files.clear();
                known.copies.clear();
            }
        }
    }

    /// Looks at the clock: snapshots are due, and so is a look at what is resident.
    pub fn tick(&mut self, now_ns: u64) {
        if self.stopped {
            return;
        }
        let after = |every: Duration| now_ns.saturating_add(u64::try_from(every.as_nanos()).unwrap_or(u64::MAX));
        if now_ns >= self.next_glance_ns {
            self.next_glance_ns = after(GLANCE_EVERY);
            for pid in &self.lasting {
                if let Some(known) = self.known.get_mut(pid) {
                    known.glance(*pid);
                }
            }
        }
        if now_ns < self.next_ns {
            return;
        }
        self.next_ns = after(self.every.unwrap_or(LOOK_EVERY));
        self.look(now_ns);
        if self.every.is_some() {
            self.accounts.snapshot(now_ns);
        }
    }

    fn look(&mut self, now_ns: u64) {
        let resident = self.known.iter_mut().filter_map(|(pid, known)| known.glance(*pid));
        let rss = resident.map(|now| now.rss).reduce(u64::saturating_add);
        if self.every.is_some() {
            self.moments.push(Moment { time_ns: now_ns, rss });
        }
    }

    /// Fixes what a process has by now.
    fn measure(&mut self, pid: u32) {
        let Some(known) = self.known.get_mut(&pid) else { return };
        if self.blocks.is_some() {
            return;
        }
        if let Some(process) = self.growth.process(pid) {
            known.live = process.live;
        }
        known.copies = self.growth.copies(pid);
        let grown = |of: fn(&Resident) -> u64| of(&known.after).saturating_sub(of(&known.before));
        known.files = [
            (Pot::File, grown(Resident::file)),
            (Pot::Memory, grown(|resident| resident.shared)),
        ]
        .into_iter()
        .filter_map(|(pot, grown)| Some((pot, self.growth.file_pages(pid, pot, grown)?)))
        .flat_map(|(pot, pages)| pages.sites.into_iter().map(move |share| (pot, share)))
        .collect();
    }

    /// The recording is over: looks at what the processes have now. Of what is still on its way, only what happened before
    /// counts.
    pub fn stop(&mut self, now_ns: u64) {
        self.look(now_ns);
        let chosen: Vec<u32> = self.lasting.iter().copied().collect();
        for pid in chosen {
            if let Ok(now) = self.resident(pid)
                && let Some(known) = self.known.get_mut(&pid)
                && now.rss > 0
                && !known.exited
            {
                known.after = now;
            }
        }
        // A worker gives itself a title after the fork.
        for (&pid, known) in self
            .known
            .iter_mut()
            .filter(|(_, known)| known.started && !known.exited)
        {
            known.command = command::of(pid).or_else(|| known.command.take());
        }
        self.ended_ns = cost::monotonic_ns();
        if let Some(moment) = self.moments.last_mut() {
            moment.time_ns = self.ended_ns;
        }
        self.stopped = true;
    }

    /// All that happened has been taken in.
    pub fn finish(&mut self) {
        if self.every.is_some() {
            self.accounts.snapshot(self.ended_ns);
        }
        let now_ns = self.ended_ns;
        let alive: Vec<u32> = self
            .order
            .iter()
            .copied()
            .filter(|pid| !self.known[pid].exited)
            .collect();
        for pid in alive {
            self.measure(pid);
        }
        self.growth
            .finish(now_ns, FREE_POOLS, &mut ProcessPools, &mut self.accounts);
    }

    /// Processes in the order in which they came.
    pub fn processes(&self) -> impl Iterator<Item = (u32, &Known)> {
        self.order.iter().filter_map(|pid| Some((*pid, self.known.get(pid)?)))
    }

    /// What was resident at a snapshot, of all processes.
    pub fn rss_at(&self, time_ns: u64) -> Option<u64> {
        let at = self
            .moments
            .binary_search_by_key(&time_ns, |moment| moment.time_ns)
            .ok()?;
        self.moments[at].rss
    }

    pub fn growth(&self) -> &Growth {
        &self.growth
    }

    pub fn lost(&self) -> Lost {
        self.growth.lost()
    }
}
