//! Garbage collections: a probe where one begins, and one where it returns. Where a build has no such place (3.8), whether it
//! collects is looked at from outside, at random.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    time::{Duration, Instant},
};

use profiler_common::{
    mark::{MARK_COLLECT, MARK_COLLECTED},
    stats::Counter,
};

use super::{
    Change, Instrument, Needs, Picture, Tells, Told, Turn,
    content::Content,
    mark_probes::{MarkProbes, hits, tell_hits},
};
use crate::{
    collections::{Account, Looks, Process},
    config::{Config, GcConfig, MemoryFormat},
    governor::{Governor, SlowDown, TrapCost},
    name::Namer,
    orders::Orders,
    process::{files::FileId, pythons::PythonIn},
    progress::stdout_columns,
    python::{
        activity::Activity,
        collector::{self, Whereabouts},
        marks,
        memory::{ProcessMemory, ReadMemory as _},
    },
    recording::Recording,
    report::{
        Interpreter, View,
        collections::{CollectionsReport, export, table},
    },
    summary::Summary,
    window::Window,
};

/// Nobody ends it for what it costs: a collection takes longer than any probe.
const NO_LIMIT: f64 = 1e9;
/// From one look to the next, on average.
const EVERY: Duration = Duration::from_millis(10);

pub struct Collections {
    wanted: GcConfig,
    probes: MarkProbes,
    governor: Option<Governor>,
    account: Account,
    processes: Vec<Followed>,
    due: Instant,
    lost: u64,
}

struct Followed {
    process: Process,
    activity: Option<Activity>,
    whereabouts: Whereabouts,
}

impl Followed {
    fn new(pid: u32, python: &PythonIn, command: String) -> Option<Self> {
        let memory = ProcessMemory { pid };
        let runtime = python.binary.runtime.wrapping_add(python.bias);
        let head = python.binary.layout.interpreter.head;
        Some(Self {
            activity: Activity::of(python.binary.version, &memory, runtime),
            process: Process {
                pid,
                command,
                before: None,
                after: None,
                looks: None,
            },
            whereabouts: Whereabouts::new(&memory, python.binary.version, runtime, head),
        })
    }

    fn read(&self) -> Option<collector::Collector> {
        self.whereabouts.read(&ProcessMemory { pid: self.process.pid })
    }
}

impl Collections {
    pub fn new(config: &Config, wanted: &GcConfig) -> Self {
        Self {
            wanted: wanted.clone(),
            probes: MarkProbes::new(
                config,
                marks::collections,
                "how often it collects is known, but the time it takes is estimated, and lines are not known",
            ),
            governor: None,
            account: Account::default(),
            processes: Vec::new(),
            due: Instant::now(),
            lost: 0,
        }
    }

    fn take_in(&mut self, host: &mut Recording) {
        for marked in host.drain_marks(&[MARK_COLLECT, MARK_COLLECTED]) {
            self.account.take(&marked);
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        if now < self.due {
            return;
        }
        let drawn = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
        self.due = now + EVERY.mul_f64(0.5 + drawn);
        for followed in &mut self.processes {
            let (Some(looks), Some(activity)) = (&mut followed.process.looks, &followed.activity) else {
                continue;
            };
            let memory = ProcessMemory {
                pid: followed.process.pid,
            };
            // It may be gone.
            let mut word = [0; 1];
            let Whereabouts { runtime, main, .. } = followed.whereabouts;
            if !memory.read(runtime, &mut word) {
                continue;
            }
            looks.all += 1;
            looks.collecting += u64::from(activity.is_collecting(&memory, runtime, main));
        }
    }
}

impl Instrument for Collections {
    fn needs(&self) -> Needs {
        Needs {
            marks: true,
            ..Needs::default()
        }
    }

    fn expect(&mut self, host: &Recording, kernel: &mut dyn Orders, file: FileId) {
        self.probes.probe_file(host, kernel, file);
    }

    fn start(&mut self, host: &mut Recording, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        let mut governor = Governor::new(TrapCost::measure(kernel)?, NO_LIMIT, 0);
        if self.probes.has_stepped() {
            governor.expect_stepped(kernel)?;
        }
        self.governor = Some(governor);
        for followed in &mut self.processes {
            followed.process.before = followed.read();
            followed.process.command = host.command(followed.process.pid);
        }
        Ok(())
    }

    fn follow(&mut self, change: Change, host: &Recording, kernel: &mut dyn Orders) {
        let Change::Python { pid } = change else { return };
        self.probes.probe(host, kernel, pid, true);
        let Some((python, _)) = host.python(pid) else { return };
        self.processes.retain(|followed| followed.process.pid != pid);
        let Some(mut followed) = Followed::new(pid, python, String::new()) else {
            return;
        };
        if self.probes.blind().any(|blind| blind == pid) {
            followed.process.looks = Some(Looks::default());
        }
        followed.process.before = followed.read();
        self.processes.push(followed);
    }

    fn turn(&mut self, host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<Turn> {
        self.take_in(host);
        self.look();
        Ok(Turn::Goes)
    }

    fn look_soon(&self) -> Option<Duration> {
        let looks = self.processes.iter().any(|followed| followed.process.looks.is_some());
        looks.then(|| self.due.saturating_duration_since(Instant::now()))
    }

    fn stop(&mut self, host: &mut Recording, kernel: &mut dyn Orders, _recorded: Duration) -> anyhow::Result<()> {
        for followed in &mut self.processes {
            followed.process.after = followed.read();
            if followed.process.command.is_empty() {
                followed.process.command = host.command(followed.process.pid);
            }
        }
        self.probes.detach_all();
        let hits = hits(kernel)?;
        if let Some(governor) = &mut self.governor {
            governor.look(hits, 0);
        }
        Ok(())
    }

    fn finish(&mut self, host: &mut Recording, kernel: &dyn Orders) {
        self.take_in(host);
        self.account.finish();
        self.lost = kernel.counter(Counter::LostMarks).unwrap_or_default();
    }

    fn refusal(&self, window: &Window) -> Option<String> {
        if !self.processes.is_empty() {
            return None;
        }
        let reasons: Vec<&str> = window.refused().map(|(reason, _)| reason).collect();
        Some(match &reasons[..] {
            [] => "no CPython was found in what was recorded: there are no garbage collections to see".to_owned(),
            reasons => format!("no garbage collections could be seen: {}", reasons.join("; ")),
        })
    }

    fn content(&mut self, namer: &mut Namer, window: &Window, length: Duration) -> (Content, Vec<String>) {
        let processes = self.processes.iter().map(|followed| followed.process.clone()).collect();
        let (report, warnings) = CollectionsReport::new(window, namer, &self.account, processes, length, self.lost);
        (Content::Collections(Box::new(report)), warnings)
    }

    fn tell(&self, summary: &mut Summary, content: &Content, told: &Told<'_>) {
        if let Content::Collections(report) = content {
            let lines = match self.wanted.format {
                MemoryFormat::Text => Vec::new(),
                _ => table::heading(report),
            };
            tell_hits(summary, lines, told, self.governor.as_ref(), SlowDown::NONE);
        }
        summary.warnings.extend(self.probes.warnings.iter().cloned());
    }
}

impl Tells for Collections {
    fn opening(&self, what: &str) -> String {
        format!("following the garbage collections of {what}")
    }

    fn picture(&self) -> Picture {
        Picture {
            headline: "Garbage collections",
            value: 1,
            interpreter: Interpreter::Full,
        }
    }

    fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        let Content::Collections(report) = content else {
            return Ok(());
        };
        if let Some(format) = self.wanted.format.stacks() {
            return format.writer().write(&report.profile, view, out);
        }
        match self.wanted.format {
            MemoryFormat::Csv => export::write_csv(report, out),
            MemoryFormat::Json => export::write_json(report, out),
            _ => Ok(out.write_all(table::text(report, self.wanted.top, stdout_columns()).as_bytes())?),
        }
    }
}
