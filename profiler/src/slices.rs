//! When samples were taken, to a slice of the recording: an axis for pictures, in bounded memory.
//!
//! A time for every sample would grow with the recording, as nothing else that is counted does. So time is cut into slices
//! of equal length, no more than [`MOST`], which become twice as long whenever the recording outgrows them; a stack of a
//! thread has a number for each slice in which it was met. How long a recording will be need not be known.
//!
//! Each list is brought to longer slices when it is next counted in, or at the end: nothing is ever done to all of them, but
//! when they are too many together ([`Clock`]).

/// What slices begin with: at the usual rates a CPU has one sample in it.
pub const SHORTEST_NS: u64 = 10_000_000;
/// As many as a picture has room for.
pub const MOST: u64 = 200;
/// Entries of all lists together, eight bytes each; beyond, slices become longer than the recording needs.
const MOST_ENTRIES: usize = 1 << 20;

/// How often slices must be doubled so that this moment is in one of them.
fn doublings(since_ns: u64) -> u8 {
    let mut doublings = 0;
    while (since_ns / SHORTEST_NS) >> doublings >= MOST {
        doublings += 1;
    }
    doublings
}

/// How long a slice is that was doubled so often, in nanoseconds.
fn length_ns(doublings: u8) -> u64 {
    SHORTEST_NS << doublings
}

/// What was counted of one stack of one thread, by slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slices {
    doublings: u8,
    /// Slices and what was in them, in order of time.
    entries: Vec<(u16, u32)>,
}

impl Slices {
    /// Adds what was at a moment after the beginning. `least`: slices were doubled so often, whatever the moment.
    fn add(&mut self, since_ns: u64, least: u8, amount: u32) {
        self.coarsen(doublings(since_ns).max(least));
        // Below `MOST` after these doublings.
        let slice = ((since_ns / SHORTEST_NS) >> self.doublings) as u16;
        // The stream of records is in order of time, nearly: what is counted is in the last one, or after it.
        let after = self.entries.iter().rposition(|&(other, _)| other <= slice);
        match after {
            Some(at) if self.entries[at].0 == slice => {
                self.entries[at].1 = self.entries[at].1.saturating_add(amount);
            }
            _ => {
                if self.entries.is_empty() {
                    // Half of the stacks are met once.
                    self.entries.reserve_exact(1);
                }
                self.entries.insert(after.map_or(0, |at| at + 1), (slice, amount));
            }
        }
    }

    /// What it has by slices that were doubled so often.
    pub fn told(&self, doublings: u8) -> Vec<(u32, u32)> {
        let mut slices = self.clone();
        slices.coarsen(doublings);
        let entries = slices.entries.iter();
        entries.map(|&(slice, amount)| (slice.into(), amount)).collect()
    }

    fn coarsen(&mut self, doublings: u8) {
        if doublings <= self.doublings {
            return;
        }
        let by = doublings - self.doublings;
        self.doublings = doublings;
        for (slice, _) in &mut self.entries {
            *slice >>= by;
        }
        self.merge();
    }

    fn merge(&mut self) {
        self.entries.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1 = earlier.1.saturating_add(later.1);
            }
            same
        });
    }

    /// Takes in what was counted of the same stack under other facts.
    pub fn append(&mut self, mut other: Self) {
        let doublings = self.doublings.max(other.doublings);
        self.coarsen(doublings);
        other.coarsen(doublings);
        if self.entries.is_empty() {
            self.entries = other.entries;
            return;
        }
        self.entries.append(&mut other.entries);
        self.entries.sort_by_key(|&(slice, _)| slice);
        self.merge();
    }
}

/// How often the slices of all of these must be doubled to be as long, and as long as this recording needs.
pub fn common<'a>(lists: impl Iterator<Item = &'a Slices>, elapsed_ns: u64) -> u8 {
    let latest = lists.map(|slices| slices.doublings).max();
    latest.unwrap_or(0).max(doublings(elapsed_ns))
}

/// How long slices are that were doubled so often, as a profile has it.
pub fn length_of(doublings: u8) -> i64 {
    i64::try_from(length_ns(doublings)).unwrap_or(i64::MAX)
}

/// What moments are counted from, and how much was counted in all lists.
#[derive(Debug)]
pub struct Clock {
    /// CLOCK_MONOTONIC.
    began_ns: u64,
    least: u8,
    entries: usize,
    room: usize,
}

impl Clock {
    pub fn new(began_ns: u64) -> Self {
        Self {
            began_ns,
            least: 0,
            entries: 0,
            room: MOST_ENTRIES,
        }
    }

    /// Counts one sample. What was taken before the beginning is of the first slice.
    pub fn count(&mut self, slices: &mut Slices, time_ns: u64) {
        let before = slices.entries.len();
        slices.add(time_ns.saturating_sub(self.began_ns), self.least, 1);
        self.entries = (self.entries + slices.entries.len()).saturating_sub(before);
    }

    /// Counts a length of time that stands for another, by microseconds. What was before the beginning does not count.
    pub fn spread(&mut self, slices: &mut Slices, from_ns: u64, to_ns: u64, stands_for_ns: u64) {
        let before = slices.entries.len();
        let from = from_ns.saturating_sub(self.began_ns);
        let to = to_ns.saturating_sub(self.began_ns).max(from);
        // The last moment that is in it.
        let doublings = doublings(to.saturating_sub(1)).max(self.least).max(slices.doublings);
        let length = length_ns(doublings);
        let factor = stands_for_ns as f64 / to.saturating_sub(from).max(1) as f64;
        let mut at = from;
        loop {
            let end = (at / length + 1).saturating_mul(length).min(to);
            let us = end.saturating_sub(at).max(1) as f64 * factor / 1e3;
            slices.add(at, doublings, (us as u32).max(1));
            if end >= to {
                break;
            }
            at = end;
        }
        self.entries = (self.entries + slices.entries.len()).saturating_sub(before);
    }

    /// Since when it counts (CLOCK_MONOTONIC).
    pub fn began_ns(&self) -> u64 {
        self.began_ns
    }

    /// Whether lists have outgrown their room, and are all to be brought to longer slices ([`Clock::shorten`]).
    pub fn is_full(&self) -> bool {
        self.entries > self.room
    }

    pub fn shorten<'a>(&mut self, lists: impl Iterator<Item = &'a mut Slices>) {
        self.least = self.least.max(doublings(self.elapsed_ns())) + 1;
        self.entries = 0;
        for slices in lists {
            slices.coarsen(self.least);
            slices.entries.shrink_to_fit();
            self.entries += slices.entries.len();
        }
        // Where there are more stacks than that, it is not tried again for each sample.
        self.room = MOST_ENTRIES.max(self.entries.saturating_mul(2));
    }

    pub fn elapsed_ns(&self) -> u64 {
        crate::cost::monotonic_ns().saturating_sub(self.began_ns)
    }
}

/// When what a ledger has counted was, by the place of its sample.
#[derive(Debug, Default)]
pub struct Times {
    of: Vec<Slices>,
    /// How long was counted.
    pub elapsed_ns: u64,
}

impl Times {
    pub fn append(&mut self, sample: usize, slices: Slices) {
        if slices.entries.is_empty() {
            return;
        }
        if self.of.len() <= sample {
            self.of.resize_with(sample + 1, Slices::default);
        }
        self.of[sample].append(slices);
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slices> {
        self.of.iter_mut()
    }

    /// How often slices must be doubled so that all are as long; none if nobody has counted.
    pub fn doublings(&self) -> Option<u8> {
        (!self.of.is_empty()).then(|| common(self.of.iter(), self.elapsed_ns))
    }

    /// What each sample has by slice.
    pub fn told(&self, doublings: u8) -> impl Iterator<Item = Vec<(u32, u32)>> {
        self.of.iter().map(move |slices| slices.told(doublings))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn told(times: &Times) -> Vec<Vec<(u32, u32)>> {
        times.told(times.doublings().unwrap()).collect()
    }

    #[test]
    fn slices_double_when_the_recording_outgrows_them() {
        assert_eq!(doublings(0), 0);
        assert_eq!(doublings(2 * SECOND - 1), 0);
        assert_eq!(doublings(2 * SECOND), 1);
        let mut clock = Clock::new(7 * SECOND);
        let mut slices = Slices::default();
        for time_ns in [7 * SECOND, 7 * SECOND + 9_999_999, 7 * SECOND + 10_000_000, 8 * SECOND] {
            clock.count(&mut slices, time_ns);
        }
        assert_eq!(slices.entries, [(0, 2), (1, 1), (100, 1)]);
        clock.count(&mut slices, 7 * SECOND + 2 * SECOND);
        // Of 20 ms each.
        assert_eq!(
            (slices.doublings, &*slices.entries),
            (1, &[(0, 3), (50, 1), (100, 1)][..])
        );
        assert_eq!(clock.entries, 3);
    }

    #[test]
    fn a_stack_that_was_met_early_has_the_slices_of_the_whole() {
        let mut clock = Clock::new(0);
        let [mut early, mut late] = [Slices::default(), Slices::default()];
        clock.count(&mut early, SECOND);
        clock.count(&mut late, 60 * SECOND);
        let mut times = Times::default();
        times.append(0, early);
        times.append(2, late);
        assert_eq!(times.doublings().map(length_of), Some(320_000_000));
        assert_eq!(told(&times), [vec![(3, 1)], vec![], vec![(187, 1)]]);
        // A program that has slept to the end.
        times.elapsed_ns = 120 * SECOND;
        assert_eq!(times.doublings().map(length_of), Some(640_000_000));
        assert_eq!(told(&times)[2], [(93, 1)]);
    }

    #[test]
    fn too_many_entries_make_slices_longer_and_lose_no_sample() {
        let mut clock = Clock::new(0);
        clock.room = 100;
        let mut lists = vec![Slices::default(); 60];
        let mut counted = 0;
        for time in 0..50 {
            for list in &mut lists {
                clock.count(list, time * SHORTEST_NS);
                counted += 1;
                if clock.entries > 200 {
                    break;
                }
            }
            if clock.is_full() {
                // As if the recording had just begun: elapsed time is that of this machine.
                clock.began_ns = crate::cost::monotonic_ns();
                clock.shorten(lists.iter_mut());
                clock.began_ns = 0;
                assert_eq!(
                    clock.entries,
                    lists.iter().map(|list| list.entries.len()).sum::<usize>()
                );
                clock.room = 100;
            }
        }
        let sum: u32 = lists
            .iter()
            .flat_map(|list| &list.entries)
            .map(|(_, amount)| amount)
            .sum();
        assert_eq!(sum, counted);
    }

    #[test]
    fn a_length_of_time_is_in_all_of_its_slices_and_what_it_stands_for_too() {
        let ms = 1_000_000;
        let mut clock = Clock::new(SECOND);
        let mut slices = Slices::default();
        clock.spread(&mut slices, SECOND + 5 * ms, SECOND + 35 * ms, 30 * ms);
        assert_eq!(slices.entries, [(0, 5_000), (1, 10_000), (2, 10_000), (3, 5_000)]);
        assert_eq!(clock.entries, 4);
        // A short one that stands for a millisecond, and one that has begun before us.
        clock.spread(&mut slices, SECOND + 2 * ms, SECOND + 2 * ms + 1_000, ms);
        assert_eq!(slices.entries[0], (0, 6_000));
        let mut slices = Slices::default();
        clock.spread(&mut slices, 0, SECOND + 20 * ms, 20 * ms);
        assert_eq!(slices.entries, [(0, 10_000), (1, 10_000)]);
        // As long as the slices that it begins in were: it is a minute.
        clock.spread(&mut slices, SECOND, 61 * SECOND, 60 * SECOND);
        assert_eq!((slices.doublings, slices.entries.len()), (5, 188));
    }

    proptest! {
        #[test]
        fn no_order_and_no_length_loses_a_sample(times in prop::collection::vec(0..200 * SECOND, 1..200), split in 0..200_usize) {
            let mut clock = Clock::new(0);
            let mut parts = [Slices::default(), Slices::default()];
            for (number, time_ns) in times.iter().enumerate() {
                clock.count(&mut parts[usize::from(number >= split)], *time_ns);
            }
            let mut ledger = Times::default();
            for part in parts {
                prop_assert!(part.entries.is_sorted_by(|one, other| one.0 < other.0));
                ledger.append(0, part);
            }
            let length_ns = length_ns(ledger.doublings().unwrap());
            let mut expected = std::collections::BTreeMap::<u32, u32>::new();
            for time_ns in &times {
                *expected.entry((time_ns / length_ns) as u32).or_default() += 1;
            }
            prop_assert_eq!(told(&ledger), vec![expected.into_iter().collect::<Vec<_>>()]);
            prop_assert!(times.iter().max().unwrap() / length_ns < MOST);
        }
    }
}
