//! py-spy from PyPI, which is what users have today.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::child::{Child, log_to};
use super::interpreters::Interpreters;
use super::usage;
use crate::{command, workspace};

pub struct PySpy {
    binary: PathBuf,
    pub version: String,
    directory: PathBuf,
}

/// A py-spy at work.
pub struct Attached {
    child: Child,
    log: PathBuf,
    cpu_before: Duration,
}

/// What it has done.
pub struct Recorded {
    pub samples: f64,
    /// Its CPU time from when it began to sample until it was stopped.
    pub cpu: Duration,
}

const SETTLE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);

/// Installs it if it is not there. A failure is told and is none of the benchmark's.
pub fn install() {
    if binary().exists() {
        return;
    }
    eprintln!("xtask: about to install py-spy from PyPI into {}", venv().display());
    if let Err(error) = make() {
        eprintln!("xtask: cannot install py-spy: {error:#}");
    }
}

fn make() -> Result<()> {
    let python = Interpreters::find().map_or_else(|_| PathBuf::from("python3"), |found| found.main.executable);
    command::output(Command::new(python).args(["-m", "venv", "--clear"]).arg(venv()))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "py-spy",
    ];
    command::output(Command::new(venv().join("bin/python")).args(pip)).map(drop)
}

fn venv() -> PathBuf {
    workspace::root().join("target/bench/venv")
}

pub fn binary() -> PathBuf {
    venv().join("bin/py-spy")
}

impl PySpy {
    pub fn find(directory: PathBuf) -> Result<Self> {
        let binary = binary();
        if !binary.exists() {
            bail!("there is no {}", binary.display());
        }
        let version = command::output(Command::new(&binary).arg("--version"))?
            .trim()
            .to_owned();
        Ok(Self {
            binary,
            version,
            directory,
        })
    }

    /// Starts to sample a process and waits until it does.
    pub fn attach(&self, pid: u32, rate_hz: u32) -> Result<Attached> {
        let log = self.directory.join("py-spy.log");
        let mut command = Command::new(&self.binary);
        command
            .args(["record", "--pid", &pid.to_string(), "--rate", &rate_hz.to_string()])
            // Until it is stopped.
            .args(["--duration", "unlimited", "--format", "raw", "--output"])
            .arg(self.directory.join("py-spy.raw"))
            .stdin(Stdio::null());
        let mut child = Child::spawn(log_to(&mut command, &log)?)?;
        child.wait_for_text(&log, "sampling process", PATIENCE)?;
        thread::sleep(SETTLE);
        let cpu_before = usage::cpu(child.pid())?;
        Ok(Attached { child, log, cpu_before })
    }
}

impl Attached {
    pub fn stop(mut self) -> Result<Recorded> {
        let cpu = usage::cpu(self.child.pid())?.saturating_sub(self.cpu_before);
        self.child.signal(libc::SIGINT)?;
        let ended = self.child.wait(PATIENCE)?;
        self.child.check(&ended, &self.log)?;
        let said = std::fs::read_to_string(&self.log).context("cannot read what py-spy said")?;
        let samples = samples(&said).with_context(|| format!("py-spy told no number of samples: {}", said.trim()))?;
        Ok(Recorded { samples, cpu })
    }
}

/// From its last line: `py-spy> Wrote raw flamegraph data to 'x'. Samples: 250 Errors: 0` (0.4.1).
fn samples(said: &str) -> Option<f64> {
    let (_, after) = said.rsplit_once("Samples: ")?;
    after.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_samples_is_in_the_last_line() {
        let said = "py-spy> Sampling process 100 times a second.\n\npy-spy> Wrote raw flamegraph data to 'x'. Samples: 250 Errors: 1\n";
        assert_eq!(samples(said), Some(250.0));
        assert_eq!(samples("Error: no such process"), None);
    }
}
