//! `memory --watchpoints` names the lines that keep objects, and no others; and gives the registers back.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    profiler::Profiler,
    python,
    serial::serial,
    workload::{self, Workload},
};
use serde_json::Value;

/// Of `keeps.py`, which line makes and keeps them.
const KEEPING: [&str; 2] = ["# KEEPS records", "# KEEPS lists"];

#[test]
fn lines_that_keep_objects_are_named_and_lines_that_let_them_go_are_not() -> Result<()> {
    let _lock = serial();
    let python = python::all()?
        .into_iter()
        .find(|python| python.version == (3, 12))
        .context("no 3.12")?;
    let keeping: Vec<u64> = KEEPING
        .iter()
        .map(|comment| workload::line_of("keeps.py", comment).map(u64::from))
        .collect::<Result<_>>()?;
    let mut workload = Workload::python(&python, "keeps.py", &[])?;
    let pid = workload.pid.to_string();
    let outcome = Profiler::bare()
        .args([
            "memory",
            "-q",
            "-p",
            &pid,
            "-d",
            "12",
            "--watchpoints",
            "--max-share",
            "10%",
            "-f",
            "json",
        ])
        .run()?
        .success()?;
    let report: Value = serde_json::from_slice(&outcome.stdout).context("no JSON")?;
    let kept = &report["kept"];
    let lines = kept["lines"].as_array().with_context(|| format!("no lines: {kept}"))?;
    ensure!(!lines.is_empty(), "nothing was seen to stay: {kept}");
    for line in lines {
        let number = line["line"].as_u64().context("no line")?;
        ensure!(keeping.contains(&number), "{line} keeps nothing: {kept}");
    }
    ensure!(kept["died"].as_u64() > Some(0), "nothing was seen to go: {kept}");
    // With what is granted at once.
    let share = kept["stops_share"].as_f64().context("no share")?;
    ensure!(share < 0.15, "stops took {share} of the process's own time");
    // No stop was one too many.
    ensure!(workload.is_running()?, "it has ended");
    Ok(())
}
