//! What is said of processes that were not recorded because nobody asked for them: a launcher's children do its work.

use serde::Serialize;

use super::counted;
use crate::{humanize, process::offspring::Used};

/// What children of the targets did meanwhile, and children of theirs. Only where they are not recorded.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Children {
    pub processes: u64,
    pub cpu_s: f64,
    /// The change of what those had resident that were there all the time.
    pub resident_change_bytes: i64,
    #[serde(skip)]
    own_cpu_s: f64,
    #[serde(skip)]
    of: &'static str,
    /// Whether memory is what the recording is about.
    #[serde(skip)]
    of_memory: bool,
}

impl Children {
    pub fn new(used: &Used, targets: usize, of_memory: bool) -> Self {
        Self {
            processes: used.processes,
            cpu_s: used.cpu.as_secs_f64(),
            resident_change_bytes: used.resident_change,
            own_cpu_s: used.own_cpu.as_secs_f64(),
            of: if targets == 1 { "it" } else { "them" },
            of_memory,
        }
    }

    /// `12 children of it used 31 % of a CPU: add -s`, where that is worth a line. `recorded`: whether anything was.
    pub(super) fn line(&self, length_s: f64, recorded: bool) -> Option<String> {
        /// /proc counts in hundredths of a second.
        const LEAST_S: f64 = 0.02;
        const LEAST_GROWTH: u64 = 1 << 20;
        let share = self.cpu_s / length_s.max(1e-9);
        let ran = self.cpu_s >= LEAST_S && (!recorded || (share >= 0.01 && self.cpu_s >= self.own_cpu_s / 10.0));
        let growth = u64::try_from(self.resident_change_bytes).unwrap_or(0);
        let grew = self.of_memory && growth >= LEAST_GROWTH;
        let used = format!("used {} of a CPU", whole_percent(share));
        let did = match (ran, grew) {
            (false, false) => return None,
            (true, false) => used,
            (true, true) => format!("{used} and grew by {}", humanize::bytes(growth)),
            (false, true) => format!("grew by {}", humanize::bytes(growth)),
        };
        let children = counted(self.processes, "child", "children");
        Some(format!("{children} of {} {did}: add -s", self.of))
    }
}

/// As many digits as can be true of what is counted in hundredths of a second.
fn whole_percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent < 1.0 => "less than 1 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn children(processes: u64, cpu_ms: u64, own_cpu_ms: u64, resident_change: i64) -> Children {
        let used = Used {
            processes,
            cpu: Duration::from_millis(cpu_ms),
            own_cpu: Duration::from_millis(own_cpu_ms),
            resident_change,
        };
        Children::new(&used, 1, resident_change != 0)
    }

    #[test]
    fn who_does_the_work_is_told_with_the_remedy() {
        let line = children(12, 3_100, 10, 0).line(10.0, true);
        assert_eq!(line.as_deref(), Some("12 children of it used 31 % of a CPU: add -s"));
        let line = children(1, 30, 0, 0).line(10.0, false);
        assert_eq!(
            line.as_deref(),
            Some("1 child of it used less than 1 % of a CPU: add -s")
        );
        let line = children(4, 24_000, 0, 12 << 20).line(10.0, true);
        assert_eq!(
            line.as_deref(),
            Some("4 children of it used 240 % of a CPU and grew by 12.0 MiB: add -s")
        );
        let line = children(4, 0, 0, 12 << 20).line(10.0, true);
        assert_eq!(line.as_deref(), Some("4 children of it grew by 12.0 MiB: add -s"));
    }

    #[test]
    fn what_is_little_is_not_told() {
        assert_eq!(children(0, 0, 0, 0).line(10.0, false), None);
        assert_eq!(children(3, 10, 0, 0).line(10.0, false), None);
        assert_eq!(children(3, 50, 0, 0).line(10.0, true), None);
        // Beside what the process does by itself.
        assert_eq!(children(3, 500, 8_000, 0).line(10.0, true), None);
        assert!(children(3, 1_000, 8_000, 0).line(10.0, true).is_some());
    }
}
