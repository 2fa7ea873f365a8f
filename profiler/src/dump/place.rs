//! On which CPU this thread runs, and to run on another.
//!
//! Whoever reads a thread that runs cannot keep it from going on; but where this thread runs, no other does. So the reader
//! goes to the CPU that the thread is on, and takes its turn there, as any process may that comes to run on that CPU. The
//! kernel counts how often a thread gets a CPU: if the count, and the CPU, are the same before and after, the thread was not
//! on any in between.

use std::{io, mem};

/// A thread's place. It goes back to where it may run when this is dropped.
#[derive(Debug)]
pub struct Place {
    before: libc::cpu_set_t,
}

impl Place {
    /// Has this thread run on a CPU, and on no other.
    ///
    /// # Errors
    /// If it may not run there.
    pub fn on(cpu: u32) -> io::Result<Self> {
        let place = Self { before: allowed()? };
        if cpu >= libc::CPU_SETSIZE as u32 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: all zeroes are an empty set.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: the set has room for this CPU, as was just seen.
        unsafe { libc::CPU_SET(cpu as usize, &mut set) };
        allow(&set).map(|()| place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It could run there before; if it may not any more, it stays where it is.
        let _ = allow(&self.before);
    }
}

/// The CPU that this thread is on.
pub fn here() -> Option<u32> {
    // SAFETY: sched_getcpu(3) has no preconditions.
    u32::try_from(unsafe { libc::sched_getcpu() }).ok()
}

fn allowed() -> io::Result<libc::cpu_set_t> {
    // SAFETY: all zeroes are an empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the set is as large as is said, and 0 is the calling thread.
    match unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } {
        0 => Ok(set),
        _ => Err(io::Error::last_os_error()),
    }
}

fn allow(set: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: the set is whole, and 0 is the calling thread.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_where_it_was_told_to_be_and_goes_back() {
        let before = allowed().expect("a set");
        let cpu = here().expect("a CPU");
        {
            let _place = Place::on(cpu).expect("it is there already");
            assert_eq!(here(), Some(cpu));
        }
        let after = allowed().expect("a set");
        // SAFETY: both are whole.
        assert!(unsafe { libc::CPU_EQUAL(&before, &after) });
        assert!(Place::on(u32::MAX).is_err());
    }
}
