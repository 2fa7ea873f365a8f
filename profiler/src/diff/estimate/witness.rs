//! What bears witness: recordings, processes, threads, or samples.

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::{
    blocks::{FEWEST_ALIKE, FEWEST_WINDOWS, Over, Side},
    measure::{Measure, Normal},
    statistics::{FEWEST_DRAWN, neighbours},
};
use crate::profile::Profile;

/// Who bears witness, if nobody has said.
pub fn choose(sides: [&[Profile]; 2], counted: bool) -> Over {
    let fewest = |number: &dyn Fn(&[Profile]) -> usize| number(sides[0]).min(number(sides[1]));
    if fewest(&|side| side.len()) >= FEWEST_WINDOWS {
        return Over::Windows;
    }
    if fewest(&|side| alike(side, |pid, _| (pid, 0))) >= FEWEST_ALIKE {
        return Over::Processes;
    }
    if !counted && fewest(&|side| alike(side, |pid, tid| (pid, tid))) >= FEWEST_ALIKE {
        return Over::Threads;
    }
    match counted {
        true => Over::Counts,
        // Two are better than none.
        false => Over::Windows,
    }
}

/// How many processes or threads one recording has, if all do the same by what they are called.
fn alike(side: &[Profile], who: impl Fn(u32, u32) -> (u32, u32)) -> usize {
    let [profile] = side else { return 0 };
    let mut names = FxHashSet::default();
    let mut numbers: FxHashMap<(u32, u32), i64> = FxHashMap::default();
    for (key, values) in profile.samples() {
        names.insert((key.labels.comm, key.labels.command));
        *numbers.entry(who(key.labels.pid, key.labels.tid)).or_default() += values.first().copied().unwrap_or(0);
    }
    let most = numbers.values().copied().max().unwrap_or(0);
    // One that does next to nothing is the others' master.
    let working = numbers.values().filter(|value| **value * 10 >= most).count();
    match names.len() {
        1 if working + 1 >= numbers.len() => working,
        _ => 0,
    }
}

/// Whether all of them have met the same process: then they do not say how runs differ.
pub fn is_one_run(side: &[Profile]) -> bool {
    let mut pids = side.iter().map(|profile| {
        let mut numbers: FxHashMap<u32, i64> = FxHashMap::default();
        for (key, values) in profile.samples() {
            *numbers.entry(key.labels.pid).or_default() += values.first().copied().unwrap_or(0);
        }
        numbers
            .into_iter()
            .max_by_key(|(pid, value)| (*value, *pid))
            .map(|(pid, _)| pid)
    });
    let first = pids.next().flatten();
    side.len() > 1 && first.is_some() && pids.all(|pid| pid == first)
}

/// Windows that are like their neighbours bear witness together (batch means).
pub fn join_alike(parts: &mut [Side; 2], measure: &Measure, notes: &mut Vec<String>) {
    let alike = |side: &Side| {
        let rates = match measure.normal {
            Normal::Samples => return false,
            _ => side
                .all
                .iter()
                .zip(&side.weights)
                .map(|(value, weight)| value / weight.max(1e-9)),
        };
        let rates: Vec<f64> = rates.collect();
        neighbours(&rates) > 2.0 / (rates.len() as f64).sqrt()
    };
    let mut together = 1;
    while parts.iter().all(|side| side.weights.len() >= 2 * FEWEST_DRAWN) && parts.iter().any(alike) {
        parts.iter_mut().for_each(Side::halved);
        together *= 2;
    }
    if together > 1 {
        notes.push(format!(
            "windows are like their neighbours: {together} at a time were taken as one"
        ));
    }
}
