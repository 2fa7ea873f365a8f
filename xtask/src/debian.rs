//! Installing Debian's packages: the way to eBPF build tools that needs no nightly.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::ebpf_tools::{BPF_LINKER_VERSION, Compiler, DEBIAN_TOOLCHAIN, Machine, Probe as _};
use crate::{cargo, command, root, workspace};

/// The compiler, and its `core` for BPF.
const COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// The LLVM majors that [`BPF_LINKER_VERSION`] has a feature for.
const LLVMS: [u32; 3] = [21, 22, 23];

/// The packages of this way for an LLVM major.
pub fn packages(llvm: u32) -> Vec<String> {
    COMPILER
        .iter()
        .map(|package| (*package).to_owned())
        .chain(llvm_packages(llvm))
        .collect()
}

/// Installs compiler, LLVM and bpf-linker, and tells rustup about the compiler.
pub fn install() -> Result<()> {
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("this machine has no apt-get");
    }
    eprintln!(
        "xtask: about to install Debian's {} and the LLVM libraries they match with apt-get{}, \
         to build bpf-linker {BPF_LINKER_VERSION} into {}, \
         and to link the compiler into rustup as `{DEBIAN_TOOLCHAIN}` (about a minute, 1.5 GB)",
        COMPILER.join(", "),
        if root::is_root() { "" } else { " (through sudo)" },
        workspace::ebpf_tools().display(),
    );
    apt_install(COMPILER)?;
    command::run(Command::new("rustup").args(["toolchain", "link", DEBIAN_TOOLCHAIN, "/usr"]))?;

    // Only the compiler knows its LLVM: Debian moves both on together, for its web browsers.
    let Compiler { llvm, .. } = Machine.compiler(DEBIAN_TOOLCHAIN)?;
    if !LLVMS.contains(&llvm) {
        bail!("Debian's rustc has LLVM {llvm}, and bpf-linker {BPF_LINKER_VERSION} can use {LLVMS:?}");
    }
    if Machine.linkers().iter().any(|linker| linker.llvm == Some(llvm)) {
        return Ok(());
    }
    apt_install(llvm_packages(llvm))?;
    bpf_linker(llvm)
}

/// Installs these packages, unless they are all there.
pub fn apt_install(packages: impl IntoIterator<Item = impl Into<String>>) -> Result<()> {
    let missing: Vec<String> = packages
        .into_iter()
        .map(Into::into)
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = || {
        // --no-remove: rustc-web conflicts with rustc and with Debian's rustup, and replacing those is not ours to do.
        let arguments = ["install", "--yes", "--no-install-recommends", "--no-remove"];
        command::run(apt_get().args(arguments).args(&missing))
    };
    if install().is_ok() {
        return Ok(());
    }
    // A fresh machine has no package lists, and an old one asks for versions that its mirror no longer has.
    eprintln!("xtask: that failed, perhaps for want of fresh package lists: updating them and trying once more");
    if let Err(error) = command::run(apt_get().arg("update")) {
        // One broken third-party source fails the whole update, and the others may do.
        eprintln!("xtask: {error:#}");
    }
    install().with_context(|| format!("cannot install {}", missing.join(" ")))
}

fn is_installed(package: &str) -> bool {
    let query = ["--show", "--showformat=${db:Status-Status}", package];
    command::output(Command::new("dpkg-query").args(query)).is_ok_and(|status| status == "installed")
}

/// apt-get as root that neither asks nor gives up at once when another one is running.
fn apt_get() -> Command {
    let mut command = root::command("apt-get", &[("DEBIAN_FRONTEND", OsString::from("noninteractive"))]);
    command
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .stdin(std::process::Stdio::null());
    command
}

/// What bpf-linker is linked to. LLVM's own dependencies are among its package's, but not zstd, zlib and polly.
fn llvm_packages(llvm: u32) -> [String; 4] {
    [
        format!("llvm-{llvm}-dev"),
        "libzstd-dev".into(),
        "zlib1g-dev".into(),
        format!("libpolly-{llvm}-dev"),
    ]
}

fn bpf_linker(llvm: u32) -> Result<()> {
    let mut install = cargo::command("install");
    install
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"))
        .args([
            "bpf-linker",
            "--version",
            BPF_LINKER_VERSION,
            "--no-default-features",
            "--locked",
            "--force",
        ])
        .args(["--features", &format!("llvm-{llvm}"), "--root"])
        .arg(workspace::ebpf_tools());
    command::run(&mut install)
}
