//! Programs to be profiled. Each says what is true of it, one line of JSON after another, then READY.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    process::{self, die_with_parent, until},
    python::{self, Python},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running workload. Dropping it ends it and everything it started.
#[derive(Debug)]
pub struct Workload {
    pub pid: u32,
    /// What it printed before READY.
    pub truth: Vec<Value>,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    _directory: Option<TempDir>,
}

impl Workload {
    /// Runs a script of `workloads/`, from a copy that its interpreter can see.
    pub fn python(python: &Python, script: &str, arguments: &[&str]) -> Result<Self> {
        let directory = copy(python)?;
        let mut command = python.command();
        command.arg(python.seen(&directory.path().join(script))).args(arguments);
        Self::command(command, Some(directory)).with_context(|| format!("{script} did not start"))
    }

    /// The same with these variables in its environment.
    pub fn python_with(python: &Python, script: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let directory = copy(python)?;
        let mut command = python.command();
        command
            .envs(environment.iter().copied())
            .arg(python.seen(&directory.path().join(script)));
        Self::command(command, Some(directory)).with_context(|| format!("{script} did not start"))
    }

    /// Runs anything that says READY. The directory is kept for as long as the workload.
    pub fn command(mut command: Command, directory: Option<TempDir>) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = die_with_parent(&mut command)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut workload = Self {
            pid: child.id(),
            truth: Vec::new(),
            child,
            stdin,
            lines,
            _directory: directory,
        };
        loop {
            let line = workload.line()?;
            if line == "READY" {
                return Ok(workload);
            }
            let value = serde_json::from_str(&line).with_context(|| format!("neither JSON nor READY: {line}"))?;
            workload.truth.push(value);
        }
    }

    /// The next line it prints.
    pub fn line(&mut self) -> Result<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Disconnected) => {
                // Its pipes are closed a moment before it can be waited for. Which signal it was says who is to blame.
                let mut ended = None;
                let _ = until(Duration::from_secs(5), "it has ended", || {
                    ended = self.child.try_wait().ok().flatten();
                    ended.is_some()
                });
                bail!("it ended without a further line ({ended:?})")
            }
            Err(RecvTimeoutError::Timeout) => bail!("it printed nothing for {PATIENCE:?}"),
        }
    }

    /// The next line, which must be this.
    pub fn expect(&mut self, expected: &str) -> Result<()> {
        let line = self.line()?;
        if line != expected {
            bail!("expected it to print {expected}, not {line}");
        }
        Ok(())
    }

    /// The next line, as JSON.
    pub fn value(&mut self) -> Result<Value> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }

    /// Tells it something on its standard input.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its standard input is closed")?;
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .context("it does not listen")
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        process::wait(&mut self.child, PATIENCE)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// The CPU time it uses within about `length`, in seconds.
    pub fn cpu_seconds_in(&self, length: Duration) -> Result<f64> {
        let (before, from) = (process::cpu_seconds(self.pid)?, Instant::now());
        thread::sleep(length.saturating_sub(from.elapsed()));
        Ok(process::cpu_seconds(self.pid)? - before)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        if let Ok(group) = libc::pid_t::try_from(self.pid) {
            // SAFETY: kill has no memory to get wrong. The group is the workload's own: its first process has not been
            // waited for by anybody but us, and if it has, the group holds only what it left behind.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        // It is gone or about to be; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory with a copy of `workloads/` that the interpreter can see, so that nothing is written beside the sources.
pub fn copy(python: &Python) -> Result<TempDir> {
    let directory = python.directory()?;
    for entry in fs::read_dir(sources())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), directory.path().join(entry.file_name()))?;
        }
    }
    // Some workloads run as somebody else.
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(directory)
}

/// Where the workloads' sources are.
pub fn sources() -> PathBuf {
    python::package().join("workloads")
}

/// The number of the line of a workload's source that contains `text`, counted from 1. It must be one line.
pub fn line_of(script: &str, text: &str) -> Result<u32> {
    let source = fs::read_to_string(Path::new(&sources()).join(script))?;
    let mut found = source
        .lines()
        .zip(1..)
        .filter(|(line, _)| line.contains(text))
        .map(|(_, number)| number);
    match (found.next(), found.next()) {
        (Some(line), None) => Ok(line),
        (None, _) => bail!("{script} has no line with {text:?}"),
        _ => bail!("{script} has several lines with {text:?}"),
    }
}
