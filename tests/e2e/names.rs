//! What processes and threads are called.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{profiler::Profiler, python, serial::serial, workload::Workload};

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
            let root = format!("process {pid}:\"{name}\"");
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
