//! A comparison as text, as JSON and SARIF, as a flame graph and as a page. It says first what it comes to, then what that is from.

mod json;
mod sarif;
#[cfg(test)]
mod tests;
pub(crate) mod text;

use std::io::Write;

pub use self::{json::write_json, sarif::write_sarif, text::text};
use super::{View, flamegraph, page};
use crate::{
    diff::{Diff, Normal, gate::Held, verdict::Verdict},
    profile::Profile,
};

/// A flame graph of what came after; red has become more, blue less.
pub fn write_svg(diff: &Diff, verdict: &Verdict, sides: [&Profile; 2], out: &mut dyn Write) -> anyhow::Result<()> {
    let [before, after] = sides;
    let index = diff.measure.index_of(after);
    let view = View {
        title: verdict.sentence.clone(),
        subtitle: format!(
            "width: after; red: more than before, blue: less ({})",
            text::compared(diff)
        ),
        value: index,
        interpreter: super::Interpreter::Work,
        ..View::default()
    };
    // What values are divided by, the graph divides by too: before is brought to after's measure.
    let scale = match (&diff.measure.normal, diff.measure.seconds) {
        (Normal::Time, [before, after]) if before > 0.0 => after / before,
        (Normal::Per { before, after, .. }, _) => after / before,
        (Normal::Samples, _) => {
            let total = |profile: &Profile| profile.total(diff.measure.index_of(profile)) as f64;
            total(after) / total(before)
        }
        (Normal::Recording | Normal::Level, _) => diff.recordings[1] as f64 / diff.recordings[0] as f64,
        (Normal::Time, _) => 1.0,
    };
    flamegraph::write_difference([before, after], diff.measure.index_of(before), scale, &view, out)
}

/// A page for a browser: the sentence, the list, and pictures and tables of both sides, of which `tables` has the numbers:
/// the same with rows for machine code.
pub fn write_page(
    diff: &Diff,
    verdict: &Verdict,
    held: &[Held],
    tables: &Diff,
    sides: [&Profile; 2],
    names: [&str; 2],
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    page::write_difference(diff, verdict, held, tables, sides, names, out)
}
