//! `profiler dump`: nothing of a program is touched, and none can harm who looks at it.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{dump, native::compile, profiler::Profiler, python, serial::serial, workload::Workload};

/// Two seconds, and what a busy machine adds.
const SOON: Duration = Duration::from_secs(6);

#[test]
fn objects_that_are_endless_circular_or_huge_are_told_soon_and_do_nothing_to_the_terminal() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "dump_hostile.py", &[])?;
        for options in [&["-l"][..], &["-ll"], &["-ll", "-j"], &["--tasks"]] {
            let began = Instant::now();
            let text = String::from_utf8(dump::text(workload.pid, options)?.success()?.stdout)?;
            ensure!(began.elapsed() < SOON, "{options:?}: {:?}", began.elapsed());
            ensure!(text.len() < 4 << 20, "{options:?}: {} bytes", text.len());
            ensure!(!text.contains(['\x1b', '\x07', '\u{202e}']), "{options:?}: {text:?}");
        }
        Ok(())
    })
}

#[test]
fn a_program_that_lies_in_all_of_its_memory_is_read_soon_and_in_little_memory() -> Result<()> {
    let _serial = serial();
    let (_directory, program) = compile("liar.c", "liar", &["-ldl".into(), "-lpthread".into()])?;
    for minor in ["3.8", "3.11", "3.13"] {
        let Some(python) = python::pyenv(minor) else { continue };
        let home = python
            .parent()
            .and_then(|bin| bin.parent())
            .context("no home")?
            .to_owned();
        let library = home.join(format!("lib/libpython{minor}.so.1.0"));
        for lies in ["all", "states"] {
            let mut command = Command::new(&program);
            command
                .arg(&library)
                .arg(lies)
                .env("PYTHONHOME", &home)
                .stderr(Stdio::null());
            let mut liar = Workload::command(command, None)?;
            for options in [&[][..], &["-ll"], &["--tasks"], &["-n"], &["-j", "-ll"]] {
                let began = Instant::now();
                let outcome = dump::text(liar.pid, options)?;
                let what = format!("{options:?} of a liar ({lies}) with {minor}");
                ensure!(began.elapsed() < SOON, "{what}: {:?}", began.elapsed());
                ensure!(
                    matches!(outcome.code(), 0 | 3),
                    "{what}: {} {}",
                    outcome.code(),
                    outcome.stderr
                );
                ensure!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
                ensure!(!String::from_utf8_lossy(&outcome.stdout).contains('\x1b'), "{what}");
                ensure!(liar.is_running()?, "{what}: it is gone");
            }
        }
    }
    Ok(())
}

#[test]
fn a_busy_program_goes_on_as_before_while_it_is_looked_at() -> Result<()> {
    let _serial = serial();
    let mut workload = Workload::python(&python::any()?, "dump_busy.py", &[])?;
    let status = |pid: u32| -> Result<String> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kept = status
            .lines()
            .filter(|line| line.starts_with("TracerPid") || line.starts_with("SigPnd"));
        Ok(kept.collect::<Vec<_>>().join("\n"))
    };
    let before = status(workload.pid)?;
    for _ in 0..50 {
        dump::text(workload.pid, &[])?.success()?;
        ensure!(status(workload.pid)? == before, "something was done to it");
    }
    ensure!(workload.is_running()?);
    workload.tell("how many")?;
    ensure!(workload.value()?["count"].as_u64() > Some(0));
    Ok(())
}

#[test]
fn what_cannot_be_looked_at_is_refused_in_a_line_that_says_why() -> Result<()> {
    let _serial = serial();
    let mut zombie = Command::new("true").spawn()?;
    let stat = format!("/proc/{}/stat", zombie.id());
    let patience = Instant::now();
    while !fs::read_to_string(&stat)?.contains(") Z ") {
        ensure!(patience.elapsed() < Duration::from_secs(10), "it does not end");
        std::thread::yield_now();
    }
    let gone = i32::MAX.to_string();
    for (pid, words) in [
        (zombie.id().to_string(), "has ended and only waits"),
        ("2".to_owned(), "thread of the kernel"),
        (gone, "there is no process"),
    ] {
        let outcome = Profiler::bare().args(["dump", "-p", &pid]).run()?;
        ensure!(outcome.code() == 1, "{pid}: {} {}", outcome.code(), outcome.stderr);
        ensure!(
            outcome.stderr.starts_with("error: ")
                && outcome.stderr.contains(words)
                && outcome.stderr.lines().count() == 1,
            "{pid}: {}",
            outcome.stderr
        );
        ensure!(outcome.stdout.is_empty());
    }
    zombie.wait()?;
    let outcome = Profiler::bare().arg("dump").run()?;
    ensure!(
        outcome.code() == 2 && outcome.stderr.contains("-p 4242"),
        "{}",
        outcome.stderr
    );
    Ok(())
}

#[test]
fn a_program_that_is_no_python_has_its_threads_and_their_states() -> Result<()> {
    let _serial = serial();
    let mut child = Command::new("sleep").arg("1000").spawn()?;
    let outcome = dump::text(child.id(), &[]);
    let outcome = outcome.and_then(|outcome| {
        ensure!(outcome.code() == 3, "{} {}", outcome.code(), outcome.stderr);
        let text = String::from_utf8_lossy(&outcome.stdout);
        ensure!(
            text.contains("no Python in it") && text.contains("\"sleep\": sleeps"),
            "{text}"
        );
        Ok(())
    });
    child.kill()?;
    child.wait()?;
    outcome
}

/// The same user's processes may be read where Yama lets it; this process has started it, which it always lets.
#[test]
fn who_is_not_root_can_look_at_what_is_theirs() -> Result<()> {
    const NOBODY: &str = "65534";
    let _serial = serial();
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    if !matches!(scope.trim(), "" | "0") {
        profiler_tests::skip::skip(format!("Yama lets nobody read what is not below them: {scope}"));
        return Ok(());
    }
    let Some(python) = python::debian()? else { return Ok(()) };
    let as_nobody = |program: &std::path::Path| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
            .arg(program);
        command
    };
    let directory = profiler_tests::workload::copy(&python)?;
    let mut command = as_nobody(&python.executable);
    command.arg(directory.path().join("dump_still.py"));
    let workload = Workload::command(command, Some(directory))?;
    // Where the tests' build is, others need not be let in.
    let place = tempfile::tempdir()?;
    let copy = place.path().join("profiler");
    fs::copy(profiler_tests::profiler::binary(), &copy)?;
    for path in [place.path(), &copy] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let output = as_nobody(&copy)
        .args(["dump", "-p", &workload.pid.to_string()])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && text.contains("> pipe ("),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // And what is somebody else's is refused with what to do.
    let output = as_nobody(&copy)
        .args(["dump", "-p", &std::process::id().to_string()])
        .output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && words.contains("sudo"), "{words}");
    Ok(())
}
