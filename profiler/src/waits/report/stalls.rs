//! Stalls of event loops, with names.

use super::Names;
use crate::{
    report::waits::{StallTime, Stalled},
    waits::stalls::{Stall, Stalls},
};

/// `begun_ns`: when the recording began.
pub(super) fn told(names: &mut Names<'_>, stalls: &Stalls, limit_ns: u64, begun_ns: u64) -> Stalled {
    let (found, left_out) = stalls.told();
    Stalled {
        limit_ns,
        left_out,
        stalls: found
            .into_iter()
            .map(|stall| with_names(names, stall, begun_ns))
            .collect(),
    }
}

fn with_names(names: &mut Names<'_>, stall: &Stall, begun_ns: u64) -> StallTime {
    let id = (stall.pid, stall.tid);
    let mut parts = Vec::with_capacity(stall.parts.len());
    for &(cause, site, ns) in &stall.parts {
        if let Some(sample) = names.sampled(site) {
            parts.push((cause, sample.stack, ns));
        }
    }
    StallTime {
        pid: stall.pid,
        tid: stall.tid,
        thread: names.thread(id).unwrap_or_default(),
        command: names.command(id).unwrap_or_default(),
        at_ns: stall.from_ns.saturating_sub(begun_ns),
        length_ns: stall.length_ns(),
        unended: stall.unended,
        task: stall.task.clone(),
        parts,
    }
}
