//! The ring buffer of one CPU, shared with the kernel.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, bail};
use perf_event_open_sys as sys;
use sys::bindings as abi;

use super::record::SAMPLE_TYPE;

/// The dummy event of one CPU and its ring buffer.
pub(super) struct Ring {
    pub(super) cpu: u32,
    pub(super) event: OwnedFd,
    /// The control page, followed by the records.
    control: NonNull<abi::perf_event_mmap_page>,
    pub(super) mapped_bytes: usize,
    data_offset: usize,
    /// A power of two.
    data_bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and `Ring` has no other state tied to one.
unsafe impl Send for Ring {}

impl Ring {
    /// Opens the event; none if the CPU is offline.
    pub(super) fn open(cpu: u32, data_pages: usize) -> anyhow::Result<Option<Self>> {
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
    pub(super) fn take(&mut self, bytes: &mut Vec<u8>) -> Result<(), Torn> {
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
pub(super) struct Torn;

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
