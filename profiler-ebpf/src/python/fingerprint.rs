//! What tells a code object from others that come to lie at the same address.
//!
//! From 3.12 on the objects are numbered. Before, and when the numbers are used up, only what they say can tell: whatever
//! makes and drops functions in a loop gets the same memory for all of their parts, so addresses repeat together, and
//! names, file and line table are read. Two objects that agree in all of that look the same to the user, too.
//!
//! Both sides take it: the kernel side of every frame whose code may have been replaced, user space of what it reads
//! from a process later, to know that it is still the same.

use core::ptr::read_volatile;

use profiler_common::{limits::MAX_CODE_OBJECT_BYTES, python::PythonProcess};

use crate::memory::{ReadMemory, load};

const OBJECT_WORDS: usize = 2 * MAX_CODE_OBJECT_BYTES / 8 + 1;
const HEAD_WORDS: usize = (HEAD_MASK + 1) / 8 + 1;

/// A code object that is being looked at.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CodeObject {
    words: [u64; OBJECT_WORDS],
    /// The head of a string or bytes object.
    head: [u64; HEAD_WORDS],
    /// A piece of text or of a table.
    piece: [u64; 2 * PIECE_WORDS],
    /// Whoever looks at many objects at a time meets the same file's name again: where it was, and what it held.
    filename: u64,
    filename_fingerprint: u64,
}

/// Bytes of a `str` or `bytes` head that hold its length and state (up to 3.15, with a GIL: 16 + 8 and 32 + 4).
pub const HEAD_BYTES: u32 = 40;
/// Bounds an offset into a head, for the verifier.
const HEAD_MASK: usize = 63;
const _: () = assert!(HEAD_BYTES as usize <= HEAD_MASK + 1);

/// Bytes taken of each end of a text or table.
const PIECE_BYTES: usize = 256;
const PIECE_WORDS: usize = PIECE_BYTES / 8;

/// `PyASCIIObject.hash` follows the length (3.8 – 3.15).
const HASH_AFTER_LENGTH: u16 = 8;
/// A string that nobody has asked for its hash.
const NOT_HASHED: u64 = u64::MAX;

impl Default for CodeObject {
    fn default() -> Self {
        Self {
            words: [0; OBJECT_WORDS],
            head: [0; HEAD_WORDS],
            piece: [0; 2 * PIECE_WORDS],
            filename: 0,
            filename_fingerprint: 0,
        }
    }
}

impl CodeObject {
    /// To be called when time has passed: nothing is remembered.
    #[inline(always)]
    pub fn forget(&mut self) {
        self.filename = 0;
    }

    /// A field of the object.
    #[inline(always)]
    pub fn field<T: Copy>(&self, offset: u16) -> T {
        // SAFETY: the masked offset and a word lie inside `words`, which is twice as long.
        unsafe { load(self.words.as_ptr(), usize::from(offset) & (MAX_CODE_OBJECT_BYTES - 1)) }
    }

    /// A field of the head that was read last.
    #[inline(always)]
    pub fn head_field<T: Copy>(&self, offset: u16) -> T {
        // SAFETY: `head` is a word longer than the largest masked offset.
        unsafe { load(self.head.as_ptr(), usize::from(offset) & HEAD_MASK) }
    }

    /// Reads the head of a string or bytes object.
    #[inline(always)]
    pub fn read_head<M: ReadMemory>(&mut self, memory: &M, address: u64) -> bool {
        // SAFETY: `head` is longer than HEAD_BYTES.
        address != 0 && unsafe { memory.read(address, self.head.as_mut_ptr().cast(), HEAD_BYTES) }
    }

    /// Reads the object; `false` if there is none.
    #[inline(always)]
    pub fn read<M: ReadMemory>(&mut self, memory: &M, process: &PythonProcess, address: u64) -> bool {
        // SAFETY: a reference is valid for reads. Volatile: see the crate's documentation.
        let bytes = u64::from(unsafe { read_volatile(&process.code_bytes) });
        if bytes > MAX_CODE_OBJECT_BYTES as u64 {
            return false;
        }
        // SAFETY: `words` is longer than MAX_CODE_OBJECT_BYTES.
        let is_read = unsafe { memory.read(address, self.words.as_mut_ptr().cast(), bytes as u32) };
        is_read && self.field::<u64>(process.object_type) == process.code_type
    }

    /// The fingerprint of the object that was read last; never 0.
    #[inline(always)]
    pub fn fingerprint<M: ReadMemory>(&mut self, memory: &M, process: &PythonProcess) -> u64 {
        let name: u64 = self.field(process.code_name);
        let filename: u64 = self.field(process.code_filename);
        let table: u64 = self.field(process.code_line_table);
        let mut fingerprint = u64::from(self.field::<u32>(process.code_first_line));
        mix(&mut fingerprint, filename);
        mix(&mut fingerprint, name);
        mix(&mut fingerprint, table);
        let version: u32 = if process.code_version == 0 {
            0
        } else {
            self.field(process.code_version)
        };
        if version != 0 {
            mix(&mut fingerprint, version.into());
            return fingerprint | 1;
        }
        if process.code_first_traceable != 0 {
            mix(&mut fingerprint, self.field::<u32>(process.code_first_traceable).into());
        }
        // One loop, so that there is one copy of its body.
        let mut part = 0;
        while part < PARTS {
            let said = self.part(memory, process, part);
            mix(&mut fingerprint, said);
            part += 1;
        }
        fingerprint | 1
    }

    /// What one part of the object holds: of a string the hash that it keeps itself, or else its characters. What cannot
    /// be read has never been touched or is swapped out; then it is where it is.
    #[inline(always)]
    fn part<M: ReadMemory>(&mut self, memory: &M, process: &PythonProcess, part: u32) -> u64 {
        let name: u64 = self.field(process.code_name);
        let address: u64 = match part {
            NAME => name,
            QUALNAME if process.code_qualname == 0 => 0,
            QUALNAME => self.field(process.code_qualname),
            FILENAME => self.field(process.code_filename),
            _ => self.field(process.code_line_table),
        };
        if part == QUALNAME && address == name {
            return 0;
        }
        if part == FILENAME && address == self.filename {
            return self.filename_fingerprint;
        }
        if !self.read_head(memory, address) {
            return 0;
        }
        let (data, bytes) = if part == LINE_TABLE {
            (process.bytes_data, self.head_field(process.bytes_size))
        } else {
            let hash: u64 = self.head_field(process.unicode_length + HASH_AFTER_LENGTH);
            if hash != NOT_HASHED {
                return hash;
            }
            let length: u64 = self.head_field(process.unicode_length);
            let state: u32 = self.head_field(process.unicode_state);
            let data = if state & STATE_ASCII != 0 {
                process.unicode_ascii_data
            } else {
                process.unicode_compact_data
            };
            (data, length.wrapping_mul(u64::from(state >> 2 & 7)))
        };
        let said = self.ends(memory, address.wrapping_add(data.into()), bytes);
        if part == FILENAME {
            self.filename = address;
            self.filename_fingerprint = said;
        }
        said
    }

    /// How many bytes there are, and what the first and the last of them are.
    #[inline(always)]
    fn ends<M: ReadMemory>(&mut self, memory: &M, address: u64, bytes: u64) -> u64 {
        let mut said = bytes;
        let most = PIECE_BYTES as u64;
        self.piece(memory, address, if bytes < most { bytes } else { most }, &mut said);
        if bytes > most {
            let last = address.wrapping_add(bytes).wrapping_sub(most);
            self.piece(memory, last, most, &mut said);
        }
        said
    }

    #[inline(always)]
    fn piece<M: ReadMemory>(&mut self, memory: &M, address: u64, bytes: u64, said: &mut u64) {
        // SAFETY: a local is valid for reads. Volatile: see the crate's documentation.
        let bytes = unsafe { read_volatile(&raw const bytes) };
        if bytes > PIECE_BYTES as u64 {
            return;
        }
        // The last word may be filled in part only.
        let last = (bytes / 8) as usize & (2 * PIECE_WORDS - 1);
        // SAFETY: `last` is masked to less than the length of `piece`, and PIECE_BYTES fit.
        unsafe {
            self.piece.as_mut_ptr().add(last).write_volatile(0);
            if !memory.read(address, self.piece.as_mut_ptr().cast(), bytes as u32) {
                return;
            }
        }
        let mut i = 0;
        while i <= PIECE_WORDS {
            if i > last {
                break;
            }
            // SAFETY: `i` is below the length of `piece`.
            let word = unsafe { self.piece.as_ptr().add(i).read_volatile() };
            mix(said, word);
            i += 1;
        }
    }
}

/// What an object says.
const NAME: u32 = 0;
const QUALNAME: u32 = 1;
const FILENAME: u32 = 2;
const LINE_TABLE: u32 = 3;
const PARTS: u32 = 4;

/// `PyASCIIObject.state.ascii` (3.8 – 3.15, with a GIL).
const STATE_ASCII: u32 = 1 << 6;

/// Takes one word in.
#[inline(always)]
fn mix(fingerprint: &mut u64, word: u64) {
    let mixed = (*fingerprint ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    *fingerprint = mixed ^ (mixed >> 29);
}
