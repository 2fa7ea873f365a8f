//! Functions that have unwind information, worked out without it, beside what it says.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    time::Instant,
};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use profiler_common::unwind::{CFA_FP, CFA_SP};

use super::{
    function::{Start, analyze_and},
    machine::Machine,
    view::View,
};
use crate::unwind::table::{
    NoTable, Table, build,
    elf::Elf,
    truth::{Index, random, real_files},
};

/// What came out of comparing.
#[derive(Debug, Default)]
struct Compared {
    functions: usize,
    worked_out: usize,
    refused: BTreeMap<String, usize>,
    /// Bytes of code of functions, and of those that were worked out with a rule.
    bytes: usize,
    ruled: usize,
    /// Instructions at which both say the same.
    same: usize,
    /// Where one of the two names a register that the other says nothing of.
    unclear: usize,
    /// Functions whose unwind information differs, and contradicts itself.
    contradictory: usize,
    different: Vec<String>,
}

/// A file whose functions are known.
struct Known<'a> {
    path: &'a str,
    elf: &'a Elf<'a>,
    table: &'a Table,
    functions: Vec<Range<u32>>,
    starts: Vec<u32>,
}

impl Known<'_> {
    /// Works out what begins at `start` as if the function around it were without unwind information.
    fn compare(&self, function: &Range<u32>, start: Start, compared: &mut Compared) {
        let view = View::new(self.elf, std::slice::from_ref(function), &self.starts, &[]);
        compared.functions += 1;
        compared.bytes += function.len();
        let mut here = Compared::default();
        let outcome = analyze_and(&view, start, |at, machine| {
            if let Some(machine) = machine {
                self.compare_one(at, machine, &mut here);
            }
        });
        match outcome {
            Ok(()) => {
                compared.worked_out += 1;
                compared.ruled += here.ruled;
                compared.same += here.same;
                compared.unclear += here.unclear;
                if !here.different.is_empty() && self.contradicts_itself(function) {
                    compared.contradictory += 1;
                } else {
                    compared.different.extend(here.different);
                }
            }
            Err(refusal) => *compared.refused.entry(format!("{refusal:?}")).or_default() += 1,
        }
    }

    /// Whether unwind information is wrong by itself: an instruction moves the stack pointer, and after it the canonical
    /// frame address is said to be elsewhere. Some was never written (`__mpn_mul_1` in glibc 2.36), some forgets one
    /// (`x25519_fe64_sqr` in OpenSSL 3.0; what LLVM makes of functions that end in several calls of others), some counts pushes
    /// though it counts from the frame pointer (`_ZGVdN4v_sin` in glibc's libmvec).
    fn contradicts_itself(&self, function: &Range<u32>) -> bool {
        let bytes = self.elf.bytes(function.clone()).unwrap_or_default();
        let decoder = Decoder::with_ip(64, bytes, function.start.into(), DecoderOptions::NONE);
        let instructions: Vec<Instruction> = decoder.into_iter().collect();
        let rule = |instruction: &Instruction| self.table.lookup(self.elf.base + instruction.ip());
        instructions.windows(2).any(|pair| {
            let (before, after) = (rule(&pair[0]), rule(&pair[1]));
            let moved = moves_stack_pointer(&pair[0]);
            let offset = match (before.cfa, after.cfa) {
                (CFA_SP, CFA_SP) => moved.map(|by| i64::from(before.cfa_offset) - by),
                (CFA_FP, CFA_FP) => moved.map(|_| i64::from(before.cfa_offset)),
                _ => None,
            };
            offset.is_some_and(|offset| offset != i64::from(after.cfa_offset))
        })
    }

    /// Where the instructions of a function begin. What moves the next one to a round address belongs to the one before
    /// it, and is not executed.
    fn instructions(&self, function: &Range<u32>) -> Vec<u32> {
        let bytes = self.elf.bytes(function.clone()).unwrap_or_default();
        let decoder = Decoder::with_ip(64, bytes, function.start.into(), DecoderOptions::NONE);
        decoder
            .into_iter()
            .filter(|instruction| instruction.mnemonic() != Mnemonic::Nop)
            .map(|instruction| instruction.ip() as u32)
            .collect()
    }

    fn compare_one(&self, at: Range<u32>, machine: &Machine, compared: &mut Compared) {
        let Some(ours) = machine.rule() else { return };
        compared.ruled += at.len();
        let address = self.elf.base + u64::from(at.start);
        let theirs = self.table.lookup(address);
        match machine.holds(theirs) {
            (Some(true), Some(true) | None) => compared.same += 1,
            (None, Some(true) | None) => compared.unclear += 1,
            wrong => compared.different.push(format!(
                "{} {address:#x} {wrong:?} ours {ours:?} theirs {theirs:?}",
                self.path
            )),
        }
    }
}

fn with_known(path: &str, act: impl FnOnce(&Known<'_>)) {
    let bytes = std::fs::read(path).expect("the file");
    let table = match build(&bytes) {
        Err(NoTable::NoUnwindInformation | NoTable::WrongMachine) => return,
        table => table.unwrap_or_else(|error| panic!("{path}: {error}")),
    };
    let elf = Elf::parse(&bytes).expect("an ELF file");
    let Some(index) = Index::of(&elf) else { return };
    let functions: Vec<Range<u32>> = index
        .covered
        .iter()
        .filter_map(|range| elf.code_range(range.start, range.end - range.start))
        .map(|(start, end)| start..end)
        .collect();
    act(&Known {
        path,
        elf: &elf,
        table: &table,
        starts: functions.iter().map(|range| range.start).collect(),
        functions,
    });
}

/// How many functions of each of [`real_files`] are compared.
fn most() -> usize {
    let most = std::env::var("PROFILER_TEST_FUNCTIONS").ok();
    most.and_then(|most| most.parse().ok()).unwrap_or(1500)
}

#[test]
fn what_is_worked_out_of_functions_is_what_their_unwind_information_says() {
    for path in real_files() {
        with_known(&path, |known| {
            let mut compared = Compared::default();
            let started = Instant::now();
            let every = known.functions.len().div_ceil(most()).max(1);
            for function in known.functions.iter().step_by(every) {
                let rule = known.table.lookup(known.elf.base + u64::from(function.start));
                // Pieces of functions that lie elsewhere are not called.
                let start = match (rule.cfa, rule.cfa_offset) {
                    (CFA_SP, 8) => super::called_at(function.start),
                    _ => super::named_at(function.start),
                };
                known.compare(function, start, &mut compared);
            }
            report(known, &compared, started);
            assert!(compared.different.is_empty(), "{:#?}", compared.different);
        });
    }
}

#[test]
fn what_does_not_begin_where_a_function_does_is_refused_or_right_all_the_same() {
    for path in real_files() {
        with_known(&path, |known| {
            let mut compared = Compared::default();
            let started = Instant::now();
            let mut state = 1;
            if known.functions.is_empty() {
                return;
            }
            for _ in 0..most() {
                let function = &known.functions[random(&mut state) as usize % known.functions.len()];
                let starts = known.instructions(function);
                let start = starts.get(random(&mut state) as usize % starts.len().max(1));
                let address = *start.expect("a function has instructions");
                known.compare(
                    function,
                    Start {
                        address,
                        named: false,
                        called: false,
                    },
                    &mut compared,
                );
            }
            report(known, &compared, started);
            assert!(compared.different.is_empty(), "{:#?}", compared.different);
        });
    }
}

/// By how much an instruction moves the stack pointer, if that is to be seen and the next one follows.
fn moves_stack_pointer(instruction: &Instruction) -> Option<i64> {
    if instruction.flow_control() != FlowControl::Next {
        return None;
    }
    let of_sp = instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RSP;
    let immediate = matches!(instruction.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64);
    match instruction.mnemonic() {
        Mnemonic::Push | Mnemonic::Pop if !of_sp => Some(instruction.stack_pointer_increment().into()),
        Mnemonic::Add if of_sp && immediate => Some(instruction.immediate(1) as i64),
        Mnemonic::Sub if of_sp && immediate => Some(-(instruction.immediate(1) as i64)),
        Mnemonic::Lea if of_sp && instruction.memory_base() == Register::RSP => {
            (instruction.memory_index() == Register::None).then(|| instruction.memory_displacement64() as i64)
        }
        _ => None,
    }
}

fn report(known: &Known<'_>, compared: &Compared, started: Instant) {
    println!(
        "{}: {} of {} functions ({} of {} bytes) worked out; {} instructions the same, {} unclear, {} different, {} functions contradict themselves; {:?}; {:?}",
        known.path,
        compared.worked_out,
        compared.functions,
        compared.ruled,
        compared.bytes,
        compared.same,
        compared.unclear,
        compared.different.len(),
        compared.contradictory,
        compared.refused,
        started.elapsed(),
    );
}

#[test]
fn gaps_of_real_files_are_worked_out_within_bounds() {
    for path in real_files() {
        let bytes = std::fs::read(&path).expect("the file");
        let Ok(elf) = Elf::parse(&bytes) else { continue };
        let Some(index) = Index::of(&elf) else { continue };
        let covered: Vec<Range<u32>> = index
            .covered
            .iter()
            .filter_map(|range| elf.code_range(range.start, range.end - range.start))
            .map(|(start, end)| start..end)
            .collect();
        let open = super::gaps(&elf, &covered);
        let started = Instant::now();
        let decoded = super::decode(&elf, &covered);
        let took = started.elapsed();
        let ruled: usize = decoded.rows.iter().map(|(range, _)| range.len()).sum();
        let open_bytes: usize = open.iter().map(ExactSizeIterator::len).sum();
        let rules: HashSet<_> = decoded.rows.iter().map(|(_, rule)| *rule).collect();
        println!(
            "{path}: {} gaps of {open_bytes} bytes, {ruled} bytes in {} rows with {} rules; {took:?}",
            open.len(),
            decoded.rows.len(),
            rules.len(),
        );
        assert!(
            decoded.rows.windows(2).all(|pair| pair[0].0.end <= pair[1].0.start),
            "{path}"
        );
    }
}
