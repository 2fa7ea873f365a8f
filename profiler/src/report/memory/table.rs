//! The table, for somebody with ten seconds: what grew, whose it is, and how much is not shown.

use std::cmp::Reverse;

use super::{
    MemoryReport, ProcessMemory, Shown, Source, error,
    group::{By, Groups, Ids, Row, Sums, group},
    layout::{Grid, Last, ages, clauses, paragraph, span},
    merged::{self, Line},
    victim,
};
use crate::humanize::{bytes, bytes_change, count, percent};

/// How many rows are shown where the user does not say.
pub const TOP: usize = 20;
/// How wide text is where there is no terminal to ask.
pub const WIDTH: usize = 120;

/// All rows, those with the most bytes first.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub by: By,
    pub shown: Shown,
    pub rows: Vec<Row>,
    pub total: Sums,
    /// For each sample of the profile its row.
    row_of: Vec<usize>,
}

impl Table {
    pub fn new(report: &MemoryReport, by: By) -> Self {
        let Groups { rows, row_of } = group(report, by, Ids::Kept);
        let mut total = Sums::default();
        for row in &rows {
            total.add(&row.sums);
        }
        let mut table = Self {
            by,
            shown: report.shown,
            rows: Vec::new(),
            total,
            row_of,
        };
        table.sort(rows);
        table
    }

    /// By what is shown, then by what came, then by name: equal inputs give equal tables.
    fn sort(&mut self, rows: Vec<Row>) {
        let mut rows: Vec<_> = rows.into_iter().enumerate().collect();
        rows.sort_by(|(_, a), (_, b)| {
            let key = |row: &Row| Reverse((self.bytes(&row.sums), row.sums.alloc_bytes, row.sums.inuse_bytes));
            key(a).cmp(&key(b)).then_with(|| a.place.cmp(&b.place))
        });
        let mut ranks = vec![0; rows.len()];
        for (rank, (before, _)) in rows.iter().enumerate() {
            ranks[*before] = rank;
        }
        for row in &mut self.row_of {
            *row = ranks[*row];
        }
        self.rows = rows.into_iter().map(|(_, row)| row).collect();
    }

    /// The row that a sample of the profile is in.
    pub fn row_of(&self, sample: usize) -> Option<usize> {
        self.row_of.get(sample).copied()
    }

    /// The bytes that the table is about.
    pub fn bytes(&self, sums: &Sums) -> u64 {
        match self.shown {
            Shown::Allocated => sums.alloc_bytes,
            _ => sums.inuse_bytes,
        }
    }

    pub fn objects(&self, sums: &Sums) -> u64 {
        match self.shown {
            Shown::Allocated => sums.alloc_objects,
            _ => sums.inuse_objects,
        }
    }

    /// How far off [`Self::bytes`] may be.
    pub fn error(&self, sums: &Sums) -> u64 {
        match self.shown {
            Shown::Allocated => sums.alloc_error(),
            _ => sums.inuse_error(),
        }
    }

    /// Its part of all that the table is about; 0 of nothing.
    pub fn share(&self, sums: &Sums) -> f64 {
        match self.bytes(&self.total) {
            0 => 0.0,
            total => self.bytes(sums) as f64 / total as f64,
        }
    }

    /// How many of the lines `top` shows: none that holds nothing.
    pub(super) fn visible(&self, lines: &[Line], top: usize) -> usize {
        let some = lines.partition_point(|line| self.bytes(&line.sums) > 0);
        // A closing row for a single other is no shorter than that one.
        if some == top.saturating_add(1) && lines.len() == some {
            some
        } else {
            some.min(top)
        }
    }

    /// Whether objects of others may be in most of it.
    fn is_uncertain(&self, sums: &Sums) -> bool {
        let asked = !matches!(self.shown, Shown::Allocated | Shown::Temporary) && self.by != By::Process;
        asked && sums.uncertain_bytes > sums.inuse_bytes / 10
    }
}

/// The processes, an empty line, and the table.
pub fn text(report: &MemoryReport, table: &Table, top: usize, width: usize) -> String {
    let mut text = victim::text(report, width);
    text.push_str(&processes(report, top, width));
    if let (Some(certain), [_]) = (certain_share(report, &table.total), &report.processes[..]) {
        text.push_str(&format!(
            "  for {certain:.0} % of what is new it is certain whose objects are in it\n"
        ));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    match nothing(report, &table.total) {
        Some(words) => {
            text.push_str(&words);
            text.push('\n');
        }
        None => {
            text.push_str(&rows(report, table, top, width));
            text.push_str(&legend(report, table, width));
        }
    }
    text
}

/// For how much of what is in use it is certain whose it is, in per cent; none where that is no question.
fn certain_share(report: &MemoryReport, total: &Sums) -> Option<f64> {
    let asked = report.source == Source::Pages && total.inuse_bytes > 0;
    let asked = asked && !matches!(report.shown, Shown::Allocated | Shown::Temporary);
    // Rounded down: what is not certain is never rounded away.
    asked.then(|| (100.0 * (1.0 - total.uncertain_bytes as f64 / total.inuse_bytes as f64)).floor())
}

/// What a mark means, and what to do about it.
fn legend(report: &MemoryReport, table: &Table, width: usize) -> String {
    if !table.rows.iter().any(|row| table.is_uncertain(&row.sums)) {
        return String::new();
    }
    let target = match &report.processes[..] {
        [process] if !process.exited => format!("-p {}", process.pid),
        _ => "-p PID".to_owned(),
    };
    let meaning = "? The line got this memory from the system first. Its objects may be gone, and others' be in it: who \
                   keeps them may be a line further down, or in no row.";
    let holders = match report.holders_told {
        true => String::new(),
        false => paragraph(
            &format!("Who holds what grew: profiler objects {target} --growth 60s"),
            width,
        ),
    };
    let remedy = format!(
        "Block by block, at several times the run time: profiler memory {target} --exact --max-overhead 10 (dicts, \
         lists, tuples and floats that CPython uses again stay with their first line there, too)"
    );
    format!("\n{}{holders}{}", paragraph(meaning, width), paragraph(&remedy, width))
}

/// What to say instead of a table without rows.
fn nothing(report: &MemoryReport, total: &Sums) -> Option<String> {
    let length = span(report.length);
    let came = bytes(total.alloc_bytes);
    match report.shown {
        Shown::Allocated if total.alloc_bytes == 0 => Some(super::nothing_came(report)),
        Shown::Allocated => None,
        _ if total.inuse_bytes > 0 => None,
        _ if total.alloc_bytes == 0 => Some(super::nothing_came(report)),
        Shown::Live => Some(format!(
            "Nothing stayed: all of the {came} that came in {length} is gone again."
        )),
        Shown::Leaks { older_than } => Some(format!(
            "No leak seen: of the {came} that came in {length}, nothing that is older than {} is still there.",
            span(older_than)
        )),
        Shown::Peak => Some("Nothing that came in the recording was there at the peak.".to_owned()),
        Shown::Temporary => Some(format!(
            "Nothing temporary: all of the {came} that came in {length} is still there."
        )),
    }
}

fn rows(report: &MemoryReport, table: &Table, top: usize, width: usize) -> String {
    let lines = merged::lines(table);
    let visible = table.visible(&lines, top);
    let (shown, others) = lines.split_at(visible);
    let mut sums: Vec<&Sums> = shown.iter().map(|line| &line.sums).collect();
    let mut last: Vec<_> = shown
        .iter()
        .map(|line| Last {
            text: line.name.clone(),
            addition: line.addition(table, width),
            ..Last::default()
        })
        .collect();
    let mut rest = Sums::default();
    others.iter().for_each(|line| rest.add(&line.sums));
    let others = others.len();
    if others > 0 {
        sums.push(&rest);
        last.push(closing(others));
    }
    if lines.len() > 1 {
        sums.push(&table.total);
        last.push(Last {
            text: "total".to_owned(),
            ..Last::default()
        });
    }

    let cells = |cell: &dyn Fn(&Sums) -> String| sums.iter().map(|sums| cell(sums)).collect::<Vec<_>>();
    let errors = cells(&|sums| match table.error(sums) {
        0 => String::new(),
        error => format!("± {}", bytes(error)),
    });
    let is_estimate = |sums: &Sums| sums.inuse_bytes > 0 && sums.estimated_bytes >= sums.inuse_bytes.div_ceil(2);
    let objects = if report.exact { "blocks" } else { "pages" };

    let mut grid = Grid::new(heading(table.by), last);
    let title = match table.shown {
        Shown::Allocated => "allocated",
        shown => shown.in_use(),
    };
    grid.column(
        0,
        title,
        cells(&|sums| {
            let mark = if is_estimate(sums) { "~" } else { "" };
            format!("{mark}{}", bytes(table.bytes(sums)))
        }),
    );
    grid.column(2, "", errors);
    grid.column(1, "share", cells(&|sums| percent(table.share(sums))));
    // Where all else goes for want of room, the mark stays.
    let mark = |line: &Line| if table.is_uncertain(&line.sums) { "?" } else { "" };
    grid.column(0, "", shown.iter().map(|line| mark(line).to_owned()).collect());
    match table.shown {
        Shown::Allocated => grid.column(3, "live", cells(&|sums| bytes(sums.inuse_bytes))),
        _ => grid.column(3, "allocated", cells(&|sums| bytes(sums.alloc_bytes))),
    }
    grid.column(4, objects, cells(&|sums| count(table.objects(sums))));
    let age = |sums: &Sums| match (sums.youngest, sums.oldest) {
        (Some(youngest), Some(oldest)) => ages(youngest, oldest),
        _ => String::new(),
    };
    grid.column(5, "age", cells(&age));
    grid.render(width)
}

fn heading(by: By) -> &'static str {
    match by {
        By::Line => "where",
        _ => by.name(),
    }
}

/// The last column of the row that stands for all others.
pub(super) fn closing(others: usize) -> Last {
    Last {
        text: match others {
            1 => "(1 more)".to_owned(),
            _ => format!("({} more)", count(others as u64)),
        },
        ..Last::default()
    }
}

/// What became of the processes: a sentence on one, a ranking of several.
pub fn processes(report: &MemoryReport, top: usize, width: usize) -> String {
    match &report.processes[..] {
        [] => String::new(),
        [process] => one_process(report, process, width),
        _ => ranking(report, top, width),
    }
}

fn one_process(report: &MemoryReport, process: &ProcessMemory, width: usize) -> String {
    let ProcessMemory { before, after, .. } = process;
    let part = |name: &str, before: u64, after: u64| {
        format!(
            "{name} {} -> {} ({})",
            bytes(before),
            bytes(after),
            bytes_change(super::change(before, after))
        )
    };
    if process.exited && after.rss == 0 {
        let parts = [
            format!("{}: it ended before its RSS could be read", name(process)),
            explained(process, report.shown),
        ];
        return clauses("", &parts[..if report.exact { 1 } else { 2 }], width);
    }
    let mut rss = vec![format!(
        "{}: RSS {} -> {} ({} in {})",
        name(process),
        bytes(before.rss),
        bytes(after.rss),
        bytes_change(process.growth()),
        span(report.length),
    )];
    if !report.exact && (process.growth() != 0 || process.explained != 0) {
        rss.push(explained(process, report.shown));
    }
    let parts = [
        part("anonymous", before.anonymous, after.anonymous),
        part("file-backed", before.file, after.file),
    ];
    let mut parts = Vec::from(parts);
    if before.shared.max(after.shared) > 0 {
        parts.push(part("shared", before.shared, after.shared));
    }
    // Copies after a fork: RSS stays as it is.
    let private = super::change(before.private, after.private);
    if before.private > 0 && after.private > 0 && private.saturating_sub(process.growth()) >= 1 << 20 {
        parts.push(part("private", before.private, after.private));
    }
    clauses("", &rss, width) + &clauses("  ", &parts, width)
}

fn explained(process: &ProcessMemory, shown: Shown) -> String {
    let error = error(process.explained_variance);
    if is_unread_since(process) {
        let grown = bytes_change(process.explained);
        let remedy = match (process.explained < process.growth(), shown) {
            (true, Shown::Peak) => "; the table is of its peak",
            (true, _) => "; --peak shows what was there before",
            (false, _) => "",
        };
        return format!("{grown} accounted for at its end (RSS was last read before it{remedy})");
    }
    match process.explained_share() {
        // Against the trend, a ratio is a riddle.
        Some(share) if is_sensible(share) => match error {
            0 => format!("{:.0} % accounted for", share * 100.0),
            _ => {
                let error = error as f64 / process.growth().unsigned_abs() as f64;
                format!(
                    "{:.0} % accounted for (± {:.0} %)",
                    share * 100.0,
                    (error * 100.0).max(1.0)
                )
            }
        },
        // More came than it grew by.
        Some(share) if share > 0.0 && process.growth() > 0 => {
            let more = process.explained.saturating_sub(process.growth());
            format!(
                "{} accounted for: {} more than RSS grew by, as older memory went",
                bytes_change(process.explained),
                bytes(more.unsigned_abs())
            )
        }
        _ => match error {
            0 => format!("{} accounted for", bytes_change(process.explained)),
            _ => format!("{} accounted for (± {})", bytes_change(process.explained), bytes(error)),
        },
    }
}

/// Whether a share of the growth says something: of a process that gave back older memory while new came, it would be
/// `305 %`.
fn is_sensible(share: f64) -> bool {
    (0.0..=1.1).contains(&share)
}

/// It ended with more, or less, than when its RSS was last read, which can be a tenth of a second before: the account is
/// of its end, and a ratio of the two would be `317 %` of a program that had just begun, or `46 %` of one whose
/// interpreter has freed its modules on the way out.
fn is_unread_since(process: &ProcessMemory) -> bool {
    process.exited
        && process
            .explained_share()
            .is_some_and(|share| !(0.95..=1.05).contains(&share))
}

/// `gunicorn shop.wsgi (4242)`, and what happened to it.
fn name(process: &ProcessMemory) -> String {
    let name = super::group::clean(&format!("{} ({})", process.command, process.pid));
    match (process.started, process.exited) {
        (false, false) => name,
        (true, false) => format!("{name} (started)"),
        (false, true) => format!("{name} (ended)"),
        (true, true) => format!("{name} (started, ended)"),
    }
}

/// Processes by growth. One that has ended holds nothing any more, so it comes last, by what it had held.
fn ranking(report: &MemoryReport, top: usize, width: usize) -> String {
    /// What a process of which RSS has not changed must have got to be a row.
    const WORTH_A_ROW: u64 = 1 << 20;
    // Threads of the kernel, and who did not grow: of a machine with hundreds they are most.
    let has_grown = |process: &&ProcessMemory| process.growth() != 0 || process.explained.unsigned_abs() >= WORTH_A_ROW;
    let mut ranked: Vec<&ProcessMemory> = report.processes.iter().filter(has_grown).collect();
    let idle = report.processes.iter().filter(|process| !has_grown(process));
    let idle = idle.filter(|process| process.after.rss > 0).count();
    if ranked.is_empty() {
        return format!("{}: none grew.\n", crate::summary::many(idle as u64, "process"));
    }
    ranked.sort_by_key(|process| (process.exited, Reverse(process.growth()), process.pid));
    let visible = if ranked.len() == top.saturating_add(1) {
        ranked.len()
    } else {
        ranked.len().min(top)
    };
    let (shown, others) = ranked.split_at(visible);

    let mut last: Vec<_> = shown
        .iter()
        .map(|process| Last {
            text: name(process),
            ..Last::default()
        })
        .collect();
    // What ended holds nothing any more: with it the sum would be many times what the machine has.
    let alive = others.iter().filter(|process| !process.exited).count();
    if !others.is_empty() {
        last.push(match (alive, others.len() - alive) {
            (_, 0) => closing(others.len()),
            (0, ended) => Last {
                text: format!("({} more that ended)", count(ended as u64)),
                ..Last::default()
            },
            (alive, ended) => Last {
                text: format!("({} more, and {} that ended)", count(alive as u64), count(ended as u64)),
                ..Last::default()
            },
        });
    }
    let sum = |of: &dyn Fn(&ProcessMemory) -> i64| {
        let alive = others.iter().filter(|process| !process.exited);
        alive.map(|process| of(process)).fold(0, i64::saturating_add)
    };
    let column = |of: &dyn Fn(&ProcessMemory) -> i64, text: &dyn Fn(i64) -> String| {
        let mut cells: Vec<_> = shown.iter().map(|process| text(of(process))).collect();
        if !others.is_empty() {
            cells.push(if alive > 0 { text(sum(of)) } else { String::new() });
        }
        cells
    };
    let mut grid = Grid::new("process", last);
    grid.column(
        0,
        format!("RSS in {}", span(report.length)),
        column(&ProcessMemory::growth, &bytes_change),
    );
    let size = |size: i64| bytes(size.unsigned_abs());
    grid.column(
        1,
        "RSS now",
        column(&|process| i64::try_from(process.after.rss).unwrap_or(i64::MAX), &size),
    );
    let mut shares: Vec<_> = shown
        .iter()
        .map(|process| match process.explained_share() {
            Some(share) if is_sensible(share) && !is_unread_since(process) => format!("{:.0} %", share * 100.0),
            Some(share) if share > 0.0 && process.growth() > 0 && !is_unread_since(process) => "> 100 %".to_owned(),
            _ => "-".to_owned(),
        })
        .collect();
    shares.resize(shares.len() + usize::from(!others.is_empty()), String::new());
    grid.column(2, "accounted", shares);
    let part = |of: fn(&super::Resident) -> u64| {
        move |process: &ProcessMemory| super::change(of(&process.before), of(&process.after))
    };
    grid.column(
        3,
        "anonymous",
        column(&part(|resident| resident.anonymous), &bytes_change),
    );
    grid.column(4, "file-backed", column(&part(|resident| resident.file), &bytes_change));
    let any_shared = shown
        .iter()
        .any(|process| process.before.shared.max(process.after.shared) > 0);
    if any_shared {
        grid.column(5, "shared", column(&part(|resident| resident.shared), &bytes_change));
    }
    let mut text = grid.render(width);
    if idle > 0 {
        text.push_str(&format!(
            "({} did not grow)\n",
            crate::summary::many(idle as u64, "other process")
        ));
    }
    text
}
