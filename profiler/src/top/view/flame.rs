//! A flame graph of blocks of text, root on top: widths are time.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    HEAD, detail, page,
    paper::{Ink, Paper},
};
use crate::top::{snapshot::Snapshot, state::State};

/// Frames that all stacks have in common are put together if there are as many: a server has a dozen, half of a screen.
const LEAST_IN_COMMON: usize = 4;
/// Stacks may be deep, and nobody scrolls further.
const MOST_DEPTH: usize = 512;

#[derive(Default)]
struct Node {
    ns: u64,
    children: BTreeMap<Arc<str>, Node>,
}

pub fn draw(paper: &mut Paper<'_>, snapshot: &Snapshot, state: &State, pids: &[u32]) {
    let mut root = Node::default();
    for sample in snapshot.samples().filter(|sample| pids.contains(&sample.pid)) {
        let ns = sample.cpu_ns + if state.wall { sample.wait_ns } else { 0 };
        if ns == 0 {
            continue;
        }
        root.ns += ns;
        let mut node = &mut root;
        for frame in sample.frames(state.native).take(MOST_DEPTH) {
            node = node.children.entry(Arc::clone(frame)).or_default();
            node.ns += ns;
        }
    }
    let what = match state.wall {
        true => "CPU time and waiting",
        false => "CPU time",
    };
    let span = snapshot.span().as_secs_f64().max(1e-9);
    let text = format!("{what} of the last {span:.0} s: {:.2} s", root.ns as f64 / 1e9);
    paper.line(HEAD - 1, &text, Ink::Head);
    if root.ns == 0 {
        let hint = if state.wall { "" } else { "; w shows waits as well" };
        paper.line(HEAD, &format!("It was not met on a CPU{hint}."), Ink::Plain);
    }
    let columns = paper.width();
    let (in_common, rest) = without_stem(&root);
    let first = usize::from(in_common > 0);
    if in_common > 0 && state.scroll == 0 {
        let text = format!("[{in_common} frames that all of it has in common]");
        block(paper, HEAD, 0, columns, &text, 0);
    }
    level(paper, rest, state, first, (0.0, f64::from(columns)));
    detail::about(paper, snapshot, pids);
}

/// How many frames all stacks begin with, but for the last of these, and the node that has that one.
fn without_stem(root: &Node) -> (usize, &Node) {
    let (mut depth, mut node, mut above) = (0, root, root);
    while let Some(child) = node.children.values().next().filter(|child| child.ns == node.ns) {
        (depth, above, node) = (depth + 1, node, child);
    }
    match depth > LEAST_IN_COMMON {
        true => (depth - 1, above),
        false => (0, root),
    }
}

/// The children of a node, in the columns that it has.
fn level(paper: &mut Paper<'_>, node: &Node, state: &State, depth: usize, (from, to): (f64, f64)) {
    let room = page(paper.height());
    if depth >= state.scroll + room {
        return;
    }
    let mut children: Vec<(&Arc<str>, &Node)> = node.children.iter().collect();
    // The widest first: where the eye begins.
    children.sort_by(|a, b| b.1.ns.cmp(&a.1.ns).then_with(|| a.0.cmp(b.0)));
    let mut x = from;
    for (number, (name, child)) in children.into_iter().enumerate() {
        let end = x + (to - from) * child.ns as f64 / node.ns.max(1) as f64;
        let (left, right) = (x.round() as u16, end.round() as u16);
        if right > left {
            if let Some(at) = depth.checked_sub(state.scroll) {
                block(paper, HEAD + at as u16, left, right - left, name, depth + number);
            }
            level(paper, child, state, depth + 1, (x, end));
        }
        x = end;
    }
}

fn block(paper: &mut Paper<'_>, y: u16, x: u16, width: u16, name: &str, number: usize) {
    // Blocks side by side differ, in colour or by the mark in front.
    let kind = match name {
        _ if name.ends_with("_[k]") => 4,
        _ if name.starts_with('[') => 5,
        _ if name.contains(".py:") || name.contains("(<") => (number % 2) as u8,
        _ => 2 + (number % 2) as u8,
    };
    let mark = if paper.unicode() { '▏' } else { '|' };
    let width_of_text = usize::from(width.saturating_sub(1));
    let short: String = match name.chars().count() > width_of_text {
        true => name.split(" (").next().unwrap_or(name).to_owned(),
        false => name.to_owned(),
    };
    // Of less there is no word.
    let text = if width < 4 { String::new() } else { short };
    paper.put(x, y, width, &format!("{mark}{text}"), Ink::Block(kind));
    paper.fill(x, y, width, Ink::Block(kind));
}
