//! Programs that a test compiles: without frame pointers, as distributions do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{python::Python, workload::sources};

/// What most of what is installed was built with: optimized, no frame pointers, and (GCC's default here) `.eh_frame`.
pub const LIKE_DISTRIBUTIONS: [&str; 2] = ["-O2", "-fomit-frame-pointer"];

/// A directory for what is compiled and copied for one test. Gone when this is dropped.
#[derive(Debug)]
pub struct Workshop {
    directory: TempDir,
}

impl Workshop {
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("profiler-e2e-").tempdir()?;
        Self::at(directory)
    }

    /// One that an interpreter can see.
    pub fn of(python: &Python) -> Result<Self> {
        Self::at(python.directory()?)
    }

    fn at(directory: TempDir) -> Result<Self> {
        // Some workloads run as somebody else.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self { directory })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Copies a source of `workloads/whole/`, such as a script.
    pub fn copy(&self, source: &str) -> Result<PathBuf> {
        let copy = self.path().join(source);
        fs::copy(whole(source), &copy).with_context(|| format!("cannot copy {source}"))?;
        Ok(copy)
    }

    /// Compiles C as distributions do. What `flags` say comes later, and so wins.
    pub fn c(&self, source: &str, name: &str, flags: &[&str]) -> Result<PathBuf> {
        self.compile("gcc", source, name, flags)
    }

    /// Compiles C++ as distributions do.
    pub fn cpp(&self, source: &str, name: &str, flags: &[&str]) -> Result<PathBuf> {
        self.compile("g++", source, name, flags)
    }

    /// Compiles Rust as `cargo build --release` does.
    pub fn rust(&self, source: &str, name: &str) -> Result<PathBuf> {
        let program = self.path().join(name);
        let mut command = Command::new("rustc");
        command
            .args(["--edition=2021", "-Copt-level=3", "-o"])
            .arg(&program)
            .arg(whole(source));
        run(&mut command)?;
        Ok(program)
    }

    fn compile(&self, compiler: &str, source: &str, name: &str, flags: &[&str]) -> Result<PathBuf> {
        let program = self.path().join(name);
        let mut command = Command::new(compiler);
        // Libraries must follow what needs them.
        command
            .args(LIKE_DISTRIBUTIONS)
            .arg("-o")
            .arg(&program)
            .arg(whole(source))
            .args(flags);
        run(&mut command)?;
        Ok(program)
    }
}

/// A source of the workloads that are about whole stacks.
pub fn whole(source: &str) -> PathBuf {
    sources().join("whole").join(source)
}

/// Whether a program can be run. Compilers and runtimes of other languages are nothing that a machine must have: that
/// one is missing is said, and is no failure in a strict run either.
pub fn is_installed(program: &str) -> bool {
    let version = if program == "go" { "version" } else { "--version" };
    let found = Command::new(program)
        .arg(version)
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        println!("skipping: there is no {program}");
    }
    found
}

/// Runs a command to its end, which must be a success. Returns what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
