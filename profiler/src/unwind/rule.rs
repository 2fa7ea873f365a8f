//! From a row of DWARF call frame information to a rule the kernel side can apply.
//!
//! Which expressions matter was counted over every x86-64 file of a Debian 12 and eight pyenv interpreters: linkers write one for
//! lazily bound stubs, gcc one for functions that realign their stack, and glibc one for its signal trampoline.

use gimli::{
    CfaRule, CommonInformationEntry, EndianSlice, Expression, LittleEndian, Operation, Register, RegisterRule,
    UnwindContextStorage, UnwindExpression, UnwindSection, UnwindTableRow, X86_64,
};
use profiler_common::unwind::{
    CFA_DEREF_FP, CFA_DEREF_SP, CFA_END, CFA_FP, CFA_FRAME_POINTER, CFA_NONE, CFA_PLT, CFA_REGISTER, CFA_SIGNAL,
    CFA_SP, CFA_UNSUPPORTED, FP_AT_CFA, FP_AT_FP, FP_LOST, FP_SAME, MAX_RULES, RA_AT_CFA, RA_IN_REGISTER, RULE_NONE,
    RULE_UNSUPPORTED, UCONTEXT_PC, UCONTEXT_SP, UnwindRule,
};
use rustc_hash::FxHashMap;

pub type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// What gimli keeps while it runs the instructions of an entry.
///
/// Its own choice has room for 192 registers and four remembered states. Four are too few for code that is compiled
/// from assembler by hand, and each remembered state is copied, so much room is time in the hands of who writes a
/// hostile file. The general purpose registers, the return address and the ten vector registers that functions of the
/// Microsoft ABI preserve are 27.
pub struct Room;

impl UnwindContextStorage<usize> for Room {
    type Rules = [(Register, RegisterRule<usize>); 40];
    type Stack = Box<[UnwindTableRow<usize, Self>; 16]>;
}

pub type Row = UnwindTableRow<usize, Room>;

/// No unwind information ([`RULE_NONE`]).
pub const NONE: UnwindRule = of_kind(CFA_NONE);
/// [`RULE_UNSUPPORTED`].
pub const UNSUPPORTED: UnwindRule = of_kind(CFA_UNSUPPORTED);
/// Code without unwind information that keeps frame pointers.
pub const FRAME_POINTER: UnwindRule = of_kind(CFA_FRAME_POINTER);
/// A first function.
pub const END: UnwindRule = of_kind(CFA_END);
/// Where a signal handler returns to, before the first instruction: the kernel's frame begins at the stack pointer once
/// the handler's return address is popped, with the `ucontext_t`.
pub const TRAMPOLINE: UnwindRule = of_kind(CFA_SIGNAL);

/// Stubs through which other files' functions are called, which lld gives no unwind information: a jump, and, for the
/// first call of each, from byte 11 of sixteen on, something pushed. The first stub is another matter, but it runs once
/// per function at most.
pub const STUB: UnwindRule = UnwindRule {
    cfa_offset: 8,
    cfa_extra: 11,
    ..of_kind(CFA_PLT)
};

/// A rule of which nothing but the kind is said. Only like this are equal rules equal.
const fn of_kind(cfa: u8) -> UnwindRule {
    UnwindRule {
        cfa,
        fp: FP_SAME,
        ra: RA_AT_CFA,
        register: 0,
        cfa_offset: 0,
        cfa_extra: 0,
        fp_offset: 0,
    }
}

/// The most any file of those counted above has is 815 (libclang-cpp 22). All files share [`MAX_RULES`], so one must not take them all.
const MAX_FILE_RULES: usize = 4096;

const _: () = assert!(MAX_FILE_RULES <= MAX_RULES);

/// The rules of a file, each once.
pub struct Rules {
    rules: Vec<UnwindRule>,
    index: FxHashMap<UnwindRule, u16>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            rules: vec![NONE, UNSUPPORTED],
            index: FxHashMap::from_iter([(NONE, RULE_NONE), (UNSUPPORTED, RULE_UNSUPPORTED)]),
        }
    }
}

impl Rules {
    /// The rule's index. A file with too many rules loses the rest.
    pub fn intern(&mut self, rule: UnwindRule) -> u16 {
        if let Some(index) = self.index.get(&rule) {
            return *index;
        }
        if self.rules.len() >= MAX_FILE_RULES {
            return RULE_UNSUPPORTED;
        }
        let index = self.rules.len() as u16;
        self.rules.push(rule);
        self.index.insert(rule, index);
        index
    }

    pub fn into_rules(self) -> Vec<UnwindRule> {
        self.rules
    }
}

/// The rule that `row` of an entry with this `cie` stands for.
pub fn from_row<'a, S>(section: &S, cie: &CommonInformationEntry<Bytes<'a>>, row: &Row) -> UnwindRule
where
    S: UnwindSection<Bytes<'a>>,
{
    convert(section, cie, row).unwrap_or(UNSUPPORTED)
}

fn convert<'a, S>(section: &S, cie: &CommonInformationEntry<Bytes<'a>>, row: &Row) -> Option<UnwindRule>
where
    S: UnwindSection<Bytes<'a>>,
{
    let operations = |expression: &UnwindExpression<usize>| operations(expression.get(section).ok()?, cie);

    let mut return_address = None;
    let mut frame_pointer = None;
    for (register, rule) in row.registers() {
        if *register == cie.return_address_register() {
            return_address = Some(rule);
        } else if *register == X86_64::RBP {
            frame_pointer = Some(rule);
        }
    }

    if let (CfaRule::Expression(cfa), Some(RegisterRule::Expression(pc)), true) =
        (row.cfa(), return_address, cie.is_signal_trampoline())
    {
        return signal(&operations(cfa)?, &operations(pc)?);
    }

    let mut rule = match return_address? {
        RegisterRule::Undefined => return Some(of_kind(CFA_END)),
        RegisterRule::Offset(-8) => of_kind(CFA_UNSUPPORTED),
        RegisterRule::Register(register) => UnwindRule {
            ra: RA_IN_REGISTER + kernel_register(*register)?,
            ..of_kind(CFA_UNSUPPORTED)
        },
        _ => return None,
    };
    match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => set_cfa(&mut rule, *register, *offset)?,
        CfaRule::Expression(expression) => set_cfa_expression(&mut rule, &operations(expression)?)?,
    }
    (rule.fp, rule.fp_offset) = match frame_pointer {
        // Not mentioned: callees preserve it (System V ABI, figure 3.4), so a function that does not say otherwise
        // has not touched it.
        None | Some(RegisterRule::SameValue) => (FP_SAME, 0),
        Some(RegisterRule::Offset(offset)) => (FP_AT_CFA, i32::try_from(*offset).ok()?),
        Some(RegisterRule::Expression(expression)) => saved_at(&rule, operations(expression).as_ref()),
        Some(_) => (FP_LOST, 0),
    };
    Some(rule)
}

fn set_cfa(rule: &mut UnwindRule, register: Register, offset: i64) -> Option<()> {
    rule.cfa_offset = i32::try_from(offset).ok()?;
    rule.cfa = match register {
        X86_64::RSP => CFA_SP,
        X86_64::RBP => CFA_FP,
        other => {
            rule.register = kernel_register(other)?;
            CFA_REGISTER
        }
    };
    Some(())
}

fn set_cfa_expression(rule: &mut UnwindRule, operations: &Operations) -> Option<()> {
    match *operations.as_slice() {
        [Simple::Register(register, offset)] => set_cfa(rule, register, offset),
        [Simple::Register(register, offset), Simple::Deref] => set_cfa_deref(rule, register, offset, 0),
        [
            Simple::Register(register, offset),
            Simple::Deref,
            Simple::PlusConstant(extra),
        ]
        | [
            Simple::Register(register, offset),
            Simple::Deref,
            Simple::Constant(extra),
            Simple::Plus,
        ] => set_cfa_deref(rule, register, offset, extra),
        // What ld, gold and mold write for stubs that push a number and jump: eight bytes more from some instruction
        // of the sixteen bytes on.
        [
            Simple::Register(X86_64::RSP, offset),
            Simple::Register(X86_64::RA, 0),
            Simple::Constant(15),
            Simple::And,
            Simple::Constant(from),
            Simple::Ge,
            Simple::Constant(3),
            Simple::Shl,
            Simple::Plus,
        ] => {
            rule.cfa = CFA_PLT;
            rule.cfa_offset = i32::try_from(offset).ok()?;
            rule.cfa_extra = i32::try_from(from).ok()?;
            Some(())
        }
        _ => None,
    }
}

fn set_cfa_deref(rule: &mut UnwindRule, register: Register, offset: i64, extra: u64) -> Option<()> {
    rule.cfa = match register {
        X86_64::RSP => CFA_DEREF_SP,
        X86_64::RBP => CFA_DEREF_FP,
        _ => return None,
    };
    rule.cfa_offset = i32::try_from(offset).ok()?;
    rule.cfa_extra = i32::try_from(extra).ok()?;
    Some(())
}

/// glibc's trampoline says of every register where in the `ucontext_t` it is; the kernel side knows that by itself, as
/// soon as it knows where the `ucontext_t` is.
fn signal(cfa: &Operations, pc: &Operations) -> Option<UnwindRule> {
    let [Simple::Register(X86_64::RSP, cfa), Simple::Deref] = *cfa.as_slice() else {
        return None;
    };
    let [Simple::Register(X86_64::RSP, pc)] = *pc.as_slice() else {
        return None;
    };
    let start = cfa.checked_sub(UCONTEXT_SP as i64)?;
    if pc.checked_sub(UCONTEXT_PC as i64)? != start {
        return None;
    }
    Some(UnwindRule {
        cfa_offset: i32::try_from(start).ok()?,
        ..TRAMPOLINE
    })
}

/// Where an expression says that the frame pointer is saved.
fn saved_at(rule: &UnwindRule, operations: Option<&Operations>) -> (u8, i32) {
    let place = match operations.map(Operations::as_slice) {
        Some(&[Simple::Register(X86_64::RBP, offset)]) => Some((FP_AT_FP, offset)),
        Some(&[Simple::Register(X86_64::RSP, offset)]) if rule.cfa == CFA_SP => {
            offset.checked_sub(rule.cfa_offset.into()).map(|at| (FP_AT_CFA, at))
        }
        _ => None,
    };
    match place {
        Some((kind, offset)) => i32::try_from(offset).map_or((FP_LOST, 0), |offset| (kind, offset)),
        None => (FP_LOST, 0),
    }
}

/// The index in the kernel's `struct pt_regs`, in words (arch/x86/include/asm/ptrace.h), of a register as DWARF
/// numbers it (System V ABI, figure 3.36).
fn kernel_register(register: Register) -> Option<u8> {
    Some(match register {
        X86_64::R15 => 0,
        X86_64::R14 => 1,
        X86_64::R13 => 2,
        X86_64::R12 => 3,
        X86_64::RBP => 4,
        X86_64::RBX => 5,
        X86_64::R11 => 6,
        X86_64::R10 => 7,
        X86_64::R9 => 8,
        X86_64::R8 => 9,
        X86_64::RAX => 10,
        X86_64::RCX => 11,
        X86_64::RDX => 12,
        X86_64::RSI => 13,
        X86_64::RDI => 14,
        X86_64::RSP => 19,
        _ => return None,
    })
}

/// The operations that the expressions we know are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Simple {
    /// The register's value plus this.
    Register(Register, i64),
    Deref,
    Constant(u64),
    PlusConstant(u64),
    Plus,
    And,
    Ge,
    Shl,
}

/// A short expression.
struct Operations {
    operations: [Simple; MAX_OPERATIONS],
    len: usize,
}

/// The longest expression we know has nine.
const MAX_OPERATIONS: usize = 9;

impl Operations {
    fn as_slice(&self) -> &[Simple] {
        &self.operations[..self.len]
    }
}

/// `None` if it has an operation we do not know, or too many.
fn operations<'a>(expression: Expression<Bytes<'a>>, cie: &CommonInformationEntry<Bytes<'a>>) -> Option<Operations> {
    let mut found = Operations {
        operations: [Simple::Deref; MAX_OPERATIONS],
        len: 0,
    };
    let mut operations = expression.operations(cie.encoding());
    while let Some(operation) = operations.next().ok()? {
        let simple = match operation {
            Operation::RegisterOffset { register, offset, .. } => Simple::Register(register, offset),
            Operation::Deref {
                size: 8, space: false, ..
            } => Simple::Deref,
            Operation::UnsignedConstant { value } => Simple::Constant(value),
            Operation::SignedConstant { value } => Simple::Constant(u64::try_from(value).ok()?),
            Operation::PlusConstant { value } => Simple::PlusConstant(value),
            Operation::Plus => Simple::Plus,
            Operation::And => Simple::And,
            Operation::Ge => Simple::Ge,
            Operation::Shl => Simple::Shl,
            _ => return None,
        };
        *found.operations.get_mut(found.len)? = simple;
        found.len += 1;
    }
    Some(found)
}
