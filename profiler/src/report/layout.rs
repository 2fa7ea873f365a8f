//! Text in columns that fits a terminal, and times as columns hold them.

use std::{borrow::Cow, time::Duration};

use crate::humanize::duration;

/// No terminal is taken for narrower.
const NARROWEST: usize = 40;
/// The last column keeps this much as long as there is another one to drop.
const LEAST_LAST: usize = 36;
const GAP: usize = 2;

/// A table whose last column is text of any length and whose others are short and aligned to the right.
pub(super) struct Grid {
    columns: Vec<Column>,
    title: &'static str,
    last: Vec<Last>,
}

pub(super) struct Column {
    pub(super) title: String,
    pub(super) cells: Vec<String>,
    /// Where room is short, the highest goes first; 0 stays.
    pub(super) dispensable: u8,
}

/// Text that is cut in its middle, and an addition that has a line of its own where there is no room beside it.
#[derive(Default)]
pub(super) struct Last {
    pub(super) text: String,
    /// What is shown instead where `text` does not fit; cut if that does not either.
    pub(super) shorter: Option<String>,
    pub(super) addition: String,
    /// Always has a line of its own, or several.
    pub(super) remark: String,
}

impl Grid {
    pub(super) fn new(title: &'static str, last: Vec<Last>) -> Self {
        Self {
            columns: Vec::new(),
            title,
            last,
        }
    }

    /// Adds a column, unless it would be empty.
    pub(super) fn column(&mut self, dispensable: u8, title: impl Into<String>, cells: Vec<String>) {
        if cells.iter().any(|cell| !cell.is_empty()) {
            self.columns.push(Column {
                title: title.into(),
                cells,
                dispensable,
            });
        }
    }

    /// The table, one line per row, each ending in a newline and none wider than `width`.
    pub(super) fn render(mut self, width: usize) -> String {
        let width = width.max(NARROWEST);
        let mut taken = self.taken();
        while taken + LEAST_LAST > width {
            let Some(index) = self.most_dispensable() else { break };
            self.columns.remove(index);
            taken = self.taken();
        }
        let left = width.saturating_sub(taken).max(8);

        let widths: Vec<_> = self.columns.iter().map(Column::width).collect();
        let mut text = String::new();
        for (column, width) in self.columns.iter().zip(&widths) {
            push_right(&mut text, &column.title, *width);
        }
        push_line(&mut text, &cut(self.title, left));
        for (row, last) in self.last.iter().enumerate() {
            for (column, width) in self.columns.iter().zip(&widths) {
                push_right(&mut text, column.cells.get(row).map_or("", String::as_str), *width);
            }
            let whole = !last.addition.is_empty() && columns(&last.text) + 1 + columns(&last.addition) <= left;
            let fitting = match &last.shorter {
                Some(shorter) if columns(&last.text) > left => shorter,
                _ => &last.text,
            };
            let shown = cut(fitting, left);
            push_line(
                &mut text,
                &if whole {
                    format!("{shown} {}", last.addition).into()
                } else {
                    shown
                },
            );
            let addition = if whole { "" } else { &last.addition };
            for below in std::iter::once(addition).chain(last.remark.split('\n')) {
                if below.is_empty() {
                    continue;
                }
                // As far to the right as all of them fit.
                let widest = last.remark.split('\n').chain([below]).map(columns).max().unwrap_or(0);
                let indent = (taken + GAP).min(width.saturating_sub(widest)).max(GAP);
                text.extend(std::iter::repeat_n(' ', indent));
                push_line(&mut text, &cut(below, width - indent));
            }
        }
        text
    }

    fn taken(&self) -> usize {
        self.columns.iter().map(|column| column.width() + GAP).sum()
    }

    fn most_dispensable(&self) -> Option<usize> {
        let (index, column) = self
            .columns
            .iter()
            .enumerate()
            .max_by_key(|(_, column)| column.dispensable)?;
        (column.dispensable > 0).then_some(index)
    }
}

impl Column {
    fn width(&self) -> usize {
        let cells = self.cells.iter().map(|cell| columns(cell)).max().unwrap_or(0);
        cells.max(columns(&self.title))
    }
}

fn push_right(text: &mut String, cell: &str, width: usize) {
    text.extend(std::iter::repeat_n(' ', width.saturating_sub(columns(cell))));
    text.push_str(cell);
    text.extend([' '; GAP]);
}

fn push_line(text: &mut String, last: &str) {
    text.push_str(last);
    text.truncate(text.trim_end_matches(' ').len());
    text.push('\n');
}

/// Each sentence in lines of that width; the second and later ones are indented.
pub(super) fn paragraphs(sentences: &[String], width: usize) -> String {
    let mut text = String::new();
    let width = width.max(40);
    for sentence in sentences {
        let mut line = String::new();
        for word in sentence.split(' ') {
            let more = !line.trim_start().is_empty();
            if more && columns(&line) + 1 + columns(word) > width {
                text.push_str(&cut(&line, width));
                text.push('\n');
                line = format!("  {word}");
            } else {
                if more {
                    line.push(' ');
                }
                line.push_str(word);
            }
        }
        text.push_str(&cut(&line, width));
        text.push('\n');
    }
    text
}

/// Parts of a sentence on one line, or each on its own where they do not fit; `indent` is before every line, and more of
/// it before the second and later ones.
pub(super) fn clauses(indent: &str, parts: &[String], width: usize) -> String {
    let line = format!("{indent}{}\n", parts.join(", "));
    match columns(&line) <= width.max(NARROWEST) + 1 {
        true => line,
        false => format!("{indent}{}\n", parts.join(&format!(",\n{indent}  "))),
    }
}

/// Words in lines that are no wider than `width`, nor than 80 columns; all but the first begin two columns further in.
pub(super) fn paragraph(text: &str, width: usize) -> String {
    let width = width.clamp(NARROWEST, 80);
    let mut lines = String::new();
    let mut taken = 0;
    for word in text.split(' ') {
        let length = columns(word);
        if taken > 0 && taken + 1 + length > width {
            lines.push_str("\n  ");
            taken = 2;
        } else if taken > 0 {
            lines.push(' ');
            taken += 1;
        }
        lines.push_str(word);
        taken += length;
    }
    lines.push('\n');
    lines
}

/// The text in `width` columns: what is too long loses its middle, as a name begins and a place ends with what matters.
/// Numbers are whole or not there: part of a line's number would be another line.
pub(super) fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if columns(text) <= width {
        return text.into();
    }
    let room = width.saturating_sub(1);
    let head = fitting(text.chars(), room / 2);
    let tail = fitting(text.chars().rev(), room - room / 2);
    let chars: Vec<char> = text.chars().collect();
    let (head, left_out) = chars.split_at(head);
    let (left_out, tail) = left_out.split_at(left_out.len() - tail);
    let is_digit = |c: Option<&char>| c.is_some_and(char::is_ascii_digit);
    let (mut head, mut tail) = (head, tail);
    if is_digit(left_out.first()) {
        head = &head[..head.iter().rposition(|c| !c.is_ascii_digit()).map_or(0, |at| at + 1)];
    }
    if is_digit(left_out.last()) {
        tail = &tail[tail.iter().position(|c| !c.is_ascii_digit()).unwrap_or(tail.len())..];
    }
    head.iter().chain(&['…']).chain(tail).collect::<String>().into()
}

/// How many of the first characters fit.
fn fitting(chars: impl Iterator<Item = char>, room: usize) -> usize {
    let mut taken = 0;
    chars
        .take_while(|c| {
            taken += char_columns(*c);
            taken <= room
        })
        .count()
}

/// How many columns of a terminal the text takes.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

/// The wide blocks of Unicode (East Asian scripts, emoji) take two columns. Combining marks, which take none, count as
/// one: a line is then shorter than it could be, never longer.
fn char_columns(c: char) -> usize {
    match u32::from(c) {
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xa960..=0xa97f
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f000..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// How long something took, in as few words as say it: `847.2 ms`, `4.2 s`, `60 s`, `5 min`, `5 min 03 s`, `2 h 07 min`.
pub(super) fn span(length: Duration) -> String {
    let tenths = length.as_millis().saturating_add(50) / 100;
    let seconds = length.as_millis().saturating_add(500) / 1000;
    let minutes = seconds.saturating_add(30) / 60;
    match seconds {
        // A tenth of a second would be a rough number for what so little time is the measure of.
        _ if tenths < 10 && !length.is_zero() => duration(length),
        _ if tenths < 100 => format!("{}.{} s", tenths / 10, tenths % 10),
        0..120 => format!("{seconds} s"),
        120..3600 if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        120..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", minutes / 60, minutes % 60),
    }
}

/// How old things are: `0–58 s`, `40 s–5 min`, `2 h`.
pub(super) fn ages(youngest: Duration, oldest: Duration) -> String {
    let (young, young_unit) = age(youngest.min(oldest));
    let (old, unit) = age(oldest);
    if (young, young_unit) == (old, unit) {
        format!("{old} {unit}")
    } else if young_unit == unit {
        format!("{young}–{old} {unit}")
    } else {
        format!("{young} {young_unit}–{old} {unit}")
    }
}

fn age(age: Duration) -> (u64, &'static str) {
    // Down to the whole unit, as ages are told.
    match age.as_secs() {
        seconds @ 0..120 => (seconds, "s"),
        seconds @ 120..7200 => (seconds / 60, "min"),
        seconds @ 7200..172_800 => (seconds / 3600, "h"),
        seconds => (seconds / 86_400, "d"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_span_is_as_short_as_it_can_be() {
        let text = |seconds: f64| span(Duration::from_secs_f64(seconds));
        assert_eq!(text(0.0), "0.0 s");
        assert_eq!(text(0.0264), "26.4 ms");
        assert_eq!(text(0.949), "949.0 ms");
        assert_eq!(text(0.95), "1.0 s");
        assert_eq!(text(4.2), "4.2 s");
        assert_eq!(text(9.97), "10 s");
        assert_eq!(text(60.0), "60 s");
        assert_eq!(text(300.2), "5 min");
        assert_eq!(text(303.0), "5 min 03 s");
        assert_eq!(text(7620.0), "2 h 07 min");
        assert!(span(Duration::MAX).ends_with(" min"));
    }

    #[test]
    fn ages_share_their_unit() {
        let text = |youngest, oldest| ages(Duration::from_secs(youngest), Duration::from_secs(oldest));
        assert_eq!(text(0, 58), "0–58 s");
        assert_eq!(text(12, 12), "12 s");
        assert_eq!(text(40, 301), "40 s–5 min");
        assert_eq!(text(7200, 200_000), "2 h–2 d");
        assert_eq!(text(9, 3), "3 s");
    }

    #[test]
    fn what_is_too_long_loses_its_middle() {
        assert_eq!(cut("fill (shop/cache.py:12)", 30), "fill (shop/cache.py:12)");
        assert_eq!(cut("fill (shop/cache.py:12)", 15), "fill (s….py:12)");
        assert_eq!(cut("漢字漢字", 5), "漢…字");
        assert_eq!(
            cut("connection.py:1350(_check_readable)", 31),
            "connection.py:…check_readable)"
        );
        assert_eq!(cut("connection.py:1350(_check)", 20), "connectio…(_check)");
    }

    #[test]
    fn a_narrow_terminal_loses_columns_before_names() {
        let grid = || {
            let mut grid = Grid::new(
                "where",
                vec![Last {
                    text: "a_function_with_a_long_name (package/module.py:1234)".to_owned(),
                    addition: "via x".to_owned(),
                    ..Last::default()
                }],
            );
            grid.column(0, "live", vec!["1.0 MiB".to_owned()]);
            grid.column(1, "pages", vec!["256".to_owned()]);
            grid.column(2, "age", vec!["1–58 s".to_owned()]);
            grid
        };
        assert_eq!(
            grid().render(120),
            "   live  pages     age  where\n1.0 MiB    256  1–58 s  \
             a_function_with_a_long_name (package/module.py:1234) via x\n"
        );
        assert_eq!(
            grid().render(52),
            "   live  pages  where\n1.0 MiB    256  a_function_with_a…ge/module.py:1234)\n                  via x\n"
        );
        assert_eq!(
            grid().render(40),
            "   live  where\n1.0 MiB  a_function_with…module.py:1234)\n           via x\n"
        );
    }

    #[test]
    fn a_paragraph_breaks_between_words() {
        let text = "? The line got this memory first, and others' objects may be in it";
        assert_eq!(paragraph(text, 200), format!("{text}\n"));
        assert_eq!(
            paragraph(text, 40),
            "? The line got this memory first, and\n  others' objects may be in it\n"
        );
    }

    #[test]
    fn clauses_are_on_one_line_if_they_fit() {
        let parts = ["RSS 412.0 MiB -> 955.3 MiB".to_owned(), "97 % explained".to_owned()];
        assert_eq!(
            clauses(" ", &parts, 43),
            " RSS 412.0 MiB -> 955.3 MiB, 97 % explained\n"
        );
        assert_eq!(
            clauses(" ", &parts, 42),
            " RSS 412.0 MiB -> 955.3 MiB,\n   97 % explained\n"
        );
    }

    proptest! {
        #[test]
        fn what_is_cut_fits(text in "\\PC*", width in 1_usize..60) {
            let cut = cut(&text, width);
            prop_assert!(columns(&cut) <= width);
            prop_assert!(cut == text || cut.contains('…'));
        }
    }
}
