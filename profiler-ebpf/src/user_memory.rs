//! The memory of the task that runs on this CPU.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use profiler_ebpf::memory::ReadMemory;

/// Reads with `bpf_probe_read_user`: never faults a page in, never writes.
pub struct UserMemory;

impl ReadMemory for UserMemory {
    #[inline(always)]
    unsafe fn read(&self, address: u64, into: *mut u8, len: u32) -> bool {
        // SAFETY: `into` is valid for `len` bytes by contract; the helper checks the address.
        unsafe { bpf_probe_read_user(into.cast(), len, address as *const _) == 0 }
    }
}
