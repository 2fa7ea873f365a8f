//! What is run at every system call of the machine, put in place only where it can be of use (`profiler why`).
//!
//! - Where event loops poll is looked at from when a Python has a descriptor of `epoll`.
//! - Calls that move data are looked at from when one has a socket. While they are few, all the time; when they are many, in
//!   windows of a tenth of a second, so far apart that they cost about a hundredth of a CPU.
//!
//! What a system call costs more: 0.09 µs for the one, 0.69 µs for the other (Linux 6.18, 600,000 `write`s).

use std::{fs, path::Path};

use profiler_common::stats::Counter;

use super::Waits;
use crate::{
    cost,
    orders::{Held, Orders},
    recording::Recording,
};

/// How often it is looked for descriptors, and at how many of a process.
const LOOK_EVERY_NS: u64 = 1_000_000_000;
const MOST_DESCRIPTORS: usize = 4096;
/// So many calls a second are looked at all the time.
const FEW_A_SECOND: u64 = 7_000;
const WINDOW_NS: u64 = 100_000_000;
/// Windows that follow each other without a pause reach so far beyond the present: a turn may be late.
const AHEAD_NS: u64 = 200_000_000;
/// In less time it is not known how many they are.
const SHORTEST_NS: u64 = 20_000_000;
const LONGEST_PAUSE_NS: u64 = 2_000_000_000;

#[derive(Default)]
pub struct Sparing {
    loops: Option<Box<dyn Held>>,
    io: Option<Looking>,
    /// Somebody has sockets.
    has_sockets: bool,
    looked_for_at_ns: Option<u64>,
    /// When calls are to be looked at again.
    next_ns: u64,
    /// How long they were, with the window that is under way.
    looked_ns: u64,
}

/// Programs that are in place.
struct Looking {
    _held: Box<dyn Held>,
    from_ns: u64,
    until_ns: u64,
    /// When calls were last counted, and how many there had been.
    since_ns: u64,
    calls: u64,
}

/// What there is to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Descriptors {
    loops: bool,
    sockets: bool,
}

impl Sparing {
    pub fn counts_from_ns(&self) -> u64 {
        self.io.as_ref().map_or(0, |io| io.from_ns)
    }

    pub fn counts_until_ns(&self) -> u64 {
        self.io.as_ref().map_or(0, |io| io.until_ns)
    }

    pub fn looked_ns(&self) -> u64 {
        self.looked_ns
    }

    /// Takes all away.
    pub fn end(&mut self, now_ns: u64) {
        self.loops = None;
        if let Some(io) = self.io.take() {
            self.looked_ns = self.looked_ns.saturating_sub(io.until_ns.saturating_sub(now_ns));
        }
    }

    fn look_for(&mut self, host: &Recording, kernel: &mut dyn Orders, now_ns: u64) -> anyhow::Result<()> {
        let is_due = self
            .looked_for_at_ns
            .is_none_or(|at| now_ns.saturating_sub(at) >= LOOK_EVERY_NS);
        if !is_due || (self.loops.is_some() && self.has_sockets) {
            return Ok(());
        }
        self.looked_for_at_ns = Some(now_ns);
        let mut found = Descriptors {
            loops: self.loops.is_some(),
            sockets: self.has_sockets,
        };
        let pids = host.pids().filter(|pid| host.python(*pid).is_some());
        for pid in pids {
            found.add(&Path::new("/proc").join(pid.to_string()).join("fd"));
        }
        self.has_sockets = found.sockets;
        if found.loops && self.loops.is_none() {
            self.loops = Some(kernel.attach_loops()?);
        }
        Ok(())
    }

    /// `true` if the kernel side has to be told another time in which calls count.
    fn look_at_calls(&mut self, kernel: &mut dyn Orders, now_ns: &dyn Fn() -> u64) -> anyhow::Result<bool> {
        let Some(io) = &mut self.io else {
            if !self.has_sockets || now_ns() < self.next_ns {
                return Ok(false);
            }
            let calls = kernel.counter(Counter::IoCalls)?;
            let held = kernel.attach_io()?;
            // Those in progress count neither when they began nor when they end.
            let from_ns = now_ns();
            self.looked_ns += WINDOW_NS;
            self.io = Some(Looking {
                _held: held,
                from_ns,
                until_ns: from_ns + WINDOW_NS,
                since_ns: from_ns,
                calls,
            });
            return Ok(true);
        };
        let now_ns = now_ns();
        let passed_ns = now_ns.saturating_sub(io.since_ns);
        if passed_ns < SHORTEST_NS {
            return Ok(false);
        }
        let calls = kernel.counter(Counter::IoCalls)?;
        // Of the last moment alone: a burst after a long quiet would not be noticed.
        let a_second = u128::from(calls.saturating_sub(io.calls)) * 1_000_000_000 / u128::from(passed_ns);
        let a_second = u64::try_from(a_second).unwrap_or(u64::MAX);
        (io.since_ns, io.calls) = (now_ns, calls);
        if a_second <= FEW_A_SECOND {
            let until_ns = (now_ns + AHEAD_NS).max(io.until_ns);
            self.looked_ns += until_ns - io.until_ns.max(now_ns);
            io.until_ns = until_ns;
            return Ok(true);
        }
        if now_ns.saturating_sub(io.from_ns) < WINDOW_NS {
            return Ok(false);
        }
        let pause_ns = WINDOW_NS.saturating_mul(a_second / FEW_A_SECOND).min(LONGEST_PAUSE_NS);
        self.looked_ns = self.looked_ns.saturating_sub(io.until_ns.saturating_sub(now_ns));
        self.next_ns = now_ns + pause_ns;
        self.io = None;
        Ok(true)
    }
}

impl Descriptors {
    /// What a process has open. Where that cannot be read, it may be anything.
    fn add(&mut self, folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else {
            (self.loops, self.sockets) = (true, true);
            return;
        };
        for entry in entries.flatten().take(MOST_DESCRIPTORS) {
            if self.loops && self.sockets {
                return;
            }
            let Ok(link) = fs::read_link(entry.path()) else {
                continue;
            };
            let link = link.as_os_str().as_encoded_bytes();
            self.loops |= link == b"anon_inode:[eventpoll]";
            self.sockets |= link.starts_with(b"socket:[");
        }
    }
}

impl Waits {
    /// Puts in place what can be of use now, and takes away what has cost enough.
    pub(super) fn spare(&mut self, host: &Recording, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        let Some(sparing) = self.sparing.as_mut().filter(|_| self.end_ns.is_none()) else {
            return Ok(());
        };
        if self.wanted.stalls.is_some() || self.wanted.io {
            sparing.look_for(host, kernel, cost::monotonic_ns())?;
        }
        let changed = self.wanted.io && sparing.look_at_calls(kernel, &cost::monotonic_ns)?;
        let control = self.control();
        if let Some(maps) = self.maps.as_mut().filter(|_| changed) {
            maps.set_control(control);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orders::fake::Asked;

    const MS: u64 = 1_000_000;

    /// Looks at calls every 50 ms for so long, of which there are so many a second.
    fn looked(a_second: u64, seconds: u64) -> (Sparing, Asked) {
        let (mut sparing, mut kernel) = (Sparing::default(), Asked::default());
        sparing.has_sockets = true;
        let mut counted = 0;
        for turn in 0..seconds * 20 {
            let now_ns = 1_000 * MS + turn * 50 * MS;
            if sparing.io.is_some() {
                counted += a_second / 20;
                kernel.set(Counter::IoCalls, counted);
            }
            sparing.look_at_calls(&mut kernel, &|| now_ns).unwrap();
        }
        sparing.end(1_000 * MS + seconds * 1_000 * MS);
        (sparing, kernel)
    }

    #[test]
    fn few_calls_are_looked_at_all_the_time_and_of_many_a_part() {
        let (few, kernel) = looked(5_000, 10);
        assert_eq!((few.looked_ns(), kernel.orders.len()), (10_000 * MS, 1));
        let (many, kernel) = looked(500_000, 10);
        assert!(
            (400 * MS..=700 * MS).contains(&many.looked_ns()),
            "{}",
            many.looked_ns()
        );
        assert!((4..=6).contains(&kernel.orders.len()), "{:?}", kernel.orders);
    }

    #[test]
    fn what_cannot_be_read_may_have_both_and_what_has_nothing_open_has_neither() {
        let mut found = Descriptors::default();
        found.add(Path::new("/proc/self/task"));
        assert_eq!(found, Descriptors::default());
        found.add(Path::new("/nowhere"));
        assert!(found.loops && found.sockets);
    }
}
