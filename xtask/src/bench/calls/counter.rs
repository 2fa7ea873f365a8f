//! Running `profiler calls`.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::bench::child::{Child, log_to};

/// The binary and where its files go.
pub struct Counter {
    binary: PathBuf,
    directory: PathBuf,
}

/// A profiler at work.
pub struct Counting {
    child: Child,
    log: PathBuf,
    report: PathBuf,
    summary: PathBuf,
}

/// What it left behind.
pub struct Counted {
    report: Value,
    summary: Value,
}

/// What it says when it is attached.
const ATTACHED: &str = "counting ";
/// When it has said so, this is for what else it does once at the start.
const SETTLE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(120);

impl Counter {
    pub fn new(binary: PathBuf, directory: PathBuf) -> Self {
        Self { binary, directory }
    }

    /// Starts to count, and waits until it does.
    pub fn attach(&self, pid: u32, arguments: &[&str]) -> Result<Counting> {
        let file = |name: &str| self.directory.join(name);
        let (log, report, summary) = (file("calls.log"), file("calls.json"), file("summary.json"));
        // What is read is of this recording.
        for old in [&report, &summary] {
            let _ = std::fs::remove_file(old);
        }
        let mut command = Command::new(&self.binary);
        command
            .args(["calls", "--pid", &pid.to_string()])
            .args(arguments)
            .arg("--output")
            .arg(&report)
            .arg("--summary-json")
            .arg(&summary)
            .stdin(Stdio::null());
        let mut child = Child::spawn(log_to(&mut command, &log)?)?;
        child.wait_for_text(&log, ATTACHED, PATIENCE)?;
        Ok(Counting {
            child,
            log,
            report,
            summary,
        })
    }
}

impl Counting {
    pub fn settle(&self) {
        thread::sleep(SETTLE);
    }

    /// What Ctrl-C does.
    pub fn stop(mut self) -> Result<Counted> {
        self.child.signal(libc::SIGINT)?;
        let ended = self.child.wait(PATIENCE)?;
        self.child.check(&ended, &self.log)?;
        let read = |file: &PathBuf| -> Result<Value> {
            let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))
        };
        Ok(Counted {
            report: read(&self.report)?,
            summary: read(&self.summary)?,
        })
    }
}

impl Counted {
    /// How often a function was called.
    pub fn calls_of(&self, name: &str) -> Result<u64> {
        let functions = self.report["functions"].as_array().context("no functions")?;
        let is_it = |function: &&Value| function["function"] == name;
        let calls = functions.iter().find(is_it).and_then(|it| it["ncalls"].as_u64());
        calls.with_context(|| format!("{name} was not counted"))
    }

    /// A number of the report itself, such as `observed_s`.
    pub fn number(&self, name: &str) -> Result<f64> {
        let number = self.report[name].as_f64();
        number.with_context(|| format!("the report has no number {name}"))
    }

    /// What a trap costs by itself, as the profiler has measured it, in nanoseconds.
    pub fn trap_ns(&self) -> Result<f64> {
        anywhere(&self.summary, "trap_ns").context("the profiler's summary does not tell what a trap costs")
    }

    /// How often hardware breakpoints were hit.
    pub fn watch_hits(&self) -> Result<u64> {
        let hits = self.summary["calls"]["watch_hits"].as_u64();
        hits.context("the profiler's summary does not tell how often breakpoints were hit")
    }

    /// What was lost and how much of it, in the profiler's words.
    pub fn lost(&self) -> Vec<(String, u64)> {
        let reasons = self.summary["lost"].as_array().map_or(&[][..], Vec::as_slice);
        let counted = reasons
            .iter()
            .filter_map(|reason| Some((reason["what"].as_str()?.to_owned(), reason["count"].as_u64()?)));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

/// A number by its name, wherever it is.
fn anywhere(value: &Value, name: &str) -> Option<f64> {
    match value {
        Value::Object(fields) => {
            let here = fields.get(name).and_then(Value::as_f64);
            here.or_else(|| fields.values().find_map(|value| anywhere(value, name)))
        }
        Value::Array(values) => values.iter().find_map(|value| anywhere(value, name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_and_the_trap_are_found_and_what_is_missing_is_an_error() {
        let counted = Counted {
            report: json!({"observed_s": 1.5, "functions": [{"function": "f", "ncalls": 3}]}),
            summary: json!({"cost": {"x": 1}, "calls": {"trap_ns": 680.0}, "lost": []}),
        };
        assert_eq!(counted.calls_of("f").unwrap(), 3);
        assert!(counted.calls_of("g").is_err());
        assert_eq!(counted.number("observed_s").unwrap(), 1.5);
        assert_eq!(counted.trap_ns().unwrap(), 680.0);
        assert_eq!(counted.lost(), []);
    }
}
