//! The profiler's own memory when it has much to remember.

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use super::Bench;
use super::programs::HOLD;
use super::watch::Watching;
use crate::bench::table::{Table, Unit};
use crate::bench::usage;

const MILLION: &str = "1000000";
const GOAL_MIB: f64 = 128.0;
const MIB: f64 = (1 << 20) as f64;

/// So slowly that every page is followed: 3,300 a second.
const PORTIONS: u32 = 80;
const PORTION: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(300);

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    // Every other page, so that no two of them are one range.
    let touch = bench.programs.touch_in_c()?;
    let mut pages = bench.workloads.start(&touch, "", &["hold"], None)?;
    let watching = bench.watch.attach(pages.pid(), &[])?;
    pages.ask(MILLION)?;
    report(
        "1 M live pages that came at once",
        watching,
        ("/memory/faults", 0.99e6),
        table,
    )?;
    drop(pages);

    let mut pages = bench.workloads.start(&touch, "", &["hold"], None)?;
    let watching = bench.watch.attach(pages.pid(), &[])?;
    for _ in 0..PORTIONS {
        pages.ask(&PORTION.to_string())?;
        thread::sleep(PAUSE);
    }
    report(
        "80,000 live pages that came one by one",
        watching,
        ("/memory/faults_followed", f64::from(PORTIONS * PORTION)),
        table,
    )?;
    drop(pages);

    let script = bench.programs.path(HOLD);
    let mut blocks = bench.workloads.start(&bench.interpreters.main, &script, &[], None)?;
    let modes = ["--exact", "--max-overhead", "1000", "--max-live", "1100000"];
    let watching = bench.watch.attach(blocks.pid(), &modes)?;
    blocks.ask(MILLION)?;
    report(
        "1 M live blocks, exact mode",
        watching,
        ("/memory/exact/allocations", 0.99e6),
        table,
    )
}

/// `seen` is where the summary tells how much there was, and the least that it must be: a profiler that sees nothing needs
/// no memory.
fn report(what: &str, watching: Watching, (seen, least): (&str, f64), table: &mut Table) -> Result<()> {
    watching.settle();
    let resident = usage::max_resident_bytes(watching.pid())?;
    let watched = watching.stop()?;
    let (maps, seen) = (watched.number("/cost/map_bytes")?, watched.number(seen)?);
    if seen < least {
        bail!("{what}: it saw only {seen}");
    }
    table.group(format!("the profiler's memory with {what}"));
    let mut row = |what: &str, bytes: f64, goal: Option<f64>| {
        table.figure(what, Unit::Mebibytes, vec![bytes / MIB], goal);
    };
    row("resident and in kernel maps", resident as f64 + maps, Some(GOAL_MIB));
    row("resident while watching", resident as f64, None);
    row("kernel maps and rings", maps, None);
    row("resident, at most", watched.ended.max_resident_bytes as f64, None);
    table.lost(what, watched.lost());
    Ok(())
}
