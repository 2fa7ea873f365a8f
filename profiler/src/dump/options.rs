//! What `profiler dump …` means.

use std::{path::PathBuf, time::Duration};

use crate::{
    cli::dump::Dump,
    config::{self, ConfigError},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub target: Target,
    pub locals: Option<Locals>,
    pub tasks: bool,
    pub native: bool,
    pub repeat: Option<Repeat>,
    pub json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All Pythons of the machine.
    All,
    Processes {
        pids: Vec<u32>,
        subprocesses: bool,
    },
    Core {
        file: PathBuf,
        executable: Option<PathBuf>,
    },
}

/// How much of local variables is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locals {
    pub values: Values,
    pub secrets: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Types only.
    Hidden,
    Short,
    Long,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    pub times: u32,
    pub interval: Duration,
}

impl Options {
    pub fn from_cli(typed: Dump) -> Result<Self, ConfigError> {
        // Every field is named, so that a new option cannot be forgotten here.
        let Dump {
            positional_pids,
            pids,
            all,
            subprocesses,
            core,
            executable,
            locals,
            no_values,
            show_secrets,
            tasks,
            native,
            repeat,
            interval,
            json,
        } = typed;
        let mut pids = config::numbers(pids.into_iter().chain(positional_pids).collect())?;
        pids.sort_unstable();
        pids.dedup();
        let target = match (core, all, pids.is_empty()) {
            (Some(file), ..) => Target::Core { file, executable },
            (None, true, false) => return Err(ConfigError::ManyTargets("-a", "-p")),
            (None, true, true) => Target::All,
            (None, false, true) => return Err(ConfigError::NothingToDump),
            (None, false, false) => Target::Processes { pids, subprocesses },
        };
        let values = match (locals, no_values) {
            (0, _) => None,
            (_, true) => Some(Values::Hidden),
            (1, false) => Some(Values::Short),
            (_, false) => Some(Values::Long),
        };
        Ok(Self {
            target,
            locals: values.map(|values| Locals {
                values,
                secrets: show_secrets,
            }),
            tasks,
            native,
            repeat: repeat.map(|times| Repeat { times, interval }),
            json,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn options(line: &str) -> Result<Options, ConfigError> {
        let words = ["profiler", "dump"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).expect("words that clap knows").command {
            Command::Dump(typed) => Options::from_cli(typed),
            _ => unreachable!("`dump` was typed"),
        }
    }

    #[test]
    fn what_is_typed_is_what_is_meant() {
        let typed = options("-p 7,5 5 -s -ll --repeat 3").unwrap();
        assert_eq!(
            typed.target,
            Target::Processes {
                pids: vec![5, 7],
                subprocesses: true
            }
        );
        assert_eq!(
            typed.locals,
            Some(Locals {
                values: Values::Long,
                secrets: false
            })
        );
        let repeat = typed.repeat.unwrap();
        assert_eq!((repeat.times, repeat.interval), (3, Duration::from_secs(1)));
        assert_eq!(
            options("-l 7 --no-values").unwrap().locals.unwrap().values,
            Values::Hidden
        );
        assert_eq!(options("-a").unwrap().target, Target::All);
    }

    #[test]
    fn no_target_and_two_are_refused() {
        assert!(options("").unwrap_err().to_string().contains("-p 4242"));
        assert!(
            options("-a -p 5")
                .unwrap_err()
                .to_string()
                .contains("exclude each other")
        );
    }
}
