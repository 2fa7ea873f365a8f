//! The same stacks as perf(1) finds, which unwinds copies of whole stacks by DWARF.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Result, ensure};
use profiler_tests::{
    perf::{Perf, normalized},
    profiler::Profiler,
    serial::serial,
    whole::let_run,
    workload::Workload,
    workshop::{Workshop, is_installed},
};

/// Both at the same rate, as the issue says.
const RATE: &str = "999";

#[test]
fn a_native_program_has_the_stacks_and_shares_that_perf_finds() -> Result<()> {
    let _serial = serial();
    if !is_installed("perf") {
        return Ok(());
    }
    let workshop = Workshop::new()?;
    let program = workshop.c("paths.c", "paths", &[])?;
    let workload = Workload::command(Command::new(program), None)?;
    let pid = workload.pid.to_string();
    // In the same seconds.
    let perf = Perf::record(workload.pid, RATE)?;
    let ours = Profiler::record(&["-p", &pid, "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
    let_run(workload.pid, 6.0)?;
    let ours = ours.stop()?;
    let theirs = perf.stop()?;

    let (ours, theirs) = (normalized(&ours.folded()?, "paths"), normalized(&theirs, "paths"));
    ensure!(
        ours.total() > 2000 && theirs.total() > 2000,
        "{} samples of ours, {} of perf's",
        ours.total(),
        theirs.total()
    );
    let both: BTreeSet<_> = ours.stacks.keys().chain(theirs.stacks.keys()).collect();
    let mut compared = 0;
    let mut apart = Vec::new();
    for stack in both {
        let our_share = ours.share(|other| other == stack.as_slice());
        let their_share = theirs.share(|other| other == stack.as_slice());
        if our_share.max(their_share) < 0.01 {
            continue;
        }
        compared += 1;
        let only_one_has_it = our_share == 0.0 || their_share == 0.0;
        if only_one_has_it || (our_share - their_share).abs() > 0.02 {
            apart.push(format!(
                "{:.1} % of ours, {:.1} % of perf's: {}",
                our_share * 100.0,
                their_share * 100.0,
                stack.join(";")
            ));
        }
    }
    // Five ways, and the library's own code on one of them.
    ensure!(
        apart.is_empty() && compared >= 5,
        "of {compared} stacks these differ:\n{}\nours: {ours}\nperf's: {theirs}",
        apart.join("\n")
    );
    Ok(())
}
