//! Which process has a socket: the links of /proc/*/fd, read as far as it takes, once.

use std::{fs, path::Path, time::Instant};

use rustc_hash::FxHashMap;

use crate::process::ancestry;

/// Descriptors of all processes that are looked at.
const MOST_DESCRIPTORS: usize = 200_000;

#[derive(Debug)]
pub struct Owners {
    /// Sockets, with the first process that has them: of several it is the oldest, mostly.
    found: FxHashMap<u64, u32>,
    /// Not looked at yet, the last first.
    left: Vec<u32>,
    looked_at: usize,
}

impl Owners {
    pub fn new(proc: &Path) -> Self {
        let mut left = ancestry::pids(proc).unwrap_or_default();
        left.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            found: FxHashMap::default(),
            left,
            looked_at: 0,
        }
    }

    /// `None` if nobody has it, or it was not found by then.
    pub fn of(&mut self, proc: &Path, inode: u64, until: Instant) -> Option<u32> {
        loop {
            if let Some(&pid) = self.found.get(&inode) {
                return Some(pid);
            }
            if self.looked_at >= MOST_DESCRIPTORS || Instant::now() >= until {
                return None;
            }
            let pid = self.left.pop()?;
            self.look_at(proc, pid);
        }
    }

    fn look_at(&mut self, proc: &Path, pid: u32) {
        let Ok(descriptors) = fs::read_dir(proc.join(pid.to_string()).join("fd")) else {
            return;
        };
        for entry in descriptors.flatten() {
            self.looked_at += 1;
            if self.looked_at >= MOST_DESCRIPTORS {
                return;
            }
            let link = fs::read_link(entry.path()).ok();
            if let Some(inode) = link.as_deref().and_then(Path::to_str).and_then(socket) {
                self.found.entry(inode).or_insert(pid);
            }
        }
    }
}

/// `4711` of `socket:[4711]`.
pub fn socket(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}
