//! Which file a mapping is of: what tells shared memory from files, and one process's view of it from another's.
//!
//! Looked up by the descriptor when the call has succeeded. A thread that closes it in between, or puts another file in its
//! place, makes this mapping another file's in the report, and nothing else.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::task::{self, config};

/// `TMPFS_MAGIC` (include/uapi/linux/magic.h): tmpfs, and the kernel's own mount behind memfd, System V and shared
/// anonymous memory, whose pages RSS counts apart from files'.
const TMPFS: u64 = 0x0102_1994;

pub struct MappedFile {
    pub device: u32,
    pub inode: u64,
    pub in_memory: bool,
}

/// The file behind a descriptor of the running task.
#[inline(always)]
pub fn of(descriptor: u64) -> Option<MappedFile> {
    let files: u64 = read(task::files(), 0)?;
    let table: u64 = read(files, config::files_table_offset())?;
    let size: u32 = read(table, config::table_size_offset())?;
    if descriptor >= u64::from(size) {
        return None;
    }
    let list: u64 = read(table, config::table_files_offset())?;
    let file: u64 = read(list.wrapping_add(8 * descriptor), 0)?;
    let inode: u64 = read(file, config::file_inode_offset())?;
    let number: u64 = read(inode, config::inode_number_offset())?;
    let super_block: u64 = read(inode, config::inode_super_offset())?;
    let device: u32 = read(super_block, config::super_device_offset())?;
    let magic: u64 = read(super_block, config::super_magic_offset())?;
    Some(MappedFile {
        device,
        inode: number,
        in_memory: magic == TMPFS,
    })
}

#[inline(always)]
fn read<T>(address: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address.wrapping_add(offset.into()) as *const T) }.ok()
}
