//! What strangers have named, as it may be shown.
//!
//! Paths, functions, threads and command lines are what their owners chose, and people read them in terminals and
//! spreadsheets. Both do what text tells them to: a terminal moves its cursor, changes its title or answers as if
//! somebody had typed; what turns text around makes one name look like another; a spreadsheet computes. So text is
//! cleaned where it is shown, and nowhere before: files for programs have the names as they are.

use std::{
    borrow::Cow,
    io::{self, Write as _},
};

/// Whether a character does something instead of being seen: it controls a terminal, ends a line, or turns text around.
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{206f}'
                | '\u{fff9}'..='\u{fffb}'
        )
}

/// Text as one line that only reads.
pub fn line(text: &str) -> String {
    replaced(text, acts).into_owned()
}

/// The same of text of our own that has lines of its own.
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| c != '\n' && acts(c))
}

/// Says it on standard error, if somebody still reads there: `eprintln!` panics when the terminal was hung up.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}", lines(text));
}

/// Text as a field of CSV (RFC 4180, with plain newlines).
///
/// Spreadsheets take for a formula what begins like one, in quotation marks or not; an apostrophe before it makes it
/// text again.
pub fn csv_field(text: &str) -> Cow<'_, str> {
    let mut field = replaced(text, |c| !matches!(c, '\n' | '\r' | '\t') && acts(c));
    if field.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        field.to_mut().insert(0, '\'');
    }
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\"")).into()
    } else {
        field
    }
}

fn replaced(text: &str, acts: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.contains(&acts) {
        text.replace(acts, "\u{fffd}").into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_moves_a_cursor_or_turns_text_around_is_replaced() {
        assert_eq!(
            line("/tmp/\x1b]0;title\x07x\ny"),
            "/tmp/\u{fffd}]0;title\u{fffd}x\u{fffd}y"
        );
        assert_eq!(line("a\u{202e}gpj.exe\u{2066}"), "a\u{fffd}gpj.exe\u{fffd}");
        assert_eq!(line("größe обработчик 名前"), "größe обработчик 名前");
        assert_eq!(lines("a\n  b\x1b[2J"), "a\n  b\u{fffd}[2J");
    }

    #[test]
    fn a_formula_is_text_and_text_stays_as_it_is() {
        assert_eq!(csv_field("=cmd|'/c calc'!A1"), "'=cmd|'/c calc'!A1");
        for first in ["=", "+", "-", "@", "\t"] {
            assert_eq!(csv_field(&format!("{first}1")), format!("'{first}1"));
        }
        assert_eq!(csv_field("=1,\"2\""), "\"'=1,\"\"2\"\"\"");
        assert_eq!(csv_field("\r=1"), "\"'\r=1\"");
        assert_eq!(csv_field("a-b=c"), "a-b=c");
        assert_eq!(csv_field("a\x1b[2J"), "a\u{fffd}[2J");
        assert_eq!(csv_field(""), "");
    }

    proptest! {
        #[test]
        fn whatever_a_name_is_it_only_reads(text in "\\PC*|.*|[\u{0}-\u{ff}\u{61c}\u{2000}-\u{2070}\u{fff0}-\u{ffff}]*") {
            prop_assert!(!line(&text).contains(acts));
            prop_assert!(!lines(&text).contains(|c| c != '\n' && acts(c)));
            let starts_formula = csv_field(&text).trim_start_matches('"').starts_with(['=', '+', '-', '@', '\t', '\r']);
            prop_assert!(!starts_formula || text.starts_with('"'));
        }
    }
}
