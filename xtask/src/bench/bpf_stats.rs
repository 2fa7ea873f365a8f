//! The kernel's own account of what BPF programs cost, to hold the profiler's against.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};

/// Counting is on for as long as this lives.
///
/// By a file descriptor and not by the sysctl `kernel.bpf_stats_enabled`: whatever ends the benchmark, the kernel
/// closes it.
pub struct BpfStats {
    _fd: OwnedFd,
}

/// What the sampling program of one process has cost.
pub struct RunTime {
    pub nanoseconds: u64,
    /// Also when it found nothing to sample.
    pub runs: u64,
}

impl BpfStats {
    pub fn enable() -> Result<Self> {
        /// `BPF_ENABLE_STATS` in include/uapi/linux/bpf.h, since 5.8.
        const ENABLE_STATS: libc::c_long = 32;
        // `enable_stats.type` of `union bpf_attr`, being `BPF_STATS_RUN_TIME`.
        let attributes: u32 = 0;
        // SAFETY: the kernel reads as much of the attributes as their size says.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                ENABLE_STATS,
                &raw const attributes,
                size_of_val(&attributes),
            )
        };
        let fd = i32::try_from(fd).context("bpf returned no file descriptor")?;
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("cannot enable the kernel's BPF statistics");
        }
        // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { _fd: fd })
    }

    /// The perf-event program that this process holds open.
    pub fn sampling(&self, pid: u32) -> Result<RunTime> {
        let directory = format!("/proc/{pid}/fdinfo");
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))? {
            let path = entry?.path();
            // A descriptor may be closed meanwhile.
            if let Some(run_time) = fs::read_to_string(path).ok().as_deref().and_then(sampling) {
                return Ok(run_time);
            }
        }
        bail!("process {pid} holds no BPF program of type perf_event")
    }
}

/// What `bpf_prog_show_fdinfo` prints (kernel/bpf/syscall.c, the two counters since 5.1).
fn sampling(fdinfo: &str) -> Option<RunTime> {
    /// `BPF_PROG_TYPE_PERF_EVENT` in include/uapi/linux/bpf.h.
    const PERF_EVENT: u64 = 7;
    let field = |name: &str| {
        fdinfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
    };
    if field("prog_type")? != PERF_EVENT {
        return None;
    }
    Some(RunTime {
        nanoseconds: field("run_time_ns")?,
        runs: field("run_cnt")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_perf_event_program_is_meant() {
        let text = |kind: u32| {
            format!("pos:\t0\nflags:\t02000002\nprog_type:\t{kind}\nprog_jited:\t1\nrun_time_ns:\t4200\nrun_cnt:\t3\n")
        };
        let run_time = sampling(&text(7)).unwrap();
        assert_eq!((run_time.nanoseconds, run_time.runs), (4200, 3));
        assert!(sampling(&text(5)).is_none());
        assert!(sampling("pos:\t0\nlink_type:\tperf\n").is_none());
    }
}
