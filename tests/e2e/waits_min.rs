//! Waits that are too short to matter are left out, and how much time they were is said.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    python,
    serial::serial,
    waits::{self, Waits},
    workload::Workload,
};

#[test]
fn shorter_waits_are_left_out_and_their_time_is_told() -> Result<()> {
    let _lock = serial();
    let python = python::any()?;
    let mut workload = Workload::python(&python, "waits_short.py", &["0.05", "0.0005"])?;
    let attached = waits::attach(&["-p", &workload.pid.to_string(), "--min", "20ms"])?;
    workload.tell("go")?;
    let measured = workload.value()?;
    let waits = Waits::of(attached.stop()?)?;
    waits.ensure_adds_up()?;
    let known = |function: &str| -> Result<(u64, f64)> {
        let known = &measured[function];
        let (line, ns) = (known["line"].as_u64(), known["ns"].as_u64());
        Ok((line.context("no line")?, ns.context("no time")? as f64))
    };
    let (line, expected) = known("waits_long")?;
    let found = waits.ns("sleep", "waits_long", line)? as f64;
    ensure!((found / expected - 1.0).abs() < 0.03, "{found} ns of {expected}");
    let (line, expected) = known("waits_briefly")?;
    ensure!(waits.at("waits_briefly", line)?.is_empty(), "{:?}", waits.rows()?);
    let (ignored, count) = (&waits.report["ignored_ns"], &waits.report["ignored_count"]);
    let (ignored, count) = (
        ignored.as_u64().context("no time")? as f64,
        count.as_u64().context("no count")?,
    );
    // What it measures has some µs of each call in it, too.
    ensure!(
        (0.9..1.1).contains(&(ignored / expected)) && count >= 1000,
        "{ignored} ns in {count} waits are left out, of {expected}"
    );
    ensure!(waits.report["min_ns"] == 20_000_000, "{}", waits.report["min_ns"]);
    Ok(())
}
