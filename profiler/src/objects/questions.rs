//! What else is asked of a census: who refers to the instances of a class, and which objects are the largest.

use std::cmp::Reverse;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    account::{self, Path},
    look::Label,
    places,
    snapshot::Node,
    types::TypeId,
    walk::Walk,
};

/// Who refers to the instances of a class.
#[derive(Clone, Debug)]
pub struct Referrers {
    pub name: Box<str>,
    pub instances: u64,
    pub own: u64,
    /// Referring objects, merged by the way to them, and how many references they have; most first.
    pub direct: Vec<(Path, Box<str>, u64)>,
    /// Some instances, spread over all, and the way to each.
    pub some: Vec<Box<str>>,
}

/// There is no such class.
#[derive(Clone, Debug)]
pub struct NoSuchType {
    /// Those that have instances.
    pub names: Vec<String>,
}

/// An object and what it takes.
#[derive(Clone, Debug)]
pub struct Large {
    pub kind: Box<str>,
    pub own: u64,
    pub whole: u64,
    pub place: Box<str>,
}

/// Names may be given without their module.
fn is_called(name: &str, wanted: &str) -> bool {
    name == wanted || name.strip_suffix(wanted).is_some_and(|module| module.ends_with('.'))
}

/// Who refers to the instances of a class, with the places of `some` of them.
pub fn referrers(walk: &mut Walk<'_, '_>, wanted: &str, some: usize) -> Result<Referrers, NoSuchType> {
    let types: Vec<TypeId> = walk
        .types
        .iter()
        .filter(|(_, kind)| is_called(&kind.name, wanted))
        .map(|(id, _)| id)
        .collect();
    let nodes: Vec<Node> = walk.all().collect();
    let instances: Vec<Node> = nodes
        .iter()
        .copied()
        .filter(|&node| types.contains(&walk.kind(node)))
        .collect();
    if instances.is_empty() {
        let kinds: FxHashSet<TypeId> = nodes.iter().map(|&node| walk.kind(node)).collect();
        let names = kinds.into_iter().map(|kind| walk.types.name(kind).to_owned());
        return Err(NoSuchType { names: names.collect() });
    }
    let addresses: FxHashSet<u64> = instances.iter().map(|&node| walk.address(node)).collect();
    let mut found: FxHashMap<(u32, Box<str>), u64> = FxHashMap::default();
    for node in nodes {
        let mut labels: Vec<Label> = Vec::new();
        walk.edges(node, |object, label| {
            if addresses.contains(&object) {
                labels.push(label);
            }
        });
        let shape = walk.shape(node);
        let is_namespace = walk.shapes.get(shape).is_some_and(|shape| shape.is_namespace);
        for label in labels {
            let text: Box<str> = match label {
                Label::Attribute(name) => attribute(walk, name),
                Label::Key(name) if is_namespace => attribute(walk, name),
                Label::Word(at) => match walk.types.slots(walk.kind(node)).get(&at).copied() {
                    Some(name) => attribute(walk, name),
                    None => "".into(),
                },
                Label::Item(_) | Label::Key(_) => "[…]".into(),
                Label::IsKey => " (as a key)".into(),
                Label::Namespace => ".__dict__".into(),
            };
            *found.entry((shape, text)).or_default() += 1;
        }
    }
    let mut direct: Vec<(Path, Box<str>, u64)> = found
        .into_iter()
        .map(|((shape, label), count)| (account::path(&walk.shapes, &walk.types, shape), label, count))
        .collect();
    direct.sort_by(|a, b| (Reverse(a.2), &a.0, &a.1).cmp(&(Reverse(b.2), &b.0, &b.1)));
    let step = instances.len().div_ceil(some.max(1)).max(1);
    let picked: Vec<Node> = instances.iter().copied().step_by(step).take(some).collect();
    let own = instances.iter().map(|&node| walk.edges(node, |_, _| {}).own).sum();
    Ok(Referrers {
        name: walk.types.name(walk.kind(instances[0])).into(),
        instances: instances.len() as u64,
        own,
        direct,
        some: picked
            .into_iter()
            .map(|node| places::place(walk, node).into())
            .collect(),
    })
}

fn attribute(walk: &Walk<'_, '_>, name: u64) -> Box<str> {
    let name = walk.types.text(name, 64);
    format!(".{}", name.as_deref().unwrap_or("?")).into()
}

/// The largest objects, with their buffers.
pub fn largest(walk: &mut Walk<'_, '_>, most: usize) -> Vec<Large> {
    let nodes: Vec<Node> = walk.all().collect();
    let mut sizes: Vec<(u64, u64, Node)> = Vec::new();
    for node in nodes {
        let size = walk.edges(node, |_, _| {});
        sizes.push((size.whole, size.own, node));
        // Not all of them are kept.
        if sizes.len() >= 4096.max(4 * most) {
            sizes.sort_unstable_by_key(|&(whole, own, node)| (Reverse((whole, own)), node));
            sizes.truncate(most);
        }
    }
    sizes.sort_unstable_by_key(|&(whole, own, node)| (Reverse((whole, own)), node));
    sizes.truncate(most);
    sizes
        .into_iter()
        .map(|(whole, own, node)| Large {
            kind: walk.types.name(walk.kind(node)).into(),
            own,
            whole,
            place: places::place(walk, node).into(),
        })
        .collect()
}
