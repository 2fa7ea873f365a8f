//! Start-up with few and with many processes on the machine: it may grow by what reading /proc once takes, no more.

use std::fs;
use std::io::Read as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::cpu::Bench;
use super::spread::Spread;
use super::table::{Table, Unit};
use super::workload::{DEEP, SLEEPERS};

const FEW: u32 = 10;
const MANY: u32 = 500;
const LENGTH: Duration = Duration::from_millis(500);

/// Times until the first sample, in ms.
#[derive(Default)]
struct Measured {
    of_one: Vec<f64>,
    of_all: Vec<f64>,
    of_all_cpu: Vec<f64>,
    reading_proc: Vec<f64>,
}

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    let target = bench
        .workloads
        .start(&bench.interpreters.main, DEEP, &["30"], Some(bench.cpu))?;
    let pid = target.pid().to_string();
    let (mut few, mut many) = (Measured::default(), Measured::default());
    for _ in bench.pairs.each() {
        for (processes, measured) in [(FEW, &mut few), (MANY, &mut many)] {
            let sleepers =
                bench
                    .workloads
                    .start(&bench.interpreters.main, SLEEPERS, &[&processes.to_string()], None)?;
            // At a high rate: waiting for the next tick is no part of the start.
            let of_one = bench
                .profiler
                .record("folded", &["-p", &pid, "-r", "999"], LENGTH)?
                .summary;
            let of_all = bench.profiler.record("folded", &["-a", "-r", "999"], LENGTH)?.summary;
            measured.of_one.push(of_one.number("/cost/first_sample_after_s")? * 1e3);
            measured.of_all.push(of_all.number("/cost/first_sample_after_s")? * 1e3);
            measured.of_all_cpu.push(of_all.number("/cost/start_up_cpu_s")? * 1e3);
            measured.reading_proc.push(read_proc()?.as_secs_f64() * 1e3);
            sleepers.end()?;
        }
    }
    table.group(format!(
        "start-up with {FEW} and with {MANY} sleeping CPython processes more, 999 Hz"
    ));
    // Of neighbours in time, so that what slows the machine down slows both down.
    let growth =
        |few: &[f64], many: &[f64]| -> Vec<f64> { many.iter().zip(few).map(|(many, few)| many - few).collect() };
    let grown_one = growth(&few.of_one, &many.of_one);
    let grown_all = growth(&few.of_all, &many.of_all);
    let grown_proc = growth(&few.reading_proc, &many.reading_proc);
    let grown_cpu = growth(&few.of_all_cpu, &many.of_all_cpu);
    let allowed = Spread::of(grown_proc.clone())?.median();
    let mut row =
        |what: &str, values: Vec<f64>, goal: Option<f64>| table.figure(what, Unit::Milliseconds, values, goal);
    for (processes, measured) in [(FEW, few), (MANY, many)] {
        row(&format!("with {processes}: first sample of -p"), measured.of_one, None);
        row(&format!("with {processes}: first sample of -a"), measured.of_all, None);
        row(
            &format!("with {processes}: CPU time until -a samples"),
            measured.of_all_cpu,
            None,
        );
        row(
            &format!("with {processes}: reading /proc/*/maps once"),
            measured.reading_proc,
            None,
        );
    }
    row("growth of reading /proc/*/maps once", grown_proc, None);
    row("growth of the first sample of -p", grown_one, Some(allowed));
    row("growth of the first sample of -a", grown_all, Some(allowed));
    row("growth of the CPU time until -a samples", grown_cpu, Some(allowed));
    Ok(())
}

/// What it takes to read the mappings of every process: the yardstick. It is what a profiler of the whole machine has
/// to know of each of them.
fn read_proc() -> Result<Duration> {
    let started = Instant::now();
    let mut text = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let path = entry.context("cannot list /proc")?.path();
        let is_process = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
        if is_process && let Ok(mut maps) = fs::File::open(path.join("maps")) {
            text.clear();
            // A process may end meanwhile.
            let _ = maps.read_to_end(&mut text);
        }
    }
    Ok(started.elapsed())
}
