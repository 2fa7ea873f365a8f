//! What can be typed for `exceptions`.

use clap::Args;

use super::{Common, parse_factor};
use crate::config::{DEFAULT_ROWS, MemoryFormat};

const EXAMPLES: &str = "\
Examples:
  profiler exceptions -p 4242 -d 10            # what is raised, on which line, and who catches it
  profiler exceptions -p 4242 -s -d 10         # its children, too
  profiler exceptions -a -d 10                 # every Python of the machine
  profiler exceptions -p 4242 -d 10 -o raised.svg
  profiler exceptions -- python3 app.py

An exception stops at a probe, and so does each frame that it comes through, some 1 to 3 µs each: --max-overhead says how
much slower the program may become.";

/// Count exceptions: by type, by the line that raises them and by the line that catches them
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Exceptions {
    #[command(flatten)]
    pub common: Common,

    /// Count in short windows where the program would take more than this many times as long [default: 1.5]
    #[arg(long, value_name = "X", value_parser = parse_factor, help_heading = "Counting")]
    pub max_overhead: Option<f64>,

    /// Rows of the table
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ROWS, help_heading = "Report")]
    pub top: usize,

    #[arg(
        short,
        long,
        value_name = "FORMAT",
        help_heading = "Output",
        help = "Format: of the table, text, csv or json; of the stacks, svg, folded, speedscope or pprof [default: by \
                the ending of FILE, else text]"
    )]
    pub format: Option<MemoryFormat>,
}
