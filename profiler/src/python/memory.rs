//! Reading another process's memory.

use std::io;

/// Somebody's memory.
pub trait ReadMemory {
    /// Fills `into` from `address`: all of it or, with `false`, nothing that counts.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;

    fn read_u64(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// `len` bytes; the caller bounds `len`.
    fn read_vec(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read(address, &mut bytes).then_some(bytes)
    }
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
    fn a_process_that_is_not_there_has_no_memory() {
        // Above the kernel's largest possible pid (`PID_MAX_LIMIT`, 4 Mi).
        assert!(!ProcessMemory { pid: 0x7fff_ffff }.read(0x1000, &mut [0]));
    }
}
