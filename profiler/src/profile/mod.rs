//! The one profile model: stacks with values, and nothing about where they came from.
//!
//! A [`Profile`] knows neither BPF nor processes; sources add stacks to it and writers (`report`) read it. When samples were
//! it knows to a slice of the recording, if their source does ([`timeline`]).
//! Everything that repeats is interned **by value**, so two things are the same exactly if their ids are.

use std::hash::Hash;

use indexmap::{IndexMap, IndexSet};
use rustc_hash::FxBuildHasher;

mod exactness;
mod sources;
pub mod timeline;

pub use exactness::Squares;
pub use sources::Sources;
use timeline::Timeline;

/// What one number of a sample counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueType {
    /// pprof's word for it, for example `cpu`.
    pub kind: &'static str,
    /// For example `nanoseconds`, `count` or `bytes`.
    pub unit: &'static str,
}

macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl $name {
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id!(
    /// An interned string; resolve it with [`Profile::string`].
    StringId
);
id!(
    /// An interned [`Mapping`].
    MappingId
);
id!(
    /// An interned [`Frame`].
    FrameId
);
id!(
    /// An interned stack.
    StackId
);

/// Names of markers that stand for Python frames.
pub mod unseen {
    pub const OTHER_CPYTHON: &str = "[frames of another CPython]";
    pub const OTHER_INTERPRETER: &str = "[frames of another interpreter]";
    pub const NOT_FOUND: &str = "[Python frames not found]";
    pub const TORN: &str = "[Python frames not readable]";
    pub const BAD_THREAD_STATE: &str = "[Python thread state not readable]";
    pub const ALL: [&str; 5] = [OTHER_CPYTHON, OTHER_INTERPRETER, NOT_FOUND, TORN, BAD_THREAD_STATE];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// A CPython function: `function` is its qualified name, `file` and `line` the source.
    Python,
    /// User-space machine code.
    Native,
    /// Kernel code.
    Kernel,
    /// Not code: a mark left where frames are missing (`[truncated]`, `[unknown Python function]`).
    Marker,
}

/// A file mapped into a process (or the kernel), as far as its frames need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// Path as the process sees it, or a name in brackets (`[kernel.kallsyms]`, `[vdso]`).
    pub path: StringId,
    /// The build id in lower-case hex, or the empty string.
    pub build_id: StringId,
}

/// One frame. Two frames are the same if every field is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    pub kind: FrameKind,
    /// Function name, demangled; empty if an address has no symbol.
    pub function: StringId,
    /// Source file as its interpreter or debug information names it, full path where known; may be empty.
    pub file: StringId,
    /// The line being executed; 0 if unknown.
    pub line: u32,
    /// The line the function starts on; 0 if unknown.
    pub first_line: u32,
    /// The file the machine code is in (native and kernel frames).
    pub mapping: Option<MappingId>,
    /// Native: virtual address inside the mapped ELF file (what `addr2line` takes). Kernel: address. Otherwise 0.
    pub address: u64,
    /// This function was inlined into the next frame (towards the root), which has the same `address`.
    pub inlined: bool,
}

/// Who was sampled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels {
    pub pid: u32,
    pub tid: u32,
    /// Name of the process (of its main thread).
    pub comm: StringId,
    /// What it runs, in a few words; may be empty.
    pub command: StringId,
    /// Name of the thread.
    pub thread: StringId,
    /// The path of its cgroup; may be empty.
    pub cgroup: StringId,
    /// The id or name of its container; empty if it is in none.
    pub container: StringId,
    /// The task of asyncio that ran, by its coroutine ([`crate::task`]); empty where none is known to.
    pub task: StringId,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SampleKey {
    pub stack: StackId,
    pub labels: Labels,
}

/// Stacks with values.
#[derive(Debug)]
pub struct Profile {
    /// What each sample's values mean.
    pub sample_types: Vec<ValueType>,
    /// Index of the one that people look at by default.
    pub default_type: usize,
    /// One sample stands for this much of this.
    pub period: Option<(ValueType, i64)>,
    /// Unix time of the recording's start, in nanoseconds.
    pub started_at_ns: i64,
    pub duration_ns: i64,
    /// Lines about how the profile was made (command, losses, cost), kept by formats that have room for them.
    pub comments: Vec<String>,
    /// What `why` found, if that made it, as the comment that keeps it in pprof (`report::why::stored`).
    pub findings: Option<String>,
    /// Source files, if they were asked for (`--with-source`).
    pub sources: Sources,
    strings: IndexSet<Box<str>, FxBuildHasher>,
    mappings: IndexSet<Mapping, FxBuildHasher>,
    frames: IndexSet<Frame, FxBuildHasher>,
    stacks: IndexSet<Box<[FrameId]>, FxBuildHasher>,
    samples: IndexMap<SampleKey, Box<[i64]>, FxBuildHasher>,
    timeline: Option<Timeline>,
}

impl Profile {
    pub fn new(sample_types: Vec<ValueType>, period: Option<(ValueType, i64)>) -> Self {
        let mut strings = IndexSet::default();
        strings.insert("".into());
        Self {
            sample_types,
            default_type: 0,
            period,
            started_at_ns: 0,
            duration_ns: 0,
            comments: Vec::new(),
            findings: None,
            sources: Sources::default(),
            strings,
            mappings: IndexSet::default(),
            frames: IndexSet::default(),
            stacks: IndexSet::default(),
            samples: IndexMap::default(),
            timeline: None,
        }
    }

    /// A profile of the same recording that has no samples yet.
    pub fn emptied(&self) -> Self {
        Self {
            default_type: self.default_type,
            started_at_ns: self.started_at_ns,
            duration_ns: self.duration_ns,
            comments: self.comments.clone(),
            findings: self.findings.clone(),
            sources: self.sources.clone(),
            timeline: self.timeline.as_ref().map(|timeline| Timeline::new(timeline.slice_ns)),
            ..Self::new(self.sample_types.clone(), self.period)
        }
    }

    /// The id of the empty string.
    pub const EMPTY: StringId = StringId(0);

    pub fn intern_string(&mut self, string: &str) -> StringId {
        // Look before boxing: nearly every call finds the string.
        match self.strings.get_index_of(string) {
            Some(index) => StringId(to_u32(index)),
            None => StringId(to_u32(self.strings.insert_full(string.into()).0)),
        }
    }

    pub fn intern_mapping(&mut self, mapping: Mapping) -> MappingId {
        MappingId(to_u32(self.mappings.insert_full(mapping).0))
    }

    pub fn intern_frame(&mut self, frame: Frame) -> FrameId {
        FrameId(to_u32(self.frames.insert_full(frame).0))
    }

    /// Interns a stack, given **leaf first**.
    pub fn intern_stack(&mut self, frames: &[FrameId]) -> StackId {
        match self.stacks.get_index_of(frames) {
            Some(index) => StackId(to_u32(index)),
            None => StackId(to_u32(self.stacks.insert_full(frames.into()).0)),
        }
    }

    /// Adds `values` (one per sample type) to what was counted for `key` before. Whether nothing was.
    ///
    /// # Panics
    /// If the number of values differs from the number of sample types: a bug of the source, not of the data.
    pub fn add(&mut self, key: SampleKey, values: &[i64]) -> bool {
        self.add_at(key, values).1
    }

    /// As [`add`](Self::add); also the place of the sample among all.
    pub fn add_at(&mut self, key: SampleKey, values: &[i64]) -> (u32, bool) {
        assert_eq!(values.len(), self.sample_types.len(), "one value per sample type");
        match self.samples.get_full_mut(&key) {
            Some((place, _, sums)) => {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = sum.saturating_add(*value);
                }
                (to_u32(place), false)
            }
            None => (to_u32(self.samples.insert_full(key, values.into()).0), true),
        }
    }

    /// Takes in all that another profile has met, but not its samples: what they are called here is told.
    pub fn translated(&mut self, other: &Self) -> Translated {
        let strings: Vec<StringId> = other.strings().map(|string| self.intern_string(string)).collect();
        let mappings: Vec<MappingId> = (other.mappings.iter())
            .map(|mapping| {
                self.intern_mapping(Mapping {
                    path: strings[mapping.path.index()],
                    build_id: strings[mapping.build_id.index()],
                })
            })
            .collect();
        let frames: Vec<FrameId> = (other.frames.iter())
            .map(|frame| {
                self.intern_frame(Frame {
                    function: strings[frame.function.index()],
                    file: strings[frame.file.index()],
                    mapping: frame.mapping.map(|mapping| mappings[mapping.index()]),
                    ..frame.clone()
                })
            })
            .collect();
        let stacks = (other.stacks.iter())
            .map(|stack| {
                let stack: Vec<FrameId> = stack.iter().map(|frame| frames[frame.index()]).collect();
                self.intern_stack(&stack)
            })
            .collect();
        Translated { strings, stacks }
    }

    pub fn string(&self, id: StringId) -> &str {
        &self.strings[id.index()]
    }

    pub fn mapping(&self, id: MappingId) -> &Mapping {
        &self.mappings[id.index()]
    }

    pub fn frame(&self, id: FrameId) -> &Frame {
        &self.frames[id.index()]
    }

    /// A stack's frames, leaf first.
    pub fn stack(&self, id: StackId) -> &[FrameId] {
        &self.stacks[id.index()]
    }

    pub fn strings(&self) -> impl ExactSizeIterator<Item = &str> {
        self.strings.iter().map(|string| &**string)
    }

    pub fn mappings(&self) -> impl ExactSizeIterator<Item = (MappingId, &Mapping)> {
        self.mappings
            .iter()
            .enumerate()
            .map(|(index, mapping)| (MappingId(to_u32(index)), mapping))
    }

    pub fn frames(&self) -> impl ExactSizeIterator<Item = (FrameId, &Frame)> {
        self.frames
            .iter()
            .enumerate()
            .map(|(index, frame)| (FrameId(to_u32(index)), frame))
    }

    /// Samples in the order in which they were first added.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = (&SampleKey, &[i64])> {
        self.samples.iter().map(|(key, values)| (key, &**values))
    }

    /// The sample at a place in that order.
    pub fn sample(&self, place: u32) -> Option<(&SampleKey, &[i64])> {
        self.samples
            .get_index(place as usize)
            .map(|(key, values)| (key, &**values))
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Sum of the values of sample type `index` over all samples.
    pub fn total(&self, index: usize) -> i64 {
        self.samples.values().map(|values| values[index]).sum()
    }
}

/// What one profile's ids are in another.
#[derive(Debug)]
pub struct Translated {
    strings: Vec<StringId>,
    stacks: Vec<StackId>,
}

impl Translated {
    pub fn key(&self, key: &SampleKey) -> SampleKey {
        let string = |id: StringId| self.strings[id.index()];
        let Labels {
            pid,
            tid,
            comm,
            command,
            thread,
            cgroup,
            container,
            task,
        } = key.labels;
        SampleKey {
            stack: self.stacks[key.stack.index()],
            labels: Labels {
                pid,
                tid,
                comm: string(comm),
                command: string(command),
                thread: string(thread),
                cgroup: string(cgroup),
                container: string(container),
                task: string(task),
            },
        }
    }
}

/// Ids are 32 bits: four billion distinct frames do not fit into memory, so running out is a bug.
fn to_u32(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^32 interned values")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: ValueType = ValueType {
        kind: "samples",
        unit: "count",
    };

    fn labels() -> Labels {
        Labels {
            pid: 1,
            tid: 2,
            comm: Profile::EMPTY,
            command: Profile::EMPTY,
            thread: Profile::EMPTY,
            cgroup: Profile::EMPTY,
            container: Profile::EMPTY,
            task: Profile::EMPTY,
        }
    }

    #[test]
    fn equal_stacks_share_an_id_and_their_values_add_up() {
        let mut profile = Profile::new(vec![SAMPLES], None);
        let function = profile.intern_string("f");
        let frame = Frame {
            kind: FrameKind::Python,
            function,
            file: Profile::EMPTY,
            line: 3,
            first_line: 1,
            mapping: None,
            address: 0,
            inlined: false,
        };
        let at_3 = profile.intern_frame(frame.clone());
        let at_4 = profile.intern_frame(Frame { line: 4, ..frame });
        let a = profile.intern_stack(&[at_3, at_4]);
        let b = profile.intern_stack(&[at_4, at_3]);
        assert_ne!(a, b);
        assert_eq!(a, profile.intern_stack(&[at_3, at_4]));

        profile.add(
            SampleKey {
                stack: a,
                labels: labels(),
            },
            &[2],
        );
        profile.add(
            SampleKey {
                stack: a,
                labels: labels(),
            },
            &[3],
        );
        profile.add(
            SampleKey {
                stack: b,
                labels: labels(),
            },
            &[1],
        );
        assert_eq!(profile.samples().len(), 2);
        assert_eq!(profile.total(0), 6);
    }
}
