//! A process's memory, of which only those pages are read that it has: looking leaves no trace.
//!
//! `process_vm_readv` does for the process what it would have done itself: a page that it has not touched is mapped into
//! it, one that was swapped out is fetched. Its RSS grew by up to 1.1 MB of pages of files (CPython 3.9 with numpy), later
//! page faults did not happen, and a process near its limit could have been pushed over it. `/proc/PID/pagemap` says
//! beforehand which pages are there (Documentation/admin-guide/mm/pagemap.rst). Of the others, what the process would
//! find is known without it: what the file has, or zeros. What is swapped out stays there, and cannot be read.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    io,
    os::unix::fs::FileExt as _,
};

use rustc_hash::FxHashMap;

use crate::{
    process::{
        file::{FileKey, MappedFile},
        maps::{self, MapEntry},
    },
    python::memory::{ProcessMemory, ReadMemory},
};

const PAGE: u64 = 4096;
/// Pages that are asked for at once: an arena has 64 or 256.
const MOST_AT_ONCE: usize = 256;

/// Documentation/admin-guide/mm/pagemap.rst
mod bits {
    pub const PRESENT: u64 = 1 << 63;
    pub const SWAPPED: u64 = 1 << 62;
}

/// What a page of a process is, without asking for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Present,
    /// Was not touched: it has what the file has, or zeros.
    Untouched,
    Swapped,
}

impl Page {
    fn of(entry: u64) -> Self {
        match (entry & bits::PRESENT != 0, entry & bits::SWAPPED != 0) {
            (true, _) => Self::Present,
            (false, true) => Self::Swapped,
            (false, false) => Self::Untouched,
        }
    }
}

#[derive(Debug)]
pub struct Present {
    memory: ProcessMemory,
    pagemap: File,
    /// By address; those of when this was made.
    entries: Vec<MapEntry>,
    files: RefCell<FxHashMap<FileKey, Option<MappedFile>>>,
    swapped: Cell<u64>,
}

impl Present {
    /// # Errors
    /// If the process is gone, or may not be looked at.
    pub fn of(pid: u32) -> io::Result<Self> {
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        let mut entries = maps::read(pid)?.entries;
        entries.sort_by_key(|entry| entry.start);
        Ok(Self {
            memory: ProcessMemory { pid },
            pagemap,
            entries,
            files: RefCell::default(),
            swapped: Cell::new(0),
        })
    }

    /// How often a page was wanted that is swapped out.
    pub fn swapped(&self) -> u64 {
        self.swapped.get()
    }

    /// Calls back with runs of pages of one kind, until it returns `false`. Whether it never did.
    fn runs(&self, address: u64, bytes: usize, mut run: impl FnMut(Page, u64, usize) -> bool) -> bool {
        let Some(end) = address.checked_add(bytes as u64) else {
            return false;
        };
        let mut at = address;
        while at < end {
            let first = at / PAGE;
            let wanted = (end.div_ceil(PAGE) - first).min(MOST_AT_ONCE as u64) as usize;
            let mut words = [[0; 8]; MOST_AT_ONCE];
            let words = &mut words[..wanted];
            // What is no user's address has no entry.
            if self.pagemap.read_exact_at(words.as_flattened_mut(), 8 * first).is_err() {
                return false;
            }
            let kinds = words.iter().map(|word| Page::of(u64::from_le_bytes(*word)));
            let mut rest = kinds.enumerate().peekable();
            while let Some((_, kind)) = rest.next() {
                while rest.next_if(|&(_, next)| next == kind).is_some() {}
                let after = rest.peek().map_or(wanted, |&(place, _)| place);
                let until = ((first + after as u64) * PAGE).min(end);
                if !run(kind, at, (until - at) as usize) {
                    return false;
                }
                at = until;
            }
        }
        true
    }

    /// What the process would find in pages that it has not touched. Nothing of the process is asked.
    fn untouched(&self, address: u64, mut into: &mut [u8]) -> bool {
        let mut at = address;
        while !into.is_empty() {
            let after = self.entries.partition_point(|entry| entry.start <= at);
            let Some(entry) = self.entries[..after].last().filter(|entry| entry.contains(at)) else {
                // Mapped since then, or not at all: in neither case there are objects.
                return false;
            };
            let here = into.len().min((entry.end - at) as usize);
            let (now, later) = into.split_at_mut(here);
            if !self.of_file(entry, at, now) {
                return false;
            }
            into = later;
            at += here as u64;
        }
        true
    }

    fn of_file(&self, entry: &MapEntry, address: u64, into: &mut [u8]) -> bool {
        into.fill(0);
        let Some(key) = FileKey::of(entry) else { return true };
        let mut files = self.files.borrow_mut();
        let file = files
            .entry(key)
            .or_insert_with(|| MappedFile::open(self.memory.pid, entry).ok());
        let (Some(file), Some(mut offset)) = (file, entry.file_offset(address)) else {
            return false;
        };
        let mut rest = into;
        while !rest.is_empty() {
            match file.file().read_at(rest, offset) {
                // Behind the end of the file: zeros to the end of the page, and a fault after it.
                Ok(0) => break,
                Ok(read) => {
                    rest = &mut rest[read..];
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

impl ReadMemory for Present {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let mut rest = into;
        self.runs(address, rest.len(), |kind, at, bytes| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(bytes);
            rest = later;
            match kind {
                Page::Present => self.memory.read(at, now),
                Page::Untouched => self.untouched(at, now),
                Page::Swapped => {
                    self.swapped.set(self.swapped.get() + 1);
                    false
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, os::fd::AsRawFd as _, ptr, slice};

    use super::*;

    /// A mapping of our own.
    struct Mapped {
        address: *mut u8,
        bytes: usize,
    }

    impl Mapped {
        fn new(pages: usize, file: Option<&File>) -> Self {
            let bytes = pages * PAGE as usize;
            let flags = libc::MAP_PRIVATE | if file.is_some() { 0 } else { libc::MAP_ANONYMOUS };
            let fd = file.map_or(-1, |file| file.as_raw_fd());
            // SAFETY: a new private mapping, wherever the kernel has room.
            let address =
                unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
            assert_ne!(address, libc::MAP_FAILED);
            // SAFETY: it is ours. Large pages would be touched together.
            unsafe { libc::madvise(address, bytes, libc::MADV_NOHUGEPAGE) };
            // SAFETY: likewise; the kernel would map pages of a file around the one that is touched.
            unsafe { libc::madvise(address, bytes, libc::MADV_RANDOM) };
            Self {
                address: address.cast(),
                bytes,
            }
        }

        fn put(&self, at: usize, byte: u8) {
            assert!(at < self.bytes);
            // SAFETY: within the mapping, which may be written to.
            unsafe { self.address.add(at).write_volatile(byte) };
        }

        fn resident(&self) -> Vec<bool> {
            let pagemap = File::open("/proc/self/pagemap").unwrap();
            (0..self.bytes as u64 / PAGE)
                .map(|page| {
                    let mut word = [0; 8];
                    let at = 8 * (self.address as u64 / PAGE + page);
                    pagemap.read_exact_at(&mut word, at).unwrap();
                    Page::of(u64::from_le_bytes(word)) == Page::Present
                })
                .collect()
        }
    }

    impl Drop for Mapped {
        fn drop(&mut self) {
            // SAFETY: the mapping is ours, and nothing refers to it any more.
            unsafe { libc::munmap(self.address.cast(), self.bytes) };
        }
    }

    fn ours() -> Present {
        Present::of(std::process::id()).unwrap()
    }

    #[test]
    fn reading_makes_no_page_resident_and_finds_what_a_touch_would() {
        let mut file = tempfile::tempfile().unwrap();
        // The last page is half a page of the file.
        let content: Vec<u8> = (0..7 * PAGE as usize / 2).map(|at| (at / 7) as u8).collect();
        file.write_all(&content).unwrap();
        for file in [None, Some(&file)] {
            let mapped = Mapped::new(4, file);
            let before: Vec<u8> = match file {
                Some(_) => [&content[..], &vec![0; PAGE as usize / 2]].concat(),
                None => vec![0; mapped.bytes],
            };
            mapped.put(PAGE as usize + 3, 77);
            let memory = ours();
            let mut found = vec![1; mapped.bytes];
            assert!(memory.read(mapped.address as u64, &mut found));
            assert_eq!(mapped.resident(), [false, true, false, false]);
            let mut expected = before;
            expected[PAGE as usize + 3] = 77;
            assert!(found == expected, "with a file: {}", file.is_some());
            // From within a page to within another.
            let mut some = vec![1; PAGE as usize + 100];
            assert!(memory.read(mapped.address as u64 + PAGE - 50, &mut some));
            assert!(some == expected[PAGE as usize - 50..2 * PAGE as usize + 50]);
            assert_eq!(mapped.resident(), [false, true, false, false]);
            // SAFETY: within the mapping; that it is touched is the point.
            let touched = unsafe { slice::from_raw_parts(mapped.address, mapped.bytes) };
            assert!(touched == expected);
            assert_eq!(mapped.resident(), [true; 4]);
        }
    }

    #[test]
    fn where_nothing_is_mapped_nothing_is_read() {
        let memory = ours();
        let mut bytes = [0; 16];
        assert!(!memory.read(0, &mut bytes));
        assert!(!memory.read(u64::MAX - 3, &mut bytes));
        assert!(!memory.read(1 << 63, &mut bytes));
        // A user's address that is far from programs, heaps and libraries. Not one that was mapped once: another test's
        // thread can have the place by then.
        assert!(!memory.read(1 << 44, &mut bytes));
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let error = Present::of(u32::MAX >> 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(fs::metadata("/proc/self/pagemap").is_ok());
    }

    #[test]
    fn entries_of_the_page_map_are_told_apart() {
        assert_eq!(Page::of(bits::PRESENT | 5), Page::Present);
        assert_eq!(Page::of(bits::SWAPPED | 5), Page::Swapped);
        assert_eq!(Page::of(0), Page::Untouched);
        // Of a shared file, not in memory.
        assert_eq!(Page::of(1 << 61), Page::Untouched);
    }
}
