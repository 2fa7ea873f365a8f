//! What one allocation costs in exact mode, and what the trap alone costs.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Bench;
use super::programs::ALLOCATE;
use crate::bench::table::{Table, Unit};
use crate::command;

/// Some 80,000 allocations each: two seconds at most.
const ROUNDS: u64 = 8;

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    table.group("CPU time of the target for one event");
    let trap = bench.programs.trap()?;
    let (mut emulated, mut stepped, mut returned) = (Vec::new(), Vec::new(), Vec::new());
    let (mut per_hit, mut per_pair, mut slow_down) = (Vec::new(), Vec::new(), Vec::new());
    let mut fails = None;
    let script = bench.programs.path(ALLOCATE);
    for _ in bench.pairs.each() {
        let said = command::output(&mut Command::new(&trap))?;
        let said: Value = serde_json::from_str(&said).context("the trap's program did not print JSON")?;
        for (to, name) in [
            (&mut emulated, "emulated_ns"),
            (&mut stepped, "stepped_ns"),
            (&mut returned, "return_ns"),
        ] {
            to.extend(said[name].as_f64().map(|nanoseconds| nanoseconds / 1e3));
        }
        if fails.is_some() {
            continue;
        }
        let exact = || -> Result<(f64, f64, f64)> {
            let mut target = bench
                .workloads
                .start(&bench.interpreters.main, &script, &[], Some(bench.cpu))?;
            let mut cpu = |rounds: u64| -> Result<f64> {
                let answer = target.ask(&rounds.to_string())?;
                let cpu = answer["cpu_s"].as_f64().context("the workload did not tell cpu_s")?;
                Ok(cpu / rounds as f64)
            };
            cpu(ROUNDS)?;
            let without = cpu(ROUNDS * 4)?;
            let pid = target.pid();
            let watching = bench.watch.attach(pid, &["--exact", "--max-overhead", "1000"])?;
            watching.settle();
            let answer = target.ask(&ROUNDS.to_string())?;
            let with = answer["cpu_s"].as_f64().context("the workload did not tell cpu_s")? / ROUNDS as f64;
            let watched = watching.stop()?;
            let (allocations, frees) = (
                watched.number("/memory/exact/allocations")?,
                watched.number("/memory/exact/frees")?,
            );
            let extra_us = (with - without) * ROUNDS as f64 * 1e6;
            Ok((
                extra_us / (allocations + frees).max(1.0),
                extra_us / allocations.max(1.0),
                with / without,
            ))
        };
        match exact() {
            Ok((hit, pair, ratio)) => {
                per_hit.push(hit);
                per_pair.push(pair);
                slow_down.push(ratio);
            }
            Err(error) => fails = Some(format!("{error:#}")),
        }
    }
    table.figure("a trap, instruction emulated", Unit::Microseconds, emulated, None);
    table.figure("a trap, instruction stepped", Unit::Microseconds, stepped, None);
    table.figure("a return probe", Unit::Microseconds, returned, None);
    match fails {
        Some(why) => table.absent("exact mode", why),
        None => {
            table.figure("exact mode, an allocation or a free", Unit::Microseconds, per_hit, None);
            table.figure(
                "exact mode, an allocation and its free",
                Unit::Microseconds,
                per_pair,
                None,
            );
            table.figure("exact mode, the worst case's CPU time", Unit::Ratio, slow_down, None);
        }
    }
    Ok(())
}
