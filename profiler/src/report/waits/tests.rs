//! Reports of waits, from made-up recordings.

use std::time::Duration;

use super::{
    Detail, Io, IoLine, Related, Relation, StallTime, Stalled, ThreadTime, WAITS, WaitsReport, export,
    rows::{By, Detailed, rows},
    table,
};
use crate::{
    process::peers::Peer,
    profile::{Frame, FrameId, FrameKind, Labels, Profile, SampleKey, StackId},
    python::tasks::RunningTask,
    shown,
    waits::{
        cause::{Cause, Target},
        io::{self, Family},
    },
};

const SECOND: u64 = 1_000_000_000;

struct Made {
    profile: Profile,
    details: Vec<Detail>,
}

impl Made {
    fn frame(&mut self, kind: FrameKind, function: &str, file: &str, line: u32) -> FrameId {
        let (function, file) = (self.profile.intern_string(function), self.profile.intern_string(file));
        self.profile.intern_frame(Frame {
            kind,
            function,
            file,
            line,
            first_line: 1,
            mapping: None,
            address: 0,
            inlined: false,
        })
    }

    fn wait(&mut self, cause: Cause, peer: &str, tid: u32, stack: &[(&str, &str, u32)], ns: u64, count: i64) {
        let target = Target {
            peer: peer.to_owned(),
            ..Target::default()
        };
        let mut frames = vec![self.frame(FrameKind::Marker, &format!("[{} {peer}]", cause.name()), "", 0)];
        for (function, file, line) in stack {
            frames.push(self.frame(FrameKind::Python, function, file, *line));
        }
        let key = SampleKey {
            stack: self.profile.intern_stack(&frames),
            labels: Labels {
                pid: 7,
                tid,
                comm: Profile::EMPTY,
                command: self.profile.intern_string("shop.py"),
                thread: self.profile.intern_string("worker"),
                cgroup: Profile::EMPTY,
                container: Profile::EMPTY,
                task: Profile::EMPTY,
            },
        };
        self.profile.add(key, &[count, ns as i64]);
        self.details.push(Detail {
            cause,
            target,
            call: None,
            longest_ns: ns / 2,
            variance: 0.0,
            unended_ns: 0,
            holds_gil: false,
            others_ns: 0,
        });
    }
}

fn report() -> WaitsReport {
    let mut made = Made {
        profile: Profile::new(WAITS.to_vec(), None),
        details: Vec::new(),
    };
    let orders = ("orders", "/srv/shop/views.py", 10);
    let recv = ("Connection.read", "/v/lib/python3.12/site-packages/db/net.py", 70);
    let get = ("Queue.get", "/usr/lib/python3.12/queue.py", 171);
    let work = ("work", "/srv/shop/jobs.py", 3);
    made.wait(Cause::Socket, "10.0.0.5:5432", 7, &[recv, orders], 4 * SECOND, 40);
    made.wait(Cause::Socket, "10.0.0.6:5432", 7, &[recv, orders], SECOND, 10);
    made.wait(Cause::Lock, "", 8, &[get, work], 9 * SECOND, 3);
    let thread = |tid, on_cpu_ns, cause: Cause, ns| {
        let mut thread = ThreadTime {
            pid: 7,
            tid,
            name: "worker".to_owned(),
            command: "shop.py".to_owned(),
            elapsed_ns: 10 * SECOND,
            on_cpu_ns,
            ..ThreadTime::default()
        };
        let at = Cause::ALL.iter().position(|known| *known == cause).unwrap();
        thread.waiting_ns[at] = ns;
        thread
    };
    let threads = vec![
        thread(7, 5 * SECOND, Cause::Socket, 5 * SECOND),
        thread(8, SECOND, Cause::Lock, 9 * SECOND),
    ];
    WaitsReport::new(made.profile, made.details, threads, Duration::from_secs(10))
}

/// The sample whose waits have this cause.
fn sample_of(report: &WaitsReport, cause: Cause) -> (usize, SampleKey) {
    let index = report.details.iter().position(|detail| detail.cause == cause).unwrap();
    let (sample, _) = report.profile.samples().nth(index).unwrap();
    (index, sample.clone())
}

#[test]
fn whoever_waits_with_the_gil_is_told_first_and_its_row_is_marked() {
    let mut report = report();
    assert!(!table::text(&report, By::Line, 20, 80).contains("GIL"));
    let (index, _) = sample_of(&report, Cause::Lock);
    report.details[index].holds_gil = true;
    report.details[index].others_ns = 2 * SECOND;
    let text = table::text(&report, By::Line, 20, 80);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains(
            "The GIL is held while blocked: work (srv/shop/jobs.py:3) waits (lock) without releasing it, 9.0 s in 3 \
             waits, 4.5 s at most; others waited 2.0 s for it meanwhile."
        ),
        "{text}"
    );
    assert!(text.contains("GIL held, via Queue.get (queue)"), "{text}");
    // One that was ready is not blocked.
    report.details[index].cause = Cause::Ready;
    let text = table::text(&report, By::Line, 20, 80);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        !words.contains("while blocked") && words.contains("got no CPU; others waited 2.0 s"),
        "{text}"
    );
}

#[test]
fn who_ends_waits_is_told_below_their_line() {
    let mut report = report();
    let (_, waiter) = sample_of(&report, Cause::Lock);
    let stack = report.profile.stack(waiter.stack).to_vec();
    let mut other = waiter.clone();
    other.labels.tid = 7;
    other.stack = report.profile.intern_stack(&stack[stack.len() - 1..]);
    report.wakers.push(Relation {
        waiter,
        other,
        sums: Related {
            ns: SECOND,
            count: 1,
            longest_ns: SECOND,
        },
    });
    let text = table::text(&report, By::Line, 20, 80);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(
        text.contains("woken by work (srv/shop/jobs.py:3) in the main thread"),
        "{text}"
    );
    let mut out = Vec::new();
    export::write_json(&report, &mut out).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(json["rows"][0]["waker"]["line"], 3);
}

#[test]
fn how_much_is_left_out_is_said() {
    let mut report = report();
    (report.min_ns, report.ignored_ns, report.ignored_count) = (1_000_000, SECOND, 12_345);
    let text = table::text(&report, By::Line, 20, 80);
    assert!(
        text.ends_with("\nLeft out: 1.0 s of waits shorter than 1.0 ms (12,345).\n"),
        "{text}"
    );
}

#[test]
fn the_program_s_own_line_waits_and_what_it_called_is_told_beside_it() {
    let report = report();
    let rows = rows(&report, Detailed::No);
    assert_eq!(rows.len(), 2);
    let [lock, socket] = &rows[..] else { panic!("two rows") };
    assert_eq!(
        (lock.key.place.name.as_str(), &*lock.key.place.via),
        ("work (srv/shop/jobs.py:3)", "Queue.get (queue)")
    );
    assert_eq!((socket.sums.ns, socket.sums.count), (5 * SECOND, 50));
    assert_eq!(socket.target(), Some(("10.0.0.5:5432", 1)));
    assert_eq!(super::rows::rows(&report, Detailed::Fully).len(), 3);
}

#[test]
fn who_is_at_the_other_end_on_this_machine_is_told_with_the_address() {
    let mut report = report();
    let postgres = Peer {
        pid: 812,
        name: "postgres".to_owned(),
    };
    report.peers.insert((7, "10.0.0.5:5432".to_owned()), postgres);
    let rows = rows(&report, Detailed::No);
    let socket = rows.iter().find_map(|row| row.target()).expect("a row with a peer");
    assert_eq!(socket, ("10.0.0.5:5432 of process 812 (postgres)", 1));
}

#[test]
fn clients_are_one_row_with_the_number_of_their_ports() {
    let mut report = report();
    let clients = Target {
        ports: 1234,
        ..Target::clients([10, 0, 0, 9].into(), 8000)
    };
    for detail in report.details.iter_mut().filter(|detail| detail.cause == Cause::Socket) {
        detail.target = clients.clone();
    }
    let rows = rows(&report, Detailed::No);
    let socket = rows.iter().find_map(|row| row.target()).expect("a row with a peer");
    assert_eq!(socket, ("10.0.0.9, clients of port 8000 (1,234 ports)", 0));
    let mut out = Vec::new();
    export::write_json(&report, &mut out).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let row = (json["rows"].as_array().unwrap().iter()).find(|row| row["cause"] == "socket");
    let row = row.expect("a row of sockets");
    assert_eq!(
        (&row["peer"], &row["peer_ports"]),
        (&"10.0.0.9, clients of port 8000".into(), &1234.into())
    );
}

#[test]
fn names_that_act_on_a_terminal_do_not_reach_it() {
    let mut made = Made {
        profile: Profile::new(WAITS.to_vec(), None),
        details: Vec::new(),
    };
    let evil = ("f\u{1b}[2J", "/srv/\u{202e}evil\u{7}.py", 10);
    made.wait(Cause::Socket, "/run/\u{1b}]0;x", 7, &[evil], 4 * SECOND, 40);
    let mut thread = ThreadTime {
        pid: 7,
        tid: 7,
        command: "\u{1b}c".to_owned(),
        elapsed_ns: 10 * SECOND,
        ..ThreadTime::default()
    };
    let at = Cause::ALL.iter().position(|known| *known == Cause::Socket).unwrap();
    thread.waiting_ns[at] = 4 * SECOND;
    let mut report = WaitsReport::new(made.profile, made.details, vec![thread], Duration::from_secs(10));
    let peer = Peer {
        pid: 812,
        name: "\u{1b}[31m".to_owned(),
    };
    report.peers.insert((7, "/run/\u{1b}]0;x".to_owned()), peer);
    let text = table::text(&report, By::Line, 20, 80);
    assert!(text.contains("of process 812"), "{text}");
    assert!(!text.contains(|c| c != '\n' && shown::acts(c)), "{text:?}");
    // `why` makes its sentences of the same.
    let name = &rows(&report, Detailed::No)[0].key.place.name;
    assert!(!name.contains(shown::acts), "{name:?}");
}

#[test]
fn the_table_fits_eighty_columns_and_begins_with_how_the_time_adds_up() {
    let report = report();
    let text = table::text(&report, By::Line, 20, 80);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(
        text.starts_with("shop.py (7): 2 threads in 10 s, 30.0 % of their time on a CPU, 70.0 % waiting\n"),
        "{text}"
    );
    for part in [
        "orders (srv/shop/views.py:10)",
        "10.0.0.5:5432 and 1 more, via Connection.read (db)",
        "45.0 %",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    for by in [By::Cause, By::Thread, By::Process] {
        let text = table::text(&report, by, 20, 80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}

#[test]
fn json_has_the_fields_it_is_documented_with() {
    let mut out = Vec::new();
    export::write_json(&report(), &mut out).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(
        (json["schema"].as_str(), json["version"].as_u64()),
        (Some("profiler.waits"), Some(1))
    );
    let row = &json["rows"][0];
    for field in [
        "cause", "total_ns", "count", "max_ns", "function", "file", "line", "pid", "tid", "thread", "stack",
    ] {
        assert!(!row[field].is_null(), "{field}: {row}");
    }
    assert_eq!(json["rows"][1]["peer"], "10.0.0.5:5432");
    let thread = &json["threads"][0];
    for field in ["tid", "thread", "elapsed_ns", "on_cpu_ns", "waiting_ns"] {
        assert!(!thread[field].is_null(), "{field}: {thread}");
    }
    assert_eq!(json["accounted"], 1.0);
    let mut csv = Vec::new();
    export::write_csv(&report(), &mut csv).unwrap();
    let text = String::from_utf8(csv).unwrap();
    assert_eq!(text.lines().count(), 4);
    let fields = text.lines().next().unwrap().split(',').count();
    assert!(text.lines().all(|line| line.split(',').count() == fields), "{text}");
}

/// A stack of Python, the leaf first.
fn stack(report: &mut WaitsReport, frames: &[(&str, &str, u32)]) -> StackId {
    let profile = &mut report.profile;
    let ids: Vec<FrameId> = frames
        .iter()
        .map(|&(function, file, line)| {
            let (function, file) = (profile.intern_string(function), profile.intern_string(file));
            profile.intern_frame(Frame {
                kind: FrameKind::Python,
                function,
                file,
                line,
                first_line: 1,
                mapping: None,
                address: 0,
                inlined: false,
            })
        })
        .collect();
    profile.intern_stack(&ids)
}

#[test]
fn the_line_is_told_that_took_a_loop_so_long_and_the_coroutine() {
    let mut report = report();
    let handle = ("Handle._run", "/usr/lib/python3.12/asyncio/events.py", 84);
    let coroutine = ("page", "/srv/shop/app.py", 9);
    let (first, second) = (("crunch", "/srv/shop/app.py", 20), ("crunch", "/srv/shop/app.py", 21));
    let (called, other) = (("one", "/srv/shop/app.py", 30), ("log", "/srv/shop/app.py", 40));
    let mut part = |cause, frames: &[_], ns| (cause, stack(&mut report, frames), ns);
    let parts = vec![
        part(None, &[called, first, coroutine, handle], 400),
        part(None, &[first, coroutine, handle], 300),
        part(None, &[second, coroutine, handle], 200),
        part(Some(Cause::Disk), &[other, coroutine, handle], 100),
    ];
    let stall = StallTime {
        pid: 7,
        tid: 7,
        thread: "MainThread".to_owned(),
        command: "shop.py".to_owned(),
        at_ns: 2 * SECOND,
        length_ns: 1_000,
        unended: false,
        task: Some(RunningTask {
            name: Some("checkout".to_owned()),
            coroutine: Some("Views.page".to_owned()),
        }),
        parts,
    };
    report.stalls = Some(Stalled {
        limit_ns: 500,
        left_out: 0,
        stalls: vec![stall],
    });
    let text = table::text(&report, By::Line, 20, 80);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    for part in [
        "1 stall in 10 s",
        "crunch (srv/shop/app.py:20)",
        "90.0 % CPU",
        "at 2.0 s, task checkout: page (srv/shop/app.py:9)",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let mut out = Vec::new();
    export::write_json(&report, &mut out).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let stall = &json["stalls"]["stalls"][0];
    assert_eq!(
        (&stall["function"], &stall["line"]),
        (&"crunch".into(), &20.into()),
        "{stall}"
    );
    assert_eq!(
        (&stall["on_cpu_ns"], &stall["waiting_ns"]["disk"]),
        (&900.into(), &100.into()),
        "{stall}"
    );
    assert_eq!(stall["task_name"], "checkout", "{stall}");
    // What was seen running is not what took most of it.
    let seen = &mut report.stalls.as_mut().unwrap().stalls[0].task;
    seen.as_mut().unwrap().coroutine = Some("poll".to_owned());
    let text = table::text(&report, By::Line, 20, 80);
    assert!(text.contains("at 2.0 s, task page (srv/shop/app.py:9)"), "{text}");
}

#[test]
fn calls_are_told_by_line_and_peer() {
    let mut report = report();
    let (_, sample) = sample_of(&report, Cause::Socket);
    let mut sums = io::Sums {
        calls: 40.0,
        bytes: 8192.0,
        ns: 4e9,
        longest_ns: SECOND,
        ..io::Sums::default()
    };
    sums.lengths.add(SECOND / 10, 39.0);
    sums.lengths.add(SECOND, 1.0);
    let line = |family, peer: &str, sums| IoLine {
        family,
        target: Target {
            peer: peer.to_owned(),
            ..Target::default()
        },
        sample: sample.clone(),
        line: io::Line {
            sums,
            ..io::Line::default()
        },
    };
    let lines = vec![
        line(Family::Receive, "10.0.0.5:5432", sums.clone()),
        line(Family::Receive, "10.0.0.6:5432", io::Sums::default()),
        line(Family::Send, "10.0.0.5:5432", io::Sums::default()),
    ];
    report.io = Some(Io { lines, ..Io::default() });
    let text = table::text(&report, By::Line, 20, 80);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    for part in [
        "8.0 KiB read and received",
        "orders (srv/shop/views.py:10)",
        "10.0.0.5:5432 and 1 more",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let mut out = Vec::new();
    export::write_json(&report, &mut out).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let rows = json["io"].as_array().unwrap();
    assert_eq!(
        (rows.len(), &rows[0]["call"], &rows[0]["calls"]),
        (3, &"receive".into(), &40.into())
    );
    for field in [
        "p50_ns",
        "p95_ns",
        "p99_ns",
        "max_ns",
        "mean_ns",
        "histogram",
        "function",
        "line",
        "peer",
        "stack",
    ] {
        assert!(!rows[0][field].is_null(), "{field}: {}", rows[0]);
    }
    let mut csv = Vec::new();
    export::write_csv(&report, &mut csv).unwrap();
    let text = String::from_utf8(csv).unwrap();
    let fields = text.lines().next().unwrap().split(',').count();
    assert!(
        text.lines().count() == 4 && text.lines().all(|line| line.split(',').count() == fields),
        "{text}"
    );
}
