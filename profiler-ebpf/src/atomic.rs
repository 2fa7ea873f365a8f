//! Atomic operations: the one that every kernel has, and one that 5.12 brought.

use core::arch::asm;

/// Adds `amount`, in one piece whatever interrupts, and wraps around.
///
/// In assembly: the compiler offers this target no more than atomic loads and stores (`atomic-cas` is false for it).
///
/// # Safety
/// `place` must point to a map value.
#[inline(always)]
pub unsafe fn add(place: *mut u64, amount: u64) {
    // SAFETY: by contract; the instruction reads and writes those eight bytes.
    unsafe {
        asm!(
            "lock *(u64 *)({place} + 0) += {amount}",
            place = in(reg) place,
            amount = in(reg) amount,
            options(nostack),
        );
    }
}

/// The same, and returns what was there before. Linux 5.12 and later.
///
/// # Safety
/// `place` must point to a map value.
#[inline(always)]
pub unsafe fn fetch_add(place: *mut u64, amount: u64) -> u64 {
    let mut before = amount;
    // SAFETY: as above.
    unsafe {
        asm!(
            "{before} = atomic_fetch_add((u64 *)({place} + 0), {before})",
            place = in(reg) place,
            before = inout(reg) before,
            options(nostack),
        );
    }
    before
}
