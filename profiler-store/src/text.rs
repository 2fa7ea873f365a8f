//! Amounts as people read them.

/// A value with its unit, in at most nine characters.
pub fn amount(value: i64, unit: &str) -> String {
    let value = value as f64;
    let scaled = |steps: &[(f64, &str)]| {
        let (by, unit) = (steps.iter().find(|(by, _)| value.abs() >= *by))
            .or(steps.last())
            .copied()
            .unwrap_or((1.0, ""));
        let value = value / by;
        let digits = if value.abs() >= 100.0 || by == 1.0 { 0 } else { 1 };
        format!("{value:.digits$} {unit}").trim_end().to_owned()
    };
    match unit {
        "nanoseconds" => scaled(&[
            (86_400e9, "d"),
            (3600e9, "h"),
            (60e9, "min"),
            (1e9, "s"),
            (1e6, "ms"),
            (1e3, "us"),
            (1.0, "ns"),
        ]),
        "bytes" => scaled(&[
            (1099511627776.0, "TiB"),
            (1073741824.0, "GiB"),
            (1048576.0, "MiB"),
            (1024.0, "KiB"),
            (1.0, "B"),
        ]),
        _ => scaled(&[(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units_people_read() {
        assert_eq!(amount(1_500_000_000, "nanoseconds"), "1.5 s");
        assert_eq!(amount(3 << 20, "bytes"), "3.0 MiB");
        assert_eq!(amount(12, "count"), "12");
        assert_eq!(amount(0, "nanoseconds"), "0 ns");
    }
}
