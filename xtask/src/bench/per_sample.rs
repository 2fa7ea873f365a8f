//! CPU time for one sample: in the kernel, and in user space.

use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, bail};

use super::bpf_stats::BpfStats;
use super::cpu::Bench;
use super::interpreters::Interpreter;
use super::table::{Table, Unit};
use super::workload::DEEP;

/// One way of sampling.
struct Case {
    minor: &'static str,
    frames: usize,
    rate_hz: u32,
    /// Of those, how many are called by C code.
    callbacks: usize,
    /// Each is of a function of its own: code that repeats is looked at once.
    different: bool,
    /// With kernel and native stacks, as it is without options.
    whole: bool,
    goal_us: Option<f64>,
}

const CASES: [Case; 12] = [
    case("3.12", 30, 999, true, Some(2.5)),
    case("3.12", 30, 999, false, None),
    case("3.12", 30, 99, true, Some(6.0)),
    case("3.12", 30, 99, false, None),
    case("3.12", 400, 999, true, Some(15.0)),
    case("3.12", 400, 999, false, None),
    // 41 native frames beside the 30 of Python (3.12.1).
    Case {
        callbacks: 3,
        ..case("3.12", 30, 999, true, Some(25.0))
    },
    // Frames on the heap: each needs a read of its own.
    case("3.10", 30, 999, true, None),
    case("3.8", 30, 999, true, None),
    // Without numbers of code objects (3.12 on) every frame's is looked at.
    different("3.8"),
    different("3.11"),
    different("3.12"),
];

const fn different(minor: &'static str) -> Case {
    Case {
        different: true,
        ..case(minor, 30, 999, false, None)
    }
}

const fn case(minor: &'static str, frames: usize, rate_hz: u32, whole: bool, goal_us: Option<f64>) -> Case {
    Case {
        minor,
        frames,
        callbacks: 0,
        different: false,
        rate_hz,
        whole,
        goal_us,
    }
}

/// No sample may take longer.
const MOST_US: f64 = 200.0;

/// The case whose cost in user space is told.
const USER_SPACE: usize = 0;

#[derive(Default)]
struct Measured {
    bpf_us: Vec<f64>,
    longest_us: Vec<f64>,
    recording_us: Vec<f64>,
    whole_process_us: Vec<f64>,
}

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    let pythons: Vec<Option<Interpreter>> = CASES.iter().map(|case| bench.interpreters.minor(case.minor)).collect();
    let mut measured: [Measured; CASES.len()] = Default::default();
    let mut py_spy_us = Vec::new();
    for _ in bench.pairs.each() {
        for ((case, python), measured) in CASES.iter().zip(&pythons).zip(&mut measured) {
            if let Some(python) = python {
                run(bench, case, python, measured, table)?;
            }
        }
        py_spy_us.extend(py_spy(bench)?);
    }
    let cross_check = cross_check(bench);

    let mut longest = Vec::new();
    table.group("BPF time per sample, Python + native + kernel stacks");
    for ((case, python), measured) in CASES.iter().zip(&pythons).zip(&mut measured) {
        let version = python.as_ref().map_or(case.minor, |python| &python.version);
        let only = if case.whole { "" } else { ", --no-native --no-kernel" };
        let native = if case.callbacks > 0 { " and 41 native" } else { "" };
        let different = if case.different { " of different functions" } else { "" };
        let what = format!(
            "CPython {version}, {} frames{different}{native}, {} Hz{only}",
            case.frames, case.rate_hz
        );
        match python {
            Some(_) => {
                let values = std::mem::take(&mut measured.bpf_us);
                table.figure(what.clone(), Unit::Microseconds, values, case.goal_us);
                if case.whole {
                    let values = std::mem::take(&mut measured.longest_us);
                    longest.push((what, values));
                }
            }
            None => table.absent(what, format!("pyenv has no CPython {}", case.minor)),
        }
    }
    table.group("the longest of those samples");
    for (what, values) in longest {
        table.figure(what, Unit::Microseconds, values, MOST_US);
    }
    table.group("cross-check of the kernel time of a sample");
    match cross_check {
        Ok(check) => {
            let mut row = |what: &str, unit, value| table.figure(what, unit, vec![value], None);
            row(
                "cross-check: the profiler's own figure",
                Unit::Microseconds,
                check.own_us,
            );
            row(
                "cross-check: bpf_stats' run time per sample",
                Unit::Microseconds,
                check.kernel_us,
            );
            row("cross-check: bpf_stats' runs per sample", Unit::Ratio, check.runs);
        }
        Err(error) => table.absent("cross-check with bpf_stats", format!("{error:#}")),
    }

    table.group("CPU time per sample in user space, 30 frames");
    let Measured {
        recording_us,
        whole_process_us,
        ..
    } = std::mem::take(&mut measured[USER_SPACE]);
    table.figure(
        "profiler 999 Hz, while recording",
        Unit::Microseconds,
        recording_us,
        10.0,
    );
    table.figure(
        "profiler 999 Hz, start-up and naming included",
        Unit::Microseconds,
        whole_process_us,
        None,
    );
    match &bench.py_spy {
        Ok(_) => table.figure("py-spy 1000 Hz, while recording", Unit::Microseconds, py_spy_us, None),
        Err(why) => table.absent("py-spy 1000 Hz, while recording", why.clone()),
    }
    Ok(())
}

fn run(bench: &Bench, case: &Case, python: &Interpreter, measured: &mut Measured, table: &mut Table) -> Result<()> {
    let (frames, callbacks) = (case.frames.to_string(), case.callbacks.to_string());
    let mut wanted = vec![&*frames, &*callbacks];
    if case.different {
        wanted.push("different");
    }
    let target = bench.workloads.start(python, DEEP, &wanted, Some(bench.cpu))?;
    let (pid, rate) = (target.pid().to_string(), case.rate_hz.to_string());
    let mut arguments = vec!["-p", &*pid, "-r", &*rate];
    if !case.whole {
        arguments.extend(["--no-kernel", "--no-native"]);
    }
    let recorded = bench.profiler.record("folded", &arguments, bench.length)?;
    check_depth(&recorded.output, case)?;
    let summary = recorded.summary;
    table.lost("cost of a sample", summary.lost());
    measured.bpf_us.push(summary.bpf_us()?);
    measured.longest_us.push(summary.number("/cost/bpf_longest_ns")? / 1e3);
    measured.recording_us.push(summary.recording_us()?);
    measured
        .whole_process_us
        .push(recorded.ended.cpu.as_secs_f64() * 1e6 / summary.samples()?);
    Ok(())
}

/// A walk that stops early is a fast one: most of the samples must have every frame.
fn check_depth(folded: &Path, case: &Case) -> Result<()> {
    let text = fs::read_to_string(folded).with_context(|| format!("cannot read {}", folded.display()))?;
    let (whole, all) = depths(&text, case.frames);
    if whole < all * 0.95 || all == 0.0 {
        bail!(
            "only {whole} of {all} samples of CPython {} have {} Python frames",
            case.minor,
            case.frames
        );
    }
    Ok(())
}

/// Samples with that many frames of the script, and all samples.
fn depths(folded: &str, frames: usize) -> (f64, f64) {
    let mut counts = (0.0, 0.0);
    for line in folded.lines() {
        let Some((stack, samples)) = line.rsplit_once(' ') else {
            continue;
        };
        let samples: f64 = samples.parse().unwrap_or(0.0);
        counts.1 += samples;
        if stack.split(';').filter(|frame| frame.contains(DEEP)).count() == frames {
            counts.0 += samples;
        }
    }
    counts
}

fn py_spy(bench: &Bench) -> Result<Option<f64>> {
    let Ok(py_spy) = &bench.py_spy else { return Ok(None) };
    let target = bench
        .workloads
        .start(&bench.interpreters.main, DEEP, &["30"], Some(bench.cpu))?;
    let attached = py_spy.attach(target.pid(), 1000)?;
    thread::sleep(bench.length);
    let recorded = attached.stop()?;
    Ok(Some(recorded.cpu.as_secs_f64() * 1e6 / recorded.samples))
}

struct CrossCheck {
    own_us: f64,
    kernel_us: f64,
    runs: f64,
}

/// The kernel measures the whole program, its entry and the ticks that found nothing to sample included, and takes
/// time itself; the profiler's own figure is to be a little below.
fn cross_check(bench: &Bench) -> Result<CrossCheck> {
    let stats = BpfStats::enable()?;
    let target = bench
        .workloads
        .start(&bench.interpreters.main, DEEP, &["30"], Some(bench.cpu))?;
    let mut profiler = bench
        .profiler
        .start("folded", &["-p", &target.pid().to_string(), "-r", "999"])?;
    profiler.wait_until_ready()?;
    thread::sleep(bench.length);
    let kernel = stats.sampling(profiler.pid())?;
    let recorded = profiler.stop()?;
    let samples = recorded.summary.samples()?;
    Ok(CrossCheck {
        own_us: recorded.summary.bpf_us()?,
        kernel_us: kernel.nanoseconds as f64 / 1e3 / samples,
        runs: kernel.runs as f64 / samples,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_with_a_frame_missing_are_told_apart() {
        let folded = "<module> (deep.py:24);descend (deep.py:16);leaf (deep.py:10) 7\n\
                      <module> (deep.py:24);leaf (deep.py:10);do_syscall_64_[k] 2\n";
        assert_eq!(depths(folded, 3), (7.0, 9.0));
        assert_eq!(depths(folded, 2), (2.0, 9.0));
        assert_eq!(depths("", 2), (0.0, 0.0));
    }
}
