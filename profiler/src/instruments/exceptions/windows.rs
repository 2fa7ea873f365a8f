//! When exceptions are seen: all the time where that costs the program little, or else in short windows at random.
//!
//! Windows are of one length by the clock, however much is raised in them: one that ended when it has cost so much would be
//! short where exceptions are many, and so hear little of them.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use crate::{cost::monotonic_ns, governor::SlowDown, process::cpu_clock::CpuClock, prompt::Prompt};

/// How long a window is: as long as there is something to spend, which is known when it opens, and not by what it sees. A
/// request that meets one takes so much longer at most.
const WINDOW: Duration = Duration::from_millis(20);
const LONGEST_WINDOW: Duration = Duration::from_millis(40);
/// How often what was spent is looked at while it is seen all the time.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// … and while nothing is seen.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Everything has been seen so far.
    Whole,
    Open {
        until: Instant,
    },
    Closed {
        until: Instant,
    },
    Over,
}

/// CPU time of the program, and of that what was ours.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    used_ns: f64,
    spent_ns: f64,
    /// Of that, what hits did to caches, which is known least.
    worn_ns: f64,
}

impl Used {
    fn own_ns(self) -> f64 {
        (self.used_ns - self.spent_ns).max(0.0)
    }

    fn since(self, before: Self) -> Self {
        Self {
            used_ns: self.used_ns - before.used_ns,
            spent_ns: self.spent_ns - before.spent_ns,
            worn_ns: self.worn_ns - before.worn_ns,
        }
    }

    fn slow_down(self) -> SlowDown {
        SlowDown::of(self.used_ns, self.spent_ns, self.worn_ns, 1.0)
    }
}

pub(super) struct Windows {
    /// The program may take so many times as long.
    most: f64,
    state: State,
    looked: Instant,
    opened: Instant,
    /// What is told of other times is not counted (CLOCK_MONOTONIC).
    seen_ns: (u64, u64),
    clocks: FxHashMap<u32, CpuClock>,
    all: Used,
    /// When the window began that is open; in all that have ended; and until the first began, while all was told.
    before: Used,
    within: Used,
    whole: Used,
    whole_until_ns: u64,
    observed: Duration,
    /// Of the window that has ended last, until it is asked for.
    ended_own_ns: Option<f64>,
    /// Not all of the time was seen.
    partial: bool,
    /// It ends in time.
    prompt: Option<Prompt>,
}

impl Windows {
    pub fn new(most: f64) -> Self {
        let now = Instant::now();
        Self {
            most,
            state: State::Whole,
            looked: now,
            opened: now,
            seen_ns: (0, u64::MAX),
            clocks: FxHashMap::default(),
            all: Used::default(),
            before: Used::default(),
            within: Used::default(),
            whole: Used::default(),
            whole_until_ns: u64::MAX,
            observed: Duration::ZERO,
            ended_own_ns: None,
            partial: false,
            prompt: None,
        }
    }

    pub fn start(&mut self) {
        self.opened = Instant::now();
    }

    /// A process is met. What it has used until now.
    pub fn meet(&mut self, pid: u32) -> u64 {
        self.clocks.entry(pid).or_insert_with(|| CpuClock::of(pid)).read_ns()
    }

    /// CPU time of these processes, and of those that are gone.
    pub fn used_ns(&mut self, pids: impl Iterator<Item = u32>) -> u64 {
        for pid in pids {
            self.meet(pid);
        }
        self.clocks.values_mut().map(CpuClock::read_ns).sum()
    }

    pub fn note(&mut self, used_ns: f64, spent_ns: f64, worn_ns: f64) {
        self.looked = Instant::now();
        self.all = Used {
            used_ns,
            spent_ns,
            worn_ns,
        };
    }

    /// Whether what a probe told at that moment counts.
    pub fn counts(&self, time_ns: u64) -> bool {
        (self.seen_ns.0..=self.seen_ns.1).contains(&time_ns)
    }

    /// Whether all was told at that moment.
    pub fn is_whole_at(&self, time_ns: u64) -> bool {
        time_ns <= self.whole_until_ns
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Whole | State::Open { .. })
    }

    /// Whether not all of the time was seen.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// Whether there is something to decide.
    pub fn is_due(&self) -> bool {
        self.due_in().is_some_and(|due| due.is_zero())
    }

    pub fn due_in(&self) -> Option<Duration> {
        let now = Instant::now();
        match self.state {
            State::Whole => Some(LOOK_EVERY.saturating_sub(now.duration_since(self.looked))),
            State::Open { until } => Some(until.saturating_duration_since(now)),
            State::Closed { until } => Some(until.saturating_duration_since(now)),
            State::Over => None,
        }
    }

    /// `spent`: more than may be, of what was seen all the time.
    pub fn must_close(&self, spent: bool) -> bool {
        match self.state {
            State::Whole => spent,
            State::Open { .. } => true,
            State::Closed { .. } | State::Over => false,
        }
    }

    /// Nothing is seen any more, and what was used until now is known.
    pub fn close(&mut self) {
        let now = Instant::now();
        self.seen_ns.1 = monotonic_ns();
        self.whole_until_ns = self.whole_until_ns.min(self.seen_ns.1);
        self.end_window(now);
        self.partial = true;
        self.prompt = None;
        self.state = State::Closed {
            until: now + LOOK_AGAIN,
        };
    }

    fn end_window(&mut self, now: Instant) {
        let window = self.all.since(self.before);
        match self.state {
            // The first ended when it had cost too much, so it says nothing of others.
            State::Whole => self.whole = self.all,
            _ => {
                self.ended_own_ns = Some(window.own_ns());
                self.within = Used {
                    used_ns: self.within.used_ns + window.used_ns,
                    spent_ns: self.within.spent_ns + window.spent_ns,
                    worn_ns: self.within.worn_ns + window.worn_ns,
                };
            }
        }
        self.observed += now.duration_since(self.opened);
    }

    /// Whether a window may open: the program has done enough by itself to make up for what one can cost.
    pub fn may_open(&mut self) -> bool {
        let State::Closed { .. } = self.state else {
            return false;
        };
        let left_ns = self.left_ns();
        if left_ns >= WINDOW.as_nanos() as f64 {
            return true;
        }
        let drawn = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
        self.state = State::Closed {
            // Not always the same, so as not to fall in with what the program does periodically.
            until: Instant::now() + LOOK_AGAIN.mul_f64(0.5 + drawn * 2.0),
        };
        false
    }

    /// What may be spent now.
    fn left_ns(&self) -> f64 {
        self.all.own_ns() * (self.most - 1.0) - self.all.spent_ns
    }

    /// Probes are in place, and what was used until now is known.
    pub fn open(&mut self) {
        self.prompt = Prompt::begin();
        self.before = self.all;
        self.opened = Instant::now();
        self.state = State::Open {
            until: self.opened + Duration::from_nanos(self.left_ns().max(0.0) as u64).clamp(WINDOW, LONGEST_WINDOW),
        };
        self.seen_ns = (monotonic_ns(), u64::MAX);
    }

    /// The program's own time in the last window, once.
    pub fn take_ended(&mut self) -> Option<f64> {
        self.ended_own_ns.take()
    }

    /// The recording is over, and what was used is known.
    pub fn end(&mut self) {
        self.seen_ns.1 = self.seen_ns.1.min(monotonic_ns());
        if self.is_open() {
            self.end_window(Instant::now());
        }
        self.prompt = None;
        self.state = State::Over;
    }

    pub fn observed(&self) -> Duration {
        self.observed
    }

    /// What the program had for itself while not all was told, if that was so.
    pub fn unseen_ns(&self) -> Option<f64> {
        self.partial.then(|| (self.all.own_ns() - self.whole.own_ns()).max(0.0))
    }

    /// Over the recording.
    pub fn slow_down(&self) -> SlowDown {
        self.all.slow_down()
    }

    /// By which part of them estimates can be wrong because it is not known well what of the program's time was ours, in
    /// windows and in all. That is no accident: it does not become less with more windows.
    pub fn error(&self) -> f64 {
        self.within.slow_down().error() + self.slow_down().error()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_little_is_seen_all_the_time() {
        let mut windows = Windows::new(1.5);
        windows.note(100e6, 10e6, 0.0);
        assert!(windows.is_open() && !windows.must_close(false) && windows.counts(1));
        windows.end();
        assert_eq!(windows.unseen_ns(), None);
        assert!((windows.slow_down().factor - 1.11).abs() < 0.01);
    }

    #[test]
    fn a_window_opens_when_the_program_has_made_up_for_what_one_can_cost() {
        let mut windows = Windows::new(1.5);
        windows.note(100e6, 60e6, 0.0);
        assert!(windows.must_close(true));
        windows.close();
        assert!(!windows.is_open() && !windows.counts(u64::MAX));
        // 150 ms of its own would be needed: for the 60, and for 20 more.
        windows.note(200e6, 60e6, 0.0);
        assert!(!windows.may_open());
        windows.note(225e6, 60e6, 0.0);
        assert!(windows.may_open());
        windows.open();
        windows.note(240e6, 70e6, 0.0);
        windows.close();
        // 5 ms in the window were its own. The first stretch is no sample.
        assert_eq!(windows.take_ended(), Some(5e6));
        windows.note(300e6, 70e6, 0.0);
        windows.end();
        assert_eq!(windows.unseen_ns(), Some(230e6 - 40e6));
    }
}
