//! How soon there is data, and how soon the profiler is gone.

use anyhow::Result;

use super::Bench;
use super::programs::{ALLOCATE, HOLD};
use crate::bench::table::{Table, Unit};

const GOAL_MS: f64 = 500.0;
/// Blocks that the target takes when it is watched, so that there is something to report.
const BLOCKS: &str = "300000";

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    for (what, script, modes) in [
        ("growth mode", HOLD, &[][..]),
        ("exact mode", HOLD, &["--exact", "--max-overhead", "1000"][..]),
        ("growth mode, on a busy target", ALLOCATE, &[][..]),
    ] {
        table.group(format!("attaching and detaching, {what}"));
        let (mut attached_ms, mut first_ms, mut stopping_ms) = (Vec::new(), Vec::new(), Vec::new());
        for _ in bench.pairs.each() {
            let script = bench.programs.path(script);
            let mut target = bench
                .workloads
                .start(&bench.interpreters.main, &script, &[], Some(bench.cpu))?;
            let watching = bench.watch.attach(target.pid(), modes)?;
            attached_ms.push(watching.elapsed().as_secs_f64() * 1e3);
            target.ask(if script.ends_with(HOLD) { BLOCKS } else { "20" })?;
            let watched = watching.stop()?;
            stopping_ms.push(watched.stopping.as_secs_f64() * 1e3);
            // Not every recording has one.
            first_ms.extend(
                watched
                    .number("/cost/first_sample_after_s")
                    .map(|seconds| seconds * 1e3),
            );
            table.lost("attaching", watched.lost());
        }
        table.figure(
            "from the start until it is attached",
            Unit::Milliseconds,
            attached_ms,
            GOAL_MS,
        );
        table.figure("first data after, in its own words", Unit::Milliseconds, first_ms, None);
        table.figure("from Ctrl-C to the end", Unit::Milliseconds, stopping_ms, GOAL_MS);
    }
    Ok(())
}
