//! When the next window opens: at random, as often as the budget has it.
//!
//! The budget is a share of the CPU time that the process would have used without us. What is paid is what all hits of all
//! registers took, in whatever process.

/// What may be spent before the process has worked for it, and what is never saved up beyond.
pub const GRACE_NS: f64 = 20e6;
/// Between two windows, on average.
const SHORTEST_NS: f64 = 3e6;
const LONGEST_NS: f64 = 2e9;
/// How long births are told in a window, in the process's own time.
const LENGTHS_NS: (f64, f64) = (10e3, 300e3);
const FIRST_LENGTH_NS: f64 = 50e3;
/// Births of a window that meets any, as many as are aimed at, and the windows that find out how long it is for that.
const AIM: f64 = 16.0;
const TRIALS: u32 = 30;

/// What the process and all hits have used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    pub at_ns: u64,
    pub process_ns: u64,
    pub hits_ns: u64,
}

#[derive(Debug)]
pub struct Pace {
    share: f64,
    begun: Used,
    last: Used,
    /// Smoothed: what a window costs with all that is followed, and what of a CPU the process uses.
    window_ns: f64,
    busy: f64,
    length_ns: f64,
    met: u32,
}

impl Pace {
    pub fn new(share: f64, begun: Used) -> Self {
        Self {
            share,
            begun,
            last: begun,
            window_ns: 2e5,
            busy: 0.0,
            length_ns: FIRST_LENGTH_NS,
            met: 0,
        }
    }

    pub fn length_ns(&self) -> u64 {
        self.length_ns as u64
    }

    /// A window has ended in which so many births were told. All windows are of one length, or those of busy moments would
    /// count for less: it is found at the beginning.
    pub fn met(&mut self, births: u64) {
        if births == 0 || self.met >= TRIALS {
            return;
        }
        self.met += 1;
        let factor = (AIM / births as f64).clamp(0.7, 1.4);
        self.length_ns = (self.length_ns * factor.sqrt()).clamp(LENGTHS_NS.0, LENGTHS_NS.1);
    }

    /// What is left of the budget; negative if it is overdrawn.
    pub fn left_ns(&self, now: Used) -> f64 {
        let spent = now.hits_ns.saturating_sub(self.begun.hits_ns) as f64;
        let used = now.process_ns.saturating_sub(self.begun.process_ns) as f64;
        GRACE_NS + self.share * (used - spent).max(0.0) - spent
    }

    /// How long to wait for the next window: drawn, so that windows have nothing to do with what the process does.
    pub fn gap_ns(&mut self, now: Used, random: &mut fastrand::Rng) -> u64 {
        let past = now.at_ns.saturating_sub(self.last.at_ns).max(1) as f64;
        let spent = now.hits_ns.saturating_sub(self.last.hits_ns) as f64;
        let used = now.process_ns.saturating_sub(self.last.process_ns) as f64;
        // The clock of another process goes by ticks.
        let part = (past / 1e9).min(1.0);
        self.busy += ((used / past).min(64.0) - self.busy) * part.max(if self.busy == 0.0 { 1.0 } else { 0.01 });
        self.window_ns += (spent - self.window_ns) * 0.1;
        self.last = now;
        let mean = self.window_ns.max(1e4) / (self.share * self.busy.max(1e-3));
        // An exponential distribution. `1 - f64()` is never 0.
        let drawn = -(1.0 - random.f64()).ln() * mean.clamp(SHORTEST_NS, LONGEST_NS);
        let owed = (-self.left_ns(now) / (self.share * self.busy.max(1e-3))).clamp(0.0, LONGEST_NS);
        (drawn + owed) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that uses `busy` of a CPU for a minute, of which each window takes `cost_ns`. What share of it hits took.
    fn share(busy: f64, cost_ns: u64) -> f64 {
        let mut random = fastrand::Rng::with_seed(7);
        let mut now = Used::default();
        let mut pace = Pace::new(0.03, now);
        while now.at_ns < 60_000_000_000 {
            let gap = pace.gap_ns(now, &mut random);
            now.at_ns += gap + 200_000;
            now.process_ns += (gap as f64 * busy) as u64;
            if pace.left_ns(now) > 0.0 {
                now.hits_ns += cost_ns;
                now.process_ns += cost_ns;
            }
        }
        now.hits_ns as f64 / (now.process_ns - now.hits_ns) as f64
    }

    #[test]
    fn hits_take_their_share_of_the_process_s_own_time_and_no_more() {
        for busy in [1.0, 0.25, 0.05] {
            for cost_ns in [200_000, 1_000_000, 8_000_000] {
                let share = share(busy, cost_ns);
                // What is granted at once counts in a minute of a twentieth of a CPU.
                let most = 0.03 + 2.0 * GRACE_NS / (60e9 * busy);
                assert!(share <= most, "{busy} {cost_ns}: {share}");
                assert!(share > 0.015 || cost_ns == 200_000, "{busy} {cost_ns}: {share}");
            }
        }
    }

    #[test]
    fn the_length_is_found_at_the_beginning_and_stays() {
        let mut pace = Pace::new(0.03, Used::default());
        for _ in 0..1000 {
            // Ten births in a microsecond.
            let births = pace.length_ns() / 100;
            pace.met(births);
        }
        assert_eq!(pace.length_ns(), 10_000, "no shorter than opening it takes");
        let mut pace = Pace::new(0.03, Used::default());
        for _ in 0..TRIALS {
            pace.met(1);
        }
        let found = pace.length_ns();
        assert!(found > 100_000);
        pace.met(1000);
        assert_eq!(pace.length_ns(), found);
    }
}
