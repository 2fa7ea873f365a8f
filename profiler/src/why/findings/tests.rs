//! Made-up evidence: one that has it, and one that looks like it and has not.

use super::*;
use crate::{
    report::waits::rows::Place,
    waits::cause::Cause,
    why::evidence::{
        Around, Busy, CallFamily, Calls, CpuLine, Database, GrowthLine, Holder, Host, Memory, Process, Purpose, Role,
        Stall, Thread, Use, Wait,
    },
};

const SECOND: u64 = 1_000_000_000;
const LENGTH: u64 = 10 * SECOND;

fn place(function: &str, line: u32) -> Place {
    Place {
        name: format!("{function} (app.py:{line})"),
        function: function.to_owned(),
        file: "/srv/app.py".to_owned(),
        line,
        via: String::new(),
    }
}

/// A thread that ran and waited for so many seconds; the rest it waited for work.
fn thread(tid: u32, cpu: f64, waited: &[(Role, f64)]) -> Thread {
    let ns = |seconds: f64| (seconds * SECOND as f64) as u64;
    let mut thread = Thread {
        tid,
        name: format!("worker-{tid}"),
        elapsed_ns: LENGTH,
        cpu_ns: ns(cpu),
        ..Thread::default()
    };
    let mut rest = LENGTH.saturating_sub(ns(cpu));
    for &(role, seconds) in waited {
        thread.waited_ns[at(role)] = ns(seconds);
        rest = rest.saturating_sub(ns(seconds));
    }
    thread.waited_ns[at(Role::Work)] += rest;
    thread
}

fn at(role: Role) -> usize {
    Role::ALL.iter().position(|known| *known == role).unwrap()
}

fn wait(role: Role, cause: Cause, function: &str, seconds: f64, count: u64) -> Wait {
    let ns = (seconds * SECOND as f64) as u64;
    Wait {
        role,
        cause,
        place: place(function, 10),
        target: String::new(),
        call: None,
        ns,
        count,
        longest_ns: 2 * ns / count.max(1),
        error_ns: 0,
        unended_ns: 0,
        tids: vec![1],
        holds_gil: false,
        others_ns: 0,
        in_loop: false,
        importing: false,
        surely_lock: true,
        waker: None,
    }
}

fn process(threads: Vec<Thread>) -> Process {
    Process {
        pid: 4242,
        command: "app.py".to_owned(),
        python: Python::Known {
            version: "3.12.1".to_owned(),
            gil: true,
            symbols: true,
        },
        length_ns: LENGTH,
        calls_ns: LENGTH,
        threads,
        memory: Some(Memory {
            rss_before: 100 << 20,
            rss_after: 100 << 20,
            ..Memory::default()
        }),
        around: Around {
            cpus: Some(4),
            ..Around::default()
        },
        ..Process::default()
    }
}

fn found_in(processes: Vec<Process>) -> Vec<Finding> {
    let evidence = Evidence {
        length_ns: LENGTH,
        processes,
        host: Host {
            cpus: 4,
            available_bytes: Some(8 << 30),
            idle_cpus: Some(3.0),
            load_per_cpu: Some(0.2),
            ..Host::default()
        },
    };
    let findings = all(&evidence, &Thresholds::default());
    for finding in &findings {
        assert!(!finding.sentence.is_empty() && !finding.next.is_empty(), "{finding:?}");
        assert!((0.0..=1.0).contains(&finding.share), "{finding:?}");
    }
    findings
}

fn found(process: Process) -> Vec<Finding> {
    found_in(vec![process])
}

/// On a machine like this.
fn found_on(host: Host, process: Process) -> Vec<Finding> {
    let evidence = Evidence {
        length_ns: LENGTH,
        processes: vec![process],
        host,
    };
    all(&evidence, &Thresholds::default())
}

/// The one of this kind.
fn the(kind: Kind, findings: &[Finding]) -> Option<(Severity, String)> {
    let finding = findings.iter().find(|finding| finding.kind == kind)?;
    Some((finding.severity, finding.sentence.clone()))
}

fn severity(kind: Kind, process: Process) -> Option<Severity> {
    the(kind, &found(process)).map(|(severity, _)| severity)
}

#[test]
fn a_thread_that_computes_is_found_and_one_that_idles_is_idle() {
    let line = |seconds: f64| CpuLine {
        place: place("orders", 29),
        ns: (seconds * SECOND as f64) as u64,
        samples: (seconds * 211.0) as u64,
    };
    let of = |seconds: f64| Process {
        cpu: vec![line(seconds)],
        samples: (seconds * 211.0) as u64,
        ..process(vec![thread(1, seconds, &[])])
    };
    assert_eq!(severity(Kind::Cpu, of(8.0)), Some(Severity::Critical));
    assert_eq!(severity(Kind::Cpu, of(1.5)), Some(Severity::Medium));
    let idle = found(of(0.2));
    assert_eq!(idle.len(), 1, "{idle:?}");
    assert_eq!(
        the(Kind::Idle, &idle),
        Some((
            Severity::Info,
            "nothing is wrong: it waits for work 98 % of the time".to_owned()
        ))
    );
}

#[test]
fn forty_idle_threads_of_a_pool_neither_dilute_a_finding_nor_are_one() {
    let mut threads = vec![thread(1, 0.0, &[(Role::Peer, 9.5)])];
    threads.extend((2..42).map(|tid| thread(tid, 0.0, &[])));
    let idle = process(threads[1..].to_vec());
    assert_eq!(severity(Kind::Idle, idle), Some(Severity::Info));
    let asks = Process {
        waits: vec![Wait {
            target: "10.0.0.7:5432".to_owned(),
            ..wait(Role::Peer, Cause::Socket, "price", 9.5, 60)
        }],
        peers: [("10.0.0.7:5432".to_owned(), "812 (postgres)".to_owned())].into(),
        ..process(threads)
    };
    let findings = found(asks);
    let (severity, sentence) = the(Kind::SlowPeer, &findings).unwrap();
    assert_eq!(severity, Severity::Critical);
    assert!(
        sentence.contains("waits for 10.0.0.7:5432 of process 812 (postgres) 95 %"),
        "{sentence}"
    );
    assert_eq!(the(Kind::Idle, &findings), None);
}

#[test]
fn a_share_is_the_same_on_a_busy_machine_which_is_told_by_itself() {
    let with_ready = |ready: f64| Process {
        cpu: vec![CpuLine {
            place: place("orders", 29),
            ns: 2 * SECOND,
            samples: 422,
        }],
        samples: 422,
        ..process(vec![thread(1, 2.0, &[(Role::Ready, ready)])])
    };
    assert_eq!(severity(Kind::Cpu, with_ready(0.0)), Some(Severity::Medium));
    let busy = found(with_ready(8.0));
    assert_eq!(the(Kind::Cpu, &busy).unwrap().0, Severity::Critical);
    assert_eq!(the(Kind::RunQueue, &busy).unwrap().0, Severity::Critical);
}

#[test]
fn quick_answers_are_not_a_slow_peer_and_many_for_a_request_are_n_plus_one() {
    let peer = "10.0.0.7:5432";
    let asks = |calls: f64, requests: f64, count: u64| {
        let call = |family, target: &str, is_client, calls| Calls {
            place: place("orders", 10),
            family,
            target: target.to_owned(),
            is_client,
            calls,
            ns: 0.0,
            bytes: 100.0,
            median_ns: 1_000_000,
        };
        Process {
            waits: vec![Wait {
                target: peer.to_owned(),
                ..wait(Role::Peer, Cause::Socket, "orders", 8.0, count)
            }],
            calls: vec![
                call(CallFamily::Send, peer, false, calls),
                call(CallFamily::Receive, peer, false, calls),
                call(CallFamily::Accept, "listening on 0.0.0.0:80", false, requests),
            ],
            ..process(vec![thread(1, 1.0, &[(Role::Peer, 8.0)])])
        }
    };
    let many = found(asks(4000.0, 40.0, 4000));
    let (severity, sentence) = the(Kind::NPlusOne, &many).unwrap();
    assert_eq!(severity, Severity::Critical);
    assert!(sentence.contains("100 times for each request"), "{sentence}");
    assert_eq!(the(Kind::SlowPeer, &many), None);
    // One for each request: the peer is quick, and is asked a lot.
    let one = found(asks(4000.0, 4000.0, 4000));
    assert_eq!(the(Kind::NPlusOne, &one), None);
    assert_eq!(the(Kind::SlowPeer, &one).unwrap().0, Severity::Medium);
    // Without requests it may be what the program is for.
    let batch = found(asks(4000.0, 0.0, 4000));
    assert_eq!(the(Kind::NPlusOne, &batch).unwrap().0, Severity::Medium);
}

#[test]
fn n_plus_one_of_sqlite_is_told_by_its_short_reads_and_a_scan_of_pages_is_none() {
    let reads = |calls: f64, bytes: f64, has_log: bool| {
        let call = |family, target: &str, is_client, calls, bytes| Calls {
            place: place("orders", 29),
            family,
            target: target.to_owned(),
            is_client,
            calls,
            ns: 0.0,
            bytes,
            median_ns: 500,
        };
        Process {
            cpu: vec![CpuLine {
                place: Place {
                    via: "Model.__init__ (django)".to_owned(),
                    ..place("orders", 29)
                },
                ns: 6 * SECOND,
                samples: 594,
            }],
            samples: 700,
            calls: vec![
                call(CallFamily::Read, "/srv/shop.sqlite3", false, calls, bytes),
                call(CallFamily::Accept, "listening on 0.0.0.0:80", false, 40.0, 0.0),
            ],
            databases: vec![Database {
                path: "/srv/shop.sqlite3".to_owned(),
                page_bytes: 4096,
                has_log,
            }],
            embedded: Some("SQLite"),
            ..process(vec![thread(1, 7.0, &[])])
        }
    };
    // As measured of tests/services/shop: some pages among many looks at the header. What the line has no CPU for is not its own.
    let mut shop = reads(4750.0, 697_080.0, false);
    shop.waits = vec![Wait {
        place: place("orders", 29),
        ..wait(Role::Ready, Cause::Ready, "orders", 3.0, 90)
    }];
    let findings = found(shop);
    let (severity_of, sentence) = the(Kind::NPlusOne, &findings).unwrap();
    assert_eq!(severity_of, Severity::Critical);
    assert!(sentence.ends_with("the line takes 60 % of the time"), "{sentence}");
    assert!(
        sentence.contains("asks SQLite (shop.sqlite3) about 115 times for each request"),
        "{sentence}"
    );
    let told = |process: Process| {
        let evidence = Evidence {
            length_ns: LENGTH,
            processes: vec![process],
            host: Host::default(),
        };
        let report = report(&evidence, &Thresholds::default());
        let is_it = |finding: &Finding| finding.kind == Kind::NPlusOne;
        let not_looked = |not: &crate::why::NotLooked| not.kinds == [Kind::NPlusOne] && not.reason.contains("--per");
        (
            report.findings.iter().any(is_it),
            report.not_looked.iter().any(not_looked),
            report.not_seen.contains(&Kind::NPlusOne),
        )
    };
    assert_eq!(told(reads(4750.0, 697_080.0, false)), (true, false, false));
    // One question that reads many pages, one for each request, and a log, of which reads say nothing.
    assert_eq!(told(reads(4750.0, 4700.0 * 4096.0, false)), (false, true, false));
    assert_eq!(told(reads(120.0, 120.0 * 16.0, false)), (false, true, false));
    assert_eq!(told(reads(4750.0, 697_080.0, true)), (false, true, false));
    // A file that is none of SQLite's.
    let mut other = reads(4750.0, 697_080.0, false);
    (other.databases, other.embedded) = (Vec::new(), None);
    assert_eq!(told(other), (false, false, true));
}

#[test]
fn threads_that_wait_for_the_gil_are_found_with_who_has_it() {
    let threads = (1..=4).map(|tid| thread(tid, 2.4, &[(Role::Gil, 7.4)])).collect();
    let saturated = Process {
        holders: vec![Holder {
            place: place("compute", 7),
            waited_ns: 29 * SECOND,
        }],
        ..process(threads)
    };
    let findings = found(saturated);
    let (severity_of, sentence) = the(Kind::Gil, &findings).unwrap();
    assert_eq!(severity_of, Severity::Critical);
    assert!(
        sentence.contains("compute (app.py:7) has it most") && sentence.contains("3.0 of 4 CPUs idle"),
        "{sentence}"
    );
    // Four that want it now and then.
    let threads = (1..=4).map(|tid| thread(tid, 0.2, &[(Role::Gil, 0.05)])).collect();
    assert_eq!(severity(Kind::Gil, process(threads)), None);
}

#[test]
fn the_gil_held_while_blocked_is_told_by_how_long_others_waited() {
    let holds = |others: f64| {
        let threads = vec![thread(1, 0.1, &[]), thread(2, 1.0, &[(Role::Gil, others)])];
        Process {
            waits: vec![Wait {
                holds_gil: true,
                others_ns: (others * SECOND as f64) as u64,
                ..wait(Role::Timer, Cause::Sleep, "usleep", 8.0, 80)
            }],
            ..process(threads)
        }
    };
    let findings = found(holds(7.0));
    assert_eq!(the(Kind::GilHeldBlocked, &findings).unwrap().0, Severity::Critical);
    // It is the reason for the other.
    assert_eq!(the(Kind::Gil, &findings), None);
    assert_eq!(severity(Kind::GilHeldBlocked, holds(0.0)), None);
}

#[test]
fn contention_is_a_lock_and_waiting_for_items_is_none() {
    let contended = Process {
        waits: vec![Wait {
            tids: vec![1, 2],
            waker: Some(place("hold", 3)),
            ..wait(Role::Lock, Cause::Lock, "update", 15.0, 300)
        }],
        ..process(vec![
            thread(1, 0.1, &[(Role::Lock, 7.5)]),
            thread(2, 0.1, &[(Role::Lock, 7.5)]),
        ])
    };
    let findings = found(contended);
    let (severity_of, sentence) = the(Kind::Lock, &findings).unwrap();
    assert_eq!(severity_of, Severity::Critical);
    assert!(
        sentence.contains("2 threads") && sentence.contains("hold (app.py:3) releases it"),
        "{sentence}"
    );
    let pool = Process {
        waits: vec![wait(Role::Work, Cause::Lock, "worker", 19.0, 30)],
        ..process(vec![thread(1, 0.1, &[]), thread(2, 0.1, &[])])
    };
    let findings = found(pool);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].kind, Kind::Idle);
}

#[test]
fn a_deadlock_is_stuck_and_a_long_wait_that_ended_is_not() {
    let locks = |unended: u64| {
        let wait = |function, tid| Wait {
            unended_ns: unended,
            tids: vec![tid],
            ..wait(Role::Lock, Cause::Lock, function, 10.0, 1)
        };
        Process {
            waits: vec![wait("transfer", 1), wait("audit", 2)],
            // What waits for all of the time is not counted as work.
            ..process(vec![
                thread(1, 0.0, &[(Role::Unknown, 10.0)]),
                thread(2, 0.0, &[(Role::Unknown, 10.0)]),
            ])
        }
    };
    let findings = found(locks(LENGTH));
    let (severity_of, sentence) = the(Kind::Stuck, &findings).unwrap();
    assert_eq!(severity_of, Severity::Critical);
    assert!(
        sentence.contains("transfer") && sentence.contains("audit"),
        "{sentence}"
    );
    assert_eq!(the(Kind::Idle, &findings), None);
    assert_eq!(severity(Kind::Stuck, locks(SECOND)), None);
}

#[test]
fn who_only_listens_to_a_peer_is_never_called_worse_than_low() {
    let listens = Process {
        waits: vec![Wait {
            unended_ns: LENGTH,
            target: "10.0.0.9:6379".to_owned(),
            ..wait(Role::Peer, Cause::Socket, "listen", 10.0, 1)
        }],
        ..process(vec![thread(1, 0.0, &[(Role::Unknown, 10.0)])])
    };
    let findings = found(listens);
    assert_eq!(the(Kind::Stuck, &findings).unwrap().0, Severity::Low);
    assert!(
        findings.iter().all(|finding| finding.severity >= Severity::Low),
        "{findings:?}"
    );
}

#[test]
fn a_call_that_waits_in_a_loop_blocks_it_and_one_that_is_awaited_does_not() {
    let in_loop = |in_loop: bool| {
        let role = if in_loop { Role::Peer } else { Role::Timer };
        Process {
            waits: vec![Wait {
                in_loop,
                ..wait(role, Cause::Sleep, "handler", 6.0, 120)
            }],
            ..process(vec![Thread {
                is_loop: true,
                ..thread(1, 0.1, &[(role, 6.0)])
            }])
        }
    };
    assert_eq!(severity(Kind::BlockedLoop, in_loop(true)), Some(Severity::Critical));
    assert_eq!(severity(Kind::BlockedLoop, in_loop(false)), None);
}

#[test]
fn a_callback_that_computes_is_never_called_critical() {
    let stall = Stall {
        tid: 1,
        length_ns: 200_000_000,
        most: Some((place("render", 5), None, 190_000_000)),
    };
    let computes = Process {
        stalls: vec![stall; 40],
        ..process(vec![Thread {
            is_loop: true,
            ..thread(1, 8.0, &[])
        }])
    };
    assert_eq!(severity(Kind::BlockedLoop, computes), Some(Severity::High));
}

#[test]
fn a_loop_that_has_not_the_gil_starves_and_one_without_a_cpu_is_the_machines_matter() {
    let of = |role: Role| {
        process(vec![Thread {
            is_loop: true,
            ..thread(1, 0.5, &[(role, 6.0)])
        }])
    };
    assert_eq!(severity(Kind::StarvedLoop, of(Role::Gil)), Some(Severity::Critical));
    assert_eq!(severity(Kind::StarvedLoop, of(Role::Ready)), None);
}

#[test]
fn growth_is_as_bad_as_its_limit_is_near_and_a_step_is_no_leak() {
    let grows = |left: Option<u64>, steps: Vec<i64>| {
        let mut process = process(vec![thread(1, 1.5, &[])]);
        process.around.memory_left = left;
        process.memory = Some(Memory {
            rss_before: 100 << 20,
            rss_after: 110 << 20,
            steps,
            lines: vec![GrowthLine {
                place: place("remember", 12),
                live_bytes: 9 << 20,
                error_bytes: 0,
                came_bytes: 9 << 20,
                uncertain_bytes: 0,
            }],
            came_bytes: 10 << 20,
            live_bytes: 10 << 20,
            ..Memory::default()
        });
        process
    };
    let steady = vec![1 << 20; 8];
    let soon = found(grows(Some(100 << 20), steady.clone()));
    let (severity_of, sentence) = the(Kind::Growth, &soon).unwrap();
    assert_eq!(severity_of, Severity::Critical);
    assert!(
        sentence.contains("remember (app.py:12)")
            && sentence.contains("its cgroup's limit (100.0 MiB) is reached in 1 min 40 s"),
        "{sentence}"
    );
    assert_eq!(
        severity(Kind::Growth, grows(Some(1 << 30), steady.clone())),
        Some(Severity::High)
    );
    // 8 GiB are there for two hours.
    assert_eq!(severity(Kind::Growth, grows(None, steady)), Some(Severity::Medium));
    let step = vec![10 << 20, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        severity(Kind::Growth, grows(Some(100 << 20), step)),
        Some(Severity::Low)
    );
    // What it only idles by.
    let mut still = grows(Some(1 << 20), Vec::new());
    still.memory.as_mut().unwrap().rss_after = (100 << 20) + 4096;
    assert_eq!(severity(Kind::Growth, still), None);
}

#[test]
fn memory_that_comes_and_goes_is_churn_and_what_stays_is_not() {
    let of = |live: u64| {
        let mut process = process(vec![thread(1, 8.0, &[])]);
        process.samples = 1688;
        process.uses = vec![Use {
            purpose: Purpose::Pages,
            place: place("copy", 8),
            ns: 4 * SECOND,
            samples: 844,
        }];
        let memory = process.memory.as_mut().unwrap();
        (memory.came_bytes, memory.live_bytes) = (4 << 30, live);
        process
    };
    assert_eq!(severity(Kind::Churn, of(1 << 20)), Some(Severity::High));
    assert_eq!(severity(Kind::Churn, of(4 << 30)), None);
}

#[test]
fn what_cpu_time_goes_into_is_told_by_its_purpose() {
    for (purpose, kind, expected) in [
        (Purpose::Gc, Kind::Gc, Severity::Critical),
        (Purpose::Import, Kind::Imports, Severity::Critical),
        // A lower bound.
        (Purpose::Exception, Kind::Exceptions, Severity::High),
        (Purpose::Serialization, Kind::Serialization, Severity::Critical),
        (Purpose::Logging, Kind::Serialization, Severity::Critical),
    ] {
        let of = |samples: u64| Process {
            samples: 1688,
            uses: vec![Use {
                purpose,
                place: place("page", 36),
                ns: samples * 4_739_336,
                samples,
            }],
            ..process(vec![thread(1, 8.0, &[])])
        };
        assert_eq!(severity(kind, of(1300)), Some(expected), "{purpose:?}");
        assert_eq!(severity(kind, of(30)), None, "{purpose:?}");
    }
}

#[test]
fn what_handlers_take_is_told_beside_what_raising_does_or_that_it_is_not_known() {
    let gain = |handling| {
        let raises = Process {
            samples: 1688,
            uses: vec![Use {
                purpose: Purpose::Exception,
                place: place("page", 36),
                ns: 6 * SECOND,
                samples: 1300,
            }],
            around: Around {
                handling,
                ..Around::default()
            },
            ..process(vec![thread(1, 8.0, &[])])
        };
        let findings = found(raises);
        let finding = findings.iter().find(|finding| finding.kind == Kind::Exceptions);
        finding.map(|finding| finding.gain.clone()).unwrap_or_default()
    };
    assert!(gain(None).ends_with("handlers are not counted"), "{}", gain(None));
    let known = gain(Some((0.31, 0.04)));
    assert!(
        known.ends_with("with the GIL it was in handlers 31 % of the time (± 4.0 %)"),
        "{known}"
    );
}

#[test]
fn what_the_machine_withholds_is_told_apart() {
    let threads = || (1..=8).map(|tid| thread(tid, 4.0, &[(Role::Ready, 5.0)])).collect();
    let findings = found(process(threads()));
    let (severity_of, sentence) = the(Kind::Oversubscribed, &findings).unwrap();
    assert_eq!(severity_of, Severity::Critical);
    assert!(sentence.contains("7.2 can run at a time, for 4 CPUs"), "{sentence}");
    let mut throttled = process(threads());
    (throttled.around.periods, throttled.around.throttled_periods) = (Some(100), Some(80));
    throttled.around.quota = Some(2.0);
    let findings = found(throttled);
    assert!(
        the(Kind::Throttled, &findings).unwrap().1.contains("80 %"),
        "{findings:?}"
    );
    assert_eq!(the(Kind::Oversubscribed, &findings), None);
    let others = process(vec![thread(1, 4.0, &[(Role::Ready, 6.0)])]);
    assert_eq!(severity(Kind::RunQueue, others), Some(Severity::Critical));
    // Late, and not slow.
    let idles = process(vec![thread(1, 0.5, &[(Role::Ready, 3.0)])]);
    assert_eq!(severity(Kind::RunQueue, idles), Some(Severity::Medium));
}

/// A machine of two CPUs that others keep busy.
fn busy_host(busy: Vec<Busy>) -> Host {
    Host {
        cpus: 2,
        idle_cpus: Some(0.0),
        busy,
        ..Host::default()
    }
}

fn busy(pid: u32, name: &str, cpus: f64, ancestors: &[u32]) -> Busy {
    Busy {
        pid,
        name: name.to_owned(),
        cpus,
        ancestors: ancestors.to_vec(),
    }
}

#[test]
fn who_has_the_cpus_is_told_by_name_and_its_own_children_are_called_that() {
    let waits = || {
        let mut process = process(vec![thread(1, 4.0, &[(Role::Ready, 6.0)])]);
        process.around.cpus = Some(2);
        process
    };
    let others = busy_host(vec![
        busy(7, "rustc", 0.9, &[6, 1]),
        busy(8, "rustc", 0.5, &[6, 1]),
        busy(4242, "app.py", 0.4, &[1]),
        busy(9, "sshd", 0.02, &[1]),
    ]);
    let findings = found_on(others, waits());
    let (severity_of, sentence) = the(Kind::RunQueue, &findings).unwrap();
    assert_eq!(severity_of, Severity::Critical);
    assert_eq!(
        sentence,
        "other programs have 1.6 of 2 CPUs (rustc 1.4): its threads are ready and without a CPU 60 % of the time"
    );
    let children = busy_host(vec![busy(7, "ffmpeg", 1.5, &[5, 4242, 1]), busy(9, "cron", 0.1, &[1])]);
    let (_, sentence) = the(Kind::RunQueue, &found_on(children, waits())).unwrap();
    assert!(
        sentence.starts_with("its own children have 1.5 CPUs (ffmpeg 1.5)"),
        "{sentence}"
    );
    let stolen = Host {
        stolen_cpus: Some(1.5),
        ..busy_host(Vec::new())
    };
    let (_, sentence) = the(Kind::RunQueue, &found_on(stolen, waits())).unwrap();
    assert!(sentence.contains("its host has 1.5 of its CPUs"), "{sentence}");
    // Nobody else has them: it may not use them.
    let mut pinned = waits();
    pinned.around.cpus = Some(1);
    let host = Host {
        cpus: 4,
        idle_cpus: Some(3.0),
        ..busy_host(Vec::new())
    };
    let (_, sentence) = the(Kind::RunQueue, &found_on(host, pinned)).unwrap();
    assert!(
        sentence.starts_with("3.0 CPUs idle, and it may use 1.0 of 4 CPUs"),
        "{sentence}"
    );
}

#[test]
fn threads_that_have_only_each_other_in_the_way_are_not_told_of_others() {
    let threads = (1..=5).map(|tid| thread(tid, 4.0, &[(Role::Ready, 1.0)])).collect();
    let mut own = process(threads);
    own.around.cpus = Some(2);
    // 2.5 can run.
    let findings = found_on(busy_host(Vec::new()), own);
    assert_eq!(the(Kind::RunQueue, &findings), None);
    let (_, sentence) = the(Kind::Oversubscribed, &findings).unwrap();
    assert!(sentence.contains("2.5 can run at a time, for 2 CPUs"), "{sentence}");
}

#[test]
fn a_loop_that_wants_a_cpu_on_a_busy_machine_does_not_starve_for_the_gil() {
    // pyperformance's `fastapi` beside builds: 0.4 s for the GIL, and 3.7 s of six for a CPU.
    let looped = Thread {
        is_loop: true,
        ..thread(1, 1.6, &[(Role::Gil, 0.7), (Role::Ready, 6.2)])
    };
    let findings = found_on(busy_host(Vec::new()), process(vec![looped]));
    let (severity_of, sentence) = the(Kind::StarvedLoop, &findings).unwrap();
    assert_eq!(severity_of, Severity::Medium);
    assert!(sentence.contains("waits for the GIL 18 % of the time"), "{sentence}");
}

#[test]
fn a_thread_that_never_gets_to_run_does_not_make_all_the_time_of_what_another_one_uses() {
    // Beside builds: one has begun and does not get on, the other one sleeps nearly all the time that it is not late.
    let of = |threads: Vec<Thread>| Process {
        cpu: vec![CpuLine {
            place: place("write", 5),
            ns: SECOND / 8,
            samples: 27,
        }],
        ..process(threads)
    };
    let sleeps = || thread(2, 0.125, &[(Role::Ready, 5.0), (Role::Timer, 4.875)]);
    let starts = thread(1, 0.0, &[(Role::Ready, 9.9)]);
    assert_eq!(severity(Kind::Cpu, of(vec![starts, sleeps()])), None);
    assert_eq!(severity(Kind::Cpu, of(vec![sleeps()])), None);
    // It would do nothing else if it could.
    let computes = thread(2, 0.125, &[(Role::Ready, 9.875)]);
    assert_eq!(severity(Kind::Cpu, of(vec![computes])), Some(Severity::Critical));
}

#[test]
fn the_gil_of_a_thread_that_has_no_cpu_is_the_machines_matter() {
    let with = |without_cpu: f64| {
        let threads = vec![
            thread(1, 1.0, &[(Role::Ready, 8.0)]),
            thread(2, 1.0, &[(Role::Gil, 8.0), (Role::Ready, 1.0)]),
        ];
        Process {
            waits: vec![Wait {
                holds_gil: true,
                others_ns: (without_cpu * SECOND as f64) as u64,
                ..wait(Role::Ready, Cause::Ready, "compute", 8.0, 800)
            }],
            ..process(threads)
        }
    };
    assert_eq!(severity(Kind::Gil, with(0.0)), Some(Severity::Critical));
    assert_eq!(severity(Kind::Gil, with(8.0)), None);
    assert_eq!(severity(Kind::GilHeldBlocked, with(8.0)), None);
}

#[test]
fn threads_that_are_seldom_at_work_have_small_shares_on_a_busy_machine_as_well() {
    // pyperformance's `concurrent_imap`: many threads that all want a CPU a little.
    let threads = |ready: f64| {
        let threads = (1..=8).map(|tid| thread(tid, 0.1, &[(Role::Gil, 0.08), (Role::Ready, ready)]));
        process(threads.collect())
    };
    assert_eq!(the(Kind::Gil, &found(threads(0.0))).unwrap().0, Severity::Low);
    let busy = found(threads(2.0));
    assert_eq!(the(Kind::Gil, &busy).unwrap().0, Severity::Low);
}

#[test]
fn disks_and_pages_that_are_waited_for_are_told_with_their_lines() {
    let mut writes = process(vec![thread(1, 0.1, &[(Role::Disk, 8.0)])]);
    writes.waits = vec![Wait {
        target: "/srv/wal".to_owned(),
        call: Some("fsync"),
        ..wait(Role::Disk, Cause::Disk, "commit", 8.0, 400)
    }];
    let findings = found(writes);
    let (severity_of, sentence) = the(Kind::Disk, &findings).unwrap();
    assert_eq!(severity_of, Severity::Critical);
    assert!(
        sentence.contains("fsync") && sentence.contains("/srv/wal"),
        "{sentence}"
    );
    let mut swapped = process(vec![thread(1, 1.0, &[(Role::Fault, 4.0)])]);
    swapped.around.major_faults = Some(9000);
    swapped.around.swapped_bytes = Some(1 << 30);
    let (severity_of, sentence) = the(Kind::Faults, &found(swapped)).unwrap();
    assert_eq!(severity_of, Severity::High);
    assert!(sentence.contains("9,000") && sentence.contains("1.0 GiB"), "{sentence}");
}

#[test]
fn equal_workers_are_told_once() {
    let worker = |pid: u32, cpu: f64| Process {
        pid,
        cpu: vec![CpuLine {
            // Each may be met most often in another call of a library's.
            place: Place {
                via: format!("Model.f{pid} (django)"),
                ..place("orders", 28 + pid)
            },
            ns: (cpu * SECOND as f64) as u64,
            samples: (cpu * 211.0) as u64,
        }],
        ..process(vec![thread(pid, cpu, &[])])
    };
    let findings = found_in(vec![worker(1, 6.0), worker(2, 8.0), worker(3, 7.0)]);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].pid, 2);
    let mut also = findings[0].also.clone();
    also.sort_unstable();
    assert_eq!(also, [1, 3]);
}

#[test]
fn what_the_machine_does_to_several_is_told_once_where_it_is_as_bad() {
    let of = |pid: u32, command: &str, cpu: f64, ready: f64| Process {
        pid,
        command: command.to_owned(),
        ..process(vec![thread(pid, cpu, &[(Role::Ready, ready)])])
    };
    let processes = vec![
        of(1, "api", 2.0, 8.0),
        of(2, "worker", 3.0, 7.0),
        of(3, "beat", 0.5, 3.0),
        of(4, "shop", 2.5, 7.5),
        of(5, "mail", 2.5, 7.5),
        of(6, "feed", 2.5, 7.5),
        of(7, "jobs", 2.5, 7.5),
        of(8, "search", 2.5, 7.5),
    ];
    let evidence = Evidence {
        length_ns: LENGTH,
        processes,
        host: busy_host(Vec::new()),
    };
    let found = all(&evidence, &Thresholds::default());
    let told: Vec<(Severity, u32, usize)> = (found.iter())
        .filter(|finding| finding.kind == Kind::Oversubscribed)
        .map(|finding| (finding.severity, finding.pid, finding.also.len()))
        .collect();
    assert_eq!(
        told,
        [(Severity::Critical, 1, 6), (Severity::Medium, 3, 0)],
        "{found:?}"
    );
}

#[test]
fn what_could_not_be_looked_at_is_not_called_not_seen() {
    let evidence = Evidence {
        length_ns: LENGTH,
        processes: vec![Process {
            python: Python::Refused("free-threaded CPython 3.14.0".to_owned()),
            memory: None,
            ..process(vec![thread(1, 0.1, &[])])
        }],
        host: Host::default(),
    };
    let report = report(&evidence, &Thresholds::default());
    for kind in [Kind::Gil, Kind::Lock, Kind::Growth] {
        assert!(!report.not_seen.contains(&kind), "{kind:?}");
        assert!(
            report.not_looked.iter().any(|not| not.kinds.contains(&kind)),
            "{kind:?}"
        );
    }
    assert!(report.not_seen.contains(&Kind::SlowPeer));
    // Of one that cannot be read it is not said that nothing is wrong.
    assert_eq!(report.findings, Vec::new());
}

#[test]
fn the_text_has_80_columns_and_every_kind_has_its_name() {
    let evidence = Evidence {
        length_ns: LENGTH,
        processes: vec![Process {
            waits: vec![Wait {
                target: "10.0.0.7:5432".to_owned(),
                ..wait(
                    Role::Peer,
                    Cause::Socket,
                    "a_function_with_a_name_that_goes_on",
                    9.5,
                    60,
                )
            }],
            ..process(vec![thread(1, 0.0, &[(Role::Peer, 9.5)])])
        }],
        host: Host::default(),
    };
    let report = report(&evidence, &Thresholds::default());
    let text = crate::report::why::text::text(&report, 10, 80);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(
        text.contains("CRITICAL slow-peer: ") && text.contains("Looked for and not seen: "),
        "{text}"
    );
    let mut out = Vec::new();
    crate::report::why::json::write(&report, &mut out).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let finding = &json["findings"][0];
    for field in [
        "kind", "severity", "share", "error", "function", "file", "line", "pid", "sentence", "evidence", "next",
    ] {
        assert!(!finding[field].is_null(), "{field}: {finding}");
    }
    for kind in Kind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
}
