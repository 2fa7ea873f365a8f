//! When what was sampled was: which part of each sample's value was in which slice of the recording.
//!
//! It lies beside the samples, which are the same with and without it: who does not ask for time sums up what it always
//! did. A part is of the value that people look at by default; of the others a sample has as much in a slice as that one
//! has of its own. Of memory a part is when what is in use came, its age, and of what was allocated besides nothing is known.

use super::{Profile, SampleKey};

/// No timeline has more slices; ours have 200.
pub const MOST_SLICES: u32 = 4096;

/// What kinds of values of a heap begin with of which there are births.
const IN_USE: &str = "inuse_";

/// Slices of equal length from the beginning of the recording on, and what was in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// How long a slice is.
    pub slice_ns: i64,
    parts: Vec<Part>,
}

/// What of a sample was in a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its place among the profile's.
    pub sample: u32,
    pub slice: u32,
    /// Of the default value.
    pub value: i64,
}

impl Timeline {
    pub fn new(slice_ns: i64) -> Self {
        Self {
            slice_ns: slice_ns.max(1),
            parts: Vec::new(),
        }
    }

    /// In no order, and perhaps several for one slice of one sample.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// One for each slice of each sample, in order.
    pub fn sorted(&self) -> Vec<Part> {
        let mut parts = self.parts.clone();
        merge(&mut parts);
        parts
    }
}

/// Brings parts in order, and makes one of those of one slice.
pub fn merge(parts: &mut Vec<Part>) {
    let place = |part: &Part| u64::from(part.sample) << 32 | u64::from(part.slice);
    if !parts.is_sorted_by_key(place) {
        parts.sort_unstable_by_key(place);
    }
    parts.dedup_by(|later, earlier| {
        let same = (later.sample, later.slice) == (earlier.sample, earlier.slice);
        if same {
            earlier.value = earlier.value.saturating_add(later.value);
        }
        same
    });
}

/// Shares out a value by weights: whole numbers that come to it exactly.
pub fn shared_out<W: Copy + Into<u64>>(value: i64, weights: &[(u32, W)]) -> impl Iterator<Item = (u32, i64)> {
    let weight = |weight: W| i128::from(weight.into());
    let all: i128 = weights.iter().map(|&(_, each)| weight(each)).sum();
    // Both below 2⁶³: their product has room.
    let spare = (i128::BITS - all.leading_zeros()).saturating_sub(63);
    let (mut weighed, mut given) = (0_i128, 0_i128);
    weights.iter().filter_map(move |&(slice, each)| {
        weighed += weight(each);
        let all = (all >> spare).max(1);
        // What is due up to here, rounded: no more than the value.
        let due = (i128::from(value) * (weighed >> spare) + all / 2) / all;
        let part = due - given;
        given = due;
        let part = i64::try_from(part).unwrap_or(0);
        (part > 0).then_some((slice, part))
    })
}

impl Profile {
    pub fn timeline(&self) -> Option<&Timeline> {
        self.timeline.as_ref()
    }

    /// Whether times are those at which what is in use came: of memory, and of nothing else that a sample has.
    pub fn has_births(&self) -> bool {
        let is_in_use = |at: usize| (self.sample_types.get(at)).is_some_and(|value| value.kind.starts_with(IN_USE));
        self.timeline.is_some() && is_in_use(self.default_type)
    }

    /// Where a value was; none if that is not known of it.
    pub fn timeline_of(&self, value: usize) -> Option<&Timeline> {
        let is_in_use = (self.sample_types.get(value)).is_some_and(|value| value.kind.starts_with(IN_USE));
        self.timeline.as_ref().filter(|_| is_in_use || !self.has_births())
    }

    /// From now on samples may say when they were.
    pub fn begin_timeline(&mut self, slice_ns: i64) {
        self.timeline = Some(Timeline::new(slice_ns));
    }

    pub fn drop_timeline(&mut self) {
        self.timeline = None;
    }

    /// As [`add`](Self::add), of what was in these slices, each with its weight.
    pub fn add_in<W: Copy + Into<u64>>(&mut self, key: SampleKey, values: &[i64], weights: &[(u32, W)]) -> bool {
        let value = values.get(self.default_type).copied().unwrap_or(0);
        let (sample, is_new) = self.add_at(key, values);
        if value > 0 && self.timeline.is_some() {
            let parts: Vec<_> = shared_out(value, weights).collect();
            self.add_parts(sample, &parts);
        }
        is_new
    }

    /// Slices in which a sample was, and how much of its default value.
    pub fn add_parts(&mut self, sample: u32, parts: &[(u32, i64)]) {
        if let Some(timeline) = &mut self.timeline {
            let parts = parts.iter().map(|&(slice, value)| Part { sample, slice, value });
            timeline.parts.extend(parts);
        }
    }

    /// Takes in parts of another profile: `places` says which sample of this one each of its samples has become, `slice`
    /// which slice.
    pub fn add_times_of(&mut self, other: &Self, places: &[Option<u32>], slice: impl Fn(u32) -> u32) {
        if let (Some(ours), Some(theirs)) = (&mut self.timeline, &other.timeline) {
            ours.parts.extend(theirs.parts.iter().filter_map(|part| {
                let sample = places.get(part.sample as usize).copied().flatten()?;
                let slice = slice(part.slice);
                Some(Part { sample, slice, ..*part })
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_is_shared_out_to_the_last_unit() {
        let shared = |value, weights: &[(u32, u32)]| shared_out(value, weights).collect::<Vec<_>>();
        assert_eq!(shared(10, &[(0, 1), (3, 1), (7, 1)]), [(0, 3), (3, 4), (7, 3)]);
        assert_eq!(shared(1, &[(0, 1), (1, 1), (2, 1)]), [(1, 1)]);
        assert_eq!(shared(5, &[]), []);
        assert_eq!(shared(5, &[(1, 0)]), []);
        assert_eq!(shared(i64::MAX, &[(1, u32::MAX), (2, u32::MAX)]).len(), 2);
        let most = [(1, u64::MAX), (2, u64::MAX), (3, 1)];
        assert_eq!(shared_out(i64::MAX, &most).map(|(_, part)| part).sum::<i64>(), i64::MAX);
    }

    #[test]
    fn what_is_in_use_has_the_time_of_its_birth_and_what_was_allocated_has_none() {
        let of = |kind| super::super::ValueType { kind, unit: "bytes" };
        let mut heap = Profile::new(vec![of("alloc_space"), of("inuse_space")], None);
        heap.default_type = 1;
        heap.begin_timeline(10);
        assert!(heap.has_births());
        assert_eq!((heap.timeline_of(0), heap.timeline_of(1).is_some()), (None, true));
        let mut cpu = Profile::new(vec![of("samples"), of("cpu")], None);
        cpu.begin_timeline(10);
        assert!(!cpu.has_births() && (0..2).all(|value| cpu.timeline_of(value).is_some()));
    }

    proptest! {
        #[test]
        fn parts_come_to_the_whole(value in 0..i64::MAX, weights in prop::collection::vec((0..200_u32, 1..u32::MAX), 1..40)) {
            let sum: i128 = shared_out(value, &weights).map(|(_, part)| i128::from(part)).sum();
            prop_assert_eq!(sum, i128::from(value));
        }
    }
}
