//! Sums of drawn waits.

use indexmap::IndexMap;
use profiler_common::wait::{EVENT_HOLDS_GIL, WAIT_READY, WaitEvent};
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    cause::{Cause, Target},
    held::{Meanwhile, Span},
    targets::Targets,
    waker::Who,
};
use crate::{
    memory::event::SiteId,
    recording::NO_SITE,
    slices::{Clock, Slices},
};

/// A wait that was drawn, and whose.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    pub pid: u32,
    pub tid: u32,
    /// When it was over.
    pub ended_ns: u64,
    pub site: SiteId,
    /// Which GIL is the thread's; 0 if it is not known to have one.
    pub gil: u64,
    /// Who had the GIL that was waited for: where that thread was.
    pub holder: Option<SiteId>,
    /// Who ended the wait.
    pub waker: Option<Who>,
    pub event: WaitEvent,
}

/// What waits are summed up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub pid: u32,
    pub tid: u32,
    /// As the kernel side counts them.
    pub class: u32,
    pub cause: Cause,
    /// It had the GIL all the while.
    pub holds_gil: bool,
    pub site: SiteId,
    pub call: u32,
    /// Index of the target; 0 is none.
    pub target: u32,
}

/// What some drawn waits stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Of waits that were certain to be drawn.
    pub long_ns: u64,
    pub long_count: u64,
    /// Of those that were not: what they stand for.
    pub short_ns: u64,
    pub short_count: f64,
    /// Of both, how much was waiting for a CPU only: where one was to be had by its turn, and where the cgroup had no quota
    /// left.
    pub long_ready_ns: u64,
    pub short_ready_ns: f64,
    pub long_throttled_ns: u64,
    pub short_throttled_ns: f64,
    pub longest_ns: u64,
    pub longest_ready_ns: u64,
    pub longest_throttled_ns: u64,
    /// Of `short_ns`, in ns².
    pub variance: f64,
    /// What the squares of all lengths come to, in ns².
    pub squares: f64,
}

/// Different waits that are told apart; beyond, only thread and class are.
const MOST_KEYS: usize = 1 << 17;

/// All drawn waits of a recording.
#[derive(Debug, Default)]
pub struct Account {
    sums: IndexMap<Key, Sums, FxBuildHasher>,
    /// Of waits for the GIL, by who had it.
    holders: IndexMap<(Key, SiteId), Sums, FxBuildHasher>,
    /// By who ended them.
    wakers: IndexMap<(Key, Who), Sums, FxBuildHasher>,
    /// What others have waited for the GIL in the meantime.
    pub meanwhile: Meanwhile,
    targets: Targets,
    /// When they were, if somebody wants to know.
    clock: Option<Clock>,
    when: FxHashMap<Key, Slices>,
    /// Waits for whose lines there is no room.
    forgotten: u64,
    /// Received so far.
    pub received: u64,
}

impl Account {
    pub fn take(&mut self, drawn: &Drawn) {
        self.received += 1;
        let mut key = self.key(drawn);
        if self.sums.len() >= MOST_KEYS && !self.sums.contains_key(&key) {
            self.forgotten += 1;
            key.site = NO_SITE;
            key.target = 0;
        }
        self.sums.entry(key).or_default().add(&drawn.event);
        self.note_time(drawn, key);
        if key.cause == Cause::Gil && self.holders.len() < MOST_KEYS {
            let holder = drawn.holder.unwrap_or(NO_SITE);
            self.holders.entry((key, holder)).or_default().add(&drawn.event);
        }
        if let Some(waker) = drawn.waker
            && self.wakers.len() < MOST_KEYS
        {
            self.wakers.entry((key, waker)).or_default().add(&drawn.event);
        }
        self.overlap(drawn, key);
    }

    /// A wait that has not ended is kept apart: no sum of its thread has it.
    pub fn take_unended(&mut self, drawn: &Drawn, unended: &mut Vec<(Key, u64)>) {
        let key = self.key(drawn);
        unended.push((key, drawn.event.length_ns));
        self.note_time(drawn, key);
        self.overlap(drawn, key);
    }

    /// From now on it is noted when waits were, by slices from this moment on (CLOCK_MONOTONIC).
    pub fn follow_time(&mut self, began_ns: Option<u64>) {
        if self.clock.is_none() {
            self.clock = began_ns.map(Clock::new);
        }
    }

    fn note_time(&mut self, drawn: &Drawn, key: Key) {
        let Some(clock) = &mut self.clock else { return };
        let WaitEvent {
            length_ns, weight_ns, ..
        } = drawn.event;
        let from_ns = drawn.ended_ns.saturating_sub(length_ns);
        let slices = self.when.entry(key).or_default();
        clock.spread(slices, from_ns, drawn.ended_ns, weight_ns.max(length_ns));
        if clock.is_full() {
            clock.shorten(self.when.values_mut());
        }
    }

    /// When the waits of a key were; none if that was not noted.
    pub fn when(&self, key: &Key) -> Option<&Slices> {
        self.when.get(key)
    }

    fn overlap(&mut self, drawn: &Drawn, key: Key) {
        let WaitEvent {
            length_ns, weight_ns, ..
        } = drawn.event;
        let span = Span::ending(drawn.ended_ns, length_ns);
        let stands_for = weight_ns.max(length_ns) as f64 / length_ns.max(1) as f64;
        if key.cause == Cause::Gil {
            self.meanwhile.wanted((key.pid, drawn.gil), span, stands_for);
        } else if key.holds_gil {
            self.meanwhile.held((key.pid, drawn.gil), span, stands_for, key);
        }
    }

    fn key(&mut self, drawn: &Drawn) -> Key {
        let target = self.targets.number(drawn.pid, &drawn.event);
        let Drawn {
            pid, tid, site, event, ..
        } = *drawn;
        Key {
            pid,
            tid,
            class: event.class,
            cause: Cause::of(&event),
            holds_gil: event.flags & EVENT_HOLDS_GIL != 0,
            site,
            call: event.call,
            target,
        }
    }

    pub fn sums(&self) -> impl Iterator<Item = (&Key, &Sums)> {
        self.sums.iter()
    }

    /// Whether waits of this key have ended.
    pub fn has(&self, key: &Key) -> bool {
        self.sums.contains_key(key)
    }

    /// Waits for the GIL by who had it; [`NO_SITE`] where that is not known.
    pub fn holders(&self) -> impl Iterator<Item = (&(Key, SiteId), &Sums)> {
        self.holders.iter()
    }

    /// Waits by who ended them, as far as that was looked at.
    pub fn wakers(&self) -> impl Iterator<Item = (&(Key, Who), &Sums)> {
        self.wakers.iter()
    }

    /// Waits whose line, or whom they were for, is not told.
    pub fn forgotten(&self) -> u64 {
        self.forgotten + self.targets.forgotten
    }

    pub fn target_of(&self, key: &Key) -> &Target {
        self.targets.get(key.pid, key.target)
    }
}

/// Of a wait, what is told as another cause's: waiting for a CPU, for want of one and for want of quota. What waited for
/// nothing but a CPU is of that cause anyway.
pub fn apart(event: &WaitEvent) -> (u64, u64) {
    let length = event.length_ns.max(1);
    let throttled = event.throttled_ns.min(length);
    match event.class {
        WAIT_READY => (0, throttled),
        _ => (event.ready_ns.min(length).saturating_sub(throttled), throttled),
    }
}

impl Sums {
    pub fn add(&mut self, event: &WaitEvent) {
        let length = event.length_ns.max(1);
        let (ready, throttled) = apart(event);
        self.longest_ns = self.longest_ns.max(length - ready - throttled);
        self.longest_ready_ns = self.longest_ready_ns.max(ready);
        self.longest_throttled_ns = self.longest_throttled_ns.max(throttled);
        self.squares += length as f64 * event.weight_ns.max(length) as f64;
        if event.weight_ns <= length {
            self.long_ns = self.long_ns.saturating_add(length);
            self.long_count += 1;
            self.long_ready_ns = self.long_ready_ns.saturating_add(ready);
            self.long_throttled_ns = self.long_throttled_ns.saturating_add(throttled);
            return;
        }
        // It was drawn with this probability.
        let chance = length as f64 / event.weight_ns as f64;
        self.short_ns = self.short_ns.saturating_add(event.weight_ns);
        self.short_count += 1.0 / chance;
        self.short_ready_ns += ready as f64 / chance;
        self.short_throttled_ns += throttled as f64 / chance;
        self.variance += (1.0 - chance) * (event.weight_ns as f64).powi(2);
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::wait::{WAIT_LOCK, WAIT_SLEEP};

    use super::*;

    fn drawn(class: u32, length_ns: u64, weight_ns: u64, ready_ns: u64) -> Drawn {
        Drawn {
            pid: 1,
            tid: 2,
            ended_ns: 0,
            site: 3,
            gil: 0,
            holder: None,
            waker: None,
            event: WaitEvent {
                class,
                length_ns,
                weight_ns,
                ready_ns,
                ..WaitEvent::default()
            },
        }
    }

    #[test]
    fn what_was_certain_to_be_drawn_stands_for_itself_and_the_rest_for_more() {
        let mut account = Account::default();
        account.take(&drawn(WAIT_LOCK, 7_000, 7_000, 1_000));
        account.take(&drawn(WAIT_LOCK, 1_000, 5_000, 100));
        let (_, sums) = account.sums().next().unwrap();
        assert_eq!((sums.long_ns, sums.long_count, sums.long_ready_ns), (7_000, 1, 1_000));
        assert_eq!(
            (sums.short_ns, sums.short_count, sums.short_ready_ns),
            (5_000, 5.0, 500.0)
        );
        assert_eq!(sums.longest_ns, 6_000);
        // (1 - p) T²
        assert_eq!(sums.variance, 0.8 * 25e6);
        // 7² and, of the other, five of 1².
        assert_eq!(sums.squares, 49e6 + 5e6);
        account.take(&drawn(WAIT_SLEEP, 7_000, 7_000, 0));
        assert_eq!(account.sums().count(), 2);
    }

    #[test]
    fn a_wait_is_in_the_slices_of_time_that_it_lasted_if_that_is_asked_for() {
        let long = Drawn {
            ended_ns: 125_000_000,
            ..drawn(WAIT_LOCK, 20_000_000, 1_000_000, 0)
        };
        let mut account = Account::default();
        account.take(&long);
        let (&key, _) = account.sums().next().unwrap();
        assert!(account.when(&key).is_none());
        let mut account = Account::default();
        account.follow_time(Some(100_000_000));
        account.take(&long);
        // A short one that stands for a millisecond.
        account.take(&Drawn {
            ended_ns: 101_000_000,
            ..drawn(WAIT_LOCK, 1_000, 1_000_000, 0)
        });
        let when = account.when(&key).unwrap();
        // From 5 to 25 ms, in microseconds.
        assert_eq!(when.told(0), [(0, 6_000), (1, 10_000), (2, 5_000)]);
    }
}
