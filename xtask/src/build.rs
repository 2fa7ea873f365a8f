//! `cargo xtask build`: the profiler, with the eBPF object inside.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{cargo, setup};

/// Set up what is missing and build the profiler
#[derive(Args)]
pub struct Options {
    /// Optimize: the binary to use, target/release/profiler
    #[arg(long)]
    release: bool,
}

pub fn run(options: &Options) -> Result<()> {
    setup::ensure()?;
    profiler(options.release)?;
    Ok(())
}

/// Builds the profiler and returns the path of its binary.
pub fn profiler(release: bool) -> Result<PathBuf> {
    let mut build = cargo::command("build");
    build.args(["--package", "profiler", "--bin", "profiler"]);
    if release {
        build.arg("--release");
    }
    cargo::executable(&cargo::messages(&mut build)?, "profiler")
}
