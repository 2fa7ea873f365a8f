//! What of two sides is compared, and by what it is divided first.

use thiserror::Error;

use crate::profile::{Profile, Squares, ValueType};

/// Bytes of one recording a side are taken to have come in lumps of so many, each by chance: what allocators fetch at a time,
/// and whose it then is, differs from run to run by some of these (docs/diff.md). One recording cannot show it.
pub const LUMP_BYTES: f64 = 65_536.0;
/// And by how much a row of bytes differs from run to run for a whole arena (1 MiB from CPython 3.10 on), which is told of
/// who happens to be the one for whom it is fetched: a standard deviation.
const ARENA_BYTES: f64 = 524_288.0;

/// By what values are divided.
#[derive(Clone, Debug, PartialEq)]
pub enum Normal {
    /// The length of the recording: a share of a CPU, bytes a second.
    Time,
    /// All samples of a side: a share of what was recorded.
    Samples,
    /// Units of work, of either side: requests.
    Per { unit: String, before: f64, after: f64 },
    /// Recordings: of what runs from its beginning to its end.
    Recording,
    /// Nothing but the number of recordings: bytes in use.
    Level,
}

/// What is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    pub value: ValueType,
    pub normal: Normal,
    /// What one sample is worth, if values are counts of samples.
    pub period: [Option<f64>; 2],
    /// How many samples a thread that is always met would have in a second.
    pub rate: [Option<f64>; 2],
    /// All recordings say how exact the value is, where it is an estimate.
    pub estimated: bool,
    /// Of each side, all recordings together.
    pub seconds: [f64; 2],
    /// What was done that nobody asked for.
    pub notes: Vec<String>,
}

#[derive(Debug, Error, PartialEq)]
pub enum Refusal {
    #[error("there is no recording {0}; name one, several with commas between them, or a directory")]
    Nothing(&'static str),
    #[error("they have no value in common: {before} before, {after} after; compare recordings of one command")]
    NothingInCommon { before: String, after: String },
    #[error("not all recordings have the value {wanted}; all have {common} (--value)")]
    NoSuchValue { wanted: String, common: String },
    #[error("the values are of different kinds ({before} before, {after} after); choose one with --value {common}")]
    Kinds {
        before: String,
        after: String,
        common: String,
    },
    #[error(
        "a recording does not say how long it was; compare shares (--normalize samples) or work (--per requests=N,M)"
    )]
    NoLength,
    #[error("nothing was recorded {0}: all values of {1} are zero")]
    Empty(&'static str, String),
}

impl Measure {
    pub fn choose(sides: [&[Profile]; 2], wanted: Option<&str>, normal: Option<Normal>) -> Result<Self, Refusal> {
        for (side, word) in sides.iter().zip(["before", "after"]) {
            if side.is_empty() {
                return Err(Refusal::Nothing(word));
            }
        }
        let all = || sides.iter().flat_map(|side| side.iter());
        let has = |profile: &Profile, value: ValueType| profile.sample_types.contains(&value);
        let common: Vec<ValueType> = (sides[0][0].shown_types().map(|(_, value)| value))
            .filter(|value| all().all(|profile| has(profile, *value)))
            .collect();
        let shown = |profile: &Profile| profile.shown_types().map(|(_, value)| value).collect::<Vec<_>>();
        let words = |types: &[ValueType]| types.iter().map(|value| value.kind).collect::<Vec<_>>().join(", ");
        let Some(first) = common.first().copied() else {
            return Err(Refusal::NothingInCommon {
                before: words(&shown(&sides[0][0])),
                after: words(&shown(&sides[1][0])),
            });
        };
        let default = |profile: &Profile| profile.sample_types.get(profile.default_type).copied();
        let value = match wanted {
            Some(wanted) => (common.iter().copied())
                .find(|value| value.kind == wanted)
                .or_else(|| common.iter().copied().find(|value| value.unit == wanted))
                .ok_or_else(|| Refusal::NoSuchValue {
                    wanted: wanted.to_owned(),
                    common: words(&common),
                })?,
            None => {
                let (before, after) = (
                    default(&sides[0][0]).unwrap_or(first),
                    default(&sides[1][0]).unwrap_or(first),
                );
                if before != after {
                    return Err(Refusal::Kinds {
                        before: before.kind.to_owned(),
                        after: after.kind.to_owned(),
                        common: words(&common),
                    });
                }
                match common.contains(&before) {
                    true => before,
                    false => first,
                }
            }
        };
        Self::of(sides, value, normal)
    }

    fn of(sides: [&[Profile]; 2], value: ValueType, normal: Option<Normal>) -> Result<Self, Refusal> {
        let mut notes = Vec::new();
        let mut seconds = [0.0; 2];
        let mut period = [None; 2];
        let mut rate = [None; 2];
        let mut all_have_lengths = true;
        for (index, side) in sides.iter().enumerate() {
            let mut periods: Vec<Option<(f64, Option<f64>)>> = Vec::new();
            for profile in *side {
                seconds[index] += profile.duration_ns.max(0) as f64 / 1e9;
                all_have_lengths &= profile.duration_ns > 0;
                periods.push(sample_of(profile, value));
            }
            // One that differs from the others of its side is none.
            if let Some(Some((worth, second))) = periods.first().copied()
                && periods.iter().all(|other| *other == periods[0])
            {
                period[index] = Some(worth);
                rate[index] = second;
            }
            let word = ["before", "after"][index];
            if side.iter().all(|profile| profile.total(position(profile, value)) == 0) {
                return Err(Refusal::Empty(word, value.kind.to_owned()));
            }
        }
        let normal = match normal {
            Some(Normal::Time) if !all_have_lengths => return Err(Refusal::NoLength),
            Some(normal) => normal,
            None if is_level(value) => Normal::Level,
            None if all_have_lengths => Normal::Time,
            None => {
                notes.push("a recording does not say how long it was, so shares are compared".to_owned());
                Normal::Samples
            }
        };
        if let [Some(before), Some(after)] = rate
            && (before - after).abs() > 0.01 * before
        {
            notes.push(format!(
                "rates differ ({before:.0} and {after:.0} samples a second): {}",
                match value.unit {
                    "count" => "counts were divided by them",
                    _ => "times are compared, not counts",
                }
            ));
        }
        let estimated = (sides.iter().flat_map(|side| side.iter()))
            .all(|profile| profile.variance_of(position(profile, value)).is_some());
        Ok(Self {
            value,
            normal,
            period,
            rate,
            estimated: estimated && period.contains(&None),
            seconds,
            notes,
        })
    }

    /// The variance that a sample's value has in another recording of the same, as far as one shows it: how it was drawn,
    /// and that what there was came by chance, in waits as they were or in lumps of bytes ([`LUMP_BYTES`]). 0 if the
    /// recordings do not say how exact they are.
    pub fn variance(&self, profile: &Profile, index: usize, values: &[i64]) -> f64 {
        if !self.estimated {
            return 0.0;
        }
        let of = |squares: Option<Squares>| squares.map_or(0.0, |squares| squares.of(values));
        let drawn = of(profile.variance_of(index));
        match self.value.unit {
            "bytes" => drawn + values[index].max(0) as f64 * LUMP_BYTES,
            _ => drawn + of(profile.squares_of(index)),
        }
    }

    /// By how much more than CPU time such values of equal runs differ: how long a sleep or a lock takes depends on how busy
    /// the machine is, and threads wait for one another (docs/diff.md has what was measured).
    pub fn unsteadiness(&self) -> f64 {
        match self.is_of_waits() {
            true => 3.0,
            false => 1.0,
        }
    }

    /// Whether it is time that was waited, of which recordings say how exact it is.
    pub fn is_of_waits(&self) -> bool {
        self.estimated && self.value.unit == "nanoseconds"
    }

    /// The variance of a row, given that of its samples.
    pub fn of_row(&self, variance: f64) -> f64 {
        match self.value.unit {
            "bytes" if self.estimated => variance + ARENA_BYTES * ARENA_BYTES,
            _ => variance,
        }
    }

    pub fn index_of(&self, profile: &Profile) -> usize {
        position(profile, self.value)
    }

    /// By what a recording's value is divided; none is its value itself.
    pub(super) fn weight(&self, profile: &Profile, recordings: usize, side: usize) -> Option<f64> {
        let length = profile.duration_ns.max(0) as f64 / 1e9;
        match &self.normal {
            // Counts of another rate are another unit.
            Normal::Time => Some(match (self.value.unit, self.rate[side]) {
                ("count", Some(rate)) => length * rate,
                _ => length,
            }),
            Normal::Samples => None,
            Normal::Per { before, after, .. } => {
                let work = [*before, *after][side];
                Some(match self.seconds[side] > 0.0 {
                    true => work * length / self.seconds[side],
                    false => work / recordings as f64,
                })
            }
            Normal::Recording | Normal::Level => Some(1.0),
        }
    }

    /// Whether a value is the time of threads, or counts of samples taken at a steady rate, and divided by time or shares.
    pub fn is_share(&self) -> bool {
        match self.normal {
            Normal::Samples => true,
            Normal::Time => self.value.unit == "nanoseconds" || (self.value.unit == "count" && self.rate[0].is_some()),
            _ => false,
        }
    }

    /// By what a number is multiplied to be one that people read: shares are hundredths.
    pub fn factor(&self) -> f64 {
        match (&self.normal, self.value.unit) {
            (Normal::Samples, _) => 100.0,
            // Nanoseconds a second.
            (Normal::Time, "nanoseconds") => 1e-7,
            (Normal::Time, "count") if self.rate[0].is_some() => 100.0,
            (_, "nanoseconds") => 1e-6,
            _ => 1.0,
        }
    }

    /// What one of that is.
    pub fn unit(&self) -> String {
        let value = match self.value.unit {
            "nanoseconds" => "ms",
            "bytes" => "bytes",
            _ => self.value.kind,
        };
        match &self.normal {
            _ if self.is_share() => "points".to_owned(),
            Normal::Time => format!("{value} a second"),
            Normal::Per { unit, .. } => format!("{value} per {unit}"),
            Normal::Recording => format!("{value} per recording"),
            Normal::Samples | Normal::Level => value.to_owned(),
        }
    }
}

/// Bytes and objects that are there, not that came.
fn is_level(value: ValueType) -> bool {
    value.kind.starts_with("inuse_")
}

fn position(profile: &Profile, value: ValueType) -> usize {
    let found = profile.sample_types.iter().position(|other| *other == value);
    found.unwrap_or(profile.default_type)
}

/// What one sample is worth in this value, and how many come in a second at most from one thread.
fn sample_of(profile: &Profile, value: ValueType) -> Option<(f64, Option<f64>)> {
    match profile.period {
        // A period of one is the grain of an account, and nothing's that was sampled.
        Some((of, period)) if period > 1 => {
            let rate = (of.unit == "nanoseconds").then(|| 1e9 / period as f64);
            if of == value {
                return Some((period as f64, rate));
            }
            (value.unit == "count" && value.kind == "samples").then_some((1.0, rate))
        }
        _ => (value.unit == "count" && value.kind == "samples").then_some((1.0, None)),
    }
}
