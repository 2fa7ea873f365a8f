//! Who was seen: processes, or the threads of one.

use std::collections::BTreeSet;

use super::{Asked, table};
use crate::{
    profile::Profile,
    report::{
        View,
        layout::{Grid, Last},
        rows::{Counted, Sum},
        workers::Workers,
    },
};

/// More are summed up.
const ROWS: usize = 5;

#[derive(Default)]
struct Seen {
    name: String,
    sum: Sum,
    threads: BTreeSet<u32>,
}

pub(super) fn text(profile: &Profile, asked: &Asked, counted: Counted, all: Sum, width: usize) -> String {
    if profile
        .samples()
        .all(|(key, _)| key.labels.pid == 0 && key.labels.thread == Profile::EMPTY)
    {
        return String::new();
    }
    let view = View {
        merge_workers: asked.merge_workers,
        ..View::default()
    };
    let workers = Workers::new(profile, &view);
    let processes = seen(profile, counted, |labels| workers.process(profile, labels));
    let (title, rows) = match processes.len() {
        0 => return String::new(),
        1 => (
            "thread",
            seen(profile, counted, |labels| workers.thread(profile, labels)),
        ),
        _ => ("process", processes),
    };
    if title == "thread" && rows.len() < 2 {
        return String::new();
    }
    let shown = &rows[..rows.len().min(ROWS)];
    let last = shown.iter().map(|seen| Last {
        text: seen.name.clone(),
        addition: match (title, seen.threads.len()) {
            ("process", threads @ 2..) => format!("{threads} threads"),
            _ => String::new(),
        },
        ..Last::default()
    });
    let mut grid = Grid::new(title, last.collect());
    grid.column(
        0,
        "share",
        shown.iter().map(|seen| table::share(seen.sum, all)).collect(),
    );
    grid.column(
        1,
        "±",
        shown
            .iter()
            .map(|seen| table::plus_minus(seen.sum, all, counted))
            .collect(),
    );
    let mut text = grid.render(width);
    if rows.len() > shown.len() {
        text.push_str(&format!("{} more (--by {title})\n", rows.len() - shown.len()));
    }
    text
}

fn seen(profile: &Profile, counted: Counted, who: impl Fn(&crate::profile::Labels) -> (u32, String)) -> Vec<Seen> {
    let mut rows: indexmap::IndexMap<String, Seen, rustc_hash::FxBuildHasher> = indexmap::IndexMap::default();
    let mut names: rustc_hash::FxHashMap<crate::profile::Labels, String> = rustc_hash::FxHashMap::default();
    for (key, values) in profile.samples() {
        let sum = counted.of(values);
        if sum.value == 0 {
            continue;
        }
        let name = names.entry(key.labels.clone()).or_insert_with(|| who(&key.labels).1);
        let row = match rows.get_mut(name) {
            Some(row) => row,
            None => rows.entry(name.clone()).or_insert_with(|| Seen {
                name: name.clone(),
                ..Seen::default()
            }),
        };
        row.sum.add(sum);
        row.threads.insert(key.labels.tid);
    }
    let mut rows: Vec<Seen> = rows.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.sum.value));
    rows
}
