//! Where a function's calls begin and end in its bytecode: the bytes that the evaluation loop reads then.

use profiler_common::python::{WATCH_ENTRY, WATCH_RETURN};

use super::{layout::Instruction, memory::ReadMemory, version::Version};

/// A byte that the loop reads when a call begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub address: u64,
    /// `WATCH_…`.
    pub kind: u64,
}

/// Why a function's calls cannot be told by what is read of its bytecode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwatchable {
    #[error("its bytecode cannot be read")]
    Unreadable,
    #[error("bytecode of CPython 3.{minor} is not known")]
    UnknownVersion { minor: u8 },
    #[error("it is a generator or a coroutine")]
    Generator,
    #[error("its bytecode has an instruction that is not known ({opcode}): it is traced, or compiled")]
    UnknownInstruction { opcode: u8 },
    #[error("it jumps back to its first instruction")]
    LoopsToFirst,
}

/// `CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR` in `co_flags` (Include/cpython/code.h).
const GENERATOR_FLAGS: u32 = 0x20 | 0x80 | 0x200;
/// `PyCodeObject.co_flags`: up to 3.10, and from 3.11 on (found in live objects of 3.8 – 3.15).
const FLAGS: [u64; 2] = [36, 48];
/// `PyCodeObject.co_code`, a `bytes` (3.8 – 3.10).
const CODE: u64 = 48;
/// `PyVarObject.ob_size`.
const SIZE: u64 = 16;
/// `PyBytesObject.ob_sval`.
const BYTES: u64 = 32;
/// `sizeof(_Py_CODEUNIT)`.
const UNIT_BYTES: usize = 2;
/// Longer code is not looked at: what another process's memory alleges must not fill ours.
const MAX_BYTES: u64 = 1 << 20;

const EXTENDED_ARG_TO_3_10: u8 = 144;
/// `opcode.hasjabs` of 3.8 – 3.10.
const ABSOLUTE_JUMPS: [u8; 6] = [111, 112, 113, 114, 115, 121];

/// Code units that follow an instruction for its cache, by its opcode, in hexadecimal; `.` for opcodes that are not
/// there, that only tracing puts there (`INSTRUMENTED_…`), or the just-in-time compiler (`ENTER_EXECUTOR`,
/// `RESUME_CHECK_JIT`, `TRACE_RECORD`). For each `name, number` in `dis._all_opmap.items()` it is
/// `dis._inline_cache_entries` of `dis.deoptmap.get(name, name)`, by the interpreters themselves (3.11.7, 3.12.1, 3.13.0,
/// 3.14.10). 3.13.18 has the same. 3.15 is left out: with several
/// threads its `RESUME` was read some 30 times in 5,000 calls without a call, and why is not understood.
const CACHES: [&[u8; 256]; 4] = [
    b"00011111100001101444444444222200000000044444000550000005aaaa10aa\
      1111000011001111110000000000100400000000004200000100500001100001\
      00000000000001010000000004400044a00000101114000001111...........\
      ................................................................",
    b"0000001110100110101111133100330000300033333333333000000031111011\
      1111009099009999999000000000110400000000009100044400400000110000\
      00000000000001000000400004000001110000111..300000...............\
      ................................................................",
    b"0001010000000000000000000000000000000001300001000000030000110000\
      000000.010000100009000000004010001111000100040000000010.........\
      .....................0111111111111333333333333333333331111111119\
      9999999999944110144411333333111.................................",
    b"0005000000000000000000000000000000000013000050000000300311000000\
      000000100001000090000000000040001000111100100040000000010.......\
      0555555555555553333333333333333333333311111111111999999999999900\
      44110144411333333111............................................",
];
/// Minor version that the first of them is of.
const FIRST_WITH_CACHES: u8 = 11;

/// `RETURN_VALUE`, and `RETURN_CONST` where there is one.
fn is_return(minor: u8, opcode: u8) -> bool {
    match minor {
        ..=11 => opcode == 83,
        12 => matches!(opcode, 83 | 121),
        13 => matches!(opcode, 36 | 103),
        14 => opcode == 35,
        _ => opcode == 33,
    }
}

/// Where the calls of the code object at `code` begin, first, and where they return.
///
/// `header`: what all objects have more in front than usual (builds without a GIL).
pub fn places(
    memory: &dyn ReadMemory,
    version: Version,
    instruction: Instruction,
    code: u64,
    header: u64,
) -> Result<Vec<Place>, Unwatchable> {
    let (first, bytes) = read(memory, instruction, code, header)?;
    let returns = match instruction {
        Instruction::Index { .. } => returns_to_3_10(&bytes)?,
        Instruction::Address { .. } => returns_with_caches(version.minor, &bytes)?,
    };
    let mut places = vec![Place {
        address: first,
        kind: WATCH_ENTRY,
    }];
    places.extend(returns.into_iter().map(|offset| Place {
        address: first.wrapping_add(offset as u64),
        kind: WATCH_RETURN,
    }));
    Ok(places)
}

/// The bytecode, and where it is.
fn read(
    memory: &dyn ReadMemory,
    instruction: Instruction,
    code: u64,
    header: u64,
) -> Result<(u64, Vec<u8>), Unwatchable> {
    let at = |address: u64, offset: u64| address.checked_add(offset).ok_or(Unwatchable::Unreadable);
    let word = |address: u64| memory.read_u64(address).ok_or(Unwatchable::Unreadable);
    let (first, bytes) = extent(memory, instruction, code, header).ok_or(Unwatchable::Unreadable)?;
    let flags_at = match instruction {
        Instruction::Index { .. } => FLAGS[0],
        Instruction::Address { .. } => FLAGS[1] + header,
    };
    if word(at(code, flags_at)?)? as u32 & GENERATOR_FLAGS != 0 {
        return Err(Unwatchable::Generator);
    }
    if bytes == 0 || bytes > MAX_BYTES {
        return Err(Unwatchable::Unreadable);
    }
    let bytes = memory.read_vec(first, bytes as usize).ok_or(Unwatchable::Unreadable)?;
    Ok((first, bytes))
}

/// Where the bytecode is, and how many bytes it is said to have.
fn extent(memory: &dyn ReadMemory, instruction: Instruction, code: u64, header: u64) -> Option<(u64, u64)> {
    let word = |address: u64, offset: u64| memory.read_u64(address.checked_add(offset)?);
    Some(match instruction {
        Instruction::Index { .. } => {
            let object = word(code, CODE)?;
            (object.checked_add(BYTES)?, word(object, SIZE)?)
        }
        Instruction::Address { code_adaptive } => {
            let units = word(code, SIZE + header)?;
            let bytes = units.saturating_mul(UNIT_BYTES as u64);
            (code.checked_add(code_adaptive.into())?, bytes)
        }
    })
}

/// The bytecode of a code object, whatever it is of.
pub(super) fn bytes(memory: &dyn ReadMemory, instruction: Instruction, code: u64) -> Option<Vec<u8>> {
    let (first, bytes) = extent(memory, instruction, code, 0)?;
    if bytes > MAX_BYTES {
        return None;
    }
    memory.read_vec(first, bytes as usize)
}

/// Code units that follow an instruction for its cache (to 3.14); `None` if it is not known.
pub(super) fn caches(minor: u8, opcode: u8) -> Option<u32> {
    let Some(table) = minor.checked_sub(FIRST_WITH_CACHES) else {
        return Some(0);
    };
    char::from(CACHES.get(usize::from(table))?[usize::from(opcode)]).to_digit(16)
}

fn returns_to_3_10(bytes: &[u8]) -> Result<Vec<usize>, Unwatchable> {
    let mut returns = Vec::new();
    let mut argument = 0u32;
    for (index, &[opcode, low]) in bytes.as_chunks::<UNIT_BYTES>().0.iter().enumerate() {
        argument = argument << 8 | u32::from(low);
        if opcode == EXTENDED_ARG_TO_3_10 {
            continue;
        }
        // The first unit would be read in each turn of the loop.
        if ABSOLUTE_JUMPS.contains(&opcode) && argument == 0 {
            return Err(Unwatchable::LoopsToFirst);
        }
        if is_return(10, opcode) {
            returns.push(index * UNIT_BYTES);
        }
        argument = 0;
    }
    Ok(returns)
}

/// From 3.11 on no jump leads to the first unit: a `RESUME` comes before everything that can be repeated.
fn returns_with_caches(minor: u8, bytes: &[u8]) -> Result<Vec<usize>, Unwatchable> {
    let table = minor
        .checked_sub(FIRST_WITH_CACHES)
        .and_then(|index| CACHES.get(usize::from(index)))
        .ok_or(Unwatchable::UnknownVersion { minor })?;
    let units = bytes.as_chunks::<UNIT_BYTES>().0;
    let mut returns = Vec::new();
    let mut at = 0;
    while let Some(&[opcode, _]) = units.get(at) {
        let caches = char::from(table[usize::from(opcode)])
            .to_digit(16)
            .ok_or(Unwatchable::UnknownInstruction { opcode })?;
        if is_return(minor, opcode) {
            returns.push(at * UNIT_BYTES);
        }
        at += 1 + caches as usize;
    }
    Ok(returns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::python::memory::FakeMemory;

    const OBJECT: u64 = 0x1000;
    const ADAPTIVE: Instruction = Instruction::Address { code_adaptive: 192 };
    const INDEX: Instruction = Instruction::Index { unit_bytes: 2 };

    fn version(minor: u8) -> Version {
        Version::from_hex(0x0300_00f0 | u32::from(minor) << 16)
    }

    fn adaptive(minor: u8, flags: u32, code: &[u8]) -> Result<Vec<Place>, Unwatchable> {
        let mut object = vec![0; 192];
        object[16..24].copy_from_slice(&(code.len() as u64 / 2).to_le_bytes());
        object[48..52].copy_from_slice(&flags.to_le_bytes());
        object.extend_from_slice(code);
        let mut memory = FakeMemory::default();
        memory.put(OBJECT, object);
        places(&memory, version(minor), ADAPTIVE, OBJECT, 0)
    }

    fn plain(code: &[u8]) -> Result<Vec<Place>, Unwatchable> {
        const CODE_BYTES: u64 = 0x4000;
        let mut object = vec![0; 176];
        object[48..56].copy_from_slice(&CODE_BYTES.to_le_bytes());
        let mut bytes = vec![0; 32];
        bytes[16..24].copy_from_slice(&(code.len() as u64).to_le_bytes());
        bytes.extend_from_slice(code);
        let mut memory = FakeMemory::default();
        memory.put(OBJECT, object);
        memory.put(CODE_BYTES, bytes);
        places(&memory, version(10), INDEX, OBJECT, 0)
    }

    fn offsets(places: &[Place]) -> Vec<(u64, u64)> {
        let first = places[0].address;
        places.iter().map(|place| (place.kind, place.address - first)).collect()
    }

    /// `def f(x): return x + 1` of 3.12.1, whose `BINARY_OP_ADD_INT` has a cache unit that looks like a `RETURN_VALUE`.
    #[test]
    fn caches_are_not_taken_for_instructions() {
        let code = [151, 0, 124, 0, 100, 1, 122, 0, 83, 83, 83, 0];
        let places = adaptive(12, 3, &code).unwrap();
        assert_eq!(offsets(&places), [(WATCH_ENTRY, 0), (WATCH_RETURN, 10)]);
        assert_eq!(places[0].address, OBJECT + 192);
    }

    #[test]
    fn what_is_resumed_or_traced_is_not_watched() {
        assert_eq!(adaptive(12, 0x23, &[151, 0, 83, 0]), Err(Unwatchable::Generator));
        let traced = adaptive(13, 3, &[149, 0, 254, 0]);
        assert_eq!(traced, Err(Unwatchable::UnknownInstruction { opcode: 254 }));
        assert_eq!(
            adaptive(16, 3, &[149, 0]),
            Err(Unwatchable::UnknownVersion { minor: 16 })
        );
        assert_eq!(adaptive(12, 3, &[]), Err(Unwatchable::Unreadable));
    }

    #[test]
    fn a_loop_back_to_the_first_instruction_is_found_behind_its_extended_argument() {
        let jump_far = [144, 1, 113, 0, 100, 0, 83, 0];
        assert_eq!(
            offsets(&plain(&jump_far).unwrap()),
            [(WATCH_ENTRY, 0), (WATCH_RETURN, 6)]
        );
        assert_eq!(plain(&[124, 0, 113, 0, 100, 0, 83, 0]), Err(Unwatchable::LoopsToFirst));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(minor in 8u8..17, code in prop::collection::vec(any::<u8>(), 0..64), flags: u32) {
            let _ = adaptive(minor, flags, &code);
            let _ = plain(&code);
        }
    }
}
