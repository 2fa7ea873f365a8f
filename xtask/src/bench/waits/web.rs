//! A FastAPI service that is asked for as much as it can answer.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Bench;
use super::watcher::Watcher;
use crate::bench::child::Child;
use crate::bench::interpreters::Interpreters;
use crate::bench::table::{Table, Unit};
use crate::bench::usage;
use crate::{command, debian, workspace};

/// As tests/services/requirements.txt has them.
const PACKAGES: [&str; 2] = ["fastapi==0.165.0", "uvicorn==0.54.0"];
/// The cheapest answer there is is the one in which waiting weighs most: there is no such page.
const PAGE: &str = "none";
const PATIENCE: Duration = Duration::from_secs(20);

const WATCHERS: [Watcher; 5] = [
    Watcher::Nobody,
    Watcher::Nobody,
    Watcher::Waits,
    Watcher::EveryWait,
    Watcher::PySpy,
];

/// Installs the service and what asks it, as far as they are not there. A failure is told and is none of the benchmark's.
pub fn install() {
    if let Err(error) = debian::apt_install(["wrk"]) {
        eprintln!("xtask: cannot install wrk: {error:#}");
    }
    if python().exists() {
        return;
    }
    eprintln!(
        "xtask: about to install {} from PyPI into {}",
        PACKAGES.join(" and "),
        venv().display()
    );
    if let Err(error) = make() {
        eprintln!("xtask: cannot install them: {error:#}");
    }
}

fn make() -> Result<()> {
    let interpreter = Interpreters::find()?.main.executable;
    command::output(Command::new(interpreter).args(["-m", "venv", "--clear"]).arg(venv()))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    command::output(Command::new(python()).args(pip).args(PACKAGES)).map(drop)
}

fn venv() -> PathBuf {
    workspace::root().join("target/bench/services")
}

fn python() -> PathBuf {
    venv().join("bin/python")
}

/// What was answered in a time, and what it cost.
#[derive(Clone, Copy)]
struct Answered {
    a_second: f64,
    cpu_us_each: f64,
}

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    table.group("a FastAPI service at full load (wrk, 16 connections, a page that is not there)");
    let port = free_port()?;
    let mut server = Command::new("taskset");
    server
        .args(["--cpu-list", &bench.cpu.to_string()])
        .arg(python())
        .args([
            "-m",
            "uvicorn",
            "api:app",
            "--log-level",
            "critical",
            "--port",
            &port.to_string(),
        ])
        .current_dir(workspace::root().join("tests/services/api"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let server = Child::spawn(&mut server)?;
    wait_for(port)?;
    load(port, PORTION_S, server.pid()).context("there are no figures of wrk")?;
    let mut answered: [Vec<Answered>; WATCHERS.len()] = Default::default();
    let mut failed: [Option<String>; WATCHERS.len()] = Default::default();
    for pair in bench.pairs.each() {
        for step in 0..WATCHERS.len() {
            let which = (pair + step) % WATCHERS.len();
            if failed[which].is_some() {
                continue;
            }
            match watched(bench, WATCHERS[which], port, server.pid()) {
                Ok(portion) => answered[which].push(portion),
                Err(error) => failed[which] = Some(format!("{error:#}")),
            }
        }
    }
    let a_second = answered[0].iter().map(|portion| portion.a_second).collect();
    table.figure("requests a second, nobody looks", Unit::Number, a_second, None);
    for (which, watcher) in WATCHERS.into_iter().enumerate().skip(1) {
        if let Some(why) = &failed[which] {
            table.absent(watcher.name(), why.clone());
            continue;
        }
        let ratios = |ratio: fn(&Answered, &Answered) -> f64| {
            let pairs = answered[which].iter().zip(&answered[0]);
            pairs.map(|(with, without)| ratio(with, without)).collect()
        };
        let goal = (watcher == Watcher::Waits).then_some(1.02);
        let slower = ratios(|with, without| without.a_second / with.a_second);
        table.figure(
            format!("{}, time for a request", watcher.name()),
            Unit::Ratio,
            slower,
            goal,
        );
        let dearer = ratios(|with, without| with.cpu_us_each / without.cpu_us_each);
        table.figure(
            format!("{}, CPU time for one", watcher.name()),
            Unit::Ratio,
            dearer,
            goal,
        );
    }
    Ok(())
}

fn watched(bench: &Bench, watcher: Watcher, port: u16, pid: u32) -> Result<Answered> {
    let watching = bench.watchers.attach(watcher, pid)?;
    // In portions, of which the best counts, as in `slow_down`.
    let mut answered = load(port, PORTION_S, pid)?;
    for _ in 1..portions(bench.length) {
        let other = load(port, PORTION_S, pid)?;
        answered.a_second = answered.a_second.max(other.a_second);
        answered.cpu_us_each = answered.cpu_us_each.min(other.cpu_us_each);
    }
    if let Some(watching) = watching {
        watching.stop()?;
    }
    Ok(answered)
}

/// wrk takes whole seconds.
const PORTION_S: u32 = 1;

fn portions(length: Duration) -> u32 {
    (2.0 * length.as_secs_f64()).ceil().max(3.0) as u32
}

fn load(port: u16, seconds: u32, pid: u32) -> Result<Answered> {
    let before = usage::cpu(pid)?;
    let mut wrk = Command::new("wrk");
    wrk.args([
        "-t1",
        "-c16",
        &format!("-d{seconds}s"),
        &format!("http://127.0.0.1:{port}/{PAGE}"),
    ]);
    let said = command::output(&mut wrk)?;
    let cpu = usage::cpu(pid)?.saturating_sub(before);
    let a_second = requests_a_second(&said).with_context(|| format!("wrk said {:?}", said.trim()))?;
    Ok(Answered {
        a_second,
        cpu_us_each: cpu.as_secs_f64() * 1e6 / (a_second * f64::from(seconds)),
    })
}

fn requests_a_second(said: &str) -> Option<f64> {
    let rate = said.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?;
    rate.trim().parse().ok().filter(|&rate| rate > 0.0)
}

/// One that nobody listens at just now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen")?;
    Ok(listener.local_addr()?.port())
}

fn wait_for(port: u16) -> Result<()> {
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if started.elapsed() > PATIENCE {
            bail!("the service did not listen within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_understood() {
        let said = "  2 requests in 1.00s\nRequests/sec:   15234.91\nTransfer/sec:      2.19MB\n";
        assert_eq!(requests_a_second(said), Some(15_234.91));
        assert_eq!(requests_a_second("Requests/sec: 0.00"), None);
        assert_eq!(requests_a_second("unable to connect"), None);
    }
}
