//! `profiler record … -- command`.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::Folded,
    process,
    profiler::{Outcome, Profiler},
    python::{self, Python},
    serial::serial,
    workload,
};
use tempfile::TempDir;

use crate::{COMPLETE, HERTZ, RATE};

/// Runs `command.py` under the profiler; the profile is beside it, in a file.
fn run(python: &Python, arguments: &[&str], variables: &[(&str, &str)]) -> Result<(Outcome, Folded)> {
    let (directory, profiler) = prepare(python, arguments)?;
    let profiler = variables
        .iter()
        .fold(profiler, |profiler, (name, value)| profiler.env(name, value));
    let outcome = profiler.run()?;
    let folded = fs::read_to_string(directory.path().join("out.folded")).with_context(|| outcome.stderr.clone())?;
    Ok((outcome, Folded::parse(&folded)?))
}

fn prepare(python: &Python, arguments: &[&str]) -> Result<(TempDir, Profiler)> {
    let directory = workload::copy(python)?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777))?;
    let profiler = Profiler::record(&["-r", RATE, "-o"])
        .arg(directory.path().join("out.folded"))
        .arg("--")
        .arg(&python.executable)
        .arg(directory.path().join("command.py"))
        .args(arguments);
    Ok((directory, profiler))
}

#[test]
fn a_command_is_sampled_from_its_first_line_and_keeps_its_output() -> Result<()> {
    let _serial = serial();
    let pythons: Vec<_> = python::all()?
        .into_iter()
        .filter(|python| python.root.is_none())
        .collect();
    python::each_of(&pythons, |python| {
        let (outcome, folded) = run(python, &["exit", "0"], &[])?;
        ensure!(outcome.code() == 0, "{}", outcome.stderr);
        ensure!(
            outcome.stdout == b"to standard output\n",
            "{:?}",
            String::from_utf8_lossy(&outcome.stdout)
        );
        outcome.line("the command has ended")?;
        // 0.3 s from its very start.
        let share = folded.count_of("first_lines") as f64 / (0.3 * HERTZ);
        ensure!(
            COMPLETE.contains(&share),
            "{:.1} % of the first lines\n{folded}",
            share * 100.0
        );
        Ok(())
    })
}

#[test]
fn the_exit_status_is_the_commands() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    for (arguments, expected) in [
        (["exit", "3"], 3),
        (["exit", "255"], 255),
        (["kill", "9"], 137),
        (["kill", "15"], 143),
    ] {
        let (outcome, folded) = run(&python, &arguments, &[])?;
        ensure!(
            outcome.code() == expected,
            "{arguments:?} ended with {}: {}",
            outcome.code(),
            outcome.stderr
        );
        ensure!(folded.count_of("first_lines") > 100, "{folded}");
    }
    Ok(())
}

#[test]
fn under_sudo_the_command_is_the_users_who_called_it() -> Result<()> {
    let _serial = serial();
    // Debian's: pyenv's interpreters are in root's home, which nobody else may enter.
    let Some(python) = python::debian()? else { return Ok(()) };
    let sudo = [
        ("SUDO_UID", "65534"),
        ("SUDO_GID", "65534"),
        ("SUDO_USER", "nobody"),
        ("SUDO_COMMAND", "profiler"),
    ];
    let (directory, profiler) = prepare(&python, &["who"])?;
    // The profile is written with that user's rights.
    std::os::unix::fs::chown(directory.path(), Some(65534), Some(65534))?;
    let profiler = sudo
        .iter()
        .fold(profiler, |profiler, (name, value)| profiler.env(name, value));
    let outcome = profiler.run()?.success()?;
    let who = String::from_utf8_lossy(&outcome.stdout).into_owned();
    ensure!(who.starts_with("65534 65534 [65534] "), "{who}{}", outcome.stderr);
    ensure!(who.trim().ends_with("[]"), "variables of sudo are left: {who}");
    ensure!(!who.contains("/root"), "HOME is root's: {who}");
    // The profile is that user's, too.
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(directory.path().join("out.folded"))?);
    ensure!(owner == 65534, "the profile belongs to {owner}");
    let folded = Folded::parse(&fs::read_to_string(directory.path().join("out.folded"))?)?;
    ensure!(folded.count_of("first_lines") > 100, "{folded}");

    let (outcome, _) = run(&python, &["who"], &[])?;
    ensure!(
        outcome.stdout.starts_with(b"0 0 "),
        "{:?}",
        String::from_utf8_lossy(&outcome.stdout)
    );
    Ok(())
}

#[test]
fn sigterm_is_passed_on_to_the_command() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let (directory, profiler) = prepare(&python, &["wait"])?;
    let recording = profiler.start()?;
    // It handles the signal once it has come that far; its time is known.
    let child = child_of(recording.pid())?;
    process::until(Duration::from_secs(20), "the command handles SIGTERM", || {
        let caught = process::status_field(child, "SigCgt").ok();
        let caught = caught.and_then(|mask| u64::from_str_radix(&mask, 16).ok()).unwrap_or(0);
        caught & 1 << (libc::SIGTERM - 1) != 0
    })?;
    recording.signal(libc::SIGTERM)?;
    let outcome = recording.finish()?;
    ensure!(outcome.code() == 7, "ended with {}: {}", outcome.code(), outcome.stderr);
    ensure!(
        outcome.stdout.ends_with(b"signal 15\n"),
        "{:?}",
        String::from_utf8_lossy(&outcome.stdout)
    );
    let folded = Folded::parse(&fs::read_to_string(directory.path().join("out.folded"))?)?;
    ensure!(folded.count_of("first_lines") > 100, "{folded}");
    Ok(())
}

#[test]
fn a_recording_that_ends_first_waits_for_the_command() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let directory = workload::copy(&python)?;
    let file = directory.path().join("out.folded");
    let outcome = Profiler::record(&["-r", RATE, "-d", "300ms", "-o"])
        .arg(&file)
        .args(["--", "sh", "-c", "sleep 1; echo later; exit 5"])
        .run()?;
    ensure!(outcome.code() == 5, "ended with {}: {}", outcome.code(), outcome.stderr);
    ensure!(
        outcome.stdout == b"later\n",
        "{:?}",
        String::from_utf8_lossy(&outcome.stdout)
    );
    ensure!(file.exists(), "no profile: {}", outcome.stderr);
    Ok(())
}

fn child_of(pid: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let child = children.split_whitespace().next().context("no child")?;
    child.parse().context("not a pid")
}
