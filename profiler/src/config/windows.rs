//! Windows of a flight recorder, if that goes together.

use std::time::Duration;

use super::{ConfigError, DEFAULT_KEPT_WINDOWS, SHORTEST_WINDOW, output::OutputChoice};
use crate::{cli::Kept, flight::Windows, report::Format};

pub(super) fn not_pprof(format: &&str) -> bool {
    *format != Format::Pprof.name()
}

impl Kept {
    /// Whether anything was said of windows.
    pub(super) fn is_asked(&self) -> bool {
        self.keep.is_some() || self.trigger.is_some()
    }
}

/// What `--every` asks for, if that goes together. `other_format`: one that is typed, and not pprof.
pub(super) fn windows(
    every: Duration,
    kept: Kept,
    other_format: Option<&'static str>,
    output: &OutputChoice,
) -> Result<Windows, ConfigError> {
    let Kept { keep, trigger } = kept;
    if every < SHORTEST_WINDOW {
        return Err(ConfigError::ShortWindow { every });
    }
    if let Some(format) = other_format {
        return Err(ConfigError::FormatOfWindows(format));
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
        last: usize::try_from(keep.unwrap_or(DEFAULT_KEPT_WINDOWS)).unwrap_or(usize::MAX),
        directory,
        trigger,
    })
}
