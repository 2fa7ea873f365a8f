//! Claims about instruments, on records that nobody took and a kernel side that only keeps what it is asked.

use clap::Parser as _;
use profiler_common::{
    config::FEATURE_TIME_CALLS,
    record::{
        MEMORY_FAULT, MEMORY_MAP, MEMORY_UNMAP, MemoryEvent, NATIVE_COMPLETE, PYTHON_NONE, SampleHeader, StackKey,
    },
    stats::Counter,
};
use rustc_hash::FxHashSet;

use super::*;
use crate::{
    cli::{Cli, Command},
    decode::{RawRecord, RawStack},
    orders::fake::Asked,
    recording::Scope,
    report::memory::{MemoryReport, Shown},
};

const PAGE: u64 = 4096;

/// The instrument that a command line asks for, and a host that follows this very process.
fn session(line: &str) -> (Config, Box<dyn Instrument>, Recording) {
    let own = std::process::id();
    let line = line.replace("OWN", &own.to_string());
    let words = std::iter::once("profiler").chain(line.split_whitespace());
    let config = match Cli::try_parse_from(words).unwrap().command {
        Command::Record(typed) => Config::from_cli(typed).unwrap(),
        Command::Memory(typed) => Config::from_memory_cli(typed).unwrap(),
        Command::Calls(typed) => Config::from_calls_cli(typed).unwrap(),
        Command::Waits(typed) => Config::from_waits_cli(typed).unwrap(),
        Command::Completions { .. } => unreachable!("a recording was typed"),
    };
    let mut instruments = wanted(&config, None, false).unwrap();
    let instrument = instruments.remove(0);
    let scope = Scope::Pids {
        pids: FxHashSet::from_iter([own]),
        children: false,
    };
    let mut host = Recording::new(scope, true).following(&instrument.needs());
    host.adopt(own);
    (config, instrument, host)
}

fn header(stack: u64, time_ns: u64) -> SampleHeader {
    SampleHeader {
        kind: 0,
        cpu: 0,
        pid: std::process::id(),
        tid: std::process::id(),
        time_ns,
        stack: StackKey { hash: [stack, 0] },
        comm: [0; 16],
        instance: 0,
        python: PYTHON_NONE,
    }
}

/// A stack of one frame that is in no file.
fn stack(number: u64) -> RawStack {
    RawStack {
        kernel: Box::default(),
        native: [number].into(),
        native_status: NATIVE_COMPLETE,
        python: Box::default(),
        python_flags: 0,
        python_status: PYTHON_NONE,
        place: StackKey { hash: [number, 0] },
    }
}

fn memory(what: u32, address: u64, length: u64) -> MemoryEvent {
    MemoryEvent {
        what,
        weight: 1,
        address,
        length,
        flags: if what == MEMORY_MAP {
            libc::MAP_ANONYMOUS as u32
        } else {
            profiler_common::record::FAULT_WRITE
        },
        ..MemoryEvent::default()
    }
}

fn report(content: Content) -> MemoryReport {
    match content {
        Content::Memory(report, None) => *report,
        _ => panic!("not what memory comes to"),
    }
}

#[test]
fn growth_has_the_pages_that_were_touched_and_not_those_that_went() {
    let (_, mut growth, mut host) = session("memory -p OWN");
    let mut kernel = Asked::default();
    growth.start(&mut host, &mut kernel).unwrap();
    let start = 0x10_0000_0000;
    let now = crate::cost::monotonic_ns();
    host.take(RawRecord::Definition(header(1, now), stack(1)));
    host.take(RawRecord::Memory(header(1, now), memory(MEMORY_MAP, start, 8 * PAGE)));
    for page in 0..8 {
        let fault = memory(MEMORY_FAULT, start + page * PAGE, 0);
        host.take(RawRecord::Memory(header(1, now + page), fault));
    }
    host.take(RawRecord::Memory(
        header(1, now + 9),
        memory(MEMORY_UNMAP, start, 3 * PAGE),
    ));
    assert_eq!(growth.turn(&mut host, &mut kernel).unwrap(), Turn::Goes);
    growth.stop(&mut host, &mut kernel, Duration::from_secs(1)).unwrap();
    growth.finish(&mut host, &kernel);
    let window = host.finish();
    let report = report(growth.content(&window, Duration::from_secs(1)).0);
    let live = report.profile.samples().map(|(_, values)| values[Shown::Live.value()]);
    assert_eq!(live.sum::<i64>(), 5 * PAGE as i64);
    // Nothing was asked of the kernel side: no process is a CPython.
    assert!(kernel.orders.is_empty(), "{:?}", kernel.orders);
}

#[test]
fn exact_mode_counts_nothing_of_a_target_once_it_is_stopped() {
    let (_, mut exact, mut host) = session("memory -p OWN --exact");
    let mut kernel = Asked::default();
    exact.start(&mut host, &mut kernel).unwrap();
    exact.stop(&mut host, &mut kernel, Duration::from_secs(1)).unwrap();
    assert_eq!(kernel.orders, [format!("remove target {}", std::process::id())]);
}

#[test]
fn calls_are_not_counted_any_more_before_their_probes_go() {
    let (_, mut calls, mut host) = session("calls -p OWN");
    let mut kernel = Asked::default();
    kernel.set(Counter::EntryHits, 10);
    calls.start(&mut host, &mut kernel).unwrap();
    calls.stop(&mut host, &mut kernel, Duration::from_secs(1)).unwrap();
    assert_eq!(kernel.orders, ["no calls count", "take probes away"]);
    assert!(calls.refusal(&host.finish()).is_some());
}

#[test]
fn samples_from_before_calls_were_counted_are_not_of_the_recording() {
    let (_, mut calls, mut host) = session("calls -p OWN");
    let mut kernel = Asked::default();
    let before = crate::cost::monotonic_ns();
    calls.start(&mut host, &mut kernel).unwrap();
    host.take(RawRecord::Stack(header(1, before), stack(1)));
    assert_eq!(host.ledger.tally.samples, 0);
    host.take(RawRecord::Sample(header(1, crate::cost::monotonic_ns())));
    assert_eq!(host.ledger.tally.samples, 1);
}

#[test]
fn cpu_time_asks_nothing_of_the_kernel_side_but_a_clock() {
    let (config, mut cpu, mut host) = session("record -p OWN -r 1000");
    let mut kernel = Asked::default();
    assert_eq!(cpu.needs().clock, Some(1_000_000));
    cpu.start(&mut host, &mut kernel).unwrap();
    host.take(RawRecord::Stack(header(1, 1), stack(1)));
    host.take(RawRecord::Sample(header(1, 2)));
    cpu.turn(&mut host, &mut kernel).unwrap();
    cpu.stop(&mut host, &mut kernel, Duration::from_secs(1)).unwrap();
    let window = host.finish();
    let (content, _) = cpu.content(&window, Duration::from_secs(1));
    let Content::Profile(profile) = content else {
        panic!("not a profile")
    };
    let values: Vec<i64> = profile.samples().flat_map(|(_, values)| values.to_vec()).collect();
    assert_eq!(values, [2, 2 * config.period_ns as i64]);
    assert!(kernel.orders.is_empty());
}

#[test]
fn what_two_instruments_need_is_what_either_does() {
    let cpu = Needs {
        clock: Some(10_101_010),
        ..Needs::default()
    };
    let calls = Needs {
        clock: Some(1_000_000),
        calls: Some(CallNeeds {
            timed: true,
            watched: false,
        }),
        ..Needs::default()
    };
    let both = cpu.and(calls);
    assert_eq!(both, calls.and(cpu));
    assert_eq!((both.clock, both.calls), (Some(1_000_000), calls.calls));
    assert_eq!(both.features(), FEATURE_TIME_CALLS);
    assert!(!cpu.interrupts_itself() && both.interrupts_itself() && both.has_budget());
}
