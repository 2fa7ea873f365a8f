//! CPU time and waiting of threads as one picture, in which widths are time.
//!
//! Two instruments measured: samples of the CPU clock say where a thread ran, its account how long, and drawn waits where
//! it waited. So a thread's samples are brought to its exact CPU time, and stand beside its waits: together they come to
//! the time that it existed.

use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::{
    profile::{
        Frame, FrameId, FrameKind, Labels, Profile, SampleKey, ValueType,
        timeline::{Part, Timeline},
    },
    report::waits::{self, ThreadTime, WaitsReport},
    waits::cause::Cause,
};

const fn nanoseconds(kind: &'static str) -> ValueType {
    ValueType {
        kind,
        unit: "nanoseconds",
    }
}

const fn number(kind: &'static str) -> ValueType {
    ValueType { kind, unit: "count" }
}

/// The sample types: what was counted, and its time. A sample is of a CPU or of a wait, and the wall's time is either.
pub const TYPES: [ValueType; 5] = [
    number("samples"),
    nanoseconds("cpu"),
    number("waits"),
    nanoseconds("wait"),
    nanoseconds("wall"),
];
/// Index of the one to look at: width is time.
pub const VALUE: usize = 4;

/// A thread that was sampled less often is told together with others of its process …
const FEW_SAMPLES: f64 = 25.0;
/// … if it lived for no more periods than these …
const SHORT_LIFE: f64 = 100.0;
/// … or if a standard deviation of its samples comes to no more than this part of its life. Brought to its own CPU time
/// alone, what such a thread did would be lost where no sample happened to meet it, and overstated where one did.
const SMALL_ERROR: f64 = 0.005;

/// CPU time of a thread that no sample met.
const NOT_SAMPLED: &str = "[CPU time without a sample]";
/// What is in no account: switches that were not seen, and waits that were lost.
const NOT_SEEN: &str = "[time not accounted for]";

/// CPU time and waiting of threads.
#[derive(Debug)]
pub struct WallReport {
    pub profile: Profile,
    /// One per sample of `profile`, in its order: what was waited for; `None` if it ran.
    pub causes: Vec<Option<Cause>>,
    /// What waiting came to. Its profile has gone into ours.
    pub waits: WaitsReport,
    /// Samples of the CPU clock.
    pub samples: u64,
}

impl WallReport {
    /// Of CPU time by samples, one in `period_ns`, and of waits.
    pub fn new(cpu: &Profile, waits: WaitsReport, period_ns: u64) -> Self {
        let mut profile = Profile::new(TYPES.to_vec(), Some((TYPES[VALUE], 1)));
        profile.default_type = VALUE;
        let mut causes = Vec::with_capacity(cpu.samples().len() + waits.details.len());
        let clocks = Clocks::new(cpu, &waits.threads, period_ns);
        let slice_ns = common_slice(cpu, &waits.profile);
        if let Some(slice_ns) = slice_ns {
            profile.begin_timeline(slice_ns);
        }
        let ours = profile.translated(cpu);
        let mut when = When::of(cpu, slice_ns);
        for (key, values) in cpu.samples() {
            let count = values.first().copied().unwrap_or(0);
            let ns = whole(count as f64 * clocks.ns_per_sample(&key.labels));
            if profile.add_in(ours.key(key), &[count, ns, 0, 0, ns], &when.next()) {
                causes.push(None);
            }
        }
        let ours = profile.translated(&waits.profile);
        let mut when = When::of(&waits.profile, slice_ns);
        let [variances, all_squares] = [
            waits.profile.variance_of(waits::VALUE),
            waits.profile.squares_of(waits::VALUE),
        ];
        let mut waited: FxHashMap<SampleKey, [f64; 2]> = FxHashMap::default();
        for ((key, values), detail) in waits.profile.samples().zip(&waits.details) {
            let value = |index: usize| values.get(index).copied().unwrap_or(0);
            let ns = value(waits::VALUE);
            let sums = waited.entry(ours.key(key)).or_default();
            for (sum, squares) in sums.iter_mut().zip([variances, all_squares]) {
                *sum += squares.map_or(0.0, |squares| squares.of(values));
            }
            if profile.add_in(ours.key(key), &[0, 0, value(0), ns, ns], &when.next()) {
                causes.push(Some(detail.cause));
            }
        }

        let mut labels: FxHashMap<(u32, u32), Labels> = FxHashMap::default();
        for (key, _) in profile.samples() {
            let id = (key.labels.pid, key.labels.tid);
            labels.entry(id).or_insert_with(|| key.labels.clone());
        }
        for thread in &waits.threads {
            let id = (thread.pid, thread.tid);
            let labels = match labels.get(&id) {
                Some(labels) => labels.clone(),
                None => unmet(&mut profile, thread),
            };
            for Mark {
                text,
                cpu_ns,
                wait_ns,
                cause,
            } in clocks.marks(thread)
            {
                let stack = [marker(&mut profile, text)];
                let key = SampleKey {
                    stack: profile.intern_stack(&stack),
                    labels: labels.clone(),
                };
                let [cpu, wait] = [cpu_ns, wait_ns].map(|ns| whole(ns as f64));
                if profile.add(key, &[0, cpu, 0, wait, cpu + wait]) {
                    causes.push(cause);
                }
            }
        }
        let samples = cpu.total(0).unsigned_abs();
        add_exactness(&mut profile, &waited);
        Self {
            profile,
            causes,
            waits,
            samples,
        }
    }

    pub fn length(&self) -> Duration {
        self.waits.length
    }
}

/// Puts beside times how exact they are: of waits as they were drawn, of CPU time by the number of samples.
fn add_exactness(profile: &mut Profile, waited: &FxHashMap<SampleKey, [f64; 2]>) {
    let known: Vec<[f64; 3]> = (profile.samples())
        .map(|(key, values)| {
            let cpu = match values[0] {
                ..=0 => 0.0,
                samples => (values[1] as f64).powi(2) / samples as f64,
            };
            let [variance, squares] = waited.get(key).copied().unwrap_or_default();
            [cpu, variance, squares]
        })
        .collect();
    let [_, cpu, _, wait, wall] = TYPES;
    profile.add_variances(cpu, known.iter().map(|[cpu, ..]| *cpu));
    profile.add_variances(wait, known.iter().map(|[_, variance, _]| *variance));
    profile.add_squares(wait, known.iter().map(|[.., squares]| *squares));
    profile.add_variances(wall, known.iter().map(|[cpu, variance, _]| cpu + variance));
    profile.add_squares(wall, known.iter().map(|[.., squares]| *squares));
}

/// How long slices are in which both can be told; none if one of them does not say when its samples were. Those of both
/// have begun with the recording, and are the shortest ones doubled.
fn common_slice(cpu: &Profile, waits: &Profile) -> Option<i64> {
    let slice = |profile: &Profile| profile.timeline().map(|timeline| timeline.slice_ns);
    match (slice(cpu), slice(waits)) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (Some(slice), None) if waits.is_empty() => Some(slice),
        (None, Some(slice)) if cpu.is_empty() => Some(slice),
        _ => None,
    }
}

/// When the samples of a profile were, one after the other.
struct When {
    parts: Vec<Part>,
    at: usize,
    sample: u32,
    /// So many of its slices are one.
    by: u32,
}

impl When {
    fn of(profile: &Profile, slice_ns: Option<i64>) -> Self {
        let timeline = profile.timeline();
        let by = slice_ns
            .zip(timeline)
            .map_or(1, |(slice_ns, timeline)| slice_ns / timeline.slice_ns);
        Self {
            parts: timeline.map(Timeline::sorted).unwrap_or_default(),
            at: 0,
            sample: 0,
            by: u32::try_from(by).unwrap_or(1).max(1),
        }
    }

    /// Slices of the next sample, and how much there was in each.
    fn next(&mut self) -> Vec<(u32, u64)> {
        let of_it = self.parts[self.at..]
            .iter()
            .take_while(|part| part.sample == self.sample);
        let slices: Vec<_> = of_it
            .map(|part| (part.slice / self.by, part.value.unsigned_abs()))
            .collect();
        self.at += slices.len();
        self.sample += 1;
        slices
    }
}

/// Sums of nanoseconds are whole.
fn whole(ns: f64) -> i64 {
    ns.round().clamp(0.0, i64::MAX as f64) as i64
}

/// Who a thread is that has no stack.
fn unmet(profile: &mut Profile, thread: &ThreadTime) -> Labels {
    Labels {
        pid: thread.pid,
        tid: thread.tid,
        comm: Profile::EMPTY,
        command: profile.intern_string(&thread.command),
        thread: profile.intern_string(&thread.name),
        cgroup: Profile::EMPTY,
        container: Profile::EMPTY,
        task: Profile::EMPTY,
    }
}

fn marker(profile: &mut Profile, text: &str) -> FrameId {
    let function = profile.intern_string(text);
    profile.intern_frame(Frame {
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

/// Time of a thread that no sample and no wait stands for.
pub struct Mark {
    pub text: &'static str,
    pub cpu_ns: u64,
    pub wait_ns: u64,
    /// What is waited for; `None` if it ran.
    pub cause: Option<Cause>,
}

/// How much CPU time samples stand for.
pub struct Clocks {
    period_ns: u64,
    /// By process and thread; 0 is threads of the process that are told together.
    sums: FxHashMap<(u32, u32), Clock>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    /// By the accounts.
    on_cpu_ns: u64,
    samples: u64,
}

impl Clocks {
    pub fn new(cpu: &Profile, threads: &[ThreadTime], period_ns: u64) -> Self {
        let mut clocks = Self {
            period_ns: period_ns.max(1),
            sums: FxHashMap::default(),
        };
        for thread in threads {
            let of = if clocks.is_told_apart(thread) { thread.tid } else { 0 };
            clocks.sums.entry((thread.pid, of)).or_default().on_cpu_ns += thread.on_cpu_ns;
        }
        for (key, values) in cpu.samples() {
            let id = clocks.id(key.labels.pid, key.labels.tid);
            if let Some(clock) = clocks.sums.get_mut(&id) {
                clock.samples += values.first().map_or(0, |count| count.unsigned_abs());
            }
        }
        clocks
    }

    fn is_told_apart(&self, thread: &ThreadTime) -> bool {
        let period = self.period_ns as f64;
        let (expected, life) = (thread.on_cpu_ns as f64 / period, thread.elapsed_ns as f64 / period);
        let is_small = life < SHORT_LIFE || expected.sqrt() <= SMALL_ERROR * life;
        expected >= FEW_SAMPLES || !is_small
    }

    fn id(&self, pid: u32, tid: u32) -> (u32, u32) {
        match self.sums.contains_key(&(pid, tid)) {
            true => (pid, tid),
            false => (pid, 0),
        }
    }

    /// What one sample of a thread stands for: a period, if the thread has no account (the kernel's own have none).
    pub fn ns_per_sample(&self, labels: &Labels) -> f64 {
        match self.sums.get(&self.id(labels.pid, labels.tid)) {
            Some(clock) if clock.samples > 0 => clock.on_cpu_ns as f64 / clock.samples as f64,
            _ => self.period_ns as f64,
        }
    }

    /// CPU time of a thread that no sample stands for.
    fn lacking_ns(&self, thread: &ThreadTime) -> u64 {
        match self.sums.get(&self.id(thread.pid, thread.tid)) {
            Some(clock) if clock.samples > 0 => 0,
            _ => thread.on_cpu_ns,
        }
    }

    /// What has to be told of a thread besides its samples and waits, so that its time adds up.
    pub fn marks(&self, thread: &ThreadTime) -> impl Iterator<Item = Mark> {
        let seen = thread.on_cpu_ns.saturating_add(thread.waiting());
        let not_sampled = Mark {
            text: NOT_SAMPLED,
            cpu_ns: self.lacking_ns(thread),
            wait_ns: 0,
            cause: None,
        };
        let not_seen = Mark {
            text: NOT_SEEN,
            cpu_ns: 0,
            wait_ns: thread.elapsed_ns.saturating_sub(seen),
            cause: Some(Cause::Other),
        };
        [not_sampled, not_seen]
            .into_iter()
            .filter(|mark| mark.cpu_ns + mark.wait_ns > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::waits::{Detail, WAITS},
        waits::cause::Target,
    };

    const PERIOD: u64 = 10_000_000;
    const SECOND: u64 = 1_000_000_000;

    fn frame(profile: &mut Profile, function: &str, kind: FrameKind) -> FrameId {
        let function = profile.intern_string(function);
        let file = profile.intern_string("/srv/app.py");
        profile.intern_frame(Frame {
            kind,
            function,
            file,
            line: 7,
            first_line: 1,
            mapping: None,
            address: 0,
            inlined: false,
        })
    }

    fn key(profile: &mut Profile, tid: u32, leaf_first: &[&str]) -> SampleKey {
        let frames: Vec<FrameId> = leaf_first
            .iter()
            .map(|text| match text.starts_with('[') {
                true => marker(profile, text),
                false => frame(profile, text, FrameKind::Python),
            })
            .collect();
        SampleKey {
            stack: profile.intern_stack(&frames),
            labels: Labels {
                pid: 1,
                tid,
                comm: Profile::EMPTY,
                command: Profile::EMPTY,
                thread: Profile::EMPTY,
                cgroup: Profile::EMPTY,
                container: Profile::EMPTY,
                task: Profile::EMPTY,
            },
        }
    }

    fn cpu(samples: &[(u32, &str, i64)]) -> Profile {
        let mut profile = Profile::new(TYPES[..2].to_vec(), None);
        for &(tid, function, count) in samples {
            let key = key(&mut profile, tid, &[function, "main"]);
            profile.add(key, &[count, count * PERIOD as i64]);
        }
        profile
    }

    fn waits(waited: &[(u32, &str, i64)], threads: Vec<ThreadTime>) -> WaitsReport {
        let mut profile = Profile::new(WAITS.to_vec(), None);
        let mut details = Vec::new();
        for &(tid, function, ns) in waited {
            let key = key(&mut profile, tid, &["[socket]", function, "main"]);
            profile.add(key, &[1, ns]);
            details.push(Detail {
                cause: Cause::Socket,
                target: Target::default(),
                call: None,
                longest_ns: 0,
                variance: 0.0,
                unended_ns: 0,
                holds_gil: false,
                others_ns: 0,
            });
        }
        WaitsReport::new(profile, details, threads, Duration::from_secs(10))
    }

    fn thread(tid: u32, on_cpu_ns: u64, socket_ns: u64, elapsed_ns: u64) -> ThreadTime {
        let mut thread = ThreadTime {
            pid: 1,
            tid,
            elapsed_ns,
            on_cpu_ns,
            ..ThreadTime::default()
        };
        let at = Cause::ALL.iter().position(|cause| *cause == Cause::Socket).unwrap();
        thread.waiting_ns[at] = socket_ns;
        thread
    }

    fn of_thread(report: &WallReport, tid: u32) -> i64 {
        let samples = report.profile.samples().filter(|(key, _)| key.labels.tid == tid);
        samples.map(|(_, values)| values[VALUE]).sum()
    }

    fn of_leaf(report: &WallReport, function: &str) -> i64 {
        let profile = &report.profile;
        let leaf = |key: &SampleKey| {
            profile
                .string(profile.frame(profile.stack(key.stack)[0]).function)
                .to_owned()
        };
        let samples = profile.samples().filter(|(key, _)| leaf(key) == function);
        samples.map(|(_, values)| values[VALUE]).sum()
    }

    #[test]
    fn samples_come_to_the_cpu_time_of_their_thread_and_with_its_waits_to_its_life() {
        // The clock met 330 of the 400 periods that it ran.
        let cpu = cpu(&[(5, "parse", 110), (5, "render", 220)]);
        let waits = waits(
            &[(5, "fetch", 6_000_000_000)],
            vec![thread(5, 4 * SECOND, 6 * SECOND, 10 * SECOND)],
        );
        let report = WallReport::new(&cpu, waits, PERIOD);
        assert_eq!(of_thread(&report, 5), 10 * SECOND as i64);
        let of = |function| of_leaf(&report, function) as f64 / 1e9;
        assert!((of("parse") - 4.0 / 3.0).abs() < 1e-6 && (of("render") - 8.0 / 3.0).abs() < 1e-6);
        assert_eq!(of("[socket]"), 6.0);
        let [samples, cpu, counted, wait, wall] = std::array::from_fn(|index| report.profile.total(index));
        assert_eq!((samples, counted, cpu + wait), (330, 1, wall));
        assert_eq!(report.causes, [None, None, Some(Cause::Socket)]);
    }

    #[test]
    fn what_ran_and_what_waited_lie_on_one_line_of_time() {
        let mut cpu = Profile::new(TYPES[..2].to_vec(), None);
        cpu.begin_timeline(10_000_000);
        let parse = key(&mut cpu, 5, &["parse", "main"]);
        cpu.add_in(parse, &[4, 4 * PERIOD as i64], &[(0, 3_u32), (3, 1)]);
        let waited = || {
            waits(
                &[(5, "fetch", 6_000_000_000)],
                vec![thread(5, 4 * SECOND, 6 * SECOND, 10 * SECOND)],
            )
        };
        // Of the waits it is not known.
        assert!(WallReport::new(&cpu, waited(), PERIOD).profile.timeline().is_none());

        let mut report = waited();
        let untimed = std::mem::replace(&mut report.profile, Profile::new(WAITS.to_vec(), None));
        report.profile.default_type = waits::VALUE;
        report.profile.begin_timeline(20_000_000);
        let ours = report.profile.translated(&untimed);
        for (key, values) in untimed.samples() {
            report.profile.add_in(ours.key(key), values, &[(1, 1_u32), (2, 1)]);
        }
        let wall = WallReport::new(&cpu, report, PERIOD).profile;
        let timeline = wall.timeline().unwrap();
        assert_eq!(timeline.slice_ns, 20_000_000);
        let parts = timeline.sorted();
        let parts: Vec<_> = parts
            .iter()
            .map(|part| (part.slice, part.value / SECOND as i64))
            .collect();
        assert_eq!(parts, [(0, 3), (1, 1), (1, 3), (2, 3)]);
    }

    #[test]
    fn a_thread_that_no_sample_met_has_its_cpu_time_all_the_same() {
        let waits = waits(
            &[(6, "fetch", 9_990_000_000)],
            vec![thread(6, SECOND / 100, 9_990_000_000, 10 * SECOND)],
        );
        let report = WallReport::new(&cpu(&[]), waits, PERIOD);
        assert_eq!(of_thread(&report, 6), 10 * SECOND as i64);
        assert_eq!(of_leaf(&report, NOT_SAMPLED), SECOND as i64 / 100);
    }

    #[test]
    fn threads_of_a_moment_share_what_their_samples_stand_for() {
        // A thread for each request: 100 of 4 ms each on a CPU, of which the clock met 40.
        let short = (100..200).map(|tid| thread(tid, 4_000_000, 0, 4_000_000));
        let samples: Vec<(u32, &str, i64)> = (100..140).map(|tid| (tid, "answer", 1)).collect();
        let report = WallReport::new(&cpu(&samples), waits(&[], short.collect()), PERIOD);
        assert_eq!(of_leaf(&report, "answer"), 400_000_000);
        assert_eq!(of_leaf(&report, NOT_SAMPLED), 0);
    }

    #[test]
    fn time_that_is_in_no_account_is_marked_and_a_thread_without_an_account_has_its_samples() {
        let cpu = cpu(&[(5, "parse", 100), (9, "kworker", 3)]);
        let waits = waits(&[], vec![thread(5, SECOND, 0, 2 * SECOND)]);
        let report = WallReport::new(&cpu, waits, PERIOD);
        assert_eq!(of_leaf(&report, NOT_SEEN), SECOND as i64);
        assert_eq!(of_thread(&report, 5), 2 * SECOND as i64);
        assert_eq!(of_thread(&report, 9), 3 * PERIOD as i64);
        assert_eq!(report.causes.len(), report.profile.samples().len());
    }
}
