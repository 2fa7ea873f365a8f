//! Text that came from anybody, on a terminal.

/// Without control characters, which terminals obey, and without what turns the direction of text.
#[cfg(feature = "query")]
pub fn clean(text: &str) -> String {
    let hidden = |char: char| {
        char.is_control()
            || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars()
        .map(|char| if hidden(char) { '\u{fffd}' } else { char })
        .collect()
}

/// At most so many characters, the middle of which can be missing: the beginning and the end tell most.
#[cfg(feature = "query")]
pub fn fit(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(1);
    let first: String = text.chars().take(kept / 2).collect();
    let last: String = text.chars().skip(count - (kept - kept / 2)).collect();
    format!("{first}…{last}")
}

/// An SQL text literal.
#[cfg(feature = "query")]
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A value with its unit, in at most nine characters.
pub fn amount(value: f64, unit: &str) -> String {
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
    fn a_terminal_gets_no_commands() {
        assert_eq!(clean("a\x1b[2Jb\u{202e}c\nd"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d");
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(fit("abcdefghij", 5), "ab…ij");
        assert_eq!(fit("abc", 3), "abc");
    }

    #[test]
    fn amounts_have_units_people_read() {
        assert_eq!(amount(1.5e9, "nanoseconds"), "1.5 s");
        assert_eq!(amount(3145728.0, "bytes"), "3.0 MiB");
        assert_eq!(amount(12.0, "count"), "12");
        assert_eq!(amount(0.0, "nanoseconds"), "0 ns");
    }

    #[test]
    fn a_quote_does_not_end_a_text() {
        assert_eq!(quoted("it's"), "'it''s'");
    }
}
