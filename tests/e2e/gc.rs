//! Garbage collections are those that the interpreter counts, and pauses those that its own callbacks time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    python::{self, Python},
    reports::{Report, Written},
    serial::serial,
    workload::{Workload, line_of},
};
use serde_json::Value;

const SCRIPT: &str = "collecting.py";
const CYCLES: &str = "300000";

fn go(python: &Python, times: u32) -> Result<(Written, Vec<Value>)> {
    let mut workload = Workload::python(python, SCRIPT, &[CYCLES])?;
    let attached = Report::new("gc", &["-p", &workload.pid.to_string()])?.start()?;
    let mut told = Vec::new();
    for _ in 0..times {
        workload.tell("go")?;
        told.push(workload.value()?);
    }
    let written = attached.stop()?;
    ensure!(workload.is_running()?, "the target has ended");
    Ok((written, told))
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("{value} is no number"))
}

#[test]
fn collections_and_pauses_are_those_of_the_interpreter() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let (written, told) = go(python, 1)?;
        let (process, truth) = (&written.json["processes"][0], &told[0]);
        ensure!(process["thresholds"] == truth["thresholds"], "{process}: {truth}");
        let is_seen = python.version >= (3, 9);
        ensure!(process["exact"] == is_seen, "{}", written.outcome.stderr);
        for generation in 0..3 {
            let (found, stats) = (&process["generations"][generation], &truth["stats"][generation]);
            for (ours, theirs) in [
                ("collections", "collections"),
                ("collected", "collected"),
                ("uncollectable", "uncollectable"),
            ] {
                ensure!(found[ours] == stats[theirs], "{generation}: {found}, not {stats}");
            }
            let (count, pause_s) = (
                number(&truth["pauses"][generation][0])?,
                number(&truth["pauses"][generation][1])?,
            );
            if is_seen && python.version < (3, 13) && count > 0.0 {
                let pause = number(&found["pause_ns"])? / 1e9;
                // Callbacks, and our own probes, are within what we time, and some microseconds each.
                let more = count * 40e-6 + 0.05 * pause_s;
                ensure!(
                    (pause - pause_s).abs() <= more,
                    "{generation}: {pause} s, not {pause_s}"
                );
            }
        }
        if is_seen {
            let sum = |of: &dyn Fn(usize) -> Option<f64>| (0..3).filter_map(of).sum::<f64>();
            let collections = sum(&|generation| truth["stats"][generation]["collections"].as_f64());
            ensure!(
                number(&process["collections"])? == collections,
                "{process}: {collections}"
            );
            let pauses = sum(&|generation| truth["pauses"][generation][1].as_f64());
            let pause = number(&process["pause_ns"])? / 1e9;
            let more = collections * 40e-6 + 0.05 * pauses;
            ensure!((pause - pauses).abs() <= more, "{pause} s, not {pauses}");
        }
        if is_seen {
            let lines = written.json["lines"].as_array().context("no lines")?;
            let of = |text: &str| -> Result<f64> {
                let line = line_of(SCRIPT, text)?;
                lines
                    .iter()
                    .filter(|row| row["line"] == line)
                    .map(|row| number(&row["collections"]))
                    .sum()
            };
            ensure!(of("gc.collect()  # all")? >= 1.0, "{lines:?}");
        }
        println!("{python}: {}", truth["stats"]);
        Ok(())
    })
}

#[test]
fn where_collections_cannot_be_seen_their_share_of_the_time_is_estimated() -> Result<()> {
    let _serial = serial();
    let Some(python) = python::all()?.into_iter().find(|python| python.version == (3, 8)) else {
        return Ok(());
    };
    let began = Instant::now();
    let (written, told) = go(&python, 4)?;
    let process = &written.json["processes"][0];
    let (share, error) = (number(&process["share"])?, number(&process["share_error"])?);
    let pauses: f64 = told
        .iter()
        .flat_map(|go| (0..3).map(move |generation| go["pauses"][generation][1].as_f64().unwrap_or_default()))
        .sum();
    let length = number(&written.json["length_s"])?;
    ensure!(Duration::from_secs_f64(length) < began.elapsed(), "{length}");
    ensure!(
        (share - pauses / length).abs() <= 1.5 * error + 0.02,
        "{share} ± {error}, not {}",
        pauses / length
    );
    Ok(())
}
