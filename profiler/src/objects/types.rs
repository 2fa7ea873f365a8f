//! The types of a process: which addresses are those of types, and what is to be known of each.
//!
//! Whether something is an object is decided here. A type is believed if it lies outside the pools (a heap type has some
//! 900 bytes, and pools have blocks of 512 at most), is ready, has a size that a type can have, and if the types of its
//! type lead to `type` itself.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::{regions::Regions, snapshot::Snapshot, target::Target};
use crate::python::{
    heap::{
        DICT_BYTES, LIST_BYTES, SET_BYTES, TYPE_BASE, TYPE_BASIC_SIZE, TYPE_DICT, TYPE_DICT_OFFSET, TYPE_FLAGS,
        TYPE_MRO, TYPE_WEAK_OFFSET,
    },
    memory::ReadMemory,
    object::{ObjectLayout, Objects},
};

/// A type by its number; 0 is none.
pub type TypeId = u16;

const FLAG_INLINE_VALUES: u64 = 1 << 2;
const FLAG_MANAGED_DICT: u64 = 1 << 4;
const FLAG_HEAP_TYPE: u64 = 1 << 9;
const FLAG_READY: u64 = 1 << 12;
const FLAG_GC: u64 = 1 << 14;
const FLAG_LONG: u64 = 1 << 24;
const FLAG_LIST: u64 = 1 << 25;
const FLAG_TUPLE: u64 = 1 << 26;
const FLAG_BYTES: u64 = 1 << 27;
const FLAG_UNICODE: u64 = 1 << 28;
const FLAG_DICT: u64 = 1 << 29;
const FLAG_TYPE: u64 = 1 << 31;

/// As much of a `PyTypeObject` as is read, and what in it has no other name.
const TYPE_BYTES: usize = 352;
const OB_TYPE: usize = 8;
const TP_NAME: usize = 24;
const TP_ITEMSIZE: usize = 40;

/// Bounds of what is believed.
const MOST_BYTES: u64 = 1 << 20;
const MOST_TYPES: usize = TypeId::MAX as usize - 1;
const MOST_BASES: usize = 64;
const MOST_NAME: usize = 128;
/// Addresses that were looked at and are none.
const MOST_OTHERS: usize = 1 << 20;
/// Reads of the process's memory for names.
const READS: u32 = 1 << 24;
/// Attributes that a class can have in slots or share among its instances.
const MOST_NAMES: u64 = 256;

/// How an object holds others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Holds none.
    Leaf,
    Int,
    Text,
    ByteArray,
    List,
    Tuple,
    Dict,
    Set,
    Deque,
    /// Of its own it has only a callback.
    Weak,
    Type,
    Code,
    /// A generator or coroutine, with its frame inside.
    Generator,
    /// In its own words.
    Other,
}

/// A type.
#[derive(Clone, Debug)]
pub struct Type {
    /// With its module, where that is not `builtins`.
    pub name: Box<str>,
    pub facts: Facts,
    mro: u64,
}

/// What has to be known to look into an instance.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub address: u64,
    pub kind: Kind,
    pub gc: bool,
    /// Two words stand before the GC head.
    pub pre_header: bool,
    pub basic: u64,
    pub item: u64,
    /// In which word an instance has its dict, and in which its weak references; 0 is none, negative is from its end.
    pub dict: i64,
    pub weak: i64,
    pub managed_dict: bool,
    pub inline_values: bool,
    /// From where on the words of an instance are its own, not those of the type that says its kind.
    pub own_words: u64,
    /// The names of attributes that instances share (`ht_cached_keys`); 0 is none.
    pub cached_keys: u64,
}

impl Facts {
    /// Bytes before an instance.
    pub fn headers(&self) -> u64 {
        16 * (u64::from(self.gc) + u64::from(self.pre_header))
    }
}

/// What instances of a class share: the names of their attributes.
#[derive(Clone, Debug, Default)]
pub struct SharedNames {
    /// Strings, by address.
    pub names: Vec<u64>,
    /// Values that an instance has room for.
    pub room: u64,
}

/// All that were met.
pub struct Types<'a> {
    target: &'a Target,
    memory: &'a dyn ReadMemory,
    regions: &'a Regions,
    objects: Objects<'a>,
    list: Vec<Type>,
    known: FxHashMap<u64, TypeId>,
    /// By the lower bits of their addresses: asked for some millions of times.
    recent: Vec<(u64, TypeId)>,
    slots: FxHashMap<TypeId, Rc<FxHashMap<u32, u64>>>,
}

/// The names that instances share, by the address of the keys they are in.
pub struct Names<'a> {
    memory: &'a dyn ReadMemory,
    layout: ObjectLayout,
    shared: FxHashMap<u64, Rc<SharedNames>>,
}

const RECENT: usize = 1 << 12;

impl<'a> Types<'a> {
    pub fn new(target: &'a Target, memory: &'a dyn ReadMemory, regions: &'a Regions) -> Self {
        Self {
            target,
            memory,
            regions,
            objects: Objects::new(memory, &target.process, target.objects, READS),
            list: Vec::new(),
            known: FxHashMap::default(),
            recent: vec![(0, 0); RECENT],
            slots: FxHashMap::default(),
        }
    }

    pub fn get(&self, id: TypeId) -> Option<&Type> {
        self.list.get(usize::from(id).checked_sub(1)?)
    }

    pub fn name(&self, id: TypeId) -> &str {
        self.get(id).map_or("?", |kind| &kind.name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        (1..).zip(&self.list)
    }

    /// The type at an address; 0 if there is none.
    pub fn at(&mut self, address: u64, snapshot: &Snapshot) -> TypeId {
        if !address.is_multiple_of(8) || address < 0x10000 || address >> 47 != 0 {
            return 0;
        }
        let place = (address >> 4) as usize % RECENT;
        if self.recent[place].0 == address {
            return self.recent[place].1;
        }
        let id = match self.known.get(&address) {
            Some(&id) => id,
            None if snapshot.holds(address) => return 0,
            None => self.look(address),
        };
        self.recent[place] = (address, id);
        id
    }

    fn look(&mut self, address: u64) -> TypeId {
        let id = match self.read(address) {
            Some(kind) if self.list.len() < MOST_TYPES => {
                self.list.push(kind);
                self.list.len() as TypeId
            }
            _ => 0,
        };
        if id != 0 || self.known.len() < MOST_OTHERS {
            self.known.insert(address, id);
        }
        id
    }

    fn read(&self, address: u64) -> Option<Type> {
        if !self.regions.holds(address, TYPE_BYTES as u64) {
            return None;
        }
        let mut bytes = [0; TYPE_BYTES];
        self.memory.read(address, &mut bytes).then_some(())?;
        let word = |at: usize| bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let flags = word(TYPE_FLAGS as usize);
        let basic = word(TYPE_BASIC_SIZE as usize);
        let item = word(TP_ITEMSIZE);
        if flags & FLAG_READY == 0
            || !(16..MOST_BYTES).contains(&basic)
            || item >= MOST_BYTES
            || !self.target.heap.references.are_sane(word(0))
            || !self.is_metatype(word(OB_TYPE))
        {
            return None;
        }
        let bases = self.bases(address, word(TYPE_BASE as usize));
        let types = &self.target.types;
        let is_a = |wanted: &[u64]| bases.iter().any(|base| *base != 0 && wanted.contains(base));
        let raw = self.c_text(word(TP_NAME))?;
        let (kind, own_words) = match () {
            () if flags & FLAG_TYPE != 0 => (Kind::Type, basic),
            () if flags & FLAG_UNICODE != 0 => (Kind::Text, self.basic_of_text()),
            () if flags & FLAG_LONG != 0 => (Kind::Int, basic),
            () if flags & FLAG_BYTES != 0 => (Kind::Leaf, basic),
            () if flags & FLAG_LIST != 0 => (Kind::List, LIST_BYTES),
            () if flags & FLAG_TUPLE != 0 => (Kind::Tuple, basic),
            () if flags & FLAG_DICT != 0 => (Kind::Dict, DICT_BYTES),
            () if is_a(&[types.set, types.frozen_set]) => (Kind::Set, SET_BYTES),
            () if is_a(&[types.byte_array]) && !self.target.heap.byte_arrays_hold_bytes => {
                (Kind::ByteArray, self.basic_of(types.byte_array))
            }
            () if is_a(&[types.float, types.complex]) => {
                let is_float = bases.contains(&types.float);
                (Kind::Leaf, if is_float { 24 } else { 32 })
            }
            () if is_a(&types.weak) => (Kind::Weak, self.basic_of(types.weak[0])),
            () if is_a(&[types.code]) => (Kind::Code, basic),
            () if is_a(&types.generators) => (Kind::Generator, 16),
            () => match self.deque(&bases, &raw) {
                Some(base) => (Kind::Deque, self.basic_of(base)),
                None => (Kind::Other, 16),
            },
        };
        let is_heap = flags & FLAG_HEAP_TYPE != 0;
        let cached_keys = match is_heap {
            true => address.wrapping_add(self.target.objects.cached_keys()),
            false => 0,
        };
        let facts = Facts {
            address,
            kind,
            gc: flags & FLAG_GC != 0,
            pre_header: flags & FLAG_GC != 0 && flags & self.target.heap.pre_header != 0,
            basic,
            item,
            dict: word(TYPE_DICT_OFFSET as usize).cast_signed(),
            weak: word(TYPE_WEAK_OFFSET as usize).cast_signed(),
            managed_dict: flags & FLAG_MANAGED_DICT != 0 && self.target.heap.pre_header != 0,
            inline_values: flags & FLAG_INLINE_VALUES != 0,
            own_words,
            cached_keys: match cached_keys {
                0 => 0,
                at => self.memory.read_u64(at).unwrap_or(0),
            },
        };
        Some(Type {
            name: self.full_name(&raw, is_heap, word(TYPE_DICT as usize)),
            facts,
            mro: word(TYPE_MRO as usize),
        })
    }

    /// Whether a type's type is one: `type`, or a class of classes.
    fn is_metatype(&self, mut address: u64) -> bool {
        for _ in 0..4 {
            if address == self.target.types.kind {
                return true;
            }
            if !address.is_multiple_of(8) || !self.regions.holds(address, TYPE_BYTES as u64) {
                return false;
            }
            let word = |at: usize| self.memory.read_u64(address.wrapping_add(at as u64));
            match word(TYPE_FLAGS as usize) {
                Some(flags) if flags & FLAG_TYPE != 0 && flags & FLAG_READY != 0 => {}
                _ => return false,
            }
            let Some(next) = word(OB_TYPE) else { return false };
            address = next;
        }
        false
    }

    /// A type and those it is derived from, one of each.
    fn bases(&self, address: u64, base: u64) -> Vec<u64> {
        let mut bases = vec![address];
        let mut next = base;
        while next != 0 && bases.len() < MOST_BASES && !bases.contains(&next) {
            bases.push(next);
            next = self.memory.read_u64(next.wrapping_add(TYPE_BASE)).unwrap_or(0);
        }
        bases
    }

    /// `collections.deque`, which no file exports.
    fn deque(&self, bases: &[u64], raw: &str) -> Option<u64> {
        const NAME: &str = "collections.deque";
        if raw == NAME {
            return bases.first().copied();
        }
        bases.iter().skip(1).copied().find(|base| {
            let name = self.memory.read_u64(base.wrapping_add(TP_NAME as u64));
            name.and_then(|name| self.c_text(name)).is_some_and(|name| name == NAME)
        })
    }

    fn basic_of(&self, kind: u64) -> u64 {
        let size = self.memory.read_u64(kind.wrapping_add(TYPE_BASIC_SIZE));
        size.filter(|size| (16..4096).contains(size)).unwrap_or(16)
    }

    /// `sizeof(PyUnicodeObject)`: the compact header and a pointer.
    fn basic_of_text(&self) -> u64 {
        u64::from(self.target.process.unicode_compact_data) + 8
    }

    fn full_name(&self, raw: &str, is_heap: bool, namespace: u64) -> Box<str> {
        // Of types written in C, the name has the module in it.
        if !is_heap || raw.contains('.') {
            return raw.into();
        }
        let module = self.objects.get(namespace, "__module__");
        match module.and_then(|module| self.objects.text(module, MOST_NAME as u64)) {
            Some(module) if &*module != "builtins" => format!("{module}.{raw}").into(),
            _ => raw.into(),
        }
    }

    /// Text that ends in a zero.
    fn c_text(&self, address: u64) -> Option<String> {
        let region = self.regions.find(address)?;
        let most = (region.range.end - address).min(MOST_NAME as u64);
        let bytes = self.memory.read_vec(address, most as usize)?;
        let end = bytes.iter().position(|&byte| byte == 0)?;
        let text = str::from_utf8(&bytes[..end]).ok()?;
        (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
    }

    /// A string of the process.
    pub fn text(&self, address: u64, most: u64) -> Option<Box<str>> {
        self.objects.text(address, most)
    }

    pub fn objects(&self) -> &Objects<'a> {
        &self.objects
    }

    /// The names of slots by where in an instance they are, as strings by address: members of the type and its bases.
    pub fn slots(&mut self, id: TypeId) -> Rc<FxHashMap<u32, u64>> {
        if let Some(slots) = self.slots.get(&id) {
            return Rc::clone(slots);
        }
        let slots = Rc::new(self.get(id).map(|kind| self.read_slots(kind)).unwrap_or_default());
        self.slots.insert(id, Rc::clone(&slots));
        slots
    }

    fn read_slots(&self, kind: &Type) -> FxHashMap<u32, u64> {
        /// `PyMemberDescrObject.d_member`, and in `PyMemberDef` the offset.
        const MEMBER: u64 = 40;
        const OFFSET: u64 = 16;
        let mut slots = FxHashMap::default();
        let size = self.memory.read_u64(kind.mro.wrapping_add(16)).unwrap_or(0);
        let items = kind.mro.wrapping_add(self.target.heap.tuple_items);
        for number in 0..size.min(MOST_BASES as u64) {
            let base = self.memory.read_u64(items.wrapping_add(8 * number)).unwrap_or(0);
            let dict = self.memory.read_u64(base.wrapping_add(TYPE_DICT)).unwrap_or(0);
            // Static types of the interpreter's own have no dict there from 3.12 on.
            if dict < 0x10000 {
                continue;
            }
            for entry in self.objects.entries(dict).unwrap_or_default() {
                let is_member = self.objects.word(entry.value, 8) == Some(self.target.types.member);
                if !is_member {
                    continue;
                }
                let member = self.objects.word(entry.value, MEMBER);
                if let Some(offset) = member.and_then(|member| self.objects.word(member, OFFSET))
                    && let Ok(offset) = u32::try_from(offset)
                {
                    slots.entry(offset).or_insert(entry.key);
                }
            }
        }
        slots
    }
}

impl<'a> Names<'a> {
    pub fn new(target: &Target, memory: &'a dyn ReadMemory) -> Self {
        Self {
            memory,
            layout: target.objects,
            shared: FxHashMap::default(),
        }
    }

    pub fn get(&mut self, keys: u64) -> Rc<SharedNames> {
        if let Some(names) = self.shared.get(&keys) {
            return Rc::clone(names);
        }
        let names = Rc::new(self.read_names(keys).unwrap_or_default());
        // Keys that a hostile target has made up are not kept for ever.
        if self.shared.len() > MOST_OTHERS {
            self.shared.clear();
        }
        self.shared.insert(keys, Rc::clone(&names));
        names
    }

    fn read_names(&self, keys: u64) -> Option<SharedNames> {
        let mut header = [0; 40];
        self.memory.read(keys, &mut header).then_some(())?;
        let table = self.layout.key_table(&header)?;
        let used = table.used.min(MOST_NAMES);
        let bytes = self
            .memory
            .read_vec(keys.checked_add(table.entries)?, (used * table.stride) as usize)?;
        let key = |entry: &[u8]| {
            let at = entry.len() - 16;
            entry[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
        };
        Some(SharedNames {
            names: bytes.chunks_exact(table.stride as usize).map(key).collect(),
            room: table.shared.min(MOST_NAMES),
        })
    }
}
