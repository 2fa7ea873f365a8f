//! What profiling costs: measured, not estimated.

use std::{fs, mem::MaybeUninit, sync::LazyLock, time::Duration};

/// CPU time this process has used so far, user and system, children excluded.
pub fn cpu_time() -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` has room for the answer.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } != 0 {
        return Duration::ZERO;
    }
    // SAFETY: the call succeeded, so `usage` is written (and all zeroes are one, too).
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// CPU time the calling thread has used so far.
pub fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live and writable. The clock exists on every Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}

/// Resident memory of this process in bytes: now, and the most it ever was.
pub fn resident_bytes() -> (u64, u64) {
    // Bytes: our own name need not be UTF-8 either.
    let status = fs::read("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = status.split(|&byte| byte == b'\n');
        let line = lines.find_map(|line| line.strip_prefix(name.as_bytes()))?;
        str::from_utf8(line)
            .ok()?
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
    };
    (field("VmRSS:").unwrap_or(0) * 1024, field("VmHWM:").unwrap_or(0) * 1024)
}

/// CLOCK_MONOTONIC as the kernel has it, the clock of samples and side-band events. In a time namespace what we are told
/// is shifted, and everything the kernel side saw would lie in the past, or in the future.
pub fn monotonic_ns() -> u64 {
    static SHIFT_NS: LazyLock<i64> = LazyLock::new(|| {
        let shifts = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        monotonic_shift_ns(&shifts).unwrap_or(0)
    });
    own_monotonic_ns().saturating_add_signed(SHIFT_NS.saturating_neg())
}

/// What a time namespace adds: `monotonic SECONDS NANOSECONDS`, each with its sign (time_namespaces(7)).
fn monotonic_shift_ns(shifts: &str) -> Option<i64> {
    let line = shifts.lines().find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<i64>);
    let (seconds, nanoseconds) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

fn own_monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live and writable. The clock exists on every Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// How long a tick of the kernel's `jiffies` is: the grain of its coarse clocks.
pub fn jiffy_ns() -> u64 {
    let mut grain = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `grain` is live, and the call only writes it.
    let known = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut grain) } == 0;
    match u64::try_from(grain.tv_nsec) {
        Ok(ns) if known && ns > 0 => ns,
        // The most common one (CONFIG_HZ=250).
        _ => 4_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shift_of_a_time_namespace_is_read() {
        let shifts = "monotonic      100000         7\nboottime          -5         0\n";
        assert_eq!(monotonic_shift_ns(shifts), Some(100_000_000_000_007));
        assert_eq!(monotonic_shift_ns("monotonic -1 0\n"), Some(-1_000_000_000));
        for none in [
            "",
            "monotonic",
            "monotonic x 0",
            "monotonic 9223372036854775807 0",
            "boottime 1 0",
        ] {
            assert_eq!(monotonic_shift_ns(none), None, "{none}");
        }
    }
}
