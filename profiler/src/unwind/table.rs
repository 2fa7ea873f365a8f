//! A file's unwind table: from `.eh_frame` to rows the kernel side can search.
//!
//! gimli reads the sections; what is done here is to put all their rows into one order of addresses, without overlap.
//! Entries are read twice. The first time only their addresses are taken, so that they can be sorted; the second time,
//! in order of address, their rows go straight to where they stay. Nothing but the table itself and twelve bytes per
//! entry is ever in memory, and since no address gets more than one row, the size of the code bounds the table whatever
//! the entries allege.

pub(super) mod elf;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) mod truth;

use std::ops::Range;

use gimli::{
    BaseAddresses, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, FrameDescriptionEntry, LittleEndian,
    UnwindContext, UnwindOffset, UnwindSection,
};
use profiler_common::unwind::{
    CFA_END, PAGE_BITS, RULE_NONE, RULE_UNSUPPORTED, UnwindPage, UnwindRule, row, row_low, row_rule,
};

use self::elf::Elf;
use super::{
    decoded::{self, Decoded},
    rule::{self, Bytes, Room, Rules},
};

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

/// rustc's driver, a file of 150 MB, has 6 MB (1.95).
const MAX_SECTION_BYTES: usize = 64 << 20;

/// libLLVM 22 has 130 thousand.
const MAX_ENTRIES: usize = 2 << 20;

/// How often a section's length may be spent on the instructions that its entries have in common. They are run for each
/// entry anew, so many short entries that share a long one would take forever. gcc's and clang's are as long as their
/// shortest entries.
const MAX_SHARED_WORK: usize = 2;

/// Linkers merge equal ones; usually there are fewer than ten, and one per object file in `.debug_frame`.
const MAX_COMMON_ENTRIES: usize = 1 << 17;

/// libLLVM 22 has 1.1 million. This is 64 MiB.
const MAX_ROWS: usize = 16 << 20;

/// Makes the table of the ELF file with these bytes.
pub fn build(file: &[u8]) -> Result<Table, NoTable> {
    build_and(file, &|| {})
}

/// After so much code, what was read of the file is let go.
const LET_GO_EVERY: u32 = 8 << 20;

/// The same, and calls `let_go` every now and then: nothing that was read is needed in memory any more. Of rustc's driver
/// 120 MB are touched.
pub fn build_and(file: &[u8], let_go: &dyn Fn()) -> Result<Table, NoTable> {
    let mut elf = Elf::parse(file)?;
    let mut found = Found::default();
    let eh_frame = match elf.eh_frame().filter(|(_, bytes)| !is_empty(bytes)) {
        Some((address, bytes)) => {
            let mut section = EhFrame::new(checked(bytes)?, LittleEndian);
            section.set_address_size(8);
            Some(Source::read(
                &elf,
                section,
                bytes.len(),
                elf.bases(address),
                &mut found,
            )?)
        }
        None => None,
    };
    // A program that was built without still has the C library's start-up code in it, which was not. What the debugger
    // would use may be there then.
    let debug_bytes = match elf.is_mostly(found.covered()) {
        true => None,
        false => elf.debug_frame().filter(|bytes| !is_empty(bytes)),
    };
    let debug_frame = match &debug_bytes {
        Some(bytes) => {
            let mut section = DebugFrame::new(checked(bytes)?, LittleEndian);
            section.set_address_size(8);
            found.of = Of::DebugFrame;
            Some(Source::read(&elf, section, bytes.len(), elf.bases(0), &mut found)?)
        }
        None => None,
    };
    found.sort();
    let covered = found.ranges();
    elf.keeps_frame_pointers |= !elf.is_mostly(found.covered()) && begins_with_frame_pointers(&elf, &covered);
    let decoded = match elf.keeps_frame_pointers {
        true => Decoded::default(),
        false => decoded::decode(&elf, &covered),
    };
    // A C library that was built without has at least that.
    if found.entries.is_empty() && decoded.is_empty() {
        return Err(if found.unreadable > 0 {
            NoTable::Damaged
        } else {
            NoTable::NoUnwindInformation
        });
    }
    let_go();

    let mut writer = Writer::new(elf.base);
    let mut context = UnwindContext::<usize, Room>::new_in();
    let mut unreadable = found.unreadable;
    let mut covered = 0;
    let mut let_go_at = LET_GO_EVERY;
    for (i, entry) in found.entries.iter().enumerate() {
        if entry.start >= let_go_at {
            let_go();
            let_go_at = entry.start.saturating_add(LET_GO_EVERY);
        }
        if entry.start > covered {
            fill_gap(&elf, &decoded, &mut writer, covered..entry.start);
        }
        // An entry ends where the next one starts: who searches the file's own index (.eh_frame_hdr), as the C++ run
        // time does, takes the last entry that starts at or before an address, and no other.
        let next = found.entries.get(i + 1);
        let end = next.map_or(entry.end, |next| entry.end.min(next.start));
        covered = end;
        let addresses = entry.start..end;
        let written = match (entry.of, &eh_frame, &debug_frame) {
            (Of::EhFrame, Some(source), _) => source.write(&elf, &mut context, entry, addresses, &mut writer),
            (Of::DebugFrame, _, Some(source)) => source.write(&elf, &mut context, entry, addresses, &mut writer),
            _ => false,
        };
        if !written {
            // It could be read the first time.
            unreadable += 1;
            writer.push(entry.start, RULE_UNSUPPORTED);
        }
        if writer.rows.len() > MAX_ROWS {
            return Err(NoTable::TooLarge);
        }
    }
    fill_gap(&elf, &decoded, &mut writer, covered..elf.span);
    Ok(writer.finish(unreadable))
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

/// One of the sections that hold unwind information.
struct Source<'a, S> {
    section: S,
    bases: BaseAddresses,
    cies: Cies<'a>,
}

impl<'a, S> Source<'a, S>
where
    S: UnwindSection<Bytes<'a>>,
{
    /// Adds the section's entries to those that are found.
    fn read(elf: &Elf<'_>, section: S, len: usize, bases: BaseAddresses, found: &mut Found) -> Result<Self, NoTable> {
        let cies = read_entries(elf, &section, len, &bases, found)?;
        Ok(Self { section, bases, cies })
    }

    /// Writes the rows of an entry; `false` if it cannot be read.
    fn write(
        &self,
        elf: &Elf<'_>,
        context: &mut UnwindContext<usize, Room>,
        entry: &Entry,
        addresses: Range<u32>,
        writer: &mut Writer,
    ) -> bool {
        let fde = self
            .section
            .partial_fde_from_offset(&self.bases, S::Offset::from(entry.offset as usize))
            .and_then(|fde| fde.parse(|_, _, offset| self.cies.get(UnwindOffset::into(offset))));
        let Ok(fde) = fde else { return false };
        write_entry(elf, &self.section, &self.bases, context, &fde, addresses, writer);
        true
    }
}

/// Entries of all sections.
#[derive(Default)]
struct Found {
    entries: Vec<Entry>,
    /// Entries that could not be read.
    unreadable: usize,
    /// What is being read.
    of: Of,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    #[default]
    EhFrame,
    DebugFrame,
}

impl Found {
    /// In order of address. Of several that begin together, the first counts, and `.eh_frame` goes before `.debug_frame`:
    /// it is what the program itself unwinds with.
    fn sort(&mut self) {
        self.entries
            .sort_unstable_by_key(|entry| (entry.start, entry.of, entry.offset));
        self.entries.dedup_by_key(|entry| entry.start);
    }

    /// What each entry covers, in order. One ends where the next begins.
    fn ranges(&self) -> Vec<Range<u32>> {
        let ends = self.entries.iter().skip(1).map(|next| next.start).chain([u32::MAX]);
        let entries = self.entries.iter().zip(ends);
        entries.map(|(entry, next)| entry.start..entry.end.min(next)).collect()
    }

    /// Bytes of code that the entries are about.
    fn covered(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| u64::from(entry.end - entry.start))
            .sum()
    }
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
    let mut at = addresses.start;
    if at > 0 && elf.bytes(at..at.saturating_add(START_CONTEXT.len() as u32)) == Some(&START_CONTEXT) {
        writer.push_rule(at - 1, rule::END);
    }
    if let Ok(mut rows) = fde.rows(section, bases, context) {
        while at < addresses.end
            && let Ok(Some(row)) = rows.next_row()
            && let Some(end) = elf.offset(row.end_address())
        {
            if end > at {
                let rule = rule::from_row(section, fde.cie(), row);
                // A thread's or context's first function can be made to look called (`makecontext`, glibc's
                // `__start_context`). Such a return address is looked up one byte early, as each is, which is in the
                // function before, unless that one ends in a call.
                if rule.cfa == CFA_END && at == addresses.start && at > 0 && !elf.may_call_before(at) {
                    writer.push_rule(at - 1, rule);
                }
                writer.push_rule(at, rule);
                at = end;
            }
        }
    }
    if at < addresses.end {
        writer.push(at, RULE_UNSUPPORTED);
    }
}

/// How glibc's `__start_context` begins, to which the function of a context returns: `mov %rbx, %rsp; mov (%rsp), %rdi;
/// test %rdi, %rdi`. Its unwind information (2.36) leads nowhere.
const START_CONTEXT: [u8; 10] = [0x48, 0x89, 0xdc, 0x48, 0x8b, 0x3c, 0x24, 0x48, 0x85, 0xff];

/// An FDE, addresses relative to the table's base.
#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    end: u32,
    /// In the section.
    offset: u32,
    of: Of,
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

/// Finds all entries of a section that cover code.
fn read_entries<'a, S>(
    elf: &Elf<'_>,
    section: &S,
    len: usize,
    bases: &BaseAddresses,
    found: &mut Found,
) -> Result<Cies<'a>, NoTable>
where
    S: UnwindSection<Bytes<'a>>,
{
    let mut cies = Cies(Vec::new());
    let of = found.of;
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
                    found.unreadable += 1;
                    continue;
                };
                work_left = work_left.checked_sub(fde.cie().entry_len()).ok_or(NoTable::TooLarge)?;
                if found.entries.len() >= MAX_ENTRIES {
                    return Err(NoTable::TooLarge);
                }
                // What the linker dropped from the program stays in .debug_frame, at address 0.
                let Some((start, end)) = elf.code_range(fde.initial_address(), fde.len()) else {
                    continue;
                };
                let offset = u32::try_from(fde.offset()).map_err(|_| NoTable::TooLarge)?;
                found.entries.push(Entry { start, end, offset, of });
            }
            Ok(None) => break,
            // There is no telling where the next one begins.
            Err(_) => {
                found.unreadable += 1;
                break;
            }
        }
    }
    Ok(cies)
}

/// Says of addresses without an entry that there is none, except of code that is known without one.
fn fill_gap(elf: &Elf<'_>, decoded: &Decoded, writer: &mut Writer, gap: Range<u32>) {
    if !gap.is_empty() && elf.bytes(gap.clone()).is_some_and(is_padding) {
        return;
    }
    let mut known = trampolines(elf, gap.clone());
    for stubs in &elf.stubs {
        let (start, end) = (gap.start.max(stubs.start), gap.end.min(stubs.end));
        if start < end {
            known.push((start..end, rule::STUB));
        }
    }
    known.extend(start_up(elf, &gap).map(|addresses| (addresses, rule::END)));
    // What was worked out is last in doubt: two that begin together stay in this order.
    known.extend(decoded.of(&gap).cloned());
    known.sort_by_key(|(addresses, _)| addresses.start);

    let keeps_frame_pointers = elf.keeps_frame_pointers || is_generated(elf, &gap);
    let otherwise = if keeps_frame_pointers {
        rule::FRAME_POINTER
    } else {
        rule::NONE
    };
    let mut from = gap.start;
    for (addresses, rule) in known {
        if from < addresses.start && !elf.bytes(from..addresses.start).is_some_and(is_padding) {
            writer.push_rule(from, otherwise);
        }
        // A trampoline right after an entry has that entry's last byte as well. Stubs of several sections cannot
        // overlap, but may be said to.
        let start = addresses.start.max(from.saturating_sub(1));
        if start < addresses.end {
            writer.push_rule(start, rule);
            from = addresses.end;
        }
    }
    if from < gap.end && !elf.bytes(from..gap.end).is_some_and(is_padding) {
        writer.push_rule(from, otherwise);
    } else if gap.is_empty() {
        writer.push(from, RULE_NONE);
    }
}

/// Whether a program generated this code when the file was built, as V8 does its builtins, and such code keeps frame
/// pointers for its own walkers: there is much of it, and functions begin with setting them up. node 20.20 has 1,914 such
/// beginnings in 1.6 MB. What is written by hand has none, though there can be as much of it (OpenBLAS' kernels), nor
/// have tables.
fn is_generated(elf: &Elf<'_>, gap: &Range<u32>) -> bool {
    elf.bytes(gap.clone())
        .filter(|bytes| bytes.len() >= MIN_GENERATED_BYTES)
        .is_some_and(|bytes| bytes.len() / MOST_BYTES_PER_BEGINNING <= beginnings(bytes))
}

/// Whether the code without unwind information begins its functions with setting up frame pointers: of a file that was
/// built without the one and with the other. musl has neither: three of its 1,700 functions begin so.
fn begins_with_frame_pointers(elf: &Elf<'_>, covered: &[Range<u32>]) -> bool {
    let open = decoded::gaps(elf, covered);
    let bytes = open.iter().filter_map(|gap| elf.bytes(gap.clone()));
    let (bytes, beginnings) = bytes.fold((0, 0), |(len, count), bytes| {
        (len + bytes.len(), count + beginnings(bytes))
    });
    beginnings > 0 && bytes / MOST_BYTES_PER_BEGINNING <= beginnings
}

/// How often a function seems to begin with `push %rbp; mov %rsp,%rbp`, whose second instruction assemblers write in two
/// ways.
fn beginnings(bytes: &[u8]) -> usize {
    const BEGINNINGS: [[u8; 4]; 2] = [[0x55, 0x48, 0x89, 0xe5], [0x55, 0x48, 0x8b, 0xec]];
    bytes.array_windows().filter(|bytes| BEGINNINGS.contains(bytes)).count()
}

const MOST_BYTES_PER_BEGINNING: usize = 4096;

const MIN_GENERATED_BYTES: usize = 64 << 10;

/// The part of these addresses that is the code a process begins with, and its entry point: the dynamic linker has no
/// unwind information for it (glibc 2.36), nor do musl and Go. It has no caller.
fn start_up(elf: &Elf<'_>, gap: &Range<u32>) -> Option<Range<u32>> {
    /// glibc's, with what it does after the libraries are loaded, has 80.
    const MOST_BYTES: u32 = 256;
    let entry = elf.entry.filter(|entry| gap.contains(entry))?;
    Some(entry..gap.end.min(entry.saturating_add(MOST_BYTES)))
}

/// Whether these bytes only move the next function to a round address. They are never executed, so whatever rule is in
/// effect before them may stay, which saves most functions two rows: for "none" here, and for what most functions end and
/// begin with.
pub(super) fn is_padding(mut bytes: &[u8]) -> bool {
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

/// The calls of `rt_sigreturn` in these addresses. musl and Go have no unwind information for theirs, which is known by
/// what every one does.
///
/// The caller of a function is looked up one byte before the address it returns to, because a call may be a function's
/// last instruction. A signal handler returns to the trampoline's first byte without having been called from there, so
/// its rule begins one byte early, as it does in glibc.
fn trampolines(elf: &Elf<'_>, gap: Range<u32>) -> Vec<(Range<u32>, UnwindRule)> {
    let mut found = Vec::new();
    for segment in &elf.code {
        let start = gap.start.max(segment.addresses.start);
        let end = gap.end.min(segment.addresses.end);
        let skip = (start - segment.addresses.start) as usize;
        let len = end.saturating_sub(start) as usize;
        let bytes = segment.bytes.get(skip..).unwrap_or_default();
        let bytes = bytes.get(..len).unwrap_or(bytes);
        for (i, _) in bytes.windows(2).enumerate().filter(|(_, pair)| **pair == SYSCALL) {
            let end = i + SYSCALL.len();
            let code = TRAMPOLINES.iter().find(|code| bytes[..end].ends_with(code));
            if let Some(code) = code {
                let first = start + (end - code.len()) as u32;
                found.push((first.saturating_sub(1)..start + end as u32, rule::TRAMPOLINE));
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
            rules: Rules::default(),
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
