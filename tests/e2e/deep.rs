//! Deep stacks.

use anyhow::{Result, ensure};
use profiler_tests::{folded::is, profiler::Profiler, python, serial::serial, workload::Workload};

/// What the issue asks for at least.
const LEAST_DEPTH: usize = 512;

#[test]
fn four_hundred_frames_are_all_there() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "deep.py", &["400"])?;
        let pid = workload.pid.to_string();
        let outcome = Profiler::record(&["-p", &pid, "-d", "1", "-r", "299", "-f", "folded", "-o", "-"]).succeed()?;
        let folded = outcome.folded()?;
        let exact = folded.share(|stack| {
            let frames = stack.iter().filter(|frame| is(frame, "descend")).count();
            let rest = ["leaf", "root"]
                .iter()
                .all(|name| stack.iter().filter(|frame| is(frame, name)).count() == 1);
            frames == 400 && rest && !stack.iter().any(|frame| frame == "[truncated]")
        });
        ensure!(
            folded.total() > 50 && exact >= 0.99,
            "{:.1} % are whole\n{folded}",
            exact * 100.0
        );
        ensure!(!outcome.stderr.contains("truncated"), "{}", outcome.stderr);
        Ok(())
    })
}

#[test]
fn deeper_stacks_keep_the_leaf_and_are_marked_and_counted() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "deep.py", &["2000"])?;
        let pid = workload.pid.to_string();
        let arguments = [
            "-p",
            &pid,
            "-d",
            "1",
            "-r",
            "299",
            "--no-native",
            "--no-kernel",
            "-f",
            "folded",
            "-o",
            "-",
        ];
        let outcome = Profiler::record(&arguments).succeed()?;
        let folded = outcome.folded()?;
        let right = folded.count(|stack| {
            let kept = stack.iter().filter(|frame| is(frame, "descend")).count();
            stack[0] == "[truncated]"
                && is(&stack[stack.len() - 1], "leaf")
                && stack.len() > LEAST_DEPTH
                && kept == stack.len() - 2
        });
        ensure!(
            folded.total() > 50 && right as f64 / folded.total() as f64 >= 0.99,
            "{right} of {} are as they should be; depths {:?}\n{folded}",
            folded.total(),
            folded.stacks.keys().map(Vec::len).collect::<Vec<_>>(),
        );
        let counted = outcome.line("truncated at")?;
        let counted = counted
            .split(", ")
            .find(|part| part.contains("truncated at"))
            .unwrap_or_default();
        ensure!(
            profiler_tests::profiler::number(counted)? >= right,
            "{counted}, not {right}"
        );
        Ok(())
    })
}
