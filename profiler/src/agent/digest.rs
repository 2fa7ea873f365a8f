//! What a window says of each service, in numbers: for metrics, alerts and the page's first table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use rustc_hash::FxHashMap;

use super::service::{self, Who};
use crate::{
    agent::file::ServiceRule,
    flight::Named,
    instruments::content::Content,
    process::{cgroup::Cgroup, stat::Stat},
    profile::{Frame, FrameId, FrameKind, Labels, Profile, SampleKey},
    report::{label, memory::ProcessMemory, waits::ThreadTime},
    waits::cause::Cause,
};

/// Services that are told apart; what others do is told together. Each is some dozens of series.
pub const MOST_SERVICES: usize = 500;
pub const OTHERS: &str = "[other services]";
/// Processes of which more is told: those that did most.
const MOST_PROCESSES: usize = 64;
/// Lines of a service that are told.
const MOST_LINES: usize = 3;
/// Open files that are counted.
const MOST_FILES: usize = 100_000;

/// Where CPU time was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Python,
    Native,
    Kernel,
    /// The stack does not say.
    Unknown,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Python, Self::Native, Self::Kernel, Self::Unknown];

    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Native => "native",
            Self::Kernel => "kernel",
            Self::Unknown => "unknown",
        }
    }
}

/// A window in numbers.
#[derive(Clone, Debug)]
pub struct Digest {
    pub began: SystemTime,
    pub length: Duration,
    pub services: BTreeMap<String, ServiceSums>,
    pub processes: Vec<ProcessNow>,
    /// Services that were told together.
    pub not_told_apart: u64,
    /// What the agent itself took, and its kernel programs.
    pub own_cpu: Duration,
    pub kernel_cpu: Duration,
    /// What is missing, by reason.
    pub lost: Vec<(String, u64)>,
}

#[derive(Clone, Debug, Default)]
pub struct ServiceSums {
    pub pids: BTreeSet<u32>,
    pub samples: u64,
    /// By [`Kind::ALL`].
    pub cpu_ns: [u64; Kind::ALL.len()],
    /// By [`Cause::ALL`].
    pub waiting_ns: [u64; Cause::ALL.len()],
    /// How long its threads existed, together.
    pub threads_ns: u64,
    /// By how much what is resident has changed.
    pub growth_bytes: i64,
    /// Lines with most CPU time, most first.
    pub lines: Vec<(String, u64)>,
    /// … with most new memory.
    pub growing: Vec<(String, u64)>,
    /// Processes that ended for want of memory, in words.
    pub victims: Vec<String>,
}

impl ServiceSums {
    pub fn cpu(&self) -> u64 {
        self.cpu_ns.iter().sum()
    }

    pub fn waiting(&self, cause: Cause) -> u64 {
        self.waiting_ns[cause.index()]
    }
}

/// A process as it is at the window's end.
#[derive(Clone, Debug)]
pub struct ProcessNow {
    pub pid: u32,
    pub service: String,
    pub cpu_ns: u64,
    pub resident_bytes: u64,
    pub threads: u64,
    /// `None`: they cannot be counted.
    pub files: Option<u64>,
    pub switches: Switches,
    /// The tightest limit of memory that it has.
    pub limit: Option<Limit>,
    pub growth_bytes: i64,
}

/// What a cgroup may have of memory, and what it has: without pages of files that nobody has used for a while, which the
/// kernel takes back when it wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub cgroup: String,
    pub most: u64,
    pub has: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Switches {
    pub voluntary: u64,
    pub involuntary: u64,
}

/// Which service a process is of, found out once in a window.
struct Naming<'a> {
    rules: &'a [ServiceRule],
    of: FxHashMap<u32, String>,
    apart: BTreeSet<String>,
    together: BTreeSet<String>,
}

impl Naming<'_> {
    fn of_labels(&mut self, profile: &Profile, labels: &Labels) -> &str {
        if !self.of.contains_key(&labels.pid) {
            let name = service::name(self.rules, who(profile, labels));
            self.enter(labels.pid, name);
        }
        self.of.get(&labels.pid).map_or(OTHERS, |name| &**name)
    }

    /// Of a process without a stack.
    fn of_process(&mut self, pid: u32, command: &str, executable: &str) -> &str {
        if !self.of.contains_key(&pid) {
            let cgroup = Cgroup::of(pid);
            let name = service::name(
                self.rules,
                Who {
                    command,
                    executable,
                    cgroup: cgroup.as_ref().map_or("", |cgroup| &*cgroup.path),
                    container: (cgroup.as_ref()).map_or("", |cgroup| cgroup.container.as_deref().unwrap_or_default()),
                },
            );
            self.enter(pid, name);
        }
        self.of.get(&pid).map_or(OTHERS, |name| &**name)
    }

    fn enter(&mut self, pid: u32, name: String) {
        let name = match self.apart.contains(&name) || self.apart.len() < MOST_SERVICES {
            true => {
                self.apart.insert(name.clone());
                name
            }
            false => {
                self.together.insert(name);
                OTHERS.to_owned()
            }
        };
        self.of.insert(pid, name);
    }
}

/// Who a sample's process is.
pub fn who<'a>(profile: &'a Profile, labels: &Labels) -> Who<'a> {
    Who {
        command: profile.string(labels.command),
        executable: profile.string(labels.comm),
        cgroup: profile.string(labels.cgroup),
        container: profile.string(labels.container),
    }
}

type Lines = FxHashMap<(String, FrameId), u64>;

pub fn digest(window: &Named, rules: &[ServiceRule]) -> Digest {
    let mut naming = Naming {
        rules,
        of: FxHashMap::default(),
        apart: BTreeSet::new(),
        together: BTreeSet::new(),
    };
    let mut services: BTreeMap<String, ServiceSums> = BTreeMap::new();
    let mut cpu_of: FxHashMap<u32, u64> = FxHashMap::default();
    let mut growth_of: FxHashMap<u32, i64> = FxHashMap::default();
    for content in &window.contents {
        let Some(profile) = content.profile() else { continue };
        let value = |kind: &str| profile.sample_types.iter().position(|value| value.kind == kind);
        let mut hot = Lines::default();
        let mut growing = Lines::default();
        let (cpu, samples, new) = (value("cpu"), value("samples"), value("alloc_space"));
        for (key, values) in profile.samples() {
            let of = |at: Option<usize>| at.map_or(0, |at| u64::try_from(values[at]).unwrap_or(0));
            let service = naming.of_labels(profile, &key.labels).to_owned();
            let sums = services.entry(service.clone()).or_default();
            sums.pids.insert(key.labels.pid);
            let cpu_ns = of(cpu);
            sums.samples += of(samples);
            sums.cpu_ns[kind(profile, key) as usize] += cpu_ns;
            *cpu_of.entry(key.labels.pid).or_default() += cpu_ns;
            if let Some(line) = python_line(profile, key) {
                *hot.entry((service.clone(), line)).or_default() += cpu_ns;
                *growing.entry((service, line)).or_default() += of(new);
            }
        }
        for (service, lines) in most(profile, hot) {
            services.entry(service).or_default().lines = lines;
        }
        for (service, lines) in most(profile, growing) {
            services.entry(service).or_default().growing = lines;
        }
        match content {
            Content::Wall(report) => add_threads(&report.waits.threads, &mut naming, &mut services),
            Content::Waits(report) => add_threads(&report.threads, &mut naming, &mut services),
            Content::Memory(report, _) => {
                for process in &report.processes {
                    growth_of.insert(process.pid, process.growth());
                    add_growth(process, &mut naming, &mut services);
                }
            }
            _ => {}
        }
    }
    let mut by_work: Vec<(u32, u64)> = cpu_of.into_iter().collect();
    // Whoever only grows is of interest as well.
    for (pid, growth) in &growth_of {
        if *growth > 0 && !by_work.iter().any(|(known, _)| known == pid) {
            by_work.push((*pid, 0));
        }
    }
    by_work.sort_unstable_by_key(|&(pid, cpu_ns)| {
        let growth = growth_of.get(&pid).copied().unwrap_or(0);
        (std::cmp::Reverse((cpu_ns, growth)), pid)
    });
    let processes = (by_work.into_iter())
        .filter(|(pid, _)| *pid != 0)
        .take(MOST_PROCESSES)
        .filter_map(|(pid, cpu_ns)| {
            let service = naming.of.get(&pid)?.clone();
            let growth_bytes = growth_of.get(&pid).copied().unwrap_or(0);
            now(pid, service, cpu_ns, growth_bytes)
        })
        .collect();
    Digest {
        began: window.began,
        length: window.length,
        services,
        processes,
        not_told_apart: naming.together.len() as u64,
        own_cpu: Duration::from_secs_f64(window.summary.cost.recording_cpu_s.max(0.0)),
        kernel_cpu: window
            .length
            .mul_f64(window.summary.cost.bpf_cpu_share.clamp(0.0, 1000.0)),
        lost: (window.summary.lost.iter())
            .map(|reason| (reason.what.clone(), reason.count))
            .collect(),
    }
}

/// What the innermost frame that is one is.
fn kind(profile: &Profile, key: &SampleKey) -> Kind {
    let frames = profile.stack(key.stack).iter().map(|frame| profile.frame(*frame).kind);
    frames
        .filter_map(|kind| match kind {
            FrameKind::Python => Some(Kind::Python),
            FrameKind::Native => Some(Kind::Native),
            FrameKind::Kernel => Some(Kind::Kernel),
            FrameKind::Marker => None,
        })
        .next()
        .unwrap_or(Kind::Unknown)
}

fn python_line(profile: &Profile, key: &SampleKey) -> Option<FrameId> {
    (profile.stack(key.stack).iter().copied()).find(|frame| profile.frame(*frame).kind == FrameKind::Python)
}

/// The lines of each service with most.
fn most(profile: &Profile, lines: Lines) -> BTreeMap<String, Vec<(String, u64)>> {
    let mut by_service: BTreeMap<String, Vec<(FrameId, u64)>> = BTreeMap::new();
    for ((service, frame), amount) in lines {
        if amount > 0 {
            by_service.entry(service).or_default().push((frame, amount));
        }
    }
    let named = |(frame, amount): (FrameId, u64)| {
        let frame: &Frame = profile.frame(frame);
        (label::frame(profile, frame), amount)
    };
    (by_service.into_iter())
        .map(|(service, mut lines)| {
            lines.sort_unstable_by_key(|&(frame, amount)| (std::cmp::Reverse(amount), frame));
            lines.truncate(MOST_LINES);
            (service, lines.into_iter().map(named).collect())
        })
        .collect()
}

fn add_threads(threads: &[ThreadTime], naming: &mut Naming<'_>, services: &mut BTreeMap<String, ServiceSums>) {
    for thread in threads {
        let service = naming.of_process(thread.pid, &thread.command, &thread.name).to_owned();
        let sums = services.entry(service).or_default();
        sums.pids.insert(thread.pid);
        sums.threads_ns = sums.threads_ns.saturating_add(thread.elapsed_ns);
        for (sum, ns) in sums.waiting_ns.iter_mut().zip(thread.waiting_ns) {
            *sum = sum.saturating_add(ns);
        }
    }
}

fn add_growth(process: &ProcessMemory, naming: &mut Naming<'_>, services: &mut BTreeMap<String, ServiceSums>) {
    let service = naming
        .of_process(process.pid, &process.command, &process.comm)
        .to_owned();
    let sums = services.entry(service).or_default();
    sums.pids.insert(process.pid);
    // What comes with a new process, and goes with one that ends, is no growth of a service that starts workers anew all day.
    if !process.exited && !process.started {
        sums.growth_bytes = sums.growth_bytes.saturating_add(process.growth());
    }
    sums.victims.extend(crate::report::memory::victim::sentence(process));
}

fn now(pid: u32, service: String, cpu_ns: u64, growth_bytes: i64) -> Option<ProcessNow> {
    let stat = Stat::read(Path::new("/proc"), pid)?;
    Some(ProcessNow {
        pid,
        service,
        cpu_ns,
        resident_bytes: stat.resident_bytes(),
        threads: stat.threads(),
        files: open_files(pid),
        switches: switches(pid).unwrap_or_default(),
        limit: Cgroup::of(pid).and_then(|cgroup| limit(&cgroup.path)),
        growth_bytes,
    })
}

/// Since 6.2 the directory's size is their number; before, they are counted.
fn open_files(pid: u32) -> Option<u64> {
    let path = format!("/proc/{pid}/fd");
    let metadata = fs::metadata(&path).ok()?;
    match metadata.len() {
        0 => Some(fs::read_dir(&path).ok()?.take(MOST_FILES).count() as u64),
        files => Some(files),
    }
}

/// Of its main thread, which is what the kernel says in a process's own file.
fn switches(pid: u32) -> Option<Switches> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some(Switches {
        voluntary: number("voluntary_ctxt_switches:")?,
        involuntary: number("nonvoluntary_ctxt_switches:")?,
    })
}

/// The tightest limit of a cgroup (v2) and those above it, and what the one with it has.
fn limit(cgroup: &str) -> Option<Limit> {
    let root = Path::new("/sys/fs/cgroup");
    let mut tightest: Option<Limit> = None;
    let relative = cgroup.trim_start_matches('/');
    if relative.split('/').any(|part| part == "..") {
        return None;
    }
    let mut at = root.join(relative);
    while at.starts_with(root) && at != root {
        let text = |file: &str| fs::read_to_string(at.join(file)).ok();
        let number = |file: &str| text(file)?.trim().parse::<u64>().ok();
        if let (Some(most), Some(has)) = (number("memory.max"), number("memory.current"))
            && tightest.as_ref().is_none_or(|tightest| most < tightest.most)
        {
            let unused = text("memory.stat").and_then(|stat| {
                let line = stat.lines().find_map(|line| line.strip_prefix("inactive_file "))?;
                line.trim().parse::<u64>().ok()
            });
            tightest = Some(Limit {
                cgroup: at.display().to_string(),
                most,
                has: has.saturating_sub(unused.unwrap_or(0)),
            });
        }
        at.pop();
    }
    tightest
}
