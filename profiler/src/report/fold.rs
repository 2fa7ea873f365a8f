//! Stacks as sequences of names, root first: what the formats without addresses have in common.
//!
//! Two stacks whose names are equal become one line, although their addresses or inlining may differ. Names are kept
//! once and lines hold their ranks, because a line of text per stack would take a hundred times the room.

use std::hash::BuildHasherDefault;

use indexmap::{IndexMap, map::Entry};
use rustc_hash::FxHasher;

use super::{View, label, machinery::Machinery, workers::Workers};
use crate::profile::{FrameKind, Profile};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// A process or a thread.
    Root,
    Code(FrameKind),
}

#[derive(Debug)]
pub(super) struct Fold {
    /// Sorted by text, without repetition.
    pub(super) names: Vec<(String, Part)>,
    /// Sorted by names from the root on, so stacks with a common beginning are neighbours.
    pub(super) lines: Vec<Line>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    /// Indices into [`Fold::names`], root first; never empty.
    pub(super) names: Vec<u32>,
    pub(super) value: i64,
}

/// Folds the value `view.value` of every sample; samples that count nothing of it are left out.
pub(super) fn fold(profile: &Profile, view: &View) -> Fold {
    let mut names = Names::default();
    let mut frames: Vec<Option<u32>> = vec![None; profile.frames().len()];
    let workers = Workers::new(profile, view);
    let mut machinery = Machinery::new(profile, view.interpreter);
    let mut shown = Vec::new();
    let mut sums: FxIndexMap<Vec<u32>, i64> = FxIndexMap::default();

    for (key, values) in profile.samples() {
        let value = values[view.value];
        if value == 0 {
            continue;
        }
        let mut line = Vec::with_capacity(profile.stack(key.stack).len() + 2);
        if view.process {
            line.push(names.intern(workers.process(profile, &key.labels).1, Part::Root));
        }
        if view.thread {
            line.push(names.intern(workers.thread(profile, &key.labels).1, Part::Root));
        }
        let stack = profile.stack(key.stack);
        if stack.is_empty() {
            // A source marks what it could not walk; this is for a file written by somebody else.
            line.push(names.intern("[no frames]".to_owned(), Part::Code(FrameKind::Marker)));
        }
        shown.clear();
        machinery.push_shown(stack, &mut shown);
        line.extend(shown.iter().map(|id| {
            *frames[id.index()].get_or_insert_with(|| {
                let frame = profile.frame(*id);
                names.intern(label::frame(profile, frame), Part::Code(frame.kind))
            })
        }));
        let sum = sums.entry(line).or_insert(0);
        *sum = sum.saturating_add(value);
    }

    let (names, ranks) = names.sorted();
    let mut lines: Vec<_> = sums
        .into_iter()
        .map(|(line, value)| Line {
            names: line.into_iter().map(|name| ranks[name as usize]).collect(),
            value,
        })
        .collect();
    lines.sort_unstable();
    Fold { names, lines }
}

type FxIndexMap<K, V> = IndexMap<K, V, BuildHasherDefault<FxHasher>>;

/// Names in the order in which they were met.
#[derive(Default)]
struct Names(FxIndexMap<String, Part>);

impl Names {
    /// Should two kinds of frames ever read the same, they are one name, of the kind met first.
    fn intern(&mut self, name: String, part: Part) -> u32 {
        let index = match self.0.entry(name) {
            Entry::Occupied(entry) => entry.index(),
            Entry::Vacant(entry) => {
                let index = entry.index();
                entry.insert(part);
                index
            }
        };
        // There are no more names than frames and samples, whose ids are 32 bits.
        index as u32
    }

    /// The names by text, and for each index given out before its new one.
    fn sorted(self) -> (Vec<(String, Part)>, Vec<u32>) {
        let mut names: Vec<_> = self.0.into_iter().zip(0_usize..).collect();
        names.sort_unstable_by(|((a, _), _), ((b, _), _)| a.cmp(b));
        let mut ranks = vec![0; names.len()];
        for ((_, before), rank) in names.iter().zip(0..) {
            ranks[*before] = rank;
        }
        (names.into_iter().map(|(name, _)| name).collect(), ranks)
    }
}
