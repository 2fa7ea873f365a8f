//! Where the objects of a CPython lie: pymalloc's arenas and pools, and what stands before an object.
//!
//! pymalloc's structures have stayed the same from 3.8 to 3.15 but for the sizes of pools and arenas; what stands before
//! an object, and where a collection says that it is under way, differs by series. Up to 3.12 the offsets are constants
//! (DWARF of 3.8.18, 3.9.18, 3.10.13, 3.11.7 and 3.12.1); from 3.13 on `_Py_DebugOffsets` is read, because structs move
//! inside a series. All were compared with what live processes of those, of Debian's 3.11.2, and of 3.13.0, 3.13.18,
//! 3.14.10 and 3.15.2 say of themselves; `heap_truth.txt` has what their own types say.

use super::version::Version;

/// The layout of a heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapLayout {
    pub pool_bytes: u64,
    pub arena_bytes: u64,
    pub collecting: Collecting,
    /// Type flags, any of which means that two words stand before an object's GC head.
    pub pre_header: u64,
    pub references: References,
    /// Where the items of a tuple begin.
    pub tuple_items: u64,
    /// The bytes of a bytearray are an object, to which it refers (3.15 on).
    pub byte_arrays_hold_bytes: bool,
    /// Locals of a frame, where it is no object of its own (3.11 on).
    pub frame_locals: Option<u64>,
    /// `PyCodeObject`: a tuple of the names of what a frame's locals are.
    pub local_names: u64,
}

/// Where it says that a collection is under way (`struct _gc_runtime_state.collecting`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collecting {
    /// So far into `_PyRuntime` (3.8).
    Runtime(u64),
    /// So far into each interpreter's state.
    Interpreter(u64),
}

/// How a count of references looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum References {
    /// A word (up to 3.11).
    Word,
    /// Its lower half; what lives for ever has all bits of that set, or some (3.12, 3.13).
    Half,
    /// Its lower half, with an overflow of two bytes and flags above (3.14 on).
    HalfWithFlags,
}

impl References {
    /// Whether a first word can be that of an object which is alive. Those on CPython's lists of free objects have none.
    pub fn are_sane(self, word: u64) -> bool {
        match self {
            Self::Word => word > 0 && word < 1 << 31,
            Self::Half => word > 0 && word <= u64::from(u32::MAX),
            Self::HalfWithFlags => word & 0xffff_ffff > 0 && (word >> 32) & 0xffff == 0,
        }
    }
}

/// Why there is no layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoHeapLayout {
    #[error("its series is not known")]
    Unknown,
    #[error("its debug offsets are cut short")]
    Short,
    #[error("its debug offsets put {field} at {value}")]
    Value { field: &'static str, value: u64 },
}

impl HeapLayout {
    /// `block`: the start of `_PyRuntime`, where a build has its debug offsets there (3.13 on).
    pub fn of(version: Version, block: &[u8]) -> Result<Self, NoHeapLayout> {
        let (3, minor @ 8..=15) = version.series() else {
            return Err(NoHeapLayout::Unknown);
        };
        let collecting = match minor {
            8 => Collecting::Runtime(544),
            9 | 10 => Collecting::Interpreter(816),
            11 => Collecting::Interpreter(848),
            12 => Collecting::Interpreter(312),
            _ => Collecting::Interpreter(0),
        };
        let layout = Self {
            pool_bytes: if minor <= 9 { 4 << 10 } else { 16 << 10 },
            arena_bytes: if minor <= 9 { 256 << 10 } else { 1 << 20 },
            collecting,
            pre_header: match minor {
                ..=10 => 0,
                11 => MANAGED_DICT,
                _ => MANAGED_DICT | MANAGED_WEAKREF,
            },
            references: match minor {
                ..=11 => References::Word,
                12 | 13 => References::Half,
                _ => References::HalfWithFlags,
            },
            tuple_items: if minor >= 14 { 32 } else { 24 },
            byte_arrays_hold_bytes: minor >= 15,
            frame_locals: match minor {
                ..=10 => None,
                11..=13 => Some(72),
                _ => Some(80),
            },
            local_names: if minor <= 10 { 72 } else { 96 },
        };
        match minor {
            13 => POSITIONS_3_13.check(block, layout),
            14 => POSITIONS_3_14.check(block, layout),
            15 => POSITIONS_3_15.check(block, layout),
            _ => Ok(layout),
        }
    }
}

/// `Py_TPFLAGS_MANAGED_WEAKREF` and `…_MANAGED_DICT`.
const MANAGED_WEAKREF: u64 = 1 << 3;
const MANAGED_DICT: u64 = 1 << 4;

/// `ob_size` of what has one.
pub const SIZE: u64 = 16;
/// `PyListObject`, in all series as what follows (`heap_truth.txt`).
pub const LIST_BYTES: u64 = 40;
pub const LIST_ITEMS: u64 = 24;
pub const LIST_ALLOCATED: u64 = 32;
/// `PyDictObject`.
pub const DICT_BYTES: u64 = 48;
pub const DICT_KEYS: u64 = 32;
pub const DICT_VALUES: u64 = 40;
/// `PySetObject`.
pub const SET_BYTES: u64 = 200;
pub const SET_MASK: u64 = 32;
pub const SET_TABLE: u64 = 40;
/// `dequeobject`, and its blocks: two links and 64 items.
pub const DEQUE_LEFT_BLOCK: u64 = 24;
pub const DEQUE_LEFT_INDEX: u64 = 40;
pub const DEQUE_BLOCK_BYTES: u64 = 528;
/// `PyByteArrayObject.ob_alloc`, up to 3.14: from then on the bytes are an object of their own.
pub const BYTE_ARRAY_ALLOCATED: u64 = 24;
/// `PyWeakReference.wr_callback`.
pub const WEAK_CALLBACK: u64 = 24;
/// `PyTypeObject`: public up to `tp_dictoffset`.
pub const TYPE_BASIC_SIZE: u64 = 32;
pub const TYPE_FLAGS: u64 = 168;
pub const TYPE_WEAK_OFFSET: u64 = 208;
pub const TYPE_BASE: u64 = 256;
pub const TYPE_DICT: u64 = 264;
pub const TYPE_DICT_OFFSET: u64 = 288;
pub const TYPE_MRO: u64 = 344;

/// Where in `_Py_DebugOffsets` each offset stands, by the header of each series.
struct Positions {
    gc: usize,
    collecting: usize,
    frame_locals: usize,
    local_names: usize,
    tuple_items: usize,
    list_items: usize,
    dict_keys: usize,
    dict_values: usize,
}

const POSITIONS_3_13: Positions = Positions {
    gc: 80,
    collecting: 576,
    frame_locals: 256,
    local_names: 328,
    tuple_items: 408,
    list_items: 432,
    dict_keys: 456,
    dict_values: 464,
};

const POSITIONS_3_14: Positions = Positions {
    gc: 88,
    collecting: 656,
    frame_locals: 280,
    local_names: 368,
    tuple_items: 456,
    list_items: 480,
    dict_keys: 536,
    dict_values: 544,
};

const POSITIONS_3_15: Positions = Positions {
    gc: 88,
    collecting: 760,
    frame_locals: 344,
    local_names: 432,
    tuple_items: 552,
    list_items: 576,
    dict_keys: 632,
    dict_values: 640,
};

/// No field lies farther in an interpreter's state, or in its collector's.
const MAX_INTERPRETER: u64 = 1 << 20;
const MAX_COLLECTOR: u64 = 4096;

impl Positions {
    /// The layout with what the block says, if it agrees with what the series was seen to have.
    fn check(&self, block: &[u8], layout: HeapLayout) -> Result<HeapLayout, NoHeapLayout> {
        let word = |position: usize| {
            let bytes = block.get(position..).and_then(<[u8]>::first_chunk);
            bytes.map(|bytes| u64::from_le_bytes(*bytes)).ok_or(NoHeapLayout::Short)
        };
        let at_most = |field, position, most| match word(position)? {
            value if value > 0 && value <= most && value.is_multiple_of(4) => Ok(value),
            value => Err(NoHeapLayout::Value { field, value }),
        };
        let gc = at_most("interpreter_state.gc", self.gc, MAX_INTERPRETER)?;
        let collecting = at_most("gc.collecting", self.collecting, MAX_COLLECTOR)?;
        for (field, position, expected) in [
            ("interpreter_frame.localsplus", self.frame_locals, layout.frame_locals),
            (
                "code_object.localsplusnames",
                self.local_names,
                Some(layout.local_names),
            ),
            ("tuple_object.ob_item", self.tuple_items, Some(layout.tuple_items)),
            ("list_object.ob_item", self.list_items, Some(LIST_ITEMS)),
            ("dict_object.ma_keys", self.dict_keys, Some(DICT_KEYS)),
            ("dict_object.ma_values", self.dict_values, Some(DICT_VALUES)),
        ] {
            let value = word(position)?;
            if Some(value) != expected {
                return Err(NoHeapLayout::Value { field, value });
            }
        }
        Ok(HeapLayout {
            collecting: Collecting::Interpreter(gc + collecting),
            ..layout
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Vec<(Version, Vec<u8>)> {
        let lines = include_str!("layout_truth.txt").lines();
        lines
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (version, words) = line.split_once(' ').unwrap();
                let words = words.split(' ').map(|word| word.parse::<u64>().unwrap());
                (
                    Version::parse(version).unwrap(),
                    words.flat_map(u64::to_le_bytes).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn real_debug_offsets_say_where_a_collection_is_told() {
        let collecting = |layout: HeapLayout| match layout.collecting {
            Collecting::Interpreter(offset) => offset,
            Collecting::Runtime(_) => 0,
        };
        let found: Vec<_> = blocks()
            .iter()
            .map(|(version, block)| {
                (
                    version.to_string(),
                    collecting(HeapLayout::of(*version, block).unwrap()),
                )
            })
            .collect();
        // shared/field/objects.md §3, read in live processes.
        let expected = [("3.13.0", 7600), ("3.13.18", 7600), ("3.14.10", 7600), ("3.15.2", 7512)];
        assert_eq!(found, expected.map(|(version, offset)| (version.to_owned(), offset)));
    }

    #[test]
    fn every_offset_is_what_the_interpreters_say_themselves() {
        let lines: Vec<&str> = include_str!("heap_truth.txt")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        assert_eq!(lines.len(), 10);
        for line in lines {
            let (release, rest) = line.split_once(' ').unwrap();
            let version = Version::parse(release).unwrap();
            let block = blocks()
                .into_iter()
                .find(|(other, _)| *other == version)
                .map(|(_, block)| block);
            let layout = HeapLayout::of(version, &block.unwrap_or_default()).unwrap();
            let words: Vec<&str> = rest.split(' ').collect();
            let said = |name: &str| -> u64 {
                let at = words.iter().position(|word| *word == name).unwrap();
                words[at + 1].parse().unwrap()
            };
            let collecting = match layout.collecting {
                Collecting::Runtime(offset) | Collecting::Interpreter(offset) => offset,
            };
            for (name, offset) in [
                ("collecting", collecting),
                ("tuple.ob_item", layout.tuple_items),
                ("list.size", LIST_BYTES),
                ("list.ob_item", LIST_ITEMS),
                ("list.allocated", LIST_ALLOCATED),
                ("dict.size", DICT_BYTES),
                ("set.size", SET_BYTES),
                ("set.mask", SET_MASK),
                ("set.table", SET_TABLE),
                ("deque.leftblock", DEQUE_LEFT_BLOCK),
                ("deque.leftindex", DEQUE_LEFT_INDEX),
                ("deque.block", DEQUE_BLOCK_BYTES),
                (
                    "bytearray.alloc",
                    if layout.byte_arrays_hold_bytes {
                        0
                    } else {
                        BYTE_ARRAY_ALLOCATED
                    },
                ),
                ("weakref.wr_callback", WEAK_CALLBACK),
                ("type.tp_basicsize", TYPE_BASIC_SIZE),
                ("type.tp_flags", TYPE_FLAGS),
                ("type.tp_weaklistoffset", TYPE_WEAK_OFFSET),
                ("type.tp_base", TYPE_BASE),
                ("type.tp_dict", TYPE_DICT),
                ("type.tp_dictoffset", TYPE_DICT_OFFSET),
                ("type.tp_mro", TYPE_MRO),
            ] {
                assert_eq!(offset, said(name), "{release}: {name}");
            }
        }
    }

    #[test]
    fn offsets_that_disagree_are_refused_by_name() {
        for (version, mut block) in blocks() {
            let position = match version.minor {
                13 => POSITIONS_3_13.list_items,
                14 => POSITIONS_3_14.list_items,
                _ => POSITIONS_3_15.list_items,
            };
            block[position] = 32;
            let refused = NoHeapLayout::Value {
                field: "list_object.ob_item",
                value: 32,
            };
            assert_eq!(HeapLayout::of(version, &block), Err(refused));
            assert_eq!(HeapLayout::of(version, &block[..64]), Err(NoHeapLayout::Short));
        }
        let unknown = Version::parse("3.16.0").unwrap();
        assert_eq!(HeapLayout::of(unknown, &[]), Err(NoHeapLayout::Unknown));
    }
}
