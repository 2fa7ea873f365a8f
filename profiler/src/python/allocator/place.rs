//! Where in a function a probe costs least.
//!
//! A uprobe is a trap, and most instructions must then be single-stepped out of line, which is a second one. The kernel
//! emulates a few. Measured here (x86-64, 6.18, empty BPF program, ns per hit): `push` 664, `nop` 610, `jmp` 595, `jcc`
//! 613 – 624, `call` 663, against 9,175 for `ret`, 9,156 for `pop`, 9,256 for `mov`, 9,228 for `test`.
//!
//! A return probe (uretprobe) on a `push` takes 1,093, and together with a probe on entry there 1,168 (9,791 on a
//! `mov`). So results are read with return probes: a probe on each `ret` would cost 9,838 in all, and one on an
//! emulated branch on the way out, where there is such a branch, 1,270. A return probe may stand on any instruction
//! where the stack pointer is still as it was on entry. While a call is under way, its return address on the stack is
//! the kernel's, which an unwinder must know if another probe takes a stack further down.
//!
//! In a process that does nothing but allocate (pyenv's 3.12.1, 7.2 million hits), a probe takes 850 ns per hit and a
//! return probe 740 more.

use std::ops::Range;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, Register};

use super::code::{Code, direct_target};
use super::flow::{State, Value, continues};

/// A general register of the probed thread: its index in words of the kernel's `struct pt_regs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterIndex(pub u8);

/// Where a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub file_offset: u64,
    /// The file's.
    pub address: u64,
    /// Whether the kernel emulates the instruction. If not, it is single-stepped, at about 15 times the cost.
    pub emulated: bool,
}

/// A place, and what is known there.
#[derive(Clone, Debug)]
pub struct Spot {
    pub place: Place,
    pub state: State,
}

/// No prologue is longer.
const MAX_PROLOGUE: usize = 32;

/// The first instruction that the kernel emulates, that every call of the function passes exactly once, and at which
/// `fits` (what is known there is enough). Otherwise the first one, which is single-stepped.
pub fn on_entry(code: &Code<'_>, function: &Range<u64>, fits: impl Fn(&State) -> bool) -> Option<Spot> {
    let body = code.instructions(function);
    let first = body.iter().find(|instruction| !is_landing_pad(instruction))?;
    let mut state = State::at_entry();
    let mut facts = InstructionInfoFactory::new();
    let entered_again = first_jump_target(code, function, &body);
    for instruction in body.iter().take(MAX_PROLOGUE) {
        // Whoever jumps here has not come from the entry, or comes for the second time.
        if instruction.is_invalid() || entered_again.is_some_and(|target| target <= instruction.ip()) {
            break;
        }
        if !fits(&state) {
            break;
        }
        if is_emulated(code, instruction) {
            return spot(code, instruction, state);
        }
        if !continues(instruction) || instruction.flow_control() != FlowControl::Next {
            break;
        }
        state.step(instruction, &mut facts);
    }
    if first.is_invalid() {
        return None;
    }
    spot(code, first, State::at_entry())
}

pub fn spot(code: &Code<'_>, instruction: &Instruction, state: State) -> Option<Spot> {
    let address = instruction.ip();
    let place = Place {
        file_offset: code.file_offset(address)?,
        address,
        emulated: is_emulated(code, instruction),
    };
    Some(Spot { place, state })
}

/// The lowest address after its entry that the function, or a cold part of it, jumps to. A jump to the entry itself is
/// one more call.
fn first_jump_target(code: &Code<'_>, function: &Range<u64>, body: &[Instruction]) -> Option<u64> {
    let mut targets: Vec<u64> = Vec::new();
    let mut parts: Vec<Range<u64>> = Vec::new();
    for target in body.iter().filter_map(jump_target) {
        if function.contains(&target) {
            targets.push(target);
        } else if let Some(part) = code.piece_of(target) {
            parts.push(part);
        }
    }
    parts.sort_unstable_by_key(|part| part.start);
    parts.dedup();
    for part in parts.iter().take(MAX_PROLOGUE) {
        targets.extend(code.instructions(part).iter().filter_map(jump_target));
    }
    let inner = targets
        .into_iter()
        .filter(|target| *target != function.start && function.contains(target));
    inner.min()
}

fn jump_target(instruction: &Instruction) -> Option<u64> {
    direct_target(instruction).filter(|_| instruction.mnemonic() != Mnemonic::Call)
}

/// `endbr64` must be the target of an indirect call: it is not for others to overwrite, and it is single-stepped.
fn is_landing_pad(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Endbr64
}

/// Whether the kernel emulates the instruction: `push` of a register, one-byte `nop`, and direct `jmp`, `jcc` and
/// `call` without prefixes.
fn is_emulated(code: &Code<'_>, instruction: &Instruction) -> bool {
    code.image
        .bytes(instruction.ip(), instruction.len())
        .is_some_and(emulates)
}

pub fn emulates(bytes: &[u8]) -> bool {
    match bytes {
        [0x50..=0x57 | 0x90] | [0x41, 0x50..=0x57] | [0x70..=0x7f | 0xeb, _] => true,
        [0xe8 | 0xe9, rest @ ..] => rest.len() == 4,
        [0x0f, 0x80..=0x8f, rest @ ..] => rest.len() == 4,
        _ => false,
    }
}

/// Where the kernel saves a register.
pub fn saved(register: Register) -> Option<RegisterIndex> {
    let index = match register.full_register() {
        Register::R15 => 0,
        Register::R14 => 1,
        Register::R13 => 2,
        Register::R12 => 3,
        Register::RBP => 4,
        Register::RBX => 5,
        Register::R11 => 6,
        Register::R10 => 7,
        Register::R9 => 8,
        Register::R8 => 9,
        Register::RAX => 10,
        Register::RCX => 11,
        Register::RDX => 12,
        Register::RSI => 13,
        Register::RDI => 14,
        _ => return None,
    };
    Some(RegisterIndex(index))
}

impl Spot {
    /// The register that holds all of a value.
    pub fn register(&self, value: Value) -> Option<RegisterIndex> {
        saved(self.state.holder(value)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake;
    use super::*;

    const FUNCTION: u64 = 0x1000;
    const COLD: u64 = 0x2000;

    const ENDBR64: &[u8] = b"\xf3\x0f\x1e\xfa";
    const PUSH_RBX: &[u8] = b"\x53";
    const PUSH_R12: &[u8] = b"\x41\x54";
    const MOV_RSI_TO_RBX: &[u8] = b"\x48\x89\xf3";
    const CLEAR_RSI: &[u8] = b"\x31\xf6";
    const TEST_RSI: &[u8] = b"\x48\x85\xf6";
    const SUB_RSP: &[u8] = b"\x48\x83\xec\x18";
    /// Over the two bytes of the next instruction.
    const JE_OVER: &[u8] = b"\x74\x02";
    const RET: &[u8] = b"\xc3";

    fn spot_in(function: &[&[u8]], cold: &[u8], fits: impl Fn(&State) -> bool) -> Spot {
        let function = function.concat();
        let range = FUNCTION..FUNCTION + function.len() as u64;
        let elf = fake::elf(&[(FUNCTION, function), (COLD, cold.to_vec())]).build();
        on_entry(&Code::new(&elf).unwrap(), &range, fits).unwrap()
    }

    fn has_second(state: &State) -> bool {
        state.holder(Value::Argument(1)).is_some()
    }

    fn offset(function: &[&[u8]]) -> (u64, bool) {
        let place = spot_in(function, RET, has_second).place;
        (place.address - FUNCTION, place.emulated)
    }

    #[test]
    fn the_first_emulated_instruction_is_chosen() {
        assert_eq!(offset(&[PUSH_RBX, RET]), (0, true));
        assert_eq!(offset(&[MOV_RSI_TO_RBX, PUSH_R12, RET]), (3, true));
        assert_eq!(offset(&[ENDBR64, TEST_RSI, JE_OVER, CLEAR_RSI, RET]), (7, true));
    }

    #[test]
    fn where_nothing_is_emulated_the_first_instruction_that_is_no_landing_pad_is() {
        assert_eq!(offset(&[ENDBR64, TEST_RSI, RET]), (4, false));
        assert_eq!(offset(&[RET]), (0, false));
    }

    #[test]
    fn an_argument_that_was_overwritten_is_not_read() {
        assert_eq!(offset(&[CLEAR_RSI, PUSH_RBX, RET]), (0, false));
    }

    #[test]
    fn an_argument_that_was_moved_is_read_where_it_is() {
        let spot = spot_in(&[MOV_RSI_TO_RBX, CLEAR_RSI, PUSH_R12, RET], RET, has_second);
        assert_eq!(spot.place.address, FUNCTION + 5);
        assert_eq!(spot.register(Value::Argument(1)), Some(RegisterIndex(5)));
        // Both have it: the argument's own.
        let spot = spot_in(&[MOV_RSI_TO_RBX, PUSH_R12, RET], RET, has_second);
        assert_eq!(spot.register(Value::Argument(1)), Some(RegisterIndex(13)));
    }

    #[test]
    fn a_return_probe_is_not_put_where_the_stack_pointer_has_moved() {
        let body: &[&[u8]] = &[SUB_RSP, PUSH_RBX, RET];
        assert_eq!(spot_in(body, RET, has_second).place.address, FUNCTION + 4);
        let with_result = |state: &State| has_second(state) && state.stack_is_untouched();
        assert_eq!(spot_in(body, RET, with_result).place.address, FUNCTION);
    }

    #[test]
    fn a_place_that_some_calls_do_not_pass_is_not_chosen() {
        // loopne is not emulated, and the push after it not always reached.
        assert_eq!(offset(&[b"\xe0\x01", PUSH_RBX, RET]), (0, false));
        assert_eq!(offset(&[b"\xff\xd0", PUSH_RBX, RET]), (0, false));
    }

    #[test]
    fn a_place_that_one_call_may_pass_twice_is_not_chosen() {
        // A loop back to the push.
        assert_eq!(offset(&[MOV_RSI_TO_RBX, PUSH_RBX, b"\x75\xfd", RET]), (0, false));
        // The same, from a cold part.
        let jump = fake::relative(b"\x0f\x85", FUNCTION + 4, COLD);
        let body: &[&[u8]] = &[MOV_RSI_TO_RBX, PUSH_RBX, &jump, RET];
        let back = fake::relative(&[0xe9], COLD, FUNCTION + 3);
        assert_eq!(spot_in(body, RET, has_second).place.address, FUNCTION + 3);
        assert_eq!(spot_in(body, &back, has_second).place.address, FUNCTION);
    }

    #[test]
    fn what_the_kernel_emulates_is_told_by_all_of_its_bytes() {
        for emulated in [
            &b"\x55"[..],
            b"\x41\x57",
            b"\x90",
            b"\xeb\x10",
            b"\x7f\x10",
            b"\xe9\0\0\0\0",
            b"\xe8\0\0\0\0",
            b"\x0f\x84\0\0\0\0",
        ] {
            assert!(emulates(emulated), "{emulated:x?}");
        }
        for stepped in [
            &b"\x5d"[..],
            b"\xc3",
            b"\x66\x90",
            b"\x48\x55",
            b"\xff\xe0",
            b"\x66\x0f\x1f\x44\0\0",
            b"\x66\xe9\0\0",
            b"\x3e\x74\x10",
            b"\x0f\x05",
            b"\xe3\x10",
            b"\x66\xe8\0\0\0\0",
            b"",
        ] {
            assert!(!emulates(stepped), "{stepped:x?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_code_panics_and_a_place_is_an_instruction_of_it(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..200),
        ) {
            let range = FUNCTION..FUNCTION + bytes.len() as u64;
            let elf = fake::elf(&[(FUNCTION, bytes)]).build();
            let code = Code::new(&elf).unwrap();
            if let Some(spot) = on_entry(&code, &range, has_second) {
                let found = code.instructions(&range).iter().any(|i| i.ip() == spot.place.address && !i.is_invalid());
                assert!(found);
            }
        }
    }
}
