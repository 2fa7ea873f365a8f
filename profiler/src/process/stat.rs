//! What `/proc/PID/stat` says of a process, as far as it is wanted here. The fields are those of proc(5).

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    time::Duration,
};

/// include/linux/sched.h: the same since 2.6.
const PF_KTHREAD: u64 = 0x0020_0000;

/// 52 numbers of 20 digits, and a name.
const MOST_BYTES: usize = 2048;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    pub parent: u32,
    /// A thread of the kernel, which runs no program.
    pub is_kernel: bool,
    /// CPU time of its threads, in clock ticks.
    ticks: u64,
    /// That of the children it has waited for, theirs included.
    children_ticks: u64,
    resident_pages: u64,
    is_zombie: bool,
    threads: u64,
    /// Since the machine started, in clock ticks.
    started: u64,
}

impl Stat {
    /// Of process `pid`; nothing if it is gone. One that has ended and was not waited for is there.
    pub fn read(proc: &Path, pid: u32) -> Option<Self> {
        Self::parse(&fs::read(proc.join(pid.to_string()).join("stat")).ok()?)
    }

    /// Of the process that the file is of, which was opened before: half of the time goes into finding it by its path. Nothing if
    /// it is gone, whoever has its number now.
    pub fn read_again(file: &File) -> Option<Self> {
        let mut bytes = [0; MOST_BYTES];
        let len = file.read_at(&mut bytes, 0).ok()?;
        Self::parse(bytes.get(..len)?)
    }

    /// The name, in parentheses, may hold anything, and need not be UTF-8.
    fn parse(stat: &[u8]) -> Option<Self> {
        let end = stat.iter().rposition(|&byte| byte == b')')?;
        let fields: Vec<&str> = str::from_utf8(&stat[end + 1..])
            .ok()?
            .split_ascii_whitespace()
            .collect();
        // The state, the third one, is the first behind the name.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: number(4)?.try_into().ok()?,
            is_kernel: number(9)? & PF_KTHREAD != 0,
            ticks: number(14)?.checked_add(number(15)?)?,
            children_ticks: number(16)?.checked_add(number(17)?)?,
            resident_pages: number(24)?,
            is_zombie: matches!(*fields.first()?, "Z" | "X"),
            threads: number(20)?,
            started: number(22)?,
        })
    }

    pub fn cpu_time(&self) -> Duration {
        ticks(self.ticks)
    }

    pub fn childrens_cpu_time(&self) -> Duration {
        ticks(self.children_ticks)
    }

    /// Whether its first thread lives, and the process began before a moment (CLOCK_MONOTONIC, where the machine was never
    /// suspended): it is not another one that has its number now.
    pub fn runs_since_before(&self, time_ns: u64) -> bool {
        !self.is_zombie && ticks(self.started).as_nanos() < time_ns.into()
    }

    /// Whether there are others than the first one, which has ended.
    pub fn has_threads(&self) -> bool {
        self.is_zombie && self.threads > 1
    }

    pub fn threads(&self) -> u64 {
        self.threads
    }

    /// When it began, in ticks since the machine did: tells it apart from others that had its number.
    pub fn began_ticks(&self) -> u64 {
        self.started
    }

    pub fn resident_bytes(&self) -> u64 {
        self.resident_pages.saturating_mul(4096)
    }
}

/// What clock ticks come to.
pub fn ticks(ticks: u64) -> Duration {
    // SAFETY: sysconf(3) has no preconditions.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / u64::try_from(per_second).unwrap_or(100).max(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let line = b"7 (a) S 1 (\xff) S 42 7 7 0 -1 4194560 1 2 3 4 150 50 1000 500 20 0 1 0 9 8192 25 99 1";
        let stat = Stat::parse(line).expect("a whole line");
        assert_eq!((stat.parent, stat.is_kernel), (42, false));
        assert_eq!(stat.cpu_time(), Duration::from_secs(2));
        assert_eq!(stat.childrens_cpu_time(), Duration::from_secs(15));
        assert_eq!(stat.resident_bytes(), 25 * 4096);
        // One thread, which sleeps, of a process that began 90 ms after the machine.
        assert!(stat.runs_since_before(91_000_000) && !stat.runs_since_before(90_000_000) && !stat.has_threads());
        let ended = b"7 (a) Z 42 7 7 0 -1 4194560 1 2 3 4 150 50 1000 500 20 0 2 0 9 8192 25 99 1";
        let ended = Stat::parse(ended).expect("a whole line");
        assert!(ended.has_threads() && !ended.runs_since_before(u64::MAX));
        assert_eq!(Stat::parse(b"7 (a) S 1"), None);
        assert_eq!(Stat::parse(b"no parentheses"), None);
    }

    #[test]
    fn a_file_that_was_opened_tells_of_its_process_and_of_no_other() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("sleep");
        let file = File::open(format!("/proc/{}/stat", child.id())).expect("its file");
        let is_child = |stat: Stat| stat.parent == std::process::id();
        assert!(Stat::read_again(&file).is_some_and(is_child));
        assert!(Stat::read_again(&file).is_some_and(is_child), "and again");
        child.kill().expect("it is ours");
        child.wait().expect("it was killed");
        assert_eq!(Stat::read_again(&file), None);
    }

    #[test]
    fn this_process_is_read() {
        let stat = Stat::read(Path::new("/proc"), std::process::id()).expect("own file");
        assert!(stat.parent > 0 && !stat.is_kernel && stat.resident_bytes() > 0);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), numbers in "\\) S( -?[0-9]{1,21}){0,40}") {
            Stat::parse(&bytes);
            Stat::parse(numbers.as_bytes());
        }
    }
}
