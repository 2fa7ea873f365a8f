//! Two ratios of sums, and how far apart they can be told to be. The one place that names statrs.
//!
//! A side of a comparison is blocks (recordings, windows, processes), each with a value and a weight (the time it took, or
//! what else the value is divided by). What is compared is `sum of values / sum of weights`, so a short window counts for
//! less. How far blocks are from what their weight makes one expect says how exact that is (Cochran, Sampling Techniques,
//! 3rd edition, 6.4).

use statrs::distribution::{ContinuousCDF as _, Normal, StudentsT};

/// Of 95 %, on one side.
pub const TAIL: f64 = 0.025;
/// From so many blocks a side on they are drawn again; from fewer, the same few come again and again, and intervals are too
/// narrow (`simulated` has the figures).
pub const FEWEST_DRAWN: usize = 8;
/// How often all are drawn again: the ends of an interval are then the 25th from either end.
const DRAWS: usize = 999;
/// Freedom from which on Student's t is the normal distribution, which takes a hundredth of the time.
const FREE: f64 = 1e6;

/// One side's number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    pub value: f64,
    pub variance: f64,
    /// Degrees of freedom with which the variance is known; infinite if it follows from a model.
    pub freedom: f64,
}

/// What is known of a difference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    pub before: Mean,
    pub after: Mean,
    /// The ends of the 95 % interval, in standard errors below and above.
    below: f64,
    above: f64,
}

/// Values of blocks to their weights.
pub fn ratio(values: &[f64], weights: &[f64]) -> Mean {
    let n = values.len() as f64;
    let (sum, weight): (f64, f64) = (values.iter().sum(), weights.iter().sum());
    if weight <= 0.0 {
        return Mean::default();
    }
    let value = sum / weight;
    if n < 2.0 {
        return Mean {
            value,
            variance: 0.0,
            freedom: 0.0,
        };
    }
    let squares: f64 = values.iter().zip(weights).map(|(x, w)| (x - value * w).powi(2)).sum();
    Mean {
        value,
        variance: n / (n - 1.0) * squares / (weight * weight),
        freedom: n - 1.0,
    }
}

impl Difference {
    /// By Student's t (Welch), which is right for few blocks and for variances that follow from a model.
    pub fn new(before: Mean, after: Mean) -> Self {
        let mut difference = Self {
            before,
            after,
            below: 0.0,
            above: 0.0,
        };
        difference.below = quantile(TAIL, difference.freedom());
        difference.above = difference.below;
        difference
    }

    /// The interval of blocks that are drawn again, studentized (Efron and Tibshirani, An Introduction to the Bootstrap,
    /// 12.5). It is lopsided where the blocks are.
    pub fn drawn(mut self, before: (&[f64], &[f64]), after: (&[f64], &[f64]), random: &mut fastrand::Rng) -> Self {
        let seen = self.change();
        let mut deviations = Vec::with_capacity(DRAWS);
        let mut drawn = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        for _ in 0..DRAWS {
            for ((values, weights), (from, weighing)) in drawn.iter_mut().zip([before, after]) {
                values.clear();
                weights.clear();
                for _ in 0..from.len() {
                    let at = random.usize(..from.len());
                    values.push(from[at]);
                    weights.push(weighing[at]);
                }
            }
            let [(a, wa), (b, wb)] = &drawn;
            let (a, b) = (ratio(a, wa), ratio(b, wb));
            let error = (a.variance + b.variance).sqrt();
            if error > 0.0 {
                deviations.push((b.value - a.value - seen) / error);
            }
        }
        if deviations.len() < DRAWS / 2 {
            return self;
        }
        deviations.sort_unstable_by(f64::total_cmp);
        let at = |part: f64| deviations[((deviations.len() + 1) as f64 * part) as usize - 1];
        // A normal interval is the least: what blocks have shown too little of is not known for that.
        self.below = at(1.0 - TAIL).max(1.0);
        self.above = (-at(TAIL)).max(1.0);
        self
    }

    pub fn change(&self) -> f64 {
        self.after.value - self.before.value
    }

    pub fn error(&self) -> f64 {
        (self.before.variance + self.after.variance).sqrt()
    }

    /// Welch's.
    fn freedom(&self) -> f64 {
        self.freedom_of(self.before.variance, self.after.variance)
    }

    fn freedom_of(&self, before: f64, after: f64) -> f64 {
        let part = |variance: f64, freedom: f64| match freedom.is_finite() {
            true if variance > 0.0 => variance * variance / freedom.max(1e-9),
            _ => 0.0,
        };
        let parts = part(before, self.before.freedom) + part(after, self.after.freedom);
        match parts > 0.0 {
            true => (before + after).powi(2) / parts,
            false => f64::INFINITY,
        }
    }

    pub fn interval(&self) -> (f64, f64) {
        let error = self.error();
        (self.change() - self.below * error, self.change() + self.above * error)
    }

    /// How probable it is that equal programs differ by as much, either way.
    pub fn p(&self) -> f64 {
        let (change, error) = (self.change().abs(), self.error());
        if change == 0.0 {
            return 1.0;
        }
        if error <= 0.0 {
            return 0.0;
        }
        2.0 * tail(change / error, self.freedom())
    }

    pub fn excludes_zero(&self) -> bool {
        let (least, most) = self.interval();
        least > 0.0 || most < 0.0
    }

    /// `after / before - 1`.
    pub fn relative(&self) -> Option<f64> {
        (self.before.value > 0.0).then(|| self.change() / self.before.value)
    }

    /// Its interval (Fieller's): all changes that the numbers do not speak against. None if any would do.
    pub fn relative_interval(&self) -> Option<(f64, f64)> {
        let (a, b) = (self.before.value, self.after.value);
        let c = quantile(TAIL, self.freedom()).powi(2);
        let square = a * a - c * self.before.variance;
        if a <= 0.0 || square <= 0.0 {
            return None;
        }
        let root = (a * b).powi(2) - square * (b * b - c * self.after.variance);
        let root = root.max(0.0).sqrt();
        Some(((a * b - root) / square - 1.0, (a * b + root) / square - 1.0))
    }

    /// The lower end of `after - (1 + share) × before - amount`, if only this part of all chances may be beyond it.
    pub fn least_beyond(&self, share: f64, amount: f64, part: f64) -> f64 {
        let times = 1.0 + share;
        let (before, after) = (self.before.variance * times * times, self.after.variance);
        let error = (before + after).sqrt();
        let middle = self.after.value - times * self.before.value - amount;
        middle - quantile(part, self.freedom_of(before, after)) * error
    }

    /// The smallest change that such numbers would show four times in five.
    pub fn detectable(&self) -> f64 {
        let freedom = self.freedom();
        (quantile(TAIL, freedom) + quantile(0.2, freedom)) * self.error()
    }
}

/// How far out this part of all chances begins, in standard errors.
pub fn quantile(part: f64, freedom: f64) -> f64 {
    // One block says nothing of how others differ from it.
    if freedom.is_nan() || freedom <= 0.0 {
        return f64::INFINITY;
    }
    match freedom >= FREE {
        true => Normal::standard().inverse_cdf(1.0 - part),
        false => StudentsT::new(0.0, 1.0, freedom).map_or(f64::INFINITY, |student| student.inverse_cdf(1.0 - part)),
    }
}

fn tail(deviation: f64, freedom: f64) -> f64 {
    if freedom.is_nan() || freedom <= 0.0 {
        return 0.5;
    }
    match freedom >= FREE {
        true => Normal::standard().sf(deviation),
        false => StudentsT::new(0.0, 1.0, freedom).map_or(0.5, |student| student.sf(deviation)),
    }
}

/// Benjamini and Hochberg's: each p as the smallest rate of false ones among all that a list up to it would hold.
pub fn adjusted(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_unstable_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut adjusted = vec![1.0_f64; p.len()];
    let mut least = 1.0_f64;
    for (rank, index) in order.iter().enumerate().rev() {
        least = least.min(p[*index] * p.len() as f64 / (rank + 1) as f64);
        adjusted[*index] = least;
    }
    adjusted
}

/// How much more numbers scatter than their errors say: the middle of their squared deviations to that of a normal one
/// (Devlin and Roeder's genomic control). A few that did change do not move the middle.
pub fn inflation(deviations: &mut [f64]) -> f64 {
    /// The median of χ² with one degree of freedom.
    const MEDIAN: f64 = 0.454_936;
    if deviations.is_empty() {
        return 1.0;
    }
    deviations.iter_mut().for_each(|z| *z *= *z);
    deviations.sort_unstable_by(f64::total_cmp);
    let middle = deviations.len() / 2;
    let median = match deviations.len() % 2 {
        1 => deviations[middle],
        _ => f64::midpoint(deviations[middle - 1], deviations[middle]),
    };
    (median / MEDIAN).max(1.0)
}

/// How alike neighbours are: the correlation of each block's rate with the next one's.
pub fn neighbours(rates: &[f64]) -> f64 {
    let n = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / n;
    let square: f64 = rates.iter().map(|rate| (rate - mean).powi(2)).sum();
    let product: f64 = rates.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum();
    match square > 0.0 {
        true => product / square,
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(value: f64, variance: f64, freedom: f64) -> Mean {
        Mean {
            value,
            variance,
            freedom,
        }
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (freedom, expected) in [(1.0, 12.706), (4.0, 2.776), (20.0, 2.086), (f64::INFINITY, 1.960)] {
            assert!((quantile(TAIL, freedom) - expected).abs() < 1e-3, "{freedom}");
        }
        assert_eq!(quantile(TAIL, 0.0), f64::INFINITY);
    }

    #[test]
    fn p_and_interval_agree_on_whether_there_is_a_difference() {
        for change in [0.1, 1.0, 1.9, 2.0, 2.5, 3.0] {
            let difference = Difference::new(mean(10.0, 0.5, 9.0), mean(10.0 + change, 0.5, 5.0));
            assert_eq!(difference.p() < 0.05, difference.excludes_zero(), "{change}");
            let (least, _) = difference.relative_interval().unwrap();
            assert_eq!(difference.excludes_zero(), least > 0.0, "{change}");
        }
    }

    #[test]
    fn a_ratio_is_known_as_well_as_its_blocks_agree() {
        let alike = ratio(&[2.0, 4.0, 6.0], &[1.0, 2.0, 3.0]);
        assert_eq!((alike.value, alike.variance, alike.freedom), (2.0, 0.0, 2.0));
        // The mean of 1, 2 and 3 has the standard error 1/√3.
        let apart = ratio(&[1.0, 2.0, 3.0], &[1.0, 1.0, 1.0]);
        assert!((apart.variance - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(ratio(&[1.0], &[1.0]).freedom, 0.0);
        assert_eq!(ratio(&[], &[]), Mean::default());
    }

    #[test]
    fn of_many_tests_those_stand_that_few_of_them_would_by_chance() {
        // Benjamini and Hochberg's own example (1995), of which four stand.
        let p = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
            0.7590, 1.0,
        ];
        let standing = adjusted(&p).iter().filter(|p| **p <= 0.05).count();
        assert_eq!(standing, 4);
        assert_eq!(adjusted(&[]), Vec::<f64>::new());
    }

    #[test]
    fn the_middle_is_not_moved_by_a_few_that_changed() {
        let mut deviations: Vec<f64> = (0..99)
            .map(|at| quantile((f64::from(at) + 0.5) / 99.0, f64::INFINITY))
            .collect();
        assert!(inflation(&mut deviations.clone()) < 1.05);
        deviations.extend([50.0, -80.0]);
        assert!(inflation(&mut deviations.clone()) < 1.1);
        let mut wider: Vec<f64> = deviations.iter().map(|z| z.abs().sqrt() * 2.0).collect();
        wider.iter_mut().for_each(|z| *z = z.powi(2));
        assert!((inflation(&mut wider) / inflation(&mut deviations) - 16.0).abs() < 1e-6);
    }
}
