//! How long threads waited for a processor while calls were counted.
//!
//! Where others want the processors as well, a call of 0.2 ms is over before its thread's turn is, and one that probes have
//! made 20 ms long is not: its thread waits for the next turn. That wait is in the call's time, and is as much ours as the
//! time on a processor in that call is. (A page of 2,000 small calls took 0.18 ms at a load of 4; with probes, 10.8 ms where it had a
//! processor to itself, and 18.6 ms where it had not, of which 9.3 were taken for its own.)

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::{calls::Delay, waits::threads};

/// How often it is asked while calls are counted. A process that ends takes what was since with it.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Of a process with more, those that are met first stand for all.
const MOST_THREADS: usize = 64;

/// What the scheduler gave a thread, and how long it let it wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turns {
    ran_ns: u64,
    delayed_ns: u64,
}

#[derive(Debug, Default)]
pub(super) struct Delays {
    /// By process and thread: when it was first looked at in the window that is open, and last.
    open: FxHashMap<(u32, u32), (Turns, Turns)>,
    looked: Option<Instant>,
    closed: Turns,
}

impl Delays {
    /// Calls are counted in these processes.
    pub(super) fn look(&mut self, pids: impl Iterator<Item = u32>, now: Instant) {
        if self
            .looked
            .is_none_or(|looked| now.duration_since(looked) >= LOOK_EVERY)
        {
            self.take(pids, now);
        }
    }

    /// … until now.
    pub(super) fn close(&mut self, pids: impl Iterator<Item = u32>, now: Instant) {
        self.take(pids, now);
        for (_, (first, last)) in self.open.drain() {
            self.closed.ran_ns += last.ran_ns.saturating_sub(first.ran_ns);
            self.closed.delayed_ns += last.delayed_ns.saturating_sub(first.delayed_ns);
        }
        self.looked = None;
    }

    fn take(&mut self, pids: impl Iterator<Item = u32>, now: Instant) {
        self.looked = Some(now);
        for pid in pids {
            for tid in threads::list(pid).into_iter().take(MOST_THREADS) {
                if let Some((ran_ns, delayed_ns)) = threads::turns(pid, tid) {
                    self.note((pid, tid), Turns { ran_ns, delayed_ns });
                }
            }
        }
    }

    fn note(&mut self, thread: (u32, u32), turns: Turns) {
        self.open.entry(thread).or_insert((turns, turns)).1 = turns;
    }

    /// How long they waited in all windows that are closed.
    pub(super) fn told(&self) -> Delay {
        let delayed_ns = self.closed.delayed_ns as f64;
        match self.closed.ran_ns {
            // Not kept by this kernel, or nothing ran.
            0 => Delay::default(),
            ran_ns => Delay {
                for_each_ns: delayed_ns / ran_ns as f64,
                all_ns: delayed_ns,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_waited_before_a_window_and_between_two_is_of_none() {
        let mut delays = Delays::default();
        let mut window = |from: (u64, u64), to: (u64, u64)| {
            for (ran_ns, delayed_ns) in [from, to] {
                delays.note((7, 8), Turns { ran_ns, delayed_ns });
            }
            delays.close(std::iter::empty(), Instant::now());
            delays.told()
        };
        let delay = |for_each_ns, all_ns| Delay { for_each_ns, all_ns };
        assert_eq!(window((1_000, 900), (1_100, 1_000)), delay(1.0, 100.0));
        assert_eq!(window((5_000, 4_000), (5_300, 4_000)), delay(0.25, 100.0));
    }

    #[test]
    fn of_this_thread_it_is_known_and_of_no_process_nothing() {
        let mut delays = Delays::default();
        assert_eq!(delays.told(), Delay::default());
        let (own, begun) = (std::process::id(), Instant::now());
        delays.look([own, (4 << 20) + 7].into_iter(), begun);
        // Not again so soon.
        delays.open.clear();
        delays.look([own].into_iter(), begun);
        assert!(delays.open.is_empty());
        delays.look([own].into_iter(), begun + LOOK_EVERY);
        assert!(delays.open.keys().all(|(pid, _)| *pid == own) && !delays.open.is_empty());
        delays.close([own].into_iter(), Instant::now());
        assert!(delays.open.is_empty() && delays.told().for_each_ns >= 0.0);
    }
}
