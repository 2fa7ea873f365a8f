//! Waiting for the GIL is told as that, on every interpreter, and for as long as it is measured.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    python::{self, Python},
    serial::serial,
    waits::{self, Waits},
    workload::Workload,
};

#[test]
fn a_thread_that_wants_the_gil_waits_for_it_as_long_as_it_measures() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        gil(&python).with_context(|| format!("{python}"))?;
    }
    Ok(())
}

fn gil(python: &Python) -> Result<()> {
    let mut workload = Workload::python(python, "waits_gil.py", &["2"])?;
    let attached = waits::attach(&["-p", &workload.pid.to_string()])?;
    workload.tell("go")?;
    let measured = workload.value()?;
    let waits = Waits::of(attached.stop()?)?;
    waits.ensure_adds_up()?;
    let (function, line) = (
        workload.truth[0]["function"].as_str().context("no function")?,
        workload.truth[0]["line"].as_u64().context("no line")?,
    );
    let expected = measured["waited_ns"].as_u64().context("no time")? as f64;
    let gil = waits.ns("gil", function, line)? as f64;
    let ready = waits.ns("ready", function, line)? as f64;
    // It measures a little more: that its timer went off late, and what it did on a CPU, awake and without the GIL. How much
    // there can be of either is known. What it waits for a CPU before it finds that it has no GIL is in it as well.
    let turns = measured["turns"].as_u64().context("no turns")?;
    let late = waits.ns("sleep", function, line)?.saturating_sub(turns * 10_000_000) as f64;
    let wants = waits.threads()?.iter().find(|thread| thread["thread"] == "wants");
    let on_cpu = wants
        .and_then(|thread| thread["on_cpu_ns"].as_u64())
        .context("no time on a CPU")? as f64;
    ensure!(
        on_cpu < 0.05 * turns as f64 * 10e6,
        "it only waits, and was on a CPU for {on_cpu} ns"
    );
    ensure!(
        gil > 0.25 * expected && gil + ready <= 1.05 * expected && gil + ready + late + on_cpu >= 0.95 * expected,
        "{:.1} ms for the GIL, {:.1} for a CPU, {:.1} late and {:.1} on a CPU, but {:.1} measured: {:?}",
        gil / 1e6,
        ready / 1e6,
        late / 1e6,
        on_cpu / 1e6,
        expected / 1e6,
        waits.at(function, line)?
    );
    // Threads are called by the function that each runs.
    let holders = waits.report["holders"].as_array().context("no holders")?;
    let (mut all, mut named, mut right) = (0, 0, 0);
    for holder in holders {
        let waited = holder["waited_ns"].as_u64().context("no time")?;
        let name = holder["thread"].as_str().context("no thread")?.split('-').next();
        all += waited;
        // Who gives it up waits until somebody has taken it, who may wait for a CPU: nobody has it then.
        if name.is_none_or(str::is_empty) {
            continue;
        }
        named += waited;
        let function = holder["function"].as_str();
        let is_main = holder["tid"] == holder["pid"] && function == Some("<module>");
        right += if is_main || function == name { waited } else { 0 };
    }
    // Of all threads: the two that compute wait for it as well.
    let waited: u64 = waits
        .threads()?
        .iter()
        .filter_map(|thread| thread["waiting_ns"]["gil"].as_u64())
        .sum();
    ensure!(
        all as f64 >= 0.95 * waited as f64 && named as f64 >= 0.75 * all as f64 && right as f64 >= 0.95 * named as f64,
        "of {waited} ns of waiting for it, {all} are told by holder, {named} of one with a name, {right} of the right one: \
         {holders:?}"
    );
    Ok(())
}

#[test]
fn waiting_for_the_gil_of_a_sub_interpreter_is_told_as_that_and_not_as_the_main_ones() -> Result<()> {
    let _lock = serial();
    // 3.13 says where its GILs are as 3.14 does.
    let has_own = |python: &Python| matches!(python.version, (3, 12 | 14));
    for python in python::all()?.iter().filter(|python| has_own(python)) {
        own_gil(python).with_context(|| format!("{python}"))?;
    }
    Ok(())
}

fn own_gil(python: &Python) -> Result<()> {
    let mut workload = Workload::python(python, "waits_own_gil.py", &[])?;
    let attached = waits::attach(&["-p", &workload.pid.to_string()])?;
    workload.tell("go")?;
    let measured = workload.value()?;
    let waits = Waits::of(attached.stop()?)?;
    waits.ensure_adds_up()?;
    let line = workload.truth[0]["line"].as_u64().context("no line")?;
    let expected = measured["waited_ns"].as_u64().context("no time")? as f64;
    let turns = measured["turns"].as_u64().context("no turns")?;
    let of = |cause: &str| waits.ns(cause, "wants", line).map(|ns| ns as f64);
    let (gil, lock, ready) = (of("gil")?, of("lock")?, of("ready")?);
    let late = (of("sleep")? - turns as f64 * 10e6).max(0.0);
    ensure!(
        gil > 0.25 * expected
            && lock <= 0.02 * gil
            && gil + ready <= 1.05 * expected
            // As above; what it did on a CPU is not looked at.
            && gil + ready + late >= 0.9 * expected,
        "{gil} ns for the GIL, {lock} for locks, {ready} for a CPU and {late} late, but {expected} measured: {:?}",
        waits.at("wants", line)?
    );
    // Sums of threads have it in the same place.
    let wants = waits.threads()?.iter().find(|thread| {
        let name = thread["thread"].as_str();
        name.is_some_and(|name| name.contains("wants"))
    });
    let of_thread = |cause: &str| {
        wants
            .and_then(|thread| thread["waiting_ns"][cause].as_u64())
            .unwrap_or(0) as f64
    };
    ensure!(
        of_thread("lock") <= 0.05 * of_thread("gil") && of_thread("gil") >= 0.95 * gil,
        "{wants:?}"
    );
    // Who had it is the one that computes there, whatever the main interpreter's threads do.
    let rows = waits.at("wants", line)?;
    let row = rows.into_iter().find(|row| row["cause"] == "gil").context("no row")?;
    ensure!(row["holder"]["function"] == "computes", "{row}");
    Ok(())
}
