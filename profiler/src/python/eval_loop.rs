//! Where the machine code of the bytecode evaluation loop lies.
//!
//! A native stack shows one frame per run of the loop, and the Python frames belong between those. A compiler with a
//! profile moves most of the loop into a second, nameless piece of code: in Debian's 3.13 – 3.15, nine of ten samples
//! of a busy loop lie in that piece and none in the exported function (1 321 – 1 358 of 1 500; 3.13.18, 3.14.10,
//! 3.15.2). The piece has its own unwind entry (FDE), which is how it is found here.

use std::ops::Range;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection as _};
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};

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

/// The targets of the direct jumps in `piece`. Jump tables lie outside the code in everything gcc and clang emit, so
/// reading it from one end to the other stays in step.
fn jumps(image: &Image<'_>, piece: &Range<u64>) -> Vec<u64> {
    let Some(code) = image.bytes(piece.start, (piece.end - piece.start) as usize) else {
        return Vec::new();
    };
    Decoder::with_ip(64, code, piece.start, DecoderOptions::NONE)
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
    }
}
