//! What a recording of memory does besides: following it, probing pymalloc, and writing its reports.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use profiler_common::{
    python::{ARENAS_STATIC, PoolFacts},
    stats::{COUNTERS, Counter},
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    content::Content,
    exact::{self, Exact},
};
use crate::{
    bpf::Kernel,
    config::{Config, MemoryConfig, MemoryFormat, OutputChoice, Target, Wanted},
    cost,
    humanize::bytes,
    memory::{blocks::Blocks, report, watch::Watch},
    process::files::FileId,
    profile::Profile,
    python::{
        allocator::{
            self, Allocators, NoAllocator,
            pool::{PoolProbe, UsableArenas},
            table::Domain,
        },
        memory::ProcessMemory,
    },
    recording::Recording,
    report::{
        View,
        memory::{MemoryReport, Shown, curve, difference, export, nothing_came, table},
        pprof,
    },
    summary::{ExactSummary, MemoryProcess, MemorySummary, many},
};

/// The value that reports of stacks show.
pub fn value(wanted: &MemoryConfig) -> usize {
    match wanted.shown {
        Wanted::Allocated => Shown::Allocated.value(),
        Wanted::Live | Wanted::Leaks { .. } | Wanted::Peak | Wanted::Temporary => Shown::Live.value(),
    }
}

/// Rows of the curve.
const CURVE_ROWS: usize = 5;

pub struct Memory {
    watch: Watch,
    wanted: MemoryConfig,
    /// What an earlier recording came to.
    base: Option<Profile>,
    /// What is known of a file's allocators; nothing where they were not found.
    allocators: FxHashMap<FileId, Option<Allocators>>,
    /// Probes that are in place: in a file, for a process or for all.
    probed: FxHashSet<(FileId, Option<u32>)>,
    /// A probe for each process, so that others do not stop there; otherwise one for all that run the file.
    by_process: bool,
    exact: Option<Exact>,
    /// In exact mode, the C library's allocator as well.
    native: bool,
    /// What went wrong, once each.
    warnings: Vec<String>,
    /// Whether the table is on standard output, next to the summary.
    shows_table: bool,
}

impl Memory {
    pub fn new(config: &Config, wanted: &MemoryConfig, command_pid: Option<u32>) -> anyhow::Result<Self> {
        let base = wanted.base.as_ref().map(read_base).transpose()?;
        let lasting = match &config.target {
            Target::Pids(pids) => pids.clone(),
            Target::Command(_) => command_pid.into_iter().collect(),
            Target::All => Vec::new(),
        };
        let by_process = matches!(config.target, Target::Pids(_)) && !config.subprocesses;
        let blocks = wanted.exact.as_ref().map(|exact| Blocks::new(exact.temporary_within));
        Ok(Self {
            watch: Watch::new(cost::monotonic_ns(), wanted.every, lasting, blocks),
            wanted: wanted.clone(),
            base,
            allocators: FxHashMap::default(),
            probed: FxHashSet::default(),
            by_process,
            native: config.native_stacks,
            exact: wanted.exact.map(|exact| Exact::new(exact, by_process)),
            warnings: Vec::new(),
            shows_table: config.output == OutputChoice::Stdout
                && wanted.format == MemoryFormat::Text
                && wanted.base.is_none(),
        })
    }

    /// From now on everything is seen.
    pub fn start(&mut self, recording: &Recording) {
        let pids: Vec<u32> = recording.pids().collect();
        for pid in pids {
            self.watch.adopt(pid, recording.comm(pid));
        }
    }

    pub fn take_in(&mut self, recording: &mut Recording) {
        let events = recording.drain_memory_events();
        self.watch.take(&events, |pid| recording.comm(pid).to_owned());
        self.watch.tick(cost::monotonic_ns());
    }

    /// Nothing is seen any more from here on: before the probes are taken away one after the other, which would leave
    /// blocks that only come, or only go.
    pub fn stop(&mut self, kernel: &mut Kernel, recording: &Recording) {
        self.watch.stop(cost::monotonic_ns());
        if self.exact.is_some() {
            recording.pids().for_each(|pid| kernel.remove_target(pid));
        }
    }

    pub fn finish(&mut self) {
        self.watch.finish();
    }

    /// Whether the probes of exact mode have cost the program what they may.
    pub fn is_spent(&mut self, kernel: &Kernel) -> anyhow::Result<bool> {
        self.exact.as_mut().map_or(Ok(false), |exact| exact.is_spent(kernel))
    }

    /// Puts probes into the C library of a process, if exact mode is to see it.
    pub fn probe_native(&mut self, kernel: &mut Kernel, recording: &Recording, pid: u32) {
        if let Some(exact) = self.exact.as_mut().filter(|_| self.native)
            && let Err(error) = exact.probe_native(kernel, recording, pid)
        {
            self.warnings.push(format!(
                "process {pid}: {error:#}; what its C library allocates is not seen"
            ));
        }
    }

    /// Puts probes into a process: where its pymalloc takes its pools, or, in exact mode, into all its allocators.
    pub fn probe(&mut self, kernel: &mut Kernel, recording: &Recording, pid: u32) {
        if let Some(exact) = &mut self.exact {
            if let Err(error) = exact.probe(kernel, recording, pid, &mut self.warnings) {
                self.warnings
                    .push(format!("process {pid}: {error:#}; its allocations are not seen"));
            }
            return;
        }
        let Some((python, file)) = recording.python(pid) else {
            return;
        };
        let Some(opened) = &file.opened else { return };
        let allocators = self.allocators.entry(python.file).or_insert_with(|| {
            let found = match opened.map() {
                Ok(bytes) => allocator::inspect(&bytes, &python.binary),
                Err(_) => Err(NoAllocator::NotPython),
            };
            if let Err(error) = found.as_ref().and_then(|found| found.pool.as_ref()) {
                self.warnings.push(format!(
                    "{}: {error}; its small objects are followed by page only",
                    file.path.display()
                ));
            }
            found.ok()
        });
        let Some(allocators) = allocators else { return };
        let in_use = allocators
            .tables
            .in_use(&ProcessMemory { pid }, python.bias, Domain::Object);
        if let Some(line) = in_use.and_then(|in_use| exact::not_pymalloc(pid, in_use))
            && !self.warnings.contains(&line)
        {
            self.warnings.push(line);
        }
        let Ok(probe) = allocators.pool else { return };
        let facts = pool_facts(&probe, python.bias);
        let scope = self.by_process.then_some(pid);
        let attached = kernel.set_pool_facts(pid, &facts).and_then(|()| {
            if self.probed.insert((python.file, scope)) {
                kernel.attach_pools(&opened.path_to_open(), probe.place.file_offset, scope)
            } else {
                Ok(())
            }
        });
        if let Err(error) = attached {
            let warning = format!("{error:#}; small objects are followed by page only");
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.warnings.iter().cloned()
    }

    /// The report, and what the user should know about missing names.
    pub fn content(&mut self, recording: &Recording, length: Duration) -> (Content, Vec<String>) {
        let (report, warnings) = report::report(recording, &self.watch, self.wanted.shown, self.wanted.source, length);
        (Content::Memory(Box::new(report), self.base.take()), warnings)
    }

    pub fn summary(&self, report: &MemoryReport, counters: &[u64; COUNTERS]) -> MemorySummary {
        let counter = |counter: Counter| counters[counter as usize];
        let lost = self.watch.lost();
        MemorySummary {
            lines: crate::report::memory::lines(report)
                .into_iter()
                // The table says so itself.
                .filter(|line| !self.shows_table || *line != nothing_came(report))
                .chain(self.pool_line())
                .collect(),
            processes: report
                .processes
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
            exact: self.exact.as_ref().and_then(|exact| {
                let governor = exact.governor()?;
                Some(ExactSummary {
                    allocations: counter(Counter::Allocations),
                    frees: counter(Counter::Frees),
                    entry_hits: counter(Counter::EntryHits),
                    return_hits: counter(Counter::ReturnHits),
                    trap_ns: governor.trap_ns(),
                    slow_down: governor.slow_down(),
                    hidden_share: exact.hidden_share(),
                    lost_blocks: counter(Counter::LostBlocks),
                    without_stack: counter(Counter::LostSites),
                    sizes: self
                        .watch
                        .blocks
                        .as_ref()
                        .map(|blocks| blocks.sizes.to_vec())
                        .unwrap_or_default(),
                })
            }),
        }
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
    pub fn write_curve(&self, content: &Content, path: &Path, out: &mut dyn io::Write) -> anyhow::Result<()> {
        let Content::Memory(report, _) = content else {
            return Ok(());
        };
        let Some(curve) = &report.curve else { return Ok(()) };
        let table = table::Table::new(report, self.wanted.by);
        let series = curve::series(curve, &table, self.wanted.top);
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("json") => curve::write_json(&series, out),
            _ => curve::write_csv(&series, out),
        }
    }
}

fn pool_facts(probe: &PoolProbe, bias: u64) -> PoolFacts {
    let (arenas_register, arenas) = match probe.usable_arenas {
        UsableArenas::Static { address } => (ARENAS_STATIC, address.wrapping_add(bias)),
        UsableArenas::InState { register, offset } => (register.0.into(), offset.into()),
    };
    PoolFacts {
        class_register: probe.size_class.0.into(),
        arenas_register,
        arenas,
        pool_bytes: probe.pool_bytes,
        reserved: 0,
    }
}

fn read_base(path: &PathBuf) -> anyhow::Result<Profile> {
    const REMEDY: &str = "--base takes what an earlier `profiler memory … -o FILE.pb.gz` wrote";
    let bytes = fs::read(path).with_context(|| format!("failed to read {}; {REMEDY}", path.display()))?;
    // What a decoder says of bytes that are something else helps nobody: only the first, which is ours, is told.
    let base =
        pprof::read(&bytes).map_err(|error| anyhow!("{} is no such recording: {error}; {REMEDY}", path.display()))?;
    difference::check(&base).with_context(|| format!("{} is no such recording", path.display()))?;
    Ok(base)
}

/// What the headline of a flame graph calls it.
pub fn headline(wanted: &MemoryConfig) -> &'static str {
    match wanted.shown {
        Wanted::Live => "Memory growth",
        Wanted::Leaks { .. } => "Memory that stays",
        Wanted::Peak => "Memory at its peak",
        Wanted::Temporary => "Temporary memory",
        Wanted::Allocated => "New memory",
    }
}

/// Writes a report in the format that is wanted.
pub fn write(
    report: &MemoryReport,
    wanted: &MemoryConfig,
    base: Option<&Profile>,
    view: &View,
    out: &mut dyn io::Write,
) -> anyhow::Result<()> {
    if let Some(format) = wanted.format.stacks() {
        return format.writer().write(&report.profile, view, out);
    }
    if let Some(base) = base {
        let difference = difference::difference(base, report, wanted.by)?;
        return match wanted.format {
            MemoryFormat::Csv => difference::write_csv(&difference, out),
            MemoryFormat::Json => difference::write_json(&difference, out),
            _ => Ok(out.write_all(difference::text(&difference, wanted.top, columns()).as_bytes())?),
        };
    }
    let table = table::Table::new(report, wanted.by);
    match wanted.format {
        MemoryFormat::Csv => export::write_csv(&table, out),
        MemoryFormat::Json => export::write_json(report, &table, out),
        _ => {
            let mut text = table::text(report, &table, wanted.top, columns());
            let curve = curve::text(report, &table, CURVE_ROWS, columns());
            if !curve.is_empty() {
                text.push('\n');
                text.push_str(&curve);
            }
            Ok(out.write_all(text.as_bytes())?)
        }
    }
}

/// The width of the terminal that standard output is, or a usual one.
pub fn columns() -> usize {
    const USUAL: usize = 120;
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes a `winsize`, which `size` is.
    let known = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0;
    if known && size.ws_col > 0 {
        size.ws_col.into()
    } else {
        USUAL
    }
}
