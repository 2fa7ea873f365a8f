//! What a web service waits for, named by one command.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    http, python,
    serial::serial,
    venv,
    waits::{self, Waits},
    workload::{self, Workload},
};

const ROUNDS: usize = 10;

#[test]
fn of_a_django_service_that_asks_a_slow_backend_line_and_peer_are_told_with_the_time() -> Result<()> {
    let _lock = serial();
    let python = python::any()?;
    let Some(interpreter) = venv::with(&python, &["django"])? else {
        return Ok(());
    };
    let directory = workload::copy(&python)?;
    let mut command = std::process::Command::new(interpreter);
    command.arg(directory.path().join("waits_django.py"));
    let service = Workload::command(command, Some(directory))?;
    let truth = &service.truth[0];
    let port = truth["port"].as_u64().context("no port")? as u16;
    let attached = waits::attach(&["-p", &service.pid.to_string()])?;
    let (mut least, mut most) = (0, 0);
    for _ in 0..ROUNDS {
        let answer = http::ask(port, "asks")?;
        // Before the backend slept it was asked already, and a page does more than to wait for it.
        least += answer["backend_ns"].as_u64().context("no time of the backend")?;
        most += answer["ns"].as_u64().context("no time")?;
    }
    let waits = Waits::of(attached.stop()?)?;
    waits.ensure_adds_up()?;
    // The first row that is about a page: what else there is waits for one to be asked for.
    let row = (waits.rows()?.iter())
        .find(|row| row["function"] == "asks_backend")
        .context("no row of the page")?;
    let peer = format!("127.0.0.1:{}", truth["backend"]);
    ensure!(
        row["cause"] == "socket" && row["line"] == truth["line"] && row["peer"] == *peer,
        "not for {peer} at line {}: {row}",
        truth["line"]
    );
    let line = truth["line"].as_u64().context("no line")?;
    let found = waits.ns_with_ready("socket", "asks_backend", line)? as f64;
    ensure!(
        (0.98 * least as f64..=1.01 * most as f64).contains(&found),
        "{found} ns of {least} to {most}: {row}"
    );
    Ok(())
}
