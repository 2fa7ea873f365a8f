//! Waiting for a CPU because the cgroup's quota is used up.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    python,
    quota::QuotaCgroup,
    serial::serial,
    waits::{self, Waits},
    workload::Workload,
};

const PERIOD_US: u32 = 20_000;
const QUOTA_US: u32 = 4_000;

/// What was said of a program in a cgroup with a quota, and for which part of the time the kernel says it was held back.
fn held_back(mode: &str) -> Result<Option<(Waits, u64, f64)>> {
    let workload = Workload::python(&python::any()?, "waits_quota.py", &[mode])?;
    let Some(cgroup) = QuotaCgroup::new(QUOTA_US, PERIOD_US)? else {
        return Ok(None);
    };
    let pids = workload.truth[0]["pids"].as_array().context("no pids")?;
    for pid in pids.iter().filter_map(serde_json::Value::as_u64) {
        cgroup.take(pid as u32)?;
    }
    let attached = waits::attach(&["-p", &workload.pid.to_string()])?;
    let (before, began) = (cgroup.throttled_ns()?, std::time::Instant::now());
    // For as long as it takes that the edges do not matter: a hundred periods.
    thread::sleep(Duration::from_secs(2));
    let share = (cgroup.throttled_ns()? - before) as f64 / began.elapsed().as_nanos() as f64;
    let waits = Waits::of(attached.stop()?)?;
    waits.ensure_adds_up()?;
    ensure!(share > 0.2, "the quota was never used up: {share:.3}");
    Ok(Some((
        waits,
        workload.truth[0]["line"].as_u64().context("no line")?,
        share,
    )))
}

fn share_of(waits: &Waits, cause: &str) -> Result<f64> {
    let [thread] = waits.threads()? else {
        anyhow::bail!("not one thread: {:?}", waits.threads())
    };
    let time = |value: &serde_json::Value| value.as_u64().context("no time");
    Ok(time(&thread["waiting_ns"][cause])? as f64 / time(&thread["elapsed_ns"])? as f64)
}

#[test]
fn what_a_quota_holds_back_is_what_the_cgroup_says_and_at_its_line() -> Result<()> {
    let _lock = serial();
    let Some((waits, line, known)) = held_back("computes")? else {
        return Ok(());
    };
    let throttled = share_of(&waits, "throttled")?;
    ensure!(
        (throttled / known - 1.0).abs() < 0.1,
        "throttled {throttled:.3} of the time; by the cgroup {known:.3}"
    );
    let at_line =
        waits.ns("throttled", "computes", line)? as f64 / waits.report["length_ns"].as_f64().context("length")?;
    ensure!(
        (at_line / known - 1.0).abs() < 0.1,
        "at its line {at_line:.3} of the time; by the cgroup {known:.3}"
    );
    Ok(())
}

#[test]
fn who_wakes_up_when_the_quota_is_used_up_is_held_back_and_his_sleep_is_no_longer_for_it() -> Result<()> {
    let _lock = serial();
    let Some((waits, line, _)) = held_back("naps")? else {
        return Ok(());
    };
    let (throttled, sleep) = (share_of(&waits, "throttled")?, share_of(&waits, "sleep")?);
    ensure!(
        throttled > 0.05,
        "throttled {throttled:.3} of the time, asleep {sleep:.3}"
    );
    let sleeps = waits.at("naps", line)?;
    let of_sleep = |row: &&&serde_json::Value| row["cause"] == "sleep";
    let row = sleeps.iter().find(of_sleep).context("no sleep at its line")?;
    let mean = row["total_ns"].as_f64().context("ns")? / row["count"].as_f64().context("count")?;
    ensure!(
        (3e6..3.6e6).contains(&mean),
        "a nap of 3 ms takes {mean} ns without what it waited for a CPU"
    );
    Ok(())
}
