//! What `profiler top …` means.

use std::time::Duration;

use crate::{
    cli::top::Top,
    config::{self, Config, ConfigError, NativeFrames, OutputChoice, Target, Verbosity, WaitsConfig},
    report::Format,
    session::live::Whom,
};

/// Looking on a short time says little, and looking often costs much.
const SHORTEST: Duration = Duration::from_millis(200);
/// Stacks of waits a second, of all processes together: half of what finding them costs is for these.
const MOST_STACKS: u64 = 200;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Empty: all Pythons.
    pub pids: Vec<u32>,
    pub subprocesses: bool,
    pub interval: Duration,
    pub rate_hz: u32,
    pub waits: bool,
    pub once: bool,
    pub json: bool,
    pub group: bool,
}

impl Options {
    pub fn from_cli(typed: Top) -> Result<Self, ConfigError> {
        // Every field is named, so that a new option cannot be forgotten here.
        let Top {
            positional_pids,
            pids,
            subprocesses,
            interval,
            rate,
            no_waits,
            once,
            json,
            group,
        } = typed;
        let mut pids = config::numbers(pids.into_iter().chain(positional_pids).collect())?;
        pids.sort_unstable();
        pids.dedup();
        if interval < SHORTEST {
            return Err(ConfigError::ShortInterval { interval });
        }
        let rate_hz = u32::try_from(rate)
            .ok()
            .filter(|&rate| config::RATES_HZ.contains(&rate))
            .ok_or(ConfigError::RateOutOfRange { hertz: rate })?;
        Ok(Self {
            pids,
            subprocesses,
            interval,
            rate_hz,
            waits: !no_waits,
            once,
            json,
            group,
        })
    }

    pub fn whom(&self) -> Whom {
        match self.pids.is_empty() {
            true => Whom::Pythons,
            false => Whom::Targets,
        }
    }

    pub fn period_ns(&self) -> u64 {
        1_000_000_000 / u64::from(self.rate_hz).max(1)
    }

    /// What the engine is to measure: CPU time and waits together.
    pub fn config(&self) -> Config {
        Config {
            target: Target::Pids(self.pids.clone()),
            // Of all Pythons, children are looked at when they have begun: most of them are no Pythons.
            subprocesses: self.subprocesses,
            tids: Vec::new(),
            comm: None,
            cgroup: None,
            rate_hz: self.rate_hz,
            period_ns: self.period_ns(),
            duration: None,
            kernel_stacks: true,
            native_stacks: true,
            native_frames: NativeFrames::Work,
            probe: None,
            output: OutputChoice::Stdout,
            format: Format::Folded,
            windows: None,
            memory: None,
            calls: None,
            waits: self.waits.then(|| WaitsConfig {
                most_stacks: Some(MOST_STACKS),
                least_under_way: self.interval / 2,
                ..WaitsConfig::default()
            }),
            why: None,
            agent: None,
            exceptions: None,
            imports: None,
            gc: None,
            wall: self.waits,
            gil: false,
            threads: true,
            merge_workers: false,
            with_source: false,
            verbosity: Verbosity::Quiet,
            summary_json: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn options(typed: &[&str]) -> Result<Options, ConfigError> {
        let words = ["profiler", "top"].iter().chain(typed);
        match Cli::try_parse_from(words).expect("a command line").command {
            Command::Top(top) => Options::from_cli(top),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_pid_all_pythons_are_meant() {
        let all = options(&[]).unwrap();
        assert_eq!((all.whom(), all.interval), (Whom::Pythons, Duration::from_secs(1)));
        assert!(all.config().wall);
        let one = options(&["-p", "42", "7", "--no-waits"]).unwrap();
        assert_eq!((one.whom(), &*one.pids), (Whom::Targets, &[7, 42][..]));
        assert!(!one.config().subprocesses && !one.config().wall);
    }

    #[test]
    fn refreshes_that_are_too_many_and_impossible_rates_are_refused() {
        let short = options(&["-d", "100ms"]).unwrap_err();
        assert_eq!(short.exit_code(), crate::exit::USAGE);
        assert!(short.to_string().contains("-d 200ms"), "{short}");
        assert!(matches!(
            options(&["-r", "99999999"]),
            Err(ConfigError::RateOutOfRange { .. })
        ));
    }
}
