//! What processes do, told by the kernel itself: new executable mappings, exec, fork, exit, renaming.
//!
//! perf calls these records the side band of a profile. They cost the target nothing beyond what the kernel does
//! anyway, need no eBPF program, and arrive with the same clock as the samples. A dummy software event per CPU, which
//! never counts anything, carries them into a ring buffer shared with the kernel.
//!
//! The formats are those of perf_event_open(2), and were tried on Linux 6.18; the newest thing used is `use_clockid`,
//! of Linux 4.1.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail};
use perf_event_open_sys as sys;
use sys::bindings as abi;

use super::maps::{MapEntry, MapName};

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
                ring.event.as_raw_fd(),
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
        self.rings.iter().map(|ring| ring.mapped_bytes).sum()
    }

    /// Reads one ring and says whether there was anything.
    fn drain_ring(&mut self, at: usize, events: &mut Vec<SidebandEvent>) -> bool {
        self.scratch.clear();
        if self.rings[at].take(&mut self.scratch).is_err() {
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

/// The dummy event of one CPU and its ring buffer.
struct Ring {
    cpu: u32,
    event: OwnedFd,
    /// The control page, followed by the records.
    control: NonNull<abi::perf_event_mmap_page>,
    mapped_bytes: usize,
    data_offset: usize,
    /// A power of two.
    data_bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and `Ring` has no other state tied to one.
unsafe impl Send for Ring {}

impl Ring {
    /// Opens the event; none if the CPU is offline.
    fn open(cpu: u32, data_pages: usize) -> anyhow::Result<Option<Self>> {
        let mut attributes = attributes();
        let cpu_number = i32::try_from(cpu).with_context(|| format!("there is no cpu {cpu}"))?;
        // SAFETY: the attributes are initialized and outlive the call; the event changes nothing in any process.
        let event = unsafe {
            sys::perf_event_open(
                &raw mut attributes,
                -1,
                cpu_number,
                -1,
                abi::PERF_FLAG_FD_CLOEXEC.into(),
            )
        };
        if event < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENODEV) => Ok(None),
                Some(libc::EACCES | libc::EPERM) => Err(error)
                    .context("cannot follow processes: perf events are refused; run as root or grant CAP_PERFMON"),
                Some(libc::EMFILE) => {
                    Err(error).context("cannot follow processes: too many open files; raise `ulimit -n`")
                }
                Some(libc::ENOSYS) => {
                    Err(error).context("cannot follow processes: this kernel is built without perf events")
                }
                _ => Err(error).with_context(|| format!("cannot follow processes on cpu {cpu}")),
            };
        }
        // SAFETY: the descriptor was just created and has no other owner.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        Self::map(cpu, event, data_pages).map(Some)
    }

    fn map(cpu: u32, event: OwnedFd, mut data_pages: usize) -> anyhow::Result<Self> {
        // SAFETY: a plain query.
        let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).context("no page size")?;
        let (address, mapped_bytes) = loop {
            let bytes = (1 + data_pages) * page_bytes;
            // SAFETY: a new mapping at an address the kernel chooses.
            let address = unsafe {
                libc::mmap(
                    ptr::null_mut(),
                    bytes,
                    // Writable: only then does the kernel keep to our read position instead of overwriting.
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED,
                    event.as_raw_fd(),
                    0,
                )
            };
            if address != libc::MAP_FAILED {
                break (address, bytes);
            }
            let error = io::Error::last_os_error();
            // Without CAP_IPC_LOCK the size is limited, and without memory so is everything. A smaller ring loses
            // records sooner, and counts them.
            let smaller_may_do = matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOMEM));
            if !smaller_may_do || data_pages == 1 {
                return Err(error).with_context(|| {
                    format!(
                        "cannot map {} KiB for cpu {cpu}; raise kernel.perf_event_mlock_kb",
                        bytes / 1024
                    )
                });
            }
            data_pages /= 2;
        };
        let control = NonNull::new(address.cast::<abi::perf_event_mmap_page>()).context("mapped at address 0")?;
        let mut ring = Self {
            cpu,
            event,
            control,
            mapped_bytes,
            data_offset: page_bytes,
            data_bytes: 0,
        };

        // SAFETY: the control page is mapped, and the kernel has filled these in before mmap returned (4.1 and later).
        let (offset, size) = unsafe { ((*control.as_ptr()).data_offset, (*control.as_ptr()).data_size) };
        ring.data_offset = usize::try_from(offset).unwrap_or(usize::MAX);
        ring.data_bytes = usize::try_from(size).unwrap_or(usize::MAX);
        let end = ring.data_offset.checked_add(ring.data_bytes);
        if !ring.data_bytes.is_power_of_two() || end.is_none_or(|end| end > mapped_bytes) {
            bail!("the perf ring of cpu {cpu} has an unknown shape");
        }
        Ok(ring)
    }

    /// Moves the recorded bytes out. A ring whose positions make no sense is emptied unread.
    fn take(&mut self, bytes: &mut Vec<u8>) -> Result<(), Torn> {
        let head = self.position(|control| {
            // SAFETY: `control` points to the mapped control page; only a place in it is named.
            unsafe { &raw mut (*control).data_head }
        });
        let tail = self.position(|control| {
            // SAFETY: as above.
            unsafe { &raw mut (*control).data_tail }
        });
        // Acquire: the kernel publishes `data_head` after the records (smp_wmb in perf_output_put_handle,
        // kernel/events/ring_buffer.c), so records read after this load are whole.
        let end = head.load(Ordering::Acquire);
        // Only this side writes the tail, so no order is needed to read it back.
        let start = tail.load(Ordering::Relaxed);

        let recorded = usize::try_from(end.wrapping_sub(start)).unwrap_or(usize::MAX);
        let whole = recorded <= self.data_bytes;
        if whole && recorded > 0 {
            // Positions only ever grow; the place in the ring is what is left after whole turns.
            let from = (start & (self.data_bytes as u64 - 1)) as usize;
            let first = recorded.min(self.data_bytes - from);
            self.copy(from, first, bytes);
            // The rest of a record that runs over the end of the ring stands at its start.
            self.copy(0, recorded - first, bytes);
        }
        // Release: the copies above are done before the kernel learns that it may overwrite them.
        tail.store(end, Ordering::Release);
        if whole { Ok(()) } else { Err(Torn) }
    }

    fn position(&self, place: impl FnOnce(*mut abi::perf_event_mmap_page) -> *mut u64) -> &AtomicU64 {
        // SAFETY: the place is an aligned u64 in the control page, which stays mapped as long as `self` lives, and
        // which both sides only access atomically after the mapping was set up.
        unsafe { AtomicU64::from_ptr(place(self.control.as_ptr())) }
    }

    /// Copies `count` bytes of the ring, which the kernel leaves alone until the tail moves past them.
    fn copy(&self, from: usize, count: usize, bytes: &mut Vec<u8>) {
        debug_assert!(from + count <= self.data_bytes);
        bytes.reserve(count);
        // SAFETY: the source is inside the mapping (`map` checked the ring's place, `take` the range) and not written
        // meanwhile; the destination has room for `count` bytes after its length, which then are initialized.
        unsafe {
            let source = self.control.as_ptr().cast::<u8>().add(self.data_offset + from);
            ptr::copy_nonoverlapping(source, bytes.as_mut_ptr().add(bytes.len()), count);
            bytes.set_len(bytes.len() + count);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped, and nothing borrows from it any longer.
        unsafe {
            libc::munmap(self.control.as_ptr().cast(), self.mapped_bytes);
        }
    }
}

/// More bytes between a ring's positions than the ring has.
struct Torn;

fn attributes() -> abi::perf_event_attr {
    let mut attributes = abi::perf_event_attr {
        type_: abi::PERF_TYPE_SOFTWARE,
        config: abi::PERF_COUNT_SW_DUMMY.into(),
        size: size_of::<abi::perf_event_attr>() as u32,
        sample_type: SAMPLE_TYPE,
        ..Default::default()
    };
    // Executable mappings only (`mmap_data` asks for the others), with device and inode (`mmap2`).
    attributes.set_mmap(1);
    attributes.set_mmap2(1);
    attributes.set_comm(1);
    attributes.set_comm_exec(1);
    attributes.set_task(1);
    attributes.set_sample_id_all(1);
    attributes.set_use_clockid(1);
    attributes.clockid = libc::CLOCK_MONOTONIC;
    // Wake on every record. `wakeup_events` counts samples only (perf_output_sample, kernel/events/core.c), and a dummy
    // event has none: with it a reader sleeps until the ring is half full (ring_buffer_init,
    // kernel/events/ring_buffer.c; on 6.18 that was seconds).
    attributes.set_watermark(1);
    attributes.__bindgen_anon_2.wakeup_watermark = 1;
    attributes
}

/// What stands at the end of every record because of `sample_id_all`.
const SAMPLE_TYPE: u64 = (abi::PERF_SAMPLE_TID | abi::PERF_SAMPLE_TIME | abi::PERF_SAMPLE_CPU) as u64;

/// pid, tid, time, cpu, reserved.
const TRAILER_BYTES: usize = 4 + 4 + 8 + 4 + 4;

/// type, misc, size.
const HEADER_BYTES: usize = 4 + 2 + 2;

/// Parses whole records and returns how many could not be read. A record of a kind nobody asked for counts too.
fn parse_records(mut bytes: &[u8], events: &mut Vec<SidebandEvent>) -> u64 {
    let mut unreadable = 0;
    while !bytes.is_empty() {
        let mut fields = Fields(bytes);
        let header = (|| Some((fields.u32()?, fields.u16()?, usize::from(fields.u16()?))))();
        let Some((kind, misc, size)) = header else {
            return unreadable + 1;
        };
        // Without a sound size there is no next record.
        let Some((record, rest)) = bytes.split_at_checked(size).filter(|_| size >= HEADER_BYTES) else {
            return unreadable + 1;
        };
        match parse_record(kind, misc, &record[HEADER_BYTES..]) {
            Some(event) => events.push(event),
            None => unreadable += 1,
        }
        bytes = rest;
    }
    unreadable
}

fn parse_record(kind: u32, misc: u16, body: &[u8]) -> Option<SidebandEvent> {
    let (body, trailer) = body.split_at_checked(body.len().checked_sub(TRAILER_BYTES)?)?;
    let mut trailer = Fields(trailer);
    let _who = trailer.u64()?;
    let time_ns = trailer.u64()?;

    let misc = u32::from(misc);
    let mut fields = Fields(body);
    let kind = match kind {
        abi::PERF_RECORD_MMAP2 => parse_mmap2(misc, fields)?,
        abi::PERF_RECORD_COMM => {
            let (pid, tid) = (fields.u32()?, fields.u32()?);
            let comm = String::from_utf8_lossy(fields.text()).into_owned();
            if misc & abi::PERF_RECORD_MISC_COMM_EXEC != 0 {
                SidebandKind::Exec { pid, comm }
            } else {
                SidebandKind::Comm { pid, tid, comm }
            }
        }
        abi::PERF_RECORD_FORK => {
            let (pid, parent_pid, tid, parent_tid) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
            SidebandKind::Fork {
                parent_pid,
                parent_tid,
                pid,
                tid,
            }
        }
        abi::PERF_RECORD_EXIT => {
            let (pid, _parent_pid, tid) = (fields.u32()?, fields.u32()?, fields.u32()?);
            SidebandKind::Exit { pid, tid }
        }
        abi::PERF_RECORD_LOST => {
            let _event_id = fields.u64()?;
            SidebandKind::Lost { records: fields.u64()? }
        }
        _ => return None,
    };
    Some(SidebandEvent { time_ns, kind })
}

fn parse_mmap2(misc: u32, mut fields: Fields<'_>) -> Option<SidebandKind> {
    // Then a build id stands where device and inode should be; this was not asked for.
    if misc & abi::PERF_RECORD_MISC_MMAP_BUILD_ID != 0 {
        return None;
    }
    let (pid, tid) = (fields.u32()?, fields.u32()?);
    let (start, bytes, offset) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (major, minor) = (fields.u32()?, fields.u32()?);
    let (inode, _generation) = (fields.u64()?, fields.u64()?);
    let (protection, _flags) = (fields.u32()?, fields.u32()?);
    let end = start.checked_add(bytes).filter(|&end| end > start)?;
    let map = MapEntry {
        start,
        end,
        offset,
        executable: protection & libc::PROT_EXEC as u32 != 0,
        device: (major, minor),
        inode,
        // Unlike in /proc/PID/maps, a line feed in the name is not escaped.
        name: MapName::from_kernel(fields.text()),
    };
    Some(SidebandKind::Mmap { pid, tid, map })
}

/// The rest of a record, read from its front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    /// A name that fills the rest of the record: its bytes up to the padding.
    fn text(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        let (text, _padding) = std::mem::take(&mut self.0).split_at(end);
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record as the kernel writes it: header, body, trailer.
    fn record(kind: u32, misc: u32, time_ns: u64, body: &[&[u8]]) -> Vec<u8> {
        let mut body = body.concat();
        body.resize(body.len().next_multiple_of(8), 0);
        let size = HEADER_BYTES + body.len() + TRAILER_BYTES;
        let mut bytes = Vec::new();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((misc as u16).to_ne_bytes());
        bytes.extend((size as u16).to_ne_bytes());
        bytes.extend(body);
        bytes.extend([0; 8]);
        bytes.extend(time_ns.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn mmap2(name: &[u8]) -> Vec<u8> {
        let mut numbers = words(&[7, 8]);
        for number in [0x1000u64, 0x2000, 0x3000] {
            numbers.extend(number.to_ne_bytes());
        }
        numbers.extend(words(&[0xfe, 1]));
        numbers.extend(42u64.to_ne_bytes());
        numbers.extend(0u64.to_ne_bytes());
        numbers.extend(words(&[5, 2]));
        record(abi::PERF_RECORD_MMAP2, 2, 99, &[&numbers, name, b"\0"])
    }

    fn parsed(bytes: &[u8]) -> (Vec<SidebandKind>, u64) {
        let mut events = Vec::new();
        let unreadable = parse_records(bytes, &mut events);
        (events.into_iter().map(|event| event.kind).collect(), unreadable)
    }

    #[test]
    fn every_kind_of_record_is_read() {
        let mut bytes = mmap2(b"/usr/lib/a\nb.so (deleted)");
        bytes.extend(record(abi::PERF_RECORD_COMM, 0, 1, &[&words(&[7, 8]), b"worker\0"]));
        bytes.extend(record(
            abi::PERF_RECORD_COMM,
            abi::PERF_RECORD_MISC_COMM_EXEC,
            2,
            &[&words(&[7, 7]), b"python3\0"],
        ));
        bytes.extend(record(
            abi::PERF_RECORD_FORK,
            0,
            3,
            &[&words(&[9, 7, 10, 8]), &3u64.to_ne_bytes()],
        ));
        bytes.extend(record(
            abi::PERF_RECORD_EXIT,
            0,
            4,
            &[&words(&[9, 7, 10, 8]), &4u64.to_ne_bytes()],
        ));
        bytes.extend(record(
            abi::PERF_RECORD_LOST,
            0,
            5,
            &[&1u64.to_ne_bytes(), &77u64.to_ne_bytes()],
        ));
        let map = MapEntry {
            start: 0x1000,
            end: 0x3000,
            offset: 0x3000,
            executable: true,
            device: (0xfe, 1),
            inode: 42,
            name: MapName::File {
                path: "/usr/lib/a\nb.so".into(),
                deleted: true,
            },
        };
        let expected = vec![
            SidebandKind::Mmap { pid: 7, tid: 8, map },
            SidebandKind::Comm {
                pid: 7,
                tid: 8,
                comm: "worker".into(),
            },
            SidebandKind::Exec {
                pid: 7,
                comm: "python3".into(),
            },
            SidebandKind::Fork {
                parent_pid: 7,
                parent_tid: 8,
                pid: 9,
                tid: 10,
            },
            SidebandKind::Exit { pid: 9, tid: 10 },
            SidebandKind::Lost { records: 77 },
        ];
        assert_eq!(parsed(&bytes), (expected, 0));
    }

    #[test]
    fn an_unknown_record_is_counted_and_the_next_one_is_read() {
        let mut bytes = record(4242, 0, 1, &[b"whatever"]);
        bytes.extend(record(
            abi::PERF_RECORD_EXIT,
            0,
            4,
            &[&words(&[9, 7, 10, 8]), &4u64.to_ne_bytes()],
        ));
        assert_eq!(parsed(&bytes), (vec![SidebandKind::Exit { pid: 9, tid: 10 }], 1));
    }

    #[test]
    fn a_record_of_no_size_ends_the_reading() {
        assert_eq!(parsed(&[0; 64]), (vec![], 1));
    }

    #[test]
    fn rings_shrink_as_cpus_grow() {
        assert_eq!(
            [0, 1, 8, 9, 64, 100, 1024, 10_000].map(data_pages),
            [128, 128, 128, 64, 16, 8, 8, 8]
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parsed(&bytes);
        }

        #[test]
        fn arbitrary_bodies_never_panic(
            kind in prop_oneof![0u32..20, any::<u32>()],
            misc: u16,
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let (events, unreadable) = parsed(&record(kind, misc.into(), 0, &[&body]));
            prop_assert_eq!(events.len() as u64 + unreadable, 1);
        }

        #[test]
        fn a_cut_record_is_unreadable_and_never_panics(cut in 1usize..80) {
            let whole = mmap2(b"/usr/lib/x");
            let cut = cut.min(whole.len() - 1);
            prop_assert_eq!(parsed(&whole[..whole.len() - cut]), (vec![], 1));
        }
    }

    /// Needs root or CAP_PERFMON; says so and passes elsewhere (the end-to-end tests need both anyway).
    fn privileged() -> Option<Sideband> {
        match Sideband::open(&online_cpus()) {
            Ok(sideband) => Some(sideband),
            Err(error) => {
                eprintln!("skipped: {error:#}");
                None
            }
        }
    }

    fn online_cpus() -> Vec<u32> {
        let text = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("online cpus");
        let number = |text: &str| text.parse::<u32>().expect("a cpu number");
        let range = |part: &str| match part.split_once('-') {
            Some((first, last)) => number(first)..=number(last),
            None => number(part)..=number(part),
        };
        text.trim().split(',').flat_map(range).collect()
    }

    fn wait_for(sideband: &mut Sideband, events: &mut Vec<SidebandEvent>, last: impl Fn(&SidebandKind) -> bool) {
        while !events.iter().any(|event| last(&event.kind)) {
            let mut poll = libc::pollfd {
                fd: sideband.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one valid entry.
            let ready = unsafe { libc::poll(&raw mut poll, 1, 10_000) };
            assert_eq!(ready, 1, "woken within ten seconds");
            sideband.drain(events);
        }
    }

    #[test]
    fn a_program_that_is_started_is_seen_from_fork_to_exit() {
        let Some(mut sideband) = privileged() else { return };
        let mut child = std::process::Command::new("/bin/true")
            .spawn()
            .expect("start /bin/true");
        let born = child.id();
        let mut events = Vec::new();
        wait_for(
            &mut sideband,
            &mut events,
            |kind| matches!(kind, SidebandKind::Exit { pid, .. } if *pid == born),
        );
        child.wait().expect("reap");

        assert_eq!(sideband.unreadable(), 0);
        let position = |wanted: &dyn Fn(&SidebandKind) -> bool| {
            events.iter().position(|event| wanted(&event.kind)).expect("the event")
        };
        let me = std::process::id();
        let fork = position(
            &|kind| matches!(kind, SidebandKind::Fork { pid, parent_pid, .. } if (*pid, *parent_pid) == (born, me)),
        );
        let exec = position(&|kind| matches!(kind, SidebandKind::Exec { pid, comm } if *pid == born && comm == "true"));
        let libc_mapped = position(&|kind| {
            matches!(kind, SidebandKind::Mmap { pid, map, .. }
                if *pid == born && map.executable && map.path().is_some_and(|path| path.ends_with("libc.so.6")))
        });
        assert!(fork < exec && exec < libc_mapped, "{fork} {exec} {libc_mapped}");
    }

    /// Keeps the calling thread, which is this test's own, where it is.
    fn stay_on_this_cpu() {
        // SAFETY: `set` is a plain bit set that lives across the calls; 0 is the calling thread.
        let pinned = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(libc::sched_getcpu().unsigned_abs() as usize, &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
        };
        assert_eq!(pinned, 0);
    }

    #[test]
    fn a_full_ring_counts_what_it_loses_and_goes_on() {
        let Some(mut sideband) = privileged() else { return };
        // A ring reports its loss with its next record: on another CPU there may never be one.
        stay_on_this_cpu();
        // Each change of protection to executable is a record of about 100 bytes.
        // SAFETY: a new private mapping, unmapped below and used by nobody else.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                4096,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED);
        let toggle = |times: usize| {
            for _ in 0..times {
                for protection in [libc::PROT_READ | libc::PROT_EXEC, libc::PROT_READ] {
                    // SAFETY: the page mapped above.
                    assert_eq!(unsafe { libc::mprotect(page, 4096, protection) }, 0);
                }
            }
        };
        let mine = |events: &[SidebandEvent]| {
            let here = |kind: &SidebandKind| matches!(kind, SidebandKind::Mmap { map, .. } if map.start == page as u64);
            events.iter().filter(|event| here(&event.kind)).count() as u64
        };
        let count = 20_000;
        toggle(count);
        let mut events = Vec::new();
        sideband.drain(&mut events);
        let seen = mine(&events);
        assert!(seen > 1000 && seen < count as u64, "{seen} seen");

        // The kernel reports a loss with the next record it has room for. A ring that was emptied wraps at another
        // place each time: nothing is unreadable.
        for _ in 0..100 {
            toggle(100);
            sideband.drain(&mut events);
        }
        assert_eq!(sideband.unreadable(), 0);
        assert!(sideband.lost() > 0);
        // Other tests' processes may lose records too, so this is a lower bound.
        assert!(mine(&events) + sideband.lost() >= count as u64 + 100 * 100);
        // SAFETY: the page mapped above.
        unsafe { libc::munmap(page, 4096) };
    }

    #[test]
    fn a_cpu_that_leaves_keeps_its_last_words() {
        let Some(mut sideband) = privileged() else { return };
        std::process::Command::new("/bin/true").status().expect("run /bin/true");
        for cpu in online_cpus() {
            sideband.remove_cpu(cpu);
        }
        assert_eq!(sideband.ring_bytes(), 0);
        let mut events = Vec::new();
        sideband.drain(&mut events);
        assert!(
            events
                .iter()
                .any(|event| matches!(&event.kind, SidebandKind::Exec { comm, .. } if comm == "true"))
        );
        for cpu in online_cpus() {
            assert!(sideband.add_cpu(cpu).expect("allowed"));
            assert!(!sideband.add_cpu(cpu).expect("allowed"));
        }
        assert!(!sideband.add_cpu(100_000).unwrap_or(false), "there is no such cpu");
    }
}
