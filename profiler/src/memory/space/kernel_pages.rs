//! Asking the kernel whether a page is part of a huge one.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use rustc_hash::FxHashMap;

use super::huge::{PageProbe, PageSize};
use super::pages::{HUGE, PAGE};

/// Looks pages up in `/proc/PID/pagemap` and `/proc/kpageflags`. Both need root (CAP_SYS_ADMIN); the second one needs a
/// kernel with CONFIG_PROC_PAGE_MONITOR. Without, nothing is known.
#[derive(Debug)]
pub struct KernelPages {
    flags: Option<File>,
    /// An open pagemap stays with the address space, so one that was opened before an exec says nothing after it.
    maps: FxHashMap<u32, File>,
}

/// Descriptors that may be open at once.
const MOST_MAPS: usize = 128;

/// Documentation/admin-guide/mm/pagemap.rst
mod bits {
    pub const PRESENT: u64 = 1 << 63;
    pub const FRAME: u64 = (1 << 55) - 1;
    pub const COMPOUND_HEAD: u64 = 1 << 15;
    pub const COMPOUND_TAIL: u64 = 1 << 16;
}

impl KernelPages {
    pub fn open() -> Self {
        Self {
            flags: File::open("/proc/kpageflags").ok(),
            maps: FxHashMap::default(),
        }
    }

    /// The physical page at an address.
    fn frame(&mut self, pid: u32, address: u64) -> Option<u64> {
        if !self.maps.contains_key(&pid) {
            if self.maps.len() >= MOST_MAPS {
                self.maps.clear();
            }
            let map = File::open(format!("/proc/{pid}/pagemap")).ok()?;
            self.maps.insert(pid, map);
        }
        let entry = word_at(self.maps.get(&pid)?, address / PAGE)?;
        let frame = entry & bits::FRAME;
        // Without the right to know it, it is 0.
        (entry & bits::PRESENT != 0 && frame != 0).then_some(frame)
    }
}

impl PageProbe for KernelPages {
    /// Huge is what is physically one piece of 2 MiB: its first page is the head of a compound page, and the one in its
    /// middle is not. `KPF_THP` would not do: since 6.8 compound pages of 16 KiB – 1 MiB have it as well.
    fn size(&mut self, pid: u32, address: u64) -> PageSize {
        let Some(frame) = self.frame(pid, address) else {
            return PageSize::Unknown;
        };
        let Some(flags) = &self.flags else {
            return PageSize::Unknown;
        };
        let first = frame / HUGE * HUGE;
        match (word_at(flags, first), word_at(flags, first + HUGE / 2)) {
            (Some(head), Some(middle)) => {
                if head & bits::COMPOUND_HEAD != 0 && middle & bits::COMPOUND_TAIL != 0 {
                    PageSize::Huge
                } else {
                    PageSize::Small
                }
            }
            _ => PageSize::Unknown,
        }
    }

    fn forget(&mut self, pid: u32) {
        self.maps.remove(&pid);
    }
}

fn word_at(file: &File, index: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, index.checked_mul(8)?).ok()?;
    Some(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::{io, ptr};

    use super::super::Thp;
    use super::*;
    use crate::memory::rss::Resident;

    /// Private anonymous memory, unmapped when dropped.
    struct Memory {
        start: *mut u8,
        bytes: usize,
    }

    impl Memory {
        fn map(bytes: usize) -> Self {
            let (access, kind) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            );
            // SAFETY: a new mapping, where the kernel likes.
            let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
            assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
            Self {
                start: start.cast(),
                bytes,
            }
        }

        fn advise(&self, advice: i32) {
            // SAFETY: this is our own mapping, and nothing refers to what is in it.
            let done = unsafe { libc::madvise(self.start.cast(), self.bytes, advice) };
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
        }

        /// The first address in it that a huge page can have.
        fn aligned(&self) -> u64 {
            (self.start as u64).next_multiple_of(HUGE * PAGE)
        }

        fn write(&self, address: u64) {
            let offset = (address - self.start as u64) as usize;
            assert!(offset < self.bytes);
            // SAFETY: within the mapping, which is writable and ours alone.
            unsafe { self.start.add(offset).write_volatile(1) };
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            // SAFETY: our own mapping, to which nothing refers any more.
            unsafe { libc::munmap(self.start.cast(), self.bytes) };
        }
    }

    #[test]
    fn the_kernel_tells_huge_pages_from_small_ones_and_from_none() {
        let mut probe = KernelPages::open();
        let pid = std::process::id();
        let memory = Memory::map(8 << 20);
        memory.advise(libc::MADV_NOHUGEPAGE);
        let address = memory.aligned() + 5 * PAGE;
        memory.write(address);
        if probe.size(pid, address) == PageSize::Unknown {
            eprintln!("skipped: physical pages can be looked up by root only");
            return;
        }
        assert_eq!(probe.size(pid, address), PageSize::Small);
        assert_eq!(probe.size(pid, address + PAGE), PageSize::Unknown);

        if Thp::read() == Thp::Never {
            eprintln!("skipped: this machine has no huge pages");
            return;
        }
        let memory = Memory::map(8 << 20);
        memory.advise(libc::MADV_HUGEPAGE);
        let address = memory.aligned() + 5 * PAGE;
        memory.write(address);
        let rollup = || Resident::read(pid).expect("own memory").anonymous_huge;
        if rollup() == 0 {
            eprintln!("skipped: the kernel had no huge page to give");
            return;
        }
        assert_eq!(probe.size(pid, address), PageSize::Huge);
        assert_eq!(probe.size(pid, memory.aligned() + (HUGE - 1) * PAGE), PageSize::Huge);
        memory.advise(libc::MADV_DONTNEED);
        assert_eq!(probe.size(pid, address), PageSize::Unknown);
    }
}
