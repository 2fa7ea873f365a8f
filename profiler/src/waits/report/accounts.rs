//! What the kernel side has added up for each thread, against what was drawn of it.

use profiler_common::wait::WAIT_CLASSES;
use rustc_hash::FxHashMap;

use super::{
    super::{
        account::{Account, Key, Sums},
        cause::Cause,
    },
    Ended, LOST, SHORT,
};
use crate::recording::NO_SITE;

/// With fewer draws of a thread's waits, how much they differ says too little of how they are shared out among lines.
const FEW: f64 = 16.0;

/// Exact sums of threads, and what was received of each.
pub struct Accounts {
    threads: FxHashMap<(u32, u32), Total>,
}

#[derive(Clone, Copy, Default)]
struct Total {
    ns: [u64; WAIT_CLASSES],
    count: [u64; WAIT_CLASSES],
    drawn_ns: [u64; WAIT_CLASSES],
    ignored: [u64; WAIT_CLASSES],
    ignored_ns: [u64; WAIT_CLASSES],
    long_ns: [u64; WAIT_CLASSES],
    received_ns: [u64; WAIT_CLASSES],
    received_count: [f64; WAIT_CLASSES],
    /// Of the short ones that were received, before they are brought to what there was.
    variance: [f64; WAIT_CLASSES],
}

impl Accounts {
    pub fn new(threads: &[Ended], account: &Account) -> Self {
        let mut totals: FxHashMap<(u32, u32), Total> = FxHashMap::default();
        for Ended { slot, .. } in threads {
            let total = totals.entry((slot.shown_pid, slot.shown_tid)).or_default();
            for (class, sum) in slot.sums.iter().enumerate() {
                total.ns[class] += sum.ns;
                total.count[class] += sum.count;
                total.drawn_ns[class] += sum.drawn_ns;
                total.ignored[class] += sum.ignored;
                total.ignored_ns[class] += sum.ignored_ns;
            }
        }
        for (key, sums) in account.sums() {
            let id = account_of(&totals, key);
            let (Some(total), class) = (totals.get_mut(&id), key.class as usize % WAIT_CLASSES) else {
                continue;
            };
            total.long_ns[class] += sums.long_ns;
            total.received_ns[class] += sums.long_ns + sums.short_ns;
            total.received_count[class] += sums.long_count as f64 + sums.short_count;
            total.variance[class] += sums.variance;
        }
        Self { threads: totals }
    }

    /// By what short waits of a thread and class are to be multiplied, so that they come to what there was.
    pub fn factor(&self, key: &Key) -> f64 {
        self.threads
            .get(&account_of(&self.threads, key))
            .map_or(1.0, |total| total.factor(key.class as usize % WAIT_CLASSES))
    }

    /// The variance of what some of a thread's short waits are told to have: their part of a sum that is known, so that of
    /// one that is all of it nothing is uncertain (a ratio of what was drawn of it and of the rest). Of few draws nobody knows
    /// that: one of them could as well have been another line's.
    pub fn variance(&self, key: &Key, sums: &Sums) -> f64 {
        let Some(total) = self.threads.get(&account_of(&self.threads, key)) else {
            return sums.variance;
        };
        let class = key.class as usize % WAIT_CLASSES;
        let short = total.received_ns[class].saturating_sub(total.long_ns[class]);
        if short == 0 {
            return sums.variance;
        }
        let share = (sums.short_ns as f64 / short as f64).min(1.0);
        let others = (total.variance[class] - sums.variance).max(0.0);
        let of_ratio = (1.0 - share).powi(2) * sums.variance + share.powi(2) * others;
        // Draws of one weight, each with this variance.
        let one = total.variance[class] / short as f64;
        match one * FEW > short as f64 {
            true => of_ratio.max(one * one),
            false => of_ratio,
        }
    }

    /// What no drawn wait stands for, or one that has no stack.
    pub fn without_stack(&self) -> Vec<(Key, u64, f64, &'static str)> {
        let mut found = Vec::new();
        let mut threads: Vec<_> = self.threads.iter().collect();
        threads.sort_unstable_by_key(|(id, _)| **id);
        for (&(pid, tid), total) in threads {
            for class in 0..WAIT_CLASSES {
                let cause = Cause::of_class(class as u32).unwrap_or(Cause::Other);
                let key = Key {
                    pid,
                    tid,
                    class: class as u32,
                    cause,
                    holds_gil: false,
                    site: NO_SITE,
                    call: u32::MAX,
                    target: 0,
                };
                let short = total.received_ns[class] - total.long_ns[class];
                let explained = total.long_ns[class] as f64 + short as f64 * total.factor(class);
                let wanted_ns = total.ns[class].saturating_sub(total.ignored_ns[class]);
                let wanted = total.count[class].saturating_sub(total.ignored[class]);
                let left = (wanted_ns as f64 - explained).max(0.0) as u64;
                let count = (wanted as f64 - total.received_count[class]).max(0.0);
                if left > 0 && total.ns[class] > 0 {
                    let text = match total.drawn_ns[class] > total.received_ns[class] {
                        true => LOST,
                        false => SHORT,
                    };
                    found.push((key, left, count, text));
                }
            }
        }
        found
    }
}

/// Whose account a thread's waits are in: its own, or that of threads of its process that were too many.
fn account_of(accounts: &FxHashMap<(u32, u32), Total>, key: &Key) -> (u32, u32) {
    match accounts.contains_key(&(key.pid, key.tid)) {
        true => (key.pid, key.tid),
        false => (key.pid, 0),
    }
}

impl Total {
    fn factor(&self, class: usize) -> f64 {
        let drawn = self.drawn_ns[class].saturating_sub(self.long_ns[class]);
        let there = self.ns[class].saturating_sub(self.ignored_ns[class] + self.long_ns[class]);
        match drawn {
            0 => 1.0,
            drawn => there as f64 / drawn as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::wait::{WAIT_LOCK, WaitEvent, WaitSlot};

    use super::*;
    use crate::waits::account::Drawn;

    const CERTAIN_NS: u64 = 1_000_000;

    /// A thread that waits so often for so long on each of some lines, by chance drawn.
    fn drawn(lines: &[(u64, u64)], random: &mut fastrand::Rng) -> (Account, Ended) {
        let mut account = Account::default();
        let mut slot = WaitSlot {
            shown_pid: 1,
            shown_tid: 2,
            ..WaitSlot::default()
        };
        let sum = &mut slot.sums[WAIT_LOCK as usize];
        for ((count, length_ns), site) in lines.iter().zip(0..) {
            for _ in 0..*count {
                sum.count += 1;
                sum.ns += length_ns;
                if random.u64(..CERTAIN_NS) >= *length_ns {
                    continue;
                }
                sum.drawn_ns += CERTAIN_NS;
                account.take(&Drawn {
                    pid: 1,
                    tid: 2,
                    ended_ns: 0,
                    site,
                    gil: 0,
                    holder: None,
                    waker: None,
                    event: WaitEvent {
                        class: WAIT_LOCK,
                        length_ns: *length_ns,
                        weight_ns: CERTAIN_NS,
                        ..WaitEvent::default()
                    },
                });
            }
        }
        let ended = Ended {
            slot,
            comm: String::new(),
            command: String::new(),
            unended_ns: None,
        };
        (account, ended)
    }

    /// What line 0 is told to have, and half of its interval.
    fn told(account: &Account, ended: Ended) -> (f64, f64) {
        let accounts = Accounts::new(&[ended], account);
        let (key, sums) = account.sums().find(|(key, _)| key.site == 0).unwrap();
        let factor = accounts.factor(key);
        let error = 1.96 * (accounts.variance(key, sums) * factor * factor).sqrt();
        (sums.short_ns as f64 * factor, error)
    }

    #[test]
    fn a_line_that_is_all_of_its_threads_waits_is_known_as_exactly_as_those() {
        let mut random = fastrand::Rng::with_seed(1);
        let (account, ended) = drawn(&[(2000, 100_000)], &mut random);
        let (value, error) = told(&account, ended);
        assert!((value - 2e8).abs() < 1.0 && error == 0.0, "{value} ± {error}");
    }

    #[test]
    fn a_line_that_all_of_a_few_draws_were_of_is_not_known_exactly() {
        let mut random = fastrand::Rng::with_seed(3);
        // Three waits in four are of others, and one or two are drawn.
        let lines = [(10, 50_000), (30, 50_000)];
        let (mut held, mut met) = (0, 0);
        while met < 400 {
            let (account, ended) = drawn(&lines, &mut random);
            if !account.sums().any(|(key, _)| key.site == 0) {
                continue;
            }
            met += 1;
            let (value, error) = told(&account, ended);
            held += u32::from((value - 500_000.0).abs() <= error);
        }
        assert!(held >= 380, "{held} of 400");
    }

    #[test]
    fn intervals_of_lines_that_share_a_threads_sum_hold_the_truth_in_95_of_100() {
        let mut random = fastrand::Rng::with_seed(2);
        // Most of it, little of it, and longer waits than the others'.
        for lines in [
            [(4000, 100_000), (500, 200_000), (2000, 50_000)],
            [(500, 100_000), (4000, 100_000), (1000, 300_000)],
            [(300, 700_000), (4000, 50_000), (3000, 20_000)],
        ] {
            let truth = lines[0].0 as f64 * lines[0].1 as f64;
            let held = (0..400).filter(|_| {
                let (account, ended) = drawn(&lines, &mut random);
                let (value, error) = told(&account, ended);
                (value - truth).abs() <= error
            });
            let covered = held.count() as f64 / 400.0;
            assert!((0.92..=0.98).contains(&covered), "{lines:?}: {covered}");
        }
    }
}
