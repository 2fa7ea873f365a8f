//! What is meant: the settings of one recording, checked against each other, with every default filled in.
//!
//! The only place with defaults; `cli` quotes them. Nothing here looks at the machine, except that the default name of
//! the output asks /proc for a process's name, and that who types a name for a pid is told the pids of that name.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    mem::MaybeUninit,
    ops::RangeInclusive,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use thiserror::Error;

pub use crate::cli::{Place, Probe};
pub use crate::report::calls::{export::Format as CallsFormat, table::Sort};
pub use crate::report::memory::group::By as GroupBy;
pub use crate::report::waits::rows::By as WaitsBy;
use crate::{
    cli::{Calls, Common, Limit, Memory, ProcessWord, Record, Waits},
    exit,
    flight::Windows,
    humanize,
    process::{comm, who},
    report::Format,
};

/// Not 100: a program that does something a hundred times a second would always be met at the same place.
pub const DEFAULT_RATE_HZ: u32 = 99;

/// A sample takes microseconds (tens for the deepest stacks); at 20 kHz that is already a large part of a CPU.
pub const RATES_HZ: RangeInclusive<u32> = 1..=20_000;

pub const DEFAULT_FORMAT: Format = Format::Svg;

/// Rows of a table.
pub const DEFAULT_ROWS: usize = 20;

/// Windows of a flight recorder that stay: an hour of minutes.
pub const DEFAULT_KEPT_WINDOWS: u32 = 60;

/// A window costs more than it tells if it is shorter.
pub const SHORTEST_WINDOW: Duration = Duration::from_secs(1);

/// Blocks that exact mode follows at a time: some 100 bytes of kernel memory each.
pub const DEFAULT_LIVE_BLOCKS: u32 = 512 * 1024;

/// How many times slower exact mode may make a program.
pub const DEFAULT_MAX_OVERHEAD: f64 = 2.0;

/// The same of counting calls.
pub const DEFAULT_MAX_OVERHEAD_OF_CALLS: f64 = 1.5;

/// The kernel keeps so many bytes of a thread's name (`TASK_COMM_LEN` less its NUL).
const MAX_COMM_BYTES: usize = 15;

/// What `memory` looks at, and what it shows.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryConfig {
    pub by: GroupBy,
    pub top: usize,
    pub shown: Wanted,
    pub source: MemorySource,
    pub every: Option<Duration>,
    pub curve: Option<PathBuf>,
    pub base: Option<PathBuf>,
    pub exact: Option<Exact>,
    pub format: MemoryFormat,
}

/// Which memory is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What came in the recording and is there at its end.
    Live,
    /// Of that, what is at least so old.
    Leaks { older_than: Duration },
    /// What was there when it was most.
    Peak,
    /// What came and went.
    Temporary,
    /// All that came.
    Allocated,
}

/// Which of the numbers of growth mode are shown. They are of the same memory, and are never added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MemorySource {
    /// Pages, as they are touched: what RSS consists of.
    Resident,
    /// Pools of pymalloc: who opened them, and how many bytes of objects are in them at the end.
    Pools,
    /// Address space: mappings and extensions of the heap, touched or not.
    Mapped,
}

/// Exact mode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exact {
    /// The program may become this many times slower.
    pub max_overhead: f64,
    /// Blocks that can be followed at a time.
    pub max_live: u32,
    /// A block is temporary if it is freed before its thread has made this many more allocations.
    pub temporary_within: u32,
}

/// How calls of chosen functions are seen.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// Probes, and breakpoints as soon as probes are seen to cost more
    #[default]
    Auto,
    /// Probes on the interpreter: every call of any function hits them
    Probes,
    /// Hardware breakpoints on the functions' bytecode: only their own calls hit them
    Breakpoints,
}

/// Which native frames are shown beside Python ones.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NativeFrames {
    /// Those that do work
    #[default]
    Work,
    /// All of them
    Full,
}

/// What `calls` counts, and what it shows.
#[derive(Clone, Debug, PartialEq)]
pub struct CallsConfig {
    /// Whose calls are timed.
    pub functions: Vec<String>,
    /// By whose calls those of others are divided.
    pub per: Option<String>,
    pub via: Via,
    /// The program may become this many times slower.
    pub max_overhead: f64,
    /// A command may cost more than that at first, so that all calls of a short one are counted.
    pub whole_at_first: bool,
    /// The part of the time in which calls are counted.
    pub duty: Option<f64>,
    pub sort: Sort,
    pub top: usize,
    /// `None`: the table.
    pub format: Option<CallsFormat>,
}

/// What `waits` shows.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitsConfig {
    pub by: WaitsBy,
    pub top: usize,
    pub format: WaitsFormat,
}

/// What `waits` writes: the same as `memory`, width = time.
pub type WaitsFormat = MemoryFormat;

/// What `memory` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MemoryFormat {
    /// The table, to be read.
    #[value(alias = "table")]
    Text,
    /// The table, for spreadsheets: exact numbers.
    Csv,
    /// The table, for programs: exact numbers.
    Json,
    /// Flame graph, width = bytes or time.
    #[value(alias = "flamegraph")]
    Svg,
    /// One line per stack with its bytes or time.
    #[value(aliases = ["collapsed", "raw"])]
    Folded,
    Speedscope,
    /// Heap profile for `go tool pprof` and `--base`: keeps everything.
    Pprof,
}

impl MemoryFormat {
    /// The format a file's name stands for.
    fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        if name.ends_with(".speedscope.json") {
            return Some(Self::Speedscope);
        }
        match path.extension()?.to_str()? {
            "csv" => Some(Self::Csv),
            "json" => Some(Self::Json),
            "txt" => Some(Self::Text),
            _ => Some(match Format::from_path(path)? {
                Format::Svg => Self::Svg,
                Format::Folded => Self::Folded,
                Format::Speedscope => Self::Speedscope,
                Format::Pprof => Self::Pprof,
            }),
        }
    }

    pub fn is_table(self) -> bool {
        self.stacks().is_none()
    }

    /// The format of the stacks, if they are what is written.
    pub fn stacks(self) -> Option<Format> {
        match self {
            Self::Text | Self::Csv | Self::Json => None,
            Self::Svg => Some(Format::Svg),
            Self::Folded => Some(Format::Folded),
            Self::Speedscope => Some(Format::Speedscope),
            Self::Pprof => Some(Format::Pprof),
        }
    }
}

/// Whether the output has a name that can say its format. /dev/null, and /dev/fd/63 of a shell's `>(…)`, have no ending
/// to go by.
fn says_format(output: &OutputChoice) -> bool {
    match output {
        OutputChoice::File { path, .. } => !path.starts_with("/dev") || path.extension().is_some(),
        OutputChoice::Stdout | OutputChoice::ByDefault { .. } => false,
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub target: Target,
    /// Follow the children of the target's processes.
    pub subprocesses: bool,
    /// Not empty: these threads only.
    pub tids: Vec<u32>,
    /// Threads of this name only.
    pub comm: Option<OsString>,
    /// Tasks in this cgroup or below it only. As typed: [`preflight`](crate::preflight) resolves it.
    pub cgroup: Option<PathBuf>,
    pub rate_hz: u32,
    /// One sample is taken after so much CPU time.
    pub period_ns: u64,
    /// `None`: until Ctrl-C.
    pub duration: Option<Duration>,
    pub kernel_stacks: bool,
    pub native_stacks: bool,
    /// Which of them text and pictures show.
    pub native_frames: NativeFrames,
    /// Sample here as well as by the clock.
    pub probe: Option<Probe>,
    pub output: OutputChoice,
    pub format: Format,
    /// The recording is cut into windows.
    pub windows: Option<Windows>,
    /// Memory is looked at, not CPU time.
    pub memory: Option<MemoryConfig>,
    /// Calls are counted.
    pub calls: Option<CallsConfig>,
    /// Waits are followed.
    pub waits: Option<WaitsConfig>,
    /// Split stacks by thread.
    pub threads: bool,
    /// Show equal workers as one.
    pub merge_workers: bool,
    pub verbosity: Verbosity,
    /// Where the closing summary goes as JSON, besides standard error.
    pub summary_json: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The whole machine, restricted by `tids`, `comm` and `cgroup`.
    All,
    /// Not empty, no pid twice, in the order they were typed.
    Pids(Vec<u32>),
    /// Not empty.
    Command(Vec<OsString>),
}

/// Where the profile is wanted. A name by default needs the pid of a command that has not been started yet, so it is
/// made later, by [`Config::output_target`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputChoice {
    Stdout,
    File { path: PathBuf, force: bool },
    ByDefault { force: bool },
}

/// Where the profile goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputTarget {
    Stdout,
    File { path: PathBuf, force: bool },
}

impl OutputTarget {
    /// Of what is written besides the profile: `-` is standard output, and a file is replaced.
    pub fn replacing(path: &Path) -> Self {
        match is_stdout(path) {
            true => Self::Stdout,
            false => Self::File {
                path: path.to_owned(),
                force: true,
            },
        }
    }
}

/// /dev/stdout would open the file behind a redirection a second time, and cut off what is in it.
fn is_stdout(path: &Path) -> bool {
    path == Path::new("-") || path == Path::new("/dev/stdout")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors and the summary.
    Quiet,
    Normal,
    /// What is being done.
    Verbose,
    /// And what the programs in the kernel log.
    Debug,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("nothing to record: give a pid (-p 4242), -a for the whole machine, or a command after `--`")]
    NoTarget,
    #[error("{0} and {1} exclude each other: give either pids, or -a for the whole machine, or a command after `--`")]
    ManyTargets(&'static str, &'static str),
    #[error("{offer}")]
    NameForPid { offer: String },
    #[error("{0} and {1} would both go to standard output; name a file with one of them")]
    StdoutTwice(&'static str, &'static str),
    #[error("{} is the file of both {} and {}; name another with one of them", path.display(), options.0, options.1)]
    SameFile {
        path: PathBuf,
        options: (&'static str, &'static str),
    },
    #[error("the ending of {} names no format for a curve: use .csv or .json", path.display())]
    UnknownEndingOfCurve { path: PathBuf },
    #[error("--tid goes with a process that is running, not with a command; use --comm or leave it out")]
    TidOfCommand,
    #[error("the kernel keeps {MAX_COMM_BYTES} bytes of a thread's name; use --comm {kept}")]
    LongComm { kept: String },
    #[error("--source {0} says what is there at the end, without ages and moments; leave one of the options out")]
    SourceHasNot(&'static str),
    #[error(
        "--exact follows every call in chosen processes: give pids (-p 4242) or a command; -a without it shows all processes"
    )]
    ExactOfAll,
    #[error("the ending of {} names no format: use .pstats, .json or .csv, or choose with -f", path.display())]
    UnknownEndingOfCalls { path: PathBuf },
    #[error("the ending of {} names no format: use .txt, .csv or .json for the table, {} for the stacks, or choose with -f", path.display(), KnownEndings)]
    UnknownEndingOfMemory { path: PathBuf },
    #[error("--older-than {} in a recording of {}: nothing can be that old; record longer with -d, or ask for less",
        humanize::duration(*older_than), humanize::duration(*length))]
    OlderThanRecording { older_than: Duration, length: Duration },
    #[error("--comm needs a name, as in /proc/PID/comm")]
    EmptyComm,
    #[error("{hertz} is not a possible rate: use -r with {} to {} Hz", RATES_HZ.start(), RATES_HZ.end())]
    RateOutOfRange { hertz: u64 },
    #[error("the ending of {} names no format: use {}, or choose with -f", path.display(), KnownEndings)]
    UnknownEnding { path: PathBuf },
    #[error("--every writes a file for each window: name a directory for them with -o")]
    WindowsWithoutDirectory,
    #[error("--every writes pprof files, from which `go tool pprof` makes the others; leave -f {0} out")]
    FormatOfWindows(&'static str),
    #[error("--every replaces no files; leave --force out")]
    ForceOfWindows,
    #[error("windows of {} are too short; use --every 1s or more", humanize::duration(*every))]
    ShortWindow { every: Duration },
}

impl ConfigError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoTarget
            | Self::ManyTargets(..)
            | Self::StdoutTwice(..)
            | Self::SameFile { .. }
            | Self::UnknownEndingOfCurve { .. }
            | Self::NameForPid { .. }
            | Self::TidOfCommand
            | Self::ExactOfAll
            | Self::UnknownEndingOfCalls { .. }
            | Self::UnknownEndingOfMemory { .. }
            | Self::OlderThanRecording { .. }
            | Self::SourceHasNot(_)
            | Self::LongComm { .. }
            | Self::EmptyComm
            | Self::RateOutOfRange { .. }
            | Self::WindowsWithoutDirectory
            | Self::FormatOfWindows(_)
            | Self::ForceOfWindows
            | Self::ShortWindow { .. }
            | Self::UnknownEnding { .. } => exit::USAGE,
        }
    }
}

impl Config {
    pub fn from_cli(typed: Record) -> Result<Self, ConfigError> {
        // Every field is named, so that a new option cannot be forgotten here.
        let Record {
            common,
            rate,
            no_kernel,
            native,
            merge_workers,
            every,
            keep,
            trigger,
            probe,
            format,
        } = typed;
        let rate_hz = rate_hz(rate)?;
        let config = Self::common(common)?;
        let windows = every
            .map(|every| windows(every, keep, trigger, format, &config.output))
            .transpose()?;
        let format = format.or(windows.is_some().then_some(Format::Pprof));
        let format = match (format, &config.output) {
            (Some(format), _) => format,
            (None, output) if !says_format(output) => DEFAULT_FORMAT,
            (None, OutputChoice::File { path, .. }) => {
                Format::from_path(path).ok_or_else(|| ConfigError::UnknownEnding { path: path.clone() })?
            }
            (None, OutputChoice::Stdout | OutputChoice::ByDefault { .. }) => DEFAULT_FORMAT,
        };
        let config = Self {
            rate_hz,
            period_ns: period_ns(rate_hz),
            kernel_stacks: !no_kernel,
            native_frames: native,
            merge_workers,
            probe,
            format,
            windows,
            ..config
        };
        config.with_outputs_apart()
    }

    /// What `profiler memory …` means.
    pub fn from_memory_cli(typed: Memory) -> Result<Self, ConfigError> {
        let Memory {
            common,
            by,
            top,
            source,
            live,
            allocated,
            leaks,
            older_than,
            peak,
            temporary,
            every,
            curve,
            base,
            exact,
            max_overhead,
            native,
            max_live,
            temporary_within,
            format,
        } = typed;
        let mut config = Self::common(common)?;
        let format = match (format, &config.output) {
            (Some(format), _) => format,
            (None, output) if !says_format(output) => MemoryFormat::Text,
            (None, OutputChoice::File { path, .. }) => MemoryFormat::from_path(path)
                .ok_or_else(|| ConfigError::UnknownEndingOfMemory { path: path.clone() })?,
            (None, OutputChoice::Stdout | OutputChoice::ByDefault { .. }) => MemoryFormat::Text,
        };
        if let OutputChoice::ByDefault { .. } = config.output
            && format.is_table()
        {
            config.output = OutputChoice::Stdout;
        }
        config.format = format.stacks().unwrap_or(DEFAULT_FORMAT);
        if exact && matches!(config.target, Target::All) {
            return Err(ConfigError::ExactOfAll);
        }
        if exact {
            // Unwinding takes longer than all the rest of what is done at an allocation.
            config.native_stacks = native;
        }
        if let (Some(older_than), Some(length)) = (older_than, config.duration)
            && older_than >= length
        {
            return Err(ConfigError::OlderThanRecording { older_than, length });
        }
        if let Some(path) = &curve
            && !matches!(
                path.extension().and_then(|ending| ending.to_str()),
                Some("csv" | "json")
            )
        {
            return Err(ConfigError::UnknownEndingOfCurve { path: path.clone() });
        }
        let older_than = older_than.or(leaks.then_some(Duration::ZERO));
        match source {
            MemorySource::Pools if peak || temporary || older_than.is_some() || every.is_some() => {
                return Err(ConfigError::SourceHasNot("pools"));
            }
            MemorySource::Mapped if older_than.is_some() || every.is_some() => {
                return Err(ConfigError::SourceHasNot("mapped"));
            }
            MemorySource::Resident | MemorySource::Pools | MemorySource::Mapped => {}
        }
        config.memory = Some(MemoryConfig {
            by,
            top,
            source,
            shown: match (older_than, peak, temporary) {
                (Some(age), ..) => Wanted::Leaks { older_than: age },
                (None, true, _) => Wanted::Peak,
                (None, false, true) => Wanted::Temporary,
                (None, false, false) if allocated => Wanted::Allocated,
                // What a command had is given back when it ends: of that nothing would be left to show.
                (None, false, false)
                    if !live && source == MemorySource::Resident && matches!(config.target, Target::Command(_)) =>
                {
                    Wanted::Peak
                }
                (None, false, false) => Wanted::Live,
            },
            every,
            curve,
            base,
            exact: exact.then_some(Exact {
                max_overhead: max_overhead.unwrap_or(DEFAULT_MAX_OVERHEAD),
                max_live,
                temporary_within,
            }),
            format,
        });
        config.with_outputs_apart()
    }

    /// What `profiler calls …` means.
    pub fn from_calls_cli(typed: Calls) -> Result<Self, ConfigError> {
        let Calls {
            common,
            functions,
            per,
            via,
            max_overhead,
            duty,
            rate,
            sort,
            top,
            format,
        } = typed;
        let rate_hz = rate_hz(rate)?;
        let mut config = Self::common(common)?;
        let format = match (format, &config.output) {
            (Some(format), _) => Some(format),
            (None, OutputChoice::File { path, .. }) if says_format(&config.output) => {
                let format = CallsFormat::from_path(path);
                Some(format.ok_or_else(|| ConfigError::UnknownEndingOfCalls { path: path.clone() })?)
            }
            (None, _) => None,
        };
        if let OutputChoice::ByDefault { .. } = config.output {
            config.output = OutputChoice::Stdout;
        }
        // Times are told by Python functions.
        config.native_stacks = false;
        config.calls = Some(CallsConfig {
            functions,
            per,
            via,
            max_overhead: max_overhead.unwrap_or(DEFAULT_MAX_OVERHEAD_OF_CALLS),
            whole_at_first: max_overhead.is_none() && duty.is_none() && matches!(config.target, Target::Command(_)),
            duty,
            sort,
            top,
            format,
        });
        let config = Self {
            rate_hz,
            period_ns: period_ns(rate_hz),
            ..config
        };
        config.with_outputs_apart()
    }

    /// What `profiler waits …` means.
    pub fn from_waits_cli(typed: Waits) -> Result<Self, ConfigError> {
        let Waits {
            common,
            by,
            top,
            no_kernel,
            format,
        } = typed;
        let mut config = Self::common(common)?;
        let format = match (format, &config.output) {
            (Some(format), _) => format,
            (None, output) if !says_format(output) => WaitsFormat::Text,
            (None, OutputChoice::File { path, .. }) => {
                WaitsFormat::from_path(path).ok_or_else(|| ConfigError::UnknownEndingOfMemory { path: path.clone() })?
            }
            (None, OutputChoice::Stdout | OutputChoice::ByDefault { .. }) => WaitsFormat::Text,
        };
        if let OutputChoice::ByDefault { .. } = config.output
            && format.is_table()
        {
            config.output = OutputChoice::Stdout;
        }
        config.format = format.stacks().unwrap_or(DEFAULT_FORMAT);
        config.kernel_stacks = !no_kernel;
        config.waits = Some(WaitsConfig { by, top, format });
        config.with_outputs_apart()
    }

    /// Refuses to write two things into one file.
    fn with_outputs_apart(self) -> Result<Self, ConfigError> {
        let mut taken: Vec<(&'static str, OutputTarget)> = Vec::new();
        match &self.output {
            OutputChoice::Stdout => taken.push(("the profile (-o)", OutputTarget::Stdout)),
            OutputChoice::File { path, .. } => taken.push(("-o", OutputTarget::replacing(path))),
            OutputChoice::ByDefault { .. } => {}
        }
        let curve = self.memory.as_ref().and_then(|memory| memory.curve.as_deref());
        for (option, path) in [("--curve", curve), ("--summary-json", self.summary_json.as_deref())] {
            let Some(target) = path.map(OutputTarget::replacing) else {
                continue;
            };
            match (taken.iter().find(|(_, other)| *other == target), &target) {
                (Some((other, _)), OutputTarget::Stdout) => return Err(ConfigError::StdoutTwice(other, option)),
                // What a device, or a pipe of /dev/fd, does with two is its affair.
                (Some((other, _)), OutputTarget::File { path, .. }) if !path.starts_with("/dev") => {
                    return Err(ConfigError::SameFile {
                        path: path.clone(),
                        options: (other, option),
                    });
                }
                _ => taken.push((option, target)),
            }
        }
        Ok(self)
    }

    /// The part that every kind of recording has; the rest as by default.
    fn common(typed: Common) -> Result<Self, ConfigError> {
        let Common {
            positional_pids,
            pids,
            all,
            command,
            subprocesses,
            tids,
            comm,
            cgroup,
            duration,
            no_native,
            output,
            force,
            threads,
            quiet,
            verbose,
            summary_json,
        } = typed;
        let restricted = !tids.is_empty() || comm.is_some() || cgroup.is_some();
        let target = target(numbers(pids)?, numbers(positional_pids)?, all, command, restricted)?;
        if !tids.is_empty() && matches!(target, Target::Command(_)) {
            return Err(ConfigError::TidOfCommand);
        }
        if let Some(comm) = &comm {
            check_comm(comm)?;
        }
        let output = match output {
            None => OutputChoice::ByDefault { force },
            Some(path) if is_stdout(&path) => OutputChoice::Stdout,
            Some(path) => OutputChoice::File { path, force },
        };
        Ok(Self {
            target,
            subprocesses,
            tids: without_repeats(tids),
            comm,
            cgroup,
            rate_hz: DEFAULT_RATE_HZ,
            period_ns: period_ns(DEFAULT_RATE_HZ),
            duration: duration.and_then(|limit| match limit {
                Limit::Unlimited => None,
                Limit::After(length) => Some(length),
            }),
            kernel_stacks: false,
            native_stacks: !no_native,
            native_frames: NativeFrames::default(),
            probe: None,
            output,
            format: DEFAULT_FORMAT,
            windows: None,
            memory: None,
            calls: None,
            waits: None,
            threads,
            merge_workers: false,
            summary_json,
            verbosity: match (quiet, verbose) {
                (true, _) => Verbosity::Quiet,
                (false, 0) => Verbosity::Normal,
                (false, 1) => Verbosity::Verbose,
                (false, _) => Verbosity::Debug,
            },
        })
    }

    /// Where the profile goes, now that a command has its pid. `proc` is /proc; `now` names the file.
    pub fn output_target(&self, command_pid: Option<u32>, proc: &Path, now: SystemTime) -> OutputTarget {
        match &self.output {
            OutputChoice::Stdout => OutputTarget::Stdout,
            OutputChoice::File { path, force } => OutputTarget::File {
                path: path.clone(),
                force: *force,
            },
            OutputChoice::ByDefault { force } => {
                let subject = match (&self.target, command_pid) {
                    (Target::Pids(pids), _) => pids.first().map(|&pid| (comm::of(proc, pid), pid)),
                    (Target::Command(command), Some(pid)) => Some((program_name(command), pid)),
                    (Target::Command(_), None) | (Target::All, _) => None,
                };
                let time = local_time(now);
                let ending = self.format.extension();
                let name = match subject {
                    Some((comm, pid)) => format!("{}-{pid}-{time}.{ending}", file_name_part(&comm)),
                    None => format!("system-{time}.{ending}"),
                };
                OutputTarget::File {
                    path: PathBuf::from(name),
                    force: *force,
                }
            }
        }
    }
}

/// Exactly one of pids, the machine and a command; a restriction alone means the machine.
fn target(
    mut pids: Vec<u32>,
    positional_pids: Vec<u32>,
    all: bool,
    command: Vec<OsString>,
    restricted: bool,
) -> Result<Target, ConfigError> {
    pids.extend(positional_pids);
    match (pids.is_empty(), all, command.is_empty()) {
        (false, false, true) => Ok(Target::Pids(without_repeats(pids))),
        (true, true, true) => Ok(Target::All),
        (true, false, false) => Ok(Target::Command(command)),
        (true, false, true) if restricted => Ok(Target::All),
        (true, false, true) => Err(ConfigError::NoTarget),
        (false, true, _) => Err(ConfigError::ManyTargets("a pid", "-a")),
        (false, false, false) => Err(ConfigError::ManyTargets("a pid", "a command")),
        (true, true, false) => Err(ConfigError::ManyTargets("-a", "a command")),
    }
}

/// What `--every` asks for, if that goes together.
fn windows(
    every: Duration,
    keep: u32,
    trigger: Option<PathBuf>,
    format: Option<Format>,
    output: &OutputChoice,
) -> Result<Windows, ConfigError> {
    if every < SHORTEST_WINDOW {
        return Err(ConfigError::ShortWindow { every });
    }
    if let Some(format) = format.filter(|&format| format != Format::Pprof) {
        return Err(ConfigError::FormatOfWindows(format.name()));
    }
    let directory = match output {
        OutputChoice::File { force: true, .. } | OutputChoice::ByDefault { force: true } => {
            return Err(ConfigError::ForceOfWindows);
        }
        OutputChoice::File { path, .. } => path.clone(),
        OutputChoice::Stdout | OutputChoice::ByDefault { .. } => return Err(ConfigError::WindowsWithoutDirectory),
    };
    Ok(Windows {
        every,
        last: usize::try_from(keep).unwrap_or(usize::MAX),
        directory,
        trigger,
    })
}

/// Pids; for a name, those that may be meant.
fn numbers(words: Vec<ProcessWord>) -> Result<Vec<u32>, ConfigError> {
    let number = |word| match word {
        ProcessWord::Pid(pid) => Ok(pid),
        ProcessWord::Name(name) => Err(ConfigError::NameForPid {
            offer: who::offer(Path::new("/proc"), &name),
        }),
    };
    words.into_iter().map(number).collect()
}

fn without_repeats(ids: Vec<u32>) -> Vec<u32> {
    let mut kept = Vec::with_capacity(ids.len());
    for id in ids {
        if !kept.contains(&id) {
            kept.push(id);
        }
    }
    kept
}

fn check_comm(comm: &OsStr) -> Result<(), ConfigError> {
    if comm.is_empty() {
        return Err(ConfigError::EmptyComm);
    }
    match comm.as_bytes().get(..MAX_COMM_BYTES) {
        Some(kept) if kept.len() < comm.len() => Err(ConfigError::LongComm { kept: shell_word(kept) }),
        _ => Ok(()),
    }
}

/// Bytes as a shell takes them: in quotes, and as bash and zsh write it (`$'…'`) what is no text. The kernel cuts names
/// in the middle of a character.
fn shell_word(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if !text.contains(|c: char| c.is_control() || c == '\'') => format!("'{text}'"),
        _ => {
            let mut word = "$'".to_owned();
            for chunk in bytes.utf8_chunks() {
                for c in chunk.valid().chars() {
                    match c {
                        '\'' | '\\' => word.extend(['\\', c]),
                        _ if c.is_ascii_control() => word.push_str(&format!("\\x{:02x}", u32::from(c))),
                        _ => word.push(c),
                    }
                }
                for byte in chunk.invalid() {
                    word.push_str(&format!("\\x{byte:02x}"));
                }
            }
            word.push('\'');
            word
        }
    }
}

fn rate_hz(typed: u64) -> Result<u32, ConfigError> {
    u32::try_from(typed)
        .ok()
        .filter(|hertz| RATES_HZ.contains(hertz))
        .ok_or(ConfigError::RateOutOfRange { hertz: typed })
}

/// Rounded to the nearest.
fn period_ns(rate_hz: u32) -> u64 {
    let rate = u64::from(rate_hz.max(1));
    (1_000_000_000 + rate / 2) / rate
}

/// The endings [`Format::from_path`] knows, for a message.
struct KnownEndings;

impl fmt::Display for KnownEndings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third, last] =
            [Format::Svg, Format::Folded, Format::Speedscope, Format::Pprof].map(Format::extension);
        write!(f, ".{first}, .{second}, .{third} or .{last}")
    }
}

fn program_name(command: &[OsString]) -> String {
    let name = command.first().and_then(|program| Path::new(program).file_name());
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A name someone else chose, made safe and short for a file's name: it can hold slashes, spaces, newlines, escape
/// sequences, or start with a dash.
fn file_name_part(comm: &str) -> String {
    let safe: String = comm
        .chars()
        .take(32)
        .map(|c| {
            if c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+') {
                c
            } else {
                '_'
            }
        })
        .collect();
    let safe = safe.trim_start_matches(['-', '.']);
    if safe.is_empty() {
        "process".to_owned()
    } else {
        safe.to_owned()
    }
}

/// `20261121-101500` in the user's time zone.
fn local_time(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = libc::time_t::try_from(seconds).unwrap_or_default();
    let mut time = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live variables of the right types. localtime_r reads TZ from the environment, which
    // this program never changes.
    let found = unsafe { libc::localtime_r(&raw const seconds, time.as_mut_ptr()) };
    if found.is_null() {
        // A year beyond 32 bits. Seconds are as good a name as any.
        return seconds.to_string();
    }
    // SAFETY: `tm` is integers and a pointer, for which the zeroes it started with are a value.
    let time = unsafe { time.assume_init() };
    format!(
        "{:04}{:02}{:02}-{:02}{:02}{:02}",
        i64::from(time.tm_year) + 1900,
        time.tm_mon + 1,
        time.tm_mday,
        time.tm_hour,
        time.tm_min,
        time.tm_sec,
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser as _;
    use proptest::prelude::*;

    use super::*;
    use crate::cli::{Cli, Command};

    fn config(line: &str) -> Result<Config, ConfigError> {
        let words = ["profiler", "record"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Record(record) => Config::from_cli(record),
            _ => unreachable!("`record` was typed"),
        }
    }

    #[test]
    fn nothing_typed_gets_every_default() {
        let expected = Config {
            target: Target::All,
            subprocesses: false,
            tids: vec![],
            comm: None,
            cgroup: None,
            rate_hz: 99,
            period_ns: 10_101_010,
            duration: None,
            kernel_stacks: true,
            native_stacks: true,
            native_frames: NativeFrames::default(),
            probe: None,
            output: OutputChoice::ByDefault { force: false },
            format: Format::Svg,
            windows: None,
            memory: None,
            calls: None,
            waits: None,
            threads: false,
            merge_workers: false,
            verbosity: Verbosity::Normal,
            summary_json: None,
        };
        assert_eq!(config("-a"), Ok(expected));
    }

    #[test]
    fn windows_need_a_directory_and_what_does_not_go_with_them_is_refused_with_what_to_do() {
        let wanted = config("-a --every 60s -o windows").unwrap();
        let windows = wanted.windows.unwrap();
        assert_eq!((windows.every, windows.last), (Duration::from_secs(60), 60));
        assert_eq!(
            (windows.directory, wanted.format),
            (PathBuf::from("windows"), Format::Pprof)
        );
        let last = |line: &str| config(line).map(|config| config.windows.map(|windows| windows.last));
        assert_eq!(last("-p 1 --every 1s --keep 5 -f pprof -o d"), Ok(Some(5)));
        assert_eq!(last("-a"), Ok(None));
        for line in [
            "-a --every 60s",
            "-a --every 60s -o -",
            "-a --every 60s -f svg -o d",
            "-a --every 60s --force -o d",
            "-a --every 500ms -o d",
        ] {
            let error = config(line).unwrap_err();
            assert_eq!(error.exit_code(), exit::USAGE);
            let text = error.to_string();
            assert!(
                ["-o", "leave", "use"].iter().any(|remedy| text.contains(remedy)),
                "{line}: {text}"
            );
        }
        let typed = |line: &str| Cli::try_parse_from(["profiler", "record"].into_iter().chain(line.split_whitespace()));
        for line in ["-a --keep 5", "-a --trigger f", "-a --every 1s --keep 0 -o d"] {
            assert!(typed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn of_a_command_the_peak_is_shown_and_of_all_else_what_is_there() {
        let shown = |line: &str| {
            let words = ["profiler", "memory"].into_iter().chain(line.split_whitespace());
            match Cli::try_parse_from(words).unwrap().command {
                Command::Memory(memory) => Config::from_memory_cli(memory).unwrap().memory.unwrap().shown,
                _ => unreachable!("`memory` was typed"),
            }
        };
        for line in ["-p 1", "-a", "--live -- true", "--source pools -- true"] {
            assert_eq!(shown(line), Wanted::Live, "{line}");
        }
        assert_eq!(shown("-- true"), Wanted::Peak);
        assert_eq!(shown("--allocated -- true"), Wanted::Allocated);
    }

    #[test]
    fn pids_typed_in_any_way_are_one_list_without_repeats() {
        assert_eq!(config("-p 5,6 -p 5 7 6").unwrap().target, Target::Pids(vec![5, 6, 7]));
    }

    #[test]
    fn one_target_is_needed_and_two_are_too_many() {
        assert_eq!(config(""), Err(ConfigError::NoTarget));
        assert_eq!(config("-a -p 1"), Err(ConfigError::ManyTargets("a pid", "-a")));
        assert_eq!(
            config("-p 1 -- true"),
            Err(ConfigError::ManyTargets("a pid", "a command"))
        );
        assert_eq!(config("-a -- true"), Err(ConfigError::ManyTargets("-a", "a command")));
        assert_eq!(config("").unwrap_err().exit_code(), exit::USAGE);
    }

    #[test]
    fn a_restriction_alone_means_the_whole_machine() {
        for line in ["--tid 5", "--comm python3", "--cgroup /sys/fs/cgroup/system.slice"] {
            assert_eq!(config(line).unwrap().target, Target::All, "{line}");
        }
        assert_eq!(config("--comm python3 -p 1").unwrap().target, Target::Pids(vec![1]));
        assert_eq!(config("--tid 5 -- true"), Err(ConfigError::TidOfCommand));
    }

    #[test]
    fn a_rate_of_zero_or_an_absurd_one_is_refused_with_the_range() {
        for line in ["-a -r 0", "-a -r 20001", "-a -r 21khz", "-a -r 99999999999999999999"] {
            let error = config(line).unwrap_err();
            assert!(error.to_string().ends_with("use -r with 1 to 20000 Hz"), "{error}");
            assert_eq!(error.exit_code(), exit::USAGE);
        }
        assert_eq!(config("-a -r 1").unwrap().period_ns, 1_000_000_000);
        assert_eq!(config("-a -r 20khz").unwrap().period_ns, 50_000);
        assert_eq!(config("-a -r 999").unwrap().period_ns, 1_001_001);
    }

    #[test]
    fn the_ending_chooses_the_format_and_f_overrides_it() {
        assert_eq!(config("-a -o x.pb.gz").unwrap().format, Format::Pprof);
        assert_eq!(config("-a -o x.speedscope.json").unwrap().format, Format::Speedscope);
        assert_eq!(config("-a -o x.svg -f folded").unwrap().format, Format::Folded);
        assert_eq!(config("-a -o -").unwrap().format, Format::Svg);
        assert_eq!(config("-a -o /dev/null").unwrap().format, Format::Svg);
        assert_eq!(config("-a -o x.png -f svg").unwrap().format, Format::Svg);
    }

    #[test]
    fn an_unknown_ending_is_answered_with_the_known_ones() {
        let error = config("-a -o flame.png").unwrap_err();
        assert_eq!(error.exit_code(), exit::USAGE);
        let text = error.to_string();
        for part in ["flame.png", ".svg", ".folded", ".speedscope.json", ".pb.gz", "-f"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_dash_and_dev_stdout_are_standard_output() {
        assert_eq!(config("-a -o -").unwrap().output, OutputChoice::Stdout);
        assert_eq!(config("-a -o /dev/stdout").unwrap().output, OutputChoice::Stdout);
    }

    #[test]
    fn two_things_never_go_to_one_place() {
        let memory = |line: &str| {
            let words = ["profiler", "memory", "-a"].into_iter().chain(line.split_whitespace());
            match Cli::try_parse_from(words).unwrap().command {
                Command::Memory(memory) => Config::from_memory_cli(memory),
                _ => unreachable!("`memory` was typed"),
            }
        };
        for error in [
            config("-a -o - --summary-json -").unwrap_err(),
            config("-a -o /dev/stdout --summary-json -").unwrap_err(),
            // The table goes there by itself.
            memory("--summary-json -").unwrap_err(),
            config("-a -o x.svg --summary-json x.svg").unwrap_err(),
            memory("--every 1s --curve x.json --summary-json x.json").unwrap_err(),
            memory("-o x.csv --every 1s --curve x.csv").unwrap_err(),
            memory("--every 1s --curve x.png").unwrap_err(),
        ] {
            assert_eq!(error.exit_code(), exit::USAGE, "{error}");
        }
        config("-a --summary-json -").unwrap();
        config("-a -o x.svg --summary-json x.json").unwrap();
        config("-a -f svg -o /dev/null --summary-json /dev/null").unwrap();
        memory("-o x.csv --every 1s --curve y.csv --summary-json -").unwrap();
    }

    #[test]
    fn a_name_the_kernel_would_cut_is_refused_with_what_it_keeps() {
        let error = config("--comm gunicorn-worker-7").unwrap_err().to_string();
        assert!(error.contains("--comm 'gunicorn-worker'"), "{error}");
        // 14 bytes and a letter of two, of which the kernel keeps one byte.
        assert_eq!(
            config("--comm 12345678901234äb"),
            Err(ConfigError::LongComm {
                kept: r"$'12345678901234\xc3'".into()
            })
        );
        let kept = config(r"--comm обработчик").unwrap_err().to_string();
        assert!(kept.ends_with(r"--comm $'обработ\xd1'"), "{kept}");
        assert_eq!(shell_word(b"it's\n"), r"$'it\'s\x0a'");
        assert!(config("--comm 123456789012345").is_ok());
    }

    #[test]
    fn the_default_name_has_the_process_the_pid_and_the_time() {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir(proc.path().join("4242")).unwrap();
        fs::write(proc.path().join("4242/comm"), "my worker/1\n").unwrap();
        let name = |line: &str, command_pid| {
            let OutputTarget::File { path, force: false } = config(line).unwrap().output_target(
                command_pid,
                proc.path(),
                UNIX_EPOCH + Duration::from_secs(86_400 * 365),
            ) else {
                panic!("a default name is a file's, and overwrites nothing");
            };
            path.into_os_string().into_string().unwrap()
        };
        // The time zone is the machine's: digits are all that can be asked for.
        let shape = |name: &str| name.replace(|c: char| c.is_ascii_digit(), "9");
        assert!(
            name("-p 4242,1", None).starts_with("my_worker_1-4242-19"),
            "{}",
            name("-p 4242,1", None)
        );
        assert_eq!(shape(&name("-p 4242", None)), "my_worker_9-9999-99999999-999999.svg");
        assert_eq!(shape(&name("-a -f pprof", None)), "system-99999999-999999.pb.gz");
        assert_eq!(
            shape(&name("-- /usr/bin/python3 app.py", Some(77))),
            "python9-99-99999999-999999.svg"
        );
        assert_eq!(shape(&name("-p 999", None)), "process-999-99999999-999999.svg");
    }

    #[test]
    fn verbosity_follows_q_and_v() {
        assert_eq!(config("-a -q").unwrap().verbosity, Verbosity::Quiet);
        assert_eq!(config("-a -v").unwrap().verbosity, Verbosity::Verbose);
        assert_eq!(config("-a -vvv").unwrap().verbosity, Verbosity::Debug);
    }

    #[test]
    fn what_a_recording_is_too_short_for_is_refused_before_it() {
        let leaks = |duration, older_than: &str| {
            let line = ["profiler", "memory", "-a", "-d", duration, "--older-than", older_than];
            let Command::Memory(typed) = Cli::try_parse_from(line).unwrap().command else {
                panic!("memory was asked for");
            };
            Config::from_memory_cli(typed)
        };
        let error = leaks("1s", "5s").unwrap_err();
        assert_eq!(error.exit_code(), exit::USAGE);
        assert!(
            error
                .to_string()
                .starts_with("--older-than 5.0 s in a recording of 1.0 s: "),
            "{error}"
        );
        assert!(leaks("5s", "5s").is_err());
        assert!(leaks("6s", "5s").is_ok());
        assert!(leaks("unlimited", "5s").is_ok());
    }

    #[test]
    fn durations_pass_through_and_unlimited_is_none() {
        assert_eq!(config("-a -d 1m30s").unwrap().duration, Some(Duration::from_secs(90)));
        assert_eq!(config("-a -d unlimited").unwrap().duration, None);
    }

    proptest! {
        #[test]
        fn any_name_makes_a_file_name_that_stays_in_its_directory(comm in ".*") {
            let part = file_name_part(&comm);
            prop_assert!(!part.is_empty() && part.chars().count() <= 32);
            prop_assert!(!part.contains(|c: char| c == '/' || c.is_control() || c.is_whitespace()));
            prop_assert!(!part.starts_with(['-', '.']));
        }

        #[test]
        fn any_rate_in_range_has_a_period_that_gives_it_back(rate_hz in RATES_HZ) {
            prop_assert_eq!((1_000_000_000 + period_ns(rate_hz) / 2) / period_ns(rate_hz), u64::from(rate_hz));
        }
    }
}
