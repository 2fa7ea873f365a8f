//! What is said above the table of threads that wait with the GIL: a C function that does not release it. Whoever looks for
//! a slow service does not look for that by himself.

use super::{
    WaitsReport,
    rows::{Detailed, Row, rows},
    table::time,
};
use crate::{humanize::percent, report::layout::paragraph, summary::many, waits::cause::Cause};

/// So many lines are told.
const MOST: usize = 3;
/// What is shorter than this at a time, and less than this part of the recording all together, is no finding.
const LEAST_NS: u64 = 10_000_000;
const LEAST_SHARE: f64 = 0.005;

/// A paragraph each, or nothing.
pub(super) fn findings(report: &WaitsReport, width: usize) -> String {
    let length = report.length.as_nanos().max(1) as f64;
    let rows = rows(report, Detailed::No);
    let (ready, blocked): (Vec<&Row>, Vec<&Row>) = (rows.iter())
        .filter(|row| row.key.holds_gil)
        .partition(|row| row.key.cause == Cause::Ready);
    let matters = |row: &&Row| row.sums.longest_ns >= LEAST_NS || row.sums.ns as f64 >= LEAST_SHARE * length;
    let blocked: Vec<&Row> = blocked.into_iter().filter(matters).collect();
    let mut text = String::new();
    for row in blocked.iter().take(MOST) {
        text.push_str(&paragraph(&finding(row), width));
    }
    if blocked.len() > MOST {
        let others = many((blocked.len() - MOST) as u64, "other line");
        text.push_str(&paragraph(&format!("So do {others}."), width));
    }
    let sum = |of: fn(&Row) -> u64| ready.iter().fold(0u64, |sum, row| sum.saturating_add(of(row)));
    let (without_cpu, others) = (sum(|row| row.sums.ns), sum(|row| row.sums.others_ns));
    // Of a single thread that is nobody's matter but its own.
    if others as f64 >= LEAST_SHARE * length {
        let share = percent(without_cpu as f64 / length);
        text.push_str(&paragraph(
            &format!(
                "For {} ({share} of the time) a thread that had the GIL was ready and got no CPU{}.",
                time(without_cpu),
                meanwhile(others)
            ),
            width,
        ));
    }
    text
}

fn finding(row: &Row) -> String {
    let mut text = format!(
        "The GIL is held while blocked: {} waits ({}) without releasing it, {} in {}",
        row.key.place.name,
        row.key.cause.name(),
        time(row.sums.ns),
        many(row.sums.count, "wait"),
    );
    if row.sums.count > 1 {
        text.push_str(&format!(", {} at most", time(row.sums.longest_ns)));
    }
    text.push_str(&meanwhile(row.sums.others_ns));
    text.push('.');
    text
}

fn meanwhile(others_ns: u64) -> String {
    match others_ns {
        0 => String::new(),
        others => format!("; others waited {} for it meanwhile", time(others)),
    }
}
