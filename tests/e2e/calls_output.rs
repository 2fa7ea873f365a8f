//! What is written is read by those it is for: pstats, a reader of CSV, and people.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    calls::{self, Calls, Counts, Place, WITHOUT_END},
    python::{self, Python},
    serial::serial,
};
use serde_json::Value;

const ROUNDS: u64 = 5;
const PAGES: u64 = 20;
/// One for the orders of a page, and one for each of them.
const STATEMENTS: u64 = PAGES * 101;

/// Has counted.py counted to a file, which that interpreter reads with a script of ours.
fn written(python: &Python, name: &str, reader: &str) -> Result<(Value, Counts)> {
    let mut workload = calls::run(python, "counted.py", &[&ROUNDS.to_string()])?;
    let attached = Calls::to(name, &["-p", &workload.pid.to_string()])?
        .args(WITHOUT_END)
        .start()?;
    workload.tell("go")?;
    workload.expect("DONE")?;
    let taken = attached.stop()?;
    let read = calls::read_with(python, reader, &taken.file(name)).context(taken.outcome.stderr.clone())?;
    let mut truth = Counts::of_cprofile(python, ROUNDS)?;
    // See calls_counts.rs.
    truth
        .0
        .retain(|place, _| !["closed", "freed"].contains(&place.name.as_str()));
    Ok((read, truth))
}

/// As reports have it where primitive calls are unknown: all are taken to be.
fn ensure_counts(mut found: Counts, truth: &Counts) -> Result<()> {
    // Who called, and was not called, has no calls to pstats.
    found.0.retain(|place, (calls, _)| {
        let is_ours = ["counted.py", "<made>"].contains(&place.file.as_str());
        is_ours && *calls > 0 && !["closed", "freed"].contains(&place.name.as_str())
    });
    for (_, primitive) in found.0.values_mut() {
        *primitive = None;
    }
    let differences = found.differences(truth);
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

#[test]
fn pstats_reads_the_counts_with_every_interpreter() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let (read, truth) = written(python, "calls.pstats", "read_pstats.py")?;
        let total: u64 = read["rows"]
            .as_array()
            .context("no rows")?
            .iter()
            .filter_map(|row| row[3].as_u64())
            .sum();
        ensure!(
            read["total"].as_u64() == Some(total),
            "total_calls is {}",
            read["total"]
        );
        ensure_counts(Counts::from_json(&read["rows"])?, &truth)
    })
}

/// What chosen functions took is cProfile's cumtime.
#[test]
fn pstats_reads_the_times_and_the_recursion_of_chosen_functions() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let mut workload = calls::run(&python, "counted.py", &[&ROUNDS.to_string()])?;
    let attached = Calls::to(
        "calls.pstats",
        &[
            "-p",
            &workload.pid.to_string(),
            "--function",
            "factorial",
            "--via",
            "probes",
        ],
    )?
    .args(WITHOUT_END)
    .start()?;
    workload.tell("go")?;
    workload.expect("DONE")?;
    let taken = attached.stop()?;
    let read = calls::read_with(&python, "read_pstats.py", &taken.file("calls.pstats"))?;
    let rows = read["rows"].as_array().context("no rows")?;
    let row = rows.iter().find(|row| row[2] == "factorial");
    let row = row.with_context(|| format!("no factorial in {read}"))?;
    ensure!(
        row[3] == 30 * ROUNDS && row[4] == ROUNDS,
        "{row}: not {} calls, {ROUNDS} of them primitive",
        30 * ROUNDS
    );
    // Thirty calls of a few instructions: more than nothing, and less than the whole.
    let seconds = row[5].as_f64().context("no time")?;
    ensure!(seconds > 0.0 && seconds < 1.0, "{seconds} s");
    Ok(())
}

#[test]
fn a_reader_of_csv_gets_the_counts() -> Result<()> {
    let _serial = serial();
    let (read, truth) = written(&python::any()?, "calls.csv", "read_csv.py")?;
    let mut found = Counts::default();
    for row in read.as_array().context("no rows")? {
        let text = |name: &str| row[name].as_str().with_context(|| format!("no {name} in {row}"));
        let Ok(calls) = text("ncalls")?.parse::<u64>() else {
            continue;
        };
        let place = Place::new(text("file")?, text("line")?.parse().unwrap_or(0), text("function")?);
        found.0.entry(place).or_insert((0, None)).0 += calls;
    }
    ensure_counts(found, &truth)
}

#[test]
fn an_n_plus_1_query_is_in_the_first_rows_with_its_exact_count() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let mut workload = calls::run(python, "orm.py", &[&PAGES.to_string()])?;
        let attached = Calls::command(&["-p", &workload.pid.to_string(), "-d", "3"])?.start()?;
        workload.tell("go")?;
        let said = workload.value()?;
        ensure!(said["statements"] == STATEMENTS, "{said}");
        let taken = attached.finish()?.success()?;
        let rows = calls::rows(&taken)?;
        let name = if python.version >= (3, 11) {
            "(Session.execute)"
        } else {
            "(execute)"
        };
        let row = rows.iter().take(5).find(|row| row.contains(name));
        let row = row.with_context(|| format!("no {name} in the first rows:\n{}", rows.join("\n")))?;
        let calls = row.split_whitespace().next().context("an empty row")?;
        ensure!(
            calls.replace([',', '\u{202f}', '\u{a0}', '_'], "") == STATEMENTS.to_string(),
            "{calls} calls, not {STATEMENTS}: {row}"
        );
        ensure!(row.contains("orm.py:"), "{row}");
        Ok(())
    })
}

/// The issue's own example: by module, with times.
#[test]
fn the_function_behind_an_n_plus_1_query_is_timed_by_its_name() -> Result<()> {
    let _serial = serial();
    let mut workload = calls::run(&python::any()?, "orm.py", &[&PAGES.to_string()])?;
    let arguments = [
        "-p",
        &workload.pid.to_string(),
        "-d",
        "3",
        "--function",
        "orm:Session.execute",
    ];
    let attached = Calls::record(&arguments)?.start()?;
    workload.tell("go")?;
    workload.value()?;
    let taken = attached.finish()?.success()?;
    let report = taken.report()?;
    let execute = report.function("orm.py", "execute")?;
    ensure!(
        execute.calls == Some(STATEMENTS) && execute.is_exact,
        "{:?} calls\n{}",
        execute.calls,
        taken.outcome.stderr
    );
    let times = execute.times.as_ref().context("not timed")?;
    ensure!(times["count"] == STATEMENTS, "{times}");
    Ok(())
}

#[test]
fn sort_and_top_choose_the_rows() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    for sort in ["ncalls", "tottime", "cumtime", "percall"] {
        let mut workload = calls::run(&python, "busy.py", &[])?;
        let attached = Calls::command(&["-p", &workload.pid.to_string(), "--sort", sort, "--top", "3"])?
            .args(WITHOUT_END)
            .start()?;
        workload.tell("2000")?;
        workload.value()?;
        let taken = attached.stop()?;
        let rows = calls::rows(&taken)?;
        // And what the others come to.
        ensure!(
            rows.len() == 4,
            "--sort {sort}: {} rows:\n{}",
            rows.len(),
            rows.join("\n")
        );
        if sort == "ncalls" {
            ensure!(rows[0].contains("(numbers)"), "{}", rows.join("\n"));
        }
    }
    Ok(())
}
