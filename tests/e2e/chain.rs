//! The exact chain of calls, with exact files and lines.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use profiler_tests::{
    folded::Folded,
    pprof,
    profiler::Profiler,
    python::{self, Python},
    serial::serial,
    truth::Chain,
    workload::Workload,
};

use crate::RATE;

/// Between two spins of 20 ms of CPU time the workload makes modules, classes and objects, which took 5 % of spins of 10 ms
/// on a slow machine.
const LEAST_EXACT: f64 = 0.97;
/// Where several workloads share a CPU each gets its part only.
const LEAST_SAMPLES: u64 = 250;

#[test]
fn chains_are_exact_to_the_line() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let (workload, chains) = start(python)?;
        let pid = workload.pid.to_string();
        let arguments = [
            "-v",
            "-p",
            &pid,
            "-d",
            "3",
            "-r",
            RATE,
            "--no-native",
            "--no-kernel",
            "-f",
            "folded",
            "-o",
            "-",
        ];
        let outcome = Profiler::record(&arguments).succeed()?;
        check_folded(&outcome.folded()?, &chains)?;
        let python = outcome.line("with Python stacks")?;
        ensure!(python.contains("100.0 % of them complete"), "{python}");
        ensure!(!python.contains("unnamed"), "{python}");
        Ok(())
    })
}

#[test]
fn pprof_has_full_paths_and_first_lines() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let (workload, chains) = start(python)?;
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("out.pb.gz");
        let pid = workload.pid.to_string();
        Profiler::record(&["-p", &pid, "-d", "2", "-r", RATE, "--no-native", "--no-kernel", "-o"])
            .arg(&file)
            .succeed()?;
        let stacks = pprof::stacks(&pprof::load(&file)?)?;
        let total: u64 = stacks.values().sum();
        let mut exact = 0;
        let mut other = BTreeMap::new();
        for (stack, count) in &stacks {
            let is = |chain: &&Chain| {
                chain.frames.len() == stack.len()
                    && chain.frames.iter().zip(stack).all(|(frame, found)| {
                        frame.name == found.name
                            && frame.file == found.file
                            && frame.first_line == found.first_line
                            && frame.is_at(found.line)
                    })
            };
            match chains.iter().find(is) {
                Some(_) => exact += count,
                None => _ = other.insert(count, stack),
            }
        }
        let share = exact as f64 / total.max(1) as f64;
        ensure!(
            total > LEAST_SAMPLES && share >= LEAST_EXACT,
            "{:.1} % of {total} samples are exact; not: {:#?}",
            share * 100.0,
            other.iter().next_back(),
        );
        Ok(())
    })
}

/// With native frames in between: the Python frames are the same, in the same order.
#[test]
fn chains_are_exact_with_native_frames_in_between() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let (workload, chains) = start(python)?;
        let pid = workload.pid.to_string();
        let outcome = Profiler::record(&["-p", &pid, "-d", "2", "-r", RATE, "-f", "folded", "-o", "-"]).succeed()?;
        let mut python_only = Folded::default();
        for (stack, count) in outcome.folded()?.stacks {
            let frames = stack
                .into_iter()
                .filter(|frame| profiler_tests::folded::is_python(frame))
                .collect();
            *python_only.stacks.entry(frames).or_default() += count;
        }
        check_folded(&python_only, &chains)
    })
}

fn start(python: &Python) -> Result<(Workload, Vec<Chain>)> {
    let workload = Workload::python(python, "chain.py", &[])?;
    let chains = workload
        .truth
        .iter()
        .map(Chain::from_json)
        .collect::<Result<Vec<_>>>()?;
    ensure!(chains.len() > 30, "only {} chains are known", chains.len());
    Ok((workload, chains))
}

/// Nearly every sample is one of the chains, and every chain was met about as often as it is run.
fn check_folded(folded: &Folded, chains: &[Chain]) -> Result<()> {
    let exact = folded.share(|stack| chains.iter().any(|chain| chain.is(stack)));
    let other = folded.only(|stack| !chains.iter().any(|chain| chain.is(stack)));
    ensure!(
        folded.total() > LEAST_SAMPLES && exact >= LEAST_EXACT,
        "{:.1} % of {} samples are exact; not: {other}",
        exact * 100.0,
        folded.total(),
    );
    // Some chains are run twice in a round, and some shapes have two chains.
    let rare = folded.total() as f64 / chains.len() as f64 / 4.0;
    for chain in chains {
        let count = folded.count(|stack| chain.is(stack));
        ensure!(
            count as f64 >= rare,
            "{} was met {count} times only in {} samples: {:#?}; not exact: {other}",
            chain.shape,
            folded.total(),
            chain.frames,
        );
    }
    Ok(())
}
