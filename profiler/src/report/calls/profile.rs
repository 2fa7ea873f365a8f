//! What was counted, beside the samples of CPU time that were taken meanwhile: what a page shows.
//!
//! Nobody sees the stack of a call that is counted, so calls are of a function alone, or, of functions that were timed, below
//! who called them. How exact counts are the page's words say, not its numbers: those that are estimates are called so.

use super::{CallsReport, Function, merge::merged};
use crate::profile::{Frame, FrameId, FrameKind, Labels, Profile, SampleKey, ValueType};

/// Where calls are among the values, behind samples and their time.
pub const CALLS_VALUE: usize = 2;

/// Calls beside the samples of `cpu`.
pub fn profile(report: &CallsReport, mut cpu: Profile) -> Profile {
    let is_exact = |function: &Function| function.calls.is_none_or(|count| count.exact);
    let kind = match (report.one_window, report.functions.iter().all(is_exact)) {
        (true, _) => "calls at least",
        (false, false) => "estimated calls",
        (false, true) => "calls",
    };
    cpu.add_value(ValueType { kind, unit: "count" }, std::iter::empty());
    let labels = labels(&cpu);
    let functions = merged(&report.functions);
    for function in &functions {
        let Some(all) = function.calls.map(|count| count.all).filter(|all| *all > 0) else {
            continue;
        };
        let called = frame(&mut cpu, function, function.first_line);
        // What was measured in windows is less than what is told of all, and is then of nobody.
        let callers = function.callers.iter().filter(|caller| caller.calls > 0);
        let known = callers
            .clone()
            .fold(0_u64, |sum, caller| sum.saturating_add(caller.calls));
        let mut rest = all;
        for caller in callers.filter(|_| known <= all) {
            if let Some(by) = functions.get(caller.function) {
                // Which of its lines called, nobody knows.
                let by = frame(&mut cpu, by, 0);
                add(&mut cpu, &labels, &[called, by], caller.calls);
                rest -= caller.calls;
            }
        }
        add(&mut cpu, &labels, &[called], rest);
    }
    cpu
}

/// Of the process, if it is one.
fn labels(cpu: &Profile) -> Labels {
    let mut labels = cpu.samples().map(|(key, _)| &key.labels);
    let first = labels.next();
    let one = first.filter(|first| labels.all(|other| other.pid == first.pid));
    Labels {
        pid: one.map_or(0, |one| one.pid),
        tid: 0,
        comm: one.map_or(Profile::EMPTY, |one| one.comm),
        command: one.map_or(Profile::EMPTY, |one| one.command),
        thread: Profile::EMPTY,
        cgroup: one.map_or(Profile::EMPTY, |one| one.cgroup),
        container: one.map_or(Profile::EMPTY, |one| one.container),
        task: Profile::EMPTY,
    }
}

fn frame(profile: &mut Profile, function: &Function, line: u32) -> FrameId {
    let frame = Frame {
        kind: FrameKind::Python,
        function: profile.intern_string(&function.name),
        file: profile.intern_string(&function.file),
        line,
        first_line: function.first_line,
        mapping: None,
        address: 0,
        inlined: false,
    };
    profile.intern_frame(frame)
}

fn add(profile: &mut Profile, labels: &Labels, stack: &[FrameId], calls: u64) {
    if calls > 0 {
        let stack = profile.intern_stack(stack);
        let mut values = vec![0; profile.sample_types.len()];
        values[CALLS_VALUE] = i64::try_from(calls).unwrap_or(i64::MAX);
        let labels = labels.clone();
        profile.add(SampleKey { stack, labels }, &values);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::made, *};
    use crate::diff::made as samples;

    fn named(profile: &Profile) -> Vec<(String, i64)> {
        let counted = profile.samples().filter(|(_, values)| values[CALLS_VALUE] > 0);
        let told = counted.map(|(key, values)| {
            let names = profile
                .stack(key.stack)
                .iter()
                .map(|id| profile.string(profile.frame(*id).function));
            (names.collect::<Vec<_>>().join(" by "), values[CALLS_VALUE])
        });
        told.collect()
    }

    #[test]
    fn calls_are_of_functions_and_of_who_called_where_that_is_known() {
        let mut report = made::shop();
        report.functions.truncate(3);
        report.functions[1].callers[0].calls = 100;
        report.functions[2].callers[0].calls = 30_121;
        let cpu = samples::cpu(5, &[(300, &["orders", "<module>"])]);
        let (total, samples) = (cpu.total(1), cpu.samples().len());
        let profile = profile(&report, cpu);
        // More calls by somebody than there are at all are of windows, and no part of these.
        let expected = [("Order.customer", 30_120), ("orders by <module>", 100), ("orders", 20)];
        assert_eq!(named(&profile), expected.map(|(name, calls)| (name.to_owned(), calls)));
        assert_eq!(profile.sample_types[CALLS_VALUE].kind, "calls");
        // What was sampled is as it was.
        assert_eq!((profile.total(1), profile.samples().len()), (total, samples + 3));
    }

    #[test]
    fn what_is_an_estimate_is_called_so() {
        let kind = |report| profile(&report, samples::cpu(5, &[])).sample_types[CALLS_VALUE].kind;
        assert_eq!(kind(made::windows()), "estimated calls");
        assert_eq!(kind(made::one_window()), "calls at least");
    }
}
