//! A probe's registers by number: which one holds an argument depends on the build.

use aya_ebpf::{EbpfContext as _, programs::ProbeContext};

/// A register by its index in `struct pt_regs`, counted in words; 0 for one that cannot be asked for.
#[inline(always)]
pub fn register(ctx: &ProbeContext, index: u32) -> u64 {
    let registers = ctx.as_ptr().cast::<u64>();
    // The offset of each load must be a constant.
    // SAFETY: the context is a `struct pt_regs`, which has 21 words.
    unsafe {
        match index {
            0 => *registers,
            1 => *registers.add(1),
            2 => *registers.add(2),
            3 => *registers.add(3),
            4 => *registers.add(4),
            5 => *registers.add(5),
            6 => *registers.add(6),
            7 => *registers.add(7),
            8 => *registers.add(8),
            9 => *registers.add(9),
            10 => *registers.add(10),
            11 => *registers.add(11),
            12 => *registers.add(12),
            13 => *registers.add(13),
            14 => *registers.add(14),
            _ => 0,
        }
    }
}
