//! The machine code of a file, function by function.

use std::ops::Range;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection as _};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::super::eval_loop::instructions;
use super::super::image::Image;
use super::NoAllocator;

/// The longest function of interest has 2.5 KB (`_PyObject_Free`, 3.8.18). What a damaged table calls longer is not
/// read.
const MAX_FUNCTION_BYTES: u64 = 64 << 10;

/// An ELF file with its unwind table, which says where functions begin and end whether it is stripped or not.
pub struct Code<'a> {
    pub image: Image<'a>,
    file: &'a [u8],
    /// In order of address.
    pieces: Vec<Range<u64>>,
    /// Stubs that lead into other files.
    stubs: Vec<Range<u64>>,
    /// Where the loader writes an address, and which one, in order.
    relocated: Vec<(u64, u64)>,
}

impl<'a> Code<'a> {
    pub fn new(file: &'a [u8]) -> Result<Self, NoAllocator> {
        let image = Image::parse(file).ok_or(NoAllocator::NotPython)?;
        let stubs = [".plt", ".plt.got", ".plt.sec"].into_iter().filter_map(|name| {
            let (start, bytes) = image.section(name)?;
            Some(start..start.saturating_add(bytes.len() as u64))
        });
        Ok(Self {
            pieces: pieces(&image)?,
            stubs: stubs.collect(),
            relocated: relocated(&image),
            image,
            file,
        })
    }

    /// From the first function to the end of the last.
    pub fn span(&self) -> Range<u64> {
        let start = self.pieces.first().map_or(0, |piece| piece.start);
        start..self.pieces.iter().map(|piece| piece.end).max().unwrap_or(start)
    }

    pub fn pieces(&self) -> &[Range<u64>] {
        &self.pieces
    }

    /// The piece of code that an address lies in.
    pub fn piece_of(&self, address: u64) -> Option<Range<u64>> {
        let after = self.pieces.partition_point(|piece| piece.start <= address);
        let piece = self.pieces.get(after.checked_sub(1)?)?;
        let short_enough = piece.end - piece.start <= MAX_FUNCTION_BYTES;
        (piece.contains(&address) && short_enough).then(|| piece.clone())
    }

    /// The function of this file that begins at this very address.
    pub fn function(&self, address: u64) -> Option<Range<u64>> {
        let is_own = !self.stubs.iter().any(|stubs| stubs.contains(&address));
        self.piece_of(address).filter(|piece| piece.start == address && is_own)
    }

    pub fn instructions(&self, piece: &Range<u64>) -> Vec<Instruction> {
        instructions(&self.image, piece).into_iter().collect()
    }

    /// The word at an address once the loader is done.
    pub fn word(&self, address: u64) -> Option<u64> {
        match self.relocated.binary_search_by_key(&address, |(place, _)| *place) {
            Ok(index) => self.relocated.get(index).map(|(_, value)| *value),
            Err(_) => self.image.u64(address),
        }
    }

    /// Where in the file the byte of an address lies, which is how the kernel is told about a probe.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let bytes = self.image.bytes_from(address)?;
        let offset = (bytes.as_ptr() as usize).checked_sub(self.file.as_ptr() as usize)?;
        (offset < self.file.len()).then_some(offset as u64)
    }
}

/// The target of a direct call or jump.
pub fn direct_target(instruction: &Instruction) -> Option<u64> {
    (instruction.op0_kind() == OpKind::NearBranch64).then(|| instruction.near_branch64())
}

pub fn direct_call(instruction: &Instruction) -> Option<u64> {
    direct_target(instruction).filter(|_| instruction.mnemonic() == Mnemonic::Call)
}

/// The address of a variable that an instruction reads or writes: relative to it, or absolute in a file that is not
/// moved.
pub fn variable(instruction: &Instruction) -> Option<u64> {
    if instruction.is_ip_rel_memory_operand() {
        return Some(instruction.ip_rel_memory_address());
    }
    let memory = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    let absolute = instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None;
    (memory && absolute).then(|| instruction.memory_displacement64())
}

fn pieces(image: &Image<'_>) -> Result<Vec<Range<u64>>, NoAllocator> {
    let (address, bytes) = image.section(".eh_frame").ok_or(NoAllocator::NoUnwindTable)?;
    let table = EhFrame::new(bytes, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(address);
    let mut entries = table.entries(&bases);
    let mut pieces = Vec::new();
    while let Some(entry) = entries.next().map_err(|_| NoAllocator::NoUnwindTable)? {
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

/// `R_X86_64_RELATIVE`. Relative relocations of the other kind (RELR) leave the address in place, and so does a file
/// that is not moved.
fn relocated(image: &Image<'_>) -> Vec<(u64, u64)> {
    const ENTRY: usize = 24;
    const RELATIVE: u64 = 8;
    let table = image.section(".rela.dyn").map_or(&[][..], |(_, bytes)| bytes);
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let mut relocated: Vec<(u64, u64)> = table
        .as_chunks::<ENTRY>()
        .0
        .iter()
        .filter_map(|entry| match entry.as_chunks::<8>().0 {
            [place, info, addend] if word(info) & 0xffff_ffff == RELATIVE => Some((word(place), word(addend))),
            _ => None,
        })
        .collect();
    relocated.sort_unstable();
    relocated
}
