//! From the addresses of one process to frames that outlive it: the stage between `decode` and `stitch`.
//!
//! A process's facts (where which file is mapped, what its code objects say) are gone when it is, so stacks are resolved
//! into [`Location`]s at the latest then. Giving machine code its names can wait for the end of the recording: it needs
//! the file, not the process (`symbolize`).

use indexmap::IndexSet;
use profiler_common::record::{
    FRAME_ENTRY, FRAME_FRAMELESS_SHIFT, FRAME_GENERATOR, INSTRUCTION_MASK, NATIVE_32_BIT, NATIVE_BAD_FRAME_POINTER,
    NATIVE_COMPLETE, NATIVE_NO_ROOM, NATIVE_NONE, NATIVE_NOT_ADVANCING, NATIVE_NOT_CODE, NATIVE_NOT_COVERED,
    NATIVE_REGISTER_LOST, NATIVE_TABLE_NOT_READY, NATIVE_TRUNCATED, NATIVE_UNKNOWN_PROCESS, NATIVE_UNREADABLE,
    NATIVE_UNSUPPORTED, PYTHON_BAD_THREAD_STATE, PYTHON_COMPLETE, PYTHON_FRAMELESS_SHIFT, PYTHON_OTHER_INTERPRETER,
    PYTHON_TORN, PYTHON_TRUNCATED, PythonFrame,
};
use rustc_hash::FxBuildHasher;

use crate::{
    decode::RawStack,
    process::{files::FileId, perf_map, pythons::Part, table::Process},
    profile::unseen,
    python::codes::{CodeId, Codes},
    stitch::{Native, Parts, Python, stitch},
};

/// A frame without its process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    Python {
        code: CodeId,
        /// 0 if unknown.
        line: u32,
    },
    Native {
        file: FileId,
        /// Virtual address in the ELF file; for a caller, the last byte of its call instruction.
        address: u64,
    },
    /// The code that the kernel lends to every process; an offset in it.
    Vdso {
        address: u64,
    },
    /// Machine code generated at run time, named by the program that generated it.
    Generated {
        /// To be looked up with [`Resolved::generated_name`].
        name: u32,
    },
    /// Machine code that belongs to no file: generated at run time, or a mapping we have not seen.
    Anonymous {
        address: u64,
    },
    Kernel {
        address: u64,
    },
    Marker(Marker),
}

/// What stands where frames are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Marker {
    /// Native frames towards the root are missing: why, as [`RawStack::native_status`].
    NativeEnd(u32),
    /// Frames towards the root are missing: the stack is deeper than is kept.
    Truncated,
    /// Frames towards the root are missing: memory could not be read.
    Torn,
    /// What was found was not this thread's state.
    BadThreadState,
    /// A Python frame whose code object was never seen whole.
    UnknownCode,
    /// Frames of a CPython that is not walked because the process has another.
    OtherCpython,
    /// Frames of another interpreter of the thread: of the one that called into a sub-interpreter.
    OtherInterpreter,
    /// An evaluation loop whose frames are nowhere to be found.
    NotFound,
}

impl Marker {
    pub fn text(self) -> &'static str {
        match self {
            Self::NativeEnd(status) => native_end_text(status),
            Self::Truncated => "[truncated]",
            Self::Torn => unseen::TORN,
            Self::BadThreadState => unseen::BAD_THREAD_STATE,
            Self::UnknownCode => "[unknown Python function]",
            Self::OtherCpython => unseen::OTHER_CPYTHON,
            Self::OtherInterpreter => unseen::OTHER_INTERPRETER,
            Self::NotFound => unseen::NOT_FOUND,
        }
    }
}

/// What a native stack's status is called in a stack.
fn native_end_text(status: u32) -> &'static str {
    match status {
        NATIVE_TRUNCATED => "[native stack truncated]",
        NATIVE_UNKNOWN_PROCESS => "[native stack of a new process]",
        NATIVE_NOT_CODE => "[native stack ends outside known code]",
        NATIVE_TABLE_NOT_READY => "[native stack: unwind table not ready]",
        NATIVE_NO_ROOM => "[native stack: no room for the unwind table]",
        NATIVE_NOT_COVERED => "[native stack: no unwind information]",
        NATIVE_UNSUPPORTED => "[native stack: unsupported unwind information]",
        NATIVE_REGISTER_LOST => "[native stack: register not known]",
        NATIVE_UNREADABLE => "[native stack not readable]",
        NATIVE_NOT_ADVANCING => "[native stack not advancing]",
        NATIVE_BAD_FRAME_POINTER => "[native stack: no frame pointer]",
        NATIVE_32_BIT => "[native stack of a 32-bit program]",
        _ => "[native stack incomplete]",
    }
}

/// Interned locations and stacks of them.
#[derive(Debug, Default)]
pub struct Resolved {
    locations: IndexSet<Location, FxBuildHasher>,
    stacks: IndexSet<Box<[u32]>, FxBuildHasher>,
    /// Names out of perf maps.
    generated: IndexSet<Box<str>, FxBuildHasher>,
    /// Working memory, kept for its capacity.
    native: Vec<Native<u32>>,
    python: Vec<Python<u32>>,
    kernel: Vec<u32>,
    stack: Vec<u32>,
}

/// What resolving one stack came to.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Index into [`Resolved::stacks`].
    pub stack: u32,
    /// Frames without a name: code objects never seen whole.
    pub unknown_codes: u32,
    /// Native and Python frames contradict each other.
    pub not_interleaved: bool,
    /// Its Python functions were compiled: there is no evaluation loop that runs them.
    pub compiled: bool,
    /// It is a greenlet's, and whole, whatever lies below its first function.
    pub greenlet: bool,
    /// A marker stands for frames of others ([`Marker::OtherCpython`] and the like).
    pub unseen: bool,
    /// Which of the process's other CPythons are in it, as bits.
    pub other_pythons: u32,
}

impl Resolved {
    /// Resolves one stack of `process`.
    pub fn resolve(&mut self, process: &Process, codes: &Codes, raw: &RawStack) -> Outcome {
        self.native.clear();
        self.python.clear();
        self.kernel.clear();
        self.stack.clear();

        for (index, &address) in raw.kernel.iter().enumerate() {
            let location = Location::Kernel {
                address: call_site(index, address),
            };
            let id = self.intern(location);
            self.kernel.push(id);
        }
        let other_pythons = self.resolve_native(process, raw);
        let unknown_codes = self.resolve_python(process, codes, raw);
        let greenlet = self.cut_at_greenlet(process, raw);
        let native_end = match raw.native_status {
            NATIVE_NONE | NATIVE_COMPLETE => None,
            _ if greenlet => None,
            status => Some(Marker::NativeEnd(status)),
        };
        let python_end = match raw.python_status {
            PYTHON_TRUNCATED => Some(Marker::Truncated),
            PYTHON_TORN => Some(Marker::Torn),
            PYTHON_BAD_THREAD_STATE => Some(Marker::BadThreadState),
            _ => None,
        };
        let [native_end, python_end] =
            [native_end, python_end].map(|marker| marker.map(|marker| self.intern(Location::Marker(marker))));
        let Missing {
            frameless,
            unseen,
            anywhere,
        } = self.missing(process, raw, native_end.is_none());
        let unseen = unseen.map(|marker| self.intern(Location::Marker(marker)));
        let fits = stitch(
            Parts {
                kernel: &self.kernel,
                native: &self.native,
                native_end,
                python: &self.python,
                python_end,
                frameless,
                unseen,
                unseen_anywhere: anywhere,
            },
            &mut self.stack,
        );
        let stack = match self.stacks.get_index_of(&*self.stack) {
            Some(index) => index,
            None => self.stacks.insert_full(self.stack.as_slice().into()).0,
        };
        Outcome {
            stack: stack as u32,
            unknown_codes,
            not_interleaved: !fits,
            compiled: !fits && self.is_compiled(process),
            greenlet,
            unseen: other_pythons != 0 || unseen.is_some_and(|marker| self.stack.contains(&marker)),
            other_pythons,
        }
    }

    pub fn locations(&self) -> impl ExactSizeIterator<Item = &Location> {
        self.locations.iter()
    }

    /// The stacks in the order of their indices, each leaf first, as indices into the locations.
    pub fn stacks(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.stacks.iter().map(|stack| &**stack)
    }

    /// A location by its index.
    pub fn location(&self, index: u32) -> Option<&Location> {
        self.locations.get_index(index as usize)
    }

    /// A stack by its index, leaf first, as indices into the locations.
    pub fn stack(&self, index: u32) -> &[u32] {
        self.stacks.get_index(index as usize).map_or(&[], |stack| stack)
    }

    /// Takes in a stack that was resolved before, leaf first.
    pub fn take_back(&mut self, locations: impl Iterator<Item = Location>) -> u32 {
        let stack: Box<[u32]> = locations.map(|location| self.intern(location)).collect();
        self.stacks.insert_full(stack).0 as u32
    }

    /// Takes in a name of generated code: for [`Location::Generated`].
    pub fn take_back_name(&mut self, name: &str) -> u32 {
        match self.generated.get_index_of(name) {
            Some(index) => index as u32,
            None => self.generated.insert_full(name.into()).0 as u32,
        }
    }

    /// A name by its index in [`Location::Generated`].
    pub fn generated_name(&self, index: u32) -> &str {
        &self.generated[index as usize]
    }

    /// Returns which of the process's other CPythons were met, as bits.
    fn resolve_native(&mut self, process: &Process, raw: &RawStack) -> u32 {
        let mut other_pythons = 0;
        for &address in &raw.native {
            if let Some(name) = process.generated_name(address)
                && process.is_generated(address)
            {
                // CPython's trampolines stand for Python functions, whose frames we have: unless there are none.
                if raw.python.is_empty() || !perf_map::is_python_trampoline(name) {
                    let name = match self.generated.get_index_of(name) {
                        Some(index) => index,
                        None => self.generated.insert_full(name.into()).0,
                    };
                    self.push_native(Location::Generated { name: name as u32 }, false);
                }
                continue;
            }
            let Some(mapping) = process.mapping(address) else {
                self.push_native(Location::Anonymous { address }, false);
                continue;
            };
            let in_file = mapping.file_address(address);
            let Some(file) = mapping.file else {
                let location = match mapping.vdso {
                    true => Location::Vdso { address: in_file },
                    false => Location::Anonymous { address },
                };
                self.push_native(location, false);
                continue;
            };
            let location = Location::Native { file, address: in_file };
            match process.part(mapping, in_file) {
                // Part of the loop whose frame follows, which gives way to Python frames.
                Part::Handler if !raw.python.is_empty() => {}
                Part::Handler | Part::Nothing => self.push_native(location, false),
                Part::Loop => self.push_native(location, true),
                Part::OtherLoop(number) => {
                    other_pythons |= 1 << number;
                    self.push_native(Location::Marker(Marker::OtherCpython), false);
                }
            }
        }
        other_pythons
    }

    fn push_native(&mut self, location: Location, eval_loop: bool) {
        let frame = self.intern(location);
        self.native.push(Native { frame, eval_loop });
    }

    /// Whether there is no evaluation loop where Python functions are, although it is known what one looks like.
    fn is_compiled(&self, process: &Process) -> bool {
        let known = process
            .python
            .as_ref()
            .is_some_and(|python| python.binary.no_eval_loop.is_none());
        known && !self.native.iter().any(|native| native.eval_loop)
    }

    /// Cuts the native stack of a greenlet where that began: there `greenlet`'s own functions follow on the greenlet's last
    /// Python frame (or on C, of one that runs none), and what lies below them is another greenlet's, or left over.
    fn cut_at_greenlet(&mut self, process: &Process, raw: &RawStack) -> bool {
        let Some(module) = process.greenlets.filter(|_| raw.python_status == PYTHON_COMPLETE) else {
            return false;
        };
        let told = (raw.python_flags >> PYTHON_FRAMELESS_SHIFT) as usize;
        let open = self.python.last().is_some_and(|python| !python.entry);
        let own = told + usize::from(open) + self.python.iter().filter(|python| python.entry).count();
        let (mut loops, mut beginning) = (0, false);
        for (at, native) in self.native.iter().enumerate() {
            let location = self.locations.get_index(native.frame as usize);
            let in_module = matches!(location, Some(Location::Native { file, .. }) if *file == module);
            if beginning && !in_module {
                self.native.truncate(at);
                return true;
            }
            beginning = in_module && loops >= own;
            loops += usize::from(native.eval_loop);
        }
        beginning
    }

    /// Which loops have no frame in the Python list.
    ///
    /// From 3.11 on the sampled instruction says whether the innermost has (`python::chain_gaps`), and from 3.12 on
    /// entry frames say it of the others. Otherwise (up to 3.10, or where the instructions were not understood) it shows
    /// as one loop more than there are frames for, with next to nothing above it. What is more is another interpreter's. From 3.12 on, and where the kernel side has seen that the thread is in another interpreter than it
    /// came from, those are at the root; else a thread that does not hold the GIL may be in another one just as well, of
    /// which nothing tells.
    fn missing(&self, process: &Process, raw: &RawStack, native_is_whole: bool) -> Missing {
        let is_whole = raw.python_status == PYTHON_COMPLETE;
        let in_other = raw.python_flags & PYTHON_OTHER_INTERPRETER != 0;
        let marker = match in_other {
            true => Marker::OtherInterpreter,
            false => Marker::NotFound,
        };
        let mut missing = Missing {
            frameless: (raw.python_flags >> PYTHON_FRAMELESS_SHIFT) as usize,
            unseen: is_whole.then_some(marker),
            anywhere: false,
        };
        let entries = self.python.iter().filter(|python| python.entry).count();
        let loops = self.native.iter().filter(|native| native.eval_loop).count();
        let known = process.marks_entry_frames() || in_other;
        if missing.frameless == 0 && is_whole && native_is_whole && loops > entries && !known {
            if loops == entries + 1 && is_beginning_or_ending(process, raw) {
                missing.frameless = 1;
            } else {
                missing.anywhere = true;
            }
        }
        missing
    }

    fn resolve_python(&mut self, process: &Process, codes: &Codes, raw: &RawStack) -> u32 {
        let mut unknown = 0;
        for frame in &raw.python {
            let &PythonFrame {
                code: address,
                instruction,
                ..
            } = frame;
            let entry = instruction & FRAME_ENTRY != 0;
            let is_generator = instruction & FRAME_GENERATOR != 0;
            let frameless = instruction >> FRAME_FRAMELESS_SHIFT;
            let instruction = instruction & INSTRUCTION_MASK;
            let location = match process.code(frame.into()).map(|id| (id, codes.get(id))) {
                Some((_, code)) if code.is_incomplete(address, instruction, is_generator) => None,
                Some((id, code)) => {
                    let line = code.line_at(address, instruction).unwrap_or(0);
                    Some(Location::Python { code: id, line })
                }
                None => {
                    unknown += 1;
                    Some(Location::Marker(Marker::UnknownCode))
                }
            };
            let frame = location.map(|location| self.intern(location));
            self.python.push(Python { frame, entry });
            let out_of_chain = Python {
                frame: None,
                entry: true,
            };
            self.python.extend((0..frameless).map(|_| out_of_chain));
        }
        unknown
    }

    fn intern(&mut self, location: Location) -> u32 {
        match self.locations.get_index_of(&location) {
            Some(index) => index as u32,
            None => self.locations.insert_full(location).0 as u32,
        }
    }
}

/// Which evaluation loops have no frame in the Python list.
struct Missing {
    /// So many above the first frame: they have none yet, or none any more.
    frameless: usize,
    /// What the others are, if there can be any.
    unseen: Option<Marker>,
    /// Which of the loops those are cannot be said.
    anywhere: bool,
}

/// Whether the innermost loop may have no frame because it begins or ends: then it calls next to nothing, and nothing
/// outside the interpreter's own file.
fn is_beginning_or_ending(process: &Process, raw: &RawStack) -> bool {
    const MOST_ABOVE: usize = 3;
    for &address in raw.native.iter().take(MOST_ABOVE + 1) {
        let Some(mapping) = process.mapping(address) else {
            return false;
        };
        if process.part(mapping, mapping.file_address(address)) == Part::Loop {
            return true;
        }
        if !process.python.as_ref().is_some_and(|python| python.is_in(mapping)) {
            return false;
        }
    }
    false
}

/// The kernel's own walker gives where calls return to, which may belong to the next line or even the next function; the
/// leaf's address is that of an instruction.
fn call_site(index: usize, address: u64) -> u64 {
    if index == 0 { address } else { address.saturating_sub(1) }
}
