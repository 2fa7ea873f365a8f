//! How exact estimates are, as further values of a profile, so that a file keeps it.
//!
//! Beside `inuse_space` in bytes stands `inuse_space_variance` in KiB²: it adds up over samples as the value does, whoever
//! merges or filters them. Nobody is shown such a value: it stands behind those that people look at, is never the default,
//! and of other readers each takes it for one more kind of value.
//!
//! Units are squares of larger ones than the value's, or a day of waits would not fit into 63 bits. What is rounded is
//! rounded up, so that what is not exact never becomes exact.

use super::{Profile, ValueType};

/// The variance of an estimate, for how it was drawn.
const VARIANCE: &str = "_variance";
/// The sum of the squares of what it is made of: how large single ones are.
const SQUARES: &str = "_squares";

/// What is written beside which value: its own kind, and the square of how much of the value's unit.
const WRITTEN: [(&str, &str, Squared); 9] = [
    ("inuse_space", "inuse_space_variance", KIB),
    ("alloc_space", "alloc_space_variance", KIB),
    ("peak_space", "peak_space_variance", KIB),
    ("temporary_space", "temporary_space_variance", KIB),
    ("wait", "wait_variance", MICROSECONDS),
    ("wait", "wait_squares", MILLISECONDS),
    ("cpu", "cpu_variance", MICROSECONDS),
    ("wall", "wall_variance", MICROSECONDS),
    ("wall", "wall_squares", MILLISECONDS),
];

type Squared = (&'static str, &'static str, f64);
const KIB: Squared = ("bytes", "KiB^2", 1024.0);
const MICROSECONDS: Squared = ("nanoseconds", "microseconds^2", 1e3);
const MILLISECONDS: Squared = ("nanoseconds", "milliseconds^2", 1e6);
/// Others are read as well.
const READ: [Squared; 5] = [
    KIB,
    MICROSECONDS,
    MILLISECONDS,
    ("bytes", "bytes^2", 1.0),
    ("nanoseconds", "nanoseconds^2", 1.0),
];

/// Where a profile has the squares of a value, and of how much one is the square.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Squares {
    pub index: usize,
    one: f64,
}

impl Squares {
    /// In the value's own unit, squared.
    pub fn of(self, values: &[i64]) -> f64 {
        let squared = values.get(self.index).copied().unwrap_or(0).max(0);
        squared as f64 * self.one
    }
}

impl Profile {
    /// Where the variance of a value is; none if the recording does not say how exact it is.
    pub fn variance_of(&self, value: usize) -> Option<Squares> {
        self.beside(value, VARIANCE)
    }

    /// Where the sum of squares of what a value is made of is.
    pub fn squares_of(&self, value: usize) -> Option<Squares> {
        self.beside(value, SQUARES)
    }

    /// Values that people look at, by their index.
    pub fn shown_types(&self) -> impl Iterator<Item = (usize, ValueType)> {
        let types = self.sample_types.iter().copied().enumerate();
        types.filter(|(_, value)| !self.is_beside_another(*value))
    }

    /// Puts variances of a value beside it, one for each sample, in its own unit, squared.
    pub fn add_variances(&mut self, value: ValueType, variances: impl Iterator<Item = f64>) {
        self.add_beside(value, VARIANCE, variances);
    }

    /// Puts sums of squares beside a value, likewise.
    pub fn add_squares(&mut self, value: ValueType, squares: impl Iterator<Item = f64>) {
        self.add_beside(value, SQUARES, squares);
    }

    fn beside(&self, value: usize, suffix: &str) -> Option<Squares> {
        let value = *self.sample_types.get(value)?;
        let (index, found) = (self.sample_types.iter().enumerate())
            .find(|(_, other)| other.kind.strip_suffix(suffix) == Some(value.kind))?;
        let (.., one) = READ
            .iter()
            .find(|(unit, squared, _)| *unit == value.unit && *squared == found.unit)?;
        Some(Squares { index, one: one * one })
    }

    fn is_beside_another(&self, value: ValueType) -> bool {
        [VARIANCE, SQUARES].iter().any(|suffix| {
            let of = value.kind.strip_suffix(suffix);
            let unit = READ.iter().find(|(_, squared, _)| *squared == value.unit);
            let Some((kind, (unit, ..))) = of.zip(unit) else {
                return false;
            };
            let mut types = self.sample_types.iter();
            types.any(|other| other.kind == kind && other.unit == *unit)
        })
    }

    fn add_beside(&mut self, value: ValueType, suffix: &str, squares: impl Iterator<Item = f64>) {
        let of = |(kind, beside, _): &&(&str, &'static str, Squared)| *kind == value.kind && beside.ends_with(suffix);
        let Some((_, kind, (_, unit, one))) = WRITTEN.iter().find(of) else {
            return;
        };
        // All together stay below what a reader can add up.
        let most = (i64::MAX / 2) / i64::try_from(self.samples.len().max(1)).unwrap_or(i64::MAX);
        let squares = squares.map(|squared| ((squared / (one * one)).ceil().max(0.0) as i64).min(most));
        self.add_value(ValueType { kind, unit }, squares);
    }

    /// Puts a further value behind those of each sample, in their order.
    pub fn add_value(&mut self, value: ValueType, mut of_samples: impl Iterator<Item = i64>) {
        self.sample_types.push(value);
        for values in self.samples.values_mut() {
            let mut longer = std::mem::take(values).into_vec();
            longer.push(of_samples.next().unwrap_or(0));
            *values = longer.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::made;

    const SPACE: ValueType = made::SPACE;

    fn heap() -> Profile {
        let mut profile = Profile::new(vec![SPACE], None);
        made::add(&mut profile, 1, 5 << 20, &["f"]);
        made::add(&mut profile, 1, 7 << 20, &["g"]);
        profile
    }

    #[test]
    fn a_variance_stands_beside_its_value_and_nobody_is_shown_it() {
        let mut profile = heap();
        assert_eq!(profile.variance_of(0), None);
        profile.add_variances(SPACE, [4.0 * 1024.0 * 1024.0, 1.0].into_iter());
        assert_eq!(profile.sample_types[1].kind, "inuse_space_variance");
        assert_eq!(profile.shown_types().collect::<Vec<_>>(), [(0, SPACE)]);
        let variance = profile.variance_of(0).unwrap();
        let found: Vec<f64> = profile.samples().map(|(_, values)| variance.of(values)).collect();
        // What is less than one is rounded up.
        assert_eq!(found, [4.0 * 1024.0 * 1024.0, 1024.0 * 1024.0]);
        assert_eq!(profile.variance_of(1), None);
    }

    #[test]
    fn what_is_called_so_but_stands_beside_nothing_is_a_value_as_any() {
        let odd = ValueType {
            kind: "price_variance",
            unit: "euros^2",
        };
        let price = ValueType {
            kind: "price",
            unit: "euros",
        };
        let profile = Profile::new(vec![price, odd], None);
        assert_eq!(profile.shown_types().count(), 2);
        let alone = ValueType {
            kind: "inuse_space_variance",
            unit: "KiB^2",
        };
        assert_eq!(Profile::new(vec![alone], None).shown_types().count(), 1);
    }

    #[test]
    fn squares_beyond_all_bounds_add_up_still() {
        let mut profile = heap();
        profile.add_variances(SPACE, [f64::MAX, f64::INFINITY].into_iter());
        assert!(profile.total(1) > 0);
        let mut profile = heap();
        profile.add_variances(SPACE, [f64::NAN, -5.0].into_iter());
        assert_eq!(profile.total(1), 0);
    }
}
