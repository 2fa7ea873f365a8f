//! `cargo xtask bench waits`: what following waits costs, beside what else tells of them, in one run.

mod slow_down;
mod stuck;
mod watcher;
mod web;

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use self::watcher::Watchers;
use super::interpreters::Interpreters;
use super::py_spy;
use super::site::{Benchmark, Common, Pairs};
use super::workload::Workloads;

/// Build the profiler and measure what following waits costs, beside py-spy and perf
///
/// Takes about ten minutes on a machine that does nothing else. The table goes to standard output. Needs root (through
/// sudo, unless this is run as root) and CPython 3.12 from pyenv; py-spy, FastAPI and uvicorn come from PyPI, into
/// target/bench, and wrk from Debian. Without perf there is no `perf sched`. A missed goal is no failure.
#[derive(Args)]
pub struct Options {
    /// How long one measurement takes, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1500, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    length: u64,

    /// Measure only this; can be given more than once, or as a comma-separated list
    #[arg(long, value_name = "SECTION", value_delimiter = ',')]
    only: Vec<Section>,

    #[command(flatten)]
    common: Common,
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
    pairs: Pairs,
    length: Duration,
    /// Where targets are pinned. The profilers run where they like.
    cpu: usize,
}

pub fn run(options: &Options) -> Result<()> {
    Benchmark {
        name: "waits",
        install: || {
            py_spy::install();
            web::install();
        },
        make: &|site| {
            Ok(Bench {
                watchers: Watchers::find(site.binary, site.scratch.to_owned()),
                interpreters: Interpreters::find()?,
                workloads: Workloads::unpack(site.scratch)?,
                pairs: site.pairs,
                length: Duration::from_millis(options.length),
                cpu: site.cpu,
            })
        },
        sections: &[
            (Section::Locks, "a lock that is handed over", slow_down::locks),
            (Section::Busy, "a program that never waits", slow_down::busy),
            (Section::Others, "others on the machine", slow_down::others),
            (Section::Web, "a web service", web::measure),
            (Section::Stuck, "a process that is stuck", stuck::measure),
        ],
        only: &options.only,
        also: &[],
    }
    .run(&options.common)
}
