//! The table that people read.

use super::{
    ExceptionsReport,
    rows::{Catch, Row, rows},
};
use crate::{
    humanize::{count, duration, percent},
    report::layout::{Grid, Last, paragraphs},
};

/// So many places where exceptions of a row were caught are told.
const MOST_CAUGHT: usize = 2;
/// A place that has less of them is not.
const LEAST_CAUGHT: f64 = 0.02;

pub fn text(report: &ExceptionsReport, top: usize, width: usize) -> String {
    let mut text = paragraphs(&heading(report), width);
    let rows = rows(report, false);
    if rows.is_empty() {
        return text;
    }
    text.push('\n');
    text.push_str(&grid(report, &rows, top, width));
    text
}

/// What there was, and how far it is to be believed.
pub fn heading(report: &ExceptionsReport) -> Vec<String> {
    let (total, error) = report.total();
    let number = total.round() as u64;
    let many = match number {
        1 => "1 exception".to_owned(),
        _ => format!("{} exceptions", count(number)),
    };
    let at_least = if report.is_at_least() { "at least " } else { "" };
    let about = match report.estimated {
        true => format!(" ± {}", count(error.round() as u64)),
        false => String::new(),
    };
    let mut lines = vec![format!(
        "{at_least}{many}{about} in {}: {} a second.",
        duration(report.length),
        rate(report.per_second(total)),
    )];
    lines[0] = first_upper(&lines[0]);
    lines.push(match report.windows {
        None => format!(
            "Every one was counted. The program took {} times as long for it.",
            report.slow_down.told()
        ),
        Some(windows) if report.estimated => format!(
            "Estimated from {} seen in {windows} windows of {} in all, for counting all the time would have cost more than \
             --max-overhead allows. The program took {} times as long for it.",
            count(report.counted),
            duration(report.observed),
            report.slow_down.told()
        ),
        Some(_) => format!(
            "Only {} of the time was seen, for counting cost more than --max-overhead allows: too little to tell the rest \
             from. Record longer with -d, or allow more.",
            duration(report.observed)
        ),
    });
    if report.lost > 0 {
        lines.push(format!("{} are missing: the ring buffer was full.", count(report.lost)));
    }
    if report.in_c > 0 {
        lines.push(format!(
            "Not among them: {} that C code set and took back itself, before a Python frame saw them.",
            count(report.in_c),
        ));
    }
    if let Some((share, error)) = report.handling.share() {
        lines.push(format!(
            "While it ran Python it was handling an exception {} of the time (± {}).",
            percent(share),
            percent(error),
        ));
    }
    lines
}

fn grid(report: &ExceptionsReport, rows: &[Row], top: usize, width: usize) -> String {
    let (total, _) = report.total();
    let shown = match rows.len() {
        // A closing row for a single other is no shorter than that one.
        number if number == top.saturating_add(1) => number,
        number => number.min(top),
    };
    let (shown, rest) = rows.split_at(shown);
    let mut last: Vec<Last> = shown.iter().map(place).collect();
    if !rest.is_empty() {
        last.push(Last {
            text: format!("({} more)", count(rest.len() as u64)),
            ..Last::default()
        });
    }
    let rest_count: f64 = rest.iter().map(|row| row.count).sum();
    let cells = |cell: &dyn Fn(&Row) -> String, of_rest: String| {
        let mut cells: Vec<String> = shown.iter().map(cell).collect();
        if !rest.is_empty() {
            cells.push(of_rest);
        }
        cells
    };
    let mut grid = Grid::new("raised in", last);
    let per_second = |number: f64| rate(report.per_second(number));
    grid.column(
        0,
        "a second",
        cells(&|row| per_second(row.count), per_second(rest_count)),
    );
    let number = |number: f64| count(number.round() as u64);
    grid.column(2, "count", cells(&|row| number(row.count), number(rest_count)));
    let error = |row: &Row| match report.estimated {
        true => format!("± {}", number(row.error)),
        false => String::new(),
    };
    grid.column(1, "", cells(&error, String::new()));
    let share = |number: f64| percent(number / total.max(1e-9));
    grid.column(3, "share", cells(&|row| share(row.count), share(rest_count)));
    grid.column(0, "exception", cells(&|row| row.key.kind.clone(), String::new()));
    grid.render(width)
}

fn place(row: &Row) -> Last {
    let seen: u64 = row.caught.iter().map(|(_, times)| times).sum();
    let mut remarks = Vec::new();
    if let Some(own) = &row.own {
        remarks.push(format!("for {}", own.name));
    }
    for (catch, times) in row.caught.iter().take(MOST_CAUGHT) {
        let share = *times as f64 / seen as f64;
        if share < LEAST_CAUGHT {
            continue;
        }
        let how_many = if share < 0.995 {
            format!(" {}", percent(share))
        } else {
            String::new()
        };
        match catch {
            Catch::Line(line) if *line == row.key.line => remarks.push(format!("caught there{how_many}")),
            Catch::Line(line) => remarks.push(format!("caught in {}{how_many}", line.name)),
            Catch::Unknown => {}
        }
    }
    Last {
        text: row.key.line.name.clone(),
        remark: remarks.join("\n"),
        ..Last::default()
    }
}

/// How many a second: whole where there are many.
fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{per_second:.1}"),
        _ => count(per_second.round() as u64),
    }
}

fn first_upper(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}
