//! What user space fixes before the programs are loaded. It lies in read-only data, so the verifier prunes the
//! branches that a run does not use.

/// Sample the kernel's stack.
pub const FEATURE_KERNEL_STACK: u32 = 1 << 0;
/// Sample the native user stack.
pub const FEATURE_NATIVE_STACK: u32 = 1 << 1;
/// Sample only processes in `TARGET_PIDS`.
pub const FEATURE_FILTER_PID: u32 = 1 << 2;
/// Sample only threads in `TARGET_TIDS`.
pub const FEATURE_FILTER_TID: u32 = 1 << 3;
/// Sample only threads named [`Config::comm`].
pub const FEATURE_FILTER_COMM: u32 = 1 << 4;
/// Sample only tasks in the cgroup [`Config::cgroup_id`] or below it.
pub const FEATURE_FILTER_CGROUP: u32 = 1 << 5;
/// The kernel has `bpf_get_current_task_btf` (5.11) and `bpf_task_pt_regs` (5.15): without, the same is read by address.
pub const FEATURE_TASK_POINTERS: u32 = 1 << 6;
/// The profiler runs in a pid namespace of its own: ids are translated into it.
pub const FEATURE_PID_NAMESPACE: u32 = 1 << 7;

/// Time calls of chosen functions, and of those that are not known yet not to be chosen.
pub const FEATURE_TIME_CALLS: u32 = 1 << 8;
/// Calls of chosen functions come to be counted where their bytecode is read.
pub const FEATURE_WATCH_CALLS: u32 = 1 << 9;
/// Of the clock's samples, only those of threads that have the GIL (`GILS`).
pub const FEATURE_GIL: u32 = 1 << 10;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    /// `FEATURE_…` bits.
    pub features: u32,
    /// Offset of `task_struct.thread.fsbase`, from the kernel's BTF.
    pub fsbase_offset: u32,
    /// Offset of `task_struct.pid` (the thread's id), from the kernel's BTF.
    pub task_tid_offset: u32,
    /// Offset of `task_struct.tgid` (the process's id), from the kernel's BTF.
    pub task_pid_offset: u32,
    /// Offset of `task_struct.flags`, from the kernel's BTF.
    pub task_flags_offset: u32,
    /// Offset of `task_struct.stack`, from the kernel's BTF.
    pub task_stack_offset: u32,
    /// Offsets that lead to a task's numbers in a pid namespace (`FEATURE_PID_NAMESPACE`): `task_struct.thread_pid`,
    /// `task_struct.signal`, `signal_struct.pids`, `pid.level`, `pid.numbers`, `pid_namespace.ns.inum`.
    pub task_thread_pid_offset: u32,
    pub task_signal_offset: u32,
    pub signal_pids_offset: u32,
    pub pid_level_offset: u32,
    pub pid_numbers_offset: u32,
    pub namespace_inum_offset: u32,
    /// The inode number of the profiler's pid namespace.
    pub pid_namespace: u32,
    /// Offset of `task_struct.pagefault_disabled`, from the kernel's BTF.
    pub task_pagefault_disabled_offset: u32,
    /// Offsets that lead from a task to the file behind a descriptor, and to what it is: `task_struct.files`,
    /// `files_struct.fdt`, `fdtable.max_fds`, `fdtable.fd`, `file.f_inode`, `inode.i_ino`, `inode.i_sb`,
    /// `super_block.s_dev`, `super_block.s_magic`.
    pub task_files_offset: u32,
    pub files_table_offset: u32,
    pub table_size_offset: u32,
    pub table_files_offset: u32,
    pub file_inode_offset: u32,
    pub inode_number_offset: u32,
    pub inode_super_offset: u32,
    pub super_device_offset: u32,
    pub super_magic_offset: u32,
    /// The profiler's own pid: it is never sampled.
    pub own_pid: u32,
    /// Depth of the wanted cgroup below the root (the root is 0).
    pub cgroup_level: u32,
    /// Offset of `task_struct.se.sum_exec_runtime`, from the kernel's BTF.
    pub task_runtime_offset: u32,
    /// Offsets of `signal_struct.oom_mm`, `.maxrss` and `.rlim`, and of `task_struct.exit_code`, from the kernel's BTF
    /// (`memory`).
    pub signal_oom_offset: u32,
    pub signal_peak_offset: u32,
    pub signal_limits_offset: u32,
    pub task_exit_code_offset: u32,
    pub reserved: u32,
    /// Groups of programs that look at all processes, although others look at targets only ([`crate::group`]).
    pub of_all: u32,
    /// The wanted cgroup's id (the inode of its directory).
    pub cgroup_id: u64,
    /// The wanted thread name, NUL padded, as two words.
    pub comm: [u64; 2],
    /// Makes the stack hash of this run unpredictable to the programs it looks at.
    pub hash_seed: [u64; 2],
    /// [`crate::limits::GATE_STRETCH_NS`] in ticks of the kernel's `jiffies`.
    pub gate_stretch: u64,
}

const _: () = assert!(size_of::<Config>() == 176);

#[cfg(feature = "user")]
// SAFETY: `Config` is `repr(C)`, made of integers, and has no padding (its size is the sum of its fields, asserted above).
unsafe impl aya::Pod for Config {}
