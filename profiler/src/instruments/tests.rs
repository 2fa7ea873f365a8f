//! Claims about instruments, on records that nobody took and a kernel side that only keeps what it is asked.

use clap::Parser as _;
use profiler_common::{
    config::FEATURE_TIME_CALLS,
    record::{
        MEMORY_FAULT, MEMORY_MAP, MEMORY_UNMAP, MemoryEvent, NATIVE_COMPLETE, PYTHON_NONE, SampleHeader, StackKey,
    },
    stats::Counter,
    wait::{SLOT_LIVE, WAIT_SOCKET, WaitEvent, WaitSlot, WaitSum},
};
use rustc_hash::FxHashSet;

use super::*;
use crate::{
    cli::{Cli, Command},
    decode::{RawRecord, RawStack},
    name::Namer,
    orders::fake::Asked,
    recording::Scope,
    report::memory::{MemoryReport, Shown},
};

const PAGE: u64 = 4096;

/// The instrument that a command line asks for, and a host that follows this very process.
fn session(line: &str) -> (Config, Box<dyn Instrument>, Recording) {
    let (config, mut plan, host) = session_of_several(line);
    (config, plan.instruments.remove(0), host)
}

/// The same, of any number of instruments.
fn session_of_several(line: &str) -> (Config, Plan, Recording) {
    let own = std::process::id();
    let line = line.replace("OWN", &own.to_string());
    let words = std::iter::once("profiler").chain(line.split_whitespace());
    let config = match Cli::try_parse_from(words).unwrap().command {
        Command::Record(typed) => Config::from_cli(typed).unwrap(),
        Command::Memory(typed) => Config::from_memory_cli(typed).unwrap(),
        Command::Calls(typed) => Config::from_calls_cli(typed).unwrap(),
        Command::Waits(typed) => Config::from_waits_cli(typed).unwrap(),
        _ => unreachable!("a recording was typed"),
    };
    let plan = wanted(&config, None, false).unwrap();
    let scope = Scope::Pids {
        pids: FxHashSet::from_iter([own]),
        children: false,
    };
    let needs = plan.instruments.iter().map(|instrument| instrument.needs());
    let needs = needs.fold(Needs::default(), Needs::and);
    let mut host = Recording::new(scope, true).following(&needs);
    host.adopt(own);
    (config, plan, host)
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
    let report = report(growth.content(&mut Namer::default(), &window, Duration::from_secs(1)).0);
    let live = report.profile.samples().map(|(_, values)| values[Shown::Live.value()]);
    assert_eq!(live.sum::<i64>(), 5 * PAGE as i64);
    // Nothing was asked of the kernel side: no process is a CPython.
    assert!(kernel.orders.is_empty(), "{:?}", kernel.orders);
}

/// Ends a window, as the engine does.
fn cut(growth: &mut dyn Instrument, host: &mut Recording, kernel: &mut Asked) -> (MemoryReport, usize) {
    growth.close(host, kernel);
    growth.turn(host, kernel).unwrap();
    let mut window = host.cut().window;
    let Measured::Memory(cut) = growth.cut(&window).unwrap() else {
        panic!("not what memory comes to")
    };
    let met = window.ledger.sites.len();
    let (report, _) = cut.report(&mut window, &mut Namer::default(), Duration::from_secs(1));
    (report, met)
}

/// What a report has of stacks of this frame: allocated and in use.
fn of(report: &MemoryReport, address: u64) -> [i64; 2] {
    let profile = &report.profile;
    let has = |frame: &crate::profile::FrameId| profile.frame(*frame).address == address;
    let samples = profile.samples();
    let found = samples.filter(|(key, _)| profile.stack(key.stack).iter().any(has));
    found.fold([0, 0], |[allocated, live], (_, values)| {
        [allocated + values[1], live + values[3]]
    })
}

#[test]
fn windows_of_memory_come_to_what_one_recording_does_and_what_stays_is_in_each() {
    let (_, mut growth, mut host) = session("memory -p OWN --every 1s -o / --keep 9");
    let (_, mut whole, mut whole_host) = session("memory -p OWN");
    let mut kernel = Asked::default();
    growth.start(&mut host, &mut kernel).unwrap();
    whole.start(&mut whole_host, &mut kernel).unwrap();
    let page = |number: u64| 0x10_0000_0000 + number * PAGE;
    let map = memory(MEMORY_MAP, page(0), 1000 * PAGE);
    let touch = |number| memory(MEMORY_FAULT, page(number), 0);
    let mut events = Vec::new();
    for window in 0..4 {
        // Who leaks gets ten pages in each window; the other gives back in the next what it got in one.
        let first = 100 * window;
        events.push(Vec::from_iter(
            (window == 0)
                .then_some((1, map))
                .into_iter()
                .chain((first..first + 10).map(|number| (1, touch(number))))
                .chain((first + 50..first + 57).map(|number| (2, touch(number))))
                .chain((window > 0).then(|| (2, memory(MEMORY_UNMAP, page(first - 50), 7 * PAGE)))),
        ));
    }
    let mut reports = Vec::new();
    for (window, events) in events.iter().enumerate() {
        let now = crate::cost::monotonic_ns();
        for host in [&mut host, &mut whole_host] {
            for stack_number in [1, 2].into_iter().filter(|_| window == 0) {
                host.take(RawRecord::Definition(header(stack_number, now), stack(stack_number)));
            }
            for (stack, event) in events {
                host.take(RawRecord::Memory(header(*stack, now), *event));
            }
        }
        growth.turn(&mut host, &mut kernel).unwrap();
        let (report, met) = cut(&mut *growth, &mut host, &mut kernel);
        assert_eq!(met, 2, "sites of a window are its own");
        reports.push(report);
    }
    // In the last nothing happens.
    reports.push(cut(&mut *growth, &mut host, &mut kernel).0);
    whole.turn(&mut whole_host, &mut kernel).unwrap();
    whole.finish(&mut whole_host, &kernel);
    let whole = report(
        whole
            .content(&mut Namer::default(), &whole_host.finish(), Duration::from_secs(1))
            .0,
    );

    let pages = |report: &MemoryReport, stack| of(report, stack).map(|bytes| bytes / PAGE as i64);
    let each = |stack| reports.iter().map(|report| pages(report, stack)).collect::<Vec<_>>();
    assert_eq!(each(1), [[10, 10], [10, 20], [10, 30], [10, 40], [0, 40]]);
    assert_eq!(each(2), [[7, 7], [7, 7], [7, 7], [7, 7], [0, 7]]);
    for stack in [1, 2] {
        let allocated: i64 = reports.iter().map(|report| of(report, stack)[0]).sum();
        let live = of(&reports[4], stack)[1];
        assert_eq!([allocated, live], of(&whole, stack));
    }
}

#[test]
fn exact_mode_counts_nothing_of_a_target_once_it_is_stopped() {
    let (_, mut exact, mut host) = session("memory -p OWN --exact");
    let mut kernel = Asked::default();
    exact.start(&mut host, &mut kernel).unwrap();
    exact.stop(&mut host, &mut kernel, Duration::from_secs(1)).unwrap();
    assert_eq!(
        kernel.orders,
        [format!("remove target {} of [Probes]", std::process::id())]
    );
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
    let (content, _) = cpu.content(&mut Namer::default(), &window, Duration::from_secs(1));
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

/// An account of a thread of this process that ran for half a second and waited for another half.
fn account(tid: u32) -> WaitSlot {
    let mut slot = WaitSlot {
        tid,
        state: SLOT_LIVE,
        shown_pid: std::process::id(),
        shown_tid: tid,
        first_ns: 1_000_000_000,
        ended_ns: 2_000_000_000,
        on_cpu_ns: 500_000_000,
        ..WaitSlot::default()
    };
    slot.sums[WAIT_SOCKET as usize] = WaitSum {
        count: 1,
        ns: 500_000_000,
        drawn_ns: 500_000_000,
        longest_ns: 500_000_000,
        ..WaitSum::default()
    };
    slot
}

#[test]
fn two_instruments_of_one_session_see_the_same_thread_and_come_to_its_life_together() {
    let (_, plan, mut host) = session_of_several("record -p OWN --wall");
    let Plan { mut instruments, joint } = plan;
    let own = std::process::id();
    let mut kernel = Asked {
        accounts: Some(vec![account(own)]),
        ..Asked::default()
    };
    for instrument in &mut instruments {
        instrument.prepare(&mut kernel).unwrap();
        instrument.start(&mut host, &mut kernel).unwrap();
    }
    // Records of both come by one ring, in whatever order.
    host.take(RawRecord::Stack(header(1, 1), stack(1)));
    host.take(RawRecord::Definition(header(2, 2), stack(2)));
    let waited = WaitEvent {
        length_ns: 500_000_000,
        weight_ns: 500_000_000,
        class: WAIT_SOCKET,
        ..WaitEvent::default()
    };
    host.take(RawRecord::Wait(header(2, 3), Box::new(waited)));
    host.take(RawRecord::Sample(header(1, 4)));
    host.take(RawRecord::Stack(header(3, 5), stack(3)));
    for instrument in &mut instruments {
        assert_eq!(instrument.turn(&mut host, &mut kernel).unwrap(), Turn::Goes);
    }
    for instrument in &mut instruments {
        instrument.stop(&mut host, &mut kernel, Duration::from_secs(1)).unwrap();
    }
    for instrument in &mut instruments {
        instrument.finish(&mut host, &kernel);
    }
    let window = host.finish();
    // A wait's stack is no sample of the clock.
    assert_eq!((window.ledger.tally.ticks, window.ledger.tally.samples), (3, 4));
    let mut namer = Namer::keeping();
    let contents: Vec<Content> = (instruments.iter_mut())
        .map(|instrument| instrument.content(&mut namer, &window, Duration::from_secs(1)).0)
        .collect();
    let Some(Content::Wall(report)) = joint.expect("there are two").join(contents) else {
        panic!("not what both come to")
    };
    let profile = &report.profile;
    let of = |waits: bool| {
        let samples = profile
            .samples()
            .zip(&report.causes)
            .filter(|(_, cause)| cause.is_some() == waits);
        let mut values: Vec<i64> = samples.map(|((_, values), _)| values[crate::wall::VALUE]).collect();
        values.sort_unstable();
        values
    };
    // Three samples stand for half a second, two of them of one stack; the wait for the other half.
    assert_eq!(of(false), [166_666_667, 333_333_333]);
    assert_eq!(of(true), [500_000_000]);
    assert!(kernel.orders.is_empty(), "{:?}", kernel.orders);
}

#[test]
fn an_instrument_that_is_refused_what_it_needs_ends_the_session_before_it_begins() {
    let (_, Plan { mut instruments, .. }, _) = session_of_several("record -p OWN --wall");
    let mut without_accounts = Asked::default();
    let prepared: Vec<bool> = (instruments.iter_mut())
        .map(|instrument| instrument.prepare(&mut without_accounts).is_ok())
        .collect();
    assert_eq!(prepared, [true, false]);
}

#[test]
fn one_session_has_all_programs_that_its_instruments_need() {
    let (_, plan, _) = session_of_several("record -a --wall -r 999");
    let needs = plan.instruments.iter().map(|instrument| instrument.needs());
    let needs = needs.fold(Needs::default(), Needs::and);
    assert_eq!(needs.clock, Some(1_001_001));
    assert!(needs.waits.is_some() && needs.interrupts_itself() && !needs.has_budget() && !needs.gil);
    let (_, gil, _) = session("record -a --gil");
    assert!(gil.needs().gil && gil.needs().features() == FEATURE_GIL && !gil.needs().interrupts_itself());
}
