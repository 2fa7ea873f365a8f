//! What programs lose while their memory is watched: the same work with and without.

use anyhow::{Context as _, Result};

use super::peers::Peer;
use super::programs::{ALLOCATE, TOUCH};
use super::{Bench, LENGTH};
use crate::bench::interpreters::Interpreter;
use crate::bench::table::{Table, Unit};
use crate::bench::workload::{MIX, Workload};

/// A program to be watched, and how little it may lose to growth mode.
struct Program {
    what: &'static str,
    script: String,
    interpreter: Interpreter,
    goal: f64,
    peers: &'static [Peer],
}

/// Who looks at a process that runs already. The second `Nobody` shows how far apart two measurements of the same thing lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watcher {
    Nobody,
    Growth,
    NobodyAgain,
}

const WATCHERS: [Watcher; 3] = [Watcher::Nobody, Watcher::Growth, Watcher::NobodyAgain];
const PEERS: [Peer; 3] = [Peer::Memray, Peer::MemrayPython, Peer::Tracemalloc];
/// Peers cost a multiple, so they do less: figures are for one round.
const PEERS_DO: u64 = 3;

/// What one round of a program's work took.
#[derive(Clone, Copy)]
struct Took {
    cpu_s: f64,
    wall_s: f64,
}

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    let python = bench.interpreters.main.clone();
    let programs = [
        Program {
            what: "allocates and frees small objects",
            script: bench.programs.path(ALLOCATE),
            interpreter: python.clone(),
            goal: 1.05,
            peers: &PEERS,
        },
        Program {
            what: "is CPU-bound, as `bench cpu` has it",
            script: MIX.to_owned(),
            interpreter: python.clone(),
            goal: 1.01,
            peers: &PEERS,
        },
        Program {
            what: "touches new memory, 64 MiB at a time",
            script: bench.programs.path(TOUCH),
            interpreter: python,
            goal: 1.10,
            peers: &PEERS,
        },
        Program {
            what: "touches new memory, in C, a byte of each page",
            script: String::new(),
            interpreter: bench.programs.touch_in_c()?,
            goal: 1.10,
            peers: &[],
        },
    ];
    for program in &programs {
        measure_program(bench, program, table)?;
    }
    Ok(())
}

fn measure_program(bench: &Bench, program: &Program, table: &mut Table) -> Result<()> {
    eprintln!("xtask:  a program that {}", program.what);
    table.group(format!("slow-down of a program that {}", program.what));
    let rounds = calibrate(bench, program)?;
    let mut took: [Vec<Took>; WATCHERS.len()] = Default::default();
    let mut peers: Vec<Vec<Took>> = vec![Vec::new(); program.peers.len()];
    let (mut growth_fails, mut peer_fails) = (None, vec![None; program.peers.len()]);
    for pair in bench.pairs.each() {
        // One process for the whole round, or its luck with addresses and caches (about 2 %) would be measured too.
        let mut workload = start(bench, program, &program.interpreter)?;
        work(&mut workload, rounds / 4 + 1)?;
        for step in 0..WATCHERS.len() {
            // Another one first each time: a machine that warms up or slows down wrongs nobody.
            let which = (pair + step) % WATCHERS.len();
            if WATCHERS[which] != Watcher::Growth {
                took[which].push(work(&mut workload, rounds)?);
            } else if growth_fails.is_none() {
                match watched(bench, &mut workload, rounds, table) {
                    Ok(portion) => took[which].push(portion),
                    Err(error) => growth_fails = Some(first_line(&error)),
                }
            }
        }
        drop(workload);
        for (which, peer) in program.peers.iter().enumerate() {
            if peer_fails[which].is_none() {
                match under_peer(bench, program, *peer, rounds) {
                    Ok(portion) => peers[which].push(portion),
                    Err(error) => peer_fails[which] = Some(first_line(&error)),
                }
            }
        }
    }
    row(
        table,
        "growth mode",
        &took[1],
        &took[0],
        Some(program.goal),
        growth_fails,
    );
    row(table, "nobody, once more", &took[2], &took[0], None, None);
    for ((peer, portions), fails) in program.peers.iter().zip(&peers).zip(peer_fails) {
        row(table, peer.name(), portions, &took[0], None, fails);
    }
    Ok(())
}

fn row(table: &mut Table, what: &str, with: &[Took], without: &[Took], goal: Option<f64>, fails: Option<String>) {
    if let Some(why) = fails {
        table.absent(what, why);
        return;
    }
    let ratios = |time: fn(&Took) -> f64| {
        with.iter()
            .zip(without)
            .map(move |(with, without)| time(with) / time(without))
    };
    let cpu = ratios(|took| took.cpu_s).collect();
    table.figure(format!("{what}, target's CPU time"), Unit::Ratio, cpu, goal);
    let wall = ratios(|took| took.wall_s).collect();
    table.figure(format!("{what}, wall time"), Unit::Ratio, wall, None);
}

/// Of a table's row there is one line.
fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

/// Has a portion of work done while growth mode looks on.
fn watched(bench: &Bench, workload: &mut Workload, rounds: u64, table: &mut Table) -> Result<Took> {
    let watching = bench.watch.attach(workload.pid(), &[])?;
    watching.settle();
    let took = work(workload, rounds)?;
    let watched = watching.stop()?;
    table.lost("slow-down", watched.lost());
    Ok(took)
}

/// Has a portion of work done in a process that was started under a peer.
fn under_peer(bench: &Bench, program: &Program, peer: Peer, rounds: u64) -> Result<Took> {
    let interpreter = peer.interpreter(
        &bench.programs,
        &program.interpreter,
        &bench.memray,
        &bench.watch.directory,
    )?;
    let mut workload = start(bench, program, &interpreter)?;
    let rounds = (rounds / PEERS_DO).max(1);
    work(&mut workload, rounds / 4 + 1)?;
    let took = work(&mut workload, rounds)?;
    workload.end()?;
    Ok(took)
}

fn start(bench: &Bench, program: &Program, interpreter: &Interpreter) -> Result<Workload> {
    bench
        .workloads
        .start(interpreter, &program.script, &[], Some(bench.cpu))
}

/// How many rounds of work take as long as a measurement is to take.
fn calibrate(bench: &Bench, program: &Program) -> Result<u64> {
    let mut workload = start(bench, program, &program.interpreter)?;
    // The first run warms up: from 3.11 on, the interpreter specializes its instructions.
    let mut rounds = 4;
    work(&mut workload, rounds)?;
    loop {
        let took = work(&mut workload, rounds)?.cpu_s * rounds as f64;
        if took > 0.2 {
            return Ok(((rounds as f64 * LENGTH.as_secs_f64() / took) as u64).max(4));
        }
        rounds *= 2;
    }
}

/// What each of so many rounds took.
fn work(workload: &mut Workload, rounds: u64) -> Result<Took> {
    let answer = workload.ask(&rounds.to_string())?;
    let number = |name: &str| {
        let number = answer[name].as_f64();
        number.with_context(|| format!("the workload did not tell {name}"))
    };
    Ok(Took {
        cpu_s: number("cpu_s")? / rounds as f64,
        wall_s: number("wall_s")? / rounds as f64,
    })
}
