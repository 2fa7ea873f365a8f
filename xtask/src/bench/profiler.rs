//! Running the profiler that is measured.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::child::{Child, Ended, log_to};

/// The binary and where its files go.
pub struct Profiler {
    binary: PathBuf,
    directory: PathBuf,
}

/// A profiler at work.
pub struct Attached {
    child: Child,
    log: PathBuf,
    summary: PathBuf,
    output: PathBuf,
}

/// What it left behind.
pub struct Recorded {
    pub summary: Summary,
    pub ended: Ended,
    /// From the signal that stopped it, or from when it was waited for, to its end.
    pub stopping: Duration,
    pub output: PathBuf,
}

/// The closing summary: the profiler's own figures.
pub struct Summary(Value);

/// When it has said that it samples, this is for what else it does once at the start.
const SETTLE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);

impl Profiler {
    pub fn new(binary: PathBuf, directory: PathBuf) -> Self {
        Self { binary, directory }
    }

    /// Starts a recording, to a file with this ending.
    pub fn start(&self, ending: &str, arguments: &[&str]) -> Result<Attached> {
        let file = |name: &str| self.directory.join(name);
        let (log, summary) = (file("profiler.log"), file("summary.json"));
        let output = file(&format!("profile.{ending}"));
        // A summary that is read is the one of this recording.
        let _ = std::fs::remove_file(&summary);
        let mut command = Command::new(&self.binary);
        command
            .args(["record", "--force", "--output"])
            .arg(&output)
            .arg("--summary-json")
            .arg(&summary)
            .args(arguments)
            .stdin(Stdio::null());
        let child = Child::spawn(log_to(&mut command, &log)?)?;
        Ok(Attached {
            child,
            log,
            summary,
            output,
        })
    }

    /// A whole recording of a given length.
    pub fn record(&self, ending: &str, arguments: &[&str], wanted: Duration) -> Result<Recorded> {
        let length = format!("{}ms", wanted.as_millis());
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--duration", &length]).collect();
        let attached = self.start(ending, &arguments)?;
        // Not looking for its end yet: that would take CPU time beside what is measured.
        thread::sleep(wanted);
        attached.wait()
    }

    /// How long the binary takes to be loaded, to say its version and to end.
    pub fn version_takes(&self) -> Result<Duration> {
        let started = Instant::now();
        let mut command = Command::new(&self.binary);
        let mut child = Child::spawn(command.arg("--version").stdout(Stdio::null()))?;
        child.wait(PATIENCE)?;
        Ok(started.elapsed())
    }
}

impl Attached {
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Waits until it samples.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        self.child.wait_for_text(&self.log, "sampling ", PATIENCE)?;
        thread::sleep(SETTLE);
        Ok(())
    }

    /// What Ctrl-C does.
    pub fn stop(self) -> Result<Recorded> {
        self.child.signal(libc::SIGINT)?;
        self.wait()
    }

    fn wait(mut self) -> Result<Recorded> {
        let started = Instant::now();
        let ended = self.child.wait(PATIENCE)?;
        let stopping = started.elapsed();
        self.child.check(&ended, &self.log)?;
        Ok(Recorded {
            summary: Summary::read(&self.summary)?,
            ended,
            stopping,
            output: self.output,
        })
    }
}

impl Summary {
    fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Self(
            serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))?,
        ))
    }

    /// A figure by its JSON pointer, such as `/cost/naming_s`.
    pub fn number(&self, pointer: &str) -> Result<f64> {
        self.0
            .pointer(pointer)
            .and_then(Value::as_f64)
            .with_context(|| format!("the profiler's summary has no number at {pointer}"))
    }

    pub fn samples(&self) -> Result<f64> {
        self.number("/samples")
    }

    /// Time spent in the kernel for one sample, as the program there measures itself.
    pub fn bpf_us(&self) -> Result<f64> {
        Ok(self.number("/cost/bpf_ns_per_sample")? / 1e3)
    }

    /// The profiler's own CPU time while recording, shared out among the samples.
    pub fn recording_us(&self) -> Result<f64> {
        Ok(self.number("/cost/recording_cpu_s")? * 1e6 / self.samples()?)
    }

    /// What was lost and how much of it, in the profiler's words.
    pub fn lost(&self) -> Vec<(String, u64)> {
        let reasons = self.0["lost"].as_array().map_or(&[][..], Vec::as_slice);
        let counted = reasons
            .iter()
            .filter_map(|reason| Some((reason["what"].as_str()?.to_owned(), reason["count"].as_u64()?)));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missing_figure_is_named() {
        let summary = Summary(json!({"samples": 10, "cost": {"recording_cpu_s": 0.0001}}));
        assert_eq!(summary.recording_us().unwrap().round(), 10.0);
        let error = summary.bpf_us().unwrap_err().to_string();
        assert!(error.contains("/cost/bpf_ns_per_sample"), "{error}");
    }

    #[test]
    fn what_was_lost_is_listed_and_nothing_is_nothing() {
        let summary = Summary(json!({"lost": [{"count": 3, "what": "samples"}, {"count": 0, "what": "stacks"}]}));
        assert_eq!(summary.lost(), [("samples".to_owned(), 3)]);
        assert_eq!(Summary(json!({"lost": []})).lost(), []);
    }
}
