//! What /proc says of a process, and what can be done to one of ours.

use std::{
    fs,
    io::{self, Read},
    os::{fd::AsRawFd, unix::process::CommandExt as _},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Has the command die with the thread that starts it, so that a test that panics leaves nothing behind.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: prctl is a system call and nothing else, which may be made between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    }
}

/// Sends a signal to a process that has not been waited for.
pub fn signal(pid: u32, signal: i32) -> Result<()> {
    let pid = libc::pid_t::try_from(pid).context("not a pid")?;
    // SAFETY: kill has no memory to get wrong.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("cannot send signal {signal} to {pid}")),
    }
}

/// Waits for the child's end, or kills it and says that it did not end.
pub fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("process {} did not end within {limit:?}", child.id());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Tries until `condition` holds.
pub fn until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            bail!("within {limit:?} it did not come to: {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A field of /proc/PID/status.
pub fn status_field(pid: u32, name: &str) -> Result<String> {
    let status = fs::read(format!("/proc/{pid}/status"))?;
    let status = String::from_utf8_lossy(&status);
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value
        .with_context(|| format!("no {name} in /proc/{pid}/status"))?
        .trim()
        .to_owned())
}

/// CPU time that all threads of a process have used, in seconds. The scheduler's own count, in nanoseconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
        let ran = schedstat.split_whitespace().next().context("an empty schedstat")?;
        nanoseconds += ran.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

/// Reads what can be read within `limit`, up to the end or until `enough`.
pub fn read_until(source: &mut (impl Read + AsRawFd), limit: Duration, enough: &str) -> Result<String> {
    let deadline = Instant::now() + limit;
    let mut text = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd {
            fd: source.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, live for the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, left.as_millis().try_into().unwrap_or(i32::MAX)) };
        let shown = || String::from_utf8_lossy(&text).into_owned();
        if ready == 0 {
            bail!("no {enough:?} within {limit:?}, only {:?}", shown());
        }
        let mut chunk = [0; 4096];
        let length = source.read(&mut chunk)?;
        if length == 0 {
            bail!("it ended without {enough:?}, only {:?}", shown());
        }
        text.extend_from_slice(&chunk[..length]);
        if String::from_utf8_lossy(&text).contains(enough) {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}
