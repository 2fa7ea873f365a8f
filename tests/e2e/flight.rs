//! The flight recorder: windows that are whole, that are kept when somebody asks for it, and that go on being written.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    pprof::{self, PprofFrame},
    process,
    profiler::Profiler,
    python,
    serial::serial,
    workload::Workload,
};
use tempfile::TempDir;

use crate::RATE;

const PATIENCE: Duration = Duration::from_secs(30);

/// The files of windows, oldest first; those that are kept, or the others.
pub fn windows(directory: &Path, kept: bool) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.collect::<std::io::Result<Vec<_>>>()?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        let name = path.to_string_lossy();
        name.ends_with(".pb.gz") && name.ends_with(".kept.pb.gz") == kept
    });
    paths.sort_unstable();
    Ok(paths)
}

pub fn until_there_are(count: usize, directory: &Path, kept: bool) -> Result<()> {
    let enough = || windows(directory, kept).is_ok_and(|windows| windows.len() >= count);
    process::until(PATIENCE, &format!("{count} windows, kept: {kept}"), enough)
}

/// Waits for a window that began after now, so that it has only what happens from now on: the second of those that
/// appear. They need not be there at the same time: with `--keep 1` they never are, but for a moment.
pub fn until_a_new_one(directory: &Path) -> Result<PathBuf> {
    let before = windows(directory, false)?;
    let mut seen = BTreeSet::new();
    process::until(PATIENCE, "two more windows", || {
        let there = windows(directory, false).unwrap_or_default();
        seen.extend(there.into_iter().filter(|path| !before.contains(path)));
        seen.len() >= 2
    })?;
    seen.pop_last().context("there was a new one")
}

/// The share of a function in a window.
fn share(path: &Path, function: &str) -> Result<f64> {
    let stacks = pprof::stacks(&pprof::load(path)?)?;
    let is_in = |stack: &[PprofFrame]| stack.iter().any(|frame| frame.name == function);
    let all: u64 = stacks.values().sum();
    let found: u64 = stacks
        .iter()
        .filter(|(stack, _)| is_in(stack))
        .map(|(_, count)| count)
        .sum();
    ensure!(all > 0, "{} has no samples", path.display());
    Ok(found as f64 / all as f64)
}

fn record(pid: u32, directory: &TempDir, more: &[&str]) -> Profiler {
    Profiler::record(&["-p", &pid.to_string(), "-r", RATE, "--every", "1s"])
        .arg("-o")
        .arg(directory.path())
        .args(more)
}

#[test]
fn each_window_is_a_whole_file_of_its_own_time_and_those_around_a_signal_stay() -> Result<()> {
    let _serial = serial();
    let mut workload = Workload::python(&python::any()?, "phases.py", &[])?;
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("notes.txt"), "mine")?;
    let recording = record(workload.pid, &directory, &["--keep", "4"]).start()?;
    until_there_are(2, directory.path(), false)?;
    let of_first = windows(directory.path(), false)?.pop().context("a window")?;
    let (first, second) = (share(&of_first, "first")?, share(&of_first, "second")?);
    ensure!(first > 0.95 && second < 0.01, "first {first:.3}, second {second:.3}");

    workload.tell("second")?;
    workload.expect("second")?;
    let of_second = until_a_new_one(directory.path())?;
    let (first, second) = (share(&of_second, "first")?, share(&of_second, "second")?);
    ensure!(first < 0.01 && second > 0.95, "first {first:.3}, second {second:.3}");

    recording.signal(libc::SIGUSR1)?;
    // The one before becomes kept at once, this one and the next when they are written.
    until_there_are(3, directory.path(), true)?;
    let kept = windows(directory.path(), true)?;
    for _ in 0..3 {
        until_a_new_one(directory.path())?;
    }
    let outcome = recording.stop()?;
    ensure!(windows(directory.path(), true)? == kept, "what was kept has changed");
    ensure!(kept.len() == 3, "{kept:?}");
    let left = windows(directory.path(), false)?;
    ensure!(left.len() == 4, "{left:?}");
    ensure!(fs::read(directory.path().join("notes.txt"))? == b"mine");
    ensure!(
        fs::read_dir(directory.path())?.count() == 8,
        "something else was left behind"
    );

    let last = left.len() - 1;
    let mut ended_ns = None;
    for (at, path) in left.iter().enumerate() {
        let profile = pprof::load(path)?;
        let length = Duration::from_nanos(u64::try_from(profile.duration_ns)?);
        let is_last = at == last;
        ensure!(is_last || (0.8..1.5).contains(&length.as_secs_f64()), "{length:?}");
        // One begins where the other ends.
        let gap = ended_ns.map_or(0, |ended: i64| profile.started_at_ns - ended);
        ensure!(gap.abs() < 50_000_000, "{gap} ns between two windows");
        ended_ns = Some(profile.started_at_ns + profile.duration_ns);
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        let about = profile
            .comments
            .iter()
            .find(|line| line.starts_with("window "))
            .context("no line about it")?;
        let (stamp, _) = name.split_once('Z').context("a time")?;
        ensure!(about.contains(&format!("from {stamp}Z on")), "{about}");
        ensure!(
            profile
                .comments
                .iter()
                .any(|line| line.contains(" samples in ") || line.contains(" sample in "))
        );
        if !is_last {
            ensure!(share(path, "second")? > 0.95);
        }
    }
    outcome.line("wrote ")?;
    ensure!(outcome.stderr.contains(", 3 kept"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn a_file_that_appears_keeps_the_windows_around_that_moment() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "phases.py", &[])?;
    let (directory, elsewhere) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let trigger = elsewhere.path().join("trigger");
    let trigger_text = trigger.to_string_lossy().into_owned();
    let recording = record(workload.pid, &directory, &["--keep", "1", "--trigger", &trigger_text]).start()?;
    until_there_are(1, directory.path(), false)?;
    fs::write(&trigger, "")?;
    until_there_are(3, directory.path(), true)?;
    until_a_new_one(directory.path())?;
    recording.stop()?;
    ensure!(windows(directory.path(), true)?.len() == 3);
    ensure!(windows(directory.path(), false)?.len() == 1);
    Ok(())
}

#[test]
fn a_directory_that_vanishes_is_said_of_each_window_and_the_recording_goes_on() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "phases.py", &[])?;
    let parent = tempfile::tempdir()?;
    let directory = parent.path().join("windows");
    fs::create_dir(&directory)?;
    let recording = Profiler::record(&["-p", &workload.pid.to_string(), "--every", "1s"])
        .arg("-o")
        .arg(&directory)
        .start()?;
    until_there_are(1, &directory, false)?;
    fs::remove_dir_all(&directory)?;
    // For as long as it takes that two are lost.
    thread::sleep(Duration::from_millis(2500));
    fs::create_dir(&directory)?;
    until_there_are(2, &directory, false)?;
    recording.signal(libc::SIGINT)?;
    let outcome = recording.finish()?;
    ensure!(outcome.code() == 1, "{}", outcome.stderr);
    let lost = outcome
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: the window from "))
        .count();
    ensure!((1..=4).contains(&lost), "{lost} lines\n{}", outcome.stderr);
    ensure!(
        outcome.stderr.contains(&format!("error: {lost} of ")) && outcome.stderr.contains("there is no directory"),
        "{}",
        outcome.stderr
    );
    for path in windows(&directory, false)? {
        pprof::load(&path)?;
    }
    Ok(())
}

#[test]
fn a_full_disk_loses_a_window_and_leaves_no_half_of_it() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "phases.py", &[])?;
    let pid = workload.pid.to_string();
    for command in ["record", "memory", "waits"] {
        let directory = tempfile::tempdir()?;
        let recording = Profiler::bare().args([command, "-p", &pid, "--every", "1s", "-d", "3s", "-o"]);
        // Large enough for none.
        let outcome = recording.arg(directory.path()).with_file_limit(128).run()?;
        ensure!(outcome.code() == 1, "{command}: {}", outcome.stderr);
        ensure!(
            fs::read_dir(directory.path())?.count() == 0,
            "{command}: something was left behind"
        );
        let lost = outcome
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: the window from "))
            .count();
        ensure!(lost >= 3, "{command}: {}", outcome.stderr);
        outcome.line("ulimit -f")?;
    }
    Ok(())
}

#[test]
fn a_command_is_recorded_in_windows_until_it_ends() -> Result<()> {
    let _serial = serial();
    let directory = tempfile::tempdir()?;
    let python = python::any()?;
    let mut words = vec!["-c".to_owned()];
    words.push("import time\nwhile time.process_time() < 2.5: sum(range(1000))".to_owned());
    let executable = python.command().get_program().to_owned();
    let outcome = Profiler::record(&["--every", "1s", "-o"])
        .arg(directory.path())
        .arg("--")
        .arg(executable)
        .args(words)
        .succeed()?;
    let written = windows(directory.path(), false)?;
    ensure!(written.len() >= 3, "{written:?}\n{}", outcome.stderr);
    for path in &written[..2] {
        ensure!(share(path, "<module>")? > 0.9, "{}", path.display());
    }
    Ok(())
}
