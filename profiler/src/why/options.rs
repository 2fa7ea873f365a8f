//! What `profiler why …` means.

use std::time::Duration;

use super::{Severity, Thresholds};
use crate::{
    cli::why::Why,
    config::{
        Config, ConfigError, GroupBy, MemoryConfig, MemoryFormat, MemorySource, OutputChoice, WaitsConfig, Wanted,
    },
    report::Format,
};

/// Not a round number, as a program that does something a hundred times a second would always be met at the same place;
/// often enough for 5 % of ten seconds of a CPU to be 50 samples.
const RATE_HZ: u32 = 99;
const LENGTH: Duration = Duration::from_secs(10);
/// An event loop that does not come back for so long is told. The clock ticks some ten times meanwhile.
pub const STALL: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, PartialEq)]
pub struct WhyConfig {
    pub format: WhyFormat,
    pub fail_on: Option<Severity>,
    pub thresholds: Thresholds,
    pub top: usize,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyFormat {
    Text,
    Json,
    /// CPU time and waits with the findings: a page, or a file that `report` makes one of.
    Recording(Format),
}

impl WhyFormat {
    /// By the name of a file. Any other has text.
    fn of(output: &OutputChoice) -> Self {
        let OutputChoice::File { path, .. } = output else {
            return Self::Text;
        };
        match Format::from_path(path) {
            Some(format @ (Format::Html | Format::Pprof)) => Self::Recording(format),
            Some(Format::Speedscope) => Self::Json,
            _ => Self::Text,
        }
    }
}

impl Config {
    /// What `profiler why …` means.
    pub fn from_why_cli(typed: Why) -> Result<Self, ConfigError> {
        let Why {
            common,
            fail_on,
            thresholds,
            top,
            json,
        } = typed;
        let mut config = Self::common(common)?;
        if let OutputChoice::ByDefault { .. } = config.output {
            config.output = OutputChoice::Stdout;
        }
        config.duration = config.duration.or(match config.target {
            // A command is looked at until it ends, or for as long as was asked.
            crate::config::Target::Command(_) => None,
            _ => Some(LENGTH),
        });
        config.rate_hz = RATE_HZ;
        config.period_ns = 1_000_000_000 / u64::from(RATE_HZ);
        config.kernel_stacks = true;
        config.why = Some(WhyConfig {
            format: if json {
                WhyFormat::Json
            } else {
                WhyFormat::of(&config.output)
            },
            fail_on,
            thresholds: Thresholds::new(&thresholds)?,
            top,
        });
        config.with_outputs_apart()
    }
}

/// How its memory is followed.
pub fn memory(length: Option<Duration>) -> MemoryConfig {
    MemoryConfig {
        by: GroupBy::Line,
        top: 0,
        shown: Wanted::Live,
        source: MemorySource::Resident,
        // Whether it grows all the time, or once.
        every: Some(
            length
                .map_or(Duration::from_secs(1), |length| length / 8)
                .max(Duration::from_millis(100)),
        ),
        curve: None,
        base: None,
        objects: false,
        exact: None,
        sampled: None,
        watchpoints: None,
        format: MemoryFormat::Text,
    }
}

/// How its waits are.
pub fn waits() -> WaitsConfig {
    WaitsConfig {
        stalls: Some(STALL),
        io: true,
        wakers: true,
        sparing: true,
        ..WaitsConfig::default()
    }
}
