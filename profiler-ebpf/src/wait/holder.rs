//! Who had the GIL that a thread has waited for, and what it does: the other thread's Python stack, in the same address
//! space.
//!
//! It is looked when the wait is over, by the thread that waited, so nobody else pays. CPython's waits for the GIL end every
//! 5 ms while another thread has it (3.8 – 3.15: `take_gil` waits with a time limit), and then that one runs on, maybe on
//! another CPU: frames can change while they are read. A chain that does not end as one does is read again, a few times. One
//! that has let go of the GIL has often not got it back, and stands still where it did.
//!
//! No code objects are copied: user space reads those it does not know.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use profiler_common::{
    python::LAYOUT_CFRAME,
    record::{NATIVE_NONE, PYTHON_COMPLETE},
};
use profiler_ebpf::{hash::mix, memory::ReadMemory as _};

use crate::{
    context::Context,
    maps::scratch,
    sample,
    task::{self, Task},
    user_memory::UserMemory,
    walk,
};

/// `struct _gil_runtime_state`: `last_holder` (3.8 – 3.15), written by who takes the GIL and by who lets go.
pub(super) const LAST_HOLDER: u64 = 8;

/// So often at most a chain is read that changes under the reader.
const ATTEMPTS: u32 = 3;

/// The address of a thread's state, and its stack.
#[derive(Clone, Copy, Default)]
pub struct Holder {
    pub state: u64,
    pub stack: [u64; 2],
}

/// Who had the GIL at this address last, if that makes sense. `task` is the running one; whether it is itself is for user
/// space to see.
#[inline(always)]
pub fn find(context: Context, task: Task, gil: u64) -> Option<Holder> {
    let state = UserMemory
        .read_u64(gil.wrapping_add(LAST_HOLDER))
        .filter(|&state| state != 0)?;
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        if walk(context, task, state) {
            break;
        }
        attempt += 1;
    }
    if attempt == ATTEMPTS || !sample::define_without_code(context) {
        return None;
    }
    let stack = scratch(context)?.record.header.stack.hash;
    Some(Holder { state, stack })
}

/// Reads the stack of the thread with this state; `false` if it makes no sense.
#[inline(always)]
fn walk(context: Context, task: Task, state: u64) -> bool {
    let Some(working) = scratch(context) else {
        return false;
    };
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
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
    walk::chain(context, frame);
    let Some(working) = scratch(context) else {
        return false;
    };
    let header = &mut working.record.header;
    let status = u64::from(header.python) << 32;
    mix(&mut header.stack, status);
    header.python == PYTHON_COMPLETE && working.record.python_len > 0
}
