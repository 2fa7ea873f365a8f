//! Parts of a profile: those of one service.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::profile::{Labels, Profile, Translated};

/// What is of processes that are wanted.
pub fn part(profile: &Profile, is_wanted: impl Fn(&Labels) -> bool) -> Profile {
    let (mut part, ours) = empty(profile);
    for (key, values) in profile.samples().filter(|(key, _)| is_wanted(&key.labels)) {
        part.add(ours.key(key), values);
    }
    part
}

/// A profile for each service that has anything.
pub fn by_service(profile: &Profile, name: impl Fn(&Labels) -> String) -> BTreeMap<String, Profile> {
    let mut parts: BTreeMap<String, (Profile, Translated)> = BTreeMap::new();
    let mut names: FxHashMap<u32, String> = FxHashMap::default();
    for (key, values) in profile.samples() {
        let name = names.entry(key.labels.pid).or_insert_with(|| name(&key.labels));
        if !parts.contains_key(name) {
            parts.insert(name.clone(), empty(profile));
        }
        if let Some((part, ours)) = parts.get_mut(name) {
            part.add(ours.key(key), values);
        }
    }
    parts.into_iter().map(|(name, (part, _))| (name, part)).collect()
}

fn empty(profile: &Profile) -> (Profile, Translated) {
    let mut part = profile.emptied();
    part.drop_timeline();
    let ours = part.translated(profile);
    (part, ours)
}
