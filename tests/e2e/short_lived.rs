//! Interpreters that come and go.

use std::{
    process::Stdio,
    sync::Mutex,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Result, ensure};
use profiler_tests::{
    folded::{has, has_chain_among_python, is_python},
    process::die_with_parent,
    profiler::Profiler,
    python,
    serial::serial,
    workload,
};

use crate::{COMPLETE, HERTZ, RATE};

const PROCESSES: usize = 200;
/// What `burn.py` uses.
const BURNT_SECONDS: f64 = 0.1;

/// 200 interpreters, two at a time, each of which spends 100 ms of CPU time in `burn`.
///
/// What is asked for is that the time spent in Python is named, not that the time before there is any Python (the
/// loader, the interpreter's own start) is: nobody could name that. So the process gives its thread a name of its own
/// for as long as it burns, which the kernel notes with every sample: of the samples under that name, 95 % must show
/// `burn`, called from its module. And since a sample that was lost or put elsewhere would not be missed there, the
/// number of those samples must be that of the CPU time burnt, 100 ms each.
#[test]
fn interpreters_that_live_for_100_ms_are_named() -> Result<()> {
    let _serial = serial();
    let pythons = python::all()?;
    let directories = pythons.iter().map(workload::copy).collect::<Result<Vec<_>>>()?;
    let recording = Profiler::record(&["-a", "-t", "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
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

    for (python, pids) in pythons.iter().zip(&pids) {
        let roots: Vec<String> = pids
            .lock()
            .map(|pids| pids.iter().map(|pid| format!(" (process {pid})")).collect())
            .unwrap_or_default();
        let of_these = folded.only(|stack| roots.iter().any(|root| stack[0].ends_with(root)));
        let burning = of_these.only(|stack| {
            stack
                .get(1)
                .is_some_and(|thread| thread.starts_with("burning (thread "))
        });
        let named = burning.count(|stack| has_chain_among_python(stack, &["<module>", "burn"]));
        let expected = roots.len() as f64 * BURNT_SECONDS * HERTZ;
        let with_python = of_these.count(|stack| stack.iter().any(|frame| is_python(frame)));
        println!(
            "{python}: {named} of {} samples named while burning, {expected:.0} expected; start and end included, \
             {with_python} of {} have Python frames",
            burning.total(),
            of_these.total(),
        );
        let share = named as f64 / burning.total().max(1) as f64;
        let complete = burning.total() as f64 / expected;
        if share < 0.95 || !COMPLETE.contains(&complete) {
            let other = burning.only(|stack| !has(stack, "burn"));
            failures.push(format!(
                "{python}: {named} of {} samples named, {expected:.0} expected\nothers: {other}",
                burning.total()
            ));
        }
    }
    ensure!(failures.is_empty(), "{}\n{}", failures.join("\n"), outcome.stderr);
    // A deep stack of new code has more code objects than are copied with one sample, and a process can be gone before
    // anybody reads the rest. Such a function is marked and counted, and must be rare: less than one sample in 500.
    let unknown = folded.only(|stack| has_marker(stack, "[unknown Python function]"));
    let with_python = folded.count(|stack| stack.iter().any(|frame| is_python(frame)));
    ensure!(
        unknown.total() * 500 <= with_python,
        "functions without names: {unknown}"
    );
    ensure!(
        (unknown.total() > 0) == outcome.stderr.contains("with unnamed functions"),
        "not said in the summary: {unknown}\n{}",
        outcome.stderr
    );
    Ok(())
}

fn has_marker(stack: &[String], marker: &str) -> bool {
    stack.iter().any(|frame| frame == marker)
}
