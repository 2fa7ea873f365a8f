//! Which processes were not counted from their first call on, and by how much that was.

use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::report::calls::Beginning;

/// Processes that began in the recording, before there were probes in what they run.
#[derive(Default)]
pub(super) struct Late {
    /// By pid and when it began: how much later counting did.
    late: FxHashMap<(u32, u64), Duration>,
    missed: u64,
}

impl Late {
    /// A process that began at one time is counted since another (CLOCK_MONOTONIC).
    pub fn began(&mut self, pid: u32, began_ns: u64, since_ns: u64) {
        if let Some(late) = since_ns.checked_sub(began_ns).filter(|&late| late > 0) {
            // Told again it is no later.
            self.late
                .entry((pid, began_ns))
                .or_insert_with(|| Duration::from_nanos(late));
        }
    }

    /// A process had ended before it could be counted.
    pub fn missed(&mut self) {
        self.missed += 1;
    }

    /// For the report.
    pub fn told(&self) -> Beginning {
        Beginning {
            late: self.late.len() as u64,
            most: self.late.values().max().copied().unwrap_or_default(),
            missed: self.missed,
        }
    }
}
