//! What a stop in the kernel costs a program afterwards: it pushes out of the processor's caches, and of what that has
//! learned of branches, some of what the program then needs again. A trap in a loop that does nothing else shows nothing of
//! it, and how much it is differs by processor, kernel and virtual machine.

use std::{hint::black_box, time::Instant};

/// Work that keeps a processor's memory of data and branches in use: the same in each round, so that it is learned.
pub struct Work {
    memory: Vec<u64>,
    steps: Vec<u8>,
}

type Step = fn(u64, &[u64]) -> u64;

/// 256 KiB.
const WORDS: usize = 32 * 1024;
/// So long a round is to take.
const ROUND_NS: f64 = 3_000.0;
const MOST_STEPS: usize = 2_048;
/// Rounds that are timed together, and how often they are.
const TOGETHER: u32 = 20;
const TIMES: usize = 60;

macro_rules! steps {
    ($($number:literal)*) => {
        [$(step::<$number>),*]
    };
}

/// Each is a function of its own, with branches of its own.
const STEPS: [Step; 16] = steps!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);

#[inline(never)]
fn step<const N: u32>(mut at: u64, memory: &[u64]) -> u64 {
    at ^= at << (13 + N % 5);
    at ^= at >> 7;
    if at & 1 << N == 0 {
        at ^= u64::from(N).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    } else {
        at = at.wrapping_add(u64::from(N) * 77);
    }
    if at & 1 << (N + 9) == 0 {
        return at;
    }
    let word = memory[(at >> N) as usize % WORDS];
    at.wrapping_mul(5).wrapping_add(word)
}

impl Work {
    /// As much of it as takes [`ROUND_NS`] here.
    pub fn new() -> Self {
        // xorshift64 (Marsaglia 2003): any numbers do, the same on each run.
        let mut at = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            at ^= at << 13;
            at ^= at >> 7;
            at ^= at << 17;
            at
        };
        let memory = (0..WORDS).map(|_| next()).collect();
        let steps = (0..MOST_STEPS)
            .map(|_| (next() >> 32) as u8 % STEPS.len() as u8)
            .collect();
        let steps: Vec<u8> = steps;
        let mut work = Self {
            memory,
            steps: steps[..MOST_STEPS / 8].to_vec(),
        };
        let fits = (MOST_STEPS / 8) as f64 * ROUND_NS / work.round_ns(|| ()).max(1.0);
        work.steps = steps;
        work.steps.truncate((fits as usize).clamp(1, MOST_STEPS));
        work
    }

    fn round(&self) -> u64 {
        let step = |at, &step: &u8| STEPS[usize::from(step)](at, &self.memory);
        self.steps.iter().fold(1, step)
    }

    /// What a round of it and `then` take together: what nine in ten exceed, since whatever else runs only adds.
    pub fn round_ns(&self, then: impl Fn()) -> f64 {
        let time = |_| {
            let started = Instant::now();
            for _ in 0..TOGETHER {
                black_box(self.round());
                then();
            }
            started.elapsed().as_nanos() as f64 / f64::from(TOGETHER)
        };
        // The first ones learn.
        let mut times: Vec<f64> = (0..2 * TIMES).map(time).skip(TIMES).collect();
        times.sort_unstable_by(f64::total_cmp);
        times[TIMES / 10]
    }
}

/// What part of it hits cost a program that has worked so long in between: who has done little since the last one has not
/// got back what could be pushed out again. Measured on CPython 3.12.1 with a loop around a call, by its CPU time, where the
/// whole came to 0.3 µs: nothing at 0.5 µs, half of it at 5, all of it at 20.
pub fn part(own_ns: f64) -> f64 {
    const ALL_AFTER_NS: f64 = 10_000.0;
    (own_ns / ALL_AFTER_NS).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_the_same_each_time_and_longer_with_something_after_it() {
        let work = Work::new();
        assert_eq!(work.round(), work.round());
        let spin = || {
            for turn in 0..10_000 {
                black_box(turn);
            }
        };
        assert!(work.round_ns(spin) > work.round_ns(|| ()));
    }

    #[test]
    fn who_works_longer_between_hits_pays_more_for_each_but_no_more_than_all() {
        assert_eq!((part(0.0), part(-5.0), part(5_000.0)), (0.0, 0.0, 0.5));
        assert_eq!((part(10_000.0), part(f64::INFINITY)), (1.0, 1.0));
    }
}
