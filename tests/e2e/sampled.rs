//! `memory --sampled`: what it counts and samples is true, and the process that it writes to is as it was, whoever ends how.

use std::{os::unix::process::CommandExt as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    memory::{self, Memory, ask, line_of, number},
    process::{status_field, until},
    profiler::Profiler,
    python::{self, Python},
    recorder::Attached,
    serial::serial,
    workload::Workload,
};
use serde_json::Value;

const SCRIPT: &str = "sampled.py";

fn attach(pid: u32, arguments: &[&str]) -> Result<Attached> {
    let sampled = ["--sampled", "--yes", "-p", &pid.to_string()];
    Memory::record(&sampled)?.args(arguments).start()
}

/// Those that run where we do: in another mount namespace a process is refused, as the last claim says.
fn here() -> Result<Vec<Python>> {
    let mut pythons = python::all()?;
    pythons.retain(|python| python.root.is_none());
    Ok(pythons)
}

/// One of each kind, of those.
fn kinds() -> Result<Vec<Python>> {
    let mut pythons = here()?;
    if std::env::var_os("PROFILER_FULL").is_none() && std::env::var_os("PROFILER_E2E_PYTHON").is_none() {
        pythons.retain(|python| matches!(python.version, (3, 8 | 12 | 13)) || python.executable.starts_with("/usr"));
    }
    Ok(pythons)
}

/// What the process itself finds in its table.
fn slots(workload: &mut Workload) -> Result<Vec<Value>> {
    let said = ask(workload, "slots")?;
    let slots = said["slots"].as_array().context("no slots")?;
    ensure!(slots.len() == 10, "{slots:?}");
    Ok(slots.clone())
}

fn journal(pid: u32) -> PathBuf {
    PathBuf::from(format!("/run/profiler/{pid}.json"))
}

#[test]
fn totals_of_a_sampled_heap_are_exact_and_what_lives_is_within_its_error() -> Result<()> {
    let _serial = serial();
    const MEAN: f64 = 65536.0;
    python::each_of(&here()?, |python| {
        let mut workload = memory::run(python, SCRIPT, &["200000"])?;
        let before = slots(&mut workload)?;
        let attached = attach(workload.pid, &["--bytes-per-sample", "64k"])?;
        let truth = ask(&mut workload, "go")?;
        let during = slots(&mut workload)?;
        let taken = attached.stop()?;
        ensure!(before != during, "no slot was changed, so nothing is tested");
        ensure!(before == slots(&mut workload)?, "the table is not as before");
        let known = |what: &str| -> Result<f64> {
            let parts = ["churned", "kept", "big"].map(|part| number(&truth, &format!("/{part}/{what}")));
            Ok(parts.into_iter().collect::<Result<Vec<_>>>()?.iter().sum::<i64>() as f64)
        };
        let summary = |what: &str| taken.summary.number(&format!("/memory/sampled/{what}"));
        let shown = || format!("{truth}\n{}", taken.outcome.stderr);
        let (calls, bytes) = (summary("allocations")?, summary("allocated_bytes")?);
        ensure!(
            (calls / known("count")? - 1.0).abs() < 0.01,
            "{calls} allocations: {}",
            shown()
        );
        ensure!(
            (bytes / known("bytes")? - 1.0).abs() < 0.01,
            "{bytes} bytes: {}",
            shown()
        );
        ensure!(
            summary("lost_samples")? == 0.0 && summary("slots_left")? == 0.0,
            "{}",
            shown()
        );
        let heap = taken.heap()?;
        let mut off = Vec::new();
        for (what, comment) in [("kept", "# kept"), ("big", "# big")] {
            let found = heap.line(SCRIPT, line_of(SCRIPT, comment)?).live;
            let (bytes, count) = (
                number(&truth, &format!("/{what}/bytes"))? as f64,
                number(&truth, &format!("/{what}/count"))?,
            );
            // Poisson: a block of s bytes is sampled with p, and adds s² (1 - p) / p² with chance p.
            let size = bytes / count as f64;
            let p = -(-size / MEAN).exp_m1();
            let sigma = size * (count as f64 * (1.0 - p) / p).sqrt();
            let off_by = (found.bytes as f64 - bytes) / sigma;
            ensure!(
                off_by.abs() < 4.0,
                "{what}: {found:?}, {off_by:.1} sigma: {}\n{}",
                shown(),
                heap.top()
            );
            off.push(format!(
                "{what} {:+.1} % ({off_by:+.1} sigma)",
                100.0 * (found.bytes as f64 / bytes - 1.0)
            ));
        }
        let churned = heap.total();
        ensure!(
            (churned.allocated.bytes as f64 / bytes - 1.0).abs() < 0.05,
            "sampled {churned:?}: {}",
            shown()
        );
        println!(
            "{python}: bytes {:+.2} %, {}, stops {:?}",
            100.0 * (bytes / known("bytes")? - 1.0),
            off.join(", "),
            taken.summary.0["memory"]["sampled"]["stops_s"]
        );
        Ok(())
    })
}

#[test]
fn a_sampled_process_whose_profiler_is_killed_sleeps_and_undo_puts_it_back() -> Result<()> {
    let _serial = serial();
    python::each_of(&kinds()?, |python| {
        let mut workload = memory::run(python, SCRIPT, &["200000"])?;
        let before = slots(&mut workload)?;
        let attached = attach(workload.pid, &["--bytes-per-sample", "1k"])?;
        attached.signal(libc::SIGKILL)?;
        let _ = attached.finish()?;
        // Far more samples than the stubs are allowed.
        ask(&mut workload, "go")?;
        ensure!(before != slots(&mut workload)?, "nothing is left, so nothing is tested");
        ensure!(journal(workload.pid).exists(), "there is no journal");
        let pid = workload.pid.to_string();
        let again = Memory::record(&["--sampled", "--yes", "-p", &pid])?.run()?;
        ensure!(
            again.outcome.code() == 1,
            "it was sampled again: {}",
            again.outcome.stderr
        );
        ensure!(
            again.outcome.stderr.contains("profiler undo -p"),
            "{}",
            again.outcome.stderr
        );
        let undone = Profiler::bare().args(["undo", "-p", &pid]).spawn()?.finish()?;
        ensure!(undone.code() == 0, "{}", undone.stderr);
        ensure!(undone.stderr.contains("8 slots are as before"), "{}", undone.stderr);
        ensure!(before == slots(&mut workload)?, "the table is not as before");
        ensure!(!journal(workload.pid).exists(), "the journal is still there");
        // And it can be sampled again.
        attach(workload.pid, &[])?.stop()?;
        ensure!(before == slots(&mut workload)?, "the table is not as before");
        ask(&mut workload, "go")?;
        Ok(())
    })
}

/// `PROFILER_SAMPLED_CYCLES`: how often, on each interpreter.
#[test]
fn a_busy_process_with_signals_and_children_computes_the_same_however_often_it_is_sampled() -> Result<()> {
    let _serial = serial();
    let cycles = match std::env::var("PROFILER_SAMPLED_CYCLES") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("PROFILER_SAMPLED_CYCLES={text}"))?,
        Err(_) => 6,
    };
    python::each_of(&kinds()?, |python| {
        let mut workload = Workload::python(python, "cycled.py", &[])?;
        let pid = workload.pid.to_string();
        let (mut stops, mut lost) = (Vec::new(), 0);
        for cycle in 0..cycles {
            let taken = Memory::record(&["--sampled", "--yes", "-d", "100ms", "-p", &pid])?.run()?;
            ensure!(
                workload.is_running()?,
                "cycle {cycle}: the target has ended: {}",
                taken.outcome.stderr
            );
            ensure!(taken.outcome.code() == 0, "cycle {cycle}: {}", taken.outcome.stderr);
            ensure!(
                status_field(workload.pid, "TracerPid")? == "0",
                "cycle {cycle}: it is traced"
            );
            let sampled = &taken.summary.0["memory"]["sampled"];
            let of = sampled["stops_s"].as_array().context("no stops")?;
            stops.extend(of.iter().filter_map(Value::as_f64));
            lost += sampled["slots_left"].as_u64().unwrap_or(1);
            ensure!(sampled["children_left"] == 0, "cycle {cycle}: {}", taken.outcome.stderr);
        }
        workload.tell("how is it?")?;
        let state = workload.value().context("the target does not go on")?;
        ensure!(state["wrong"] == serde_json::json!([]), "{state}");
        ensure!(lost == 0, "{lost} slots were left");
        stops.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| stops[((stops.len() - 1) as f64 * share) as usize] * 1e3;
        println!(
            "{python}: {cycles} cycles, stops median {:.2} ms, p99 {:.2} ms, worst {:.2} ms; {state}",
            at(0.5),
            at(0.99),
            at(1.0)
        );
        Ok(())
    })
}

fn refused(pid: u32) -> Result<String> {
    let taken = Memory::record(&["--sampled", "--yes", "-p", &pid.to_string()])?.run()?;
    ensure!(
        taken.outcome.code() == 1,
        "it was not refused: {}",
        taken.outcome.stderr
    );
    ensure!(!journal(pid).exists(), "there is a journal");
    Ok(taken.outcome.stderr)
}

#[test]
fn what_is_not_proven_is_refused_by_name_and_without_consent_nothing_is_written() -> Result<()> {
    let _serial = serial();
    python::each_of(&kinds()?, |python| {
        let plain = memory::run(python, SCRIPT, &["1000"])?;
        let unasked = Memory::record(&["--sampled", "-p", &plain.pid.to_string()])?.run()?;
        ensure!(
            unasked.outcome.code() == 1 && unasked.outcome.stderr.contains("--yes"),
            "{}",
            unasked.outcome.stderr
        );
        for (variable, value, what) in [
            ("PYTHONMALLOC", "debug", "debug hooks"),
            ("PYTHONMALLOC", "malloc", "malloc"),
            ("PYTHONTRACEMALLOC", "1", "tracemalloc"),
        ] {
            let workload = memory::run_with(python, SCRIPT, &["1000"], |command| {
                command.env(variable, value);
            })?;
            let said = refused(workload.pid)?;
            ensure!(said.contains(what), "{variable}={value}: {said}");
        }
        // A seccomp filter that allows everything.
        let filtered = memory::run_with(python, SCRIPT, &["1000"], |command| {
            // SAFETY: system calls, on values of this function's.
            unsafe { command.pre_exec(allow_all) };
        })?;
        let said = refused(filtered.pid)?;
        ensure!(said.contains("seccomp"), "{said}");
        let stopped = memory::run(python, SCRIPT, &["1000"])?;
        profiler_tests::process::signal(stopped.pid, libc::SIGSTOP)?;
        until(Duration::from_secs(5), "it is stopped", || {
            status_field(stopped.pid, "State").is_ok_and(|state| state.starts_with('T'))
        })?;
        let said = refused(stopped.pid)?;
        ensure!(said.contains("is stopped"), "{said}");
        Ok(())
    })
}

#[test]
fn a_process_in_another_mount_namespace_is_refused_by_name() -> Result<()> {
    let _serial = serial();
    let mut pythons = python::all()?;
    pythons.retain(|python| python.root.is_some());
    python::each_of(&pythons, |python| {
        let workload = memory::run(python, SCRIPT, &["1000"])?;
        let said = refused(workload.pid)?;
        ensure!(said.contains("another mnt namespace"), "{said}");
        Ok(())
    })
}

fn allow_all() -> std::io::Result<()> {
    let mut allow = [libc::sock_filter {
        code: 6,
        jt: 0,
        jf: 0,
        k: 0x7fff_0000,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: allow.as_mut_ptr(),
    };
    // SAFETY: the program is live.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, 2, &raw const program) };
    match set {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
