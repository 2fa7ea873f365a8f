//! Exceptions are those that the program itself counts, by type, by the line that raises and by the one that catches.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    python::{self, Python},
    reports::{Report, Written},
    serial::serial,
    workload::{Workload, line_of},
};
use serde_json::Value;

const ROUNDS: u64 = 1000;
const SCRIPT: &str = "raising.py";

/// By type and function.
type Counts = BTreeMap<String, f64>;

fn found(written: &Written, field: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    for row in rows(written)? {
        if row["file"].as_str().is_some_and(|file| file.ends_with(SCRIPT)) {
            let key = format!("{} {}", text(row, "exception")?, text(row, "function")?);
            *counts.entry(key).or_default() += row[field].as_f64().context("no number")?;
        }
    }
    Ok(counts)
}

fn rows(written: &Written) -> Result<&Vec<Value>> {
    written.json["exceptions"].as_array().context("no exceptions")
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field]
        .as_str()
        .with_context(|| format!("{field} is no text in {value}"))
}

fn truth(value: &Value) -> Result<Counts> {
    let counts = value.as_object().context("no counts")?;
    counts
        .iter()
        .map(|(key, count)| Ok((key.clone(), count.as_f64().context("no count")?)))
        .collect()
}

/// What the profiler saw of `rounds` of the workload, and what the workload counted.
fn go(python: &Python, rounds: u64, arguments: &[&str]) -> Result<(Written, Counts)> {
    let mut workload = Workload::python(python, SCRIPT, &[&rounds.to_string()])?;
    let attached = Report::new("exceptions", &["-p", &workload.pid.to_string()])?;
    let attached = arguments
        .iter()
        .fold(attached, |attached, argument| attached.arg(argument));
    let attached = attached.start()?;
    workload.tell("go")?;
    let counted = truth(&workload.value()?)?;
    let written = attached.stop()?;
    ensure!(workload.is_running()?, "the target has ended");
    Ok((written, counted))
}

#[test]
fn exceptions_of_every_kind_are_counted_as_the_program_counts_them() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let (written, truth) = go(python, ROUNDS, &["--max-overhead", "1000"])?;
        ensure!(written.json["exact"] == true, "{}", written.outcome.stderr);
        let found = found(&written, "count")?;
        ensure!(found.keys().eq(truth.keys()), "{found:?}, not {truth:?}");
        for (key, expected) in &truth {
            let off = (found[key] - expected).abs() / expected;
            ensure!(off <= 0.02, "{key}: {} of {expected}", found[key]);
        }
        for (raised, catcher, line) in [
            ("third", "deep", "second()  # deep"),
            ("failing", "through", "for _ in failing():"),
            ("here", "here", "raise Own  # here"),
        ] {
            let row = rows(&written)?.iter().find(|row| row["function"] == raised);
            let most = &row.context("no row")?["caught"][0];
            let line = line_of(SCRIPT, line)?;
            ensure!(
                most["function"] == catcher && most["line"] == line,
                "{raised}: {most}, not {catcher}:{line}"
            );
        }
        println!("{python}: {} exceptions", truth.values().sum::<f64>());
        Ok(())
    })
}

#[test]
fn what_would_cost_too_much_is_estimated_and_the_program_is_not_slowed_down_for_it() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let mut rounds = 150 * ROUNDS;
        let (written, truth) = loop {
            let (written, truth) = go(python, rounds, &[])?;
            // A fast machine is through before there are windows enough to estimate from, which is said.
            if written.json["count_error"].is_u64() || rounds > 1000 * ROUNDS {
                break (written, truth);
            }
            rounds *= 3;
        };
        let json = &written.json;
        ensure!(
            json["exact"] == false && json["windows"].as_u64() >= Some(3),
            "{}",
            written.outcome.stderr
        );
        let slow_down = json["slow_down"]["factor"].as_f64().context("no factor")?;
        ensure!(slow_down < 1.8, "{slow_down} times as long");
        let (count, error) = (&json["count"], &json["count_error"]);
        let (count, error) = (count.as_f64().context("no count")?, error.as_f64().context("no error")?);
        let truth: f64 = truth.values().sum();
        // A 95 % interval is met by one in twenty that are right; three times as wide by none.
        ensure!((count - truth).abs() <= 1.5 * error, "{count} ± {error} of {truth}");
        // How wide that is depends on how well it is known what of the windows' time was ours.
        ensure!((0.4..2.5).contains(&(count / truth)), "{count} of {truth}");
        println!("{python}: {count} ± {error} of {truth}, {slow_down} times as long");
        Ok(())
    })
}

#[test]
fn a_commands_exceptions_are_counted_from_the_first_on() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        // What starts an interpreter in a root of its own runs others before.
        if python.root.is_some() {
            return Ok(());
        }
        let program = "class Own(Exception): pass\nfor _ in range(50):\n try: raise Own\n except Own: pass\n";
        let report = Report::new("exceptions", &["--max-overhead", "1000", "--"])?;
        let written = report.arg(&python.executable).arg("-c").arg(program).run()?;
        // The first may come before it is known how to walk the process.
        let own = rows(&written)?.iter().filter(|row| row["exception"] == "Own");
        let count: f64 = own.map(|row| row["count"].as_f64().unwrap_or_default()).sum();
        ensure!(count == 50.0, "{count} of 50: {}", written.json);
        Ok(())
    })
}

#[test]
fn a_program_that_raises_nothing_has_no_rows() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let workload = Workload::python(&python, SCRIPT, &["1"])?;
    let written = Report::new("exceptions", &["-d", "1", "-p", &workload.pid.to_string()])?.run()?;
    ensure!(
        rows(&written)?.is_empty() && written.json["count"] == 0,
        "{}",
        written.json
    );
    ensure!(
        written.outcome.stderr.contains("no probe was hit"),
        "{}",
        written.outcome.stderr
    );
    Ok(())
}
