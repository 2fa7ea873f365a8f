//! What can be typed.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

#[cfg(feature = "query")]
use crate::query;
use crate::{compact, ingest, times};

/// Keeps profiles of many hosts as Parquet files, and answers questions about them
#[derive(Parser)]
#[command(name = "profiler-store", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ingest(Ingest),
    #[cfg(feature = "query")]
    Query(Query),
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

/// Answer a question about what is in the store
#[cfg(feature = "query")]
#[derive(Args)]
pub struct Query {
    /// The store's directory
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    #[command(flatten)]
    pub which: Which,
    #[command(subcommand)]
    pub question: Question,
}

/// Which samples are meant: all of these must be true.
#[cfg(feature = "query")]
#[derive(Args, Clone, Debug, Default)]
pub struct Which {
    /// Of this service
    #[arg(long, global = true)]
    pub service: Option<String>,
    /// Of this host
    #[arg(long, global = true)]
    pub host: Option<String>,
    /// With this label; can be given again
    #[arg(long, value_name = "KEY=VALUE", global = true, value_parser = label)]
    pub label: Vec<(String, String)>,
    /// Windows that begin at this time (UTC) or later: 2026-12-01T13:00, 2026-12-01, 13:00 of today
    #[arg(long, value_name = "TIME", global = true, value_parser = times::time, allow_hyphen_values = true)]
    pub from: Option<i64>,
    /// Windows that begin before this time
    #[arg(long, value_name = "TIME", global = true, value_parser = times::time)]
    pub to: Option<i64>,
    /// Windows that began in the last 1h, 30m, 2d
    #[arg(long, value_name = "TIME", global = true, conflicts_with_all = ["from", "to"], value_parser = times::duration)]
    pub last: Option<std::time::Duration>,
    /// Of what: cpu, samples and whatever else the store has
    #[arg(long = "type", value_name = "TYPE", global = true)]
    pub kind: Option<String>,
    /// In this unit, where a type is there in several
    #[arg(long, value_name = "UNIT", global = true)]
    pub unit: Option<String>,
}

#[cfg(feature = "query")]
#[derive(Subcommand)]
pub enum Question {
    /// The functions that had most of it
    Top {
        /// So many of them
        #[arg(short = 'n', long, default_value_t = 20)]
        number: usize,
        /// By line instead of by function
        #[arg(long)]
        lines: bool,
    },
    /// All stacks, as folded text or pprof, which `profiler report` and others show
    Flame {
        /// A file: .folded or .pb.gz; without, folded text is printed
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// What became more and less against another range or service
    Diff {
        /// Compared with windows that begin at this time or later
        #[arg(long, value_name = "TIME", value_parser = times::time)]
        base_from: Option<i64>,
        /// And before this time
        #[arg(long, value_name = "TIME", value_parser = times::time)]
        base_to: Option<i64>,
        /// Compared with this service
        #[arg(long, value_name = "SERVICE")]
        base_service: Option<String>,
        /// So many functions
        #[arg(short = 'n', long, default_value_t = 20)]
        number: usize,
    },
    /// What the store has: services, types, hosts, times
    List,
    /// An answer in SQL: tables `samples` and `frames`, joined by (set, service, stack)
    Sql {
        sql: String,
        /// As CSV
        #[arg(long)]
        csv: bool,
    },
}

/// Make few large sets of many small ones, and take away what is too old
#[derive(Args)]
pub struct Compact {
    /// The store's directory
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    /// Take away hours that ended longer ago, by the clock and by the newest windows, whichever is earlier: 14d
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    pub keep: Option<std::time::Duration>,
    /// Of hours that ended longer ago, keep one window: without processes and threads: 2d
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    pub roll_up: Option<std::time::Duration>,
    /// Only --keep: leave sets as they are
    #[arg(long, requires = "keep")]
    pub keep_only: bool,
}

#[cfg(feature = "query")]
fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("cannot start threads")?;
    match cli.command {
        Command::Ingest(options) => runtime.block_on(ingest::run(&options)),
        #[cfg(feature = "query")]
        Command::Query(options) => runtime.block_on(query::run(&options)),
        Command::Compact(options) => compact::run(&options),
    }
}
