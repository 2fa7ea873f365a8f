//! Where frames end (3.11 on).
//!
//! From 3.12 on one function clears a frame and takes it off the stack. 3.13 and later export it; the one of 3.12 is told
//! by what it does first: it asks whether a thread owns the frame. clang, given a profile, inlines it into the evaluation
//! loop, all of it (3.12.10, three copies) or where it seems worth it (a tail-calling 3.14.10, two copies), and there the
//! same question marks each copy, with a branch after it that the kernel emulates. In 3.11, `_PyFrame_Clear` is told by the fields it reads: it gives up the references that a frame holds, and
//! leaves alone those it borrows, to the globals and the built-ins.

use std::collections::BTreeSet;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::super::allocator::code::{Code, direct_call};
use super::super::allocator::flow::{Value, states};
use super::super::allocator::place::{Place, emulates, on_entry, saved};
use super::super::binary::PythonBinary;
use super::handlers::{loop_ranges, mentioned};
use super::{CallProbe, Event, NoCalls};

/// The longest known has 1,167 bytes (3.13.18).
const MAX_FUNCTION_BYTES: u64 = 4 << 10;

/// Known loops call up to 170 functions.
const MAX_CALLED: usize = 2000;

/// The most copies known are 3.
const MAX_COPIES: usize = 16;

pub fn find(code: &Code<'_>, binary: &PythonBinary) -> Result<Vec<CallProbe>, NoCalls> {
    let series = binary.version.series();
    let body: Vec<Instruction> = loop_ranges(binary).flat_map(|range| code.instructions(range)).collect();
    let mut called: BTreeSet<u64> = body.iter().filter_map(direct_call).collect();
    // A library calls it through a stub.
    let exported = code.image.symbol("_PyEval_FrameClearAndPop");
    called.extend(exported.map(|symbol| symbol.address));
    let functions = |argument, event, is_it: &dyn Fn(&[Instruction]) -> bool| -> Vec<CallProbe> {
        let functions = called.iter().filter_map(|address| code.function(*address));
        let functions = functions.take(MAX_CALLED);
        let probes = functions.filter_map(|function| {
            let is_short = function.end - function.start <= MAX_FUNCTION_BYTES;
            if !is_short || !is_it(&code.instructions(&function)) {
                return None;
            }
            let spot = on_entry(code, &function, |state| {
                state.holder(Value::Argument(argument)).is_some()
            })?;
            Some(CallProbe {
                place: spot.place,
                event,
                frame: spot.register(Value::Argument(argument))?,
            })
        });
        probes.take(MAX_COPIES).collect()
    };
    if series == (3, 11) {
        let probes = functions(0, Event::InnerExit, &gives_up_a_frame);
        if probes.is_empty() {
            let name = "_PyFrame_Clear";
            return Err(NoCalls::Inlined { name });
        }
        return Ok(probes);
    }
    let owner = binary.layout.process.frame_owner;
    let asks = |body: &[Instruction]| asks_for_owner(body, owner);
    let mut probes = functions(1, Event::Exit, &asks);
    probes.extend(copies(code, &body, owner).take(MAX_COPIES));
    if probes.is_empty() {
        let name = if series == (3, 12) {
            "_PyEvalFrameClearAndPop"
        } else {
            "_PyEval_FrameClearAndPop"
        };
        return Err(NoCalls::Inlined { name });
    }
    Ok(probes)
}

/// Whether of a frame, the first argument, all is read that holds a reference, and nothing else: function, locals, code,
/// frame object, and the stack's height.
fn gives_up_a_frame(body: &[Instruction]) -> bool {
    const FIELDS: [u64; 5] = [0, 24, 32, 40, 64];
    let states = states(body);
    let mut fields: Vec<u64> = body
        .iter()
        .filter(|instruction| has_memory(instruction) && instruction.memory_index() == Register::None)
        .filter(|instruction| {
            let state = states.get(&instruction.ip());
            state.is_some_and(|state| state.get(instruction.memory_base()) == Value::Argument(0))
        })
        .map(Instruction::memory_displacement64)
        .collect();
    fields.sort_unstable();
    fields.dedup();
    fields == FIELDS
}

fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}

/// Whether the second argument is a frame, and whether a thread owns it is asked.
fn asks_for_owner(body: &[Instruction], owner: u16) -> bool {
    let states = states(body);
    body.iter().any(|instruction| {
        is_owner_test(instruction, owner)
            && states
                .get(&instruction.ip())
                .is_some_and(|state| state.get(instruction.memory_base()) == Value::Argument(1))
    })
}

/// `cmpb $0, owner(frame)`: `FRAME_OWNED_BY_THREAD` is 0.
fn is_owner_test(instruction: &Instruction, owner: u16) -> bool {
    instruction.mnemonic() == Mnemonic::Cmp
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Immediate8
        && instruction.immediate8() == 0
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == u64::from(owner)
}

/// Where the function is inlined: the branch on the owner.
fn copies<'a>(code: &'a Code<'_>, body: &'a [Instruction], owner: u16) -> impl Iterator<Item = CallProbe> + use<'a> {
    body.windows(2).filter_map(move |pair| {
        let [test, branch] = pair else { return None };
        let is_branch = matches!(branch.mnemonic(), Mnemonic::Je | Mnemonic::Jne) && test.next_ip() == branch.ip();
        if !is_owner_test(test, owner) || !is_branch {
            return None;
        }
        let bytes = code.image.bytes(branch.ip(), branch.len())?;
        Some(CallProbe {
            place: Place {
                file_offset: code.file_offset(branch.ip())?,
                address: branch.ip(),
                emulated: emulates(bytes),
            },
            event: Event::Exit,
            frame: saved(test.memory_base())?,
        })
    })
}

/// `_Py_InitCleanup`: a code object that lies in the file, whose address the loop has in its instructions or in a slot
/// that the loader fills in.
pub fn cleanup_code(code: &Code<'_>, binary: &PythonBinary) -> Option<u64> {
    if binary.version.series() < (3, 13) {
        return None;
    }
    if let Some(symbol) = code.image.symbol("_Py_InitCleanup") {
        return Some(symbol.address);
    }
    let mentioned: BTreeSet<u64> = loop_ranges(binary)
        .flat_map(|range| code.instructions(range))
        .flat_map(|instruction| mentioned(&instruction))
        .collect();
    let bound = bound_to(code, binary.code_type);
    mentioned.into_iter().find(|address| {
        let type_at = address.checked_add(binary.layout.process.object_type.into());
        type_at.is_some_and(|at| code.word(at) == Some(binary.code_type) || bound.contains(&at))
    })
}

/// Where the loader writes the address of the exported symbol at `address` (`R_X86_64_64`, in a library).
fn bound_to(code: &Code<'_>, address: u64) -> BTreeSet<u64> {
    const R_X86_64_64: u64 = 1;
    /// Of relocations, and of symbols.
    const ENTRY: usize = 24;
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let section = |name| code.image.section(name).map_or(&[][..], |(_, bytes)| bytes);
    let symbols = section(".dynsym").as_chunks::<ENTRY>().0;
    let is_it = |symbol: u64| {
        let symbol = usize::try_from(symbol).ok().and_then(|index| symbols.get(index));
        symbol.is_some_and(|symbol| symbol.as_chunks::<8>().0.get(1).map(word) == Some(address))
    };
    let relocations = section(".rela.dyn").as_chunks::<ENTRY>().0;
    let places = relocations.iter().filter_map(|entry| match entry.as_chunks::<8>().0 {
        [place, info, _] if word(info) & 0xffff_ffff == R_X86_64_64 && is_it(word(info) >> 32) => Some(word(place)),
        _ => None,
    });
    places.collect()
}

#[cfg(test)]
mod tests {
    use super::super::Event;
    use super::super::fake::{CLEAR, CLEAR_AND_POP, EVAL, FakePython, JMP_RAX, python_3_12};

    fn exits(python: &FakePython) -> Result<Vec<(u64, u8)>, String> {
        let probes = python.inspect().map_err(|problem| problem.to_string())?;
        let exits = probes
            .calls
            .iter()
            .filter(|probe| matches!(probe.event, Event::Exit | Event::InnerExit));
        Ok(exits.map(|probe| (probe.place.address, probe.frame.0)).collect())
    }

    /// cmpb $0,70(%rbp); je +2
    const COPY: &[u8] = b"\x80\x7d\x46\x00\x74\x02\xff\xe0";

    #[test]
    fn the_function_that_asks_who_owns_a_frame_is_probed_on_entry() {
        assert_eq!(exits(&python_3_12()), Ok(vec![(CLEAR, 13)]));
        // endbr64, which is not to be overwritten.
        let python = FakePython::new("3.12.1", &[b"\xf3\x0f\x1e\xfa", CLEAR_AND_POP].concat());
        assert_eq!(exits(&python), Ok(vec![(CLEAR + 4, 13)]));
    }

    #[test]
    fn copies_of_it_in_the_loop_are_probed_at_the_branch() {
        let mut python = FakePython::new("3.12.1", b"\xc3");
        python.put(EVAL + 0x200, COPY);
        python.put(EVAL + 0x220, COPY);
        assert_eq!(exits(&python), Ok(vec![(EVAL + 0x204, 4), (EVAL + 0x224, 4)]));
        // cmpb $1: another question.
        python.put(EVAL + 0x203, b"\x01");
        assert_eq!(exits(&python), Ok(vec![(EVAL + 0x224, 4)]));
    }

    #[test]
    fn a_build_that_has_neither_is_refused_by_name() {
        let inlined = |name| {
            Err(format!(
                "the function that clears frames ({name}) was not found: this build has it inlined"
            ))
        };
        let python = FakePython::new("3.12.1", b"\xc3");
        assert_eq!(exits(&python), inlined("_PyEvalFrameClearAndPop"));
        assert_eq!(
            exits(&FakePython::new("3.11.7", CLEAR_AND_POP)),
            inlined("_PyFrame_Clear")
        );
    }

    /// mov 40(%rdi),%rax; mov 64(%rdi),%eax; mov 24(%rdi),%rax; mov (%rdi),%rax; mov 32(%rdi),%rax; ret
    const FRAME_CLEAR: &[&[u8]] = &[
        b"\x48\x8b\x47\x28",
        b"\x8b\x47\x40",
        b"\x48\x8b\x47\x18",
        b"\x48\x8b\x07",
        b"\x48\x8b\x47\x20",
        b"\xc3",
    ];

    #[test]
    fn in_3_11_the_function_that_gives_up_what_a_frame_holds_is_probed() {
        let clear = [&b"\x55"[..], &FRAME_CLEAR.concat()].concat();
        assert_eq!(exits(&FakePython::new("3.11.7", &clear)), Ok(vec![(CLEAR, 14)]));
        for left_out in 0..5 {
            let mut fields = FRAME_CLEAR.to_vec();
            fields.remove(left_out);
            assert!(
                exits(&FakePython::new("3.11.7", &fields.concat())).is_err(),
                "{left_out}"
            );
        }
        // mov 8(%rdi),%rax: the globals are borrowed.
        let copies_a_frame = [b"\x48\x8b\x47\x08", FRAME_CLEAR.concat().as_slice()].concat();
        assert!(exits(&FakePython::new("3.11.7", &copies_a_frame)).is_err());
    }

    #[test]
    fn in_3_11_calls_from_outside_the_loop_are_seen_when_it_is_entered() {
        let probes = FakePython::new("3.11.7", &FRAME_CLEAR.concat()).inspect().unwrap();
        let entry = probes.calls.last().unwrap();
        assert_eq!((entry.place.address, entry.frame.0), (EVAL, 13));
        assert_eq!(entry.event, Event::LoopEntry { code_flags: 48 });
    }

    #[test]
    fn what_only_is_called_elsewhere_does_not_count() {
        let mut python = python_3_12();
        python.put(EVAL + 8, &[0x90; 5]);
        assert!(exits(&python).is_err());
        python.put(EVAL + 8, JMP_RAX);
        assert!(exits(&python).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_change_to_the_file_panics(
            changes in proptest::collection::vec((0..0x4000_usize, proptest::prelude::any::<u8>()), 0..20),
            version in proptest::sample::select(vec!["3.11.7", "3.12.1"]),
        ) {
            let python = if version == "3.12.1" { python_3_12() } else { FakePython::new(version, &FRAME_CLEAR.concat()) };
            let binary = python.binary();
            let mut elf = python.build();
            for (at, byte) in changes {
                let len = elf.len();
                elf[at % len] = byte;
            }
            let _ = super::super::inspect(&elf, &binary);
        }
    }
}
