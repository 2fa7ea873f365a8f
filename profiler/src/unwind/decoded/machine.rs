//! What a function's registers and stack are known to hold, counted from where its caller was.

mod caller;

use iced_x86::{
    Code, ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
    UsedMemory, UsedRegister,
};

/// What a register or a word of the stack is known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Unknown,
    /// What this register (by its number in instructions) held when the function began.
    Caller(u8),
    /// An address on the stack.
    Stack(Place),
    /// An address in the file, relative to its base.
    Address(u64),
    /// One of two such addresses.
    OneOf(u64, u64),
    /// What stands in the table at this address: how far from the table code lies.
    Distance(u64),
    /// Where what stands in the table at this address leads.
    Listed(u64),
    /// A number.
    Number(u32),
    /// What the function was given.
    Argument,
}

/// A place on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub base: Base,
    pub offset: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The canonical frame address: the stack pointer as it will be after the return.
    Cfa,
    /// A place below it that was rounded down.
    Rounded,
}

/// Why nothing is said of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It takes its return address off the stack, or overwrites it.
    ReturnAddress,
    /// At a return, the stack pointer or a register that callees preserve is not known to be what it was.
    NotRestored,
    /// It jumps where nobody knows.
    UnknownJump,
    /// It goes on into code that does not belong to it.
    Strays,
    /// Its bytes are no instructions, or such as need not come back.
    NotCode,
    /// It never returns, so nothing proves what was worked out.
    NoReturn,
    /// More than we look at.
    TooLong,
}

const RAX: usize = 0;
const RCX: usize = 1;
const RSP: usize = 4;
const RBP: usize = 5;

/// `%rbx`, `%rbp`, `%r12` – `%r15` (System V ABI, figure 3.4).
pub const PRESERVED: [usize; 6] = [3, RBP, 12, 13, 14, 15];

/// `%rdi`, `%rsi`, `%rdx`, `%rcx`, `%r8`, `%r9` (likewise).
const ARGUMENTS: [usize; 6] = [7, 6, 2, RCX, 8, 9];

/// More than any function has, and little enough to reckon with.
const MAX_OFFSET: i32 = 1 << 28;

/// Below the stack pointer, signal handlers leave so much alone (System V ABI, 3.2.2).
const RED_ZONE: i32 = 128;

/// Words of the stack that are remembered. Six registers are preserved; the rest is for what is put aside.
const MAX_WORDS: usize = 32;

/// What is known before an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    registers: [Value; 16],
    /// Words of the stack, each once. What is not here is not known.
    words: Vec<(Place, Value)>,
    /// Where [`Base::Rounded`] was before it was rounded, from [`Base::Cfa`], and to a multiple of what.
    rounded: Option<(i32, i32)>,
}

impl Machine {
    pub fn at_entry() -> Self {
        let mut registers = [Value::Unknown; 16];
        for number in PRESERVED {
            registers[number] = Value::Caller(number as u8);
        }
        for number in ARGUMENTS {
            registers[number] = Value::Argument;
        }
        registers[RSP] = cfa(-8);
        Self {
            registers,
            words: Vec::new(),
            rounded: None,
        }
    }

    /// Whether a function that is jumped to from here finds everything as if the caller had called it.
    pub fn is_as_at_entry(&self) -> bool {
        self.registers[RSP] == cfa(-8)
            && PRESERVED
                .into_iter()
                .all(|number| self.registers[number] == Value::Caller(number as u8))
    }

    /// What is in a register, if it is of 64 bits.
    pub fn value(&self, register: Register) -> Value {
        match register.is_gpr64() {
            true => self.registers[register.number()],
            false => Value::Unknown,
        }
    }

    /// Whether a system call that is made here comes back where it was made, on the same stack. One whose number is an
    /// argument does: who has a new thread begin elsewhere in mind knows that it does.
    pub fn system_call_comes_back(&self) -> bool {
        /// `clone`, `clone3` and `rt_sigreturn`.
        const ELSEWHERE: [u32; 3] = [56, 435, 15];
        match self.registers[RAX] {
            Value::Number(number) => !ELSEWHERE.contains(&number),
            Value::Argument => true,
            _ => false,
        }
    }

    /// The kernel comes back: it preserves all but three registers (System V ABI, A.2.1).
    pub fn system_call(&mut self) {
        for number in [RAX, RCX, 11] {
            self.registers[number] = Value::Unknown;
        }
    }

    /// Keeps what both know; whether anything was lost.
    pub fn meet(&mut self, other: &Self) -> bool {
        let mut changed = false;
        if self.rounded != other.rounded && self.rounded.is_some() {
            changed |= self.forget_rounded();
        }
        for (mine, theirs) in self.registers.iter_mut().zip(other.registers) {
            if *mine != Value::Unknown && *mine != theirs {
                *mine = Value::Unknown;
                changed = true;
            }
        }
        let before = self.words.len();
        self.words.retain(|word| other.words.contains(word));
        changed || self.words.len() != before
    }

    /// Goes past an instruction that neither calls nor jumps nor returns, or past what a jump does besides.
    pub fn step(&mut self, instruction: &Instruction, facts: &mut InstructionInfoFactory) -> Result<(), Refusal> {
        if self.step_known(instruction)? {
            return self.check();
        }
        // `lock orl $0,(%rsp)` is a barrier: what it writes is what was there.
        if matches!(instruction.mnemonic(), Mnemonic::Or | Mnemonic::Add)
            && instruction.op0_kind() == OpKind::Memory
            && instruction.op_count() == 2
            && !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory)
            && instruction.immediate(1) == 0
        {
            return self.check();
        }
        let facts = facts.info(instruction);
        let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        let each = repeats.then(|| instruction.memory_size().size());
        self.write_memory(facts.used_memory(), each)?;
        self.write_registers(facts.used_registers(), instruction);
        self.check()
    }

    /// A call comes back.
    pub fn call(&mut self) -> Result<(), Refusal> {
        if let Value::Stack(sp) = self.registers[RSP] {
            // The callee's own begins with its return address.
            self.words
                .retain(|(place, _)| place.base != sp.base || place.offset >= sp.offset);
        }
        for (number, value) in self.registers.iter_mut().enumerate() {
            if number != RSP && !PRESERVED.contains(&number) {
                *value = Value::Unknown;
            }
        }
        self.check()
    }

    /// A call to the next instruction, which is how code finds out where it is.
    pub fn push_address(&mut self) -> Result<(), Refusal> {
        self.push(Value::Unknown)?;
        self.check()
    }

    /// The return address stays where it is.
    fn check(&self) -> Result<(), Refusal> {
        match self.registers[RSP] {
            Value::Stack(Place {
                base: Base::Cfa,
                offset,
            }) if offset > -8 => Err(Refusal::ReturnAddress),
            _ => Ok(()),
        }
    }

    /// Instructions whose result is known; `false` if this is none of them.
    fn step_known(&mut self, instruction: &Instruction) -> Result<bool, Refusal> {
        let wide = |operand: u32| {
            (instruction.op_kind(operand) == OpKind::Register && instruction.op_register(operand).is_gpr64())
                .then(|| instruction.op_register(operand).number())
        };
        let immediate = || match instruction.op_kind(1) {
            OpKind::Immediate8to64 | OpKind::Immediate32to64 => i32::try_from(instruction.immediate(1) as i64).ok(),
            _ => None,
        };
        match instruction.mnemonic() {
            Mnemonic::Push if instruction.stack_pointer_increment() == -8 => {
                let value = wide(0).map_or(Value::Unknown, |number| self.registers[number]);
                self.push(value)?;
            }
            Mnemonic::Pop if instruction.stack_pointer_increment() == 8 => {
                let Some(number) = wide(0) else { return Ok(false) };
                let value = self.pop();
                self.registers[number] = value;
                if number == RSP {
                    self.moved_stack_pointer();
                }
            }
            Mnemonic::Leave if instruction.code() == Code::Leaveq => {
                self.registers[RSP] = self.registers[RBP];
                self.moved_stack_pointer();
                self.registers[RBP] = self.pop();
            }
            Mnemonic::Mov if instruction.op0_kind() == OpKind::Memory && wide(1).is_some() => {
                let value = wide(1).map_or(Value::Unknown, |number| self.registers[number]);
                if let Some(place) = self.operand(instruction) {
                    self.overwrite(place, Some(8))?;
                    self.remember(place, value);
                }
            }
            Mnemonic::Mov | Mnemonic::Lea => {
                if instruction.code() == Code::Mov_r8_imm8
                    && instruction.op0_register() == Register::AL
                    && let Value::Number(number) = self.registers[RAX]
                {
                    self.registers[RAX] = Value::Number(number & !0xff | u32::from(instruction.immediate8()));
                    return Ok(true);
                }
                if instruction.code() == Code::Mov_r32_imm32 {
                    let number = instruction.op0_register().full_register().number();
                    self.set(number, Value::Number(instruction.immediate32()));
                    return Ok(true);
                }
                let Some(number) = wide(0) else { return Ok(false) };
                let value = match (instruction.mnemonic(), instruction.op1_kind(), wide(1)) {
                    (Mnemonic::Mov, _, Some(from)) => self.registers[from],
                    (Mnemonic::Lea, OpKind::Memory, _) if instruction.is_ip_rel_memory_operand() => {
                        Value::Address(instruction.ip_rel_memory_address())
                    }
                    (Mnemonic::Mov, OpKind::Memory, _) => self
                        .operand(instruction)
                        .map_or(Value::Unknown, |place| self.word(place)),
                    (Mnemonic::Lea, OpKind::Memory, _) => {
                        self.operand(instruction).map_or(Value::Unknown, Value::Stack)
                    }
                    _ => Value::Unknown,
                };
                self.set(number, value);
            }
            // `cmov`
            _ if instruction.condition_code() != ConditionCode::None && wide(1).is_some() => {
                let (Some(number), Some(other)) = (wide(0), wide(1)) else {
                    return Ok(false);
                };
                let value = match (self.registers[number], self.registers[other]) {
                    (mine, theirs) if mine == theirs => mine,
                    (Value::Address(mine), Value::Address(theirs)) => Value::OneOf(mine, theirs),
                    _ => Value::Unknown,
                };
                self.set(number, value);
            }
            Mnemonic::Movsxd if instruction.op1_kind() == OpKind::Memory => {
                let Some(number) = wide(0) else { return Ok(false) };
                let value = match self.value(instruction.memory_base()) {
                    Value::Address(table)
                        if instruction.memory_index_scale() == 4 && instruction.memory_displacement64() == 0 =>
                    {
                        Value::Distance(table)
                    }
                    _ => Value::Unknown,
                };
                self.set(number, value);
            }
            Mnemonic::Add if wide(0).is_some() && wide(1).is_some() => {
                let (Some(number), Some(other)) = (wide(0), wide(1)) else {
                    return Ok(false);
                };
                let value = match (self.registers[number], self.registers[other]) {
                    (Value::Distance(table), Value::Address(from)) | (Value::Address(from), Value::Distance(table))
                        if table == from =>
                    {
                        Value::Listed(table)
                    }
                    _ => Value::Unknown,
                };
                self.set(number, value);
            }
            Mnemonic::Xor
                if instruction.op0_kind() == OpKind::Register
                    && instruction.op1_kind() == OpKind::Register
                    && instruction.op0_register() == instruction.op1_register()
                    && instruction.op0_register().is_gpr32() =>
            {
                self.set(instruction.op0_register().full_register().number(), Value::Number(0));
            }
            Mnemonic::Add | Mnemonic::Sub => {
                let (Some(number), Some(by)) = (wide(0), immediate()) else {
                    return Ok(false);
                };
                let by = i64::from(by) * if instruction.mnemonic() == Mnemonic::Sub { -1 } else { 1 };
                let value = match self.registers[number] {
                    Value::Stack(place) => moved(place, by),
                    _ => Value::Unknown,
                };
                self.set(number, value);
            }
            Mnemonic::And => {
                let (Some(number), Some(mask)) = (wide(0), immediate()) else {
                    return Ok(false);
                };
                let value = self.round(self.registers[number], mask);
                self.set(number, value);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set(&mut self, number: usize, value: Value) {
        self.registers[number] = value;
        if number == RSP {
            self.moved_stack_pointer();
        }
    }

    /// An address rounded down. There is one rounded place at a time: a loop that rounds again has another each time.
    fn round(&mut self, value: Value, mask: i32) -> Value {
        let align = mask.checked_neg().filter(|align| *align > 0 && align.count_ones() == 1);
        self.forget_rounded();
        match (value, align) {
            (
                Value::Stack(Place {
                    base: Base::Cfa,
                    offset,
                }),
                Some(align),
            ) => {
                self.rounded = Some((offset, align));
                Value::Stack(Place {
                    base: Base::Rounded,
                    offset: 0,
                })
            }
            _ => Value::Unknown,
        }
    }

    /// Whether there was anything.
    fn forget_rounded(&mut self) -> bool {
        let mut changed = self.rounded.take().is_some();
        for value in &mut self.registers {
            if is_rounded(*value) {
                *value = Value::Unknown;
                changed = true;
            }
        }
        let before = self.words.len();
        self.words
            .retain(|(place, value)| place.base != Base::Rounded && !is_rounded(*value));
        changed || self.words.len() != before
    }

    /// The place on the stack that an instruction's memory operand is, if that is known.
    fn operand(&self, instruction: &Instruction) -> Option<Place> {
        if instruction.memory_index() != Register::None {
            return None;
        }
        let displacement = instruction.memory_displacement64() as i64;
        self.place(instruction.segment_prefix(), instruction.memory_base(), displacement)
    }

    fn place(&self, segment: Register, base: Register, displacement: i64) -> Option<Place> {
        if matches!(segment, Register::FS | Register::GS) || !base.is_gpr64() {
            return None;
        }
        match self.registers[base.number()] {
            Value::Stack(place) => match moved(place, displacement) {
                Value::Stack(place) => Some(place),
                _ => None,
            },
            _ => None,
        }
    }

    fn word(&self, place: Place) -> Value {
        self.words
            .iter()
            .find(|(at, _)| *at == place)
            .map_or(Value::Unknown, |(_, value)| *value)
    }

    /// Only what leads back to the caller, or on.
    fn remember(&mut self, place: Place, value: Value) {
        if !matches!(value, Value::Unknown | Value::Number(_)) && self.words.len() < MAX_WORDS {
            self.words.push((place, value));
        }
    }

    fn push(&mut self, value: Value) -> Result<(), Refusal> {
        let place = match self.registers[RSP] {
            Value::Stack(place) => moved(place, -8),
            _ => Value::Unknown,
        };
        self.registers[RSP] = place;
        if let Value::Stack(place) = place {
            self.overwrite(place, Some(8))?;
            self.remember(place, value);
        }
        Ok(())
    }

    fn pop(&mut self) -> Value {
        let Value::Stack(place) = self.registers[RSP] else {
            return Value::Unknown;
        };
        let value = self.word(place);
        self.registers[RSP] = moved(place, 8);
        self.moved_stack_pointer();
        value
    }

    /// What lies below the stack pointer can be overwritten at any time, except a little.
    fn moved_stack_pointer(&mut self) {
        match self.registers[RSP] {
            Value::Stack(sp) => self
                .words
                .retain(|(place, _)| place.base != sp.base || place.offset >= sp.offset - RED_ZONE),
            // Who knows what is below it.
            _ => self.words.clear(),
        }
    }

    /// So many bytes are written from a place on, or nobody knows how many.
    fn overwrite(&mut self, place: Place, bytes: Option<i64>) -> Result<(), Refusal> {
        let from = i64::from(place.offset);
        if place.base == Base::Cfa && from < 0 && bytes.is_some_and(|bytes| from + bytes > -8) {
            return Err(Refusal::ReturnAddress);
        }
        let to = from + bytes.unwrap_or(MAX_OFFSET.into());
        // Where a rounded place is from the canonical frame address, or the other way round, is known within what
        // rounding takes away.
        let rounded = self.rounded;
        self.words.retain(|(at, _)| {
            let at_from = i64::from(at.offset);
            let (lowest, highest) = match (place.base, at.base, rounded) {
                (Base::Rounded, Base::Cfa, Some((before, align))) => {
                    (i64::from(before) - i64::from(align) + 1, i64::from(before))
                }
                (Base::Cfa, Base::Rounded, Some((before, align))) => {
                    (-i64::from(before), i64::from(align) - 1 - i64::from(before))
                }
                _ => (0, 0),
            };
            at_from + 8 <= from + lowest || at_from >= to + highest
        });
        Ok(())
    }

    /// What an instruction of no known form writes. Memory with an index, or through a pointer that is not known to be
    /// one to the stack, is an array or somebody else's: a program that writes past the end of one has no callers. What
    /// repeats itself writes `each` as often as its counter says.
    fn write_memory(&mut self, used: &[UsedMemory], each: Option<usize>) -> Result<(), Refusal> {
        for memory in used {
            if !is_write(memory.access()) || memory.index() != Register::None {
                continue;
            }
            let place = self.place(memory.segment(), memory.base(), memory.displacement() as i64);
            if let Some(place) = place {
                let bytes = each.unwrap_or_else(|| memory.memory_size().size()) as i64;
                // `xsave` writes as much as there is.
                let bytes = Some(bytes).filter(|bytes| *bytes > 0);
                let times = match (each, self.registers[RCX]) {
                    (None, _) => Some(1),
                    (Some(_), Value::Number(times)) => Some(i64::from(times)),
                    (Some(_), _) => None,
                };
                self.overwrite(
                    place,
                    bytes.zip(times).and_then(|(bytes, times)| bytes.checked_mul(times)),
                )?;
            }
        }
        Ok(())
    }

    fn write_registers(&mut self, used: &[UsedRegister], instruction: &Instruction) {
        let sp = self.registers[RSP];
        for register in used {
            let full = register.register().full_register();
            if is_write(register.access()) && full.is_gpr64() {
                self.registers[full.number()] = Value::Unknown;
            }
        }
        if self.registers[RSP] == sp {
            return;
        }
        // `pushf`, `pop` into memory, and the like move it by what they say.
        let by = i64::from(instruction.stack_pointer_increment());
        let explicit = (0..instruction.op_count()).any(|operand| {
            instruction.op_kind(operand) == OpKind::Register
                && instruction.op_register(operand).full_register() == Register::RSP
        });
        if let Value::Stack(place) = sp
            && by != 0
            && !explicit
            && instruction.mnemonic() != Mnemonic::Enter
            && instruction.flow_control() == FlowControl::Next
        {
            self.registers[RSP] = moved(place, by);
        }
        // Room of a size that is worked out lies below what there was.
        if !matches!(instruction.mnemonic(), Mnemonic::Sub | Mnemonic::And) {
            self.moved_stack_pointer();
        }
    }
}

fn cfa(offset: i32) -> Value {
    Value::Stack(Place {
        base: Base::Cfa,
        offset,
    })
}

fn is_rounded(value: Value) -> bool {
    matches!(value, Value::Stack(place) if place.base == Base::Rounded)
}

fn moved(place: Place, by: i64) -> Value {
    match i64::from(place.offset)
        .checked_add(by)
        .and_then(|offset| i32::try_from(offset).ok())
    {
        Some(offset) if (-MAX_OFFSET..=MAX_OFFSET).contains(&offset) => Value::Stack(Place { offset, ..place }),
        _ => Value::Unknown,
    }
}

fn is_write(access: OpAccess) -> bool {
    !matches!(
        access,
        OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess
    )
}
