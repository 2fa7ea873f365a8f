//! Where an interpreter can live: sub-interpreters, other programs, virtual environments, behind links, and in files
//! that are gone.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::{has, has_chain_among_python, is},
    native::compile,
    profiler::Profiler,
    python::{self, Python},
    serial::serial,
    skip::skip,
    venv,
    workload::{self, Workload},
    workshop::Workshop,
};

use crate::RATE;

const PYENV: [&str; 6] = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"];

#[test]
fn code_in_a_subinterpreter_has_its_own_frames_and_those_of_its_host_below() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "subinterpreter.py", &[])?;
        let pid = workload.pid.to_string();
        let arguments = [
            "-p",
            &pid,
            "-t",
            "-d",
            "2",
            "-r",
            RATE,
            "--no-kernel",
            "-f",
            "folded",
            "-o",
            "-",
        ];
        let outcome = Profiler::record(&arguments).succeed()?;
        let folded = outcome.folded()?;
        let thread = |name: &str| -> Result<_> {
            let tid = workload.truth[0][name].as_u64().context("no thread id")?;
            Ok(folded.below(&format!("thread {tid}:")))
        };
        let (inside, outside) = (thread("inside")?, thread("outside")?);
        ensure!(inside.total() > 50 && outside.total() > 50, "{folded}");
        // Before 3.12 thread-local storage names the state of the interpreter the thread came from, and only the owner of
        // the (one) GIL tells that it is in another: while it waits for the GIL, or has given it up, that is marked.
        let is_whole = |stack: &[String]| {
            has_chain_among_python(stack, &["run_in_subinterpreter", "<module>", "inside"])
                && has_unseen(stack).is_none()
                && stack.iter().any(|frame| frame.starts_with("<module> (<s"))
        };
        let is_marked =
            |stack: &[String]| python.version < (3, 12) && has_unseen(stack) == Some("[Python frames not found]");
        let least = if python.version < (3, 12) { 0.95 } else { 0.99 };
        ensure!(
            inside.share(is_whole) >= least && inside.share(|stack| is_whole(stack) || is_marked(stack)) >= 0.99,
            "inside: {:.1} % are whole\n{inside}\n{}",
            inside.share(is_whole) * 100.0,
            outcome.stderr
        );
        let share = outside.share(|stack| has_chain_among_python(stack, &["<module>", "outside"]));
        ensure!(share >= 0.99, "outside: {:.1} %\n{outside}", share * 100.0);
        ensure!(
            inside.share_of("inside_leaf") > 0.9 && outside.share_of("outside_leaf") > 0.9,
            "{folded}"
        );
        ensure!(
            outside.count_of("inside") == 0 && inside.count_of("outside") == 0,
            "{folded}"
        );
        Ok(())
    })
}

#[test]
fn a_greenlets_stack_begins_with_its_own_first_function() -> Result<()> {
    let _serial = serial();
    let pythons: Vec<Python> = python::all()?
        .into_iter()
        .filter(|python| python.executable.to_string_lossy().contains("pyenv"))
        .collect();
    python::each_of(&pythons, |python| {
        let Some(interpreter) = venv::with(python, &["greenlet"])? else {
            return Ok(());
        };
        let workshop = Workshop::new()?;
        let mut command = Command::new(interpreter);
        command.arg(workshop.copy("greenlets.py")?);
        let workload = Workload::command(command, None)?;
        let pid = workload.pid.to_string();
        let outcome = Profiler::record(&[
            "-p",
            &pid,
            "-d",
            "1",
            "-r",
            RATE,
            "--no-kernel",
            "-f",
            "folded",
            "-o",
            "-",
        ])
        .succeed()?;
        let folded = outcome.folded()?;
        for (leaf, own, others) in [
            (
                "leaf_a",
                ["body_a", "leaf_a", "spin"],
                ["starts_b", "body_b", "in_main", "<module>"],
            ),
            (
                "leaf_b",
                ["body_b", "leaf_b", "spin"],
                ["starts_b", "body_a", "in_main", "<module>"],
            ),
            (
                "in_main",
                ["<module>", "in_main", "spin"],
                ["starts_b", "body_a", "body_b", "in_turn"],
            ),
        ] {
            let of_leaf = folded.only(|stack| has(stack, leaf));
            let right = of_leaf.share(|stack| {
                has_chain_among_python(stack, &own)
                    && !others.iter().any(|other| has(stack, other))
                    // The evaluation loop of nobody.
                    && has_unseen(stack).is_none()
                    && !has(stack, "_PyEval_EvalFrameDefault")
            });
            ensure!(
                of_leaf.total() > 15 && right >= 0.97,
                "{leaf}: {:.1} %\n{of_leaf}\n{}",
                right * 100.0,
                outcome.stderr
            );
        }
        let whole = folded.share(|stack| !stack.iter().any(|frame| frame.starts_with("[native stack")));
        ensure!(
            whole >= 0.98,
            "{:.1} % are whole\n{folded}\n{}",
            whole * 100.0,
            outcome.stderr
        );
        Ok(())
    })
}

/// The first marker in a stack that stands for Python frames which are not shown.
fn has_unseen(stack: &[String]) -> Option<&str> {
    let mut frames = stack.iter().map(String::as_str);
    frames.find(|frame| frame.starts_with("[frames of another ") || *frame == "[Python frames not found]")
}

#[test]
fn a_second_cpython_of_a_process_is_named_and_its_place_in_stacks_marked() -> Result<()> {
    let _serial = serial();
    let (_directory, program) = compile("two_pythons.c", "two plug-ins", &["-ldl".into(), "-lpthread".into()])?;
    for (first, second) in [("3.8", "3.13"), ("3.12", "3.10"), ("3.13", "3.11")] {
        let (Some(one), Some(other)) = (libpython(first), libpython(second)) else {
            skip(format!("pyenv lacks CPython {first} or {second}"));
            continue;
        };
        let mut command = Command::new(&program);
        for (library, prefix) in [&one, &other] {
            command.arg(library).arg(prefix);
        }
        let workload = Workload::command(command, None)?;
        check_two(&workload, first, second).with_context(|| format!("{first} and {second}"))?;
    }
    Ok(())
}

#[test]
fn a_cpython_that_is_only_mapped_is_neither_walked_nor_told_of() -> Result<()> {
    let _serial = serial();
    let (Some(python), Some((library, _))) = (python::pyenv("3.12"), libpython("3.13")) else {
        skip("pyenv lacks CPython 3.12 or 3.13");
        return Ok(());
    };
    let script = "import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
def spins():
    while True:
        pass
print('READY', flush=True)
spins()";
    let mut command = Command::new(python);
    command.args(["-c", script]).arg(library);
    let workload = Workload::command(command, None)?;
    let pid = workload.pid.to_string();
    let outcome = Profiler::record(&["-p", &pid, "-d", "1", "-f", "folded", "-o", "-"]).succeed()?;
    let folded = outcome.folded()?;
    ensure!(
        folded.total() > 20 && folded.share_of("spins") >= 0.99 && !outcome.stderr.contains("CPython"),
        "{folded}\n{}",
        outcome.stderr
    );
    Ok(())
}

fn check_two(workload: &Workload, first: &str, second: &str) -> Result<()> {
    let pid = workload.pid.to_string();
    let outcome = Profiler::record(&["-p", &pid, "-t", "-d", "2", "-r", RATE, "-f", "folded", "-o", "-"]).succeed()?;
    let folded = outcome.folded()?;
    let says = |text: &str| outcome.stderr.contains(text);
    // Which one is walked is for the order in which they lie in memory to say.
    let shown = if folded.count_of("inner_of_first") > 0 {
        "first"
    } else {
        "second"
    };
    let hidden = if shown == "first" { second } else { first };
    let named = format!("process {pid} has a second CPython, ");
    ensure!(
        says(&named) && says(&format!("libpython{hidden}.so.1.0: its frames are not shown")),
        "{hidden} is not named\n{}",
        outcome.stderr
    );
    let marker = "[frames of another CPython]";
    let is_marked = |stack: &[String]| has_unseen(stack) == Some(marker);
    let has_shown =
        |stack: &[String]| has_chain_among_python(stack, &[&format!("outer_of_{shown}"), &format!("inner_of_{shown}")]);
    // The thread of the second alone.
    let is_whole = |stack: &[String]| !stack.iter().any(|frame| frame.starts_with("[native stack"));
    let alone = folded.only(|stack| stack[0].starts_with("alone ") && is_whole(stack));
    let right = alone.share(|stack| match shown {
        "first" => is_marked(stack) && !has_shown(stack),
        _ => has_shown(stack) && !is_marked(stack),
    });
    // Between two calls there are no frames of either.
    ensure!(alone.total() > 50 && right >= 0.95, "alone: {right}\n{alone}");
    ensure!(
        alone.count_of("outer_of_first") == 0,
        "frames of the first in a thread of the second\n{alone}"
    );
    // The other: the first calls C, which calls the second. The marker is where the frames are missing.
    let both = folded.only(|stack| !stack[0].starts_with("alone ") && has(stack, "host_callback") && is_whole(stack));
    let place = |stack: &[String], wanted: &str| stack.iter().position(|frame| frame == wanted || is(frame, wanted));
    let right = both.share(|stack| {
        let (Some(host), Some(missing)) = (place(stack, "host_callback"), place(stack, marker)) else {
            return false;
        };
        match shown {
            "first" => place(stack, "calls_host").is_some_and(|at| at < host) && host < missing,
            _ => missing < host && place(stack, "inner_of_second").is_some_and(|at| host < at),
        }
    });
    ensure!(both.total() > 20 && right >= 0.95, "both: {right}\n{both}");
    ensure!(
        says("with marked frames of another interpreter"),
        "said to be complete\n{}",
        outcome.stderr
    );

    for (arguments, wanted) in [
        (
            ["memory", "-p", pid.as_str(), "-d", "0.2"],
            "its small objects are followed by page only",
        ),
        (["calls", "-p", pid.as_str(), "-d", "0.2"], "its calls are not counted"),
    ] {
        let outcome = Profiler::bare().args(arguments).succeed()?;
        ensure!(
            outcome.stderr.contains(&named) && outcome.stderr.contains(wanted),
            "{arguments:?} does not tell\n{}",
            outcome.stderr
        );
    }
    Ok(())
}

#[test]
fn a_program_that_loads_libpython_later_is_a_python() -> Result<()> {
    let _serial = serial();
    let (_directory, program) = compile("embed_dlopen.c", "billing-daemon", &["-ldl".into(), "-lpthread".into()])?;
    python::each_of(&PYENV, |version| {
        let Some((library, prefix)) = libpython(version) else {
            skip(format!("pyenv has no CPython {version}"));
            return Ok(());
        };
        let script = workload::sources().join("spin.py");
        let mut command = Command::new(&program);
        command
            .arg(&library)
            .arg(&script)
            .env("PYTHONHOME", &prefix)
            .env("PYTHONUTF8", "1");
        check_spin(command).with_context(|| format!("{} in {}", library.display(), program.display()))
    })
}

#[test]
fn a_program_that_is_linked_with_libpython_is_a_python() -> Result<()> {
    let _serial = serial();
    for version in ["3.8", "3.12"] {
        let Some((library, prefix)) = libpython(version) else {
            skip(format!("pyenv has no CPython {version}"));
            continue;
        };
        let folder = library.parent().context("no folder")?;
        let flags = [
            format!("-I{}", prefix.join(format!("include/python{version}")).display()),
            format!("-L{}", folder.display()),
            format!("-Wl,-rpath,{}", folder.display()),
            format!("-lpython{version}"),
        ];
        let (_directory, program) = compile("embed_linked.c", "no snake here", &flags)?;
        let mut command = Command::new(&program);
        command
            .arg(workload::sources().join("spin.py"))
            .env("PYTHONHOME", &prefix);
        check_spin(command).with_context(|| format!("linked with {version}"))?;
    }
    Ok(())
}

#[test]
fn virtual_environments_and_links_are_seen_through() -> Result<()> {
    let _serial = serial();
    let pythons: Vec<_> = python::all()?
        .into_iter()
        .filter(|python| python.root.is_none())
        .collect();
    python::each_of(&pythons, |python| {
        let directory = tempfile::tempdir()?;
        let script = workload::sources().join("spin.py");
        for (name, flag) in [("linked", "--symlinks"), ("copied", "--copies")] {
            let place = directory.path().join(name);
            let made = python
                .command()
                .args(["-m", "venv", "--without-pip", flag])
                .arg(&place)
                .output()?;
            ensure!(
                made.status.success(),
                "no virtual environment: {}",
                String::from_utf8_lossy(&made.stderr)
            );
            let mut command = Command::new(place.join("bin/python"));
            command.arg(&script);
            if let (Some(library), "copied") = (library_folder(python), name) {
                command.env("LD_LIBRARY_PATH", library);
            }
            check_spin(command).with_context(|| format!("{name} virtual environment"))?;
        }
        let link = directory.path().join("odd name");
        symlink(&python.executable, &link)?;
        let mut command = Command::new(&link);
        command.arg(&script);
        check_spin(command).context("link")
    })
}

#[test]
fn an_interpreter_whose_file_is_deleted_is_still_named() -> Result<()> {
    let _serial = serial();
    python::each_of(&PYENV, |version| {
        let Some((library, prefix)) = libpython(version) else {
            skip(format!("pyenv has no CPython {version}"));
            return Ok(());
        };
        let directory = tempfile::tempdir()?;
        let executable = directory.path().join("python-copy");
        let library_copy = directory.path().join(library.file_name().context("no name")?);
        fs::copy(prefix.join(format!("bin/python{version}")), &executable)?;
        fs::copy(&library, &library_copy)?;
        check_deleted(&executable, &[&library_copy], &prefix, directory.path())
    })?;
    let Some(debian) = python::debian()? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let executable = directory.path().join("python-copy");
    fs::copy(&debian.executable, &executable)?;
    check_deleted(&executable, &[], Path::new("/usr"), directory.path()).context("Debian's")
}

fn check_deleted(executable: &Path, libraries: &[&Path], home: &Path, directory: &Path) -> Result<()> {
    let mut command = Command::new(executable);
    command
        .arg(workload::sources().join("spin.py"))
        .env("PYTHONHOME", home)
        .env("LD_LIBRARY_PATH", directory);
    let workload = Workload::command(command, None)?;
    for file in libraries.iter().chain([&executable]) {
        fs::remove_file(file)?;
    }
    check_spin_of(&workload, &["-p", &workload.pid.to_string()])?;
    // As part of the machine as well, where files are found on another way.
    check_spin_of(&workload, &["-a"])
}

/// Runs what ends in `spin.py` and checks that its chain is seen.
fn check_spin(command: Command) -> Result<()> {
    let workload = Workload::command(command, None)?;
    check_spin_of(&workload, &["-p", &workload.pid.to_string()])
}

fn check_spin_of(workload: &Workload, target: &[&str]) -> Result<()> {
    let outcome = Profiler::record(target)
        .args(["-d", "1", "-r", "299", "-f", "folded", "-o", "-"])
        .succeed()?;
    let mut folded = outcome.folded()?;
    if target == ["-a"] {
        folded = folded.below(&format!("process {}:", workload.pid));
    }
    let share = folded.share(|stack| has_chain_among_python(stack, &["<module>", "outer", "middle", "inner"]));
    ensure!(
        folded.total() > 50 && share >= 0.99,
        "{:.1} % are whole\n{folded}\n{}",
        share * 100.0,
        outcome.stderr
    );
    Ok(())
}

/// The shared library of a pyenv interpreter and the prefix of its installation.
fn libpython(version: &str) -> Option<(PathBuf, PathBuf)> {
    let prefix = python::pyenv(version)?.parent()?.parent()?.to_owned();
    let library = prefix.join(format!("lib/libpython{version}.so.1.0"));
    library.exists().then_some((library, prefix))
}

fn library_folder(python: &Python) -> Option<PathBuf> {
    let folder = python.executable.parent()?.parent()?.join("lib");
    folder
        .join(format!("libpython{}.{}.so.1.0", python.version.0, python.version.1))
        .exists()
        .then_some(folder)
}
