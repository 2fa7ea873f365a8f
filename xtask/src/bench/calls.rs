//! `cargo xtask bench calls`: counting calls against its goals, beside cProfile, in one run.

mod budget;
mod chosen;
mod counter;
mod per_call;
mod portion;
mod programs;

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use self::counter::Counter;
use self::programs::Programs;
use super::interpreters::Interpreters;
use super::site::{Benchmark, Common, Pairs};
use super::workload::Workloads;

/// Build the profiler and measure what counting calls costs, beside cProfile
///
/// Takes about five minutes on a machine that does nothing else. The table goes to standard output. Needs root (through
/// sudo, unless this is run as root) and CPython 3.12 from pyenv; 3.10 and 3.13 are measured if they are there. A missed
/// goal is no failure.
#[derive(Args)]
pub struct Options {
    /// Measure only this; can be given more than once, or as a comma-separated list
    #[arg(long, value_name = "SECTION", value_delimiter = ',')]
    only: Vec<Section>,

    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// What a call costs when all are counted, when it is timed, and under cProfile
    PerCall,
    /// What a program loses when a function called a thousand times a second is timed
    Chosen,
    /// What it loses at most with a budget
    Budget,
}

/// What every section needs.
struct Bench {
    counter: Counter,
    interpreters: Interpreters,
    workloads: Workloads,
    programs: Programs,
    pairs: Pairs,
    /// Where targets are pinned. The profiler runs where it likes.
    cpu: usize,
}

/// What is measured is not to be ended by a budget.
const UNBOUNDED: [&str; 2] = ["--max-overhead", "1000"];

/// How long a portion of work takes when nobody watches.
const LENGTH: Duration = Duration::from_millis(1500);

pub fn run(options: &Options) -> Result<()> {
    Benchmark {
        name: "calls",
        install: || (),
        make: &|site| {
            Ok(Bench {
                counter: Counter::new(site.binary, site.scratch.to_owned()),
                programs: Programs::make(site.scratch)?,
                workloads: Workloads::unpack(site.scratch)?,
                interpreters: Interpreters::find()?,
                pairs: site.pairs,
                cpu: site.cpu,
            })
        },
        sections: &[
            (Section::PerCall, "cost of a call", per_call::measure),
            (Section::Chosen, "a chosen function", chosen::measure),
            (Section::Budget, "the budget", budget::measure),
        ],
        only: &options.only,
        also: &[],
    }
    .run(&options.common)
}
