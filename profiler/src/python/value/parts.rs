//! What objects hold, for whoever makes text of it and for others: numbers, items, names of classes.

use super::{FIRST, FLAG_LIST, FLAG_TUPLE, LIST_ITEMS, MOST_BASES, TP_MRO, TP_NAME, Values};
use crate::{
    python::activity::{c_string, type_name},
    shown,
};

impl Values<'_> {
    /// The characters of a string that does not have them in itself: of a class that inherits from `str`.
    pub(super) fn text_apart(&self, object: u64) -> Option<Box<str>> {
        let process = self.objects.process();
        let len = self.objects.word(object, process.unicode_length.into())?;
        let state = self.objects.word(object, process.unicode_state.into())? as u32;
        let width = state >> 2 & 7;
        if !matches!(width, 1 | 2 | 4) {
            return None;
        }
        let data = self.objects.field(object, self.text_pointer)?;
        let shown = len.min(self.limits.characters);
        let bytes = self.objects.bytes(data, shown as usize * width as usize)?;
        let character = |code: u32| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        let mut text: String = bytes
            .chunks_exact(width as usize)
            .map(|bytes| character(bytes.iter().rev().fold(0, |code, &byte| code << 8 | u32::from(byte))))
            .collect();
        if len > shown {
            text.push('…');
        }
        Some(text.into())
    }

    /// Whether an int is negative, and its digits of 30 bits, the lowest first: as many as can be told.
    pub(super) fn digits(&self, object: u64) -> Option<(bool, Vec<u32>)> {
        const DIGITS: u64 = 24;
        /// Some nine hundred decimal digits.
        const MOST_DIGITS: u64 = 100;
        let size = self.objects.field(object, FIRST)?;
        let (is_negative, number) = match self.has_tagged_ints {
            // 0: positive, 1: zero, 2: negative; one more bit is a mark.
            true => (size & 3 == 2, if size & 3 == 1 { 0 } else { size >> 3 }),
            false => (size >> 63 != 0, size.cast_signed().unsigned_abs()),
        };
        if number > MOST_DIGITS {
            return None;
        }
        let bytes = self
            .objects
            .bytes(self.objects.behind(object, DIGITS)?, number as usize * 4)?;
        let digits: Vec<u32> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|digit| u32::from_le_bytes(*digit))
            .collect();
        // `False` is an int of one digit, 0, up to 3.11.
        let used = digits.iter().rposition(|&digit| digit != 0).map_or(0, |last| last + 1);
        Some((is_negative, digits[..used].to_vec()))
    }

    /// A number, if an object is an int or a float.
    pub fn number(&self, object: u64) -> Option<f64> {
        match self.kind(object)?.as_str() {
            "float" => self.double(object, FIRST),
            "int" => {
                let (is_negative, digits) = self.digits(object)?;
                let value = digits
                    .iter()
                    .rev()
                    .fold(0.0, |value, &digit| value * f64::from(1 << 30) + f64::from(digit));
                Some(if is_negative { -value } else { value })
            }
            _ => None,
        }
    }

    /// The qualified name of a function.
    pub fn function_called(&self, function: u64) -> Option<Box<str>> {
        self.objects
            .text(self.objects.field(function, self.function_name)?, 200)
    }

    /// What an object has under a name in `__slots__`.
    pub fn slot(&self, object: u64, name: &str) -> Option<u64> {
        let slots = self.slots(object, self.type_of(object)?);
        Some(
            slots
                .into_iter()
                .find(|entry| self.objects.is_text(entry.key, name))?
                .value,
        )
    }

    /// The addresses in a set.
    pub fn members(&self, set: u64) -> Option<Vec<u64>> {
        if !matches!(self.kind(set)?.as_str(), "set" | "frozenset") {
            return None;
        }
        self.set_items(set)
    }

    /// The addresses in a list.
    pub fn list_items(&self, list: u64) -> Option<Vec<u64>> {
        const MOST: u64 = 4096;
        let len = self.objects.field(list, FIRST)?;
        if len > MOST || !self.objects.has_flag(list, FLAG_LIST) {
            return None;
        }
        self.words(self.objects.field(list, LIST_ITEMS)?, len)
    }

    /// The names of an object's class and of those that it inherits from.
    pub fn bases(&self, object: u64) -> Vec<String> {
        let order = self
            .type_of(object)
            .and_then(|kind| self.items(self.objects.field(kind, TP_MRO)?));
        let order = order.unwrap_or_default().into_iter().take(MOST_BASES as usize);
        order
            .filter_map(|class| type_name(self.objects.memory(), self.objects.process(), class))
            .collect()
    }

    /// The addresses in a tuple.
    pub fn items(&self, tuple: u64) -> Option<Vec<u64>> {
        const MOST: u64 = 4096;
        let len = self.objects.field(tuple, FIRST)?;
        if len > MOST || !self.objects.has_flag(tuple, FLAG_TUPLE) {
            return None;
        }
        self.words(self.objects.behind(tuple, self.tuple_items)?, len)
    }

    /// `Decimal` of the class itself; with its module where the interpreter's own has one in its name.
    pub(super) fn class_name(&self, class: u64) -> Option<String> {
        let name = c_string(self.objects.memory(), self.objects.field(class, TP_NAME)?, 200)?;
        Some(shown::line(&name))
    }

    pub(super) fn type_of(&self, object: u64) -> Option<u64> {
        self.objects
            .word(object, self.objects.process().object_type.into())
            .filter(|&kind| kind != 0)
    }

    pub(super) fn double(&self, object: u64, offset: u64) -> Option<f64> {
        self.objects.field(object, offset).map(f64::from_bits)
    }

    pub(super) fn words(&self, address: u64, number: u64) -> Option<Vec<u64>> {
        let bytes = self
            .objects
            .bytes(address, usize::try_from(number.checked_mul(8)?).ok()?)?;
        Some(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|word| u64::from_le_bytes(*word))
                .collect(),
        )
    }
}
