//! Many recordings as one: windows of a day, hosts of a fleet.

use thiserror::Error;

use crate::{
    profile::{Profile, Sources, ValueType},
    slices, summary,
};

/// More lines of what recordings say of themselves are not kept.
const COMMENTS: usize = 64;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum CannotMerge {
    #[error("there is nothing to merge")]
    Nothing,
    #[error("recording {number} has other values ({other}) than the first ({first}); merge those of one command")]
    Values {
        number: usize,
        first: String,
        other: String,
    },
}

/// All samples of all of them. Its length is the time in which at least one was recorded, so windows that follow one another
/// add up, and hosts that were recorded at one time use so many CPUs together.
///
/// # Errors
/// If their values are of different kinds.
pub fn merge(profiles: &[Profile]) -> Result<Profile, CannotMerge> {
    let first = profiles.first().ok_or(CannotMerge::Nothing)?;
    let same_period = profiles.iter().all(|other| other.period == first.period);
    // How exact a value is, is known of all if it is of each.
    let types = |profile: &Profile| {
        let shown: Vec<ValueType> = profile.shown_types().map(|(_, value)| value).collect();
        let beside = profile.sample_types.iter().filter(|value| !shown.contains(value));
        (shown.clone(), beside.copied().collect::<Vec<_>>())
    };
    let (shown, mut beside) = types(first);
    beside.retain(|value| profiles.iter().all(|other| other.sample_types.contains(value)));
    let wanted: Vec<ValueType> = shown.iter().chain(&beside).copied().collect();
    let mut merged = Profile::new(wanted.clone(), first.period.filter(|_| same_period));
    let default = first.sample_types.get(first.default_type);
    merged.default_type = (wanted.iter().position(|value| Some(value) == default)).unwrap_or(0);
    let axis = Axis::of(profiles);
    if let Some(axis) = axis {
        merged.begin_timeline(axis.slice_ns);
    }
    for (number, profile) in profiles.iter().enumerate() {
        let (own, _) = types(profile);
        let order = order(&wanted, profile).filter(|_| own.len() == shown.len());
        let order = order.ok_or_else(|| CannotMerge::Values {
            number: number + 1,
            first: words(&shown),
            other: words(&own),
        })?;
        let translated = merged.translated(profile);
        let mut values = vec![0; order.len()];
        let mut places = Vec::with_capacity(profile.samples().len());
        for (key, own) in profile.samples() {
            for (value, index) in values.iter_mut().zip(&order) {
                *value = own[*index];
            }
            places.push(Some(merged.add_at(translated.key(key), &values).0));
        }
        if let (Some(axis), Some(timeline)) = (axis, profile.timeline()) {
            merged.add_times_of(profile, &places, |slice| {
                axis.slice(profile.started_at_ns, timeline.slice_ns, slice)
            });
        }
    }
    (merged.started_at_ns, merged.duration_ns) = length(profiles);
    merged.comments = comments(profiles, same_period);
    let (sources, several) = Sources::common(profiles.iter().map(|profile| &profile.sources));
    merged.sources = sources;
    if several > 0 {
        let changed = format!(
            "no text of {}: recordings have other ones",
            summary::many(several as u64, "source file")
        );
        merged.comments.insert(1, changed);
    }
    if axis.is_none() && profiles.iter().any(|profile| profile.timeline().is_some()) {
        let untimed = "no timeline: not all of them say when their samples were".to_owned();
        merged.comments.insert(1.min(merged.comments.len()), untimed);
    }
    Ok(merged)
}

/// The time in which all of them were recorded, in slices.
#[derive(Clone, Copy)]
struct Axis {
    began_ns: i64,
    slice_ns: i64,
}

impl Axis {
    /// None if one of them does not say when it began, or when its samples were.
    fn of(profiles: &[Profile]) -> Option<Self> {
        let mut axis = Self {
            began_ns: i64::MAX,
            slice_ns: 1,
        };
        let mut end_ns = 0_i64;
        for profile in profiles {
            let timeline = profile.timeline()?;
            // What has times is of one kind.
            let timed = |profile: &Profile| profile.sample_types.get(profile.default_type).copied();
            let same = profiles.iter().all(|other| timed(other) == timed(profile));
            if profile.started_at_ns <= 0 || !same {
                return None;
            }
            let last = timeline.parts().iter().map(|part| part.slice).max().unwrap_or(0);
            let length_ns = (i64::from(last) + 1)
                .saturating_mul(timeline.slice_ns)
                .max(profile.duration_ns);
            axis.began_ns = axis.began_ns.min(profile.started_at_ns);
            axis.slice_ns = axis.slice_ns.max(timeline.slice_ns);
            end_ns = end_ns.max(profile.started_at_ns.saturating_add(length_ns));
        }
        let all_ns = end_ns.saturating_sub(axis.began_ns);
        while all_ns / axis.slice_ns >= slices::MOST as i64 {
            axis.slice_ns = axis.slice_ns.saturating_mul(2);
        }
        Some(axis)
    }

    /// The slice that has the middle of one of a recording's own: it is off by half of its own length at most.
    fn slice(self, began_ns: i64, slice_ns: i64, slice: u32) -> u32 {
        let since = began_ns.saturating_sub(self.began_ns);
        let middle = since
            .saturating_add(slice_ns.saturating_mul(i64::from(slice)))
            .saturating_add(slice_ns / 2);
        u32::try_from(middle / self.slice_ns).unwrap_or(0)
    }
}

/// Where a profile has the values that are wanted.
fn order(wanted: &[ValueType], profile: &Profile) -> Option<Vec<usize>> {
    (wanted.iter())
        .map(|value| profile.sample_types.iter().position(|other| other == value))
        .collect()
}

fn words(types: &[ValueType]) -> String {
    let words: Vec<_> = types.iter().map(|value| value.kind).collect();
    words.join(", ")
}

/// When the first began, and how long any was recorded.
fn length(profiles: &[Profile]) -> (i64, i64) {
    // Without a beginning, one comes after the other.
    if profiles.iter().any(|profile| profile.started_at_ns <= 0) {
        let sum = (profiles.iter()).fold(0_i64, |sum, profile| sum.saturating_add(profile.duration_ns.max(0)));
        return (0, sum);
    }
    let mut spans: Vec<(i64, i64)> = (profiles.iter())
        .map(|profile| {
            let end = profile.started_at_ns.saturating_add(profile.duration_ns.max(0));
            (profile.started_at_ns, end)
        })
        .collect();
    spans.sort_unstable();
    let (mut covered, mut until) = (0_i64, i64::MIN);
    for (start, end) in &spans {
        covered = covered.saturating_add(end.saturating_sub((*start).max(until)).max(0));
        until = until.max(*end);
    }
    (spans.first().map_or(0, |(start, _)| *start), covered)
}

fn comments(profiles: &[Profile], same_period: bool) -> Vec<String> {
    let mut comments = vec![format!("merged from {} recordings", profiles.len())];
    if !same_period {
        comments.push("their rates differ: times add up, numbers of samples do not compare".to_owned());
    }
    // What one says of its samples and losses is not so of all.
    let (first, others) = profiles
        .split_first()
        .map_or((None, &[][..]), |(first, others)| (Some(first), others));
    let of_all = |line: &&String| others.iter().all(|other| other.comments.contains(line));
    let shared = first.into_iter().flat_map(|first| &first.comments).filter(of_all);
    comments.extend(shared.take(COMMENTS).cloned());
    comments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::made;

    #[test]
    fn samples_add_up_and_lengths_that_follow_one_another_too() {
        let mut one = made::cpu(10, &[(3, &["f", "main"]), (2, &["g", "main"])]);
        let mut two = made::cpu(10, &[(4, &["f", "main"])]);
        (one.started_at_ns, two.started_at_ns) = (5_000_000_000, 15_000_000_000);
        let merged = merge(&[one, two]).unwrap();
        assert_eq!((merged.total(0), merged.samples().len()), (9, 2));
        assert_eq!(
            (merged.started_at_ns, merged.duration_ns),
            (5_000_000_000, 20_000_000_000)
        );
        assert!(merged.period.is_some());
    }

    #[test]
    fn hosts_at_one_time_do_not_make_it_longer() {
        let mut one = made::cpu(10, &[(3, &["f"])]);
        let mut two = made::cpu(10, &[(4, &["f"])]);
        (one.started_at_ns, two.started_at_ns) = (5_000_000_000, 7_000_000_000);
        assert_eq!(merge(&[one, two]).unwrap().duration_ns, 12_000_000_000);
    }

    #[test]
    fn windows_that_follow_one_another_lie_on_one_line_of_time() {
        let window = |began_s: i64, slice: u32| {
            let mut profile = made::cpu(60, &[]);
            profile.begin_timeline(320_000_000);
            let of = made::cpu(60, &[(3, &["f", "main"])]);
            let key = profile.translated(&of).key(of.samples().next().unwrap().0);
            profile.add_in(key, &[3, 3 * made::PERIOD_NS], &[(slice, 2_u32), (slice + 1, 1)]);
            (profile.started_at_ns, profile.duration_ns) = (began_s * 1_000_000_000, 60_000_000_000);
            profile
        };
        let profiles = [window(1_000_060, 0), window(1_000_000, 100), window(1_000_120, 186)];
        let merged = merge(&profiles).unwrap();
        let timeline = merged.timeline().unwrap();
        // Three minutes in slices of 1.28 s.
        assert_eq!(timeline.slice_ns, 1_280_000_000);
        let parts: Vec<_> = timeline.sorted().iter().map(|part| (part.slice, part.value)).collect();
        let all = 3 * made::PERIOD_NS;
        assert_eq!(parts, [(25, all), (47, all), (140, all)]);
        // One that does not say when its samples were would be missing from a part of the line.
        let other = merge(&[window(1_000_000, 3), made::cpu(60, &[(1, &["g"])])]).unwrap();
        assert!(other.timeline().is_none());
        assert!(other.comments[1].starts_with("no timeline:"), "{:?}", other.comments);
    }

    #[test]
    fn values_are_found_by_their_kind_and_others_are_refused() {
        let mut other = made::cpu(10, &[(3, &["f"])]);
        other.sample_types.swap(0, 1);
        // What were samples is now called nanoseconds, and goes there.
        let merged = merge(&[made::cpu(10, &[(3, &["f"])]), other]).unwrap();
        assert_eq!(merged.total(0), 3 + 3 * made::PERIOD_NS);
        let memory = Profile::new(vec![made::SPACE], None);
        let refused = merge(&[made::cpu(10, &[(3, &["f"])]), memory]);
        assert!(matches!(refused, Err(CannotMerge::Values { number: 2, .. })));
        assert_eq!(merge(&[]).unwrap_err(), CannotMerge::Nothing);
    }
}
