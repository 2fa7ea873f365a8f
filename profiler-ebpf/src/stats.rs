//! Counters: what did not go as a plain sample does.

use profiler_common::{python::PROBE_STEPPED, stats::Counter};

use crate::{atomic, maps::STATS};

#[inline(always)]
pub fn count(counter: Counter) {
    add(counter, 1);
}

/// Raises a counter that keeps a maximum. Of two programs that do so at the same moment the smaller may win: old kernels
/// have no atomic operation for it.
#[inline(always)]
pub fn raise(counter: Counter, value: u64) {
    if let Some(slot) = STATS.get_ptr_mut(counter as u32) {
        // SAFETY: as in `add`, but for being atomic.
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
        // SAFETY: the pointer is to a map value. The slot is this CPU's, but programs interrupt each other.
        unsafe { atomic::add(slot, amount) };
    }
}

/// A probe is hit that has this cookie.
#[inline(always)]
pub fn count_hit(cookie: u64) {
    count(Counter::EntryHits);
    if cookie as u32 & PROBE_STEPPED != 0 {
        count(Counter::SteppedHits);
    }
}
