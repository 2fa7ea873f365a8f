//! `profiler merge`, from its first check to its last line.

use anyhow::Context as _;

use super::diff::read_all;
use crate::{
    cli::merge::Merge,
    config::OutputTarget,
    diff, exit,
    invoker::Invoker,
    output::{self, Output},
    report::{Format, View},
    rights,
};

/// Merges; returns the program's exit status.
pub fn run(typed: Merge) -> anyhow::Result<u8> {
    output::survive_limit();
    let invoker = Invoker::of_this_process()?;
    rights::give_up().context("failed to give up capabilities")?;
    let target = OutputTarget::of(Some(typed.output), typed.force);
    let output = Output::prepare(&target, invoker.as_ref(), "-o")?;
    let merged = diff::merge(&read_all(&typed.files, invoker.as_ref())?)?;
    let output = output.connect(|_| {})?;
    output.write(|out| Format::Pprof.writer().write(&merged, &View::default(), out))?;
    Ok(exit::SUCCESS)
}
