//! Whether what the user named is there, and ours to see.

use std::{fs, io::ErrorKind};

use anyhow::{Result, anyhow, bail};

use super::{Roots, status_field};
use crate::{
    config::{Config, Target},
    process::{stat::Stat, who},
};

pub(super) fn check_pid(pid: u32, roots: &Roots) -> Result<()> {
    let directory = roots.proc.join(pid.to_string());
    let status = match fs::read(directory.join("status")) {
        Ok(status) => status,
        Err(error) if is_gone(&error) => {
            bail!("there is no process {pid}; it may have ended, ps -e lists those there are")
        }
        Err(error) => return Err(not_ours(pid, &error)),
    };
    // /proc answers for threads, too, though it does not list them.
    if let Some(process) = status_field(&status, "Tgid").and_then(|tgid| tgid.parse::<u32>().ok())
        && process != pid
    {
        bail!("{pid} is a thread of process {process}; use -p {process} --tid {pid}");
    }
    if status_field(&status, "State").is_some_and(|state| state.starts_with(['Z', 'X'])) {
        bail!("process {pid} has ended and only waits for its parent to notice; name one that runs");
    }
    // Opening is what is checked (PTRACE_MODE_READ, Documentation/filesystems/proc.rst); nothing is read.
    match fs::File::open(directory.join("maps")) {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => bail!("there is no process {pid} any more; ps -e lists those there are"),
        Err(error) => Err(not_ours(pid, &error)),
    }
}

/// A thread of the kernel has samples, and nothing else.
pub(super) fn check_program(pid: u32, roots: &Roots) -> Result<()> {
    if Stat::read(&roots.proc, pid).is_some_and(|stat| stat.is_kernel) {
        bail!(
            "process {} is a thread of the kernel: it has no memory of its own and runs no Python; profiler record \
             shows what it does",
            who::process(&roots.proc, pid)
        );
    }
    Ok(())
}

fn not_ours(pid: u32, error: &std::io::Error) -> anyhow::Error {
    anyhow!("process {pid} is not ours to see: {error}; run with sudo, or in a container with --cap-add=SYS_PTRACE")
}

pub(super) fn check_tid(tid: u32, config: &Config, roots: &Roots) -> Result<()> {
    let status = match fs::read(roots.proc.join(tid.to_string()).join("status")) {
        Ok(status) => status,
        Err(error) if is_gone(&error) => bail!("there is no thread {tid}; ps -eL lists those there are (LWP)"),
        Err(error) => bail!("thread {tid} is not ours to see: {error}; run with sudo"),
    };
    let process = status_field(&status, "Tgid").and_then(|tgid| tgid.parse::<u32>().ok());
    // With -s it may be a thread of a child; the recording finds out.
    if let (Target::Pids(pids), Some(process), false) = (&config.target, process, config.subprocesses)
        && !pids.contains(&process)
    {
        bail!("thread {tid} belongs to process {process}, which is not among those to record; add -p {process}");
    }
    Ok(())
}

/// A process can end between two looks; reading then fails with ESRCH.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}
