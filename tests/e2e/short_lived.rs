//! Interpreters that come and go.

use std::{
    process::Stdio,
    sync::Mutex,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Result, ensure};
use profiler_tests::{
    folded::{has, is_python},
    process::die_with_parent,
    profiler::Profiler,
    python,
    serial::serial,
    workload,
};

use crate::{HERTZ, RATE};

const PROCESSES: usize = 200;
/// What `burn.py` uses.
const BURNT_SECONDS: f64 = 0.1;

/// 200 interpreters, two at a time, each of which spends 100 ms of CPU time in `burn`.
///
/// What is asked for is that the time spent in Python is named, not that the time before there is any Python (the
/// loader, the interpreter's own start) is: nobody could name that. So the samples to expect are counted from what is
/// known to be spent in `burn`, 100 ms each, and 95 % of those must be shown as `burn`, called from its module. This is
/// stricter than a share of what was recorded: a sample that was lost, or put under another process, or that shows
/// native frames only, is missing here. On the other side nothing may be counted twice.
#[test]
fn interpreters_that_live_for_100_ms_are_named() -> Result<()> {
    let _serial = serial();
    let pythons = python::all()?;
    let directories = pythons.iter().map(workload::copy).collect::<Result<Vec<_>>>()?;
    let recording = Profiler::record(&["-a", "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
    let next = AtomicUsize::new(0);
    let pids: Vec<Mutex<Vec<u32>>> = pythons.iter().map(|_| Mutex::default()).collect();
    let start_one_after_another = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= PROCESSES {
                return Ok(());
            }
            let which = number % pythons.len();
            let mut command = pythons[which].command();
            command
                .arg(pythons[which].seen(&directories[which].path().join("short_lived.py")))
                .stdin(Stdio::null());
            let mut child = die_with_parent(&mut command).spawn()?;
            if let Ok(mut pids) = pids[which].lock() {
                pids.push(child.id());
            }
            let status = child.wait()?;
            ensure!(status.success(), "{} failed: {status}", pythons[which]);
        }
    };
    thread::scope(|scope| {
        let others = scope.spawn(start_one_after_another);
        start_one_after_another()?;
        others
            .join()
            .unwrap_or_else(|_| anyhow::bail!("a thread of the test panicked"))
    })?;
    let outcome = recording.stop()?;
    let folded = outcome.folded()?;

    let mut failures = Vec::new();
    let (mut all_named, mut all_expected) = (0, 0.0);
    for (python, pids) in pythons.iter().zip(&pids) {
        let roots: Vec<String> = pids
            .lock()
            .map(|pids| pids.iter().map(|pid| format!("process {pid}:")).collect())
            .unwrap_or_default();
        let of_these = folded.only(|stack| roots.iter().any(|root| stack[0].starts_with(root)));
        let named = of_these.count(|stack| has(stack, "burn") && has(stack, "<module>"));
        let expected = roots.len() as f64 * BURNT_SECONDS * HERTZ;
        let with_python = of_these.count(|stack| stack.iter().any(|frame| is_python(frame)));
        println!(
            "{python}: {named} samples of burn, {expected:.0} expected; {with_python} of {} with Python frames",
            of_these.total(),
        );
        all_named += named;
        all_expected += expected;
        let share = named as f64 / expected;
        // Of one interpreter there are only twenty, and the first of them shows a file that was never seen before.
        if !(0.93..=1.05).contains(&share) {
            let other = of_these.only(|stack| !has(stack, "burn"));
            failures.push(format!(
                "{python}: {named} of {expected:.0} samples of burn\nothers: {other}"
            ));
        }
    }
    let share = f64::from(u32::try_from(all_named)?) / all_expected;
    println!("in all: {all_named} of {all_expected:.0}, {:.1} %", share * 100.0);
    ensure!(failures.is_empty(), "{}\n{}", failures.join("\n"), outcome.stderr);
    ensure!(
        (0.95..=1.05).contains(&share),
        "{:.1} % of the samples are named\n{}",
        share * 100.0,
        outcome.stderr
    );
    let unknown = folded.only(|stack| has_marker(stack, "[unknown Python function]"));
    ensure!(unknown.total() == 0, "functions without names: {unknown}");
    Ok(())
}

fn has_marker(stack: &[String], marker: &str) -> bool {
    stack.iter().any(|frame| frame == marker)
}
