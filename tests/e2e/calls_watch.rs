//! Calls of chosen functions are counted and timed by hardware breakpoints as exactly as by probes.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    bpf::Objects,
    calls::{self, Calls, WITHOUT_END, changed_code},
    process::until,
    python::{self, Python},
    recorder::{Attached, Taken},
    serial::serial,
    workload::Workload,
};
use serde_json::Value;

const SCRIPT: &str = "watched.py";
const BREAKPOINTS: [&str; 2] = ["--via", "breakpoints"];
/// Rounds in which it becomes known which function is meant, and those that are counted by breakpoints.
const ROUNDS: [u64; 2] = [1, 600];
const TOLERATED: f64 = 0.05;

/// What watched.py has said, once for each of [`ROUNDS`], and what was counted.
struct Watched {
    said: [Value; 2],
    taken: Taken,
}

/// 3.15 is refused by name: `what_cannot_be_watched_is_named_and_counted_by_probes`.
fn is_watched(python: &Python) -> bool {
    python.version < (3, 15)
}

/// One after the other: the processor's breakpoints are for all.
fn each_alone(test: impl Fn(&Python) -> Result<()>) -> Result<()> {
    python::all()?
        .iter()
        .try_for_each(|python| test(python).with_context(|| format!("with {python}")))
}

/// Those that are watched.
fn each(test: impl Fn(&Python) -> Result<()>) -> Result<()> {
    each_alone(|python| {
        if !is_watched(python) {
            eprintln!("{python}: its bytecode is not watched, and it is refused by name in a test of its own");
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
    until(Duration::from_secs(60), "the probes are gone", || {
        changed_code(workload.pid).is_ok_and(|changed| changed == 0)
    })
}

/// Does one round of a task, in which the functions become known, and then, when probes have made way, those of another.
fn watched(python: &Python, learned: &str, task: &str, function: &str) -> Result<Watched> {
    let workload = calls::run(python, SCRIPT, &[])?;
    watched_in(workload, learned, task, function, &BREAKPOINTS)
}

fn watched_in(
    mut workload: Workload,
    learned: &str,
    task: &str,
    function: &str,
    arguments: &[&str],
) -> Result<Watched> {
    let attached = attach(&workload, function, arguments)?;
    let first = work(&mut workload, learned, ROUNDS[0])?;
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
        function.calls == Some(calls) && function.is_exact,
        "{name}: {:?} calls, not {calls}\n{}",
        function.calls,
        taken.outcome.stderr
    );
    let (hits, least) = (hits(taken)?, known(&said[1], name)?);
    ensure!(hits >= least, "{name}: {hits} hits\n{}", taken.outcome.stderr);
    let lost = taken.summary.lost()?;
    ensure!(lost.is_empty(), "lost: {lost:?}");
    Ok(())
}

#[test]
fn watched_calls_are_counted_exactly() -> Result<()> {
    let _serial = serial();
    const TASKS: [(&str, &str, &str); 6] = [
        ("plain", "plain", "chosen"),
        ("recursion", "recursion", "descends"),
        ("exceptions", "exceptions", "raises"),
        ("enclosing", "enclosing", "enclosed"),
        // With one thread until counting has changed hands: those that are started then are all watched.
        ("plain", "threads", "chosen"),
        ("plain", "looked_at", "chosen"),
    ];
    each(|python| {
        for (learned, task, name) in TASKS {
            let watched = watched(python, learned, task, name)?;
            ensure_exact(&watched, name).with_context(|| task)?;
        }
        Ok(())
    })
}

/// Its main thread calls the function once; the others, which do all the rest, were not asked for.
#[test]
fn calls_of_threads_that_were_not_asked_for_are_not_counted_where_they_are_watched() -> Result<()> {
    let _serial = serial();
    let workload = calls::run(&python::any()?, SCRIPT, &[])?;
    let main = workload.pid.to_string();
    let arguments = [&BREAKPOINTS[..], &["--tid", &main]].concat();
    let Watched { said, taken } = watched_in(workload, "plain", "threads", "chosen", &arguments)?;
    let found = taken.report()?.function(SCRIPT, "chosen")?.calls;
    ensure!(
        found == Some(known(&said[0], "chosen")?) && hits(&taken)? >= known(&said[1], "chosen")?,
        "{found:?} calls\n{}",
        taken.outcome.stderr
    );
    Ok(())
}

/// From inside and from outside. What a breakpoint costs is taken off.
#[test]
fn times_of_watched_calls_are_those_they_measure_themselves() -> Result<()> {
    let _serial = serial();
    each(|python| {
        let Watched { said, taken } = watched(python, "plain", "plain", "chosen")?;
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
        let attached = Calls::command(&arguments)?
            .args(WITHOUT_END)
            .args(BREAKPOINTS)
            .start()?;
        work(&mut workload, "exceptions", ROUNDS[0])?;
        until_watched(&workload)?;
        work(&mut workload, "exceptions", ROUNDS[1])?;
        let taken = attached.stop()?;
        let untimed = format!(
            "{} of {} calls of `raises` have no time",
            ROUNDS[1] / 4,
            ROUNDS[0] + ROUNDS[1]
        );
        let said = &taken.outcome.stderr;
        ensure!(said.contains(&untimed), "no {untimed:?} in:\n{said}");
        Ok(())
    })
}

#[test]
fn what_cannot_be_watched_is_named_and_counted_by_probes() -> Result<()> {
    let _serial = serial();
    /// So long that it is looked at meanwhile.
    const LONG: u64 = 5_000;
    const RETURNS: (&str, &str, &str) = ("choices", "chooses", "`chooses`: 6 bytes would have to be watched");
    const GENERATOR: (&str, &str, &str) = ("resumptions", "resumes", "`resumes`: it is a generator or a coroutine");
    const VERSION: (&str, &str, &str) = (
        "enclosing",
        "enclosed",
        "enclosed`: bytecode of CPython 3.15 is not known",
    );
    each_alone(|python| {
        let unknown = [VERSION];
        let tasks = if is_watched(python) {
            &[RETURNS, GENERATOR][..]
        } else {
            &unknown
        };
        for (task, name, reason) in tasks {
            let mut workload = calls::run(python, SCRIPT, &[])?;
            let attached = attach(&workload, name, &BREAKPOINTS)?;
            let mut calls = known(&work(&mut workload, task, 1)?, name)?;
            calls += known(&work(&mut workload, task, LONG)?, name)?;
            let taken = attached.stop()?;
            let said = &taken.outcome.stderr;
            ensure!(said.contains(reason), "no {reason:?} in:\n{said}");
            ensure!(hits(&taken)? == 0, "{said}");
            let found = taken.report()?.function(SCRIPT, name)?.calls;
            // Where generators stop cannot be seen in each build; another test says in which.
            let is_generator = *name == GENERATOR.1;
            ensure!(
                found == Some(calls) || is_generator,
                "{found:?} calls, not {calls}\n{said}"
            );
        }
        Ok(())
    })
}

/// A function that comes into being under a name that was given is not counted, and not passed over in silence.
#[test]
fn a_function_that_is_made_while_others_are_watched_is_warned_of() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let mut workload = calls::run(&python, SCRIPT, &[])?;
    let attached = attach(&workload, "made", &BREAKPOINTS)?;
    work(&mut workload, "anew", 1)?;
    until_watched(&workload)?;
    work(&mut workload, "anew", 200)?;
    let taken = attached.stop()?;
    let said = &taken.outcome.stderr;
    ensure!(said.contains("another `made` ran"), "{said}");
    Ok(())
}

/// Breakpoints take over by themselves where probes are seen to cost more, and not before.
#[test]
fn probes_stay_where_they_cost_little() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    // It calls nothing, so no probe is hit but for its own calls; of four thousand others' none would be left.
    let mut workload = calls::run(&python, SCRIPT, &[])?;
    let attached = attach(&workload, "made", &[])?;
    let calls = known(&work(&mut workload, "anew", 50)?, "made")?;
    ensure!(changed_code(workload.pid)? > 0, "there are no probes");
    ensure!(!Objects::of(attached.pid())?.links.is_empty(), "no link holds them");
    let taken = attached.stop()?;
    ensure!(hits(&taken)? == 0, "{}", taken.outcome.stderr);
    let found = taken.report()?.functions;
    let found = found.iter().find(|function| function.place.name == "made");
    let found = found.and_then(|function| function.calls);
    ensure!(found == Some(calls), "{found:?} calls, not {calls}");

    // What would be hit by others' calls makes way by itself.
    let attached = attach(&workload, "chosen", &[])?;
    work(&mut workload, "plain", 50)?;
    if fs::read_to_string("/proc/cpuinfo")?.contains(" hypervisor") {
        // There a breakpoint can end the program, if the host is old enough, and has to be asked for.
        work(&mut workload, "plain", ROUNDS[1])?;
        let taken = attached.stop()?;
        let said = &taken.outcome.stderr;
        ensure!(hits(&taken)? == 0, "it was watched\n{said}");
        ensure!(said.contains("would slow it down less (`--via breakpoints`)"), "{said}");
        return Ok(());
    }
    until_watched(&workload)?;
    ensure!(hits(&attached.stop()?)? > 0, "it was not watched");
    Ok(())
}

/// Probes have gone for good when breakpoints have taken over: who begins then is not counted from the first call on.
#[test]
fn processes_that_begin_when_probes_have_made_way_are_told_to_be_late_or_missing() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let mut workload = calls::run(&python, SCRIPT, &[])?;
    let arguments = [&BREAKPOINTS[..], &["-s"]].concat();
    let attached = attach(&workload, "chosen", &arguments)?;
    let own = known(&work(&mut workload, "plain", ROUNDS[0])?, "chosen")?;
    until_watched(&workload)?;
    // As many processes, each of which calls its own once.
    const CHILDREN: u64 = 3;
    let theirs = known(&work(&mut workload, "children", CHILDREN)?, "chosen")?;
    ensure!(theirs == CHILDREN);
    let taken = attached.stop()?;
    let report = taken.report()?;
    let number = |name: &str| report.whole[name].as_u64().with_context(|| format!("no {name}"));
    let (late, missed) = (number("late_processes")?, number("missed_processes")?);
    let found: u64 = report.functions.iter().filter_map(|function| function.calls).sum();
    ensure!(
        found >= own && found <= own + theirs && found + late + missed >= own + theirs,
        "{found} calls, {late} processes late and {missed} missing\n{}",
        taken.outcome.stderr
    );
    ensure!(
        (late + missed == 0) == (report.whole["calls_exact"] == true),
        "{}",
        taken.outcome.stderr
    );
    ensure!(
        late + missed > 0,
        "all were counted from the first call on, so nothing was tested"
    );
    Ok(())
}

#[test]
fn after_the_recording_nothing_is_watched_and_the_target_runs_on() -> Result<()> {
    let _serial = serial();
    each(|python| {
        let mut workload = calls::run(python, SCRIPT, &[])?;
        let attached = attach(&workload, "chosen", &BREAKPOINTS)?;
        work(&mut workload, "threads", 20)?;
        until_watched(&workload)?;
        work(&mut workload, "threads", 20)?;
        let objects = Objects::of(attached.pid())?;
        attached.stop()?;
        // Every breakpoint holds the program, those that were inherited too.
        objects.until_gone(python)?;
        work(&mut workload, "threads", 20)?;
        ensure!(workload.is_running()?, "the target has ended");
        Ok(())
    })
}
