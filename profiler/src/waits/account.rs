//! Sums of drawn waits.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use indexmap::{IndexMap, IndexSet};
use profiler_common::wait::{WAIT_READY, WaitEvent};
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::cause::{Cause, Target};
use crate::{memory::event::SiteId, recording::NO_SITE};

/// A wait that was drawn, and whose.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    pub pid: u32,
    pub tid: u32,
    pub site: SiteId,
    /// Who had the GIL that was waited for: where that thread was.
    pub holder: Option<SiteId>,
    pub event: WaitEvent,
}

/// What waits are summed up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub pid: u32,
    pub tid: u32,
    /// As the kernel side counts them.
    pub class: u32,
    pub cause: Cause,
    pub site: SiteId,
    pub call: u32,
    /// Index of the target; 0 is none.
    pub target: u32,
}

/// What some drawn waits stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Of waits that were certain to be drawn.
    pub long_ns: u64,
    pub long_count: u64,
    /// Of those that were not: what they stand for.
    pub short_ns: u64,
    pub short_count: f64,
    /// Of both, how much was waiting for a CPU only.
    pub long_ready_ns: u64,
    pub short_ready_ns: f64,
    pub longest_ns: u64,
    pub longest_ready_ns: u64,
    /// Of `short_ns`, in ns².
    pub variance: f64,
}

/// Different waits that are told apart; beyond, only thread and class are.
const MOST_KEYS: usize = 1 << 17;
const MOST_TARGETS: usize = 1 << 14;

/// All drawn waits of a recording.
#[derive(Debug)]
pub struct Account {
    sums: IndexMap<Key, Sums, FxBuildHasher>,
    /// Of waits for the GIL, by who had it.
    holders: IndexMap<(Key, SiteId), Sums, FxBuildHasher>,
    targets: IndexSet<Target, FxBuildHasher>,
    /// Paths of files by process and inode.
    paths: FxHashMap<(u32, u64), Option<String>>,
    /// Waits that have no room for whom they were for.
    pub forgotten: u64,
    /// Received so far.
    pub received: u64,
}

impl Default for Account {
    fn default() -> Self {
        let mut targets = IndexSet::default();
        targets.insert(Target::default());
        Self {
            sums: IndexMap::default(),
            holders: IndexMap::default(),
            targets,
            paths: FxHashMap::default(),
            forgotten: 0,
            received: 0,
        }
    }
}

impl Account {
    pub fn take(&mut self, drawn: &Drawn) {
        self.received += 1;
        let mut key = self.key(drawn);
        if self.sums.len() >= MOST_KEYS && !self.sums.contains_key(&key) {
            self.forgotten += 1;
            key.site = NO_SITE;
            key.target = 0;
        }
        self.sums.entry(key).or_default().add(&drawn.event);
        if key.cause == Cause::Gil && self.holders.len() < MOST_KEYS {
            let holder = drawn.holder.unwrap_or(NO_SITE);
            self.holders.entry((key, holder)).or_default().add(&drawn.event);
        }
    }

    /// A wait that has not ended is kept apart: no sum of its thread has it.
    pub fn take_unended(&mut self, drawn: &Drawn, unended: &mut Vec<(Key, u64)>) {
        let key = self.key(drawn);
        unended.push((key, drawn.event.length_ns));
    }

    fn key(&mut self, drawn: &Drawn) -> Key {
        let target = self.target(drawn);
        let Drawn {
            pid, tid, site, event, ..
        } = *drawn;
        Key {
            pid,
            tid,
            class: event.class,
            cause: Cause::of(&event),
            site,
            call: event.call,
            target,
        }
    }

    fn target(&mut self, drawn: &Drawn) -> u32 {
        let mut target = Target::of(&drawn.event);
        if !target.path.is_empty() && Target::has_path(&drawn.event) {
            let descriptor = &drawn.event.descriptor;
            let path = self
                .paths
                .entry((drawn.pid, descriptor.inode))
                .or_insert_with(|| path(drawn.pid, descriptor.number, descriptor.inode));
            if let Some(path) = path {
                target.path.clone_from(path);
            }
            if self.paths.len() > MOST_TARGETS {
                self.paths.clear();
            }
        }
        if let Some(index) = self.targets.get_index_of(&target) {
            return index as u32;
        }
        if self.targets.len() >= MOST_TARGETS {
            self.forgotten += 1;
            return 0;
        }
        self.targets.insert_full(target).0 as u32
    }

    pub fn sums(&self) -> impl Iterator<Item = (&Key, &Sums)> {
        self.sums.iter()
    }

    /// Waits for the GIL by who had it; [`NO_SITE`] where that is not known.
    pub fn holders(&self) -> impl Iterator<Item = (&(Key, SiteId), &Sums)> {
        self.holders.iter()
    }

    pub fn target_of(&self, key: &Key) -> &Target {
        &self.targets[key.target as usize]
    }
}

impl Sums {
    pub fn add(&mut self, event: &WaitEvent) {
        let length = event.length_ns.max(1);
        // What waited for nothing but a CPU did so all the time.
        let ready = match event.class {
            WAIT_READY => 0,
            _ => event.ready_ns.min(length),
        };
        self.longest_ns = self.longest_ns.max(length - ready);
        self.longest_ready_ns = self.longest_ready_ns.max(ready);
        if event.weight_ns <= length {
            self.long_ns = self.long_ns.saturating_add(length);
            self.long_count += 1;
            self.long_ready_ns = self.long_ready_ns.saturating_add(ready);
            return;
        }
        // It was drawn with this probability.
        let chance = length as f64 / event.weight_ns as f64;
        self.short_ns = self.short_ns.saturating_add(event.weight_ns);
        self.short_count += 1.0 / chance;
        self.short_ready_ns += ready as f64 / chance;
        self.variance += (1.0 - chance) * (event.weight_ns as f64).powi(2);
    }
}

/// The path of a file that a process has open, if it still is the one behind this descriptor.
fn path(pid: u32, descriptor: u32, inode: u64) -> Option<String> {
    let link = PathBuf::from(format!("/proc/{pid}/fd/{descriptor}"));
    let path = fs::read_link(&link).ok()?;
    // `stat` of the link is of the file itself; it opens nothing.
    (fs::metadata(&link).ok()?.ino() == inode).then(|| path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use profiler_common::wait::{WAIT_LOCK, WAIT_SLEEP};

    use super::*;

    fn drawn(class: u32, length_ns: u64, weight_ns: u64, ready_ns: u64) -> Drawn {
        Drawn {
            pid: 1,
            tid: 2,
            site: 3,
            holder: None,
            event: WaitEvent {
                class,
                length_ns,
                weight_ns,
                ready_ns,
                ..WaitEvent::default()
            },
        }
    }

    #[test]
    fn what_was_certain_to_be_drawn_stands_for_itself_and_the_rest_for_more() {
        let mut account = Account::default();
        account.take(&drawn(WAIT_LOCK, 7_000, 7_000, 1_000));
        account.take(&drawn(WAIT_LOCK, 1_000, 5_000, 100));
        let (_, sums) = account.sums().next().unwrap();
        assert_eq!((sums.long_ns, sums.long_count, sums.long_ready_ns), (7_000, 1, 1_000));
        assert_eq!(
            (sums.short_ns, sums.short_count, sums.short_ready_ns),
            (5_000, 5.0, 500.0)
        );
        assert_eq!(sums.longest_ns, 6_000);
        // (1 - p) T²
        assert_eq!(sums.variance, 0.8 * 25e6);
        account.take(&drawn(WAIT_SLEEP, 7_000, 7_000, 0));
        assert_eq!(account.sums().count(), 2);
    }
}
