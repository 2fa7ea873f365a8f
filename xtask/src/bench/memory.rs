//! Memory with many Python processes on the machine.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::cpu::Bench;
use super::table::{Table, Unit};
use super::usage;
use super::workload::SYNTHETIC;

const PROCESSES: u32 = 50;
/// Long enough for each of them to be seen in most of its functions.
const LENGTH: Duration = Duration::from_secs(15);

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    let mut targets = (0..PROCESSES)
        .map(|index| {
            // Twelve calls deep, two ways to go on, busy for four fifths of the time it gets.
            let arguments = [&*index.to_string(), "12", "2", "0.8"];
            bench
                .workloads
                .spawn(&bench.interpreters.main, SYNTHETIC, &arguments, None)
        })
        .collect::<Result<Vec<_>>>()?;
    for target in &mut targets {
        target.wait_until_ready()?;
    }
    let mut profiler = bench.profiler.start("pb.gz", &["-a"])?;
    profiler.wait_until_ready()?;
    thread::sleep(LENGTH);
    let while_recording = usage::max_resident_bytes(profiler.pid())?;
    let recorded = profiler.stop()?;
    let summary = recorded.summary;

    table.group(format!(
        "memory with {PROCESSES} Python processes under -a, 99 Hz, {} s",
        LENGTH.as_secs()
    ));
    let mut row = |what: &str, bytes: f64, goal: Option<f64>| {
        table.figure(what, Unit::Mebibytes, vec![bytes / f64::from(1 << 20)], goal);
    };
    // As the kernel tells; the profiler's own figures are below, to be compared.
    row("resident while recording", while_recording as f64, Some(64.0));
    row(
        "resident while symbolizing",
        recorded.ended.max_resident_bytes as f64,
        Some(256.0),
    );
    row("kernel maps and rings", summary.number("/cost/map_bytes")?, None);
    row(
        "in its own words, while recording",
        summary.number("/cost/resident_bytes")?,
        None,
    );
    row("in its own words, at most", summary.number("/cost/peak_bytes")?, None);
    row("unwind tables", summary.number("/cost/unwind_bytes")?, Some(80.0));
    table.figure("samples", Unit::Number, vec![summary.samples()?], None);
    let mut milliseconds = |what: &str, pointer: &str, goal: Option<f64>| -> Result<()> {
        table.figure(what, Unit::Milliseconds, vec![summary.number(pointer)? * 1e3], goal);
        Ok(())
    };
    milliseconds(
        "CPU time for the unwind tables of all binaries",
        "/cost/unwind_cpu_s",
        Some(2000.0),
    )?;
    milliseconds("CPU time for the slowest of them", "/cost/unwind_longest_s", None)?;
    table.figure(
        "unwind tables",
        Unit::Number,
        vec![summary.number("/cost/unwind_tables")?],
        None,
    );
    let processes = summary.number("/processes")?;
    table.figure("processes sampled", Unit::Number, vec![processes], None);
    if processes < f64::from(PROCESSES) {
        table.note(format!("memory: only {processes} processes were sampled"));
    }
    table.lost("memory", summary.lost());
    Ok(())
}
