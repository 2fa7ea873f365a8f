//! `profiler dump`, as it is typed.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{ProcessWord, parse_age, parse_process};

const EXAMPLES: &str = "\
Examples:
  profiler dump -p 4242              # what every thread does now
  profiler dump -p 4242 -l           # with local variables; -ll longer
  profiler dump -p 4242 --tasks      # asyncio: who awaits whom
  profiler dump -p 4242 --repeat 3   # marks what does not move: stuck
  profiler dump -a                   # every Python of the machine
  profiler dump -p 4242 -j           # for programs; what py-spy's readers know
  profiler dump -c core -e python3   # from a core file

Nothing is stopped, signalled or written. `>` marks the program's own code.

Exit status:
  0  everything that was asked for was read
  1  something could not be: the line `error: …` names it and the remedy
  2  the command line makes no sense
  3  a process that was named runs no CPython that is known";

/// Show what every thread is doing now, without stopping anything
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Dump {
    /// Processes to look at, as with --pid
    #[arg(value_name = "PID", value_parser = parse_process, value_delimiter = ',', help_heading = "Target")]
    pub positional_pids: Vec<ProcessWord>,

    /// Look at these processes: a comma-separated list, decimal or 0x hex; can be given more than once
    #[arg(short, long = "pid", value_name = "PID", value_parser = parse_process, value_delimiter = ',', help_heading = "Target")]
    pub pids: Vec<ProcessWord>,

    /// Look at all Pythons of the machine
    #[arg(short, long, help_heading = "Target")]
    pub all: bool,

    /// Look at the processes that the chosen ones have started, too
    #[arg(short, long, help_heading = "Target")]
    pub subprocesses: bool,

    /// Read this core file instead of a process
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["positional_pids", "pids", "all", "subprocesses", "repeat"], help_heading = "Target")]
    pub core: Option<PathBuf>,

    /// The program that the core file is of, if it is not where it was
    #[arg(short, long, value_name = "FILE", requires = "core", help_heading = "Target")]
    pub executable: Option<PathBuf>,

    /// Show local variables; -ll shows more of long ones
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "What to show")]
    pub locals: u8,

    /// Show the types of local variables only
    #[arg(long, requires = "locals", help_heading = "What to show")]
    pub no_values: bool,

    /// Show values of variables and keys whose names sound secret (password, token, key, …)
    #[arg(
        long,
        requires = "locals",
        conflicts_with = "no_values",
        help_heading = "What to show"
    )]
    pub show_secrets: bool,

    /// Show asyncio's tasks, of all loops: who awaits whom
    #[arg(long, help_heading = "What to show")]
    pub tasks: bool,

    /// Show native frames (C, C++, Rust) of threads that wait, too
    #[arg(short, long, help_heading = "What to show")]
    pub native: bool,

    /// Look so many times, and mark what has not moved
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100), help_heading = "What to show")]
    pub repeat: Option<u32>,

    /// Time between two looks
    #[arg(long, value_name = "TIME", value_parser = parse_age, requires = "repeat", default_value = "1s", help_heading = "What to show")]
    pub interval: Duration,

    /// Write JSON
    #[arg(short, long, help_heading = "Output")]
    pub json: bool,
}
