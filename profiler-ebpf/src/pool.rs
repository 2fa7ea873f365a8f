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
    group::Group,
    limits::SIZE_CLASSES,
    python::{ARENAS_STATIC, PoolFacts},
    record::{MEMORY_POOL, MemoryEvent},
    stats::Counter,
};
use profiler_ebpf::{
    known::Place,
    memory::ReadMemory as _,
    share::{Class, Share},
};

use crate::{
    context,
    maps::{POOL_FACTS, POOLS},
    registers::register,
    sample,
    stats::{add, count},
    task::{self, config},
    user_memory::UserMemory,
};

/// Kernel only: which births of each size class to follow.
#[map]
static POOL_CLASSES: PerCpuArray<Class> = PerCpuArray::with_max_entries(SIZE_CLASSES, 0);

/// Kernel only: how many of each class.
#[map]
static POOL_SHARE: PerCpuArray<Share> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub fn try_birth(ctx: &ProbeContext) -> Result<(), Counter> {
    let Some(task) = task::current() else { return Ok(()) };
    // SAFETY: copied out at once.
    let Some(facts) = (unsafe { POOL_FACTS.get(task.pid) }).copied() else {
        return Ok(());
    };
    let size_class = register(ctx, facts.class_register) as u32 % SIZE_CLASSES;
    let class = POOL_CLASSES.get_ptr_mut(size_class).ok_or(Counter::LostNoScratch)?;
    let share = POOL_SHARE.get_ptr_mut(0).ok_or(Counter::LostNoScratch)?;
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_jiffies64() };
    // SAFETY: the pointers are to this CPU's values. Where uprobes can be preempted another one may come in between; both
    // then draw from the same gap, which makes a sample more or less. The helper is a plain call.
    let weight = unsafe {
        (*class).pass(now, config::gate_stretch(), (*share).of_class(), || {
            bpf_get_prandom_u32()
        })
    };
    let address = next_pool(ctx, &facts).unwrap_or(0);
    let place = Place::of(task.pid, address);
    let known = POOLS.get_ptr_mut(place.bucket).ok_or(Counter::LostNoScratch)?;
    // SAFETY: the pointer is to a bucket of the table. Another CPU may change it at the same time; one of the two pools then
    // stays with its former owner, which is rare enough.
    let bucket = unsafe { *known };
    let was_told = place.is_in(bucket);
    if weight == 0 && !was_told {
        return Ok(());
    }
    let comm = task::comm();
    if weight == 0 || !task::is_wanted(task, comm, Group::Probes) {
        if !was_told {
            return Ok(());
        }
        // Its former owner must not be taken for the new one.
        // SAFETY: as above.
        unsafe { *known = place.take_out(bucket) };
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
    // SAFETY: as above.
    unsafe {
        (*share).take(now, config::gate_stretch());
        add(Counter::PoolBirths, (*class).take_seen().into());
    }
    count(Counter::PoolBirthsTaken);
    if address != 0 && !was_told {
        let (bucket, lost) = place.put(bucket);
        // SAFETY: as above.
        unsafe { *known = bucket };
        if lost {
            count(Counter::LostPools);
        }
    }
    let event = MemoryEvent {
        what: MEMORY_POOL,
        weight,
        address,
        // Sizes go up by 16 bytes on 64-bit machines.
        length: u64::from(size_class + 1) * 16,
        other: facts.pool_bytes.into(),
        ..MemoryEvent::default()
    };
    context::in_uprobe(ctx, |context| sample::take_memory(context, task, comm, event))
}

/// The pool at the head of the first usable arena: the next free one, or else the next that was never used. None if
/// there is no such arena and a new one is about to be made (one birth of 64).
#[inline(always)]
fn next_pool(ctx: &ProbeContext, facts: &PoolFacts) -> Option<u64> {
    /// `struct arena_object` (Objects/obmalloc.c, 3.8 – 3.15): from `pool_address` on, over two counts, to `freepools`.
    const POOL_ADDRESS: u64 = 8;
    const WORDS: usize = 3;

    let place = if facts.arenas_register == ARENAS_STATIC {
        facts.arenas
    } else {
        register(ctx, facts.arenas_register).wrapping_add(facts.arenas)
    };
    let arena = UserMemory.read_u64(place).filter(|&arena| arena != 0)?;
    let mut words = [0u64; WORDS];
    // At once: a read costs 77 ns, however long.
    // SAFETY: `words` has room for as much.
    unsafe { UserMemory.read(arena + POOL_ADDRESS, words.as_mut_ptr().cast(), 8 * WORDS as u32) }.then_some(())?;
    match words {
        [pool_address, _, 0] => Some(pool_address),
        [_, _, free_pool] => Some(free_pool),
    }
}
