//! Reading the memory of the sampled process.

/// Memory of another process: an address in it is an allegation, and every read may fail.
pub trait ReadMemory {
    /// Copies `len` bytes from `address` to `into`; `false` if any of them could not be read.
    ///
    /// A pointer and a length instead of a slice: slice checks would end in a panic, which BPF does not have.
    ///
    /// # Safety
    /// `into` must be valid for writes of `len` bytes.
    unsafe fn read(&self, address: u64, into: *mut u8, len: u32) -> bool;

    /// Reads one pointer-sized word.
    #[inline(always)]
    fn read_u64(&self, address: u64) -> Option<u64> {
        let mut word = 0u64;
        // SAFETY: `word` is 8 bytes long.
        unsafe { self.read(address, (&raw mut word).cast(), 8) }.then_some(word)
    }
}

/// Loads a field from a copy of another process's struct, at `offset` rounded down to the field's alignment.
///
/// C structs align their fields, so nothing is rounded in earnest; it is what lets the load be one instruction. BPF has
/// no unaligned loads to offer the compiler, which otherwise puts a word together from eight bytes.
///
/// # Safety
/// `offset + size_of::<T>()` must lie inside what `words` points to, and every bit pattern must be a `T`, which is an
/// integer.
#[inline(always)]
pub unsafe fn load<T: Copy>(words: *const u64, offset: usize) -> T {
    let offset = offset & !(size_of::<T>() - 1);
    // SAFETY: by contract; `words` is aligned for any integer, and so is the offset for this one.
    unsafe { words.cast::<u8>().add(offset).cast::<T>().read() }
}

#[cfg(test)]
pub(crate) mod fake {
    use super::ReadMemory;

    /// A few ranges of memory that pretend to be a process.
    #[derive(Default)]
    pub(crate) struct Memory {
        ranges: Vec<(u64, Vec<u8>)>,
    }

    impl Memory {
        pub(crate) fn map(&mut self, address: u64, len: usize) {
            self.ranges.push((address, vec![0; len]));
        }

        pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
            let (start, range) = self
                .ranges
                .iter_mut()
                .find(|(start, range)| *start <= address && address < *start + range.len() as u64)
                .expect("a mapped address");
            let at = (address - *start) as usize;
            range[at..at + bytes.len()].copy_from_slice(bytes);
        }

        pub(crate) fn put_u64(&mut self, address: u64, word: u64) {
            self.put(address, &word.to_le_bytes());
        }
    }

    impl ReadMemory for Memory {
        unsafe fn read(&self, address: u64, into: *mut u8, len: u32) -> bool {
            let end = address.wrapping_add(u64::from(len));
            for (start, range) in &self.ranges {
                if *start <= address && end >= address && end <= *start + range.len() as u64 {
                    let at = (address - *start) as usize;
                    // SAFETY: `len` bytes lie in the range, and `into` is valid for them by contract.
                    unsafe { into.copy_from_nonoverlapping(range.as_ptr().add(at), len as usize) };
                    return true;
                }
            }
            false
        }
    }
}
