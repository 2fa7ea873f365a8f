//! The whole machine: what ran before, what starts later.

use std::{process::Stdio, thread, time::Duration};

use anyhow::{Result, ensure};
use profiler_tests::{
    folded::has_chain_among_python,
    process::{self, die_with_parent},
    profiler::Profiler,
    python,
    serial::serial,
    workload::{self, Workload},
};

use crate::{COMPLETE, HERTZ, RATE};

const LATER_SECONDS: f64 = 1.5;

#[test]
fn interpreters_from_before_and_from_later_are_both_named() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let before = Workload::python(python, "spin.py", &[])?;
        let directory = workload::copy(python)?;
        let recording = Profiler::record(&["-a", "-t", "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
        let cpu_before = process::cpu_seconds(before.pid)?;
        let mut command = python.command();
        command
            .arg(python.seen(&directory.path().join("timed.py")))
            .arg(LATER_SECONDS.to_string())
            .stdin(Stdio::null());
        let mut later = die_with_parent(&mut command).spawn()?;
        process::wait(&mut later, Duration::from_secs(60))?;
        let cpu = process::cpu_seconds(before.pid)? - cpu_before;
        let folded = recording.stop()?.folded()?;

        let of_before = folded.below(&format!("process {}:", before.pid));
        let share = of_before.share(|stack| has_chain_among_python(stack, &["<module>", "outer", "middle", "inner"]));
        ensure!(
            share >= 0.98,
            "started before: {:.1} % complete\n{of_before}",
            share * 100.0
        );
        let found = of_before.total() as f64 / (cpu * HERTZ);
        ensure!(
            COMPLETE.contains(&found),
            "started before: {:.1} % of its samples",
            found * 100.0
        );

        // In steady state: its start and its end are under other names.
        let of_later = folded.below(&format!("process {}:", later.id()));
        let steady = of_later.only(|stack| stack[1].starts_with("steady (thread "));
        let share = steady.share(|stack| has_chain_among_python(stack, &["<module>", "outer", "inner"]));
        ensure!(
            share >= 0.98,
            "started later: {:.1} % complete\n{steady}",
            share * 100.0
        );
        let found = steady.total() as f64 / (LATER_SECONDS * HERTZ);
        ensure!(
            COMPLETE.contains(&found),
            "started later: {:.1} % of its samples\n{of_later}",
            found * 100.0
        );
        Ok(())
    })
}

#[test]
fn a_quiet_machine_is_not_sampled() -> Result<()> {
    let _serial = serial();
    // Nobody can make a machine quiet. But a process that sleeps has no samples, and the idle task never has.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "echo READY; exec sleep 100"]);
    let sleeper = Workload::command(command, None)?;
    let recording = Profiler::record(&["-a", "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
    thread::sleep(Duration::from_secs(1));
    let folded = recording.stop()?.folded()?;
    ensure!(
        folded.below(&format!("process {}:", sleeper.pid)).total() <= 2,
        "a sleeping process has samples"
    );
    ensure!(
        folded.count(|stack| stack[0].ends_with("(process 0)")) == 0,
        "the idle task has samples\n{folded}"
    );
    Ok(())
}

#[test]
fn nothing_to_sample_is_said_and_is_no_failure() -> Result<()> {
    let _serial = serial();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "echo READY; exec sleep 100"]);
    let sleeper = Workload::command(command, None)?;
    let pid = sleeper.pid.to_string();
    thread::sleep(Duration::from_millis(200));
    let outcome = Profiler::record(&["-p", &pid, "-d", "500ms", "-f", "folded", "-o", "-"]).succeed()?;
    ensure!(outcome.folded()?.total() == 0, "a sleeping process has samples");
    outcome.line("a process that waits uses none")?;
    Ok(())
}
