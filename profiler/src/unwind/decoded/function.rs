//! One function, from its start along all the ways it can take.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register,
};
use profiler_common::unwind::UnwindRule;
use rustc_hash::FxHashSet;

use super::{
    machine::{Machine, Refusal, Value},
    switch,
    view::View,
    way,
};

/// The longest of OpenBLAS 0.3.34, its dgemm_kernel for Haswell, has 5,508.
const MAX_INSTRUCTIONS: usize = 1 << 16;

/// How often, on average, a function's instructions are gone through: where ways meet, what is known can only become
/// less, and mostly does so once.
const MAX_PASSES: usize = 16;

/// What was worked out of a function.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its instructions, in order, neighbours with the same rule together. `None` where the caller is not known.
    pub rows: Vec<(Range<u32>, Option<UnwindRule>)>,
    /// Functions without unwind information that it calls. It is as they are believed to be: they come back with the
    /// stack pointer and the preserved registers they were called with.
    pub calls: BTreeSet<u32>,
    /// Those that it has others call, or jumps to by an address that it has loaded: they are functions.
    pub hands_on: BTreeSet<u32>,
}

/// Where a function may begin.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub address: u32,
    /// Something leads to it.
    pub named: bool,
    /// It is called: what it finds on the stack is its return address, whether it ever returns or not.
    pub called: bool,
}

/// Works out a function that may begin at an address.
///
/// Whether it begins there need not be known: every way out of it is checked. Where it returns, the stack pointer must
/// be back at the return address, and each register that a function preserves must hold what it held at first. What does
/// not begin where a function does comes to a return with the wrong depth, or pops what it has not pushed.
///
/// Only returns prove it, unless it is known to be called. A jump to another function does not: compilers put what is
/// rarely done into pieces of their own, which look like functions and are jumped to from any depth. Where nothing leads to the start, calls are not passed
/// either: one may never come back, and a return follow that belongs to other code (`__lll_lock_wait` in glibc 2.36).
pub fn analyze(view: &View<'_>, start: Start, budget: &mut usize) -> Result<Function, Refusal> {
    let (body, heads) = work_out(view, start, budget)?;
    let mut rows: Vec<(Range<u32>, Option<UnwindRule>)> = Vec::new();
    body.each(&heads, |at, machine| {
        let rule = machine.and_then(Machine::rule);
        match rows.last_mut() {
            Some((range, last)) if range.end == at.start && *last == rule => range.end = at.end,
            _ => rows.push((at, rule)),
        }
    });
    Ok(Function {
        rows,
        calls: body.calls.clone(),
        hands_on: body.hands_on(view, &heads),
    })
}

/// What is known where ways meet, and the instructions. Where a `switch` leads is known only when what its registers hold
/// is, and then there is more to explore.
fn work_out(view: &View<'_>, start: Start, budget: &mut usize) -> Result<(Body, BTreeMap<u32, Machine>), Refusal> {
    /// `printf` has three.
    const MOST_TABLES: usize = 64;
    let mut tables = Tables::new();
    loop {
        let body = Body::explore(view, start.address, &tables, budget)?;
        let heads = body.states(view, &tables, budget)?;
        let before = tables.len();
        body.find_tables(view, &heads, &mut tables)?;
        if tables.len() == before {
            body.check(view, start, &tables, &heads)?;
            return Ok((body, heads));
        }
        if tables.len() > MOST_TABLES {
            return Err(Refusal::TooLong);
        }
    }
}

/// Where jumps by tables lead, by the address of the jump.
type Tables = BTreeMap<u32, Vec<u32>>;

/// The same, and calls `each` with what is known before each instruction.
#[cfg(test)]
pub fn analyze_and(
    view: &View<'_>,
    start: Start,
    each: impl FnMut(Range<u32>, Option<&Machine>),
) -> Result<(), Refusal> {
    let mut budget = usize::MAX;
    let (body, heads) = work_out(view, start, &mut budget)?;
    body.each(&heads, each);
    Ok(())
}

/// The instructions of a function.
struct Body {
    start: u32,
    /// In order of address.
    instructions: Vec<Instruction>,
    /// Where jumps lead.
    heads: BTreeSet<u32>,
    calls: BTreeSet<u32>,
    /// It calls something, whatever it is.
    calls_any: bool,
    /// Between its first and last instruction there is nothing that was not seen.
    is_all_there: bool,
}

impl Body {
    fn explore(view: &View<'_>, start: u32, tables: &Tables, budget: &mut usize) -> Result<Self, Refusal> {
        let mut seen: FxHashSet<u32> = FxHashSet::default();
        let mut found: Vec<Instruction> = Vec::new();
        let mut body = Self {
            start,
            instructions: Vec::new(),
            heads: BTreeSet::from([start]),
            calls: BTreeSet::new(),
            calls_any: false,
            is_all_there: false,
        };
        let mut open = vec![start];
        while let Some(from) = open.pop() {
            let bytes = view.code_from(from).ok_or(Refusal::Strays)?;
            for instruction in Decoder::with_ip(64, bytes, from.into(), DecoderOptions::NONE) {
                let at = instruction.ip() as u32;
                if view.is_bottom(at) || !seen.insert(at) {
                    break;
                }
                if instruction.is_invalid() || instruction.is_privileged() && instruction.mnemonic() != Mnemonic::Hlt {
                    // The piece of code ends, and the function goes on, or it was no code.
                    return Err(Refusal::NotCode);
                }
                if found.len() >= MAX_INSTRUCTIONS || *budget == 0 {
                    return Err(Refusal::TooLong);
                }
                *budget -= 1;
                found.push(instruction);
                let follow = follow(view, &instruction)?;
                if let Some(target) = follow.jumps {
                    body.heads.insert(target);
                    if !seen.contains(&target) {
                        open.push(target);
                    }
                }
                for target in tables.get(&at).into_iter().flatten() {
                    body.heads.insert(*target);
                    if !seen.contains(target) {
                        open.push(*target);
                    }
                }
                body.calls.extend(follow.calls);
                body.calls_any |= is_call(&instruction);
                if !follow.continues || follow.calls.is_some_and(|callee| !way::comes_back(view, callee)) {
                    break;
                }
                let end = from.saturating_add(bytes.len() as u32);
                let next = instruction.next_ip() as u32;
                if is_call(&instruction)
                    && (is_padding(view, next..end) || view.is_function(past_padding(view, next..end)))
                {
                    // It calls what never comes back: behind it another function begins, or nothing.
                    break;
                }
                if next >= end {
                    return Err(Refusal::Strays);
                }
            }
        }
        found.sort_unstable_by_key(Instruction::ip);
        body.instructions = found;
        let overlap = |pair: &[Instruction]| pair[0].next_ip() > pair[1].ip();
        if body.instructions.windows(2).any(overlap) {
            return Err(Refusal::NotCode);
        }
        let between = |pair: &[Instruction]| pair[0].next_ip() as u32..pair[1].ip() as u32;
        body.is_all_there = body.instructions.windows(2).all(|pair| is_padding(view, between(pair)));
        Ok(body)
    }

    /// What is known where ways meet.
    fn states(&self, view: &View<'_>, tables: &Tables, budget: &mut usize) -> Result<BTreeMap<u32, Machine>, Refusal> {
        let mut facts = InstructionInfoFactory::new();
        let mut states = BTreeMap::from([(self.start, Machine::at_entry())]);
        let mut open = BTreeSet::from([self.start]);
        let mut steps_left = self.instructions.len().saturating_mul(MAX_PASSES);
        while let Some(head) = open.pop_first() {
            let Some(mut machine) = states.get(&head).cloned() else {
                continue;
            };
            for instruction in self.run(head) {
                let at = instruction.ip() as u32;
                if at != head && self.heads.contains(&at) {
                    arrive(&mut states, &mut open, at, machine);
                    break;
                }
                steps_left = steps_left.checked_sub(1).ok_or(Refusal::TooLong)?;
                *budget = budget.checked_sub(1).ok_or(Refusal::TooLong)?;
                if let Some(target) = pass(view, &mut machine, instruction, &mut facts)? {
                    arrive(&mut states, &mut open, target, machine.clone());
                }
                for target in tables.get(&at).into_iter().flatten() {
                    arrive(&mut states, &mut open, *target, machine.clone());
                }
                if !continues(instruction) {
                    break;
                }
            }
        }
        Ok(states)
    }

    /// Calls `see` with each instruction that is come by and what is known before it.
    fn each_known(
        &self,
        view: &View<'_>,
        states: &BTreeMap<u32, Machine>,
        mut see: impl FnMut(&Machine, &Instruction) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut facts = InstructionInfoFactory::new();
        for (head, machine) in states {
            let mut machine = machine.clone();
            for instruction in self.run(*head) {
                if instruction.ip() as u32 != *head && self.heads.contains(&(instruction.ip() as u32)) {
                    break;
                }
                see(&machine, instruction)?;
                pass(view, &mut machine, instruction, &mut facts)?;
                if !continues(instruction) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// In what is known at last, every way out is one, and one of them proves it.
    fn check(
        &self,
        view: &View<'_>,
        start: Start,
        tables: &Tables,
        states: &BTreeMap<u32, Machine>,
    ) -> Result<(), Refusal> {
        let mut returns = start.called;
        self.each_known(view, states, |machine, instruction| {
            let proves = instruction.flow_control() == FlowControl::Return && (start.named || !self.calls_any);
            // `clone` comes back on a stack where nothing is as it was, and then calls.
            if self.calls_any && is_system_call(instruction) && !machine.system_call_comes_back() {
                return Err(Refusal::UnknownJump);
            }
            if !tables.contains_key(&(instruction.ip() as u32)) {
                returns |= self.leaves(view, machine, instruction)? && proves;
            }
            Ok(())
        })?;
        returns.then_some(()).ok_or(Refusal::NoReturn)
    }

    /// Where `switch` leads.
    fn find_tables(
        &self,
        view: &View<'_>,
        states: &BTreeMap<u32, Machine>,
        tables: &mut Tables,
    ) -> Result<(), Refusal> {
        self.each_known(view, states, |machine, instruction| {
            let at = instruction.ip() as u32;
            if instruction.flow_control() != FlowControl::IndirectBranch || tables.contains_key(&at) {
                return Ok(());
            }
            if let Value::Listed(table) = machine.value(instruction.op0_register()) {
                tables.insert(at, switch::targets(view, table, switch::bound(&self.instructions, at))?);
            } else if let Some(table) = switch::absolute(view, instruction) {
                let bound = switch::bound(&self.instructions, at);
                tables.insert(at, switch::absolute_targets(view, table, bound)?);
            }
            Ok(())
        })
    }

    /// Functions whose addresses it gives to what it calls, or that it jumps to where it is done.
    fn hands_on(&self, view: &View<'_>, states: &BTreeMap<u32, Machine>) -> BTreeSet<u32> {
        const ARGUMENTS: [Register; 6] = [
            Register::RDI,
            Register::RSI,
            Register::RDX,
            Register::RCX,
            Register::R8,
            Register::R9,
        ];
        let mut found = BTreeSet::new();
        let mut find = |value: Value| {
            let addresses = match value {
                Value::Address(address) => [Some(address), None],
                Value::OneOf(one, other) => [Some(one), Some(other)],
                _ => [None, None],
            };
            let addresses = addresses.into_iter().flatten();
            let addresses = addresses.filter_map(|address| u32::try_from(address).ok());
            found.extend(addresses.filter(|address| view.is_open(*address)));
        };
        let seen = self.each_known(view, states, |machine, instruction| {
            if is_call(instruction) {
                ARGUMENTS.iter().for_each(|register| find(machine.value(*register)));
            }
            if matches!(
                instruction.flow_control(),
                FlowControl::IndirectCall | FlowControl::IndirectBranch
            ) && instruction.op0_kind() == OpKind::Register
            {
                find(machine.value(instruction.op0_register()));
            }
            Ok(())
        });
        // What was passed once can be passed again.
        seen.map_or_else(|_| BTreeSet::new(), |()| found)
    }

    /// Fails if the function is left with this instruction as it may not be. Whether it is left.
    fn leaves(&self, view: &View<'_>, machine: &Machine, instruction: &Instruction) -> Result<bool, Refusal> {
        let leaves = match instruction.flow_control() {
            FlowControl::Return | FlowControl::IndirectBranch => true,
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                target(instruction).is_some_and(|target| view.is_function(target))
            }
            _ => false,
        };
        // A far return, or one that takes arguments off the stack, is not what a C function ends with.
        let odd = instruction.flow_control() == FlowControl::Return && instruction.code() != Code::Retnq;
        if leaves && (odd || !machine.is_as_at_entry()) {
            return Err(Refusal::NotRestored);
        }
        // Through a slot of the file's own it is a call of another file's function; else it may be one of a table of
        // places in this one.
        let to_anywhere =
            instruction.flow_control() == FlowControl::IndirectBranch && !instruction.is_ip_rel_memory_operand();
        if leaves && to_anywhere && !self.is_all_there {
            return Err(Refusal::UnknownJump);
        }
        Ok(leaves)
    }

    /// Calls `each` with an instruction's addresses and what is known before it, in order of address.
    fn each(&self, heads: &BTreeMap<u32, Machine>, mut each: impl FnMut(Range<u32>, Option<&Machine>)) {
        let mut facts = InstructionInfoFactory::new();
        let mut machine: Option<Machine> = None;
        let mut next = 0;
        for instruction in &self.instructions {
            let at = instruction.ip() as u32;
            if let Some(known) = heads.get(&at) {
                machine = Some(known.clone());
            } else if at != next {
                machine = None;
            }
            next = instruction.next_ip() as u32;
            each(at..next, machine.as_ref());
            machine = machine.filter(|_| continues(instruction)).and_then(|mut machine| {
                pass_over(&mut machine, instruction, &mut facts).ok()?;
                Some(machine)
            });
        }
    }

    /// The instructions from an address on, as far as one follows the other.
    fn run(&self, address: u32) -> impl Iterator<Item = &Instruction> {
        let mut next = u64::from(address);
        let first = self.instructions.partition_point(|i| i.ip() < next);
        let rest = self.instructions.get(first..).unwrap_or_default();
        rest.iter().take_while(move |instruction| {
            let follows = instruction.ip() == next;
            next = instruction.next_ip();
            follows
        })
    }
}

/// Whether there is only what moves code to a round address, OpenBLAS' kernels to a multiple of 512.
fn is_padding(view: &View<'_>, range: Range<u32>) -> bool {
    const MOST: usize = 4096;
    range.len() <= MOST && view.is_padding(range)
}

/// Where code goes on behind padding, if there is any.
fn past_padding(view: &View<'_>, range: Range<u32>) -> u32 {
    let bytes = view.elf.bytes(range.clone()).unwrap_or_default();
    range.start + super::starts::past_padding(bytes).unwrap_or(0)
}

/// Where a function goes on after an instruction.
#[derive(Default)]
struct Follow {
    continues: bool,
    /// Into code of the function's own.
    jumps: Option<u32>,
    calls: Option<u32>,
}

fn follow(view: &View<'_>, instruction: &Instruction) -> Result<Follow, Refusal> {
    let mut follow = Follow {
        continues: continues(instruction),
        ..Follow::default()
    };
    if is_system_call(instruction) {
        return Ok(follow);
    }
    match instruction.flow_control() {
        FlowControl::Next
        | FlowControl::Return
        | FlowControl::Exception
        | FlowControl::IndirectCall
        | FlowControl::IndirectBranch => {}
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
            let target = target(instruction).ok_or(Refusal::UnknownJump)?;
            if !view.is_function(target) {
                if !view.is_open(target) {
                    return Err(Refusal::Strays);
                }
                follow.jumps = Some(target);
            }
        }
        FlowControl::Call => {
            let target = target(instruction).ok_or(Refusal::UnknownJump)?;
            follow.calls = Some(target).filter(|target| view.is_open(*target) && !calls_next(instruction));
        }
        // Breakpoints do not come back.
        FlowControl::Interrupt if instruction.mnemonic() == Mnemonic::Int3 => {}
        _ => return Err(Refusal::NotCode),
    }
    Ok(follow)
}

/// Goes past an instruction, jumps included. Returns where it may have jumped to inside the function.
fn pass(
    view: &View<'_>,
    machine: &mut Machine,
    instruction: &Instruction,
    facts: &mut InstructionInfoFactory,
) -> Result<Option<u32>, Refusal> {
    pass_over(machine, instruction, facts)?;
    Ok(follow(view, instruction)?.jumps)
}

fn pass_over(
    machine: &mut Machine,
    instruction: &Instruction,
    facts: &mut InstructionInfoFactory,
) -> Result<(), Refusal> {
    match instruction.flow_control() {
        _ if is_system_call(instruction) => {
            machine.system_call();
            Ok(())
        }
        FlowControl::Call if calls_next(instruction) => machine.push_address(),
        FlowControl::Call | FlowControl::IndirectCall => machine.call(),
        FlowControl::Next | FlowControl::ConditionalBranch => machine.step(instruction, facts),
        _ => Ok(()),
    }
}

/// A way leads here.
fn arrive(states: &mut BTreeMap<u32, Machine>, open: &mut BTreeSet<u32>, at: u32, machine: Machine) {
    let changed = match states.get_mut(&at) {
        Some(known) => known.meet(&machine),
        None => {
            states.insert(at, machine);
            true
        }
    };
    if changed {
        open.insert(at);
    }
}

/// Whether the instruction after it may be next.
pub(super) fn continues(instruction: &Instruction) -> bool {
    is_system_call(instruction)
        || instruction.mnemonic() != Mnemonic::Hlt
            && matches!(
                instruction.flow_control(),
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall | FlowControl::ConditionalBranch
            )
}

pub(super) fn is_call(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::Call | FlowControl::IndirectCall
    ) && !is_system_call(instruction)
}

pub(super) fn is_system_call(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysenter)
}

fn calls_next(instruction: &Instruction) -> bool {
    target(instruction).is_some_and(|target| u64::from(target) == instruction.next_ip())
}

/// Where a direct jump or call leads.
pub(super) fn target(instruction: &Instruction) -> Option<u32> {
    (instruction.op0_kind() == OpKind::NearBranch64)
        .then(|| u32::try_from(instruction.near_branch64()).ok())
        .flatten()
}
