//! The tables that people read.

use std::time::Duration;

use super::CollectionsReport;
use crate::{
    collections::{AUTOMATIC, BUCKETS, Pauses, advice},
    humanize::{count, duration, percent},
    python::collector::{GENERATIONS, Stats},
    report::layout::{Grid, Last, paragraphs},
    shown,
};

pub fn text(report: &CollectionsReport, top: usize, width: usize) -> String {
    let mut text = paragraphs(&heading(report), width);
    let mut order: Vec<usize> = (0..report.processes.len()).collect();
    let share = |index: usize| report.share(index).map_or(0.0, |(share, _)| share);
    order.sort_by(|a, b| share(*b).total_cmp(&share(*a)));
    for index in order.into_iter().take(top) {
        text.push('\n');
        text.push_str(&process(report, index, width));
    }
    if !report.places.is_empty() {
        text.push('\n');
        text.push_str(&places(report, top, width));
    }
    text
}

pub fn heading(report: &CollectionsReport) -> Vec<String> {
    let all = sum(report.by_generation.iter().flatten());
    let mut lines = vec![match all.count {
        0 if report.is_estimated() => format!(
            "Collections of CPython 3.8 are as it counts them itself in {}, and their time is estimated.",
            duration(report.length)
        ),
        0 => format!("No collection was seen in {}.", duration(report.length)),
        number => format!(
            "{} of garbage in {}: {} in all, the longest {}.",
            many(number, "collection"),
            duration(report.length),
            time(all.ns),
            time(all.longest_ns),
        ),
    }];
    if report.lost > 0 {
        lines.push(format!("{} are missing: the ring buffer was full.", count(report.lost)));
    }
    lines
}

fn process(report: &CollectionsReport, index: usize, width: usize) -> String {
    let process = &report.processes[index];
    let name = match &*process.command {
        "" => format!("process {}", process.pid),
        command => format!("{} ({})", shown::line(command), process.pid),
    };
    let share = match report.share(index) {
        Some((share, None)) => format!("collects {} of the time", percent(share)),
        Some((share, Some(error))) => format!(
            "collects {} of the time (± {}: by looking at it now and then)",
            percent(share),
            percent(error)
        ),
        None => "there were too few looks at it to say how much of the time it collects".to_owned(),
    };
    let mut lines = vec![format!("{name}: {share}")];
    let by_generation = &report.by_generation[index];
    if let Some(collector) = process.after.or(process.before) {
        lines.push(format!(
            "  thresholds {}, {}, {}",
            collector.thresholds[0], collector.thresholds[1], collector.thresholds[2]
        ));
        let share = report.share(index).map_or(0.0, |(share, _)| share);
        let advice = advice(collector.thresholds, share, by_generation, report.length);
        // It goes by pauses.
        lines.extend(
            advice
                .filter(|_| process.looks.is_none())
                .map(|advice| format!("  {advice}")),
        );
    } else {
        lines.push("  what its collector says of itself could not be read".to_owned());
    }
    let mut text = paragraphs(&lines, width);
    let stats: [Option<Stats>; GENERATIONS] = std::array::from_fn(|generation| {
        let (before, after) = (process.before?, process.after?);
        Some(after.stats[generation].since(before.stats[generation]))
    });
    // From 3.13 on, and in 3.8, pauses are not known by generation: of all of them there is a row.
    let (is_told, all) = (report.tells_generations(index), report.all(index));
    let rows = GENERATIONS + usize::from(!is_told && all.count > 0);
    let pauses = |row: usize| match row {
        GENERATIONS => Some(&all),
        row => is_told.then_some(&by_generation[row]),
    };
    let last = (0..rows).map(|row| Last {
        text: pauses(row).map(histogram).unwrap_or_default(),
        ..Last::default()
    });
    let mut grid = Grid::new("pauses", last.collect());
    let cells = |cell: &dyn Fn(usize) -> String| (0..rows).map(cell).collect::<Vec<_>>();
    grid.column(
        0,
        "generation",
        cells(&|row| {
            if row == GENERATIONS {
                "all".to_owned()
            } else {
                row.to_string()
            }
        }),
    );
    let stats_of = |row: usize| stats.get(row).copied().flatten();
    grid.column(
        0,
        "collections",
        cells(&|row| match (pauses(row), stats_of(row)) {
            (Some(pauses), _) => count(pauses.count),
            (None, Some(stats)) => count(stats.collections),
            (None, None) => String::new(),
        }),
    );
    let of = |row: usize, cell: &dyn Fn(&Pauses) -> u64| match pauses(row) {
        Some(pauses) if pauses.count > 0 => time(cell(pauses)),
        _ => String::new(),
    };
    grid.column(1, "time", cells(&|row| of(row, &|pauses| pauses.ns)));
    grid.column(0, "longest", cells(&|row| of(row, &|pauses| pauses.longest_ns)));
    let stat =
        |cell: &dyn Fn(Stats) -> u64| cells(&|row| stats_of(row).map_or_else(String::new, |stats| count(cell(stats))));
    grid.column(2, "freed", stat(&|stats| stats.collected));
    if stats.iter().flatten().any(|stats| stats.uncollectable > 0) {
        grid.column(3, "not freed", stat(&|stats| stats.uncollectable));
    }
    text.push_str(&grid.render(width));
    text
}

/// `8 µs: 3, 16 µs: 120`: how many pauses were so long, up to twice as long.
fn histogram(pauses: &Pauses) -> String {
    let parts = (0..BUCKETS)
        .filter(|&bucket| pauses.histogram[bucket] > 0)
        .map(|bucket| {
            let from = if bucket == 0 {
                "<2 µs".to_owned()
            } else {
                time(1000 << bucket)
            };
            format!("{from}: {}", count(pauses.histogram[bucket]))
        });
    parts.collect::<Vec<_>>().join(", ")
}

fn places(report: &CollectionsReport, top: usize, width: usize) -> String {
    let shown = &report.places[..report.places.len().min(top)];
    let others = report.places.len() - shown.len();
    let mut last: Vec<Last> = shown
        .iter()
        .map(|(place, _)| Last {
            text: place.name.clone(),
            ..Last::default()
        })
        .collect();
    if others > 0 {
        last.push(Last {
            text: format!("({} more)", count(others as u64)),
            ..Last::default()
        });
    }
    let rows = last.len();
    let cells = |cell: &dyn Fn(&super::Place, &Pauses) -> String| {
        let mut cells: Vec<String> = shown.iter().map(|(place, pauses)| cell(place, pauses)).collect();
        cells.resize(rows, String::new());
        cells
    };
    let mut grid = Grid::new("set off in", last);
    grid.column(0, "time", cells(&|_, pauses| time(pauses.ns)));
    grid.column(1, "collections", cells(&|_, pauses| count(pauses.count)));
    grid.column(1, "longest", cells(&|_, pauses| time(pauses.longest_ns)));
    grid.column(2, "generation", cells(&|place, _| generation(place.generation)));
    if report.processes.len() > 1 {
        grid.column(2, "pid", cells(&|place, _| place.pid.to_string()));
    }
    grid.render(width)
}

fn sum<'a>(pauses: impl Iterator<Item = &'a Pauses>) -> Pauses {
    pauses.fold(Pauses::default(), |mut sum, pauses| {
        sum.merge(pauses);
        sum
    })
}

/// Its number, where it is known.
fn generation(number: usize) -> String {
    match number {
        AUTOMATIC => "auto".to_owned(),
        number => number.to_string(),
    }
}

fn many(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{} {what}s", count(number)),
    }
}

fn time(ns: u64) -> String {
    duration(Duration::from_nanos(ns))
}
