//! What became more of the objects of a process, as the first block of `profiler memory`.

use std::fmt::Write as _;

use super::{ObjectsBy, table};
use crate::{
    humanize::{self, bytes_change},
    objects::watch::Grown,
    report::layout::{clauses, span},
    shown,
};

/// Types and ways that are shown of each process, and processes.
const TYPES: usize = 5;
const WAYS: usize = 4;
const PROCESSES: usize = 3;

/// Each process in which something became more, and an empty line at the end.
pub fn text(grown: &[Grown], width: usize) -> String {
    let mut text = String::new();
    for process in grown.iter().take(PROCESSES) {
        let total = &process.growth.total;
        let parts = [
            format!("{} ({})", shown::line(&process.command), process.pid),
            format!(
                "objects in {}: {}, {}",
                span(process.length),
                table::signed(total.objects),
                bytes_change(total.whole)
            ),
            format!(
                "all looked at twice, in {} and {}",
                humanize::duration(process.took[0]),
                humanize::duration(process.took[1])
            ),
        ];
        text.push_str(&clauses("", &parts, width));
        let more = process.growth.kinds.iter().filter(|(_, change)| change.whole > 0);
        if total.whole <= 0 && more.count() == 0 {
            text.push_str("  nothing became more\n\n");
            continue;
        }
        text.push_str(&table::added(&process.growth, width));
        let _ = write!(
            text,
            "\n{}",
            table::grown(&process.growth, ObjectsBy::Type, TYPES, width)
        );
        text.push_str(&table::ways_of_growth(&process.growth, WAYS, width));
        text.push('\n');
    }
    text
}

/// The same in one line, where no table is shown.
pub fn lines(grown: &[Grown]) -> Vec<String> {
    let first = |process: &Grown| {
        let (path, change) = process.growth.holders.iter().find(|(_, change)| change.whole > 0)?;
        Some(format!(
            "Of the objects of {} most became more here: {}, {}, {}.",
            process.pid,
            shown::line(&path.text()),
            table::signed(change.objects),
            bytes_change(change.whole)
        ))
    };
    grown.iter().take(PROCESSES).filter_map(first).collect()
}
