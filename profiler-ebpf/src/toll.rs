//! What each thread has been stopped for by us so far, where calls are timed: the probes that were hit, and the breakpoints,
//! while a call was under way are in its time.

use profiler_common::python::Toll;

use crate::{maps::TOLLS, task::Task};

/// One stop.
#[derive(Clone, Copy)]
pub enum Stop {
    Emulated,
    Stepped,
    Return,
    Watch,
}

/// What a thread has paid so far, the stop that is going on left out.
#[inline(always)]
pub fn so_far(task: Task) -> Toll {
    // SAFETY: copied out at once; the thread itself is the only one that writes it.
    unsafe { TOLLS.get(task.tid) }.copied().unwrap_or_default()
}

/// What a thread has paid since then. An entry that had to make room in between has forgotten it: nothing is known then, and
/// nothing is taken off.
#[inline(always)]
pub fn since(task: Task, before: &Toll) -> Toll {
    let now = so_far(task);
    if now.program_ns < before.program_ns {
        return Toll::default();
    }
    Toll {
        emulated: now.emulated.wrapping_sub(before.emulated),
        stepped: now.stepped.wrapping_sub(before.stepped),
        returns: now.returns.wrapping_sub(before.returns),
        watches: now.watches.wrapping_sub(before.watches),
        program_ns: now.program_ns - before.program_ns,
    }
}

/// The stop that is going on is about to end.
#[inline(always)]
pub fn pay(task: Task, stop: Stop, program_ns: u64) {
    if TOLLS.get_ptr_mut(task.tid).is_none() {
        // Where there is no room, calls of this thread seem to take longer than they do.
        let _ = TOLLS.insert(task.tid, Toll::default(), 0);
    }
    let Some(toll) = TOLLS.get_ptr_mut(task.tid) else {
        return;
    };
    // SAFETY: the pointer is to a map value, which this thread alone writes.
    unsafe {
        let hits = match stop {
            Stop::Emulated => &raw mut (*toll).emulated,
            Stop::Stepped => &raw mut (*toll).stepped,
            Stop::Return => &raw mut (*toll).returns,
            Stop::Watch => &raw mut (*toll).watches,
        };
        *hits = (*hits).wrapping_add(1);
        (*toll).program_ns = (*toll).program_ns.wrapping_add(program_ns);
    }
}
