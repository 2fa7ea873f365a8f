//! Shares of time within three points of a known split.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::{has, is},
    profiler::Profiler,
    python,
    serial::serial,
    workload::{Workload, line_of},
};
use serde_json::Value;

use crate::{COMPLETE, HERTZ, RATE, ensure_close};

/// As many samples in three seconds as [`RATE`] gives in six.
const OFTEN: &str = "937";

#[test]
fn functions_have_the_share_of_the_time_they_use() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "shares.py", &[])?;
        let pid = workload.pid.to_string();
        let arguments = ["-p", &pid, "-d", "3", "-r", OFTEN, "-f", "folded", "-o", "-"];
        let folded = Profiler::record(&arguments).succeed()?.folded()?;
        ensure!(folded.total() > 400, "only {} samples", folded.total());
        for (function, share) in [("half", 0.5), ("third", 0.3), ("fifth", 0.2)] {
            ensure_close(function, folded.share_of(function), share)?;
        }
        ensure!(
            folded.share(|stack| has(stack, "turns") && has(stack, "<module>")) > 0.98,
            "{folded}"
        );
        Ok(())
    })
}

#[test]
fn lines_have_the_share_of_the_time_they_use() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "lines.py", &[])?;
        let pid = workload.pid.to_string();
        let arguments = [
            "-p",
            &pid,
            // Three points are three standard deviations of a half in 2,800 samples.
            "-d",
            "3",
            "-r",
            OFTEN,
            "--no-kernel",
            "--no-native",
            "-f",
            "folded",
            "-o",
            "-",
        ];
        let folded = Profiler::record(&arguments).succeed()?.folded()?;
        ensure!(folded.total() > 400, "only {} samples", folded.total());
        for (text, share) in [("# half", 0.5), ("# third", 0.3), ("# fifth", 0.2)] {
            let frame = format!("lines (lines.py:{})", line_of("lines.py", text)?);
            ensure_close(&frame, folded.share(|stack| stack.last() == Some(&frame)), share)?;
        }
        Ok(())
    })
}

#[test]
fn a_thread_that_released_the_gil_still_has_its_python_stack() -> Result<()> {
    let _serial = serial();
    let hashing = format!("hashing (released.py:{})", line_of("released.py", "# hash")?);
    let compressing = format!("compressing (released.py:{})", line_of("released.py", "# compress")?);
    python::each(|python| {
        let workload = Workload::python(python, "released.py", &[])?;
        let pid = workload.pid.to_string();
        let arguments = ["-p", &pid, "-t", "-d", "3", "-r", RATE, "-f", "folded", "-o", "-"];
        let folded = Profiler::record(&arguments).succeed()?.folded()?;
        for (name, line) in [("hashing", &hashing), ("compressing", &compressing)] {
            let tid = workload.truth[0][name].as_u64().context("no thread id")?;
            let thread = folded.below(&format!("thread {tid}:"));
            let share = thread.share(|stack| {
                stack.contains(line) && has(stack, "Thread.run") || {
                    // Up to 3.10 code objects have no qualified names.
                    stack.contains(line) && has(stack, "run")
                }
            });
            ensure!(
                thread.total() > 100 && share >= 0.99,
                "{name}: {:.1} % of its {} samples have {line}\n{thread}",
                share * 100.0,
                thread.total(),
            );
        }
        Ok(())
    })
}

#[test]
fn code_that_took_the_place_of_other_code_gets_its_own_name() -> Result<()> {
    let _serial = serial();
    // Slow enough to be looked at meanwhile, and so fast that each function is gone before anybody can look.
    for (rounds, unit) in [("8", "0.05"), ("200", "0.002")] {
        python::each(|python| churn(python, rounds, unit).with_context(|| format!("{rounds} rounds")))?;
    }
    Ok(())
}

fn churn(python: &python::Python, rounds: &str, unit: &str) -> Result<()> {
    let mut workload = Workload::python(python, "churn.py", &[rounds, unit])?;
    let pid = workload.pid.to_string();
    let recording = Profiler::record(&["-p", &pid, "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
    workload.tell("go")?;
    let truth = workload.value()?;
    let outcome = recording.stop()?;
    let folded = outcome.folded()?;
    let reuse = truth["most functions at an address"].as_u64().context("no reuse")?;
    ensure!(
        reuse > 1,
        "every function had an address of its own, so nothing was tested"
    );
    let spent: Vec<f64> = truth["spent"]
        .as_array()
        .context("no times")?
        .iter()
        .filter_map(Value::as_f64)
        .collect();
    let total: f64 = spent.iter().sum();
    let all = folded.count(|stack| stack.iter().any(|frame| frame.starts_with("f_")));
    ensure!(
        COMPLETE.contains(&(all as f64 / (total * HERTZ))),
        "{all} samples in {total:.2} s\n{folded}"
    );
    for (which, seconds) in spent.iter().enumerate() {
        let function = format!("f_{which}");
        // Under the right name and in the right file.
        let found = folded.count(|stack| stack.iter().any(|frame| is(frame, &function)));
        let right = folded.count(|stack| {
            stack
                .iter()
                .any(|frame| is(frame, &function) && frame.contains(&format!("(<churn {which}>:")))
        });
        ensure!(found == right, "{function} has a file of another function's\n{folded}");
        ensure_close(&function, found as f64 / all as f64, seconds / total)?;
    }
    ensure!(!outcome.stderr.contains("unnamed"), "{}", outcome.stderr);
    Ok(())
}

/// The rate is a promise, too: as many samples as the time the process used.
#[test]
fn a_sample_stands_for_one_period_of_cpu_time() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let workload = Workload::python(&python, "spin.py", &[])?;
    let pid = workload.pid.to_string();
    for hertz in [1_u32, 99, 999, 10_000] {
        let seconds = if hertz == 1 { 12 } else { 2 };
        let recording = Profiler::record(&["-p", &pid, "-r", &hertz.to_string(), "-f", "folded", "-o", "-"]).start()?;
        let used = workload.cpu_seconds_in(Duration::from_secs(seconds))?;
        let samples = recording.stop()?.folded()?.total();
        let expected = used * f64::from(hertz);
        // A sample at either end, and the moments between starting to sample and starting to measure.
        let slack = expected * 0.1 + 2.0;
        ensure!(
            (samples as f64 - expected).abs() <= slack,
            "{samples} samples at {hertz} Hz in {used:.2} s of CPU time"
        );
    }
    Ok(())
}
