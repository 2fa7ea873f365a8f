//! Where threads wait, how long and for what: the accounts of threads, and stacks of drawn waits.

mod adopt;
mod closing;
mod looking;
mod sparing;
mod taking;
mod told;

use std::{
    mem,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use profiler_common::{
    record::SampleHeader,
    stats::COUNTERS,
    wait::{IoKey, IoTotal, MOST_SLOTS, WaitControl, WaitEvent},
};
use rustc_hash::FxHashMap;

use self::sparing::Sparing;
use super::{Change, Instrument, Needs, Told, Turn, WaitNeeds, content::Content, measured::Measured};
use crate::{
    config::{Config, NativeFrames, OutputChoice, Target, WaitsConfig},
    cost,
    name::Namer,
    orders::{Orders, ThreadAccounts},
    process::peers::Peers,
    recording::Recording,
    summary::Summary,
    waits::{
        account::{Account, Drawn},
        budget::{self, Budget},
        io::IoAccount,
        own_gil::OwnGils,
        report::{self, Ended, Reported, Unended},
        stalls::Stalls,
        tasks::RunningTasks,
        window::{Totals, WaitsCut, Windows},
    },
    window::Window,
};

/// From this length on every wait has its stack: at least, and at most when there are very many.
const SHORTEST_TARGET_NS: u64 = 1_000_000;
const LONGEST_TARGET_NS: u64 = 1_000_000_000;
/// How often a thread is looked at again that does not stand still as its account is begun.
const MOST_LOOKS: u32 = 4;
/// From this size on every call has, of those that move data: in nanoseconds and bytes.
const LEAST_IO_TARGET: u64 = 1 << 16;
const MOST_IO_TARGET: u64 = 1 << 31;
/// The clock ticks so many times in the shortest stall, within these bounds.
const TICKS_IN_STALL: u32 = 20;
const SHORTEST_PERIOD: Duration = Duration::from_millis(1);
const LONGEST_PERIOD: Duration = Duration::from_millis(10);
/// How often it is looked which threads have ended. Until then there is room for others.
const LOOK_FOR_ENDED: Duration = Duration::from_millis(100);
/// Threads whose number is remembered for a second.
const MOST_NUMBERS: usize = 4096;
/// Threads that have ended and are told apart; of more, those of a process are put together.
const MOST_ENDED: usize = 4096;

/// Threads there is room for: 1.2 KB of kernel memory each.
const SLOTS: u32 = 4 * 1024;
const SLOTS_OF_ALL: u32 = MOST_SLOTS as u32;

pub struct Waits {
    wanted: WaitsConfig,
    /// What is written says when waits were.
    shows_time: bool,
    shows_table: bool,
    native_frames: NativeFrames,
    /// None before the kernel side has been asked for them.
    maps: Option<Box<dyn ThreadAccounts>>,
    account: Account,
    /// Threads that have ended, or their part of a window.
    ended: Vec<Ended>,
    unended: Unended,
    windows: Windows,
    /// Waits that were told while a window was being closed, and are of the next.
    later: Vec<(Drawn, SampleHeader)>,
    /// When it was looked last which threads have ended.
    looked_for_ended: Option<Instant>,
    /// Threads that wait, and what was found out of each.
    stuck: FxHashMap<u32, Stuck>,
    /// What the kernel calls threads, and when it was asked.
    comms: FxHashMap<(u32, u64), (String, Instant)>,
    /// All windows together, if there are several.
    totals: Totals,
    /// Who is wanted is known by the kernel side alone.
    lazy: bool,
    tids: Vec<u32>,
    target: Target,
    /// Of processes: their main interpreters'.
    gils: FxHashMap<u32, u64>,
    own_gils: OwnGils,
    /// Threads whose GIL the kernel side has to be told.
    moved: bool,
    /// Processes that were known to have one.
    processes_with_gil: u64,
    /// Threads by process and the number that each has inside. Looked up anew every second: numbers are used again.
    numbers: FxHashMap<(u32, u32), Option<u32>>,
    /// Processes whose interpreter has not begun yet.
    without_gil: Vec<u32>,
    warnings: Vec<String>,
    /// When the programs were taken away.
    end_ns: Option<u64>,
    begun_ns: u64,
    /// How many waits are drawn, and how many calls that move data.
    budget: Budget,
    io_budget: Budget,
    /// If they were asked for.
    stalls: Option<Stalls>,
    running_tasks: RunningTasks,
    /// A loop is away from polling: it is looked at again after this.
    looks_soon: Option<Duration>,
    io: Option<IoAccount>,
    io_totals: Vec<(IoKey, IoTotal)>,
    sparing: Option<Sparing>,
}

/// What was found out of a thread that waits: true for as long as it has not run.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    out_ns: u64,
    /// The stack that was read.
    header: SampleHeader,
    /// What it waits for.
    event: WaitEvent,
}

/// Whether it cannot be told beforehand which threads are wanted.
fn is_lazy(config: &Config, in_namespace: bool) -> bool {
    in_namespace || config.comm.is_some() || config.cgroup.is_some()
}

impl Waits {
    /// `in_namespace`: the profiler does not see the numbers that the kernel gives to threads.
    pub fn new(config: &Config, wanted: &WaitsConfig, in_namespace: bool) -> Self {
        Self {
            wanted: wanted.clone(),
            shows_time: config.format.shows_time(),
            shows_table: config.output == OutputChoice::Stdout,
            native_frames: config.native_frames,
            maps: None,
            account: Account::default(),
            ended: Vec::new(),
            unended: Unended::new(),
            windows: Windows::default(),
            later: Vec::new(),
            looked_for_ended: None,
            stuck: FxHashMap::default(),
            comms: FxHashMap::default(),
            totals: Totals::default(),
            lazy: is_lazy(config, in_namespace),
            tids: config.tids.clone(),
            target: config.target.clone(),
            gils: FxHashMap::default(),
            own_gils: OwnGils::default(),
            moved: false,
            processes_with_gil: 0,
            numbers: FxHashMap::default(),
            without_gil: Vec::new(),
            warnings: Vec::new(),
            end_ns: None,
            begun_ns: cost::monotonic_ns(),
            budget: Budget::of(
                wanted.most_stacks.unwrap_or(budget::MOST_A_SECOND),
                if wanted.every_wait { 1 } else { SHORTEST_TARGET_NS },
                LONGEST_TARGET_NS,
                cost::monotonic_ns(),
            ),
            io_budget: Budget::new(LEAST_IO_TARGET, MOST_IO_TARGET, cost::monotonic_ns()),
            stalls: wanted.stalls.map(|_| Stalls::default()),
            running_tasks: RunningTasks::default(),
            looks_soon: None,
            io: wanted.io.then(IoAccount::default),
            io_totals: Vec::new(),
            sparing: wanted.sparing.then(Sparing::default),
        }
    }

    fn control(&self) -> WaitControl {
        WaitControl {
            target_ns: self.budget.target,
            min_ns: nanoseconds(self.wanted.min),
            stall_ns: self.wanted.stalls.map_or(u64::MAX, nanoseconds),
            io_target: self.io_budget.target,
            io_from_ns: self.sparing.as_ref().map_or(0, Sparing::counts_from_ns),
            io_until_ns: self.sparing.as_ref().map_or(u64::MAX, Sparing::counts_until_ns),
        }
    }
}

impl Waits {
    /// The GIL of a thread, as far as it is known.
    fn gil_of(&self, pid: u32, tid: u32) -> Option<u64> {
        self.own_gils.of((pid, tid)).or_else(|| self.gils.get(&pid).copied())
    }
}

impl Instrument for Waits {
    fn needs(&self) -> Needs {
        Needs {
            waits: Some(WaitNeeds {
                threads: match self.target {
                    Target::All => SLOTS_OF_ALL,
                    Target::Pids(_) | Target::Command(_) => SLOTS,
                },
                lazy: self.lazy,
                wakers: self.wanted.wakers,
                stalls: self.wanted.stalls.is_some(),
                io: self.wanted.io,
                sparing: self.wanted.sparing,
            }),
            // What is sparing does with the ticks there are.
            clock: self.wanted.stalls.filter(|_| !self.wanted.sparing).map(|limit| {
                let period = (limit / TICKS_IN_STALL).clamp(SHORTEST_PERIOD, LONGEST_PERIOD);
                nanoseconds(period)
            }),
            slices: self.shows_time,
            ..Needs::default()
        }
    }

    fn prepare(&mut self, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        let maps = kernel.thread_accounts();
        let control = self.control();
        let maps = self
            .maps
            .insert(maps.context("the kernel half has no accounts of threads")?);
        maps.set_control(control);
        Ok(())
    }

    fn start(&mut self, host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<()> {
        self.begun_ns = cost::monotonic_ns();
        self.adopt(host);
        Ok(())
    }

    fn follow(&mut self, change: Change, host: &Recording, _kernel: &mut dyn Orders) {
        match change {
            Change::Python { pid } | Change::NotPython { pid } => self.know(host, pid),
            Change::Joined { pid } => self.adopt_threads(vec![pid]),
            Change::Mapped { .. } => {}
        }
    }

    fn turn(&mut self, host: &mut Recording, kernel: &mut dyn Orders) -> anyhow::Result<Turn> {
        self.take_in(host);
        self.choose_target(kernel)?;
        self.look_at_loops(host);
        self.spare(host, kernel)?;
        Ok(Turn::Goes)
    }

    fn look_soon(&self) -> Option<Duration> {
        self.looks_soon
    }

    fn stop(&mut self, _host: &mut Recording, _kernel: &mut dyn Orders, _recorded: Duration) -> anyhow::Result<()> {
        // What happens while the programs are taken away does not count.
        let now_ns = cost::monotonic_ns();
        self.end_ns = Some(now_ns);
        if let Some(sparing) = &mut self.sparing {
            sparing.end(now_ns);
        }
        Ok(())
    }

    fn finish(&mut self, host: &mut Recording, _kernel: &dyn Orders) {
        self.read_accounts(host);
    }

    fn close(&mut self, host: &mut Recording, _kernel: &dyn Orders) {
        self.read_accounts(host);
    }

    fn cut(&mut self, _window: &Window) -> anyhow::Result<Measured> {
        self.windows.cut();
        if self.end_ns.is_some() {
            let went_on = self
                .ended
                .iter()
                .filter(|ended| Some(ended.slot.ended_ns) == self.end_ns);
            self.totals.threads += went_on.count() as u64;
        }
        self.totals.add(&self.ended);
        self.totals.forgotten += self.account.forgotten();
        let cut = WaitsCut {
            account: mem::take(&mut self.account),
            unended: mem::take(&mut self.unended),
            ended: mem::take(&mut self.ended),
            target_ns: self.budget.cut(),
            every_call: self.maps.as_ref().is_some_and(|maps| !maps.resumes()),
            min_ns: nanoseconds(self.wanted.min),
            processes_with_gil: self.processes_with_gil,
        };
        Ok(Measured::Waits(Box::new(cut)))
    }

    fn tell_windows(&self, summary: &mut Summary, counters: &[u64; COUNTERS]) {
        let every_call = self.maps.as_ref().is_some_and(|maps| !maps.resumes());
        summary.waits = Some(self.totals.summary(counters, self.budget.target, every_call));
        summary.warnings.extend(self.warnings.iter().cloned());
    }

    fn content(&mut self, namer: &mut Namer, window: &Window, length: Duration) -> (Content, Vec<String>) {
        let reported = Reported {
            account: &self.account,
            unended: &self.unended,
            threads: &self.ended,
            stalls: self.stalls.as_ref().zip(self.wanted.stalls.map(nanoseconds)),
            io: self.io.as_ref().map(|io| (io, &*self.io_totals)),
            io_ns: self.sparing.as_ref().map(Sparing::looked_ns),
            tells_of_quotas: self.maps.as_ref().is_some_and(|maps| maps.tells_of_quotas()),
            begun_ns: self.begun_ns,
            length,
            min_ns: nanoseconds(self.wanted.min),
            processes_with_gil: self.processes_with_gil,
        };
        let (mut report, warnings) = report::report(window, namer, &reported);
        report.name_peers(&mut Peers::default());
        (Content::Waits(Box::new(report)), warnings)
    }

    fn tell(&self, summary: &mut Summary, content: &Content, told: &Told<'_>) {
        if let Content::Waits(report) = content {
            summary.waits = Some(self.summary(report, told.counters));
            summary.warnings.extend(self.of_quotas(report));
        }
        summary.warnings.extend(self.warnings.iter().cloned());
        if told
            .window
            .refused()
            .any(|(reason, _)| reason.starts_with("free-threaded"))
        {
            let warning = "of a free-threaded CPython nothing is told of a GIL, which it may have (PYTHON_GIL=1)";
            summary.warnings.push(warning.to_owned());
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
