//! From Ctrl-C to the end of the profiler, with many samples to be named and written.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::cpu::Bench;
use super::profiler::Recorded;
use super::table::{Table, Unit};
use super::workload::{SYNTHETIC, Workload};

const SAMPLES: f64 = 100_000.0;
/// The profiler's highest.
const RATE_HZ: u32 = 20_000;
const PROCESSES: usize = 4;

/// What is written, and whether the machine stays busy meanwhile.
struct Case {
    what: &'static str,
    ending: &'static str,
    stays_busy: bool,
    goal_ms: Option<f64>,
}

const CASES: [Case; 3] = [
    Case {
        what: "svg",
        ending: "svg",
        stays_busy: true,
        goal_ms: Some(1000.0),
    },
    Case {
        what: "pprof",
        ending: "pb.gz",
        stays_busy: true,
        goal_ms: Some(1000.0),
    },
    Case {
        what: "pprof, the targets suspended at Ctrl-C",
        ending: "pb.gz",
        stays_busy: false,
        goal_ms: None,
    },
];

#[derive(Default)]
struct Measured {
    stopping_ms: Vec<f64>,
    naming_ms: Vec<f64>,
    write_ms: Vec<f64>,
    samples: Vec<f64>,
}

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    let (length, stacks) = calibrate(bench)?;
    let mut measured: [Measured; CASES.len()] = Default::default();
    for _ in bench.pairs.each() {
        for (case, measured) in CASES.iter().zip(&mut measured) {
            let recorded = record(bench, case, length)?;
            let summary = recorded.summary;
            measured.stopping_ms.push(recorded.stopping.as_secs_f64() * 1e3);
            measured.naming_ms.push(summary.number("/cost/naming_s")? * 1e3);
            measured.write_ms.push(summary.number("/cost/write_s")? * 1e3);
            measured.samples.push(summary.samples()?);
            table.lost("output", summary.lost());
        }
    }
    table.group(format!(
        "from Ctrl-C to the end, -a at {RATE_HZ} Hz, {PROCESSES} busy processes"
    ));
    let mut samples = Vec::new();
    for (case, measured) in CASES.iter().zip(measured) {
        table.figure(case.what, Unit::Milliseconds, measured.stopping_ms, case.goal_ms);
        table.figure(
            format!("{}: naming", case.what),
            Unit::Milliseconds,
            measured.naming_ms,
            None,
        );
        table.figure(
            format!("{}: writing", case.what),
            Unit::Milliseconds,
            measured.write_ms,
            None,
        );
        samples.extend(measured.samples);
    }
    let enough = samples.iter().all(|&samples| samples >= SAMPLES);
    table.figure("samples", Unit::Number, samples, None);
    table.figure("different stacks, as named", Unit::Number, vec![stacks], None);
    if !enough {
        table.note(format!("output: some recordings have fewer than {SAMPLES} samples"));
    }
    Ok(())
}

/// How long to record for enough samples, and how many different stacks these have.
fn calibrate(bench: &Bench) -> Result<(Duration, f64)> {
    const TRIES: usize = 4;
    /// Above what is needed: a busy machine does not give the same each time.
    const RESERVE: f64 = 1.15;
    let folded = Case {
        what: "folded",
        ending: "folded",
        stays_busy: true,
        goal_ms: None,
    };
    let mut length = Duration::from_secs_f64(SAMPLES * RESERVE / (f64::from(RATE_HZ) * bench.cpus as f64));
    for _ in 0..TRIES {
        let recorded = record(bench, &folded, length)?;
        let samples = recorded.summary.samples()?;
        if samples >= SAMPLES {
            let text =
                fs::read(&recorded.output).with_context(|| format!("cannot read {}", recorded.output.display()))?;
            let stacks = text.iter().filter(|&&byte| byte == b'\n').count();
            return Ok((length, stacks as f64));
        }
        length = length.mul_f64((SAMPLES * RESERVE / samples.max(1.0)).clamp(1.1, 4.0));
    }
    bail!("{SAMPLES} samples could not be had at {RATE_HZ} Hz within {length:?}")
}

fn record(bench: &Bench, case: &Case, length: Duration) -> Result<Recorded> {
    let mut targets = (0..PROCESSES)
        .map(|index| {
            // Eight calls deep, three ways to go on: some ten thousand stacks in each process. Busy all the time.
            let arguments = [&*index.to_string(), "8", "3", "1"];
            bench
                .workloads
                .spawn(&bench.interpreters.main, SYNTHETIC, &arguments, None)
        })
        .collect::<Result<Vec<_>>>()?;
    targets.iter_mut().try_for_each(Workload::wait_until_ready)?;
    let mut profiler = bench.profiler.start(case.ending, &["-a", "-r", &RATE_HZ.to_string()])?;
    profiler.wait_until_ready()?;
    thread::sleep(length);
    if !case.stays_busy {
        targets.iter().try_for_each(Workload::suspend)?;
    }
    profiler.stop()
}
