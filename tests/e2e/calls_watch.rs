//! Calls of chosen functions are counted and timed by hardware breakpoints as exactly as by probes, where those cost more.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    bpf::Objects,
    calls::{self, Attached, Calls, Taken, WITHOUT_END, changed_code},
    process::until,
    python::{self, Python},
    serial::serial,
    workload::Workload,
};
use serde_json::Value;

const SCRIPT: &str = "watched.py";
const FORCED: [&str; 2] = ["--via", "breakpoints"];
/// Rounds in which it becomes known which function is meant, and those that are counted by breakpoints.
const ROUNDS: [u64; 2] = [30, 600];
/// Calls under way while counting changes hands: at most one in each thread.
const UNDER_WAY: u64 = 6;
const TOLERATED: f64 = 0.05;

/// What watched.py has said, once for each of [`ROUNDS`], and what was counted.
struct Watched {
    said: [Value; 2],
    taken: Taken,
}

/// Those that are watched: 3.15 is not.
fn each(test: impl Fn(&Python) -> Result<()> + Sync) -> Result<()> {
    python::each(|python| {
        if python.version >= (3, 15) {
            return Ok(());
        }
        test(python)
    })
}

fn attach(workload: &Workload, function: &str, arguments: &[&str]) -> Result<Attached> {
    Calls::record(&["-p", &workload.pid.to_string(), "--function", function])?
        .args(WITHOUT_END)
        .args(arguments)
        .start()
}

fn work(workload: &mut Workload, task: &str, rounds: u64) -> Result<Value> {
    workload.tell(&format!("{task} {rounds}"))?;
    workload.value()
}

/// Waits until probes have made way for breakpoints.
fn until_watched(workload: &Workload) -> Result<()> {
    until(Duration::from_secs(20), "the probes are gone", || {
        changed_code(workload.pid).is_ok_and(|changed| changed == 0)
    })
}

fn watched(python: &Python, task: &str, function: &str) -> Result<Watched> {
    let mut workload = calls::run(python, SCRIPT, &[])?;
    let attached = attach(&workload, function, &FORCED)?;
    let first = work(&mut workload, task, ROUNDS[0])?;
    until_watched(&workload)?;
    let said = [first, work(&mut workload, task, ROUNDS[1])?];
    let taken = attached.stop()?;
    ensure!(workload.is_running()?, "the target has ended");
    Ok(Watched { said, taken })
}

fn summary(taken: &Taken) -> Result<Value> {
    let text = fs::read(taken.file("summary.json"))?;
    let summary: Value = serde_json::from_slice(&text)?;
    Ok(summary["calls"].clone())
}

fn hits(taken: &Taken) -> Result<u64> {
    let hits = &summary(taken)?["watch_hits"];
    hits.as_u64().with_context(|| format!("no hits: {hits}"))
}

fn known(said: &Value, name: &str) -> Result<u64> {
    said["calls"][name]
        .as_u64()
        .with_context(|| format!("no {name} in {said}"))
}

/// Counts of one function are right, and breakpoints have seen them.
fn ensure_exact(watched: &Watched, name: &str) -> Result<()> {
    let Watched { said, taken } = watched;
    let report = taken.report()?;
    let function = report.functions.iter().find(|function| {
        let found = &function.place.name;
        found == name || found.ends_with(&format!(".{name}"))
    });
    let function = function.with_context(|| format!("no {name}\n{}", taken.outcome.stderr))?;
    let calls = known(&said[0], name)? + known(&said[1], name)?;
    ensure!(
        function.calls.is_some_and(|found| found.abs_diff(calls) <= UNDER_WAY) && function.is_exact,
        "{name}: {:?} calls, not {calls}\n{}",
        function.calls,
        taken.outcome.stderr
    );
    let (hits, least) = (hits(taken)?, known(&said[1], name)?);
    ensure!(hits >= least, "{name}: {hits} hits\n{}", taken.outcome.stderr);
    let lost = taken.lost()?;
    ensure!(lost.is_empty(), "lost: {lost:?}");
    Ok(())
}

#[test]
fn watched_calls_are_counted_exactly() -> Result<()> {
    let _serial = serial();
    const TASKS: [(&str, &str); 6] = [
        ("plain", "chosen"),
        ("recursion", "descends"),
        ("exceptions", "raises"),
        ("enclosing", "enclosed"),
        ("threads", "chosen"),
        ("looked_at", "chosen"),
    ];
    each(|python| {
        for (task, name) in TASKS {
            let watched = watched(python, task, name)?;
            ensure_exact(&watched, name).with_context(|| task)?;
        }
        Ok(())
    })
}

/// From inside and from outside. What a breakpoint costs is taken off.
#[test]
fn times_of_watched_calls_are_those_they_measure_themselves() -> Result<()> {
    let _serial = serial();
    each(|python| {
        let Watched { said, taken } = watched(python, "plain", "chosen")?;
        let median = |which: &str| {
            let lists = said.iter().filter_map(|said| said[which].as_array());
            let mut times: Vec<f64> = lists.flatten().filter_map(Value::as_f64).collect();
            times.sort_unstable_by(f64::total_cmp);
            times
                .get(times.len() / 2)
                .copied()
                .with_context(|| format!("no {which}"))
        };
        let function = taken.report()?.function(SCRIPT, "chosen")?.clone();
        let times = function.times.context("it was not timed")?;
        // Calls under way while counting changes hands may have no time, and the first ones hit probes.
        let p50 = times["p50_ns"].as_f64().context("no median")?;
        let (inner, outer) = (median("inner")?, median("outer")?);
        ensure!(
            p50 >= inner * (1.0 - TOLERATED) && p50 <= outer * (1.0 + TOLERATED),
            "{p50} ns, not {inner} to {outer}\n{}",
            taken.outcome.stderr
        );
        Ok(())
    })
}

/// One call in four. The report says how many.
#[test]
fn calls_that_end_by_an_exception_are_counted_and_said_to_have_no_time() -> Result<()> {
    let _serial = serial();
    each(|python| {
        let mut workload = calls::run(python, SCRIPT, &[])?;
        let arguments = ["-p", &workload.pid.to_string(), "--function", "raises"];
        let attached = Calls::new(&arguments)?.args(WITHOUT_END).args(FORCED).start()?;
        work(&mut workload, "exceptions", ROUNDS[0])?;
        until_watched(&workload)?;
        work(&mut workload, "exceptions", ROUNDS[1])?;
        let taken = attached.stop()?;
        let text = String::from_utf8_lossy(&taken.outcome.stdout).into_owned();
        let untimed = format!("{} calls not timed", ROUNDS[1] / 4);
        ensure!(
            text.split_whitespace().collect::<Vec<_>>().join(" ").contains(&untimed),
            "no {untimed:?} in:\n{text}\n{}",
            taken.outcome.stderr
        );
        Ok(())
    })
}

/// Without being asked: a function that many others are called beside is watched, and one that is called all the time is
/// not.
#[test]
fn what_costs_the_program_less_is_chosen() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let mut workload = calls::run(&python, SCRIPT, &[])?;
    let attached = attach(&workload, "chosen", &[])?;
    let mut calls = known(&work(&mut workload, "plain", 200)?, "chosen")?;
    until_watched(&workload)?;
    calls += known(&work(&mut workload, "plain", 200)?, "chosen")?;
    let taken = attached.stop()?;
    ensure!(hits(&taken)? > 200, "{}", taken.outcome.stderr);
    let found = taken.report()?.function(SCRIPT, "chosen")?.calls;
    ensure!(found == Some(calls), "{found:?} calls, not {calls}");

    let attached = attach(&workload, "other", &[])?;
    work(&mut workload, "plain", 400)?;
    let taken = attached.stop()?;
    ensure!(hits(&taken)? == 0, "{}", taken.outcome.stderr);
    Ok(())
}

#[test]
fn after_the_recording_nothing_is_watched_and_the_target_runs_on() -> Result<()> {
    let _serial = serial();
    each(|python| {
        let mut workload = calls::run(python, SCRIPT, &[])?;
        let attached = attach(&workload, "chosen", &FORCED)?;
        work(&mut workload, "threads", 20)?;
        until_watched(&workload)?;
        work(&mut workload, "threads", 20)?;
        let objects = Objects::of(attached.pid())?;
        attached.stop()?;
        // Every breakpoint holds the program, those that were inherited too.
        until(Duration::from_secs(10), "no programs and maps are left", || {
            objects.left().is_empty()
        })?;
        work(&mut workload, "threads", 20)?;
        ensure!(workload.is_running()?, "the target has ended");
        Ok(())
    })
}
