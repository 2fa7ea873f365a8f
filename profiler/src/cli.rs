//! What can be typed. Here text becomes numbers and lists, and nothing is looked up: no /proc, no clock, no defaults
//! that are not quoted from [`config`](crate::config), which decides what the words mean together.

pub mod agent;
pub mod completions;
pub mod convert;
pub mod diff;
pub mod dump;
pub mod exceptions;
pub mod gc;
pub mod imports;
pub mod manual;
pub mod merge;
pub mod report;
pub mod top;
pub mod undo;
pub mod why;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    config::{
        CallsFormat, DEFAULT_BYTES_PER_SAMPLE, DEFAULT_FORMAT, DEFAULT_LIVE_BLOCKS, DEFAULT_RATE_HZ, DEFAULT_ROWS,
        GroupBy, MemoryFormat, MemorySource, NativeFrames, ObjectsFormat, RATES_HZ, Via, WaitsBy, WaitsFormat,
    },
    report::{Format, calls::table::Sort, objects::ObjectsBy},
};

// Broken by hand: clap would wrap prose and examples alike at the terminal's edge.
const EXAMPLES: &str = "\
Examples:
  profiler record -p 4242 -d 30 -o flame.svg    # one process, half a minute
  profiler record -p 4242,4243 -t -o flame.svg  # two, split by thread
  profiler record -a -d 30 -o all.pb.gz         # the whole machine, for pprof
  profiler record -r 999 -o out.speedscope.json -- python3 app.py --flag
  profiler record -p 4242 --wall -o wall.svg    # waiting, too: width = time
  profiler record -p 4242 -f folded -o -        # to standard output
  profiler record -a --every 60s --keep 60 -o /var/tmp/flight

Exit status:
  0  the profile was written
  1  something failed: the line `error: …` names it and the remedy
  2  the command line makes no sense
  With `-- COMMAND` it is the command's own: 128 + N if signal N ended it,
  127 if it was not found, 126 if it cannot be executed.";

const MEMORY_EXAMPLES: &str = "\
Examples:
  profiler memory -p 4242 -d 60                     # who grew the process, and what of it is still there
  profiler memory -p 4242 -d 5m -o growth.svg       # a flame graph, width = bytes
  profiler memory -a -d 60                          # every process of the machine, by growth
  profiler memory -p 4242 -d 5m --leaks --older-than 30s
  profiler memory -p 4242 -d 5m --every 10s --curve curve.csv
  profiler memory -a --every 60s --keep 60 -o /var/tmp/flight
  profiler memory -p 4242 -d 60 --base yesterday.pb.gz
  profiler memory -- python3 app.py

By default pages of memory are followed as they are first touched and given back; nothing of the process is touched.";

const CALLS_EXAMPLES: &str = "\
Examples:
  profiler calls -p 4242 -d 5                       # how often every function is called
  profiler calls -p 4242 -d 30 --function app.db:Session.execute
  profiler calls -p 4242 -d 5 -o calls.pstats       # for pstats and snakeviz
  profiler calls -p 4242 -d 60 --duty 5%            # in windows, scaled up
  profiler calls -- python3 app.py

Every call stops at a probe, some 0.3 to 1 µs each: --max-overhead says how much slower the program may become.";

const WAITS_EXAMPLES: &str = "\
Examples:
  profiler waits -p 4242 -d 10                 # who waits, how long, for what, on which line
  profiler waits -a -d 10 --by process         # every process of the machine
  profiler waits -p 4242 -d 10 --by thread     # how the time of each thread adds up
  profiler waits -p 4242 -o waits.svg          # a flame graph, width = time
  profiler waits -p 4242 -f json -o waits.json
  profiler waits -a --every 60s --keep 60 -o /var/tmp/flight

Every blocked interval of every thread is counted, to the nanosecond. Long ones all come with their stack, of short
ones as many as give an unbiased picture. Nothing of the process is touched.";

const OBJECTS_EXAMPLES: &str = "\
Examples:
  profiler objects -p 4242                          # what it consists of, and who holds it
  profiler objects -p 4242 --growth 60s             # what became more in a minute, and who holds that
  profiler objects -p 4242 --referrers app.cache.Foo
  profiler objects -p 4242 --largest                # the largest objects, and what leads to each
  profiler objects -p 4242 --by holder --top 40
  profiler objects -p 4242 -o graph.svg             # who holds what, as a picture
  profiler objects -p 4242 -f json -o objects.json

Its memory is read while it runs: it is not stopped, nothing is written to it, no program is loaded into the kernel.

Exit status:
  0  the report was written
  1  something failed: the line `error: …` names it and the remedy
  2  the command line makes no sense";

/// System-wide profiler that understands CPython. The programs it looks at need no change and no restart, and are
/// never stopped.
#[derive(Debug, Parser)]
#[command(version, infer_subcommands = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Record(Record),
    Memory(Memory),
    Calls(Calls),
    Waits(Waits),
    Why(why::Why),
    Dump(dump::Dump),
    Top(top::Top),
    Objects(Objects),
    Exceptions(exceptions::Exceptions),
    Imports(imports::Imports),
    Gc(gc::Gc),
    Undo(undo::Undo),
    Report(report::Report),
    Diff(diff::Diff),
    Merge(merge::Merge),
    Agent(agent::Agent),
    /// Ask what is in a store of profiles (`agent --store`); profiler-store answers, and has to be installed
    #[command(disable_help_flag = true)]
    Query {
        /// What profiler-store query takes: --store DIR top, flame, diff, list, sql '…'
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "QUESTION")]
        question: Vec<OsString>,
    },
    Convert(convert::Convert),
    /// Print a shell's completion script, for example to /etc/bash_completion.d/profiler
    Completions {
        /// Shell to write for
        shell: Shell,
    },
    /// Print the manual of the program or of one command, for `man -l -`
    Man {
        /// Command whose page is printed
        command: Option<String>,

        /// Write the pages of all commands into this directory instead
        #[arg(long, value_name = "DIR", conflicts_with = "command")]
        all: Option<PathBuf>,
    },
}

/// Record where CPU time is spent, until Ctrl-C or for a given time
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Record {
    #[command(flatten)]
    pub common: Common,

    /// Samples per second and CPU, such as 99, 999hz or 10khz
    #[arg(
        short, long, visible_short_alias = 'F', visible_alias = "freq", value_name = "HZ",
        value_parser = parse_rate, default_value_t = u64::from(DEFAULT_RATE_HZ), help_heading = "Recording",
    )]
    pub rate: u64,

    /// Leave out kernel stacks
    #[arg(long, help_heading = "Recording")]
    pub no_kernel: bool,

    /// Show where threads run and where they wait in one picture: widths are time, and each thread's come to the time that
    /// it existed
    #[arg(long, visible_short_alias = 'i', visible_alias = "idle", help_heading = "Recording")]
    pub wall: bool,

    /// Sample only threads that have the GIL: what keeps other threads of Python from running
    #[arg(short, long, conflicts_with = "wall", help_heading = "Recording")]
    pub gil: bool,

    /// Native frames in SVG, folded and speedscope files: `full` shows the interpreter's own machinery, too (calls,
    /// start-up), which `work` leaves out around Python frames. pprof files have everything
    #[arg(
        long,
        value_name = "WHICH",
        default_value = "work",
        overrides_with_all = ["no_native", "native"],
        help_heading = "Output"
    )]
    pub native: NativeFrames,

    /// Show equal workers (processes of one name in one container) as one process
    #[arg(long, help_heading = "Output")]
    pub merge_workers: bool,

    /// Put the text of the program's files into the page or the recording (`-o page.html`, `-o rec.pb.gz`), to be shown line
    /// by line
    #[arg(long, help_heading = "Output")]
    pub with_source: bool,

    #[command(flatten)]
    pub flight: Flight,

    /// Sample this instruction, too: FILE:0xOFFSET (an offset in the file) or FILE:SYMBOL
    // Hidden: for the end-to-end test of samples that interrupt each other, and for what is built on them.
    #[arg(long, value_name = "FILE:PLACE", value_parser = parse_probe, hide = true)]
    pub probe: Option<Probe>,

    #[arg(
        short, long, value_name = "FORMAT", help_heading = "Output",
        help = format!("Format [default: by the ending of FILE, else {}]", DEFAULT_FORMAT.name()),
    )]
    pub format: Option<Format>,
}

/// Record which code makes processes grow, and what of it stays
#[derive(Debug, Args)]
#[command(after_help = MEMORY_EXAMPLES)]
pub struct Memory {
    #[command(flatten)]
    pub common: Common,

    /// One row of the table for each
    #[arg(long, value_name = "WHAT", default_value = "line", help_heading = "Report")]
    pub by: GroupBy,

    /// Rows of the table
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ROWS, help_heading = "Report")]
    pub top: usize,

    /// Which numbers to show; they are of the same memory and are never added
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "resident",
        conflicts_with = "exact",
        help_heading = "Report"
    )]
    pub source: MemorySource,

    /// Show what came in the recording and is there at its end (the default, except for a command)
    #[arg(long, conflicts_with_all = ["allocated", "leaks", "older_than", "peak", "temporary"], help_heading = "Report")]
    pub live: bool,

    /// Show all that came in the recording, whether it stayed or not
    #[arg(long, conflicts_with_all = ["leaks", "older_than", "peak", "temporary"], help_heading = "Report")]
    pub allocated: bool,

    /// Show only what was allocated in the recording and still lives at its end
    #[arg(long, help_heading = "Report")]
    pub leaks: bool,

    /// Show only what lives at the end and is at least this old, such as 30s
    #[arg(long, value_name = "TIME", value_parser = parse_age, help_heading = "Report")]
    pub older_than: Option<Duration>,

    /// Show what lived when the memory was at its highest (the default for a command, which gives all back when it ends)
    #[arg(long, conflicts_with_all = ["leaks", "older_than"], help_heading = "Report")]
    pub peak: bool,

    /// Show what was allocated and given back within the recording
    #[arg(
        long, visible_alias = "temporary-allocations", conflicts_with_all = ["leaks", "older_than", "peak"],
        help_heading = "Report",
    )]
    pub temporary: bool,

    /// Take a snapshot this often, and show how the largest sites grew over time; with a directory after -o, write a pprof
    /// file this often instead: a flight recorder
    #[arg(long, value_name = "TIME", value_parser = parse_age, help_heading = "Report")]
    pub every: Option<Duration>,

    #[command(flatten)]
    pub kept: Kept,

    /// Write the snapshots to FILE: .csv, .json, or .dat for `mprof plot`
    #[arg(long, value_name = "FILE", requires = "every", help_heading = "Report")]
    pub curve: Option<PathBuf>,

    /// Do not look at all objects before and after, which is done with `-p` to say first what became more, and who holds it
    #[arg(long, help_heading = "Report")]
    pub no_objects: bool,

    /// Show what grew since an earlier recording, written with -o FILE.pb.gz
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub base: Option<PathBuf>,

    /// Follow every call of CPython's allocators: exact, and slow; `--max-overhead` bounds how slow
    #[arg(long, help_heading = "Exact mode")]
    pub exact: bool,

    /// Sample what CPython's allocators give, by bytes, on every build: what lives, at its peak, and what was temporary,
    /// with exact totals. Writes to the process: its table of allocators leads through code of the profiler's until the
    /// end. Says what it will do, and asks: docs/memory.md
    #[arg(
        long,
        conflicts_with_all = ["exact", "watchpoints", "source", "no_objects"],
        help_heading = "Sampled heap (writes to the process)"
    )]
    pub sampled: bool,

    /// One sample in so many bytes on average
    #[arg(
        long,
        value_name = "BYTES",
        requires = "sampled",
        default_value = DEFAULT_BYTES_PER_SAMPLE,
        value_parser = parse_bytes,
        help_heading = "Sampled heap (writes to the process)"
    )]
    pub bytes_per_sample: u64,

    /// Do not ask
    #[arg(
        short = 'y',
        long,
        requires = "sampled",
        help_heading = "Sampled heap (writes to the process)"
    )]
    pub yes: bool,

    /// Experimental: say which lines keep the objects that became more, by hardware watchpoints: in short windows, drawn at random, the
    /// process stops for each object that its collector begins to track, and some are followed until they go. Nothing is
    /// written to its memory; the four debug registers of each CPU are taken meanwhile. In a virtual machine whose host has
    /// a Linux before 6.14 a stop can end the process: docs/limits.md
    #[arg(long, conflicts_with_all = ["exact", "no_objects", "base"], help_heading = "Report")]
    pub watchpoints: bool,

    /// What all stops at watchpoints may take, as a share of the CPU time that the process uses for itself
    #[arg(
        long,
        value_name = "SHARE",
        requires = "watchpoints",
        default_value = "3%",
        value_parser = parse_share,
        help_heading = "Report"
    )]
    pub max_share: f64,

    /// Take the probes away when the program takes this many times as long [default: 2]
    #[arg(long, value_name = "X", requires = "exact", value_parser = parse_factor, help_heading = "Exact mode")]
    pub max_overhead: Option<f64>,

    /// Follow the C library's allocator (or the one in its place), too, and show native frames
    #[arg(
        short = 'n',
        long,
        requires = "exact",
        conflicts_with = "no_native",
        help_heading = "Exact mode"
    )]
    pub native: bool,

    /// Blocks that can be followed at a time
    #[arg(long, value_name = "N", requires = "exact", default_value_t = DEFAULT_LIVE_BLOCKS, help_heading = "Exact mode")]
    pub max_live: u32,

    /// With --temporary: a block is temporary if it is freed before its thread has made N more allocations
    #[arg(
        long = "temporary-allocation-threshold",
        value_name = "N",
        requires = "exact",
        default_value_t = 1,
        help_heading = "Exact mode"
    )]
    pub temporary_within: u32,

    /// Put the text of the program's files into the page or the recording (`-o page.html`, `-o rec.pb.gz`), to be shown line
    /// by line
    #[arg(long, help_heading = "Output")]
    pub with_source: bool,

    #[arg(
        short,
        long,
        value_name = "FORMAT",
        help_heading = "Output",
        help = "Format: of the table, text, csv or json; of the stacks, svg, html, folded, speedscope or pprof [default: by \
                the ending of FILE, else text]"
    )]
    pub format: Option<MemoryFormat>,
}

/// Count calls of Python functions, exactly, within a budget
#[derive(Debug, Args)]
#[command(after_help = CALLS_EXAMPLES)]
pub struct Calls {
    #[command(flatten)]
    pub common: Common,

    /// Time the calls of this function, too: NAME, MODULE:NAME, FILE.py:NAME, or __main__:NAME of the script that was
    /// started; can be given more than once
    #[arg(long = "function", value_name = "FUNCTION", help_heading = "Counting")]
    pub functions: Vec<String>,

    /// How calls of the functions given are seen, once each has been called
    #[arg(
        long,
        value_name = "MEANS",
        default_value_t,
        value_enum,
        requires = "functions",
        conflicts_with = "duty",
        help_heading = "Counting"
    )]
    pub via: Via,

    /// Count in short windows where the program would take more than this many times as long [default: 1.5; a command
    /// may take 5 s longer before]
    #[arg(long, value_name = "X", value_parser = parse_factor, help_heading = "Counting")]
    pub max_overhead: Option<f64>,

    /// Count in windows that take up this part of the time only, and scale up: 5% or 0.05
    #[arg(long, value_name = "SHARE", value_parser = parse_share, help_heading = "Counting")]
    pub duty: Option<f64>,

    /// Samples of the CPU clock per second, from which times are estimated
    #[arg(short, long, value_name = "HZ", value_parser = parse_rate, default_value_t = u64::from(DEFAULT_RATE_HZ), help_heading = "Counting")]
    pub rate: u64,

    /// Tell how often each function is called for each call of this one, named as with --function
    #[arg(long, value_name = "FUNCTION", conflicts_with = "functions", help_heading = "Report")]
    pub per: Option<String>,

    /// Order of the table
    #[arg(long, value_name = "KEY", default_value = "ncalls", help_heading = "Report")]
    pub sort: Sort,

    /// Rows of the table
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ROWS, help_heading = "Report")]
    pub top: usize,

    /// Put the text of the program's files into the page (`-o page.html`), to be shown line by line
    #[arg(long, help_heading = "Output")]
    pub with_source: bool,

    #[arg(
        short,
        long,
        value_name = "FORMAT",
        help_heading = "Output",
        help = "Format: pstats, json, csv or html [default: by the ending of FILE; without -o a table]"
    )]
    pub format: Option<CallsFormat>,
}

/// Record where threads wait: how long, for what, and on which line
#[derive(Debug, Args)]
#[command(after_help = WAITS_EXAMPLES)]
pub struct Waits {
    #[command(flatten)]
    pub common: Common,

    /// One row of the table for each
    #[arg(long, value_name = "WHAT", default_value = "line", help_heading = "Report")]
    pub by: WaitsBy,

    /// Rows of the table
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ROWS, help_heading = "Report")]
    pub top: usize,

    #[command(flatten)]
    pub flight: Flight,

    /// Leave out waits that are shorter, such as 1ms, and say how much time that is
    #[arg(long, value_name = "TIME", value_parser = parse_age, help_heading = "Recording")]
    pub min: Option<Duration>,

    /// Tell who ended each wait: the thread that woke the one that waited, and its Python line
    #[arg(long, conflicts_with = "no_kernel", help_heading = "Recording")]
    pub wakers: bool,

    /// Tell when an event loop (asyncio, uvloop, gevent) did not come back to poll for so long, such as 100ms, and what
    /// took it. Each system call on the machine takes 0.1 µs longer meanwhile
    #[arg(long, value_name = "TIME", value_parser = parse_age, conflicts_with = "every", help_heading = "Recording")]
    pub stalls: Option<Duration>,

    /// Tell what is read, written, sent and received: bytes, calls and times by line and peer. Each system call on the
    /// machine takes 0.2 µs longer meanwhile
    #[arg(long, conflicts_with = "every", help_heading = "Recording")]
    pub io: bool,

    /// Leave out kernel stacks
    #[arg(long, help_heading = "Recording")]
    pub no_kernel: bool,

    /// Take the stack of every wait, whatever that costs: to measure what drawing them saves
    #[arg(long, hide = true)]
    pub every_wait: bool,

    /// Put the text of the program's files into the page or the recording (`-o page.html`, `-o rec.pb.gz`), to be shown line
    /// by line
    #[arg(long, help_heading = "Output")]
    pub with_source: bool,

    #[arg(
        short,
        long,
        value_name = "FORMAT",
        help_heading = "Output",
        help = "Format: of the table, text, csv or json; of the stacks, svg, html, folded, speedscope or pprof [default: by \
                the ending of FILE, else text]"
    )]
    pub format: Option<WaitsFormat>,
}

/// A recording that is cut into windows
#[derive(Debug, Args)]
pub struct Flight {
    /// Write a pprof file for every so much time to the directory given with -o, such as 60s: a flight recorder
    #[arg(long, value_name = "TIME", value_parser = parse_age, help_heading = "Flight recorder")]
    pub every: Option<Duration>,

    #[command(flatten)]
    pub kept: Kept,
}

/// Which of its files stay
#[derive(Debug, Args)]
pub struct Kept {
    /// Keep the last N of them, and remove older ones [default: 60]
    #[arg(
        long,
        value_name = "N",
        requires = "every",
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Flight recorder"
    )]
    pub keep: Option<u32>,

    /// When FILE appears or changes, keep the file of now, the one before and the next for good; SIGUSR1 does the same
    #[arg(long, value_name = "FILE", requires = "every", help_heading = "Flight recorder")]
    pub trigger: Option<PathBuf>,
}

/// Say what a Python process consists of, object by object, and who holds it
#[derive(Debug, Args)]
#[command(after_help = OBJECTS_EXAMPLES)]
pub struct Objects {
    /// Process to look at, as with --pid
    #[arg(value_name = "PID", value_parser = parse_process, conflicts_with = "pid", help_heading = "Target")]
    pub positional_pid: Option<ProcessWord>,

    /// Look at this process: decimal or 0x hex
    #[arg(short, long, value_name = "PID", value_parser = parse_process, help_heading = "Target")]
    pub pid: Option<ProcessWord>,

    /// One row of the table for each
    #[arg(long, value_name = "WHAT", default_value = "type", help_heading = "Report")]
    pub by: ObjectsBy,

    /// Rows of the table, or of what --largest and --referrers show
    #[arg(short = 'n', long, value_name = "N", default_value_t = DEFAULT_ROWS, help_heading = "Report")]
    pub top: usize,

    /// Look twice, so long apart, and show what became more
    #[arg(long, value_name = "TIME", value_parser = parse_age, help_heading = "Report")]
    pub growth: Option<Duration>,

    /// Show who refers to the instances of this class: NAME or MODULE.NAME
    #[arg(long, value_name = "CLASS", conflicts_with_all = ["growth", "largest"], help_heading = "Report")]
    pub referrers: Option<String>,

    /// Show the largest objects, and what leads to each
    #[arg(long, conflicts_with = "growth", help_heading = "Report")]
    pub largest: bool,

    /// Refuse to look at more memory of small objects than this, such as 8GiB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "2GiB", help_heading = "Bounds")]
    pub max_heap: u64,

    /// Leave off after this time
    #[arg(long, value_name = "TIME", value_parser = parse_age, default_value = "20s", help_heading = "Bounds")]
    pub max_time: Duration,

    /// File to write, `-` for standard output (the default)
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    #[arg(
        short,
        long,
        value_name = "FORMAT",
        help_heading = "Output",
        help = "Format: text, json, folded, dot or svg [default: by the ending of FILE, else text]"
    )]
    pub format: Option<ObjectsFormat>,

    /// Overwrite FILE if it exists
    #[arg(long, help_heading = "Output")]
    pub force: bool,

    /// No notes; errors stay
    #[arg(short, long, help_heading = "Messages")]
    pub quiet: bool,
}

/// What every kind of recording understands
#[derive(Debug, Args)]
pub struct Common {
    /// Processes to record, as with --pid
    #[arg(value_name = "PID", value_parser = parse_process, value_delimiter = ',', help_heading = "Target")]
    pub positional_pids: Vec<ProcessWord>,

    /// Record these processes: a comma-separated list, decimal or 0x hex; can be given more than once
    #[arg(short, long = "pid", value_name = "PID", value_parser = parse_process, value_delimiter = ',', help_heading = "Target")]
    pub pids: Vec<ProcessWord>,

    /// Record the whole machine
    #[arg(short, long, help_heading = "Target")]
    pub all: bool,

    /// Record this command: it is started, and its exit status becomes the profiler's. Under sudo it runs as the user
    /// who called sudo
    #[arg(last = true, value_name = "COMMAND", help_heading = "Target")]
    pub command: Vec<OsString>,

    /// Record the processes that the chosen ones start, too
    #[arg(short, long, help_heading = "Target")]
    pub subprocesses: bool,

    /// Record these threads only (`record -t` shows their numbers, and the names that Python gave them); without a process,
    /// look for them on the whole machine
    #[arg(long = "tid", value_name = "TID", value_parser = parse_pid, value_delimiter = ',', help_heading = "Target")]
    pub tids: Vec<u32>,

    /// Record threads of this name only (as in /proc/PID/comm); without a process, on the whole machine
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    pub comm: Option<OsString>,

    /// Record this cgroup (version 2) and those below it only; without a process, everything in it
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    pub cgroup: Option<PathBuf>,

    /// Stop after this time, such as 30, 30s, 5m, 1m30s or 500ms; `unlimited` (the default) waits for Ctrl-C
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, help_heading = "Recording")]
    pub duration: Option<Limit>,

    /// Leave out native stacks (C, C++, Rust)
    #[arg(long, help_heading = "Recording")]
    pub no_native: bool,

    /// File to write, `-` for standard output [default: COMM-PID-TIME or system-TIME, with the format's ending; tables of
    /// `memory`, `calls` and `waits` go to standard output]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Overwrite FILE if it exists
    #[arg(long, help_heading = "Output")]
    pub force: bool,

    /// Split stacks by thread
    #[arg(short, long, help_heading = "Output")]
    pub threads: bool,

    /// No progress line and no notes; errors and the summary stay
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Messages")]
    pub quiet: bool,

    /// Say more; -vv adds the log of the programs in the kernel
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Messages")]
    pub verbose: u8,

    /// Write the closing summary as JSON, too
    #[arg(long, value_name = "FILE", help_heading = "Messages")]
    pub summary_json: Option<PathBuf>,
}

/// A process as it is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessWord {
    Pid(u32),
    /// It is a pid that is wanted: who types a name is told those of that name.
    Name(String),
}

/// How long to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Unlimited,
    After(Duration),
}

/// An instruction to sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub file: PathBuf,
    pub place: Place,
}

/// Where in its file an instruction is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In bytes from the file's beginning.
    Offset(u64),
    /// A function's first instruction.
    Symbol(String),
}

/// Reads the command line. Ends the process with status 2 if it makes no sense, and with 0 after `--help`.
pub fn parse() -> Cli {
    Cli::parse()
}

fn parse_process(text: &str) -> Result<ProcessWord, String> {
    match parse_pid(text) {
        Ok(pid) => Ok(ProcessWord::Pid(pid)),
        Err(_)
            if text
                .trim()
                .starts_with(|first: char| first.is_alphabetic() || "_./".contains(first)) =>
        {
            Ok(ProcessWord::Name(text.trim().to_owned()))
        }
        Err(error) => Err(error),
    }
}

fn parse_pid(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // `from_str_radix` would let a sign through. A larger number than any pid is left to the look-up, which says that
    // there is no such process; one that no integer can hold is refused here.
    if digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && let Ok(id @ 1..) = u32::from_str_radix(digits, radix)
    {
        return Ok(id);
    }
    Err("expected a number such as 4242 or 0x1092, or several with commas between them".to_owned())
}

/// Hertz. The range is [`config`](crate::config)'s affair, so a number too large for 64 bits stays "very large".
fn parse_rate(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let (number, unit) = split_number(&lower);
    let factor = match unit.trim_start() {
        "" | "hz" => Some(1),
        "khz" | "k" => Some(1_000),
        _ => None,
    };
    let wrong = || {
        format!(
            "expected a whole number of samples per second from {} to {}, such as 99, 99hz or 10khz",
            RATES_HZ.start(),
            RATES_HZ.end(),
        )
    };
    let factor = factor.ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let all_digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(wrong());
    }
    // `1.5khz` is 1500 Hz, `99.5` is refused: what comes after the point must be whole hertz.
    let mut hertz = whole.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(factor);
    let mut place = factor;
    for digit in fraction.bytes().map(|byte| u64::from(byte - b'0')) {
        if digit != 0 && place < 10 {
            return Err(wrong());
        }
        place /= 10;
        hertz = hertz.saturating_add(digit * place);
    }
    Ok(hertz)
}

fn parse_duration(text: &str) -> Result<Limit, String> {
    let wrong = || "expected a time such as 30, 30s, 5m, 1h, 2d, 1m30s, 500ms, or `unlimited`".to_owned();
    let lower = text.trim().to_ascii_lowercase();
    if lower == "unlimited" {
        return Ok(Limit::Unlimited);
    }
    let mut rest = lower.as_str();
    let mut total = Duration::ZERO;
    let mut previous_unit = f64::INFINITY;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let unit_length = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let unit = match unit {
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            // A bare number is seconds, but only alone: `1m30` might mean either.
            "" if rest.len() == lower.len() && after.is_empty() => 1.0,
            _ => return Err(wrong()),
        };
        // From large to small, each unit once, as one says it.
        if unit >= previous_unit {
            return Err(wrong());
        }
        previous_unit = unit;
        let value: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(value * unit).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    if total.is_zero() {
        return Err(if lower.is_empty() {
            wrong()
        } else {
            format!("no time at all; {}", wrong())
        });
    }
    Ok(Limit::After(total))
}

/// A time that is not endless.
pub(crate) fn parse_age(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Limit::After(time) => Ok(time),
        Limit::Unlimited => Err("expected a time such as 30s".to_owned()),
    }
}

/// Bytes: 8GiB, 512M, 100000.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let (number, unit) = split_number(&lower);
    let shift = match unit.trim_start() {
        "" | "b" => Some(0),
        "k" | "kib" => Some(10),
        "m" | "mib" => Some(20),
        "g" | "gib" => Some(30),
        _ => None,
    };
    match (number.parse::<u64>(), shift) {
        (Ok(number @ 1..), Some(shift)) if number <= u64::MAX >> shift => Ok(number << shift),
        _ => Err("expected a number of bytes such as 512MiB or 8GiB".to_owned()),
    }
}

/// How many times slower: 1.5, 2 or 2x.
fn parse_factor(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches(['x', 'X']);
    match number.parse::<f64>() {
        Ok(factor) if factor > 1.0 && factor <= 1000.0 => Ok(factor),
        _ => Err("expected how many times slower, above 1, such as 1.5 or 2".to_owned()),
    }
}

/// A part of the whole: 5%, 0.05.
fn parse_share(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let (number, whole) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    match number.trim().parse::<f64>().map(|number| number / whole) {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("expected a part of the time such as 5% or 0.05".to_owned()),
    }
}

fn parse_probe(text: &str) -> Result<Probe, String> {
    let wrong = || "expected FILE:0xOFFSET or FILE:SYMBOL, such as /usr/lib/libc.so.6:malloc".to_owned();
    let (file, place) = text.rsplit_once(':').ok_or_else(wrong)?;
    if file.is_empty() || place.is_empty() {
        return Err(wrong());
    }
    let place = match place.strip_prefix("0x") {
        // `from_str_radix` would let a sign through.
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Place::Offset(u64::from_str_radix(digits, 16).map_err(|_| wrong())?)
        }
        Some(_) => return Err(wrong()),
        None => Place::Symbol(place.to_owned()),
    };
    Ok(Probe {
        file: PathBuf::from(file),
        place,
    })
}

/// Splits digits (and points) from what follows them.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len()),
    )
}

#[cfg(test)]
mod tests;
