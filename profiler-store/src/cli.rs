//! What can be typed.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

use crate::{compact, ingest, times};

/// Keeps profiles of many hosts as Parquet files
#[derive(Parser)]
#[command(name = "profiler-store", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ingest(Ingest),
    Compact(Compact),
}

/// Receive OpenTelemetry's profiles and write them into the store
///
/// A request is answered when what it said is on disk. There is no encryption and nobody is asked who they are: listen
/// where only agents come, or behind a proxy that does both.
#[derive(Args)]
pub struct Ingest {
    /// The store's directory, which is made if it is missing
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    /// Where to take OTLP over HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4318")]
    pub listen: SocketAddr,
    /// Where to take OTLP over gRPC; without, nowhere
    #[arg(long, value_name = "ADDRESS")]
    pub grpc: Option<SocketAddr>,
    /// For how long messages are collected into one set of files
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = times::duration)]
    pub every: std::time::Duration,
    /// How much memory messages may take that are not yet on disk, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(64..=65536))]
    pub memory: u32,
    /// The largest message, unpacked, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub message: u32,
    /// How much one address may send in a second, in KiB: on average over a minute
    #[arg(long, value_name = "KIB", default_value_t = 1024)]
    pub quota: u32,
    /// Refuse profiles of longer ago
    #[arg(long, value_name = "TIME", default_value = "2d", value_parser = times::duration)]
    pub oldest: std::time::Duration,
}

/// Make few large sets of many small ones, and take away what is too old
#[derive(Args)]
pub struct Compact {
    /// The store's directory
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    /// Take away hours that ended longer ago: 14d
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    pub keep: Option<std::time::Duration>,
    /// Of hours that ended longer ago, keep one window: without processes and threads: 2d
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    pub roll_up: Option<std::time::Duration>,
    /// Only --keep: leave sets as they are
    #[arg(long, requires = "keep")]
    pub keep_only: bool,
}

pub fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("cannot start threads")?;
    match cli.command {
        Command::Ingest(options) => runtime.block_on(ingest::run(&options)),
        Command::Compact(options) => compact::run(&options),
    }
}
