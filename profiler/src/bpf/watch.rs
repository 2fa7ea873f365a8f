//! Hardware breakpoints on bytes of a process's memory.
//!
//! A breakpoint is on each CPU, not on each thread: no thread that is started meanwhile is missed, and none has two. Other
//! processes stop at it only if they use the very address: those that were forked from the same one. A CPU that comes
//! online later has none.

use std::os::fd::OwnedFd;

use super::attach;
use crate::orders::Breakpoint;

/// Watches an address for as long as it lives.
#[derive(Debug)]
pub(super) struct WatchLink {
    pub events: Vec<OwnedFd>,
}

impl Breakpoint for WatchLink {
    fn end(self: Box<Self>) -> anyhow::Result<u64> {
        self.events.into_iter().map(attach::end).sum()
    }
}
