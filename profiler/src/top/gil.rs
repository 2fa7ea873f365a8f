//! How much of the time somebody has a process's GIL: by looks from outside, at moments that have nothing to do with it.
//!
//! Each is one word of memory (`locked` of `struct _gil_runtime_state`). So many yes of so many is a share with an error
//! that can be told; it counts whoever computes with the GIL and whoever is blocked with it.
//!
//! A look takes 5 µs, most of it for memory that nobody has touched lately, and ten a second at each of fifty processes are a
//! quarter of a percent of a CPU. So of processes that have computed next to nothing, and in which nobody has waited for the
//! GIL, only some are looked at each time, drawn at random, and each of these looks counts as several.

use std::{collections::hash_map::RandomState, hash::BuildHasher as _, time::Duration};

use profiler_common::wait::WAIT_GIL;
use rustc_hash::{FxHashMap, FxHashSet};

use super::snapshot::Looks;
use crate::{
    instruments::measured::Measured,
    python::memory::{ProcessMemory, ReadMemory as _},
    recording::Recording,
    waits::gil,
};

/// `locked` (3.8 – 3.15), as in `waits::held`.
const LOCKED: u64 = 16;

/// Of a window, the part that a process computes, or that its threads wait for the GIL, to be looked at each time.
const LEAST_BUSY: f64 = 0.02;
/// A look at one that is quiet counts as so many: four a second, of ten seconds, tell "never" to within 11 %.
const QUIET_COUNTS_AS: f64 = 2.5;

#[derive(Debug, Default)]
pub struct GilLooks {
    /// Where it is, by process and instance. `None`: not known yet.
    places: FxHashMap<(u32, u32), Option<u64>>,
    looks: FxHashMap<u32, Looks>,
    /// Processes that were quiet in the last window.
    quiet: FxHashSet<u32>,
    random: RandomState,
    drawn: u64,
}

impl GilLooks {
    /// Looks at all processes once, but of those that are quiet at some.
    pub fn look(&mut self, host: &Recording) {
        for pid in host.pids() {
            let counts_as = match self.quiet.contains(&pid) {
                true => QUIET_COUNTS_AS,
                false => 1.0,
            };
            if !self.draws(1.0 / counts_as) {
                continue;
            }
            let Some((python, _)) = host.python(pid) else { continue };
            let memory = ProcessMemory { pid };
            let place = self.places.entry((pid, python.facts.instance)).or_default();
            *place = place.or_else(|| gil::find(python, &memory));
            let Some(gil) = place.filter(|&gil| gil::is_on(python, &memory, gil)) else {
                continue;
            };
            let mut locked = [0; 4];
            if memory.read(gil.wrapping_add(LOCKED), &mut locked) {
                // -1 before there is one.
                let is_held = i32::from_ne_bytes(locked) == 1;
                self.looks.entry(pid).or_default().add(is_held, counts_as);
            }
        }
    }

    fn draws(&mut self, chance: f64) -> bool {
        if chance >= 1.0 {
            return true;
        }
        self.drawn += 1;
        (self.random.hash_one(self.drawn) as f64 / u64::MAX as f64) < chance
    }

    /// Learns from a window which processes are quiet. Where waits are not measured, none is.
    pub fn learn(&mut self, measured: &Measured, length: Duration) {
        self.quiet.clear();
        let Measured::Wall { waits, .. } = measured else {
            return;
        };
        let mut busy_ns: FxHashMap<u32, u64> = FxHashMap::default();
        for ended in &waits.ended {
            let slot = &ended.slot;
            let waited = slot.sums.get(WAIT_GIL as usize).map_or(0, |sum| sum.ns);
            let waits = match ended.unended_ns {
                Some((WAIT_GIL, ns)) => ns,
                _ => 0,
            };
            let sum = busy_ns.entry(slot.shown_pid).or_default();
            *sum = sum
                .saturating_add(slot.on_cpu_ns)
                .saturating_add(waited)
                .saturating_add(waits);
        }
        let most = LEAST_BUSY * length.as_nanos() as f64;
        let quiet = busy_ns.into_iter().filter(|(_, ns)| (*ns as f64) < most);
        self.quiet.extend(quiet.map(|(pid, _)| pid));
    }

    /// What was seen since the last time. Processes that are gone are forgotten.
    pub fn cut(&mut self, host_has: impl Fn(u32) -> bool) -> FxHashMap<u32, Looks> {
        self.places.retain(|(pid, _), _| host_has(*pid));
        std::mem::take(&mut self.looks)
    }
}
