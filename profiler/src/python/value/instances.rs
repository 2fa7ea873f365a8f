//! Instances of classes that a program has made: their attributes, wherever they are kept.

use super::{FLAG_HEAP, FLAG_TUPLE, MOST_BASES, MOST_SLOTS, TP_BASE, TP_DICT, TP_MRO, TP_REPR, Values, writing::Told};
use crate::{
    python::{object::Entry, secret},
    shown,
};

impl Values<'_> {
    /// Whether a class has the `tp_repr` of the first of its bases that is not made by a class statement.
    pub(super) fn repr_is_inherited(&self, kind: u64) -> Option<bool> {
        let own = self.objects.field(kind, TP_REPR)?;
        let mut base = kind;
        for _ in 0..MOST_BASES {
            if self.objects.flags(base)? & FLAG_HEAP == 0 {
                return Some(self.objects.field(base, TP_REPR)? == own);
            }
            base = self.objects.field(base, TP_BASE)?;
        }
        None
    }

    /// `Point(x=1, y=2)`, if it is a `collections.namedtuple`.
    pub(super) fn named_tuple(&self, object: u64, kind: u64, name: &str, told: &mut Told) -> Option<()> {
        let fields = self.objects.get(self.objects.field(kind, TP_DICT)?, "_fields")?;
        if !self.objects.has_flag(fields, FLAG_TUPLE) {
            return None;
        }
        let names = self.items(fields)?;
        let values = self.items(object)?;
        let pairs = names
            .into_iter()
            .zip(values)
            .map(|(key, value)| Entry { key, value })
            .collect();
        self.attributes(name, pairs, told)
    }

    /// `<Color.RED: 1>`, if it is a member of an `enum`.
    pub(super) fn member(&self, object: u64, class: &str, told: &mut Told) -> Option<()> {
        let attributes = self.objects.attributes(object)?;
        let attribute = |name: &str| {
            let found = attributes.iter().find(|entry| self.objects.is_text(entry.key, name));
            found.map(|entry| entry.value)
        };
        let (name, value) = (attribute("_name_")?, attribute("_value_")?);
        let name = self.objects.text(name, 100)?;
        told.push(&format!("<{class}.{}: ", shown::line(&name)))?;
        self.value(value, told);
        told.push(">")
    }

    /// An object of any other class: by its attributes.
    pub(super) fn instance(&self, object: u64, kind: u64, name: &str, told: &mut Told) -> Option<()> {
        if told.above.len() as u32 > self.limits.depth {
            return told.push(&format!("<{name}>"));
        }
        if self.member(object, name, told).is_some() {
            return Some(());
        }
        let mut attributes = self.slots(object, kind);
        attributes.extend(self.objects.attributes(object).unwrap_or_default());
        match attributes.is_empty() {
            true => told.push(&format!("<{name}>")),
            false => self.attributes(name, attributes, told),
        }
    }

    /// `Name(a=1, b='x')`.
    pub(super) fn attributes(&self, name: &str, attributes: Vec<Entry>, told: &mut Told) -> Option<()> {
        told.push(name)?;
        told.push("(")?;
        let number = attributes.len();
        for (at, Entry { key, value }) in attributes.into_iter().enumerate() {
            if at as u64 == self.limits.items {
                told.push(&format!(", … {} more", number - at))?;
                break;
            }
            let key = self.objects.text(key, 100).unwrap_or_else(|| "?".into());
            told.push(&format!("{}{}=", if at > 0 { ", " } else { "" }, shown::line(&key)))?;
            match self.is_hidden(&key) {
                true => told.push(secret::MASK)?,
                false => self.value(value, told),
            }
        }
        told.push(")")
    }

    /// What an object has in `__slots__`, those of its class first: they are descriptors in the classes' dicts.
    pub(super) fn slots(&self, object: u64, kind: u64) -> Vec<Entry> {
        const MEMBER: u64 = 40;
        const OBJECT: i32 = 6;
        const OBJECT_EX: i32 = 16;
        let mut found = Vec::new();
        let bases = self.objects.field(kind, TP_MRO).and_then(|order| self.items(order));
        for base in bases.into_iter().flatten().take(MOST_BASES as usize) {
            // Classes of the interpreter's own keep their dicts elsewhere (3.12 on), and have no slots.
            if self.objects.flags(base).is_none_or(|flags| flags & FLAG_HEAP == 0) {
                continue;
            }
            let entries = self
                .objects
                .field(base, TP_DICT)
                .and_then(|dict| self.objects.entries(dict));
            for Entry { key, value } in entries.into_iter().flatten().take(MOST_SLOTS) {
                if self.kind(value).as_deref() != Some("member_descriptor") {
                    continue;
                }
                // `PyMemberDef`: name, type (an int), offset.
                let Some(member) = self.objects.field(value, MEMBER) else {
                    continue;
                };
                let (Some(kind), Some(offset)) = (self.objects.word(member, 8), self.objects.word(member, 16)) else {
                    continue;
                };
                if !matches!(kind as u32 as i32, OBJECT | OBJECT_EX) || offset > 1 << 20 {
                    continue;
                }
                if let Some(value) = self.objects.word(object, offset).filter(|&value| value != 0) {
                    found.push(Entry { key, value });
                }
            }
        }
        found
    }
}
