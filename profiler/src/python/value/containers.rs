//! Dicts, tuples, lists, sets, ranges and deques.

use super::{BYTES_DATA, FIRST, FLAG_BYTES, FLAG_UNICODE, SET_MASK, SET_TABLE, Values, writing::Told};
use crate::python::{object::Entry, secret};

impl Values<'_> {
    pub(super) fn dict(&self, object: u64, told: &mut Told) -> Option<()> {
        let number = self.objects.field(object, FIRST)?;
        if told.above.len() as u32 > self.limits.depth && number > 0 {
            return told.push(&format!("{{… {number} items}}"));
        }
        told.push("{")?;
        let entries = self.objects.first_entries(object, self.limits.items)?;
        for (at, Entry { key, value }) in entries.iter().enumerate() {
            told.push(if at > 0 { ", " } else { "" })?;
            self.value(*key, told);
            told.push(": ")?;
            self.paired(*key, *value, told);
        }
        if number > entries.len() as u64 {
            told.push(&format!(", … {} more", number - entries.len() as u64))?;
        }
        told.push("}")
    }

    /// A value beside its key.
    pub(super) fn paired(&self, key: u64, value: u64, told: &mut Told) {
        let is_hidden = !self.secrets && self.name(key).is_some_and(|name| secret::is_secretive(&name));
        if is_hidden {
            told.push(secret::MASK);
        } else {
            self.value(value, told);
        }
    }

    /// What a string or bytes say, if they are short enough to be a name.
    pub(super) fn name(&self, object: u64) -> Option<String> {
        const MOST: u64 = 100;
        let flags = self.objects.flags(self.type_of(object)?)?;
        if flags & FLAG_UNICODE != 0 {
            return Some(self.objects.text(object, MOST)?.into());
        }
        let len = self.objects.field(object, FIRST)?;
        if flags & FLAG_BYTES == 0 || len > MOST {
            return None;
        }
        let bytes = self
            .objects
            .bytes(self.objects.behind(object, BYTES_DATA)?, len as usize)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn tuple(&self, object: u64, told: &mut Told, comma: bool) -> Option<()> {
        let len = self.objects.field(object, FIRST)?;
        let items = self.objects.behind(object, self.tuple_items)?;
        // As in headers of HTTP: `(b'authorization', b'…')`.
        if len == 2
            && !self.secrets
            && let [key, _] = self.words(items, 2)?[..]
            && self.name(key).is_some_and(|name| secret::is_secretive(&name))
        {
            told.push("(")?;
            self.value(key, told);
            return told.push(&format!(", {})", secret::MASK));
        }
        self.sequence(items, len, ["(", ")"], told, comma)
    }

    pub(super) fn sequence(
        &self,
        items: u64,
        len: u64,
        brackets: [&str; 2],
        told: &mut Told,
        comma: bool,
    ) -> Option<()> {
        // Torn, or none of CPython's: its sizes are signed.
        if len >> 63 != 0 {
            return None;
        }
        if told.above.len() as u32 > self.limits.depth && len > 0 {
            return told.push(&format!("{}… {len} items{}", brackets[0], brackets[1]));
        }
        told.push(brackets[0])?;
        let shown = len.min(self.limits.items);
        for (at, item) in self.words(items, shown)?.into_iter().enumerate() {
            told.push(if at > 0 { ", " } else { "" })?;
            self.value(item, told);
            if told.is_full() {
                return Some(());
            }
        }
        if len > shown {
            told.push(&format!(", … {} more", len - shown))?;
        } else if comma && len == 1 {
            told.push(",")?;
        }
        told.push(brackets[1])
    }

    pub(super) fn set(&self, object: u64, name: &str, told: &mut Told) -> Option<()> {
        let number = self.objects.field(object, FIRST + 8)?;
        let is_frozen = name == "frozenset";
        if number == 0 {
            return told.push(&format!("{name}()"));
        }
        let (open, close) = if is_frozen { ("frozenset({", "})") } else { ("{", "}") };
        if told.above.len() as u32 > self.limits.depth {
            return told.push(&format!("{open}… {number} items{close}"));
        }
        told.push(open)?;
        let mut shown = 0;
        for key in self.set_items(object)? {
            if shown == self.limits.items || told.is_full() {
                break;
            }
            told.push(if shown > 0 { ", " } else { "" })?;
            self.value(key, told);
            shown += 1;
        }
        if number > shown {
            told.push(&format!(", … {} more", number - shown))?;
        }
        told.push(close)
    }

    /// What is in a set, or in the beginning of its table.
    pub(super) fn set_items(&self, set: u64) -> Option<Vec<u64>> {
        /// The hash of an entry that was removed.
        const REMOVED: u64 = u64::MAX;
        /// Entries that are looked at, free ones included.
        const MOST: u64 = 1 << 16;
        let (mask, table) = (self.objects.field(set, SET_MASK)?, self.objects.field(set, SET_TABLE)?);
        let words = self.words(table, mask.checked_add(1)?.min(MOST) * 2)?;
        let entries = words.as_chunks::<2>().0.iter();
        let items = entries.filter(|[key, hash]| *key != 0 && *hash != REMOVED);
        Some(items.map(|[key, _]| *key).collect())
    }

    pub(super) fn range(&self, object: u64, told: &mut Told) -> Option<()> {
        let words = self.words(self.objects.behind(object, FIRST)?, 3)?;
        let [start, stop, step] = words[..] else { return None };
        told.push("range(")?;
        self.value(start, told);
        told.push(", ")?;
        self.value(stop, told);
        if self.objects.int(step) != Some(1) {
            told.push(", ")?;
            self.value(step, told);
        }
        told.push(")")
    }

    /// `collections.deque`: blocks of 64 items, linked (3.8 – 3.15).
    pub(super) fn deque(&self, object: u64, told: &mut Told) -> Option<()> {
        const LEFT_BLOCK: u64 = 24;
        const LEFT_INDEX: u64 = 40;
        const BLOCK_ITEMS: u64 = 8;
        const ITEMS_OF_BLOCK: u64 = 64;
        const RIGHT_LINK: u64 = 520;
        let len = self.objects.field(object, FIRST)?;
        let mut block = self.objects.field(object, LEFT_BLOCK)?;
        let mut at = self.objects.field(object, LEFT_INDEX)?;
        if told.above.len() as u32 > self.limits.depth && len > 0 {
            return told.push(&format!("deque([… {len} items])"));
        }
        told.push("deque([")?;
        let shown = len.min(self.limits.items);
        for number in 0..shown {
            if at >= ITEMS_OF_BLOCK {
                block = self.objects.word(block, RIGHT_LINK)?;
                at = 0;
            }
            told.push(if number > 0 { ", " } else { "" })?;
            self.value(self.objects.word(block, BLOCK_ITEMS + 8 * at)?, told);
            at += 1;
        }
        if len > shown {
            told.push(&format!(", … {} more", len - shown))?;
        }
        told.push("])")
    }
}
