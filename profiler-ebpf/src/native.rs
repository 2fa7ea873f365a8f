//! Kernel and native stacks. Today the kernel's own walkers (ORC for the kernel, frame pointers for user space); the
//! unwinder by `.eh_frame` tables will take `native`'s place here.

use core::ptr::read_volatile;

use aya_ebpf::{
    EbpfContext as _, bindings::BPF_F_USER_STACK, helpers::generated::bpf_get_stack, programs::PerfEventContext,
};
use profiler_common::{
    config::{FEATURE_KERNEL_STACK, FEATURE_NATIVE_STACK},
    limits::MAX_ADDRESSES,
    stats::Counter,
};
use profiler_ebpf::{hash::mix, scratch::Scratch};

use crate::{stats::count, task::config};

/// How much of the native stack can be had.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The sampled instruction alone.
    Leaf,
    /// What frame pointers lead to.
    Whole,
}

/// Leaves the addresses at the start of the record's words: kernel first, native behind them.
#[inline(always)]
pub fn capture(ctx: &PerfEventContext, scratch: &mut Scratch, depth: Depth) {
    scratch.record.kernel_len = 0;
    scratch.record.native_len = 0;
    scratch.addresses = 0;
    if config::has(FEATURE_KERNEL_STACK) {
        match append(ctx, scratch, 0, Depth::Whole) {
            Ok(len) => scratch.record.kernel_len = len,
            Err(()) => count(Counter::KernelStackFailed),
        }
    }
    if config::has(FEATURE_NATIVE_STACK) {
        let leaf = scratch.addresses;
        // A kernel thread has no user stack: the error is the normal case.
        if let Ok(len) = append(ctx, scratch, u64::from(BPF_F_USER_STACK), depth) {
            scratch.record.native_len = len;
            if len > 0 {
                merge_eval_loop(scratch, leaf);
            }
        }
    }
    let lengths = u64::from(scratch.record.kernel_len) << 32 | u64::from(scratch.record.native_len);
    mix(&mut scratch.record.header.stack, lengths);
    hash_addresses(scratch);
}

/// Appends one stack to the words; its length.
#[inline(always)]
fn append(ctx: &PerfEventContext, scratch: &mut Scratch, flags: u64, depth: Depth) -> Result<u32, ()> {
    // SAFETY: a reference is valid for reads. Volatile: see the documentation of the crate's library.
    let at = unsafe { read_volatile(&scratch.addresses) } as usize & (MAX_ADDRESSES - 1);
    // SAFETY: `at` and the stack are at most MAX_ADDRESSES words each, and `words` is longer than both.
    let bytes = unsafe {
        let into = scratch.record.words.as_mut_ptr().add(at).cast();
        match depth {
            Depth::Leaf => bpf_get_stack(ctx.as_ptr(), into, 8, flags),
            Depth::Whole => bpf_get_stack(ctx.as_ptr(), into, ((MAX_ADDRESSES - 1) * 8) as u32, flags),
        }
    };
    if bytes < 0 {
        return Err(());
    }
    let len = (bytes as u64 / 8) as u32;
    scratch.addresses += len;
    Ok(len)
}

/// The evaluation loop gives way to the Python frames it runs, so where in it a sample falls does not matter: without
/// this nearly every sample of interpreted code would be a stack of its own.
#[inline(always)]
fn merge_eval_loop(scratch: &mut Scratch, leaf: u32) {
    if scratch.record.header.instance == 0 {
        return;
    }
    // SAFETY: a local is valid for reads. Volatile: see the documentation of the crate's library.
    let at = unsafe { read_volatile(&raw const leaf) } as usize & (MAX_ADDRESSES - 1);
    // SAFETY: `at` is masked to less than the array's length.
    let slot = unsafe { &mut *scratch.record.words.as_mut_ptr().add(at) };
    let process = &scratch.process;
    if *slot >= process.eval_start[0] && *slot < process.eval_end[0] {
        *slot = process.eval_start[0];
    } else if *slot >= process.eval_start[1] && *slot < process.eval_end[1] {
        *slot = process.eval_start[1];
    }
}

#[inline(always)]
fn hash_addresses(scratch: &mut Scratch) {
    // SAFETY: a reference is valid for reads. Volatile: see the documentation of the crate's library.
    let len = unsafe { read_volatile(&scratch.addresses) };
    let mut i = 0usize;
    while i < 2 * MAX_ADDRESSES {
        if i as u32 >= len {
            break;
        }
        // SAFETY: `i` is below the array's length.
        mix(&mut scratch.record.header.stack, unsafe {
            *scratch.record.words.as_ptr().add(i)
        });
        i += 1;
    }
}
