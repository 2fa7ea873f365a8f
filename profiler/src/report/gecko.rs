//! The Firefox Profiler's own format (<https://profiler.firefox.com>), written by `fxprof-processed-profile`.
//!
//! Samples are in the slice of time in which they were, one interval after the other; within one their order is not known.
//! Where a recording does not say when they were they are laid one after the other, so the timeline shows how much, not when.
//! Weights are numbers of samples, milliseconds or bytes.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use fxprof_processed_profile as gecko;
use rustc_hash::FxHashMap;

use super::{View, Writer, label, machinery::Machinery, moments::Moments, rows::shown_of};
use crate::profile::{FrameKind, Profile};

#[derive(Clone, Copy, Debug)]
pub struct Gecko;

/// What of a thread has been laid out so far.
struct Laid {
    thread: gecko::ThreadHandle,
    /// Nanoseconds.
    until: u64,
    /// In the profile's unit and in weights.
    value: i64,
    weight: i64,
}

impl Writer for Gecko {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        let value_type = view.value_type(profile)?;
        let of_cpu = matches!(value_type.kind, "samples" | "cpu");
        let (weight_type, divisor) = match value_type.unit {
            "bytes" => (gecko::WeightType::Bytes, 1),
            "nanoseconds" => (gecko::WeightType::TracingMs, 1_000_000),
            "microseconds" => (gecko::WeightType::TracingMs, 1_000),
            "milliseconds" => (gecko::WeightType::TracingMs, 1),
            _ => (gecko::WeightType::Samples, 1),
        };
        let began = u64::try_from(profile.started_at_ns).unwrap_or(0);
        let began = SystemTime::UNIX_EPOCH + Duration::from_nanos(began);
        let interval = match profile.period {
            Some((value, period)) if value.unit == "nanoseconds" && period > 1 => {
                gecko::SamplingInterval::from_nanos(period.unsigned_abs())
            }
            _ => gecko::SamplingInterval::from_millis(1),
        };
        let mut file = gecko::Profile::new(&view.title, began.into(), interval);
        file.set_symbolicated(true);
        let zero = gecko::Timestamp::from_nanos_since_reference(0);
        let kinds = [
            (FrameKind::Python, "Python", gecko::CategoryColor::Green),
            (FrameKind::Native, "Native", gecko::CategoryColor::Blue),
            (FrameKind::Kernel, "Kernel", gecko::CategoryColor::Orange),
            (FrameKind::Marker, "Missing", gecko::CategoryColor::Gray),
        ];
        let categories = kinds.map(|(kind, name, color)| (kind, file.add_category(name, color)));
        let category = |kind: FrameKind| {
            let found = categories.iter().find(|(other, _)| *other == kind);
            found.map_or(gecko::CategoryHandle::OTHER, |(_, category)| *category)
        };
        let mut machinery = Machinery::new(profile, view.interpreter);
        let mut processes = FxHashMap::default();
        let mut threads: FxHashMap<(u32, u32), Laid> = FxHashMap::default();
        let mut names: Vec<Option<gecko::StringHandle>> = vec![None; profile.frames().len()];
        let mut shown = Vec::new();
        let moments = Moments::new(profile, view.value, usize::MAX);
        let slice_ns = moments.slice_ns.map(i64::unsigned_abs);
        for part in moments.parts.iter().filter(|part| part.value != 0) {
            let Some((key, _)) = profile.sample(part.sample) else {
                continue;
            };
            let labels = &key.labels;
            let process = *processes
                .entry(labels.pid)
                .or_insert_with(|| file.add_process(&label::process_name(profile, labels), labels.pid, zero));
            let laid = threads.entry((labels.pid, labels.tid)).or_insert_with(|| {
                let thread = file.add_thread(process, labels.tid, zero, labels.pid == labels.tid);
                file.set_thread_name(thread, profile.string(labels.thread));
                file.set_thread_samples_weight_type(thread, weight_type.clone());
                // CPU time is since the sample before, so that of the first one counts only if there is one.
                file.add_sample(thread, zero, None, gecko::CpuDelta::ZERO, 0);
                Laid {
                    thread,
                    until: 0,
                    value: 0,
                    weight: 0,
                }
            });
            shown_of(profile, key, &mut machinery, &mut shown);
            let frames: Vec<gecko::FrameInfo> = shown
                .iter()
                .map(|id| {
                    let frame = profile.frame(*id);
                    let name =
                        *names[id.index()].get_or_insert_with(|| file.intern_string(&label::frame(profile, frame)));
                    gecko::FrameInfo {
                        frame: gecko::Frame::Label(name),
                        category_pair: category(frame.kind).into(),
                        flags: gecko::FrameFlags::empty(),
                    }
                })
                .collect();
            let stack = file.intern_stack_frames(laid.thread, frames.into_iter());
            // Milliseconds are coarse: what one weight is rounded off by, the next one has.
            laid.value = laid.value.saturating_add(part.value);
            let weight = laid.value.saturating_add(divisor / 2).div_euclid(divisor);
            let mut left = weight.saturating_sub(laid.weight);
            laid.weight = weight;
            if let Some(slice_ns) = slice_ns {
                laid.until = laid.until.max(slice_ns.saturating_mul(part.slice.into()));
            }
            // A weight has 32 bits there.
            while left != 0 {
                let weight = i32::try_from(left).unwrap_or(if left > 0 { i32::MAX } else { i32::MIN });
                let length = u64::from(weight.unsigned_abs()).saturating_mul(match value_type.unit {
                    "nanoseconds" | "microseconds" | "milliseconds" => 1_000_000,
                    _ => interval.nanos(),
                });
                // A sample there has the CPU time since the one before, without which nothing is seen of a thread in its row.
                laid.until = laid.until.saturating_add(length);
                let time = gecko::Timestamp::from_nanos_since_reference(laid.until);
                let used = match of_cpu {
                    true => gecko::CpuDelta::from_nanos(length),
                    false => gecko::CpuDelta::ZERO,
                };
                file.add_sample(laid.thread, time, stack, used, weight);
                left -= i64::from(weight);
            }
        }
        serde_json::to_writer(&mut *out, &file).context("cannot write the Firefox Profiler's JSON")?;
        writeln!(out)?;
        Ok(())
    }
}
