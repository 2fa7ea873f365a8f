//! Attached and taken away, again and again: a program that is busy in threads, signals and children computes what it would.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    calls::changed_code,
    process::{status_field, until},
    profiler::Profiler,
    python,
    serial::serial,
    workload::Workload,
};
use serde_json::Value;

const COMMANDS: [&[&str]; 16] = [
    &["record", "-d", "100ms", "-f", "folded", "-o", "-"],
    &["record", "--wall", "-d", "100ms", "-f", "folded", "-o", "-"],
    &["memory", "-d", "100ms"],
    &["memory", "--exact", "-d", "100ms"],
    &["memory", "--watchpoints", "-d", "500ms"],
    &["calls", "-d", "100ms"],
    &["calls", "-d", "100ms", "--function", "add"],
    &["calls", "-d", "100ms", "--function", "add", "--via", "breakpoints"],
    &["waits", "-d", "100ms"],
    &["waits", "-d", "100ms", "--io", "--stalls", "50ms"],
    &["exceptions", "-d", "100ms"],
    &["gc", "-d", "100ms"],
    &["objects"],
    &["dump", "-l", "-n"],
    &["why", "-d", "1"],
    &["top", "--once"],
];

/// One in so many is killed, at any moment of its life.
const KILLED: usize = 3;

/// `PROFILER_CYCLES` is how often each command is run: a thousand are an hour and a half.
#[test]
fn whatever_is_attached_and_taken_away_again_and_again_changes_nothing_of_what_a_program_computes() -> Result<()> {
    let _serial = serial();
    let cycles = match std::env::var("PROFILER_CYCLES") {
        Ok(text) => text.parse().with_context(|| format!("PROFILER_CYCLES={text}"))?,
        Err(_) => KILLED,
    };
    let mut workload = Workload::python(&python::any()?, "cycled.py", &[])?;
    let mut before = state(&mut workload)?;
    for command in COMMANDS {
        for cycle in 0..cycles {
            let is_killed = cycle % KILLED == KILLED - 1;
            cycle_of(&mut workload, command, cycle, is_killed)
                .with_context(|| format!("cycle {cycle} of {}", command.join(" ")))?;
        }
        // Of who was killed, the kernel takes away what is left when it comes to it.
        until(Duration::from_secs(20), "its code is as it was", || {
            changed_code(workload.pid).is_ok_and(|changed| changed == 0)
        })
        .with_context(|| command.join(" "))?;
        let after = state(&mut workload)?;
        for what in ["rounds", "signals", "children"] {
            ensure!(
                after[what].as_u64() > before[what].as_u64(),
                "{}: no {what} any more: {after}, before {before}",
                command.join(" ")
            );
        }
        before = after;
    }
    println!("{cycles} cycles of each of {} commands: {before}", COMMANDS.len());
    Ok(())
}

fn cycle_of(workload: &mut Workload, command: &[&str], cycle: usize, is_killed: bool) -> Result<()> {
    let pid = workload.pid.to_string();
    let profiler = Profiler::bare().args(command).args(["-p", &pid]).spawn()?;
    if is_killed {
        // Where in its life it is then is a matter of chance, which this is a part of.
        thread::sleep(Duration::from_millis(cycle as u64 * 37 % 400));
        profiler.signal(libc::SIGKILL)?;
    }
    let outcome = profiler.finish()?;
    let (code, said) = (outcome.code(), &outcome.stderr);
    // It may have been done before.
    ensure!(code == 0 || is_killed && code == 137, "it ended with {code}: {said}");
    ensure!(!said.contains("panicked"), "it panicked: {said}");
    ensure!(workload.is_running()?, "the target has ended: {said}");
    ensure!(status_field(workload.pid, "TracerPid")? == "0", "it is traced");
    Ok(())
}

/// What it has done so far, of which nothing is wrong.
fn state(workload: &mut Workload) -> Result<Value> {
    workload.tell("how is it?")?;
    let state = workload.value().context("the target does not go on")?;
    ensure!(state["wrong"] == serde_json::json!([]), "{state}");
    Ok(state)
}
