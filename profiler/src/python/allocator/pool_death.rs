//! Where a pool goes back to its arena.
//!
//! When the last object of a pool is freed, `insert_to_freepool` puts the pool at the head of its arena's free ones.
//! Clang leaves it a function of its own (3.12.10, a build with a profile): that is probed on entry. gcc inlines it in
//! all builds here. Then the probe is in the middle of `_PyObject_Free`, on the first branch after the pool has become
//! the head, and in the copy that `_PyObject_Realloc` has in some builds (3.8.18, 3.12.1, 3.13.0). What a compiler with
//! a profile inlines `_PyObject_Free` into frees pools unseen (see [`super::coverage`]).

use std::ops::Range;

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::super::version::Version;
use super::code::{Code, direct_target};
use super::flow::{State, Value, states};
use super::place::{Place, RegisterIndex, on_entry, saved, spot};
use super::pool::{ARENA_FREE_COUNT, ARENA_FREE_POOLS};
use super::table::Table;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolDeath {
    pub place: Place,
    pub pool: DeadPool,
}

/// How to tell at the place which pool it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadPool {
    /// The register holds its address.
    In(RegisterIndex),
    /// The register holds the address of its `struct arena_object`, of whose free ones it is the first: the word at
    /// [`ARENA_FREE_POOLS`] points to it.
    FirstOfArena(RegisterIndex),
}

/// `pool_header.arenaindex` and `arena_object.ntotalpools`.
const POOL_ARENA_INDEX: u32 = 32;
const ARENA_POOL_COUNT: u32 = 20;

/// What may lie between the parts (17 instructions in 3.12.1).
const NEAR: usize = 24;

/// All of them in the functions of `table`, which is pymalloc's.
pub fn find(code: &Code<'_>, version: Version, table: &Table) -> Vec<PoolDeath> {
    if let Some(function) = out_of_line(code, version, table) {
        let pool = Value::Argument(pool_argument(version));
        let found = on_entry(code, &function, |state| state.holder(pool).is_some());
        let death = found.and_then(|spot| {
            Some(PoolDeath {
                place: spot.place,
                pool: DeadPool::In(spot.register(pool)?),
            })
        });
        return death.into_iter().collect();
    }
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

/// `insert_to_freepool`, if it is a function that `_PyObject_Free` calls or jumps to.
pub fn out_of_line(code: &Code<'_>, version: Version, table: &Table) -> Option<Range<u64>> {
    let free = code.function(table.free)?;
    let body = code.instructions(&free);
    let mut targets: Vec<u64> = body.iter().filter_map(direct_target).collect();
    targets.retain(|target| !free.contains(target));
    targets.sort_unstable();
    targets.dedup();
    targets
        .into_iter()
        .take(NEAR)
        .filter_map(|target| code.function(target))
        .find(|function| puts_back(&code.instructions(function), pool_argument(version)))
}

/// Before it, there is the heap's state from 3.12 on.
fn pool_argument(version: Version) -> u8 {
    u8::from(version.series() >= (3, 12))
}

/// Whether a function puts the pool that is its argument at the head of its arena's free ones.
fn puts_back(body: &[Instruction], argument: u8) -> bool {
    let states = states(body);
    let is_pool = |instruction: &Instruction, register: Register| {
        states
            .get(&instruction.ip())
            .is_some_and(|state| state.get(register) == Value::Argument(argument))
    };
    let beginning = || body.iter().take(2 * NEAR);
    let looks_up = beginning().any(|load| {
        load.mnemonic() == Mnemonic::Mov
            && load.op0_register().is_gpr32()
            && accesses(load, load.memory_base(), POOL_ARENA_INDEX)
            && is_pool(load, load.memory_base())
    });
    let stores = beginning().any(|store| {
        store.mnemonic() == Mnemonic::Mov
            && store.op0_kind() == OpKind::Memory
            && store.memory_base().is_gpr64()
            && store.memory_displacement64() == u64::from(ARENA_FREE_POOLS)
            && store.op1_kind() == OpKind::Register
            && is_pool(store, store.op1_register())
    });
    let compares = beginning().any(|compare| {
        compare.mnemonic() == Mnemonic::Cmp && accesses(compare, compare.memory_base(), ARENA_POOL_COUNT)
    });
    looks_up && stores && compares
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
                pool: DeadPool::FirstOfArena(saved(arena)?),
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
    const OTHER: u64 = 0x3000;

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
        in_file(parts.concat(), vec![0xc3])
    }

    fn in_file(free: Vec<u8>, other: Vec<u8>) -> Vec<PoolDeath> {
        let elf = fake::elf(&[(FREE, free), (0x2000, vec![0xc3]), (OTHER, other)]).build();
        let table = Table {
            address: 0,
            malloc: 0,
            calloc: 0,
            realloc: 0x2000,
            free: FREE,
        };
        find(&Code::new(&elf).unwrap(), Version::parse("3.12.1").unwrap(), &table)
    }

    #[test]
    fn the_branch_after_the_pool_was_put_back_is_probed() {
        let [death] = in_function(PARTS)[..] else { panic!() };
        assert_eq!((death.place.address, death.place.emulated), (BRANCH, true));
        assert_eq!(death.pool, DeadPool::FirstOfArena(RegisterIndex(5)));
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

    #[test]
    fn a_function_of_its_own_is_probed_on_entry() {
        let function: &[&[u8]] = &[
            b"\x53",                 // push %rbx
            b"\x8b\x4e\x20",         // mov 32(%rsi),%ecx
            b"\x48\x89\x74\x08\x18", // mov %rsi,24(%rax,%rcx,1)
            b"\x3b\x73\x14",         // cmp 20(%rbx),%esi
            b"\xc3",
        ];
        let jump = fake::relative(&[0xe9], FREE, OTHER);
        let [death] = in_file(jump.clone(), function.concat())[..] else {
            panic!()
        };
        assert_eq!((death.place.address, death.place.emulated), (OTHER, true));
        assert_eq!(death.pool, DeadPool::In(RegisterIndex(13)));
        for part in [1, 2, 3] {
            let mut parts = function.to_vec();
            parts[part] = b"\x90";
            assert_eq!(in_file(jump.clone(), parts.concat()), [], "without part {part}");
        }
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
