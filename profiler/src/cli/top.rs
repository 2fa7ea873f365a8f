//! `profiler top`, as it is typed.

use std::time::Duration;

use clap::Args;

use super::{ProcessWord, parse_age, parse_process, parse_rate};

const EXAMPLES: &str = "\
Examples:
  profiler top               # all Pythons of the machine
  profiler top -p 4242       # one process; Enter shows its threads, f its functions
  profiler top --once        # one refresh as text
  profiler top --once -j     # … as JSON, for scripts

Nothing is stopped, signalled or written. `h` or `?` lists the keys.

Exit status:
  0  it was ended by q, Ctrl-C or a signal; with --once: the refresh was written
  1  something failed: the line `error: …` names it and the remedy
  2  the command line makes no sense";

/// Watch what Python processes do now, as top does: CPU, GIL, waits, memory, hottest lines
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Top {
    /// Processes to watch, as with --pid
    #[arg(value_name = "PID", value_parser = parse_process, value_delimiter = ',', help_heading = "Target")]
    pub positional_pids: Vec<ProcessWord>,

    /// Watch these processes: a comma-separated list, decimal or 0x hex; can be given more than once. Without it: all
    /// Pythons of the machine
    #[arg(short, long = "pid", value_name = "PID", value_parser = parse_process, value_delimiter = ',', help_heading = "Target")]
    pub pids: Vec<ProcessWord>,

    /// Watch the processes that the chosen ones have started, too
    #[arg(short, long, help_heading = "Target")]
    pub subprocesses: bool,

    /// Time between two refreshes
    #[arg(short = 'd', long, visible_alias = "delay", value_name = "TIME", value_parser = parse_age, default_value = "1s", help_heading = "Measuring")]
    pub interval: Duration,

    /// Samples a second of each CPU
    #[arg(short, long, value_name = "HZ", value_parser = parse_rate, default_value = "49", help_heading = "Measuring")]
    pub rate: u64,

    /// Do not follow waits: cheaper where threads switch very often. What is told of waits and of waiting for the GIL is
    /// left out
    #[arg(long, help_heading = "Measuring")]
    pub no_waits: bool,

    /// Show one refresh as text, and end
    #[arg(long, help_heading = "Output")]
    pub once: bool,

    /// With --once: write JSON
    #[arg(short, long, requires = "once", help_heading = "Output")]
    pub json: bool,

    /// Begin with the workers of one service as one row (`g`)
    #[arg(short, long, help_heading = "Output")]
    pub group: bool,
}
