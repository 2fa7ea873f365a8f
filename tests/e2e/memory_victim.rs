//! Processes that end for want of memory, because their cgroup has used up its own or after a `MemoryError`: what they had is
//! told, and by which line.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    cgroup::Cgroup,
    memory::{self, Memory},
    pprof,
    profiler::Profiler,
    python,
    serial::serial,
    workload::Workload,
};

use crate::flight::{until_there_are, windows};

const LIMIT: u64 = 64 << 20;

/// A process whose child is in a cgroup that may not have much, and the child.
fn victim() -> Result<Option<(Workload, u32, Cgroup)>> {
    let workload = memory::run(&python::any()?, "victim.py", &[])?;
    let child = workload.truth[0]["child"].as_u64().context("no child")? as u32;
    let Some(cgroup) = Cgroup::of_memory(LIMIT)? else {
        return Ok(None);
    };
    cgroup.take(child)?;
    Ok(Some((workload, child, cgroup)))
}

fn until_it_is_ended(workload: &mut Workload) -> Result<()> {
    workload.tell("go")?;
    let ended = workload.value()?;
    ensure!(ended["signal"] == 9, "{ended}");
    Ok(())
}

#[test]
fn of_a_process_that_is_ended_for_want_of_memory_limit_and_line_are_told() -> Result<()> {
    let _serial = serial();
    let Some((mut workload, child, cgroup)) = victim()? else {
        return Ok(());
    };
    let attached = Memory::command(&["-s", "-p", &workload.pid.to_string(), "-f", "json"])?.start()?;
    until_it_is_ended(&mut workload)?;
    let taken = attached.stop()?.success()?;
    let report: serde_json::Value = serde_json::from_slice(&taken.outcome.stdout)?;
    let processes = report["processes"].as_array().context("no processes")?;
    let of = |pid: u32| processes.iter().find(|process| process["pid"] == pid);
    let ended = &of(child).with_context(|| report.to_string())?["ended_for_memory"];
    ensure!(
        ended["limit_bytes"] == LIMIT && ended["cgroup"] == *cgroup.name()?,
        "{ended}"
    );
    let peak = ended["peak_rss"].as_u64().context("no peak")?;
    ensure!((LIMIT / 2..LIMIT * 3 / 2).contains(&peak), "{ended}");
    ensure!(
        of(workload.pid).is_none_or(|process| process.get("ended_for_memory").is_none()),
        "{report}"
    );

    // What it had is still told, although it is gone: nearly all of what the cgroup might have, at one line.
    let line = memory::line_of("victim.py", "# kept")?;
    let rows = report["rows"].as_array().context("no rows")?;
    let kept = rows
        .iter()
        .find(|row| row["line"] == line)
        .with_context(|| report.to_string())?;
    let (live, all) = (&kept["inuse_bytes"], &report["total"]["inuse_bytes"]);
    let (live, all) = (live.as_u64().context("bytes")?, all.as_u64().context("bytes")?);
    ensure!(rows[0] == *kept && live * 10 > all * 9, "{report}");
    ensure!((LIMIT / 2..LIMIT * 11 / 10).contains(&live), "{report}");
    Ok(())
}

#[test]
fn windows_around_the_end_of_a_process_for_want_of_memory_are_kept_and_say_who_had_it() -> Result<()> {
    let _serial = serial();
    let Some((mut workload, child, cgroup)) = victim()? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let profiler = Profiler::bare().args([
        "memory",
        "-s",
        "-p",
        &workload.pid.to_string(),
        "--every",
        "1s",
        "--keep",
        "1",
    ]);
    let recording = profiler.arg("-o").arg(directory.path()).start()?;
    until_it_is_ended(&mut workload)?;
    // One of two is that in which it ended.
    until_there_are(2, directory.path(), true)?;
    let outcome = recording.stop()?;
    let said = &outcome.stderr;
    let sentence = format!("({child}) was ended by the kernel for want of memory");
    let limit = format!("its cgroup {} may have 64.0 MiB", cgroup.name()?);
    ensure!(said.contains(&sentence) && said.contains(&limit), "{said}");
    ensure!(said.contains("the windows around now are kept"), "{said}");
    let mut after = said.lines().skip_while(|line| !line.contains("had at its end"));
    let line = format!("victim.py:{})", memory::line_of("victim.py", "# kept")?);
    let row = after.nth(1).context("no line")?;
    ensure!(row.contains("MiB  keep (") && row.ends_with(&line), "{said}");
    // The file says it, too.
    let files = windows(directory.path(), true)?;
    let comments = |path: &std::path::PathBuf| Ok::<_, anyhow::Error>(pprof::load(path)?.comments.join("\n"));
    let told = files.iter().map(comments).collect::<Result<Vec<_>>>()?;
    ensure!(told.iter().any(|text| text.contains(&sentence)), "{told:?}");
    Ok(())
}

#[test]
fn of_a_process_that_ends_after_a_memory_error_limit_and_line_are_told_and_of_one_that_lives_on_nothing() -> Result<()>
{
    let _serial = serial();
    python::each(|python| {
        let mut workload = memory::run(python, "ran_out.py", &[])?;
        let known = workload.truth[0].clone();
        let pid = |at: usize| known["children"][at].as_u64().context("no child");
        let (used_up, lived_on, refused) = (pid(0)?, pid(1)?, pid(2)?);
        let limit = known["limit"].as_u64().context("no limit")?;
        let attached = Memory::command(&["-s", "-p", &workload.pid.to_string(), "-f", "json"])?.start()?;
        workload.tell("go")?;
        let ended = workload.value()?;
        ensure!(ended["statuses"] == serde_json::json!([1 << 8, 0, 1 << 8]), "{ended}");
        let taken = attached.stop()?.success()?;
        let report: serde_json::Value = serde_json::from_slice(&taken.outcome.stdout)?;
        let processes = report["processes"].as_array().context("no processes")?;
        let of = |pid: u64| {
            let process = processes.iter().find(|process| process["pid"] == pid);
            Ok::<_, anyhow::Error>(&process.with_context(|| format!("{pid} is not in the report"))?["ended_for_memory"])
        };
        let told = of(used_up)?;
        ensure!(
            told["exit_status"] == 1 && told["limit_bytes"] == limit && told["cgroup"].is_null(),
            "{told}"
        );
        ensure!(told["memory_error_s"].as_f64().context("no time")? < 10.0, "{told}");
        ensure!(of(lived_on)?.is_null(), "{}", of(lived_on)?);
        let told = of(refused)?;
        ensure!(told["exit_status"] == 1 && told["limit_bytes"].is_null(), "{told}");

        // What it had is still told, although it is gone: most of what its address space had room for.
        let line = memory::line_of("ran_out.py", "# kept")?;
        let rows = report["rows"].as_array().context("no rows")?;
        let kept = (rows.iter())
            .find(|row| row["line"] == line)
            .with_context(|| format!("no line {line}: {}", report["rows"]))?;
        let live = kept["inuse_bytes"].as_u64().context("bytes")?;
        ensure!(
            (limit / 2..=limit).contains(&live),
            "{live} of {limit}: {}",
            report["rows"]
        );
        Ok(())
    })
}
