//! A known leak is found where it is, in the size it has, and what is given back is gone from the report.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    memory::{self, Account, Memory, Resident, Taken, ask, ensure_within, line_of, number},
    python::{self, Python},
    serial::serial,
    venv,
    workload::Workload,
};
use serde_json::Value;

/// Rounds of leak.py: two to eight seconds, by the interpreter's speed.
const ROUNDS: &str = "300";
const MIB: i64 = 1 << 20;

/// Recorded while it leaked, with what is true.
struct Leaked {
    taken: Taken,
    truth: Value,
    numpy: bool,
    /// By the kernel's count.
    growth: i64,
}

fn leak(python: &Python, arguments: &[&str]) -> Result<Leaked> {
    let mut workload = memory::run_with(python, "leak.py", &[ROUNDS], |command| {
        if let Some(interpreter) = with_numpy(python) {
            let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            *command = std::process::Command::new(interpreter);
            command.args(arguments).env("PYTHONUTF8", "1");
        }
    })?;
    let numpy = workload.truth[0]["numpy"].as_bool().context("nothing about numpy")?;
    let before = Resident::of(workload.pid)?;
    let attached = Memory::record(&["-p", &workload.pid.to_string()])?
        .args(arguments)
        .start()?;
    let truth = ask(&mut workload, "go")?;
    let growth = Resident::of(workload.pid)?.all - before.all;
    let taken = attached.stop()?;
    println!(
        "{python}: first sample after {:?}, detached and written in {:.0} ms",
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

/// The three lines and what they leaked, in the words of leak.py.
fn lines(leaked: &Leaked) -> Result<[(&'static str, Account); 3]> {
    let heap = leaked.taken.heap()?;
    let arrays = if leaked.numpy {
        "# arrays of numpy"
    } else {
        "# arrays of bytes"
    };
    let line = |comment| Ok::<_, anyhow::Error>(heap.line("leak.py", line_of("leak.py", comment)?));
    Ok([
        ("small", line("# small objects")?),
        ("large", line("# large bytes")?),
        ("arrays", line(arrays)?),
    ])
}

#[test]
fn each_line_of_a_leak_has_its_bytes_within_five_per_cent() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let leaked = leak(python, &[])?;
        let top = || {
            leaked
                .taken
                .heap()
                .map_or_else(|error| error.to_string(), |heap| heap.top())
        };
        for (name, account) in lines(&leaked)? {
            let known = number(&leaked.truth, &format!("/{name}/bytes"))?;
            ensure_within(name, account.live.bytes, known, 0.05).with_context(top)?;
            ensure!(
                account.allocated.bytes >= account.live.bytes,
                "{name}: {account:?}: more is left than came"
            );
        }
        Ok(())
    })
}

/// The kernel's growth is the sum of what the rows have: all of them, so what cannot be said is a row, too.
#[test]
fn the_growth_of_a_leaking_process_is_explained() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let leaked = leak(python, &[])?;
        let (summary, growth) = (&leaked.taken.summary, leaked.growth);
        ensure!(growth > 130 * MIB, "it grew by {growth} only");
        ensure_within("the summary's growth", summary.growth()? as i64, growth, 0.01)?;
        let explained = summary.explained()?;
        ensure!(
            (0.95..=1.05).contains(&explained),
            "{:.1} % explained: {}",
            explained * 100.0,
            leaked.taken.outcome.stderr
        );
        let live = leaked.taken.heap()?.total().live.bytes;
        ensure_within("live of all rows", live, growth, 0.05).with_context(|| leaked.taken.outcome.stderr.clone())?;
        ensure!(summary.lost().is_empty(), "lost: {:?}", summary.lost());
        Ok(())
    })
}

/// The churn's working set was resident before: what it allocates is not growth, and 1 MiB is a tenth of what it has in
/// use at any moment.
#[test]
fn what_churns_has_nearly_nothing_live() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let leaked = leak(python, &[])?;
        let heap = leaked.taken.heap()?;
        let churn = heap.function("churn");
        ensure!(
            churn.live.bytes < 2 * MIB,
            "{} bytes of the churn are live\n{}",
            churn.live.bytes,
            heap.top()
        );
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
    python::each(|python| {
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
    python::each(|python| {
        let (_workload, truth, _, taken) = hold(python, &["drop"])?;
        let heap = taken.heap()?;
        let account = heap.line("released.py", line_of("released.py", "# heap")?);
        ensure_within("heap", account.live.bytes, number(&truth, "/heap/bytes")?, 0.05).with_context(|| heap.top())?;
        let mapped = heap.line("released.py", line_of("released.py", "# mapped")?);
        ensure!(mapped.live.bytes < MIB, "{mapped:?}\n{}", heap.top());
        Ok(())
    })
}
