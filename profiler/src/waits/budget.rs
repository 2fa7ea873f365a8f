//! How many of many are drawn: so many that there are stacks enough, and no more than are paid for.

use std::time::Duration;

/// Stacks of so many a second are taken at most, on average, if nothing else is said.
pub const MOST_A_SECOND: u64 = 1_000;
/// And of a CPU's time they take no more than this, on average: what one costs depends on the machine (5 µs on bare metal,
/// 50 in a busy virtual machine), and whoever hands a lock on waits for it.
const MOST_OF_A_CPU: f64 = 0.02;
/// How soon the target is raised, and how soon it is lowered.
const RAISE_AFTER: Duration = Duration::from_millis(40);
const LOWER_AFTER: Duration = Duration::from_secs(1);

/// From `target` on all are drawn, of what is smaller a part. It is moved between two bounds.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub target: u64,
    /// The highest it ever was.
    pub highest: u64,
    least: u64,
    most: u64,
    most_a_second: u64,
    chosen_ns: u64,
    received_then: u64,
    spent_then_ns: u64,
}

impl Budget {
    pub fn new(least: u64, most: u64, now_ns: u64) -> Self {
        Self::of(MOST_A_SECOND, least, most, now_ns)
    }

    /// For so many stacks a second.
    pub fn of(most_a_second: u64, least: u64, most: u64, now_ns: u64) -> Self {
        Self {
            target: least,
            highest: least,
            least,
            most,
            most_a_second: most_a_second.max(1),
            chosen_ns: now_ns,
            received_then: 0,
            spent_then_ns: 0,
        }
    }

    /// What was received counts from 0 again, and what is the highest from now on. What it was.
    pub fn cut(&mut self) -> u64 {
        self.received_then = 0;
        std::mem::replace(&mut self.highest, self.target)
    }

    /// It is time to look.
    pub fn is_due(&self, now_ns: u64) -> bool {
        Duration::from_nanos(now_ns.saturating_sub(self.chosen_ns)) >= RAISE_AFTER
    }

    /// Looks at how many have been `received` so far, and how long that took in the kernel in all (`spent_ns`). `true` if the
    /// target was looked at anew.
    pub fn choose(&mut self, received: u64, spent_ns: u64, now_ns: u64) -> bool {
        if !self.is_due(now_ns) {
            return false;
        }
        let passed = Duration::from_nanos(now_ns.saturating_sub(self.chosen_ns));
        let a_second = (received - self.received_then) as f64 / passed.as_secs_f64();
        let spent = Duration::from_nanos(spent_ns.saturating_sub(self.spent_then_ns));
        let of_a_cpu = spent.as_secs_f64() / passed.as_secs_f64();
        let too_many = (a_second / self.most_a_second as f64).max(of_a_cpu / MOST_OF_A_CPU);
        if too_many > 1.0 {
            let times = (too_many.ceil() as u64).clamp(2, 16);
            self.target = (times * self.target).min(self.most);
            self.highest = self.highest.max(self.target);
        } else if passed < LOWER_AFTER {
            return false;
        } else if too_many < 0.25 {
            // After a burst nothing would be drawn for long.
            let times = (0.5 / too_many.max(0.01)) as u64;
            self.target = (self.target / times.clamp(2, 16)).max(self.least);
        }
        self.chosen_ns = now_ns;
        self.received_then = received;
        self.spent_then_ns = spent_ns;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_target_is_raised_at_once_and_lowered_when_it_is_quiet() {
        let mut budget = Budget::new(100, 16_000, 0);
        assert!(!budget.choose(1_000, 0, 39 * MS));
        // 10,000 a second for a tenth of a second.
        assert!(budget.choose(1_000, 0, 100 * MS));
        assert_eq!(budget.target, 1_000);
        assert!(!budget.choose(1_000, 0, 1_099 * MS));
        // 200 in a second, and then none.
        assert!(budget.choose(1_200, 0, 1_100 * MS));
        assert_eq!((budget.target, budget.highest), (500, 1_000));
        budget.choose(1_200, 0, 2_100 * MS);
        assert_eq!((budget.target, budget.cut()), (100, 1_000));
        assert_eq!(budget.highest, 100);
    }

    #[test]
    fn where_stacks_are_dear_there_are_fewer() {
        let mut budget = Budget::new(100, 16_000, 0);
        // 500 a second, but 80 µs each.
        assert!(budget.choose(50, 4 * MS, 100 * MS));
        assert_eq!(budget.target, 200);
        // Half as many are what may be spent: it stays.
        assert!(budget.choose(300, 24 * MS, 1_100 * MS));
        assert_eq!(budget.target, 200);
    }
}
