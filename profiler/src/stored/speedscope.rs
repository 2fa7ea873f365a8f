//! speedscope's JSON (npm `speedscope` 1.25.0, `file-format-schema.json`): stacks with weights, or frames that open and
//! close.

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::nobody;
use crate::{
    profile::{Frame, FrameId, FrameKind, Profile, SampleKey, ValueType},
    report::speedscope,
};

/// JSON grows when it is read: an empty list is two bytes in the file and 24 in memory.
const MAX_BYTES: usize = 64 << 20;
/// Deeper than any stack that a kernel or CPython makes.
const MAX_DEPTH: usize = 1 << 20;
/// A stack of an evented profile is made at each of its events.
const MAX_FRAMES: usize = 256 << 20;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    exporter: String,
    shared: Shared,
    profiles: Vec<Part>,
}

#[derive(Deserialize)]
struct Shared {
    frames: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    line: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    r#type: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    unit: String,
    #[serde(default)]
    samples: Vec<Vec<u32>>,
    #[serde(default)]
    weights: Vec<f64>,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    r#type: String,
    frame: u32,
    at: f64,
}

pub(super) fn read(bytes: &[u8]) -> anyhow::Result<Profile> {
    ensure!(bytes.len() <= MAX_BYTES, "it is larger than {} MiB", MAX_BYTES >> 20);
    let file: File = serde_json::from_slice(bytes).context("this is not speedscope's JSON")?;
    let unit = file
        .profiles
        .first()
        .map_or("none", |part| part.unit.as_str())
        .to_owned();
    let (value, scale) = value_type(&unit);
    let mut profile = Profile::new(vec![value], None);
    let frames: Vec<FrameId> = file
        .shared
        .frames
        .iter()
        .map(|named| frame(&mut profile, named))
        .collect();
    let mut left = MAX_FRAMES;
    for part in &file.profiles {
        // Of several, those that count what the first one does. Files of ours say what that is, as units may be the same.
        if part.unit != unit || file.exporter == speedscope::EXPORTER && counts(part) != counts(&file.profiles[0]) {
            continue;
        }
        let mut labels = nobody();
        labels.thread = profile.intern_string(&part.name);
        let mut add = |root_first: &[u32], weight: f64| -> anyhow::Result<()> {
            ensure!(weight.is_finite() && weight >= 0.0, "a weight of {weight}");
            ensure!(root_first.len() <= MAX_DEPTH, "a stack of more than {MAX_DEPTH} frames");
            left = left.checked_sub(root_first.len()).context("too many frames in all")?;
            let stack = root_first
                .iter()
                .rev()
                .map(|at| {
                    frames
                        .get(*at as usize)
                        .copied()
                        .with_context(|| format!("there is no frame {at}"))
                })
                .collect::<anyhow::Result<Vec<FrameId>>>()?;
            let stack = profile.intern_stack(&stack);
            let labels = labels.clone();
            // More than fits becomes the most that does.
            profile.add(SampleKey { stack, labels }, &[(weight * scale).round() as i64]);
            Ok(())
        };
        match part.r#type.as_str() {
            "sampled" => {
                ensure!(
                    part.samples.len() == part.weights.len(),
                    "{} stacks have {} weights",
                    part.samples.len(),
                    part.weights.len()
                );
                for (stack, weight) in part.samples.iter().zip(&part.weights) {
                    add(stack, *weight)?;
                }
            }
            "evented" => evented(&part.events, add)?,
            other => bail!("a profile of type {other}"),
        }
    }
    ensure!(!profile.is_empty(), "there is no stack in it");
    Ok(profile)
}

fn counts(part: &Part) -> Option<&str> {
    part.name.rsplit_once(speedscope::OF_VALUE).map(|(_, value)| value)
}

fn evented(events: &[Event], mut add: impl FnMut(&[u32], f64) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut stack: Vec<u32> = Vec::new();
    let mut before = None;
    for event in events {
        let length = event.at - before.unwrap_or(event.at);
        ensure!(length >= 0.0, "an event before the one in front of it");
        if length > 0.0 && !stack.is_empty() {
            add(&stack, length)?;
        }
        before = Some(event.at);
        match event.r#type.as_str() {
            "O" => stack.push(event.frame),
            "C" => ensure!(
                stack.pop() == Some(event.frame),
                "a frame closes that is not the innermost"
            ),
            other => bail!("an event of type {other}"),
        }
    }
    Ok(())
}

/// What the unit is here, and how many of it one of theirs is.
fn value_type(unit: &str) -> (ValueType, f64) {
    let time = ValueType {
        kind: "time",
        unit: "nanoseconds",
    };
    match unit {
        "nanoseconds" => (time, 1.0),
        "microseconds" => (time, 1e3),
        "milliseconds" => (time, 1e6),
        "seconds" => (time, 1e9),
        "bytes" => (
            ValueType {
                kind: "space",
                unit: "bytes",
            },
            1.0,
        ),
        _ => (
            ValueType {
                kind: "samples",
                unit: "count",
            },
            1.0,
        ),
    }
}

fn frame(profile: &mut Profile, named: &Named) -> FrameId {
    let file = named.file.as_deref().unwrap_or_default();
    let kind = match named.name.as_str() {
        name if name.ends_with("_[k]") => FrameKind::Kernel,
        _ if file.ends_with(".py") || file.starts_with('<') => FrameKind::Python,
        name if name.starts_with('[') && name.ends_with(']') && !name.contains("0x") => FrameKind::Marker,
        _ => FrameKind::Native,
    };
    let frame = Frame {
        kind,
        function: profile.intern_string(named.name.trim_end_matches("_[k]")),
        file: profile.intern_string(file),
        // What is no line is cut to 0.
        line: named.line.map_or(0, |line| line as u32),
        first_line: 0,
        mapping: None,
        address: 0,
        inlined: false,
    };
    profile.intern_frame(frame)
}
