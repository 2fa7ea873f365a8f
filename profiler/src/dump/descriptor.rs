//! What lies behind the descriptors that threads of a process wait for.

use std::{cell::OnceCell, fs, os::unix::fs::MetadataExt as _};

use rustc_hash::FxHashMap;

use crate::{
    process::peers::{
        socket,
        tables::{self, Unix},
    },
    waits::cause::Cause,
};

/// The descriptors of one process. The tables of sockets are those of its network namespace, and are read once: a busy
/// host has ten thousand connections.
pub struct Descriptors {
    pid: u32,
    sockets: OnceCell<FxHashMap<u64, String>>,
}

/// A descriptor, as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    pub cause: Option<Cause>,
    /// `10.0.0.7:5432`, `/var/lib/x.db`, `pipe:[4711]`; empty if there is nothing to say.
    pub text: String,
    /// Of a socket: its number.
    pub socket: Option<u64>,
}

/// `S_IFMT` and the kinds (include/uapi/linux/stat.h).
const KIND: u32 = 0xf000;
const BLOCK: u32 = 0x6000;
const REGULAR: u32 = 0x8000;
const DIRECTORY: u32 = 0x4000;

impl Descriptors {
    pub fn of(pid: u32) -> Self {
        Self {
            pid,
            sockets: OnceCell::new(),
        }
    }

    /// What lies behind one; `is_disk`: the thread is in uninterruptible sleep for it.
    pub fn behind(&self, number: u32, is_disk: bool) -> Behind {
        let link = format!("/proc/{}/fd/{number}", self.pid);
        let Ok(name) = fs::read_link(&link) else {
            return Behind::default();
        };
        let name = name.to_string_lossy().into_owned();
        if let Some(inode) = socket(&name) {
            let sockets = self.sockets.get_or_init(|| sockets(self.pid));
            return Behind {
                cause: Some(Cause::Socket),
                text: sockets.get(&inode).cloned().unwrap_or_default(),
                socket: Some(inode),
            };
        }
        if name.starts_with("pipe:[") {
            return Behind {
                cause: Some(Cause::Pipe),
                text: name,
                socket: None,
            };
        }
        if let Some(kind) = name.strip_prefix("anon_inode:") {
            let cause = match kind {
                "[pidfd]" => Cause::Child,
                "[timerfd]" => Cause::Sleep,
                "[eventfd]" | "[eventpoll]" | "[signalfd]" | "[io_uring]" => Cause::Poll,
                "inotify" | "[fanotify]" => Cause::File,
                _ => Cause::Other,
            };
            return Behind {
                cause: Some(cause),
                text: kind.trim_matches(['[', ']']).to_owned(),
                socket: None,
            };
        }
        let mode = fs::metadata(&link).map_or(0, |metadata| metadata.mode()) & KIND;
        let cause = match mode {
            BLOCK => Cause::Disk,
            REGULAR | DIRECTORY if is_disk => Cause::Disk,
            _ => Cause::File,
        };
        Behind {
            cause: Some(cause),
            text: name,
            socket: None,
        }
    }

    /// How many descriptors an epoll instance watches.
    pub fn watched(&self, epoll: u32) -> Option<usize> {
        let text = fs::read_to_string(format!("/proc/{}/fdinfo/{epoll}", self.pid)).ok()?;
        Some(text.lines().filter(|line| line.starts_with("tfd:")).count())
    }
}

fn sockets(pid: u32) -> FxHashMap<u64, String> {
    let mut found = FxHashMap::default();
    for socket in tables::internet(pid, &["tcp", "tcp6", "udp", "udp6"]) {
        let text = socket.to_string();
        if socket.inode != 0 && !text.is_empty() {
            found.entry(socket.inode).or_insert(text);
        }
    }
    for line in tables::read(pid, "unix").split(|&byte| byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        if let Some(socket) = Unix::parse(&line).filter(|socket| !socket.path.is_empty()) {
            found.entry(socket.inode).or_insert_with(|| socket.path.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, net::TcpListener, os::fd::AsRawFd as _};

    use super::*;

    #[test]
    fn descriptors_of_ours_are_found() {
        let descriptors = Descriptors::of(std::process::id());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let behind = descriptors.behind(listener.as_raw_fd().cast_unsigned(), false);
        let address = listener.local_addr().expect("an address");
        assert_eq!(
            (behind.cause, behind.text),
            (Some(Cause::Socket), format!("listening on {address}"))
        );
        assert!(behind.socket.is_some());
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"x").expect("room");
        let behind = descriptors.behind(file.as_file().as_raw_fd().cast_unsigned(), true);
        assert_eq!(
            (behind.cause, behind.text),
            (Some(Cause::Disk), file.path().display().to_string())
        );
        assert_eq!(descriptors.behind(u32::MAX, false), Behind::default());
    }
}
