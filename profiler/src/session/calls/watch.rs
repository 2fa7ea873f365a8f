//! Counting calls of chosen functions by hardware breakpoints on their bytecode, where that costs the program less than
//! probes on the evaluation loop, which all calls hit.
//!
//! Probes come first: which code objects are meant is known when they are called. When each function that was named has
//! been called in a process, and its bytes that matter fit into the processor's registers, each thread of the process is
//! made to stop at them; then counting changes hands (`CallFacts::watched`), and then the probes go.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use profiler_common::{
    python::{BY_PROBES_STILL, BY_WATCHES, CallFacts, CodeKey, Watch, WatchKey},
    stats::Counter,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{Calls, Window};
use crate::{
    bpf::{Kernel, WatchLink},
    config::{CallsConfig, Via},
    governor::{cpu_time_ns, watch_cost_ns},
    python::{
        bytecode::{self, Place},
        code::Code,
        codes::CodeId,
        memory::ProcessMemory,
    },
    recording::Recording,
};

/// Debug registers of x86.
const REGISTERS: usize = 4;
/// Probes must have cost this much before anything is concluded from what they cost.
const LEARNED_NS: f64 = 1e6;
/// … and breakpoints this much.
const TRIED_NS: f64 = 20e6;
/// Breakpoints are taken where they cost this much less, and given up where they cost this much more.
const WORTH: f64 = 1.5;
/// A call hits two: where it begins and where it returns.
const HITS_OF_A_CALL: f64 = 2.0;
/// How often it is looked whether the code is still there.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Calls that end by an exception have no time: from so many on, and so large a part, that is too many.
const MOST_UNTIMED: (u64, u64) = (20, 20);
/// Between announcing and doing it.
const HAND_OVER: Duration = Duration::from_millis(10);
/// Whoever starts threads faster than they can be watched is not watched.
const MOST_ROUNDS: u32 = 50;

pub(super) struct Watching {
    via: Option<Via>,
    /// Code objects of chosen functions, of all processes.
    chosen: FxHashMap<CodeKey, CodeId>,
    processes: FxHashMap<u32, Watched>,
    /// One that is watched has got another chosen code object.
    outdated: bool,
    trap_ns: Option<f64>,
    /// Since when costs are compared.
    before: Option<Cost>,
    /// What probes cost for each nanosecond of the program's own.
    probes_share: f64,
    since: Option<Instant>,
    length: Duration,
    checked: Instant,
    given_up: Option<String>,
}

struct Watched {
    instance: u32,
    bytes: Vec<WatchKey>,
    links: Vec<WatchLink>,
    codes: FxHashSet<CodeKey>,
}

/// Totals so far.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    probes_ns: f64,
    watches_ns: f64,
    program_ns: f64,
    cpu_ns: u64,
    /// Calls of chosen functions, and those that have a time or are known to have none.
    calls: u64,
    timed: u64,
}

impl Watching {
    pub fn new(wanted: &CallsConfig) -> Self {
        let given_up = match (wanted.via, wanted.duty) {
            (Some(Via::Breakpoints), Some(_)) => Some("with --duty calls are counted by probes".to_owned()),
            _ => None,
        };
        let is_wanted = !wanted.functions.is_empty() && wanted.duty.is_none();
        Self {
            via: if is_wanted { wanted.via } else { Some(Via::Probes) },
            chosen: FxHashMap::default(),
            processes: FxHashMap::default(),
            outdated: false,
            trap_ns: None,
            before: None,
            probes_share: 0.0,
            since: None,
            length: Duration::ZERO,
            checked: Instant::now(),
            given_up,
        }
    }

    /// A code object of a chosen function has become known.
    pub fn choose(&mut self, key: CodeKey, code: CodeId) {
        if self.chosen.insert(key, code) == Some(code) {
            return;
        }
        let mut watched = self.processes.values();
        self.outdated |= watched.any(|watched| u64::from(watched.instance) == key.instance);
        self.before = None;
    }

    /// A process is not watched any more: probes see its calls, or nobody does.
    pub fn forget(&mut self, kernel: &mut Kernel, pid: u32) {
        let Some(watched) = self.processes.remove(&pid) else {
            return;
        };
        for key in &watched.bytes {
            kernel.remove_watch(*key);
        }
        drop(watched.links);
        self.before = None;
        if self.processes.is_empty()
            && let Some(since) = self.since.take()
        {
            self.length += since.elapsed();
        }
    }

    pub fn forget_all(&mut self, kernel: &mut Kernel) {
        for pid in self.processes.keys().copied().collect::<Vec<_>>() {
            self.forget(kernel, pid);
        }
    }

    /// What a hit costs; 0 as long as there were none.
    pub fn trap_ns(&self) -> f64 {
        self.trap_ns.unwrap_or(0.0)
    }

    /// How long processes have been watched.
    pub fn length(&self) -> Duration {
        self.length + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Why they are not, or not any more.
    pub fn reason(&self) -> Option<String> {
        self.given_up.clone()
    }

    fn is_wanted(&self) -> bool {
        self.via != Some(Via::Probes) && self.given_up.is_none()
    }
}

impl Calls {
    /// Looks whether counting should change hands.
    pub(super) fn follow_watches(&mut self, kernel: &mut Kernel, recording: &Recording) -> anyhow::Result<()> {
        if !self.watching.is_wanted() || !matches!(self.window, Window::Open { .. }) {
            return Ok(());
        }
        let is_alive = |pid: u32| recording.python(pid).is_some();
        for pid in self.watching.processes.keys().copied().collect::<Vec<_>>() {
            if !is_alive(pid) {
                self.watching.forget(kernel, pid);
            }
        }
        let pids = || self.probed.iter().map(|probed| probed.pid).filter(|&pid| is_alive(pid));
        let waiting: Vec<u32> = pids()
            .filter(|pid| !self.watching.processes.contains_key(pid))
            .collect();
        if !self.watching.processes.is_empty() && self.no_longer(kernel, recording)? {
            return self.back_to_probes(kernel, recording);
        }
        if waiting.is_empty() {
            return Ok(());
        }
        if !waiting.iter().all(|&pid| self.is_learned(recording, pid)) {
            return Ok(());
        }
        if !self.is_worth_it(kernel)? {
            return Ok(());
        }
        for pid in waiting {
            if let Err(error) = self.watch(kernel, recording, pid) {
                let reason = format!("process {pid}: {error:#}");
                if self.watching.via.is_some() {
                    self.warnings.push(format!("{reason}; calls are counted by probes"));
                }
                return self.give_up(kernel, recording, reason);
            }
        }
        self.watching.since.get_or_insert_with(Instant::now);
        kernel.detach_probes();
        self.attached.clear();
        self.watching.before = Some(self.cost(kernel)?);
        Ok(())
    }

    /// Whether each function that was named has been called in the process.
    fn is_learned(&self, recording: &Recording, pid: u32) -> bool {
        let Some((python, _)) = recording.python(pid) else {
            return false;
        };
        let instance = u64::from(python.facts.instance);
        let chosen = || self.watching.chosen.iter().filter(|(key, _)| key.instance == instance);
        self.patterns
            .iter()
            .all(|pattern| chosen().any(|(_, &code)| pattern.matches(recording.ledger.codes.get(code))))
    }

    fn cost(&self, kernel: &Kernel) -> anyhow::Result<Cost> {
        let (entry_ns, return_ns) = self
            .governor
            .as_ref()
            .map(|governor| (governor.trap().entry_ns, governor.trap().return_ns))
            .unwrap_or_default();
        let hits = |counter, cost_ns: f64| -> anyhow::Result<f64> { Ok(kernel.counter(counter)? as f64 * cost_ns) };
        let timed = self.timing.values();
        Ok(Cost {
            probes_ns: hits(Counter::EntryHits, entry_ns)? + hits(Counter::ReturnHits, return_ns)?,
            watches_ns: hits(Counter::WatchHits, self.watching.trap_ns())?,
            program_ns: kernel.counter(Counter::RunTimeNs)? as f64,
            cpu_ns: self.probed.iter().map(|probed| cpu_time_ns(probed.pid)).sum(),
            calls: self.watching.chosen.keys().map(|&key| kernel.calls_of(key).calls).sum(),
            timed: timed.map(|timing| timing.count + timing.missed_entries).sum(),
        })
    }

    /// Whether breakpoints would cost the program less than the probes do.
    fn is_worth_it(&mut self, kernel: &mut Kernel) -> anyhow::Result<bool> {
        let now = self.cost(kernel)?;
        let before = *self.watching.before.get_or_insert(now);
        let probes_ns = now.probes_ns - before.probes_ns + (now.program_ns - before.program_ns);
        let forced = self.watching.via == Some(Via::Breakpoints);
        if probes_ns < LEARNED_NS && !forced {
            return Ok(false);
        }
        let trap_ns = match self.watching.trap_ns {
            Some(trap_ns) => trap_ns,
            None => match watch_cost_ns(kernel) {
                Ok(trap_ns) => *self.watching.trap_ns.insert(trap_ns),
                Err(error) => {
                    let reason = format!("there are no hardware breakpoints to be had: {error:#}");
                    if forced {
                        self.warnings.push(reason.clone());
                    }
                    self.watching.given_up = Some(reason);
                    return Ok(false);
                }
            },
        };
        let calls = now.calls.saturating_sub(before.calls) as f64;
        let own_ns = (now.cpu_ns.saturating_sub(before.cpu_ns) as f64 - probes_ns).max(1.0);
        self.watching.probes_share = probes_ns / own_ns;
        self.watching.before = None;
        Ok(forced || calls * HITS_OF_A_CALL * trap_ns * WORTH < probes_ns)
    }

    /// Whether the breakpoints must go: there is more to count than they see, or they cost more than probes did.
    fn no_longer(&mut self, kernel: &Kernel, recording: &Recording) -> anyhow::Result<bool> {
        if self.watching.outdated || self.is_replaced(recording) {
            self.warnings.push(
                "a chosen function came into being again while it was counted (a module was loaded anew, or another \
                 function is called the same): its calls before that was seen are not counted"
                    .to_owned(),
            );
            return Ok(true);
        }
        if self.watching.via == Some(Via::Breakpoints) {
            return Ok(false);
        }
        let now = self.cost(kernel)?;
        let before = *self.watching.before.get_or_insert(now);
        let watches_ns = now.watches_ns - before.watches_ns + (now.program_ns - before.program_ns);
        let own_ns = (now.cpu_ns.saturating_sub(before.cpu_ns) as f64 - watches_ns).max(1.0);
        let calls = now.calls.saturating_sub(before.calls);
        let untimed = calls.saturating_sub(now.timed.saturating_sub(before.timed));
        self.watching.given_up = if untimed > MOST_UNTIMED.0 && untimed > calls / MOST_UNTIMED.1 {
            Some("too many calls end by an exception, which breakpoints do not see".to_owned())
        } else if watches_ns < TRIED_NS {
            None
        } else if watches_ns / own_ns > self.watching.probes_share * WORTH {
            Some("the functions are called too often for breakpoints".to_owned())
        } else {
            self.watching.before = Some(now);
            None
        };
        Ok(self.watching.given_up.is_some())
    }

    /// Whether something else lies where a watched code object was.
    fn is_replaced(&mut self, recording: &Recording) -> bool {
        if self.watching.checked.elapsed() < CHECK_EVERY {
            return false;
        }
        self.watching.checked = Instant::now();
        let mut gone = Vec::new();
        for (&pid, watched) in &self.watching.processes {
            let codes = watched.codes.iter();
            gone.extend(codes.filter(|key| !self.is_there(recording, pid, **key)));
        }
        for key in &gone {
            self.watching.chosen.remove(key);
        }
        !gone.is_empty()
    }

    fn is_there(&self, recording: &Recording, pid: u32, key: CodeKey) -> bool {
        let Some((python, _)) = recording.python(pid) else {
            return true;
        };
        let found = Code::from_memory(
            &ProcessMemory { pid },
            key.address,
            &python.facts,
            python.binary.format(),
        );
        let known = self
            .watching
            .chosen
            .get(&key)
            .map(|&code| recording.ledger.codes.get(code));
        found.is_ok_and(|found| Some(&found) == known)
    }

    /// Watches a process: from then on probes count none of its calls.
    fn watch(&mut self, kernel: &mut Kernel, recording: &Recording, pid: u32) -> anyhow::Result<()> {
        let (python, _) = recording.python(pid).context("it has ended")?;
        let binary = &python.binary;
        let ranges = binary.eval_loop.len();
        if !(1..=python.facts.eval_start.len()).contains(&ranges) || !binary.eval_handlers.is_empty() {
            anyhow::bail!("its evaluation loop is not in one piece");
        }
        let instance = u64::from(python.facts.instance);
        let keys: FxHashSet<CodeKey> = self
            .watching
            .chosen
            .keys()
            .copied()
            .filter(|key| key.instance == instance)
            .collect();
        let mut places: Vec<(u64, Place)> = Vec::new();
        for key in &keys {
            let name = |code: &CodeId| recording.ledger.codes.get(*code).display_name().to_owned();
            let name = self.watching.chosen.get(key).map(name).unwrap_or_default();
            if !self.is_there(recording, pid, *key) {
                anyhow::bail!("{name} is not there any more");
            }
            let instruction = binary.format().instruction;
            let found = bytecode::places(&ProcessMemory { pid }, binary.version, instruction, key.address)
                .with_context(|| name)?;
            places.extend(found.into_iter().map(|place| (key.address, place)));
        }
        if places.len() > REGISTERS {
            anyhow::bail!(
                "{} bytes would have to be watched, where calls begin and where they return, and the processor has \
                 {REGISTERS} registers for that",
                places.len()
            );
        }
        let mut watched = Watched {
            instance: python.facts.instance,
            bytes: Vec::new(),
            links: Vec::new(),
            codes: keys,
        };
        let done = self.watch_places(kernel, pid, &places, &mut watched);
        // What could not be done is undone where it is given up.
        self.watching.processes.insert(pid, watched);
        done?;
        let probed = self.probed.iter().find(|probed| probed.pid == pid);
        let facts = probed.context("it is not probed")?.facts;
        let mut hand_over = |watched| kernel.set_call_facts(pid, &CallFacts { watched, ..facts });
        hand_over(BY_PROBES_STILL)?;
        // Until whoever was on the way from a probe to the bytecode has arrived, or (preempted just there) counts twice.
        thread::sleep(HAND_OVER);
        hand_over(BY_WATCHES)
    }

    fn watch_places(
        &self,
        kernel: &mut Kernel,
        pid: u32,
        places: &[(u64, Place)],
        watched: &mut Watched,
    ) -> anyhow::Result<()> {
        for &(code, Place { address, kind }) in places {
            let key = WatchKey {
                address,
                pid: pid.into(),
            };
            let trap_ns = self.watching.trap_ns() as u64;
            watched.bytes.push(key);
            kernel.set_watch(key, &Watch { code, kind, trap_ns })?;
        }
        let mut known = FxHashSet::default();
        for round in 0..MOST_ROUNDS {
            let new: Vec<u32> = all_threads(pid)?.into_iter().filter(|&tid| known.insert(tid)).collect();
            if new.is_empty() {
                // Threads that are started from now on inherit what those that start them have.
                return Ok(());
            }
            for tid in new {
                // Whoever was started after the first was watched may have inherited as well.
                if round > 0 {
                    kernel.set_watched_twice(tid)?;
                }
                for (_, place) in places {
                    match kernel.attach_watch(tid, place.address) {
                        Ok(link) => watched.links.push(link),
                        Err(error) if is_gone(&error) => break,
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        anyhow::bail!("it starts threads too fast");
    }

    fn give_up(&mut self, kernel: &mut Kernel, recording: &Recording, reason: String) -> anyhow::Result<()> {
        self.watching.given_up = Some(reason);
        self.back_to_probes(kernel, recording)
    }

    /// Probes count again, of all processes.
    fn back_to_probes(&mut self, kernel: &mut Kernel, recording: &Recording) -> anyhow::Result<()> {
        for pid in recording.pids().collect::<Vec<_>>() {
            self.probe(kernel, recording, pid);
        }
        // None is left that is probed.
        self.watching.forget_all(kernel);
        self.watching.before = None;
        self.watching.outdated = false;
        Ok(())
    }
}

fn threads(pid: u32) -> anyhow::Result<Vec<u32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).context("its threads cannot be listed")?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// All of them: where one ends that is just being listed, the kernel leaves out those behind it (`next_tid`, fs/proc). The
/// directory's links are as many as threads, and two.
fn all_threads(pid: u32) -> anyhow::Result<Vec<u32>> {
    for _ in 0..MOST_ROUNDS {
        let found = threads(pid)?;
        let known = fs::metadata(format!("/proc/{pid}/task")).map_or(0, |task| task.nlink());
        if found.len() as u64 + 2 >= known {
            return Ok(found);
        }
    }
    anyhow::bail!("its threads cannot be listed");
}

/// Whether the thread has ended.
fn is_gone(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.and_then(io::Error::raw_os_error) == Some(libc::ESRCH)
}
