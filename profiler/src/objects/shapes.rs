//! Paths from a root to objects, merged by shape: which attributes and which types lead to them.
//!
//! `catalog.views.CACHE: dict → list → dict` is one shape, however many lists there are. A list of a million nodes that
//! refer to each other is one, too: what leads to another of the same kind in the same way stays where it is.

use rustc_hash::FxHashMap;

use super::{look::Sizes, types::TypeId};

/// A shape by its number; 0 is none.
pub type ShapeId = u32;

/// As many are told apart; what comes later counts where it hangs.
const MOST_SHAPES: usize = 1 << 18;
/// Objects farther from a root than this count there.
const MOST_STEPS: u16 = 48;
/// Attributes that are told apart below one shape: some classes have as many as a dict has keys.
const MOST_LABELS: u32 = 512;

/// Where a path begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Root {
    /// A module that is imported.
    Module,
    /// A function that runs.
    Frame,
    /// Variables of C code, by file.
    Data,
    /// Nothing that was found refers to it.
    Unseen,
}

/// Numbered text.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    list: Vec<Box<str>>,
    numbers: FxHashMap<Box<str>, u32>,
}

impl Texts {
    /// 0 is no text.
    pub fn number(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        self.list.push(text.into());
        let number = self.list.len() as u32;
        self.numbers.insert(text.into(), number);
        number
    }

    pub fn text(&self, number: u32) -> &str {
        let text = (number as usize).checked_sub(1).and_then(|at| self.list.get(at));
        text.map_or("", |text| text)
    }
}

/// What hangs at the end of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub objects: u64,
    pub own: u64,
    pub whole: u64,
}

impl Sums {
    pub fn add(&mut self, other: &Self) {
        self.objects += other.objects;
        self.own = self.own.saturating_add(other.own);
        self.whole = self.whole.saturating_add(other.whole);
    }

    pub fn add_object(&mut self, sizes: Sizes) {
        self.add(&Self {
            objects: 1,
            own: sizes.own,
            whole: sizes.whole,
        });
    }
}

/// One step of a path.
#[derive(Clone, Debug)]
pub struct Shape {
    /// 0 at a root.
    pub parent: ShapeId,
    pub root: Root,
    /// The attribute or the root's name; 0 is none.
    pub label: u32,
    /// 0 at a root.
    pub kind: TypeId,
    /// Its objects hold their attributes in it: it is no step of its own where a path is shown.
    pub is_namespace: bool,
    steps: u16,
    labels: u32,
    pub sums: Sums,
}

/// All paths: a tree.
#[derive(Clone, Debug, Default)]
pub struct Shapes {
    list: Vec<Shape>,
    children: FxHashMap<(ShapeId, u32, TypeId, bool), ShapeId>,
    roots: FxHashMap<(Root, u32), ShapeId>,
    recent: Option<((ShapeId, u32, TypeId, bool), ShapeId)>,
    pub texts: Texts,
}

impl Shapes {
    pub fn root(&mut self, root: Root, name: &str) -> ShapeId {
        let label = self.texts.number(name);
        if let Some(&shape) = self.roots.get(&(root, label)) {
            return shape;
        }
        let shape = self.push(Shape {
            parent: 0,
            root,
            label,
            kind: 0,
            is_namespace: false,
            steps: 0,
            labels: 0,
            sums: Sums::default(),
        });
        self.roots.insert((root, label), shape);
        shape
    }

    /// One step on.
    pub fn step(&mut self, from: ShapeId, label: u32, kind: TypeId, is_namespace: bool) -> ShapeId {
        let key = (from, label, kind, is_namespace);
        if let Some((recent, shape)) = self.recent
            && recent == key
        {
            return shape;
        }
        let shape = match self.children.get(&key) {
            Some(&shape) => shape,
            None => self.new_step(key),
        };
        self.recent = Some((key, shape));
        shape
    }

    fn new_step(&mut self, key: (ShapeId, u32, TypeId, bool)) -> ShapeId {
        let (from, label, kind, is_namespace) = key;
        let full = self.list.len() >= MOST_SHAPES;
        let Some(parent) = self.get_mut(from) else { return from };
        // What refers to its like in the same way.
        let is_like = parent.label == label && parent.kind == kind && parent.is_namespace == is_namespace;
        if full || parent.steps >= MOST_STEPS || is_like && parent.parent != 0 {
            return from;
        }
        if label != 0 {
            parent.labels += 1;
            if parent.labels > MOST_LABELS {
                return self.step(from, 0, kind, is_namespace);
            }
        }
        let (root, steps) = (parent.root, parent.steps + 1);
        let shape = self.push(Shape {
            parent: from,
            root,
            label,
            kind,
            is_namespace,
            steps,
            labels: 0,
            sums: Sums::default(),
        });
        self.children.insert(key, shape);
        shape
    }

    fn push(&mut self, shape: Shape) -> ShapeId {
        self.list.push(shape);
        self.list.len() as ShapeId
    }

    pub fn get(&self, id: ShapeId) -> Option<&Shape> {
        self.list.get((id as usize).checked_sub(1)?)
    }

    pub fn get_mut(&mut self, id: ShapeId) -> Option<&mut Shape> {
        self.list.get_mut((id as usize).checked_sub(1)?)
    }

    /// All of them, parents before their children.
    pub fn iter(&self) -> impl Iterator<Item = (ShapeId, &Shape)> {
        (1..).zip(&self.list)
    }

    /// Labels of more are not worth reading.
    pub fn takes_labels(&self, id: ShapeId) -> bool {
        self.get(id).is_some_and(|shape| shape.labels < MOST_LABELS)
    }

    /// The steps from the root to here.
    pub fn path(&self, id: ShapeId) -> Vec<&Shape> {
        let mut path = Vec::new();
        let mut next = id;
        while let Some(shape) = self.get(next) {
            path.push(shape);
            next = shape.parent;
        }
        path.reverse();
        path
    }
}
