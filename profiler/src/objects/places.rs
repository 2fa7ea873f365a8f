//! Where one object is: `app.cache['foos'][19].name`, as somebody would type it to get there.

use super::{look::Label, shapes::Root, snapshot::Node, walk::Walk};

/// Steps that are shown; what is farther in is cut in the middle.
const MOST_STEPS: usize = 64;
/// Characters of a key.
const MOST_KEY: u64 = 40;

/// The way to an object from what holds it.
pub fn place(walk: &mut Walk<'_, '_>, node: Node) -> String {
    let mut way = vec![node];
    while let Some(parent) = way.last().and_then(|&node| walk.parent(node)) {
        if way.len() >= MOST_STEPS {
            way.push(parent);
            break;
        }
        way.push(parent);
    }
    let is_cut = way.len() > MOST_STEPS;
    way.reverse();
    let Some(&first) = way.first() else {
        return String::new();
    };
    let mut text = beginning(walk, first);
    if is_cut {
        text.push('…');
    }
    let mut in_namespace = false;
    for step in way.windows(2) {
        let [from, to] = *step else { continue };
        let label = label(walk, from, to);
        match label {
            Some(Label::Namespace) => {
                in_namespace = true;
                continue;
            }
            Some(Label::Key(key)) if in_namespace => push_attribute(walk, &mut text, key),
            Some(Label::Key(key)) => match walk.types.text(key, MOST_KEY) {
                Some(key) => text.push_str(&format!("[{key:?}]")),
                None => text.push_str(&number(walk, key)),
            },
            Some(Label::Attribute(name)) => push_attribute(walk, &mut text, name),
            Some(Label::Item(number)) if is_numbered(walk, from) => text.push_str(&format!("[{number}]")),
            Some(Label::Word(at)) => {
                let name = walk.types.slots(walk.kind(from)).get(&at).copied();
                match name {
                    Some(name) => push_attribute(walk, &mut text, name),
                    None => text.push_str(&format!(" → {}", walk.types.name(walk.kind(to)))),
                }
            }
            Some(Label::Item(_)) => text.push_str("{…}"),
            Some(Label::IsKey) => text.push_str(".keys()"),
            None => text.push_str(&format!(" → {}", walk.types.name(walk.kind(to)))),
        }
        in_namespace = false;
    }
    if in_namespace {
        text.push_str(".__dict__");
    }
    text
}

fn beginning(walk: &Walk<'_, '_>, first: Node) -> String {
    let path = walk.shapes.path(walk.shape(first));
    let Some(root) = path.first() else {
        return "?".to_owned();
    };
    let name = walk.shapes.texts.text(root.label);
    let kind = walk.types.name(walk.kind(first));
    match root.root {
        Root::Module => name.to_owned(),
        Root::Frame => {
            let label = path.get(1).map_or("", |step| walk.shapes.texts.text(step.label));
            format!("{label} in {name}()")
        }
        Root::Data => format!("[C variables of {name}] {kind}"),
        Root::Unseen => format!("[no holder was seen] {kind}"),
    }
}

fn push_attribute(walk: &Walk<'_, '_>, text: &mut String, name: u64) {
    let name = walk.types.text(name, MOST_KEY);
    text.push('.');
    text.push_str(name.as_deref().unwrap_or("?"));
}

fn number(walk: &Walk<'_, '_>, key: u64) -> String {
    match walk.types.objects().int(key) {
        Some(number) => format!("[{number}]"),
        None => "[…]".to_owned(),
    }
}

/// Items of sets have no number.
fn is_numbered(walk: &Walk<'_, '_>, node: Node) -> bool {
    let kind = walk.types.get(walk.kind(node));
    kind.is_some_and(|kind| kind.facts.kind != super::types::Kind::Set)
}

/// How one object refers to another.
fn label(walk: &mut Walk<'_, '_>, from: Node, to: Node) -> Option<Label> {
    let wanted = walk.address(to);
    let mut found = None;
    walk.edges(from, |object, label| {
        if object == wanted && found.is_none() {
            found = Some(label);
        }
    });
    found
}
