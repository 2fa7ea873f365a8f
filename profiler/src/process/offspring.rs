//! What goes on in the processes below the targets, which are not recorded: how many there are, and what they use.
//!
//! The kernel keeps the sum. When a process has ended and was waited for, its CPU time and that of its own children is
//! added to its parent's count. So what a tree has used is what its living processes have, and what they have of others;
//! it is read from /proc at the beginning and at the end, and costs nothing in between. What nobody waits for (orphans,
//! children of who ignores SIGCHLD) is lost when it ends: the sum is too small then, never too large.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustc_hash::FxHashMap;

use super::{
    ancestry,
    sideband::{SidebandEvent, SidebandKind},
    stat::Stat,
};

/// Beyond so many, those that have ended are forgotten: by then their parents have waited for nearly all of them.
const MOST_KNOWN: usize = 8192;

/// What the processes below the targets have used during a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// All that were there, children of children included.
    pub processes: u64,
    pub cpu: Duration,
    /// The targets themselves.
    pub own_cpu: Duration,
    /// The change of what those had resident that were there all the time.
    pub resident_change: i64,
}

/// The processes below the targets.
#[derive(Debug)]
pub struct Offspring {
    proc: PathBuf,
    /// As they were at the beginning.
    targets: FxHashMap<u32, Stat>,
    known: FxHashMap<u32, Known>,
    processes: u64,
}

#[derive(Debug, Default)]
struct Known {
    /// As it was at the beginning, if it was there.
    before: Option<Stat>,
    ended: bool,
}

impl Offspring {
    /// From now on. `proc` is /proc.
    pub fn of(proc: &Path, targets: impl IntoIterator<Item = u32>) -> Self {
        let stat = |pid| Some((pid, Stat::read(proc, pid)?));
        let targets: FxHashMap<u32, Stat> = targets.into_iter().filter_map(stat).collect();
        let pids: Vec<u32> = targets.keys().copied().collect();
        let below = ancestry::descendants(proc, &pids).unwrap_or_default();
        let known: FxHashMap<u32, Known> = below
            .into_iter()
            .filter_map(stat)
            .map(|(pid, stat)| {
                let before = Some(stat);
                (pid, Known { before, ended: false })
            })
            .collect();
        Self {
            proc: proc.to_owned(),
            processes: known.len() as u64,
            targets,
            known,
        }
    }

    /// The pids of those that are there.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.known.iter().filter(|(_, known)| !known.ended).map(|(&pid, _)| pid)
    }

    pub fn note(&mut self, event: &SidebandEvent) {
        match event.kind {
            SidebandKind::Fork { parent_pid, pid, .. } if parent_pid != pid => self.note_fork(parent_pid, pid),
            SidebandKind::Exit { pid, tid } if pid == tid => {
                if let Some(known) = self.known.get_mut(&pid) {
                    known.ended = true;
                }
                if self.known.len() > MOST_KNOWN {
                    self.known.retain(|_, known| !known.ended || known.before.is_some());
                }
            }
            _ => {}
        }
    }

    fn note_fork(&mut self, parent: u32, pid: u32) {
        let is_below = self.targets.contains_key(&parent) || self.known.contains_key(&parent);
        match self.known.get(&pid) {
            // It was listed before this event was read.
            Some(known) if !known.ended && is_below => {}
            // What it was before counts as gone.
            _ if is_below => {
                self.known.insert(pid, Known::default());
                self.processes += 1;
            }
            // Somebody else has the number now.
            Some(_) => {
                self.known.remove(&pid);
            }
            None => {}
        }
    }

    /// Until now. A target that is gone takes what it knew of its children with it.
    pub fn used(&self) -> Used {
        let read = |pid: u32| Stat::read(&self.proc, pid);
        let (mut own_cpu, mut of_ended) = (Duration::ZERO, Duration::ZERO);
        for (&pid, before) in &self.targets {
            if let Some(now) = read(pid) {
                own_cpu += now.cpu_time().saturating_sub(before.cpu_time());
                of_ended += now.childrens_cpu_time().saturating_sub(before.childrens_cpu_time());
            }
        }
        let (mut cpu, mut gone) = (Duration::ZERO, Duration::ZERO);
        let mut resident_change = 0i64;
        for (&pid, known) in &self.known {
            let before = known.before.unwrap_or_default();
            match read(pid) {
                Some(now) => {
                    cpu += now.cpu_time().saturating_sub(before.cpu_time());
                    of_ended += now.childrens_cpu_time().saturating_sub(before.childrens_cpu_time());
                    if known.before.is_some() && !known.ended {
                        let (now, before) = (now.resident_bytes(), before.resident_bytes());
                        resident_change = resident_change
                            .saturating_add_unsigned(now)
                            .saturating_sub_unsigned(before);
                    }
                }
                None => gone += before.cpu_time() + before.childrens_cpu_time(),
            }
        }
        Used {
            processes: self.processes,
            // Those that have ended were added to their parents' with all they ever used.
            cpu: cpu + of_ended.saturating_sub(gone),
            own_cpu,
            resident_change,
        }
    }

    /// How many targets there are.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Proc(tempfile::TempDir);

    impl Proc {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        /// With so many seconds of its own and of children it has waited for.
        fn put(&self, pid: u32, parent: u32, own: u64, children: u64) {
            let folder = self.0.path().join(pid.to_string());
            fs::create_dir_all(&folder).expect("a folder");
            let (own, children) = (own * 100, children * 100);
            let line = format!("{pid} (x) S {parent} 0 0 0 -1 0 0 0 0 0 {own} 0 {children} 0 20 0 1 0 0 0 {pid}");
            fs::write(folder.join("stat"), line).expect("a file");
        }

        fn reap(&self, pid: u32) {
            fs::remove_dir_all(self.0.path().join(pid.to_string())).expect("a folder");
        }
    }

    fn fork(offspring: &mut Offspring, parent_pid: u32, pid: u32) {
        offspring.note(&SidebandEvent {
            time_ns: 0,
            kind: SidebandKind::Fork {
                parent_pid,
                parent_tid: parent_pid,
                pid,
                tid: pid,
            },
        });
    }

    fn exit(offspring: &mut Offspring, pid: u32) {
        let kind = SidebandKind::Exit { pid, tid: pid };
        offspring.note(&SidebandEvent { time_ns: 0, kind });
    }

    fn used(offspring: &Offspring) -> (u64, u64, u64) {
        let used = offspring.used();
        (used.processes, used.cpu.as_secs(), used.own_cpu.as_secs())
    }

    #[test]
    fn what_children_and_theirs_use_is_counted_from_the_beginning_on() {
        let proc = Proc::new();
        proc.put(10, 1, 5, 7);
        proc.put(11, 10, 100, 0);
        proc.put(12, 11, 200, 0);
        proc.put(99, 1, 0, 0);
        let mut offspring = Offspring::of(proc.0.path(), [10]);
        assert_eq!(used(&offspring), (2, 0, 0));
        proc.put(10, 1, 6, 7);
        proc.put(11, 10, 103, 0);
        proc.put(12, 11, 204, 0);
        proc.put(13, 12, 2, 0);
        fork(&mut offspring, 12, 13);
        // Of somebody else.
        proc.put(98, 99, 50, 0);
        fork(&mut offspring, 99, 98);
        assert_eq!(used(&offspring), (3, 3 + 4 + 2, 1));
    }

    #[test]
    fn what_ended_is_counted_once_before_and_after_it_is_waited_for() {
        let proc = Proc::new();
        proc.put(10, 1, 0, 7);
        proc.put(11, 10, 100, 30);
        let mut offspring = Offspring::of(proc.0.path(), [10]);
        proc.put(11, 10, 103, 30);
        proc.put(12, 10, 4, 0);
        fork(&mut offspring, 10, 12);
        for pid in [11, 12] {
            exit(&mut offspring, pid);
        }
        assert_eq!(used(&offspring), (2, 7, 0));
        proc.reap(12);
        proc.put(10, 1, 0, 7 + 4);
        assert_eq!(used(&offspring), (2, 7, 0));
        proc.reap(11);
        proc.put(10, 1, 0, 7 + 4 + 133);
        assert_eq!(used(&offspring), (2, 7, 0));
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let proc = Proc::new();
        proc.put(10, 1, 0, 0);
        let mut offspring = Offspring::of(proc.0.path(), [10]);
        fork(&mut offspring, 10, 11);
        exit(&mut offspring, 11);
        proc.put(11, 1, 1000, 0);
        fork(&mut offspring, 1, 11);
        assert_eq!(used(&offspring), (1, 0, 0));
        assert_eq!(offspring.pids().count(), 0);
    }

    #[test]
    fn who_is_not_waited_for_does_not_make_others_less() {
        let proc = Proc::new();
        proc.put(10, 1, 0, 0);
        proc.put(11, 10, 1000, 0);
        proc.put(12, 10, 0, 0);
        let mut offspring = Offspring::of(proc.0.path(), [10]);
        proc.put(12, 10, 8, 0);
        exit(&mut offspring, 11);
        proc.reap(11);
        assert_eq!(used(&offspring), (2, 8, 0));
    }
}
