//! The task that runs on this CPU: who it is, and whether it is wanted.

use core::ptr::read_volatile;

use aya_ebpf::helpers::{
    bpf_get_current_comm,
    generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel,
        bpf_task_pt_regs,
    },
};
use profiler_common::config::{
    Config, FEATURE_FILTER_CGROUP, FEATURE_FILTER_COMM, FEATURE_FILTER_PID, FEATURE_FILTER_TID, FEATURE_TASK_POINTERS,
};
use profiler_common::{group::Group, unwind::REGISTERS};

use crate::{
    ids,
    maps::{TARGET_PIDS, TARGET_TIDS},
};

/// Set by user space before loading; read-only afterwards, so the verifier drops the branches a run does not take.
#[unsafe(no_mangle)]
static CONFIG: Config = Config {
    features: 0,
    fsbase_offset: 0,
    task_tid_offset: 0,
    task_pid_offset: 0,
    task_flags_offset: 0,
    task_stack_offset: 0,
    task_thread_pid_offset: 0,
    task_signal_offset: 0,
    signal_pids_offset: 0,
    pid_level_offset: 0,
    pid_numbers_offset: 0,
    namespace_inum_offset: 0,
    pid_namespace: 0,
    task_pagefault_disabled_offset: 0,
    task_files_offset: 0,
    files_table_offset: 0,
    table_size_offset: 0,
    table_files_offset: 0,
    file_inode_offset: 0,
    inode_number_offset: 0,
    inode_super_offset: 0,
    super_device_offset: 0,
    super_magic_offset: 0,
    own_pid: 0,
    cgroup_level: 0,
    task_runtime_offset: 0,
    signal_oom_offset: 0,
    signal_peak_offset: 0,
    signal_limits_offset: 0,
    task_exit_code_offset: 0,
    reserved: 0,
    of_all: 0,
    cgroup_id: 0,
    comm: [0; 2],
    hash_seed: [0; 2],
    gate_stretch: 1,
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
        task_flags_offset: u32,
        task_stack_offset: u32,
        task_thread_pid_offset: u32,
        task_signal_offset: u32,
        signal_pids_offset: u32,
        pid_level_offset: u32,
        pid_numbers_offset: u32,
        namespace_inum_offset: u32,
        pid_namespace: u32,
        task_pagefault_disabled_offset: u32,
        task_files_offset: u32,
        files_table_offset: u32,
        table_size_offset: u32,
        table_files_offset: u32,
        file_inode_offset: u32,
        inode_number_offset: u32,
        inode_super_offset: u32,
        super_device_offset: u32,
        super_magic_offset: u32,
        own_pid: u32,
        cgroup_level: u32,
        task_runtime_offset: u32,
        signal_oom_offset: u32,
        signal_peak_offset: u32,
        signal_limits_offset: u32,
        task_exit_code_offset: u32,
        of_all: u32,
        cgroup_id: u64,
        comm: [u64; 2],
        hash_seed: [u64; 2],
        gate_stretch: u64,
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
    let task = ids::current();
    (task.tid != 0 && task.pid != config::own_pid()).then_some(task)
}

/// Whether the user asked this group of programs for the task's process, whatever else is asked.
#[inline(always)]
pub fn is_of_wanted_process(task: Task, group: Group) -> bool {
    if !config::has(FEATURE_FILTER_PID) || config::of_all() & group.bit() != 0 {
        return true;
    }
    // SAFETY: the value is copied out at once.
    let groups = unsafe { TARGET_PIDS.get(task.pid) }.copied().unwrap_or(0);
    groups & group.bit() != 0
}

/// Whether the user asked this group of programs for this task. `comm` is its name.
#[inline(always)]
pub fn is_wanted(task: Task, comm: [u64; 2], group: Group) -> bool {
    if !is_of_wanted_process(task, group) {
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

/// The same, where the task's name is not needed otherwise: it is fetched only if names were asked for.
#[inline(always)]
pub fn is_wanted_now(task: Task, group: Group) -> bool {
    is_wanted(
        task,
        if config::has(FEATURE_FILTER_COMM) {
            comm()
        } else {
            [0; 2]
        },
        group,
    )
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
    field(config::fsbase_offset())
}

/// Whether the kernel handles no page faults of the running task just now, because it reads memory that may not be there:
/// BPF programs' own reads among others.
#[inline(always)]
pub fn page_faults_disabled() -> bool {
    field::<u32>(config::task_pagefault_disabled_offset()) != 0
}

/// What the running task has been on a CPU so far, as of the last tick or switch.
#[inline(always)]
pub fn runtime_ns() -> u64 {
    field(config::task_runtime_offset())
}

/// Where the kernel keeps what all threads of the running task's process have in common (`struct signal_struct`).
#[inline(always)]
pub fn signal() -> u64 {
    field(config::task_signal_offset())
}

/// What the running task ends with, as `wait` tells it.
#[inline(always)]
pub fn exit_code() -> u32 {
    field(config::task_exit_code_offset())
}

/// Where the running task's pointer to its open files is.
#[inline(always)]
pub fn files() -> u64 {
    // SAFETY: a plain helper call. Its result is only read by address, through the helper that checks it.
    unsafe { bpf_get_current_task() }.wrapping_add(config::task_files_offset().into())
}

/// `PF_KTHREAD | PF_USER_WORKER | PF_IO_WORKER | PF_EXITING` (include/linux/sched.h, 6.18): threads of the kernel's own,
/// and those that end. What lies where the user registers of the former should be is left over from whoever made them,
/// and the latter may have given their memory back.
const NO_USER_STACK: u32 = OF_THE_KERNEL | 0x4;
/// Of those, threads of the kernel's own.
pub const OF_THE_KERNEL: u32 = 0x0020_0000 | 0x4000 | 0x10;

/// Whether the running task is a thread of the kernel's own.
#[inline(always)]
pub fn is_of_the_kernel() -> bool {
    field::<u32>(config::task_flags_offset()) & OF_THE_KERNEL != 0
}

/// Copies the registers with which the running thread left user space; `false` if it never was there, or will not be
/// again.
#[inline(always)]
pub fn user_registers(into: &mut [u64]) -> bool {
    if field::<u32>(config::task_flags_offset()) & NO_USER_STACK != 0 {
        return false;
    }
    if config::has(FEATURE_TASK_POINTERS) {
        // SAFETY: the helper returns where the registers of the running task are kept, as a typed pointer, which may be
        // read at constant offsets (the verifier checks them). `into` has room for them all.
        unsafe {
            let from = bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u64;
            let into = into.as_mut_ptr();
            let mut i = 0;
            while i < REGISTERS {
                into.add(i).write_volatile(from.add(i).read_volatile());
                i += 1;
            }
        }
        return true;
    }
    // Before 5.15 by hand: they are the last thing on the kernel's stack, which has 16 KiB (THREAD_SIZE without KASAN).
    const KERNEL_STACK_BYTES: u64 = 16 << 10;
    let stack: u64 = field(config::task_stack_offset());
    let from = stack + KERNEL_STACK_BYTES - 8 * REGISTERS as u64;
    // SAFETY: `into` has room for them all; the helper checks the address.
    unsafe { bpf_probe_read_kernel(into.as_mut_ptr().cast(), 8 * REGISTERS as u32, from as *const _) == 0 }
}

/// A field of the running task's `task_struct`.
#[inline(always)]
fn field<T: Copy + Default>(offset: u32) -> T {
    if config::has(FEATURE_TASK_POINTERS) {
        // SAFETY: the helper returns the running task, and the offset is that of such a field by the kernel's own BTF.
        // (The verifier checks both: a typed pointer may be dereferenced at a constant offset.)
        return unsafe {
            let task = bpf_get_current_task_btf().cast::<u8>();
            task.add(offset as usize).cast::<T>().read()
        };
    }
    let mut value = T::default();
    // SAFETY: `value` is as long as is read; the helper checks the address.
    unsafe {
        let task = bpf_get_current_task();
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            (task + u64::from(offset)) as *const _,
        );
    }
    value
}
