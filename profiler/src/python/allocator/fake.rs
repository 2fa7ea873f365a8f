//! Files made of a few functions, for tests.

use super::super::fake_elf::FakeElf;

const UNWIND_TABLE: u64 = 0x9_0000;

/// An ELF file with these functions, at these addresses, and an unwind table that covers them.
pub fn elf(functions: &[(u64, Vec<u8>)]) -> FakeElf {
    // One CIE ("zR", pc-relative 4-byte addresses, as gcc and clang emit).
    let mut table = vec![16, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, 0, 0, 0];
    for (address, code) in functions {
        let at = table.len() as u32;
        table.extend(16_u32.to_le_bytes());
        table.extend((at + 4).to_le_bytes());
        table.extend((address.wrapping_sub(UNWIND_TABLE + u64::from(at) + 8) as u32).to_le_bytes());
        table.extend((code.len() as u32).to_le_bytes());
        table.extend([0; 4]);
    }
    table.extend([0; 4]);
    functions
        .iter()
        .fold(FakeElf::default(), |elf, (address, code)| {
            elf.section(".text", *address, code.clone())
        })
        .section(".eh_frame", UNWIND_TABLE, table)
}

/// An instruction that ends in a 32-bit displacement from the next one.
pub fn relative(opcode: &[u8], at: u64, target: u64) -> Vec<u8> {
    let end = at + opcode.len() as u64 + 4;
    [opcode, &(target.wrapping_sub(end) as u32).to_le_bytes()].concat()
}

/// What a file's bytes become when some of them are changed.
pub fn damaged(mut elf: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for (at, byte) in changes {
        let len = elf.len().max(1);
        if let Some(old) = elf.get_mut(at % len) {
            *old = *byte;
        }
    }
    elf
}
