//! A file's unwind table: from `.eh_frame` to rows the kernel side can search.
//!
//! gimli reads the sections; what is done here is to put all their rows into one order of addresses, without overlap.
//! Entries are read twice. The first time only their addresses are taken, so that they can be sorted; the second time,
//! in order of address, their rows go straight to where they stay. Nothing but the table itself and twelve bytes per
//! entry is ever in memory, and since no address gets more than one row, the size of the code bounds the table whatever
//! the entries allege.

use std::borrow::Cow;
use std::io::Read as _;
use std::ops::Range;

use gimli::{
    BaseAddresses, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, EhFrameHdr, FrameDescriptionEntry,
    LittleEndian, UnwindContext, UnwindOffset, UnwindSection,
};
use object::elf::{
    ELFCOMPRESS_ZLIB, EM_X86_64, FileHeader64, PF_X, PT_GNU_EH_FRAME, PT_LOAD, ProgramHeader64, SHF_COMPRESSED,
};
use object::read::elf::{CompressionHeader as _, FileHeader as _, ProgramHeader as _, SectionHeader as _};
use profiler_common::unwind::{PAGE_BITS, RULE_NONE, RULE_UNSUPPORTED, UnwindPage, UnwindRule, row, row_low, row_rule};

use super::rule::{self, Bytes, Room, Rules};

/// How to unwind the code of one file.
#[derive(Debug)]
pub struct Table {
    /// The address in the file (as its headers and symbols count) at which the first page begins.
    pub base: u64,
    /// Each covers 64 KiB of addresses; [`UnwindPage::first`] is an index into `rows`.
    pub pages: Vec<UnwindPage>,
    /// Made by [`row`]: low bits of the address, index into `rules`.
    pub rows: Vec<u32>,
    /// The first is for no information, the second for information we do not understand.
    pub rules: Vec<UnwindRule>,
    /// Entries that could not be read. Addresses of theirs are not covered.
    pub unreadable: usize,
}

/// Why a file has no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTable {
    #[error("not an ELF file")]
    NotElf,
    #[error("not x86-64")]
    WrongMachine,
    #[error("it has no unwind information")]
    NoUnwindInformation,
    #[error("its unwind information is damaged")]
    Damaged,
    #[error("its unwind information is larger than we read")]
    TooLarge,
}

/// Code that is farther apart than this is not in one table: 65,536 pages. Code of x86-64 calls code 2 GiB away at
/// most, unless it is compiled for the large model.
const MAX_SPAN: u64 = 1 << 32;

/// SECTIONFACT
const MAX_SECTION_BYTES: usize = 128 << 20;

/// ENTRYFACT
const MAX_ENTRIES: usize = 4 << 20;

/// How often a section's length may be spent on the instructions that its entries have in common. They are run for each
/// entry anew, so many short entries that share a long one would take forever. gcc's and clang's are as long as their
/// shortest entries.
const MAX_SHARED_WORK: usize = 4;

/// Linkers merge equal ones; usually there are fewer than ten, and one per object file in `.debug_frame`.
const MAX_COMMON_ENTRIES: usize = 1 << 17;

/// rustc's driver has four million. This is 128 MiB.
const MAX_ROWS: usize = 32 << 20;

/// Linkers write one, or a few if told to.
const MAX_CODE_SEGMENTS: usize = 64;

/// Makes the table of the ELF file with these bytes.
pub fn build(file: &[u8]) -> Result<Table, NoTable> {
    let elf = Elf::parse(file)?;
    if let Some((address, bytes)) = elf.eh_frame()
        && !is_empty(bytes)
    {
        let mut section = EhFrame::new(checked(bytes)?, LittleEndian);
        section.set_address_size(8);
        return build_from(&elf, &section, bytes.len(), &elf.bases(address));
    }
    if let Some(bytes) = elf.debug_frame()
        && !is_empty(&bytes)
    {
        let mut section = DebugFrame::new(checked(&bytes)?, LittleEndian);
        section.set_address_size(8);
        return build_from(&elf, &section, bytes.len(), &elf.bases(0));
    }
    Err(NoTable::NoUnwindInformation)
}

/// Nothing but the terminator that crtend.o brings, if anything.
fn is_empty(section: &[u8]) -> bool {
    section.iter().take(8).all(|byte| *byte == 0)
}

fn checked(section: &[u8]) -> Result<&[u8], NoTable> {
    if section.len() > MAX_SECTION_BYTES {
        return Err(NoTable::TooLarge);
    }
    Ok(section)
}

fn build_from<'a, S>(elf: &Elf<'_>, section: &S, len: usize, bases: &BaseAddresses) -> Result<Table, NoTable>
where
    S: UnwindSection<Bytes<'a>>,
{
    let (cies, entries, mut unreadable) = read_entries(elf, section, len, bases)?;
    if entries.is_empty() {
        return Err(if unreadable > 0 {
            NoTable::Damaged
        } else {
            NoTable::NoUnwindInformation
        });
    }

    let mut writer = Writer::new(elf.base);
    let mut context = UnwindContext::<usize, Room>::new_in();
    let mut covered = 0;
    for (i, entry) in entries.iter().enumerate() {
        if entry.start > covered {
            fill_gap(elf, &mut writer, covered..entry.start);
        }
        // An entry ends where the next one starts: who searches the file's own index (.eh_frame_hdr), as the C++ run
        // time does, takes the last entry that starts at or before an address, and no other.
        let end = entries.get(i + 1).map_or(entry.end, |next| entry.end.min(next.start));
        covered = end;
        let fde = section
            .partial_fde_from_offset(bases, S::Offset::from(entry.offset as usize))
            .and_then(|fde| fde.parse(|_, _, offset| cies.get(UnwindOffset::into(offset))));
        let Ok(fde) = fde else {
            // It could be read the first time.
            unreadable += 1;
            writer.push(entry.start, RULE_UNSUPPORTED);
            continue;
        };
        write_entry(elf, section, bases, &mut context, &fde, entry.start..end, &mut writer);
        if writer.rows.len() > MAX_ROWS {
            return Err(NoTable::TooLarge);
        }
    }
    fill_gap(elf, &mut writer, covered..elf.span);
    Ok(writer.finish(unreadable))
}

/// The rows of one entry, which has these addresses.
fn write_entry<'a, S>(
    elf: &Elf<'_>,
    section: &S,
    bases: &BaseAddresses,
    context: &mut UnwindContext<usize, Room>,
    fde: &FrameDescriptionEntry<Bytes<'a>>,
    addresses: Range<u32>,
    writer: &mut Writer,
) where
    S: UnwindSection<Bytes<'a>>,
{
    let Ok(mut rows) = fde.rows(section, bases, context) else {
        writer.push(addresses.start, RULE_UNSUPPORTED);
        return;
    };
    let mut at = addresses.start;
    while at < addresses.end {
        match rows.next_row() {
            Ok(Some(row)) => {
                let Some(end) = elf.offset(row.end_address()) else {
                    return;
                };
                if end <= at {
                    continue;
                }
                writer.push_rule(at, rule::from_row(section, fde.cie(), row));
                at = end;
            }
            Ok(None) => return,
            Err(_) => {
                writer.push(at, RULE_UNSUPPORTED);
                return;
            }
        }
    }
}

/// An FDE, addresses relative to the table's base.
#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    end: u32,
    /// In the section.
    offset: u32,
}

type Cie<'a> = CommonInformationEntry<Bytes<'a>>;

/// What entries have in common, in order of their offset in the section. Parsing it for each entry is what takes most
/// of the time otherwise.
struct Cies<'a>(Vec<(usize, Cie<'a>)>);

impl<'a> Cies<'a> {
    /// Only what begins where a walk over the section came by, and comes first: else every entry could point
    /// into the middle of something long. Linkers write it first.
    fn get(&self, offset: usize) -> gimli::Result<Cie<'a>> {
        match self.0.binary_search_by_key(&offset, |(at, _)| *at) {
            Ok(i) => self.0.get(i).map(|(_, cie)| cie.clone()),
            Err(_) => None,
        }
        .ok_or(gimli::Error::NotCieId(offset as u64))
    }
}

/// All entries that cover code, sorted, and how many could not be read.
fn read_entries<'a, S>(
    elf: &Elf<'_>,
    section: &S,
    len: usize,
    bases: &BaseAddresses,
) -> Result<(Cies<'a>, Vec<Entry>, usize), NoTable>
where
    S: UnwindSection<Bytes<'a>>,
{
    let mut cies = Cies(Vec::new());
    let mut found = Vec::new();
    let mut unreadable = 0;
    let mut work_left = len.saturating_mul(MAX_SHARED_WORK);
    let mut walk = section.entries(bases);
    loop {
        match walk.next() {
            Ok(Some(CieOrFde::Cie(cie))) => {
                if cies.0.len() >= MAX_COMMON_ENTRIES {
                    return Err(NoTable::TooLarge);
                }
                cies.0.push((cie.offset(), cie));
            }
            Ok(Some(CieOrFde::Fde(partial))) => {
                let Ok(fde) = partial.parse(|_, _, offset| cies.get(UnwindOffset::into(offset))) else {
                    unreadable += 1;
                    continue;
                };
                work_left = work_left.checked_sub(fde.cie().entry_len()).ok_or(NoTable::TooLarge)?;
                if found.len() >= MAX_ENTRIES {
                    return Err(NoTable::TooLarge);
                }
                // What the linker dropped from the program stays in .debug_frame, at address 0.
                let Some((start, end)) = elf.code_range(fde.initial_address(), fde.len()) else {
                    continue;
                };
                let offset = u32::try_from(fde.offset()).map_err(|_| NoTable::TooLarge)?;
                found.push(Entry { start, end, offset });
            }
            Ok(None) => break,
            // There is no telling where the next one begins.
            Err(_) => {
                unreadable += 1;
                break;
            }
        }
    }
    found.sort_unstable_by_key(|entry| (entry.start, entry.offset));
    found.dedup_by_key(|entry| entry.start);
    Ok((cies, found, unreadable))
}

/// Says of addresses without an entry that there is none, except of signal trampolines.
///
/// musl and Go have no unwind information for theirs, which is known by what every one does: call `rt_sigreturn`.
fn fill_gap(elf: &Elf<'_>, writer: &mut Writer, gap: Range<u32>) {
    if !gap.is_empty() && elf.bytes(gap.clone()).is_some_and(is_padding) {
        return;
    }
    let mut from = gap.start;
    for trampoline in trampolines(elf, gap.clone()) {
        // The caller of a function is looked up one byte before the address it returns to, because a call may be a
        // function's last instruction. A signal handler returns to the trampoline's first byte without having been
        // called from there, so its rule begins one byte early, as it does in glibc.
        let start = trampoline.start.saturating_sub(1);
        if from < start {
            writer.push(from, RULE_NONE);
        }
        writer.push_rule(start, rule::TRAMPOLINE);
        from = trampoline.end;
    }
    if from < gap.end || gap.is_empty() {
        writer.push(from, RULE_NONE);
    }
}

/// Whether these bytes only move the next function to a round address. They are never executed, so whatever rule is in
/// effect before them may stay, which saves most functions two rows: for "none" here, and for what most functions end and
/// begin with.
fn is_padding(mut bytes: &[u8]) -> bool {
    while let [first, rest @ ..] = bytes {
        bytes = match (first, rest) {
            // `nop`, `int3`, nothing; `66` and `2e` are prefixes that make a `nop` longer.
            (0x90 | 0xcc | 0x00 | 0x66 | 0x2e, rest) => rest,
            // `nopl` with operands of one to six bytes (Intel SDM, volume 2, table 4-12).
            (0x0f, [0x1f, 0x00, rest @ ..])
            | (0x0f, [0x1f, 0x40, _, rest @ ..])
            | (0x0f, [0x1f, 0x44, _, _, rest @ ..])
            | (0x0f, [0x1f, 0x80, _, _, _, _, rest @ ..])
            | (0x0f, [0x1f, 0x84, _, _, _, _, _, rest @ ..]) => rest,
            _ => return false,
        };
    }
    true
}

/// `mov $15, %rax; syscall` and `mov $15, %eax; syscall`.
const TRAMPOLINES: [&[u8]; 2] = [
    &[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05],
    &[0xb8, 15, 0, 0, 0, 0x0f, 0x05],
];

const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// The calls of `rt_sigreturn` in these addresses.
fn trampolines(elf: &Elf<'_>, gap: Range<u32>) -> Vec<Range<u32>> {
    let mut found = Vec::new();
    for segment in &elf.code {
        let start = gap.start.max(segment.addresses.start);
        let end = gap.end.min(segment.addresses.end);
        if start >= end {
            continue;
        }
        let (start_at, end_at) = (
            (start - segment.addresses.start) as usize,
            (end - segment.addresses.start) as usize,
        );
        let end_at = end_at.min(segment.bytes.len());
        let Some(bytes) = segment.bytes.get(start_at..end_at) else {
            continue;
        };
        for (i, _) in bytes.windows(2).enumerate().filter(|(_, pair)| **pair == SYSCALL) {
            let end = i + SYSCALL.len();
            let code = TRAMPOLINES.iter().find(|code| bytes[..end].ends_with(code));
            if let Some(code) = code {
                found.push(start + (end - code.len()) as u32..start + end as u32);
            }
        }
    }
    found
}

/// Puts rows into pages. Addresses must not descend.
struct Writer {
    base: u64,
    pages: Vec<UnwindPage>,
    rows: Vec<u32>,
    rules: Rules,
    last: (UnwindRule, u16),
}

impl Writer {
    fn new(base: u64) -> Self {
        Self {
            base,
            pages: Vec::new(),
            rows: Vec::new(),
            rules: Rules::new(),
            last: (rule::NONE, RULE_NONE),
        }
    }

    fn push_rule(&mut self, at: u32, rule: UnwindRule) {
        if rule != self.last.0 {
            self.last = (rule, self.rules.intern(rule));
        }
        self.push(at, self.last.1);
    }

    /// From `at` on, `rule` holds.
    fn push(&mut self, at: u32, rule: u16) {
        self.open(at >> PAGE_BITS);
        let low = at as u16;
        if let Some(page) = self.pages.last_mut()
            && let Some(last) = self.rows.last_mut()
        {
            if row_low(*last) == low {
                *last = row(low, rule);
                // It may have become equal to the one before.
                if page.rows > 1 && self.rows.iter().rev().nth(1).is_some_and(|row| row_rule(*row) == rule) {
                    self.rows.pop();
                    page.rows -= 1;
                }
            } else if row_rule(*last) != rule {
                self.rows.push(row(low, rule));
                page.rows += 1;
            }
        }
    }

    /// Makes all pages up to this one. Each begins with the rule that held at the end of the one before.
    fn open(&mut self, page: u32) {
        while self.pages.len() <= page as usize {
            let carried = self.rows.last().map_or(RULE_NONE, |row| row_rule(*row));
            self.pages.push(UnwindPage {
                first: self.rows.len() as u32,
                rows: 1,
            });
            self.rows.push(row(0, carried));
        }
    }

    fn finish(mut self, unreadable: usize) -> Table {
        self.pages.shrink_to_fit();
        self.rows.shrink_to_fit();
        Table {
            base: self.base,
            pages: self.pages,
            rows: self.rows,
            rules: self.rules.into_rules(),
            unreadable,
        }
    }
}

impl Table {
    /// The rule for an address in the file, found as the kernel side finds it.
    pub fn lookup(&self, address: u64) -> &UnwindRule {
        self.row_at(address)
            .and_then(|row| self.rules.get(usize::from(row_rule(row))))
            .unwrap_or(&rule::NONE)
    }

    fn row_at(&self, address: u64) -> Option<u32> {
        let page = address.checked_sub(self.base)? >> PAGE_BITS;
        let page = self.pages.get(usize::try_from(page).ok()?)?;
        let rows = self.rows.get(page.first as usize..)?.get(..page.rows as usize)?;
        let after = rows.partition_point(|row| row_low(*row) <= address as u16);
        rows.get(after.checked_sub(1)?).copied()
    }
}

type Header = FileHeader64<object::LittleEndian>;

const ENDIAN: object::LittleEndian = object::LittleEndian;

/// What is wanted of an ELF file.
struct Elf<'a> {
    file: &'a [u8],
    header: &'a Header,
    segments: &'a [ProgramHeader64<object::LittleEndian>],
    /// Where its code begins, rounded down to a page's start.
    base: u64,
    /// Where its code ends, relative to the base.
    span: u32,
    code: Vec<Code<'a>>,
}

/// An executable segment.
struct Code<'a> {
    /// Relative to the file's base.
    addresses: Range<u32>,
    bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    fn parse(file: &'a [u8]) -> Result<Self, NoTable> {
        let header = Header::parse(file).map_err(|_| NoTable::NotElf)?;
        header.endian().map_err(|_| NoTable::WrongMachine)?;
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
        Ok(Self {
            file,
            header,
            segments,
            base,
            span: code.iter().map(|segment| segment.addresses.end).max().unwrap_or(0),
            code,
        })
    }

    /// The address relative to the base; addresses past the end of what a table covers are at its end.
    fn offset(&self, address: u64) -> Option<u32> {
        Some(u32::try_from(address.checked_sub(self.base)?).unwrap_or(u32::MAX))
    }

    /// Start and end of an entry relative to the base, or `None` if it is not of code in this file.
    fn code_range(&self, start: u64, len: u64) -> Option<(u32, u32)> {
        let start = u32::try_from(start.checked_sub(self.base)?).ok()?;
        let segment = self.code.iter().find(|segment| segment.addresses.contains(&start))?;
        let end = u64::from(start).saturating_add(len).min(segment.addresses.end.into()) as u32;
        (start < end).then_some((start, end))
    }

    /// The file's bytes at addresses relative to the base.
    fn bytes(&self, addresses: Range<u32>) -> Option<&'a [u8]> {
        self.code.iter().find_map(|segment| {
            let start = addresses.start.checked_sub(segment.addresses.start)? as usize;
            segment.bytes.get(start..)?.get(..addresses.len())
        })
    }

    /// Address and bytes of `.eh_frame`.
    fn eh_frame(&self) -> Option<(u64, &'a [u8])> {
        self.section(".eh_frame").or_else(|| self.eh_frame_by_segment())
    }

    /// The run time does without section headers, and so do some programs (packed, or stripped with `sstrip`).
    fn eh_frame_by_segment(&self) -> Option<(u64, &'a [u8])> {
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
                (!bytes.is_empty()).then_some((address, bytes))
            })
    }

    fn debug_frame(&self) -> Option<Cow<'a, [u8]>> {
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

    fn section(&self, name: &str) -> Option<(u64, &'a [u8])> {
        let sections = self.header.sections(ENDIAN, self.file).ok()?;
        let (_, section) = sections.section_by_name(ENDIAN, name.as_bytes())?;
        Some((section.sh_addr(ENDIAN), section.data(ENDIAN, self.file).ok()?))
    }

    /// What pointers can be relative to. A pointer whose base is missing would end the reading of all others.
    fn bases(&self, eh_frame: u64) -> BaseAddresses {
        let address = |name| self.section(name).map_or(0, |(address, _)| address);
        BaseAddresses::default()
            .set_eh_frame(eh_frame)
            .set_text(address(".text"))
            .set_got(address(".got"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write as _;

    use gimli::{CfaRule, EvaluationResult, Location, RegisterRule, UnwindExpression, Value, X86_64};
    use profiler_common::unwind::*;
    use proptest::prelude::*;

    use super::*;

    /// Where the code of [`FakeElf`] is.
    const CODE: u64 = 0x41_0000;
    const EH_FRAME: u64 = 0x80_0000;
    const EH_FRAME_HDR: u64 = 0x70_0000;

    /// A file with one segment of code and sections or segments with unwind information.
    struct FakeElf {
        code: Vec<u8>,
        /// How long the code is in memory.
        code_len: u64,
        /// Name, address, flags, bytes.
        sections: Vec<(&'static str, u64, u64, Vec<u8>)>,
        /// Type, flags, address, bytes.
        segments: Vec<(u32, u32, u64, Vec<u8>)>,
    }

    impl FakeElf {
        fn new(code_len: u64) -> Self {
            Self {
                // `ret`, which is not padding.
                code: vec![0xc3; code_len.min(1 << 20) as usize],
                code_len,
                sections: Vec::new(),
                segments: Vec::new(),
            }
        }

        fn with_eh_frame(mut self, eh_frame: EhFrameBytes) -> Self {
            self.sections.push((".eh_frame", EH_FRAME, 2, eh_frame.finish()));
            self
        }

        fn with_code(mut self, at: u64, code: &[u8]) -> Self {
            let at = (at - CODE) as usize;
            self.code[at..at + code.len()].copy_from_slice(code);
            self
        }

        fn bytes(&self) -> Vec<u8> {
            const HEADER: usize = 64;
            const SEGMENT: usize = 56;
            let segments = 1 + self.segments.len();
            let mut body = Vec::new();
            let body_at = (HEADER + SEGMENT * segments) as u64;
            let mut put = |bytes: &[u8]| {
                body.extend(vec![0; body.len().next_multiple_of(16) - body.len()]);
                let at = body_at + body.len() as u64;
                body.extend_from_slice(bytes);
                at
            };

            let code = (PT_LOAD, 5, CODE, self.code_len, &self.code);
            let others = self
                .segments
                .iter()
                .map(|(kind, flags, at, bytes)| (*kind, *flags, *at, bytes.len() as u64, bytes));
            let mut segment_table = Vec::new();
            for (kind, flags, address, len, bytes) in std::iter::once(code).chain(others) {
                segment_table.extend(kind.to_le_bytes());
                segment_table.extend(flags.to_le_bytes());
                for word in [put(bytes), address, address, bytes.len() as u64, len, 4096] {
                    segment_table.extend(word.to_le_bytes());
                }
            }

            let mut names = vec![0];
            let mut section_table = vec![0; 64];
            for (name, address, flags, bytes) in &self.sections {
                let name_at = names.len() as u32;
                names.extend(name.as_bytes());
                names.push(0);
                section_table.extend(section(name_at, 1, *flags, *address, put(bytes), bytes.len() as u64));
            }
            let name_at = names.len() as u32;
            names.extend(b".shstrtab\0");
            section_table.extend(section(name_at, 3, 0, 0, put(&names), names.len() as u64));
            let section_count = self.sections.len() as u16 + 2;
            let section_table_at = put(&section_table);

            let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
            file.extend(3_u16.to_le_bytes());
            file.extend(EM_X86_64.to_le_bytes());
            file.extend(1_u32.to_le_bytes());
            for word in [0, HEADER as u64, section_table_at] {
                file.extend(word.to_le_bytes());
            }
            file.extend(0_u32.to_le_bytes());
            let (section_count, names_index) = if self.sections.is_empty() {
                (0, 0)
            } else {
                (section_count, section_count - 1)
            };
            for half in [
                HEADER as u16,
                SEGMENT as u16,
                segments as u16,
                64,
                section_count,
                names_index,
            ] {
                file.extend(half.to_le_bytes());
            }
            file.extend(segment_table);
            file.extend(body);
            file
        }

        fn table(&self) -> Table {
            let table = build(&self.bytes()).expect("a table");
            check_invariants(&table);
            table
        }
    }

    fn section(name: u32, kind: u32, flags: u64, address: u64, at: u64, len: u64) -> Vec<u8> {
        let mut header = Vec::new();
        header.extend(name.to_le_bytes());
        header.extend(kind.to_le_bytes());
        for word in [flags, address, at, len] {
            header.extend(word.to_le_bytes());
        }
        header.extend([0; 8]);
        header.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        header
    }

    /// As gcc and clang write it: addresses of four bytes relative to where they are.
    struct EhFrameBytes(Vec<u8>);

    impl EhFrameBytes {
        /// With "the canonical frame address is `rsp + 8`, the return address is below it".
        fn new() -> Self {
            Self::with_augmentation(b"zR\0")
        }

        fn with_augmentation(augmentation: &[u8]) -> Self {
            let mut cie = vec![0, 0, 0, 0, 1];
            cie.extend(augmentation);
            cie.extend([1, 0x78, 16, 1, 0x1b, 0x0c, 7, 8, 0x90, 1]);
            cie.resize(cie.len().next_multiple_of(4), 0);
            let mut bytes = (cie.len() as u32).to_le_bytes().to_vec();
            bytes.extend(cie);
            Self(bytes)
        }

        fn fde(mut self, addresses: Range<u64>, instructions: &[u8]) -> Self {
            let at = self.0.len() as u64;
            let len = (13 + instructions.len()).next_multiple_of(4);
            self.0.extend((len as u32).to_le_bytes());
            self.0.extend((at as u32 + 4).to_le_bytes());
            self.0
                .extend((addresses.start.wrapping_sub(EH_FRAME + at + 8) as u32).to_le_bytes());
            self.0.extend(((addresses.end - addresses.start) as u32).to_le_bytes());
            self.0.push(0);
            self.0.extend(instructions);
            self.0.resize(at as usize + 4 + len, 0);
            self
        }

        fn finish(mut self) -> Vec<u8> {
            self.0.extend([0; 4]);
            self.0
        }
    }

    /// After one byte: `push %rbp`; after three more: `mov %rsp, %rbp`.
    const PROLOGUE: &[u8] = &[0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6];

    fn sp(cfa_offset: i32) -> UnwindRule {
        UnwindRule {
            cfa: CFA_SP,
            cfa_offset,
            ..UnwindRule::default()
        }
    }

    /// The rule of a function with these instructions.
    fn only_rule(augmentation: &[u8], instructions: &[u8]) -> UnwindRule {
        let eh_frame = EhFrameBytes::with_augmentation(augmentation).fde(CODE..CODE + 16, instructions);
        *FakeElf::new(64).with_eh_frame(eh_frame).table().lookup(CODE)
    }

    /// `DW_CFA_def_cfa_expression`
    fn cfa_expression(operations: &[u8]) -> Vec<u8> {
        let mut instructions = vec![0x0f, operations.len() as u8];
        instructions.extend(operations);
        instructions
    }

    fn check_invariants(table: &Table) {
        assert!(table.base.is_multiple_of(1 << PAGE_BITS));
        assert_eq!(table.rules[usize::from(RULE_NONE)].cfa, CFA_NONE);
        assert_eq!(table.rules[usize::from(RULE_UNSUPPORTED)].cfa, CFA_UNSUPPORTED);
        assert!(table.rules.len() <= MAX_RULES);
        let mut next = 0;
        for page in &table.pages {
            assert_eq!(page.first, next);
            let rows = &table.rows[page.first as usize..][..page.rows as usize];
            assert_eq!(rows.first().map(|row| row_low(*row)), Some(0));
            assert!(rows.is_sorted_by(|a, b| row_low(*a) < row_low(*b) && row_rule(*a) != row_rule(*b)));
            next += page.rows;
        }
        assert_eq!(table.rows.len(), next as usize);
        let highest = table.rows.iter().map(|row| usize::from(row_rule(*row))).max();
        assert!(highest < Some(table.rules.len()));
    }

    #[test]
    fn an_address_has_the_rule_of_the_last_row_before_it() {
        let table = FakeElf::new(64)
            .with_eh_frame(EhFrameBytes::new().fde(CODE + 16..CODE + 32, PROLOGUE))
            .table();
        let pushed = UnwindRule {
            fp: FP_AT_CFA,
            fp_offset: -16,
            ..sp(16)
        };
        let moved = UnwindRule { cfa: CFA_FP, ..pushed };
        let expected = [
            (15, rule::NONE),
            (16, sp(8)),
            (17, pushed),
            (19, pushed),
            (20, moved),
            (31, moved),
            (32, rule::NONE),
        ];
        for (at, rule) in expected {
            assert_eq!(*table.lookup(CODE + at), rule, "{at}");
        }
        assert_eq!(*table.lookup(CODE - 1), rule::NONE);
        assert_eq!(*table.lookup(u64::MAX), rule::NONE);
        assert_eq!(
            (table.base, table.pages.len(), table.rows.len(), table.unreadable),
            (CODE, 1, 5, 0)
        );
    }

    #[test]
    fn entries_out_of_order_are_sorted_and_equal_rules_merged() {
        let eh_frame = EhFrameBytes::new()
            .fde(CODE + 32..CODE + 48, &[])
            .fde(CODE..CODE + 16, &[])
            .fde(CODE + 16..CODE + 32, &[]);
        let table = FakeElf::new(48).with_eh_frame(eh_frame).table();
        assert_eq!(table.rows, [row(0, 2), row(48, 0)]);
    }

    #[test]
    fn an_entry_ends_where_the_next_begins() {
        let eh_frame = EhFrameBytes::new()
            .fde(CODE..CODE + 48, PROLOGUE)
            .fde(CODE + 16..CODE + 32, &[]);
        let table = FakeElf::new(64).with_eh_frame(eh_frame).table();
        assert_eq!(table.lookup(CODE + 15).cfa, CFA_FP);
        assert_eq!(*table.lookup(CODE + 16), sp(8));
        assert_eq!(*table.lookup(CODE + 32), rule::NONE);
    }

    #[test]
    fn padding_between_functions_costs_no_rows() {
        let eh_frame = EhFrameBytes::new()
            .fde(CODE..CODE + 7, &[])
            .fde(CODE + 32..CODE + 40, &[]);
        let nops = [
            0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00, // cs nopw 0(%rax,%rax)
            0x0f, 0x1f, 0x44, 0x00, 0x00, // nopl 0(%rax,%rax)
            0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00, // nopl 0(%rax)
            0x66, 0x90, 0xcc, // xchg %ax,%ax; int3
        ];
        let elf = FakeElf::new(40).with_eh_frame(eh_frame).with_code(CODE + 7, &nops);
        assert_eq!(elf.table().rows, [row(0, 2), row(40, 0)]);
        let elf = elf.with_code(CODE + 7, &[0xc3]);
        assert_eq!(elf.table().rows, [row(0, 2), row(7, 0), row(32, 2), row(40, 0)]);
    }

    #[test]
    fn every_page_begins_with_the_rule_in_effect() {
        let eh_frame = EhFrameBytes::new()
            .fde(CODE + 8..CODE + 0x2_0010, PROLOGUE)
            .fde(CODE + 0x4_0000..CODE + 0x4_0010, &[]);
        let table = FakeElf::new(0x4_0010).with_eh_frame(eh_frame).table();
        assert_eq!(table.pages.len(), 5);
        assert_eq!(table.lookup(CODE + 0x1_0000).cfa, CFA_FP);
        assert_eq!(table.pages[1].rows, 1);
        assert_eq!(*table.lookup(CODE + 0x2_0010), rule::NONE);
        assert_eq!((*table.lookup(CODE + 0x3_0000), table.pages[3].rows), (rule::NONE, 1));
        assert_eq!(*table.lookup(CODE + 0x4_0000), sp(8));
    }

    #[test]
    fn a_trampoline_without_an_entry_is_known_by_its_bytes() {
        for code in TRAMPOLINES {
            let end = CODE + 32 + code.len() as u64;
            let eh_frame = EhFrameBytes::new().fde(CODE..CODE + 32, &[]);
            let table = FakeElf::new(64)
                .with_eh_frame(eh_frame)
                .with_code(CODE + 32, code)
                .table();
            assert_eq!(*table.lookup(CODE + 30), sp(8));
            assert_eq!(*table.lookup(CODE + 31), rule::TRAMPOLINE);
            assert_eq!(*table.lookup(end - 1), rule::TRAMPOLINE);
            assert_eq!(*table.lookup(end), rule::NONE);

            let eh_frame = EhFrameBytes::new().fde(CODE..CODE + 64, &[]);
            let table = FakeElf::new(64)
                .with_eh_frame(eh_frame)
                .with_code(CODE + 32, code)
                .table();
            assert_eq!(*table.lookup(CODE + 32), sp(8), "what the file says goes first");
        }
    }

    #[test]
    fn the_expressions_of_linkers_compilers_and_glibc_are_understood() {
        // rsp + 8 + ((rip & 15) >= 11) << 3
        let stub = cfa_expression(&[0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22]);
        let plt = UnwindRule {
            cfa: CFA_PLT,
            cfa_extra: 11,
            ..sp(8)
        };
        assert_eq!(only_rule(b"zR\0", &stub), plt);

        // CFA: *(rbp - 8); rbp: at rbp + 0
        let mut realigned = cfa_expression(&[0x76, 0x78, 0x06]);
        realigned.extend([0x10, 6, 2, 0x76, 0]);
        let expected = UnwindRule {
            cfa: CFA_DEREF_FP,
            fp: FP_AT_FP,
            ..sp(-8)
        };
        assert_eq!(only_rule(b"zR\0", &realigned), expected);

        // *(rsp + 16) + 8
        let expected = UnwindRule {
            cfa: CFA_DEREF_SP,
            cfa_extra: 8,
            ..sp(16)
        };
        assert_eq!(
            only_rule(b"zR\0", &cfa_expression(&[0x77, 16, 0x06, 0x23, 8])),
            expected
        );

        assert_eq!(only_rule(b"zR\0", &cfa_expression(&[0x77, 24])), sp(24));

        // CFA: *(rsp + 160 + 8); rip: at rsp + 168 + 8
        let mut signal = cfa_expression(&[0x77, 0xa8, 1, 0x06]);
        signal.extend([0x10, 16, 3, 0x77, 0xb0, 1]);
        let expected = UnwindRule {
            cfa: CFA_SIGNAL,
            ..sp(8)
        };
        assert_eq!(only_rule(b"zRS\0", &signal), expected);
        assert_eq!(
            only_rule(b"zR\0", &signal),
            rule::UNSUPPORTED,
            "not marked as a signal frame"
        );
    }

    #[test]
    fn registers_are_those_of_the_kernel() {
        // DW_CFA_def_cfa r10, 0
        let expected = UnwindRule {
            cfa: CFA_REGISTER,
            register: 7,
            ..sp(0)
        };
        assert_eq!(only_rule(b"zR\0", &[0x0c, 10, 0]), expected);
        // DW_CFA_register rip, rdi
        let expected = UnwindRule {
            ra: RA_IN_REGISTER + 14,
            ..sp(8)
        };
        assert_eq!(only_rule(b"zR\0", &[0x09, 16, 5]), expected);
    }

    #[test]
    fn a_function_without_a_return_address_has_no_caller() {
        assert_eq!(only_rule(b"zR\0", &[0x07, 16]).cfa, CFA_END);
    }

    #[test]
    fn what_is_not_understood_is_unsupported_to_the_entrys_end() {
        // rsp + 8 + 8 * r9, dereferenced: OpenSSL's bn_mul_mont.
        let expression = cfa_expression(&[0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22, 0x06, 0x23, 8]);
        assert_eq!(only_rule(b"zR\0", &expression), rule::UNSUPPORTED);

        // After one byte, an instruction that does not exist.
        let eh_frame = EhFrameBytes::new().fde(CODE..CODE + 16, &[0x41, 0x3e]);
        let table = FakeElf::new(64).with_eh_frame(eh_frame).table();
        assert_eq!(*table.lookup(CODE), sp(8));
        assert_eq!(*table.lookup(CODE + 15), rule::UNSUPPORTED);
        assert_eq!(*table.lookup(CODE + 16), rule::NONE);
    }

    #[test]
    fn sections_are_not_needed_to_find_the_entries() {
        let mut elf = FakeElf::new(64);
        let eh_frame = EhFrameBytes::new().fde(CODE..CODE + 16, PROLOGUE).finish();
        let mut index = vec![1, 0x1b, 0xff, 0xff];
        index.extend(((EH_FRAME - EH_FRAME_HDR - 4) as u32).to_le_bytes());
        elf.segments.push((PT_LOAD, 4, EH_FRAME, eh_frame));
        elf.segments.push((PT_GNU_EH_FRAME, 4, EH_FRAME_HDR, index));
        assert_eq!(elf.table().lookup(CODE + 8).cfa, CFA_FP);
    }

    #[test]
    fn debug_frame_counts_only_without_eh_frame_and_may_be_compressed() {
        // CIE of version 1 without augmentation, one FDE with absolute addresses.
        let mut debug_frame = vec![
            16, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1, 0, 0,
        ];
        debug_frame.extend(20_u32.to_le_bytes());
        debug_frame.extend(0_u32.to_le_bytes());
        debug_frame.extend(CODE.to_le_bytes());
        debug_frame.extend(16_u64.to_le_bytes());

        let mut elf = FakeElf::new(64);
        elf.sections.push((".debug_frame", 0, 0, debug_frame.clone()));
        assert_eq!(*elf.table().lookup(CODE), sp(8));

        let mut compressed = [ELFCOMPRESS_ZLIB, 0].map(u32::to_le_bytes).concat();
        compressed.extend([debug_frame.len() as u64, 1].map(u64::to_le_bytes).concat());
        let mut encoder = flate2::write::ZlibEncoder::new(&mut compressed, flate2::Compression::default());
        encoder.write_all(&debug_frame).expect("in memory");
        encoder.finish().expect("in memory");
        elf.sections[0] = (".debug_frame", 0, SHF_COMPRESSED.into(), compressed);
        assert_eq!(*elf.table().lookup(CODE), sp(8));

        let elf = elf.with_eh_frame(EhFrameBytes::new().fde(CODE + 32..CODE + 48, &[]));
        assert_eq!(*elf.table().lookup(CODE), rule::NONE);
    }

    #[test]
    fn a_file_without_a_table_says_why() {
        let why = |bytes: &[u8]| build(bytes).err();
        assert_eq!(why(b""), Some(NoTable::NotElf));
        assert_eq!(why(b"#!/bin/sh\n"), Some(NoTable::NotElf));
        assert_eq!(why(&FakeElf::new(64).bytes()), Some(NoTable::NoUnwindInformation));
        let mut elf = FakeElf::new(64);
        elf.sections.push((".eh_frame", EH_FRAME, 2, vec![0; 4]));
        assert_eq!(
            why(&elf.bytes()),
            Some(NoTable::NoUnwindInformation),
            "only a terminator"
        );
        elf.sections[0].3 = vec![0xaa; 64];
        assert_eq!(why(&elf.bytes()), Some(NoTable::Damaged));
        let mut bytes = elf.bytes();
        bytes[18] = 183;
        assert_eq!(why(&bytes), Some(NoTable::WrongMachine), "aarch64");
        let mut elf = FakeElf::new(64);
        elf.segments.push((PT_LOAD, 5, CODE + MAX_SPAN, vec![0xc3; 64]));
        assert_eq!(why(&elf.bytes()), Some(NoTable::TooLarge));
    }

    #[test]
    fn entries_that_overlap_without_end_make_a_bounded_table() {
        let mut eh_frame = EhFrameBytes::new();
        for i in 0..10_000 {
            eh_frame = eh_frame.fde(CODE + i % 100..CODE + 0xffff_ffff, PROLOGUE);
        }
        let table = FakeElf::new(0x8000_0000).with_eh_frame(eh_frame).table();
        assert_eq!(table.pages.len(), 0x8001);
        assert!(table.rows.len() < 0x8001 + 400, "{}", table.rows.len());
    }

    #[test]
    fn many_entries_that_share_much_work_are_refused() {
        let mut cie = vec![0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b];
        cie.resize(cie.len() + 100_003, 0x0a);
        let mut eh_frame = EhFrameBytes([(cie.len() as u32).to_le_bytes().as_slice(), &cie].concat());
        for i in 0..1000 {
            // `fde` writes a distance to the first CIE.
            eh_frame = eh_frame.fde(CODE + i..CODE + i + 1, &[]);
        }
        let elf = FakeElf::new(0x1000).with_eh_frame(eh_frame);
        assert_eq!(build(&elf.bytes()).err(), Some(NoTable::TooLarge));
    }

    /// Files this process runs code of, and any that `PROFILER_TEST_ELFS` names (separated by colons).
    fn real_files() -> BTreeSet<String> {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
        let mapped = maps
            .lines()
            .filter(|line| line.contains(" r-xp "))
            .filter_map(|line| Some(line[line.find('/')?..].to_owned()));
        let named = std::env::var("PROFILER_TEST_ELFS").unwrap_or_default();
        mapped
            .chain(named.split(':').filter(|path| !path.is_empty()).map(str::to_owned))
            .collect()
    }

    fn random(state: &mut u64) -> u64 {
        *state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let mixed = (*state ^ *state >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ mixed >> 32
    }

    /// A machine whose every register and word of memory has a value of its own.
    struct Machine {
        pc: u64,
    }

    impl Machine {
        fn register(&self, register: gimli::Register) -> u64 {
            match register {
                X86_64::RA => self.pc,
                _ => random(&mut (u64::from(register.0) + 99)) & 0x7fff_ffff_fff8,
            }
        }

        fn memory(&self, address: u64) -> u64 {
            random(&mut address.clone())
        }

        /// An expression's value, by gimli.
        fn evaluate(
            &self,
            section: &EhFrame<Bytes<'_>>,
            expression: UnwindExpression<usize>,
            cie: &Cie<'_>,
            initial: Option<u64>,
        ) -> u64 {
            let expression = expression.get(section).expect("an expression");
            let mut evaluation = expression.evaluation(cie.encoding());
            if let Some(initial) = initial {
                evaluation.set_initial_value(initial);
            }
            let mut state = evaluation.evaluate().expect("evaluates");
            loop {
                state = match state {
                    EvaluationResult::Complete => break,
                    EvaluationResult::RequiresRegister { register, .. } => {
                        evaluation.resume_with_register(Value::Generic(self.register(register)))
                    }
                    EvaluationResult::RequiresMemory { address, .. } => {
                        evaluation.resume_with_memory(Value::Generic(self.memory(address)))
                    }
                    other => panic!("{other:?}"),
                }
                .expect("evaluates");
            }
            match evaluation.result()[..] {
                [
                    gimli::Piece {
                        location: Location::Address { address },
                        ..
                    },
                ] => address,
                ref other => panic!("{other:?}"),
            }
        }

        /// The caller's stack pointer, return address, and frame pointer as gimli says; `None` for what is lost.
        fn by_gimli(&self, section: &EhFrame<Bytes<'_>>, cie: &Cie<'_>, row: &gimli::UnwindTableRow<usize>) -> Caller {
            let cfa = match row.cfa() {
                CfaRule::RegisterAndOffset { register, offset } => {
                    self.register(*register).wrapping_add_signed(*offset)
                }
                CfaRule::Expression(expression) => self.evaluate(section, *expression, cie, None),
            };
            let recover = |register| match row.register(register) {
                None | Some(RegisterRule::SameValue) => Some(self.register(register)),
                Some(RegisterRule::Undefined) => None,
                Some(RegisterRule::Offset(offset)) => Some(self.memory(cfa.wrapping_add_signed(offset))),
                Some(RegisterRule::Register(register)) => Some(self.register(register)),
                Some(RegisterRule::Expression(expression)) => {
                    Some(self.memory(self.evaluate(section, expression, cie, Some(cfa))))
                }
                other => panic!("{other:?}"),
            };
            (Some(cfa), recover(X86_64::RA), recover(X86_64::RBP))
        }

        /// The same as one of our rules says.
        fn by_rule(&self, rule: &UnwindRule) -> Caller {
            const REGISTERS_OF_KERNEL: [u16; 15] = [15, 14, 13, 12, 6, 3, 11, 10, 9, 8, 0, 2, 1, 4, 5];
            let kernel = |index: u8| self.register(gimli::Register(REGISTERS_OF_KERNEL[usize::from(index)]));
            let (sp, fp) = (self.register(X86_64::RSP), self.register(X86_64::RBP));
            let offset = i64::from(rule.cfa_offset);
            let extra = i64::from(rule.cfa_extra);
            let cfa = match rule.cfa {
                CFA_SP => sp.wrapping_add_signed(offset),
                CFA_FP => fp.wrapping_add_signed(offset),
                CFA_REGISTER => kernel(rule.register).wrapping_add_signed(offset),
                CFA_DEREF_SP => self.memory(sp.wrapping_add_signed(offset)).wrapping_add_signed(extra),
                CFA_DEREF_FP => self.memory(fp.wrapping_add_signed(offset)).wrapping_add_signed(extra),
                CFA_PLT => sp.wrapping_add_signed(offset) + if self.pc & 15 >= extra as u64 { 8 } else { 0 },
                CFA_SIGNAL => {
                    let saved = |at| Some(self.memory(sp.wrapping_add_signed(offset).wrapping_add(at)));
                    return (saved(UCONTEXT_SP), saved(UCONTEXT_PC), saved(UCONTEXT_FP));
                }
                other => panic!("{other}"),
            };
            let pc = match rule.ra {
                RA_AT_CFA => self.memory(cfa.wrapping_sub(8)),
                register => kernel(register - RA_IN_REGISTER),
            };
            let at = i64::from(rule.fp_offset);
            let fp = match rule.fp {
                FP_SAME => Some(fp),
                FP_AT_CFA => Some(self.memory(cfa.wrapping_add_signed(at))),
                FP_AT_FP => Some(self.memory(fp.wrapping_add_signed(at))),
                _ => None,
            };
            (Some(cfa), Some(pc), fp)
        }
    }

    type Caller = (Option<u64>, Option<u64>, Option<u64>);

    /// How many addresses of [`real_files`] are compared per file.
    const ADDRESSES: usize = 5000;

    #[test]
    fn real_files_unwind_as_gimli_says_by_the_files_own_index() {
        let mut state = 1;
        for path in real_files() {
            let bytes = std::fs::read(&path).expect("the file");
            let table = build(&bytes).unwrap_or_else(|error| panic!("{path}: {error}"));
            check_invariants(&table);
            let elf = Elf::parse(&bytes).expect("an ELF file");
            let (Some((at, data)), Some((index_at, index))) = (elf.section(".eh_frame"), elf.section(".eh_frame_hdr"))
            else {
                println!("{path}: no index to compare with");
                continue;
            };
            let section = EhFrame::new(data, LittleEndian);
            let bases = elf.bases(at).set_eh_frame_hdr(index_at);
            let index = EhFrameHdr::new(index, LittleEndian).parse(&bases, 8).expect("an index");
            let index = index.table().expect("an index");
            let mut context = UnwindContext::new();
            let (mut covered, mut unsupported) = (0, 0);
            for _ in 0..ADDRESSES {
                let segment = &elf.code[random(&mut state) as usize % elf.code.len()];
                let relative = segment.addresses.start + (random(&mut state) % segment.addresses.len() as u64) as u32;
                let address = elf.base + u64::from(relative);
                let rule = table.lookup(address);
                let find = |at: u32| {
                    let address = elf.base + u64::from(at);
                    index.fde_for_address(&section, &bases, address, EhFrame::cie_from_offset)
                };
                let Ok(fde) = find(relative) else {
                    if ![rule::NONE, rule::TRAMPOLINE].contains(rule) {
                        let start = (0..relative).rev().find(|at| find(*at).is_ok()).map_or(0, |at| at + 1);
                        let end = (relative..elf.span).find(|at| find(*at).is_ok()).unwrap_or(elf.span);
                        let gap = elf.bytes(start..end).expect("code");
                        assert!(is_padding(gap), "{path} {address:#x} {rule:?}");
                    }
                    continue;
                };
                let row = fde
                    .unwind_info_for_address(&section, &bases, &mut context, address)
                    .unwrap_or_else(|error| panic!("{path} {address:#x}: {error}"));
                covered += 1;
                if rule.cfa == CFA_UNSUPPORTED {
                    unsupported += 1;
                    continue;
                }
                let machine = Machine { pc: address };
                let mut truth = machine.by_gimli(&section, fde.cie(), row);
                if rule.cfa == CFA_END {
                    assert_eq!(truth.1, None, "{path} {address:#x}");
                    continue;
                }
                let ours = machine.by_rule(rule);
                if rule.fp == FP_LOST {
                    truth.2 = None;
                }
                assert_eq!(ours, truth, "{path} {address:#x} {rule:?} {row:?}");
            }
            println!("{path}: {covered} of {ADDRESSES} addresses covered, {unsupported} not understood");
            assert!(
                covered > 0 && unsupported * 100 <= covered,
                "{path}: {covered} {unsupported}"
            );
        }
    }

    /// The smallest of [`real_files`], which is the dynamic loader or libgcc, and where its unwind information is.
    fn small_real_file() -> (Vec<u8>, Vec<Range<usize>>) {
        let path = real_files()
            .into_iter()
            .min_by_key(|path| std::fs::metadata(path).map_or(u64::MAX, |file| file.len()))
            .expect("a file");
        let bytes = std::fs::read(path).expect("the file");
        let elf = Elf::parse(&bytes).expect("an ELF file");
        let place = |part: &[u8]| {
            let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
            start..start + part.len()
        };
        let mut places = vec![0..64 + 56 * elf.segments.len()];
        places.push(place(elf.eh_frame().expect("a section").1));
        places.push(place(elf.eh_frame_by_segment().expect("a segment").1));
        (bytes, places)
    }

    proptest! {
        #[test]
        fn no_damage_breaks_the_builder(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..60),
            cut in proptest::option::of(any::<prop::sample::Index>()),
            sections in any::<bool>(),
        ) {
            let (mut bytes, places) = small_real_file();
            for (place, at, byte) in damage {
                // The headers every second time at most: a file that is refused tests little.
                let place = &places[place.index(places.len() * 8).saturating_sub(places.len() * 6) % places.len()];
                bytes[place.start + at.index(place.len())] = byte;
            }
            if !sections {
                bytes[60..62].fill(0);
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(table) = build(&bytes) {
                check_invariants(&table);
            }
        }

        #[test]
        fn no_unwind_information_breaks_the_builder(bytes in proptest::collection::vec(any::<u8>(), 0..400), section in 0..2_usize) {
            let mut elf = FakeElf::new(0x1000);
            elf.sections.push(([".eh_frame", ".debug_frame"][section], EH_FRAME, 0, bytes));
            if let Ok(table) = build(&elf.bytes()) {
                check_invariants(&table);
            }
        }

        #[test]
        fn no_instructions_break_the_builder(
            entries in proptest::collection::vec((0_u64..0x2000, 0_u64..0x3_0000, proptest::collection::vec(any::<u8>(), 0..60)), 0..30),
        ) {
            let mut eh_frame = EhFrameBytes::new();
            for (start, len, instructions) in &entries {
                eh_frame = eh_frame.fde(CODE + start..CODE + start + len, instructions);
            }
            if let Ok(table) = build(&FakeElf::new(0x2_8000).with_eh_frame(eh_frame).bytes()) {
                check_invariants(&table);
                // Exactly the addresses between are without a rule.
                for address in (CODE..CODE + 0x2_8000).step_by(97) {
                    let after = entries.iter().filter(|(start, len, _)| *len > 0 && CODE + start <= address);
                    let last = after.clone().map(|(start, ..)| *start).max();
                    let of_last = after.filter(|(start, ..)| Some(*start) == last);
                    let covering = of_last.clone().filter(|(start, len, _)| address < CODE + start + len).count();
                    let covered = table.lookup(address).cfa != CFA_NONE;
                    // Which of two entries that begin together counts is not said here.
                    prop_assert!(covered == (covering > 0) || covering > 0 && covering < of_last.count());
                }
            }
        }
    }
}
