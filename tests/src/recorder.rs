//! A command of the profiler that records, run as a user runs it, with all that it writes in a directory of its own.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    process::{self, die_with_parent},
    profiler::{self, Outcome},
    ready::Ready,
};

const PATIENCE: Duration = Duration::from_secs(120);

/// `profiler memory …` or `profiler calls …`, about to be run. Its summary goes to a file.
#[derive(Debug)]
pub struct Recorder {
    command: Command,
    directory: TempDir,
}

impl Recorder {
    /// With whatever the arguments ask for: without `-o` a table.
    pub fn new(subcommand: &str, arguments: &[&str]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("profiler-e2e-").tempdir()?;
        let mut command = profiler::command();
        command
            .args([subcommand, "--summary-json"])
            .arg(directory.path().join("summary.json"))
            .args(arguments)
            .stdout(File::create(directory.path().join("stdout"))?)
            .stderr(File::create(directory.path().join("stderr"))?);
        Ok(Self { command, directory })
    }

    /// To a file of this name.
    pub fn to(self, name: &str) -> Self {
        let file = self.directory.path().join(name);
        self.arg("-o").arg(file)
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it and waits until it is attached.
    pub fn start(mut self) -> Result<Attached> {
        let ready = Ready::of(&mut self.command)?;
        let mut attached = self.spawn()?;
        match ready.wait(&mut attached.child)? {
            true => Ok(attached),
            false => bail!("it ended before it was attached: {}", attached.said()),
        }
    }

    /// Starts it and does not wait for anything.
    pub fn spawn(mut self) -> Result<Attached> {
        let child = die_with_parent(&mut self.command)
            .spawn()
            .with_context(|| format!("cannot run {:?}", self.command))?;
        Ok(Attached {
            child,
            directory: Some(self.directory),
        })
    }

    /// Runs it to its end, whatever that is.
    pub fn run(self) -> Result<Taken> {
        self.spawn()?.finish()
    }

    /// Runs it to its end, which must be a success.
    pub fn succeed(self) -> Result<Taken> {
        self.run()?.success()
    }
}

/// A profiler at work. Dropping it ends it.
#[derive(Debug)]
pub struct Attached {
    child: Child,
    /// Until it has ended.
    directory: Option<TempDir>,
}

impl Attached {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) -> Result<()> {
        process::signal(self.pid(), signal)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// What it has said on standard error so far.
    pub fn said(&self) -> String {
        let file = self.directory.as_ref().map(|directory| directory.path().join("stderr"));
        file.and_then(|file| fs::read(file).ok())
            .map_or_else(String::new, |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Ends the recording as Ctrl-C would, and waits for what it writes.
    pub fn stop(self) -> Result<Taken> {
        self.signal(libc::SIGINT)?;
        self.finish()?.success()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Taken> {
        let started = Instant::now();
        let status = process::wait(&mut self.child, PATIENCE)?;
        let ending = started.elapsed();
        let directory = self.directory.take().context("it has ended before")?;
        let stdout = fs::read(directory.path().join("stdout"))?;
        let stderr = String::from_utf8_lossy(&fs::read(directory.path().join("stderr"))?).into_owned();
        let summary = fs::read(directory.path().join("summary.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(Taken {
            outcome: Outcome { status, stdout, stderr },
            summary: Summary(summary.unwrap_or_default()),
            ending,
            directory,
        })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Usually it has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A recording that has ended.
#[derive(Debug)]
pub struct Taken {
    pub outcome: Outcome,
    pub summary: Summary,
    /// From when it was told to end, or waited for, to its end.
    pub ending: Duration,
    directory: TempDir,
}

impl Taken {
    /// Itself, if the profiler succeeded and did not panic.
    pub fn success(self) -> Result<Self> {
        self.outcome.clone().success()?;
        Ok(self)
    }

    /// Where the profiler's files are.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The lines on standard output that come below the one which is a heading.
    pub fn below(&self, is_heading: impl Fn(&str) -> bool) -> Result<impl Iterator<Item = &str>> {
        let text = std::str::from_utf8(&self.outcome.stdout).context("not UTF-8")?;
        let mut lines = text.lines();
        ensure!(lines.any(is_heading), "no table in:\n{text}\n{}", self.outcome.stderr);
        Ok(lines)
    }
}

/// `--summary-json`, or nothing if there is none.
#[derive(Debug)]
pub struct Summary(pub Value);

impl Summary {
    pub fn number(&self, pointer: &str) -> Result<f64> {
        let number = self.0.pointer(pointer).and_then(Value::as_f64);
        number.with_context(|| format!("no number at {pointer} in the summary: {}", self.0))
    }

    /// What was lost, in the profiler's words.
    pub fn lost(&self) -> Result<Vec<String>> {
        let reasons = self.0["lost"].as_array();
        let reasons = reasons.with_context(|| format!("no losses in the summary: {}", self.0))?;
        let lost = reasons.iter().filter(|reason| reason["count"].as_u64() != Some(0));
        Ok(lost.map(Value::to_string).collect())
    }
}
