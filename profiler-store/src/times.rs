//! Times as people type and read them; only UTC.

use std::time::{Duration, SystemTime};

#[cfg(feature = "query")]
use profiler_parquet::Hour;

pub fn now_us() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// `90s`, `30m`, `1h`, `14d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: say 90s, 30m, 1h or 14d");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// Microseconds since 1970 of `2026-12-01T13:05:07`, `2026-12-01 13:05`, `2026-12-01`, or `13:05` of today.
#[cfg(feature = "query")]
pub fn time(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no time: say 2026-12-01T13:05 (UTC), 2026-12-01 or 13:05");
    let trimmed = text.trim().trim_end_matches('Z');
    let (day, clock) = match trimmed.split_once(['T', ' ']) {
        Some((day, clock)) => (Some(day), clock),
        None if trimmed.contains(':') => (None, trimmed),
        None => (Some(trimmed), "00:00"),
    };
    let mut parts = clock
        .split(':')
        .map(|part| part.parse::<i64>().ok().filter(|part| *part >= 0));
    let mut part = |most| match parts.next() {
        None => Some(0),
        Some(part) => part.filter(|part| *part < most),
    };
    let (hours, minutes, seconds) = (part(24), part(60), part(60));
    let (Some(hours), Some(minutes), Some(seconds)) = (hours, minutes, seconds) else {
        return Err(wrong());
    };
    let day = match day {
        Some(day) => Hour::parse(&format!("day={day}"), "hour=0"),
        None => Hour::of(now_us() / 86_400_000_000 * 86_400_000_000),
    };
    let day = day.ok_or_else(wrong)?;
    Ok(day.start_us() + ((hours * 60 + minutes) * 60 + seconds) * 1_000_000)
}

/// `2026-12-01 13:05`.
#[cfg(feature = "query")]
pub fn shown(time_us: i64) -> String {
    let Some(hour) = Hour::of(time_us) else {
        return "?".to_owned();
    };
    let minute = (time_us - hour.start_us()) / 60_000_000;
    let (day, hour) = (hour.day(), hour.hour());
    let (day, hour) = (day.trim_start_matches("day="), hour.trim_start_matches("hour="));
    format!("{day} {hour}:{minute:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_what_is_shown() {
        for text in ["2026-12-01 13:05", "2000-01-01 00:00", "2099-12-31 23:59"] {
            assert_eq!(shown(time(text).unwrap()), text);
        }
        assert_eq!(time("2026-12-01").unwrap(), time("2026-12-01T00:00:00Z").unwrap());
        assert_eq!(time("2026-12-01T13:05:07").unwrap(), 1_796_130_307_000_000);
        for text in [
            "",
            "x",
            "25:00",
            "12:61",
            "2026-13-01",
            "2026-12-01T",
            "2026-12-01T12:-1",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(duration("14d").unwrap().as_secs(), 14 * 86_400);
        for text in ["", "d", "5", "-1s", "5x", "ü"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
