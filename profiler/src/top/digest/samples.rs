//! Samples of a window, as they are shown: their frames are text, and equal texts of all windows are one.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    profile::{FrameId, FrameKind, Labels, Profile, SampleKey},
    report::{
        picked::{Part, Picked},
        waits::{VALUE as WAITED, WaitsReport},
    },
    top::snapshot::{Frame, Sample, Samples, Split},
    waits::cause::Cause,
    wall::Clocks,
};

/// What a sample of a profile comes to.
#[derive(Clone, Copy, Default)]
pub struct Worth {
    /// Of the CPU's clock.
    pub samples: u64,
    pub cpu_ns: u64,
    pub wait_ns: u64,
    pub cause: Option<Cause>,
}

/// Takes samples of the CPU's clock, and what each of a thread stands for.
pub fn take_cpu(profile: &Profile, ns_per_sample: impl Fn(&Labels) -> f64, all: &mut Texts, into: &mut Samples) {
    let worth = |_, key: &SampleKey, values: &[i64]| {
        let samples = value(values, 0);
        Worth {
            samples,
            cpu_ns: (samples as f64 * ns_per_sample(&key.labels)) as u64,
            ..Worth::default()
        }
    };
    take(profile, worth, all, into);
}

/// Takes waits, and what has to be told for time to add up. Of both and samples of a CPU one profile could be made
/// (`WallReport`), which takes longer than all the rest here.
pub fn take_waits(report: &WaitsReport, clocks: &Clocks, all: &mut Texts, into: &mut Samples) {
    let worth = |at: usize, _: &SampleKey, values: &[i64]| Worth {
        wait_ns: value(values, WAITED),
        cause: report.details.get(at).map(|detail| detail.cause),
        ..Worth::default()
    };
    take(&report.profile, worth, all, into);
    for thread in &report.threads {
        into.samples.extend(clocks.marks(thread).map(|mark| {
            let line = all.shared(mark.text);
            let frame = Frame {
                text: Arc::clone(&line),
                native: true,
            };
            Sample {
                pid: thread.pid,
                tid: thread.tid,
                stack: Arc::new([frame]),
                line,
                cpu_ns: mark.cpu_ns,
                wait_ns: mark.wait_ns,
                cause: mark.cause,
            }
        }));
    }
}

fn value(values: &[i64], index: usize) -> u64 {
    values.get(index).map_or(0, |&value| u64::try_from(value).unwrap_or(0))
}

fn take(profile: &Profile, worth: impl Fn(usize, &SampleKey, &[i64]) -> Worth, all: &mut Texts, into: &mut Samples) {
    let mut picked = Picked::new(profile);
    let mut texts: Vec<Option<Frame>> = vec![None; profile.frames().len()];
    let mut stacks: FxHashMap<_, (Arc<[Frame]>, Arc<str>)> = FxHashMap::default();
    let mut splits: FxHashMap<u32, Split> = FxHashMap::default();
    let unknown = all.shared("[unknown]");
    for (at, (key, values)) in profile.samples().enumerate() {
        let Worth {
            samples,
            cpu_ns,
            wait_ns,
            cause,
        } = worth(at, key, values);
        let pid = key.labels.pid;
        if samples > 0 {
            let split = splits.entry(pid).or_default();
            *match picked.part(key.stack) {
                Part::Python => &mut split.python,
                Part::Native => &mut split.native,
                Part::Kernel => &mut split.kernel,
                Part::Unknown => &mut split.unknown,
            } += samples;
            if let Some(collects) = picked.collects(key.stack) {
                *split.collector.get_or_insert(0) += if collects { samples } else { 0 };
            }
        }
        let (stack, line) = stacks
            .entry(key.stack)
            .or_insert_with(|| {
                let line = picked.line(key.stack);
                let mut frames: Vec<FrameId> = picked.frames(key.stack).to_vec();
                // The kernel's code is one.
                frames.dedup();
                let mut frame = |id: FrameId| {
                    let known = texts[id.index()].get_or_insert_with(|| Frame {
                        text: all.shared(&picked.text(id)),
                        native: profile.frame(id).kind != FrameKind::Python,
                    });
                    known.clone()
                };
                let line = line.map_or_else(|| Arc::clone(&unknown), |id| frame(id).text);
                (frames.into_iter().map(frame).collect(), line)
            })
            .clone();
        into.samples.push(Sample {
            pid,
            tid: key.labels.tid,
            stack,
            line,
            cpu_ns,
            wait_ns,
            cause,
        });
    }
    into.splits.extend(splits);
}

/// Texts of frames: equal ones of all windows are one, and are told apart by where they are.
#[derive(Debug, Default)]
pub struct Texts(FxHashSet<Arc<str>>);

impl Texts {
    pub fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(text);
        self.0.insert(Arc::clone(&new));
        new
    }

    /// Lets go of those that no window has any more.
    pub fn tidy(&mut self) {
        self.0.retain(|text| Arc::strong_count(text) > 1);
    }
}

impl Texts {
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
