//! Counting calls of chosen functions by hardware breakpoints on their bytecode (`--via breakpoints`), where probes on the
//! evaluation loop would be hit by all calls.
//!
//! Probes come first: which code objects are meant is known when they are called. When each function that was named has
//! been called in each process, counting changes hands (`CallFacts::watched`), for good, and the probes go. A process
//! that cannot be watched keeps its probes, and is named.

use std::{
    collections::hash_map::Entry,
    fs,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use profiler_common::{
    python::{BY_WATCHES, CallFacts, CodeKey, Watch, WatchKey},
    stats::Counter,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{Calls, Window};
use crate::{
    calls::Timing,
    config::{CallsConfig, Via},
    cost::monotonic_ns,
    governor::watch_cost_ns,
    orders::{Breakpoint, Orders},
    python::{bytecode, code::Code, codes::CodeId, memory::ProcessMemory},
    recording::Recording,
    summary::many,
};

/// Debug registers of x86.
const REGISTERS: usize = 4;
/// Before so many calls were timed, it is not asked what would be better.
const CALLS_SEEN: u64 = 1;
/// Nor before so much was spent, as long as times are good.
const SPENT_NS: f64 = 5e6;
/// What a stop at a breakpoint takes, in about: 9 µs in the virtual machine where it was measured.
const WATCH_NS: f64 = 10_000.0;
/// How often it is looked whether the functions are still what they were.
const CHECK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Watching {
    wanted: Wanted,
    /// Code objects of chosen functions, of all processes.
    chosen: FxHashSet<(CodeKey, CodeId)>,
    processes: FxHashMap<u32, Watched>,
    /// Processes that cannot be watched.
    refused: FxHashSet<u32>,
    /// By address: processes that were forked from one share them.
    links: FxHashMap<u64, Box<dyn Breakpoint>>,
    /// What a hit costs.
    trap_ns: Option<f64>,
    /// Calls that took less than is taken off for the stop.
    too_short: u64,
    since: Option<Instant>,
    length: Duration,
    under_way: u64,
    /// Of breakpoints that are gone.
    hits: u64,
    /// While their cost was measured.
    hits_before: u64,
    checked: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Never,
    /// Where probes are seen to cost more.
    WhereBetter,
    /// Where probes are seen to cost more, it is said that breakpoints would cost less.
    Told,
    Always,
}

impl Wanted {
    fn of(wanted: &CallsConfig, in_virtual_machine: bool) -> Self {
        match wanted.via {
            Via::Breakpoints => Self::Always,
            // Windows are what was asked for instead.
            Via::Auto if wanted.duty.is_some() || wanted.functions.is_empty() => Self::Never,
            Via::Auto if in_virtual_machine => Self::Told,
            Via::Auto => Self::WhereBetter,
            Via::Probes => Self::Never,
        }
    }
}

/// Whether breakpoints are as safe as on a processor of one's own: they are in no virtual machine.
///
/// Until Linux 6.14 KVM could load an old DR6 when it went back into a guest by its fast path ("KVM fixes for 6.14 part 1":
/// "Load the guest's DR6 outside of the innermost .vcpu_run() loop"). A stop whose DR6 reads 0 is taken for INT1 by the guest's
/// kernel (`exc_debug_user` in arch/x86/kernel/traps.c), and ends the program by SIGTRAP. A guest cannot see which KVM it has.
pub fn in_virtual_machine() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        const HYPERVISOR: u32 = 1 << 31;
        std::arch::x86_64::__cpuid(1).ecx & HYPERVISOR != 0
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

struct Watched {
    /// Without code's identities.
    codes: Vec<(CodeKey, CodeId)>,
    bytes: Vec<(u64, Watch)>,
}

impl Watching {
    pub fn new(wanted: &CallsConfig) -> Self {
        Self {
            wanted: Wanted::of(wanted, in_virtual_machine()),
            chosen: FxHashSet::default(),
            processes: FxHashMap::default(),
            refused: FxHashSet::default(),
            links: FxHashMap::default(),
            trap_ns: None,
            too_short: 0,
            since: None,
            length: Duration::ZERO,
            under_way: 0,
            hits: 0,
            hits_before: 0,
            checked: Instant::now(),
        }
    }

    /// A code object of a chosen function is called.
    pub fn choose(&mut self, key: CodeKey, code: CodeId) {
        if self.wanted != Wanted::Never {
            self.chosen.insert((key.anyone(), code));
        }
    }

    /// A process is not watched any more: probes see its calls, or nobody does.
    pub fn forget(&mut self, kernel: &mut dyn Orders, pid: u32) {
        self.refused.remove(&pid);
        let Some(watched) = self.processes.remove(&pid) else {
            return;
        };
        for (address, _) in watched.bytes {
            kernel.remove_watch(watch_key(address, pid));
            if !self.addresses().any(|other| other == address)
                && let Some(link) = self.links.remove(&address)
            {
                self.hits += link.end().unwrap_or_default();
            }
        }
        if self.processes.is_empty()
            && let Some(since) = self.since.take()
        {
            self.length += since.elapsed();
        }
    }

    pub fn forget_all(&mut self, kernel: &mut dyn Orders) {
        for pid in self.processes.keys().copied().collect::<Vec<_>>() {
            self.forget(kernel, pid);
        }
    }

    /// Hits that the program has seen.
    pub fn seen(&self, kernel: &dyn Orders) -> anyhow::Result<u64> {
        Ok(kernel.counter(Counter::WatchHits)?.saturating_sub(self.hits_before))
    }

    /// What a hit costs; 0 as long as there were none.
    pub fn trap_ns(&self) -> f64 {
        self.trap_ns.unwrap_or(0.0)
    }

    /// What a stop takes, if there may have been any.
    pub fn stop(&self) -> Option<Duration> {
        (!self.length().is_zero()).then(|| Duration::from_nanos(self.trap_ns() as u64))
    }

    /// A call has a time. The kernel side tells one nanosecond of what was over sooner than the stop that it takes off.
    pub fn note_time(&mut self, took_ns: u64) {
        self.too_short += u64::from(took_ns == 1 && self.stop().is_some());
    }

    /// How long processes have been watched.
    pub fn length(&self) -> Duration {
        self.length + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How often they were hit.
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Calls under way when counting changed hands.
    pub fn under_way(&self) -> u64 {
        self.under_way
    }

    fn addresses(&self) -> impl Iterator<Item = u64> {
        let bytes = self.processes.values().flat_map(|watched| &watched.bytes);
        bytes.map(|&(address, _)| address)
    }
}

impl Calls {
    /// Looks whether counting should change hands.
    pub(super) fn follow_watches(&mut self, kernel: &mut dyn Orders, recording: &Recording) -> anyhow::Result<()> {
        if self.watching.wanted == Wanted::Never || !matches!(self.window, Window::Open { .. }) {
            return Ok(());
        }
        for pid in self.watching.processes.keys().copied().collect::<Vec<_>>() {
            if recording.python(pid).is_none() {
                self.watching.forget(kernel, pid);
            }
        }
        if self.watching.checked.elapsed() >= CHECK_EVERY {
            self.watching.checked = Instant::now();
            self.look_for_changes(recording);
        }
        let pids = self.probed.iter().map(|probed| probed.pid);
        let by_probes: Vec<u32> = pids
            .filter(|&pid| recording.python(pid).is_some() && !self.watching.processes.contains_key(&pid))
            .collect();
        let refused = &self.watching.refused;
        let waiting: Vec<u32> = by_probes.iter().copied().filter(|pid| !refused.contains(pid)).collect();
        let is_learned = |&pid: &u32| self.is_complete(recording, &self.chosen_in(recording, pid));
        if waiting.is_empty() || !waiting.iter().all(is_learned) {
            return Ok(());
        }
        let unasked = self.watching.wanted != Wanted::Always;
        if unasked && !self.probes_cost_more(kernel)? {
            return Ok(());
        }
        if self.watching.wanted == Wanted::Told {
            self.watching.wanted = Wanted::Never;
            self.warnings.push(
                "hardware breakpoints would slow it down less (`--via breakpoints`); in a virtual machine they have to be asked \
                 for: with a KVM from before 6.14 on the host one can, rarely, end the program"
                    .to_owned(),
            );
            return Ok(());
        }
        for pid in waiting {
            if let Err(error) = self.watch(kernel, recording, pid) {
                self.watching.forget(kernel, pid);
                self.watching.refused.insert(pid);
                if !unasked {
                    self.warnings
                        .push(format!("process {pid}: {error:#}; its calls are counted by probes"));
                }
            }
        }
        if unasked {
            if !self.watching.refused.is_empty() {
                // The times of one function are either all good, or none.
                self.watching.forget_all(kernel);
                self.watching.wanted = Wanted::Never;
                for probed in &self.probed {
                    kernel.set_call_facts(probed.pid, &probed.facts)?;
                }
                return Ok(());
            }
            // Nor are they timed as they should be: the program was slowed down, and stood still while breakpoints came.
            self.timing.values_mut().for_each(Timing::leave_out);
            self.timed_since_ns = monotonic_ns();
            self.begin_anew(kernel);
        }
        if by_probes.iter().all(|pid| self.watching.processes.contains_key(pid)) {
            let until = monotonic_ns();
            let probed = self.attached.iter().filter(|((_, scope), _)| scope.is_none());
            self.handed_over
                .extend(probed.map(|(&(file, _), &since)| (file, since..until)));
            self.detach(kernel);
        }
        Ok(())
    }

    /// Whether probes have cost the program, or the times of the functions that were named, more than breakpoints would have.
    fn probes_cost_more(&self, kernel: &dyn Orders) -> anyhow::Result<bool> {
        let seen = |timing: &Timing| timing.count + timing.missed_entries;
        let calls: u64 = self.timing.values().map(seen).sum();
        if calls < CALLS_SEEN {
            return Ok(false);
        }
        let hits = kernel.counter(Counter::EntryHits)? + kernel.counter(Counter::ReturnHits)?;
        let spoiled = self.timing.values().any(Timing::is_mostly_ours);
        let by_watches_ns = (2 * calls) as f64 * WATCH_NS;
        let spent_ns = self.governor.as_ref().map_or(0, |governor| governor.spent().as_nanos()) as f64;
        Ok(hits > 2 * calls && (spoiled || spent_ns > SPENT_NS) && spent_ns > 2.0 * by_watches_ns)
    }

    /// Code of the functions that were named, as far as it was called in the process.
    fn chosen_in(&self, recording: &Recording, pid: u32) -> Vec<(CodeKey, CodeId)> {
        let Some((python, _)) = recording.python(pid) else {
            return Vec::new();
        };
        let instance = u64::from(python.facts.instance);
        let chosen = self.watching.chosen.iter().copied();
        chosen.filter(|(key, _)| key.instance == instance).collect()
    }

    /// Whether code of each function that was named is among these.
    fn is_complete(&self, recording: &Recording, codes: &[(CodeKey, CodeId)]) -> bool {
        self.patterns.iter().all(|pattern| {
            codes.iter().any(|(key, code)| {
                let main = self.mains.get(&key.instance).and_then(Option::as_ref);
                pattern.matches(recording.ledger.codes.get(*code), main)
            })
        })
    }

    /// Watches a process: from then on probes count none of its calls.
    fn watch(&mut self, kernel: &mut dyn Orders, recording: &Recording, pid: u32) -> anyhow::Result<()> {
        let (python, _) = recording.python(pid).context("it has ended")?;
        let binary = &python.binary;
        let ranges = binary.eval_loop.len();
        if !(1..=python.facts.eval_start.len()).contains(&ranges) || !binary.eval_handlers.is_empty() {
            anyhow::bail!("its evaluation loop is not in one piece");
        }
        let trap_ns = match self.watching.trap_ns {
            Some(trap_ns) => trap_ns,
            None => {
                let measured = watch_cost_ns(kernel).context("there are no hardware breakpoints to be had")?;
                self.watching.hits_before = kernel.counter(Counter::WatchHits)?;
                *self.watching.trap_ns.insert(measured)
            }
        };
        let mut codes = self.chosen_in(recording, pid);
        codes.retain(|&(key, code)| is_there(recording, pid, key, code));
        if !self.is_complete(recording, &codes) {
            anyhow::bail!("a function given is not any more where it was called");
        }
        let mut bytes: Vec<(u64, Watch)> = Vec::new();
        for (key, code) in &codes {
            let name = || format!("`{}`", recording.ledger.codes.get(*code).display_name());
            let instruction = binary.format().instruction;
            let header = python.facts.header_growth();
            let places = bytecode::places(&ProcessMemory { pid }, binary.version, instruction, key.address, header);
            bytes.extend(places.with_context(name)?.into_iter().map(|place| {
                let watch = Watch {
                    code: key.address,
                    kind: place.kind,
                    trap_ns: trap_ns as u64,
                };
                (place.address, watch)
            }));
        }
        let new = || bytes.iter().map(|&(address, _)| address);
        let all: FxHashSet<u64> = self.watching.addresses().chain(new()).collect();
        if all.len() > REGISTERS {
            let name =
                |(_, code): &(CodeKey, CodeId)| format!("`{}`", recording.ledger.codes.get(*code).display_name());
            anyhow::bail!(
                "{}: {} bytes would have to be watched in all, where calls begin and where they return, and the processor \
                 has {REGISTERS} registers for that",
                codes.iter().map(name).collect::<Vec<_>>().join(", "),
                all.len()
            );
        }
        // What cannot be done is undone by the caller.
        let watched = Watched {
            codes: codes.clone(),
            bytes: bytes.clone(),
        };
        self.watching.processes.insert(pid, watched);
        for (address, watch) in bytes {
            kernel.set_watch(watch_key(address, pid), &watch)?;
            if let Entry::Vacant(link) = self.watching.links.entry(address) {
                link.insert(kernel.attach_watch(address)?);
            }
        }
        let probed = self.probed.iter().find(|probed| probed.pid == pid);
        let facts = CallFacts {
            watched: BY_WATCHES,
            ..probed.context("it is not probed")?.facts
        };
        kernel.set_call_facts(pid, &facts)?;
        let under_way = kernel.calls_under_way().into_iter();
        let is_chosen = |address: &u64| codes.iter().any(|(key, _)| key.address == *address);
        self.watching.under_way += under_way.filter(is_chosen).count() as u64;
        self.watching.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Warns, once, of what breakpoints do not see: code that came to lie in the place of a watched function's, and code
    /// of another function with a name that was given, which a sample has shown.
    pub(super) fn look_for_changes(&mut self, recording: &Recording) {
        let Watching { chosen, processes, .. } = &mut self.watching;
        let codes = &recording.ledger.codes;
        for (&pid, watched) in processes {
            watched.codes.retain(|&(key, code)| {
                let there = is_there(recording, pid, key, code);
                if !there {
                    self.warnings.push(format!(
                        "process {pid}: `{}` is not any more where it was (its module was loaded anew, or it was thrown \
                         away): calls of what has taken its place are not counted",
                        codes.get(code).display_name()
                    ));
                }
                there
            });
            let Some((python, _)) = recording.python(pid) else {
                continue;
            };
            let instance = u64::from(python.facts.instance);
            let main = self.mains.get(&instance).and_then(Option::as_ref);
            for (address, code) in recording.codes_of(pid) {
                let known = codes.get(code);
                let key = CodeKey { address, instance };
                if self.patterns.iter().any(|pattern| pattern.matches(known, main)) && chosen.insert((key, code)) {
                    self.warnings.push(format!(
                        "process {pid}: another `{}` ran, which had not been called when breakpoints were set: its calls \
                         are not counted",
                        known.display_name()
                    ));
                }
            }
        }
    }

    /// Says what is missing that nobody else speaks of: hits, and the times of calls that ended by an exception.
    pub(super) fn warn_of_missing(&mut self, kernel: &dyn Orders, recording: &Recording) {
        if self.watching.length().is_zero() {
            return;
        }
        let seen = self.watching.seen(kernel).unwrap_or_default();
        if self.watching.hits > seen {
            self.warnings.push(format!(
                "the kernel did not let {} of {} hits of breakpoints be seen: as many calls, or times of calls, may be \
                 missing",
                self.watching.hits - seen,
                self.watching.hits
            ));
        }
        if self.watching.too_short > 0 {
            self.warnings.push(format!(
                "{} took less time than the stop at a breakpoint, and their time is told as 1 ns: --via probes times \
                 short calls",
                many(self.watching.too_short, "call")
            ));
        }
        let mut calls: FxHashMap<CodeId, u64> = FxHashMap::default();
        for (key, count) in &self.counted {
            if let Some(code) = self.codes.get(key).filter(|code| self.chosen.contains(code)) {
                *calls.entry(*code).or_default() += count.calls;
            }
        }
        for (code, calls) in calls {
            let timing = self.timing.get(&code);
            let ended = timing.map_or(0, |timing| timing.count + timing.missed_entries + timing.left_out);
            if calls > ended {
                let name = recording.ledger.codes.get(code).display_name();
                self.warnings.push(format!(
                    "{} of {calls} calls of `{name}` have no time: they ended by an exception, or had not ended when \
                     counting changed hands or stopped",
                    calls - ended
                ));
            }
        }
    }
}

fn watch_key(address: u64, pid: u32) -> WatchKey {
    WatchKey {
        address,
        pid: pid.into(),
    }
}

/// Whether a code object lies where it was, as far as that can be seen: of a process that has ended it cannot.
fn is_there(recording: &Recording, pid: u32, key: CodeKey, code: CodeId) -> bool {
    let Some((python, _)) = recording.python(pid) else {
        return true;
    };
    let memory = ProcessMemory { pid };
    let found = Code::from_memory(&memory, key.address, &python.facts, python.binary.format());
    match found {
        Ok(found) => found == *recording.ledger.codes.get(code),
        Err(_) => !has_memory(pid),
    }
}

/// Whether a process has not ended yet: one that has may be a zombie, whose memory is gone.
fn has_memory(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/statm")).is_ok_and(|sizes| !sizes.starts_with(b"0 "))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        config::Config,
    };

    #[test]
    fn a_process_that_has_ended_has_no_memory() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        // It is a zombie until it is waited for.
        while has_memory(pid) {
            std::thread::yield_now();
        }
        assert!(fs::exists(format!("/proc/{pid}/stat")).unwrap());
        child.wait().unwrap();
        assert!(!has_memory(pid) && has_memory(std::process::id()));
    }
    #[test]
    fn in_a_virtual_machine_breakpoints_have_to_be_asked_for() {
        let wanted = |arguments: &[&str], in_virtual_machine| {
            let words = [&["profiler", "calls", "-p", "1"], arguments].concat();
            let Command::Calls(typed) = Cli::try_parse_from(words).expect("typed").command else {
                unreachable!("calls were typed");
            };
            let calls = Config::from_calls_cli(typed).expect("a configuration").calls;
            Wanted::of(&calls.expect("calls"), in_virtual_machine)
        };
        let one = ["--function", "f"];
        assert_eq!(wanted(&one, false), Wanted::WhereBetter);
        assert_eq!(wanted(&one, true), Wanted::Told);
        for virtual_machine in [false, true] {
            let explicit = [&one[..], &["--via", "breakpoints"]].concat();
            assert_eq!(wanted(&explicit, virtual_machine), Wanted::Always);
            let probes = [&one[..], &["--via", "probes"]].concat();
            assert_eq!(wanted(&probes, virtual_machine), Wanted::Never);
            assert_eq!(wanted(&[], virtual_machine), Wanted::Never);
        }
    }
}
