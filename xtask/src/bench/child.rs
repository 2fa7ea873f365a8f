//! A process of ours: it does not outlive us, and what it used is known when it has ended.

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{cargo, command};

/// A process that has not been waited for. Dropping it kills it.
pub struct Child {
    pid: libc::pid_t,
    shown: String,
    pub stdin: Option<ChildStdin>,
    pub stdout: Option<ChildStdout>,
    is_reaped: bool,
}

/// How a process ended and what it had used by then.
pub struct Ended {
    pub status: ExitStatus,
    /// User and system time.
    pub cpu: Duration,
    /// The most it ever had resident.
    pub max_resident_bytes: u64,
}

/// How exact the time of an end is.
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Child {
    pub fn spawn(command: &mut Command) -> Result<Self> {
        cargo::leave(command);
        // A group of its own: Ctrl-C on the terminal ends the benchmark, and the benchmark's end ends the child.
        command.process_group(0);
        // SAFETY: prctl is a system call and nothing else, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let mut child = command.spawn().map_err(|error| command::cannot_start(command, error))?;
        Ok(Self {
            pid: libc::pid_t::try_from(child.id()).context("not a pid")?,
            shown: command::shown(command),
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            is_reaped: false,
        })
    }

    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        // SAFETY: kill has no memory to get wrong, and the pid is ours until it is waited for.
        match unsafe { libc::kill(self.pid, signal) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()).with_context(|| format!("cannot signal `{}`", self.shown)),
        }
    }

    /// Waits for its end, for `limit` at most.
    pub fn wait(&mut self, limit: Duration) -> Result<Ended> {
        let started = Instant::now();
        loop {
            if let Some(ended) = self.reap(libc::WNOHANG)? {
                return Ok(ended);
            }
            if started.elapsed() > limit {
                bail!("`{}` did not end within {limit:?}", self.shown);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until it has written `text` to `log`, in whatever case.
    pub fn wait_for_text(&mut self, log: &Path, text: &str, limit: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            let said = fs::read_to_string(log).unwrap_or_default();
            if said.to_lowercase().contains(text) {
                return Ok(());
            }
            if let Some(ended) = self.reap(libc::WNOHANG)? {
                bail!("`{}` ended: {}: {}", self.shown, ended.status, said.trim());
            }
            if started.elapsed() > limit {
                bail!(
                    "`{}` did not say {text:?} within {limit:?}: {}",
                    self.shown,
                    said.trim()
                );
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Fails with what the process said, unless it ended well.
    pub fn check(&self, ended: &Ended, log: &Path) -> Result<()> {
        if ended.status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(log).unwrap_or_default();
        bail!("`{}` failed: {}: {}", self.shown, ended.status, said.trim())
    }

    /// Not through std, which does not tell what a child has used.
    fn reap(&mut self, options: libc::c_int) -> Result<Option<Ended>> {
        let mut status = 0;
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: both have room for the answer.
        let waited = unsafe { libc::wait4(self.pid, &raw mut status, options, usage.as_mut_ptr()) };
        match waited {
            0 => return Ok(None),
            pid if pid == self.pid => self.is_reaped = true,
            _ => return Err(io::Error::last_os_error()).with_context(|| format!("cannot wait for `{}`", self.shown)),
        }
        // SAFETY: the call succeeded, so `usage` is written (and all zeroes are one, too).
        let usage = unsafe { usage.assume_init() };
        Ok(Some(Ended {
            status: ExitStatus::from_raw(status),
            cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
            // In KiB (getrusage(2)).
            max_resident_bytes: usage.ru_maxrss.unsigned_abs() * 1024,
        }))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.is_reaped {
            // If it cannot be killed there is nothing left to do for it.
            let _ = self.signal(libc::SIGKILL).and_then(|()| self.reap(0));
        }
    }
}

/// Sends both outputs of a command to a file.
pub fn log_to<'a>(command: &'a mut Command, log: &Path) -> Result<&'a mut Command> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let again = file.try_clone().context("cannot duplicate a file descriptor")?;
    Ok(command.stdout(file).stderr(again))
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_tells_the_status_and_what_was_used() {
        let mut child = Child::spawn(Command::new("sh").args(["-c", "exit 3"])).unwrap();
        let ended = child.wait(Duration::from_secs(10)).unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert!(ended.max_resident_bytes > 0);
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let child = Child::spawn(Command::new("sleep").arg("1000")).unwrap();
        let directory = format!("/proc/{}", child.pid());
        assert!(Path::new(&directory).exists());
        drop(child);
        assert!(!Path::new(&directory).exists());
    }

    #[test]
    fn a_child_that_does_not_end_in_time_is_an_error() {
        let mut child = Child::spawn(Command::new("sleep").arg("1000")).unwrap();
        assert!(child.wait(Duration::from_millis(10)).is_err());
    }
}
