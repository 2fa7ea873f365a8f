//! Counters: what did not go as a plain sample does.

use profiler_common::stats::Counter;

use crate::maps::STATS;

#[inline(always)]
pub fn count(counter: Counter) {
    add(counter, 1);
}

/// Raises a counter that keeps a maximum.
#[inline(always)]
pub fn raise(counter: Counter, value: u64) {
    if let Some(slot) = STATS.get_ptr_mut(counter as u32) {
        // SAFETY: as in `add`.
        unsafe {
            if value > *slot {
                *slot = value;
            }
        }
    }
}

#[inline(always)]
pub fn add(counter: Counter, amount: u64) {
    if let Some(slot) = STATS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is this CPU's, and every program that writes it runs with preemption off. An interrupt
        // between load and store could lose one count of a program it interrupts; counters of different programs are
        // different slots.
        unsafe { *slot = (*slot).wrapping_add(amount) };
    }
}
