//! Exports, each opened by a reader that is not ours: what it finds is held against folded text.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{npm, profiler::binary, python, serial::serial, venv, workload::sources};
use serde_json::Value;

/// The last versions that were tried; another one may read otherwise.
const SPEEDSCOPE: &str = "speedscope@1.25.0";
/// The Firefox Profiler's own code, without the page.
const FIREFOX: &str = "@firefox-devtools/profiler-cli@0.10.0";

/// Samples of two processes with Python, native code and the kernel: what `record` writes, made by hand, so that it takes no
/// time to record. Names are those that hurt: quotes, brackets, angles, spaces, and letters of others.
const FOLDED: &str = "\
gunicorn shop (process 7);<module> (shop/app.py:3);orders (shop/views.py:22);<listcomp> (shop/views.py:24) 120
gunicorn shop (process 7);<module> (shop/app.py:3);orders (shop/views.py:22);_sqlite3_step (libsqlite3.so.0) 61
gunicorn shop (process 7);<module> (shop/app.py:3);orders (shop/views.py:22);tcp_sendmsg_[k] 7
gunicorn shop (process 7);<module> (shop/app.py:3);größe \"<b>\" & 'c' (shop/größe.py:1) 30
gunicorn shop (process 9);<module> (shop/app.py:3);operator() const::{lambda} (libfoo.so) 5
gunicorn shop (process 9);<module> (shop/app.py:3) 1
";
const SAMPLES: u64 = 224;

/// What each frame has itself.
fn own() -> BTreeMap<String, u64> {
    let mut own = BTreeMap::new();
    for line in FOLDED.lines() {
        let (stack, count) = line.rsplit_once(' ').unwrap_or((line, "0"));
        let leaf = stack.rsplit(';').next().unwrap_or(stack);
        *own.entry(leaf.to_owned()).or_default() += count.parse::<u64>().unwrap_or(0);
    }
    own
}

/// A name without its place and its mark.
fn plain(name: &str) -> String {
    let name = name.rsplit_once(" (").map_or(name, |(name, _)| name);
    name.trim_end_matches("_[k]").to_owned()
}

fn convert(there: &Path, names: &[&str]) -> Result<()> {
    fs::write(there.join("rec.txt"), FOLDED)?;
    for name in names {
        let output = Command::new(binary())
            .args(["convert", "rec.txt", "-o", name])
            .current_dir(there)
            .output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name}: {told}");
    }
    Ok(())
}

/// Numbers by name, without what has none.
fn numbers(of: &Value) -> BTreeMap<String, u64> {
    let map = of.as_object().into_iter().flatten();
    map.filter_map(|(name, number)| Some((name.clone(), number.as_f64()?.round() as u64)))
        .filter(|(_, number)| *number > 0)
        .collect()
}

#[test]
fn speedscope_finds_what_folded_text_has_in_its_own_format_in_pprof_and_in_trace_events() -> Result<()> {
    let _serial = serial();
    let Some(place) = npm::with(SPEEDSCOPE)? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let there = directory.path();
    convert(
        there,
        &["rec.speedscope.json", "rec.chrome.json", "rec.pb.gz", "rec.folded"],
    )?;
    // Files that end in .chrome.json it takes for another format of Chrome's, which has V8's profiles.
    let files = [
        "rec.speedscope.json",
        "rec.pb.gz",
        "rec.chrome.json=trace.json",
        "rec.folded=rec.collapsedstack.txt",
    ];
    let script = sources().join("read_speedscope.js");
    let found: Value = serde_json::from_str(&npm::node(&place, &script, &files, there)?)?;
    for file in ["rec.speedscope.json", "rec.pb.gz", "rec.chrome.json", "rec.folded"] {
        let profiles = found[file].as_array().context("no profiles")?;
        let mut own_found = BTreeMap::new();
        for profile in profiles {
            for (name, number) in numbers(&profile["self"]) {
                *own_found.entry(name).or_default() += number;
            }
        }
        let total: f64 = profiles.iter().filter_map(|profile| profile["total"].as_f64()).sum();
        ensure!(total.round() as u64 == SAMPLES, "{file}: {total} of {SAMPLES}");
        // pprof has plain names, and where the code is in fields of their own.
        let expected = match file {
            "rec.pb.gz" => own().into_iter().map(|(name, number)| (plain(&name), number)).collect(),
            _ => own(),
        };
        ensure!(own_found == expected, "{file}: {own_found:?}, not {expected:?}");
    }
    Ok(())
}

#[test]
fn the_firefox_profiler_finds_what_folded_text_has_and_the_cpu_that_it_stands_for() -> Result<()> {
    let _serial = serial();
    let Some(place) = npm::with(FIREFOX)? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let there = directory.path();
    convert(there, &["rec.gecko.json"])?;
    let script = place.join("node_modules/@firefox-devtools/profiler-cli/dist/profiler-cli.js");
    let ask = |arguments: &[&str]| npm::node(&place, &script, arguments, there);
    // It answers from a process of its own, which on a busy machine takes longer to come up than it waits.
    let session = format!("e2e-{}", std::process::id());
    let loaded = ask(&["load", "rec.gecko.json", "--session", &session]);
    let read = (|| -> Result<_> {
        let info = ["profile", "info", "--json", "--all", "--session", &session];
        let told = (0..20).find_map(|_| ask(&info).ok()).context("it does not answer");
        let info: Value = serde_json::from_str(&told.map_err(|error| loaded.err().unwrap_or(error))?)?;
        let mut found = BTreeMap::new();
        for process in info["processes"].as_array().context("no processes")? {
            for thread in process["threads"].as_array().context("no threads")? {
                let handle = thread["threadHandle"].as_str().context("no handle")?;
                let list = ["thread", "functions", "--json", "--include-idle", "--thread", handle];
                let functions: Value = serde_json::from_str(&ask(&[&list[..], &["--session", &session]].concat())?)?;
                for function in functions["functions"].as_array().context("no functions")? {
                    let name = function["name"].as_str().context("no name")?.to_owned();
                    *found.entry(name).or_default() += function["selfSamples"].as_u64().context("no samples")?;
                }
            }
        }
        found.retain(|_, number| *number > 0);
        Ok((info, found))
    })();
    let stopped = ask(&["stop", &session]);
    let (info, found) = read?;
    stopped?;
    ensure!(found == own(), "{found:?}, not {:?}", own());
    // Of a thread that has no CPU time nothing is drawn in its row.
    let processes = info["processes"].as_array().into_iter().flatten();
    let cpu: f64 = processes.filter_map(|process| process["cpuMs"].as_f64()).sum();
    ensure!(
        (cpu - SAMPLES as f64).abs() < 2.0,
        "{cpu} ms of {SAMPLES} samples of a millisecond"
    );
    Ok(())
}

/// pydantic's models are made from the standard's schema, and refuse what it has no field for.
const SARIF: &str = r#"
import json, sys
from pydantic_sarif.model import StaticAnalysisResultsFormatSarifVersion210JsonSchema as Log
for name in sys.argv[1:]:
    log = Log.model_validate(json.load(open(name)))
    for run in log.runs:
        for result in run.results:
            assert run.tool.driver.rules[result.ruleIndex].id == result.ruleId, result
            places = [
                f"{place.physicalLocation.artifactLocation.uri}:{place.physicalLocation.region.startLine if place.physicalLocation.region else 0}"
                for place in result.locations or []
            ]
            level = getattr(result.level, "value", result.level)
            print(name, result.ruleId, level, ",".join(places), result.message.text)
"#;

#[test]
fn sarif_is_as_the_standard_says_and_names_lines_and_what_fails() -> Result<()> {
    let _serial = serial();
    let Some(interpreter) = venv::with(&python::any()?, &["pydantic-sarif==0.1.1"])? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let there = directory.path();
    fs::write(
        there.join("before.txt"),
        "main (shop/app.py:3);render (shop/views.py:8) 300\nmain (shop/app.py:3);load (shop/views.py:20) 300\n",
    )?;
    fs::write(
        there.join("after.txt"),
        "main (shop/app.py:3);render (shop/views.py:8) 900\nmain (shop/app.py:3);load (shop/views.py:20) 300\n",
    )?;
    let sides = |name: &str| -> String { (0..3).map(|_| format!("{name}.txt")).collect::<Vec<_>>().join(",") };
    let (before, after) = (sides("before"), sides("after"));
    fs::write(there.join("rec.txt"), FOLDED)?;
    for (arguments, status) in [
        (vec!["report", "rec.txt", "-n", "3", "-o", "lines.sarif"], 0),
        (
            vec![
                "diff",
                &before,
                &after,
                "--normalize",
                "samples",
                "--fail-on",
                "func:render>+10%",
                "-o",
                "diff.sarif",
            ],
            4,
        ),
    ] {
        let output = Command::new(binary()).args(&arguments).current_dir(there).output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(status), "{arguments:?}: {told}");
    }
    let output = Command::new(interpreter)
        .args(["-c", SARIF, "lines.sarif", "diff.sarif"])
        .current_dir(there)
        .output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines: Vec<&str> = told.lines().collect();
    ensure!(
        lines[0].starts_with("lines.sarif hot-line note shop/views.py:24 <listcomp>: 53.6 %"),
        "{told}"
    );
    ensure!(
        lines
            .iter()
            .any(|line| line.starts_with("diff.sarif regression error ") && line.contains("func:render>+10%")),
        "{told}"
    );
    ensure!(
        lines
            .iter()
            .any(|line| line.starts_with("diff.sarif became-more warning ") && line.contains("render")),
        "{told}"
    );
    Ok(())
}

/// Every object is closed, so that what no schema has is told.
const VALIDATE: &str = r#"
import json, sys
from jsonschema import Draft202012Validator
def close(schema):
    if isinstance(schema, dict):
        if "properties" in schema:
            schema["additionalProperties"] = False
        for inner in schema.values():
            close(inner)
    elif isinstance(schema, list):
        for inner in schema:
            close(inner)
for schema, file in zip(sys.argv[1::2], sys.argv[2::2]):
    schema = json.load(open(schema))
    Draft202012Validator.check_schema(schema)
    close(schema)
    for error in Draft202012Validator(schema).iter_errors(json.load(open(file))):
        print(file, list(error.path), error.message[:200])
"#;

#[test]
fn json_is_as_its_published_schemas_say() -> Result<()> {
    let _serial = serial();
    let Some(interpreter) = venv::with(&python::any()?, &["jsonschema>=4.20,<5"])? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let there = directory.path();
    convert(there, &["rec.json"])?;
    let reports: [(&str, &[&str]); 6] = [
        ("lines.json", &["report", "rec.txt", "-f", "json"]),
        ("packages.json", &["report", "rec.txt", "-f", "json", "--by", "package"]),
        (
            "orders.json",
            &[
                "report",
                "rec.txt",
                "-f",
                "json",
                "--callers",
                "orders",
                "--callees",
                "orders",
                "--source",
                "orders",
            ],
        ),
        ("diff.json", &["diff", "rec.txt", "rec.txt", "-f", "json"]),
        ("tasks.json", &["report", "rec.txt", "-f", "json", "--by", "task"]),
        (
            "merged.json",
            &["report", "rec.txt", "rec.txt", "--merge", "-f", "json"],
        ),
    ];
    for (name, arguments) in reports {
        let output = Command::new(binary())
            .args(arguments)
            .args(["-o", name])
            .current_dir(there)
            .output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name}: {told}");
    }
    let merged: Value = serde_json::from_slice(&fs::read(there.join("merged.json"))?)?;
    ensure!(merged["total"] == 2 * SAMPLES, "{}", merged["total"]);
    let schemas = python::workspace().join("docs/schemas");
    let mut command = Command::new(interpreter);
    command.args(["-c", VALIDATE]).current_dir(there);
    for (schema, file) in [
        ("profile", "rec.json"),
        ("report", "lines.json"),
        ("report", "packages.json"),
        ("report", "orders.json"),
        ("report", "tasks.json"),
        ("report", "merged.json"),
        ("diff", "diff.json"),
    ] {
        command.arg(schemas.join(format!("{schema}.schema.json"))).arg(file);
    }
    let output = command.output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && told.is_empty(),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
