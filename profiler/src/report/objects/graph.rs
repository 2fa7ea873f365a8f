//! The ways to objects as a graph, from what holds to what is held: DOT for Graphviz, and SVG that needs nothing else.
//!
//! Both show the part of the graph through which most bytes hang, merged by shape: a box is all objects that are reached in
//! the same way, with what hangs on them.

use std::{cmp::Reverse, collections::BTreeMap, io::Write};

use super::ObjectsReport;
use crate::{
    humanize::{bytes, count},
    objects::{account::Path, shapes::Sums},
    shown,
};

/// Boxes that one can look at.
const MOST_BOXES: usize = 80;
/// Of the SVG, in pixels.
const WIDTH: usize = 220;
const HEIGHT: usize = 44;
const GAP_X: usize = 40;
const GAP_Y: usize = 8;
/// Characters in a box.
const MOST_TEXT: usize = 30;

/// A box.
struct Node {
    name: String,
    children: BTreeMap<String, usize>,
    /// Its own objects, and all below.
    own: Sums,
    below: Sums,
}

/// All boxes; the first stands for the process.
struct Graph {
    nodes: Vec<Node>,
    /// Those that are shown, a parent before its children, and the place of the parent.
    shown: Vec<(usize, Option<usize>)>,
}

impl Graph {
    fn of(report: &ObjectsReport) -> Self {
        let mut graph = Self {
            nodes: Vec::new(),
            shown: Vec::new(),
        };
        graph.push(format!("{} ({})", report.command, report.pid));
        match &report.growth {
            Some((growth, _)) => {
                for (path, change) in &growth.holders {
                    if let (Ok(objects), Ok(own), Ok(whole)) = (
                        u64::try_from(change.objects),
                        u64::try_from(change.own),
                        u64::try_from(change.whole),
                    ) {
                        graph.add(path, &Sums { objects, own, whole });
                    }
                }
            }
            None => {
                for holder in &report.account.holders {
                    graph.add(&holder.path, &holder.sums);
                }
            }
        }
        graph.choose();
        graph
    }

    fn push(&mut self, name: String) -> usize {
        self.nodes.push(Node {
            name,
            children: BTreeMap::new(),
            own: Sums::default(),
            below: Sums::default(),
        });
        self.nodes.len() - 1
    }

    fn add(&mut self, path: &Path, sums: &Sums) {
        let module = path.module();
        let first = path.steps.first().map_or(String::new(), |step| match path.holder() {
            holder if holder == module => step.kind.to_string(),
            holder => format!("{holder}: {}", step.kind),
        });
        let rest = path.steps.iter().skip(1).map(|step| match &*step.attribute {
            "" => step.kind.to_string(),
            attribute => format!(".{attribute}: {}", step.kind),
        });
        let mut at = 0;
        self.nodes[at].below.add(sums);
        for name in [module, first].into_iter().chain(rest) {
            at = match self.nodes[at].children.get(&name) {
                Some(&child) => child,
                None => {
                    let child = self.push(name.clone());
                    self.nodes[at].children.insert(name, child);
                    child
                }
            };
            self.nodes[at].below.add(sums);
        }
        self.nodes[at].own.add(sums);
    }

    /// The largest, each with the way to it.
    fn choose(&mut self) {
        let mut open = vec![(0, None)];
        while self.shown.len() < MOST_BOXES {
            let largest = open
                .iter()
                .enumerate()
                .max_by_key(|(_, (node, _))| (self.nodes[*node].below.whole, Reverse(*node)));
            let Some((place, _)) = largest else { break };
            let (node, parent) = open.swap_remove(place);
            self.shown.push((node, parent));
            let at = self.shown.len() - 1;
            open.extend(self.nodes[node].children.values().map(|&child| (child, Some(at))));
        }
    }

    fn label(&self, node: usize) -> (String, String) {
        let node = &self.nodes[node];
        let objects = match node.own.objects {
            0 => String::new(),
            objects => format!("{} × ", count(objects)),
        };
        (shown::line(&node.name), format!("{objects}{}", bytes(node.below.whole)))
    }
}

/// For Graphviz.
pub fn write_dot(report: &ObjectsReport, out: &mut dyn Write) -> anyhow::Result<()> {
    let graph = Graph::of(report);
    writeln!(out, "digraph objects {{")?;
    writeln!(
        out,
        "  rankdir=LR; node [shape=box, fontname=\"sans-serif\", fontsize=10];"
    )?;
    for (place, &(node, parent)) in graph.shown.iter().enumerate() {
        let (name, numbers) = graph.label(node);
        writeln!(out, "  n{place} [label=\"{}\\n{}\"];", quoted(&name), quoted(&numbers))?;
        if let Some(parent) = parent {
            writeln!(out, "  n{parent} -> n{place};")?;
        }
    }
    writeln!(out, "}}")?;
    Ok(())
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// For a browser.
pub fn write_svg(report: &ObjectsReport, out: &mut dyn Write) -> anyhow::Result<()> {
    let graph = Graph::of(report);
    let places = placed(&graph.shown);
    let rows = places.iter().map(|&(_, row)| row + 1).max().unwrap_or(1);
    let columns = places.iter().map(|&(column, _)| column + 1).max().unwrap_or(1);
    let (width, height) = (columns * (WIDTH + GAP_X) + GAP_X, rows * (HEIGHT + GAP_Y) + GAP_Y);
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">"
    )?;
    writeln!(out, "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>")?;
    let corner = |place: usize| {
        let (column, row) = places[place];
        (GAP_X + column * (WIDTH + GAP_X), GAP_Y + row * (HEIGHT + GAP_Y))
    };
    let whole = graph.nodes[0].below.whole.max(1);
    for (place, &(node, parent)) in graph.shown.iter().enumerate() {
        let (x, y) = corner(place);
        let below = graph.nodes[node].below.whole;
        if let Some(parent) = parent {
            let (from_x, from_y) = corner(parent);
            let (from_x, from_y, to_y) = (from_x + WIDTH, from_y + HEIGHT / 2, y + HEIGHT / 2);
            let middle = from_x + GAP_X / 2;
            let thick = 1.0 + 7.0 * below as f64 / whole as f64;
            writeln!(
                out,
                "<path d=\"M{from_x} {from_y} C{middle} {from_y} {middle} {to_y} {x} {to_y}\" fill=\"none\" \
                 stroke=\"#8899aa\" stroke-width=\"{thick:.1}\"/>"
            )?;
        }
        let (name, numbers) = graph.label(node);
        writeln!(out, "<g><title>{}: {}</title>", escaped(&name), escaped(&numbers))?;
        writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"4\" fill=\"#eef3f8\" \
             stroke=\"#557799\"/>"
        )?;
        let cut = crate::report::layout::cut(&name, MOST_TEXT);
        writeln!(out, "<text x=\"{}\" y=\"{}\">{}</text>", x + 8, y + 18, escaped(&cut))?;
        writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" fill=\"#556677\">{}</text></g>",
            x + 8,
            y + 35,
            escaped(&numbers)
        )?;
    }
    writeln!(out, "</svg>")?;
    Ok(())
}

/// Columns by distance from the root; each box beside its first child.
fn placed(shown: &[(usize, Option<usize>)]) -> Vec<(usize, usize)> {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); shown.len()];
    for (place, &(_, parent)) in shown.iter().enumerate() {
        if let Some(parent) = parent {
            children[parent].push(place);
        }
    }
    let mut places = vec![(0, 0); shown.len()];
    let mut row = 0;
    let mut waiting: Vec<(usize, usize)> = if shown.is_empty() { Vec::new() } else { vec![(0, 0)] };
    // Depth first: a box's row is that of its first child, and a leaf has one of its own.
    while let Some((place, column)) = waiting.pop() {
        places[place] = (column, row);
        if children[place].is_empty() {
            row += 1;
        }
        waiting.extend(children[place].iter().rev().map(|&child| (child, column + 1)));
    }
    places
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
