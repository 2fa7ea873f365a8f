//! The report as JSON, for programs. docs/report.md has the schema; `version` changes when a field changes or goes.

use std::io::Write;

use serde::Serialize;

use super::{
    Asked, NoSuchFunction,
    neighbours::{Side, neighbours},
    source,
};
use crate::{
    profile::{FrameKind, Profile},
    report::{
        grouping::By,
        package::package,
        rows::{Counted, Sum, rows},
    },
};

/// Of the fields below. Fields may be added without a new one.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Report<'a> {
    format: &'static str,
    version: u32,
    recording: Recording<'a>,
    value: Value<'a>,
    total: i64,
    /// Samples that the total is made of, where that is known.
    samples: Option<u64>,
    by: &'static str,
    rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callers: Option<Vec<Neighbour>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callees: Option<Vec<Neighbour>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Vec<SourceLine>>,
}

#[derive(Serialize)]
struct Recording<'a> {
    comments: &'a [String],
    started_at_ns: i64,
    duration_ns: i64,
    values: Vec<Value<'a>>,
    /// What it had of the value before `--filter`.
    unfiltered_total: Option<i64>,
}

#[derive(Serialize)]
struct Value<'a> {
    kind: &'a str,
    unit: &'a str,
}

#[derive(Serialize)]
struct Row {
    name: String,
    #[serde(flatten)]
    place: Option<Place>,
    #[serde(rename = "self")]
    itself: i64,
    total: i64,
    self_share: f64,
    total_share: f64,
    /// Half of the 95 % interval of each share; null where nothing is known of how it was sampled.
    self_error: Option<f64>,
    total_error: Option<f64>,
    self_samples: Option<u64>,
    total_samples: Option<u64>,
    /// The same of the amounts, where the recording says how exact they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    self_amount_error: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_amount_error: Option<i64>,
}

#[derive(Serialize)]
struct Place {
    kind: &'static str,
    function: String,
    file: String,
    line: u32,
    first_line: u32,
    package: String,
}

#[derive(Serialize)]
struct Neighbour {
    /// Null: the function is the outermost, or does it itself.
    place: Option<Place>,
    value: i64,
    share: f64,
    error: Option<f64>,
}

#[derive(Serialize)]
struct SourceLine {
    file: String,
    line: u32,
    total: i64,
    python: i64,
    native: i64,
    kernel: i64,
}

pub fn write(profile: &Profile, asked: &Asked, out: &mut dyn Write) -> anyhow::Result<()> {
    let report = report(profile, asked)?;
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)?;
    Ok(())
}

fn report<'a>(profile: &'a Profile, asked: &Asked) -> Result<Report<'a>, NoSuchFunction> {
    let counted = Counted::new(profile, asked.value);
    let by = asked.by.unwrap_or(By::Line);
    let found = rows(profile, counted, by, asked.interpreter, asked.merge_workers);
    let all = found.all;
    let samples = |sum: Sum| counted.samples.map(|_| sum.samples);
    let error = |sum: Sum| error(sum, all, counted);
    let shown = asked.top.unwrap_or(usize::MAX);
    let rows = (found.rows.iter().take(shown))
        .map(|row| {
            let place = row.hottest.map(|id| place(profile, id));
            Row {
                name: match (&row.name, &place) {
                    (Some(name), _) => name.clone(),
                    (None, Some(place)) => place.function.clone(),
                    (None, None) => String::new(),
                },
                place: place.filter(|_| matches!(by, By::Line | By::Function)),
                itself: row.itself.value,
                total: row.total.value,
                self_share: share(row.itself, all),
                total_share: share(row.total, all),
                self_error: error(row.itself),
                total_error: error(row.total),
                self_samples: samples(row.itself),
                total_samples: samples(row.total),
                self_amount_error: counted.variance.map(|_| row.itself.error()),
                total_amount_error: counted.variance.map(|_| row.total.error()),
            }
        })
        .collect();
    let side = |wanted: &Option<String>, side| -> Result<Option<Vec<Neighbour>>, NoSuchFunction> {
        let Some(wanted) = wanted else { return Ok(None) };
        let found = neighbours(profile, asked, counted, wanted, side)?;
        let rows = found.rows.iter().map(|row| Neighbour {
            place: row.frame.map(|id| place(profile, id)),
            value: row.sum.value,
            share: share(row.sum, found.total),
            error: self::error(row.sum, found.total, counted),
        });
        Ok(Some(rows.collect()))
    };
    let source = match &asked.source {
        Some(wanted) => Some(source_lines(profile, counted, wanted)?),
        None => None,
    };
    let value = |at: usize| Value {
        kind: profile.sample_types[at].kind,
        unit: profile.sample_types[at].unit,
    };
    Ok(Report {
        format: "profiler-report",
        version: VERSION,
        recording: Recording {
            comments: &profile.comments,
            started_at_ns: profile.started_at_ns,
            duration_ns: profile.duration_ns,
            values: profile.shown_types().map(|(at, _)| value(at)).collect(),
            unfiltered_total: asked.before,
        },
        value: value(asked.value),
        total: all.value,
        samples: samples(all),
        by: by.name(),
        rows,
        callers: side(&asked.callers, Side::Callers)?,
        callees: side(&asked.callees, Side::Callees)?,
        source,
    })
}

fn source_lines(profile: &Profile, counted: Counted, wanted: &str) -> Result<Vec<SourceLine>, NoSuchFunction> {
    let files = source::lines(profile, counted, wanted)?;
    let lines = files.iter().flat_map(|(file, lines)| {
        lines.iter().map(|(line, sums)| SourceLine {
            file: profile.string(*file).to_owned(),
            line: *line,
            total: sums.total.value,
            python: sums.python.value,
            native: sums.native.value,
            kernel: sums.kernel.value,
        })
    });
    Ok(lines.collect())
}

fn share(sum: Sum, all: Sum) -> f64 {
    match all.value {
        0 => 0.0,
        all => sum.value as f64 / all as f64,
    }
}

fn error(sum: Sum, all: Sum, counted: Counted) -> Option<f64> {
    counted.error(sum, all)
}

fn place(profile: &Profile, id: crate::profile::FrameId) -> Place {
    let frame = profile.frame(id);
    Place {
        kind: match frame.kind {
            FrameKind::Python => "python",
            FrameKind::Native => "native",
            FrameKind::Kernel => "kernel",
            FrameKind::Marker => "marker",
        },
        function: profile.string(frame.function).to_owned(),
        file: source::file_of(profile, frame),
        line: frame.line,
        first_line: frame.first_line,
        package: package(profile, frame).into_owned(),
    }
}
