//! `profiler waits`, run as a user runs it, and what it wrote.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::profiler::{Outcome, Profiler, Recording};

const PATIENCE: Duration = Duration::from_secs(10);

/// `profiler waits -f json` of these, attached.
pub fn attach(arguments: &[&str]) -> Result<Recording> {
    let waits = Profiler::bare().args(["waits", "-f", "json", "-o", "-"]);
    waits.args(arguments).start()
}

/// The table of these, which end by themselves.
pub fn table(arguments: &[&str]) -> Result<String> {
    let waits = Profiler::bare().args(["waits", "-o", "-"]).args(arguments);
    let outcome = waits.start()?.finish()?.success()?;
    Ok(String::from_utf8_lossy(&outcome.stdout).into_owned())
}

/// Waits until the first thread of a process is in a system call.
pub fn until_in_call(pid: u32, call: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(format!("/proc/{pid}/syscall"))?;
        if text.split(' ').next() == Some(&*call.to_string()) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it is not in call {call}: {text}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What was written as JSON.
#[derive(Debug)]
pub struct Waits {
    pub report: Value,
    pub said: String,
}

impl Waits {
    pub fn of(outcome: Outcome) -> Result<Self> {
        let report = serde_json::from_slice(&outcome.stdout)
            .with_context(|| format!("no JSON: {}", String::from_utf8_lossy(&outcome.stdout)))?;
        Ok(Self {
            report,
            said: outcome.stderr,
        })
    }

    /// Waits whose stack was lost, as it says of itself: their time is known, and not their line.
    pub fn lost_stacks(&self) -> u64 {
        let lost = self.said.lines().find_map(|line| line.trim().strip_prefix("lost: "));
        let mut kinds = lost.into_iter().flat_map(|lost| lost.split(", "));
        let count = kinds.find_map(|kind| {
            kind.strip_suffix(" stacks of waits")
                .or_else(|| kind.strip_suffix(" stack of waits"))
        });
        count.map_or(0, |count| count.parse().unwrap_or(u64::MAX))
    }

    pub fn rows(&self) -> Result<&[Value]> {
        Ok(self.report["rows"].as_array().context("no rows")?)
    }

    /// Rows of this function, at this line.
    pub fn at(&self, function: &str, line: u64) -> Result<Vec<&Value>> {
        let rows = self.rows()?.iter();
        Ok(rows
            .filter(|row| row["function"] == function && row["line"] == line)
            .collect())
    }

    /// Nanoseconds waited for a cause at a line.
    pub fn ns(&self, cause: &str, function: &str, line: u64) -> Result<u64> {
        let rows = self.at(function, line)?;
        Ok(rows
            .into_iter()
            .filter(|row| row["cause"] == cause)
            .filter_map(|row| row["total_ns"].as_u64())
            .sum())
    }

    /// What waits for a CPU at a line are part of what a program measures there.
    pub fn ns_with_ready(&self, cause: &str, function: &str, line: u64) -> Result<u64> {
        Ok(self.ns(cause, function, line)? + self.ns("ready", function, line)?)
    }

    pub fn threads(&self) -> Result<&[Value]> {
        Ok(self.report["threads"].as_array().context("no threads")?)
    }

    /// For each thread, time on a CPU and all causes must be the time that it existed.
    pub fn ensure_adds_up(&self) -> Result<()> {
        for thread in self.threads()? {
            let elapsed = thread["elapsed_ns"].as_u64().context("no elapsed time")?;
            let on_cpu = thread["on_cpu_ns"].as_u64().context("no time on a CPU")?;
            let waiting = thread["waiting_ns"].as_object().context("no waiting time")?;
            let waiting: u64 = waiting.values().filter_map(Value::as_u64).sum();
            let accounted = (on_cpu + waiting) as f64;
            // Of a thread that lives for milliseconds, its beginning before it first gets a CPU is more than a hundredth.
            let tolerated = (0.01 * elapsed as f64).max(1e6);
            ensure!(
                (accounted - elapsed as f64).abs() <= tolerated,
                "of {elapsed} ns of a thread, {accounted} are accounted for: {thread}"
            );
        }
        Ok(())
    }
}
