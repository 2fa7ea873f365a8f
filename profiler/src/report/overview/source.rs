//! The lines of a function, with what each had: in Python, in machine code that it called, in the kernel.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use super::{Asked, NoSuchFunction, neighbours::named, table};
use crate::{
    humanize::percent,
    profile::{FrameKind, Profile, StringId},
    report::{
        grouping, label,
        layout::{Grid, Last, paragraph},
        path,
        rows::{Counted, Sum},
    },
    shown,
};

/// Lines around one that has something.
const AROUND: u32 = 3;
/// No source file that people write is larger.
const MAX_BYTES: u64 = 8 << 20;
/// Files that have a function of the same name.
const MAX_FILES: usize = 3;

#[derive(Clone, Copy, Default)]
pub(super) struct Line {
    pub(super) total: Sum,
    pub(super) python: Sum,
    pub(super) native: Sum,
    pub(super) kernel: Sum,
}

/// By file and line, of the functions of this name.
pub(super) fn lines(
    profile: &Profile,
    counted: Counted,
    wanted: &str,
) -> Result<BTreeMap<StringId, BTreeMap<u32, Line>>, NoSuchFunction> {
    let is = named(profile, wanted)?;
    let mut files: BTreeMap<StringId, BTreeMap<u32, Line>> = BTreeMap::new();
    let mut seen: Vec<(StringId, u32)> = Vec::new();
    for (key, values) in profile.samples() {
        let sum = counted.of(values);
        if sum.value == 0 {
            continue;
        }
        seen.clear();
        let stack = profile.stack(key.stack);
        // The innermost frame with a source line is whose machine code and kernel code it is.
        let innermost = stack.iter().position(|id| {
            let frame = profile.frame(*id);
            frame.kind == FrameKind::Python || is[id.index()]
        });
        for (depth, id) in stack.iter().enumerate().filter(|(_, id)| is[id.index()]) {
            let frame = profile.frame(*id);
            let place = (frame.file, frame.line);
            let line = files.entry(frame.file).or_default().entry(frame.line).or_default();
            if !seen.contains(&place) {
                seen.push(place);
                line.total.add(sum);
            }
            if innermost == Some(depth) {
                let leaf = profile.frame(stack[0]);
                match leaf.kind {
                    FrameKind::Kernel => line.kernel.add(sum),
                    FrameKind::Native if depth > 0 && !is_interpreter(profile, leaf) => line.native.add(sum),
                    _ => line.python.add(sum),
                }
            }
        }
    }
    Ok(files)
}

fn is_interpreter(profile: &Profile, frame: &crate::profile::Frame) -> bool {
    frame
        .mapping
        .is_some_and(|mapping| path::is_interpreter(profile.string(profile.mapping(mapping).path)))
}

pub(super) fn text(
    profile: &Profile,
    asked: &Asked,
    counted: Counted,
    wanted: &str,
    width: usize,
) -> Result<String, NoSuchFunction> {
    let files = lines(profile, counted, wanted)?;
    let all = counted.all(profile);
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_by_key(|(_, lines)| std::cmp::Reverse(lines.values().map(|line| line.total.value).max()));
    let mut text = String::new();
    for (file, lines) in files.iter().take(MAX_FILES) {
        let path = profile.string(*file);
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!(
            "{}\n",
            shown::line(if path.is_empty() { "[no source file]" } else { path })
        ));
        let source = match read(path, profile) {
            Ok((source, note)) => {
                if let Some(note) = note {
                    text.push_str(&paragraph(&note, width));
                }
                source
            }
            Err(why) => {
                text.push_str(&paragraph(&format!("its source cannot be shown: {why}"), width));
                Vec::new()
            }
        };
        let wanted: Vec<u32> = match source.is_empty() {
            true => lines.keys().copied().collect(),
            false => around(lines.keys().copied(), source.len()),
        };
        let cell = |sum: Sum| match sum.value {
            0 => String::new(),
            _ => table::share(sum, all),
        };
        let at = |number: &u32| lines.get(number).copied().unwrap_or_default();
        let last = wanted.iter().map(|number| {
            let code = (*number as usize).checked_sub(1).and_then(|at| source.get(at));
            Last {
                text: match (code, number) {
                    (Some(code), _) => format!("{number:>5} {code}"),
                    (None, 0) => "[line unknown]".to_owned(),
                    (None, _) => format!("{number:>5}"),
                },
                ..Last::default()
            }
        });
        let mut grid = Grid::new(" line", last.collect());
        grid.column(0, "total", wanted.iter().map(|number| cell(at(number).total)).collect());
        grid.column(
            0,
            "Python",
            wanted.iter().map(|number| cell(at(number).python)).collect(),
        );
        grid.column(
            1,
            "native",
            wanted.iter().map(|number| cell(at(number).native)).collect(),
        );
        grid.column(
            2,
            "kernel",
            wanted.iter().map(|number| cell(at(number).kernel)).collect(),
        );
        text.push_str(&grid.render(width));
    }
    if files.len() > MAX_FILES {
        text.push_str(&format!(
            "{} more files have a function {}\n",
            files.len() - MAX_FILES,
            label::clean(wanted.to_owned())
        ));
    }
    let of_it = asked.before.filter(|before| *before > 0);
    if let Some(before) = of_it {
        text.push_str(&format!(
            "shares are of the {} that was chosen\n",
            percent(all.value as f64 / before as f64)
        ));
    }
    Ok(text)
}

fn around(lines: impl Iterator<Item = u32>, last: usize) -> Vec<u32> {
    let last = u32::try_from(last).unwrap_or(u32::MAX);
    let mut wanted = std::collections::BTreeSet::new();
    for line in lines {
        wanted.insert(line);
        if line > 0 && line <= last {
            wanted.extend(line.saturating_sub(AROUND).max(1)..=line.saturating_add(AROUND).min(last));
        }
    }
    wanted.into_iter().collect()
}

/// The lines of a source file, and what is to be known of them: as recorded, else as it is on this host.
fn read(path: &str, profile: &Profile) -> Result<(Vec<String>, Option<String>), String> {
    if let Some(text) = profile.sources.get(path) {
        return Ok((shown_lines(text), None));
    }
    if !path.starts_with('/') {
        return Err("the recording does not say where the file is".to_owned());
    }
    let told = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "the file is not on this host, or in a container".to_owned(),
        kind => kind.to_string(),
    };
    // A recording names the path, and may be anybody's: what is no plain file is not opened.
    let metadata = std::fs::metadata(Path::new(path)).map_err(told)?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err("it is no source file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(told)?
        .take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(told)?;
    let lines = shown_lines(&String::from_utf8_lossy(&bytes));
    let recorded = u64::try_from(profile.started_at_ns)
        .ok()
        .filter(|ns| *ns > 0)
        .and_then(|ns| UNIX_EPOCH.checked_add(Duration::from_nanos(ns)));
    let changed = metadata
        .modified()
        .ok()
        .zip(recorded)
        .is_some_and(|(changed, recorded)| changed > recorded);
    let note = changed.then(|| "the file has changed since the recording: lines may be others".to_owned());
    Ok((lines, note))
}

fn shown_lines(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| shown::line(&line.replace('\t', "    ")).trim_end().to_owned())
        .collect()
}

/// The file of a frame, for programs.
pub(super) fn file_of(profile: &Profile, frame: &crate::profile::Frame) -> String {
    match profile.string(frame.file) {
        "" => grouping::file(profile, frame).into_owned(),
        file => file.to_owned(),
    }
}
