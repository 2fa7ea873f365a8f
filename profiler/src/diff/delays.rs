//! How much of what was waited depends on how busy the machine was.
//!
//! A thread that is woken waits for a CPU besides: that is told (`ready`, and `throttled` for want of quota). On a busy machine
//! it is much of all, another part in each run, and says nothing of the program. Who has a lock, or the GIL, waits for CPUs as
//! well, and makes those that want it wait: of their time, the part is taken that it is of all other waits.

use rustc_hash::FxHashMap;

use crate::{
    profile::{FrameId, FrameKind, Profile, StackId},
    waits::cause::Cause,
};

/// Of stacks, by the marks that waits have at their innermost end.
#[derive(Debug, Default)]
pub struct Delays {
    by_mark: FxHashMap<FrameId, Of>,
    of_locks: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Cpu,
    Lock,
    Other,
}

impl Delays {
    /// Of one recording of waits, by the value `index`.
    pub fn of(profile: &Profile, index: usize) -> Self {
        let mut delays = Self::default();
        let (mut cpu, mut other) = (0.0, 0.0);
        for (key, values) in profile.samples() {
            let value = values.get(index).copied().unwrap_or(0).max(0) as f64;
            match delays.learn(profile, key.stack) {
                Of::Cpu => cpu += value,
                Of::Lock => {}
                Of::Other => other += value,
            }
        }
        delays.of_locks = match cpu + other > 0.0 {
            true => cpu / (cpu + other),
            false => 0.0,
        };
        delays
    }

    fn learn(&mut self, profile: &Profile, stack: StackId) -> Of {
        let Some(id) = profile.stack(stack).first() else {
            return Of::Other;
        };
        *self.by_mark.entry(*id).or_insert_with(|| {
            let frame = profile.frame(*id);
            let mark = profile.string(frame.function).trim_start_matches('[');
            let is = |cause: Cause| {
                let rest = mark.strip_prefix(cause.name());
                rest.is_some_and(|rest| rest.starts_with([']', ' ', ',']))
            };
            match frame.kind {
                FrameKind::Marker if is(Cause::Ready) || is(Cause::Throttled) => Of::Cpu,
                FrameKind::Marker if is(Cause::Lock) || is(Cause::Gil) => Of::Lock,
                _ => Of::Other,
            }
        })
    }

    /// What part of a wait with this stack it is.
    pub fn part(&self, profile: &Profile, stack: StackId) -> f64 {
        let mark = profile.stack(stack).first();
        match mark.and_then(|mark| self.by_mark.get(mark)) {
            Some(Of::Cpu) => 1.0,
            Some(Of::Lock) => self.of_locks,
            Some(Of::Other) | None => 0.0,
        }
    }
}
