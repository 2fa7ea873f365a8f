//! What findings are made from: plain values, of each process. Times are in nanoseconds, sizes in bytes.

use std::collections::BTreeMap;

use crate::{python::collector::GENERATIONS, report::waits::rows::Place, waits::cause::Cause};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    pub length_ns: u64,
    pub processes: Vec<Process>,
    pub host: Host,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// CPUs of the machine; 0 if not known.
    pub cpus: usize,
    /// Memory that programs can still have without swapping.
    pub available_bytes: Option<u64>,
    /// CPUs that had nothing to do, on average.
    pub idle_cpus: Option<f64>,
    /// CPUs that a hypervisor had given to others.
    pub stolen_cpus: Option<f64>,
    /// Runnable tasks of the machine for each CPU, at the end.
    pub load_per_cpu: Option<f64>,
    /// Who had CPUs, those with most first.
    pub busy: Vec<Busy>,
}

/// A process of the machine that ran; those that it waited for and that have ended are part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Busy {
    pub pid: u32,
    pub name: String,
    /// So many, on average.
    pub cpus: f64,
    pub ancestors: Vec<u32>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    pub pid: u32,
    pub command: String,
    pub python: Python,
    /// How long it was looked at: less than the whole if it began or ended meanwhile.
    pub length_ns: u64,
    pub threads: Vec<Thread>,
    pub cpu: Vec<CpuLine>,
    /// What CPU time went into that is known by whatever name: by line.
    pub uses: Vec<Use>,
    pub waits: Vec<Wait>,
    pub calls: Vec<Calls>,
    /// Files among their targets that are SQLite's.
    pub databases: Vec<Database>,
    /// A database that is part of it: no socket tells what it is asked.
    pub embedded: Option<&'static str>,
    /// Processes of this machine at the other ends of connections, by the address.
    pub peers: BTreeMap<String, String>,
    /// How long calls were looked at.
    pub calls_ns: u64,
    /// Lines that had the GIL while others waited for it.
    pub holders: Vec<Holder>,
    pub stalls: Vec<Stall>,
    pub memory: Option<Memory>,
    pub around: Around,
    /// Samples of the CPU clock, and those whose Python frames were not found.
    pub samples: u64,
    pub samples_without_frames: u64,
}

/// What is known of its interpreter.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Python {
    /// There is none.
    #[default]
    No,
    Known {
        version: String,
        /// Where the GIL is.
        gil: bool,
        /// Its own functions have names, also those that are not exported.
        symbols: bool,
    },
    Refused(String),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thread {
    pub tid: u32,
    pub name: String,
    pub elapsed_ns: u64,
    pub cpu_ns: u64,
    /// It runs an event loop.
    pub is_loop: bool,
    /// What it waited, by its role.
    pub waited_ns: [u64; Role::ALL.len()],
}

/// What a wait means for whoever wants the program to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// For something to do: a request, an item of a queue, an event.
    Work,
    /// For its own threads or children.
    Own,
    /// For time to pass.
    Timer,
    /// For another program's answer.
    Peer,
    Lock,
    Gil,
    Disk,
    Fault,
    Ready,
    /// It cannot be told.
    Unknown,
}

impl Role {
    pub const ALL: [Self; 10] = [
        Self::Work,
        Self::Own,
        Self::Timer,
        Self::Peer,
        Self::Lock,
        Self::Gil,
        Self::Disk,
        Self::Fault,
        Self::Ready,
        Self::Unknown,
    ];

    /// Whether a thread that waits so has something to do.
    pub fn is_at_work(self) -> bool {
        matches!(
            self,
            Self::Peer | Self::Lock | Self::Gil | Self::Disk | Self::Fault | Self::Ready
        )
    }
}

/// A line that ran.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuLine {
    pub place: Place,
    pub ns: u64,
    pub samples: u64,
}

/// What CPU time can be used for besides the program's own work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// The cyclic garbage collector.
    Gc,
    /// Page faults and calls that give memory to the kernel and take it.
    Pages,
    Import,
    Exception,
    Serialization,
    Logging,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Use {
    pub purpose: Purpose,
    pub place: Place,
    pub ns: u64,
    pub samples: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    pub role: Role,
    pub cause: Cause,
    pub place: Place,
    /// Whom or which file; empty if not known.
    pub target: String,
    pub call: Option<&'static str>,
    pub ns: u64,
    pub count: u64,
    pub longest_ns: u64,
    pub error_ns: u64,
    /// Of the time, that of waits which had not ended.
    pub unended_ns: u64,
    /// Threads that waited so.
    pub tids: Vec<u32>,
    /// It had the GIL all the while; how long others waited for that.
    pub holds_gil: bool,
    pub others_ns: u64,
    /// It is in the way of an event loop.
    pub in_loop: bool,
    pub importing: bool,
    /// Of a lock: whether it is one by the name of a function or of the lock, or looks like one.
    pub surely_lock: bool,
    /// Whose line ended most of it.
    pub waker: Option<Place>,
}

/// Calls that move data, of a line and a target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calls {
    pub place: Place,
    pub family: CallFamily,
    pub target: String,
    /// The other end has asked this process, not the other way round.
    pub is_client: bool,
    pub calls: f64,
    pub ns: f64,
    pub bytes: f64,
    pub median_ns: u64,
}

/// A file of SQLite's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Database {
    pub path: String,
    pub page_bytes: u32,
    /// It has a write-ahead log in place of a journal.
    pub has_log: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallFamily {
    Send,
    Receive,
    Accept,
    Connect,
    Sync,
    Read,
    #[default]
    Other,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    pub place: Place,
    pub waited_ns: u64,
}

/// An event loop that did not come back to poll.
#[derive(Clone, Debug, PartialEq)]
pub struct Stall {
    pub tid: u32,
    /// Without what it waited for a CPU or for the GIL: that is told by itself.
    pub length_ns: u64,
    /// What took most of it, and how much: a wait's cause, or `None` for a CPU.
    pub most: Option<(Place, Option<Cause>, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    pub rss_before: u64,
    pub rss_after: u64,
    /// It started while it was looked at.
    pub started: bool,
    /// By how much RSS grew in each part of the time, all about as long; of the session's processes together.
    pub steps: Vec<i64>,
    /// What part of the change the lines explain, if it is enough to say.
    pub explained: Option<f64>,
    pub lines: Vec<GrowthLine>,
    /// All that came, also what went again.
    pub came_bytes: u64,
    pub live_bytes: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GrowthLine {
    pub place: Place,
    pub live_bytes: u64,
    pub error_bytes: u64,
    pub came_bytes: u64,
    /// In memory that others may have filled.
    pub uncertain_bytes: u64,
}

/// What the kernel says of the process and where it runs, as differences over the time it was looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Around {
    /// CPUs it may run on.
    pub cpus: Option<usize>,
    /// CPUs that its cgroup's quota comes to.
    pub quota: Option<f64>,
    pub throttled_ns: Option<u64>,
    pub throttled_periods: Option<u64>,
    pub periods: Option<u64>,
    /// What its cgroups can still have, and the limit.
    pub memory_left: Option<u64>,
    pub memory_limit: Option<u64>,
    pub major_faults: Option<u64>,
    pub swapped_bytes: Option<u64>,
    pub threads: Option<usize>,
    /// Children it waits for, by what they are called.
    pub children: Vec<String>,
    /// Why some of it is missing.
    pub missing: Option<String>,
    /// How often each generation was collected, by the collector's own count, and its thresholds.
    pub collections: Option<[u64; GENERATIONS]>,
    pub thresholds: [i32; GENERATIONS],
    /// Of the time in which a thread had the GIL, that in which it was in `except` or `finally`, and half the width of its
    /// interval.
    pub handling: Option<(f64, f64)>,
}

impl Thread {
    pub fn at_work_ns(&self) -> u64 {
        let waits = Role::ALL.iter().zip(self.waited_ns);
        let waited = waits.filter(|(role, _)| role.is_at_work()).map(|(_, ns)| ns);
        waited.fold(self.cpu_ns, u64::saturating_add)
    }
}

impl Process {
    pub fn cpu_ns(&self) -> u64 {
        self.threads.iter().map(|thread| thread.cpu_ns).sum()
    }

    /// Of all threads together.
    pub fn at_work_ns(&self) -> u64 {
        self.threads.iter().map(Thread::at_work_ns).sum()
    }

    pub fn waited_ns(&self, role: Role) -> u64 {
        let at = Role::ALL.iter().position(|known| *known == role).unwrap_or(0);
        self.threads.iter().map(|thread| thread.waited_ns[at]).sum()
    }

    /// What threads waited for the GIL while the one that had it was ready and had no CPU: for that, they waited for a CPU.
    fn gil_without_cpu_ns(&self) -> u64 {
        let held = (self.waits.iter())
            .filter(|wait| wait.holds_gil && matches!(wait.cause, Cause::Ready | Cause::Throttled))
            .fold(0u64, |sum, wait| sum.saturating_add(wait.others_ns));
        held.min(self.waited_ns(Role::Gil))
    }

    /// What threads waited for the GIL because another one ran, or kept it.
    pub fn gil_ns(&self) -> u64 {
        self.waited_ns(Role::Gil) - self.gil_without_cpu_ns()
    }

    /// What threads were held up because there was no CPU.
    pub fn without_cpu_ns(&self) -> u64 {
        self.waited_ns(Role::Ready).saturating_add(self.gil_without_cpu_ns())
    }

    /// How long it was held up, by the clock on the wall: as long as its threads, on average by what each ran. One that never
    /// got to run says nothing of how long the others' sleeping and waiting is.
    fn held_up_ns(&self) -> u64 {
        let at = Role::ALL.iter().position(|known| *known == Role::Ready).unwrap_or(0);
        let ready = |thread: &Thread| thread.waited_ns[at];
        let (sum, weights) = self.threads.iter().fold((0u128, 0u128), |(sum, weights), thread| {
            let weight = u128::from(thread.cpu_ns);
            (sum + weight * u128::from(ready(thread)), weights + weight)
        });
        match sum.checked_div(weights) {
            Some(average) => u64::try_from(average).unwrap_or(u64::MAX),
            None => self.threads.iter().map(ready).max().unwrap_or(0),
        }
    }

    /// What shares are of: the time at work, or that it was looked at, if that is longer. What it was without a CPU is no part
    /// of either.
    pub fn whole_ns(&self, length_ns: u64) -> u64 {
        let at_work = self.at_work_ns().saturating_sub(self.without_cpu_ns());
        at_work.max(length_ns.saturating_sub(self.held_up_ns())).max(1)
    }

    /// The same with what it was without a CPU.
    pub fn whole_with_ready_ns(&self, length_ns: u64) -> u64 {
        self.at_work_ns().max(length_ns).max(1)
    }

    /// CPUs that it can use at a time.
    pub fn usable_cpus(&self, host: &Host) -> f64 {
        let cpus = self.around.cpus.unwrap_or(host.cpus).max(1) as f64;
        self.around.quota.map_or(cpus, |quota| quota.min(cpus))
    }
}
