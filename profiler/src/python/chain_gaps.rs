//! Where in the evaluation loop's code the chain of frames does not begin with the loop's own frame.
//!
//! A sample can hit anywhere, so also where a loop has put nothing into the chain yet, or has taken all of it out again:
//! then the loop is on the native stack and has no frame (*frameless*). On 3.11 and 3.12 it can be worse. The chain
//! begins in a `_PyCFrame` on the C stack, and `_PyEval_EvalFrameDefault` first lets `tstate->cframe` point to its own
//! and then fills in `current_frame`; compilers also put the rest of the function's first statements in between, 6 to 21
//! instructions in the builds here. Whoever reads `current_frame` there gets what the stack's memory held before: an old
//! frame or no address at all. (Measured: 0.9 % of the samples of a program with many calls from C, 3.12.1.)
//!
//! Guessing is not needed: the instruction tells. The function's beginning is followed here, instruction by instruction,
//! with symbols instead of numbers (`Machine`), up to where all is in place. That yields where the pointer is set, and
//! for each instruction from there on a register or stack slot that still has what the pointer was before, or the frame
//! it led to. What is not understood gives no gap, and then the kernel side reads what it finds.
//!
//! The way out needs no such care: there the pointer is set back to what is whole, in one store. A function cannot return
//! while the chain leads to its own C stack, so wherever all ways lead to a `ret` without such a store, the loop's frames
//! are out of the chain (`returns`).
//!
//! Calls from Python to Python inside a loop also put a frame into the chain, and compilers sometimes let it begin with
//! the new frame before that has its own pointer to the caller (`half_linked`).
//!
//! What remains: where a loop that is entered or left *calls* something (`_Py_CheckRecursiveCall` near the end of the C
//! stack, 3.14 on), the sampled instruction is the callee's; and a tail-calling loop leaves the chain in its handlers,
//! which are not looked at (1 in 2,000 samples then has an order that is one loop off).
//!
//! Checked with objdump on pyenv's 3.11.7, 3.12.1 and 3.13.0, on Debian's 3.11.2, 3.14.10 and 3.15.2 (executable and
//! library) and 3.13.18, and on tail-calling test builds of 3.14.10 and 3.15.2. With samples, 50,000 each of a program
//! with many calls from C: of 3.12.1 1.0 % were torn and 1.8 % in the wrong order, of 3.13 – 3.15 1.0 to 1.8 % in the
//! wrong order; then none. Up to 3.10 a frame's `f_back` is set long before, and how many frames there are tells the
//! rest (`resolve`).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use iced_x86::{Decoder, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use profiler_common::python::{
    CHAIN_GAPS, ChainGap, GAP_FRAMELESS, GAP_IN_CHAIN, GAP_NOWHERE, GAP_READ, GAP_READ_CFRAME, LAYOUT_CFRAME,
    LAYOUT_ENTRY_FLAG, LAYOUT_HEAP_FRAMES, PythonProcess,
};

use super::eval_loop::{instructions, jumps};
use super::image::{Image, Symbol};

/// The machine code of an evaluation loop.
pub struct EvalCode<'a> {
    /// `_PyEval_EvalFrameDefault`.
    pub function: Symbol,
    /// What it consists of, in order of address.
    pub pieces: &'a [Range<u64>],
    /// It is only the entry of a tail-calling loop.
    pub tail_calls: bool,
}

/// The gaps of a build with this layout.
pub fn find(image: &Image<'_>, code: &EvalCode<'_>, layout: &PythonProcess) -> Vec<ChainGap> {
    let EvalCode { function, pieces, .. } = *code;
    if layout.flags & LAYOUT_HEAP_FRAMES != 0 {
        return Vec::new();
    }
    let Some(piece) = pieces.iter().find(|piece| piece.contains(&function.address)) else {
        return Vec::new();
    };
    let from = function.address;
    let mut gaps = Vec::new();
    if let Some(entry) = Entry::follow(instructions(image, &(from..piece.end)), from, layout) {
        push(&mut gaps, from, from..entry.set, GAP_FRAMELESS | GAP_IN_CHAIN, 0);
        // Whoever jumps into the middle has other things in its registers.
        let jumped_into = |target: &u64| *target > from && *target < entry.whole;
        if !pieces.iter().any(|piece| jumps(image, piece).iter().any(jumped_into)) {
            for (range, place) in &entry.gaps {
                push(&mut gaps, from, range.clone(), GAP_FRAMELESS | place.bits, place.offset);
            }
        }
        for piece in pieces {
            for (range, caller) in half_linked(instructions(image, piece), &entry, layout) {
                push(&mut gaps, from, range, caller, 0);
            }
        }
    }
    for range in returns(image, code, layout) {
        push(&mut gaps, from, range, GAP_FRAMELESS | GAP_IN_CHAIN, 0);
    }
    gaps.truncate(CHAIN_GAPS);
    gaps
}

fn push(gaps: &mut Vec<ChainGap>, from: u64, range: Range<u64>, place: u8, offset: i16) {
    let mut start = range.start;
    while start < range.end && gaps.len() < CHAIN_GAPS {
        let bytes = u8::try_from(range.end - start).unwrap_or(u8::MAX);
        if let Ok(distance) = i32::try_from(start.wrapping_sub(from).cast_signed()) {
            gaps.push(ChainGap {
                start: distance,
                bytes,
                place,
                offset,
            });
        }
        start += u64::from(bytes);
    }
}

/// Where a gap's innermost frame is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// `GAP_…`.
    bits: u8,
    offset: i16,
}

/// How the function's beginning puts its frame into the chain.
#[derive(Debug)]
struct Entry {
    /// End of the instruction that sets the pointer in the thread state.
    set: u64,
    /// End of the instruction after which all it leads to is filled in.
    whole: u64,
    /// Between the two.
    gaps: Vec<(Range<u64>, Place)>,
    /// By which register and displacement the function finds the slot that is the chain's beginning (3.11, 3.12).
    slots: Vec<(Register, i64)>,
}

/// The longest known has 176 bytes.
const MAX_ENTRY_INSTRUCTIONS: usize = 200;
/// Known ones have up to 5.
const MAX_ENTRY_JUMPS: usize = 16;

impl Entry {
    fn follow(decoder: Decoder<'_>, from: u64, layout: &PythonProcess) -> Option<Self> {
        let mut machine = Some(Machine::new(layout));
        // What is known where a jump arrives.
        let mut arriving: BTreeMap<u64, Machine<'_>> = BTreeMap::new();
        let mut set = None;
        // What could be had before each instruction of the gap.
        let mut before: Vec<(u64, Vec<Place>)> = Vec::new();
        let mut next = from;
        for instruction in decoder.into_iter().take(MAX_ENTRY_INSTRUCTIONS) {
            let at = instruction.ip();
            if at != next {
                return None;
            }
            next = instruction.next_ip();
            machine = match (machine, arriving.remove(&at)) {
                (Some(machine), Some(other)) => Some(machine.meet(&other)),
                (one, other) => one.or(other),
            };
            let Some(here) = &mut machine else { continue };
            if set.is_some() {
                before.push((at, here.places()));
            }
            match instruction.flow_control() {
                FlowControl::Next => here.step(&instruction)?,
                // With the chain in pieces it may go nowhere else.
                _ if set.is_some() => return None,
                FlowControl::Call | FlowControl::IndirectCall => here.call(),
                FlowControl::ConditionalBranch => {
                    let target = instruction.near_branch_target();
                    let arrives = match arriving.remove(&target) {
                        Some(other) => other.meet(here),
                        None => here.clone(),
                    };
                    // Any other leads to where an error is raised.
                    if target > at && arriving.len() < MAX_ENTRY_JUMPS {
                        arriving.insert(target, arrives);
                    }
                    continue;
                }
                FlowControl::UnconditionalBranch | FlowControl::Return => {
                    machine = None;
                    continue;
                }
                _ => return None,
            }
            if set.is_none() && here.is_set() {
                set = Some(next);
            }
            if here.is_whole() {
                return Some(Self {
                    set: set?,
                    whole: next,
                    gaps: gaps(&before, next),
                    slots: here.slots(),
                });
            }
        }
        None
    }
}

/// As few ranges as possible, each with one place that holds all along.
fn gaps(before: &[(u64, Vec<Place>)], end: u64) -> Vec<(Range<u64>, Place)> {
    const NOWHERE: Place = Place {
        bits: GAP_NOWHERE,
        offset: 0,
    };
    let mut gaps = Vec::new();
    let mut rest = before;
    while let [(start, places), ..] = rest {
        let holds = |place: &Place| rest.iter().take_while(|(_, places)| places.contains(place)).count();
        let (place, instructions) = places
            .iter()
            .map(|place| (*place, holds(place)))
            .max_by_key(|(_, instructions)| *instructions)
            .unwrap_or((NOWHERE, 1));
        rest = rest.get(instructions..).unwrap_or_default();
        let until = rest.first().map_or(end, |(start, _)| *start);
        gaps.push((*start..until, place));
    }
    gaps
}

/// What a register or a word of memory is known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Unknown,
    /// The thread state, the first argument.
    Thread,
    /// The frame to run, the second.
    Frame,
    /// What `tstate->cframe` was.
    CallersCFrame,
    /// The frame that the chain began with.
    CallersFrame,
    /// An address on the stack, counted from what the stack pointer was at first.
    Stack(i64),
}

impl Value {
    /// More than any function has, and little enough to reckon with.
    const MAX_STACK: i64 = 1 << 20;

    fn stack(at: i64) -> Self {
        if (-Self::MAX_STACK..=Self::MAX_STACK).contains(&at) {
            Self::Stack(at)
        } else {
            Self::Unknown
        }
    }
}

/// Memory that is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Region {
    Stack,
    Thread,
    Frame,
    CallersCFrame,
}

/// A processor that knows where a few things are, and nothing else.
#[derive(Clone)]
struct Machine<'a> {
    layout: &'a PythonProcess,
    /// By the number that instructions give them.
    general: [Value; 16],
    /// Low and high half of the vector registers.
    vector: [[Value; 2]; 16],
    /// Words that were written.
    words: BTreeMap<(Region, i64), Value>,
    /// All that may have been written, and all that surely was.
    perhaps: Vec<(Region, Range<i64>)>,
    surely: Vec<(Region, Range<i64>)>,
}

const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;
/// `%rbx`, `%rsp`, `%rbp`, `%r12` – `%r15` (System V ABI).
const CALLEE_SAVED: [usize; 7] = [3, RSP, RBP, 12, 13, 14, 15];

/// Where the kernel's `struct pt_regs` has them (arch/x86/include/asm/ptrace.h), in words, by the same number.
const PT_REGS: [u8; 16] = [10, 11, 12, 5, 19, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0];

impl<'a> Machine<'a> {
    fn new(layout: &'a PythonProcess) -> Self {
        let mut general = [Value::Unknown; 16];
        general[RDI] = Value::Thread;
        general[RSI] = Value::Frame;
        general[RSP] = Value::Stack(0);
        Self {
            layout,
            general,
            vector: [[Value::Unknown; 2]; 16],
            words: BTreeMap::new(),
            perhaps: Vec::new(),
            surely: Vec::new(),
        }
    }

    /// What holds whichever of the two came here.
    fn meet(mut self, other: &Self) -> Self {
        let both = |mine: Value, others: Value| if mine == others { mine } else { Value::Unknown };
        for (mine, others) in self.general.iter_mut().zip(other.general) {
            *mine = both(*mine, others);
        }
        for (mine, others) in self.vector.iter_mut().zip(other.vector) {
            *mine = [both(mine[0], others[0]), both(mine[1], others[1])];
        }
        self.words.retain(|at, value| other.words.get(at) == Some(value));
        self.perhaps.extend(other.perhaps.iter().cloned());
        self.surely.retain(|written| other.surely.contains(written));
        self
    }

    /// What a function may change by the ABI.
    fn call(&mut self) {
        for (number, value) in self.general.iter_mut().enumerate() {
            if !CALLEE_SAVED.contains(&number) {
                *value = Value::Unknown;
            }
        }
        self.vector = [[Value::Unknown; 2]; 16];
    }

    fn has_cframe(&self) -> bool {
        self.layout.flags & LAYOUT_CFRAME != 0
    }

    /// The pointer in the thread state has been written.
    fn is_set(&self) -> bool {
        self.words
            .contains_key(&(Region::Thread, self.layout.thread_frame.into()))
    }

    /// The chain begins with the frame, and leads on to what it began with.
    fn is_whole(&self) -> bool {
        let PythonProcess {
            thread_frame,
            cframe_current,
            frame_previous,
            frame_owner,
            frame_entry,
            ..
        } = *self.layout;
        let mut first = self.load(Some((Region::Thread, thread_frame.into())));
        if self.has_cframe() {
            let Value::Stack(cframe) = first else { return false };
            first = self.load(Some((Region::Stack, cframe + i64::from(cframe_current))));
        }
        let previous = self.load(Some((Region::Frame, frame_previous.into())));
        let links = if self.layout.flags & LAYOUT_ENTRY_FLAG != 0 {
            previous == Value::CallersFrame && self.is_written(Region::Frame, frame_entry.into())
        } else {
            // From 3.12 on an entry frame lies between the two.
            let Value::Stack(entry) = previous else { return false };
            self.load(Some((Region::Stack, entry + i64::from(frame_previous)))) == Value::CallersFrame
                && self.is_written(Region::Stack, entry + i64::from(frame_owner))
        };
        first == Value::Frame && links
    }

    fn slots(&self) -> Vec<(Register, i64)> {
        /// What the frame pointer is, where it is used as such: it follows the return address.
        const FRAME_POINTER: Value = Value::Stack(-8);
        let thread_frame = (Region::Thread, self.layout.thread_frame.into());
        let (true, Value::Stack(cframe)) = (self.has_cframe(), self.load(Some(thread_frame))) else {
            return Vec::new();
        };
        let slot = cframe + i64::from(self.layout.cframe_current);
        let bases = [(Register::RSP, self.general[RSP]), (Register::RBP, self.general[RBP])];
        bases
            .into_iter()
            .filter_map(|(register, value)| match value {
                Value::Stack(at) if register == Register::RSP || value == FRAME_POINTER => Some((register, slot - at)),
                _ => None,
            })
            .collect()
    }

    /// Where the frame can be found that the chain began with.
    fn places(&self) -> Vec<Place> {
        let in_register = self
            .general
            .iter()
            .zip(PT_REGS)
            .filter_map(|(value, register)| match value {
                Value::CallersFrame => Some((register, 0)),
                Value::CallersCFrame => Some((register | GAP_READ, self.layout.cframe_current.into())),
                _ => None,
            });
        let top = match self.general[RSP] {
            Value::Stack(top) => Some(top),
            _ => None,
        };
        let in_memory = self.words.iter().filter_map(|((region, offset), value)| {
            let bits = match value {
                Value::CallersFrame => GAP_READ,
                Value::CallersCFrame => GAP_READ | GAP_READ_CFRAME,
                _ => return None,
            };
            let offset = offset.checked_sub(top?)?;
            (*region == Region::Stack).then_some((PT_REGS[RSP] | bits, offset))
        });
        in_register
            .chain(in_memory)
            .filter_map(|(bits, offset)| {
                let offset = i16::try_from(offset).ok()?;
                Some(Place { bits, offset })
            })
            .collect()
    }

    /// None if this instruction is not understood.
    fn step(&mut self, instruction: &Instruction) -> Option<()> {
        use Mnemonic as M;
        match instruction.mnemonic() {
            M::Mov | M::Movq | M::Vmovq => {
                let value = match instruction.mnemonic() {
                    // Not their short forms.
                    M::Mov if bytes(instruction) != Some(8) => Value::Unknown,
                    _ => self.value(instruction, 1),
                };
                self.set(instruction, [value, Value::Unknown])
            }
            M::Movaps
            | M::Movups
            | M::Movapd
            | M::Movupd
            | M::Movdqa
            | M::Movdqu
            | M::Vmovaps
            | M::Vmovups
            | M::Vmovapd
            | M::Vmovupd
            | M::Vmovdqa
            | M::Vmovdqu => {
                let values = self.pair(instruction, 1);
                self.set(instruction, values)
            }
            M::Punpcklqdq | M::Unpcklpd | M::Movlhps => {
                let values = [self.pair(instruction, 0)[0], self.pair(instruction, 1)[0]];
                self.set(instruction, values)
            }
            M::Vpunpcklqdq | M::Vunpcklpd | M::Vmovlhps => {
                let values = [self.pair(instruction, 1)[0], self.pair(instruction, 2)[0]];
                self.set(instruction, values)
            }
            M::Movhps | M::Movhpd if instruction.op0_kind() == OpKind::Register => {
                let values = [self.pair(instruction, 0)[0], self.value(instruction, 1)];
                self.set(instruction, values)
            }
            M::Movhps | M::Movhpd => {
                let values = [self.pair(instruction, 1)[1], Value::Unknown];
                self.set(instruction, values)
            }
            M::Vmovhps | M::Vmovhpd if instruction.op_count() == 3 => {
                let values = [self.pair(instruction, 1)[0], self.value(instruction, 2)];
                self.set(instruction, values)
            }
            M::Pinsrq if instruction.immediate(2) & 1 == 1 => {
                let values = [self.pair(instruction, 0)[0], self.value(instruction, 1)];
                self.set(instruction, values)
            }
            M::Vpinsrq if instruction.immediate(3) & 1 == 1 => {
                let values = [self.pair(instruction, 1)[0], self.value(instruction, 2)];
                self.set(instruction, values)
            }
            M::Lea => {
                let value = match self.address(instruction) {
                    Some((Region::Stack, offset)) if bytes(instruction) == Some(8) => Value::stack(offset),
                    Some((Region::Frame, 0)) if bytes(instruction) == Some(8) => Value::Frame,
                    _ => Value::Unknown,
                };
                self.set(instruction, [value, Value::Unknown])
            }
            M::Push => {
                let Value::Stack(top) = self.general[RSP] else {
                    return None;
                };
                let value = self.value(instruction, 0);
                self.general[RSP] = Value::stack(top - 8);
                self.store(Some((Region::Stack, top - 8)), 8, &[value])
            }
            M::Add | M::Sub => {
                let value = match (self.value(instruction, 0), immediate(instruction)) {
                    (Value::Stack(offset), Some(by)) if instruction.mnemonic() == M::Add => {
                        Value::stack(offset.checked_add(by)?)
                    }
                    (Value::Stack(offset), Some(by)) => Value::stack(offset.checked_sub(by)?),
                    _ => Value::Unknown,
                };
                self.set(instruction, [value, Value::Unknown])
            }
            // Whatever it writes is nothing we look for.
            _ if instruction.flow_control() == FlowControl::Next => self.forget(instruction),
            _ => None,
        }
    }

    /// Everything that the instruction writes becomes unknown.
    fn forget(&mut self, instruction: &Instruction) -> Option<()> {
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(instruction);
        for register in info.used_registers() {
            if is_written(register.access()) {
                self.set_register(register.register(), [Value::Unknown; 2]);
            }
        }
        for memory in info.used_memory() {
            if is_written(memory.access()) && memory.base() != Register::RIP {
                let size = i64::try_from(memory.memory_size().size()).ok()?;
                // Nothing but an operand that is written out has an address we know.
                let at = (memory.base() == instruction.memory_base())
                    .then(|| self.address(instruction))
                    .flatten();
                self.store(at, size.max(1), &[])?;
            }
        }
        Some(())
    }

    /// What an operand holds, if it is 8 bytes (or half a vector register).
    fn value(&self, instruction: &Instruction, operand: u32) -> Value {
        self.pair(instruction, operand)[0]
    }

    fn pair(&self, instruction: &Instruction, operand: u32) -> [Value; 2] {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                if register.is_gpr64() {
                    [self.general[register.number()], Value::Unknown]
                } else if register.is_xmm() {
                    self.vector
                        .get(register.number())
                        .copied()
                        .unwrap_or([Value::Unknown; 2])
                } else {
                    [Value::Unknown; 2]
                }
            }
            OpKind::Memory => {
                let at = self.address(instruction);
                let second = at.and_then(|(region, offset)| Some((region, offset.checked_add(8)?)));
                match instruction.memory_size().size() {
                    8 => [self.load(at), Value::Unknown],
                    16 => [self.load(at), self.load(second)],
                    _ => [Value::Unknown; 2],
                }
            }
            _ => [Value::Unknown; 2],
        }
    }

    /// Writes to the first operand.
    fn set(&mut self, instruction: &Instruction, values: [Value; 2]) -> Option<()> {
        match instruction.op0_kind() {
            OpKind::Register => {
                self.set_register(instruction.op0_register(), values);
                Some(())
            }
            OpKind::Memory => {
                let size = instruction.memory_size().size();
                let words = values.get(..size / 8)?;
                // The file's own variables are none of what we look at.
                if instruction.is_ip_rel_memory_operand() {
                    return Some(());
                }
                self.store(self.address(instruction), i64::try_from(size).ok()?, words)
            }
            _ => None,
        }
    }

    fn set_register(&mut self, register: Register, values: [Value; 2]) {
        if register.is_gpr() {
            // Four bytes of a register clear the rest, and one or two of them are as good as all.
            let value = if register.is_gpr64() { values[0] } else { Value::Unknown };
            self.general[register.full_register().number()] = value;
        } else if let Some(slot) = self.vector.get_mut(register.number())
            && register.is_vector_register()
        {
            *slot = if register.is_xmm() { values } else { [Value::Unknown; 2] };
        }
    }

    /// Where the memory operand is, if that is known.
    fn address(&self, instruction: &Instruction) -> Option<(Region, i64)> {
        let plain = instruction.memory_index() == Register::None && instruction.segment_prefix() == Register::None;
        let base = instruction.memory_base();
        if !plain || !base.is_gpr64() {
            return None;
        }
        let offset = instruction.memory_displacement64().cast_signed();
        Some(match self.general[base.number()] {
            Value::Thread => (Region::Thread, offset),
            Value::Frame => (Region::Frame, offset),
            Value::CallersCFrame => (Region::CallersCFrame, offset),
            Value::Stack(top) => (Region::Stack, top.checked_add(offset)?),
            Value::Unknown | Value::CallersFrame => return None,
        })
    }

    fn load(&self, at: Option<(Region, i64)>) -> Value {
        let Some(at) = at else { return Value::Unknown };
        if let Some(value) = self.words.get(&at) {
            return *value;
        }
        let (region, offset) = at;
        if self
            .perhaps
            .iter()
            .any(|(to, range)| *to == region && range.start < offset + 8 && offset < range.end)
        {
            return Value::Unknown;
        }
        let is = |field: u16| offset == i64::from(field);
        match region {
            Region::Thread if is(self.layout.thread_frame) && self.has_cframe() => Value::CallersCFrame,
            Region::Thread if is(self.layout.thread_frame) => Value::CallersFrame,
            Region::CallersCFrame if is(self.layout.cframe_current) => Value::CallersFrame,
            _ => Value::Unknown,
        }
    }

    /// None if that could be anywhere.
    fn store(&mut self, at: Option<(Region, i64)>, size: i64, words: &[Value]) -> Option<()> {
        let (region, offset) = at?;
        let end = offset.checked_add(size)?;
        self.words
            .retain(|(of, word), _| *of != region || *word >= end || word.saturating_add(8) <= offset);
        for (index, value) in (0..).step_by(8).zip(words) {
            self.words.insert((region, offset + index), *value);
        }
        self.perhaps.push((region, offset..end));
        self.surely.push((region, offset..end));
        Some(())
    }

    fn is_written(&self, region: Region, offset: i64) -> bool {
        self.surely
            .iter()
            .any(|(to, range)| *to == region && range.contains(&offset))
    }
}

/// Bytes of the first operand.
fn bytes(instruction: &Instruction) -> Option<usize> {
    match instruction.op0_kind() {
        OpKind::Register => Some(instruction.op0_register().size()),
        OpKind::Memory => Some(instruction.memory_size().size()),
        _ => None,
    }
}

fn immediate(instruction: &Instruction) -> Option<i64> {
    match instruction.op1_kind() {
        OpKind::Immediate8to64 | OpKind::Immediate32to64 => Some(instruction.immediate(1).cast_signed()),
        _ => None,
    }
}

fn is_written(access: OpAccess) -> bool {
    !matches!(
        access,
        OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
    )
}

/// Code that runs to a `ret`, whichever way its jumps go, without writing the pointer in the thread state on its way.
fn returns(image: &Image<'_>, code: &EvalCode<'_>, layout: &PythonProcess) -> Vec<Range<u64>> {
    let code: Vec<Step> = code
        .pieces
        .iter()
        .flat_map(|piece| instructions(image, piece))
        .map(|instruction| Step::of(&instruction, code.tail_calls, layout))
        .collect();
    let mut leads_out = vec![false; code.len()];
    let mut found = true;
    // Jumps back, and to where a jump back was found to lead out: each round finds one more of those in a row.
    for _ in 0..MAX_ROUNDS {
        if !std::mem::take(&mut found) {
            break;
        }
        let mut next_leads_out = false;
        for (index, step) in code.iter().enumerate().rev() {
            let at = |target: u64| {
                let index = code.binary_search_by_key(&target, |step| step.range.start);
                index
                    .ok()
                    .and_then(|index| leads_out.get(index))
                    .copied()
                    .unwrap_or(false)
            };
            let leads = match step.to {
                To::Return => true,
                To::Next => next_leads_out,
                To::Jump(target) => at(target),
                To::NextOrJump(target) => next_leads_out && at(target),
                To::Elsewhere => false,
            };
            found |= leads && !leads_out[index];
            leads_out[index] = leads;
            next_leads_out = leads;
        }
    }

    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (step, leads_out) in code.iter().zip(leads_out) {
        match ranges.last_mut() {
            Some(last) if leads_out && last.end == step.range.start => last.end = step.range.end,
            _ if leads_out => ranges.push(step.range.clone()),
            _ => {}
        }
    }
    // The longest, where most samples fall, in case there is no room for all.
    ranges.sort_by_key(|range| Reverse(range.end - range.start));
    ranges
}

/// Real code needs 3.
const MAX_ROUNDS: usize = 8;

/// An instruction as far as [`returns`] cares.
struct Step {
    range: Range<u64>,
    to: To,
}

enum To {
    Next,
    Jump(u64),
    NextOrJump(u64),
    Return,
    Elsewhere,
}

impl Step {
    fn of(instruction: &Instruction, tail_calls: bool, layout: &PythonProcess) -> Self {
        let target = instruction.near_branch_target();
        let to = match instruction.flow_control() {
            FlowControl::Next if writes_pointer(instruction, layout) => To::Elsewhere,
            FlowControl::Next => To::Next,
            // What is called gives back the chain as it was, unless it is the rest of the loop.
            FlowControl::Call | FlowControl::IndirectCall if !tail_calls => To::Next,
            FlowControl::UnconditionalBranch => To::Jump(target),
            FlowControl::ConditionalBranch => To::NextOrJump(target),
            FlowControl::Return => To::Return,
            _ => To::Elsewhere,
        };
        Self {
            range: instruction.ip()..instruction.next_ip(),
            to,
        }
    }
}

/// Whether this may be the store to the thread state. Compilers address a struct's field by its offset.
fn writes_pointer(instruction: &Instruction, layout: &PythonProcess) -> bool {
    let field = u64::from(layout.thread_frame);
    let start = instruction.memory_displacement64();
    let end = start.wrapping_add(instruction.memory_size().size() as u64);
    instruction.op0_kind() == OpKind::Memory
        && !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test)
        && instruction.memory_base() != Register::RSP
        && (start..end).contains(&field)
}

/// Where the chain begins with a frame whose pointer to its caller is not set yet, with the register that holds the
/// caller.
///
/// `new->previous = old` and `cframe.current_frame = new` are two stores, and which comes first is the compiler's
/// choice: in 3 places of pyenv's 3.12.1 and 2 to 4 of the builds of 3.11 it is the second. One of them is where a `for`
/// asks a generator for more, 18 instructions apart, and what a suspended generator's frame has there is null: a stack
/// would look complete and end with the generator. (From 3.13 on the second is a store to the thread state, which looks
/// like a store to any other struct. None of 140 such stores in four builds is followed by one that could be the first.)
///
/// The same happens on the way back: a generator that yields has its `previous` set to null, in 3.12.1 one instruction
/// before the chain begins with its caller.
fn half_linked(decoder: Decoder<'_>, entry: &Entry, layout: &PythonProcess) -> Vec<(Range<u64>, u8)> {
    let mut info = InstructionInfoFactory::new();
    let mut found = Vec::new();
    // `lea offset(base),register` whose registers have not changed since: a generator's frame is a part of it.
    let mut parts: Vec<(Register, Register, i64)> = Vec::new();
    let mut open: Option<HalfLinked> = None;
    // Behind a store of null to `previous`, and the registers that have changed since.
    let mut cut: Option<(u64, Vec<Register>)> = None;
    for instruction in decoder {
        let stored = stored_register(&instruction);
        if let Some((base, offset, new)) = stored
            && entry.slots.contains(&(base, offset))
        {
            if let Some((start, written)) = cut.take()
                && !written.contains(&new)
            {
                found.push((start..instruction.next_ip(), PT_REGS[new.number()]));
            }
            let parts = parts.iter().filter(|(part, ..)| *part == new);
            open = Some(HalfLinked {
                start: instruction.next_ip(),
                new: parts
                    .map(|(_, base, offset)| (*base, *offset))
                    .chain([(new, 0)])
                    .collect(),
                written: Vec::new(),
            });
            continue;
        }
        if let Some(HalfLinked { start, new, written }) = &open
            && let Some((base, offset, caller)) = stored
            && new.contains(&(base, offset.wrapping_sub(layout.frame_previous.into())))
        {
            if !written.contains(&caller) {
                found.push((*start..instruction.next_ip(), PT_REGS[caller.number()]));
            }
            open = None;
        }

        if instruction.flow_control() != FlowControl::Next {
            parts.clear();
            open = None;
            cut = None;
            continue;
        }
        if stores_null(&instruction, layout.frame_previous) {
            cut = Some((instruction.next_ip(), Vec::new()));
        }
        for used in info.info(&instruction).used_registers() {
            let register = used.register().full_register();
            if is_written(used.access()) {
                parts.retain(|(part, base, _)| *part != register && *base != register);
                if let Some(HalfLinked { new, written, .. }) = &mut open {
                    new.retain(|(base, _)| *base != register);
                    written.push(register);
                }
                if let Some((_, written)) = &mut cut {
                    written.push(register);
                }
            }
        }
        if instruction.mnemonic() == Mnemonic::Lea
            && instruction.memory_index() == Register::None
            && instruction.op0_register() != instruction.memory_base()
        {
            let offset = instruction.memory_displacement64().cast_signed();
            parts.push((instruction.op0_register(), instruction.memory_base(), offset));
        }
    }
    found
}

/// `movq $0,offset(%register)`.
fn stores_null(instruction: &Instruction, offset: u16) -> bool {
    instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Immediate32to64
        && instruction.immediate(1) == 0
        && instruction.memory_base() != Register::RSP
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == u64::from(offset)
}

/// A frame that the chain begins with and that does not lead on.
struct HalfLinked {
    start: u64,
    /// Registers and offsets that give its address.
    new: Vec<(Register, i64)>,
    /// Registers that have changed since.
    written: Vec<Register>,
}

/// Base, displacement and register of `mov %reg,displacement(%base)`.
fn stored_register(instruction: &Instruction) -> Option<(Register, i64, Register)> {
    let plain = instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register
        && instruction.op1_register().is_gpr64()
        && instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None;
    plain.then(|| {
        (
            instruction.memory_base(),
            instruction.memory_displacement64().cast_signed(),
            instruction.op1_register(),
        )
    })
}

#[cfg(test)]
mod tests;
