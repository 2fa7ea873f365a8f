//! What a census comes to: by type, and by who holds it.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    shapes::{Root, Shape, ShapeId, Shapes, Sums},
    snapshot,
    types::Types,
    walk::{self, Walk},
};

/// How a census went, and what it did not see.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notes {
    pub copied_in: Duration,
    pub told_in: Duration,
    pub took: Duration,
    pub copied_bytes: u64,
    /// For collections to end.
    pub waited: Duration,
    /// One was under way whenever pools were copied.
    pub met_collection: bool,
    pub pools: snapshot::Tally,
    pub walk: walk::Tally,
    /// More of the process was asked for than is read.
    pub is_spent: bool,
    /// Pages that were wanted and are swapped out, where they were left.
    pub swapped_pages: u64,
}

impl Notes {
    /// Whether it was looked at to its end. What is known of a half is true of that half only: it cannot be compared.
    pub fn is_whole(&self) -> bool {
        !self.walk.is_cut && !self.is_spent
    }
}

/// A way to objects, merged by shape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Path {
    pub root: RootName,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RootName {
    pub kind: RootKind,
    pub name: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootKind {
    Module,
    Function,
    CData,
    Unseen,
}

/// An object on the way, and the attribute that leads to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Step {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub attribute: Box<str>,
    #[serde(rename = "type")]
    pub kind: Box<str>,
}

/// All objects at the end of such ways.
#[derive(Clone, Debug)]
pub struct Holder {
    pub path: Path,
    pub sums: Sums,
}

/// A census as numbers.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub kinds: BTreeMap<Box<str>, Sums>,
    /// Each object in one of them.
    pub holders: Vec<Holder>,
    pub notes: Notes,
}

impl Account {
    pub fn new(walk: &Walk<'_, '_>, notes: Notes) -> Self {
        let mut kinds: BTreeMap<Box<str>, Sums> = BTreeMap::new();
        let mut holders = Vec::new();
        for (id, shape) in walk.shapes.iter().filter(|(_, shape)| shape.sums.objects > 0) {
            kinds
                .entry(walk.types.name(shape.kind).into())
                .or_default()
                .add(&shape.sums);
            holders.push(Holder {
                path: path(&walk.shapes, &walk.types, id),
                sums: shape.sums,
            });
        }
        Self { kinds, holders, notes }
    }

    pub fn total(&self) -> Sums {
        let mut total = Sums::default();
        self.kinds.values().for_each(|sums| total.add(sums));
        total
    }
}

/// The names along a shape.
pub fn path(shapes: &Shapes, types: &Types<'_>, id: ShapeId) -> Path {
    let all = shapes.path(id);
    let root = all.first();
    let root = RootName {
        kind: match root.map(|root| root.root) {
            Some(Root::Module) => RootKind::Module,
            Some(Root::Frame) => RootKind::Function,
            Some(Root::Data) => RootKind::CData,
            Some(Root::Unseen) | None => RootKind::Unseen,
        },
        name: root.map_or("", |root| shapes.texts.text(root.label)).into(),
    };
    let steps = all.iter().skip(1).map(|shape| step(shapes, types, shape)).collect();
    Path { root, steps }
}

fn step(shapes: &Shapes, types: &Types<'_>, shape: &Shape) -> Step {
    Step {
        attribute: match shape.is_namespace {
            true => "__dict__".into(),
            false => shapes.texts.text(shape.label).into(),
        },
        kind: types.name(shape.kind).into(),
    }
}

impl Path {
    /// What holds it all, in a few words: `catalog.views.CACHE`.
    pub fn holder(&self) -> String {
        let first = self.steps.first().map_or("", |step| &step.attribute);
        let name = &self.root.name;
        match (self.root.kind, first) {
            (RootKind::Module, "") => name.to_string(),
            (RootKind::Module, first) => format!("{name}.{first}"),
            (RootKind::Function, "") => format!("{name}()"),
            (RootKind::Function, first) => format!("{first} in {name}()"),
            (RootKind::CData, _) => format!("[C variables of {name}]"),
            (RootKind::Unseen, _) => "[no holder was seen]".to_owned(),
        }
    }

    /// What leads on from there: `dict → list → dict`.
    pub fn way(&self) -> String {
        let mut text = String::new();
        for (number, step) in self.steps.iter().enumerate() {
            if number > 0 {
                if !step.attribute.is_empty() {
                    text.push('.');
                    text.push_str(&step.attribute);
                }
                text.push_str(" → ");
            }
            text.push_str(&step.kind);
        }
        text
    }

    /// The module that holds it, or what is in the place of one.
    pub fn module(&self) -> String {
        match self.root.kind {
            RootKind::Module => self.root.name.to_string(),
            _ => self.holder(),
        }
    }

    /// `catalog.views.CACHE: dict → list → dict`.
    pub fn text(&self) -> String {
        match self.steps.is_empty() {
            true => self.holder(),
            false => format!("{}: {}", self.holder(), self.way()),
        }
    }
}
