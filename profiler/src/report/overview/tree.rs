//! The tree of calls as text, root first.
//!
//! Only where stacks part is a step further to the right: below one another stand functions that called only each other.

use rustc_hash::FxHashMap;

use super::{Asked, NODES, table};
use crate::{
    profile::{FrameId, Profile},
    report::{
        grouping::{By, Grouping},
        label,
        layout::{Grid, Last},
        machinery::Machinery,
        rows::{Counted, Sum, shown_of},
    },
};

/// Of what is smaller, a tree has no line.
const LEAST: f64 = 0.005;
/// Deeper, all stand below one another.
const DEEPEST: usize = 16;

pub(super) struct Node {
    pub(super) parent: usize,
    /// The first frame that was met here.
    pub(super) frame: Option<FrameId>,
    pub(super) total: Sum,
    pub(super) itself: Sum,
}

/// The tree; its first node is the root of all.
pub(super) fn tree(profile: &Profile, asked: &Asked, counted: Counted) -> Vec<Node> {
    let by = asked.by.filter(|by| by.is_of_frames()).unwrap_or_default();
    let mut grouping = Grouping::new(profile, by, asked.merge_workers);
    let mut machinery = Machinery::new(profile, asked.interpreter);
    let node = |parent, frame| Node {
        parent,
        frame,
        total: Sum::default(),
        itself: Sum::default(),
    };
    let mut nodes = vec![node(0, None)];
    let mut children: FxHashMap<(usize, u32), usize> = FxHashMap::default();
    let mut shown = Vec::new();
    for (key, values) in profile.samples() {
        let sum = counted.of(values);
        if sum.value == 0 {
            continue;
        }
        shown_of(profile, key, &mut machinery, &mut shown);
        let mut at = 0;
        nodes[at].total.add(sum);
        for id in &shown {
            let row = grouping.of_frame(*id);
            let parent = at;
            at = *children.entry((parent, row)).or_insert_with(|| {
                nodes.push(node(parent, Some(*id)));
                nodes.len() - 1
            });
            nodes[at].total.add(sum);
        }
        nodes[at].itself.add(sum);
    }
    nodes
}

pub(super) fn text(profile: &Profile, asked: &Asked, counted: Counted, all: Sum, width: usize) -> String {
    let nodes = tree(profile, asked, counted);
    let least = LEAST * all.value as f64;
    let mut largest: Vec<usize> = (1..nodes.len())
        .filter(|at| nodes[*at].total.value as f64 >= least)
        .collect();
    // A node is never larger than the one it is below, and comes after it, so what is chosen hangs together.
    largest.sort_by_key(|at| std::cmp::Reverse(nodes[*at].total.value));
    let left_out = nodes.len() - 1 - largest.len().min(asked.top(NODES));
    largest.truncate(asked.top(NODES));
    let mut below: FxHashMap<usize, Vec<usize>> = FxHashMap::default();
    for at in largest {
        below.entry(nodes[at].parent).or_default().push(at);
    }
    let mut lines: Vec<(usize, usize)> = Vec::new();
    // Last in, first out: so the largest is pushed last.
    let mut waiting: Vec<(usize, usize)> = below.get(&0).into_iter().flatten().rev().map(|at| (*at, 0)).collect();
    while let Some((at, depth)) = waiting.pop() {
        lines.push((at, depth));
        let Some(children) = below.get(&at) else { continue };
        let deeper = (depth + usize::from(children.len() > 1)).min(DEEPEST);
        waiting.extend(children.iter().rev().map(|child| (*child, deeper)));
    }
    let by_line = asked.by == Some(By::Line);
    let last = lines.iter().map(|(at, depth)| {
        let name = nodes[*at].frame.map_or_else(String::new, |id| match by_line {
            true => label::frame(profile, profile.frame(id)),
            false => label::function(profile, profile.frame(id)),
        });
        Last {
            text: format!("{}{name}", "  ".repeat(*depth)),
            ..Last::default()
        }
    });
    let mut grid = Grid::new("calls, from the outermost on", last.collect());
    grid.column(
        0,
        "total",
        lines
            .iter()
            .map(|(at, _)| table::share(nodes[*at].total, all))
            .collect(),
    );
    grid.column(
        0,
        "self",
        lines
            .iter()
            .map(|(at, _)| match nodes[*at].itself.value {
                0 => String::new(),
                _ => table::share(nodes[*at].itself, all),
            })
            .collect(),
    );
    let mut text = grid.render(width);
    if left_out > 0 {
        text.push_str(&format!("{left_out} smaller ones are left out (-n)\n"));
    }
    text
}
