//! The same work with and without somebody who looks.

use anyhow::{Context as _, Result};

use super::Bench;
use super::watcher::Watcher;
use crate::bench::table::{Table, Unit};
use crate::bench::workload::{LOCKS, MIX, SWITCHES, Workload};

/// What a portion of work took.
#[derive(Clone, Copy)]
struct Took {
    cpu_s: f64,
    wall_s: f64,
}

impl Took {
    const MOST: Self = Self {
        cpu_s: f64::INFINITY,
        wall_s: f64::INFINITY,
    };

    fn least(self, other: Self) -> Self {
        Self {
            cpu_s: self.cpu_s.min(other.cpu_s),
            wall_s: self.wall_s.min(other.wall_s),
        }
    }
}

const PORTIONS: u64 = 12;

/// The first is what the others are compared with; the second shows how far apart two measurements of the same lie.
const WATCHERS: [Watcher; 7] = [
    Watcher::Nobody,
    Watcher::Nobody,
    Watcher::Waits,
    Watcher::Empty,
    Watcher::EveryWait,
    Watcher::PySpy,
    Watcher::PerfSched,
];

/// A program, and what of it is pinned to a CPU.
struct Subject {
    script: &'static str,
    cpu: Option<usize>,
    /// What is looked at is another one, which sleeps.
    is_other: bool,
}

/// What was measured: for each watcher, what a portion took or why that is not known.
struct Measured {
    rounds: u64,
    took: Vec<Result<Vec<Took>, String>>,
}

pub fn locks(bench: &Bench, table: &mut Table) -> Result<()> {
    let locks = |cpu| Subject {
        script: LOCKS,
        cpu,
        is_other: false,
    };
    let measured = measure(bench, &locks(None))?;
    let without = measured.took[0].as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
    let rates = without.iter().map(|took| measured.rounds as f64 / took.wall_s);
    table.group("two threads of a CPython 3.12 hand a lock to each other, as often as they can");
    table.figure("hand-overs a second, nobody looks", Unit::Number, rates.collect(), None);
    ratios(&measured, table, "wall time", |took| took.wall_s, Some(1.10));
    ratios(&measured, table, "CPU time", |took| took.cpu_s, None);
    // On two CPUs it depends on who gets which how often they have to switch, with and without somebody who looks.
    let measured = measure(bench, &locks(Some(bench.cpu)))?;
    table.group("the same on one CPU, where each time is a switch");
    ratios(&measured, table, "CPU time", |took| took.cpu_s, None);
    Ok(())
}

pub fn busy(bench: &Bench, table: &mut Table) -> Result<()> {
    let measured = measure(
        bench,
        &Subject {
            script: MIX,
            cpu: Some(bench.cpu),
            is_other: false,
        },
    )?;
    table.group("a program that never waits");
    ratios(&measured, table, "CPU time", |took| took.cpu_s, Some(1.005));
    Ok(())
}

pub fn others(bench: &Bench, table: &mut Table) -> Result<()> {
    let measured = measure(
        bench,
        &Subject {
            script: SWITCHES,
            cpu: Some(bench.cpu),
            is_other: true,
        },
    )?;
    table.group("what others pay for a switch, while a process that sleeps is looked at");
    let without = measured.took[0].as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
    let per_switch = |took: &Took| took.cpu_s * 1e6 / measured.rounds as f64;
    table.figure(
        "a switch takes, CPU time, nobody looks",
        Unit::Microseconds,
        without.iter().map(per_switch).collect(),
        None,
    );
    for (watcher, took) in WATCHERS.into_iter().zip(&measured.took).skip(1) {
        let goal = (watcher == Watcher::Waits).then_some(0.2);
        match took {
            Ok(took) => {
                let more = took
                    .iter()
                    .zip(without)
                    .map(|(with, without)| per_switch(with) - per_switch(without));
                table.figure(
                    format!("{}, more", watcher.name()),
                    Unit::Microseconds,
                    more.collect(),
                    goal,
                );
            }
            Err(why) => table.absent(watcher.name(), why.clone()),
        }
    }
    Ok(())
}

fn ratios(measured: &Measured, table: &mut Table, what: &str, time: fn(&Took) -> f64, goal: Option<f64>) {
    let Ok(without) = &measured.took[0] else { return };
    for (watcher, took) in WATCHERS.into_iter().zip(&measured.took).skip(1) {
        let goal = goal.filter(|_| watcher == Watcher::Waits);
        let name = format!("{}, {what}", watcher.name());
        match took {
            Ok(took) => {
                let ratios = took
                    .iter()
                    .zip(without)
                    .map(|(with, without)| time(with) / time(without));
                table.figure(name, Unit::Ratio, ratios.collect(), goal);
            }
            Err(why) => table.absent(name, why.clone()),
        }
    }
}

fn measure(bench: &Bench, subject: &Subject) -> Result<Measured> {
    let rounds = calibrate(bench, subject)?;
    let mut took: Vec<Result<Vec<Took>, String>> = WATCHERS.map(|_| Ok(Vec::new())).into();
    let sleeper = bench.workloads.start(&bench.interpreters.main, MIX, &[], None)?;
    for pair in bench.pairs.each() {
        // One process for the whole round, or its luck with addresses and caches would be measured too.
        let mut workload = start(bench, subject)?;
        work(&mut workload, rounds / 4 + 2)?;
        let pid = if subject.is_other {
            sleeper.pid()
        } else {
            workload.pid()
        };
        for step in 0..WATCHERS.len() {
            // Another one first each time: a machine that warms up or slows down wrongs nobody.
            let which = (pair + step) % WATCHERS.len();
            let Ok(all) = &mut took[which] else { continue };
            match watched(bench, &mut workload, rounds, WATCHERS[which], pid) {
                Ok(portion) => all.push(portion),
                Err(error) if WATCHERS[which] == Watcher::Nobody || WATCHERS[which] == Watcher::Waits => {
                    return Err(error);
                }
                Err(error) => took[which] = Err(format!("{error:#}")),
            }
        }
    }
    let rounds = rounds.div_ceil(PORTIONS);
    Ok(Measured { rounds, took })
}

fn watched(bench: &Bench, workload: &mut Workload, rounds: u64, watcher: Watcher, pid: u32) -> Result<Took> {
    let watching = bench.watchers.attach(watcher, pid)?;
    // In portions, of which the quickest counts: others on the machine take their caches from it, and never give any.
    let mut took = Took::MOST;
    for _ in 0..PORTIONS {
        took = took.least(work(workload, rounds.div_ceil(PORTIONS))?);
    }
    if let Some(watching) = watching {
        watching.stop()?;
    }
    Ok(took)
}

fn start(bench: &Bench, subject: &Subject) -> Result<Workload> {
    bench
        .workloads
        .start(&bench.interpreters.main, subject.script, &[], subject.cpu)
}

/// How many rounds of work take as long as a measurement is to take.
fn calibrate(bench: &Bench, subject: &Subject) -> Result<u64> {
    const ROUNDS: u64 = 100;
    let mut workload = start(bench, subject)?;
    // The first run warms up: from 3.11 on, the interpreter specializes its instructions.
    let mut rounds = ROUNDS;
    work(&mut workload, rounds)?;
    loop {
        let took = work(&mut workload, rounds)?;
        // Long enough to be told from the start of a thread.
        if took.wall_s > 0.1 {
            return Ok(((rounds as f64 * bench.length.as_secs_f64() / took.wall_s) as u64).max(1));
        }
        rounds *= 4;
    }
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
