//! What one refresh shows: plain values, that a screen, a text or JSON is made of.

use std::{sync::Arc, time::Duration};

use crate::waits::cause::Cause;

/// All that is known of a moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// That the exact numbers are of: the time since the last refresh.
    pub length: Duration,
    pub host: Host,
    pub cost: Cost,
    /// What is measured with, as it is told.
    pub instruments: Vec<String>,
    /// What is missing or not to be believed, for people.
    pub notes: Vec<String>,
    pub processes: Vec<Process>,
    /// Of the last few refreshes, the newest last: what lines, pictures and shares are made of.
    pub windows: Vec<Arc<Samples>>,
    /// Nanoseconds of CPU time that a sample stands for.
    pub period_ns: u64,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    pub cpus: usize,
    /// Of all CPUs together, in percent of one. `None` until it was looked at twice.
    pub cpu_percent: Option<f64>,
    pub memory_used: u64,
    pub memory_total: u64,
    /// Shares of the last ten seconds, in percent, in which something waited for a CPU, memory, I/O (PSI).
    pub pressure: Option<[f64; 3]>,
}

/// What looking costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Of this program, in percent of a CPU.
    pub user_percent: f64,
    /// Of our programs in the kernel, as they measured themselves.
    pub kernel_percent: f64,
    pub resident: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    pub pid: u32,
    /// What tells it apart, in a few words.
    pub name: String,
    /// The container or unit that it is in; empty if there is none.
    pub place: String,
    pub user: String,
    /// Why there is nothing to see of its Python.
    pub refused: Option<String>,
    /// In percent of a CPU, exact.
    pub cpu_percent: f64,
    /// Where the CPU time is, by samples.
    pub split: Split,
    /// Percent of the time in which somebody had the GIL, by looks from outside, and by how much that may be off (95 %).
    pub gil_held: Option<(f64, f64)>,
    /// Waiting for the GIL, of all threads together, in percent of the time; exact. `None` where it is not known.
    pub gil_waited: Option<f64>,
    /// How the time of its threads adds up; exact but for kinds of descriptors.
    pub time: ThreadTime,
    pub resident: u64,
    /// Bytes a minute, over how long.
    pub growth: Option<(f64, Duration)>,
    pub threads: u64,
    pub descriptors: Option<u64>,
    /// Times that its threads left a CPU, a second.
    pub switches: Option<f64>,
    /// The line with most of its CPU time; if it had none, of its waits.
    pub line: Option<Line>,
    pub rows: Vec<Thread>,
}

/// Samples by what they met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// In the interpreter.
    pub python: u64,
    /// In other machine code.
    pub native: u64,
    pub kernel: u64,
    /// Where the stack does not say.
    pub unknown: u64,
    /// Of all these, in the garbage collector; `None` if the interpreter's functions have no names.
    pub collector: Option<u64>,
}

impl Split {
    pub fn samples(&self) -> u64 {
        self.python + self.native + self.kernel + self.unknown
    }

    pub fn add(&mut self, other: &Self) {
        self.python += other.python;
        self.native += other.native;
        self.kernel += other.kernel;
        self.unknown += other.unknown;
        self.collector = match (self.collector, other.collector) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
    }

    /// A part of `percent` in percent, and by how much that may be off (95 %); `None` without a sample.
    pub fn part(&self, samples: u64, percent: f64) -> Option<(f64, f64)> {
        let (share, error) = share(samples, self.samples())?;
        Some((share * percent, error * percent))
    }
}

/// `some` of `all`, and the half-width of a 95 % interval (Agresti and Coull's).
pub fn share(some: u64, all: u64) -> Option<(f64, f64)> {
    share_of(some as f64, all as f64)
}

/// The same of numbers that need not be whole.
fn share_of(some: f64, all: f64) -> Option<(f64, f64)> {
    if all <= 0.0 {
        return None;
    }
    let share = some / all;
    let (n, p) = (all + 4.0, (some + 2.0) / (all + 4.0));
    let half = 1.96 * (p * (1.0 - p) / n).sqrt();
    // The interval is around `p`, which is told as around the share.
    Some((share, half + (p - share).abs()))
}

/// Looks at something that is so or not. Each counts as many as it was drawn from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Looks {
    yes: f64,
    all: f64,
    squares: f64,
}

impl Looks {
    pub fn add(&mut self, yes: bool, counts_as: f64) {
        self.all += counts_as;
        self.squares += counts_as * counts_as;
        self.yes += if yes { counts_as } else { 0.0 };
    }

    pub fn join(&mut self, other: &Self) {
        self.all += other.all;
        self.squares += other.squares;
        self.yes += other.yes;
    }

    /// The part that was so, and the half-width of a 95 % interval: by as many looks that count alike as say as much (Kish's
    /// effective size of a sample).
    pub fn share(&self) -> Option<(f64, f64)> {
        if self.all <= 0.0 {
            return None;
        }
        let size = self.all * self.all / self.squares;
        share_of(self.yes / self.all * size, size)
    }
}

/// How the time of threads adds up, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadTime {
    pub elapsed: u64,
    pub on_cpu: u64,
    /// By [`Cause::ALL`].
    pub waiting: [u64; Cause::ALL.len()],
}

impl ThreadTime {
    pub fn add(&mut self, other: &Self) {
        self.elapsed += other.elapsed;
        self.on_cpu += other.on_cpu;
        for (sum, ns) in self.waiting.iter_mut().zip(other.waiting) {
            *sum += ns;
        }
    }

    /// Most of what it waits for.
    pub fn most(&self) -> Option<(Cause, u64)> {
        let all = Cause::ALL.into_iter().zip(self.waiting);
        all.max_by_key(|(_, ns)| *ns).filter(|(_, ns)| *ns > 0)
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thread {
    pub tid: u32,
    pub name: String,
    pub time: ThreadTime,
    pub line: Option<Line>,
}

/// A line of code, and why it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub text: String,
    /// What is waited for there; `None`: it computes.
    pub cause: Option<Cause>,
    /// Its share of what it is the most of.
    pub share: f64,
}

/// Stacks of one refresh.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    pub length: Duration,
    pub samples: Vec<Sample>,
    pub splits: Vec<(u32, Split)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub text: Arc<str>,
    /// Not Python: machine code, or a mark.
    pub native: bool,
}

#[derive(Clone, Debug)]
pub struct Sample {
    pub pid: u32,
    pub tid: u32,
    /// Root first.
    pub stack: Arc<[Frame]>,
    /// Which of its frames is responsible, for people: a line of the program's own.
    pub line: Arc<str>,
    /// Of CPU time, or of waits.
    pub cpu_ns: u64,
    pub wait_ns: u64,
    pub cause: Option<Cause>,
}

impl Sample {
    /// The frames that are shown, root first: those of Python, if there are any, or `native` ones as well.
    pub fn frames(&self, native: bool) -> impl DoubleEndedIterator<Item = &Arc<str>> {
        let all = native || self.stack.iter().all(|frame| frame.native);
        let shown = self.stack.iter().filter(move |frame| all || !frame.native);
        shown.map(|frame| &frame.text)
    }
}

impl Snapshot {
    /// The process of that number.
    pub fn process(&self, pid: u32) -> Option<&Process> {
        self.processes.iter().find(|process| process.pid == pid)
    }

    /// Stacks of the last few refreshes.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.windows.iter().flat_map(|window| &window.samples)
    }

    /// How long those are together.
    pub fn span(&self) -> Duration {
        self.windows.iter().map(|window| window.length).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_count_as_several_say_no_more_than_they_are() {
        let looks = |times: u32, yes: u32, counts_as: f64| {
            let mut looks = Looks::default();
            (0..times).for_each(|at| looks.add(at < yes, counts_as));
            looks
        };
        assert_eq!(looks(0, 0, 1.0).share(), None);
        assert_eq!(looks(100, 30, 1.0).share(), share(30, 100));
        let (of_few, of_as_many) = (looks(40, 12, 2.5).share().unwrap(), share(12, 40).unwrap());
        assert!((of_few.0 - of_as_many.0).abs() < 1e-9 && (of_few.1 - of_as_many.1).abs() < 1e-9);
        // Half of the time it was looked at each time and busy, half of it seldom and not.
        let mut both = looks(50, 50, 1.0);
        both.join(&looks(20, 0, 2.5));
        let (share_of_both, error) = both.share().unwrap();
        assert!((share_of_both - 0.5).abs() < 1e-9, "{share_of_both}");
        assert!(error > share(50, 100).unwrap().1 && error < 0.15, "{error}");
        // What the screen shows without a mark.
        assert!(looks(40, 0, 2.5).share().unwrap().1 < 0.12);
    }
}
