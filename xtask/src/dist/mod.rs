//! `cargo xtask dist`: one portable binary, and from that one build what people install.
//!
//! The binary is linked statically with glibc: it needs nothing but a kernel, so it runs on distributions that are older
//! than the build machine, on musl's, and in an empty container. The price is some 2 MB. What a static glibc cannot do
//! (loading plug-ins for users, hosts and character sets) is not asked of it here.

mod deb;
mod image;
mod tarball;
mod trial;
mod wheel;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::steps::Steps;
use crate::{cargo, command, setup, workspace};

/// Build what people install: a tarball, a .deb, a wheel and a container image's folder, from one portable binary
///
/// They go to target/dist. Needs Debian's dpkg-deb for the .deb and a python3 with venv for the wheel; installs
/// cargo-deb below target/dist-tools.
#[derive(Args)]
pub struct Options {
    /// Install and run each in clean roots of Debian 11, 12 and sid, and the binary in an empty one (root, a mirror)
    #[arg(long)]
    try_out: bool,
}

/// The target whose glibc is linked statically. Naming it keeps the flag away from build scripts and proc macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The shells, and what their scripts are called where packages put them.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "profiler.bash"),
    ("fish", "profiler.fish"),
    ("zsh", "_profiler"),
];

/// What all packages are made of.
pub struct Built {
    pub version: String,
    pub binary: PathBuf,
    /// The manual and the completions: `man/profiler.1`, `completions/profiler.bash`.
    pub extras: PathBuf,
    /// Where packages go.
    pub folder: PathBuf,
}

pub fn run(options: &Options) -> Result<()> {
    setup::ensure()?;
    let folder = workspace::root().join("target/dist");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut steps = Steps::default();
    let built = steps.step("portable binary", || build(&folder));
    let Some(built) = built else {
        return steps.finish("dist");
    };
    let tarball = steps.step("tarball", || tarball::make(&built));
    let deb = steps.step(".deb", || deb::make(&built));
    let wheel = steps.step("wheel", || wheel::make(&built));
    steps.step("image", || image::make(&built));
    if options.try_out {
        match (tarball, deb, wheel) {
            (Some(tarball), Some(deb), Some(wheel)) => {
                trial::run(&mut steps, &built, &trial::Packages { tarball, deb, wheel })
            }
            _ => steps.skip("trial", "a package is missing"),
        }
    }
    steps.finish("dist")
}

fn build(folder: &Path) -> Result<Built> {
    let mut build = cargo::command("build");
    build
        .args([
            "--release",
            "--locked",
            "--package",
            "profiler",
            "--bin",
            "profiler",
            "--target",
            TARGET,
        ])
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    let binary = cargo::executable(&cargo::messages(&mut build)?, "profiler")?;
    portable(&binary)?;

    let version = command::output(std::process::Command::new(&binary).arg("--version"))?;
    let version = version.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    let extras = folder.join("extras");
    let (manual, completions) = (extras.join("man"), extras.join("completions"));
    for folder in [&manual, &completions] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    command::run(std::process::Command::new(&binary).args(["man", "--all"]).arg(&manual))?;
    for (shell, file) in SHELLS {
        let script = command::output(std::process::Command::new(&binary).args(["completions", shell]))?;
        let path = completions.join(file);
        std::fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Built {
        version,
        binary,
        extras,
        folder: folder.to_owned(),
    })
}

/// Holds the binary to its promise: it asks for no interpreter and no library.
fn portable(binary: &Path) -> Result<()> {
    use object::read::elf::{Dyn as _, ElfFile64, FileHeader as _, ProgramHeader as _};
    let bytes = std::fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let file = ElfFile64::<object::Endianness>::parse(&*bytes).context("the binary is no ELF file")?;
    let endian = file.endian();
    for segment in file.elf_header().program_headers(endian, &*bytes)? {
        if segment.p_type(endian) == object::elf::PT_INTERP {
            bail!("{} asks for a dynamic linker", binary.display());
        }
        for entry in segment.dynamic(endian, &*bytes)?.into_iter().flatten() {
            if entry.d_tag(endian) == object::elf::DT_NEEDED {
                bail!("{} asks for a shared library", binary.display());
            }
        }
    }
    Ok(())
}
