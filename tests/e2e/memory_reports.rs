//! What is shown of it: ages, peaks, what came and went, the curve, what grew between two recordings, and in which format.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::{Folded, is_python},
    memory::{self, Heap, KINDS, Memory, ask, ensure_within, line_of, number, sources},
    python,
    recorder::Taken,
    serial::serial,
    workload::{self, Workload},
};
use serde_json::Value;

const MIB: i64 = 1 << 20;

fn start() -> Result<Workload> {
    memory::run(&python::any()?, "stages.py", &[])
}

fn line(comment: &str) -> Result<u32> {
    line_of("stages.py", comment)
}

/// Does a few things and returns the bytes of each, as the workload knows them.
fn steps(workload: &mut Workload, steps: &[&str]) -> Result<Vec<i64>> {
    steps
        .iter()
        .map(|step| Ok(ask(workload, step)?["bytes"].as_i64().unwrap_or(0)))
        .collect()
}

/// A recording with one report, in folded text.
fn folded(arguments: &[&str], things: &[&str]) -> Result<(Folded, Vec<i64>)> {
    let mut workload = start()?;
    let attached = Memory::command(&["-p", &workload.pid.to_string(), "-f", "folded", "-o", "-"])?
        .args(arguments)
        .start()?;
    let known = steps(&mut workload, things)?;
    Ok((attached.stop()?.outcome.folded()?, known))
}

/// The bytes of folded stacks whose Python frame nearest the leaf is this line.
fn bytes_at(folded: &Folded, line: u32) -> Result<i64> {
    let frame = format!("(stages.py:{line})");
    let bytes = folded.count(|stack| {
        let python = stack.iter().rev().find(|frame| is_python(frame));
        python.is_some_and(|python| python.ends_with(&frame))
    });
    Ok(i64::try_from(bytes)?)
}

#[test]
fn live_and_allocated_are_two_reports_of_one_recording() -> Result<()> {
    let _serial = serial();
    let (live, known) = folded(&["--live"], &["old", "peak", "release"])?;
    ensure_within("old", bytes_at(&live, line("# old")?)?, known[0], 0.05).with_context(|| live.to_string())?;
    ensure!(bytes_at(&live, line("# the peak")?)? < MIB, "{live}");
    let (allocated, known) = folded(&["--allocated"], &["old", "peak", "release"])?;
    for (comment, known) in [("# old", known[0]), ("# the peak", known[1])] {
        ensure_within(comment, bytes_at(&allocated, line(comment)?)?, known, 0.05)
            .with_context(|| allocated.to_string())?;
    }
    Ok(())
}

/// Lets time pass, which is what ages and curves are about: nothing is waited for.
fn pass(seconds: f64) {
    thread::sleep(Duration::from_secs_f64(seconds));
}

#[test]
fn leaks_are_as_old_as_asked_for() -> Result<()> {
    let _serial = serial();
    let mut workload = start()?;
    let attached = Memory::command(&["-p", &workload.pid.to_string(), "--leaks", "--older-than", "2s"])?
        .args(["-f", "folded", "-o", "-"])
        .start()?;
    let old = steps(&mut workload, &["old"])?[0];
    pass(2.5);
    steps(&mut workload, &["young"])?;
    let leaks = attached.stop()?.outcome.folded()?;
    ensure_within("old", bytes_at(&leaks, line("# old")?)?, old, 0.05).with_context(|| leaks.to_string())?;
    ensure!(bytes_at(&leaks, line("# young")?)? < MIB, "{leaks}");
    Ok(())
}

#[test]
fn the_peak_is_what_was_there_when_most_was() -> Result<()> {
    let _serial = serial();
    let (peak, known) = folded(&["--peak"], &["old", "peak", "release", "young"])?;
    for (comment, known) in [("# old", known[0]), ("# the peak", known[1])] {
        ensure_within(comment, bytes_at(&peak, line(comment)?)?, known, 0.05).with_context(|| peak.to_string())?;
    }
    ensure!(bytes_at(&peak, line("# young")?)? < MIB, "it came later\n{peak}");
    Ok(())
}

#[test]
fn temporary_is_what_came_and_went() -> Result<()> {
    let _serial = serial();
    let (temporary, known) = folded(&["--temporary"], &["old", "come and go"])?;
    let bytes = bytes_at(&temporary, line("# comes and goes")?)?;
    ensure_within("come and go", bytes, known[1], 0.05).with_context(|| temporary.to_string())?;
    ensure!(bytes_at(&temporary, line("# old")?)? < MIB, "{temporary}");
    Ok(())
}

/// Recorded with a curve of half seconds, while things happen one after another.
fn curve(ending: &str) -> Result<(String, Taken, Vec<i64>)> {
    let mut workload = start()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join(format!("curve.{ending}"));
    let attached = Memory::command(&["-p", &workload.pid.to_string(), "--every", "500ms", "--curve"])?
        .arg(&file)
        .start()?;
    let mut known = Vec::new();
    for step in ["old", "peak", "release"] {
        known.extend(steps(&mut workload, &[step])?);
        // A snapshot of this step, whenever the last one was taken.
        pass(1.2);
    }
    let taken = attached.stop()?;
    Ok((fs::read_to_string(&file)?, taken, known))
}

/// The live bytes of all, snapshot by snapshot.
fn ensure_rises_and_falls(live: &[i64], known: &[i64]) -> Result<()> {
    let most = live.iter().copied().max().context("no snapshots")?;
    ensure_within("the highest", most, known[0] + known[1], 0.1)?;
    ensure_within("the last", *live.last().context("no snapshots")?, known[0], 0.15)?;
    ensure!(live.len() >= 6, "{} snapshots in 3.6 s", live.len());
    Ok(())
}

#[test]
fn the_curve_rises_and_falls_with_what_is_live() -> Result<()> {
    let _serial = serial();
    let (text, taken, known) = curve("csv")?;
    let mut lines = text.lines();
    ensure!(lines.next() == Some("time_s,series,bytes"), "{text}");
    let live: Vec<i64> = lines
        .filter_map(|line| Some(line.split_once(",[live],")?.1.parse()))
        .collect::<Result<_, _>>()?;
    ensure_rises_and_falls(&live, &known).with_context(|| text.clone())?;
    // The same in the terminal: blocks of a sparkline.
    let shown = String::from_utf8_lossy(&taken.outcome.stdout).into_owned() + &taken.outcome.stderr;
    ensure!(shown.contains('█') && shown.contains('▁'), "{shown}");
    Ok(())
}

#[test]
fn the_curve_is_json_where_its_name_says_so() -> Result<()> {
    let _serial = serial();
    let (text, _, known) = curve("json")?;
    let json: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let series = json["series"].as_array().context("no series")?;
    let live = series.iter().find(|series| series["name"] == "[live]");
    let live = live
        .and_then(|live| live["bytes"].as_array())
        .context("no live bytes")?;
    let live: Vec<i64> = live.iter().filter_map(Value::as_i64).collect();
    ensure!(json["times_s"].as_array().map(Vec::len) == Some(live.len()), "{text}");
    ensure_rises_and_falls(&live, &known).with_context(|| text.clone())
}

#[test]
fn with_a_base_only_what_grew_since_is_shown() -> Result<()> {
    let _serial = serial();
    let mut workload = start()?;
    let target = workload.pid.to_string();
    let attached = Memory::record(&["-p", &target])?.start()?;
    steps(&mut workload, &["old", "young"])?;
    let base = attached.stop()?;
    let attached = Memory::command(&["-p", &target, "-f", "json", "-o", "-", "--base"])?
        .arg(base.file("heap.pb.gz"))
        .start()?;
    // The same again, and as much more at one line.
    let known = steps(&mut workload, &["old", "young", "old"])?;
    let table: Value = serde_json::from_slice(&attached.stop()?.outcome.stdout).context("the table is not JSON")?;
    let change = |comment: &str| -> Result<i64> {
        let line = line(comment)?;
        let rows = table["rows"].as_array().context("no rows")?;
        let row = rows.iter().find(|row| row["line"] == line);
        number(
            row.with_context(|| format!("no line {line} in {table:#}"))?,
            "/change_bytes",
        )
    };
    ensure_within("old", change("# old")?, known[0], 0.05)?;
    ensure!(change("# young")?.abs() < MIB / 2, "{table:#}");
    Ok(())
}

#[test]
fn every_format_has_the_same_bytes() -> Result<()> {
    let _serial = serial();
    let directory = tempfile::tempdir()?;
    for ending in ["svg", "folded", "speedscope.json", "pb.gz"] {
        let mut workload = start()?;
        let file = directory.path().join(format!("heap.{ending}"));
        let attached = Memory::command(&["-p", &workload.pid.to_string(), "-o"])?
            .arg(&file)
            .start()?;
        let known = steps(&mut workload, &["old"])?[0];
        let taken = attached.stop()?;
        ensure!(
            taken.outcome.stdout.is_empty(),
            "{ending}: something on standard output"
        );
        let bytes = bytes_of_old(&file, ending).with_context(|| ending.to_owned())?;
        ensure_within(ending, bytes, known, 0.05)?;
    }
    Ok(())
}

fn bytes_of_old(file: &Path, ending: &str) -> Result<i64> {
    let line = line("# old")?;
    match ending {
        "folded" => bytes_at(&Folded::parse(&fs::read_to_string(file)?)?, line),
        "pb.gz" => Ok(Heap::load(file)?.line("stages.py", line).live.bytes),
        "speedscope.json" => {
            let document: Value = serde_json::from_slice(&fs::read(file)?)?;
            let profiles = document["profiles"].as_array().context("no profiles")?;
            let frames = document["shared"]["frames"].as_array().context("no frames")?;
            let mut bytes = 0;
            // What the recording shows comes first, and after it what else there is.
            let counts = |profile: &Value| {
                let name = profile["name"].as_str().unwrap_or_default();
                name.rsplit_once(" · ").map(|(_, value)| value.to_owned())
            };
            ensure!(counts(&profiles[0]).is_some(), "{}", profiles[0]["name"]);
            for profile in profiles
                .iter()
                .filter(|profile| counts(profile) == counts(&profiles[0]))
            {
                ensure!(profile["unit"] == "bytes", "the unit is {}", profile["unit"]);
                let samples = profile["samples"].as_array().context("no samples")?;
                let weights = profile["weights"].as_array().context("no weights")?;
                for (stack, weight) in samples.iter().zip(weights) {
                    let is_old = |frame: &Value| {
                        let frame = frame.as_u64().and_then(|frame| frames.get(frame as usize));
                        frame.is_some_and(|frame| {
                            frame["line"] == line || frame["name"].as_str().is_some_and(|name| name.starts_with("old"))
                        })
                    };
                    if stack.as_array().context("no stack")?.iter().any(is_old) {
                        bytes += weight.as_i64().context("no weight")?;
                    }
                }
            }
            Ok(bytes)
        }
        _ => {
            let output = Command::new("python3.11")
                .arg(workload::sources().join("read_svg.py"))
                .arg(file)
                .output()?;
            ensure!(output.status.success(), "not XML");
            let titles: Vec<Option<String>> = serde_json::from_slice(&output.stdout)?;
            let wanted = format!("/stages.py:{line})");
            let title = titles.iter().flatten().find(|title| title.contains(&wanted));
            let title = title.with_context(|| format!("no {wanted} in {titles:?}"))?;
            // `old (tmp/profiler-e2e-1/stages.py:37) (8.0 MiB, 97.2%)`: for people.
            let value = title.rsplit_once(" (").context("no value")?.1;
            let mut words = value.split(|c: char| c.is_whitespace() || c == ',');
            let number: f64 = words.next().context("no value")?.parse()?;
            ensure!(words.next() == Some("MiB"), "not in MiB: {title}");
            Ok((number * MIB as f64) as i64)
        }
    }
}

#[test]
fn pprof_has_the_conventions_of_heap_profiles_for_another_reader() -> Result<()> {
    let _serial = serial();
    let mut workload = start()?;
    let attached = Memory::record(&["-p", &workload.pid.to_string()])?.start()?;
    let known = steps(&mut workload, &["old", "peak", "release"])?;
    let taken = attached.stop()?;
    let output = Command::new("python3.11")
        .arg(sources().join("read_heap.py"))
        .arg(taken.file("heap.pb.gz"))
        .output()?;
    ensure!(
        output.status.success(),
        "the independent reader failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found: Value = serde_json::from_slice(&output.stdout)?;
    for (kind, unit) in KINDS.iter().zip(["count", "bytes", "count", "bytes"]) {
        let kinds = found["kinds"].as_array().context("no kinds")?;
        ensure!(
            kinds.contains(&serde_json::json!([kind, unit])),
            "no {kind} in {unit}: {kinds:?}"
        );
    }
    // What a reader shows first is what still is there.
    ensure!(found["default"] == "inuse_space", "{}", found["default"]);
    let at = |comment: &str, kind: &str| -> Result<i64> {
        let pointer = format!("/lines/stages.py:{}/{kind}", line(comment)?);
        number(&found, &pointer)
    };
    ensure_within("old", at("# old", "inuse_space")?, known[0], 0.05)?;
    ensure_within("the peak, allocated", at("# the peak", "alloc_space")?, known[1], 0.05)?;
    ensure!(at("# the peak", "inuse_space")? < MIB, "{found}");
    // And for ours the same.
    let ours = taken.heap()?.total();
    ensure!(
        number(&found, "/totals/inuse_space")? == ours.live.bytes
            && number(&found, "/totals/alloc_objects")? == ours.allocated.count,
        "{} and {ours:?}",
        found["totals"]
    );
    Ok(())
}

#[test]
fn the_table_names_lines_functions_files_and_processes() -> Result<()> {
    let _serial = serial();
    for (by, name) in [
        ("line", format!("stages.py:{}", line("# old")?)),
        ("function", "old".to_owned()),
        ("file", "stages.py".to_owned()),
        ("module", "stages".to_owned()),
        // What it runs, and not the interpreter that runs it.
        ("thread", "  main thread of stages.py (PID)".to_owned()),
        ("process", "  stages.py (PID)".to_owned()),
    ] {
        let mut workload = start()?;
        let name = name.replace("PID", &workload.pid.to_string());
        let attached = Memory::command(&["-p", &workload.pid.to_string(), "--by", by, "--top", "3"])?.start()?;
        steps(&mut workload, &["old"])?;
        let taken = attached.stop()?;
        let rows = memory::rows(&taken)?;
        ensure!(
            rows.first()
                .is_some_and(|row| row.contains(&name) && row.contains("8.0 MiB")),
            "--by {by}: no {name} with 8.0 MiB in the first row of\n{}",
            rows.join("\n")
        );
    }
    Ok(())
}
