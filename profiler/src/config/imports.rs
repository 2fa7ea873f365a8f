//! What `imports` is to find out.

use super::{Config, ConfigError, MemoryFormat, OutputChoice};
use crate::cli::imports::Imports;

/// What `imports` shows.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportsConfig {
    pub top: usize,
    pub format: ImportsFormat,
}

/// What `imports` writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ImportsFormat {
    /// A tree, to be read.
    #[default]
    #[value(alias = "table")]
    Text,
    Csv,
    Json,
    /// As `python -X importtime` prints it.
    Importtime,
}

impl Config {
    /// What `profiler imports …` means.
    pub fn from_imports_cli(typed: Imports) -> Result<Self, ConfigError> {
        let Imports { common, top, format } = typed;
        let mut config = Self::common(common)?;
        let format = match (format, &config.output) {
            (Some(format), _) => format,
            (None, OutputChoice::File { path, .. }) if path.extension().is_some_and(|ending| ending == "log") => {
                ImportsFormat::Importtime
            }
            (None, _) => match config.table_format(None)? {
                MemoryFormat::Csv => ImportsFormat::Csv,
                MemoryFormat::Json => ImportsFormat::Json,
                MemoryFormat::Text => ImportsFormat::Text,
                format => return Err(ConfigError::FormatOfTable(format.name())),
            },
        };
        if let OutputChoice::ByDefault { .. } = config.output {
            config.output = OutputChoice::Stdout;
        }
        config.native_stacks = false;
        config.imports = Some(ImportsConfig { top, format });
        config.with_outputs_apart()
    }
}
