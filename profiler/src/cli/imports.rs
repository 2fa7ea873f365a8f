//! What can be typed for `imports`.

use clap::Args;

use super::Common;
use crate::config::{DEFAULT_ROWS, ImportsFormat};

const EXAMPLES: &str = "\
Examples:
  profiler imports -- python3 app.py            # which modules take how long, as a tree
  profiler imports -d 60 -a                     # of every Python that starts meanwhile
  profiler imports -p 4242                      # what a running process still imports
  profiler imports -f importtime -o import.log -- python3 app.py    # for tuna

It is what `python -X importtime` says, without the flag.";

/// Time the imports of modules, as -X importtime does, without the flag
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Imports {
    #[command(flatten)]
    pub common: Common,

    /// Modules that are shown of each process
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ROWS, help_heading = "Report")]
    pub top: usize,

    #[arg(
        short,
        long,
        value_name = "FORMAT",
        help_heading = "Output",
        help = "Format: text, csv, json, or importtime, as Python prints it [default: by the ending of FILE, else text]"
    )]
    pub format: Option<ImportsFormat>,
}
