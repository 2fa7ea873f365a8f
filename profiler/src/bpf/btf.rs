//! Offsets of kernel struct fields, from the running kernel's own type information.
//!
//! Rust has no CO-RE relocations yet (aya#349), so the two or three offsets the programs need are looked up here and
//! handed over as constants. The format is documented in the kernel's Documentation/bpf/btf.rst.

use thiserror::Error;

/// Where kernels built with `CONFIG_DEBUG_INFO_BTF` publish their types.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    #[error("the kernel's type information is damaged: {0}")]
    Damaged(&'static str),
    #[error("the kernel's type information has no `{0}`")]
    Missing(String),
}

/// Byte offset of `path` (field names joined by dots) inside `struct <structure>`.
pub fn field_offset(btf: &Btf<'_>, structure: &str, path: &str) -> Result<u32, BtfError> {
    let missing = || BtfError::Missing(format!("struct {structure}.{path}"));
    let mut current = btf.structure(structure).ok_or_else(missing)?;
    let mut bits = 0u64;
    for name in path.split('.') {
        let (at, of) = btf.member(current, name, 0).ok_or_else(missing)?;
        bits += u64::from(at);
        current = btf.resolve(of);
    }
    if !bits.is_multiple_of(8) {
        return Err(BtfError::Damaged("a field wanted whole is a bit-field"));
    }
    u32::try_from(bits / 8).map_err(|_| BtfError::Damaged("an offset of gigabytes"))
}

/// A parsed index over raw BTF.
pub struct Btf<'data> {
    data: &'data [u8],
    strings: &'data [u8],
    /// Start of each type in `data`; type ids start at 1.
    types: Vec<u32>,
}

const MAGIC: u16 = 0xeb9f;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Anonymous structs nest a few levels in real kernels; a damaged file could make a circle.
const MAX_NESTING: u32 = 8;

impl<'data> Btf<'data> {
    pub fn parse(bytes: &'data [u8]) -> Result<Self, BtfError> {
        let short = BtfError::Damaged("it ends early");
        let word = |at: usize| read_u32(bytes, at).ok_or(BtfError::Damaged("it ends early"));
        if bytes.get(..2) != Some(&MAGIC.to_le_bytes()) {
            return Err(BtfError::Damaged("it does not start with BTF's mark"));
        }
        let header = word(4)? as usize;
        let part = |offset: usize, len: usize| {
            let start = header.checked_add(offset)?;
            bytes.get(start..start.checked_add(len)?)
        };
        let data = part(word(8)? as usize, word(12)? as usize).ok_or(short.clone())?;
        let strings = part(word(16)? as usize, word(20)? as usize).ok_or(short.clone())?;

        let mut types = Vec::with_capacity(data.len() / 24);
        let mut at = 0usize;
        while at < data.len() {
            let info = read_u32(data, at + 4).ok_or(short.clone())?;
            types.push(at as u32);
            let count = (info & 0xffff) as usize;
            at += 12
                + match (info >> 24) & 0x1f {
                    KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                    KIND_ARRAY => 12,
                    KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
                    KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
                    _ => 0,
                };
        }
        Ok(Self { data, strings, types })
    }

    /// How many arguments a tracepoint's programs get; none if the kernel has no such tracepoint, or none for programs.
    pub fn tracepoint_arguments(&self, name: &str) -> Option<u32> {
        let name = format!("btf_trace_{name}");
        let typedef = (1..=self.types.len() as u32)
            .find(|&id| self.kind(id) == Some(KIND_TYPEDEF) && self.name(id) == Some(name.as_bytes()))?;
        let of = |id: u32| read_u32(self.data, self.start(id)? + 8);
        let pointer = of(typedef).filter(|&id| self.kind(id) == Some(KIND_PTR))?;
        let function = of(pointer).filter(|&id| self.kind(id) == Some(KIND_FUNC_PROTO))?;
        let count = read_u32(self.data, self.start(function)? + 4)? & 0xffff;
        // The first one is the tracepoint's own.
        count.checked_sub(1)
    }

    fn structure(&self, name: &str) -> Option<u32> {
        (1..=self.types.len() as u32)
            .find(|&id| self.kind(id) == Some(KIND_STRUCT) && self.name(id) == Some(name.as_bytes()))
    }

    /// Bit offset and type of the member `name` of `id`, looked for inside its anonymous members too.
    fn member(&self, id: u32, name: &str, nesting: u32) -> Option<(u32, u32)> {
        if nesting > MAX_NESTING || !matches!(self.kind(id)?, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let start = self.start(id)?;
        let info = read_u32(self.data, start + 4)?;
        let bit_fields = info >> 31 != 0;
        for index in 0..(info & 0xffff) as usize {
            let at = start + 12 + 12 * index;
            let member = self.string(read_u32(self.data, at)?)?;
            let of = read_u32(self.data, at + 4)?;
            let raw = read_u32(self.data, at + 8)?;
            let offset = if bit_fields { raw & 0x00ff_ffff } else { raw };
            if member == name.as_bytes() {
                return Some((offset, of));
            }
            if member.is_empty()
                && let Some((inner, of)) = self.member(self.resolve(of), name, nesting + 1)
            {
                return Some((offset.checked_add(inner)?, of));
            }
        }
        None
    }

    /// Follows typedefs and qualifiers to the type itself.
    fn resolve(&self, mut id: u32) -> u32 {
        for _ in 0..MAX_NESTING {
            match self.kind(id) {
                Some(KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_TYPE_TAG) => {}
                _ => break,
            }
            match self.start(id).and_then(|start| read_u32(self.data, start + 8)) {
                Some(next) => id = next,
                None => break,
            }
        }
        id
    }

    fn start(&self, id: u32) -> Option<usize> {
        self.types
            .get((id as usize).checked_sub(1)?)
            .map(|&start| start as usize)
    }

    fn kind(&self, id: u32) -> Option<u32> {
        Some((read_u32(self.data, self.start(id)? + 4)? >> 24) & 0x1f)
    }

    fn name(&self, id: u32) -> Option<&[u8]> {
        self.string(read_u32(self.data, self.start(id)?)?)
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let rest = self.strings.get(offset as usize..)?;
        rest.get(..rest.iter().position(|&byte| byte == 0)?)
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `struct inner { int x; }; struct outer { int a; union { int b; struct inner c; }; };`
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0inner\0x\0outer\0a\0b\0c\0";
        let mut types: Vec<u32> = Vec::new();
        let info = |kind: u32, count: u32| kind << 24 | count;
        types.extend([1, info(KIND_INT, 0), 4, 32]); // 1: int
        types.extend([5, info(KIND_STRUCT, 1), 4, 11, 1, 0]); // 2: inner { x }
        types.extend([0, info(KIND_UNION, 2), 4, 21, 1, 0, 23, 2, 0]); // 3: { b, c }
        types.extend([13, info(KIND_STRUCT, 2), 8, 19, 1, 0, 0, 3, 32]); // 4: outer { a, union }
        let data: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend([1, 0]);
        for word in [24, 0, data.len() as u32, data.len() as u32, strings.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(data);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_are_found_through_anonymous_members() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(field_offset(&btf, "outer", "a"), Ok(0));
        assert_eq!(field_offset(&btf, "outer", "b"), Ok(4));
        assert_eq!(field_offset(&btf, "outer", "c.x"), Ok(4));
        assert!(matches!(field_offset(&btf, "outer", "d"), Err(BtfError::Missing(_))));
        assert!(matches!(field_offset(&btf, "other", "a"), Err(BtfError::Missing(_))));
    }

    proptest! {
        #[test]
        fn damaged_type_information_never_panics(at in 0usize..180, value: u8, len in 0usize..220) {
            let mut bytes = sample();
            bytes.truncate(len);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            if let Ok(btf) = Btf::parse(&bytes) {
                let _ = field_offset(&btf, "outer", "c.x");
            }
        }
    }
}
