//! Parts of a profile: those of one service.

use std::collections::BTreeMap;

use crate::profile::{Labels, Profile};

/// What is of processes that are wanted.
pub fn part(profile: &Profile, is_wanted: impl Fn(&Labels) -> bool) -> Profile {
    let mut part = profile.emptied();
    part.drop_timeline();
    let ours = part.translated(profile);
    for (key, values) in profile.samples().filter(|(key, _)| is_wanted(&key.labels)) {
        part.add(ours.key(key), values);
    }
    part
}

/// A profile for each service that has anything.
pub fn by_service(profile: &Profile, name: impl Fn(&Labels) -> String) -> BTreeMap<String, Profile> {
    let mut parts = BTreeMap::new();
    for (key, _) in profile.samples() {
        parts.entry(name(&key.labels)).or_insert(());
    }
    (parts.into_keys())
        .map(|service| {
            let part = part(profile, |labels| name(labels) == service);
            (service, part)
        })
        .collect()
}
