//! Where a pool goes back to its arena.
//!
//! When the last object of a pool is freed, `insert_to_freepool` puts the pool at the head of its arena's free ones. It
//! is inlined in all builds seen, so the probe is in the middle of `_PyObject_Free`, on the first branch after the pool
//! has become the head, and in the copy of it that `_PyObject_Realloc` has in some builds (3.8.18, 3.12.1, 3.13.0). What
//! a compiler with a profile inlines `_PyObject_Free` into frees pools unseen (see [`super::coverage`]).

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::code::{Code, direct_target};
use super::flow::State;
use super::place::{Place, RegisterIndex, saved, spot};
use super::pool::{ARENA_FREE_COUNT, ARENA_FREE_POOLS};
use super::table::Table;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolDeath {
    pub place: Place,
    /// Holds the address of the `struct arena_object`. The pool that died is the first of its free ones, to which its
    /// word at [`ARENA_FREE_POOLS`] points.
    pub arena: RegisterIndex,
}

/// `pool_header.arenaindex` and `arena_object.ntotalpools`.
const POOL_ARENA_INDEX: u32 = 32;
const ARENA_POOL_COUNT: u32 = 20;

/// What may lie between the parts (17 instructions in 3.12.1).
const NEAR: usize = 24;

/// All of them in the functions of `table`, which is pymalloc's.
pub fn find(code: &Code<'_>, table: &Table) -> Vec<PoolDeath> {
    let functions = [table.free, table.realloc]
        .into_iter()
        .filter_map(|address| code.function(address));
    let deaths = functions.flat_map(|function| {
        let body = code.instructions(&function);
        let deaths: Vec<PoolDeath> = stores(&body)
            .into_iter()
            .filter_map(|at| after(code, &body, at))
            .collect();
        deaths
    });
    deaths.collect()
}

/// The first emulated instruction after a store, if nothing else leads there.
fn after(code: &Code<'_>, body: &[Instruction], store: usize) -> Option<PoolDeath> {
    let arena = body.get(store)?.memory_base();
    let targets: Vec<u64> = body.iter().filter_map(direct_target).collect();
    for instruction in body.get(store + 1..)?.iter().take(NEAR) {
        let reached_otherwise = targets.contains(&instruction.ip());
        let moved = instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == arena
            && !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test);
        if reached_otherwise || moved || instruction.is_invalid() {
            return None;
        }
        let found = spot(code, instruction, State::at_entry())?;
        if found.place.emulated {
            return Some(PoolDeath {
                place: found.place,
                arena: saved(arena)?,
            });
        }
        if instruction.flow_control() != FlowControl::Next {
            return None;
        }
    }
    None
}

/// The instructions (by index) that put a pool at the head of its arena's free ones: the pool's arena has been looked
/// up, and its count of free pools is compared with that of all.
pub fn stores(body: &[Instruction]) -> Vec<usize> {
    let is_store = |at: usize| {
        let store = body.get(at)?;
        let is_store = store.mnemonic() == Mnemonic::Mov
            && accesses(store, store.memory_base(), ARENA_FREE_POOLS)
            && store.op0_kind() == OpKind::Memory
            && store.op1_kind() == OpKind::Register
            && store.op1_register().is_gpr64();
        if !is_store {
            return None;
        }
        let (arena, pool) = (store.memory_base(), store.op1_register());
        let before = body.get(at.saturating_sub(NEAR)..at)?;
        let after = body.get(at + 1..)?.iter().take(NEAR);
        let loads = |base, offset| {
            before.iter().any(|load| {
                load.mnemonic() == Mnemonic::Mov && load.op0_register().is_gpr32() && accesses(load, base, offset)
            })
        };
        let compares = |base| {
            after
                .clone()
                .any(|compare| compare.mnemonic() == Mnemonic::Cmp && accesses(compare, base, ARENA_POOL_COUNT))
        };
        (loads(pool, POOL_ARENA_INDEX) && loads(arena, ARENA_FREE_COUNT) && compares(arena)).then_some(at)
    };
    (0..body.len()).filter_map(is_store).collect()
}

fn accesses(instruction: &Instruction, base: Register, offset: u32) -> bool {
    base.is_gpr64()
        && instruction.memory_base() == base
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == u64::from(offset)
}

#[cfg(test)]
mod tests {
    use super::super::fake;
    use super::*;

    const FREE: u64 = 0x1000;

    /// Up to the store (rax is the pool, rbx its arena), and the branch after it.
    const PARTS: &[&[u8]] = &[
        b"\x8b\x50\x20",     // mov 32(%rax),%edx
        b"\x8b\x4b\x10",     // mov 16(%rbx),%ecx
        b"\x48\x89\x43\x18", // mov %rax,24(%rbx)
        b"\x48\x89\xc8",     // mov %rcx,%rax
        b"\x48\x39\xd3",     // cmp %rdx,%rbx
        b"\x74\x03",         // je ret
        b"\x3b\x43\x14",     // cmp 20(%rbx),%eax
        b"\xc3",
    ];
    const BRANCH: u64 = FREE + 16;

    fn in_function(parts: &[&[u8]]) -> Vec<PoolDeath> {
        let elf = fake::elf(&[(FREE, parts.concat()), (0x2000, vec![0xc3])]).build();
        let table = Table {
            address: 0,
            malloc: 0,
            calloc: 0,
            realloc: 0x2000,
            free: FREE,
        };
        find(&Code::new(&elf).unwrap(), &table)
    }

    #[test]
    fn the_branch_after_the_pool_was_put_back_is_probed() {
        let [death] = in_function(PARTS)[..] else { panic!() };
        assert_eq!((death.place.address, death.place.emulated), (BRANCH, true));
        assert_eq!(death.arena, RegisterIndex(5));
    }

    #[test]
    fn a_store_into_anything_else_is_not_a_death() {
        for part in [0, 1, 2, 6] {
            let mut parts = PARTS.to_vec();
            parts[part] = b"\x90";
            assert_eq!(in_function(&parts), [], "without part {part}");
        }
    }

    #[test]
    fn a_branch_that_others_reach_or_that_has_lost_the_arena_is_not_probed() {
        // je to the branch, before all else.
        assert_eq!(in_function(&[&[&b"\x74\x10"[..]], PARTS].concat()), []);
        let mut parts = PARTS.to_vec();
        parts[3] = b"\x48\x89\xcb"; // mov %rcx,%rbx
        assert_eq!(in_function(&parts), []);
    }

    proptest::proptest! {
        #[test]
        fn no_change_to_the_code_panics(
            changes in proptest::collection::vec((0..64_usize, proptest::prelude::any::<u8>()), 0..6),
        ) {
            let _ = in_function(&[&fake::damaged(PARTS.concat(), &changes)]);
        }
    }
}
