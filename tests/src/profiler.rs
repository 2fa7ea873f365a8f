//! The profiler's binary, run as a user runs it.

use std::{
    ffi::OsStr,
    fs::File,
    io::Read as _,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::NamedTempFile;

use crate::{
    folded::Folded,
    process::{self, die_with_parent, read_until},
    python,
    ready::Ready,
};

const PATIENCE: Duration = Duration::from_secs(120);

/// `profiler …`, about to be run.
#[derive(Debug)]
pub struct Profiler {
    command: Command,
}

impl Profiler {
    /// `profiler record` with these arguments. All native frames are shown, because the tests look at them, unless
    /// `--native work` is among the arguments.
    pub fn record(arguments: &[&str]) -> Self {
        let mut profiler = Self::bare();
        profiler.command.args(["record", "--native", "full"]).args(arguments);
        profiler
    }

    /// `profiler` alone.
    pub fn bare() -> Self {
        Self { command: command() }
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

    pub fn current_dir(mut self, directory: impl AsRef<std::path::Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// No file that it writes may become larger.
    pub fn with_file_limit(mut self, bytes: u64) -> Self {
        use std::os::unix::process::CommandExt as _;
        let limit = move || {
            let limit = libc::rlimit {
                rlim_cur: bytes,
                rlim_max: bytes,
            };
            // SAFETY: the call reads what is live.
            match unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec, only a system call is made.
        unsafe { self.command.pre_exec(limit) };
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Result<Outcome> {
        self.spawn()?.finish()
    }

    /// Runs it to its end, which must be a success.
    pub fn succeed(self) -> Result<Outcome> {
        self.run()?.success()
    }

    /// Starts it and waits until it looks.
    pub fn start(mut self) -> Result<Recording> {
        let ready = Ready::of(&mut self.command)?;
        let mut recording = self.spawn()?;
        recording.listen();
        match ready.wait(&mut recording.child)? {
            true => Ok(recording),
            false => {
                let outcome = recording.finish()?;
                bail!("it ended before it looked, with {}: {}", outcome.code(), outcome.stderr)
            }
        }
    }

    /// Starts it and waits until it says this: for claims about what it says.
    pub fn start_until(self, words: &str) -> Result<Recording> {
        let mut recording = self.spawn()?;
        let Some(stderr) = &mut recording.early else {
            bail!("no standard error")
        };
        recording.said = read_until(stderr, Duration::from_secs(30), words)?;
        recording.listen();
        Ok(recording)
    }

    /// Starts it and does not wait for anything.
    pub fn spawn(mut self) -> Result<Recording> {
        // A file and not a pipe: a profile may be larger than a pipe, and nobody reads until the end.
        let stdout = NamedTempFile::new()?;
        self.command.stdout(stdout.reopen()?).stderr(Stdio::piped());
        let mut child = die_with_parent(&mut self.command)
            .spawn()
            .with_context(|| format!("cannot run {:?}", self.command))?;
        let early = child.stderr.take();
        Ok(Recording {
            child,
            stdout: stdout.into_file(),
            early,
            late: None,
            said: String::new(),
        })
    }
}

/// A profiler at work.
#[derive(Debug)]
pub struct Recording {
    child: Child,
    stdout: File,
    early: Option<ChildStderr>,
    late: Option<Receiver<String>>,
    said: String,
}

impl Recording {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) -> Result<()> {
        process::signal(self.pid(), signal)
    }

    /// Ends the recording as Ctrl-C would, and waits for the profile.
    pub fn stop(self) -> Result<Outcome> {
        self.signal(libc::SIGINT)?;
        self.finish()?.success()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Outcome> {
        self.listen();
        let status = process::wait(&mut self.child, PATIENCE)?;
        if let Some(late) = self.late.take() {
            // The end of the pipe: a child that outlives the profiler may keep it open for longer.
            self.said
                .push_str(&late.recv_timeout(Duration::from_secs(5)).unwrap_or_default());
        }
        let mut stdout = Vec::new();
        // Shared with the child, whose position it is at.
        std::io::Seek::rewind(&mut self.stdout)?;
        self.stdout.read_to_end(&mut stdout)?;
        Ok(Outcome {
            status,
            stdout,
            stderr: std::mem::take(&mut self.said),
        })
    }

    /// Reads standard error from here on in a thread, so that it never fills.
    fn listen(&mut self) {
        let Some(mut stderr) = self.early.take() else { return };
        let (sender, late) = channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // What could be read is what there is.
            let _ = stderr.read_to_end(&mut bytes);
            let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
        });
        self.late = Some(late);
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Usually it has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    /// The exit status as a shell reports it.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Itself, if the profiler succeeded and did not panic.
    pub fn success(self) -> Result<Self> {
        ensure!(
            self.code() == 0,
            "the profiler ended with {}: {}",
            self.code(),
            self.stderr
        );
        ensure!(!self.stderr.contains("panicked"), "it panicked: {}", self.stderr);
        Ok(self)
    }

    /// Standard output, as folded stacks.
    pub fn folded(&self) -> Result<Folded> {
        Folded::parse(std::str::from_utf8(&self.stdout).context("not UTF-8")?)
    }

    /// The first line of standard error that contains `text`.
    pub fn line(&self, text: &str) -> Result<&str> {
        let line = self.stderr.lines().find(|line| line.contains(text));
        line.with_context(|| format!("no line with {text:?} in: {}", self.stderr))
    }

    /// The number of samples that the summary tells.
    pub fn samples(&self) -> Result<u64> {
        let line = self.line(" in ").and_then(|_| {
            let of_samples = |line: &&str| line.contains(" sample in ") || line.contains(" samples in ");
            self.stderr
                .lines()
                .find(of_samples)
                .with_context(|| format!("no summary in: {}", self.stderr))
        })?;
        number(line)
    }
}

/// The number a line begins with: `1,204 samples …`.
pub fn number(line: &str) -> Result<u64> {
    let digits: String = line
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == ',')
        .filter(|c| *c != ',')
        .collect();
    digits
        .parse()
        .with_context(|| format!("no number at the start of {line:?}"))
}

/// The profiler, about to be run as if nobody had come by sudo: who runs the tests may have.
pub fn command() -> Command {
    let mut command = Command::new(binary());
    for name in ["SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// What is tested.
pub fn binary() -> PathBuf {
    std::env::var_os("PROFILER_BIN").map_or_else(|| python::workspace().join("target/release/profiler"), PathBuf::from)
}
