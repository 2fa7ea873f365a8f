//! Reports of `profiler waits`: who waits, how long, for what, on which line.
//!
//! A [`WaitsReport`] is a [`Profile`] whose values are numbers of waits and their time ([`WAITS`]), and what a profile has
//! no room for: causes, errors, and how the time of each thread adds up. The innermost frame of each stack says what was
//! waited for. Flame graphs, folded text, speedscope and pprof are written from the profile by the writers of all profiles.
//!
//! | module | makes |
//! |---|---|
//! | [`rows`] | rows: which frame of a stack is responsible, and sums |
//! | [`table`] | the table as text; [`export`] as CSV and JSON |

use std::time::Duration;

use crate::{
    profile::{Profile, SampleKey, ValueType},
    waits::cause::{Cause, Target},
};

pub mod export;
pub mod rows;
pub mod table;

#[cfg(test)]
mod tests;

const COUNT: ValueType = ValueType {
    kind: "waits",
    unit: "count",
};
const TIME: ValueType = ValueType {
    kind: "wait",
    unit: "nanoseconds",
};

/// The sample types of a profile of waits.
pub const WAITS: [ValueType; 2] = [COUNT, TIME];
/// Index of the one to look at: width is time.
pub const VALUE: usize = 1;

#[derive(Debug)]
pub struct WaitsReport {
    pub profile: Profile,
    /// One per sample of `profile`, in its order.
    pub details: Vec<Detail>,
    /// Who had the GIL while others waited for it, by stack and thread.
    pub holders: Vec<(SampleKey, Holder)>,
    /// In order of process and number.
    pub threads: Vec<ThreadTime>,
    pub length: Duration,
}

/// What is known of one sample beyond its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Detail {
    pub cause: Cause,
    pub target: Target,
    /// The system call, where the cause does not say what is waited for.
    pub call: Option<&'static str>,
    pub longest_ns: u64,
    /// In ns²; 0 if the time is exact.
    pub variance: f64,
    /// Of the time, that of waits which had not ended.
    pub unended_ns: u64,
}

/// How long others waited for the GIL that a thread had. Where it was is seen from outside, while it may have run on: the
/// lines of its inner frames may be of a moment later or earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    pub ns: u64,
    pub count: u64,
    pub longest_ns: u64,
}

/// How the time of a thread adds up. What is said of it is exact, but for the kinds of descriptors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ThreadTime {
    pub pid: u32,
    pub tid: u32,
    /// What it is called: by its program, else by the kernel.
    pub name: String,
    /// What its process runs.
    pub command: String,
    /// That it existed in the recording.
    pub elapsed_ns: u64,
    pub on_cpu_ns: u64,
    /// By [`Cause::ALL`].
    pub waiting_ns: [u64; Cause::ALL.len()],
}

impl ThreadTime {
    pub fn waiting(&self) -> u64 {
        self.waiting_ns.iter().fold(0, |sum, ns| sum.saturating_add(*ns))
    }
}

impl WaitsReport {
    pub fn elapsed_ns(&self) -> u64 {
        self.threads
            .iter()
            .fold(0, |sum, thread| sum.saturating_add(thread.elapsed_ns))
    }

    pub fn on_cpu_ns(&self) -> u64 {
        self.threads
            .iter()
            .fold(0, |sum, thread| sum.saturating_add(thread.on_cpu_ns))
    }

    pub fn waiting_ns(&self) -> u64 {
        self.threads
            .iter()
            .fold(0, |sum, thread| sum.saturating_add(thread.waiting()))
    }

    /// Of each cause, by [`Cause::ALL`].
    pub fn by_cause(&self) -> [u64; Cause::ALL.len()] {
        let mut sums = [0u64; Cause::ALL.len()];
        for thread in &self.threads {
            for (sum, ns) in sums.iter_mut().zip(thread.waiting_ns) {
                *sum = sum.saturating_add(ns);
            }
        }
        sums
    }

    /// What part of the threads' time is accounted for; 1 of none.
    pub fn accounted(&self) -> f64 {
        match self.elapsed_ns() {
            0 => 1.0,
            elapsed => (self.on_cpu_ns() + self.waiting_ns()) as f64 / elapsed as f64,
        }
    }
}

/// Half the width of the interval that holds the true value with a probability of 95 %.
fn error(variance: f64) -> u64 {
    // NaN and negative numbers become 0.
    (1.96 * variance.max(0.0).sqrt()).round() as u64
}
