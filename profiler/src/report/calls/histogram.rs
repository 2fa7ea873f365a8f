//! Times counted by size, fine enough for percentiles and coarse enough for a map in the kernel.
//!
//! Every power of two is split into sixteen equal parts, so a bucket is found with a count of leading zeros and a shift.
//! A bucket's bounds are then at most a factor of 17/16 apart, and the value that is the fewest percent away from both
//! ends is their harmonic mean: at most 1/33 from whatever is in the bucket. With eight parts it would be 1/17, which is
//! more than the 5 % that a known time may be off, and with four 1/9.

const PARTS_LOG2: u32 = 4;
const PARTS: u64 = 1 << PARTS_LOG2;

/// How many times there were of each size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64; Self::BUCKETS]>,
}

/// The times between two powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Octave {
    /// The first time in it; 0 in the lowest, which ends before 2.
    pub from: u64,
    /// The last one.
    pub to: u64,
    pub count: u64,
}

impl Histogram {
    /// For every 64-bit number of nanoseconds there is a bucket: 976, in 7.6 KiB.
    pub const BUCKETS: usize = (64 - PARTS_LOG2 as usize + 1) << PARTS_LOG2;

    /// How far a percentile may be off, as a share of the true one: 1/33, and a little for whole nanoseconds.
    pub const ERROR: f64 = 0.031;

    /// The bucket of a time. Below 32 ns every time has its own.
    pub const fn bucket(ns: u64) -> usize {
        let magnitude = match ns.checked_ilog2() {
            Some(magnitude) => magnitude,
            None => 0,
        };
        let shift = magnitude.saturating_sub(PARTS_LOG2);
        shift as usize * PARTS as usize + (ns >> shift) as usize
    }

    /// The first and the last time of a bucket.
    pub const fn bounds(bucket: usize) -> (u64, u64) {
        let bucket = if bucket < Self::BUCKETS {
            bucket as u64
        } else {
            Self::BUCKETS as u64 - 1
        };
        if bucket < 2 * PARTS {
            return (bucket, bucket);
        }
        let shift = bucket / PARTS - 1;
        let first = (bucket - shift * PARTS) << shift;
        (first, first + ((1 << shift) - 1))
    }

    /// Takes counts by bucket. Buckets that are missing are empty; what is beyond the last is not counted.
    pub fn new(counts: impl IntoIterator<Item = u64>) -> Self {
        let mut histogram = Self::default();
        for (count, more) in histogram.counts.iter_mut().zip(counts) {
            *count = more;
        }
        histogram
    }

    pub fn add(&mut self, ns: u64) {
        if let Some(count) = self.counts.get_mut(Self::bucket(ns)) {
            *count = count.saturating_add(1);
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            *count = count.saturating_add(*more);
        }
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The time that this share of all does not exceed (nearest rank); `None` of nothing.
    pub fn percentile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        // A product of floats rounds; the rank is one of those that there are.
        let rank = ((share * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut below = 0_u64;
        let bucket = self.counts.iter().position(|count| {
            below = below.saturating_add(*count);
            below >= rank
        })?;
        let (first, last) = Self::bounds(bucket);
        Some(harmonic_mean(first, last))
    }

    /// The buckets that are not empty, as their first and last time and what is in them.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| {
                let (first, last) = Self::bounds(bucket);
                (first, last, *count)
            })
    }

    /// By powers of two, without the empty ones at either end.
    pub fn octaves(&self) -> Vec<Octave> {
        let mut octaves: Vec<Octave> = Vec::new();
        for (first, _, count) in self.buckets() {
            let magnitude = first.checked_ilog2().unwrap_or(0);
            let begin = octaves.last().map_or(magnitude, |last| last.to.ilog2() + 1);
            octaves.extend((begin..=magnitude).map(|magnitude| Octave {
                from: if magnitude == 0 { 0 } else { 1 << magnitude },
                to: u64::MAX >> (63 - magnitude),
                count: 0,
            }));
            if let Some(last) = octaves.last_mut() {
                last.count = last.count.saturating_add(count);
            }
        }
        octaves
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: Box::new([0; Self::BUCKETS]),
        }
    }
}

fn harmonic_mean(first: u64, last: u64) -> u64 {
    let (first, last) = (u128::from(first), u128::from(last));
    let sum = first + last;
    // 2ab/(a + b) in a form that does not overflow, rounded.
    let Some(above_first) = (first * (last - first) + sum / 2).checked_div(sum) else {
        return 0;
    };
    u64::try_from(first + above_first).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(times: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for time in times {
            histogram.add(*time);
        }
        histogram
    }

    #[test]
    fn buckets_follow_one_another_and_end_with_the_last_number() {
        assert_eq!(Histogram::bounds(0).0, 0);
        for bucket in 1..Histogram::BUCKETS {
            assert_eq!(Histogram::bounds(bucket).0, Histogram::bounds(bucket - 1).1 + 1);
        }
        assert_eq!(Histogram::bounds(Histogram::BUCKETS - 1).1, u64::MAX);
    }

    #[test]
    fn short_times_are_exact() {
        for time in 0..32 {
            assert_eq!(of(&[time]).percentile(0.5), Some(time));
        }
    }

    #[test]
    fn octaves_have_no_gaps() {
        let octaves = of(&[1, 5, 5, 40]).octaves();
        let shown: Vec<_> = octaves
            .iter()
            .map(|octave| (octave.from, octave.to, octave.count))
            .collect();
        assert_eq!(
            shown,
            [(0, 1, 1), (2, 3, 0), (4, 7, 2), (8, 15, 0), (16, 31, 0), (32, 63, 1)]
        );
        assert_eq!(of(&[u64::MAX]).octaves().len(), 1);
        assert!(Histogram::default().octaves().is_empty());
    }

    #[test]
    fn nothing_has_no_percentile() {
        assert_eq!(Histogram::default().percentile(0.5), None);
    }

    #[test]
    fn what_does_not_fit_into_a_counter_stays_at_its_end() {
        let histogram = Histogram::new(vec![u64::MAX; 1000]);
        assert_eq!(histogram.count(), u64::MAX);
        assert!(histogram.percentile(1.0).is_some());
    }

    fn time() -> impl Strategy<Value = u64> {
        (0_u32..64, any::<u64>()).prop_map(|(shift, bits)| bits >> shift)
    }

    proptest! {
        #[test]
        fn a_time_is_within_its_bucket(time in time()) {
            let (first, last) = Histogram::bounds(Histogram::bucket(time));
            prop_assert!((first..=last).contains(&time));
        }

        #[test]
        fn percentiles_are_within_the_error_that_is_stated(
            mut times in prop::collection::vec(time(), 1..200),
            share in 0.0..=1.0_f64,
        ) {
            let histogram = of(&times);
            times.sort_unstable();
            let rank = ((share * times.len() as f64).ceil() as usize).clamp(1, times.len());
            let exact = times[rank - 1];
            let told = histogram.percentile(share).unwrap();
            prop_assert!(
                told.abs_diff(exact) as f64 <= exact as f64 * Histogram::ERROR,
                "{} for {}", told, exact
            );
        }

        #[test]
        fn percentiles_do_not_fall(
            times in prop::collection::vec(time(), 1..200),
            a in 0.0..=1.0_f64,
            b in 0.0..=1.0_f64,
        ) {
            let histogram = of(&times);
            prop_assert!(histogram.percentile(a.min(b)) <= histogram.percentile(a.max(b)));
        }

        #[test]
        fn octaves_hold_all(times in prop::collection::vec(time(), 0..50)) {
            let counted: u64 = of(&times).octaves().iter().map(|octave| octave.count).sum();
            prop_assert_eq!(counted, times.len() as u64);
        }
    }
}
