//! How soon it is said where a process is stuck.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Bench;
use crate::bench::child::Child;
use crate::bench::table::{Table, Unit};
use crate::bench::workload::STUCK;

/// Half of the time there is.
const RECORDING: &str = "500ms";
const PATIENCE: Duration = Duration::from_secs(60);

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    let workload = bench.workloads.start(&bench.interpreters.main, STUCK, &[], None)?;
    let mut answers = Vec::new();
    for _ in bench.pairs.each() {
        let mut command = Command::new(&bench.watchers.profiler);
        command.args(["waits", "--pid", &workload.pid().to_string(), "--duration", RECORDING]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = Instant::now();
        let ended = Child::spawn(&mut command)?.wait(PATIENCE)?;
        ensure!(ended.status.success(), "`profiler waits` failed: {}", ended.status);
        answers.push(started.elapsed().as_secs_f64() * 1e3);
    }
    table.group("a process that is stuck");
    table.figure(
        format!("`profiler waits -d {RECORDING}`, from its start to its end"),
        Unit::Milliseconds,
        answers,
        Some(1000.0),
    );
    Ok(())
}
