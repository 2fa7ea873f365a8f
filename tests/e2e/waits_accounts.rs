//! The time of threads adds up, and is what the kernel itself says of it.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    python,
    serial::serial,
    waits::{self, Waits},
    workload::Workload,
};

/// Time on CPUs, and waited for one, by the kernel.
fn schedstat(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    match (words.next(), words.next()) {
        (Some(Ok(on_cpu)), Some(Ok(waited))) => Ok((on_cpu, waited)),
        _ => anyhow::bail!("no schedstat: {text}"),
    }
}

#[test]
fn time_on_a_cpu_and_waited_for_one_are_those_of_schedstat() -> Result<()> {
    let _lock = serial();
    let python = python::any()?;
    // Two that never wait for anything but the one CPU they both want.
    let workload = Workload::python(&python, "waits_crowd.py", &[])?;
    let pid = workload.truth[0]["pid"].as_u64().context("no pid")? as u32;
    let attached = waits::attach(&["-p", &pid.to_string()])?;
    let before = schedstat(pid)?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    let after = schedstat(pid)?;
    let waits = Waits::of(attached.stop()?)?;
    waits.ensure_adds_up()?;
    let [thread] = waits.threads()? else {
        anyhow::bail!("not one thread: {:?}", waits.threads())
    };
    let elapsed = thread["elapsed_ns"].as_u64().context("no time")? as f64;
    let (on_cpu, ready) = (
        thread["on_cpu_ns"].as_u64().context("no time")? as f64 / elapsed,
        thread["waiting_ns"]["ready"].as_u64().context("no time")? as f64 / elapsed,
    );
    let known = ((after.0 - before.0) as f64, (after.1 - before.1) as f64);
    let (known_on_cpu, known_ready) = (known.0 / (known.0 + known.1), known.1 / (known.0 + known.1));
    ensure!(
        (on_cpu / known_on_cpu - 1.0).abs() < 0.1 && (ready / known_ready - 1.0).abs() < 0.1,
        "on a CPU {on_cpu:.3} of the time, {ready:.3} ready; by schedstat {known_on_cpu:.3} and {known_ready:.3}"
    );
    Ok(())
}
