//! Whether a thread that has waited had the GIL all the while: a C function that does not release it, or a page that had to
//! be read. Looked at when the wait is over: only the thread itself could have changed it, and it did not run.

use profiler_common::wait::{EVENT_HOLDS_GIL, WAIT_GIL, WAIT_STOPPED, WaitSlot};
use profiler_ebpf::memory::ReadMemory as _;

use super::holder::LAST_HOLDER;
use crate::{context::Context, maps::scratch, task, user_memory::UserMemory};

/// `struct _gil_runtime_state`: `locked` (3.8 – 3.15).
const LOCKED: u64 = 16;

/// What is to be said of the wait of the running thread (`EVENT_…`), whose stack is in the working memory.
#[inline(always)]
pub fn flags(slot: &WaitSlot, class: u32, context: Context) -> u32 {
    // Whoever waits for it has none, and of a process that is stopped nobody runs.
    if slot.gil == 0 || class == WAIT_GIL || class == WAIT_STOPPED {
        return 0;
    }
    match has_gil(slot.gil, context) {
        Some(true) => EVENT_HOLDS_GIL,
        Some(false) | None => 0,
    }
}

#[inline(always)]
fn has_gil(gil: u64, context: Context) -> Option<bool> {
    let working = scratch(context)?;
    if working.record.header.instance == 0 {
        return None;
    }
    let state = UserMemory.read_u64(gil.wrapping_add(LAST_HOLDER))?;
    // It stays named when it has given it up.
    let locked = UserMemory.read_u64(gil.wrapping_add(LOCKED))?;
    if state == 0 || locked as u32 != 1 {
        return Some(false);
    }
    let owner = UserMemory.read_u64(state.wrapping_add(working.process.thread_id.into()))?;
    Some(owner == task::fs_base())
}
