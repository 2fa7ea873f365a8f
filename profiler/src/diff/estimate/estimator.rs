//! What a row differs by, and its variance: from blocks, from numbers of samples, or from what the recording says of its
//! estimates.

use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;

use super::{
    super::{
        blocks::Side,
        bursts::Bursts,
        measure::{Measure, Normal},
        rows::Key,
        statistics::{Difference, Mean, TAIL, inflation, quantile, ratio},
    },
    DELAYS_DIFFER, Method, Row,
};

/// With fewer samples on both sides together a row is not looked at: nothing could be said of it.
const FEWEST_SAMPLES: f64 = 10.0;
/// So many rows show how rows scatter.
const FEWEST_ROWS: usize = 20;

pub struct Estimator<'a> {
    pub measure: &'a Measure,
    pub parts: &'a [Side; 2],
    pub method: Method,
    /// Of one recording of a thread.
    pub ticks: [Option<f64>; 2],
    /// Of either side, where numbers of samples are all that is known.
    pub bursts: [Bursts; 2],
    pub random: fastrand::Rng,
}

/// What a row has on one side, block by block, and what recordings say of how exact it is.
struct Part {
    values: Vec<f64>,
    variance: f64,
    /// By how much more it scatters in time than throws do.
    burst: f64,
    /// What of it was for want of a CPU.
    delays: f64,
}

impl Estimator<'_> {
    pub fn total(&mut self) -> Difference {
        let all = [0, 1].map(|at| Part {
            values: self.parts[at].all.clone(),
            variance: self.parts[at].exactness.all,
            burst: self.bursts[at].all.unwrap_or(1.0),
            delays: self.parts[at].delays.all,
        });
        self.difference(&all, true)
    }

    fn own(&self, row: u32) -> [Part; 2] {
        [0, 1].map(|at| {
            let side = &self.parts[at];
            Part {
                values: side.dense(&side.own, row),
                variance: (self.measure).of_row(side.exactness.own.get(&row).copied().unwrap_or(0.0)),
                burst: self.bursts[at].own.get(&row).copied().unwrap_or(1.0),
                delays: side.delays.own.get(&row).copied().unwrap_or(0.0),
            }
        })
    }

    fn with_callees(&self, row: u32) -> [Part; 2] {
        [0, 1].map(|at| {
            let side = &self.parts[at];
            Part {
                values: side.dense(&side.total, row),
                variance: (self.measure).of_row(side.exactness.total.get(&row).copied().unwrap_or(0.0)),
                burst: self.bursts[at].total.get(&row).copied().unwrap_or(1.0),
                delays: side.delays.total.get(&row).copied().unwrap_or(0.0),
            }
        })
    }

    pub fn rows(&mut self, tested: &[u32], keys: IndexSet<Key, FxBuildHasher>) -> Vec<Row> {
        tested
            .iter()
            .filter_map(|row| {
                let key = keys.get_index(*row as usize)?.clone();
                Some(Row {
                    key,
                    own: self.difference(&self.own(*row), false),
                    total: self.difference(&self.with_callees(*row), false),
                    own_stands: false,
                    total_stands: false,
                    p: 1.0,
                })
            })
            .collect()
    }

    /// Takes into account how much more functions scatter than samples do.
    pub fn inflate(&mut self, tested: &[u32]) {
        let Method::Counts { noise, delays, .. } = self.method else {
            return;
        };
        self.method = Method::Counts {
            inflation: 1.0,
            noise: 0.0,
            delays: 0.0,
        };
        let mut deviations = Vec::new();
        for row in tested {
            let own = self.own(*row);
            let difference = self.difference(&own, false);
            // What is above all others has little of its own.
            let samples: f64 = [0, 1].iter().map(|side| self.samples(&own[*side], *side)).sum();
            if samples >= FEWEST_SAMPLES && difference.error() > 0.0 {
                deviations.push(difference.change() / difference.error());
            }
        }
        let inflation = match deviations.len() >= FEWEST_ROWS {
            true => inflation(&mut deviations),
            false => 1.0,
        };
        self.method = Method::Counts {
            inflation,
            noise,
            delays,
        };
    }

    /// How many samples that is, or what comes to as much.
    fn samples(&self, part: &Part, side: usize) -> f64 {
        let sum = part.values.iter().sum::<f64>();
        match self.measure.period[side] {
            Some(period) => sum / period,
            None if self.measure.estimated => as_samples(sum, part.variance),
            None => 0.0,
        }
    }

    fn difference(&mut self, values: &[Part; 2], is_all: bool) -> Difference {
        let parts = self.parts;
        let of_delays = self.of_delays(values, is_all);
        let means = [0, 1].map(|side| {
            let mean = self.mean(&values[side], side, is_all);
            Mean {
                variance: mean.variance + of_delays,
                ..mean
            }
        });
        let difference = Difference::new(means[0], means[1]);
        match self.method {
            // What is far from being told apart is not for that.
            Method::Blocks { drawn: true, .. } if is_all || difference.p() < 0.2 => difference.drawn(
                (&values[0].values, &parts[0].weights),
                (&values[1].values, &parts[1].weights),
                &mut self.random,
            ),
            _ => difference,
        }
    }

    fn mean(&self, part: &Part, side: usize, is_all: bool) -> Mean {
        let weights = &self.parts[side].weights;
        let values = &part.values;
        let mean = ratio(values, weights);
        match self.method {
            Method::Blocks { .. } if is_all => mean,
            Method::Blocks { .. } => {
                // Blocks that happen to be equal are not more alike than samples can be. What makes the wider interval is
                // taken: of few blocks the little that is known counts against them.
                let least = self.of_samples(values, side, true);
                let width = |variance: f64, freedom: f64| quantile(TAIL, freedom).powi(2) * variance;
                match width(least, f64::INFINITY) > width(mean.variance, mean.freedom) {
                    true => Mean {
                        variance: least,
                        freedom: f64::INFINITY,
                        ..mean
                    },
                    false => mean,
                }
            }
            Method::Counts { inflation, noise, .. } => Mean {
                variance: inflation
                    * part.burst
                    * match self.measure.estimated {
                        true => self.of_estimates(part, side),
                        false => self.of_samples(values, side, false),
                    }
                    + (noise * mean.value).powi(2),
                freedom: f64::INFINITY,
                ..mean
            },
            Method::Unknown => Mean {
                variance: 0.0,
                freedom: 0.0,
                ..mean
            },
        }
    }

    /// What both sides may differ by because the machine was busier on one of them: a variance, of each. What is seen of that
    /// is the least it was, as those who wait for one another make more of it; and where threads have waited longer for CPUs,
    /// they have come to wait less for all else.
    fn of_delays(&self, values: &[Part; 2], is_all: bool) -> f64 {
        match self.method {
            Method::Counts { delays, .. } if delays > 0.0 => {}
            _ => return 0.0,
        }
        let [before, after] = [0, 1].map(|side| {
            let part = &values[side];
            let weight = self.parts[side].weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            let all = self.parts[side].all.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            let elsewhere = match is_all {
                true => 0.0,
                false => part.values.iter().sum::<f64>() / all * self.parts[side].delays.all,
            };
            [part.delays / weight, elsewhere / weight]
        });
        let both = before.into_iter().zip(after);
        both.map(|(before, after)| {
            let unseen = (before.powi(2) + after.powi(2)) / 2.0;
            (after - before).powi(2) / 2.0 + DELAYS_DIFFER.powi(2) * unseen
        })
        .sum()
    }

    /// The variance that a number has for being an estimate, of what came by chance.
    fn of_estimates(&self, part: &Part, side: usize) -> f64 {
        let weight: f64 = self.parts[side].weights.iter().sum();
        if weight <= 0.0 {
            return 0.0;
        }
        let variance = match &self.measure.normal {
            // A part and the rest were drawn apart from one another.
            Normal::Samples => {
                let share = (part.values.iter().sum::<f64>() / weight).clamp(0.0, 1.0);
                let rest = (self.parts[side].exactness.all - part.variance).max(0.0);
                (1.0 - share).powi(2) * part.variance + share.powi(2) * rest
            }
            _ => part.variance,
        };
        variance / (weight * weight)
    }

    /// The variance that a number has for being made of samples.
    fn of_samples(&self, values: &[f64], side: usize, of_all: bool) -> f64 {
        let Some(period) = self.measure.period[side] else {
            return 0.0;
        };
        let weight: f64 = self.parts[side].weights.iter().sum();
        if weight <= 0.0 {
            return 0.0;
        }
        let counts = values.iter().map(|value| (value / period).max(0.0));
        let met: f64 = counts.clone().sum();
        let variance: f64 = match (&self.measure.normal, self.ticks[side]) {
            (Normal::Samples, _) => of_so_many(met, self.parts[side].all.iter().sum::<f64>() / period),
            _ if of_all => of_so_many(met, self.parts[side].all.iter().sum::<f64>() / period),
            (_, Some(ticks)) => counts.map(|count| of_so_many(count, ticks)).sum(),
            (_, None) => counts.sum(),
        };
        let least = if of_all || met >= ONE { 0.0 } else { ONE };
        variance.max(least) * (period / weight).powi(2)
    }
}

/// What was not met in a few samples is not nothing for certain: it could have been met once.
const ONE: f64 = 1.0;

/// Samples that would tell as much: their error is as large a part of them.
fn as_samples(sum: f64, variance: f64) -> f64 {
    match variance > 0.0 {
        true => sum * sum / variance,
        false if sum > 0.0 => f64::INFINITY,
        false => 0.0,
    }
}

/// The variance of so many hits in so many tries.
fn of_so_many(hits: f64, tries: f64) -> f64 {
    match tries > 0.0 {
        true => hits * (1.0 - hits / tries).max(0.0),
        false => 0.0,
    }
}

/// Rows of which something can be said, and how many others there are.
pub fn worth_looking_at(parts: &[Side; 2], measure: &Measure, rows: usize) -> (Vec<u32>, usize) {
    let samples = |row: u32| -> Option<f64> {
        let mut sum = 0.0;
        for (side, part) in parts.iter().enumerate() {
            let values = part.total.get(&row).into_iter().flatten();
            let all = values.map(|(_, value)| value).sum::<f64>();
            sum += match measure.period[side] {
                Some(period) => all / period,
                None if measure.estimated => as_samples(
                    all,
                    measure.of_row(part.exactness.total.get(&row).copied().unwrap_or(0.0)),
                ),
                None => return None,
            };
        }
        Some(sum)
    };
    let tested: Vec<u32> = (0..rows as u32)
        .filter(|row| samples(*row).is_none_or(|samples| samples >= FEWEST_SAMPLES))
        .collect();
    let sparse = rows - tested.len();
    (tested, sparse)
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use crate::diff::{Asked, Normal, compare, made};

    /// A program that had next to no CPU: 56 samples, of which one in twenty would have been of `findall`.
    #[test]
    fn what_a_few_samples_have_not_met_is_not_gone() {
        let names: Vec<String> = (0..12).map(|number| format!("f{number}")).collect();
        let stacks: Vec<[&str; 2]> = names.iter().map(|name| [&**name, "main"]).collect();
        let side = |seconds: i64, each: i64, findall: i64| {
            let mut all: Vec<(i64, &[&str])> = stacks.iter().map(|stack| (each, &stack[..])).collect();
            all.push((findall, &["findall", "main"]));
            made::cpu(seconds, &all)
        };
        for normal in [Normal::Samples, Normal::Time] {
            let asked = Asked {
                normal: Some(normal.clone()),
                ..Asked::default()
            };
            let diff = compare(from_ref(&side(3, 32, 22)), from_ref(&side(3, 5, 0)), &asked).unwrap();
            let findall = diff
                .rows
                .iter()
                .find(|row| row.key.name.starts_with("findall"))
                .unwrap();
            assert!(!findall.stands(), "{normal:?}: {findall:?}");
            // Of ten times as many it would be.
            let diff = compare(from_ref(&side(30, 320, 220)), from_ref(&side(30, 50, 0)), &asked).unwrap();
            let findall = diff
                .rows
                .iter()
                .find(|row| row.key.name.starts_with("findall"))
                .unwrap();
            assert!(findall.stands(), "{normal:?}: {findall:?}");
        }
    }
}
