//! What the agent itself may take: over it, less is measured, step by step; well below it for long, more again.

use std::time::Duration;

use super::{digest::Digest, options::Options};
use crate::cli::agent::Measures;

/// Windows in a row that are over the budget before less is measured: one can have had much to name.
const OVER: u32 = 2;
/// Windows in a row well below it before more is measured again. That is a session anew, which has its cost.
const BELOW: u32 = 30;
const WELL_BELOW: f64 = 0.4;
/// Nothing is left out beyond.
pub const MOST_LEVELS: u32 = 3;

/// How much less is measured than was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    over: u32,
    below: u32,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Less,
    More,
}

impl Budget {
    /// After a window, at a level.
    pub fn look(&mut self, digest: &Digest, resident_bytes: u64, options: &Options, level: u32) -> Option<Step> {
        let part = part(
            digest.own_cpu + digest.kernel_cpu,
            digest.length,
            resident_bytes,
            options,
        )?;
        match part {
            part if part > 1.0 => (self.over, self.below) = (self.over + 1, 0),
            part if part < WELL_BELOW => (self.over, self.below) = (0, self.below + 1),
            _ => (self.over, self.below) = (0, 0),
        }
        if self.over >= OVER && level < MOST_LEVELS {
            *self = Self::default();
            return Some(Step::Less);
        }
        if self.below >= BELOW && level > 0 {
            *self = Self::default();
            return Some(Step::More);
        }
        None
    }
}

/// How much of what it may the agent took, of what it took most.
fn part(cpu: Duration, length: Duration, resident_bytes: u64, options: &Options) -> Option<f64> {
    let of_cpu = (options.max_cpu)
        .map(|most| cpu.as_secs_f64() / length.as_secs_f64().max(f64::MIN_POSITIVE) / most.max(f64::MIN_POSITIVE));
    let of_memory = (options.max_memory).map(|most| resident_bytes as f64 / most.max(1) as f64);
    match (of_cpu, of_memory) {
        (Some(cpu), Some(memory)) => Some(cpu.max(memory)),
        (one, other) => one.or(other),
    }
}

/// What is measured at a level: samples are halved first, then growth goes, which others measure as well, then waits.
pub fn lowered(options: &Options, level: u32) -> Options {
    let mut options = options.clone();
    if level >= 1 {
        options.rate_hz = (options.rate_hz / 2).max(1);
    }
    for (from, what) in [(2, Measures::Memory), (3, Measures::Waits)] {
        if level >= from && options.instruments.len() > 1 {
            options.instruments.retain(|one| *one != what);
        }
    }
    options
}

/// What is left out, in words.
pub fn told(options: &Options, level: u32) -> String {
    let now = lowered(options, level);
    let mut parts = Vec::new();
    if now.rate_hz != options.rate_hz {
        parts.push(format!(
            "{} samples a second instead of {}",
            now.rate_hz, options.rate_hz
        ));
    }
    for (what, name) in [(Measures::Memory, "no growth"), (Measures::Waits, "no waits")] {
        if options.measures(what) && !now.measures(what) {
            parts.push(name.to_owned());
        }
    }
    match parts.is_empty() {
        true => "everything is measured".to_owned(),
        false => format!("measuring less: {}", parts.join(", ")),
    }
}
