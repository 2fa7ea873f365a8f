//! Programs that lie about themselves: bounded time and memory, no crash, and nobody else's results harmed.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{native::compile, profiler::Profiler, python, serial::serial, workload::Workload};

use crate::RATE;

/// Libraries of pyenv's interpreters, and where those are.
fn libraries() -> Vec<(PathBuf, PathBuf)> {
    let library = |minor: &str| {
        let home = python::pyenv(minor)?.parent()?.parent()?.to_owned();
        let library = home.join(format!("lib/libpython{minor}.so.1.0"));
        library.exists().then_some((library, home))
    };
    ["3.8", "3.11", "3.13"].into_iter().filter_map(library).collect()
}

/// What is done with each, for a second.
const COMMANDS: [&[&str]; 4] = [
    &["record", "--native", "full", "-r", RATE, "-f", "folded", "-o", "-"],
    &["memory"],
    &["memory", "--exact"],
    &["calls"],
];

/// How long a process's first thread was on a CPU, by the kernel's own count.
fn on_cpu(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let nanoseconds = text.split_ascii_whitespace().next().context("no time")?.parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

#[test]
fn a_program_that_lies_in_all_of_its_memory_ends_no_recording_and_harms_no_neighbour() -> Result<()> {
    let _serial = serial();
    let (_directory, program) = compile("liar.c", "liar", &["-ldl".into(), "-lpthread".into()])?;
    let honest = Workload::python(&python::any()?, "spin.py", &[])?;
    for (library, home) in libraries() {
        for lies in ["all", "states"] {
            let mut command = Command::new(&program);
            command
                .arg(&library)
                .arg(lies)
                .env("PYTHONHOME", &home)
                .stderr(Stdio::null());
            let mut liar = Workload::command(command, None)?;
            let pids = format!("{},{}", liar.pid, honest.pid);
            for arguments in COMMANDS {
                let what = format!("{arguments:?} of a liar ({lies}) with {}", library.display());
                let directory = tempfile::tempdir()?;
                let summary = directory.path().join("summary.json");
                let began = Instant::now();
                let ran_before = on_cpu(honest.pid)?;
                let outcome = Profiler::bare()
                    .args(arguments)
                    .args(["-p", &pids, "-d", "1", "--summary-json"])
                    .arg(&summary)
                    .run()?
                    .success()
                    .with_context(|| what.clone())?;
                // Half a minute more than it was asked for: other tests' builds may be under way.
                ensure!(
                    began.elapsed() < Duration::from_secs(32),
                    "{what}: {:?}",
                    began.elapsed()
                );
                let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(&summary)?)?;
                let peak = summary["cost"]["peak_bytes"].as_u64().context("no peak")?;
                ensure!(peak < 512 << 20, "{what}: {} MiB", peak >> 20);
                ensure!(
                    !outcome.stderr.contains("because of a fault of the profiler"),
                    "{what}: {}",
                    outcome.stderr
                );
                ensure!(liar.is_running()?, "{what}: it is gone");
                if arguments[0] == "record" {
                    let folded = outcome.folded()?.below(&format!("process {}:", honest.pid));
                    // Some others' load is no harm done by the liar: by how much it ran, it must have been seen.
                    let of_a_cpu = (on_cpu(honest.pid)? - ran_before).as_secs_f64() / began.elapsed().as_secs_f64();
                    let expected = of_a_cpu * RATE.parse::<f64>()?;
                    let (total, share) = (folded.total() as f64, folded.share_of("inner"));
                    ensure!(
                        total > 0.3 * expected && total > 0.0 && (1.0 - share) * total <= f64::max(1.0, 0.05 * total),
                        "{what}: {total} samples where {expected:.0} are expected, {share} of them right\n{folded}"
                    );
                }
            }
        }
    }
    Ok(())
}
