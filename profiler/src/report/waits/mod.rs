//! Reports of `profiler waits`: who waits, how long, for what, on which line.
//!
//! A [`WaitsReport`] is a [`Profile`] whose values are numbers of waits and their time ([`WAITS`]), and what a profile has
//! no room for: causes, errors, and how the time of each thread adds up. The innermost frame of each stack says what was
//! waited for. Flame graphs, folded text, speedscope and pprof are written from the profile by the writers of all profiles.
//!
//! | module | makes |
//! |---|---|
//! | [`rows`] | rows: which frame of a stack is responsible, and sums |
//! | `held` | what is said of threads that wait with the GIL |
//! | `stalls` | which line took an event loop so long |
//! | `calls` | calls that move data, by line and peer |
//! | [`table`] | the table as text; [`export`] as CSV and JSON |

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::label;
use crate::{
    humanize::count,
    process::peers::{Peer, Peers},
    profile::{Profile, SampleKey, StackId, ValueType},
    python::tasks::RunningTask,
    waits::{
        cause::{Cause, Target},
        io::{self, Family},
    },
};

mod calls;
pub mod export;
mod held;
pub mod rows;
mod stalls;
pub mod table;

#[cfg(test)]
mod tests;

const COUNT: ValueType = ValueType {
    kind: "waits",
    unit: "count",
};
const TIME: ValueType = ValueType {
    kind: "wait",
    unit: "nanoseconds",
};

/// The sample types of a profile of waits.
pub const WAITS: [ValueType; 2] = [COUNT, TIME];
/// Index of the one to look at: width is time.
pub const VALUE: usize = 1;

#[derive(Debug)]
pub struct WaitsReport {
    pub profile: Profile,
    /// One per sample of `profile`, in its order.
    pub details: Vec<Detail>,
    /// Who had the GIL while others waited for it.
    pub holders: Vec<Relation>,
    /// Who ended waits (`--wakers`).
    pub wakers: Vec<Relation>,
    /// Event loops that did not poll (`--stalls`), and calls that move data (`--io`), if they were asked for.
    pub stalls: Option<Stalled>,
    pub io: Option<Io>,
    /// In order of process and number.
    pub threads: Vec<ThreadTime>,
    /// Processes of this machine at the other ends of connections, by whose those are and the address.
    pub peers: FxHashMap<(u32, String), Peer>,
    pub length: Duration,
    /// The kernel says for how long a cgroup's quota was used up.
    pub tells_of_quotas: bool,
    /// Shorter waits are in the times of threads and causes only; 0 if there is no such limit. How many there were, and how
    /// long together.
    pub min_ns: u64,
    pub ignored_count: u64,
    pub ignored_ns: u64,
    /// Processes in which it was known where the GIL is.
    pub processes_with_gil: u64,
}

/// What is known of one sample beyond its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Detail {
    pub cause: Cause,
    pub target: Target,
    /// The system call, where the cause does not say what is waited for.
    pub call: Option<&'static str>,
    pub longest_ns: u64,
    /// In ns²; 0 if the time is exact.
    pub variance: f64,
    /// Of the time, that of waits which had not ended.
    pub unended_ns: u64,
    /// The thread had the GIL all the while.
    pub holds_gil: bool,
    /// How long others waited for it meanwhile, all together.
    pub others_ns: u64,
}

/// Event loops that did not come back to poll.
#[derive(Clone, Debug, PartialEq)]
pub struct Stalled {
    /// For at least so long.
    pub limit_ns: u64,
    /// Of very many, the longest are there, and so many others were.
    pub left_out: u64,
    /// In order of time.
    pub stalls: Vec<StallTime>,
}

/// One that did not.
#[derive(Clone, Debug, PartialEq)]
pub struct StallTime {
    pub pid: u32,
    pub tid: u32,
    pub thread: String,
    pub command: String,
    /// Since the recording began.
    pub at_ns: u64,
    pub length_ns: u64,
    /// It was not back when the recording ended.
    pub unended: bool,
    /// The task of asyncio that it ran, as it was read meanwhile.
    pub task: Option<RunningTask>,
    /// What took it: waits by their cause, and time on a CPU (`None`) by the clock.
    pub parts: Vec<(Option<Cause>, StackId, u64)>,
}

/// Calls that move data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Io {
    pub lines: Vec<IoLine>,
    /// Knows how exactly what lines have is known.
    pub told: io::Told,
    /// How long calls were looked at.
    pub looked: Duration,
}

/// Calls of a family for one target, from one stack.
#[derive(Clone, Debug, PartialEq)]
pub struct IoLine {
    pub family: Family,
    pub target: Target,
    pub sample: SampleKey,
    pub line: io::Line,
}

/// Somebody else's part in the waits of a sample: it had the GIL that they were for, or it ended them. Where a holder was is
/// seen from outside, while it may have run on: the lines of its inner frames may be of a moment later or earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub waiter: SampleKey,
    pub other: SampleKey,
    pub sums: Related,
}

/// Of those waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Related {
    pub ns: u64,
    pub count: u64,
    pub longest_ns: u64,
}

/// How the time of a thread adds up. What is said of it is exact, but for the kinds of descriptors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ThreadTime {
    pub pid: u32,
    pub tid: u32,
    /// What it is called: by its program, else by the kernel.
    pub name: String,
    /// What its process runs.
    pub command: String,
    /// That it existed in the recording.
    pub elapsed_ns: u64,
    pub on_cpu_ns: u64,
    /// By [`Cause::ALL`].
    pub waiting_ns: [u64; Cause::ALL.len()],
}

impl ThreadTime {
    pub fn waiting(&self) -> u64 {
        self.waiting_ns.iter().fold(0, |sum, ns| sum.saturating_add(*ns))
    }
}

/// Peers of which it is found out who they are.
const MOST_PEERS: usize = 256;

impl WaitsReport {
    /// Finds out which processes are at the other ends of connections: of those that are waited for longest.
    pub fn name_peers(&mut self, peers: &mut Peers) {
        let mut waited: FxHashMap<(u32, &str), i64> = FxHashMap::default();
        for ((sample, values), detail) in self.profile.samples().zip(&self.details) {
            if !detail.target.peer.is_empty() {
                let key = (sample.labels.pid, &*detail.target.peer);
                *waited.entry(key).or_default() += values.get(VALUE).copied().unwrap_or(0);
            }
        }
        for line in self.io.iter().flat_map(|io| &io.lines) {
            if !line.target.peer.is_empty() {
                let key = (line.sample.labels.pid, &*line.target.peer);
                *waited.entry(key).or_default() += line.line.sums.ns as i64;
            }
        }
        let mut waited: Vec<((u32, &str), i64)> = waited.into_iter().collect();
        waited.sort_by_key(|&(key, ns)| (std::cmp::Reverse(ns), key));
        let found = waited.into_iter().take(MOST_PEERS).filter_map(|((pid, address), _)| {
            let peer = peers.at(pid, address)?;
            Some(((pid, address.to_owned()), peer))
        });
        self.peers = found.collect();
    }

    /// The process at the other end of a process's connection.
    pub fn peer(&self, pid: u32, address: &str) -> Option<&Peer> {
        match address {
            "" => None,
            address => self.peers.get(&(pid, address.to_owned())),
        }
    }

    /// Whom or what a wait was for: `127.0.0.1:5432 of process 812 (postgres)`.
    fn whom(&self, pid: u32, target: &Target) -> String {
        let text = target.text();
        label::clean(match self.peer(pid, &target.peer) {
            Some(peer) => format!("{text} of process {peer}"),
            None => text.to_owned(),
        })
    }

    /// With the number of ports that clients have connected from: of the process with most of them, if several have the same.
    fn with_ports(target: &mut String, ports: u32) {
        if ports > 0 {
            target.push_str(&format!(" ({} ports)", count(ports.into())));
        }
    }

    /// Nothing more is known of the waits than that.
    pub fn new(profile: Profile, details: Vec<Detail>, threads: Vec<ThreadTime>, length: Duration) -> Self {
        Self {
            profile,
            details,
            holders: Vec::new(),
            wakers: Vec::new(),
            stalls: None,
            io: None,
            threads,
            peers: FxHashMap::default(),
            length,
            tells_of_quotas: false,
            min_ns: 0,
            ignored_count: 0,
            ignored_ns: 0,
            processes_with_gil: 0,
        }
    }

    pub fn elapsed_ns(&self) -> u64 {
        self.threads
            .iter()
            .fold(0, |sum, thread| sum.saturating_add(thread.elapsed_ns))
    }

    pub fn on_cpu_ns(&self) -> u64 {
        self.threads
            .iter()
            .fold(0, |sum, thread| sum.saturating_add(thread.on_cpu_ns))
    }

    pub fn waiting_ns(&self) -> u64 {
        self.threads
            .iter()
            .fold(0, |sum, thread| sum.saturating_add(thread.waiting()))
    }

    /// Of each cause, by [`Cause::ALL`].
    pub fn by_cause(&self) -> [u64; Cause::ALL.len()] {
        let mut sums = [0u64; Cause::ALL.len()];
        for thread in &self.threads {
            for (sum, ns) in sums.iter_mut().zip(thread.waiting_ns) {
                *sum = sum.saturating_add(ns);
            }
        }
        sums
    }

    /// What part of the threads' time is accounted for; 1 of none.
    pub fn accounted(&self) -> f64 {
        match self.elapsed_ns() {
            0 => 1.0,
            elapsed => (self.on_cpu_ns() + self.waiting_ns()) as f64 / elapsed as f64,
        }
    }
}

impl Related {
    fn add(&mut self, other: Self) {
        self.ns = self.ns.saturating_add(other.ns);
        self.count = self.count.saturating_add(other.count);
        self.longest_ns = self.longest_ns.max(other.longest_ns);
    }
}

/// Half the width of the interval that holds the true value with a probability of 95 %.
fn error(variance: f64) -> u64 {
    // NaN and negative numbers become 0.
    (1.96 * variance.max(0.0).sqrt()).round() as u64
}
