//! `profiler dump -c`: a process that has died has the threads, frames and variables that it had. And native frames.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    dump::{Dump, Place, places},
    profiler::Profiler,
    python,
    serial::serial,
    skip::skip,
    workload::{self, Workload},
};

#[test]
fn a_core_file_has_the_frames_that_the_program_had_when_it_died() -> Result<()> {
    let _serial = serial();
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    if pattern.trim() != "core" {
        skip(format!(
            "core files do not go to the current directory: {}",
            pattern.trim()
        ));
        return Ok(());
    }
    python::each(|python| {
        if python.root.is_some() {
            return Ok(()); // Its files are elsewhere, as in any other container: not the interpreter decides that.
        }
        let directory = workload::copy(python)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh"])
            .arg(&python.executable)
            .arg(directory.path().join("dump_still.py"))
            .current_dir(directory.path());
        let place = directory.path().to_owned();
        let mut workload = Workload::command(command, Some(directory))?;
        // SAFETY: kill has no memory to get wrong.
        unsafe { libc::kill(libc::pid_t::try_from(workload.pid)?, libc::SIGABRT) };
        workload.wait()?;
        let core = ["core".to_owned(), format!("core.{}", workload.pid)]
            .into_iter()
            .map(|name| place.join(name))
            .find(|path| path.exists())
            .context("no core file")?;
        let outcome = Profiler::bare()
            .args(["dump", "-j", "-l", "-n", "-c"])
            .arg(&core)
            .run()?
            .success()?;
        let dump = Dump::read(&outcome)?;
        for (name, truth) in workload.truth[0]["threads"].as_object().context("no threads")? {
            let thread = dump.thread(truth["tid"].as_u64().context("no number")?)?;
            let expected: Vec<Place> = serde_json::from_value(truth["stack"].clone())?;
            ensure!(
                thread["thread_name"] == **name && places(thread)? == expected,
                "{name}: {thread:#}"
            );
        }
        ensure!(dump.named("locker")?["state"] == "lock");
        let dead: Vec<_> = dump
            .threads
            .iter()
            .filter(|thread| thread["died_of"] == libc::SIGABRT)
            .collect();
        ensure!(dead.len() == 1, "{} died", dead.len());
        ensure!(dump.threads.iter().all(|thread| thread["pid"] == workload.pid));
        Ok(())
    })
}

#[test]
fn what_is_no_core_file_is_refused() -> Result<()> {
    let _serial = serial();
    for (file, words) in [
        ("/bin/true", "is not a core file"),
        ("/nowhere", "cannot read /nowhere"),
    ] {
        let outcome = Profiler::bare().args(["dump", "-c", file]).run()?;
        ensure!(
            outcome.code() == 1 && outcome.stderr.contains(words) && outcome.stderr.lines().count() == 1,
            "{file}: {}",
            outcome.stderr
        );
    }
    Ok(())
}

#[test]
fn threads_that_wait_have_the_native_frames_above_their_python_ones() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "dump_still.py", &[])?;
        let dump = Dump::of(workload.pid, &["-n"])?;
        // One of what the C library's function for it can be called. Above it lie some that have no name.
        for (thread, functions) in [
            ("client", &["recv"][..]),
            ("pipe", &["read"]),
            ("sleeper", &["nanosleep", "select"]),
        ] {
            let frames = dump.named(thread)?["native_frames"]
                .as_array()
                .with_context(|| format!("{thread}: none"))?;
            let names: Vec<&str> = frames.iter().filter_map(|frame| frame["name"].as_str()).collect();
            let is_it = |name: &&str| functions.iter().any(|function| name.contains(function));
            ensure!(names.iter().take(5).any(is_it), "{thread}: {names:?}");
            ensure!(frames.len() >= 3, "{thread}: {names:?}");
        }
        Ok(())
    })
}

#[test]
fn a_thread_that_runs_has_native_frames_of_the_moment_of_its_python_ones() -> Result<()> {
    // At first it has not begun to add.
    const MOST: usize = 50;
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "dump_native.py", &[])?;
    for _ in 0..MOST {
        let dump = Dump::of(workload.pid, &["-n"])?;
        // It has but one, which nobody named: it knows nothing of `threading`.
        let thread = dump.threads.first().context("no thread")?;
        let is_adding = places(thread)?.first().is_some_and(|(name, ..)| name == "adding");
        if !is_adding || thread["state"] != "running" || thread["held_still"] != true {
            continue;
        }
        ensure!(thread["native_held_still"] == true, "{thread:#}");
        let frames = thread["native_frames"].as_array().context("none")?;
        let at = |name: &str| frames.iter().position(|frame| frame["name"] == name);
        let adds = at("builtin_sum").with_context(|| format!("{thread:#}"))?;
        // Below it the interpreter, down to the beginning.
        ensure!(at("_start").is_some_and(|start| start > adds), "{thread:#}");
        return Ok(());
    }
    anyhow::bail!("it never added, or never held still, in {MOST} dumps")
}
