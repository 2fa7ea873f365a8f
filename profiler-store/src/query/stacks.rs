//! Stacks with what they had: one question to the samples, then the frames of those stacks, each from one set.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result};
use datafusion::{
    arrow::{array::BinaryArray, record_batch::RecordBatch},
    prelude::{col, lit},
};
use rustc_hash::FxHashMap;

use super::{columns, engine::Engine, which::Chosen};
use crate::cli::Which;

type Id = [u8; 16];

/// Values of more digits are of weights that nothing has.
const MOST: f64 = 1e37;

/// A frame as it is shown. Equal frames are one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frame {
    pub function: String,
    pub file: String,
    pub line: i64,
    pub first_line: i64,
    pub kind: String,
    pub binary: String,
    pub address: i64,
    pub inlined: bool,
}

pub struct Stacks {
    pub frames: Vec<Frame>,
    pub stacks: Vec<Stack>,
}

pub struct Stack {
    /// Of any number of samples, each of which may have what 64 bits hold.
    pub value: i128,
    /// Leaf first.
    pub frames: Vec<u32>,
}

impl Stacks {
    pub fn total(&self) -> i128 {
        self.stacks.iter().fold(0, |sum, stack| sum.saturating_add(stack.value))
    }
}

/// What a stack had, and a set that has its frames.
struct Had {
    value: i128,
    set: u32,
    /// With their depths.
    frames: Vec<(i64, u32)>,
}

pub async fn of(engine: &Engine, which: &Which, chosen: &Chosen) -> Result<Stacks> {
    let sql = format!(
        "SELECT stack, weight, sum(value) AS value, min(set) AS set FROM samples WHERE {} GROUP BY stack, weight",
        chosen.condition
    );
    let mut sets: BTreeMap<String, u32> = BTreeMap::new();
    let mut had: FxHashMap<Id, Had> = FxHashMap::default();
    for batch in engine.rows(&sql).await? {
        let stacks = columns::bytes(&batch, 0)?;
        let weights = columns::floats(&batch, 1)?;
        let values = columns::sums(&batch, 2)?;
        let names = columns::texts(&batch, 3)?;
        for row in 0..batch.num_rows() {
            let id = id(&stacks, row)?;
            let next = u32::try_from(sets.len())?;
            let set = *sets.entry(names.value(row).to_owned()).or_insert(next);
            let weight = weights.value(row);
            let value = match weight == 1.0 {
                true => Some(values.value(row)),
                // Estimated, so a fraction more or less is nothing.
                false => Some((values.value(row) as f64 * weight).round())
                    .filter(|value| value.abs() < MOST)
                    .map(|value| value as i128),
            };
            let had = had.entry(id).or_insert(Had {
                value: 0,
                set,
                frames: Vec::new(),
            });
            let sum = value.and_then(|value| had.value.checked_add(value));
            had.value =
                sum.context("what a stack had is more than can be: leave its service out, or ask with `sql`")?;
        }
    }
    let frames = frames(engine, which, &sets, &mut had).await?;
    let mut stacks: Vec<Stack> = had
        .into_values()
        .map(|had| Stack {
            value: had.value,
            frames: had.frames.into_iter().map(|(_, frame)| frame).collect(),
        })
        .collect();
    // Always the same order, whatever the threads did.
    stacks.sort_unstable_by(|one, other| (other.value, &one.frames).cmp(&(one.value, &other.frames)));
    Ok(Stacks { frames, stacks })
}

/// Names the stacks: each from the set that was chosen for it.
async fn frames(
    engine: &Engine,
    which: &Which,
    sets: &BTreeMap<String, u32>,
    had: &mut FxHashMap<Id, Had>,
) -> Result<Vec<Frame>> {
    let mut used = vec![false; sets.len()];
    had.values().for_each(|had| used[had.set as usize] = true);
    let mut paths: BTreeMap<u32, PathBuf> = BTreeMap::new();
    let mut all: FxHashMap<Frame, u32> = FxHashMap::default();
    let mut list = Vec::new();
    for hour in engine.store.hours()? {
        for name in engine.store.sets(hour)? {
            if let Some(set) = sets.get(&name).filter(|set| used[**set as usize]) {
                paths.insert(*set, engine.store.files(hour, &name).frames);
            }
        }
    }
    if paths.is_empty() {
        return Ok(list);
    }
    let paths: Vec<PathBuf> = paths
        .into_values()
        .map(|path| path.canonicalize())
        .collect::<Result<_, _>>()?;
    let mut table = engine.files(&paths).await?;
    if let Some(service) = &which.service {
        table = table.filter(col("service").eq(lit(service.clone())))?;
    }
    let columns = [
        "set",
        "stack",
        "depth",
        "function",
        "file",
        "line",
        "first_line",
        "kind",
        "binary",
        "address",
        "inlined",
    ];
    let mut stream = table.select_columns(&columns)?.execute_stream().await?;
    while let Some(batch) = next(&mut stream).await {
        let batch = batch?;
        let stacks = columns::bytes(&batch, 1)?;
        let (names, depths) = (columns::texts(&batch, 0)?, columns::numbers(&batch, 2)?);
        let text = |column: usize| columns::texts(&batch, column);
        let number = |column: usize| columns::numbers(&batch, column);
        let (function, file, kind, binary) = (text(3)?, text(4)?, text(7)?, text(8)?);
        let (line, first_line, address) = (number(5)?, number(6)?, number(9)?);
        let inlined = columns::booleans(&batch, 10)?;
        let mut last: Option<(String, u32)> = None;
        for row in 0..batch.num_rows() {
            let Some(had) = had.get_mut(&id(&stacks, row)?) else {
                continue;
            };
            let name = names.value(row);
            if last.as_ref().is_none_or(|(last, _)| last != name) {
                last = sets.get(name).map(|set| (name.to_owned(), *set));
            }
            let right_set = last.as_ref().is_some_and(|(last, set)| last == name && *set == had.set);
            if !right_set {
                continue;
            }
            let frame = Frame {
                function: function.value(row).to_owned(),
                file: file.value(row).to_owned(),
                line: line.value(row),
                first_line: first_line.value(row),
                kind: kind.value(row).to_owned(),
                binary: binary.value(row).to_owned(),
                address: address.value(row),
                inlined: inlined.value(row),
            };
            let number = match all.get(&frame) {
                Some(number) => *number,
                None => {
                    let number = u32::try_from(list.len())?;
                    list.push(frame.clone());
                    all.insert(frame, number);
                    number
                }
            };
            had.frames.push((depths.value(row), number));
        }
    }
    // Parts of a file are read side by side, so rows come in any order; and a stack that several services have is in its set
    // for each of them, of which either serves.
    for had in had.values_mut() {
        had.frames.sort_unstable();
        had.frames.dedup_by_key(|(depth, _)| *depth);
        let is_whole = (had.frames.iter().zip(0..)).all(|((depth, _), expected)| *depth == expected);
        anyhow::ensure!(
            is_whole && !had.frames.is_empty(),
            "a stack's frames are not all in the store"
        );
    }
    Ok(list)
}

/// The next batch of a stream, without another crate for one trait.
async fn next(
    stream: &mut datafusion::execution::SendableRecordBatchStream,
) -> Option<datafusion::error::Result<RecordBatch>> {
    std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await
}

fn id(ids: &BinaryArray, row: usize) -> Result<Id> {
    ids.value(row)
        .try_into()
        .context("the store's ids of stacks are not 16 bytes: it is of another version")
}
