//! What tells a code object from others that come to lie at the same address.
//!
//! From 3.12 on the objects are numbered. Before, and when the numbers are used up, only what they say can tell: whatever
//! makes and drops functions in a loop gets the same memory for all of their parts, so addresses repeat together, and
//! names, file and line table are read. Two objects that agree in all of that look the same to the user, too.
//!
//! Both sides take it: the kernel side of every frame whose code may have been replaced, user space of what it reads
//! from a process later, to know that it is still the same.

use core::ptr::read_volatile;

use profiler_common::{
    limits::MAX_CODE_OBJECT_BYTES,
    python::{LAYOUT_HEAP_FRAMES, PythonProcess},
};

use crate::memory::{ReadMemory, load};

const OBJECT_WORDS: usize = 2 * MAX_CODE_OBJECT_BYTES / 8 + 1;
const HEAD_WORDS: usize = (HEAD_MASK + 1) / 8 + 1;

/// What was found at an address.
#[repr(C)]
#[derive(Clone, Copy)]
struct Remembered {
    address: u64,
    look: u64,
    said: u64,
}

/// Of either kind; a power of two. Few, because each that is written is a line of the cache.
const REMEMBERED: usize = 4;
/// Where those of a kind begin.
const CODES: usize = 0;
const FILENAMES: usize = REMEMBERED;

/// A code object that is being looked at.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CodeObject {
    words: [u64; OBJECT_WORDS],
    /// The head of a string or bytes object.
    head: [u64; HEAD_WORDS],
    /// A piece of text or of a table.
    piece: [u64; 2 * PIECE_WORDS],
    /// How often many objects were looked at together.
    look: u64,
    /// Whoever looks at many objects at a time meets the same ones, and the same files' names, again.
    remembered: [Remembered; 2 * REMEMBERED],
}

/// Bytes of a `str` or `bytes` head that hold its length, hash and state (up to 3.15, with a GIL: 16 + 8, 24 + 8 and
/// 32 + 4).
const HEAD_BYTES: u32 = 40;
/// The same of a free-threaded build, whose objects have a head twice as long (3.13: 32 + 8, 40 + 8 and 48 + 4).
const WIDE_HEAD_BYTES: u32 = 56;
/// Bounds an offset into a head, for the verifier.
const HEAD_MASK: usize = 63;
const _: () = assert!(WIDE_HEAD_BYTES as usize <= HEAD_MASK + 1);

/// No more than is needed: a short string can be the last in its memory.
#[inline(always)]
fn head_bytes(process: &PythonProcess) -> u32 {
    /// `sizeof(PyObject)`, with a GIL.
    const OBJECT_BYTES: u16 = 16;
    if process.unicode_length > OBJECT_BYTES {
        WIDE_HEAD_BYTES
    } else {
        HEAD_BYTES
    }
}

/// Bytes of a text or table that are looked at together, with the head for the first.
const PIECE_BYTES: usize = 256;
const PIECE_WORDS: usize = PIECE_BYTES / 8;
/// Bytes of a text, or of a table without columns, that most fit into with their head.
const SHORT_BYTES: usize = 128;

/// `PyASCIIObject.hash` and `PyBytesObject.ob_shash` follow the length (3.8 – 3.15).
const HASH_AFTER_LENGTH: u16 = 8;
/// An object that nobody has asked for its hash.
const NOT_HASHED: u64 = u64::MAX;

/// Words that are mixed side by side.
const LANES: usize = 4;

impl Default for CodeObject {
    fn default() -> Self {
        Self {
            words: [0; OBJECT_WORDS],
            head: [0; HEAD_WORDS],
            piece: [0; 2 * PIECE_WORDS],
            look: 0,
            remembered: [Remembered {
                address: 0,
                look: 0,
                said: 0,
            }; 2 * REMEMBERED],
        }
    }
}

impl CodeObject {
    /// To be called when time has passed: nothing is remembered.
    #[inline(always)]
    pub fn forget(&mut self) {
        self.look = self.look.wrapping_add(1);
    }

    /// The fingerprint of the object at an address; 0 if there is none or it cannot be read.
    #[inline(always)]
    pub fn identify<M: ReadMemory>(&mut self, memory: &M, process: &PythonProcess, address: u64) -> u64 {
        if let Some(fingerprint) = self.recall(CODES, address) {
            return fingerprint;
        }
        if !self.read(memory, process, address) {
            return 0;
        }
        let fingerprint = self.fingerprint(memory, process);
        self.remember(CODES, address, fingerprint);
        fingerprint
    }

    #[inline(always)]
    fn recall(&self, kind: usize, address: u64) -> Option<u64> {
        let Remembered {
            address: known,
            look,
            said,
        } = self.remembered[kind + place_of(address)];
        (known == address && look == self.look && address != 0).then_some(said)
    }

    #[inline(always)]
    fn remember(&mut self, kind: usize, address: u64, said: u64) {
        let look = self.look;
        self.remembered[kind + place_of(address)] = Remembered { address, look, said };
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
    pub fn read_head<M: ReadMemory>(&mut self, memory: &M, process: &PythonProcess, address: u64) -> bool {
        // SAFETY: `head` is longer than WIDE_HEAD_BYTES.
        address != 0 && unsafe { memory.read(address, self.head.as_mut_ptr().cast(), head_bytes(process)) }
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

    /// What one part of the object says. What cannot be read has never been touched or is swapped out; then it is where it
    /// is.
    #[inline(always)]
    fn part<M: ReadMemory>(&mut self, memory: &M, process: &PythonProcess, part: u32) -> u64 {
        let name: u64 = self.field(process.code_name);
        let address: u64 = match part {
            // Where there is a qualified name, it is what is shown.
            NAME if process.code_qualname != 0 => self.field(process.code_qualname),
            NAME => name,
            FILENAME => self.field(process.code_filename),
            _ => self.field(process.code_line_table),
        };
        if part == FILENAME
            && let Some(said) = self.recall(FILENAMES, address)
        {
            return said;
        }
        // Names are keys of dictionaries, so they have a hash, in a word. Qualified ones have none (3.11.7: of 3,125 in the
        // standard library).
        if part == NAME && address == name {
            let hash_at = u64::from(process.unicode_length) + u64::from(HASH_AFTER_LENGTH);
            if let Some(hash) = memory.read_u64(name.wrapping_add(hash_at))
                && hash != NOT_HASHED
            {
                return hash;
            }
        }
        let said = self.said(memory, process, part, address);
        if part == FILENAME {
            self.remember(FILENAMES, address, said);
        }
        said
    }

    /// What a string or a table says: the hash that it keeps itself, or else what it holds.
    #[inline(always)]
    fn said<M: ReadMemory>(&mut self, memory: &M, process: &PythonProcess, part: u32, address: u64) -> u64 {
        if address == 0 {
            return 0;
        }
        // Lines of the cache that nobody else wants are what a read costs. Tables of columns are the longest.
        let long = part == LINE_TABLE && process.flags & LAYOUT_HEAP_FRAMES == 0;
        let most = if long { PIECE_BYTES } else { SHORT_BYTES } as u64;
        let held = self.read_piece(memory, address, most);
        if !held && !self.read_piece(memory, address, head_bytes(process).into()) {
            return 0;
        }
        let length_at = if part == LINE_TABLE {
            process.bytes_size
        } else {
            process.unicode_length
        };
        let length: u64 = self.piece_field(length_at);
        let hash: u64 = self.piece_field(length_at.wrapping_add(HASH_AFTER_LENGTH));
        let after_hash = length_at.wrapping_add(2 * HASH_AFTER_LENGTH);
        let is_hashed = part != LINE_TABLE || process.bytes_data == after_hash;
        let mut said = 0;
        mix(&mut said, length);
        if hash != NOT_HASHED && is_hashed {
            mix(&mut said, hash);
            return said;
        }
        let (data, bytes) = if part == LINE_TABLE {
            (process.bytes_data, length)
        } else {
            let state: u32 = self.piece_field(process.unicode_state);
            let data = if state & STATE_ASCII != 0 {
                process.unicode_ascii_data
            } else {
                process.unicode_compact_data
            };
            (data, length.wrapping_mul(u64::from(state >> 2 & 7)))
        };
        let address = address.wrapping_add(data.into());
        let at = u64::from(data) & (SHORT_BYTES as u64 - 1);
        // However it was read, the same bytes are taken together: it says the same.
        let mut done = most - at;
        if bytes < done {
            done = bytes;
        }
        if !held && !self.read_piece(memory, address, done) {
            return said;
        }
        self.take_in(if held { at } else { 0 }, done, &mut said);
        // The rest, or the end of it.
        let mut more = bytes.wrapping_sub(done);
        if more != 0 {
            if more > PIECE_BYTES as u64 {
                more = PIECE_BYTES as u64;
            }
            let last = address.wrapping_add(bytes).wrapping_sub(more);
            if self.read_piece(memory, last, more) {
                self.take_in(0, more, &mut said);
            }
        }
        said
    }

    /// A field of an object's head, which was read as a piece.
    #[inline(always)]
    fn piece_field<T: Copy>(&self, offset: u16) -> T {
        // SAFETY: `piece` is longer than the largest masked offset and a word.
        unsafe { load(self.piece.as_ptr(), usize::from(offset) & HEAD_MASK) }
    }

    #[inline(always)]
    fn read_piece<M: ReadMemory>(&mut self, memory: &M, address: u64, bytes: u64) -> bool {
        // SAFETY: a local is valid for reads. Volatile: see the crate's documentation.
        let bytes = unsafe { read_volatile(&raw const bytes) };
        // SAFETY: `piece` is longer than PIECE_BYTES.
        bytes <= PIECE_BYTES as u64 && unsafe { memory.read(address, self.piece.as_mut_ptr().cast(), bytes as u32) }
    }

    /// Mixes in `bytes` of the piece, from byte `at` on, which is a word's first.
    ///
    /// Each word is stirred in before the next joins it: two that were joined bare could make up for each other. Several
    /// chains side by side, because a multiplication has to be waited for.
    #[inline(always)]
    fn take_in(&mut self, at: u64, bytes: u64, said: &mut u64) {
        // SAFETY: locals are valid for reads. Volatile: see the crate's documentation.
        let (at, end) = unsafe {
            (
                read_volatile(&raw const at),
                at.wrapping_add(read_volatile(&raw const bytes)),
            )
        };
        if at >= SHORT_BYTES as u64 || end > PIECE_BYTES as u64 {
            return;
        }
        let last = (end / 8) as usize & (2 * PIECE_WORDS - 1);
        let first = (at / 8) as usize & (SHORT_BYTES / 8 - 1);
        // What lies behind is not its.
        // SAFETY: `piece` is twice as long as PIECE_BYTES, and `last` at most that.
        unsafe {
            let rest = self.piece.as_mut_ptr().add(last);
            rest.write_volatile(rest.read_volatile() & ((1 << (8 * (end % 8))) - 1));
            let mut i = 1;
            while i < LANES {
                rest.add(i).write_volatile(0);
                i += 1;
            }
        }
        let mut lanes = [1, 2, 3, 4];
        let mut i = 0;
        while i <= PIECE_WORDS {
            if first + i > last {
                break;
            }
            // SAFETY: `first` is less than SHORT_BYTES / 8, so all are below the length of `piece`.
            unsafe {
                let group = self.piece.as_ptr().add(first + i);
                mix(&mut lanes[0], group.read_volatile());
                mix(&mut lanes[1], group.add(1).read_volatile());
                mix(&mut lanes[2], group.add(2).read_volatile());
                mix(&mut lanes[3], group.add(3).read_volatile());
            }
            i += LANES;
        }
        mix(said, lanes[0]);
        mix(said, lanes[1]);
        mix(said, lanes[2]);
        mix(said, lanes[3]);
    }
}

/// Which of its kind what is found at an address is remembered as.
#[inline(always)]
fn place_of(address: u64) -> usize {
    (address >> 4) as usize & (REMEMBERED - 1)
}

/// An object's data start within what is read of the shortest.
const _: () = assert!(SHORT_BYTES / 8 + PIECE_WORDS + 2 * LANES <= 2 * PIECE_WORDS);

/// What an object says.
const NAME: u32 = 0;
const FILENAME: u32 = 1;
const LINE_TABLE: u32 = 2;
const PARTS: u32 = 3;

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
        /// What the table is said to hash to.
        table_hash: u64,
        first_line: u32,
        version: u32,
    }

    fn said() -> Said {
        Said {
            name: (77, "name".into()),
            qualname: (78, "Class.name".into()),
            filename: (NOT_HASHED, "/srv/file.py".into()),
            table: vec![3; 700],
            table_hash: NOT_HASHED,
            first_line: 7,
            version: 5,
        }
    }

    /// The shape of 3.12's objects, but without qualified names, as before 3.11.
    fn layout_without_qualname() -> PythonProcess {
        PythonProcess {
            code_qualname: 0,
            ..layout(false)
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
        memory.put_u64(TABLE_AT + 24, said.table_hash);
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
        add(|said| {
            said.name.0 = 79;
            said.qualname.0 = 79;
        });
        add(|said| said.table_hash = 80);
        add(|said| said.table_hash = 81);
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
        // Without numbers, without qualified names, and where the numbers are used up.
        for (layout, version) in [(layout(false), 5), (layout_without_qualname(), 5), (layout(true), 0)] {
            let taken = visibly_different()
                .into_iter()
                .map(|said| fingerprint(&layout, &Said { version, ..said }));
            all_differ(taken);
        }
    }

    fn all_differ(taken: impl Iterator<Item = u64>) {
        let mut taken: Vec<u64> = taken.collect();
        let all = taken.len();
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), all);
    }

    #[test]
    fn a_head_has_the_state_of_its_string_with_a_gil_and_without() {
        const STATE: u32 = 1 << 2 | 1 << 5 | 1 << 6;
        for (length, state, bytes) in [(16, 32, 40), (32, 48, 56)] {
            let process = PythonProcess {
                unicode_length: length,
                unicode_state: state,
                ..layout(true)
            };
            let mut memory = Memory::default();
            // Nothing behind it can be read.
            memory.map(NAME_AT, bytes);
            memory.put_u64(NAME_AT + u64::from(length), 4);
            memory.put(NAME_AT + u64::from(state), &STATE.to_le_bytes());
            let mut object = CodeObject::default();
            assert!(object.read_head(&memory, &process, NAME_AT));
            assert_eq!(object.head_field::<u64>(length), 4);
            assert_eq!(object.head_field::<u32>(state), STATE);
        }
    }

    #[test]
    fn every_byte_of_a_table_counts_but_for_the_middle_of_a_long_one() {
        let heap_frames = PythonProcess {
            flags: LAYOUT_HEAP_FRAMES,
            ..layout_without_qualname()
        };
        // Whole words and not, what fits behind its head and what needs a second look.
        for (layout, lengths) in [
            (layout(false), [1, 7, 8, 31, 32, 33, 223, 224, 225, 256, 479, 480]),
            (heap_frames, [1, 7, 8, 31, 32, 33, 95, 96, 97, 256, 351, 352]),
        ] {
            for bytes in lengths {
                all_differ((0..=bytes).map(|changed| {
                    let mut table = vec![3; bytes];
                    if let Some(byte) = table.get_mut(changed) {
                        *byte ^= 0x80;
                    }
                    fingerprint(&layout, &Said { table, ..said() })
                }));
            }
        }
    }

    #[test]
    fn what_a_text_says_does_not_depend_on_what_lies_behind_it() {
        let process = layout_without_qualname();
        for characters in [1, 30, 80, 81, 90, 336, 337, 600, 2000] {
            let text: Vec<u8> = (0..characters).map(|i| i as u8 | 1).collect();
            let said = |slack: usize| {
                let mut memory = Memory::default();
                memory.map(FILENAME_AT, 40 + characters + slack);
                memory.put_u64(FILENAME_AT + 16, characters as u64);
                memory.put_u64(FILENAME_AT + 24, NOT_HASHED);
                memory.put(FILENAME_AT + 32, &(1u32 << 2 | 1 << 5 | 1 << 6).to_le_bytes());
                memory.put(FILENAME_AT + 40, &text);
                CodeObject::default().said(&memory, &process, FILENAME, FILENAME_AT)
            };
            assert_eq!(said(0), said(4096), "{characters}");
            assert_ne!(said(0), 0);
        }
    }

    #[test]
    fn a_table_that_is_not_where_its_hash_says_is_told_by_its_bytes() {
        let layout = PythonProcess {
            bytes_data: 40,
            ..layout(false)
        };
        let hashed = Said {
            table_hash: 80,
            ..said()
        };
        assert_eq!(fingerprint(&layout, &hashed), fingerprint(&layout, &said()));
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
