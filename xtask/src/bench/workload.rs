//! The programs that are profiled. Each says READY when it has come to what it is there for.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::child::Child;
use super::interpreters::Interpreter;

/// The scripts, where interpreters can read them.
pub struct Workloads {
    directory: PathBuf,
}

/// Portions of fixed work, on demand.
pub const MIX: &str = "mix.py";
/// Busy below a number of frames.
pub const DEEP: &str = "deep.py";
/// Busy in a module of its own.
pub const SYNTHETIC: &str = "synthetic.py";
/// Processes that only exist.
pub const SLEEPERS: &str = "sleepers.py";

/// A lock from thread to thread.
pub const LOCKS: &str = "locks.py";
/// Nothing but switches of processes.
pub const SWITCHES: &str = "switches.py";
/// A deadlock.
pub const STUCK: &str = "stuck.py";

const SCRIPTS: [(&str, &str); 7] = [
    (MIX, include_str!("workloads/mix.py")),
    (DEEP, include_str!("workloads/deep.py")),
    (SYNTHETIC, include_str!("workloads/synthetic.py")),
    (SLEEPERS, include_str!("workloads/sleepers.py")),
    (LOCKS, include_str!("workloads/locks.py")),
    (SWITCHES, include_str!("workloads/switches.py")),
    (STUCK, include_str!("workloads/stuck.py")),
];

/// A running workload. Dropping it ends it.
pub struct Workload {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Workloads {
    /// Writes the scripts below `directory`.
    pub fn unpack(directory: &Path) -> Result<Self> {
        let directory = directory.join("workloads");
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for (name, text) in SCRIPTS {
            let file = directory.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(Self { directory })
    }

    /// Starts a script and waits until it is ready; on one CPU, or where the kernel likes.
    pub fn start(
        &self,
        interpreter: &Interpreter,
        script: &str,
        arguments: &[&str],
        cpu: Option<usize>,
    ) -> Result<Workload> {
        let mut workload = self.spawn(interpreter, script, arguments, cpu)?;
        workload.wait_until_ready()?;
        Ok(workload)
    }

    /// Starts a script. Several are started sooner when none is waited for before the next.
    pub fn spawn(
        &self,
        interpreter: &Interpreter,
        script: &str,
        arguments: &[&str],
        cpu: Option<usize>,
    ) -> Result<Workload> {
        let mut command = match cpu {
            // It execs, so the pid stays that of the child.
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command
                    .args(["--cpu-list", &cpu.to_string()])
                    .arg(&interpreter.executable);
                command
            }
            None => Command::new(&interpreter.executable),
        };
        command
            .arg(self.directory.join(script))
            .args(arguments)
            // The same work each time: hashes decide how long a look-up takes.
            .env("PYTHONHASHSEED", "0")
            .env_remove("PYTHONPATH")
            .env_remove("PYTHONHOME")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = Child::spawn(&mut command)?;
        let output = child.stdout.take().context("a workload without standard output")?;
        Ok(Workload {
            child,
            output: BufReader::new(output),
        })
    }
}

impl Workload {
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    pub fn wait_until_ready(&mut self) -> Result<()> {
        let line = self.line()?;
        if line != "READY" {
            bail!("a workload said {line:?} instead of READY");
        }
        Ok(())
    }

    /// Tells it something and returns its answer.
    pub fn ask(&mut self, question: &str) -> Result<Value> {
        let stdin = self
            .child
            .stdin
            .as_mut()
            .context("a workload's standard input is closed")?;
        writeln!(stdin, "{question}").context("a workload does not listen")?;
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("a workload answered {line:?}"))
    }

    /// Keeps it from running, as the user's Ctrl-Z would. It is ours; the profiler does no such thing.
    pub fn suspend(&self) -> Result<()> {
        self.child.signal(libc::SIGSTOP)
    }

    /// Closes its standard input and waits until it has ended by itself.
    pub fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.child.wait(Duration::from_secs(20)).map(drop)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .context("cannot read from a workload")?;
        if line.is_empty() {
            bail!("a workload ended before its time (what it said is above)");
        }
        Ok(line.trim_end().to_owned())
    }
}
