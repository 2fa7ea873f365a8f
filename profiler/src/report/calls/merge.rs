//! One row for each function.
//!
//! A function is many code objects: one in each process, one for each time that its module was loaded again, and all
//! lambdas of a line look the same. To a reader these are one, as they are to cProfile, and its file format has no room
//! for two.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::{Caller, Count, Function, Timed};

/// The functions by name, each once; callers are indices into what is returned.
pub(super) fn merged(functions: &[Function]) -> Vec<Function> {
    let mut merged: Vec<Function> = Vec::new();
    let mut by_key = FxHashMap::default();
    let mut place = Vec::with_capacity(functions.len());
    for function in functions {
        match by_key.entry(function.key()) {
            Entry::Occupied(known) => {
                let index: usize = *known.get();
                place.push(index);
                if let Some(known) = merged.get_mut(index) {
                    add(known, function);
                }
            }
            Entry::Vacant(vacant) => {
                place.push(*vacant.insert(merged.len()));
                merged.push(function.clone());
            }
        }
    }
    for function in &mut merged {
        rename(&mut function.callers, &place);
    }
    let by_name: Vec<_> = {
        let mut by_name: Vec<_> = (0..merged.len()).collect();
        by_name.sort_by(|a, b| merged[*a].key().cmp(&merged[*b].key()));
        by_name
    };
    reordered(merged, &by_name)
}

/// The functions in another order, which has every index once.
pub(super) fn reordered(functions: Vec<Function>, order: &[usize]) -> Vec<Function> {
    let mut place = vec![0; functions.len()];
    for (to, from) in order.iter().enumerate() {
        place[*from] = to;
    }
    let mut functions: Vec<_> = place.iter().zip(functions).collect();
    functions.sort_by_key(|(place, _)| **place);
    functions
        .into_iter()
        .map(|(_, mut function)| {
            rename(&mut function.callers, &place);
            function
        })
        .collect()
}

fn add(known: &mut Function, more: &Function) {
    known.calls = match (known.calls, more.calls) {
        (Some(a), Some(b)) => Some(sum(a, b)),
        (one, other) => one.or(other),
    };
    known.divided += more.divided;
    known.own_samples = known.own_samples.saturating_add(more.own_samples);
    known.cumulative_samples = known.cumulative_samples.saturating_add(more.cumulative_samples);
    match (&mut known.timed, &more.timed) {
        (Some(known), Some(more)) => add_times(known, more),
        (None, Some(more)) => known.timed = Some(more.clone()),
        (_, None) => {}
    }
    known.callers.extend(&more.callers);
}

pub(super) fn sum(a: Count, b: Count) -> Count {
    Count {
        all: a.all.saturating_add(b.all),
        primitive: a.primitive.zip(b.primitive).map(|(a, b)| a.saturating_add(b)),
        exact: a.exact && b.exact,
        at_least: a.at_least || b.at_least,
        // Windows are the same for both, so their errors are not independent; the sum is the most they can make.
        error: a.error.saturating_add(b.error),
    }
}

fn add_times(known: &mut Timed, more: &Timed) {
    match (known.count, more.count) {
        (_, 0) => {}
        (0, _) => (known.min_ns, known.max_ns) = (more.min_ns, more.max_ns),
        _ => {
            known.min_ns = known.min_ns.min(more.min_ns);
            known.max_ns = known.max_ns.max(more.max_ns);
        }
    }
    for (known, more) in [
        (&mut known.count, more.count),
        (&mut known.total_ns, more.total_ns),
        (&mut known.missed_entries, more.missed_entries),
        (&mut known.nested, more.nested),
        (&mut known.nested_ns, more.nested_ns),
        (&mut known.taken_off_ns, more.taken_off_ns),
        (&mut known.delayed_ns, more.delayed_ns),
        (&mut known.less_ns, more.less_ns),
        (&mut known.more_ns, more.more_ns),
        (&mut known.left_out, more.left_out),
    ] {
        *known = known.saturating_add(more);
    }
    known.spread_ns = match (known.spread_ns, more.spread_ns) {
        (Some(known), Some(more)) => Some(known.saturating_add(more)),
        (known, more) => known.or(more),
    };
    known.most_taken_off_ns = known.most_taken_off_ns.max(more.most_taken_off_ns);
    known.histogram.merge(&more.histogram);
    known.at_most.merge(&more.at_most);
}

/// Gives callers their new indices and those that became one their sum; the first is who calls the most.
fn rename(callers: &mut Vec<Caller>, place: &[usize]) {
    let mut sums: FxHashMap<usize, Caller> = FxHashMap::default();
    for caller in callers.drain(..) {
        // An index to nowhere names nobody.
        let Some(function) = place.get(caller.function) else {
            continue;
        };
        let sum = sums.entry(*function).or_insert(Caller {
            function: *function,
            ..Caller::default()
        });
        sum.calls = sum.calls.saturating_add(caller.calls);
        sum.own_samples = sum.own_samples.saturating_add(caller.own_samples);
        sum.cumulative_samples = sum.cumulative_samples.saturating_add(caller.cumulative_samples);
    }
    callers.extend(sums.into_values());
    callers.sort_by(|a, b| {
        (b.calls, b.cumulative_samples)
            .cmp(&(a.calls, a.cumulative_samples))
            .then(a.function.cmp(&b.function))
    });
}
