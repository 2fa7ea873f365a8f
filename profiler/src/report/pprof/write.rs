//! From a profile to pprof's tables.

use std::{hash::Hash, io::Write};

use anyhow::Context as _;
use flate2::{Compression, GzBuilder};
use indexmap::{IndexMap, IndexSet};
use prost::Message as _;
use rustc_hash::FxBuildHasher;

use super::{
    CGROUP, COMM, COMMAND, CONTAINER, KERNEL, KERNEL_START, MARKER, PID, PYTHON, TASK, THREAD, TID, proto, times,
};
use crate::{
    profile::{Frame, FrameId, FrameKind, Labels, Profile, StringId, ValueType, timeline::Timeline},
    report::{View, Writer},
};

/// Writes everything, whatever the view.
#[derive(Clone, Copy, Debug)]
pub struct Pprof;

impl Writer for Pprof {
    fn write(&self, profile: &Profile, _view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        let bytes = Tables::new(profile).into_proto().encode_to_vec();
        // No time stamp and no file name: the same profile gives the same bytes.
        let mut gzip = GzBuilder::new().write(out, Compression::default());
        gzip.write_all(&bytes)
            .and_then(|()| gzip.try_finish())
            .context("cannot write compressed data")
    }
}

/// What a pprof file keeps once. Ids are positions plus one, because 0 stands for "none".
struct Tables<'a> {
    profile: &'a Profile,
    strings: Interned<&'a str>,
    mappings: Interned<Mapping<'a>>,
    functions: Interned<Function<'a>>,
    /// By the frames they stand for: one, or several that were inlined into one another.
    locations: IndexMap<&'a [FrameId], proto::Location, FxBuildHasher>,
}

type Interned<T> = IndexSet<T, FxBuildHasher>;

#[derive(PartialEq, Eq, Hash)]
struct Mapping<'a> {
    kind: FrameKind,
    path: &'a str,
    build_id: &'a str,
}

#[derive(PartialEq, Eq, Hash)]
struct Function<'a> {
    name: &'a str,
    file: &'a str,
    first_line: u32,
}

impl<'a> Tables<'a> {
    fn new(profile: &'a Profile) -> Self {
        let mut strings = Interned::default();
        strings.insert("");
        Self {
            profile,
            strings,
            mappings: Interned::default(),
            functions: Interned::default(),
            locations: IndexMap::default(),
        }
    }

    fn into_proto(mut self) -> proto::Profile {
        let profile = self.profile;
        let sample_type: Vec<_> = profile
            .sample_types
            .iter()
            .map(|value| self.value_type(*value))
            .collect();
        let (period_type, period) = match profile.period {
            Some((value, period)) => (Some(self.value_type(value)), period),
            None => (None, 0),
        };
        let mut comment: Vec<_> = profile.comments.iter().map(|line| self.string(line)).collect();
        comment.extend(profile.findings.iter().map(|line| self.string(line)));
        let parts = profile.timeline().map(Timeline::sorted).unwrap_or_default();
        let mut parts = parts.chunk_by(|one, other| one.sample == other.sample).peekable();
        let sample = profile
            .samples()
            .zip(0_u32..)
            .map(|((key, values), number)| proto::Sample {
                location_id: self.stack(profile.stack(key.stack)),
                value: values.to_vec(),
                label: self.labels(&key.labels),
                slices: parts
                    .next_if(|parts| parts.first().is_some_and(|part| part.sample == number))
                    .map(times::encode)
                    .unwrap_or_default(),
            })
            .collect();
        let function = std::mem::take(&mut self.functions)
            .iter()
            .zip(1..)
            .map(|(function, id)| proto::Function {
                id,
                name: self.string(function.name),
                // `go tool pprof` demangles names again where it equals the name, and shortens them.
                system_name: 0,
                filename: self.string(function.file),
                start_line: function.first_line.into(),
            })
            .collect();
        let mapping = std::mem::take(&mut self.mappings)
            .iter()
            .zip(1..)
            .map(|(mapping, id)| self.mapping(mapping, id))
            .collect();
        let source = (profile.sources.iter())
            .map(|(path, text)| proto::Source {
                filename: self.string(path),
                text: text.to_owned(),
            })
            .collect();
        proto::Profile {
            default_sample_type: sample_type.get(profile.default_type).map_or(0, |value| value.r#type),
            sample_type,
            sample,
            mapping,
            location: self.locations.into_values().collect(),
            function,
            string_table: self.strings.into_iter().map(str::to_owned).collect(),
            time_nanos: profile.started_at_ns,
            duration_nanos: profile.duration_ns,
            period_type,
            period,
            comment,
            slice_nanos: profile.timeline().map_or(0, |timeline| timeline.slice_ns),
            source,
        }
    }

    fn string(&mut self, string: &'a str) -> i64 {
        // A vector has at most `isize::MAX` entries.
        self.strings.insert_full(string).0 as i64
    }

    fn interned(&mut self, id: StringId) -> i64 {
        self.string(self.profile.string(id))
    }

    fn value_type(&mut self, value: ValueType) -> proto::ValueType {
        proto::ValueType {
            r#type: self.string(value.kind),
            unit: self.string(value.unit),
        }
    }

    fn labels(&mut self, labels: &Labels) -> Vec<proto::Label> {
        let Labels {
            pid,
            tid,
            comm,
            command,
            thread,
            cgroup,
            container,
            task,
        } = labels;
        let mut labels = vec![
            proto::Label {
                key: self.string(PID),
                str: 0,
                num: (*pid).into(),
            },
            proto::Label {
                key: self.string(TID),
                str: 0,
                num: (*tid).into(),
            },
            proto::Label {
                key: self.string(COMM),
                str: self.interned(*comm),
                num: 0,
            },
            proto::Label {
                key: self.string(THREAD),
                str: self.interned(*thread),
                num: 0,
            },
        ];
        let optional = [
            (COMMAND, *command),
            (CGROUP, *cgroup),
            (CONTAINER, *container),
            (TASK, *task),
        ];
        for (key, value) in optional {
            if value != Profile::EMPTY {
                labels.push(proto::Label {
                    key: self.string(key),
                    str: self.interned(value),
                    num: 0,
                });
            }
        }
        labels
    }

    /// The locations of a leaf-first stack, leaf first. They are numbered from the root on, so that the first mapping
    /// of the file, which pprof takes for the main binary, is the one at the root and not the kernel.
    fn stack(&mut self, stack: &'a [FrameId]) -> Vec<u64> {
        let mut starts = Vec::with_capacity(stack.len());
        let mut start = 0;
        while start < stack.len() {
            starts.push(start);
            start += self.inlined(&stack[start..]);
        }
        let mut end = stack.len();
        let mut ids: Vec<_> = starts
            .into_iter()
            .rev()
            .map(|start| {
                let id = self.location(&stack[start..end]);
                end = start;
                id
            })
            .collect();
        ids.reverse();
        ids
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

    fn location(&mut self, frames: &'a [FrameId]) -> u64 {
        if let Some(location) = self.locations.get(frames) {
            return location.id;
        }
        let profile = self.profile;
        let frame = profile.frame(frames[0]);
        let location = proto::Location {
            id: self.locations.len() as u64 + 1,
            mapping_id: self.mapping_of(frame),
            address: frame.address,
            line: match frames {
                [_] if is_unresolved(profile, frame) => Vec::new(),
                _ => frames.iter().map(|id| self.line(profile.frame(*id))).collect(),
            },
        };
        let id = location.id;
        self.locations.insert(frames, location);
        id
    }

    fn line(&mut self, frame: &Frame) -> proto::Line {
        let function = Function {
            name: self.profile.string(frame.function),
            file: self.profile.string(frame.file),
            first_line: frame.first_line,
        };
        proto::Line {
            function_id: self.functions.insert_full(function).0 as u64 + 1,
            line: frame.line.into(),
        }
    }

    fn mapping_of(&mut self, frame: &Frame) -> u64 {
        let (path, build_id) = match (frame.mapping, frame.kind) {
            (_, FrameKind::Python) => (PYTHON, ""),
            (_, FrameKind::Marker) => (MARKER, ""),
            (Some(id), _) => {
                let mapping = self.profile.mapping(id);
                (self.profile.string(mapping.path), self.profile.string(mapping.build_id))
            }
            (None, FrameKind::Kernel) => (KERNEL, ""),
            (None, FrameKind::Native) => return 0,
        };
        self.mappings
            .insert_full(Mapping {
                kind: frame.kind,
                path,
                build_id,
            })
            .0 as u64
            + 1
    }

    fn mapping(&mut self, mapping: &Mapping<'a>, id: u64) -> proto::Mapping {
        let (memory_start, memory_limit) = match mapping.kind {
            FrameKind::Kernel => (KERNEL_START, u64::MAX),
            FrameKind::Python | FrameKind::Native | FrameKind::Marker => (0, 0),
        };
        proto::Mapping {
            id,
            memory_start,
            memory_limit,
            filename: self.string(mapping.path),
            build_id: self.string(mapping.build_id),
            // Readers need not look for symbols: we have.
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        }
    }
}

/// pprof shows the address of a location without lines.
fn is_unresolved(profile: &Profile, frame: &Frame) -> bool {
    matches!(frame.kind, FrameKind::Native | FrameKind::Kernel)
        && profile.string(frame.function).is_empty()
        && profile.string(frame.file).is_empty()
        && frame.line == 0
        && frame.first_line == 0
}
