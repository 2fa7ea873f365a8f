//! Choosing threads, names and cgroups.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    calls::{self, Calls},
    folded::{Folded, has},
    pprof,
    profiler::Profiler,
    python,
    serial::serial,
    skip::skip,
    workload::Workload,
};

use crate::RATE;

const THREADS: [(&str, &str); 3] = [
    ("QueueFeeder-1", "alpha_work"),
    ("loader:worker 2", "beta_work"),
    ("поток-3, a name of more than 15 bytes", "gamma_work"),
];

#[test]
fn t_gives_each_thread_its_name_and_its_work() -> Result<()> {
    let _serial = serial();
    python::each_of(&python::all()?, |python| {
        let (workload, tids) = start(python)?;
        let pid = workload.pid.to_string();
        let folded = record(&["-p", &pid, "-t"])?;
        for (&tid, (name, function)) in tids.iter().zip(THREADS) {
            let root = format!("{name} (thread {tid})");
            let thread = folded.only(|stack| stack[0] == root);
            ensure!(thread.total() > 20, "{root} has {} samples\n{folded}", thread.total());
            ensure!(
                thread.share_of(function) >= 0.99,
                "{root} does something else than {function}\n{thread}"
            );
            ensure!(
                thread.total() == folded.count_of(function),
                "{function} is elsewhere, too\n{folded}"
            );
        }
        Ok(())
    })
}

#[test]
fn without_t_a_single_process_starts_at_its_first_frame() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let workload = Workload::python(&python, "spin.py", &[])?;
    let pid = workload.pid.to_string();
    let folded = record(&["-p", &pid, "--no-native", "--no-kernel"])?;
    ensure!(
        folded.share(|stack| stack[0].starts_with("<module> (spin.py:")) > 0.99,
        "{folded}"
    );
    let other = Workload::python(&python, "spin.py", &[])?;
    let both = format!("{pid},{}", other.pid);
    let folded = record(&["-p", &both, "-t"])?;
    for pid in [workload.pid, other.pid] {
        let (process, thread) = (format!("spin.py (process {pid})"), format!(" (thread {pid})"));
        let of_one = folded.only(|stack| stack[0] == process && stack[1].ends_with(&thread));
        ensure!(of_one.total() > 50, "{pid} has {} samples\n{folded}", of_one.total());
    }
    Ok(())
}

#[test]
fn tid_records_that_thread_only() -> Result<()> {
    let _serial = serial();
    let (workload, tids) = start(&python::any()?)?;
    let pid = workload.pid.to_string();
    let (first, last) = (tids[0].to_string(), tids[2].to_string());
    // With and without the process it belongs to.
    for arguments in [vec!["-p", &pid, "--tid", &first], vec!["--tid", &first]] {
        let folded = record(&arguments)?;
        ensure!(folded.share_of("alpha_work") > 0.99, "{arguments:?}\n{folded}");
    }
    let both = format!("{first},{last}");
    let folded = record(&["--tid", &both])?;
    ensure!(folded.count_of("beta_work") == 0, "{folded}");
    ensure!(
        folded.count_of("alpha_work") > 20 && folded.count_of("gamma_work") > 20,
        "{folded}"
    );
    Ok(())
}

#[test]
fn comm_records_threads_of_that_name_only() -> Result<()> {
    let _serial = serial();
    let (workload, _) = start(&python::any()?)?;
    let pid = workload.pid.to_string();
    for arguments in [vec!["-p", &pid, "--comm", "gamma ray 1"], vec!["--comm", "gamma ray 1"]] {
        let folded = record(&arguments)?;
        ensure!(folded.share_of("gamma_work") > 0.99, "{arguments:?}\n{folded}");
    }
    // A part of a name is another name.
    let folded = record(&["-p", &pid, "--comm", "gamma ray"])?;
    ensure!(folded.total() == 0, "{folded}");
    Ok(())
}

#[test]
fn cgroup_records_what_is_in_it_and_below() -> Result<()> {
    let _serial = serial();
    let Some(cgroup) = TestCgroup::new("below")? else {
        return Ok(());
    };
    let python = python::any()?;
    let outside = Workload::python(&python, "shares.py", &[])?;
    let inside = Workload::python(&python, "spin.py", &[])?;
    let below = Workload::python(&python, "lines.py", &[])?;
    cgroup.take(&cgroup.path, &inside)?;
    cgroup.take(&cgroup.below, &below)?;
    let path = cgroup.path.to_str().context("not UTF-8")?;

    let folded = record(&["--cgroup", path])?;
    let shares = [
        folded.share_of("inner"),
        folded.share_of("lines"),
        folded.share_of("turns"),
    ];
    ensure!(
        shares[0] > 0.1 && shares[1] > 0.1 && shares[2] == 0.0,
        "{shares:?}\n{folded}"
    );
    ensure!(shares[0] + shares[1] > 0.98, "{shares:?}\n{folded}");

    // Of a process outside nothing is left.
    let pid = outside.pid.to_string();
    ensure!(
        record(&["-p", &pid, "--cgroup", path])?.total() == 0,
        "a process outside the cgroup was recorded"
    );
    // As /proc/PID/cgroup calls it.
    let name = fs::read_to_string(format!("/proc/{}/cgroup", below.pid))?;
    let name = name
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .context("no cgroup of version 2")?;
    let folded = record(&["--cgroup", name])?;
    ensure!(folded.share_of("lines") > 0.98, "{folded}");
    Ok(())
}

#[test]
fn calls_of_a_cgroup_are_those_of_what_is_in_it_and_below() -> Result<()> {
    let _serial = serial();
    let Some(cgroup) = TestCgroup::new("below")? else {
        return Ok(());
    };
    let python = python::any()?;
    let mut workloads = [3, 5, 7]
        .map(|rounds| calls::run(&python, "busy.py", &[]).map(|workload| (rounds, workload)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    cgroup.take(&cgroup.path, &workloads[0].1)?;
    cgroup.take(&cgroup.below, &workloads[1].1)?;
    let path = cgroup.path.to_str().context("not UTF-8")?;
    let attached = Calls::record(&["--cgroup", path])?.args(calls::WITHOUT_END).start()?;
    for (rounds, workload) in &mut workloads {
        workload.tell(&rounds.to_string())?;
        workload.value()?;
    }
    let report = attached.stop()?.report()?;
    // Each is a file of its own.
    let found = report
        .functions
        .iter()
        .filter(|function| function.place.name == "one_round");
    let mut found: Vec<_> = found.filter_map(|function| function.calls).collect();
    found.sort_unstable();
    ensure!(found == [3, 5], "{found:?} rounds\n{}", report.shown());
    Ok(())
}

#[test]
fn samples_of_a_container_are_labelled_with_its_id_and_cgroup() -> Result<()> {
    let _serial = serial();
    let id = "0123456789abcdef".repeat(4);
    let Some(cgroup) = TestCgroup::new(&format!("docker-{id}.scope"))? else {
        return Ok(());
    };
    let python = python::any()?;
    let workload = Workload::python(&python, "spin.py", &[])?;
    cgroup.take(&cgroup.below, &workload)?;

    let directory = tempfile::tempdir()?;
    let file = directory.path().join("out.pb.gz");
    let path = file.to_str().context("not UTF-8")?;
    let pid = workload.pid.to_string();
    Profiler::record(&["-p", &pid, "-d", "1", "-r", RATE, "-o", path]).succeed()?;
    let profile = pprof::load(&file)?;
    ensure!(profile.samples().next().is_some(), "no samples");
    for (key, _) in profile.samples() {
        let (found, container) = (profile.string(key.labels.cgroup), profile.string(key.labels.container));
        ensure!(
            container == id && found.ends_with(&format!("/docker-{id}.scope")),
            "labels {container:?} and {found:?}"
        );
    }
    Ok(())
}

fn start(python: &python::Python) -> Result<(Workload, Vec<u64>)> {
    let workload = Workload::python(python, "threads.py", &[])?;
    let tids = workload.truth[0]
        .as_array()
        .context("no threads")?
        .iter()
        .filter_map(serde_json::Value::as_u64);
    let tids: Vec<u64> = tids.collect();
    ensure!(tids.len() == THREADS.len(), "only {} threads", tids.len());
    Ok((workload, tids))
}

fn record(arguments: &[&str]) -> Result<Folded> {
    let always = ["-d", "1500ms", "-r", RATE, "-f", "folded", "-o", "-"];
    let folded = Profiler::record(arguments).args(always).succeed()?.folded()?;
    ensure!(!folded.stacks.keys().any(|stack| has(stack, "[no frames]")), "{folded}");
    Ok(folded)
}

/// A cgroup with one below it, removed when dropped.
struct TestCgroup {
    path: PathBuf,
    below: PathBuf,
    root: PathBuf,
}

impl TestCgroup {
    fn new(below: &str) -> Result<Option<Self>> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (point, kind) = (fields.nth(1)?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(point))
        });
        let Some(root) = mount else {
            skip("no cgroup version 2 file system is mounted");
            return Ok(None);
        };
        let path = root.join(format!("profiler-e2e-{}", std::process::id()));
        let below = path.join(below);
        if let Err(error) = fs::create_dir_all(&below) {
            skip(format!("cannot make a cgroup in {}: {error}", root.display()));
            return Ok(None);
        }
        Ok(Some(Self { path, below, root }))
    }

    fn take(&self, cgroup: &std::path::Path, workload: &Workload) -> Result<()> {
        fs::write(cgroup.join("cgroup.procs"), workload.pid.to_string()).context("cannot move a process")
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        // Only an empty cgroup can be removed; the workloads in it outlive this by a moment, or are gone already.
        for cgroup in [&self.below, &self.path] {
            for pid in fs::read_to_string(cgroup.join("cgroup.procs"))
                .unwrap_or_default()
                .lines()
            {
                let _ = fs::write(self.root.join("cgroup.procs"), pid);
            }
            let _ = fs::remove_dir(cgroup);
        }
    }
}
