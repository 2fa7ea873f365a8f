//! Reads of `WAIT_CONFIG`, and of what lies in the kernel at its offsets.

use core::ptr::read_volatile;

use aya_ebpf::helpers::bpf_probe_read_kernel;
use profiler_common::wait::WaitConfig;

/// Set by user space before loading, and read-only afterwards.
#[unsafe(no_mangle)]
pub(super) static WAIT_CONFIG: WaitConfig = WaitConfig {
    features: 0,
    task_state_offset: 0,
    run_delay_offset: 0,
    exec_runtime_offset: 0,
    task_files_offset: 0,
    files_table_offset: 0,
    table_size_offset: 0,
    table_files_offset: 0,
    file_inode_offset: 0,
    file_dentry_offset: 0,
    file_private_offset: 0,
    inode_mode_offset: 0,
    inode_number_offset: 0,
    inode_super_offset: 0,
    super_device_offset: 0,
    dentry_name_offset: 0,
    socket_sock_offset: 0,
    sock_protocol_offset: 0,
    sock_family_offset: 0,
    sock_num_offset: 0,
    sock_dport_offset: 0,
    sock_daddr_offset: 0,
    sock_saddr_offset: 0,
    sock_v6_daddr_offset: 0,
    sock_v6_saddr_offset: 0,
    unix_peer_offset: 0,
    unix_address_offset: 0,
    unix_name_offset: 0,
    unix_length_offset: 0,
    queue_offset: 0,
    queue_throttled_offset: 0,
    queue_group_offset: 0,
};

/// A field of it, as it was set.
macro_rules! setting {
    ($field:ident) => {
        // SAFETY: a static is valid for reads. Volatile: the compiler must not fold the initial value in.
        unsafe { core::ptr::read_volatile(&raw const $crate::wait::config::WAIT_CONFIG.$field) }
    };
}
pub(super) use setting;

#[inline(always)]
pub fn has(feature: u32) -> bool {
    // SAFETY: as above.
    unsafe { read_volatile(&raw const WAIT_CONFIG.features) & feature != 0 }
}

/// What lies in the kernel's memory at an offset from an address.
#[inline(always)]
pub fn read<T>(address: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address.wrapping_add(offset.into()) as *const T) }.ok()
}
