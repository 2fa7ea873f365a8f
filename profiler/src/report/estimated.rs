//! A file for `pstats` out of samples: `tottime` and `cumtime` are estimated from them. Calls are not counted by samples,
//! so their number is 0, and a line of the listing says so.

use std::io::Write;

use anyhow::{Context as _, bail};
use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashSet};

use super::{
    View, Writer,
    calls::marshal::Marshal,
    chrome, grouping, label,
    machinery::Machinery,
    rows::{Counted, shown_of},
};
use crate::profile::{FrameId, FrameKind, Profile};

#[derive(Clone, Copy, Debug)]
pub struct Pstats;

#[derive(Default)]
struct Times {
    own: i64,
    cumulative: i64,
    /// Of each caller: own and cumulative time below it.
    callers: IndexMap<usize, (i64, i64), FxBuildHasher>,
}

type Name = (String, u32, String);

impl Writer for Pstats {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        let value_type = view.value_type(profile)?;
        let scale = chrome::microseconds(profile, value_type) / 1e6;
        let is_time =
            value_type.unit.ends_with("seconds") || (value_type.kind == "samples" && profile.period.is_some());
        if !is_time {
            bail!(
                "pstats has seconds, and {} has {}; choose another value with --value, or another format (csv, json, \
                 snapshot for memory)",
                value_type.kind,
                value_type.unit
            );
        }
        let counted = Counted::new(profile, view.value);
        let mut machinery = Machinery::new(profile, view.interpreter);
        let mut functions: IndexMap<Name, Times, FxBuildHasher> = IndexMap::default();
        let mut of_frame: Vec<Option<usize>> = vec![None; profile.frames().len()];
        let mut shown = Vec::new();
        let mut seen: FxHashSet<usize> = FxHashSet::default();
        let mut edges: FxHashSet<(usize, usize)> = FxHashSet::default();
        for (key, values) in profile.samples() {
            let value = counted.of(values).value;
            if value <= 0 {
                continue;
            }
            shown_of(profile, key, &mut machinery, &mut shown);
            seen.clear();
            edges.clear();
            let mut caller = None;
            for (depth, id) in shown.iter().enumerate() {
                let at = *of_frame[id.index()].get_or_insert_with(|| {
                    let entry = functions.entry(name(profile, *id));
                    let at = entry.index();
                    entry.or_default();
                    at
                });
                let is_leaf = depth + 1 == shown.len();
                let own = if is_leaf { value } else { 0 };
                let times = &mut functions[at];
                times.own = times.own.saturating_add(own);
                if seen.insert(at) {
                    times.cumulative = times.cumulative.saturating_add(value);
                }
                if let Some(caller) = caller {
                    let (its_own, cumulative) = times.callers.entry(caller).or_default();
                    *its_own = its_own.saturating_add(own);
                    if edges.insert((caller, at)) {
                        *cumulative = cumulative.saturating_add(value);
                    }
                }
                caller = Some(at);
            }
        }
        let seconds = |value: i64| value as f64 * scale;
        let mark = "<times are estimated from samples; calls were not counted>";
        let written = (|| -> std::io::Result<()> {
            let mut file = Marshal::new(out);
            file.begin_dict()?;
            key("~", 0, mark, &mut file)?;
            times(0.0, 0.0, &mut file)?;
            file.begin_dict()?;
            file.end_dict()?;
            for ((path, line, function), found) in &functions {
                key(path, *line, function, &mut file)?;
                times(seconds(found.own), seconds(found.cumulative), &mut file)?;
                file.begin_dict()?;
                for (caller, (own, cumulative)) in &found.callers {
                    let Some(((path, line, function), _)) = functions.get_index(*caller) else {
                        continue;
                    };
                    key(path, *line, function, &mut file)?;
                    file.begin_tuple(4)?;
                    file.integer(0)?;
                    file.integer(0)?;
                    file.float(seconds(*own))?;
                    file.float(seconds(*cumulative))?;
                }
                file.end_dict()?;
            }
            file.end_dict()
        })();
        written.context("cannot write for pstats")
    }
}

/// The beginning of what a function has: calls, own time, all of its time; its callers are to follow.
fn times<W: Write>(own: f64, cumulative: f64, file: &mut Marshal<'_, W>) -> std::io::Result<()> {
    file.begin_tuple(5)?;
    file.integer(0)?;
    file.integer(0)?;
    file.float(own)?;
    file.float(cumulative)
}

fn key<'a, W: Write>(path: &'a str, line: u32, function: &'a str, file: &mut Marshal<'a, W>) -> std::io::Result<()> {
    file.begin_tuple(3)?;
    file.string(path)?;
    file.integer(line.into())?;
    file.string(function)
}

fn name(profile: &Profile, id: FrameId) -> Name {
    let frame = profile.frame(id);
    match (frame.kind, profile.string(frame.file)) {
        (FrameKind::Python, file) if !file.is_empty() => (
            file.to_owned(),
            frame.first_line,
            label::clean(profile.string(frame.function).to_owned()),
        ),
        // As built-in functions are: without a file.
        _ => (
            "~".to_owned(),
            0,
            format!("<{}>", {
                let file = grouping::file(profile, frame);
                let name = label::frame(profile, frame);
                if name.contains(&*file) {
                    name
                } else {
                    format!("{name} ({file})")
                }
            }),
        ),
    }
}
