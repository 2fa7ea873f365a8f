//! The build without a GIL, where `cargo xtask pythons --free-threaded` has made one.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    dump::Dump,
    folded::has,
    memory::Memory,
    profiler::Profiler,
    python,
    serial::serial,
    waits::{self, Waits},
    whole::record,
    workload::Workload,
};

use crate::RATE;

/// `PYTHON_GIL`: off, which is how it comes, and on.
const OFF: &[(&str, &str)] = &[];
const ON: &[(&str, &str)] = &[("PYTHON_GIL", "1")];

#[test]
fn without_a_gil_threads_have_their_python_frames_and_whole_native_stacks() -> Result<()> {
    let _serial = serial();
    let Some(python) = python::free_threaded()? else {
        return Ok(());
    };
    let workload = Workload::python_with(&python, "musl.py", OFF)?;
    let recorded = record(workload.pid, 1.5, RATE)?;
    let folded = &recorded.folded;
    for function in ["main_work", "other_work"] {
        let share = folded.share_of(function);
        ensure!((0.2..0.8).contains(&share), "{function}: {share}\n{folded}");
    }
    let with_python = folded.share(|stack| has(stack, "main_work") != has(stack, "other_work"));
    ensure!(
        with_python > 0.97,
        "{with_python} have Python frames of one thread\n{folded}"
    );
    let complete = recorded.native.share();
    ensure!(complete >= 0.97, "{complete} are complete\n{}", recorded.outcome.stderr);
    Ok(())
}

#[test]
fn of_a_gil_that_is_off_nothing_is_told_but_that_and_of_one_that_is_on_who_has_it_and_who_waits() -> Result<()> {
    let _serial = serial();
    let Some(python) = python::free_threaded()? else {
        return Ok(());
    };
    for (environment, is_on) in [(OFF, false), (ON, true)] {
        let workload = Workload::python_with(&python, "musl.py", environment)?;
        // Two threads that never wait for anything else.
        let (mut waiting, mut holding) = (0, 0);
        for _ in 0..5 {
            let dump = Dump::of(workload.pid, &[])?;
            ensure!(dump.threads.len() == 2, "{:#?}", dump.threads);
            waiting += dump.threads.iter().filter(|thread| thread["state"] == "gil").count();
            holding += dump.threads.iter().filter(|thread| thread["owns_gil"] == true).count();
        }
        let outcome = waits::attach(&["-p", &workload.pid.to_string(), "-d", "1"])?.finish()?;
        let says_it_is_off = outcome.stderr.contains("runs without a GIL");
        let waits = Waits::of(outcome)?;
        waits.ensure_adds_up()?;
        let waited: u64 = waits
            .threads()?
            .iter()
            .filter_map(|thread| thread["waiting_ns"]["gil"].as_u64())
            .sum();
        ensure!(
            is_on != says_it_is_off
                && is_on == (waiting >= 2)
                && is_on == (holding >= 2)
                && is_on == (waited > 50_000_000),
            "on: {is_on}; {waiting} waited and {holding} had it in 5 looks, then {waited} ns; said that it is off: \
             {says_it_is_off}"
        );
        ensure!(is_on || waiting + holding == 0 && waited == 0, "of a GIL that is off");
    }
    Ok(())
}

#[test]
fn what_is_not_supported_without_a_gil_is_refused_by_name() -> Result<()> {
    let _serial = serial();
    let Some(python) = python::free_threaded()? else {
        return Ok(());
    };
    let workload = Workload::python_with(&python, "musl.py", OFF)?;
    let pid = workload.pid.to_string();
    for (arguments, said) in [
        (&["objects"][..], "free-threaded"),
        (&["exceptions", "-d", "1"], "free-threaded"),
        (&["imports", "-d", "1"], "free-threaded"),
    ] {
        let outcome = Profiler::bare().args(arguments).args(["-p", &pid]).run()?;
        ensure!(outcome.code() != 0, "{arguments:?} went well: {}", outcome.stderr);
        ensure!(outcome.stderr.contains(said), "{arguments:?}: {}", outcome.stderr);
    }
    let recorded = Profiler::record(&["-p", &pid, "--gil", "-d", "1", "-f", "folded", "-o", "-"]).run()?;
    recorded
        .line("whose threads need no GIL")
        .context("no word of the GIL")?;
    ensure!(!recorded.stderr.contains("GIL was held"), "{}", recorded.stderr);
    Ok(())
}

#[test]
fn memory_is_told_by_page_without_a_gil_and_that_is_said() -> Result<()> {
    let _serial = serial();
    let Some(python) = python::free_threaded()? else {
        return Ok(());
    };
    let workload = Workload::python_with(&python, "keeps.py", OFF)?;
    let taken = Memory::record(&["-p", &workload.pid.to_string(), "-d", "2"])?.succeed()?;
    ensure!(
        taken.outcome.stderr.contains("allocates with mimalloc"),
        "{}",
        taken.outcome.stderr
    );
    Ok(())
}
