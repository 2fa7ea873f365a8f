//! speedscope's JSON (npm `speedscope` 1.25.0, `file-format-schema.json`): stacks with weights, or frames that open and
//! close.

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::nobody;
use crate::{
    profile::{Frame, FrameId, FrameKind, Mapping, Profile, SampleKey, ValueType},
    report::{label, path, speedscope},
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
    // What is no line is cut to 0.
    let line = named.line.map_or(0, |line| line as u32);
    let (function, written) = without_place(&named.name, file, line);
    let kind = written.unwrap_or_else(|| match &*named.name {
        name if name.ends_with("_[k]") => FrameKind::Kernel,
        _ if is_python(file) => FrameKind::Python,
        name if name.starts_with('[') && name.ends_with(']') && !name.contains("0x") => FrameKind::Marker,
        _ => FrameKind::Native,
    });
    // A native frame has a file of source, or is of a library: then its name has said so.
    let mapping = (kind == FrameKind::Native && written.is_some() && !file.is_empty()).then(|| Mapping {
        path: profile.intern_string(file),
        build_id: Profile::EMPTY,
    });
    let mapping = mapping.map(|mapping| profile.intern_mapping(mapping));
    let frame = Frame {
        kind,
        function: profile.intern_string(function.trim_end_matches("_[k]")),
        file: match mapping {
            Some(_) => Profile::EMPTY,
            None => profile.intern_string(file),
        },
        line,
        first_line: 0,
        mapping,
        address: 0,
        inlined: false,
    };
    profile.intern_frame(frame)
}

/// The name without the place that this program writes behind it (`report::label`): the file says it as well, and it would be
/// there twice when it is shown. And what kind of frame such a place is written of.
fn without_place<'a>(name: &'a str, file: &str, line: u32) -> (&'a str, Option<FrameKind>) {
    let short = path::short(file);
    let python = match line {
        0 if is_python(file) => short.into_owned(),
        0 => String::new(),
        _ => format!("{short}:{line}"),
    };
    let places = [
        (python, FrameKind::Python),
        ("<unknown>".to_owned(), FrameKind::Python),
        (path::file_name(file).to_owned(), FrameKind::Native),
        ("[unknown]".to_owned(), FrameKind::Native),
    ];
    for (place, kind) in places.into_iter().filter(|(place, _)| !place.is_empty()) {
        let function = name.strip_suffix(&*format!(" ({})", label::clean(place)));
        if let Some(function) = function.filter(|function| !function.is_empty()) {
            return (function, Some(kind));
        }
    }
    // `[libfoo.so+0x1234]`
    let is_address = !file.is_empty() && name.starts_with('[') && name.contains("+0x");
    (name, is_address.then_some(FrameKind::Native))
}

fn is_python(file: &str) -> bool {
    file.ends_with(".py") || file.starts_with('<')
}
