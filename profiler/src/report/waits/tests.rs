//! Reports of waits, from made-up recordings.

use std::time::Duration;

use super::{
    Detail, ThreadTime, WAITS, WaitsReport, export,
    rows::{By, Detailed, rows},
    table,
};
use crate::{
    profile::{Frame, FrameId, FrameKind, Labels, Profile, SampleKey},
    waits::cause::{Cause, Target},
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
            path: String::new(),
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
    WaitsReport {
        profile: made.profile,
        details: made.details,
        holders: Vec::new(),
        threads: vec![
            thread(7, 5 * SECOND, Cause::Socket, 5 * SECOND),
            thread(8, SECOND, Cause::Lock, 9 * SECOND),
        ],
        length: Duration::from_secs(10),
    }
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
