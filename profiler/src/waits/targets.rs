//! Whom and which files threads wait for, or move data to and from, as numbers.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use indexmap::IndexSet;
use profiler_common::wait::WaitEvent;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::cause::Target;

/// Different ones that are told apart.
const MOST: usize = 1 << 14;

#[derive(Debug)]
pub struct Targets {
    known: IndexSet<Target, FxBuildHasher>,
    /// Paths of files by process and inode.
    paths: FxHashMap<(u32, u64), Option<String>>,
    /// What has no number of its own.
    pub forgotten: u64,
}

impl Default for Targets {
    fn default() -> Self {
        let mut known = IndexSet::default();
        known.insert(Target::default());
        Self {
            known,
            paths: FxHashMap::default(),
            forgotten: 0,
        }
    }
}

impl Targets {
    /// That of a descriptor that was looked up in a process; 0 is none.
    pub fn number(&mut self, pid: u32, event: &WaitEvent) -> u32 {
        let mut target = Target::of(event);
        if !target.path.is_empty() && Target::has_path(event) {
            let descriptor = &event.descriptor;
            let path = self
                .paths
                .entry((pid, descriptor.inode))
                .or_insert_with(|| path(pid, descriptor.number, descriptor.inode));
            if let Some(path) = path {
                target.path.clone_from(path);
            }
            if self.paths.len() > MOST {
                self.paths.clear();
            }
        }
        if let Some(index) = self.known.get_index_of(&target) {
            return index as u32;
        }
        if self.known.len() >= MOST {
            self.forgotten += 1;
            return 0;
        }
        self.known.insert_full(target).0 as u32
    }

    pub fn get(&self, number: u32) -> &Target {
        &self.known[number as usize]
    }
}

/// The path of a file that a process has open, if it still is the one behind this descriptor.
fn path(pid: u32, descriptor: u32, inode: u64) -> Option<String> {
    let link = PathBuf::from(format!("/proc/{pid}/fd/{descriptor}"));
    let path = fs::read_link(&link).ok()?;
    // `stat` of the link is of the file itself; it opens nothing.
    (fs::metadata(&link).ok()?.ino() == inode).then(|| path.to_string_lossy().into_owned())
}
