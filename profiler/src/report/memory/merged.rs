//! One row for all that came by one line, whichever library it called: rows of the table as people read them.

use std::cmp::Reverse;

use super::{
    group::{Place, Sums},
    layout::columns,
    table::Table,
};

pub(super) struct Line {
    pub(super) name: String,
    pub(super) sums: Sums,
    /// Of what sort the pages are.
    sort: String,
    /// What the line had called, those with most first, and the bytes that came by each.
    vias: Vec<(String, u64)>,
}

/// Of all rows, those with the most bytes first.
pub(super) fn lines(table: &Table) -> Vec<Line> {
    let mut lines: Vec<(Place, Line)> = Vec::new();
    let mut known = rustc_hash::FxHashMap::default();
    for row in &table.rows {
        let place = Place {
            library: String::new(),
            ..row.place.clone()
        };
        let at = *known.entry(place.clone()).or_insert_with(|| {
            let line = Line {
                name: match row.place.name.strip_suffix(&*row.place.sort) {
                    Some(name) if !name.is_empty() => name.trim_end().to_owned(),
                    _ => row.place.name.clone(),
                },
                sort: row.place.sort.clone(),
                sums: Sums::default(),
                vias: Vec::new(),
            };
            lines.push((place, line));
            lines.len() - 1
        });
        let line = &mut lines[at].1;
        line.sums.add(&row.sums);
        if let Some(via) = &row.via {
            line.vias.push((via.clone(), table.bytes(&row.sums)));
        }
    }
    lines.sort_by(|(a_place, a), (b_place, b)| {
        let key = |line: &Line| Reverse((table.bytes(&line.sums), line.sums.alloc_bytes, line.sums.inuse_bytes));
        key(a).cmp(&key(b)).then_with(|| a_place.cmp(b_place))
    });
    lines.into_iter().map(|(_, line)| line).collect()
}

impl Line {
    /// `[shared memory] via A, B, 3 more`: those that brought a tenth of it, at most three, as far as they fit.
    pub(super) fn addition(&self, table: &Table, width: usize) -> String {
        let tenth = table.bytes(&self.sums) / 10;
        let mut vias: Vec<_> = self.vias.iter().collect();
        vias.sort_by_key(|(name, bytes)| (Reverse(*bytes), name.clone()));
        let some = vias.iter().take(3).take_while(|(_, bytes)| *bytes > tenth).count();
        let text = |some: usize| {
            let others = vias.len() - some;
            let mut named: Vec<_> = vias[..some].iter().map(|(name, _)| name.clone()).collect();
            if others > 0 {
                named.push(format!("{others} more"));
            }
            let via = match some {
                0 => String::new(),
                _ => format!("via {}", named.join(", ")),
            };
            format!("{} {via}", self.sort).trim().to_owned()
        };
        let fits = |some: &usize| columns(&text(*some)) + 2 <= width;
        text((1..=some).rev().find(fits).unwrap_or(some.min(1)))
    }
}
