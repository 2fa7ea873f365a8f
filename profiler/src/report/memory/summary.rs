//! The summary for standard error: the whole in a few lines, and what to make of the numbers.

use super::{
    MemoryKind, MemoryReport, Shown, Source,
    group::{Indices, Sums},
    layout::span,
};
use crate::humanize::{bytes, count, percent};

/// A few sentences on all of a report. What became of the processes is in `table::processes`.
pub fn lines(report: &MemoryReport) -> Vec<String> {
    told(report, false)
}

/// The same of a window: what is in use is part of all that came in its recording so far, and not of what came in the window.
pub fn lines_of_window(report: &MemoryReport) -> Vec<String> {
    told(report, true)
}

fn told(report: &MemoryReport, is_window: bool) -> Vec<String> {
    let totals = Totals::of(report);
    let all = &totals.all;
    let length = span(report.length);
    if all.alloc_bytes == 0 && all.inuse_bytes == 0 {
        return vec![super::nothing_came(report)];
    }

    let objects = match report.exact {
        true => "blocks",
        false => "pages",
    };
    let came = format!(
        "{} in {} {objects} came in {length}",
        with_error(all.alloc_bytes, all.alloc_error()),
        count(all.alloc_objects)
    );
    let share = match all.alloc_bytes {
        0 => String::new(),
        came => format!(" ({})", percent(all.inuse_bytes as f64 / came as f64)),
    };
    let inuse = format!("{}{share}", with_error(all.inuse_bytes, all.inuse_error()));
    let mut lines = vec![match report.shown {
        _ if is_window => {
            let inuse = with_error(all.inuse_bytes, all.inuse_error());
            let old = match report.shown {
                Shown::Leaks { older_than } => format!(" and is older than {}", span(older_than)),
                _ => String::new(),
            };
            format!("{came}; of all that came since the start {inuse} is there{old}.")
        }
        Shown::Live | Shown::Allocated => format!("{came}; {inuse} is still there."),
        Shown::Leaks { older_than } => format!("{came}; {inuse} is older than {} and still there.", span(older_than)),
        Shown::Peak => format!("{came}; {inuse} was there at the peak."),
        Shown::Temporary => format!("{came}; {inuse} was temporary."),
    }];

    let mut parts = Vec::new();
    if totals.free > 0 {
        parts.push(format!("{} is free but kept by the allocator", bytes(totals.free)));
    }
    if totals.file > 0 {
        parts.push(format!(
            "{} is pages of mapped files, worked out rather than seen (~, error not known)",
            bytes(totals.file)
        ));
    }
    if totals.shared > 0 {
        parts.push(format!("{} is shared memory, worked out as well", bytes(totals.shared)));
    }
    if totals.copies > 0 {
        parts.push(format!(
            "{} is copies of pages that were shared since a fork, which RSS does not show",
            bytes(totals.copies)
        ));
    }
    let others = all
        .estimated_bytes
        .saturating_sub(totals.file)
        .saturating_sub(totals.shared);
    if others > 0 {
        parts.push(format!(
            "{} is worked out rather than seen (~, error not known)",
            bytes(others)
        ));
    }
    if !parts.is_empty() {
        lines.push(format!("Of the latter, {}.", parts.join("; ")));
    }
    if report.shared_again > 0 {
        lines.push(format!(
            "{} more of what the processes' RSS grew by is memory that one of the others had touched before: it is there \
             once, and counted once.",
            bytes(report.shared_again)
        ));
    }
    if report.perhaps_copied >= WORTH_TELLING {
        lines.push(format!(
            "{} was written to that other processes had as well since a fork, or had had: copies, most likely, which RSS \
             does not show and no row has. Name a process with -p to see whose they are.",
            bytes(report.perhaps_copied)
        ));
    }
    if all.inuse_error() > 0 || all.alloc_error() > 0 {
        let why = match report.source {
            // Asked for.
            Source::Blocks => "Sampled:",
            Source::Pages | Source::Pools | Source::Mapped => "Sampled, as there was too much to see it all:",
        };
        lines.push(format!("{why} ± holds the true number 19 times out of 20."));
    }
    lines
}

/// Every shell copies some pages when it starts something.
const WORTH_TELLING: u64 = 1 << 20;

#[derive(Default)]
struct Totals {
    all: Sums,
    free: u64,
    file: u64,
    shared: u64,
    copies: u64,
}

impl Totals {
    fn of(report: &MemoryReport) -> Self {
        let indices = Indices::of(&report.profile);
        let mut totals = Self::default();
        for ((_, values), index) in report.profile.samples().zip(0..) {
            let values = indices.values(values);
            let detail = report.details.get(index).cloned().unwrap_or_default();
            totals.all.add(&Sums::of(&values, &detail));
            let part = match detail.kind {
                MemoryKind::Free => &mut totals.free,
                MemoryKind::File => &mut totals.file,
                MemoryKind::Shared => &mut totals.shared,
                MemoryKind::Copies => &mut totals.copies,
                MemoryKind::Anonymous | MemoryKind::Blocks => continue,
            };
            *part = part.saturating_add(values.inuse_bytes);
        }
        totals
    }
}

fn with_error(number: u64, error: u64) -> String {
    match error {
        0 => bytes(number),
        _ => format!("{} ± {}", bytes(number), bytes(error)),
    }
}
