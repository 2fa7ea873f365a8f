//! Which births of pools to follow: an equal share of each size of objects.
//!
//! What makes a program grow is mostly one kind of object, and what comes and goes beside it are others. So births are
//! sampled by size class: a class that has few is followed whole, those that have many get so many samples each, and all
//! classes together what they may cost. It is the size that decides and never the stack, so the weights are right whatever
//! is allocated.

use profiler_common::limits::{BIRTHS_FOLLOWED, BIRTHS_OF_CLASS, BIRTHS_STRETCH, GATE_MOST};

use crate::draw::Draw;

/// What all classes of one CPU have in common, made of integers: all zeroes to begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// When the stretch began.
    started: u64,
    /// Followed in this stretch.
    taken: u32,
    /// How often the share was halved.
    halved: u32,
}

impl Share {
    /// How many of each class are followed in a stretch.
    #[inline(always)]
    pub fn of_class(&self) -> u32 {
        (BIRTHS_OF_CLASS >> (self.halved & 31)).max(1)
    }

    /// One was followed; times as in [`Class::pass`]. The share is what keeps all of them together between half of what
    /// may be followed and that.
    #[inline(always)]
    pub fn take(&mut self, now: u64, stretch: u64) {
        self.taken = self.taken.saturating_add(1);
        let Some(stretches) = stretches(self.started, now, stretch) else {
            return;
        };
        let taken = self.taken / stretches;
        if taken > BIRTHS_FOLLOWED && BIRTHS_OF_CLASS >> (self.halved & 31) > 1 {
            self.halved += 1;
        } else if taken <= BIRTHS_FOLLOWED / 2 && self.halved > 0 {
            self.halved -= 1;
        }
        self.started = now;
        self.taken = 0;
    }
}

/// How many stretches have passed, none if this one has not ended. The first of all finds that many have: zero was long ago.
#[inline(always)]
fn stretches(started: u64, now: u64, stretch: u64) -> Option<u32> {
    let stretch = (stretch * BIRTHS_STRETCH).max(1);
    let passed = now.wrapping_sub(started) / stretch;
    (passed > 0).then(|| passed.min(u32::MAX.into()) as u32)
}

/// The state of one class on one CPU; also all zeroes to begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Class {
    /// When the stretch began.
    started: u64,
    /// Events of this stretch.
    came: u32,
    draw: Draw,
    /// Events since the last one that was taken.
    seen: u32,
}

impl Class {
    /// How many events this one stands for, or 0 if it is to be left alone. `share`: how many of the class are to be
    /// followed in a stretch, which is [`BIRTHS_STRETCH`] times `stretch` long, by the clock of `now`.
    #[inline(always)]
    pub fn pass(&mut self, now: u64, stretch: u64, share: u32, random: impl FnOnce() -> u32) -> u32 {
        self.seen = self.seen.saturating_add(1);
        let share = share.max(1);
        if let Some(stretches) = stretches(self.started, now, stretch) {
            // As many come as in the last one, or so it is hoped.
            self.draw
                .set_interval((self.came / stretches / share + 1).min(GATE_MOST));
            self.started = now;
            self.came = 0;
        }
        self.came = self.came.saturating_add(1);
        self.draw.pass(share.saturating_mul(4), random)
    }

    /// How many events came since the last call, at one that is taken.
    #[inline(always)]
    pub fn take_seen(&mut self) -> u32 {
        let seen = self.seen;
        self.seen = 0;
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator with a fixed seed (xorshift32), so that the test always says the same.
    fn generator(mut state: u32) -> impl FnMut() -> u32 {
        move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        }
    }

    /// Events of some classes for so many seconds, `rates` a second each; what was taken of each, and the weights' sums.
    fn followed(rates: &[u64], seconds: u64) -> Vec<(u64, u64)> {
        const TICKS: u64 = 1_000_000;
        let stretch = TICKS / 250;
        let mut share = Share::default();
        let mut classes = vec![Class::default(); rates.len()];
        let mut random = generator(11);
        let mut taken = vec![(0, 0); rates.len()];
        for tick in 0..seconds * TICKS {
            for (class, &rate) in rates.iter().enumerate() {
                if (tick + 1) * rate / TICKS == tick * rate / TICKS {
                    continue;
                }
                let weight = classes[class].pass(tick + TICKS, stretch, share.of_class(), &mut random);
                if weight > 0 {
                    share.take(tick + TICKS, stretch);
                    taken[class].0 += 1;
                    taken[class].1 += u64::from(weight);
                }
            }
        }
        taken
    }

    #[test]
    fn few_births_are_all_followed() {
        assert_eq!(
            followed(&[300, 200, 100], 20),
            [(6_000, 6_000), (4_000, 4_000), (2_000, 2_000)]
        );
    }

    #[test]
    fn a_rare_size_is_followed_beside_frequent_ones_and_all_are_estimated() {
        let rates = [20_000, 100, 10_000, 5_000, 3_000, 8_000];
        let seconds = 30;
        let taken = followed(&rates, seconds);
        // The first moments may cost it some.
        assert!(taken[1].0 > 95 * 100 * seconds / 100, "{taken:?}");
        let all: u64 = taken.iter().map(|taken| taken.0).sum();
        assert!(all < 3_000 * seconds, "{all}");
        for (rate, (_, sum)) in rates.into_iter().zip(taken) {
            let error = sum as f64 / (rate * seconds) as f64 - 1.0;
            assert!(error.abs() < 0.04, "{rate}: {error}");
        }
    }

    #[test]
    fn a_burst_is_sampled_ever_more_thinly() {
        let (mut class, mut random) = (Class::default(), generator(3));
        let mut taken = 0;
        for _ in 0..1_000_000 {
            taken += u32::from(class.pass(1_000_000, 1, 16, &mut random) > 0);
        }
        assert!(taken < 64 * 16, "{taken}");
    }
}
