//! Rows of the table of processes: which, in which order, and workers of one service put together.

use std::{borrow::Cow, cmp::Ordering};

use super::{
    snapshot::{Process, Snapshot},
    state::State,
};

#[derive(Clone, Debug)]
pub struct Row<'a> {
    pub process: Cow<'a, Process>,
    /// How many processes it stands for.
    pub number: usize,
}

/// What a row is called for good, whatever its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowKey {
    Process(u32),
    /// By name and place.
    Service(String, String),
}

impl Row<'_> {
    pub fn key(&self, grouped: bool) -> RowKey {
        match grouped {
            true => RowKey::Service(self.process.name.clone(), self.process.place.clone()),
            false => RowKey::Process(self.process.pid),
        }
    }
}

/// By what rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Cpu,
    Gil,
    GilWait,
    Memory,
    Growth,
    Collector,
    Threads,
    Switches,
    Pid,
    Name,
}

impl Sort {
    pub const ALL: [Self; 10] = [
        Self::Pid,
        Self::Cpu,
        Self::Gil,
        Self::GilWait,
        Self::Memory,
        Self::Growth,
        Self::Collector,
        Self::Threads,
        Self::Switches,
        Self::Name,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Gil => "GIL held",
            Self::GilWait => "GIL waited for",
            Self::Memory => "memory",
            Self::Growth => "growth",
            Self::Collector => "GC",
            Self::Threads => "threads",
            Self::Switches => "switches",
            Self::Pid => "PID",
            Self::Name => "name",
        }
    }

    /// So many places further.
    pub fn step(self, forwards: bool) -> Self {
        let all = Self::ALL;
        let at = all.iter().position(|other| *other == self).unwrap_or(0);
        let step = if forwards { 1 } else { all.len() - 1 };
        all[(at + step) % all.len()]
    }

    /// What is wanted first comes first: the largest, but of names and numbers the smallest.
    fn compare(self, a: &Process, b: &Process) -> Ordering {
        let number = |process: &Process| match self {
            Self::Cpu => process.cpu_percent,
            Self::Gil => process.gil_held.map_or(-1.0, |(percent, _)| percent),
            Self::GilWait => process.gil_waited.unwrap_or(-1.0),
            Self::Memory => process.resident as f64,
            Self::Growth => process.growth.map_or(f64::MIN, |(growth, _)| growth),
            Self::Collector => collected(process).map_or(-1.0, |(percent, _)| percent),
            Self::Threads => process.threads as f64,
            Self::Switches => process.switches.unwrap_or(-1.0),
            Self::Pid | Self::Name => 0.0,
        };
        match self {
            Self::Pid => a.pid.cmp(&b.pid),
            Self::Name => a.name.cmp(&b.name).then(a.pid.cmp(&b.pid)),
            _ => number(b).total_cmp(&number(a)).then(a.pid.cmp(&b.pid)),
        }
    }
}

/// CPU time in the collector, in percent of a CPU, and its error.
pub fn collected(process: &Process) -> Option<(f64, f64)> {
    process.split.part(process.split.collector?, process.cpu_percent)
}

/// The rows that are shown, in their order.
pub fn rows<'a>(snapshot: &'a Snapshot, state: &State) -> Vec<Row<'a>> {
    let wanted = state.filter.to_lowercase();
    let fits = |process: &&Process| {
        let Process {
            pid, name, place, user, ..
        } = process;
        let line = process.line.as_ref().map_or("", |line| &line.text);
        wanted.is_empty()
            || [name, place, user, line]
                .iter()
                .any(|text| text.to_lowercase().contains(&wanted))
            || pid.to_string() == wanted
    };
    let chosen = snapshot.processes.iter().filter(fits);
    let mut rows: Vec<Row<'a>> = Vec::new();
    for process in chosen {
        let same = |row: &&mut Row<'_>| (&row.process.name, &row.process.place) == (&process.name, &process.place);
        match rows.iter_mut().find(same).filter(|_| state.grouped) {
            Some(row) => {
                row.number += 1;
                add(row.process.to_mut(), process);
            }
            None => rows.push(Row {
                process: Cow::Borrowed(process),
                number: 1,
            }),
        }
    }
    rows.sort_by(|a, b| {
        let order = state.sort.compare(&a.process, &b.process);
        if state.reversed { order.reverse() } else { order }
    });
    rows
}

/// Puts a worker to the others of its service.
fn add(sum: &mut Process, other: &Process) {
    // What is told of the one with the most.
    if other.cpu_percent > sum.cpu_percent || sum.line.is_none() {
        sum.line.clone_from(&other.line);
    }
    sum.pid = sum.pid.min(other.pid);
    sum.cpu_percent += other.cpu_percent;
    sum.split.add(&other.split);
    sum.gil_held = both(sum.gil_held, other.gil_held, |(a, error), (b, other)| {
        (a + b, error.hypot(other))
    });
    sum.gil_waited = both(sum.gil_waited, other.gil_waited, |a, b| a + b);
    sum.time.add(&other.time);
    sum.resident += other.resident;
    sum.growth = both(sum.growth, other.growth, |(a, span), (b, other)| {
        (a + b, span.min(other))
    });
    sum.threads += other.threads;
    sum.descriptors = both(sum.descriptors, other.descriptors, |a, b| a + b);
    sum.switches = both(sum.switches, other.switches, |a, b| a + b);
    sum.refused = sum.refused.take().or_else(|| other.refused.clone());
}

fn both<T>(one: Option<T>, other: Option<T>, join: impl Fn(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(join(one, other)),
        (one, other) => one.or(other),
    }
}
