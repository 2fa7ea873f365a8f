//! The table of processes.

use super::{
    HEAD,
    cells::{bar, change, count, percent, rough, size},
    page,
    paper::{Ink, Paper},
};
use crate::top::{
    rows::{Row, RowKey, Sort, collected, rows},
    snapshot::{Line, Process, Snapshot},
    state::State,
};

/// In percent of a CPU: what is less sure has a mark.
const MOST_ERROR: f64 = 5.0;
/// GIL: looks are fewer.
const MOST_GIL_ERROR: f64 = 12.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Pid,
    User,
    Cpu,
    Python,
    Native,
    Kernel,
    Collector,
    Gil,
    GilWait,
    Bar,
    Resident,
    Growth,
    Threads,
    Descriptors,
    Switches,
}

impl Column {
    fn width(self) -> u16 {
        match self {
            Self::Pid | Self::Resident | Self::Growth => 7,
            Self::User => 8,
            Self::Bar => 8,
            Self::Switches => 6,
            Self::Cpu | Self::Descriptors | Self::GilWait | Self::Threads | Self::Gil => 5,
            Self::Python | Self::Native | Self::Kernel | Self::Collector => 4,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Pid => "PID",
            Self::User => "USER",
            Self::Cpu => "CPU%",
            Self::Python => "py%",
            Self::Native => "nat%",
            Self::Kernel => "ker%",
            Self::Collector => "GC%",
            Self::Gil => "GIL%",
            Self::GilWait => "wait%",
            Self::Bar => "TIME",
            Self::Resident => "RSS",
            Self::Growth => "+/min",
            Self::Threads => "THR",
            Self::Descriptors => "FDS",
            Self::Switches => "SW/s",
        }
    }

    fn sort(self) -> Option<Sort> {
        match self {
            Self::Pid => Some(Sort::Pid),
            Self::Cpu => Some(Sort::Cpu),
            Self::Collector => Some(Sort::Collector),
            Self::Gil => Some(Sort::Gil),
            Self::GilWait => Some(Sort::GilWait),
            Self::Resident => Some(Sort::Memory),
            Self::Growth => Some(Sort::Growth),
            Self::Threads => Some(Sort::Threads),
            Self::Switches => Some(Sort::Switches),
            Self::User | Self::Python | Self::Native | Self::Kernel | Self::Bar | Self::Descriptors => None,
        }
    }

    fn text(self, row: &Row<'_>) -> String {
        let process: &Process = &row.process;
        let split = &process.split;
        let part = |samples: u64| match split.part(samples, process.cpu_percent) {
            Some(part) => rough(part, MOST_ERROR),
            None => "-".to_owned(),
        };
        let unless = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        match self {
            Self::Pid if row.number > 1 => format!("{} x", row.number),
            Self::Pid => process.pid.to_string(),
            Self::User => process.user.clone(),
            Self::Cpu => percent(process.cpu_percent),
            Self::Python => part(split.python),
            Self::Native => part(split.native),
            Self::Kernel => part(split.kernel),
            Self::Collector => unless(collected(process).map(|part| rough(part, MOST_ERROR))),
            Self::Gil => unless(process.gil_held.map(|held| rough(held, MOST_GIL_ERROR))),
            Self::GilWait => unless(process.gil_waited.map(percent)),
            Self::Bar => bar(&process.time, usize::from(Self::Bar.width())),
            Self::Resident => size(process.resident),
            Self::Growth => unless(process.growth.map(|(growth, _)| change(growth))),
            Self::Threads => process.threads.to_string(),
            Self::Descriptors => unless(process.descriptors.map(|number| count(number as f64))),
            Self::Switches => unless(process.switches.map(count)),
        }
    }
}

/// As many as there is room for beside a name and a line.
fn columns(width: u16, numbers: bool) -> Vec<Column> {
    use Column::{
        Bar, Collector, Cpu, Descriptors, Gil, GilWait, Growth, Kernel, Native, Pid, Python, Resident, Switches,
        Threads, User,
    };
    if numbers && width < 120 {
        return vec![
            Pid,
            Cpu,
            Python,
            Native,
            Kernel,
            Collector,
            Gil,
            GilWait,
            Threads,
            Descriptors,
            Switches,
        ];
    }
    match width {
        0..100 => vec![Pid, Cpu, Gil, Bar, Resident, Growth],
        100..120 => vec![Pid, Cpu, Gil, GilWait, Bar, Resident, Growth, Threads],
        120..160 => vec![
            Pid, Cpu, Python, Native, Kernel, Collector, Gil, GilWait, Bar, Resident, Growth, Threads,
        ],
        _ => vec![
            Pid,
            User,
            Cpu,
            Python,
            Native,
            Kernel,
            Collector,
            Gil,
            GilWait,
            Bar,
            Resident,
            Growth,
            Threads,
            Descriptors,
            Switches,
        ],
    }
}

/// Those that fit, and what there is to say of the selected one.
pub fn draw(paper: &mut Paper<'_>, snapshot: &Snapshot, state: &State) {
    let rows = rows(snapshot, state);
    let columns = columns(paper.width(), state.numbers);
    let names = names(&rows);
    head(paper, &columns, names, state);
    let room = page(paper.height());
    let selected = state.selected_row(&rows);
    let first = (selected + 1).saturating_sub(room);
    for (at, row) in rows.iter().enumerate().skip(first).take(room) {
        let y = HEAD + (at - first) as u16;
        self::row(paper, y, &columns, names, row);
        if at == selected {
            let width = paper.width();
            paper.fill(0, y, width, Ink::Selected);
        }
    }
    let said = paper.height().saturating_sub(2);
    match rows.get(selected) {
        Some(row) => paper.line(said, &about(row, rows.len()), Ink::Bold),
        None if snapshot.processes.is_empty() => {
            paper.line(
                HEAD,
                "There is no Python here. One that begins is seen at the next refresh.",
                Ink::Plain,
            );
        }
        None => paper.line(HEAD, "Nothing fits the filter: Esc removes it.", Ink::Plain),
    }
}

/// All, without a selection.
pub fn draw_all(paper: &mut Paper<'_>, snapshot: &Snapshot, state: &State) {
    let columns = columns(paper.width(), state.numbers);
    let rows = rows(snapshot, state);
    let names = names(&rows);
    head(paper, &columns, names, state);
    for (y, row) in (HEAD..paper.height()).zip(&rows) {
        self::row(paper, y, &columns, names, row);
    }
}

fn head(paper: &mut Paper<'_>, columns: &[Column], names: u16, state: &State) {
    let y = HEAD - 1;
    paper.line(y, "", Ink::Head);
    let mut x = 0;
    let mark = if state.reversed { '^' } else { 'v' };
    for column in columns {
        let is_sorted = column.sort() == Some(state.sort);
        let title = column.title();
        let text = match is_sorted {
            true if title.len() < usize::from(column.width()) => format!("{title}{mark}"),
            _ => title.to_owned(),
        };
        paper.put(x, y, column.width(), &aligned(*column, &text), Ink::Head);
        x += column.width() + 1;
    }
    let (name, line) = last_columns(paper.width(), x, names);
    let sorted = match state.sort {
        Sort::Name => format!("SERVICE{mark}"),
        _ => "SERVICE".to_owned(),
    };
    paper.put(x, y, name, &sorted, Ink::Head);
    if line > 0 {
        paper.put(x + name + 1, y, line, "LINE NOW", Ink::Head);
    }
}

fn row(paper: &mut Paper<'_>, y: u16, columns: &[Column], names: u16, row: &Row<'_>) {
    let mut x = 0;
    for column in columns {
        let text = column.text(row);
        let ink = match column {
            Column::Cpu if row.process.cpu_percent >= 50.0 => Ink::Hot,
            Column::GilWait if row.process.gil_waited.is_some_and(|percent| percent >= 50.0) => Ink::Hot,
            _ => Ink::Plain,
        };
        paper.put(x, y, column.width(), &aligned(*column, &text), ink);
        x += column.width() + 1;
    }
    let (name, line) = last_columns(paper.width(), x, names);
    paper.put(x, y, name, &called(&row.process), Ink::Plain);
    let (text, ink) = match (&row.process.refused, &row.process.line) {
        (Some(reason), _) => (format!("not seen: {reason}"), Ink::Warn),
        (None, Some(code)) => (
            said(code, line),
            if code.cause.is_some() { Ink::Dim } else { Ink::Plain },
        ),
        (None, None) => (String::new(), Ink::Plain),
    };
    paper.put(x + name + 1, y, line, &text, ink);
}

fn aligned(column: Column, text: &str) -> String {
    let width = usize::from(column.width());
    match column {
        Column::Bar | Column::User => format!("{text:<width$}"),
        _ => format!("{text:>width$}"),
    }
}

/// What is left: for the name, which tells services apart, and for the line.
fn last_columns(width: u16, x: u16, names: u16) -> (u16, u16) {
    let left = width.saturating_sub(x);
    match left {
        0..24 => (left, 0),
        _ => {
            let name = names.clamp(10, (left * 2 / 3).min(48));
            (name, left - name - 1)
        }
    }
}

/// How many columns the longest name takes.
fn names(rows: &[Row<'_>]) -> u16 {
    let longest = rows.iter().map(|row| called(&row.process).chars().count()).max();
    u16::try_from(longest.unwrap_or(0)).unwrap_or(u16::MAX)
}

/// As much of a line of code as fits: without folders, then without the file.
fn fitting(text: &str, width: u16) -> String {
    let fits = |text: &str| text.chars().count() <= usize::from(width);
    let parts = text.strip_suffix(')').and_then(|text| text.split_once(" ("));
    let Some((function, place)) = parts.filter(|_| !fits(text)) else {
        return text.to_owned();
    };
    let name = place.rsplit('/').next().unwrap_or(place);
    let short = format!("{function} ({name})");
    match place.rsplit_once(':') {
        Some((_, line)) if !fits(&short) => format!("{function}:{line}"),
        _ => short,
    }
}

fn called(process: &Process) -> String {
    match &*process.place {
        "" => process.name.clone(),
        place => format!("{} [{place}]", process.name),
    }
}

/// `page (shop/views.py:36)`, `socket: fetch (shop/db.py:7)`.
fn said(line: &Line, width: u16) -> String {
    match line.cause {
        None => fitting(&line.text, width),
        Some(cause) => {
            let cause = cause.name();
            let room = width.saturating_sub(cause.len() as u16 + 2);
            format!("{cause}: {}", fitting(&line.text, room))
        }
    }
}

/// What has no column: the whole line of the selected row.
fn about(row: &Row<'_>, all: usize) -> String {
    let process = &*row.process;
    let key = row.key(row.number > 1);
    let mut text = match key {
        RowKey::Process(pid) => format!("{pid} {}", process.name),
        RowKey::Service(..) => format!("{} x {}", row.number, process.name),
    };
    if let Some(line) = &process.line {
        let share = 100.0 * line.share;
        let of = match line.cause {
            None => "of its CPU time",
            Some(_) => "of its waiting",
        };
        text = format!("{share:.0} % {of}: {}  ({text})", said(line, u16::MAX));
    }
    if let Some(reason) = &process.refused {
        text = format!("{text}: {reason}");
    }
    if all == 0 { String::new() } else { text }
}
