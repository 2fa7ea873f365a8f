//! The evaluation loop's handlers of single instructions of bytecode, through the loop's own table.
//!
//! Every function that runs begins with `RESUME`, and so does every resumption of a generator or coroutine; this is also
//! where CPython's own profiler sees them begin. Where they stop without ending is `YIELD_VALUE`. Opcodes are fixed within
//! a series (the number in a .pyc file says so), and the table is found in the file: 256 pointers into the loop.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::super::allocator::code::{Code, direct_target};
use super::super::allocator::place::{Place, RegisterIndex, emulates, saved};
use super::super::binary::PythonBinary;
use super::{CallProbe, Event, FrameProbe, NoEntry};

/// Opcodes of a series.
pub struct Opcodes {
    /// `RESUME` and its variants.
    pub entries: &'static [u8],
    /// `YIELD_VALUE` and its variant.
    pub yields: &'static [u8],
}

impl Opcodes {
    /// From `opcode.py` and `_opcode_metadata.py` of 3.11.2, 3.11.7, 3.12.1, 3.13.0, 3.13.18, 3.14.10 and 3.15.2.
    pub fn of(series: (u8, u8)) -> Self {
        let (entries, yields): (&[u8], &[u8]) = match series {
            // RESUME, RESUME_QUICK; 3.11 enters the loop for each resumption, and so needs no yields.
            (3, 11) => (&[151, 150], &[]),
            // RESUME, INSTRUMENTED_RESUME; YIELD_VALUE, INSTRUMENTED_YIELD_VALUE.
            (3, 12) => (&[151, 240], &[150, 243]),
            // RESUME, RESUME_CHECK, INSTRUMENTED_RESUME.
            (3, 13) => (&[149, 207, 236], &[118, 241]),
            (3, 14) => (&[128, 196, 245], &[120, 247]),
            // RESUME, RESUME_CHECK, RESUME_CHECK_JIT, INSTRUMENTED_RESUME.
            (3, 15) => (&[128, 200, 201, 244], &[119, 246]),
            _ => (&[], &[]),
        };
        Self { entries, yields }
    }
}

const TABLE_POINTERS: u64 = 256;

/// Of the 256, real tables have 194 to 234 different ones. 3.15 has a second table, for its tracer, with few.
const MIN_HANDLERS: usize = 120;
const MAX_ELSEWHERE: usize = 4;

/// What a file may make us look through; real loops mention up to 800 addresses.
const MAX_MENTIONED: usize = 20_000;

/// How far a handler is followed; known ones set the pointer within 6 instructions.
const MAX_HANDLER: usize = 40;

/// All the machine code of the loop, or of the functions that a tail-calling loop consists of.
pub fn loop_ranges(binary: &PythonBinary) -> impl Iterator<Item = &Range<u64>> {
    binary.eval_loop.iter().chain(&binary.eval_handlers)
}

pub struct Handlers<'a> {
    code: &'a Code<'a>,
    binary: &'a PythonBinary,
    table: u64,
    /// The targets of all jumps in the loop.
    jumped_to: BTreeSet<u64>,
}

impl<'a> Handlers<'a> {
    pub fn find(code: &'a Code<'a>, binary: &'a PythonBinary) -> Result<Self, NoEntry> {
        let mut mentions = BTreeSet::new();
        let mut jumped_to = BTreeSet::new();
        for range in loop_ranges(binary) {
            for instruction in code.instructions(range) {
                mentions.extend(mentioned(&instruction));
                jumped_to.extend(direct_target(&instruction).filter(|_| instruction.mnemonic() != Mnemonic::Call));
            }
        }
        let mut tables = mentions
            .into_iter()
            .take(MAX_MENTIONED)
            .filter(|address| is_table(code, binary, *address));
        match (tables.next(), tables.next()) {
            (Some(table), None) => Ok(Self {
                code,
                binary,
                table,
                jumped_to,
            }),
            _ => Err(NoEntry::NoTable),
        }
    }

    /// Where functions and resumptions begin.
    pub fn entries(&self) -> Result<Vec<FrameProbe>, NoEntry> {
        let opcodes = Opcodes::of(self.binary.version.series()).entries;
        let probes = opcodes.iter().map(|opcode| {
            let (place, frame) = self.place(*opcode, false)?;
            Ok(FrameProbe { place, frame })
        });
        distinct(probes, |probe| probe.place.address)
    }

    /// Where generators stop.
    pub fn yields(&self) -> Result<Vec<CallProbe>, NoEntry> {
        let opcodes = Opcodes::of(self.binary.version.series()).yields;
        let probes = opcodes.iter().map(|opcode| {
            let (place, frame) = self.place(*opcode, true)?;
            Ok(CallProbe {
                place,
                event: Event::Yield,
                frame,
            })
        });
        distinct(probes, |probe| probe.place.address)
    }

    /// A place that everything which goes through the handler passes; exactly once, if `once`.
    fn place(&self, opcode: u8, once: bool) -> Result<(Place, RegisterIndex), NoEntry> {
        let unknown = NoEntry::UnknownHandler { opcode };
        let start = self.code.word(self.table + 8 * u64::from(opcode)).ok_or(unknown)?;
        let range = loop_ranges(self.binary)
            .find(|range| range.contains(&start))
            .ok_or(unknown)?;
        let handler = straight(self.code, &(start..range.end));
        let frame = self.frame_register(&handler).ok_or(unknown)?;

        let first = handler
            .iter()
            .find(|instruction| instruction.mnemonic() != Mnemonic::Endbr64)
            .ok_or(unknown)?;
        let cheap = self.first_emulated(&handler, frame).filter(|address| {
            let mut inside = self.jumped_to.range(first.ip()..=*address);
            !(once && inside.any(|target| *target != first.ip()))
        });
        let address = cheap.unwrap_or(first.ip());
        let place = Place {
            file_offset: self.code.file_offset(address).ok_or(unknown)?,
            address,
            emulated: cheap.is_some(),
        };
        Ok((place, saved(frame).ok_or(unknown)?))
    }

    /// The first thing that a handler does with its frame is to set its instruction pointer.
    fn frame_register(&self, handler: &[Instruction]) -> Option<Register> {
        let offset = u64::from(self.binary.layout.process.frame_instruction);
        let at = handler.iter().position(|store| {
            store.mnemonic() == Mnemonic::Mov
                && store.op0_kind() == OpKind::Memory
                && store.op1_kind() == OpKind::Register
                && store.op1_register().is_gpr64()
                && store.memory_index() == Register::None
                && store.memory_base().is_gpr64()
                && store.memory_base() != Register::RSP
                && store.memory_displacement64() == offset
        })?;
        let frame = handler.get(at)?.memory_base();
        let before = handler.get(..at)?;
        (!writes(before, frame)).then_some(frame)
    }

    /// The first instruction that the kernel emulates, unless the frame has left its register before.
    fn first_emulated(&self, handler: &[Instruction], frame: Register) -> Option<u64> {
        let at = handler.iter().position(|instruction| {
            let bytes = self.code.image.bytes(instruction.ip(), instruction.len());
            instruction.mnemonic() != Mnemonic::Call && bytes.is_some_and(emulates)
        })?;
        (!writes(handler.get(..at)?, frame)).then(|| handler.get(at).map(Instruction::ip))?
    }
}

/// The first error, or all probes in order of their addresses: variants may share a handler.
fn distinct<T>(
    probes: impl Iterator<Item = Result<T, NoEntry>>,
    address: impl Fn(&T) -> u64,
) -> Result<Vec<T>, NoEntry> {
    let mut probes = probes.collect::<Result<Vec<T>, NoEntry>>()?;
    probes.sort_by_key(&address);
    probes.dedup_by_key(|probe| address(probe));
    Ok(probes)
}

/// A handler's instructions from its start to where it branches for the second time, or leaves.
fn straight(code: &Code<'_>, range: &Range<u64>) -> Vec<Instruction> {
    let mut handler = Vec::new();
    let end = range.end.min(range.start.saturating_add(16 * MAX_HANDLER as u64));
    for instruction in code.instructions(&(range.start..end)).into_iter().take(MAX_HANDLER) {
        if instruction.is_invalid() {
            break;
        }
        let flow = instruction.flow_control();
        handler.push(instruction);
        if !matches!(flow, FlowControl::Next | FlowControl::ConditionalBranch) {
            break;
        }
    }
    handler
}

/// Whether any of the instructions may change a register.
pub fn writes(body: &[Instruction], register: Register) -> bool {
    let mut facts = InstructionInfoFactory::new();
    body.iter().any(|instruction| {
        facts.info(instruction).used_registers().iter().any(|used| {
            used.register().full_register() == register
                && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None)
        })
    })
}

fn is_table(code: &Code<'_>, binary: &PythonBinary, address: u64) -> bool {
    let in_loop = |target: u64| loop_ranges(binary).any(|range| range.contains(&target));
    let span = code.span();
    let mut handlers = BTreeSet::new();
    // What is never reached can lie in a cold part without a frame of its own (pyenv's 3.11.7 has one such, 3.12.1 two).
    let mut elsewhere = BTreeSet::new();
    for index in 0..TABLE_POINTERS {
        let Some(target) = address.checked_add(8 * index).and_then(|at| code.word(at)) else {
            return false;
        };
        if in_loop(target) {
            handlers.insert(target);
        } else {
            elsewhere.insert(target);
            if elsewhere.len() > MAX_ELSEWHERE || !span.contains(&target) {
                return false;
            }
        }
    }
    handlers.len() >= MIN_HANDLERS
}

/// The addresses of data that an instruction has in it: relative to itself or, in a file that is not moved, as such.
pub fn mentioned(instruction: &Instruction) -> impl Iterator<Item = u64> + use<> {
    let has_memory = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    let memory = if instruction.is_ip_rel_memory_operand() {
        Some(instruction.ip_rel_memory_address())
    } else {
        (has_memory && instruction.memory_base() == Register::None).then(|| instruction.memory_displacement64())
    };
    let immediate = match instruction.op1_kind() {
        OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64 => Some(instruction.immediate(1)),
        _ => None,
    };
    memory.into_iter().chain(immediate).filter(|address| *address != 0)
}

#[cfg(test)]
mod tests {
    use super::super::fake::{EVAL, JMP_RAX, SET_INSTRUCTION, python_3_12};
    use super::*;

    fn yields(python: &super::super::fake::FakePython) -> Vec<(u64, bool, u8)> {
        let probes = python.inspect().unwrap();
        let yields = probes.calls.iter().filter(|probe| probe.event == Event::Yield);
        yields
            .map(|probe| (probe.place.address - EVAL, probe.place.emulated, probe.frame.0))
            .collect()
    }

    fn entries(python: &super::super::fake::FakePython) -> Result<Vec<(u64, bool, u8)>, NoEntry> {
        let entries = python.inspect().unwrap().entries?;
        Ok(entries
            .iter()
            .map(|probe| (probe.place.address - EVAL, probe.place.emulated, probe.frame.0))
            .collect())
    }

    #[test]
    fn handlers_are_found_through_the_table() {
        let python = python_3_12();
        // The branch, with the frame in rbx.
        assert_eq!(entries(&python), Ok(vec![(0x108, true, 5), (0x148, true, 5)]));
        // Nothing there is emulated.
        assert_eq!(yields(&python), [(0x180, false, 5), (0x1c0, false, 5)]);
        assert_eq!(python.inspect().unwrap().no_yields, None);
    }

    #[test]
    fn without_a_table_calls_are_counted_and_yields_are_not() {
        let probes = python_3_12().without_table().inspect().unwrap();
        assert_eq!(probes.calls.len(), 1);
        assert_eq!(probes.no_yields, Some(NoEntry::NoTable));
        assert_eq!(probes.entries, Err(NoEntry::NoTable));
    }

    #[test]
    fn a_handler_that_leaves_the_instruction_pointer_alone_is_not_understood() {
        let mut python = python_3_12();
        python.handler(151, EVAL + 0x100, &[b"\x75\x02", JMP_RAX]);
        assert_eq!(entries(&python), Err(NoEntry::UnknownHandler { opcode: 151 }));
        // mov (%rdx),%rbx first: the frame was not there before.
        python.handler(
            151,
            EVAL + 0x100,
            &[b"\x48\x8b\x1a", SET_INSTRUCTION, b"\x75\x02", JMP_RAX],
        );
        assert_eq!(entries(&python), Err(NoEntry::UnknownHandler { opcode: 151 }));
    }

    #[test]
    fn where_the_frame_has_left_its_register_is_too_late() {
        let mut python = python_3_12();
        // mov (%rdx),%rbx
        python.handler(
            151,
            EVAL + 0x100,
            &[SET_INSTRUCTION, b"\x48\x8b\x1a", b"\x75\x02", JMP_RAX],
        );
        assert_eq!(entries(&python), Ok(vec![(0x100, false, 5), (0x148, true, 5)]));
    }

    #[test]
    fn a_yield_is_not_probed_where_others_jump_in() {
        let mut python = python_3_12();
        python.handler(150, EVAL + 0x180, &[SET_INSTRUCTION, b"\x75\x02", JMP_RAX]);
        assert_eq!(yields(&python).first(), Some(&(0x184, true, 5)));
        // From the variant's middle to behind the store.
        python.handler(243, EVAL + 0x1c0, &[SET_INSTRUCTION, b"\xeb\xbe"]);
        assert_eq!(yields(&python), [(0x180, false, 5), (0x1c4, true, 5)]);
        // Whoever jumps to the beginning has the instruction done.
        python.handler(243, EVAL + 0x1c0, &[SET_INSTRUCTION, b"\xeb\xba"]);
        assert_eq!(yields(&python).first(), Some(&(0x184, true, 5)));
    }

    #[test]
    fn a_landing_pad_is_left_alone() {
        let mut python = python_3_12();
        python.handler(150, EVAL + 0x180, &[b"\xf3\x0f\x1e\xfa", SET_INSTRUCTION, JMP_RAX]);
        assert_eq!(yields(&python).first(), Some(&(0x184, false, 5)));
    }

    #[test]
    fn variants_that_share_a_handler_are_one_place() {
        let mut python = python_3_12();
        python.handler(240, EVAL + 0x100, &[]);
        assert_eq!(entries(&python), Ok(vec![(0x108, true, 5)]));
    }

    proptest::proptest! {
        #[test]
        fn no_handler_panics_and_a_place_is_one_of_its_instructions(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..60),
        ) {
            let mut python = python_3_12();
            python.handler(151, EVAL + 0x100, &[&bytes]);
            let probes = python.inspect().unwrap();
            if let Ok(entries) = probes.entries {
                let place = entries[0].place;
                let elf = python.build();
                let code = Code::new(&elf).unwrap();
                let body = code.instructions(&(EVAL + 0x100..EVAL + 0x180));
                proptest::prop_assert!(body.iter().any(|i| i.ip() == place.address && !i.is_invalid()));
            }
        }
    }
}
