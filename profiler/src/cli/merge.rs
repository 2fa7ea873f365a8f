//! `profiler merge`, as it is typed.

use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  profiler merge a.pb.gz b.pb.gz -o both.pb.gz
  profiler merge /var/tmp/flight -o day.pb.gz     # all windows of a recorder

Exit status:
  0  the recording was written
  1  something failed: the line `error: …` names it and the remedy
  2  the command line makes no sense";

/// Make one recording of many: windows of a day, hosts of a fleet
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Merge {
    /// Recordings, or directories of them
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// File to write in pprof's format, `-` for standard output
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,

    /// Overwrite FILE if it exists
    #[arg(long, help_heading = "Output")]
    pub force: bool,
}
