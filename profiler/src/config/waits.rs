//! What `waits` is to find out.

use std::time::Duration;

use super::{
    Config, ConfigError, MemoryFormat,
    windows::{not_pprof, windows},
};
use crate::cli::{Flight, Waits};
pub use crate::report::waits::rows::By as WaitsBy;

/// What `waits` writes: the same as `memory`, width = time.
pub type WaitsFormat = MemoryFormat;

/// What `waits` shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WaitsConfig {
    pub by: WaitsBy,
    pub top: usize,
    /// Shorter waits are left out.
    pub min: Duration,
    /// Who ends waits is told.
    pub wakers: bool,
    /// Event loops that do not poll for so long are.
    pub stalls: Option<Duration>,
    /// Calls that move data are.
    pub io: bool,
    /// Both only where there can be any, and of many calls a part.
    pub sparing: bool,
    pub format: WaitsFormat,
    /// Every wait has its stack, whatever that costs.
    pub every_wait: bool,
    /// Else so many a second have one at most, on average, if it is not the usual number.
    pub most_stacks: Option<u64>,
    /// Where a thread waits that has done so for less, as a window ends, is not looked at: that has its cost.
    pub least_under_way: Duration,
}

impl Config {
    /// What `profiler waits …` means.
    pub fn from_waits_cli(typed: Waits) -> Result<Self, ConfigError> {
        let Waits {
            common,
            by,
            top,
            flight: Flight { every, kept },
            min,
            wakers,
            stalls,
            io,
            no_kernel,
            every_wait,
            with_source,
            format,
        } = typed;
        let mut config = Self::common(common)?;
        config.windows = every
            .map(|every| {
                windows(
                    every,
                    kept,
                    format.map(WaitsFormat::name).filter(not_pprof),
                    &config.output,
                )
            })
            .transpose()?;
        let format = config.table_format(format.or(config.windows.is_some().then_some(WaitsFormat::Pprof)))?;
        config.kernel_stacks = !no_kernel;
        config.waits = Some(WaitsConfig {
            by,
            top,
            min: min.unwrap_or_default(),
            wakers,
            stalls,
            io,
            sparing: false,
            format,
            every_wait,
            most_stacks: None,
            least_under_way: Duration::ZERO,
        });
        config.with_source(with_source, format.stacks())?.with_outputs_apart()
    }
}
