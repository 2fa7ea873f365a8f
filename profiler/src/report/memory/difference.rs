//! What grew between two recordings.
//!
//! The base comes from a pprof file, which holds no ages. Errors are `profiler diff`'s; here numbers stand as they are. Processes and threads have other numbers in
//! another recording, so they are the same if their names are; code is the same if function, file and line are.

use std::{cmp::Reverse, io::Write, time::Duration};

use anyhow::Context as _;
use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use serde::Serialize;

use super::{
    MemoryReport, Shown,
    group::{By, Ids, Indices, Place, Sums, group, group_samples},
    layout::{Grid, Last, span},
    table::closing,
};
use crate::{
    humanize::{bytes, bytes_change},
    profile::Profile,
    shown::csv_field,
};

/// The file is a profile of something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a profile of memory: it lacks alloc_objects, alloc_space, inuse_objects or inuse_space")]
pub struct NotMemory;

#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub by: By,
    pub shown: Shown,
    /// What grew most first, what shrank most last: per minute if the lengths of the recordings differ.
    pub rows: Vec<Row>,
    pub total: Numbers,
    pub base_length: Duration,
    pub length: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub place: Place,
    pub numbers: Numbers,
}

/// Bytes of what is shown, in either recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub base: u64,
    pub now: u64,
}

impl Numbers {
    pub fn change(self) -> i64 {
        super::change(self.base, self.now)
    }

    fn add(&mut self, other: Self) {
        self.base = self.base.saturating_add(other.base);
        self.now = self.now.saturating_add(other.now);
    }
}

/// Whether it can be a base: to be asked before a recording that is to be compared with it.
///
/// # Errors
/// If its values are not those of memory.
pub fn check(base: &Profile) -> Result<(), NotMemory> {
    match Indices::of(base).are_complete() {
        true => Ok(()),
        false => Err(NotMemory),
    }
}

/// Compares two recordings row by row.
///
/// # Errors
/// If the base is not a profile of memory.
pub fn difference(base: &Profile, now: &MemoryReport, by: By) -> Result<Difference, NotMemory> {
    check(base)?;
    let shown = |sums: &Sums| match now.shown {
        Shown::Allocated => sums.alloc_bytes,
        _ => sums.inuse_bytes,
    };
    let mut rows: IndexMap<Place, Numbers, FxBuildHasher> = IndexMap::default();
    for row in group_samples(base, &[], by, Ids::Dropped).rows {
        let base = shown(&row.sums);
        rows.entry(row.place).or_default().add(Numbers { base, now: 0 });
    }
    for row in group(now, by, Ids::Dropped).rows {
        let now = shown(&row.sums);
        rows.entry(row.place).or_default().add(Numbers { base: 0, now });
    }
    let mut total = Numbers::default();
    for numbers in rows.values() {
        total.add(*numbers);
    }
    let mut difference = Difference {
        by,
        shown: now.shown,
        rows: Vec::new(),
        total,
        base_length: Duration::from_nanos(u64::try_from(base.duration_ns).unwrap_or(0)),
        length: now.length,
    };
    let mut rows: Vec<_> = rows
        .into_iter()
        .map(|(place, numbers)| Row { place, numbers })
        .collect();
    rows.sort_by(|a, b| {
        let key = |row: &Row| Reverse((difference.compared(row.numbers), row.numbers.now));
        key(a).cmp(&key(b)).then_with(|| a.place.cmp(&b.place))
    });
    difference.rows = rows;
    Ok(difference)
}

impl Difference {
    /// Whether one recording was longer than the other by more than clocks and starting up explain.
    pub fn lengths_differ(&self) -> bool {
        let longer = self.length.max(self.base_length);
        self.length.abs_diff(self.base_length) * 50 > longer
    }

    /// The change of what comes per minute; `None` if the length of one of the recordings is not known.
    pub fn change_per_minute(&self, numbers: Numbers) -> Option<i64> {
        let rate = |bytes: u64, length: Duration| bytes as f64 * 60.0 / length.as_secs_f64();
        let change = rate(numbers.now, self.length) - rate(numbers.base, self.base_length);
        change.is_finite().then_some(change.round() as i64)
    }

    /// The change that rows are compared by.
    fn compared(&self, numbers: Numbers) -> i64 {
        match self.lengths_differ() {
            true => self.change_per_minute(numbers),
            false => None,
        }
        .unwrap_or_else(|| numbers.change())
    }

    fn of_shown(&self) -> &'static str {
        match self.shown {
            Shown::Allocated => "allocated",
            shown => shown.in_use(),
        }
    }
}

/// A sentence on the whole and the `top` rows that grew most, with what the others come to.
pub fn text(difference: &Difference, top: usize, width: usize) -> String {
    let Difference {
        total,
        base_length,
        length,
        ..
    } = difference;
    let mut text = format!(
        "Since the base: {} {} -> {} ({})\n",
        difference.of_shown(),
        bytes(total.base),
        bytes(total.now),
        bytes_change(total.change())
    );
    let per_minute = difference.lengths_differ();
    if per_minute {
        text.push_str(&match base_length.is_zero() {
            true => "The base does not say how long it took, so the two may not compare.\n".to_owned(),
            false => format!(
                "The base took {}, this recording {}: compare the change per minute.\n",
                span(*base_length),
                span(*length)
            ),
        });
    }
    let changed: Vec<&Row> = difference
        .rows
        .iter()
        .filter(|row| difference.compared(row.numbers) != 0)
        .collect();
    if changed.is_empty() {
        text.push_str("Nothing grew or shrank between them.\n");
        return text;
    }
    let visible = if changed.len() == top.saturating_add(1) {
        changed.len()
    } else {
        changed.len().min(top)
    };
    let (shown, others) = changed.split_at(visible);

    let mut numbers: Vec<_> = shown.iter().map(|row| row.numbers).collect();
    let mut last: Vec<_> = shown
        .iter()
        .map(|row| Last {
            text: row.place.full_name(),
            ..Last::default()
        })
        .collect();
    // Rows that did not change are counted with the others, so that the columns add up.
    let unseen = difference.rows.len() - visible;
    if unseen > 0 {
        let mut rest = Numbers::default();
        for row in others.iter().copied().chain(
            difference
                .rows
                .iter()
                .filter(|row| difference.compared(row.numbers) == 0),
        ) {
            rest.add(row.numbers);
        }
        numbers.push(rest);
        last.push(closing(unseen));
    }
    if difference.rows.len() > 1 {
        numbers.push(*total);
        last.push(Last {
            text: "total".to_owned(),
            ..Last::default()
        });
    }
    let cells = |cell: &dyn Fn(Numbers) -> String| numbers.iter().map(|numbers| cell(*numbers)).collect::<Vec<_>>();
    let mut grid = Grid::new(
        match difference.by {
            By::Line => "where",
            by => by.name(),
        },
        last,
    );
    if per_minute {
        let rate = |numbers| match difference.change_per_minute(numbers) {
            Some(change) => bytes_change(change),
            None => "-".to_owned(),
        };
        grid.column(0, "per minute", cells(&rate));
    }
    grid.column(1, "change", cells(&|numbers| bytes_change(numbers.change())));
    grid.column(3, "base", cells(&|numbers| bytes(numbers.base)));
    grid.column(2, "now", cells(&|numbers| bytes(numbers.now)));
    text.push('\n');
    text.push_str(&grid.render(width));
    text
}

/// All rows, also those that did not change.
pub fn write_csv(difference: &Difference, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "name,function,file,line,base_bytes,now_bytes,change_bytes,change_bytes_per_minute"
    )?;
    for Row { place, numbers } in &difference.rows {
        writeln!(
            out,
            "{},{},{},{},{},{},{},{}",
            csv_field(&place.full_name()),
            csv_field(&place.function),
            csv_field(&place.file),
            match place.line {
                0 => String::new(),
                line => line.to_string(),
            },
            numbers.base,
            numbers.now,
            numbers.change(),
            difference
                .change_per_minute(*numbers)
                .map(|change| change.to_string())
                .unwrap_or_default(),
        )?;
    }
    Ok(())
}

/// The same, with the lengths of both recordings.
pub fn write_json(difference: &Difference, out: &mut dyn Write) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct File<'a> {
        shown: &'static str,
        by: &'static str,
        base_length_s: f64,
        length_s: f64,
        total: FileNumbers,
        rows: Vec<FileRow<'a>>,
    }
    #[derive(Serialize)]
    struct FileRow<'a> {
        #[serde(flatten)]
        place: &'a Place,
        #[serde(flatten)]
        numbers: FileNumbers,
    }
    #[derive(Serialize)]
    struct FileNumbers {
        base_bytes: u64,
        now_bytes: u64,
        change_bytes: i64,
        change_bytes_per_minute: Option<i64>,
    }
    let numbers = |numbers: Numbers| FileNumbers {
        base_bytes: numbers.base,
        now_bytes: numbers.now,
        change_bytes: numbers.change(),
        change_bytes_per_minute: difference.change_per_minute(numbers),
    };
    let file = File {
        shown: difference.shown.name(),
        by: difference.by.name(),
        base_length_s: difference.base_length.as_secs_f64(),
        length_s: difference.length.as_secs_f64(),
        total: numbers(difference.total),
        rows: difference
            .rows
            .iter()
            .map(|row| FileRow {
                place: &row.place,
                numbers: numbers(row.numbers),
            })
            .collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &file).context("cannot write the difference as JSON")?;
    writeln!(out)?;
    Ok(())
}
