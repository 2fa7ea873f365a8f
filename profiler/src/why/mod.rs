//! `profiler why`: what several instruments measured in one session, as ranked findings.
//!
//! ```text
//! contents ──▶ gather ──▶ Evidence ──▶ findings ──▶ Vec<Finding> ──▶ report::why, and Profile::findings
//! surroundings ──┘
//! ```
//!
//! [`Evidence`] is plain values, and [`findings::all`] a pure function of them, so each finding is tested on evidence that
//! has it and on evidence that looks like it. A finding is made from what was measured, or not at all.
//!
//! **What shares are of.** A thread is *at work* while it runs, or waits for something that keeps it from work it has: the
//! GIL, a lock, a peer's answer, a disk, a page, a CPU. It is not while it waits for work, for its own threads or children,
//! or for time to pass. A share is a part of the time that the process's threads were at work, all together, or of the time
//! it was looked at, if that is longer: so forty idle threads of a pool dilute nothing, and what a process does that mostly
//! idles is never much. What threads wait for a CPU is taken off that first, and told by itself.

pub mod evidence;
pub mod findings;
pub mod gather;
pub mod options;
pub mod source;
pub mod stacks;
pub mod surroundings;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    evidence::Evidence,
    options::{WhyConfig, WhyFormat},
};
use crate::{config::ConfigError, report::waits::rows::Place};

/// What is found is one of these. The names are documented (docs/why.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Stuck,
    GilHeldBlocked,
    Gil,
    BlockedLoop,
    StarvedLoop,
    Lock,
    NPlusOne,
    SlowPeer,
    Disk,
    Faults,
    Throttled,
    Oversubscribed,
    RunQueue,
    Growth,
    Churn,
    Gc,
    Imports,
    Exceptions,
    Serialization,
    Cpu,
    Idle,
}

impl Kind {
    pub const ALL: [Self; 21] = [
        Self::Stuck,
        Self::GilHeldBlocked,
        Self::Gil,
        Self::BlockedLoop,
        Self::StarvedLoop,
        Self::Lock,
        Self::NPlusOne,
        Self::SlowPeer,
        Self::Disk,
        Self::Faults,
        Self::Throttled,
        Self::Oversubscribed,
        Self::RunQueue,
        Self::Growth,
        Self::Churn,
        Self::Gc,
        Self::Imports,
        Self::Exceptions,
        Self::Serialization,
        Self::Cpu,
        Self::Idle,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Stuck => "stuck",
            Self::GilHeldBlocked => "gil-held-blocked",
            Self::Gil => "gil",
            Self::BlockedLoop => "blocked-loop",
            Self::StarvedLoop => "starved-loop",
            Self::Lock => "lock",
            Self::NPlusOne => "n-plus-one",
            Self::SlowPeer => "slow-peer",
            Self::Disk => "disk",
            Self::Faults => "faults",
            Self::Throttled => "throttled",
            Self::Oversubscribed => "oversubscribed",
            Self::RunQueue => "run-queue",
            Self::Growth => "growth",
            Self::Churn => "churn",
            Self::Gc => "gc",
            Self::Imports => "imports",
            Self::Exceptions => "exceptions",
            Self::Serialization => "serialization",
            Self::Cpu => "cpu",
            Self::Idle => "idle",
        }
    }
}

/// Lower is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Critical,
    High,
    Medium,
    Low,
    /// Nothing is wrong
    Info,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
            Self::Info => "info",
        }
    }

    /// No worse than this.
    pub fn at_most(self, other: Self) -> Self {
        self.max(other)
    }
}

/// Above which shares a finding is of which severity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    pub critical: f64,
    pub high: f64,
    pub medium: f64,
    pub low: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            critical: 0.5,
            high: 0.2,
            medium: 0.1,
            low: 0.05,
        }
    }
}

impl Thresholds {
    /// From the highest to the lowest.
    fn new(typed: &[f64]) -> Result<Self, ConfigError> {
        match *typed {
            [critical, high, medium, low] if critical >= high && high >= medium && medium >= low => Ok(Self {
                critical,
                high,
                medium,
                low,
            }),
            _ => Err(ConfigError::ThresholdsOutOfOrder),
        }
    }

    /// `None` of what is too little to be told.
    pub fn severity(&self, share: f64) -> Option<Severity> {
        [
            (self.critical, Severity::Critical),
            (self.high, Severity::High),
            (self.medium, Severity::Medium),
            (self.low, Severity::Low),
        ]
        .into_iter()
        .find(|(from, _)| share > *from)
        .map(|(_, severity)| severity)
    }
}

/// A number or a word that a finding rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fact {
    Number(f64),
    Text(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub kind: Kind,
    pub severity: Severity,
    /// Of the time at work, or of what the process grew by.
    pub share: f64,
    /// Of the share: half the width of the interval that holds the true one 19 times out of 20.
    pub error: f64,
    pub place: Option<Place>,
    pub pid: u32,
    pub command: String,
    /// Equal workers in which the same was found.
    pub also: Vec<u32>,
    /// What is so.
    pub sentence: String,
    /// What would be gained at most if it were gone.
    pub gain: String,
    pub evidence: Vec<(&'static str, Fact)>,
    /// What to type next.
    pub next: String,
}

/// What could not be looked at, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NotLooked {
    pub kinds: Vec<Kind>,
    pub pid: u32,
    pub reason: String,
}

/// How the time of a process adds up, as parts of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessSummary {
    pub pid: u32,
    pub command: String,
    /// Its interpreter is one that is understood: lines and the GIL could be looked at.
    pub understood: bool,
    pub threads: usize,
    pub cpu_ns: u64,
    pub at_work_ns: u64,
    pub length_ns: u64,
    pub rss_bytes: Option<u64>,
    pub growth_bytes: Option<i64>,
}

#[derive(Clone, Debug)]
pub struct WhyReport {
    pub findings: Vec<Finding>,
    /// What was looked for in at least one process, and found in none.
    pub not_seen: Vec<Kind>,
    pub not_looked: Vec<NotLooked>,
    pub processes: Vec<ProcessSummary>,
    pub length: Duration,
}

impl WhyReport {
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).min()
    }
}
