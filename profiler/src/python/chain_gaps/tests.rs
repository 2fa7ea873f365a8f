use iced_x86::DecoderOptions;

use super::super::fake_elf::FakeElf;
use super::super::layout::Layout;
use super::super::version::Version;
use super::*;

const FUNCTION: u64 = 0x1000;
const RAX: u8 = 10;
const RBX: u8 = 5;
const RDX: u8 = 12;
const STACK: u8 = 19;
const FRAMELESS: u8 = GAP_FRAMELESS | GAP_IN_CHAIN;

fn layout(version: &str) -> PythonProcess {
    let version = Version::parse(version).unwrap();
    match Layout::of_series(version) {
        Some(layout) => layout.process,
        // 3.14, as far as it matters here.
        None => PythonProcess {
            thread_frame: 0x48,
            frame_previous: 8,
            frame_owner: 0x4a,
            ..PythonProcess::default()
        },
    }
}

fn gaps_of(code: &[u8], version: &str, tail_calls: bool) -> Vec<ChainGap> {
    let elf = FakeElf::default().section(".text", FUNCTION, code).build();
    let piece = FUNCTION..FUNCTION + code.len() as u64;
    let code = EvalCode {
        function: Symbol {
            address: FUNCTION,
            size: 1,
        },
        pieces: std::slice::from_ref(&piece),
        tail_calls,
    };
    find(&Image::parse(&elf).unwrap(), &code, &layout(version))
}

fn gap(range: Range<i32>, place: u8, offset: i16) -> ChainGap {
    ChainGap {
        start: range.start,
        bytes: (range.end - range.start) as u8,
        place,
        offset,
    }
}

/// 3.11: the caller's `_PyCFrame` is in `%rax` until `xor`, its frame in `%rdx` from the load on; the slot is written
/// with its neighbour from a vector register.
const IN_REGISTERS: &[u8] = b"\
    \x53\
    \x48\x83\xec\x40\
    \x48\x8b\x47\x38\
    \x48\x8d\x4c\x24\x10\
    \x66\x48\x0f\x6e\xc6\
    \x48\x89\x4f\x38\
    \x48\x8b\x50\x08\
    \x66\x48\x0f\x6e\xc8\
    \x31\xc0\
    \xc6\x46\x44\x01\
    \x48\x89\x56\x30\
    \x66\x0f\x6c\xc1\
    \x0f\x11\x44\x24\x18\
    \x0f\x0b";
// push %rbx; sub $0x40,%rsp; mov 0x38(%rdi),%rax; lea 0x10(%rsp),%rcx; movq %rsi,%xmm0; mov %rcx,0x38(%rdi);
// mov 8(%rax),%rdx; movq %rax,%xmm1; xor %eax,%eax; movb $1,0x44(%rsi); mov %rdx,0x30(%rsi);
// punpcklqdq %xmm1,%xmm0; movups %xmm0,0x18(%rsp); ud2

#[test]
fn the_caller_is_found_in_registers_until_all_is_in_place() {
    let expected = [
        gap(0..0x17, FRAMELESS, 0),
        gap(0x17..0x22, GAP_FRAMELESS | GAP_READ | RAX, 8),
        gap(0x22..0x33, GAP_FRAMELESS | RDX, 0),
    ];
    assert_eq!(gaps_of(IN_REGISTERS, "3.11.7", false), expected);
}

#[test]
fn up_to_3_10_and_in_another_layout_there_is_no_gap() {
    assert_eq!(gaps_of(IN_REGISTERS, "3.10.13", false), []);
    assert_eq!(gaps_of(IN_REGISTERS, "3.12.1", false), []);
}

#[test]
fn whoever_jumps_into_a_gap_has_other_registers() {
    // … ud2; jmp (the `xor`)
    let jumped_into = [IN_REGISTERS, b"\xeb\xe9"].concat();
    assert_eq!(gaps_of(&jumped_into, "3.11.7", false), [gap(0..0x17, FRAMELESS, 0)]);
}

#[test]
fn the_caller_is_found_on_the_stack_by_functions_with_a_frame_pointer_too() {
    // push %rbp; mov %rsp,%rbp; sub $0x80,%rsp; test %rdi,%rdi; je (out); mov %rdi,%r12; mov 0x38(%r12),%rax;
    // lea -0x30(%rbp),%rcx; mov %rax,-0x28(%rbp); mov %rcx,0x38(%r12); mov (%rax),%rax; mov %rax,-0x78(%rbp);
    // mov $1,%eax; movb $3,-0x3a(%rbp); lea -0x80(%rbp),%rcx; mov %rcx,8(%rsi); mov %rsi,-0x30(%rbp); ud2
    let code = b"\x55\x48\x89\xe5\x48\x81\xec\x80\0\0\0\x48\x85\xff\x74\x31\x49\x89\xfc\x49\x8b\x44\x24\x38\
        \x48\x8d\x4d\xd0\x48\x89\x45\xd8\x49\x89\x4c\x24\x38\x48\x8b\x00\x48\x89\x45\x88\xb8\x01\0\0\0\
        \xc6\x45\xc6\x03\x48\x8d\x4d\x80\x48\x89\x4e\x08\x48\x89\x75\xd0\x0f\x0b";
    let on_stack = GAP_FRAMELESS | GAP_READ | GAP_READ_CFRAME | STACK;
    let expected = [gap(0..0x25, FRAMELESS, 0), gap(0x25..0x41, on_stack, 0x58)];
    assert_eq!(gaps_of(code, "3.12.1", false), expected);
}

#[test]
fn what_is_found_nowhere_is_said_to_be_nowhere() {
    // sub $0x40,%rsp; mov 0x38(%rdi),%rax; lea 0x10(%rsp),%rcx; mov %rcx,0x38(%rdi); movb $1,0x44(%rsi);
    // mov 8(%rax),%rax; mov %rax,0x30(%rsi); xor %eax,%eax; mov %rsi,0x18(%rsp); ud2
    let code = b"\x48\x83\xec\x40\x48\x8b\x47\x38\x48\x8d\x4c\x24\x10\x48\x89\x4f\x38\xc6\x46\x44\x01\
        \x48\x8b\x40\x08\x48\x89\x46\x30\x31\xc0\x48\x89\x74\x24\x18\x0f\x0b";
    let expected = [
        gap(0..0x11, FRAMELESS, 0),
        gap(0x11..0x19, GAP_FRAMELESS | GAP_READ | RAX, 8),
        gap(0x19..0x1f, GAP_FRAMELESS | RAX, 0),
        gap(0x1f..0x24, GAP_FRAMELESS | GAP_NOWHERE, 0),
    ];
    assert_eq!(gaps_of(code, "3.11.7", false), expected);
}

#[test]
fn a_branch_while_the_chain_is_in_pieces_is_not_understood() {
    // sub $0x40,%rsp; mov 0x38(%rdi),%rax; lea 0x10(%rsp),%rcx; mov %rcx,0x38(%rdi); movb $1,0x44(%rsi);
    // test %edx,%edx; jne (out); mov 8(%rax),%rax; mov %rax,0x30(%rsi); mov %rsi,0x18(%rsp); ud2
    let code = b"\x48\x83\xec\x40\x48\x8b\x47\x38\x48\x8d\x4c\x24\x10\x48\x89\x4f\x38\xc6\x46\x44\x01\x85\xd2\
        \x75\x0d\x48\x8b\x40\x08\x48\x89\x46\x30\x48\x89\x74\x24\x18\x0f\x0b";
    assert_eq!(gaps_of(code, "3.11.7", false), []);
}

/// 3.14: checks the C stack first, and may return at once. Later it leaves the chain, clears something, and returns.
// push %rbp; push %rbx; sub $0x78,%rsp; mov %rdi,%rbp; mov %rsi,%rbx; cmp %rax,%rsp; jae 1f; call 2f; test %eax,%eax;
// je 1f; xor %eax,%eax; jmp 3f; 1: mov 0x48(%rbp),%rax; movl $0x30000,0x48(%rsp); mov %rax,8(%rsp); mov %rsp,8(%rbx);
// mov %rbx,0x48(%rbp); 2: ud2; mov 8(%rbx),%rdx; mov %rdx,0x48(%rbp); test %al,%al; je 3f; mov %rdx,0x110(%rbp);
// call 2b; 3: add $0x78,%rsp; pop %rbx; pop %rbp; ret
const WITH_CALLS: &[u8] = b"\x55\x53\x48\x83\xec\x78\x48\x89\xfd\x48\x89\xf3\x48\x39\xc4\x73\x0d\xe8\x21\0\0\0\x85\xc0\
    \x74\x04\x31\xc0\xeb\x33\x48\x8b\x45\x48\xc7\x44\x24\x48\0\0\x03\0\x48\x89\x44\x24\x08\x48\x89\x63\x08\x48\x89\x5d\x48\
    \x0f\x0b\x48\x8b\x53\x08\x48\x89\x55\x48\x84\xc0\x74\x0c\x48\x89\x95\x10\x01\0\0\xe8\xe6\xff\xff\xff\
    \x48\x83\xc4\x78\x5b\x5d\xc3";

#[test]
fn a_loop_is_out_of_the_chain_where_all_ways_lead_out_of_it() {
    let expected = [
        gap(0..0x37, FRAMELESS, 0),
        gap(0x41..0x58, FRAMELESS, 0),
        gap(0x1a..0x1e, FRAMELESS, 0),
    ];
    assert_eq!(gaps_of(WITH_CALLS, "3.14.10", false), expected);
    // What the entry of a tail-calling loop calls may be the rest of the loop.
    let expected = [
        gap(0..0x37, FRAMELESS, 0),
        gap(0x51..0x58, FRAMELESS, 0),
        gap(0x1a..0x1e, FRAMELESS, 0),
    ];
    assert_eq!(gaps_of(WITH_CALLS, "3.14.10", true), expected);
}

#[test]
fn a_frame_that_does_not_lead_to_its_caller_yet_is_passed_over() {
    // mov %rdx,0x18(%rsp); mov %eax,0x40(%rbx); mov 8(%rsp),%rax; mov %rbx,0x30(%rdx); ud2
    // mov %rdx,0x18(%rsp); mov %rax,%rbx; mov %rbx,0x30(%rdx); ud2
    // mov %rdx,0x18(%rsp); jmp 1f; mov %rbx,0x30(%rdx); 1: ud2
    let code = b"\x48\x89\x54\x24\x18\x89\x43\x40\x48\x8b\x44\x24\x08\x48\x89\x5a\x30\x0f\x0b\
        \x48\x89\x54\x24\x18\x48\x89\xc3\x48\x89\x5a\x30\x0f\x0b\
        \x48\x89\x54\x24\x18\xeb\x04\x48\x89\x5a\x30\x0f\x0b";
    let entry = Entry {
        set: 0,
        whole: 0,
        gaps: Vec::new(),
        slots: vec![(Register::RSP, 0x18)],
    };
    let decoder = || Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    assert_eq!(half_linked(decoder(), &entry, &layout("3.11.7")), [(5..0x11, RBX)]);
    // The same of a generator, by its own address: lea 0x48(%r12),%rdx; mov %rdx,0x18(%rsp); mov %rbx,0x78(%r12); ud2;
    // and if %r12 changes: lea 0x48(%r12),%rdx; mov %rdx,0x18(%rsp); xor %r12d,%r12d; mov %rbx,0x78(%r12); ud2
    let generators = b"\x49\x8d\x54\x24\x48\x48\x89\x54\x24\x18\x49\x89\x5c\x24\x78\x0f\x0b\
        \x49\x8d\x54\x24\x48\x48\x89\x54\x24\x18\x45\x31\xe4\x49\x89\x5c\x24\x78\x0f\x0b";
    let by_address = Decoder::with_ip(64, generators, 0, DecoderOptions::NONE);
    assert_eq!(half_linked(by_address, &entry, &layout("3.11.7")), [(10..15, RBX)]);
    // One that yields: mov 0x30(%rbp),%rbx; movq $0,0x30(%rbp); mov %rbx,0x18(%rsp); ud2;
    // and if that is another: movq $0,0x30(%rbp); mov %rax,%rbx; mov %rbx,0x18(%rsp); ud2
    let yields = b"\x48\x8b\x5d\x30\x48\xc7\x45\x30\0\0\0\0\x48\x89\x5c\x24\x18\x0f\x0b\
        \x48\xc7\x45\x30\0\0\0\0\x48\x89\xc3\x48\x89\x5c\x24\x18\x0f\x0b";
    let back = Decoder::with_ip(64, yields, 0, DecoderOptions::NONE);
    assert_eq!(half_linked(back, &entry, &layout("3.11.7")), [(12..17, RBX)]);
    let elsewhere = Entry {
        slots: vec![(Register::RSP, 0x20)],
        ..entry
    };
    assert_eq!(half_linked(decoder(), &elsewhere, &layout("3.11.7")), []);
}

proptest::proptest! {
    #[test]
    fn no_code_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..200)) {
        for version in ["3.11.7", "3.12.1", "3.14.10"] {
            let _ = gaps_of(&bytes, version, false);
        }
    }

    #[test]
    fn no_change_panics(
        which in 0..2,
        changes in proptest::collection::vec((0..88_usize, proptest::prelude::any::<u8>()), 1..4),
    ) {
        let mut code = if which == 0 { IN_REGISTERS } else { WITH_CALLS }.to_vec();
        for (at, byte) in changes {
            let len = code.len();
            code[at % len] = byte;
        }
        for version in ["3.11.7", "3.12.1", "3.14.10"] {
            for gap in gaps_of(&code, version, false) {
                proptest::prop_assert!(gap.start >= 0 && (gap.start as usize) + usize::from(gap.bytes) <= code.len());
            }
        }
    }
}
