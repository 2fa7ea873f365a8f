//! Which of many events to follow: all of them while they are rare, a sample of them when they are not.
//!
//! A page fault costs the program 0.5 – 1.5 µs and its stack costs us 3 – 6, so a program that does nothing but touch new
//! memory would take several times as long if every fault were followed. But one that grows by 10 MB a second has 2,500
//! faults a second, and all of them can be: then the numbers are exact.
//!
//! So many events are followed in each stretch of time; what is not used up is saved, to a limit, for a burst (a program
//! that reads a file into memory and then rests). Of those beyond, samples are drawn ([`Draw`]), ever fewer: the interval
//! doubles with each few samples of a stretch, so what a stretch costs grows with the logarithm of its events; it falls
//! by half with each new stretch.

use profiler_common::limits::{GATE_FOLLOWED, GATE_SAVED, GATE_STEP};

use crate::draw::Draw;

/// The state of one CPU, made of integers: all zeroes to begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Gate {
    /// When the stretch began.
    started: u64,
    /// Events that may still be followed.
    saved: u32,
    draw: Draw,
    /// Events since the last one that was taken: counted here, because an atomic counter would cost each of them 20 ns.
    seen: u32,
}

impl Gate {
    /// How many events this one stands for, or 0 if it is to be left alone. A stretch is `stretch` long, by the clock of
    /// `now`; `random`: asked for rarely.
    #[inline(always)]
    pub fn pass(&mut self, now: u64, stretch: u64, random: impl FnOnce() -> u32) -> u32 {
        self.seen = self.seen.saturating_add(1);
        let passed = now.wrapping_sub(self.started);
        if passed >= stretch {
            self.started = now;
            // The first event of all finds the limit saved: zero was long ago.
            let earned = if passed >= stretch * u64::from(GATE_SAVED / GATE_FOLLOWED) {
                GATE_SAVED
            } else {
                GATE_FOLLOWED * passed.checked_div(stretch).unwrap_or(1) as u32
            };
            self.saved = (self.saved + earned).min(GATE_SAVED);
            self.draw.set_interval(self.draw.interval() >> 1);
        }
        if self.saved > 0 {
            self.saved -= 1;
            return 1;
        }
        self.draw.pass(GATE_STEP, random)
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
    use profiler_common::limits::GATE_STRETCH_NS;

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

    #[test]
    fn rare_events_are_all_followed() {
        let mut gate = Gate::default();
        let mut random = generator(1);
        for i in 0..100_000u64 {
            // 2,000 a second.
            assert_eq!(
                gate.pass(i * 500_000 + GATE_STRETCH_NS, GATE_STRETCH_NS, &mut random),
                1
            );
        }
    }

    #[test]
    fn many_events_are_sampled_and_their_weights_add_up_to_their_number() {
        let mut gate = Gate::default();
        let mut random = generator(7);
        let (mut taken, mut sum) = (0u64, 0u64);
        const EVENTS: u64 = 10_000_000;
        for i in 0..EVENTS {
            let weight = gate.pass(i * 1_000, GATE_STRETCH_NS, &mut random);
            taken += u64::from(weight > 0);
            sum += u64::from(weight);
        }
        let stretches = EVENTS * 1_000 / GATE_STRETCH_NS;
        assert!(
            taken < 60 * stretches + u64::from(GATE_SAVED),
            "{taken} in {stretches} stretches"
        );
        let error = (sum as f64 - EVENTS as f64) / EVENTS as f64;
        assert!(error.abs() < 0.01, "{error}");
    }

    #[test]
    fn a_burst_after_a_rest_is_followed() {
        let mut gate = Gate::default();
        for burst in 1..5u64 {
            for i in 0..u64::from(GATE_SAVED) {
                let now_ns = burst * 2_000_000_000 + i * 1_000;
                assert_eq!(
                    gate.pass(now_ns, GATE_STRETCH_NS, || unreachable!("no gap is drawn")),
                    1
                );
            }
        }
    }

    #[test]
    fn a_burst_does_not_charge_those_who_come_after_it() {
        // 3,000 faults of one kind at once, then one of another kind and a pause, over and over.
        let mut gate = Gate::default();
        let mut random = generator(3);
        let (mut burst, mut single) = (0u64, 0u64);
        let mut now_ns = 0;
        const ROUNDS: u64 = 3_000;
        for _ in 0..ROUNDS {
            now_ns += 50_000_000;
            for _ in 0..3_000 {
                now_ns += 1_500;
                burst += u64::from(gate.pass(now_ns, GATE_STRETCH_NS, &mut random));
            }
            now_ns += 10_000_000;
            single += u64::from(gate.pass(now_ns, GATE_STRETCH_NS, &mut random));
        }
        assert_eq!(single, ROUNDS);
        let error = (burst as f64 - 3_000.0 * ROUNDS as f64) / (3_000.0 * ROUNDS as f64);
        assert!(error.abs() < 0.01, "{error}");
    }

    #[test]
    fn two_kinds_in_turns_are_told_apart() {
        let mut gate = Gate::default();
        let mut random = generator(5);
        let mut sums = [0u64; 2];
        for i in 0..4_000_000u64 {
            sums[(i % 2) as usize] += u64::from(gate.pass(i * 700, GATE_STRETCH_NS, &mut random));
        }
        let share = sums[0] as f64 / (sums[0] + sums[1]) as f64;
        assert!((0.48..0.52).contains(&share), "{share}");
    }
}
