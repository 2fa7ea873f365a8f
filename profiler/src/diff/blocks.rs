//! A side of a comparison as blocks: which of its parts bear witness, and what each says of every row.

use rustc_hash::FxHashMap;

use super::{
    delays::Delays,
    measure::Measure,
    rows::{Found, Rows},
};
use crate::profile::Profile;

/// What bears witness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Over {
    /// Recordings if there are three on each side, else processes or threads if they are many and alike, else samples.
    #[default]
    Auto,
    /// Recordings, or windows of one.
    Windows,
    Processes,
    Threads,
    /// The number of samples.
    Counts,
}

/// Fewest recordings a side that say how recordings differ.
pub const FEWEST_WINDOWS: usize = 3;
/// Fewest processes or threads a side: they have differing tasks, and it takes some to see that.
pub const FEWEST_ALIKE: usize = 8;

/// One side.
#[derive(Debug, Default)]
pub struct Side {
    /// What values are divided by, block by block.
    pub weights: Vec<f64>,
    /// What all rows together have, block by block.
    pub all: Vec<f64>,
    /// By row: itself, and with what it called.
    pub own: FxHashMap<u32, Vec<(u32, f64)>>,
    pub total: FxHashMap<u32, Vec<(u32, f64)>>,
    /// How exact that is, of all blocks together, where recordings say it of estimates: variances, in the value's unit, squared.
    pub exactness: Sums,
    /// What of it was for want of a CPU, where it is time of waits.
    pub delays: Sums,
}

/// Of all blocks together.
#[derive(Debug, Default)]
pub struct Sums {
    pub all: f64,
    /// By row: itself, and with what it called.
    pub own: FxHashMap<u32, f64>,
    pub total: FxHashMap<u32, f64>,
}

impl Sums {
    fn add(&mut self, value: f64, rows: &[u32]) {
        self.all += value;
        for (at, row) in rows.iter().enumerate() {
            if at == 0 {
                *self.own.entry(*row).or_default() += value;
            }
            *self.total.entry(*row).or_default() += value;
        }
    }
}

/// How samples are dealt to blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deal {
    Recording,
    Process,
    Thread,
}

impl Side {
    pub fn of(profiles: &[Profile], measure: &Measure, deal: Deal, side: usize, rows: &mut Rows) -> Self {
        let mut blocks = Self::default();
        for profile in profiles {
            let index = measure.index_of(profile);
            let first = blocks.all.len();
            let mut numbers: FxHashMap<(u32, u32), usize> = FxHashMap::default();
            let mut samples: Vec<_> = profile
                .samples()
                .filter(|(_, values)| values[index] != 0)
                .map(|(key, values)| {
                    let who = match deal {
                        Deal::Recording => (0, 0),
                        Deal::Process => (key.labels.pid, 0),
                        Deal::Thread => (key.labels.pid, key.labels.tid),
                    };
                    let next = numbers.len();
                    let block = *numbers.entry(who).or_insert(next);
                    (
                        block,
                        key.stack,
                        values[index] as f64,
                        measure.variance(profile, index, values),
                    )
                })
                .collect();
            samples.sort_by_key(|(block, ..)| *block);
            let blocks_here = numbers.len().max(1);
            blocks.all.resize(first + blocks_here, 0.0);
            let mut found = Found::new(profile);
            let delays = match measure.is_of_waits() {
                true => Delays::of(profile, index),
                false => Delays::default(),
            };
            for (block, stack, value, variance) in samples {
                let block = first + block;
                blocks.all[block] += value;
                let rows = found.rows(rows, stack);
                for (at, row) in rows.iter().enumerate() {
                    if at == 0 {
                        add(&mut blocks.own, *row, block, value);
                    }
                    add(&mut blocks.total, *row, block, value);
                }
                if measure.estimated {
                    blocks.exactness.add(variance, rows);
                }
                if measure.is_of_waits() {
                    blocks.delays.add(value * delays.part(profile, stack), rows);
                }
            }
            let weight = measure.weight(profile, profiles.len(), side);
            for block in first..first + blocks_here {
                // Of a process or thread: its part of the whole. All parts together are what the whole is divided by.
                let weight = weight.map_or(blocks.all[block], |weight| match deal {
                    Deal::Recording => weight,
                    _ => weight / blocks_here as f64,
                });
                blocks.weights.push(weight);
            }
        }
        blocks
    }

    /// The values of a row, block by block.
    pub fn dense(&self, of: &FxHashMap<u32, Vec<(u32, f64)>>, row: u32) -> Vec<f64> {
        let mut values = vec![0.0; self.weights.len()];
        for (block, value) in of.get(&row).into_iter().flatten() {
            values[*block as usize] = *value;
        }
        values
    }

    /// What part of all was for want of a CPU.
    pub fn delayed(&self) -> f64 {
        let all: f64 = self.all.iter().sum();
        if all > 0.0 { self.delays.all / all } else { 0.0 }
    }

    /// Two neighbours become one.
    pub fn halved(&mut self) {
        let halve = |values: &[f64]| values.chunks(2).map(|pair| pair.iter().sum()).collect::<Vec<f64>>();
        self.weights = halve(&self.weights);
        self.all = halve(&self.all);
        for row in self.own.values_mut().chain(self.total.values_mut()) {
            let mut merged: Vec<(u32, f64)> = Vec::with_capacity(row.len());
            for (block, value) in row.drain(..) {
                match merged.last_mut() {
                    Some((last, sum)) if *last == block / 2 => *sum += value,
                    _ => merged.push((block / 2, value)),
                }
            }
            *row = merged;
        }
    }
}

fn add(to: &mut FxHashMap<u32, Vec<(u32, f64)>>, row: u32, block: usize, value: f64) {
    let values = to.entry(row).or_default();
    match values.last_mut() {
        Some((last, sum)) if *last as usize == block => *sum += value,
        _ => values.push((block as u32, value)),
    }
}
