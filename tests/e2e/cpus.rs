//! CPUs that come and go.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    cpus::Switch, native::compile, profiler::Profiler, python, serial::serial, skip::skip, workload::Workload,
};

use crate::{HERTZ, RATE};

#[test]
fn a_cpu_that_goes_and_comes_back_is_sampled_again() -> Result<()> {
    let _serial = serial();
    let Some(switch) = Switch::of(1) else {
        skip("CPU 1 cannot be switched off here");
        return Ok(());
    };
    // The recording starts without it, sees it come, go, and come back.
    switch.turn(false)?;
    let python = python::any()?;
    let elsewhere = Workload::python(&python, "spin.py", &[])?;
    let recording = Profiler::record(&["-a", "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
    thread::sleep(Duration::from_millis(300));
    switch.turn(true)?;
    let (_first_directory, first) = compile("busy.c", "first-busy", &[])?;
    let first_seconds = on_cpu_1(&first)?;
    switch.turn(false)?;
    thread::sleep(Duration::from_millis(1200));
    switch.turn(true)?;
    let (_second_directory, second) = compile("busy.c", "second-busy", &[])?;
    let second_seconds = on_cpu_1(&second)?;
    let outcome = recording.stop()?;
    let folded = outcome.folded()?;
    for (name, seconds) in [("first-busy", first_seconds), ("second-busy", second_seconds)] {
        let found = folded.count(|stack| stack.iter().any(|frame| frame == &format!("native_leaf ({name})")));
        let share = found as f64 / (seconds * HERTZ);
        ensure!(
            (0.9..=1.1).contains(&share),
            "{name}: {found} samples in {seconds:.2} s\n{}",
            outcome.stderr
        );
    }
    let elsewhere = folded.below(&format!("process {}:", elsewhere.pid));
    ensure!(
        elsewhere.total() > 100 && elsewhere.share_of("inner") > 0.98,
        "{elsewhere}"
    );
    Ok(())
}

/// Keeps CPU 1 busy for a second, which begins when the profiler has had time to see it; the CPU time used meanwhile,
/// in seconds.
fn on_cpu_1(program: &std::path::Path) -> Result<f64> {
    // CPUs are looked for once a second.
    thread::sleep(Duration::from_millis(1500));
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "1"]).arg(program);
    let workload = Workload::command(command, None).context("nothing runs on CPU 1")?;
    thread::sleep(Duration::from_secs(1));
    profiler_tests::process::cpu_seconds(workload.pid)
}
