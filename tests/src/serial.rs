//! One test at a time: each of them samples every CPU, and some load the CPUs or take one away.

use std::{
    fs::{self, File},
    io::Write as _,
    os::fd::AsRawFd as _,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

/// Names the file to which every claim adds a line: its name, and how many seconds it took. What came of it libtest says: a
/// test that returns an error ends here as one that holds.
const TIMES: &str = "PROFILER_CLAIM_TIMES";

/// Held for the length of a test.
#[derive(Debug)]
pub struct Serial {
    began: Instant,
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
        // Waiting for others is not this test's time.
        began: Instant::now(),
        _within: within,
        _across: across,
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        let Some(path) = std::env::var_os(TIMES) else { return };
        let claim = thread::current().name().unwrap_or("?").to_owned();
        let line = format!("{claim}\t{:.1}\n", self.began.elapsed().as_secs_f64());
        let written = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            eprintln!("cannot write {}: {error}", path.display());
        }
    }
}
