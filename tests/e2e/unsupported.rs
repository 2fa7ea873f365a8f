//! Versions that are not understood are refused by name, and their native stacks are still shown.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::is_python,
    profiler::Profiler,
    python,
    serial::serial,
    skip::skip,
    workload::{self, Workload},
};

use crate::RATE;

#[test]
fn a_version_that_is_not_known_is_refused_by_name() -> Result<()> {
    let _serial = serial();
    for version in ["2.7", "3.6", "3.7"] {
        let Some(executable) = python::pyenv(version) else {
            skip(format!("pyenv has no CPython {version}"));
            continue;
        };
        let release = executable
            .parent()
            .and_then(|bin| bin.parent()?.file_name()?.to_str())
            .context("no release")?;
        for all in [false, true] {
            check(&executable, release, all).with_context(|| format!("CPython {release}, -a: {all}"))?;
        }
    }
    Ok(())
}

fn check(executable: &std::path::Path, release: &str, all: bool) -> Result<()> {
    let mut command = Command::new(executable);
    command.arg(workload::sources().join("two.py"));
    let workload = Workload::command(command, None)?;
    let pid = workload.pid.to_string();
    let target = if all { vec!["-a"] } else { vec!["-p", &pid] };
    let outcome = Profiler::record(&target)
        .args(["-d", "1", "-r", RATE, "-f", "folded", "-o", "-"])
        .succeed()?;
    let mut folded = outcome.folded()?;
    if all {
        folded = folded.below(&format!("process {pid}:"));
    }
    ensure!(folded.total() > 50, "only {} samples", folded.total());
    ensure!(
        folded.share(|stack| stack.iter().any(|frame| is_python(frame))) == 0.0,
        "guessed\n{folded}"
    );
    // The leaf at least, which needs no unwinding.
    let native = folded.share(|stack| {
        stack
            .iter()
            .any(|frame| frame.contains("libpython") || frame.contains("(python"))
    });
    ensure!(native > 0.9, "native stacks are not shown\n{folded}");
    let line = outcome.line(release)?;
    ensure!(
        line.contains("not supported") || line.contains("not understood"),
        "{line}"
    );
    Ok(())
}
