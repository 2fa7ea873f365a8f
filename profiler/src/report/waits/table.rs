//! The table, for somebody with ten seconds: where the time goes, whom it is waited for, and how much is not shown.

use std::{cmp::Reverse, time::Duration};

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use super::{
    Related, ThreadTime, WaitsReport, calls, held,
    rows::{By, Detailed, Other, Row, Sums, holders, rows},
    stalls,
};
use crate::{
    humanize::{count, duration, percent},
    report::{
        label,
        layout::{Grid, Last, clauses, paragraph, span},
    },
    summary::many,
    waits::cause::Cause,
};

/// How the time adds up, an empty line, and the table.
pub fn text(report: &WaitsReport, by: By, top: usize, width: usize) -> String {
    let mut text = head(report, width);
    text.push('\n');
    let found = held::findings(report, width);
    if !found.is_empty() {
        text.push_str(&found);
        text.push('\n');
    }
    if let Some(stalled) = &report.stalls {
        text.push_str(&stalls::table(report, stalled, top, width));
        text.push('\n');
    }
    if let (Some(io), By::Line) = (&report.io, by) {
        text.push_str(&calls::table(report, io, top, width));
        return text;
    }
    if report.waiting_ns() == 0 {
        text.push_str("Nothing waited.\n");
        return text;
    }
    text.push_str(&match by {
        By::Line => by_line(report, top, width),
        By::Cause => by_cause(report, width),
        By::Holder => by_holder(report, top, width),
        By::Thread => {
            let several = processes(report).len() > 1;
            by_thread(report, &report.threads, top, width, |thread| {
                thread_name(thread, several)
            })
        }
        By::Process => by_thread(report, &processes(report), top, width, process_name),
    });
    text.push_str(&left_out(report, by, width));
    text
}

/// What `--min` leaves out.
fn left_out(report: &WaitsReport, by: By, width: usize) -> String {
    if report.ignored_count == 0 {
        return String::new();
    }
    let what = format!(
        "{} of waits shorter than {} ({})",
        time(report.ignored_ns),
        time(report.min_ns),
        count(report.ignored_count)
    );
    let text = match by {
        By::Line | By::Holder => format!("Left out: {what}."),
        By::Cause => format!("Times have {what} in them, counts have not."),
        By::Thread | By::Process => format!("Times have {what} in them."),
    };
    format!("\n{}", paragraph(&text, width))
}

/// `app.py (4242): 5 threads in 10.0 s, 2.1 % of their time on a CPU; waiting 61.0 % lock, …`
pub(in crate::report) fn head(report: &WaitsReport, width: usize) -> String {
    let elapsed = report.elapsed_ns();
    let share = |ns: u64| percent(ns as f64 / elapsed.max(1) as f64);
    let processes = processes(report);
    let who = match &processes[..] {
        [one] => process_name(one),
        several => many(several.len() as u64, "process"),
    };
    let mut causes: Vec<(Cause, u64)> = Cause::ALL.into_iter().zip(report.by_cause()).collect();
    causes.retain(|&(_, ns)| ns > 0);
    causes.sort_by_key(|&(_, ns)| Reverse(ns));
    let mut text = clauses(
        "",
        &[
            format!(
                "{who}: {} in {}",
                many(report.threads.len() as u64, "thread"),
                span(report.length)
            ),
            format!(
                "{} of {} time on a CPU",
                share(report.on_cpu_ns()),
                if report.threads.len() == 1 { "its" } else { "their" }
            ),
            format!("{} waiting", share(report.waiting_ns())),
        ],
        width,
    );
    let causes: Vec<String> = causes
        .iter()
        .take(6)
        .map(|&(cause, ns)| format!("{} {}", share(ns), cause.name()))
        .collect();
    if !causes.is_empty() {
        text.push_str(&clauses("  ", &causes, width));
    }
    text
}

pub(super) fn time(ns: u64) -> String {
    duration(Duration::from_nanos(ns))
}

/// Nothing is known of single waits that have no stack.
fn longest(sums: &Sums) -> String {
    match sums.longest_ns {
        0 => "-".to_owned(),
        ns => time(ns),
    }
}

/// `4.5 s`, and `±` where it is not exact to a hundredth.
fn with_error(sums: &Sums) -> String {
    match sums.error_ns() {
        error if error > sums.ns / 100 => format!(
            "{} ± {:.0} %",
            time(sums.ns),
            (100 * error) as f64 / sums.ns.max(1) as f64
        ),
        _ => time(sums.ns),
    }
}

/// So many lines are shown, if there are as many, however little was waited there.
const LEAST_ROWS: usize = 4;

/// How many are shown: a closing row for a single other is no shorter than that one.
pub(super) fn visible(number: usize, top: usize) -> usize {
    if number == top.saturating_add(1) {
        number
    } else {
        number.min(top)
    }
}

fn by_line(report: &WaitsReport, top: usize, width: usize) -> String {
    let rows = rows(report, Detailed::No);
    let elapsed = report.elapsed_ns();
    // Lines of less than half a hundredth are no answer, unless there are hardly any others.
    let waiting = report.waiting_ns();
    let enough = rows.partition_point(|row| row.sums.ns >= waiting / 200).max(LEAST_ROWS);
    let (shown, others) = rows.split_at(visible(rows.len(), top.min(enough)));
    let mut last: Vec<Last> = shown.iter().map(|row| place(report, row)).collect();
    let mut sums: Vec<Sums> = shown.iter().map(|row| row.sums.clone()).collect();
    let mut causes: Vec<String> = shown.iter().map(|row| row.key.cause.name().to_owned()).collect();
    if !others.is_empty() {
        let mut rest = Sums::default();
        for row in others {
            rest.ns = rest.ns.saturating_add(row.sums.ns);
            rest.count = rest.count.saturating_add(row.sums.count);
            rest.longest_ns = rest.longest_ns.max(row.sums.longest_ns);
            rest.variance += row.sums.variance;
        }
        sums.push(rest);
        causes.push(String::new());
        last.push(Last {
            text: format!("({} more)", count(others.len() as u64)),
            ..Last::default()
        });
    }
    let mut grid = Grid::new("where", last);
    grid.column(0, "time", sums.iter().map(with_error).collect());
    let share = |sums: &Sums| percent(sums.ns as f64 / elapsed.max(1) as f64);
    grid.column(3, "of all", sums.iter().map(share).collect());
    grid.column(1, "count", sums.iter().map(|sums| count(sums.count)).collect());
    grid.column(2, "max", sums.iter().map(longest).collect());
    grid.column(0, "cause", causes);
    grid.render(width)
}

/// The line, and whom it waits for, or what it called.
fn place(report: &WaitsReport, row: &Row) -> Last {
    let mut parts = Vec::new();
    match row.target() {
        Some((target, 0)) => parts.push(target.to_owned()),
        Some((target, others)) => parts.push(format!("{target} and {others} more")),
        None => parts.extend(row.call.map(str::to_owned)),
    }
    // One that is ready keeps nobody from anything, unless others wait for it.
    if row.key.holds_gil && (row.key.cause != Cause::Ready || row.sums.others_ns > 0) {
        parts.insert(0, "GIL held".to_owned());
    }
    if !row.key.place.via.is_empty() {
        parts.push(format!("via {}", row.key.place.via));
    }
    // Of many waits one or the other is always under way.
    if row.sums.unended_ns > row.sums.ns / 2 {
        parts.push("not over yet".to_owned());
    }
    Last {
        text: row.key.place.name.clone(),
        shorter: None,
        addition: parts.join(", "),
        remark: match &row.wakers[..] {
            [] => String::new(),
            [waker] => format!("woken by {}", waker_name(report, row, waker)),
            [waker, others @ ..] => {
                format!("woken by {} and {} more", waker_name(report, row, waker), others.len())
            }
        },
    }
}

/// `put (app/jobs.py:12)`, and in which thread or process, where that is another than waits in most of the row.
fn waker_name(report: &WaitsReport, row: &Row, waker: &Other) -> String {
    let labels = &waker.sample.labels;
    let name = &waker.place.name;
    // What has no place in a program is a name by itself.
    if !waker.is_placed || labels.tid == row.labels.tid {
        return name.clone();
    }
    if labels.pid != row.labels.pid {
        return format!(
            "{name} of {} ({})",
            label::process_name(&report.profile, labels),
            labels.pid
        );
    }
    match waker.several_threads {
        true => format!("{name} in {} and others", thread_of(report, waker)),
        false => format!("{name} in {}", thread_of(report, waker)),
    }
}

fn by_cause(report: &WaitsReport, width: usize) -> String {
    let mut sums: IndexMap<Cause, Sums, FxBuildHasher> = IndexMap::default();
    for row in rows(report, Detailed::No) {
        let sum = sums.entry(row.key.cause).or_default();
        sum.count = sum.count.saturating_add(row.sums.count);
        sum.longest_ns = sum.longest_ns.max(row.sums.longest_ns);
    }
    // Times are those of the threads' accounts, which are exact.
    for (cause, ns) in Cause::ALL.into_iter().zip(report.by_cause()) {
        if ns > 0 {
            sums.entry(cause).or_default().ns = ns;
        }
    }
    sums.sort_by(|_, a, _, b| b.ns.cmp(&a.ns));
    let last = sums.keys().map(|cause| Last {
        text: cause.name().to_owned(),
        ..Last::default()
    });
    let mut grid = Grid::new("cause", last.collect());
    let elapsed = report.elapsed_ns();
    grid.column(0, "time", sums.values().map(|sums| time(sums.ns)).collect());
    let share = |sums: &Sums| percent(sums.ns as f64 / elapsed.max(1) as f64);
    grid.column(0, "of all", sums.values().map(share).collect());
    grid.column(0, "count", sums.values().map(|sums| count(sums.count)).collect());
    grid.column(0, "max", sums.values().map(longest).collect());
    grid.render(width)
}

/// Who had the GIL while others waited.
fn by_holder(report: &WaitsReport, top: usize, width: usize) -> String {
    let rows = holders(report);
    if rows.is_empty() {
        return match report.processes_with_gil {
            0 => "There is no process here whose GIL is known.\n".to_owned(),
            _ => "Nobody waited for the GIL.\n".to_owned(),
        };
    }
    let elapsed = report.elapsed_ns();
    let (shown, others) = rows.split_at(visible(rows.len(), top));
    let mut last: Vec<Last> = shown
        .iter()
        .map(|other| Last {
            text: other.place.name.clone(),
            addition: match (other.sample.labels.tid, &*other.place.via) {
                (0, _) => String::new(),
                (tid, "") => format!("in {} ({tid})", thread_of(report, other)),
                (tid, via) => format!("in {} ({tid}), via {via}", thread_of(report, other)),
            },
            ..Last::default()
        })
        .collect();
    if !others.is_empty() {
        last.push(Last {
            text: format!("({} more)", count(others.len() as u64)),
            ..Last::default()
        });
    }
    let mut grid = Grid::new("who had the GIL, about where", last);
    let column = |of: &dyn Fn(&Related) -> String| shown.iter().map(|holder| of(&holder.sums)).collect();
    grid.column(0, "waited for it", column(&|holder| time(holder.ns)));
    grid.column(
        2,
        "of all",
        column(&|holder| percent(holder.ns as f64 / elapsed.max(1) as f64)),
    );
    grid.column(1, "count", column(&|holder| count(holder.count)));
    grid.column(1, "max", column(&|holder| time(holder.longest_ns)));
    grid.render(width)
}

fn thread_of(report: &WaitsReport, other: &Other) -> String {
    let labels = &other.sample.labels;
    match labels.tid == labels.pid {
        true => "the main thread".to_owned(),
        false => label::clean(report.profile.string(labels.thread).to_owned()),
    }
}

/// Its process's name is told beside it where there are `several`.
fn thread_name(thread: &ThreadTime, several: bool) -> String {
    let name = match thread.tid {
        // Those of which there were too many.
        0 => thread.name.clone(),
        tid if tid == thread.pid => "main thread".to_owned(),
        tid => format!("{} ({tid})", thread.name),
    };
    label::clean(match several {
        true => format!("{name} of {} ({})", thread.command, thread.pid),
        false => name,
    })
}

fn process_name(thread: &ThreadTime) -> String {
    label::clean(format!("{} ({})", thread.command, thread.pid))
}

/// The threads of each process together.
fn processes(report: &WaitsReport) -> Vec<ThreadTime> {
    let mut processes: IndexMap<u32, ThreadTime, FxBuildHasher> = IndexMap::default();
    for thread in &report.threads {
        let process = processes.entry(thread.pid).or_insert_with(|| ThreadTime {
            pid: thread.pid,
            command: thread.command.clone(),
            ..ThreadTime::default()
        });
        process.elapsed_ns = process.elapsed_ns.saturating_add(thread.elapsed_ns);
        process.on_cpu_ns = process.on_cpu_ns.saturating_add(thread.on_cpu_ns);
        for (sum, ns) in process.waiting_ns.iter_mut().zip(thread.waiting_ns) {
            *sum = sum.saturating_add(ns);
        }
    }
    processes.into_values().collect()
}

/// How the time of each adds up, in percent of its own.
fn by_thread(
    report: &WaitsReport,
    threads: &[ThreadTime],
    top: usize,
    width: usize,
    name: impl Fn(&ThreadTime) -> String,
) -> String {
    let mut threads: Vec<&ThreadTime> = threads.iter().collect();
    threads.sort_by_key(|thread| (Reverse(thread.waiting()), thread.pid, thread.tid));
    let (shown, others) = threads.split_at(visible(threads.len(), top));
    let mut last: Vec<Last> = shown
        .iter()
        .map(|thread| Last {
            text: name(thread),
            ..Last::default()
        })
        .collect();
    if !others.is_empty() {
        last.push(Last {
            text: format!("({} more)", count(others.len() as u64)),
            ..Last::default()
        });
    }
    let mut grid = Grid::new("who", last);
    let share = |ns: u64, thread: &ThreadTime| match ns {
        0 => "-".to_owned(),
        _ => percent(ns as f64 / thread.elapsed_ns.max(1) as f64),
    };
    grid.column(0, "waited", shown.iter().map(|thread| time(thread.waiting())).collect());
    grid.column(
        1,
        "on CPU",
        shown.iter().map(|thread| share(thread.on_cpu_ns, thread)).collect(),
    );
    // The causes that matter, the largest first: those to the right go first where there is no room.
    let mut causes: Vec<(usize, u64)> = report.by_cause().into_iter().enumerate().collect();
    causes.retain(|&(_, ns)| ns > 0);
    causes.sort_by_key(|&(_, ns)| Reverse(ns));
    for (rank, (index, _)) in causes.into_iter().enumerate() {
        let cells = shown.iter().map(|thread| share(thread.waiting_ns[index], thread));
        grid.column(2 + rank as u8, Cause::ALL[index].name(), cells.collect());
    }
    grid.render(width)
}
