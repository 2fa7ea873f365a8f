//! Garbage collections: how often, how long, and who set them off.

use std::time::Duration;

use profiler_common::mark::{MARK_COLLECT, MARK_COLLECTED};
use rustc_hash::FxHashMap;

use crate::{
    memory::event::SiteId,
    python::collector::{Collector, GENERATIONS},
    recording::Marked,
};

/// Pauses by the binary logarithm of their microseconds, rounded down; the last has all that are longer.
pub const BUCKETS: usize = 24;

/// Of a generation, or of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    pub count: u64,
    pub ns: u64,
    pub longest_ns: u64,
    pub histogram: [u64; BUCKETS],
}

impl Pauses {
    pub fn add(&mut self, ns: u64) {
        self.count += 1;
        self.ns += ns;
        self.longest_ns = self.longest_ns.max(ns);
        let bucket = (ns / 1000).checked_ilog2().unwrap_or(0) as usize;
        self.histogram[bucket.min(BUCKETS - 1)] += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.ns += other.ns;
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        for (sum, more) in self.histogram.iter_mut().zip(&other.histogram) {
            *sum += more;
        }
    }
}

/// In place of a generation: from 3.13 on the collector chooses it itself, when it has been called, and nobody sees which.
pub const AUTOMATIC: usize = GENERATIONS;

/// Pauses by generation, the last of those that are [`AUTOMATIC`].
pub type ByGeneration = [Pauses; GENERATIONS + 1];

/// What is counted together: who set it off, and the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub site: SiteId,
    pub pid: u32,
    /// Or [`AUTOMATIC`].
    pub generation: usize,
}

/// What the collector of a process says of itself, before and after.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: u32,
    pub command: String,
    pub before: Option<Collector>,
    pub after: Option<Collector>,
    /// Its build has no place where collections can be seen: how often it was found collecting, of how many looks.
    pub looks: Option<Looks>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looks {
    pub all: u64,
    pub collecting: u64,
}

impl Looks {
    /// The share, and half the width of its 95 % interval (Agresti and Coull).
    pub fn share(&self) -> Option<(f64, f64)> {
        const FEWEST: u64 = 20;
        let n = self.all as f64;
        (self.all >= FEWEST).then(|| {
            let share = (self.collecting as f64 + 2.0) / (n + 4.0);
            (
                self.collecting as f64 / n,
                2.0 * (share * (1.0 - share) / (n + 4.0)).sqrt(),
            )
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Open {
    key: Key,
    began_ns: u64,
}

#[derive(Debug, Default)]
pub struct Account {
    pauses: FxHashMap<Key, Pauses>,
    /// By thread: one within another cannot be, but finalizers can begin some.
    open: FxHashMap<u32, Vec<Open>>,
    /// Of each process, time in which it collected.
    pub unfinished: u64,
}

impl Account {
    pub fn take(&mut self, marked: &Marked) {
        let header = &marked.header;
        match marked.event.what {
            MARK_COLLECT => {
                let key = Key {
                    site: marked.site,
                    pid: header.pid,
                    // `GENERATION_AUTO` is -1.
                    generation: (marked.event.count as usize).min(AUTOMATIC),
                };
                let open = self.open.entry(header.tid).or_default();
                if open.last().is_some_and(|open| open.key.pid != header.pid) {
                    open.clear();
                }
                open.push(Open {
                    key,
                    began_ns: header.time_ns,
                });
            }
            MARK_COLLECTED => {
                // Of one that was under way when we came, no beginning is known.
                if let Some(open) = self.open.get_mut(&header.tid).and_then(Vec::pop) {
                    let ns = header.time_ns.saturating_sub(open.began_ns);
                    self.pauses.entry(open.key).or_default().add(ns);
                }
            }
            _ => {}
        }
    }

    pub fn finish(&mut self) {
        self.unfinished = self.open.values().map(|open| open.len() as u64).sum();
        self.open.clear();
    }

    pub fn pauses(&self) -> impl Iterator<Item = (&Key, &Pauses)> {
        self.pauses.iter()
    }
}

/// What is to be said of a process's thresholds, if anything.
pub fn advice(
    thresholds: [i32; GENERATIONS],
    share: f64,
    by_generation: &ByGeneration,
    length: Duration,
) -> Option<String> {
    /// Below that nobody feels it.
    const WORTH_IT: f64 = 0.03;
    const LONG: Duration = Duration::from_millis(50);
    let [young, ..] = thresholds;
    if young == 0 {
        return Some(
            "automatic collection is off (gc.disable() or a threshold of 0): cycles are never freed".to_owned(),
        );
    }
    let oldest = &by_generation[GENERATIONS - 1];
    if share < WORTH_IT {
        return (oldest.longest_ns > LONG.as_nanos() as u64).then(|| {
            "the long pauses are full collections: after start-up, gc.freeze() takes what lives for ever out of them".to_owned()
        });
    }
    let young_rate = (by_generation[0].count + by_generation[AUTOMATIC].count) as f64 / length.as_secs_f64().max(1e-9);
    Some(if oldest.ns * 2 > by_generation.iter().map(|pauses| pauses.ns).sum() {
        "most of it is full collections: gc.freeze() after start-up takes what lives for ever out of them, and a higher third \
         threshold has fewer of them"
            .to_owned()
    } else {
        format!(
            "{young_rate:.0} collections a second: gc.set_threshold({}) would have a tenth of them, for some more memory",
            i64::from(young) * 10,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_sorted_by_their_length() {
        let mut pauses = Pauses::default();
        for ns in [500, 1_500, 2_500, 3_900, 1 << 62] {
            pauses.add(ns);
        }
        assert_eq!(
            (pauses.histogram[0], pauses.histogram[1], pauses.histogram[BUCKETS - 1]),
            (2, 2, 1)
        );
        let mut other = Pauses::default();
        other.add(7_000);
        other.merge(&pauses);
        assert_eq!((other.count, other.histogram[2]), (6, 1));
    }

    #[test]
    fn advice_is_given_where_it_is_worth_it() {
        let mut by_generation: ByGeneration = Default::default();
        let length = Duration::from_secs(10);
        assert_eq!(advice([700, 10, 10], 0.01, &by_generation, length), None);
        by_generation[0].add(500_000_000);
        assert!(advice([700, 10, 10], 0.05, &by_generation, length).is_some_and(|text| text.contains("7000")));
        by_generation[2].add(900_000_000);
        assert!(advice([700, 10, 10], 0.14, &by_generation, length).is_some_and(|text| text.contains("freeze")));
        assert!(advice([0, 10, 10], 0.0, &by_generation, length).is_some_and(|text| text.contains("off")));
    }
}
