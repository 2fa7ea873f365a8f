//! The roots of stacks: a process and a thread, or all equal workers of a service as one.
//!
//! Workers are processes of one name in one container. Fifty of them are fifty narrow towers of the same functions, and
//! no line of any is as hot as it is in all of them.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::{View, label};
use crate::profile::{Labels, Profile, StringId};

pub(super) struct Workers {
    /// Empty unless they are to be one.
    pids: FxHashMap<(StringId, StringId), BTreeSet<u32>>,
}

impl Workers {
    pub(super) fn new(profile: &Profile, view: &View) -> Self {
        let mut pids: FxHashMap<_, BTreeSet<u32>> = FxHashMap::default();
        if view.merge_workers {
            for (key, _) in profile.samples() {
                pids.entry(kind(&key.labels)).or_default().insert(key.labels.pid);
            }
        }
        Self { pids }
    }

    /// How the process reads, and its number, or that of the first worker.
    pub(super) fn process(&self, profile: &Profile, labels: &Labels) -> (u32, String) {
        match self.equals(labels) {
            Some(pids) => {
                let first = pids.first().copied().unwrap_or(labels.pid);
                (first, label::processes(profile, labels, pids.len()))
            }
            None => (labels.pid, label::process(profile, labels)),
        }
    }

    /// The same of the thread. Threads of one name of equal workers are one.
    pub(super) fn thread(&self, profile: &Profile, labels: &Labels) -> (u32, String) {
        match self.equals(labels) {
            Some(_) => (0, label::threads(profile, labels)),
            None => (labels.tid, label::thread(profile, labels)),
        }
    }

    fn equals(&self, labels: &Labels) -> Option<&BTreeSet<u32>> {
        self.pids.get(&kind(labels)).filter(|pids| pids.len() > 1)
    }
}

fn kind(labels: &Labels) -> (StringId, StringId) {
    (labels.comm, labels.container)
}
