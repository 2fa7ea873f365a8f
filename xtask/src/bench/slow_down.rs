//! What a CPU-bound CPython loses while it is profiled.

use anyhow::{Context as _, Result, bail};

use super::cpu::Bench;
use super::table::{Table, Unit};
use super::workload::{MIX, Workload};

/// Who looks at the target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watcher {
    Nobody,
    Profiler(u32),
    PySpy(u32),
}

/// The second `Nobody` shows how far apart two measurements of the same thing lie.
const WATCHERS: [Watcher; 6] = [
    Watcher::Nobody,
    Watcher::Profiler(99),
    Watcher::PySpy(100),
    Watcher::Nobody,
    Watcher::Profiler(999),
    Watcher::PySpy(1000),
];

/// What a portion of work took.
#[derive(Clone, Copy)]
struct Took {
    cpu_s: f64,
    wall_s: f64,
}

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    let python = &bench.interpreters.main;
    table.group(format!(
        "slow-down of a CPU-bound CPython {}, the same work with and without",
        python.version
    ));
    let rounds = calibrate(bench)?;
    let mut took: [Vec<Took>; WATCHERS.len()] = Default::default();
    let mut bpf_us: [Vec<f64>; WATCHERS.len()] = Default::default();
    for pair in bench.pairs.each() {
        // One process for the whole round, or its luck with addresses and caches (about 2 %) would be measured too.
        let mut workload = start(bench)?;
        work(&mut workload, rounds / 4 + 1)?;
        for step in 0..WATCHERS.len() {
            // Another one first each time: a machine that warms up or slows down wrongs nobody.
            let which = (pair + step) % WATCHERS.len();
            if let Some((portion, bpf)) = watched(bench, &mut workload, rounds, WATCHERS[which], table)? {
                took[which].push(portion);
                bpf_us[which].extend(bpf);
            }
        }
    }
    report(bench, &took, &bpf_us, table);
    Ok(())
}

fn report(bench: &Bench, took: &[Vec<Took>], bpf_us: &[Vec<f64>], table: &mut Table) {
    for (which, watcher) in WATCHERS.into_iter().enumerate().skip(1) {
        let (what, goal) = match watcher {
            Watcher::Nobody => ("nobody, once more".to_owned(), None),
            Watcher::Profiler(99) => ("profiler 99 Hz".to_owned(), Some(1.01)),
            Watcher::Profiler(rate) => (format!("profiler {rate} Hz"), Some(1.03)),
            Watcher::PySpy(rate) => (format!("py-spy {rate} Hz"), None),
        };
        if let (Watcher::PySpy(_), Err(why)) = (watcher, &bench.py_spy) {
            table.absent(what, why.clone());
            continue;
        }
        let ratios = |time: fn(&Took) -> f64| {
            took[which]
                .iter()
                .zip(&took[0])
                .map(|(with, without)| time(with) / time(without))
                .collect()
        };
        table.figure(
            format!("{what}, wall time"),
            Unit::Ratio,
            ratios(|took| took.wall_s),
            goal,
        );
        table.figure(
            format!("{what}, target's CPU time"),
            Unit::Ratio,
            ratios(|took| took.cpu_s),
            goal,
        );
    }
    for (watcher, bpf_us) in WATCHERS.into_iter().zip(bpf_us) {
        if let Watcher::Profiler(rate) = watcher {
            let what = format!("BPF time per sample of this work at {rate} Hz");
            table.figure(what, Unit::Microseconds, bpf_us.clone(), None);
        }
    }
}

/// Has a portion of work done under observation. What comes with it is the profiler's BPF time per sample.
fn watched(
    bench: &Bench,
    workload: &mut Workload,
    rounds: u64,
    watcher: Watcher,
    table: &mut Table,
) -> Result<Option<(Took, Option<f64>)>> {
    let pid = workload.pid();
    match watcher {
        Watcher::Nobody => Ok(Some((work(workload, rounds)?, None))),
        Watcher::Profiler(rate) => {
            let mut profiler = bench
                .profiler
                .start("pb.gz", &["-p", &pid.to_string(), "-r", &rate.to_string()])?;
            profiler.wait_until_ready()?;
            let took = work(workload, rounds)?;
            let recorded = profiler.stop()?;
            let samples = recorded.summary.samples()?;
            check_samples("the profiler", samples, rate, took)?;
            table.lost("slow-down", recorded.summary.lost());
            Ok(Some((took, Some(recorded.summary.bpf_us()?))))
        }
        Watcher::PySpy(rate) => {
            let Ok(py_spy) = &bench.py_spy else { return Ok(None) };
            let attached = py_spy.attach(pid, rate)?;
            let took = work(workload, rounds)?;
            let samples = attached.stop()?.samples;
            let share = samples / (took.wall_s * f64::from(rate));
            if share < 0.9 {
                table.note(format!(
                    "slow-down: py-spy at {rate} Hz took only {:.0} % of its samples",
                    share * 100.0
                ));
            }
            Ok(Some((took, None)))
        }
    }
}

/// A profiler that does nothing costs nothing: its figure must not stand in the table.
fn check_samples(who: &str, samples: f64, rate_hz: u32, took: Took) -> Result<()> {
    let expected = took.cpu_s * f64::from(rate_hz);
    // Off by a tenth: time in other interrupts counts as the target's but is not sampled.
    if (samples - expected).abs() > expected * 0.1 + 5.0 {
        bail!(
            "{who} took {samples} samples in {:.2} s of CPU time at {rate_hz} Hz, not about {expected:.0}",
            took.cpu_s
        );
    }
    Ok(())
}

fn start(bench: &Bench) -> Result<Workload> {
    bench
        .workloads
        .start(&bench.interpreters.main, MIX, &[], Some(bench.cpu))
}

/// How many rounds of work take as long as a measurement is to take.
fn calibrate(bench: &Bench) -> Result<u64> {
    const ROUNDS: u64 = 100;
    let mut workload = start(bench)?;
    // The first run warms up: from 3.11 on, the interpreter specializes its instructions.
    work(&mut workload, ROUNDS)?;
    let took = work(&mut workload, ROUNDS)?;
    Ok(((ROUNDS as f64 * bench.length.as_secs_f64() / took.cpu_s.max(1e-3)) as u64).max(1))
}

fn work(workload: &mut Workload, rounds: u64) -> Result<Took> {
    let answer = workload.ask(&rounds.to_string())?;
    let number = |name: &str| {
        answer[name]
            .as_f64()
            .with_context(|| format!("the workload did not tell {name}"))
    };
    Ok(Took {
        cpu_s: number("cpu_s")?,
        wall_s: number("wall_s")?,
    })
}
