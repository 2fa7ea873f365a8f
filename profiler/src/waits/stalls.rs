//! Event loops that did not come back to poll for long (`--stalls`), and what took them so long: ticks of the clock and
//! waits of the thread in the meantime.

use std::collections::VecDeque;

use profiler_common::wait::StallRecord;
use rustc_hash::FxHashMap;

use super::{cause::Cause, held::Span};
use crate::{memory::event::SiteId, python::tasks::RunningTask};

/// What a thread did is kept for as long as it may turn out to be a stall: so much of each thread, and of all together.
const MOST_OF_THREAD: usize = 4096;
const MOST: usize = 1 << 18;
/// So many stalls are told one by one. Of more, the longest are.
const MOST_STALLS: usize = 4096;
/// Loops that are away at a time, and tasks that one was seen to run before it came back.
const MOST_LOOKED_AT: usize = 4096;
const MOST_TASKS: usize = 64;

type Id = (u32, u32);

/// A piece of a thread's time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    span: Span,
    /// `None`: on a CPU, and the span is a moment.
    cause: Option<Cause>,
    site: SiteId,
}

/// A loop that did not poll.
#[derive(Clone, Debug, PartialEq)]
pub struct Stall {
    pub pid: u32,
    pub tid: u32,
    pub from_ns: u64,
    pub to_ns: u64,
    /// It had not come back when the recording ended.
    pub unended: bool,
    /// The task that it ran at most of the moments when it was looked at.
    pub task: Option<RunningTask>,
    /// Where its time went. On a CPU (`None`) is what it did not wait, shared out by the clock's ticks.
    pub parts: Vec<(Option<Cause>, SiteId, u64)>,
}

impl Stall {
    pub fn length_ns(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }
}

/// What a loop was seen to run since it has been away from polling.
#[derive(Debug)]
struct Looks {
    since_ns: u64,
    all: u32,
    tasks: Vec<(RunningTask, u32)>,
}

impl Looks {
    /// The task that most of the time was seen in. One look shows that it ran, not that it kept the loop.
    fn task(self) -> Option<RunningTask> {
        const FEWEST: u32 = 2;
        let (task, seen) = self.tasks.into_iter().max_by_key(|(_, seen)| *seen)?;
        (seen >= FEWEST && 4 * seen >= 3 * self.all).then_some(task)
    }
}

#[derive(Debug, Default)]
pub struct Stalls {
    threads: FxHashMap<Id, VecDeque<Piece>>,
    looks: FxHashMap<Id, Looks>,
    kept: usize,
    found: Vec<Stall>,
    /// Stalls that are not in `found`, because there are too many.
    left_out: u64,
}

impl Stalls {
    /// The clock has ticked while a thread ran.
    pub fn ran(&mut self, id: Id, at_ns: u64, site: SiteId) {
        let span = Span {
            from_ns: at_ns,
            to_ns: at_ns,
        };
        self.keep(
            id,
            Piece {
                span,
                cause: None,
                site,
            },
        );
    }

    /// It has waited.
    pub fn waited(&mut self, id: Id, span: Span, cause: Cause, site: SiteId) {
        self.keep(
            id,
            Piece {
                span,
                cause: Some(cause),
                site,
            },
        );
    }

    fn keep(&mut self, id: Id, piece: Piece) {
        if self.kept >= MOST {
            // What has been long ago is of no use but to a stall that is as long.
            self.threads.clear();
            self.kept = 0;
        }
        let pieces = self.threads.entry(id).or_default();
        if pieces.len() >= MOST_OF_THREAD {
            pieces.pop_front();
            self.kept -= 1;
        }
        pieces.push_back(piece);
        self.kept += 1;
    }

    /// A loop that has been away since then was looked at, and ran this task, or none.
    pub fn looked(&mut self, id: Id, since_ns: u64, task: Option<RunningTask>) {
        if self.looks.len() >= MOST_LOOKED_AT && !self.looks.contains_key(&id) {
            // Most are of loops that came back in time.
            self.looks.clear();
        }
        let none = || Looks {
            since_ns,
            all: 0,
            tasks: Vec::new(),
        };
        let looks = self.looks.entry(id).or_insert_with(none);
        if looks.since_ns != since_ns {
            *looks = none();
        }
        looks.all = looks.all.saturating_add(1);
        let Some(task) = task else { return };
        if let Some((_, seen)) = looks.tasks.iter_mut().find(|(known, _)| *known == task) {
            *seen = seen.saturating_add(1);
        } else if looks.tasks.len() < MOST_TASKS {
            looks.tasks.push((task, 1));
        }
    }

    /// A loop is back. What it did meanwhile has come in before.
    pub fn ended(&mut self, record: &StallRecord) {
        self.find((record.pid, record.tid), record.from_ns, record.to_ns, false);
    }

    /// A loop is not back.
    pub fn unended(&mut self, id: Id, from_ns: u64, to_ns: u64) {
        self.find(id, from_ns, to_ns, true);
    }

    fn find(&mut self, id: Id, from_ns: u64, to_ns: u64, unended: bool) {
        let whole = Span { from_ns, to_ns };
        let pieces = self.threads.remove(&id).unwrap_or_default();
        self.kept -= pieces.len().min(self.kept);
        let looks = self.looks.remove(&id).filter(|looks| looks.since_ns == from_ns);
        let stall = Stall {
            pid: id.0,
            tid: id.1,
            from_ns,
            to_ns,
            unended,
            task: looks.and_then(Looks::task),
            parts: parts(whole, pieces.iter().copied()),
        };
        self.found.push(stall);
        if self.found.len() > 2 * MOST_STALLS {
            self.thin();
        }
    }

    /// Keeps the longest.
    fn thin(&mut self) {
        self.found.sort_by_key(|stall| std::cmp::Reverse(stall.length_ns()));
        self.left_out += self.found.len().saturating_sub(MOST_STALLS) as u64;
        self.found.truncate(MOST_STALLS);
    }

    /// In order of time, and how many are left out.
    pub fn told(&self) -> (Vec<&Stall>, u64) {
        let mut told: Vec<&Stall> = self.found.iter().collect();
        told.sort_by_key(|stall| std::cmp::Reverse(stall.length_ns()));
        let more = told.len().saturating_sub(MOST_STALLS) as u64;
        told.truncate(MOST_STALLS);
        told.sort_by_key(|stall| (stall.from_ns, stall.pid, stall.tid));
        (told, self.left_out + more)
    }
}

/// Where the time of a stall went.
fn parts(whole: Span, pieces: impl Iterator<Item = Piece>) -> Vec<(Option<Cause>, SiteId, u64)> {
    let mut parts: FxHashMap<(Option<Cause>, SiteId), u64> = FxHashMap::default();
    let mut ticks: FxHashMap<SiteId, u64> = FxHashMap::default();
    let (mut waited, mut ticked) = (0u64, 0u64);
    for piece in pieces {
        match piece.cause {
            None if (whole.from_ns..=whole.to_ns).contains(&piece.span.to_ns) => {
                *ticks.entry(piece.site).or_default() += 1;
                ticked += 1;
            }
            None => {}
            Some(cause) => {
                let ns = whole.overlap_ns(piece.span);
                if ns > 0 {
                    *parts.entry((Some(cause), piece.site)).or_default() += ns;
                    waited += ns;
                }
            }
        }
    }
    let on_cpu = (whole.to_ns - whole.from_ns.min(whole.to_ns)).saturating_sub(waited);
    for (site, ticks) in ticks {
        let ns = (u128::from(on_cpu) * u128::from(ticks) / u128::from(ticked.max(1))) as u64;
        parts.insert((None, site), ns);
    }
    let mut parts: Vec<_> = parts.into_iter().map(|((cause, site), ns)| (cause, site, ns)).collect();
    parts.sort_by_key(|&(cause, site, ns)| (std::cmp::Reverse(ns), cause, site));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn record(from_ns: u64, to_ns: u64) -> StallRecord {
        StallRecord {
            pid: 1,
            tid: 2,
            from_ns,
            to_ns,
            ..StallRecord::default()
        }
    }

    #[test]
    fn the_time_of_a_stall_is_what_the_thread_waited_and_the_rest_by_the_clock() {
        let mut stalls = Stalls::default();
        let id = (1, 2);
        // Before it, and another thread's.
        stalls.ran(id, 5 * MS, 9);
        stalls.waited((1, 3), Span::ending(50 * MS, 40 * MS), Cause::Sleep, 8);
        stalls.waited(id, Span::ending(60 * MS, 40 * MS), Cause::Socket, 7);
        for tick in [65, 70, 75] {
            stalls.ran(id, tick * MS, 4);
        }
        stalls.ran(id, 80 * MS, 5);
        stalls.ended(&record(10 * MS, 90 * MS));
        let (told, left_out) = stalls.told();
        assert_eq!((told.len(), left_out), (1, 0));
        assert_eq!(
            told[0].parts,
            [
                (Some(Cause::Socket), 7, 40 * MS),
                (None, 4, 30 * MS),
                (None, 5, 10 * MS)
            ]
        );
        // What was in one stall is in no other.
        stalls.ended(&record(0, 95 * MS));
        let (told, _) = stalls.told();
        assert!(told[0].parts.is_empty());
    }

    #[test]
    fn the_task_is_the_one_that_was_seen_nearly_always_and_more_than_once() {
        let task = |name: &str| {
            Some(RunningTask {
                name: Some(name.to_owned()),
                coroutine: None,
            })
        };
        let told = |looks: &[Option<RunningTask>]| {
            let mut stalls = Stalls::default();
            // Of an earlier time away, which was no stall.
            stalls.looked((1, 2), MS, task("before"));
            for look in looks {
                stalls.looked((1, 2), 10 * MS, look.clone());
            }
            stalls.ended(&record(10 * MS, 90 * MS));
            let (told, _) = stalls.told();
            told[0].task.clone()
        };
        let [a, b] = [task("a"), task("b")];
        assert_eq!(told(&[a.clone(), a.clone(), a.clone(), b.clone()]), a);
        assert_eq!(told(&[a.clone(), a.clone(), None, b]), None);
        assert_eq!(told(&[a.clone(), None]), None);
        assert_eq!(told(&[a]), None, "it may have run for a moment");
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn of_very_many_stalls_the_longest_are_told() {
        let mut stalls = Stalls::default();
        for n in 0..3 * MOST_STALLS as u64 {
            stalls.ended(&record(n * MS, n * MS + n));
        }
        let (told, left_out) = stalls.told();
        assert_eq!((told.len(), left_out), (MOST_STALLS, 2 * MOST_STALLS as u64));
        assert!(told.iter().all(|stall| stall.length_ns() >= 2 * MOST_STALLS as u64));
    }
}
