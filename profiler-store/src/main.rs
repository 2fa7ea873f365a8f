//! `profiler-store`: takes profiles of many hosts into Parquet files, and answers questions about them.
//!
//! What the files are is `profiler-parquet`'s to say; this has what needs more than writing: a receiver, and an engine.

mod cli;
mod compact;
mod ingest;
#[cfg(feature = "query")]
mod query;
mod text;
mod times;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("profiler-store: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `… | head` has what it wanted.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
