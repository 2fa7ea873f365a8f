//! Stacks and tables made up, in memory that is an array.

use std::{cell::Cell, ops::Range};

use profiler_common::{
    record::StackKey,
    unwind::{CFA_UNSUPPORTED, FILE_NOT_READY, FP_SAME, RA_AT_CFA, RULE_NONE, RULE_UNSUPPORTED, row},
};
use proptest::prelude::*;

use super::*;
use crate::{memory::fake::Memory, scratch};

const STACK: u64 = 0x7ff0_0000_0000;
const STACK_BYTES: usize = 64 << 10;
/// The code of a test that needs one place only.
const CODE: u64 = 0x5555_0000_0000;
/// A caller that has none itself.
const ROOT: u64 = 0x5556_0000_0000;

const END: UnwindRule = rule(CFA_END, 0);

const fn rule(cfa: u8, cfa_offset: i32) -> UnwindRule {
    UnwindRule {
        cfa,
        fp: FP_SAME,
        ra: RA_AT_CFA,
        register: 0,
        cfa_offset,
        cfa_extra: 0,
        fp_offset: 0,
    }
}

#[derive(Debug)]
struct Tables {
    mappings: Vec<UnwindMapping>,
    files: Vec<UnwindFile>,
    pages: Vec<UnwindPage>,
    /// Each of SHARD_ROWS.
    shards: Vec<Vec<u32>>,
    /// Rows used of the last shard.
    used: usize,
    rules: Vec<UnwindRule>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            mappings: Vec::new(),
            files: Vec::new(),
            pages: Vec::new(),
            shards: vec![vec![0; SHARD_ROWS]],
            used: 0,
            rules: vec![rule(CFA_NONE, 0), rule(CFA_UNSUPPORTED, 0)],
        }
    }
}

impl UnwindTables for Tables {
    fn mapping(&self, index: u32) -> Option<&UnwindMapping> {
        self.mappings.get(index as usize)
    }

    fn file(&self, index: u32) -> Option<&UnwindFile> {
        self.files.get(index as usize)
    }

    fn page(&self, index: u32) -> Option<&UnwindPage> {
        self.pages.get(index as usize)
    }

    fn shard(&self, index: u32) -> Option<*const u32> {
        self.shards.get(index as usize).map(|rows| rows.as_ptr())
    }

    fn rule(&self, index: u32) -> Option<&UnwindRule> {
        self.rules.get(index as usize)
    }
}

impl Tables {
    fn add_rule(&mut self, rule: UnwindRule) -> u16 {
        self.rules.push(rule);
        (self.rules.len() - 1) as u16
    }

    /// A file whose pages, from `base` on, have these rows.
    fn add_file(&mut self, base: u64, pages: &[Vec<u32>]) -> u32 {
        let first_page = self.pages.len() as u32;
        for rows in pages {
            if self.used + rows.len() > SHARD_ROWS {
                self.shards.push(vec![0; SHARD_ROWS]);
                self.used = 0;
            }
            let shard = self.shards.len() - 1;
            self.shards[shard][self.used..self.used + rows.len()].copy_from_slice(rows);
            self.pages.push(UnwindPage {
                first: (shard * SHARD_ROWS + self.used) as u32,
                rows: rows.len() as u32,
            });
            self.used += rows.len();
        }
        self.files.push(UnwindFile {
            base,
            first_page,
            pages: pages.len() as u32,
            state: FILE_TABLE,
            reserved: 0,
        });
        (self.files.len() - 1) as u32
    }

    fn add_state(&mut self, state: u32) -> u32 {
        self.files.push(UnwindFile {
            state,
            ..UnwindFile::default()
        });
        (self.files.len() - 1) as u32
    }

    /// Mappings must be added in order of address. The file is mapped from its address 0 on.
    fn map(&mut self, addresses: Range<u64>, file: u32) {
        self.mappings.push(UnwindMapping {
            start: addresses.start,
            end: addresses.end,
            to_file: addresses.start.wrapping_neg(),
            file,
            reserved: 0,
        });
    }

    /// Code with one rule everywhere.
    fn map_code(&mut self, addresses: Range<u64>, rule: UnwindRule) {
        let rule = self.add_rule(rule);
        let pages = (addresses.end - addresses.start).div_ceil(1 << PAGE_BITS) as usize;
        let file = self.add_file(0, &vec![vec![row(0, rule)]; pages]);
        self.map(addresses, file);
    }
}

/// A thread and what is known of its process.
struct Thread {
    memory: Memory,
    tables: Tables,
    scratch: Box<Scratch>,
}

impl Thread {
    /// At `CODE + 0x10`, with the stack pointer a page above the stack's lower end.
    fn new(tables: Tables) -> Self {
        let mut memory = Memory::default();
        memory.map(STACK, STACK_BYTES);
        let mut scratch = scratch::zeroed();
        scratch.unwind.process.mappings = tables.mappings.len() as u32;
        let mut thread = Self {
            memory,
            tables,
            scratch,
        };
        thread.set(REGISTER_PC, CODE + 0x10);
        thread.set(REGISTER_SP, SP);
        thread
    }

    /// Which finds `rule` where it is, and called by [`ROOT`].
    fn with(rule: UnwindRule) -> Self {
        let mut tables = Tables::default();
        tables.map_code(CODE..CODE + 0x1000, rule);
        tables.map_code(ROOT..ROOT + 0x1000, END);
        Self::new(tables)
    }

    fn set(&mut self, register: usize, value: u64) {
        self.scratch.unwind.registers[register] = value;
    }

    fn put(&mut self, address: u64, word: u64) {
        self.memory.put_u64(address, word);
    }

    fn start(&mut self) {
        start(&mut self.scratch);
    }

    fn step(&mut self) -> bool {
        step(&self.memory, &self.tables, &mut self.scratch)
    }

    /// The whole stack: its addresses, and why it ends.
    fn unwind(&mut self) -> (Vec<u64>, u32) {
        self.start();
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps <= MAX_NATIVE_ADDRESSES, "it goes on for ever");
        }
        (self.addresses(), self.status())
    }

    fn addresses(&self) -> Vec<u64> {
        let record = &self.scratch.record;
        let first = record.kernel_len as usize;
        record.words[first..first + record.native_len as usize].to_vec()
    }

    fn status(&self) -> u32 {
        self.scratch.record.native_status
    }

    /// The caller's pc, sp and fp, or why there is none.
    fn caller(&mut self) -> Result<(u64, u64, u64), u32> {
        self.start();
        match self.step() {
            true => {
                let unwind = &self.scratch.unwind;
                Ok((unwind.pc, unwind.sp, unwind.fp))
            }
            false => Err(self.status()),
        }
    }
}

const SP: u64 = STACK + 0x1000;
const FP: u64 = STACK + 0x2000;
const RETURN: u64 = ROOT + 0x123;

#[test]
fn the_frame_follows_the_stack_pointer_or_the_frame_pointer() {
    let mut thread = Thread::with(rule(CFA_SP, 0x28));
    thread.put(SP + 0x20, RETURN);
    thread.set(REGISTER_FP, 7);
    assert_eq!(thread.caller(), Ok((RETURN, SP + 0x28, 7)));

    let mut thread = Thread::with(rule(CFA_FP, 16));
    thread.set(REGISTER_FP, FP);
    thread.put(FP + 8, RETURN);
    assert_eq!(thread.caller(), Ok((RETURN, FP + 16, FP)));

    // Below the frame pointer, too.
    let mut thread = Thread::with(rule(CFA_FP, -16));
    thread.set(REGISTER_FP, FP);
    thread.put(FP - 24, RETURN);
    assert_eq!(thread.caller(), Ok((RETURN, FP - 16, FP)));
}

#[test]
fn a_realigned_stack_is_followed_through_the_saved_pointer() {
    let (kept, frame) = (STACK + 0x1800, STACK + 0x3008);
    for (cfa, register, from) in [(CFA_DEREF_SP, REGISTER_SP, SP), (CFA_DEREF_FP, REGISTER_FP, kept)] {
        let mut thread = Thread::with(UnwindRule {
            cfa_extra: -8,
            ..rule(cfa, -8)
        });
        thread.set(register, from);
        thread.put(from - 8, frame);
        thread.put(frame - 16, RETURN);
        let fp = thread.scratch.unwind.registers[REGISTER_FP];
        assert_eq!(thread.caller(), Ok((RETURN, frame - 8, fp)));
    }
}

#[test]
fn any_register_is_known_at_the_leaf_and_none_of_them_above() {
    const REGISTER_R10: usize = 7;
    let by_register = UnwindRule {
        register: REGISTER_R10 as u8,
        ..rule(CFA_REGISTER, 8)
    };
    let mut thread = Thread::with(by_register);
    thread.set(REGISTER_R10, FP);
    thread.put(FP, RETURN);
    assert_eq!(thread.caller(), Ok((RETURN, FP + 8, 0)));

    // The same code calls itself: its caller's register is anybody's guess.
    thread.put(FP, CODE + 0x20);
    let (addresses, status) = thread.unwind();
    assert_eq!((addresses.len(), status), (2, NATIVE_REGISTER_LOST));
}

#[test]
fn a_return_address_in_a_register_is_known_at_the_leaf_and_not_above() {
    const REGISTER_DI: usize = 14;
    let in_register = UnwindRule {
        ra: RA_IN_REGISTER + REGISTER_DI as u8,
        ..rule(CFA_SP, 8)
    };
    let mut thread = Thread::with(in_register);
    thread.set(REGISTER_DI, RETURN);
    assert_eq!(thread.caller(), Ok((RETURN, SP + 8, 0)));
    thread.set(REGISTER_DI, CODE + 0x20);
    let (addresses, status) = thread.unwind();
    assert_eq!((addresses.len(), status), (2, NATIVE_REGISTER_LOST));
}

#[test]
fn a_stub_has_pushed_a_word_from_its_second_instruction_on() {
    let stub = UnwindRule {
        cfa_extra: 11,
        ..rule(CFA_PLT, 8)
    };
    for (low, frame) in [
        (0x20, SP + 8),
        (0x2a, SP + 8),
        (0x2b, SP + 16),
        (0x2f, SP + 16),
        (0x30, SP + 8),
    ] {
        let mut thread = Thread::with(stub);
        thread.set(REGISTER_PC, CODE + low);
        thread.put(SP, RETURN);
        thread.put(SP + 8, RETURN);
        assert_eq!(thread.caller(), Ok((RETURN, frame, 0)), "{low:#x}");
    }
}

#[test]
fn the_callers_frame_pointer_is_kept_or_found_where_it_was_saved() {
    let with = |fp, fp_offset| UnwindRule {
        fp,
        fp_offset,
        ..rule(CFA_SP, 16)
    };
    let caller_fp = |rule| {
        let mut thread = Thread::with(rule);
        thread.set(REGISTER_FP, FP);
        thread.put(SP + 8, RETURN);
        thread.put(SP, 0xaaaa);
        thread.put(FP - 8, 0xbbbb);
        let caller = thread.caller().expect("a caller");
        (caller.2, thread.scratch.unwind.fp_lost)
    };
    assert_eq!(caller_fp(with(FP_SAME, 0)), (FP, 0));
    assert_eq!(caller_fp(with(FP_AT_CFA, -16)), (0xaaaa, 0));
    assert_eq!(caller_fp(with(FP_AT_FP, -8)), (0xbbbb, 0));
    assert_eq!(caller_fp(with(FP_LOST, 0)).1, 1);
}

/// Three functions on top of each other, the frame pointer of which the first loses.
fn after_losing(second: UnwindRule, third: UnwindRule) -> (usize, u32) {
    let mut tables = Tables::default();
    let at = |index: u64| CODE + index * 0x1_0000;
    let rules = [
        UnwindRule {
            fp: FP_LOST,
            ..rule(CFA_SP, 8)
        },
        second,
        third,
        END,
    ];
    for (index, rule) in (0..).zip(rules) {
        tables.map_code(at(index)..at(index) + 0x1000, rule);
    }
    let mut thread = Thread::new(tables);
    thread.set(REGISTER_FP, FP);
    thread.put(SP, at(1) + 0x10);
    thread.put(SP + 8, FP + 0x100);
    thread.put(SP + 16, at(2) + 0x10);
    thread.put(SP + 24, at(3) + 0x10);
    thread.put(FP + 0x108, at(3) + 0x10);
    let (addresses, status) = thread.unwind();
    (addresses.len(), status)
}

#[test]
fn a_lost_frame_pointer_matters_only_to_who_needs_it_before_it_is_restored() {
    let plain = rule(CFA_SP, 16);
    assert_eq!(after_losing(plain, rule(CFA_SP, 8)), (4, NATIVE_COMPLETE));
    assert_eq!(after_losing(plain, rule(CFA_FP, 16)), (3, NATIVE_REGISTER_LOST));
    assert_eq!(after_losing(plain, rule(CFA_DEREF_FP, 16)), (3, NATIVE_REGISTER_LOST));
    let saved_at_fp = UnwindRule {
        fp: FP_AT_FP,
        ..rule(CFA_SP, 8)
    };
    assert_eq!(after_losing(plain, saved_at_fp), (3, NATIVE_REGISTER_LOST));
    let restores = UnwindRule {
        fp: FP_AT_CFA,
        fp_offset: -16,
        ..plain
    };
    assert_eq!(after_losing(restores, rule(CFA_FP, 16)), (4, NATIVE_COMPLETE));
}

/// A handler whose trampoline is at [`CODE`], and what it interrupted at [`ROOT`]` + 0x10`.
fn interrupted(rule_at_interrupted: UnwindRule) -> Thread {
    const HANDLER: u64 = 0x5554_0000_0000;
    let mut tables = Tables::default();
    tables.map_code(HANDLER..HANDLER + 0x1000, rule(CFA_SP, 8));
    // Its rule begins a byte early, in what is another function's code.
    let trampoline = tables.add_rule(rule(CFA_SIGNAL, 0));
    let file = tables.add_file(
        0,
        &[vec![row(0, RULE_NONE), row(0xf, trampoline), row(0x20, RULE_NONE)]],
    );
    tables.map(CODE..CODE + 0x1000, file);
    tables.map_code(ROOT..ROOT + 0x1000, rule_at_interrupted);
    let mut thread = Thread::new(tables);
    thread.set(REGISTER_PC, HANDLER + 5);
    thread.put(SP, CODE + 0x10);
    let ucontext = SP + 8;
    thread.put(ucontext + UCONTEXT_PC, ROOT + 0x10);
    // Another stack, further down.
    thread.put(ucontext + UCONTEXT_SP, SP - 0x800);
    thread.put(ucontext + UCONTEXT_FP, FP);
    thread
}

#[test]
fn a_signal_leads_back_to_the_very_instruction_it_interrupted_on_whatever_stack() {
    let mut thread = interrupted(END);
    let (addresses, status) = thread.unwind();
    assert_eq!(addresses, [0x5554_0000_0005, CODE + 0x10, ROOT + 0x10]);
    assert_eq!(status, NATIVE_COMPLETE);
    let unwind = &thread.scratch.unwind;
    assert_eq!(
        (unwind.sp, unwind.fp, unwind.exact, unwind.leaf),
        (SP - 0x800, FP, 1, 0)
    );
}

#[test]
fn what_a_signal_interrupted_in_its_first_instruction_is_not_the_function_before() {
    let mut thread = interrupted(rule(CFA_SP, 8));
    thread.put(SP + 8 + UCONTEXT_PC, ROOT);
    let (addresses, _) = thread.unwind();
    assert_eq!(addresses[2], ROOT);
}

#[test]
fn registers_other_than_the_pointers_are_not_known_below_a_signal() {
    let mut thread = interrupted(rule(CFA_REGISTER, 8));
    assert_eq!(thread.unwind().1, NATIVE_REGISTER_LOST);
}

#[test]
fn a_thread_in_the_trampoline_itself_is_recorded_where_it_is() {
    for at in [0x10, 0x18] {
        let mut thread = interrupted(END);
        thread.set(REGISTER_PC, CODE + at);
        thread.set(REGISTER_SP, SP + 8);
        let (addresses, status) = thread.unwind();
        assert_eq!((addresses, status), (vec![CODE + at, ROOT + 0x10], NATIVE_COMPLETE));
    }
}

#[test]
fn a_ucontext_that_cannot_be_read_ends_the_stack() {
    let mut thread = interrupted(END);
    thread.set(REGISTER_PC, CODE + 0x10);
    thread.set(REGISTER_SP, STACK + STACK_BYTES as u64 - UCONTEXT_PC);
    assert_eq!(thread.unwind().1, NATIVE_UNREADABLE);
}

/// Code that keeps frame pointers, at [`CODE`].
fn frame_pointers(tables: &mut Tables, file: u32) {
    tables.map(CODE..CODE + 0x1000, file);
    tables.map_code(ROOT..ROOT + 0x1000, END);
}

#[test]
fn code_without_unwind_information_is_followed_by_its_frame_pointers() {
    for of_file in [false, true] {
        let mut tables = Tables::default();
        let file = if of_file {
            tables.add_state(FILE_FRAME_POINTERS)
        } else {
            NO_FILE
        };
        frame_pointers(&mut tables, file);
        let mut thread = Thread::new(tables);
        thread.set(REGISTER_FP, FP);
        thread.put(FP, FP + 0x40);
        thread.put(FP + 8, CODE + 0x20);
        thread.put(FP + 0x40, 77);
        thread.put(FP + 0x48, RETURN);
        let (addresses, status) = thread.unwind();
        assert_eq!(addresses, [CODE + 0x10, CODE + 0x1f, RETURN - 1]);
        assert_eq!(status, NATIVE_COMPLETE);
        assert_eq!((thread.scratch.unwind.sp, thread.scratch.unwind.fp), (FP + 0x50, 77));
    }
}

#[test]
fn a_file_can_say_of_some_of_its_code_that_it_keeps_frame_pointers() {
    let mut thread = Thread::with(rule(CFA_FRAME_POINTER, 0));
    thread.set(REGISTER_FP, FP);
    thread.put(FP, 7);
    thread.put(FP + 8, RETURN);
    assert_eq!(thread.caller(), Ok((RETURN, FP + 16, 7)));
}

/// Generated code at [`CODE`] that called a function at [`ROOT`], and what it does then.
fn in_callee_of_generated(after_the_call: &[u8]) -> Thread {
    let mut tables = Tables::default();
    tables.map(CODE..CODE + 0x1000, NO_FILE);
    tables.map_code(ROOT..ROOT + 0x1000, rule(CFA_SP, 8));
    let mut thread = Thread::new(tables);
    thread.memory.map(CODE, 0x1000);
    thread.memory.put(CODE + 0x20, after_the_call);
    thread.set(REGISTER_PC, ROOT + 0x10);
    thread.set(REGISTER_FP, FP);
    thread.put(SP, CODE + 0x20);
    thread.put(SP + 16, RETURN);
    thread.put(FP, 9);
    thread.put(FP + 8, RETURN + 1);
    thread.start();
    assert!(thread.step());
    thread
}

#[test]
fn generated_code_that_says_what_it_takes_off_the_stack_is_left_by_it() {
    // add $8, %rsp; ret
    let mut thread = in_callee_of_generated(&[0x48, 0x83, 0xc4, 0x08, 0xc3]);
    assert!(thread.step());
    let unwind = &thread.scratch.unwind;
    assert_eq!(
        (unwind.pc, unwind.sp, unwind.fp),
        (RETURN, SP + 24, FP),
        "its caller's frame pointer is kept"
    );
}

#[test]
fn generated_code_that_goes_on_differently_is_left_by_its_frame_pointer() {
    // add $8, %rsp; pop %rbp - sub $8, %rsp; ret - add $8, %rsp (32 bits of it); ret
    for code in [
        [0x48, 0x83, 0xc4, 0x08, 0x5d],
        [0x48, 0x83, 0xec, 0x08, 0xc3],
        [0x48, 0x81, 0xc4, 0x08, 0xc3],
    ] {
        let mut thread = in_callee_of_generated(&code);
        thread.put(SP + 16, RETURN);
        thread.put(FP, 9);
        thread.put(FP + 8, RETURN + 1);
        assert!(thread.step());
        assert_eq!(
            (thread.scratch.unwind.pc, thread.scratch.unwind.fp),
            (RETURN + 1, 9),
            "{code:x?}"
        );
    }
}

#[test]
fn a_frame_pointer_that_is_none_ends_the_stack() {
    let status = |fp: u64| {
        let mut tables = Tables::default();
        frame_pointers(&mut tables, NO_FILE);
        let mut thread = Thread::new(tables);
        thread.set(REGISTER_FP, fp);
        thread.unwind().1
    };
    assert_eq!(status(0), NATIVE_COMPLETE);
    assert_eq!(status(SP - 8), NATIVE_BAD_FRAME_POINTER);
    assert_eq!(status(SP + 4), NATIVE_BAD_FRAME_POINTER, "not aligned");
    assert_eq!(
        status(STACK + STACK_BYTES as u64),
        NATIVE_BAD_FRAME_POINTER,
        "not readable"
    );
    assert_eq!(status(u64::MAX - 7), NATIVE_BAD_FRAME_POINTER);
    assert_eq!(
        status(STACK + STACK_BYTES as u64 - 8),
        NATIVE_UNREADABLE,
        "no return address behind it"
    );
    // At the stack pointer itself, right after `push %rbp`: zero is what the fake stack returns to.
    assert_eq!(status(SP), NATIVE_COMPLETE);
}

#[test]
fn a_frame_pointer_lost_on_the_way_is_not_followed() {
    let mut tables = Tables::default();
    let loses = UnwindRule {
        fp: FP_LOST,
        ..rule(CFA_SP, 8)
    };
    tables.map_code(CODE..CODE + 0x1000, loses);
    tables.map(ROOT..ROOT + 0x1000, NO_FILE);
    let mut thread = Thread::new(tables);
    thread.set(REGISTER_FP, FP);
    thread.put(SP, RETURN);
    assert_eq!(thread.unwind(), (vec![CODE + 0x10, RETURN - 1], NATIVE_REGISTER_LOST));
}

#[test]
fn each_reason_to_end_has_its_status_and_keeps_the_frames_before() {
    let leaf = vec![CODE + 0x10];
    let of_rule = |rule| Thread::with(rule).unwind();
    assert_eq!(of_rule(END), (leaf.clone(), NATIVE_COMPLETE));
    assert_eq!(of_rule(rule(CFA_NONE, 0)), (leaf.clone(), NATIVE_NOT_COVERED));
    assert_eq!(of_rule(rule(CFA_UNSUPPORTED, 0)), (leaf.clone(), NATIVE_UNSUPPORTED));
    assert_eq!(of_rule(rule(77, 0)), (leaf.clone(), NATIVE_UNSUPPORTED));
    assert_eq!(of_rule(rule(CFA_SP, 0)), (leaf.clone(), NATIVE_NOT_ADVANCING));
    assert_eq!(of_rule(rule(CFA_SP, -8)), (leaf.clone(), NATIVE_NOT_ADVANCING));
    // Fresh memory is zero, and zero is where chains end.
    assert_eq!(of_rule(rule(CFA_SP, 8)), (leaf.clone(), NATIVE_COMPLETE));
    assert_eq!(
        of_rule(rule(CFA_SP, 12)),
        (leaf.clone(), NATIVE_UNREADABLE),
        "not aligned"
    );
    assert_eq!(of_rule(rule(CFA_SP, i32::MAX)), (leaf.clone(), NATIVE_UNREADABLE));
    assert_eq!(of_rule(rule(CFA_DEREF_FP, 0)), (leaf.clone(), NATIVE_UNREADABLE));

    let of_file = |file: fn(&mut Tables) -> u32| {
        let mut tables = Tables::default();
        let file = file(&mut tables);
        tables.map(CODE..CODE + 0x1000, file);
        Thread::new(tables).unwind()
    };
    assert_eq!(
        of_file(|tables| tables.add_state(FILE_NOT_READY)),
        (leaf.clone(), NATIVE_TABLE_NOT_READY)
    );
    assert_eq!(
        of_file(|_| 4711),
        (leaf.clone(), NATIVE_NO_ROOM),
        "more files than there are places for"
    );
    assert_eq!(
        of_file(|tables| tables.add_state(FILE_NO_ROOM)),
        (leaf.clone(), NATIVE_NO_ROOM)
    );
    assert_eq!(
        of_file(|tables| tables.add_state(FILE_TABLE)),
        (leaf.clone(), NATIVE_NOT_COVERED),
        "no page"
    );
    let none = |tables: &mut Tables| tables.add_file(0, &[vec![row(0, RULE_NONE)]]);
    assert_eq!(of_file(none), (leaf.clone(), NATIVE_NOT_COVERED));
    let unsupported = |tables: &mut Tables| tables.add_file(0, &[vec![row(0, RULE_UNSUPPORTED)]]);
    assert_eq!(of_file(unsupported), (leaf.clone(), NATIVE_UNSUPPORTED));
    let before_its_base = |tables: &mut Tables| tables.add_file(0x1_0000, &[vec![row(0, RULE_UNSUPPORTED)]]);
    assert_eq!(of_file(before_its_base), (leaf, NATIVE_NOT_COVERED));
}

#[test]
fn the_leaf_is_recorded_wherever_it_is_and_a_caller_only_in_code() {
    let mut thread = Thread::with(rule(CFA_SP, 8));
    thread.set(REGISTER_PC, 0x1234);
    assert_eq!(thread.unwind(), (vec![0x1234], NATIVE_NOT_CODE));

    let mut thread = Thread::with(rule(CFA_SP, 8));
    thread.put(SP, 0x1234);
    assert_eq!(thread.unwind(), (vec![CODE + 0x10], NATIVE_NOT_CODE));
}

#[test]
fn a_call_that_is_a_functions_last_instruction_belongs_to_that_function() {
    let mut thread = Thread::with(rule(CFA_SP, 8));
    // One behind the caller's mapping.
    thread.put(SP, ROOT + 0x1000);
    assert_eq!(thread.unwind(), (vec![CODE + 0x10, ROOT + 0xfff], NATIVE_COMPLETE));
}

#[test]
fn a_leaf_alone_is_recorded_with_its_status() {
    let mut thread = Thread::with(END);
    thread.start();
    leaf(&mut thread.scratch, NATIVE_TABLE_NOT_READY);
    assert_eq!(
        (thread.addresses(), thread.status()),
        (vec![CODE + 0x10], NATIVE_TABLE_NOT_READY)
    );
}

/// Memory that keeps account of its reads.
struct Counted<'a> {
    memory: &'a Memory,
    reads: Cell<u32>,
}

impl ReadMemory for Counted<'_> {
    unsafe fn read(&self, address: u64, into: *mut u8, len: u32) -> bool {
        self.reads.set(self.reads.get() + 1);
        // SAFETY: by the same contract.
        unsafe { self.memory.read(address, into, len) }
    }
}

/// A thread that runs one recursive function; each frame is `words` long.
fn recursive(depth: u64, words: u64, sp: u64) -> Thread {
    let mut thread = Thread::with(rule(CFA_SP, 8 * words as i32));
    thread.set(REGISTER_SP, sp);
    for frame in 1..=depth {
        let back = if frame == depth { RETURN } else { CODE + 0x10 };
        thread.put(sp + 8 * words * frame - 8, back);
    }
    thread
}

#[test]
fn neighbouring_frames_are_read_at_once() {
    // 63 frames of 4 words are 2016 bytes.
    let mut thread = recursive(63, 4, SP);
    let counted = Counted {
        memory: &thread.memory,
        reads: Cell::new(0),
    };
    start(&mut thread.scratch);
    while step(&counted, &thread.tables, &mut thread.scratch) {}
    assert_eq!(
        (thread.scratch.record.native_len, thread.scratch.record.native_status),
        (64, NATIVE_COMPLETE)
    );
    assert_eq!(counted.reads.get(), 1);
}

#[test]
fn every_word_is_found_wherever_the_window_ends() {
    for words in [1, 2, 3, 7, 31, 255, 256, 257, 300] {
        let depth = 20;
        let mut thread = recursive(depth, words, STACK + 8 * 513);
        let (addresses, status) = thread.unwind();
        assert_eq!(
            (addresses.len(), status),
            (depth as usize + 1, NATIVE_COMPLETE),
            "{words} words"
        );
        assert_eq!(addresses.last(), Some(&(RETURN - 1)));
    }
}

#[test]
fn the_last_words_of_a_stack_are_read_though_no_whole_window_is_left() {
    let end = STACK + STACK_BYTES as u64;
    for below in [8, 16, 1024, 2040, 2048, 2056, 4096, 5000 / 8 * 8] {
        let mut thread = Thread::with(rule(CFA_SP, 8));
        thread.set(REGISTER_SP, end - below);
        thread.put(end - below, RETURN);
        assert_eq!(thread.unwind().1, NATIVE_COMPLETE, "{below}");
    }
    let mut thread = Thread::with(rule(CFA_SP, 8));
    thread.set(REGISTER_SP, end);
    assert_eq!(thread.unwind().1, NATIVE_UNREADABLE);
}

#[test]
fn a_window_that_could_not_be_read_is_not_taken_for_the_one_before() {
    let mut thread = Thread::with(rule(CFA_SP, 8));
    thread.put(SP, RETURN);
    thread.start();
    let Thread { memory, scratch, .. } = &mut thread;
    assert_eq!(read_stack(memory, scratch, SP), Ok(RETURN));
    assert_eq!(read_stack(memory, scratch, STACK - 8), Err(NATIVE_UNREADABLE));
    assert_eq!(read_stack(memory, scratch, STACK - 8), Err(NATIVE_UNREADABLE));
    assert_eq!(read_stack(memory, scratch, u64::MAX - 7), Err(NATIVE_UNREADABLE));
    assert_eq!(read_stack(memory, scratch, SP), Ok(RETURN));
}

/// `count` mappings with gaps between them; the last address of the address space is in none.
fn scattered(count: u64) -> Tables {
    let mut tables = Tables::default();
    // The lists of other processes around it, which hold the same addresses.
    tables.map(0..u64::MAX, 1000);
    for index in 0..count {
        tables.map(0x1000 * (2 * index + 1)..0x1000 * (2 * index + 2), index as u32);
    }
    tables.map(0..u64::MAX, 1001);
    tables
}

#[test]
fn a_mapping_is_found_from_its_first_to_its_last_address_and_nothing_in_the_gaps() {
    for count in [1, 2, 3, 4, 5, 63, 64, 65, 1000] {
        let tables = scattered(count);
        let mut scratch = scratch::zeroed();
        scratch.unwind.process = UnwindProcess {
            first_mapping: 1,
            mappings: count as u32,
        };
        for index in 0..count {
            let (start, end) = (0x1000 * (2 * index + 1), 0x1000 * (2 * index + 2));
            for address in [start, start + 0x800, end - 1] {
                assert!(find_mapping(&tables, &mut scratch, address), "{count}: {address:#x}");
                assert_eq!(u64::from(scratch.unwind.mapping.file), index);
            }
            assert!(!find_mapping(&tables, &mut scratch, start - 1), "{count}: {start:#x}");
            assert!(!find_mapping(&tables, &mut scratch, end), "{count}: {end:#x}");
        }
        for outside in [0, u64::MAX] {
            assert!(!find_mapping(&tables, &mut scratch, outside), "{count}");
        }
    }
}

#[test]
fn the_largest_list_there_can_be_is_searched_to_its_ends() {
    let tables = scattered(1 << 16);
    let mut scratch = scratch::zeroed();
    scratch.unwind.process = UnwindProcess {
        first_mapping: 1,
        mappings: 1 << 16,
    };
    for index in [0, 1, (1 << 15) - 1, 1 << 15, (1 << 16) - 2, (1 << 16) - 1] {
        assert!(find_mapping(&tables, &mut scratch, 0x1000 * (2 * index + 1)));
        assert_eq!(u64::from(scratch.unwind.mapping.file), index);
    }
}

#[test]
fn an_empty_list_has_no_mapping_whoever_is_next_to_it() {
    let tables = scattered(1);
    let mut scratch = scratch::zeroed();
    assert!(!find_mapping(&tables, &mut scratch, 0x1000));
}

/// The rule's index at an address of `file`.
fn rule_at(tables: &Tables, file: u32, address: u64) -> Result<usize, u32> {
    let mut scratch = scratch::zeroed();
    scratch.unwind.mapping.file = file;
    let rule = find_rule(tables, &mut scratch, address)?.expect("a rule");
    Ok((&raw const *rule as usize - tables.rules.as_ptr() as usize) / size_of::<UnwindRule>())
}

#[test]
fn a_row_holds_from_its_address_to_the_next_and_a_page_begins_with_its_own() {
    let mut tables = Tables::default();
    let [a, b, c, d] = [1, 2, 3, 4].map(|at| tables.add_rule(rule(CFA_SP, at)));
    let others = vec![row(0, RULE_NONE); 5];
    tables.add_file(0, std::slice::from_ref(&others));
    let pages = [
        vec![row(0, a), row(1, b), row(0xffff, c)],
        vec![row(0, c)],
        vec![row(0, c), row(0x8000, d)],
    ];
    let base = 0x40_0000;
    let file = tables.add_file(base, &pages);
    tables.add_file(0, &[others]);
    for (at, wanted) in [
        (0, a),
        (1, b),
        (2, b),
        (0xfffe, b),
        (0xffff, c),
        (0x1_0000, c),
        (0x1_ffff, c),
        (0x2_0000, c),
        (0x2_7fff, c),
        (0x2_8000, d),
        (0x2_ffff, d),
    ] {
        assert_eq!(rule_at(&tables, file, base + at), Ok(usize::from(wanted)), "{at:#x}");
    }
    assert_eq!(rule_at(&tables, file, base + 0x3_0000), Err(NATIVE_NOT_COVERED));
    assert_eq!(rule_at(&tables, file, base - 1), Err(NATIVE_NOT_COVERED));
}

#[test]
fn a_page_with_a_row_for_each_address_fills_a_shard_and_is_searched_whole() {
    let mut tables = Tables::default();
    let rules: Vec<u16> = (0..7).map(|at| tables.add_rule(rule(CFA_SP, at))).collect();
    let of = |low: usize| rules[low * 31 % rules.len()];
    let full: Vec<u32> = (0..SHARD_ROWS).map(|low| row(low as u16, of(low))).collect();
    let file = tables.add_file(0, &[full, vec![row(0, RULE_NONE)]]);
    assert_eq!(tables.shards.len(), 2);
    for low in (0..SHARD_ROWS).step_by(13).chain([1, SHARD_ROWS - 2, SHARD_ROWS - 1]) {
        assert_eq!(rule_at(&tables, file, low as u64), Ok(usize::from(of(low))), "{low:#x}");
    }
    assert_eq!(rule_at(&tables, file, 0x1_0000), Ok(usize::from(RULE_NONE)));
}

#[test]
fn a_deeper_stack_is_truncated_and_its_leaf_side_kept() {
    let most = MAX_NATIVE_ADDRESSES as u64;
    for (kernel_len, depth) in [(0, most + 100), (127, most + 100), (127, most)] {
        let mut thread = recursive(depth, 1, SP);
        thread.scratch.record.kernel_len = kernel_len;
        thread.scratch.record.words.fill(0xdead);
        let (addresses, status) = thread.unwind();
        assert_eq!((addresses.len(), status), (MAX_NATIVE_ADDRESSES, NATIVE_TRUNCATED));
        let words = &thread.scratch.record.words;
        let first = kernel_len as usize;
        assert!(words[..first].iter().all(|word| *word == 0xdead));
        assert!(words[first + MAX_NATIVE_ADDRESSES..].iter().all(|word| *word == 0xdead));
    }
    let mut thread = recursive(most - 1, 1, SP);
    let (addresses, status) = thread.unwind();
    assert_eq!(
        (addresses.len(), status),
        (MAX_NATIVE_ADDRESSES, NATIVE_COMPLETE),
        "just not"
    );
}

/// What a thread hashes to and where it was, with evaluation loops at the start of [`CODE`] and of [`ROOT`].
fn in_eval_loop(instance: u32, leaf: u64, back: u64) -> (StackKey, Vec<u64>) {
    let mut thread = Thread::with(rule(CFA_SP, 8));
    thread.scratch.record.header.instance = instance;
    thread.scratch.process.eval_start = [CODE, ROOT];
    thread.scratch.process.eval_end = [CODE + 0x100, ROOT + 0x200];
    thread.set(REGISTER_PC, leaf);
    thread.put(SP, back);
    let (addresses, status) = thread.unwind();
    assert_eq!(status, NATIVE_COMPLETE);
    (thread.scratch.record.header.stack, addresses)
}

#[test]
fn all_of_an_evaluation_loop_is_one_place() {
    let (key, addresses) = in_eval_loop(1, CODE + 0x50, ROOT + 0x100);
    assert_eq!(addresses, [CODE, ROOT]);
    assert_eq!(in_eval_loop(1, CODE, ROOT + 1), (key, addresses.clone()));
    assert_eq!(in_eval_loop(1, CODE + 0xff, ROOT + 0x200), (key, addresses));
}

#[test]
fn what_lies_around_an_evaluation_loop_or_in_a_process_without_one_is_left_alone() {
    let (_, addresses) = in_eval_loop(1, CODE + 0x100, ROOT + 0x201);
    assert_eq!(addresses, [CODE + 0x100, ROOT + 0x200]);
    let (_, addresses) = in_eval_loop(0, CODE + 0x50, ROOT + 0x100);
    assert_eq!(addresses, [CODE + 0x50, ROOT + 0xff]);
}

#[test]
fn stacks_that_differ_in_one_address_have_different_keys() {
    let keys = [
        in_eval_loop(0, CODE + 1, ROOT + 1),
        in_eval_loop(0, CODE + 2, ROOT + 1),
        in_eval_loop(0, CODE + 1, ROOT + 2),
        in_eval_loop(0, CODE + 2, ROOT + 2),
    ]
    .map(|(key, _)| key.hash);
    for (index, key) in keys.iter().enumerate() {
        assert!(
            keys[..index]
                .iter()
                .all(|other| key[0] != other[0] && key[1] != other[1])
        );
    }
}

#[test]
fn a_second_sample_owes_nothing_to_the_first() {
    let mut thread = interrupted(UnwindRule {
        fp: FP_LOST,
        ..rule(CFA_SP, 8)
    });
    let first = thread.unwind();
    let key = thread.scratch.record.header.stack;
    thread.scratch.record.header.stack = StackKey::default();
    assert_eq!(thread.unwind(), first);
    assert_eq!(thread.scratch.record.header.stack, key);
}

/// Where arbitrary things are likely to meet.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (0u64..0x400).prop_map(|at| CODE + at * 0x80),
        8 => (0..STACK_BYTES as u64 / 8).prop_map(|word| STACK + word * 8),
        1 => Just(0u64),
        1 => any::<u64>(),
        1 => (0u64..16).prop_map(|below| u64::MAX - below),
    ]
}

fn any_rule() -> impl Strategy<Value = UnwindRule> {
    let small = || prop_oneof![8 => (-8i32..40).prop_map(|words| words * 8), 1 => any::<i32>()];
    (
        (
            prop_oneof![9 => 2u8..11, 1 => any::<u8>()],
            prop_oneof![9 => 0u8..4, 1 => any::<u8>()],
        ),
        (prop_oneof![9 => Just(0u8), 1 => any::<u8>()], any::<u8>()),
        (small(), small(), small()),
    )
        .prop_map(
            |((cfa, fp), (ra, register), (cfa_offset, cfa_extra, fp_offset))| UnwindRule {
                cfa,
                fp,
                ra,
                register,
                cfa_offset,
                cfa_extra,
                fp_offset,
            },
        )
}

prop_compose! {
    /// Neither sorted nor bounded: what a reader can meet while a writer is at work.
    fn any_tables()(
        rules in prop::collection::vec(any_rule(), 1..20),
        rows in prop::collection::vec(any::<u32>(), 1..200),
        pages in prop::collection::vec((prop_oneof![9 => 0u32..300, 1 => any::<u32>()], prop_oneof![9 => 0u32..80, 1 => any::<u32>()]), 1..4),
        files in prop::collection::vec((0u64..4, 0u32..5, 0u32..5, 0u32..5), 1..4),
        mappings in prop::collection::vec((place(), place(), prop_oneof![4 => 0u32..5, 1 => Just(NO_FILE)]), 0..12),
    ) -> Tables {
        let mut tables = Tables::default();
        tables.rules.extend(&rules);
        for (at, &random) in rows.iter().enumerate() {
            tables.shards[0][at] = row((random >> 16) as u16, (random % (rules.len() as u32 + 3)) as u16);
        }
        tables.pages.extend(pages.iter().map(|&(first, rows)| UnwindPage { first, rows }));
        tables.files.extend(files.iter().map(|&(base, first_page, pages, state)| UnwindFile {
            base: base << 15,
            first_page,
            pages,
            state,
            reserved: 0,
        }));
        // One for all code, so that something is found at all.
        tables.map(CODE..CODE + 0x2_0000, 0);
        tables.mappings.extend(mappings.iter().map(|&(start, end, file)| UnwindMapping {
            start,
            end,
            to_file: CODE.wrapping_neg(),
            file,
            reserved: 0,
        }));
        tables
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_tables_registers_and_memory_hold_it_ends_and_writes_where_it_may(
        tables in any_tables(),
        registers in prop::array::uniform21(place()),
        stack in prop::collection::vec((0..STACK_BYTES / 8, place()), 0..400),
        fill in place(),
        process in (0u32..4, prop_oneof![9 => 0u32..16, 1 => any::<u32>()]),
        eval in prop::array::uniform4(place()),
        instance in 0u32..2,
        kernel_len in 0u32..128,
    ) {
        const UNTOUCHED: u64 = 0x5a5a_5a5a_5a5a_5a5a;
        let mut thread = Thread::new(tables);
        for word in 0..STACK_BYTES as u64 / 8 {
            thread.put(STACK + word * 8, fill);
        }
        for (word, value) in stack {
            thread.put(STACK + word as u64 * 8, value);
        }
        thread.scratch.unwind.registers[..REGISTERS].copy_from_slice(&registers);
        thread.scratch.unwind.process = UnwindProcess { first_mapping: process.0, mappings: process.1 };
        thread.scratch.process.eval_start = [eval[0], eval[1]];
        thread.scratch.process.eval_end = [eval[2], eval[3]];
        thread.scratch.record.header.instance = instance;
        thread.scratch.record.kernel_len = kernel_len;
        thread.scratch.record.words.fill(UNTOUCHED);
        thread.scratch.window.fill(UNTOUCHED);
        thread.scratch.addresses = 0x5a5a;

        let (addresses, status) = thread.unwind();
        prop_assert!(!addresses.is_empty() && addresses.len() <= MAX_NATIVE_ADDRESSES);
        prop_assert!(status != NATIVE_NONE);
        let first = kernel_len as usize;
        let words = &thread.scratch.record.words;
        prop_assert!(words[..first].iter().all(|word| *word == UNTOUCHED));
        prop_assert!(words[first + addresses.len()..].iter().all(|word| *word == UNTOUCHED));
        prop_assert!(thread.scratch.window.iter().all(|word| *word == UNTOUCHED));
        prop_assert_eq!(thread.scratch.addresses, 0x5a5a);
        prop_assert!(thread.scratch.unwind.window_len <= STACK_WINDOW_BYTES as u64);
        prop_assert_eq!(&thread.scratch.unwind.registers[..REGISTERS], &registers[..]);
    }
}
