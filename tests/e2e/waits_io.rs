//! What a program reads, writes, sends and receives is told by line and peer: bytes, calls, and how long they take.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    python::{self, Python},
    serial::serial,
    waits::{self, Waits},
    workload::Workload,
};
use serde_json::Value;

#[test]
fn bytes_and_calls_of_each_line_are_those_that_the_program_makes() -> Result<()> {
    let _lock = serial();
    // What is a call does not depend on the interpreter.
    let python = python::any()?;
    io(&python).with_context(|| format!("{python}"))
}

fn io(python: &Python) -> Result<()> {
    let mut workload = Workload::python(python, "waits_io.py", &["0.01"])?;
    let attached = waits::attach(&["-p", &workload.pid.to_string(), "--io"])?;
    workload.tell("go")?;
    let measured = workload.value()?;
    let waits = Waits::of(attached.stop()?)?;
    let truth = &workload.truth[0];
    let peer = format!("127.0.0.1:{}", truth["port"].as_u64().context("no port")?);
    let file = truth["file"].as_str().context("no file")?;

    let exact = [
        ("writes", "write", "path", file),
        ("reads", "read", "path", file),
        ("syncs", "sync", "path", file),
        ("receives", "receive", "peer", &peer),
        ("reads_little", "read", "", ""),
        ("writes_little", "write", "", ""),
        ("connects", "connect", "", ""),
        ("accepts", "accept", "", ""),
    ];
    for (function, call, field, target) in exact {
        let known = &measured[function];
        let found = Sum::of(&waits, known, function, call)?;
        ensure!(found.is_as(known)?, "{function}: {found:?}, but {known}");
        ensure!(
            target.is_empty() || found.rows.iter().all(|row| row[field] == target),
            "{function}: not {target}: {found:?}"
        );
        // What it measures has the call of Python in it.
        let longest = known["max_ns"].as_u64().context("no time")?;
        ensure!(found.longest_ns <= longest, "{function}: {found:?}, but {known}");
    }
    let received = Sum::of(&waits, &measured["receives"], "receives", "receive")?;
    // It measures more where others have the CPU between the call and its clock.
    let of_receives = |field: &str| measured["receives"][field].as_u64().context("no time");
    let (most, lacked) = (of_receives("ns")? as f64, of_receives("lacked_ns")? as f64);
    let told = received.ns as f64;
    ensure!(
        0.95 * most - lacked <= told && told <= most,
        "{received:?} of {most}, of which {lacked} without a CPU"
    );
    let row = received.rows.first().context("no row")?;
    let quantiles = ["p50_ns", "p95_ns", "p99_ns", "max_ns"].map(|field| row[field].as_u64().unwrap_or(0));
    ensure!(quantiles.is_sorted() && quantiles[0] > 9_000_000, "{row}");
    let histogram = row["histogram"].as_object().context("no histogram")?;
    let counted: u64 = histogram.values().filter_map(Value::as_u64).sum();
    ensure!(counted.abs_diff(received.calls) <= 1 + histogram.len() as u64, "{row}");

    // It would have had to wait.
    let failed = Sum::of(&waits, &measured["is_not_answered"], "is_not_answered", "receive")?;
    ensure!(failed.failed == failed.calls && failed.bytes == 0, "{failed:?}");
    // Two lines share a socket: what there was is exact, and they have their parts of it.
    let (little, much) = (
        Sum::of(&waits, &measured["sends_little"], "sends_little", "send")?,
        Sum::of(&waits, &measured["sends_much"], "sends_much", "send")?,
    );
    let asks = Sum::of(&waits, &measured["asks"], "asks", "send")?;
    ensure!(little.is_as(&measured["sends_little"])?, "{little:?}, but {measured}");
    ensure!(much.is_as(&measured["sends_much"])?, "{much:?}, but {measured}");
    let all = |field: &str| -> u64 {
        let functions = ["asks", "sends_little", "sends_much"];
        functions
            .iter()
            .filter_map(|function| measured[function][field].as_u64())
            .sum()
    };
    let (calls, bytes) = (
        little.calls + much.calls + asks.calls,
        little.bytes + much.bytes + asks.bytes,
    );
    ensure!(
        calls.abs_diff(all("calls")) <= 3 && bytes.abs_diff(all("bytes")) <= 3,
        "{calls} calls and {bytes} bytes, but {measured}"
    );
    Ok(())
}

/// What was told of one line.
#[derive(Debug)]
struct Sum<'a> {
    calls: u64,
    error: u64,
    failed: u64,
    bytes: u64,
    ns: u64,
    longest_ns: u64,
    rows: Vec<&'a Value>,
}

impl<'a> Sum<'a> {
    fn of(waits: &'a Waits, known: &Value, function: &str, call: &str) -> Result<Self> {
        let rows = waits.report["io"].as_array().context("no I/O")?;
        let rows: Vec<&Value> = rows
            .iter()
            .filter(|row| row["function"] == function && row["line"] == known["line"] && row["call"] == call)
            .collect();
        let of = |field: &str| -> Vec<u64> { rows.iter().filter_map(|row| row[field].as_u64()).collect() };
        Ok(Self {
            calls: of("calls").iter().sum(),
            error: of("error_calls").iter().sum(),
            failed: of("failed").iter().sum(),
            bytes: of("bytes").iter().sum(),
            ns: of("total_ns").iter().sum(),
            longest_ns: of("max_ns").into_iter().max().unwrap_or(0),
            rows,
        })
    }

    /// Whether calls and bytes are as measured, within the error that is told: exactly, where there is none.
    fn is_as(&self, known: &Value) -> Result<bool> {
        let close = |found: u64, expected: &Value| -> Result<bool> {
            let expected = expected.as_u64().context("no number")?;
            // Twice the half width: four standard deviations. What is told is rounded.
            let tolerated = 2.0 * self.error as f64 / self.calls.max(1) as f64 * expected as f64 + 1.0;
            Ok(found.abs_diff(expected) as f64 <= tolerated)
        };
        Ok(close(self.calls, &known["calls"])? && close(self.bytes, &known["bytes"])?)
    }
}

#[test]
fn unless_it_is_asked_there_is_no_io() -> Result<()> {
    let _lock = serial();
    let workload = Workload::python(&python::any()?, "waits_io.py", &["0.01"])?;
    let outcome = waits::attach(&["-p", &workload.pid.to_string(), "-d", "1"])?
        .finish()?
        .success()?;
    let waits = Waits::of(outcome)?;
    ensure!(
        waits.report["io"].is_null() && waits.report["stalls"].is_null(),
        "{waits:?}"
    );
    Ok(())
}
