//! What is said of CPU time and waiting together: how the threads' time adds up, and the lines with most of it.

use std::cmp::Reverse;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    layout::{Grid, Last},
    owner::Owners,
    waits::{
        rows::{Place, place},
        table::head,
    },
};
use crate::{
    humanize::percent,
    waits::cause::Cause,
    wall::{VALUE, WallReport},
};

/// Lines that are shown.
const ROWS: usize = 10;

#[derive(Default)]
struct Row {
    cpu_ns: u64,
    /// By [`Cause::ALL`].
    waiting_ns: [u64; Cause::ALL.len()],
    /// What installed code it called there, and how long that took.
    vias: FxHashMap<String, u64>,
}

impl Row {
    fn waited(&self) -> u64 {
        self.waiting_ns.iter().fold(0, |sum, ns| sum.saturating_add(*ns))
    }

    fn ns(&self) -> u64 {
        self.cpu_ns.saturating_add(self.waited())
    }

    /// What it called for most of the time.
    fn via(&self) -> Option<&str> {
        let via = self.vias.iter().max_by_key(|&(via, ns)| (*ns, Reverse(via)));
        let (via, _) = via.filter(|&(_, ns)| *ns > self.ns() / 2)?;
        Some(via)
    }

    /// What most of it is: running, or waiting for something.
    fn mostly(&self) -> &'static str {
        let waits = Cause::ALL.into_iter().zip(self.waiting_ns);
        match waits.max_by_key(|&(_, ns)| ns) {
            Some((cause, ns)) if ns > self.cpu_ns => cause.name(),
            _ => "CPU",
        }
    }
}

/// How the threads' time adds up, an empty line, and the lines with most of it.
pub fn text(report: &WallReport, width: usize) -> String {
    let mut text = head(&report.waits, width);
    let rows = rows(report);
    if rows.is_empty() {
        return text;
    }
    text.push('\n');
    let all = report.profile.total(VALUE).max(1);
    let share = |ns: u64| percent(ns as f64 / all as f64);
    let shown = &rows[..rows.len().min(ROWS)];
    let last = shown.iter().map(|(place, row)| Last {
        text: place.name.clone(),
        addition: row.via().map_or_else(String::new, |via| format!("via {via}")),
        ..Last::default()
    });
    let column = |cell: &dyn Fn(&Row) -> String| shown.iter().map(|(_, row)| cell(row)).collect();
    let mut grid = Grid::new("where", last.collect());
    grid.column(0, "of all", column(&|row| share(row.ns())));
    grid.column(0, "CPU", column(&|row| share(row.cpu_ns)));
    grid.column(0, "waiting", column(&|row| share(row.waited())));
    grid.column(0, "mostly", column(&|row| row.mostly().to_owned()));
    text.push_str(&grid.render(width));
    text
}

/// Lines by time, the longest first.
fn rows(report: &WallReport) -> Vec<(Place, Row)> {
    let profile = &report.profile;
    let mut owners = Owners::new(profile);
    let mut rows: IndexMap<Place, Row, FxBuildHasher> = IndexMap::default();
    for ((sample, values), cause) in profile.samples().zip(&report.causes) {
        let ns = values[VALUE].unsigned_abs();
        let mut place = place(profile, sample.stack, owners.find(sample.stack));
        let via = std::mem::take(&mut place.via);
        let row = rows.entry(place).or_default();
        if !via.is_empty() {
            *row.vias.entry(via).or_default() += ns;
        }
        let at = cause.and_then(|cause| Cause::ALL.iter().position(|known| *known == cause));
        let sum = match at {
            Some(at) => &mut row.waiting_ns[at],
            None => &mut row.cpu_ns,
        };
        *sum = sum.saturating_add(ns);
    }
    let mut rows: Vec<(Place, Row)> = rows.into_iter().filter(|(_, row)| row.ns() > 0).collect();
    rows.sort_by(|(a, one), (b, other)| (Reverse(one.ns()), a).cmp(&(Reverse(other.ns()), b)));
    rows
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        profile::{Frame, FrameId, FrameKind, Labels, Profile, SampleKey},
        report::waits::{Detail, ThreadTime, WAITS, WaitsReport},
        waits::cause::Target,
    };

    fn frame(profile: &mut Profile, kind: FrameKind, function: &str, line: u32) -> FrameId {
        let function = profile.intern_string(function);
        let file = match kind {
            FrameKind::Python => profile.intern_string("/srv/shop/views.py"),
            _ => Profile::EMPTY,
        };
        profile.intern_frame(Frame {
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

    fn key(profile: &mut Profile, stack: &[FrameId]) -> SampleKey {
        SampleKey {
            stack: profile.intern_stack(stack),
            labels: Labels {
                pid: 1,
                tid: 2,
                comm: Profile::EMPTY,
                command: Profile::EMPTY,
                thread: Profile::EMPTY,
                cgroup: Profile::EMPTY,
                container: Profile::EMPTY,
                task: Profile::EMPTY,
            },
        }
    }

    /// A thread of ten seconds: two lines that run, and one of them asks a database as well.
    fn report() -> WallReport {
        let mut cpu = Profile::new(crate::wall::TYPES[..2].to_vec(), None);
        for (function, line, count) in [("page", 36, 100), ("orders", 29, 300)] {
            let stack = [frame(&mut cpu, FrameKind::Python, function, line)];
            let key = key(&mut cpu, &stack);
            cpu.add(key, &[count, count * 10_000_000]);
        }
        let mut profile = Profile::new(WAITS.to_vec(), None);
        let stack = [
            frame(&mut profile, FrameKind::Marker, "[socket 10.0.0.7:5432]", 0),
            frame(&mut profile, FrameKind::Kernel, "tcp_recvmsg", 0),
            frame(&mut profile, FrameKind::Python, "orders", 29),
        ];
        let waited = key(&mut profile, &stack);
        profile.add(waited, &[60, 6_000_000_000]);
        let mut waiting_ns = [0; Cause::ALL.len()];
        waiting_ns[Cause::ALL.iter().position(|cause| *cause == Cause::Socket).unwrap()] = 6_000_000_000;
        let details = vec![Detail {
            cause: Cause::Socket,
            target: Target::default(),
            call: None,
            longest_ns: 0,
            variance: 0.0,
            unended_ns: 0,
            holds_gil: false,
            others_ns: 0,
        }];
        let threads = vec![ThreadTime {
            pid: 1,
            tid: 2,
            command: "shop.py".to_owned(),
            elapsed_ns: 10_000_000_000,
            on_cpu_ns: 4_000_000_000,
            waiting_ns,
            ..ThreadTime::default()
        }];
        let waits = WaitsReport::new(profile, details, threads, Duration::from_secs(10));
        WallReport::new(&cpu, waits, 10_000_000)
    }

    #[test]
    fn a_line_has_what_it_ran_and_what_it_waited_and_what_most_of_it_was() {
        assert_eq!(
            text(&report(), 80),
            concat!(
                "shop.py (1): 1 thread in 10 s, 40.0 % of its time on a CPU, 60.0 % waiting\n",
                "  60.0 % socket\n",
                "\n",
                "of all     CPU  waiting  mostly  where\n",
                "90.0 %  30.0 %   60.0 %  socket  orders (srv/shop/views.py:29)\n",
                "10.0 %  10.0 %    0.0 %     CPU  page (srv/shop/views.py:36)\n",
            )
        );
    }
}
