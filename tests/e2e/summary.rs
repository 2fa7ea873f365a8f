//! The summary says what was recorded, what was not, and what it cost.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    profiler::{Profiler, binary},
    python,
    serial::serial,
    workload::Workload,
};
use serde_json::Value;

#[test]
fn the_summary_counts_samples_and_tells_the_cost() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "spin.py", &[])?;
    let pid = workload.pid.to_string();
    let directory = tempfile::tempdir()?;
    let json = directory.path().join("summary.json");
    let recording = Profiler::record(&["-p", &pid, "-r", "999", "-f", "folded", "-o", "-"])
        .arg("--summary-json")
        .arg(&json)
        .start()?;
    let used = workload.cpu_seconds_in(Duration::from_secs(3))?;
    let outcome = recording.stop()?;
    let (samples, expected) = (outcome.samples()? as f64, used * 999.0);
    ensure!(
        (samples / expected - 1.0).abs() <= 0.1,
        "{samples} samples, {expected:.0} expected"
    );
    ensure!(
        outcome.folded()?.total() == outcome.samples()?,
        "the file has other samples than the summary"
    );
    ensure!(!outcome.stderr.contains("lost"), "{}", outcome.stderr);
    ensure!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    // What is as it should be is not said, the rest of the cost in the file alone.
    let summary: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let number = |pointer: &str| {
        summary
            .pointer(pointer)
            .and_then(Value::as_f64)
            .with_context(|| pointer.to_owned())
    };
    let complete = number("/python/complete")? / number("/python/samples")?;
    ensure!(complete > 0.99, "{complete}");
    let cost = outcome.line("cost: ")?;
    for word in ["of a CPU in the kernel", "in the profiler", "iB"] {
        ensure!(cost.contains(word), "does not tell {word:?}: {cost}");
    }
    let microseconds = number("/cost/bpf_ns_per_sample")? / 1e3;

    // The kernel's clock, and no error: it is one process, and all of it.
    let cpu = outcome.line(" used ")?;
    let share = used / 3.0 * 100.0;
    ensure!(
        cpu.contains("% of a CPU, waited ") && cpu.contains("of the time") && !cpu.contains('±'),
        "{cpu}"
    );
    let said = number("/cpu/cpu_s")? / number("/cpu/length_s")? * 100.0;
    ensure!((said - share).abs() < 10.0, "{said:.1} %, {share:.1} % measured");
    // The hottest line is the program's own, and the table fits.
    let table: Vec<&str> = outcome
        .stderr
        .lines()
        .skip_while(|line| !line.contains("your code"))
        .collect();
    ensure!(
        table
            .get(1)
            .is_some_and(|row| row.contains("inner (") && row.contains("spin.py:")),
        "{table:?}"
    );
    ensure!(
        outcome.stderr.lines().all(|line| line.chars().count() <= 100),
        "{}",
        outcome.stderr
    );
    ensure!(
        (0.1..200.0).contains(&microseconds),
        "not a time that can be: {microseconds} µs"
    );
    Ok(())
}

#[test]
fn what_is_written_into_a_pipe_has_no_colours_and_no_progress() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "spin.py", &[])?;
    let pid = workload.pid.to_string();
    let arguments = ["-p", &pid, "-d", "1500ms", "-f", "folded", "-o", "-"];
    let loud = Profiler::record(&arguments).succeed()?;
    ensure!(!loud.stderr.contains(['\u{1b}', '\r']), "{:?}", loud.stderr);
    ensure!(
        loud.stderr.lines().filter(|line| line.contains("samples")).count() == 1,
        "{}",
        loud.stderr
    );
    loud.line("sampling process")?;

    let quiet = Profiler::record(&arguments).arg("-q").succeed()?;
    ensure!(!quiet.stderr.contains("sampling"), "{}", quiet.stderr);
    quiet.line("cost: ")?;
    ensure!(quiet.samples()? > 50, "{}", quiet.stderr);
    Ok(())
}

#[test]
fn on_a_terminal_there_is_progress_unless_q() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "spin.py", &[])?;
    let binary = binary();
    let binary = binary.to_str().context("not UTF-8")?;
    let on_terminal = |more: &str| -> Result<String> {
        let line = format!(
            "{binary} record -p {} -d 2 -r 99 -f folded -o /dev/null {more}",
            workload.pid
        );
        // script(1) lends it a terminal.
        let output = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .stdin(std::process::Stdio::null())
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    if Command::new("script").arg("--version").output().is_err() {
        profiler_tests::skip::skip("there is no script(1) to lend a terminal");
        return Ok(());
    }
    let loud = on_terminal("")?;
    ensure!(
        loud.contains(['\r', '\u{1b}']) && loud.matches("samples").count() > 1,
        "no progress: {loud:?}"
    );
    let quiet = on_terminal("-q")?;
    ensure!(quiet.matches("samples").count() == 1, "progress: {quiet:?}");
    Ok(())
}

#[test]
fn v_tells_how_many_instructions_were_verified() -> Result<()> {
    let _serial = serial();
    let outcome = Profiler::record(&["-a", "-d", "300ms", "-v", "-f", "folded", "-o", "/dev/null"]).succeed()?;
    outcome.line("instructions verified")?;
    Ok(())
}

#[test]
fn the_log_of_the_kernel_programs_does_not_change_what_is_recorded() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "spin.py", &[])?;
    let pid = workload.pid.to_string();
    let outcome = Profiler::record(&["-p", &pid, "-d", "1", "-r", "99", "-vv", "-f", "folded", "-o", "-"]).succeed()?;
    let folded = outcome.folded()?;
    ensure!(folded.total() > 20 && folded.share_of("inner") > 0.99, "{folded}");
    Ok(())
}

#[test]
fn completions_are_written_for_every_shell() -> Result<()> {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let outcome = Profiler::bare().args(["completions", shell]).succeed()?;
        let text = String::from_utf8_lossy(&outcome.stdout);
        ensure!(
            text.contains("--subprocesses") || text.contains("subprocesses"),
            "{shell}: {text}"
        );
    }
    Ok(())
}
