//! How native stacks are unwound: tables made from `.eh_frame` by user space, searched by the kernel side.
//!
//! From an address to the caller's registers: the process's mappings (`MAPPINGS`, sorted) say which file an address
//! belongs to and what it is there; the file (`UNWIND_FILES`) says where its pages are; a page (`UNWIND_PAGES`) covers
//! 64 KiB of the file's addresses and says where its rows are; a row (`UNWIND_ROWS`) says from which address on which
//! rule holds; and a rule (`UNWIND_RULES`, shared by all files) says how to find the caller.
//!
//! Sixteen bits of address and sixteen bits of rule make a row of four bytes: libpython3.12 has 62 thousand of them, and
//! a search touches few cache lines.

/// Bits of an address inside its page.
pub const PAGE_BITS: u32 = 16;

/// Rows in one value of `UNWIND_ROWS`. The rows of a page never cross from one value into the next, and since a page
/// has no more addresses than this, they need not.
pub const SHARD_ROWS: usize = 1 << 16;

/// Rules a machine can have: a row has sixteen bits for one.
pub const MAX_RULES: usize = 1 << 16;

/// The rule of addresses that no unwind information covers. Always at index 0 of `UNWIND_RULES`.
pub const RULE_NONE: u16 = 0;
/// The rule of addresses whose unwind information is not of a kind the kernel side knows. Always at index 1.
pub const RULE_UNSUPPORTED: u16 = 1;

/// Makes a row: from the address with these low bits on, this rule holds. Rows sort by address.
pub const fn row(low: u16, rule: u16) -> u32 {
    (low as u32) << 16 | rule as u32
}

pub const fn row_low(row: u32) -> u16 {
    (row >> 16) as u16
}

pub const fn row_rule(row: u32) -> u16 {
    row as u16
}

/// No unwind information.
pub const CFA_NONE: u8 = 0;
/// Unwind information of a kind we do not know.
pub const CFA_UNSUPPORTED: u8 = 1;
/// `sp + cfa_offset`
pub const CFA_SP: u8 = 2;
/// `fp + cfa_offset`
pub const CFA_FP: u8 = 3;
/// `registers[register] + cfa_offset`: only where all registers are known, which is at the leaf.
pub const CFA_REGISTER: u8 = 4;
/// `*(sp + cfa_offset) + cfa_extra`
pub const CFA_DEREF_SP: u8 = 5;
/// `*(fp + cfa_offset) + cfa_extra`: functions that realign their stack.
pub const CFA_DEREF_FP: u8 = 6;
/// `sp + cfa_offset + ((pc & 15) >= cfa_extra ? 8 : 0)`: lazily bound stubs.
pub const CFA_PLT: u8 = 7;
/// The signal trampoline: the interrupted registers lie in the `ucontext_t` at `sp + cfa_offset`.
pub const CFA_SIGNAL: u8 = 8;
/// A thread's first function: it has no caller.
pub const CFA_END: u8 = 9;
/// `fp + 16`, the caller's `fp` at `fp`: code without unwind information that is known to keep frame pointers.
pub const CFA_FRAME_POINTER: u8 = 10;

/// The frame pointer is still the caller's.
pub const FP_SAME: u8 = 0;
/// The caller's is saved at `cfa + fp_offset`.
pub const FP_AT_CFA: u8 = 1;
/// The caller's is saved at `fp + fp_offset`.
pub const FP_AT_FP: u8 = 2;
/// The caller's cannot be known; only a rule that needs it minds.
pub const FP_LOST: u8 = 3;

/// The return address is at `cfa - 8`.
pub const RA_AT_CFA: u8 = 0;
/// [`UnwindRule::ra`] is this plus the index of the register that holds it: only at the leaf (`vfork` in glibc).
pub const RA_IN_REGISTER: u8 = 1;

/// How to get from a function's registers to its caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UnwindRule {
    /// `CFA_…`: how to find the canonical frame address, which is the stack pointer after the return.
    pub cfa: u8,
    /// `FP_…`: how to find the caller's `rbp`.
    pub fp: u8,
    /// `RA_…`.
    pub ra: u8,
    /// For [`CFA_REGISTER`]: an index into the kernel's `struct pt_regs`, counted in words.
    pub register: u8,
    pub cfa_offset: i32,
    pub cfa_extra: i32,
    pub fp_offset: i32,
}

const _: () = assert!(size_of::<UnwindRule>() == 16);

/// 64 KiB of a file's addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnwindPage {
    /// The first row: value of `UNWIND_ROWS` times [`SHARD_ROWS`] plus index in it.
    pub first: u32,
    /// Rows. The first covers the page's first address.
    pub rows: u32,
}

/// Its table is not there (yet).
pub const FILE_NOT_READY: u32 = 0;
/// It has a table.
pub const FILE_TABLE: u32 = 1;
/// It has no unwind information at all: its code is expected to keep frame pointers.
pub const FILE_FRAME_POINTERS: u32 = 2;
/// There was no room for its table.
pub const FILE_NO_ROOM: u32 = 3;

/// A file that is mapped as code.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnwindFile {
    /// The address, in the file, of its first page.
    pub base: u64,
    pub first_page: u32,
    pub pages: u32,
    /// `FILE_…`.
    pub state: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<UnwindFile>() == 24);

/// [`UnwindMapping::file`] of code that belongs to no file: generated at run time, expected to keep frame pointers.
pub const NO_FILE: u32 = u32::MAX;

/// An executable mapping of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UnwindMapping {
    pub start: u64,
    pub end: u64,
    /// What to add to an address in memory to have one in the file. Wraps around.
    pub to_file: u64,
    /// Index into `UNWIND_FILES`, or [`NO_FILE`].
    pub file: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<UnwindMapping>() == 32);

/// Where in `MAPPINGS` a process's executable mappings are, in order of address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnwindProcess {
    pub first_mapping: u32,
    pub mappings: u32,
}

/// Words of the kernel's `struct pt_regs` (x86-64).
pub const REGISTERS: usize = 21;
pub const REGISTER_FP: usize = 4;
pub const REGISTER_PC: usize = 16;
pub const REGISTER_CS: usize = 17;
pub const REGISTER_SP: usize = 19;

/// Where in `ucontext_t` the signal trampoline finds the interrupted registers (x86-64: `uc_mcontext.gregs`).
pub const UCONTEXT_FP: u64 = 120;
pub const UCONTEXT_SP: u64 = 160;
pub const UCONTEXT_PC: u64 = 168;

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, made of integers, without padding (sizes are asserted above).
    unsafe impl aya::Pod for super::UnwindProcess {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::UnwindMapping {}
}
