//! The table that cProfile's users know.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{
    CallsReport, Count, Function, Time, blocks,
    merge::{merged, reordered, sum},
    summary::{heading, notes},
};
pub(super) use crate::shown::line as clean;
use crate::{
    humanize::{count, duration},
    report::{
        layout::{Grid, Last, paragraphs},
        path,
    },
};

/// How many functions are shown where the user does not say.
pub const TOP: usize = 20;
/// How wide text is where there is no terminal to ask.
pub const WIDTH: usize = 120;

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Functions that are called most often.
    #[default]
    #[value(name = "ncalls", alias = "calls")]
    NCalls,
    /// Those that take the most time themselves.
    #[value(name = "tottime", alias = "time")]
    TotTime,
    /// Those that take the most time together with what they call.
    #[value(name = "cumtime", alias = "cumulative")]
    CumTime,
    /// Those whose single call takes the most time, with what it calls.
    #[value(name = "percall")]
    PerCall,
}

impl Sort {
    pub fn name(self) -> &'static str {
        match self {
            Self::NCalls => "ncalls",
            Self::TotTime => "tottime",
            Self::CumTime => "cumtime",
            Self::PerCall => "percall",
        }
    }

    /// Times, and whole numbers as such: as floats, large ones would be equal.
    fn key(self, report: &CallsReport, function: &Function) -> (f64, u64) {
        match self {
            Self::NCalls => (0.0, function.all_calls()),
            Self::TotTime => (0.0, function.own_samples),
            Self::CumTime => (report.cumtime(function).seconds, 0),
            Self::PerCall => (report.percall(function).unwrap_or(-1.0), 0),
        }
    }
}

/// All functions, each once, in the order in which they are shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub sort: Sort,
    /// Callers are indices into these. Those that are only known as callers come last.
    pub functions: Vec<Function>,
    /// How many of them there is something to show of.
    pub rows: usize,
    /// How many were called.
    pub called: usize,
    pub total: Sums,
}

/// What can be added up. `cumtime` cannot: the time of a function is in its callers', too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sums {
    /// Its error is the most that it can be.
    pub calls: Count,
    pub divided: f64,
    pub own_samples: u64,
}

impl Sums {
    fn of<'a>(functions: impl IntoIterator<Item = &'a Function>) -> Self {
        let nothing = Self {
            calls: Count {
                primitive: Some(0),
                exact: true,
                ..Count::default()
            },
            divided: 0.0,
            own_samples: 0,
        };
        functions.into_iter().fold(nothing, |sums, function| Self {
            calls: function.calls.map_or(sums.calls, |count| sum(sums.calls, count)),
            divided: sums.divided + function.divided,
            own_samples: sums.own_samples.saturating_add(function.own_samples),
        })
    }
}

impl Table {
    pub fn new(report: &CallsReport, sort: Sort) -> Self {
        let functions = merged(&report.functions);
        let keys: Vec<_> = functions.iter().map(|function| sort.key(report, function)).collect();
        let mut order: Vec<_> = (0..functions.len()).collect();
        // Stable: what is equal in all of this stays in the order of names.
        order.sort_by(|a, b| {
            let rest = |index: usize| (functions[index].all_calls(), functions[index].cumulative_samples);
            is_row(&functions[*b])
                .cmp(&is_row(&functions[*a]))
                .then_with(|| keys[*b].0.total_cmp(&keys[*a].0))
                .then_with(|| keys[*b].1.cmp(&keys[*a].1))
                .then_with(|| rest(*b).cmp(&rest(*a)))
        });
        let functions = reordered(functions, &order);
        let rows = functions.partition_point(is_row);
        Self {
            sort,
            rows,
            called: functions.iter().filter(|function| function.all_calls() > 0).count(),
            total: Sums::of(&functions[..rows]),
            functions,
        }
    }

    /// How many rows `top` shows.
    pub(super) fn visible(&self, top: usize) -> usize {
        // A closing row for a single other is no shorter than that one.
        if self.rows == top.saturating_add(1) {
            self.rows
        } else {
            self.rows.min(top)
        }
    }

    /// What the first `visible` rows leave: with them it adds up to [`Self::total`].
    pub fn rest(&self, visible: usize) -> Sums {
        Sums::of(self.functions[..self.rows].iter().skip(visible))
    }
}

/// Somebody counted, and there is something to tell.
fn is_row(function: &Function) -> bool {
    let Function {
        calls,
        own_samples,
        cumulative_samples,
        timed,
        ..
    } = function;
    calls.is_some_and(|count| count.all > 0 || *own_samples > 0 || *cumulative_samples > 0 || timed.is_some())
}

/// What the recording is, an empty line, the table and what to make of it; then a block for each function of those that
/// the user chose.
pub fn text(report: &CallsReport, table: &Table, top: usize, width: usize) -> String {
    let mut text = paragraphs(&heading(report, table), width);
    if table.rows == 0 {
        return text;
    }
    text.push('\n');
    text.push_str(&rows(report, table, top, width));
    let notes = notes(report, &table.functions[..table.visible(top)]);
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&paragraphs(&notes, width));
    }
    if report.chosen {
        for function in &table.functions[..table.visible(top)] {
            text.push('\n');
            text.push_str(&blocks::block(report, table, function, width));
        }
    }
    text
}

fn rows(report: &CallsReport, table: &Table, top: usize, width: usize) -> String {
    let visible = table.visible(top);
    let shown = &table.functions[..visible];
    let others = table.rows - visible;
    let rest = (others > 0).then(|| table.rest(visible));

    let mut last = places(shown);
    if others > 0 {
        last.push(Last {
            text: match others {
                1 => "(1 more)".to_owned(),
                _ => format!("({} more)", count(others as u64)),
            },
            ..Last::default()
        });
    }
    let cells = |cell: &dyn Fn(&Function) -> String, of_rest: &dyn Fn(&Sums) -> String| {
        shown
            .iter()
            .map(cell)
            .chain(rest.as_ref().map(of_rest))
            .collect::<Vec<_>>()
    };
    let blank = |_: &Sums| String::new();

    let mut grid = Grid::new("filename:lineno(function)", last);
    grid.column(
        0,
        "ncalls",
        cells(&|function| function.calls.map(ncalls).unwrap_or_default(), &|rest| {
            // As sums of the others' they would only be a riddle.
            ncalls(Count {
                primitive: None,
                ..rest.calls
            })
        }),
    );
    let error = |function: &Function| match function.calls {
        Some(Count { error: 1.., .. }) => format!("± {}", count(function.calls.map_or(0, |count| count.error))),
        _ => String::new(),
    };
    grid.column(3, "", cells(&error, &blank));
    let per_second = |count: Count| format!("{}{}", mark(count.exact), rate(report.per_second(count.all)));
    grid.column(
        6,
        "calls/s",
        cells(
            &|function| function.calls.map(per_second).unwrap_or_default(),
            &|rest| per_second(rest.calls),
        ),
    );
    if let Some(per) = &report.per {
        let each = |divided: f64| rate(per.each(divided));
        grid.column(
            2,
            "each",
            cells(
                &|function| function.calls.map(|_| each(function.divided)).unwrap_or_default(),
                &|rest| each(rest.divided),
            ),
        );
    }
    let own = |samples: u64| by_samples(samples, report.estimate(samples));
    grid.column(
        1,
        "tottime",
        cells(
            &|function| by_samples(function.own_samples, report.tottime(function)),
            &|rest| own(rest.own_samples),
        ),
    );
    let per_call = |time: Option<f64>, measured: bool| match time {
        Some(time) => format!("{}{}", mark(measured), duration(to_duration(time))),
        None => "-".to_owned(),
    };
    grid.column(
        5,
        "percall",
        cells(&|function| per_call(report.own_percall(function), false), &blank),
    );
    let cumulative = |function: &Function| match report.cumtime(function) {
        Time {
            seconds: time,
            error: None,
        } => seconds(time),
        time if function.told_by_times().is_some() => format!("~{}", seconds(time.seconds)),
        time => by_samples(function.cumulative_samples, time),
    };
    grid.column(2, "cumtime", cells(&cumulative, &blank));
    // The mean of timed calls is measured, also where the sum is scaled up.
    let measured = |function: &Function| function.in_reach().is_some();
    grid.column(
        4,
        "percall",
        cells(
            &|function| per_call(report.percall(function), measured(function)),
            &blank,
        ),
    );
    grid.render(width)
}

/// As cProfile has it: `3/1` are three calls, one of them not from the function itself.
fn ncalls(calls: Count) -> String {
    let mark = mark_of(&calls);
    match calls.primitive {
        Some(primitive) if primitive != calls.all => format!("{mark}{}/{}", count(calls.all), count(primitive)),
        _ => format!("{mark}{}", count(calls.all)),
    }
}

/// What is before a count of calls.
pub(super) fn mark_of(calls: &Count) -> &'static str {
    if calls.at_least { "≥" } else { mark(calls.exact) }
}

pub(super) fn mark(exact: bool) -> &'static str {
    if exact { "" } else { "~" }
}

fn by_samples(samples: u64, time: Time) -> String {
    match samples {
        0 => "-".to_owned(),
        _ => format!("~{}", seconds(time.seconds)),
    }
}

/// `shop/models.py:12(Order.total)`.
pub(super) fn place(function: &Function) -> String {
    place_in(function, &path::short(&function.file))
}

/// The places of functions that are shown together. Those of several interpreters can have the same last parts, and the
/// same line: they have the whole path, whose middle goes first.
fn places(functions: &[Function]) -> Vec<Last> {
    let places: Vec<_> = functions.iter().map(place).collect();
    let mut times: FxHashMap<&str, u32> = FxHashMap::default();
    for place in &places {
        *times.entry(place).or_default() += 1;
    }
    let of = |(place, function): (&String, &Function)| match times.get(place.as_str()) {
        Some(2..) => Last {
            text: place_in(function, &function.file),
            ..Last::default()
        },
        _ => Last {
            text: place.clone(),
            shorter: Some(place_in(function, last_parts(&function.file, 2))),
            ..Last::default()
        },
    };
    places.iter().zip(functions).map(of).collect()
}

pub(super) fn last_parts(file: &str, parts: usize) -> &str {
    match file.rmatch_indices('/').nth(parts - 1) {
        // `<frozen importlib._bootstrap>`, `<doctest a/b/c[0]>`: names, not paths.
        Some((slash, _)) if !file.starts_with('<') => &file[slash + 1..],
        _ => file,
    }
}

fn place_in(function: &Function, file: &str) -> String {
    let Function { first_line, name, .. } = function;
    let or = |text: &str| {
        if text.is_empty() {
            "<unknown>".to_owned()
        } else {
            clean(text)
        }
    };
    match first_line {
        0 => format!("{}({})", or(file), or(name)),
        _ => format!("{}:{first_line}({})", or(file), or(name)),
    }
}

pub(super) fn count_of(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{} {what}s", count(number)),
    }
}

/// How many a second: whole where there are many.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{per_second:.1}"),
        // Numbers too large for 64 bits become the largest.
        _ => count(per_second.round() as u64),
    }
}

/// Seconds, as cProfile prints them.
pub(super) fn seconds(seconds: f64) -> String {
    format!("{seconds:.3}")
}

pub(super) fn to_duration(seconds: f64) -> Duration {
    // Fails for negative numbers and NaN, which no time is, and for what is longer than the longest.
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}
