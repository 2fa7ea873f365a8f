//! Where CPython keeps the number of the next code object.
//!
//! From 3.12 on code objects are numbered (`co_version`). While the next number stays the same no code object has been
//! made, and what lay at an address lies there still: one word spares the kernel side a look at the code of every frame.
//! 3.14 has a word for this purpose among its debug offsets. 3.12 and 3.13 do not say where it is, but `_PyCode_New` does,
//! in the same three steps in every build: it loads the number, stores it into the new object, and stores the next one
//! back, unless all are used up.
//!
//! | build | number |
//! |---|---|
//! | pyenv's 3.12.1 | `lea _Py_next_func_version(%rip),%rdx; mov (%rdx),%eax; mov %eax,0x5c(%rbx); …; mov %eax,(%rdx)` |
//! | pyenv's 3.13.0 | `mov 0x4268(%r14),%eax; mov %eax,0x5c(%rbx); test %eax,%eax; je; add $1,%eax; mov %eax,0x4268(%r14)` |
//! | Debian's 3.13.18 | the same, with other instructions in between |

use std::collections::BTreeSet;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::image::Image;

/// The number of the next code object. Addresses are the file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextNumber {
    /// A variable (3.12).
    Variable { address: u64 },
    /// A field of the interpreter's state (3.13).
    InInterpreter { offset: u64 },
}

/// So far before the store into the object the number is loaded, and so far behind it stored back, in bytes.
const NEAR: usize = 64;
/// No field of an interpreter's state that is worth a name lies nearer; offsets in other objects do.
const LEAST_OFFSET: u64 = 0x400;
const MOST_OFFSET: u64 = 1 << 24;

/// `version`: the offset of `co_version`. None unless all places agree.
pub fn find(image: &Image<'_>, version: u16) -> Option<NextNumber> {
    let version = i8::try_from(version).ok()? as u8;
    let (start, text) = image.section(".text")?;
    let mut found = BTreeSet::new();
    // `mov %r32,version(%r64)`, after its prefix if it has one.
    for (at, bytes) in text.windows(3).enumerate() {
        if let [0x89, form, displacement] = *bytes
            && displacement == version
            && form & 0xc0 == 0x40
            && form & 7 != 4
        {
            let prefix = at.checked_sub(1).and_then(|before| text.get(before));
            let prefixed = prefix.is_some_and(|prefix| matches!(prefix, 0x40..=0x47));
            found.extend(number_at(text, start, at - usize::from(prefixed)));
        }
    }
    let mut found = found.into_iter();
    found.next().filter(|_| found.next().is_none())
}

/// What is stored at `at` if it is a number that is loaded before and counted up behind.
fn number_at(text: &[u8], start: u64, at: usize) -> Option<NextNumber> {
    let decode = |from: usize, until: usize| {
        let bytes = text.get(from..until.min(text.len())).unwrap_or_default();
        Decoder::with_ip(64, bytes, start + from as u64, DecoderOptions::NONE)
    };
    let mut behind = decode(at, at + NEAR).into_iter();
    let store = behind.next()?;
    if store.code() != Code::Mov_rm32_r32 || store.op0_kind() != OpKind::Memory {
        return None;
    }
    let register = store.op1_register();
    let behind: Vec<Instruction> = behind.collect();
    let tested = behind
        .iter()
        .position(|i| i.mnemonic() == Mnemonic::Test && i.op0_register() == register && i.op1_register() == register)?;
    // Instructions are of any length: of the places to begin at, that is right from which they lead here.
    (at.saturating_sub(NEAR)..at).find_map(|from| {
        let before: Vec<Instruction> = decode(from, at).into_iter().collect();
        if before.iter().any(Instruction::is_invalid) || before.last()?.next_ip() != store.ip() {
            return None;
        }
        let load = before
            .iter()
            .rposition(|i| i.op0_kind() == OpKind::Register && i.op0_register() == register)?;
        let loaded = before.get(load)?;
        if loaded.code() != Code::Mov_r32_rm32 || loaded.op1_kind() != OpKind::Memory {
            return None;
        }
        let is_back = |i: &Instruction| {
            i.code() == Code::Mov_rm32_r32
                && i.op0_kind() == OpKind::Memory
                && i.memory_base() == loaded.memory_base()
                && i.memory_index() == Register::None
                && i.memory_displacement64() == loaded.memory_displacement64()
        };
        behind.get(tested..)?.iter().find(|i| is_back(i))?;
        number(loaded, before.get(..load)?)
    })
}

/// Where `loaded` is loaded from.
fn number(loaded: &Instruction, before: &[Instruction]) -> Option<NextNumber> {
    if loaded.memory_index() != Register::None || loaded.segment_prefix() != Register::None {
        return None;
    }
    if loaded.is_ip_rel_memory_operand() {
        let address = loaded.ip_rel_memory_address();
        return Some(NextNumber::Variable { address });
    }
    let (base, displacement) = (loaded.memory_base(), loaded.memory_displacement64());
    if base == Register::None {
        return Some(NextNumber::Variable { address: displacement });
    }
    if displacement == 0 {
        let set = before
            .iter()
            .rfind(|i| i.op0_kind() == OpKind::Register && i.op0_register() == base)?;
        let is_address = set.code() == Code::Lea_r64_m && set.is_ip_rel_memory_operand();
        return is_address.then(|| NextNumber::Variable {
            address: set.ip_rel_memory_address(),
        });
    }
    let is_field = (LEAST_OFFSET..MOST_OFFSET).contains(&displacement) && base != Register::RSP;
    is_field.then_some(NextNumber::InInterpreter { offset: displacement })
}

#[cfg(test)]
mod tests {
    use super::super::fake_elf::FakeElf;
    use super::*;

    const TEXT: u64 = 0x1000;

    /// `co_version` is at 0x5c, as in all releases so far.
    fn found(code: &[u8]) -> Option<NextNumber> {
        let mut text = vec![0x90; 100];
        text.extend(code);
        text.resize(text.len() + 100, 0x90);
        let elf = FakeElf::default().section(".text", TEXT, text).build();
        find(&Image::parse(&elf).unwrap(), 0x5c)
    }

    /// `mov 0x4268(%r14),%eax`, `mov %eax,0x5c(%rbx)`, `test %eax,%eax`, `je .+9`, `add $1,%eax`,
    /// `mov %eax,0x4268(%r14)`: pyenv's 3.13.0.
    const FIELD: [&[u8]; 6] = [
        &[0x41, 0x8b, 0x86, 0x68, 0x42, 0, 0],
        &[0x89, 0x43, 0x5c],
        &[0x85, 0xc0],
        &[0x74, 0x0a],
        &[0x83, 0xc0, 1],
        &[0x41, 0x89, 0x86, 0x68, 0x42, 0, 0],
    ];

    /// `lea 0x406717(%rip),%rdx`, `movd %eax,%xmm4`, `mov %r10d,0x58(%rbx)`, `mov (%rdx),%eax`, `mov %eax,0x5c(%rbx)`,
    /// `test %eax,%eax`, `je`, `add $1,%eax`, `mov %eax,(%rdx)`: pyenv's 3.12.1.
    const VARIABLE: [&[u8]; 9] = [
        &[0x48, 0x8d, 0x15, 0x17, 0x67, 0x40, 0],
        &[0x66, 0x0f, 0x6e, 0xe0],
        &[0x44, 0x89, 0x53, 0x58],
        &[0x8b, 0x02],
        &[0x89, 0x43, 0x5c],
        &[0x85, 0xc0],
        &[0x74, 0x05],
        &[0x83, 0xc0, 1],
        &[0x89, 0x02],
    ];

    #[test]
    fn the_number_is_a_field_or_a_variable() {
        assert_eq!(
            found(&FIELD.concat()),
            Some(NextNumber::InInterpreter { offset: 0x4268 })
        );
        let after_lea = TEXT + 100 + 7;
        assert_eq!(
            found(&VARIABLE.concat()),
            Some(NextNumber::Variable {
                address: after_lea + 0x40_6717
            })
        );
    }

    #[test]
    fn what_is_not_counted_up_or_not_stored_into_the_object_is_no_number() {
        for missing in [0, 1, 2, 5] {
            let mut code = FIELD.to_vec();
            code.remove(missing);
            assert_eq!(found(&code.concat()), None, "without step {missing}");
        }
        let other: &[u8] = &[0x41, 0x89, 0x86, 0x6c, 0x42, 0, 0];
        let mut code = FIELD.to_vec();
        code[5] = other;
        assert_eq!(found(&code.concat()), None, "another field is counted up");
        assert_eq!(found(&[FIELD.concat(), VARIABLE.concat()].concat()), None, "two places");
    }

    #[test]
    fn the_numbers_of_real_builds_are_where_their_symbols_say() {
        let home = std::env::var("HOME").unwrap_or_default();
        for (path, expected) in [
            ("3.12.1/lib/libpython3.12.so.1.0", None),
            (
                "3.13.0/lib/libpython3.13.so.1.0",
                Some(NextNumber::InInterpreter { offset: 17000 }),
            ),
        ] {
            let Ok(elf) = std::fs::read(format!("{home}/.pyenv/versions/{path}")) else {
                eprintln!("skipped: pyenv has no {path}");
                continue;
            };
            use object::{Object as _, ObjectSymbol as _};
            let file = object::File::parse(&*elf).unwrap();
            let variable = file
                .symbols()
                .find(|symbol| symbol.name() == Ok("_Py_next_func_version"));
            let variable = variable.map(|symbol| NextNumber::Variable {
                address: symbol.address(),
            });
            assert_eq!(
                find(&Image::parse(&elf).unwrap(), 0x5c),
                expected.or(variable),
                "{path}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_code_panics(changes in proptest::collection::vec((0..23_usize, 0..=255_u8), 0..4)) {
            let mut code = FIELD.concat();
            for (at, byte) in changes {
                if let Some(old) = code.get_mut(at) {
                    *old = byte;
                }
            }
            let _ = found(&code);
        }
    }
}
