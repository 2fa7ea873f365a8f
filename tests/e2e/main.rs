//! The profiler against real interpreters. Run as root by `cargo xtask test`; see `src/lib.rs` for the harness.
//!
//! Names of tests are claims. Every claim about Python is checked with every interpreter there is, and a failure names
//! those that break it.

mod agent;
mod calls_begin;
mod calls_counts;
mod calls_output;
mod calls_ratios;
mod calls_safety;
mod calls_times;
mod calls_watch;
mod chain;
mod command;
mod cpus;
mod cycles;
mod deep;
mod diff;
mod dump_core;
mod dump_safety;
mod dump_tasks;
mod dump_threads;
mod dump_values;
mod errors;
mod exceptions;
mod families;
mod flight;
mod flight_kinds;
mod formats;
mod free_threaded;
mod gc;
mod gil;
mod hostile;
mod hosts;
mod imports;
mod launchers;
mod machine;
mod memory_exact;
mod memory_leak;
mod memory_pages;
mod memory_processes;
mod memory_reports;
mod memory_safety;
mod memory_server;
mod memory_shared;
mod memory_victim;
mod memory_watchpoints;
mod musl;
mod names;
mod native;
mod objects;
mod page;
mod readers;
mod recorded;
mod reentrancy;
mod renewed;
mod safety;
mod sampled;
mod selection;
mod shares;
mod short_lived;
mod soak;
mod summary;
mod tasks;
mod timeline;
mod top;
mod unsupported;
mod waits_accounts;
mod waits_causes;
mod waits_exec;
mod waits_gil;
mod waits_held;
mod waits_io;
mod waits_min;
mod waits_quota;
mod waits_services;
mod waits_stalls;
mod waits_stuck;
mod waits_wakers;
mod wall;
mod whole_stacks_complete;
mod whole_stacks_containers;
mod whole_stacks_hard;
mod whole_stacks_interleaving;
mod whole_stacks_perf;
mod whole_stacks_tree;
mod why_findings;

/// How often is often enough for a test: a slice of 3.4 ms gets one or two samples. Well away from a multiple of the kernel's
/// tick (100, 250, 300 or 1000 a second), at which tasks take turns: of those that share a CPU one would be met too often
/// for as long as the two keep step.
const RATE: &str = "467";
const HERTZ: f64 = 467.0;

/// How many of the samples that CPU time should give there must be: some are missing only if they were lost. On a virtual
/// machine there can be more, because a process is not charged for the time that the host has taken from it.
const COMPLETE: std::ops::RangeInclusive<f64> = 0.93..=1.25;

/// Fails unless two shares are within three points of each other.
fn ensure_close(what: &str, found: f64, expected: f64) -> anyhow::Result<()> {
    anyhow::ensure!(
        (found - expected).abs() <= 0.03,
        "{what}: {:.1} % of the samples, but {:.1} % of the time",
        found * 100.0,
        expected * 100.0,
    );
    Ok(())
}
