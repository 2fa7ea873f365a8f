//! Lines that fit a terminal.

use std::io::{self, Write};

use super::View;
use crate::{
    dump::{frame::Frame, locals::Local},
    report::path,
    shown,
};

pub(super) const COLUMNS: usize = 80;

pub(super) fn write(lines: &[String], out: &mut dyn Write) -> io::Result<()> {
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// The frames of a stack, those that follow each other alike once, with their variables. `room`: columns that are there.
pub(super) fn frames(view: View, frames: &[Frame], room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = frames;
    while let Some(frame) = rest.first() {
        let is_again = |other: &&Frame| {
            (other.name(), other.file(), other.line) == (frame.name(), frame.file(), frame.line)
                && other.locals == frame.locals
                && other.is_unchanged == frame.is_unchanged
        };
        let times = rest.iter().take_while(is_again).count();
        let is_innermost = rest.len() == frames.len();
        rest = &rest[times..];
        lines.extend(one(view, frame, times, room));
        if view.is_long || frame.is_own() || is_innermost {
            lines.extend(frame.locals.iter().flatten().map(|local| variable(view, local, room)));
        }
    }
    lines
}

/// `  > orders (shop/views.py:29)`, on two lines if it is long.
fn one(view: View, frame: &Frame, times: usize, room: usize) -> Vec<String> {
    let unchanged = if view.marks_unchanged && frame.is_unchanged {
        '='
    } else {
        ' '
    };
    let own = if frame.is_own() { '>' } else { ' ' };
    let start = format!("{unchanged} {own} {}", shown::line(frame.name()));
    let file = shown::line(&path::short(frame.file()));
    let place = match frame.line {
        Some(line) => format!("({file}:{line})"),
        None => format!("({file})"),
    };
    let times = match times {
        1 => String::new(),
        times => format!("  {times} times"),
    };
    let whole = format!("{start} {place}{times}");
    match whole.chars().count() <= room {
        true => vec![whole],
        false => vec![
            cut(&start, room),
            without_beginning(&format!("        {place}{times}"), room),
        ],
    }
}

/// `        rows: list = [1, 2]`; types only, `        rows: list`.
fn variable(view: View, local: &Local, room: usize) -> String {
    let mut line = format!("        {}: {}", shown::line(&local.name), shown::line(&local.kind));
    if !local.text.is_empty() {
        line.push_str(&format!(" = {}", shown::line(&local.text)));
    }
    match view.is_long {
        true => line,
        false => cut(&line, room),
    }
}

pub(super) fn cut(line: &str, room: usize) -> String {
    match line.chars().count() <= room {
        true => line.to_owned(),
        false => line.chars().take(room.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// The end of a path tells more than its beginning.
fn without_beginning(line: &str, room: usize) -> String {
    let count = line.chars().count();
    if count <= room {
        return line.to_owned();
    }
    let indent = line.chars().take_while(|c| *c == ' ').count();
    let kept = room.saturating_sub(indent + 1);
    let tail = line.chars().skip(count.saturating_sub(kept));
    " ".repeat(indent).chars().chain(['…']).chain(tail).collect()
}

/// Lines of words that fit, those after the first indented. A longer word is cut.
pub(super) fn wrapped(text: &str, indent: &str) -> Vec<String> {
    wrapped_to(text, indent, COLUMNS)
}

pub(super) fn wrapped_to(text: &str, indent: &str, room: usize) -> Vec<String> {
    let start = text.len() - text.trim_start().len();
    let mut lines: Vec<String> = Vec::new();
    let mut line = text[..start].to_owned();
    let mut is_empty = true;
    for word in text[start..].split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > room {
            lines.push(std::mem::replace(&mut line, indent.to_owned()));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.push(line);
    lines.iter().map(|line| cut(line, room)).collect()
}

/// The same on so many lines at most.
pub(super) fn first_wrapped(text: &str, indent: &str, most: usize, room: usize) -> Vec<String> {
    let mut lines = wrapped_to(text, indent, room.saturating_sub(2));
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            last.push_str(" …");
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_kept_whole_where_they_fit() {
        assert_eq!(wrapped_to("  one two three", "    ", 11), ["  one two", "    three"]);
        assert_eq!(wrapped_to("a verylongword b", " ", 8), ["a", " verylo…", " b"]);
        assert_eq!(first_wrapped("1 2 3 4 5 6", " ", 2, 6), ["1 2", " 3 4 …"]);
        assert_eq!(without_beginning("  (a/very/long/path.py:1)", 12), "  …ath.py:1)");
    }

    proptest! {
        #[test]
        fn no_line_is_too_long(text in ".{0,300}", room in 10..100_usize) {
            for line in wrapped_to(&shown::line(&text), "    ", room) {
                prop_assert!(line.chars().count() <= room);
            }
            prop_assert!(without_beginning(&text, room).chars().count() <= room.max(text.chars().take_while(|c| *c == ' ').count() + 1));
        }
    }
}
