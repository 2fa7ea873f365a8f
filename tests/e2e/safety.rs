//! The target is never stopped, signalled or written to, and nothing is left in the kernel.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use profiler_tests::{
    bpf::Objects, process::status_field, profiler::Profiler, python, serial::serial, workload::Workload,
};

use crate::RATE;

#[test]
fn a_target_is_neither_stopped_nor_traced_nor_signalled() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let mut workload = Workload::python(python, "watchful.py", &[])?;
        let pid = workload.pid.to_string();
        let recording = Profiler::record(&["-p", &pid, "-r", "999", "-f", "folded", "-o", "-"]).start()?;
        let end = Instant::now() + Duration::from_millis(1500);
        let mut looks = 0;
        while Instant::now() < end {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let tid = task?.file_name().to_string_lossy().parse()?;
                let state = status_field(tid, "State")?;
                ensure!(!state.starts_with(['T', 't']), "thread {tid} is stopped: {state}");
                ensure!(status_field(tid, "TracerPid")? == "0", "thread {tid} is traced");
            }
            looks += 1;
            thread::sleep(Duration::from_millis(2));
        }
        ensure!(looks > 100, "looked {looks} times only");
        let folded = recording.stop()?.folded()?;
        ensure!(folded.count_of("work") > 100, "{folded}");
        workload.tell("what came?")?;
        let received = workload.value()?;
        ensure!(received == serde_json::json!([]), "signals reached it: {received}");
        Ok(())
    })
}

#[test]
fn a_profiler_that_is_killed_leaves_nothing_behind() -> Result<()> {
    let _serial = serial();
    let mut workload = Workload::python(&python::any()?, "spin.py", &[])?;
    let pid = workload.pid.to_string();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("out.folded");
    let recording = Profiler::record(&["-a", "-r", "999", "-o"]).arg(&file).start()?;
    thread::sleep(Duration::from_millis(500));
    let objects = Objects::of(recording.pid())?;
    ensure!(
        !objects.programs.is_empty() && !objects.maps.is_empty(),
        "it has no BPF programs or maps: {objects:?}"
    );
    ensure!(
        objects.left() == objects,
        "the look-up of ids does not work: {objects:?}, {:?}",
        objects.left()
    );
    recording.signal(libc::SIGKILL)?;
    let outcome = recording.finish()?;
    ensure!(outcome.code() == 137, "ended with {}", outcome.code());
    // The kernel frees them when it comes to it.
    objects.until_gone("record -a")?;
    let left: Vec<_> = fs::read_dir(directory.path())?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(workload.is_running()?, "the target has ended");

    // And the next one works.
    let arguments = ["-p", &pid, "-d", "1", "-r", RATE, "-f", "folded", "-o", "-"];
    let folded = Profiler::record(&arguments).succeed()?.folded()?;
    ensure!(folded.share_of("inner") > 0.99, "{folded}");
    Ok(())
}

#[test]
fn two_profilers_can_look_at_one_target() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "spin.py", &[])?;
    let pid = workload.pid.to_string();
    let machine = Profiler::record(&["-a", "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
    let arguments = ["-p", &pid, "-d", "1", "-r", "999", "-f", "folded", "-o", "-"];
    let one = Profiler::record(&arguments).succeed()?.folded()?;
    let machine = machine.stop()?.folded()?.below(&format!("process {pid}:"));
    ensure!(one.share_of("inner") > 0.99, "{one}");
    ensure!(machine.share_of("inner") > 0.98, "{machine}");
    Ok(())
}
