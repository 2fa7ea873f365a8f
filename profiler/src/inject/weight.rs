//! What a sampled block stands for.
//!
//! Each byte is a sample with the same small chance, whatever came before; a block of s bytes is one with chance
//! p = 1 - e^(-s / mean). It stands for 1/p such blocks and s/p bytes (Horvitz and Thompson): sums are unbiased, and what is
//! large against the mean is told nearly as it is. One block adds s² (1 - p) / p² to the variance.

use crate::memory::account::Amount;

/// The chance with which a block of `bytes` is sampled.
pub fn chance(bytes: u64, bytes_per_sample: u64) -> f64 {
    -(-(bytes as f64) / bytes_per_sample as f64).exp_m1()
}

/// What a block stands for that was sampled at `born_ns`. The same when it comes and when it goes.
pub fn amount(bytes: u64, bytes_per_sample: u64, born_ns: u64) -> Amount {
    let chance = chance(bytes, bytes_per_sample);
    if chance <= 0.0 {
        return Amount::default();
    }
    let size = bytes as f64;
    Amount {
        bytes: (size / chance).round() as u64,
        count: whole(1.0 / chance, born_ns),
        variance: (size * size * (1.0 - chance) / (chance * chance)).round(),
    }
}

/// One of the two whole numbers around `number`, so that on average it is that: 1.6 blocks are two in six cases of ten. By the
/// moment of birth, which is as good as drawn, and known when the block goes.
fn whole(number: f64, born_ns: u64) -> u64 {
    // The upper bits of a Fibonacci hash: moments themselves can be multiples of something.
    let drawn = born_ns.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
    let drawn = drawn as f64 / (1u64 << 53) as f64;
    number.floor() as u64 + u64::from(drawn < number.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: u64 = 512 << 10;

    #[test]
    fn small_blocks_stand_for_the_distance_and_large_ones_for_themselves() {
        let small = amount(48, MEAN, 7);
        assert!((small.bytes as f64 / MEAN as f64 - 1.0).abs() < 0.001, "{small:?}");
        let large = amount(100 * MEAN, MEAN, 7);
        assert_eq!((large.bytes, large.count, large.variance), (100 * MEAN, 1, 0.0));
        assert_eq!(amount(0, MEAN, 7), Amount::default());
    }

    #[test]
    fn counts_are_right_on_average() {
        // 1 / (1 - 1/e) blocks.
        let turns = 100_000;
        let sum: u64 = (0..turns).map(|turn| amount(MEAN, MEAN, turn * 1000).count).sum();
        assert!((sum as f64 / turns as f64 - 1.582).abs() < 0.005, "{sum}");
    }
}
