//! Whether `--max-overhead` keeps its promise where it is hardest to keep.

use anyhow::Result;

use super::Bench;
use super::portion::{calibrate, start, work};
use super::programs::YARDSTICK;
use crate::bench::table::{Table, Unit};

const BUDGET: &str = "1.5";
const GOAL: f64 = 1.6;

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    let python = &bench.interpreters.main;
    let rounds = calibrate(&mut start(bench, python, YARDSTICK, &[])?)?;
    for (name, more) in [
        ("", &[][..]),
        (", one function", &["--function", "yardstick.py:called"][..]),
    ] {
        table.group(format!(
            "--max-overhead {BUDGET}{name}, a program that only calls: times as long as with nobody"
        ));
        let (mut cpu, mut wall, mut observed) = (Vec::new(), Vec::new(), Vec::new());
        for pair in bench.pairs.each() {
            let mut workload = start(bench, python, YARDSTICK, &[])?;
            work(&mut workload, "", rounds / 4 + 1)?;
            let mut without = None;
            if pair % 2 == 0 {
                without = Some(work(&mut workload, "", rounds)?);
            }
            let arguments: Vec<&str> = ["--max-overhead", BUDGET].iter().chain(more).copied().collect();
            let counting = bench.counter.attach(workload.pid(), &arguments)?;
            // No settling: what attaching costs is the program's loss as well.
            let with = work(&mut workload, "", rounds)?;
            let counted = counting.stop()?;
            let without = match without {
                Some(without) => without,
                None => work(&mut workload, "", rounds)?,
            };
            cpu.push(with.cpu_s / without.cpu_s);
            wall.push(with.wall_s / without.wall_s);
            observed.push(counted.number("observed_s")? / counted.number("length_s")?);
            table.lost("the budget", counted.lost());
        }
        table.figure("target's CPU time", Unit::Ratio, cpu, GOAL);
        table.figure("wall time", Unit::Ratio, wall, GOAL);
        table.figure("the share of the time that was counted", Unit::Ratio, observed, None);
    }
    Ok(())
}
