//! What a program loses when one function of it, called a thousand times a second, is timed.

use anyhow::{Result, bail};

use super::portion::{calibrate, start, work};
use super::programs::OFTEN;
use super::{Bench, UNBOUNDED};
use crate::bench::table::{Table, Unit};

const GOAL: f64 = 1.02;
const CALLS_A_SECOND: f64 = 1000.0;
/// Of the rest of a round, to begin with.
const STEPS: f64 = 10_000.0;
/// Calls of another function for each of the chosen one. A probe is hit by all of them.
const OTHERS: [u32; 2] = [0, 100];
/// In turn: nobody, these, and nobody once more.
const MEANS: [&[&str]; 2] = [&[], &["--via", "breakpoints"]];

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    OTHERS.into_iter().try_for_each(|others| beside(bench, others, table))
}

fn beside(bench: &Bench, others: u32, table: &mut Table) -> Result<()> {
    let python = &bench.interpreters.main;
    let others_text = others.to_string();
    let mut probe = start(bench, python, OFTEN, &[&STEPS.to_string(), &others_text])?;
    let rounds = calibrate(&mut probe)?;
    let took = work(&mut probe, "", rounds)?;
    drop(probe);
    let steps = (STEPS / CALLS_A_SECOND / (took.cpu_s / took.calls)).round().to_string();
    let arguments = [steps.as_str(), others_text.as_str()];
    let rounds = calibrate(&mut start(bench, python, OFTEN, &arguments)?)?;

    let mut took: [Vec<_>; MEANS.len() + 2] = Default::default();
    let mut rate = Vec::new();
    for pair in bench.pairs.each() {
        let mut workload = start(bench, python, OFTEN, &arguments)?;
        work(&mut workload, "", rounds / 4 + 1)?;
        for step in 0..took.len() {
            let which = (pair + step) % took.len();
            let Some(means) = which.checked_sub(1).and_then(|means| MEANS.get(means)) else {
                took[which].push(work(&mut workload, "", rounds)?);
                continue;
            };
            let function = ["--function", "often.py:chosen"];
            let arguments = UNBOUNDED.into_iter().chain(function).chain(means.iter().copied());
            let counting = bench.counter.attach(workload.pid(), &arguments.collect::<Vec<_>>())?;
            counting.settle();
            // With this call it becomes known what is to be watched.
            work(&mut workload, "", 1)?;
            counting.settle();
            let portion = work(&mut workload, "", rounds)?;
            let counted = counting.stop()?;
            let found = counted.calls_of("chosen")?;
            if found != rounds + 1 {
                bail!("{found} calls were counted, not {}", rounds + 1);
            }
            let (hits, least) = (counted.watch_hits()?, if means.is_empty() { 0 } else { 2 * rounds });
            if hits < least {
                bail!("breakpoints were hit {hits} times, not {least}");
            }
            table.lost("a chosen function", counted.lost());
            rate.push(rounds as f64 / portion.wall_s);
            took[which].push(portion);
        }
    }
    let beside = match others {
        0 => "calls nothing else".to_owned(),
        others => format!("makes {others} other calls for each of its calls"),
    };
    table.group(format!(
        "one chosen function of a CPU-bound program that {beside}, times as long as with nobody"
    ));
    let goal = (others == 0).then_some(GOAL);
    let [nobody, chosen, watched, again] = &took;
    for (name, with, goal) in [
        ("profiler calls --function", chosen, goal),
        ("profiler calls --function --via breakpoints", watched, None),
        ("nobody, once more", again, None),
    ] {
        let pairs = || with.iter().zip(nobody);
        let cpu = pairs().map(|(with, without)| with.cpu_s / without.cpu_s).collect();
        table.figure(format!("{name}, target's CPU time"), Unit::Ratio, cpu, goal);
        let wall = pairs().map(|(with, without)| with.wall_s / without.wall_s).collect();
        table.figure(format!("{name}, wall time"), Unit::Ratio, wall, goal);
    }
    table.figure("its calls a second", Unit::Number, rate, None);
    Ok(())
}
