//! What the files of windows are called: `2026-11-29T14-05-00Z.pb.gz`, by when the window began.

use std::{
    mem::MaybeUninit,
    time::{SystemTime, UNIX_EPOCH},
};

const ENDING: &str = ".pb.gz";
const KEPT_ENDING: &str = ".kept.pb.gz";

/// When a window began, as its file says it, in UTC: without colons, which some file systems and rsync do not take.
pub fn stamp(began: SystemTime) -> String {
    let seconds = began.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = libc::time_t::try_from(seconds).unwrap_or_default();
    let mut time = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live variables of the right types.
    let found = unsafe { libc::gmtime_r(&raw const seconds, time.as_mut_ptr()) };
    if found.is_null() {
        // A year beyond 32 bits: no clock says so.
        return "1970-01-01T00-00-00Z".to_owned();
    }
    // SAFETY: `tm` is integers and a pointer, for which the zeroes it started with are a value.
    let time = unsafe { time.assume_init() };
    format!(
        "{:04}-{:02}-{:02}T{:02}-{:02}-{:02}Z",
        i64::from(time.tm_year) + 1900,
        time.tm_mon + 1,
        time.tm_mday,
        time.tm_hour,
        time.tm_min,
        time.tm_sec,
    )
}

/// The name of a window's file. `again`: how many have that name already, because the clock was set back.
pub fn name(began: SystemTime, again: u32, kept: bool) -> String {
    let ending = if kept { KEPT_ENDING } else { ENDING };
    match again {
        0 => format!("{}{ending}", stamp(began)),
        again => format!("{}-{}{ending}", stamp(began), again + 1),
    }
}

/// What the file of a window is called once it is kept.
pub fn kept(name: &str) -> Option<String> {
    is_window(name).then(|| format!("{}{KEPT_ENDING}", name.trim_end_matches(ENDING)))
}

/// Whether a file is called like a window that may be removed. Nothing else ever is.
pub fn is_window(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(ENDING) else {
        return false;
    };
    let (stamp, again) = match stem.split_once('Z') {
        Some((stamp, again)) => (stamp.as_bytes(), again),
        None => return false,
    };
    let is_stamp = stamp.len() == PATTERN.len()
        && PATTERN.iter().zip(stamp).all(|(pattern, byte)| match pattern {
            b'0' => byte.is_ascii_digit(),
            other => other == byte,
        });
    let is_number = |digits: &str| {
        (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0')
    };
    is_stamp && (again.is_empty() || again.strip_prefix('-').is_some_and(is_number))
}

/// When the window of a file began, as its name says: what [`stamp`] wrote. Those that are kept have one, too.
pub fn began(name: &str) -> Option<&str> {
    let as_others = name.strip_suffix(KEPT_ENDING).map(|stem| format!("{stem}{ENDING}"));
    is_window(as_others.as_deref().unwrap_or(name)).then(|| name.get(..=PATTERN.len()))?
}

const PATTERN: &[u8] = b"0000-00-00T00-00-00";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_is_called_by_the_time_its_window_began() {
        let began = UNIX_EPOCH + Duration::from_millis(1_795_961_100_900);
        assert_eq!(name(began, 0, false), "2026-11-29T14-05-00Z.pb.gz");
        assert_eq!(name(began, 1, false), "2026-11-29T14-05-00Z-2.pb.gz");
        assert_eq!(name(began, 0, true), "2026-11-29T14-05-00Z.kept.pb.gz");
        let kept_name = kept("2026-11-29T14-05-00Z-2.pb.gz");
        assert_eq!(kept_name.as_deref(), Some("2026-11-29T14-05-00Z-2.kept.pb.gz"));
    }

    #[test]
    fn only_what_has_exactly_such_a_name_may_be_removed() {
        for name in ["2026-11-29T14-05-00Z.pb.gz", "2026-11-29T14-05-00Z-2.pb.gz"] {
            assert!(is_window(name), "{name}");
            assert_eq!(began(name), Some("2026-11-29T14-05-00Z"));
        }
        assert_eq!(began("2026-11-29T14-05-00Z-2.kept.pb.gz"), Some("2026-11-29T14-05-00Z"));
        assert_eq!(began("profile.kept.pb.gz"), None);
        for name in [
            "2026-11-29T14-05-00Z.kept.pb.gz",
            "2026-11-29T14-05-00Z-2.kept.pb.gz",
            "2026-11-29T14-05-00Z.pb.gz.bak",
            "2026-11-29T14-05-00Z-.pb.gz",
            "2026-11-29T14-05-00Z-02.pb.gz",
            "2026-11-29T14-05-00Z-x.pb.gz",
            "2026-11-29T14-05-00.pb.gz",
            "2026-11-29T14-05-0xZ.pb.gz",
            "12026-11-29T14-05-00Z.pb.gz",
            "api-2026-11-29T14-05-00Z.pb.gz",
            ".pb.gz",
            "profile.pb.gz",
            "",
        ] {
            assert!(!is_window(name), "{name}");
            assert_eq!(kept(name), None, "{name}");
        }
    }
}
