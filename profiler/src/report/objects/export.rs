//! The report for programs.

use std::{io::Write, time::Duration};

use anyhow::Context as _;
use serde::Serialize;

use super::ObjectsReport;
use crate::objects::{
    account::{Notes, Path},
    adders::Line,
    growth::{Change, Growth},
    shapes::Sums,
    watch,
};

/// Of the JSON. Fields may be added without another number.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct File<'a> {
    version: u32,
    pid: u32,
    command: &'a str,
    python: &'a str,
    total: Numbers,
    types: Vec<Named<'a>>,
    holders: Vec<Held<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    growth: Option<Grown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referrers: Option<Refers<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    largest: Option<Vec<Largest<'a>>>,
    notes: Told,
}

#[derive(Serialize)]
struct Numbers {
    objects: u64,
    own_bytes: u64,
    bytes: u64,
}

impl From<&Sums> for Numbers {
    fn from(sums: &Sums) -> Self {
        Self {
            objects: sums.objects,
            own_bytes: sums.own,
            bytes: sums.whole,
        }
    }
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    #[serde(flatten)]
    numbers: Numbers,
}

#[derive(Serialize)]
struct Held<'a> {
    holder: String,
    #[serde(flatten)]
    path: &'a Path,
    #[serde(flatten)]
    numbers: Numbers,
}

#[derive(Serialize)]
struct Grown<'a> {
    length_s: f64,
    total: Changed,
    types: Vec<NamedChange<'a>>,
    holders: Vec<HeldChange<'a>>,
    /// Containers with more in them, and lines that add to them.
    added: Vec<AddedTo<'a>>,
}

#[derive(Serialize)]
struct AddedTo<'a> {
    holder: String,
    #[serde(flatten)]
    path: &'a Path,
    #[serde(flatten)]
    change: Changed,
    lines: &'a [Line],
}

#[derive(Serialize)]
struct Changed {
    objects_change: i64,
    own_bytes_change: i64,
    bytes_change: i64,
    #[serde(flatten)]
    now: Numbers,
}

impl From<&Change> for Changed {
    fn from(change: &Change) -> Self {
        Self {
            objects_change: change.objects,
            own_bytes_change: change.own,
            bytes_change: change.whole,
            now: Numbers::from(&change.now),
        }
    }
}

#[derive(Serialize)]
struct NamedChange<'a> {
    name: &'a str,
    #[serde(flatten)]
    change: Changed,
}

#[derive(Serialize)]
struct HeldChange<'a> {
    holder: String,
    #[serde(flatten)]
    path: &'a Path,
    #[serde(flatten)]
    change: Changed,
}

#[derive(Serialize)]
struct Refers<'a> {
    name: &'a str,
    instances: u64,
    own_bytes: u64,
    direct: Vec<Referrer<'a>>,
    some: &'a [Box<str>],
}

#[derive(Serialize)]
struct Referrer<'a> {
    holder: String,
    #[serde(flatten)]
    path: &'a Path,
    by: &'a str,
    references: u64,
}

#[derive(Serialize)]
struct Largest<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    own_bytes: u64,
    bytes: u64,
    place: &'a str,
}

/// How it went, and what was not seen.
#[derive(Serialize)]
struct Told {
    took_s: f64,
    copied_s: f64,
    waited_for_collections_s: f64,
    copied_bytes: u64,
    arenas: u64,
    pools: u64,
    free_pools: u64,
    free_bytes: u64,
    pools_read_again: u64,
    pools_torn: u64,
    pools_unreadable: u64,
    pages_swapped_out: u64,
    met_collection: bool,
    objects_in_pools: u64,
    objects_elsewhere: u64,
    other_blocks: u64,
    other_bytes: u64,
    time_was_up: bool,
}

impl From<&Notes> for Told {
    fn from(notes: &Notes) -> Self {
        let pools = &notes.pools;
        Self {
            took_s: notes.took.as_secs_f64(),
            copied_s: notes.copied_in.as_secs_f64(),
            waited_for_collections_s: notes.waited.as_secs_f64(),
            copied_bytes: notes.copied_bytes,
            arenas: pools.arenas,
            pools: pools.pools,
            free_pools: pools.free_pools,
            free_bytes: pools.free_bytes,
            pools_read_again: pools.reread,
            pools_torn: pools.torn,
            pools_unreadable: pools.unreadable,
            pages_swapped_out: notes.swapped_pages,
            met_collection: notes.met_collection,
            objects_in_pools: notes.walk.objects,
            objects_elsewhere: notes.walk.outside,
            other_blocks: notes.walk.other_blocks,
            other_bytes: notes.walk.other_bytes,
            time_was_up: notes.walk.is_cut,
        }
    }
}

impl<'a> Grown<'a> {
    fn of(growth: &'a Growth, length: Duration) -> Self {
        Self {
            length_s: length.as_secs_f64(),
            total: (&growth.total).into(),
            types: growth
                .kinds
                .iter()
                .map(|(name, change)| NamedChange {
                    name,
                    change: change.into(),
                })
                .collect(),
            holders: growth
                .holders
                .iter()
                .map(|(path, change)| HeldChange {
                    holder: path.text(),
                    path,
                    change: change.into(),
                })
                .collect(),
            added: growth
                .added
                .iter()
                .map(|added| AddedTo {
                    holder: added.container.text(),
                    path: &added.container,
                    change: (&added.change).into(),
                    lines: &added.lines,
                })
                .collect(),
        }
    }
}

/// What became more of the objects of one of several processes.
#[derive(Serialize)]
pub struct GrownOf<'a> {
    pid: u32,
    #[serde(flatten)]
    growth: Grown<'a>,
}

pub fn grown(grown: &watch::Grown) -> GrownOf<'_> {
    GrownOf {
        pid: grown.pid,
        growth: Grown::of(&grown.growth, grown.length),
    }
}

/// Everything.
pub fn write_json(report: &ObjectsReport, out: &mut dyn Write) -> anyhow::Result<()> {
    let account = &report.account;
    let mut types: Vec<_> = account.kinds.iter().collect();
    types.sort_by(|(a, x), (b, y)| (y.whole, a).cmp(&(x.whole, b)));
    let mut holders: Vec<_> = account.holders.iter().collect();
    holders.sort_by(|a, b| (b.sums.whole, &a.path).cmp(&(a.sums.whole, &b.path)));
    let file = File {
        version: VERSION,
        pid: report.pid,
        command: &report.command,
        python: &report.version,
        total: Numbers::from(&account.total()),
        types: types
            .into_iter()
            .map(|(name, sums)| Named {
                name,
                numbers: sums.into(),
            })
            .collect(),
        holders: holders
            .into_iter()
            .map(|held| Held {
                holder: held.path.text(),
                path: &held.path,
                numbers: (&held.sums).into(),
            })
            .collect(),
        growth: report
            .growth
            .as_ref()
            .map(|(growth, length)| Grown::of(growth, *length)),
        referrers: report.referrers.as_ref().map(|referrers| Refers {
            name: &referrers.name,
            instances: referrers.instances,
            own_bytes: referrers.own,
            direct: referrers
                .direct
                .iter()
                .map(|(path, by, references)| Referrer {
                    holder: path.text(),
                    path,
                    by,
                    references: *references,
                })
                .collect(),
            some: &referrers.some,
        }),
        largest: report.largest.as_ref().map(|largest| {
            largest
                .iter()
                .map(|large| Largest {
                    kind: &large.kind,
                    own_bytes: large.own,
                    bytes: large.whole,
                    place: &large.place,
                })
                .collect()
        }),
        notes: Told::from(&account.notes),
    };
    serde_json::to_writer_pretty(&mut *out, &file).context("cannot write the report as JSON")?;
    writeln!(out)?;
    Ok(())
}

/// A line for each way, from what holds it to what is held, with bytes: for flame graphs. Of growth, what became more.
pub fn write_folded(report: &ObjectsReport, out: &mut dyn Write) -> anyhow::Result<()> {
    let lines: Vec<(&Path, u64)> = match &report.growth {
        Some((growth, _)) => {
            let more = growth.holders.iter().filter(|(_, change)| change.whole > 0);
            more.map(|(path, change)| (path, change.whole.unsigned_abs())).collect()
        }
        None => {
            let holders = report.account.holders.iter();
            holders.map(|holder| (&holder.path, holder.sums.whole)).collect()
        }
    };
    for (path, bytes) in lines {
        let mut frames = vec![path.module(), path.holder()];
        frames.dedup();
        for (number, step) in path.steps.iter().enumerate() {
            frames.push(match (number, &*step.attribute) {
                (0, _) | (_, "") => step.kind.to_string(),
                (_, attribute) => format!(".{attribute}: {}", step.kind),
            });
        }
        let frames: Vec<String> = frames.iter().map(|frame| frame.replace([';', '\n'], "_")).collect();
        writeln!(out, "{} {bytes}", frames.join(";"))?;
    }
    Ok(())
}
