//! What the kernel says of processes and of where they run: limits, quotas, who has connected to them. It is read before
//! and after, and a difference is of the time between.
//!
//! All of it is text of /proc and of cgroups: bounded, and what cannot be read is not known.

mod database;
mod host;
mod limits;
mod peers;

use std::{cell::RefCell, fs::File, io::Read as _, path::Path};

use rustc_hash::{FxHashMap, FxHashSet};

use self::{
    host::Clocks,
    limits::{Limits, below, cpus_in},
    peers::Peers,
};
use super::{
    evidence::{Around, Database, Host, Python},
    source::{self, LooksLike},
};
use crate::{
    exceptions::handling::Looks,
    process::{
        ancestry,
        cgroup::Cgroup,
        comm,
        root::{LastLink, Root},
    },
    python::collector::{Collector, GENERATIONS},
};

/// Files of a program that are looked into, and how far.
const MOST_SOURCE: u64 = 2 << 20;
const MOST_FILES: usize = 256;
const MOST_TEXT: u64 = 1 << 20;
/// Where cgroups of version 2 are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// A file of a process.
type SourceOf = (u32, String);

#[derive(Debug, Default)]
pub struct Surroundings {
    pub host: Host,
    named: FxHashSet<u32>,
    clocks: Clocks,
    processes: FxHashMap<u32, Known>,
    /// Lines of source files, by whose they are.
    sources: RefCell<FxHashMap<SourceOf, Option<Vec<u8>>>>,
}

#[derive(Debug, Default)]
struct Known {
    python: Python,
    before: Reading,
    after: Reading,
    cpus: Option<usize>,
    threads: Option<usize>,
    swapped_bytes: Option<u64>,
    limits: Limits,
    peers: Peers,
    embedded: Option<&'static str>,
    children: Vec<String>,
    missing: Option<String>,
    collections: Option<[u64; GENERATIONS]>,
    thresholds: [i32; GENERATIONS],
    handling: Looks,
}

/// Numbers that only grow.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    major_faults: Option<u64>,
    throttled_us: Option<u64>,
    throttled: Option<u64>,
    periods: Option<u64>,
}

impl Surroundings {
    /// Of processes that were asked for by their numbers.
    pub fn of(named: impl IntoIterator<Item = u32>) -> Self {
        Self {
            named: named.into_iter().collect(),
            ..Self::default()
        }
    }

    pub fn is_named(&self, pid: u32) -> bool {
        self.named.contains(&pid)
    }

    pub fn python(&self, pid: u32) -> Python {
        self.processes
            .get(&pid)
            .map_or(Python::No, |known| known.python.clone())
    }

    /// A process is a CPython, or one that is refused.
    pub fn set_python(&mut self, pid: u32, python: Python) {
        let is_new = !self.processes.contains_key(&pid);
        let known = self.processes.entry(pid).or_default();
        known.python = python;
        if is_new {
            known.before = Reading::of(pid);
        }
    }

    /// What its collector of garbage said before and after.
    pub fn set_collections(&mut self, pid: u32, before: &Collector, after: &Collector) {
        if let Some(known) = self.processes.get_mut(&pid) {
            let of = |generation: usize| after.stats[generation].since(before.stats[generation]).collections;
            known.collections = Some([of(0), of(1), of(2)]);
            known.thresholds = after.thresholds;
        }
    }

    /// How often it was handling an exception.
    pub fn set_handling(&mut self, pid: u32, looks: Looks) {
        if let Some(known) = self.processes.get_mut(&pid) {
            known.handling = looks;
        }
    }

    /// It begins now.
    pub fn begin_all(&mut self) {
        self.clocks = Clocks::read();
    }

    pub fn begin(&mut self, pid: u32) {
        if self.is_named(pid) && !self.processes.contains_key(&pid) {
            self.set_python(pid, Python::No);
        }
    }

    /// The time is over.
    pub fn end(&mut self) {
        let proc = Path::new("/proc");
        self.host = Host::read();
        Clocks::read().told(&self.clocks, self.host.cpus, &mut self.host);
        for (&pid, known) in &mut self.processes {
            known.after = Reading::of(pid);
            let status = text(&proc.join(pid.to_string()).join("status"));
            let field = |name: &[u8]| status.as_deref().and_then(|status| field(status, name));
            known.cpus = field(b"Cpus_allowed_list:").and_then(|list| cpus_in(&list));
            known.threads = field(b"Threads:").and_then(|text| text.trim().parse().ok());
            known.swapped_bytes = field(b"VmSwap:").and_then(|text| kibibytes(&text));
            known.limits = match Cgroup::of(pid) {
                Some(cgroup) => Limits::of(Path::new(CGROUPS), &cgroup.path),
                None => Limits::default(),
            };
            known.missing = match Path::new(CGROUPS).join("cgroup.controllers").exists() {
                true => None,
                false => Some("no cgroup version 2 file system is mounted at /sys/fs/cgroup".to_owned()),
            };
            known.peers = Peers::of(pid);
            known.embedded = database::embedded(pid);
            known.children = ancestry::descendants(proc, &[pid])
                .unwrap_or_default()
                .into_iter()
                .filter(|&child| child != pid)
                .take(8)
                .map(|child| format!("{} ({child})", comm::of(proc, child)))
                .collect();
        }
    }

    pub fn around(&self, pid: u32) -> Around {
        let Some(known) = self.processes.get(&pid) else {
            return Around::default();
        };
        let difference = |of: fn(&Reading) -> Option<u64>| Some(of(&known.after)?.saturating_sub(of(&known.before)?));
        Around {
            cpus: known.cpus,
            quota: known.limits.quota,
            throttled_ns: difference(|reading| reading.throttled_us).map(|us| us.saturating_mul(1000)),
            throttled_periods: difference(|reading| reading.throttled),
            periods: difference(|reading| reading.periods),
            memory_left: known.limits.memory_left,
            memory_limit: known.limits.memory_limit,
            major_faults: difference(|reading| reading.major_faults),
            swapped_bytes: known.swapped_bytes,
            threads: known.threads,
            children: known.children.clone(),
            missing: known.missing.clone(),
            collections: known.collections,
            thresholds: known.thresholds,
            handling: known.handling.share(),
        }
    }

    /// A database that it has loaded.
    pub fn embedded(&self, pid: u32) -> Option<&'static str> {
        self.processes.get(&pid)?.embedded
    }

    /// What lies at this path, if it is a file of SQLite's.
    pub fn database(&self, pid: u32, path: &str) -> Option<Database> {
        database::read(pid, path)
    }

    /// Whether this peer has connected to the process, and not the other way round.
    pub fn is_client(&self, pid: u32, peer: &str) -> bool {
        (self.processes.get(&pid)).is_some_and(|known| known.peers.is_client(peer))
    }

    /// Whether a line of a file that the process runs takes a lock, by its text.
    pub fn takes_lock(&self, pid: u32, file: &str, line: u32) -> Option<LooksLike> {
        let mut sources = self.sources.borrow_mut();
        if sources.len() >= MOST_FILES && !sources.contains_key(&(pid, file.to_owned())) {
            return None;
        }
        let source = sources
            .entry((pid, file.to_owned()))
            .or_insert_with(|| source(pid, file));
        let line = line.checked_sub(1)? as usize;
        source::takes_lock(source.as_deref()?.split(|&byte| byte == b'\n').nth(line)?)
    }
}

fn source(pid: u32, file: &str) -> Option<Vec<u8>> {
    let path = Path::new(file);
    if !path.is_absolute() {
        return None;
    }
    let file = Root::of(pid).ok()?.open(path, LastLink::Follow).ok()?;
    let mut bytes = Vec::new();
    file.take(MOST_SOURCE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

impl Reading {
    fn of(pid: u32) -> Self {
        let cgroup = Cgroup::of(pid).and_then(|cgroup| below(Path::new(CGROUPS), &cgroup.path));
        let cpu = cgroup.and_then(|cgroup| text(&cgroup.join("cpu.stat")));
        let number = |name: &[u8]| field(cpu.as_deref()?, name)?.trim().parse().ok();
        Self {
            major_faults: major_faults(pid),
            throttled_us: number(b"throttled_usec"),
            throttled: number(b"nr_throttled"),
            periods: number(b"nr_periods"),
        }
    }
}

/// The twelfth field of proc(5)'s stat.
fn major_faults(pid: u32) -> Option<u64> {
    let stat = text(&Path::new("/proc").join(pid.to_string()).join("stat"))?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(9)?.parse().ok()
}

/// `  1234 kB`.
fn kibibytes(text: &str) -> Option<u64> {
    text.split_ascii_whitespace()
        .next()?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// What follows a name at the beginning of a line.
fn field(text: &[u8], name: &[u8]) -> Option<String> {
    let mut lines = text.split(|&byte| byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(name))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn text(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MOST_TEXT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_read() {
        assert_eq!(
            field(b"a: 1\nVmSwap:\t  12 kB\n", b"VmSwap:").as_deref(),
            Some("\t  12 kB")
        );
        assert_eq!(kibibytes("\t  12 kB"), Some(12 << 10));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[0-9A-F: ,-]{0,80}") {
            kibibytes(&text);
            field(&bytes, b"a");
        }
    }
}
