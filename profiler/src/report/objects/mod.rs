//! Reports of `profiler objects`: what a process consists of, and who holds it.
//!
//! | module | makes |
//! |---|---|
//! | [`rows`] | rows: sums by type, module or holder |
//! | [`table`] | the report as text |
//! | [`export`] | JSON (documented in docs/objects.md) and folded text |
//! | [`graph`] | the paths to objects as a graph: DOT and SVG |
//! | [`grown`] | what became more, as the first block of `profiler memory` |

use std::time::Duration;

use crate::objects::{
    account::Account,
    growth::Growth,
    questions::{Large, Referrers},
};

pub mod export;
pub mod graph;
pub mod grown;
pub mod rows;
pub mod table;

#[cfg(test)]
mod tests;

/// What rows stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ObjectsBy {
    /// Types.
    #[default]
    Type,
    /// Modules that hold the objects.
    Module,
    /// What holds the objects: a name in a module.
    Holder,
}

impl ObjectsBy {
    pub fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Module => "module",
            Self::Holder => "holder",
        }
    }
}

/// One process.
#[derive(Debug)]
pub struct ObjectsReport {
    pub pid: u32,
    /// What it runs, in a few words.
    pub command: String,
    pub version: String,
    pub account: Account,
    /// Since so long ago.
    pub growth: Option<(Growth, Duration)>,
    pub referrers: Option<Referrers>,
    pub largest: Option<Vec<Large>>,
    pub by: ObjectsBy,
    pub top: usize,
}
