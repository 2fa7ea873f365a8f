//! From samples to rows: every sample belongs to exactly one, so rows add up to the whole.

use std::time::Duration;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};
use serde::Serialize;

use super::{Detail, HEAP, MemoryReport, error};
use crate::{
    profile::{Frame, FrameId, FrameKind, Labels, Profile, SampleKey},
    report::{
        label,
        owner::{Owner, Owners},
        path,
    },
};

/// What a row of the table stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// A line of Python, or a native function.
    #[default]
    Line,
    Function,
    /// A source file, or the mapped file of native code.
    File,
    Module,
    Thread,
    Process,
}

impl By {
    pub fn name(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Function => "function",
            Self::File => "file",
            Self::Module => "module",
            Self::Thread => "thread",
            Self::Process => "process",
        }
    }
}

/// Which processes and threads are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ids {
    /// Those with the same numbers.
    Kept,
    /// Those with the same names, as from one recording to the next.
    Dropped,
}

/// What a row is about. Two rows are the same exactly if every field is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// What people read: clean as frames are in [`label`], and never empty.
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub function: String,
    /// The whole path, of the source or else of the mapped file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// The installed code in which it came, where `name` is the program's own that called it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub library: String,
    /// Of what sort the pages are, if they are not just the process's own memory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sort: String,
    /// 0 if it is about no line.
    #[serde(skip_serializing_if = "is_zero")]
    pub line: u32,
    /// 0 if it is about no process.
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub tid: u32,
}

impl Place {
    /// Its name and its library's, where there is no other room for that one.
    pub fn full_name(&self) -> String {
        match &*self.library {
            "" => self.name.clone(),
            library => format!("{} via {library}", self.name),
        }
    }
}

/// Sums of samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    pub inuse_bytes: u64,
    pub inuse_objects: u64,
    pub alloc_bytes: u64,
    pub alloc_objects: u64,
    /// In bytes².
    pub inuse_variance: f64,
    pub alloc_variance: f64,
    /// Of the bytes in use, those that were worked out rather than seen.
    pub estimated_bytes: u64,
    /// Of the bytes in use, those in memory that others may have filled.
    pub uncertain_bytes: u64,
    pub oldest: Option<Duration>,
    pub youngest: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub place: Place,
    pub sums: Sums,
    /// The extension module in which most of it came, if that is more than half.
    pub via: Option<String>,
}

/// Rows of all samples, in the order in which their places were first met, and for each sample its row.
pub(super) struct Groups {
    pub(super) rows: Vec<Row>,
    pub(super) row_of: Vec<usize>,
}

impl Sums {
    pub fn inuse_error(&self) -> u64 {
        error(self.inuse_variance)
    }

    pub fn alloc_error(&self) -> u64 {
        error(self.alloc_variance)
    }

    pub(super) fn add(&mut self, other: &Self) {
        let Self {
            inuse_bytes,
            inuse_objects,
            alloc_bytes,
            alloc_objects,
            inuse_variance,
            alloc_variance,
            estimated_bytes,
            uncertain_bytes,
            oldest,
            youngest,
        } = other;
        let add = |sum: &mut u64, number: &u64| *sum = sum.saturating_add(*number);
        add(&mut self.inuse_bytes, inuse_bytes);
        add(&mut self.inuse_objects, inuse_objects);
        add(&mut self.alloc_bytes, alloc_bytes);
        add(&mut self.alloc_objects, alloc_objects);
        add(&mut self.estimated_bytes, estimated_bytes);
        add(&mut self.uncertain_bytes, uncertain_bytes);
        // Sites are sampled independently of one another, so their variances add up.
        self.inuse_variance += inuse_variance;
        self.alloc_variance += alloc_variance;
        self.oldest = self.oldest.max(*oldest);
        self.youngest = match (self.youngest, *youngest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    pub(super) fn of(values: &Values, detail: &Detail) -> Self {
        let variance = |variance: f64| if variance > 0.0 { variance } else { 0.0 };
        Self {
            inuse_bytes: values.inuse_bytes,
            inuse_objects: values.inuse_objects,
            alloc_bytes: values.alloc_bytes,
            alloc_objects: values.alloc_objects,
            inuse_variance: variance(detail.variance_inuse),
            alloc_variance: variance(detail.variance_alloc),
            estimated_bytes: if detail.estimated { values.inuse_bytes } else { 0 },
            uncertain_bytes: detail.uncertain_bytes.min(values.inuse_bytes),
            oldest: detail.oldest,
            youngest: detail.youngest,
        }
    }
}

/// The four numbers of a sample, whatever their order in the profile; what is negative or missing is nothing.
pub(super) struct Values {
    pub(super) inuse_bytes: u64,
    pub(super) inuse_objects: u64,
    pub(super) alloc_bytes: u64,
    pub(super) alloc_objects: u64,
}

/// Where a profile has the sample types of [`HEAP`].
pub(super) struct Indices([Option<usize>; 4]);

impl Indices {
    pub(super) fn of(profile: &Profile) -> Self {
        Self(HEAP.map(|wanted| profile.sample_types.iter().position(|found| *found == wanted)))
    }

    pub(super) fn are_complete(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }

    pub(super) fn values(&self, values: &[i64]) -> Values {
        let [alloc_objects, alloc_bytes, inuse_objects, inuse_bytes] = self.0.map(|index| {
            let value = index.and_then(|index| values.get(index)).copied().unwrap_or(0);
            u64::try_from(value).unwrap_or(0)
        });
        Values {
            inuse_bytes,
            inuse_objects,
            alloc_bytes,
            alloc_objects,
        }
    }
}

/// The lines that are responsible for what came with these stacks.
pub fn lines_of(profile: &Profile, keys: &[SampleKey]) -> Vec<Place> {
    let mut places = Places::new(profile, By::Line, Ids::Kept);
    let place = |key: &SampleKey| {
        let owner = places.owners.find(key.stack);
        places.place(owner, &key.labels)
    };
    keys.iter().map(place).collect()
}

pub(super) fn group(report: &MemoryReport, by: By, ids: Ids) -> Groups {
    group_samples(&report.profile, &report.details, by, ids)
}

/// Groups samples; those without details are exact and of unknown age.
pub(super) fn group_samples(profile: &Profile, details: &[Detail], by: By, ids: Ids) -> Groups {
    let indices = Indices::of(profile);
    let mut places = Places::new(profile, by, ids);
    let mut rows: IndexMap<Place, (Sums, Vias), FxBuildHasher> = IndexMap::default();
    let mut row_of = Vec::with_capacity(profile.samples().len());
    // A place is a handful of strings, and there are far more samples than places.
    let mut known: FxHashMap<Key, usize> = FxHashMap::default();
    let nothing = Detail::default();

    for (index, (sample, values)) in profile.samples().enumerate() {
        let owner = places.owners.find(sample.stack);
        let key = places.key(owner, &sample.labels);
        let row = *known.entry(key).or_insert_with(|| {
            let row = rows.entry(places.place(owner, &sample.labels));
            let index = row.index();
            row.or_default();
            index
        });
        row_of.push(row);
        let Some((_, (sums, vias))) = rows.get_index_mut(row) else {
            continue;
        };
        let values = indices.values(values);
        vias.add(owner.via, values.inuse_bytes.max(values.alloc_bytes));
        sums.add(&Sums::of(&values, details.get(index).unwrap_or(&nothing)));
    }

    let rows = rows
        .into_iter()
        .map(|(place, (sums, vias))| Row {
            via: match by {
                By::Line | By::Function | By::File | By::Module if !place.library.is_empty() => {
                    Some(place.library.clone())
                }
                By::Line | By::Function | By::File | By::Module => vias.name(profile),
                By::Thread | By::Process => None,
            },
            place,
            sums,
        })
        .collect();
    Groups { rows, row_of }
}

/// What tells samples of different places apart, as far as it can be told without making strings.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Frame(Owner),
    Thread(Labels),
}

struct Places<'a> {
    profile: &'a Profile,
    owners: Owners<'a>,
    by: By,
    ids: Ids,
}

impl<'a> Places<'a> {
    fn new(profile: &'a Profile, by: By, ids: Ids) -> Self {
        Self {
            profile,
            owners: Owners::new(profile),
            by,
            ids,
        }
    }

    fn key(&self, owner: Owner, labels: &Labels) -> Key {
        match self.by {
            By::Line | By::Function | By::File | By::Module => Key::Frame(Owner { via: None, ..owner }),
            By::Thread | By::Process => Key::Thread(labels.clone()),
        }
    }

    fn place(&self, owner: Owner, labels: &Labels) -> Place {
        match self.by {
            By::Thread => self.thread(labels),
            By::Process => self.process(labels),
            By::Line | By::Function | By::File | By::Module => match owner.frame {
                None => named("[no frames]"),
                Some(id) => {
                    let library = owner.library.map(|id| self.library(self.profile.frame(id)));
                    let mut place = Place {
                        library: library.unwrap_or_default(),
                        ..self.frame(self.profile.frame(id))
                    };
                    if let Some(sort) = owner.sort.filter(|sort| *sort != id) {
                        place.sort = self.profile.string(self.profile.frame(sort).function).to_owned();
                        place.name = format!("{} {}", place.name, place.sort);
                    }
                    place
                }
            },
        }
    }

    /// What of an installed function is told beside the program's own line: not its line, so that there is one row for
    /// all that one function of a library does for a line.
    fn library(&self, frame: &Frame) -> String {
        let package = path::module(self.profile.string(frame.file));
        let package = package.split('.').next().unwrap_or_default();
        clean(&format!("{} ({package})", self.profile.string(frame.function)))
    }

    fn process(&self, labels: &Labels) -> Place {
        let name = clean(&label::process_name(self.profile, labels));
        match self.ids {
            Ids::Dropped => named(&name),
            Ids::Kept => Place {
                pid: labels.pid,
                ..named(&format!("{name} ({})", labels.pid))
            },
        }
    }

    fn thread(&self, labels: &Labels) -> Place {
        let process = clean(&label::process_name(self.profile, labels));
        let thread = clean(self.profile.string(labels.thread));
        match self.ids {
            Ids::Dropped => named(&format!("{thread} of {process}")),
            Ids::Kept => Place {
                pid: labels.pid,
                tid: labels.tid,
                ..named(&match labels.pid == labels.tid {
                    true => format!("main thread of {process} ({})", labels.pid),
                    false => format!("{thread} ({}) of {process} ({})", labels.tid, labels.pid),
                })
            },
        }
    }

    fn frame(&self, frame: &Frame) -> Place {
        match frame.kind {
            FrameKind::Python => self.python(frame),
            FrameKind::Native => self.native(frame),
            FrameKind::Marker => named(&label::frame(self.profile, frame)),
            FrameKind::Kernel => match self.by {
                By::File | By::Module => named("[kernel]"),
                _ => Place {
                    function: clean(self.profile.string(frame.function)),
                    ..named(&label::frame(self.profile, frame))
                },
            },
        }
    }

    fn python(&self, frame: &Frame) -> Place {
        let function = match self.profile.string(frame.function) {
            "" => "<unknown>",
            function => function,
        };
        let file = match self.profile.string(frame.file) {
            "" => "<unknown>",
            file => file,
        };
        let short = path::short(file);
        let place = match (self.by, frame.line) {
            (By::Line, line @ 1..) => Place {
                line,
                ..named(&format!("{function} ({short}:{line})"))
            },
            (By::File, _) => return self.file(&short, file),
            // Two files of one module's name are two rows: only the file tells whose it is.
            (By::Module, _) => return self.file(&path::module(file), file),
            _ => named(&format!("{function} ({short})")),
        };
        Place {
            function: clean(function),
            file: clean(file),
            ..place
        }
    }

    fn native(&self, frame: &Frame) -> Place {
        let file = frame
            .mapping
            .map_or("", |mapping| self.profile.string(self.profile.mapping(mapping).path));
        match self.by {
            By::File | By::Module if file.is_empty() => named("[anonymous]"),
            By::File | By::Module => self.file(path::file_name(file), file),
            _ => Place {
                function: match self.profile.string(frame.function) {
                    "" => String::new(),
                    function => clean(function),
                },
                file: if file.is_empty() { String::new() } else { clean(file) },
                ..named(&label::frame(self.profile, frame))
            },
        }
    }

    fn file(&self, name: &str, file: &str) -> Place {
        Place {
            file: clean(file),
            ..named(name)
        }
    }
}

fn named(name: &str) -> Place {
    Place {
        name: clean(name),
        ..Place::default()
    }
}

/// Cleans a text the way frames are: it reads as a marker of that name would.
pub(super) fn clean(text: &str) -> String {
    let mut profile = Profile::new(Vec::new(), None);
    let frame = Frame {
        kind: FrameKind::Marker,
        function: profile.intern_string(text),
        file: Profile::EMPTY,
        line: 0,
        first_line: 0,
        mapping: None,
        address: 0,
        inlined: false,
    };
    label::frame(&profile, &frame)
}

/// Through which extension modules a row's bytes came.
#[derive(Default)]
struct Vias {
    bytes: FxHashMap<FrameId, u64>,
    total: u64,
}

impl Vias {
    fn add(&mut self, via: Option<FrameId>, bytes: u64) {
        self.total = self.total.saturating_add(bytes);
        if let Some(via) = via {
            let sum = self.bytes.entry(via).or_default();
            *sum = sum.saturating_add(bytes);
        }
    }

    fn name(&self, profile: &Profile) -> Option<String> {
        let mut files: FxHashMap<&str, u64> = FxHashMap::default();
        for (id, bytes) in &self.bytes {
            let Some(mapping) = profile.frame(*id).mapping else {
                continue;
            };
            let name = path::extension(profile.string(profile.mapping(mapping).path));
            let sum = files.entry(name).or_default();
            *sum = sum.saturating_add(*bytes);
        }
        // More than half, so there is at most one.
        let (name, _) = files
            .into_iter()
            .find(|(name, bytes)| !name.is_empty() && *bytes > self.total / 2)?;
        Some(clean(name))
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}
