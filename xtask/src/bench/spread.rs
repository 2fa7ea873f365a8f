//! What several measurements of the same thing come to.

use anyhow::{Result, bail};

/// One or more measurements.
#[derive(Clone, Debug)]
pub struct Spread {
    /// In the order in which they were made: figures of one run can be paired.
    measured: Vec<f64>,
    sorted: Vec<f64>,
}

impl Spread {
    pub fn of(measured: Vec<f64>) -> Result<Self> {
        if measured.is_empty() {
            bail!("nothing was measured");
        }
        if let Some(value) = measured.iter().find(|value| !value.is_finite()) {
            bail!("one of the measurements is {value}");
        }
        let mut sorted = measured.clone();
        sorted.sort_by(f64::total_cmp);
        Ok(Self { measured, sorted })
    }

    /// The middle one, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let middle = self.sorted.len() / 2;
        if self.sorted.len().is_multiple_of(2) {
            (self.sorted[middle - 1] + self.sorted[middle]) / 2.0
        } else {
            self.sorted[middle]
        }
    }

    pub fn min(&self) -> f64 {
        self.sorted[0]
    }

    pub fn max(&self) -> f64 {
        self.sorted[self.sorted.len() - 1]
    }

    pub fn measured(&self) -> &[f64] {
        &self.measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        let spread = |values: &[f64]| Spread::of(values.to_vec()).unwrap();
        assert_eq!(spread(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(spread(&[4.0, 1.0, 3.0, 2.0]).median(), 2.5);
        assert_eq!(spread(&[7.0]).median(), 7.0);
        assert_eq!(
            (spread(&[3.0, 1.0, 2.0]).min(), spread(&[3.0, 1.0, 2.0]).max()),
            (1.0, 3.0)
        );
    }

    #[test]
    fn nothing_and_nonsense_have_no_median() {
        assert!(Spread::of(Vec::new()).is_err());
        assert!(Spread::of(vec![1.0, f64::NAN]).is_err());
    }
}
