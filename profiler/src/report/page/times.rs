//! When the samples of the page were: how much of each was in which slice of time.
//!
//! Of many stacks that were met a few times each, this is most of what the page has to hold, and it does not compress: when
//! each was is chance. So slices are put together, two and two, until there is room for them; what a reader can choose
//! becomes coarser, and no number becomes wrong.

use crate::profile::{
    Profile,
    timeline::{self, MOST_SLICES, Part},
};

/// What the times of a page may take up, by [`size`], in bytes; zlib needs a third more. A page of 100,000 rows is to be below
/// two megabytes, and has no more room than the least.
const MOST_ROOM: f64 = 600_000.0;
const LEAST_ROOM: f64 = 150_000.0;
const ROOM_OF_ROW: f64 = 4.8;

#[derive(Debug, Default)]
pub(super) struct Times {
    /// In seconds.
    pub(super) slice: f64,
    /// None if it is not known when samples were.
    pub(super) slices: u32,
    /// Of each row: in how many slices it was.
    pub(super) count: Vec<u32>,
    /// Of each of those: how many slices after the one before (the first: after the beginning), and how much of the default
    /// value was in it.
    pub(super) after: Vec<u32>,
    pub(super) value: Vec<i64>,
}

impl Times {
    /// `rows`: which row of the page each sample of the profile went into.
    pub(super) fn new(profile: &Profile, rows: &[u32], length: usize) -> Self {
        let Some(timeline) = profile.timeline() else {
            return Self::default();
        };
        let mut parts: Vec<Part> = (timeline.parts().iter())
            .filter_map(|part| {
                let sample = *rows.get(part.sample as usize)?;
                Some(Part { sample, ..*part })
            })
            .collect();
        timeline::merge(&mut parts);
        if parts.is_empty() {
            return Self::default();
        }
        let mut slice_ns = timeline.slice_ns;
        let mut slices = slices(&parts, profile.duration_ns, slice_ns);
        let room = (MOST_ROOM - ROOM_OF_ROW * length as f64).max(LEAST_ROOM);
        while slices > 1 && size(&parts, slices) > room {
            for part in &mut parts {
                part.slice /= 2;
            }
            timeline::merge(&mut parts);
            slice_ns = slice_ns.saturating_mul(2);
            slices = slices.div_ceil(2);
        }
        let mut times = Self {
            slice: slice_ns as f64 / 1e9,
            slices,
            count: vec![0; length],
            after: Vec::with_capacity(parts.len()),
            value: Vec::with_capacity(parts.len()),
        };
        let mut before: Option<Part> = None;
        for part in parts {
            let since = before
                .filter(|before| before.sample == part.sample)
                .map_or(0, |before| before.slice);
            times.after.push(part.slice - since);
            times.value.push(part.value);
            if let Some(count) = times.count.get_mut(part.sample as usize) {
                *count += 1;
            }
            before = Some(part);
        }
        times
    }
}

/// As many as the recording is long.
fn slices(parts: &[Part], duration_ns: i64, slice_ns: i64) -> u32 {
    let last = parts.iter().map(|part| part.slice).max().unwrap_or(0);
    let length = u32::try_from(duration_ns.max(0) / slice_ns).unwrap_or(u32::MAX);
    let exact = duration_ns % slice_ns == 0;
    length
        .saturating_add(u32::from(!exact))
        .clamp(last + 1, MOST_SLICES.max(last + 1))
}

/// What it takes to say in which slices rows were: of `n` of `m` slices there are so many choices (the logarithm of the
/// binomial coefficient, by its bound `(e·m/n)ⁿ`), and a bit or so for each value.
fn size(parts: &[Part], slices: u32) -> f64 {
    let rows = parts.chunk_by(|one, other| one.sample == other.sample);
    let bits: f64 = rows
        .map(|row| {
            let n = row.len() as f64;
            let choices = n * (std::f64::consts::E * f64::from(slices) / n).log2();
            let values: f64 = row
                .iter()
                .map(|part| f64::from(part.value.max(1).ilog2().min(16)))
                .sum();
            choices + values + n
        })
        .sum();
    bits / 8.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(sample: u32, slice: u32, value: i64) -> Part {
        Part { sample, slice, value }
    }

    #[test]
    fn there_are_as_many_slices_as_the_recording_is_long() {
        let parts = [part(0, 3, 1)];
        assert_eq!(slices(&parts, 1_000, 100), 10);
        assert_eq!(slices(&parts, 1_001, 100), 11);
        assert_eq!(slices(&parts, 0, 100), 4);
        assert_eq!(slices(&parts, i64::MAX, 1), MOST_SLICES);
    }

    #[test]
    fn what_is_met_once_in_each_slice_takes_little_and_chance_takes_much() {
        let every: Vec<Part> = (0..200).map(|slice| part(0, slice, 1)).collect();
        let chance: Vec<Part> = (0..200).map(|row| part(row, row, 1)).collect();
        assert!(size(&every, 200) < 100.0 && size(&chance, 200) > 200.0);
    }
}
