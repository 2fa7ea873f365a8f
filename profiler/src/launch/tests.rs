use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    time::{Duration, Instant},
};

use super::*;
use crate::invoker::Account;

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

fn words(line: &[&str]) -> Vec<OsString> {
    line.iter().map(OsString::from).collect()
}

fn with(variables: &[(&str, &str)]) -> Surroundings {
    let variables = [("PATH", PATH)].iter().chain(variables);
    Surroundings {
        variables: variables
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect(),
        invoker: None,
    }
}

fn run(line: &[&str], surroundings: &Surroundings) -> u8 {
    exit::of_child(
        prepare(&words(line), surroundings)
            .unwrap()
            .release()
            .unwrap()
            .wait()
            .unwrap(),
    )
}

/// Runs a shell script that writes to `$OUT`, and returns what it wrote.
fn output(script: &str, mut surroundings: Surroundings) -> String {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    surroundings.variables.push(("OUT".into(), out.clone().into()));
    assert_eq!(run(&["sh", "-c", script], &surroundings), 0);
    fs::read_to_string(out).unwrap()
}

fn nobody() -> Option<Invoker> {
    // SAFETY: geteuid(2) has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipping: only root can become another user");
        return None;
    }
    Some(Invoker {
        uid: 65534,
        gid: 65533,
        groups: vec![65533, 4321],
        account: Some(Account {
            name: "nobody".into(),
            home: "/nonexistent".into(),
            shell: "/bin/false".into(),
        }),
    })
}

fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "waited ten seconds for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_command_ends_with_its_own_status() {
    assert_eq!(run(&["true"], &with(&[])), 0);
    assert_eq!(run(&["sh", "-c", "exit 3"], &with(&[])), 3);
    assert_eq!(run(&["sh", "-c", "kill -TERM $$"], &with(&[])), 143);
}

#[test]
fn nothing_runs_before_the_release() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark");
    let stopped = prepare(&words(&["touch", mark.to_str().unwrap()]), &with(&[])).unwrap();
    let pid = stopped.pid();
    until("the child to sleep in its read", || state(pid) == Some('S'));
    assert!(!mark.exists());
    let mut running = stopped.release().unwrap();
    assert_eq!(running.pid(), pid, "exec keeps the pid that was registered");
    assert!(running.wait().unwrap().success());
    assert!(mark.exists());
}

#[test]
fn a_child_that_is_not_released_ends_and_is_reaped() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark");
    let stopped = prepare(&words(&["touch", mark.to_str().unwrap()]), &with(&[])).unwrap();
    let pid = stopped.pid();
    drop(stopped);
    assert_eq!(state(pid), None, "no zombie is left");
    assert!(!mark.exists());
}

#[test]
fn the_waiting_child_ends_when_the_profiler_dies() {
    // The profiler here is a fork of this test that prepares a child, tells its pid, and is killed.
    let (mut reader, mut writer) = io::pipe().unwrap();
    let (plan_words, surroundings) = (words(&["sleep", "1000"]), with(&[]));
    // SAFETY: the child allocates, which glibc's fork provides for, and is killed below.
    let profiler = unsafe { libc::fork() };
    if profiler == 0 {
        if let Ok(stopped) = prepare(&plan_words, &surroundings) {
            let _ = writer.write_all(&stopped.pid().to_ne_bytes());
            std::mem::forget(stopped);
        }
        loop {
            // SAFETY: pause(2) has no preconditions.
            unsafe { libc::pause() };
        }
    }
    drop(writer);
    let mut pid = [0; 4];
    reader.read_exact(&mut pid).unwrap();
    let pid = u32::from_ne_bytes(pid);
    assert!(state(pid).is_some());
    // SAFETY: `profiler` is our child, which nobody else reaps.
    unsafe {
        libc::kill(profiler, libc::SIGKILL);
        libc::waitpid(profiler, ptr::null_mut(), 0);
    }
    // Its parent is init now, which may take its time to reap it (and in a container may never).
    until("the orphan to end", || matches!(state(pid), None | Some('Z' | 'X')));
}

#[test]
fn an_unknown_command_is_found_out_before_recording() {
    let error = prepare(&words(&["no-such-command-here"]), &with(&[])).unwrap_err();
    assert_eq!(error.to_string(), "command not found: no-such-command-here");
    assert_eq!(error.exit_code(), 127);
    assert_eq!(
        prepare(&words(&["/no/such/file"]), &with(&[])).unwrap_err().exit_code(),
        127
    );
    assert_eq!(prepare(&words(&[""]), &with(&[])).unwrap_err().exit_code(), 127);
    assert_eq!(prepare(&[], &with(&[])).unwrap_err().exit_code(), 127);
}

#[test]
fn a_file_that_cannot_be_executed_is_found_out_before_recording() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    fs::write(&plain, "text").unwrap();
    for path in [plain.as_path(), directory.path()] {
        let error = prepare(&words(&[path.to_str().unwrap()]), &with(&[])).unwrap_err();
        assert_eq!(error.exit_code(), 126, "{error}");
        assert!(error.to_string().contains("chmod +x"), "{error}");
    }
}

#[test]
fn what_only_exec_can_tell_is_told_by_the_release() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let stopped = prepare(&words(&[script.to_str().unwrap()]), &with(&[])).unwrap();
    let pid = stopped.pid();
    let error = stopped.release().unwrap_err();
    assert_eq!(error.exit_code(), 126);
    assert!(error.to_string().contains("interpreter"), "{error}");
    assert_eq!(state(pid), None, "no zombie is left");
}

#[test]
fn a_script_without_an_interpreter_line_is_the_shells() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    fs::write(&script, "exit $1\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(run(&[script.to_str().unwrap(), "7"], &with(&[])), 7);
}

#[test]
fn the_path_is_searched_as_execvp_does() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("first"), directory.path().join("second"));
    for (directory, mode) in [(&first, 0o644), (&second, 0o755)] {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("tool"), "#!/bin/sh\nexit 9\n").unwrap();
        fs::set_permissions(directory.join("tool"), fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = |directories: &[&Path]| Surroundings {
        variables: vec![("PATH".into(), std::env::join_paths(directories).unwrap())],
        invoker: None,
    };
    assert_eq!(
        run(&["tool"], &path(&[&first, &second])),
        9,
        "what cannot be executed is passed over"
    );
    let error = prepare(&words(&["tool"]), &path(&[&first, Path::new("/nonexistent")])).unwrap_err();
    assert_eq!(error.exit_code(), 126, "but says more than what is not there");
    let candidate = |path: &str| candidates(OsStr::new("x"), OsStr::new(path));
    assert_eq!(candidate("/a:/b/::c"), [&b"/a/x"[..], b"/b/x", b"x", b"c/x"]);
    assert_eq!(
        run(&["true"], &Surroundings::default()),
        0,
        "without PATH there is still /bin"
    );
}

#[test]
fn arguments_and_variables_arrive_as_they_were_given() {
    let text = output(
        "printf '%s|%s' \"$GREETING\" \"$0\" >\"$OUT\"",
        with(&[("GREETING", "two words\n")]),
    );
    assert_eq!(text, "two words\n|sh");
    assert!(matches!(
        prepare(&words(&["true", "a\0b"]), &with(&[])).unwrap_err(),
        LaunchError::NulByte
    ));
}

#[test]
fn under_sudo_the_command_runs_as_the_invoking_user() {
    let Some(invoker) = nobody() else { return };
    let sudo = [
        ("SUDO_UID", "65534"),
        ("SUDO_COMMAND", "profiler"),
        ("SUDO_USER", "nobody"),
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SHELL", "/bin/bash"),
        ("KEPT", "yes"),
    ];
    let surroundings = Surroundings {
        invoker: Some(invoker),
        ..with(&sudo)
    };
    let text = output(
        "(id -u; id -g; id -G; echo $HOME $USER $LOGNAME $SHELL $KEPT; env | grep -c ^SUDO_; \
         grep -E '^(Uid|Gid|CapEff|CapPrm)' /proc/self/status) >\"$OUT\"; exit 0",
        surroundings,
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["65534", "65533"], "{text}");
    let mut groups: Vec<&str> = lines[2].split(' ').collect();
    groups.sort_unstable();
    assert_eq!(groups, ["4321", "65533"]);
    assert_eq!(lines[3], "/nonexistent nobody nobody /bin/false yes");
    assert_eq!(lines[4], "0", "no SUDO_ variable is left");
    assert_eq!(
        lines[5], "Uid:\t65534\t65534\t65534\t65534",
        "there is no way back to root"
    );
    assert_eq!(lines[6], "Gid:\t65533\t65533\t65533\t65533");
    assert_eq!(lines[7], "CapPrm:\t0000000000000000");
    assert_eq!(lines[8], "CapEff:\t0000000000000000");
}

#[test]
fn what_only_root_may_execute_is_found_out_before_recording() {
    let Some(invoker) = nobody() else { return };
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let tool = directory.path().join("tool");
    fs::write(&tool, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o700)).unwrap();
    let line = words(&[tool.to_str().unwrap()]);
    let surroundings = Surroundings {
        invoker: Some(invoker),
        ..with(&[])
    };
    let error = prepare(&line, &surroundings).unwrap_err();
    assert_eq!(error.exit_code(), 126);
    assert!(error.to_string().contains("the user who called sudo"), "{error}");
    chown(&tool, Some(65534), None).unwrap();
    assert!(prepare(&line, &surroundings).is_ok());
    let error = prepare(&words(&["no-such-command-here"]), &surroundings).unwrap_err();
    assert!(error.to_string().contains("sudo env"), "{error}");
}

#[test]
fn a_signal_reaches_the_command_and_shows_in_its_status() {
    let directory = tempfile::tempdir().unwrap();
    let ready = directory.path().join("ready");
    let script = "trap 'exit 5' USR1; : >\"$READY\"; while :; do sleep 0.01; done";
    let surroundings = with(&[("READY", ready.to_str().unwrap())]);
    let mut running = prepare(&words(&["sh", "-c", script]), &surroundings)
        .unwrap()
        .release()
        .unwrap();
    until("the trap", || ready.exists());
    assert_eq!(running.try_wait().unwrap(), None);
    running.signal(libc::SIGUSR1).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(5));
    assert_eq!(running.wait().unwrap().code(), Some(5), "asking again reaps nobody");
    assert_eq!(running.try_wait().unwrap().unwrap().code(), Some(5));
    running.signal(libc::SIGTERM).unwrap();
}

#[test]
fn the_command_has_default_signals_and_nothing_blocked() {
    // SIGUSR2 is caught here, as tokio would; Rust's runtime ignores SIGPIPE.
    extern "C" fn handler(_: libc::c_int) {}
    // SAFETY: the handler does nothing, and no other test uses SIGUSR2.
    unsafe {
        libc::signal(
            libc::SIGUSR2,
            handler as extern "C" fn(libc::c_int) as libc::sighandler_t,
        )
    };
    let text = output("cat /proc/self/status >\"$OUT\"", with(&[]));
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap()
    };
    assert_eq!(value("SigBlk"), 0);
    assert_eq!(value("SigCgt"), 0);
    assert_eq!(value("SigIgn") & (1 << (libc::SIGPIPE - 1)), 0);
}

#[test]
fn the_command_keeps_our_process_group() {
    let text = output("cut -d' ' -f5 /proc/$$/stat >\"$OUT\"", with(&[]));
    // SAFETY: getpgrp(2) has no preconditions.
    assert_eq!(text.trim(), unsafe { libc::getpgrp() }.to_string());
}

#[test]
fn the_command_inherits_no_descriptor_of_ours() {
    let text = output(
        "for fd in /proc/self/fd/*; do readlink $fd; done | grep -c pipe: >\"$OUT\"; exit 0",
        with(&[]),
    );
    // Only those the test runner itself may have given us as standard streams, and the one of this pipeline.
    assert!(text.trim().parse::<u32>().unwrap() <= 4, "{text}");
}

#[test]
fn the_pidfd_becomes_readable_at_the_end() {
    let mut running = prepare(&words(&["true"]), &with(&[])).unwrap().release().unwrap();
    let mut poll = libc::pollfd {
        fd: running.pidfd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one live `pollfd` is given.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1);
    assert!(running.try_wait().unwrap().is_some_and(|status| status.success()));
}

#[test]
fn a_child_killed_while_it_waits_tells_its_signal() {
    let stopped = prepare(&words(&["true"]), &with(&[])).unwrap();
    // Not SIGINT, which a shell's background job ignores, and so do its children.
    // SAFETY: the pid is our child's, which is not reaped.
    unsafe { libc::kill(stopped.pid().cast_signed(), libc::SIGTERM) };
    until("the child to die", || state(stopped.pid()) == Some('Z'));
    let mut running = stopped.release().unwrap();
    assert_eq!(exit::of_child(running.wait().unwrap()), 143);
}

#[test]
fn terminal_signals_are_forwarded_only_outside_the_foreground() {
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2] {
        assert!(must_forward(signal));
    }
    assert_eq!(must_forward(libc::SIGINT), !in_foreground());
    assert!(!must_forward(libc::SIGCHLD));
}
