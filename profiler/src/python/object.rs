//! Objects of a live CPython, read from outside: as much of dicts, ints, strings and instances as it takes to find
//! something by its name.
//!
//! The program goes on while it is read, so any word may be torn or stale. Whatever is read is bounded, types are
//! checked by the type's own flags, and where something does not add up there is no answer.
//!
//! Offsets were printed from DWARF and headers of each series and compared with what live processes of 3.8.18, 3.9.18,
//! 3.10.13, 3.11.7, Debian's 3.11.2, 3.12.1, 3.13.0, 3.13.18, 3.14.10 and 3.15.2 say of themselves. Without a GIL (3.13.5) all
//! objects have a longer header, and else the same fields: what is an object's is read by [`Objects::field`].

use std::cell::Cell;

use profiler_common::python::PythonProcess;

use super::{code, memory::ReadMemory, version::Version};

/// `PyTypeObject`: public, and the same in all series here. As all fields of objects, behind the usual header.
const TP_BASICSIZE: u64 = 32;
const TP_FLAGS: u64 = 168;
const TP_DICTOFFSET: u64 = 288;
const FLAG_INLINE_VALUES: u64 = 1 << 2;
const FLAG_MANAGED_DICT: u64 = 1 << 4;
const FLAG_READY: u64 = 1 << 12;
const FLAG_LONG: u64 = 1 << 24;
const FLAG_UNICODE: u64 = 1 << 28;
const FLAG_DICT: u64 = 1 << 29;

/// `PyModuleObject.md_dict`.
const MODULE_DICT: u64 = 16;
const DICT_KEYS: u64 = 32;
const DICT_VALUES: u64 = 40;

/// More modules than any program imports, and attributes than any object has. Of a larger dict the beginning is read.
const MOST_ENTRIES: u64 = 1 << 16;
const MOST_ATTRIBUTES: u64 = 256;

/// What differs between the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLayout {
    /// `PyHeapTypeObject.ht_cached_keys`.
    cached_keys: u64,
    keys: Keys,
    attributes: Attributes,
    /// Where the values of a dict that shares its keys begin.
    values: u64,
    int: Int,
    /// Where an instance with a dict of its own has the pointer to it, before the object (3.11 on).
    managed_dict: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// Sizes are words (up to 3.10).
    Words,
    /// Sizes are logarithms, and entries of strings have no hash (3.11 on).
    Logarithms,
}

/// Where an instance has its attributes, if not in a dict at `tp_dictoffset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attributes {
    /// Always there.
    Dict,
    /// Dict and values, before the object (3.11).
    Apart,
    /// One of the two, told apart by the lowest bit (3.12).
    Tagged,
    /// In the object itself, until there is a dict (3.13 on).
    Inline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Int {
    /// `ob_size` has the number of digits and the sign.
    Signed,
    /// `lv_tag`, three bits above (3.12 on).
    Tagged,
}

impl ObjectLayout {
    /// None of a series that nobody has looked at.
    pub fn of(version: Version, free_threaded: bool) -> Option<Self> {
        let (3, minor) = version.series() else { return None };
        if free_threaded && minor != 13 {
            return None;
        }
        let cached_keys = match minor {
            8 | 10 | 11 => 872,
            9 => 864,
            12..=14 => 880,
            15 => 888,
            _ => return None,
        };
        Some(Self {
            cached_keys,
            keys: if minor <= 10 { Keys::Words } else { Keys::Logarithms },
            attributes: match minor {
                ..=10 => Attributes::Dict,
                11 => Attributes::Apart,
                12 => Attributes::Tagged,
                _ => Attributes::Inline,
            },
            values: if minor >= 13 { 8 } else { 0 },
            int: if minor >= 12 { Int::Tagged } else { Int::Signed },
            // What the collector keeps of an object, two words, lies before it only where there is a GIL.
            managed_dict: if free_threaded { 8 } else { 24 },
        })
    }

    /// Where instances have their attributes.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// `PyHeapTypeObject.ht_cached_keys`: the names of the attributes that instances of a class share.
    pub fn cached_keys(&self) -> u64 {
        self.cached_keys
    }

    /// How far into the values of a dict that shares its keys the first one is.
    pub fn values(&self) -> u64 {
        self.values
    }

    /// What the keys of a dict say of themselves; `None` if that is no such thing.
    pub fn key_table(&self, header: &[u8; 40]) -> Option<KeyTable> {
        let word = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (size, usable, used, start, stride) = match self.keys {
            Keys::Words => {
                let (size, usable, used) = (word(8), word(24), word(32));
                let index_bytes = match size {
                    0..=0xff => 1,
                    0x100..=0xffff => 2,
                    0x1_0000..=0xffff_ffff => 4,
                    _ => return None,
                };
                if !size.is_power_of_two() {
                    return None;
                }
                (size, usable, used, 40 + size * index_bytes, 24)
            }
            Keys::Logarithms => {
                let ([size, index_bytes, kind], usable, used) =
                    ([header[8], header[9], header[10]], word(16), word(24));
                if size > 32 || index_bytes > 35 || kind > 2 {
                    return None;
                }
                let stride = if kind == 0 { 24 } else { 16 };
                (1 << size, usable, used, 32 + (1 << index_bytes), stride)
            }
        };
        if used > size {
            return None;
        }
        // `USABLE_FRACTION`, 3.8 – 3.15.
        let room = (size << 1) / 3;
        Some(KeyTable {
            references: word(0),
            entries: start,
            stride,
            used,
            shared: match self.keys {
                Keys::Words => room,
                Keys::Logarithms => used.saturating_add(usable).min(room.max(used)),
            },
            bytes: start + room * stride,
        })
    }
}

/// The header of a dict's keys (`PyDictKeysObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyTable {
    /// Dicts that have them.
    pub references: u64,
    /// How far in the entries begin.
    pub entries: u64,
    /// Bytes of an entry, of which key and value are the last two words.
    pub stride: u64,
    /// Entries that are or were taken.
    pub used: u64,
    /// Values that a dict has that shares them.
    pub shared: u64,
    /// All of it.
    pub bytes: u64,
}

/// The objects of one process. What may be read of them is limited: after `reads` there are no more answers.
pub struct Objects<'a> {
    memory: &'a dyn ReadMemory,
    process: &'a PythonProcess,
    layout: ObjectLayout,
    reads: Cell<u32>,
}

/// An entry of a dict; addresses of objects, neither 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: u64,
    pub value: u64,
}

impl<'a> Objects<'a> {
    /// The memory they are in: what is read of it directly does not count as a read.
    pub(super) fn memory(&self) -> &'a dyn ReadMemory {
        self.memory
    }

    pub(super) fn process(&self) -> &'a PythonProcess {
        self.process
    }

    /// Whether there are still answers.
    pub fn is_spent(&self) -> bool {
        self.reads.get() == 0
    }

    pub fn new(memory: &'a dyn ReadMemory, process: &'a PythonProcess, layout: ObjectLayout, reads: u32) -> Self {
        Self {
            memory,
            process,
            layout,
            reads: Cell::new(reads),
        }
    }

    /// The word at an address and an offset from there.
    pub fn word(&self, address: u64, offset: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.fixed(address.checked_add(offset)?)?))
    }

    /// A word of an object, by where it lies behind the usual header.
    pub fn field(&self, object: u64, offset: u64) -> Option<u64> {
        self.word(object, offset + self.process.header_growth())
    }

    /// The address of what lies so far into an object with the usual header.
    pub fn behind(&self, object: u64, offset: u64) -> Option<u64> {
        object.checked_add(offset + self.process.header_growth())
    }

    /// Whether an object is a dict.
    pub fn is_dict(&self, object: u64) -> bool {
        self.has_flag(object, FLAG_DICT)
    }

    /// A small int that is not negative.
    pub fn int(&self, object: u64) -> Option<u64> {
        const SIZE: u64 = 16;
        const DIGITS: u64 = 24;
        const DIGIT_BITS: u32 = 30;
        if !self.has_flag(object, FLAG_LONG) {
            return None;
        }
        let size = self.field(object, SIZE)?;
        let digits = match self.layout.int {
            Int::Signed => size,
            // 0: positive, 1: zero, 2: negative.
            Int::Tagged if size & 3 == 2 => return None,
            Int::Tagged => size >> 3,
        };
        match digits {
            0 => Some(0),
            1 | 2 => {
                let digit = |at: u64| {
                    Some(u64::from(u32::from_le_bytes(
                        self.fixed(self.behind(object, DIGITS + 4 * at)?)?,
                    )))
                };
                let high = if digits == 2 { digit(1)? } else { 0 };
                Some(high << DIGIT_BITS | digit(0)?)
            }
            // Negative, or larger than anything here.
            _ => None,
        }
    }

    /// A string, of which at most so many characters are read.
    pub fn text(&self, object: u64, most_characters: u64) -> Option<Box<str>> {
        if !self.has_flag(object, FLAG_UNICODE) {
            return None;
        }
        self.spend(3)?;
        let text = code::read_text(self.memory, object, self.process, most_characters)?;
        Some(text.into_marked())
    }

    /// Whether an object is this string, of ASCII characters.
    pub fn is_text(&self, object: u64, text: &str) -> bool {
        const COMPACT_ASCII: u8 = 0x60;
        let (length, state) = (
            usize::from(self.process.unicode_length),
            usize::from(self.process.unicode_state),
        );
        let data = usize::from(self.process.unicode_ascii_data);
        // In one read: there are thousands of names to go through.
        let Some(bytes) = self.bytes(object, data + text.len()) else {
            return false;
        };
        let said = bytes.get(length..).and_then(<[u8]>::first_chunk);
        said.is_some_and(|said| u64::from_le_bytes(*said) == text.len() as u64)
            && bytes[data..] == *text.as_bytes()
            && bytes
                .get(state)
                .is_some_and(|state| state & COMPACT_ASCII == COMPACT_ASCII)
            && self.has_flag(object, FLAG_UNICODE)
    }

    /// What is in a dict, or its beginning if it is very large.
    pub fn entries(&self, dict: u64) -> Option<Vec<Entry>> {
        if !self.is_dict(dict) {
            return None;
        }
        self.dict(dict, MOST_ENTRIES)
    }

    /// The first entries of a dict, of which more may have been deleted than are there.
    pub(super) fn first_entries(&self, dict: u64, most: u64) -> Option<Vec<Entry>> {
        let mut entries = self.dict(dict, most.saturating_mul(2).saturating_add(64))?;
        entries.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Some(entries)
    }

    fn dict(&self, dict: u64, most: u64) -> Option<Vec<Entry>> {
        let keys = self.field(dict, DICT_KEYS)?;
        let values = self.field(dict, DICT_VALUES)?;
        self.table(keys, values, most)
    }

    /// What a dict has under a name.
    pub fn get(&self, dict: u64, name: &str) -> Option<u64> {
        let entries = self.entries(dict)?;
        Some(entries.into_iter().find(|entry| self.is_text(entry.key, name))?.value)
    }

    /// The dict of a module.
    pub fn module_dict(&self, module: u64) -> Option<u64> {
        self.field(module, MODULE_DICT)
    }

    /// The attributes of an instance, as it has them itself.
    pub fn attributes(&self, object: u64) -> Option<Vec<Entry>> {
        let kind = self.word(object, self.process.object_type.into())?;
        let flags = self.flags(kind)?;
        let before = |bytes: u64| self.word(object.checked_sub(bytes)?, 0);
        let (dict, values) = match self.layout.attributes {
            Attributes::Apart if flags & FLAG_MANAGED_DICT != 0 => (before(24)?, before(32)?),
            Attributes::Tagged if flags & FLAG_MANAGED_DICT != 0 => match before(24)? {
                values if values & 1 != 0 => (0, values.checked_add(1)?),
                dict => (dict, 0),
            },
            Attributes::Inline if flags & FLAG_MANAGED_DICT != 0 => match before(self.layout.managed_dict)? {
                0 if flags & FLAG_INLINE_VALUES != 0 => {
                    const VALID: u64 = 3;
                    let size = self.field(kind, TP_BASICSIZE)?;
                    let values = object.checked_add(size)?;
                    let [valid] = self.fixed(values.checked_add(VALID)?)?;
                    (0, if valid == 0 { 0 } else { values })
                }
                dict => (dict, 0),
            },
            _ => {
                // Negative where the size of instances differs.
                let offset = self.field(kind, TP_DICTOFFSET)?.cast_signed();
                let offset = u64::try_from(offset).ok().filter(|&offset| offset > 0)?;
                (self.word(object, offset)?, 0)
            }
        };
        match (dict, values) {
            (0, 0) => None,
            (0, values) => self.table(self.field(kind, self.layout.cached_keys)?, values, MOST_ATTRIBUTES),
            (dict, _) if self.is_dict(dict) => self.dict(dict, MOST_ATTRIBUTES),
            _ => None,
        }
    }

    /// The entries of a dict by its keys and, if those are shared, its values.
    pub(super) fn table(&self, keys: u64, values: u64, most: u64) -> Option<Vec<Entry>> {
        let KeyTable {
            entries, stride, used, ..
        } = self.layout.key_table(&self.fixed(keys)?)?;
        let (used, stride) = (used.min(most) as usize, stride as usize);
        let entries = self.bytes(keys.checked_add(entries)?, used * stride)?;
        let shared = match values {
            0 => None,
            values => Some(self.bytes(values.checked_add(self.layout.values)?, used * 8)?),
        };
        let words = |bytes: &[u8]| {
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|word| u64::from_le_bytes(*word))
                .collect::<Vec<_>>()
        };
        let shared = shared.map(|values| words(&values));
        let entries = entries.chunks_exact(stride).enumerate().filter_map(|(at, entry)| {
            let [.., key, value] = words(entry)[..] else {
                return None;
            };
            let value = match &shared {
                Some(values) => *values.get(at)?,
                None => value,
            };
            (key != 0 && value != 0).then_some(Entry { key, value })
        });
        Some(entries.collect())
    }

    pub(super) fn has_flag(&self, object: u64, flag: u64) -> bool {
        let kind = self.word(object, self.process.object_type.into());
        kind.and_then(|kind| self.flags(kind))
            .is_some_and(|flags| flags & flag != 0)
    }

    pub(super) fn flags(&self, kind: u64) -> Option<u64> {
        self.field(kind, TP_FLAGS).filter(|flags| flags & FLAG_READY != 0)
    }

    pub(super) fn fixed<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        self.spend(1)?;
        let mut bytes = [0; N];
        self.memory.read(address, &mut bytes).then_some(bytes)
    }

    pub(super) fn bytes(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        self.spend(1 + (len / 4096) as u32)?;
        self.memory.read_vec(address, len)
    }

    fn spend(&self, reads: u32) -> Option<()> {
        let left = self.reads.get().checked_sub(reads);
        self.reads.set(left.unwrap_or(0));
        left?;
        Some(())
    }
}
