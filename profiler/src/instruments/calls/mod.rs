//! Counting calls: probes on the evaluation loop, in windows and within a budget, and what becomes of the counts.

mod delays;
mod late;
mod names;
#[cfg(test)]
mod tests;
mod watch;
pub use watch::in_virtual_machine;
mod windows;

use std::{
    fs, io, mem,
    ops::Range,
    rc::Rc,
    time::{Duration, Instant},
};

use profiler_common::{
    python::{
        ALWAYS_BEGUN, CALL_BEGIN, CALL_ENTRY, CALL_EXIT, CALL_INNER_EXIT, CALL_LOOP_ENTRY, CALL_YIELD, CallCount,
        CallFacts, CodeKey, ExpectedPython, call_cookie,
    },
    stats::{COUNTERS, Counter},
};
use rustc_hash::{FxHashMap, FxHashSet};

use self::{
    delays::Delays,
    late::Late,
    watch::Watching,
    windows::{Pace, Window},
};
use crate::{
    calls::{Counted, FASTEST_CALL_NS, Main, Pattern, Timing, Windows, report, windows::Sampling},
    config::{CallsConfig, CallsFormat, Config, Target, Via},
    cost::monotonic_ns,
    foreign,
    governor::{self, Governor, TrapCost, cpu_time_ns, stepped},
    instruments::{CallNeeds, Change, Instrument, Needs, Picture, Tells, Told, Turn, content::Content},
    name::Namer,
    orders::{CallPlace, Orders},
    process::{
        file::MappedFile,
        files::{File, FileId},
    },
    progress::stdout_columns,
    prompt::Prompt,
    python::{
        allocator::NoAllocator,
        binary::PythonBinary,
        calls::{self, CallProbes, Event},
        code::Code,
        codes::CodeId,
        layout::{CodeFormat, Instruction},
    },
    recording::{Ended, Recording},
    report::{
        Interpreter, View,
        calls::{self as calls_report, Cost, profile::CALLS_VALUE, table},
    },
    summary::{CallsSummary, Summary},
    window,
};

pub struct Calls {
    wanted: CallsConfig,
    patterns: Vec<Pattern>,
    /// By whose calls others are to be divided.
    per: Option<Pattern>,
    period: Duration,
    by_process: bool,
    files: FxHashMap<FileId, Option<Rc<Places>>>,
    /// Processes whose calls are counted.
    probed: Vec<Probed>,
    /// Files with probes, of one process or of all, and since when all are in place (CLOCK_MONOTONIC).
    attached: FxHashMap<(FileId, Option<u32>), u64>,
    /// Files whose probes have made way for breakpoints: since when, and until when, they were in place.
    handed_over: FxHashMap<FileId, Range<u64>>,
    /// Processes that began to run a CPython, and files that are run, while probes were being taken away.
    postponed: (FxHashSet<u32>, FxHashSet<FileId>),
    late: Late,
    governor: Option<Governor>,
    watching: Watching,
    window: Window,
    /// Windows that follow one another end in time.
    prompt: Option<Prompt>,
    pace: Pace,
    /// Time in which calls were counted, the window that is open not included.
    observed: Duration,
    /// Windows that are closed, and what they say of the rest.
    windows: u64,
    sampling: Sampling,
    /// How long a command's first window was, if it had one.
    first: Option<Duration>,
    codes: FxHashMap<CodeKey, CodeId>,
    /// Who calls chosen functions, read when that was first seen; none if it could not be.
    callers: FxHashMap<CodeKey, Option<CodeId>>,
    chosen: FxHashSet<CodeId>,
    /// What each instance was started as, if it could be found out.
    mains: FxHashMap<u64, Option<Main>>,
    /// What a command is started as.
    command: Option<Main>,
    timing: FxHashMap<CodeId, Timing>,
    delays: Delays,
    counted: Vec<(CodeKey, CallCount)>,
    /// What was counted before counting began anew.
    before: FxHashMap<CodeKey, CallCount>,
    sampled: Duration,
    warnings: Vec<String>,
    /// Counting stopped because of what it cost.
    spent: bool,
    /// Calls that began before are not timed (CLOCK_MONOTONIC): breakpoints took over then.
    timed_since_ns: u64,
    /// Nobody saw what began and ended just before (CLOCK_MONOTONIC): a window opened then.
    seen_since_ns: u64,
    /// Calls that could not be counted.
    lost: u64,
}

/// Where the calls of a file's interpreter can be seen.
struct Places {
    found: CallProbes,
    places: Vec<CallPlace>,
    /// `co_code_adaptive`.
    code_adaptive: u32,
    /// In cookies. 0: there are too many files, or probes are beyond what a cookie can tell.
    number: u8,
}

impl Places {
    fn is_stepped(&self) -> bool {
        self.places.iter().any(|place| governor::is_stepped(place.cookie))
    }

    /// Of a process that has the file so far from where it says, and runs this program.
    fn facts(&self, bias: u64, instance: u32) -> CallFacts {
        let cleanup_code = self.found.cleanup_code;
        CallFacts {
            cleanup_code: cleanup_code.map_or(0, |address| address.wrapping_add(bias)),
            code_adaptive: self.code_adaptive,
            not_begun: self.found.not_begun.map_or(ALWAYS_BEGUN, i32::from),
            instance,
            ..CallFacts::default()
        }
    }
}

struct Probed {
    pid: u32,
    file: FileId,
    facts: CallFacts,
}

impl Calls {
    pub fn new(config: &Config, wanted: &CallsConfig) -> Self {
        Self {
            wanted: wanted.clone(),
            patterns: wanted.functions.iter().map(|typed| Pattern::new(typed)).collect(),
            per: wanted.per.as_deref().map(Pattern::new),
            period: Duration::from_nanos(config.period_ns),
            by_process: matches!(config.target, Target::Pids(_)) && !config.subprocesses,
            files: FxHashMap::default(),
            probed: Vec::new(),
            attached: FxHashMap::default(),
            handed_over: FxHashMap::default(),
            postponed: Default::default(),
            late: Late::default(),
            governor: None,
            watching: Watching::new(wanted),
            window: Window::Open { since: Instant::now() },
            prompt: None,
            pace: Pace::new(
                wanted.max_overhead,
                config.duration,
                wanted.whole_at_first,
                !wanted.functions.is_empty(),
            ),
            observed: Duration::ZERO,
            windows: 0,
            sampling: Sampling::default(),
            first: None,
            codes: FxHashMap::default(),
            callers: FxHashMap::default(),
            chosen: FxHashSet::default(),
            mains: FxHashMap::default(),
            command: match &config.target {
                Target::Command(words) => Main::of(words.iter().map(|word| word.to_string_lossy())),
                Target::All | Target::Pids(_) => None,
            },
            timing: FxHashMap::default(),
            delays: Delays::default(),
            counted: Vec::new(),
            before: FxHashMap::default(),
            sampled: Duration::ZERO,
            warnings: Vec::new(),
            spent: false,
            timed_since_ns: 0,
            seen_since_ns: 0,
            lost: 0,
        }
    }

    fn measure(&mut self, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        if self.governor.is_none() {
            let trap = TrapCost::measure(kernel)?;
            self.governor = Some(Governor::new(trap, self.wanted.max_overhead, 0));
        }
        Ok(())
    }

    /// A process has a CPython: its calls are counted from now on.
    fn probe(&mut self, kernel: &mut dyn Orders, recording: &Recording, pid: u32) {
        let Some((python, file)) = recording.python(pid) else {
            return;
        };
        // It may have run another program until now.
        self.watching.forget(kernel, pid);
        let id = python.file;
        let Some((found, opened)) = self.places(id, file, &python.binary) else {
            return;
        };
        let facts = found.facts(python.bias, python.facts.instance);
        let scope = self.by_process.then_some(pid);
        let is_open = matches!(self.window, Window::Open { .. });
        let counted = self.attach(kernel, id, opened, &found, scope).and_then(|attached| {
            self.know(recording, pid, id, attached, &found);
            match attached {
                // With all probes in place, not between two of them.
                Some(_) => {
                    kernel.set_call_facts(pid, &facts)?;
                    Self::foresee(kernel, &found, &python.binary)
                }
                None => {
                    if is_open {
                        self.postponed.0.insert(pid);
                    }
                    Ok(())
                }
            }
        });
        if let Err(error) = counted {
            self.warnings
                .push(format!("process {pid}: {error:#}; its calls are not counted"));
        }
    }

    /// A file's CPython is going to be run: by the command, or by children as it was before. Calls are counted from the
    /// first one on, before user space has seen the process.
    fn foresee_file(&mut self, kernel: &mut dyn Orders, recording: &Recording, file: FileId) {
        let known = recording.files.get(file);
        let Some(binary) = known.cpython() else { return };
        let Some((found, opened)) = self.places(file, known, binary) else {
            return;
        };
        let is_open = matches!(self.window, Window::Open { .. });
        let counted = self
            .attach(kernel, file, opened, &found, None)
            .and_then(|attached| match attached {
                Some(_) => Self::foresee(kernel, &found, binary),
                None => {
                    if is_open {
                        self.postponed.1.insert(file);
                    }
                    Ok(())
                }
            });
        if let Err(error) = counted {
            let path = known.path.display();
            self.warnings
                .push(format!("{path}: {error:#}; its calls are not counted"));
        }
    }

    /// Tells the kernel side how to see calls in processes that begin to run a file with probes.
    fn foresee(kernel: &mut dyn Orders, found: &Places, binary: &PythonBinary) -> anyhow::Result<()> {
        if found.number == 0 {
            return Ok(());
        }
        // The kernel side gives the instance.
        let expected = ExpectedPython {
            process: binary.process(0, 0),
            calls: found.facts(0, 0),
        };
        kernel.expect_calls(found.number, &expected)
    }

    /// Where calls can be seen in a file, which goes with it as it was inspected.
    fn places<'a>(
        &mut self,
        id: FileId,
        file: &'a File,
        binary: &PythonBinary,
    ) -> Option<(Rc<Places>, &'a MappedFile)> {
        let opened = file.opened.as_ref()?;
        let timed = !self.patterns.is_empty();
        let warnings = &mut self.warnings;
        let next = u8::try_from(self.files.len() + 1).unwrap_or(0);
        let found = self.files.entry(id).or_insert_with(|| {
            let bytes = opened.map().ok()?;
            let found = foreign::parsed(|| calls::inspect(&bytes, binary));
            match found.unwrap_or(Err(NoAllocator::Unreadable.into())) {
                Ok(found) => {
                    warnings.extend(shortcomings(file, &found, timed));
                    let far = found.calls.iter().any(|probe| probe.place.address >> 32 != 0);
                    let number = if far { 0 } else { next };
                    Some(Rc::new(Places {
                        places: places(&found, timed, number),
                        code_adaptive: code_adaptive(binary),
                        found,
                        number,
                    }))
                }
                Err(error) => {
                    warnings.push(format!("{}: {error}; its calls are not counted", file.path.display()));
                    None
                }
            }
        });
        Some((found.clone()?, opened))
    }

    /// Counts those who came while probes were being taken away. Whoever comes while no calls are counted is met again when
    /// a window opens.
    fn catch_up(&mut self, kernel: &mut dyn Orders, recording: &Recording) {
        if !self.is_behind() || !matches!(self.window, Window::Open { .. }) || !kernel.probes_are_gone() {
            return;
        }
        let (pids, files) = mem::take(&mut self.postponed);
        for file in files {
            self.foresee_file(kernel, recording, file);
        }
        for pid in pids {
            self.probe(kernel, recording, pid);
        }
    }

    fn is_behind(&self) -> bool {
        !self.postponed.0.is_empty() || !self.postponed.1.is_empty()
    }

    /// Puts the probes of a file in place, if calls are counted now and if they are not there. Returns since when they are.
    ///
    /// Not while others are being taken away: one that has made way for breakpoints is there until the kernel has come to it,
    /// and a hit of both would be counted twice (each of 20 calls was, where that took 200 ms).
    fn attach(
        &mut self,
        kernel: &mut dyn Orders,
        file: FileId,
        opened: &MappedFile,
        found: &Places,
        scope: Option<u32>,
    ) -> anyhow::Result<Option<u64>> {
        self.measure(kernel)?;
        if let (true, Some(governor)) = (found.is_stepped(), &mut self.governor) {
            governor.expect_stepped(kernel)?;
        }
        if !matches!(self.window, Window::Open { .. }) {
            return Ok(None);
        }
        if let Some(&since) = self.attached.get(&(file, scope)) {
            return Ok(Some(since));
        }
        if !kernel.probes_are_gone() {
            return Ok(None);
        }
        kernel.attach_calls(opened, &found.places, scope)?;
        let since = monotonic_ns();
        self.attached.insert((file, scope), since);
        Ok(Some(since))
    }

    /// A process is counted, since `attached` or since its own beginning, or will be when a window opens.
    fn know(&mut self, recording: &Recording, pid: u32, file: FileId, attached: Option<u64>, found: &Places) {
        let facts = match recording.python(pid) {
            Some((python, _)) => found.facts(python.bias, python.facts.instance),
            None => return,
        };
        let began = recording.began_ns(pid);
        // Of a process that the kernel side cannot take up by itself, calls were missed until now.
        let since = match attached {
            Some(_) if found.number == 0 => Some(monotonic_ns()),
            attached => attached,
        };
        if let (None, Some(since), Some(began)) = (self.wanted.duty, since, began) {
            self.late.began(pid, began, since);
        }
        match self.probed.iter_mut().find(|probed| probed.pid == pid) {
            // After an exec.
            Some(probed) => (probed.file, probed.facts) = (file, facts),
            None => {
                self.probed.push(Probed { pid, file, facts });
                let from_the_first = began.is_some_and(|began| since.is_some_and(|since| began >= since));
                if let (false, Some(governor)) = (from_the_first, &mut self.governor) {
                    governor.leave_out(cpu_time_ns(pid));
                }
            }
        }
    }

    /// Processes that have ended: some before their calls could be counted.
    fn follow_ended(&mut self, kernel: &mut dyn Orders, recording: &mut Recording) {
        for Ended {
            pid,
            file,
            began_ns,
            ended_ns,
        } in recording.drain_ended()
        {
            if self.by_process || self.wanted.duty.is_some() || !matches!(self.window, Window::Open { .. }) {
                continue;
            }
            // Of a process that has been counted it is known since when: until it ended, by breakpoints perhaps.
            if began_ns.is_some_and(|began| self.late.knows(pid, began)) {
                continue;
            }
            let until_handed_over = self.handed_over.get(&file).filter(|probed| ended_ns < probed.end);
            let since = match until_handed_over {
                Some(probed) => Some(probed.start),
                None => self.attached.get(&(file, None)).copied(),
            };
            if since.is_none() {
                // For the next one that runs it.
                self.foresee_file(kernel, recording, file);
            }
            match began_ns {
                Some(_) if since.is_none_or(|since| ended_ns < since) => self.late.missed(),
                Some(began) => self.late.began(pid, began, since.unwrap_or(ended_ns)),
                None => {}
            }
        }
    }

    /// What an instance was started as.
    fn main_of(&mut self, recording: &Recording, key: CodeKey) -> Option<Main> {
        let instance = key.anyone().instance;
        if !self.patterns.iter().any(Pattern::is_of_main) {
            return None;
        }
        let command = &self.command;
        let find = || {
            let typed = recording
                .pid_of(instance)
                .and_then(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok());
            let typed = typed.unwrap_or_default();
            let words = typed.split(|&byte| byte == 0).map(String::from_utf8_lossy);
            // It may be gone.
            Main::of(words).or_else(|| command.clone())
        };
        self.mains.entry(instance).or_insert_with(find).clone()
    }

    /// Takes in what has come, and looks at the clock and at the budget.
    fn take_in(&mut self, kernel: &mut dyn Orders, recording: &mut Recording) -> anyhow::Result<()> {
        let (calls, codes) = recording.drain_calls();
        for (key, code) in codes {
            self.codes.insert(key, code);
            let known = recording.ledger.codes.get(code);
            if self.patterns.is_empty() {
                continue;
            }
            let main = self.main_of(recording, key);
            let is_chosen = self
                .patterns
                .iter()
                .any(|pattern| pattern.matches(known, main.as_ref()));
            if is_chosen {
                self.chosen.insert(code);
                self.watching.choose(key, code);
            }
            // Where there is no room it stays unknown, and is timed for nothing.
            let _ = kernel.choose(key, is_chosen);
        }
        for call in calls {
            let own = CodeKey::identified(call.code, call.instance, call.identity);
            let code = self.codes.get(&own).copied();
            let Some(code) = code.filter(|code| self.chosen.contains(code)) else {
                continue;
            };
            let caller = CodeKey::identified(call.caller, call.instance, call.caller_identity);
            let caller = (call.caller != 0).then_some(caller);
            if let Some(caller) = caller {
                self.meet_caller(recording, caller);
            }
            self.watching.note_time(call.took_ns);
            let stop_ns = self.watching.stop().map_or(0.0, |stop| stop.as_nanos() as f64);
            let trap = self.governor.as_ref().map(Governor::trap);
            let paid_ns = trap.map_or(0.0, |trap| trap.of_toll(&call.paid, self.watching.trap_ns()));
            let timing = self.timing.entry(code).or_default();
            let began_ns = call.time_ns.saturating_sub(call.took_ns);
            if call.took_ns != 0 && began_ns < self.timed_since_ns {
                timing.left_out += 1;
                continue;
            }
            // The frame that ends lies where one did whose end was not seen.
            let took_ns = if began_ns < self.seen_since_ns { 0 } else { call.took_ns };
            timing.add(took_ns, paid_ns, stop_ns, caller, own);
        }
        self.follow_ended(kernel, recording);
        self.follow_windows(kernel, recording)?;
        self.catch_up(kernel, recording);
        self.follow_watches(kernel, recording)
    }

    /// Reads the code of a caller while its process lives. Calls of its own are not counted, perhaps, or it never returns.
    fn meet_caller(&mut self, recording: &mut Recording, caller: CodeKey) {
        if !self.codes.contains_key(&caller) && !self.callers.contains_key(&caller) {
            let code = recording.read_code(caller);
            self.callers.insert(caller, code);
        }
    }

    fn close_last(&mut self, kernel: &mut dyn Orders, recording: &Recording, recorded: Duration) -> anyhow::Result<()> {
        if let Window::Open { .. } = self.window {
            self.look(kernel)?;
            self.look_for_changes(recording);
            self.close(kernel, Instant::now())?;
        }
        self.look(kernel)?;
        self.window = Window::Over;
        self.sampled = recorded;
        Ok(())
    }

    /// Reads the counts, while the processes are still known.
    fn read_counts(&mut self, kernel: &dyn Orders, recording: &mut Recording) {
        self.counted = kernel.calls();
        for (key, count) in &mut self.counted {
            if let Some(before) = self.before.get(key) {
                count.calls = count.calls.saturating_sub(before.calls);
                count.nested = count.nested.saturating_sub(before.nested);
            }
        }
        self.counted.retain(|(_, count)| count.calls > 0);
        let callers = self.timing.values().flat_map(|timing| timing.callers.keys().copied());
        let keys: Vec<CodeKey> = self.counted.iter().map(|(key, _)| *key).chain(callers).collect();
        let mut held: FxHashMap<CodeKey, FxHashSet<CodeKey>> = FxHashMap::default();
        for key in &keys {
            held.entry(key.anyone()).or_default().insert(*key);
        }
        for key in keys {
            // Where one address had several, what is there now need not be the one that is asked for.
            if !self.codes.contains_key(&key)
                && held.get(&key.anyone()).is_none_or(|held| held.len() == 1)
                && let Some(code) = recording
                    .read_code(key)
                    .or_else(|| self.callers.get(&key).copied().flatten())
            {
                self.codes.insert(key, code);
            }
        }
        self.warn_of_missing(kernel, recording);
        self.lost = kernel.counter(Counter::LostCalls).unwrap_or_default();
        self.explain_missing(recording);
    }

    /// Says why functions that were named have no calls.
    fn explain_missing(&mut self, recording: &Recording) {
        let called: Vec<CodeId> = self
            .counted
            .iter()
            .filter_map(|(key, _)| self.codes.get(key).copied())
            .collect::<FxHashSet<_>>()
            .into_iter()
            .collect();
        let codes: Vec<(CodeId, &Code)> = recording.ledger.codes.iter().collect();
        let mains: Vec<&Main> = self.mains.values().flatten().chain(&self.command).collect();
        let mut kinds = self.files.values().flatten().flat_map(|places| &places.found.calls);
        let seen = names::Seen {
            called: &called,
            codes: &codes,
            mains: &mains,
            observed: self.observed,
            spent: self.spent && self.wanted.duty.is_none(),
            counts_ends: kinds.any(|probe| matches!(probe.event, Event::Exit | Event::InnerExit)),
        };
        let named = self.patterns.iter().zip(&self.wanted.functions);
        let named = named.chain(self.per.iter().zip(&self.wanted.per));
        let absent = named.filter_map(|(pattern, typed)| names::absence(pattern, typed, &seen));
        self.warnings.extend(absent.collect::<Vec<_>>());
    }

    /// What counting cost the program in a recording of that length.
    fn cost(&self, length: Duration) -> Cost {
        let floor_ns = (self.all_calls() * FASTEST_CALL_NS) as f64;
        Cost {
            over_all: self.pace.over_all(length, floor_ns),
            within: self.pace.within(floor_ns),
            spent: self.governor.as_ref().map_or(Duration::ZERO, Governor::spent),
            idle: self.pace.is_idle(length),
        }
    }

    fn all_calls(&self) -> u64 {
        self.counted.iter().map(|(_, count)| count.calls).sum()
    }

    fn summary(&self, lines: Vec<String>, counters: &[u64; COUNTERS], length: Duration) -> CallsSummary {
        let counter = |counter: Counter| counters[counter as usize];
        CallsSummary {
            lines,
            observed_s: self.observed.as_secs_f64(),
            in_windows_for: self.spent.then_some(self.wanted.max_overhead),
            windows: self.windows,
            entry_hits: counter(Counter::EntryHits),
            return_hits: counter(Counter::ReturnHits),
            trap_ns: self.governor.as_ref().map_or(0.0, Governor::trap_ns),
            watch_hits: self.watching.hits(),
            watch_ns: self.watching.trap_ns(),
            watched_s: self.watching.length().as_secs_f64(),
            under_way: self.watching.under_way(),
            slow_down: self.cost(length).over_all,
            slow_down_counting: self.cost(length).within,
            idle: self.pace.is_idle(length),
            other_hits: counter(Counter::OtherHits),
            lost_calls: counter(Counter::LostCalls),
            lost_times: counter(Counter::LostTimes),
        }
    }
}

impl Instrument for Calls {
    fn needs(&self) -> Needs {
        let timed = !self.patterns.is_empty();
        Needs {
            clock: Some(self.period.as_nanos() as u64),
            counts_ticks: true,
            calls: Some(CallNeeds {
                timed,
                watched: timed && self.wanted.via != Via::Probes,
            }),
            ..Needs::default()
        }
    }

    fn expect(&mut self, host: &Recording, kernel: &mut dyn Orders, file: FileId) {
        self.foresee_file(kernel, host, file);
    }

    /// What a probe costs is measured now, which takes a tenth of a second: when a command has been started, its first
    /// calls would not be counted meanwhile.
    fn start(&mut self, host: &mut Recording, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        self.measure(kernel)?;
        self.window = Window::Open { since: Instant::now() };
        // Until now the CPU clock ran while probes were put in.
        host.counted_ns.start = monotonic_ns();
        Ok(())
    }

    fn follow(&mut self, change: Change, host: &Recording, kernel: &mut dyn Orders) {
        match change {
            Change::Python { pid } => self.probe(kernel, host, pid),
            Change::Mapped { .. } | Change::NotPython { .. } | Change::Joined { .. } => {}
        }
    }

    fn turn(&mut self, host: &mut Recording, kernel: &mut dyn Orders) -> anyhow::Result<Turn> {
        self.take_in(kernel, host)?;
        // Counting goes on in windows where a budget is spent.
        Ok(Turn::Goes)
    }

    fn look_soon(&self) -> Option<Duration> {
        self.next_look()
    }

    fn stop(&mut self, host: &mut Recording, kernel: &mut dyn Orders, recorded: Duration) -> anyhow::Result<()> {
        let recorded_ns = u64::try_from(recorded.as_nanos()).unwrap_or(u64::MAX);
        host.counted_ns.end = host.counted_ns.start.saturating_add(recorded_ns);
        self.close_last(kernel, host, recorded)
    }

    fn finish(&mut self, host: &mut Recording, kernel: &dyn Orders) {
        self.read_counts(kernel, host);
    }

    /// No process had a CPython that is understood.
    fn refusal(&self, recorded: &window::Window) -> Option<String> {
        if !self.probed.is_empty() {
            return None;
        }
        let reasons: Vec<String> = recorded
            .refused()
            .map(|(reason, _)| reason.to_owned())
            .chain(self.warnings.iter().cloned())
            .collect();
        Some(match &reasons[..] {
            [] => {
                "no CPython was found in what was recorded: there are no calls of Python functions to count".to_owned()
            }
            reasons => format!("no calls could be counted: {}", reasons.join("; ")),
        })
    }

    fn content(&mut self, namer: &mut Namer, recorded: &window::Window, length: Duration) -> (Content, Vec<String>) {
        let cost = self.governor.as_ref().map(|_| self.cost(length));
        let counted = Counted {
            per: self.per.as_ref(),
            beginning: self.late.told(),
            lost: self.lost,
            under_way: self.watching.under_way(),
            counts: &self.counted,
            codes: &self.codes,
            chosen: &self.chosen,
            only_chosen: !self.patterns.is_empty(),
            timing: &self.timing,
            windows: (self.wanted.duty.is_some() || self.spent).then(|| Windows {
                first: self.first,
                sampling: &self.sampling,
                rest: self.pace.rest(),
            }),
            observed: self.observed,
            sampled: self.sampled,
            length,
            cost,
            delay: self.delays.told(),
            stop: self.watching.stop(),
            period: self.period,
        };
        let report = report(recorded, &counted);
        let (profile, warnings) = match self.wanted.format {
            Some(CallsFormat::Html) => {
                let (cpu, warnings) = namer.name(recorded, counted.period.as_nanos() as u64);
                (Some(calls_report::profile::profile(&report, cpu)), warnings)
            }
            _ => (None, Vec::new()),
        };
        (Content::Calls(Box::new(report), profile), warnings)
    }

    fn tell(&self, summary: &mut Summary, content: &Content, told: &Told<'_>) {
        if let Content::Calls(report, _) = content {
            // The table says the same above its first row.
            let lines = match self.wanted.format {
                Some(_) => calls_report::lines(report),
                None => Vec::new(),
            };
            summary.calls = Some(self.summary(lines, told.counters, told.length));
        }
        summary.warnings.extend(self.warnings.iter().cloned());
    }
}

impl Tells for Calls {
    fn opening(&self, what: &str) -> String {
        format!("counting the calls of {what}")
    }

    fn picture(&self) -> Picture {
        Picture {
            headline: "Calls",
            value: CALLS_VALUE,
            interpreter: Interpreter::Full,
        }
    }

    fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        let Content::Calls(report, profile) = content else {
            return Ok(());
        };
        let table = table::Table::new(report, self.wanted.sort);
        match self.wanted.format {
            Some(format) => format.write(report, &table, profile.as_ref().map(|profile| (profile, view)), out),
            None => Ok(out.write_all(table::text(report, &table, self.wanted.top, stdout_columns()).as_bytes())?),
        }
    }
}

fn code_adaptive(binary: &PythonBinary) -> u32 {
    let CodeFormat { instruction, .. } = binary.format();
    match instruction {
        Instruction::Address { code_adaptive } => code_adaptive.into(),
        _ => 0,
    }
}

/// What of a build's calls cannot be seen.
fn shortcomings(file: &File, found: &CallProbes, timed: bool) -> Vec<String> {
    let path = file.path.display();
    let mut lines = Vec::new();
    if let Some(reason) = &found.no_yields {
        lines.push(format!(
            "{path}: {reason}; a generator counts once, when it ends, and not each time it is resumed"
        ));
    }
    if let (true, Err(reason)) = (timed, &found.entries) {
        lines.push(format!(
            "{path}: {reason}; where calls begin cannot be seen, so times are estimated from samples"
        ));
    }
    lines
}

/// The probes of a file. `timed`: those that see calls begin, too.
fn places(found: &CallProbes, timed: bool, file: u8) -> Vec<CallPlace> {
    let mut places = Vec::new();
    let mut has_loop_entry = false;
    for probe in &found.calls {
        let (event, code_flags, returns) = match probe.event {
            Event::Entry => (CALL_ENTRY, 0, true),
            Event::LoopEntry { code_flags } => (CALL_LOOP_ENTRY, code_flags, true),
            Event::Exit => (CALL_EXIT, 0, false),
            Event::InnerExit => (CALL_INNER_EXIT, 0, false),
            Event::Yield => (CALL_YIELD, 0, false),
        };
        has_loop_entry |= event == CALL_ENTRY;
        let offset = probe.place.file_offset;
        if returns && timed {
            places.push(CallPlace {
                offset,
                returns: true,
                cookie: 0,
            });
        }
        places.push(CallPlace {
            offset,
            returns: false,
            cookie: call_cookie(
                event | stepped(&probe.place),
                probe.frame.0.into(),
                code_flags,
                file,
                probe.place.address,
            ),
        });
    }
    // Up to 3.10 a call begins where it is counted.
    if let (true, false, Ok(entries)) = (timed, has_loop_entry, &found.entries) {
        places.extend(entries.iter().map(|entry| CallPlace {
            offset: entry.place.file_offset,
            returns: false,
            cookie: call_cookie(
                CALL_BEGIN | stepped(&entry.place),
                entry.frame.0.into(),
                0,
                file,
                entry.place.address,
            ),
        }));
    }
    places
}
