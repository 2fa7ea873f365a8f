//! Running `profiler memory`.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::bench::child::{Child, Ended, log_to};

/// The binary and where its files go.
pub struct Watch {
    binary: PathBuf,
    pub directory: PathBuf,
}

/// A profiler at work.
pub struct Watching {
    child: Child,
    log: PathBuf,
    summary: PathBuf,
    started: Instant,
}

/// What it left behind.
pub struct Watched {
    summary: Value,
    pub ended: Ended,
    /// From the signal that stopped it to its end.
    pub stopping: Duration,
}

/// What it says when it is attached.
const ATTACHED: &str = "watching ";
/// When it has said so, this is for what else it does once at the start.
const SETTLE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(120);

impl Watch {
    pub fn new(binary: PathBuf, directory: PathBuf) -> Self {
        Self { binary, directory }
    }

    /// Starts to watch a process, and waits until it does.
    pub fn attach(&self, pid: u32, arguments: &[&str]) -> Result<Watching> {
        let file = |name: &str| self.directory.join(name);
        let (log, summary) = (file("watch.log"), file("watch.json"));
        // A summary that is read is the one of this recording.
        let _ = std::fs::remove_file(&summary);
        let mut command = Command::new(&self.binary);
        command
            .args(["memory", "--pid", &pid.to_string()])
            .args(arguments)
            .arg("--summary-json")
            .arg(&summary)
            .stdin(Stdio::null());
        let started = Instant::now();
        let mut child = Child::spawn(log_to(&mut command, &log)?)?;
        child.wait_for_text(&log, ATTACHED, PATIENCE)?;
        Ok(Watching {
            child,
            log,
            summary,
            started,
        })
    }
}

impl Watching {
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Since it was started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn settle(&self) {
        thread::sleep(SETTLE);
    }

    /// What Ctrl-C does.
    pub fn stop(mut self) -> Result<Watched> {
        self.child.signal(libc::SIGINT)?;
        let signalled = Instant::now();
        let ended = self.child.wait(PATIENCE)?;
        let stopping = signalled.elapsed();
        self.child.check(&ended, &self.log)?;
        let text = std::fs::read(&self.summary).with_context(|| format!("cannot read {}", self.summary.display()))?;
        Ok(Watched {
            summary: serde_json::from_slice(&text)
                .with_context(|| format!("{} is not JSON", self.summary.display()))?,
            ended,
            stopping,
        })
    }
}

impl Watched {
    /// A figure by its JSON pointer, such as `/cost/first_sample_after_s`.
    pub fn number(&self, pointer: &str) -> Result<f64> {
        self.summary
            .pointer(pointer)
            .and_then(Value::as_f64)
            .with_context(|| format!("the profiler's summary has no number at {pointer}"))
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
