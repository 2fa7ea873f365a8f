//! Two censuses of each process of a recording, one when it begins and one when it ends.

use std::{
    path,
    sync::Arc,
    time::{Duration, Instant},
};

use profiler_common::birth::GC_HEAD_BYTES;
use rustc_hash::FxHashMap;

use super::{
    account::{self, Account, Path},
    census::{self, Limits},
    growth::Growth,
    shapes::ShapeId,
    target::{NoTarget, Target},
    walk::Walk,
};
use crate::{
    humanize::{bytes, duration},
    process::{ancestry, command},
    summary::many,
};

/// Processes that are looked at.
const MOST_PROCESSES: usize = 32;
/// No other one is begun at one end of the recording when they have taken so long together.
const MOST_TIME: Duration = Duration::from_secs(3);
/// A process with more memory of small objects is not looked at: it would take about a second, and half as much memory.
const MOST_HEAP: u64 = 256 << 20;

/// What became more in a process.
#[derive(Clone, Debug)]
pub struct Grown {
    pub pid: u32,
    pub command: String,
    pub growth: Growth,
    /// Between the two censuses.
    pub length: Duration,
    /// What the two took.
    pub took: [Duration; 2],
}

#[derive(Debug, Default)]
pub struct Censuses {
    begun: Vec<Begun>,
    pub grown: Vec<Grown>,
    /// What is not known, and why.
    pub notes: Vec<String>,
}

/// Where an object was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hanging {
    pub path: Path,
    /// How many of all objects that hang there the collector tracks.
    pub tracked: f64,
}

/// Where those at these addresses hang.
fn hanging(walk: &mut Walk<'_, '_>, addresses: &[u64]) -> Vec<Option<Hanging>> {
    if addresses.is_empty() {
        return Vec::new();
    }
    let shapes: Vec<Option<ShapeId>> = addresses
        .iter()
        .map(|&address| {
            walk.node(address)
                .map(|node| walk.shape(node))
                .filter(|&shape| shape != 0)
        })
        .collect();
    // Tracked, and all.
    let mut numbers: FxHashMap<ShapeId, (u64, u64)> = shapes.iter().flatten().map(|&shape| (shape, (0, 0))).collect();
    for node in walk.all() {
        let Some((tracked, all)) = numbers.get_mut(&walk.shape(node)) else {
            continue;
        };
        // The link to the next one, which is 0 of what is not in a list.
        let link = walk.heap.word(walk.address(node).wrapping_sub(GC_HEAD_BYTES));
        *tracked += u64::from(link.is_some_and(|link| link != 0));
        *all += 1;
    }
    let at = |shape: Option<ShapeId>| {
        let shape = shape?;
        let &(tracked, all) = numbers.get(&shape)?;
        Some(Hanging {
            path: account::path(&walk.shapes, &walk.types, shape),
            tracked: tracked as f64 / all.max(1) as f64,
        })
    };
    shapes.into_iter().map(at).collect()
}

#[derive(Debug)]
struct Begun {
    target: Target,
    account: Arc<Account>,
    at: Instant,
}

/// What bounds a look here is the heap.
fn limits() -> Limits {
    Limits {
        heap: MOST_HEAP,
        ..Limits::default()
    }
}

impl Censuses {
    /// The first of each.
    pub fn begin(&mut self, pids: &[u32]) {
        let began = Instant::now();
        let (mut left_out, mut last) = (0, 0);
        // Where the time is up, workers have been looked at.
        for pid in ancestry::workers_first(path::Path::new("/proc"), pids) {
            if self.begun.len() >= MOST_PROCESSES || began.elapsed() >= MOST_TIME {
                (left_out, last) = (left_out + 1, pid);
                continue;
            }
            match first(pid, &limits()) {
                Ok(begun) => self.begun.extend(begun),
                Err(why) => self.notes.push(why),
            }
        }
        if left_out > 0 {
            self.notes.push(format!(
                "the objects of {} are not looked at: those of the others took {} already; profiler objects -p {last} \
                 --growth 60s does",
                many(left_out, "process"),
                duration(began.elapsed())
            ));
        }
    }

    /// The first of each.
    pub fn begun(&self) -> Vec<(Target, Arc<Account>)> {
        let begun = self.begun.iter();
        begun
            .map(|begun| (begun.target.clone(), Arc::clone(&begun.account)))
            .collect()
    }

    /// The second of each that is still there; and of one process where these addresses' objects hang, if they are any.
    pub fn end(&mut self, pid: u32, addresses: &[u64]) -> Vec<Option<Hanging>> {
        let limits = limits();
        let mut hanging = Vec::new();
        for Begun { target, account, at } in self.begun.drain(..) {
            let wanted = if target.pid == pid { addresses } else { &[] };
            let pid = target.pid;
            let unknown = |why: &dyn std::fmt::Display| {
                format!("what became more of the objects of process {pid} is not known: {why}")
            };
            let looked = census::look(&target, &limits, |walk, notes| {
                let after = Account::new(walk, notes);
                let found = self::hanging(walk, wanted);
                let growth = Growth::between(&account, &after).map(|growth| growth.with_added(walk));
                (after.notes.took, growth, found)
            });
            let (took, growth) = match looked {
                Ok((took, growth, found)) => {
                    hanging.extend(found);
                    (took, growth)
                }
                Err(error) => {
                    self.notes.push(unknown(&error));
                    continue;
                }
            };
            match growth {
                Ok(growth) => self.grown.push(Grown {
                    pid,
                    command: command::of(pid).map_or_else(|| "?".to_owned(), |command| command.with_name("")),
                    growth,
                    length: at.elapsed(),
                    took: [account.notes.took, took],
                }),
                Err(unfinished) => {
                    let why = unknown(&unfinished);
                    self.notes
                        .push(format!("{why}; profiler objects -p {pid} --growth 60s takes longer"));
                }
            }
        }
        self.grown
            .sort_by_key(|grown| std::cmp::Reverse(grown.growth.total.whole));
        hanging
    }
}

/// Nothing of a process that runs no Python, for which there is nothing to say.
fn first(pid: u32, limits: &Limits) -> Result<Option<Begun>, String> {
    let target = match Target::find(pid) {
        Ok(target) => target,
        Err(NoTarget::NoPython { .. } | NoTarget::Gone { .. }) => return Ok(None),
        Err(error) => return Err(format!("objects are not looked at: {error}")),
    };
    let size = census::bytes_to_copy(&target).map_err(|error| error.to_string())?;
    if size > MOST_HEAP {
        return Err(format!(
            "the objects of process {pid} are not looked at: it has {} of small ones, more than the {} that take about a \
             second; profiler objects -p {pid} --growth 60s does",
            bytes(size),
            bytes(MOST_HEAP)
        ));
    }
    let account = Arc::new(census::account(&target, limits).map_err(|error| error.to_string())?);
    Ok(Some(Begun {
        target,
        account,
        at: Instant::now(),
    }))
}
