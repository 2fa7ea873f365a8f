//! `/metrics`, in the text format of OpenMetrics, which Prometheus reads. The only place that names prometheus-client.

use std::sync::atomic::AtomicU64;

use anyhow::Context as _;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{
    digest::Kind,
    state::{Seen, Sums},
};
use crate::waits::cause::Cause;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfService {
    service: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCpu {
    service: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWait {
    service: String,
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProcess {
    service: String,
    pid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutput {
    output: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: String,
}

type Seconds = Counter<f64, AtomicU64>;
type Share = Gauge<f64, AtomicU64>;

/// All of it, as text.
pub fn text(seen: &Seen) -> anyhow::Result<String> {
    let mut registry = Registry::with_prefix("profiler");
    services(&mut registry, seen);
    processes(&mut registry, seen);
    outputs(&mut registry, seen);
    own(&mut registry, seen);
    let mut out = String::new();
    text::encode(&mut out, &registry).context("failed to write metrics")?;
    Ok(out)
}

fn services(registry: &mut Registry, seen: &Seen) {
    let cpu = Family::<OfCpu, Seconds>::default();
    let waits = Family::<OfWait, Seconds>::default();
    let growth = Family::<OfService, Gauge>::default();
    let processes = Family::<OfService, Gauge>::default();
    for (service, sums) in &seen.sums {
        let Sums {
            cpu_ns,
            waiting_ns,
            growth_bytes,
            ..
        } = sums;
        for (kind, ns) in Kind::ALL.iter().zip(cpu_ns) {
            let of = OfCpu {
                service: service.clone(),
                kind: kind.name(),
            };
            cpu.get_or_create(&of).inc_by(*ns as f64 / 1e9);
        }
        for (cause, ns) in Cause::ALL.iter().zip(waiting_ns).filter(|(_, ns)| **ns > 0) {
            let of = OfWait {
                service: service.clone(),
                cause: cause.name(),
            };
            waits.get_or_create(&of).inc_by(*ns as f64 / 1e9);
        }
        let of = OfService {
            service: service.clone(),
        };
        growth.get_or_create(&of).set(*growth_bytes);
        let pids = seen.last.as_ref().and_then(|last| last.services.get(service));
        let pids = pids.map_or(0, |sums| sums.pids.len());
        processes
            .get_or_create(&of)
            .set(i64::try_from(pids).unwrap_or(i64::MAX));
    }
    registry.register_with_unit(
        "cpu",
        "CPU time by where it was spent, from samples",
        Unit::Seconds,
        cpu,
    );
    registry.register_with_unit(
        "wait",
        "Time that threads waited, by what for, from exact accounts",
        Unit::Seconds,
        waits,
    );
    registry.register_with_unit(
        "growth",
        "By how much what is resident has changed since the agent began, of processes seen at both ends of a window",
        Unit::Bytes,
        growth,
    );
    registry.register(
        "processes",
        "Processes that did something in the last window",
        processes,
    );
}

fn processes(registry: &mut Registry, seen: &Seen) {
    let cpu = Family::<OfProcess, Share>::default();
    let resident = Family::<OfProcess, Gauge>::default();
    let threads = Family::<OfProcess, Gauge>::default();
    let files = Family::<OfProcess, Gauge>::default();
    let voluntary = Family::<OfProcess, Gauge>::default();
    let involuntary = Family::<OfProcess, Gauge>::default();
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    for process in seen.last.iter().flat_map(|last| &last.processes) {
        let length = seen.last.as_ref().map_or(0.0, |last| last.length.as_secs_f64());
        let of = OfProcess {
            service: process.service.clone(),
            pid: process.pid,
        };
        let share = process.cpu_ns as f64 / 1e9 / length.max(f64::MIN_POSITIVE);
        cpu.get_or_create(&of).set(share);
        resident.get_or_create(&of).set(whole(process.resident_bytes));
        threads.get_or_create(&of).set(whole(process.threads));
        if let Some(open) = process.files {
            files.get_or_create(&of).set(whole(open));
        }
        voluntary.get_or_create(&of).set(whole(process.switches.voluntary));
        involuntary.get_or_create(&of).set(whole(process.switches.involuntary));
    }
    registry.register_with_unit(
        "process_cpu",
        "CPU time of the processes that used most, as a part of one CPU, in the last window",
        Unit::Other("ratio".to_owned()),
        cpu,
    );
    registry.register_with_unit("process_resident", "Resident memory", Unit::Bytes, resident);
    registry.register("process_threads", "Threads", threads);
    registry.register("process_open_files", "Open files", files);
    registry.register(
        "process_voluntary_switches",
        "Voluntary context switches of its main thread since it began",
        voluntary,
    );
    registry.register(
        "process_involuntary_switches",
        "Involuntary context switches of its main thread since it began",
        involuntary,
    );
}

fn outputs(registry: &mut Registry, seen: &Seen) {
    let sent = Family::<OfOutput, Counter>::default();
    let bytes = Family::<OfOutput, Counter>::default();
    let failed = Family::<OfOutput, Counter>::default();
    let lost = Family::<OfOutput, Counter>::default();
    let waiting = Family::<OfOutput, Gauge>::default();
    let waiting_bytes = Family::<OfOutput, Gauge>::default();
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    for output in &seen.outputs {
        let of = OfOutput {
            output: output.name.clone(),
        };
        sent.get_or_create(&of).inc_by(output.sent);
        bytes.get_or_create(&of).inc_by(output.bytes);
        failed.get_or_create(&of).inc_by(output.failed);
        lost.get_or_create(&of).inc_by(output.lost);
        waiting.get_or_create(&of).set(whole(output.waiting));
        waiting_bytes.get_or_create(&of).set(whole(output.waiting_bytes));
    }
    registry.register("output_sent", "Messages that were taken", sent);
    registry.register_with_unit("output_sent", "The same in bytes", Unit::Bytes, bytes);
    registry.register("output_failed", "Tries to send that failed", failed);
    registry.register(
        "output_lost",
        "Messages that will reach nobody: refused, damaged, or without room to wait",
        lost,
    );
    registry.register("output_waiting", "Messages that wait to be sent", waiting);
    registry.register_with_unit("output_waiting", "The same in bytes", Unit::Bytes, waiting_bytes);
}

fn own(registry: &mut Registry, seen: &Seen) {
    let windows: Counter = Counter::default();
    windows.inc_by(seen.windows);
    registry.register("windows", "Windows that ended", windows);
    let windows_lost: Counter = Counter::default();
    windows_lost.inc_by(seen.windows_lost);
    registry.register("windows_lost", "Windows that nobody has", windows_lost);
    // With what its sessions took to begin.
    let cpu = Seconds::default();
    cpu.inc_by(crate::cost::cpu_time().as_secs_f64());
    registry.register_with_unit("agent_cpu", "CPU time of the agent itself", Unit::Seconds, cpu);
    let kernel = Seconds::default();
    kernel.inc_by(seen.kernel_cpu.as_secs_f64());
    registry.register_with_unit(
        "agent_kernel_cpu",
        "CPU time of its programs in the kernel, which is in the processes' own",
        Unit::Seconds,
        kernel,
    );
    let resident: Gauge = Gauge::default();
    resident.set(i64::try_from(crate::cost::resident_bytes().0).unwrap_or(i64::MAX));
    registry.register_with_unit("agent_resident", "Memory of the agent itself", Unit::Bytes, resident);
    let lost = Family::<OfReason, Counter>::default();
    for (reason, number) in &seen.lost {
        lost.get_or_create(&OfReason { reason: reason.clone() }).inc_by(*number);
    }
    registry.register("samples_lost", "Samples that are missing, by why", lost);
    let cut = Family::<OfReason, Counter>::default();
    for (reason, number) in &seen.cut {
        cut.get_or_create(&OfReason { reason: reason.clone() }).inc_by(*number);
    }
    registry.register(
        "store_cut",
        "What is not in the store, or cut there, by what it was",
        cut,
    );
    let together: Gauge = Gauge::default();
    let number = seen.last.as_ref().map_or(0, |last| last.not_told_apart);
    together.set(i64::try_from(number).unwrap_or(i64::MAX));
    registry.register(
        "services_not_told_apart",
        "Services of the last window that are told together, because there were too many",
        together,
    );
    let alerts: Counter = Counter::default();
    alerts.inc_by(seen.alerts);
    registry.register("alerts", "Alerts that began", alerts);
    let level: Gauge = Gauge::default();
    level.set(seen.level.into());
    registry.register(
        "agent_budget_level",
        "How much less is measured than was asked for, to stay in the budget: 0 is all of it",
        level,
    );
}
