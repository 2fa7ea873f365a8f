//! All of a profile as CSV and as JSON, for programs of one's own (docs/formats.md has the fields).

use std::io::Write;

use serde::Serialize;

use super::{View, Writer, label, machinery::Machinery, package::package, rows::shown_of};
use crate::{
    profile::{FrameKind, Profile},
    shown::csv_field,
};

/// One line per stack of a thread; its frames are separated by `;`, root first.
#[derive(Clone, Copy, Debug)]
pub struct Csv;

impl Writer for Csv {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut machinery = Machinery::new(profile, view.interpreter);
        let mut shown = Vec::new();
        let values: Vec<String> = profile
            .sample_types
            .iter()
            .map(|value| csv_field(&format!("{}_{}", value.kind, value.unit)).into_owned())
            .collect();
        writeln!(out, "{},pid,tid,process,thread,task,stack", values.join(","))?;
        for (key, values) in profile.samples() {
            shown_of(profile, key, &mut machinery, &mut shown);
            let frames: Vec<String> = shown
                .iter()
                .map(|id| label::frame(profile, profile.frame(*id)))
                .collect();
            let labels = &key.labels;
            for value in values {
                write!(out, "{value},")?;
            }
            writeln!(
                out,
                "{},{},{},{},{},{}",
                labels.pid,
                labels.tid,
                csv_field(&label::process_name(profile, labels)),
                csv_field(profile.string(labels.thread)),
                csv_field(profile.string(labels.task)),
                csv_field(&frames.join(";")),
            )?;
        }
        Ok(())
    }
}

/// Tables of frames and stacks, and samples that name them by number.
#[derive(Clone, Copy, Debug)]
pub struct Json;

const VERSION: u32 = 1;

#[derive(Serialize)]
struct File<'a> {
    format: &'static str,
    version: u32,
    comments: &'a [String],
    started_at_ns: i64,
    duration_ns: i64,
    period: Option<i64>,
    values: Vec<Value>,
    default_value: usize,
    frames: Vec<Frame<'a>>,
    samples: Vec<Sample<'a>>,
}

#[derive(Serialize)]
struct Value {
    kind: &'static str,
    unit: &'static str,
}

#[derive(Serialize)]
struct Frame<'a> {
    kind: &'static str,
    function: &'a str,
    file: &'a str,
    line: u32,
    first_line: u32,
    object: &'a str,
    package: String,
}

#[derive(Serialize)]
struct Sample<'a> {
    pid: u32,
    tid: u32,
    process: String,
    thread: &'a str,
    /// None is left out: most programs have none.
    #[serde(skip_serializing_if = "str::is_empty")]
    task: &'a str,
    /// Numbers of frames, root first.
    stack: Vec<usize>,
    values: &'a [i64],
}

impl Writer for Json {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut machinery = Machinery::new(profile, view.interpreter);
        let mut shown = Vec::new();
        let frames = profile.frames().map(|(_, frame)| Frame {
            kind: match frame.kind {
                FrameKind::Python => "python",
                FrameKind::Native => "native",
                FrameKind::Kernel => "kernel",
                FrameKind::Marker => "marker",
            },
            function: profile.string(frame.function),
            file: profile.string(frame.file),
            line: frame.line,
            first_line: frame.first_line,
            object: frame
                .mapping
                .map_or("", |mapping| profile.string(profile.mapping(mapping).path)),
            package: package(profile, frame).into_owned(),
        });
        let samples = profile.samples().map(|(key, values)| {
            shown_of(profile, key, &mut machinery, &mut shown);
            Sample {
                pid: key.labels.pid,
                tid: key.labels.tid,
                process: label::process_name(profile, &key.labels),
                thread: profile.string(key.labels.thread),
                task: profile.string(key.labels.task),
                stack: shown.iter().map(|id| id.index()).collect(),
                values,
            }
        });
        let file = File {
            format: "profiler-profile",
            version: VERSION,
            comments: &profile.comments,
            started_at_ns: profile.started_at_ns,
            duration_ns: profile.duration_ns,
            period: profile.period.map(|(_, period)| period),
            values: profile
                .sample_types
                .iter()
                .map(|value| Value {
                    kind: value.kind,
                    unit: value.unit,
                })
                .collect(),
            default_value: profile.default_type,
            frames: frames.collect(),
            samples: samples.collect(),
        };
        serde_json::to_writer(&mut *out, &file)?;
        writeln!(out)?;
        Ok(())
    }
}
