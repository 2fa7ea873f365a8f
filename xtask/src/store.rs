//! `cargo xtask store`: the checks of `profiler-store`, which is a workspace of its own.

use anyhow::Result;
use clap::Args;

use crate::steps::Steps;
use crate::{cargo, command, workspace};

/// Check and test the program that receives profiles
#[derive(Args)]
pub struct Options {
    /// Clippy looks at questions, too: their engine is compiled a second time for it
    #[arg(long)]
    all: bool,
}

pub fn run(Options { all }: &Options) -> Result<()> {
    let mut steps = Steps::default();
    steps.step("store: format (rustfmt)", || {
        command::run(&mut store(&["fmt", "--all", "--", "--check"]))
    });
    steps.step("store: clippy", || {
        let what = if *all { "--all-targets" } else { "--no-default-features" };
        command::run(&mut store(&["clippy", "--locked", what, "--", "--deny", "warnings"]))
    });
    // DataFusion is six minutes of CPU time in the dev profile, once.
    steps.step("store: tests", || command::run(&mut store(&["test", "--locked"])));
    steps.finish("store")
}

/// A cargo command where `profiler-store/.cargo/config.toml` counts.
fn store(words: &[&str]) -> std::process::Command {
    let mut command = cargo::command(words[0]);
    command
        .args(&words[1..])
        .current_dir(workspace::root().join("profiler-store"));
    command
}
