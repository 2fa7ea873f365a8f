//! speedscope's own JSON: <https://www.speedscope.app/file-format-schema.json> (npm `speedscope` 1.25.0 has a copy).
//!
//! One profile per process, or per thread if the view shows threads; the one with the most comes first. The profiles
//! are "sampled", with merged stacks in the order of their names, so "Time Order" shows a sorted flame graph rather than
//! the order of events, which a [`Profile`] does not know.

use std::{cmp::Reverse, collections::BTreeMap, io::Write};

use anyhow::Context as _;
use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;
use serde::Serialize;

use super::{View, Writer, flamegraph::nothing, label, machinery::Machinery, workers::Workers};
use crate::profile::{self, FrameId, FrameKind, Labels, Profile, ValueType};

#[derive(Clone, Copy, Debug)]
pub struct Speedscope;

impl Writer for Speedscope {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        let value_type = view.value_type(profile)?;
        let unit = unit(value_type.unit);
        let mut frames = Frames::default();
        let profiles = groups(profile, view, value_type, &mut frames)
            .into_iter()
            .map(|group| {
                let (samples, weights): (Vec<_>, Vec<_>) = group.stacks.into_iter().unzip();
                SampledProfile {
                    r#type: "sampled",
                    name: group.name,
                    unit,
                    start_value: 0,
                    end_value: group.total,
                    samples,
                    weights,
                }
            })
            .collect();
        let file = File {
            schema: "https://www.speedscope.app/file-format-schema.json",
            exporter: "profiler",
            name: &view.title,
            active_profile_index: 0,
            shared: Shared {
                frames: frames.0.iter().collect(),
            },
            profiles,
        };
        serde_json::to_writer(&mut *out, &file).context("cannot write speedscope JSON")?;
        writeln!(out)?;
        Ok(())
    }
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
    /// Root-first stacks, merged.
    stacks: BTreeMap<Vec<usize>, i64>,
}

fn groups(profile: &Profile, view: &View, value_type: ValueType, frames: &mut Frames) -> Vec<Group> {
    let mut groups: BTreeMap<Key, BTreeMap<Vec<usize>, i64>> = BTreeMap::new();
    let workers = Workers::new(profile, view);
    let mut machinery = Machinery::new(profile, view.interpreter);
    let mut shown = Vec::new();
    for (key, values) in profile.samples() {
        let value = values[view.value];
        if value == 0 {
            continue;
        }
        let stacks = groups
            .entry(Key::new(profile, view, &workers, &key.labels))
            .or_default();
        shown.clear();
        machinery.push_shown(profile.stack(key.stack), &mut shown);
        let sum = stacks.entry(frames.intern_stack(profile, &shown)).or_insert(0);
        *sum = sum.saturating_add(value);
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
    if groups.is_empty() {
        // So that a viewer has something to show, and says why it is empty.
        groups.push(Group {
            name: nothing(value_type).to_owned(),
            total: 0,
            stacks: BTreeMap::new(),
        });
    }
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
struct Frames(IndexSet<Frame, FxBuildHasher>);

impl Frames {
    fn intern_stack(&mut self, profile: &Profile, root_first: &[FrameId]) -> Vec<usize> {
        root_first
            .iter()
            .map(|id| self.intern(profile, profile.frame(*id)))
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
        self.0.insert_full(frame).0
    }
}
