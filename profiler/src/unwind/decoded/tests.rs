//! On code made up, whose depths are known.

#![expect(clippy::single_range_in_vec_init, reason = "one gap is a list of gaps")]

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use profiler_common::unwind::{CFA_DEREF_SP, CFA_FP, CFA_REGISTER, CFA_SP, FP_AT_CFA, FP_LOST, FP_SAME, UnwindRule};
use proptest::prelude::*;

use super::machine::Refusal;
use super::view::View;
use super::{
    Believed, decode,
    function::{Function, analyze},
    gaps,
};
use crate::unwind::rule;
use crate::unwind::table::elf::{Code, Elf};

/// A file that is nothing but this code.
fn file(code: &[u8]) -> Elf<'_> {
    Elf::of_code(vec![Code {
        addresses: 0..code.len() as u32,
        bytes: code,
    }])
}

/// The rules of a function at the start of this code, from which address on each holds.
fn rules(code: &[u8]) -> Result<Vec<(u32, Option<UnwindRule>)>, Refusal> {
    rules_of(code, super::named_at(0))
}

/// The same of a function that is known to begin there as this says.
fn rules_of(code: &[u8], start: super::Start) -> Result<Vec<(u32, Option<UnwindRule>)>, Refusal> {
    let elf = file(code);
    let open = [0..code.len() as u32];
    let view = View::new(&elf, &open, &[], &[]);
    let function = analyze(&view, start, &mut 1000)?;
    Ok(function
        .rows
        .into_iter()
        .map(|(range, rule)| (range.start, rule))
        .collect())
}

fn sp(offset: i32) -> UnwindRule {
    UnwindRule {
        cfa: CFA_SP,
        cfa_offset: offset,
        ..rule::NONE
    }
}

fn with_fp_at(offset: i32, rule: UnwindRule) -> UnwindRule {
    UnwindRule {
        fp: FP_AT_CFA,
        fp_offset: offset,
        ..rule
    }
}

#[test]
fn pushes_and_room_for_locals_are_counted() {
    // push %rbp; push %rbx; sub $0x20,%rsp; xor %ebp,%ebp; add $0x20,%rsp; pop %rbx; pop %rbp; ret
    let code = b"\x55\x53\x48\x83\xec\x20\x31\xed\x48\x83\xc4\x20\x5b\x5d\xc3";
    let some = |rule| Some(rule);
    assert_eq!(
        rules(code).unwrap(),
        [
            (0, some(sp(8))),
            (1, some(sp(16))),
            (2, some(sp(24))),
            (6, some(sp(56))),
            (8, some(with_fp_at(-16, sp(56)))),
            (12, some(with_fp_at(-16, sp(24)))),
            (13, some(with_fp_at(-16, sp(16)))),
            (14, some(sp(8))),
        ]
    );
}

#[test]
fn a_rounded_stack_is_left_by_the_register_that_holds_the_old_one() {
    // As OpenBLAS' kernels do:
    // sub $0x18,%rsp; mov %rbx,(%rsp); mov %rbp,8(%rsp); mov %rsp,%rbx; sub $0x80,%rsp; and $-4096,%rsp;
    // mov %rdi,0x10(%rsp); xor %ebp,%ebp; mov %rbx,%rsp; mov (%rsp),%rbx; mov 8(%rsp),%rbp; add $0x18,%rsp; ret
    let code = b"\x48\x83\xec\x18\x48\x89\x1c\x24\x48\x89\x6c\x24\x08\x48\x89\xe3\x48\x81\xec\x80\x00\x00\x00\
        \x48\x81\xe4\x00\xf0\xff\xff\x48\x89\x7c\x24\x10\x31\xed\x48\x89\xdc\x48\x8b\x1c\x24\
        \x48\x8b\x6c\x24\x08\x48\x83\xc4\x18\xc3";
    let rules = rules(code).unwrap();
    let at = |address: u32| {
        rules
            .iter()
            .rev()
            .find(|(from, _)| *from <= address)
            .unwrap()
            .1
            .unwrap()
    };
    let by_rbx = UnwindRule {
        cfa: CFA_REGISTER,
        register: 5,
        cfa_offset: 32,
        ..rule::NONE
    };
    assert_eq!(at(23), sp(32 + 0x80));
    assert_eq!(at(30), by_rbx);
    assert_eq!(at(37), with_fp_at(-24, by_rbx));
    assert_eq!(at(44), with_fp_at(-24, sp(32)));
    assert_eq!(at(49), sp(32));
}

#[test]
fn a_rounded_stack_is_left_by_what_was_put_aside_on_it() {
    // mov %rsp,%rax; sub $0x80,%rsp; and $-64,%rsp; mov %rax,0x40(%rsp); xor %eax,%eax; mov 0x40(%rsp),%rsp; ret
    let code = b"\x48\x89\xe0\x48\x81\xec\x80\x00\x00\x00\x48\x83\xe4\xc0\x48\x89\x44\x24\x40\x31\xc0\
        \x48\x8b\x64\x24\x40\xc3";
    let rules = rules(code).unwrap();
    let put_aside = UnwindRule {
        cfa: CFA_DEREF_SP,
        cfa_offset: 0x40,
        cfa_extra: 8,
        ..rule::NONE
    };
    assert!(rules.contains(&(19, Some(put_aside))), "{rules:?}");
    // With the word overwritten nothing leads back: mov %rdi,0x44(%rsp).
    let code = b"\x48\x89\xe0\x48\x81\xec\x80\x00\x00\x00\x48\x83\xe4\xc0\x48\x89\x44\x24\x40\x48\x89\x7c\x24\x44\
        \x48\x8b\x64\x24\x40\xc3";
    assert_eq!(super::tests::rules(code), Err(Refusal::NotRestored));
}

#[test]
fn a_frame_pointer_leads_back_from_a_stack_of_unknown_depth() {
    // push %rbp; mov %rsp,%rbp; sub %rdi,%rsp; call *%rsi; leave; ret
    let rules = rules(b"\x55\x48\x89\xe5\x48\x29\xfc\xff\xd6\xc9\xc3").unwrap();
    let by_fp = UnwindRule {
        cfa: CFA_FP,
        cfa_offset: 16,
        ..rule::NONE
    };
    assert_eq!(
        rules[2..],
        [
            (4, Some(with_fp_at(-16, sp(16)))),
            (7, Some(with_fp_at(-16, by_fp))),
            (10, Some(sp(8)))
        ]
    );
}

#[test]
fn a_frame_pointer_that_is_only_in_a_register_is_lost_to_callers() {
    // mov %rbp,%rax; xor %ebp,%ebp; mov %rax,%rbp; ret
    let rules = rules(b"\x48\x89\xe8\x31\xed\x48\x89\xc5\xc3").unwrap();
    let fps: Vec<u8> = rules.iter().map(|(_, rule)| rule.unwrap().fp).collect();
    assert_eq!(fps, [FP_SAME, FP_LOST, FP_SAME]);
}

#[test]
fn what_does_not_prove_itself_is_refused() {
    let refused: [(&[u8], Refusal); 18] = [
        // One way pushes, the other does not, and both return: test %edi,%edi; je +1; push %rbx; ret
        (b"\x85\xff\x74\x01\x53\xc3", Refusal::NotRestored),
        // pop %rbx; ret
        (b"\x5b\xc3", Refusal::ReturnAddress),
        // mov %rax,(%rsp); ret
        (b"\x48\x89\x04\x24\xc3", Refusal::ReturnAddress),
        // push %rax; ret
        (b"\x50\xc3", Refusal::NotRestored),
        // xor %ebx,%ebx; ret
        (b"\x31\xdb\xc3", Refusal::NotRestored),
        // mov %rdi,%rsp; ret
        (b"\x48\x89\xfc\xc3", Refusal::NotRestored),
        // mov %esp,%esp; ret
        (b"\x89\xe4\xc3", Refusal::NotRestored),
        // xchg %rsp,%rax; ret
        (b"\x48\x94\xc3", Refusal::NotRestored),
        // push %rbx; and $-16,%rsp; pop %rbx; ret
        (b"\x53\x48\x83\xe4\xf0\x5b\xc3", Refusal::NotRestored),
        // ret $8
        (b"\xc2\x08\x00", Refusal::NotRestored),
        // push %rbx; jmp *%rax
        (b"\x53\xff\xe0", Refusal::NotRestored),
        // test %edi,%edi; jne +2; jmp *%rax; mov %edi,%edi (what nobody came by); ret
        (b"\x85\xff\x75\x04\xff\xe0\x89\xff\xc3", Refusal::UnknownJump),
        // jmp *%rax: it may be in the middle of something
        (b"\xff\xe0", Refusal::NoReturn),
        // jmp *0x10(%rip): so may this
        (b"\xff\x25\x10\x00\x00\x00", Refusal::NoReturn),
        // jmp .
        (b"\xeb\xfe", Refusal::NoReturn),
        // jmp past the end
        (b"\xeb\x10", Refusal::Strays),
        // mov $56,%eax; syscall; test %eax,%eax; jne +2; call *%rbx; ret
        (
            b"\xb8\x38\x00\x00\x00\x0f\x05\x85\xc0\x75\x02\xff\xd3\xc3",
            Refusal::UnknownJump,
        ),
        // nop, and then nothing
        (b"\x90", Refusal::Strays),
    ];
    for (code, refusal) in refused {
        assert_eq!(rules(code), Err(refusal), "{code:x?}");
    }
}

#[test]
fn what_lies_below_the_stack_pointer_does_not_survive_a_call() {
    // mov %rbp,-8(%rsp); sub $8,%rsp (makes it safe); xor %ebp,%ebp; call *%rax; mov (%rsp),%rbp; add $8,%rsp; ret
    assert!(rules(b"\x48\x89\x6c\x24\xf8\x48\x83\xec\x08\x31\xed\xff\xd0\x48\x8b\x2c\x24\x48\x83\xc4\x08\xc3").is_ok());
    // The same without.
    let code = b"\x48\x89\x6c\x24\xf8\x31\xed\xff\xd0\x48\x8b\x6c\x24\xf8\xc3";
    assert_eq!(rules(code), Err(Refusal::NotRestored));
}

#[test]
fn a_call_of_the_next_instruction_only_pushes() {
    // call +0; pop %rax; ret
    assert_eq!(
        rules(b"\xe8\x00\x00\x00\x00\x58\xc3").unwrap(),
        [(0, Some(sp(8))), (5, Some(sp(16))), (6, Some(sp(8)))]
    );
}

#[test]
fn functions_are_found_behind_one_another() {
    // 0: push %rbx; pop %rbx; ret; int3 …
    // 16: pop %rax; jmp *%rax; int3 …
    // 32: sub $8,%rsp; add $8,%rsp; ret; int3 …
    let mut code = vec![0xcc; 64];
    code[..3].copy_from_slice(b"\x53\x5b\xc3");
    code[16..19].copy_from_slice(b"\x58\xff\xe0");
    code[32..41].copy_from_slice(b"\x48\x83\xec\x08\x48\x83\xc4\x08\xc3");
    let found = |covered: &[Range<u32>]| {
        let decoded = decode(&file(&code), covered);
        let starts: Vec<u32> = decoded.of(&(0..64)).map(|(range, _)| range.start).collect();
        starts
    };
    // Behind the second, which is refused, nobody knows where a function begins.
    assert_eq!(found(&[]), [0, 1, 2]);
    // With its unwind information.
    assert_eq!(found(&[16..19]), [0, 1, 2, 32, 36, 40]);
}

#[test]
fn callers_of_what_is_refused_are_not_believed_nor_are_their_callers() {
    // 0: sub $8,%rsp; call 16; add $8,%rsp; ret
    // 16: sub $8,%rsp; call 32; add $8,%rsp; ret
    // 32: pop %rax; jmp *%rax, or ret
    let mut code = vec![0xcc; 48];
    for start in [0, 16] {
        code[start..start + 14].copy_from_slice(b"\x48\x83\xec\x08\xe8\x07\x00\x00\x00\x48\x83\xc4\x08\xc3");
    }
    for (last, believed_rows) in [(b"\x58\xff\xe0", 0), (b"\xc3\xcc\xcc", 7)] {
        code[32..35].copy_from_slice(last);
        let elf = file(&code);
        let view = View::new(&elf, &[0..48], &[0], &[]);
        let mut believed = Believed::default();
        believed.try_all(&view, vec![super::named_at(0)], &mut 1000);
        assert_eq!(believed.functions.len(), 3);
        assert_eq!(believed.finish().rows.len(), believed_rows);
    }
}

#[test]
fn two_that_contradict_each_other_are_not_believed_unless_one_is_only_perhaps_a_function() {
    let function = |rows: &[(Range<u32>, i32)]| {
        Some(Function {
            rows: rows
                .iter()
                .map(|(range, depth)| (range.clone(), Some(sp(*depth))))
                .collect(),
            calls: BTreeSet::new(),
            hands_on: BTreeSet::new(),
        })
    };
    let both = || {
        BTreeMap::from([
            (0, function(&[(0..1, 8), (1..12, 16)])),
            (4, function(&[(4..12, 8)])),
            (20, function(&[(20..21, 8)])),
        ])
    };
    let starts = |named: &[u32]| {
        let believed = Believed {
            functions: both(),
            named: named.iter().copied().collect(),
            ..Believed::default()
        };
        let rows = believed.finish().rows;
        rows.iter().map(|(range, _)| range.start).collect::<Vec<_>>()
    };
    assert_eq!(starts(&[0, 4, 20]), [20]);
    assert_eq!(starts(&[]), [20]);
    assert_eq!(starts(&[0]), [0, 1, 20]);
    assert_eq!(starts(&[4]), [4, 20]);
}

#[test]
fn what_never_comes_back_does_not_lead_into_what_follows() {
    // 0: push %rbx; test %edi,%edi; je 16; call 40 (in other code, never comes back); then the gap ends
    // 16: pop %rbx; ret
    let mut code = vec![0xcc; 48];
    code[..10].copy_from_slice(b"\x53\x85\xff\x74\x0b\xe8\x1e\x00\x00\x00");
    code[16..18].copy_from_slice(b"\x5b\xc3");
    let elf = file(&code);
    let view = View::new(&elf, &[0..10, 16..18], &[], &[]);
    let function = analyze(&view, super::named_at(0), &mut 1000).unwrap();
    let rows: Vec<_> = function
        .rows
        .iter()
        .map(|(range, rule)| (range.clone(), rule.unwrap()))
        .collect();
    assert_eq!(
        rows,
        [(0..1, sp(8)), (1..10, sp(16)), (16..17, sp(16)), (17..18, sp(8))]
    );
}

#[test]
fn padding_is_no_gap() {
    let code = [0xc3, 0x90, 0x90, 0xc3, 0xcc, 0xc3, 0xc3, 0x66, 0x90];
    assert_eq!(gaps(&file(&code), &[0..1, 3..4]), [4..9]);
}

/// Instructions that move the stack about, and any others.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known: &[&[u8]] = &[
        b"\x55",
        b"\x5d",
        b"\x53",
        b"\x5b",
        b"\xc9",
        b"\xc3",
        b"\x48\x89\xe5",
        b"\x48\x89\xec",
        b"\x48\x83\xec\x18",
        b"\x48\x83\xc4\x18",
        b"\x48\x83\xe4\xf0",
        b"\x48\x89\x6c\x24\x08",
        b"\x48\x8b\x6c\x24\x08",
        b"\x74\x03",
        b"\xeb\xf0",
        b"\xe8\x02\x00\x00\x00",
        b"\xff\xe0",
        b"\x48\x8d\x64\x24\xf8",
        b"\x9c",
        b"\x9d",
        b"\x0f\x05",
    ];
    prop_oneof![
        3 => prop::sample::select(known).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 1..8),
    ]
}

proptest! {
    #[test]
    fn no_code_panics_nor_takes_for_ever(
        pieces in prop::collection::vec(piece(), 0..120),
        covered in prop::collection::vec((0u32..400, 1u32..40), 0..4),
    ) {
        let code = pieces.concat();
        let mut covered: Vec<_> = covered.into_iter().map(|(start, len)| start..start + len).collect();
        covered.sort_by_key(|range| range.start);
        let decoded = decode(&file(&code), &covered);
        for (range, _) in &decoded.rows {
            prop_assert!(range.start < range.end && range.end as usize <= code.len());
        }
        prop_assert!(decoded.rows.windows(2).all(|pair| pair[0].0.end <= pair[1].0.start));

        let elf = file(&code);
        let open = [0..code.len() as u32];
        let view = View::new(&elf, &open, &[], &[]);
        let mut budget = 50;
        let _ = analyze(&view, super::named_at(0), &mut budget);
    }
}

#[test]
fn behind_a_call_of_what_never_comes_back_other_code_begins() {
    // 0: push %rbx; call 16; 6: ret (another's); 16: hlt
    let mut code = b"\x53\xe8\x0a\x00\x00\x00\xc3".to_vec();
    code.resize(16, 0x90);
    code.push(0xf4);
    let expected = [(0, Some(sp(8))), (1, Some(sp(16)))];
    assert_eq!(rules_of(&code, super::called_at(0)).unwrap(), expected);
    assert_eq!(rules(&code), Err(Refusal::NoReturn), "nobody is known to call it");
    // 16: ret
    code[16] = 0xc3;
    assert_eq!(rules_of(&code, super::called_at(0)), Err(Refusal::NotRestored));
}

#[test]
fn a_switch_leads_where_its_table_says() {
    // push %rbx; cmp $1,%edi; ja 30; mov %edi,%edi; lea 32(%rip),%rdx; movslq (%rdx,%rdi,4),%rax; add %rdx,%rax;
    // jmp *%rax; 24: pop %rbx; ret; 26: xor %eax,%eax; pop %rbx; ret; 30: pop %rbx; ret; 32: -8, -6, and something else
    let code = b"\x53\x83\xff\x01\x77\x18\x89\xff\x48\x8d\x15\x11\x00\x00\x00\x48\x63\x04\xba\x48\x01\xd0\
        \xff\xe0\x5b\xc3\x31\xc0\x5b\xc3\x5b\xc3\xf8\xff\xff\xff\xfa\xff\xff\xff\x00\x00\x00\x7f";
    let rules_found = rules(code).unwrap();
    for (at, expected) in [(1, 16), (25, 8), (26, 16), (29, 8), (30, 16), (31, 8)] {
        let (_, rule) = rules_found.iter().rev().find(|(from, _)| *from <= at).unwrap();
        assert_eq!(*rule, Some(sp(expected)), "{at}");
    }
    // cmp $2: the third leads nowhere.
    let mut more = code.to_vec();
    more[3] = 2;
    assert_eq!(rules(&more), Err(Refusal::UnknownJump));
    // Where it is not known how many there are, as many are taken as lead into the code.
    more[1..6].copy_from_slice(b"\x0f\x1f\x44\x00\x00");
    assert!(rules(&more).is_ok());
}

#[test]
fn a_system_call_comes_back_unless_it_makes_a_thread() {
    // sub $8,%rsp; mov $NUMBER,%eax; syscall; call (into another file); add $8,%rsp; ret
    let code = |number: u8| {
        let mut code = b"\x48\x83\xec\x08\xb8".to_vec();
        code.extend([number, 0, 0, 0]);
        code.extend(b"\x0f\x05\xe8\x00\x10\x00\x00\x48\x83\xc4\x08\xc3");
        code
    };
    assert!(rules(&code(202)).is_ok());
    assert_eq!(rules(&code(56)), Err(Refusal::UnknownJump));
    // What an argument says: mov %rdi,%rax; and what nobody knows: mov (%rbx),%rax.
    let with = |instruction: &[u8; 5]| {
        let mut code = code(0);
        code[4..9].copy_from_slice(instruction);
        rules(&code)
    };
    assert!(with(b"\x48\x89\xf8\x66\x90").is_ok());
    assert_eq!(with(b"\x48\x8b\x03\x66\x90"), Err(Refusal::UnknownJump));
}

#[test]
fn a_buffer_that_is_cleared_is_as_long_as_the_counter_says() {
    // push %rbp; sub $64,%rsp; mov $COUNT,%ecx; mov %rsp,%rdi; rep stos %rax; add $64,%rsp; pop %rbp; ret
    let code = |count: u8| {
        let mut code = b"\x55\x48\x83\xec\x40\xb9".to_vec();
        code.extend([count, 0, 0, 0]);
        code.extend(b"\x48\x89\xe7\xf3\x48\xab\x48\x83\xc4\x40\x5d\xc3");
        code
    };
    assert!(rules(&code(8)).is_ok());
    assert_eq!(rules(&code(9)), Err(Refusal::NotRestored), "it clears what was saved");
}

#[test]
fn stacks_end_where_musl_has_a_thread_begin() {
    // test %eax,%eax; jne 19; xor %ebp,%ebp; pop %rdi; call *%r9; mov %eax,%edi; …; hlt; ret
    let code = b"\x85\xc0\x75\x0f\x31\xed\x5f\x41\xff\xd1\x89\xc7\x31\xc0\xb0\x3c\x0f\x05\xf4\xc3";
    let rows = decode(&file(code), &[]).rows;
    assert_eq!(rows, [(0..4, sp(8)), (4..19, rule::END), (19..20, sp(8))]);
}
