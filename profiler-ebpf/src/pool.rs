//! The birth of a pool: pymalloc has no free block of a size and takes memory for more of them.
//!
//! One of 30 – 1,000 allocations comes here, whatever the build: the function is out of line even where link-time
//! optimization has inlined the rest of the allocator. What happens is told by one read of pymalloc's own list (which
//! pool is next), so no probe at the return is needed.

use aya_ebpf::{
    helpers::generated::{bpf_get_prandom_u32, bpf_jiffies64},
    macros::map,
    maps::PerCpuArray,
    programs::ProbeContext,
};
use profiler_common::{
    python::{ARENAS_STATIC, PoolFacts},
    record::{MEMORY_POOL, MemoryEvent},
    stats::Counter,
};
use profiler_ebpf::{gate::Gate, memory::ReadMemory as _};

use crate::{
    context,
    maps::{POOL_FACTS, POOLS},
    registers::register,
    sample,
    stats::{add, count},
    task::{self, Task, config},
    user_memory::UserMemory,
};

/// Kernel only: which births to follow.
#[map]
static POOL_GATE: PerCpuArray<Gate> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub fn try_birth(ctx: &ProbeContext) -> Result<(), Counter> {
    let Some(task) = task::current() else { return Ok(()) };
    // SAFETY: copied out at once.
    let Some(facts) = (unsafe { POOL_FACTS.get(task.pid) }).copied() else {
        return Ok(());
    };
    if !task::is_of_wanted_process(task) {
        return Ok(());
    }
    let address = next_pool(ctx, &facts).unwrap_or(0);
    let gate = POOL_GATE.get_ptr_mut(0).ok_or(Counter::LostNoScratch)?;
    // SAFETY: the pointer is to this CPU's value. Where uprobes can be preempted another one may come in between; both
    // then draw from the same gap, which makes a sample more or less. The helpers are plain calls.
    // (With stretches four times as long, fewer are followed: the allocation-bound yardstick took 1.09 instead of 1.14 times
    // as long. With eight times as long 1.2 MiB of a leaking program's growth was told of what churned beside.)
    let weight = unsafe { (*gate).pass(bpf_jiffies64(), config::gate_stretch(), || bpf_get_prandom_u32()) };
    let key = key(task, address);
    if weight == 0 {
        // Its former owner must not be taken for the new one. Looking first takes no lock.
        // SAFETY: the value is not kept.
        if unsafe { POOLS.get(key) }.is_none() || POOLS.remove(key).is_err() {
            return Ok(());
        }
        let comm = task::comm();
        let event = MemoryEvent {
            what: MEMORY_POOL,
            address,
            other: facts.pool_bytes.into(),
            ..MemoryEvent::default()
        };
        return context::in_uprobe(ctx, |context| {
            sample::take_memory_without_stack(context, task, comm, event)
        });
    }
    let comm = task::comm();
    if !task::is_wanted(task, comm) {
        return Ok(());
    }
    // SAFETY: as above.
    add(Counter::PoolBirths, unsafe { (*gate).take_seen() }.into());
    count(Counter::PoolBirthsTaken);
    if address != 0 {
        POOLS.insert(key, 1, 0).map_err(|_| Counter::LostPools)?;
    }
    let event = MemoryEvent {
        what: MEMORY_POOL,
        weight,
        address,
        // Sizes go up by 16 bytes on 64-bit machines.
        length: ((register(ctx, facts.class_register) & 0xff) + 1) * 16,
        other: facts.pool_bytes.into(),
        ..MemoryEvent::default()
    };
    context::in_uprobe(ctx, |context| sample::take_memory(context, task, comm, event))
}

/// Pools are 4 KiB at least, and addresses of processes below 2^47, or 2^56 for the few that ask: unique enough.
#[inline(always)]
fn key(task: Task, address: u64) -> u64 {
    u64::from(task.pid) << 42 ^ address >> 12
}

/// The pool at the head of the first usable arena: the next free one, or else the next that was never used. None if
/// there is no such arena and a new one is about to be made (one birth of 64).
#[inline(always)]
fn next_pool(ctx: &ProbeContext, facts: &PoolFacts) -> Option<u64> {
    /// `struct arena_object` (Objects/obmalloc.c, 3.8 – 3.15): `pool_address`, `freepools`.
    const POOL_ADDRESS: u64 = 8;
    const FREE_POOLS: u64 = 24;

    let place = if facts.arenas_register == ARENAS_STATIC {
        facts.arenas
    } else {
        register(ctx, facts.arenas_register).wrapping_add(facts.arenas)
    };
    let arena = UserMemory.read_u64(place).filter(|&arena| arena != 0)?;
    match UserMemory.read_u64(arena + FREE_POOLS)? {
        0 => UserMemory.read_u64(arena + POOL_ADDRESS),
        pool => Some(pool),
    }
}
