//! `profiler dump -l`: local variables read as the program itself would write them, but for what is secret.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    dump::{self, Dump},
    python,
    serial::serial,
    workload::Workload,
};
use serde_json::Value;

/// Told otherwise than `repr` does, by design.
const OTHERWISE: [&str; 8] = [
    "function", "closure", "ordered", "default", "date", "price", "first", "error",
];

fn locals<'a>(dump: &'a Dump, function: &str) -> Result<&'a Vec<Value>> {
    let frames = dump
        .threads
        .iter()
        .filter_map(|thread| thread["frames"].as_array())
        .flatten();
    let mut frames = frames.filter(|frame| frame["name"] == function);
    let frame = frames.next().with_context(|| format!("no frame of {function}"))?;
    frame["locals"].as_array().context("no locals")
}

#[test]
fn variables_of_every_kind_read_as_repr_writes_them() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "dump_locals.py", &[])?;
        let truth = workload.truth[0].as_object().context("no truth")?;
        let dump = Dump::of(workload.pid, &["-ll"])?;
        let locals = locals(&dump, "everything")?;
        let said = |name: &str| locals.iter().find(|local| local["name"] == name);
        let (mut same, mut wrong) = (0, Vec::new());
        for (name, expected) in truth {
            let Some(local) = said(name) else {
                wrong.push(format!("{name} is missing"));
                continue;
            };
            match local["repr"] == *expected {
                true => same += 1,
                false if OTHERWISE.contains(&&**name) => {}
                false => wrong.push(format!("{name}: {} and not {expected}", local["repr"])),
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        ensure!(same >= 55, "only {same} of {}", truth.len());
        ensure!(said("unset").is_none(), "a variable without a value");
        let arguments = locals.iter().filter(|local| local["arg"] == true);
        let mut arguments: Vec<&str> = arguments.filter_map(|local| local["name"].as_str()).collect();
        arguments.sort_unstable();
        ensure!(arguments == ["first", "keyword", "others", "rest"], "{arguments:?}");
        ensure!(said("point").is_some_and(|local| local["type"] == "Point"));
        Ok(())
    })
}

#[test]
fn what_sounds_secret_is_not_shown_unless_asked_for_and_nothing_acts_on_the_terminal() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "dump_locals.py", &[])?;
        let shown = |options: &[&str]| -> Result<String> {
            let outcome = dump::text(workload.pid, options)?.success()?;
            Ok(String::from_utf8(outcome.stdout)?)
        };
        for options in [&["-l"][..], &["-ll"], &["-l", "-j"]] {
            let text = shown(options)?;
            for secret in ["hunter1", "hunter2", "hunter3", "hunter4", "sk-12345"] {
                ensure!(!text.contains(secret), "{options:?} shows {secret}: {text}");
            }
            ensure!(text.contains("'host': 'db'") && text.contains("b'example'"), "{text}");
            ensure!(!text.contains(['\x1b', '\x07', '\u{202e}']), "{options:?}: {text:?}");
        }
        let all = shown(&["-ll", "--show-secrets"])?;
        for secret in ["hunter1", "hunter2", "hunter3", "hunter4", "sk-12345"] {
            ensure!(all.contains(secret), "{secret}: {all}");
        }
        let types = shown(&["-l", "--no-values"])?;
        ensure!(
            types.contains("        settings: dict\n") && !types.contains("example"),
            "{types}"
        );
        Ok(())
    })
}
