//! A snapshot of tracemalloc (`tracemalloc.Snapshot.load`), of what counts in bytes.
//!
//! It is a pickle (protocol 2) of the two classes and nothing else: `Snapshot` with its `traces`, a `_Traces` of tuples
//! `(domain, size, ((file, line), …), frames in all)`, innermost frame first (`Lib/tracemalloc.py`, CPython 3.9 – 3.14;
//! 3.8 has no fourth member and ignores it). A trace is a stack here, not a block, so counts are numbers of stacks.

use std::io::{self, Write};

use anyhow::bail;

use super::{View, Writer, grouping};
use crate::profile::{FrameKind, Profile};

#[derive(Clone, Copy, Debug)]
pub struct Tracemalloc;

/// tracemalloc itself keeps no more.
const MOST_FRAMES: usize = 65_535;

impl Writer for Tracemalloc {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        let value_type = view.value_type(profile)?;
        if value_type.unit != "bytes" {
            bail!(
                "a snapshot of tracemalloc has bytes, and {} has {}; convert a recording of `profiler memory`, or choose \
                 another value with --value",
                value_type.kind,
                value_type.unit
            );
        }
        let mut traces: Vec<(i64, Vec<(String, u32)>)> = Vec::new();
        for (key, values) in profile.samples() {
            if values[view.value] <= 0 {
                continue;
            }
            let frames = profile.stack(key.stack).iter().map(|id| profile.frame(*id));
            let mut python: Vec<(String, u32)> = frames
                .filter(|frame| frame.kind == FrameKind::Python)
                .map(|frame| (grouping_file(profile, frame), frame.line))
                .take(MOST_FRAMES)
                .collect();
            if python.is_empty() {
                // What it calls memory of which it knows no line.
                python.push(("<unknown>".to_owned(), 0));
            }
            traces.push((values[view.value], python));
        }
        pickle(&traces, out)?;
        Ok(())
    }
}

fn grouping_file(profile: &Profile, frame: &crate::profile::Frame) -> String {
    match profile.string(frame.file) {
        "" => grouping::file(profile, frame).into_owned(),
        file => file.to_owned(),
    }
}

fn pickle(traces: &[(i64, Vec<(String, u32)>)], out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"\x80\x02ctracemalloc\nSnapshot\n)\x81}(")?;
    string("traces", out)?;
    out.write_all(b"ctracemalloc\n_Traces\n)\x81}(")?;
    string("_traces", out)?;
    out.write_all(b"](")?;
    let mut deepest = 1;
    for (size, frames) in traces {
        deepest = deepest.max(frames.len());
        out.write_all(b"(")?;
        integer(0, out)?;
        integer(*size, out)?;
        out.write_all(b"(")?;
        for (file, line) in frames {
            string(file, out)?;
            integer(i64::from(*line), out)?;
            // Of the last two.
            out.write_all(b"\x86")?;
        }
        out.write_all(b"t")?;
        integer(frames.len() as i64, out)?;
        out.write_all(b"t")?;
    }
    out.write_all(b"eub")?;
    string("traceback_limit", out)?;
    integer(deepest as i64, out)?;
    out.write_all(b"ub.")
}

fn string(text: &str, out: &mut dyn Write) -> io::Result<()> {
    let length = u32::try_from(text.len()).map_err(|_| io::Error::other("a name of 4 GiB or more"))?;
    out.write_all(b"X")?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(text.as_bytes())
}

fn integer(number: i64, out: &mut dyn Write) -> io::Result<()> {
    match i32::try_from(number) {
        Ok(number) => {
            out.write_all(b"J")?;
            out.write_all(&number.to_le_bytes())
        }
        Err(_) => {
            out.write_all(&[0x8a, 8])?;
            out.write_all(&number.to_le_bytes())
        }
    }
}
