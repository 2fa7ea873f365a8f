//! Which compiler and which linker build the eBPF object: the choice among what the machine has.
//!
//! The eBPF side needs a Rust compiler with a `core` for `bpfel-unknown-none`, and a bpf-linker that understands that
//! compiler's LLVM bitcode, which it does when both were made with the same LLVM major. There are two ways to have
//! that, tried in this order:
//!
//! - A rustup nightly with rust-src (cargo builds `core` with `-Z build-std`) and a bpf-linker on PATH.
//! - Debian's `rustc-web` with its ready-made `core`, linked into rustup as [`DEBIAN_TOOLCHAIN`], and a bpf-linker below
//!   `target/ebpf-tools`. [`crate::debian`] installs this one.
//!
//! What the machine has is asked through [`Probe`], so the choice is tested without changing the machine.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{command, workspace};

/// The name under which the Debian compiler is linked into rustup.
pub const DEBIAN_TOOLCHAIN: &str = "profiler-ebpf";

/// Names a rustup toolchain to be used instead of the one found; `profiler/build.rs` honours it too.
pub const OVERRIDE: &str = "PROFILER_EBPF_TOOLCHAIN";

/// The version of bpf-linker that `setup` installs and that its error message recommends.
pub const BPF_LINKER_VERSION: &str = "0.13.0";

/// What builds the eBPF object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EbpfTools {
    /// A name for `rustup run`.
    pub toolchain: String,
    /// Where the compiler's `core` for BPF comes from.
    pub core: Core,
    /// The directory of bpf-linker.
    pub linker: PathBuf,
}

/// A compiler that rustup can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// Major and minor version.
    pub version: (u32, u32),
    pub llvm: u32,
    /// Nothing if it cannot compile for BPF.
    pub core: Option<Core>,
}

/// Where `core` for BPF comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// It is part of the toolchain.
    ReadyMade,
    /// cargo builds it from rust-src.
    BuildStd,
}

/// A bpf-linker that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linker {
    pub directory: PathBuf,
    /// Nothing if it cannot be told.
    pub llvm: Option<u32>,
}

/// What the choice needs to know about a machine.
pub trait Probe {
    /// The names of rustup's toolchains.
    fn toolchains(&self) -> Result<Vec<String>>;
    /// The compiler of one of them.
    fn compiler(&self, toolchain: &str) -> Result<Compiler>;
    /// The bpf-linkers there are, the preferred one first.
    fn linkers(&self) -> Vec<Linker>;
}

/// The tools to use, or one reason per candidate why there are none.
///
/// With `only`, no other toolchain is considered.
pub fn choose(probe: &dyn Probe, only: Option<&str>) -> Result<EbpfTools, Vec<String>> {
    let candidates = match only {
        Some(name) => vec![name.to_owned()],
        None => candidates(probe.toolchains().map_err(|error| vec![format!("{error:#}")])?),
    };
    if candidates.is_empty() {
        return Err(vec![format!(
            "rustup has neither a nightly nor a toolchain named {DEBIAN_TOOLCHAIN}"
        )]);
    }
    let linkers = probe.linkers();
    let mut refusals = Vec::new();
    for toolchain in candidates {
        let fit = probe.compiler(&toolchain).map_err(|error| format!("{error:#}"));
        match fit.and_then(|compiler| pair(&compiler, &linkers)) {
            Ok((core, linker)) => {
                return Ok(EbpfTools {
                    toolchain,
                    core,
                    linker,
                });
            }
            Err(reason) if only.is_some() => refusals.push(format!("{toolchain}, which {OVERRIDE} names: {reason}")),
            Err(reason) => refusals.push(format!("{toolchain}: {reason}")),
        }
    }
    Err(refusals)
}

/// The nightlies, the plain one first, then the Debian compiler.
fn candidates(toolchains: Vec<String>) -> Vec<String> {
    let rank = |name: &String| match name.as_str() {
        DEBIAN_TOOLCHAIN => Some(2),
        // `nightly-x86_64-unknown-linux-gnu` is the plain one, `nightly-2026-05-19-…` a pinned one.
        name if name
            .strip_prefix("nightly-")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) =>
        {
            Some(1)
        }
        name if name == "nightly" || name.starts_with("nightly-") => Some(0),
        _ => None,
    };
    let mut ranked: Vec<_> = toolchains
        .into_iter()
        .filter_map(|name| rank(&name).map(|rank| (rank, name)))
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, name)| name).collect()
}

/// Whether this compiler can be used with one of these linkers, and with which.
fn pair(compiler: &Compiler, linkers: &[Linker]) -> Result<(Core, PathBuf), String> {
    let (major, minor) = compiler.version;
    let needed = rust_version();
    if compiler.version < needed {
        return Err(format!(
            "its rustc is {major}.{minor}, and {}.{} is needed",
            needed.0, needed.1
        ));
    }
    let Some(core) = compiler.core else {
        return Err("it has neither rust-src nor a core for bpfel-unknown-none".to_owned());
    };
    if let Some(linker) = linkers.iter().find(|linker| linker.llvm == Some(compiler.llvm)) {
        return Ok((core, linker.directory.clone()));
    }
    let mut reason = format!("no bpf-linker of its LLVM {}", compiler.llvm);
    for Linker { directory, llvm } in linkers {
        let llvm = llvm.map_or("an unknown LLVM".to_owned(), |llvm| format!("LLVM {llvm}"));
        // Writing to a string cannot fail.
        let _ = write!(reason, ", the one in {} has {llvm}", directory.display());
    }
    Err(reason)
}

/// The workspace's `rust-version`, which the eBPF crate inherits.
fn rust_version() -> (u32, u32) {
    version(env!("CARGO_PKG_RUST_VERSION")).unwrap_or((0, 0))
}

/// This machine.
pub struct Machine;

impl Probe for Machine {
    fn toolchains(&self) -> Result<Vec<String>> {
        let list = command::output(Command::new("rustup").args(["toolchain", "list"]))
            .context("cannot ask rustup for its toolchains (https://rustup.rs)")?;
        // A line is a name, with remarks such as `(active, default)` behind it.
        Ok(list
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect())
    }

    fn compiler(&self, toolchain: &str) -> Result<Compiler> {
        let rustc = command::output(Command::new("rustup").args(["which", "--toolchain", toolchain, "rustc"]))?;
        let rustc = Path::new(rustc.trim());
        let report = command::output(Command::new(rustc).arg("-vV"))?;
        let field = |name| {
            report
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(version)
        };
        let rustlib = rustc.ancestors().nth(2).unwrap_or(Path::new("/")).join("lib/rustlib");
        let core = if rustlib.join("bpfel-unknown-none/lib").is_dir() {
            Some(Core::ReadyMade)
        } else if toolchain.starts_with("nightly") && rustlib.join("src/rust/library/core").is_dir() {
            Some(Core::BuildStd)
        } else {
            None
        };
        Ok(Compiler {
            version: field("release: ").with_context(|| format!("{} does not tell its version", rustc.display()))?,
            llvm: field("LLVM version: ")
                .with_context(|| format!("{} does not tell its LLVM", rustc.display()))?
                .0,
            core,
        })
    }

    fn linkers(&self) -> Vec<Linker> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = workspace::ebpf_tools().join("bin");
        let mut linkers: Vec<Linker> = Vec::new();
        for directory in std::env::split_paths(&path).chain([own]) {
            let program = directory.join("bpf-linker");
            let known = linkers.iter().any(|linker| linker.directory == directory);
            // It may be there without the LLVM library it was linked to.
            if !known && program.is_file() && command::output(Command::new(&program).arg("--version")).is_ok() {
                let llvm = std::fs::read(&program).ok().and_then(|bytes| llvm_inside(&bytes));
                linkers.push(Linker { directory, llvm });
            }
        }
        linkers
    }
}

/// The LLVM major that a program was made with, told from its bytes.
///
/// bpf-linker has no option that prints it (`--version` of 0.13.0 names only its own). Linked dynamically it asks for
/// `libLLVM.so.22.1` or, in a distribution's older naming, `libLLVM-22.so`; linked statically it contains the producer
/// string that LLVM writes into bitcode, `LLVM22.1.8` (`BitcodeWriter.cpp`, `writeIdentificationBlock`).
fn llvm_inside(bytes: &[u8]) -> Option<u32> {
    let library = numbers_after(bytes, b"libLLVM.so.")
        .chain(numbers_after(bytes, b"libLLVM-"))
        .next();
    let producer = || numbers_after(bytes, b"LLVM").find(|(_, next)| *next == Some(b'.'));
    library.or_else(producer).map(|(number, _)| number)
}

/// The numbers of up to three digits that follow `needle`, each with the byte behind it.
fn numbers_after<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = (u32, Option<u8>)> + 'a {
    let places = bytes
        .windows(needle.len())
        .enumerate()
        .filter(move |(_, window)| *window == needle);
    places.filter_map(move |(at, _)| {
        let rest = &bytes[at + needle.len()..];
        let digits = rest.iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        Some((number, rest.get(digits).copied()))
    })
}

/// `1.97.0-nightly` or `22.1.4`: the first two numbers.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The tools that the last `setup` chose, or nothing if there was none.
pub fn recorded() -> Option<(String, PathBuf)> {
    let text = std::fs::read_to_string(record()).ok()?;
    let mut lines = text.lines();
    Some((lines.next()?.to_owned(), PathBuf::from(lines.next()?)))
}

/// Writes the choice down for `profiler/build.rs`: the toolchain's name, and on the next line bpf-linker's directory.
pub fn write(tools: &EbpfTools) -> Result<()> {
    let EbpfTools {
        toolchain,
        core: _,
        linker,
    } = tools;
    // Written only when it changes: cargo would rebuild the eBPF object for a new time stamp.
    if recorded().is_some_and(|old| old == (toolchain.clone(), linker.clone())) {
        return Ok(());
    }
    let record = record();
    std::fs::create_dir_all(workspace::ebpf_tools())
        .and_then(|()| std::fs::write(&record, format!("{toolchain}\n{}\n", linker.display())))
        .with_context(|| format!("cannot write {}", record.display()))
}

/// The toolchain that the user insists on.
pub fn insisted() -> Option<String> {
    let name = std::env::var_os(OVERRIDE)?;
    (name != OsStr::new("")).then(|| name.to_string_lossy().into_owned())
}

fn record() -> PathBuf {
    workspace::ebpf_tools().join("toolchain")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    struct Fake {
        compilers: Vec<(&'static str, Compiler)>,
        linkers: Vec<Linker>,
    }

    impl Probe for Fake {
        fn toolchains(&self) -> Result<Vec<String>> {
            Ok(self.compilers.iter().map(|(name, _)| (*name).to_owned()).collect())
        }

        fn compiler(&self, toolchain: &str) -> Result<Compiler> {
            match self.compilers.iter().find(|(name, _)| *name == toolchain) {
                Some((_, compiler)) => Ok(compiler.clone()),
                None => bail!("not installed"),
            }
        }

        fn linkers(&self) -> Vec<Linker> {
            self.linkers.clone()
        }
    }

    const STABLE: &str = "stable-x86_64-unknown-linux-gnu";
    const NIGHTLY: &str = "nightly-x86_64-unknown-linux-gnu";

    fn compiler(llvm: u32, core: Option<Core>) -> Compiler {
        Compiler {
            version: (1, 97),
            llvm,
            core,
        }
    }

    fn linker(directory: &str, llvm: Option<u32>) -> Linker {
        Linker {
            directory: directory.into(),
            llvm,
        }
    }

    fn chosen(fake: &Fake) -> (String, PathBuf) {
        let tools = choose(fake, None).unwrap();
        (tools.toolchain, tools.linker)
    }

    #[test]
    fn a_nightly_with_rust_src_comes_before_debians_compiler() {
        let fake = Fake {
            compilers: vec![
                (DEBIAN_TOOLCHAIN, compiler(22, Some(Core::ReadyMade))),
                (STABLE, compiler(22, None)),
                (NIGHTLY, compiler(22, Some(Core::BuildStd))),
            ],
            linkers: vec![linker("/bin", Some(22))],
        };
        assert_eq!(chosen(&fake), (NIGHTLY.to_owned(), "/bin".into()));
    }

    #[test]
    fn a_nightly_without_rust_src_is_passed_over() {
        let fake = Fake {
            compilers: vec![
                (NIGHTLY, compiler(22, None)),
                (DEBIAN_TOOLCHAIN, compiler(22, Some(Core::ReadyMade))),
            ],
            linkers: vec![linker("/tools", Some(22))],
        };
        assert_eq!(chosen(&fake), (DEBIAN_TOOLCHAIN.to_owned(), "/tools".into()));
    }

    #[test]
    fn each_compiler_gets_the_linker_of_its_own_llvm() {
        let fake = Fake {
            compilers: vec![(NIGHTLY, compiler(23, Some(Core::BuildStd)))],
            linkers: vec![linker("/a", Some(22)), linker("/b", None), linker("/c", Some(23))],
        };
        assert_eq!(chosen(&fake).1, PathBuf::from("/c"));
    }

    #[test]
    fn a_linker_of_another_llvm_is_refused_by_name() {
        let fake = Fake {
            compilers: vec![(NIGHTLY, compiler(23, Some(Core::BuildStd)))],
            linkers: vec![linker("/a", Some(22)), linker("/b", None)],
        };
        let refusals = choose(&fake, None).unwrap_err();
        assert_eq!(
            refusals,
            [format!(
                "{NIGHTLY}: no bpf-linker of its LLVM 23, the one in /a has LLVM 22, the one in /b has an unknown LLVM"
            )]
        );
    }

    #[test]
    fn a_compiler_older_than_the_workspace_needs_is_refused() {
        let old = Compiler {
            version: (1, 85),
            llvm: 22,
            core: Some(Core::ReadyMade),
        };
        let fake = Fake {
            compilers: vec![(DEBIAN_TOOLCHAIN, old)],
            linkers: vec![linker("/a", Some(22))],
        };
        let refusals = choose(&fake, None).unwrap_err();
        assert!(
            refusals[0].contains("its rustc is 1.85, and 1.95 is needed"),
            "{refusals:?}"
        );
    }

    #[test]
    fn a_stable_toolchain_alone_is_not_enough() {
        let fake = Fake {
            compilers: vec![(STABLE, compiler(22, None))],
            linkers: vec![],
        };
        assert!(choose(&fake, None).unwrap_err()[0].contains("neither a nightly nor"));
    }

    #[test]
    fn a_toolchain_insisted_on_is_the_only_one_considered() {
        let fake = Fake {
            compilers: vec![
                (NIGHTLY, compiler(22, Some(Core::BuildStd))),
                ("mine", compiler(22, Some(Core::ReadyMade))),
            ],
            linkers: vec![linker("/a", Some(22))],
        };
        assert_eq!(choose(&fake, Some("mine")).unwrap().toolchain, "mine");
        assert_eq!(
            choose(&fake, Some("absent")).unwrap_err(),
            ["absent, which PROFILER_EBPF_TOOLCHAIN names: not installed"]
        );
    }

    #[test]
    fn the_plain_nightly_comes_before_a_pinned_one() {
        let names = ["nightly-2026-01-01-x86_64-unknown-linux-gnu", STABLE, NIGHTLY].map(str::to_owned);
        assert_eq!(
            candidates(names.into()),
            [NIGHTLY, "nightly-2026-01-01-x86_64-unknown-linux-gnu"]
        );
    }

    #[test]
    fn the_llvm_of_a_linker_is_told_from_its_library_or_its_producer_string() {
        assert_eq!(llvm_inside(b"\0libc.so.6\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_inside(b"\0libLLVM-19.so.1\0"), Some(19));
        assert_eq!(
            llvm_inside(b"\0libLLVM.so.22.1-rust-1.97.0-nightly\0LLVM9.0\0"),
            Some(22)
        );
        assert_eq!(llvm_inside(b"LLVM ERROR: \0LLVMContext\0LLVM23.1.0-rc2\0"), Some(23));
        assert_eq!(llvm_inside(b"LLVM"), None);
        assert_eq!(llvm_inside(b""), None);
    }
}
