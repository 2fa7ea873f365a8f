//! The CPython of a process whose objects are wanted, found without a recording; and why it is refused, by name.

use std::{ops::Deref as _, path::PathBuf, sync::Arc};

use profiler_common::python::PythonProcess;
use rustc_hash::FxHashSet;

use super::{present::Present, regions::Regions};
use crate::{
    foreign,
    process::{
        file::{FileKey, MappedFile},
        maps,
    },
    python::{
        allocator::{
            code::Code,
            table::{AllocatorInUse, Below, Domain, Hook, Tables},
        },
        binary::{PythonBinary, Refusal, inspect},
        heap::{DICT_BYTES, HeapLayout, LIST_BYTES, SET_BYTES, TYPE_BASIC_SIZE},
        image::Image,
        layout::Layout,
        memory::{ProcessMemory, ReadMemory},
        object::ObjectLayout,
    },
};

/// A process and the CPython in it.
#[derive(Clone, Debug)]
pub struct Target {
    pub pid: u32,
    pub binary: Arc<PythonBinary>,
    /// What to add to an address in the file to have one in memory.
    pub bias: u64,
    pub process: PythonProcess,
    pub heap: HeapLayout,
    pub objects: ObjectLayout,
    /// What it calls its allocators through; addresses are the file's.
    pub tables: Tables,
    /// Types that C code exports, where they lie in memory.
    pub types: Exported,
    /// Bytes before the data of a block: 16 with `PYTHONMALLOC=debug` and `-X dev`.
    pub block_header: u64,
    /// The file with the interpreter, by device and inode.
    pub image: (u64, u64),
}

/// Types, by address. One that a build does not export is 0, and then nothing is taken for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    pub kind: u64,
    pub list: u64,
    pub tuple: u64,
    pub dict: u64,
    pub set: u64,
    pub frozen_set: u64,
    pub byte_array: u64,
    pub float: u64,
    pub complex: u64,
    pub code: u64,
    pub module: u64,
    pub member: u64,
    pub weak: [u64; 3],
    pub generators: [u64; 3],
}

/// Why a process's objects cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum NoTarget {
    #[error("process {pid} cannot be looked at: {source}; run with sudo, or in a container with --cap-add=SYS_PTRACE")]
    Unreadable { pid: u32, source: std::io::Error },
    #[error("there is no process {pid}; it may have ended, ps -e lists those there are")]
    Gone { pid: u32 },
    #[error("process {pid} runs no CPython that has started; profiler memory -p {pid} shows what makes it grow")]
    NoPython { pid: u32 },
    #[error("process {pid}: {}: {refusal}", path.display())]
    Refused { pid: u32, path: PathBuf, refusal: Refusal },
    #[error("process {pid}: {what}")]
    Layout { pid: u32, what: String },
    #[error(
        "process {pid} allocates objects with {what}, whose blocks cannot be told apart from outside; start it without \
         {remedy}, or use profiler memory -p {pid}"
    )]
    Allocator {
        pid: u32,
        what: &'static str,
        remedy: &'static str,
    },
}

impl Target {
    /// Finds it: of several CPythons the one that has an interpreter.
    pub fn find(pid: u32) -> Result<Self, NoTarget> {
        let maps = maps::read(pid).map_err(|source| no_process(pid, source))?;
        let memory = ProcessMemory { pid };
        let mut seen = FxHashSet::default();
        let mut refused = None;
        for entry in maps.entries.iter().filter(|entry| entry.executable) {
            let Some(key) = FileKey::of(entry) else { continue };
            if !seen.insert(key) {
                continue;
            }
            let Ok(file) = MappedFile::open(pid, entry) else {
                continue;
            };
            let Some(bias) = file.elf_headers().and_then(|headers| headers.load_bias(entry)) else {
                continue;
            };
            let Ok(bytes) = file.map() else { continue };
            match foreign::parsed(|| inspect(bytes.deref())) {
                Some(Ok(binary)) => {
                    let bias = if binary.position_independent { bias } else { 0 };
                    let head = u64::from(binary.layout.interpreter.head);
                    let first = memory.read_u64(binary.runtime.wrapping_add(bias).wrapping_add(head));
                    if first.is_none_or(|first| first == 0) {
                        continue;
                    }
                    return foreign::parsed(|| Self::new(pid, bytes.deref(), binary, bias, key)).unwrap_or_else(|| {
                        Err(NoTarget::Layout {
                            pid,
                            what: format!("{} cannot be read", file.path().display()),
                        })
                    });
                }
                Some(Err(Refusal::NotPython)) | None => {}
                Some(Err(refusal)) => refused = refused.or_else(|| Some((file.path().to_owned(), refusal))),
            }
        }
        Err(match refused {
            Some((path, refusal)) => NoTarget::Refused { pid, path, refusal },
            None => NoTarget::NoPython { pid },
        })
    }

    fn new(pid: u32, elf: &[u8], binary: PythonBinary, bias: u64, key: FileKey) -> Result<Self, NoTarget> {
        let unknown = |what: String| NoTarget::Layout {
            pid,
            what: format!("where CPython {} has its objects is not known: {what}", binary.version),
        };
        if binary.layout.free_threaded {
            return Err(unknown(
                "it is free-threaded, and has them in heaps of mimalloc and in no list".to_owned(),
            ));
        }
        let image = Image::parse(elf).ok_or(NoTarget::NoPython { pid })?;
        let block = image
            .bytes(binary.runtime, Layout::debug_offsets_bytes(binary.version))
            .unwrap_or_default();
        let heap = HeapLayout::of(binary.version, block).map_err(|error| unknown(error.to_string()))?;
        let objects = ObjectLayout::of(binary.version, binary.layout.free_threaded)
            .ok_or_else(|| unknown("its series".to_owned()))?;
        let address = |name: &str| {
            let symbol = image.symbol(name);
            symbol.map_or(0, |symbol| symbol.address.wrapping_add(bias))
        };
        let types = Exported {
            kind: address("PyType_Type"),
            list: address("PyList_Type"),
            tuple: address("PyTuple_Type"),
            dict: address("PyDict_Type"),
            set: address("PySet_Type"),
            frozen_set: address("PyFrozenSet_Type"),
            byte_array: address("PyByteArray_Type"),
            float: address("PyFloat_Type"),
            complex: address("PyComplex_Type"),
            code: address("PyCode_Type"),
            module: address("PyModule_Type"),
            member: address("PyMemberDescr_Type"),
            weak: [
                "_PyWeakref_RefType",
                "_PyWeakref_ProxyType",
                "_PyWeakref_CallableProxyType",
            ]
            .map(address),
            generators: ["PyGen_Type", "PyCoro_Type", "PyAsyncGen_Type"].map(address),
        };
        let memory = ProcessMemory { pid };
        types.check(&memory, &heap).map_err(unknown)?;
        let code = Code::new(elf).map_err(|error| unknown(error.to_string()))?;
        let tables = Tables::find(&code, binary.version, binary.runtime).map_err(|error| unknown(error.to_string()))?;
        let block_header = block_header(pid, tables.in_use(&memory, bias, Domain::Object))?;
        let process = binary.process(bias, 0);
        Ok(Self {
            pid,
            bias,
            process,
            heap,
            objects,
            tables,
            types,
            block_header,
            image: (u64::from(key.device.0) << 32 | u64::from(key.device.1), key.inode),
            binary: Arc::new(binary),
        })
    }

    pub fn memory(&self) -> ProcessMemory {
        ProcessMemory { pid: self.pid }
    }

    /// Its memory, as far as it is there: no page comes into being by looking.
    ///
    /// # Errors
    /// If the process is gone, or may not be looked at.
    pub fn present(&self) -> Result<Present, NoTarget> {
        Present::of(self.pid).map_err(|source| no_process(self.pid, source))
    }

    /// `_PyRuntime`.
    pub fn runtime(&self) -> u64 {
        self.binary.runtime.wrapping_add(self.bias)
    }

    /// The states of its interpreters, the main one first.
    pub fn interpreters(&self, memory: &dyn ReadMemory) -> Vec<u64> {
        const MOST: usize = 64;
        let layout = self.binary.layout.interpreter;
        let word = |address: u64, offset: u64| {
            let word = memory.read_u64(address.wrapping_add(offset));
            word.filter(|&word| word != 0)
        };
        // `main` follows `head`, which is the newest from 3.12 on.
        let mut found: Vec<u64> = word(self.runtime(), u64::from(layout.head) + 8).into_iter().collect();
        let mut next = word(self.runtime(), layout.head.into());
        for _ in 0..MOST {
            let Some(at) = next else { break };
            if !found.contains(&at) {
                found.push(at);
            }
            next = word(at, layout.next.into());
        }
        found
    }

    pub fn regions(&self) -> Result<Regions, NoTarget> {
        let text = std::fs::read(format!("/proc/{}/maps", self.pid));
        let text = text.map_err(|source| no_process(self.pid, source))?;
        Ok(Regions::parse(&text))
    }
}

fn no_process(pid: u32, source: std::io::Error) -> NoTarget {
    match source.kind() {
        std::io::ErrorKind::NotFound => NoTarget::Gone { pid },
        _ if source.raw_os_error() == Some(libc::ESRCH) => NoTarget::Gone { pid },
        _ => NoTarget::Unreadable { pid, source },
    }
}

impl Exported {
    /// What the types of the process say of their objects must be what the layout says.
    fn check(&self, memory: &dyn ReadMemory, heap: &HeapLayout) -> Result<(), String> {
        for (name, address, expected) in [
            ("list", self.list, LIST_BYTES),
            ("tuple", self.tuple, heap.tuple_items),
            ("dict", self.dict, DICT_BYTES),
            ("set", self.set, SET_BYTES),
            ("float", self.float, 24),
        ] {
            let size = memory.read_u64(address.wrapping_add(TYPE_BASIC_SIZE));
            if size != Some(expected) {
                let size = size.map_or("no".to_owned(), |size| size.to_string());
                return Err(format!("its {name} has {size} bytes, not {expected}"));
            }
        }
        match memory.read_u64(self.kind.wrapping_add(8)) {
            Some(kind) if kind == self.kind => Ok(()),
            _ => Err("its types are no types".to_owned()),
        }
    }
}

/// Bytes before the data of each block; or why blocks cannot be told apart.
fn block_header(pid: u32, in_use: Option<AllocatorInUse>) -> Result<u64, NoTarget> {
    let refused = |what, remedy| Err(NoTarget::Allocator { pid, what, remedy });
    match in_use {
        Some(AllocatorInUse::Pymalloc) => Ok(0),
        Some(AllocatorInUse::Hooked { hook, below, .. }) => match (hook, below) {
            (Hook::Debug, Below::Pymalloc) => Ok(16),
            (Hook::Trace, Below::Pymalloc) => Ok(0),
            (_, Below::Malloc) => refused("malloc (PYTHONMALLOC=malloc_debug)", "PYTHONMALLOC"),
            (_, Below::Other { .. }) => refused(
                "several hooks, one upon the other",
                "-X dev, PYTHONMALLOC and -X tracemalloc",
            ),
        },
        Some(AllocatorInUse::Malloc) => refused("malloc (PYTHONMALLOC=malloc)", "PYTHONMALLOC"),
        Some(AllocatorInUse::Mimalloc { .. }) => refused("mimalloc (PYTHONMALLOC=mimalloc)", "PYTHONMALLOC"),
        Some(AllocatorInUse::Other { .. }) => refused(
            "an allocator of somebody else's",
            "the tool that put it there (memray, for one)",
        ),
        None => Err(NoTarget::NoPython { pid }),
    }
}
