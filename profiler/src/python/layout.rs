//! Where CPython keeps what a stack walk needs.
//!
//! Up to 3.12 the offsets are constants per release series: each was printed by a C program with `offsetof` against
//! the headers of 3.8.18, 3.9.18, 3.10.13, 3.11.7 and 3.12.1 (x86-64, `Py_BUILD_CORE`), and live processes of those
//! versions and of Debian's 3.11.2 were walked with them. Structs move inside a series from 3.13 on (the thread state
//! of 3.13.18 is 8 bytes larger than 3.13.0's), so there the interpreter's own `_Py_DebugOffsets` is read.

use profiler_common::limits::{MAX_CODE_OBJECT_BYTES, MAX_FRAME_BYTES, MAX_THREAD_STATE_BYTES};
use profiler_common::python::{
    CHAIN_GAPS, ChainGap, LAYOUT_BASE_FRAME, LAYOUT_CFRAME, LAYOUT_ENTRY_FLAG, LAYOUT_GIL_HOLDER, LAYOUT_HEAP_FRAMES,
    LAYOUT_TAGGED_EXECUTABLE, PythonProcess,
};

use super::linetable::LineTableFormat;
use super::version::Version;

/// How to read a code object beyond the offsets the kernel side shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeFormat {
    pub line_table: LineTableFormat,
    /// How a frame says where in its code it is.
    pub instruction: Instruction,
}

/// What a frame keeps about the instruction it is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Instruction {
    /// `f_lasti`, an `int`, counts units of this many bytes: 1 on 3.8 and 3.9, 2 on 3.10; -1 before the first.
    Index { unit_bytes: u8 },
    /// `prev_instr` (3.11, 3.12) or `instr_ptr` (3.13+): an address. The instructions begin this far into the code
    /// object (`co_code_adaptive`).
    Address { code_adaptive: u16 },
}

/// One build's layout, without the addresses of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Offsets and flags; the addresses, `instance` and `thread_lookup` are zero.
    pub process: PythonProcess,
    pub format: CodeFormat,
    /// `_PyRuntime.…autoTSSkey` (the struct `Py_tss_t`), where there is one (up to 3.14).
    pub auto_tss_key: Option<u16>,
    /// What `PyCode_Type.tp_basicsize` must be. It is `sizeof(PyCodeObject)` (176) up to 3.10 and
    /// `offsetof(PyCodeObject, co_code_adaptive)` from 3.11 on.
    pub code_basic_size: u16,
    pub interpreter: InterpreterLayout,
    /// `--disable-gil`: each object begins with 16 bytes more, and there is a GIL only where somebody turns it on.
    pub free_threaded: bool,
}

/// Where to begin to look for objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterpreterLayout {
    /// `_PyRuntime.interpreters.head`.
    pub head: u32,
    /// `PyInterpreterState.next`.
    pub next: u32,
    /// `PyInterpreterState.modules`, from 3.12 on `.imports.modules`.
    pub modules: u32,
    /// The first of its thread states: `PyInterpreterState.tstate_head`, from 3.11 on `.threads.head`.
    pub threads: u32,
}

/// Why there is no layout for a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLayout {
    /// A release series this profiler does not know.
    Unsupported,
    /// `_Py_DebugOffsets.free_threaded` is set, in a series that was not tried so.
    FreeThreaded,
    /// An alpha or beta, whose block is none that a release has.
    PreRelease,
    /// The block is shorter than its series says.
    Short,
    /// The block does not begin with `xdebugpy`.
    Cookie,
    /// The block is another version's.
    Version(Version),
    /// A value is not an offset into the struct it belongs to.
    Value { field: &'static str, value: u64 },
}

impl Layout {
    /// The layout of a series whose structs do not move (3.8 – 3.12).
    pub fn of_series(version: Version) -> Option<Self> {
        if version.is_alpha_or_beta() {
            return None;
        }
        match version.series() {
            (3, 8) => Some(HEAP_FRAMES_3_8),
            (3, 9) => Some(HEAP_FRAMES_3_9),
            (3, 10) => Some(HEAP_FRAMES_3_10),
            (3, 11) => Some(INTERPRETER_FRAMES_3_11),
            (3, 12) => Some(INTERPRETER_FRAMES_3_12),
            _ => None,
        }
    }

    /// The layout that `block`, the start of `_PyRuntime`, describes (3.13+).
    pub fn from_debug_offsets(version: Version, block: &[u8]) -> Result<Self, NoLayout> {
        let positions = match version.series() {
            (3, 13) => &POSITIONS_3_13,
            (3, 14) => &POSITIONS_3_14,
            (3, 15) => &POSITIONS_3_15,
            _ => return Err(NoLayout::Unsupported),
        };
        let block = Block(block.get(..positions.size).ok_or(NoLayout::Short)?);
        if !block.0.starts_with(COOKIE) {
            return Err(NoLayout::Cookie);
        }
        let said = block.word(8);
        if said != u64::from(version.hex) {
            return Err(NoLayout::Version(Version::from_hex(said as u32)));
        }
        if version.is_alpha_or_beta() && !is_of_a_release(version, &block) {
            return Err(NoLayout::PreRelease);
        }
        // The build option is more telling than any other difference: report it before looking at the offsets. From 3.14 on
        // each thread can have bytecode of its own (`co_tlbc`), strings keep their kind elsewhere, and there was no build
        // to try either on.
        let free_threaded = block.word(16) != 0;
        if free_threaded && version.series() != (3, 13) {
            return Err(NoLayout::FreeThreaded);
        }
        positions.read(&block, version, free_threaded)
    }

    /// Bytes of `_PyRuntime` that [`Layout::from_debug_offsets`] needs; 0 before 3.13.
    pub fn debug_offsets_bytes(version: Version) -> usize {
        match version.series() {
            (3, 13) => POSITIONS_3_13.size,
            (3, 14) => POSITIONS_3_14.size,
            (3, 15) => POSITIONS_3_15.size,
            _ => 0,
        }
    }
}

/// Whether a release of the same series has this block, but for the word that says which release it is: all structures that it
/// tells of, with their sizes, are the release's then, and where it has its fields that it does not tell of, too.
fn is_of_a_release(version: Version, block: &Block<'_>) -> bool {
    const BEHIND_VERSION: usize = 16;
    let said = block.0.get(BEHIND_VERSION..).unwrap_or_default();
    releases().any(|(release, bytes)| {
        release.series() == version.series() && bytes.get(BEHIND_VERSION..).is_some_and(|bytes| bytes == said)
    })
}

/// The blocks of releases that were looked at.
fn releases() -> impl Iterator<Item = (Version, Vec<u8>)> {
    let lines = include_str!("layout_truth.txt").lines();
    lines.filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (version, words) = line.split_once(' ')?;
        let words = words.split(' ').map_while(|word| word.parse::<u64>().ok());
        Some((Version::parse(version)?, words.flat_map(u64::to_le_bytes).collect()))
    })
}

/// From `co_firstlineno` to the word that ends with `co_version` (with `co_nfreevars` before it), 3.12.1 and 3.13.0 by
/// `offsetof`. The debug offsets do not name it; 3.14 and 3.15 declare the same fields in the same order
/// (`_PyCode_DEF`, Include/cpython/code.h). If it were another word, code that was replaced could be taken for what it
/// was.
const CODE_VERSION_AFTER_FIRST_LINE: u16 = 20;

/// `PyObject`, `PyBytesObject` and the code object's strings as they are in 3.8 – 3.10.
const HEAP_FRAMES: PythonProcess = PythonProcess {
    instance: 0,
    thread_lookup: 0,
    flags: LAYOUT_HEAP_FRAMES | LAYOUT_GIL_HOLDER,
    tls_offset: 0,
    key_address: 0,
    code_type: 0,
    eval_start: [0; 2],
    eval_end: [0; 2],
    eval_frame: 0,
    gilstate_gap: 0,
    thread_frame: 24,
    thread_id: 176,
    cframe_current: 0,
    frame_bytes: 112,
    frame_previous: 24,
    frame_code: 32,
    frame_instruction: 104,
    frame_owner: 0,
    frame_entry: 0,
    object_type: 8,
    code_first_line: 40,
    code_filename: 104,
    code_name: 112,
    code_qualname: 0,
    code_line_table: 120,
    code_first_traceable: 0,
    unicode_length: 16,
    unicode_state: 32,
    unicode_ascii_data: 48,
    unicode_compact_data: 72,
    bytes_size: 16,
    bytes_data: 32,
    code_bytes: 128,
    code_version: 0,
    thread_interpreter: 16,
    runtime_main: 0,
    interpreter_threads: 0,
    generation: 0,
    runtime: [0; 2],
    chain_gaps: [ChainGap::NONE; CHAIN_GAPS],
};

/// 3.8.18, `offsetof`.
const HEAP_FRAMES_3_8: Layout = Layout {
    // autoTSSkey at 1392, tstate_current at 1368.
    process: PythonProcess {
        gilstate_gap: 24,
        ..HEAP_FRAMES
    },
    format: CodeFormat {
        line_table: LineTableFormat::Lnotab,
        instruction: Instruction::Index { unit_bytes: 1 },
    },
    auto_tss_key: Some(1392),
    code_basic_size: 176,
    interpreter: InterpreterLayout {
        head: 32,
        next: 0,
        modules: 56,
        threads: 8,
    },
    free_threaded: false,
};

/// 3.9.18, `offsetof`.
const HEAP_FRAMES_3_9: Layout = Layout {
    // autoTSSkey at 584, tstate_current at 568.
    process: PythonProcess {
        gilstate_gap: 16,
        ..HEAP_FRAMES
    },
    auto_tss_key: Some(584),
    interpreter: InterpreterLayout {
        head: 32,
        next: 0,
        modules: 856,
        threads: 8,
    },
    ..HEAP_FRAMES_3_8
};

/// 3.10.13, `offsetof`: as 3.9, but `f_lasti` lies at 96 and counts code units.
const HEAP_FRAMES_3_10: Layout = Layout {
    process: PythonProcess {
        frame_instruction: 96,
        frame_bytes: 104,
        ..HEAP_FRAMES_3_9.process
    },
    format: CodeFormat {
        line_table: LineTableFormat::Ranges,
        instruction: Instruction::Index { unit_bytes: 2 },
    },
    ..HEAP_FRAMES_3_9
};

/// 3.11.7, `offsetof`.
const INTERPRETER_FRAMES_3_11: Layout = Layout {
    process: PythonProcess {
        flags: LAYOUT_CFRAME | LAYOUT_ENTRY_FLAG | LAYOUT_GIL_HOLDER,
        // autoTSSkey at 592, tstate_current at 576.
        gilstate_gap: 16,
        thread_frame: 56,
        thread_id: 152,
        cframe_current: 8,
        frame_bytes: 72,
        frame_previous: 48,
        frame_code: 32,
        frame_instruction: 56,
        frame_owner: 69,
        frame_entry: 68,
        code_first_line: 72,
        code_filename: 112,
        code_name: 120,
        code_qualname: 128,
        code_line_table: 136,
        code_first_traceable: 168,
        code_bytes: 176,
        ..HEAP_FRAMES
    },
    format: CodeFormat {
        line_table: LineTableFormat::Locations,
        instruction: Instruction::Address { code_adaptive: 184 },
    },
    auto_tss_key: Some(592),
    code_basic_size: 184,
    interpreter: InterpreterLayout {
        head: 40,
        next: 0,
        modules: 888,
        threads: 16,
    },
    free_threaded: false,
};

/// 3.12.1, `offsetof`. Strings lose `wstr` here (PEP 623), so their characters start earlier.
const INTERPRETER_FRAMES_3_12: Layout = Layout {
    process: PythonProcess {
        flags: LAYOUT_CFRAME,
        gilstate_gap: 0,
        thread_id: 136,
        cframe_current: 0,
        frame_previous: 8,
        frame_code: 0,
        frame_owner: 70,
        frame_entry: 0,
        code_first_line: 68,
        code_first_traceable: 176,
        code_bytes: 184,
        code_version: CODE_VERSION_AFTER_FIRST_LINE + 68,
        runtime_main: 48,
        interpreter_threads: 72,
        unicode_ascii_data: 40,
        unicode_compact_data: 56,
        ..INTERPRETER_FRAMES_3_11.process
    },
    format: CodeFormat {
        line_table: LineTableFormat::Locations,
        instruction: Instruction::Address { code_adaptive: 192 },
    },
    auto_tss_key: Some(1544),
    code_basic_size: 192,
    interpreter: InterpreterLayout {
        head: 40,
        next: 0,
        modules: 944,
        threads: 72,
    },
    free_threaded: false,
};

/// `_Py_Debug_Cookie` (`Include/internal/pycore_debug_offsets.h`, 3.13.0; still the same in 3.15.2).
const COOKIE: &[u8] = b"xdebugpy";

/// `autoTSSkey` lies this far behind `interpreters.head`. Neither is in the block before 3.15, but `interpreters` and
/// `autoTSSkey` have kept their distance in 3.13.0, 3.13.18, 3.14.4 and 3.14.10 (DWARF and live processes).
const KEY_AFTER_INTERPRETERS_HEAD: u64 = 1528;

/// `_co_firsttraceable` is not in the block; it lies this far before `co_code_adaptive` in 3.13.0 (`offsetof`),
/// 3.13.18, 3.14.10 and 3.15.2 (DWARF).
const FIRST_TRACEABLE_BEFORE_ADAPTIVE: u16 = 16;

/// `PyCompactUnicodeObject` is `PyASCIIObject` and two words more (3.12.1, 3.13.0: `offsetof`). 3.15 says it itself.
const COMPACT_AFTER_ASCII: u64 = 16;

/// No field of an interpreter's state lies farther in (3.14.10 has 225,864 bytes).
const MAX_INTERPRETER: u64 = 1 << 24;

/// No field of an object, string or bytes header lies farther in (the farthest known is at 32, `ob_sval`).
const MAX_OBJECT_OFFSET: u64 = 512;

/// Where in `_Py_DebugOffsets` each field's offset stands. Computed from the header of each series and checked
/// against live processes of 3.13.0, 3.13.18, 3.14.10 and 3.15.2; constant inside a series so far.
struct Positions {
    /// `sizeof(_Py_DebugOffsets)`.
    size: usize,
    interpreters_head: usize,
    interpreter_next: usize,
    interpreter_threads: usize,
    interpreter_modules: usize,
    thread_size: usize,
    thread_interpreter: usize,
    /// From 3.14 on.
    code_object_generation: Option<usize>,
    current_frame: usize,
    thread_id: usize,
    frame_size: usize,
    previous: usize,
    executable: usize,
    instr_ptr: usize,
    owner: usize,
    code_size: usize,
    filename: usize,
    name: usize,
    qualname: usize,
    linetable: usize,
    firstlineno: usize,
    co_code_adaptive: usize,
    ob_type: usize,
    bytes_size: usize,
    bytes_data: usize,
    unicode_state: usize,
    unicode_length: usize,
    asciiobject_size: usize,
    /// From 3.15 on.
    compactunicodeobject_size: Option<usize>,
}

const POSITIONS_3_13: Positions = Positions {
    size: 584,
    interpreters_head: 40,
    interpreter_next: 64,
    interpreter_threads: 72,
    interpreter_modules: 88,
    thread_size: 152,
    thread_interpreter: 176,
    code_object_generation: None,
    current_frame: 184,
    thread_id: 192,
    frame_size: 224,
    previous: 232,
    executable: 240,
    instr_ptr: 248,
    owner: 264,
    code_size: 272,
    filename: 280,
    name: 288,
    qualname: 296,
    linetable: 304,
    firstlineno: 312,
    co_code_adaptive: 344,
    ob_type: 360,
    bytes_size: 520,
    bytes_data: 528,
    unicode_state: 544,
    unicode_length: 552,
    asciiobject_size: 560,
    compactunicodeobject_size: None,
};

const POSITIONS_3_14: Positions = Positions {
    size: 760,
    interpreters_head: 40,
    interpreter_next: 64,
    interpreter_threads: 72,
    interpreter_modules: 96,
    thread_size: 176,
    thread_interpreter: 200,
    code_object_generation: Some(160),
    current_frame: 208,
    thread_id: 216,
    frame_size: 248,
    previous: 256,
    executable: 264,
    instr_ptr: 272,
    owner: 288,
    code_size: 312,
    filename: 320,
    name: 328,
    qualname: 336,
    linetable: 344,
    firstlineno: 352,
    co_code_adaptive: 384,
    ob_type: 408,
    bytes_size: 600,
    bytes_data: 608,
    unicode_state: 624,
    unicode_length: 632,
    asciiobject_size: 640,
    compactunicodeobject_size: None,
};

const POSITIONS_3_15: Positions = Positions {
    size: 888,
    interpreters_head: 40,
    interpreter_next: 64,
    interpreter_threads: 72,
    interpreter_modules: 96,
    thread_size: 176,
    thread_interpreter: 200,
    code_object_generation: Some(160),
    current_frame: 208,
    thread_id: 240,
    frame_size: 312,
    previous: 320,
    executable: 328,
    instr_ptr: 336,
    owner: 352,
    code_size: 376,
    filename: 384,
    name: 392,
    qualname: 400,
    linetable: 408,
    firstlineno: 416,
    co_code_adaptive: 448,
    ob_type: 472,
    bytes_size: 696,
    bytes_data: 704,
    unicode_state: 720,
    unicode_length: 728,
    asciiobject_size: 736,
    compactunicodeobject_size: Some(744),
};

impl Positions {
    fn read(&self, block: &Block<'_>, version: Version, free_threaded: bool) -> Result<Layout, NoLayout> {
        let thread = block.at_most("thread_state.size", self.thread_size, u64::from(u16::MAX))?;
        let thread = thread.min(MAX_THREAD_STATE_BYTES as u64);
        let thread_frame = block.field("thread_state.current_frame", self.current_frame, 8, thread)?;
        let thread_id = block.field("thread_state.thread_id", self.thread_id, 8, thread)?;
        let thread_interpreter = block.field("thread_state.interp", self.thread_interpreter, 8, thread)?;
        let generation = match self.code_object_generation {
            Some(position) => block.at_most("interpreter_state.code_object_generation", position, MAX_INTERPRETER)?,
            None => 0,
        };

        let frame = block.at_most("interpreter_frame.size", self.frame_size, u64::from(u16::MAX))?;
        let frame = frame.min(MAX_FRAME_BYTES as u64);
        let frame_previous = block.field("interpreter_frame.previous", self.previous, 8, frame)?;
        let frame_code = block.field("interpreter_frame.executable", self.executable, 8, frame)?;
        let frame_instruction = block.field("interpreter_frame.instr_ptr", self.instr_ptr, 8, frame)?;
        let frame_owner = block.field("interpreter_frame.owner", self.owner, 1, frame)?;
        // Every struct here is a multiple of 8 bytes long, so rounding up stays inside the frame.
        let frame_end = (frame_previous.max(frame_code).max(frame_instruction) + 8).max(frame_owner + 1);
        let frame_bytes = frame_end.next_multiple_of(8);

        let code = block.at_most("code_object.size", self.code_size, u64::from(u16::MAX))?;
        let code = code.min(MAX_CODE_OBJECT_BYTES as u64);
        let code_adaptive = block.field("code_object.co_code_adaptive", self.co_code_adaptive, 8, code)?;
        let code_first_traceable =
            code_adaptive
                .checked_sub(FIRST_TRACEABLE_BEFORE_ADAPTIVE)
                .ok_or(NoLayout::Value {
                    field: "code_object.co_code_adaptive",
                    value: code_adaptive.into(),
                })?;
        let code_first_line = block.field("code_object.firstlineno", self.firstlineno, 4, code)?;
        let code_filename = block.field("code_object.filename", self.filename, 8, code)?;
        let code_name = block.field("code_object.name", self.name, 8, code)?;
        let code_qualname = block.field("code_object.qualname", self.qualname, 8, code)?;
        let code_line_table = block.field("code_object.linetable", self.linetable, 8, code)?;
        let code_last = [
            code_first_line,
            code_filename,
            code_name,
            code_qualname,
            code_line_table,
            code_first_traceable,
        ]
        .into_iter()
        .fold(0, u16::max);
        let code_bytes = (code_last + 1).next_multiple_of(8);

        let ascii = block.at_most(
            "unicode_object.asciiobject_size",
            self.asciiobject_size,
            MAX_OBJECT_OFFSET,
        )?;
        let compact = match self.compactunicodeobject_size {
            Some(position) => block.at_most("unicode_object.compactunicodeobject_size", position, MAX_OBJECT_OFFSET)?,
            None => ascii + COMPACT_AFTER_ASCII,
        };

        let head = block.at_most("runtime_state.interpreters_head", self.interpreters_head, 1 << 14)?;
        let interpreter = InterpreterLayout {
            head: head as u32,
            next: block.at_most("interpreter_state.next", self.interpreter_next, 1 << 20)? as u32,
            modules: block.at_most("interpreter_state.imports_modules", self.interpreter_modules, 1 << 20)? as u32,
            threads: block.at_most("interpreter_state.threads_head", self.interpreter_next + 8, 1 << 20)? as u32,
        };
        let interpreter_threads = block.at_most(
            "interpreter_state.threads_head",
            self.interpreter_threads,
            u64::from(u16::MAX),
        )?;
        // From 3.15 on the thread state is in a thread-local variable and there is no key.
        let auto_tss_key = if version.minor < 15 {
            Some((head + KEY_AFTER_INTERPRETERS_HEAD) as u16)
        } else {
            None
        };

        Ok(Layout {
            process: PythonProcess {
                flags: match version.minor {
                    13 => 0,
                    14 => LAYOUT_TAGGED_EXECUTABLE,
                    _ => LAYOUT_TAGGED_EXECUTABLE | LAYOUT_BASE_FRAME,
                },
                thread_frame,
                thread_id,
                frame_bytes,
                frame_previous,
                frame_code,
                frame_instruction,
                frame_owner,
                object_type: block.field("pyobject.ob_type", self.ob_type, 8, MAX_OBJECT_OFFSET)?,
                code_first_line,
                code_filename,
                code_name,
                code_qualname,
                code_line_table,
                code_first_traceable,
                code_bytes,
                code_version: code_first_line + CODE_VERSION_AFTER_FIRST_LINE,
                thread_interpreter,
                // `main` follows `head` (`struct pyinterpreters`).
                runtime_main: head as u16 + 8,
                interpreter_threads: interpreter_threads as u16,
                generation,
                unicode_length: block.field("unicode_object.length", self.unicode_length, 8, ascii)?,
                unicode_state: block.field("unicode_object.state", self.unicode_state, 4, ascii)?,
                unicode_ascii_data: ascii as u16,
                unicode_compact_data: compact as u16,
                bytes_size: block.field("bytes_object.ob_size", self.bytes_size, 8, MAX_OBJECT_OFFSET)?,
                bytes_data: block.field("bytes_object.ob_sval", self.bytes_data, 1, MAX_OBJECT_OFFSET)?,
                ..PythonProcess::default()
            },
            format: CodeFormat {
                line_table: LineTableFormat::Locations,
                instruction: Instruction::Address { code_adaptive },
            },
            auto_tss_key,
            code_basic_size: code_adaptive,
            interpreter,
            free_threaded,
        })
    }
}

/// The bytes of a `_Py_DebugOffsets`: an allegation, every value of which is bounded when it is read.
struct Block<'a>(&'a [u8]);

impl Block<'_> {
    /// 0 beyond the end, which no caller asks for: the positions lie inside their series' size.
    fn word(&self, position: usize) -> u64 {
        self.0
            .get(position..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn at_most(&self, field: &'static str, position: usize, most: u64) -> Result<u64, NoLayout> {
        let value = self.word(position);
        if value <= most {
            Ok(value)
        } else {
            Err(NoLayout::Value { field, value })
        }
    }

    /// The offset of a field of `bytes` bytes (a power of two) in a struct of `size` bytes.
    fn field(&self, field: &'static str, position: usize, bytes: u64, size: u64) -> Result<u16, NoLayout> {
        let value = self.word(position);
        match u16::try_from(value) {
            Ok(offset) if value + bytes <= size && value.is_multiple_of(bytes) => Ok(offset),
            _ => Err(NoLayout::Value { field, value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocks of real releases.
    fn blocks() -> Vec<(Version, Vec<u8>)> {
        releases().collect()
    }

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn debug_offsets_of_real_releases_give_the_layout_their_headers_give() {
        let blocks = blocks();
        assert_eq!(blocks.len(), 4);
        for (version, block) in blocks {
            let Layout {
                process,
                format,
                auto_tss_key,
                code_basic_size,
                interpreter,
                free_threaded,
            } = Layout::from_debug_offsets(version, &block).unwrap();
            let (owner, frame_bytes, adaptive, key, thread_id, flags) = match version.minor {
                13 => (70, 72, 200, Some(2160), 152, 0),
                14 => (74, 80, 208, Some(2336), 152, LAYOUT_TAGGED_EXECUTABLE),
                _ => (74, 80, 208, None, 176, LAYOUT_TAGGED_EXECUTABLE | LAYOUT_BASE_FRAME),
            };
            let expected = PythonProcess {
                flags,
                thread_frame: 72,
                thread_id,
                frame_bytes,
                frame_previous: 8,
                frame_code: 0,
                frame_instruction: 56,
                frame_owner: owner,
                object_type: 8,
                code_first_line: 68,
                code_filename: 112,
                code_name: 120,
                code_qualname: 128,
                code_line_table: 136,
                code_first_traceable: adaptive - 16,
                code_bytes: adaptive - 8,
                code_version: 88,
                thread_interpreter: 16,
                runtime_main: match version.minor {
                    13 => 640,
                    14 => 816,
                    _ => 944,
                },
                interpreter_threads: if version.minor == 15 { 7336 } else { 7344 },
                generation: match version.minor {
                    13 => 0,
                    14 => 7992,
                    _ => 7944,
                },
                unicode_length: 16,
                unicode_state: 32,
                unicode_ascii_data: 40,
                unicode_compact_data: 56,
                bytes_size: 16,
                bytes_data: 32,
                ..PythonProcess::default()
            };
            assert_eq!(process, expected, "{version}");
            assert_eq!(
                format.instruction,
                Instruction::Address {
                    code_adaptive: adaptive
                }
            );
            assert_eq!(auto_tss_key, key);
            // As `remote2.py` finds them in live processes.
            let (head, next, modules) = match version.minor {
                13 => (632, 7264, 7656),
                14 => (808, 7272, 7688),
                _ => (936, 7264, 7592),
            };
            let threads = if version.minor == 15 { 7336 } else { 7344 };
            assert_eq!(
                interpreter,
                InterpreterLayout {
                    head,
                    next,
                    modules,
                    threads
                }
            );
            assert_eq!((code_basic_size, free_threaded), (adaptive, false));
        }
    }

    #[test]
    fn a_field_outside_its_struct_is_refused_by_name() {
        for (version, mut block) in blocks() {
            let owner = match version.minor {
                13 => POSITIONS_3_13.owner,
                14 => POSITIONS_3_14.owner,
                _ => POSITIONS_3_15.owner,
            };
            for value in [200, 1 << 16, u64::MAX] {
                block[owner..owner + 8].copy_from_slice(&value.to_le_bytes());
                assert_eq!(
                    Layout::from_debug_offsets(version, &block),
                    Err(NoLayout::Value {
                        field: "interpreter_frame.owner",
                        value
                    })
                );
            }
        }
    }

    #[test]
    fn a_free_threaded_build_has_a_layout_in_3_13_and_is_refused_from_then_on_whatever_its_offsets() {
        for (version, mut block) in blocks() {
            let usual = Layout::from_debug_offsets(version, &block).unwrap();
            block[16] = 1;
            let expected = match version.minor {
                13 => Ok(Layout {
                    free_threaded: true,
                    ..usual
                }),
                _ => Err(NoLayout::FreeThreaded),
            };
            assert_eq!(Layout::from_debug_offsets(version, &block), expected, "{version}");
        }
    }

    #[test]
    fn a_block_of_another_release_is_refused() {
        let (_, block) = &blocks()[0];
        assert_eq!(
            Layout::from_debug_offsets(version("3.13.1"), block),
            Err(NoLayout::Version(version("3.13.0")))
        );
        assert_eq!(
            Layout::from_debug_offsets(version("3.14.0"), block),
            Err(NoLayout::Short)
        );
        assert_eq!(
            Layout::from_debug_offsets(version("3.13.0"), &[0; 4096]),
            Err(NoLayout::Cookie)
        );
    }

    #[test]
    fn an_unknown_series_has_no_layout() {
        for text in ["2.7.18", "3.7.16", "3.13.0", "3.16.0", "4.8.0"] {
            assert_eq!(Layout::of_series(version(text)), None, "{text}");
        }
        for text in ["3.12.1", "3.16.0", "4.14.0"] {
            assert_eq!(
                Layout::from_debug_offsets(version(text), &[0; 4096]),
                Err(NoLayout::Unsupported),
                "{text}"
            );
        }
    }

    #[test]
    fn alphas_and_betas_have_a_layout_if_it_is_a_releases_to_the_last_byte() {
        assert_eq!(Layout::of_series(version("3.11.0a3")), None);
        assert!(Layout::of_series(version("3.11.0rc1")).is_some());
        for (release, mut block) in blocks() {
            let beta = version(&format!("3.{}.0b2", release.minor));
            block[8..16].copy_from_slice(&u64::from(beta.hex).to_le_bytes());
            let layout = Layout::from_debug_offsets(beta, &block).unwrap();
            block[8..16].copy_from_slice(&u64::from(release.hex).to_le_bytes());
            assert_eq!(
                Ok(layout),
                Layout::from_debug_offsets(release, &block),
                "but for its name"
            );

            block[8..16].copy_from_slice(&u64::from(beta.hex).to_le_bytes());
            for word in 2..block.len() / 8 {
                let mut other = block.clone();
                other[8 * word] ^= 8;
                assert_eq!(
                    Layout::from_debug_offsets(beta, &other),
                    Err(NoLayout::PreRelease),
                    "{beta}, word {word}"
                );
            }
        }
    }

    #[test]
    fn every_layout_reads_all_of_its_fields_and_no_more_than_the_limits() {
        let series = ["3.8.18", "3.9.18", "3.10.13", "3.11.7", "3.12.1"].map(|text| Layout::of_series(version(text)));
        let blocks = blocks();
        let read = blocks
            .iter()
            .map(|(version, block)| Layout::from_debug_offsets(*version, block).ok());
        for layout in series.into_iter().chain(read) {
            let process = layout.unwrap().process;
            let frame_end = [
                process.frame_previous + 8,
                process.frame_code + 8,
                process.frame_instruction + if process.flags & LAYOUT_HEAP_FRAMES != 0 { 4 } else { 8 },
                process.frame_owner + 1,
                process.frame_entry + 1,
            ];
            let frame_end = frame_end.into_iter().max().unwrap();
            assert_eq!(process.frame_bytes, frame_end.next_multiple_of(8));
            assert!(usize::from(process.frame_bytes) <= MAX_FRAME_BYTES);
            let code_end = [
                process.code_first_line + 4,
                process.code_filename + 8,
                process.code_name + 8,
                process.code_qualname + 8,
                process.code_line_table + 8,
                process.code_first_traceable + 4,
            ];
            assert_eq!(
                process.code_bytes,
                code_end.into_iter().max().unwrap().next_multiple_of(8)
            );
            assert!(usize::from(process.code_bytes) <= MAX_CODE_OBJECT_BYTES);
            assert!(usize::from(process.thread_id.max(process.thread_frame)) + 8 <= MAX_THREAD_STATE_BYTES);
            assert_eq!(process.gilstate_gap != 0, process.flags & LAYOUT_GIL_HOLDER != 0);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_block_panics_or_leaves_the_limits(
            release in 0..4_usize,
            words in proptest::collection::vec((3..111_usize, proptest::prelude::any::<u64>(), 0..64_u32), 0..40),
        ) {
            let (version, mut block) = blocks().swap_remove(release);
            for (word, value, shift) in words {
                if let Some(bytes) = block.get_mut(8 * word..8 * word + 8) {
                    bytes.copy_from_slice(&(value >> shift).to_le_bytes());
                }
            }
            if let Ok(layout) = Layout::from_debug_offsets(version, &block) {
                let process = layout.process;
                assert!(usize::from(process.frame_bytes) <= MAX_FRAME_BYTES);
                assert!(process.frame_owner < process.frame_bytes);
                assert!(usize::from(process.code_bytes) <= MAX_CODE_OBJECT_BYTES);
                assert!(usize::from(process.thread_frame) + 8 <= MAX_THREAD_STATE_BYTES);
            }
        }
    }
}
