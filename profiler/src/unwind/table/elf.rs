//! What is wanted of an ELF file: its code, and where its unwind information is.

use std::{borrow::Cow, io::Read as _, ops::Range};

use gimli::{BaseAddresses, EhFrameHdr, LittleEndian};
use object::elf::{
    ELFCLASS64, ELFCOMPRESS_ZLIB, ELFDATA2LSB, EM_X86_64, FileHeader64, PF_X, PT_GNU_EH_FRAME, PT_LOAD,
    ProgramHeader64, R_X86_64_IRELATIVE, R_X86_64_RELATIVE, SHF_COMPRESSED, SHF_EXECINSTR, SHT_DYNSYM, SHT_SYMTAB,
    STT_FUNC, STT_GNU_IFUNC,
};
use object::read::elf::{
    CompressionHeader as _, FileHeader as _, ProgramHeader as _, Rela as _, SectionHeader as _, Sym as _,
};
use profiler_common::unwind::PAGE_BITS;

use super::{MAX_SECTION_BYTES, NoTable};

/// Code that is farther apart than this is not in one table: 65,536 pages. Code of x86-64 calls code 2 GiB away at
/// most, unless it is compiled for the large model.
pub const MAX_SPAN: u64 = 1 << 32;

/// Linkers write one, or a few if told to.
const MAX_CODE_SEGMENTS: usize = 64;

type Header = FileHeader64<object::LittleEndian>;

const ENDIAN: object::LittleEndian = object::LittleEndian;

/// An x86-64 ELF file.
pub struct Elf<'a> {
    file: &'a [u8],
    header: &'a Header,
    segments: &'a [ProgramHeader64<object::LittleEndian>],
    /// Where its code begins, rounded down to a page's start.
    pub base: u64,
    /// Where its code ends, relative to the base.
    pub span: u32,
    pub code: Vec<Code<'a>>,
    /// Sections of stubs through which other files' functions are called, relative to the base.
    pub stubs: Vec<Range<u32>>,
    /// Where a process begins to run it, relative to the base.
    pub entry: Option<u32>,
    /// Bytes of the sections that hold code; 0 if there are no section headers.
    code_bytes: u64,
    /// Its code without unwind information is expected to keep frame pointers: it is a Go program, whose own code has
    /// its unwind information in a format of Go's (amd64, Go 1.7), or most of its code has none.
    pub keeps_frame_pointers: bool,
}

/// An executable segment.
pub struct Code<'a> {
    /// Relative to the file's base.
    pub addresses: Range<u32>,
    pub bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    pub fn parse(file: &'a [u8]) -> Result<Self, NoTable> {
        match file {
            [0x7f, b'E', b'L', b'F', ELFCLASS64, ELFDATA2LSB, ..] => {}
            [0x7f, b'E', b'L', b'F', ..] => return Err(NoTable::WrongMachine),
            _ => return Err(NoTable::NotElf),
        }
        let header = Header::parse(file).map_err(|_| NoTable::Damaged)?;
        if header.e_machine(ENDIAN) != EM_X86_64 {
            return Err(NoTable::WrongMachine);
        }
        let segments = header.program_headers(ENDIAN, file).map_err(|_| NoTable::Damaged)?;
        let mut code: Vec<_> = segments
            .iter()
            .filter(|segment| segment.p_type(ENDIAN) == PT_LOAD && segment.p_flags(ENDIAN) & PF_X != 0)
            .filter(|segment| segment.p_memsz(ENDIAN) > 0)
            .collect();
        code.sort_by_key(|segment| segment.p_vaddr(ENDIAN));
        if code.len() > MAX_CODE_SEGMENTS {
            return Err(NoTable::TooLarge);
        }
        let first = code.first().ok_or(NoTable::NoUnwindInformation)?;
        let base = first.p_vaddr(ENDIAN) >> PAGE_BITS << PAGE_BITS;
        let code = code
            .into_iter()
            .map(|segment| {
                let start = segment.p_vaddr(ENDIAN) - base;
                let end = start
                    .checked_add(segment.p_memsz(ENDIAN))
                    .filter(|end| *end < MAX_SPAN && base.checked_add(*end).is_some())
                    .ok_or(NoTable::TooLarge)?;
                Ok(Code {
                    addresses: start as u32..end as u32,
                    bytes: segment.data(ENDIAN, file).unwrap_or_default(),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut elf = Self {
            file,
            header,
            segments,
            base,
            span: code.iter().map(|segment| segment.addresses.end).max().unwrap_or(0),
            code,
            stubs: Vec::new(),
            entry: None,
            code_bytes: 0,
            keeps_frame_pointers: false,
        };
        elf.entry = elf.code_range(header.e_entry(ENDIAN), 1).map(|(start, _)| start);
        elf.code_bytes = elf.section_bytes();
        elf.keeps_frame_pointers = [".gopclntab", ".data.rel.ro.gopclntab", ".note.go.buildid"]
            .iter()
            .any(|name| elf.section(name).is_some());
        elf.stubs = [".plt", ".plt.sec", ".plt.got", ".iplt"]
            .into_iter()
            .filter_map(|name| elf.section(name))
            .filter_map(|(address, bytes)| elf.code_range(address, bytes.len() as u64))
            .map(|(start, end)| start..end)
            .collect();
        Ok(elf)
    }

    /// A file of nothing but code, in order of address.
    #[cfg(test)]
    pub fn of_code(code: Vec<Code<'a>>) -> Self {
        let header = &[0; size_of::<Header>()];
        Self {
            file: &[],
            header: object::pod::from_bytes(header).expect("any bytes are a header").0,
            segments: &[],
            base: 0,
            span: code.last().map_or(0, |code| code.addresses.end),
            code,
            stubs: Vec::new(),
            entry: None,
            code_bytes: 0,
            keeps_frame_pointers: false,
        }
    }

    /// The address relative to the base; addresses past the end of what a table covers are at its end.
    pub fn offset(&self, address: u64) -> Option<u32> {
        Some(u32::try_from(address.checked_sub(self.base)?).unwrap_or(u32::MAX))
    }

    /// Start and end of an entry relative to the base, or `None` if it is not of code in this file.
    pub fn code_range(&self, start: u64, len: u64) -> Option<(u32, u32)> {
        let start = u32::try_from(start.checked_sub(self.base)?).ok()?;
        let segment = self.code.iter().find(|segment| segment.addresses.contains(&start))?;
        let end = u64::from(start).saturating_add(len).min(segment.addresses.end.into()) as u32;
        (start < end).then_some((start, end))
    }

    /// Whether so many bytes are most of its code.
    pub fn is_mostly(&self, bytes: u64) -> bool {
        bytes > 0 && self.code_bytes <= bytes.saturating_mul(2)
    }

    fn section_bytes(&self) -> u64 {
        let Ok(sections) = self.header.sections(ENDIAN, self.file) else {
            return 0;
        };
        sections
            .iter()
            .filter(|section| section.sh_flags(ENDIAN) & u64::from(SHF_EXECINSTR) != 0)
            .fold(0, |sum, section| sum.saturating_add(section.sh_size(ENDIAN)))
    }

    /// Whether the bytes before an address can be a call: `call rel32`, or through a register or memory without or with
    /// a displacement.
    pub fn may_call_before(&self, address: u32) -> bool {
        const LONGEST: u32 = 7;
        let Some(bytes) = address
            .checked_sub(LONGEST)
            .and_then(|start| self.bytes(start..address))
        else {
            return true;
        };
        let at = |back: usize| bytes.get(LONGEST as usize - back).copied();
        at(5) == Some(0xe8) || (2..=7).any(|back| at(back) == Some(0xff))
    }

    /// Calls `found` with the address, relative to the base, of each function that has a symbol. Pieces of functions that
    /// compilers put elsewhere, because they are rarely executed, are none.
    pub fn each_function_symbol(&self, mut found: impl FnMut(u32)) {
        /// What gcc and clang name them with.
        const PIECE: &[u8] = b".cold";
        let Ok(sections) = self.header.sections(ENDIAN, self.file) else {
            return;
        };
        for kind in [SHT_SYMTAB, SHT_DYNSYM] {
            let Ok(symbols) = sections.symbols(ENDIAN, self.file, kind) else {
                continue;
            };
            symbols
                .iter()
                .filter(|symbol| matches!(symbol.st_type(), STT_FUNC | STT_GNU_IFUNC) && !symbol.is_undefined(ENDIAN))
                .filter(|symbol| {
                    let name = symbol.name(ENDIAN, symbols.strings()).unwrap_or_default();
                    !name.windows(PIECE.len()).any(|part| part == PIECE)
                })
                .filter_map(|symbol| self.code_range(symbol.st_value(ENDIAN), 1))
                .for_each(|(start, _)| found(start));
        }
    }

    /// Calls `found` with each address, relative to the base, that the loader writes into a table of pointers.
    pub fn each_pointer(&self, mut found: impl FnMut(u32)) {
        let Ok(sections) = self.header.sections(ENDIAN, self.file) else {
            return;
        };
        for section in sections.iter() {
            let Ok(Some((entries, _))) = section.rela(ENDIAN, self.file) else {
                continue;
            };
            entries
                .iter()
                .filter(|entry| matches!(entry.r_type(ENDIAN, false), R_X86_64_RELATIVE | R_X86_64_IRELATIVE))
                .filter_map(|entry| self.code_range(entry.r_addend(ENDIAN).cast_unsigned(), 1))
                .for_each(|(start, _)| found(start));
        }
    }

    /// The file's bytes at addresses relative to the base.
    pub fn bytes(&self, addresses: Range<u32>) -> Option<&'a [u8]> {
        self.code.iter().find_map(|segment| {
            let start = addresses.start.checked_sub(segment.addresses.start)? as usize;
            segment.bytes.get(start..)?.get(..addresses.len())
        })
    }

    /// What is loaded at an address relative to the base, and behind it.
    pub fn data(&self, address: u64) -> Option<&'a [u8]> {
        let code = self.code.iter().find_map(|code| {
            let skip = usize::try_from(address.checked_sub(code.addresses.start.into())?).ok()?;
            code.bytes.get(skip..)
        });
        let address = self.base.wrapping_add(address);
        let loaded = self.segments.iter().filter(|segment| segment.p_type(ENDIAN) == PT_LOAD);
        code.into_iter()
            .chain(loaded.filter_map(|segment| {
                let skip = usize::try_from(address.checked_sub(segment.p_vaddr(ENDIAN))?).ok()?;
                segment.data(ENDIAN, self.file).ok()?.get(skip..)
            }))
            .find(|bytes| !bytes.is_empty())
    }

    /// Address and bytes of `.eh_frame`.
    pub fn eh_frame(&self) -> Option<(u64, &'a [u8])> {
        self.section(".eh_frame").or_else(|| self.eh_frame_by_segment())
    }

    /// The run time does without section headers, and so do some programs (packed, or stripped with `sstrip`).
    pub fn eh_frame_by_segment(&self) -> Option<(u64, &'a [u8])> {
        let index = self
            .segments
            .iter()
            .find(|segment| segment.p_type(ENDIAN) == PT_GNU_EH_FRAME)?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(index.p_vaddr(ENDIAN));
        let index = EhFrameHdr::new(index.data(ENDIAN, self.file).ok()?, LittleEndian);
        let address = index.parse(&bases, 8).ok()?.eh_frame_ptr().direct().ok()?;
        // Where it ends is not said anywhere: at its terminator, or with the segment.
        self.segments
            .iter()
            .filter(|segment| segment.p_type(ENDIAN) == PT_LOAD)
            .find_map(|segment| {
                let skip = usize::try_from(address.checked_sub(segment.p_vaddr(ENDIAN))?).ok()?;
                let bytes = segment.data(ENDIAN, self.file).ok()?.get(skip..)?;
                let bytes = bytes.get(..MAX_SECTION_BYTES).unwrap_or(bytes);
                (!bytes.is_empty()).then_some((address, bytes))
            })
    }

    pub fn debug_frame(&self) -> Option<Cow<'a, [u8]>> {
        let sections = self.header.sections(ENDIAN, self.file).ok()?;
        let (_, section) = sections.section_by_name(ENDIAN, b".debug_frame")?;
        if section.sh_flags(ENDIAN) & u64::from(SHF_COMPRESSED) == 0 {
            return Some(Cow::Borrowed(section.data(ENDIAN, self.file).ok()?));
        }
        let (header, offset, compressed_len) = section.compression(ENDIAN, self.file).ok()??;
        let start = usize::try_from(offset).ok()?;
        let compressed = self.file.get(start..)?.get(..usize::try_from(compressed_len).ok()?)?;
        let len = usize::try_from(header.ch_size(ENDIAN)).ok()?;
        if header.ch_type(ENDIAN) != ELFCOMPRESS_ZLIB || len > MAX_SECTION_BYTES {
            return None;
        }
        let mut bytes = Vec::new();
        flate2::read::ZlibDecoder::new(compressed)
            .take(len as u64)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(Cow::Owned(bytes))
    }

    pub fn section(&self, name: &str) -> Option<(u64, &'a [u8])> {
        let sections = self.header.sections(ENDIAN, self.file).ok()?;
        let (_, section) = sections.section_by_name(ENDIAN, name.as_bytes())?;
        Some((section.sh_addr(ENDIAN), section.data(ENDIAN, self.file).ok()?))
    }

    /// What pointers can be relative to. A pointer whose base is missing would end the reading of all others.
    pub fn bases(&self, eh_frame: u64) -> BaseAddresses {
        let address = |name| self.section(name).map_or(0, |(address, _)| address);
        BaseAddresses::default()
            .set_eh_frame(eh_frame)
            .set_text(address(".text"))
            .set_got(address(".got"))
    }
}
