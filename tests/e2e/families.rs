//! Processes that make others, and those that become others.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::{Folded, has},
    native::compile,
    profiler::{Outcome, Profiler},
    python::{self, Python},
    serial::serial,
    workload::{self, Workload},
};
use std::{fs, path::Path};

use crate::{COMPLETE, HERTZ, RATE};

#[test]
fn children_are_followed_with_s_and_not_without() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        for follow in [true, false] {
            let mut workload = Workload::python(python, "fork.py", &[])?;
            let pid = workload.pid.to_string();
            let mut profiler = Profiler::record(&["-p", &pid, "-r", RATE, "-f", "folded", "-o", "-"]);
            if follow {
                profiler = profiler.arg("-s");
            }
            let recording = profiler.start()?;
            workload.tell("go")?;
            workload.line()?;
            std::thread::sleep(std::time::Duration::from_millis(1500));
            let folded = recording.stop()?.folded()?;
            let early = workload.truth[0]["early"].as_u64().context("no child")?;
            check_children(&folded, follow, workload.pid, early).with_context(|| format!("-s: {follow}\n{folded}"))?;
        }
        Ok(())
    })
}

fn check_children(folded: &Folded, follow: bool, parent: u32, early: u64) -> Result<()> {
    ensure!(folded.count_of("parent") > 20, "the parent is missing");
    for child in ["early_child", "late_child", "grandchild"] {
        let count = folded.count_of(child);
        ensure!(follow == (count > 20), "{child} has {count} samples");
    }
    ensure!(folded.share_of("spin") > 0.9, "there are samples without names");
    if follow {
        ensure!(
            folded.below(&format!("process {early}:")).share_of("early_child") > 0.99
                && folded.below(&format!("process {parent}:")).count_of("early_child") == 0,
            "work is under another process's name"
        );
    }
    Ok(())
}

#[test]
fn a_process_that_execs_has_no_names_of_what_it_was() -> Result<()> {
    let _serial = serial();
    let pythons = python::all()?;
    python::each_of(&pythons, |python| {
        let directory = workload::copy(python)?;
        let script = python.seen(&directory.path().join("exec_after.py"));
        exec(python, &[&python.executable, &script])
    })?;
    // From one layout to another, where nothing of the old one may be left.
    let [first, .., last] = &pythons[..] else { return Ok(()) };
    let between: Vec<&Python> = [first, last, &pythons[pythons.len() / 2]]
        .into_iter()
        .filter(|p| p.root.is_none())
        .collect();
    for (before, after) in between
        .iter()
        .zip(between.iter().skip(1))
        .chain(between.iter().skip(1).zip(&between))
    {
        let script = workload::sources().join("exec_after.py");
        exec(before, &[&after.executable, &script]).with_context(|| format!("from {before} to {after}"))?;
    }
    Ok(())
}

/// A second of `before_exec`, then a second of `after_exec`, in one process.
fn exec(python: &Python, then: &[&Path]) -> Result<()> {
    let then: Vec<&str> = then.iter().filter_map(|path| path.to_str()).collect();
    let mut workload = Workload::python(python, "exec_before.py", &then)?;
    let pid = workload.pid.to_string();
    let recording = Profiler::record(&["-p", &pid, "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
    workload.tell("go")?;
    workload.wait()?;
    let outcome = recording.finish()?.success()?;
    let folded = outcome.folded()?;
    outcome.line("the target has exited")?;
    for (function, file) in [("before_exec", "(exec_before.py:"), ("after_exec", "(exec_after.py:")] {
        let stacks = folded.only(|stack| has(stack, function) && stack.iter().any(|frame| frame.contains(file)));
        ensure!(
            COMPLETE.contains(&(stacks.total() as f64 / HERTZ)),
            "{function}: {} samples in a second\n{folded}",
            stacks.total()
        );
        ensure!(
            stacks.total() == folded.count_of(function),
            "{function} is in another file, too\n{folded}"
        );
    }
    // Neither has samples of the other.
    let (before, after) = (
        folded.count_of("before_exec") as f64,
        folded.count_of("after_exec") as f64,
    );
    crate::ensure_close("before_exec", before / (before + after), 0.5)?;
    ensure!(
        !folded
            .stacks
            .keys()
            .any(|stack| has(stack, "before_exec") && has(stack, "after_exec")),
        "{folded}"
    );
    Ok(())
}

#[test]
fn a_python_that_becomes_something_else_is_no_python_any_more() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let (_directory, program) = compile("busy.c", "busy", &[])?;
    let mut workload = Workload::python(&python, "exec_before.py", &[program.to_str().context("not UTF-8")?])?;
    let pid = workload.pid.to_string();
    let recording = Profiler::record(&["-p", &pid, "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
    workload.tell("go")?;
    workload.expect("READY")?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let folded = recording.stop()?.folded()?;
    let native = folded.only(|stack| has(stack, "native_leaf"));
    ensure!(native.total() > 100, "{folded}");
    ensure!(
        native.share(|stack| stack.iter().any(|frame| frame.contains(".py:"))) == 0.0,
        "{native}"
    );
    ensure!(folded.count_of("before_exec") > 300, "{folded}");
    Ok(())
}

#[test]
fn subprocess_and_multiprocessing_children_are_named_with_s() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let outcome = family(python, true)?;
        let folded = outcome.folded()?;
        // 0.4 s each, two of them in the pool. They take turns on fewer CPUs, so only the sum is exact.
        let all = WORK.iter().map(|function| folded.count_of(function)).sum::<u64>() as f64 / (2.0 * HERTZ);
        ensure!(
            COMPLETE.contains(&all),
            "{:.1} % of all the time\n{folded}",
            all * 100.0
        );
        for (function, seconds) in [
            ("parent_work", 0.4),
            ("subprocess_work", 0.4),
            ("spawned_work", 0.4),
            ("pool_work", 0.8),
        ] {
            let share = folded.count_of(function) as f64 / (seconds * HERTZ);
            ensure!(
                (0.8..=1.3).contains(&share),
                "{function}: {:.1} % of its time\n{folded}",
                share * 100.0
            );
        }
        Ok(())
    })?;
    let folded = family(&python::any()?, false)?.folded()?;
    ensure!(folded.count_of("parent_work") > 100, "{folded}");
    for function in ["subprocess_work", "spawned_work", "pool_work"] {
        ensure!(folded.count_of(function) == 0, "{function} without -s\n{folded}");
    }
    Ok(())
}

const WORK: [&str; 4] = ["parent_work", "subprocess_work", "spawned_work", "pool_work"];

fn family(python: &Python, follow: bool) -> Result<Outcome> {
    // multiprocessing asks for semaphores, which live there.
    if let Some(root) = &python.root {
        fs::create_dir_all(root.join("dev/shm"))?;
    }
    let mut workload = Workload::python(python, "family.py", &[])?;
    let pid = workload.pid.to_string();
    let mut profiler = Profiler::record(&["-p", &pid, "-r", RATE, "-f", "folded", "-o", "-"]);
    if follow {
        profiler = profiler.arg("-s");
    }
    let recording = profiler.start()?;
    workload.tell("go")?;
    workload.expect("DONE")?;
    workload.wait()?;
    recording.finish()?.success()
}
