//! Fixed work, and what it took.

use anyhow::{Context as _, Result};

use super::{Bench, LENGTH};
use crate::bench::interpreters::Interpreter;
use crate::bench::workload::Workload;

/// What one call of a portion took, and how many calls it was.
#[derive(Clone, Copy)]
pub struct Took {
    pub cpu_s: f64,
    pub wall_s: f64,
    pub calls: f64,
}

impl Took {
    /// CPU time for each call.
    pub fn per_call_ns(&self) -> f64 {
        self.cpu_s * 1e9 / self.calls
    }
}

pub fn start(bench: &Bench, interpreter: &Interpreter, program: &str, arguments: &[&str]) -> Result<Workload> {
    let script = bench.programs.path(program);
    bench.workloads.start(interpreter, &script, arguments, Some(bench.cpu))
}

/// Has a portion done. `how` comes before the number of rounds.
pub fn work(workload: &mut Workload, how: &str, rounds: u64) -> Result<Took> {
    let answer = workload.ask(&format!("{how} {rounds}"))?;
    let number = |name: &str| {
        let number = answer[name].as_f64();
        number.with_context(|| format!("the workload did not tell {name}"))
    };
    Ok(Took {
        cpu_s: number("cpu_s")?,
        wall_s: number("wall_s")?,
        calls: number("calls")?,
    })
}

/// How many rounds take as long as a measurement is to take when nobody looks on.
pub fn calibrate(workload: &mut Workload) -> Result<u64> {
    // The first run warms up: from 3.11 on, the interpreter specializes its instructions.
    let mut rounds = 8;
    work(workload, "", rounds)?;
    loop {
        let took = work(workload, "", rounds)?;
        if took.cpu_s > 0.2 {
            return Ok(((rounds as f64 * LENGTH.as_secs_f64() / took.cpu_s) as u64).max(8));
        }
        rounds *= 2;
    }
}
