//! Code without unwind information, such as kernels that were written in assembler: what each of its instructions has
//! on the stack is worked out from the instructions themselves.
//!
//! `starts` finds where functions may begin, `function` follows one along all its ways, and `machine` knows what its
//! registers and stack hold, counted from where the caller was.
//!
//! It is a proof or nothing. A function is believed if every way out of it restores the stack pointer and the registers
//! that the System V ABI has it preserve; one that jumps where nobody knows, strays into other code, never returns though
//! nobody is known to call it, or contradicts another is left without rules, so that stacks end there with a mark, as
//! before. Where a `switch` leads its table says (`switch`), and behind a call of what never comes back other code begins
//! (`way`). What is taken for
//! granted: what has unwind information or lies in another file keeps to the ABI when it is called, and nobody writes
//! past the end of an array into saved registers. Where functions *have* unwind information, `truth` compares.
//!
//! That is for pieces of files that have unwind information otherwise, and for files that have none and do not begin their
//! functions with setting up frame pointers: musl's C library. Of Debian's (1.2.3) nine tenths are worked out; what is
//! not are `iconv`, `vfscanf`, `dlopen` and the loader, what has a stack or a jump of its own (`longjmp`, `vfork`), and
//! who calls those.

mod function;
mod machine;
mod starts;
mod switch;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod truth;
mod view;
mod way;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use profiler_common::unwind::UnwindRule;
use rustc_hash::FxHashMap;

use self::{
    function::{Function, Start, analyze},
    view::View,
};
use super::{rule, table::elf::Elf};

/// Instructions that are gone through for one file. The OpenBLAS of numpy 2.5's wheel has 2.9 MB of such code, Debian
/// 12's 11.7 MB, and both are worked out whole.
const BUDGET: usize = 16 << 20;

/// How often it is begun anew with what was found to be functions. Real files are done after three.
const MOST_ROUNDS: usize = 4;

/// What was worked out of a file.
#[derive(Debug, Default)]
pub struct Decoded {
    /// In order, without overlap; addresses are relative to the file's base.
    rows: Vec<(Range<u32>, UnwindRule)>,
}

impl Decoded {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Nothing has called what a thread begins with. Where it returns to is looked up one byte early.
    fn add_bottoms(&mut self, bottoms: &[Range<u32>]) {
        for bottom in bottoms {
            let at = self.rows.partition_point(|(row, _)| row.start < bottom.start);
            self.rows.insert(at, (bottom.clone(), rule::END));
        }
    }

    /// Rows that begin in these addresses.
    pub fn of(&self, addresses: &Range<u32>) -> impl Iterator<Item = &(Range<u32>, UnwindRule)> {
        let from = self.rows.partition_point(|(row, _)| row.start < addresses.start);
        let until = self.rows.partition_point(|(row, _)| row.start < addresses.end);
        self.rows.get(from..until).unwrap_or_default().iter()
    }
}

/// Works out the code of a file that these ranges (in order, with unwind information) leave.
pub fn decode(elf: &Elf<'_>, covered: &[Range<u32>]) -> Decoded {
    let open = gaps(elf, covered);
    if open.is_empty() {
        return Decoded::default();
    }
    let (called, pointed_to) = starts::named(elf, &open);
    let bottoms = starts::bottoms(elf, &open);
    let starts: BTreeSet<u32> = called.iter().chain(&pointed_to).copied().collect();
    let mut functions: BTreeSet<u32> = covered.iter().map(|range| range.start).chain(starts).collect();
    let mut budget = BUDGET;
    let mut believed = Believed::default();
    for _ in 0..MOST_ROUNDS {
        let known: Vec<u32> = functions.iter().copied().collect();
        let view = View::new(elf, &open, &known, &bottoms);
        believed.try_named(&view, &called, &pointed_to, &mut budget);
        believed.try_perhaps(&view, &mut budget);
        // What jumps to a function without knowing that it is one takes it for a part of itself.
        let new: BTreeSet<u32> = believed.called.difference(&functions).copied().collect();
        if new.is_empty() {
            break;
        }
        believed.forget_joined(&new);
        functions.extend(new);
    }
    let mut decoded = believed.finish();
    decoded.add_bottoms(&bottoms);
    decoded
}

fn named_at(address: u32) -> Start {
    Start {
        address,
        named: true,
        called: false,
    }
}

fn called_at(address: u32) -> Start {
    Start {
        address,
        named: true,
        called: true,
    }
}

/// Code without unwind information that is more than padding.
pub(super) fn gaps(elf: &Elf<'_>, covered: &[Range<u32>]) -> Vec<Range<u32>> {
    let mut gaps = Vec::new();
    for segment in &elf.code {
        let end = segment.addresses.start.saturating_add(segment.bytes.len() as u32);
        let code = segment.addresses.start..segment.addresses.end.min(end);
        let mut from = code.start;
        let first = covered.partition_point(|range| range.end <= code.start);
        for range in covered.get(first..).unwrap_or_default() {
            if range.start >= code.end {
                break;
            }
            gaps.push(from..range.start);
            from = from.max(range.end);
        }
        gaps.push(from..code.end);
    }
    gaps.retain(|gap| !gap.is_empty() && !elf.bytes(gap.clone()).is_none_or(super::table::is_padding));
    gaps
}

/// Functions that were worked out, by where they begin.
#[derive(Default)]
struct Believed {
    functions: BTreeMap<u32, Option<Function>>,
    /// Those that were looked at as functions that are called.
    called: BTreeSet<u32>,
    /// Those of them that something leads to.
    named: BTreeSet<u32>,
}

impl Believed {
    /// Tries all that something leads to.
    fn try_named(&mut self, view: &View<'_>, called: &[u32], pointed_to: &[u32], budget: &mut usize) {
        let before: Vec<u32> = self.called.iter().copied().collect();
        let named = called.iter().chain(&before).copied().map(called_at);
        let pointed_to = pointed_to.iter().copied().map(named_at);
        self.called.clear();
        self.try_all(view, pointed_to.chain(named).collect(), budget);
        self.named = self.functions.keys().copied().collect();
    }

    /// Tries what may be functions.
    fn try_perhaps(&mut self, view: &View<'_>, budget: &mut usize) {
        let seen = self.seen();
        for gap in view.open {
            let perhaps = starts::after_functions(view, gap, &seen).into_iter();
            let perhaps = perhaps.map(|address| Start {
                address,
                named: false,
                called: false,
            });
            self.try_all(view, perhaps.collect(), budget);
        }
    }

    /// Keeps only those that these are not a part of, of those that something leads to: nothing else would come of them
    /// another time.
    fn forget_joined(&mut self, new: &BTreeSet<u32>) {
        let named = &self.named;
        self.functions.retain(|start, function| {
            let rows = function.iter().flat_map(|function| &function.rows);
            let joins = |range: &Range<u32>| new.range(range.clone()).any(|address| address != start);
            function.is_some() && named.contains(start) && !rows.map(|(range, _)| range).any(joins)
        });
    }

    /// Tries these, and what they call.
    fn try_all(&mut self, view: &View<'_>, mut starts: Vec<Start>, budget: &mut usize) {
        while let Some(start) = starts.pop() {
            // What is known to be called can be believed where it was not, when it was not known.
            let is_news = start.called && self.called.insert(start.address);
            let is_known = |known: &Option<Function>| known.is_some() || !is_news;
            if *budget == 0 || self.functions.get(&start.address).is_some_and(is_known) {
                continue;
            }
            let function = analyze(view, start, budget).ok();
            let calls = function
                .iter()
                .flat_map(|function| function.calls.union(&function.hands_on));
            starts.extend(calls.copied().map(called_at));
            self.functions.insert(start.address, function);
        }
    }

    /// What is seen to be code of functions, in order.
    fn seen(&self) -> Vec<Range<u32>> {
        let functions = self.functions.values().flatten();
        let mut seen: Vec<Range<u32>> = functions
            .flat_map(|function| function.rows.iter().map(|(range, _)| range.clone()))
            .collect();
        seen.sort_unstable_by_key(|range| range.start);
        seen
    }

    /// The rows of those that still are when all is known.
    fn finish(mut self) -> Decoded {
        /// Real files are done at once.
        const MAX_ROUNDS: usize = 8;
        for _ in 0..MAX_ROUNDS {
            self.drop_callers_of_unknown();
            let before = self.count();
            let rows = self.drop_contradictions();
            if self.count() == before {
                return Decoded { rows };
            }
        }
        Decoded::default()
    }

    fn count(&self) -> usize {
        self.functions.values().flatten().count()
    }

    /// That a function comes back with its caller's registers is known of those that are believed. If all of them do so
    /// provided that the others do, they all do.
    fn drop_callers_of_unknown(&mut self) {
        let mut callers: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
        for (start, function) in &self.functions {
            for callee in function.iter().flat_map(|function| &function.calls) {
                callers.entry(*callee).or_default().push(*start);
            }
        }
        let is_unknown = |start: &u32| !matches!(self.functions.get(start), Some(Some(_)));
        let mut unknown: Vec<u32> = callers.keys().copied().filter(is_unknown).collect();
        while let Some(callee) = unknown.pop() {
            for caller in callers.remove(&callee).unwrap_or_default() {
                if self.functions.insert(caller, None).flatten().is_some() {
                    unknown.push(caller);
                }
            }
        }
    }

    /// Two functions can share code, if both say the same of it. Of those that do not neither is believed, unless it is
    /// only perhaps that one of them is a function. Returns the rows of what is left.
    fn drop_contradictions(&mut self) -> Vec<(Range<u32>, UnwindRule)> {
        let mut all: Vec<(Range<u32>, Option<UnwindRule>, u32)> = Vec::new();
        for (start, function) in &self.functions {
            let rows = function.iter().flat_map(|function| &function.rows);
            all.extend(rows.map(|(range, rule)| (range.clone(), *rule, *start)));
        }
        all.sort_by_key(|(range, ..)| range.start);
        let mut rows: Vec<(Range<u32>, UnwindRule)> = Vec::new();
        // The one of those so far that reaches farthest.
        let mut last: Option<(Range<u32>, Option<UnwindRule>, u32)> = None;
        let mut wrong = Vec::new();
        for (range, rule, of) in all {
            let mut new = range.clone();
            if let Some((before, other, whose)) = &last
                && before.end > range.start
            {
                if *other != rule {
                    match (self.named.contains(whose), self.named.contains(&of)) {
                        (true, false) => wrong.push(of),
                        (false, true) => wrong.push(*whose),
                        _ => wrong.extend([*whose, of]),
                    }
                }
                new.start = before.end;
            }
            if let Some(rule) = rule
                && !new.is_empty()
            {
                rows.push((new, rule));
            }
            if last.as_ref().is_none_or(|(before, ..)| before.end < range.end) {
                last = Some((range, rule, of));
            }
        }
        for start in wrong {
            self.functions.insert(start, None);
        }
        rows
    }
}
