//! System calls that map, unmap and move memory, once they have succeeded.
//!
//! By the raw tracepoint at the end of every system call: it costs each call on the machine some 0.1 µs (166 → 255 ns for
//! `getppid`, Linux 6.18, of which the kernel's own slow path is most), but it is everywhere. fexit programs on the five
//! functions would cost the others nothing; kernels without ftrace refuse them (the test machine's among them, with
//! EPERM), and tracepoints of single calls need a mounted tracefs and cost others nearly as much.

use aya_ebpf::{helpers::bpf_probe_read_kernel, programs::RawTracePointContext};
use profiler_common::{
    group::Group,
    record::{
        MAP_ANONYMOUS, MAP_POPULATED, MAP_RESERVED, MAP_SHARED, MAP_TMPFS, MAP_WRITABLE, MEMORY_ADVISE, MEMORY_BREAK,
        MEMORY_MAP, MEMORY_REMAP, MEMORY_UNMAP, MemoryEvent,
    },
    stats::Counter,
    unwind::REGISTER_CS,
};

use crate::{context, mapped_file, native::USER_CODE_64_BIT, sample, stats::count, task};

/// Smaller mappings are told, but not whose they are: each start of a program makes some thirty.
const WITH_STACK_BYTES: u64 = 64 * 1024;

/// Indices in `struct pt_regs`, counted in words, of the call's number and its arguments.
const NUMBER: usize = 15;
const DI: usize = 14;
const SI: usize = 13;
const DX: usize = 12;
const R10: usize = 7;
const R9: usize = 8;
const R8: usize = 9;

/// System calls by their numbers (arch/x86/entry/syscalls/syscall_64.tbl).
const MMAP: u64 = 9;
const MUNMAP: u64 = 11;
const BRK: u64 = 12;
const MREMAP: u64 = 25;
const MADVISE: u64 = 28;

/// `sys_exit(struct pt_regs *regs, long ret)`.
#[inline(always)]
pub fn try_call(ctx: &RawTracePointContext) -> Result<(), Counter> {
    let registers: u64 = ctx.arg(0);
    let read = |word: usize| {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel((registers + 8 * word as u64) as *const u64) }.unwrap_or(0)
    };
    let number = read(NUMBER);
    if !matches!(number, MMAP | MUNMAP | BRK | MREMAP | MADVISE) {
        return Ok(());
    }
    let Some(task) = task::current() else { return Ok(()) };
    // By process alone: what a thread unmaps may be another's. The numbers are others in 32-bit programs.
    if !task::is_of_wanted_process(task, Group::Calls) || read(REGISTER_CS) != USER_CODE_64_BIT {
        return Ok(());
    }
    let Some((event, with_stack)) = event(number, ctx.arg(1), read) else {
        return Ok(());
    };
    let comm = task::comm();
    count(Counter::Mappings);
    let context = context::claim_call().ok_or(Counter::LostNoContext)?;
    let outcome = if with_stack {
        sample::take_memory(context, task, comm, event)
    } else {
        sample::take_memory_without_stack(context, task, comm, event)
    };
    context::release(context);
    outcome
}

/// What a call did, and whether it matters whose it is; none if it failed or did nothing to be told.
#[inline(always)]
fn event(number: u64, result: u64, read: impl Fn(usize) -> u64) -> Option<(MemoryEvent, bool)> {
    /// An address, or the negated number of an error.
    const ERRORS_FROM: u64 = u64::MAX - 4094;
    /// `MAP_SHARED` and `MAP_ANONYMOUS` as they are passed (include/uapi/asm-generic/mman-common.h).
    const SHARED: u64 = 0x01;
    const ANONYMOUS: u64 = 0x20;
    /// `MAP_LOCKED`, `MAP_POPULATE`, and `MAP_NONBLOCK`, with which the latter does nothing (`do_mmap`, mm/mmap.c).
    const LOCKED: u64 = 0x2000;
    const POPULATE: u64 = 0x8000;
    const NONBLOCK: u64 = 0x1_0000;
    const PROT_WRITE: u64 = 0x2;
    /// `MADV_DONTNEED`, `_FREE`, `_REMOVE`, `_HUGEPAGE`, `_NOHUGEPAGE`, `_DONTNEED_LOCKED` (the same file): those that give
    /// memory back, and those that say how large its pages may be.
    const TOLD: u64 = 1 << 4 | 1 << 8 | 1 << 9 | 1 << 14 | 1 << 15 | 1 << 24;
    /// `MADV_POPULATE_READ` and `_WRITE`: pages come without a fault, and are the caller's.
    const POPULATES: u64 = 1 << 22 | 1 << 23;
    /// `MADV_GUARD_INSTALL` (6.13): what was there is gone, and touching it is an error.
    const GUARD_INSTALL: u64 = 102;

    let mut event = MemoryEvent {
        weight: 1,
        ..MemoryEvent::default()
    };
    let mut with_stack = false;
    if result >= ERRORS_FROM {
        return None;
    }
    match number {
        MMAP => {
            let (flags, access) = (read(R10), read(DX));
            event.what = MEMORY_MAP;
            event.address = result;
            event.length = read(SI);
            with_stack = event.length >= WITH_STACK_BYTES;
            if flags & ANONYMOUS != 0 {
                event.flags |= MAP_ANONYMOUS;
            } else if let Some(file) = mapped_file::of(read(R8)) {
                event.device = file.device;
                event.other = file.inode;
                event.old_length = read(R9);
                if file.in_memory {
                    event.flags |= MAP_TMPFS;
                }
            }
            if flags & SHARED != 0 {
                event.flags |= MAP_SHARED;
            }
            if access == 0 {
                event.flags |= MAP_RESERVED;
            } else if flags & LOCKED != 0 || flags & (POPULATE | NONBLOCK) == POPULATE {
                event.flags |= MAP_POPULATED;
            }
            if access & PROT_WRITE != 0 {
                event.flags |= MAP_WRITABLE;
            }
        }
        MUNMAP => {
            event.what = MEMORY_UNMAP;
            event.address = read(DI);
            event.length = read(SI);
        }
        MADVISE => {
            let advice = read(DX) & 0xffff_ffff;
            let (told, populates) = match advice {
                0..64 => (TOLD >> advice & 1 != 0, POPULATES >> advice & 1 != 0),
                _ => (advice == GUARD_INSTALL, false),
            };
            if !told && !populates {
                return None;
            }
            with_stack = populates;
            event.what = MEMORY_ADVISE;
            event.address = read(DI);
            event.length = read(SI);
            event.flags = advice as u32;
        }
        MREMAP => {
            event.what = MEMORY_REMAP;
            event.address = result;
            event.length = read(DX);
            event.other = read(DI);
            event.old_length = read(SI);
            with_stack = true;
        }
        _ => {
            // brk(0), and one that fails, say where the end is: nothing moves.
            if read(DI) != result {
                return None;
            }
            event.what = MEMORY_BREAK;
            event.address = result;
            with_stack = true;
        }
    }
    Some((event, with_stack))
}
