//! What is said at the end of a recording of exceptions, imports or garbage collections.

use std::time::Duration;

use serde::Serialize;

use super::{Summary, many};
use crate::{governor::SlowDown, humanize::duration};

/// What seeing exceptions, imports or garbage collections came to.
#[derive(Clone, Debug, Serialize)]
pub struct MarksSummary {
    /// In words, where the table does not say them.
    #[serde(skip)]
    pub lines: Vec<String>,
    pub entry_hits: u64,
    pub return_hits: u64,
    /// Hits of probes in processes that nobody asked for.
    pub other_hits: u64,
    /// What could not be told: the ring buffer was full.
    pub lost: u64,
    pub trap_ns: f64,
    /// How many times as long the program took for us.
    pub slow_down: SlowDown,
}

impl Summary {
    pub(super) fn of_marks(&self, marks: &MarksSummary, length: Duration, reason: &str) -> Vec<String> {
        let mut lines = marks.lines.clone();
        lines.push(match marks.entry_hits + marks.return_hits {
            // Of nothing there is no cost to tell, and the quotient for it is one of accidents.
            0 => format!("no probe was hit in {}{reason}", duration(length)),
            hits => format!(
                "{} of probes in {}, {:.2} µs each besides what our program does there{reason}",
                many(hits, "hit"),
                duration(length),
                marks.trap_ns / 1e3,
            ),
        });
        if marks.other_hits > 0 {
            lines.push(format!(
                "{} of probes in processes that were not asked for, which run the same interpreter",
                many(marks.other_hits, "hit"),
            ));
        }
        lines.extend(self.children_line());
        self.what_is_missing(&mut lines);
        lines.push(self.cost.line(length, "hit"));
        lines
    }
}
