//! `profiler convert`, as it is typed.

use std::path::PathBuf;

use clap::Args;

use super::report::Choice;
use crate::report::export::Format;

const EXAMPLES: &str = "\
Examples:
  profiler convert rec.pb.gz -o rec.svg              # flame graph
  profiler convert rec.pb.gz -o rec.gecko.json       # profiler.firefox.com
  profiler convert rec.pb.gz -o rec.chrome.json      # Perfetto
  profiler convert rec.pb.gz -o callgrind.out        # KCachegrind, gprof2dot
  profiler convert rec.pb.gz -o rec.pstats           # python3 -m pstats
  profiler convert mem.pb.gz -o mem.snapshot         # tracemalloc
  profiler convert mem.pb.gz -o mem.memray.csv       # columns of memray transform
  profiler convert rec.pb.gz -f folded --filter package=django | less

Exit status:
  0  the file was written
  1  something failed: the line `error: …` names it and the remedy
  2  the command line makes no sense";

/// Write a recording in another tool's format
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Convert {
    /// Recording to read, `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    #[command(flatten)]
    pub choice: Choice,

    /// Split stacks by thread
    #[arg(short, long, help_heading = "Output")]
    pub threads: bool,

    /// File to write, `-` for standard output (the default)
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Format [default: by the ending of FILE]
    #[arg(short, long, value_name = "FORMAT", help_heading = "Output")]
    pub format: Option<Format>,

    /// Overwrite FILE if it exists
    #[arg(long, help_heading = "Output")]
    pub force: bool,
}
