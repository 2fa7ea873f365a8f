//! How much less evenly something was met than chance would have it, by the slices of time that a recording has.
//!
//! The number of samples says how exact a share is if each is one throw. What happens once, such as an import, is met many
//! times in a row, and is one event all the same: of such rows one recording knows little, however many samples they have. So
//! the numbers of slices are held against what throws would scatter, for slices one by one and put together (neighbours are
//! alike in a burst that is longer than a slice). What is beyond chance makes the interval wider; nothing makes it narrower.

use rustc_hash::FxHashMap;

use super::{
    blocks::Sums,
    rows::{Found, Rows},
};
use crate::profile::{Profile, timeline::Timeline};

/// Fewer pieces of time say too little of how they scatter.
const FEWEST_PIECES: usize = 8;
/// Fewer samples are too few to be looked at (`estimate`).
const FEWEST_SAMPLES: f64 = 10.0;
/// Of rows without bursts one in a thousand has as much at one length of pieces: 3.09 standard deviations.
const CHANCE: f64 = 3.09;
/// Rows times slices of recordings that are looked at: some hundred megabytes.
const MOST_NUMBERS: usize = 16 << 20;

/// By how much variances are larger than those of as many throws, where they are.
#[derive(Debug, Default)]
pub struct Bursts {
    pub all: Option<f64>,
    /// By row: itself, and with what it called.
    pub own: FxHashMap<u32, f64>,
    pub total: FxHashMap<u32, f64>,
}

/// What is divided by what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Of {
    /// A part of all samples.
    All,
    /// So many ticks of a clock.
    Ticks(f64),
    /// An estimate that has this variance, and all together that: a part of all, or by time.
    Estimate { variance: f64, of_all: f64, is_part: bool },
}

/// Numbers of samples, by slice.
type Series = Vec<f64>;
type ByRow = FxHashMap<u32, Series>;

impl Bursts {
    /// Of one recording; nothing where it does not say when its samples were. `period`: one sample of the value `index`.
    pub fn of(profile: &Profile, index: usize, period: f64, of: Of, rows: &mut Rows) -> Self {
        let of_all = Some(of).filter(|of| *of != Of::All);
        Self::of_each(profile, index, period, of_all, rows, |_, _| of)
    }

    /// The same of estimates, of which variances are known. Threads that want one lock wait all at once, and all of them longer
    /// while the one that has it is held up: such waits did not come by chance each.
    pub fn of_estimates(profile: &Profile, index: usize, known: &Sums, is_part: bool, rows: &mut Rows) -> Self {
        let of = |variance| Of::Estimate {
            variance,
            of_all: known.all,
            is_part,
        };
        let of_all = (!is_part).then(|| of(known.all));
        Self::of_each(profile, index, 1.0, of_all, rows, |row, own| {
            let known = if own { &known.own } else { &known.total };
            of(known.get(&row).copied().unwrap_or(0.0))
        })
    }

    fn of_each(
        profile: &Profile,
        index: usize,
        period: f64,
        of_all: Option<Of>,
        rows: &mut Rows,
        of: impl Fn(u32, bool) -> Of,
    ) -> Self {
        let mut bursts = Self::default();
        let Some(timeline) = profile.timeline_of(index).filter(|_| period > 0.0) else {
            return bursts;
        };
        let Some((all, own, total)) = series(profile, timeline, index, period, rows) else {
            return bursts;
        };
        bursts.all = of_all.map(|of| factor(&all, &all, of));
        let factors = |series: ByRow, own: bool| -> FxHashMap<u32, f64> {
            let found = series
                .into_iter()
                .map(|(row, numbers)| (row, factor(&numbers, &all, of(row, own))));
            found.filter(|(_, factor)| *factor > 1.0).collect()
        };
        bursts.own = factors(own, true);
        bursts.total = factors(total, false);
        bursts
    }
}

/// What there was in each slice: in all, and of each row.
fn series(
    profile: &Profile,
    timeline: &Timeline,
    index: usize,
    period: f64,
    rows: &mut Rows,
) -> Option<(Series, ByRow, ByRow)> {
    let parts = timeline.sorted();
    let slices = parts.iter().map(|part| part.slice as usize + 1).max()?;
    let mut all = vec![0.0; slices];
    let mut own: ByRow = FxHashMap::default();
    let mut total: ByRow = FxHashMap::default();
    let mut found = Found::new(profile);
    for of_sample in parts.chunk_by(|one, other| one.sample == other.sample) {
        let (key, values) = profile.sample(of_sample.first()?.sample)?;
        let timed = values.get(profile.default_type).copied().unwrap_or(0) as f64;
        let value = values.get(index).copied().unwrap_or(0) as f64;
        if timed <= 0.0 || value <= 0.0 {
            continue;
        }
        let scale = value / timed / period;
        let put = |series: &mut Series| {
            for part in of_sample {
                if let Some(sum) = series.get_mut(part.slice as usize) {
                    *sum += part.value as f64 * scale;
                }
            }
        };
        put(&mut all);
        for (at, row) in found.rows(rows, key.stack).iter().enumerate() {
            if at == 0 {
                put(own.entry(*row).or_insert_with(|| vec![0.0; slices]));
            }
            put(total.entry(*row).or_insert_with(|| vec![0.0; slices]));
        }
        if (own.len() + total.len()).saturating_mul(slices) > MOST_NUMBERS {
            return None;
        }
    }
    Some((all, own, total))
}

/// How much more such numbers scatter than throws do; 1 if that can be chance.
fn factor(numbers: &[f64], all: &[f64], of: Of) -> f64 {
    // Of estimates it is variances that say whether there is enough of them.
    let is_estimate = matches!(of, Of::Estimate { .. });
    if !is_estimate && numbers.iter().sum::<f64>() < FEWEST_SAMPLES {
        return 1.0;
    }
    let mut factor = 1.0_f64;
    let mut length = 1;
    while numbers.len() / length >= FEWEST_PIECES {
        factor = factor.max(at_length(numbers, all, of, length));
        length *= 2;
    }
    factor
}

/// The same for pieces of so many slices. The last one may be shorter, and is left out.
fn at_length(numbers: &[f64], all: &[f64], of: Of, length: usize) -> f64 {
    let pieces = |series: &[f64]| -> Vec<f64> { series.chunks_exact(length).map(|piece| piece.iter().sum()).collect() };
    let (numbers, all) = (pieces(numbers), pieces(all));
    let count = numbers.len() as f64;
    let (sum, sum_of_all): (f64, f64) = (numbers.iter().sum(), all.iter().sum());
    if sum <= 0.0 || sum_of_all <= 0.0 {
        return 1.0;
    }
    let share = sum / sum_of_all;
    let of_part = || {
        let differences = numbers.iter().zip(&all).map(|(number, all)| number - share * all);
        differences.map(|difference| difference.powi(2)).sum::<f64>()
    };
    let of_time = || numbers.iter().map(|number| (number - sum / count).powi(2)).sum::<f64>();
    // Of a row that is nearly all, or is met at every tick, there is nothing to divide by: half a sample is.
    let (squares, chance) = match of {
        Of::All => (of_part(), (sum * (1.0 - share)).max(0.5)),
        Of::Ticks(ticks) => (of_time(), (sum * (1.0 - sum / ticks.max(sum))).max(0.5)),
        Of::Estimate { variance, .. } if variance <= 0.0 => return 1.0,
        Of::Estimate {
            variance,
            of_all,
            is_part: true,
        } => {
            let rest = (of_all - variance).max(0.0);
            (of_part(), (1.0 - share).powi(2) * variance + share.powi(2) * rest)
        }
        Of::Estimate { variance, .. } => (of_time(), variance),
    };
    if chance <= 0.0 {
        return 1.0;
    }
    let ratio = count / (count - 1.0) * squares / chance;
    match ratio > beyond_chance(count - 1.0) {
        true => ratio,
        false => 1.0,
    }
}

/// What a sum of so many squares, divided by their number, exceeds once in a thousand times (Wilson and Hilferty's
/// approximation to chi-squared).
fn beyond_chance(freedom: f64) -> f64 {
    let ninth = 2.0 / (9.0 * freedom);
    (1.0 - ninth + CHANCE * ninth.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sum` throws into pieces of time, each with `each` throws in all.
    fn thrown(random: &mut fastrand::Rng, pieces: usize, each: f64, share: f64) -> (Series, Series) {
        let numbers = (0..pieces).map(|_| (0..each as usize).filter(|_| random.f64() < share).count() as f64);
        (numbers.collect(), vec![each; pieces])
    }

    #[test]
    fn what_is_thrown_scatters_as_throws_do() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut found = 0;
        for _ in 0..1000 {
            let (numbers, all) = thrown(&mut random, 150, 10.0, 0.08);
            found += usize::from(factor(&numbers, &all, Of::All) > 1.0);
        }
        // At five lengths of pieces, one in a thousand each; few samples are lopsided.
        assert!(found <= 25, "{found} of 1000");
    }

    #[test]
    fn what_comes_in_one_burst_is_one_event() {
        let mut numbers = [0.0; 150];
        numbers[2..5].copy_from_slice(&[4.0, 6.0, 4.0]);
        let factor = factor(&numbers, &[10.0; 150], Of::All);
        // Fourteen samples as exact as one or two.
        assert!((6.0..20.0).contains(&factor), "{factor}");
    }

    #[test]
    fn a_burst_that_is_longer_than_a_slice_shows_where_slices_are_put_together() {
        let mut numbers = [0.0; 160];
        numbers[40..80].fill(1.0);
        let all = [5.0; 160];
        assert!(at_length(&numbers, &all, Of::All, 16) > 3.0 * at_length(&numbers, &all, Of::All, 1).max(1.0));
        assert!(factor(&numbers, &all, Of::All) > 8.0);
    }

    #[test]
    fn what_always_runs_does_not_scatter_and_load_that_comes_and_goes_does() {
        let steady = [10.0; 100];
        assert!((factor(&steady, &steady, Of::Ticks(1000.0)) - 1.0).abs() < 1e-9);
        let mut load = [8.0; 100];
        load[..50].fill(1.0);
        assert!(factor(&load, &load, Of::Ticks(1000.0)) > 20.0);
    }

    #[test]
    fn one_in_a_thousand_is_beyond_chance() {
        // Chi-squared, 0.999: 24.32 of 7, 149.4 of 100 (Abramowitz and Stegun, 26.8).
        assert!((beyond_chance(7.0) - 24.32 / 7.0).abs() < 0.05);
        assert!((beyond_chance(100.0) - 1.494).abs() < 0.01);
    }
}
