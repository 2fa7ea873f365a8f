//! What /proc says of a running process.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// CPU time that all threads of a process have used: the scheduler's count in nanoseconds, where /proc/PID/stat has
/// hundredths of a second.
pub fn cpu(pid: u32) -> Result<Duration> {
    let directory = format!("/proc/{pid}/task");
    let mut nanoseconds = 0;
    for task in fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))? {
        let file = task?.path().join("schedstat");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        nanoseconds += ran(&text).with_context(|| format!("cannot parse {}", file.display()))?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The most that a process has had resident so far, in bytes.
pub fn max_resident_bytes(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    high_water(&text).with_context(|| format!("no VmHWM in {file}"))
}

fn ran(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

fn high_water(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_understood() {
        assert_eq!(ran("1234567 89 10\n"), Some(1_234_567));
        assert_eq!(
            high_water("Name:\tx\nVmHWM:\t    3412 kB\nVmRSS:\t 12 kB\n"),
            Some(3412 * 1024)
        );
    }

    #[test]
    fn this_process_has_used_something() {
        let pid = std::process::id();
        assert!(cpu(pid).unwrap() > Duration::ZERO);
        assert!(max_resident_bytes(pid).unwrap() > 0);
    }
}
