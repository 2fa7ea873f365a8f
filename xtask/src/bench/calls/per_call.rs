//! What counting adds to a call, beside cProfile and beside the trap by itself.

use anyhow::{Result, bail};

use super::portion::{Took, calibrate, start, work};
use super::programs::YARDSTICK;
use super::{Bench, UNBOUNDED};
use crate::bench::interpreters::Interpreter;
use crate::bench::table::{Table, Unit};

/// What is done under observation is so much less: it takes several times as long.
const OBSERVED: u64 = 5;

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    // Up to 3.10 the probe is at the loop's entry, later where frames end.
    let older = bench.interpreters.minor("3.10");
    let newer = bench.interpreters.minor("3.13");
    for interpreter in [older, Some(bench.interpreters.main.clone()), newer]
        .into_iter()
        .flatten()
    {
        of(bench, &interpreter, table)?;
    }
    Ok(())
}

fn of(bench: &Bench, interpreter: &Interpreter, table: &mut Table) -> Result<()> {
    table.group(format!(
        "a program that only calls, CPython {}: nanoseconds of CPU time for a call, its loop included",
        interpreter.version
    ));
    let rounds = calibrate(&mut start(bench, interpreter, YARDSTICK, &[])?)?;
    let (mut nobody, mut profiled, mut counted, mut timed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut trap_ns = Vec::new();
    for pair in bench.pairs.each() {
        // One process for the whole round, or its luck with addresses and caches (about 2 %) would be measured too.
        let mut workload = start(bench, interpreter, YARDSTICK, &[])?;
        work(&mut workload, "", rounds / 4 + 1)?;
        for step in 0..4 {
            // Another one first each time: a machine that warms up or slows down wrongs nobody.
            match (pair + step) % 4 {
                0 => nobody.push(work(&mut workload, "", rounds)?),
                1 => profiled.push(work(&mut workload, "cprofile", rounds / OBSERVED + 1)?),
                which => {
                    let chosen = ["--function", "yardstick.py:called"];
                    let more = if which == 2 { &[][..] } else { &chosen[..] };
                    let arguments: Vec<&str> = UNBOUNDED.iter().chain(more).copied().collect();
                    let counting = bench.counter.attach(workload.pid(), &arguments)?;
                    counting.settle();
                    let took = work(&mut workload, "", rounds / OBSERVED + 1)?;
                    let counts = counting.stop()?;
                    // A profiler that does not count costs nothing: its figure must not stand in the table.
                    let (found, known) = (counts.calls_of("called")?, (rounds / OBSERVED + 1) * 1000);
                    if found != known {
                        bail!("{found} calls were counted, not {known}");
                    }
                    trap_ns.push(counts.trap_ns()?);
                    table.lost("cost of a call", counts.lost());
                    if which == 2 { &mut counted } else { &mut timed }.push(took);
                }
            }
        }
    }
    report(&nobody, &[profiled, counted, timed], trap_ns, table);
    Ok(())
}

fn report(nobody: &[Took], watched: &[Vec<Took>; 3], trap_ns: Vec<f64>, table: &mut Table) {
    let nanos = |took: &[Took]| took.iter().map(Took::per_call_ns).collect();
    table.figure("nobody", Unit::Number, nanos(nobody), None);
    let names = ["cProfile", "profiler calls", "profiler calls --function"];
    for (name, took) in names.into_iter().zip(watched) {
        table.figure(name, Unit::Number, nanos(took), None);
    }
    for (name, took) in names.into_iter().zip(watched) {
        let ratios = took
            .iter()
            .zip(nobody)
            .map(|(with, without)| with.per_call_ns() / without.per_call_ns());
        table.figure(format!("{name}, times as long"), Unit::Ratio, ratios.collect(), None);
    }
    // Two recordings a round measure it.
    let traps: Vec<f64> = trap_ns
        .chunks(2)
        .map(|pair| pair.iter().sum::<f64>() / pair.len() as f64)
        .collect();
    table.figure(
        "a trap by itself, as the profiler measures it",
        Unit::Number,
        trap_ns,
        None,
    );
    let added = watched[1].iter().zip(nobody).zip(&traps);
    let added = added.map(|((with, without), trap)| (with.per_call_ns() - without.per_call_ns()) / trap);
    table.figure(
        "profiler calls, what it adds to a call, in traps",
        Unit::Ratio,
        added.collect(),
        None,
    );
}
