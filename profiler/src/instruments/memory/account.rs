//! What both ways of looking at memory have: the account of what came and went, and its report.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use profiler_common::stats::{COUNTERS, Counter};
use rustc_hash::FxHashMap;

use crate::{
    births::{self, Driver, Outcome, lines::Kept},
    config::{Config, MemoryConfig, MemoryFormat, OutputChoice, Target, Wanted},
    cost,
    humanize::bytes,
    instruments::{Picture, Told, content::Content, measured::Measured},
    invoker::{Invoker, acting},
    memory::{
        blocks::Blocks,
        event::{SiteId, What},
        report,
        space::Lost,
        watch::Watch,
    },
    objects::watch::{Censuses, Grown},
    orders::Orders,
    profile::Profile,
    progress::stdout_columns,
    python::memory::ProcessMemory,
    recording::Recording,
    report::{
        Format, Interpreter, View,
        memory::{MemoryReport, Shown, curve, difference, export, kept, nothing_came, table, victim},
        objects::grown,
        pprof,
    },
    summary::{ExactSummary, MemoryProcess, MemorySummary, Summary, many},
    window::Window,
};

/// Rows of the curve.
const CURVE_ROWS: usize = 5;

pub(super) struct Account {
    pub watch: Watch,
    wanted: MemoryConfig,
    /// The format of stacks, if the table is not what is written.
    format: Format,
    /// What an earlier recording came to.
    base: Option<Profile>,
    /// All objects, before and after.
    objects: Option<Censuses>,
    /// What came of watchpoints, until all objects have been looked at again; and the sites of births, by their numbers.
    outcome: Option<Outcome>,
    born: FxHashMap<u64, SiteId>,
    kept: Option<Kept>,
    /// What went wrong, once each.
    warnings: Vec<String>,
    /// Whether the table is on standard output, next to the summary.
    shows_table: bool,
}

impl Account {
    pub fn new(config: &Config, wanted: &MemoryConfig, command_pid: Option<u32>) -> anyhow::Result<Self> {
        let base = wanted.base.as_ref().map(read_base).transpose()?;
        let lasting = match &config.target {
            Target::Pids(pids) => pids.clone(),
            Target::Command(_) => command_pid.into_iter().collect(),
            Target::All => Vec::new(),
        };
        let blocks = match (&wanted.exact, &wanted.sampled) {
            (Some(exact), _) => Some(Blocks::new(exact.temporary_within)),
            (None, Some(sampled)) => Some(Blocks::sampled(sampled.bytes_per_sample)),
            (None, None) => None,
        };
        let watch = Watch::new(cost::monotonic_ns(), wanted.every, lasting, blocks);
        Ok(Self {
            watch: match config.is_cut() {
                true => watch.in_windows(),
                false => watch,
            },
            wanted: wanted.clone(),
            format: config.format,
            base,
            objects: wanted.objects.then(Censuses::default),
            outcome: None,
            born: FxHashMap::default(),
            kept: None,
            warnings: Vec::new(),
            shows_table: config.output == OutputChoice::Stdout
                && wanted.format == MemoryFormat::Text
                && wanted.base.is_none(),
        })
    }

    pub fn warn(&mut self, line: String) {
        /// On a machine on which ever new programs run there are ever new ones.
        const MOST: usize = 100;
        if !self.warnings.contains(&line) && self.warnings.len() < MOST {
            self.warnings.push(line);
        }
    }

    /// Processes that the kernel has ended for want of memory, since the last time.
    pub fn worth_keeping(&mut self) -> Vec<String> {
        let fallen: Vec<_> = self.watch.take_fallen().collect();
        fallen.iter().filter_map(victim::sentence).collect()
    }

    /// From now on everything is seen.
    pub fn start(&mut self, host: &Recording) {
        let pids: Vec<u32> = host.pids().collect();
        self.watch.begin(cost::monotonic_ns());
        // What is seen of the system begins when this is done.
        if let Some(objects) = &mut self.objects {
            objects.begin(&pids);
        }
        for pid in pids {
            self.watch.adopt(pid, host.comm(pid));
        }
    }

    pub fn take_in(&mut self, host: &mut Recording) {
        let mut events = host.drain_memory_events();
        if self.wanted.watchpoints.is_some() {
            /// Those of an hour at a thousand a second.
            const MOST: usize = 1 << 22;
            events.retain(|event| {
                if let What::Born { number, site } = event.what
                    && self.born.len() < MOST
                {
                    self.born.insert(number, site);
                }
                !matches!(event.what, What::Born { .. })
            });
        }
        self.watch.take(&events, |pid| host.comm(pid).to_owned());
        self.watch.tick(cost::monotonic_ns());
    }

    /// Nothing is seen any more from here on: before the probes are taken away one after the other, which would leave
    /// blocks that only come, or only go.
    pub fn stop(&mut self) {
        self.watch.stop(cost::monotonic_ns());
    }

    /// Probes are gone, and processes are still known.
    pub fn finish(&mut self) {
        self.watch.finish();
        let mut outcome = self.outcome.take();
        if let Some(objects) = &mut self.objects {
            let (pid, survivors) = outcome
                .as_ref()
                .map_or((0, &[][..]), |outcome| (outcome.pid, &*outcome.survivors));
            let memory = ProcessMemory { pid };
            let addresses: Vec<u64> = survivors.iter().map(|survivor| survivor.address).collect();
            let mut hanging = objects.end(pid, &addresses);
            // What is gone may have been there when it was looked at.
            for (survivor, hanging) in survivors.iter().zip(&mut hanging) {
                hanging.take_if(|_| !survivor.is_same(&memory));
            }
            let growth = objects.grown.iter().find(|grown| grown.pid == pid);
            self.kept = outcome
                .as_ref()
                .map(|outcome| Kept::new(outcome, &self.born, &hanging, growth.map(|grown| &grown.growth)));
            self.warnings.append(&mut objects.notes);
        }
        if let Some(outcome) = &mut outcome {
            self.warnings.append(&mut outcome.notes);
        }
        self.born = FxHashMap::default();
    }

    /// Has lines drawn by watchpoints, now that all objects were looked at.
    pub fn start_births(&self, kernel: &mut dyn Orders, length: Option<Duration>) -> anyhow::Result<Option<Driver>> {
        let (Some(share), Some(objects)) = (self.wanted.watchpoints, &self.objects) else {
            return Ok(None);
        };
        let watch = kernel.watchpoints().context("there are no watchpoints to be had")?;
        let wanted = births::driver::Wanted::of(share, length);
        Driver::start(objects.begun(), watch, wanted).map(Some)
    }

    /// Registers are given back, and all objects will be looked at.
    pub fn end_births(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// What became more of the objects, by process.
    fn grown(&self) -> &[Grown] {
        self.objects.as_ref().map_or(&[], |objects| &objects.grown)
    }

    /// The report, and what the user should know about missing names.
    pub fn content(&mut self, window: &Window, length: Duration) -> (Content, Vec<String>) {
        let (mut report, warnings) = report::report(
            window,
            &self.watch,
            self.kept.as_ref(),
            self.wanted.shown,
            self.wanted.source,
            length,
        );
        report.holders_told = !self.grown().is_empty();
        (Content::Memory(Box::new(report), self.base.take()), warnings)
    }

    /// A window is about to end.
    pub fn close(&mut self) {
        self.watch.close(cost::monotonic_ns());
    }

    /// What a window comes to.
    pub fn cut(&mut self, window: &Window) -> Measured {
        let older_than = match self.wanted.shown {
            Wanted::Leaks { older_than } => Some(older_than),
            Wanted::Live | Wanted::Peak | Wanted::Temporary | Wanted::Allocated => None,
        };
        Measured::Memory(Box::new(self.watch.cut(window, older_than)))
    }

    pub fn tell_windows(&self, summary: &mut Summary, counters: &[u64; COUNTERS]) {
        summary.memory = Some(self::summary(Vec::new(), None, counters, self.watch.lost()));
        summary.warnings.extend(self.warnings.iter().cloned());
    }

    pub fn tell(&self, summary: &mut Summary, content: &Content, told: &Told<'_>, exact: Option<ExactSummary>) {
        if let Content::Memory(report, _) = content {
            let lines = crate::report::memory::lines(report)
                .into_iter()
                // The table says so itself.
                .filter(|line| !self.shows_table || *line != nothing_came(report))
                .chain(
                    (!self.shows_table)
                        .then(|| victim::sentences(report))
                        .into_iter()
                        .flatten(),
                )
                .chain(self.pool_line())
                .chain(
                    (!self.shows_table)
                        .then(|| grown::lines(self.grown()))
                        .into_iter()
                        .flatten(),
                )
                .collect();
            let memory = self::summary(lines, Some(report), told.counters, self.watch.lost());
            summary.memory = Some(MemorySummary { exact, ..memory });
        }
        summary.warnings.extend(self.warnings.iter().cloned());
    }

    /// What the headline of a flame graph calls it, and which value it shows.
    pub fn picture(&self) -> Picture {
        let shown = match self.wanted.shown {
            Wanted::Allocated => Shown::Allocated,
            Wanted::Live | Wanted::Leaks { .. } | Wanted::Peak | Wanted::Temporary => Shown::Live,
        };
        Picture {
            headline: match self.wanted.shown {
                Wanted::Live => "Memory growth",
                Wanted::Leaks { .. } => "Memory that stays",
                Wanted::Peak => "Memory at its peak",
                Wanted::Temporary => "Temporary memory",
                Wanted::Allocated => "New memory",
            },
            value: shown.value(),
            // A heap's files for other programs keep all frames.
            interpreter: match self.format {
                Format::Svg | Format::Html => Interpreter::Hidden,
                _ => Interpreter::Full,
            },
        }
    }

    pub fn opening(what: &str) -> String {
        format!("watching the memory of {what}")
    }

    /// How full the pools are whose births were seen.
    fn pool_line(&self) -> Option<String> {
        let (mut pools, mut objects) = (0u64, 0u64);
        for (_, totals) in self.watch.growth().pools() {
            pools = pools.saturating_add(totals.in_use);
            objects = objects.saturating_add(totals.object_bytes);
        }
        (pools > 0).then(|| {
            format!(
                "{} with objects at the end: {} of them (--source pools).",
                many(pools, "new pool"),
                bytes(objects)
            )
        })
    }

    /// Writes the snapshots as the file at `path`.
    pub fn write_curve(&self, report: &MemoryReport, path: &Path, out: &mut dyn io::Write) -> anyhow::Result<()> {
        let Some(curve) = &report.curve else { return Ok(()) };
        let table = table::Table::new(report, self.wanted.by);
        let series = curve::series(curve, &table, self.wanted.top);
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("json") => curve::write_json(&series, out),
            Some("dat") => curve::write_mprof(report, out),
            _ => curve::write_csv(&series, out),
        }
    }

    /// Writes a report in the format that is wanted.
    pub fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        let Content::Memory(report, base) = content else {
            return Ok(());
        };
        let wanted = &self.wanted;
        if let Some(format) = wanted.format.stacks() {
            return format.writer().write(&report.profile, view, out);
        }
        if let Some(base) = base.as_ref() {
            let difference = difference::difference(base, report, wanted.by)?;
            return match wanted.format {
                MemoryFormat::Csv => difference::write_csv(&difference, out),
                MemoryFormat::Json => difference::write_json(&difference, out),
                _ => Ok(out.write_all(difference::text(&difference, wanted.top, stdout_columns()).as_bytes())?),
            };
        }
        let table = table::Table::new(report, wanted.by);
        match wanted.format {
            MemoryFormat::Csv => export::write_csv(&table, out),
            MemoryFormat::Json => export::write_json(report, &table, self.grown(), out),
            _ => {
                let mut text = grown::text(self.grown(), stdout_columns());
                text.push_str(&kept::text(report, stdout_columns()));
                text.push_str(&table::text(report, &table, wanted.top, stdout_columns()));
                let curve = curve::text(report, &table, CURVE_ROWS, stdout_columns());
                if !curve.is_empty() {
                    text.push('\n');
                    text.push_str(&curve);
                }
                Ok(out.write_all(text.as_bytes())?)
            }
        }
    }

    /// Writes what goes into a second file (`--curve`).
    pub fn write_beside(&self, content: &Content, path: &Path, out: &mut dyn io::Write) -> anyhow::Result<()> {
        match content {
            Content::Memory(report, _) => self.write_curve(report, path, out),
            _ => Ok(()),
        }
    }
}

/// What following memory came to. `lines`: in words.
pub fn summary(
    lines: Vec<String>,
    report: Option<&MemoryReport>,
    counters: &[u64; COUNTERS],
    lost: Lost,
) -> MemorySummary {
    let counter = |counter: Counter| counters[counter as usize];
    MemorySummary {
        lines,
        victims: Vec::new(),
        processes: report
            .map(|report| &*report.processes)
            .unwrap_or_default()
            .iter()
            .map(|process| MemoryProcess {
                pid: process.pid,
                comm: process.comm.clone(),
                rss_before: process.before.rss,
                rss_after: process.after.rss,
                anonymous_before: process.before.anonymous,
                anonymous_after: process.after.anonymous,
                file_before: process.before.file,
                file_after: process.after.file,
                shared_before: process.before.shared,
                shared_after: process.after.shared,
                explained_bytes: process.explained,
                explained_error_bytes: (1.96 * process.explained_variance.max(0.0).sqrt()) as u64,
                explained_share: process.explained_share(),
                started: process.started,
                exited: process.exited,
            })
            .collect(),
        faults: counter(Counter::Faults),
        faults_followed: counter(Counter::FaultsTaken),
        pools: counter(Counter::PoolBirths),
        pools_followed: counter(Counter::PoolBirthsTaken),
        calls: counter(Counter::Mappings),
        lost_events: counter(Counter::LostMemoryEvents) + counter(Counter::LostPools),
        forgotten_bytes: lost.memory.bytes,
        forgotten_pools: lost.pools,
        forgotten_mappings: lost.mappings,
        exact: None,
        sampled: None,
    }
}

fn read_base(path: &PathBuf) -> anyhow::Result<Profile> {
    const REMEDY: &str = "--base takes what an earlier `profiler memory … -o FILE.pb.gz` wrote";
    // Who may not read it is told nothing of what is in it.
    let invoker = Invoker::of_this_process()?;
    let bytes = acting(invoker.as_ref(), || fs::read(path))?
        .with_context(|| format!("failed to read {}; {REMEDY}", path.display()))?;
    // What a decoder says of bytes that are something else helps nobody: only the first, which is ours, is told.
    let base =
        pprof::read(&bytes).map_err(|error| anyhow!("{} is no such recording: {error}; {REMEDY}", path.display()))?;
    difference::check(&base).with_context(|| format!("{} is no such recording", path.display()))?;
    Ok(base)
}
