//! Where a jump by a table leads, as compilers make them of `switch`.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::{machine::Refusal, view::View};

/// More than any `switch` of a C library has: `iconv`'s has 200.
const MOST_TARGETS: usize = 4096;

/// Where a table of distances leads. If it is not known how many there are, as many as can be ones are taken: ways that
/// nobody goes take something away from what is known, and add nothing.
pub fn targets(view: &View<'_>, table: u64, bound: Option<usize>) -> Result<Vec<u32>, Refusal> {
    let entry = |index: usize| {
        let at = table.wrapping_add(4 * index as u64);
        let distance = i32::from_le_bytes(*view.elf.data(at)?.first_chunk()?);
        u32::try_from(table.wrapping_add_signed(distance.into())).ok()
    };
    collect(view, entry, bound)
}

/// Where a table of addresses leads.
pub fn absolute_targets(view: &View<'_>, table: u64, bound: Option<usize>) -> Result<Vec<u32>, Refusal> {
    let entry = |index: usize| {
        let at = table.wrapping_add(8 * index as u64);
        let address = u64::from_le_bytes(*view.elf.data(at)?.first_chunk()?);
        view.elf.offset(address)
    };
    collect(view, entry, bound)
}

/// `jmp *TABLE(,%rax,8)`, in programs that lie where they were linked to.
pub fn absolute(view: &View<'_>, jump: &Instruction) -> Option<u64> {
    let is_table = jump.op0_kind() == OpKind::Memory
        && jump.memory_base() == Register::None
        && jump.memory_index() != Register::None
        && jump.memory_index_scale() == 8;
    let address = jump.memory_displacement64();
    is_table.then(|| address.wrapping_sub(view.elf.base))
}

fn collect(view: &View<'_>, entry: impl Fn(usize) -> Option<u32>, bound: Option<usize>) -> Result<Vec<u32>, Refusal> {
    let entries = (0..bound.unwrap_or(MOST_TARGETS).min(MOST_TARGETS)).map(entry);
    let targets: Vec<u32> = entries
        .map_while(|target| target.filter(|target| view.is_open(*target)))
        .collect();
    match bound {
        Some(bound) if targets.len() < bound => Err(Refusal::UnknownJump),
        _ if targets.is_empty() => Err(Refusal::UnknownJump),
        _ => Ok(targets),
    }
}

/// How many entries the table of a jump has, by the comparison that guards it: `cmp $LAST,%index; ja …` right before what
/// loads from the table.
pub fn bound(instructions: &[Instruction], jump: u32) -> Option<usize> {
    const FARTHEST: usize = 12;
    let at = instructions.partition_point(|instruction| instruction.ip() < jump.into());
    let mut index = Register::None;
    let mut next = instructions.get(at)?.ip();
    let mut guarded = None;
    for instruction in instructions.get(at.saturating_sub(FARTHEST)..=at)?.iter().rev() {
        if instruction.next_ip() != next && instruction.ip() != next {
            return None;
        }
        next = instruction.ip();
        let writes = |register: Register| {
            instruction.op0_kind() == OpKind::Register
                && instruction.op0_register().full_register() == register
                && instruction.mnemonic() != Mnemonic::Cmp
        };
        if index == Register::None {
            if matches!(instruction.mnemonic(), Mnemonic::Movsxd | Mnemonic::Jmp)
                && instruction.memory_index() != Register::None
            {
                index = instruction.memory_index().full_register();
            }
            continue;
        }
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::ConditionalBranch if guarded.is_none() => {
                guarded = match instruction.mnemonic() {
                    Mnemonic::Ja => Some(1),
                    Mnemonic::Jae => Some(0),
                    _ => return None,
                };
                continue;
            }
            _ => return None,
        }
        if instruction.mnemonic() == Mnemonic::Cmp {
            let compared = instruction.op0_kind() == OpKind::Register
                && instruction.op0_register().full_register() == index
                && instruction.op1_kind() != OpKind::Register
                && instruction.op1_kind() != OpKind::Memory;
            let last = usize::try_from(instruction.immediate(1)).ok()?;
            return guarded.filter(|_| compared).and_then(|more| last.checked_add(more));
        }
        if writes(index) {
            let copies = matches!(
                instruction.mnemonic(),
                Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsxd
            );
            if !copies || instruction.op1_kind() != OpKind::Register {
                return None;
            }
            index = instruction.op1_register().full_register();
        }
    }
    None
}
