//! Exact mode: every call of an allocator.
//!
//! A probe on entry keeps what is asked for, one on return sees the block; a table of live blocks knows whose a block is
//! that is given back. User space is told of each by forty bytes, in order: it needs no table of addresses.
//!
//! Allocators call each other (pymalloc passes large requests on, `realloc` frees and allocates): of calls inside one
//! another the outermost counts.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_attach_cookie, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::map,
    maps::PerCpuArray,
    programs::ProbeContext,
};
use profiler_common::{
    group::Group,
    python::{ALLOCATION_CALLOC, ALLOCATION_REALLOC},
    record::{BlockRecord, MEMORY_SITE, MemoryEvent, RECORD_BLOCK, SITE_UNKNOWN, StackKey},
    stats::Counter,
};

use crate::{
    context::{self, Context},
    maps::{BLOCKS, PENDING, SITES, scratch},
    output,
    registers::register,
    sample,
    stats::{add_in, count, count_hit, count_in},
    task::{self, Task},
};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct BlockKey {
    pub address: u64,
    pub pid: u64,
}

/// A block that lives.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Block {
    pub bytes: u64,
    pub born_ns: u64,
    pub site: u32,
    /// Who allocated it, and how many allocations that thread had made.
    pub tid: u32,
    pub sequence: u32,
    pub reserved: u32,
}

/// A stack of a thread.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SiteKey {
    pub stack: StackKey,
    pub tid: u64,
}

/// A thread inside an allocating function.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pending {
    /// What the outermost call asks for.
    pub bytes: u64,
    /// The block it is to replace, or 0.
    pub old: u64,
    /// Where the stack was when it was entered: a call from inside it is further down.
    pub stack_pointer: u64,
    pub depth: u32,
    /// Allocations of the thread so far.
    pub sequence: u32,
}

/// Kernel only: numbers of sites that were given out.
#[map]
static LAST_SITE: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Each CPU numbers the sites it meets: the low bits of a number.
const SITE_BITS: u32 = 20;

/// `rsp` in `struct pt_regs`, and `rax`.
const STACK_POINTER: usize = 19;
const RESULT: u32 = 10;

/// An allocating function is entered.
#[inline(always)]
pub fn try_entry(ctx: &ProbeContext) -> Result<(), Counter> {
    // SAFETY: plain helper calls.
    let (started_ns, cookie) = unsafe { (bpf_ktime_get_ns(), bpf_get_attach_cookie(ctx.as_ptr())) };
    let Some(task) = wanted() else { return Ok(()) };
    count_hit(cookie);
    let (first, second) = (
        register(ctx, (cookie >> 8 & 0xff) as u32),
        register(ctx, (cookie >> 16 & 0xff) as u32),
    );
    let (bytes, old) = match cookie as u32 & 0x7f {
        ALLOCATION_CALLOC => (first.wrapping_mul(second), 0),
        ALLOCATION_REALLOC => (second, first),
        _ => (first, 0),
    };
    // SAFETY: the context is a `struct pt_regs`.
    let stack_pointer = unsafe { *ctx.as_ptr().cast::<u64>().add(STACK_POINTER) };
    let Some(pending) = PENDING.get_ptr_mut(task.tid) else {
        let pending = Pending {
            bytes,
            old,
            stack_pointer,
            depth: 1,
            sequence: 0,
        };
        return PENDING.insert(task.tid, pending, 0).map_err(|_| Counter::LostSites);
    };
    // SAFETY: the pointer is to a map value that only this thread uses, and a value that is replaced meanwhile is only
    // given to another thread.
    unsafe {
        // Not from inside a call that is under way: that one never came to its return (a `longjmp`).
        if (*pending).depth > 0 && stack_pointer >= (*pending).stack_pointer {
            (*pending).depth = 0;
        }
        if (*pending).depth == 0 {
            (*pending).bytes = bytes;
            (*pending).old = old;
            (*pending).stack_pointer = stack_pointer;
        }
        (*pending).depth += 1;
    }
    spent(started_ns);
    Ok(())
}

/// An allocating function returns.
#[inline(always)]
pub fn try_return(ctx: &ProbeContext) -> Result<(), Counter> {
    // SAFETY: a plain helper call.
    let started_ns = unsafe { bpf_ktime_get_ns() };
    let Some(task) = wanted() else { return Ok(()) };
    count_in(context::PROBES, Counter::ReturnHits);
    let Some(pending) = PENDING.get_ptr_mut(task.tid) else {
        return Ok(());
    };
    // SAFETY: as in `try_entry`.
    let (pending, sequence) = unsafe {
        // Entered before the probes were there, or from inside another.
        if (*pending).depth != 1 {
            (*pending).depth = (*pending).depth.saturating_sub(1);
            return Ok(());
        }
        (*pending).depth = 0;
        (*pending).sequence = (*pending).sequence.wrapping_add(1);
        (*pending, (*pending).sequence)
    };
    count(Counter::Allocations);
    let address = register(ctx, RESULT);
    // The old block stays as it is where there is no new one.
    if address == 0 {
        spent(started_ns);
        return Ok(());
    }
    if pending.old != 0 {
        release(task, pending.old, started_ns, sequence);
    }
    context::in_uprobe(ctx, |context| {
        let site = site(context, task)?;
        let block = Block {
            bytes: pending.bytes,
            born_ns: started_ns,
            site,
            tid: task.tid,
            sequence,
            reserved: 0,
        };
        BLOCKS
            .insert(key(task, address), block, 0)
            .map_err(|_| Counter::LostBlocks)?;
        send(&block, started_ns, 0, 0)?;
        spent(started_ns);
        Ok(())
    })
}

/// A stub has sampled a block, and it is there (`memory --sampled`): address and size are the first two arguments. Its end
/// comes by [`try_free`].
#[inline(always)]
pub fn try_sampled(ctx: &ProbeContext) -> Result<(), Counter> {
    // SAFETY: plain helper calls.
    let (started_ns, cookie) = unsafe { (bpf_ktime_get_ns(), bpf_get_attach_cookie(ctx.as_ptr())) };
    let Some(task) = wanted() else { return Ok(()) };
    count_hit(cookie);
    let address = register(ctx, (cookie >> 8 & 0xff) as u32);
    let bytes = register(ctx, (cookie >> 16 & 0xff) as u32);
    count(Counter::Allocations);
    context::in_uprobe(ctx, |context| {
        let site = site(context, task)?;
        let block = Block {
            bytes,
            born_ns: started_ns,
            site,
            tid: task.tid,
            sequence: 0,
            reserved: 0,
        };
        BLOCKS
            .insert(key(task, address), block, 0)
            .map_err(|_| Counter::LostBlocks)?;
        send(&block, started_ns, 0, 0)?;
        spent(started_ns);
        Ok(())
    })
}

/// A block is given back.
#[inline(always)]
pub fn try_free(ctx: &ProbeContext) -> Result<(), Counter> {
    // SAFETY: plain helper calls.
    let (started_ns, cookie) = unsafe { (bpf_ktime_get_ns(), bpf_get_attach_cookie(ctx.as_ptr())) };
    let Some(task) = wanted() else { return Ok(()) };
    count_hit(cookie);
    let address = register(ctx, (cookie >> 8 & 0xff) as u32);
    let mut sequence = 0;
    if let Some(pending) = PENDING.get_ptr_mut(task.tid) {
        // SAFETY: as in `try_entry`.
        let (depth, so_far) = unsafe { ((*pending).depth, (*pending).sequence) };
        // What `realloc` does with the old block is told when it returns.
        if depth > 0 {
            return Ok(());
        }
        sequence = so_far;
    }
    if address == 0 {
        return Ok(());
    }
    count(Counter::Frees);
    release(task, address, started_ns, sequence);
    spent(started_ns);
    Ok(())
}

/// Takes a block out of the table and tells of it, if it is there.
#[inline(always)]
fn release(task: Task, address: u64, now_ns: u64, sequence: u32) {
    let key = key(task, address);
    // SAFETY: copied out at once.
    let Some(block) = (unsafe { BLOCKS.get(key) }).copied() else {
        return;
    };
    // Not there any more: another thread was faster, and has told of it.
    if BLOCKS.remove(key).is_err() {
        return;
    }
    let distance = if block.tid == task.tid {
        sequence.wrapping_sub(block.sequence)
    } else {
        u32::MAX
    };
    if let Err(lost) = send(&block, now_ns, block.born_ns, distance) {
        count(lost);
    }
}

#[inline(always)]
fn send(block: &Block, time_ns: u64, born_ns: u64, distance: u32) -> Result<(), Counter> {
    let record = BlockRecord {
        kind: RECORD_BLOCK,
        site: block.site,
        time_ns,
        born_ns,
        bytes: block.bytes,
        distance,
        reserved: 0,
    };
    if output::send_block(&record) {
        Ok(())
    } else {
        Err(Counter::LostMemoryEvents)
    }
}

/// The number of the running thread's stack.
#[inline(always)]
fn site(context: Context, task: Task) -> Result<u32, Counter> {
    let comm = task::comm();
    sample::stack(None, context, task, comm)?;
    let stack = scratch(context).ok_or(Counter::LostNoScratch)?.record.header.stack;
    let key = SiteKey {
        stack,
        tid: task.tid.into(),
    };
    // SAFETY: copied out at once.
    if let Some(&site) = unsafe { SITES.get(key) } {
        return Ok(site);
    }
    let last = LAST_SITE.get_ptr_mut(0).ok_or(Counter::LostNoScratch)?;
    // SAFETY: the value is this CPU's. A thread that comes in between takes the next number or the same one: then two
    // stacks have one number, and the later one has it all. It takes a preemption between two instructions.
    let number = unsafe {
        *last = (*last).wrapping_add(1);
        *last
    };
    // SAFETY: a plain helper call.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if number >= 1 << SITE_BITS
        || cpu >= u32::MAX >> SITE_BITS
        || SITES.insert(key, cpu << SITE_BITS | number, 0).is_err()
    {
        count(Counter::LostSites);
        return Ok(SITE_UNKNOWN);
    }
    let site = cpu << SITE_BITS | number;
    let event = MemoryEvent {
        what: MEMORY_SITE,
        weight: site,
        ..MemoryEvent::default()
    };
    sample::send_defined(context, event)?;
    Ok(site)
}

#[inline(always)]
fn key(task: Task, address: u64) -> BlockKey {
    BlockKey {
        address,
        pid: task.pid.into(),
    }
}

#[inline(always)]
fn wanted() -> Option<Task> {
    let task = task::current()?;
    task::is_of_wanted_process(task, Group::Probes).then_some(task)
}

#[inline(always)]
fn spent(started_ns: u64) {
    // SAFETY: a plain helper call.
    add_in(
        context::PROBES,
        Counter::RunTimeNs,
        unsafe { bpf_ktime_get_ns() }.wrapping_sub(started_ns),
    );
}
