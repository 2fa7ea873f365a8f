//! A thread that waits while it has the GIL is told, with its line, how long, and how long others waited for it.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    python::{self, Python},
    serial::serial,
    waits::{self, Waits},
    workload::Workload,
};
use serde_json::Value;

const ROUNDS: &str = "10";
const PAUSE_S: &str = "0.05";

#[test]
fn a_c_function_that_keeps_the_gil_while_it_sleeps_is_told_and_one_that_lets_it_go_is_not() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        held(&python).with_context(|| format!("{python}"))?;
    }
    Ok(())
}

fn held(python: &Python) -> Result<()> {
    let mut workload = Workload::python(python, "waits_held.py", &[ROUNDS, PAUSE_S])?;
    let attached = waits::attach(&["-p", &workload.pid.to_string()])?;
    workload.tell("go")?;
    let said = workload.value()?;
    let waits = Waits::of(attached.stop()?)?;
    let measured = &said["measured"];
    let expected = measured["sleeps_with_it"]["ns"].as_u64().context("no time")? as f64;
    let with_it = asleep(&waits, measured, "sleeps_with_it")?;
    // What it measures has what comes between the call and the clock in it, too, where there are not CPUs enough: it sleeps as
    // long as it asks for, at least.
    let asked = ROUNDS.parse::<f64>()? * PAUSE_S.parse::<f64>()? * 1e9;
    ensure!(
        (0.97 * asked..=1.03 * expected).contains(&(with_it.held as f64)) && with_it.not_held == 0,
        "of {asked} to {expected} ns: {with_it:?}"
    );
    let without_it = asleep(&waits, measured, "sleeps_without_it")?;
    ensure!(without_it.held == 0 && without_it.not_held > 0, "{without_it:?}");

    let held = waits.rows()?.iter().filter(|row| row["gil_held"] == true);
    let blocked: Vec<&Value> = held.filter(|row| row["cause"] != "ready").collect();
    let of = |field: &str, rows: &[&Value]| rows.iter().filter_map(|row| row[field].as_u64()).sum::<u64>() as f64;
    let all = of("total_ns", &blocked);
    ensure!(all <= 1.02 * with_it.held as f64, "elsewhere, too: {blocked:?}");
    let (others, expected) = (
        of("others_waited_ns", &blocked),
        said["others_ns"].as_u64().context("no time")? as f64,
    );
    ensure!(
        (others / expected - 1.0).abs() <= 0.1,
        "others waited {others} ns for it, and measured {expected}"
    );
    Ok(())
}

#[derive(Debug, Default)]
struct Asleep {
    held: u64,
    not_held: u64,
}

/// Time asleep at the line of a function, with and without the GIL: with what it then waits for a CPU, which it measures, too.
fn asleep(waits: &Waits, measured: &Value, function: &str) -> Result<Asleep> {
    let line = measured[function]["line"].as_u64().context("no line")?;
    let mut asleep = Asleep::default();
    for row in waits.at(function, line)? {
        let ns = row["total_ns"].as_u64().context("no time")?;
        match (row["gil_held"] == true, row["cause"].as_str()) {
            (true, Some("sleep" | "ready")) => asleep.held += ns,
            (false, Some("sleep")) => asleep.not_held += ns,
            _ => {}
        }
    }
    Ok(asleep)
}

#[test]
fn the_gil_that_is_kept_for_good_is_told_while_it_is_kept() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        for_good(&python).with_context(|| format!("{python}"))?;
    }
    Ok(())
}

/// pause(2), on x86-64.
const PAUSE: u32 = 34;

fn for_good(python: &Python) -> Result<()> {
    let workload = Workload::python(python, "waits_held.py", &[ROUNDS, PAUSE_S, "for good"])?;
    let line = workload.truth[0]["forever"].as_u64().context("no line")?;
    // It says that it is ready before it is.
    waits::until_in_call(workload.pid, PAUSE)?;
    let pid = workload.pid.to_string();
    let outcome = waits::attach(&["-p", &pid, "-d", "1"])?.finish()?.success()?;
    let waits = Waits::of(outcome)?;
    let length = waits.report["length_ns"].as_u64().context("no length")? as f64;
    let is_length = |ns: &Value, tolerated: f64| {
        ns.as_u64()
            .is_some_and(|ns| (ns as f64 / length - 1.0).abs() < tolerated)
    };
    let rows = waits.at("<module>", line)?;
    let [row] = rows[..] else {
        anyhow::bail!("not one row at line {line}: {:?}", waits.rows()?)
    };
    ensure!(
        row["gil_held"] == true
            && row["unended_ns"] == row["total_ns"]
            && is_length(&row["total_ns"], 0.03)
            && is_length(&row["others_waited_ns"], 0.05),
        "of {length} ns: {row}"
    );
    let text = waits::table(&["-p", &pid, "-d", "1"])?;
    let words: Vec<&str> = text.split_whitespace().collect();
    ensure!(
        words.join(" ").contains("The GIL is held while blocked: <module> ("),
        "{text}"
    );
    Ok(())
}
