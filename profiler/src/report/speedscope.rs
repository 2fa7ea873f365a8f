//! speedscope's own JSON: <https://www.speedscope.app/file-format-schema.json> (npm `speedscope` 1.25.0 has a copy).
//!
//! One profile per value and process, or thread if the view shows threads; the value that is shown comes first, and of each
//! who has the most. Of several values a profile's name ends with its own. The profiles are "sampled". Where it is known when samples were, they are in that order, to a slice of time: "Time Order" shows what
//! was before what, and its axis is how much there was (idle times take no room). In a slice, and where it is not known,
//! merged stacks are in the order of their names.

use std::{cmp::Reverse, collections::BTreeMap, io::Write, time::Duration};

use anyhow::Context as _;
use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;
use serde::Serialize;

use super::{View, Writer, flamegraph::nothing, label, machinery::Machinery, moments::Moments, workers::Workers};
use crate::{
    humanize,
    profile::{self, FrameId, FrameKind, Labels, Profile, ValueType},
};

#[derive(Clone, Copy, Debug)]
pub struct Speedscope;

impl Writer for Speedscope {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        let shown = view.value_type(profile)?;
        let mut frames = Frames::default();
        let values = values(profile, view.value);
        let most = MOST_PARTS / values.len().max(1);
        let mut slice_ns = None;
        let mut profiles = Vec::new();
        for &(value, value_type) in &values {
            let moments = Moments::new(profile, value, most);
            slice_ns = slice_ns.max(moments.slice_ns);
            let groups = groups(profile, &View { value, ..view.clone() }, &moments, &mut frames);
            profiles.extend(groups.into_iter().map(|group| {
                let stacks = group.stacks.into_iter().map(|((_, stack), value)| (stack, value));
                let (samples, weights): (Vec<_>, Vec<_>) = stacks.unzip();
                SampledProfile {
                    r#type: "sampled",
                    name: match values.len() {
                        1 => group.name,
                        _ => format!("{}{OF_VALUE}{}", group.name, value_type.kind),
                    },
                    unit: unit(value_type.unit),
                    start_value: 0,
                    end_value: group.total,
                    samples,
                    weights,
                }
            }));
        }
        if profiles.is_empty() {
            // So that a viewer has something to show, and says why it is empty.
            profiles.push(SampledProfile {
                r#type: "sampled",
                name: nothing(shown).to_owned(),
                unit: unit(shown.unit),
                start_value: 0,
                end_value: 0,
                samples: Vec::new(),
                weights: Vec::new(),
            });
        }
        let file = File {
            schema: "https://www.speedscope.app/file-format-schema.json",
            exporter: EXPORTER,
            name: &match slice_ns {
                Some(ns) => format!("{}, in order of time to {}", view.title, humanize::duration(ns_of(ns))),
                None => view.title.clone(),
            },
            active_profile_index: 0,
            shared: Shared {
                frames: frames.all.iter().collect(),
            },
            profiles,
        };
        serde_json::to_writer(&mut *out, &file).context("cannot write speedscope JSON")?;
        writeln!(out)?;
        Ok(())
    }
}

pub(crate) const EXPORTER: &str = "profiler";

/// Between whose a profile is and what it counts.
pub(crate) const OF_VALUE: &str = " · ";

/// The value that is shown, and then the others, if there is any of them.
fn values(profile: &Profile, first: usize) -> Vec<(usize, ValueType)> {
    let mut values: Vec<_> = (profile.shown_types())
        .filter(|(value, _)| *value == first || profile.samples().any(|(_, values)| values[*value] != 0))
        .collect();
    values.sort_by_key(|(value, _)| *value != first);
    values
}

/// Each has all of its stack.
const MOST_PARTS: usize = 100_000;

fn ns_of(ns: i64) -> Duration {
    Duration::from_nanos(ns.unsigned_abs())
}

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: &'static str,
    name: &'a str,
    #[serde(rename = "activeProfileIndex")]
    active_profile_index: usize,
    shared: Shared<'a>,
    profiles: Vec<SampledProfile>,
}

#[derive(Serialize)]
struct Shared<'a> {
    frames: Vec<&'a Frame>,
}

#[derive(PartialEq, Eq, Hash, Serialize)]
struct Frame {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SampledProfile {
    r#type: &'static str,
    name: String,
    unit: &'static str,
    start_value: i64,
    end_value: i64,
    samples: Vec<Vec<usize>>,
    weights: Vec<i64>,
}

/// speedscope's word for a unit; `none` makes it show plain numbers.
fn unit(unit: &str) -> &'static str {
    match unit {
        "bytes" => "bytes",
        "nanoseconds" => "nanoseconds",
        "microseconds" => "microseconds",
        "milliseconds" => "milliseconds",
        "seconds" => "seconds",
        _ => "none",
    }
}

struct Group {
    name: String,
    total: i64,
    /// Root-first stacks of each slice of time, merged.
    stacks: BTreeMap<(u32, Vec<usize>), i64>,
}

fn groups(profile: &Profile, view: &View, moments: &Moments, frames: &mut Frames) -> Vec<Group> {
    let mut groups: BTreeMap<Key, BTreeMap<(u32, Vec<usize>), i64>> = BTreeMap::new();
    let workers = Workers::new(profile, view);
    let mut machinery = Machinery::new(profile, view.interpreter);
    let mut shown = Vec::new();
    for part in moments.parts.iter().filter(|part| part.value != 0) {
        let Some((key, _)) = profile.sample(part.sample) else {
            continue;
        };
        let stacks = groups
            .entry(Key::new(profile, view, &workers, &key.labels))
            .or_default();
        shown.clear();
        machinery.push_shown(profile.stack(key.stack), &mut shown);
        let stack = frames.intern_stack(profile, &shown);
        let sum = stacks.entry((part.slice, stack)).or_insert(0);
        *sum = sum.saturating_add(part.value);
    }
    let mut groups: Vec<_> = groups
        .into_iter()
        .map(|(key, stacks)| Group {
            name: key.name,
            total: stacks.values().fold(0, |sum: i64, value| sum.saturating_add(*value)),
            stacks,
        })
        .collect();
    groups.sort_by_key(|group| Reverse(group.total));
    groups
}

/// Whose stacks go together, by number first so that the order among equals is the expected one.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    pid: u32,
    tid: Option<u32>,
    name: String,
}

impl Key {
    fn new(profile: &Profile, view: &View, workers: &Workers, labels: &Labels) -> Self {
        let (pid, process) = workers.process(profile, labels);
        let (tid, name) = match view.thread {
            true => {
                let (tid, thread) = workers.thread(profile, labels);
                (Some(tid), format!("{process} {thread}"))
            }
            false => (None, process),
        };
        Self { pid, tid, name }
    }
}

#[derive(Default)]
struct Frames {
    all: IndexSet<Frame, FxBuildHasher>,
    /// By the profile's frames: the number among all, and one.
    known: Vec<usize>,
}

impl Frames {
    fn intern_stack(&mut self, profile: &Profile, root_first: &[FrameId]) -> Vec<usize> {
        root_first
            .iter()
            .map(|id| {
                self.known.resize(self.known.len().max(id.index() + 1), 0);
                if self.known[id.index()] == 0 {
                    self.known[id.index()] = self.intern(profile, profile.frame(*id)) + 1;
                }
                self.known[id.index()] - 1
            })
            .collect()
    }

    fn intern(&mut self, profile: &Profile, frame: &profile::Frame) -> usize {
        let file = match profile.string(frame.file) {
            "" if matches!(frame.kind, FrameKind::Native) => frame
                .mapping
                .map(|mapping| profile.string(profile.mapping(mapping).path)),
            "" => None,
            file => Some(file),
        };
        let frame = Frame {
            name: label::frame(profile, frame),
            file: file.map(str::to_owned),
            line: (frame.line != 0).then_some(frame.line),
        };
        self.all.insert_full(frame).0
    }
}
