//! What a set will say, in memory: each text, frame and stack once, samples by number.

use std::{collections::HashMap, hash::Hash};

use indexmap::{IndexMap, IndexSet};
use rustc_hash::FxBuildHasher;
use sha2::{Digest as _, Sha256};

/// What a stack is called everywhere: the first half of a SHA-256 of what its frames say. The same stack has the same name
/// on every host and in every set, and nobody can make two that share one.
pub type StackId = [u8; 16];

/// A number of a text.
pub(crate) type Text = u32;

/// A frame, by the numbers of its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    pub(crate) function: Text,
    pub(crate) file: Text,
    pub(crate) line: i64,
    pub(crate) first_line: i64,
    pub(crate) kind: Text,
    pub(crate) binary: Text,
    pub(crate) build_id: Text,
    pub(crate) address: u64,
    pub(crate) inlined: bool,
}

/// How much there was of a stack in a window, by the numbers of its texts.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub(crate) start_us: i64,
    pub(crate) end_us: i64,
    pub(crate) service: Text,
    pub(crate) host: Text,
    pub(crate) process: Text,
    pub(crate) pid: i64,
    pub(crate) thread: Text,
    pub(crate) tid: i64,
    pub(crate) trace_id: Text,
    pub(crate) span_id: Text,
    pub(crate) labels: u32,
    pub(crate) kind: Text,
    pub(crate) unit: Text,
    pub(crate) period_kind: Text,
    pub(crate) period_unit: Text,
    pub(crate) period: i64,
    pub(crate) value: i64,
    pub(crate) weight: f64,
    pub(crate) stack: u32,
}

/// What did not come into the rows, and why: written into the set, and told to who asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Profiles without a type, or of a time that cannot be: not of this century, too old, too many hours.
    pub profiles: u64,
    /// Samples that refer to what is not there.
    pub samples: u64,
    /// Labels beyond the number that a sample may have, or a set's different keys.
    pub labels: u64,
    /// Labels whose value is `[other]`, because there were too many.
    pub label_values: u64,
    /// Texts that were too long, and are cut.
    pub texts: u64,
    /// Frames at the root of stacks that were too deep.
    pub frames: u64,
}

impl Lost {
    pub const NAMES: [&str; 6] = ["profiles", "samples", "labels", "label_values", "texts", "frames"];

    pub fn counts(&self) -> [(&'static str, u64); 6] {
        let counts = [
            self.profiles,
            self.samples,
            self.labels,
            self.label_values,
            self.texts,
            self.frames,
        ];
        std::array::from_fn(|at| (Self::NAMES[at], counts[at]))
    }

    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, count) in other.counts() {
            self.add_one(what, count);
        }
    }

    /// Adds to the count of this name; what has another is of a later version.
    pub(crate) fn add_one(&mut self, what: &str, count: u64) {
        let counter = match what {
            "profiles" => &mut self.profiles,
            "samples" => &mut self.samples,
            "labels" => &mut self.labels,
            "label_values" => &mut self.label_values,
            "texts" => &mut self.texts,
            "frames" => &mut self.frames,
            _ => return,
        };
        *counter = counter.saturating_add(count);
    }
}

/// Samples of any number of messages, and all that they refer to.
#[derive(Debug)]
pub struct Rows {
    pub(crate) texts: IndexSet<Box<str>, FxBuildHasher>,
    /// Sorted pairs of texts.
    pub(crate) labels: IndexSet<Box<[(Text, Text)]>, FxBuildHasher>,
    pub(crate) frames: IndexMap<Frame, [u8; 16], FxBuildHasher>,
    /// Leaf first.
    pub(crate) stacks: IndexMap<StackId, Box<[u32]>, FxBuildHasher>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) lost: Lost,
    /// Bytes of the tables above, samples aside.
    held: usize,
    /// How many values a label had, by its key.
    pub(crate) values: HashMap<Text, IndexSet<Text, FxBuildHasher>, FxBuildHasher>,
}

/// The text that is not told.
pub(crate) const EMPTY: Text = 0;

impl Default for Rows {
    fn default() -> Self {
        let mut rows = Self {
            texts: IndexSet::default(),
            labels: IndexSet::default(),
            frames: IndexMap::default(),
            stacks: IndexMap::default(),
            samples: Vec::new(),
            lost: Lost::default(),
            held: 0,
            values: HashMap::default(),
        };
        rows.text("");
        rows.labels.insert(Box::default());
        rows
    }
}

impl Rows {
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    pub fn lost(&self) -> &Lost {
        &self.lost
    }

    /// How much memory this takes, and its writing: batches are cut by it. Counted where things come in, so that one long
    /// text or deep stack is as much as it is.
    pub fn bytes(&self) -> usize {
        // With the numbers and references that they are sorted by.
        self.samples.len() * (size_of::<Sample>() + 12) + self.held
    }

    pub(crate) fn text(&mut self, text: &str) -> Text {
        match self.texts.get_index_of(text) {
            Some(at) => number(at),
            None => {
                // Its bytes are copied when it is written.
                self.held += 2 * text.len() + 96;
                number(self.texts.insert_full(text.into()).0)
            }
        }
    }

    pub(crate) fn str(&self, text: Text) -> &str {
        self.texts.get_index(text as usize).map_or("", |text| text)
    }

    pub(crate) fn label_set(&mut self, mut labels: Vec<(Text, Text)>) -> u32 {
        labels.sort_unstable();
        let bytes = labels.len() * size_of::<(Text, Text)>() + 48;
        let (at, is_new) = self.labels.insert_full(labels.into());
        self.held += if is_new { bytes } else { 0 };
        number(at)
    }

    pub(crate) fn frame(&mut self, frame: Frame) -> u32 {
        if let Some(at) = self.frames.get_index_of(&frame) {
            return number(at);
        }
        self.held += size_of::<Frame>() + 64;
        let hash = self.name_frame(&frame);
        number(self.frames.insert_full(frame, hash).0)
    }

    pub(crate) fn stack(&mut self, frames: &[u32]) -> u32 {
        let mut hash = Sha256::new();
        for frame in frames {
            if let Some((_, name)) = self.frames.get_index(*frame as usize) {
                hash.update(name);
            }
        }
        let id = half(hash);
        let (at, before) = self.stacks.insert_full(id, frames.into());
        self.held += if before.is_none() { size_of_val(frames) + 80 } else { 0 };
        number(at)
    }

    /// Texts with their lengths before them, so that no two frames read the same.
    fn name_frame(&self, frame: &Frame) -> [u8; 16] {
        let mut hash = Sha256::new();
        for text in [frame.function, frame.file, frame.kind, frame.binary, frame.build_id] {
            let text = self.str(text);
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        hash.update(frame.line.to_le_bytes());
        hash.update(frame.first_line.to_le_bytes());
        hash.update(frame.address.to_le_bytes());
        hash.update([u8::from(frame.inlined)]);
        half(hash)
    }
}

fn half(hash: Sha256) -> [u8; 16] {
    let whole: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|at| whole[at])
}

/// Tables are bounded by `Limits` far below this, message by message; a batch of so many messages has long been written.
pub(crate) fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
