//! `cargo xtask bench cpu`: the CPU profiler against its goals, in one run.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::interpreters::Interpreters;
use super::machine::{self, Machine};
use super::profiler::Profiler;
use super::py_spy::{self, PySpy};
use super::scratch::Scratch;
use super::table::Table;
use super::workload::Workloads;
use super::{first_sample, memory, output, per_sample, slow_down, start_up};
use crate::{build, command, root, setup, workspace};

/// Build the profiler and measure it against its goals, beside py-spy
///
/// Takes about ten minutes on a machine that does nothing else. The table goes to standard output. Needs root (through
/// sudo, unless this is run as root) and CPython 3.12 from pyenv; py-spy comes from PyPI, into target/bench/venv. A
/// missed goal is no failure.
#[derive(Args)]
pub struct Options {
    /// How often everything is measured; fewer than 5 give no result worth quoting
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,

    /// How long one measurement takes, in seconds
    #[arg(long, value_name = "S", default_value_t = 2.5, value_parser = seconds)]
    seconds: f64,

    /// Where the figures go as JSON, with each single measurement [default: target/bench/cpu.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Measure only this; can be given more than once, or as a comma-separated list
    #[arg(long, value_name = "SECTION", value_delimiter = ',')]
    only: Vec<Section>,

    /// Measure although the machine is busy
    #[arg(long)]
    anyway: bool,

    /// Measure this binary: build and install nothing
    #[arg(long, value_name = "FILE")]
    profiler: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// What a CPU-bound CPython loses
    SlowDown,
    /// CPU time for one sample, in the kernel and in user space
    PerSample,
    /// Memory with 50 Python processes
    Memory,
    /// From the start to the first sample
    FirstSample,
    /// From Ctrl-C to the end, with 100,000 samples
    Output,
    /// Start-up with few and with many processes on the machine
    StartUp,
}

/// What every section needs.
pub struct Bench {
    pub profiler: Profiler,
    /// Or why there is none.
    pub py_spy: Result<PySpy, String>,
    pub interpreters: Interpreters,
    pub workloads: Workloads,
    pairs: usize,
    pub length: Duration,
    /// Where targets are pinned. The profilers run where they like.
    pub cpu: usize,
    pub cpus: usize,
}

impl Bench {
    /// Counts the pairs, aloud.
    pub fn pairs(&self) -> impl Iterator<Item = usize> + use<> {
        let pairs = self.pairs;
        (0..pairs).inspect(move |pair| eprintln!("xtask:   pair {} of {pairs}", pair + 1))
    }
}

pub fn run(options: &Options) -> Result<()> {
    let binary = match &options.profiler {
        Some(binary) => binary.clone(),
        None => {
            setup::ensure()?;
            let binary = build::profiler(true)?;
            py_spy::install();
            binary
        }
    };
    // Before root takes over: the file is then the user's, and not being able to write it is told at once.
    let json = match &options.json {
        Some(file) => file.clone(),
        None => workspace::root().join("target/bench/cpu.json"),
    };
    check_writable(&json)?;
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
        profiler: Profiler::new(binary, scratch.path().to_owned()),
        py_spy: PySpy::find(scratch.path().to_owned()).map_err(|error| format!("{error:#}")),
        interpreters: Interpreters::find()?,
        workloads: Workloads::unpack(scratch.path())?,
        pairs: options.pairs as usize,
        length: Duration::from_secs_f64(options.seconds),
        // The last one: the first takes most of the interrupts.
        cpu: machine.cpus - 1,
        cpus: machine.cpus,
    };
    match &bench.py_spy {
        Ok(py_spy) => table.note(format!("beside it: {}", py_spy.version)),
        Err(why) => eprintln!("xtask: going on without py-spy: {why}"),
    }

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
    let result = json!({
        "bench": "cpu",
        "machine": machine.json(),
        "pairs": options.pairs,
        "seconds": options.seconds,
        "took_s": started.elapsed().as_secs_f64(),
        "stolen_share": stolen,
        "goals": goals,
        "missed": missed,
        "table": table.json(),
    });
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
    let sections: [(Section, &str, Measure); 6] = [
        (Section::SlowDown, "slow-down", slow_down::measure),
        (Section::PerSample, "cost of a sample", per_sample::measure),
        (Section::Memory, "memory", memory::measure),
        (Section::FirstSample, "first sample", first_sample::measure),
        (Section::Output, "output", output::measure),
        (Section::StartUp, "start-up", start_up::measure),
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

/// Makes sure that the file can be written, without destroying what is in it before there is something better.
fn check_writable(file: &Path) -> Result<()> {
    if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(())
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.2..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("it is not a number of seconds between 0.2 and 600".to_owned()),
    }
}
