//! Instruments: ways of measuring, each a room of its own behind one trait.
//!
//! Values go in (records, by way of [`Recording`], and what becomes of processes), values and [`Orders`] come out. An
//! instrument makes no call of the kernel itself, so it is tested on made-up records. A new one is a file here, what it
//! needs of the kernel side ([`Needs`]), its report, and a line in [`wanted`]. A session has one or several: what several
//! measured is joined at the end ([`Joint`]).

pub mod agent;
pub mod calls;
pub mod collections;
pub mod content;
pub mod cpu;
pub mod exceptions;
pub mod imports;
pub mod mark_probes;
pub mod measured;
pub mod memory;
pub mod surroundings;
#[cfg(test)]
mod tests;
pub mod waits;
pub mod wall;
pub mod why;

use std::{io, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use profiler_common::{
    config::{FEATURE_GIL, FEATURE_TIME_CALLS, FEATURE_WATCH_CALLS},
    stats::COUNTERS,
};

use self::{content::Content, measured::Measured};
use crate::{
    config::{Config, WaitsConfig},
    exit,
    name::Namer,
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
    /// Its ticks are counted by stack, also where they are told one by one.
    pub counts_ticks: bool,
    /// … and by slices of time.
    pub slices: bool,
    /// … but only where a thread has the GIL.
    pub gil: bool,
    /// Page faults, calls that map and unmap memory, births of pymalloc's pools.
    pub memory: bool,
    /// Births of objects, by hardware watchpoints.
    pub births: bool,
    /// Calls of allocators, with room for so many live blocks.
    pub blocks: Option<u32>,
    pub calls: Option<CallNeeds>,
    /// Switches of threads.
    pub waits: Option<WaitNeeds>,
    /// Exceptions, imports or garbage collections.
    pub marks: bool,
}

/// Accounts of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitNeeds {
    /// There is room for so many.
    pub threads: u32,
    /// Who is wanted is only known when it runs.
    pub lazy: bool,
    /// It is to be noted who wakes threads.
    pub wakers: bool,
    /// How long event loops do not poll is looked at.
    pub stalls: bool,
    /// Calls that move data are.
    pub io: bool,
    /// What is run at every system call of the machine is put in place by orders.
    pub sparing: bool,
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
            counts_ticks: self.counts_ticks || other.counts_ticks,
            slices: self.slices || other.slices,
            gil: self.gil || other.gil,
            memory: self.memory || other.memory,
            births: self.births || other.births,
            blocks: self.blocks.max(other.blocks),
            calls,
            waits: match (self.waits, other.waits) {
                (Some(one), Some(other)) => Some(WaitNeeds {
                    threads: one.threads.max(other.threads),
                    lazy: one.lazy || other.lazy,
                    wakers: one.wakers || other.wakers,
                    stalls: one.stalls || other.stalls,
                    io: one.io || other.io,
                    // Who wants it at once does not order it.
                    sparing: one.sparing && other.sparing,
                }),
                (one, other) => one.or(other),
            },
            marks: self.marks || other.marks,
        }
    }

    /// Whether programs that take stacks can interrupt each other on a CPU.
    pub fn interrupts_itself(&self) -> bool {
        self.memory || self.blocks.is_some() || self.calls.is_some() || self.waits.is_some() || self.marks
    }

    /// Whether probes are in the way of programs so often that what they cost is measured, and bounded.
    pub fn has_budget(&self) -> bool {
        self.blocks.is_some() || self.calls.is_some() || self.marks
    }

    /// What the programs are told (`FEATURE_…`).
    pub fn features(&self) -> u32 {
        let calls = self.calls.unwrap_or_default();
        (if self.gil { FEATURE_GIL } else { 0 })
            | (if calls.timed { FEATURE_TIME_CALLS } else { 0 })
            | (if calls.watched { FEATURE_WATCH_CALLS } else { 0 })
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
    /// It has run for a while, and is a target from now on.
    Joined { pid: u32 },
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Goes,
    /// The budget is spent, and nothing more comes of this instrument.
    Spent,
}

/// One way of measuring.
pub trait Instrument: Tells {
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

    /// A window is about to end: reads what belongs to it and is told by no record. What of it was on its way is taken in
    /// after this.
    fn close(&mut self, _host: &mut Recording, _kernel: &dyn Orders) {}

    /// Ends a window: what was measured since the last cut, while what lives on stays. `window` has what the host has
    /// counted until then. In a recording that is cut, this takes the place of `content`.
    fn cut(&mut self, _window: &Window) -> anyhow::Result<Measured> {
        bail!("this recording cannot be cut into windows; leave --every out")
    }

    /// What has happened since the last time that somebody will want to look at, in a line each: the windows around now are
    /// kept from being removed.
    fn worth_keeping(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// How many sites it keeps from one window to the next.
    fn sites(&self) -> usize {
        0
    }

    /// As `tell`, of all windows together.
    fn tell_windows(&self, _summary: &mut Summary, _counters: &[u64; COUNTERS]) {}

    /// Why nothing could be measured, if so.
    fn refusal(&self, _window: &Window) -> Option<String> {
        None
    }

    /// What was measured, with names, which `namer` gives; and what the user should know about those that are missing.
    fn content(&mut self, namer: &mut Namer, window: &Window, length: Duration) -> (Content, Vec<String>);

    /// Adds what it has to say to the summary.
    fn tell(&self, summary: &mut Summary, content: &Content, told: &Told<'_>);
}

/// What the user is told and given. Each instrument can, of what it measured itself.
pub trait Tells {
    /// What is about to happen to the targets, in words: `sampling the whole machine 99 times a second`.
    fn opening(&self, what: &str) -> String;

    /// How its picture is shown: by which of its values, under which headline, and how much of the interpreter.
    fn picture(&self) -> Picture;

    /// What is said at the end.
    fn screen(&self, summary: &Summary, _content: &Content) -> Vec<String> {
        summary.lines()
    }

    fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()>;

    /// The program's exit status, if what was found decides it.
    fn status(&self, _content: &Content) -> u8 {
        exit::SUCCESS
    }

    /// Writes what goes into a second file (`--curve`), by the file's name.
    fn write_beside(&self, _content: &Content, _path: &Path, _out: &mut dyn io::Write) -> anyhow::Result<()> {
        Ok(())
    }
}

/// One report of what several instruments measured in one session.
pub trait Joint: Tells {
    /// Of what each measured, in their order; `None` if something is not there.
    fn join(&self, contents: Vec<Content>) -> Option<Content>;

    /// The same of a window.
    fn join_cuts(&self, cuts: Vec<Measured>) -> Option<Measured>;
}

/// Ends a window: what all instruments have measured in it, as one.
pub fn cut(
    instruments: &mut [Box<dyn Instrument>],
    joint: Option<&dyn Joint>,
    window: &Window,
) -> anyhow::Result<Measured> {
    let mut cuts = Vec::with_capacity(instruments.len());
    for instrument in instruments {
        cuts.push(instrument.cut(window)?);
    }
    let measured = match joint {
        Some(joint) => joint.join_cuts(cuts),
        None => cuts.pop(),
    };
    measured.context("there is nothing to measure with")
}

/// What a session measures with, and what is made of it.
pub struct Plan {
    pub instruments: Vec<Box<dyn Instrument>>,
    /// If there are several.
    pub joint: Option<Box<dyn Joint>>,
}

impl Plan {
    fn of_one(instrument: Box<dyn Instrument>) -> Self {
        Self {
            instruments: vec![instrument],
            joint: None,
        }
    }
}

/// Who tells what a session comes to: the only instrument, or what joins several.
pub fn teller<'a>(instruments: &'a [Box<dyn Instrument>], joint: Option<&'a dyn Joint>) -> Option<&'a dyn Tells> {
    match joint {
        Some(joint) => Some(joint),
        None => instruments.first().map(|instrument| &**instrument as &dyn Tells),
    }
}

/// What is known at the end besides what an instrument has measured itself.
pub struct Told<'a> {
    pub window: &'a Window,
    pub counters: &'a [u64; COUNTERS],
    pub length: Duration,
}

/// See [`Tells::picture`].
#[derive(Clone, Copy, Debug)]
pub struct Picture {
    pub headline: &'static str,
    pub value: usize,
    pub interpreter: Interpreter,
}

/// The instruments that `config` asks for. `in_namespace`: the profiler does not see the numbers that the kernel gives to
/// processes.
pub fn wanted(config: &Config, command_pid: Option<u32>, in_namespace: bool) -> anyhow::Result<Plan> {
    if config.agent.is_some() {
        return agent::plan(config, in_namespace);
    }
    if let Some(wanted) = &config.why {
        return why::plan(config, wanted, command_pid, in_namespace);
    }
    if config.wall {
        let wanted: WaitsConfig = config.waits.clone().unwrap_or_default();
        let waits = waits::Waits::new(config, &wanted, in_namespace);
        return Ok(Plan {
            instruments: vec![Box::new(cpu::Cpu::new(config)), Box::new(waits)],
            joint: Some(Box::new(wall::Wall::new(config))),
        });
    }
    if let Some(wanted) = &config.exceptions {
        return Ok(Plan::of_one(Box::new(exceptions::Exceptions::new(config, wanted))));
    }
    if let Some(wanted) = &config.imports {
        return Ok(Plan::of_one(Box::new(imports::Imports::new(config, wanted))));
    }
    if let Some(wanted) = &config.gc {
        return Ok(Plan::of_one(Box::new(collections::Collections::new(config, wanted))));
    }
    let wanted: Box<dyn Instrument> = match (&config.memory, &config.calls, &config.waits) {
        (Some(wanted), ..) => memory::instrument(config, wanted, command_pid)?,
        (None, Some(wanted), _) => Box::new(calls::Calls::new(config, wanted)),
        (None, None, Some(wanted)) => Box::new(waits::Waits::new(config, wanted, in_namespace)),
        (None, None, None) => Box::new(cpu::Cpu::new(config)),
    };
    Ok(Plan::of_one(wanted))
}
