//! Who names a process that only waits is told who works for it; who types a name is told whose it is.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    process,
    profiler::{Outcome, Profiler, binary},
    python,
    serial::serial,
    workload::{self, Workload},
};

/// The workload, and the processes below it.
fn launcher() -> Result<(Workload, Vec<u32>)> {
    let workload = Workload::python(&python::any()?, "launcher.py", &[])?;
    let pids: Vec<u32> = serde_json::from_value(workload.truth[0]["pids"].clone())?;
    ensure!(pids.len() == 3, "{pids:?}");
    Ok((workload, pids))
}

fn run(what: &str, arguments: &[&str]) -> Profiler {
    Profiler::bare().arg(what).args(arguments)
}

/// `3 children of it used 31 % of a CPU: add -s`: the percentage.
fn told(outcome: &Outcome) -> Result<f64> {
    let line = outcome.line("children of it used ")?;
    ensure!(
        line.starts_with("3 children of it ") && line.ends_with(": add -s"),
        "{line}"
    );
    let (_, rest) = line.split_once("used ").context("no percentage")?;
    let (percent, _) = rest.split_once(" % of a CPU").context("no percentage")?;
    Ok(percent.parse()?)
}

#[test]
fn the_work_of_children_and_of_theirs_is_told_with_its_cpu_time() -> Result<()> {
    let _serial = serial();
    let (workload, pids) = launcher()?;
    let pid = workload.pid.to_string();
    let used = || -> Result<f64> { pids.iter().map(|&pid| process::cpu_seconds(pid)).sum() };
    for what in ["record", "memory", "calls"] {
        let recording = run(what, &["-p", &pid, "-o", "/dev/null"]).start()?;
        let (before, from) = (used()?, std::time::Instant::now());
        thread::sleep(Duration::from_secs(3));
        let truth = (used()? - before) / from.elapsed().as_secs_f64() * 100.0;
        let outcome = recording.stop()?;
        let told = told(&outcome).with_context(|| outcome.stderr.clone())?;
        // /proc counts in hundredths of a second, and the two spans are not quite the same.
        ensure!((told - truth).abs() <= 3.0, "{what}: {told} % told, {truth:.1} % used");
    }
    // Where they are recorded, there is nothing to add.
    let outcome = Profiler::record(&["-p", &pid, "-s", "-d", "500ms", "-o", "/dev/null"]).succeed()?;
    ensure!(!outcome.stderr.contains("add -s"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn a_command_whose_child_works_is_said_to_have_one() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let script = format!(
        "{:?} -c 'import time\nwhile time.process_time() < 0.7: pass'; true",
        python.executable
    );
    let outcome = Profiler::record(&["-o", "/dev/null", "--", "sh", "-c", &script]).succeed()?;
    outcome.line("1 child of it used ")?;
    // A shell has no calls to count, and its child is told.
    let outcome = run("calls", &["--", "sh", "-c", &script]).run()?;
    ensure!(outcome.code() == 1, "ended with {}", outcome.code());
    ensure!(
        outcome.line("error: ")?.ends_with("of a CPU: add -s"),
        "{}",
        outcome.stderr
    );

    let mut command = Command::new("sh");
    let two = workload::sources().join("two.py");
    command.args(["-c", &format!("{:?} {two:?}; true", python.executable)]);
    let workload = Workload::command(command, None)?;
    let outcome = run("calls", &["-p", &workload.pid.to_string(), "-d", "1h"]).run()?;
    let error = outcome.line("error: ")?;
    ensure!(
        outcome.code() == 1 && error.contains("(sh) runs no CPython; its child ") && error.ends_with("or add -s"),
        "{error}"
    );
    Ok(())
}

#[test]
fn names_are_answered_with_what_there_is() -> Result<()> {
    let _serial = serial();
    let (workload, _) = launcher()?;
    let pid = workload.pid.to_string();
    let outcome = Profiler::record(&["-p", "launcher.py", "-d", "1h"]).run()?;
    ensure!(outcome.code() == 2, "ended with {}", outcome.code());
    let line = outcome.line(&format!("-p {pid} "))?;
    ensure!(line.contains("-s with its 2 children  python"), "{line}");
    ensure!(
        outcome.stderr.lines().all(|line| line.chars().count() <= 80),
        "{}",
        outcome.stderr
    );

    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"))?;
    let outcome = Profiler::record(&["-p", &pid, "--comm", "nosuch", "-d", "300ms", "-o", "/dev/null"]).succeed()?;
    for beginning in [
        "no thread is called nosuch yet; ",
        "warning: no thread was called nosuch at the beginning; ",
    ] {
        let line = outcome.line(beginning)?;
        ensure!(line.contains(name.trim()), "{line}");
    }
    outcome.line("what was chosen used less than ")?;
    Ok(())
}

#[test]
fn bash_completes_pids() -> Result<()> {
    let mut command = Command::new("bash");
    command.args(["-c", "echo READY; exec -a $'odd\\enäme' sleep 1000"]);
    let workload = Workload::command(command, None)?;
    let pid = workload.pid.to_string();
    let until_exec = || std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    process::until(Duration::from_secs(10), "sleep", until_exec)?;
    // As readline does it: the words, the one that is completed, and the one before.
    let complete = |words: &str, cur: &str, prev: &str| -> Result<Vec<String>> {
        let script = format!(
            "source <(\"$0\" completions bash); COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             _profiler_or_pids profiler '{cur}' '{prev}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["-c", &script]).arg(binary()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{said}");
        Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
    };
    let offered = complete("profiler record -p ''", "", "-p")?;
    let line = offered.iter().find(|line| line.starts_with(&format!("{pid}  ")));
    let line = line.with_context(|| format!("{pid} is not in {offered:?}"))?;
    ensure!(line.contains("sleep: odd?") && line.contains("1000"), "{line}");
    ensure!(
        offered
            .iter()
            .all(|line| line.starts_with(|c: char| c.is_ascii_digit())),
        "{offered:?}"
    );
    // One that is left is typed out, in each place where a pid belongs.
    for (words, cur, prev, expected) in [
        (format!("profiler record -p {pid}"), pid.clone(), "-p", pid.clone()),
        (format!("profiler calls --pid = {pid}"), pid.clone(), "=", pid.clone()),
        (format!("profiler memory {pid}"), pid.clone(), "memory", pid.clone()),
        (
            format!("profiler record -p 1,{pid}"),
            format!("1,{pid}"),
            "-p",
            format!("1,{pid}"),
        ),
    ] {
        let offered = complete(&words, &cur, prev)?;
        let exact = offered == [expected.clone()];
        // Another pid may begin with this one.
        ensure!(
            exact || offered.iter().any(|line| line.starts_with(&format!("{expected}  "))),
            "{words}: {offered:?}"
        );
    }
    // All else is as it was.
    ensure!(
        complete("profiler rec", "rec", "profiler")? == ["record"],
        "no subcommands"
    );
    ensure!(
        complete("profiler record --subp", "--subp", "record")? == ["--subprocesses"],
        "no options"
    );
    Ok(())
}
