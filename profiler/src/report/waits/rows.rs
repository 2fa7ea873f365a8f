//! From samples to rows: every sample belongs to exactly one, so rows add up to the whole.

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};
use serde::Serialize;

use super::{Detail, Related, Relation, WaitsReport, error};
use crate::{
    profile::{Frame, FrameId, FrameKind, Labels, Profile, SampleKey, StackId},
    report::{
        label,
        owner::{Owner, Owners},
        path,
    },
    waits::cause::Cause,
};

/// What a row of the table stands for, besides its cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// A line of Python, or a native function
    #[default]
    Line,
    /// All waits of a cause
    Cause,
    /// A thread, by how its time adds up
    Thread,
    /// A process, by how its threads' time adds up
    Process,
    /// A line that had the GIL while others waited for it
    Holder,
}

impl By {
    pub fn name(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Cause => "cause",
            Self::Thread => "thread",
            Self::Process => "process",
            Self::Holder => "holder",
        }
    }
}

/// Where a thread waits: the program's own line, and what of installed code it called there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// What people read. Never empty.
    pub name: String,
    pub function: String,
    pub file: String,
    /// 0 if it is not known.
    pub line: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub via: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowKey {
    pub cause: Cause,
    pub place: Place,
    /// 0 in tables, which put threads together.
    pub pid: u32,
    pub tid: u32,
    pub peer: String,
    pub path: String,
    /// It had the GIL while it waited.
    pub holds_gil: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    pub ns: u64,
    pub count: u64,
    pub longest_ns: u64,
    pub variance: f64,
    pub unended_ns: u64,
    pub others_ns: u64,
}

impl Sums {
    pub fn error_ns(&self) -> u64 {
        error(self.variance)
    }

    fn add(&mut self, values: &[i64], detail: &Detail) {
        let value = |index: usize| values.get(index).map_or(0, |&value| u64::try_from(value).unwrap_or(0));
        self.count = self.count.saturating_add(value(0));
        self.ns = self.ns.saturating_add(value(super::VALUE));
        self.longest_ns = self.longest_ns.max(detail.longest_ns);
        self.variance += detail.variance.max(0.0);
        self.unended_ns = self.unended_ns.saturating_add(detail.unended_ns);
        self.others_ns = self.others_ns.saturating_add(detail.others_ns);
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub key: RowKey,
    pub sums: Sums,
    pub labels: Labels,
    /// The sample with the most of its time, whose stack is shown beside it.
    pub most: SampleKey,
    most_ns: i64,
    /// Targets, with their time, and of clients how many ports they have connected from.
    targets: Vec<(String, u64, u32)>,
    /// Of clients: from how many ports of their address they have connected.
    pub ports: u32,
    /// The call, where the cause does not say what is waited for.
    pub call: Option<&'static str>,
    /// Who had the GIL, and who ended these waits: by time, the longest first.
    pub holders: Vec<Other>,
    pub wakers: Vec<Other>,
}

/// A line of some thread that has to do with others' waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Other {
    pub place: Place,
    /// Whether that is a place at all: an interrupt, and a process of which nothing is known, have a name only.
    pub is_placed: bool,
    /// What has most of it: whose it is, and its stack.
    pub sample: SampleKey,
    of_sample_ns: u64,
    /// There are others.
    pub several_threads: bool,
    pub sums: Related,
}

impl Row {
    /// Whom it waits for most, and how many others there are.
    pub fn target(&self) -> Option<(&str, usize)> {
        let (target, ..) = self.targets.iter().max_by_key(|(_, ns, _)| *ns)?;
        Some((target, self.targets.len() - 1))
    }
}

/// How far rows are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detailed {
    /// By thread and target as well.
    Fully,
    No,
}

/// Rows by time, the longest first.
pub fn rows(report: &WaitsReport, detailed: Detailed) -> Vec<Row> {
    let profile = &report.profile;
    let mut owners = Owners::new(profile);
    let mut rows: IndexMap<RowKey, Row, FxBuildHasher> = IndexMap::default();
    let holders = by_waiter(&report.holders);
    let wakers = by_waiter(&report.wakers);
    let mut others: Vec<[Others; 2]> = Vec::new();
    for ((sample, values), detail) in profile.samples().zip(&report.details) {
        let place = place(profile, sample.stack, owners.find(sample.stack));
        let fully = detailed == Detailed::Fully;
        let key = RowKey {
            cause: detail.cause,
            place,
            pid: if fully { sample.labels.pid } else { 0 },
            tid: if fully { sample.labels.tid } else { 0 },
            peer: if fully {
                detail.target.peer.clone()
            } else {
                String::new()
            },
            path: if fully {
                detail.target.path.clone()
            } else {
                String::new()
            },
            holds_gil: detail.holds_gil,
        };
        let entry = rows.entry(key.clone());
        let index = entry.index();
        let row = entry.or_insert_with(|| Row {
            key,
            sums: Sums::default(),
            labels: sample.labels.clone(),
            most: sample.clone(),
            most_ns: 0,
            targets: Vec::new(),
            ports: 0,
            call: detail.call,
            holders: Vec::new(),
            wakers: Vec::new(),
        });
        if index == others.len() {
            others.push(Default::default());
        }
        let related = [(&holders, true), (&wakers, false)];
        for (others, (relations, by_thread)) in others[index].iter_mut().zip(related) {
            for relation in relations.get(sample).into_iter().flatten() {
                others.add(profile, &mut owners, relation, by_thread);
            }
        }
        row.sums.add(values, detail);
        row.ports = row.ports.max(detail.target.ports);
        let ns = values.get(super::VALUE).copied().unwrap_or(0);
        if ns > row.most_ns {
            row.most_ns = ns;
            row.most = sample.clone();
            row.labels = sample.labels.clone();
            row.call = detail.call;
        }
        if !detail.target.is_empty() {
            let text = report.whom(sample.labels.pid, &detail.target);
            match row.targets.iter_mut().find(|(known, ..)| *known == text) {
                Some((_, sum, ports)) => {
                    *sum = sum.saturating_add(ns.unsigned_abs());
                    *ports = (*ports).max(detail.target.ports);
                }
                None => row.targets.push((text, ns.unsigned_abs(), detail.target.ports)),
            }
        }
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    for (target, _, ports) in rows.iter_mut().flat_map(|row| &mut row.targets) {
        WaitsReport::with_ports(target, *ports);
    }
    for (row, [holders, wakers]) in rows.iter_mut().zip(others) {
        (row.holders, row.wakers) = (holders.sorted(), wakers.sorted());
    }
    rows.sort_by(|a, b| {
        let key = |row: &Row| std::cmp::Reverse(row.sums.ns);
        key(a)
            .cmp(&key(b))
            .then_with(|| (a.key.cause, &a.key.place).cmp(&(b.key.cause, &b.key.place)))
    });
    rows
}

/// Lines that had the GIL while others waited for it, the longest first.
pub fn holders(report: &WaitsReport) -> Vec<Other> {
    let mut owners = Owners::new(&report.profile);
    let mut others = Others::default();
    for relation in &report.holders {
        others.add(&report.profile, &mut owners, relation, true);
    }
    others.sorted()
}

fn by_waiter(relations: &[Relation]) -> FxHashMap<&SampleKey, Vec<&Relation>> {
    let mut by_waiter: FxHashMap<&SampleKey, Vec<&Relation>> = FxHashMap::default();
    for relation in relations {
        by_waiter.entry(&relation.waiter).or_default().push(relation);
    }
    by_waiter
}

/// By line, process and thread; wakers by line and process: a pool's threads come and go.
#[derive(Default)]
struct Others(IndexMap<(Place, u32, u32), Other, FxBuildHasher>);

impl Others {
    fn add(&mut self, profile: &Profile, owners: &mut Owners<'_>, relation: &Relation, by_thread: bool) {
        let sample = &relation.other;
        let is_mark = |id: &FrameId| profile.frame(*id).kind == FrameKind::Marker;
        let is_placed = !profile.stack(sample.stack).iter().all(is_mark);
        let mut place = place(profile, sample.stack, owners.find(sample.stack));
        if !is_placed {
            place.function.clear();
        }
        let tid = if by_thread { sample.labels.tid } else { 0 };
        let key = (place, sample.labels.pid, tid);
        let other = self.0.entry(key.clone()).or_insert_with(|| Other {
            place: key.0,
            is_placed,
            sample: sample.clone(),
            of_sample_ns: 0,
            several_threads: false,
            sums: Related::default(),
        });
        other.sums.add(relation.sums);
        other.several_threads |= other.sample.labels.tid != sample.labels.tid;
        if relation.sums.ns > other.of_sample_ns {
            other.of_sample_ns = relation.sums.ns;
            other.sample = sample.clone();
        }
    }

    fn sorted(self) -> Vec<Other> {
        let mut others: Vec<Other> = self.0.into_values().collect();
        others.sort_by(|a, b| b.sums.ns.cmp(&a.sums.ns).then_with(|| a.place.cmp(&b.place)));
        others
    }
}

/// Where a stack was: its line, or what there is.
pub(crate) fn place(profile: &Profile, stack: StackId, owner: Owner) -> Place {
    // Of a stack of nothing but marks, the first is the cause, which has a column of its own.
    let frame = owner.frame.map(|id| profile.frame(id));
    let frame = match frame {
        Some(mark) if mark.kind == FrameKind::Marker => profile.stack(stack).last().map(|&id| profile.frame(id)),
        frame => frame,
    };
    let Some(frame) = frame else {
        return Place {
            name: "[no frames]".to_owned(),
            ..Place::default()
        };
    };
    let via = owner.library.map(|id| library(profile, profile.frame(id)));
    let function = match profile.string(frame.function) {
        "" => String::new(),
        function => label::clean(function.to_owned()),
    };
    let file = match frame.kind {
        FrameKind::Python => profile.string(frame.file),
        FrameKind::Native => frame
            .mapping
            .map_or("", |mapping| profile.string(profile.mapping(mapping).path)),
        FrameKind::Kernel | FrameKind::Marker => "",
    };
    Place {
        name: label::frame(profile, frame),
        function,
        file: if file.is_empty() {
            String::new()
        } else {
            label::clean(file.to_owned())
        },
        line: frame.line,
        via: via.unwrap_or_default(),
    }
}

/// `Queue.get (queue)`: what of installed code the program's own line had called.
fn library(profile: &Profile, frame: &Frame) -> String {
    let module = path::module(profile.string(frame.file));
    let package = module.split('.').next().unwrap_or_default();
    label::clean(format!("{} ({package})", profile.string(frame.function)))
}
