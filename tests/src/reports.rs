//! Commands that write one JSON document, run as a user runs them.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::profiler::{Outcome, Profiler, Recording};

/// `profiler COMMAND …`, about to be run, with JSON into a file.
#[derive(Debug)]
pub struct Report {
    profiler: Profiler,
    directory: TempDir,
}

impl Report {
    pub fn new(command: &str, arguments: &[&str]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("profiler-e2e-").tempdir()?;
        let profiler = Profiler::bare()
            .args([command, "-o"])
            .arg(directory.path().join("report.json"))
            .args(arguments);
        Ok(Self { profiler, directory })
    }

    pub fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.profiler = self.profiler.arg(argument);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.profiler = self.profiler.env(name, value);
        self
    }

    /// Starts it and waits until it looks.
    pub fn start(self) -> Result<Attached> {
        Ok(Attached {
            recording: self.profiler.start()?,
            directory: self.directory,
        })
    }

    /// Runs it to its end.
    pub fn run(self) -> Result<Written> {
        let outcome = self.profiler.succeed()?;
        Written::read(outcome, self.directory)
    }
}

/// At work.
#[derive(Debug)]
pub struct Attached {
    recording: Recording,
    directory: TempDir,
}

impl Attached {
    /// Ends it as Ctrl-C would.
    pub fn stop(self) -> Result<Written> {
        let outcome = self.recording.stop()?;
        Written::read(outcome, self.directory)
    }
}

/// What it wrote.
#[derive(Debug)]
pub struct Written {
    pub outcome: Outcome,
    pub json: Value,
}

impl Written {
    fn read(outcome: Outcome, directory: TempDir) -> Result<Self> {
        let path: PathBuf = directory.path().join("report.json");
        let text = fs::read(path).with_context(|| format!("it wrote no report: {}", outcome.stderr))?;
        Ok(Self {
            outcome,
            json: serde_json::from_slice(&text).context("the report is not JSON")?,
        })
    }
}
