//! Memory over time: one sparkline per series, and the numbers as CSV, as JSON and as memory_profiler's `mprof` writes them.

use std::{io::Write, time::Duration};

use anyhow::Context as _;
use serde::Serialize;

use super::{
    Curve, MemoryReport,
    layout::{Grid, Last},
    table::Table,
};
use crate::{
    humanize::{bytes, bytes_change},
    shown::{self, csv_field},
};

/// How many rows of the table get a sparkline.
pub const TOP: usize = 5;

/// Series of the same times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    pub times: Vec<Duration>,
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub name: String,
    /// `None` where nothing was measured.
    pub bytes: Vec<Option<u64>>,
}

/// RSS and all live bytes, then the first `top` rows of the table and what they leave of the whole.
///
/// The names of the former are in brackets, which no row's name of code is: `[RSS]`, `[live]`, `[rest]`.
pub fn series(curve: &Curve, table: &Table, top: usize) -> Series {
    let length = curve.times.len();
    let top = top.min(table.rows.len());
    let mut rows = vec![vec![0_u64; length]; top];
    for (sample, bytes) in &curve.sites {
        let Some(sums) = table.row_of(*sample).and_then(|row| rows.get_mut(row)) else {
            continue;
        };
        for (sum, bytes) in sums.iter_mut().zip(bytes) {
            *sum = sum.saturating_add(*bytes);
        }
    }
    let total: Vec<_> = (0..length).map(|index| curve.total.get(index).copied()).collect();
    let rest: Vec<_> = total
        .iter()
        .enumerate()
        .map(|(index, total)| {
            let shown = rows.iter().map(|row| row[index]).fold(0, u64::saturating_add);
            total.map(|total| total.saturating_sub(shown))
        })
        .collect();

    let line = |name: &str, bytes| Line {
        name: name.to_owned(),
        bytes,
    };
    let rss = (0..length)
        .map(|index| curve.rss.get(index).copied().flatten())
        .collect();
    let mut lines = vec![line("[RSS]", rss), line("[live]", total)];
    for (row, bytes) in table.rows.iter().zip(rows) {
        lines.push(line(&row.place.full_name(), bytes.into_iter().map(Some).collect()));
    }
    if rest.iter().any(|rest| rest.is_some_and(|rest| rest > 0)) {
        lines.push(line("[rest]", rest));
    }
    // RSS is not known of a machine as a whole.
    lines.retain(|line| line.bytes.iter().any(Option::is_some));
    Series {
        times: curve.times.clone(),
        lines,
    }
}

/// Sparklines of a report that has a curve; empty if it has none.
pub fn text(report: &MemoryReport, table: &Table, top: usize, width: usize) -> String {
    match &report.curve {
        Some(curve) if !curve.times.is_empty() => {
            let mut series = series(curve, table, top);
            // What came and went between two snapshots has nothing to show.
            series
                .lines
                .retain(|line| line.name.starts_with('[') || line.bytes.iter().flatten().any(|bytes| *bytes > 0));
            sparklines(&series, width)
        }
        _ => String::new(),
    }
}

/// One line per series: its shape between its own least and most, and by how much it grows per minute.
pub fn sparklines(series: &Series, width: usize) -> String {
    let points = (width / 3).clamp(10, 60);
    let last = series
        .lines
        .iter()
        .map(|line| Last {
            text: line.name.clone(),
            ..Last::default()
        })
        .collect();
    let of = |text: &dyn Fn(&Line) -> String| series.lines.iter().map(text).collect::<Vec<_>>();
    let mut grid = Grid::new("over time", last);
    grid.column(3, "", of(&|line| sparkline(&line.bytes, points)));
    let size = |size: Option<&u64>| size.map_or_else(|| "-".to_owned(), |size| bytes(*size));
    grid.column(1, "least", of(&|line| size(line.bytes.iter().flatten().min())));
    grid.column(0, "most", of(&|line| size(line.bytes.iter().flatten().max())));
    grid.column(
        2,
        "per minute",
        of(&|line| slope_per_minute(&series.times, &line.bytes).map_or_else(|| "-".to_owned(), bytes_change)),
    );
    grid.render(width)
}

/// `▁▂▄█`, at most `points` long: each character is the most of its stretch, so that a spike stays one.
fn sparkline(bytes: &[Option<u64>], points: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (Some(least), Some(most)) = (bytes.iter().flatten().min(), bytes.iter().flatten().max()) else {
        return String::new();
    };
    let points = points.min(bytes.len());
    (0..points)
        .map(|point| {
            let stretch = &bytes[point * bytes.len() / points..(point + 1) * bytes.len() / points];
            match stretch.iter().flatten().max() {
                None => ' ',
                Some(_) if most == least => BARS[0],
                Some(value) => {
                    let height = (value - least) as f64 / (most - least) as f64;
                    BARS[((height * 7.0).round() as usize).min(7)]
                }
            }
        })
        .collect()
}

/// The slope of the line through the points that has the least squared distance from them.
fn slope_per_minute(times: &[Duration], bytes: &[Option<u64>]) -> Option<i64> {
    let points: Vec<(f64, f64)> = times
        .iter()
        .zip(bytes)
        .filter_map(|(time, bytes)| Some((time.as_secs_f64() / 60.0, (*bytes)? as f64)))
        .collect();
    let number = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / number;
    let (time, size) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - time).powi(2)).sum();
    let both: f64 = points.iter().map(|point| (point.0 - time) * (point.1 - size)).sum();
    let slope = both / spread;
    // Without two different times there is no slope, but 0/0.
    slope.is_finite().then_some(slope.round() as i64)
}

/// One line per point: `time_s,series,bytes`. What was not measured has no line.
pub fn write_csv(series: &Series, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "time_s,series,bytes")?;
    for (index, time) in series.times.iter().enumerate() {
        for line in &series.lines {
            if let Some(bytes) = line.bytes.get(index).copied().flatten() {
                writeln!(out, "{:.3},{},{bytes}", time.as_secs_f64(), csv_field(&line.name))?;
            }
        }
    }
    Ok(())
}

/// The same as an object of lists; `null` is what was not measured.
pub fn write_json(series: &Series, out: &mut dyn Write) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct File<'a> {
        times_s: Vec<f64>,
        series: Vec<FileLine<'a>>,
    }
    #[derive(Serialize)]
    struct FileLine<'a> {
        name: &'a str,
        bytes: &'a [Option<u64>],
    }
    let file = File {
        times_s: series.times.iter().map(Duration::as_secs_f64).collect(),
        series: series
            .lines
            .iter()
            .map(|line| FileLine {
                name: &line.name,
                bytes: &line.bytes,
            })
            .collect(),
    };
    serde_json::to_writer(&mut *out, &file).context("cannot write the curve as JSON")?;
    writeln!(out)?;
    Ok(())
}

/// RSS as `mprof plot` reads it (memory_profiler 0.61): a line for the command, then `MEM MiB UNIX-TIME` for each point. The
/// processes of a report are one there.
pub fn write_mprof(report: &MemoryReport, out: &mut dyn Write) -> anyhow::Result<()> {
    let Some(curve) = &report.curve else { return Ok(()) };
    let commands: Vec<&str> = report.processes.iter().map(|process| &*process.command).collect();
    writeln!(out, "CMDLINE {}", shown::line(&commands.join(" + ")))?;
    let began = Duration::from_nanos(u64::try_from(report.profile.started_at_ns).unwrap_or_default());
    for (time, rss) in curve.times.iter().zip(&curve.rss) {
        if let Some(rss) = rss {
            let mib = *rss as f64 / (1 << 20) as f64;
            writeln!(out, "MEM {mib:.6} {:.4}", (began + *time).as_secs_f64())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_goes_from_least_to_most() {
        let some = |bytes: &[u64]| bytes.iter().copied().map(Some).collect::<Vec<_>>();
        assert_eq!(sparkline(&some(&[0, 1, 2, 3, 4, 5, 6, 7]), 20), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&some(&[5, 5, 5]), 20), "▁▁▁");
        assert_eq!(sparkline(&[Some(0), None, Some(7)], 20), "▁ █");
        assert_eq!(sparkline(&[None, None], 20), "");
        assert_eq!(sparkline(&[], 20), "");
    }

    #[test]
    fn a_spike_is_seen_however_many_points_share_a_character() {
        let mut bytes = vec![Some(1); 1000];
        bytes[501] = Some(100);
        assert_eq!(sparkline(&bytes, 10), "▁▁▁▁▁█▁▁▁▁");
    }

    #[test]
    fn a_slope_is_per_minute_and_needs_two_times() {
        let times: Vec<_> = [0, 30, 60].map(Duration::from_secs).into();
        assert_eq!(slope_per_minute(&times, &[Some(0), Some(50), Some(100)]), Some(100));
        assert_eq!(slope_per_minute(&times, &[Some(100), None, Some(0)]), Some(-100));
        assert_eq!(slope_per_minute(&times, &[Some(100), None, None]), None);
        assert_eq!(slope_per_minute(&[], &[]), None);
    }
}
