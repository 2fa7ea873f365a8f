//! From the addresses of one process to frames that outlive it: the stage between `decode` and `stitch`.
//!
//! A process's facts (where which file is mapped, what its code objects say) are gone when it is, so stacks are resolved
//! into [`Location`]s at the latest then. Giving machine code its names can wait for the end of the recording: it needs
//! the file, not the process (`symbolize`).

use indexmap::IndexSet;
use profiler_common::record::{
    FRAME_ENTRY, FRAME_GENERATOR, INSTRUCTION_MASK, PYTHON_BAD_THREAD_STATE, PYTHON_COMPLETE, PYTHON_LEADING_ENTRY,
    PYTHON_TORN, PYTHON_TRUNCATED, PythonFrame,
};
use rustc_hash::FxBuildHasher;

use crate::{
    decode::RawStack,
    process::{files::FileId, table::Process},
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
    /// Frames towards the root are missing: the stack is deeper than is kept.
    Truncated,
    /// Frames towards the root are missing: memory could not be read.
    Torn,
    /// What was found was not this thread's state.
    BadThreadState,
    /// A Python frame whose code object was never seen whole.
    UnknownCode,
}

impl Marker {
    pub fn text(self) -> &'static str {
        match self {
            Self::Truncated => "[truncated]",
            Self::Torn => "[Python frames not readable]",
            Self::BadThreadState => "[Python thread state not readable]",
            Self::UnknownCode => "[unknown Python function]",
        }
    }
}

/// Interned locations and stacks of them.
#[derive(Debug, Default)]
pub struct Resolved {
    locations: IndexSet<Location, FxBuildHasher>,
    stacks: IndexSet<Box<[u32]>, FxBuildHasher>,
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
    /// There are native frames, and they reach the thread's first function.
    pub native_complete: bool,
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
        let native_complete = self.resolve_native(process, &raw.native);
        let unknown_codes = self.resolve_python(process, codes, raw);
        stitch(
            Parts {
                kernel: &self.kernel,
                native: &self.native,
                native_complete,
                python: &self.python,
                python_complete: raw.python_status == PYTHON_COMPLETE,
                leading_entry: raw.python_flags & PYTHON_LEADING_ENTRY != 0,
            },
            &mut self.stack,
        );
        let marker = match raw.python_status {
            PYTHON_TRUNCATED => Some(Marker::Truncated),
            PYTHON_TORN => Some(Marker::Torn),
            PYTHON_BAD_THREAD_STATE => Some(Marker::BadThreadState),
            _ => None,
        };
        if let Some(marker) = marker {
            let id = self.intern(Location::Marker(marker));
            self.stack.push(id);
        }
        let stack = match self.stacks.get_index_of(&*self.stack) {
            Some(index) => index,
            None => self.stacks.insert_full(self.stack.as_slice().into()).0,
        };
        Outcome {
            stack: stack as u32,
            unknown_codes,
            native_complete,
        }
    }

    pub fn locations(&self) -> impl ExactSizeIterator<Item = &Location> {
        self.locations.iter()
    }

    /// The stacks in the order of their indices, each leaf first, as indices into the locations.
    pub fn stacks(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.stacks.iter().map(|stack| &**stack)
    }

    /// Native frames, and whether the list reaches the thread's first function.
    ///
    /// A frame pointer chain through code built without frame pointers ends in whatever the register held. So the list
    /// is cut at the first address that is not machine code.
    fn resolve_native(&mut self, process: &Process, addresses: &[u64]) -> bool {
        let mut complete = false;
        for (index, &address) in addresses.iter().enumerate() {
            let address = call_site(index, address);
            let Some(mapping) = process.mapping(address) else {
                if index == 0 {
                    let id = self.intern(Location::Anonymous { address });
                    self.native.push(Native {
                        frame: id,
                        eval_loop: false,
                    });
                }
                break;
            };
            let (location, eval_loop) = match mapping.file {
                Some(file) => {
                    let address = mapping.file_address(address);
                    (Location::Native { file, address }, process.is_eval_loop(file, address))
                }
                None if mapping.vdso => (
                    Location::Vdso {
                        address: mapping.file_address(address),
                    },
                    false,
                ),
                None => (Location::Anonymous { address }, false),
            };
            let id = self.intern(location);
            self.native.push(Native { frame: id, eval_loop });
            complete = index > 0 && mapping.starts_threads;
        }
        complete
    }

    fn resolve_python(&mut self, process: &Process, codes: &Codes, raw: &RawStack) -> u32 {
        let mut unknown = 0;
        for &PythonFrame {
            code: address,
            instruction,
        } in &raw.python
        {
            let entry = instruction & FRAME_ENTRY != 0;
            let is_generator = instruction & FRAME_GENERATOR != 0;
            let instruction = instruction & INSTRUCTION_MASK;
            let location = match process.code(address).map(|id| (id, codes.get(id))) {
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

/// The leaf's address is that of an instruction; a caller's is where its call returns to, which may belong to the next
/// line or even the next function.
fn call_site(index: usize, address: u64) -> u64 {
    if index == 0 { address } else { address.saturating_sub(1) }
}
