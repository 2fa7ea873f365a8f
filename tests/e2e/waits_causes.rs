//! Each cause, and the line that waits for it, is told for as long as the program itself measures it.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    python,
    serial::serial,
    waits::{self, Waits},
    workload::Workload,
};
use serde_json::Value;

const ROUNDS: &str = "20";
const PAUSE_S: &str = "0.02";

#[test]
fn every_cause_has_its_line_and_the_time_that_the_program_measures() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        causes(&python).with_context(|| format!("{python}"))?;
    }
    Ok(())
}

fn causes(python: &python::Python) -> Result<()> {
    let mut workload = Workload::python(python, "waits_causes.py", &[ROUNDS, PAUSE_S])?;
    let attached = waits::attach(&["-p", &workload.pid.to_string()])?;
    workload.tell("go")?;
    let measured = workload.value()?;
    let waits = Waits::of(attached.stop()?)?;
    waits.ensure_adds_up()?;
    // Not one of some 220, nor of those of the threads that it makes.
    let lost = waits.lost_stacks();
    ensure!(lost == 0, "{lost} stacks are lost: {}", waits.said);
    for (what, known) in measured.as_object().context("no times")? {
        let cause = what.split(',').next().unwrap_or(what);
        // Of a socket with a timeout too, it is the socket that is waited for; `poll` of one descriptor is that one's wait.
        let cause = match &**what {
            "poll, by select" => "poll",
            _ => cause,
        };
        close(&waits, what, cause, known)?;
    }
    let truth = &workload.truth[0];
    let peer = format!("127.0.0.1:{}", truth["port"].as_u64().context("no port")?);
    let row = only(&waits, &measured["socket"], "socket")?;
    ensure!(row["peer"] == *peer, "not {peer}: {row}");
    let row = only(&waits, &measured["socket, with a timeout"], "socket")?;
    ensure!(row["peer"] == *peer, "not {peer}: {row}");
    let row = only(&waits, &measured["other, a signal"], "other")?;
    ensure!(row["call"] == "rt_sigtimedwait", "{row}");
    let row = only(&waits, &measured["file"], "file")?;
    let path = row["path"].as_str().context("no path")?;
    ensure!(truth["lock"].as_str().is_some_and(|lock| path.ends_with(lock)), "{row}");
    Ok(())
}

/// The row of a line and cause that has most of its time.
fn only<'a>(waits: &'a Waits, known: &Value, cause: &str) -> Result<&'a Value> {
    let function = known["function"].as_str().context("no function")?;
    let line = known["line"].as_u64().context("no line")?;
    let rows = waits
        .at(function, line)?
        .into_iter()
        .filter(|row| row["cause"] == cause);
    rows.max_by_key(|row| row["total_ns"].as_u64())
        .with_context(|| format!("nothing waits for {cause} at {function}:{line}"))
}

fn close(waits: &Waits, what: &str, cause: &str, known: &Value) -> Result<()> {
    let function = known["function"].as_str().context("no function")?;
    let line = known["line"].as_u64().context("no line")?;
    let expected = known["ns"].as_u64().context("no time")? as f64;
    // When the wait is over the GIL must be had again, which whoever ended it may have without a CPU. That is part of what the
    // program measures, and a small one.
    let gil = match cause {
        "gil" => 0.0,
        _ => waits.ns("gil", function, line)? as f64,
    };
    let found = waits.ns_with_ready(cause, function, line)? as f64 + gil;
    ensure!(
        gil < 0.1 * expected,
        "{what}: {:.1} ms for the GIL at {function}:{line}",
        gil / 1e6
    );
    // What it measures has the call itself in it, too: some µs of 20 ms.
    ensure!(
        found >= 0.97 * expected && found <= 1.03 * expected,
        "{what}: {:.1} ms at {function}:{line} of {:.1}: {:?}",
        found / 1e6,
        expected / 1e6,
        waits.at(function, line)?
    );
    Ok(())
}
