//! `profiler diff`: whether two profiles differ, by how much, and where.
//!
//! Pure functions on [`Profile`]s: files are read and reports written elsewhere (`reread::diff`, [`report::diff`]).
//!
//! ```text
//! profiles ─▶ measure ─▶ blocks (over rows) ─▶ estimate ─▶ Diff ─▶ verdict, gate ─▶ report::diff
//!                                                 statistics
//! ```
//!
//! | module | does |
//! |---|---|
//! | [`measure`] | which value is compared, and by what it is divided first |
//! | [`rows`] | stacks to functions, lines, files, modules, packages |
//! | [`blocks`] | each side's parts that bear witness |
//! | `bursts` | what comes in bursts, of which samples say less |
//! | `delays` | how much of what was waited depends on how busy the machine was |
//! | [`estimate`] | what each row differs by, and how exact that is |
//! | [`statistics`] | intervals, and lists that are right in 95 of 100 |
//! | [`verdict`] | the one sentence |
//! | [`gate`] | `--fail-on` |
//! | [`merge()`] | many recordings as one |
//! | [`beside()`] | two sides as one, with two values |
//!
//! [`report::diff`]: crate::report::diff

pub mod beside;
pub mod blocks;
mod bursts;
mod delays;
pub mod estimate;
pub mod gate;
#[cfg(test)]
pub(crate) mod made;
pub mod measure;
pub mod merge;
pub mod rows;
#[cfg(test)]
mod simulated;
pub mod statistics;
pub mod verdict;

pub use self::{
    beside::{Beside, beside},
    blocks::Over,
    estimate::{Diff, Method, Row},
    measure::{Measure, Normal, Refusal},
    merge::merge,
    rows::By,
};
use crate::profile::Profile;

/// How two sides are to be compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    pub by: By,
    /// Machine code has rows of its own below Python, too.
    pub native: bool,
    pub value: Option<String>,
    pub normal: Option<Normal>,
    pub over: Over,
    /// What recordings of one program are taken to differ by where nothing shows it (docs/diff.md).
    pub noise: f64,
}

/// Compares two sides.
///
/// # Errors
/// If they cannot be compared.
pub fn compare(before: &[Profile], after: &[Profile], asked: &Asked) -> Result<Diff, Refusal> {
    let measure = Measure::choose([before, after], asked.value.as_deref(), asked.normal.clone())?;
    estimate::estimate([before, after], measure, asked)
}
