//! Rows of any kind, the largest first, with the errors of their shares.

use super::{Asked, ROWS};
use crate::{
    humanize::percent,
    profile::{FrameKind, Profile, ValueType},
    report::{
        amount::{FEW, amount, points},
        grouping::By,
        label,
        layout::{Grid, Last, paragraph},
        rows::{Counted, Row, Sum, rows},
    },
};

pub(super) fn text(profile: &Profile, asked: &Asked, counted: Counted, by: By, width: usize) -> String {
    let found = rows(profile, counted, by, asked.interpreter, asked.merge_workers);
    let there: Vec<&Row> = found.rows.iter().filter(|row| row.total.value > 0).collect();
    let shown = &there[..there.len().min(asked.top(ROWS))];
    let last = shown.iter().map(|row| last(profile, by, row)).collect();
    let mut grid = Grid::new(title(by), last);
    let all = found.all;
    let value_type = profile.sample_types[asked.value];
    let column = |cell: &dyn Fn(&Row) -> String| shown.iter().map(|row| cell(row)).collect::<Vec<_>>();
    if by.is_of_frames() {
        grid.column(0, "self", column(&|row| share(row.itself, all)));
        grid.column(1, "±", column(&|row| plus_minus(row.itself, all, counted)));
    }
    grid.column(
        0,
        if by.is_of_frames() { "total" } else { "share" },
        column(&|row| share(row.total, all)),
    );
    grid.column(1, "±", column(&|row| plus_minus(row.total, all, counted)));
    grid.column(2, "amount", column(&|row| amount(row.itself.value, value_type)));
    if all.variance > 0.0 {
        grid.column(2, "±", column(&|row| plus_minus_of(row.itself, value_type)));
    }
    let mut text = grid.render(width);
    text.push_str(&notes(shown.iter().map(|row| row.total), there.len(), counted, width));
    text
}

/// What is to be known of rows: which are of few samples, and how many there are besides.
pub(super) fn notes(shown: impl Iterator<Item = Sum>, there: usize, counted: Counted, width: usize) -> String {
    let shown: Vec<Sum> = shown.collect();
    let mut text = String::new();
    if shown.iter().any(|sum| is_few(*sum, counted)) {
        let note = format!("~ fewer than {FEW} samples: it may well be half as much, or twice");
        text.push_str(&paragraph(&note, width));
    }
    if there > shown.len() {
        text.push_str(&format!("{} more rows (-n)\n", there - shown.len()));
    }
    text
}

fn is_few(sum: Sum, counted: Counted) -> bool {
    counted.samples.is_some() && sum.samples > 0 && sum.samples < FEW
}

/// A share; of few samples it has a mark.
pub(super) fn share(sum: Sum, all: Sum) -> String {
    let share = percent(sum.value as f64 / all.value as f64);
    match all.samples > 0 && sum.samples > 0 && sum.samples < FEW {
        true => format!("~{share}"),
        false => share,
    }
}

pub(super) fn plus_minus(sum: Sum, all: Sum, counted: Counted) -> String {
    match counted.error(sum, all) {
        // What is no estimate has no error.
        Some(0.0) | None => String::new(),
        Some(_) if sum.value == 0 => String::new(),
        Some(error) => points(error),
    }
}

/// The error of an amount; nothing where it is exact.
pub(in crate::report) fn plus_minus_of(sum: Sum, value_type: ValueType) -> String {
    match sum.error() {
        0 => String::new(),
        error => format!("± {}", amount(error, value_type)),
    }
}

fn title(by: By) -> &'static str {
    match by {
        By::Line => "line",
        By::Function => "function, at its hottest line",
        By::File => "file",
        By::Module => "module",
        By::Package => "package",
        By::Thread => "thread",
        By::Task => "task, by its coroutine",
        By::Process => "process",
        By::Service => "service",
        By::Cause => "cause",
    }
}

/// What a row is called.
pub(super) fn last(profile: &Profile, by: By, row: &Row) -> Last {
    let frame = row.hottest.map(|id| profile.frame(id));
    let text = match (&row.name, frame) {
        (Some(name), _) if by == By::Package => package_name(name),
        (Some(name), _) => name.clone(),
        (None, Some(frame)) => label::frame(profile, frame),
        (None, None) => String::new(),
    };
    let shorter = (frame.filter(|frame| row.name.is_none() && frame.kind == FrameKind::Python))
        .map(|frame| label::shorter(profile, frame));
    Last {
        text,
        shorter,
        ..Last::default()
    }
}

fn package_name(name: &str) -> String {
    match name {
        "own" => "own (your code)".to_owned(),
        "stdlib" => "stdlib (Python's standard library)".to_owned(),
        "cpython" => "cpython (the interpreter)".to_owned(),
        "none" => "none (no file is known)".to_owned(),
        name => name.to_owned(),
    }
}
