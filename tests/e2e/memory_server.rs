//! A server under load that leaks: one command names the line.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    memory::{self, Memory, line_of, sources},
    python,
    serial::serial,
    venv,
    workload::Workload,
    workshop::whole,
};

#[test]
fn the_leaking_line_of_a_server_under_load_is_in_the_first_rows() -> Result<()> {
    let _serial = serial();
    let Some(python) = python::all()?.into_iter().find(|python| python.version == (3, 12)) else {
        profiler_tests::skip::skip("pyenv has no CPython 3.12");
        return Ok(());
    };
    let Some(interpreter) = venv::with(&python, &["fastapi", "uvicorn"])? else {
        return Ok(());
    };
    let mut command = Command::new(interpreter);
    command
        .arg(sources().join("server.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let server = Workload::command(command, None)?;
    let port = server.truth[0]["port"].as_u64().context("no port")?.to_string();
    let mut load = python.command();
    load.arg(whole("load.py")).arg(port);
    let _load = Workload::command(load, None)?;

    let pid = server.pid.to_string();
    let taken = Memory::command(&["-p", &pid, "-d", "5", "--top", "10"])?.succeed()?;
    let rows = memory::rows(&taken)?;
    let line = format!("server.py:{}", line_of("server.py", "# the leak")?);
    ensure!(
        rows.iter().take(3).any(|row| row.contains(&line)),
        "no {line} in the first rows of\n{}\n{}",
        rows.join("\n"),
        taken.outcome.stderr
    );
    Ok(())
}
