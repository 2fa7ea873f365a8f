//! What the kernel says a process has resident: the truth that growth mode is held against.
//!
//! `smaps_rollup` counts the page tables: exact, but it takes some 9 ms for each GiB (Linux 6.18), during which the
//! process may have to wait when it changes its mappings. `status` prints counters in 45 us, whatever the size. They
//! agreed exactly on 6.18 (six threads allocating), but are kept per CPU, and on some kernels printed without being
//! summed up. So what is reported comes from the first, and what is looked at all the time from the second.

use std::fs;
use std::io;

use rustc_hash::FxHashMap;

use super::account::Amount;

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
    /// Not resident but swapped out: still the process's.
    pub swap: u64,
}

impl Resident {
    /// Of files.
    pub fn file(&self) -> u64 {
        self.rss.saturating_sub(self.anonymous).saturating_sub(self.shared)
    }

    /// Of `resident` bytes, what the process uses, and what it has swapped out.
    fn held(&self, resident: u64) -> u64 {
        resident.saturating_sub(self.lazy_free).saturating_add(self.swap)
    }

    /// Of process `pid`, now, at a cost that does not depend on its size; without `anonymous_huge` and `lazy_free`. A
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

/// How a process changed, and how much of that the recording accounts for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Explained {
    pub before: Resident,
    /// When it was last looked at.
    pub after: Resident,
    /// What came in the recording and is there, without file pages, and with its error.
    pub live: Amount,
    /// File pages, in bytes: apportioned, so never more than was measured.
    pub file_bytes: u64,
}

impl Explained {
    /// By how many bytes the process grew. What was swapped out has not gone; what was given up has, even if the kernel
    /// has not fetched it.
    pub fn grown_bytes(&self) -> i64 {
        let held = |resident: &Resident| resident.held(resident.rss);
        difference(held(&self.after), held(&self.before))
    }

    /// The same of its anonymous memory, which is what the sites have exactly.
    pub fn anonymous_grown_bytes(&self) -> i64 {
        let held = |resident: &Resident| resident.held(resident.anonymous);
        difference(held(&self.after), held(&self.before))
    }

    /// By how many bytes its file pages grew; 0 if they became fewer.
    pub fn file_grown_bytes(&self) -> u64 {
        self.after.file().saturating_sub(self.before.file())
    }

    /// What the recording has sites for, in bytes.
    pub fn explained_bytes(&self) -> u64 {
        self.live.bytes.saturating_add(self.file_bytes)
    }

    /// How much of the growth that is, at most 1; None if the process did not grow. More live memory than growth counts
    /// as much against it as less: either memory from before the recording was given back, or the account is wrong, and
    /// nobody can tell which.
    pub fn share(&self) -> Option<f64> {
        let grown = u64::try_from(self.grown_bytes()).ok().filter(|&grown| grown > 0)? as f64;
        let explained = self.explained_bytes() as f64;
        Some((grown / explained).min(explained / grown))
    }

    /// How many bytes of what was there before the recording must have been given back, if the account is right.
    pub fn given_back_bytes(&self) -> u64 {
        let explained = i64::try_from(self.explained_bytes()).unwrap_or(i64::MAX);
        u64::try_from(explained.saturating_sub(self.grown_bytes())).unwrap_or(0)
    }

    /// Half the width of the 95 % confidence interval of `explained_bytes`, from sampling.
    pub fn error_bytes(&self) -> f64 {
        self.live.error_bytes()
    }
}

impl std::ops::AddAssign for Explained {
    fn add_assign(&mut self, other: Self) {
        let add = |sum: &mut Resident, other: &Resident| {
            let Resident {
                rss,
                anonymous,
                anonymous_huge,
                shared,
                lazy_free,
                swap,
            } = sum;
            *rss = rss.saturating_add(other.rss);
            *anonymous = anonymous.saturating_add(other.anonymous);
            *anonymous_huge = anonymous_huge.saturating_add(other.anonymous_huge);
            *shared = shared.saturating_add(other.shared);
            *lazy_free = lazy_free.saturating_add(other.lazy_free);
            *swap = swap.saturating_add(other.swap);
        };
        add(&mut self.before, &other.before);
        add(&mut self.after, &other.after);
        self.live += other.live;
        self.file_bytes = self.file_bytes.saturating_add(other.file_bytes);
    }
}

fn difference(after: u64, before: u64) -> i64 {
    let size = i64::try_from(after.abs_diff(before)).unwrap_or(i64::MAX);
    if after >= before { size } else { -size }
}

/// What the processes of a recording had, before and last.
#[derive(Debug, Default)]
pub struct Residents {
    processes: FxHashMap<u32, Known>,
    ended: Explained,
    ended_count: u64,
    unmeasured: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    before: Resident,
    /// None if nobody has looked since.
    after: Option<Resident>,
}

impl Residents {
    /// A process joins the recording with what it has. For one that has just executed a program that is nothing.
    pub fn begin(&mut self, pid: u32, before: Resident) {
        self.processes.insert(pid, Known { before, after: None });
    }

    /// What it has now. A process that was not there before is left out.
    pub fn update(&mut self, pid: u32, now: Resident) {
        if let Some(known) = self.processes.get_mut(&pid) {
            known.after = Some(now);
        }
    }

    /// It has ended, and had `live` and file pages of `file_bytes` until then. What was last known of it counts.
    pub fn end(&mut self, pid: u32, live: Amount, file_bytes: u64) {
        let Some(known) = self.processes.remove(&pid) else {
            return;
        };
        match known.explained(live, file_bytes) {
            Some(explained) => {
                self.ended += explained;
                self.ended_count += 1;
            }
            None => self.unmeasured += 1,
        }
    }

    /// Of a process that lives. None if it was not measured twice.
    pub fn explained(&self, pid: u32, live: Amount, file_bytes: u64) -> Option<Explained> {
        self.processes.get(&pid)?.explained(live, file_bytes)
    }

    /// Of the processes that ended, together, and how many they are.
    pub fn ended(&self) -> (Explained, u64) {
        (self.ended, self.ended_count)
    }

    /// Processes that ended before anyone could look at them a second time.
    pub fn unmeasured(&self) -> u64 {
        self.unmeasured
    }
}

impl Known {
    fn explained(&self, live: Amount, file_bytes: u64) -> Option<Explained> {
        Some(Explained {
            before: self.before,
            after: self.after?,
            live,
            file_bytes,
        })
    }
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

    fn explained(before: u64, after: u64, live: u64) -> Explained {
        let resident = |bytes| Resident {
            rss: bytes,
            anonymous: bytes,
            ..Resident::default()
        };
        Explained {
            before: resident(before),
            after: resident(after),
            live: Amount::sampled(live, 1, 1),
            file_bytes: 0,
        }
    }

    #[test]
    fn growth_is_explained_by_what_lives() {
        let most = explained(100, 200, 95);
        assert_eq!((most.grown_bytes(), most.given_back_bytes()), (100, 0));
        assert_eq!(most.share(), Some(0.95));
        let replaced = explained(100, 150, 100);
        assert_eq!((replaced.share(), replaced.given_back_bytes()), (Some(0.5), 50));
        let shrunk = explained(100, 40, 10);
        assert_eq!((shrunk.grown_bytes(), shrunk.share()), (-60, None));
        assert_eq!(shrunk.given_back_bytes(), 70);
    }

    #[test]
    fn what_was_given_up_has_gone_and_what_was_swapped_out_has_not() {
        let mut change = explained(100, 200, 80);
        change.after.lazy_free = 30;
        change.after.swap = 10;
        assert_eq!((change.grown_bytes(), change.anonymous_grown_bytes()), (80, 80));
    }

    #[test]
    fn a_process_that_ends_counts_with_what_was_last_known() {
        let mut residents = Residents::default();
        let at = |rss| Resident {
            rss,
            ..Resident::default()
        };
        residents.begin(1, at(100));
        residents.begin(2, at(1000));
        residents.update(1, at(300));
        residents.update(9, at(300));
        assert_eq!(
            residents
                .explained(1, Amount::default(), 7)
                .map(|all| all.grown_bytes()),
            Some(200)
        );
        residents.end(1, Amount::sampled(200, 1, 1), 0);
        residents.end(2, Amount::default(), 0);
        residents.end(9, Amount::default(), 0);
        let (ended, count) = residents.ended();
        assert_eq!((ended.share(), count, residents.unmeasured()), (Some(1.0), 1, 1));
        assert_eq!(residents.explained(1, Amount::default(), 0), None);
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
