//! Which part of a thread's account is of which window, and what a window of `waits` comes to.
//!
//! The kernel side only ever adds to accounts, and knows of no windows. So what they were at the last cut is kept, and taken
//! off. A wait that is under way at a cut counts up to there, and in the next window from there on. When it ends, the kernel
//! side adds all of it, and sends all of it if it is drawn: what windows have had of it is taken off then.

use std::{mem, time::Duration};

use profiler_common::{
    stats::{COUNTERS, Counter},
    wait::{WaitEvent, WaitSlot, WaitSum},
};
use rustc_hash::FxHashMap;

use super::{
    account::Account,
    report::{self, Ended, Reported, Unended},
};
use crate::{name::Namer, report::waits::WaitsReport, summary::WaitsSummary, window::Window};

/// A wait that was under way at a cut.
#[derive(Clone, Copy, Debug)]
struct Away {
    out_ns: u64,
    class: u32,
    /// How much of it windows have had.
    told_ns: u64,
    /// It has ended since, and was sent.
    drawn: bool,
}

/// Between two moments accounts were read for a window that ends.
#[derive(Clone, Copy, Debug)]
struct Closing {
    began_ns: u64,
    ended_ns: u64,
}

/// What goes from one window to the next.
#[derive(Debug, Default)]
pub struct Windows {
    /// Accounts as they were at the last cut: by the kernel's number of the thread, and when they began.
    told: FxHashMap<(u32, u64), WaitSlot>,
    /// By thread, as user space numbers it.
    away: FxHashMap<u32, Away>,
    /// The same for the next window, and when they were read.
    next: (FxHashMap<(u32, u64), WaitSlot>, FxHashMap<u32, Away>),
    closing: Option<Closing>,
}

impl Windows {
    /// What of an account is of the window that runs or ends: as if it had begun with it. `slot` is as it is now, up to
    /// `ended_ns`, and `under_way` the class and the whole length of a wait that has not ended. `lives`: it goes on.
    pub fn part(
        &mut self,
        slot: &WaitSlot,
        under_way: Option<(u32, u64)>,
        lives: bool,
    ) -> (WaitSlot, Option<(u32, u64)>) {
        let key = (slot.tid, slot.first_ns);
        let before = self.told.get(&key).copied();
        let away = self.away.get(&slot.shown_tid).copied().filter(|_| before.is_some());
        if lives {
            self.next.0.insert(key, *slot);
            if let Some((class, told_ns)) = under_way {
                let away = Away {
                    out_ns: slot.out_ns,
                    class,
                    told_ns,
                    drawn: false,
                };
                self.next.1.insert(slot.shown_tid, away);
            }
        }
        let Some(before) = before else {
            return (*slot, under_way);
        };
        let mut part = since(slot, &before);
        let left = match (under_way, away) {
            (Some((class, ns)), Some(away)) if away.out_ns == slot.out_ns => {
                return (part, Some((class, ns.saturating_sub(away.told_ns))));
            }
            (left, away) => {
                if let Some(away) = away
                    && let Some(sum) = part.sums.get_mut(away.class as usize)
                {
                    sum.ns = sum.ns.saturating_sub(away.told_ns);
                    if away.drawn {
                        sum.drawn_ns = sum.drawn_ns.saturating_sub(away.told_ns);
                    }
                }
                left
            }
        };
        (part, left)
    }

    /// Takes off a drawn wait what windows have had of it already. `time_ns`: when it was told.
    pub fn clip(&mut self, tid: u32, time_ns: u64, event: &mut WaitEvent) {
        let Some(away) = self.away.get_mut(&tid) else { return };
        // The first one that is told after the cut and began before it. Short ones stand for all like them, and what those
        // come to in the window is known exactly.
        let is_it =
            event.length_ns >= away.told_ns && time_ns.saturating_sub(event.length_ns) + SLACK_NS >= away.out_ns;
        let began_before = time_ns.saturating_sub(event.length_ns) <= away.out_ns + SLACK_NS;
        if away.drawn || !is_it || !began_before || event.weight_ns > event.length_ns {
            return;
        }
        away.drawn = true;
        event.length_ns -= away.told_ns;
        event.weight_ns = event.length_ns;
        event.ready_ns = event.ready_ns.min(event.length_ns);
        event.throttled_ns = event.throttled_ns.min(event.length_ns);
    }

    /// Accounts are being read for a window that ends.
    pub fn close(&mut self, began_ns: u64, ended_ns: u64) {
        self.closing = Some(Closing { began_ns, ended_ns });
    }

    /// Whether a wait that was told then is of the next window: its thread's account had it under way when it was read.
    pub fn is_of_next(&self, tid: u32, time_ns: u64) -> bool {
        let Some(Closing { began_ns, ended_ns }) = self.closing else {
            return false;
        };
        let under_way = |away: &Away| time_ns > away.out_ns;
        time_ns > ended_ns || time_ns > began_ns && self.next.1.get(&tid).is_some_and(under_way)
    }

    pub fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// The window has ended.
    pub fn cut(&mut self) {
        (self.told, self.away) = mem::take(&mut self.next);
        self.closing = None;
    }
}

/// A wait is told soon after it has ended.
const SLACK_NS: u64 = 2_000_000;

/// What an account has had since it was `before`.
fn since(slot: &WaitSlot, before: &WaitSlot) -> WaitSlot {
    let mut part = WaitSlot {
        first_ns: before.ended_ns,
        on_cpu_ns: slot.on_cpu_ns.saturating_sub(before.on_cpu_ns),
        ..*slot
    };
    for (sum, before) in part.sums.iter_mut().zip(&before.sums) {
        // Every field is named, so that a new one cannot be forgotten here.
        let WaitSum {
            count,
            ns,
            ready_ns,
            throttled_ns,
            drawn_ns,
            longest_ns,
            ignored,
            ignored_ns,
        } = sum;
        *count = count.saturating_sub(before.count);
        *ns = ns.saturating_sub(before.ns);
        *ready_ns = ready_ns.saturating_sub(before.ready_ns);
        *throttled_ns = throttled_ns.saturating_sub(before.throttled_ns);
        *drawn_ns = drawn_ns.saturating_sub(before.drawn_ns);
        *ignored = ignored.saturating_sub(before.ignored);
        *ignored_ns = ignored_ns.saturating_sub(before.ignored_ns);
        // The one that is no sum: if it has not grown, the longest was in an earlier window.
        *longest_ns = if *longest_ns > before.longest_ns {
            *longest_ns
        } else {
            0
        };
    }
    part
}

/// What all windows together come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub threads: u64,
    pub elapsed_ns: u64,
    pub on_cpu_ns: u64,
    pub waiting_ns: u64,
    pub waits: u64,
    pub forgotten: u64,
}

impl Totals {
    /// `ended`: the accounts of a window's threads.
    pub fn add(&mut self, ended: &[Ended]) {
        for Ended { slot, unended_ns, .. } in ended {
            self.elapsed_ns += slot.ended_ns.saturating_sub(slot.first_ns);
            self.on_cpu_ns += slot.on_cpu_ns;
            self.waiting_ns += unended_ns.map_or(0, |(_, ns)| ns);
            for sum in &slot.sums {
                self.waiting_ns += sum.ns;
                self.waits += sum.count;
            }
        }
    }

    pub fn summary(&self, counters: &[u64; COUNTERS], target_ns: u64, every_call: bool) -> WaitsSummary {
        let counter = |counter: Counter| counters[counter as usize];
        let told_ns = self.on_cpu_ns + self.waiting_ns;
        WaitsSummary {
            shows_table: false,
            threads: self.threads,
            elapsed_s: self.elapsed_ns as f64 / 1e9,
            on_cpu_s: self.on_cpu_ns as f64 / 1e9,
            waiting_s: self.waiting_ns as f64 / 1e9,
            accounted: told_ns as f64 / (self.elapsed_ns as f64).max(1.0),
            waits: self.waits,
            drawn: counter(Counter::WaitsDrawn),
            target_ns,
            lost_stacks: counter(Counter::LostWaits),
            ending: counter(Counter::EndingWaits),
            lost_threads: counter(Counter::LostThreads),
            lost_switches: counter(Counter::LostSwitches),
            forgotten: self.forgotten,
            every_call,
            stalls: None,
            lost_stalls: 0,
            io: None,
        }
    }
}

/// What a window comes to: a value that the writer's thread gives names to.
#[derive(Debug)]
pub struct WaitsCut {
    pub account: Account,
    pub unended: Unended,
    pub ended: Vec<Ended>,
    /// From this length on all waits have a stack.
    pub target_ns: u64,
    pub every_call: bool,
    /// As in [`WaitsReport`].
    pub min_ns: u64,
    pub processes_with_gil: u64,
}

impl WaitsCut {
    pub fn report(&self, window: &Window, namer: &mut Namer, length: Duration) -> (WaitsReport, Vec<String>) {
        let reported = Reported {
            account: &self.account,
            unended: &self.unended,
            threads: &self.ended,
            min_ns: self.min_ns,
            processes_with_gil: self.processes_with_gil,
            // They are not cut into windows.
            stalls: None,
            io: None,
            io_ns: None,
            tells_of_quotas: false,
            begun_ns: 0,
            length,
        };
        report::report(window, namer, &reported)
    }

    pub fn summary(&self, counters: &[u64; COUNTERS]) -> WaitsSummary {
        let mut totals = Totals {
            threads: self.ended.len() as u64,
            forgotten: self.account.forgotten(),
            ..Totals::default()
        };
        totals.add(&self.ended);
        totals.summary(counters, self.target_ns, self.every_call)
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::wait::{WAIT_LOCK, WAIT_SLEEP};

    use super::*;

    const T: u64 = 1_000_000;

    /// A thread's account, with a wait under way if it is away.
    fn slot(now_ns: u64, out_ns: u64, on_cpu_ns: u64, lock: (u64, u64)) -> (WaitSlot, Option<(u32, u64)>) {
        let mut slot = WaitSlot {
            tid: 7,
            shown_tid: 7,
            first_ns: 100 * T,
            ended_ns: now_ns,
            out_ns,
            on_cpu_ns,
            class: WAIT_LOCK,
            ..WaitSlot::default()
        };
        let sum = &mut slot.sums[WAIT_LOCK as usize];
        (sum.count, sum.ns, sum.drawn_ns, sum.longest_ns) = (lock.0, lock.1, lock.1, lock.1);
        (slot, (out_ns != 0).then(|| (WAIT_LOCK, now_ns - out_ns)))
    }

    fn waiting(part: &(WaitSlot, Option<(u32, u64)>)) -> u64 {
        part.0.sums.iter().map(|sum| sum.ns).sum::<u64>() + part.1.map_or(0, |(_, ns)| ns)
    }

    fn window(
        windows: &mut Windows,
        (slot, under_way): (WaitSlot, Option<(u32, u64)>),
    ) -> (WaitSlot, Option<(u32, u64)>) {
        windows.close(slot.ended_ns, slot.ended_ns);
        let part = windows.part(&slot, under_way, true);
        let told = part.0.on_cpu_ns + waiting(&part);
        assert_eq!(told, part.0.ended_ns - part.0.first_ns, "its time adds up");
        windows.cut();
        part
    }

    #[test]
    fn a_wait_that_spans_three_windows_is_in_each_to_its_share() {
        let mut windows = Windows::default();
        // 10 on a CPU, then away from 110 to 350; cuts at 200, 300, 400.
        let first = window(&mut windows, slot(200 * T, 110 * T, 10 * T, (0, 0)));
        assert_eq!((first.0.on_cpu_ns, first.1), (10 * T, Some((WAIT_LOCK, 90 * T))));
        let second = window(&mut windows, slot(300 * T, 110 * T, 10 * T, (0, 0)));
        assert_eq!((second.0.on_cpu_ns, second.1), (0, Some((WAIT_LOCK, 100 * T))));
        let mut event = WaitEvent {
            class: WAIT_LOCK,
            length_ns: 240 * T,
            weight_ns: 240 * T,
            ready_ns: T,
            ..WaitEvent::default()
        };
        windows.clip(7, 350 * T, &mut event);
        assert_eq!((event.length_ns, event.weight_ns, event.ready_ns), (50 * T, 50 * T, T));
        let third = window(&mut windows, slot(400 * T, 0, 60 * T, (1, 240 * T)));
        let sum = third.0.sums[WAIT_LOCK as usize];
        assert_eq!((sum.count, sum.ns, sum.drawn_ns), (1, 50 * T, 50 * T));
        assert_eq!((third.0.on_cpu_ns, third.1), (50 * T, None));
        // The next wait is none of that one's business.
        let mut next = WaitEvent {
            length_ns: 30 * T,
            weight_ns: 30 * T,
            ..event
        };
        windows.clip(7, 440 * T, &mut next);
        assert_eq!(next.length_ns, 30 * T);
        let fourth = window(&mut windows, slot(500 * T, 0, 130 * T, (2, 270 * T)));
        assert_eq!((fourth.0.on_cpu_ns, waiting(&fourth)), (70 * T, 30 * T));
    }

    #[test]
    fn a_short_wait_after_a_cut_is_not_taken_for_the_long_one_that_ended_unsent() {
        let mut windows = Windows::default();
        window(&mut windows, slot(200 * T, 110 * T, 10 * T, (0, 0)));
        let mut event = WaitEvent {
            class: WAIT_SLEEP,
            length_ns: 20 * T,
            weight_ns: 20 * T,
            ..WaitEvent::default()
        };
        windows.clip(7, 290 * T, &mut event);
        assert_eq!(event.length_ns, 20 * T);
        // A record is lost, its time is not.
        let second = window(&mut windows, slot(300 * T, 0, 30 * T, (2, 170 * T)));
        assert_eq!(waiting(&second), 80 * T);
    }

    #[test]
    fn what_ends_while_accounts_are_read_is_of_the_window_that_has_its_time() {
        let mut windows = Windows::default();
        windows.close(200 * T, 205 * T);
        // Read at 202, when it was away.
        let (read, under_way) = slot(205 * T, 110 * T, 10 * T, (0, 0));
        windows.part(&read, under_way, true);
        assert!(windows.is_of_next(7, 204 * T), "it ended after it was read");
        assert!(!windows.is_of_next(7, 109 * T) && !windows.is_of_next(8, 204 * T));
        assert!(windows.is_of_next(8, 206 * T));
        windows.cut();
        assert!(!windows.is_of_next(8, 206 * T));
    }

    #[test]
    fn the_account_of_a_thread_that_ends_is_forgotten() {
        let mut windows = Windows::default();
        window(&mut windows, slot(200 * T, 0, 100 * T, (0, 0)));
        let (last, _) = slot(250 * T, 0, 150 * T, (0, 0));
        let (part, _) = windows.part(&last, None, false);
        assert_eq!((part.first_ns, part.on_cpu_ns), (200 * T, 50 * T));
        windows.cut();
        assert!(windows.told.is_empty() && windows.away.is_empty());
    }
}
