//! Hardware breakpoints on bytes that a thread reads: `perf_event_open`, and a link that tells the program whose thread
//! it was opened for. aya's breakpoint events are inherited by child processes too, and have no cookie.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::Context as _;
use aya::programs::PerfEvent;
use perf_event_open_sys as sys;
use profiler_common::{
    names,
    python::{CallCount, CodeKey, Watch, WatchKey},
};

use super::{Kernel, attach, program};

/// Watches a byte for as long as it lives.
#[derive(Debug)]
pub struct WatchLink {
    _link: OwnedFd,
}

impl Kernel {
    /// Runs `bytecode_read` whenever this thread, or one that it starts from now on, reads or writes the byte in user
    /// space. Of what it runs after an `exec` nothing is watched.
    pub fn attach_watch(&mut self, tid: u32, address: u64) -> anyhow::Result<WatchLink> {
        let program: &mut PerfEvent = program(&mut self.ebpf, names::PROGRAM_WATCH)?;
        let program = program.fd()?.as_fd();
        let event = open(tid, address).with_context(|| format!("failed to watch a byte in thread {tid}"))?;
        let link = link(program, event.as_fd(), tid.into()).context("failed to attach `bytecode_read`")?;
        Ok(WatchLink { _link: link })
    }

    /// Tells the program what it means that this byte is read.
    pub fn set_watch(&mut self, key: WatchKey, watch: &Watch) -> anyhow::Result<()> {
        self.watches
            .insert(key, watch, 0)
            .context("failed to write map WATCHES")
    }

    pub fn remove_watch(&mut self, key: WatchKey) {
        // Not there: that is what was wanted.
        let _ = self.watches.remove(&key);
    }

    /// This thread may have inherited watches, and is given its own: those it has inherited do not count.
    pub fn set_watched_twice(&mut self, tid: u32) -> anyhow::Result<()> {
        self.watched_twice
            .insert(tid, 1, 0)
            .context("failed to write map WATCHED_TWICE")
    }

    /// Calls of one function so far.
    pub fn calls_of(&self, code: CodeKey) -> CallCount {
        self.calls.get(&code, 0).unwrap_or_default()
    }
}

fn open(tid: u32, address: u64) -> io::Result<OwnedFd> {
    let mut attributes = sys::bindings::perf_event_attr {
        type_: sys::bindings::PERF_TYPE_BREAKPOINT,
        size: size_of::<sys::bindings::perf_event_attr>() as u32,
        // x86 has none that only reads trigger.
        bp_type: sys::bindings::HW_BREAKPOINT_RW,
        ..Default::default()
    };
    attributes.__bindgen_anon_1.sample_period = 1;
    attributes.__bindgen_anon_3.bp_addr = address;
    attributes.__bindgen_anon_4.bp_len = sys::bindings::HW_BREAKPOINT_LEN_1.into();
    attributes.set_exclude_kernel(1);
    attributes.set_inherit(1);
    attributes.set_inherit_thread(1);
    attributes.set_remove_on_exec(1);
    let flags = sys::bindings::PERF_FLAG_FD_CLOEXEC;
    // SAFETY: `attributes` is a valid, initialised perf_event_attr.
    let fd = unsafe { sys::perf_event_open(&raw mut attributes, tid as i32, -1, -1, flags.into()) };
    attach::owned(fd)
}

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads for a perf event (Linux 5.15).
#[repr(C)]
struct LinkCreate {
    program: u32,
    event: u32,
    attach_type: u32,
    flags: u32,
    cookie: u64,
}

/// `BPF_LINK_CREATE` and `BPF_PERF_EVENT` (include/uapi/linux/bpf.h).
const LINK_CREATE: libc::c_int = 28;
const PERF_EVENT: u32 = 41;

fn link(program: BorrowedFd<'_>, event: BorrowedFd<'_>, cookie: u64) -> io::Result<OwnedFd> {
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd() as u32;
    let attributes = LinkCreate {
        program: number(program),
        event: number(event),
        attach_type: PERF_EVENT,
        flags: 0,
        cookie,
    };
    // SAFETY: the kernel reads as many bytes of `attributes` as it is told; both file descriptors are open.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            LINK_CREATE,
            &raw const attributes,
            size_of::<LinkCreate>() as libc::c_uint,
        )
    };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a non-negative result of BPF_LINK_CREATE is a new file descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
