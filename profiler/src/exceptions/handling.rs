//! How much of the time a program is handling an exception: by looking from outside, at random moments, whether the thread
//! that has the GIL is inside `except` or `finally`, or in what is called there.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

use profiler_common::python::PythonProcess;
use rustc_hash::FxHashMap;

use crate::{
    process::pythons::PythonIn,
    python::{
        activity::Activity,
        memory::{ProcessMemory, ReadMemory},
    },
    waits::gil,
};

/// From one look to the next, on average.
const EVERY: Duration = Duration::from_millis(20);
/// More processes are not looked at.
const MOST_PROCESSES: usize = 64;
/// `struct _gil_runtime_state`: `last_holder`, `locked` (3.8 – 3.15).
const LAST_HOLDER: u64 = 8;
const LOCKED: u64 = 16;

/// Looks so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looks {
    /// That found a thread with the GIL.
    pub running: u64,
    /// … which was handling an exception.
    pub handling: u64,
}

impl Looks {
    /// The share, and half the width of its 95 % interval (Agresti and Coull); `None` if there is nothing to go by.
    pub fn share(&self) -> Option<(f64, f64)> {
        const FEWEST: u64 = 20;
        let n = self.running as f64;
        (self.running >= FEWEST).then(|| {
            let share = (self.handling as f64 + 2.0) / (n + 4.0);
            (
                self.handling as f64 / n,
                2.0 * (share * (1.0 - share) / (n + 4.0)).sqrt(),
            )
        })
    }
}

struct Place {
    activity: Activity,
    gil: u64,
    facts: PythonProcess,
}

/// Looks at random.
pub struct Handling {
    processes: FxHashMap<u32, Place>,
    due: Instant,
    /// Of each process, also of those that have ended.
    looks: FxHashMap<u32, Looks>,
}

impl Handling {
    pub fn new() -> Self {
        Self {
            processes: FxHashMap::default(),
            due: Instant::now(),
            looks: FxHashMap::default(),
        }
    }

    /// Of one process.
    pub fn looks_of(&self, pid: u32) -> Looks {
        self.looks.get(&pid).copied().unwrap_or_default()
    }

    /// Of all together.
    pub fn looks(&self) -> Looks {
        self.looks.values().fold(Looks::default(), |sum, looks| Looks {
            running: sum.running + looks.running,
            handling: sum.handling + looks.handling,
        })
    }

    pub fn follow(&mut self, pid: u32, python: &PythonIn) {
        let memory = ProcessMemory { pid };
        let runtime = python.binary.runtime.wrapping_add(python.bias);
        let activity = Activity::of(python.binary.version, &memory, runtime);
        if let (Some(activity), Some(gil), true) = (
            activity,
            gil::find(python, &memory).filter(|_| !python.is_free_threaded()),
            self.processes.len() < MOST_PROCESSES,
        ) {
            self.processes.insert(
                pid,
                Place {
                    activity,
                    gil,
                    facts: python.facts,
                },
            );
        }
    }

    pub fn forget(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }

    /// How long until the next look. It must not wait for anything else to happen: what happens has to do with exceptions.
    pub fn due_in(&self) -> Option<Duration> {
        (!self.processes.is_empty()).then(|| self.due.saturating_duration_since(Instant::now()))
    }

    /// Looks, if it is time.
    pub fn look(&mut self) {
        let now = Instant::now();
        if now < self.due {
            return;
        }
        let drawn = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
        self.due = now + EVERY.mul_f64(0.5 + drawn);
        for (&pid, place) in &self.processes {
            let memory = ProcessMemory { pid };
            let mut locked = [0; 4];
            if !memory.read(place.gil.wrapping_add(LOCKED), &mut locked) || i32::from_le_bytes(locked) != 1 {
                continue;
            }
            let Some(state) = memory
                .read_u64(place.gil.wrapping_add(LAST_HOLDER))
                .filter(|&at| at != 0)
            else {
                continue;
            };
            let handled = place.activity.handled(&memory, &place.facts, state);
            let looks = self.looks.entry(pid).or_default();
            looks.running += 1;
            looks.handling += u64::from(handled.is_some());
        }
    }
}

impl Default for Handling {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_few_looks_is_none() {
        assert_eq!(
            Looks {
                running: 19,
                handling: 5
            }
            .share(),
            None
        );
        let (share, error) = Looks {
            running: 400,
            handling: 100,
        }
        .share()
        .unwrap();
        assert!((share - 0.25).abs() < 1e-9 && (0.04..0.05).contains(&error), "{error}");
        // Of nothing seen it is not known that there was nothing.
        assert!(
            Looks {
                running: 100,
                handling: 0
            }
            .share()
            .unwrap()
            .1 > 0.01
        );
    }
}
