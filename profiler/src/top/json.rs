//! One refresh as JSON: documented in docs/top.md.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    rows::{collected, rows},
    snapshot::{Line, Process, Snapshot, ThreadTime},
    state::State,
};
use crate::waits::cause::Cause;

/// Raised when a key goes or means something else. New ones may come without.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Whole<'a> {
    version: u32,
    seconds: f64,
    /// That shares by samples, lines and the GIL are of.
    span_seconds: f64,
    host: Host,
    cost: Cost,
    instruments: &'a [String],
    notes: &'a [String],
    processes: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Host {
    cpus: usize,
    cpu_percent: Option<f64>,
    memory_used_bytes: u64,
    memory_total_bytes: u64,
    pressure_cpu_percent: Option<f64>,
    pressure_memory_percent: Option<f64>,
    pressure_io_percent: Option<f64>,
}

#[derive(Serialize)]
struct Cost {
    cpu_percent: f64,
    kernel_cpu_percent: f64,
    resident_bytes: u64,
}

/// A value that may be off by so much (95 %).
#[derive(Serialize)]
struct Estimate {
    percent: f64,
    error: f64,
}

#[derive(Serialize)]
struct Row<'a> {
    pid: u32,
    #[serde(skip_serializing_if = "is_one")]
    processes: usize,
    name: &'a str,
    place: &'a str,
    user: &'a str,
    not_seen: Option<&'a str>,
    cpu_percent: f64,
    samples: u64,
    python: Option<Estimate>,
    native: Option<Estimate>,
    kernel: Option<Estimate>,
    gc: Option<Estimate>,
    gil_held: Option<Estimate>,
    gil_waited_percent: Option<f64>,
    time: Option<Time>,
    rss_bytes: u64,
    growth_bytes_per_minute: Option<f64>,
    threads: u64,
    descriptors: Option<u64>,
    switches_per_second: Option<f64>,
    line: Option<Place<'a>>,
    thread_list: Vec<Thread<'a>>,
}

#[derive(Serialize)]
struct Thread<'a> {
    tid: u32,
    name: &'a str,
    time: Option<Time>,
    line: Option<Place<'a>>,
}

#[derive(Serialize)]
struct Place<'a> {
    text: &'a str,
    waits_for: Option<Cause>,
    share: f64,
}

/// Seconds of threads.
#[derive(Serialize)]
struct Time {
    elapsed: f64,
    on_cpu: f64,
    waiting: serde_json::Map<String, serde_json::Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(number: &usize) -> bool {
    *number == 1
}

pub fn write(snapshot: &Snapshot, state: &State, out: &mut dyn Write) -> io::Result<()> {
    let [cpu, memory, io] = match snapshot.host.pressure {
        Some(pressure) => pressure.map(Some),
        None => [None; 3],
    };
    let rows = rows(snapshot, state);
    let whole = Whole {
        version: VERSION,
        seconds: snapshot.length.as_secs_f64(),
        span_seconds: snapshot.span().as_secs_f64(),
        host: Host {
            cpus: snapshot.host.cpus,
            cpu_percent: snapshot.host.cpu_percent,
            memory_used_bytes: snapshot.host.memory_used,
            memory_total_bytes: snapshot.host.memory_total,
            pressure_cpu_percent: cpu,
            pressure_memory_percent: memory,
            pressure_io_percent: io,
        },
        cost: Cost {
            cpu_percent: snapshot.cost.user_percent,
            kernel_cpu_percent: snapshot.cost.kernel_percent,
            resident_bytes: snapshot.cost.resident,
        },
        instruments: &snapshot.instruments,
        notes: &snapshot.notes,
        processes: rows.iter().map(|row| self::row(&row.process, row.number)).collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &whole)?;
    writeln!(out)
}

fn row(process: &Process, number: usize) -> Row<'_> {
    let estimate = |(percent, error)| Estimate { percent, error };
    let part = |samples| process.split.part(samples, process.cpu_percent).map(estimate);
    let split = &process.split;
    Row {
        pid: process.pid,
        processes: number,
        name: &process.name,
        place: &process.place,
        user: &process.user,
        not_seen: process.refused.as_deref(),
        cpu_percent: process.cpu_percent,
        samples: split.samples(),
        python: part(split.python),
        native: part(split.native),
        kernel: part(split.kernel),
        gc: collected(process).map(estimate),
        gil_held: process.gil_held.map(estimate),
        gil_waited_percent: process.gil_waited,
        time: time(&process.time),
        rss_bytes: process.resident,
        growth_bytes_per_minute: process.growth.map(|(growth, _)| growth),
        threads: process.threads,
        descriptors: process.descriptors,
        switches_per_second: process.switches,
        line: process.line.as_ref().map(place),
        thread_list: (process.rows.iter())
            .map(|thread| Thread {
                tid: thread.tid,
                name: &thread.name,
                time: time(&thread.time),
                line: thread.line.as_ref().map(place),
            })
            .collect(),
    }
}

fn place(line: &Line) -> Place<'_> {
    Place {
        text: &line.text,
        waits_for: line.cause,
        share: line.share,
    }
}

/// `None` without an account.
fn time(time: &ThreadTime) -> Option<Time> {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let waiting = Cause::ALL.into_iter().zip(time.waiting).filter(|(_, ns)| *ns > 0);
    (time.elapsed > 0).then(|| Time {
        elapsed: seconds(time.elapsed),
        on_cpu: seconds(time.on_cpu),
        waiting: waiting
            .map(|(cause, ns)| (cause.name().to_owned(), seconds(ns).into()))
            .collect(),
    })
}
