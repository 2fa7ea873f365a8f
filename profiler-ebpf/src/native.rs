//! Kernel and native stacks: the kernel's own walker (ORC) for the kernel, the unwinder of the library for user space.
//!
//! A service for every program of this object, whatever event it hangs on: it needs the running task and the working
//! memory of a [`Context`], nothing of the event. (For the kernel's stack it needs the program's own context.)

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_stack;
use profiler_common::{
    config::{FEATURE_KERNEL_STACK, FEATURE_NATIVE_STACK},
    limits::{ADDRESS_SLOTS, MAX_KERNEL_ADDRESSES, MAX_NATIVE_ADDRESSES},
    record::{NATIVE_32_BIT, NATIVE_NONE, NATIVE_UNKNOWN_PROCESS},
    stats::Counter,
    unwind::REGISTER_CS,
};
use profiler_ebpf::{hash::mix, scratch::Scratch, unwind};

use crate::{
    context::Context,
    maps::{PROCESSES, Tables, scratch},
    stats::count_in,
    task::{self, config},
    user_memory::UserMemory,
};

const FRAMES_PER_CALL: u32 = 8;

/// Leaves the addresses at the start of the record's words: kernel first, native behind them.
///
/// No reference to the working memory may be held across this: `unwind_some` makes its own.
#[inline(always)]
pub fn capture(event: Option<*mut c_void>, context: Context) -> Result<(), Counter> {
    let memory = scratch(context).ok_or(Counter::LostNoScratch)?;
    memory.record.kernel_len = 0;
    memory.record.native_len = 0;
    memory.record.native_status = NATIVE_NONE;
    if config::has(FEATURE_KERNEL_STACK)
        && let Some(event) = event
    {
        capture_kernel(event, context, memory);
    }
    if config::has(FEATURE_NATIVE_STACK) && start(memory) {
        let mut calls = 0;
        while calls < MAX_NATIVE_ADDRESSES as u32 / FRAMES_PER_CALL + 1 {
            if unwind_some(context) != 0 {
                break;
            }
            calls += 1;
        }
    }
    let memory = scratch(context).ok_or(Counter::LostNoScratch)?;
    let record = &mut memory.record;
    memory.addresses = record.kernel_len + record.native_len;
    let lengths = u64::from(record.kernel_len) << 32 | u64::from(record.native_len);
    mix(&mut record.header.stack, lengths);
    mix(&mut record.header.stack, u64::from(record.native_status));
    Ok(())
}

/// No addresses at all.
#[inline(always)]
pub fn none(context: Context) -> Result<(), Counter> {
    let memory = scratch(context).ok_or(Counter::LostNoScratch)?;
    memory.record.kernel_len = 0;
    memory.record.native_len = 0;
    memory.record.native_status = NATIVE_NONE;
    memory.addresses = 0;
    Ok(())
}

#[inline(always)]
fn capture_kernel(event: *mut c_void, context: Context, memory: &mut Scratch) {
    // SAFETY: `words` has more than MAX_KERNEL_ADDRESSES.
    let bytes = unsafe {
        let into = memory.record.words.as_mut_ptr().cast();
        bpf_get_stack(event, into, (MAX_KERNEL_ADDRESSES * 8) as u32, 0)
    };
    if bytes < 0 {
        count_in(context, Counter::KernelStackFailed);
        return;
    }
    let len = (bytes as u64 / 8) as u32;
    memory.record.kernel_len = len;
    let mut i = 0;
    while i < MAX_KERNEL_ADDRESSES {
        if i as u32 >= len {
            break;
        }
        // SAFETY: `i` is below the array's length.
        mix(&mut memory.record.header.stack, unsafe {
            *memory.record.words.as_ptr().add(i)
        });
        i += 1;
    }
}

/// `__USER_CS` of 64-bit programs (arch/x86/include/asm/segment.h).
pub const USER_CODE_64_BIT: u64 = 0x33;

/// Prepares the unwinder; `false` if there is nothing to unwind.
#[inline(always)]
fn start(memory: &mut Scratch) -> bool {
    if !task::user_registers(&mut memory.unwind.registers) {
        return false;
    }
    unwind::start(memory);
    if memory.unwind.registers[REGISTER_CS] != USER_CODE_64_BIT {
        unwind::leaf(memory, NATIVE_32_BIT);
        return false;
    }
    // SAFETY: copied out at once.
    let Some(process) = (unsafe { PROCESSES.get(memory.record.header.pid) }) else {
        unwind::leaf(memory, NATIVE_UNKNOWN_PROCESS);
        return false;
    };
    memory.unwind.process.first_mapping = process.first_mapping;
    memory.unwind.process.mappings = process.mappings;
    true
}

/// Unwinds a few frames; 0 if there are more. A global function, for the reasons in `walk`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unwind_some(context: Context) -> u64 {
    let Some(memory) = scratch(context) else { return 1 };
    let mut i = 0;
    while i < FRAMES_PER_CALL {
        if !unwind::step(&UserMemory, &Tables, memory) {
            return 1;
        }
        i += 1;
    }
    0
}

const _: () = assert!(MAX_KERNEL_ADDRESSES < ADDRESS_SLOTS);
