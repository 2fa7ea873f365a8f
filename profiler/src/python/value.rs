//! An object as text: what `repr` says of it, as far as that can be known without running any of its code.
//!
//! Everything is bounded: how deep, how many items, how many characters; what is cut ends in `…`. What contains itself is
//! told as CPython does (`[...]`). Characters that act on a terminal are escaped. The program goes on while it is read: a
//! value that is torn is `<unreadable>`, or nonsense, and never more than that.
//!
//! Offsets were printed from DWARF and headers of each series and compared with the `repr` of 60 values in live processes
//! of 3.8.18 – 3.15.2 (shared/field/objects.md §5).

mod containers;
mod instances;
mod parts;
#[cfg(test)]
mod tests;
mod writing;

use self::writing::{Told, complex, float, integer, quoted, quoted_bytes};
use super::{
    activity::{c_string, type_name},
    object::Objects,
    secret,
    version::Version,
};
use crate::shown;

/// `PyTypeObject`: public, and the same in 3.8 – 3.15.
const TP_NAME: u64 = 24;
const TP_REPR: u64 = 88;
const TP_BASE: u64 = 256;
const TP_DICT: u64 = 264;
const TP_MRO: u64 = 344;
const FLAG_HEAP: u64 = 1 << 9;
const FLAG_LONG: u64 = 1 << 24;
const FLAG_LIST: u64 = 1 << 25;
const FLAG_TUPLE: u64 = 1 << 26;
const FLAG_BYTES: u64 = 1 << 27;
const FLAG_UNICODE: u64 = 1 << 28;
const FLAG_DICT: u64 = 1 << 29;
const FLAG_EXCEPTION: u64 = 1 << 30;
const FLAG_TYPE: u64 = 1 << 31;

/// The first word behind the header: `ob_size`, `ob_fval`, `md_dict`, …
const FIRST: u64 = 16;
const LIST_ITEMS: u64 = 24;
const BYTES_DATA: u64 = 32;
const BYTEARRAY_START: u64 = 40;
const SET_MASK: u64 = 32;
const SET_TABLE: u64 = 40;
const EXCEPTION_ARGUMENTS: u64 = 24;

/// No more is looked at of one type.
const MOST_BASES: u64 = 32;
const MOST_SLOTS: usize = 128;

/// How much of a value is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub depth: u32,
    /// Of a container.
    pub items: u64,
    /// Of a string.
    pub characters: u64,
    /// Of the whole text.
    pub whole: usize,
}

impl Limits {
    pub const SHORT: Self = Self {
        depth: 2,
        items: 12,
        characters: 120,
        whole: 400,
    };
    pub const LONG: Self = Self {
        depth: 6,
        items: 1_000,
        characters: 4_000,
        whole: 16_000,
    };
}

/// What makes text of objects.
pub struct Values<'a> {
    objects: &'a Objects<'a>,
    /// `PyTupleObject.ob_item`: one word further from 3.14 on, which keeps a hash.
    tuple_items: u64,
    /// Of a string that is not compact: where the pointer to its characters is.
    text_pointer: u64,
    function_name: u64,
    has_tagged_ints: bool,
    limits: Limits,
    /// Values are shown whatever they are called.
    secrets: bool,
}

impl<'a> Values<'a> {
    pub fn new(objects: &'a Objects<'a>, version: Version, limits: Limits, secrets: bool) -> Self {
        let minor = version.minor;
        Self {
            objects,
            tuple_items: if minor >= 14 { 32 } else { 24 },
            text_pointer: if minor >= 12 { 56 } else { 72 },
            function_name: if minor <= 9 { 104 } else { 40 },
            has_tagged_ints: minor >= 12,
            limits,
            secrets,
        }
    }

    /// The name of an object's type, without its module.
    pub fn kind(&self, object: u64) -> Option<String> {
        type_name(self.objects.memory(), self.objects.process(), self.type_of(object)?)
    }

    pub fn text(&self, object: u64) -> String {
        let mut told = Told {
            text: String::new(),
            left: self.limits.whole,
            above: Vec::new(),
        };
        self.value(object, &mut told);
        told.text
    }

    /// Whether nothing is told of what has this name, because that sounds secret.
    pub fn is_hidden(&self, name: &str) -> bool {
        !self.secrets && secret::is_secretive(name)
    }

    fn value(&self, object: u64, told: &mut Told) {
        if told.is_full() {
            return;
        }
        if told.above.contains(&object) {
            told.push(self.again(object));
            return;
        }
        told.above.push(object);
        if self.try_value(object, told).is_none() {
            told.push("<unreadable>");
        }
        told.above.pop();
    }

    /// How CPython tells of what contains itself.
    fn again(&self, object: u64) -> &'static str {
        let flags = self
            .type_of(object)
            .and_then(|kind| self.objects.flags(kind))
            .unwrap_or(0);
        match flags {
            flags if flags & FLAG_LIST != 0 => "[...]",
            flags if flags & FLAG_DICT != 0 => "{...}",
            flags if flags & FLAG_TUPLE != 0 => "(...)",
            _ => "...",
        }
    }

    /// `None` if it cannot be read; then nothing was told but what is true.
    fn try_value(&self, object: u64, told: &mut Told) -> Option<()> {
        let kind = self.type_of(object)?;
        let flags = self.objects.flags(kind)?;
        let name = type_name(self.objects.memory(), self.objects.process(), kind)?;
        match &*name {
            "NoneType" => return told.push("None"),
            "bool" => {
                return told.push(if self.digits(object)?.1.is_empty() {
                    "False"
                } else {
                    "True"
                });
            }
            "ellipsis" => return told.push("Ellipsis"),
            "NotImplementedType" => return told.push("NotImplemented"),
            _ => {}
        }
        if flags & FLAG_TYPE != 0 {
            return told.push(&format!("<class '{}'>", self.class_name(object)?));
        }
        if flags & (FLAG_LONG | FLAG_LIST | FLAG_TUPLE | FLAG_BYTES | FLAG_UNICODE | FLAG_DICT) != 0 {
            return self.builtin(object, kind, flags, &name, told);
        }
        if flags & FLAG_EXCEPTION != 0 {
            told.push(&name)?;
            let arguments = self.objects.field(object, EXCEPTION_ARGUMENTS)?;
            return self.tuple(arguments, told, false);
        }
        match &*name {
            "float" => told.push(&float(self.double(object, FIRST)?)),
            "complex" => {
                let (real, imaginary) = (self.double(object, FIRST)?, self.double(object, FIRST + 8)?);
                told.push(&complex(real, imaginary))
            }
            "bytearray" => {
                let start = self.objects.field(object, BYTEARRAY_START)?;
                told.push("bytearray(")?;
                self.byte_string(start, self.objects.field(object, FIRST)?, told)?;
                told.push(")")
            }
            "set" | "frozenset" => self.set(object, &name, told),
            "range" => self.range(object, told),
            "deque" => self.deque(object, told),
            "function" => {
                let name = self
                    .objects
                    .text(self.objects.field(object, self.function_name)?, 200)?;
                told.push(&format!("<function {}>", shown::line(&name)))
            }
            "builtin_function_or_method" => {
                // `m_ml->ml_name`
                let definition = self.objects.field(object, FIRST)?;
                let name = c_string(self.objects.memory(), self.objects.word(definition, 0)?, 100)?;
                told.push(&format!("<built-in function {}>", shown::line(&name)))
            }
            "method" => {
                told.push("<bound method ")?;
                let function = self.objects.field(object, FIRST)?;
                match self.function_called(function) {
                    Some(name) => told.push(&shown::line(&name))?,
                    None => told.push("?")?,
                }
                told.push(">")
            }
            "module" => {
                let dict = self.objects.module_dict(object)?;
                let name = self.objects.text(self.objects.get(dict, "__name__")?, 200)?;
                told.push(&format!("<module '{}'>", shown::line(&name)))
            }
            "cell" => match self.objects.field(object, FIRST)? {
                0 => told.push("<cell: empty>"),
                value => {
                    told.push("<cell: ")?;
                    self.value(value, told);
                    told.push(">")
                }
            },
            _ => self.instance(object, kind, &name, told),
        }
    }

    /// A number, a string or a container, or what inherits from one.
    fn builtin(&self, object: u64, kind: u64, flags: u64, name: &str, told: &mut Told) -> Option<()> {
        const NAMES: [&str; 6] = ["int", "str", "bytes", "tuple", "list", "dict"];
        let is_exact = NAMES.contains(&name) && flags & FLAG_HEAP == 0;
        if !is_exact && flags & FLAG_TUPLE != 0 && self.named_tuple(object, kind, name, told).is_some() {
            return Some(());
        }
        if !is_exact && let Some(()) = self.member(object, name, told) {
            return Some(());
        }
        // What has the base's `tp_repr` is told as that.
        let is_told_alike = is_exact || self.repr_is_inherited(kind).unwrap_or(false);
        if !is_told_alike {
            told.push(name)?;
            told.push("(")?;
        }
        if flags & FLAG_UNICODE != 0 {
            self.string(object, told)?;
        } else if flags & FLAG_LONG != 0 {
            let (is_negative, digits) = self.digits(object)?;
            told.push(&integer(is_negative, &digits))?;
        } else if flags & FLAG_BYTES != 0 {
            self.byte_string(
                self.objects.behind(object, BYTES_DATA)?,
                self.objects.field(object, FIRST)?,
                told,
            )?;
        } else if flags & FLAG_TUPLE != 0 {
            self.tuple(object, told, true)?;
        } else if flags & FLAG_LIST != 0 {
            let (len, items) = (
                self.objects.field(object, FIRST)?,
                self.objects.field(object, LIST_ITEMS)?,
            );
            self.sequence(items, len, ["[", "]"], told, false)?;
        } else {
            self.dict(object, told)?;
        }
        match is_told_alike {
            true => Some(()),
            false => told.push(")"),
        }
    }

    fn string(&self, object: u64, told: &mut Told) -> Option<()> {
        let text = match self.objects.text(object, self.limits.characters) {
            Some(text) => text,
            None => self.text_apart(object)?,
        };
        let text = match self.secrets {
            true => text.as_ref().into(),
            false => secret::without_passwords(&text),
        };
        told.push(&quoted(&text))
    }

    fn byte_string(&self, data: u64, len: u64, told: &mut Told) -> Option<()> {
        if len >> 63 != 0 {
            return None;
        }
        let shown = len.min(self.limits.characters);
        let bytes = self.objects.bytes(data, shown as usize)?;
        told.push(&quoted_bytes(&bytes))?;
        match len > shown {
            true => told.push(&format!("… {} more bytes", len - shown)),
            false => Some(()),
        }
    }
}
