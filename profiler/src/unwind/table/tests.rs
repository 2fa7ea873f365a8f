//! On files made up, and on a real one that is damaged.

use std::io::Write as _;
use std::ops::Range;

use object::elf::{ELFCOMPRESS_ZLIB, EM_X86_64, PT_GNU_EH_FRAME, PT_LOAD, SHF_COMPRESSED};
use profiler_common::unwind::*;
use proptest::prelude::*;

use super::elf::{Elf, MAX_SPAN};
use super::truth::real_files;
use super::{MIN_GENERATED_BYTES, NoTable, START_CONTEXT, TRAMPOLINES, Table, build, rule};

/// Where the code of [`FakeElf`] is.
const CODE: u64 = 0x41_0000;
const EH_FRAME: u64 = 0x80_0000;
const EH_FRAME_HDR: u64 = 0x70_0000;

/// A file with one segment of code and sections or segments with unwind information.
struct FakeElf {
    code: Vec<u8>,
    /// How long the code is in memory.
    code_len: u64,
    /// Name, address, flags, bytes.
    sections: Vec<(&'static str, u64, u64, Vec<u8>)>,
    /// Type, flags, address, bytes.
    segments: Vec<(u32, u32, u64, Vec<u8>)>,
}

impl FakeElf {
    fn new(code_len: u64) -> Self {
        Self {
            // `hlt`, which is not padding, and nothing comes back from.
            code: vec![0xf4; code_len.min(1 << 20) as usize],
            code_len,
            sections: Vec::new(),
            segments: Vec::new(),
        }
    }

    fn with_eh_frame(mut self, eh_frame: EhFrameBytes) -> Self {
        self.sections.push((".eh_frame", EH_FRAME, 2, eh_frame.finish()));
        self
    }

    fn with_code(mut self, at: u64, code: &[u8]) -> Self {
        let at = (at - CODE) as usize;
        self.code[at..at + code.len()].copy_from_slice(code);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        const HEADER: usize = 64;
        const SEGMENT: usize = 56;
        let segments = 1 + self.segments.len();
        let mut body = Vec::new();
        let body_at = (HEADER + SEGMENT * segments) as u64;
        let mut put = |bytes: &[u8]| {
            body.extend(vec![0; body.len().next_multiple_of(16) - body.len()]);
            let at = body_at + body.len() as u64;
            body.extend_from_slice(bytes);
            at
        };

        let code = (PT_LOAD, 5, CODE, self.code_len, &self.code);
        let others = self
            .segments
            .iter()
            .map(|(kind, flags, at, bytes)| (*kind, *flags, *at, bytes.len() as u64, bytes));
        let mut segment_table = Vec::new();
        for (kind, flags, address, len, bytes) in std::iter::once(code).chain(others) {
            segment_table.extend(kind.to_le_bytes());
            segment_table.extend(flags.to_le_bytes());
            for word in [put(bytes), address, address, bytes.len() as u64, len, 4096] {
                segment_table.extend(word.to_le_bytes());
            }
        }

        let mut names = vec![0];
        let mut section_table = vec![0; 64];
        for (name, address, flags, bytes) in &self.sections {
            let name_at = names.len() as u32;
            names.extend(name.as_bytes());
            names.push(0);
            section_table.extend(section(name_at, 1, *flags, *address, put(bytes), bytes.len() as u64));
        }
        let name_at = names.len() as u32;
        names.extend(b".shstrtab\0");
        section_table.extend(section(name_at, 3, 0, 0, put(&names), names.len() as u64));
        let section_count = self.sections.len() as u16 + 2;
        let section_table_at = put(&section_table);

        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend(3_u16.to_le_bytes());
        file.extend(EM_X86_64.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        for word in [0, HEADER as u64, section_table_at] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        let (section_count, names_index) = if self.sections.is_empty() {
            (0, 0)
        } else {
            (section_count, section_count - 1)
        };
        for half in [
            HEADER as u16,
            SEGMENT as u16,
            segments as u16,
            64,
            section_count,
            names_index,
        ] {
            file.extend(half.to_le_bytes());
        }
        file.extend(segment_table);
        file.extend(body);
        file
    }

    fn table(&self) -> Table {
        let table = build(&self.bytes()).expect("a table");
        check_invariants(&table);
        table
    }
}

fn section(name: u32, kind: u32, flags: u64, address: u64, at: u64, len: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(name.to_le_bytes());
    header.extend(kind.to_le_bytes());
    for word in [flags, address, at, len] {
        header.extend(word.to_le_bytes());
    }
    header.extend([0; 8]);
    header.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    header
}

/// As gcc and clang write it: addresses of four bytes relative to where they are.
struct EhFrameBytes(Vec<u8>);

impl EhFrameBytes {
    /// With "the canonical frame address is `rsp + 8`, the return address is below it".
    fn new() -> Self {
        Self::with_augmentation(b"zR\0")
    }

    fn with_augmentation(augmentation: &[u8]) -> Self {
        let mut cie = vec![0, 0, 0, 0, 1];
        cie.extend(augmentation);
        cie.extend([1, 0x78, 16, 1, 0x1b, 0x0c, 7, 8, 0x90, 1]);
        cie.resize(cie.len().next_multiple_of(4), 0);
        let mut bytes = (cie.len() as u32).to_le_bytes().to_vec();
        bytes.extend(cie);
        Self(bytes)
    }

    fn fde(mut self, addresses: Range<u64>, instructions: &[u8]) -> Self {
        let at = self.0.len() as u64;
        let len = (13 + instructions.len()).next_multiple_of(4);
        self.0.extend((len as u32).to_le_bytes());
        self.0.extend((at as u32 + 4).to_le_bytes());
        self.0
            .extend((addresses.start.wrapping_sub(EH_FRAME + at + 8) as u32).to_le_bytes());
        self.0.extend(((addresses.end - addresses.start) as u32).to_le_bytes());
        self.0.push(0);
        self.0.extend(instructions);
        self.0.resize(at as usize + 4 + len, 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 4]);
        self.0
    }
}

/// After one byte: `push %rbp`; after three more: `mov %rsp, %rbp`.
const PROLOGUE: &[u8] = &[0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6];

fn sp(cfa_offset: i32) -> UnwindRule {
    UnwindRule {
        cfa: CFA_SP,
        cfa_offset,
        ..UnwindRule::default()
    }
}

/// The rule of a function with these instructions.
fn only_rule(augmentation: &[u8], instructions: &[u8]) -> UnwindRule {
    let eh_frame = EhFrameBytes::with_augmentation(augmentation).fde(CODE..CODE + 16, instructions);
    *FakeElf::new(64).with_eh_frame(eh_frame).table().lookup(CODE)
}

/// `DW_CFA_def_cfa_expression`
fn cfa_expression(operations: &[u8]) -> Vec<u8> {
    let mut instructions = vec![0x0f, operations.len() as u8];
    instructions.extend(operations);
    instructions
}

pub fn check_invariants(table: &Table) {
    assert!(table.base.is_multiple_of(1 << PAGE_BITS));
    assert_eq!(table.rules[usize::from(RULE_NONE)].cfa, CFA_NONE);
    assert_eq!(table.rules[usize::from(RULE_UNSUPPORTED)].cfa, CFA_UNSUPPORTED);
    assert!(table.rules.len() <= MAX_RULES);
    let mut next = 0;
    for page in &table.pages {
        assert_eq!(page.first, next);
        let rows = &table.rows[page.first as usize..][..page.rows as usize];
        assert_eq!(rows.first().map(|row| row_low(*row)), Some(0));
        assert!(rows.is_sorted_by(|a, b| row_low(*a) < row_low(*b) && row_rule(*a) != row_rule(*b)));
        next += page.rows;
    }
    assert_eq!(table.rows.len(), next as usize);
    let highest = table.rows.iter().map(|row| usize::from(row_rule(*row))).max();
    assert!(highest < Some(table.rules.len()));
}

#[test]
fn an_address_has_the_rule_of_the_last_row_before_it() {
    let table = FakeElf::new(64)
        .with_eh_frame(EhFrameBytes::new().fde(CODE + 16..CODE + 32, PROLOGUE))
        .table();
    let pushed = UnwindRule {
        fp: FP_AT_CFA,
        fp_offset: -16,
        ..sp(16)
    };
    let moved = UnwindRule { cfa: CFA_FP, ..pushed };
    let expected = [
        (15, rule::NONE),
        (16, sp(8)),
        (17, pushed),
        (19, pushed),
        (20, moved),
        (31, moved),
        (32, rule::NONE),
    ];
    for (at, rule) in expected {
        assert_eq!(*table.lookup(CODE + at), rule, "{at}");
    }
    assert_eq!(*table.lookup(CODE - 1), rule::NONE);
    assert_eq!(*table.lookup(u64::MAX), rule::NONE);
    assert_eq!(
        (table.base, table.pages.len(), table.rows.len(), table.unreadable),
        (CODE, 1, 5, 0)
    );
}

#[test]
fn entries_out_of_order_are_sorted_and_equal_rules_merged() {
    let eh_frame = EhFrameBytes::new()
        .fde(CODE + 32..CODE + 48, &[])
        .fde(CODE..CODE + 16, &[])
        .fde(CODE + 16..CODE + 32, &[]);
    let table = FakeElf::new(48).with_eh_frame(eh_frame).table();
    assert_eq!(table.rows, [row(0, 2), row(48, 0)]);
}

#[test]
fn an_entry_ends_where_the_next_begins() {
    let eh_frame = EhFrameBytes::new()
        .fde(CODE..CODE + 48, PROLOGUE)
        .fde(CODE + 16..CODE + 32, &[]);
    let table = FakeElf::new(64).with_eh_frame(eh_frame).table();
    assert_eq!(table.lookup(CODE + 15).cfa, CFA_FP);
    assert_eq!(*table.lookup(CODE + 16), sp(8));
    assert_eq!(*table.lookup(CODE + 32), rule::NONE);
}

#[test]
fn padding_between_functions_costs_no_rows() {
    let eh_frame = EhFrameBytes::new()
        .fde(CODE..CODE + 7, &[])
        .fde(CODE + 32..CODE + 40, &[]);
    let nops = [
        0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00, // cs nopw 0(%rax,%rax)
        0x0f, 0x1f, 0x44, 0x00, 0x00, // nopl 0(%rax,%rax)
        0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00, // nopl 0(%rax)
        0x66, 0x90, 0xcc, // xchg %ax,%ax; int3
    ];
    let elf = FakeElf::new(40).with_eh_frame(eh_frame).with_code(CODE + 7, &nops);
    assert_eq!(elf.table().rows, [row(0, 2), row(40, 0)]);
    let elf = elf.with_code(CODE + 7, &[0xf4]);
    assert_eq!(elf.table().rows, [row(0, 2), row(7, 0), row(32, 2), row(40, 0)]);
}

#[test]
fn every_page_begins_with_the_rule_in_effect() {
    let eh_frame = EhFrameBytes::new()
        .fde(CODE + 8..CODE + 0x2_0010, PROLOGUE)
        .fde(CODE + 0x4_0000..CODE + 0x4_0010, &[]);
    let table = FakeElf::new(0x4_0010).with_eh_frame(eh_frame).table();
    assert_eq!(table.pages.len(), 5);
    assert_eq!(table.lookup(CODE + 0x1_0000).cfa, CFA_FP);
    assert_eq!(table.pages[1].rows, 1);
    assert_eq!(table.lookup(CODE + 0x3_0000), table.lookup(CODE + 0x2_0010));
    assert_eq!(table.pages[3].rows, 1);
    assert_eq!(*table.lookup(CODE + 0x4_0000), sp(8));
}

#[test]
fn so_much_code_without_entries_is_generated_and_keeps_frame_pointers() {
    let gap = MIN_GENERATED_BYTES as u64;
    // push %rbp; mov %rsp,%rbp
    let prologues = |len: u64| {
        let mut code = vec![0xf4; len as usize];
        code.chunks_mut(4096)
            .for_each(|chunk| chunk[..4].copy_from_slice(b"\x55\x48\x89\xe5"));
        code
    };
    for (gap, code, expected) in [
        (gap - 1, prologues(gap - 1), rule::NONE),
        (gap, prologues(gap), rule::FRAME_POINTER),
        // Written by hand, or tables.
        (gap, vec![0xf4; gap as usize], rule::NONE),
    ] {
        let eh_frame = EhFrameBytes::new()
            .fde(CODE..CODE + 16, &[])
            .fde(CODE + 16 + gap..CODE + 32 + gap, &[]);
        let table = FakeElf::new(32 + gap)
            .with_eh_frame(eh_frame)
            .with_code(CODE + 16, &code)
            .table();
        assert_eq!(*table.lookup(CODE + 16), expected);
        assert_eq!(*table.lookup(CODE + 15 + gap), expected);
        assert_eq!(*table.lookup(CODE + 16 + gap), sp(8));
    }
}

#[test]
fn a_first_function_that_looks_called_is_found_one_byte_early_unless_a_call_precedes() {
    // DW_CFA_undefined: rip
    let eh_frame = || {
        EhFrameBytes::new()
            .fde(CODE..CODE + 32, &[])
            .fde(CODE + 32..CODE + 64, &[0x07, 16])
    };
    let table = FakeElf::new(64).with_eh_frame(eh_frame()).table();
    assert_eq!(*table.lookup(CODE + 30), sp(8));
    assert_eq!(*table.lookup(CODE + 31), rule::END);
    let call = FakeElf::new(64)
        .with_eh_frame(eh_frame())
        .with_code(CODE + 27, &[0xe8, 0, 0, 0, 0]);
    assert_eq!(*call.table().lookup(CODE + 31), sp(8));
}

#[test]
fn a_process_begins_at_the_entry_point_which_need_not_have_an_entry() {
    let eh_frame = EhFrameBytes::new().fde(CODE..CODE + 32, &[]);
    let elf = FakeElf::new(64)
        .with_eh_frame(eh_frame)
        .with_code(CODE + 32, &[0xf4; 32]);
    let mut bytes = elf.bytes();
    bytes[24..32].copy_from_slice(&(CODE + 40).to_le_bytes());
    let table = build(&bytes).expect("a table");
    assert_eq!(*table.lookup(CODE + 39), rule::NONE);
    assert_eq!(*table.lookup(CODE + 40), rule::END);
    assert_eq!(*table.lookup(CODE + 63), rule::END);
    // What the file says goes first.
    bytes[24..32].copy_from_slice(&(CODE + 8).to_le_bytes());
    assert_eq!(*build(&bytes).expect("a table").lookup(CODE + 8), sp(8));
}

#[test]
fn the_function_that_contexts_return_to_ends_a_stack_whatever_its_entry_says() {
    let eh_frame = EhFrameBytes::new().fde(CODE + 32..CODE + 64, &[]);
    let elf = FakeElf::new(64)
        .with_eh_frame(eh_frame)
        .with_code(CODE + 32, &START_CONTEXT);
    assert_eq!(*elf.table().lookup(CODE + 31), rule::END);
}

#[test]
fn a_trampoline_without_an_entry_is_known_by_its_bytes() {
    for code in TRAMPOLINES {
        let end = CODE + 32 + code.len() as u64;
        let eh_frame = EhFrameBytes::new().fde(CODE..CODE + 32, &[]);
        let table = FakeElf::new(64)
            .with_eh_frame(eh_frame)
            .with_code(CODE + 32, code)
            .table();
        assert_eq!(*table.lookup(CODE + 30), sp(8));
        assert_eq!(*table.lookup(CODE + 31), rule::TRAMPOLINE);
        assert_eq!(*table.lookup(end - 1), rule::TRAMPOLINE);
        assert_eq!(*table.lookup(end), rule::NONE);

        let eh_frame = EhFrameBytes::new().fde(CODE..CODE + 64, &[]);
        let table = FakeElf::new(64)
            .with_eh_frame(eh_frame)
            .with_code(CODE + 32, code)
            .table();
        assert_eq!(*table.lookup(CODE + 32), sp(8), "what the file says goes first");
    }
}

#[test]
fn stubs_without_an_entry_are_known_by_their_section() {
    let eh_frame = EhFrameBytes::new()
        .fde(CODE..CODE + 8, &[])
        .fde(CODE + 50..CODE + 64, &[]);
    let mut elf = FakeElf::new(64).with_eh_frame(eh_frame);
    elf.sections.push((".plt", CODE + 16, 6, vec![0xf4; 32]));
    let expected = [(8, rule::NONE), (16, rule::STUB), (47, rule::STUB), (48, rule::NONE)];
    for (at, rule) in expected {
        assert_eq!(*elf.table().lookup(CODE + at), rule, "{at}");
    }
    elf.sections[0].3 = EhFrameBytes::new().fde(CODE..CODE + 64, &[]).finish();
    assert_eq!(*elf.table().lookup(CODE + 16), sp(8), "what the file says goes first");
}

#[test]
fn a_file_most_of_whose_code_has_no_entry_was_built_without_and_keeps_frame_pointers_if_it_says_so() {
    // push %rbp; mov %rsp,%rbp
    let begins: &[u8] = b"\x55\x48\x89\xe5\xf4";
    for (covered, code, expected) in [
        (31, begins, rule::FRAME_POINTER),
        (32, begins, rule::NONE),
        // As musl was: without the one and the other.
        (31, &[0xf4][..], rule::NONE),
    ] {
        let eh_frame = EhFrameBytes::new().fde(CODE..CODE + covered, &[]);
        let mut elf = FakeElf::new(64).with_eh_frame(eh_frame).with_code(CODE + covered, code);
        elf.sections.push((".text", CODE, 6, vec![0xf4; 64]));
        assert_eq!(*elf.table().lookup(CODE + 40), expected);
    }
}

#[test]
fn the_expressions_of_linkers_compilers_and_glibc_are_understood() {
    // rsp + 8 + ((rip & 15) >= 11) << 3
    let stub = cfa_expression(&[0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22]);
    let plt = UnwindRule {
        cfa: CFA_PLT,
        cfa_extra: 11,
        ..sp(8)
    };
    assert_eq!(only_rule(b"zR\0", &stub), plt);

    // CFA: *(rbp - 8); rbp: at rbp + 0
    let mut realigned = cfa_expression(&[0x76, 0x78, 0x06]);
    realigned.extend([0x10, 6, 2, 0x76, 0]);
    let expected = UnwindRule {
        cfa: CFA_DEREF_FP,
        fp: FP_AT_FP,
        ..sp(-8)
    };
    assert_eq!(only_rule(b"zR\0", &realigned), expected);

    // *(rsp + 16) + 8
    let expected = UnwindRule {
        cfa: CFA_DEREF_SP,
        cfa_extra: 8,
        ..sp(16)
    };
    assert_eq!(
        only_rule(b"zR\0", &cfa_expression(&[0x77, 16, 0x06, 0x23, 8])),
        expected
    );

    assert_eq!(only_rule(b"zR\0", &cfa_expression(&[0x77, 24])), sp(24));

    // CFA: *(rsp + 160 + 8); rip: at rsp + 168 + 8
    let mut signal = cfa_expression(&[0x77, 0xa8, 1, 0x06]);
    signal.extend([0x10, 16, 3, 0x77, 0xb0, 1]);
    let expected = UnwindRule {
        cfa: CFA_SIGNAL,
        ..sp(8)
    };
    assert_eq!(only_rule(b"zRS\0", &signal), expected);
    assert_eq!(
        only_rule(b"zR\0", &signal),
        rule::UNSUPPORTED,
        "not marked as a signal frame"
    );
}

#[test]
fn registers_are_those_of_the_kernel() {
    // DW_CFA_def_cfa r10, 0
    let expected = UnwindRule {
        cfa: CFA_REGISTER,
        register: 7,
        ..sp(0)
    };
    assert_eq!(only_rule(b"zR\0", &[0x0c, 10, 0]), expected);
    // DW_CFA_register rip, rdi
    let expected = UnwindRule {
        ra: RA_IN_REGISTER + 14,
        ..sp(8)
    };
    assert_eq!(only_rule(b"zR\0", &[0x09, 16, 5]), expected);
}

#[test]
fn a_function_without_a_return_address_has_no_caller() {
    assert_eq!(only_rule(b"zR\0", &[0x07, 16]).cfa, CFA_END);
}

#[test]
fn what_is_not_understood_is_unsupported_to_the_entrys_end() {
    // rsp + 8 + 8 * r9, dereferenced: OpenSSL's bn_mul_mont.
    let expression = cfa_expression(&[0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22, 0x06, 0x23, 8]);
    assert_eq!(only_rule(b"zR\0", &expression), rule::UNSUPPORTED);

    // After one byte, an instruction that does not exist.
    let eh_frame = EhFrameBytes::new().fde(CODE..CODE + 16, &[0x41, 0x3e]);
    let table = FakeElf::new(64).with_eh_frame(eh_frame).table();
    assert_eq!(*table.lookup(CODE), sp(8));
    assert_eq!(*table.lookup(CODE + 15), rule::UNSUPPORTED);
    assert_eq!(*table.lookup(CODE + 16), rule::NONE);
}

#[test]
fn sections_are_not_needed_to_find_the_entries() {
    let mut elf = FakeElf::new(64);
    let eh_frame = EhFrameBytes::new().fde(CODE..CODE + 16, PROLOGUE).finish();
    let mut index = vec![1, 0x1b, 0xff, 0xff];
    index.extend(((EH_FRAME - EH_FRAME_HDR - 4) as u32).to_le_bytes());
    elf.segments.push((PT_LOAD, 4, EH_FRAME, eh_frame));
    elf.segments.push((PT_GNU_EH_FRAME, 4, EH_FRAME_HDR, index));
    assert_eq!(elf.table().lookup(CODE + 8).cfa, CFA_FP);
}

#[test]
fn debug_frame_counts_only_without_eh_frame_and_may_be_compressed() {
    // CIE of version 1 without augmentation, one FDE with absolute addresses.
    let mut debug_frame = vec![
        16, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1, 0, 0,
    ];
    debug_frame.extend(20_u32.to_le_bytes());
    debug_frame.extend(0_u32.to_le_bytes());
    debug_frame.extend(CODE.to_le_bytes());
    debug_frame.extend(16_u64.to_le_bytes());

    let mut elf = FakeElf::new(64);
    elf.sections.push((".debug_frame", 0, 0, debug_frame.clone()));
    assert_eq!(*elf.table().lookup(CODE), sp(8));

    let mut compressed = [ELFCOMPRESS_ZLIB, 0].map(u32::to_le_bytes).concat();
    compressed.extend([debug_frame.len() as u64, 1].map(u64::to_le_bytes).concat());
    let mut encoder = flate2::write::ZlibEncoder::new(&mut compressed, flate2::Compression::default());
    encoder.write_all(&debug_frame).expect("in memory");
    encoder.finish().expect("in memory");
    elf.sections[0] = (".debug_frame", 0, SHF_COMPRESSED.into(), compressed);
    assert_eq!(*elf.table().lookup(CODE), sp(8));

    let elf = elf.with_eh_frame(EhFrameBytes::new().fde(CODE + 32..CODE + 48, &[]));
    assert_eq!(*elf.table().lookup(CODE), rule::NONE);
}

#[test]
fn a_file_without_a_table_says_why() {
    let why = |bytes: &[u8]| build(bytes).err();
    assert_eq!(why(b""), Some(NoTable::NotElf));
    assert_eq!(why(b"#!/bin/sh\n"), Some(NoTable::NotElf));
    assert_eq!(why(&FakeElf::new(64).bytes()), Some(NoTable::NoUnwindInformation));
    let mut elf = FakeElf::new(64);
    elf.sections.push((".eh_frame", EH_FRAME, 2, vec![0; 4]));
    assert_eq!(
        why(&elf.bytes()),
        Some(NoTable::NoUnwindInformation),
        "only a terminator"
    );
    elf.sections[0].3 = vec![0xaa; 64];
    assert_eq!(why(&elf.bytes()), Some(NoTable::Damaged));
    let mut bytes = elf.bytes();
    bytes[18] = 183;
    assert_eq!(why(&bytes), Some(NoTable::WrongMachine), "aarch64");
    bytes[4] = 1;
    assert_eq!(why(&bytes), Some(NoTable::WrongMachine), "32 bits");
    let mut elf = FakeElf::new(64);
    elf.segments.push((PT_LOAD, 5, CODE + MAX_SPAN, vec![0xf4; 64]));
    assert_eq!(why(&elf.bytes()), Some(NoTable::TooLarge));
}

#[test]
fn entries_that_overlap_without_end_make_a_bounded_table() {
    let mut eh_frame = EhFrameBytes::new();
    for i in 0..10_000 {
        eh_frame = eh_frame.fde(CODE + i % 100..CODE + 0xffff_ffff, PROLOGUE);
    }
    let table = FakeElf::new(0x8000_0000).with_eh_frame(eh_frame).table();
    assert_eq!(table.pages.len(), 0x8001);
    assert!(table.rows.len() < 0x8001 + 400, "{}", table.rows.len());
}

#[test]
fn many_entries_that_share_much_work_are_refused() {
    let mut cie = vec![0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b];
    cie.resize(cie.len() + 100_003, 0x0a);
    let mut eh_frame = EhFrameBytes([(cie.len() as u32).to_le_bytes().as_slice(), &cie].concat());
    for i in 0..1000 {
        // `fde` writes a distance to the first CIE.
        eh_frame = eh_frame.fde(CODE + i..CODE + i + 1, &[]);
    }
    let elf = FakeElf::new(0x1000).with_eh_frame(eh_frame);
    assert_eq!(build(&elf.bytes()).err(), Some(NoTable::TooLarge));
}

/// The smallest of [`real_files`], which is the dynamic loader or libgcc, and where its unwind information is.
fn small_real_file() -> (Vec<u8>, Vec<Range<usize>>) {
    let path = real_files()
        .into_iter()
        .min_by_key(|path| std::fs::metadata(path).map_or(u64::MAX, |file| file.len()))
        .expect("a file");
    let bytes = std::fs::read(path).expect("the file");
    let elf = Elf::parse(&bytes).expect("an ELF file");
    let place = |part: &[u8]| {
        let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
        start..start + part.len()
    };
    let places = vec![
        0..64 + 56 * usize::from(bytes[56]),
        place(elf.eh_frame().expect("a section").1),
        place(elf.eh_frame_by_segment().expect("a segment").1),
    ];
    (bytes, places)
}

proptest! {
    #[test]
    fn no_damage_breaks_the_builder(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..60),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        sections in any::<bool>(),
    ) {
        let (mut bytes, places) = small_real_file();
        for (place, at, byte) in damage {
            // The headers every second time at most: a file that is refused tests little.
            let place = &places[place.index(places.len() * 8).saturating_sub(places.len() * 6) % places.len()];
            bytes[place.start + at.index(place.len())] = byte;
        }
        if !sections {
            bytes[60..62].fill(0);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(table) = build(&bytes) {
            check_invariants(&table);
        }
    }

    #[test]
    fn no_unwind_information_breaks_the_builder(bytes in proptest::collection::vec(any::<u8>(), 0..400), section in 0..2_usize) {
        let mut elf = FakeElf::new(0x1000);
        elf.sections.push(([".eh_frame", ".debug_frame"][section], EH_FRAME, 0, bytes));
        if let Ok(table) = build(&elf.bytes()) {
            check_invariants(&table);
        }
    }

    #[test]
    fn no_instructions_break_the_builder(
        entries in proptest::collection::vec((0_u64..0x2000, 0_u64..0x3_0000, proptest::collection::vec(any::<u8>(), 0..60)), 0..30),
    ) {
        let mut eh_frame = EhFrameBytes::new();
        for (start, len, instructions) in &entries {
            eh_frame = eh_frame.fde(CODE + start..CODE + start + len, instructions);
        }
        if let Ok(table) = build(&FakeElf::new(0x2_8000).with_eh_frame(eh_frame).bytes()) {
            check_invariants(&table);
            // Exactly the addresses between are without a rule.
            for address in (CODE..CODE + 0x2_8000).step_by(97) {
                let after = entries.iter().filter(|(start, len, _)| *len > 0 && CODE + start <= address);
                let last = after.clone().map(|(start, ..)| *start).max();
                let of_last = after.filter(|(start, ..)| Some(*start) == last);
                let covering = of_last.clone().filter(|(start, len, _)| address < CODE + start + len).count();
                let cfa = table.lookup(address).cfa;
                // A first function's rule begins one byte early.
                if cfa == CFA_END {
                    continue;
                }
                let covered = cfa != CFA_NONE && cfa != CFA_FRAME_POINTER;
                // Which of two entries that begin together counts is not said here.
                prop_assert!(covered == (covering > 0) || covering > 0 && covering < of_last.count());
            }
        }
    }
}
