//! An object as text: what `repr` says of it, as far as that can be known without running any of its code.
//!
//! Everything is bounded: how deep, how many items, how many characters; what is cut ends in `…`. What contains itself is
//! told as CPython does (`[...]`). Characters that act on a terminal are escaped. The program goes on while it is read: a
//! value that is torn is `<unreadable>`, or nonsense, and never more than that.
//!
//! Offsets were printed from DWARF and headers of each series and compared with the `repr` of 60 values in live processes
//! of 3.8.18 – 3.15.2 (shared/field/objects.md §5).

use std::fmt::Write as _;

use super::{
    activity::{c_string, type_name},
    object::{Entry, Objects},
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

    /// Whether a class has the `tp_repr` of the first of its bases that is not made by a class statement.
    fn repr_is_inherited(&self, kind: u64) -> Option<bool> {
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
    fn named_tuple(&self, object: u64, kind: u64, name: &str, told: &mut Told) -> Option<()> {
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
    fn member(&self, object: u64, class: &str, told: &mut Told) -> Option<()> {
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
    fn instance(&self, object: u64, kind: u64, name: &str, told: &mut Told) -> Option<()> {
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
    fn attributes(&self, name: &str, attributes: Vec<Entry>, told: &mut Told) -> Option<()> {
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
    fn slots(&self, object: u64, kind: u64) -> Vec<Entry> {
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

    fn dict(&self, object: u64, told: &mut Told) -> Option<()> {
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
    fn paired(&self, key: u64, value: u64, told: &mut Told) {
        let is_hidden = !self.secrets && self.name(key).is_some_and(|name| secret::is_secretive(&name));
        if is_hidden {
            told.push(secret::MASK);
        } else {
            self.value(value, told);
        }
    }

    /// What a string or bytes say, if they are short enough to be a name.
    fn name(&self, object: u64) -> Option<String> {
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

    fn tuple(&self, object: u64, told: &mut Told, comma: bool) -> Option<()> {
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

    fn sequence(&self, items: u64, len: u64, brackets: [&str; 2], told: &mut Told, comma: bool) -> Option<()> {
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

    fn set(&self, object: u64, name: &str, told: &mut Told) -> Option<()> {
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
    fn set_items(&self, set: u64) -> Option<Vec<u64>> {
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

    fn range(&self, object: u64, told: &mut Told) -> Option<()> {
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
    fn deque(&self, object: u64, told: &mut Told) -> Option<()> {
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

    /// The characters of a string that does not have them in itself: of a class that inherits from `str`.
    fn text_apart(&self, object: u64) -> Option<Box<str>> {
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

    /// Whether an int is negative, and its digits of 30 bits, the lowest first: as many as can be told.
    fn digits(&self, object: u64) -> Option<(bool, Vec<u32>)> {
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
    fn class_name(&self, class: u64) -> Option<String> {
        let name = c_string(self.objects.memory(), self.objects.field(class, TP_NAME)?, 200)?;
        Some(shown::line(&name))
    }

    fn type_of(&self, object: u64) -> Option<u64> {
        self.objects
            .word(object, self.objects.process().object_type.into())
            .filter(|&kind| kind != 0)
    }

    fn double(&self, object: u64, offset: u64) -> Option<f64> {
        self.objects.field(object, offset).map(f64::from_bits)
    }

    fn words(&self, address: u64, number: u64) -> Option<Vec<u64>> {
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

/// Text in the making.
struct Told {
    text: String,
    /// Characters that may still come; at 0 it ends in `…`.
    left: usize,
    /// What is being told of, outermost first.
    above: Vec<u64>,
}

impl Told {
    /// Never `None`: for `?` and tail positions.
    fn push(&mut self, text: &str) -> Option<()> {
        if self.left == 0 {
            return Some(());
        }
        // Names of types are any bytes at all.
        let text = &*shown::line(text);
        let count = text.chars().count();
        if count <= self.left {
            self.left -= count;
            self.text.push_str(text);
        } else {
            self.text.extend(text.chars().take(self.left));
            self.text.push('…');
            self.left = 0;
        }
        Some(())
    }

    fn is_full(&self) -> bool {
        self.left == 0
    }
}

/// As `repr` writes a string; what acts on a terminal is escaped, too.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut told = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => told.push_str("\\\\"),
            '\n' => told.push_str("\\n"),
            '\r' => told.push_str("\\r"),
            '\t' => told.push_str("\\t"),
            c if c == quote => {
                told.push('\\');
                told.push(c);
            }
            c if shown::acts(c) => {
                let code = u32::from(c);
                let _ = match code {
                    0..0x100 => write!(told, "\\x{code:02x}"),
                    0x100..0x1_0000 => write!(told, "\\u{code:04x}"),
                    _ => write!(told, "\\U{code:08x}"),
                };
            }
            c => told.push(c),
        }
    }
    told.push(quote);
    told
}

fn quoted_bytes(bytes: &[u8]) -> String {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') {
        '"'
    } else {
        '\''
    };
    let mut told = format!("b{quote}");
    for &byte in bytes {
        match byte {
            b'\\' => told.push_str("\\\\"),
            b'\n' => told.push_str("\\n"),
            b'\r' => told.push_str("\\r"),
            b'\t' => told.push_str("\\t"),
            byte if char::from(byte) == quote => {
                told.push('\\');
                told.push(quote);
            }
            b' '..=b'~' => told.push(byte.into()),
            byte => {
                let _ = write!(told, "\\x{byte:02x}");
            }
        }
    }
    told.push(quote);
    told
}

/// As `repr` writes a float: the shortest digits that are the same number, with an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    if !value.is_finite() {
        return match value {
            value if value.is_nan() => "nan".to_owned(),
            value if value > 0.0 => "inf".to_owned(),
            _ => "-inf".to_owned(),
        };
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) || value == 0.0 {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

fn complex(real: f64, imaginary: f64) -> String {
    let part = |value: f64| {
        let text = float(value);
        text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
    };
    if real == 0.0 && real.is_sign_positive() {
        return format!("{}j", part(imaginary));
    }
    let sign = if imaginary.is_sign_negative() || imaginary.is_nan() {
        ""
    } else {
        "+"
    };
    let sign = if imaginary.is_nan() { "+" } else { sign };
    format!("({}{sign}{}j)", part(real), part(imaginary))
}

/// Digits of 30 bits, the lowest first, as decimal ones.
fn integer(is_negative: bool, digits: &[u32]) -> String {
    const BILLION: u64 = 1_000_000_000;
    let mut left: Vec<u32> = digits.to_vec();
    let mut groups: Vec<u64> = Vec::new();
    while left.iter().any(|&digit| digit != 0) {
        let mut rest = 0;
        for digit in left.iter_mut().rev() {
            let value = rest << 30 | u64::from(*digit & 0x3fff_ffff);
            *digit = (value / BILLION) as u32;
            rest = value % BILLION;
        }
        groups.push(rest);
    }
    let mut text = String::from(if is_negative { "-" } else { "" });
    match groups.pop() {
        None => return "0".to_owned(),
        Some(first) => text.push_str(&first.to_string()),
    }
    for group in groups.iter().rev() {
        let _ = write!(text, "{group:09}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use profiler_common::python::PythonProcess;
    use proptest::prelude::*;

    use super::*;
    use crate::python::{memory::ReadMemory, object::ObjectLayout};

    /// Memory of these words only, wherever it is read, and others each time: pointers into it, flags, sizes.
    struct Changing {
        words: Vec<u64>,
        reads: Cell<usize>,
    }

    impl ReadMemory for Changing {
        fn read(&self, address: u64, into: &mut [u8]) -> bool {
            for (at, part) in into.chunks_mut(8).enumerate() {
                let reads = self.reads.get();
                self.reads.set(reads + 1);
                let word = self.words[(reads / 3 + address as usize / 8 + at) % self.words.len()].to_le_bytes();
                part.copy_from_slice(&word[..part.len()]);
            }
            true
        }
    }

    #[test]
    fn numbers_read_as_python_writes_them() {
        for (value, expected) in [
            (1.25, "1.25"),
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (1e300, "1e+300"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float(value), expected);
        }
        assert_eq!(complex(1.0, 2.0), "(1+2j)");
        assert_eq!(complex(0.0, -1.5), "-1.5j");
        assert_eq!(integer(true, &[0, 0, 4]), "-4611686018427387904");
        assert_eq!(integer(false, &[0, 0, 0, 1 << 10]), "1267650600228229401496703205376");
        assert_eq!(integer(false, &[]), "0");
    }

    #[test]
    fn strings_read_as_python_writes_them_and_do_nothing_to_a_terminal() {
        assert_eq!(quoted("it's"), "\"it's\"");
        assert_eq!(quoted("a'\"\\\n"), "'a\\'\"\\\\\\n'");
        assert_eq!(quoted("\x1b[2J\u{202e}é😀"), "'\\x1b[2J\\u202eé😀'");
        assert_eq!(quoted_bytes(b"\0abc'\xff"), "b\"\\x00abc'\\xff\"");
    }

    #[test]
    fn text_ends_where_there_is_no_more_room() {
        let mut told = Told {
            text: String::new(),
            left: 5,
            above: Vec::new(),
        };
        told.push("abcd");
        told.push("éfg");
        told.push("h");
        assert_eq!(told.text, "abcdé…");
    }

    proptest! {
        #[test]
        fn any_float_is_written_as_itself(bits: u64) {
            let value = f64::from_bits(bits);
            if value.is_finite() {
                prop_assert_eq!(float(value).parse::<f64>().ok(), Some(value));
            }
        }

        #[test]
        fn any_number_of_two_digits_is_written_right(low in 0..1_u32 << 30, high in 0..1_u32 << 30) {
            let value = u64::from(high) << 30 | u64::from(low);
            prop_assert_eq!(integer(false, &[low, high]), value.to_string());
        }

        #[test]
        fn memory_that_changes_while_it_is_read_is_told_in_bounds_and_does_nothing_to_a_terminal(
            words in prop::collection::vec(prop_oneof![
                (0x7000_u64..0x7100).prop_map(|address| address & !7),
                // What sorts of types say they are, sizes of a thousand million, characters.
                (12_u32..32).prop_map(|bit| 1 << bit | 1 << 12),
                Just(1_000_000_000_u64),
                Just(u64::from_le_bytes(*b"\x1b[2J\x07li\0")),
                any::<u64>(),
            ], 4..64),
            minor in 8_u32..16,
        ) {
            const READS: u32 = 20_000;
            let version = Version::from_hex(0x0300_02f0 | minor << 16);
            let memory = Changing { words, reads: Cell::new(0) };
            let process = PythonProcess::default();
            let layout = ObjectLayout::of(version, false).expect("a version that is known");
            let objects = Objects::new(&memory, &process, layout, READS);
            let text = Values::new(&objects, version, Limits::LONG, true).text(0x7000);
            prop_assert!(text.chars().count() <= Limits::LONG.whole + 16, "{}", text.len());
            prop_assert!(!text.contains(shown::acts), "{text:?}");
        }

        #[test]
        fn no_text_acts(text in ".*") {
            prop_assert!(!quoted(&text).contains(shown::acts));
        }
    }
}
