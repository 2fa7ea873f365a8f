//! The report as text, in 80 columns.

use std::fmt::Write as _;

use super::{ObjectsBy, ObjectsReport, rows};
use crate::{
    humanize::{self, bytes, bytes_change, count, percent},
    objects::{
        account::{Account, Notes},
        adders::Line,
        growth::{Change, Growth},
        questions::{Large, Referrers},
        shapes::Sums,
    },
    report::layout::{Grid, Last, clauses, paragraph, span},
    report::path,
    shown,
    summary::many,
};

/// Of a text that nobody has chosen the width of.
pub const WIDTH: usize = 80;
/// Ways to objects that are shown below a table.
const WAYS: usize = 5;

/// All of it.
pub fn text(report: &ObjectsReport, width: usize) -> String {
    let mut text = head(report, width);
    if let Some(referrers) = &report.referrers {
        text.push_str(&self::referrers(referrers, report.top, width));
    } else if let Some(largest) = &report.largest {
        text.push_str(&self::largest(largest, width));
    } else if let Some((growth, length)) = &report.growth {
        text.push_str(&added(growth, width));
        let _ = write!(text, "\n{}", grown(growth, report.by, report.top, width));
        let nothing = growth.total.whole <= 0;
        if nothing {
            let _ = write!(text, "\nNothing became more in {}, all told.\n", span(*length));
        }
        text.push_str(&ways_of_growth(growth, WAYS, width));
    } else {
        let _ = write!(text, "\n{}", sums(&report.account, report.by, report.top, width));
        text.push_str(&ways(&report.account, WAYS, width));
    }
    text.push_str(&unseen(&report.account.notes, width));
    text
}

fn head(report: &ObjectsReport, width: usize) -> String {
    let total = report.account.total();
    let notes = &report.account.notes;
    let parts = [
        format!("{} ({})", shown::line(&report.command), report.pid),
        format!("CPython {}: {}", report.version, many(total.objects, "object")),
        format!(
            "of {}, {} with what they keep beside them",
            many(report.account.kinds.len() as u64, "type"),
            bytes(total.whole)
        ),
    ];
    let mut text = clauses("", &parts, width);
    let pools = &notes.pools;
    let parts = [
        format!("looked at in {}", humanize::duration(notes.took)),
        format!(
            "{} in {} of pools ({} free)",
            many(notes.walk.objects, "object"),
            bytes(notes.copied_bytes),
            bytes(pools.free_bytes)
        ),
        format!("{} elsewhere", count(notes.walk.outside)),
    ];
    text.push_str(&clauses("  ", &parts, width));
    if let Some((growth, length)) = &report.growth {
        let total = &growth.total;
        let line = format!(
            "in {}: {} objects, {}",
            span(*length),
            signed(total.objects),
            bytes_change(total.whole)
        );
        text.push_str(&clauses("  ", &[line], width));
    }
    text
}

/// `+1,234`.
pub(crate) fn signed(number: i64) -> String {
    match number {
        0 => "0".to_owned(),
        1.. => format!("+{}", count(number.unsigned_abs())),
        _ => format!("-{}", count(number.unsigned_abs())),
    }
}

fn last(text: &str) -> Last {
    Last {
        text: shown::line(text),
        ..Last::default()
    }
}

fn sums(account: &Account, by: ObjectsBy, top: usize, width: usize) -> String {
    let rows = rows::sums(account, by);
    let total = account.total();
    let (shown, rest) = rows.split_at(top.min(rows.len()));
    let mut left = Sums::default();
    rest.iter().for_each(|(_, sums)| left.add(sums));
    let mut cells: Vec<(String, Sums)> = shown.to_vec();
    if !rest.is_empty() {
        cells.push((format!("({} more)", count(rest.len() as u64)), left));
    }
    cells.push(("total".to_owned(), total));
    let mut grid = Grid::new(title(by), cells.iter().map(|(name, _)| last(name)).collect());
    let column = |cell: &dyn Fn(&Sums) -> String| cells.iter().map(|(_, sums)| cell(sums)).collect();
    grid.column(0, "objects", column(&|sums| count(sums.objects)));
    grid.column(2, "bytes", column(&|sums| bytes(sums.own)));
    grid.column(0, "with buffers", column(&|sums| bytes(sums.whole)));
    grid.column(
        1,
        "share",
        column(&|sums| percent(sums.whole as f64 / total.whole as f64)),
    );
    grid.render(width)
}

fn title(by: ObjectsBy) -> &'static str {
    match by {
        ObjectsBy::Type => "type",
        ObjectsBy::Module => "held by module",
        ObjectsBy::Holder => "held by",
    }
}

/// What became more.
pub(crate) fn grown(growth: &Growth, by: ObjectsBy, top: usize, width: usize) -> String {
    let rows = rows::changes(growth, by);
    let (shown, rest) = rows.split_at(top.min(rows.len()));
    let mut left = Change::default();
    rest.iter().for_each(|(_, change)| left.add(change));
    let mut cells: Vec<(String, Change)> = shown.to_vec();
    if !rest.is_empty() {
        cells.push((format!("({} more)", count(rest.len() as u64)), left));
    }
    cells.push(("total".to_owned(), growth.total));
    let mut grid = Grid::new(title(by), cells.iter().map(|(name, _)| last(name)).collect());
    let column = |cell: &dyn Fn(&Change) -> String| cells.iter().map(|(_, change)| cell(change)).collect();
    grid.column(0, "objects", column(&|change| signed(change.objects)));
    grid.column(0, "with buffers", column(&|change| bytes_change(change.whole)));
    grid.column(2, "objects now", column(&|change| count(change.now.objects)));
    grid.column(1, "now", column(&|change| bytes(change.now.whole)));
    grid.render(width)
}

/// The ways to what there is most of.
fn ways(account: &Account, most: usize, width: usize) -> String {
    let mut holders: Vec<_> = account.holders.iter().collect();
    holders.sort_by(|a, b| (b.sums.whole, &a.path).cmp(&(a.sums.whole, &b.path)));
    holders.truncate(most);
    if holders.is_empty() {
        return String::new();
    }
    let lasts = holders.iter().map(|holder| last(&holder.path.text())).collect();
    let mut grid = Grid::new("what holds most, and the way from there", lasts);
    let column = |cell: &dyn Fn(&Sums) -> String| holders.iter().map(|holder| cell(&holder.sums)).collect();
    grid.column(0, "objects", column(&|sums| count(sums.objects)));
    grid.column(0, "with buffers", column(&|sums| bytes(sums.whole)));
    format!("\n{}", grid.render(width))
}

/// The ways to what became more.
pub(crate) fn ways_of_growth(growth: &Growth, most: usize, width: usize) -> String {
    let mut held = rows::held(growth);
    held.truncate(most);
    if held.is_empty() {
        return String::new();
    }
    let lasts = held.iter().map(|(path, _)| last(&path.text())).collect();
    let mut grid = Grid::new("who holds what became more, and the way from there", lasts);
    let column = |cell: &dyn Fn(&Change) -> String| held.iter().map(|(_, change)| cell(change)).collect();
    grid.column(0, "objects", column(&|change| signed(change.objects)));
    grid.column(0, "with buffers", column(&|change| bytes_change(change.whole)));
    format!("\n{}", grid.render(width))
}

/// Lines of one container, and containers, that are shown.
const LINES: usize = 3;
const CONTAINERS: usize = 4;

/// The lines that add to what became more, below an empty line.
pub(crate) fn added(growth: &Growth, width: usize) -> String {
    let shown = &growth.added[..growth.added.len().min(CONTAINERS)];
    if shown.is_empty() {
        return String::new();
    }
    let name = |line: &Line| {
        shown::line(&format!(
            "{} ({}:{})",
            line.function,
            path::short(&line.file),
            line.line
        ))
    };
    let lasts = shown.iter().map(|added| {
        let (first, others) = added.lines.split_first()?;
        let mut below: Vec<String> = others
            .iter()
            .take(LINES - 1)
            .map(|line| format!("or {}", name(line)))
            .collect();
        if others.len() >= LINES {
            below.push(format!("or one of {} more", others.len() + 1 - LINES));
        }
        Some(Last {
            text: name(first),
            addition: format!("to {}", shown::line(&added.container.text())),
            remark: below.join("\n"),
            ..Last::default()
        })
    });
    let mut grid = Grid::new(
        "line that adds to what became more",
        lasts.map(Option::unwrap_or_default).collect(),
    );
    let column = |cell: &dyn Fn(&Change) -> String| shown.iter().map(|added| cell(&added.change)).collect();
    grid.column(0, "objects", column(&|change| signed(change.objects)));
    grid.column(0, "with buffers", column(&|change| bytes_change(change.whole)));
    format!("\n{}", grid.render(width))
}

fn referrers(referrers: &Referrers, top: usize, width: usize) -> String {
    let mut text = format!(
        "\n{}: {}, {} of their own\n\n",
        shown::line(&referrers.name),
        many(referrers.instances, "object"),
        bytes(referrers.own)
    );
    let (first, rest) = referrers.direct.split_at(top.min(referrers.direct.len()));
    let mut rows: Vec<(String, u64)> = first
        .iter()
        .map(|(path, label, count)| (format!("{}{label}", path.text()), *count))
        .collect();
    if !rest.is_empty() {
        let left = rest.iter().map(|(_, _, count)| count).sum();
        rows.push((format!("({} more)", count(rest.len() as u64)), left));
    }
    let mut grid = Grid::new("from", rows.iter().map(|(name, _)| last(name)).collect());
    grid.column(0, "references", rows.iter().map(|(_, number)| count(*number)).collect());
    text.push_str(&grid.render(width));
    if !referrers.some.is_empty() {
        text.push_str("\nSome of them, and what leads to each:\n");
        for place in &referrers.some {
            text.push_str(&format!("  {}\n", shown::line(place)));
        }
    }
    text
}

fn largest(largest: &[Large], width: usize) -> String {
    let lasts = largest.iter().map(|large| last(&large.place)).collect();
    let mut grid = Grid::new("what leads to it", lasts);
    grid.column(
        0,
        "with buffers",
        largest.iter().map(|large| bytes(large.whole)).collect(),
    );
    grid.column(
        0,
        "type",
        largest.iter().map(|large| shown::line(&large.kind)).collect(),
    );
    format!("\n{}", grid.render(width))
}

/// What could not be seen.
fn unseen(notes: &Notes, width: usize) -> String {
    let mut lines = Vec::new();
    let pools = &notes.pools;
    if pools.torn > 0 {
        lines.push(format!(
            "{} never held still while they were read: what is in them is not counted.",
            many(pools.torn, "pool")
        ));
    }
    if pools.unreadable > 0 {
        lines.push(format!(
            "{} could not be read: {}.",
            many(pools.unreadable, "pool"),
            match notes.swapped_pages {
                0 => "the process was giving them back",
                _ => "they are swapped out, or the process was giving them back",
            }
        ));
    }
    if notes.swapped_pages > 0 {
        lines.push(format!(
            "{} swapped out, and stayed there: what they hold is not counted.",
            match notes.swapped_pages {
                1 => "1 page that was wanted is".to_owned(),
                pages => format!("{} that were wanted are", many(pages, "page")),
            }
        ));
    }
    if notes.met_collection {
        lines.push("A collection was under way all the time: what it was about to free may be counted.".to_owned());
    }
    if notes.walk.is_cut {
        lines.push(format!(
            "The time was up: what {} refer to, at least, was not looked at (--max-time).",
            many(notes.walk.left_out, "object")
        ));
    }
    if notes.is_spent {
        lines.push("The process says that it has more than can be: it was not read to the end.".to_owned());
    }
    lines.push(format!(
        "Not seen: what C code keeps for itself ({} in {} of small blocks; numpy's arrays), and objects above 512 bytes that \
         only such code refers to.",
        bytes(notes.walk.other_bytes),
        count(notes.walk.other_blocks),
    ));
    let lines: Vec<String> = lines.iter().map(|line| paragraph(line, width)).collect();
    format!("\n{}", lines.concat())
}
