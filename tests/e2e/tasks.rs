//! Tasks of asyncio, by the coroutine that the loop runs.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    profiler::{Profiler, binary},
    python,
    serial::serial,
    workload::{Workload, line_of},
};
use serde_json::Value;

use crate::RATE;

/// What a report has by task: its share of all.
fn by_task(directory: &std::path::Path, file: &str, value: &str) -> Result<BTreeMap<String, f64>> {
    let output = Command::new(binary())
        .args(["report", file, "--by", "task", "--value", value, "-f", "json"])
        .current_dir(directory)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let rows = report["rows"].as_array().context("no rows")?;
    let row = |row: &Value| Some((row["name"].as_str()?.to_owned(), row["total_share"].as_f64()?));
    Ok(rows.iter().filter_map(row).collect())
}

/// Of one function, whatever it is called by its version.
fn of(tasks: &BTreeMap<String, f64>, function: &str) -> Result<f64> {
    let line = line_of("tasks.py", &format!("async def {function}("))?;
    let place = format!("tasks.py:{line})");
    let found = tasks.iter().find(|(name, _)| name.ends_with(&place));
    let (name, share) = found.with_context(|| format!("{function} in {tasks:?}"))?;
    let called = name.split(" (").next().unwrap_or_default();
    ensure!(called == function || called == format!("Shop.{function}"), "{name}");
    Ok(*share)
}

#[test]
fn cpu_time_and_waits_of_a_loop_are_told_by_task() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "tasks.py", &[])?;
        let directory = tempfile::tempdir()?;
        let there = directory.path();
        let pid = workload.pid.to_string();
        Profiler::record(&["--wall", "-r", RATE, "-d", "1", "-p", &pid, "-o", "rec.pb.gz"])
            .current_dir(there)
            .succeed()?;
        let cpu = by_task(there, "rec.pb.gz", "samples")?;
        // Three parts of five, one, and one of callbacks. On a busy machine they are few samples.
        let samples = Profiler::bare().args(["report", "rec.pb.gz", "--value", "samples", "-f", "json"]);
        let report: Value = serde_json::from_slice(&samples.current_dir(there).succeed()?.stdout)?;
        let samples = report["total"].as_f64().context("a total")?;
        ensure!(samples >= 20.0, "{samples} samples");
        for (share, expected) in [
            (of(&cpu, "alpha")?, 0.6),
            (of(&cpu, "beta")?, 0.2),
            (cpu.get("[event loop]").copied().unwrap_or(0.0), 0.2),
        ] {
            let off = 0.05 + 4.0 * (expected * (1.0 - expected) / samples).sqrt();
            ensure!((share - expected).abs() < off, "{share} instead of {expected}: {cpu:?}");
        }
        // Whoever awaits is asked, not what it calls.
        ensure!(!cpu.keys().any(|name| name.contains("inner")), "{cpu:?}");
        // A call that blocks is its task's.
        let waits = by_task(there, "rec.pb.gz", "wait")?;
        ensure!(of(&waits, "sleeper")? > 0.01, "{waits:?}");
        Ok(())
    })
}
