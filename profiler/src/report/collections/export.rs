//! The tables for programs: docs/gc.md says what the fields mean.

use std::io;

use anyhow::Context as _;
use serde::Serialize;

use super::{CollectionsReport, Place};
use crate::{
    collections::{AUTOMATIC, Pauses, advice},
    python::collector::GENERATIONS,
    shown::{self, csv_field},
};

/// Changes when a field's meaning does; fields are added without.
const SCHEMA: &str = "profiler.gc/1";

/// One line for each line that sets collections off, by generation.
pub fn write_csv(report: &CollectionsReport, out: &mut dyn io::Write) -> anyhow::Result<()> {
    writeln!(out, "pid,generation,function,file,line,collections,pause_ns,longest_ns")?;
    for (place, pauses) in &report.places {
        writeln!(
            out,
            "{},{},{},{},{},{},{},{}",
            place.pid,
            if place.generation == AUTOMATIC {
                String::new()
            } else {
                place.generation.to_string()
            },
            csv_field(&place.function),
            csv_field(&place.file),
            if place.line > 0 {
                place.line.to_string()
            } else {
                String::new()
            },
            pauses.count,
            pauses.ns,
            pauses.longest_ns,
        )?;
    }
    Ok(())
}

pub fn write_json(report: &CollectionsReport, out: &mut dyn io::Write) -> anyhow::Result<()> {
    let file = File {
        schema: SCHEMA,
        length_s: report.length.as_secs_f64(),
        lost: report.lost,
        processes: (0..report.processes.len())
            .map(|index| Process::of(report, index))
            .collect(),
        lines: report
            .places
            .iter()
            .map(|(place, pauses)| Line::of(place, pauses))
            .collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &file).context("cannot write the collections as JSON")?;
    writeln!(out)?;
    Ok(())
}

#[derive(Serialize)]
struct File<'a> {
    schema: &'static str,
    length_s: f64,
    lost: u64,
    processes: Vec<Process>,
    lines: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Process {
    pid: u32,
    command: String,
    /// Of the recording, what was spent collecting.
    share: Option<f64>,
    /// Where that is estimated: half the width of the 95 % interval.
    share_error: Option<f64>,
    /// Each collection was seen to begin and to end.
    exact: bool,
    /// Of all generations, if each was seen.
    collections: Option<u64>,
    pause_ns: Option<u64>,
    longest_ns: Option<u64>,
    /// Pauses by the binary logarithm of their microseconds, rounded down.
    histogram: Vec<u64>,
    thresholds: Option<[i32; GENERATIONS]>,
    advice: Option<String>,
    generations: Vec<Generation>,
}

#[derive(Serialize)]
struct Generation {
    /// As seen one by one; as the interpreter counts them where they cannot be seen.
    collections: Option<u64>,
    pause_ns: Option<u64>,
    longest_ns: Option<u64>,
    /// Pauses by the binary logarithm of their microseconds, rounded down.
    histogram: Vec<u64>,
    /// As the interpreter counts objects.
    collected: Option<u64>,
    uncollectable: Option<u64>,
}

impl Process {
    fn of(report: &CollectionsReport, index: usize) -> Self {
        let process = &report.processes[index];
        let share = report.share(index);
        let collector = process.after.or(process.before);
        let is_seen = process.looks.is_none();
        let (is_told, all) = (report.tells_generations(index), report.all(index));
        Self {
            pid: process.pid,
            command: shown::line(&process.command),
            share: share.map(|(share, _)| share),
            share_error: share.and_then(|(_, error)| error),
            exact: is_seen && report.lost == 0,
            collections: is_seen.then_some(all.count),
            pause_ns: is_seen.then_some(all.ns),
            longest_ns: is_seen.then_some(all.longest_ns),
            histogram: all.histogram.to_vec(),
            thresholds: collector.map(|collector| collector.thresholds),
            advice: collector.filter(|_| is_seen).and_then(|collector| {
                let share = share.map_or(0.0, |(share, _)| share);
                advice(collector.thresholds, share, &report.by_generation[index], report.length)
            }),
            generations: (0..GENERATIONS)
                .map(|generation| {
                    let pauses = &report.by_generation[index][generation];
                    let stats = process.before.zip(process.after);
                    let stats = stats.map(|(before, after)| after.stats[generation].since(before.stats[generation]));
                    Generation {
                        collections: match is_told {
                            true => Some(pauses.count),
                            false => stats.map(|stats| stats.collections),
                        },
                        pause_ns: is_told.then_some(pauses.ns),
                        longest_ns: is_told.then_some(pauses.longest_ns),
                        histogram: pauses.histogram.to_vec(),
                        collected: stats.map(|stats| stats.collected),
                        uncollectable: stats.map(|stats| stats.uncollectable),
                    }
                })
                .collect(),
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    pid: u32,
    /// None where the collector chose it itself, from 3.13 on.
    generation: Option<usize>,
    function: &'a str,
    file: &'a str,
    line: u32,
    collections: u64,
    pause_ns: u64,
    longest_ns: u64,
}

impl<'a> Line<'a> {
    fn of(place: &'a Place, pauses: &Pauses) -> Self {
        Self {
            pid: place.pid,
            generation: (place.generation != AUTOMATIC).then_some(place.generation),
            function: &place.function,
            file: &place.file,
            line: place.line,
            collections: pauses.count,
            pause_ns: pauses.ns,
            longest_ns: pauses.longest_ns,
        }
    }
}
