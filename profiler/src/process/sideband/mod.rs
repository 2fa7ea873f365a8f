//! What processes do, told by the kernel itself: new executable mappings, exec, fork, exit, renaming.
//!
//! perf calls these records the side band of a profile. They cost the target nothing beyond what the kernel does
//! anyway, need no eBPF program, and arrive with the same clock as the samples. A dummy software event per CPU, which
//! never counts anything, carries them into a ring buffer shared with the kernel.
//!
//! The formats are those of perf_event_open(2), and were tried on Linux 6.18; the newest thing used is `use_clockid`,
//! of Linux 4.1.

mod record;
mod ring;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::Context as _;

use self::{record::parse_records, ring::Ring};
use super::maps::MapEntry;

/// What records from the side band say; what cannot be read is left out.
pub(crate) fn parse(bytes: &[u8]) -> Vec<SidebandEvent> {
    let mut events = Vec::new();
    parse_records(bytes, &mut events);
    events
}

/// One thing a process did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidebandEvent {
    /// CLOCK_MONOTONIC.
    pub time_ns: u64,
    pub kind: SidebandKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SidebandKind {
    /// A mapping became executable, by mmap, mprotect or exec. Mappings without execute permission are not told.
    Mmap { pid: u32, tid: u32, map: MapEntry },
    /// The process runs another program now; all its mappings and other threads are gone.
    Exec { pid: u32, comm: String },
    /// The thread was renamed.
    Comm { pid: u32, tid: u32, comm: String },
    /// A new process if `pid` differs from `parent_pid`, otherwise a new thread.
    Fork {
        parent_pid: u32,
        parent_tid: u32,
        pid: u32,
        tid: u32,
    },
    /// The thread ended; the process with it if it was the last one.
    Exit { pid: u32, tid: u32 },
    /// The ring of one CPU was full: so many records are missing.
    Lost { records: u64 },
}

/// The side-band records of all CPUs.
///
/// Its file descriptor becomes readable when there is something to [`drain`](Self::drain), and stays the same when
/// CPUs come and go. It reports each wake-up once (the kernel's `perf_poll` clears its flag), so drain after each.
pub struct Sideband {
    /// Readable when any ring is.
    epoll: OwnedFd,
    rings: Vec<Ring>,
    data_pages: usize,
    /// Events of CPUs that were removed.
    left_over: Vec<SidebandEvent>,
    scratch: Vec<u8>,
    lost: u64,
    unreadable: u64,
}

impl Sideband {
    /// Starts recording on `cpus`. A CPU that is offline by now is left out.
    ///
    /// Events from before are not told: look at /proc after this, not before.
    ///
    /// # Errors
    /// If the kernel refuses; the message names the remedy.
    pub fn open(cpus: &[u32]) -> anyhow::Result<Self> {
        // SAFETY: no pointers are passed.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error()).context("cannot create an epoll instance");
        }
        // SAFETY: the descriptor was just created and has no other owner.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let mut sideband = Self {
            epoll,
            rings: Vec::with_capacity(cpus.len()),
            data_pages: data_pages(cpus.len()),
            left_over: Vec::new(),
            scratch: Vec::new(),
            lost: 0,
            unreadable: 0,
        };
        for &cpu in cpus {
            sideband.add_cpu(cpu)?;
        }
        Ok(sideband)
    }

    /// Starts recording on a CPU that came online. Returns false if it is offline again, or was recorded already.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn add_cpu(&mut self, cpu: u32) -> anyhow::Result<bool> {
        if self.rings.iter().any(|ring| ring.cpu == cpu) {
            return Ok(false);
        }
        let Some(ring) = Ring::open(cpu, self.data_pages)? else {
            return Ok(false);
        };
        let mut interest = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: u64::from(cpu),
        };
        // SAFETY: both descriptors are open, and `interest` lives across the call.
        let added = unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                ring.ring.event().as_raw_fd(),
                &raw mut interest,
            )
        };
        if added != 0 {
            return Err(io::Error::last_os_error()).context("cannot watch a perf event");
        }
        self.rings.push(ring);
        Ok(true)
    }

    /// Stops recording on a CPU that went offline. An event does not come back to life with its CPU, so this is needed
    /// before [`add_cpu`](Self::add_cpu). What was recorded comes with the next drain.
    pub fn remove_cpu(&mut self, cpu: u32) {
        let Some(at) = self.rings.iter().position(|ring| ring.cpu == cpu) else {
            return;
        };
        let mut events = std::mem::take(&mut self.left_over);
        self.drain_ring(at, &mut events);
        self.left_over = events;
        // Closing the event also takes it out of the epoll set.
        self.rings.swap_remove(at);
    }

    /// Appends everything recorded since the last call, in the order of time.
    ///
    /// A record can become visible a moment after a later one of another CPU, so the order holds within one call, and
    /// across calls only nearly.
    pub fn drain(&mut self, events: &mut Vec<SidebandEvent>) {
        // While one ring is read, a cause may be written to a ring that was already read and its effect (fork here,
        // exec there) to one that was not. Reading until nothing is new keeps them in one call; on a machine that
        // never falls silent, a few rounds must do.
        const ROUNDS: usize = 4;

        let from = events.len();
        events.append(&mut self.left_over);
        for _ in 0..ROUNDS {
            let mut any = false;
            for at in 0..self.rings.len() {
                any |= self.drain_ring(at, events);
            }
            if !any {
                break;
            }
        }
        // Stable: records of one CPU with the same time stay in the order of the ring.
        events[from..].sort_by_key(|event| event.time_ns);
    }

    /// Records that did not fit into a ring, so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Records that could not be parsed, so far. Not zero only if the kernel's format changed.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Memory of the rings, in bytes.
    pub fn ring_bytes(&self) -> usize {
        self.rings.iter().map(|ring| ring.ring.mapped_bytes()).sum()
    }

    /// Reads one ring and says whether there was anything.
    fn drain_ring(&mut self, at: usize, events: &mut Vec<SidebandEvent>) -> bool {
        self.scratch.clear();
        if self.rings[at].ring.take(&mut self.scratch).is_err() {
            self.unreadable += 1;
        }
        if self.scratch.is_empty() {
            return false;
        }
        let from = events.len();
        self.unreadable += parse_records(&self.scratch, events);
        for event in &events[from..] {
            if let SidebandKind::Lost { records } = event.kind {
                self.lost = self.lost.saturating_add(records);
            }
        }
        true
    }
}

impl AsFd for Sideband {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// For tokio's `AsyncFd`.
impl AsRawFd for Sideband {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

/// Pages of records per CPU: 128 (512 KiB, some 5,000 records), less on machines with many CPUs so that all rings
/// together stay within 4 MiB, but never less than 8.
///
/// 128 pages and the control page of one CPU are also exactly what an unprivileged user may lock
/// (`perf_event_mlock_kb`, 516 by default).
fn data_pages(cpus: usize) -> usize {
    let share = 1024 / cpus.max(1);
    match share.checked_ilog2() {
        Some(exponent) => (1 << exponent).clamp(8, 128),
        None => 8,
    }
}

#[cfg(test)]
mod tests;
