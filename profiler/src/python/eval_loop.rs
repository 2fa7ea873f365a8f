//! Where the machine code of the bytecode evaluation loop lies.
//!
//! A native stack shows one frame per run of the loop, and the Python frames belong between those. A compiler with a
//! profile moves most of the loop into a second, nameless piece of code: in Debian's 3.13 – 3.15, nine of ten samples
//! of a busy loop lie in that piece and none in the exported function (1 321 – 1 358 of 1 500; 3.13.18, 3.14.10,
//! 3.15.2). The piece has its own unwind entry (FDE), which is how it is found here.
//!
//! From 3.14 on, an interpreter can be built with `--with-tail-call-interp`. Then `_PyEval_EvalFrameDefault` is only
//! the *entry*: it calls the first of more than 200 static functions, the *handlers*, one per instruction, and they
//! jump to each other through a table. Each run of the loop has one frame of the entry and above it, unless the entry
//! itself is at work, exactly one of a handler (1,601 stacks of a program with three nested loops, unwound by perf;
//! 3.14.10). So loops are counted by their entries alone, and the frames of handlers are left out.
//!
//! To take neighbouring frames for one loop would not do. Without tail calls the loop can call itself directly, where
//! the compiler has inlined what lies between: in Debian's 3.13.18, a `with` calls an `__exit__` that is a static
//! method so. (No such pair in 27 nested calls of other kinds on 3.8.18 – 3.15.2, nor a direct call in any other build
//! here.)

use std::collections::BTreeSet;
use std::ops::Range;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection as _};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::image::{Image, Symbol};

/// Why the loop was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEvalLoop {
    #[error("it has no unwind table (.eh_frame)")]
    NoUnwindTable,
    #[error("its unwind table (.eh_frame) is damaged")]
    DamagedUnwindTable,
    #[error("its unwind table does not cover _PyEval_EvalFrameDefault")]
    NotCovered,
}

/// The address ranges (the file's) of the loop that `function`, `_PyEval_EvalFrameDefault`, belongs to, in order.
///
/// A piece of code is part of the function if the function jumps into its middle, if it jumps back into the middle of
/// the function, and if no exported symbol begins there. (Two functions that call each other in tail position jump to
/// each other's start.) On Debian's 3.13.18, 3.14.10 and 3.15.2 this gives what their debug symbols say.
pub fn find(image: &Image<'_>, function: Symbol) -> Result<Vec<Range<u64>>, NoEvalLoop> {
    let pieces = pieces(image)?;
    let hot = piece_of(&pieces, function.address).ok_or(NoEvalLoop::NotCovered)?;
    let mut candidates: Vec<Range<u64>> = jumps(image, &hot)
        .into_iter()
        .filter(|target| !hot.contains(target))
        .filter_map(|target| piece_of(&pieces, target).filter(|piece| piece.start != target))
        .collect();
    candidates.sort_unstable_by_key(|piece| piece.start);
    candidates.dedup();
    candidates.truncate(MAX_CANDIDATES);

    let mut found = vec![hot.clone()];
    for candidate in candidates {
        let jumps_back = jumps(image, &candidate)
            .into_iter()
            .any(|target| target != hot.start && hot.contains(&target));
        if jumps_back && !image.exports(candidate.start) {
            found.push(candidate);
        }
    }
    found.sort_unstable_by_key(|piece| piece.start);
    Ok(found)
}

/// Where the handlers of a tail-call interpreter lie, in order; nothing if `entry`, which [`find`] found, is no such
/// interpreter's. Neighbours are merged, so that a few ranges remain: 2 to 4 in the builds below, 30 after BOLT. One
/// range around all of them would have others' functions in it: 1 in 3.14.10, 2 in 3.15.2, 55 with a profile.
///
/// The mark of such an interpreter is its table: a pointer per opcode, each to the very start of a function. Only the
/// entry, what it calls, and the handlers refer to it. A handler ends in a jump and jumps to nothing but handlers (C's
/// `musttail`), so whatever it jumps to is one, or is its cold part.
///
/// This is exactly what the symbols say in 3.14.10 (library with RELA by two linkers, PIE with RELR, non-PIE, with a
/// profile and split functions, and that after BOLT) and in 3.15.2 (library). In these test builds clang 19.1.7
/// compiled the loop (CinderX's copy of it, without what CinderX adds), and all else is Debian's; no distributor's
/// tail-call build was at hand.
pub fn handlers(image: &Image<'_>, entry: &[Range<u64>]) -> Vec<Range<u64>> {
    let entry_bytes = entry.iter().fold(0_u64, |sum, piece| {
        sum.saturating_add(piece.end.saturating_sub(piece.start))
    });
    if entry_bytes > MAX_ENTRY_BYTES {
        return Vec::new();
    }
    let Ok(pieces) = pieces(image) else { return Vec::new() };
    let mut search = Search {
        image,
        pieces: &pieces,
        entry,
        pointers: Pointers::new(image),
        found: BTreeSet::new(),
        open: Vec::new(),
        budget: MAX_HANDLER_BYTES,
    };
    // 3.14 refers to the table in the function that the entry calls, `start_frame`; 3.15 hands it over from the entry.
    for piece in entry {
        let read = search.read(piece);
        search.follow_tables(&read);
        for called in read.calls {
            let Some(callee) = piece_of(&pieces, called).filter(|callee| callee.start == called) else {
                continue;
            };
            if !entry.contains(&callee) && !image.exports(called) {
                let read = search.read(&callee);
                if search.follow_tables(&read) {
                    search.add(callee);
                }
            }
        }
    }
    while let Some(handler) = search.open.pop() {
        let read = search.read(&handler);
        search.follow_tables(&read);
        for target in read.jumps {
            if let Some(piece) = piece_of(&pieces, target)
                && !search.found.contains(&piece.start)
                && !image.exports(piece.start)
            {
                search.add(piece);
            }
        }
    }
    merged(&search.found, &pieces)
}

/// Real ones have 414 to 486, and the smallest loop that is no tail-call interpreter's has 34 KB (3.8.18).
const MAX_ENTRY_BYTES: u64 = 8 << 10;

/// All handlers together have 57 to 65 KB; a file that alleges far more must not keep us busy.
const MAX_HANDLER_BYTES: u64 = 4 << 20;

/// One per value of an opcode's byte.
const TABLE_POINTERS: u64 = 256;

/// Functions are aligned to at most this, so what lies between two neighbours is shorter.
const MAX_PADDING: u64 = 64;

/// The search for handlers.
struct Search<'a> {
    image: &'a Image<'a>,
    pieces: &'a [Range<u64>],
    entry: &'a [Range<u64>],
    pointers: Pointers<'a>,
    /// Starts of the handlers, and of their cold parts.
    found: BTreeSet<u64>,
    /// Those among them that have not been read.
    open: Vec<Range<u64>>,
    /// Bytes of code that may still be read.
    budget: u64,
}

/// Where a piece of code leads.
#[derive(Default)]
struct Read {
    jumps: Vec<u64>,
    calls: Vec<u64>,
    /// Addresses it has in its instructions, code or data.
    mentions: Vec<u64>,
}

impl Search<'_> {
    fn add(&mut self, piece: Range<u64>) {
        if !self.entry.contains(&piece) && self.found.insert(piece.start) {
            self.open.push(piece);
        }
    }

    fn read(&mut self, piece: &Range<u64>) -> Read {
        let mut read = Read::default();
        let bytes = piece.end.saturating_sub(piece.start);
        let Some(budget) = self.budget.checked_sub(bytes) else {
            return read;
        };
        self.budget = budget;
        for instruction in instructions(self.image, piece) {
            if instruction.op0_kind() == OpKind::NearBranch64 {
                let target = instruction.near_branch64();
                if instruction.mnemonic() == Mnemonic::Call {
                    read.calls.push(target);
                } else if !piece.contains(&target) {
                    read.jumps.push(target);
                }
            }
            read.mentions.extend(mentioned(&instruction));
        }
        for addresses in [&mut read.jumps, &mut read.calls, &mut read.mentions] {
            addresses.sort_unstable();
            addresses.dedup();
        }
        read
    }

    /// Adds all functions of the tables that `read` mentions; whether there is one.
    fn follow_tables(&mut self, read: &Read) -> bool {
        let mut any = false;
        for address in &read.mentions {
            if let Some(functions) = self.table(*address) {
                any = true;
                for function in functions {
                    self.add(function);
                }
            }
        }
        any
    }

    fn table(&self, address: u64) -> Option<Vec<Range<u64>>> {
        (0..TABLE_POINTERS)
            .map(|index| {
                let function = self.pointers.at(address.checked_add(8 * index)?)?;
                piece_of(self.pieces, function).filter(|piece| piece.start == function)
            })
            .collect()
    }
}

/// The address of data that an instruction has in it: relative to itself or, in a file that is not moved, as such.
fn mentioned(instruction: &Instruction) -> Option<u64> {
    if instruction.is_ip_rel_memory_operand() {
        return Some(instruction.ip_rel_memory_address());
    }
    match instruction.op1_kind() {
        OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64 => return Some(instruction.immediate(1)),
        _ => {}
    }
    let absolute = instruction.memory_base() == Register::None && instruction.memory_displacement64() != 0;
    absolute.then(|| instruction.memory_displacement64())
}

/// Pointers as the loader leaves them.
struct Pointers<'a> {
    image: &'a Image<'a>,
    /// What it writes (address, value without the bias), by address. Other tools leave the value in place (RELR,
    /// ET_EXEC).
    written: Vec<(u64, u64)>,
}

impl<'a> Pointers<'a> {
    fn new(image: &'a Image<'a>) -> Self {
        const R_X86_64_RELATIVE: u64 = 8;
        const ENTRY: usize = 24;
        let table = image.section(".rela.dyn").map_or(&[][..], |(_, bytes)| bytes);
        let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let mut written: Vec<(u64, u64)> = table
            .as_chunks::<ENTRY>()
            .0
            .iter()
            .filter_map(|entry| match entry.as_chunks::<8>().0 {
                [offset, info, addend] if word(info) & 0xffff_ffff == R_X86_64_RELATIVE => {
                    Some((word(offset), word(addend)))
                }
                _ => None,
            })
            .collect();
        written.sort_unstable();
        Self { image, written }
    }

    fn at(&self, address: u64) -> Option<u64> {
        match self.written.binary_search_by_key(&address, |(address, _)| *address) {
            Ok(index) => self.written.get(index).map(|(_, value)| *value),
            Err(_) => self.image.u64(address),
        }
    }
}

/// The pieces that start at `starts`, those in one that have nothing but padding between them.
fn merged(starts: &BTreeSet<u64>, pieces: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut neighbour = false;
    for piece in pieces {
        if !starts.contains(&piece.start) {
            neighbour = false;
            continue;
        }
        match ranges.last_mut() {
            Some(last) if neighbour && piece.start.saturating_sub(last.end) < MAX_PADDING => {
                last.end = last.end.max(piece.end);
            }
            _ => ranges.push(piece.clone()),
        }
        neighbour = true;
    }
    ranges
}

/// Real interpreters have at most one; a file that alleges more must not keep us busy.
const MAX_CANDIDATES: usize = 64;

/// The longest piece known is 90 KB (3.14.4, unoptimised for size).
const MAX_PIECE_BYTES: u64 = 4 << 20;

/// What the unwind table covers, in order of address.
fn pieces(image: &Image<'_>) -> Result<Vec<Range<u64>>, NoEvalLoop> {
    let (address, bytes) = image.section(".eh_frame").ok_or(NoEvalLoop::NoUnwindTable)?;
    let table = EhFrame::new(bytes, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(address);
    let mut entries = table.entries(&bases);
    let mut pieces = Vec::new();
    while let Some(entry) = entries.next().map_err(|_| NoEvalLoop::DamagedUnwindTable)? {
        let CieOrFde::Fde(fde) = entry else { continue };
        let Ok(fde) = fde.parse(EhFrame::cie_from_offset) else {
            continue;
        };
        if let Some(end) = fde.initial_address().checked_add(fde.len()) {
            pieces.push(fde.initial_address()..end);
        }
    }
    pieces.sort_unstable_by_key(|piece| piece.start);
    Ok(pieces)
}

fn piece_of(pieces: &[Range<u64>], address: u64) -> Option<Range<u64>> {
    let after = pieces.partition_point(|piece| piece.start <= address);
    let piece = pieces.get(after.checked_sub(1)?)?;
    let short_enough = piece.end - piece.start <= MAX_PIECE_BYTES;
    (piece.contains(&address) && short_enough).then(|| piece.clone())
}

/// What stands in `piece`; nothing if the file has not got all of it. Jump tables lie outside the code in everything
/// gcc and clang emit, so reading it from one end to the other stays in step.
pub fn instructions<'a>(image: &Image<'a>, piece: &Range<u64>) -> Decoder<'a> {
    let bytes = usize::try_from(piece.end.saturating_sub(piece.start)).unwrap_or(usize::MAX);
    let code = image.bytes(piece.start, bytes).unwrap_or_default();
    Decoder::with_ip(64, code, piece.start, DecoderOptions::NONE)
}

/// The targets of the direct jumps in `piece`.
pub fn jumps(image: &Image<'_>, piece: &Range<u64>) -> Vec<u64> {
    instructions(image, piece)
        .into_iter()
        .filter(|instruction| {
            instruction.op0_kind() == OpKind::NearBranch64 && instruction.mnemonic() != Mnemonic::Call
        })
        .map(|instruction| instruction.near_branch64())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::fake_elf::FakeElf;
    use super::*;

    const TABLE: u64 = 0x9000;

    /// `.eh_frame` with one CIE ("zR", pc-relative 4-byte addresses, as gcc and clang emit) and an FDE per piece.
    fn unwind_table(pieces: &[Range<u64>]) -> Vec<u8> {
        let mut table = vec![16, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, 0, 0, 0];
        for piece in pieces {
            let at = table.len() as u32;
            table.extend(16_u32.to_le_bytes());
            table.extend((at + 4).to_le_bytes());
            table.extend((piece.start.wrapping_sub(TABLE + u64::from(at) + 8) as u32).to_le_bytes());
            table.extend(((piece.end - piece.start) as u32).to_le_bytes());
            table.extend([0; 4]);
        }
        table.extend([0; 4]);
        table
    }

    /// `jmp target`, padded with `nop` to 16 bytes.
    fn jump(at: u64, target: u64) -> Vec<u8> {
        let mut bytes = vec![0xe9];
        bytes.extend((target.wrapping_sub(at + 5) as u32).to_le_bytes());
        bytes.resize(16, 0x90);
        bytes
    }

    const HOT: Range<u64> = 0x1000..0x1040;
    const COLD: Range<u64> = 0x2000..0x2010;
    const TAIL_CALLED: Range<u64> = 0x2100..0x2110;
    const EXPORTED: Range<u64> = 0x2200..0x2210;
    const ONE_WAY: Range<u64> = 0x2300..0x2310;

    fn interpreter() -> FakeElf {
        let hot = [
            jump(0x1000, COLD.start + 6),
            jump(0x1010, TAIL_CALLED.start),
            jump(0x1020, EXPORTED.start + 6),
        ];
        FakeElf::default()
            .section(
                ".text",
                HOT.start,
                [hot.concat(), jump(0x1030, ONE_WAY.start + 6)].concat(),
            )
            .section(".cold", COLD.start, jump(COLD.start, HOT.start + 8))
            .section(".tail", TAIL_CALLED.start, jump(TAIL_CALLED.start, HOT.start + 8))
            .section(".exported", EXPORTED.start, jump(EXPORTED.start, HOT.start + 8))
            .section(".one_way", ONE_WAY.start, jump(ONE_WAY.start, HOT.start))
            .symbol("exported", EXPORTED.start, 16)
    }

    fn found(elf: &FakeElf) -> Result<Vec<Range<u64>>, NoEvalLoop> {
        let elf = elf.build();
        find(
            &Image::parse(&elf).unwrap(),
            Symbol {
                address: HOT.start,
                size: 8,
            },
        )
    }

    #[test]
    fn a_piece_that_jumps_both_ways_and_is_not_exported_is_part_of_the_loop() {
        let table = unwind_table(&[COLD, EXPORTED, HOT, ONE_WAY, TAIL_CALLED]);
        assert_eq!(
            found(&interpreter().section(".eh_frame", TABLE, table)),
            Ok(vec![HOT, COLD])
        );
    }

    #[test]
    fn a_file_without_the_unwind_table_says_so() {
        assert_eq!(found(&interpreter()), Err(NoEvalLoop::NoUnwindTable));
        let others = interpreter().section(".eh_frame", TABLE, unwind_table(&[COLD, ONE_WAY]));
        assert_eq!(found(&others), Err(NoEvalLoop::NotCovered));
        let torn = interpreter().section(".eh_frame", TABLE, unwind_table(&[HOT])[..30].to_vec());
        assert_eq!(found(&torn), Err(NoEvalLoop::DamagedUnwindTable));
    }

    const ENTRY: Range<u64> = 0x1000..0x1010;
    const START_FRAME: Range<u64> = 0x1010..0x1030;
    /// Called by a handler, and not one.
    const HELPER: Range<u64> = 0x1030..0x1040;
    const ADD: Range<u64> = 0x1040..0x1060;
    const CALL: Range<u64> = 0x1060..0x1080;
    /// Only jumped to, like CPython's labels.
    const ERROR: Range<u64> = 0x1080..0x1090;
    const FAR_PART: Range<u64> = 0x2400..0x2410;
    const DISPATCH: u64 = 0x4000;

    fn relative(opcode: &[u8], at: u64, target: u64, len: usize) -> Vec<u8> {
        let mut bytes = opcode.to_vec();
        let end = at + bytes.len() as u64 + 4;
        bytes.extend((target.wrapping_sub(end) as u32).to_le_bytes());
        bytes.resize(len, 0x90);
        bytes
    }

    fn call(at: u64, target: u64) -> Vec<u8> {
        relative(&[0xe8], at, target, 16)
    }

    /// `lea table(%rip),%rcx`, and a jump through it.
    fn dispatch(at: u64) -> Vec<u8> {
        let mut bytes = relative(&[0x48, 0x8d, 0x0d], at, DISPATCH, 7);
        bytes.extend([0xff, 0x24, 0xc1]);
        bytes.resize(16, 0x90);
        bytes
    }

    /// `jmp *table(,%rax,8)`, of a file that is not moved.
    fn absolute_dispatch() -> Vec<u8> {
        let mut bytes = vec![0xff, 0x24, 0xc5];
        bytes.extend((DISPATCH as u32).to_le_bytes());
        bytes.resize(16, 0x90);
        bytes
    }

    /// A tail-call interpreter without the pointers of its table.
    fn tail_call_interpreter(dispatch_at: impl Fn(u64) -> Vec<u8>) -> FakeElf {
        interpreter_with(call(ENTRY.start, START_FRAME.start), dispatch_at)
    }

    fn interpreter_with(entry: Vec<u8>, dispatch_at: impl Fn(u64) -> Vec<u8>) -> FakeElf {
        let text = [
            entry,
            jump(0x1010, ERROR.start),
            dispatch_at(0x1020),
            dispatch_at(HELPER.start),
            call(0x1040, HELPER.start),
            jump(0x1050, EXPORTED.start),
            jump(0x1060, FAR_PART.start + 6),
            dispatch_at(0x1070),
            jump(0x1080, CALL.start),
        ];
        let table = [ENTRY, START_FRAME, HELPER, ADD, CALL, ERROR, EXPORTED, FAR_PART];
        FakeElf::default()
            .section(".text", ENTRY.start, text.concat())
            .section(".far", FAR_PART.start, jump(FAR_PART.start, CALL.start + 16))
            .section(".exported", EXPORTED.start, vec![0xc3; 16])
            .symbol("exported", EXPORTED.start, 16)
            .section(".eh_frame", TABLE, unwind_table(&table))
    }

    fn pointers() -> Vec<u64> {
        [ADD.start, CALL.start].repeat(128)
    }

    fn in_place(pointers: &[u64]) -> Vec<u8> {
        pointers.iter().flat_map(|pointer| pointer.to_le_bytes()).collect()
    }

    /// `R_X86_64_RELATIVE`, the last first: nobody promises an order.
    fn relocations(pointers: &[u64]) -> Vec<u8> {
        (0..pointers.len())
            .rev()
            .flat_map(|index| [DISPATCH + 8 * index as u64, 8, pointers[index]])
            .flat_map(u64::to_le_bytes)
            .collect()
    }

    fn handlers_of(elf: &FakeElf) -> Vec<Range<u64>> {
        handlers(&Image::parse(&elf.build()).unwrap(), &[ENTRY])
    }

    /// The helper lies between two of them, and the exported function is somebody else's.
    const HANDLERS: [Range<u64>; 3] = [START_FRAME, ADD.start..ERROR.end, FAR_PART];

    #[test]
    fn handlers_are_what_the_table_names_and_what_those_jump_to() {
        let elf = tail_call_interpreter(dispatch).section(".data", DISPATCH, in_place(&pointers()));
        assert_eq!(handlers_of(&elf), HANDLERS);
    }

    #[test]
    fn a_table_that_the_loader_fills_in_is_read_from_the_relocations() {
        let elf = tail_call_interpreter(dispatch)
            .section(".data.rel.ro", DISPATCH, vec![0; 2048])
            .section(".rela.dyn", 0x8000, relocations(&pointers()));
        assert_eq!(handlers_of(&elf), HANDLERS);
    }

    #[test]
    fn a_table_may_be_mentioned_by_its_absolute_address() {
        let elf = tail_call_interpreter(|_| absolute_dispatch()).section(".rodata", DISPATCH, in_place(&pointers()));
        assert_eq!(handlers_of(&elf), HANDLERS);
    }

    #[test]
    fn the_entry_may_mention_the_table_itself() {
        let elf = interpreter_with(dispatch(0x1000), |_| vec![0x90; 16]);
        let elf = elf.section(".data", DISPATCH, in_place(&pointers()));
        assert_eq!(handlers_of(&elf), [ADD.start..CALL.end, FAR_PART]);
    }

    #[test]
    fn a_table_of_anything_but_starts_of_functions_is_no_dispatch_table() {
        for other in [ADD.start + 1, 0, u64::MAX] {
            let mut pointers = pointers();
            pointers[255] = other;
            let elf = tail_call_interpreter(dispatch).section(".data", DISPATCH, in_place(&pointers));
            assert_eq!(handlers_of(&elf), []);
        }
        let short = tail_call_interpreter(dispatch).section(".data", DISPATCH, in_place(&pointers()[..255]));
        assert_eq!(handlers_of(&short), []);
    }

    #[test]
    fn a_loop_of_many_instructions_has_no_handlers() {
        let elf = tail_call_interpreter(dispatch).section(".data", DISPATCH, in_place(&pointers()));
        let long = [ENTRY, 0x10_0000..0x10_2000];
        assert_eq!(handlers(&Image::parse(&elf.build()).unwrap(), &long), []);
    }

    /// `PROFILER_TAIL_CALL_PYTHON` names a libpython or interpreter with symbols, built with `--with-tail-call-interp`.
    #[test]
    fn the_handlers_of_a_real_interpreter_are_those_that_its_symbols_name() {
        use object::{Object as _, ObjectSymbol as _, SymbolKind};
        let Some(path) = std::env::var_os("PROFILER_TAIL_CALL_PYTHON") else {
            eprintln!("skipped: PROFILER_TAIL_CALL_PYTHON names no interpreter");
            return;
        };
        let elf = std::fs::read(path).unwrap();
        let image = Image::parse(&elf).unwrap();
        let entry = find(&image, image.symbol("_PyEval_EvalFrameDefault").unwrap()).unwrap();
        let handlers = handlers(&image, &entry);
        let mut named = 0;
        for symbol in object::File::parse(&*elf).unwrap().symbols() {
            if symbol.kind() == SymbolKind::Text && symbol.is_definition() {
                let name = symbol.name().unwrap();
                let is_handler = name.starts_with("_TAIL_CALL_");
                let found = handlers.iter().any(|range| range.contains(&symbol.address()));
                assert_eq!(found, is_handler, "{name} at {:x}", symbol.address());
                named += usize::from(is_handler);
            }
        }
        assert!(named > 200, "{named} handlers");
    }

    proptest::proptest! {
        #[test]
        fn no_unwind_table_panics(
            changes in proptest::collection::vec((0..200_usize, proptest::prelude::any::<u8>()), 0..8),
        ) {
            let mut table = unwind_table(&[COLD, EXPORTED, HOT, ONE_WAY, TAIL_CALLED]);
            for (at, byte) in changes {
                if let Some(old) = table.get_mut(at) {
                    *old = byte;
                }
            }
            let _ = found(&interpreter().section(".eh_frame", TABLE, table));
        }

        #[test]
        fn no_change_to_a_tail_call_interpreter_panics(
            changes in proptest::collection::vec((64..7000_usize, proptest::prelude::any::<u8>()), 0..8),
        ) {
            let mut elf = tail_call_interpreter(dispatch)
                .section(".data", DISPATCH, in_place(&pointers()))
                .section(".rela.dyn", 0x8000, relocations(&pointers()[..128]))
                .build();
            for (at, byte) in changes {
                if let Some(old) = elf.get_mut(at) {
                    *old = byte;
                }
            }
            if let Some(image) = Image::parse(&elf) {
                let _ = handlers(&image, &[ENTRY]);
                let _ = handlers(&image, &[HELPER, 0..u64::MAX]);
            }
        }
    }
}
