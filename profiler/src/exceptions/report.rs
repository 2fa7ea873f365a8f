//! From counts to what a report reads.

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::account::{Account, Catch, Estimate, Key, Sums};
use crate::{
    name::{self, Namer},
    profile::{Frame, FrameId, FrameKind, Labels, Profile, SampleKey},
    report::exceptions::{Caught, Detail, EXCEPTIONS},
    window::Window,
};

/// A profile of exceptions, whose innermost frame is the type; what is known of each of its samples; and what the user should
/// know about missing names.
pub fn report(
    window: &Window,
    namer: &mut Namer,
    account: &Account,
    estimate: Option<&Estimate>,
) -> (Profile, Vec<Detail>, Vec<String>) {
    let mut profile = Profile::new(vec![EXCEPTIONS], Some((EXCEPTIONS, 1)));
    let (stacks, warnings) = namer.name_stacks(window, &mut profile);
    let mut entries: IndexMap<SampleKey, Detail, FxBuildHasher> = IndexMap::default();
    let mut keys: Vec<(&Key, &Sums)> = account.sums().collect();
    // In order, so that equal recordings give equal reports.
    keys.sort_by_key(|(key, _)| **key);
    for (key, sums) in keys {
        // Nothing but what C code took back itself.
        if sums.count == 0 && estimate.is_none_or(|estimate| estimate.of(sums).0 < 0.5) {
            continue;
        }
        let kind = account.kind(key);
        let (sample, frames) = sample(&mut profile, window, &stacks, key, kind);
        let (count, error) = match estimate {
            Some(estimate) => estimate.of(sums),
            None => (sums.count as f64, 0.0),
        };
        let detail = entries.entry(sample).or_insert_with(|| Detail {
            kind: kind.to_owned(),
            ..Detail::default()
        });
        detail.counted += sums.count;
        detail.count += count;
        detail.error += error;
        for (catch, times) in &sums.caught {
            let caught = match catch {
                Catch::Unknown => Caught::Unknown,
                Catch::Frame(index) => frames
                    .get(usize::from(*index))
                    .map_or(Caught::Unknown, |frame| Caught::Frame(*frame)),
            };
            *detail.caught.entry(caught).or_default() += times;
        }
    }
    let mut details = Vec::with_capacity(entries.len());
    for (sample, detail) in entries {
        profile.add(sample, &[detail.count.round().clamp(0.0, i64::MAX as f64) as i64]);
        details.push(detail);
    }
    (profile, details, warnings)
}

/// What is counted under a key, and the Python frames of its stack, the innermost first.
fn sample(
    profile: &mut Profile,
    window: &Window,
    stacks: &name::Stacks,
    key: &Key,
    kind: &str,
) -> (SampleKey, Vec<FrameId>) {
    let sampled = window.ledger.sites.get(key.site as usize).and_then(Option::as_ref);
    let sample = match sampled {
        Some(sampled) => name::key(profile, &window.ledger, stacks, sampled),
        None => {
            let lost = marker(profile, "[stack not known]");
            SampleKey {
                stack: profile.intern_stack(&[lost]),
                labels: Labels {
                    pid: key.pid,
                    tid: 0,
                    comm: Profile::EMPTY,
                    command: Profile::EMPTY,
                    thread: Profile::EMPTY,
                    cgroup: Profile::EMPTY,
                    container: Profile::EMPTY,
                    task: Profile::EMPTY,
                },
            }
        }
    };
    let below = profile.stack(sample.stack).to_vec();
    let is_python = |id: &FrameId| {
        let frame = profile.frame(*id);
        frame.kind == FrameKind::Python || profile.string(frame.function) == UNKNOWN_FUNCTION
    };
    let python = below.iter().copied().filter(is_python).collect();
    let mut frames = vec![marker(profile, kind)];
    frames.extend(below);
    let stack = profile.intern_stack(&frames);
    (SampleKey { stack, ..sample }, python)
}

/// `resolve::Marker::UnknownCode`: it is a Python frame all the same.
const UNKNOWN_FUNCTION: &str = "[unknown Python function]";

fn marker(profile: &mut Profile, text: &str) -> FrameId {
    let function = profile.intern_string(text);
    profile.intern_frame(Frame {
        kind: FrameKind::Marker,
        function,
        file: Profile::EMPTY,
        line: 0,
        first_line: 0,
        mapping: None,
        address: 0,
        inlined: false,
    })
}

/// So many of each.
pub type Catches = FxHashMap<Caught, u64>;
