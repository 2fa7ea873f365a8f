//! What windows in which calls were counted say of the time between them.
//!
//! A window ends when it has cost the program what it may, so one that fell into a stretch of many calls has seen little of
//! the program's own time, and one that fell elsewhere much. Sums over all windows would be those of the latter: by how often
//! the program calls in a nanosecond of its own each window is one witness, heard as loud as any other, for as much as the
//! program was at work then, and for as much of the recording as there is one window in.

use std::{ops::Range, time::Duration};

use profiler_common::python::{CallCount, CodeKey};
use rustc_hash::FxHashMap;

use super::FASTEST_CALL_NS;

/// Fewer windows are no sample.
const FEWEST: usize = 2;

/// Nor is a window in which the program ran for less.
const LEAST_NS: f64 = 100e3;

/// Student's t: of two windows, of three, and so on, within which 95 % are. From few windows little is known.
const STUDENT: [f64; 11] = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20];

/// What functions have in each window is kept for so many groups of windows, at most twice as many; then two that follow one
/// another become one.
const GROUPS: u32 = 64;

/// Windows so far.
#[derive(Debug, Default)]
pub struct Sampling {
    windows: usize,
    /// Of windows that began while the program ran; in each but the last so many.
    groups: u32,
    of_group: u32,
    in_last: u32,
    weights: f64,
    weights_squared: f64,
    /// What the program had of them for itself, at least.
    own_ns: f64,
    all: Rates,
    /// Of all calls, if the program had as little of a window for itself as can be, and as much.
    most: f64,
    least: f64,
    functions: FxHashMap<CodeKey, Rates>,
}

/// Of a function, or of all: calls in a nanosecond of the program's own time, times the window's weight.
#[derive(Clone, Debug, Default)]
struct Rates {
    /// Before windows began, and before the next one.
    first: Calls,
    seen: Calls,
    sum: f64,
    squares: f64,
    /// Times the window's weight once more.
    products: f64,
    by_group: Vec<Group>,
}

/// Calls of a function, and those of them that were not made from within another.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calls {
    pub all: u64,
    pub outermost: u64,
}

impl Calls {
    fn of(count: &CallCount) -> Self {
        Self {
            all: count.calls,
            outermost: count.calls.saturating_sub(count.nested),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            all: self.all.saturating_sub(before.all),
            outermost: self.outermost.saturating_sub(before.outermost),
        }
    }
}

/// The same of a group of windows, weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Group {
    number: u32,
    pub all: f64,
    pub outermost: f64,
}

impl Rates {
    fn add(&mut self, rate: f64, weight: f64) {
        self.sum += rate * weight;
        self.squares += (rate * weight).powi(2);
        self.products += rate * weight * weight;
    }

    fn add_to_group(&mut self, number: u32, calls: Calls, weight: f64) {
        let more = Group {
            number,
            all: calls.all as f64 * weight,
            outermost: calls.outermost as f64 * weight,
        };
        match self.by_group.last_mut().filter(|group| group.number == number) {
            Some(group) => {
                group.all += more.all;
                group.outermost += more.outermost;
            }
            None => self.by_group.push(more),
        }
    }

    fn halve_groups(&mut self) {
        for group in std::mem::take(&mut self.by_group) {
            let number = group.number / 2;
            match self.by_group.last_mut().filter(|last| last.number == number) {
                Some(last) => {
                    last.all += group.all;
                    last.outermost += group.outermost;
                }
                None => self.by_group.push(Group { number, ..group }),
            }
        }
    }
}

/// A window that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub length: Duration,
    /// Of the recording: there is one window in so much, on average.
    pub stands_for: Duration,
    /// CPU time of the program, and of that what was ours.
    pub used_ns: f64,
    pub spent_ns: f64,
    /// On how many processors the program ran when it began.
    pub running: f64,
}

/// Calls, and half the width of their 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    pub calls: f64,
    pub error: f64,
}

impl Sampling {
    /// Windows begin: what has been counted is not of one.
    pub fn begin(counts: &[(CodeKey, CallCount)]) -> Self {
        let seen = |count: &CallCount| Rates {
            first: Calls::of(count),
            seen: Calls::of(count),
            ..Rates::default()
        };
        Self {
            functions: counts.iter().map(|(key, count)| (*key, seen(count))).collect(),
            ..Self::default()
        }
    }

    /// `counts`: of all calls so far. `hit_error`: the part by which what was ours can be wrong.
    pub fn add(&mut self, counts: &[(CodeKey, CallCount)], ended: Ended, hit_error: f64) {
        let length_ns = ended.length.as_nanos().max(1) as f64;
        let calls: u64 = counts
            .iter()
            .map(|(key, count)| {
                let seen = self.functions.get(key).map_or_else(Calls::default, |rates| rates.seen);
                Calls::of(count).since(seen).all
            })
            .sum();
        // Of a process whose clock nobody can read it is as if it had run all the time.
        let is_unknown = ended.used_ns <= 0.0 && calls > 0;
        let used_ns = if is_unknown { length_ns } else { ended.used_ns };
        if used_ns < LEAST_NS {
            for (key, count) in counts {
                self.functions.entry(*key).or_default().seen = Calls::of(count);
            }
            return;
        }
        let group = self.group(ended.running);
        let own = own_ns(used_ns, ended.spent_ns, calls, hit_error);
        let own_ns = (own.start * own.end).sqrt();
        let weight = used_ns / length_ns * ended.stands_for.as_secs_f64();
        self.windows += 1;
        self.weights += weight;
        self.weights_squared += weight * weight;
        self.own_ns += own.start;
        self.most += weight * calls as f64 / own.start;
        self.least += weight * calls as f64 / own.end;
        self.all.add(calls as f64 / own_ns, weight);
        for (key, count) in counts {
            let rates = self.functions.entry(*key).or_default();
            let calls = Calls::of(count).since(rates.seen);
            if calls.all > 0 {
                rates.seen = Calls::of(count);
                rates.add(calls.all as f64 / own_ns, weight);
                if let Some(group) = group {
                    rates.add_to_group(group, calls, ended.running);
                }
            }
        }
    }

    /// Of a window that began while the program ran on so many processors; none if it did not run.
    fn group(&mut self, running: f64) -> Option<u32> {
        if running <= 0.0 {
            return None;
        }
        if self.groups == 0 || self.in_last == self.of_group {
            if self.groups == 2 * GROUPS {
                self.functions.values_mut().for_each(Rates::halve_groups);
                self.groups /= 2;
                self.of_group *= 2;
            }
            self.of_group = self.of_group.max(1);
            self.groups += 1;
            self.in_last = 0;
        }
        self.in_last += 1;
        Some(self.groups - 1)
    }

    /// What these functions together have in each group of windows.
    ///
    /// A window is over when it has cost so much, so a call is in it if that much before it, of what probes cost, is not as
    /// far back as the window's beginning. If all that is before it is as dense, each call is in as many windows as any other,
    /// provided that windows begin at any moment of the program's CPU time alike. By the clock on the wall they would begin
    /// in pauses, too, and see what comes after a pause far more often than what comes before one: of short requests with
    /// pauses between them half as many more queries than there are. So each weighs as much as the program ran when it began.
    pub fn by_group(&self, keys: impl IntoIterator<Item = CodeKey>) -> Vec<Group> {
        let mut sums = vec![Group::default(); self.groups as usize];
        for rates in keys.into_iter().filter_map(|key| self.functions.get(&key)) {
            for group in &rates.by_group {
                if let Some(sum) = sums.get_mut(group.number as usize) {
                    sum.all += group.all;
                    sum.outermost += group.outermost;
                }
            }
        }
        sums
    }

    /// What was counted before windows began, of all that was counted in these functions.
    pub fn first(&self, key: CodeKey) -> Calls {
        self.functions
            .get(&key)
            .map_or_else(Calls::default, |rates| rates.first)
    }

    pub fn windows(&self) -> usize {
        self.windows
    }

    pub fn is_enough(&self) -> bool {
        self.windows >= FEWEST
    }

    /// By how much an estimate can be wrong, as a part of it, because it is not known well what of a window was ours. That is
    /// no accident: it does not become less with more windows.
    pub fn slowed(&self) -> f64 {
        if self.all.sum <= 0.0 {
            return 0.0;
        }
        (self.most / self.all.sum - 1.0).max(1.0 - self.least / self.all.sum)
    }

    /// Calls of a function in so much of the program's own time.
    pub fn of(&self, key: CodeKey, own: Duration) -> Estimate {
        self.functions
            .get(&key)
            .map_or_else(Estimate::default, |rates| self.estimate(rates, own))
    }

    /// How many calls there can be in so much of the program's own time of a function that no window has seen, where 95 % are:
    /// e⁻³ is 5 %.
    pub fn of_unseen(&self, own: Duration) -> f64 {
        const UNSEEN: f64 = 3.0;
        if self.own_ns <= 0.0 {
            return 0.0;
        }
        UNSEEN * own.as_nanos() as f64 / self.own_ns
    }

    pub fn of_all(&self, own: Duration) -> Estimate {
        self.estimate(&self.all, own)
    }

    fn estimate(&self, rates: &Rates, own: Duration) -> Estimate {
        if rates.sum <= 0.0 || self.weights <= 0.0 {
            return Estimate::default();
        }
        let rate = rates.sum / self.weights;
        let calls = rate * own.as_nanos() as f64;
        let windows = self.windows as f64;
        let squares = rates.squares - 2.0 * rate * rates.products + rate * rate * self.weights_squared;
        let quantile = STUDENT.get(self.windows.saturating_sub(FEWEST)).copied().unwrap_or(2.2);
        let relative = quantile * (squares.max(0.0) * windows / (windows - 1.0).max(1.0)).sqrt() / rates.sum;
        Estimate {
            calls,
            error: calls * (relative + self.slowed()),
        }
    }
}

/// What of a window was the program's own, at least and at most.
fn own_ns(used_ns: f64, spent_ns: f64, calls: u64, hit_error: f64) -> Range<f64> {
    let floor_ns = ((calls * FASTEST_CALL_NS) as f64).min(used_ns);
    let without = |spent_ns: f64| (used_ns - spent_ns).max(floor_ns);
    // What cost more than there was has cost less than is thought, and nobody knows by how much: two profilers that counted a
    // program which does nothing but call had 61,205,216 ± 12,009 calls of 40,000,000.
    let most = match without(spent_ns * (1.0 - hit_error)) {
        most if most > floor_ns => most.min(used_ns),
        _ => used_ns,
    };
    without(spent_ns * (1.0 + hit_error)).clamp(1.0, most.max(1.0))..most.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e6;

    fn key(address: u64) -> CodeKey {
        CodeKey { address, instance: 1 }
    }

    fn count(calls: u64) -> CallCount {
        CallCount {
            calls,
            ..CallCount::default()
        }
    }

    #[test]
    fn of_a_function_that_no_window_has_seen_it_is_told_how_many_calls_there_can_be() {
        let sampling = sampled(&[(10, 10.0, 5.0), (12, 10.0, 5.0)]);
        let own = Duration::from_millis(500);
        // Three in 7.5 ms: a quarter more can have been ours.
        let unseen = sampling.of_unseen(own);
        assert!((unseen - 3.0 * 500.0 / 7.5).abs() < 1e-6, "{unseen}");
        assert_eq!(sampling.of(key(2), own), Estimate::default());
        assert_eq!(Sampling::default().of_unseen(own), 0.0);
    }

    /// Windows of so many calls, so much CPU time in milliseconds and so much of that ours; the program never waits.
    fn sampled(windows: &[(u64, f64, f64)]) -> Sampling {
        let mut sampling = Sampling::begin(&[(key(1), count(7))]);
        let mut all = 7;
        for &(calls, used, spent) in windows {
            all += calls;
            let ended = Ended {
                length: Duration::from_nanos((used * MS) as u64),
                stands_for: Duration::from_millis(100),
                used_ns: used * MS,
                spent_ns: spent * MS,
                running: 1.0,
            };
            sampling.add(&[(key(1), count(all))], ended, 0.25);
        }
        sampling
    }

    fn second(sampling: &Sampling) -> Estimate {
        sampling.of(key(1), Duration::from_secs(1))
    }

    #[test]
    fn a_cost_of_more_than_all_the_time_says_nothing_of_what_was_the_program_s_own() {
        // 100 calls that take 20 µs at the least, in a millisecond.
        let floor_ns = (100 * FASTEST_CALL_NS) as f64;
        assert_eq!(own_ns(1e6, 1.2e6, 100, 0.1), floor_ns..1e6);
        assert_eq!(own_ns(1e6, 0.5e6, 100, 0.1), 450_000.0..550_000.0);
        // Not even with what it can be too much.
        assert_eq!(own_ns(1e6, 1.0e6, 100, 0.1), floor_ns..100_000.0);
    }

    #[test]
    fn windows_that_are_alike_leave_no_error_but_that_of_what_was_ours() {
        // 100 calls in 1 ms each.
        let estimate = second(&sampled(&[(100, 1.0, 0.0), (100, 1.0, 0.0), (100, 1.0, 0.0)]));
        assert!(
            (estimate.calls - 1e5).abs() < 1e-3 && estimate.error < 1.0,
            "{estimate:?}"
        );
        // Of 10 ms 8 are ours, within a quarter: between 0 and 4 were the program's.
        let sampling = sampled(&[(1000, 10.0, 8.0), (1000, 10.0, 8.0)]);
        let Estimate { calls, error } = second(&sampling);
        let (least, most) = (1000.0 / 4e6 * 1e9, 1000.0 / 15e3 * 1e9);
        assert!(
            (calls + error - most).abs() < 1.0 && calls - error <= least,
            "{calls} ± {error}"
        );
        // Few windows that differ say little.
        let few = second(&sampled(&[(50, 1.0, 0.0), (150, 1.0, 0.0)]));
        assert!(few.error > few.calls, "{few:?}");
    }

    #[test]
    fn a_window_that_ended_early_counts_as_much_as_one_that_did_not() {
        // Half of the time it calls, a thousand times in a millisecond; and half of it not at all. Probes end windows.
        let sampling = sampled(&[(300, 10.0, 9.7), (0, 10.0, 0.0)].repeat(10));
        let estimate = second(&sampling);
        assert!((estimate.calls - 5e5).abs() <= estimate.error, "{estimate:?}");
        // Sums would have 300 calls in 10.3 ms.
        assert!(estimate.calls > 5.0 * 300.0 / 10.3e6 * 1e9, "{estimate:?}");
    }

    #[test]
    fn a_window_that_something_else_got_into_spoils_no_other() {
        let clean = second(&sampled(&[(100, 2.0, 1.0)].repeat(10)));
        let mut windows = [(100, 2.0, 1.0)].repeat(9);
        windows.push((100, 22.0, 1.0));
        let spoiled = second(&sampled(&windows));
        assert!(
            (spoiled.calls / clean.calls - 0.9).abs() < 0.03,
            "{spoiled:?} {clean:?}"
        );
    }

    #[test]
    fn what_many_windows_have_of_a_function_is_kept_in_few_groups() {
        const WINDOWS: u64 = 1_000;
        let windows: Vec<_> = (0..WINDOWS).map(|window| (window, 1.0, 0.0)).collect();
        let sampling = sampled(&windows);
        let groups = sampling.by_group([key(1), key(2)]);
        assert!(
            (GROUPS as usize..=2 * GROUPS as usize).contains(&groups.len()),
            "{}",
            groups.len()
        );
        let all: f64 = groups.iter().map(|group| group.all).sum();
        assert_eq!(all, (WINDOWS * (WINDOWS - 1) / 2) as f64);
        assert!(groups.is_sorted_by(|a, b| a.all <= b.all || b.number as usize + 1 == groups.len()));
        // What was counted before is of none.
        assert_eq!(sampling.first(key(1)), Calls { all: 7, outermost: 7 });
    }

    #[test]
    fn one_window_is_no_sample_and_idle_windows_are_none() {
        assert!(!sampled(&[(100, 1.0, 0.0)]).is_enough());
        assert!(sampled(&[(100, 1.0, 0.0), (90, 1.0, 0.0)]).is_enough());
        let idle = sampled(&[(100, 1.0, 0.0), (90, 1.0, 0.0), (0, 0.0, 0.0)]);
        assert!((second(&idle).calls - 95e3).abs() < 1e-3 && idle.windows() == 2);
        assert_eq!(second(&sampled(&[])), Estimate::default());
    }
}
