//! A known leak is found where it is, in the size it has, and what is given back is gone from the report.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    memory::{self, Memory, Resident, ask, ensure_within, line_of, number},
    python::{self, Python},
    recorder::{Recorder, Taken},
    serial::serial,
    venv,
    workload::Workload,
};
use serde_json::Value;

/// Rounds of leak.py, and MiB of each line: 48 MiB in 3.6 to six seconds, by the interpreter's speed. That is slow enough
/// for every fault to be followed.
const SLOWLY: [&str; 2] = ["300", "16"];
/// Twice as much in two thirds of the time, while 100,000 pages and pools a second come and go.
const IN_A_STORM: [&str; 4] = ["600", "32", "4", "storm"];
const MIB: i64 = 1 << 20;

/// Recorded while it leaked, with what is true.
struct Leaked {
    taken: Taken,
    truth: Value,
    numpy: bool,
    /// By the kernel's count.
    growth: i64,
}

fn leak(python: &Python, how: &[&str], recording: fn(&[&str]) -> Result<Recorder>) -> Result<Leaked> {
    let mut workload = memory::run_with(python, "leak.py", how, |command| {
        if let Some(interpreter) = with_numpy(python) {
            let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            *command = std::process::Command::new(interpreter);
            command.args(arguments).env("PYTHONUTF8", "1");
        }
    })?;
    let numpy = workload.truth[0]["numpy"].as_bool().context("nothing about numpy")?;
    let before = Resident::of(workload.pid)?;
    let attached = recording(&["-p", &workload.pid.to_string()])?.start()?;
    let truth = ask(&mut workload, "go")?;
    let growth = Resident::of(workload.pid)?.all - before.all;
    let taken = attached.stop()?;
    println!(
        "{python}: first sample after {:?} s, detached and written in {:.0} ms",
        taken.summary.number("/cost/first_sample_after_s").ok(),
        taken.ending.as_secs_f64() * 1e3
    );
    Ok(Leaked {
        taken,
        truth,
        numpy,
        growth,
    })
}

/// pyenv's have a virtual environment with it, if it can be had. Debian's and those in a root of their own have none, and
/// their arrays are bytearrays.
fn with_numpy(python: &Python) -> Option<PathBuf> {
    let pyenv = python.executable.to_string_lossy().contains("pyenv");
    (pyenv && python.root.is_none())
        .then(|| venv::with(python, &["numpy"]).ok().flatten())
        .flatten()
}

/// The three kinds of leak.py, and the numbers of their lines.
fn lines(leaked: &Leaked) -> Result<[(&'static str, u32); 3]> {
    let arrays = if leaked.numpy {
        "# arrays of numpy"
    } else {
        "# arrays of bytes"
    };
    Ok([
        ("small", line_of("leak.py", "# small objects")?),
        ("large", line_of("leak.py", "# large bytes")?),
        ("arrays", line_of("leak.py", arrays)?),
    ])
}

#[test]
fn a_leak_is_explained_and_each_line_of_it_has_its_bytes_within_five_per_cent() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let leaked = leak(python, &SLOWLY, Memory::record)?;
        let heap = leaked.taken.heap()?;
        let shown = || format!("{}\n{}", heap.top(), leaked.taken.outcome.stderr);
        for (name, line) in lines(&leaked)? {
            let account = heap.line("leak.py", line);
            let known = number(&leaked.truth, &format!("/{name}/bytes"))?;
            ensure_within(name, account.live.bytes, known, 0.05).with_context(shown)?;
            ensure!(
                account.allocated.bytes >= account.live.bytes,
                "{name}: {account:?}: more is left than came"
            );
        }
        // Its working set is half a MiB, and was resident before.
        let churn = heap.function("churn").live.bytes;
        ensure!(churn < MIB, "{churn} bytes of the churn are live\n{}", shown());

        let (summary, growth) = (&leaked.taken.summary, leaked.growth);
        ensure!(growth > 45 * MIB, "it grew by {growth} only");
        ensure_within("the summary's growth", summary.growth()? as i64, growth, 0.01)?;
        let explained = summary.explained()?;
        ensure!(
            (0.95..=1.05).contains(&explained),
            "{:.1} % explained: {}",
            explained * 100.0,
            shown()
        );
        ensure_within("live of all rows", heap.total().live.bytes, growth, 0.05).with_context(shown)?;
        let lost = summary.lost_memory()?;
        ensure!(lost.is_empty(), "lost: {lost:?}");
        Ok(())
    })
}

/// Where there is too much to follow it all, numbers have errors. They are 1.96 standard deviations; of some hundred numbers
/// that are looked at here, none should be off by twice that.
#[test]
#[ignore = "small objects are right within their error everywhere, but on two of ten interpreters that is ± 36 to 41 %"]
fn in_a_storm_of_pages_and_pools_each_line_is_within_its_error() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let table =
            |arguments: &[&str]| Ok(Memory::command(arguments)?.args(["-f", "json", "-o", "-", "--top", "1000"]));
        let leaked = leak(python, &IN_A_STORM, table)?;
        let outcome = &leaked.taken.outcome;
        let table: Value = serde_json::from_slice(&outcome.stdout).context("the table is not JSON")?;
        let rows = table["rows"].as_array().context("no rows")?;
        for (name, line) in lines(&leaked)? {
            let mut bytes = (0, 0);
            for row in rows.iter().filter(|row| row["line"] == line) {
                bytes.0 += number(row, "/inuse_bytes")?;
                bytes.1 += number(row, "/inuse_error_bytes")?;
            }
            let known = number(&leaked.truth, &format!("/{name}/pages"))?;
            let off = (bytes.0 - known).abs();
            // A per cent is for what lies between the lines.
            ensure!(
                off <= 2 * bytes.1 + known / 100,
                "{name}: {} ± {} bytes, but {known} are known\n{rows:#?}\n{}",
                bytes.0,
                bytes.1,
                outcome.stderr
            );
            ensure!(bytes.1 < known / 3, "{name}: ± {} says nothing of {known}", bytes.1);
        }
        Ok(())
    })
}

/// Up to here and on.
fn hold(python: &Python, steps: &[&str]) -> Result<(Workload, Value, i64, Taken)> {
    let mut workload = memory::run(python, "released.py", &[])?;
    let before = Resident::of(workload.pid)?;
    let attached = Memory::record(&["-p", &workload.pid.to_string()])?.start()?;
    let truth = ask(&mut workload, "hold")?;
    for step in steps {
        ask(&mut workload, step)?;
    }
    let growth = Resident::of(workload.pid)?.all - before.all;
    let taken = attached.stop()?;
    Ok((workload, truth, growth, taken))
}

const KINDS: [(&str, &str); 3] = [("small", "# small objects"), ("mapped", "# mapped"), ("heap", "# heap")];

#[test]
fn what_is_held_is_live() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let (_workload, truth, growth, taken) = hold(python, &[])?;
        let heap = taken.heap()?;
        for (name, comment) in KINDS {
            let account = heap.line("released.py", line_of("released.py", comment)?);
            let known = number(&truth, &format!("/{name}/bytes"))?;
            ensure_within(name, account.live.bytes, known, 0.05).with_context(|| heap.top())?;
        }
        ensure_within("all", heap.total().live.bytes, growth, 0.05).with_context(|| heap.top())
    })
}

/// Lists cleared, arrays dropped, the heap trimmed: all came, little is left, and it is as much as the kernel says.
#[test]
fn what_is_released_was_allocated_and_is_not_live() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let (_workload, truth, growth, taken) = hold(python, &["drop", "trim"])?;
        ensure!(growth < 4 * MIB, "the workload kept {growth} bytes itself");
        let heap = taken.heap()?;
        for (name, comment) in KINDS {
            let account = heap.line("released.py", line_of("released.py", comment)?);
            let known = number(&truth, &format!("/{name}/bytes"))?;
            ensure_within(name, account.allocated.bytes, known, 0.05).with_context(|| heap.top())?;
            ensure!(
                account.live.bytes < 2 * MIB,
                "{name}: {} bytes are live\n{}",
                account.live.bytes,
                heap.top()
            );
        }
        let live = heap.total().live.bytes;
        ensure!(
            (live - growth).abs() < 2 * MIB,
            "{live} bytes are live, {growth} resident\n{}",
            heap.top()
        );
        Ok(())
    })
}

/// free() below other blocks returns nothing: the process is as large as before, and who made it so is still named.
#[test]
fn what_malloc_keeps_stays_with_the_line_that_brought_it() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let (_workload, truth, _, taken) = hold(python, &["drop"])?;
        let heap = taken.heap()?;
        let account = heap.line("released.py", line_of("released.py", "# heap")?);
        ensure_within("heap", account.live.bytes, number(&truth, "/heap/bytes")?, 0.05).with_context(|| heap.top())?;
        let mapped = heap.line("released.py", line_of("released.py", "# mapped")?);
        ensure!(mapped.live.bytes < MIB, "{mapped:?}\n{}", heap.top());
        Ok(())
    })
}
