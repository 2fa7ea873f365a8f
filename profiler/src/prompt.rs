//! Being let run at once, for a moment.
//!
//! Whoever has to end something in time must not wait for a processor, least of all until the program that is watched waits:
//! on a busy machine windows in which calls are counted would end with requests, and show more ends than there are.

use std::{marker::PhantomData, mem};

/// The calling thread runs before all that have no such policy, until this is dropped.
#[derive(Debug)]
pub struct Prompt {
    policy: libc::c_int,
    parameters: libc::sched_param,
    /// It is of one thread.
    of_thread: PhantomData<*const ()>,
}

impl Prompt {
    /// None where that is not permitted (CAP_SYS_NICE), or the thread has such a policy already.
    pub fn begin() -> Option<Self> {
        // SAFETY: an integer, which may be zero.
        let mut parameters: libc::sched_param = unsafe { mem::zeroed() };
        // SAFETY: of the calling thread; `parameters` is live and writable.
        let policy = unsafe {
            libc::sched_getparam(0, &raw mut parameters);
            libc::sched_getscheduler(0)
        };
        if policy != libc::SCHED_OTHER {
            return None;
        }
        let lowest = libc::sched_param { sched_priority: 1 };
        // Threads that it starts meanwhile are as others.
        let wanted = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
        // SAFETY: of the calling thread; `lowest` is live.
        let is_set = unsafe { libc::sched_setscheduler(0, wanted, &raw const lowest) } == 0;
        is_set.then_some(Self {
            policy,
            parameters,
            of_thread: PhantomData,
        })
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        // SAFETY: of the calling thread, which the value was made by: it is not Send. Its policy may always become less.
        unsafe { libc::sched_setscheduler(0, self.policy, &raw const self.parameters) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_as_before_when_the_moment_is_over() {
        // SAFETY: of the calling thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let before = policy();
        if let Some(prompt) = Prompt::begin() {
            assert_eq!(policy() & !libc::SCHED_RESET_ON_FORK, libc::SCHED_FIFO);
            assert!(Prompt::begin().is_none());
            drop(prompt);
        }
        assert_eq!(policy(), before);
    }
}
