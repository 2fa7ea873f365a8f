//! What each group of programs in the kernel cost and lost, where there are several.

use std::time::Duration;

use profiler_common::{
    group::Group,
    stats::{COUNTERS, Counter},
};
use serde::Serialize;

use super::many;
use crate::humanize::percent;

/// Programs at one kind of event.
#[derive(Clone, Debug, Serialize)]
pub struct Programs {
    /// At what.
    pub event: &'static str,
    /// Stacks that they took.
    pub stacks: u64,
    /// As they measured themselves; none where they take no stacks, and only count.
    pub ns_per_stack: Option<f64>,
    pub cpu_share: f64,
    pub longest_ns: u64,
    /// Stacks that did not arrive.
    pub lost: u64,
}

impl Programs {
    /// Of those that did something.
    pub fn of(counted: &[(Group, [u64; COUNTERS])], length: Duration) -> Vec<Self> {
        let groups = counted.iter().filter_map(|(group, counters)| {
            let counter = |counter: Counter| counters[counter as usize];
            let (stacks, run_time_ns) = (counter(Counter::Samples), counter(Counter::RunTimeNs));
            (stacks > 0 || run_time_ns > 0).then(|| Self {
                event: event(*group),
                stacks,
                ns_per_stack: (stacks > 0).then(|| run_time_ns as f64 / stacks as f64),
                cpu_share: run_time_ns as f64 / 1e9 / length.as_secs_f64().max(1e-9),
                longest_ns: counter(Counter::LongestNs),
                lost: counter(Counter::LostRingFull)
                    + counter(Counter::LostNoContext)
                    + counter(Counter::LostNoScratch),
            })
        });
        groups.collect()
    }

    pub(super) fn line(&self) -> String {
        let lost = match self.lost {
            0 => String::new(),
            lost => format!(", {} lost", many(lost, "stack")),
        };
        let share = percent(self.cpu_share);
        let Some(ns_per_stack) = self.ns_per_stack else {
            return format!("cost of programs at {}: {share} of a CPU{lost}", self.event);
        };
        format!(
            "cost of programs at {}: {}, {:.1} µs each ({share} of a CPU), {:.0} µs at most{lost}",
            self.event,
            many(self.stacks, "stack"),
            ns_per_stack / 1e3,
            self.longest_ns as f64 / 1e3,
        )
    }
}

fn event(group: Group) -> &'static str {
    match group {
        Group::Clock => "the CPU clock",
        Group::Faults => "page faults",
        Group::Calls => "ends of system calls",
        Group::Probes => "probes",
        Group::Waits => "ends of waits",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_its_own_cost_and_losses() {
        let counted = |stacks, run_time_ns, lost| {
            let mut counters = [0; COUNTERS];
            counters[Counter::Samples as usize] = stacks;
            counters[Counter::RunTimeNs as usize] = run_time_ns;
            counters[Counter::LongestNs as usize] = 40_000;
            counters[Counter::LostRingFull as usize] = lost;
            counters
        };
        let groups = [
            (Group::Clock, counted(990, 990 * 6_000, 0)),
            (Group::Faults, counted(0, 0, 0)),
            (Group::Waits, counted(2_000, 2_000 * 10_000, 1)),
            (Group::Probes, counted(0, 30_000_000, 0)),
        ];
        let told = Programs::of(&groups, Duration::from_secs(10));
        let lines: Vec<String> = told.iter().map(Programs::line).collect();
        assert_eq!(
            lines,
            [
                "cost of programs at the CPU clock: 990 stacks, 6.0 µs each (0.06 % of a CPU), 40 µs at most",
                "cost of programs at ends of waits: 2,000 stacks, 10.0 µs each (0.20 % of a CPU), 40 µs at most, 1 stack \
                 lost",
                "cost of programs at probes: 0.30 % of a CPU",
            ]
        );
    }
}
