//! What bad input gets: a line that names the remedy, the right status, nothing recorded and nothing left behind.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::Folded,
    process,
    profiler::{Outcome, Profiler, binary},
    python,
    serial::serial,
    skip::skip,
    workload::{self, Workload},
};
use tempfile::TempDir;

use crate::RATE;

/// Runs it in an empty directory, where nothing may be left, and checks status and message. Each of `words` must be in
/// the message.
fn refused(profiler: Profiler, code: i32, words: &[&str]) -> Result<Outcome> {
    let directory = tempfile::tempdir()?;
    let outcome = profiler.current_dir(directory.path()).run()?;
    is_refusal(&outcome, code, words)?;
    let left: Vec<PathBuf> = fs::read_dir(directory.path())?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(outcome)
}

fn is_refusal(outcome: &Outcome, code: i32, words: &[&str]) -> Result<()> {
    let said = &outcome.stderr;
    ensure!(
        outcome.code() == code,
        "ended with {}, not {code}: {said}",
        outcome.code()
    );
    ensure!(
        !said.contains("panicked") && !said.contains("RUST_BACKTRACE"),
        "panicked: {said}"
    );
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors[..] else {
        anyhow::bail!("not one line that starts with `error: `: {said}")
    };
    // clap says more on further lines; we do not.
    ensure!(
        code == 2 || !said.contains(" samples in "),
        "something was recorded: {said}"
    );
    ensure!(code == 2 || !error.ends_with('.'), "a full stop: {error}");
    for word in words {
        ensure!(said.contains(word), "does not say {word:?}: {said}");
    }
    Ok(())
}

#[test]
fn a_pid_that_is_not_there_is_named() -> Result<()> {
    let _serial = serial();
    let gone = gone_pid()?;
    let outcome = refused(Profiler::record(&["-p", &gone]), 1, &[&gone, "ps -e"])?;
    ensure!(
        outcome.stderr.lines().count() == 1,
        "more than one line: {}",
        outcome.stderr
    );
    refused(Profiler::record(&["--tid", &gone]), 1, &[&gone, "ps -eL"])?;
    refused(Profiler::record(&["-p", "0"]), 2, &["4242"])?;
    refused(Profiler::record(&["-p", "x"]), 2, &["4242"])?;
    refused(Profiler::record(&["-p", "4294967295"]), 1, &["no process"])?;
    Ok(())
}

#[test]
fn a_rate_that_cannot_be_is_answered_with_those_that_can() -> Result<()> {
    let _serial = serial();
    for rate in ["0", "99999999", "99999999999999999999999", "0hz"] {
        refused(Profiler::record(&["-a", "-r", rate, "-d", "1"]), 2, &["20000"])?;
    }
    for rate in ["x", "-1", "1.5", ""] {
        refused(
            Profiler::record(&["-a", &format!("--rate={rate}"), "-d", "1"]),
            2,
            &["such as 99"],
        )?;
    }
    Ok(())
}

#[test]
fn usage_errors_end_with_2() -> Result<()> {
    let _serial = serial();
    refused(Profiler::record(&[]), 2, &["-p", "-a", "--"])?;
    refused(Profiler::record(&["-a", "-p", "1"]), 2, &["exclude"])?;
    refused(Profiler::record(&["-a", "--", "true"]), 2, &["exclude"])?;
    refused(Profiler::record(&["-a", "--no-such-option"]), 2, &["--no-such-option"])?;
    refused(Profiler::record(&["-a", "-d", "soon"]), 2, &["30s"])?;
    refused(Profiler::record(&["-a", "-d", "0"]), 2, &["30s"])?;
    refused(
        Profiler::record(&["-a", "-f", "png"]),
        2,
        &["svg", "folded", "speedscope", "pprof"],
    )?;
    refused(
        Profiler::record(&["-a", "-o", "flame.png"]),
        2,
        &["flame.png", ".svg", ".pb.gz", "-f"],
    )?;
    refused(Profiler::record(&["-a", "-q", "-v"]), 2, &["cannot be used with"])?;
    refused(
        Profiler::record(&["-a", "-o", "-", "--summary-json", "-"]),
        2,
        &["standard output"],
    )?;
    refused(
        memory(&["-a", "--every", "1s", "--curve", "curve.png"]),
        2,
        &["curve.png", ".csv, .json, or .dat"],
    )?;
    Ok(())
}

fn memory(arguments: &[&str]) -> Profiler {
    Profiler::bare().arg("memory").args(arguments)
}

fn calls(arguments: &[&str]) -> Profiler {
    Profiler::bare().arg("calls").args(arguments)
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_recording() -> Result<()> {
    let _serial = serial();
    let directory = tempfile::tempdir()?;
    let existing = directory.path().join("existing.svg");
    fs::write(&existing, "precious")?;
    // A recording of an hour: only who checks before comes back.
    let record = |output: &Path| Profiler::record(&["-a", "-d", "1h", "-o"]).arg(output);

    refused(record(&existing), 1, &["existing.svg", "--force"])?;
    ensure!(fs::read_to_string(&existing)? == "precious", "it was overwritten");
    refused(
        record(&directory.path().join("missing/out.svg")),
        1,
        &["missing", "mkdir"],
    )?;
    refused(record(&existing.join("out.svg")), 1, &["existing.svg", "-o"])?;
    refused(
        record(directory.path()).arg("-f").arg("svg"),
        1,
        &["is a directory", "-o"],
    )?;
    refused(record(Path::new("/proc/out.svg")), 1, &["/proc", "-o"])?;
    // What is written besides is looked at as early.
    let missing = directory.path().join("missing/x.json");
    let curve = ["--every", "1s", "-d", "1h", "--curve"];
    refused(memory(&["-a"]).args(curve).arg(&missing), 1, &["missing", "--curve"])?;
    let summary = ["-a", "-d", "1h", "-f", "svg", "-o", "/dev/null", "--summary-json"];
    refused(
        Profiler::record(&summary).arg(&missing),
        1,
        &["missing", "--summary-json"],
    )?;
    let left: Vec<_> = fs::read_dir(directory.path())?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    ensure!(left.len() == 1, "left behind: {left:?}");

    // And with --force it is replaced.
    let mut profiler = Profiler::record(&["-a", "-d", "200ms", "--force", "-o"]);
    profiler = profiler.arg(&existing);
    profiler.succeed()?;
    ensure!(
        fs::read_to_string(&existing)?.starts_with("<?xml"),
        "it was not replaced"
    );
    Ok(())
}

#[test]
fn a_cgroup_that_is_not_there_is_refused() -> Result<()> {
    let _serial = serial();
    refused(
        Profiler::record(&["--cgroup", "/no/such/cgroup", "-d", "1h"]),
        1,
        &["/no/such/cgroup", "name a"],
    )?;
    refused(Profiler::record(&["--cgroup", "/tmp", "-d", "1h"]), 1, &["/tmp"])?;
    Ok(())
}

#[test]
fn a_command_that_cannot_be_run_ends_as_in_a_shell() -> Result<()> {
    let _serial = serial();
    let directory = tempfile::tempdir()?;
    let plain = directory.path().join("plain");
    fs::write(&plain, "no program\n")?;
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644))?;
    refused(
        Profiler::record(&["--", "no-such-command-anywhere"]),
        127,
        &["not found", "no-such-command-anywhere"],
    )?;
    refused(Profiler::record(&["--", "/no/such/file"]), 127, &["not found"])?;
    refused(
        Profiler::record(&["--"]).arg(&plain),
        126,
        &["cannot execute", "chmod +x"],
    )?;
    refused(Profiler::record(&["--", "/tmp"]), 126, &["cannot execute"])?;
    Ok(())
}

#[test]
fn who_lacks_capabilities_is_told_which() -> Result<()> {
    let _serial = serial();
    let Some((_directory, binary)) = readable_binary()? else {
        return Ok(());
    };
    for arguments in [vec!["-a"], vec!["-p", "1"], vec!["--", "true"]] {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&binary)
            .arg("record")
            .args(&arguments)
            .current_dir("/");
        let output = command.output()?;
        let outcome = Outcome {
            status: output.status,
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        is_refusal(&outcome, 1, &["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "sudo"])?;
    }
    // Root, but for one capability.
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"])
        .arg(&binary)
        .args(["record", "-a"]);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        said.contains("CAP_SYS_PTRACE") && !said.contains("CAP_PERFMON"),
        "{said}"
    );
    Ok(())
}

/// A copy of the binary that everybody can execute.
fn readable_binary() -> Result<Option<(TempDir, PathBuf)>> {
    if Command::new("setpriv").arg("--version").output().is_err() {
        skip("there is no setpriv(1) to drop root with");
        return Ok(None);
    }
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let original = binary();
    let copy = directory.path().join("profiler");
    fs::copy(original, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    Ok(Some((directory, copy)))
}

#[test]
fn a_full_device_is_an_error_and_not_a_panic() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "spin.py", &[])?;
    let pid = workload.pid.to_string();
    for format in ["svg", "folded", "speedscope", "pprof"] {
        let outcome = Profiler::record(&["-p", &pid, "-d", "300ms", "-f", format, "-o", "/dev/full"]).run()?;
        ensure!(
            outcome.code() == 1,
            "{format}: ended with {}: {}",
            outcome.code(),
            outcome.stderr
        );
        ensure!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        let error = outcome.line("error: ")?;
        ensure!(
            error.contains("/dev/full") && error.contains("space"),
            "{format}: {error}"
        );
    }
    Ok(())
}

#[test]
fn a_full_disk_keeps_the_old_file() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "spin.py", &[])?;
    let pid = workload.pid.to_string();
    let Some(disk) = SmallDisk::new()? else { return Ok(()) };
    let old = disk.directory.path().join("old.svg");
    fs::write(&old, "precious")?;
    fs::write(disk.directory.path().join("filling"), vec![0; 56 << 10])?;
    let outcome = Profiler::record(&["-p", &pid, "-d", "300ms", "-r", RATE, "--force", "-o"])
        .arg(&old)
        .run()?;
    ensure!(outcome.code() == 1, "ended with {}: {}", outcome.code(), outcome.stderr);
    let error = outcome.line("error: ")?;
    ensure!(error.contains("space") && error.contains("old.svg"), "{error}");
    ensure!(fs::read_to_string(&old)? == "precious", "the old file is gone");
    let mut left: Vec<_> = fs::read_dir(disk.directory.path())?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    left.sort();
    ensure!(left == ["filling", "old.svg"], "left behind: {left:?}");
    Ok(())
}

/// A file system of 64 KiB, unmounted when dropped.
struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    fn new() -> Result<Option<Self>> {
        let directory = tempfile::tempdir()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "none"])
            .arg(directory.path())
            .output()?;
        if mounted.status.success() {
            return Ok(Some(Self { directory }));
        }
        skip(format!(
            "cannot mount a small disk: {}",
            String::from_utf8_lossy(&mounted.stderr)
        ));
        Ok(None)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.directory.path()).status();
    }
}

#[test]
fn a_target_that_exits_half_way_leaves_what_there_is() -> Result<()> {
    let _serial = serial();
    let mut workload = Workload::python(&python::any()?, "half_way.py", &[])?;
    let pid = workload.pid.to_string();
    let recording = Profiler::record(&["-p", &pid, "-d", "1h", "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
    std::thread::sleep(Duration::from_secs(1));
    workload.tell("go")?;
    workload.wait()?;
    let outcome = recording.finish()?.success()?;
    outcome.line("the target has exited")?;
    let folded = outcome.folded()?;
    ensure!(folded.share_of("half_way") > 0.9 && folded.total() > 100, "{folded}");
    Ok(())
}

#[test]
fn ctrl_c_and_sigterm_write_and_then_end() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "spin.py", &[])?;
    let pid = workload.pid.to_string();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("out.folded");
        let recording = Profiler::record(&["-p", &pid, "-r", RATE, "-o"]).arg(&file).start()?;
        std::thread::sleep(Duration::from_secs(1));
        recording.signal(signal)?;
        let outcome = recording
            .finish()?
            .success()
            .with_context(|| format!("signal {signal}"))?;
        let folded = Folded::parse(&fs::read_to_string(&file)?)?;
        ensure!(
            folded.share_of("inner") > 0.99 && folded.total() == outcome.samples()?,
            "{folded}"
        );
    }
    Ok(())
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "chain.py", &[])?;
    let pid = workload.pid.to_string();
    let binary = binary();
    let script = r#"{ "$0" record -p "$1" -d 1 -r 499 -f svg -o - ; echo "status $?" >&2; } | head -c 100"#;
    let output = Command::new("sh").args(["-c", script]).arg(binary).arg(&pid).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("status 0") && !said.contains("panicked"), "{said}");
    ensure!(output.stdout.len() == 100, "{} bytes", output.stdout.len());
    Ok(())
}

#[test]
fn a_target_that_just_ended_is_said_to_have() -> Result<()> {
    let _serial = serial();
    // A zombie: it has ended, and its parent does not look.
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 0 & echo $!; echo READY; exec sleep 100"]);
    let workload = Workload::command(command, None)?;
    let zombie = workload.truth[0].to_string();
    std::thread::sleep(Duration::from_millis(300));
    refused(Profiler::record(&["-p", &zombie]), 1, &[&zombie, "ended"])?;
    Ok(())
}

/// The pid of a process that has been there.
fn gone_pid() -> Result<String> {
    let mut child = Command::new("true").spawn()?;
    child.wait()?;
    Ok(child.id().to_string())
}

#[test]
fn what_nothing_can_come_of_is_refused_at_once_and_by_name() -> Result<()> {
    let _serial = serial();
    let mut command = Command::new("sh");
    command.args(["-c", "echo READY; exec sleep 1000"]);
    let workload = Workload::command(command, None)?;
    let pid = workload.pid.to_string();
    let until_exec = || fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    process::until(Duration::from_secs(10), "sleep", until_exec)?;
    // Recordings of an hour: only who is refused comes back.
    let named = format!("process {pid} (sleep) runs no CPython");
    refused(calls(&["-p", &pid, "-d", "1h"]), 1, &[&named])?;
    refused(memory(&["--exact", "-p", &pid, "-d", "1h"]), 1, &[&named])?;
    refused(memory(&["--source", "pools", "-p", &pid, "-d", "1h"]), 1, &[&named])?;
    // What can be recorded, and comes to nothing, is said once.
    let outcome = memory(&["-p", &pid, "-d", "300ms"]).succeed()?;
    let said = String::from_utf8_lossy(&outcome.stdout).into_owned() + &outcome.stderr;
    ensure!(said.matches("Nothing grew").count() == 1, "{said}");
    // Its flags say so (PF_KTHREAD).
    if fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
        refused(calls(&["-p", "2", "-d", "1h"]), 1, &["process 2 (kthreadd)", "kernel"])?;
        refused(memory(&["-p", "2", "-d", "1h"]), 1, &["process 2 (kthreadd)", "kernel"])?;
    }
    let Some(old) = python::pyenv("3.7") else {
        skip("pyenv has no CPython 3.7");
        return Ok(());
    };
    let mut command = Command::new(&old);
    command.arg(workload::sources().join("two.py"));
    let workload = Workload::command(command, None)?;
    let pid = workload.pid.to_string();
    refused(
        calls(&["-p", &pid, "-d", "1h"]),
        1,
        &[&pid, "CPython 3.7", "not supported"],
    )?;
    let script = workload::sources().join("two.py");
    let command = calls(&["-d", "1h", "--"]).arg(&old).arg(script);
    refused(command, 1, &["CPython 3.7", "not supported"])?;
    Ok(())
}

#[test]
fn a_pipe_that_nobody_reads_can_be_given_up() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "spin.py", &[])?;
    let pid = workload.pid.to_string();
    let directory = tempfile::tempdir()?;
    let fifo = directory.path().join("fifo");
    ensure!(Command::new("mkfifo").arg(&fifo).status()?.success(), "no fifo");
    let record = || Profiler::record(&["-p", &pid, "-d", "300ms", "-f", "folded", "-o"]).arg(&fifo);
    let recording = record().start_until("nobody reads")?;
    recording.signal(libc::SIGINT)?;
    let outcome = recording.finish()?;
    ensure!(outcome.code() == 1, "ended with {}: {}", outcome.code(), outcome.stderr);
    outcome.line("error: given up")?;
    // And a reader that comes late gets everything.
    let recording = record().start_until("nobody reads")?;
    let text = fs::read_to_string(&fifo)?;
    recording.finish()?.success()?;
    ensure!(Folded::parse(&text)?.total() > 3, "{text}");
    Ok(())
}

#[test]
fn a_limit_on_what_may_be_written_or_opened_is_an_error_that_names_it() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "spin.py", &[])?;
    let directory = tempfile::tempdir()?;
    let limited = |limit: &str, rest: &str| -> Result<Outcome> {
        let script = format!("{limit}; exec \"$0\" record -p {} -d 300ms -r 467 {rest}", workload.pid);
        let output = Command::new("bash")
            .args(["-c", &script])
            .arg(binary())
            .current_dir(directory.path())
            .output()?;
        Ok(Outcome {
            status: output.status,
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    };
    // In KiB.
    let outcome = limited("ulimit -f 4", "-f svg -o out.svg")?;
    ensure!(outcome.code() == 1, "ended with {}: {}", outcome.code(), outcome.stderr);
    let error = outcome.line("error: ")?;
    ensure!(error.contains("out.svg") && error.contains("ulimit -f"), "{error}");
    let left = fs::read_dir(directory.path())?.count();
    ensure!(left == 0, "{left} files left behind");
    for limit in [10, 40] {
        let outcome = limited(&format!("ulimit -n {limit}"), "-f svg -o out.svg")?;
        is_refusal(&outcome, 1, &["ulimit -n"]).with_context(|| format!("{limit} files"))?;
    }
    Ok(())
}

#[test]
fn a_summary_for_standard_output_goes_there() -> Result<()> {
    let _serial = serial();
    let directory = tempfile::tempdir()?;
    let outcome = Profiler::record(&[
        "-a",
        "-d",
        "300ms",
        "-f",
        "svg",
        "-o",
        "/dev/null",
        "--summary-json",
        "-",
    ])
    .current_dir(directory.path())
    .succeed()?;
    let summary: serde_json::Value = serde_json::from_slice(&outcome.stdout)?;
    ensure!(summary["samples"].is_u64(), "{summary}");
    ensure!(fs::read_dir(directory.path())?.count() == 0, "a file was made");
    Ok(())
}

#[test]
fn under_sudo_nothing_is_written_where_its_user_may_not_write() -> Result<()> {
    let _serial = serial();
    let own = std::process::id().to_string();
    let roots = tempfile::tempdir()?;
    fs::set_permissions(roots.path(), fs::Permissions::from_mode(0o755))?;
    let path = roots.path().join("profile.svg");
    let (path, words) = (
        path.to_str().context("a path")?,
        ["cannot write in", "sudo was run by nobody"],
    );
    let sudo = |arguments: &[&str]| {
        Profiler::record(&["-p", &own, "-d", "1"])
            .args(arguments)
            .env("SUDO_UID", "65534")
            .env("SUDO_GID", "65534")
    };
    for arguments in [
        vec!["-o", path],
        vec!["-o", path, "--force"],
        vec!["-o", "-", "-f", "folded", "--summary-json", path],
        // Into the directory where it is started, which is root's.
        vec![],
    ] {
        refused(sudo(&arguments), 1, &words)?;
    }
    let curve = path.replace(".svg", ".csv");
    let memory = Profiler::bare().args(["memory", "-p", &own, "-d", "1", "--every", "1s", "--curve", &curve]);
    refused(memory.env("SUDO_UID", "65534").env("SUDO_GID", "65534"), 1, &words)?;
    ensure!(fs::read_dir(roots.path())?.next().is_none(), "something was written");
    Ok(())
}

#[test]
fn what_is_said_of_a_path_does_not_act_on_the_terminal() -> Result<()> {
    let _serial = serial();
    let own = std::process::id().to_string();
    let missing = "/tmp/\u{1b}]0;title\u{7}\u{202e}/x.svg";
    let outcome = refused(
        Profiler::record(&["-p", &own, "-o", missing]),
        1,
        &["there is no directory"],
    )?;
    ensure!(
        !outcome.stderr.contains(['\u{1b}', '\u{7}', '\u{202e}']),
        "{:?}",
        outcome.stderr
    );
    Ok(())
}
