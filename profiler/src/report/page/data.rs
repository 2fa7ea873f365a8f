//! What the page knows of a recording: tables of what repeats, the stacks as a tree, and what was counted.
//!
//! Frames are told apart by what can be shown of them, a function and a line, so stacks that differ by addresses alone are
//! one. What is left out of a stack depends on what is around it, and readers switch it, so the page has all frames, with
//! what each is to its stack ([`machinery`], [`owner`]).

use std::collections::BTreeMap;

use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap};
use serde::Serialize;

use super::{
    super::{Interpreter, View, grouping, label, machinery, owner, package, path, workers::Workers},
    cause,
    compare::Compare,
    findings::Findings,
    times::Times,
};
use crate::{
    profile::{self, FrameKind, Labels, MappingId, Profile, Sources, StringId},
    shown,
    waits::cause::Cause,
};

/// The tables, which the page reads as JSON. Where there are columns, one function, file or thread is a place in all.
#[derive(Debug, Default, Serialize)]
pub(super) struct Tables {
    /// Changes when a page of another version would be misled.
    pub(super) version: u32,
    pub(super) title: String,
    pub(super) subtitle: String,
    pub(super) comments: Vec<String>,
    /// Milliseconds since 1970, and seconds.
    pub(super) started_at: i64,
    pub(super) duration: f64,
    pub(super) values: Vec<Value>,
    /// The value that is shown first.
    pub(super) value: usize,
    /// For pages of a difference, of which the two values are what was before and what came after.
    pub(super) compare: Option<Compare>,
    /// Of recordings that `why` made.
    pub(super) findings: Option<Findings>,
    /// What of the interpreter is shown first: 0 all, 1 what works, 2 nothing.
    pub(super) interpreter: u8,
    /// What the roots of stacks are first: 0 nothing, 1 processes, 2 threads, 3 threads of processes.
    pub(super) roots: u8,
    pub(super) packages: Vec<String>,
    pub(super) files: Files,
    pub(super) functions: Functions,
    pub(super) processes: Processes,
    pub(super) threads: Threads,
    /// Tasks of asyncio, if there are any.
    pub(super) tasks: Vec<String>,
    /// Names of causes, if there are waits.
    pub(super) causes: Vec<&'static str>,
    /// How many of each follow as numbers.
    pub(super) frames: usize,
    pub(super) nodes: usize,
    pub(super) samples: usize,
    /// Seconds of a slice of time, how many there are (none: it is not known when samples were), how many parts of samples
    /// in them, and of which value those are.
    pub(super) slice: f64,
    pub(super) slices: u32,
    pub(super) parts: usize,
    pub(super) timed: usize,
    /// The times are those at which what is in use came.
    pub(super) births: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Value {
    kind: String,
    unit: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Files {
    pub(super) path: Vec<String>,
    pub(super) short: Vec<String>,
    /// Source text by file, where it was embedded.
    pub(super) source: BTreeMap<usize, String>,
    /// Of a difference, what that was before, where it was another.
    pub(super) source_before: BTreeMap<usize, String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Functions {
    pub(super) name: Vec<String>,
    pub(super) file: Vec<usize>,
    package: Vec<usize>,
    /// 0 Python, 1 native, 2 kernel, 3 marker.
    pub(super) kind: Vec<u8>,
    first_line: Vec<u32>,
    /// `machinery::Role` and `owner::Role`, as numbers.
    machinery: Vec<u8>,
    owner: Vec<u8>,
    /// One more than the place of the cause of waiting that a marker names; 0 for none.
    cause: Vec<usize>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Processes {
    name: Vec<String>,
    /// What it runs, without its number; empty for what belongs to none.
    program: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Threads {
    name: Vec<String>,
    process: Vec<usize>,
}

/// All of it. Numbers that are many are apart, by column.
#[derive(Debug, Default)]
pub(super) struct Data {
    pub(super) tables: Tables,
    /// Of each frame.
    pub(super) function: Vec<u32>,
    pub(super) line: Vec<u32>,
    /// Of each node of the tree, callers before what they call: how many levels it is nearer to the root than the child
    /// of the node before it would be, and its frame.
    pub(super) up: Vec<u32>,
    pub(super) frame: Vec<u32>,
    /// Of each sample: its node (0 is the empty stack, so one more than its place), its thread, its task (if there are any),
    /// and what was counted by value type. Sorted by node.
    pub(super) node: Vec<u32>,
    pub(super) thread: Vec<u32>,
    pub(super) task: Vec<u32>,
    pub(super) values: Vec<Vec<i64>>,
    pub(super) times: Times,
}

impl Data {
    pub(super) fn new(profile: &Profile, view: &View) -> Self {
        Self::with(profile, view, cause::has_waits(profile), &Sources::default())
    }

    /// `has_waits`: what some of it was waited for is told by marks. `before`: of a difference, source as it was.
    pub(super) fn with(profile: &Profile, view: &View, has_waits: bool, before: &Sources) -> Self {
        let mut frames = Frames::new(profile, has_waits, before);
        let mut tasks = Tasks::new(profile);
        let mut tree = Tree::default();
        let mut threads = IndexSet::<(u32, String, (String, String)), FxBuildHasher>::default();
        let workers = Workers::new(profile, view);
        let mut sums: FxHashMap<(u32, u32, u32), Vec<i64>> = FxHashMap::default();
        let mut stacks: FxHashMap<profile::StackId, u32> = FxHashMap::default();
        let mut places = Vec::with_capacity(profile.samples().len());
        for (key, values) in profile.samples() {
            let node = *(stacks.entry(key.stack)).or_insert_with(|| {
                (profile.stack(key.stack).iter().rev()).fold(0, |node, id| tree.child(node, frames.intern(*id)))
            });
            let process = process(profile, &workers, &key.labels);
            let (tid, thread) = thread(profile, &workers, &key.labels);
            let thread = threads.insert_full((tid, thread, process)).0 as u32;
            let task = tasks.of(profile, &key.labels);
            places.push((node, thread, task));
            let sums = sums
                .entry((node, thread, task))
                .or_insert_with(|| vec![0; values.len()]);
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = sum.saturating_add(*value);
            }
        }
        let (up, frame, ranks) = tree.in_order();
        let mut samples: Vec<_> = sums
            .into_iter()
            .map(|((node, thread, task), values)| (ranks[node as usize], thread, task, values))
            .collect();
        samples.sort_unstable();
        let row = |(node, thread, task): (u32, u32, u32)| {
            let place = (ranks[node as usize], thread, task);
            samples.partition_point(|sample| (sample.0, sample.1, sample.2) < place) as u32
        };
        let rows: Vec<u32> = places.into_iter().map(row).collect();
        let times = Times::new(profile, &rows, samples.len());

        let mut processes = IndexSet::<(String, String), FxBuildHasher>::default();
        let mut thread_table = Threads::default();
        for (_, name, process) in threads {
            thread_table.process.push(processes.insert_full(process).0);
            thread_table.name.push(name);
        }
        let (name, program) = processes.into_iter().unzip();
        let tables = Tables {
            version: 3,
            title: shown::line(&view.title),
            subtitle: shown::line(&view.subtitle),
            comments: profile.comments.iter().map(|line| shown::line(line)).collect(),
            started_at: profile.started_at_ns / 1_000_000,
            duration: profile.duration_ns as f64 / 1e9,
            values: (profile.shown_types())
                .map(|(_, value)| Value {
                    kind: shown::line(value.kind),
                    unit: shown::line(value.unit),
                })
                .collect(),
            value: (profile.shown_types())
                .position(|(at, _)| at == view.value)
                .unwrap_or(0),
            compare: None,
            findings: Findings::of(profile),
            interpreter: match view.interpreter {
                Interpreter::Full => 0,
                Interpreter::Work => 1,
                Interpreter::Hidden => 2,
            },
            roots: u8::from(view.process) | u8::from(view.thread) << 1,
            packages: frames.packages.into_iter().collect(),
            files: frames.files,
            functions: frames.functions,
            processes: Processes { name, program },
            threads: thread_table,
            tasks: tasks.names.into_iter().collect(),
            causes: match has_waits {
                true => Cause::ALL.map(Cause::name).to_vec(),
                false => Vec::new(),
            },
            frames: frames.keys.len(),
            nodes: frame.len(),
            samples: samples.len(),
            slice: times.slice,
            slices: times.slices,
            parts: times.value.len(),
            births: profile.has_births(),
            timed: (profile.shown_types())
                .position(|(value, _)| value == profile.default_type)
                .unwrap_or(0),
        };
        let (function, line) = frames.keys.into_iter().unzip();
        Self {
            tables,
            function,
            line,
            up,
            frame,
            node: samples.iter().map(|sample| sample.0).collect(),
            thread: samples.iter().map(|sample| sample.1).collect(),
            task: match tasks.any {
                true => samples.iter().map(|sample| sample.2).collect(),
                false => Vec::new(),
            },
            values: (profile.shown_types())
                .map(|(value, _)| samples.iter().map(|sample| sample.3[value]).collect())
                .collect(),
            times,
        }
    }
}

/// Tasks by their names.
struct Tasks {
    any: bool,
    names: IndexSet<String, FxBuildHasher>,
}

impl Tasks {
    fn new(profile: &Profile) -> Self {
        Self {
            any: profile.samples().any(|(key, _)| key.labels.task != Profile::EMPTY),
            names: IndexSet::default(),
        }
    }

    fn of(&mut self, profile: &Profile, labels: &Labels) -> u32 {
        match self.any {
            true => self.names.insert_full(shown::line(&grouping::task(profile, labels))).0 as u32,
            false => 0,
        }
    }
}

/// The number of a thread, and how it reads.
fn thread(profile: &Profile, workers: &Workers, labels: &Labels) -> (u32, String) {
    match labels.tid {
        // Of a difference: no two runs have a number in common.
        0 => (0, label::thread_name(profile, labels)),
        _ => workers.thread(profile, labels),
    }
}

/// How a process reads, and what it runs. What an allocator keeps, for one, belongs to none.
fn process(profile: &Profile, workers: &Workers, labels: &Labels) -> (String, String) {
    match (labels.pid, labels.comm, labels.command) {
        (0, Profile::EMPTY, Profile::EMPTY) => ("of no process".to_owned(), String::new()),
        (0, ..) => {
            let name = label::clean(label::process_name(profile, labels));
            (name.clone(), name)
        }
        _ => {
            let (_, name) = workers.process(profile, labels);
            (name, label::clean(label::process_name(profile, labels)))
        }
    }
}

/// Frames by what is shown of them.
struct Frames<'a> {
    profile: &'a Profile,
    /// By the profile's frames.
    known: Vec<Option<u32>>,
    /// A function and a line each.
    keys: IndexSet<(u32, u32), FxBuildHasher>,
    functions: Functions,
    function_of: FxHashMap<(FrameKind, String, usize, u32), u32>,
    files: Files,
    file_of: FxHashMap<(FrameKind, StringId), usize>,
    packages: IndexSet<String, FxBuildHasher>,
    has_waits: bool,
    before: &'a Sources,
}

impl<'a> Frames<'a> {
    fn new(profile: &'a Profile, has_waits: bool, before: &'a Sources) -> Self {
        Self {
            profile,
            known: vec![None; profile.frames().len()],
            keys: IndexSet::default(),
            functions: Functions::default(),
            function_of: FxHashMap::default(),
            files: Files::default(),
            file_of: FxHashMap::default(),
            packages: IndexSet::default(),
            has_waits,
            before,
        }
    }

    fn intern(&mut self, id: profile::FrameId) -> u32 {
        if let Some(known) = self.known[id.index()] {
            return known;
        }
        let frame = self.profile.frame(id);
        let function = self.function(frame);
        let line = match frame.kind {
            FrameKind::Python => frame.line,
            FrameKind::Native | FrameKind::Kernel | FrameKind::Marker => 0,
        };
        let index = self.keys.insert_full((function, line)).0 as u32;
        self.known[id.index()] = Some(index);
        index
    }

    fn function(&mut self, frame: &profile::Frame) -> u32 {
        let profile = self.profile;
        let name = label::name(profile, frame);
        let file = self.file(frame);
        let first_line = match frame.kind {
            FrameKind::Python => frame.first_line,
            FrameKind::Native | FrameKind::Kernel | FrameKind::Marker => 0,
        };
        let next = self.functions.name.len() as u32;
        let index = *(self.function_of)
            .entry((frame.kind, name.clone(), file, first_line))
            .or_insert(next);
        if index == next {
            let cause = match frame.kind {
                FrameKind::Marker if self.has_waits => cause::of_marker(&name).map_or(0, |at| at + 1),
                _ => 0,
            };
            self.functions.name.push(name);
            self.functions.file.push(file);
            let package = shown::line(&package::package(profile, frame));
            self.functions.package.push(self.packages.insert_full(package).0);
            self.functions.kind.push(match frame.kind {
                FrameKind::Python => 0,
                FrameKind::Native => 1,
                FrameKind::Kernel => 2,
                FrameKind::Marker => 3,
            });
            self.functions.first_line.push(first_line);
            self.functions.machinery.push(machinery::role(profile, frame) as u8);
            self.functions.owner.push(owner::role(profile, frame) as u8);
            self.functions.cause.push(cause);
        }
        index
    }

    /// The source file of Python, and the mapped one of machine code.
    fn file(&mut self, frame: &profile::Frame) -> usize {
        let profile = self.profile;
        let mapped = |id: MappingId| profile.mapping(id).path;
        let path = match frame.kind {
            FrameKind::Python => frame.file,
            FrameKind::Native => frame.mapping.map_or(Profile::EMPTY, mapped),
            FrameKind::Kernel | FrameKind::Marker => Profile::EMPTY,
        };
        if let Some(known) = self.file_of.get(&(frame.kind, path)) {
            return *known;
        }
        let text = profile.string(path);
        let short = match frame.kind {
            FrameKind::Python if text.is_empty() => "<unknown>".into(),
            FrameKind::Python => path::short(text),
            FrameKind::Native if text.is_empty() => "[unknown]".into(),
            FrameKind::Native => path::file_name(text).into(),
            FrameKind::Kernel => "kernel".into(),
            FrameKind::Marker => "".into(),
        };
        let index = self.files.path.len();
        if frame.kind == FrameKind::Python {
            let of = |sources: &Sources| Some((index, source_text(sources.get(text)?)));
            self.files.source.extend(of(&profile.sources));
            self.files.source_before.extend(of(self.before));
        }
        self.files.path.push(shown::line(text));
        self.files.short.push(shown::line(&short));
        self.file_of.insert((frame.kind, path), index);
        index
    }
}

/// Source as it may be shown: what acts is replaced, but for tabs, and lines end as they are counted.
fn source_text(text: &str) -> String {
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let shown = lines.map(|line| line.split('\t').map(shown::line).collect::<Vec<_>>().join("\t"));
    shown.collect::<Vec<_>>().join("\n")
}

/// Stacks that begin alike share nodes. Node 0 is the empty stack.
#[derive(Default)]
struct Tree {
    children: FxHashMap<(u32, u32), u32>,
    /// Of each node but the first: its caller and its frame.
    nodes: Vec<(u32, u32)>,
}

impl Tree {
    fn child(&mut self, node: u32, frame: u32) -> u32 {
        let next = self.nodes.len() as u32 + 1;
        let child = *self.children.entry((node, frame)).or_insert(next);
        if child == next {
            self.nodes.push((node, frame));
        }
        child
    }

    /// The columns `up` and `frame` in the order of a walk, and for each node, the empty stack included, its new number.
    fn in_order(self) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
        let count = self.nodes.len() + 1;
        let mut first = vec![0_u32; count];
        let mut next = vec![0_u32; count];
        for (at, (parent, _)) in self.nodes.iter().enumerate().rev() {
            next[at + 1] = first[*parent as usize];
            first[*parent as usize] = at as u32 + 1;
        }
        let mut ranks = vec![0_u32; count];
        let (mut up, mut frame) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut path = vec![0_u32];
        let mut before = 0;
        let mut node = first[0];
        while node != 0 {
            ranks[node as usize] = frame.len() as u32 + 1;
            // The node is on the level of `path.len()`; a child of the one before would be below that.
            up.push((before + 1 - path.len()) as u32);
            frame.push(self.nodes[node as usize - 1].1);
            before = path.len();
            if first[node as usize] != 0 {
                path.push(node);
                node = first[node as usize];
                continue;
            }
            while next[node as usize] == 0 {
                match path.pop() {
                    Some(parent) if !path.is_empty() => node = parent,
                    _ => return (up, frame, ranks),
                }
            }
            node = next[node as usize];
        }
        (up, frame, ranks)
    }
}
