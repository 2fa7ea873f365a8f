//! A process that is stuck shows where, although nothing happens in it while it is looked at.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    python::{self, Python},
    serial::serial,
    waits::{self, Waits},
    workload::Workload,
};

#[test]
fn a_deadlock_shows_both_lines_for_the_whole_time() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        deadlock(&python).with_context(|| format!("{python}"))?;
    }
    Ok(())
}

fn deadlock(python: &Python) -> Result<()> {
    let workload = Workload::python(python, "waits_deadlock.py", &[])?;
    let outcome = waits::attach(&["-p", &workload.pid.to_string(), "-d", "1"])?
        .finish()?
        .success()?;
    let waits = Waits::of(outcome)?;
    waits.ensure_adds_up()?;
    let length = waits.report["length_ns"].as_u64().context("no length")? as f64;
    for (function, line) in workload.truth[0].as_object().context("no lines")? {
        let line = line.as_u64().context("no line")?;
        let found = waits.ns("lock", function, line)? as f64;
        ensure!(
            (found / length - 1.0).abs() <= 0.02,
            "{function}:{line} waits {found} ns of {length}: {:?}",
            waits.rows()
        );
        let rows = waits.at(function, line)?;
        ensure!(rows.iter().all(|row| row["unended_ns"] == row["total_ns"]), "{rows:?}");
    }
    Ok(())
}
