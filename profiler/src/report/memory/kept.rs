//! The lines that keep what became more, as hardware watchpoints saw it (`--watchpoints`).

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    MemoryReport,
    group::Place,
    layout::{Grid, Last, paragraphs, span},
};
use crate::{
    births::lines::{ENOUGH, Grown, Kept, Line},
    humanize::{bytes, bytes_change, count, percent},
    report::objects::table::signed,
    shown,
    summary::many,
};

/// To be said until it was right on real services nine times of ten (docs/memory.md has what it was so far).
const EXPERIMENTAL: &str = "This is experimental: a line can be wrong, above all one of few that were seen. Who holds what became more is told \
     for certain.";

/// Rows that are shown.
const ROWS: usize = 8;

/// What watchpoints came to, with names.
#[derive(Clone, Debug)]
pub struct KeptLines {
    pub kept: Kept,
    /// What keeps most first.
    pub lines: Vec<Line<Place>>,
}

/// The block, with an empty line at the end; nothing without watchpoints.
pub fn text(report: &MemoryReport, width: usize) -> String {
    let Some(KeptLines { kept, lines }) = &report.kept else {
        return String::new();
    };
    let mut text = String::new();
    if !lines.is_empty() {
        text.push_str(&rows(kept, lines, width));
    }
    text.push_str(&paragraphs(&sentences(kept, lines), width));
    text.push('\n');
    text
}

fn rows(kept: &Kept, lines: &[Line<Place>], width: usize) -> String {
    let shown = &lines[..lines.len().min(ROWS)];
    let last = shown.iter().map(|line| Last {
        text: line.line.full_name(),
        addition: format!("in {}", shown::line(&kept.paths[line.path].path.text())),
        ..Last::default()
    });
    let mut grid = Grid::new("line that keeps objects (by watchpoints)", last.collect());
    let cells = |cell: &dyn Fn(&Line<Place>) -> String| shown.iter().map(cell).collect::<Vec<_>>();
    let part = |line: &Line<Place>, whole: i64| (line.share * whole as f64) as i64;
    let sure = |line: &Line<Place>, cell: &dyn Fn() -> String| match line.is_sure() {
        true => cell(),
        false => String::new(),
    };
    grid.column(
        1,
        "objects",
        cells(&|line| sure(line, &|| signed(part(line, kept.paths[line.path].change.objects)))),
    );
    grid.column(
        0,
        "with all it holds",
        cells(&|line| {
            sure(line, &|| {
                format!("~{}", bytes_change(part(line, kept.paths[line.path].held)))
            })
        }),
    );
    grid.column(
        2,
        "share",
        cells(&|line| {
            sure(line, &|| {
                let (low, high) = line.interval;
                format!("{:.0} – {:.0} %", 100.0 * low, 100.0 * high)
            })
        }),
    );
    grid.column(0, "seen", cells(&|line| format!("{} of {}", line.seen, line.of)));
    grid.render(width)
}

fn sentences(kept: &Kept, lines: &[Line<Place>]) -> Vec<String> {
    let tally = &kept.tally;
    let mut sentences = Vec::new();
    if tally.windows == 0 {
        sentences.push(
            "Lines were to be drawn by hardware watchpoints, and no window was opened: see the warnings.".to_owned(),
        );
        return sentences;
    }
    let stayed = kept.proofs.len() as u64;
    sentences.push(format!(
        "Drawn by hardware watchpoints: of {} that {} made in {}, {} followed for {} each, and {} stayed where something became more.",
        many(tally.alive, "object"),
        if tally.alive == 1 { "was" } else { "were" },
        many(tally.windows, "window"),
        match tally.followed {
            1 => "1 was".to_owned(),
            followed => format!("{} were", count(followed)),
        },
        span(kept.follow),
        count(stayed),
    ));
    if kept.grown > 0 && stayed > 0 {
        let explained = kept.explained().clamp(0, kept.grown);
        sentences.push(format!(
            "They, and what hangs on them, are {} of the {} that became more.",
            bytes(explained.unsigned_abs()),
            bytes(kept.grown.unsigned_abs()),
        ));
    }
    // A share is told of ten.
    let most = lines.iter().map(|line| line.of).max().unwrap_or(0);
    if most < ENOUGH {
        let seconds = kept.length.as_secs_f64();
        let more = match most {
            0 => format!(
                "Nothing of what stays was met in {}: a longer recording (-d) meets more, and who holds it is told above.",
                span(kept.length)
            ),
            _ => format!(
                "Below {ENOUGH} seen, a line has no share: about {} would be long enough (-d).",
                span(std::time::Duration::from_secs_f64(
                    (seconds * 1.3 * ENOUGH as f64 / most as f64).ceil()
                ))
            ),
        };
        sentences.push(more);
    }
    let left = &kept.left_out;
    let mut others = Vec::new();
    for (number, what) in [
        (left.steady, "hang where nothing became more"),
        (left.garbage, "may be garbage that waits for a full collection"),
        (left.parts, "are dicts of attributes, whose objects count"),
        (left.gone, "were gone or changed at the end"),
        (left.lost, "have lost their stacks"),
        (tally.given_up, "could not be followed to the end"),
    ] {
        if number > 0 {
            others.push(format!("{} {what}", count(number)));
        }
    }
    if !others.is_empty() {
        sentences.push(format!("Of others, {}.", others.join("; ")));
    }
    let mut cost = format!(
        "Stops took {} of the CPU time that the process used for itself",
        percent(kept.share())
    );
    if tally.other_hits > 0 {
        let _ = write!(
            cost,
            ", {} of {} in other processes that have the list at the same address",
            count(tally.other_hits),
            count(tally.hits)
        );
    }
    cost.push('.');
    sentences.push(cost);
    if !lines.is_empty() {
        sentences.push(EXPERIMENTAL.to_owned());
    }
    sentences
}

/// The same as JSON.
#[derive(Serialize)]
pub(super) struct KeptOf<'a> {
    pid: u32,
    windows: u64,
    windows_cut: u64,
    births: u64,
    alive: u64,
    followed: u64,
    died: u64,
    untracked: u64,
    given_up: u64,
    stayed: usize,
    left_out: LeftOutOf,
    follow_s: f64,
    length_s: f64,
    hits: u64,
    window_hits: u64,
    other_hits: u64,
    stop_ns: u64,
    stops_share: f64,
    longest_window_ms: f64,
    growth_bytes: i64,
    explained_bytes: i64,
    lines: Vec<LineOf<'a>>,
}

#[derive(Serialize)]
struct LeftOutOf {
    gone: u64,
    steady: u64,
    garbage: u64,
    parts: u64,
    lost: u64,
}

#[derive(Serialize)]
struct LineOf<'a> {
    #[serde(flatten)]
    place: &'a Place,
    holder: String,
    way: String,
    seen: u64,
    of: u64,
    /// Of what became more there; nothing where fewer than ten were seen.
    share: Option<f64>,
    share_low: Option<f64>,
    share_high: Option<f64>,
    /// With what hangs on them and was not seen itself.
    bytes: Option<i64>,
    own_bytes: Option<i64>,
    /// What became more there, and how many of all that hang there are tracked.
    path_objects: i64,
    path_tracked: f64,
    objects: Option<i64>,
}

impl<'a> KeptOf<'a> {
    pub(super) fn new(lines: &'a KeptLines) -> Self {
        let KeptLines { kept, lines } = lines;
        let tally = &kept.tally;
        let left = &kept.left_out;
        Self {
            pid: kept.pid,
            windows: tally.windows,
            windows_cut: tally.cut,
            births: tally.births,
            alive: tally.alive,
            followed: tally.followed,
            died: tally.died,
            untracked: tally.untracked,
            given_up: tally.given_up,
            stayed: kept.proofs.len(),
            left_out: LeftOutOf {
                gone: left.gone,
                steady: left.steady,
                garbage: left.garbage,
                parts: left.parts,
                lost: left.lost,
            },
            follow_s: kept.follow.as_secs_f64(),
            length_s: kept.length.as_secs_f64(),
            hits: tally.hits,
            window_hits: tally.window_hits,
            other_hits: tally.other_hits,
            stop_ns: tally.stop_ns,
            stops_share: kept.share(),
            longest_window_ms: tally.longest_ns as f64 / 1e6,
            growth_bytes: kept.grown,
            explained_bytes: kept.explained(),
            lines: lines
                .iter()
                .map(|line| {
                    let Grown {
                        path,
                        change,
                        held,
                        tracked,
                    } = &kept.paths[line.path];
                    let part = |whole: i64| line.is_sure().then_some((line.share * whole as f64) as i64);
                    LineOf {
                        place: &line.line,
                        holder: path.holder(),
                        way: path.way(),
                        seen: line.seen,
                        of: line.of,
                        share: line.is_sure().then_some(line.share),
                        share_low: line.is_sure().then_some(line.interval.0),
                        share_high: line.is_sure().then_some(line.interval.1),
                        bytes: part(*held),
                        own_bytes: part(change.whole),
                        path_objects: change.objects,
                        path_tracked: *tracked,
                        objects: part(change.objects),
                    }
                })
                .collect(),
        }
    }
}
