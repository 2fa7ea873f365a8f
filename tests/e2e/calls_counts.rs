//! Counts are those of CPython's own profiler, exactly: of recursion, generators, classes, callbacks from C, exceptions and
//! coroutines; of threads, of functions that are gone, and of processes that have ended.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    calls::{self, Calls, Counts, Place, Report, WITHOUT_END},
    python::{self, Python},
    recorder::Taken,
    serial::serial,
    workload::Workload,
};
use serde_json::Value;

const ROUNDS: u64 = 20;
/// counted.py's, and the file of the functions that it makes.
const FILES: [&str; 2] = ["counted.py", "<made>"];
/// Generators that counted.py leaves suspended, once a round each. Later releases resume them to be closed only while
/// somebody looks on, as cProfile does; 3.12.1 always does and 3.13.0 never (measured), so there both are the same.
const SUSPENDED: [&str; 2] = ["closed", "freed"];

fn counted(python: &Python, arguments: &[&str]) -> Result<Taken> {
    let mut workload = calls::run(python, "counted.py", &[&ROUNDS.to_string()])?;
    let attached = Calls::record(&["-p", &workload.pid.to_string()])?
        .args(WITHOUT_END)
        .args(arguments)
        .start()?;
    workload.tell("go")?;
    workload.expect("DONE")?;
    let taken = attached.stop()?;
    ensure!(workload.is_running()?, "the target has ended");
    Ok(taken)
}

/// What cProfile counts, or would if it did not change what happens.
fn truth(python: &Python) -> Result<Counts> {
    let mut truth = Counts::of_cprofile(python, ROUNDS)?;
    for (place, (calls, primitive)) in &mut truth.0 {
        if python.version >= (3, 13) && SUSPENDED.contains(&place.name.as_str()) {
            (*calls, *primitive) = (ROUNDS, Some(ROUNDS));
        }
    }
    Ok(truth)
}

fn ensure_equal(found: &Counts, truth: &Counts, taken: &Taken) -> Result<()> {
    let differences = found.differences(truth);
    ensure!(
        differences.is_empty(),
        "{} of {} functions differ ({} calls, not {}):\n{}\n{}",
        differences.len(),
        truth.0.len(),
        found.total(),
        truth.total(),
        differences[..differences.len().min(12)].join("\n"),
        taken.outcome.stderr
    );
    Ok(())
}

#[test]
fn calls_of_every_kind_are_counted_as_cprofile_counts_them() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let truth = truth(python)?;
        let taken = counted(python, &[])?;
        let report = taken.report()?;
        ensure_equal(&report.counts(&FILES)?, &truth, &taken)?;
        ensure!(report.whole["calls_exact"] == true, "{}", taken.outcome.stderr);
        let lost = taken.summary.lost()?;
        ensure!(lost.is_empty(), "lost: {lost:?}");
        println!("{python}: {} calls of {} functions", truth.total(), truth.0.len());
        Ok(())
    })
}

/// Those that are chosen, by name, by file and by the names of classes: what calls itself has primitive calls, too.
#[test]
fn recursion_of_chosen_functions_is_told_apart_as_cprofile_does() -> Result<()> {
    let _serial = serial();
    const CHOSEN: [(&str, &str); 6] = [
        ("factorial", "factorial"),
        ("counted.py:fibonacci", "fibonacci"),
        ("counted:even", "even"),
        ("odd", "odd"),
        ("__main__:passing", "passing"),
        ("negative", "negative"),
    ];
    python::each(|python| {
        let truth = truth(python)?;
        let arguments: Vec<&str> = CHOSEN
            .iter()
            .flat_map(|(given, _)| ["--function", given])
            .chain(["--via", "probes"])
            .collect();
        let taken = counted(python, &arguments)?;
        let report = taken.report()?;
        let mut known = truth;
        known
            .0
            .retain(|place, _| CHOSEN.iter().any(|(_, name)| place.name == *name));
        ensure!(known.0.len() == CHOSEN.len(), "{known:?}");
        ensure_equal(&report.counts(&FILES)?, &known, &taken)?;
        let untold: Vec<&str> = ["factorial", "fibonacci", "even"]
            .into_iter()
            .filter(|name| !matches!(report.function("counted.py", name), Ok(function) if function.primitive.is_some()))
            .collect();
        ensure!(
            untold.is_empty(),
            "no primitive calls of {untold:?}:\n{}",
            taken.outcome.stderr
        );
        Ok(())
    })
}

#[test]
fn a_method_can_be_chosen_by_the_name_of_its_class() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let truth = truth(python)?;
        // Code objects have no qualified names up to 3.10.
        let given = if python.version >= (3, 11) {
            "Point.__init__"
        } else {
            "__init__"
        };
        let taken = counted(python, &["--function", given, "--via", "probes"])?;
        let mut known = truth;
        known.0.retain(|place, _| place.name == "__init__");
        if python.version >= (3, 11) {
            let first = known.0.keys().map(|place| place.line).min().context("no __init__")?;
            known.0.retain(|place, _| place.line == first);
        }
        ensure_equal(&taken.report()?.counts(&FILES)?, &known, &taken)
    })
}

#[test]
fn a_command_s_calls_are_counted_from_its_beginning_to_its_end() -> Result<()> {
    let _serial = serial();
    let mut pythons = python::all()?;
    pythons.retain(|python| python.root.is_none());
    python::each_of(&pythons, |python| {
        let truth = truth(python)?;
        let directory = calls::copy(python)?;
        let taken = Calls::record(&WITHOUT_END)?
            .arg("--")
            .arg(&python.executable)
            .arg(directory.path().join("counted.py"))
            .args([&ROUNDS.to_string(), "alone"])
            .run()?
            .success()?;
        let mut found = taken.report()?.counts(&FILES)?;
        // Before `work` it defines its functions, under cProfile unseen.
        found.0.retain(|place, _| truth.0.contains_key(place));
        ensure_equal(&found, &truth, &taken)
    })
}

#[test]
fn a_target_that_ends_is_reported_in_full() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let truth = truth(python)?;
        let mut workload = calls::run(python, "counted.py", &[&ROUNDS.to_string()])?;
        let attached = Calls::record(&["-p", &workload.pid.to_string()])?
            .args(WITHOUT_END)
            .start()?;
        workload.tell("go")?;
        workload.expect("DONE")?;
        workload.tell("end")?;
        workload.wait()?;
        let taken = attached.finish()?.success()?;
        let mut found = taken.report()?.counts(&FILES)?;
        // The script itself has ended.
        found.0.retain(|place, _| place.name != "<module>");
        ensure_equal(&found, &truth, &taken)
    })
}

/// busy.py's: how often each function was called, by name.
fn known(truth: &Value) -> Result<BTreeMap<String, u64>> {
    let calls = truth["calls"].as_object().context("no calls")?;
    let pairs = calls.iter().map(|(name, calls)| Some((name.clone(), calls.as_u64()?)));
    pairs.collect::<Option<_>>().context("calls that are no numbers")
}

fn ensure_known(report: &Report, truth: &BTreeMap<String, u64>) -> Result<()> {
    for (name, calls) in truth {
        let function = report.function("busy.py", name)?;
        ensure!(
            function.calls == Some(*calls) && function.is_exact,
            "{name}: {:?} calls, not {calls}",
            function.calls
        );
    }
    Ok(())
}

/// cProfile counts one thread up to 3.11, so this is counted by hand.
#[test]
fn calls_of_several_threads_are_added_up() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let mut workload = calls::run(python, "busy.py", &[])?;
        let attached = Calls::record(&["-p", &workload.pid.to_string()])?
            .args(WITHOUT_END)
            .start()?;
        workload.tell("4 300")?;
        let truth = known(&workload.value()?)?;
        let taken = attached.stop()?;
        ensure_known(&taken.report()?, &truth).context(taken.outcome.stderr.clone())
    })
}

#[test]
fn of_two_recordings_one_after_the_other_each_has_its_own_calls() -> Result<()> {
    let _serial = serial();
    let mut workload = calls::run(&python::any()?, "busy.py", &[])?;
    let pid = workload.pid.to_string();
    for rounds in ["100", "37"] {
        // Nobody counts these.
        workload.tell("50")?;
        workload.value()?;
        let attached = Calls::record(&["-p", &pid])?.args(WITHOUT_END).start()?;
        workload.tell(rounds)?;
        let truth = known(&workload.value()?)?;
        let taken = attached.stop()?;
        ensure_known(&taken.report()?, &truth).with_context(|| format!("{rounds} rounds"))?;
    }
    Ok(())
}

#[test]
fn two_profilers_count_the_same_calls() -> Result<()> {
    let _serial = serial();
    let mut workload = calls::run(&python::any()?, "busy.py", &[])?;
    let pid = workload.pid.to_string();
    let first = Calls::record(&["-p", &pid])?.args(WITHOUT_END).start()?;
    let second = Calls::record(&["-p", &pid])?.args(WITHOUT_END).start()?;
    workload.tell("200")?;
    let truth = known(&workload.value()?)?;
    for attached in [first, second] {
        ensure_known(&attached.stop()?.report()?, &truth)?;
    }
    Ok(())
}

#[test]
fn only_the_chosen_process_is_counted() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let mut other = calls::run(&python, "busy.py", &[])?;
    let mut workload = calls::run(&python, "busy.py", &[])?;
    let attached = Calls::record(&["-p", &workload.pid.to_string()])?
        .args(WITHOUT_END)
        .start()?;
    for workload in [&mut other, &mut workload] {
        workload.tell("100")?;
    }
    other.value()?;
    let truth = known(&workload.value()?)?;
    let taken = attached.stop()?;
    ensure_known(&taken.report()?, &truth)?;

    // Nor what else is of that process and was not asked for: of three threads the main one does nothing.
    let pid = workload.pid.to_string();
    let cases = [
        (["--comm", "nosuch"], "100", false),
        (["--tid", &pid], "3 100", false),
        (["--tid", &pid], "100", true),
    ];
    for (arguments, task, counted) in cases {
        let attached = Calls::record(&["-p", &pid])?
            .args(arguments)
            .args(WITHOUT_END)
            .start()?;
        workload.tell(task)?;
        let truth = known(&workload.value()?)?;
        let report = attached.stop()?.report()?;
        if counted {
            ensure_known(&report, &truth)?;
        }
        let added = report
            .functions
            .iter()
            .any(|function| function.place.name == "one_round");
        ensure!(added == counted, "{arguments:?} {task}\n{}", report.shown());
    }
    Ok(())
}

#[test]
fn two_processes_of_one_script_are_added_up() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let mut workloads: Vec<Workload> = (0..2)
        .map(|_| calls::run(&python, "busy.py", &[]))
        .collect::<Result<_>>()?;
    let pids: Vec<String> = workloads.iter().map(|workload| workload.pid.to_string()).collect();
    let attached = Calls::record(&["-p", &pids.join(",")])?.args(WITHOUT_END).start()?;
    let mut truth = BTreeMap::new();
    for workload in &mut workloads {
        workload.tell("70")?;
        for (name, calls) in known(&workload.value()?)? {
            *truth.entry(name).or_insert(0) += calls;
        }
    }
    let report = attached.stop()?.report()?;
    // Each was started from a copy of its own, so the files' paths differ.
    for (name, calls) in truth {
        let found: u64 = report
            .functions
            .iter()
            .filter(|function| function.place.file == "busy.py" && function.place.name == name)
            .filter_map(|function| function.calls)
            .sum();
        ensure!(found == calls, "{name}: {found} calls, not {calls}\n{}", report.shown());
    }
    Ok(())
}

/// Code objects are known by their addresses, and these are soon other code's.
#[test]
fn code_that_took_the_place_of_other_code_has_its_own_calls() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let mut workload = calls::run(python, "replaced.py", &["400"])?;
        let attached = Calls::record(&["-p", &workload.pid.to_string()])?
            .args(WITHOUT_END)
            .start()?;
        workload.tell("go")?;
        let said = workload.value()?;
        let taken = attached.stop()?;
        ensure!(
            said["most at an address"].as_u64() > Some(1),
            "every function had an address of its own, so nothing was tested"
        );
        let known = said["calls"].as_object().context("no calls")?;
        let mut truth = Counts::default();
        let mut files = Vec::new();
        for (file, calls) in known {
            let which = file.trim_start_matches("<replaced ").trim_end_matches('>');
            let calls = calls.as_u64().context("calls that are no number")?;
            truth
                .0
                .insert(Place::new(file, 1, &format!("f_{which}")), (calls, Some(calls)));
            files.push(file.as_str());
        }
        let mut found = taken.report()?.counts(&files)?;
        // `exec` runs the module that defines the function.
        found.0.retain(|place, _| place.name != "<module>");
        ensure_equal(&found, &truth, &taken)
    })
}
