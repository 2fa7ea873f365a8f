//! `cargo xtask lint`: everything that can be said about the code without running it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use object::{Object as _, ObjectSymbol as _};

use crate::ebpf_tools::{Core, EbpfTools};
use crate::steps::Steps;
use crate::{cargo, command, setup, workspace};

/// Check format, lints, documentation, the lock file and the eBPF object
///
/// Warnings are errors. Every check runs, also after one has failed.
#[derive(Args)]
pub struct Options {}

pub fn run(Options {}: &Options) -> Result<()> {
    let mut steps = Steps::default();
    if let Some(tools) = steps.step("set-up", setup::ensure) {
        all(&mut steps, &tools);
    }
    steps.finish("lint")
}

/// The checks, as steps of this or a larger task.
pub fn all(steps: &mut Steps, tools: &EbpfTools) {
    // First what takes a second, so that a slip is told before the compiler has run for minutes.
    steps.step("lint: format (rustfmt)", || {
        command::run(cargo::command("fmt").args(["--all", "--", "--check"]))
    });
    steps.step("lint: Cargo.lock is up to date", lock_file);
    steps.step("lint: clippy on the host", clippy_host);
    clippy_bpf(steps, tools);
    steps.step("lint: documentation (rustdoc)", rustdoc);
    steps.step("lint: the eBPF object cannot panic", no_panic_in_object);
}

fn lock_file() -> Result<()> {
    // Not `cargo metadata`, which would download the dependencies of every platform. What this prints is not wanted:
    // what matters is that --locked has no objection.
    command::output(cargo::command("tree").args(["--locked", "--workspace"])).map(drop)
}

/// The eBPF crate apart from the others: their features must not be unified with its own, which are for no_std.
fn clippy_host() -> Result<()> {
    let deny = ["--", "--deny", "warnings"];
    let workspace = ["--workspace", "--exclude", "profiler-ebpf", "--all-targets"];
    command::run(cargo::command("clippy").args(workspace).args(deny))?;
    command::run(
        cargo::command("clippy")
            .args(["--package", "profiler-ebpf", "--lib", "--tests"])
            .args(deny),
    )
}

/// The truer lint for the eBPF crate: it compiles what only exists on the BPF target.
fn clippy_bpf(steps: &mut Steps, tools: &EbpfTools) {
    let EbpfTools {
        toolchain,
        core,
        linker: _,
    } = tools;
    if has_clippy(toolchain) {
        steps.step("lint: clippy on the BPF target", || {
            command::run(&mut bpf(toolchain, *core, "clippy"))
        });
    } else {
        // Debian's rustc-web comes without clippy, and another compiler's cannot read its `core`.
        let why = format!("toolchain {toolchain} has no clippy; the next step denies the compiler's warnings instead");
        steps.skip("lint: clippy on the BPF target", why);
        steps.step("lint: rustc's warnings on the BPF target", || {
            command::run(&mut bpf(toolchain, *core, "check"))
        });
    }
}

fn has_clippy(toolchain: &str) -> bool {
    let driver = ["which", "--toolchain", toolchain, "clippy-driver"];
    // rustup prints the path also where there is no such file.
    command::output(std::process::Command::new("rustup").args(driver))
        .is_ok_and(|path| Path::new(path.trim()).is_file())
}

/// A cargo command on the eBPF crate, with the flags that aya-build gives the real build.
fn bpf(toolchain: &str, core: Core, subcommand: &str) -> std::process::Command {
    let endian = if cfg!(target_endian = "big") { "eb" } else { "el" };
    let mut cargo = std::process::Command::new("rustup");
    cargo
        .args([
            "run",
            toolchain,
            "cargo",
            subcommand,
            "--package",
            "profiler-ebpf",
            "--bins",
            "--release",
        ])
        .arg(format!("--target=bpf{endian}-unknown-none"))
        // A directory of its own: these flags would make cargo rebuild everything in the other one.
        .arg("--target-dir")
        .arg(workspace::ebpf_tools().join("lint"))
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!(
                "--cfg=bpf_target_arch=\"{}\"\x1f--deny=warnings",
                std::env::consts::ARCH
            ),
        )
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .current_dir(workspace::root());
    match core {
        Core::BuildStd => cargo.arg("-Zbuild-std=core"),
        // aya-ebpf uses `asm_experimental_arch`, which a stable compiler allows only to crates named here. As in build.rs.
        Core::ReadyMade => cargo.env("RUSTC_BOOTSTRAP", "aya_ebpf,profiler_ebpf"),
    };
    cargo
}

fn rustdoc() -> Result<()> {
    let doc = |packages: &[&str]| {
        let mut doc = cargo::command("doc");
        doc.env("RUSTDOCFLAGS", "--deny warnings")
            .args(["--no-deps", "--document-private-items"])
            .args(packages);
        command::run(&mut doc)
    };
    doc(&["--workspace", "--exclude", "profiler-ebpf"])?;
    doc(&["--package", "profiler-ebpf", "--lib"])
}

/// A panic in an eBPF program is code that the verifier has to walk and that can only loop for ever.
///
/// A bounds check or an overflow check that the compiler could not prove away leaves a symbol of `core::panicking`.
fn no_panic_in_object() -> Result<()> {
    let messages = cargo::messages(cargo::command("check").args(["--package", "profiler"]))?;
    let object = ebpf_object(&cargo::out_dir(&messages, "profiler")?)?;
    let bytes = std::fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let symbols = panicking(&bytes).with_context(|| format!("cannot parse {}", object.display()))?;
    if symbols.is_empty() {
        return Ok(());
    }
    bail!("{} contains code that panics: {}", object.display(), symbols.join(", "))
}

/// The eBPF object that the build script of the profiler left in `directory`, whatever its name.
fn ebpf_object(directory: &Path) -> Result<PathBuf> {
    let list = || format!("cannot list {}", directory.display());
    for entry in std::fs::read_dir(directory).with_context(list)? {
        let path = entry.with_context(list)?.path();
        if path.is_file() && std::fs::read(&path).is_ok_and(|bytes| is_bpf(&bytes)) {
            return Ok(path);
        }
    }
    bail!(
        "there is no eBPF object in {}: is PROFILER_SKIP_EBPF or AYA_BUILD_SKIP set?",
        directory.display()
    )
}

fn is_bpf(bytes: &[u8]) -> bool {
    object::File::parse(bytes).is_ok_and(|file| file.architecture() == object::Architecture::Bpf)
}

/// The symbols of an object that belong to `core::panicking`.
fn panicking(bytes: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(bytes)?;
    if file.symbols().next().is_none() {
        bail!("it has no symbols, so nothing can be told about it");
    }
    let names = file
        .symbols()
        .filter_map(|symbol| symbol.name().ok().map(str::to_owned));
    Ok(names.filter(|name| name.contains("panicking")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_can_panic_is_told_by_its_symbols() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(
            panicking(&this)
                .unwrap()
                .iter()
                .any(|name| name.contains("core9panicking"))
        );
        assert!(!is_bpf(&this));
    }

    #[test]
    fn what_is_no_object_is_no_proof() {
        assert!(panicking(b"").is_err());
        assert!(!is_bpf(b""));
    }
}
