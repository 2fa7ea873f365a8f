//! What `calls` is to find out.

use super::{
    Config, ConfigError, DEFAULT_MAX_OVERHEAD_OF_CALLS, Target,
    output::{OutputChoice, says_format},
    period_ns, rate_hz,
};
pub use crate::report::calls::{export::Format as CallsFormat, table::Sort};
use crate::{cli::Calls, report::Format};

/// How calls of chosen functions are seen.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// Probes, and breakpoints as soon as probes are seen to cost more (not in a virtual machine)
    #[default]
    Auto,
    /// Probes on the interpreter: every call of any function hits them
    Probes,
    /// Hardware breakpoints on the functions' bytecode: only their own calls hit them; in a virtual machine whose host has
    /// KVM from before Linux 6.14, one can, rarely, end the program
    Breakpoints,
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

impl Config {
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
            with_source,
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
        let page = format
            .filter(|format| *format == CallsFormat::Html)
            .map(|_| Format::Html);
        config.with_source(with_source, page)?.with_outputs_apart()
    }
}
