//! Processes whose first thread has ended, and that need not have ended with it: another thread may have exec'd, which takes
//! the first one's number when all others are gone, or the others just go on. Nobody tells of the end of a process as such.

use std::path::Path;

use super::{Recording, Scope};
use crate::process::stat::Stat;

impl Recording {
    /// The first thread of a process has ended.
    pub(super) fn apply_end_of_first(&mut self, time_ns: u64, pid: u32) {
        // Of the whole machine, whoever goes on under the number is met again.
        let is_named = matches!(&self.scope, Scope::Pids { pids, .. } if pids.contains(&pid));
        match is_named && !has_ended(pid, time_ns) {
            true => drop(self.lingering.insert(pid, time_ns)),
            false => self.apply_exit(time_ns, pid),
        }
    }

    /// Looks again. To be called when what is known has been taken in: an exec that another thread has done is an event of its
    /// own. Until then who seems to run may be on the last steps of his end.
    pub fn settle(&mut self) {
        if self.lingering.is_empty() {
            return;
        }
        let mut lingering = std::mem::take(&mut self.lingering);
        lingering.retain(|&pid, &mut time_ns| {
            let has_ended = has_ended(pid, time_ns);
            if has_ended {
                self.apply_exit(time_ns, pid);
            }
            !has_ended
        });
        self.lingering = lingering;
    }
}

fn has_ended(pid: u32, time_ns: u64) -> bool {
    let stat = Stat::read(Path::new("/proc"), pid);
    stat.is_none_or(|stat| !stat.runs_since_before(time_ns) && !stat.has_threads())
}
