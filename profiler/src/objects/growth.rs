//! What became more between two censuses.

use std::{collections::BTreeMap, time::Duration};

use super::{
    account::{Account, Path},
    adders::{self, Added},
    shapes::Sums,
    walk::Walk,
};
use crate::humanize;

/// How much more there is of something; less is negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub objects: i64,
    pub own: i64,
    pub whole: i64,
    pub now: Sums,
}

impl Change {
    fn between(before: &Sums, after: &Sums) -> Self {
        let change = |before: u64, after: u64| {
            let most = u64::MAX >> 1;
            after.min(most).cast_signed() - before.min(most).cast_signed()
        };
        Self {
            objects: change(before.objects, after.objects),
            own: change(before.own, after.own),
            whole: change(before.whole, after.whole),
            now: *after,
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.objects += other.objects;
        self.own += other.own;
        self.whole += other.whole;
        self.now.add(&other.now);
    }

    fn is_some(&self) -> bool {
        (self.objects, self.own, self.whole) != (0, 0, 0)
    }
}

/// By type and by holder, what grew most first.
#[derive(Clone, Debug, Default)]
pub struct Growth {
    pub kinds: Vec<(Box<str>, Change)>,
    /// Ways to objects, with those at their end.
    pub holders: Vec<(Path, Change)>,
    pub total: Change,
    /// Containers with more in them, and lines that add to them.
    pub added: Vec<Added>,
}

/// One of two censuses did not come to its end: their difference would be of what was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("to look at them was not finished in {} (the machine may be busy)", humanize::duration(*took))]
pub struct Unfinished {
    took: Duration,
}

impl Growth {
    pub fn between(before: &Account, after: &Account) -> Result<Self, Unfinished> {
        match [before, after].into_iter().find(|account| !account.notes.is_whole()) {
            Some(account) => Err(Unfinished {
                took: account.notes.took,
            }),
            None => Ok(Self::of(before, after)),
        }
    }

    /// With lines of code that add to what became more, as the later of the two censuses sees them.
    pub fn with_added(mut self, walk: &Walk<'_, '_>) -> Self {
        self.added = adders::of(walk, &self);
        self
    }

    fn of(before: &Account, after: &Account) -> Self {
        let kinds = changes(&before.kinds, &after.kinds);
        let by_path = |account: &Account| -> BTreeMap<Path, Sums> {
            let mut map: BTreeMap<Path, Sums> = BTreeMap::new();
            for holder in &account.holders {
                map.entry(holder.path.clone()).or_default().add(&holder.sums);
            }
            map
        };
        Self {
            kinds,
            holders: changes(&by_path(before), &by_path(after)),
            total: Change::between(&before.total(), &after.total()),
            added: Vec::new(),
        }
    }
}

fn changes<K: Ord + Clone>(before: &BTreeMap<K, Sums>, after: &BTreeMap<K, Sums>) -> Vec<(K, Change)> {
    let none = Sums::default();
    let grown = after
        .iter()
        .map(|(key, sums)| (key, before.get(key).unwrap_or(&none), sums));
    let gone = before
        .iter()
        .filter(|(key, _)| !after.contains_key(*key))
        .map(|(key, sums)| (key, sums, &none));
    let mut all: Vec<(K, Change)> = grown
        .chain(gone)
        .map(|(key, before, after)| (key.clone(), Change::between(before, after)))
        .filter(|(_, change)| change.is_some())
        .collect();
    all.sort_by(|(a, x), (b, y)| (y.whole, y.objects, a).cmp(&(x.whole, x.objects, b)));
    all
}
