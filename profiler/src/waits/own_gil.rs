//! Sub-interpreters that have a GIL of their own (3.12 on), and the threads that are in them.
//!
//! The kernel side knows one GIL for each thread, which is its process's until user space says otherwise. A thread that is
//! in another interpreter waits for that one's, which looks like any other futex: so waits for futexes are looked up here,
//! the thread's GIL is set right, and what was counted as a lock until then is the GIL's. A thread can go from one
//! interpreter to another; then this happens again.

use std::time::{Duration, Instant};

use profiler_common::wait::{CALL_FUTEX, GIL_BYTES, WAIT_GIL, WAIT_LOCK, WaitEvent, WaitSlot, WaitSum};
use profiler_ebpf::wait::class;
use rustc_hash::FxHashMap;

use super::gil;
use crate::{
    process::pythons::PythonIn,
    python::{memory::ProcessMemory, version::Version},
};

/// How long it is believed which interpreters a process has.
const LISTED_FOR: Duration = Duration::from_millis(100);
/// Processes whose interpreters are remembered, and threads that are in sub-interpreters.
const MOST_PROCESSES: usize = 4096;
const MOST_THREADS: usize = 1 << 16;

type Id = (u32, u32);

#[derive(Debug, Default)]
pub struct OwnGils {
    listed: FxHashMap<u32, (Vec<u64>, Instant)>,
    /// The GILs of threads whose is not their process's, or was not.
    threads: FxHashMap<Id, u64>,
    /// What the accounts of threads have as locks, and was the GIL.
    moved: FxHashMap<Id, WaitSum>,
}

/// Whether interpreters of this version can have GILs of their own.
fn can_have(version: Version) -> bool {
    version.series() >= (3, 12)
}

impl OwnGils {
    /// The GIL that a thread waits for which waits for this futex, if it is one.
    pub fn waited_for(&mut self, pid: u32, python: &PythonIn, call: u32, futex: u64) -> Option<u64> {
        // On musl a few of those who wait for it wait for a futex in it, and a part of a sum is none.
        let is_known = gil::waits_are_known(python) && can_have(python.binary.version);
        if !is_known || class::of_call(call) & CALL_FUTEX == 0 {
            return None;
        }
        let now = Instant::now();
        let is_listed = |(_, listed): &(Vec<u64>, Instant)| now.duration_since(*listed) < LISTED_FOR;
        if !self.listed.get(&pid).is_some_and(is_listed) {
            if self.listed.len() >= MOST_PROCESSES {
                self.listed.clear();
            }
            let gils = gil::all(python, &ProcessMemory { pid });
            self.listed.insert(pid, (gils, now));
        }
        let (gils, _) = self.listed.get(&pid)?;
        gils.iter().copied().find(|gil| futex.wrapping_sub(*gil) < GIL_BYTES)
    }

    /// The thread is in an interpreter that has this GIL.
    pub fn set(&mut self, id: Id, gil: u64) {
        if self.threads.len() >= MOST_THREADS {
            // They are found again when they wait.
            self.threads.clear();
        }
        self.threads.insert(id, gil);
    }

    /// The GIL of a thread, if it was found to have another than its process.
    pub fn of(&self, id: Id) -> Option<u64> {
        self.threads.get(&id).copied()
    }

    /// A wait that was counted as one for a lock was for the GIL, and so were those that it stands for.
    pub fn counted(&mut self, id: Id, event: &WaitEvent) {
        if self.moved.len() >= MOST_THREADS && !self.moved.contains_key(&id) {
            return;
        }
        let length = event.length_ns.max(1);
        let weight = event.weight_ns.max(length);
        let stands_for = weight.div_ceil(length);
        let sum = self.moved.entry(id).or_default();
        sum.count = sum.count.saturating_add(stands_for);
        sum.ns = sum.ns.saturating_add(weight);
        sum.drawn_ns = sum.drawn_ns.saturating_add(weight);
        sum.ready_ns = sum.ready_ns.saturating_add(event.ready_ns.saturating_mul(stands_for));
        let throttled_ns = event.throttled_ns.saturating_mul(stands_for);
        sum.throttled_ns = sum.throttled_ns.saturating_add(throttled_ns);
        sum.longest_ns = sum.longest_ns.max(length);
    }

    /// Brings an account to what is known by now. What is moved never comes to more than there was.
    pub fn correct(&self, slot: &mut WaitSlot) {
        let Some(moved) = self.moved.get(&(slot.shown_pid, slot.shown_tid)) else {
            return;
        };
        let mut locks = slot.sums[WAIT_LOCK as usize];
        let gil = &mut slot.sums[WAIT_GIL as usize];
        let shift = |from: &mut u64, to: &mut u64, amount: u64| {
            let amount = amount.min(*from);
            *from -= amount;
            *to += amount;
        };
        shift(&mut locks.count, &mut gil.count, moved.count);
        shift(&mut locks.ns, &mut gil.ns, moved.ns);
        shift(&mut locks.drawn_ns, &mut gil.drawn_ns, moved.drawn_ns);
        shift(&mut locks.ready_ns, &mut gil.ready_ns, moved.ready_ns);
        shift(&mut locks.throttled_ns, &mut gil.throttled_ns, moved.throttled_ns);
        gil.longest_ns = gil.longest_ns.max(moved.longest_ns);
        slot.sums[WAIT_LOCK as usize] = locks;
    }

    /// The thread is gone: its number can become another's.
    pub fn forget(&mut self, id: Id) {
        self.threads.remove(&id);
        self.moved.remove(&id);
    }

    /// So is a process, or it runs something else.
    pub fn forget_process(&mut self, pid: u32) {
        self.listed.remove(&pid);
        self.threads.retain(|id, _| id.0 != pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_as_a_lock_is_the_gils_and_never_more_than_there_was() {
        let mut own = OwnGils::default();
        let mut slot = WaitSlot {
            shown_pid: 1,
            shown_tid: 2,
            ..WaitSlot::default()
        };
        slot.sums[WAIT_LOCK as usize] = WaitSum {
            count: 5,
            ns: 1_000,
            drawn_ns: 900,
            longest_ns: 400,
            ..WaitSum::default()
        };
        let event = WaitEvent {
            length_ns: 300,
            weight_ns: 300,
            ready_ns: 20,
            ..WaitEvent::default()
        };
        own.counted((1, 2), &event);
        // One that stands for two.
        own.counted(
            (1, 2),
            &WaitEvent {
                length_ns: 100,
                weight_ns: 200,
                ..WaitEvent::default()
            },
        );
        let mut corrected = slot;
        own.correct(&mut corrected);
        let [locks, gil] = [WAIT_LOCK, WAIT_GIL].map(|class| corrected.sums[class as usize]);
        assert_eq!((locks.count, locks.ns, locks.drawn_ns), (2, 500, 400));
        assert_eq!((gil.count, gil.ns, gil.drawn_ns, gil.longest_ns), (3, 500, 500, 300));
        assert_eq!(gil.ready_ns, 0, "the account has none of it");
        for _ in 0..10 {
            own.counted((1, 2), &event);
        }
        own.correct(&mut slot);
        assert_eq!(slot.sums[WAIT_LOCK as usize].ns, 0);
        assert_eq!(slot.sums[WAIT_GIL as usize].ns, 1_000);
        // Another thread's account is left alone.
        own.forget((1, 2));
        let before = slot;
        own.correct(&mut slot);
        assert_eq!(slot, before);
    }
}
