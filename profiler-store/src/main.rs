//! `profiler-store`: takes profiles of many hosts into Parquet files.
//!
//! What the files are is `profiler-parquet`'s to say; this is the receiver, and what is done to a store once an hour.

mod cli;
mod compact;
mod ingest;
mod text;
mod times;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("profiler-store: {error:#}");
            ExitCode::FAILURE
        }
    }
}
