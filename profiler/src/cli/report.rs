//! `profiler report`, as it is typed.

use std::path::PathBuf;

use clap::Args;

use crate::{
    config::NativeFrames,
    report::{grouping::By, select::Filter},
    reread::options::Format,
};

const EXAMPLES: &str = "\
Examples:
  profiler report rec.pb.gz                  # who, where, how much
  profiler report rec.pb.gz --by package     # or line, file, thread, …
  profiler report rec.pb.gz --tree           # the tree of calls
  profiler report rec.pb.gz --callers render # who calls it; --callees
  profiler report rec.pb.gz --source render  # its lines, with their shares
  profiler report rec.pb.gz --filter package=django --filter 'kind!=kernel'
  profiler report a.pb.gz b.pb.gz --merge    # both as one; `profiler merge` keeps that
  profiler report rec.pb.gz -o rec.sarif     # for editors and CI
  profiler report rec.pb.gz --quickfix       # file:line:col, for editors
  profiler report rec.pb.gz -f json          # for programs

Recordings are files of `record`, `memory`, `waits` and the like (-o NAME.pb.gz), pprof of other programs, folded text
(py-spy, perf) and speedscope's JSON.

Exit status:
  0  the report was written
  1  something failed: the line `error: …` names it and the remedy
  2  the command line makes no sense";

/// Show what is in a recording: who used how much, and where
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Report {
    /// Recording to read, `-` for standard input; several, or directories of them, with --merge
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Make one of several recordings: of windows of a day, or hosts of a fleet
    #[arg(long, help_heading = "Report")]
    pub merge: bool,

    /// One row for each
    #[arg(long, value_name = "WHAT", help_heading = "Report")]
    pub by: Option<By>,

    /// Show the tree of calls
    #[arg(long, help_heading = "Report")]
    pub tree: bool,

    /// Show who calls this function: its whole name or the last part of it; `*` stands for anything
    #[arg(long, value_name = "FUNCTION", help_heading = "Report")]
    pub callers: Option<String>,

    /// Show what this function calls
    #[arg(long, value_name = "FUNCTION", help_heading = "Report")]
    pub callees: Option<String>,

    /// Show the lines of this function with their shares, and their text where the file is on this host
    #[arg(long, value_name = "FUNCTION", help_heading = "Report")]
    pub source: Option<String>,

    /// Rows that are shown
    #[arg(short = 'n', long, value_name = "N", help_heading = "Report")]
    pub top: Option<usize>,

    #[command(flatten)]
    pub choice: Choice,

    /// File to write, `-` for standard output (the default)
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Format [default: by the ending of FILE, else text]
    #[arg(short, long, value_name = "FORMAT", help_heading = "Output")]
    pub format: Option<Format>,

    /// Write lines as `file:line:column: message`, for editors; the same as -f quickfix
    #[arg(long, conflicts_with = "format", help_heading = "Output")]
    pub quickfix: bool,

    /// Overwrite FILE if it exists
    #[arg(long, help_heading = "Output")]
    pub force: bool,
}

/// Which part of a recording, and how much of its stacks
#[derive(Debug, Args)]
pub struct Choice {
    /// Which of its values: cpu, samples, bytes, … [default: the recording's own]
    #[arg(long, value_name = "VALUE", help_heading = "Report")]
    pub value: Option<String>,

    /// Keep samples that have this, such as package=django, function=render, file=views.py, thread=worker, task=serve, pid=42,
    /// kind=python|native|kernel (of the innermost frame), or have it not: kind!=kernel; of several, all must hold
    #[arg(long = "filter", value_name = "WHAT=WHICH", help_heading = "Report")]
    pub filters: Vec<Filter>,

    /// Show each library as one frame, however deep it is gone into
    #[arg(long, help_heading = "Report")]
    pub fold_libraries: bool,

    /// Show equal workers (processes of one name in one container) as one process
    #[arg(long, help_heading = "Report")]
    pub merge_workers: bool,

    /// Native frames: `full` shows the interpreter's own machinery, too
    #[arg(long, value_name = "WHICH", default_value = "work", help_heading = "Report")]
    pub native: NativeFrames,
}
