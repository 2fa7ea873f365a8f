//! `cargo xtask run`: from a fresh clone to a profile in one command.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::Result;
use clap::Args;

use crate::{build, cargo, command, root, setup};

/// Set up what is missing, build the profiler and run it as root
///
/// The profiler's exit status is passed through. Root is reached through sudo, unless this is run as root.
#[derive(Args)]
pub struct Options {
    /// The profiler's arguments, for example: -- record -a -d 10 -o flame.svg
    #[arg(last = true, value_name = "PROFILER ARGUMENTS")]
    arguments: Vec<OsString>,
}

pub fn run(options: &Options) -> Result<()> {
    setup::ensure()?;
    let binary = build::profiler(true)?;
    let mut profiler = root::command(binary, &[]);
    profiler.args(&options.arguments);
    cargo::leave(&mut profiler);
    // Replaces this process: signals reach the profiler, and its exit status is this task's.
    let error = profiler.exec();
    Err(command::cannot_start(&profiler, error))
}
