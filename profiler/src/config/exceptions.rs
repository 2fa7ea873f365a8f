//! What `exceptions` is to find out.

use super::{Config, ConfigError, DEFAULT_MAX_OVERHEAD_OF_CALLS, MemoryFormat};
use crate::cli::exceptions::Exceptions;

/// What `exceptions` counts, and what it shows.
#[derive(Clone, Debug, PartialEq)]
pub struct ExceptionsConfig {
    /// The program may become this many times slower.
    pub max_overhead: f64,
    pub top: usize,
    pub format: MemoryFormat,
}

impl Default for ExceptionsConfig {
    fn default() -> Self {
        Self {
            max_overhead: DEFAULT_MAX_OVERHEAD_OF_CALLS,
            top: super::DEFAULT_ROWS,
            format: MemoryFormat::Text,
        }
    }
}

impl Config {
    /// What `profiler exceptions …` means.
    pub fn from_exceptions_cli(typed: Exceptions) -> Result<Self, ConfigError> {
        let Exceptions {
            common,
            max_overhead,
            top,
            format,
        } = typed;
        let mut config = Self::common(common)?;
        let format = config.table_format(format)?;
        // The type of an exception is told by Python frames, and unwinding takes longer than all the rest.
        config.native_stacks = false;
        config.exceptions = Some(ExceptionsConfig {
            max_overhead: max_overhead.unwrap_or(DEFAULT_MAX_OVERHEAD_OF_CALLS),
            top,
            format,
        });
        config.with_outputs_apart()
    }
}
