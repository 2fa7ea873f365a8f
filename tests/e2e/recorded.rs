//! Recordings that are read again: what a report says of the file is what the run said, and each format that it is
//! converted to is opened by its own reader.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    profiler::{Profiler, binary},
    python,
    serial::serial,
    venv,
    workload::Workload,
};
use serde_json::Value;

use crate::RATE;

fn profiler(arguments: &[&str], directory: &Path) -> Result<Output> {
    Command::new(binary())
        .args(arguments)
        .current_dir(directory)
        .output()
        .context("cannot run the profiler")
}

fn text(arguments: &[&str], directory: &Path) -> Result<String> {
    let output = profiler(arguments, directory)?;
    ensure!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// The first lines of a block, up to an empty one.
fn block<'a>(text: &'a str, title: &str) -> Vec<Vec<&'a str>> {
    text.lines()
        .skip_while(|line| !line.contains(title))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect()
}

/// The function, and the file with the line.
fn place(text: &str) -> (&str, &str) {
    let (function, path) = text.split_once(" (").unwrap_or((text, ""));
    (function, path.rsplit('/').next().unwrap_or(path))
}

/// What each reader has to find: run by a Python that has the packages.
const READERS: &str = r#"
import json, pstats, sys, tracemalloc, csv, io, contextlib
from gprof2dot import CallgrindParser, TOTAL_TIME
from opentelemetry.proto.profiles.v1development import profiles_pb2
found = {}
profile = CallgrindParser(open("rec.callgrind.out")).parse()
found["callgrind"] = sorted(f.name for f in profile.functions.values())
out = io.StringIO()
stats = pstats.Stats("rec.pstats", stream=out)
stats.sort_stats("cumtime").print_stats()
found["pstats"] = sum(tt for (_, _, tt, _, _) in stats.stats.values())
found["pstats text"] = out.getvalue()
data = profiles_pb2.ProfilesData.FromString(open("rec.otlp.pb", "rb").read())
strings = data.dictionary.string_table
totals = {}
for resource in data.resource_profiles:
    for scope in resource.scope_profiles:
        for p in scope.profiles:
            kind = strings[p.sample_type.type_strindex]
            totals[kind] = totals.get(kind, 0) + sum(v for s in p.samples for v in s.values)
found["otlp"] = totals
found["otlp functions"] = sorted(strings[f.name_strindex] for f in data.dictionary.function_table)
snapshot = tracemalloc.Snapshot.load("mem.snapshot")
found["snapshot"] = sum(s.size for s in snapshot.statistics("filename"))
found["snapshot diff"] = sum(d.size_diff for d in snapshot.compare_to(snapshot, "lineno"))
found["snapshot innermost"] = sorted({t.traceback[-1].lineno for t in snapshot.traces})
found["csv"] = sum(int(row["samples_count"]) for row in csv.DictReader(open("rec.csv")))
print(json.dumps(found))
"#;

#[test]
fn a_report_of_a_file_says_what_the_run_said_and_every_export_is_read_by_its_own_reader() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let workload = Workload::python(&python, "two.py", &[])?;
    let directory = tempfile::tempdir()?;
    let there = directory.path();
    let outcome = Profiler::record(&["-p", &workload.pid.to_string(), "-d", "2", "-r", RATE, "-o"])
        .arg(there.join("rec.pb.gz"))
        .succeed()?;
    let samples = outcome.samples()?;
    ensure!(samples > 100, "{}", outcome.stderr);

    // The lines of one's own code: the same in the run's last words and in the report.
    let report = text(&["report", "rec.pb.gz"], there)?;
    ensure!(report.lines().all(|line| line.chars().count() <= 80), "{report}");
    let (of_run, of_file) = (
        block(&outcome.stderr, "your code, line by line"),
        block(&report, "your code, line by line"),
    );
    ensure!(!of_run.is_empty(), "{}", outcome.stderr);
    for (run, file) in of_run.iter().zip(&of_file) {
        // With a column of errors there is less room for the path.
        let (run_place, file_place) = (run.last().map(|text| place(text)), file.last().map(|text| place(text)));
        ensure!(run[..2] == file[..2] && run_place == file_place, "{run:?} {file:?}");
    }

    // Rows of any kind have all samples between them, with their errors.
    for by in [
        "line", "function", "file", "module", "package", "thread", "process", "service", "cause",
    ] {
        let json: Value = serde_json::from_str(&text(&["report", "rec.pb.gz", "-f", "json", "--by", by], there)?)?;
        ensure!(json["format"] == "profiler-report" && json["version"] == 1);
        let rows = json["rows"].as_array().context("no rows")?;
        let sum: u64 = rows.iter().filter_map(|row| row["self"].as_u64()).sum();
        ensure!(sum == samples, "by {by}: {sum} of {samples}");
        ensure!(
            rows.iter()
                .all(|row| row["self_error"].as_f64().is_some_and(|error| error > 0.0))
        );
    }
    let editor = text(&["report", "rec.pb.gz", "--quickfix"], there)?;
    ensure!(editor.lines().all(|line| line.contains(".py:")), "{editor}");

    // The same through folded text and back.
    text(&["convert", "rec.pb.gz", "-o", "rec.folded"], there)?;
    let folded: Value = serde_json::from_str(&text(&["report", "rec.folded", "-f", "json"], there)?)?;
    ensure!(folded["total"] == samples, "{}", folded["total"]);
    ensure!(folded["samples"].is_null(), "errors of counts that may be anything's");

    for name in [
        "rec.svg",
        "rec.speedscope.json",
        "rec.gecko.json",
        "rec.chrome.json",
        "rec.callgrind.out",
        "rec.pstats",
        "rec.otlp.pb",
        "rec.csv",
        "rec.json",
    ] {
        text(&["convert", "rec.pb.gz", "-o", name], there)?;
    }
    let refused = profiler(&["convert", "rec.pb.gz", "-o", "rec.snapshot"], there)?;
    let told = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && told.contains("profiler memory"), "{told}");
    ensure!(!there.join("rec.snapshot").exists(), "half a file was left");

    // Bytes, as another program would count them: what tracemalloc is for.
    let heap = r#"{"shared": {"frames": [{"name": "f", "file": "/srv/a.py", "line": 3},
        {"name": "g", "file": "/srv/a.py", "line": 9}]}, "profiles": [{"type": "sampled", "name": "t", "unit": "bytes",
        "samples": [[0, 1], [0]], "weights": [5000000000, 7]}]}"#;
    fs::write(there.join("heap.speedscope.json"), heap)?;
    text(&["convert", "heap.speedscope.json", "-o", "mem.snapshot"], there)?;

    let gecko: Value = serde_json::from_slice(&fs::read(there.join("rec.gecko.json"))?)?;
    let weights = gecko["threads"].as_array().context("no threads")?.iter();
    let sum: i64 = weights
        .filter_map(|thread| thread["samples"]["weight"].as_array())
        .flatten()
        .filter_map(Value::as_i64)
        .sum();
    ensure!(sum == samples as i64, "gecko has {sum} of {samples}");

    let packages = ["gprof2dot==2025.4.14", "opentelemetry-proto>=1.40"];
    let Some(interpreter) = venv::with(&python::any()?, &packages)? else {
        return Ok(());
    };
    let output = Command::new(interpreter)
        .args(["-c", READERS])
        .current_dir(there)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout)?;
    let has = |of: &str, name: &str| {
        found[of].as_array().is_some_and(|names| {
            names
                .iter()
                .any(|found| found.as_str().is_some_and(|found| found.contains(name)))
        })
    };
    ensure!(has("callgrind", "<module>"), "{}", found["callgrind"]);
    ensure!(has("otlp functions", "<module>"), "{}", found["otlp functions"]);
    ensure!(found["otlp"]["samples"] == samples, "{}", found["otlp"]);
    ensure!(found["csv"] == samples, "{}", found["csv"]);
    let period = 1.0 / RATE.parse::<f64>()?;
    let seconds = found["pstats"].as_f64().context("no times")?;
    ensure!(
        (seconds - samples as f64 * period).abs() < 0.01 * seconds,
        "{seconds} s of {samples} samples"
    );
    ensure!(
        found["pstats text"]
            .as_str()
            .is_some_and(|text| text.contains("estimated from samples"))
    );
    ensure!(found["snapshot"] == 5_000_000_007_i64, "{}", found["snapshot"]);
    ensure!(found["snapshot diff"] == 0);
    ensure!(
        found["snapshot innermost"] == serde_json::json!([3, 9]),
        "{}",
        found["snapshot innermost"]
    );
    Ok(())
}

#[test]
fn a_file_that_is_no_recording_is_refused_in_one_line_with_what_to_do() -> Result<()> {
    let _serial = serial();
    let directory = tempfile::tempdir()?;
    let there = directory.path();
    fs::write(there.join("a.txt"), "hello\n")?;
    fs::write(there.join("perf.data"), "PERFILE2\0\0")?;
    fs::write(there.join("empty.pb.gz"), "")?;
    fs::write(there.join("torn.pb.gz"), [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b])?;
    fs::File::create(there.join("huge.pb.gz"))?.set_len(1 << 30)?;
    for (file, words) in [
        ("a.txt", "pprof (.pb.gz), folded text"),
        ("perf.data", "perf script"),
        ("empty.pb.gz", "is empty"),
        ("torn.pb.gz", "torn"),
        ("huge.pb.gz", "larger than 256 MiB"),
        ("none.pb.gz", "cannot read none.pb.gz"),
        (".", "directory"),
    ] {
        let output = profiler(&["report", file], there)?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{file}: {told}");
        ensure!(
            told.lines().count() == 1 && told.starts_with("error: ") && told.contains(words),
            "{file}: {told}"
        );
    }
    Ok(())
}
