//! From the start of the profiler to its first sample of a process that is running already.

use std::time::Duration;

use anyhow::Result;

use super::cpu::Bench;
use super::table::{Table, Unit};
use super::workload::DEEP;

const LENGTH: Duration = Duration::from_millis(500);

pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    let target = bench
        .workloads
        .start(&bench.interpreters.main, DEEP, &["30"], Some(bench.cpu))?;
    let pid = target.pid().to_string();
    let (mut first_ms, mut start_up_ms, mut version_ms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in bench.pairs.each() {
        let summary = bench.profiler.record("folded", &["-p", &pid], LENGTH)?.summary;
        first_ms.push(summary.number("/cost/first_sample_after_s")? * 1e3);
        start_up_ms.push(summary.number("/cost/start_up_cpu_s")? * 1e3);
        version_ms.push(bench.profiler.version_takes()?.as_secs_f64() * 1e3);
    }
    table.group("start on a running process, 99 Hz");
    table.figure("first sample after", Unit::Milliseconds, first_ms, 300.0);
    table.figure("CPU time until then", Unit::Milliseconds, start_up_ms, None);
    table.figure(
        "`profiler --version`, start to end",
        Unit::Milliseconds,
        version_ms,
        None,
    );
    Ok(())
}
