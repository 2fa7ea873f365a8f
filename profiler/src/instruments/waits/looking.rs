//! Event loops that are away from polling are looked at while they are: what they run is known only then.

use std::time::Duration;

use super::{Waits, nanoseconds};
use crate::{cost, recording::Recording};

/// A loop is looked at when it has been away for this part of a stall, and as often.
const LOOKS_IN_STALL: u32 = 4;
const SHORTEST: Duration = Duration::from_millis(5);
/// Loops that are looked at in one turn: one takes some 20 µs.
const MOST_AT_ONCE: usize = 64;

impl Waits {
    pub(super) fn look_at_loops(&mut self, recording: &Recording) {
        self.looks_soon = None;
        let (Some(stalls), Some(limit), Some(maps)) = (&mut self.stalls, self.wanted.stalls, &self.maps) else {
            return;
        };
        let pause = (limit / LOOKS_IN_STALL).max(SHORTEST);
        let before_ns = cost::monotonic_ns().saturating_sub(nanoseconds(pause));
        for away in maps.away_from_poll(before_ns, MOST_AT_ONCE) {
            let task = self.running_tasks.look(recording, away.pid, away.tid);
            // It may have come back meanwhile, and gone again.
            if maps.back_from_poll(away.kernel_tid) == Some(away.since_ns) {
                stalls.looked((away.pid, away.tid), away.since_ns, task);
            }
            self.looks_soon = Some(pause);
        }
    }
}
