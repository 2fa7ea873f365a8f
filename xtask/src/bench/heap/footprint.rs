//! The profiler's own memory when it has much to remember.

use anyhow::Result;

use super::Bench;
use super::programs::HOLD;
use super::watch::Watching;
use crate::bench::table::{Table, Unit};
use crate::bench::usage;

const MILLION: &str = "1000000";
const GOAL_MIB: f64 = 128.0;
const MIB: f64 = (1 << 20) as f64;

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    // Every other page, so that no two of them are one range.
    let mut pages = bench
        .workloads
        .start(&bench.programs.touch_in_c()?, "", &["hold"], None)?;
    let watching = bench.watch.attach(pages.pid(), &[])?;
    pages.ask(MILLION)?;
    report("1 M live pages, growth mode", watching, table)?;
    drop(pages);

    let script = bench.programs.path(HOLD);
    let mut blocks = bench.workloads.start(&bench.interpreters.main, &script, &[], None)?;
    let modes = ["--exact", "--max-overhead", "1000", "--max-live", "1100000"];
    let watching = bench.watch.attach(blocks.pid(), &modes)?;
    blocks.ask(MILLION)?;
    report("1 M live blocks, exact mode", watching, table)
}

fn report(what: &str, watching: Watching, table: &mut Table) -> Result<()> {
    watching.settle();
    let resident = usage::max_resident_bytes(watching.pid())?;
    let watched = watching.stop()?;
    let maps = watched.number("/cost/map_bytes")?;
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
