//! Programs in C.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::workload::sources;

/// Compiles a source of `workloads/` to a program called `name`.
pub fn compile(source: &str, name: &str, flags: &[String]) -> Result<(TempDir, PathBuf)> {
    let directory = tempfile::Builder::new().prefix("profiler-e2e-").tempdir()?;
    let program = directory.path().join(name);
    let output = Command::new("gcc")
        .args([
            "-O1",
            "-g",
            "-fno-omit-frame-pointer",
            "-fno-optimize-sibling-calls",
            "-o",
        ])
        .arg(&program)
        .arg(sources().join(source))
        .args(flags)
        .output()
        .context("cannot run gcc")?;
    ensure!(
        output.status.success(),
        "gcc failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((directory, program))
}
