//! CPythons with the C library of Alpine, where `cargo xtask pythons --musl` has made some.

use anyhow::{Result, ensure};
use profiler_tests::{dump::Dump, folded::has, python, serial::serial, whole::record, workload::Workload};

use crate::RATE;

/// There is no unwind information in musl, and of what has to be worked out a little is not.
const LEAST: f64 = 0.95;

#[test]
fn on_musl_both_threads_have_their_python_frames_and_stacks_down_to_where_they_begin() -> Result<()> {
    let _serial = serial();
    python::each_of(&python::musl()?, |python| {
        let workload = Workload::python(python, "musl.py", &[])?;
        let recorded = record(workload.pid, 1.5, RATE)?;
        let folded = &recorded.folded;
        for function in ["main_work", "other_work"] {
            let share = folded.share_of(function);
            ensure!((0.2..0.8).contains(&share), "{function}: {share}\n{folded}");
        }
        let with_python = folded.share(|stack| has(stack, "main_work") != has(stack, "other_work"));
        ensure!(
            with_python > 0.97,
            "{with_python} have Python frames of one thread\n{folded}"
        );
        let complete = recorded.native.share();
        ensure!(
            complete >= LEAST,
            "{complete} are complete\n{}",
            recorded.outcome.stderr
        );
        Ok(())
    })
}

#[test]
fn on_musl_a_look_from_outside_tells_who_waits_for_the_gil() -> Result<()> {
    let _serial = serial();
    python::each_of(&python::musl()?, |python| {
        let workload = Workload::python(python, "musl.py", &[])?;
        // Two threads that never wait for anything else: at nearly every moment one has it and one does not.
        let mut waits = 0;
        for _ in 0..5 {
            let dump = Dump::of(workload.pid, &[])?;
            ensure!(dump.threads.len() == 2, "{:#?}", dump.threads);
            waits += dump.threads.iter().filter(|thread| thread["state"] == "gil").count();
        }
        ensure!(waits >= 2, "in {waits} of 5 looks somebody waits for the GIL");
        Ok(())
    })
}
