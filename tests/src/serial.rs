//! One test at a time: each of them samples every CPU, and some load the CPUs or take one away.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Held for the length of a test.
#[derive(Debug)]
pub struct Serial {
    _within: MutexGuard<'static, ()>,
    /// Closing it ends the lock.
    _across: Option<File>,
}

/// Waits for every other test, of this process (when somebody forgot `--test-threads=1`) and of other ones.
pub fn serial() -> Serial {
    static LOCK: Mutex<()> = Mutex::new(());
    // A test that failed has nothing to do with the next one.
    let within = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let path = std::env::temp_dir().join("profiler-e2e.lock");
    let across = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .ok();
    if let Some(file) = &across {
        // SAFETY: the descriptor is open for the length of the call.
        unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    }
    Serial {
        _within: within,
        _across: across,
    }
}
