//! What a sample of waiting was for: the word that its innermost frame, a marker, begins with.

use crate::{
    profile::{Profile, ValueType},
    waits::cause::Cause,
};

/// Whether there are waits in it.
pub(super) fn has_waits(profile: &Profile) -> bool {
    let is_wait = |value: &ValueType| value.kind == "waits" && value.unit == "count";
    profile.sample_types.iter().any(is_wait)
}

/// The cause that a marker names, by its place in [`Cause::ALL`]: `[socket 10.0.0.7:5432]`, `[pipe:[4711]]`.
pub(super) fn of_marker(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let end = inner.find([' ', ',', ':']).unwrap_or(inner.len());
    Cause::ALL.iter().position(|cause| cause.name() == &inner[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_names_its_cause_before_what_was_waited_for() {
        let name = |text| of_marker(text).map(|at| Cause::ALL[at].name());
        assert_eq!(name("[socket 10.0.0.7:5432]"), Some("socket"));
        assert_eq!(name("[pipe:[4711]]"), Some("pipe"));
        assert_eq!(name("[disk /var/lib/x, GIL held]"), Some("disk"));
        assert_eq!(name("[gil]"), Some("gil"));
        assert_eq!(name("[truncated]"), None);
        assert_eq!(name("[CPU time without a sample]"), None);
        assert_eq!(name("sleep"), None);
    }
}
