//! What `memory` is to find out.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Config, ConfigError, DEFAULT_MAX_OVERHEAD, GroupBy, Target,
    output::names_directory,
    windows::{not_pprof, windows},
};
use crate::{cli::Memory, report::Format};

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
    /// All objects are looked at before and after.
    pub objects: bool,
    pub exact: Option<Exact>,
    pub sampled: Option<Sampled>,
    /// Lines are drawn by hardware watchpoints, whose stops may take this share of the process's own CPU time.
    pub watchpoints: Option<f64>,
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

/// A sampled heap: the only mode that writes to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Between two samples, on average.
    pub bytes_per_sample: u64,
    /// The user has agreed already.
    pub yes: bool,
}

impl Sampled {
    /// Below, nearly every block would stop the process; above, nothing would be seen.
    pub const BYTES_PER_SAMPLE: RangeInclusive<u64> = 1 << 10..=1 << 30;
}

/// What `memory` writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MemoryFormat {
    /// The table, to be read.
    #[default]
    #[value(alias = "table")]
    Text,
    /// The table, for spreadsheets: exact numbers.
    Csv,
    /// The table, for programs: exact numbers.
    Json,
    /// Flame graph, width = bytes or time.
    #[value(alias = "flamegraph")]
    Svg,
    /// A page for a browser: flame graph, tables, callers, lines, threads.
    #[value(alias = "page")]
    Html,
    /// One line per stack with its bytes or time.
    #[value(aliases = ["collapsed", "raw"])]
    Folded,
    Speedscope,
    /// Heap profile for `go tool pprof` and `--base`: keeps everything.
    Pprof,
}

impl MemoryFormat {
    /// The format a file's name stands for.
    pub(super) fn from_path(path: &Path) -> Option<Self> {
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
                Format::Html => Self::Html,
                Format::Folded => Self::Folded,
                Format::Speedscope => Self::Speedscope,
                Format::Pprof => Self::Pprof,
            }),
        }
    }

    pub fn is_table(self) -> bool {
        self.stacks().is_none()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Svg | Self::Html | Self::Folded | Self::Speedscope | Self::Pprof => {
                self.stacks().map_or("", Format::name)
            }
        }
    }

    /// The format of the stacks, if they are what is written.
    pub fn stacks(self) -> Option<Format> {
        match self {
            Self::Text | Self::Csv | Self::Json => None,
            Self::Svg => Some(Format::Svg),
            Self::Html => Some(Format::Html),
            Self::Folded => Some(Format::Folded),
            Self::Speedscope => Some(Format::Speedscope),
            Self::Pprof => Some(Format::Pprof),
        }
    }
}

impl Config {
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
            kept,
            curve,
            no_objects,
            base,
            exact,
            sampled,
            bytes_per_sample,
            yes,
            watchpoints,
            max_share,
            max_overhead,
            native,
            max_live,
            temporary_within,
            with_source,
            format,
        } = typed;
        let mut config = Self::common(common)?;
        if let Some(every) = every.filter(|_| kept.is_asked() || names_directory(&config.output)) {
            config.windows = Some(windows(
                every,
                kept,
                format.map(MemoryFormat::name).filter(not_pprof),
                &config.output,
            )?);
            for (is_there, what) in [
                (exact, "--exact"),
                (sampled, "--sampled"),
                (peak, "--peak"),
                (temporary, "--temporary"),
                (base.is_some(), "--base"),
                (curve.is_some(), "--curve"),
                (watchpoints, "--watchpoints"),
                (source != MemorySource::Resident, "--source"),
            ] {
                if is_there {
                    return Err(ConfigError::NotInWindows(what));
                }
            }
        }
        // Of windows, it says how long they are.
        let every = every.filter(|_| config.windows.is_none());
        let live = live || config.windows.is_some();
        let format = config.table_format(format.or(config.windows.is_some().then_some(MemoryFormat::Pprof)))?;
        if exact && matches!(config.target, Target::All) {
            return Err(ConfigError::ExactOfAll);
        }
        if exact {
            // Unwinding takes longer than all the rest of what is done at an allocation.
            config.native_stacks = native;
        }
        if sampled {
            if !matches!(&config.target, Target::Pids(pids) if pids.len() == 1) || config.subprocesses {
                return Err(ConfigError::SampledOfOne);
            }
            if !Sampled::BYTES_PER_SAMPLE.contains(&bytes_per_sample) {
                return Err(ConfigError::SampleOutOfRange);
            }
            // A stub has no unwind information.
            config.native_stacks = false;
        }
        if watchpoints && !matches!(config.target, Target::Pids(_)) {
            return Err(ConfigError::WatchpointsOfPids);
        }
        if watchpoints && !(0.001..=0.25).contains(&max_share) {
            return Err(ConfigError::ShareOutOfRange);
        }
        if let (Some(older_than), Some(length)) = (older_than, config.duration)
            && older_than >= length
        {
            return Err(ConfigError::OlderThanRecording { older_than, length });
        }
        if let Some(path) = &curve
            && !matches!(
                path.extension().and_then(|ending| ending.to_str()),
                Some("csv" | "json" | "dat")
            )
        {
            return Err(ConfigError::UnknownEndingOfCurve { path: path.clone() });
        }
        if curve
            .as_ref()
            .is_some_and(|path| path.extension() == Some("dat".as_ref()))
            && config.target == Target::All
        {
            return Err(ConfigError::MprofOfAll);
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
            // Of windows there would be too many, and what is counted call by call leaves no question open.
            objects: !no_objects
                && !exact
                && !sampled
                && config.windows.is_none()
                && matches!(config.target, Target::Pids(_)),
            exact: exact.then_some(Exact {
                max_overhead: max_overhead.unwrap_or(DEFAULT_MAX_OVERHEAD),
                max_live,
                temporary_within,
            }),
            sampled: sampled.then_some(Sampled { bytes_per_sample, yes }),
            watchpoints: watchpoints.then_some(max_share),
            format,
        });
        config.with_source(with_source, format.stacks())?.with_outputs_apart()
    }
}
