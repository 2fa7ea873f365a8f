//! Numbers as people read them. Nothing here knows what the numbers mean.

use std::time::Duration;

/// `1204567` as `1,204,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in binary units: `512 B`, `1.5 KiB`, `64.0 MiB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 and more would be printed as "1024.0".
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A change in bytes, in binary units: `+1.5 KiB`, `-64.0 MiB`, and `0 B` for none.
pub fn bytes_change(change: i64) -> String {
    let sign = match change {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    format!("{sign}{}", bytes(change.unsigned_abs()))
}

/// A length of time with about three digits: `850 ns`, `12.3 µs`, `4.5 ms`, `12.3 s`, `1 min 05 s`, `2 h 03 min`.
pub fn duration(length: Duration) -> String {
    let nanos = length.as_nanos();
    // The bounds are where rounding to one digit would reach the next unit.
    if nanos < 1_000 {
        format!("{nanos} ns")
    } else if nanos < 999_950 {
        format!("{:.1} µs", nanos as f64 / 1e3)
    } else if nanos < 999_950_000 {
        format!("{:.1} ms", nanos as f64 / 1e6)
    } else if nanos < 59_950_000_000 {
        format!("{:.1} s", length.as_secs_f64())
    } else {
        // Half a second (or half a minute) more makes the division round to the nearest.
        let seconds = (nanos + 500_000_000) / 1_000_000_000;
        if seconds < 3600 {
            format!("{} min {:02} s", seconds / 60, seconds % 60)
        } else {
            let minutes = (seconds + 30) / 60;
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        }
    }
}

/// A share of one as percent: `0.123` is `12.3 %`. Shares below one percent keep two digits, so that `0.04 %` does not
/// become nothing, and a share of nothing (0/0) is `-`.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if !percent.is_finite() {
        "-".to_owned()
    } else if percent == 0.0 || percent.abs() >= 0.995 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.2} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_a_comma_every_three_digits() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_204_567), "1,204,567");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn bytes_climb_through_the_binary_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(64 << 20), "64.0 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn a_change_has_its_sign() {
        assert_eq!(bytes_change(0), "0 B");
        assert_eq!(bytes_change(1536), "+1.5 KiB");
        assert_eq!(bytes_change(-(64 << 20)), "-64.0 MiB");
        assert_eq!(bytes_change(i64::MIN), "-8.0 EiB");
    }

    #[test]
    fn rounding_never_shows_a_full_unit() {
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(duration(Duration::from_nanos(999_999)), "1.0 ms");
        assert_eq!(duration(Duration::from_nanos(999_999_999)), "1.0 s");
        assert_eq!(duration(Duration::from_millis(59_990)), "1 min 00 s");
        assert_eq!(duration(Duration::from_millis(3_599_700)), "1 h 00 min");
    }

    #[test]
    fn durations_take_the_unit_that_fits() {
        assert_eq!(duration(Duration::ZERO), "0 ns");
        assert_eq!(duration(Duration::from_nanos(850)), "850 ns");
        assert_eq!(duration(Duration::from_nanos(12_345)), "12.3 µs");
        assert_eq!(duration(Duration::from_micros(4_500)), "4.5 ms");
        assert_eq!(duration(Duration::from_millis(12_345)), "12.3 s");
        assert_eq!(duration(Duration::from_secs(65)), "1 min 05 s");
        assert_eq!(duration(Duration::from_secs(7_380)), "2 h 03 min");
        assert!(duration(Duration::MAX).ends_with(" min"));
    }

    #[test]
    fn percents_keep_what_is_small_and_refuse_what_is_no_number() {
        assert_eq!(percent(0.0), "0.0 %");
        assert_eq!(percent(0.123), "12.3 %");
        assert_eq!(percent(1.0), "100.0 %");
        assert_eq!(percent(0.0004), "0.04 %");
        assert_eq!(percent(0.009_96), "1.0 %");
        assert_eq!(percent(f64::NAN), "-");
        assert_eq!(percent(1.0 / 0.0), "-");
    }
}
