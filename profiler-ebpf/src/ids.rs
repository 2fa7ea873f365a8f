//! What user space calls a task.
//!
//! The kernel's own numbers are those of the initial pid namespace. A profiler that runs in another one (a container
//! without `--pid=host`) reads other numbers in its /proc, so here they are translated into its namespace's. Tasks
//! outside of it have no number there and are not sampled.

use core::ptr::read_volatile;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel, generated::bpf_get_current_task};
use profiler_common::{config::FEATURE_PID_NAMESPACE, stats::Counter};

use crate::{
    stats::count,
    task::{Task, config},
};

/// The running task; its ids are 0 if it has none in our namespace.
#[inline(always)]
pub fn current() -> Task {
    if config::has(FEATURE_PID_NAMESPACE) {
        // SAFETY: a plain helper call.
        let task = unsafe { bpf_get_current_task() };
        let ids = in_namespace(task).unwrap_or(Task { pid: 0, tid: 0 });
        if ids.tid == 0 && bpf_get_current_pid_tgid() as u32 != 0 {
            count(Counter::OutsideNamespace);
        }
        return ids;
    }
    let pid_tgid = bpf_get_current_pid_tgid();
    Task {
        pid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
    }
}

/// The ids of a task by the address of its `task_struct`; `None` if it cannot be read.
#[inline(always)]
pub fn of(task: u64) -> Option<Task> {
    if config::has(FEATURE_PID_NAMESPACE) {
        return in_namespace(task);
    }
    Some(Task {
        pid: read(task, config::task_pid_offset())?,
        tid: read(task, config::task_tid_offset())?,
    })
}

/// Index of the process's `struct pid` in `signal_struct.pids` (`PIDTYPE_TGID`, include/linux/pid_types.h, 4.19 – 7.2).
const PIDTYPE_TGID: u32 = 1;

#[inline(always)]
fn in_namespace(task: u64) -> Option<Task> {
    let thread = read(task, config::task_thread_pid_offset())?;
    let signal = read(task, config::task_signal_offset())?;
    let process = read(signal, config::signal_pids_offset() + 8 * PIDTYPE_TGID)?;
    let (pid, tid) = (pid_number(process), pid_number(thread));
    (pid != NOT_READABLE && tid != NOT_READABLE).then_some(Task {
        pid: pid as u32,
        tid: tid as u32,
    })
}

const NOT_READABLE: u64 = u64::MAX;

/// How deep pid namespaces may be nested below ours (the kernel allows 32 in all).
const MOST_LEVELS: u32 = 8;

/// The number of the `struct pid` at an address in our namespace; 0 if it has none.
/// A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pid_number(pid: u64) -> u64 {
    number(pid).map_or(NOT_READABLE, u64::from)
}

#[inline(always)]
fn number(pid: u64) -> Option<u32> {
    /// `struct upid { int nr; struct pid_namespace *ns; }`
    const UPID_BYTES: u32 = 16;
    const UPID_NAMESPACE: u32 = 8;

    let level: u32 = read(pid, config::pid_level_offset())?;
    let mut above = 0;
    // From its own namespace upwards: ours is usually the first.
    while above < MOST_LEVELS {
        // SAFETY: a local is valid for reads. Volatile: LLVM would join the two bounds into one that no verifier follows.
        if above > unsafe { read_volatile(&raw const level) } {
            break;
        }
        let upid = config::pid_numbers_offset() + UPID_BYTES * (level - above);
        let namespace: u64 = read(pid, upid + UPID_NAMESPACE)?;
        if read::<u32>(namespace, config::namespace_inum_offset())? == config::pid_namespace() {
            return read(pid, upid);
        }
        above += 1;
    }
    Some(0)
}

#[inline(always)]
fn read<T>(address: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((address + u64::from(offset)) as *const T) }.ok()
}
