//! An ELF file seen the way the loader sees it: bytes by address, symbols by name.
//!
//! Only what the loader itself needs is used (program headers and the dynamic symbol table), because interpreters are
//! stripped as often as not. A static executable has no dynamic symbols; of that, those that are stripped last are taken.
//! The file belongs to somebody else's process: everything in it is an allegation.

use object::LittleEndian;
use object::elf::{
    DT_NEEDED, EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, PF_X, PT_INTERP, PT_LOAD, ProgramHeader64, R_X86_64_DTPMOD64,
    R_X86_64_DTPOFF64, Rela64, SHT_DYNSYM, SHT_SYMTAB, STB_LOCAL, Sym64,
};
use object::read::elf::{
    Dyn as _, FileHeader as _, ProgramHeader as _, Rela as _, SectionHeader as _, SectionTable, Sym as _,
};

type Header = FileHeader64<LittleEndian>;

const ENDIAN: LittleEndian = LittleEndian;

/// A 64-bit x86 executable or shared library.
pub struct Image<'a> {
    file: &'a [u8],
    header: &'a Header,
    segments: &'a [ProgramHeader64<LittleEndian>],
    sections: SectionTable<'a, Header>,
    symbols: &'a [Sym64<LittleEndian>],
    names: &'a [u8],
}

/// A symbol the file defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    pub address: u64,
    pub size: u64,
}

/// What the loader will write into the pair of words that `__tls_get_addr` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsIndex {
    /// The variable's offset in its module's block.
    pub offset: u64,
}

impl<'a> Image<'a> {
    /// Whether it has names of functions that it does not export.
    pub fn has_local_names(&self) -> bool {
        self.sections
            .iter()
            .any(|section| section.sh_type(ENDIAN) == SHT_SYMTAB)
    }

    /// None for anything that is not an x86-64 executable or library.
    pub fn parse(file: &'a [u8]) -> Option<Self> {
        let header = Header::parse(file).ok()?;
        header.endian().ok()?;
        let kind = header.e_type(ENDIAN);
        if header.e_machine(ENDIAN) != EM_X86_64 || (kind != ET_EXEC && kind != ET_DYN) {
            return None;
        }
        let segments = header.program_headers(ENDIAN, file).ok()?;
        let sections = header.sections(ENDIAN, file).ok()?;
        let of_kind = |kind| sections.iter().find(|section| section.sh_type(ENDIAN) == kind);
        let (symbols, names) = match of_kind(SHT_DYNSYM).or_else(|| of_kind(SHT_SYMTAB)) {
            Some(table) => {
                let names = object::SectionIndex(table.sh_link(ENDIAN) as usize);
                (
                    table.data_as_array(ENDIAN, file).ok()?,
                    sections.section(names).ok()?.data(ENDIAN, file).ok()?,
                )
            }
            None => (&[][..], &[][..]),
        };
        Some(Self {
            file,
            header,
            segments,
            sections,
            symbols,
            names,
        })
    }

    /// Whether it names anything: a static executable that is stripped does not.
    pub fn has_names(&self) -> bool {
        !self.symbols.is_empty()
    }

    /// The loader that an executable asks for; a static one asks for none, as a library does.
    pub fn loader(&self) -> Option<&'a [u8]> {
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.p_type(ENDIAN) == PT_INTERP)?;
        segment.data(ENDIAN, self.file).ok()?.split(|&byte| byte == 0).next()
    }

    /// The bytes of each segment of code.
    pub fn code(&self) -> impl Iterator<Item = &'a [u8]> {
        let is_code = |segment: &&ProgramHeader64<LittleEndian>| {
            segment.p_type(ENDIAN) == PT_LOAD && segment.p_flags(ENDIAN) & PF_X != 0
        };
        self.segments
            .iter()
            .filter(is_code)
            .filter_map(|segment| segment.data(ENDIAN, self.file).ok())
    }

    /// Whether addresses in a process differ from those in the file by a load bias.
    pub fn is_position_independent(&self) -> bool {
        self.header.e_type(ENDIAN) == ET_DYN
    }

    /// The file's bytes from `address` to the end of its segment. Zero-filled memory (`.bss`) has none.
    pub fn bytes_from(&self, address: u64) -> Option<&'a [u8]> {
        self.segments
            .iter()
            .filter(|segment| segment.p_type(ENDIAN) == PT_LOAD)
            .find_map(|segment| {
                let skip = address.checked_sub(segment.p_vaddr(ENDIAN))?;
                let data = segment.data(ENDIAN, self.file).ok()?;
                let rest = data.get(usize::try_from(skip).ok()?..)?;
                (!rest.is_empty()).then_some(rest)
            })
    }

    pub fn bytes(&self, address: u64, len: usize) -> Option<&'a [u8]> {
        self.bytes_from(address)?.get(..len)
    }

    pub fn u32(&self, address: u64) -> Option<u32> {
        Some(u32::from_le_bytes(*self.bytes_from(address)?.first_chunk()?))
    }

    pub fn u64(&self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(*self.bytes_from(address)?.first_chunk()?))
    }

    /// Address and bytes of a section that is loaded into memory.
    pub fn section(&self, name: &str) -> Option<(u64, &'a [u8])> {
        let (_, section) = self.sections.section_by_name(ENDIAN, name.as_bytes())?;
        Some((section.sh_addr(ENDIAN), section.data(ENDIAN, self.file).ok()?))
    }

    /// The dynamic symbol of this name, if the file defines it.
    pub fn symbol(&self, name: &str) -> Option<Symbol> {
        if !self.hash_table_may_hold(name) {
            return None;
        }
        self.symbols
            .iter()
            .find(|symbol| self.is_defined(symbol) && self.is_named(symbol, name))
            .map(|symbol| Symbol {
                address: symbol.st_value(ENDIAN),
                size: symbol.st_size(ENDIAN),
            })
    }

    /// Whether an exported symbol stands for this address.
    pub fn exports(&self, address: u64) -> bool {
        self.symbols
            .iter()
            .any(|symbol| self.is_defined(symbol) && symbol.st_value(ENDIAN) == address)
    }

    /// Whether the file asks the loader for a library whose name begins so.
    pub fn needs(&self, library: &str) -> bool {
        let names = self.dynamic(DT_NEEDED);
        names.iter().any(|name| name.starts_with(library.as_bytes()))
    }

    pub fn needs_exactly(&self, library: &str) -> bool {
        self.dynamic(DT_NEEDED).contains(&library.as_bytes())
    }

    /// What the file tells the loader under a tag whose values are strings.
    pub fn dynamic(&self, tag: i64) -> Vec<&'a [u8]> {
        let Ok(Some((entries, strings))) = self.sections.dynamic(ENDIAN, self.file) else {
            return Vec::new();
        };
        let Ok(strings) = self
            .sections
            .section(strings)
            .and_then(|section| section.data(ENDIAN, self.file))
        else {
            return Vec::new();
        };
        let string = |start: u64| {
            strings
                .get(usize::try_from(start).ok()?..)?
                .split(|&byte| byte == 0)
                .next()
        };
        entries
            .iter()
            .filter(|entry| entry.d_tag(ENDIAN) == tag)
            .filter_map(|entry| string(entry.d_val(ENDIAN)))
            .collect()
    }

    /// The pair of words at `address`, if the loader fills it in for `__tls_get_addr`.
    pub fn tls_index(&self, address: u64) -> Option<TlsIndex> {
        let (_, section) = self.sections.section_by_name(ENDIAN, b".rela.dyn")?;
        let relocations: &[Rela64<LittleEndian>] = section.data_as_array(ENDIAN, self.file).ok()?;
        let relocation = |address: u64, kind: u32| {
            relocations
                .iter()
                .find(|r| r.r_offset(ENDIAN) == address && r.r_type(ENDIAN, false) == kind)
        };
        relocation(address, R_X86_64_DTPMOD64)?;
        let offset_address = address.checked_add(8)?;
        // A variable local to the file has its offset written by the linker; only an exported one is left to the loader.
        let offset = match relocation(offset_address, R_X86_64_DTPOFF64) {
            Some(relocation) => {
                let symbol = self.symbols.get(relocation.r_sym(ENDIAN, false) as usize)?;
                symbol.st_value(ENDIAN).wrapping_add_signed(relocation.r_addend(ENDIAN))
            }
            None => self.u64(offset_address)?,
        };
        Some(TlsIndex { offset })
    }

    fn is_defined(&self, symbol: &Sym64<LittleEndian>) -> bool {
        !symbol.is_undefined(ENDIAN) && symbol.st_bind() != STB_LOCAL
    }

    fn is_named(&self, symbol: &Sym64<LittleEndian>, name: &str) -> bool {
        let stored = self.names.get(symbol.st_name(ENDIAN) as usize..);
        stored
            .and_then(|stored| stored.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The Bloom filter of `.gnu.hash`: false means that no symbol has this name. Most files a process maps are not
    /// Python; this answers for them without touching their symbols.
    fn hash_table_may_hold(&self, name: &str) -> bool {
        let Some((_, table)) = self.section(".gnu.hash") else {
            return true;
        };
        bloom_filter_may_hold(table, name.as_bytes()).unwrap_or(true)
    }
}

/// None if the table is not one.
fn bloom_filter_may_hold(table: &[u8], name: &[u8]) -> Option<bool> {
    let word = |at: usize| Some(u32::from_le_bytes(*table.get(at..)?.first_chunk()?));
    let (filters, shift) = (word(8)?, word(12)?);
    let hash = name.iter().fold(5381_u32, |hash, byte| {
        hash.wrapping_mul(33).wrapping_add(u32::from(*byte))
    });
    let index = (hash / 64).checked_rem(filters)? as usize;
    let filter = u64::from_le_bytes(*table.get(16 + 8 * index..)?.first_chunk()?);
    let bits = 1 << (hash % 64) | 1 << (hash.checked_shr(shift)? % 64);
    Some(filter & bits == bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_elf_is_no_image() {
        assert!(Image::parse(b"").is_none());
        assert!(Image::parse(b"#!/usr/bin/python3\n").is_none());
        assert!(Image::parse(&[0; 4096]).is_none());
    }

    #[test]
    fn the_filter_of_a_hash_table_rules_out_absent_names_only() {
        // One filter word with the two bits of "PyCode_Type", shift 6.
        let hash = b"PyCode_Type"
            .iter()
            .fold(5381_u32, |h, b| h.wrapping_mul(33).wrapping_add(u32::from(*b)));
        let filter = 1_u64 << (hash % 64) | 1 << ((hash >> 6) % 64);
        let mut table: Vec<u8> = [1_u32, 1, 1, 6].into_iter().flat_map(u32::to_le_bytes).collect();
        table.extend(filter.to_le_bytes());
        assert_eq!(bloom_filter_may_hold(&table, b"PyCode_Type"), Some(true));
        assert_eq!(bloom_filter_may_hold(&table, b"malloc"), Some(false));
        assert_eq!(bloom_filter_may_hold(&table[..20], b"malloc"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_hash_table_panics(table: Vec<u8>, name: Vec<u8>) {
            let _ = bloom_filter_may_hold(&table, &name);
        }
    }
}
