//! Days and hours, which are the names of directories. Only UTC, and only years with four digits.

use std::fmt;

const HOUR_US: i64 = 3_600_000_000;
/// 2000-01-01 and 2100-01-01: a clock that is not set yet, and one that is nonsense, would make directories of their own.
const FIRST_US: i64 = 946_684_800_000_000;
const END_US: i64 = 4_102_444_800_000_000;

/// An hour of some day, by its number since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(i64);

impl Hour {
    /// The hour of a time in microseconds; none for what is not of this century.
    pub fn of(time_us: i64) -> Option<Self> {
        (FIRST_US..END_US)
            .contains(&time_us)
            .then(|| Self(time_us.div_euclid(HOUR_US)))
    }

    pub fn start_us(self) -> i64 {
        self.0 * HOUR_US
    }

    pub fn end_us(self) -> i64 {
        (self.0 + 1) * HOUR_US
    }

    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The hour that this directory's name and its parent's stand for.
    pub fn parse(day: &str, hour: &str) -> Option<Self> {
        let day = day.strip_prefix("day=")?;
        let hour: i64 = hour.strip_prefix("hour=")?.parse().ok()?;
        let mut parts = day.splitn(3, '-');
        let mut part = || parts.next()?.parse::<i64>().ok();
        let (year, month, day) = (part()?, part()?, part()?);
        let plausible = (2000..2100).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
        let found = Self(days_from_civil(year, month, day) * 24 + hour);
        (plausible && (0..24).contains(&hour)).then_some(found)
    }

    pub fn day(self) -> String {
        let (year, month, day) = civil_from_days(self.0.div_euclid(24));
        format!("day={year:04}-{month:02}-{day:02}")
    }

    pub fn hour(self) -> String {
        format!("hour={:02}", self.0.rem_euclid(24))
    }
}

/// `20261201T13`, as names of sets begin.
impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0.div_euclid(24));
        write!(f, "{year:04}{month:02}{day:02}T{:02}", self.0.rem_euclid(24))
    }
}

/// Howard Hinnant's `days_from_civil`: days since 1970-01-01 of the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_has_its_directories_and_they_are_of_that_hour() {
        // `date -u -d @1796130000`
        let hour = Hour::of(1_796_130_000_000_000).unwrap();
        assert_eq!((hour.day(), hour.hour()), ("day=2026-12-01".into(), "hour=13".into()));
        assert_eq!(hour.to_string(), "20261201T13");
        assert_eq!(Hour::parse(&hour.day(), &hour.hour()), Some(hour));
        for hour in (0..876_576).step_by(997).map(|hour| Hour(FIRST_US / HOUR_US + hour)) {
            assert_eq!(Hour::parse(&hour.day(), &hour.hour()), Some(hour));
        }
    }

    #[test]
    fn a_clock_that_is_not_set_is_of_no_hour() {
        for time in [0, FIRST_US - 1, END_US, i64::MAX, i64::MIN] {
            assert_eq!(Hour::of(time), None, "{time}");
        }
        for (day, hour) in [
            ("day=2026-13-01", "hour=01"),
            ("day=x", "hour=01"),
            ("2026-12-01", "hour=1"),
            ("day=2026-12-01", "hour=24"),
        ] {
            assert_eq!(Hour::parse(day, hour), None, "{day}/{hour}");
        }
    }
}
