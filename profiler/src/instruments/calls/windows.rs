//! When calls are counted: all the time where that costs the program little, or else in short windows, spread over the
//! recording.
//!
//! A program that does nothing but call is ten to a hundred times slower while probes are in it. What its users feel of
//! that is how much is added to what they wait for, so that is what a window is closed by, and not its length. Taking the
//! probes away costs the program next to nothing: they are gone at once, and the kernel makes only us wait.

use std::{
    hash::{BuildHasher as _, RandomState},
    ops::Range,
    time::{Duration, Instant},
};

use profiler_common::stats::Counter;
use rustc_hash::FxHashMap;

use super::Calls;
use crate::{
    calls::WindowCount,
    governor::{HIT_ERROR, Hits, MOST_THINKABLE, SlowDown, cpu_time_ns},
    orders::Orders,
    recording::Recording,
};

/// How long calls are counted at a time, with `--duty`.
const WINDOW: Duration = Duration::from_millis(250);
/// So much may be spent of a process's time at once: what comes on top of a request that meets a window.
const BURST_NS: f64 = 25e6;
/// Of a program that idles so much of the time may be spent, however little it does: nobody feels a hundredth.
const IDLE_SHARE: f64 = 0.01;
/// From one window to the next, at the longest; so many are wanted in a recording whose length is known.
const LONGEST_CYCLE: Duration = Duration::from_secs(1);
const SHORTEST_CYCLE: Duration = Duration::from_millis(300);
const WINDOWS_WANTED: u32 = 20;
/// How soon a window that is open is looked at again.
const LOOK_SOON: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Window {
    Open {
        since: Instant,
    },
    Closed {
        until: Instant,
    },
    /// The recording is over.
    Over,
}

/// What may be spent, and what was.
pub(super) struct Pace {
    /// The program may take so many times as long.
    most: f64,
    cycle: Duration,
    /// What may be spent now. It grows with what the program does by itself, and a little with time.
    left_ns: f64,
    looked: Instant,
    spent_ns: f64,
    used_ns: f64,
    /// CPU time of the program while windows were open, and of that what we have spent.
    used_within_ns: f64,
    spent_within_ns: f64,
    /// CPU time of each process when it was last seen: it may be gone.
    clocks: FxHashMap<u32, u64>,
}

impl Pace {
    pub fn new(most: f64, length: Option<Duration>) -> Self {
        let cycle = length.map_or(LONGEST_CYCLE, |length| length / WINDOWS_WANTED);
        Self {
            most,
            cycle: cycle.clamp(SHORTEST_CYCLE, LONGEST_CYCLE),
            left_ns: BURST_NS,
            looked: Instant::now(),
            spent_ns: 0.0,
            used_ns: 0.0,
            used_within_ns: 0.0,
            spent_within_ns: 0.0,
            clocks: FxHashMap::default(),
        }
    }

    /// CPU time of these processes, those that are gone included.
    fn cpu_ns(&mut self, pids: impl Iterator<Item = u32>) -> u64 {
        for pid in pids {
            let clock = self.clocks.entry(pid).or_default();
            *clock = (*clock).max(cpu_time_ns(pid));
        }
        self.clocks.values().sum()
    }

    /// Takes in what was spent and used so far, in all. Returns whether more was spent than may be.
    fn look(&mut self, now: Instant, spent_ns: f64, used_ns: f64, open: bool) -> bool {
        let passed_ns = now.saturating_duration_since(self.looked).as_nanos() as f64;
        let used_now_ns = (used_ns - self.used_ns).max(0.0);
        let spent_now_ns = (spent_ns - self.spent_ns).max(0.0);
        (self.looked, self.spent_ns, self.used_ns) = (now, spent_ns, used_ns);
        if open {
            self.used_within_ns += used_now_ns;
            self.spent_within_ns += spent_now_ns;
        }
        // What a hit costs is not known well enough to say that nothing is left. Whoever allows so much never runs out.
        let own_ns = (used_now_ns - spent_now_ns).max(used_now_ns / MOST_THINKABLE);
        let felt_ns = spent_now_ns.min(used_now_ns);
        // Several processes, or several threads that run at once, feel each their part.
        let at_once = (used_now_ns / passed_ns.max(1.0)).max(1.0);
        let earned_ns = own_ns * (self.most - 1.0) + passed_ns * IDLE_SHARE;
        self.left_ns = (self.left_ns + (earned_ns - felt_ns) / at_once).min(BURST_NS);
        self.left_ns < 0.0
    }

    fn may_open(&self) -> bool {
        self.left_ns >= BURST_NS * 0.9
    }

    /// From one window to the next. Not always the same, so as not to fall in with what the program does periodically.
    fn cycle(&self) -> Duration {
        let drawn = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
        self.cycle.mul_f64(0.75 + 0.5 * drawn)
    }

    /// While windows were open. `floor_ns`: what the program's calls need at least.
    pub fn within(&self, floor_ns: f64) -> SlowDown {
        SlowDown::of(self.used_within_ns, self.spent_within_ns, floor_ns)
    }

    /// Over the recording, as it is felt: of a program that waits nearly all the time, of that time.
    pub fn over_all(&self, length: Duration, floor_ns: f64) -> SlowDown {
        let length_ns = length.as_nanos() as f64;
        let used_ns = if self.is_idle(length) { length_ns } else { self.used_ns };
        SlowDown::of(used_ns, self.spent_ns, floor_ns)
    }

    /// Whether what was spent is too little to be felt, in a program that waits nearly all the time.
    pub fn is_idle(&self, length: Duration) -> bool {
        let length_ns = length.as_nanos() as f64;
        self.spent_ns < IDLE_SHARE * length_ns && self.used_ns < 0.1 * length_ns
    }

    /// What there was of windows does not count.
    fn forget_windows(&mut self) {
        (self.used_within_ns, self.spent_within_ns) = (0.0, 0.0);
    }

    /// How many processors the program kept busy while windows were open, one at least.
    fn at_once(&self, observed: Duration) -> f64 {
        (self.used_within_ns / observed.as_nanos().max(1) as f64).max(1.0)
    }

    /// CPU time that the program had for itself: while windows were open, at least and at most, and in the rest of the
    /// recording. Its calls go by that, and not by time in which it waited, for a processor too. `floor_ns`: what the calls
    /// that were counted need at least. `None` if nothing is known of it.
    pub fn own(&self, floor_ns: f64) -> Option<(Range<Duration>, Duration)> {
        if self.used_within_ns <= 0.0 {
            return None;
        }
        let time = |ns: f64| Duration::from_nanos(ns.max(0.0) as u64);
        let floor_ns = floor_ns.min(self.used_within_ns);
        let within = |spent_ns: f64| (self.used_within_ns - spent_ns).max(floor_ns);
        let least = within(self.spent_within_ns * (1.0 + HIT_ERROR));
        let most = within(self.spent_within_ns * (1.0 - HIT_ERROR));
        let rest = (self.used_ns - self.used_within_ns) - (self.spent_ns - self.spent_within_ns);
        Some((time(least)..time(most), time(rest)))
    }

    /// What of the time observed was lost.
    pub fn lost(&self, observed: Duration) -> Duration {
        Duration::from_nanos((self.spent_within_ns / self.at_once(observed)) as u64)
    }
}

impl Calls {
    pub(super) fn follow_windows(&mut self, kernel: &mut dyn Orders, recording: &Recording) -> anyhow::Result<()> {
        match self.window {
            Window::Open { since } => {
                let spent = self.look(kernel)?;
                let now = Instant::now();
                let over = self.wanted.duty.is_some() && now.duration_since(since) >= WINDOW;
                if spent || over {
                    self.close(kernel, now)?;
                    self.spent |= spent;
                    let pause = match self.wanted.duty {
                        // The next window waits until the program has made up for this one.
                        Some(duty) => WINDOW.div_f64(duty),
                        None => self.pace.cycle(),
                    };
                    self.window = Window::Closed { until: since + pause };
                }
            }
            Window::Closed { until } if Instant::now() >= until => {
                self.look(kernel)?;
                // While probes are being taken away none can be put in.
                if !self.pace.may_open() || !kernel.probes_are_gone() {
                    return Ok(());
                }
                self.window = Window::Open { since: Instant::now() };
                for pid in recording.pids().collect::<Vec<_>>() {
                    self.probe(kernel, recording, pid);
                }
                // What was used until all probes were in is not of the window.
                self.window = Window::Closed { until };
                self.look(kernel)?;
                self.window = Window::Open { since: Instant::now() };
            }
            Window::Closed { .. } | Window::Over => {}
        }
        Ok(())
    }

    /// How soon to look again, if it is to be sooner than usual.
    pub(super) fn next_look(&self) -> Option<Duration> {
        (matches!(self.window, Window::Open { .. }) && !self.attached.is_empty()).then_some(LOOK_SOON)
    }

    /// Counts no more: first nothing is counted any longer, then the probes go.
    pub(super) fn close(&mut self, kernel: &mut dyn Orders, now: Instant) -> anyhow::Result<()> {
        let Window::Open { since } = self.window else {
            return Ok(());
        };
        // What was spent since it was last looked at, and, apart from the window, until all probes have gone.
        self.look(kernel)?;
        kernel.remove_all_call_facts();
        self.observed += now.duration_since(since);
        self.watching.forget_all(kernel);
        self.detach(kernel);
        self.window = Window::Closed { until: now };
        self.look(kernel)?;
        let all = kernel.calls().iter().map(|(_, count)| count.calls).sum::<u64>();
        let before = self.windows.iter().map(|window| window.calls).sum::<u64>();
        self.windows.push(WindowCount {
            calls: all.saturating_sub(before),
            length: now.duration_since(since),
        });
        Ok(())
    }

    /// Calls are counted as they should be from now on: what there is of windows in which the program was slowed down is
    /// forgotten.
    pub(super) fn begin_anew(&mut self, kernel: &dyn Orders) {
        if self.windows.is_empty() {
            return;
        }
        self.before = kernel.calls().into_iter().collect();
        self.windows.clear();
        self.observed = Duration::ZERO;
        self.pace.forget_windows();
        self.spent = false;
        self.window = Window::Open { since: Instant::now() };
    }

    pub(super) fn detach(&mut self, kernel: &mut dyn Orders) {
        kernel.detach_probes();
        self.attached.clear();
    }

    /// Looks at what was spent. Returns whether it is more than may be.
    pub(super) fn look(&mut self, kernel: &dyn Orders) -> anyhow::Result<bool> {
        let Some(governor) = &mut self.governor else {
            return Ok(false);
        };
        let hits = Hits {
            // Those of others are no less felt for nobody having asked for them.
            entries: kernel.counter(Counter::EntryHits)? + kernel.counter(Counter::OtherHits)?,
            stepped: kernel.counter(Counter::SteppedHits)?,
            returns: kernel.counter(Counter::ReturnHits)?,
            program_ns: kernel.counter(Counter::RunTimeNs)?,
            watch_ns: self.watching.seen(kernel)? as f64 * self.watching.trap_ns(),
        };
        let cpu_ns = self.pace.cpu_ns(self.probed.iter().map(|probed| probed.pid));
        governor.look(hits, cpu_ns);
        let (spent_ns, used_ns) = (governor.spent().as_nanos() as f64, governor.used_ns() as f64);
        let open = matches!(self.window, Window::Open { .. });
        Ok(self.pace.look(Instant::now(), spent_ns, used_ns, open))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e6;

    /// Looks every two milliseconds, of which the program was ours for that share. Returns when it was enough.
    fn enough(pace: &mut Pace, share: f64, busy: f64) -> Option<u32> {
        let start = pace.looked;
        (1..=5_000).find(|step| {
            let passed = f64::from(2 * *step) * MS;
            let used = passed * busy;
            pace.look(start + Duration::from_nanos(passed as u64), used * share, used, true)
        })
    }

    #[test]
    fn a_window_adds_no_more_to_a_request_than_a_burst() {
        let mut pace = Pace::new(1.5, None);
        // Three quarters of a busy program's time are ours: 1.5 ms of each 2, and 0.25 are earned.
        let steps = enough(&mut pace, 0.75, 1.0);
        assert!(steps.is_some_and(|steps| (18..22).contains(&steps)), "{steps:?}");
        assert!((pace.within(0.0).factor - 4.0).abs() < 1e-6);
        assert!(!pace.may_open());
    }

    #[test]
    fn what_costs_less_than_it_may_is_counted_all_the_time() {
        // A fifth: 1.25 times as long.
        assert_eq!(enough(&mut Pace::new(1.5, None), 0.2, 1.0), None);
        // A process that idles, though it does most of what it does for us.
        let mut idle = Pace::new(1.5, None);
        assert_eq!(enough(&mut idle, 0.9, 0.01), None);
        let length = Duration::from_secs(10);
        assert!(idle.is_idle(length) && idle.over_all(length, 0.0).factor < 1.01);
    }

    #[test]
    fn a_program_s_own_time_is_without_what_it_waited_for_a_processor() {
        let mut pace = Pace::new(1.5, None);
        let start = pace.looked;
        let at = |ms: u64| start + Duration::from_millis(ms);
        // Of 100 ms the program had 60, of which 40 were ours; then 200 of 400, all its own.
        pace.look(at(100), 40.0 * MS, 60.0 * MS, true);
        pace.look(at(500), 40.0 * MS, 260.0 * MS, false);
        let ms = Duration::from_millis;
        assert_eq!(pace.own(0.0), Some((ms(10)..ms(30), ms(200))));
        // Its calls need more than seems to be left.
        assert_eq!(pace.own(12.0 * MS), Some((ms(12)..ms(30), ms(200))));
        assert_eq!(Pace::new(1.5, None).own(0.0), None);
    }

    #[test]
    fn the_next_window_waits_until_the_program_has_earned_it() {
        let mut pace = Pace::new(1.5, Some(Duration::from_secs(5)));
        assert!(enough(&mut pace, 0.9, 1.0).is_some());
        let (spent, used) = (pace.spent_ns, pace.used_ns);
        let later = |ms: u64| Duration::from_millis(ms);
        let start = pace.looked;
        assert!(!pace.look(start + later(20), spent, used + 20.0 * MS, false) && !pace.may_open());
        assert!(!pace.look(start + later(90), spent, used + 90.0 * MS, false) && pace.may_open());
    }
}
