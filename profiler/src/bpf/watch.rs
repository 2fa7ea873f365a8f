//! Hardware breakpoints on bytes of a process's memory.
//!
//! A breakpoint is on each CPU, not on each thread: no thread that is started meanwhile is missed, and none has two. Other
//! processes stop at it only if they use the very address: those that were forked from the same one. A CPU that comes
//! online later has none.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::Context as _;
use aya::programs::PerfEvent;
use profiler_common::{
    names,
    python::{Watch, WatchKey},
};

use super::{Kernel, attach, program};
use crate::source::online_cpus;

/// Watches an address for as long as it lives.
#[derive(Debug)]
pub struct WatchLink {
    events: Vec<OwnedFd>,
}

impl WatchLink {
    /// Ends it. How often it was hit.
    pub fn end(self) -> anyhow::Result<u64> {
        self.events.into_iter().map(attach::end).sum()
    }
}

impl Kernel {
    /// Runs `bytecode_read` whenever anybody in user space reads or writes the byte at this address.
    pub fn attach_watch(&mut self, address: u64) -> anyhow::Result<WatchLink> {
        let program: &mut PerfEvent = program(&mut self.ebpf, names::PROGRAM_WATCH)?;
        let program = program.fd()?.as_fd();
        let events = online_cpus()?
            .into_iter()
            .map(|cpu| attach::watch(program, cpu, address));
        Ok(WatchLink {
            events: events.collect::<anyhow::Result<_>>()?,
        })
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

    /// Code of the calls under way that probes have seen to begin.
    pub fn calls_under_way(&self) -> Vec<u64> {
        // As many as there can be: the kernel begins anew where one is removed that it has just handed out.
        const MOST: usize = 64 * 1024;
        let starts = self.starts.iter().take(MOST).filter_map(Result::ok);
        starts
            .filter(|(_, start)| start.watched == 0)
            .map(|(_, start)| start.code)
            .collect()
    }
}
