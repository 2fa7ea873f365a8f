//! Who calls a function, and what it calls.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use super::{Asked, NoSuchFunction, ROWS, table};
use crate::{
    closest,
    humanize::percent,
    profile::{FrameId, Profile},
    report::{
        amount::amount,
        grouping::{By, Grouping},
        label,
        layout::{Grid, Last},
        machinery::Machinery,
        rows::{Counted, Sum, shown_of},
        select::is_called,
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Callers,
    Callees,
}

/// A neighbour: `None` where the function is the outermost, or does the work itself.
pub(super) struct Neighbour {
    pub(super) frame: Option<FrameId>,
    pub(super) sum: Sum,
}

pub(super) struct Neighbours {
    /// The largest first.
    pub(super) rows: Vec<Neighbour>,
    /// Of the function.
    pub(super) total: Sum,
}

/// By frame, whether it is of a function of this name.
pub(super) fn named(profile: &Profile, wanted: &str) -> Result<Vec<bool>, NoSuchFunction> {
    let is: Vec<bool> = profile
        .frames()
        .map(|(_, frame)| is_called(profile.string(frame.function), wanted))
        .collect();
    if is.contains(&true) {
        return Ok(is);
    }
    let names = profile
        .frames()
        .map(|(_, frame)| label::clean(profile.string(frame.function).to_owned()));
    Err(NoSuchFunction {
        wanted: wanted.to_owned(),
        closest: closest::closest(wanted, names, 5).0,
    })
}

/// A function that calls itself is taken as a whole: its outermost call has the caller, its innermost one the callee.
pub(super) fn neighbours(
    profile: &Profile,
    asked: &Asked,
    counted: Counted,
    wanted: &str,
    side: Side,
) -> Result<Neighbours, NoSuchFunction> {
    let is = named(profile, wanted)?;
    let by = asked.by.filter(|by| by.is_of_frames()).unwrap_or(match side {
        // The line of the call is what one looks for.
        Side::Callers => By::Line,
        Side::Callees => By::Function,
    });
    let mut grouping = Grouping::new(profile, by, asked.merge_workers);
    let mut machinery = Machinery::new(profile, asked.interpreter);
    let mut rows: IndexMap<Option<u32>, Neighbour, FxBuildHasher> = IndexMap::default();
    let mut total = Sum::default();
    let mut shown = Vec::new();
    for (key, values) in profile.samples() {
        let sum = counted.of(values);
        if sum.value == 0 {
            continue;
        }
        shown_of(profile, key, &mut machinery, &mut shown);
        let found = match side {
            Side::Callers => shown.iter().position(|id| is[id.index()]),
            Side::Callees => shown.iter().rposition(|id| is[id.index()]),
        };
        let Some(at) = found else { continue };
        let neighbour = match side {
            Side::Callers => at.checked_sub(1).map(|at| shown[at]),
            Side::Callees => shown.get(at + 1).copied(),
        };
        total.add(sum);
        let row = neighbour.map(|id| grouping.of_frame(id));
        rows.entry(row)
            .or_insert_with(|| Neighbour {
                frame: neighbour,
                sum: Sum::default(),
            })
            .sum
            .add(sum);
    }
    let mut rows: Vec<Neighbour> = rows.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.sum.value));
    Ok(Neighbours { rows, total })
}

pub(super) fn text(
    profile: &Profile,
    asked: &Asked,
    counted: Counted,
    wanted: &str,
    side: Side,
    width: usize,
) -> Result<String, NoSuchFunction> {
    let found = neighbours(profile, asked, counted, wanted, side)?;
    let all = counted.all(profile);
    let value_type = profile.sample_types[asked.value];
    let shown = &found.rows[..found.rows.len().min(asked.top(ROWS))];
    let by_line = side == Side::Callers;
    let last = shown.iter().map(|row| Last {
        text: match (row.frame, side) {
            (Some(id), _) if by_line => label::frame(profile, profile.frame(id)),
            (Some(id), _) => label::function(profile, profile.frame(id)),
            (None, Side::Callers) => "[outermost: nobody called it]".to_owned(),
            (None, Side::Callees) => "[itself]".to_owned(),
        },
        ..Last::default()
    });
    let (title, what) = match side {
        Side::Callers => ("called from", "callers"),
        Side::Callees => ("calls", "callees"),
    };
    let mut grid = Grid::new(title, last.collect());
    grid.column(
        0,
        "of it",
        shown.iter().map(|row| table::share(row.sum, found.total)).collect(),
    );
    grid.column(
        1,
        "±",
        shown
            .iter()
            .map(|row| table::plus_minus(row.sum, found.total, counted))
            .collect(),
    );
    grid.column(
        1,
        "of all",
        shown.iter().map(|row| table::share(row.sum, all)).collect(),
    );
    grid.column(
        2,
        "amount",
        shown.iter().map(|row| amount(row.sum.value, value_type)).collect(),
    );
    let mut text = format!(
        "{what} of {}: it has {} of all with what it calls\n",
        label::clean(wanted.to_owned()),
        percent(found.total.value as f64 / all.value as f64),
    );
    text.push_str(&grid.render(width));
    text.push_str(&table::notes(
        shown.iter().map(|row| row.sum),
        found.rows.len(),
        counted,
        width,
    ));
    Ok(text)
}
