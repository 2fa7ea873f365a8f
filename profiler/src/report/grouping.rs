//! What rows of a report stand for: a line, a function, a package, a thread, …

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use super::{View, label, package, path, workers::Workers};
use crate::{
    profile::{Frame, FrameId, FrameKind, Labels, MappingId, Profile, SampleKey, StringId},
    waits::cause::Cause,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// Line of a source file
    Line,
    /// Function
    #[default]
    Function,
    /// Source file, or the file that machine code is in
    File,
    /// Python module
    Module,
    /// Installed package; `own` is your code, `stdlib` the standard library
    Package,
    /// Thread
    Thread,
    /// Task of asyncio, by the coroutine that it runs
    Task,
    /// Process
    Process,
    /// Service, container or command
    Service,
    /// What was waited for, or that it ran
    Cause,
}

impl By {
    pub fn name(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Function => "function",
            Self::File => "file",
            Self::Module => "module",
            Self::Package => "package",
            Self::Thread => "thread",
            Self::Task => "task",
            Self::Process => "process",
            Self::Service => "service",
            Self::Cause => "cause",
        }
    }

    /// Whether its rows are of frames; otherwise each sample has one.
    pub fn is_of_frames(self) -> bool {
        matches!(
            self,
            Self::Line | Self::Function | Self::File | Self::Module | Self::Package
        )
    }
}

/// What tells one row from another.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Code {
        kind: FrameKind,
        function: StringId,
        file: StringId,
        first_line: u32,
        line: u32,
        mapping: Option<MappingId>,
        /// Of code without a name.
        address: u64,
    },
    Name(String),
}

/// Gives rows to frames and samples, and remembers what it gave.
pub(super) struct Grouping<'a> {
    profile: &'a Profile,
    by: By,
    workers: Workers,
    rows: FxHashMap<Key, u32>,
    of_frame: Vec<Option<u32>>,
    of_labels: FxHashMap<Labels, u32>,
    /// What a row is called, if not by its hottest frame.
    names: Vec<Option<String>>,
}

impl<'a> Grouping<'a> {
    pub(super) fn new(profile: &'a Profile, by: By, merge_workers: bool) -> Self {
        let view = View {
            merge_workers,
            ..View::default()
        };
        Self {
            profile,
            by,
            workers: Workers::new(profile, &view),
            rows: FxHashMap::default(),
            of_frame: vec![None; profile.frames().len()],
            of_labels: FxHashMap::default(),
            names: Vec::new(),
        }
    }

    pub(super) fn name(&self, row: u32) -> Option<&str> {
        self.names.get(row as usize)?.as_deref()
    }

    pub(super) fn of_frame(&mut self, id: FrameId) -> u32 {
        if let Some(row) = self.of_frame[id.index()] {
            return row;
        }
        let frame = self.profile.frame(id);
        let key = match self.by {
            By::File => Key::Name(file(self.profile, frame).into_owned()),
            By::Module => Key::Name(module(self.profile, frame).into_owned()),
            By::Package => Key::Name(package::package(self.profile, frame).into_owned()),
            _ => code(self.profile, frame, self.by == By::Line),
        };
        let row = self.row(key);
        self.of_frame[id.index()] = Some(row);
        row
    }

    /// The row of a sample as a whole.
    pub(super) fn of_sample(&mut self, key: &SampleKey) -> u32 {
        if self.by == By::Cause {
            let name = cause(self.profile, key);
            return self.row(Key::Name(name));
        }
        if let Some(row) = self.of_labels.get(&key.labels) {
            return *row;
        }
        let labels = &key.labels;
        let name = match self.by {
            By::Thread => {
                let (process, thread) = (
                    self.workers.process(self.profile, labels).1,
                    self.workers.thread(self.profile, labels).1,
                );
                format!("{thread} of {process}")
            }
            By::Task => task(self.profile, labels),
            By::Process => self.workers.process(self.profile, labels).1,
            _ => service(self.profile, labels),
        };
        let row = self.row(Key::Name(name));
        self.of_labels.insert(labels.clone(), row);
        row
    }

    fn row(&mut self, key: Key) -> u32 {
        if let Some(row) = self.rows.get(&key) {
            return *row;
        }
        // There are no more rows than frames and samples, whose ids are 32 bits.
        let row = self.names.len() as u32;
        self.names.push(match &key {
            Key::Name(name) => Some(label::clean(name.clone())),
            Key::Code { .. } => None,
        });
        self.rows.insert(key, row);
        row
    }
}

fn code(profile: &Profile, frame: &Frame, by_line: bool) -> Key {
    let python = frame.kind == FrameKind::Python;
    Key::Code {
        kind: frame.kind,
        function: frame.function,
        // Native code is told by the file it is mapped from, where that is known.
        file: match python || frame.mapping.is_none() || by_line {
            true => frame.file,
            false => Profile::EMPTY,
        },
        first_line: if python { frame.first_line } else { 0 },
        line: if by_line { frame.line } else { 0 },
        mapping: frame.mapping,
        address: match profile.string(frame.function).is_empty() {
            true => frame.address,
            false => 0,
        },
    }
}

/// The file a frame is of: its source's, or what it is mapped from.
pub(super) fn file<'a>(profile: &'a Profile, frame: &Frame) -> Cow<'a, str> {
    match (profile.string(frame.file), frame.kind, frame.mapping) {
        ("", FrameKind::Kernel, _) => "[kernel]".into(),
        ("", _, Some(mapping)) => path::file_name(profile.string(profile.mapping(mapping).path)).into(),
        ("", ..) => "[unknown]".into(),
        (file, FrameKind::Python, _) => path::short(file),
        // A native file's source says less than the library it is in.
        (_, _, Some(mapping)) => path::file_name(profile.string(profile.mapping(mapping).path)).into(),
        (file, ..) => path::short(file),
    }
}

pub(super) fn module<'a>(profile: &'a Profile, frame: &Frame) -> Cow<'a, str> {
    match (frame.kind, profile.string(frame.file)) {
        (FrameKind::Python, file) if !file.is_empty() => path::module(file),
        (FrameKind::Native, _) => match frame.mapping {
            Some(mapping) => path::extension(profile.string(profile.mapping(mapping).path)).into(),
            None => "[unknown]".into(),
        },
        (FrameKind::Kernel, _) => "[kernel]".into(),
        _ => "[unknown]".into(),
    }
}

/// What belongs to no task, or is not known to.
pub(super) const NO_TASK: &str = "(no task)";

pub(super) fn task(profile: &Profile, labels: &Labels) -> String {
    match profile.string(labels.task) {
        "" => NO_TASK.to_owned(),
        task => task.to_owned(),
    }
}

/// Where it runs, else what it runs.
pub(super) fn service(profile: &Profile, labels: &Labels) -> String {
    match label::place(profile.string(labels.cgroup), profile.string(labels.container)) {
        Some(place) => place.to_owned(),
        None => label::process_name(profile, labels),
    }
}

/// What a mark has of a wait in which the thread kept the GIL.
const HELD: &str = ", GIL held";

/// What was waited for: the innermost frame of a wait is a mark. All else ran, or lives.
fn cause(profile: &Profile, key: &SampleKey) -> String {
    match profile.stack(key.stack).first().map(|id| profile.frame(*id)) {
        Some(frame) if frame.kind == FrameKind::Marker => {
            let text = profile.string(frame.function);
            let inside = text.trim_start_matches('[').trim_end_matches(']');
            let word = inside.split([' ', ',']).next().unwrap_or(inside);
            match Cause::ALL.iter().any(|cause| cause.name() == word) {
                // Without whom it was for: `[socket 10.0.0.5:5432]`.
                true if inside.ends_with(HELD) => format!("{word}{HELD}"),
                true => word.to_owned(),
                false => text.to_owned(),
            }
        }
        _ => "on a CPU".to_owned(),
    }
}
