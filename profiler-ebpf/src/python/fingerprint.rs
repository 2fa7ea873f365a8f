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

#[repr(C)]
#[derive(Clone, Copy)]
struct Filename {
    address: u64,
    said: u64,
}

/// A power of two.
const FILENAMES: usize = 4;

/// A code object that is being looked at.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CodeObject {
    words: [u64; OBJECT_WORDS],
    /// The head of a string or bytes object.
    head: [u64; HEAD_WORDS],
    /// A piece of text or of a table.
    piece: [u64; 2 * PIECE_WORDS],
    /// Whoever looks at many objects at a time meets the same files' names again: where they were, and what they held.
    filenames: [Filename; FILENAMES],
}

/// Bytes of a `str` or `bytes` head that hold its length and state (up to 3.15, with a GIL: 16 + 8 and 32 + 4).
pub const HEAD_BYTES: u32 = 40;
/// Bounds an offset into a head, for the verifier.
const HEAD_MASK: usize = 63;
const _: () = assert!(HEAD_BYTES as usize <= HEAD_MASK + 1);

/// Bytes taken of each end of a text or table.
const PIECE_BYTES: usize = 256;
const PIECE_WORDS: usize = PIECE_BYTES / 8;

/// `PyBytesObject.ob_sval` (3.8 – 3.15, with a GIL), in words.
const TABLE_AT_WORD: usize = 4;

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
            filenames: [Filename { address: 0, said: 0 }; FILENAMES],
        }
    }
}

impl CodeObject {
    /// To be called when time has passed: nothing is remembered.
    #[inline(always)]
    pub fn forget(&mut self) {
        let mut i = 0;
        while i < FILENAMES {
            self.filenames[i].address = 0;
            i += 1;
        }
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
        let mut fingerprint = 0;
        mix(&mut fingerprint, self.field::<u32>(process.code_first_line).into());
        mix(&mut fingerprint, filename);
        mix(&mut fingerprint, name);
        mix(&mut fingerprint, table);
        if process.code_version != 0 {
            let version = self.field::<u64>(process.code_version) >> 32;
            if version != 0 {
                mix(&mut fingerprint, version);
                return fingerprint | 1;
            }
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
        let remembered = (address >> 4) as usize & (FILENAMES - 1);
        if part == FILENAME && address == self.filenames[remembered].address {
            return self.filenames[remembered].said;
        }
        if part == LINE_TABLE
            && let Some(said) = self.short_table(memory, process, address)
        {
            return said;
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
            self.filenames[remembered] = Filename { address, said };
        }
        said
    }

    /// What a table holds that is read with its head: most are short, and a read costs the same for any few bytes.
    #[inline(always)]
    fn short_table<M: ReadMemory>(&mut self, memory: &M, process: &PythonProcess, address: u64) -> Option<u64> {
        // SAFETY: `piece` is longer than PIECE_BYTES.
        if address == 0 || !unsafe { memory.read(address, self.piece.as_mut_ptr().cast(), PIECE_BYTES as u32) } {
            return None;
        }
        // SAFETY: the masked offset and a word lie inside `piece`.
        let bytes: u64 = unsafe { load(self.piece.as_ptr(), usize::from(process.bytes_size) & HEAD_MASK) };
        if usize::from(process.bytes_data) != 8 * TABLE_AT_WORD || bytes > 8 * (PIECE_WORDS - TABLE_AT_WORD) as u64 {
            return None;
        }
        let mut said = 0;
        mix(&mut said, bytes);
        let mut left = bytes;
        let mut i = TABLE_AT_WORD;
        while i < PIECE_WORDS {
            // SAFETY: `i` is below the length of `piece`.
            let word = unsafe { self.piece.as_ptr().add(i).read_volatile() };
            if left < 8 {
                // What lies behind the table is not its.
                mix(&mut said, word & ((1 << (8 * left)) - 1));
                break;
            }
            mix(&mut said, word);
            left -= 8;
            i += 1;
        }
        Some(said)
    }

    /// How many bytes there are, and what the first and the last of them are.
    #[inline(always)]
    fn ends<M: ReadMemory>(&mut self, memory: &M, address: u64, bytes: u64) -> u64 {
        // Each word is stirred in before the next joins it: two that were joined bare could make up for each other.
        let mut said = 0;
        mix(&mut said, bytes);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::fake::Memory;

    const CODE: u64 = 0x10_000;
    const NAME_AT: u64 = 0x11_000;
    const QUALNAME_AT: u64 = 0x12_000;
    const FILENAME_AT: u64 = 0x13_000;
    const TABLE_AT: u64 = 0x14_000;
    const CODE_TYPE: u64 = 0x50_000;

    /// What a code object says.
    #[derive(Clone)]
    struct Said {
        name: (u64, String),
        qualname: (u64, String),
        filename: (u64, String),
        table: Vec<u8>,
        first_line: u32,
        version: u32,
    }

    fn said() -> Said {
        Said {
            name: (77, "name".into()),
            qualname: (78, "Class.name".into()),
            filename: (NOT_HASHED, "/srv/file.py".into()),
            table: vec![3; 700],
            first_line: 7,
            version: 5,
        }
    }

    /// The shape of 3.12's objects, with numbers or without.
    fn layout(numbered: bool) -> PythonProcess {
        PythonProcess {
            code_type: CODE_TYPE,
            object_type: 8,
            code_first_line: 68,
            code_version: if numbered { 88 } else { 0 },
            code_filename: 112,
            code_name: 120,
            code_qualname: 128,
            code_line_table: 136,
            code_bytes: 184,
            unicode_length: 16,
            unicode_state: 32,
            unicode_ascii_data: 40,
            unicode_compact_data: 56,
            bytes_size: 16,
            bytes_data: 32,
            ..PythonProcess::default()
        }
    }

    /// Every part is where the same part of every other object is.
    fn fingerprint(process: &PythonProcess, said: &Said) -> u64 {
        let mut memory = Memory::default();
        for at in [CODE, NAME_AT, QUALNAME_AT, FILENAME_AT, TABLE_AT] {
            memory.map(at, 4096);
        }
        memory.put_u64(CODE + 8, CODE_TYPE);
        memory.put(CODE + 68, &said.first_line.to_le_bytes());
        memory.put(CODE + 92, &said.version.to_le_bytes());
        memory.put_u64(CODE + 112, FILENAME_AT);
        memory.put_u64(CODE + 120, NAME_AT);
        memory.put_u64(CODE + 128, QUALNAME_AT);
        memory.put_u64(CODE + 136, TABLE_AT);
        for (at, (hash, text)) in [
            (NAME_AT, &said.name),
            (QUALNAME_AT, &said.qualname),
            (FILENAME_AT, &said.filename),
        ] {
            memory.put_u64(at + 16, text.len() as u64);
            memory.put_u64(at + 24, *hash);
            memory.put(at + 32, &(1u32 << 2 | 1 << 5 | 1 << 6).to_le_bytes());
            memory.put(at + 40, text.as_bytes());
        }
        memory.put_u64(TABLE_AT + 16, said.table.len() as u64);
        memory.put(TABLE_AT + 32, &said.table);
        let mut object = CodeObject::default();
        assert!(object.read(&memory, process, CODE));
        let taken = object.fingerprint(&memory, process);
        // What is left over from another object does not count.
        object.piece.fill(u64::MAX);
        object.forget();
        assert_eq!(object.fingerprint(&memory, process), taken);
        assert_ne!(taken, 0);
        taken
    }

    /// `said`, and what differs from it in one thing that a user can see.
    fn visibly_different() -> Vec<Said> {
        let mut all = vec![said()];
        let mut add = |change: fn(&mut Said)| {
            let mut other = said();
            change(&mut other);
            all.push(other);
        };
        add(|said| said.name.0 = 79);
        add(|said| said.qualname.0 = 79);
        add(|said| said.filename.1 = "/srv/filf.py".into());
        add(|said| said.filename.1 = "/srv/file.py2".into());
        add(|said| said.filename.0 = 79);
        add(|said| said.first_line = 8);
        add(|said| said.table[0] = 4);
        add(|said| said.table[699] = 4);
        add(|said| said.table.truncate(699));
        for change in [
            |_: &mut Vec<u8>| (),
            |table: &mut Vec<u8>| table[29] = 4,
            |table: &mut Vec<u8>| table[0] = 4,
        ] {
            let mut other = said();
            other.table.truncate(30);
            change(&mut other.table);
            all.push(other);
        }
        all
    }

    #[test]
    fn objects_whose_parts_are_all_at_the_same_addresses_are_told_by_what_they_say() {
        // Without numbers, and where the numbers are used up.
        for (numbered, version) in [(false, 5), (true, 0)] {
            let mut taken: Vec<u64> = visibly_different()
                .iter()
                .map(|said| {
                    fingerprint(
                        &layout(numbered),
                        &Said {
                            version,
                            ..said.clone()
                        },
                    )
                })
                .collect();
            let all = taken.len();
            taken.sort_unstable();
            taken.dedup();
            assert_eq!(taken.len(), all);
        }
    }

    #[test]
    fn the_same_object_made_anew_is_the_same_where_objects_have_no_numbers() {
        let again = Said { version: 6, ..said() };
        assert_eq!(
            fingerprint(&layout(false), &said()),
            fingerprint(&layout(false), &again)
        );
        assert_ne!(fingerprint(&layout(true), &said()), fingerprint(&layout(true), &again));
    }

    #[test]
    fn what_is_no_code_object_has_no_fingerprint() {
        let mut memory = Memory::default();
        memory.map(CODE, 4096);
        let mut object = CodeObject::default();
        assert!(!object.read(&memory, &layout(true), CODE));
        assert!(!object.read(&memory, &layout(true), 0));
        let wide = PythonProcess {
            code_bytes: u16::MAX,
            ..layout(true)
        };
        assert!(!object.read(&memory, &wide, CODE));
    }

    #[test]
    fn any_bytes_have_a_fingerprint() {
        use proptest::prelude::*;
        proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 4096), numbered: bool)| {
            let mut memory = Memory::default();
            memory.map(CODE, 4096);
            memory.put(CODE, &bytes);
            memory.put_u64(CODE + 8, CODE_TYPE);
            // Its parts are inside itself.
            for (index, field) in [112, 120, 128, 136].into_iter().enumerate() {
                memory.put_u64(CODE + field, CODE + 256 * index as u64 + u64::from(bytes[index]));
            }
            let mut object = CodeObject::default();
            prop_assert!(object.read(&memory, &layout(numbered), CODE));
            prop_assert_ne!(object.fingerprint(&memory, &layout(numbered)), 0);
        });
    }
}
