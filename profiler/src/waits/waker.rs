//! Who ended a wait: whoever woke the thread.

use std::fs;

use profiler_common::{
    limits::COMM_BYTES,
    record::{SampleHeader, StackKey},
    wait::{WAKER_INTERRUPT, WAKER_KERNEL, WAKER_TASK, Waker},
};

use crate::{
    memory::event::SiteId,
    profile::{FrameId, FrameKind, Profile},
    recording::{NO_SITE, Recording},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// A thread whose stack is known.
    Site(SiteId),
    /// One of which it is not.
    Thread { pid: u32, tid: u32, comm: [u8; COMM_BYTES] },
    /// One of the kernel's own.
    Kernel { comm: [u8; COMM_BYTES] },
    /// A timer, or a device.
    Interrupt,
}

impl Who {
    /// As the kernel side noted it. `header`: of the wait.
    pub fn of(recording: &mut Recording, waker: &Waker, header: &SampleHeader) -> Option<Self> {
        let comm = name(waker);
        let (pid, tid) = (waker.pid, waker.tid);
        match waker.kind {
            WAKER_TASK if waker.stack != [0; 2] && (recording.knows_process(pid) || runs_python(pid)) => {
                let woken_by = SampleHeader {
                    pid,
                    tid,
                    stack: StackKey { hash: waker.stack },
                    comm,
                    instance: waker.instance,
                    python: waker.python,
                    ..*header
                };
                Some(match recording.site_of(&woken_by) {
                    NO_SITE => Self::Thread { pid, tid, comm },
                    site => Self::Site(site),
                })
            }
            WAKER_TASK => Some(Self::Thread { pid, tid, comm }),
            WAKER_KERNEL => Some(Self::Kernel { comm }),
            WAKER_INTERRUPT => Some(Self::Interrupt),
            _ => None,
        }
    }
}

/// Whether a process of which nothing is known is worth a look: it may be a CPython at the other end of a socket. There is no
/// room for what all others have mapped.
fn runs_python(pid: u32) -> bool {
    let executable = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = executable.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b"python")
}

fn name(waker: &Waker) -> [u8; COMM_BYTES] {
    let mut comm = [0; COMM_BYTES];
    for (to, from) in comm.chunks_exact_mut(8).zip(waker.comm) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    comm
}

/// Whether the stack of whoever woke a thread is that of an interrupt, which was none of its business: by where the kernel
/// is entered (arch/x86/include/asm/idtentry.h, 5.8 on).
pub fn is_interrupt(profile: &Profile, stack: &[FrameId]) -> bool {
    const ENTRIES: [&str; 4] = ["asm_sysvec_", "sysvec_", "asm_common_interrupt", "common_interrupt"];
    stack.iter().any(|&id| {
        let frame = profile.frame(id);
        let function = profile.string(frame.function);
        frame.kind == FrameKind::Kernel && ENTRIES.iter().any(|entry| function.starts_with(entry))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_bytes_that_the_kernel_has() {
        let waker = Waker {
            comm: [
                u64::from_ne_bytes(*b"worker-1"),
                u64::from_ne_bytes(*b"2\0\0\0\0\0\0\0"),
            ],
            ..Waker::default()
        };
        assert_eq!(&name(&waker), b"worker-12\0\0\0\0\0\0\0");
    }
}
