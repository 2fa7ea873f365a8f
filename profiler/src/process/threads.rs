//! The threads of a process that were met in samples, and when to ask what the program calls them.
//!
//! A program names its threads as it likes, and later another way. Asking costs some microseconds per thread, so it is
//! done soon after a new one is met, and then ever more rarely.

use std::{collections::BTreeMap, fs, time::Duration};

use profiler_common::limits::COMM_BYTES;
use rustc_hash::FxHashMap;

use super::perf_map::Status;

/// A thread under one of the kernel's names, as a number that is never used twice in a window.
pub type ThreadId = u32;

/// After a new thread was met, and at most.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// If none is new: a program may call a thread something else.
const WAIT_FOR_OTHER_NAMES: Duration = Duration::from_secs(5);
/// Names of threads that were not met yet.
const MOST_FORESEEN: usize = 1024;
/// Most programs name a thread as it begins, or never.
const MORE_RARELY: u32 = 8;

#[derive(Debug)]
pub struct Threads {
    /// By number and by the kernel's name, which can change.
    met: BTreeMap<(u32, [u8; COMM_BYTES]), ThreadId>,
    /// What the program called those that it had when it was asked, by number. One that is met later is none that is new.
    foreseen: FxHashMap<u32, Box<str>>,
    /// When to ask next, by our clock.
    next_ns: u64,
    wait: Duration,
    /// Whether its numbers are others inside, in a pid namespace of its own; none if nobody has looked.
    is_nested: Option<bool>,
}

impl Default for Threads {
    fn default() -> Self {
        Self {
            met: BTreeMap::new(),
            foreseen: FxHashMap::default(),
            next_ns: 0,
            wait: SHORTEST_WAIT,
            is_nested: None,
        }
    }
}

impl Threads {
    /// Which one a sample is of; `new` numbers one that was not met before, and gets its name if the program has told it.
    pub fn meet(&mut self, tid: u32, comm: [u8; COMM_BYTES], new: impl FnOnce(Option<&str>) -> ThreadId) -> ThreadId {
        *self.met.entry((tid, comm)).or_insert_with(|| {
            let name = self.foreseen.get(&tid).map(|name| &**name);
            if name.is_none() {
                self.next_ns = 0;
                self.wait = SHORTEST_WAIT;
            }
            new(name)
        })
    }

    /// What the program calls its threads, by the number that each has inside.
    pub fn foresee(&mut self, names: impl Iterator<Item = (u32, Box<str>)>) {
        // Elsewhere, numbers inside are others'.
        if self.is_nested == Some(false) {
            self.foreseen = names.take(MOST_FORESEEN).collect();
        }
    }

    /// A thread has ended. Its number may come back as another's.
    pub fn end(&mut self, tid: u32) {
        let every_name = (tid, [0; COMM_BYTES])..=(tid, [u8::MAX; COMM_BYTES]);
        let gone: Vec<_> = self.met.range(every_name).map(|(key, _)| *key).collect();
        for key in gone {
            self.met.remove(&key);
        }
        self.foreseen.remove(&tid);
    }

    /// How many are known.
    pub fn count(&self) -> usize {
        self.met.len()
    }

    /// Gives each a new number, or forgets it.
    pub fn renumber(&mut self, mut number: impl FnMut(ThreadId) -> Option<ThreadId>) {
        self.met.retain(|_, thread| match number(*thread) {
            Some(new) => {
                *thread = new;
                true
            }
            None => false,
        });
    }

    /// Whether it is time to ask.
    pub fn is_due(&self, now_ns: u64) -> bool {
        !self.met.is_empty() && now_ns >= self.next_ns
    }

    /// It was asked. `knew_all`: it knew every thread that was met, so there is none left that it has yet to name.
    pub fn asked(&mut self, now_ns: u64, knew_all: bool) {
        if knew_all {
            self.wait = self.wait.max(WAIT_FOR_OTHER_NAMES);
        }
        self.next_ns = now_ns.saturating_add(u64::try_from(self.wait.as_nanos()).unwrap_or(u64::MAX));
        self.wait = (self.wait * MORE_RARELY).min(LONGEST_WAIT);
    }

    /// Those that live, by the number that each has inside.
    pub fn inside(&mut self, pid: u32) -> FxHashMap<u32, Vec<ThreadId>> {
        let inside = |path: String| Status::parse(&fs::read(path).ok()?)?.pid_inside;
        let is_nested = *self
            .is_nested
            .get_or_insert_with(|| inside(format!("/proc/{pid}/status")).is_some_and(|inside| inside != pid));
        let mut threads: FxHashMap<u32, Vec<ThreadId>> = FxHashMap::default();
        let mut last = None;
        for (&(tid, _), &thread) in &self.met {
            let number = match last {
                Some((same, number)) if same == tid => number,
                _ if is_nested => inside(format!("/proc/{pid}/task/{tid}/status")),
                _ => Some(tid),
            };
            last = Some((tid, number));
            if let Some(number) = number {
                threads.entry(number).or_default().push(thread);
            }
        }
        threads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comm(name: &str) -> [u8; COMM_BYTES] {
        let mut comm = [0; COMM_BYTES];
        comm[..name.len()].copy_from_slice(name.as_bytes());
        comm
    }

    #[test]
    fn a_thread_is_the_same_until_it_ends_or_is_called_something_else() {
        let mut threads = Threads::default();
        let mut last = 0;
        let mut meet = |threads: &mut Threads, tid, name| {
            threads.meet(tid, comm(name), |_| {
                last += 1;
                last
            })
        };
        assert_eq!(meet(&mut threads, 7, "a"), 1);
        assert_eq!(meet(&mut threads, 7, "b"), 2);
        assert_eq!(meet(&mut threads, 8, "a"), 3);
        assert_eq!(meet(&mut threads, 7, "a"), 1);
        let mine = std::process::id();
        let mut inside = threads.inside(mine);
        inside.values_mut().for_each(|threads| threads.sort_unstable());
        assert_eq!(inside, FxHashMap::from_iter([(7, vec![1, 2]), (8, vec![3])]));
        threads.end(7);
        assert_eq!(meet(&mut threads, 8, "a"), 3);
        assert_eq!(meet(&mut threads, 7, "a"), 4);
    }

    #[test]
    fn one_is_asked_about_soon_and_then_ever_more_rarely() {
        let mut threads = Threads::default();
        assert!(!threads.is_due(0), "nobody was met");
        threads.meet(7, comm("a"), |_| 0);
        let mut asked = 0;
        for now_ms in 0..600_000 {
            if threads.is_due(now_ms * 1_000_000) {
                threads.asked(now_ms * 1_000_000, false);
                asked += 1;
            }
        }
        assert_eq!(asked, 14, "in ten minutes");
        threads.meet(8, comm("a"), |_| 1);
        assert!(threads.is_due(600_000 * 1_000_000), "a new one");
        threads.asked(0, true);
        let soon_ns = u64::try_from(SHORTEST_WAIT.as_nanos()).unwrap();
        assert!(
            !threads.is_due(soon_ns) && threads.is_due(100 * soon_ns),
            "all are known"
        );
    }

    #[test]
    fn a_thread_whose_name_was_told_before_it_was_met_is_not_asked_about_until_it_ends() {
        let mut threads = Threads::default();
        let own = std::process::id();
        threads.meet(7, comm("a"), |_| 0);
        threads.inside(own);
        threads.foresee([(8, "worker".into())].into_iter());
        threads.asked(1_000_000, true);
        let told = |threads: &mut Threads, tid| {
            let mut told = None;
            threads.meet(tid, comm("a"), |name| {
                told = name.map(str::to_owned);
                1
            });
            (told, threads.is_due(1_000_001))
        };
        assert_eq!(told(&mut threads, 8), (Some("worker".to_owned()), false));
        threads.end(8);
        assert_eq!(told(&mut threads, 8), (None, true), "another one of that number");
    }
}
