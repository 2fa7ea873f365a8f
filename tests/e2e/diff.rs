//! `profiler diff` names the function that became slower, and none of a program that did not.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    profiler::{Outcome, Profiler},
    python,
    serial::serial,
    workload::sources,
};
use serde_json::Value;

/// More than what anything else on the machine does to equal programs, and far less than what becomes of the changed one.
const CONDITIONS: [&str; 4] = ["--fail-on", "total>+30%", "--fail-on", "self:diff_pages.render>+100%"];

fn record(directory: &Path, name: &str, times: &str) -> Result<String> {
    let python = python::any()?;
    let file = directory.join(name).display().to_string();
    let command = python.command();
    let script = sources().join("diff_pages.py").display().to_string();
    Profiler::bare()
        .args(["record", "-q", "-r", "499", "-o", &file, "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .args([script.as_str(), times, "5000"])
        .succeed()?;
    Ok(file)
}

fn diff(before: &str, after: &str, options: &[&str]) -> Result<Outcome> {
    // A run from its beginning to its end, so CPU time is what it took; how busy the machine was is no matter.
    Profiler::bare()
        .args(["diff", before, after, "--normalize", "recording", "--value", "cpu"])
        .args(options)
        .run()
}

#[test]
fn a_function_that_does_five_times_as_much_is_named_and_equal_runs_pass() -> Result<()> {
    let _serial = serial();
    let directory = tempfile::tempdir()?;
    let [one, two, slower] = [("one.pb.gz", "1"), ("two.pb.gz", "1"), ("slower.pb.gz", "5")]
        .map(|(name, times)| record(directory.path(), name, times));
    let (one, two, slower) = (one?, two?, slower?);

    let equal = diff(&one, &two, &CONDITIONS)?;
    ensure!(
        equal.code() == 0,
        "equal runs: {}\n{}",
        equal.code(),
        String::from_utf8_lossy(&equal.stdout)
    );

    let outcome = diff(&one, &slower, &CONDITIONS)?;
    let text = String::from_utf8(outcome.stdout.clone())?;
    ensure!(outcome.code() == 4, "slower: {}\n{text}", outcome.code());
    let first = text.lines().take(2).collect::<Vec<_>>().join(" ");
    ensure!(first.starts_with("slower by "), "{text}");
    ensure!(first.contains("because of diff_pages.render +"), "{text}");
    ensure!(text.lines().all(|line| line.chars().count() <= 80), "{text}");

    // The same as a page, which is looked at in `page::difference`; the sentence is told as well.
    let page = directory.path().join("diff.html").display().to_string();
    let written = diff(&one, &slower, &[&CONDITIONS[..], &["-o", &page]].concat())?;
    ensure!(written.code() == 4, "{}: {}", written.code(), written.stderr);
    ensure!(written.stderr.starts_with("slower by "), "{}", written.stderr);
    ensure!(std::fs::read_to_string(&page)?.starts_with("<!doctype html>"));

    let json = diff(&one, &slower, &["-f", "json"])?.success()?;
    let json: Value = serde_json::from_slice(&json.stdout).context("no JSON")?;
    ensure!(json["version"] == 1 && json["differs"] == true, "{json:#}");
    let rows = json["rows"].as_array().context("no rows")?;
    let named = |name: &str| rows.iter().find(|row| row["function"] == name).context("no row");
    ensure!(named("render")?["established"] == true, "{json:#}");
    Ok(())
}

#[test]
fn what_cannot_be_compared_or_asked_is_said_with_the_remedy() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let folded = directory.path().join("a.folded").display().to_string();
    std::fs::write(&folded, "main;f 30\nmain;g 70\n")?;
    let outcome = Profiler::bare()
        .args(["diff", &folded, &folded, "--fail-on", "speed>+5%"])
        .run()?;
    ensure!(
        outcome.code() == 2 && outcome.stderr.contains("for example total>+5%"),
        "{}",
        outcome.stderr
    );
    let outcome = Profiler::bare()
        .args(["diff", &folded, &folded, "--value", "bytes"])
        .run()?;
    ensure!(
        outcome.code() == 1 && outcome.stderr.contains("--value"),
        "{}",
        outcome.stderr
    );
    // Another producer's, without a length: shares, and that is said.
    let outcome = Profiler::bare().args(["diff", &folded, &folded]).run()?.success()?;
    let text = String::from_utf8(outcome.stdout)?;
    ensure!(
        text.starts_with("no difference") && text.contains("shares are compared"),
        "{text}"
    );
    Ok(())
}
