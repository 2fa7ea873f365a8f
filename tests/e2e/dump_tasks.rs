//! `profiler dump --tasks`: asyncio's tasks are those that the program has, and each awaits what it awaits.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    dump::{self, Dump},
    python::{self, Python},
    serial::serial,
    venv,
    workload::Workload,
};
use serde_json::Value;

/// The last part of a qualified name: programs before 3.11 know no others.
fn plain(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn check(python: &Python, arguments: &[&str]) -> Result<()> {
    let workload = Workload::python(python, "dump_tasks.py", arguments)?;
    let dump = Dump::of(workload.pid, &["--tasks"])?;
    let tasks: Vec<&Value> = dump
        .threads
        .iter()
        .filter_map(|thread| thread["tasks"].as_array())
        .flatten()
        .collect();
    let named: BTreeMap<&str, &Value> = tasks
        .iter()
        .filter_map(|task| Some((task["name"].as_str()?, *task)))
        .collect();
    let truth = &workload.truth[0];
    let told = truth["tasks"].as_array().context("no tasks")?;
    for expected in told {
        let name = expected["name"].as_str().context("no name")?;
        let task = named
            .get(name)
            .with_context(|| format!("no task {name} in {:?}", named.keys()))?;
        let frames = task["frames"].as_array().context("no frames")?;
        let chain: Vec<(&str, u64)> = frames
            .iter()
            .rev()
            .map(|frame| Some((plain(frame["name"].as_str()?), frame["line"].as_u64()?)))
            .collect::<Option<_>>()
            .context("odd frames")?;
        let expected_chain: Vec<(String, u64)> = serde_json::from_value(expected["chain"].clone())?;
        ensure!(
            chain
                .iter()
                .map(|&(name, line)| (name.to_owned(), line))
                .eq(expected_chain.iter().cloned()),
            "{name}: {chain:?} and not {expected_chain:?}"
        );
        // uvloop does not say which thread its loop is in.
        if !arguments.contains(&"uvloop") || python.version >= (3, 14) {
            ensure!(task["os_thread_id"] == expected["tid"], "{name}: {task:#}");
        }
        let state = if name == "fresh" { "ready" } else { "waiting" };
        ensure!(task["state"] == state, "{name}: {task:#}");
    }
    let running = tasks.iter().filter(|task| task["state"] == "running").count();
    ensure!(running == 1, "{running} run");
    for pair in truth["awaits"].as_array().context("no pairs")? {
        let (above, below) = (
            pair[0].as_str().context("no name")?,
            pair[1].as_str().context("no name")?,
        );
        let id = &named[above]["id"];
        let awaited_by = named[below]["awaited_by"].as_array().context("no list")?;
        ensure!(
            awaited_by.contains(id),
            "{above} does not await {below}: {awaited_by:?}"
        );
    }
    let gatherer = &named["gatherer"]["id"];
    let gathered = tasks.iter().filter(|task| {
        let awaited_by = task["awaited_by"].as_array();
        awaited_by.is_some_and(|by| by.contains(gatherer))
    });
    ensure!(gathered.count() == 3, "not what is gathered");
    let deadlocked: Vec<&str> = named
        .iter()
        .filter(|(_, task)| task["deadlocked"] == true)
        .map(|(name, _)| *name)
        .collect();
    ensure!(deadlocked == ["one", "two"], "{deadlocked:?}");
    if arguments.is_empty() {
        let left = named["sleeper"]["left_ns"].as_u64().context("no time")?;
        ensure!((900_000_000_000..=999_000_000_000).contains(&left), "{left}");
    }

    let text = String::from_utf8(dump::text(workload.pid, &["--tasks"])?.success()?.stdout)?;
    for line in text.lines() {
        ensure!(line.chars().count() <= 80, "{line}");
    }
    ensure!(
        text.contains("Deadlock: \"") && text.contains(" more like these: "),
        "{text}"
    );
    Ok(())
}

#[test]
fn tasks_have_the_names_states_and_lines_that_the_program_says_they_have() -> Result<()> {
    let _serial = serial();
    python::each(|python| check(python, &[]))
}

#[test]
fn tasks_of_uvloop_are_seen_as_asyncio_s_own_are() -> Result<()> {
    let _serial = serial();
    for minor in ["3.8", "3.12", "3.13"] {
        let Some(python) = python::all()?
            .into_iter()
            .find(|python| python.root.is_none() && python.executable.to_string_lossy().ends_with(minor))
        else {
            continue;
        };
        if let Some(executable) = venv::with(&python, &["uvloop"])? {
            let python = Python { executable, ..python };
            check(&python, &["uvloop"]).with_context(|| format!("{python}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_program_without_asyncio_has_no_tasks() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "dump_still.py", &[])?;
        let text = String::from_utf8(dump::text(workload.pid, &["--tasks"])?.success()?.stdout)?;
        ensure!(text.contains("no asyncio tasks"), "{text}");
        Ok(())
    })
}
