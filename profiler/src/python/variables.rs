//! The local variables of a frame: names by its code object, values by the frame.
//!
//! Offsets up to 3.12 by DWARF and headers; from 3.13 on the debug offsets say them. All were compared with the locals of
//! live frames of 3.8.18 – 3.15.2 (shared/field/objects.md §5).

use super::{activity::type_name, memory::ReadMemory, object::Objects, value::Values, version::Version};

/// No function has more that anybody looks at.
const MOST_VARIABLES: u64 = 512;
const MOST_NAME_CHARACTERS: u64 = 200;
/// `PyCellObject.ob_ref`; the first word behind the header of others.
const FIRST: u64 = 16;
const BYTES_DATA: u64 = 32;
/// `co_flags`.
const VARARGS: u32 = 0x04;
const VARKEYWORDS: u32 = 0x08;
/// `co_localspluskinds` (Include/internal/pycore_code.h, 3.11 – 3.15).
const KIND_CELL: u8 = 0x40;
const KIND_FREE: u8 = 0x80;

/// Where frames and code objects of a version have their variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VariableLayout {
    names: Names,
    /// Where in the frame the values begin.
    values: u64,
    /// The low two bits of a value are a tag (3.14 on).
    is_tagged: bool,
    argument_count: u64,
    keyword_only_count: u64,
    code_flags: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// Three tuples, in the order of their values: locals, cells, free variables (up to 3.10).
    Apart { locals: u64, cells: u64, free: u64 },
    /// One tuple, and a byte for each that says which it is (3.11 on).
    Together { names: u64, kinds: u64 },
}

/// A variable that has a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: Box<str>,
    pub value: u64,
    pub is_argument: bool,
}

impl VariableLayout {
    /// `runtime` is the address of `_PyRuntime`. None of a version that nobody has looked at.
    pub fn of(version: Version, memory: &dyn ReadMemory, runtime: u64) -> Option<Self> {
        let (3, minor) = version.series() else { return None };
        let layout = match minor {
            8..=10 => Self {
                names: Names::Apart {
                    locals: 72,
                    cells: 88,
                    free: 80,
                },
                values: if minor == 10 { 352 } else { 360 },
                is_tagged: false,
                argument_count: 16,
                keyword_only_count: 24,
                code_flags: 36,
            },
            11 => Self {
                names: Names::Together { names: 96, kinds: 104 },
                values: 72,
                is_tagged: false,
                argument_count: 56,
                keyword_only_count: 64,
                code_flags: 48,
            },
            12 => Self {
                argument_count: 52,
                keyword_only_count: 60,
                ..Self::of(Version::from_hex(0x030b_00f0), memory, runtime)?
            },
            13..=15 => {
                // `_Py_DebugOffsets.interpreter_frame.localsplus`, `.code_object.{argcount, localsplusnames,
                // localspluskinds}`.
                let (values, count, names, kinds) = match minor {
                    13 => (256, 320, 328, 336),
                    14 => (280, 360, 368, 376),
                    _ => (344, 424, 432, 440),
                };
                let offset = |at: u64| {
                    memory
                        .read_u64(runtime.checked_add(at)?)
                        .filter(|&offset| offset < 1 << 10)
                };
                let count = offset(count)?;
                Self {
                    names: Names::Together {
                        names: offset(names)?,
                        kinds: offset(kinds)?,
                    },
                    values: offset(values)?,
                    is_tagged: minor >= 14,
                    argument_count: count,
                    // `co_posonlyargcount` lies between them, and `co_flags` before (`_PyCode_DEF`, 3.12 – 3.15).
                    keyword_only_count: count + 8,
                    code_flags: count.checked_sub(4)?,
                }
            }
            _ => return None,
        };
        Some(layout)
    }

    /// Those of a frame that have a value, in the order in which CPython has them: arguments first.
    pub fn read(&self, objects: &Objects<'_>, values: &Values<'_>, code: u64, frame: u64) -> Option<Vec<Variable>> {
        let names = self.names(objects, values, code)?;
        let bytes = objects.bytes(frame.checked_add(self.values)?, names.len() * 8)?;
        let slots = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        let arguments = self.arguments(objects, code)?;
        let is_argument = |at: usize, name: &str| {
            // An argument that is a cell, too, has no value among the locals (up to 3.10): it is known by its name.
            let first = names.iter().take(usize::try_from(arguments).unwrap_or(usize::MAX));
            (at as u64) < arguments || names[at].1 != 0 && first.clone().any(|(local, _)| objects.is_text(*local, name))
        };
        let variables = names
            .iter()
            .zip(slots)
            .enumerate()
            .filter_map(|(at, (&(name, kind), slot))| {
                let slot = if self.is_tagged { slot & !3 } else { slot };
                let value = match (slot, kind) {
                    (0, _) => None,
                    (slot, 0) => Some(slot),
                    // A slot has the value itself until the cell is made.
                    (slot, _) if !is_cell(objects, slot) => Some(slot),
                    (slot, _) => objects.field(slot, FIRST).filter(|&value| value != 0),
                }?;
                let name = objects.text(name, MOST_NAME_CHARACTERS)?;
                Some(Variable {
                    is_argument: is_argument(at, &name),
                    name,
                    value,
                })
            });
        Some(variables.collect())
    }

    /// The names, and whether each is a cell.
    fn names(&self, objects: &Objects<'_>, values: &Values<'_>, code: u64) -> Option<Vec<(u64, u8)>> {
        let tuple = |offset: u64| values.items(objects.word(code, offset)?);
        let mut names: Vec<(u64, u8)> = match self.names {
            Names::Apart { locals, cells, free } => {
                let plain = tuple(locals)?.into_iter().map(|name| (name, 0));
                let cells = tuple(cells)?
                    .into_iter()
                    .chain(tuple(free)?)
                    .map(|name| (name, KIND_CELL));
                plain.chain(cells).collect()
            }
            Names::Together { names, kinds } => {
                let names = tuple(names)?;
                let kinds = objects.word(code, kinds)?;
                let kinds = objects.bytes(objects.behind(kinds, BYTES_DATA)?, names.len())?;
                let kinds = kinds.into_iter().map(|kind| kind & (KIND_CELL | KIND_FREE));
                names.into_iter().zip(kinds).collect()
            }
        };
        names.truncate(MOST_VARIABLES as usize);
        Some(names)
    }

    /// How many of the variables are arguments.
    fn arguments(&self, objects: &Objects<'_>, code: u64) -> Option<u64> {
        let int = |offset: u64| Some(u32::from_le_bytes(objects.fixed(code.checked_add(offset)?)?));
        let flags = int(self.code_flags)?;
        let stars = u64::from(flags & VARARGS != 0) + u64::from(flags & VARKEYWORDS != 0);
        Some(u64::from(int(self.argument_count)?) + u64::from(int(self.keyword_only_count)?) + stars)
    }
}

fn is_cell(objects: &Objects<'_>, object: u64) -> bool {
    let kind = objects.word(object, objects.process().object_type.into());
    kind.and_then(|kind| type_name(objects.memory(), objects.process(), kind))
        .as_deref()
        == Some("cell")
}
