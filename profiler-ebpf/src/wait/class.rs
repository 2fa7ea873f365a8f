//! What a thread waits for, by its state, its system call and the call's arguments.

use profiler_common::wait::{
    CALL_CLASS, CALL_DESCRIPTOR, CALL_FUTEX, CALL_ON_DISK, CALL_POLL, CALL_SELECT, GIL_BYTES, IO_ACCEPT, IO_CONNECT,
    IO_READ, IO_RECEIVE, IO_SEND, IO_SYNC, IO_WRITE, NO_CALL, WAIT_CHILD, WAIT_DESCRIPTOR, WAIT_DISK, WAIT_FAULT,
    WAIT_FILE, WAIT_GIL, WAIT_LOCK, WAIT_OTHER, WAIT_POLL, WAIT_READY, WAIT_SLEEP, WAIT_SOCKET, WAIT_STOPPED,
};

/// `TASK_INTERRUPTIBLE`, `TASK_UNINTERRUPTIBLE`, `__TASK_STOPPED`, `__TASK_TRACED`, `TASK_DEAD`, `TASK_FROZEN`
/// (include/linux/sched.h, 5.10 – 7.2).
const UNINTERRUPTIBLE: u32 = 0x2;
const BLOCKED: u32 = 0x1 | UNINTERRUPTIBLE;
const HALTED: u32 = 0x4 | 0x8 | 0x8000;
pub const DEAD: u32 = 0x80;

/// What the system call of this number waits for (arch/x86/entry/syscalls/syscall_64.tbl): an entry of `WAIT_CALLS`.
pub const fn of_call(number: u32) -> u32 {
    match number {
        // read, write, pread64, pwrite64, readv, writev, preadv, pwritev, preadv2, pwritev2, ioctl, getdents, getdents64.
        0 | 1 | 16 | 17 | 18 | 19 | 20 | 78 | 217 | 295 | 296 | 327 | 328 => WAIT_DESCRIPTOR | CALL_DESCRIPTOR,
        // sendfile, splice, tee, vmsplice, copy_file_range: whom they write to, or read from, comes first.
        40 | 275 | 276 | 278 | 326 => WAIT_DESCRIPTOR | CALL_DESCRIPTOR,
        // connect, accept, sendto, recvfrom, sendmsg, recvmsg, accept4, recvmmsg, sendmmsg, shutdown.
        42..=48 | 288 | 299 | 307 => WAIT_SOCKET | CALL_DESCRIPTOR,
        // futex, futex_waitv, futex_wait; semop, semtimedop.
        202 | 449 | 455 => WAIT_LOCK | CALL_FUTEX,
        65 | 220 => WAIT_LOCK,
        // nanosleep, clock_nanosleep.
        35 | 230 => WAIT_SLEEP,
        // poll, ppoll.
        7 | 271 => WAIT_POLL | CALL_POLL,
        // select, pselect6.
        23 | 270 => WAIT_POLL | CALL_SELECT,
        // epoll_wait, epoll_pwait, epoll_pwait2.
        232 | 281 | 441 => WAIT_POLL | CALL_DESCRIPTOR,
        // io_uring_enter: of several operations, of whatever kind.
        426 => WAIT_POLL | CALL_DESCRIPTOR,
        // wait4, waitid, vfork.
        61 | 247 | 58 => WAIT_CHILD,
        // fsync, fdatasync, sync_file_range, syncfs, ftruncate, fallocate, fadvise64.
        74 | 75 | 277 | 306 | 77 | 285 | 221 => WAIT_DISK | CALL_DESCRIPTOR,
        // sync, msync, io_getevents, io_pgetevents.
        162 | 26 | 208 | 333 => WAIT_DISK,
        // flock, fcntl, fstat, fchmod, fchown, close.
        73 | 72 | 5 | 91 | 93 | 3 => WAIT_FILE | CALL_DESCRIPTOR | CALL_ON_DISK,
        // open, stat, lstat, access, execve, truncate, rename, mkdir, rmdir, creat, link, unlink, symlink, readlink,
        // chmod, chown, statfs, openat, mkdirat, newfstatat, unlinkat, renameat, linkat, readlinkat, faccessat,
        // renameat2, execveat, statx, openat2, faccessat2.
        2 | 4 | 6 | 21 | 59 | 76 | 82 | 83 | 84 | 85 | 86 | 87 | 88 | 89 | 90 | 92 | 137 | 257 | 258 | 262 | 263
        | 264 | 265 | 267 | 269 | 316 | 322 | 332 | 437 | 439 => WAIT_FILE | CALL_ON_DISK,
        _ => WAIT_OTHER,
    }
}

/// Whether a system call polls an event loop: epoll_wait, epoll_pwait, epoll_pwait2. Others (`poll`, `select`) poll what one
/// function has to do with, and it goes on to something else.
#[inline(always)]
pub const fn is_loop(call: u32) -> bool {
    matches!(call, 232 | 281 | 441)
}

/// Which family of I/O a system call is of (`IO_…`); 0 if of none. The first argument of all of them is a descriptor.
pub const fn of_io(call: u32) -> u32 {
    match call {
        // read, pread64, readv, preadv, preadv2.
        0 | 17 | 19 | 295 | 327 => IO_READ,
        // write, pwrite64, writev, pwritev, pwritev2.
        1 | 18 | 20 | 296 | 328 => IO_WRITE,
        // sendto, sendmsg, sendfile: to whom comes first.
        44 | 46 | 40 => IO_SEND,
        // recvfrom, recvmsg.
        45 | 47 => IO_RECEIVE,
        42 => IO_CONNECT,
        // accept, accept4.
        43 | 288 => IO_ACCEPT,
        // fsync, fdatasync, sync_file_range, syncfs.
        74 | 75 | 277 | 306 => IO_SYNC,
        _ => 0,
    }
}

/// What a thread in `task_state` that has made a call waits for. `entry`: of [`of_call`]; `gil`: where its process's GIL
/// is, or 0.
#[inline(always)]
pub fn of_wait(task_state: u32, call: u32, entry: u32, arguments: [u64; 2], gil: u64) -> u32 {
    // A stop interrupts what was waited for; the call is still the old one.
    if task_state & HALTED != 0 {
        return WAIT_STOPPED;
    }
    if task_state & BLOCKED == 0 {
        return WAIT_READY;
    }
    let uninterruptible = task_state & UNINTERRUPTIBLE != 0;
    if call == NO_CALL {
        return WAIT_FAULT;
    }
    if entry & CALL_FUTEX != 0 && gil != 0 && arguments[0].wrapping_sub(gil) < GIL_BYTES {
        return WAIT_GIL;
    }
    if entry & CALL_POLL != 0 {
        return match arguments[1] & 0xffff_ffff {
            0 => WAIT_SLEEP,
            1 => WAIT_DESCRIPTOR,
            _ => WAIT_POLL,
        };
    }
    if entry & CALL_SELECT != 0 && arguments[0] & 0xffff_ffff == 0 {
        return WAIT_SLEEP;
    }
    if entry & CALL_ON_DISK != 0 && uninterruptible {
        return WAIT_DISK;
    }
    entry & CALL_CLASS
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u32 = 1;
    const D: u32 = 2;

    fn class(task_state: u32, call: u32, arguments: [u64; 2], gil: u64) -> u32 {
        of_wait(task_state, call, of_call(call), arguments, gil)
    }

    #[test]
    fn the_call_says_what_is_waited_for() {
        for (call, expected) in [
            (0, WAIT_DESCRIPTOR),
            (45, WAIT_SOCKET),
            (43, WAIT_SOCKET),
            (61, WAIT_CHILD),
            (74, WAIT_DISK),
            (73, WAIT_FILE),
            (202, WAIT_LOCK),
            (230, WAIT_SLEEP),
            (232, WAIT_POLL),
            (426, WAIT_POLL),
            // pause, rt_sigtimedwait
            (34, WAIT_OTHER),
            (128, WAIT_OTHER),
            (9999, WAIT_OTHER),
        ] {
            assert_eq!(class(S, call, [9, 9], 0), expected, "{call}");
        }
    }

    #[test]
    fn a_futex_in_the_gil_is_the_gil_and_none_is_before_it_is_known() {
        let gil = 0x7000;
        assert_eq!(class(S, 202, [gil + 72, 0], gil), WAIT_GIL);
        assert_eq!(class(S, 202, [gil + GIL_BYTES, 0], gil), WAIT_LOCK);
        assert_eq!(class(S, 202, [gil - 4, 0], gil), WAIT_LOCK);
        assert_eq!(class(S, 202, [72, 0], 0), WAIT_LOCK);
    }

    #[test]
    fn how_many_descriptors_are_polled_decides() {
        assert_eq!(class(S, 7, [1, 0], 0), WAIT_SLEEP);
        assert_eq!(class(S, 7, [1, 1], 0), WAIT_DESCRIPTOR);
        assert_eq!(class(S, 271, [1, 2], 0), WAIT_POLL);
        assert_eq!(class(S, 270, [0, 0], 0), WAIT_SLEEP);
        assert_eq!(class(S, 23, [5, 0], 0), WAIT_POLL);
    }

    #[test]
    fn the_state_comes_before_the_call() {
        // SIGSTOP, ptrace and the freezer in the middle of a sleep.
        for state in [0x104, 0x8, 0x8000] {
            assert_eq!(class(state, 230, [0; 2], 0), WAIT_STOPPED, "{state:#x}");
        }
        assert_eq!(class(0, 230, [0; 2], 0), WAIT_READY);
        assert_eq!(class(0x2001, 230, [0; 2], 0), WAIT_SLEEP);
        assert_eq!(class(0x102, NO_CALL, [0; 2], 0), WAIT_FAULT);
        assert_eq!(class(0x2102, 58, [0; 2], 0), WAIT_CHILD);
        assert_eq!(
            (class(S, 257, [0; 2], 0), class(D, 257, [0; 2], 0)),
            (WAIT_FILE, WAIT_DISK)
        );
    }
}
