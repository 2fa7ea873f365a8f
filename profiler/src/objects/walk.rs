//! From the roots to every object: who holds it, and what it takes.
//!
//! Breadth first, so that each object hangs on one of the shortest ways to it: first from modules, then from functions
//! that run, then from variables of C code. What no way leads to is looked at as well, from where nothing refers to it.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::{
    census::Bound,
    heap::Heap,
    look::{Label, Look, Sizes},
    regions::Regions,
    shapes::{Root, ShapeId, Shapes},
    snapshot::{Node, Snapshot, u64_at},
    target::Target,
    types::{Facts, Kind, Names, TypeId, Types},
};

/// Objects that are not in pools, as many as are kept.
const MOST_OUTSIDE: usize = 1 << 24;
/// How often to look at the clock, in objects.
const CLOCK_EVERY: u64 = 1 << 12;
/// Characters of an attribute's name.
const MOST_NAME: u64 = 64;
/// Words of an interpreter's state that are looked at.
const INTERPRETER_BYTES: u64 = 512 << 10;

/// An object that is not in a pool.
#[derive(Clone, Copy, Debug)]
struct Outside {
    address: u64,
    kind: TypeId,
    shape: ShapeId,
    parent: Node,
    /// It is in a file's data, and was there from the beginning.
    is_static: bool,
}

/// All objects of a process, and how each is reached.
pub struct Walk<'h, 'a> {
    pub target: &'h Target,
    pub heap: &'h Heap<'a>,
    pub regions: &'h Regions,
    pub types: Types<'a>,
    pub shapes: Shapes,
    look: Look<'h, 'a>,
    /// By node: its type, how it is reached, and from whom. 0 is none.
    kinds: Vec<TypeId>,
    reached: Vec<ShapeId>,
    parents: Vec<Node>,
    outside: Vec<Outside>,
    /// By address; those that turned out to be none as well.
    outside_at: FxHashMap<u64, u32>,
    queue: VecDeque<Node>,
    /// Names of attributes, by the address of the string.
    labels: FxHashMap<u64, u32>,
    bound: Bound,
    pub tally: Tally,
}

/// What there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// In pools.
    pub objects: u64,
    /// Blocks in pools that are no objects: buffers, and what C code keeps there.
    pub other_blocks: u64,
    pub other_bytes: u64,
    pub outside: u64,
    /// The time was up before all had been looked at.
    pub is_cut: bool,
    /// Not looked at for that.
    pub left_out: u64,
}

const NO_NODE: Node = Node::MAX;

impl<'h, 'a> Walk<'h, 'a> {
    pub fn new(
        target: &'h Target,
        heap: &'h Heap<'a>,
        regions: &'h Regions,
        types: Types<'a>,
        names: Names<'a>,
        bound: Bound,
    ) -> Self {
        let nodes = heap.snapshot.nodes();
        Self {
            target,
            heap,
            regions,
            types,
            shapes: Shapes::default(),
            look: Look { target, heap, names },
            kinds: vec![0; nodes],
            reached: vec![0; nodes],
            parents: vec![0; nodes],
            outside: Vec::new(),
            outside_at: FxHashMap::default(),
            queue: VecDeque::new(),
            labels: FxHashMap::default(),
            bound,
            tally: Tally::default(),
        }
    }

    /// Tells the objects among the blocks of the pools.
    pub fn tell(&mut self) {
        let snapshot = &self.heap.snapshot;
        let header = self.target.block_header as usize;
        for (pool_address, pool, blocks) in snapshot.live() {
            let size = blocks.bytes as usize;
            for offset in blocks.offsets() {
                let block = pool
                    .get(offset + header..(offset + size).min(pool.len()))
                    .unwrap_or_default();
                match told(&mut self.types, snapshot, self.target, block) {
                    Some((within, kind)) => {
                        let address = pool_address + (offset + header + within) as u64;
                        if let Some(node) = snapshot.node(address) {
                            self.kinds[node as usize] = kind;
                            self.tally.objects += 1;
                        }
                    }
                    None => {
                        self.tally.other_blocks += 1;
                        self.tally.other_bytes += size as u64;
                    }
                }
            }
        }
    }

    /// Follows what modules hold, by name.
    pub fn modules(&mut self, modules: &[(Box<str>, u64)]) {
        for (name, module) in modules {
            let root = self.shapes.root(Root::Module, name);
            let Some(node) = self.node(*module) else { continue };
            let kind = self.kind(node);
            let shape = self.shapes.step(root, 0, kind, false);
            if !self.reach(node, shape, NO_NODE) {
                continue;
            }
            // Its attributes hang on the root itself.
            if let Some(dict) = self.namespace_of(node).and_then(|dict| self.node(dict)) {
                let kind = self.kind(dict);
                let namespace = self.shapes.step(root, 0, kind, true);
                self.reach(dict, namespace, node);
            }
        }
        self.drain();
    }

    /// Follows what the functions that run have in variables: by function, name and object.
    pub fn frames(&mut self, frames: &[(Box<str>, Box<str>, u64)]) {
        for (function, name, object) in frames {
            let Some(node) = self.node(*object) else { continue };
            let root = self.shapes.root(Root::Frame, function);
            let label = self.shapes.texts.number(name);
            let kind = self.kind(node);
            let shape = self.shapes.step(root, label, kind, false);
            self.reach(node, shape, NO_NODE);
        }
        self.drain();
    }

    /// Follows what the data of files and the interpreters' states refer to.
    pub fn data(&mut self, interpreters: &[u64]) {
        for &interpreter in interpreters {
            let end = self.regions.find(interpreter).map_or(0, |region| region.range.end);
            let bytes = end.saturating_sub(interpreter).min(INTERPRETER_BYTES);
            let shape = self.shapes.root(Root::Data, "the interpreter");
            self.words(interpreter, bytes / 8, shape);
        }
        let regions = self.regions;
        for region in regions.data() {
            let path = region.path.as_deref().unwrap_or("?");
            let name = path.rsplit('/').next().unwrap_or(path);
            let shape = self.shapes.root(Root::Data, name);
            self.words(region.range.start, (region.range.end - region.range.start) / 8, shape);
        }
        self.drain();
    }

    fn words(&mut self, address: u64, count: u64, shape: ShapeId) {
        let heap = self.heap;
        let mut found = Vec::new();
        heap.words(address, count, |at, word| {
            // Only what lies in a pool: an image's own objects are not held by it. Pools may follow its data.
            if word >= 0x10000 && heap.snapshot.node(word).is_some() && !heap.snapshot.holds(address + 8 * at) {
                found.push(word);
            }
        });
        for word in found {
            if let Some(node) = self.node(word) {
                let kind = self.kind(node);
                let step = self.shapes.step(shape, 0, kind, false);
                self.reach(node, step, NO_NODE);
            }
        }
    }

    /// Follows all that is left: first what nothing left refers to.
    pub fn rest(&mut self) {
        let root = self.shapes.root(Root::Unseen, "");
        let mut held = vec![0_u64; self.heap.snapshot.nodes().div_ceil(64)];
        for node in 0..self.kinds.len() as Node {
            if self.is_left(node) {
                let address = self.address(node);
                let Some(facts) = self.facts(node) else { continue };
                let snapshot = &self.heap.snapshot;
                self.look.at(address, &facts, |target, _| {
                    if let Some(other) = snapshot.node(target).filter(|&other| other != node) {
                        held[other as usize / 64] |= 1 << (other % 64);
                    }
                });
                if self.is_late(u64::from(node)) {
                    break;
                }
            }
        }
        for only_free in [true, false] {
            for node in 0..self.kinds.len() as Node {
                let is_held = held[node as usize / 64] & 1 << (node % 64) != 0;
                if self.is_left(node) && !(only_free && is_held) {
                    let kind = self.kind(node);
                    let shape = self.shapes.step(root, 0, kind, false);
                    self.reach(node, shape, NO_NODE);
                }
            }
            self.drain();
        }
    }

    fn is_left(&self, node: Node) -> bool {
        self.kinds[node as usize] != 0 && self.reached[node as usize] == 0
    }

    fn is_late(&mut self, number: u64) -> bool {
        if number.is_multiple_of(CLOCK_EVERY) && self.bound.is_over() {
            self.tally.is_cut = true;
        }
        self.tally.is_cut
    }

    /// Looks at everything that is waiting to be.
    fn drain(&mut self) {
        let mut done = 0;
        while let Some(node) = self.queue.pop_front() {
            done += 1;
            if self.is_late(done) {
                self.tally.left_out += 1 + self.queue.len() as u64;
                self.queue.clear();
                return;
            }
            self.visit(node);
        }
    }

    fn visit(&mut self, node: Node) {
        let (address, shape) = (self.address(node), self.shape(node));
        let Some(facts) = self.facts(node) else { return };
        let is_namespace = self.shapes.get(shape).is_some_and(|shape| shape.is_namespace);
        // What is in a namespace hangs on its owner.
        let from = match (is_namespace, self.shapes.get(shape)) {
            (true, Some(namespace)) => namespace.parent,
            _ => shape,
        };
        let Self {
            look,
            heap,
            target,
            regions,
            types,
            shapes,
            kinds,
            reached,
            parents,
            outside,
            outside_at,
            queue,
            labels,
            tally,
            ..
        } = self;
        let mut finder = Finder {
            heap,
            target,
            regions,
            types,
            kinds,
            outside,
            outside_at,
            tally,
        };
        let nodes = kinds_len(finder.kinds);
        let sizes = look.at(address, &facts, |object, label| {
            let Some(other) = finder.find(object) else { return };
            let is_reached = match (other as usize).checked_sub(nodes) {
                None => reached[other as usize] != 0,
                Some(at) => finder.outside.get(at).is_none_or(|object| object.shape != 0),
            };
            if is_reached {
                return;
            }
            let kind = finder.kind(other);
            let mut name = |string: u64| match shapes.takes_labels(from) {
                false => 0,
                true => *labels.entry(string).or_insert_with(|| {
                    let text = finder.types.text(string, MOST_NAME);
                    text.map_or(0, |text| shapes.texts.number(&text))
                }),
            };
            let (from, label, namespace) = match label {
                Label::Namespace => (from, 0, true),
                Label::Attribute(string) => (from, name(string), false),
                Label::Key(string) if is_namespace => (from, name(string), false),
                Label::Word(at) => {
                    let string = finder.types.slots(finder.kind(node)).get(&at).copied();
                    let label = match string {
                        Some(string) => *labels.entry(string).or_insert_with(|| {
                            let text = finder.types.text(string, MOST_NAME);
                            text.map_or(0, |text| shapes.texts.number(&text))
                        }),
                        None => 0,
                    };
                    (from, label, false)
                }
                _ => (from, 0, false),
            };
            let step = shapes.step(from, label, kind, namespace);
            match (other as usize).checked_sub(nodes) {
                None => {
                    reached[other as usize] = step;
                    parents[other as usize] = node;
                }
                Some(at) => {
                    finder.outside[at].shape = step;
                    finder.outside[at].parent = node;
                }
            }
            queue.push_back(other);
        });
        let is_counted = match (node as usize).checked_sub(nodes) {
            Some(at) => self.outside.get(at).is_some_and(|object| !object.is_static),
            None => true,
        };
        if is_counted && let Some(shape) = self.shapes.get_mut(shape) {
            shape.sums.add_object(sizes);
        }
    }

    fn reach(&mut self, node: Node, shape: ShapeId, parent: Node) -> bool {
        if self.shape(node) != 0 {
            return false;
        }
        match (node as usize).checked_sub(self.kinds.len()) {
            None => {
                self.reached[node as usize] = shape;
                self.parents[node as usize] = parent;
            }
            Some(at) => {
                if let Some(object) = self.outside.get_mut(at) {
                    object.shape = shape;
                    object.parent = parent;
                }
            }
        }
        self.queue.push_back(node);
        true
    }

    /// The object at an address.
    pub fn node(&mut self, address: u64) -> Option<Node> {
        let Self {
            heap,
            target,
            regions,
            types,
            kinds,
            outside,
            outside_at,
            tally,
            ..
        } = self;
        let mut finder = Finder {
            heap,
            target,
            regions,
            types,
            kinds,
            outside,
            outside_at,
            tally,
        };
        finder.find(address)
    }

    fn outside(&self, node: Node) -> Option<&Outside> {
        self.outside.get((node as usize).checked_sub(self.kinds.len())?)
    }

    pub fn kind(&self, node: Node) -> TypeId {
        match self.kinds.get(node as usize) {
            Some(&kind) => kind,
            None => self.outside(node).map_or(0, |object| object.kind),
        }
    }

    pub fn shape(&self, node: Node) -> ShapeId {
        match self.reached.get(node as usize) {
            Some(&shape) => shape,
            None => self.outside(node).map_or(0, |object| object.shape),
        }
    }

    /// From whom it was reached, unless from a root.
    pub fn parent(&self, node: Node) -> Option<Node> {
        let parent = match self.parents.get(node as usize) {
            Some(&parent) => parent,
            None => self.outside(node)?.parent,
        };
        (parent != NO_NODE).then_some(parent)
    }

    pub fn address(&self, node: Node) -> u64 {
        match self.outside(node) {
            Some(object) => object.address,
            None => self.heap.snapshot.address(node),
        }
    }

    fn facts(&self, node: Node) -> Option<Facts> {
        self.types.get(self.kind(node)).map(|kind| kind.facts)
    }

    /// The dict that has an object's attributes, or a type's.
    fn namespace_of(&mut self, node: Node) -> Option<u64> {
        let mut found = None;
        self.edges(node, |object, label| {
            if label == Label::Namespace {
                found = found.or(Some(object));
            }
        });
        found
    }

    /// What an object refers to, and its sizes.
    pub fn edges(&mut self, node: Node, edge: impl FnMut(u64, Label)) -> Sizes {
        let address = self.address(node);
        match self.facts(node) {
            Some(facts) => self.look.at(address, &facts, edge),
            None => Sizes::default(),
        }
    }

    /// All objects that were reached, static ones aside.
    pub fn all(&self) -> impl Iterator<Item = Node> {
        let inside = (0..self.kinds.len() as Node).filter(|&node| self.kinds[node as usize] != 0);
        let first = self.kinds.len() as Node;
        let outside = (first..).zip(&self.outside);
        inside.chain(outside.filter(|(_, object)| !object.is_static).map(|(node, _)| node))
    }
}

fn kinds_len(kinds: &[TypeId]) -> usize {
    kinds.len()
}

/// What it takes to say which object is at an address.
struct Finder<'f, 'h, 'a> {
    heap: &'f &'h Heap<'a>,
    target: &'f &'h Target,
    regions: &'f &'h Regions,
    types: &'f mut Types<'a>,
    kinds: &'f [TypeId],
    outside: &'f mut Vec<Outside>,
    outside_at: &'f mut FxHashMap<u64, u32>,
    tally: &'f mut Tally,
}

impl Finder<'_, '_, '_> {
    fn kind(&self, node: Node) -> TypeId {
        match self.kinds.get(node as usize) {
            Some(&kind) => kind,
            None => {
                let at = node as usize - self.kinds.len();
                self.outside.get(at).map_or(0, |object| object.kind)
            }
        }
    }

    fn find(&mut self, address: u64) -> Option<Node> {
        let snapshot = &self.heap.snapshot;
        if let Some(node) = snapshot.node(address) {
            return (self.kinds[node as usize] != 0).then_some(node);
        }
        if !address.is_multiple_of(8) || address < 0x10000 || address >> 47 != 0 || snapshot.holds(address) {
            return None;
        }
        let number = match self.outside_at.get(&address) {
            Some(&number) => number,
            None => {
                let number = self.look(address).unwrap_or(0);
                if number != 0 || self.outside_at.len() < MOST_OUTSIDE {
                    self.outside_at.insert(address, number);
                }
                number
            }
        };
        let at = number.checked_sub(1)?;
        Some(self.kinds.len() as Node + at)
    }

    /// The number of an object that is not in a pool, and 1.
    fn look(&mut self, address: u64) -> Option<u32> {
        let region = self.regions.find(address).filter(|region| region.writable)?;
        let mut words = [0; 16];
        if region.range.end - address < 16 || !self.heap.read(address, &mut words) {
            return None;
        }
        let (references, kind) = (u64_at(&words, 0)?, u64_at(&words, 8)?);
        if !self.target.heap.references.are_sane(references) {
            return None;
        }
        let kind = self.types.at(kind, &self.heap.snapshot);
        let facts = self.types.get(kind)?.facts;
        // Not more than is there.
        if region.range.end - address < facts.basic || self.outside.len() >= MOST_OUTSIDE {
            return None;
        }
        let is_static = region.file.is_some();
        self.tally.outside += u64::from(!is_static);
        self.outside.push(Outside {
            address,
            kind,
            shape: 0,
            parent: NO_NODE,
            is_static,
        });
        Some(self.outside.len() as u32)
    }
}

/// Where in a block an object begins, and its type.
fn told(types: &mut Types<'_>, snapshot: &Snapshot, target: &Target, block: &[u8]) -> Option<(usize, TypeId)> {
    let word = |number: usize| u64_at(block, 8 * number);
    let references = target.heap.references;
    // What stands before an object says whether it is tracked by the collector: a pointer, or 0. The word behind it holds
    // counts while a collection runs.
    let is_head = |word: u64| word >> 47 == 0 && (word == 0 || word >= 0x10000);
    // GC head, then the object.
    if let (Some(head), Some(count), Some(kind)) = (word(0), word(2), word(3))
        && references.are_sane(count)
        && is_head(head)
        && let id @ 1.. = types.at(kind, snapshot)
        && let Some(kind) = types.get(id)
        && kind.facts.gc
        && !kind.facts.pre_header
    {
        return Some((16, id));
    }
    // The same with two words more before it.
    if target.heap.pre_header != 0
        && let (Some(head), Some(count), Some(kind)) = (word(2), word(4), word(5))
        && references.are_sane(count)
        && is_head(head)
        && let id @ 1.. = types.at(kind, snapshot)
        && let Some(kind) = types.get(id)
        && kind.facts.pre_header
    {
        return Some((32, id));
    }
    if let (Some(count), Some(kind)) = (word(0), word(1))
        && references.are_sane(count)
        && let id @ 1.. = types.at(kind, snapshot)
        && let Some(kind) = types.get(id)
        && !kind.facts.gc
        && kind.facts.kind != Kind::Type
    {
        return Some((0, id));
    }
    None
}
