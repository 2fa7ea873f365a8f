//! The table for programs: every row, exact bytes, raw numbers.

use std::{io::Write, os::unix::process::ExitStatusExt as _, time::Duration};

use anyhow::Context as _;
use serde::Serialize;

use super::{
    MemoryReport, ProcessMemory,
    group::{Place, Sums},
    kept::KeptOf,
    table::Table,
    victim::{Against, Victim},
};
use crate::{
    objects,
    report::objects::export::{GrownOf, grown},
    shown::csv_field,
};

const COLUMNS: &str = "name,function,file,line,pid,tid,via,inuse_bytes,inuse_error_bytes,estimated_bytes,inuse_objects,\
                       alloc_bytes,alloc_error_bytes,alloc_objects,share,youngest_s,oldest_s,uncertain_bytes";

/// All rows as RFC 4180 has it, but with plain newlines. What is unknown is empty; there is no row of sums.
pub fn write_csv(table: &Table, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    for row in &table.rows {
        let Place {
            name,
            function,
            file,
            line,
            pid,
            tid,
            library: _,
            sort: _,
        } = &row.place;
        let known = |number: &u32| match number {
            0 => String::new(),
            _ => number.to_string(),
        };
        let time = |time: Option<Duration>| {
            time.map(|time| format!("{:.3}", time.as_secs_f64()))
                .unwrap_or_default()
        };
        let sums = &row.sums;
        let fields = [
            csv_field(name),
            csv_field(function),
            csv_field(file),
            known(line).into(),
            known(pid).into(),
            known(tid).into(),
            csv_field(row.via.as_deref().unwrap_or_default()),
            sums.inuse_bytes.to_string().into(),
            sums.inuse_error().to_string().into(),
            sums.estimated_bytes.to_string().into(),
            sums.inuse_objects.to_string().into(),
            sums.alloc_bytes.to_string().into(),
            sums.alloc_error().to_string().into(),
            sums.alloc_objects.to_string().into(),
            format!("{:.6}", table.share(sums)).into(),
            time(sums.youngest).into(),
            time(sums.oldest).into(),
            sums.uncertain_bytes.to_string().into(),
        ];
        writeln!(out, "{}", fields.join(","))?;
    }
    Ok(())
}

/// The report's head, its processes, the whole, and all rows.
pub fn write_json(
    report: &MemoryReport,
    table: &Table,
    objects: &[objects::watch::Grown],
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let file = File {
        shown: report.shown.name(),
        by: table.by.name(),
        objects: if report.exact { "blocks" } else { "pages" },
        length_s: report.length.as_secs_f64(),
        processes: report.processes.iter().map(Process::of).collect(),
        object_growth: objects.iter().map(grown).collect(),
        kept: report.kept.as_ref().map(KeptOf::new),
        total: Numbers::of(table, &table.total),
        rows: table
            .rows
            .iter()
            .map(|row| Row {
                place: &row.place,
                via: row.via.as_deref(),
                numbers: Numbers::of(table, &row.sums),
            })
            .collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &file).context("cannot write the table as JSON")?;
    writeln!(out)?;
    Ok(())
}

#[derive(Serialize)]
struct File<'a> {
    shown: &'static str,
    by: &'static str,
    objects: &'static str,
    length_s: f64,
    processes: Vec<Process<'a>>,
    /// As in the JSON of `profiler objects`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    object_growth: Vec<GrownOf<'a>>,
    /// With `--watchpoints`.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<KeptOf<'a>>,
    total: Numbers,
    rows: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Process<'a> {
    pid: u32,
    comm: &'a str,
    command: &'a str,
    rss_before: u64,
    rss_after: u64,
    anonymous_before: u64,
    anonymous_after: u64,
    file_before: u64,
    file_after: u64,
    shared_before: u64,
    shared_after: u64,
    private_before: u64,
    private_after: u64,
    growth_bytes: i64,
    explained_bytes: i64,
    explained_error_bytes: u64,
    started: bool,
    exited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_for_memory: Option<EndedForMemory<'a>>,
}

/// The process ended for want of memory: the kernel ended it, or it did so itself after a `MemoryError`.
#[derive(Serialize)]
struct EndedForMemory<'a> {
    /// Since the recording began.
    after_s: f64,
    /// The most that was resident; 0 if the kernel did not say.
    peak_rss: u64,
    /// Of the cgroup, or all that the machine has; `null` if its cgroup was gone. If it ended itself, of its address space
    /// (`RLIMIT_AS`); `null` if that was not bounded.
    limit_bytes: Option<u64>,
    /// The cgroup whose limit it was; not there if it was the machine's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<&'a str>,
    /// How long before its end it had the last `MemoryError`, if it ended itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_error_s: Option<f64>,
    /// What it ended with then, or which signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_signal: Option<i32>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    place: &'a Place,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'a str>,
    #[serde(flatten)]
    numbers: Numbers,
}

#[derive(Serialize)]
struct Numbers {
    inuse_bytes: u64,
    inuse_error_bytes: u64,
    estimated_bytes: u64,
    uncertain_bytes: u64,
    inuse_objects: u64,
    alloc_bytes: u64,
    alloc_error_bytes: u64,
    alloc_objects: u64,
    share: f64,
    youngest_s: Option<f64>,
    oldest_s: Option<f64>,
}

impl<'a> Process<'a> {
    fn of(process: &'a ProcessMemory) -> Self {
        let ProcessMemory {
            pid,
            comm,
            command,
            before,
            after,
            explained,
            explained_variance,
            started,
            exited,
            victim,
        } = process;
        Self {
            pid: *pid,
            comm,
            command,
            rss_before: before.rss,
            rss_after: after.rss,
            anonymous_before: before.anonymous,
            anonymous_after: after.anonymous,
            file_before: before.file,
            file_after: after.file,
            shared_before: before.shared,
            shared_after: after.shared,
            private_before: before.private,
            private_after: after.private,
            growth_bytes: process.growth(),
            explained_bytes: *explained,
            explained_error_bytes: super::error(*explained_variance),
            started: *started,
            exited: *exited,
            ended_for_memory: victim.as_ref().map(EndedForMemory::of),
        }
    }
}

impl<'a> EndedForMemory<'a> {
    fn of(victim: &'a Victim) -> Self {
        let told = Self {
            after_s: victim.after.as_secs_f64(),
            peak_rss: victim.peak,
            limit_bytes: None,
            cgroup: None,
            memory_error_s: None,
            exit_status: None,
            exit_signal: None,
        };
        match &victim.against {
            Some(Against::Cgroup { path, limit }) => Self {
                limit_bytes: Some(*limit),
                cgroup: Some(path),
                ..told
            },
            Some(Against::Machine { total }) => Self {
                limit_bytes: Some(*total),
                ..told
            },
            Some(Against::Itself {
                ended,
                error_ago,
                address_space,
            }) => Self {
                limit_bytes: *address_space,
                memory_error_s: Some(error_ago.as_secs_f64()),
                exit_status: ended.code(),
                exit_signal: ended.signal(),
                ..told
            },
            None => told,
        }
    }
}

impl Numbers {
    fn of(table: &Table, sums: &Sums) -> Self {
        Self {
            inuse_bytes: sums.inuse_bytes,
            inuse_error_bytes: sums.inuse_error(),
            estimated_bytes: sums.estimated_bytes,
            uncertain_bytes: sums.uncertain_bytes,
            inuse_objects: sums.inuse_objects,
            alloc_bytes: sums.alloc_bytes,
            alloc_error_bytes: sums.alloc_error(),
            alloc_objects: sums.alloc_objects,
            share: table.share(sums),
            youngest_s: sums.youngest.map(|age| age.as_secs_f64()),
            oldest_s: sums.oldest.map(|age| age.as_secs_f64()),
        }
    }
}
