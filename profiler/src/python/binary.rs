//! What an ELF file says about the CPython in it.
//!
//! These are facts of the file, the same for every process that maps it. A build whose layout is not known for sure is
//! refused by name: a wrong stack is worse than none.

use std::{cmp::Reverse, ops::Range};

use iced_x86::{Decoder, DecoderOptions, OpKind};
use profiler_common::python::{ChainGap, LAYOUT_GENERATION_IS_GLOBAL, LAYOUT_GENERATION_IS_VERSION, PythonProcess};

use super::c_library::Musl;
use super::chain_gaps::{self, EvalCode};
use super::code_numbers::{self, NextNumber};
use super::eval_loop::{self, NoEvalLoop};
use super::image::{Image, Symbol};
use super::layout::{CodeFormat, Layout, NoLayout};
use super::thread_lookup::ThreadLookup;
use super::version::Version;

/// A supported CPython. Addresses are the file's; a process adds its load bias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonBinary {
    pub version: Version,
    pub layout: Layout,
    /// Whether the loader may move it: if not (`ET_EXEC`), the bias of every process is 0.
    pub position_independent: bool,
    /// `_PyRuntime`.
    pub runtime: u64,
    /// Its bytes.
    pub runtime_bytes: u64,
    /// `PyCode_Type`.
    pub code_type: u64,
    pub thread_lookup: ThreadLookup,
    /// It expects musl, or has it in itself. Which C library a process has is decided by what it has mapped.
    pub musl: Option<Musl>,
    /// The machine code of the evaluation loop, in order of address. Empty if it was not found, and then
    /// [`PythonBinary::no_eval_loop`] says why: Python and native frames cannot be merged, but both are right.
    pub eval_loop: Vec<Range<u64>>,
    /// Address ranges of the handlers that a tail-calling loop (3.14 on, clang) is made of. One of them lies above each
    /// frame of `eval_loop`, of which it is a part.
    pub eval_handlers: Vec<Range<u64>>,
    pub no_eval_loop: Option<NoEvalLoop>,
    /// `_PyEval_EvalFrameDefault`.
    pub eval_frame: u64,
    /// Where in it the chain of frames does not begin with the loop's own.
    pub chain_gaps: Vec<ChainGap>,
    /// The number of the next code object (3.12, 3.13). Without it every frame's code is looked at, which costs more.
    pub next_number: Option<NextNumber>,
}

/// Why a file's Python stacks are not walked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("not a CPython for x86-64")]
    NotPython,
    #[error("PyPy is not supported (CPython 3.8 to 3.15 is)")]
    PyPy,
    #[error("CPython {version} is not supported (3.8 to 3.15 are)")]
    Unsupported { version: Version },
    #[error("CPython {version} is a pre-release, whose layout may still change, and not supported")]
    PreRelease { version: Version },
    #[error("free-threaded CPython {}.{} is not supported yet", version.major, version.minor)]
    FreeThreaded { version: Version },
    #[error("CPython {version} is a debug build (--with-pydebug), which is not supported")]
    DebugBuild { version: Version },
    #[error("a CPython in a static executable without symbols, which is not supported")]
    NoSymbols,
    #[error("CPython {version} with the C library musl is not supported yet (3.8 to 3.14 are)")]
    Musl { version: Version },
    #[error("looks like a CPython but is damaged: {what}")]
    Damaged { what: &'static str },
    #[error("CPython {version} has an unknown layout: {what}")]
    UnknownLayout { version: Version, what: String },
}

/// Where in the word that [`PythonProcess::code_version`] is of the version stands.
const CODE_VERSION_IN_WORD: u16 = 4;

/// Which CPython `elf`, the bytes of an ELF file, is.
pub fn inspect(elf: &[u8]) -> Result<PythonBinary, Refusal> {
    let image = Image::parse(elf).ok_or(Refusal::NotPython)?;
    let code_type = image
        .symbol("PyCode_Type")
        .ok_or_else(|| match image.symbol("pypy_execute_source") {
            // Its embedding API (seen in libpypy3.9-c.so 7.3.11, whose C API is called `PyPy…`).
            Some(_) => Refusal::PyPy,
            // The section that `_PyRuntime` is in (3.8 – 3.14).
            None if !image.has_names() && image.section(".PyRuntime").is_some() => Refusal::NoSymbols,
            None => Refusal::NotPython,
        })?;
    let version = version(&image)?;
    if version.major != 3 || !(8..=15).contains(&version.minor) {
        return Err(Refusal::Unsupported { version });
    }
    // From 3.13 on its own debug offsets show whether it is laid out as a release is.
    if version.is_alpha_or_beta() && version.minor < 13 {
        return Err(Refusal::PreRelease { version });
    }
    let runtime = image.symbol("_PyRuntime").ok_or(Refusal::Damaged {
        what: "it has no _PyRuntime",
    })?;
    let eval_frame = image.symbol("_PyEval_EvalFrameDefault").ok_or(Refusal::Damaged {
        what: "it has no _PyEval_EvalFrameDefault",
    })?;
    if is_debug_build(&image) {
        return Err(Refusal::DebugBuild { version });
    }
    let layout = layout(&image, version, runtime)?;
    check_code_type(&image, version, &layout, code_type)?;
    let thread_lookup = thread_lookup(&image, version, &layout, runtime)?;
    let musl = Musl::in_file(&image).or(Musl::expected_by(&image).then_some(Musl::USUAL));
    // Its table of modules is another one, and there was none to try it on.
    if musl.is_some() && matches!(thread_lookup, ThreadLookup::DynamicTls { .. }) {
        return Err(Refusal::Musl { version });
    }
    let (eval_loop, no_eval_loop) = match eval_loop::find(&image, eval_frame) {
        Ok(ranges) => (ranges, None),
        Err(reason) => (Vec::new(), Some(reason)),
    };
    let eval_handlers = eval_loop::handlers(&image, &eval_loop);
    let eval_code = EvalCode {
        function: eval_frame,
        pieces: &eval_loop,
        tail_calls: !eval_handlers.is_empty(),
    };
    let next_number = match version.minor {
        12 | 13 => code_numbers::find(&image, layout.process.code_version + CODE_VERSION_IN_WORD),
        _ => None,
    };
    let chain_gaps = chain_gaps::find(&image, &eval_code, &layout.process);
    Ok(PythonBinary {
        version,
        layout,
        position_independent: image.is_position_independent(),
        runtime: runtime.address,
        runtime_bytes: runtime.size,
        code_type: code_type.address,
        thread_lookup,
        musl,
        eval_loop,
        eval_handlers,
        no_eval_loop,
        eval_frame: eval_frame.address,
        chain_gaps,
        next_number,
    })
}

impl PythonBinary {
    /// What the kernel side needs to walk a process that maps this file at `bias` (the difference between an address
    /// in memory and in the file; 0 unless [`PythonBinary::position_independent`]).
    pub fn process(&self, bias: u64, instance: u32) -> PythonProcess {
        let mut process = self.layout.process;
        process.instance = instance;
        process.code_type = self.code_type.wrapping_add(bias);
        self.thread_lookup.fill(&mut process, bias);
        if let Some(musl) = self.musl {
            ThreadLookup::use_musl(&mut process, musl);
        }
        let runtime = self.runtime.wrapping_add(bias);
        match self.next_number {
            Some(NextNumber::Variable { address }) => {
                process.generation = address.wrapping_add(bias);
                process.flags |= LAYOUT_GENERATION_IS_VERSION | LAYOUT_GENERATION_IS_GLOBAL;
            }
            Some(NextNumber::InInterpreter { offset }) => {
                process.generation = offset;
                process.flags |= LAYOUT_GENERATION_IS_VERSION;
            }
            None => {}
        }
        process.runtime = [runtime, runtime.wrapping_add(self.runtime_bytes)];
        // The longest, where most samples fall. What does not fit is only not merged in the kernel.
        let mut ranges: Vec<&Range<u64>> = self.eval_loop.iter().chain(&self.eval_handlers).collect();
        ranges.sort_unstable_by_key(|range| Reverse(range.end - range.start));
        for (index, range) in ranges.into_iter().enumerate().take(process.eval_start.len()) {
            process.eval_start[index] = range.start.wrapping_add(bias);
            process.eval_end[index] = range.end.wrapping_add(bias);
        }
        process.eval_frame = self.eval_frame.wrapping_add(bias);
        for (slot, gap) in process.chain_gaps.iter_mut().zip(&self.chain_gaps) {
            *slot = *gap;
        }
        process
    }

    pub fn format(&self) -> CodeFormat {
        self.layout.format
    }
}

fn version(image: &Image<'_>) -> Result<Version, Refusal> {
    // `const unsigned long Py_Version`, 3.11 and later.
    if let Some(symbol) = image.symbol("Py_Version") {
        let hex = image.u32(symbol.address).ok_or(Refusal::Damaged {
            what: "Py_Version cannot be read",
        })?;
        return Ok(Version::from_hex(hex));
    }
    let function = image.symbol("Py_GetVersion").ok_or(Refusal::NotPython)?;
    version_string(image, function).ok_or(Refusal::Damaged {
        what: "Py_GetVersion names no version",
    })
}

/// `Py_GetVersion` formats `"%.80s (%.80s) %.80s"` with `PY_VERSION` (`Python/getversion.c`, 3.8.18 – 3.10.13): of all
/// the addresses it mentions, the one that a version stands at. The file's name proves nothing and its other strings
/// (`lib/python3.8`, the installation path) are not unique.
fn version_string(image: &Image<'_>, function: Symbol) -> Option<Version> {
    const MAX_FUNCTION_BYTES: usize = 512;
    const MAX_VERSION_BYTES: usize = 24;
    let code = image.bytes_from(function.address)?;
    let bytes = usize::try_from(function.size)
        .unwrap_or(usize::MAX)
        .min(code.len())
        .min(MAX_FUNCTION_BYTES);
    Decoder::with_ip(64, code.get(..bytes)?, function.address, DecoderOptions::NONE)
        .into_iter()
        .filter_map(|instruction| {
            if instruction.is_ip_rel_memory_operand() {
                Some(instruction.ip_rel_memory_address())
            } else if matches!(instruction.op1_kind(), OpKind::Immediate32 | OpKind::Immediate32to64) {
                Some(instruction.immediate(1))
            } else {
                None
            }
        })
        .find_map(|address| {
            let text = image.bytes_from(address)?.split(|byte| *byte == 0).next()?;
            let text = text.get(..MAX_VERSION_BYTES.min(text.len()))?;
            Version::parse(std::str::from_utf8(text).ok()?)
        })
}

/// `Py_DEBUG` turns on `Py_REF_DEBUG`, whose accounting functions are exported (`Include/object.h`, 3.8.18 – 3.13.0:
/// `_Py_NegativeRefcount` under `#ifdef Py_REF_DEBUG`; seen in Debian's python3.11-dbg, absent from every release
/// build here). `Py_TRACE_REFS` exports `_Py_AddToAllObjects` up to 3.8 and moves every field up to 3.12, which
/// [`check_code_type`] sees.
fn is_debug_build(image: &Image<'_>) -> bool {
    ["_Py_NegativeRefcount", "_Py_RefTotal", "_Py_AddToAllObjects"]
        .iter()
        .any(|name| image.symbol(name).is_some())
}

fn layout(image: &Image<'_>, version: Version, runtime: Symbol) -> Result<Layout, Refusal> {
    if let Some(layout) = Layout::of_series(version) {
        return Ok(layout);
    }
    let block = image
        .bytes(runtime.address, Layout::debug_offsets_bytes(version))
        .ok_or(Refusal::Damaged {
            what: "its debug offsets (_PyRuntime) cannot be read",
        })?;
    Layout::from_debug_offsets(version, block).map_err(|problem| match problem {
        NoLayout::Unsupported => Refusal::Unsupported { version },
        NoLayout::FreeThreaded => Refusal::FreeThreaded { version },
        NoLayout::PreRelease => Refusal::PreRelease { version },
        NoLayout::Short => Refusal::Damaged {
            what: "its debug offsets (_PyRuntime) are cut short",
        },
        NoLayout::Cookie => Refusal::Damaged {
            what: "its debug offsets (_PyRuntime) have no cookie",
        },
        NoLayout::Version(other) => Refusal::UnknownLayout {
            version,
            what: format!("its debug offsets are those of {other}"),
        },
        NoLayout::Value { field, value } => Refusal::UnknownLayout {
            version,
            what: format!("its debug offsets put {field} at {value}"),
        },
    })
}

/// The size of code objects, which the type object states, must be the layout's: the check that a build option we do
/// not know has not moved the fields.
fn check_code_type(image: &Image<'_>, version: Version, layout: &Layout, code_type: Symbol) -> Result<(), Refusal> {
    /// `offsetof(PyTypeObject, tp_basicsize)`, 3.8.18 – 3.13.0; the block of 3.15.2 says the same.
    const TP_BASICSIZE: u64 = 32;
    let size = code_type
        .address
        .checked_add(TP_BASICSIZE + layout.process.header_growth())
        .and_then(|address| image.u64(address))
        .ok_or(Refusal::Damaged {
            what: "PyCode_Type cannot be read",
        })?;
    if size == u64::from(layout.code_basic_size) {
        return Ok(());
    }
    let expected = layout.code_basic_size;
    Err(Refusal::UnknownLayout {
        version,
        what: format!("its code objects have {size} bytes, not {expected}"),
    })
}

fn thread_lookup(
    image: &Image<'_>,
    version: Version,
    layout: &Layout,
    runtime: Symbol,
) -> Result<ThreadLookup, Refusal> {
    if let Some(offset) = layout.auto_tss_key {
        return Ok(ThreadLookup::PthreadKey {
            key: runtime.address.wrapping_add(u64::from(offset)),
        });
    }
    let function = image.symbol("PyGILState_GetThisThreadState").ok_or(Refusal::Damaged {
        what: "it has no PyGILState_GetThisThreadState",
    })?;
    ThreadLookup::from_function(image, function).ok_or_else(|| Refusal::UnknownLayout {
        version,
        what: "PyGILState_GetThisThreadState does not read its thread-local variable in a known way".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use profiler_common::python::{LAYOUT_MUSL, THREAD_BY_PTHREAD_KEY, THREAD_BY_STATIC_TLS};

    use super::super::fake_elf::FakeElf;
    use super::*;

    const RUNTIME: u64 = 0x5000;
    const CODE_TYPE: u64 = 0x7000;
    const FUNCTION: u64 = 0x1000;

    /// An interpreter that says of itself what the argument names.
    struct Claims {
        hex: u32,
        basic_size: u64,
        runtime: Vec<u8>,
        function: Vec<u8>,
    }

    impl Claims {
        fn elf(self) -> FakeElf {
            let Self {
                hex,
                basic_size,
                runtime,
                function,
            } = self;
            FakeElf::default()
                .section(".text", FUNCTION, function)
                .section(".rodata", 0x3000, u64::from(hex).to_le_bytes())
                .section(".PyRuntime", RUNTIME, runtime)
                .section(
                    ".data",
                    CODE_TYPE,
                    [vec![0; 32], basic_size.to_le_bytes().to_vec()].concat(),
                )
                .symbol("_PyRuntime", RUNTIME, 8)
                .symbol("PyCode_Type", CODE_TYPE, 40)
                .symbol("Py_Version", 0x3000, 8)
                .symbol("_PyEval_EvalFrameDefault", FUNCTION, 1)
                .symbol("PyGILState_GetThisThreadState", FUNCTION, 1)
        }
    }

    fn python_3_12() -> FakeElf {
        Claims {
            hex: 0x030c_01f0,
            basic_size: 192,
            runtime: vec![0; 8],
            function: vec![0xc3],
        }
        .elf()
    }

    fn with_debug_offsets(release: &str, basic_size: u64) -> Claims {
        let words = include_str!("layout_truth.txt")
            .lines()
            .find_map(|line| line.strip_prefix(release))
            .unwrap();
        let words = words.trim().split(' ').map(|word| word.parse::<u64>().unwrap());
        Claims {
            hex: Version::parse(release).unwrap().hex,
            basic_size,
            runtime: words.flat_map(u64::to_le_bytes).collect(),
            // endbr64; mov %fs:-40,%rax; ret
            function: b"\xf3\x0f\x1e\xfa\x64\x48\x8b\x04\x25\xd8\xff\xff\xff\xc3".to_vec(),
        }
    }

    #[test]
    fn an_interpreter_gives_the_addresses_of_a_process() {
        let binary = inspect(&python_3_12().build()).unwrap();
        assert_eq!(binary.version.to_string(), "3.12.1");
        let process = binary.process(0x7f00_0000_0000, 9);
        assert_eq!(process.instance, 9);
        assert_eq!(process.code_type, 0x7f00_0000_0000 + CODE_TYPE);
        assert_eq!(process.thread_lookup, THREAD_BY_PTHREAD_KEY);
        assert_eq!(process.key_address, 0x7f00_0000_0000 + RUNTIME + 1544);
        assert_eq!(binary.no_eval_loop, Some(NoEvalLoop::NoUnwindTable));
    }

    #[test]
    fn musl_keeps_thread_states_elsewhere_whatever_it_is_called() {
        for library in ["libc.musl-x86_64.so.1", "libc.so"] {
            let process = inspect(&python_3_12().needs(library).build()).unwrap().process(0, 1);
            assert_eq!(process.thread_lookup, THREAD_BY_PTHREAD_KEY);
            assert_eq!((process.flags & LAYOUT_MUSL, process.tls_offset), (LAYOUT_MUSL, 0x80));
        }
        let process = inspect(&python_3_12().needs("libc.so.6").build()).unwrap();
        assert_eq!((process.musl, process.process(0, 1).flags & LAYOUT_MUSL), (None, 0));
    }

    #[test]
    fn the_layout_of_later_versions_is_read_from_the_file() {
        let binary = inspect(&with_debug_offsets("3.14.10", 208).elf().build()).unwrap();
        assert_eq!(binary.process(0, 1).key_address, RUNTIME + 2336);
        let process = inspect(&with_debug_offsets("3.15.2", 208).elf().build())
            .unwrap()
            .process(0, 1);
        assert_eq!((process.thread_lookup, process.tls_offset), (THREAD_BY_STATIC_TLS, -40));
    }

    #[test]
    fn before_3_11_the_version_is_what_py_get_version_prints() {
        // lea text(%rip),%rcx; ret
        let function = [&b"\x48\x8d\x0d"[..], &(0x3003_u32 - 0x1007).to_le_bytes(), &[0xc3]].concat();
        let elf = FakeElf::default()
            .section(".text", FUNCTION, function)
            // A linker lets a string end another: the installation path here.
            .section(".rodata", 0x3000, *b"/x/3.8.18\0")
            .section(
                ".data",
                CODE_TYPE,
                [vec![0; 32], 176_u64.to_le_bytes().to_vec()].concat(),
            )
            .symbol("_PyRuntime", RUNTIME, 8)
            .symbol("PyCode_Type", CODE_TYPE, 40)
            .symbol("Py_GetVersion", FUNCTION, 8)
            .symbol("_PyEval_EvalFrameDefault", FUNCTION, 1);
        assert_eq!(inspect(&elf.build()).unwrap().version.to_string(), "3.8.18");
    }

    fn refusal(elf: &FakeElf) -> String {
        inspect(&elf.build()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let of = |hex| {
            Claims {
                hex,
                basic_size: 192,
                runtime: vec![0; 8],
                function: vec![0xc3],
            }
            .elf()
        };
        assert_eq!(
            refusal(&of(0x0310_00f0)),
            "CPython 3.16.0 is not supported (3.8 to 3.15 are)"
        );
        assert_eq!(
            refusal(&of(0x030c_00b1)),
            "CPython 3.12.0b1 is a pre-release, whose layout may still change, and not supported"
        );
        let mut beta = with_debug_offsets("3.15.2", 208);
        beta.hex = 0x030f_00b1;
        beta.runtime[8..12].copy_from_slice(&beta.hex.to_le_bytes());
        beta.runtime[40] += 8;
        assert_eq!(
            refusal(&beta.elf()),
            "CPython 3.15.0b1 is a pre-release, whose layout may still change, and not supported"
        );
        assert_eq!(
            refusal(&of(0x0307_10f0)),
            "CPython 3.7.16 is not supported (3.8 to 3.15 are)"
        );
        assert_eq!(
            refusal(&python_3_12().symbol("_Py_NegativeRefcount", FUNCTION, 1)),
            "CPython 3.12.1 is a debug build (--with-pydebug), which is not supported"
        );
        assert_eq!(
            refusal(
                &FakeElf::default()
                    .without_symbols()
                    .section(".PyRuntime", RUNTIME, [0; 8])
            ),
            "a CPython in a static executable without symbols, which is not supported"
        );
        for (release, named) in [("3.14.10", "3.14"), ("3.15.2", "3.15")] {
            let mut free_threaded = with_debug_offsets(release, 232);
            free_threaded.runtime[16] = 1;
            assert_eq!(
                refusal(&free_threaded.elf()),
                format!("free-threaded CPython {named} is not supported yet")
            );
        }
    }

    #[test]
    fn code_objects_of_another_size_mean_another_layout() {
        let traced = Claims {
            hex: 0x030c_01f0,
            basic_size: 208,
            runtime: vec![0; 8],
            function: vec![0xc3],
        };
        assert_eq!(
            refusal(&traced.elf()),
            "CPython 3.12.1 has an unknown layout: its code objects have 208 bytes, not 192"
        );
    }

    #[test]
    fn a_file_that_is_not_python_is_not_called_damaged() {
        assert_eq!(inspect(b""), Err(Refusal::NotPython));
        assert_eq!(
            inspect(&FakeElf::default().symbol("malloc", FUNCTION, 1).build()),
            Err(Refusal::NotPython)
        );
        assert_eq!(
            inspect(&FakeElf::default().symbol("pypy_execute_source", FUNCTION, 1).build()),
            Err(Refusal::PyPy)
        );
    }

    static REAL_ENOUGH: LazyLock<Vec<u8>> = LazyLock::new(|| with_debug_offsets("3.15.2", 208).elf().build());

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            assert!(inspect(&bytes).is_err());
        }

        #[test]
        fn no_truncation_panics(len in 0..REAL_ENOUGH.len()) {
            assert!(inspect(&REAL_ENOUGH[..len]).is_err());
        }

        #[test]
        fn no_change_panics(changes in proptest::collection::vec(
            (0..REAL_ENOUGH.len(), proptest::prelude::any::<u8>()), 1..6,
        )) {
            let mut elf = REAL_ENOUGH.clone();
            for (at, byte) in changes {
                elf[at] = byte;
            }
            let _ = inspect(&elf).map(|binary| binary.process(u64::MAX, 1));
        }
    }
}
