//! What `gc` is to find out.

use super::{Config, ConfigError, MemoryFormat};
use crate::cli::gc::Gc;

/// What `gc` shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GcConfig {
    pub top: usize,
    pub format: MemoryFormat,
}

impl Config {
    /// What `profiler gc …` means.
    pub fn from_gc_cli(typed: Gc) -> Result<Self, ConfigError> {
        let Gc { common, top, format } = typed;
        let mut config = Self::common(common)?;
        let format = config.table_format(format)?;
        config.native_stacks = false;
        config.gc = Some(GcConfig { top, format });
        config.with_outputs_apart()
    }
}
