//! From accounts and drawn waits to what reports read.

use std::time::Duration;

use indexmap::IndexMap;
use profiler_common::wait::{WAIT_CLASSES, WAIT_DESCRIPTOR, WAIT_READY, WaitSlot};
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    account::{Account, Key, Sums},
    cause::{Cause, Target, call_name},
};
use crate::{
    name,
    profile::{Frame, FrameId, FrameKind, Labels, Profile, SampleKey, StackId},
    report::waits::{Detail, Holder, ThreadTime, VALUE, WAITS, WaitsReport},
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
            sum.drawn_ns += other.drawn_ns;
            sum.longest_ns = sum.longest_ns.max(other.longest_ns);
        }
    }
}

/// Waits that had not ended, by what they are counted under: their time is exact.
pub type Unended = Vec<(Key, u64)>;

/// The report, and what the user should know about missing names.
pub fn report(
    window: &Window,
    account: &Account,
    unended: &Unended,
    threads: &[Ended],
    length: Duration,
) -> (WaitsReport, Vec<String>) {
    let mut profile = Profile::new(WAITS.to_vec(), Some((WAITS[VALUE], 1)));
    profile.default_type = VALUE;
    let (stacks, warnings) = name::name_stacks(window, &mut profile);
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
    let mut keys: Vec<(&Key, &Sums)> = account.sums().collect();
    // In order, so that equal recordings give equal reports.
    keys.sort_by_key(|(key, _)| **key);
    for (key, sums) in keys {
        let factor = accounts.factor(key);
        let target = account.target_of(key);
        let ready = sums.long_ready_ns as f64 + sums.short_ready_ns * factor;
        let ns = sums.long_ns as f64 + sums.short_ns as f64 * factor;
        let entry = Entry {
            ns: (ns - ready).max(0.0),
            count: sums.long_count as f64 + sums.short_count * factor,
            longest_ns: sums.longest_ns,
            variance: sums.variance * factor * factor,
            unended_ns: 0,
        };
        add(&mut entries, names.key(key, key.cause, target), entry, key, target);
        if ready >= 1.0 {
            let nothing = Target::default();
            let entry = Entry {
                ns: ready,
                count: entry.count,
                longest_ns: sums.longest_ready_ns,
                ..Entry::default()
            };
            let ready = Key {
                cause: Cause::Ready,
                ..*key
            };
            add(
                &mut entries,
                names.key(&ready, Cause::Ready, &nothing),
                entry,
                &ready,
                &nothing,
            );
        }
    }
    for (key, ns) in unended {
        let target = account.target_of(key);
        let entry = Entry {
            ns: *ns as f64,
            count: 1.0,
            longest_ns: *ns,
            variance: 0.0,
            unended_ns: *ns,
        };
        add(&mut entries, names.key(key, key.cause, target), entry, key, target);
    }
    for (key, ns, count, text) in accounts.without_stack() {
        let entry = Entry {
            ns: ns as f64,
            count,
            ..Entry::default()
        };
        let marked = names.marked(&key, text);
        add(&mut entries, marked, entry, &key, &Target::default());
    }

    let mut holders: IndexMap<SampleKey, Holder, FxBuildHasher> = IndexMap::default();
    for ((key, site), sums) in account.holders() {
        let factor = accounts.factor(key);
        let held_by = Key { site: *site, ..*key };
        let sample = names.holder(&held_by);
        let ready = sums.long_ready_ns as f64 + sums.short_ready_ns * factor;
        let holder = holders.entry(sample).or_default();
        holder.ns += (sums.long_ns as f64 + sums.short_ns as f64 * factor - ready).max(0.0) as u64;
        holder.count += (sums.long_count as f64 + sums.short_count * factor) as u64;
        holder.longest_ns = holder.longest_ns.max(sums.longest_ns);
    }

    let times = times(&names, account, unended, threads);
    let Names { mut profile, .. } = names;
    let mut details = Vec::with_capacity(entries.len());
    for (key, (entry, detail)) in entries {
        let number = |number: f64| number.round().clamp(0.0, i64::MAX as f64) as i64;
        profile.add(key, &[number(entry.count), number(entry.ns)]);
        details.push(Detail {
            longest_ns: entry.longest_ns,
            variance: entry.variance,
            unended_ns: entry.unended_ns,
            ..detail
        });
    }
    let report = WaitsReport {
        profile,
        details,
        holders: holders.into_iter().collect(),
        threads: times,
        length,
    };
    (report, warnings)
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    ns: f64,
    count: f64,
    longest_ns: u64,
    variance: f64,
    unended_ns: u64,
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
            call: call_name(key.call).filter(|_| matches!(key.cause, Cause::Other | Cause::Poll | Cause::File)),
            longest_ns: 0,
            variance: 0.0,
            unended_ns: 0,
        };
        (Entry::default(), detail)
    });
    sum.ns += entry.ns;
    sum.count += entry.count;
    sum.longest_ns = sum.longest_ns.max(entry.longest_ns);
    sum.variance += entry.variance;
    sum.unended_ns += entry.unended_ns;
}

/// Exact sums of threads, and what was received of each.
struct Accounts {
    threads: FxHashMap<(u32, u32), Total>,
}

#[derive(Clone, Copy, Default)]
struct Total {
    ns: [u64; WAIT_CLASSES],
    count: [u64; WAIT_CLASSES],
    drawn_ns: [u64; WAIT_CLASSES],
    long_ns: [u64; WAIT_CLASSES],
    received_ns: [u64; WAIT_CLASSES],
    received_count: [f64; WAIT_CLASSES],
}

impl Accounts {
    fn new(threads: &[Ended], account: &Account) -> Self {
        let mut totals: FxHashMap<(u32, u32), Total> = FxHashMap::default();
        for Ended { slot, .. } in threads {
            let total = totals.entry((slot.shown_pid, slot.shown_tid)).or_default();
            for (class, sum) in slot.sums.iter().enumerate() {
                total.ns[class] += sum.ns;
                total.count[class] += sum.count;
                total.drawn_ns[class] += sum.drawn_ns;
            }
        }
        for (key, sums) in account.sums() {
            let id = account_of(&totals, key);
            let (Some(total), class) = (totals.get_mut(&id), key.class as usize % WAIT_CLASSES) else {
                continue;
            };
            total.long_ns[class] += sums.long_ns;
            total.received_ns[class] += sums.long_ns + sums.short_ns;
            total.received_count[class] += sums.long_count as f64 + sums.short_count;
        }
        Self { threads: totals }
    }

    /// By what short waits of a thread and class are to be multiplied, so that they come to what there was.
    fn factor(&self, key: &Key) -> f64 {
        self.threads
            .get(&account_of(&self.threads, key))
            .map_or(1.0, |total| total.factor(key.class as usize % WAIT_CLASSES))
    }

    /// What no drawn wait stands for, or one that has no stack.
    fn without_stack(&self) -> Vec<(Key, u64, f64, &'static str)> {
        let mut found = Vec::new();
        let mut threads: Vec<_> = self.threads.iter().collect();
        threads.sort_unstable_by_key(|(id, _)| **id);
        for (&(pid, tid), total) in threads {
            for class in 0..WAIT_CLASSES {
                let cause = Cause::of_class(class as u32).unwrap_or(Cause::Other);
                let key = Key {
                    pid,
                    tid,
                    class: class as u32,
                    cause,
                    site: crate::recording::NO_SITE,
                    call: u32::MAX,
                    target: 0,
                };
                let short = total.received_ns[class] - total.long_ns[class];
                let explained = total.long_ns[class] as f64 + short as f64 * total.factor(class);
                let left = (total.ns[class] as f64 - explained).max(0.0) as u64;
                let count = (total.count[class] as f64 - total.received_count[class]).max(0.0);
                if left > 0 && total.ns[class] > 0 {
                    let text = match total.drawn_ns[class] > total.received_ns[class] {
                        true => LOST,
                        false => SHORT,
                    };
                    found.push((key, left, count, text));
                }
            }
        }
        found
    }
}

/// Whose account a thread's waits are in: its own, or that of threads of its process that were too many.
fn account_of(accounts: &FxHashMap<(u32, u32), Total>, key: &Key) -> (u32, u32) {
    match accounts.contains_key(&(key.pid, key.tid)) {
        true => (key.pid, key.tid),
        false => (key.pid, 0),
    }
}

/// Of waits that are too short, and too few, to be drawn.
const SHORT: &str = "[waits too short to be drawn]";
/// Of drawn waits whose stack did not arrive.
const LOST: &str = "[stack lost]";

impl Total {
    fn factor(&self, class: usize) -> f64 {
        let drawn = self.drawn_ns[class].saturating_sub(self.long_ns[class]);
        let there = self.ns[class].saturating_sub(self.long_ns[class]);
        match drawn {
            0 => 1.0,
            drawn => there as f64 / drawn as f64,
        }
    }
}

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
            if let Some(at) = Cause::ALL.iter().position(|known| *known == cause) {
                time.waiting_ns[at] = time.waiting_ns[at].saturating_add(ns);
            }
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
            waited(Cause::Ready, ready);
            let ns = sum.ns - ready + unended;
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

/// Stacks and threads as reports know them.
struct Names<'a> {
    window: &'a Window,
    stacks: Vec<StackId>,
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
                self.threads.insert((key.pid, key.tid), sample.labels);
            }
        }
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
        })
    }

    /// A stack whose innermost frame says what was waited for.
    fn key(&mut self, key: &Key, cause: Cause, target: &Target) -> SampleKey {
        let ledger = &self.window.ledger;
        let Some(Some(sampled)) = ledger.sites.get(key.site as usize) else {
            return self.marked(key, LOST);
        };
        let sample = name::key(&mut self.profile, ledger, &self.stacks, sampled);
        let text = match target.text() {
            "" => format!("[{}]", cause.name()),
            // `pipe:[4711]`
            target if target.starts_with(cause.name()) => format!("[{target}]"),
            target => format!("[{} {target}]", cause.name()),
        };
        let mut frames = vec![self.marker(&text)];
        let stack = self.profile.stack(sample.stack);
        frames.extend_from_slice(&stack[scheduler(&self.profile, stack)..]);
        SampleKey {
            stack: self.profile.intern_stack(&frames),
            labels: sample.labels,
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
