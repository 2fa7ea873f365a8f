//! OpenTelemetry's profiles (OTLP, `v1development`): a `ProfilesData` message, which collectors take as the body of an
//! export request, whose two fields have the same numbers.
//!
//! One resource per process, one profile per kind of value. Everything else is in the dictionary, each thing once, and
//! nothing that nobody refers to; entry 0 of every table is empty. Where a recording says when its samples were, a sample has
//! a value for each slice of time that it was in, with the time at which that begins.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher as _},
    io::Write,
};

use anyhow::Context as _;
use indexmap::{IndexMap, IndexSet};
use profiler_otlp as proto;
use prost::Message as _;
use rustc_hash::{FxBuildHasher, FxHasher};

use super::{View, Writer};
use crate::profile::{
    Frame, FrameId, FrameKind, Labels, Profile, ValueType,
    timeline::{self, Part, Timeline},
};

#[cfg(test)]
mod tests;

/// Writes all values, whatever the view.
#[derive(Clone, Copy, Debug)]
pub struct Otlp;

impl Writer for Otlp {
    fn write(&self, profile: &Profile, _view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        out.write_all(&message(profile, |_| Vec::new(), |_| None)?)?;
        Ok(())
    }
}

/// The message. What is to be said beside what the profile says, by attribute: `about` a process, and `of_sample` of the
/// sample at a place among all.
pub fn message(
    profile: &Profile,
    about: impl Fn(&Labels) -> Vec<(String, String)>,
    of_sample: impl Fn(usize) -> Option<(&'static str, &'static str)>,
) -> anyhow::Result<Vec<u8>> {
    Ok(data(profile, about, of_sample)?.encode_to_vec())
}

/// What a receiver's answer (`ExportProfilesServiceResponse`) says that it did not take: how many profiles, and why.
pub fn refused(answer: &[u8]) -> Option<(i64, String)> {
    let answer = proto::ExportProfilesServiceResponse::decode(answer).ok()?;
    let part = answer.partial_success?;
    Some((part.rejected_profiles, part.error_message))
}

type Table<T> = IndexSet<T, FxBuildHasher>;

struct Tables<'a> {
    profile: &'a Profile,
    strings: Table<String>,
    attributes: Table<proto::Attribute>,
    mappings: Table<proto::Mapping>,
    functions: Table<proto::Function>,
    locations: Table<proto::Location>,
    stacks: Table<proto::Stack>,
}

fn index<T: Hash + Eq>(table: &mut Table<T>, entry: T) -> anyhow::Result<i32> {
    i32::try_from(table.insert_full(entry).0).context("more than two billion entries of one kind")
}

/// What a process's samples are, of one kind of value: by stack and attributes.
type Samples = IndexMap<(i32, Vec<i32>), Counted, FxBuildHasher>;

/// A value, and how much of it was in which slice of time: all of it, or nothing is known.
#[derive(Clone, Debug)]
struct Counted {
    value: i64,
    slices: BTreeMap<u32, i64>,
}

impl Counted {
    /// `weights`: what the sample has of the value by which times are told.
    fn new(value: i64, weights: &[(u32, u64)]) -> Self {
        Self {
            value,
            slices: timeline::shared_out(value, weights).collect(),
        }
    }

    fn add(&mut self, other: Self) {
        let timed = self.is_timed() && other.is_timed();
        self.value = self.value.saturating_add(other.value);
        for (slice, value) in other.slices {
            let sum = self.slices.entry(slice).or_default();
            *sum = sum.saturating_add(value);
        }
        if !timed {
            self.slices.clear();
        }
    }

    fn is_timed(&self) -> bool {
        !self.slices.is_empty()
    }

    fn into_sample(self, (stack_index, attribute_indices): (i32, Vec<i32>), clock: Clock) -> proto::Sample {
        let (values, timestamps_unix_nano) = match self.is_timed() {
            true => (self.slices.into_iter())
                .map(|(slice, value)| (value, clock.at(slice)))
                .unzip(),
            false => (vec![self.value], Vec::new()),
        };
        proto::Sample {
            stack_index,
            attribute_indices,
            link_index: 0,
            values,
            timestamps_unix_nano,
        }
    }
}

/// When slices begin.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start: u64,
    slice: u64,
}

impl Clock {
    fn at(self, slice: u32) -> u64 {
        self.start.saturating_add(self.slice.saturating_mul(slice.into()))
    }
}

fn data(
    profile: &Profile,
    about: impl Fn(&Labels) -> Vec<(String, String)>,
    of_sample: impl Fn(usize) -> Option<(&'static str, &'static str)>,
) -> anyhow::Result<proto::ProfilesData> {
    let mut tables = Tables::new(profile);
    // How exact a value is, is no profile of its own.
    let shown: Vec<usize> = profile.shown_types().map(|(at, _)| at).collect();
    let mut processes: IndexMap<u32, (&Labels, Vec<Samples>), FxBuildHasher> = IndexMap::default();
    // A time needs a day: without the one at which it began there are none.
    let timeline = profile.timeline().filter(|_| profile.started_at_ns > 0);
    let clock = Clock {
        start: u64::try_from(profile.started_at_ns).unwrap_or(0),
        slice: timeline.map_or(0, |timeline| timeline.slice_ns.unsigned_abs()),
    };
    let parts = timeline.map(Timeline::sorted).unwrap_or_default();
    let mut parts = parts.chunk_by(|one, other| one.sample == other.sample).peekable();
    for ((key, values), number) in profile.samples().zip(0_u32..) {
        let times = parts.next_if(|parts| parts.first().is_some_and(|part| part.sample == number));
        let weights = weights(times.unwrap_or_default(), values.get(profile.default_type).copied());
        if shown.iter().all(|at| values[*at] == 0) {
            continue;
        }
        let stack = tables.stack(profile.stack(key.stack))?;
        let mut attributes = tables.thread(&key.labels)?;
        if let Some((name, value)) = of_sample(number as usize) {
            attributes.push(tables.attribute(name, proto::Value::Text(value.to_owned()))?);
        }
        let (_, by_type) = processes
            .entry(key.labels.pid)
            .or_insert_with(|| (&key.labels, vec![Samples::default(); values.len()]));
        for ((at, samples), value) in by_type
            .iter_mut()
            .enumerate()
            .zip(values)
            .filter(|(_, value)| **value != 0)
        {
            let is_timed = profile.timeline_of(at).is_some();
            let counted = Counted::new(*value, if is_timed { &weights } else { &[] });
            match samples.get_mut(&(stack, attributes.clone())) {
                Some(sum) => sum.add(counted),
                None => _ = samples.insert((stack, attributes.clone()), counted),
            }
        }
    }
    let period = match profile.period {
        Some((value, period)) => Some((tables.value_type(value)?, period)),
        None => None,
    };
    let mut resource_profiles = Vec::new();
    for (pid, (labels, by_type)) in processes {
        let mut profiles = Vec::new();
        for ((at, value), samples) in profile.sample_types.iter().enumerate().zip(by_type) {
            if samples.is_empty() || !shown.contains(&at) {
                continue;
            }
            profiles.push(proto::Profile {
                sample_type: Some(tables.value_type(*value)?),
                samples: samples
                    .into_iter()
                    .map(|(of, counted)| counted.into_sample(of, clock))
                    .collect(),
                time_unix_nano: clock.start,
                duration_nano: u64::try_from(profile.duration_ns).unwrap_or(0),
                period_type: period.map(|(value, _)| value),
                period: period.map_or(0, |(_, period)| period),
                profile_id: id(profile, pid, *value),
                attribute_indices: Vec::new(),
            });
        }
        resource_profiles.push(proto::ResourceProfiles {
            resource: Some(resource(profile, labels, about(labels))),
            scope_profiles: vec![proto::ScopeProfiles {
                scope: Some(proto::Scope {
                    name: env!("CARGO_PKG_NAME").to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                }),
                profiles,
            }],
        });
    }
    Ok(proto::ProfilesData {
        resource_profiles,
        dictionary: Some(tables.into_dictionary()),
    })
}

/// How much of a sample was when; nothing unless that is known of all of it.
fn weights(parts: &[Part], whole: Option<i64>) -> Vec<(u32, u64)> {
    let timed = parts.iter().fold(0_i64, |sum, part| sum.saturating_add(part.value));
    match whole == Some(timed) {
        true => (parts.iter())
            .map(|part| (part.slice, part.value.unsigned_abs()))
            .collect(),
        false => Vec::new(),
    }
}

/// The same profile has the same id: a receiver that gets it twice can know.
fn id(profile: &Profile, pid: u32, value: ValueType) -> Vec<u8> {
    let half = |salt: u8| {
        let mut hasher = FxHasher::default();
        (
            salt,
            profile.started_at_ns,
            profile.duration_ns,
            pid,
            value.kind,
            value.unit,
        )
            .hash(&mut hasher);
        profile.comments.hash(&mut hasher);
        hasher.finish()
    };
    [half(1).to_be_bytes(), half(2).to_be_bytes()].concat()
}

fn resource(profile: &Profile, labels: &Labels, about: Vec<(String, String)>) -> proto::Resource {
    let text = |key: &str, text: &str| proto::KeyValue {
        key: key.to_owned(),
        value: Some(proto::AnyValue {
            value: Some(proto::Value::Text(text.to_owned())),
        }),
        key_strindex: 0,
    };
    let mut attributes = vec![proto::KeyValue {
        key: "process.pid".to_owned(),
        value: Some(proto::AnyValue {
            value: Some(proto::Value::Number(labels.pid.into())),
        }),
        key_strindex: 0,
    }];
    for (key, value) in [
        ("process.executable.name", labels.comm),
        ("process.command_line", labels.command),
        ("container.id", labels.container),
    ] {
        if value != Profile::EMPTY {
            attributes.push(text(key, profile.string(value)));
        }
    }
    attributes.extend(about.iter().map(|(key, value)| text(key, value)));
    proto::Resource { attributes }
}

impl<'a> Tables<'a> {
    fn new(profile: &'a Profile) -> Self {
        let mut tables = Self {
            profile,
            strings: Table::default(),
            attributes: Table::default(),
            mappings: Table::default(),
            functions: Table::default(),
            locations: Table::default(),
            stacks: Table::default(),
        };
        tables.strings.insert(String::new());
        tables.attributes.insert(proto::Attribute::default());
        tables.mappings.insert(proto::Mapping::default());
        tables.functions.insert(proto::Function::default());
        tables.locations.insert(proto::Location::default());
        tables.stacks.insert(proto::Stack::default());
        tables
    }

    fn into_dictionary(self) -> proto::Dictionary {
        proto::Dictionary {
            mapping_table: self.mappings.into_iter().collect(),
            location_table: self.locations.into_iter().collect(),
            function_table: self.functions.into_iter().collect(),
            link_table: vec![proto::Link::default()],
            string_table: self.strings.into_iter().collect(),
            attribute_table: self.attributes.into_iter().collect(),
            stack_table: self.stacks.into_iter().collect(),
        }
    }

    fn string(&mut self, text: &str) -> anyhow::Result<i32> {
        match self.strings.get_index_of(text) {
            Some(at) => i32::try_from(at).context("more than two billion strings"),
            None => index(&mut self.strings, text.to_owned()),
        }
    }

    fn value_type(&mut self, value: ValueType) -> anyhow::Result<proto::ValueType> {
        Ok(proto::ValueType {
            type_strindex: self.string(value.kind)?,
            unit_strindex: self.string(value.unit)?,
        })
    }

    fn attribute(&mut self, key: &str, value: proto::Value) -> anyhow::Result<i32> {
        let key_strindex = self.string(key)?;
        let value = Some(proto::AnyValue { value: Some(value) });
        index(&mut self.attributes, proto::Attribute { key_strindex, value })
    }

    fn thread(&mut self, labels: &Labels) -> anyhow::Result<Vec<i32>> {
        let mut attributes = vec![self.attribute("thread.id", proto::Value::Number(labels.tid.into()))?];
        if labels.thread != Profile::EMPTY {
            let name = self.profile.string(labels.thread).to_owned();
            attributes.push(self.attribute("thread.name", proto::Value::Text(name))?);
        }
        if labels.task != Profile::EMPTY {
            let name = self.profile.string(labels.task).to_owned();
            attributes.push(self.attribute("task", proto::Value::Text(name))?);
        }
        Ok(attributes)
    }

    /// The index of a leaf-first stack.
    fn stack(&mut self, stack: &[FrameId]) -> anyhow::Result<i32> {
        let mut location_indices = Vec::with_capacity(stack.len());
        let mut rest = stack;
        while !rest.is_empty() {
            let shared = self.inlined(rest);
            location_indices.push(self.location(&rest[..shared])?);
            rest = &rest[shared..];
        }
        index(&mut self.stacks, proto::Stack { location_indices })
    }

    /// How many of the first frames share one location.
    fn inlined(&self, stack: &[FrameId]) -> usize {
        let shared = stack.windows(2).take_while(|pair| {
            let (inner, outer) = (self.profile.frame(pair[0]), self.profile.frame(pair[1]));
            let place = |frame: &Frame| (frame.kind, frame.mapping, frame.address);
            inner.inlined && place(inner) == place(outer)
        });
        shared.count() + 1
    }

    fn location(&mut self, frames: &[FrameId]) -> anyhow::Result<i32> {
        let profile = self.profile;
        let first = profile.frame(frames[0]);
        let mut lines = Vec::with_capacity(frames.len());
        for id in frames {
            let frame = profile.frame(*id);
            if frame.function == Profile::EMPTY && frame.file == Profile::EMPTY {
                continue;
            }
            let function = proto::Function {
                name_strindex: self.string(profile.string(frame.function))?,
                filename_strindex: self.string(profile.string(frame.file))?,
                start_line: frame.first_line.into(),
            };
            lines.push(proto::Line {
                function_index: index(&mut self.functions, function)?,
                line: frame.line.into(),
            });
        }
        let mapping_index = match first.mapping {
            Some(mapping) => {
                let mapping = profile.mapping(mapping);
                let build_id = profile.string(mapping.build_id);
                let attribute_indices = match build_id {
                    "" => Vec::new(),
                    id => {
                        vec![self.attribute("process.executable.build_id.gnu", proto::Value::Text(id.to_owned()))?]
                    }
                };
                let filename_strindex = self.string(profile.string(mapping.path))?;
                let mapping = proto::Mapping {
                    memory_start: 0,
                    memory_limit: 0,
                    filename_strindex,
                    attribute_indices,
                };
                index(&mut self.mappings, mapping)?
            }
            None => 0,
        };
        let kind = match first.kind {
            FrameKind::Python => Some("cpython"),
            FrameKind::Native => Some("native"),
            FrameKind::Kernel => Some("kernel"),
            FrameKind::Marker => None,
        };
        let attribute_indices = match kind {
            Some(kind) => vec![self.attribute("profile.frame.type", proto::Value::Text(kind.to_owned()))?],
            None => Vec::new(),
        };
        let location = proto::Location {
            mapping_index,
            address: first.address,
            lines,
            attribute_indices,
        };
        index(&mut self.locations, location)
    }
}
