//! What the kernel says a process has resident: the truth that growth mode is held against.
//!
//! `smaps_rollup` counts the page tables: exact, but it takes some 9 ms for each GiB (Linux 6.18), during which the
//! process may have to wait when it changes its mappings. `status` prints counters in 45 us, whatever the size. They
//! agreed exactly on 6.18 (six threads allocating), but are kept per CPU, and on some kernels printed without being
//! summed up. So what is reported comes from the first, and what is looked at all the time from the second.

use std::fs;
use std::io;

/// What a process has, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// All of it: anonymous, of files, and shared.
    pub rss: u64,
    /// Heaps, stacks, and private copies of file pages.
    pub anonymous: u64,
    /// Of `anonymous`, in huge pages. 0 if not said.
    pub anonymous_huge: u64,
    /// Shared memory and tmpfs. 0 if not said: then it is part of `file`.
    pub shared: u64,
    /// Of `anonymous`, what the process has given up (MADV_FREE) and the kernel has not fetched yet. 0 if not said.
    pub lazy_free: u64,
    /// What no other process has. 0 if not said.
    pub private: u64,
    /// Not resident but swapped out: still the process's.
    pub swap: u64,
}

impl Resident {
    /// Of files.
    pub fn file(&self) -> u64 {
        self.rss.saturating_sub(self.anonymous).saturating_sub(self.shared)
    }

    /// Of process `pid`, now, at a cost that does not depend on its size; without `anonymous_huge`, `lazy_free` and
    /// `private`. A
    /// kernel thread, and a process that is about to be gone, have nothing.
    ///
    /// # Errors
    /// If there is no such process, or it may not be looked at.
    pub fn glance(pid: u32) -> io::Result<Self> {
        Ok(parse_status(&fs::read(format!("/proc/{pid}/status"))?).unwrap_or_default())
    }

    /// Of process `pid`, now, counted. A kernel thread, and a process that is about to be gone, have nothing.
    ///
    /// # Errors
    /// If there is no such process, or it may not be looked at.
    pub fn read(pid: u32) -> io::Result<Self> {
        let status = fs::read(format!("/proc/{pid}/status"))?;
        let coarse = parse_status(&status);
        // Since 4.14. ESRCH if there is no memory (any more).
        if let Ok(rollup) = fs::read(format!("/proc/{pid}/smaps_rollup"))
            && let Some(exact) = parse_rollup(&rollup)
        {
            let shared = coarse.map_or(0, |coarse| coarse.shared);
            return Ok(Self { shared, ..exact });
        }
        if let Some(coarse) = coarse {
            return Ok(coarse);
        }
        Ok(parse_statm(&fs::read(format!("/proc/{pid}/statm"))?).unwrap_or_default())
    }
}

/// Parses `/proc/PID/smaps_rollup`; `shared` is not in it. None if it does not say what is resident.
pub fn parse_rollup(bytes: &[u8]) -> Option<Resident> {
    Some(Resident {
        rss: kib(bytes, b"Rss:")?,
        anonymous: kib(bytes, b"Anonymous:")?,
        anonymous_huge: kib(bytes, b"AnonHugePages:").unwrap_or(0),
        shared: 0,
        lazy_free: kib(bytes, b"LazyFree:").unwrap_or(0),
        private: kib(bytes, b"Private_Clean:")
            .unwrap_or(0)
            .saturating_add(kib(bytes, b"Private_Dirty:").unwrap_or(0)),
        swap: kib(bytes, b"Swap:").unwrap_or(0),
    })
}

/// Parses `/proc/PID/status`. None if it does not say what is resident, as before 4.5 and for kernel threads.
pub fn parse_status(bytes: &[u8]) -> Option<Resident> {
    Some(Resident {
        rss: kib(bytes, b"VmRSS:")?,
        anonymous: kib(bytes, b"RssAnon:")?,
        anonymous_huge: 0,
        shared: kib(bytes, b"RssShmem:").unwrap_or(0),
        lazy_free: 0,
        private: 0,
        swap: kib(bytes, b"VmSwap:").unwrap_or(0),
    })
}

/// Parses `/proc/PID/statm`: pages in all, resident, and of these not anonymous.
pub fn parse_statm(bytes: &[u8]) -> Option<Resident> {
    let mut fields = bytes.split(|&byte| byte == b' ').map(number);
    let (_, rss, shared) = (fields.next()?, fields.next()??, fields.next()??);
    Some(Resident {
        rss: rss.saturating_mul(PAGE),
        anonymous: rss.saturating_sub(shared).saturating_mul(PAGE),
        ..Resident::default()
    })
}

const PAGE: u64 = 4096;

/// Finds `Name:     1234 kB`, in bytes.
fn kib(text: &[u8], name: &[u8]) -> Option<u64> {
    let line = text
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(name))?;
    number(line.strip_suffix(b" kB")?.trim_ascii())?.checked_mul(1024)
}

fn number(digits: &[u8]) -> Option<u64> {
    // `parse` accepts a sign, the kernel never writes one.
    if !digits.first()?.is_ascii_digit() {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROLLUP: &[u8] = b"\
558244267000-7ffe9d82e000 ---p 00000000 00:00 0                          [rollup]
Rss:                1640 kB
Pss:                 427 kB
Pss_Anon:            112 kB
Anonymous:           112 kB
LazyFree:             12 kB
Private_Clean:        24 kB
Private_Dirty:       100 kB
AnonHugePages:         4 kB
Swap:                  8 kB
SwapPss:               9 kB
";
    const STATUS: &[u8] = b"\
Name:\tRss: 5 kB
VmRSS:\t    1704 kB
RssAnon:\t     148 kB
RssFile:\t    1540 kB
RssShmem:\t      16 kB
VmSwap:\t       4 kB
";

    #[test]
    fn a_rollup_is_read() {
        let resident = parse_rollup(ROLLUP).expect("readable");
        let expected = Resident {
            rss: 1640 << 10,
            anonymous: 112 << 10,
            anonymous_huge: 4 << 10,
            shared: 0,
            lazy_free: 12 << 10,
            private: 124 << 10,
            swap: 8 << 10,
        };
        assert_eq!(resident, expected);
        assert_eq!(resident.file(), (1640 - 112) << 10);
        assert_eq!(parse_rollup(b"Rss: x kB\nAnonymous: 1 kB\n"), None);
        assert_eq!(parse_rollup(b"Rss: +1 kB\nAnonymous: 1 kB\n"), None);
        assert_eq!(parse_rollup(b"Rss: 99999999999999999999 kB\nAnonymous: 1 kB\n"), None);
    }

    #[test]
    fn a_status_and_a_statm_are_read() {
        let status = parse_status(STATUS).expect("readable");
        assert_eq!(
            (status.rss, status.anonymous, status.file(), status.shared, status.swap),
            (1704 << 10, 148 << 10, 1540 << 10, 16 << 10, 4 << 10)
        );
        let statm = parse_statm(b"765 441 413 5 0 123 0\n").expect("readable");
        assert_eq!((statm.rss, statm.anonymous), (441 * PAGE, 28 * PAGE));
        assert_eq!(parse_statm(b"765"), None);
    }

    #[test]
    fn this_process_is_resident_and_one_that_is_not_there_is_an_error() {
        let resident = Resident::read(std::process::id()).expect("own memory");
        assert!(resident.anonymous > 0 && resident.file() > 0 && resident.rss >= resident.anonymous);
        let glance = Resident::glance(std::process::id()).expect("own memory");
        assert!(glance.anonymous > 0 && glance.file() > 0);
        Resident::read(0x7fff_ffff).expect_err("no such process");
        Resident::glance(0x7fff_ffff).expect_err("no such process");
    }

    proptest! {
        #[test]
        fn almost_text_never_panics(bytes in "((Rss|Anonymous|VmRSS|RssAnon):[ \t]{0,3}[-+0-9]{0,21}( kB)?\n?){0,6}") {
            parse_rollup(bytes.as_bytes());
            parse_status(bytes.as_bytes());
            parse_statm(bytes.as_bytes());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            parse_rollup(&bytes);
            parse_statm(&bytes);
        }
    }
}
