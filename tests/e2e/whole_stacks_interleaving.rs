//! Python that calls C that calls Python: frames come out in the order of the calls.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::{Folded, has},
    pattern::Pattern,
    python::{self, Python},
    serial::serial,
    skip::skip,
    venv,
    whole::record,
    workload::Workload,
    workshop::Workshop,
};

use crate::RATE;

/// The interpreter's own code, wherever it is.
const INTERPRETER: &str = "python3,libpython";

#[test]
fn calls_from_c_into_python_are_in_order() -> Result<()> {
    let _serial = serial();
    python::each(|python| check(python, &[], "@{i} @libc.so @{i} <module> {c} run {c}"))
}

#[test]
fn calls_from_c_into_python_are_in_order_in_a_thread() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        check(
            python,
            &["thread"],
            "@libc.so @{i} _bootstrap% ~{i} Thread._bootstrap_inner% ~{i} Thread.run% ~{i} run {c}",
        )
    })
}

fn check(python: &Python, arguments: &[&str], start: &str) -> Result<()> {
    // One build for all, from the oldest headers.
    let Some(include) = limited_api() else {
        skip("pyenv has no CPython 3.8, whose headers an extension for every interpreter is built with");
        return Ok(());
    };
    let workshop = Workshop::of(python)?;
    workshop.c(
        "interleaving_native.c",
        "interleaving_native.so",
        &["-shared", "-fPIC", "-Wno-cast-function-type", &include],
    )?;
    let script = workshop.copy("interleaving.py")?;
    let mut command = python.command();
    command.arg(python.seen(&script)).args(arguments);
    let workload = Workload::command(command, None)?;
    // Names of methods are qualified from 3.11 on.
    let start = match python.version {
        (3, ..=10) => start.replace("Thread.", "").to_owned(),
        _ => start.replace("_bootstrap% ", "Thread._bootstrap% "),
    };
    let recorded = record(workload.pid, 1.5, RATE)?;
    check_shapes(&recorded.folded, &workload, python.version, &start).with_context(|| recorded.outcome.stderr.clone())
}

#[test]
fn numpy_s_calls_into_python_are_in_order() -> Result<()> {
    let _serial = serial();
    let pythons: Vec<Python> = python::all()?
        .into_iter()
        .filter(|python| {
            python.executable.starts_with("/root") || python.executable.to_string_lossy().contains("pyenv")
        })
        .collect();
    python::each_of(&pythons, |python| {
        let Some(interpreter) = venv::with(python, &["numpy"])? else {
            return Ok(());
        };
        let workshop = Workshop::new()?;
        let mut command = Command::new(interpreter);
        command.arg(workshop.copy("numpy_callbacks.py")?);
        let workload = Workload::command(command, None)?;
        let recorded = record(workload.pid, 0.7, RATE)?;
        check_shapes(
            &recorded.folded,
            &workload,
            python.version,
            "@{i} @libc.so @{i} <module> {c}",
        )
        .with_context(|| recorded.outcome.stderr.clone())
    })
}

/// Every shape was met, and looks as the workload says, from the thread's start on.
fn check_shapes(folded: &Folded, workload: &Workload, version: (u32, u32), start: &str) -> Result<()> {
    ensure!(!workload.truth.is_empty(), "the workload says nothing of itself");
    let least = folded.total() / workload.truth.len() as u64 / 4;
    let (mut right, mut all) = (0, 0);
    let mut failures = Vec::new();
    for truth in &workload.truth {
        let shape = truth["shape"].as_str().context("a shape without a name")?;
        let parts = truth["parts"].as_array().context("a shape without parts")?;
        let parts: Vec<&str> = parts.iter().filter_map(|part| part.as_str()).collect();
        // Up to 3.10 every call goes through functions of the interpreter; from 3.11 on Python calls Python without.
        let call = if version < (3, 11) { " {i} " } else { " " };
        let text = format!("{start} {} *", parts.join(call));
        // `@{i}` in front is of the harness, `{i}` alone is of the workload: any amount.
        let text = text
            .replace("@{i}", &format!("@{INTERPRETER}"))
            .replace("~{i}", &format!("~{INTERPRETER}"))
            .replace("{c}", if version < (3, 11) { "{i}" } else { "" })
            .replace("{i}", &format!("~{INTERPRETER}"));
        let pattern = Pattern::new(format!("{text} [k]*"));
        // Python frames are known without any unwinding: these are all samples of this shape, right or wrong.
        let stacks = folded.only(|stack| has(stack, shape) && has(stack, "spin"));
        let is_right = |stack: &[String]| pattern.is(stack);
        right += stacks.count(is_right);
        all += stacks.total();
        if stacks.total() < least.max(3) || stacks.share(is_right) < 0.95 {
            let wrong = stacks.only(|stack| !is_right(stack));
            failures.push(format!(
                "{shape}: {} of {} are {pattern}; not: {}",
                stacks.count(is_right),
                stacks.total(),
                wrong.top(2)
            ));
        }
    }
    let share = right as f64 / folded.total().max(1) as f64;
    ensure!(
        failures.is_empty() && share >= 0.95 && right * 100 >= all * 99,
        "{} of {} shapes are wrong; {right} of {all} samples in spin() are right, of {} in all\n{}\n{}",
        failures.len(),
        workload.truth.len(),
        folded.total(),
        failures[..failures.len().min(5)].join("\n"),
        folded.only(|stack| !has(stack, "spin")).top(4)
    );
    Ok(())
}

fn limited_api() -> Option<String> {
    let prefix = python::pyenv("3.8")?.parent()?.parent()?.to_owned();
    Some(format!("-I{}", prefix.join("include/python3.8").display()))
}
