//! What `objects` is to find out, and where that goes.

use std::{path::Path, time::Duration};

use super::{
    ConfigError, numbers,
    output::{OutputTarget, is_stdout},
};
pub use crate::report::objects::ObjectsBy;
use crate::{cli::Objects, objects::census::Limits};

/// What `objects` is to find out, and where that goes.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectsConfig {
    pub pid: u32,
    pub by: ObjectsBy,
    pub top: usize,
    /// So long apart, it is looked at twice.
    pub growth: Option<Duration>,
    pub referrers: Option<String>,
    pub largest: bool,
    pub limits: Limits,
    pub output: OutputTarget,
    pub format: ObjectsFormat,
    pub quiet: bool,
}

/// What `objects` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ObjectsFormat {
    /// The report, to be read.
    #[value(alias = "table")]
    Text,
    Json,
    /// One line per way to objects with their bytes, for flame graphs.
    #[value(aliases = ["collapsed", "raw"])]
    Folded,
    /// Who holds what, for Graphviz.
    Dot,
    /// Who holds what, as a picture.
    Svg,
}

impl ObjectsFormat {
    /// The format a file's name stands for.
    fn from_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "txt" => Some(Self::Text),
            "json" => Some(Self::Json),
            "folded" | "collapsed" => Some(Self::Folded),
            "dot" | "gv" => Some(Self::Dot),
            "svg" => Some(Self::Svg),
            _ => None,
        }
    }
}

impl ObjectsConfig {
    /// What `profiler objects …` means.
    pub fn from_cli(typed: Objects) -> Result<Self, ConfigError> {
        let Objects {
            positional_pid,
            pid,
            by,
            top,
            growth,
            referrers,
            largest,
            max_heap,
            max_time,
            output,
            format,
            force,
            quiet,
        } = typed;
        let pids = numbers(pid.or(positional_pid).into_iter().collect())?;
        let pid = *pids.first().ok_or(ConfigError::NoProcess)?;
        let output = match output {
            None => OutputTarget::Stdout,
            Some(path) if is_stdout(&path) => OutputTarget::Stdout,
            Some(path) => OutputTarget::File { path, force },
        };
        let format = match (format, &output) {
            (Some(format), _) => format,
            (None, OutputTarget::File { path, .. }) if !path.starts_with("/dev") || path.extension().is_some() => {
                ObjectsFormat::from_path(path)
                    .ok_or_else(|| ConfigError::UnknownEndingOfObjects { path: path.clone() })?
            }
            (None, _) => ObjectsFormat::Text,
        };
        Ok(Self {
            pid,
            by,
            top,
            growth,
            referrers,
            largest,
            limits: Limits {
                heap: max_heap,
                cpu: max_time,
                time: max_time,
            },
            output,
            format,
            quiet,
        })
    }
}
