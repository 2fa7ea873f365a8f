//! Calls that move data, or make it safe, by line and peer.

use std::{collections::BTreeMap, io::Write};

use indexmap::IndexMap;
use profiler_common::wait::IoKey;
use rustc_hash::{FxBuildHasher, FxHashMap};
use serde::Serialize;

use super::{
    Io, IoLine, WaitsReport, error,
    rows::{Place, place},
    table::{time, visible},
};
use crate::{
    humanize::{bytes, count},
    profile::{Labels, Profile, SampleKey},
    report::{
        label,
        layout::{Grid, Last, paragraph, span},
        owner::Owners,
    },
    shown::csv_field,
    summary::many,
    waits::io::{Estimate, Family, Sums},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RowKey {
    place: Place,
    family: Family,
    /// Empty in tables, which put those of a line together.
    peer: String,
    path: String,
    pid: u32,
    tid: u32,
}

struct Row {
    key: RowKey,
    sums: Sums,
    /// What was drawn by chance, of what.
    drawn: FxHashMap<IoKey, Estimate>,
    /// Of the number of calls.
    variance: f64,
    labels: Labels,
    most: SampleKey,
    most_ns: f64,
    /// Targets, with their calls, and of clients how many ports they have connected from.
    targets: Vec<(String, f64, u32)>,
    /// As in rows of waits.
    ports: u32,
}

impl Row {
    fn mean_ns(&self) -> u64 {
        (self.sums.ns / self.sums.calls.max(1.0)) as u64
    }

    fn target(&self) -> Option<String> {
        let (most, ..) = self.targets.iter().max_by(|(_, a, _), (_, b, _)| a.total_cmp(b))?;
        Some(match self.targets.len() {
            1 => most.clone(),
            several => format!("{most} and {} more", several - 1),
        })
    }
}

/// By time, the longest first.
fn rows(report: &WaitsReport, io: &Io, fully: bool) -> Vec<Row> {
    let profile = &report.profile;
    let mut owners = Owners::new(profile);
    let mut rows: IndexMap<RowKey, Row, FxBuildHasher> = IndexMap::default();
    for line in &io.lines {
        let IoLine {
            family,
            target,
            sample,
            line,
        } = line;
        let sums = &line.sums;
        let if_fully = |text: &String| if fully { text.clone() } else { String::new() };
        let key = RowKey {
            place: place(profile, sample.stack, owners.find(sample.stack)),
            family: *family,
            peer: if_fully(&target.peer),
            path: if_fully(&target.path),
            pid: if fully { sample.labels.pid } else { 0 },
            tid: if fully { sample.labels.tid } else { 0 },
        };
        let row = rows.entry(key.clone()).or_insert_with(|| Row {
            key,
            sums: Sums::default(),
            drawn: FxHashMap::default(),
            variance: 0.0,
            labels: sample.labels.clone(),
            most: sample.clone(),
            most_ns: 0.0,
            targets: Vec::new(),
            ports: 0,
        });
        row.sums.put(sums);
        row.ports = row.ports.max(target.ports);
        let drawn = row.drawn.entry(line.of).or_default();
        drawn.calls += line.drawn.calls;
        drawn.variance += line.drawn.variance;
        if sums.ns > row.most_ns {
            row.most_ns = sums.ns;
            row.most = sample.clone();
            row.labels = sample.labels.clone();
        }
        if !target.is_empty() {
            let text = report.whom(sample.labels.pid, target);
            match row.targets.iter_mut().find(|(known, ..)| *known == text) {
                Some((_, calls, ports)) => {
                    *calls += sums.calls;
                    *ports = (*ports).max(target.ports);
                }
                None => row.targets.push((text, sums.calls, target.ports)),
            }
        }
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    for row in &mut rows {
        row.variance = io.told.variance(&row.drawn);
        for (target, _, ports) in &mut row.targets {
            WaitsReport::with_ports(target, *ports);
        }
    }
    rows.sort_by(|a, b| {
        b.sums
            .ns
            .total_cmp(&a.sums.ns)
            .then_with(|| (&a.key.place, a.key.family).cmp(&(&b.key.place, b.key.family)))
    });
    rows
}

/// What moves, and for how long, by line and family.
pub(super) fn table(report: &WaitsReport, io: &Io, top: usize, width: usize) -> String {
    let rows = rows(report, io, false);
    let of = |family: Family| rows.iter().filter(move |row| row.key.family == family);
    let moved = |families: [Family; 2]| -> f64 { families.into_iter().flat_map(of).map(|row| row.sums.bytes).sum() };
    let calls: f64 = rows.iter().map(|row| row.sums.calls).sum();
    if rows.is_empty() {
        return "Nothing was read, written, sent or received.\n".to_owned();
    }
    let mut text = paragraph(
        &format!(
            "I/O in {}: {}, {} read and received, {} written and sent.",
            span(report.length),
            many(calls.round() as u64, "call"),
            bytes(moved([Family::Read, Family::Receive]) as u64),
            bytes(moved([Family::Write, Family::Send]) as u64),
        ),
        width,
    );
    text.push('\n');
    let (shown, others) = rows.split_at(visible(rows.len(), top));
    let mut last: Vec<Last> = shown.iter().map(described).collect();
    if !others.is_empty() {
        last.push(Last {
            text: format!("({} more)", count(others.len() as u64)),
            ..Last::default()
        });
    }
    let mut grid = Grid::new("where", last);
    let column = |of: &dyn Fn(&Row) -> String| shown.iter().map(of).collect::<Vec<_>>();
    grid.column(0, "time", column(&|row| time(row.sums.ns as u64)));
    grid.column(0, "calls", column(&with_error));
    grid.column(1, "bytes", column(&moved_bytes));
    grid.column(3, "mean", column(&|row| time(row.mean_ns())));
    grid.column(2, "p99", column(&|row| quantile(row, 0.99)));
    grid.column(4, "max", column(&|row| time(row.sums.longest_ns)));
    grid.column(0, "call", column(&|row| row.key.family.name().to_owned()));
    text.push_str(&grid.render(width));
    text
}

fn described(row: &Row) -> Last {
    let mut parts: Vec<String> = row.target().into_iter().collect();
    if !row.key.place.via.is_empty() {
        parts.push(format!("via {}", row.key.place.via));
    }
    let errors = row.sums.errors.round() as u64;
    Last {
        text: row.key.place.name.clone(),
        addition: parts.join(", "),
        remark: match errors {
            0 => String::new(),
            errors => format!("{} of the calls failed, or would have waited", count(errors)),
        },
        ..Last::default()
    }
}

/// `1,234`, and `±` where it is not exact to a hundredth.
fn with_error(row: &Row) -> String {
    let calls = row.sums.calls.round() as u64;
    match error(row.variance) {
        error if error > calls / 100 => {
            format!("{} ± {:.0} %", count(calls), (100 * error) as f64 / calls.max(1) as f64)
        }
        _ => count(calls),
    }
}

fn moved_bytes(row: &Row) -> String {
    match row.key.family {
        Family::Read | Family::Write | Family::Send | Family::Receive => bytes(row.sums.bytes as u64),
        Family::Connect | Family::Accept | Family::Sync => "-".to_owned(),
    }
}

/// Nothing is known of single calls none of which was drawn.
fn quantile(row: &Row, part: f64) -> String {
    match row.sums.quantile(part) {
        0 => "-".to_owned(),
        ns => time(ns),
    }
}

#[derive(Serialize)]
pub(super) struct JsonCalls {
    call: Family,
    calls: u64,
    /// Half the width of the interval that holds the true number 19 times out of 20.
    error_calls: u64,
    /// Of them, those that failed, "would have to wait" among them.
    failed: u64,
    bytes: u64,
    total_ns: u64,
    mean_ns: u64,
    p50_ns: u64,
    p95_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    /// Calls by the binary logarithm of their nanoseconds, rounded down.
    histogram: BTreeMap<u16, u64>,
    #[serde(flatten)]
    place: Place,
    #[serde(skip_serializing_if = "String::is_empty")]
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_ports: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    path: String,
    pid: u32,
    tid: u32,
    thread: String,
    /// Leaf first.
    stack: Vec<String>,
}

pub(super) fn json(report: &WaitsReport, io: &Io) -> Vec<JsonCalls> {
    let rows = rows(report, io, true);
    rows.into_iter().map(|row| one(&report.profile, row)).collect()
}

fn one(profile: &Profile, row: Row) -> JsonCalls {
    let quantile = |part: f64| row.sums.quantile(part);
    JsonCalls {
        call: row.key.family,
        calls: row.sums.calls.round() as u64,
        error_calls: error(row.variance),
        failed: row.sums.errors.round() as u64,
        bytes: row.sums.bytes.round() as u64,
        total_ns: row.sums.ns.round() as u64,
        mean_ns: row.mean_ns(),
        p50_ns: quantile(0.5),
        p95_ns: quantile(0.95),
        p99_ns: quantile(0.99),
        max_ns: row.sums.longest_ns,
        histogram: row.sums.lengths.by_octave(),
        pid: row.key.pid,
        tid: row.key.tid,
        thread: profile.string(row.labels.thread).to_owned(),
        stack: label::stack(profile, Some(row.most.stack)),
        place: row.key.place,
        peer: row.key.peer,
        peer_ports: (row.ports > 0).then_some(row.ports),
        path: row.key.path,
    }
}

const COLUMNS: &str = "call,calls,error_calls,failed,bytes,total_ns,mean_ns,p50_ns,p95_ns,p99_ns,max_ns,function,file,line,\
                       via,peer,path,pid,tid,thread";

/// All rows as RFC 4180 has it, but with plain newlines. What is unknown is empty.
pub(super) fn write_csv(report: &WaitsReport, io: &Io, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    for row in json(report, io) {
        let number = |number: u64| match number {
            0 => String::new(),
            _ => number.to_string(),
        };
        let exact = [
            row.calls,
            row.error_calls,
            row.failed,
            row.bytes,
            row.total_ns,
            row.mean_ns,
            row.p50_ns,
            row.p95_ns,
            row.p99_ns,
            row.max_ns,
        ];
        write!(out, "{}", row.call.name())?;
        for value in exact {
            write!(out, ",{value}")?;
        }
        let fields = [
            csv_field(&row.place.function),
            csv_field(&row.place.file),
            number(row.place.line.into()).into(),
            csv_field(&row.place.via),
            csv_field(&row.peer),
            csv_field(&row.path),
            number(row.pid.into()).into(),
            number(row.tid.into()).into(),
            csv_field(&row.thread),
        ];
        writeln!(out, ",{}", fields.join(","))?;
    }
    Ok(())
}
