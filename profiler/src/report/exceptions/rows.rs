//! From samples to rows: exceptions of one type that are raised at one line.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use super::{Caught, Detail, ExceptionsReport};
use crate::{
    profile::{Frame, FrameId, FrameKind, Labels, Profile, StackId},
    report::{label, owner::Owners},
    shown,
};

/// A line of Python.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line {
    /// What people read. Never empty.
    pub name: String,
    pub function: String,
    pub file: String,
    /// 0 if it is not known.
    pub line: u32,
}

impl Line {
    fn of(profile: &Profile, frame: &Frame) -> Self {
        let text = |text: &str| match text {
            "" => String::new(),
            text => label::clean(text.to_owned()),
        };
        let is_python = frame.kind == FrameKind::Python;
        Self {
            name: label::frame(profile, frame),
            function: if is_python {
                text(profile.string(frame.function))
            } else {
                String::new()
            },
            file: if is_python {
                text(profile.string(frame.file))
            } else {
                String::new()
            },
            line: frame.line,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowKey {
    pub kind: String,
    /// Where it is raised.
    pub line: Line,
    /// 0 in tables, which put processes together.
    pub pid: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub key: RowKey,
    pub counted: u64,
    pub count: f64,
    pub error: f64,
    /// The most frequent first.
    pub caught: Vec<(Catch, u64)>,
    /// The program's own line that led there most often, if it is another.
    pub own: Option<Line>,
    own_count: f64,
    pub labels: Labels,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Catch {
    Line(Line),
    Unknown,
}

/// The rows, the largest first. `by_process`: each process has its own.
pub fn rows(report: &ExceptionsReport, by_process: bool) -> Vec<Row> {
    let profile = &report.profile;
    let mut owners = Owners::new(profile);
    let mut rows: IndexMap<RowKey, Row, FxBuildHasher> = IndexMap::default();
    for ((sample, _), detail) in profile.samples().zip(&report.details) {
        let key = RowKey {
            kind: shown::line(&detail.kind),
            line: leaf(profile, sample.stack),
            pid: if by_process { sample.labels.pid } else { 0 },
        };
        let own = owners.find(sample.stack).frame.map(|id| profile.frame(id));
        let own = own
            .filter(|frame| frame.kind == FrameKind::Python)
            .map(|frame| Line::of(profile, frame))
            .filter(|own| *own != key.line);
        let row = rows.entry(key).or_insert_with_key(|key| Row {
            key: key.clone(),
            counted: 0,
            count: 0.0,
            error: 0.0,
            caught: Vec::new(),
            own: None,
            own_count: -1.0,
            labels: sample.labels.clone(),
        });
        add(profile, row, detail);
        if detail.count > row.own_count {
            row.own_count = detail.count;
            row.own = own;
        }
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    for row in &mut rows {
        row.caught.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    }
    rows.sort_by(|a, b| {
        b.count
            .total_cmp(&a.count)
            .then_with(|| (&a.key.kind, &a.key.line, a.key.pid).cmp(&(&b.key.kind, &b.key.line, b.key.pid)))
    });
    rows
}

fn add(profile: &Profile, row: &mut Row, detail: &Detail) {
    row.counted += detail.counted;
    row.count += detail.count;
    row.error += detail.error;
    for (caught, times) in &detail.caught {
        let catch = match caught {
            Caught::Unknown => Catch::Unknown,
            Caught::Frame(id) => Catch::Line(Line::of(profile, profile.frame(*id))),
        };
        match row.caught.iter_mut().find(|(known, _)| *known == catch) {
            Some((_, sum)) => *sum += times,
            None => row.caught.push((catch, *times)),
        }
    }
}

/// The innermost frame that is not the type.
fn leaf(profile: &Profile, stack: StackId) -> Line {
    let frames = profile.stack(stack);
    let is_python = |id: &&FrameId| profile.frame(**id).kind == FrameKind::Python;
    let place = frames.iter().skip(1).find(is_python).or(frames.get(1));
    match place {
        Some(id) => Line::of(profile, profile.frame(*id)),
        None => Line {
            name: "[no Python frame]".to_owned(),
            ..Line::default()
        },
    }
}
