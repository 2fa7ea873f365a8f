//! Writers: one file per format behind one small trait.
//!
//! They know a [`Profile`] and a [`View`] and nothing else. What a frame is called is decided once, in [`label`]; how
//! stacks become lines once, in `fold`. Of the formats, pprof is the one that keeps everything
//! ([`pprof::read()`] gives the profile back); the page (`page`) has all values, the others show one and what a reader
//! looks at.

use std::{io::Write, path::Path, str::FromStr};

use anyhow::Context as _;

use crate::profile::{Profile, ValueType};

pub(crate) mod amount;
mod callgrind;
pub mod calls;
mod chrome;
pub mod collections;
mod cython;
pub mod diff;
mod estimated;
pub mod exceptions;
pub mod export;
pub mod flamegraph;
mod fold;
pub mod folded;
mod gecko;
pub mod grouping;
pub mod hottest;
pub mod imports;
pub mod label;
mod layout;
mod machinery;
pub mod memory;
mod memray;
mod moments;
pub mod objects;
pub mod otlp;
pub mod overview;
pub(crate) mod owner;
pub(crate) mod package;
mod page;
pub(crate) mod path;
pub mod picked;
mod plain;
pub mod pprof;
mod rows;
pub mod sarif;
pub mod select;
pub mod speedscope;
mod tracemalloc;
pub mod waits;
pub mod wall;
pub mod why;
mod workers;

#[cfg(test)]
mod tests;

/// Writes a profile in one format.
pub trait Writer {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()>;
}

/// What to show of a profile, and how to head it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Stacks start at `gunicorn shop.wsgi (process 4242)`.
    pub process: bool,
    /// Stacks start at `name (thread 4243)`, below the process if that is shown too.
    pub thread: bool,
    /// Equal workers are one process.
    pub merge_workers: bool,
    /// Headline of formats that have one.
    pub title: String,
    /// The line below it; may be empty.
    pub subtitle: String,
    /// Index of the sample type that formats with one value show.
    pub value: usize,
    /// How much of CPython's machine code formats with one value show.
    pub interpreter: Interpreter,
}

/// How much of CPython's own machine code is shown of stacks with Python frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interpreter {
    /// All of it.
    #[default]
    Full,
    /// What does work, and not how calls get from one Python function to the next (`machinery`).
    Work,
    /// Nothing: it says nothing to who looks for memory.
    Hidden,
}

impl View {
    /// The sample type that is shown.
    pub(crate) fn value_type(&self, profile: &Profile) -> anyhow::Result<ValueType> {
        profile.sample_types.get(self.value).copied().with_context(|| {
            format!(
                "this profile has {} kinds of values, there is no number {}",
                profile.sample_types.len(),
                self.value
            )
        })
    }
}

/// The formats a profile can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Flame graph with search and zoom, for a browser.
    #[value(alias = "flamegraph")]
    Svg,
    /// A page for a browser: flame graph, tables, callers, lines, threads.
    #[value(alias = "page")]
    Html,
    /// One line per stack, `main;f;g 12`, for scripts and other flame graph tools.
    #[value(aliases = ["collapsed", "raw"])]
    Folded,
    /// JSON for <https://www.speedscope.app>.
    Speedscope,
    /// Compressed protobuf for `go tool pprof` and this program; keeps everything.
    Pprof,
}

impl Format {
    /// The format a file's name stands for, or `None` if its ending is not one we know.
    pub fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        ENDINGS
            .iter()
            .find(|(ending, _)| name.ends_with(ending))
            .map(|(_, format)| *format)
    }

    /// The ending of a file in this format, without its dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Html => "html",
            Self::Folded => "folded",
            Self::Speedscope => "speedscope.json",
            Self::Pprof => "pb.gz",
        }
    }

    /// Whether it says when samples were: others need not have that counted.
    pub fn shows_time(self) -> bool {
        match self {
            Self::Html | Self::Pprof | Self::Speedscope => true,
            Self::Svg | Self::Folded => false,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Html => "html",
            Self::Folded => "folded",
            Self::Speedscope => "speedscope",
            Self::Pprof => "pprof",
        }
    }

    pub fn writer(self) -> Box<dyn Writer> {
        match self {
            Self::Svg => Box::new(flamegraph::FlameGraph),
            Self::Html => Box::new(page::Page),
            Self::Folded => Box::new(folded::Folded),
            Self::Speedscope => Box::new(speedscope::Speedscope),
            Self::Pprof => Box::new(pprof::Pprof),
        }
    }
}

impl FromStr for Format {
    type Err = String;

    /// Reads what `-f` takes, aliases included.
    fn from_str(name: &str) -> Result<Self, String> {
        <Self as clap::ValueEnum>::from_str(name, false)
    }
}

const ENDINGS: [(&str, Format); 10] = [
    (".svg", Format::Svg),
    (".html", Format::Html),
    (".htm", Format::Html),
    (".folded", Format::Folded),
    (".collapsed", Format::Folded),
    (".txt", Format::Folded),
    (".json", Format::Speedscope),
    (".pb.gz", Format::Pprof),
    (".pprof", Format::Pprof),
    (".pb", Format::Pprof),
];
