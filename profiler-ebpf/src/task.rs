//! The task that runs on this CPU: who it is, and whether it is wanted.

use core::ptr::read_volatile;

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid,
    generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_task_btf},
};
use profiler_common::config::{
    Config, FEATURE_FILTER_CGROUP, FEATURE_FILTER_COMM, FEATURE_FILTER_PID, FEATURE_FILTER_TID,
};

use crate::maps::{TARGET_PIDS, TARGET_TIDS};

/// Set by user space before loading; read-only afterwards, so the verifier drops the branches a run does not take.
#[unsafe(no_mangle)]
static CONFIG: Config = Config {
    features: 0,
    fsbase_offset: 0,
    task_tid_offset: 0,
    task_pid_offset: 0,
    own_pid: 0,
    cgroup_level: 0,
    cgroup_id: 0,
    comm: [0; 2],
    hash_seed: [0; 2],
};

macro_rules! config {
    ($($field:ident: $type:ty),* $(,)?) => {$(
        #[inline(always)]
        pub fn $field() -> $type {
            // SAFETY: a static is valid for reads. Volatile: the compiler must not fold the initial value in.
            unsafe { read_volatile(&raw const CONFIG.$field) }
        }
    )*};
}

/// Reads of [`CONFIG`].
pub mod config {
    use super::{CONFIG, read_volatile};

    config!(
        features: u32,
        fsbase_offset: u32,
        task_tid_offset: u32,
        task_pid_offset: u32,
        own_pid: u32,
        cgroup_level: u32,
        cgroup_id: u64,
        comm: [u64; 2],
        hash_seed: [u64; 2],
    );

    #[inline(always)]
    pub fn has(feature: u32) -> bool {
        features() & feature != 0
    }
}

#[derive(Clone, Copy)]
pub struct Task {
    pub pid: u32,
    pub tid: u32,
}

/// The running task; `None` for the idle task and for the profiler itself.
#[inline(always)]
pub fn current() -> Option<Task> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let task = Task {
        pid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
    };
    (task.tid != 0 && task.pid != config::own_pid()).then_some(task)
}

/// Whether the user asked for this task. `comm` is its name.
#[inline(always)]
pub fn is_wanted(task: Task, comm: [u64; 2]) -> bool {
    // SAFETY: the values are copied out at once.
    if config::has(FEATURE_FILTER_PID) && unsafe { TARGET_PIDS.get(task.pid) }.is_none() {
        return false;
    }
    // SAFETY: the values are copied out at once.
    if config::has(FEATURE_FILTER_TID) && unsafe { TARGET_TIDS.get(task.tid) }.is_none() {
        return false;
    }
    if config::has(FEATURE_FILTER_COMM) && comm != config::comm() {
        return false;
    }
    if config::has(FEATURE_FILTER_CGROUP) {
        // The ancestor at the wanted cgroup's depth is the wanted cgroup for everything in or below it.
        // SAFETY: a plain helper call.
        let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(config::cgroup_level() as i32) };
        if ancestor != config::cgroup_id() {
            return false;
        }
    }
    true
}

/// The running thread's name, NUL padded, as two words.
#[inline(always)]
pub fn comm() -> [u64; 2] {
    let comm = bpf_get_current_comm().unwrap_or([0; 16]);
    // SAFETY: 16 bytes are two words.
    unsafe { core::mem::transmute(comm) }
}

/// `task_struct.thread.fsbase`: what `%fs` of the running thread points to.
#[inline(always)]
pub fn fs_base() -> u64 {
    // SAFETY: the helper returns the running task, and the offset is that of a u64 field by the kernel's own BTF. (The
    // verifier checks both: a typed pointer may be dereferenced at a constant offset.) Kernel 5.11.
    unsafe {
        let task = bpf_get_current_task_btf().cast::<u8>();
        task.add(config::fsbase_offset() as usize).cast::<u64>().read()
    }
}
