//! Which processes were not counted from their first call on, and by how much that was.

use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::report::calls::Beginning;

/// Processes that began in the recording, before there were probes in what they run.
#[derive(Default)]
pub(super) struct Late {
    /// By pid and when it began: how much later counting did. Not at all of those that are whole.
    late: FxHashMap<(u32, u64), Duration>,
    missed: u64,
}

impl Late {
    /// A process that began at one time is counted since another (CLOCK_MONOTONIC).
    pub fn began(&mut self, pid: u32, began_ns: u64, since_ns: u64) {
        // Told again it is no later: probes may have made way for breakpoints, and have come back for others.
        self.late
            .entry((pid, began_ns))
            .or_insert_with(|| Duration::from_nanos(since_ns.saturating_sub(began_ns)));
    }

    /// Whether that process is known already.
    pub fn knows(&self, pid: u32, began_ns: u64) -> bool {
        self.late.contains_key(&(pid, began_ns))
    }

    /// A process had ended before it could be counted.
    pub fn missed(&mut self) {
        self.missed += 1;
    }

    /// For the report.
    pub fn told(&self) -> Beginning {
        Beginning {
            late: self.late.values().filter(|late| !late.is_zero()).count() as u64,
            most: self.late.values().max().copied().unwrap_or_default(),
            missed: self.missed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_counted_from_the_first_call_on_is_not_late_when_probes_come_back() {
        let mut late = Late::default();
        late.began(1, 100, 50);
        late.began(1, 100, 900);
        assert!(late.knows(1, 100) && !late.knows(1, 200));
        assert_eq!(late.told().late, 0);
        // The same process after an exec, which nobody watched.
        late.began(1, 200, 900);
        late.began(1, 200, 1_000);
        let told = late.told();
        assert_eq!((told.late, told.most), (1, Duration::from_nanos(700)));
    }
}
