//! `profiler dump`: threads, their frames and their states are those that the program has.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    dump::{self, Dump, Place, places},
    python::{self, Python},
    serial::serial,
    venv,
    workload::{self, Workload},
};
use serde_json::Value;

#[test]
fn threads_that_stand_still_have_the_frames_that_the_program_says_they_have() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "dump_still.py", &[])?;
        let dump = Dump::of(workload.pid, &[])?;
        for (name, truth) in workload.truth[0]["threads"].as_object().context("no threads")? {
            let thread = dump.thread(truth["tid"].as_u64().context("no number")?)?;
            ensure!(thread["thread_name"] == **name, "{name}: {thread:#}");
            ensure!(thread["thread_id"] == truth["ident"], "{name}: {thread:#}");
            let expected: Vec<Place> = serde_json::from_value(truth["stack"].clone())?;
            ensure!(
                places(thread)? == expected,
                "{name}:\n{:#?}\nnot\n{expected:#?}",
                places(thread)?
            );
            ensure!(
                thread["held_still"] == true && thread["active"] == false && thread["frames_complete"] == true,
                "{name}: {thread:#}"
            );
        }
        Ok(())
    })
}

#[test]
fn what_a_thread_waits_for_is_told_with_the_other_end_and_since_when() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "dump_still.py", &[])?;
        let dump = Dump::of(workload.pid, &[])?;
        let peer = workload.truth[0]["address"].as_str().context("no address")?;
        for (name, state, target) in [
            ("client", "socket", peer),
            ("pipe", "pipe", "pipe:["),
            ("sleeper", "sleep", ""),
            ("locker", "lock", ""),
            ("member_0", "lock", ""),
        ] {
            let thread = dump.named(name)?;
            ensure!(thread["state"] == state, "{name}: {thread:#}");
            let said = thread["waits_for"].as_str().unwrap_or_default();
            ensure!(said.starts_with(target), "{name}: {said}");
            let since = thread["since_ns"].as_u64().context("no time")?;
            ensure!((10_000_000..60_000_000_000).contains(&since), "{name}: {since}");
        }
        // It talks to itself.
        ensure!(dump.named("client")?["peer"]["pid"] == workload.pid);
        ensure!(dump.named("handler")?["handling"] == "KeyError");
        ensure!(dump.named("client")?["handling"] == Value::Null);
        Ok(())
    })
}

/// py-spy 0.4.3 reads CPython up to 3.14, and not all of its patches: what it does not read it cannot be compared with.
#[test]
fn frames_files_lines_and_activity_are_those_that_py_spy_tells() -> Result<()> {
    let _serial = serial();
    let Some(venv) = venv::with(&python::any()?, &["py-spy==0.4.3"])? else {
        return Ok(());
    };
    let py_spy = venv.with_file_name("py-spy");
    let mut compared = 0;
    for python in python::all()? {
        let workload = Workload::python(&python, "dump_still.py", &[])?;
        let output = std::process::Command::new(&py_spy)
            .args(["dump", "--json", "--nonblocking", "--full-filenames", "-p"])
            .arg(workload.pid.to_string())
            .output()?;
        let Ok(Value::Array(theirs)) = serde_json::from_slice(&output.stdout) else {
            println!(
                "py-spy does not read {python}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            continue;
        };
        let ours = Dump::of(workload.pid, &[])?;
        for theirs in &theirs {
            let ident = &theirs["thread_id"];
            let ours = ours.threads.iter().find(|ours| ours["thread_id"] == *ident);
            let ours = ours.with_context(|| format!("{python}: no thread {ident}"))?;
            for key in ["pid", "thread_id", "thread_name", "active", "owns_gil"] {
                // Where it does not know the kernel's number it goes by the names of functions.
                let knows = key != "active" || !theirs["os_thread_id"].is_null();
                ensure!(
                    !knows || ours[key] == theirs[key],
                    "{python}, {key}: {} {}",
                    ours[key],
                    theirs[key]
                );
            }
            ensure!(
                places(ours)? == places(theirs)?,
                "{python}, {ident}:\n{:#?}\nnot\n{:#?}",
                places(ours)?,
                places(theirs)?
            );
        }
        compared += 1;
    }
    ensure!(compared >= 6, "only {compared} interpreters were compared");
    Ok(())
}

/// Which frames can lie above each other: by what their names say, and what begins threads.
fn is_possible(caller: &str, callee: &str) -> bool {
    match (caller, callee) {
        ("Thread._bootstrap", "Thread._bootstrap_inner") | ("Thread._bootstrap_inner", "Thread.run") => true,
        ("_bootstrap", "_bootstrap_inner") | ("_bootstrap_inner", "run") => true,
        ("Thread.run" | "run", "top_a") => true,
        ("d_end", inner) => inner.ends_with("<listcomp>"),
        (caller, callee) => match (caller.split_once('_'), callee.split_once('_')) {
            (Some((_, calls)), Some((called, _))) => calls == called,
            _ => false,
        },
    }
}

#[test]
fn of_a_busy_program_every_pair_of_frames_is_one_that_can_be() -> Result<()> {
    let _serial = serial();
    python::each(|python| busy(python, 40))
}

/// As often as it takes to find what is wrong once in a thousand; a minute for each interpreter.
#[test]
#[ignore = "takes ten minutes"]
fn of_a_thousand_dumps_of_a_busy_program_every_pair_of_frames_is_one_that_can_be() -> Result<()> {
    let _serial = serial();
    python::each(|python| busy(python, 1000))
}

fn busy(python: &Python, times: usize) -> Result<()> {
    let mut workload = Workload::python(python, "dump_busy.py", &[])?;
    let source = fs::read_to_string(workload::sources().join("dump_busy.py"))?;
    let source: Vec<&str> = source.lines().collect();
    let mut seen = BTreeSet::new();
    let (mut still, mut all) = (0, 0);
    for _ in 0..times {
        let dump = Dump::of(workload.pid, &[])?;
        let busy: Vec<&Value> = dump
            .threads
            .iter()
            .filter(|thread| {
                thread["thread_name"]
                    .as_str()
                    .is_some_and(|name| name.starts_with("busy-"))
            })
            .collect();
        ensure!(busy.len() == 8, "{} threads", busy.len());
        ensure!(
            dump.threads.iter().filter(|thread| thread["owns_gil"] == true).count() <= 1,
            "several have the GIL: {:?}",
            dump.threads
                .iter()
                .map(|thread| (&thread["os_thread_id"], &thread["state"]))
                .collect::<Vec<_>>()
        );
        for thread in busy {
            all += 1;
            // What is not said to be of one moment may be of several.
            if thread["held_still"] != true {
                continue;
            }
            still += 1;
            let places = places(thread)?;
            let names: Vec<&str> = places.iter().map(|(name, ..)| name.as_str()).collect();
            for pair in places.windows(2).filter(|pair| pair[1].1.ends_with("dump_busy.py")) {
                let line = source.get(pair[1].2 as usize - 1).context("no such line")?;
                let callee = &pair[0].0;
                // Of a list comprehension the line has no name.
                let is_there = callee.contains('<') || line.contains(&format!("{callee}("));
                ensure!(is_there, "{callee} called in {line:?}: {places:?}");
            }
            for pair in names.windows(2) {
                ensure!(
                    is_possible(pair[1], pair[0]),
                    "{} called {}: {names:?}",
                    pair[1],
                    pair[0]
                );
            }
            ensure!(
                names.last().is_some_and(|last| last.ends_with("_bootstrap")),
                "{names:?}"
            );
            seen.insert(names[0].to_owned());
        }
        let waits = dump.threads.iter().filter(|thread| thread["state"] == "gil").count();
        ensure!(waits <= 8);
    }
    ensure!(seen.len() >= 2, "always the same place: {seen:?}");
    ensure!(still * 100 >= all * 98, "{still} of {all} held still");
    ensure!(workload.is_running()?);
    Ok(())
}

#[test]
fn who_waits_for_the_gil_is_told_with_who_has_it() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "dump_busy.py", &[])?;
        let mut holders = 0;
        for _ in 0..10 {
            let dump = Dump::of(workload.pid, &[])?;
            for thread in dump.threads.iter().filter(|thread| thread["state"] == "gil") {
                let holder = &thread["holder"];
                if holder.is_null() {
                    continue;
                }
                holders += 1;
                ensure!(holder["os_thread_id"] != thread["os_thread_id"], "{thread:#}");
                let name = holder["thread_name"].as_str().unwrap_or_default();
                ensure!(name.starts_with("busy-"), "{thread:#}");
            }
        }
        ensure!(
            holders >= 20,
            "only {holders} in ten dumps of eight threads that fight for it"
        );
        Ok(())
    })
}

#[test]
fn every_python_of_the_machine_is_looked_at_and_one_that_collects_garbage_says_so() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let still = Workload::python(&python, "dump_still.py", &[])?;
    let collects = Workload::python(&python, "why_cases.py", &["gc_thrash"])?;
    let outcome = profiler_tests::profiler::Profiler::bare()
        .args(["dump", "-a", "-j"])
        .run()?;
    let all = Dump::read(&outcome)?;
    for pid in [still.pid, collects.pid] {
        let threads = all.threads.iter().filter(|thread| thread["pid"] == pid);
        ensure!(threads.count() >= 2, "nothing of {pid}: {}", outcome.stderr);
    }
    // It does little else.
    let mut looks = 0;
    let collecting = |dump: &Dump| dump.threads.iter().any(|thread| thread["collecting"] == true);
    while !collecting(&Dump::of(collects.pid, &[])?) {
        looks += 1;
        ensure!(looks < 40, "it never collects garbage");
    }
    ensure!(!collecting(&Dump::of(still.pid, &[])?), "this one does not");
    Ok(())
}

/// How many rounds a second a program of eight busy threads gets done by the clock on the wall, while it is looked at again and
/// again, and while it is not, in turns.
#[test]
#[ignore = "four minutes, of a machine that is otherwise quiet"]
fn a_thousand_dumps_take_less_than_a_hundredth_of_what_a_busy_program_gets_done() -> Result<()> {
    const DUMPS: u32 = 1000;
    const PERIOD: Duration = Duration::from_secs(4);
    let _serial = serial();
    let mut workload = Workload::python(&python::any()?, "dump_busy.py", &[])?;
    let pid = workload.pid;
    let mut done = || -> Result<(f64, f64)> {
        workload.tell("how many")?;
        let said = workload.value()?;
        let number = |key: &str| said[key].as_f64().with_context(|| format!("no {key}: {said}"));
        Ok((number("count")?, number("time")?))
    };
    let mut rate_of = |period: &mut dyn FnMut(Instant) -> Result<()>| -> Result<f64> {
        let before = done()?;
        period(Instant::now() + PERIOD)?;
        let after = done()?;
        Ok((after.0 - before.0) / (after.1 - before.1))
    };
    let (mut dumps, mut ratios) = (0, Vec::new());
    let mut with_and_without = [Vec::new(), Vec::new()];
    while dumps < DUMPS {
        let with = rate_of(&mut |until| {
            while Instant::now() < until {
                dump::text(pid, &[])?.success()?;
                dumps += 1;
            }
            Ok(())
        })?;
        let without = rate_of(&mut |until| {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            Ok(())
        })?;
        ratios.push(with / without);
        with_and_without[0].push(with);
        with_and_without[1].push(without);
    }
    let [with, without] = with_and_without.map(median);
    let pairs = ratios.len();
    let ratio = median(ratios.clone());
    let spread = ratios.iter().map(|ratio| (ratio - 1.0).powi(2)).sum::<f64>() / pairs as f64;
    println!(
        "{dumps} dumps: {with:.1} rounds a second with, {without:.1} without; {pairs} pairs of {PERIOD:?}: {ratio:.4} (median), \
         {:.4} (mean), a pair differs by {:.4} (rms)",
        ratios.iter().sum::<f64>() / pairs as f64,
        spread.sqrt()
    );
    ensure!(ratio >= 0.99, "{ratio}: {ratios:?}");
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[test]
fn what_does_not_move_between_looks_is_marked() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let workload = Workload::python(&python, "dump_still.py", &[])?;
    let still = Dump::of(workload.pid, &["--repeat", "3", "--interval", "100ms"])?;
    let thread = still.named("locker")?;
    ensure!(thread["has_not_run"] == true, "{thread:#}");
    let frames = thread["frames"].as_array().context("no frames")?;
    ensure!(frames.iter().all(|frame| frame["unchanged"] == true), "{thread:#}");

    let workload = Workload::python(&python, "dump_busy.py", &[])?;
    let busy = Dump::of(workload.pid, &["--repeat", "3", "--interval", "100ms"])?;
    let thread = busy.named("busy-0")?;
    ensure!(thread["has_not_run"] == false, "{thread:#}");
    let frames = thread["frames"].as_array().context("no frames")?;
    let last = frames.last().context("no frame")?;
    ensure!(last["unchanged"] == true, "{thread:#}");
    Ok(())
}

#[test]
fn the_screen_has_eighty_columns_and_marks_own_code() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "dump_still.py", &[])?;
    let shown = |options: &[&str]| -> Result<String> {
        Ok(String::from_utf8(dump::text(workload.pid, options)?.success()?.stdout)?)
    };
    let text = shown(&[])?;
    for line in text
        .lines()
        .chain(shown(&["-l"])?.lines())
        .chain(shown(&["-n"])?.lines())
    {
        ensure!(line.chars().count() <= 80, "{line}");
    }
    ensure!(text.contains("\n  > pipe ("), "{text}");
    ensure!(text.contains(" \"pipe\": in read from pipe:["), "{text}");
    ensure!(text.contains("  > deep (") && text.contains(" 40 times\n"), "{text}");
    Ok(())
}
