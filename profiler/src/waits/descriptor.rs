//! What lies behind a descriptor of a thread that waits, by /proc: for waits that have not ended, which the kernel side
//! never gets to look at.

use std::{fs, os::unix::fs::MetadataExt as _};

use profiler_common::wait::{CALL_DESCRIPTOR, CALL_POLL, CALLS, WaitEvent};
use profiler_ebpf::wait::class;

use crate::{
    process::peers::tables::{self, Unix},
    python::memory::ReadMemory,
};

/// `AF_INET`, `AF_INET6`.
const INET: u16 = 2;
const INET6: u16 = 10;

/// Whether a call waits for one descriptor.
pub fn has_one(call: u32) -> bool {
    call < CALLS && class::of_call(call) & CALL_DESCRIPTOR != 0
}

/// Fills in what can be found, the other end of a socket included.
pub fn look_up(pid: u32, memory: &dyn ReadMemory, event: &mut WaitEvent) {
    if look_at(pid, memory, event) == Some(Kind::Socket) {
        socket(pid, event);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Socket,
    Other,
}

/// The same but for the other end of a socket, for which tables as long as there are sockets are to be read.
pub fn look_at(pid: u32, memory: &dyn ReadMemory, event: &mut WaitEvent) -> Option<Kind> {
    let entry = if event.call < CALLS {
        class::of_call(event.call)
    } else {
        0
    };
    let number = match entry {
        entry if entry & CALL_DESCRIPTOR != 0 => Some(event.arguments[0] as u32),
        // `struct pollfd { int fd; … }`
        entry if entry & CALL_POLL != 0 => memory.read_u64(event.arguments[0]).map(|word| word as u32),
        _ => None,
    };
    let number = number?;
    let link = format!("/proc/{pid}/fd/{number}");
    let (name, found) = (fs::read_link(&link).ok()?, fs::metadata(&link).ok()?);
    event.descriptor.number = number;
    event.descriptor.mode = found.mode();
    event.descriptor.inode = found.ino();
    let name = name.to_string_lossy();
    if let Some(kind) = name.strip_prefix("anon_inode:") {
        event.descriptor.mode &= 0xfff;
        set_name(event, kind);
    } else if name.starts_with("socket:") {
        return Some(Kind::Socket);
    } else if !name.starts_with("pipe:") {
        set_name(event, name.rsplit('/').next().unwrap_or_default());
    }
    Some(Kind::Other)
}

fn set_name(event: &mut WaitEvent, name: &str) {
    let room = event.name.as_flattened_mut();
    let len = room.len() - 1;
    for (to, from) in room.iter_mut().take(len).zip(name.bytes()) {
        *to = from;
    }
}

/// Looks for a socket in the tables of its network namespace.
fn socket(pid: u32, event: &mut WaitEvent) {
    let inode = event.descriptor.inode;
    for (table, family) in [("tcp", INET), ("tcp6", INET6), ("udp", INET), ("udp6", INET6)] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        if let Some((local, remote)) = text.lines().find_map(|line| internet(line, inode)) {
            event.descriptor.family = family;
            (event.descriptor.local, event.descriptor.local_port) = local;
            (event.descriptor.remote, event.descriptor.remote_port) = remote;
            return;
        }
    }
    // Of paths that anybody may choose: not all are UTF-8.
    let text = tables::read(pid, "unix");
    let text = String::from_utf8_lossy(&text);
    if let Some(found) = text.lines().filter_map(Unix::parse).find(|found| found.inode == inode) {
        event.descriptor.family = 1;
        set_name(event, found.path);
    }
}

type Address = ([u8; 16], u16);

/// `  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 12345 …`
fn internet(line: &str, inode: u64) -> Option<(Address, Address)> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    if words.get(9)?.parse() != Ok(inode) {
        return None;
    }
    Some((address(words.get(1)?)?, address(words.get(2)?)?))
}

/// Words of an address as they lie in memory, each written as a number.
fn address(text: &str) -> Option<Address> {
    let (words, port) = text.split_once(':')?;
    let mut bytes = [0; 16];
    for (at, word) in words.as_bytes().as_chunks::<8>().0.iter().take(4).enumerate() {
        let word = u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?;
        bytes[4 * at..][..4].copy_from_slice(&word.to_ne_bytes());
    }
    Some((bytes, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_s_tables_are_read() {
        let line =
            "   1: 0100007F:A3B2 0500000A:1538 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        let (local, remote) = internet(line, 4711).unwrap();
        assert_eq!((&local.0[..4], local.1), (&[127, 0, 0, 1][..], 0xa3b2));
        assert_eq!((&remote.0[..4], remote.1), (&[10, 0, 0, 5][..], 5432));
        assert!(internet(line, 1).is_none());
    }
}
