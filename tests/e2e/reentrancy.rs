//! Samples that interrupt each other.
//!
//! An instruction is probed that two processes on one CPU come to thousands of times a second, each by two ways, while
//! the CPU clock ticks as often as it can: ticks come while a probe's stack is being read, in the memory of the same
//! CPU. A stack is of one event or of the other, and of one process and one way.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::{Folded, has},
    pattern::{Pattern, is_kernel},
    profiler::Profiler,
    serial::serial,
    skip::skip,
    whole::of_process,
    workload::Workload,
    workshop::Workshop,
};
use serde_json::Value;

use crate::whole_stacks_tree::prefix;

/// Up to 3.10 every Python call has native frames of the interpreter's.
const PYENV: [&str; 2] = ["3.8", "3.12"];
/// Turns of each process. A turn is 20 beats of each way.
const TURNS: u64 = 500;
const BEATS: u64 = 20;

#[test]
fn a_sample_that_interrupts_another_leaves_it_as_it_was() -> Result<()> {
    let _serial = serial();
    PYENV.iter().try_for_each(|version| check(version).context(*version))
}

fn check(version: &str) -> Result<()> {
    let Some(prefix) = prefix(version) else {
        skip(format!("pyenv has no CPython {version} with a shared library"));
        return Ok(());
    };
    let workshop = Workshop::new()?;
    let include = format!("-I{}/include/python{version}", prefix.display());
    let extension = workshop.c(
        "reentrancy_extension.c",
        "reentrancy_extension.so",
        &["-shared", "-fPIC", &include],
    )?;
    let folder = format!("-L{}/lib", prefix.display());
    let run_path = format!("-Wl,-rpath,{}/lib", prefix.display());
    let library = format!("-lpython{version}");
    let program = workshop.c("tree.c", "tree", &[&include, &folder, &run_path, &library, "-lpthread"])?;
    let script = workshop.copy("reentrancy.py")?;
    let start = |arguments: &[&str]| {
        let mut command = Command::new("taskset");
        command
            .args(["--cpu-list", "1"])
            .args([&program, &script])
            .arg(workshop.path())
            .args(arguments)
            .env("PYTHONHOME", &prefix)
            // The function that binds late keeps its frame in a register that is not followed.
            .env("LD_BIND_NOW", "1");
        Workload::command(command, None)
    };
    let (mut first, mut second) = (start(&[])?, start(&["thread"])?);

    let summary = workshop.path().join("summary.json");
    let mut probe = extension.into_os_string();
    probe.push(":probed");
    let pids = format!("{},{}", first.pid, second.pid);
    let recording = Profiler::record(&["-v", "-p", &pids, "-r", "4999", "-f", "folded", "-o", "-"])
        .arg("--probe")
        .arg(probe)
        .arg("--summary-json")
        .arg(&summary)
        .start()?;
    for workload in [&mut first, &mut second] {
        workload.tell(&TURNS.to_string())?;
    }
    for workload in [&mut first, &mut second] {
        workload.expect("DONE")?;
    }
    let outcome = recording.stop()?;
    let folded = outcome.folded()?;
    let summary: Value = serde_json::from_str(&fs::read_to_string(&summary)?)?;

    // All were taken …
    let beats = 4 * BEATS * TURNS;
    let line = outcome.line("samples at the probe: ")?;
    ensure!(
        line.replace(',', "").ends_with(&format!(": {beats}")),
        "{line}, of {beats}"
    );

    let mut interrupted = 0;
    for (workload, start) in [(&first, "_start @libc.so main"), (&second, "@libc.so tree_thread")] {
        let folded = of_process(&folded, workload.pid);
        check_stacks(&folded, start, version).with_context(|| outcome.stderr.clone())?;
        let in_kernel = |stack: &[String]| stack.last().is_some_and(|leaf| is_kernel(leaf));
        interrupted += folded.count(|stack| has(stack, "probed") && in_kernel(stack));
    }
    // … and none was lost on the way.
    ensure!(summary["lost"] == Value::Array(Vec::new()), "lost: {}", summary["lost"]);
    ensure!(
        outcome.samples()? == folded.total(),
        "{} in the profile\n{}",
        folded.total(),
        outcome.stderr
    );
    // It was put to the test: the clock ticked in the middle of what a probe does.
    let ticks = folded.total() - beats;
    ensure!(
        ticks >= 2000 && interrupted >= 200,
        "{ticks} samples by the clock, of which only {interrupted} at the probe\n{}",
        outcome.stderr
    );
    println!(
        "{version}: {beats} samples at the probe, {ticks} by the clock, {interrupted} of these while one was taken"
    );
    Ok(())
}

/// Every stack is one of those the workload has, and the probe's are there, no more and no fewer.
fn check_stacks(folded: &Folded, start: &str, version: &str) -> Result<()> {
    let minor: u32 = version.trim_start_matches("3.").parse()?;
    let call = if minor <= 10 { " ~libpython " } else { " " };
    let module = format!("{start} tree_run tree_enter @libpython <module>");
    let turns = format!("{module}{call}turns");
    let left = format!("{turns}{call}left");
    let right = format!("{turns}{call}right");
    let right_inner = format!("{right}{call}right_inner");
    let beat_left = format!("{left} ~libpython beat_left");
    let beat_right = format!("{right_inner} ~libpython beat_right");
    let leaf_left = format!("{beat_left} left_leaf");
    let middle_right = format!("{beat_right} right_middle");
    let leaf_right = format!("{middle_right} right_leaf");

    // With no kernel frames on top, which is what the probe finds. A tick that finds the same has come just before the
    // instruction, which is rare.
    let beats = BEATS * TURNS;
    for leaf in [&leaf_left, &leaf_right] {
        let pattern = Pattern::new(format!("{leaf} probed"));
        let found = folded.count(|stack| pattern.is(stack));
        ensure!(
            (beats..=beats + beats / 500).contains(&found),
            "{found} samples at the probe are {pattern}, of {beats}\n{}",
            folded.only(|stack| has(stack, "probed"))
        );
    }

    let mut known = Vec::new();
    // Python code and what the interpreter does for it, and waiting for the word to go.
    for python in [&module, &turns, &left, &right, &right_inner] {
        known.push(format!(
            "{python} ~libpython,libc.so,libm.so,libpthread.so,ld-linux [k]*"
        ));
    }
    for native in [&beat_left, &beat_right, &middle_right] {
        known.push(format!("{native} [k]*"));
    }
    for leaf in [&leaf_left, &leaf_right] {
        known.push(format!("{leaf} [k]*"));
        known.push(format!("{leaf} after_probed [k]*"));
        known.push(format!("{leaf} probed [k]*"));
    }
    let known: Vec<Pattern> = known.into_iter().map(Pattern::new).collect();
    let others = folded.only(|stack| !known.iter().any(|pattern| pattern.is(stack)));
    ensure!(others.total() == 0, "stacks that there cannot be: {others}");
    Ok(())
}
