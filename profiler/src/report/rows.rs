//! Rows of a report of anybody's profile: what each has itself, and with all that it called.

use rustc_hash::FxHashMap;

use super::{
    Interpreter,
    grouping::{By, Grouping},
    machinery::Machinery,
};
use crate::profile::{FrameId, Profile, SampleKey, Squares};

/// A value, and of how many samples it is, or how exact, where that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) value: i64,
    pub(super) samples: u64,
    /// In the value's unit, squared.
    pub(super) variance: f64,
}

impl Sum {
    pub(super) fn add(&mut self, other: Self) {
        self.value = self.value.saturating_add(other.value);
        self.samples = self.samples.saturating_add(other.samples);
        // What one sample stands for was drawn for itself.
        self.variance += other.variance;
    }

    /// Half of the 95 % interval of the value, in its own unit.
    pub(super) fn error(self) -> i64 {
        (1.96 * self.variance.max(0.0).sqrt()).round() as i64
    }
}

/// What is counted of each sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) value: usize,
    /// Of so many samples it is.
    pub(super) samples: Option<usize>,
    /// It is an estimate, or could be one, and the recording says how exact.
    pub(super) variance: Option<Squares>,
}

impl Counted {
    pub(super) fn new(profile: &Profile, value: usize) -> Self {
        let samples = super::amount::samples_of(profile, value);
        Self {
            value,
            samples,
            // Samples tell it by themselves.
            variance: profile.variance_of(value).filter(|_| samples.is_none()),
        }
    }

    /// Half of the 95 % interval of a part's share of all, as a share; none where nothing is known of how it came about.
    pub(super) fn error(self, part: Sum, all: Sum) -> Option<f64> {
        if self.samples.is_some() {
            return Some(super::amount::error(part.samples, all.samples));
        }
        self.variance?;
        let whole = all.value as f64;
        if whole <= 0.0 {
            return None;
        }
        // Of two numbers that were drawn apart, the part and the rest.
        let share = (part.value as f64 / whole).clamp(0.0, 1.0);
        let rest = (all.variance - part.variance).max(0.0);
        let variance = (1.0 - share).powi(2) * part.variance + share.powi(2) * rest;
        Some(1.96 * variance.max(0.0).sqrt() / whole)
    }

    pub(super) fn of(self, values: &[i64]) -> Sum {
        Sum {
            value: values[self.value],
            samples: self.samples.map_or(0, |at| u64::try_from(values[at]).unwrap_or(0)),
            variance: self.variance.map_or(0.0, |squares| squares.of(values)),
        }
    }

    pub(super) fn all(self, profile: &Profile) -> Sum {
        let mut all = Sum::default();
        for (_, values) in profile.samples() {
            all.add(self.of(values));
        }
        all
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) itself: Sum,
    pub(super) total: Sum,
    pub(super) name: Option<String>,
    /// Where the most of it is.
    pub(super) hottest: Option<FrameId>,
    heat: FxHashMap<FrameId, i64>,
    seen_in: u64,
}

pub(super) struct Rows {
    /// The largest first.
    pub(super) rows: Vec<Row>,
    pub(super) all: Sum,
}

pub(super) fn rows(profile: &Profile, counted: Counted, by: By, interpreter: Interpreter, merge_workers: bool) -> Rows {
    let mut grouping = Grouping::new(profile, by, merge_workers);
    let mut machinery = Machinery::new(profile, interpreter);
    let mut found: Vec<Row> = Vec::new();
    let mut shown = Vec::new();
    let mut all = Sum::default();
    for ((key, values), number) in profile.samples().zip(1_u64..) {
        let sum = counted.of(values);
        all.add(sum);
        if sum.value == 0 {
            continue;
        }
        if !by.is_of_frames() {
            let row = at(&mut found, grouping.of_sample(key));
            row.itself.add(sum);
            row.total.add(sum);
            continue;
        }
        shown_of(profile, key, &mut machinery, &mut shown);
        for (depth, id) in shown.iter().rev().enumerate() {
            let row = at(&mut found, grouping.of_frame(*id));
            if depth == 0 {
                row.itself.add(sum);
            }
            if row.seen_in != number {
                row.seen_in = number;
                row.total.add(sum);
                let heat = row.heat.entry(*id).or_default();
                *heat = heat.saturating_add(sum.value);
            }
        }
    }
    for (row, number) in found.iter_mut().zip(0..) {
        row.name = grouping.name(number).map(str::to_owned);
        let hottest = std::mem::take(&mut row.heat);
        row.hottest = (hottest.into_iter())
            .max_by_key(|&(id, value)| (value, std::cmp::Reverse(id)))
            .map(|(id, _)| id);
    }
    found.sort_by_key(|row| std::cmp::Reverse((row.itself.value, row.total.value)));
    Rows { rows: found, all }
}

fn at(rows: &mut Vec<Row>, number: u32) -> &mut Row {
    let number = number as usize;
    if rows.len() <= number {
        rows.resize_with(number + 1, Row::default);
    }
    &mut rows[number]
}

/// The frames of a sample that are shown, root first.
pub(super) fn shown_of(profile: &Profile, key: &SampleKey, machinery: &mut Machinery<'_>, shown: &mut Vec<FrameId>) {
    shown.clear();
    machinery.push_shown(profile.stack(key.stack), shown);
}
