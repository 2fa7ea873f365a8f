//! What /proc says of the machine and of processes.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use super::snapshot::Host;
use crate::process::stat::Stat;

/// Descriptors are counted one by one before Linux 6.2, and no more than these.
const MOST_COUNTED: usize = 4096;

/// What /proc says of a process at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub stat: Stat,
    pub descriptors: Option<u64>,
}

/// How long a number of descriptors is believed.
const COUNTED_FOR: Duration = Duration::from_secs(3);

/// Reads facts of the same processes again and again: their files are held, and what changes slowly is not always looked at.
#[derive(Debug, Default)]
pub struct Reader(FxHashMap<u32, Held>);

#[derive(Debug)]
struct Held {
    stat: File,
    descriptors: Option<u64>,
    counted: Instant,
}

impl Reader {
    /// `None` if it is gone.
    pub fn read(&mut self, proc: &Path, pid: u32) -> Option<Facts> {
        if let Some(held) = self.0.get_mut(&pid) {
            if let Some(stat) = Stat::read_again(&held.stat) {
                if held.counted.elapsed() >= COUNTED_FOR {
                    (held.descriptors, held.counted) = (descriptors(proc, pid), Instant::now());
                }
                let descriptors = held.descriptors;
                return Some(Facts { stat, descriptors });
            }
            // Another one may have its number.
            self.0.remove(&pid);
        }
        let stat = File::open(proc.join(pid.to_string()).join("stat")).ok()?;
        let held = Held {
            descriptors: descriptors(proc, pid),
            counted: Instant::now(),
            stat,
        };
        let facts = Facts {
            stat: Stat::read_again(&held.stat)?,
            descriptors: held.descriptors,
        };
        self.0.insert(pid, held);
        Some(facts)
    }

    /// Lets go of all others.
    pub fn keep(&mut self, lives: impl Fn(u32) -> bool) {
        self.0.retain(|pid, _| lives(*pid));
    }
}

fn descriptors(proc: &Path, pid: u32) -> Option<u64> {
    let folder = proc.join(pid.to_string()).join("fd");
    // The number, from Linux 6.2 on (`proc_fd_getattr`, fs/proc/fd.c).
    let told = fs::metadata(&folder).ok()?.size();
    if told > 0 {
        return Some(told);
    }
    let counted = fs::read_dir(&folder).ok()?.take(MOST_COUNTED + 1).count();
    (counted <= MOST_COUNTED).then_some(counted as u64)
}

/// Who a process runs as.
pub fn user(proc: &Path, pid: u32) -> String {
    let Ok(metadata) = fs::metadata(proc.join(pid.to_string())) else {
        return String::new();
    };
    let number = metadata.uid().to_string();
    let users = fs::read("/etc/passwd").unwrap_or_default();
    let named = users.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next()?;
        (fields.nth(1)? == number.as_bytes()).then(|| crate::process::comm::clean(&String::from_utf8_lossy(name)))
    });
    named.unwrap_or(number)
}

/// Looks at the machine, and remembers what its clocks said.
#[derive(Debug, Default)]
pub struct Machine {
    /// Ticks that CPUs were busy, and all.
    before: Option<(u64, u64)>,
}

impl Machine {
    pub fn look(&mut self, proc: &Path) -> Host {
        let stat = fs::read(proc.join("stat")).unwrap_or_default();
        let (now, cpus) = clocks(&stat);
        let cpu_percent = self.before.zip(now).and_then(|(before, now)| {
            let all = now.1.checked_sub(before.1).filter(|&all| all > 0)?;
            let busy = now.0.saturating_sub(before.0);
            Some(100.0 * cpus as f64 * busy as f64 / all as f64)
        });
        self.before = now;
        let memory = fs::read(proc.join("meminfo")).unwrap_or_default();
        let total = kilobytes(&memory, b"MemTotal:").unwrap_or(0);
        let available = kilobytes(&memory, b"MemAvailable:").unwrap_or(0);
        Host {
            cpus,
            cpu_percent,
            memory_used: total.saturating_sub(available),
            memory_total: total,
            pressure: pressure(proc),
        }
    }
}

/// Ticks of all CPUs, busy ones and all, and how many CPUs there are (proc(5), `/proc/stat`).
fn clocks(stat: &[u8]) -> (Option<(u64, u64)>, usize) {
    let lines = || stat.split(|&byte| byte == b'\n');
    let is_cpu = |line: &&[u8]| line.starts_with(b"cpu") && line.get(3).is_some_and(u8::is_ascii_digit);
    let cpus = lines().filter(is_cpu).count();
    let all = lines().find(|line| line.starts_with(b"cpu ")).and_then(|line| {
        // user, nice, system, idle, iowait, irq, softirq, steal: what guests use is in the first two.
        let fields: Vec<u64> = str::from_utf8(line)
            .ok()?
            .split_ascii_whitespace()
            .skip(1)
            .take(8)
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        let all: u64 = fields.iter().fold(0, |sum, ticks| sum.saturating_add(*ticks));
        let idle = fields.get(3)?.saturating_add(*fields.get(4)?);
        Some((all.saturating_sub(idle), all))
    });
    (all, cpus)
}

fn kilobytes(text: &[u8], name: &[u8]) -> Option<u64> {
    let line = text
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(name))?;
    let number = str::from_utf8(line).ok()?.trim().strip_suffix("kB")?.trim();
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// `some avg10=1.53 avg60=… ` of each; `None` if the kernel does not say.
fn pressure(proc: &Path) -> Option<[f64; 3]> {
    let of = |what: &str| some_avg10(&fs::read(proc.join("pressure").join(what)).ok()?);
    Some([of("cpu")?, of("memory")?, of("io")?])
}

fn some_avg10(text: &[u8]) -> Option<f64> {
    let first = str::from_utf8(text.split(|&byte| byte == b'\n').next()?).ok()?;
    let number = first.strip_prefix("some avg10=")?.split(' ').next()?;
    number.parse().ok().filter(|percent: &f64| percent.is_finite())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn busy_is_what_is_not_idle_and_does_not_wait_for_a_disk() {
        let stat = b"cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1 2\ncpu1 1 2\nintr 5\n";
        assert_eq!(clocks(stat), (Some((150, 1000)), 2));
        assert_eq!(clocks(b"cpu  x"), (None, 0));
    }

    #[test]
    fn pressure_is_that_of_the_last_ten_seconds() {
        assert_eq!(
            some_avg10(b"some avg10=1.53 avg60=0.87 avg300=0.73 total=1\n"),
            Some(1.53)
        );
        assert_eq!(some_avg10(b"full avg10=1.53"), None);
    }

    #[test]
    fn this_process_has_descriptors_and_an_owner() {
        let proc = Path::new("/proc");
        let mut reader = Reader::default();
        for _ in 0..2 {
            let facts = reader.read(proc, std::process::id()).expect("own folder");
            assert!(
                facts.descriptors.is_some_and(|descriptors| descriptors >= 3),
                "{facts:?}"
            );
            assert!(facts.stat.threads() >= 1);
        }
        assert!(!user(proc, std::process::id()).is_empty());
        assert_eq!(reader.read(proc, u32::MAX), None);
        reader.keep(|_| false);
        assert!(reader.0.is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            clocks(&bytes);
            kilobytes(&bytes, b"MemTotal:");
            some_avg10(&bytes);
        }
    }
}
