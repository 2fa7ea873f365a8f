//! `record --wall`: where threads run and where they wait, in one picture whose widths are time.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::{Folded, has},
    pprof,
    profiler::Profiler,
    pyspy::PySpy,
    python::{self, Python},
    serial::serial,
    workload::Workload,
    workshop::Workshop,
};
use serde_json::Value;

use crate::{
    ensure_close,
    flight::{until_there_are, windows},
};

const FUNCTIONS: [&str; 6] = ["computes", "naps", "listens", "holds", "wants", "rests"];

#[test]
fn shares_of_the_wall_are_those_that_the_program_measures_and_py_spy_sees() -> Result<()> {
    let _lock = serial();
    let peer = PySpy::find()?;
    python::each_kind(|python| shares(python, peer.as_ref()))
}

fn shares(python: &Python, peer: Option<&PySpy>) -> Result<()> {
    let mut workload = Workload::python(python, "wall_shares.py", &[])?;
    let pid = workload.pid.to_string();
    let recording = Profiler::record(&["-p", &pid, "--wall", "-f", "folded", "-o", "-"]).start()?;
    let before = account(&mut workload)?;
    // At the same time, and without stopping the program: what others on the machine do is the same for both.
    let peer = match peer.filter(|_| python.root.is_none()) {
        Some(peer) => Some(peer.record(workload.pid, 97, 4, &["--idle", "--nonblocking"])?),
        None => {
            std::thread::sleep(Duration::from_secs(4));
            None
        }
    };
    let after = account(&mut workload)?;
    let folded = recording.stop()?.folded()?;
    let threads = 6.0;
    let length = after["now"].as_f64().context("no time")? - before["now"].as_f64().context("no time")?;
    for function in FUNCTIONS {
        let spent = |account: &Value| account["spent"][function].as_f64().context("no time");
        let share = (spent(&after)? - spent(&before)?) / length / threads;
        ensure_close(function, folded.share_of(function), share)?;
    }
    // What was waited for is the leaf; the rest of a wait is for a CPU, and then for the GIL.
    let leaf = |function: &str, leaf: &str| {
        let of = folded.only(|stack| has(stack, function));
        of.share(|stack| stack.last().is_some_and(|last| last.starts_with(leaf)))
    };
    for (function, cause) in [
        ("naps", "[sleep]"),
        ("listens", "[pipe"),
        ("wants", "[lock]"),
        ("rests", "[sleep]"),
    ] {
        ensure!(
            leaf(function, cause) > 0.5,
            "{function} waits for {cause} {:.1} % of its time: {folded}",
            100.0 * leaf(function, cause)
        );
    }
    for function in FUNCTIONS {
        if let Some(peer) = &peer {
            let ours = folded.share_of(function);
            ensure_close(&format!("{function}, by py-spy"), peer.share_of(function), ours)?;
        }
    }
    Ok(())
}

fn account(workload: &mut Workload) -> Result<Value> {
    workload.tell("tell")?;
    workload.value()
}

#[test]
fn the_width_of_each_thread_is_the_time_that_it_existed() -> Result<()> {
    let _lock = serial();
    let workload = Workload::python(&python::any()?, "wall_shares.py", &[])?;
    let workshop = Workshop::new()?;
    let summary = workshop.path().join("summary.json");
    let pid = workload.pid.to_string();
    let arguments = [
        "-p",
        &pid,
        "--idle",
        "-t",
        "-d",
        "3",
        "-f",
        "folded",
        "-o",
        "-",
        "--summary-json",
    ];
    let outcome = Profiler::record(&arguments).arg(&summary).succeed()?;
    let folded = outcome.folded()?;
    let summary: Value = serde_json::from_slice(&std::fs::read(&summary)?)?;
    let length = summary["duration_s"].as_f64().context("no length")?;
    let mut threads = std::collections::BTreeMap::<String, u64>::new();
    for (stack, ns) in &folded.stacks {
        *threads.entry(stack[0].clone()).or_default() += ns;
    }
    ensure!(threads.len() == 6, "{threads:?}");
    for (thread, ns) in threads {
        let seconds = ns as f64 / 1e9;
        ensure!(
            (seconds / length - 1.0).abs() < 0.01,
            "{thread} existed for {length:.3} s, and is {seconds:.3} s wide"
        );
    }
    let waits = &summary["waits"];
    ensure!(waits["threads"].as_u64() == Some(6), "{waits}");
    let cpu = waits["on_cpu_s"].as_f64().context("no time on a CPU")?;
    let wall = folded.total() as f64 / 1e9;
    let waiting = folded.only(is_a_wait).total() as f64 / 1e9;
    ensure!(
        (wall - waiting - cpu).abs() < 0.01 * wall,
        "{cpu} of {wall} on a CPU, {waiting} waiting"
    );
    Ok(())
}

/// Whether its leaf is a cause.
fn is_a_wait(stack: &[String]) -> bool {
    stack
        .last()
        .is_some_and(|leaf| leaf.starts_with('[') && leaf != "[CPU time without a sample]")
}

#[test]
fn every_format_has_both_and_pprof_tells_them_apart() -> Result<()> {
    let _lock = serial();
    let mut workload = Workload::python(&python::any()?, "wall_shares.py", &[])?;
    let workshop = Workshop::new()?;
    let file = |name: &str| workshop.path().join(name);
    let pid = workload.pid.to_string();
    for name in ["wall.svg", "wall.folded", "wall.speedscope.json", "wall.pb.gz"] {
        let path = file(name);
        let outcome = Profiler::bare()
            .args(["record", "-p", &pid, "-i", "-d", "1", "-o"])
            .arg(&path)
            .succeed()?;
        let text = outcome.stderr.lines();
        ensure!(text.clone().any(|line| line.contains("mostly")), "{}", outcome.stderr);
        ensure!(
            text.filter(|line| !line.starts_with("wrote "))
                .all(|line| line.chars().count() <= 80 || is_prose(line)),
            "{}",
            outcome.stderr
        );
    }
    let read = |name: &str| std::fs::read_to_string(file(name)).with_context(|| name.to_owned());
    for name in ["wall.svg", "wall.folded", "wall.speedscope.json"] {
        let text = read(name)?;
        ensure!(text.contains("computes") && text.contains("[sleep]"), "{name}");
    }
    let profile = pprof::load(&file("wall.pb.gz"))?;
    let kinds: Vec<&str> = profile.sample_types.iter().map(|of| of.kind).collect();
    // Behind them stands how exact they are.
    ensure!(kinds[..5] == ["samples", "cpu", "waits", "wait", "wall"], "{kinds:?}");
    ensure!(profile.shown_types().count() == 5, "{kinds:?}");
    ensure!(profile.total(1) > 0 && profile.total(3) > 0);
    ensure!(profile.total(1) + profile.total(3) == profile.total(4));
    workload.tell("end!")?;
    Ok(())
}

/// Sentences below the table are as long as they are.
fn is_prose(line: &str) -> bool {
    ["sampling ", "cost: ", "lost: ", "warning: "]
        .iter()
        .any(|start| line.starts_with(start))
        || line.contains("accounted for")
        || line.contains(" of the CPU clock from ")
}

#[test]
fn a_command_is_seen_from_its_first_wait_to_its_last() -> Result<()> {
    let _lock = serial();
    let python = python::any()?;
    let script = "import time\ndef naps(): time.sleep(0.7)\nnaps()";
    let outcome = Profiler::record(&["--wall", "-f", "folded", "-o", "-", "--"])
        .arg(&python.executable)
        .args(["-c", script])
        .succeed()?;
    let folded: Folded = outcome.folded()?;
    let napped = folded.count_of("naps") as f64 / 1e9;
    ensure!((0.69..0.85).contains(&napped), "{napped} s: {folded}");
    Ok(())
}

#[test]
fn each_window_is_as_wide_as_it_is_long() -> Result<()> {
    let _lock = serial();
    let workload = Workload::python(&python::any()?, "wall_shares.py", &[])?;
    let directory = tempfile::tempdir()?;
    let pid = workload.pid.to_string();
    let recording = Profiler::bare()
        .args(["record", "-p", &pid, "--wall", "--every", "1s", "--keep", "100", "-o"])
        .arg(directory.path())
        .start()?;
    until_there_are(3, directory.path(), false)?;
    let outcome = recording.stop()?;
    let windows = windows(directory.path(), false)?;
    for path in &windows[..3] {
        let profile = pprof::load(path)?;
        let [cpu, wait, wall] = [1, 3, 4].map(|index| profile.total(index) as f64);
        let width = wall / 6.0 / profile.duration_ns as f64;
        ensure!(
            (width - 1.0).abs() < 0.02 && cpu > 0.0 && wait > 0.0,
            "{}: {cpu} ns on a CPU, {wait} ns waiting, {width} of its length: {}",
            path.display(),
            outcome.stderr
        );
    }
    Ok(())
}

#[test]
fn what_cannot_be_together_is_refused() -> Result<()> {
    let outcome = Profiler::record(&["-a", "--wall", "--gil"]).run()?;
    let said = &outcome.stderr;
    ensure!(outcome.code() == 2 && said.contains("cannot be used with"), "{said}");
    Ok(())
}

#[test]
fn on_a_whole_machine_threads_of_the_kernel_have_their_cpu_time_and_others_both() -> Result<()> {
    let _lock = serial();
    let mut sleeping = Command::new("sleep").arg("60").spawn()?;
    let recorded = Profiler::record(&["-a", "--wall", "-d", "2", "-f", "folded", "-o", "-"]).run();
    sleeping.kill()?;
    sleeping.wait()?;
    let folded = recorded?.success()?.folded()?;
    let slept = folded.below(&format!("process {}:", sleeping.id()));
    let seconds = slept.total() as f64 / 1e9;
    ensure!((1.9..2.3).contains(&seconds), "{seconds} s: {slept}");
    ensure!(
        slept.share(|stack| stack.last().is_some_and(|leaf| leaf == "[sleep]")) > 0.95,
        "{slept}"
    );
    Ok(())
}
