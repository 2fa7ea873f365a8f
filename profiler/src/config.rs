//! What is meant: the settings of one recording, checked against each other, with every default filled in.
//!
//! The only place with defaults; `cli` quotes them. Nothing here looks at the machine, except that the default name of
//! the output asks /proc for a process's name, and that who types a name for a pid is told the pids of that name.

mod calls;
mod comm;
mod error;
mod exceptions;
mod gc;
mod imports;
mod memory;
mod objects;
mod output;
#[cfg(test)]
mod tests;
mod waits;
mod windows;

use std::{
    ffi::OsString,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

pub use self::calls::{CallsConfig, CallsFormat, Sort, Via};
pub use self::error::ConfigError;
pub use self::exceptions::ExceptionsConfig;
pub use self::gc::GcConfig;
pub use self::imports::{ImportsConfig, ImportsFormat};
pub use self::memory::{Exact, MemoryConfig, MemoryFormat, MemorySource, Sampled, Wanted};
pub use self::objects::{ObjectsBy, ObjectsConfig, ObjectsFormat};
pub use self::output::{OutputChoice, OutputTarget};
pub use self::waits::{WaitsBy, WaitsConfig, WaitsFormat};
use self::{
    comm::check_comm,
    output::{is_stdout, says_format},
    windows::{not_pprof, windows},
};
pub use crate::cli::{Place, Probe};
pub use crate::report::memory::group::By as GroupBy;
use crate::{
    cli::{Common, Flight, Limit, ProcessWord, Record},
    flight::Windows,
    process::who,
    report::Format,
    why::WhyConfig,
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
/// Of `memory --sampled`: one sample in so many bytes.
pub const DEFAULT_BYTES_PER_SAMPLE: &str = "512k";

/// How many times slower exact mode may make a program.
pub const DEFAULT_MAX_OVERHEAD: f64 = 2.0;

/// The same of counting calls.
pub const DEFAULT_MAX_OVERHEAD_OF_CALLS: f64 = 1.5;

/// Which native frames are shown beside Python ones.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NativeFrames {
    /// Those that do work
    #[default]
    Work,
    /// All of them
    Full,
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
    /// Exceptions are counted.
    pub exceptions: Option<ExceptionsConfig>,
    /// Imports are timed.
    pub imports: Option<ImportsConfig>,
    /// Garbage collections are.
    pub gc: Option<GcConfig>,
    /// CPU time is sampled and waits are followed, for one picture of both.
    pub wall: bool,
    /// Everything is looked at, for an answer.
    pub why: Option<WhyConfig>,
    /// Several things are, for weeks.
    pub agent: Option<AgentConfig>,
    /// Of CPU time, only what was used by whoever had the GIL.
    pub gil: bool,
    /// Split stacks by thread.
    pub threads: bool,
    /// Show equal workers as one.
    pub merge_workers: bool,
    /// Pages have the text of the program's files.
    pub with_source: bool,
    pub verbosity: Verbosity,
    /// Where the closing summary goes as JSON, besides standard error.
    pub summary_json: Option<PathBuf>,
}

/// What an agent measures besides `waits` and `memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    pub cpu: bool,
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

impl Config {
    pub fn from_cli(typed: Record) -> Result<Self, ConfigError> {
        // Every field is named, so that a new option cannot be forgotten here.
        let Record {
            common,
            rate,
            no_kernel,
            native,
            merge_workers,
            with_source,
            flight: Flight { every, kept },
            probe,
            format,
            wall,
            gil,
        } = typed;
        let rate_hz = rate_hz(rate)?;
        let config = Self::common(common)?;
        let windows = every
            .map(|every| windows(every, kept, format.map(Format::name).filter(not_pprof), &config.output))
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
            wall,
            gil,
            ..config
        };
        config.with_source(with_source, Some(format))?.with_outputs_apart()
    }

    /// Whether windows are measured, one after the other.
    pub fn is_cut(&self) -> bool {
        self.windows.is_some() || self.agent.is_some()
    }

    /// `--with-source`, if what is written has room for it.
    fn with_source(self, with_source: bool, format: Option<Format>) -> Result<Self, ConfigError> {
        if with_source && self.windows.is_some() {
            return Err(ConfigError::SourceOfWindows);
        }
        if with_source && !matches!(format, Some(Format::Html | Format::Pprof)) {
            return Err(ConfigError::SourceWithoutPage);
        }
        Ok(Self { with_source, ..self })
    }

    /// The command, if it is one of those that look at exceptions, imports or garbage collections.
    pub fn sees_marks(&self) -> Option<&'static str> {
        match (&self.exceptions, &self.imports, &self.gc) {
            (Some(_), ..) => Some("profiler exceptions"),
            (None, Some(_), _) => Some("profiler imports"),
            (None, None, Some(_)) => Some("profiler gc"),
            (None, None, None) => None,
        }
    }

    /// The format of a table or of stacks: as typed, or by the name of the output. A table goes to standard output by default.
    fn table_format(&mut self, typed: Option<MemoryFormat>) -> Result<MemoryFormat, ConfigError> {
        let format = match (typed, &self.output) {
            (Some(format), _) => format,
            (None, output) if !says_format(output) => MemoryFormat::Text,
            (None, OutputChoice::File { path, .. }) => MemoryFormat::from_path(path)
                .ok_or_else(|| ConfigError::UnknownEndingOfMemory { path: path.clone() })?,
            (None, OutputChoice::Stdout | OutputChoice::ByDefault { .. }) => MemoryFormat::Text,
        };
        if let OutputChoice::ByDefault { .. } = self.output
            && format.is_table()
        {
            self.output = OutputChoice::Stdout;
        }
        self.format = format.stacks().unwrap_or(DEFAULT_FORMAT);
        Ok(format)
    }

    /// Refuses to write two things into one file.
    pub(crate) fn with_outputs_apart(self) -> Result<Self, ConfigError> {
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

    /// The whole machine, with nothing measured yet.
    pub(crate) fn of_the_machine(rate_hz: u32) -> Self {
        Self {
            rate_hz,
            period_ns: period_ns(rate_hz),
            kernel_stacks: true,
            format: Format::Folded,
            ..Self::by_default(Target::All)
        }
    }

    /// The part that every kind of recording has; the rest as by default.
    pub(crate) fn common(typed: Common) -> Result<Self, ConfigError> {
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
            subprocesses,
            tids: without_repeats(tids),
            comm,
            cgroup,
            duration: duration.and_then(|limit| match limit {
                Limit::Unlimited => None,
                Limit::After(length) => Some(length),
            }),
            native_stacks: !no_native,
            output,
            threads,
            summary_json,
            verbosity: match (quiet, verbose) {
                (true, _) => Verbosity::Quiet,
                (false, 0) => Verbosity::Normal,
                (false, 1) => Verbosity::Verbose,
                (false, _) => Verbosity::Debug,
            },
            ..Self::by_default(target)
        })
    }

    fn by_default(target: Target) -> Self {
        Self {
            target,
            subprocesses: false,
            tids: Vec::new(),
            comm: None,
            cgroup: None,
            rate_hz: DEFAULT_RATE_HZ,
            period_ns: period_ns(DEFAULT_RATE_HZ),
            duration: None,
            kernel_stacks: false,
            native_stacks: true,
            native_frames: NativeFrames::default(),
            probe: None,
            output: OutputChoice::ByDefault { force: false },
            format: DEFAULT_FORMAT,
            windows: None,
            memory: None,
            calls: None,
            waits: None,
            exceptions: None,
            imports: None,
            gc: None,
            wall: false,
            why: None,
            agent: None,
            gil: false,
            threads: false,
            merge_workers: false,
            with_source: false,
            summary_json: None,
            verbosity: Verbosity::Normal,
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

/// Pids; for a name, those that may be meant.
pub(crate) fn numbers(words: Vec<ProcessWord>) -> Result<Vec<u32>, ConfigError> {
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
