//! `cargo xtask bench cpu`: the CPU profiler against its goals, in one run.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::interpreters::Interpreters;
use super::profiler::Profiler;
use super::py_spy::{self, PySpy};
use super::site::{Benchmark, Common, Pairs};
use super::workload::Workloads;
use super::{first_sample, memory, output, per_sample, slow_down, start_up};

/// Build the profiler and measure it against its goals, beside py-spy
///
/// Takes about ten minutes on a machine that does nothing else. The table goes to standard output. Needs root (through
/// sudo, unless this is run as root) and CPython 3.12 from pyenv; py-spy comes from PyPI, into target/bench/venv. A
/// missed goal is no failure.
#[derive(Args)]
pub struct Options {
    /// How long one measurement takes, in seconds
    #[arg(long, value_name = "S", default_value_t = 2.5, value_parser = seconds)]
    seconds: f64,

    /// Measure only this; can be given more than once, or as a comma-separated list
    #[arg(long, value_name = "SECTION", value_delimiter = ',')]
    only: Vec<Section>,

    #[command(flatten)]
    common: Common,
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
    pub pairs: Pairs,
    pub length: Duration,
    /// Where targets are pinned. The profilers run where they like.
    pub cpu: usize,
    pub cpus: usize,
}

pub fn run(options: &Options) -> Result<()> {
    Benchmark {
        name: "cpu",
        install: py_spy::install,
        make: &|site| {
            let py_spy = PySpy::find(site.scratch.to_owned()).map_err(|error| format!("{error:#}"));
            match &py_spy {
                Ok(py_spy) => site.table.note(format!("beside it: {}", py_spy.version)),
                Err(why) => eprintln!("xtask: going on without py-spy: {why}"),
            }
            Ok(Bench {
                profiler: Profiler::new(site.binary, site.scratch.to_owned()),
                py_spy,
                interpreters: Interpreters::find()?,
                workloads: Workloads::unpack(site.scratch)?,
                pairs: site.pairs,
                length: Duration::from_secs_f64(options.seconds),
                cpu: site.cpu,
                cpus: site.cpus,
            })
        },
        sections: &[
            (Section::SlowDown, "slow-down", slow_down::measure),
            (Section::PerSample, "cost of a sample", per_sample::measure),
            (Section::Memory, "memory", memory::measure),
            (Section::FirstSample, "first sample", first_sample::measure),
            (Section::Output, "output", output::measure),
            (Section::StartUp, "start-up", start_up::measure),
        ],
        only: &options.only,
        also: &[("seconds", json!(options.seconds))],
    }
    .run(&options.common)
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.2..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("it is not a number of seconds between 0.2 and 600".to_owned()),
    }
}
