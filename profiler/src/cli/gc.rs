//! What can be typed for `gc`.

use clap::Args;

use super::Common;
use crate::config::{DEFAULT_ROWS, MemoryFormat};

const EXAMPLES: &str = "\
Examples:
  profiler gc -p 4242 -d 30             # how often it collects, how long, and what sets that off
  profiler gc -a -d 30                  # every Python of the machine
  profiler gc -p 4242 -d 30 -o gc.svg   # a flame graph, width = time in pauses
  profiler gc -- python3 app.py

Each collection stops at a probe twice, some microseconds in all: it takes much longer itself.";

/// Garbage collections: how often, how long the pauses are, what sets them off, and thresholds
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Gc {
    #[command(flatten)]
    pub common: Common,

    /// Rows of each table
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
