//! `cargo xtask bench`: how fast the profiler is, and how little it costs.

mod bpf_stats;
mod calls;
mod child;
mod cpu;
mod empty;
mod first_sample;
mod heap;
mod interpreters;
mod machine;
mod memory;
mod output;
mod per_sample;
mod profiler;
mod py_spy;
mod report;
mod scratch;
mod site;
mod slow_down;
mod spread;
mod start_up;
mod table;
mod usage;
mod waits;
mod workload;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Measure what profiling costs
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    Calls(calls::Options),
    Cpu(cpu::Options),
    Memory(heap::Options),
    Report(report::Options),
    Waits(waits::Options),
}

pub fn run(options: &Options) -> Result<()> {
    match &options.bench {
        Bench::Calls(options) => calls::run(options),
        Bench::Cpu(options) => cpu::run(options),
        Bench::Memory(options) => heap::run(options),
        Bench::Report(options) => report::run(options),
        Bench::Waits(options) => waits::run(options),
    }
}
