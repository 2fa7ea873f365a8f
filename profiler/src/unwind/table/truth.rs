//! Real files, beside what gimli says about the same address by the file's own index (`.eh_frame_hdr`).
//!
//! Rules are not compared but run, on a machine whose registers and memory hold made-up values.

use std::{collections::BTreeSet, ops::Range};

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EhFrameHdr, EvaluationResult, FrameDescriptionEntry, LittleEndian,
    Location, ParsedEhFrameHdr, RegisterRule, UnwindContext, UnwindExpression, UnwindSection as _, Value, X86_64,
};
use profiler_common::unwind::*;

use super::elf::Elf;
use super::tests::check_invariants;
use super::{Bytes, Cie, NoTable, Table, build, is_padding, rule};

/// Files this process runs code of, and any that `PROFILER_TEST_ELFS` names (separated by colons).
pub fn real_files() -> BTreeSet<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    let mapped = maps
        .lines()
        .filter(|line| line.contains(" r-xp "))
        .filter_map(|line| Some(line[line.find('/')?..].to_owned()));
    let named = std::env::var("PROFILER_TEST_ELFS").unwrap_or_default();
    mapped
        .chain(named.split(':').filter(|path| !path.is_empty()).map(str::to_owned))
        .collect()
}

/// How many addresses of each of [`real_files`] are compared.
const ADDRESSES: usize = 5000;

#[test]
fn real_files_unwind_as_gimli_says_by_the_files_own_index() {
    for path in real_files() {
        let bytes = std::fs::read(&path).expect("the file");
        let table = match build(&bytes) {
            Err(NoTable::NoUnwindInformation | NoTable::WrongMachine) => continue,
            table => table.unwrap_or_else(|error| panic!("{path}: {error}")),
        };
        check_invariants(&table);
        let elf = Elf::parse(&bytes).expect("an ELF file");
        let Some(index) = Index::of(&elf) else { continue };

        let mut state = 1;
        let mut understood = 0;
        for _ in 0..ADDRESSES {
            let segment = &elf.code[random(&mut state) as usize % elf.code.len()];
            let relative = segment.addresses.start + (random(&mut state) % segment.addresses.len() as u64) as u32;
            understood += usize::from(check(&elf, &index, &table, relative, &path));
        }
        println!("{path}: {understood} of {ADDRESSES} addresses have a rule that is understood");
        assert!(understood > 0, "{path}");
    }
}

/// Compares one address. Returns whether it has a rule that we understand.
fn check(elf: &Elf<'_>, index: &Index<'_>, table: &Table, relative: u32, path: &str) -> bool {
    let address = elf.base + u64::from(relative);
    let rule = table.lookup(address);
    let at = format!("{path} {address:#x} {rule:?}");
    // What is known of code without an entry is beside the index (`decoded::truth`).
    let none = !index.covers(address);
    let fde = match index.find(address) {
        Some(fde) => fde,
        None if none || in_padding(elf, index, relative) => return false,
        // The index leads to an empty entry that begins where another does: the tools of LLVM 22 have some.
        None => index.find_slowly(address).unwrap_or_else(|| panic!("{at}")),
    };
    let mut context = UnwindContext::new();
    let row = match fde.unwind_info_for_address(&index.section, &index.bases, &mut context, address) {
        Ok(row) => row,
        Err(error) => {
            assert_eq!(*rule, rule::UNSUPPORTED, "{at} {error}");
            return false;
        }
    };
    if rule.cfa == CFA_UNSUPPORTED {
        return false;
    }
    let machine = Machine { pc: address };
    let (cfa, pc, fp) = machine.by_gimli(&index.section, fde.cie(), row);
    if rule.cfa == CFA_END {
        assert_eq!(pc, None, "{at}");
        return true;
    }
    let fp = fp.filter(|_| rule.fp != FP_LOST);
    assert_eq!(machine.by_rule(rule), (cfa, pc, fp), "{at} {row:?}");
    true
}

/// Whether the code around an address without an entry is padding, from the entry before to the entry after.
fn in_padding(elf: &Elf<'_>, index: &Index<'_>, relative: u32) -> bool {
    let address = elf.base + u64::from(relative);
    let after = index.covered.partition_point(|covered| covered.start <= address);
    let start = index.covered[..after].last().map_or(elf.base, |covered| covered.end);
    let end = index.covered.get(after).map(|covered| covered.start);
    let end = end.map_or(elf.span, |end| (end - elf.base) as u32);
    start <= address && elf.bytes((start - elf.base) as u32..end).is_some_and(is_padding)
}

/// A file's own index.
pub struct Index<'a> {
    index: ParsedEhFrameHdr<Bytes<'a>>,
    section: EhFrame<Bytes<'a>>,
    bases: BaseAddresses,
    /// What all entries cover, without the index.
    pub covered: Vec<Range<u64>>,
}

impl<'a> Index<'a> {
    pub fn of(elf: &Elf<'a>) -> Option<Self> {
        let (at, section) = elf.section(".eh_frame")?;
        let (index_at, index) = elf.section(".eh_frame_hdr")?;
        let bases = elf.bases(at).set_eh_frame_hdr(index_at);
        let section = EhFrame::new(section, LittleEndian);
        let mut covered = Vec::new();
        let mut entries = section.entries(&bases);
        while let Some(entry) = entries.next().ok()? {
            if let CieOrFde::Fde(fde) = entry {
                let fde = fde.parse(EhFrame::cie_from_offset).ok()?;
                covered.push(fde.initial_address()..fde.end_address());
            }
        }
        covered.retain(|covered| !covered.is_empty());
        covered.sort_unstable_by_key(|covered| covered.start);
        Some(Self {
            index: EhFrameHdr::new(index, LittleEndian).parse(&bases, 8).ok()?,
            section,
            bases,
            covered,
        })
    }

    fn covers(&self, address: u64) -> bool {
        let after = self.covered.partition_point(|covered| covered.start <= address);
        self.covered[..after]
            .last()
            .is_some_and(|covered| covered.contains(&address))
    }

    fn find(&self, address: u64) -> Option<FrameDescriptionEntry<Bytes<'a>>> {
        let table = self.index.table()?;
        table
            .fde_for_address(&self.section, &self.bases, address, EhFrame::cie_from_offset)
            .ok()
    }

    /// Without the index.
    fn find_slowly(&self, address: u64) -> Option<FrameDescriptionEntry<Bytes<'a>>> {
        self.section
            .fde_for_address(&self.bases, address, EhFrame::cie_from_offset)
            .ok()
    }
}

pub fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    let mixed = (*state ^ *state >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 32
}

/// A machine whose every register and word of memory has a value of its own.
struct Machine {
    pc: u64,
}

impl Machine {
    fn register(&self, register: gimli::Register) -> u64 {
        match register {
            X86_64::RA => self.pc,
            _ => random(&mut (u64::from(register.0) + 99)) & 0x7fff_ffff_fff8,
        }
    }

    fn memory(&self, address: u64) -> u64 {
        random(&mut address.clone())
    }

    /// An expression's value, by gimli.
    fn evaluate(
        &self,
        section: &EhFrame<Bytes<'_>>,
        expression: UnwindExpression<usize>,
        cie: &Cie<'_>,
        initial: Option<u64>,
    ) -> u64 {
        let expression = expression.get(section).expect("an expression");
        let mut evaluation = expression.evaluation(cie.encoding());
        if let Some(initial) = initial {
            evaluation.set_initial_value(initial);
        }
        let mut state = evaluation.evaluate().expect("evaluates");
        loop {
            state = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(self.register(register)))
                }
                EvaluationResult::RequiresMemory { address, .. } => {
                    evaluation.resume_with_memory(Value::Generic(self.memory(address)))
                }
                other => panic!("{other:?}"),
            }
            .expect("evaluates");
        }
        match evaluation.result()[..] {
            [
                gimli::Piece {
                    location: Location::Address { address },
                    ..
                },
            ] => address,
            ref other => panic!("{other:?}"),
        }
    }

    /// The caller's stack pointer, return address, and frame pointer as gimli says; `None` for what is lost.
    fn by_gimli(&self, section: &EhFrame<Bytes<'_>>, cie: &Cie<'_>, row: &gimli::UnwindTableRow<usize>) -> Caller {
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => self.register(*register).wrapping_add_signed(*offset),
            CfaRule::Expression(expression) => self.evaluate(section, *expression, cie, None),
        };
        let recover = |register| match row.register(register) {
            None | Some(RegisterRule::SameValue) => Some(self.register(register)),
            Some(RegisterRule::Undefined) => None,
            Some(RegisterRule::Offset(offset)) => Some(self.memory(cfa.wrapping_add_signed(offset))),
            Some(RegisterRule::Register(register)) => Some(self.register(register)),
            Some(RegisterRule::Expression(expression)) => {
                Some(self.memory(self.evaluate(section, expression, cie, Some(cfa))))
            }
            other => panic!("{other:?}"),
        };
        (Some(cfa), recover(X86_64::RA), recover(X86_64::RBP))
    }

    /// The same as one of our rules says.
    fn by_rule(&self, rule: &UnwindRule) -> Caller {
        const REGISTERS_OF_KERNEL: [u16; 15] = [15, 14, 13, 12, 6, 3, 11, 10, 9, 8, 0, 2, 1, 4, 5];
        let kernel = |index: u8| self.register(gimli::Register(REGISTERS_OF_KERNEL[usize::from(index)]));
        let (sp, fp) = (self.register(X86_64::RSP), self.register(X86_64::RBP));
        let offset = i64::from(rule.cfa_offset);
        let extra = i64::from(rule.cfa_extra);
        let cfa = match rule.cfa {
            CFA_SP => sp.wrapping_add_signed(offset),
            CFA_FP => fp.wrapping_add_signed(offset),
            CFA_REGISTER => kernel(rule.register).wrapping_add_signed(offset),
            CFA_DEREF_SP => self.memory(sp.wrapping_add_signed(offset)).wrapping_add_signed(extra),
            CFA_DEREF_FP => self.memory(fp.wrapping_add_signed(offset)).wrapping_add_signed(extra),
            CFA_PLT => sp.wrapping_add_signed(offset) + if self.pc & 15 >= extra as u64 { 8 } else { 0 },
            CFA_SIGNAL => {
                let saved = |at| Some(self.memory(sp.wrapping_add_signed(offset).wrapping_add(at)));
                return (saved(UCONTEXT_SP), saved(UCONTEXT_PC), saved(UCONTEXT_FP));
            }
            other => panic!("{other}"),
        };
        let pc = match rule.ra {
            RA_AT_CFA => self.memory(cfa.wrapping_sub(8)),
            register => kernel(register - RA_IN_REGISTER),
        };
        let at = i64::from(rule.fp_offset);
        let fp = match rule.fp {
            FP_SAME => Some(fp),
            FP_AT_CFA => Some(self.memory(cfa.wrapping_add_signed(at))),
            FP_AT_FP => Some(self.memory(fp.wrapping_add_signed(at))),
            _ => None,
        };
        (Some(cfa), Some(pc), fp)
    }
}

type Caller = (Option<u64>, Option<u64>, Option<u64>);
