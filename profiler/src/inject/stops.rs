//! What is done in a stop: the range is mapped and filled, and a list of words is swapped.
//!
//! This runs in the process of the tracer ([`super::apart`]) and nowhere else: whoever ends within a stop takes a thread with
//! foreign registers along.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    time::Duration,
};

use super::{
    journal::{Identity, Journal},
    layout,
    stub::{self, stub},
    tracer::{self, Stopped, TraceError},
};
use crate::python::memory::{ProcessMemory, ReadMemory as _};

/// What the link of the stubs' file in a process says.
pub const FILE_NAME: &str = "/memfd:profiler (deleted)";

/// Has a process map the range. Where it is, the file that its code lies in, and how long the process was stopped.
///
/// # Errors
/// If a step fails; what was mapped is unmapped, as far as the process lets us.
pub fn map(process: Identity, originals: [u64; 4], bytes_per_sample: u64) -> Result<(u64, File, Duration), TraceError> {
    let pid = process.pid;
    // Before anything stops.
    let code = stub().code;
    let facts = stub::facts(originals, bytes_per_sample);
    let work = |stopped: &mut Stopped| match process.is_there() {
        true => map_range(stopped, pid, code, &facts),
        false => Err(TraceError::Gone { tid: pid }),
    };
    let ((base, file), took) = tracer::with_stopped(pid, pid, work)?;
    Ok((base, file, took))
}

/// The process gets a file descriptor for a moment.
fn map_range(stopped: &mut Stopped, pid: u32, code: &[u8], facts: &[u8]) -> Result<(u64, File), TraceError> {
    let call = |what: &'static str| move |source: io::Error| TraceError::Call { what, source };
    let (private, fixed) = (libc::MAP_PRIVATE as u64, libc::MAP_FIXED as u64);
    let (read, write, execute) = (libc::PROT_READ as u64, libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);
    let none = u64::MAX;
    let anonymous = private | libc::MAP_ANONYMOUS as u64;
    let arguments = [0, layout::ALL, read | write, anonymous, none, 0];
    let base = stopped.call("mmap", libc::SYS_mmap, arguments)?;
    let filled = (|| {
        stopped.poke(base + layout::NAME, u64::from_le_bytes(*b"profiler"))?;
        let arguments = [base + layout::NAME, libc::MFD_CLOEXEC.into(), 0, 0, 0, 0];
        let descriptor = stopped.call("memfd_create", libc::SYS_memfd_create, arguments)?;
        let mapped = (|| {
            let path = Path::new("/proc")
                .join(pid.to_string())
                .join(format!("fd/{descriptor}"));
            // Other threads run, and one of them may have put another file there by now.
            let is_ours = || fs::read_link(&path).is_ok_and(|to| to == Path::new(FILE_NAME));
            let other = || call("opening its memfd")(io::Error::from_raw_os_error(libc::ESTALE));
            if !is_ours() {
                return Err(other());
            }
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.map_err(call("opening its memfd"))?;
            let found = file.metadata().map_err(call("opening its memfd"))?;
            if found.len() != 0 || found.nlink() != 0 || !is_ours() {
                return Err(other());
            }
            file.set_len(layout::FILE_BYTES).map_err(call("filling its memfd"))?;
            file.write_all_at(code, layout::CODE)
                .map_err(call("filling its memfd"))?;
            file.write_all_at(facts, layout::FACTS)
                .map_err(call("filling its memfd"))?;
            let arguments = [base, layout::CONTROL, read | execute, private | fixed, descriptor, 0];
            stopped.call("mmap of code", libc::SYS_mmap, arguments)?;
            let shared = libc::MAP_SHARED as u64 | fixed;
            let at = base + layout::CONTROL;
            let arguments = [at, layout::PAGE, read, shared, descriptor, layout::CONTROL];
            stopped.call("mmap of a page to read", libc::SYS_mmap, arguments)?;
            // What children find there is zeros, by which the stubs know that they are not wanted.
            let wipe = libc::MADV_WIPEONFORK as u64;
            let arguments = [base + layout::DATA, layout::DATA_BYTES, wipe, 0, 0, 0];
            stopped.call("madvise", libc::SYS_madvise, arguments)?;
            Ok((base, file))
        })();
        let closed = stopped.call("close", libc::SYS_close, [descriptor, 0, 0, 0, 0, 0]);
        let mapped = mapped?;
        closed?;
        Ok(mapped)
    })();
    if filled.is_err() {
        // Nothing leads there yet.
        let _ = stopped.call("munmap", libc::SYS_munmap, [base, layout::ALL, 0, 0, 0, 0]);
    }
    filled
}

/// Whether the process still has the code that swaps where the journal says.
pub fn is_there(journal: &Journal) -> bool {
    let memory = ProcessMemory {
        pid: journal.process.pid,
    };
    let mut code = vec![0; journal.swap_code.len()];
    !code.is_empty() && memory.read(journal.base + journal.swap, &mut code) && code == journal.swap_code
}

/// Has the process do a list of jobs. Which were done, and how long it was stopped; nothing if it is gone.
///
/// # Errors
/// If it cannot be stopped.
pub fn swap(journal: &Journal, list: u64, jobs: usize) -> Result<Option<(u64, Duration)>, TraceError> {
    let pid = journal.process.pid;
    let work = |stopped: &mut Stopped| {
        // The thread stands still: what is looked at now stays.
        if !journal.process.is_there() || !is_there(journal) {
            return Ok(None);
        }
        let reached = stopped.run(journal.base + journal.swap, |registers| {
            registers.r12 = journal.base + list;
            registers.r13 = jobs as u64;
        })?;
        Ok(Some(reached.r14))
    };
    match tracer::with_stopped(pid, pid, work) {
        Ok((done, took)) => Ok(done.map(|done| (done, took))),
        Err(TraceError::Gone { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
