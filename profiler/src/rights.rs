//! What a thread may do of what only root may: its capabilities.
//!
//! Threads that are started later have those of the one that starts them, so what is given up before there are any is
//! given up for all.

use std::io;

/// The sets of the calling thread (include/uapi/linux/capability.h, version 3: 64 bits in two halves).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    halves: [Half; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// Version 3, of the calling thread.
const OF_THIS_THREAD: Header = Header {
    version: 0x2008_0522,
    pid: 0,
};

/// What lets root do with files what it wants: CAP_CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID,
/// LINUX_IMMUTABLE, MKNOD, MAC_OVERRIDE.
pub const FILES: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 9 | 1 << 27 | 1 << 32;

/// What no recording needs: LINUX_IMMUTABLE, NET_BIND_SERVICE, NET_BROADCAST, NET_ADMIN, NET_RAW, IPC_OWNER,
/// SYS_MODULE, SYS_CHROOT, SYS_PACCT, SYS_BOOT, SYS_TIME, SYS_TTY_CONFIG, MKNOD, LEASE, AUDIT_WRITE, AUDIT_CONTROL,
/// SETFCAP, MAC_ADMIN, WAKE_ALARM, BLOCK_SUSPEND, AUDIT_READ. docs/security.md says what the others are for.
pub const NEVER_NEEDED: u64 =
    1 << 9 | 0b1111 << 10 | 0b11 << 15 | 1 << 18 | 1 << 20 | 1 << 22 | 0b111_1111 << 25 | 1 << 33 | 0b111 << 35;

impl Capabilities {
    /// # Errors
    /// Not on any kernel that we know.
    pub fn read() -> io::Result<Self> {
        let mut header = OF_THIS_THREAD;
        let mut read = Self::default();
        // SAFETY: this version writes two halves, for which there is room, and perhaps the version it prefers.
        match unsafe { libc::syscall(libc::SYS_capget, &raw mut header, read.halves.as_mut_ptr()) } {
            0 => Ok(read),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Without some of those that are in effect; they can be taken back.
    #[must_use]
    pub fn suspending(mut self, some: u64) -> Self {
        for (half, some) in self.halves.iter_mut().zip([some, some >> 32]) {
            half.effective &= !(some as u32);
        }
        self
    }

    /// Without some, for good.
    #[must_use]
    pub fn without(self, some: u64) -> Self {
        let mut left = self.suspending(some);
        for (half, some) in left.halves.iter_mut().zip([some, some >> 32]) {
            half.permitted &= !(some as u32);
        }
        left
    }

    /// Gives them to the calling thread.
    ///
    /// # Errors
    /// If it has fewer.
    pub fn set(self) -> io::Result<()> {
        let mut header = OF_THIS_THREAD;
        // SAFETY: this version reads two halves, which are there.
        match unsafe { libc::syscall(libc::SYS_capset, &raw mut header, self.halves.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Gives up what no recording needs. What is started as root afterwards has it again.
///
/// # Errors
/// Not on any kernel that we know: everybody may give up.
pub fn give_up() -> io::Result<()> {
    Capabilities::read()?.without(NEVER_NEEDED).set()
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    fn mask(name: &str) -> u64 {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn what_is_given_up_is_gone_for_the_thread_and_those_it_starts() {
        let all = mask("CapPrm:");
        // A thread of its own: the other tests want to keep theirs.
        let inside = thread::spawn(|| {
            give_up().unwrap();
            let started = thread::spawn(|| [mask("CapEff:"), mask("CapPrm:")]).join().unwrap();
            (started, Capabilities::read().unwrap().without(0).set().is_ok())
        });
        let (started, again) = inside.join().unwrap();
        assert_eq!(started[1], all & !NEVER_NEEDED);
        assert_eq!(started[0] & NEVER_NEEDED, 0);
        assert!(again);
        assert_eq!(mask("CapPrm:"), all);
    }

    #[test]
    fn what_recordings_need_is_not_among_it() {
        // SYS_PTRACE, SYS_ADMIN, PERFMON, BPF, CHECKPOINT_RESTORE; SETGID, SETUID and KILL for a command; SYS_RESOURCE.
        for bit in [19, 21, 38, 39, 40, 6, 7, 5, 24] {
            assert_eq!(NEVER_NEEDED & 1 << bit, 0, "{bit}");
        }
    }
}
