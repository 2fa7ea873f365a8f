//! Chrome's trace events (JSON), for Perfetto and chrome://tracing: frames as complete events (`"ph": "X"`), which both
//! show. One row of tracks per thread.
//!
//! Where a recording says when its samples were, the axis is time, to a slice of it: what was in one stands at its beginning,
//! equal stacks together, as wide as it was much. Else the axis is how much there was, as in a flame graph.

use std::{collections::BTreeMap, io::Write, time::Duration};

use serde::Serialize;

use super::{View, Writer, label, machinery::Machinery, moments::Moments, rows::shown_of};
use crate::{
    humanize,
    profile::{FrameId, FrameKind, Profile, ValueType},
};

#[derive(Clone, Copy, Debug)]
pub struct Chrome;

#[derive(Serialize)]
struct Event<'a> {
    ph: &'static str,
    name: &'a str,
    /// Some readers want one of every event.
    cat: &'static str,
    pid: u32,
    tid: u32,
    /// In microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Args<'a>>,
}

#[derive(Serialize)]
struct Args<'a> {
    name: &'a str,
}

/// A frame: its name, and what kind it is.
type Shown<'a> = (&'a str, &'static str);

struct Thread<'a> {
    process: String,
    name: String,
    /// Root-first stacks of each slice of time, merged.
    slices: BTreeMap<u32, BTreeMap<Vec<Shown<'a>>, i64>>,
}

/// Each has an event for each of its frames.
const MOST_PARTS: usize = 50_000;

impl Writer for Chrome {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        let value_type = view.value_type(profile)?;
        let scale = microseconds(profile, value_type);
        let mut machinery = Machinery::new(profile, view.interpreter);
        let mut names: Vec<Option<(String, &str)>> = vec![None; profile.frames().len()];
        let mut threads: BTreeMap<(u32, u32), Thread<'_>> = BTreeMap::new();
        let mut stacks = Vec::new();
        let mut shown = Vec::new();
        for (key, _) in profile.samples() {
            shown_of(profile, key, &mut machinery, &mut shown);
            for id in &shown {
                let frame = profile.frame(*id);
                names[id.index()].get_or_insert_with(|| (label::frame(profile, frame), category(frame.kind)));
            }
            stacks.push((key, shown.clone()));
        }
        let moments = Moments::new(profile, view.value, MOST_PARTS);
        for part in moments.parts.iter().filter(|part| part.value > 0) {
            let Some((key, shown)) = stacks.get(part.sample as usize) else {
                continue;
            };
            let labels = &key.labels;
            let thread = threads.entry((labels.pid, labels.tid)).or_insert_with(|| Thread {
                process: label::process(profile, labels),
                name: label::thread(profile, labels),
                slices: BTreeMap::new(),
            });
            let name = |id: &FrameId| (names[id.index()].as_ref()).map(|(name, category)| (&**name, *category));
            let stack = shown.iter().filter_map(name);
            let slice = thread.slices.entry(part.slice).or_default();
            let sum = slice.entry(stack.collect()).or_insert(0);
            *sum = sum.saturating_add(part.value);
        }
        let slice_us = moments.slice_ns.map(|ns| ns as f64 / 1e3);
        let period_us = match profile.period {
            Some((period, length)) if period.unit == "nanoseconds" => length as f64 / 1e3,
            _ => 0.0,
        };
        let mut first = true;
        write!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":")?;
        serde_json::to_writer(
            &mut *out,
            &serde_json::json!({
                "exporter": "profiler",
                "title": view.title,
                "value": value_type.kind,
                "unit": value_type.unit,
                "axis": match moments.slice_ns {
                    Some(ns) => format!("time, to {}", humanize::duration(Duration::from_nanos(ns.unsigned_abs()))),
                    None => "amount, not time: equal stacks are together".to_owned(),
                },
            }),
        )?;
        write!(out, ",\"traceEvents\":[")?;
        let mut put = |event: &Event<'_>| -> anyhow::Result<()> {
            if !std::mem::take(&mut first) {
                out.write_all(b",\n")?;
            }
            serde_json::to_writer(&mut *out, event)?;
            Ok(())
        };
        for (&(pid, tid), thread) in &threads {
            for (what, name) in [("process_name", &thread.process), ("thread_name", &thread.name)] {
                put(&Event {
                    ph: "M",
                    name: what,
                    cat: "__metadata",
                    pid,
                    tid,
                    ts: None,
                    dur: None,
                    args: Some(Args { name }),
                })?;
            }
            let mut open: Vec<(Shown<'_>, f64)> = Vec::new();
            let mut now = 0.0_f64;
            let mut close = |open: &mut Vec<(Shown<'_>, f64)>, to: usize, now: f64| -> anyhow::Result<()> {
                while open.len() > to {
                    let Some(((name, cat), since)) = open.pop() else { break };
                    put(&Event {
                        ph: "X",
                        name,
                        cat,
                        pid,
                        tid,
                        ts: Some(since),
                        dur: Some(now - since),
                        args: None,
                    })?;
                }
                Ok(())
            };
            for (&slice, stacks) in &thread.slices {
                let all = stacks.values().fold(0_i64, |sum, value| sum.saturating_add(*value)) as f64 * scale;
                let mut fits = 1.0;
                if let Some(slice_us) = slice_us {
                    let from = f64::from(slice) * slice_us;
                    // A sample more or less is chance: who ran all the time has no gaps, and no more than there is.
                    if from - now > 1.5 * period_us {
                        close(&mut open, 0, now)?;
                    }
                    now = from;
                    if all > slice_us - 1.5 * period_us {
                        fits = slice_us / all;
                    }
                }
                for (stack, value) in stacks {
                    let common = open
                        .iter()
                        .zip(stack)
                        .take_while(|((one, _), other)| one == *other)
                        .count();
                    close(&mut open, common, now)?;
                    open.extend(stack[common..].iter().map(|name| (*name, now)));
                    now += *value as f64 * scale * fits;
                }
            }
            close(&mut open, 0, now)?;
        }
        writeln!(out, "]}}")?;
        Ok(())
    }
}

fn category(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Python => "python",
        FrameKind::Native => "native",
        FrameKind::Kernel => "kernel",
        FrameKind::Marker => "missing",
    }
}

/// How many microseconds one of the value is: of what is no time, one.
pub(super) fn microseconds(profile: &Profile, value_type: ValueType) -> f64 {
    let of = |unit: &str| match unit {
        "nanoseconds" => Some(1e-3),
        "microseconds" => Some(1.0),
        "milliseconds" => Some(1e3),
        "seconds" => Some(1e6),
        _ => None,
    };
    match (of(value_type.unit), value_type.unit, profile.period) {
        (Some(scale), ..) => scale,
        // Samples of a clock stand for its period.
        (None, "count", Some((period, length))) if value_type.kind == "samples" => {
            of(period.unit).map_or(1.0, |scale| scale * length as f64)
        }
        _ => 1.0,
    }
}
