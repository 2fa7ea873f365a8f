//! The table for programs: every row, raw numbers. docs/exceptions.md says what they mean.

use std::io;

use anyhow::Context as _;
use serde::Serialize;

use super::{
    ExceptionsReport,
    rows::{Catch, Line, Row, rows},
};
use crate::{governor::SlowDown, report::label, shown::csv_field};

/// Changes when a field's meaning does; fields are added without.
const SCHEMA: &str = "profiler.exceptions/1";

const COLUMNS: &str = "pid,exception,function,file,line,count,count_error,counted,per_s,share,\
                       caught_function,caught_file,caught_line,caught_share,own_function,own_file,own_line";

/// One line for each type, line and process; of the places where they are caught the most frequent one.
pub fn write_csv(report: &ExceptionsReport, out: &mut dyn io::Write) -> anyhow::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    let (total, _) = report.total();
    for row in rows(report, true) {
        let most = row.caught.first();
        let seen: u64 = row.caught.iter().map(|(_, times)| times).sum();
        let line = |line: Option<&Line>| {
            line.map_or_else(
                || ",,".to_owned(),
                |line| {
                    format!(
                        "{},{},{}",
                        csv_field(&line.function),
                        csv_field(&line.file),
                        number(line.line)
                    )
                },
            )
        };
        let caught = most.and_then(|(catch, _)| match catch {
            Catch::Line(line) => Some(line),
            Catch::Unknown => None,
        });
        writeln!(
            out,
            "{},{},{},{},{},{},{},{},{},{},{}",
            row.key.pid,
            csv_field(&row.key.kind),
            line(Some(&row.key.line)),
            row.count.round(),
            if report.estimated {
                row.error.round().to_string()
            } else {
                String::new()
            },
            row.counted,
            report.per_second(row.count),
            row.count / total.max(1e-9),
            line(caught),
            most.map_or_else(String::new, |(_, times)| (*times as f64 / seen as f64).to_string()),
            line(row.own.as_ref()),
        )?;
    }
    Ok(())
}

fn number(line: u32) -> String {
    match line {
        0 => String::new(),
        line => line.to_string(),
    }
}

pub fn write_json(report: &ExceptionsReport, out: &mut dyn io::Write) -> anyhow::Result<()> {
    let (total, error) = report.total();
    let file = File {
        schema: SCHEMA,
        length_s: report.length.as_secs_f64(),
        observed_s: report.observed.as_secs_f64(),
        windows: report.windows,
        exact: report.windows.is_none() && report.lost == 0,
        at_least: report.is_at_least(),
        count: total.round() as u64,
        count_error: report.estimated.then(|| error.round() as u64),
        counted: report.counted,
        per_s: report.per_second(total),
        in_c: report.in_c,
        lost: report.lost,
        slow_down: report.slow_down,
        handling: report.handling.share().map(|(share, error)| Handling {
            share,
            error,
            looks: report.handling.running,
        }),
        exceptions: rows(report, true)
            .iter()
            .map(|row| Json::of(report, total, row))
            .collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &file).context("cannot write the exceptions as JSON")?;
    writeln!(out)?;
    Ok(())
}

#[derive(Serialize)]
struct File {
    schema: &'static str,
    length_s: f64,
    /// In which exceptions were seen.
    observed_s: f64,
    /// If not all of the time was seen.
    windows: Option<u64>,
    /// Every exception was counted.
    exact: bool,
    /// There were no fewer, and nobody knows how many more.
    at_least: bool,
    count: u64,
    /// Half the width of the 95 % interval, where counts are estimated.
    count_error: Option<u64>,
    /// Seen one by one.
    counted: u64,
    per_s: f64,
    /// Set by C code, which took them back itself: in no other number.
    in_c: u64,
    lost: u64,
    slow_down: SlowDown,
    handling: Option<Handling>,
    exceptions: Vec<Json>,
}

/// Of the time in which a thread had the GIL, the share in which that one was handling an exception.
#[derive(Serialize)]
struct Handling {
    share: f64,
    error: f64,
    looks: u64,
}

#[derive(Serialize)]
struct Json {
    pid: u32,
    process: String,
    exception: String,
    function: String,
    file: String,
    line: u32,
    count: u64,
    count_error: Option<u64>,
    counted: u64,
    per_s: f64,
    share: f64,
    /// Of those of which it was seen, the most frequent first.
    caught: Vec<CaughtAt>,
    /// The program's own line that led there most often, if it is another.
    own: Option<Place>,
}

#[derive(Serialize)]
struct Place {
    function: String,
    file: String,
    line: u32,
}

#[derive(Serialize)]
struct CaughtAt {
    /// `python` or `unknown`.
    by: &'static str,
    #[serde(flatten)]
    place: Option<Place>,
    count: u64,
}

impl Json {
    fn of(report: &ExceptionsReport, total: f64, row: &Row) -> Self {
        Self {
            pid: row.key.pid,
            process: label::clean(label::process_name(&report.profile, &row.labels)),
            exception: row.key.kind.clone(),
            function: row.key.line.function.clone(),
            file: row.key.line.file.clone(),
            line: row.key.line.line,
            count: row.count.round() as u64,
            count_error: report.estimated.then(|| row.error.round() as u64),
            counted: row.counted,
            per_s: report.per_second(row.count),
            share: row.count / total.max(1e-9),
            caught: row
                .caught
                .iter()
                .map(|(catch, count)| {
                    let (by, place) = match catch {
                        Catch::Line(line) => ("python", Some(Place::of(line))),
                        Catch::Unknown => ("unknown", None),
                    };
                    CaughtAt {
                        by,
                        place,
                        count: *count,
                    }
                })
                .collect(),
            own: row.own.as_ref().map(Place::of),
        }
    }
}

impl Place {
    fn of(line: &Line) -> Self {
        Self {
            function: line.function.clone(),
            file: line.file.clone(),
            line: line.line,
        }
    }
}
