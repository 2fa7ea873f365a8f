//! Who ended a wait is told: the line of the thread that woke the other one.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    python::{self, Python},
    serial::serial,
    waits::{self, Waits},
    workload::Workload,
};
use serde_json::Value;

const ROUNDS: &str = "20";
const PAUSE_S: &str = "0.01";

#[test]
fn who_releases_a_lock_who_sends_and_that_a_timer_rings_is_told() -> Result<()> {
    let _lock = serial();
    python::each_kind(wakers)
}

fn wakers(python: &Python) -> Result<()> {
    let mut workload = Workload::python(python, "waits_wakers.py", &[ROUNDS, PAUSE_S])?;
    let attached = waits::attach(&["-p", &workload.pid.to_string(), "--wakers"])?;
    workload.tell("go")?;
    let measured = workload.value()?;
    let waits = Waits::of(attached.stop()?)?;
    let truth = &workload.truth[0];
    let waker = |function, cause| waker(&waits, &measured, function, cause);

    let released = waker("acquires", "lock")?;
    ensure!(
        released["function"] == "releases" && released["line"] == truth["released"] && released["pid"] == workload.pid,
        "{released}"
    );
    let sent = waker("receives", "socket")?;
    ensure!(sent["pid"] == truth["helper"], "{sent}");
    let rang = waker("sleeps", "sleep")?;
    ensure!(rang["name"] == "a timer or a device", "{rang}");
    Ok(())
}

/// Who ended most of the waits of a function, which must be nearly all of them: of another process, the first wakes are what
/// tells of it.
fn waker<'a>(waits: &'a Waits, measured: &Value, function: &str, cause: &str) -> Result<&'a Value> {
    let line = measured[function]["line"].as_u64().context("no line")?;
    let rows = waits.at(function, line)?;
    let row = (rows.iter())
        .filter(|row| row["cause"] == cause)
        .max_by_key(|row| row["total_ns"].as_u64());
    let row = row.with_context(|| format!("nothing waits for {cause} at {function}:{line}: {rows:?}"))?;
    let (all, by_this) = (row["total_ns"].as_u64(), row["waker"]["waited_ns"].as_u64());
    ensure!(
        by_this.context("no waker")? as f64 > 0.6 * all.context("no time")? as f64,
        "{row}"
    );
    Ok(&row["waker"])
}

#[test]
fn unless_it_is_asked_nobody_is_told() -> Result<()> {
    let _lock = serial();
    let mut workload = Workload::python(&python::any()?, "waits_wakers.py", &["3", PAUSE_S])?;
    let attached = waits::attach(&["-p", &workload.pid.to_string()])?;
    workload.tell("go")?;
    workload.value()?;
    let waits = Waits::of(attached.stop()?)?;
    let rows = waits.rows()?;
    ensure!(
        !rows.is_empty() && rows.iter().all(|row| row["waker"].is_null()),
        "{rows:?}"
    );
    Ok(())
}
