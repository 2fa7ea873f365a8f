//! Samples in order of time, for formats with an axis of it; where a recording does not say when they were, in its own
//! order.

use crate::profile::{
    Profile,
    timeline::{self, Part},
};

pub(super) struct Moments {
    /// How long slices are; none if it is not known when samples were.
    pub(super) slice_ns: Option<i64>,
    /// Of the value that is shown, by slice, and in a slice in the order of samples. Without times all is in the first one.
    pub(super) parts: Vec<Part>,
}

impl Moments {
    /// `most`: a format that repeats what it has to say for each of them has room for so many. Slices become longer until
    /// they are no more.
    pub(super) fn new(profile: &Profile, value: usize, most: usize) -> Self {
        Self::timed(profile, value, most).unwrap_or_else(|| Self {
            slice_ns: None,
            parts: (profile.samples().zip(0..))
                .map(|((_, values), sample)| Part {
                    sample,
                    slice: 0,
                    value: values[value],
                })
                .collect(),
        })
    }

    /// None where it is not known of all samples: what is missing would be taken for idleness.
    fn timed(profile: &Profile, value: usize, most: usize) -> Option<Self> {
        let timeline = profile.timeline_of(value)?;
        let mut parts = timeline.sorted();
        let mut slice_ns = timeline.slice_ns;
        let timed: i128 = parts.iter().map(|part| i128::from(part.value)).sum();
        let all = profile
            .samples()
            .map(|(_, values)| i128::from(values[profile.default_type]));
        if parts.is_empty() || all.sum::<i128>() != timed {
            return None;
        }
        while parts.len() > most {
            if parts.iter().all(|part| part.slice == 0) {
                return None;
            }
            parts.iter_mut().for_each(|part| part.slice /= 2);
            timeline::merge(&mut parts);
            slice_ns = slice_ns.saturating_mul(2);
        }
        let mut of_value = Vec::with_capacity(parts.len());
        for row in parts.chunk_by(|one, other| one.sample == other.sample) {
            let sample = row.first()?.sample;
            let (_, values) = profile.sample(sample)?;
            let weights: Vec<(u32, u64)> = row.iter().map(|part| (part.slice, part.value.unsigned_abs())).collect();
            let shared = timeline::shared_out(values[value], &weights);
            of_value.extend(shared.map(|(slice, value)| Part { sample, slice, value }));
        }
        of_value.sort_unstable_by_key(|part| (part.slice, part.sample));
        Some(Self {
            slice_ns: Some(slice_ns),
            parts: of_value,
        })
    }
}
