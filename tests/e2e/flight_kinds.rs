//! The flight recorder of `memory` and `waits`: what lives on from one window to the next is in each, and nothing is counted
//! twice.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use profiler::profile::Profile;
use profiler_tests::{
    memory, pprof,
    profiler::{Profiler, Recording},
    python,
    serial::serial,
    workload::Workload,
};
use tempfile::TempDir;

use crate::flight::{until_a_new_one, until_there_are, windows};

fn start(command: &str, pid: u32, directory: &TempDir) -> Result<Recording> {
    let profiler = Profiler::bare().args([command, "-p", &pid.to_string(), "--every", "1s", "--keep", "100", "-o"]);
    profiler.arg(directory.path()).start()
}

/// A value of all samples that have this function.
fn of(profile: &Profile, function: &str, value: usize) -> i64 {
    let has = |frame: &profiler::profile::FrameId| profile.string(profile.frame(*frame).function) == function;
    let samples = profile.samples();
    let found = samples.filter(|(key, _)| profile.stack(key.stack).iter().any(has));
    found.map(|(_, values)| values[value]).sum()
}

fn load(directory: &Path) -> Result<Vec<Profile>> {
    windows(directory, false)?
        .iter()
        .map(|path| pprof::load(path))
        .collect()
}

/// The position of a value in profiles.
fn value(profile: &Profile, kind: &str) -> Result<usize> {
    let found = profile.sample_types.iter().position(|value| value.kind == kind);
    found.with_context(|| format!("no {kind} in {:?}", profile.sample_types))
}

#[test]
fn windows_of_memory_come_to_what_one_recording_does_and_what_stays_is_in_each() -> Result<()> {
    let _serial = serial();
    let mut workload = memory::run(&python::any()?, "stages.py", &[])?;
    let directory = tempfile::tempdir()?;
    let whole = directory.path().join("whole");
    fs::create_dir(&whole)?;
    let whole = whole.join("whole.pb.gz");
    let cut = tempfile::tempdir()?;
    let recording = start("memory", workload.pid, &cut)?;
    let one = Profiler::bare().args(["memory", "-p", &workload.pid.to_string(), "-o"]);
    let one = one.arg(&whole).start()?;
    for stage in ["old", "come and go", "young"] {
        workload.tell(stage)?;
        workload.value()?;
        until_a_new_one(cut.path())?;
    }
    let one = one.stop()?;
    let outcome = recording.stop()?;
    let windows = load(cut.path())?;
    let whole = pprof::load(&whole)?;
    let said = || format!("{}\n{}", one.stderr, outcome.stderr);
    let (came, lives) = (value(&whole, "alloc_space")?, value(&whole, "inuse_space")?);
    for function in ["old", "come_and_go", "young"] {
        let sum: i64 = windows.iter().map(|window| of(window, function, came)).sum();
        let known = of(&whole, function, came);
        ensure!(known >= 8 << 20, "{function}: {known}\n{}", said());
        ensure!(
            (sum - known).abs() * 100 <= known * 3,
            "{function}: {sum} in windows, {known} in one\n{}",
            said()
        );
        let last = windows.last().context("a window")?;
        let (last, known) = (of(last, function, lives), of(&whole, function, lives));
        ensure!(
            (last - known).abs() <= known / 33 + (64 << 10),
            "{function}: {last} lives in the last window, {known} in one\n{}",
            said()
        );
    }
    // From the one on in which it came.
    let old: Vec<i64> = windows.iter().map(|window| of(window, "old", lives)).collect();
    let all = old.iter().copied().max().unwrap_or_default();
    let since = old.iter().position(|&bytes| bytes == all).context("it came")?;
    ensure!(windows.len() > since + 3 && all >= 8 << 20, "{old:?}");
    ensure!(old[since..].iter().all(|&bytes| bytes == all), "{old:?}");
    outcome.line(" followed in ")?;
    Ok(())
}

#[test]
fn a_wait_that_spans_windows_is_in_each_to_its_share_and_short_ones_are_not_lost_at_the_cuts() -> Result<()> {
    let _serial = serial();
    let mut workload = Workload::python(&python::any()?, "waits_windows.py", &[])?;
    let directory = tempfile::tempdir()?;
    let recording = start("waits", workload.pid, &directory)?;
    until_there_are(1, directory.path(), false)?;
    workload.tell("begin")?;
    workload.expect("waiting")?;
    let before = windows(directory.path(), false)?.len();
    until_there_are(before + 4, directory.path(), false)?;
    workload.tell("end")?;
    let measured = workload.value()?;
    until_a_new_one(directory.path())?;
    let outcome = recording.stop()?;
    let windows = load(directory.path())?;
    let said = || format!("{measured}\n{}", outcome.stderr);
    let time = value(windows.first().context("a window")?, "wait")?;
    for function in ["long_wait", "naps"] {
        let each: Vec<i64> = windows.iter().map(|window| of(window, function, time)).collect();
        let known = measured[function].as_i64().context("a time")?;
        let sum: i64 = each.iter().sum();
        // Of a nap, waiting for a CPU is a part.
        ensure!(
            (sum - known).abs() * 100 <= known * 4,
            "{function}: {known} measured, {each:?}\n{}",
            said()
        );
        if function == "long_wait" {
            // Those that lie in it whole.
            let inner: Vec<(&Profile, i64)> = windows.iter().zip(each).filter(|&(_, ns)| ns > 0).collect();
            ensure!(inner.len() >= 5, "{inner:?}", inner = inner.len());
            for (window, ns) in &inner[1..inner.len() - 1] {
                let length = window.duration_ns;
                ensure!(
                    (ns - length).abs() * 100 <= length * 3,
                    "{ns} of a window of {length}\n{}",
                    said()
                );
            }
        }
    }
    // Its whole time is accounted for in each.
    for window in &windows {
        let told: i64 = window.samples().map(|(_, values)| values[time]).sum();
        ensure!(
            told <= window.duration_ns * 102 / 100,
            "{told} of {}\n{}",
            window.duration_ns,
            said()
        );
    }
    outcome.line("accounted for")?;
    Ok(())
}
