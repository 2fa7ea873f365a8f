//! Rows of the table: sums by type, module or holder.

use std::collections::BTreeMap;

use super::ObjectsBy;
use crate::objects::{
    account::{Account, Path},
    growth::{Change, Growth},
    shapes::Sums,
};

/// What there is, by name, most first.
pub fn sums(account: &Account, by: ObjectsBy) -> Vec<(String, Sums)> {
    let mut rows: BTreeMap<String, Sums> = BTreeMap::new();
    match by {
        ObjectsBy::Type => {
            for (name, sums) in &account.kinds {
                rows.entry(name.to_string()).or_default().add(sums);
            }
        }
        ObjectsBy::Module | ObjectsBy::Holder => {
            for holder in &account.holders {
                rows.entry(name(&holder.path, by)).or_default().add(&holder.sums);
            }
        }
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|(a, x), (b, y)| (y.whole, y.objects, a).cmp(&(x.whole, x.objects, b)));
    rows
}

/// What became more, by name, most first.
pub fn changes(growth: &Growth, by: ObjectsBy) -> Vec<(String, Change)> {
    let mut rows: BTreeMap<String, Change> = BTreeMap::new();
    match by {
        ObjectsBy::Type => {
            for (name, change) in &growth.kinds {
                rows.entry(name.to_string()).or_default().add(change);
            }
        }
        ObjectsBy::Module | ObjectsBy::Holder => {
            for (path, change) in &growth.holders {
                rows.entry(name(path, by)).or_default().add(change);
            }
        }
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|(a, x), (b, y)| (y.whole, y.objects, a).cmp(&(x.whole, x.objects, b)));
    rows
}

fn name(path: &Path, by: ObjectsBy) -> String {
    match by {
        ObjectsBy::Module => path.module(),
        ObjectsBy::Holder | ObjectsBy::Type => path.holder(),
    }
}

/// The ways to objects that take most, below which all that hangs there is added up: what holds it, and as far down as
/// most of it goes one way.
pub fn held(growth: &Growth) -> Vec<(Path, Change)> {
    let mut held: Vec<(Path, Change)> = growth
        .holders
        .iter()
        .filter(|(_, change)| change.whole > 0 || change.objects > 0)
        .cloned()
        .collect();
    held.sort_by(|(a, x), (b, y)| (y.whole, y.objects, a).cmp(&(x.whole, x.objects, b)));
    held
}
