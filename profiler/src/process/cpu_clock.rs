//! CPU time of a process to the microsecond, while it runs.
//!
//! The clock that the kernel has of another process (`clock_getcpuclockid`) stands still between two ticks for a thread that
//! runs meanwhile: 4 ms where there are 250 a second (`thread_group_cputime`, kernel/sched/cputime.c, 6.18). That is half of a
//! window in which calls are counted. A perf event of the task clock is brought up to date whenever it is read.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::fd::{FromRawFd as _, OwnedFd},
};

use perf_event_open_sys as sys;

use crate::governor::cpu_time_ns;

/// Of a process with more threads the coarse clock has to do: each is a file descriptor, and a moment at each look.
const MOST_THREADS: usize = 64;
/// No clock is behind by more: ticks are at least 100 a second. What is missing beyond is of threads that were not seen.
const COARSE_NS: u64 = 10_000_000;

/// Of one process. Dropping it ends it.
#[derive(Debug)]
pub struct CpuClock {
    pid: u32,
    /// Before the events.
    base_ns: u64,
    /// One for each thread there was. Those that it starts are in it.
    threads: Vec<File>,
    last_ns: u64,
}

impl CpuClock {
    pub fn of(pid: u32) -> Self {
        // In this order: what runs in between is counted twice at most, and by less than a tick.
        let threads = threads(pid).unwrap_or_default();
        let base_ns = cpu_time_ns(pid);
        Self {
            pid,
            base_ns,
            threads,
            last_ns: base_ns,
        }
    }

    /// Whether it stands still between ticks while the process runs.
    pub fn is_coarse(&self) -> bool {
        self.threads.is_empty() && self.last_ns > 0 && cpu_time_ns(self.pid) > 0
    }

    /// CPU time so far; what it was if the process is gone.
    pub fn read_ns(&mut self) -> u64 {
        let coarse_ns = cpu_time_ns(self.pid);
        let counted_ns: Option<u64> = self.threads.iter().map(count).sum();
        let now_ns = match counted_ns {
            Some(counted_ns) if !self.threads.is_empty() => {
                self.base_ns += coarse_ns.saturating_sub(self.base_ns + counted_ns + COARSE_NS);
                self.base_ns + counted_ns
            }
            _ => coarse_ns,
        };
        self.last_ns = self.last_ns.max(now_ns);
        if coarse_ns == 0 {
            // It is gone, and others come.
            self.threads.clear();
        }
        self.last_ns
    }
}

fn count(mut event: &File) -> Option<u64> {
    let mut count = [0; size_of::<u64>()];
    event.read_exact(&mut count).ok()?;
    Some(u64::from_ne_bytes(count))
}

/// `None` if they are too many, or cannot be had.
fn threads(pid: u32) -> Option<Vec<File>> {
    let mut attributes = sys::bindings::perf_event_attr {
        type_: sys::bindings::PERF_TYPE_SOFTWARE,
        size: size_of::<sys::bindings::perf_event_attr>() as u32,
        config: sys::bindings::PERF_COUNT_SW_TASK_CLOCK.into(),
        ..Default::default()
    };
    attributes.set_inherit(1);
    // From Linux 5.13 on.
    attributes.set_inherit_thread(1);
    let mut events = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let tid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        if events.len() == MOST_THREADS {
            return None;
        }
        let flags = sys::bindings::PERF_FLAG_FD_CLOEXEC;
        // SAFETY: `attributes` is a valid, initialised perf_event_attr; the event changes nothing in any process.
        let fd = unsafe { sys::perf_event_open(&raw mut attributes, tid, -1, -1, flags.into()) };
        if fd < 0 {
            match io::Error::last_os_error().raw_os_error() {
                // It has ended meanwhile.
                Some(libc::ESRCH) => continue,
                _ => return None,
            }
        }
        // SAFETY: a non-negative result of perf_event_open is a new file descriptor that nobody else owns.
        events.push(File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    Some(events)
}

#[cfg(test)]
mod tests {
    use std::{
        hint::black_box,
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    fn burn(wall: Duration) {
        let started = Instant::now();
        while started.elapsed() < wall {
            black_box(started);
        }
    }

    #[test]
    fn threads_that_start_later_and_end_are_in_it() {
        let mut clock = CpuClock::of(std::process::id());
        let before_ns = clock.read_ns();
        // What the thread itself says.
        let burn = || {
            let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            burn(Duration::from_millis(20));
            // SAFETY: `used` is live and writable.
            unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut used) };
            used.tv_nsec.unsigned_abs() + used.tv_sec.unsigned_abs() * 1_000_000_000
        };
        let used_ns = thread::spawn(burn).join().unwrap();
        assert!(clock.read_ns() - before_ns >= used_ns, "{used_ns}");
        // A process that is not there has used nothing.
        assert_eq!(CpuClock::of((4 << 20) + 7).read_ns(), 0);
    }
}
