//! What one object refers to, and what it takes.
//!
//! Lists, tuples, dicts, sets and deques are read as what they are; so are the attributes of instances, wherever their
//! series keeps them. Of any other type, the words of an instance are looked at that its type says it has (behind them lies
//! what was there before). Weak references are not followed: they hold nothing.

use super::{
    heap::Heap,
    snapshot::u64_at,
    target::Target,
    types::{Facts, Kind, Names},
};
use crate::python::{
    heap::{
        BYTE_ARRAY_ALLOCATED, DEQUE_BLOCK_BYTES, DEQUE_LEFT_BLOCK, DEQUE_LEFT_INDEX, DICT_KEYS, DICT_VALUES,
        LIST_ALLOCATED, LIST_ITEMS, SET_MASK, SET_TABLE, SIZE, TYPE_BASE, TYPE_DICT, TYPE_FLAGS, TYPE_MRO,
        WEAK_CALLBACK,
    },
    object::Attributes,
};

/// How an object refers to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// In a word of its own, so far in.
    Word(u32),
    /// As the item of this number.
    Item(u64),
    /// Under a key, which is an object, of a dict.
    Key(u64),
    /// As a key of a dict.
    IsKey,
    /// As an attribute, whose name is an object.
    Attribute(u64),
    /// As the dict that has its attributes.
    Namespace,
}

/// Bytes of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Itself, with what stands before it.
    pub own: u64,
    /// With the buffers that nobody else has: items of a list, keys of a dict.
    pub whole: u64,
}

/// In a block of a deque, between two links.
const DEQUE_ITEMS: u64 = 64;
/// `PyTypeObject` ends here at the latest where the type is static; what follows is a heap type's.
const STATIC_TYPE: u64 = 408;
/// Larger than any object is: what says so is torn.
const MOST_ITEMS: u64 = 1 << 32;
const HEADER: usize = 64;
/// How often the items of a list are read that moves meanwhile; longer ones are taken as they are.
const LIST_READS: usize = 4;
const MOST_TWICE: u64 = 1 << 22;

pub struct Look<'h, 'a> {
    pub target: &'h Target,
    pub heap: &'h Heap<'a>,
    pub names: Names<'a>,
}

/// A number of items or bytes; of what says that it has more than can be, none is taken for true.
fn believed(number: u64) -> u64 {
    if number < MOST_ITEMS { number } else { 0 }
}

impl Look<'_, '_> {
    /// Calls back with all that an object refers to.
    pub fn at(&mut self, address: u64, facts: &Facts, mut edge: impl FnMut(u64, Label)) -> Sizes {
        let mut bytes = [0; HEADER];
        let room = self.heap.room(address);
        let wanted = facts.basic.min(room.unwrap_or(u64::MAX)).min(HEADER as u64) as usize;
        if !self.heap.read(address, &mut bytes[..wanted]) {
            return Sizes::default();
        }
        let head = |at: u64| u64_at(&bytes, at as usize).unwrap_or(0);
        // Not a size in all types: those are not asked.
        let size = head(SIZE);
        let items = match facts.kind {
            Kind::Int if self.target.binary.version.minor >= 12 => (size >> 3).max(1),
            _ => size.cast_signed().unsigned_abs(),
        };
        let items = believed(items);
        let mut own = match facts.kind {
            Kind::Generator => room.unwrap_or(facts.basic),
            Kind::Text => 0,
            _ if facts.item > 0 => facts.basic + items * facts.item,
            _ => facts.basic,
        };
        let mut buffers = 0;
        let mut object = |target: u64, label| {
            if target >= 0x10000 {
                edge(target, label);
            }
        };

        match facts.kind {
            Kind::Leaf | Kind::Int => {}
            Kind::Text => {
                let (text, buffer) = self.text(&bytes, size, facts);
                own = text;
                buffers += buffer;
            }
            Kind::ByteArray => buffers += believed(head(BYTE_ARRAY_ALLOCATED)),
            Kind::List => {
                // -1 while it is sorted; it has no items then (Objects/listobject.c, `list_sort_impl`, 3.8 – 3.15).
                let copied = [items, head(LIST_ITEMS), head(LIST_ALLOCATED)];
                buffers += 8 * self.list(address, copied, &mut object);
            }
            Kind::Tuple => {
                let start = self.target.heap.tuple_items;
                let items = match room {
                    Some(room) => items.min(room.saturating_sub(start) / 8),
                    None => items,
                };
                self.heap.words(address.wrapping_add(start), items, |at, word| {
                    object(word, Label::Item(at))
                });
            }
            Kind::Dict => {
                let [keys, values] = self.of_now(address, DICT_KEYS, [head(DICT_KEYS), head(DICT_VALUES)], 0);
                buffers += self.dict(keys, values, &mut object);
            }
            Kind::Set => {
                let [mask, table] = self.of_now(address, SET_MASK, [head(SET_MASK), head(SET_TABLE)], 1);
                let slots = mask.saturating_add(1);
                if slots.is_power_of_two() && slots < MOST_ITEMS {
                    // The first eight are in the set itself.
                    if !self.is_inside(address, facts.basic, table) {
                        buffers += 16 * slots;
                    }
                    self.heap.records(table, 16, slots, |at, entry| {
                        let (key, hash) = (u64_at(entry, 0).unwrap_or(0), u64_at(entry, 8).unwrap_or(0));
                        // -1: was taken out.
                        if hash != u64::MAX {
                            object(key, Label::Item(at));
                        }
                    });
                }
            }
            Kind::Deque => buffers += self.deque(head(DEQUE_LEFT_BLOCK), head(DEQUE_LEFT_INDEX), items, &mut object),
            Kind::Weak => object(head(WEAK_CALLBACK), Label::Word(WEAK_CALLBACK as u32)),
            Kind::Type => {
                own = facts.basic;
                self.of_type(address, facts, &mut object);
            }
            Kind::Code | Kind::Generator | Kind::Other => {}
        }
        let (values, instance) = self.attributes(address, facts, items, &mut object);
        own += values;
        buffers += instance;
        if !matches!(facts.kind, Kind::Type) {
            self.own_words(address, facts, room, items, &mut object);
        }
        // Whatever it says of itself, it is no larger than its block.
        let own = match room {
            Some(room) => own.min(room),
            None => own,
        };
        let own = own + facts.headers();
        Sizes {
            own,
            whole: own + buffers,
        }
    }

    /// Words that stand together in an object, as they are now if the buffer that one of them leads to is not in a pool: it can
    /// have moved since the pools were copied, and what was there can be anything by now.
    fn of_now<const N: usize>(&self, address: u64, offset: u64, copied: [u64; N], buffer: usize) -> [u64; N] {
        if copied[buffer] == 0 || self.heap.room(copied[buffer]).is_some() {
            return copied;
        }
        self.heap.now(address.wrapping_add(offset)).unwrap_or(copied)
    }

    /// Calls back with the items of a list whose size, items and room are these; returns the room. One that grows meanwhile is
    /// read again.
    fn list(&self, address: u64, copied: [u64; 3], object: &mut impl FnMut(u64, Label)) -> u64 {
        let mut found = Vec::new();
        let mut room = 0;
        for _ in 0..LIST_READS {
            let [size, start, allocated] = self.of_now(address, SIZE, copied, 1);
            room = believed(allocated);
            let items = believed(size).min(room);
            if start == copied[1] && self.heap.room(start).is_some() || items > MOST_TWICE {
                self.heap.words(start, items, |at, word| object(word, Label::Item(at)));
                return room;
            }
            found.clear();
            let read = self.heap.words(start, items, |_, word| found.push(word));
            if read == items && self.of_now(address, SIZE, copied, 1)[1] == start {
                break;
            }
        }
        for (at, word) in (0..).zip(found) {
            object(word, Label::Item(at));
        }
        room
    }

    fn is_inside(&self, address: u64, bytes: u64, at: u64) -> bool {
        at.checked_sub(address).is_some_and(|within| within < bytes)
    }

    /// Bytes of a string itself, and of what it has beside it.
    fn text(&self, bytes: &[u8; HEADER], length: u64, facts: &Facts) -> (u64, u64) {
        let process = &self.target.process;
        let state = u64_at(bytes, process.unicode_state.into()).unwrap_or(0);
        let (kind, compact, ascii) = ((state >> 2) & 7, state & 0x20 != 0, state & 0x40 != 0);
        let data = believed(length).saturating_add(1) * kind.clamp(1, 4);
        let (ascii_data, compact_data) = (process.unicode_ascii_data, process.unicode_compact_data);
        if ascii && compact {
            return (u64::from(ascii_data) + data, 0);
        }
        // `utf8_length` and `utf8` follow what an ASCII string has.
        let utf8 = |at: u16| u64_at(bytes, usize::from(ascii_data + at)).unwrap_or(0);
        let encoded = if ascii || utf8(8) == 0 {
            0
        } else {
            believed(utf8(0)) + 1
        };
        match compact {
            true => (u64::from(compact_data) + data, encoded),
            false => (facts.basic, data + encoded),
        }
    }

    /// Returns the bytes of keys and values that are the dict's own.
    fn dict(&mut self, keys: u64, values: u64, object: &mut impl FnMut(u64, Label)) -> u64 {
        if keys == 0 {
            return 0;
        }
        if values != 0 {
            let names = self.names.get(keys);
            let values = values.wrapping_add(self.target.objects.values());
            self.heap.words(values, names.names.len() as u64, |at, word| {
                object(word, Label::Key(names.names[at as usize]));
            });
            return 8 * names.room;
        }
        let mut header = [0; 40];
        // Keys of no entries are shorter.
        if !self.heap.read(keys, &mut header) && !self.heap.read(keys, &mut header[..32]) {
            return 0;
        }
        let Some(table) = self.target.objects.key_table(&header) else {
            return 0;
        };
        let stride = table.stride as usize;
        self.heap
            .records(keys.wrapping_add(table.entries), stride, table.used, |_, entry| {
                let key = u64_at(entry, stride - 16).unwrap_or(0);
                let value = u64_at(entry, stride - 8).unwrap_or(0);
                if value != 0 {
                    object(value, Label::Key(key));
                    object(key, Label::IsKey);
                }
            });
        if table.references == 1 { table.bytes } else { 0 }
    }

    fn deque(&self, first: u64, left: u64, length: u64, object: &mut impl FnMut(u64, Label)) -> u64 {
        let left = left.min(DEQUE_ITEMS);
        let blocks = left.saturating_add(length).div_ceil(DEQUE_ITEMS).max(1);
        let (mut block, mut skip, mut done) = (first, left, 0);
        while done < length && block != 0 {
            let now = (length - done).min(DEQUE_ITEMS - skip);
            let from = block.wrapping_add(8 + 8 * skip);
            let read = self
                .heap
                .words(from, now, |at, word| object(word, Label::Item(done + at)));
            if read < now {
                break;
            }
            done += now;
            skip = 0;
            block = self.heap.word(block.wrapping_add(DEQUE_BLOCK_BYTES - 8)).unwrap_or(0);
        }
        blocks * DEQUE_BLOCK_BYTES
    }

    fn of_type(&self, address: u64, facts: &Facts, object: &mut impl FnMut(u64, Label)) {
        const HEAP_TYPE: u64 = 1 << 9;
        const TYPE_BASES: u64 = 336;
        let word = |at: u64| self.heap.word(address.wrapping_add(at)).unwrap_or(0);
        object(word(TYPE_DICT), Label::Namespace);
        // tp_base, tp_bases, tp_mro; tp_cache, tp_subclasses and tp_weaklist hold nothing.
        for at in [TYPE_BASE, TYPE_BASES, TYPE_MRO] {
            object(word(at), Label::Word(at as u32));
        }
        if word(TYPE_FLAGS) & HEAP_TYPE != 0 {
            let words = facts.basic.saturating_sub(STATIC_TYPE) / 8;
            self.heap.words(address.wrapping_add(STATIC_TYPE), words, |at, word| {
                object(word, Label::Word((STATIC_TYPE + 8 * at) as u32));
            });
        }
    }

    /// What an instance has in a dict, or in values of its own. Returns bytes of values in the instance and beside it.
    fn attributes(
        &mut self,
        address: u64,
        facts: &Facts,
        items: u64,
        object: &mut impl FnMut(u64, Label),
    ) -> (u64, u64) {
        if !facts.managed_dict {
            let offset = match facts.dict {
                0 => return (0, 0),
                at @ 1.. => at.unsigned_abs(),
                // From the end of the items, up to 3.11.
                at => {
                    let end = (facts.basic + items * facts.item).next_multiple_of(8);
                    end.saturating_sub(at.unsigned_abs())
                }
            };
            if facts.kind != Kind::Type
                && let Some(dict) = self.heap.word(address.wrapping_add(offset))
            {
                object(dict, Label::Namespace);
            }
            return (0, 0);
        }
        let before = |bytes: u64| self.heap.word(address.wrapping_sub(bytes)).unwrap_or(0);
        let (dict, values, inline) = match self.target.objects.attributes() {
            Attributes::Apart => (before(24), before(32), false),
            Attributes::Tagged => match before(24) {
                values if values & 1 != 0 => (0, values.wrapping_add(1), false),
                dict => (dict, 0, false),
            },
            Attributes::Inline => {
                const VALID: u64 = 3;
                let dict = before(24);
                let values = address.wrapping_add(facts.basic);
                let word = self.heap.word(values).unwrap_or(0);
                let valid = facts.inline_values && word >> (8 * VALID) & 0xff != 0;
                (dict, if valid { values } else { 0 }, facts.inline_values)
            }
            Attributes::Dict => (0, 0, false),
        };
        if dict != 0 {
            object(dict, Label::Namespace);
        }
        if facts.cached_keys == 0 || values == 0 && !inline {
            return (0, 0);
        }
        let names = self.names.get(facts.cached_keys);
        // A dict that there is has them, too.
        if values != 0 && dict == 0 {
            let from = values.wrapping_add(self.target.objects.values());
            self.heap.words(from, names.names.len() as u64, |at, word| {
                object(word, Label::Attribute(names.names[at as usize]));
            });
        }
        match inline {
            // `_PyInlineValuesSize`: the order in which they were set, four bytes, and the values.
            true => (names.room.next_multiple_of(8) + 8 * (names.room + 1), 0),
            false => (0, 8 * names.room),
        }
    }

    /// The words that an instance has beyond those of its kind.
    fn own_words(
        &self,
        address: u64,
        facts: &Facts,
        room: Option<u64>,
        items: u64,
        object: &mut impl FnMut(u64, Label),
    ) {
        let end = match facts.kind {
            // A frame follows, whose length is not in the object.
            Kind::Generator => room.unwrap_or(facts.basic),
            Kind::Other if facts.item > 0 && facts.item.is_multiple_of(8) && facts.item <= 64 => {
                (facts.basic + items * facts.item).min(room.unwrap_or(u64::MAX))
            }
            Kind::Code => facts.basic,
            _ => facts.basic.min(room.unwrap_or(u64::MAX)),
        };
        let start = match facts.kind {
            Kind::Code => 16,
            _ => facts.own_words,
        };
        if start >= end {
            return;
        }
        let skipped = |at: u64| {
            let at = at.cast_signed();
            at == facts.weak || at == facts.dict
        };
        self.heap
            .words(address.wrapping_add(start), (end - start) / 8, |at, word| {
                let at = start + 8 * at;
                if !skipped(at) {
                    // Frames mark what they do not own in the lowest bits, from 3.14 on.
                    object(word & !3, Label::Word(at as u32));
                }
            });
    }
}
