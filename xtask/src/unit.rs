//! `cargo xtask unit`: the tests that need neither root nor another interpreter.

use anyhow::Result;
use clap::Args;

use crate::{cargo, command, setup};

/// Run the unit tests, of the kernel side too
#[derive(Args)]
pub struct Options {
    /// Run only the tests whose name contains one of these
    filters: Vec<String>,
}

pub fn run(options: &Options) -> Result<()> {
    setup::ensure()?;
    all(&options.filters)
}

/// The eBPF crate's library is tested apart: its features must not be unified with those of the host's crates.
pub fn all(filters: &[String]) -> Result<()> {
    let test = |packages: &[&str]| {
        let mut test = cargo::command("test");
        command::run(test.args(packages).arg("--no-fail-fast").arg("--").args(filters))
    };
    let host = test(&[
        "--workspace",
        "--exclude",
        "profiler-tests",
        "--exclude",
        "profiler-ebpf",
    ]);
    // A failure among the first says nothing about the second.
    let ebpf = test(&["--package", "profiler-ebpf", "--lib"]);
    host.and(ebpf)
}
