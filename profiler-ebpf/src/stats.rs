//! Counters: what did not go as a plain sample does.

use profiler_common::{
    python::PROBE_STEPPED,
    stats::{COUNTERS, Counter},
};

use crate::{
    atomic,
    context::{Context, PROBES},
    maps::STATS,
};

/// Counts what only one group of programs can.
#[inline(always)]
pub fn count(counter: Counter) {
    add(counter, 1);
}

#[inline(always)]
pub fn add(counter: Counter, amount: u64) {
    add_in(0, counter, amount);
}

/// Counts what any program can, for the group whose working memory it is.
#[inline(always)]
pub fn count_in(context: Context, counter: Counter) {
    add_in(context, counter, 1);
}

#[inline(always)]
pub fn add_in(context: Context, counter: Counter, amount: u64) {
    if let Some(slot) = STATS.get_ptr_mut(index(context, counter)) {
        // SAFETY: the pointer is to a map value. The slot is this CPU's, but programs interrupt each other.
        unsafe { atomic::add(slot, amount) };
    }
}

/// Raises a counter that keeps a maximum. Of two programs that do so at the same moment the smaller may win: old kernels
/// have no atomic operation for it.
#[inline(always)]
pub fn raise_in(context: Context, counter: Counter, value: u64) {
    if let Some(slot) = STATS.get_ptr_mut(index(context, counter)) {
        // SAFETY: as in `add_in`, but for being atomic.
        unsafe {
            if value > *slot {
                *slot = value;
            }
        }
    }
}

#[inline(always)]
fn index(context: Context, counter: Counter) -> u32 {
    context * COUNTERS as u32 + counter as u32
}

/// A probe is hit that has this cookie.
#[inline(always)]
pub fn count_hit(cookie: u64) {
    count_in(PROBES, Counter::EntryHits);
    if cookie as u32 & PROBE_STEPPED != 0 {
        count_in(PROBES, Counter::SteppedHits);
    }
}
