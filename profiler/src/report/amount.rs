//! What a value is in words, and how far a number of samples can vouch for a share.

use std::time::Duration;

use crate::{
    humanize,
    profile::{Profile, ValueType},
};

/// A value as people read it: `1.5 s`, `3.0 MiB`, `1,204`.
pub(crate) fn amount(value: i64, value_type: ValueType) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let size = value.unsigned_abs();
    let text = match value_type.unit {
        "bytes" => humanize::bytes(size),
        "nanoseconds" => humanize::duration(Duration::from_nanos(size)),
        "microseconds" => humanize::duration(Duration::from_micros(size)),
        "milliseconds" => humanize::duration(Duration::from_millis(size)),
        "seconds" => humanize::duration(Duration::from_secs(size)),
        _ => humanize::count(size),
    };
    format!("{sign}{text}")
}

/// What a value is called in a sentence: `CPU time`, `samples`.
pub(crate) fn name(value_type: ValueType) -> &'static str {
    match (value_type.kind, value_type.unit) {
        ("cpu", "nanoseconds") => "CPU time",
        ("wait", "nanoseconds") | ("delay", "nanoseconds") => "time of waiting",
        ("wall", "nanoseconds") => "time",
        ("inuse_space", _) => "bytes in use",
        ("alloc_space", _) => "bytes allocated",
        ("peak_space", _) => "bytes at the peak",
        ("temporary_space", _) => "bytes that came and went",
        ("inuse_objects", _) => "objects in use",
        ("alloc_objects", _) => "objects allocated",
        (kind, _) => kind,
    }
}

/// Which of a profile's values says how many samples another one is made of. `None`: it is not known to be sampled, or
/// the file does not say how often; then no error is worked out.
pub(crate) fn samples_of(profile: &Profile, value: usize) -> Option<usize> {
    const SAMPLES: (&str, &str) = ("samples", "count");
    // Folded text and the like have no period: their counts may be of anything.
    profile.period?;
    let wanted = profile.sample_types.get(value)?;
    let is_sampled = matches!((wanted.kind, wanted.unit), SAMPLES | ("cpu", "nanoseconds"));
    is_sampled.then_some(())?;
    profile
        .sample_types
        .iter()
        .position(|value| (value.kind, value.unit) == SAMPLES)
}

/// 95 %.
const Z: f64 = 1.96;

/// Half of the interval (Wilson's, 95 %) that a share of `part` of `all` samples has, as a share.
///
/// It takes samples for drawn independently. Ticks of a clock are spread more evenly than that, so the interval is
/// rather too wide than too narrow, unless what runs keeps step with the clock.
pub(crate) fn error(part: u64, all: u64) -> f64 {
    if all == 0 {
        return 1.0;
    }
    let all = all as f64;
    let share = (part as f64 / all).min(1.0);
    Z / (1.0 + Z * Z / all) * (share * (1.0 - share) / all + Z * Z / (4.0 * all * all)).sqrt()
}

/// As a column has it: `± 1.2`, in points of percent.
pub(crate) fn points(error: f64) -> String {
    match error * 100.0 {
        points if points >= 9.95 => format!("± {points:.0}"),
        points if points >= 0.095 => format!("± {points:.1}"),
        points => format!("± {points:.2}"),
    }
}

/// Fewer samples than this are within half of what they say of themselves: a row of them is marked.
pub(crate) const FEW: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shrinks_with_the_root_of_the_samples_and_is_never_none() {
        assert!((error(500, 1000) - 0.0309).abs() < 1e-3);
        assert!((error(50_000, 100_000) - 0.0031).abs() < 1e-4);
        assert!(error(0, 100) > 0.01);
        assert!(error(100, 100) > 0.01);
        assert!((error(3, 0) - 1.0).abs() < f64::EPSILON);
        assert_eq!(points(0.0309), "± 3.1");
        assert_eq!(points(0.25), "± 25");
        assert_eq!(points(0.0003), "± 0.03");
    }

    #[test]
    fn what_nobody_said_was_sampled_has_no_error() {
        let types = |kind, unit| ValueType { kind, unit };
        let (samples, cpu, bytes) = (
            types("samples", "count"),
            types("cpu", "nanoseconds"),
            types("inuse_space", "bytes"),
        );
        let period = Some((cpu, 1));
        let profile = Profile::new(vec![cpu, bytes, samples], period);
        assert_eq!(samples_of(&profile, 0), Some(2));
        assert_eq!(samples_of(&profile, 1), None);
        assert_eq!(samples_of(&profile, 2), Some(2));
        assert_eq!(samples_of(&Profile::new(vec![samples], None), 0), None);
    }
}
