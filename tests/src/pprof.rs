//! pprof files, read twice: by the profiler's own reader, and by one in Python that knows only the wire format
//! (`workloads/read_pprof.py`).

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use profiler::{profile::Profile, report::pprof::read};
use serde_json::Value;

use crate::workload::sources;

/// A frame as a reader of pprof sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PprofFrame {
    pub name: String,
    pub file: String,
    pub line: u32,
    pub first_line: u32,
}

/// Stacks, root first, and the number of their samples.
pub type Stacks = BTreeMap<Vec<PprofFrame>, u64>;

/// Reads a file with the profiler's own reader.
pub fn load(path: &Path) -> Result<Profile> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    read(&bytes)
}

/// The stacks of a profile, summed over processes and threads.
pub fn stacks(profile: &Profile) -> Result<Stacks> {
    let samples = profile.sample_types.iter().position(|kind| kind.kind == "samples");
    let samples = samples.context("no type of sample is called samples")?;
    let mut stacks = Stacks::new();
    for (key, values) in profile.samples() {
        let frames = profile.stack(key.stack).iter().rev().map(|&frame| {
            let frame = profile.frame(frame);
            PprofFrame {
                name: profile.string(frame.function).to_owned(),
                file: profile.string(frame.file).to_owned(),
                line: frame.line,
                first_line: frame.first_line,
            }
        });
        *stacks.entry(frames.collect()).or_default() += u64::try_from(values[samples])?;
    }
    Ok(stacks)
}

/// The stacks of a file, as the independent reader finds them.
pub fn independent_stacks(path: &Path) -> Result<Stacks> {
    let output = Command::new("python3.11")
        .arg(sources().join("read_pprof.py"))
        .arg(path)
        .output()?;
    ensure!(
        output.status.success(),
        "the independent reader failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found: Value = serde_json::from_slice(&output.stdout)?;
    let mut stacks = Stacks::new();
    for entry in found["stacks"].as_array().context("no stacks")? {
        let frames = entry["frames"].as_array().context("no frames")?;
        let frames = frames.iter().map(|frame| {
            Some(PprofFrame {
                name: frame[0].as_str()?.to_owned(),
                file: frame[1].as_str()?.to_owned(),
                line: u32::try_from(frame[2].as_u64()?).ok()?,
                first_line: u32::try_from(frame[3].as_u64()?).ok()?,
            })
        });
        let frames = frames
            .collect::<Option<Vec<_>>>()
            .with_context(|| format!("odd frames in {entry}"))?;
        *stacks.entry(frames).or_default() += entry["count"].as_u64().context("no count")?;
    }
    Ok(stacks)
}
