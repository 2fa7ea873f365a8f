//! The target is left as it was: no probe in its code, no program in the kernel, whoever ends first and however.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    bpf::Objects,
    calls::changed_code,
    memory::{self, Memory, ask, ensure_within, line_of, number},
    process::{status_field, until},
    python::{self, Python},
    serial::serial,
    workload::Workload,
};

const ROUNDS: &str = "100";
/// Ways to watch, and how leak.py is to run: in exact mode each of its ten thousand allocations in a round takes
/// microseconds.
const MODES: [(&[&str], &[&str]); 2] = [
    (&[], &["300", "16"]),
    (&["--exact", "--max-overhead", "1000"], &["8", "8", "1"]),
];

fn pid(workload: &Workload) -> String {
    workload.pid.to_string()
}

#[test]
fn after_the_recording_no_probe_is_left_and_the_target_runs_on() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        for (mode, _) in MODES {
            let mut workload = memory::run(python, "leak.py", &["2", "4", "1"])?;
            let before = changed_code(workload.pid)?;
            ensure!(before == 0, "{before} bytes of its code are changed already");
            let attached = Memory::record(&["-p", &pid(&workload)])?.args(mode).start()?;
            let meanwhile = changed_code(workload.pid)?;
            // Growth mode has one probe, exact mode several.
            ensure!(meanwhile > 0, "{mode:?}: there is no probe, so nothing is tested");
            let objects = Objects::of(attached.pid())?;
            ensure!(!objects.programs.is_empty(), "{mode:?}: it has no programs");
            let taken = attached.stop()?;
            println!("{python} {mode:?}: ended in {:.0} ms", taken.ending.as_secs_f64() * 1e3);
            let after = changed_code(workload.pid)?;
            ensure!(after == 0, "{mode:?}: {after} bytes of its code are changed");
            objects.until_gone(format_args!("{python}, {mode:?}"))?;
            // Through every place that was probed.
            ask(&mut workload, "go").context("after the recording")?;
        }
        Ok(())
    })
}

#[test]
fn a_profiler_that_is_killed_leaves_no_probe() -> Result<()> {
    let _serial = serial();
    for (mode, how) in MODES {
        let mut workload = memory::run(&python::any()?, "leak.py", &[ROUNDS])?;
        let attached = Memory::record(&["-p", &pid(&workload)])?.args(mode).start()?;
        ensure!(changed_code(workload.pid)? > 0, "{mode:?}: there is no probe");
        let objects = Objects::of(attached.pid())?;
        ensure!(
            !objects.programs.is_empty() && !objects.maps.is_empty() && objects.left() == objects,
            "{mode:?}: {objects:?}"
        );
        // In the middle of what it does.
        workload.tell("go")?;
        attached.signal(libc::SIGKILL)?;
        let taken = attached.finish()?;
        ensure!(
            taken.outcome.code() == 137,
            "{mode:?}: ended with {}",
            taken.outcome.code()
        );
        objects.until_gone(format_args!("{mode:?}"))?;
        until(Duration::from_secs(10), "its code is as it was", || {
            changed_code(workload.pid).is_ok_and(|changed| changed == 0)
        })?;
        workload.value().context("the target does not go on")?;

        // And the next one works.
        let mut workload = memory::run(&python::any()?, "leak.py", how)?;
        let attached = Memory::record(&["-p", &pid(&workload)])?.args(mode).start()?;
        let truth = ask(&mut workload, "go")?;
        let line = attached
            .stop()?
            .heap()?
            .line("leak.py", line_of("leak.py", "# large bytes")?);
        ensure_within("large bytes", line.live.bytes, number(&truth, "/large/bytes")?, 0.05)
            .with_context(|| format!("{mode:?}"))?;
    }
    Ok(())
}

#[test]
fn two_profilers_find_the_same_leak_in_one_target() -> Result<()> {
    let _serial = serial();
    for (mode, how) in MODES {
        let mut workload = memory::run(&python::any()?, "leak.py", how)?;
        let target = pid(&workload);
        let first = Memory::record(&["-p", &target])?.args(mode).start()?;
        let second = Memory::record(&["-p", &target])?.args(mode).start()?;
        let truth = ask(&mut workload, "go")?;
        for attached in [first, second] {
            let heap = attached.stop()?.heap()?;
            for (name, comment) in [("small", "# small objects"), ("large", "# large bytes")] {
                let line = heap.line("leak.py", line_of("leak.py", comment)?);
                ensure_within(name, line.live.bytes, number(&truth, &format!("/{name}/bytes"))?, 0.05)
                    .with_context(|| format!("{mode:?}\n{}", heap.top()))?;
            }
        }
        ensure!(changed_code(workload.pid)? == 0, "{mode:?}: a probe is left");
    }
    Ok(())
}

#[test]
fn a_target_is_neither_stopped_nor_traced_while_its_memory_is_watched() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let mut workload = memory::run(python, "leak.py", &[ROUNDS])?;
        let attached = Memory::record(&["-p", &pid(&workload)])?.spawn()?;
        let mut looks = 0;
        // From before it attaches until it has: that is when it would be.
        until(Duration::from_secs(30), "the profiler is attached", || {
            looks += 1;
            !attached.said().is_empty()
        })?;
        workload.tell("go")?;
        for _ in 0..200 {
            for task in fs::read_dir(format!("/proc/{}/task", workload.pid))? {
                let tid = task?.file_name().to_string_lossy().parse()?;
                let state = status_field(tid, "State")?;
                ensure!(!state.starts_with(['T', 't']), "thread {tid} is stopped: {state}");
                ensure!(status_field(tid, "TracerPid")? == "0", "thread {tid} is traced");
            }
        }
        ensure!(looks > 0, "nobody looked");
        workload.value()?;
        attached.stop().map(drop)
    })
}

/// What else than pymalloc may serve small objects, in which versions, and a word that tells so.
const ALLOCATORS: [(&str, (u32, u32), &str); 4] = [
    ("malloc", (3, 8), "malloc"),
    ("malloc_debug", (3, 8), "debug"),
    ("pymalloc_debug", (3, 8), "debug"),
    ("mimalloc", (3, 13), "mimalloc"),
];

/// The sum is as it was, and what malloc maps by itself. Objects that lie in a heap among the churn's (small ones with
/// malloc, of up to some MiB with mimalloc) are in pages that the churn has touched first: not looked at.
#[test]
fn other_allocators_than_pymalloc_are_recognized_and_the_leak_is_found() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let known = ALLOCATORS.iter().filter(|(_, since, _)| python.version >= *since);
        // All of them, even if one fails.
        let failures: Vec<String> = known
            .filter_map(|(setting, _, word)| {
                let error = other_allocator(python, setting, word).err()?;
                Some(format!("{setting}: {error:#}"))
            })
            .collect();
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    })
}

fn other_allocator(python: &Python, setting: &str, word: &str) -> Result<()> {
    let mut workload = memory::run_with(python, "leak.py", &["300", "16"], |command| {
        command.env("PYTHONMALLOC", setting);
    })?;
    let attached = Memory::record(&["-p", &pid(&workload)])?.start()?;
    let truth = ask(&mut workload, "go")?;
    let taken = attached.stop()?;
    let said = taken.outcome.stderr.to_lowercase();
    let explained = taken.summary.explained()?;
    ensure!(
        (0.95..=1.05).contains(&explained),
        "{:.1} % explained: {said}",
        explained * 100.0
    );
    let heap = taken.heap()?;
    if setting != "mimalloc" {
        let large = heap.line("leak.py", line_of("leak.py", "# large bytes")?);
        ensure_within("large", large.live.bytes, number(&truth, "/large/bytes")?, 0.05).with_context(|| heap.top())?;
    }
    if setting.contains("pymalloc") {
        let small = heap.line("leak.py", line_of("leak.py", "# small objects")?);
        ensure!(
            small.live.bytes > number(&truth, "/small/bytes")? * 9 / 10,
            "small objects: {small:?}\n{}",
            heap.top()
        );
    }
    ensure!(
        said.lines()
            .any(|line| line.contains("allocator") && line.contains(word)),
        "it does not say so: {said}"
    );
    Ok(())
}
