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
    /// Waits that have ended, and those of which a stack was to be taken.
    pub waits: u64,
    pub drawn: u64,
    /// From this length on all have a stack, at the end.
    pub target_ns: u64,
    pub lost_stacks: u64,
    /// Waits without a stack because their threads were on their last steps.
    pub ending: u64,
    pub lost_threads: u64,
    /// Switches that were seen afterwards only: the wait before each is counted without a stack.
    pub lost_switches: u64,
    /// Waits whose line or target is not told because there were too many different ones.
    pub forgotten: u64,
    /// Stacks were taken at the end of system calls, which costs every one of the machine.
    pub every_call: bool,
    /// Event loops that did not poll for long, if that was asked for, and those that could not be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalls: Option<u64>,
    pub lost_stalls: u64,
    /// Calls that move data, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<IoSummary>,
}

/// What following calls that move data came to.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct IoSummary {
    pub calls: u64,
    pub drawn: u64,
    pub lost_stacks: u64,
    /// Told without what lies behind their descriptors.
    pub without_file: u64,
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
            "{} in {}{reason}; {} of the threads' time is accounted for",
            many(self.waits, "wait"),
            duration(length),
            percent(self.accounted),
        ));
        lines.push(format!(
            "{} have their stacks: all of {} and more, of shorter ones some",
            count(self.drawn.saturating_sub(self.ending + self.lost_stacks)),
            duration(Duration::from_nanos(self.target_ns)),
        ));
        if self.ending > 0 {
            let verb = if self.ending == 1 { "has" } else { "have" };
            lines.push(format!(
                "{} {verb} none: on their last steps threads have no stack any more",
                count(self.ending)
            ));
        }
        if let Some(io) = self.io {
            lines.push(format!(
                "{}, exact by thread and file; shared out to lines by {} stacks",
                many(io.calls, "I/O call"),
                count(io.drawn),
            ));
        }
        let io = self.io.as_ref();
        let lost = [
            (self.lost_stalls, "stalls of event loops"),
            (io.map_or(0, |io| io.lost_stacks), "stacks of I/O calls"),
            (
                io.map_or(0, |io| io.without_file),
                "files of I/O calls because the table was full",
            ),
            (self.lost_stacks + self.lost_switches, "stacks of waits"),
            (self.lost_threads, "threads because the table was full"),
            (self.forgotten, "lines or targets of waits because the account was full"),
        ];
        lines.extend(list("lost", &reasons(&lost)));
        let meanwhile = match (self.stalls, self.io) {
            (None, None) => "",
            (Some(_), None) => "--stalls",
            (None, Some(_)) => "--io",
            (Some(_), Some(_)) => "--stalls and --io",
        };
        if !meanwhile.is_empty() {
            lines.push(format!(
                "each system call on the machine took {} µs longer for {meanwhile}",
                if self.io.is_some() { "0.2" } else { "0.1" }
            ));
        }
        if self.every_call {
            lines.push("this kernel has no sched_exit_tp (Linux 6.16): for the stacks,".to_owned());
            lines.push("  each system call on the machine took some 0.1 µs longer".to_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_without_a_stack_are_not_among_those_that_have_one() {
        let waits = WaitsSummary {
            shows_table: true,
            threads: 8,
            elapsed_s: 2.0,
            on_cpu_s: 1.0,
            waiting_s: 1.0,
            accounted: 1.0,
            waits: 2_687,
            drawn: 1_058,
            target_ns: 2_000_000,
            lost_stacks: 3,
            ending: 49,
            lost_threads: 0,
            lost_switches: 0,
            forgotten: 0,
            every_call: false,
            stalls: None,
            lost_stalls: 0,
            io: None,
        };
        let lines = waits.lines(Duration::from_secs(2), "");
        let has = |text: &str| lines.iter().any(|line| line.starts_with(text));
        assert!(has("1,006 have their stacks") && has("49 have none"), "{lines:#?}");
        assert!(has("lost: 3 stacks of waits"), "{lines:#?}");
        let one = WaitsSummary {
            lost_stacks: 1,
            ..waits
        };
        let lines = one.lines(Duration::from_secs(2), "");
        assert!(lines.iter().any(|line| line == "lost: 1 stack of waits"), "{lines:#?}");
    }
}
