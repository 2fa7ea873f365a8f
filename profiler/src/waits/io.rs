//! Calls that move data, or make it safe (`--io`): exact sums by thread and file, and drawn calls with their stacks.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use profiler_common::wait::{
    IO_ACCEPT, IO_CONNECT, IO_READ, IO_RECEIVE, IO_SEND, IO_SYNC, IO_WRITE, IoEvent, IoKey, IoTotal, WaitEvent,
};
use rustc_hash::{FxBuildHasher, FxHashMap};
use serde::Serialize;

use super::{cause::Target, targets::Targets};
use crate::memory::event::SiteId;

/// Different calls that are told apart; of more, only thread and family are.
const MOST_KEYS: usize = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Read,
    Write,
    Send,
    Receive,
    Connect,
    Accept,
    Sync,
}

impl Family {
    pub fn of(number: u32) -> Option<Self> {
        Some(match number {
            IO_READ => Self::Read,
            IO_WRITE => Self::Write,
            IO_SEND => Self::Send,
            IO_RECEIVE => Self::Receive,
            IO_CONNECT => Self::Connect,
            IO_ACCEPT => Self::Accept,
            IO_SYNC => Self::Sync,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Connect => "connect",
            Self::Accept => "accept",
            Self::Sync => "sync",
        }
    }
}

/// How long calls took: so many of each length, by eight steps to an octave, which is within 6 % of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lengths(BTreeMap<u16, f64>);

impl Lengths {
    const STEPS: u32 = 3;

    pub fn add(&mut self, ns: u64, calls: f64) {
        *self.0.entry(Self::step(ns)).or_default() += calls;
    }

    pub fn merge(&mut self, other: &Self, factor: f64) {
        for (&step, calls) in &other.0 {
            *self.0.entry(step).or_default() += calls * factor;
        }
    }

    fn step(ns: u64) -> u16 {
        let ns = ns.max(1 << Self::STEPS);
        let octave = ns.ilog2();
        (octave << Self::STEPS | (ns >> (octave - Self::STEPS)) as u32 & 7) as u16
    }

    /// The middle of a step.
    fn middle(step: u16) -> u64 {
        let (octave, part) = (u32::from(step >> Self::STEPS), u64::from(step & 7));
        let width = 1u64 << octave.saturating_sub(Self::STEPS);
        (1u64 << octave) + part * width + width / 2
    }

    /// The length that this part of the calls does not exceed.
    pub fn quantile(&self, part: f64) -> u64 {
        let all: f64 = self.0.values().sum();
        let mut sum = 0.0;
        for (&step, calls) in &self.0 {
            sum += calls;
            if sum >= part * all {
                return Self::middle(step);
            }
        }
        0
    }

    /// Calls by the logarithm to the base of two of their length in nanoseconds, rounded down.
    pub fn by_octave(&self) -> BTreeMap<u16, u64> {
        let mut octaves: BTreeMap<u16, f64> = BTreeMap::new();
        for (&step, calls) in &self.0 {
            *octaves.entry(step >> Self::STEPS).or_default() += calls;
        }
        let rounded = octaves
            .into_iter()
            .map(|(octave, calls)| (octave, calls.round() as u64));
        rounded.filter(|(_, calls)| *calls > 0).collect()
    }
}

/// What some calls come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    pub calls: f64,
    pub errors: f64,
    pub bytes: f64,
    pub ns: f64,
    pub longest_ns: u64,
    pub lengths: Lengths,
}

/// A number of calls that is known by a draw: about so many, with an error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    pub calls: f64,
    pub variance: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Scatter {
    bytes: f64,
    ns: f64,
}

/// Drawn calls of one line: those that were certain to be drawn, and what those stand for that were not.
#[derive(Clone, Debug, Default, PartialEq)]
struct Drawn {
    certain: Sums,
    by_chance: Sums,
    /// Of those by chance: how much they scatter, as sums of squares.
    scatter: Scatter,
    draws: u32,
    variance: f64,
}

/// Of a file of which fewer were drawn by chance, it is not told apart from others of its thread and family how many calls
/// there were: each socket that is connected once is a file of its own. With 20, the line that had written 2,000 bytes in
/// 2,000 calls had the 1,300 of another pipe as well whenever fewer of its calls were drawn.
const LEAST_DRAWS: u32 = 5;

/// What a line can have of a group of calls though none of its own was drawn, as a standard deviation, in what a draw stands
/// for: none of n draws is of a line that has 3 / n of the calls in one recording of twenty, and errors are told as two
/// standard deviations.
const UNSEEN_DRAWS: f64 = 1.5;

/// What is told of calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    pub lines: Vec<(DrawnKey, Line)>,
    /// None of these was drawn.
    pub rest: Vec<(IoKey, IoTotal)>,
    /// Calls that lines share, of which so many were drawn by chance, and how many there were.
    pub shared: FxHashMap<IoKey, (Estimate, f64)>,
}

/// What one line has of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    pub sums: Sums,
    /// Under which key of [`Told::shared`] it was drawn by chance, and how often.
    pub of: IoKey,
    pub drawn: Estimate,
}

impl Told {
    /// The variance of how many calls some lines have together. What one of them has, no other has: it is their part of what
    /// there was that is not known exactly. A line of which nothing was drawn has a part as well, perhaps.
    pub fn variance(&self, parts: &FxHashMap<IoKey, Estimate>) -> f64 {
        let of = |(key, part): (&IoKey, &Estimate)| {
            let Some((all, there)) = self.shared.get(key).filter(|(all, _)| all.calls > 0.0) else {
                return 0.0;
            };
            let share = part.calls / all.calls;
            let others = (all.variance - part.variance).max(0.0);
            let of_share = (1.0 - share).powi(2) * part.variance + share.powi(2) * others;
            // As many draws of one weight as are worth these.
            let draws_in_one = all.variance / all.calls.powi(2);
            let unseen = share * UNSEEN_DRAWS * draws_in_one;
            (of_share / all.calls.powi(2) + unseen.powi(2)) * there.powi(2)
        };
        parts.iter().map(of).sum()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DrawnKey {
    pub of: IoKey,
    pub site: SiteId,
    /// Index of the target; 0 is none.
    pub target: u32,
}

#[derive(Debug, Default)]
pub struct IoAccount {
    drawn: IndexMap<DrawnKey, Drawn, FxBuildHasher>,
    targets: Targets,
    pub received: u64,
    forgotten: u64,
}

impl IoAccount {
    pub fn take(&mut self, site: SiteId, event: &IoEvent) {
        self.received += 1;
        let as_wait = WaitEvent {
            descriptor: event.descriptor,
            name: event.name,
            ..WaitEvent::default()
        };
        let mut key = DrawnKey {
            of: event.key,
            site,
            target: self.targets.number(event.key.pid, &as_wait),
        };
        if self.drawn.len() >= MOST_KEYS && !self.drawn.contains_key(&key) {
            self.forgotten += 1;
            key.site = crate::recording::NO_SITE;
            key.target = 0;
        }
        self.drawn.entry(key).or_default().add(event);
    }

    /// What calls come to: the drawn ones, of which those that were drawn by chance are brought to the exact sums of their
    /// thread and file, and the rest.
    pub fn told(&self, totals: &[(IoKey, IoTotal)]) -> Told {
        let mut files: FxHashMap<IoKey, Drawn> = FxHashMap::default();
        for (key, drawn) in &self.drawn {
            files.entry(key.of).or_default().put(drawn);
        }
        let shared_by = |key: &IoKey| match files.get(key) {
            Some(file) if file.draws >= LEAST_DRAWS => *key,
            _ => IoKey {
                number: 0,
                inode: 0,
                device: 0,
                ..*key
            },
        };
        // What was not certain to be drawn: how much of it there was, and what the drawn ones stand for.
        let mut shared: FxHashMap<IoKey, (Sums, Drawn)> = FxHashMap::default();
        for (key, total) in totals {
            let certain = files.get(key).map(|file| file.certain.clone()).unwrap_or_default();
            let (left, _) = shared.entry(shared_by(key)).or_default();
            left.calls += (total.calls as f64 - certain.calls).max(0.0);
            left.errors += (total.errors as f64 - certain.errors).max(0.0);
            left.bytes += (total.bytes as f64 - certain.bytes).max(0.0);
            left.ns += (total.ns as f64 - certain.ns).max(0.0);
            left.longest_ns = left.longest_ns.max(total.longest_ns);
        }
        for (key, file) in &files {
            shared.entry(shared_by(key)).or_default().1.put(file);
        }
        let mut told = Told::default();
        for (key, drawn) in &self.drawn {
            let of = shared_by(&key.of);
            let mut sums = drawn.certain.clone();
            if let Some((left, all)) = shared.get(&of) {
                sums.put(&drawn.part_of(left, all));
            }
            let drawn = Estimate {
                calls: drawn.by_chance.calls,
                variance: drawn.variance,
            };
            told.lines.push((*key, Line { sums, of, drawn }));
        }
        for (key, (left, all)) in shared {
            let drawn = Estimate {
                calls: all.by_chance.calls,
                variance: all.variance,
            };
            if drawn.calls == 0.0 && left.calls > 0.0 {
                let total = IoTotal {
                    calls: left.calls as u64,
                    errors: left.errors as u64,
                    bytes: left.bytes as u64,
                    ns: left.ns as u64,
                    longest_ns: left.longest_ns,
                };
                told.rest.push((key, total));
            }
            told.shared.insert(key, (drawn, left.calls));
        }
        // In order, so that equal recordings give equal reports.
        told.lines.sort_by_key(|(key, _)| *key);
        told.rest.sort_by_key(|(key, _)| *key);
        told
    }

    /// Calls whose line, or file, is not told.
    pub fn forgotten(&self) -> u64 {
        self.forgotten + self.targets.forgotten
    }

    pub fn target_of(&self, key: &DrawnKey) -> &Target {
        self.targets.get(key.of.pid, key.target)
    }
}

impl Sums {
    /// Puts what others stand for to it.
    pub fn put(&mut self, other: &Self) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.bytes += other.bytes;
        self.ns += other.ns;
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        self.lengths.merge(&other.lengths, 1.0);
    }

    /// The length that this part of the calls does not exceed; 0 if it is not known of any how long it took.
    pub fn quantile(&self, part: f64) -> u64 {
        self.lengths.quantile(part).min(self.longest_ns)
    }

    fn add(&mut self, event: &IoEvent, stands_for: f64) {
        let moved = match Family::of(event.key.family) {
            Some(Family::Read | Family::Write | Family::Send | Family::Receive) => event.result.max(0) as f64,
            _ => 0.0,
        };
        self.calls += stands_for;
        self.errors += if event.result < 0 { stands_for } else { 0.0 };
        self.bytes += moved * stands_for;
        self.ns += event.length_ns as f64 * stands_for;
        self.longest_ns = self.longest_ns.max(event.length_ns);
        self.lengths.add(event.length_ns, stands_for);
    }
}

impl Drawn {
    /// What was drawn by chance at one line, as its part of what there was: `left`, of which `all` were drawn.
    ///
    /// Calls are brought to what there was, and bytes and times with them. What is missing then to the sums of those, or too
    /// much, is laid to each line by how much its calls scatter: a line that sends 2 bytes each time has none of it, though
    /// one that sends 100,000 shares its socket. Brought to the sum by one factor, it had 6,542 bytes instead of 6,000.
    fn part_of(&self, left: &Sums, all: &Self) -> Sums {
        let part = |left: f64, all: f64| if all > 0.0 { left / all } else { 0.0 };
        let (own, drawn) = (&self.by_chance, &all.by_chance);
        let calls = part(left.calls, drawn.calls);
        let with_calls = |own: f64, left: f64, drawn: f64, scatter: f64, of_all: f64| match of_all > 0.0 {
            true => (own * calls + (left - drawn * calls) * scatter / of_all).max(0.0),
            false => own * part(left, drawn),
        };
        let mut lengths = Lengths::default();
        lengths.merge(&own.lengths, calls);
        Sums {
            calls: own.calls * calls,
            errors: own.errors * part(left.errors, drawn.errors),
            bytes: with_calls(
                own.bytes,
                left.bytes,
                drawn.bytes,
                self.scatter.bytes,
                all.scatter.bytes,
            ),
            ns: with_calls(own.ns, left.ns, drawn.ns, self.scatter.ns, all.scatter.ns),
            longest_ns: own.longest_ns,
            lengths,
        }
    }

    fn add(&mut self, event: &IoEvent) {
        if event.size >= event.target {
            self.certain.add(event, 1.0);
            return;
        }
        let stands_for = event.target as f64 / event.size.max(1) as f64;
        let before = (self.by_chance.bytes, self.by_chance.ns);
        self.by_chance.add(event, stands_for);
        self.draws += 1;
        let missed = 1.0 - 1.0 / stands_for;
        self.variance += stands_for * stands_for * missed;
        self.scatter.bytes += (self.by_chance.bytes - before.0).powi(2) * missed;
        self.scatter.ns += (self.by_chance.ns - before.1).powi(2) * missed;
    }

    fn put(&mut self, other: &Self) {
        self.certain.put(&other.certain);
        self.by_chance.put(&other.by_chance);
        self.draws += other.draws;
        self.variance += other.variance;
        self.scatter.bytes += other.scatter.bytes;
        self.scatter.ns += other.scatter.ns;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(number: u32, length_ns: u64, result: i64, size: u64, target: u64) -> IoEvent {
        IoEvent {
            key: IoKey {
                pid: 1,
                tid: 2,
                family: IO_RECEIVE,
                number,
                ..IoKey::default()
            },
            length_ns,
            result,
            size,
            target,
            ..IoEvent::default()
        }
    }

    #[test]
    fn lines_share_what_there_was_by_what_was_drawn_of_each() {
        let mut account = IoAccount::default();
        // One of four and one of two that were drawn by chance, and one that was certain to be.
        for _ in 0..20 {
            account.take(7, &event(3, 100, 10, 25, 100));
            account.take(8, &event(3, 100, 40, 50, 100));
        }
        account.take(8, &event(3, 1_000, 400, 1_000, 100));
        let total = IoTotal {
            calls: 241,
            errors: 0,
            bytes: 5_200,
            ns: 25_000,
            longest_ns: 1_000,
        };
        let of = event(3, 0, 0, 1, 1).key;
        let told = account.told(&[(of, total)]);
        let [(first, one), (_, two)] = &told.lines[..] else {
            panic!("two lines")
        };
        assert_eq!((first.site, one.sums.calls, two.sums.calls), (7, 160.0, 1.0 + 80.0));
        assert_eq!((one.sums.bytes, two.sums.bytes), (1_600.0, 400.0 + 3_200.0));
        assert_eq!((one.sums.ns, two.sums.ns), (16_000.0, 1_000.0 + 8_000.0));
        assert!(told.rest.is_empty());
        // Of one, it is not known what part it has; of both together, all is.
        let mut parts = FxHashMap::from_iter([(one.of, one.drawn)]);
        assert!(told.variance(&parts) > 0.0);
        let both = Estimate {
            calls: one.drawn.calls + two.drawn.calls,
            variance: one.drawn.variance + two.drawn.variance,
        };
        let of_one = told.variance(&parts);
        parts.insert(one.of, both);
        // All but that a line may have some of which nothing was drawn: 3 in 36 draws' worth at most.
        let error = 2.0 * told.variance(&parts).sqrt();
        assert!(error < 240.0 * 3.0 / 30.0 && told.variance(&parts) < of_one, "{error}");
    }

    #[test]
    fn a_file_with_many_calls_has_no_part_of_what_another_one_moved() {
        let mut account = IoAccount::default();
        // 2,000 calls of a byte, one in 200 of which was drawn, and two of 1,300 bytes of another file, of which none was.
        for _ in 0..10 {
            account.take(7, &event(3, 100, 1, 1, 200));
        }
        let totals = [(3, 2_000, 2_000), (4, 2, 1_300)].map(|(number, calls, bytes)| {
            let total = IoTotal {
                calls,
                errors: 0,
                bytes,
                ns: 100 * calls,
                longest_ns: 100,
            };
            (event(number, 0, 0, 1, 1).key, total)
        });
        let told = account.told(&totals);
        let [(_, line)] = &told.lines[..] else {
            panic!("one line")
        };
        assert_eq!((line.sums.calls, line.sums.bytes), (2_000.0, 2_000.0));
        assert_eq!(
            (told.rest.len(), told.rest[0].1.calls, told.rest[0].1.bytes),
            (1, 2, 1_300)
        );
    }

    #[test]
    fn an_error_covers_a_line_of_which_nothing_was_drawn() {
        let mut account = IoAccount::default();
        // Of a socket to which two lines send, ten calls were drawn, all of the one that makes nine of ten calls: that happens
        // in a third of recordings.
        for _ in 0..10 {
            account.take(7, &event(3, 100, 1, 1, 100));
        }
        let total = IoTotal {
            calls: 1_000,
            errors: 0,
            bytes: 1_000,
            ns: 100_000,
            longest_ns: 100,
        };
        let told = account.told(&[(event(3, 0, 0, 1, 1).key, total)]);
        let [(_, line)] = &told.lines[..] else {
            panic!("one line")
        };
        let parts = FxHashMap::from_iter([(line.of, line.drawn)]);
        let error = 1.96 * told.variance(&parts).sqrt();
        assert!(line.sums.calls - 900.0 <= error, "{} ± {error}", line.sums.calls);
        assert!(error < 350.0, "{error}");
    }

    #[test]
    fn what_is_missing_to_the_bytes_of_a_file_is_laid_to_the_line_whose_calls_scatter() {
        let mut account = IoAccount::default();
        for _ in 0..100 {
            account.take(7, &event(3, 100, 2, 25, 100));
        }
        // 100 of 100,000 bytes each were sent, of which 25 were to be drawn; by chance they were 30.
        for _ in 0..30 {
            account.take(8, &event(3, 100, 100_000, 25, 100));
        }
        let total = IoTotal {
            calls: 500,
            errors: 0,
            bytes: 10_000_800,
            ns: 50_000,
            longest_ns: 100,
        };
        let told = account.told(&[(event(3, 0, 0, 1, 1).key, total)]);
        let bytes = |at: usize| told.lines[at].1.sums.bytes;
        let calls = |at: usize| told.lines[at].1.sums.calls;
        assert!((calls(0) + calls(1) - 500.0).abs() < 1e-6);
        assert!((bytes(0) - 2.0 * calls(0)).abs() < 0.01, "{}", bytes(0));
        assert!((bytes(0) + bytes(1) - 10_000_800.0).abs() < 0.01, "{}", bytes(1));
    }

    #[test]
    fn files_of_which_hardly_any_call_was_drawn_are_told_together() {
        let mut account = IoAccount::default();
        // Thirty sockets with a call each, of which one in four was drawn.
        for number in 0..7 {
            account.take(7, &event(number, 100, 10, 25, 100));
        }
        let total = IoTotal {
            calls: 1,
            errors: 0,
            bytes: 10,
            ns: 100,
            longest_ns: 100,
        };
        let totals: Vec<_> = (0..30).map(|number| (event(number, 0, 0, 1, 1).key, total)).collect();
        let told = account.told(&totals);
        let calls: f64 = told.lines.iter().map(|(_, line)| line.sums.calls).sum();
        assert!((calls - 30.0).abs() < 1e-9 && told.rest.is_empty(), "{told:?}");
        // Nothing was drawn of another thread.
        let other = IoKey {
            tid: 9,
            ..event(3, 0, 0, 1, 1).key
        };
        let told = account.told(&[(other, total)]);
        assert_eq!((told.rest.len(), told.rest[0].1.calls), (1, 1));
    }

    #[test]
    fn quantiles_are_within_a_sixteenth() {
        let mut lengths = Lengths::default();
        for ns in 1..=1_000u64 {
            lengths.add(1_000 * ns, 1.0);
        }
        for (part, expected) in [(0.5, 500_000.0), (0.95, 950_000.0), (0.99, 990_000.0)] {
            let found = lengths.quantile(part) as f64;
            assert!((found / expected - 1.0).abs() < 0.07, "{part}: {found}");
        }
        assert_eq!(lengths.by_octave().values().sum::<u64>(), 1_000);
        assert_eq!(Lengths::default().quantile(0.5), 0);
    }

    proptest! {
        #[test]
        fn a_length_is_near_the_middle_of_its_step(ns in 8u64..1 << 60) {
            let middle = Lengths::middle(Lengths::step(ns)) as f64;
            prop_assert!((middle / ns as f64 - 1.0).abs() <= 1.0 / 15.0, "{ns}: {middle}");
        }
    }
}
