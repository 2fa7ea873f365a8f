//! `cargo xtask bench memory`: the memory profiler against its goals, beside memray and tracemalloc, in one run.

mod attach;
mod footprint;
mod peers;
mod per_hit;
mod programs;
mod slow_down;
mod watch;

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use self::peers::Memray;
use self::programs::Programs;
use self::watch::Watch;
use super::interpreters::Interpreters;
use super::site::{Benchmark, Common, Pairs};
use super::workload::Workloads;

/// Build the profiler and measure what watching memory costs, beside memray and tracemalloc
///
/// Takes about ten minutes on a machine that does nothing else. The table goes to standard output. Needs root (through
/// sudo, unless this is run as root), gcc and CPython 3.12 from pyenv; memray comes from PyPI, into target/bench/memray.
/// A missed goal is no failure.
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
    /// What four programs lose to each way of watching
    SlowDown,
    /// From the start to the first data, and from Ctrl-C to the end
    Attach,
    /// The profiler's own memory with a million pages and a million blocks
    Footprint,
    /// One hit in exact mode against what the trap alone costs
    PerHit,
}

/// What every section needs.
struct Bench {
    watch: Watch,
    /// Or why there is none.
    memray: Result<Memray, String>,
    interpreters: Interpreters,
    workloads: Workloads,
    programs: Programs,
    pairs: Pairs,
    /// Where targets are pinned. The profilers run where they like.
    cpu: usize,
}

/// How long a portion of work takes when nobody watches.
const LENGTH: Duration = Duration::from_millis(1500);

pub fn run(options: &Options) -> Result<()> {
    Benchmark {
        name: "memory",
        install: peers::install,
        make: &|site| {
            let memray = Memray::find().map_err(|error| format!("{error:#}"));
            match &memray {
                Ok(memray) => site.table.note(format!("beside it: {}", memray.version)),
                Err(why) => eprintln!("xtask: going on without memray: {why}"),
            }
            Ok(Bench {
                watch: Watch::new(site.binary, site.scratch.to_owned()),
                memray,
                programs: Programs::make(site.scratch)?,
                workloads: Workloads::unpack(site.scratch)?,
                interpreters: Interpreters::find()?,
                pairs: site.pairs,
                cpu: site.cpu,
            })
        },
        sections: &[
            (Section::SlowDown, "slow-down", slow_down::measure),
            (Section::Attach, "attaching and detaching", attach::measure),
            (Section::Footprint, "footprint", footprint::measure),
            (Section::PerHit, "cost of a hit", per_hit::measure),
        ],
        only: &options.only,
        also: &[],
    }
    .run(&options.common)
}
