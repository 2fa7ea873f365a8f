//! Reports of exceptions: what was raised, where, and where it was caught.

pub mod export;
pub mod rows;
pub mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::{
    exceptions::handling::Looks,
    governor::SlowDown,
    profile::{FrameId, Profile, ValueType},
};

/// What a sample's only number is.
pub const EXCEPTIONS: ValueType = ValueType {
    kind: "exceptions",
    unit: "count",
};

/// Where an exception was caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caught {
    /// In this frame, at its line.
    Frame(FrameId),
    Unknown,
}

/// What is known of a sample of the profile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detail {
    /// The type's name, as the type has it.
    pub kind: String,
    /// Seen one by one.
    pub counted: u64,
    /// That there were, and half the width of its 95 % interval; 0 if all were seen.
    pub count: f64,
    pub error: f64,
    /// Where those were caught of which that was seen.
    pub caught: FxHashMap<Caught, u64>,
}

#[derive(Debug)]
pub struct ExceptionsReport {
    /// The innermost frame of each stack is the type.
    pub profile: Profile,
    /// For each sample of the profile, in its order.
    pub details: Vec<Detail>,
    pub length: Duration,
    /// In which exceptions were seen.
    pub observed: Duration,
    /// How many windows there were, if not all of the time was seen.
    pub windows: Option<u64>,
    /// The rest is estimated from windows.
    pub estimated: bool,
    /// Seen one by one.
    pub counted: u64,
    /// Of those, set by C code and taken back before a Python frame saw them: in no other number.
    pub in_c: u64,
    pub lost: u64,
    pub slow_down: SlowDown,
    pub handling: Looks,
}

impl ExceptionsReport {
    /// All of them, and how far off that can be at most.
    pub fn total(&self) -> (f64, f64) {
        self.details.iter().fold((0.0, 0.0), |(count, error), detail| {
            (count + detail.count, error + detail.error)
        })
    }

    /// Counts are those of some of the time, and there were no fewer: too little was seen to estimate the rest.
    pub fn is_at_least(&self) -> bool {
        self.lost > 0 || self.windows.is_some() && !self.estimated
    }

    pub fn per_second(&self, count: f64) -> f64 {
        count / self.length.as_secs_f64().max(1e-9)
    }
}
