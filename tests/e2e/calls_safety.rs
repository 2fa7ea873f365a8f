//! The target is left as it was, whoever ends first and however; a budget is kept; and what cannot be counted is refused by
//! name.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    bpf::Objects,
    calls::{self, Calls, Report, WITHOUT_END, changed_code},
    process::until,
    profiler::Profiler,
    python,
    serial::serial,
    skip::skip,
    workload::{self, Workload},
};
use serde_json::Value;

/// Ways to count. Those of chosen functions have probes at their beginnings as well.
const MODES: [&[&str]; 2] = [&[], &["--function", "busy.py:add", "--function", "busy.py:numbers"]];

fn pid(workload: &Workload) -> String {
    workload.pid.to_string()
}

/// How often busy.py says that a function was called.
fn known(said: &Value, name: &str) -> Result<u64> {
    said["calls"][name]
        .as_u64()
        .with_context(|| format!("no {name} in {said}"))
}

fn ensure_counted(report: &Report, said: &Value, name: &str) -> Result<()> {
    let (found, known) = (report.function("busy.py", name)?.calls, known(said, name)?);
    ensure!(found == Some(known), "{name}: {found:?} calls, not {known}");
    Ok(())
}

/// One by one they work as well, so nothing else would tell: a window would end a second late.
#[test]
fn probes_come_and_go_together_where_the_kernel_can() -> Result<()> {
    let _serial = serial();
    let workload = calls::run(&python::any()?, "busy.py", &[])?;
    let outcome = Profiler::bare()
        .args(["calls", "-vv", "-d", "0.2", "-p", &pid(&workload)])
        .succeed()?;
    ensure!(
        !outcome.stderr.contains("cannot be put in together"),
        "{}",
        outcome.stderr
    );
    Ok(())
}

#[test]
fn after_the_recording_no_probe_is_left_and_the_target_runs_on() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        for mode in MODES {
            let mut workload = calls::run(python, "busy.py", &[])?;
            let before = changed_code(workload.pid)?;
            ensure!(before == 0, "{before} bytes of its code are changed already");
            let attached = Calls::record(&["-p", &pid(&workload)])?.args(mode).start()?;
            ensure!(
                changed_code(workload.pid)? > 0,
                "{mode:?}: there is no probe, so nothing is tested"
            );
            let objects = Objects::of(attached.pid())?;
            ensure!(!objects.programs.is_empty(), "{mode:?}: it has no programs");
            attached.stop()?;
            let after = changed_code(workload.pid)?;
            ensure!(after == 0, "{mode:?}: {after} bytes of its code are changed");
            objects.until_gone(format_args!("{python}, {mode:?}"))?;
            // Through every place that was probed.
            workload.tell("100")?;
            workload.value().context("after the recording")?;
        }
        Ok(())
    })
}

#[test]
fn a_profiler_that_is_killed_leaves_no_probe() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        for mode in MODES {
            let mut workload = calls::run(python, "busy.py", &[])?;
            let attached = Calls::record(&["-p", &pid(&workload)])?
                .args(mode)
                .args(WITHOUT_END)
                .start()?;
            ensure!(changed_code(workload.pid)? > 0, "{mode:?}: there is no probe");
            let objects = Objects::of(attached.pid())?;
            ensure!(
                !objects.programs.is_empty() && !objects.maps.is_empty() && objects.left() == objects,
                "{mode:?}: {objects:?}"
            );
            // In the middle of what it does, and of calls that a return probe may stand on.
            workload.tell("20000")?;
            attached.signal(libc::SIGKILL)?;
            let taken = attached.finish()?;
            ensure!(
                taken.outcome.code() == 137,
                "{mode:?}: ended with {}",
                taken.outcome.code()
            );
            objects.until_gone(format_args!("{python}, {mode:?}"))?;
            until(Duration::from_secs(10), "its code is as it was", || {
                changed_code(workload.pid).is_ok_and(|changed| changed == 0)
            })?;
            workload.value().context("the target does not go on")?;

            // And the next one counts.
            let attached = Calls::record(&["-p", &pid(&workload)])?
                .args(mode)
                .args(WITHOUT_END)
                .start()?;
            workload.tell("30")?;
            let said = workload.value()?;
            ensure_counted(&attached.stop()?.report()?, &said, "add").with_context(|| format!("{mode:?}"))?;
        }
        Ok(())
    })
}

/// Every time in the midst of calls, which end when the probes are gone.
#[test]
fn probes_come_and_go_while_the_target_is_busy() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let mut workload = calls::run(python, "busy.py", &[])?;
        for turn in 0..6 {
            // Two threads, and more work than the recording lasts.
            workload.tell("2 60000")?;
            let mode = MODES[turn % MODES.len()];
            let attached = Calls::record(&["-p", &pid(&workload)])?
                .args(mode)
                .args(WITHOUT_END)
                .start()?;
            let taken = attached.stop()?;
            ensure!(workload.is_running()?, "the target has ended: {}", taken.outcome.stderr);
            workload.value().with_context(|| format!("turn {turn}, {mode:?}"))?;
        }
        Ok(())
    })
}

#[test]
fn calls_are_counted_in_short_windows_where_all_the_time_would_cost_too_much() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let mut workload = calls::run(python, "busy.py", &[])?;
        let attached = Calls::record(&["-p", &pid(&workload), "--max-overhead", "1.05"])?.start()?;
        // Calls and little else, so there is no way to stay below for long: some 75 million of them. One window would not do.
        workload.tell("1000000")?;
        let said = workload.value()?;
        let taken = attached.stop()?;
        ensure!(changed_code(workload.pid)? == 0, "the probes are still there");
        taken.outcome.line("--max-overhead")?;
        let report = taken.report()?;
        let (observed, length) = (report.number("observed_s")?, report.number("length_s")?);
        ensure!(
            observed < 0.5 * length && report.whole["scaled"] == true,
            "counted in {observed} s of {length} s: {}",
            taken.outcome.stderr
        );
        let ([found, error], known) = (estimate(&report, "busy.py", "one")?, known(&said, "one")?);
        ensure!(
            found > 0.0 && (found - known as f64).abs() <= error,
            "{found} ± {error} calls, not {known}: {}",
            taken.outcome.stderr
        );
        ensure!(
            taken.outcome.stderr.contains('%'),
            "it does not say what share of the time was observed: {}",
            taken.outcome.stderr
        );
        Ok(())
    })
}

/// What one window saw may be anything of what there was. Nothing is scaled up from it, and no number is told without a mark.
#[test]
fn what_one_window_saw_is_told_as_the_least_there_was() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let mut workload = calls::run(python, "busy.py", &[])?;
        // So little that a second window would have to be earned for longer than the program works.
        let options = ["-p", &pid(&workload), "--max-overhead", "1.001"];
        let attached = Calls::record(&options)?.start()?;
        workload.tell("3000")?;
        let known = known(&workload.value()?, "one")?;
        let taken = attached.stop()?;
        let report = taken.report()?;
        let found = report.function("busy.py", "one")?;
        let row = &report.whole["functions"][0];
        ensure!(
            report.whole["calls_at_least"] == true
                && report.whole["scaled"] == false
                && report.whole["calls_exact"] == false
                && row["calls_error"].is_null(),
            "{}\n{row}",
            taken.outcome.stderr
        );
        ensure!(
            !found.is_exact && found.calls.is_some_and(|calls| 0 < calls && calls <= known),
            "{:?} calls of {known}",
            found.calls
        );
        taken.outcome.line("too few windows")?;
        Ok(())
    })
}

/// How often a function was called by estimate, and the error.
fn estimate(report: &Report, script: &str, name: &str) -> Result<[f64; 2]> {
    let function = report.function(script, name)?;
    ensure!(!function.is_exact, "a count of windows is told to be exact");
    let rows = report.whole["functions"].as_array().context("no functions")?;
    let row = rows.iter().find(|row| row["function"] == name).context("no row")?;
    Ok([
        function.calls.context("not counted")? as f64,
        row["calls_error"].as_f64().context("no error")?,
    ])
}

/// Records a program in windows of a fifth of the time while it does so many rounds. Returns how often a function of it
/// was called, by estimate, with its error and in truth, and what was said.
fn in_windows(script: &str, rounds: &str, name: &str) -> Result<([f64; 3], String)> {
    let mut workload = calls::run(&python::any()?, script, &[])?;
    let attached = Calls::record(&["-p", &pid(&workload), "--duty", "20%"])?
        .args(WITHOUT_END)
        .start()?;
    workload.tell(rounds)?;
    let said = workload.value()?;
    let taken = attached.stop()?;
    let report = taken.report()?;
    ensure!(
        report.whole["scaled"] == true && report.whole["calls_exact"] == false,
        "{}",
        report.whole
    );
    let share = report.number("observed_s")? / report.number("length_s")?;
    ensure!((0.1..=0.3).contains(&share), "{share} of the time was observed");
    let [found, error] = estimate(&report, script, name)?;
    let numbers = [found, error, known(&said, name)? as f64];
    println!("{script}: {} ± {}, truly {}", numbers[0], numbers[1], numbers[2]);
    Ok((numbers, taken.outcome.stderr))
}

/// A fifth of the time, scaled up. Probes make a program that does nothing but call ten to fifty times slower while they
/// count, and how much exactly is not known well: the truth is within the error that is told, which is larger than the
/// count.
#[test]
fn counts_of_windows_are_scaled_up_and_told_to_be_estimates() -> Result<()> {
    let _serial = serial();
    let ([found, error, known], said) = in_windows("busy.py", "2000000", "one")?;
    ensure!((found - known).abs() <= error, "{found} ± {error} calls, not {known}");
    ensure!(
        said.contains("slow it down"),
        "it does not say where the error is from: {said}"
    );
    Ok(())
}

#[test]
fn counts_of_windows_are_close_for_a_program_that_does_other_things_as_well() -> Result<()> {
    let _serial = serial();
    let ([found, error, known], said) = in_windows("other_things.py", "250000", "called")?;
    ensure!((found / known - 1.0).abs() < 0.15, "{found} calls, not {known}: {said}");
    ensure!(error < 0.3 * found, "{found} ± {error}: {said}");
    Ok(())
}

#[test]
fn a_function_that_is_nowhere_is_named() -> Result<()> {
    let _serial = serial();
    let mut workload = calls::run(&python::any()?, "busy.py", &[])?;
    for wrong in [
        "no_such_function",
        "no.such.module:add",
        "busy.py:no_such",
        "Account.no_such",
    ] {
        let attached = Calls::record(&["-p", &pid(&workload), "--function", wrong, "--function", "busy.py:add"])?;
        let mut attached = attached.spawn()?;
        // It may refuse at once, or find out at the end.
        until(Duration::from_secs(30), "it is attached, or has ended", || {
            !attached.is_running().unwrap_or(false) || changed_code(workload.pid).is_ok_and(|changed| changed > 0)
        })?;
        if attached.is_running()? {
            workload.tell("10")?;
            workload.value()?;
            // Not before it listens to signals.
            until(Duration::from_secs(30), "it says that it counts", || {
                attached.said().to_lowercase().contains("ing ") || !attached.is_running().unwrap_or(false)
            })?;
            if attached.is_running()? {
                attached.signal(libc::SIGINT)?;
            }
        }
        let taken = attached.finish()?;
        ensure!(!taken.outcome.stderr.contains("panicked"), "{}", taken.outcome.stderr);
        let line = taken.outcome.line(wrong)?;
        ensure!(!line.is_empty(), "{wrong}");
    }
    Ok(())
}

#[test]
fn a_version_that_is_not_known_is_refused_by_name() -> Result<()> {
    let _serial = serial();
    for version in ["2.7", "3.6", "3.7"] {
        let Some(executable) = python::pyenv(version) else {
            skip(format!("pyenv has no CPython {version}"));
            continue;
        };
        let release = executable.parent().and_then(|bin| bin.parent()?.file_name()?.to_str());
        let release = release.context("no release")?;
        let mut command = Command::new(&executable);
        command.arg(workload::sources().join("two.py"));
        let mut workload = Workload::command(command, None)?;
        let taken = Calls::record(&["-p", &pid(&workload), "-d", "1"])?.run()?;
        ensure!(
            taken.outcome.code() != 0,
            "{release}: it succeeded: {}",
            taken.outcome.stderr
        );
        ensure!(!taken.outcome.stderr.contains("panicked"), "{}", taken.outcome.stderr);
        taken.outcome.line(release)?;
        ensure!(workload.is_running()?, "{release}: the target has ended");
        ensure!(changed_code(workload.pid)? == 0, "{release}: a probe is left");
    }
    Ok(())
}

#[test]
fn a_process_without_an_interpreter_is_refused() -> Result<()> {
    let _serial = serial();
    let mut command = Command::new("sh");
    command.args(["-c", "echo READY; read line"]);
    let mut workload = Workload::command(command, None)?;
    let taken = Calls::record(&["-p", &pid(&workload), "-d", "1"])?.run()?;
    ensure!(taken.outcome.code() != 0, "it succeeded: {}", taken.outcome.stderr);
    ensure!(
        taken.outcome.stderr.contains("Python"),
        "it does not say why: {}",
        taken.outcome.stderr
    );
    ensure!(workload.is_running()?, "the target has ended");
    Ok(())
}
