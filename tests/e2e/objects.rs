//! `profiler objects` says what the interpreter says of itself: how many of each type, what they take, and who holds them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    memory::Memory,
    profiler::{Outcome, Profiler},
    python::{self, Python},
    serial::serial,
    workload::{self, Workload},
};
use serde_json::Value;

/// Of the workload; the interpreter has none of its own.
const KINDS: [&str; 12] = [
    "Plain",
    "Slots",
    "Node",
    "InClass",
    "InClosure",
    "InLocal",
    "Text",
    "Items",
    "Table",
    "Some",
    "Queue",
    "Pair",
];
/// Of which the interpreter counts all bytes as we do. Of instances with attributes it leaves out the values from 3.13 on,
/// where they are in the instance.
const EQUAL_BYTES: [&str; 3] = ["Slots", "Text", "Pair"];

fn objects(workload: &Workload, arguments: &[&str]) -> Result<Outcome> {
    let pid = workload.pid.to_string();
    Profiler::bare()
        .args(["objects", "-q", "-p", &pid])
        .args(arguments)
        .run()
}

fn printed(workload: &Workload, arguments: &[&str]) -> Result<String> {
    Ok(String::from_utf8(objects(workload, arguments)?.success()?.stdout)?)
}

fn report(workload: &Workload, arguments: &[&str]) -> Result<Value> {
    let outcome = objects(workload, arguments)?.success()?;
    serde_json::from_slice(&outcome.stdout).context("no JSON")
}

fn row<'a>(report: &'a Value, name: &str) -> Result<&'a Value> {
    let rows = report["types"].as_array().context("no types")?;
    let row = rows.iter().find(|row| row["name"] == name);
    row.with_context(|| format!("no row of {name}"))
}

#[test]
fn every_type_has_as_many_objects_as_the_interpreter_says() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        counts(&python).with_context(|| format!("{python}"))?;
    }
    Ok(())
}

fn counts(python: &Python) -> Result<()> {
    let workload = Workload::python(python, "objects.py", &[])?;
    let report = report(&workload, &["-f", "json"])?;
    ensure!(report["version"] == 1, "another version of the format");
    for name in KINDS {
        let name = format!("__main__.{name}");
        let said = &workload.truth[0][&name];
        let row = row(&report, &name)?;
        ensure!(
            row["objects"] == said[0],
            "{name}: {} objects, the interpreter says {}",
            row["objects"],
            said[0]
        );
        let (bytes, said) = (row["bytes"].as_u64(), said[1].as_u64());
        if EQUAL_BYTES.iter().any(|kind| name.ends_with(kind)) {
            ensure!(bytes == said, "{name}: {bytes:?} bytes, the interpreter says {said:?}");
        }
    }
    // Buffers are the interpreter's, to the byte; room for attributes that these have from 3.14 on (24 bytes) it does not
    // count.
    for name in ["Items", "Table", "Some", "Queue"] {
        let name = format!("__main__.{name}");
        let bytes = row(&report, &name)?["bytes"].as_u64().context("no bytes")?;
        let (number, said) = (&workload.truth[0][&name][0], &workload.truth[0][&name][1]);
        let (number, said) = (number.as_u64().context("no truth")?, said.as_u64().context("no truth")?);
        let room = if python.version >= (3, 14) { 24 * number } else { 0 };
        ensure!(
            (said..=said + room).contains(&bytes),
            "{name}: {bytes} bytes with buffers, the interpreter says {said}"
        );
    }
    // All that the collector knows are objects of ours, too: not one type has less than nine in ten of what it says.
    for (name, said) in workload.truth[0].as_object().context("no truth")? {
        let said = said[0].as_u64().unwrap_or(0);
        // Those that the interpreter was built with lie in its file.
        if said >= 100 && !matches!(&**name, "function" | "type" | "tuple" | "code") {
            let found = row(&report, name).map_or(0, |row| row["objects"].as_u64().unwrap_or(0));
            ensure!(found * 10 >= said * 9, "{name}: {found} of {said}");
        }
    }
    Ok(())
}

#[test]
fn whoever_holds_an_object_is_named() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        holders(&python).with_context(|| format!("{python}"))?;
    }
    Ok(())
}

fn holders(python: &Python) -> Result<()> {
    let workload = Workload::python(python, "objects.py", &[])?;
    let report = report(&workload, &["-f", "json"])?;
    let held = report["holders"].as_array().context("no holders")?;
    for (holder, objects) in [
        ("app.cache: dict → list → __main__.Plain", 20_000),
        ("__main__.slots: list → __main__.Slots", 20_000),
        ("__main__.head: __main__.Node", 1),
        ("__main__.head: __main__.Node.next → __main__.Node", 999),
        ("__main__.Registry: type.items → dict → list → __main__.InClass", 50),
        ("kept in in_local(): dict → list → __main__.InLocal", 40),
    ] {
        let row = held.iter().find(|row| row["holder"] == holder);
        let found = row.with_context(|| format!("nobody is {holder}"))?;
        ensure!(found["objects"] == objects, "{holder}: {}", found["objects"]);
    }
    let closure = held.iter().find(|row| {
        let holder = row["holder"].as_str().unwrap_or_default();
        holder.starts_with("app.function: function") && holder.ends_with("list → __main__.InClosure")
    });
    ensure!(closure.context("nobody holds what is in the closure")?["objects"] == 30);
    let refused = objects(&workload, &["--referrers", "app.cache.Nobody"])?;
    ensure!(
        refused.code() == 1 && refused.stderr.contains("closest:"),
        "{}",
        refused.stderr
    );
    let text = printed(&workload, &["--referrers", "__main__.Plain", "-n", "3"])?;
    ensure!(text.contains("20,000  app.cache: dict → list[…]"), "{text}");
    ensure!(text.contains("  app.cache[\"plain\"]["), "{text}");
    Ok(())
}

#[test]
fn what_became_more_is_what_was_made_and_its_holder_comes_first() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        growth(&python).with_context(|| format!("{python}"))?;
    }
    Ok(())
}

fn growth(python: &Python) -> Result<()> {
    let mut workload = Workload::python(python, "objects.py", &[])?;
    let pid = workload.pid.to_string();
    let arguments = ["objects", "-p", &pid, "--growth", "2s", "-f", "json"];
    let looking = Profiler::bare().args(arguments).start_until("looking again")?;
    workload.tell("grow")?;
    workload.expect("GREW")?;
    let outcome = looking.finish()?.success()?;
    let report: Value = serde_json::from_slice(&outcome.stdout)?;
    let rows = report["growth"]["types"].as_array().context("no types")?;
    for (name, more) in [
        ("dict", 5000),
        ("float", 5000),
        ("bytes", 5000),
        ("str", 5000),
        ("tuple", 5000),
    ] {
        let row = rows.iter().find(|row| row["name"] == name).context(name)?;
        let found = row["objects_change"].as_i64().context("no number")?;
        // What reading a line comes to.
        ensure!((more..more + 20).contains(&found), "{name}: {found} more, not {more}");
    }
    let first = &report["growth"]["holders"][0]["holder"];
    let names = ["app.kept: list → dict", "__main__.kept: list → dict"];
    ensure!(names.iter().any(|name| first == name), "{first} comes first");
    Ok(())
}

/// A page that is read where the process has not touched it would be mapped into it.
#[test]
fn looking_leaves_no_trace_in_the_process() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        let workload = Workload::python(&python, "objects.py", &[])?;
        let pages = || {
            let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", workload.pid))?;
            let line = text.lines().find(|line| line.starts_with("Rss:"));
            line.map(str::to_owned).context("no RSS")
        };
        let before = pages()?;
        let report = report(&workload, &["-f", "json"])?;
        ensure!(
            report["notes"]["pages_swapped_out"] == 0,
            "{python}: {}",
            report["notes"]
        );
        let after = pages()?;
        ensure!(before == after, "{python}: {before} before, {after} after");
    }
    Ok(())
}

#[test]
fn memory_says_first_what_became_more_and_who_holds_it() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        let mut workload = Workload::python(&python, "objects.py", &[])?;
        let pid = workload.pid.to_string();
        let attached = Memory::command(&["-p", &pid])?.start()?;
        workload.tell("grow")?;
        workload.expect("GREW")?;
        let text = fs::read_to_string(attached.stop()?.success()?.file("stdout"))?;
        let holder = text.find("kept: list → dict").context("no holder")?;
        let table = text.find("  where").context("no table of lines")?;
        ensure!(holder < table, "{python}: {text}");
    }
    Ok(())
}

#[test]
fn what_never_stops_changing_is_counted_all_the_same() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        churns(&python).with_context(|| format!("{python}"))?;
    }
    Ok(())
}

fn churns(python: &Python) -> Result<()> {
    let mut workload = Workload::python(python, "objects.py", &[])?;
    workload.tell("churn")?;
    workload.expect("CHURNS")?;
    let mut whole = 0;
    for _ in 0..5 {
        let report = report(&workload, &["-f", "json"])?;
        let torn = report["notes"]["pools_torn"]
            .as_u64()
            .context("nothing of torn pools")?;
        ensure!(torn <= 2, "{}", report["notes"]);
        whole += u32::from(torn == 0);
        for name in ["Slots", "Node", "Items", "Text"] {
            let name = format!("__main__.{name}");
            let row = row(&report, &name)?;
            let said = &workload.truth[0][&name][0];
            // What was in a pool that never held still is missing, and that is told.
            ensure!(
                row["objects"] == *said || torn > 0,
                "{name}: {} of {said}",
                row["objects"]
            );
        }
    }
    ensure!(whole >= 3, "{whole} of five were whole");
    Ok(())
}

#[test]
fn an_allocator_that_does_not_tell_its_blocks_is_refused_by_name() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        let mut settings = vec![("malloc", "PYTHONMALLOC=malloc")];
        if python.version >= (3, 13) {
            settings.push(("mimalloc", "mimalloc"));
        }
        for (setting, word) in settings {
            let workload = Workload::python_with(&python, "objects.py", &[("PYTHONMALLOC", setting)])?;
            let outcome = objects(&workload, &[])?;
            ensure!(
                outcome.code() == 1 && outcome.stderr.contains(word),
                "{python} with {setting}: {}",
                outcome.stderr
            );
        }
        let workload = Workload::python_with(&python, "objects.py", &[("PYTHONMALLOC", "debug")])?;
        let report = report(&workload, &["-f", "json"])?;
        let row = row(&report, "__main__.Plain").with_context(|| format!("{python} with debug"))?;
        ensure!(row["objects"] == 20_000, "{python} with debug: {row}");
    }
    Ok(())
}

#[test]
fn pictures_and_lines_for_flame_graphs_name_the_holders() -> Result<()> {
    let _lock = serial();
    let workload = Workload::python(&python::any()?, "objects.py", &[])?;
    let folded = printed(&workload, &["-f", "folded"])?;
    ensure!(folded.contains("app;app.cache;dict;list;__main__.Plain "), "{folded}");
    let dot = printed(&workload, &["-f", "dot"])?;
    ensure!(dot.starts_with("digraph") && dot.contains("app.cache: dict"), "{dot}");
    let svg = printed(&workload, &["-f", "svg"])?;
    ensure!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("__main__.Plain"));
    let text = printed(&workload, &["--largest", "-n", "3"])?;
    ensure!(text.contains("app.cache[\"plain\"]"), "{text}");
    ensure!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    Ok(())
}

/// Of one container after the other, by the comments in the program: the lines are those, and no others.
#[test]
fn the_lines_that_add_to_what_became_more_are_told_and_no_others() -> Result<()> {
    let _lock = serial();
    for python in python::all()? {
        lines_that_add(&python).with_context(|| format!("{python}"))?;
    }
    Ok(())
}

fn lines_that_add(python: &Python) -> Result<()> {
    let text = fs::read_to_string(workload::sources().join("adders.py"))?;
    let marked = |(at, line): (usize, &str)| Some((line.split_once("# ADDS ")?.1.to_owned(), at as u64 + 1));
    let mut wanted: Vec<(String, u64)> = text.lines().enumerate().filter_map(marked).collect();
    wanted.sort();
    let mut workload = Workload::python(python, "adders.py", &[])?;
    let pid = workload.pid.to_string();
    let arguments = ["objects", "-p", &pid, "--growth", "2s", "-f", "json"];
    let looking = Profiler::bare().args(arguments).start_until("looking again")?;
    workload.tell("grow")?;
    workload.expect("GREW")?;
    let outcome = looking.finish()?.success()?;
    let report: Value = serde_json::from_slice(&outcome.stdout)?;
    let mut told = Vec::new();
    for added in report["growth"]["added"].as_array().context("nothing is added")? {
        let holder = added["holder"].as_str().context("no holder")?;
        let objects = added["objects_change"].as_i64().context("no number")?;
        ensure!(objects >= 2000, "{holder}: {objects} objects");
        for line in added["lines"].as_array().context("no lines")? {
            let file = line["file"].as_str().context("no file")?;
            ensure!(file.ends_with("adders.py"), "{holder}: {line}");
            told.push((
                holder.replacen("__main__.", "", 1),
                line["line"].as_u64().context("no line")?,
            ));
        }
    }
    told.sort();
    // A way goes on behind the name: `APPENDED: list`.
    let names = |told: &(String, u64), wanted: &(String, u64)| told.1 == wanted.1 && told.0.starts_with(&wanted.0);
    let equal = told.len() == wanted.len() && told.iter().zip(&wanted).all(|(told, wanted)| names(told, wanted));
    ensure!(equal, "told are {told:#?}, not {wanted:#?}");
    Ok(())
}
