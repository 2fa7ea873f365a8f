//! What a wait was for, as it is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use profiler_common::wait::{
    Descriptor, WAIT_CHILD, WAIT_DESCRIPTOR, WAIT_DISK, WAIT_FAULT, WAIT_FILE, WAIT_GIL, WAIT_LOCK, WAIT_POLL,
    WAIT_READY, WAIT_SLEEP, WAIT_SOCKET, WAIT_STOPPED, WaitEvent,
};
use serde::Serialize;

/// A closed list: whoever reads it knows all there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// CPython's global interpreter lock.
    Gil,
    /// Another lock: a futex that is not the GIL's.
    Lock,
    /// A time.
    Sleep,
    Socket,
    Pipe,
    /// A file, not for its disk: its lock, a terminal, a device.
    File,
    /// What is written to, or read from, a device with files on it.
    Disk,
    /// Any of several descriptors.
    Poll,
    /// Another process's end.
    Child,
    /// A page of memory.
    Fault,
    /// A CPU.
    Ready,
    /// A CPU, which its cgroup had no quota left for.
    Throttled,
    /// It was stopped, traced or frozen.
    Stopped,
    Other,
}

impl Cause {
    pub const ALL: [Self; 14] = [
        Self::Gil,
        Self::Lock,
        Self::Sleep,
        Self::Socket,
        Self::Pipe,
        Self::File,
        Self::Disk,
        Self::Poll,
        Self::Child,
        Self::Fault,
        Self::Ready,
        Self::Throttled,
        Self::Stopped,
        Self::Other,
    ];

    /// Its place in [`Self::ALL`], which is in the order in which they are declared.
    pub fn index(self) -> usize {
        self as usize
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Gil => "gil",
            Self::Lock => "lock",
            Self::Sleep => "sleep",
            Self::Socket => "socket",
            Self::Pipe => "pipe",
            Self::File => "file",
            Self::Disk => "disk",
            Self::Poll => "poll",
            Self::Child => "child",
            Self::Fault => "fault",
            Self::Ready => "ready",
            Self::Throttled => "throttled",
            Self::Stopped => "stopped",
            Self::Other => "other",
        }
    }

    /// Of a class that says it all; `None` of descriptors, whose kind is not known without one.
    pub fn of_class(class: u32) -> Option<Self> {
        Some(match class {
            WAIT_GIL => Self::Gil,
            WAIT_LOCK => Self::Lock,
            WAIT_SLEEP => Self::Sleep,
            WAIT_SOCKET => Self::Socket,
            WAIT_FILE => Self::File,
            WAIT_DISK => Self::Disk,
            WAIT_POLL => Self::Poll,
            WAIT_CHILD => Self::Child,
            WAIT_FAULT => Self::Fault,
            WAIT_READY => Self::Ready,
            WAIT_STOPPED => Self::Stopped,
            WAIT_DESCRIPTOR => return None,
            _ => Self::Other,
        })
    }

    pub fn of(event: &WaitEvent) -> Self {
        Self::of_class(event.class).unwrap_or_else(|| {
            let uninterruptible = event.task_state & 2 != 0;
            match event.descriptor.mode & KIND {
                SOCKET => Self::Socket,
                PIPE => Self::Pipe,
                BLOCK => Self::Disk,
                REGULAR | DIRECTORY if uninterruptible => Self::Disk,
                REGULAR | DIRECTORY | CHARACTER => Self::File,
                // Files without a path, which the kernel names by what they are.
                _ => match &*name(event) {
                    "[pidfd]" => Self::Child,
                    "[timerfd]" => Self::Sleep,
                    "[eventfd]" | "[eventpoll]" | "[signalfd]" | "[io_uring]" => Self::Poll,
                    "inotify" | "[fanotify]" => Self::File,
                    _ => Self::Other,
                },
            }
        })
    }
}

/// `S_IFMT` and the kinds (include/uapi/linux/stat.h).
const KIND: u32 = 0xf000;
const SOCKET: u32 = 0xc000;
const REGULAR: u32 = 0x8000;
const BLOCK: u32 = 0x6000;
const DIRECTORY: u32 = 0x4000;
const CHARACTER: u32 = 0x2000;
const PIPE: u32 = 0x1000;
/// `AF_UNIX`, `AF_INET`, `AF_INET6`.
const UNIX: u16 = 1;
const INET: u16 = 2;
const INET6: u16 = 10;

/// Whom, or which file, a wait was for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Target {
    /// Of a socket: the address of the other end, or `listening on` its own.
    pub peer: String,
    /// Of a file: its path, or its last part.
    pub path: String,
    /// Of who has connected to a port of the process, all from one address: from how many ports, at least. Else 0.
    pub ports: u32,
}

/// What is read behind the address of those who have connected to a port of the process.
const CLIENTS: &str = ", clients of port ";
/// Where that port is not known.
const SEVERAL: &str = ", closed connections";

impl Target {
    /// All who have connected to a port from an address. Of a connection that is closed the kernel does not tell the port on
    /// this side any more, so it may be that this side has connected.
    pub fn clients(address: IpAddr, port: u16) -> Self {
        Self {
            peer: match port {
                0 => format!("{address}{SEVERAL}"),
                port => format!("{address}{CLIENTS}{port}"),
            },
            ..Self::default()
        }
    }

    /// Whether that is how several who have connected to the process are told; `listens`: whether it takes connections at all.
    pub fn is_of_clients(peer: &str, listens: bool) -> bool {
        peer.contains(CLIENTS) || listens && peer.ends_with(SEVERAL)
    }

    pub fn is_empty(&self) -> bool {
        self.peer.is_empty() && self.path.is_empty()
    }

    /// The one there is.
    pub fn text(&self) -> &str {
        if self.peer.is_empty() { &self.path } else { &self.peer }
    }

    pub fn of(event: &WaitEvent) -> Self {
        let descriptor = &event.descriptor;
        match descriptor.mode & KIND {
            SOCKET => Self {
                peer: peer(event),
                ..Self::default()
            },
            PIPE => Self {
                path: match &*name(event) {
                    // Of a pipe without a path, all that tells it from others is its number.
                    "" => format!("pipe:[{}]", descriptor.inode),
                    name => name.to_owned(),
                },
                ..Self::default()
            },
            // A set of descriptors says nothing of what is in it.
            _ => Self {
                path: match name(event) {
                    name if name == "[eventpoll]" => String::new(),
                    name => name,
                },
                ..Self::default()
            },
        }
    }

    /// Whether it is one that has a path of which only the last part is known.
    pub fn has_path(event: &WaitEvent) -> bool {
        matches!(event.descriptor.mode & KIND, REGULAR | DIRECTORY | CHARACTER | BLOCK)
    }
}

fn name(event: &WaitEvent) -> String {
    let bytes = event.name.as_flattened();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The other end of a connection over the internet's protocols.
pub(super) fn remote(event: &WaitEvent) -> Option<SocketAddr> {
    let Descriptor {
        mode,
        family,
        remote_port,
        remote,
        ..
    } = event.descriptor;
    let is_one = mode & KIND == SOCKET && matches!(family, INET | INET6) && remote_port != 0;
    is_one.then(|| SocketAddr::new(address(family, remote), remote_port))
}

fn address(family: u16, bytes: [u8; 16]) -> IpAddr {
    match family {
        INET => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
        _ => IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical(),
    }
}

fn peer(event: &WaitEvent) -> String {
    let Descriptor {
        family,
        local_port,
        local,
        ..
    } = event.descriptor;
    if let Some(remote) = remote(event) {
        return remote.to_string();
    }
    match family {
        UNIX => name(event),
        INET | INET6 if local_port != 0 => {
            format!("listening on {}", SocketAddr::new(address(family, local), local_port))
        }
        _ => String::new(),
    }
}

/// The name of a system call whose wait the cause does not explain.
pub fn call_name(call: u32) -> Option<&'static str> {
    Some(match call {
        0 => "read",
        1 => "write",
        7 => "poll",
        16 => "ioctl",
        23 => "select",
        34 => "pause",
        35 => "nanosleep",
        42 => "connect",
        43 => "accept",
        44 => "sendto",
        45 => "recvfrom",
        46 => "sendmsg",
        47 => "recvmsg",
        58 => "vfork",
        59 => "execve",
        61 => "wait4",
        65 => "semop",
        72 => "fcntl",
        73 => "flock",
        74 => "fsync",
        75 => "fdatasync",
        128 => "rt_sigtimedwait",
        130 => "rt_sigsuspend",
        202 => "futex",
        220 => "semtimedop",
        230 => "clock_nanosleep",
        232 => "epoll_wait",
        247 => "waitid",
        257 => "openat",
        270 => "pselect6",
        271 => "ppoll",
        281 => "epoll_pwait",
        288 => "accept4",
        426 => "io_uring_enter",
        441 => "epoll_pwait2",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(class: u32, mode: u32, text: &str) -> WaitEvent {
        let mut event = WaitEvent {
            class,
            task_state: 1,
            ..WaitEvent::default()
        };
        event.descriptor.mode = mode;
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            event.name.as_flattened_mut()[at] = byte;
        }
        event
    }

    #[test]
    fn causes_are_listed_as_they_are_declared() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause.index(), index, "{}", cause.name());
        }
    }

    #[test]
    fn a_descriptor_is_told_by_its_kind() {
        for (mode, name, expected) in [
            (SOCKET, "", Cause::Socket),
            (PIPE, "", Cause::Pipe),
            (REGULAR, "a.log", Cause::File),
            (CHARACTER, "0", Cause::File),
            (0, "[pidfd]", Cause::Child),
            (0, "[timerfd]", Cause::Sleep),
            (0, "[eventfd]", Cause::Poll),
            (0, "", Cause::Other),
        ] {
            assert_eq!(
                Cause::of(&event(WAIT_DESCRIPTOR, mode, name)),
                expected,
                "{mode:o} {name}"
            );
        }
        let mut read = event(WAIT_DESCRIPTOR, REGULAR, "a.log");
        read.task_state = 2;
        assert_eq!(Cause::of(&read), Cause::Disk);
        assert_eq!(Cause::of(&event(WAIT_GIL, SOCKET, "")), Cause::Gil);
    }

    #[test]
    fn peers_read_as_they_are_typed() {
        let mut connected = event(WAIT_SOCKET, SOCKET, "");
        connected.descriptor.family = INET;
        connected.descriptor.local_port = 40_000;
        connected.descriptor.remote_port = 5432;
        connected.descriptor.remote[..4].copy_from_slice(&[10, 0, 0, 5]);
        assert_eq!(Target::of(&connected).text(), "10.0.0.5:5432");
        connected.descriptor.remote_port = 0;
        assert_eq!(Target::of(&connected).text(), "listening on 0.0.0.0:40000");
        connected.descriptor.family = INET6;
        connected.descriptor.remote_port = 80;
        connected.descriptor.remote = [0; 16];
        connected.descriptor.remote[15] = 1;
        assert_eq!(Target::of(&connected).text(), "[::1]:80");
        let mut unix = event(WAIT_SOCKET, SOCKET, "/run/pg/.s.PGSQL.5432");
        unix.descriptor.family = UNIX;
        assert_eq!(Target::of(&unix).text(), "/run/pg/.s.PGSQL.5432");
    }

    #[test]
    fn files_have_their_name_and_sets_of_descriptors_none() {
        assert_eq!(Target::of(&event(WAIT_FILE, REGULAR, "a.lock")).path, "a.lock");
        assert!(Target::of(&event(WAIT_POLL, 0, "[eventpoll]")).is_empty());
    }
}
