//! `cargo xtask bench waits`: what following waits costs, beside what else tells of them, in one run.

mod slow_down;
mod stuck;
mod watcher;
mod web;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use self::watcher::Watchers;
use super::interpreters::Interpreters;
use super::machine::{self, Machine};
use super::py_spy;
use super::scratch::Scratch;
use super::table::Table;
use super::workload::Workloads;
use crate::{build, command, root, setup, workspace};

/// Build the profiler and measure what following waits costs, beside py-spy and perf
///
/// Takes about ten minutes on a machine that does nothing else. The table goes to standard output. Needs root (through
/// sudo, unless this is run as root) and CPython 3.12 from pyenv; py-spy, FastAPI and uvicorn come from PyPI, into
/// target/bench, and wrk from Debian. Without perf there is no `perf sched`. A missed goal is no failure.
#[derive(Args)]
pub struct Options {
    /// How often everything is measured; fewer than 5 give no result worth quoting
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,

    /// How long one measurement takes, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1500, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    length: u64,

    /// Where the figures go as JSON, with each single measurement [default: target/bench/waits.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Measure only this; can be given more than once, or as a comma-separated list
    #[arg(long, value_name = "SECTION", value_delimiter = ',')]
    only: Vec<Section>,

    /// Measure although the machine is busy
    #[arg(long)]
    anyway: bool,

    /// Measure this binary: build nothing
    #[arg(long, value_name = "FILE")]
    profiler: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Two threads that hand a lock to each other
    Locks,
    /// A program that never waits
    Busy,
    /// Others on the machine, by the switch
    Others,
    /// FastAPI at full load
    Web,
    /// From the start to the answer, of a process that is stuck
    Stuck,
}

/// What every section needs.
struct Bench {
    watchers: Watchers,
    interpreters: Interpreters,
    workloads: Workloads,
    pairs: usize,
    length: Duration,
    /// Where targets are pinned. The profilers run where they like.
    cpu: usize,
}

impl Bench {
    /// Counts the pairs, aloud.
    fn pairs(&self) -> impl Iterator<Item = usize> + use<> {
        let pairs = self.pairs;
        (0..pairs).inspect(move |pair| eprintln!("xtask:   pair {} of {pairs}", pair + 1))
    }
}

pub fn run(options: &Options) -> Result<()> {
    let binary = match &options.profiler {
        Some(binary) => binary.clone(),
        None => {
            setup::ensure()?;
            build::profiler(true)?
        }
    };
    py_spy::install();
    web::install();
    if !root::is_root() {
        return again_as_root(&binary);
    }

    let machine = Machine::of_this()?;
    eprintln!("xtask: {}", machine.description);
    let disturbance = machine::disturbance()?;
    if let Some(disturbance) = &disturbance
        && !options.anyway
    {
        bail!("{disturbance}: wait until it is done, or measure with --anyway");
    }

    let mut table = Table::default();
    table.note(machine.description.clone());
    if let Some(disturbance) = disturbance {
        table.note(format!("measured --anyway: {disturbance}"));
    }
    if options.pairs < 5 {
        table.note(format!("{} of at least 5 pairs: this run is no result", options.pairs));
    }

    let scratch = Scratch::new()?;
    let bench = Bench {
        watchers: Watchers::find(binary, scratch.path().to_owned()),
        interpreters: Interpreters::find()?,
        workloads: Workloads::unpack(scratch.path())?,
        pairs: options.pairs as usize,
        length: Duration::from_millis(options.length),
        // The last one: the first takes most of the interrupts.
        cpu: machine.cpus - 1,
    };

    let before = machine::CpuTimes::now()?;
    let started = Instant::now();
    let failed = measure(&bench, &options.only, &mut table);
    let stolen = machine::CpuTimes::now()?.stolen_since(&before);
    table.note(format!(
        "took {:.0} s, of whose CPU time the host took {:.1} % for others",
        started.elapsed().as_secs_f64(),
        stolen * 100.0
    ));
    let (goals, missed) = table.goals();
    table.note(format!("{missed} of {goals} goals missed"));

    print!("{}", table.text());
    let json = match &options.json {
        Some(file) => file.clone(),
        None => workspace::root().join("target/bench/waits.json"),
    };
    let result = json!({
        "bench": "waits",
        "machine": machine.json(),
        "pairs": options.pairs,
        "took_s": started.elapsed().as_secs_f64(),
        "stolen_share": stolen,
        "goals": goals,
        "missed": missed,
        "table": table.json(),
    });
    if let Some(directory) = json.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::write(&json, format!("{result:#}\n")).with_context(|| format!("cannot write {}", json.display()))?;
    eprintln!("xtask: wrote {}", json.display());
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("not everything could be measured: {}", failed.join("; "))
    }
}

/// Runs the sections that are wanted, and returns what failed: one failure does not take the others' figures away.
fn measure(bench: &Bench, only: &[Section], table: &mut Table) -> Vec<String> {
    type Measure = fn(&Bench, &mut Table) -> Result<()>;
    let sections: [(Section, &str, Measure); 5] = [
        (Section::Locks, "a lock that is handed over", slow_down::locks),
        (Section::Busy, "a program that never waits", slow_down::busy),
        (Section::Others, "others on the machine", slow_down::others),
        (Section::Web, "a web service", web::measure),
        (Section::Stuck, "a process that is stuck", stuck::measure),
    ];
    let mut failed = Vec::new();
    for (section, name, measure) in sections {
        if !only.is_empty() && !only.contains(&section) {
            continue;
        }
        eprintln!("xtask: measuring {name}");
        if let Err(error) = measure(bench, table) {
            let why = format!("{error:#}");
            table.absent(format!("the rest of {name}"), why.clone());
            failed.push(format!("{name}: {why}"));
        }
    }
    failed
}

/// The same again through sudo, with nothing left to build or to install.
fn again_as_root(binary: &Path) -> Result<()> {
    let this = std::env::current_exe().context("cannot tell where this xtask is")?;
    // sudo changes it, and pyenv's interpreters are below it.
    let names = ["HOME", "PYENV_ROOT"];
    let variables: Vec<(&str, OsString)> = names
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
        .collect();
    let mut again = root::command(this, &variables);
    again.args(std::env::args_os().skip(1));
    if !std::env::args_os().any(|argument| argument.to_string_lossy().starts_with("--profiler")) {
        again.arg("--profiler").arg(binary);
    }
    command::run(&mut again)
}
