//! The table for programs: every row by thread, line and target, in nanoseconds.
//!
//! The JSON document is described in docs/waits.md; [`VERSION`] changes when a reader of an earlier one would be misled.

use std::{collections::BTreeMap, io::Write};

use anyhow::Context as _;
use serde::Serialize;

use super::{
    Holder, ThreadTime, WaitsReport,
    rows::{Detailed, Place, Row, holders, rows},
};
use crate::{
    profile::{Profile, SampleKey},
    report::label,
    shown::csv_field,
    waits::cause::Cause,
};

pub const VERSION: u32 = 1;

const COLUMNS: &str =
    "cause,total_ns,error_ns,count,max_ns,unended_ns,function,file,line,via,peer,path,call,pid,tid,thread";

/// All rows as RFC 4180 has it, but with plain newlines. What is unknown is empty.
pub fn write_csv(report: &WaitsReport, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    for row in rows(report, Detailed::Fully) {
        let Row { key, sums, .. } = &row;
        let number = |number: u32| match number {
            0 => String::new(),
            _ => number.to_string(),
        };
        let fields = [
            key.cause.name().into(),
            sums.ns.to_string().into(),
            sums.error_ns().to_string().into(),
            sums.count.to_string().into(),
            sums.longest_ns.to_string().into(),
            sums.unended_ns.to_string().into(),
            csv_field(&key.place.function),
            csv_field(&key.place.file),
            number(key.place.line).into(),
            csv_field(&key.place.via),
            csv_field(&key.peer),
            csv_field(&key.path),
            row.call.unwrap_or_default().into(),
            number(key.pid).into(),
            number(key.tid).into(),
            csv_field(report.profile.string(row.labels.thread)),
        ];
        writeln!(out, "{}", fields.join(","))?;
    }
    Ok(())
}

/// The whole, all rows, and the time of each thread.
pub fn write_json(report: &WaitsReport, out: &mut dyn Write) -> anyhow::Result<()> {
    let rows = rows(report, Detailed::Fully);
    let file = File {
        schema: "profiler.waits",
        version: VERSION,
        length_ns: u64::try_from(report.length.as_nanos()).unwrap_or(u64::MAX),
        elapsed_ns: report.elapsed_ns(),
        on_cpu_ns: report.on_cpu_ns(),
        accounted: report.accounted(),
        waiting_ns: causes(&report.by_cause()),
        rows: rows.iter().map(|row| JsonRow::of(&report.profile, row)).collect(),
        holders: holders(report)
            .into_iter()
            .map(|row| JsonHolder::of(&report.profile, row))
            .collect(),
        threads: report.threads.iter().map(Thread::of).collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &file).context("cannot write the table as JSON")?;
    writeln!(out)?;
    Ok(())
}

#[derive(Serialize)]
struct File<'a> {
    schema: &'static str,
    version: u32,
    length_ns: u64,
    elapsed_ns: u64,
    on_cpu_ns: u64,
    accounted: f64,
    waiting_ns: BTreeMap<&'static str, u64>,
    rows: Vec<JsonRow<'a>>,
    holders: Vec<JsonHolder>,
    threads: Vec<Thread<'a>>,
}

/// A line that had the GIL while others waited for it.
#[derive(Serialize)]
struct JsonHolder {
    waited_ns: u64,
    count: u64,
    max_ns: u64,
    #[serde(flatten)]
    place: Place,
    pid: u32,
    tid: u32,
    thread: String,
    /// Leaf first.
    stack: Vec<String>,
}

#[derive(Serialize)]
struct JsonRow<'a> {
    cause: Cause,
    total_ns: u64,
    error_ns: u64,
    count: u64,
    max_ns: u64,
    /// Of the total, that of waits which had not ended.
    unended_ns: u64,
    function: &'a str,
    file: &'a str,
    line: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    via: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    peer: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'static str>,
    pid: u32,
    tid: u32,
    thread: &'a str,
    /// Where most of it was waited, leaf first.
    stack: Vec<String>,
}

#[derive(Serialize)]
struct Thread<'a> {
    pid: u32,
    tid: u32,
    thread: &'a str,
    command: &'a str,
    elapsed_ns: u64,
    on_cpu_ns: u64,
    waiting_ns: BTreeMap<&'static str, u64>,
}

impl JsonHolder {
    fn of(profile: &Profile, (place, sample, holder): (Place, SampleKey, Holder)) -> Self {
        let frames = profile.stack(sample.stack);
        Self {
            waited_ns: holder.ns,
            count: holder.count,
            max_ns: holder.longest_ns,
            place,
            pid: sample.labels.pid,
            tid: sample.labels.tid,
            thread: profile.string(sample.labels.thread).to_owned(),
            stack: frames
                .iter()
                .map(|&id| label::frame(profile, profile.frame(id)))
                .collect(),
        }
    }
}

impl<'a> JsonRow<'a> {
    fn of(profile: &'a Profile, row: &'a Row) -> Self {
        let Row { key, sums, .. } = row;
        let frames = profile.stack(row.most.stack);
        Self {
            cause: key.cause,
            total_ns: sums.ns,
            error_ns: sums.error_ns(),
            count: sums.count,
            max_ns: sums.longest_ns,
            unended_ns: sums.unended_ns,
            function: &key.place.function,
            file: &key.place.file,
            line: key.place.line,
            via: &key.place.via,
            peer: &key.peer,
            path: &key.path,
            call: row.call,
            pid: key.pid,
            tid: key.tid,
            thread: profile.string(row.labels.thread),
            stack: frames
                .iter()
                .map(|&id| label::frame(profile, profile.frame(id)))
                .collect(),
        }
    }
}

impl<'a> Thread<'a> {
    fn of(thread: &'a ThreadTime) -> Self {
        Self {
            pid: thread.pid,
            tid: thread.tid,
            thread: &thread.name,
            command: &thread.command,
            elapsed_ns: thread.elapsed_ns,
            on_cpu_ns: thread.on_cpu_ns,
            waiting_ns: causes(&thread.waiting_ns),
        }
    }
}

/// Those that there were.
fn causes(waiting_ns: &[u64; Cause::ALL.len()]) -> BTreeMap<&'static str, u64> {
    let pairs = Cause::ALL.iter().zip(waiting_ns);
    pairs
        .filter(|(_, ns)| **ns > 0)
        .map(|(cause, ns)| (cause.name(), *ns))
        .collect()
}
