//! Who has the GIL that a thread goes to wait for, and what it does: the other thread's Python stack, in the same address
//! space.
//!
//! The other thread usually runs meanwhile, on another CPU: frames can change while they are read. A chain that does not
//! end as one does is read again, a few times; what is told is an approximation, and marked so. The scheduler holds its
//! locks here, so no code objects are copied (user space reads those it does not know), and it is done once in a while only.

use profiler_common::{
    python::LAYOUT_CFRAME,
    record::{NATIVE_NONE, PYTHON_COMPLETE},
    wait::{HOLDER_EVERY_NS, WaitSlot},
};
use profiler_ebpf::{hash::mix, memory::ReadMemory as _};

use crate::{
    context::GIL_HOLDER,
    maps::scratch,
    sample,
    task::{self, Task},
    user_memory::UserMemory,
    walk,
};

/// `struct _gil_runtime_state`: `last_holder` and `locked` (3.8 – 3.15).
const LAST_HOLDER: u64 = 8;
const LOCKED: u64 = 16;

/// So often at most a chain is read that changes under the reader.
const ATTEMPTS: u32 = 3;

/// Notes in the slot who has the GIL; the running thread is about to wait for it.
#[inline(always)]
pub fn note(slot: &mut WaitSlot, now_ns: u64) {
    slot.holder_state = 0;
    if now_ns.wrapping_sub(slot.holder_ns) < HOLDER_EVERY_NS {
        return;
    }
    slot.holder_ns = now_ns;
    let gil = slot.gil;
    let (Some(state), Some(locked)) = (
        UserMemory.read_u64(gil.wrapping_add(LAST_HOLDER)),
        UserMemory.read_u64(gil.wrapping_add(LOCKED)),
    ) else {
        return;
    };
    if state == 0 || locked as u32 != 1 {
        return;
    }
    let task = Task {
        pid: slot.shown_pid,
        tid: slot.shown_tid,
    };
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        if walk(task, state, now_ns) {
            break;
        }
        attempt += 1;
    }
    if attempt == ATTEMPTS || !sample::define_without_code(GIL_HOLDER) {
        return;
    }
    let Some(working) = scratch(GIL_HOLDER) else { return };
    slot.holder_stack = working.record.header.stack.hash;
    slot.holder_state = state;
}

/// Reads the stack of the thread with this state; `false` if it makes no sense.
#[inline(always)]
fn walk(task: Task, state: u64, now_ns: u64) -> bool {
    let Some(working) = scratch(GIL_HOLDER) else {
        return false;
    };
    sample::begin(working, task, task::comm(), now_ns);
    sample::find_python(working, task);
    if working.record.header.instance == 0 {
        return false;
    }
    working.record.kernel_len = 0;
    working.record.native_len = 0;
    working.record.native_status = NATIVE_NONE;
    working.addresses = 0;
    let process = &working.process;
    let Some(mut frame) = UserMemory.read_u64(state.wrapping_add(process.thread_frame.into())) else {
        return false;
    };
    if process.flags & LAYOUT_CFRAME != 0 {
        let Some(current) = UserMemory.read_u64(frame.wrapping_add(process.cframe_current.into())) else {
            return false;
        };
        frame = current;
    }
    walk::chain(GIL_HOLDER, frame);
    let Some(working) = scratch(GIL_HOLDER) else {
        return false;
    };
    let header = &mut working.record.header;
    let status = u64::from(header.python) << 32;
    mix(&mut header.stack, status);
    header.python == PYTHON_COMPLETE && working.record.python_len > 0
}
