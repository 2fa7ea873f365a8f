//! Exact mode counts what an independent counter counts, keeps to its budget, and says what it cannot see.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    memory::{self, Memory, ask, ensure_within, line_of, number},
    native::compile,
    python::{self, Python},
    recorder::Taken,
    serial::serial,
    workload::Workload,
};
use serde_json::Value;

/// Some sixteen allocations each.
const TURNS: &str = "20000";
const MEGA: f64 = 1e6;

/// pyenv's are built without profile-guided optimization: every allocation is a call.
fn unoptimized() -> Result<Vec<Python>> {
    let mut pythons = python::all()?;
    pythons.retain(|python| python.root.is_none() && python.executable.to_string_lossy().contains("pyenv"));
    Ok(pythons)
}

fn counted(python: &Python, counter: &Path, arguments: &[&str]) -> Result<(Workload, Value, Taken)> {
    let counter = counter.to_string_lossy();
    let mut workload = memory::run(python, "counted.py", &[&counter, TURNS])?;
    let attached = Memory::record(&["--exact", "--max-overhead", "1000", "-p", &workload.pid.to_string()])?
        .args(arguments)
        .start()?;
    let truth = ask(&mut workload, "go")?;
    let taken = attached.stop()?;
    Ok((workload, truth, taken))
}

fn counter() -> Result<(tempfile::TempDir, std::path::PathBuf)> {
    compile(
        "memory/counter.c",
        "counter.so",
        &["-shared".to_owned(), "-fPIC".to_owned()],
    )
}

fn ensure_equal(what: &str, found: f64, known: i64) -> Result<()> {
    ensure!(
        (found - known as f64).abs() <= known as f64 * 0.001,
        "{what}: {found}, but {known} were counted"
    );
    Ok(())
}

#[test]
fn exact_counts_and_bytes_are_those_of_an_independent_counter() -> Result<()> {
    let _serial = serial();
    let (_directory, counter) = counter()?;
    python::each_of(&unoptimized()?, |python| {
        let (_workload, truth, taken) = counted(python, &counter, &[])?;
        let shown = || format!("{truth}\n{}", taken.outcome.stderr);
        for what in ["allocations", "frees"] {
            let known = number(&truth, &format!("/outer/{what}"))?;
            ensure_equal(what, taken.summary.exact(what)?, known).with_context(shown)?;
        }
        let heap = taken.heap()?;
        let total = heap.total().allocated;
        ensure_equal(
            "allocations in the profile",
            total.count as f64,
            number(&truth, "/outer/allocations")?,
        )
        .with_context(shown)?;
        ensure_equal(
            "bytes in the profile",
            total.bytes as f64,
            number(&truth, "/outer/bytes")?,
        )
        .with_context(shown)?;
        let kept = heap.line("counted.py", line_of("counted.py", "# kept")?);
        ensure_equal("live objects", kept.live.count as f64, number(&truth, "/kept/count")?)
            .with_context(|| heap.top())?;
        ensure_equal("live bytes", kept.live.bytes as f64, number(&truth, "/kept/bytes")?)
            .with_context(|| heap.top())?;
        let live = heap.total().live;
        let known = number(&truth, "/outer/allocations")? - number(&truth, "/outer/frees")?;
        ensure!(
            (live.count - known).abs() <= known / 100,
            "{} objects are live, {known} were not freed\n{}",
            live.count,
            heap.top()
        );
        let lost = taken.summary.lost_memory()?;
        ensure!(lost.is_empty(), "lost: {lost:?}");
        println!(
            "{python}: {:.2} M allocations counted",
            taken.summary.exact("allocations")? / MEGA
        );
        Ok(())
    })
}

/// Nothing wraps the allocators here: Debian's and sid's builds inline the fast path at hundreds of places.
#[test]
fn an_optimized_build_is_told_to_hide_allocations() -> Result<()> {
    let _serial = serial();
    let mut pythons = python::all()?;
    pythons.retain(|python| !python.executable.to_string_lossy().contains("pyenv"));
    python::each_of(&pythons, |python| {
        let mut workload = memory::run(python, "leak.py", &["1", "8"])?;
        let attached =
            Memory::record(&["--exact", "--max-overhead", "1000", "-p", &workload.pid.to_string()])?.start()?;
        ask(&mut workload, "go")?;
        let taken = attached.stop()?;
        let hidden = taken.summary.hidden_share()?;
        ensure!(hidden > 0.1 && hidden <= 1.0, "{hidden}: {}", taken.outcome.stderr);
        let said = taken.outcome.stderr.to_lowercase();
        ensure!(
            said.contains("inlined") && said.contains("without --exact"),
            "it does not say so: {said}"
        );
        Ok(())
    })
}

#[test]
fn a_budget_that_is_spent_ends_the_tracing_and_not_the_target() -> Result<()> {
    let _serial = serial();
    let (_directory, counter) = counter()?;
    let python = python::any()?;
    // All it does is allocate, so there is no way to stay below.
    let mut workload = memory::run(
        &python,
        "counted.py",
        &[&counter.to_string_lossy(), "400000", "uncounted"],
    )?;
    let attached = Memory::record(&["--exact", "--max-overhead", "1.05", "-p", &workload.pid.to_string()])?.start()?;
    ask(&mut workload, "go")?;
    ensure!(workload.is_running()?, "the target has ended");
    let taken = attached.stop()?;
    taken.outcome.line("--max-overhead")?;
    let counted = taken.summary.exact("allocations")?;
    ensure!(counted < 6.0 * MEGA, "it went on for all of {counted} allocations");
    Ok(())
}

#[test]
fn a_table_that_is_full_says_so() -> Result<()> {
    let _serial = serial();
    let (_directory, counter) = counter()?;
    let (_workload, truth, taken) = counted(&python::any()?, &counter, &["--max-live", "5000"])?;
    ensure!(
        !taken.summary.lost_memory()?.is_empty(),
        "20,000 blocks in 5,000 places, and nothing lost: {}",
        taken.outcome.stderr
    );
    // The calls are counted all the same.
    ensure_equal(
        "allocations",
        taken.summary.exact("allocations")?,
        number(&truth, "/outer/allocations")?,
    )
}

#[test]
fn the_libc_s_allocations_are_counted_with_native() -> Result<()> {
    let _serial = serial();
    let (_directory, program) = compile("memory/grow.c", "grower", &[])?;
    let mut workload = Workload::command(std::process::Command::new(&program), None)?;
    // Blocks of 1,000 bytes, and 8 bytes of each for malloc, which nobody asked for.
    let blocks = number(&workload.truth[0], "/bytes")? / number(&workload.truth[0], "/block")?;
    let attached = Memory::record(&[
        "--exact",
        "--native",
        "--max-overhead",
        "1000",
        "-p",
        &workload.pid.to_string(),
    ])?
    .start()?;
    ask(&mut workload, "grow")?;
    let heap = attached.stop()?.heap()?;
    let leaking = heap.function("leaking");
    for amount in [leaking.allocated, leaking.live] {
        ensure_within("bytes", amount.bytes, blocks * 1000, 0.001).with_context(|| heap.top())?;
        ensure_within("blocks", amount.count, blocks, 0.001).with_context(|| heap.top())?;
    }
    Ok(())
}
