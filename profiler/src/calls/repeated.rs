//! What asks outside again and again: the N+1 query.
//!
//! How often is known from the counts, who it was from the samples of the CPU clock: a function of the program's own on
//! whose account (nearly) all of those calls are, from one line of it. Both counts are of the same time, so what counting
//! slows down they do not suffer from.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Functions, outside};
use crate::{
    python::{code::Code, codes::CodeId},
    report::calls::Repeated,
    resolve::Location,
    window::Window,
};

/// So many calls for one are no list of what a page needs.
const FEWEST: f64 = 10.0;
/// So many calls of the caller are needed to divide by.
const FEWEST_CALLERS: u64 = 3;
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

/// `edge`: by how many of so many calls of a caller a count can be off, because some were under way when counting began or
/// ended.
pub(super) fn find(window: &Window, functions: &Functions, edge: &impl Fn(u64) -> f64) -> Vec<Repeated> {
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
        return Vec::new();
    }
    let (samples, under) = look(window, &asking);
    let mut found: Vec<Repeated> = asking
        .iter()
        .filter_map(|(&callee, &what)| {
            let all = samples.get(&callee).copied().unwrap_or(0);
            let calls = functions.get(&Some(callee))?.calls;
            let candidates = under.iter().filter(|((of, _), _)| *of == callee);
            let (caller, times, seen) = candidates
                .filter_map(|((_, caller), seen)| {
                    let entry = functions.get(&Some(*caller))?;
                    let times = entry.calls.saturating_sub(entry.nested);
                    let is_caller = times >= FEWEST_CALLERS
                        && !entry.resumed
                        && seen.samples >= FEWEST_SAMPLES
                        && seen.samples as f64 >= SHARE * all as f64
                        && calls as f64 / times as f64 >= FEWEST;
                    is_caller.then_some((*caller, times, seen))
                })
                // The nearest: of those above it each is called less often.
                .max_by(|a, b| a.1.cmp(&b.1).then(b.2.distance.cmp(&a.2.distance)))?;
            let (&line, &of_line) = seen.lines.iter().max_by_key(|&(&line, &samples)| (samples, line))?;
            if (of_line as f64) < SHARE_OF_LINE * seen.samples as f64 {
                return None;
            }
            let share = seen.samples as f64 / all as f64;
            // Of n samples that all say the same, three in n may not be so.
            let unsure = (1.0 - share).max(3.0 / all as f64);
            let each = calls as f64 / times as f64 * share;
            let error = each * (edge(times) / times as f64).hypot(unsure);
            (each - error >= FEWEST / 2.0).then(|| {
                let (callee, caller) = (codes.get(callee), codes.get(caller));
                Repeated {
                    what,
                    function: callee.display_name().to_owned(),
                    caller: caller.display_name().to_owned(),
                    file: caller.filename.to_string(),
                    line,
                    each,
                    error,
                    calls: times,
                    samples: seen.samples,
                }
            })
        })
        .collect();
    // Libraries have layers: what is the same for the same caller is told once, of whom it is known best.
    found.sort_by(|a, b| a.error.total_cmp(&b.error).then_with(|| a.function.cmp(&b.function)));
    let mut told: FxHashSet<(&'static str, String, u32)> = FxHashSet::default();
    found.retain(|repeated| told.insert((repeated.what, repeated.file.clone(), repeated.line)));
    found.sort_by(|a, b| b.each.total_cmp(&a.each));
    found.truncate(MOST_FINDINGS);
    found
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
