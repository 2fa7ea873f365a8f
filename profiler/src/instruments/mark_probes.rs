//! Probes of those who look at exceptions, imports or garbage collections: where each file has them, and which are in place.

use profiler_common::{group::Group, stats::Counter};
use rustc_hash::{FxHashMap, FxHashSet};

use super::Told;
use crate::{
    config::{Config, Target},
    foreign,
    governor::{Governor, Hits, SlowDown},
    orders::{Held, MarkPlace, Orders},
    process::files::{File, FileId},
    python::{allocator::NoAllocator, binary::PythonBinary, marks::NoMarks},
    recording::Recording,
    summary::{MarksSummary, Summary},
    window::Window,
};

/// Where a file has them.
pub type Find = fn(&[u8], &PythonBinary) -> Result<Vec<MarkPlace>, NoMarks>;

/// Which of them are put in place, and how.
pub type Thin = fn(&[MarkPlace]) -> Vec<MarkPlace>;

pub struct MarkProbes {
    find: Find,
    thinned: Option<Thin>,
    /// What is not seen where they are not found: `its exceptions are not seen`.
    missing: &'static str,
    /// A probe for each process, so that others do not stop there; otherwise one for all that run the file.
    by_process: bool,
    /// By [`File::serial`].
    files: FxHashMap<u64, Option<Vec<MarkPlace>>>,
    held: FxHashMap<(u64, Option<u32>), Box<dyn Held>>,
    /// Processes that are looked at, and those of which there is nothing to see.
    pids: FxHashSet<u32>,
    blind: FxHashSet<u32>,
    pub warnings: Vec<String>,
}

impl MarkProbes {
    pub fn new(config: &Config, find: Find, missing: &'static str) -> Self {
        Self {
            find,
            thinned: None,
            missing,
            by_process: matches!(config.target, Target::Pids(_)) && !config.subprocesses,
            files: FxHashMap::default(),
            held: FxHashMap::default(),
            pids: FxHashSet::default(),
            blind: FxHashSet::default(),
            warnings: Vec::new(),
        }
    }

    /// A process has a CPython. `now`: its probes are to be in place at once.
    pub fn probe(&mut self, host: &Recording, kernel: &mut dyn Orders, pid: u32, now: bool) {
        let Some((python, file)) = host.python(pid) else { return };
        if self.places(file, &python.binary).is_none() {
            self.blind.insert(pid);
            return;
        }
        self.pids.insert(pid);
        if now {
            let scope = self.by_process.then_some(pid);
            self.attach(kernel, file, scope);
        }
    }

    /// A file with a CPython is about to be run.
    pub fn probe_file(&mut self, host: &Recording, kernel: &mut dyn Orders, file: FileId) {
        let file = host.files.get(file);
        let Some(binary) = file.cpython() else { return };
        if self.places(file, binary).is_some() {
            self.attach(kernel, file, None);
        }
    }

    /// Puts the probes of all processes in place.
    pub fn attach_all(&mut self, host: &Recording, kernel: &mut dyn Orders) {
        let pids: Vec<u32> = self.pids.iter().copied().collect();
        for pid in pids {
            self.probe(host, kernel, pid, true);
        }
    }

    pub fn detach_all(&mut self) {
        self.held.clear();
    }

    /// From now on, these in place of those that are found.
    pub fn thin(&mut self, some: Thin) {
        self.thinned = Some(some);
    }

    /// Processes that are looked at.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.pids.iter().copied()
    }

    /// Whether nothing was there to look at.
    pub fn is_blind(&self) -> bool {
        self.pids.is_empty() && self.files.values().all(Option::is_none)
    }

    /// Processes whose build has no such places.
    pub fn blind(&self) -> impl Iterator<Item = u32> {
        self.blind.iter().copied()
    }

    pub fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Whether any of a file's instructions is stepped.
    pub fn has_stepped(&self) -> bool {
        let mut places = self.files.values().flatten().flatten();
        places.any(|place| crate::governor::is_stepped(place.cookie))
    }

    fn places(&mut self, file: &File, binary: &PythonBinary) -> Option<&[MarkPlace]> {
        let (find, missing) = (self.find, self.missing);
        let mut warning = None;
        let places = self.files.entry(file.serial).or_insert_with(|| {
            let bytes = file.opened.as_ref()?.map().ok()?;
            let found = foreign::parsed(|| find(&bytes, binary)).unwrap_or(Err(NoAllocator::Unreadable.into()));
            match found {
                Ok(places) => Some(places),
                Err(error) => {
                    warning = Some(format!("{}: {error}; {missing}", file.path.display()));
                    None
                }
            }
        });
        self.warnings.extend(warning);
        places.as_deref()
    }

    fn attach(&mut self, kernel: &mut dyn Orders, file: &File, scope: Option<u32>) {
        let key = (file.serial, scope);
        let (Some(Some(places)), Some(opened)) = (self.files.get(&file.serial), &file.opened) else {
            return;
        };
        if self.held.contains_key(&key) {
            return;
        }
        let thinned = self.thinned.map(|some| some(places));
        match kernel.attach_marks(opened, thinned.as_deref().unwrap_or(places), scope) {
            Ok(held) => {
                self.held.insert(key, held);
            }
            Err(error) => self.warn(format!("{error:#}; {}", self.missing)),
        }
    }

    /// Why there is nothing to tell, if no process had a CPython that is understood, and has the places.
    pub fn refusal(&self, window: &Window, what: &str) -> Option<String> {
        if !self.is_blind() {
            return None;
        }
        let reasons: Vec<String> = window
            .refused()
            .map(|(reason, _)| reason.to_owned())
            .chain(self.warnings.iter().cloned())
            .collect();
        Some(match &reasons[..] {
            [] => format!("no CPython was found in what was recorded: there are no {what} to see"),
            reasons => format!("no {what} could be seen: {}", reasons.join("; ")),
        })
    }
}

/// Tells what hits came to. `lines`: what is said above a table, unless that says it itself.
pub fn tell_hits(
    summary: &mut Summary,
    lines: Vec<String>,
    told: &Told<'_>,
    governor: Option<&Governor>,
    slow_down: SlowDown,
) {
    let counter = |counter: Counter| told.counters[counter as usize];
    summary.marks = Some(MarksSummary {
        lines,
        entry_hits: counter(Counter::EntryHits),
        return_hits: counter(Counter::ReturnHits),
        other_hits: counter(Counter::OtherHits),
        lost: counter(Counter::LostMarks),
        trap_ns: governor.map_or(0.0, Governor::trap_ns),
        slow_down,
    });
}

/// What the probes on functions have been hit so far.
pub fn hits(kernel: &dyn Orders) -> anyhow::Result<Hits> {
    // What other programs of the session take is not paid from this budget.
    let spent = |counter: Counter| kernel.counter_of(Group::Probes, counter);
    Ok(Hits {
        // Those of others are no less felt for nobody having asked for them.
        entries: spent(Counter::EntryHits)? + spent(Counter::OtherHits)?,
        stepped: spent(Counter::SteppedHits)?,
        returns: spent(Counter::ReturnHits)?,
        program_ns: spent(Counter::RunTimeNs)?,
        watch_ns: 0.0,
    })
}
