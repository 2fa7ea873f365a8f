//! What a code object says: its file, its function's name, the line of each instruction.

use std::mem::offset_of;

use profiler_common::limits::MAX_CODE_OBJECT_BYTES;
use profiler_common::python::PythonProcess;
use profiler_common::record::{
    CodeRecord, INSTRUCTION_MASK, RECORD_CODE, RawString, SAME_AS_NAME, STRING_FILENAME, STRING_NAME, STRING_QUALNAME,
    STRINGS,
};

use profiler_ebpf::python::fingerprint::CodeObject;

use super::layout::{CodeFormat, Instruction};
use super::linetable::{self, LineTableFormat};
use super::memory::{Foreign, ReadMemory};

/// A code object, copied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Code {
    /// Cut text ends in `…`; text that could not be read is [`UNREADABLE`].
    pub filename: Box<str>,
    pub name: Box<str>,
    /// None before 3.11, which has none.
    pub qualname: Option<Box<str>>,
    numbers: Numbers,
    /// None if it could not be read: then no line is known. (An empty table is one: all code is on the first line.)
    line_table: Option<Box<[u8]>>,
    format: CodeFormat,
}

/// The numbers that a code object has of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Numbers {
    /// `co_firstlineno`, signed as CPython has it.
    first_line: i32,
    /// `_co_firsttraceable`, in code units; 0 before 3.11.
    first_traceable: i32,
    /// `co_flags`.
    flags: u32,
}

/// `CO_COROUTINE | CO_ITERABLE_COROUTINE` (Include/cpython/code.h).
const COROUTINE_FLAGS: u32 = 0x80 | 0x100;

/// Stands for text that could not be read.
pub const UNREADABLE: &str = "<unreadable>";

/// What follows text that was cut.
const CUT: char = '…';

/// Longer text is cut, a longer line table not read: what another process's memory alleges must not fill ours.
const MAX_STRING_CHARACTERS: u64 = 64 << 10;
const MAX_LINE_TABLE_BYTES: u64 = 1 << 20;

/// Why there is no code object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    #[error("a code record is malformed: {what}")]
    MalformedRecord { what: &'static str },
    #[error("the code object at {address:#x} cannot be read")]
    Unreadable { address: u64 },
    #[error("what is at {address:#x} is not a code object")]
    NotCode { address: u64 },
    #[error("the code object at {address:#x} changed while it was read")]
    Changed { address: u64 },
}

impl Code {
    /// One of which nothing is known.
    pub fn gone() -> Self {
        Self {
            filename: UNREADABLE.into(),
            name: UNREADABLE.into(),
            qualname: None,
            numbers: Numbers::default(),
            line_table: None,
            format: CodeFormat {
                line_table: LineTableFormat::Lnotab,
                instruction: Instruction::Index { unit_bytes: 1 },
            },
        }
    }

    /// Decodes a [`CodeRecord`], cut after its last byte, into the code object's address and what it says.
    ///
    /// What the kernel side left out (long text, a long line table, pages that were not in memory) is read from the
    /// process, if the same code object is still there.
    pub fn from_record(record: &[u8], format: CodeFormat, live: Option<Live<'_>>) -> Result<(u64, Self), CodeError> {
        let Record {
            address,
            numbers,
            strings,
            line_table,
        } = Record::parse(record)?;
        let [filename, name, qualname] = strings;
        let mut text = [filename, name, qualname].map(|string| string.map(|s| s.decode()));
        let mut line_table: Option<Box<[u8]>> = line_table.map(Into::into);

        let has_qualname = matches!(format.instruction, Instruction::Address { .. });
        let is_whole = |string: &Option<Text>| string.as_ref().is_some_and(|text| text.whole);
        let lacks_text = !is_whole(&text[STRING_FILENAME])
            || !is_whole(&text[STRING_NAME])
            || (has_qualname && !is_whole(&text[STRING_QUALNAME]));
        if (lacks_text || line_table.is_none())
            && let Some(live) = live
            && let Ok(live) = live.read(address)
            && live.numbers.first_line == numbers.first_line
            && text
                .iter()
                .zip(&live.text)
                .all(|(known, live)| agree(known.as_ref(), live.as_ref()))
        {
            for (known, live) in text.iter_mut().zip(live.text) {
                if !is_whole(known) && live.is_some() {
                    *known = live;
                }
            }
            line_table = line_table.or(live.line_table);
        }
        Ok((address, Self::new(text, numbers, line_table, format)))
    }

    /// Reads a live code object.
    pub fn from_memory(
        memory: &dyn ReadMemory,
        address: u64,
        process: &PythonProcess,
        format: CodeFormat,
    ) -> Result<Self, CodeError> {
        let Raw {
            text,
            numbers,
            line_table,
        } = Raw::from_memory(memory, address, process)?;
        Ok(Self::new(text, numbers, line_table, format))
    }

    fn new(text: [Option<Text>; STRINGS], numbers: Numbers, line_table: Option<Box<[u8]>>, format: CodeFormat) -> Self {
        let [filename, name, qualname] = text.map(|text| text.map(Text::into_marked));
        Self {
            filename: filename.unwrap_or_else(|| UNREADABLE.into()),
            name: name.unwrap_or_else(|| UNREADABLE.into()),
            qualname,
            numbers,
            line_table,
            format,
        }
    }

    /// `Class.method` where the version knows it, else `method`.
    pub fn display_name(&self) -> &str {
        self.qualname.as_deref().unwrap_or(&self.name)
    }

    /// Where the function begins, decorators included; 0 if that is not known.
    pub fn first_line(&self) -> u32 {
        u32::try_from(self.numbers.first_line).unwrap_or(0)
    }

    /// Whether it is of an `async def`, or of a generator that may be awaited (`types.coroutine`).
    pub fn is_coroutine(&self) -> bool {
        self.numbers.flags & COROUTINE_FLAGS != 0
    }

    /// The line being executed in a frame of the code object at `code_address`. `instruction` is what the frame keeps
    /// (`PythonFrame::instruction` without its flags). None if CPython has no line for it either.
    pub fn line_at(&self, code_address: u64, instruction: u64) -> Option<u32> {
        let table = self.line_table.as_deref()?;
        let offset = self.offset_of(code_address, instruction)?;
        linetable::line(self.format.line_table, table, self.numbers.first_line, offset)
    }

    /// Whether CPython hides this frame because it has not begun to run its function: `_PyFrame_IsIncomplete`
    /// (`pycore_frame.h`, 3.11.7, 3.12.1, 3.13.0). It is true for good of the trampoline that 3.13 and later push under
    /// `__init__` when they inline a class call, which would otherwise show as a second `__init__` without a line.
    pub fn is_incomplete(&self, code_address: u64, instruction: u64, is_generator: bool) -> bool {
        let Instruction::Address { .. } = self.format.instruction else {
            return false;
        };
        let first = i64::from(self.numbers.first_traceable) * CODE_UNIT_BYTES;
        !is_generator
            && self
                .offset_of(code_address, instruction)
                .is_some_and(|offset| offset < first)
    }

    /// The byte offset of a frame's instruction in its bytecode; negative before the first. None if it makes no sense.
    fn offset_of(&self, code_address: u64, instruction: u64) -> Option<i64> {
        match self.format.instruction {
            // An `int`, whether the kernel side extended its sign or not.
            Instruction::Index { unit_bytes } => {
                let index = (instruction as u32).cast_signed();
                (index >= -1).then(|| i64::from(index) * i64::from(unit_bytes))
            }
            Instruction::Address { code_adaptive } => {
                let start = code_address.wrapping_add(u64::from(code_adaptive)) & INSTRUCTION_MASK;
                let offset = (instruction & INSTRUCTION_MASK).cast_signed() - start.cast_signed();
                // `prev_instr` of a frame that has not started is one code unit before the first (3.11, 3.12).
                let plausible = -CODE_UNIT_BYTES..i64::from(i32::MAX);
                (plausible.contains(&offset) && offset % CODE_UNIT_BYTES == 0).then_some(offset)
            }
        }
    }
}

/// `sizeof(_Py_CODEUNIT)`, 3.10 – 3.15.
const CODE_UNIT_BYTES: i64 = 2;

/// Whether what is in memory now can be what was copied: if it was copied whole it must be the same, if it was cut it
/// must go on where the copy ends. Otherwise another code object has come to lie there, and nothing of it may be mixed in.
fn agree(copied: Option<&Text>, live: Option<&Text>) -> bool {
    match (copied, live) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(copied), Some(live)) if copied.whole => copied.text == live.text,
        (Some(copied), Some(live)) => live.text.starts_with(&copied.text),
    }
}

/// Decoded text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    text: String,
    /// False if characters are missing at its end.
    whole: bool,
}

impl Text {
    pub(super) fn into_marked(mut self) -> Box<str> {
        if !self.whole {
            self.text.push(CUT);
        }
        self.text.into()
    }
}

/// A string as CPython keeps it: latin-1, UCS-2 or UCS-4.
#[derive(Clone, Copy)]
struct StringBytes<'a> {
    bytes: &'a [u8],
    /// Bytes per character.
    kind: u32,
    /// Characters the whole string has.
    characters: u64,
}

impl StringBytes<'_> {
    /// A lone surrogate (how Python keeps bytes of a file name that are not UTF-8) becomes U+FFFD.
    fn decode(&self) -> Text {
        let character = |code: u32| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        let text: String = match self.kind {
            1 => self.bytes.iter().copied().map(char::from).collect(),
            2 => self
                .bytes
                .as_chunks()
                .0
                .iter()
                .map(|c| character(u16::from_le_bytes(*c).into()))
                .collect(),
            _ => self
                .bytes
                .as_chunks()
                .0
                .iter()
                .map(|c| character(u32::from_le_bytes(*c)))
                .collect(),
        };
        let whole = self.bytes.len() as u64 / u64::from(self.kind.max(1)) == self.characters;
        Text { text, whole }
    }
}

/// A [`CodeRecord`]'s fields, checked.
struct Record<'a> {
    address: u64,
    numbers: Numbers,
    /// None where the string could not be read or the version has none.
    strings: [Option<StringBytes<'a>>; STRINGS],
    /// None where it was not copied.
    line_table: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    fn parse(record: &'a [u8]) -> Result<Self, CodeError> {
        let malformed = |what| CodeError::MalformedRecord { what };
        let (fixed, mut body) = record
            .split_at_checked(offset_of!(CodeRecord, body))
            .ok_or(malformed("it is too short"))?;
        let fixed = Bytes(fixed);
        if fixed.u32(offset_of!(CodeRecord, kind)) != RECORD_CODE {
            return Err(malformed("it is of another kind"));
        }

        let mut take = |len: u32| -> Result<&'a [u8], CodeError> {
            let (taken, rest) = body
                .split_at_checked(len as usize)
                .ok_or(malformed("its body is too short"))?;
            body = rest;
            Ok(taken)
        };
        let mut strings = [None; STRINGS];
        let mut name = None;
        for (index, string) in strings.iter_mut().enumerate() {
            let at = offset_of!(CodeRecord, strings) + index * size_of::<RawString>();
            let kind = fixed.u32(at + offset_of!(RawString, kind));
            let characters = fixed.u64(at + offset_of!(RawString, characters));
            let bytes = take(fixed.u32(at + offset_of!(RawString, bytes)))?;
            *string = match kind {
                0 => None,
                // The name comes before the qualified name.
                SAME_AS_NAME if index == STRING_QUALNAME && bytes.is_empty() => name,
                1 | 2 | 4 if bytes.len() as u64 / u64::from(kind) <= characters => Some(StringBytes {
                    bytes,
                    kind,
                    characters,
                }),
                _ => return Err(malformed("a string has no width")),
            };
            if index == STRING_NAME {
                name = *string;
            }
        }
        let size = fixed.u32(offset_of!(CodeRecord, line_table_size));
        let line_table = take(fixed.u32(offset_of!(CodeRecord, line_table_bytes)))?;
        Ok(Self {
            address: fixed.u64(offset_of!(CodeRecord, address)),
            numbers: Numbers {
                first_line: fixed.u32(offset_of!(CodeRecord, first_line)).cast_signed(),
                first_traceable: fixed.u32(offset_of!(CodeRecord, first_traceable)).cast_signed(),
                flags: fixed.u32(offset_of!(CodeRecord, flags)),
            },
            strings,
            line_table: (line_table.len() == size as usize).then_some(line_table),
        })
    }
}

/// A code object read from memory.
struct Raw {
    text: [Option<Text>; STRINGS],
    numbers: Numbers,
    line_table: Option<Box<[u8]>>,
}

impl Raw {
    fn from_memory(memory: &dyn ReadMemory, address: u64, process: &PythonProcess) -> Result<Self, CodeError> {
        let object = Object::read(memory, address, process)?;
        let mut text = [None, None, None];
        text[STRING_FILENAME] = read_text(memory, object.filename, process, MAX_STRING_CHARACTERS);
        text[STRING_NAME] = read_text(memory, object.name, process, MAX_STRING_CHARACTERS);
        text[STRING_QUALNAME] = object
            .qualname
            .and_then(|qualname| read_text(memory, qualname, process, MAX_STRING_CHARACTERS));
        let line_table = read_line_table(memory, object.line_table, process);
        // The object owns its strings and its table. If it is still what it was, they were not freed in between.
        if Object::read(memory, address, process)? != object {
            return Err(CodeError::Changed { address });
        }
        Ok(Self {
            text,
            numbers: object.numbers,
            line_table,
        })
    }
}

/// A code object that was seen in a live process, and may have given way to another since.
#[derive(Clone, Copy)]
pub struct Live<'a> {
    pub memory: &'a dyn ReadMemory,
    pub process: &'a PythonProcess,
    /// What told it from others at its address.
    pub fingerprint: u64,
}

impl Live<'_> {
    /// Reads it, if it is still there.
    pub fn code(&self, address: u64, format: CodeFormat) -> Result<Code, CodeError> {
        let Raw {
            text,
            numbers,
            line_table,
        } = self.read(address)?;
        Ok(Code::new(text, numbers, line_table, format))
    }

    fn read(&self, address: u64) -> Result<Raw, CodeError> {
        let raw = Raw::from_memory(self.memory, address, self.process)?;
        // Afterwards: what was there all the time has its fingerprint now.
        if self.is_there(address) {
            Ok(raw)
        } else {
            Err(CodeError::Changed { address })
        }
    }

    fn is_there(&self, address: u64) -> bool {
        let mut object = CodeObject::default();
        let memory = Foreign(self.memory);
        object.read(&memory, self.process, address) && object.fingerprint(&memory, self.process) == self.fingerprint
    }
}

/// The fields of a `PyCodeObject` that are used; pointers as numbers.
#[derive(PartialEq, Eq)]
struct Object {
    numbers: Numbers,
    filename: u64,
    name: u64,
    qualname: Option<u64>,
    line_table: u64,
}

impl Object {
    fn read(memory: &dyn ReadMemory, address: u64, process: &PythonProcess) -> Result<Self, CodeError> {
        let mut object = [0; MAX_CODE_OBJECT_BYTES];
        let unreadable = CodeError::Unreadable { address };
        let object = object.get_mut(..usize::from(process.code_bytes)).ok_or(unreadable)?;
        if !memory.read(address, object) {
            return Err(unreadable);
        }
        let object = Bytes(object);
        if object.u64(process.object_type.into()) != process.code_type {
            return Err(CodeError::NotCode { address });
        }
        // The offset 0 means that the version has no such field: there an object keeps its reference count.
        let optional = |offset: u16| (offset != 0).then_some(usize::from(offset));
        Ok(Self {
            numbers: Numbers {
                first_line: object.u32(process.code_first_line.into()).cast_signed(),
                first_traceable: optional(process.code_first_traceable).map_or(0, |at| object.u32(at).cast_signed()),
                flags: object.u32(process.code_flags().into()),
            },
            filename: object.u64(process.code_filename.into()),
            name: object.u64(process.code_name.into()),
            qualname: optional(process.code_qualname).map(|at| object.u64(at)),
            line_table: object.u64(process.code_line_table.into()),
        })
    }
}

/// The first characters of a string. None unless it is a compact one, as every name and file name of a code object is.
pub(super) fn read_text(
    memory: &dyn ReadMemory,
    address: u64,
    process: &PythonProcess,
    most_characters: u64,
) -> Option<Text> {
    /// `PyASCIIObject.state`: `interned:2, kind:3, compact:1, ascii:1` in 3.8 – 3.11; later versions changed the
    /// width of `interned` in free-threaded builds only (3.8.18 – 3.13.0 compiled, 3.14.10 and 3.15.2 live).
    const KIND_SHIFT: u32 = 2;
    const COMPACT: u32 = 1 << 5;
    const ASCII: u32 = 1 << 6;
    let field = |offset: u16| address.checked_add(u64::from(offset));
    let characters = memory.read_u64(field(process.unicode_length)?)?;
    let mut state = [0; 4];
    if !memory.read(field(process.unicode_state)?, &mut state) {
        return None;
    }
    let state = u32::from_le_bytes(state);
    let kind = (state >> KIND_SHIFT) & 7;
    if state & COMPACT == 0 || !matches!(kind, 1 | 2 | 4) {
        return None;
    }
    let data = if state & ASCII != 0 {
        process.unicode_ascii_data
    } else {
        process.unicode_compact_data
    };
    let bytes = characters.min(most_characters) as usize * kind as usize;
    let bytes = memory.read_vec(field(data)?, bytes)?;
    Some(
        StringBytes {
            bytes: &bytes,
            kind,
            characters,
        }
        .decode(),
    )
}

fn read_line_table(memory: &dyn ReadMemory, address: u64, process: &PythonProcess) -> Option<Box<[u8]>> {
    let field = |offset: u16| address.checked_add(u64::from(offset));
    let size = memory.read_u64(field(process.bytes_size)?)?;
    if size > MAX_LINE_TABLE_BYTES {
        return None;
    }
    Some(memory.read_vec(field(process.bytes_data)?, size as usize)?.into())
}

/// Little-endian words by offset; 0 beyond the end, which no caller asks for.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u32(&self, at: usize) -> u32 {
        self.0
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    fn u64(&self, at: usize) -> u64 {
        self.0
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use super::super::memory::FakeMemory;
    use super::super::version::Version;
    use super::*;
    use std::sync::LazyLock;

    const ADDRESS: u64 = 0x10_0000;
    const FILENAME: u64 = 0x20_0000;
    const NAME: u64 = 0x30_0000;
    const QUALNAME: u64 = 0x40_0000;
    const LINE_TABLE: u64 = 0x50_0000;
    const CODE_TYPE: u64 = 0x60_0000;
    const FIRST_LINE: i32 = 7;
    /// `CO_OPTIMIZED | CO_NEWLOCALS | CO_COROUTINE`.
    const FLAGS: u32 = 0x83;
    /// Two code units on line 7, two without a line, two on line 9 (3.11+).
    const TABLE: &[u8] = &[0x81, 0, 0xf9, 0xe1, 0, 0];

    fn layout() -> Layout {
        Layout::of_series(Version::parse("3.12.1").unwrap()).unwrap()
    }

    fn process() -> PythonProcess {
        PythonProcess {
            code_type: CODE_TYPE,
            ..layout().process
        }
    }

    fn put(object: &mut [u8], at: u16, bytes: &[u8]) {
        object[usize::from(at)..][..bytes.len()].copy_from_slice(bytes);
    }

    /// A compact string of 3.12 of `kind` bytes per character.
    fn string(kind: u32, characters: u64, bytes: &[u8]) -> Vec<u8> {
        let process = process();
        let mut object = vec![0; usize::from(process.unicode_compact_data)];
        put(&mut object, process.unicode_length, &characters.to_le_bytes());
        // Nobody has asked for its hash.
        put(&mut object, process.unicode_length + 8, &u64::MAX.to_le_bytes());
        put(&mut object, process.unicode_state, &(kind << 2 | 1 << 5).to_le_bytes());
        object.extend(bytes);
        object
    }

    fn memory() -> FakeMemory {
        memory_with([
            string(2, 4, &[0x34, 4, 0x30, 4, b'.', 0, b'p', 0]),
            string(1, 1, &[0xe9]),
            string(4, 3, &[b'C', 0, 0, 0, b'.', 0, 0, 0, 0xb3, 0xd4, 1, 0]),
        ])
    }

    /// The code object that [`record`] is a copy of.
    fn original() -> FakeMemory {
        memory_with([string(1, 7, b"file.py"), string(1, 4, b"name"), string(1, 4, b"q.na")])
    }

    fn memory_with([filename, name, qualname]: [Vec<u8>; STRINGS]) -> FakeMemory {
        let process = process();
        let mut object = vec![0; usize::from(process.code_bytes)];
        put(&mut object, process.object_type, &CODE_TYPE.to_le_bytes());
        put(&mut object, process.code_first_line, &FIRST_LINE.to_le_bytes());
        put(&mut object, process.code_filename, &FILENAME.to_le_bytes());
        put(&mut object, process.code_name, &NAME.to_le_bytes());
        put(&mut object, process.code_qualname, &QUALNAME.to_le_bytes());
        put(&mut object, process.code_line_table, &LINE_TABLE.to_le_bytes());
        put(&mut object, process.code_first_traceable, &1_i32.to_le_bytes());
        put(&mut object, process.code_flags(), &FLAGS.to_le_bytes());
        let mut table = vec![0; usize::from(process.bytes_data)];
        put(&mut table, process.bytes_size, &(TABLE.len() as u64).to_le_bytes());
        table.extend(TABLE);
        let mut memory = FakeMemory::default();
        memory.put(ADDRESS, object);
        memory.put(LINE_TABLE, table);
        memory.put(FILENAME, filename);
        memory.put(NAME, name);
        memory.put(QUALNAME, qualname);
        memory
    }

    static PROCESS: LazyLock<PythonProcess> = LazyLock::new(process);

    fn fingerprint(memory: &FakeMemory) -> u64 {
        let mut object = CodeObject::default();
        assert!(object.read(&Foreign(memory), &PROCESS, ADDRESS));
        object.fingerprint(&Foreign(memory), &PROCESS)
    }

    /// What may still be the code object that [`record`] is a copy of.
    fn live(memory: &FakeMemory) -> Live<'_> {
        Live {
            memory,
            process: &PROCESS,
            fingerprint: fingerprint(&original()),
        }
    }

    /// What the kernel side sends: `copied` characters at most of each string, and the table or not.
    fn record(copied: usize, with_table: bool) -> Vec<u8> {
        let mut record = vec![0; offset_of!(CodeRecord, body)];
        let mut write = |at: usize, bytes: &[u8]| record[at..][..bytes.len()].copy_from_slice(bytes);
        write(offset_of!(CodeRecord, kind), &RECORD_CODE.to_le_bytes());
        write(offset_of!(CodeRecord, address), &ADDRESS.to_le_bytes());
        write(offset_of!(CodeRecord, first_line), &FIRST_LINE.to_le_bytes());
        write(offset_of!(CodeRecord, first_traceable), &1_i32.to_le_bytes());
        write(offset_of!(CodeRecord, flags), &FLAGS.to_le_bytes());
        write(
            offset_of!(CodeRecord, line_table_size),
            &(TABLE.len() as u32).to_le_bytes(),
        );
        let strings: [(u32, &[u8]); STRINGS] = [
            (1, b"file.py"),
            (1, b"name"),
            (2, &[b'q', 0, b'.', 0, b'n', 0, b'a', 0]),
        ];
        let mut body: Vec<u8> = Vec::new();
        for (index, (kind, text)) in strings.into_iter().enumerate() {
            let at = offset_of!(CodeRecord, strings) + index * size_of::<RawString>();
            let bytes = &text[..text.len().min(copied * kind as usize)];
            write(at + offset_of!(RawString, bytes), &(bytes.len() as u32).to_le_bytes());
            write(at + offset_of!(RawString, kind), &kind.to_le_bytes());
            write(
                at + offset_of!(RawString, characters),
                &(text.len() as u64 / u64::from(kind)).to_le_bytes(),
            );
            body.extend(bytes);
        }
        if with_table {
            write(
                offset_of!(CodeRecord, line_table_bytes),
                &(TABLE.len() as u32).to_le_bytes(),
            );
            body.extend(TABLE);
        }
        record.extend(body);
        record
    }

    /// The address of the instruction at a byte offset of the bytecode.
    fn instruction(offset: i64) -> u64 {
        let Instruction::Address { code_adaptive } = layout().format.instruction else {
            panic!()
        };
        (ADDRESS + u64::from(code_adaptive)).wrapping_add_signed(offset)
    }

    #[test]
    fn a_live_code_object_is_read_with_every_width_of_text() {
        let code = Code::from_memory(&memory(), ADDRESS, &process(), layout().format).unwrap();
        assert_eq!(&*code.filename, "да.p");
        assert_eq!(&*code.name, "é");
        assert_eq!(code.display_name(), "C.𝒳");
        assert_eq!(code.first_line(), 7);
        assert!(code.is_coroutine());
        let lines = [-2, 0, 4, 8, 12].map(|offset| code.line_at(ADDRESS, instruction(offset)));
        assert_eq!(lines, [Some(7), Some(7), None, Some(9), None]);
    }

    #[test]
    fn what_is_not_a_code_object_is_not_read_as_one() {
        let other = PythonProcess {
            code_type: CODE_TYPE + 8,
            ..process()
        };
        let format = layout().format;
        assert_eq!(
            Code::from_memory(&memory(), ADDRESS, &other, format),
            Err(CodeError::NotCode { address: ADDRESS })
        );
        assert_eq!(
            Code::from_memory(&memory(), 8, &process(), format),
            Err(CodeError::Unreadable { address: 8 })
        );
    }

    #[test]
    fn text_that_is_gone_or_alleges_too_much_is_marked() {
        let mut memory = memory();
        memory.put(FILENAME, string(1, u64::MAX, b"short"));
        memory.put(NAME, string(3, 1, b"xxx"));
        memory.put(QUALNAME, string(1, 100_000, &vec![b'q'; 100_000]));
        let code = Code::from_memory(&memory, ADDRESS, &process(), layout().format).unwrap();
        assert_eq!(&*code.filename, UNREADABLE);
        assert_eq!(&*code.name, UNREADABLE);
        assert_eq!(code.display_name(), format!("{}…", "q".repeat(1 << 16)));
    }

    #[test]
    fn a_whole_record_needs_no_memory() {
        let (address, code) = Code::from_record(&record(100, true), layout().format, None).unwrap();
        assert_eq!(address, ADDRESS);
        assert_eq!((&*code.filename, code.display_name()), ("file.py", "q.na"));
        assert_eq!(code.line_at(ADDRESS, instruction(8)), Some(9));
    }

    #[test]
    fn what_was_cut_is_read_from_memory_or_marked() {
        let format = layout().format;
        let (_, cut) = Code::from_record(&record(3, false), format, None).unwrap();
        assert_eq!(
            (&*cut.filename, &*cut.name, cut.display_name()),
            ("fil…", "nam…", "q.n…")
        );
        assert_eq!(cut.line_at(ADDRESS, instruction(8)), None);

        let (_, read) = Code::from_record(&record(3, false), format, Some(live(&original()))).unwrap();
        assert_eq!(
            (&*read.filename, &*read.name, read.display_name()),
            ("file.py", "name", "q.na")
        );
        assert_eq!(read.line_at(ADDRESS, instruction(8)), Some(9));
    }

    #[test]
    fn nothing_of_another_code_object_at_the_same_address_is_mixed_in() {
        // Other text goes on differently …
        let (_, code) = Code::from_record(&record(3, false), layout().format, Some(live(&memory()))).unwrap();
        assert_eq!((&*code.filename, code.display_name()), ("fil…", "q.n…"));
        // … and a name that was copied whole must be the same, even if only the line table is missing.
        let other = memory_with([string(1, 7, b"file.py"), string(1, 4, b"nane"), string(1, 4, b"q.na")]);
        let (_, code) = Code::from_record(&record(100, false), layout().format, Some(live(&other))).unwrap();
        assert_eq!((&*code.name, code.line_at(ADDRESS, instruction(8))), ("name", None));
    }

    #[test]
    fn what_is_there_now_is_read_only_if_it_is_what_was_sampled() {
        let (format, original) = (layout().format, original());
        assert_eq!(&*live(&original).code(ADDRESS, format).unwrap().name, "name");
        let other = memory_with([string(1, 7, b"file.py"), string(1, 4, b"nane"), string(1, 4, b"q.ne")]);
        let changed = Err(CodeError::Changed { address: ADDRESS });
        assert_eq!(live(&other).code(ADDRESS, format), changed);
        // A cut name goes on as it did, but it is of another object: not even its end may be added.
        let longer = memory_with([string(1, 7, b"file.py"), string(1, 5, b"names"), string(1, 5, b"q.nas")]);
        let (_, code) = Code::from_record(&record(3, true), format, Some(live(&longer))).unwrap();
        assert_eq!(&*code.name, "nam…");
    }

    #[test]
    fn a_qualified_name_that_is_the_name_is_not_copied_twice() {
        let mut record = record(100, true);
        let at = offset_of!(CodeRecord, strings) + STRING_QUALNAME * size_of::<RawString>();
        record[at + offset_of!(RawString, kind)..][..4].copy_from_slice(&SAME_AS_NAME.to_le_bytes());
        record[at + offset_of!(RawString, bytes)..][..4].fill(0);
        let body = offset_of!(CodeRecord, body) + "file.py".len() + "name".len();
        record.drain(body..body + 8);
        let (_, code) = Code::from_record(&record, layout().format, None).unwrap();
        assert_eq!(
            (code.qualname.as_deref(), code.line_at(ADDRESS, instruction(8))),
            (Some("name"), Some(9))
        );
    }

    #[test]
    fn a_frame_before_its_first_traceable_instruction_is_hidden_unless_a_generator() {
        let (_, code) = Code::from_record(&record(100, true), layout().format, None).unwrap();
        assert!(code.is_incomplete(ADDRESS, instruction(0), false));
        assert!(code.is_incomplete(ADDRESS, instruction(-2), false));
        assert!(!code.is_incomplete(ADDRESS, instruction(0), true));
        assert!(!code.is_incomplete(ADDRESS, instruction(2), false));
    }

    #[test]
    fn an_index_counts_bytes_or_code_units_and_may_be_minus_one() {
        let code = |text: &str, table: &[u8]| {
            let layout = Layout::of_series(Version::parse(text).unwrap()).unwrap();
            let numbers = Numbers {
                first_line: 7,
                ..Numbers::default()
            };
            Code::new([None, None, None], numbers, Some(table.into()), layout.format)
        };
        let lnotab = code("3.9.18", &[4, 1, 4, 1]);
        let ranges = code("3.10.13", &[4, 0, 4, 1, 4, 0x80]);
        for minus_one in [u64::from(u32::MAX), INSTRUCTION_MASK] {
            assert_eq!(lnotab.line_at(ADDRESS, minus_one), Some(7));
            assert_eq!(ranges.line_at(ADDRESS, minus_one), Some(7));
        }
        assert_eq!(
            [0, 2, 4, 8].map(|index| lnotab.line_at(ADDRESS, index)),
            [Some(7), Some(7), Some(8), Some(9)]
        );
        assert_eq!(
            [0, 2, 3, 4].map(|index| ranges.line_at(ADDRESS, index)),
            [Some(7), Some(8), Some(8), None]
        );
        assert!(!lnotab.is_incomplete(ADDRESS, 0, false));
    }

    #[test]
    fn an_instruction_outside_the_bytecode_has_no_line() {
        let (_, code) = Code::from_record(&record(100, true), layout().format, None).unwrap();
        for offset in [-4, -1, 3, 1000, 1 << 40] {
            assert_eq!(code.line_at(ADDRESS, instruction(offset)), None, "{offset}");
        }
        assert_eq!(code.line_at(ADDRESS, 0), None);
    }

    proptest::proptest! {
        #[test]
        fn no_record_panics(bytes: Vec<u8>, changes in proptest::collection::vec((0..200_usize, 0..=255_u8), 0..6)) {
            let format = layout().format;
            let _ = Code::from_record(&bytes, format, None);
            let mut record = record(3, true);
            for (at, byte) in changes {
                if let Some(old) = record.get_mut(at) {
                    *old = byte;
                }
            }
            if let Ok((address, code)) = Code::from_record(&record, format, Some(live(&memory()))) {
                let _ = code.line_at(address, instruction(8));
                let _ = code.is_incomplete(address, u64::MAX, false);
            }
        }

        #[test]
        fn no_instruction_panics(address: u64, instruction: u64) {
            let (_, code) = Code::from_record(&record(100, true), layout().format, None).unwrap();
            let _ = (code.line_at(address, instruction), code.is_incomplete(address, instruction, false));
        }

        #[test]
        fn no_memory_panics(
            objects in proptest::collection::vec(proptest::collection::vec(0..=255_u8, 0..300), 4..5),
        ) {
            let mut memory = memory();
            for (address, object) in [FILENAME, NAME, QUALNAME, LINE_TABLE].into_iter().zip(objects) {
                memory.put(address, object);
            }
            let code = Code::from_memory(&memory, ADDRESS, &process(), layout().format).unwrap();
            let _ = code.line_at(ADDRESS, instruction(8));
        }
    }
}
