//! What processes and threads are called.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    process::die_with_parent,
    profiler::Profiler,
    python,
    serial::serial,
    workload::{self, Workload},
};

use crate::RATE;

/// As they are shown; `workloads/odd_names.py` has the bytes.
const SHOWN: [&str; 5] = ["обработ\u{fffd}", "\u{fffd}", "../x/\u{fffd}", "a:b", ") R 1 (x"];

#[test]
fn processes_are_recorded_and_shown_whatever_they_call_themselves() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "odd_names.py", &[])?;
    let workers: Vec<u64> = workload.truth[0]
        .as_array()
        .context("no workers")?
        .iter()
        .filter_map(serde_json::Value::as_u64)
        .collect();
    ensure!(workers.len() == SHOWN.len(), "{workers:?}");
    let named = workers.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    // Found as the children of a process, and by their pids.
    for chosen in [["-s", "-p", &workload.pid.to_string()], ["-t", "-p", &named]] {
        let folded = Profiler::record(&chosen)
            .args(["-d", "1500ms", "-r", RATE, "-f", "folded", "-o", "-"])
            .succeed()?
            .folded()?;
        for (pid, name) in workers.iter().zip(SHOWN) {
            let root = format!("odd_names.py \"{name}\" (process {pid})");
            let worker = folded.only(|stack| stack[0] == root);
            ensure!(worker.total() > 20, "{root} has {} samples\n{folded}", worker.total());
            ensure!(worker.share_of("spin") > 0.95, "{worker}");
        }
    }

    let directory = tempfile::tempdir()?;
    let third = workers[2].to_string();
    Profiler::record(&["-p", &third, "-d", "100ms"])
        .current_dir(&directory)
        .succeed()?;
    let written: Vec<String> = fs::read_dir(&directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    ensure!(
        matches!(&*written, [name] if name.starts_with(&format!("_x__-{third}-")) && name.ends_with(".svg")),
        "{written:?}"
    );
    Ok(())
}

#[test]
fn threads_in_a_pid_namespace_have_the_names_that_their_program_gave_them() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let directory = workload::copy(&python)?;
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child"])
        .arg(&python.executable)
        .arg(directory.path().join("threads.py"));
    die_with_parent(&mut command);
    let workload = Workload::command(command, Some(directory))?;
    let pid = workload.pid.to_string();
    let folded = Profiler::record(&["-s", "-t", "-p", &pid, "-d", "1", "-r", RATE, "-f", "folded", "-o", "-"])
        .succeed()?
        .folded()?;
    for (name, function) in [("QueueFeeder-1", "alpha_work"), ("loader:worker 2", "beta_work")] {
        // Below a process if several have samples: `unshare` need not have one.
        let root = format!("{name} (thread ");
        let thread = folded.only(|stack| stack.iter().take(2).any(|frame| frame.starts_with(&root)));
        ensure!(
            thread.total() > 10 && thread.share_of(function) > 0.99,
            "{name}\n{folded}"
        );
    }
    Ok(())
}
