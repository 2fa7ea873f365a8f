//! When calls are counted: all the time where that costs the program little, or else in short windows, spread over the
//! recording.
//!
//! A program that does nothing but call is ten to a hundred times slower while probes are in it. What its users feel of
//! that is how much is added to what they wait for, so that is what a window is closed by, and not its length. Taking the
//! probes away costs the program next to nothing: they are gone at once, and the kernel makes only us wait.

use std::{
    hash::{BuildHasher as _, RandomState},
    mem,
    ops::{Add, Sub},
    thread,
    time::{Duration, Instant},
};

use profiler_common::{group::Group, stats::Counter};
use rustc_hash::FxHashMap;

use super::Calls;
use crate::{
    calls::windows::{Ended, Sampling},
    cost::monotonic_ns,
    governor::{HIT_ERROR, HIT_USUAL, Hits, MOST_THINKABLE, SlowDown, WEAR_ERROR},
    orders::Orders,
    process::cpu_clock::CpuClock,
    prompt::Prompt,
    recording::Recording,
};

/// How long calls are counted at a time, with `--duty`.
const WINDOW: Duration = Duration::from_millis(250);
/// So much may be spent of a process's time at once: what comes on top of a request that meets a window.
const BURST_NS: f64 = 9e6;
/// The same where functions are to be timed: a call, with all the calls in it that are slowed down, has to fit. Breakpoints
/// take over when each has been seen, where they can.
const BURST_TIMED_NS: f64 = 60e6;
/// What a window costs the program besides hits: its probes come and go, and its clocks are read. With hits at 1.08 times
/// what the yardstick says, as found on CPython 3.12.1 by the CPU time of a loop over Jinja's templates (windows of 8 and of
/// 60 ms, six runs of each).
const WINDOW_NS: f64 = 2e6;
/// So much of a command's, from its beginning on, before windows begin: whoever starts a program of some seconds to have its
/// calls counted waits that long rather than have them estimated.
const FIRST_NS: f64 = 5e9;
/// Of a program that idles so much of the time may be spent, however little it does: nobody feels a hundredth.
const IDLE_SHARE: f64 = 0.01;
/// From one window to the next, at the longest; so many are wanted in a recording whose length is known. Each is one witness,
/// so a longer recording is to know more.
const LONGEST_CYCLE: Duration = Duration::from_millis(500);
const SHORTEST_CYCLE: Duration = Duration::from_millis(100);
const WINDOWS_WANTED: u32 = 200;
/// Whether the program runs is asked for so long, and again so long after, until a window has waited for it long enough.
const RUNNING_FOR: Duration = Duration::from_micros(300);
const RUNNING_AGAIN: Duration = Duration::from_millis(20);
const RUNNING_WAIT: Duration = LONGEST_CYCLE;
/// It does if it has used that share of a processor.
const RUNNING: f64 = 0.1;
/// How soon a window that is open is looked at again.
const LOOK_SOON: Duration = Duration::from_millis(1);
/// How often what was spent is set against what the program did by itself.
const SETTLE_EVERY: Duration = Duration::from_millis(10);

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

/// CPU time of the program, and of that what we have spent.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    used_ns: f64,
    spent_ns: f64,
    /// Of that, what is known worst ([`WEAR_ERROR`]).
    worn_ns: f64,
}

impl Used {
    fn own_ns(self) -> f64 {
        self.used_ns - self.spent_ns
    }
}

impl Sub for Used {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            used_ns: self.used_ns - other.used_ns,
            spent_ns: self.spent_ns - other.spent_ns,
            worn_ns: self.worn_ns - other.worn_ns,
        }
    }
}

impl Add for Used {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            used_ns: self.used_ns + other.used_ns,
            spent_ns: self.spent_ns + other.spent_ns,
            worn_ns: self.worn_ns + other.worn_ns,
        }
    }
}

/// What may be spent, and what was.
pub(super) struct Pace {
    /// The program may take so many times as long.
    most: f64,
    /// Of the recording, if it is known.
    length: Option<Duration>,
    started: Instant,
    /// What may be spent at once, in a command's first window and in others.
    first_ns: f64,
    burst_ns: f64,
    /// What may be spent now. It grows with what the program does by itself, and a little with time.
    left_ns: f64,
    /// Until when that is so, and what was used by then. Threads that ran at once, one at least.
    settled: Instant,
    settled_all: Used,
    at_once: f64,
    all: Used,
    /// While windows were open, and before the one that is.
    within: Used,
    before: Used,
    /// What windows cost besides hits.
    windows_ns: f64,
    /// Of what was spent for hits, what they did to caches.
    worn_ns: f64,
    /// Of each process: it may be gone.
    clocks: FxHashMap<u32, CpuClock>,
    /// Since when a window waits for the program to run.
    waits: Option<Instant>,
    /// On how many processors it ran when the last window began.
    running: f64,
}

impl Pace {
    /// `from_the_first`: a command is counted from its beginning on, and may cost more at first. `timed`: so are functions.
    pub fn new(most: f64, length: Option<Duration>, from_the_first: bool, timed: bool) -> Self {
        let burst_ns = if timed { BURST_TIMED_NS } else { BURST_NS };
        let first_ns = if from_the_first { FIRST_NS } else { burst_ns };
        Self {
            most,
            first_ns,
            length,
            started: Instant::now(),
            burst_ns,
            left_ns: first_ns,
            settled: Instant::now(),
            settled_all: Used::default(),
            at_once: 1.0,
            all: Used::default(),
            within: Used::default(),
            before: Used::default(),
            windows_ns: 0.0,
            worn_ns: 0.0,
            clocks: FxHashMap::default(),
            waits: None,
            running: 1.0,
        }
    }

    /// Whether a window is to begin now: while the program runs, for then each moment of its CPU time is as likely to be
    /// one's beginning as any other ([`Sampling::by_group`]). Waiting until it runs would be another thing: then windows would
    /// begin where requests do. So it is asked at random moments.
    fn runs(&mut self, pids: impl Iterator<Item = u32> + Clone) -> bool {
        let (before_ns, asked) = (self.cpu_ns(pids.clone()), Instant::now());
        if self.clocks.values().any(CpuClock::is_coarse) {
            self.running = 1.0;
            return true;
        }
        thread::sleep(RUNNING_FOR);
        let used_ns = self.cpu_ns(pids).saturating_sub(before_ns) as f64;
        let share = used_ns / asked.elapsed().as_nanos().max(1) as f64;
        self.running = if share < RUNNING { 0.0 } else { share };
        let waits = *self.waits.get_or_insert(asked);
        let begins = self.running > 0.0 || waits.elapsed() >= RUNNING_WAIT;
        if begins {
            self.waits = None;
        }
        begins
    }

    /// CPU time of these processes, those that are gone included.
    fn cpu_ns(&mut self, pids: impl Iterator<Item = u32>) -> u64 {
        for pid in pids {
            self.clocks.entry(pid).or_insert_with(|| CpuClock::of(pid));
        }
        self.clocks.values_mut().map(CpuClock::read_ns).sum()
    }

    /// Takes in what was spent for hits and used so far, in all. Returns whether more was spent than may be.
    fn look(&mut self, now: Instant, spent_ns: f64, used_ns: f64, open: bool) -> bool {
        let all = Used {
            used_ns,
            spent_ns: spent_ns + self.windows_ns,
            worn_ns: self.worn_ns,
        };
        if open {
            self.within = self.within + (all - self.all);
        }
        self.all = all;
        if now.saturating_duration_since(self.settled) >= SETTLE_EVERY {
            self.settle(now);
        }
        let pending = self.all - self.settled_all;
        // Of what is not settled yet, too: else all that can be spent until then would be the budget, however large.
        let own_ns = pending.own_ns().max(pending.spent_ns / MOST_THINKABLE);
        let earned_ns = own_ns * (self.most - 1.0);
        self.left_ns + (earned_ns - pending.spent_ns) / self.at_once < 0.0
    }

    /// What was spent is set against what the program did by itself. Not at each look: what is spent while a thread waits for
    /// its turn on a processor is seen before the time is that it took.
    fn settle(&mut self, now: Instant) {
        let passed_ns = now.saturating_duration_since(self.settled).as_nanos() as f64;
        let since = self.all - self.settled_all;
        (self.settled, self.settled_all) = (now, self.all);
        // What a hit costs is not known well enough to say that nothing is left. Whoever allows so much never runs out.
        let own_ns = since.own_ns().max(since.used_ns / MOST_THINKABLE);
        let felt_ns = since.spent_ns.min(since.used_ns);
        // Several processes, or several threads that run at once, feel each their part.
        self.at_once = (since.used_ns / passed_ns.max(1.0)).max(1.0);
        let earned_ns = own_ns * (self.most - 1.0) + passed_ns * IDLE_SHARE;
        self.left_ns = (self.left_ns + (earned_ns - felt_ns) / self.at_once).min(self.first_ns);
    }

    fn may_open(&self) -> bool {
        self.left_ns >= self.burst_ns * 0.9
    }

    /// From one window to the next, on average.
    fn cycle(&self) -> Duration {
        let length = self.length.unwrap_or_else(|| self.started.elapsed());
        (length / WINDOWS_WANTED).clamp(SHORTEST_CYCLE, LONGEST_CYCLE)
    }

    /// Not always the same, so as not to fall in with what the program does periodically; and never so short that one request
    /// meets two, unless it is a long one.
    fn next_cycle(&self) -> Duration {
        about(self.cycle())
    }

    /// What was used and spent in the window that has ended, and whether it was a command's first one, which may cost more.
    fn end_window(&mut self) -> (Used, bool) {
        let window = self.within - mem::replace(&mut self.before, self.within);
        let is_first = self.first_ns > self.burst_ns;
        self.first_ns = self.burst_ns;
        self.left_ns = self.left_ns.min(self.burst_ns);
        // Users feel it as they feel the rest, but it is of no window: one would see less the more it cost to open it.
        self.windows_ns += WINDOW_NS;
        (window, is_first)
    }

    /// While windows were open. `floor_ns`: what the program's calls need at least.
    pub fn within(&self, floor_ns: f64) -> SlowDown {
        let Used {
            used_ns,
            spent_ns,
            worn_ns,
        } = self.within;
        SlowDown::of(used_ns, spent_ns, worn_ns, floor_ns)
    }

    /// Over the recording, as it is felt: of a program that waits nearly all the time, of that time.
    pub fn over_all(&self, length: Duration, floor_ns: f64) -> SlowDown {
        let length_ns = length.as_nanos() as f64;
        let Used {
            used_ns,
            spent_ns,
            worn_ns,
        } = self.all;
        let used_ns = if self.is_idle(length) { length_ns } else { used_ns };
        SlowDown::of(used_ns, spent_ns, worn_ns, floor_ns)
    }

    /// Whether what was spent is too little to be felt, in a program that waits nearly all the time.
    pub fn is_idle(&self, length: Duration) -> bool {
        let length_ns = length.as_nanos() as f64;
        self.all.spent_ns < IDLE_SHARE * length_ns && self.all.used_ns < 0.1 * length_ns
    }

    /// What there was of windows does not count.
    fn forget_windows(&mut self) {
        (self.within, self.before) = Default::default();
    }

    /// CPU time that the program had for itself while no window was open. Its calls go by that, and not by time in which it
    /// waited, for a processor too.
    pub fn rest(&self) -> Duration {
        Duration::from_nanos((self.all - self.within).own_ns().max(0.0) as u64)
    }
}

/// So long on average, between half and half as much again.
fn about(time: Duration) -> Duration {
    let drawn = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
    time.mul_f64(0.5 + drawn)
}

impl Calls {
    pub(super) fn follow_windows(&mut self, kernel: &mut dyn Orders, recording: &Recording) -> anyhow::Result<()> {
        match self.window {
            Window::Open { since } => {
                let spent = self.look(kernel)?;
                let now = Instant::now();
                // One that lasts would be one witness of what others are many of. Where functions are timed it is the calls
                // that last.
                let many = self.spent && self.patterns.is_empty();
                let longest = match self.wanted.duty {
                    Some(_) => Some(WINDOW),
                    None => many.then(|| self.pace.cycle()),
                };
                let over = longest.is_some_and(|longest| now.duration_since(since) >= longest);
                if spent || over {
                    self.close(kernel, now)?;
                    self.spent |= spent;
                    let pause = match self.wanted.duty {
                        // The next window waits until the program has made up for this one.
                        Some(duty) => WINDOW.div_f64(duty),
                        None => self.pace.next_cycle(),
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
                if !self.pace.runs(self.probed.iter().map(|probed| probed.pid)) {
                    self.window = Window::Closed {
                        until: Instant::now() + about(RUNNING_AGAIN),
                    };
                    return Ok(());
                }
                self.prompt = Prompt::begin();
                self.window = Window::Open { since: Instant::now() };
                // Calls that were under way when the last one ended have ended unseen, and what began in their place.
                self.seen_since_ns = monotonic_ns();
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
        let is_busy = !self.attached.is_empty() || self.is_behind();
        (matches!(self.window, Window::Open { .. }) && is_busy).then_some(LOOK_SOON)
    }

    /// Counts no more: first nothing is counted any longer, then the probes go.
    pub(super) fn close(&mut self, kernel: &mut dyn Orders, now: Instant) -> anyhow::Result<()> {
        let Window::Open { since } = self.window else {
            return Ok(());
        };
        // What was spent since it was last looked at, and, apart from the window, until all probes have gone.
        self.look(kernel)?;
        kernel.remove_all_call_facts();
        self.delays.close(self.probed.iter().map(|probed| probed.pid), now);
        self.observed += now.duration_since(since);
        self.watching.forget_all(kernel);
        self.detach(kernel);
        self.window = Window::Closed { until: now };
        self.look(kernel)?;
        let length = now.duration_since(since);
        let counts = kernel.calls();
        let (window, is_first) = self.pace.end_window();
        let Used {
            used_ns,
            spent_ns,
            worn_ns,
        } = window;
        // Nor is it a witness of others how a program began that cost little for long.
        let lasted = self.wanted.duty.is_none() && self.windows == 0 && length > self.pace.cycle();
        if is_first || lasted {
            self.first = Some(length);
            self.sampling = Sampling::begin(&counts);
        } else {
            let ended = Ended {
                length,
                stands_for: self
                    .wanted
                    .duty
                    .map_or_else(|| self.pace.cycle(), |duty| WINDOW.div_f64(duty)),
                used_ns,
                // Rates within windows have an error of their own, which is around what the yardstick says.
                spent_ns: spent_ns / HIT_USUAL,
                running: self.pace.running,
            };
            let hit_error = HIT_ERROR + WEAR_ERROR * worn_ns / spent_ns.max(1.0);
            self.sampling.add(&counts, ended, hit_error);
        }
        self.windows += 1;
        self.prompt = None;
        Ok(())
    }

    /// Calls are counted as they should be from now on: what there is of windows in which the program was slowed down is
    /// forgotten.
    pub(super) fn begin_anew(&mut self, kernel: &dyn Orders) {
        if self.windows == 0 {
            return;
        }
        let counts = kernel.calls();
        self.sampling = Sampling::begin(&counts);
        self.before = counts.into_iter().collect();
        self.first = None;
        self.windows = 0;
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
        // What other programs of the session take is not paid from this budget.
        let spent = |counter: Counter| kernel.counter_of(Group::Probes, counter);
        let hits = Hits {
            // Those of others are no less felt for nobody having asked for them.
            entries: spent(Counter::EntryHits)? + spent(Counter::OtherHits)?,
            stepped: spent(Counter::SteppedHits)?,
            returns: spent(Counter::ReturnHits)?,
            program_ns: spent(Counter::RunTimeNs)?,
            watch_ns: self.watching.seen(kernel)? as f64 * self.watching.trap_ns(),
        };
        let cpu_ns = self.pace.cpu_ns(self.probed.iter().map(|probed| probed.pid));
        governor.look(hits, cpu_ns);
        let (spent_ns, used_ns) = (governor.spent().as_nanos() as f64, governor.used_ns() as f64);
        self.pace.worn_ns = governor.worn_ns();
        let open = matches!(self.window, Window::Open { .. });
        // Only times have what was waited for.
        if open && !self.patterns.is_empty() {
            self.delays
                .look(self.probed.iter().map(|probed| probed.pid), Instant::now());
        }
        Ok(self.pace.look(Instant::now(), spent_ns, used_ns, open))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e6;

    /// Looks every two milliseconds, of which the program was ours for that share. Returns when it was enough.
    fn enough(pace: &mut Pace, share: f64, busy: f64) -> Option<u32> {
        let (start, Used { used_ns, spent_ns, .. }) = (pace.settled, pace.all);
        (1..=5_000).find(|step| {
            let passed = f64::from(2 * *step) * MS;
            let used = passed * busy;
            let now = start + Duration::from_nanos(passed as u64);
            pace.look(now, spent_ns + used * share, used_ns + used, true)
        })
    }

    #[test]
    fn whoever_allows_a_thousandfold_slow_down_does_not_run_out_of_it() {
        for most in [20.0, MOST_THINKABLE] {
            let mut pace = Pace::new(most, None, false, false);
            let start = pace.settled;
            // Fifteen times as long, looked at shortly before it is settled.
            for step in 1..200 {
                let passed = f64::from(step) * 9.0 * MS;
                let now = start + Duration::from_nanos(passed as u64);
                assert!(!pace.look(now, passed * 14.0 / 15.0, passed, true), "{most}: {step}");
            }
        }
    }

    #[test]
    fn a_window_adds_no_more_to_a_request_than_a_burst() {
        let mut pace = Pace::new(1.5, None, false, false);
        // Three quarters of a busy program's time are ours: 1.5 ms of each 2, and 0.25 are earned.
        let steps = enough(&mut pace, 0.75, 1.0);
        assert!(steps.is_some_and(|steps| (7..9).contains(&steps)), "{steps:?}");
        assert!((pace.within(0.0).factor - 4.0).abs() < 1e-6);
        assert!(!pace.may_open());
    }

    #[test]
    fn what_costs_less_than_it_may_is_counted_all_the_time() {
        // A fifth: 1.25 times as long.
        assert_eq!(enough(&mut Pace::new(1.5, None, false, false), 0.2, 1.0), None);
        // A process that idles, though it does most of what it does for us.
        let mut idle = Pace::new(1.5, None, false, false);
        assert_eq!(enough(&mut idle, 0.9, 0.01), None);
        let length = Duration::from_secs(10);
        assert!(idle.is_idle(length) && idle.over_all(length, 0.0).factor < 1.01);
    }

    #[test]
    fn what_calls_between_windows_go_by_is_without_what_was_ours_and_what_was_waited_for() {
        let mut pace = Pace::new(1.5, None, false, false);
        let start = pace.settled;
        let at = |ms: u64| start + Duration::from_millis(ms);
        // Of 100 ms the program had 60, of which 40 were ours; then, of 400, 205, of which 5 were.
        pace.look(at(100), 40.0 * MS, 60.0 * MS, true);
        let (window, is_first) = pace.end_window();
        pace.look(at(500), 45.0 * MS, 265.0 * MS, false);
        assert_eq!(
            (window.used_ns, window.spent_ns, is_first),
            (60.0 * MS, 40.0 * MS, false)
        );
        // Less what the window cost besides.
        assert_eq!(pace.rest(), Duration::from_nanos((200.0 * MS - WINDOW_NS) as u64));
    }

    #[test]
    fn a_command_may_cost_more_at_first_and_then_no_more_than_others() {
        let mut pace = Pace::new(1.5, None, true, false);
        let steps = enough(&mut pace, 0.9, 1.0).unwrap_or(0);
        assert!(pace.end_window().1 && (2_000..4_000).contains(&steps), "{steps}");
        let start = pace.settled;
        let (spent, used) = (pace.all.spent_ns, pace.all.used_ns);
        // A long while later there is no more to spend than for any window.
        pace.look(start + Duration::from_secs(60), spent, used + 60_000.0 * MS, false);
        assert!(pace.may_open());
        assert!(enough(&mut pace, 0.75, 1.0).is_some_and(|steps| steps < 9) && !pace.end_window().1);
    }

    #[test]
    fn the_next_window_waits_until_the_program_has_earned_it() {
        let mut pace = Pace::new(1.5, Some(Duration::from_secs(5)), false, false);
        assert!(enough(&mut pace, 0.9, 1.0).is_some());
        let (spent, used) = (pace.all.spent_ns, pace.all.used_ns);
        let later = |ms: u64| Duration::from_millis(ms);
        let start = pace.settled;
        assert!(!pace.look(start + later(12), spent, used + 12.0 * MS, false) && !pace.may_open());
        assert!(!pace.look(start + later(30), spent, used + 30.0 * MS, false) && pace.may_open());
    }
}
