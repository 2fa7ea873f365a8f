//! Kernel and native stacks. Today the kernel's own walkers (ORC for the kernel, frame pointers for user space); the
//! unwinder by `.eh_frame` tables will take `native`'s place here.

use aya_ebpf::{
    EbpfContext as _, bindings::BPF_F_USER_STACK, helpers::generated::bpf_get_stack, programs::PerfEventContext,
};
use profiler_common::{
    config::{FEATURE_KERNEL_STACK, FEATURE_NATIVE_STACK},
    limits::MAX_ADDRESSES,
    record::StackKey,
    stats::Counter,
};
use profiler_ebpf::{hash::mix, scratch::Scratch};

use crate::{stats::count, task::config};

#[inline(always)]
pub fn capture(ctx: &PerfEventContext, scratch: &mut Scratch) {
    scratch.record.kernel_len = 0;
    scratch.record.native_len = 0;
    if config::has(FEATURE_KERNEL_STACK) {
        match stack(ctx, &mut scratch.record.kernel, 0) {
            Ok(len) => scratch.record.kernel_len = len,
            Err(()) => count(Counter::KernelStackFailed),
        }
        hash_addresses(
            &mut scratch.record.header.stack,
            &scratch.record.kernel,
            &scratch.record.kernel_len,
        );
    }
    if config::has(FEATURE_NATIVE_STACK) {
        // A kernel thread has no user stack: the error is the normal case.
        if let Ok(len) = stack(ctx, &mut scratch.record.native, u64::from(BPF_F_USER_STACK)) {
            scratch.record.native_len = len;
        }
        hash_addresses(
            &mut scratch.record.header.stack,
            &scratch.record.native,
            &scratch.record.native_len,
        );
    }
}

#[inline(always)]
fn stack(ctx: &PerfEventContext, into: &mut [u64; MAX_ADDRESSES], flags: u64) -> Result<u32, ()> {
    // SAFETY: `into` is as long as is said.
    let bytes = unsafe {
        bpf_get_stack(
            ctx.as_ptr(),
            into.as_mut_ptr().cast(),
            (MAX_ADDRESSES * 8) as u32,
            flags,
        )
    };
    if bytes < 0 {
        Err(())
    } else {
        Ok((bytes as u64 / 8) as u32)
    }
}

#[inline(always)]
fn hash_addresses(key: &mut StackKey, addresses: &[u64; MAX_ADDRESSES], len: &u32) {
    // SAFETY: a reference is valid for reads. Volatile: see the documentation of the crate's library.
    let len = unsafe { core::ptr::read_volatile(len) };
    mix(key, u64::from(len));
    let mut i = 0usize;
    while i < MAX_ADDRESSES {
        if i as u32 >= len {
            break;
        }
        // SAFETY: `i` is below the array's length.
        mix(key, unsafe { *addresses.as_ptr().add(i) });
        i += 1;
    }
}
