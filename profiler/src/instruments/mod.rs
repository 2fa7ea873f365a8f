//! Instruments: ways of measuring, each a room of its own behind one trait.
//!
//! Values go in (records, by way of [`Recording`], and what becomes of processes), values and [`Orders`] come out. An
//! instrument makes no call of the kernel itself, so it is tested on made-up records. A new one is a file here, what it
//! needs of the kernel side ([`Needs`]), its report, and a line in [`wanted`].

pub mod calls;
pub mod content;
pub mod cpu;
pub mod memory;
#[cfg(test)]
mod tests;
pub mod waits;

use std::{io, path::Path, time::Duration};

use profiler_common::{
    config::{FEATURE_TIME_CALLS, FEATURE_WATCH_CALLS},
    stats::COUNTERS,
};

use self::content::Content;
use crate::{
    config::Config,
    orders::Orders,
    process::files::FileId,
    recording::Recording,
    report::{Interpreter, View},
    summary::Summary,
    window::Window,
};

/// What instruments need of the kernel side, all of one session together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Ticks of the CPU clock, so many nanoseconds apart.
    pub clock: Option<u64>,
    /// Page faults, calls that map and unmap memory, births of pymalloc's pools.
    pub memory: bool,
    /// Calls of allocators, with room for so many live blocks.
    pub blocks: Option<u32>,
    pub calls: Option<CallNeeds>,
    /// Switches of threads.
    pub waits: Option<WaitNeeds>,
}

/// Accounts of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitNeeds {
    /// There is room for so many.
    pub threads: u32,
    /// Who is wanted is only known when it runs.
    pub lazy: bool,
}

/// Calls of Python functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallNeeds {
    /// Chosen ones have times.
    pub timed: bool,
    /// Those may be seen by hardware breakpoints.
    pub watched: bool,
}

impl Needs {
    /// Of two instruments in one session.
    pub fn and(self, other: Self) -> Self {
        let calls = match (self.calls, other.calls) {
            (Some(one), Some(other)) => Some(CallNeeds {
                timed: one.timed || other.timed,
                watched: one.watched || other.watched,
            }),
            (one, other) => one.or(other),
        };
        Self {
            // There is one clock: who wants fewer ticks has to do with more.
            clock: match (self.clock, other.clock) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            },
            memory: self.memory || other.memory,
            blocks: self.blocks.max(other.blocks),
            calls,
            waits: match (self.waits, other.waits) {
                (Some(one), Some(other)) => Some(WaitNeeds {
                    threads: one.threads.max(other.threads),
                    lazy: one.lazy || other.lazy,
                }),
                (one, other) => one.or(other),
            },
        }
    }

    /// Whether programs that take stacks can interrupt each other on a CPU.
    pub fn interrupts_itself(&self) -> bool {
        self.memory || self.blocks.is_some() || self.calls.is_some() || self.waits.is_some()
    }

    /// Whether probes are in the way of programs so often that what they cost is measured, and bounded.
    pub fn has_budget(&self) -> bool {
        self.blocks.is_some() || self.calls.is_some()
    }

    /// What the programs are told (`FEATURE_…`).
    pub fn features(&self) -> u32 {
        let calls = self.calls.unwrap_or_default();
        (if calls.timed { FEATURE_TIME_CALLS } else { 0 }) | (if calls.watched { FEATURE_WATCH_CALLS } else { 0 })
    }
}

/// What became of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has mapped code since it was last told.
    Mapped { pid: u32 },
    /// It is a CPython that is understood, and the kernel side knows how to walk it.
    Python { pid: u32 },
    /// It is none any more.
    NotPython { pid: u32 },
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Goes,
    /// The budget is spent, and nothing more comes of this instrument.
    Spent,
}

/// One way of measuring.
pub trait Instrument {
    fn needs(&self) -> Needs;

    /// The programs are loaded, and nothing has happened yet.
    fn prepare(&mut self, _kernel: &mut dyn Orders) -> anyhow::Result<()> {
        Ok(())
    }

    /// A file with a CPython is about to be run by the command.
    fn expect(&mut self, _host: &Recording, _kernel: &mut dyn Orders, _file: FileId) {}

    /// All that exists has been told. From now on things count.
    fn start(&mut self, host: &mut Recording, kernel: &mut dyn Orders) -> anyhow::Result<()>;

    fn follow(&mut self, _change: Change, _host: &Recording, _kernel: &mut dyn Orders) {}

    /// Takes in what has come since the last turn, and looks at the clock and at the budget.
    fn turn(&mut self, host: &mut Recording, kernel: &mut dyn Orders) -> anyhow::Result<Turn>;

    /// How soon it wants its next turn, if sooner than usual.
    fn look_soon(&self) -> Option<Duration> {
        None
    }

    /// The time is over: nothing counts any more. Probes are taken away after this.
    fn stop(&mut self, host: &mut Recording, kernel: &mut dyn Orders, recorded: Duration) -> anyhow::Result<()>;

    /// What was on its way has come in, and processes are still known.
    fn finish(&mut self, _host: &mut Recording, _kernel: &dyn Orders) {}

    /// Why nothing could be measured, if so.
    fn refusal(&self, _window: &Window) -> Option<String> {
        None
    }

    /// What was measured, with names; and what the user should know about those that are missing.
    fn content(&mut self, window: &Window, length: Duration) -> (Content, Vec<String>);

    /// Adds what it has to say to the summary.
    fn tell(&self, summary: &mut Summary, content: &Content, told: &Told<'_>);

    /// What is about to happen to the targets, in words: `sampling the whole machine 99 times a second`.
    fn opening(&self, what: &str) -> String;

    /// How its picture is shown: by which of its values, under which headline, and how much of the interpreter.
    fn picture(&self) -> Picture;

    /// What is said at the end.
    fn screen(&self, summary: &Summary, _content: &Content) -> Vec<String> {
        summary.lines()
    }

    fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()>;

    /// Writes what goes into a second file (`--curve`), by the file's name.
    fn write_beside(&self, _content: &Content, _path: &Path, _out: &mut dyn io::Write) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What is known at the end besides what an instrument has measured itself.
pub struct Told<'a> {
    pub window: &'a Window,
    pub counters: &'a [u64; COUNTERS],
    pub length: Duration,
}

/// See [`Instrument::picture`].
pub struct Picture {
    pub headline: &'static str,
    pub value: usize,
    pub interpreter: Interpreter,
}

/// The instruments that `config` asks for. The first one's report is what is written. `in_namespace`: the profiler does not
/// see the numbers that the kernel gives to processes.
pub fn wanted(
    config: &Config,
    command_pid: Option<u32>,
    in_namespace: bool,
) -> anyhow::Result<Vec<Box<dyn Instrument>>> {
    let wanted: Box<dyn Instrument> = match (&config.memory, &config.calls, &config.waits) {
        (Some(wanted), ..) => memory::instrument(config, wanted, command_pid)?,
        (None, Some(wanted), _) => Box::new(calls::Calls::new(config, wanted)),
        (None, None, Some(wanted)) => Box::new(waits::Waits::new(config, wanted, in_namespace)),
        (None, None, None) => Box::new(cpu::Cpu::new(config)),
    };
    Ok(vec![wanted])
}
