//! All modules, for programs: docs/imports.md says what the fields mean.

use std::io;

use anyhow::Context as _;
use serde::Serialize;

use super::{ImportsReport, Module};
use crate::shown::csv_field;

/// Changes when a field's meaning does; fields are added without.
const SCHEMA: &str = "profiler.imports/1";

pub fn write_csv(report: &ImportsReport, out: &mut dyn io::Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "pid,index,parent,depth,module,self_ns,cumulative_ns,cpu_ns,finished"
    )?;
    for (index, module) in report.modules.iter().enumerate() {
        writeln!(
            out,
            "{},{index},{},{},{},{},{},{},{}",
            module.pid,
            module.parent.map_or_else(String::new, |parent| parent.to_string()),
            module.depth,
            csv_field(&module.name),
            module.own_ns,
            module.cumulative_ns,
            module.cpu_ns,
            !module.is_unfinished,
        )?;
    }
    Ok(())
}

/// As `python -X importtime` prints it, which `tuna` reads: a module comes after those that it imports.
pub fn write_importtime(report: &ImportsReport, out: &mut dyn io::Write) -> anyhow::Result<()> {
    writeln!(out, "import time: self [us] | cumulative | imported package")?;
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); report.modules.len()];
    let mut roots = Vec::new();
    for (index, module) in report.modules.iter().enumerate() {
        match module.parent {
            Some(parent) => children[parent].push(index),
            None => roots.push(index),
        }
    }
    // Deep first, without recursion: who imports how deeply is the program's affair.
    let mut waiting: Vec<(usize, bool)> = roots.into_iter().rev().map(|root| (root, false)).collect();
    while let Some((index, is_done)) = waiting.pop() {
        if !is_done {
            waiting.push((index, true));
            waiting.extend(children[index].iter().rev().map(|&child| (child, false)));
            continue;
        }
        let module = &report.modules[index];
        writeln!(
            out,
            "import time: {:>9} | {:>10} | {}{}",
            micros(module.own_ns),
            micros(module.cumulative_ns),
            "  ".repeat(module.depth as usize),
            module.name
        )?;
    }
    Ok(())
}

fn micros(ns: u64) -> u64 {
    ns.div_ceil(1000)
}

pub fn write_json(report: &ImportsReport, out: &mut dyn io::Write) -> anyhow::Result<()> {
    let file = File {
        schema: SCHEMA,
        length_s: report.length.as_secs_f64(),
        total_ns: report.total_ns(),
        lost: report.lost,
        processes: report
            .commands
            .iter()
            .map(|(pid, command)| Process {
                pid: *pid,
                command: crate::shown::line(command),
            })
            .collect(),
        modules: report.modules.iter().map(Json::of).collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &file).context("cannot write the imports as JSON")?;
    writeln!(out)?;
    Ok(())
}

#[derive(Serialize)]
struct File {
    schema: &'static str,
    length_s: f64,
    total_ns: u64,
    lost: u64,
    processes: Vec<Process>,
    modules: Vec<Json>,
}

#[derive(Serialize)]
struct Process {
    pid: u32,
    command: String,
}

#[derive(Serialize)]
struct Json {
    pid: u32,
    module: String,
    /// Index of the one that imported it.
    parent: Option<usize>,
    depth: u32,
    self_ns: u64,
    cumulative_ns: u64,
    /// Of the cumulative time; the kernel accounts for it at ticks, so of some milliseconds it says little.
    cpu_ns: u64,
    finished: bool,
}

impl Json {
    fn of(module: &Module) -> Self {
        Self {
            pid: module.pid,
            module: module.name.clone(),
            parent: module.parent,
            depth: module.depth,
            self_ns: module.own_ns,
            cumulative_ns: module.cumulative_ns,
            cpu_ns: module.cpu_ns,
            finished: !module.is_unfinished,
        }
    }
}
