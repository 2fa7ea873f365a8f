//! Memory that several have: each sort is told apart, and what is there once counts once.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    memory::{self, Memory, ask, ensure_within, line_of, number},
    python,
    serial::serial,
};
use serde_json::Value;

#[test]
fn shared_memory_files_and_copies_are_told_apart_and_counted_once() -> Result<()> {
    let _serial = serial();
    // By its pid, and as a child, the worker has what it copies.
    each_told_apart(|pid, worker| vec!["-p".to_owned(), format!("{pid},{worker}")])?;
    each_told_apart(|pid, _| vec!["-s".to_owned(), "-p".to_owned(), pid.to_string()])
}

fn each_told_apart(chosen: impl Fn(u32, u64) -> Vec<String>) -> Result<()> {
    let python = python::any()?;
    let mut workload = memory::run(&python, "shared.py", &[])?;
    let worker = workload.truth[0]["worker"].as_u64().context("no worker")?;
    let chosen = chosen(workload.pid, worker);
    let mut arguments: Vec<&str> = chosen.iter().map(String::as_str).collect();
    arguments.extend(["--top", "20", "--format", "json"]);
    let attached = Memory::command(&arguments)?.start()?;
    let bytes = number(&ask(&mut workload, "go")?, "/bytes")?;
    let taken = attached.stop()?;
    let report: Value = serde_json::from_slice(&taken.outcome.stdout)?;
    let rows = report["rows"].as_array().context("no rows")?;
    let of = |comment: &str, sort: &str| -> Result<i64> {
        let line = line_of("shared.py", comment)?;
        let found = rows
            .iter()
            .filter(|row| row["line"].as_u64() == Some(line.into()) && row["sort"].as_str().unwrap_or("") == sort);
        Ok(found.filter_map(|row| row["inuse_bytes"].as_i64()).sum())
    };
    let shown = || taken.outcome.stderr.clone();
    ensure_within("the block", of("# writes the block", "[shared memory]")?, bytes, 0.05).with_context(shown)?;
    ensure_within("the file", of("# reads the file", "[pages of files]")?, bytes, 0.05).with_context(shown)?;
    ensure_within("copies", of("# copies", "[copies after a fork]")?, bytes, 0.05).with_context(shown)?;
    // The worker is resident with it as well, and it is there once.
    let again = of("# reads the block", "[shared memory]")?;
    ensure!(
        again < bytes / 20,
        "{again} bytes of the block count twice: {}",
        shown()
    );
    ensure!(taken.outcome.stderr.contains("counted once"), "{}", shown());
    Ok(())
}
