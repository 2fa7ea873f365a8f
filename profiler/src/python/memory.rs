//! Reading another process's memory.

use std::{cell::RefCell, io, slice};

use rustc_hash::FxHashMap;

/// Somebody's memory.
pub trait ReadMemory {
    /// Fills `into` from `address`: all of it or, with `false`, nothing that counts.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;

    fn read_u64(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// Fills several pieces, as nearly at once as can be: all of them or, with `false`, nothing that counts.
    fn read_pieces(&self, pieces: &mut [Piece]) -> bool {
        pieces
            .iter_mut()
            .all(|piece| self.read(piece.address, &mut piece.bytes))
    }

    /// `len` bytes; the caller bounds `len`.
    fn read_vec(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read(address, &mut bytes).then_some(bytes)
    }
}

/// A piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    pub address: u64,
    pub bytes: Vec<u8>,
}

/// A live process. `process_vm_readv` neither stops nor signals it, and needs no attaching.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory {
    pub pid: u32,
}

impl ReadMemory for ProcessMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some(address) = address.checked_add(done as u64) else {
                return false;
            };
            let local = libc::iovec {
                iov_base: rest.as_mut_ptr().cast(),
                iov_len: rest.len(),
            };
            let remote = libc::iovec {
                iov_base: address as *mut libc::c_void,
                iov_len: rest.len(),
            };
            // SAFETY: `local` describes `rest`, which is valid for writes and borrowed for the call. `remote` is only
            // an address in another process: the kernel checks it there and nothing here dereferences it.
            let read = unsafe { libc::process_vm_readv(self.pid as libc::pid_t, &local, 1, &remote, 1, 0) };
            match usize::try_from(read) {
                // A transfer may end early at a page that is not there; the next call then says why.
                Ok(read) if read > 0 => done += read,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return false,
            }
        }
        true
    }

    /// In one call: a microsecond for a dozen pieces, where each call of its own takes most of one.
    fn read_pieces(&self, pieces: &mut [Piece]) -> bool {
        /// `UIO_MAXIOV` (include/uapi/linux/uio.h).
        const MOST_PIECES: usize = 1024;
        if pieces.len() > MOST_PIECES {
            return false;
        }
        let whole: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        let remote: Vec<libc::iovec> = pieces
            .iter()
            .map(|piece| libc::iovec {
                iov_base: piece.address as *mut libc::c_void,
                iov_len: piece.bytes.len(),
            })
            .collect();
        let local: Vec<libc::iovec> = pieces
            .iter_mut()
            .map(|piece| libc::iovec {
                iov_base: piece.bytes.as_mut_ptr().cast(),
                iov_len: piece.bytes.len(),
            })
            .collect();
        // SAFETY: `local` describes the pieces' bytes, which are valid for writes and borrowed for the call. `remote` are
        // only addresses in another process: the kernel checks them there and nothing here dereferences them.
        let read = unsafe {
            libc::process_vm_readv(
                self.pid as libc::pid_t,
                local.as_ptr(),
                local.len() as libc::c_ulong,
                remote.as_ptr(),
                remote.len() as libc::c_ulong,
                0,
            )
        };
        usize::try_from(read) == Ok(whole)
    }
}

/// Memory whose pages are read once, until they are forgotten: for who follows pointers through a heap, a few bytes here and
/// there, and can bear that all of it is as old as the first look.
pub struct Paged<'a> {
    memory: &'a dyn ReadMemory,
    /// `None`: it is not there.
    pages: RefCell<FxHashMap<u64, Option<Box<[u8; PAGE_BYTES]>>>>,
}

const PAGE_BYTES: usize = 4096;

impl<'a> Paged<'a> {
    pub fn new(memory: &'a dyn ReadMemory) -> Self {
        Self {
            memory,
            pages: RefCell::new(FxHashMap::default()),
        }
    }

    pub fn forget(&self) {
        self.pages.borrow_mut().clear();
    }
}

impl ReadMemory for Paged<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        /// 16 MiB.
        const MOST_PAGES: usize = 4096;
        // What is large is not read twice.
        if into.len() >= PAGE_BYTES {
            return self.memory.read(address, into);
        }
        let mut pages = self.pages.borrow_mut();
        let mut done = 0;
        while done < into.len() {
            let Some(at) = address.checked_add(done as u64) else {
                return false;
            };
            let (start, from) = (at & !(PAGE_BYTES as u64 - 1), at as usize % PAGE_BYTES);
            if pages.len() >= MOST_PAGES {
                pages.clear();
            }
            let page = pages.entry(start).or_insert_with(|| {
                let mut page = Box::new([0; PAGE_BYTES]);
                self.memory.read(start, &mut page[..]).then_some(page)
            });
            let Some(page) = page else { return false };
            let len = (PAGE_BYTES - from).min(into.len() - done);
            into[done..done + len].copy_from_slice(&page[from..from + len]);
            done += len;
        }
        true
    }
}

/// Memory as the logic that the kernel side shares wants it.
pub struct Foreign<'a>(pub &'a dyn ReadMemory);

impl profiler_ebpf::memory::ReadMemory for Foreign<'_> {
    unsafe fn read(&self, address: u64, into: *mut u8, len: u32) -> bool {
        // SAFETY: `into` is valid for writes of `len` bytes by contract, and holds integers.
        self.0
            .read(address, unsafe { slice::from_raw_parts_mut(into, len as usize) })
    }
}

/// Memory made of pieces, for tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct FakeMemory {
    pieces: std::collections::BTreeMap<u64, Vec<u8>>,
}

#[cfg(test)]
impl FakeMemory {
    pub fn put(&mut self, address: u64, bytes: impl Into<Vec<u8>>) {
        self.pieces.insert(address, bytes.into());
    }
}

#[cfg(test)]
impl ReadMemory for FakeMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let Some((start, piece)) = self.pieces.range(..=address).next_back() else {
            return false;
        };
        let from = (address - start) as usize;
        let Some(bytes) = piece.get(from..).and_then(|rest| rest.get(..into.len())) else {
            return false;
        };
        into.copy_from_slice(bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read_and_a_hole_is_not() {
        let memory = ProcessMemory {
            pid: std::process::id(),
        };
        let text = *b"bytes of this very process";
        let mut copy = [0; 26];
        assert!(memory.read(text.as_ptr() as u64, &mut copy));
        assert_eq!(copy, text);
        assert!(!memory.read(0, &mut copy));
        assert!(!memory.read(u64::MAX - 3, &mut copy));
        assert!(memory.read(0, &mut []));
    }

    #[test]
    fn a_page_is_as_it_was_until_it_is_forgotten() {
        let mut text = vec![7_u8; 3 * PAGE_BYTES];
        let memory = ProcessMemory {
            pid: std::process::id(),
        };
        let paged = Paged::new(&memory);
        let address = text.as_ptr() as u64;
        // Across a border.
        let at = (address + PAGE_BYTES as u64) & !(PAGE_BYTES as u64 - 1);
        let read = |paged: &Paged<'_>| paged.read_vec(at - 4, 8);
        assert_eq!(read(&paged), Some(vec![7; 8]));
        text.fill(9);
        assert_eq!(read(&paged), Some(vec![7; 8]));
        paged.forget();
        assert_eq!(read(&paged), Some(vec![9; 8]));
        assert!(!paged.read(8, &mut [0; 8]));
        assert!(!paged.read(u64::MAX - 3, &mut [0; 8]));
    }

    #[test]
    fn pieces_are_read_all_or_none() {
        let memory = ProcessMemory {
            pid: std::process::id(),
        };
        let text = *b"bytes of this very process";
        let piece = |at: usize, len: usize| Piece {
            address: text.as_ptr() as u64 + at as u64,
            bytes: vec![0; len],
        };
        let mut pieces = [piece(0, 5), piece(9, 4)];
        assert!(memory.read_pieces(&mut pieces));
        assert_eq!([&pieces[0].bytes[..], &pieces[1].bytes], [&b"bytes"[..], b"this"]);
        let hole = Piece {
            address: 8,
            bytes: vec![0; 8],
        };
        assert!(!memory.read_pieces(&mut [piece(0, 5), hole]));
    }

    #[test]
    fn a_process_that_is_not_there_has_no_memory() {
        // Above the kernel's largest possible pid (`PID_MAX_LIMIT`, 4 Mi).
        assert!(!ProcessMemory { pid: 0x7fff_ffff }.read(0x1000, &mut [0]));
    }
}
