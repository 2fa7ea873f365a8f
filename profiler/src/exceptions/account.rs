//! Exceptions by where they are raised, by type, and by where they are caught.
//!
//! What counts is what a Python frame has seen. C code also sets exceptions that it takes back itself: `int("x")` sets two, and
//! the first is gone before anybody can catch it. How far an exception went is told with the next one of its thread, so each is
//! counted until it turns out that no frame saw it.

use indexmap::IndexSet;
use profiler_common::{
    mark::{MARK_DRAWN_OF, MARK_NONE, MARK_TYPE_TEXT, MarkEvent},
    record::{PythonFrame, StackKey},
};
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::memory::event::SiteId;

/// What is counted together: a stack of a thread, and a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub site: SiteId,
    pub pid: u32,
    /// Index into [`Account::kinds`].
    kind: u32,
}

/// Where an exception was caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Catch {
    /// In the frame of this number, counted from the one that raised it.
    Frame(u16),
    /// That is not known.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// While all were told, those that a Python frame has seen, and those that were taken back before.
    pub count: u64,
    pub in_c: u64,
    /// In windows: how many, the squares of each window's, and their products with the program's own time in it.
    in_windows: u64,
    squares: f64,
    products: f64,
    pub caught: FxHashMap<Catch, u64>,
}

/// The last exception of a thread: what became of it is told with the next.
#[derive(Clone, Copy, Debug)]
struct Last {
    key: Key,
    stack: StackKey,
}

/// A window that has ended, in nanoseconds of CPU time that the program had for itself.
#[derive(Clone, Copy, Debug, Default)]
struct Windows {
    number: u64,
    own_ns: f64,
    squares_ns: f64,
}

#[derive(Debug, Default)]
pub struct Account {
    kinds: IndexSet<Box<str>, FxBuildHasher>,
    sums: FxHashMap<Key, Sums>,
    last: FxHashMap<u32, Last>,
    /// Since the window began.
    window: FxHashMap<Key, u64>,
    windows: Windows,
}

impl Account {
    pub fn kind(&self, key: &Key) -> &str {
        self.kinds
            .get_index(key.kind as usize)
            .map_or("[unknown type]", |kind| kind)
    }

    pub fn sums(&self) -> impl Iterator<Item = (&Key, &Sums)> {
        self.sums.iter()
    }

    /// All that were counted.
    pub fn counted(&self) -> u64 {
        self.sums.values().map(|sums| sums.count).sum()
    }

    /// Those that were taken back by C code before a Python frame saw them.
    pub fn in_c(&self) -> u64 {
        self.sums.values().map(|sums| sums.in_c).sum()
    }

    /// An exception is raised in a window, by any thread of this process. It stands for several.
    pub fn drawn(&mut self, pid: u32, site: SiteId, event: &MarkEvent) {
        let key = self.key(pid, site, event);
        self.sums.entry(key).or_default();
        *self.window.entry(key).or_default() += u64::from(MARK_DRAWN_OF);
    }

    /// An exception is raised by thread `tid`, while all are told. `frames`: those of a stack, as long as they are known.
    pub fn raised<'a>(
        &mut self,
        (pid, tid): (u32, u32),
        (site, stack): (SiteId, StackKey),
        event: &MarkEvent,
        frames: impl Fn(&StackKey) -> Option<&'a [PythonFrame]>,
    ) {
        if event.count != MARK_NONE {
            self.settle(tid, event.count.into(), event.value, &frames);
        }
        let key = self.key(pid, site, event);
        self.sums.entry(key).or_default().count += 1;
        self.last.insert(tid, Last { key, stack });
    }

    fn key(&mut self, pid: u32, site: SiteId, event: &MarkEvent) -> Key {
        let name = kind_name(event);
        let kind = match self.kinds.get_index_of(&*name) {
            Some(index) => index,
            None => self.kinds.insert_full(name.into()).0,
        };
        Key {
            site,
            pid,
            kind: kind as u32,
        }
    }

    /// The last exception of a thread was seen in so many frames, the last of which had this code object.
    pub fn settle<'a>(
        &mut self,
        tid: u32,
        frames_seen: u64,
        code: u64,
        frames: impl Fn(&StackKey) -> Option<&'a [PythonFrame]>,
    ) {
        let Some(last) = self.last.remove(&tid) else {
            return;
        };
        let Some(sums) = self.sums.get_mut(&last.key) else {
            return;
        };
        if frames_seen == 0 {
            sums.count = sums.count.saturating_sub(1);
            sums.in_c += 1;
            return;
        }
        let catch = frames(&last.stack).map_or(Catch::Unknown, |frames| catch(frames, frames_seen, code));
        *sums.caught.entry(catch).or_default() += 1;
    }

    /// A window is over in which the program had so much CPU time for itself.
    pub fn end_window(&mut self, own_ns: f64) {
        let windows = &mut self.windows;
        windows.number += 1;
        windows.own_ns += own_ns;
        windows.squares_ns += own_ns * own_ns;
        for (key, count) in self.window.drain() {
            if let Some(sums) = self.sums.get_mut(&key) {
                sums.in_windows += count;
                sums.squares += (count * count) as f64;
                sums.products += count as f64 * own_ns;
            }
        }
    }

    /// How many there were in all if the program had `unseen_ns` of CPU time for itself while not all were told; `None` if
    /// there are no windows to go by. `systematic`: by which part of them what a window saw can be wrong.
    pub fn estimate(&self, unseen_ns: f64, systematic: f64) -> Option<Estimate> {
        (self.windows.number >= FEWEST && self.windows.own_ns > 0.0).then_some(Estimate {
            windows: self.windows,
            unseen_ns,
            systematic,
        })
    }

    pub fn windows(&self) -> u64 {
        self.windows.number
    }
}

/// Fewer windows are no sample.
const FEWEST: u64 = 3;

/// What windows say of the rest: that it is as they were, for as much CPU time as the program had for itself.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    windows: Windows,
    unseen_ns: f64,
    /// By how much the program's own time can be wrong, as a part of it.
    systematic: f64,
}

impl Estimate {
    /// How many there were, and half the width of its 95 % interval.
    pub fn of(&self, sums: &Sums) -> (f64, f64) {
        let Windows {
            number,
            own_ns,
            squares_ns,
            ..
        } = self.windows;
        let rate = sums.in_windows as f64 / own_ns;
        // In windows it is not seen which of them C code takes back.
        let all = (sums.count + sums.in_c) as f64;
        let seen = if all > 0.0 { sums.count as f64 / all } else { 1.0 };
        let unseen = seen * rate * self.unseen_ns;
        let n = number as f64;
        // Of a ratio of sums (Cochran, Sampling Techniques, 6.4).
        let deviation = (sums.squares - 2.0 * rate * sums.products + rate * rate * squares_ns).max(0.0);
        let error = seen * self.unseen_ns / own_ns * (deviation * n / (n - 1.0)).sqrt() * student(number - 1);
        (sums.count as f64 + unseen, error + unseen * self.systematic)
    }
}

/// Student's t for so many degrees of freedom, within which 95 % are.
fn student(freedom: u64) -> f64 {
    const T: [f64; 10] = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23];
    let index = usize::try_from(freedom).unwrap_or(usize::MAX).saturating_sub(1);
    T.get(index).copied().unwrap_or(2.0)
}

/// In which of a stack's frames an exception ended that was seen in so many: in the last of them, if its code is there.
fn catch(frames: &[PythonFrame], seen: u64, code: u64) -> Catch {
    let expected = usize::try_from(seen - 1).unwrap_or(usize::MAX);
    let is_it = |index: usize| frames.get(index).is_some_and(|frame| frame.code == code);
    // Frames of Cython are noted, too, and are on no stack of CPython's.
    let found = match is_it(expected) {
        true => Some(expected),
        false => (0..frames.len().min(expected)).rev().find(|index| is_it(*index)),
    };
    found
        .and_then(|index| u16::try_from(index).ok())
        .map_or(Catch::Unknown, Catch::Frame)
}

fn kind_name(event: &MarkEvent) -> String {
    let bytes = &event.text[..MARK_TYPE_TEXT as usize];
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    match &bytes[..end] {
        [] => "[unknown type]".to_owned(),
        name => String::from_utf8_lossy(name).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, count: u32, value: u64) -> MarkEvent {
        let mut event = MarkEvent {
            count,
            value,
            ..MarkEvent::default()
        };
        event.text[..name.len()].copy_from_slice(name.as_bytes());
        event
    }

    fn frame(code: u64) -> PythonFrame {
        PythonFrame {
            code,
            ..PythonFrame::default()
        }
    }

    const STACK: StackKey = StackKey { hash: [1, 2] };

    fn caught(seen: u32, code: u64) -> FxHashMap<Catch, u64> {
        let frames = [frame(10), frame(20), frame(30), frame(20)];
        let mut account = Account::default();
        let known = |_: &StackKey| Some(&frames[..]);
        account.raised((1, 7), (3, STACK), &event("KeyError", MARK_NONE, 0), known);
        account.raised((1, 7), (4, STACK), &event("ValueError", seen, code), known);
        let first = account.sums.iter().find(|(key, _)| key.site == 3);
        first.map(|(_, sums)| sums.caught.clone()).unwrap_or_default()
    }

    #[test]
    fn an_exception_is_caught_in_the_last_frame_it_was_seen_in() {
        let one = |catch| FxHashMap::from_iter([(catch, 1)]);
        assert_eq!(caught(1, 10), one(Catch::Frame(0)));
        assert_eq!(caught(4, 20), one(Catch::Frame(3)));
        // A frame of Cython's was noted between.
        assert_eq!(caught(3, 20), one(Catch::Frame(1)));
        assert_eq!(caught(3, 99), one(Catch::Unknown));
        assert_eq!(caught(9, 10), one(Catch::Frame(0)));
    }

    #[test]
    fn what_no_python_frame_has_seen_is_not_counted() {
        let mut account = Account::default();
        let known = |_: &StackKey| None;
        account.raised((1, 7), (3, STACK), &event("ValueError", MARK_NONE, 0), known);
        account.raised((1, 7), (3, STACK), &event("ValueError", 0, 0), known);
        assert_eq!((account.counted(), account.in_c()), (1, 1));
        assert_eq!(account.kind(account.sums.keys().next().unwrap()), "ValueError");
    }

    /// Twenty windows of a millisecond, in each of which so many are drawn.
    fn windows(drawn: impl Fn(u64) -> u64) -> Account {
        let mut account = Account::default();
        for window in 0..20 {
            for _ in 0..drawn(window) {
                account.drawn(1, 3, &event("KeyError", MARK_NONE, 0));
            }
            account.end_window(1e6);
        }
        account
    }

    #[test]
    fn windows_that_are_alike_leave_little_doubt_of_the_rest() {
        let account = windows(|_| 100);
        let sums = account.sums.values().next().unwrap();
        let (count, error) = account.estimate(80e6, 0.0).unwrap().of(sums);
        assert!((count - 128_000.0).abs() < 1.0 && error < 1.0, "{count} ± {error}");
        let (_, error) = account.estimate(80e6, 0.1).unwrap().of(sums);
        assert!((error - 12_800.0).abs() < 1.0, "{error}");
    }

    #[test]
    fn windows_that_differ_leave_much() {
        let account = windows(|window| 200 * (window % 2));
        let sums = account.sums.values().next().unwrap();
        let (count, error) = account.estimate(80e6, 0.0).unwrap().of(sums);
        assert!((count - 128_000.0).abs() < 1.0, "{count}");
        // Twice the deviation of a mean of twenty that are 0 or 2.
        assert!((0.4..0.5).contains(&(error / count)), "{error}");
    }

    #[test]
    fn what_c_code_takes_back_is_taken_off_what_windows_saw() {
        let mut account = windows(|_| 100);
        let known = |_: &StackKey| None;
        for _ in 0..4 {
            account.raised((1, 7), (3, STACK), &event("KeyError", MARK_NONE, 0), known);
            account.settle(7, 0, 0, known);
            account.raised((1, 7), (3, STACK), &event("KeyError", MARK_NONE, 0), known);
            account.settle(7, 1, 0, known);
        }
        let (count, _) = account
            .estimate(80e6, 0.0)
            .unwrap()
            .of(account.sums.values().next().unwrap());
        assert!((count - 64_004.0).abs() < 1.0, "{count}");
    }

    #[test]
    fn two_windows_are_no_sample() {
        let mut account = Account::default();
        account.end_window(1e6);
        account.end_window(1e6);
        assert!(account.estimate(1e6, 0.0).is_none());
    }
}
