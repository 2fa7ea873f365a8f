//! An event loop that does not come back to poll is told: when, for how long, and which line took it.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    http,
    python::{self, Python},
    serial::serial,
    venv,
    waits::{self, Waits},
    workload::{self, Workload},
};
use serde_json::Value;

const ROUNDS: u64 = 5;
/// Where every interpreter is tried.
const FEW_ROUNDS: u64 = 2;
const PAUSE_S: &str = "0.2";

#[test]
fn an_asyncio_loop_that_is_kept_is_told_with_its_line_and_task_and_one_that_is_busy_is_not() -> Result<()> {
    let _lock = serial();
    python::each(|python| asyncio(python, python.command(), &[]))
}

#[test]
fn of_uvloop_that_is_kept_line_and_task_are_told_as_of_asyncio() -> Result<()> {
    let _lock = serial();
    let python = python::any()?;
    let Some(interpreter) = venv::with(&python, &["uvloop"])? else {
        return Ok(());
    };
    asyncio(&python, std::process::Command::new(interpreter), &["uvloop"])
}

fn asyncio(python: &Python, mut command: std::process::Command, arguments: &[&str]) -> Result<()> {
    let directory = workload::copy(python)?;
    command
        .arg(python.seen(&directory.path().join("waits_loop.py")))
        .args([&FEW_ROUNDS.to_string(), PAUSE_S])
        .args(arguments);
    let mut workload = Workload::command(command, Some(directory))?;
    let attached = waits::attach(&["-p", &workload.pid.to_string(), "--stalls", "100ms"])?;
    workload.tell("go")?;
    let measured = workload.value()?;
    let waits = Waits::of(attached.stop()?)?;
    let line = |function: &str| measured[function]["first"].as_u64().context("no line");
    let slept = of(&waits, "sleeps", &["sleep"], &measured["sleeps"])?;
    ensure!(
        slept
            .iter()
            .all(|stall| Some(stall["line"].as_u64()) == Some(line("sleeps").ok())),
        "{slept:?}"
    );
    // Where there are not CPUs enough, it waits for one as well.
    let computed = of(&waits, "computes", &["CPU", "ready"], &measured["computes"])?;
    let first = line("computes")?;
    let is_inside = |stall: &&&Value| {
        stall["line"]
            .as_u64()
            .is_some_and(|line| (first..first + 3).contains(&line))
    };
    ensure!(
        computed.iter().filter(is_inside).count() == computed.len(),
        "{computed:?}"
    );
    let named = |stall: &&Value| stall["task"].as_str().is_some_and(|task| task.starts_with("around"));
    ensure!(slept.iter().all(named), "{slept:?}");
    // Each stall is another task's. One that is not seen twice has no name; on a machine that is busy some are not.
    let mut unnamed = 0;
    for (stalls, function) in [(&slept, "sleeps"), (&computed, "computes")] {
        let tasks = measured[function]["tasks"].as_array().context("no tasks")?;
        for (stall, task) in stalls.iter().zip(tasks) {
            match &stall["task_name"] {
                Value::Null => unnamed += 1,
                name => ensure!(name == task, "{stall} is not {task}"),
            }
        }
    }
    ensure!(unnamed <= 1, "{unnamed} without a name: {slept:?} {computed:?}");
    // It polls all the time, and never waits.
    let all = waits.report["stalls"]["stalls"].as_array().context("no stalls")?;
    ensure!(all.len() == slept.len() + computed.len(), "{all:?}");
    Ok(())
}

/// The stalls that a function took: as many and as long as it measures.
fn of<'a>(waits: &'a Waits, function: &str, what: &[&str], measured: &Value) -> Result<Vec<&'a Value>> {
    let stalls = waits.report["stalls"]["stalls"].as_array().context("no stalls")?;
    let stalls: Vec<&Value> = stalls.iter().filter(|stall| stall["function"] == function).collect();
    let ns: u64 = stalls.iter().filter_map(|stall| stall["length_ns"].as_u64()).sum();
    let expected = measured["ns"].as_u64().context("no time")?;
    ensure!(
        stalls.len() as u64 == measured["count"].as_u64().context("no count")?
            && (ns as f64 / expected as f64 - 1.0).abs() <= 0.05
            && stalls
                .iter()
                .all(|stall| stall["what"].as_str().is_some_and(|found| what.contains(&found))),
        "{function}: {ns} ns of {expected}: {:?}",
        waits.report["stalls"]
    );
    Ok(stalls)
}

#[test]
fn both_lines_that_keep_a_fastapi_service_from_polling_are_named_by_one_command() -> Result<()> {
    let _lock = serial();
    let python = python::any()?;
    let Some(interpreter) = venv::with(&python, &["fastapi", "uvicorn"])? else {
        return Ok(());
    };
    let directory = workload::copy(&python)?;
    let mut command = std::process::Command::new(interpreter);
    command.arg(directory.path().join("waits_service.py"));
    let service = Workload::command(command, Some(directory))?;
    let port = service.truth[0]["port"].as_u64().context("no port")? as u16;
    let pid = service.pid.to_string();
    let attached = waits::attach(&["-p", &pid, "--stalls", "100ms"])?;
    let mut measured = [0, 0];
    for _ in 0..ROUNDS {
        for (sum, page) in measured.iter_mut().zip(["asks", "computes"]) {
            *sum += ask(port, page)?;
        }
    }
    let waits = Waits::of(attached.stop()?)?;
    let [asks, computes] = measured.map(|ns| serde_json::json!({"ns": ns, "count": ROUNDS}));
    let asked = of(&waits, "asks", &["sleep"], &asks)?;
    ensure!(
        asked.iter().all(|stall| stall["line"] == service.truth[0]["asks"]),
        "{asked:?}"
    );
    let computed = of(&waits, "computes", &["CPU", "ready"], &computes)?;
    let lines = &service.truth[0]["computes"];
    let (first, last) = (
        lines[0].as_u64().context("no line")?,
        lines[1].as_u64().context("no line")?,
    );
    ensure!(
        (computed.iter()).all(|stall| stall["line"]
            .as_u64()
            .is_some_and(|line| (first..=last).contains(&line))),
        "{computed:?}"
    );
    Ok(())
}

/// What a page says it took.
fn ask(port: u16, page: &str) -> Result<u64> {
    let answer = http::ask(port, &format!("{page}?seconds={PAUSE_S}"))?;
    answer["ns"].as_u64().context("no time")
}

#[test]
fn a_loop_that_has_not_come_back_is_told_as_long_as_it_is_away() -> Result<()> {
    let _lock = serial();
    let python = python::any()?;
    // Away for longer than it is looked at.
    let mut workload = Workload::python(&python, "waits_loop.py", &["1", "30"])?;
    let attached = waits::attach(&["-p", &workload.pid.to_string(), "--stalls", "100ms", "-d", "2"])?;
    workload.tell("go")?;
    let waits = Waits::of(attached.finish()?.success()?)?;
    let stalls = waits.report["stalls"]["stalls"].as_array().context("no stalls")?;
    let [stall] = &stalls[..] else {
        anyhow::bail!("not one: {stalls:?}")
    };
    ensure!(
        stall["unended"] == true && stall["function"] == "sleeps" && stall["what"] == "sleep",
        "{stall}"
    );
    Ok(())
}
