//! `cargo xtask bless`: what the writers print now becomes what the golden tests expect.

use anyhow::Result;
use clap::Args;

use crate::{cargo, command, setup};

/// Rewrite the golden files from what the code prints now
///
/// Look at the difference before committing it: `git diff`.
#[derive(Args)]
pub struct Options {
    /// Only the tests whose name contains one of these
    filters: Vec<String>,
}

pub fn run(options: &Options) -> Result<()> {
    setup::ensure()?;
    // All of its tests unless told otherwise: a filter here would miss a golden test with another sort of name.
    let mut test = cargo::command("test");
    test.env("BLESS", "1")
        .args(["--package", "profiler", "--"])
        .args(&options.filters);
    command::run(&mut test)
}
