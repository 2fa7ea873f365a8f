//! Where threads wait, how long and for what: the accounts of threads, and stacks of drawn waits.

use std::{io, path::Path, time::Duration};

use anyhow::Context as _;
use profiler_common::{
    limits::COMM_BYTES,
    record::{PYTHON_COMPLETE, SampleHeader, StackKey},
    stats::{COUNTERS, Counter},
    wait::{WAIT_DESCRIPTOR, WAIT_READY, WaitEvent, WaitSlot},
};
use profiler_ebpf::wait::slot;
use rustc_hash::FxHashMap;

use super::{Change, Instrument, Needs, Picture, Told, Turn, WaitNeeds, content::Content};
use crate::{
    config::{Config, NativeFrames, OutputChoice, Target, WaitsConfig, WaitsFormat},
    cost,
    decode::RawRecord,
    memory::event::SiteId,
    orders::{Orders, ThreadAccounts},
    process::{ancestry, comm, who},
    progress::stdout_columns,
    python::memory::ProcessMemory,
    recording::{NO_SITE, Recording},
    report::{
        Interpreter, View,
        waits::{VALUE, WaitsReport, export, table},
    },
    summary::{Summary, WaitsSummary, many},
    waits::{
        account::{Account, Drawn},
        descriptor, gil,
        report::{self, Ended, Unended},
        stuck, threads,
    },
    window::Window,
};

/// From this length on every wait has its stack: at least, and at most when there are very many.
const SHORTEST_TARGET_NS: u64 = 1_000_000;
const LONGEST_TARGET_NS: u64 = 1_000_000_000;
/// Stacks of so many a second are taken at most, on average: half a hundredth of a CPU.
const MOST_A_SECOND: u64 = 1_000;
/// How soon the length is raised, and how soon it is lowered.
const RAISE_AFTER: Duration = Duration::from_millis(40);
const LOWER_AFTER: Duration = Duration::from_secs(1);
/// Threads whose number is remembered for a second.
const MOST_NUMBERS: usize = 4096;
/// Threads that have ended and are told apart; of more, those of a process are put together.
const MOST_ENDED: usize = 4096;

/// Threads there is room for: 800 bytes of kernel memory each.
const SLOTS: u32 = 4 * 1024;
const SLOTS_OF_ALL: u32 = 16 * 1024;

pub struct Waits {
    wanted: WaitsConfig,
    shows_table: bool,
    native_frames: NativeFrames,
    /// None before the kernel side has been asked for them.
    maps: Option<Box<dyn ThreadAccounts>>,
    account: Account,
    /// Threads that have ended.
    ended: Vec<Ended>,
    unended: Unended,
    /// Who is wanted is known by the kernel side alone.
    lazy: bool,
    tids: Vec<u32>,
    target: Target,
    gils: FxHashMap<u32, u64>,
    /// Threads by process and the number that each has inside. Looked up anew every second: numbers are used again.
    numbers: FxHashMap<(u32, u32), Option<u32>>,
    /// Processes whose interpreter has not begun yet.
    without_gil: Vec<u32>,
    warnings: Vec<String>,
    /// When the programs were taken away.
    end_ns: Option<u64>,
    target_ns: u64,
    longest_target_ns: u64,
    chosen_ns: u64,
    received_then: u64,
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
            shows_table: config.output == OutputChoice::Stdout,
            native_frames: config.native_frames,
            maps: None,
            account: Account::default(),
            ended: Vec::new(),
            unended: Unended::new(),
            lazy: is_lazy(config, in_namespace),
            tids: config.tids.clone(),
            target: config.target.clone(),
            gils: FxHashMap::default(),
            numbers: FxHashMap::default(),
            without_gil: Vec::new(),
            warnings: Vec::new(),
            end_ns: None,
            target_ns: SHORTEST_TARGET_NS,
            longest_target_ns: SHORTEST_TARGET_NS,
            chosen_ns: cost::monotonic_ns(),
            received_then: 0,
        }
    }

    /// Threads that are there, and may wait already, are told by /proc.
    fn adopt(&mut self, recording: &Recording) {
        let Some(maps) = self.maps.as_mut().filter(|_| !self.lazy) else {
            return;
        };
        let pids: Vec<u32> = match &self.target {
            Target::All => ancestry::pids(Path::new("/proc")).unwrap_or_default(),
            Target::Pids(_) | Target::Command(_) => recording.pids().collect(),
        };
        let mut left_out = 0;
        for pid in pids.into_iter().filter(|&pid| pid != std::process::id()) {
            if threads::is_of_the_kernel(pid) {
                continue;
            }
            let gil = self.gils.get(&pid).copied().unwrap_or(0);
            for tid in threads::list(pid) {
                if !self.tids.is_empty() && !self.tids.contains(&tid) {
                    continue;
                }
                let Some(seen) = threads::Seen::of(pid, tid) else {
                    continue;
                };
                let slot = seen.slot(pid, tid, gil);
                if !maps.add(slot) {
                    left_out += 1;
                    continue;
                }
                // It went on while we looked.
                let now = threads::Seen::of(pid, tid);
                if slot.out_ns != 0 && now.is_none_or(|now| now.slices != seen.slices) {
                    maps.set_running(&slot, cost::monotonic_ns());
                }
            }
        }
        if left_out > 0 {
            self.warnings.push(format!(
                "there was no room for {}: their waits are not seen",
                many(left_out, "thread")
            ));
        }
    }

    /// A process is known to be a CPython, or no more.
    fn know(&mut self, recording: &Recording, pid: u32) {
        self.without_gil.retain(|&without| without != pid);
        let Some((python, file)) = recording.python(pid) else {
            if self.gils.remove(&pid).is_some()
                && let Some(maps) = &mut self.maps
            {
                maps.set_gil(pid, 0);
            }
            return;
        };
        if !gil::is_known(python) {
            let warning = format!(
                "{}: where CPython {} has its GIL is not known; waiting for it is told as `lock`",
                file.path.display(),
                python.binary.version
            );
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
            return;
        }
        match gil::find(python, &ProcessMemory { pid }) {
            Some(gil) => {
                self.gils.insert(pid, gil);
                if let Some(maps) = &mut self.maps {
                    maps.set_gil(pid, gil);
                }
            }
            None => self.without_gil.push(pid),
        }
    }

    fn take_in(&mut self, recording: &mut Recording) {
        for (mut drawn, header) in recording.drain_waits() {
            drawn.holder = self.holder(recording, &drawn.event, &header);
            self.account.take(&drawn);
        }
        for pid in std::mem::take(&mut self.without_gil) {
            self.know(recording, pid);
        }
        let ended_slots = self.maps.as_mut().map(|maps| maps.take_ended()).unwrap_or_default();
        for slot in ended_slots {
            let ended = ended(recording, slot, None);
            self.end(ended);
        }
        self.choose_target();
    }

    /// Where the thread was that had the GIL.
    fn holder(&mut self, recording: &mut Recording, event: &WaitEvent, header: &SampleHeader) -> Option<SiteId> {
        if event.holder_state == 0 {
            return None;
        }
        let pid = header.pid;
        let (python, _) = recording.python(pid)?;
        let inside = stuck::tid_of(python, ProcessMemory { pid }, event.holder_state)?;
        if self.numbers.len() > MOST_NUMBERS {
            self.numbers.clear();
        }
        let number = self.numbers.entry((pid, inside));
        let tid = (*number.or_insert_with(|| threads::number_outside(pid, inside)))?;
        let mut name = [0; COMM_BYTES];
        for (to, from) in name.iter_mut().take(COMM_BYTES - 1).zip(threads::comm(pid, tid)) {
            *to = from;
        }
        let holder = SampleHeader {
            tid,
            stack: StackKey {
                hash: event.holder_stack,
            },
            comm: name,
            python: PYTHON_COMPLETE,
            ..*header
        };
        Some(recording.site_of(&holder)).filter(|&site| site != NO_SITE)
    }

    /// Keeps the account of a thread that has ended.
    fn end(&mut self, ended: Ended) {
        if self.ended.len() < MOST_ENDED {
            self.ended.push(ended);
            return;
        }
        // 0 is no thread's number.
        let pid = ended.slot.shown_pid;
        let together =
            (self.ended.iter_mut().rev()).find(|other| (other.slot.shown_pid, other.slot.shown_tid) == (pid, 0));
        match together {
            Some(others) => others.add(&ended),
            None => {
                let mut others = ended;
                others.slot.shown_tid = 0;
                others.comm = "other threads".to_owned();
                self.ended.push(others);
            }
        }
    }

    /// Draws fewer when there are many stacks, and more when there are few.
    fn choose_target(&mut self) {
        let now_ns = cost::monotonic_ns();
        let passed = Duration::from_nanos(now_ns.saturating_sub(self.chosen_ns));
        if passed < RAISE_AFTER {
            return;
        }
        let too_many =
            (self.account.received - self.received_then) as f64 / passed.as_secs_f64() / MOST_A_SECOND as f64;
        if too_many > 1.0 {
            let times = (too_many.ceil() as u64).clamp(2, 16);
            self.target_ns = (times * self.target_ns).min(LONGEST_TARGET_NS);
            self.longest_target_ns = self.longest_target_ns.max(self.target_ns);
        } else if passed < LOWER_AFTER {
            return;
        } else if too_many < 0.25 {
            self.target_ns = (self.target_ns / 2).max(SHORTEST_TARGET_NS);
        }
        self.numbers.clear();
        if let Some(maps) = &mut self.maps {
            maps.set_target(self.target_ns);
        }
        self.chosen_ns = now_ns;
        self.received_then = self.account.received;
    }

    /// Nothing is seen any more, and everything that was is taken in. What is under way is counted up to now, and its
    /// stack read from outside.
    fn close(&mut self, recording: &mut Recording) {
        let end_ns = self.end_ns.unwrap_or_else(cost::monotonic_ns);
        let mut pointers: FxHashMap<u32, Vec<stuck::ThreadState>> = FxHashMap::default();
        let live = self.maps.as_ref().map(|maps| maps.live()).unwrap_or_default();
        for (number, mut slot) in live.into_iter().enumerate() {
            if slot.ended_ns != 0 {
                let ended = ended(recording, slot, None);
                self.ended.push(ended);
                continue;
            }
            slot.ended_ns = end_ns;
            let mut under_way = None;
            if slot.in_ns != 0 {
                slot.on_cpu_ns += end_ns.saturating_sub(slot.in_ns);
                if let Some(seen) = threads::Seen::of(slot.shown_pid, slot.shown_tid) {
                    slot::split(&mut slot, seen.run_delay_ns);
                }
            } else if slot.out_ns != 0 {
                let ns = end_ns.saturating_sub(slot.out_ns);
                under_way = Some((slot.class, ns));
                self.take_unended(recording, &slot, ns, number as u64, &mut pointers);
            }
            let ended = ended(recording, slot, under_way);
            self.ended.push(ended);
        }
    }

    fn take_unended(
        &mut self,
        recording: &mut Recording,
        slot: &WaitSlot,
        ns: u64,
        number: u64,
        pointers: &mut FxHashMap<u32, Vec<stuck::ThreadState>>,
    ) {
        let (pid, tid) = (slot.shown_pid, slot.shown_tid);
        let mut event = WaitEvent {
            length_ns: ns,
            weight_ns: ns,
            class: slot.class,
            task_state: slot.task_state,
            call: slot.call,
            arguments: slot.arguments,
            ..WaitEvent::default()
        };
        let memory = ProcessMemory { pid };
        if slot.class == WAIT_DESCRIPTOR || descriptor::has_one(slot.call) {
            descriptor::look_up(pid, &memory, &mut event);
        }
        // As it is read, the thread must still be where it was.
        let waits = |seen: threads::Seen| seen.task_state != 0 && (seen.pc, seen.sp) == (slot.pc, slot.sp);
        let still = || threads::Seen::of(pid, tid).is_some_and(waits);
        let mut site = NO_SITE;
        if slot.class != WAIT_READY && still() {
            let python = recording.python(pid).map(|(python, _)| python.clone());
            let stack = python.as_ref().and_then(|python| {
                let pointers = pointers
                    .entry(pid)
                    .or_insert_with(|| stuck::thread_states(python, memory));
                let inside = threads::number_inside(pid, tid);
                let state = pointers.iter().find(|state| state.tid == inside)?;
                Some(stuck::stack(python, memory, state.thread_pointer, slot.pc, slot.sp))
            });
            let instance = python.as_ref().map_or(0, |python| python.facts.instance);
            let raw = stuck::raw(stack, slot.pc, number);
            if still() {
                let header = header(slot, instance, &raw, stuck::key(number));
                recording.take(RawRecord::Definition(header, raw));
                site = recording.site_of(&header);
            }
        }
        self.account.take_unended(
            &Drawn {
                pid,
                tid,
                site,
                holder: None,
                event,
            },
            &mut self.unended,
        );
    }

    fn summary(&self, report: &WaitsReport, counters: &[u64; COUNTERS]) -> WaitsSummary {
        let counter = |counter: Counter| counters[counter as usize];
        WaitsSummary {
            shows_table: self.shows_table,
            threads: report.threads.len() as u64,
            elapsed_s: report.elapsed_ns() as f64 / 1e9,
            on_cpu_s: report.on_cpu_ns() as f64 / 1e9,
            waiting_s: report.waiting_ns() as f64 / 1e9,
            accounted: report.accounted(),
            waits: self
                .ended
                .iter()
                .flat_map(|ended| ended.slot.sums)
                .map(|sum| sum.count)
                .sum(),
            drawn: counter(Counter::WaitsDrawn),
            target_ns: self.longest_target_ns,
            lost_stacks: counter(Counter::LostWaits),
            lost_threads: counter(Counter::LostThreads),
            lost_switches: counter(Counter::LostSwitches),
            forgotten: self.account.forgotten,
            every_call: self.maps.as_ref().is_some_and(|maps| !maps.resumes()),
        }
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
            }),
            ..Needs::default()
        }
    }

    fn prepare(&mut self, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        let maps = kernel.thread_accounts();
        let maps = self
            .maps
            .insert(maps.context("the kernel half has no accounts of threads")?);
        maps.set_target(SHORTEST_TARGET_NS);
        Ok(())
    }

    fn start(&mut self, host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<()> {
        self.adopt(host);
        Ok(())
    }

    fn follow(&mut self, change: Change, host: &Recording, _kernel: &mut dyn Orders) {
        match change {
            Change::Python { pid } | Change::NotPython { pid } => self.know(host, pid),
            Change::Mapped { .. } => {}
        }
    }

    fn turn(&mut self, host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<Turn> {
        self.take_in(host);
        Ok(Turn::Goes)
    }

    fn stop(&mut self, _host: &mut Recording, _kernel: &mut dyn Orders, _recorded: Duration) -> anyhow::Result<()> {
        // What happens while the programs are taken away does not count.
        self.end_ns = Some(cost::monotonic_ns());
        Ok(())
    }

    fn finish(&mut self, host: &mut Recording, _kernel: &dyn Orders) {
        self.close(host);
    }

    fn content(&mut self, window: &Window, length: Duration) -> (Content, Vec<String>) {
        let (report, warnings) = report::report(window, &self.account, &self.unended, &self.ended, length);
        (Content::Waits(Box::new(report)), warnings)
    }

    fn tell(&self, summary: &mut Summary, content: &Content, told: &Told<'_>) {
        if let Content::Waits(report) = content {
            summary.waits = Some(self.summary(report, told.counters));
        }
        summary.warnings.extend(self.warnings.iter().cloned());
    }

    fn opening(&self, what: &str) -> String {
        format!("following the waits of {what}")
    }

    fn picture(&self) -> Picture {
        Picture {
            headline: "Waiting time",
            value: VALUE,
            interpreter: match self.native_frames {
                NativeFrames::Full => Interpreter::Full,
                NativeFrames::Work => Interpreter::Work,
            },
        }
    }

    fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        let Content::Waits(report) = content else {
            return Ok(());
        };
        if let Some(format) = self.wanted.format.stacks() {
            return format.writer().write(&report.profile, view, out);
        }
        match self.wanted.format {
            WaitsFormat::Csv => export::write_csv(report, out),
            WaitsFormat::Json => export::write_json(report, out),
            _ => Ok(out.write_all(table::text(report, self.wanted.by, self.wanted.top, stdout_columns()).as_bytes())?),
        }
    }
}

fn ended(recording: &mut Recording, slot: WaitSlot, unended_ns: Option<(u32, u64)>) -> Ended {
    let (pid, tid) = (slot.shown_pid, slot.shown_tid);
    let command = match recording.command(pid) {
        command if command.is_empty() => who::process(Path::new("/proc"), pid),
        command => command,
    };
    Ended {
        comm: comm::shown(&threads::comm(pid, tid)),
        command,
        unended_ns,
        slot,
    }
}

fn header(slot: &WaitSlot, instance: u32, raw: &crate::decode::RawStack, stack: StackKey) -> SampleHeader {
    let name = threads::comm(slot.shown_pid, slot.shown_tid);
    let mut comm = [0; COMM_BYTES];
    for (to, from) in comm.iter_mut().take(COMM_BYTES - 1).zip(name) {
        *to = from;
    }
    SampleHeader {
        kind: 0,
        cpu: 0,
        pid: slot.shown_pid,
        tid: slot.shown_tid,
        time_ns: slot.ended_ns,
        stack,
        comm,
        instance,
        python: raw.python_status,
    }
}
