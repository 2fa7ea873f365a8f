//! The other end of a Unix socket, which no table of /proc has: asked of the kernel by its number (sock_diag(7)).

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// `NETLINK_SOCK_DIAG`, `SOCK_DIAG_BY_FAMILY`.
const SOCK_DIAG: libc::c_int = 4;
const BY_FAMILY: u16 = 20;
/// `UDIAG_SHOW_PEER`, `UNIX_DIAG_PEER`.
const SHOW_PEER: u32 = 4;
const PEER: u16 = 2;
/// `struct nlmsghdr`, `struct unix_diag_msg`, `struct nlattr`.
const HEADER_BYTES: usize = 16;
const MESSAGE_BYTES: usize = 16;
const ATTRIBUTE_BYTES: usize = 4;

/// `struct nlmsghdr` and `struct unix_diag_req` (include/uapi/linux/unix_diag.h).
#[repr(C)]
struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    protocol: u8,
    padding: u16,
    states: u32,
    inode: u32,
    show: u32,
    /// All ones: any.
    cookie: [u32; 2],
}

/// The number of the socket at the other end; `None` if there is none, in this process's network, or the kernel does not
/// tell (`CONFIG_UNIX_DIAG`).
pub fn peer(inode: u64) -> Option<u64> {
    let inode = u32::try_from(inode).ok()?;
    ask(inode).ok().and_then(|answer| parse(&answer, inode))
}

fn ask(inode: u32) -> io::Result<Vec<u8>> {
    // SAFETY: socket(2) has no preconditions.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, SOCK_DIAG) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just created and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let request = Request {
        length: size_of::<Request>() as u32,
        kind: BY_FAMILY,
        flags: libc::NLM_F_REQUEST as u16,
        sequence: 1,
        port: 0,
        family: libc::AF_UNIX as u8,
        protocol: 0,
        padding: 0,
        states: u32::MAX,
        inode,
        show: SHOW_PEER,
        cookie: [u32::MAX; 2],
    };
    const {
        assert!(
            size_of::<Request>() == HEADER_BYTES + 24,
            "no padding that the kernel would read"
        )
    };
    // SAFETY: the request is whole, and as long as is said. Not connected, it goes to the kernel.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            (&raw const request).cast(),
            size_of_val(&request),
            0,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = vec![0; 1024];
    // The kernel answers while it is asked: what is not there now does not come.
    // SAFETY: the buffer is as long as is said.
    let length = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            answer.len(),
            libc::MSG_DONTWAIT,
        )
    };
    answer.truncate(usize::try_from(length).map_err(|_| io::Error::last_os_error())?);
    Ok(answer)
}

/// An answer of one message, about this socket.
pub fn parse(answer: &[u8], inode: u32) -> Option<u64> {
    let (length, rest) = answer.split_first_chunk()?;
    let (kind, _) = rest.split_first_chunk()?;
    let message = answer.get(..usize::try_from(u32::from_ne_bytes(*length)).ok()?)?;
    let about: &[u8; 4] = message.get(HEADER_BYTES + 4..)?.first_chunk()?;
    if u16::from_ne_bytes(*kind) != BY_FAMILY || u32::from_ne_bytes(*about) != inode {
        return None;
    }
    let mut attributes = message.get(HEADER_BYTES + MESSAGE_BYTES..)?;
    loop {
        let (length, rest) = attributes.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes(*length)).max(ATTRIBUTE_BYTES);
        let value = attributes.get(ATTRIBUTE_BYTES..length)?;
        if u16::from_ne_bytes(*kind) == PEER {
            return Some(u32::from_ne_bytes(*value.first_chunk()?).into()).filter(|&peer| peer != 0);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsRawFd as _, unix::net::UnixStream};

    use proptest::prelude::*;

    use super::*;
    use crate::process::peers::owners::socket;

    fn inode(stream: &UnixStream) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", stream.as_raw_fd())).expect("a link");
        socket(link.to_str().expect("text")).expect("a socket")
    }

    #[test]
    fn the_two_ends_of_a_pair_are_each_other_s() {
        let (one, other) = UnixStream::pair().expect("a pair");
        if let Some(peer) = peer(inode(&one)) {
            assert_eq!(peer, inode(&other));
        }
        assert_eq!(peer(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..100), length in 0..100_u32) {
            parse(&bytes, 7);
            let header = [&length.to_ne_bytes()[..], &BY_FAMILY.to_ne_bytes(), &[0; 10], &7_u64.to_le_bytes()];
            parse(&[&header.concat()[..], &bytes].concat(), 7);
        }
    }
}
