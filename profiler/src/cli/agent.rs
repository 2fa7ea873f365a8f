//! `profiler agent`, as it is typed.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::{parse_age, parse_bytes, parse_rate};
use crate::agent::address::Address;

const EXAMPLES: &str = "\
Examples:
  profiler agent --otlp http://collector:4318      # profiles to a collector
  profiler agent --store /var/lib/profiler/store   # Parquet files, no server
  profiler agent --pprof /var/tmp/flight --keep 60 # the last hour, on disk
  profiler agent --listen 127.0.0.1:9464           # /metrics, and a page at /
  profiler agent --config /etc/profiler/agent.toml
  profiler agent --config agent.toml check         # is the file right?

It looks at the whole machine until a signal ends it: CPU time, waits and
growth, a window after the other. SIGHUP has it read its file again.

Exit status:
  0  a signal ended it; with check: the configuration is right
  1  something failed: the line `error: …` names it and the remedy
  2  the command line, or the file, makes no sense";

/// Look at the whole machine for weeks, and send what is seen to where it is kept: CPU time, waits and growth by service
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Agent {
    #[command(subcommand)]
    pub action: Option<Action>,

    /// Read what to do from this file (TOML); what is typed besides goes before it
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Length of a window [default: 60s]
    #[arg(short, long, value_name = "TIME", value_parser = parse_age, help_heading = "Measuring")]
    pub window: Option<Duration>,

    /// Samples a second of each CPU [default: 19]
    #[arg(short, long, value_name = "HZ", value_parser = parse_rate, help_heading = "Measuring")]
    pub rate: Option<u64>,

    /// What to measure [default: all]
    #[arg(long, value_name = "WHAT", value_delimiter = ',', help_heading = "Measuring")]
    pub instruments: Vec<Measures>,

    /// Stop after this time
    #[arg(short, long, value_name = "TIME", value_parser = parse_age, help_heading = "Measuring")]
    pub duration: Option<Duration>,

    /// Measure less where the agent itself takes more of a CPU, such as 1%
    #[arg(long, value_name = "SHARE", help_heading = "Budget")]
    pub max_cpu: Option<String>,

    /// … or has more memory than this, such as 128MiB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, help_heading = "Budget")]
    pub max_memory: Option<u64>,

    /// Look at nothing while this file exists
    #[arg(long, value_name = "FILE", help_heading = "Budget")]
    pub stop_file: Option<PathBuf>,

    /// Send profiles to this receiver of OpenTelemetry: OTLP by HTTP, or by gRPC (grpc://collector:4317); can be given more
    /// than once
    #[arg(long, value_name = "URL", help_heading = "Outputs")]
    pub otlp: Vec<String>,

    /// Send profiles to this Pyroscope; can be given more than once
    #[arg(long, value_name = "URL", help_heading = "Outputs")]
    pub pyroscope: Vec<String>,

    /// Keep profiles here as Parquet files, for profiler-store and other engines
    #[arg(long, value_name = "DIR", help_heading = "Outputs")]
    pub store: Option<PathBuf>,

    /// With --store: for so long [default: 14d]. Files of an hour that is over become few
    #[arg(long, value_name = "TIME", value_parser = parse_age, requires = "store", help_heading = "Outputs")]
    pub store_keep: Option<Duration>,

    /// Keep the last windows here as pprof files
    #[arg(long, value_name = "DIR", help_heading = "Outputs")]
    pub pprof: Option<PathBuf>,

    /// With --pprof: so many windows [default: 60]
    #[arg(long, value_name = "N", requires = "pprof", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Outputs")]
    pub keep: Option<u32>,

    /// What could not be sent yet waits here [default: /var/lib/profiler/spool]
    #[arg(long, value_name = "DIR", help_heading = "Outputs")]
    pub spool: Option<PathBuf>,

    /// … and takes up no more than this for each receiver; the oldest goes first [default: 256MiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, help_heading = "Outputs")]
    pub spool_bytes: Option<u64>,

    /// What this host is called in what is sent [default: its name]
    #[arg(long, value_name = "NAME", help_heading = "Outputs")]
    pub host_name: Option<String>,

    /// Write alerts here as lines of JSON: a file, or - for standard error
    #[arg(long, value_name = "FILE", help_heading = "Outputs")]
    pub alerts: Vec<PathBuf>,

    /// Answer at this address: a page at /, metrics at /metrics. Only this machine's own (127.0.0.1, ::1) are taken, which any
    /// of its users can ask; or a socket that only root can: unix:/run/profiler-agent/socket
    #[arg(short, long, value_name = "ADDRESS", help_heading = "Outputs")]
    pub listen: Option<Address>,

    /// Say only what went wrong
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say what is being done
    #[arg(short, long)]
    pub verbose: bool,
}

/// What to do instead of looking.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Action {
    /// Say whether the configuration is right, and what it comes to
    Check,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measures {
    /// CPU time, by samples
    Cpu,
    /// Where threads wait, and for what
    Waits,
    /// Which lines get memory
    Memory,
}
