//! From accounts and drawn waits to what reports read.

mod accounts;
mod io;
mod stalls;

use std::time::Duration;

use indexmap::IndexMap;
use profiler_common::{
    limits::COMM_BYTES,
    wait::{IoKey, IoTotal, WAIT_DESCRIPTOR, WAIT_READY, WaitSlot},
};
use rustc_hash::{FxBuildHasher, FxHashMap};

use self::accounts::Accounts;
use super::{
    account::{Account, Key, Sums},
    cause::{Cause, Target, call_name},
    io::IoAccount,
    stalls::Stalls,
    waker::{self, Who},
};
use crate::{
    memory::event::SiteId,
    name::{self, Namer},
    process::comm,
    profile::{Frame, FrameId, FrameKind, Labels, Profile, SampleKey},
    recording::UNDER_WAY,
    report::waits::{Detail, Related, Relation, ThreadTime, VALUE, WAITS, WaitsReport},
    slices::{self, Slices},
    window::Window,
};

/// A thread's account, when the recording has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub slot: WaitSlot,
    /// What the kernel calls it, and what its process runs; empty if it was gone.
    pub comm: String,
    pub command: String,
    /// A wait that was under way, by its class.
    pub unended_ns: Option<(u32, u64)>,
}

impl Ended {
    /// Puts another thread's time to it.
    pub fn add(&mut self, other: &Self) {
        let (slot, other) = (&mut self.slot, &other.slot);
        // As if one had followed the other.
        slot.ended_ns += other.ended_ns.saturating_sub(other.first_ns);
        slot.on_cpu_ns += other.on_cpu_ns;
        for (sum, other) in slot.sums.iter_mut().zip(&other.sums) {
            sum.count += other.count;
            sum.ns += other.ns;
            sum.ready_ns += other.ready_ns;
            sum.throttled_ns += other.throttled_ns;
            sum.drawn_ns += other.drawn_ns;
            sum.ignored += other.ignored;
            sum.ignored_ns += other.ignored_ns;
            sum.longest_ns = sum.longest_ns.max(other.longest_ns);
        }
    }
}

/// Waits that had not ended, by what they are counted under: their time is exact.
pub type Unended = Vec<(Key, u64)>;

/// What there is to report.
pub struct Reported<'a> {
    pub account: &'a Account,
    pub unended: &'a Unended,
    pub threads: &'a [Ended],
    /// Stalls of event loops, from this length on, if they were asked for; and calls that move data.
    pub stalls: Option<(&'a Stalls, u64)>,
    pub io: Option<(&'a IoAccount, &'a [(IoKey, IoTotal)])>,
    /// How long those were looked at, if it was not all the time.
    pub io_ns: Option<u64>,
    pub tells_of_quotas: bool,
    pub begun_ns: u64,
    pub length: Duration,
    /// As in [`WaitsReport`].
    pub min_ns: u64,
    pub processes_with_gil: u64,
}

/// The report, and what the user should know about missing names.
pub fn report(window: &Window, namer: &mut Namer, measured: &Reported<'_>) -> (WaitsReport, Vec<String>) {
    let Reported {
        account,
        unended,
        threads,
        length,
        ..
    } = *measured;
    let mut profile = Profile::new(WAITS.to_vec(), Some((WAITS[VALUE], 1)));
    profile.default_type = VALUE;
    let (stacks, warnings) = namer.name_stacks(window, &mut profile);
    let mut names = Names {
        window,
        stacks,
        profile,
        threads: FxHashMap::default(),
    };
    names.learn(
        account
            .sums()
            .map(|(key, _)| key)
            .chain(unended.iter().map(|(key, _)| key)),
    );

    let accounts = Accounts::new(threads, account);
    let mut entries: IndexMap<SampleKey, (Entry, Detail), FxBuildHasher> = IndexMap::default();
    let mut when: FxHashMap<SampleKey, Slices> = FxHashMap::default();
    let mut note = |sample: &SampleKey, key: &Key| {
        if let Some(slices) = account.when(key) {
            when.entry(sample.clone()).or_default().append(slices.clone());
        }
    };
    let mut keys: Vec<(&Key, &Sums)> = account.sums().collect();
    // In order, so that equal recordings give equal reports.
    keys.sort_by_key(|(key, _)| **key);
    // Told once, with the first of what they are told with.
    let mut others_ns = account.meanwhile.others_ns().clone();
    for (key, sums) in keys {
        let factor = accounts.factor(key);
        let target = account.target_of(key);
        let parts = Parts::of(sums, factor);
        let entry = Entry {
            ns: parts.itself,
            count: sums.long_count as f64 + sums.short_count * factor,
            longest_ns: sums.longest_ns,
            variance: accounts.variance(key, sums) * factor * factor,
            squares: sums.squares,
            unended_ns: 0,
            others_ns: others_ns.remove(key).unwrap_or_default(),
        };
        let sample = names.key(key, key.cause, target);
        note(&sample, key);
        add(&mut entries, sample, entry, key, target);
        let apart = [
            (Cause::Ready, parts.ready, sums.longest_ready_ns),
            (Cause::Throttled, parts.throttled, sums.longest_throttled_ns),
        ];
        for (cause, ns, longest_ns) in apart.into_iter().filter(|&(_, ns, _)| ns >= 1.0) {
            let nothing = Target::default();
            let entry = Entry {
                ns,
                count: entry.count,
                longest_ns,
                // Waits that were for a CPU besides: as large as the largest.
                squares: ns * longest_ns as f64,
                ..Entry::default()
            };
            let apart = Key { cause, ..*key };
            let sample = names.key(&apart, cause, &nothing);
            note(&sample, key);
            add(&mut entries, sample, entry, &apart, &nothing);
        }
    }
    for (key, ns) in unended {
        let target = account.target_of(key);
        let entry = Entry {
            ns: *ns as f64,
            count: 1.0,
            longest_ns: *ns,
            variance: 0.0,
            squares: (*ns as f64).powi(2),
            unended_ns: *ns,
            others_ns: others_ns.remove(key).unwrap_or_default(),
        };
        let sample = names.key(key, key.cause, target);
        // With those that have ended it is noted already.
        if !account.has(key) {
            note(&sample, key);
        }
        add(&mut entries, sample, entry, key, target);
    }
    for (key, ns, count, text) in accounts.without_stack() {
        let entry = Entry {
            ns: ns as f64,
            count,
            // Nothing is known of single ones, but that they were too short to be drawn.
            squares: (ns as f64).powi(2) / count.max(1.0),
            ..Entry::default()
        };
        let marked = names.marked(&key, text);
        add(&mut entries, marked, entry, &key, &Target::default());
    }

    let mut holders = Relations::default();
    for ((key, site), sums) in account.holders() {
        let factor = accounts.factor(key);
        let holder = names.holder(&Key { site: *site, ..*key });
        holders.add(names.key(key, key.cause, account.target_of(key)), holder, sums, factor);
    }
    let mut wakers = Relations::default();
    for ((key, who), sums) in account.wakers() {
        let factor = accounts.factor(key);
        let waker = names.waker(*who, key);
        wakers.add(names.key(key, key.cause, account.target_of(key)), waker, sums, factor);
    }
    let ignored = threads.iter().flat_map(|ended| ended.slot.sums);
    let (ignored_count, ignored_ns) = ignored.fold((0u64, 0u64), |(count, ns), sum| {
        (count.saturating_add(sum.ignored), ns.saturating_add(sum.ignored_ns))
    });

    let stalls = measured
        .stalls
        .map(|(stalls, limit_ns)| stalls::told(&mut names, stalls, limit_ns, measured.begun_ns));
    let looked = measured.io_ns.map_or(length, Duration::from_nanos);
    let io = (measured.io).map(|(drawn, totals)| io::told(&mut names, drawn, totals, looked));
    let times = times(&names, account, unended, threads);
    let elapsed_ns: FxHashMap<(u32, u32), u64> = (times.iter())
        .map(|thread| ((thread.pid, thread.tid), thread.elapsed_ns))
        .collect();
    let Names { mut profile, .. } = names;
    let mut details = Vec::with_capacity(entries.len());
    let doublings = slices::common(when.values(), u64::try_from(length.as_nanos()).unwrap_or(u64::MAX));
    if !when.is_empty() {
        profile.begin_timeline(slices::length_of(doublings));
    }
    let mut squares = Vec::with_capacity(entries.len());
    for (key, (entry, detail)) in entries {
        let number = |number: f64| number.round().clamp(0.0, i64::MAX as f64) as i64;
        // Of a thread that hardly does anything else, there is little that could have been otherwise: with gaps that come by
        // chance, the time of its waits varies by this part of what the squares say.
        let elapsed = elapsed_ns.get(&(key.labels.pid, key.labels.tid)).copied();
        let share = entry.ns / elapsed.unwrap_or(length.as_nanos() as u64).max(1) as f64;
        squares.push(entry.squares * (1.0 - share).max(0.0).powi(2));
        let weights = when.get(&key).map(|slices| slices.told(doublings)).unwrap_or_default();
        profile.add_in(key, &[number(entry.count), number(entry.ns)], &weights);
        details.push(Detail {
            longest_ns: entry.longest_ns,
            variance: entry.variance,
            unended_ns: entry.unended_ns,
            others_ns: entry.others_ns as u64,
            ..detail
        });
    }
    let time = WAITS[VALUE];
    profile.add_variances(time, details.iter().map(|detail| detail.variance));
    profile.add_squares(time, squares.into_iter());
    let report = WaitsReport {
        profile,
        details,
        holders: holders.told(),
        wakers: wakers.told(),
        stalls,
        io,
        threads: times,
        peers: FxHashMap::default(),
        length,
        tells_of_quotas: measured.tells_of_quotas,
        min_ns: measured.min_ns,
        ignored_count,
        ignored_ns,
        processes_with_gil: measured.processes_with_gil,
    };
    (report, warnings)
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    ns: f64,
    count: f64,
    longest_ns: u64,
    variance: f64,
    /// What the squares of the lengths of waits come to.
    squares: f64,
    unended_ns: u64,
    others_ns: f64,
}

/// What some drawn waits come to: for what they are told for, and for a CPU.
struct Parts {
    itself: f64,
    ready: f64,
    throttled: f64,
}

impl Parts {
    /// `factor`: by what short waits are to be multiplied.
    fn of(sums: &Sums, factor: f64) -> Self {
        let ready = sums.long_ready_ns as f64 + sums.short_ready_ns * factor;
        let throttled = sums.long_throttled_ns as f64 + sums.short_throttled_ns * factor;
        let all = sums.long_ns as f64 + sums.short_ns as f64 * factor;
        Self {
            itself: (all - ready - throttled).max(0.0),
            ready,
            throttled,
        }
    }
}

/// Who had to do with the waits of whom.
#[derive(Default)]
struct Relations(IndexMap<(SampleKey, SampleKey), Related, FxBuildHasher>);

impl Relations {
    fn add(&mut self, waiter: SampleKey, other: SampleKey, sums: &Sums, factor: f64) {
        let related = self.0.entry((waiter, other)).or_default();
        related.ns += Parts::of(sums, factor).itself as u64;
        related.count += (sums.long_count as f64 + sums.short_count * factor) as u64;
        related.longest_ns = related.longest_ns.max(sums.longest_ns);
    }

    fn told(self) -> Vec<Relation> {
        let relations = self.0.into_iter();
        relations
            .map(|((waiter, other), sums)| Relation { waiter, other, sums })
            .collect()
    }
}

fn add(
    entries: &mut IndexMap<SampleKey, (Entry, Detail), FxBuildHasher>,
    sample: SampleKey,
    entry: Entry,
    key: &Key,
    target: &Target,
) {
    let (sum, _) = entries.entry(sample).or_insert_with(|| {
        let detail = Detail {
            cause: key.cause,
            target: target.clone(),
            call: call_name(key.call).filter(|name| match key.cause {
                Cause::Other | Cause::Poll | Cause::File => true,
                Cause::Disk => matches!(*name, "fsync" | "fdatasync"),
                _ => false,
            }),
            longest_ns: 0,
            variance: 0.0,
            unended_ns: 0,
            holds_gil: key.holds_gil,
            others_ns: 0,
        };
        (Entry::default(), detail)
    });
    sum.ns += entry.ns;
    sum.count += entry.count;
    sum.longest_ns = sum.longest_ns.max(entry.longest_ns);
    sum.variance += entry.variance;
    sum.squares += entry.squares;
    sum.unended_ns += entry.unended_ns;
    sum.others_ns += entry.others_ns;
}

/// Who ends waits in nobody's name.
const INTERRUPT: &str = "a timer or a device";

/// Without the NULs at its end.
fn bytes(comm: &[u8; COMM_BYTES]) -> &[u8] {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    &comm[..end]
}

/// Of waits that are too short, and too few, to be drawn.
const SHORT: &str = "[waits too short to be drawn]";
/// Of drawn waits whose stack did not arrive.
const LOST: &str = "[stack lost]";
/// Of waits that had not ended, and were not looked at: those that had begun a moment before their window ended, or were for a
/// CPU; and those that went on while they were.
const NOT_LOOKED_AT: &str = "[wait under way]";

/// How the time of each thread adds up.
fn times(names: &Names<'_>, account: &Account, unended: &Unended, threads: &[Ended]) -> Vec<ThreadTime> {
    // What kinds a thread's descriptors are of, by what drawn waits stand for.
    let mut kinds: FxHashMap<(u32, u32), Vec<(Cause, u64)>> = FxHashMap::default();
    let ended = account
        .sums()
        .map(|(key, sums)| (key, sums.long_ns.saturating_add(sums.short_ns)));
    let all = ended.chain(unended.iter().map(|(key, ns)| (key, *ns)));
    for (key, ns) in all.filter(|(key, _)| key.class == WAIT_DESCRIPTOR) {
        kinds.entry((key.pid, key.tid)).or_default().push((key.cause, ns));
    }
    let mut times: IndexMap<(u32, u32), ThreadTime, FxBuildHasher> = IndexMap::default();
    for ended in threads {
        let slot = &ended.slot;
        let id = (slot.shown_pid, slot.shown_tid);
        let time = times.entry(id).or_insert_with(|| ThreadTime {
            pid: id.0,
            tid: id.1,
            name: names.thread(id).unwrap_or_else(|| ended.comm.clone()),
            command: names.command(id).unwrap_or_else(|| ended.command.clone()),
            ..ThreadTime::default()
        });
        time.elapsed_ns += slot.ended_ns.saturating_sub(slot.first_ns);
        time.on_cpu_ns += slot.on_cpu_ns;
        let mut waited = |cause: Cause, ns: u64| {
            let sum = &mut time.waiting_ns[cause.index()];
            *sum = sum.saturating_add(ns);
        };
        for (class, sum) in slot.sums.iter().enumerate() {
            let class = class as u32;
            let unended = match ended.unended_ns {
                Some((of, ns)) if of == class => ns,
                _ => 0,
            };
            let ready = if class == WAIT_READY {
                0
            } else {
                sum.ready_ns.min(sum.ns)
            };
            let throttled = match class {
                WAIT_READY => sum.throttled_ns.min(sum.ns),
                _ => sum.throttled_ns.min(ready),
            };
            waited(Cause::Throttled, throttled);
            // Of what waited for a CPU anyway, that is the rest.
            let (ready, ns) = match class {
                WAIT_READY => (0, sum.ns - throttled + unended),
                _ => (ready - throttled, sum.ns - ready + unended),
            };
            waited(Cause::Ready, ready);
            match Cause::of_class(class) {
                Some(cause) => waited(cause, ns),
                None => {
                    let kinds = kinds.get(&id).map(Vec::as_slice).unwrap_or_default();
                    let all: u64 = kinds.iter().map(|(_, ns)| ns).sum();
                    if all == 0 {
                        waited(Cause::Other, ns);
                    }
                    for (cause, part) in kinds.iter().filter(|_| all > 0) {
                        waited(*cause, (ns as f64 * *part as f64 / all as f64) as u64);
                    }
                }
            }
        }
    }
    let mut times: Vec<ThreadTime> = times.into_values().collect();
    times.sort_by_key(|time| (time.pid, time.tid));
    times
}

/// How many of the innermost frames are the scheduler's, and of our program that it calls: they are the same in every wait.
fn scheduler(profile: &Profile, stack: &[FrameId]) -> usize {
    const DEEPEST: usize = 8;
    let is_scheduler = |id: &FrameId| {
        let frame = profile.frame(*id);
        frame.kind == FrameKind::Kernel && matches!(profile.string(frame.function), "__schedule" | "schedule")
    };
    let innermost = &stack[..stack.len().min(DEEPEST)];
    innermost.iter().rposition(is_scheduler).map_or(0, |at| at + 1)
}

/// A thread runs many tasks.
fn of_no_task(labels: Labels) -> Labels {
    Labels {
        task: Profile::EMPTY,
        ..labels
    }
}

/// Stacks and threads as reports know them.
struct Names<'a> {
    window: &'a Window,
    stacks: name::Stacks,
    profile: Profile,
    threads: FxHashMap<(u32, u32), Labels>,
}

impl Names<'_> {
    /// Notes who threads are, for what has no stack.
    fn learn<'k>(&mut self, keys: impl Iterator<Item = &'k Key>) {
        for key in keys {
            let ledger = &self.window.ledger;
            if let Some(Some(sampled)) = ledger.sites.get(key.site as usize) {
                let sample = name::key(&mut self.profile, ledger, &self.stacks, sampled);
                self.threads.insert((key.pid, key.tid), of_no_task(sample.labels));
            }
        }
    }

    /// The stack and thread of a site, if they are known.
    fn sampled(&mut self, site: SiteId) -> Option<SampleKey> {
        let ledger = &self.window.ledger;
        let sampled = ledger.sites.get(site as usize)?.as_ref()?;
        let sample = name::key(&mut self.profile, ledger, &self.stacks, sampled);
        self.threads
            .entry((sample.labels.pid, sample.labels.tid))
            .or_insert_with(|| of_no_task(sample.labels.clone()));
        Some(sample)
    }

    fn thread(&self, id: (u32, u32)) -> Option<String> {
        Some(self.profile.string(self.threads.get(&id)?.thread).to_owned())
    }

    fn command(&self, id: (u32, u32)) -> Option<String> {
        let labels = self.threads.get(&id)?;
        Some(match self.profile.string(labels.command) {
            "" => self.profile.string(labels.comm).to_owned(),
            command => command.to_owned(),
        })
    }

    fn labels(&self, key: &Key) -> Labels {
        self.threads.get(&(key.pid, key.tid)).cloned().unwrap_or(Labels {
            pid: key.pid,
            tid: key.tid,
            comm: Profile::EMPTY,
            command: Profile::EMPTY,
            thread: Profile::EMPTY,
            cgroup: Profile::EMPTY,
            container: Profile::EMPTY,
            task: Profile::EMPTY,
        })
    }

    /// A stack whose innermost frame says what was waited for.
    fn key(&mut self, key: &Key, cause: Cause, target: &Target) -> SampleKey {
        let ledger = &self.window.ledger;
        let Some(Some(sampled)) = ledger.sites.get(key.site as usize) else {
            let text = if key.site == UNDER_WAY { NOT_LOOKED_AT } else { LOST };
            return self.marked(key, text);
        };
        let sample = name::key(&mut self.profile, ledger, &self.stacks, sampled);
        let mut text = match target.text() {
            "" => cause.name().to_owned(),
            // `pipe:[4711]`
            target if target.starts_with(cause.name()) => target.to_owned(),
            target => format!("{} {target}", cause.name()),
        };
        if key.holds_gil {
            text.push_str(", GIL held");
        }
        let text = format!("[{text}]");
        let mut frames = vec![self.marker(&text)];
        let stack = self.profile.stack(sample.stack);
        frames.extend_from_slice(&stack[scheduler(&self.profile, stack)..]);
        SampleKey {
            stack: self.profile.intern_stack(&frames),
            labels: sample.labels,
        }
    }

    /// The stack of who ended a wait, or what is to be read in its place.
    fn waker(&mut self, who: Who, key: &Key) -> SampleKey {
        let (text, pid, tid, comm) = match who {
            Who::Site(site) => {
                let sample = self.holder(&Key { site, ..*key });
                if !waker::is_interrupt(&self.profile, self.profile.stack(sample.stack)) {
                    return sample;
                }
                (INTERRUPT.to_owned(), 0, 0, [0; COMM_BYTES])
            }
            Who::Thread { pid, tid, comm } => (format!("{} ({pid})", comm::shown(bytes(&comm))), pid, tid, comm),
            Who::Kernel { comm } => (format!("the kernel ({})", comm::shown(bytes(&comm))), 0, 0, comm),
            Who::Interrupt => (INTERRUPT.to_owned(), 0, 0, [0; COMM_BYTES]),
        };
        let frames = [self.marker(&text)];
        let name = self.profile.intern_string(&comm::shown(bytes(&comm)));
        SampleKey {
            stack: self.profile.intern_stack(&frames),
            labels: Labels {
                pid,
                tid,
                comm: name,
                command: name,
                thread: name,
                cgroup: Profile::EMPTY,
                container: Profile::EMPTY,
                task: Profile::EMPTY,
            },
        }
    }

    /// The stack of who had the GIL.
    fn holder(&mut self, key: &Key) -> SampleKey {
        let ledger = &self.window.ledger;
        match ledger.sites.get(key.site as usize) {
            Some(Some(sampled)) => name::key(&mut self.profile, ledger, &self.stacks, sampled),
            _ => {
                let frames = [self.marker("[not known who had it]")];
                SampleKey {
                    stack: self.profile.intern_stack(&frames),
                    labels: Labels {
                        tid: 0,
                        thread: Profile::EMPTY,
                        ..self.labels(key)
                    },
                }
            }
        }
    }

    /// What has no stack.
    fn marked(&mut self, key: &Key, text: &str) -> SampleKey {
        let frames = [self.marker(&format!("[{}]", key.cause.name())), self.marker(text)];
        SampleKey {
            stack: self.profile.intern_stack(&frames),
            labels: self.labels(key),
        }
    }

    fn marker(&mut self, text: &str) -> FrameId {
        let function = self.profile.intern_string(text);
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
