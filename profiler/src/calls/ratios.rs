//! Which of the counts there are say best how often one function is called for each call of another.
//!
//! Without windows it is all that was counted. With them it is either what was counted before the first one, or the windows,
//! whichever leaves less in doubt.

use profiler_common::python::CodeKey;
use rustc_hash::FxHashMap;

use super::{
    Counted, Entry, ratio,
    windows::{Calls, Group, Sampling},
};
use crate::{python::codes::CodeId, report::calls::Ratio};

pub(super) struct Ratios<'a> {
    /// Windows, if counting had breaks.
    sampling: Option<&'a Sampling>,
    /// Whether calls were counted without a break before them.
    has_first: bool,
    keys: FxHashMap<CodeId, Vec<CodeKey>>,
    threads: u64,
}

/// Counts to divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    All,
    BeforeWindows,
    Windows,
}

type Counts<'e> = [(CodeId, &'e Entry)];

impl<'a> Ratios<'a> {
    pub fn new(counted: &Counted<'a>, threads: u64) -> Self {
        let mut keys: FxHashMap<CodeId, Vec<CodeKey>> = FxHashMap::default();
        for (key, _) in counted.counts {
            if let Some(&code) = counted.codes.get(key) {
                keys.entry(code).or_default().push(*key);
            }
        }
        let windows = counted
            .windows
            .as_ref()
            .filter(|windows| windows.sampling.windows() > 0);
        Self {
            sampling: windows.map(|windows| windows.sampling),
            has_first: windows.is_some_and(|windows| windows.first.is_some()),
            keys,
            threads,
        }
    }

    /// Calls of some functions for each of others'; none if nothing can be said.
    pub fn of(&self, callees: &Counts<'_>, callers: &Counts<'_>) -> Option<(Basis, Ratio)> {
        let bases: &[Basis] = match self.sampling {
            None => &[Basis::All],
            Some(_) if self.has_first => &[Basis::BeforeWindows, Basis::Windows],
            Some(_) => &[Basis::Windows],
        };
        bases
            .iter()
            .filter_map(|&basis| Some((basis, self.on(basis, callees, callers)?)))
            .min_by(|(_, a), (_, b)| a.width().total_cmp(&b.width()).then(b.least.total_cmp(&a.least)))
    }

    fn on(&self, basis: Basis, callees: &Counts<'_>, callers: &Counts<'_>) -> Option<Ratio> {
        if basis != Basis::Windows {
            let calls = callees.iter().map(|(code, entry)| self.calls(basis, *code, entry));
            let ended = callers
                .iter()
                .map(|(code, entry)| self.outermost_calls(basis, *code, entry));
            return ratio::without_break(calls.sum(), ended.sum(), self.threads);
        }
        let sampling = self.sampling?;
        let groups = |counts: &Counts<'_>| sampling.by_group(counts.iter().flat_map(|(code, _)| self.keys(*code)));
        let calls: Vec<f64> = groups(callees).iter().map(|group| group.all).collect();
        let ended: Vec<f64> = groups(callers).iter().map(|group| group.outermost).collect();
        let seen = |(code, entry): &(CodeId, &Entry)| {
            let first: u64 = self.first(*code).map(|first| first.outermost).sum();
            entry.outermost().saturating_sub(first)
        };
        ratio::of_windows(&calls, &ended, callers.iter().map(seen).sum())
    }

    /// Calls of a function, to be divided by those of another.
    pub fn calls(&self, basis: Basis, code: CodeId, entry: &Entry) -> f64 {
        self.count(basis, code, entry.calls, |first| first.all, |group| group.all)
    }

    /// Those of a function that others' are to be divided by: not made from within another of the same.
    pub fn outermost_calls(&self, basis: Basis, code: CodeId, entry: &Entry) -> f64 {
        self.count(
            basis,
            code,
            entry.outermost(),
            |first| first.outermost,
            |group| group.outermost,
        )
    }

    fn count(
        &self,
        basis: Basis,
        code: CodeId,
        all: u64,
        of_first: impl Fn(Calls) -> u64,
        of_group: impl Fn(&Group) -> f64,
    ) -> f64 {
        match (basis, self.sampling) {
            (Basis::All, _) | (_, None) => all as f64,
            (Basis::BeforeWindows, Some(_)) => self.first(code).map(of_first).sum::<u64>() as f64,
            (Basis::Windows, Some(sampling)) => sampling.by_group(self.keys(code)).iter().map(of_group).sum(),
        }
    }

    fn keys(&self, code: CodeId) -> impl Iterator<Item = CodeKey> {
        self.keys.get(&code).into_iter().flatten().copied()
    }

    fn first(&self, code: CodeId) -> impl Iterator<Item = Calls> {
        let sampling = self.sampling.into_iter();
        sampling.flat_map(move |sampling| self.keys(code).map(|key| sampling.first(key)))
    }
}
