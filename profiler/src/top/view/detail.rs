//! One process, or the workers of one service, closely: its threads, and its functions.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use super::{
    HEAD,
    cells::{bar, percent},
    page,
    paper::{Ink, Paper},
};
use crate::top::{
    snapshot::{Snapshot, Thread},
    state::{Order, State, Sums, add_up},
};

const BAR: u16 = 12;

pub fn threads(paper: &mut Paper<'_>, snapshot: &Snapshot, state: &State, pids: &[u32]) {
    title(
        paper,
        "    TID   CPU%  TIME          MOST OF IT      NAME             LINE NOW",
    );
    let mut threads: Vec<&Thread> = (pids.iter())
        .filter_map(|&pid| snapshot.process(pid))
        .flat_map(|process| &process.rows)
        .collect();
    threads.sort_by_key(|thread| (std::cmp::Reverse(thread.time.on_cpu), thread.tid));
    let seconds = snapshot.length.as_secs_f64().max(1e-9);
    let room = page(paper.height());
    let first = state.scroll.min(threads.len().saturating_sub(room));
    for (y, thread) in (HEAD..).zip(threads.iter().skip(first).take(room)) {
        let cpu = 100.0 * thread.time.on_cpu as f64 / 1e9 / seconds;
        let waits = thread.time.most().filter(|(_, ns)| *ns > thread.time.on_cpu);
        let most = match waits {
            Some((cause, ns)) => {
                let share = 100.0 * ns as f64 / thread.time.elapsed.max(1) as f64;
                format!("{} {share:.0} %", cause.name())
            }
            None => "on a CPU".to_owned(),
        };
        let number = match thread.tid {
            0 => "…".to_owned(),
            tid => tid.to_string(),
        };
        paper.put(0, y, 7, &format!("{number:>7}"), Ink::Plain);
        paper.put(
            8,
            y,
            6,
            &format!("{:>6}", percent(cpu)),
            if cpu >= 50.0 { Ink::Hot } else { Ink::Plain },
        );
        paper.put(16, y, BAR, &bar(&thread.time, usize::from(BAR)), Ink::Plain);
        paper.put(30, y, 15, &most, Ink::Plain);
        paper.put(46, y, 16, &thread.name, Ink::Plain);
        let line = thread.line.as_ref().map_or("", |line| &line.text);
        let width = paper.width().saturating_sub(63);
        paper.put(63, y, width, line, Ink::Plain);
    }
    about(paper, snapshot, pids);
    if threads.is_empty() {
        paper.line(
            HEAD,
            "Threads are known where waits are followed (not with --no-waits).",
            Ink::Plain,
        );
    }
}

pub fn functions(paper: &mut Paper<'_>, snapshot: &Snapshot, state: &State, pids: &[u32]) {
    let mark = |order| if state.order == order { 'v' } else { ' ' };
    let head = format!(
        "  OWN%{} TOTAL%{} WAIT%{}    OWN s{}  TOTAL s   WAIT s  {}",
        mark(Order::Own),
        mark(Order::Total),
        mark(Order::Waiting),
        mark(Order::OwnTime),
        if state.functions { "FUNCTION" } else { "LINE" }
    );
    title(paper, &head);
    let span_ns = snapshot.span().as_nanos().max(1) as f64;
    let mut recent = HashMap::new();
    add_up(
        &mut recent,
        state.native,
        snapshot.samples().filter(|sample| pids.contains(&sample.pid)),
    );
    let recent = merged(&recent, state.functions);
    let totals = merged(&state.totals.lines, state.functions);
    let mut lines: Vec<(&Cow<'_, str>, Sums, Sums)> = recent
        .iter()
        .map(|(line, sums)| (line, *sums, totals.get(line).copied().unwrap_or_default()))
        .collect();
    let old = totals.iter().filter(|(line, _)| !recent.contains_key(*line));
    lines.extend(old.map(|(line, sums)| (line, Sums::default(), *sums)));
    // Markers of waits say nothing of a line.
    lines.retain(|(line, now, all)| !line.starts_with('[') || now.own + all.own > 0);
    lines.sort_by(|(a, now, all), (b, other, other_all)| {
        let of = |now: &Sums, all: &Sums| match state.order {
            Order::Own => (now.own, now.total, now.waiting),
            Order::Total => (now.total, now.own, now.waiting),
            Order::Waiting => (now.waiting, now.total, now.own),
            Order::OwnTime => (all.own, all.total, all.waiting),
        };
        of(other, other_all).cmp(&of(now, all)).then_with(|| a.cmp(b))
    });
    let room = page(paper.height());
    let first = state.scroll.min(lines.len().saturating_sub(room));
    for (y, (line, now, all)) in (HEAD..).zip(lines.iter().skip(first).take(room)) {
        let share = |ns: u64| percent(100.0 * ns as f64 / span_ns);
        let seconds = |ns: u64| format!("{:.2}", ns as f64 / 1e9);
        let text = format!(
            "{:>6}  {:>6}  {:>5} {:>9} {:>9} {:>8}   {line}",
            share(now.own),
            share(now.total),
            share(now.waiting),
            seconds(all.own),
            seconds(all.total),
            seconds(all.waiting),
        );
        paper.line(y, &text, Ink::Plain);
    }
    if lines.is_empty() {
        paper.line(
            HEAD,
            "No stack was met so far: it neither computes nor has waited long enough.",
            Ink::Plain,
        );
    }
    about(paper, snapshot, pids);
}

/// With the lines of a function as one, if they are to be.
fn merged(lines: &HashMap<Arc<str>, Sums>, functions: bool) -> HashMap<Cow<'_, str>, Sums> {
    let mut sums: HashMap<Cow<'_, str>, Sums> = HashMap::new();
    for (line, add) in lines {
        let name = if functions {
            without_line(line)
        } else {
            Cow::Borrowed(&**line)
        };
        let sum = sums.entry(name).or_default();
        sum.own += add.own;
        sum.total += add.total;
        sum.waiting += add.waiting;
    }
    sums
}

/// `page (shop/views.py)` of `page (shop/views.py:36)`.
fn without_line(line: &str) -> Cow<'_, str> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match line.rsplit_once(':') {
        Some((function, rest)) if rest.strip_suffix(')').is_some_and(number) => Cow::Owned(format!("{function})")),
        _ => Cow::Borrowed(line),
    }
}

fn title(paper: &mut Paper<'_>, text: &str) {
    paper.line(HEAD - 1, text, Ink::Head);
}

/// Of whom this is.
pub fn about(paper: &mut Paper<'_>, snapshot: &Snapshot, pids: &[u32]) {
    let y = paper.height().saturating_sub(2);
    let there: Vec<_> = pids.iter().filter_map(|&pid| snapshot.process(pid)).collect();
    let text = match (&there[..], pids) {
        ([process], _) => {
            let place = match &*process.place {
                "" => String::new(),
                place => format!(" [{place}]"),
            };
            format!(
                "{} {}{place}: {} % of a CPU",
                process.pid,
                process.name,
                percent(process.cpu_percent)
            )
        }
        ([], _) => "it has ended; Esc goes back".to_owned(),
        ([first, ..], _) => {
            let cpu: f64 = there.iter().map(|process| process.cpu_percent).sum();
            format!("{} processes {}: {} % of a CPU", there.len(), first.name, percent(cpu))
        }
    };
    paper.line(y, &text, Ink::Bold);
}
