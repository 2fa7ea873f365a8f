//! The ring buffer of a perf event, shared with the kernel.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, bail};
use perf_event_open_sys::bindings as abi;

/// An event and its ring buffer.
pub struct PerfRing {
    event: OwnedFd,
    /// The control page, followed by the records.
    control: NonNull<abi::perf_event_mmap_page>,
    mapped_bytes: usize,
    data_offset: usize,
    /// A power of two.
    data_bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and `PerfRing` has no other state tied to one.
unsafe impl Send for PerfRing {}

impl PerfRing {
    /// Maps the ring of an event. `whose`: as an error is told.
    ///
    /// # Errors
    /// If there is no memory for it, or the user may not have more.
    pub fn map(event: OwnedFd, mut data_pages: usize, whose: &str) -> anyhow::Result<Self> {
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
                        "cannot map {} KiB for {whose}; raise kernel.perf_event_mlock_kb",
                        bytes / 1024
                    )
                });
            }
            data_pages /= 2;
        };
        let control = NonNull::new(address.cast::<abi::perf_event_mmap_page>()).context("mapped at address 0")?;
        let mut ring = Self {
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
            bail!("the perf ring of {whose} has an unknown shape");
        }
        Ok(ring)
    }

    pub fn event(&self) -> &OwnedFd {
        &self.event
    }

    pub fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// How many bytes of records it can hold.
    pub fn data_bytes(&self) -> usize {
        self.data_bytes
    }

    /// Moves the recorded bytes out.
    ///
    /// # Errors
    /// A ring whose positions make no sense is emptied unread.
    pub fn take(&mut self, bytes: &mut Vec<u8>) -> Result<(), Torn> {
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

impl Drop for PerfRing {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped, and nothing borrows from it any longer.
        unsafe {
            libc::munmap(self.control.as_ptr().cast(), self.mapped_bytes);
        }
    }
}

/// More bytes between a ring's positions than the ring has.
#[derive(Debug)]
pub struct Torn;
