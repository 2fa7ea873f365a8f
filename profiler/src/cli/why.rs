//! `profiler why`, as it is typed.

use clap::Args;

use super::{Common, parse_share};
use crate::why::Severity;

const EXAMPLES: &str = "\
Examples:
  profiler why -p 4242                  # ten seconds of everything, then the answer
  profiler why -p 4242 -s               # with its workers
  profiler why -a -d 30                 # every Python of the machine
  profiler why -p 4242 -j               # for programs
  profiler why -p 4242 -o page.html     # with CPU time and waits as a page
  profiler why -p 4242 --fail-on high   # for scripts: status 4 if there is one

Exit status:
  0  it looked, and says what it found (also if that is nothing)
  1  something failed: the line `error: …` names it and the remedy
  2  the command line makes no sense
  4  there is a finding at or above --fail-on";

/// Say why a Python is slow, grows or is stuck: look at everything for ten seconds, and rank what is found
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Why {
    #[command(flatten)]
    pub common: Common,

    /// End with status 4 if there is a finding of this severity or a higher one
    #[arg(long, value_name = "SEVERITY", help_heading = "Report")]
    pub fail_on: Option<Severity>,

    /// Shares from which on a finding is critical, high, medium and low
    #[arg(
        long,
        value_name = "C,H,M,L",
        value_parser = parse_share,
        value_delimiter = ',',
        num_args = 4,
        default_value = "50%,20%,10%,5%",
        help_heading = "Report"
    )]
    pub thresholds: Vec<f64>,

    /// Findings that are shown
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Report")]
    pub top: usize,

    /// Write JSON
    #[arg(short, long, help_heading = "Output")]
    pub json: bool,
}
