//! The table for programs: every row by thread, line and target, in nanoseconds.
//!
//! The JSON document is described in docs/waits.md; [`VERSION`] changes when a reader of an earlier one would be misled.

use std::{collections::BTreeMap, io::Write};

use anyhow::Context as _;
use serde::Serialize;

use super::{
    ThreadTime, WaitsReport, calls,
    rows::{Detailed, Other, Place, Row, holders, rows},
    stalls,
};
use crate::{process::peers::Peer, profile::Profile, report::label, shown::csv_field, waits::cause::Cause};

pub const VERSION: u32 = 1;

const COLUMNS: &str = "cause,total_ns,error_ns,count,max_ns,unended_ns,function,file,line,via,peer,path,call,pid,tid,thread,gil_held,\
     others_waited_ns,holder,waker";

/// All rows as RFC 4180 has it, but with plain newlines. What is unknown is empty.
pub fn write_csv(report: &WaitsReport, out: &mut dyn Write) -> anyhow::Result<()> {
    if let Some(io) = &report.io {
        return calls::write_csv(report, io, out);
    }
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
            u8::from(key.holds_gil).to_string().into(),
            sums.others_ns.to_string().into(),
            csv_field(row.holders.first().map_or("", |holder| &holder.place.name)),
            csv_field(row.wakers.first().map_or("", |waker| &waker.place.name)),
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
        min_ns: report.min_ns,
        ignored_ns: report.ignored_ns,
        ignored_count: report.ignored_count,
        processes_with_gil: report.processes_with_gil,
        waiting_ns: causes(&report.by_cause()),
        rows: rows.iter().map(|row| JsonRow::of(report, row)).collect(),
        holders: holders(report)
            .into_iter()
            .map(|holder| JsonOther::of(&report.profile, &holder))
            .collect(),
        stalls: report.stalls.as_ref().map(|stalled| stalls::json(report, stalled)),
        io: report.io.as_ref().map(|io| calls::json(report, io)),
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
    min_ns: u64,
    ignored_ns: u64,
    ignored_count: u64,
    processes_with_gil: u64,
    waiting_ns: BTreeMap<&'static str, u64>,
    rows: Vec<JsonRow<'a>>,
    holders: Vec<JsonOther>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stalls: Option<stalls::Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io: Option<Vec<calls::JsonCalls>>,
    threads: Vec<Thread<'a>>,
}

/// A line that had the GIL while others waited for it, or one that ended their waits.
#[derive(Serialize)]
struct JsonOther {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_ports: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_process: Option<&'a Peer>,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'static str>,
    pid: u32,
    tid: u32,
    thread: &'a str,
    /// It had the GIL while it waited, and others waited for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    gil_held: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    others_waited_ns: Option<u64>,
    /// Who had the GIL, and who ended the waits: most of their time.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<JsonOther>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waker: Option<JsonOther>,
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

impl JsonOther {
    fn of(profile: &Profile, other: &Other) -> Self {
        let Other {
            place, sample, sums, ..
        } = other;
        Self {
            waited_ns: sums.ns,
            count: sums.count,
            max_ns: sums.longest_ns,
            place: place.clone(),
            pid: sample.labels.pid,
            tid: sample.labels.tid,
            thread: profile.string(sample.labels.thread).to_owned(),
            stack: label::stack(profile, Some(sample.stack)),
        }
    }
}

impl<'a> JsonRow<'a> {
    fn of(report: &'a WaitsReport, row: &'a Row) -> Self {
        let Row { key, sums, .. } = row;
        let profile = &report.profile;
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
            peer_ports: (row.ports > 0).then_some(row.ports),
            peer_process: report.peer(key.pid, &key.peer),
            path: &key.path,
            call: row.call,
            pid: key.pid,
            tid: key.tid,
            thread: profile.string(row.labels.thread),
            gil_held: key.holds_gil.then_some(true),
            others_waited_ns: key.holds_gil.then_some(sums.others_ns),
            holder: row.holders.first().map(|other| JsonOther::of(profile, other)),
            waker: row.wakers.first().map(|other| JsonOther::of(profile, other)),
            stack: label::stack(profile, Some(row.most.stack)),
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
