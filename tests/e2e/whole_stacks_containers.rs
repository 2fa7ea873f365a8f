//! What containers are made of: mount and PID namespaces, other roots, overlays. The pid shown is the host's, and names
//! come from the files the target sees.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::{Folded, has_chain_among_python},
    pattern::Pattern,
    process::die_with_parent,
    profiler::{Profiler, binary},
    python::{self, Python},
    serial::serial,
    skip::skip,
    whole::{ensure_shapes, of_process, record, record_machine, user_parts},
    workload::{Workload, sources},
    workshop::{Workshop, run},
};

use crate::RATE;

const CHAIN: &str = "hard_chain chain_outer chain_inner spin";

#[test]
fn an_interpreter_in_other_namespaces_has_its_whole_stack_under_the_host_s_pid() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let workshop = Workshop::of(python)?;
        let script = workshop.path().join("spin.py");
        fs::copy(sources().join("spin.py"), &script)?;
        let mut command = isolated(python.root.as_deref());
        command.arg(&python.executable).arg(python.seen(&script));
        environment(python, &mut command);
        let workload = Workload::command(command, None)?;
        let pid = child_of(workload.pid)?;
        ensure!(inner_pid(pid)? == 1, "{pid} is not the first of its namespace");

        let call = if python.version < (3, 11) {
            "~python3,libpython"
        } else {
            ""
        };
        let pattern = format!(
            "@python3 @libc.so @python3,libpython <module> {call} outer {call} middle {call} inner ~python3,libpython"
        );
        let recorded = record(pid, 1.0, RATE)?;
        ensure_shapes(&user_parts(&recorded.folded), &[&pattern], 0.99)?;
        let recorded = record_machine(pid, 0.7, RATE)?;
        let stacks = of_process(&recorded.folded, pid);
        ensure_shapes(&user_parts(&stacks), &[&pattern], 0.99).context("-a")?;
        ensure!(
            of_process(&recorded.folded, 1).count(|stack| has_chain_among_python(stack, &["outer", "middle"])) == 0,
            "the pid shown is the namespace's"
        );
        Ok(())
    })
}

#[test]
fn a_program_in_an_empty_root_is_unwound_and_named() -> Result<()> {
    let _serial = serial();
    let root = Workshop::new()?;
    root.c("hard.c", "hard", &["-static", "-ldl", "-lpthread"])?;
    let mut command = isolated(Some(root.path()));
    command.args(["/hard", "chain"]);
    let workload = Workload::command(command, None)?;
    let pid = child_of(workload.pid)?;
    let recorded = record(pid, 1.0, RATE)?;
    ensure_shapes(
        &user_parts(&recorded.folded),
        &[&format!("_start @hard main {CHAIN}")],
        0.99,
    )
}

#[test]
fn a_perf_map_is_found_where_the_target_wrote_it() -> Result<()> {
    let _serial = serial();
    let root = Workshop::new()?;
    fs::create_dir(root.path().join("tmp"))?;
    root.c("hard.c", "hard", &["-static", "-ldl", "-lpthread"])?;
    let mut command = isolated(Some(root.path()));
    command.args(["/hard", "jit", "map"]);
    let workload = Workload::command(command, None)?;
    let pid = child_of(workload.pid)?;
    // Under the pid that the target knows itself by.
    ensure!(
        root.path().join("tmp/perf-1.map").exists(),
        "the workload has written no map"
    );
    let recorded = record(pid, 1.0, RATE)?;
    let pattern = "_start @hard main hard_jit jitted_outer% jitted_inner(int)% jit_callback chain_inner spin";
    ensure_shapes(&user_parts(&recorded.folded), &[pattern], 0.99)
}

/// Files of an overlay have another device number in `/proc/PID/maps` than where they are.
#[test]
fn a_program_on_an_overlay_is_unwound_and_named() -> Result<()> {
    let _serial = serial();
    let place = Workshop::new()?;
    let folder = place.path().display();
    for name in ["lower", "layers", "merged"] {
        fs::create_dir(place.path().join(name))?;
    }
    place.c("hard.c", "lower/hard", &["-ldl", "-lpthread"])?;
    // In a mount namespace of its own, so that the mounts end with the workload. The upper layer is a tmpfs because an
    // overlay cannot be the upper layer of another, and a container's root is one.
    let script = format!(
        "set -e; cd {folder}; mount -t tmpfs none layers; mkdir layers/upper layers/work; \
         mount -t overlay -o lowerdir=lower,upperdir=layers/upper,workdir=layers/work none merged; \
         exec merged/hard \"$@\""
    );
    let enter = ["--mount", "--propagation", "private", "sh", "-c", &script, "sh"];
    let tried = Command::new("unshare")
        .args(enter)
        .arg("no such mode")
        .stderr(Stdio::null())
        .status()?;
    // The status of `hard` itself.
    if tried.code() != Some(2) {
        skip("an overlay cannot be mounted here");
        return Ok(());
    }
    let mut command = Command::new("unshare");
    command.args(enter).arg("chain");
    let workload = Workload::command(command, None)?;
    let pattern = format!("_start @libc.so main {CHAIN}");
    let recorded = record(workload.pid, 1.0, RATE)?;
    ensure_shapes(&user_parts(&recorded.folded), &[&pattern], 0.99)?;
    let recorded = record_machine(workload.pid, 0.7, RATE)?;
    let stacks = of_process(&recorded.folded, workload.pid);
    ensure_shapes(&user_parts(&stacks), &[&pattern], 0.99).context("-a")
}

#[test]
fn the_profiler_works_inside_a_pid_namespace() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        // An interpreter in a root of its own is not started from a shell outside of it.
        if python.root.is_some() {
            return Ok(());
        }
        let directory = tempfile::tempdir()?;
        let target = format!(
            "exec {} {}",
            python.executable.display(),
            sources().join("spin.py").display()
        );
        let ready = directory.path().join("ready");
        run(Command::new("mkfifo").arg(&ready))?;
        // The shell is the namespace's first process and becomes the profiler, with which everything in there ends.
        let script = format!(
            "({target}) > {ready} & read -r line < {ready}; exec \"$0\" record --native full -p $! -d 1 \
             -r {RATE} -f folded -o -",
            ready = ready.display()
        );
        let folded = inside(&["sh", "-c", &script, &binary().display().to_string()])?;
        let whole = Pattern::new(
            "@python3 @libc.so @python3,libpython <module> ~python3,libpython outer ~python3,libpython middle \
             ~python3,libpython inner ~python3,libpython [k]*",
        );
        let share = folded.share(|stack| whole.is(stack));
        ensure!(
            folded.total() > 50 && share >= 0.99,
            "{:.1} % are whole\n{folded}",
            share * 100.0
        );
        Ok(())
    })
}

#[test]
fn the_profiler_starts_a_command_inside_a_pid_namespace() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let binary = binary().display().to_string();
    let executable = python.executable.display().to_string();
    let script = sources().join("timed.py").display().to_string();
    let arguments = [
        &binary,
        "record",
        "-r",
        RATE,
        "-f",
        "folded",
        "-o",
        "-",
        "--",
        &executable,
        &script,
        "1",
    ];
    let folded = inside(&arguments)?;
    // `timed.py` starts and ends outside of its loop.
    let share = folded.share(|stack| has_chain_among_python(stack, &["outer", "inner"]));
    ensure!(folded.total() > 200 && share > 0.8, "{:.1} %\n{folded}", share * 100.0);
    Ok(())
}

#[test]
fn the_whole_machine_as_seen_from_a_pid_namespace_has_the_processes_in_it() -> Result<()> {
    let _serial = serial();
    let workshop = Workshop::new()?;
    let program = workshop.c("hard.c", "hard", &["-ldl", "-lpthread"])?;
    let outside = {
        let mut command = Command::new(&program);
        command.arg("chain");
        Workload::command(command, None)?
    };
    let fifo = workshop.path().join("ready");
    run(Command::new("mkfifo").arg(&fifo))?;
    let script = format!(
        "{program} prologue > {fifo} & read -r line < {fifo}; exec \"$0\" record -a -d 1 -r {RATE} -f folded -o -",
        program = program.display(),
        fifo = fifo.display()
    );
    let folded = inside(&["sh", "-c", &script, &binary().display().to_string()])?;
    let within = folded.only(|stack| stack.iter().any(|frame| frame.starts_with("prologue_caller")));
    let start = Pattern::new("! _start @libc.so main hard_prologue ...");
    ensure!(
        within.total() > 20 && within.share(|stack| start.is(stack)) >= 0.99,
        "{folded}"
    );
    // What is outside has no pid in there, and nobody is given its samples.
    ensure!(
        folded.count(
            |stack| stack.iter().any(|frame| frame.starts_with("chain_outer")) && stack[0].contains("(process 0)")
        ) == 0,
        "{} is there as process 0\n{folded}",
        outside.pid
    );
    Ok(())
}

#[test]
fn a_recording_of_a_pid_namespace_s_first_process_is_not_of_the_host_s() -> Result<()> {
    let _serial = serial();
    let workshop = Workshop::new()?;
    let program = workshop.c("hard.c", "hard", &["-ldl", "-lpthread"])?;
    let mut command = isolated(None);
    command.arg(&program).arg("chain");
    let workload = Workload::command(command, None)?;
    let pid = child_of(workload.pid)?;
    // With -t the thread's number is the host's as well.
    let folded = Profiler::record(&[
        "-p",
        &pid.to_string(),
        "-t",
        "-d",
        "1",
        "-r",
        RATE,
        "-f",
        "folded",
        "-o",
        "-",
    ])
    .succeed()?
    .folded()?;
    ensure!(
        folded.total() > 50 && folded.below(&format!("thread {pid}:")).total() == folded.total(),
        "{folded}"
    );
    Ok(())
}

/// Runs a command in a PID namespace of its own, with a `/proc` that belongs to it, and reads the folded stacks it
/// prints.
fn inside(arguments: &[&str]) -> Result<Folded> {
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .args(arguments)
        .env("PYTHONUTF8", "1")
        .stdin(Stdio::null());
    for name in ["SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND"] {
        command.env_remove(name);
    }
    Folded::parse(&run(die_with_parent(&mut command))?)
}

/// `unshare … COMMAND`, in mount and PID namespaces of its own and perhaps another root.
fn isolated(root: Option<&Path>) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child"]);
    match root {
        Some(root) => {
            // An empty root has no place for it, and needs none.
            let proc = root.join("proc");
            if proc.exists() {
                command.arg(format!("--mount-proc={}", proc.display()));
            }
            command.arg("chroot").arg(root);
        }
        None => _ = command.arg("--mount-proc"),
    }
    command
}

/// The environment in which [`Python::command`] runs an interpreter.
fn environment(python: &Python, command: &mut Command) {
    let like = python.command();
    for (name, value) in like.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

/// The one child of a process.
fn child_of(pid: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    children
        .trim()
        .parse()
        .with_context(|| format!("the children of {pid} are {children:?}"))
}

/// A process's pid in its own namespace.
fn inner_pid(pid: u32) -> Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let pids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .context("no NSpid")?;
    Ok(pids.split_whitespace().next_back().context("no pid")?.parse()?)
}
