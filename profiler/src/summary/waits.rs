//! What following waits came to.

use std::time::Duration;

use serde::Serialize;

use super::{list, many, reasons};
use crate::humanize::{count, duration, percent};

/// What following waits came to.
#[derive(Clone, Debug, Serialize)]
pub struct WaitsSummary {
    /// The table is beside it, which says the same above its first row.
    #[serde(skip)]
    pub shows_table: bool,
    pub threads: u64,
    /// Of all threads together.
    pub elapsed_s: f64,
    pub on_cpu_s: f64,
    pub waiting_s: f64,
    /// What part of the threads' time is one or the other.
    pub accounted: f64,
    /// Waits that have ended, and those of which there is a stack.
    pub waits: u64,
    pub drawn: u64,
    /// From this length on all have a stack, at the end.
    pub target_ns: u64,
    pub lost_stacks: u64,
    pub lost_threads: u64,
    /// Switches that were not seen: what a thread did around one is not accounted for.
    pub lost_switches: u64,
    /// Waits whose line or target is not told because there were too many different ones.
    pub forgotten: u64,
    /// Stacks were taken at the end of system calls, which costs every one of the machine.
    pub every_call: bool,
}

impl WaitsSummary {
    pub(super) fn lines(&self, length: Duration, reason: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let share = |seconds: f64| percent(seconds / self.elapsed_s.max(1e-9));
        if !self.shows_table {
            lines.push(format!(
                "{}: {} of their time on a CPU, {} waiting",
                many(self.threads, "thread"),
                share(self.on_cpu_s),
                share(self.waiting_s),
            ));
        }
        lines.push(format!(
            "{} in {}{reason}, {} with their stacks: all of {} and more, of shorter ones some; {} of the threads' time is \
             accounted for",
            many(self.waits, "wait"),
            duration(length),
            count(self.drawn),
            duration(Duration::from_nanos(self.target_ns)),
            percent(self.accounted),
        ));
        let lost = [
            (self.lost_stacks, "stacks of waits"),
            (self.lost_threads, "threads because the table was full"),
            (self.lost_switches, "switches of threads"),
            (self.forgotten, "lines or targets of waits because the account was full"),
        ];
        lines.extend(list("lost", &reasons(&lost)));
        if self.every_call {
            lines.push(
                "this kernel has no sched_exit_tp (Linux 6.16): stacks were taken at the end of system calls, each of which \
                 took some 0.1 µs longer on the whole machine"
                    .to_owned(),
            );
        }
        lines
    }
}
