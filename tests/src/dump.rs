//! `profiler dump`, and what it said.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::profiler::{Outcome, Profiler};

/// The threads that a dump has.
#[derive(Debug)]
pub struct Dump {
    pub threads: Vec<Value>,
}

/// A frame: name, file, line.
pub type Place = (String, String, u64);

impl Dump {
    /// Of a process, with these options.
    pub fn of(pid: u32, options: &[&str]) -> Result<Self> {
        Self::read(&json(pid, options)?.success()?)
    }

    pub fn read(outcome: &Outcome) -> Result<Self> {
        let value: Value = serde_json::from_slice(&outcome.stdout)?;
        let threads = value.as_array().context("not a list")?.clone();
        ensure!(threads.iter().all(|thread| thread["version"] == 1), "another version");
        Ok(Self { threads })
    }

    pub fn thread(&self, tid: u64) -> Result<&Value> {
        let found = self.threads.iter().find(|thread| thread["os_thread_id"] == tid);
        found.with_context(|| format!("no thread {tid} in {:#?}", self.threads))
    }

    pub fn named(&self, name: &str) -> Result<&Value> {
        let found = self.threads.iter().find(|thread| thread["thread_name"] == name);
        found.with_context(|| format!("no thread {name} in {:#?}", self.threads))
    }
}

/// `profiler dump -j`.
pub fn json(pid: u32, options: &[&str]) -> Result<Outcome> {
    let pid = pid.to_string();
    Profiler::bare().args(["dump", "-j", "-p", &pid]).args(options).run()
}

/// What people read.
pub fn text(pid: u32, options: &[&str]) -> Result<Outcome> {
    let pid = pid.to_string();
    Profiler::bare().args(["dump", "-p", &pid]).args(options).run()
}

/// The frames of a thread or of a task, innermost first.
pub fn places(thread: &Value) -> Result<Vec<Place>> {
    let frames = thread["frames"].as_array().context("no frames")?;
    let place = |frame: &Value| {
        Some((
            frame["name"].as_str()?.to_owned(),
            frame["filename"].as_str()?.to_owned(),
            frame["line"].as_u64()?,
        ))
    };
    frames
        .iter()
        .map(|frame| place(frame).with_context(|| format!("an odd frame: {frame}")))
        .collect()
}
