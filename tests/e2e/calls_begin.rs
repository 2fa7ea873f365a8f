//! Counting begins with a program's first call, or it is said when it began; and what was not counted is not said to have
//! been: functions that were named, and times beyond the time that was counted.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    calls::{self, Calls, WITHOUT_END},
    python::{self, Python},
    recorder::Taken,
    serial::serial,
    workload::Workload,
};

/// Programs that become the one behind them.
const WRAPPERS: [&[&str]; 7] = [
    &["env", "A=1"],
    &["nice"],
    &["setsid"],
    &["taskset", "1"],
    &["nohup"],
    &["stdbuf", "-o0"],
    &["setpriv", "--no-new-privs"],
];

fn at(python: &Python, script: &str, directory: &Path) -> [String; 2] {
    let script = directory.join(script);
    [python.executable.display().to_string(), script.display().to_string()]
}

fn init_steps(command: &[&str]) -> Result<(Option<u64>, bool, Taken)> {
    // When counting changes hands is another claim's: what is under way then is told.
    let taken = Calls::record(&["--function", "init_step", "--via", "probes"])?
        .args(WITHOUT_END)
        .arg("--")
        .args(command)
        .run()?
        .success()?;
    let report = taken.report()?;
    let found = report.function("first.py", "init_step").ok().and_then(|f| f.calls);
    let is_exact = report.whole["calls_exact"] == true;
    Ok((found, is_exact, taken))
}

#[test]
fn the_first_calls_are_counted_behind_programs_that_become_the_interpreter() -> Result<()> {
    let _serial = serial();
    let mut pythons = python::all()?;
    pythons.retain(|python| python.root.is_none());
    for (turn, python) in pythons.iter().enumerate() {
        let directory = calls::copy(python)?;
        let [executable, script] = at(python, "first.py", directory.path());
        let shell = format!("exec {executable} -S {script}");
        // Each wrapper with one interpreter: it is not they who decide.
        let wrapper = WRAPPERS[turn % WRAPPERS.len()];
        let wrapped: Vec<&str> = wrapper.iter().copied().chain([&*executable, "-S", &*script]).collect();
        for command in [&["sh", "-c", &*shell][..], &wrapped] {
            let (found, is_exact, taken) = init_steps(command)?;
            ensure!(
                found == Some(3000) && is_exact,
                "{command:?}: {found:?} calls, exact: {is_exact}\n{}",
                taken.outcome.stderr
            );
        }
    }
    Ok(())
}

/// Who starts a script to have its calls counted waits for that some seconds: a command is counted whole as long as that
/// takes no more, unless another budget is given.
#[test]
fn a_short_command_is_counted_whole_and_a_long_one_in_windows_after_that() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let executable = python.executable.display().to_string();
    let run = |options: &[&str], calls: u64| -> Result<(Taken, Option<u64>, bool)> {
        let text = format!("def called(): pass\nfor _ in range({calls}): called()");
        let taken = Calls::record(options)?
            .args(["--", &executable, "-S", "-c", &text])
            .run()?
            .success()?;
        let report = taken.report()?;
        let found = report.function("<string>", "called")?;
        let (calls, is_exact) = (found.calls, found.is_exact && report.whole["calls_exact"] == true);
        Ok((taken, calls, is_exact))
    };
    // 30 ms of work, and ten times as long with probes.
    let (taken, found, is_exact) = run(&[], 400_000)?;
    ensure!(
        found == Some(400_000) && is_exact,
        "{found:?}\n{}",
        taken.outcome.stderr
    );
    let (taken, _, is_exact) = run(&["--max-overhead", "1.5"], 400_000)?;
    ensure!(!is_exact, "{}", taken.outcome.stderr);

    let (taken, found, is_exact) = run(&[], 30_000_000)?;
    let report = taken.report()?;
    let row = &report.whole["functions"][0];
    let (found, error) = (found.context("not counted")? as f64, row["calls_error"].as_f64());
    ensure!(!is_exact && report.whole["scaled"] == true, "{}", taken.outcome.stderr);
    ensure!(
        error.is_some_and(|error| (found - 30e6).abs() <= error),
        "{found} ± {error:?}\n{}",
        taken.outcome.stderr
    );
    taken.outcome.line("all in the first")?;
    Ok(())
}

/// A program that decides for itself what it runs, as pyenv's shims do.
#[test]
fn a_beginning_that_was_missed_is_told_with_the_time() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let directory = calls::copy(&python)?;
    let [executable, script] = at(&python, "first.py", directory.path());
    let shim = directory.path().join("shim");
    let (bin, name) = executable.rsplit_once('/').context("no directory")?;
    std::fs::write(&shim, format!("#!/bin/sh\nbin={bin}\nexec $bin/{name} {script}\n"))?;
    std::fs::set_permissions(&shim, std::fs::Permissions::from_mode(0o755))?;
    let (_, is_exact, taken) = init_steps(&[&shim.display().to_string()])?;
    ensure!(!is_exact, "exact: {}", taken.outcome.stderr);
    taken.outcome.line("after the interpreter started")?;
    ensure!(
        !taken.outcome.stderr.to_lowercase().contains("every call of"),
        "{}",
        taken.outcome.stderr
    );
    let late = taken.report()?.number("late_s")?;
    ensure!(late > 0.0 && late < 5.0, "late by {late} s");
    Ok(())
}

#[test]
fn calls_of_children_are_counted_from_their_first_on() -> Result<()> {
    let _serial = serial();
    let mut pythons = python::all()?;
    pythons.retain(|python| python.root.is_none());
    python::each_of(&pythons, |python| {
        let directory = calls::copy(python)?;
        let [executable, script] = at(python, "children.py", directory.path());
        let taken = Calls::record(&["-s", "--function", "child_fn"])?
            .args(WITHOUT_END)
            .args(["--", &executable, "-S", &script, &executable, "4"])
            .run()?
            .success()?;
        let report = taken.report()?;
        let child = report.function("<string>", "child_fn")?;
        ensure!(
            child.calls == Some(20_000) && report.whole["calls_exact"] == true,
            "{:?} calls\n{}",
            child.calls,
            taken.outcome.stderr
        );
        Ok(())
    })
}

/// As on a machine where others want the processors, too: the profiler learns of children when they have been at work for
/// long, and what it then says of them was true before.
#[test]
fn no_call_of_children_is_missing_where_the_profiler_is_behind() -> Result<()> {
    const CHILDREN: u64 = 40;
    const BEHIND: Duration = Duration::from_millis(40);
    const AT_WORK: Duration = Duration::from_millis(8);
    let _serial = serial();
    let mut pythons = python::all()?;
    pythons.retain(|python| python.root.is_none() && matches!(python.version, (3, 8 | 12)));
    for python in &pythons {
        let directory = calls::copy(python)?;
        let [executable, script] = at(python, "children.py", directory.path());
        let mut attached = Calls::record(&["-s", "--function", "child_fn"])?
            .args(WITHOUT_END)
            .args(["--", &executable, "-S", &script, &executable, &CHILDREN.to_string()])
            .start()?;
        while attached.is_running()? {
            attached.signal(libc::SIGSTOP)?;
            thread::sleep(BEHIND);
            attached.signal(libc::SIGCONT)?;
            thread::sleep(AT_WORK);
        }
        let taken = attached.finish()?.success()?;
        let report = taken.report()?;
        let child = report.function("<string>", "child_fn")?;
        ensure!(
            child.calls == Some(5_000 * CHILDREN),
            "with {python}: {:?} calls\n{}",
            child.calls,
            taken.outcome.stderr
        );
        // A child that has ended when its code is to be read can have functions without names. That is told, then.
        let is_exact = report.whole["calls_exact"] == true;
        ensure!(
            is_exact == (report.whole["unnamed_calls"] == 0),
            "with {python}: {}",
            taken.outcome.stderr
        );
    }
    Ok(())
}

#[test]
fn a_function_that_was_not_reached_is_told_from_one_that_is_not_there() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let directory = calls::copy(&python)?;
    let [executable, script] = at(&python, "imports_first.py", directory.path());
    let run = |options: &[&str]| {
        Calls::record(options)?
            .args(["--", &executable, &script])
            .run()?
            .success()
    };
    let taken = run(&["--function", "business", "--max-overhead", "1.01"])?;
    let line = taken.outcome.line("business")?;
    ensure!(line.contains("before the budget was spent"), "{line}");

    let taken = run(&["--function", "busines", "--function", "zzyzx", "--max-overhead", "1000"])?;
    let line = taken.outcome.line("`busines`")?;
    ensure!(line.contains("imports_first.py:business"), "{line}");
    let line = taken.outcome.line("`zzyzx`")?;
    ensure!(line.contains("no call of") && !line.contains("budget"), "{line}");
    Ok(())
}

#[test]
fn no_time_is_longer_than_what_was_counted_and_none_longer_than_the_whole() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let directory = calls::copy(&python)?;
    let mut command = Command::new(&python.executable);
    command.arg(directory.path().join("burn.py"));
    let workload = Workload::command(command, None)?;
    let pid = workload.pid.to_string();
    for options in [&[][..], &["--function", "hot"]] {
        let taken = Calls::record(&["-p", &pid, "-d", "600ms"])?
            .args(options)
            .run()?
            .success()?;
        let report = taken.report()?;
        let observed = report.number("observed_s")?;
        let rows = report.whole["functions"].as_array().context("no functions")?;
        let row = rows.iter().find(|row| row["function"] == "hot").context("no row")?;
        let number = |name: &str| row[name].as_f64().with_context(|| format!("no {name} in {row}"));
        let (own, cumulative) = (number("tottime_s")?, number("cumtime_s")?);
        ensure!(
            own <= observed && cumulative <= 1.001 * observed && own <= cumulative,
            "{own} s of {cumulative} s in {observed} s"
        );
        if options.is_empty() {
            continue;
        }
        // A function that runs and does not return is no function that is not there.
        let taken = Calls::record(&["-p", &pid, "-d", "300ms", "--function", "burn.py:<module>"])?
            .run()?
            .success()?;
        let line = taken.outcome.line("burn.py:<module>")?;
        ensure!(line.contains("ran, but no call of it"), "{line}");
    }
    Ok(())
}
