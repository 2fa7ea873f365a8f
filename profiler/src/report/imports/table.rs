//! The tree that people read: who imported what, and how long that took.

use std::time::Duration;

use super::{ImportsReport, Module};
use crate::{
    humanize::{count, duration, percent},
    report::layout::{Grid, Last, paragraphs},
};

pub fn text(report: &ImportsReport, top: usize, width: usize) -> String {
    let mut text = paragraphs(&heading(report), width);
    if report.modules.is_empty() {
        return text;
    }
    let mut pids: Vec<u32> = report.modules.iter().map(|module| module.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    // The process with the most of it first.
    let of = |pid: u32| report.modules.iter().filter(move |module| module.pid == pid);
    let total = |pid: u32| -> u64 {
        of(pid)
            .filter(|module| module.parent.is_none())
            .map(|module| module.cumulative_ns)
            .sum()
    };
    pids.sort_by_key(|&pid| std::cmp::Reverse(total(pid)));
    for pid in pids {
        text.push('\n');
        text.push_str(&paragraphs(
            &[format!(
                "{}: {} in {}",
                report.command(pid),
                modules(of(pid).count()),
                time(total(pid))
            )],
            width,
        ));
        text.push_str(&tree(report, pid, total(pid), top, width));
    }
    text
}

/// What there was.
pub fn heading(report: &ImportsReport) -> Vec<String> {
    let mut lines = vec![match report.modules.len() {
        0 => format!("No module was imported in {}.", duration(report.length)),
        number => format!("{} imported, which took {}.", modules(number), time(report.total_ns())),
    }];
    if report.lost > 0 {
        lines.push(format!(
            "{} are missing: there was no room for them. Times of what was around them hold theirs.",
            count(report.lost)
        ));
    }
    lines
}

/// The `top` modules by cumulative time, below who imported them.
fn tree(report: &ImportsReport, pid: u32, total_ns: u64, top: usize, width: usize) -> String {
    let mut indices: Vec<usize> = (0..report.modules.len())
        .filter(|&index| report.modules[index].pid == pid)
        .collect();
    let all = indices.len();
    // A module has no less than those within it, so whoever is shown has its parents above it.
    indices.sort_by_key(|&index| std::cmp::Reverse((report.modules[index].cumulative_ns, std::cmp::Reverse(index))));
    indices.truncate(top);
    indices.sort_unstable();
    let shown: Vec<&Module> = indices.iter().map(|&index| &report.modules[index]).collect();
    let mut last: Vec<Last> = shown
        .iter()
        .map(|module| Last {
            text: format!(
                "{}{}{}",
                "  ".repeat(module.depth.min(20) as usize),
                module.name,
                if module.is_unfinished { " [not finished]" } else { "" }
            ),
            ..Last::default()
        })
        .collect();
    let others = all - shown.len();
    if others > 0 {
        last.push(Last {
            text: format!("({} more)", count(others as u64)),
            ..Last::default()
        });
    }
    let cells = |cell: &dyn Fn(&Module) -> String| {
        let mut cells: Vec<String> = shown.iter().map(|module| cell(module)).collect();
        cells.resize(last.len(), String::new());
        cells
    };
    let mut columns = vec![
        (0, "self", cells(&|module| time(module.own_ns))),
        (0, "cumulative", cells(&|module| time(module.cumulative_ns))),
        (
            2,
            "share",
            cells(&|module| percent(module.cumulative_ns as f64 / total_ns.max(1) as f64)),
        ),
    ];
    columns.push((1, "on CPU", cells(&|module| cpu(module))));
    let mut grid = Grid::new("module", last);
    for (dispensable, title, cells) in columns {
        grid.column(dispensable, title, cells);
    }
    grid.render(width)
}

/// The kernel accounts for it at ticks: of what is short it says nothing.
fn cpu(module: &Module) -> String {
    const SHORTEST_NS: u64 = 20_000_000;
    match module.cumulative_ns {
        ..SHORTEST_NS => String::new(),
        all => percent((module.cpu_ns as f64 / all as f64).min(1.0)),
    }
}

fn modules(number: usize) -> String {
    match number {
        1 => "1 module".to_owned(),
        _ => format!("{} modules", count(number as u64)),
    }
}

fn time(ns: u64) -> String {
    duration(Duration::from_nanos(ns))
}
