//! What asks outside again and again: the N+1 query.
//!
//! How often is known from the counts ([`super::ratio`]), who it was from the samples of the CPU clock: a function of the
//! program's own on whose account (nearly) all of those calls are, from one line of it. Both counts are of the same time, so
//! what counting slows down they do not suffer from.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Entry, Functions, outside, ratio, ratios::Ratios};
use crate::{
    python::{code::Code, codes::CodeId},
    report::calls::{Ratio, Repeated},
    resolve::Location,
    window::Window,
};

/// So many calls for one are no list of what a page needs.
const FEWEST: f64 = 10.0;
/// So many at the very least, if how many it is is not known well.
const FEWEST_CERTAIN: f64 = 5.0;
/// So many samples are needed to say who it was, and this share of them must say so.
const FEWEST_SAMPLES: u64 = 5;
const SHARE: f64 = 0.9;
/// A loop is one line: this share of the samples.
const SHARE_OF_LINE: f64 = 0.5;
const MOST_FINDINGS: usize = 3;

#[derive(Default)]
struct Under {
    samples: u64,
    /// Frames between, in all samples together.
    distance: u64,
    lines: FxHashMap<u32, u64>,
}

/// What was found, and what may be so, of which too little was seen.
pub(super) fn find(window: &Window, functions: &Functions, ratios: &Ratios<'_>) -> (Vec<Repeated>, Vec<Repeated>) {
    let codes = &window.ledger.codes;
    let asking: FxHashMap<CodeId, &'static str> = functions
        .iter()
        .filter(|(_, entry)| entry.counted && entry.calls as f64 >= FEWEST)
        .filter_map(|(code, _)| {
            let code = (*code)?;
            let known = codes.get(code);
            Some((code, outside::asks_for(&known.filename, &known.name)?))
        })
        .collect();
    if asking.is_empty() {
        return Default::default();
    }
    let (samples, under) = look(window, &asking);
    let found = asking.iter().filter_map(|(&callee, &what)| {
        let all = samples.get(&callee).copied().unwrap_or(0);
        let called = functions.get(&Some(callee))?;
        let mut candidates: Vec<(CodeId, &Entry, &Under)> = under
            .iter()
            .filter(|((of, _), seen)| *of == callee && seen.samples as f64 >= SHARE * all as f64)
            .filter_map(|((_, caller), seen)| Some((*caller, functions.get(&Some(*caller))?, seen)))
            .filter(|(_, entry, _)| !entry.resumed)
            .collect();
        candidates.sort_by(|a, b| {
            a.2.nearness()
                .total_cmp(&b.2.nearness())
                .then(b.1.calls.cmp(&a.1.calls))
        });
        let is_caller =
            |entry: &Entry| entry.outermost() > 0 && called.calls as f64 / entry.outermost() as f64 >= FEWEST;
        // Windows may be shorter than its calls, of which none ends then. Further away it is what serves one call after the other.
        let has_no_end = |(caller, entry, _): &&(CodeId, &Entry, &Under)| {
            entry.outermost() == 0 && codes.get(*caller).display_name() != "<module>"
        };
        let &(caller, entry, seen) = candidates
            .iter()
            .find(|(_, entry, _)| is_caller(entry))
            .or_else(|| candidates.first().filter(has_no_end))?;
        let (&line, &of_line) = seen.lines.iter().max_by_key(|&(&line, &samples)| (samples, line))?;
        if (of_line as f64) < SHARE_OF_LINE * seen.samples as f64 {
            return None;
        }
        let share = seen.samples as f64 / all as f64;
        let ratio = match ratios.of(&[(callee, called)], &[(caller, entry)]) {
            Some((_, of_all)) => ratio::of_part(of_all, share, certain_share(share, all)),
            None => Ratio {
                each: called.calls as f64,
                least: 0.0,
                most: None,
            },
        };
        let is_certain = entry.outermost() > 0 && seen.samples >= FEWEST_SAMPLES && ratio.least >= FEWEST_CERTAIN;
        // Where it is known well, and is less, it is nothing.
        let is_possible = ratio.each >= FEWEST && ratio.most.is_none_or(|most| most >= FEWEST);
        let (callee, caller) = (codes.get(callee), codes.get(caller));
        (is_certain || is_possible).then(|| {
            let repeated = Repeated {
                what,
                function: callee.display_name().to_owned(),
                caller: caller.display_name().to_owned(),
                file: caller.filename.to_string(),
                line,
                ratio,
                calls: entry.outermost(),
                samples: seen.samples,
            };
            (is_certain, repeated)
        })
    });
    let (certain, possible): (Vec<_>, Vec<_>) = found.partition(|(is_certain, _)| *is_certain);
    let mut told: FxHashSet<Place> = FxHashSet::default();
    // Of what is certain somewhere it is no matter how uncertain it is elsewhere.
    let [certain, possible] =
        [certain, possible].map(|found| best(found.into_iter().map(|(_, found)| found), &mut told));
    (certain, possible)
}

/// For what, and from which line.
type Place = (&'static str, String, u32);

/// Libraries have layers: what is the same for the same caller is told once, of whom it is known best.
fn best(found: impl Iterator<Item = Repeated>, told: &mut FxHashSet<Place>) -> Vec<Repeated> {
    let mut found: Vec<Repeated> = found.collect();
    found.sort_by(|a, b| {
        let (of_a, of_b) = (&a.ratio, &b.ratio);
        let better = of_a.width().total_cmp(&of_b.width());
        better
            .then(of_b.least.total_cmp(&of_a.least))
            .then_with(|| a.function.cmp(&b.function))
    });
    found.retain(|repeated| told.insert((repeated.what, repeated.file.clone(), repeated.line)));
    found.sort_by(|a, b| b.ratio.each.total_cmp(&a.ratio.each));
    found.truncate(MOST_FINDINGS);
    found
}

impl Under {
    /// How far below the callee the caller is, on average.
    fn nearness(&self) -> f64 {
        self.distance as f64 / self.samples.max(1) as f64
    }
}

/// What share of the calls is the caller's at least, if that is the share of so many samples.
fn certain_share(share: f64, samples: u64) -> f64 {
    let samples = samples.max(1) as f64;
    // Of n samples that all say the same, three in n may not be so.
    let unsure = (3.0 / samples).max(1.0 - share + 1.96 * (share * (1.0 - share) / samples).sqrt());
    (1.0 - unsure).max(0.0)
}

/// In how many samples each function was that asks outside, and which functions of the program's own below it.
fn look(
    window: &Window,
    asking: &FxHashMap<CodeId, &'static str>,
) -> (FxHashMap<CodeId, u64>, FxHashMap<(CodeId, CodeId), Under>) {
    let ledger = &window.ledger;
    let locations: Vec<&Location> = ledger.resolved.locations().collect();
    let stacks: Vec<&[u32]> = ledger.resolved.stacks().collect();
    let mut samples: FxHashMap<CodeId, u64> = FxHashMap::default();
    let mut under: FxHashMap<(CodeId, CodeId), Under> = FxHashMap::default();
    let is_own = |code: &Code| !outside::is_library(&code.filename);
    for (sampled, &count) in &ledger.samples {
        let Some(stack) = stacks.get(sampled.stack as usize) else {
            continue;
        };
        let frames: Vec<(CodeId, u32)> = stack
            .iter()
            .filter_map(|&location| match locations.get(location as usize) {
                Some(&&Location::Python { code, line }) => Some((code, line)),
                _ => None,
            })
            .collect();
        let mut counted: FxHashSet<CodeId> = FxHashSet::default();
        for (at, (callee, _)) in frames.iter().enumerate() {
            if !asking.contains_key(callee) || !counted.insert(*callee) {
                continue;
            }
            *samples.entry(*callee).or_default() += count;
            let mut seen: FxHashSet<CodeId> = FxHashSet::default();
            for (distance, &(caller, line)) in frames[at + 1..].iter().enumerate() {
                if !is_own(ledger.codes.get(caller)) || !seen.insert(caller) {
                    continue;
                }
                let under = under.entry((*callee, caller)).or_default();
                under.samples += count;
                under.distance += count * distance as u64;
                *under.lines.entry(line).or_default() += count;
            }
        }
    }
    (samples, under)
}
