//! A census: all objects of a process at one time.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    account::{Account, Notes},
    arenas::{Arena, Tables},
    heap::Heap,
    regions::Regions,
    roots,
    snapshot::Snapshot,
    target::{NoTarget, Target},
    types::{Names, Types},
    walk::Walk,
};
use crate::{
    cost::thread_cpu_time,
    humanize,
    python::{heap::Collecting, memory::ReadMemory},
};

/// What a census may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of pools.
    pub heap: u64,
    /// Our own CPU time: where others want the CPUs, a look takes longer, and of a half nothing could be told.
    pub cpu: Duration,
    /// However busy the machine is.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heap: 2 << 30,
            cpu: Duration::from_secs(20),
            time: Duration::from_secs(60),
        }
    }
}

/// When a look is given up. It is of the thread that looks.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    cpu_until: Duration,
    until: Instant,
}

impl Bound {
    /// From now on.
    pub fn new(cpu: Duration, time: Duration) -> Self {
        Self {
            cpu_until: thread_cpu_time() + cpu,
            until: Instant::now() + time,
        }
    }

    pub fn is_over(&self) -> bool {
        Instant::now() > self.until || thread_cpu_time() > self.cpu_until
    }
}

/// How long a collection is waited for, and how often.
const COLLECTION: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_micros(500);
const COPIES: usize = 3;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum NoCensus {
    #[error(transparent)]
    Target(#[from] NoTarget),
    #[error("process {pid}: its small objects were not found; is it just starting?")]
    NoArenas { pid: u32 },
    #[error(
        "process {pid} has {} of small objects, more than the {} that are looked at; --max-heap says more",
        humanize::bytes(*bytes),
        humanize::bytes(*limit)
    )]
    TooLarge { pid: u32, bytes: u64, limit: u64 },
}

/// What a census would have to copy.
pub fn bytes_to_copy(target: &Target) -> Result<u64, NoCensus> {
    let arenas = arenas(target, &target.present()?)?;
    Ok(arenas.iter().map(|arena| arena.end - arena.start).sum())
}

/// By type and by holder.
pub fn account(target: &Target, limits: &Limits) -> Result<Account, NoCensus> {
    look(target, limits, |walk, notes| Account::new(walk, notes))
}

/// Takes a census and has `then` look at it.
pub fn look<T>(
    target: &Target,
    limits: &Limits,
    then: impl FnOnce(&mut Walk<'_, '_>, Notes) -> T,
) -> Result<T, NoCensus> {
    let began = Instant::now();
    let bound = Bound::new(limits.cpu, limits.time);
    let memory = target.present()?;
    let mut notes = Notes::default();
    let arenas = arenas(target, &memory)?;
    let bytes: u64 = arenas.iter().map(|arena| arena.end - arena.start).sum();
    if bytes > limits.heap {
        return Err(NoCensus::TooLarge {
            pid: target.pid,
            bytes,
            limit: limits.heap,
        });
    }
    let snapshot = copy(target, &memory, &arenas, &mut notes);
    notes.copied_in = began.elapsed();
    let regions = target.regions()?;
    Ok(over(
        target,
        &memory,
        &regions,
        snapshot,
        notes,
        began,
        bound,
        |walk, notes| {
            let swapped_pages = memory.swapped();
            then(walk, Notes { swapped_pages, ..notes })
        },
    ))
}

/// The same of pools that are copied.
#[expect(
    clippy::too_many_arguments,
    reason = "what a census is made of, in one place for a process and for made memory"
)]
pub(super) fn over<T>(
    target: &Target,
    memory: &dyn ReadMemory,
    regions: &Regions,
    snapshot: Snapshot,
    mut notes: Notes,
    began: Instant,
    bound: Bound,
    then: impl FnOnce(&mut Walk<'_, '_>, Notes) -> T,
) -> T {
    notes.pools = snapshot.tally;
    notes.copied_bytes = snapshot.bytes();
    let heap = Heap::new(memory, snapshot);
    let types = Types::new(target, &heap, regions);
    let names = Names::new(target, &heap);
    let mut walk = Walk::new(target, &heap, regions, types, names, bound);
    walk.tell();
    notes.told_in = began.elapsed();
    let interpreters = target.interpreters(memory);
    let modules = roots::modules(target, &heap, &interpreters);
    walk.modules(&modules);
    let frames = roots::frames(target, &heap, &interpreters);
    walk.frames(&frames);
    walk.data(&interpreters);
    walk.rest();
    notes.took = began.elapsed();
    notes.walk = walk.tally;
    notes.is_spent = heap.is_spent();
    then(&mut walk, notes)
}

fn arenas(target: &Target, memory: &dyn ReadMemory) -> Result<Vec<Arena>, NoCensus> {
    let regions = target.regions()?;
    let none = NoCensus::NoArenas { pid: target.pid };
    let tables = Tables::find(target, memory, &regions);
    // What is in no mapping is no arena.
    let arenas: Vec<Arena> = tables.map(|tables| tables.arenas(target, memory)).unwrap_or_default();
    let arenas: Vec<Arena> = arenas
        .into_iter()
        .filter(|arena| arena.end > arena.start && regions.is_allocated(arena.start))
        .collect();
    if arenas.is_empty() { Err(none) } else { Ok(arenas) }
}

/// Copies the pools while no collection is under way, if that can be had.
fn copy(target: &Target, memory: &dyn ReadMemory, arenas: &[Arena], notes: &mut Notes) -> Snapshot {
    let flags = collecting(target, memory);
    let is_collecting = || flags.iter().any(|&flag| read_u32(memory, flag) != Some(0));
    let mut copies = 0;
    loop {
        let began = Instant::now();
        while is_collecting() && began.elapsed() < COLLECTION {
            thread::sleep(LOOK_AGAIN);
        }
        notes.waited += began.elapsed();
        let snapshot = Snapshot::read(memory, arenas, target.heap.pool_bytes);
        copies += 1;
        let met = is_collecting();
        if !met || copies == COPIES {
            notes.met_collection = met;
            return snapshot;
        }
    }
}

fn collecting(target: &Target, memory: &dyn ReadMemory) -> Vec<u64> {
    match target.heap.collecting {
        Collecting::Runtime(offset) => vec![target.runtime().wrapping_add(offset)],
        Collecting::Interpreter(offset) => {
            let interpreters = target.interpreters(memory);
            interpreters.iter().map(|at| at.wrapping_add(offset)).collect()
        }
    }
}

fn read_u32(memory: &dyn ReadMemory, address: u64) -> Option<u32> {
    let mut bytes = [0; 4];
    memory.read(address, &mut bytes).then(|| u32::from_le_bytes(bytes))
}
