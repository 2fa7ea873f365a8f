//! `profiler why` finds what is wrong with programs that have it, and not with those that look like them.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    profiler::Profiler,
    python::{self, Python},
    quota::QuotaCgroup,
    serial::serial,
    skip::skip,
    workload::{Workload, sources},
};
use serde_json::Value;

/// What the machine withholds is no matter of the program's: others may be busy.
const OF_THE_MACHINE: [&str; 3] = ["run-queue", "oversubscribed", "throttled"];

fn why(python: &Python, case: &str, options: &[&str]) -> Result<Value> {
    let workload = Workload::python(python, "why_cases.py", &[case])?;
    of(&workload, case, options)
}

fn of(workload: &Workload, case: &str, options: &[&str]) -> Result<Value> {
    let pid = workload.pid.to_string();
    let outcome = Profiler::bare()
        .args(["why", "-j", "-q", "-d", "3", "-p", &pid])
        .args(options)
        .run()?
        .success()?;
    serde_json::from_slice(&outcome.stdout).with_context(|| format!("{case}: no JSON"))
}

fn findings(report: &Value) -> Result<&Vec<Value>> {
    report["findings"].as_array().context("no findings")
}

/// A case of why_cases.py, and what is to be found in it.
struct Case(&'static str, Found);

enum Found {
    /// This, in one of these severities.
    Has(&'static str, &'static [&'static str]),
    /// None of these, and nothing bad that is not the machine's.
    Not(&'static [&'static str]),
    /// None of these.
    JustNot(&'static [&'static str]),
}
use Found::{Has, JustNot, Not};

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

/// Two at a time: each has a profiler of its own, and what two programs take from one another is the machine's.
fn each(cases: &[Case]) -> Result<()> {
    let python = python::any()?;
    python::each_of(cases, |Case(case, found)| match found {
        Has(kind, severities) => has(&python, case, kind, severities),
        Not(kinds) => has_not(&python, case, kinds),
        JustNot(kinds) => ensure_just_not(&why(&python, case, &[])?, case, kinds),
    })
}

fn ensure_just_not(report: &Value, case: &str, kinds: &[&str]) -> Result<()> {
    for finding in findings(report)? {
        let kind = finding["kind"].as_str().unwrap_or_default();
        ensure!(!kinds.contains(&kind), "{case}: {finding:#?}");
    }
    Ok(())
}

/// The case has this, in `wrong`, at least that bad; and nothing else is called critical.
fn has(python: &Python, case: &str, kind: &str, severities: &[&str]) -> Result<()> {
    ensure_has(&why(python, case, &[])?, case, kind, severities)
}

fn ensure_has(report: &Value, case: &str, kind: &str, severities: &[&str]) -> Result<()> {
    let all = findings(report)?;
    let found = all.iter().find(|finding| finding["kind"] == kind);
    let found = found.with_context(|| format!("{case}: no {kind} in {all:#?}"))?;
    let severity = found["severity"].as_str().unwrap_or_default();
    ensure!(severities.contains(&severity), "{case}: {severity} {found:#?}");
    let function = found["function"].as_str().unwrap_or_default();
    ensure!(
        function.is_empty() || function.ends_with("wrong"),
        "{case}: in {function}, not in wrong: {found:#?}"
    );
    ensure!(
        !found["next"].as_str().unwrap_or_default().is_empty()
            && !found["sentence"].as_str().unwrap_or_default().is_empty(),
        "{case}: nothing to read or to type: {found:#?}"
    );
    Ok(())
}

/// The case has nothing that is worse than `low` but what the machine does to it, and not this at all.
fn has_not(python: &Python, case: &str, kinds: &[&str]) -> Result<()> {
    let report = why(python, case, &[])?;
    ensure_just_not(&report, case, kinds)?;
    for finding in findings(&report)? {
        let (kind, severity) = (
            finding["kind"].as_str().unwrap_or_default(),
            finding["severity"].as_str().unwrap_or_default(),
        );
        ensure!(
            OF_THE_MACHINE.contains(&kind) || !matches!(severity, "critical" | "high"),
            "{case}: {finding:#?}"
        );
    }
    Ok(())
}

/// Programs that are looked at together, and what of each there must not be.
const LOOK_ALIKES: [(&str, &[&str]); 8] = [
    ("gc_seldom", &["gc"]),
    ("exceptions_expected", &["exceptions"]),
    ("serialization_now_and_then", &["serialization"]),
    ("imports_what_it_has", &["imports"]),
    ("many_threads", &["gil", "stuck", "lock"]),
    ("writes_without_waiting", &["disk"]),
    ("pages_in_memory", &["faults", "disk", "churn"]),
    ("stuck", &["idle"]),
];

#[test]
fn what_looks_like_a_fault_and_is_none_is_not_called_one() -> Result<()> {
    let _lock = serial();
    let python = python::any()?;
    let all = of_several(&python, &LOOK_ALIKES.map(|(case, _)| case))?;
    for ((case, kinds), found) in LOOK_ALIKES.iter().zip(all) {
        let is_wrong = |finding: &&Value| kinds.contains(&finding["kind"].as_str().unwrap_or_default());
        let wrong: Vec<&Value> = found.iter().filter(is_wrong).collect();
        ensure!(wrong.is_empty(), "{case}: {wrong:#?}");
    }
    // By itself: together these programs want more CPUs than there may be.
    has_not(&python, "many_threads", &["oversubscribed"])
}

#[test]
fn why_a_cpu_is_wanted_that_others_have_is_found_and_not_of_who_goes_first() -> Result<()> {
    let _lock = serial();
    let all = of_several(&python::any()?, &["run_queue", "goes_first"])?;
    let severities = |findings: &[Value]| -> Vec<String> {
        let of = findings.iter().filter(|finding| finding["kind"] == "run-queue");
        of.filter_map(|finding| Some(finding["severity"].as_str()?.to_owned()))
            .collect()
    };
    let [waits, goes_first] = [severities(&all[0]), severities(&all[1])];
    ensure!(
        waits.iter().any(|severity| matches!(&**severity, "critical" | "high")),
        "{all:#?}"
    );
    ensure!(goes_first.iter().all(|severity| severity == "low"), "{all:#?}");
    Ok(())
}

/// What is found in each of these cases, looked at together.
fn of_several(python: &Python, cases: &[&str]) -> Result<Vec<Vec<Value>>> {
    let workloads = cases
        .iter()
        .map(|case| Workload::python(python, "why_cases.py", &[case]))
        .collect::<Result<Vec<_>>>()?;
    let pids: Vec<String> = workloads.iter().map(|workload| workload.pid.to_string()).collect();
    let outcome = Profiler::bare()
        .args(["why", "-j", "-q", "-d", "3", "-p", &pids.join(",")])
        .run()?
        .success()?;
    let report: Value = serde_json::from_slice(&outcome.stdout).context("no JSON")?;
    let of = |pid: u32| {
        let is_of = |finding: &&Value| {
            let also = finding["also"]
                .as_array()
                .is_some_and(|also| also.contains(&pid.into()));
            finding["pid"] == pid || also
        };
        Ok(findings(&report)?.iter().filter(is_of).cloned().collect())
    };
    workloads.iter().map(|workload| of(workload.pid)).collect()
}

#[test]
fn why_a_program_that_waits_is_slow_is_found_where_it_is_so_and_only_there() -> Result<()> {
    let _lock = serial();
    each(&[
        Case("slow_peer", Has("slow-peer", &["critical"])),
        Case("slow_peer_with_time_out", Has("slow-peer", &["critical"])),
        Case("quick_peer", Not(&["slow-peer", "n-plus-one"])),
        Case("n_plus_one", Has("n-plus-one", &["critical", "high", "medium"])),
        Case("one_question", JustNot(&["n-plus-one"])),
        Case("lock", Has("lock", &["critical", "high"])),
        Case("pool", Not(&["lock", "gil", "stuck", "slow-peer"])),
        Case("waits_for_items_with", Not(&["lock", "stuck"])),
    ])
}

#[test]
fn why_sqlite_is_asked_again_and_again_is_found_by_its_reads_or_not_called_not_seen() -> Result<()> {
    let _lock = serial();
    let python = python::any()?;
    let report = why(&python, "sqlite_n_plus_one", &[])?;
    ensure_has(&report, "sqlite_n_plus_one", "n-plus-one", &["critical", "high"])?;
    let found = findings(&report)?
        .iter()
        .find(|finding| finding["kind"] == "n-plus-one");
    let evidence = &found.context("it was there")?["evidence"];
    let number = |name: &str| {
        evidence[name]
            .as_f64()
            .with_context(|| format!("no {name}: {evidence}"))
    };
    let each = number("transactions")? / number("requests")?;
    ensure!((30.0..=50.0).contains(&each), "40 for each request, not {each}");
    for case in ["sqlite_one_question", "sqlite_in_a_transaction"] {
        let report = why(&python, case, &[])?;
        let is_it = |finding: &Value| finding["kind"] == "n-plus-one";
        ensure!(!findings(&report)?.iter().any(is_it), "{case}: {report:#}");
        let seen = report["not_seen"].as_array().context("nothing was looked for")?;
        ensure!(!seen.contains(&"n-plus-one".into()), "{case}: {seen:?}");
        let not = report["could_not_look"].as_array().context("no list")?;
        let says_how = not.iter().any(|not| {
            let kinds = not["kinds"]
                .as_array()
                .is_some_and(|kinds| kinds.contains(&"n-plus-one".into()));
            kinds
                && not["reason"]
                    .as_str()
                    .unwrap_or_default()
                    .contains("profiler calls -p ")
        });
        ensure!(says_how, "{case}: {not:#?}");
    }
    Ok(())
}

#[test]
fn why_threads_and_loops_do_not_run_is_found_where_it_is_so_and_only_there() -> Result<()> {
    let _lock = serial();
    each(&[
        Case("gil", Has("gil", &["critical", "high"])),
        Case(
            "gil_held_blocked",
            Has("gil-held-blocked", &["critical", "high", "medium"]),
        ),
        Case("gil_released", Not(&["gil-held-blocked", "gil"])),
        Case("blocked_loop", Has("blocked-loop", &["critical"])),
        Case("starved_loop", Has("starved-loop", &["critical", "high"])),
        Case("loop", Not(&["blocked-loop", "starved-loop", "stuck"])),
    ])
}

#[test]
fn why_a_program_computes_is_found_where_it_is_so_and_only_there() -> Result<()> {
    let _lock = serial();
    each(&[
        Case("cpu", Has("cpu", &["critical", "high"])),
        Case("cpu_now_and_then", Not(&["cpu", "stuck"])),
        Case("gc_off", JustNot(&["gc"])),
        Case("exceptions", Has("exceptions", &["high", "medium", "low"])),
        Case("serialization", Has("serialization", &["critical", "high"])),
    ])?;
    let python = python::any()?;
    // By itself: its pauses are compared with its CPU time.
    let report = why(&python, "gc_thrash", &[])?;
    ensure_has(&report, "gc_thrash", "gc", &["critical", "high"])?;
    let gc = findings(&report)?.iter().find(|finding| finding["kind"] == "gc");
    let gc = gc.context("it was there")?;
    let number = |name: &str| {
        gc["evidence"][name]
            .as_f64()
            .with_context(|| format!("no {name}: {gc:#}"))
    };
    // Each of them goes through 400,000 lists.
    let (pause, times) = (number("mean_pause_s")?, number("collections_of_all")?);
    ensure!((0.0005..1.0).contains(&pause) && times > 1.0, "{gc:#}");
    ensure!((pause * times / number("cpu_s")? - 1.0).abs() < 0.05, "{gc:#}");
    let gain = gc["gain"].as_str().unwrap_or_default();
    ensure!(gain.contains("the program itself asks for"), "{gain}");
    has(&python, "oversubscribed", "oversubscribed", &["critical", "high"])
}

#[test]
fn why_memory_becomes_more_is_found_where_it_is_so_and_only_there() -> Result<()> {
    let _lock = serial();
    each(&[
        Case("growth", Has("growth", &["critical", "high", "medium"])),
        Case("grown", Not(&["growth", "churn"])),
        Case("churn", Has("churn", &["critical", "high", "medium"])),
    ])
}

#[test]
fn why_nothing_goes_on_is_stuck_or_idle() -> Result<()> {
    let _lock = serial();
    python::each_kind(|python| {
        has(python, "stuck", "stuck", &["critical"])?;
        for case in ["idle", "waits_for_items"] {
            let report = why(python, case, &[])?;
            let all = findings(&report)?;
            ensure!(all.len() == 1 && all[0]["kind"] == "idle", "{case}: {all:#?}");
            ensure!(all[0]["severity"] == "info", "{case}: {all:#?}");
        }
        has(python, "stuck_child", "stuck", &["low"])
    })
}

#[test]
fn why_says_by_its_status_that_there_is_what_to_fail_on() -> Result<()> {
    let _lock = serial();
    let python = python::any()?;
    for (case, expected) in [("blocked_loop", 4), ("idle", 0)] {
        let workload = Workload::python(&python, "why_cases.py", &[case])?;
        let pid = workload.pid.to_string();
        let outcome = Profiler::bare()
            .args(["why", "-q", "-d", "2", "--fail-on", "high", "-p", &pid])
            .run()?;
        ensure!(
            outcome.code() == expected,
            "{case}: {} {}",
            outcome.code(),
            outcome.stderr
        );
        let text = String::from_utf8_lossy(&outcome.stdout);
        ensure!(
            text.lines().all(|line| line.chars().count() <= 80) && text.contains("Looked for and not seen:"),
            "{text}"
        );
    }
    Ok(())
}

/// The directory of temporary files is on a disk that takes time.
fn has_disk() -> Result<bool> {
    let folder = std::env::temp_dir();
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let of = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        folder.starts_with(point).then_some((point.len(), kind))
    });
    let kind = of.max_by_key(|&(length, _)| length).map_or("", |(_, kind)| kind);
    let is_disk = !matches!(kind, "tmpfs" | "overlay" | "ramfs");
    if !is_disk {
        skip(format!("{} is on {kind}, no disk", folder.display()));
    }
    Ok(is_disk)
}

#[test]
fn why_a_disk_is_waited_for_is_found_at_its_line_with_its_call() -> Result<()> {
    let _lock = serial();
    if !has_disk()? {
        return Ok(());
    }
    let python = python::any()?;
    let report = why(&python, "disk", &[])?;
    ensure_has(&report, "disk", "disk", &["critical", "high"])?;
    let all = findings(&report)?;
    let disk = all
        .iter()
        .find(|finding| finding["kind"] == "disk")
        .context("no disk")?;
    let sentence = disk["sentence"].as_str().unwrap_or_default();
    ensure!(
        sentence.contains("fsync") && disk["evidence"]["call"] == "fsync",
        "{disk:#?}"
    );
    has(&python, "faults", "faults", &["critical", "high", "medium"])
}

#[test]
fn why_a_quota_that_is_spent_is_found_and_none_where_there_is_none() -> Result<()> {
    let _lock = serial();
    let workload = Workload::python(&python::any()?, "why_cases.py", &["cpu"])?;
    let Some(cgroup) = QuotaCgroup::new(4_000, 20_000)? else {
        return Ok(());
    };
    let report = of(&workload, "cpu", &[])?;
    let throttled =
        |report: &Value| -> Result<bool> { Ok(findings(report)?.iter().any(|finding| finding["kind"] == "throttled")) };
    ensure!(!throttled(&report)?, "{report:#?}");
    cgroup.take(workload.pid)?;
    let before = cgroup.throttled_ns()?;
    let report = of(&workload, "cpu", &[])?;
    ensure!(cgroup.throttled_ns()? > before, "the quota was never used up");
    let could_not = report["could_not_look"].as_array().context("no could_not_look")?;
    let could_not = could_not
        .iter()
        .filter_map(|not| not["kinds"].as_array())
        .flatten()
        .any(|kind| kind == "throttled");
    // A kernel before 6.7 with cgroups of version 1 says nothing of it.
    ensure!(throttled(&report)? != could_not, "{report:#?}");
    if could_not {
        return Ok(());
    }
    ensure_has(&report, "throttled", "throttled", &["critical", "high"])
}

#[test]
fn why_a_command_starts_slowly_is_its_imports() -> Result<()> {
    let _lock = serial();
    let python = python::any()?;
    let script = sources().join("why_imports.py");
    let outcome = Profiler::bare()
        .args(["why", "-j", "-q", "--"])
        .args([python.executable.as_os_str(), script.as_os_str()])
        .run()?
        .success()?;
    let report: Value = serde_json::from_slice(&outcome.stdout).context("no JSON")?;
    let all = findings(&report)?;
    let imports = all.iter().find(|finding| finding["kind"] == "imports");
    let imports = imports.with_context(|| format!("no imports: {all:#?}"))?;
    ensure!(imports["severity"] == "critical", "{imports:#?}");
    Ok(())
}

#[test]
fn why_of_the_whole_machine_finds_the_program_that_has_it() -> Result<()> {
    let _lock = serial();
    let python = python::any()?;
    let blocked = Workload::python(&python, "why_cases.py", &["blocked_loop"])?;
    let idle = Workload::python(&python, "why_cases.py", &["idle"])?;
    let outcome = Profiler::bare()
        .args(["why", "-a", "-j", "-q", "-d", "3"])
        .run()?
        .success()?;
    let report: Value = serde_json::from_slice(&outcome.stdout).context("no JSON")?;
    let all = findings(&report)?;
    let of = |pid: u32| {
        let mine = all.iter().filter(move |finding| finding["pid"] == pid);
        mine.map(|finding| finding["kind"].as_str().unwrap_or_default())
    };
    ensure!(of(blocked.pid).any(|kind| kind == "blocked-loop"), "{all:#?}");
    // Others of the machine may idle as well, and are told with it.
    ensure!(
        of(idle.pid).all(|kind| kind == "idle" || OF_THE_MACHINE.contains(&kind)),
        "{all:#?}"
    );
    Ok(())
}
