//! A thread that execs has the number of its process's first one from then on, and its time is that one's.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    python,
    serial::serial,
    waits::{self, Waits},
    workload::Workload,
};

#[test]
fn a_thread_that_execs_goes_on_under_the_number_of_the_first_one() -> Result<()> {
    let _lock = serial();
    let mut workload = Workload::python(&python::any()?, "waits_exec.py", &[])?;
    let pid = workload.pid;
    let attached = waits::attach(&["-p", &pid.to_string()])?;
    workload.tell("now")?;
    let measured = workload.value()?["ns"].as_f64().context("no time")?;
    let waits = Waits::of(attached.stop()?)?;
    waits.ensure_adds_up()?;
    let threads = waits.threads()?;
    let first = threads
        .iter()
        .find(|thread| thread["tid"] == pid)
        .context("no first thread")?;
    let slept = first["waiting_ns"]["sleep"].as_f64().context("no sleep")?;
    ensure!(
        slept / measured > 0.9 && slept <= measured,
        "slept {slept} ns of {measured}"
    );
    for thread in threads.iter().filter(|thread| thread["tid"] != pid) {
        // It ended with the exec, and computed next to nothing.
        let on_cpu = thread["on_cpu_ns"].as_f64().context("no time")?;
        ensure!(on_cpu < 0.5 * measured, "{thread}");
    }
    Ok(())
}
