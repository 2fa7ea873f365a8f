//! What lies behind a descriptor of the running thread: a socket and its peer, a pipe, a file. While the call lasts:
//! afterwards the number may be another file's, or nobody's.

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use profiler_common::wait::{Descriptor, NAME_BYTES};

use super::config::{read, setting};

/// `S_IFMT`, `S_IFSOCK` (include/uapi/linux/stat.h).
const KIND: u32 = 0xf000;
const SOCKET: u32 = 0xc000;
/// `AF_UNIX`, `AF_INET`, `AF_INET6`.
const UNIX: u16 = 1;
const INET: u16 = 2;
const INET6: u16 = 10;

/// A file's name, a socket's path.
pub type Name = [[u8; 8]; NAME_BYTES / 8];

/// Fills in what can be found of a descriptor of the running thread.
#[inline(always)]
pub fn look_up(number: u32, descriptor: &mut Descriptor, name: &mut Name) {
    descriptor.number = number;
    let _ = describe(number, descriptor, name);
}

/// What tells the file behind a descriptor from others: its inode's number, and its device.
#[inline(always)]
pub fn identity(number: u32) -> Option<(u64, u32)> {
    let inode: u64 = read(file(number)?, setting!(file_inode_offset))?;
    let super_block: u64 = read(inode, setting!(inode_super_offset))?;
    Some((
        read(inode, setting!(inode_number_offset))?,
        read(super_block, setting!(super_device_offset))?,
    ))
}

/// The address of the file behind a descriptor.
#[inline(always)]
fn file(number: u32) -> Option<u64> {
    // SAFETY: a plain helper call. Its result is only read by address, through the helper that checks it.
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = read(task, setting!(task_files_offset))?;
    let table: u64 = read(files, setting!(files_table_offset))?;
    let size: u32 = read(table, setting!(table_size_offset))?;
    if number >= size {
        return None;
    }
    let list: u64 = read(table, setting!(table_files_offset))?;
    read(list.wrapping_add(8 * u64::from(number)), 0)
}

#[inline(always)]
fn describe(number: u32, descriptor: &mut Descriptor, name: &mut Name) -> Option<()> {
    let file = file(number)?;
    let inode: u64 = read(file, setting!(file_inode_offset))?;
    let mode: u16 = read(inode, setting!(inode_mode_offset))?;
    descriptor.inode = read(inode, setting!(inode_number_offset))?;
    let super_block: u64 = read(inode, setting!(inode_super_offset))?;
    descriptor.device = read(super_block, setting!(super_device_offset))?;
    descriptor.mode = u32::from(mode);
    if descriptor.mode & KIND == SOCKET {
        return socket(file, descriptor, name);
    }
    let dentry: u64 = read(file, setting!(file_dentry_offset))?;
    let from: u64 = read(dentry, setting!(dentry_name_offset))?;
    // SAFETY: `name` has room for as much; the helper checks the address and ends it with a NUL.
    unsafe { bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), NAME_BYTES as u32, from as *const _) };
    Some(())
}

#[inline(always)]
fn socket(file: u64, descriptor: &mut Descriptor, name: &mut Name) -> Option<()> {
    let socket: u64 = read(file, setting!(file_private_offset))?;
    let sock: u64 = read(socket, setting!(socket_sock_offset))?;
    let family: u16 = read(sock, setting!(sock_family_offset))?;
    descriptor.family = family;
    descriptor.protocol = read(sock, setting!(sock_protocol_offset)).unwrap_or(0);
    match family {
        INET | INET6 => {
            descriptor.local_port = read(sock, setting!(sock_num_offset))?;
            descriptor.remote_port = u16::from_be(read(sock, setting!(sock_dport_offset))?);
            let (local, remote, bytes) = match family == INET {
                true => (setting!(sock_saddr_offset), setting!(sock_daddr_offset), 4),
                false => (setting!(sock_v6_saddr_offset), setting!(sock_v6_daddr_offset), 16),
            };
            // SAFETY: both have room for sixteen bytes; the helper checks the addresses.
            unsafe {
                bpf_probe_read_kernel(
                    descriptor.local.as_mut_ptr().cast(),
                    bytes,
                    sock.wrapping_add(local.into()) as *const _,
                );
                bpf_probe_read_kernel(
                    descriptor.remote.as_mut_ptr().cast(),
                    bytes,
                    sock.wrapping_add(remote.into()) as *const _,
                );
            }
        }
        UNIX if setting!(unix_address_offset) != 0 => {
            // Of two connected ones, only the server's has a name.
            let mut address: u64 = read(sock, setting!(unix_address_offset))?;
            if address == 0 {
                let peer: u64 = read(sock, setting!(unix_peer_offset))?;
                address = read(peer, setting!(unix_address_offset))?;
            }
            if address == 0 {
                return None;
            }
            // `struct sockaddr_un { sa_family_t sun_family; char sun_path[]; }`; an abstract one begins with a NUL.
            let path = address.wrapping_add(setting!(unix_name_offset).into()).wrapping_add(2);
            let first: u8 = read(path, 0)?;
            let length: u32 = read(address, setting!(unix_length_offset))?;
            if length <= 2 {
                return None;
            }
            let name = name.as_mut_ptr().cast::<u8>();
            // SAFETY: `name` has room for as much; the helper checks the address and ends it with a NUL.
            unsafe {
                if first == 0 {
                    *name = b'@';
                    bpf_probe_read_kernel_str(
                        name.add(1).cast(),
                        NAME_BYTES as u32 - 1,
                        path.wrapping_add(1) as *const _,
                    );
                } else {
                    bpf_probe_read_kernel_str(name.cast(), NAME_BYTES as u32, path as *const _);
                }
            }
        }
        _ => {}
    }
    Some(())
}
