//! Growth mode from its first process to its report, or from one window to the next: what the instruments drive.

use std::{fs, io, mem, os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    account::{Accounts, Amount},
    blocks::Blocks,
    cut::MemoryCut,
    event::{Event, SiteId, What},
    held::Held,
    pools::ProcessPools,
    regions::Regions,
    report::process,
    rss::Resident,
    sites::Sites,
    space::{FileShare, Growth, KernelPages, Limits, Lost, Pot, Thp, in_memory, look_before, parse_mappings},
    victim::{Accounted, Against, Victim, of_the_machine},
};
use crate::{
    cost,
    process::command::{self, Command},
    report::memory::ProcessMemory,
    window::Window,
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
    /// Whose account its memory is on.
    accounted: Option<Accounted>,
    /// What happened to its memory since a `MemoryError`.
    held: Held,
    /// The kernel has ended it for want of memory.
    pub victim: Option<Victim>,
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
    /// Processes that are looked at closely: those, and their children as far as that does not take long.
    close: FxHashSet<u32>,
    /// What children that are looked at closely have resident.
    looked_at: u64,
    started_ns: u64,
    next_ns: u64,
    next_glance_ns: u64,
    pub ended_ns: u64,
    stopped: bool,
    /// Victims of which nobody has been told.
    fallen: Vec<u32>,
    /// Where the recording is cut into windows: what goes from one to the next.
    windows: Option<Windows>,
}

/// What a recording that is cut into windows knows besides.
#[derive(Default)]
struct Windows {
    sites: Sites,
    /// When the last cut was.
    cut_ns: u64,
    /// What had found no room until then.
    lost: Lost,
}

/// Resident memory is read this often, so that of a process that ends something is known.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// That of chosen processes more often: what a command had when it ended is known no better than by the last look, and
/// one that takes less than a second would have had nothing. A glance takes 45 µs.
const GLANCE_EVERY: Duration = Duration::from_millis(100);

/// Children with so much in all are looked at closely: each GiB takes some 30 ms at the start and 10 at the end.
const CLOSELY: u64 = 4 << 30;

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
            close: lasting.iter().copied().collect(),
            looked_at: 0,
            lasting: lasting.into_iter().collect(),
            started_ns: now_ns,
            next_ns: now_ns,
            next_glance_ns: now_ns,
            ended_ns: now_ns,
            stopped: false,
            fallen: Vec::new(),
            windows: None,
        }
    }

    /// One that is cut into windows. Address space is not followed: reports of windows do not show it.
    pub fn in_windows(mut self) -> Self {
        self.windows = Some(Windows {
            cut_ns: self.started_ns,
            ..Windows::default()
        });
        self
    }

    /// The recording begins: to get ready for it can have taken seconds.
    pub fn begin(&mut self, now_ns: u64) {
        self.started_ns = now_ns;
        self.next_ns = now_ns;
        self.next_glance_ns = now_ns;
        if let Some(windows) = &mut self.windows {
            windows.cut_ns = now_ns;
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
        self.look_closely(pid);
        let told = if self.is_close(pid) { "smaps" } else { "maps" };
        let mappings = fs::read(format!("/proc/{pid}/{told}"))
            .or_else(|_| fs::read(format!("/proc/{pid}/maps")))
            .map(|text| {
                let mounts = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
                parse_mappings(&text, &in_memory(&mounts))
            })
            .unwrap_or_default();
        let before = self.resident(pid).unwrap_or_default();
        self.enter(pid, comm.to_owned(), command::of(pid), before, false);
        self.growth.adopt(pid, &mappings);
        if self.is_close(pid) && self.blocks.is_none() {
            self.growth.set_before(pid, &look_before(pid, &mappings));
        }
        if let Some(known) = self.known.get_mut(&pid) {
            known.since_ns = cost::monotonic_ns();
        }
    }

    /// Children of the processes that the recording is about: the workers of a server copy what they inherited. On a whole
    /// machine nobody is looked at closely.
    fn look_closely(&mut self, pid: u32) {
        if self.lasting.is_empty() || self.close.contains(&pid) {
            return;
        }
        let has = Resident::glance(pid).map_or(0, |now| now.rss);
        if self.looked_at.saturating_add(has) <= CLOSELY {
            self.looked_at += has;
            self.close.insert(pid);
        }
    }

    fn is_close(&self, pid: u32) -> bool {
        self.close.contains(&pid)
    }

    /// Of memory of processes that were not looked at closely, what was written to while others had it as well, or had had
    /// it: copies, for the most part.
    pub fn perhaps_copied(&self) -> u64 {
        self.growth.faults().perhaps_copied.saturating_mul(4096)
    }

    /// What a process has: exactly, if it is looked at closely; otherwise as its counters say, which costs next to nothing.
    fn resident(&self, pid: u32) -> io::Result<Resident> {
        if self.is_close(pid) {
            Resident::read(pid)
        } else {
            Resident::glance(pid)
        }
    }

    fn enter(&mut self, pid: u32, comm: String, command: Option<Command>, before: Resident, started: bool) {
        let known = Known {
            comm,
            command,
            before,
            after: before,
            since_ns: 0,
            started,
            exited: false,
            accounted: Accounted::of(pid),
            held: Held::default(),
            victim: None,
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
            let waits = self
                .known
                .get_mut(&event.pid)
                .is_some_and(|known| known.held.takes(event));
            if !waits {
                self.release(event.pid, &comm);
                self.apply(event, &comm);
            }
        }
    }

    /// What was held back happens after all: the process lives on.
    fn release(&mut self, pid: u32, comm: &impl Fn(u32) -> String) {
        let Some(known) = self.known.get_mut(&pid) else { return };
        for event in known.held.release() {
            self.apply(&event, comm);
        }
    }

    /// The same of those that have lived on for long enough, or of all.
    fn release_all(&mut self, before_ns: u64) {
        let due = |known: &Known| known.held.is_due(before_ns);
        let pids: Vec<u32> = (self.known.iter())
            .filter_map(|(pid, known)| due(known).then_some(*pid))
            .collect();
        for pid in pids {
            // All are known.
            self.release(pid, &|_| String::new());
        }
    }

    fn apply(&mut self, event: &Event, comm: &impl Fn(u32) -> String) {
        match event.what {
            What::Allocated { .. } | What::Freed { .. } => {
                if let Some(blocks) = &mut self.blocks {
                    blocks.take(event, &mut self.accounts);
                }
                return;
            }
            What::Fork { parent } => {
                // Its memory is a copy of its parent's: resident, and nothing that it has allocated.
                let before = Resident::glance(event.pid)
                    .or_else(|_| Resident::glance(parent))
                    .unwrap_or_default();
                let command = self.known.get(&parent).and_then(|parent| parent.command.clone());
                self.enter(event.pid, comm(event.pid), command, before, true);
            }
            What::Exec => {
                let command = command::of(event.pid);
                self.enter(event.pid, comm(event.pid), command, Resident::default(), true);
            }
            What::Victim { peak } => return self.fall(event, peak, None),
            What::RanOut {
                peak,
                status,
                error_ago,
                address_space,
            } => {
                let itself = Against::Itself {
                    ended: ExitStatus::from_raw(status.cast_signed()),
                    error_ago,
                    address_space,
                };
                return self.fall(event, peak, Some(itself));
            }
            What::MemoryError => return,
            What::Exit => {
                self.end(event.pid);
                if self.lasting.contains(&event.pid) {
                    return;
                }
            }
            _ if self.is_before(event) => return,
            _ if !self.known.contains_key(&event.pid) => self.adopt(event.pid, &comm(event.pid)),
            _ => {}
        }
        self.growth.take(event, &mut self.accounts);
        if self.windows.is_none() {
            self.regions.take(event);
        }
    }

    /// Whether it happened before we looked at what the process had: then that includes it.
    fn is_before(&self, event: &Event) -> bool {
        self.known
            .get(&event.pid)
            .is_some_and(|known| event.time_ns < known.since_ns)
    }

    /// A process ends for want of memory: the kernel ends it, or it does so itself. What it has now is what a reader wants to
    /// see of it, so that is kept, whosever it is.
    fn fall(&mut self, event: &Event, peak: u64, itself: Option<Against>) {
        let Some(known) = self.known.get_mut(&event.pid) else {
            return;
        };
        let accounted = known.accounted.as_ref();
        let victim = known.victim.get_or_insert_with(|| Victim {
            after: Duration::from_nanos(event.time_ns.saturating_sub(self.started_ns)),
            peak,
            against: itself.or_else(|| accounted?.against(of_the_machine)),
        });
        victim.peak = victim.peak.max(peak);
        self.lasting.insert(event.pid);
    }

    fn end(&mut self, pid: u32) {
        self.measure(pid);
        let stays = self.lasting.contains(&pid);
        if let Some(known) = self.known.get_mut(&pid) {
            if !known.exited && known.victim.is_some() {
                self.fallen.push(pid);
            }
            known.exited = true;
            if !stays {
                known.files.clear();
                known.copies.clear();
            }
        }
    }

    /// Those that the kernel has ended for want of memory since the last time.
    pub fn take_fallen(&mut self) -> impl Iterator<Item = ProcessMemory> {
        let fallen = mem::take(&mut self.fallen);
        fallen
            .into_iter()
            .filter_map(|pid| Some(process(pid, self.known.get(&pid)?)))
    }

    /// Looks at the clock: snapshots are due, and so is a look at what is resident.
    pub fn tick(&mut self, now_ns: u64) {
        if self.stopped {
            return;
        }
        let after = |every: Duration| now_ns.saturating_add(u64::try_from(every.as_nanos()).unwrap_or(u64::MAX));
        self.release_all(now_ns);
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
        self.growth.rebase(now_ns);
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
        let since_ns = self.windows.as_ref().map_or(0, |windows| windows.cut_ns);
        known.copies = self.growth.copies(pid, since_ns);
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
        let close: Vec<u32> = self.close.iter().copied().collect();
        for pid in close {
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
        self.release_all(u64::MAX);
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

    /// A window is about to end: looks at what it comes to.
    pub fn close(&mut self, now_ns: u64) {
        self.ended_ns = now_ns;
        // The end of a process may be among events that were lost.
        let gone = |(&pid, known): (&u32, &mut Known)| {
            let is_gone = !known.exited && known.glance(pid).is_none() && Resident::glance(pid).is_err();
            is_gone.then_some(pid)
        };
        let gone: Vec<u32> = self.known.iter_mut().filter_map(gone).collect();
        for pid in gone {
            self.end(pid);
            if !self.lasting.contains(&pid) {
                self.forget(pid);
            }
        }
        self.finish();
    }

    /// What a process had is gone with it.
    fn forget(&mut self, pid: u32) {
        let exit = Event {
            pid,
            time_ns: self.ended_ns,
            what: What::Exit,
        };
        self.growth.take(&exit, &mut self.accounts);
    }

    /// Ends a window. What lives stays, under numbers that are not the window's; who has ended is let go.
    pub fn cut(&mut self, window: &Window, older_than: Option<Duration>) -> MemoryCut {
        let Some(windows) = &mut self.windows else {
            return MemoryCut::default();
        };
        let sites = self.growth.sites();
        let accounts = &self.accounts;
        let own = windows
            .sites
            .enter(window, |site| sites.contains(&site) || accounts.has_something(site));
        let number = |site: SiteId| own.get(site as usize).copied().unwrap_or(site);
        self.growth.cut(&number, &mut self.accounts);
        for known in self.known.values_mut() {
            known
                .files
                .iter_mut()
                .for_each(|(_, share)| share.site = number(share.site));
            known.copies.iter_mut().for_each(|(site, _)| *site = number(*site));
        }
        let totals = self.accounts.cut();
        let aged = older_than.map(|age| {
            let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            (age, self.growth.live_older_than(self.ended_ns, age_ns))
        });
        let lost = self.growth.lost();
        let known = &self.known;
        let processes = self.order.iter().filter_map(|pid| Some((*pid, known.get(pid)?)));
        let cut = MemoryCut::new(totals, aged, processes, lost - windows.lost, &windows.sites);
        windows.lost = lost;
        windows.cut_ns = self.ended_ns;

        // Who has ended has been told of.
        let mut ended = Vec::new();
        for (&pid, known) in &mut self.known {
            known.before = known.after;
            known.started = false;
            known.files = Vec::new();
            known.copies = Vec::new();
            if known.exited && self.lasting.remove(&pid) {
                ended.push(pid);
            }
        }
        ended.into_iter().for_each(|pid| self.forget(pid));
        self.known.retain(|_, known| !known.exited);
        let known = &self.known;
        self.close.retain(|pid| known.contains_key(pid));
        self.order.retain(|pid| self.known.contains_key(pid));
        if self.known.capacity() > 4 * self.known.len().max(1024) {
            self.known.shrink_to_fit();
            self.order.shrink_to_fit();
        }
        let sites = self.growth.sites();
        self.accounts.let_go(|site| sites.contains(&site));
        if let Some(windows) = &mut self.windows {
            windows
                .sites
                .keep(|site| self.accounts.has(site) || sites.contains(&site));
        }
        cut
    }

    /// Sites that have something, where the recording is cut into windows.
    pub fn sites(&self) -> usize {
        self.windows.as_ref().map_or(0, |windows| windows.sites.len())
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
