//! Which register holds which argument of a function, instruction by instruction.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register,
};

use super::code::direct_target;

/// Registers of the System V calling convention, in the order of arguments.
const ARGUMENTS: [Register; 6] = [
    Register::RDI,
    Register::RSI,
    Register::RDX,
    Register::RCX,
    Register::R8,
    Register::R9,
];

/// What a called function need not preserve.
const CALLER_SAVED: [Register; 9] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
];

/// What is known of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Unknown,
    Argument(u8),
    /// The lower half of an argument; zeroes above.
    LowArgument(u8),
    /// An argument less one, in 32 or 64 bits.
    LessOne(u8),
    /// (argument - 1) / 16: the size class that pymalloc puts a request of so many bytes into.
    SizeClass(u8),
    /// The stack pointer as it was on entry, where it points to the return address.
    ReturnAddress,
}

/// What is known before an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State([Value; 16]);

impl State {
    pub fn at_entry() -> Self {
        let mut state = Self([Value::Unknown; 16]);
        for (number, register) in ARGUMENTS.into_iter().enumerate() {
            state.set(register, Value::Argument(number as u8));
        }
        state.set(Register::RSP, Value::ReturnAddress);
        state
    }

    pub fn get(&self, register: Register) -> Value {
        index(register)
            .and_then(|index| self.0.get(index).copied())
            .unwrap_or(Value::Unknown)
    }

    /// A register that holds this; the argument's own if that does.
    pub fn holder(&self, value: Value) -> Option<Register> {
        let holds = |register: &Register| *register != Register::RSP && self.get(*register) == value;
        ARGUMENTS.into_iter().chain(all_registers()).find(holds)
    }

    /// Whether the stack pointer points to the return address, as on entry.
    pub fn stack_is_untouched(&self) -> bool {
        self.get(Register::RSP) == Value::ReturnAddress
    }

    fn set(&mut self, register: Register, value: Value) {
        if let Some(slot) = index(register).and_then(|index| self.0.get_mut(index)) {
            *slot = value;
        }
    }

    /// Goes past an instruction.
    pub fn step(&mut self, instruction: &Instruction, facts: &mut InstructionInfoFactory) {
        let result = self.result(instruction);
        // What is read of an instruction's operands here is registers; its memory is not looked at.
        let facts = facts.info_options(instruction, InstructionInfoOptions::NO_MEMORY_USAGE);
        for used in facts.used_registers() {
            if !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None) {
                self.set(used.register().full_register(), Value::Unknown);
            }
        }
        if matches!(
            instruction.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall
        ) {
            for register in CALLER_SAVED {
                self.set(register, Value::Unknown);
            }
            // A call pushes its return address, and what it calls pops it.
            return;
        }
        if let Some((register, value)) = result {
            self.set(register, value);
        }
    }

    /// What an instruction of a known form leaves in its destination.
    fn result(&self, instruction: &Instruction) -> Option<(Register, Value)> {
        if instruction.op0_kind() != OpKind::Register {
            return None;
        }
        let destination = instruction.op0_register();
        // 32-bit destinations are extended with zeroes, smaller ones are merged.
        let wide = destination.is_gpr64();
        if !wide && !destination.is_gpr32() {
            return None;
        }
        let narrowed = |value| match value {
            Value::Argument(number) if !wide => Value::LowArgument(number),
            Value::ReturnAddress if !wide => Value::Unknown,
            other => other,
        };
        let less_one = |value| match value {
            Value::Argument(number) | Value::LowArgument(number) => Value::LessOne(number),
            _ => Value::Unknown,
        };
        let is_register = instruction.op1_kind() == OpKind::Register;
        let immediate = match instruction.op1_kind() {
            OpKind::Immediate8 | OpKind::Immediate8to32 | OpKind::Immediate8to64 => {
                Some(instruction.immediate(1) as i8)
            }
            _ => None,
        };
        let own = self.get(destination.full_register());
        let value = match (instruction.mnemonic(), immediate) {
            (Mnemonic::Mov, _) if is_register => narrowed(self.get(instruction.op1_register().full_register())),
            (Mnemonic::Lea, _)
                if instruction.memory_index() == Register::None && instruction.memory_displacement64() == u64::MAX =>
            {
                less_one(self.get(instruction.memory_base().full_register()))
            }
            (Mnemonic::Sub, Some(1)) | (Mnemonic::Add, Some(-1)) | (Mnemonic::Dec, _) => less_one(own),
            (Mnemonic::Shr, Some(4)) => match own {
                Value::LessOne(number) => Value::SizeClass(number),
                _ => Value::Unknown,
            },
            _ => return None,
        };
        Some((destination.full_register(), value))
    }

    /// Keeps what both know; whether anything was lost.
    fn meet(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            if *mine != theirs && *mine != Value::Unknown {
                *mine = Value::Unknown;
                changed = true;
            }
        }
        changed
    }
}

/// What is known before each instruction of a function, whichever way it was reached. Each register can only lose what
/// is known of it, once: this ends.
pub fn states(function: &[Instruction]) -> BTreeMap<u64, State> {
    let by_address: BTreeMap<u64, &Instruction> = function.iter().map(|i| (i.ip(), i)).collect();
    let mut facts = InstructionInfoFactory::new();
    let mut states: BTreeMap<u64, State> = BTreeMap::new();
    let mut open: BTreeSet<u64> = BTreeSet::new();
    if let Some(first) = function.first() {
        states.insert(first.ip(), State::at_entry());
        open.insert(first.ip());
    }
    while let Some(address) = open.pop_first() {
        let (Some(instruction), Some(state)) = (by_address.get(&address), states.get(&address)) else {
            continue;
        };
        let mut after = state.clone();
        after.step(instruction, &mut facts);
        let next = continues(instruction).then(|| instruction.next_ip());
        let jump = direct_target(instruction).filter(|_| instruction.flow_control() != FlowControl::Call);
        for target in next.into_iter().chain(jump) {
            if !by_address.contains_key(&target) {
                continue;
            }
            let changed = match states.get_mut(&target) {
                Some(known) => known.meet(&after),
                None => {
                    states.insert(target, after.clone());
                    true
                }
            };
            if changed {
                open.insert(target);
            }
        }
    }
    states
}

/// Whether the instruction after it may be next.
pub fn continues(instruction: &Instruction) -> bool {
    !instruction.is_invalid()
        && matches!(
            instruction.flow_control(),
            FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall | FlowControl::ConditionalBranch
        )
}

/// The number of a register as instructions have it: 0 is rax, 15 is r15.
fn index(register: Register) -> Option<usize> {
    register.is_gpr64().then(|| register.number())
}

fn all_registers() -> impl Iterator<Item = Register> {
    Register::values().filter(|register| register.is_gpr64())
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    fn body(bytes: &[u8]) -> Vec<Instruction> {
        Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE)
            .into_iter()
            .collect()
    }

    /// What is known before the last instruction.
    fn at_end(bytes: &[u8]) -> State {
        let body = body(bytes);
        states(&body).get(&body.last().unwrap().ip()).unwrap().clone()
    }

    #[test]
    fn a_size_class_is_followed_to_its_register() {
        // lea -1(%rdi),%ebx; shr $4,%ebx; mov %ebx,%eax; ret
        let state = at_end(b"\x8d\x5f\xff\xc1\xeb\x04\x89\xd8\xc3");
        assert_eq!(state.get(Register::RBX), Value::SizeClass(0));
        assert_eq!(state.get(Register::RAX), Value::SizeClass(0));
        assert_eq!(state.get(Register::RDI), Value::Argument(0));
        // mov %rsi,%rbx; sub $1,%rbx; shr $4,%ebx; add $1,%ebx; ret
        let state = at_end(b"\x48\x89\xf3\x48\x83\xeb\x01\xc1\xeb\x04\x83\xc3\x01\xc3");
        assert_eq!(state.get(Register::RBX), Value::Unknown);
    }

    #[test]
    fn half_of_an_argument_is_not_the_argument() {
        // mov %edi,%ebx; ret
        let state = at_end(b"\x89\xfb\xc3");
        assert_eq!(state.get(Register::RBX), Value::LowArgument(0));
        // mov %dil,%sil; ret
        let state = at_end(b"\x40\x88\xfe\xc3");
        assert_eq!(state.get(Register::RSI), Value::Unknown);
    }

    #[test]
    fn a_call_keeps_only_what_it_must() {
        // mov %rdi,%rbx; call *%rax; ret
        let state = at_end(b"\x48\x89\xfb\xff\xd0\xc3");
        assert_eq!(state.get(Register::RDI), Value::Unknown);
        assert_eq!(state.get(Register::RBX), Value::Argument(0));
    }

    #[test]
    fn where_ways_meet_only_what_both_know_is_known() {
        // je +2; xor %esi,%esi; ret
        let state = at_end(b"\x74\x02\x31\xf6\xc3");
        assert_eq!(state.get(Register::RSI), Value::Unknown);
        assert_eq!(state.get(Register::RDI), Value::Argument(0));
    }

    proptest::proptest! {
        #[test]
        fn no_code_panics_nor_takes_for_ever(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
        ) {
            let _ = states(&body(&bytes));
        }
    }
}
